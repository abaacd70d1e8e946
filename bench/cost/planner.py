"""What a strategy will take on a device before it is run: memory, time and money, with intervals and what they rest on.

The counts come from `bench.strategy.trace`, which runs the step on tensors without data; this file turns them into bytes and seconds.

Memory of training (Rajbhandari et al. 2020, ZeRO, section 3; Korthikanti et al. 2022): weights, gradients, optimizer state, what the
forward pass keeps, logits and temporaries at the peak of the step, times what the allocator holds beyond that, plus the device's context.

Time of a training step: operations over what the device reaches of its peak, a launch for every kernel (small models and small batches
are bound by these), and the optimizer's traffic, which reads and writes every trained weight with its state at each step and makes full
fine-tuning slower than its operations alone say. Of an answer: the prompt as a pass, then for each token the same and one reading of all
weights and of the keys and values (Pope et al. 2022, section 2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from bench.cost.devices import Device

Optimizer = Literal["adamw", "adamw-foreach", "adamw-8bit", "sgd", "adafactor"]
GIB = 2**30


class OptimizerCost(NamedTuple):
    """Per trained weight of `itemsize` bytes."""

    state: float
    """State, in sizes of the weight; 8-bit state in bytes."""
    traffic: float
    """Read and written in a step, gradient clipping included, in sizes of the weight."""
    temporaries: float
    """Alive at once during the step, in sizes of the weight."""


OPTIMIZERS: dict[Optimizer, OptimizerCost] = {
    # Fused: reads weight, gradient and both moments, writes weight and moments; clipping reads the gradient, reads and writes it.
    "adamw": OptimizerCost(2, 10, 0),
    # torch's default on a GPU: every part of the formula is a pass of its own over a list of tensors, one of them into a copy.
    "adamw-foreach": OptimizerCost(2, 25, 1),
    "adamw-8bit": OptimizerCost(0, 7, 0),
    "sgd": OptimizerCost(0, 6, 0),
    "adafactor": OptimizerCost(0, 10, 1),
}
EIGHT_BIT_STATE = 2 * (1 + 4 / 256)
"""Bytes per weight: two moments of one byte, and a scale for each block of 256 (Dettmers et al. 2022, 8-bit optimizers)."""


class Estimate(NamedTuple):
    """A prediction with the interval that it is made for."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> Estimate:
        """The same of `factor` times as much."""
        return Estimate(*(x * factor for x in self))

    def plus(self, other: Estimate) -> Estimate:
        """The sum; errors of parts of one prediction go together, so bounds add."""
        return Estimate(*(a + b for a, b in zip(self, other, strict=True)))


class Pace(NamedTuple):
    """How fast a device does one kind of work."""

    flops_share: float
    """Of the device's peak operations per second that matrix products reach."""
    launch_seconds: float
    """For each operation beside them."""
    bandwidth_share: float
    """Of the device's bandwidth."""
    error: float
    """Factor: 1.5 is from two thirds to one and a half."""


class Constants(NamedTuple):
    """What no formula gives: fitted to measurements (`bench.cost.calibration`), with the relative error of predictions made with them."""

    memory_factor: tuple[float, float, float]
    """What is held over what the tensors of a step take at their peak: value, low, high. Blocks are rounded, and what comes and goes leaves
    gaps; weights and the optimizer's state lie close together and are counted as they are."""
    memory_error: float
    """Relative error of the whole, on top: 0.1 is 10 % either way."""
    context_bytes: tuple[float, float, float]
    """Of the CUDA context and libraries: value, low, high. On a CPU what the process takes before the model."""
    training: Pace
    answering: Pace
    source: str


PUBLISHED = Constants(
    memory_factor=(1.2, 1.0, 1.35),
    memory_error=0.0,
    context_bytes=(0.5 * GIB, 0.3 * GIB, 0.6 * GIB),
    training=Pace(flops_share=0.46, launch_seconds=16e-6, bandwidth_share=0.7, error=2.0),
    answering=Pace(flops_share=0.46, launch_seconds=16e-6, bandwidth_share=0.7, error=2.0),
    source="fitted to published trainings of a 3 B model on one L40S (docs/planner.md); other devices and sizes within a factor of 2, and "
    "answering as fast as training, which nothing was held against",
)


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak of a phase, by part."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    cache: float
    workspace: float
    """Temporaries, and what the allocator holds beside tensors."""
    context: float
    total: Estimate


def with_total(tensors: dict[str, float], constants: Constants) -> Memory:
    """The parts with what the allocator and the context add; `tensors` has all keys of `Memory` but context and total."""
    lasting = tensors["weights"] + tensors["gradients"] + tensors["optimizer"] + tensors["cache"]
    passing = tensors["activations"] + tensors["logits"] + tensors["workspace"]
    factor = constants.memory_factor[0]
    parts = tensors | {"workspace": tensors["workspace"] + passing * (factor - 1)}
    value, low, high = (lasting + passing * f + c for f, c in zip(constants.memory_factor, constants.context_bytes, strict=True))
    total = Estimate(value, low * (1 - constants.memory_error), high * (1 + constants.memory_error))
    return Memory(**parts, context=constants.context_bytes[0], total=total)


def optimizer_bytes(optimizer: Optimizer, trainable: int, itemsize: int) -> float:
    """The optimizer's state."""
    return trainable * (EIGHT_BIT_STATE if optimizer == "adamw-8bit" else OPTIMIZERS[optimizer].state * itemsize)


def verdict(total: Estimate, memory_bytes: float) -> Literal["fits", "may not fit", "does not fit"]:
    """Whether a peak fits into a device's memory; the middle one where the interval holds it."""
    if total.high <= memory_bytes:
        return "fits"
    return "does not fit" if total.low > memory_bytes else "may not fit"


@dataclass(frozen=True)
class Speed:
    """A device as it computes in one type."""

    flops: float
    """Peak operations per second."""
    bandwidth: float
    """Bytes per second."""

    @staticmethod
    def of(device: Device, sixteen_bit: bool) -> Speed:
        """The device's peaks."""
        return Speed(device.bfloat16_flops if sixteen_bit else device.float32_flops, device.bandwidth_bytes_per_second)


def seconds(operations: float, n_operations: float, moved_bytes: float, speed: Speed, pace: Pace) -> float:
    """Of a pass: products, launches and traffic, one after the other."""
    return (
        operations / (speed.flops * pace.flops_share)
        + n_operations * pace.launch_seconds
        + moved_bytes / (speed.bandwidth * pace.bandwidth_share)
    )


def around(value: float, factor: float) -> Estimate:
    """The interval of a time whose error is a factor."""
    return Estimate(value, value / factor, value * factor)


def steps(examples: int, batch: int, epochs: float) -> int:
    """Optimizer steps of a training."""
    return math.ceil(math.ceil(examples / batch) * epochs)
