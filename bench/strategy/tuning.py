"""The training loop: moves the weights that `bench.strategy.adapters` marked, and keeps the best checkpoint."""

from __future__ import annotations

import itertools
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from statistics import median

import torch

from bench.cost.flops import shape_of, training_flops
from bench.cost.memory import SavedForBackward, gradients_bytes, optimizer_bytes, weights_bytes
from bench.cost.meter import Part
from bench.errors import BenchError
from bench.model.language_model import LanguageModel
from bench.result.schema import Training
from bench.strategy.adapters import after_step, restore
from bench.strategy.spec import TuningChoice

Pair = tuple[list[int], int]
"""Token ids and how many of them are prompt; a classifier's completion is the index of its label."""

WINDOW = 10
"""Steps that a rate is taken over; so many at the beginning of a training are left out of all rates."""


@dataclass
class Steps:
    """The steps of a training, or of several."""

    n_steps: int = 0
    n_tokens: int = 0
    n_padded_tokens: int = 0
    n_target_tokens: int = 0
    longest_batch: tuple[int, int] = (0, 0)
    rates: list[float] = field(default_factory=list)
    """Tokens (without padding) per second, one for each window of steps."""

    def add(self, rows: int, width: int, tokens: int, targets: int) -> bool:
        """Count a batch of `rows` rows of `width` tokens; whether none before it had as many tokens, padding included."""
        self.n_tokens += tokens
        self.n_padded_tokens += rows * width
        self.n_target_tokens += targets
        if rows * width <= math.prod(self.longest_batch):
            return False
        self.longest_batch = (rows, width)
        return True

    def __add__(self, other: Steps) -> Steps:
        return Steps(
            self.n_steps + other.n_steps,
            self.n_tokens + other.n_tokens,
            self.n_padded_tokens + other.n_padded_tokens,
            self.n_target_tokens + other.n_target_tokens,
            max(self.longest_batch, other.longest_batch, key=math.prod),
            self.rates + other.rates,
        )

    @property
    def reading(self) -> Training | None:
        """As records have it; None where no step was taken."""
        if not self.n_steps:
            return None
        return Training(
            n_steps=self.n_steps,
            n_tokens=self.n_tokens,
            n_padded_tokens=self.n_padded_tokens,
            n_target_tokens=self.n_target_tokens,
            longest_batch=self.longest_batch,
            tokens_per_second=median(self.rates) if self.rates else None,
        )


class StepClock:
    """Times the steps of one training by windows, and keeps the rates in `steps`."""

    def __init__(self, steps: Steps) -> None:
        self._steps, self._from_tokens, self._began = steps, 0, 0.0

    def tick(self) -> None:
        """A step's gradients are there, and the device has just been waited for."""
        steps, now = self._steps, time.perf_counter()
        steps.n_steps += 1
        if steps.n_steps % WINDOW:
            return
        if steps.n_steps > WINDOW:
            steps.rates.append((steps.n_tokens - self._from_tokens) / (now - self._began))
        self._began, self._from_tokens = now, steps.n_tokens

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The body is no part of a step."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._began += time.perf_counter() - began


@dataclass(frozen=True)
class Tuned:
    """What training left behind; the model itself holds the best checkpoint."""

    validation_score: float
    epochs: float
    """Epochs at the checkpoint that was kept."""
    flops: float
    weights: dict[str, torch.Tensor]
    """The trained tensors of the checkpoint that was kept, on the CPU."""
    steps: Steps = field(default_factory=Steps)
    held: Mapping[Part, int] = field(default_factory=dict)
    """Bytes of what training held in memory."""


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

    def restored(self, flops: float, steps: Steps, held: Mapping[Part, int]) -> Tuned:
        """The best checkpoint, put back into the model, with what the whole training took."""
        assert self.best is not None
        self._model.network.eval()
        restore(self._model, self.best.weights)
        return replace(self.best, flops=flops, steps=steps, held=held)


def held_bytes(model: LanguageModel, optimizer: torch.optim.Optimizer, saved: SavedForBackward) -> dict[Part, int]:
    """What training holds in memory, by part; call this after its last step, while the gradients are there."""
    network = model.network
    return {
        "weights": weights_bytes(network),
        "gradients": gradients_bytes(network),
        "optimizer": optimizer_bytes(optimizer),
        "activations": saved.bytes,
    }


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
    steps, saved = Steps(), SavedForBackward(network)
    clock = StepClock(steps)

    def watched(part: Sequence[Pair]) -> AbstractContextManager[None]:
        # Only a pass that is heavier than all before it is looked into: a few in a whole training.
        return saved.counting() if _count(model, part, steps) else nullcontext()

    with gradient_checkpointing(model, choice.gradient_checkpointing):
        for step, batch in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = choice.learning_rate * learning_rate_factor(choice, step, total)
            network.train()
            optimizer.zero_grad(set_to_none=True)
            rows = [pairs[i] for i in batch]
            _backward(model, rows, [weights[i] for i in batch] if weights else None, choice.accumulate, watched)
            norm = torch.nn.utils.clip_grad_norm_(moving, choice.max_gradient_norm)
            if not math.isfinite(float(norm)):
                raise BenchError(f"training diverged at step {step + 1} (learning rate {choice.learning_rate}): the gradient is not finite")
            clock.tick()  # reading the norm has waited for the device
            optimizer.step()
            after_step(model, step, total)
            flops += sum(training_flops(shape, len(ids), logits_tokens=len(ids) - n) for ids, n in rows)
            if on_step:
                on_step(step + 1, total)
            if step + 1 in due:
                with clock.paused():
                    stop = checkpoint.check((step + 1) / per_epoch)
                if stop:
                    break
    return checkpoint.restored(flops, steps, held_bytes(model, optimizer, saved))


def _count(model: LanguageModel, part: Sequence[Pair], steps: Steps) -> bool:
    tokens = [model.positions(pair) for pair in part]
    width = max(tokens)
    if model.network.config.is_encoder_decoder:
        width = max(n for _, n in part) + max(len(ids) - n for ids, n in part)  # the two sides are padded apart
    return steps.add(len(part), width, sum(tokens), sum(len(ids) - n for ids, n in part))


def _backward(
    model: LanguageModel,
    batch: Sequence[Pair],
    weights: Sequence[float] | None,
    parts: int,
    watched: Callable[[Sequence[Pair]], AbstractContextManager[None]] = lambda part: nullcontext(),
) -> None:
    """Gradients of the batch's mean loss, computed in `parts` one after the other: the same but for rounding.

    `watched`: the context that the forward pass of a part runs in.
    """
    each = weights or [1.0] * len(batch)
    mass = [w * (len(ids) - n) for (ids, n), w in zip(batch, each, strict=True)]
    size = math.ceil(len(batch) / parts)
    for i in range(0, len(batch), size):
        share = sum(mass[i : i + size]) / sum(mass)
        with watched(batch[i : i + size]), model.autocast():
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
