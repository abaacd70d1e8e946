"""The tuning choice: which weights move, and the training loop that moves them."""

from __future__ import annotations

import itertools
import math
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional

from bench.cost.flops import shape_of, training_flops
from bench.errors import BenchError
from bench.model.language_model import LanguageModel
from bench.strategy.spec import TuningChoice

IGNORED = -100


@dataclass(frozen=True)
class Tuned:
    """What training left behind; the model itself holds the best checkpoint."""

    validation_score: float
    epochs: float
    """Epochs at the checkpoint that was kept."""
    flops: float
    weights: dict[str, torch.Tensor]
    """The trained tensors of the checkpoint that was kept, on the CPU."""


def wrap(model: LanguageModel, choice: TuningChoice, seed: int) -> None:
    """Mark the weights that will move, adding an adapter where the method has one; `seed` draws its initial values."""
    torch.manual_seed(seed)
    if choice.method == "full":
        model.network.requires_grad_(True)
    elif choice.method == "lora":
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=choice.r, lora_alpha=choice.alpha, lora_dropout=choice.dropout, target_modules=choice.targets, task_type="CAUSAL_LM"
        )
        try:
            model.network = get_peft_model(model.network, config)
        except ValueError as error:
            raise BenchError(f"tuning.targets: {str(error).splitlines()[0]}") from error


def parameter_counts(model: LanguageModel, trained: bool) -> tuple[int, int]:
    """(all parameters, those that move); tied weights count once."""
    parameters = list(model.network.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad) if trained else 0


def restore(model: LanguageModel, weights: dict[str, torch.Tensor]) -> None:
    """Put trained tensors back into a model that `wrap` prepared."""
    own = dict(model.network.named_parameters())
    with torch.no_grad():
        for name, value in weights.items():
            own[name].copy_(value)


def artifact_bytes(model: LanguageModel) -> int:
    """The size of the weights that have to be kept to serve the tuned model, as they are written to disk.

    Their configuration (about a kilobyte) is left out: it names the base model's path, and a record must not depend on paths.
    """
    with tempfile.TemporaryDirectory() as folder:
        model.network.save_pretrained(folder)
        return sum(f.stat().st_size for f in Path(folder).rglob("*.safetensors"))


def length_grouped(lengths: Sequence[int], size: int, rng: random.Random) -> list[list[int]]:
    """Batches of indices of about equal length, in random order; ties between equal lengths fall at random."""
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], rng.random()))
    batches = [order[i : i + size] for i in range(0, len(order), size)]
    rng.shuffle(batches)
    return batches


def _loss(model: LanguageModel, pairs: Sequence[tuple[list[int], int]]) -> torch.Tensor:
    """Mean cross-entropy over the completion tokens of a batch, in nats.

    Rows are padded on the right and carry no mask: under causal attention no real token sees the padding. Logits are computed
    only at positions from which some row's completion is predicted.
    """
    width = max(len(ids) for ids, _ in pairs)
    first = min(n for _, n in pairs) - 1
    ids = torch.tensor([row + [model.pad_id] * (width - len(row)) for row, _ in pairs], device=model.device)
    labels = torch.tensor([[IGNORED] * n + row[n:] + [IGNORED] * (width - len(row)) for row, n in pairs], device=model.device)
    keep = torch.arange(first, width - 1, device=model.device)
    logits = model.network(input_ids=ids, use_cache=False, logits_to_keep=keep).logits
    targets = labels[:, first + 1 :]
    return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED)


def tune(
    model: LanguageModel,
    choice: TuningChoice,
    pairs: Sequence[tuple[list[int], int]],
    evaluate: Callable[[], float],
    seed: int,
    on_step: Callable[[int, int], None] | None = None,
) -> Tuned:
    """Train the wrapped `model` on (token ids, prompt length) pairs, completion tokens only, and keep the best checkpoint.

    AdamW with linear warm-up and cosine decay to zero, gradient clipping, length-grouped batches. `evaluate` gives the
    validation score (higher is better, 1 at most) `choice.evaluations` times, evenly spread; training stops after
    `choice.patience` evaluations without a better one, or when none can be better. Raises `BenchError` for an example that
    exceeds the window or a loss that is not finite.
    """
    for ids, _ in pairs:
        if len(ids) > model.window:
            raise BenchError(f"a training example of {len(ids)} tokens exceeds the window of {model.source.name}, {model.window}")
    network = model.network
    moving = {n: p for n, p in network.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(moving.values(), lr=choice.learning_rate, weight_decay=choice.weight_decay, fused=True)
    rng = random.Random(f"tune/{seed}")
    per_epoch = math.ceil(len(pairs) / choice.batch_size)
    total = per_epoch * choice.epochs
    warmup = max(1, round(choice.warmup_share * total))
    due = {round(total * (i + 1) / choice.evaluations) for i in range(choice.evaluations)}
    shape = shape_of(network)
    best: Tuned | None = None
    lengths = [len(ids) for ids, _ in pairs]
    batches = itertools.chain.from_iterable(length_grouped(lengths, choice.batch_size, rng) for _ in range(choice.epochs))
    flops, waited = 0.0, 0
    for step, batch in enumerate(batches):
        rate = (step + 1) / warmup if step < warmup else 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
        for group in optimizer.param_groups:
            group["lr"] = choice.learning_rate * rate
        network.train()
        loss = _loss(model, [pairs[i] for i in batch])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(list(moving.values()), choice.max_gradient_norm)
        if not math.isfinite(float(norm)):
            raise BenchError(f"training diverged at step {step + 1} (learning rate {choice.learning_rate}): the gradient is not finite")
        optimizer.step()
        flops += sum(training_flops(shape, len(ids), logits_tokens=len(ids) - n) for ids, n in (pairs[i] for i in batch))
        if on_step:
            on_step(step + 1, total)
        if step + 1 in due:
            network.eval()
            score = evaluate()
            if best is None or score > best.validation_score:
                weights = {n: p.detach().to("cpu", copy=True) for n, p in moving.items()}
                best, waited = Tuned(score, (step + 1) / per_epoch, 0.0, weights), 0
            else:
                waited += 1
            if waited >= choice.patience or best.validation_score >= 1.0:
                break
    network.eval()
    assert best is not None
    restore(model, best.weights)
    return Tuned(best.validation_score, best.epochs, flops, best.weights)


