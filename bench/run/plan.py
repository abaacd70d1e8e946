"""A plan of a strategy on a device: traced without weights, then turned into memory, time and money."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from torch import nn

from bench.cost.devices import Device
from bench.cost.flops import forward_flops, training_flops
from bench.cost.planner import (
    OPTIMIZERS,
    PUBLISHED,
    Constants,
    Estimate,
    Memory,
    Optimizer,
    Speed,
    around,
    optimizer_bytes,
    seconds,
    steps,
    verdict,
    with_total,
)
from bench.errors import BenchError
from bench.strategy.spec import Strategy
from bench.strategy.trace import Outline, Traced, outlined, trace_prompt, trace_step

Dtype = Literal["bfloat16", "float16", "float32", "nf4"]
NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)
"""Per weight: the value, an 8-bit scale for each block of 64, and a 32-bit one for 256 of these (Dettmers et al. 2023, section 3)."""
EMBEDDER_PARAMS, EMBEDDER_OPERATIONS = 10_700_000, 150
"""all-MiniLM-L6-v2, which embeds a question: parameters in matrices, and operations of a pass."""
EMBEDDING_BYTES = 4 * 384
FEATURE_ROWS = 32
"""Examples that a frozen model reads at a time for a classifier on its states."""


@dataclass(frozen=True)
class Workload:
    """How much is trained on and answered. Tokens count the task's own text; shots and passages come on top."""

    batch: int | None = None
    """Examples per optimizer step; None: the strategy's own."""
    seq_len: int = 512
    """Tokens of an example: instruction, input and answer."""
    answer_tokens: int = 64
    """Of these the answer's: predicted in training, generated in answering."""
    examples: int = 200
    epochs: float | None = None
    trials: int = 1
    """Trainings of the search on validation, the one that is kept included."""
    serve_batch: int = 1
    prefix: int = 0
    """Tokens that all prompts begin with, whose keys and values are kept and not computed again."""
    shot_tokens: int = 128
    passage_tokens: int = 128
    corpus_chunks: int = 1000
    labels: int = 2
    """That a classification head tells apart."""


@dataclass(frozen=True)
class Numbers:
    """In what numbers weights are kept and products computed."""

    dtype: Dtype = "bfloat16"
    trained: Literal["float32", "bfloat16"] = "float32"
    """What moves is kept in."""
    optimizer: Optimizer = "adamw"
    mixed: bool = True
    """Products in bfloat16 whatever weights are kept in (autocast), as training on a GPU does here."""


@dataclass(frozen=True)
class Plan:
    """The prediction for one strategy; None: it has no such part, or `notes` says why it is not known."""

    strategy: str
    method: str
    trainable_params: int
    total_params: int
    artifact_bytes: float
    training_memory: Memory | None
    training_fits: str | None
    training_flops: float | None
    training_seconds: Estimate | None
    """All trials."""
    training_usd: Estimate | None
    serving_memory: Memory | None
    serving_fits: str | None
    latency_seconds: Estimate | None
    """Of a batch of `serve_batch` requests, from prompt to last token."""
    seconds_per_1000_requests: Estimate | None
    usd_per_1000_requests: Estimate | None
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Target:
    """Where it will run."""

    memory_bytes: float
    device: Device | None = None
    """None: only its memory is known, and nothing is said about time."""
    usd_per_hour: float | None = None
    constants: Constants = PUBLISHED
    speed: Speed | None = None
    """Default: the device's own."""


def plan(name: str, strategy: Strategy, model: str, work: Workload, numbers: Numbers, target: Target) -> Plan:
    """What `strategy` will take with the base `model` (as of `bench.model.outline.outline`).

    Raises `BenchError` where the model's configuration cannot be read, or the strategy does not fit it.
    """
    if strategy.prompt.constant:
        return no_plan(name, "asks no model")
    if strategy.tuning.method == "hosted":
        return no_plan(name, "is tuned and served by a provider: bench run --dry-run says what that costs")
    return Planner(name, strategy, model, work, numbers, target).plan()


def no_plan(name: str, reason: str) -> Plan:
    """A strategy that there is nothing to predict of."""
    return Plan(name, "none", 0, 0, 0, None, None, None, None, None, None, None, None, None, None, (reason,))


class Planner:
    """One strategy on one target, step by step."""

    def __init__(self, name: str, strategy: Strategy, model: str, work: Workload, numbers: Numbers, target: Target) -> None:
        self.name, self.strategy, self.model, self.work, self.target = name, strategy, model, work, target
        tuning = strategy.tuning
        self.numbers = numbers
        self.four_bits = numbers.dtype == "nf4" or tuning.quantize == "nf4"
        self.dtype = torch.bfloat16 if numbers.dtype == "nf4" else getattr(torch, numbers.dtype)
        self.trained = getattr(torch, numbers.trained)
        self.autocast = torch.bfloat16 if numbers.mixed and tuning.precision != "float32" else None
        self.sixteen_bit = self.autocast is not None or self.dtype != torch.float32
        self.notes: list[str] = []
        device = target.device
        self.speed = target.speed or (Speed.of(device, self.sixteen_bit) if device else None)
        self.answer_tokens = work.answer_tokens + (strategy.prompt.reasoning_tokens if strategy.prompt.chain_of_thought else 0)
        read = strategy.retrieval.top_k if strategy.retrieval.search != "none" else 0
        self.shots = strategy.prompt.shots * work.shot_tokens
        self.prompt_tokens = work.seq_len - work.answer_tokens + self.shots + read * work.passage_tokens
        if self.prompt_tokens < 1:
            raise BenchError(f"--answer-tokens: found {work.answer_tokens}; expected less than --seq-len, {work.seq_len}")

    def plan(self) -> Plan:
        """All of it."""
        tuning = self.strategy.tuning
        trains = tuning.method not in ("none", "features")
        found = self.outlined() if trains else self._base
        self._fit(found.model.window)
        kept = found.kept_bytes if trains else 0
        trainable = found.trainable_params
        if tuning.method == "features":
            trainable = (found.shape.width + 1) * self.work.labels
            kept = 4 * trainable
        if self.strategy.retrieval.search in ("dense", "hybrid"):
            kept += self.work.corpus_chunks * EMBEDDING_BYTES
        memory, flops, each = self._training(found) if trains else (None, None, None)
        if tuning.method == "features":
            flops, each = self._features()
        train = around(each * self.work.trials, self.target.constants.training.error) if each is not None else None
        serving, latency, per_request = self._serving()
        dollars = self.target.usd_per_hour
        room = self.target.memory_bytes
        return Plan(
            strategy=self.name,
            method=str(tuning.peft.get("peft_type", tuning.method)).lower() if tuning.method == "peft" else tuning.method,
            trainable_params=trainable,
            total_params=found.total_params,
            artifact_bytes=kept,
            training_memory=memory,
            training_fits=verdict(memory.total, room) if memory else None,
            training_flops=None if flops is None else flops * self.work.trials,
            training_seconds=train,
            training_usd=train.times(dollars / 3600) if train and dollars is not None else None,
            serving_memory=serving,
            serving_fits=verdict(serving.total, room),
            latency_seconds=latency,
            seconds_per_1000_requests=per_request.times(1000) if per_request else None,
            usd_per_1000_requests=per_request.times(1000 * dollars / 3600) if per_request and dollars is not None else None,
            notes=tuple(self.notes),
        )

    def _fit(self, window: int) -> None:
        """Cut prompts to what the model can read, as a run does by leaving out passages and shots."""
        tokens = self.prompt_tokens + self.answer_tokens
        if tokens > window:
            self.notes.append(f"{tokens} tokens exceed the window of {window}: passages or shots are left out")
            self.prompt_tokens = max(1, window - self.answer_tokens)

    def outlined(self) -> Outline:
        """The base with what the strategy trains around it. A trace of a training step uses it up."""
        return outlined(self.model, self.strategy.tuning, self.dtype, self.trained, self.work.labels)

    def _weights(self, found: Outline) -> float:
        """Bytes of the weights; of a 4-bit base its linear layers at their packed size."""
        if not self.four_bits:
            return found.weights_bytes
        packed = found.shape.matmul_params - found.shape.head_params
        return found.weights_bytes - packed * (self.dtype.itemsize - NF4_BITS / 8)

    # ------------------------------------------------------------------------------------------ training

    def _training(self, found: Outline) -> tuple[Memory, float, float | None]:
        """Memory, operations and seconds of one training."""
        tuning, work = self.strategy.tuning, self.work
        batch = work.batch or tuning.batch_size
        rows, passes, texts = batch, 0, work.examples
        targets = self.answer_tokens
        read = tuning.with_passages or self.strategy.retrieval.search == "none"
        tokens = self.prompt_tokens + targets if read else min(self.prompt_tokens, work.seq_len - work.answer_tokens + self.shots) + targets
        if "documents" in tuning.train_on:
            only = "examples" not in tuning.train_on
            tokens = work.passage_tokens if only else max(tokens, work.passage_tokens)
            targets = max(work.passage_tokens - 1, 0 if only else targets)
            texts = work.corpus_chunks + (0 if only else work.examples)
        if tuning.objective == "dpo":
            rows, passes = 2 * batch, 1
        elif tuning.objective in ("grpo", "rloo"):
            rows, passes = batch * tuning.samples, 1 + (tuning.objective == "rloo")
            self.notes.append("time of sampling is that of the training passes once more: a guess")
        tensors, step = self.step(found, rows, tokens, targets, passes > 0)
        memory = with_total(tensors, self.target.constants)
        n = steps(texts, batch, tuning.epochs if work.epochs is None else work.epochs)
        whole = training_flops(found.shape, tokens, logits_tokens=targets)
        forward = step.flops * forward_flops(found.shape, tokens, logits_tokens=targets) / whole if passes else 0.0
        flops = step.flops + passes * forward + (step.flops if tuning.objective in ("grpo", "rloo") else 0.0)
        if self.speed is None:
            return memory, n * flops, None
        moved = OPTIMIZERS[self.numbers.optimizer].traffic * found.trainable_params * self.trained.itemsize
        if self.autocast and self.trained == torch.float32:
            moved += 6 * found.trainable_params  # read in float32, written in 16 bits for the products
        launched = step.n_operations * flops / step.flops
        return memory, n * flops, n * seconds(flops, launched, moved, self.speed, self.target.constants.training)

    def step(self, found: Outline, rows: int, tokens: int, targets: int, reference: bool = False) -> tuple[dict[str, float], Traced]:
        """What tensors take at the peak of a training step, by part, and its trace; `reference`: a frozen copy is asked beside."""
        tuning, itemsize, optimizer = self.strategy.tuning, self.trained.itemsize, self.numbers.optimizer
        step = trace_step(
            found, rows, tokens, targets, autocast=self.autocast, checkpointing=tuning.gradient_checkpointing, parts=tuning.accumulate
        )
        trained_bytes = float(found.trainable_params * itemsize)
        backward = {
            "gradients": float(step.gradients_bytes), "activations": float(step.activations_bytes), "logits": float(step.logits_bytes),
            "workspace": step.workspace_bytes + self._unpacked(found),
        }  # fmt: skip
        temporaries = OPTIMIZERS[optimizer].temporaries * trained_bytes
        updating = {"gradients": trained_bytes, "activations": 0.0, "logits": 0.0, "workspace": temporaries}
        weights = self._weights(found)
        if reference and not hasattr(found.model.network, "peft_config"):
            weights *= 2  # an adapter can be turned off, but trained weights need a copy of what they were
        state = optimizer_bytes(optimizer, found.trainable_params, itemsize)
        largest = max(backward, updating, key=lambda parts: sum(parts.values()))
        return {"weights": weights, "optimizer": state, "cache": 0.0, **largest}, step

    def _unpacked(self, found: Outline) -> float:
        """4-bit weights are unpacked a matrix at a time."""
        if not self.four_bits:
            return 0.0
        head = found.model.network.get_output_embeddings()
        matrices = [m for m in found.model.network.modules() if isinstance(m, nn.Linear) or type(m).__name__ == "Conv1D"]
        return float(self.dtype.itemsize * max((m.weight.numel() for m in matrices if m is not head), default=0))

    def _features(self) -> tuple[float, float | None]:
        """Operations and seconds of reading every example once; the classifier itself is negligible."""
        rows = min(FEATURE_ROWS, self.work.examples)
        read = trace_prompt(self._base, rows, self.prompt_tokens, autocast=self.autocast)
        batches = self.work.examples / rows
        if self.speed is None:
            return batches * read.flops, None
        return batches * read.flops, batches * seconds(read.flops, read.n_operations, 0, self.speed, self.target.constants.answering)

    @cached_property
    def _base(self) -> Outline:
        """For answers: in the type that weights are kept in when nothing trains. Prompts leave it as it is."""
        return outlined(self.model, self.strategy.tuning, self.dtype, self.dtype, self.work.labels)

    # ------------------------------------------------------------------------------------------ serving

    def _serving(self) -> tuple[Memory, Estimate | None, Estimate | None]:
        """Memory at the peak of a batch, its latency, and the seconds of the device that one request takes."""
        work, rows = self.work, self.work.serve_batch
        base = self._base
        new = max(1, self.prompt_tokens - work.prefix)
        read = trace_prompt(base, rows, new, autocast=self.autocast)
        shape, kind = base.shape, base.model.source.kind
        generates = kind != "encoder" and self.strategy.tuning.method != "features"
        positions = self.prompt_tokens + self.answer_tokens + base.model.virtual_tokens
        per_position = 2 * shape.layers * shape.kv_width * self.dtype.itemsize
        cache = float(rows * positions * per_position) if generates else 0.0
        cached_by_pass = rows * new * per_position if generates else 0
        weights = self._weights(base)
        tensors = {
            "weights": weights, "gradients": 0.0, "optimizer": 0.0, "cache": cache, "logits": float(read.logits_bytes),
            "activations": max(0.0, float(read.activations_bytes - cached_by_pass)),
            "workspace": read.workspace_bytes + self._unpacked(base),
        }  # fmt: skip
        memory = with_total(tensors, self.target.constants)
        if self.speed is None:
            return memory, None, None
        pace = self.target.constants.answering
        latency = seconds(read.flops, read.n_operations, 0, self.speed, pace)
        if generates:
            per_token = rows * (2 * (shape.matmul_params + shape.adapter_params) + 4 * shape.layers * shape.attention_width * positions)
            latency += (self.answer_tokens - 1) * seconds(per_token, read.n_operations, weights + cache, self.speed, pace)
        if self.strategy.embeds:
            embed = 2 * EMBEDDER_PARAMS * (work.seq_len - work.answer_tokens)
            latency += seconds(rows * embed, EMBEDDER_OPERATIONS, 0, self.speed, pace)
        if self.strategy.retrieval.rerank:
            self.notes.append("the reranker's time is left out")
        spread = around(latency, pace.error)
        return memory, spread, spread.times(1 / rows)
