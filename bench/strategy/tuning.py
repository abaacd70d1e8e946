"""The training loop: moves the weights that `bench.strategy.adapters` marked, and keeps the best checkpoint."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from bench.cost.flops import shape_of, training_flops
from bench.errors import BenchError
from bench.model.language_model import LanguageModel
from bench.strategy.adapters import after_step, restore
from bench.strategy.spec import TuningChoice

Pair = tuple[list[int], int]
"""Token ids and how many of them are prompt; a classifier's completion is the index of its label."""


@dataclass(frozen=True)
class Tuned:
    """What training left behind; the model itself holds the best checkpoint."""

    validation_score: float
    epochs: float
    """Epochs at the checkpoint that was kept."""
    flops: float
    weights: dict[str, torch.Tensor]
    """The trained tensors of the checkpoint that was kept, on the CPU."""


class BestCheckpoint:
    """Keeps the trained tensors of the best validation score so far, and says when to stop."""

    def __init__(
        self, model: LanguageModel, evaluate: Callable[[], float], patience: int, on_check: Callable[[float, float], None] | None = None
    ) -> None:
        """`on_check` is called with the epochs and the validation score at each check, the model as it is there."""
        self._model, self._evaluate, self._patience, self._waited, self._on_check = model, evaluate, patience, 0, on_check
        self.best: Tuned | None = None

    def check(self, epochs: float) -> bool:
        """Score the model as it is; True where training should stop: `patience` checks without a better one, or none can be better."""
        self._model.network.eval()
        score = self._evaluate()
        if self._on_check:
            self._on_check(epochs, score)
        if self.best is None or score > self.best.validation_score:
            moving = {n: p for n, p in self._model.network.named_parameters() if p.requires_grad}
            self.best = Tuned(score, epochs, 0.0, {n: p.detach().to("cpu", copy=True) for n, p in moving.items()})
            self._waited = 0
        else:
            self._waited += 1
        return self._waited >= self._patience or self.best.validation_score >= 1.0

    def restored(self, flops: float) -> Tuned:
        """The best checkpoint, put back into the model."""
        assert self.best is not None
        self._model.network.eval()
        restore(self._model, self.best.weights)
        return Tuned(self.best.validation_score, self.best.epochs, flops, self.best.weights)


def length_grouped(lengths: Sequence[int], size: int, rng: random.Random) -> list[list[int]]:
    """Batches of indices of about equal length, in random order; ties between equal lengths fall at random."""
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], rng.random()))
    batches = [order[i : i + size] for i in range(0, len(order), size)]
    rng.shuffle(batches)
    return batches


def learning_rate_factor(choice: TuningChoice, step: int, total: int) -> float:
    """What the learning rate is multiplied by at `step` (from 0) of `total`: linear warm-up, then the schedule down to zero."""
    warmup = max(1, round(choice.warmup_share * total))
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    return {"linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done)), "constant": 1.0}[choice.schedule]


def balanced_weights(labels: Sequence[str]) -> list[float]:
    """One weight per example, the inverse of its label's share over the number of labels; their mean is 1."""
    counts = Counter(labels)
    return [len(labels) / (len(counts) * counts[label]) for label in labels]


def tune(
    model: LanguageModel,
    choice: TuningChoice,
    pairs: Sequence[Pair],
    evaluate: Callable[[], float],
    seed: int,
    weights: Sequence[float] | None = None,
    on_step: Callable[[int, int], None] | None = None,
    on_check: Callable[[float, float], None] | None = None,
) -> Tuned:
    """Train the wrapped `model` on `pairs`, completion tokens only, and keep the best checkpoint; `weights`: one per pair.

    `on_step`: called with the steps taken and those planned; `on_check`: with the epochs and the score after each evaluation.

    AdamW with warm-up and schedule, gradient clipping, length-grouped batches. `evaluate` gives the validation score (higher is
    better, 1 at most) `choice.evaluations` times, evenly spread; training stops after `choice.patience` evaluations without a
    better one, or when none can be better; without epochs the model is scored once as it is. Raises `BenchError` for an example
    that exceeds the window, nothing to train on or a loss that is not finite.
    """
    if not pairs:
        raise BenchError("tuning: found no training example; expected at least one")
    for ids, n in pairs:
        if model.positions((ids, n)) > model.window:
            raise BenchError(f"a training example of {len(ids)} tokens exceeds the window of {model.source.name}, {model.window}")
    network = model.network
    moving = [p for p in network.parameters() if p.requires_grad]
    for parameter in moving:
        parameter.data = parameter.data.float()  # what moves in small steps needs float32, whatever the frozen base is kept in
    optimizer = torch.optim.AdamW(moving, lr=choice.learning_rate, weight_decay=choice.weight_decay, fused=True)
    rng = random.Random(f"tune/{seed}")
    per_epoch = math.ceil(len(pairs) / choice.batch_size)
    total = per_epoch * choice.epochs
    due = {round(total * (i + 1) / choice.evaluations) for i in range(choice.evaluations)}
    shape = shape_of(network)
    checkpoint = BestCheckpoint(model, evaluate, choice.patience, on_check)
    if choice.epochs == 0:
        checkpoint.check(0.0)
    lengths = [len(ids) for ids, _ in pairs]
    batches = itertools.chain.from_iterable(length_grouped(lengths, choice.batch_size, rng) for _ in range(choice.epochs))
    flops = 0.0
    with gradient_checkpointing(model, choice.gradient_checkpointing):
        for step, batch in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = choice.learning_rate * learning_rate_factor(choice, step, total)
            network.train()
            optimizer.zero_grad(set_to_none=True)
            _backward(model, [pairs[i] for i in batch], [weights[i] for i in batch] if weights else None, choice.accumulate)
            norm = torch.nn.utils.clip_grad_norm_(moving, choice.max_gradient_norm)
            if not math.isfinite(float(norm)):
                raise BenchError(f"training diverged at step {step + 1} (learning rate {choice.learning_rate}): the gradient is not finite")
            optimizer.step()
            after_step(model, step, total)
            flops += sum(training_flops(shape, len(ids), logits_tokens=len(ids) - n) for ids, n in (pairs[i] for i in batch))
            if on_step:
                on_step(step + 1, total)
            if step + 1 in due and checkpoint.check((step + 1) / per_epoch):
                break
    return checkpoint.restored(flops)


def _backward(model: LanguageModel, batch: Sequence[Pair], weights: Sequence[float] | None, parts: int) -> None:
    """Gradients of the batch's mean loss, computed in `parts` one after the other: the same but for rounding."""
    each = weights or [1.0] * len(batch)
    mass = [w * (len(ids) - n) for (ids, n), w in zip(batch, each, strict=True)]
    size = math.ceil(len(batch) / parts)
    for i in range(0, len(batch), size):
        share = sum(mass[i : i + size]) / sum(mass)
        with model.autocast():
            loss = model.loss(batch[i : i + size], weights[i : i + size] if weights else None)
        (loss * share).backward()


@contextmanager
def gradient_checkpointing(model: LanguageModel, wanted: bool) -> Iterator[None]:
    """Compute activations again in the backward pass inside this context, where `wanted`; `BenchError` for a model that cannot."""
    if not wanted:
        yield
        return
    try:
        model.network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    except (ValueError, AttributeError) as error:
        raise BenchError(f"tuning.gradient_checkpointing: {str(error).splitlines()[0]}") from error
    try:
        yield
    finally:
        model.network.gradient_checkpointing_disable()
