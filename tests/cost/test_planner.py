from __future__ import annotations

import math

import pytest

from bench.cost.devices import find_device
from bench.cost.planner import (
    EIGHT_BIT_STATE,
    GIB,
    OPTIMIZERS,
    PUBLISHED,
    Constants,
    Estimate,
    Optimizer,
    Pace,
    Speed,
    around,
    optimizer_bytes,
    seconds,
    steps,
    verdict,
    with_total,
)

PACE = Pace(flops_share=0.5, launch_seconds=0.01, bandwidth_share=0.25, error=2.0)
ROUND = Constants((1.5, 1.0, 2.0), memory_error=0.1, context_bytes=(10.0, 5.0, 20.0), training=PACE, answering=PACE, source="by hand")
SPEED = Speed(flops=200.0, bandwidth=80.0)
"""Reached at `PACE`: 100 operations and 20 bytes a second."""


def tensors(**parts: float) -> dict[str, float]:
    names = ("weights", "gradients", "optimizer", "activations", "logits", "cache", "workspace")
    return {name: parts.get(name, 0.0) for name in names}


# ---------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize(
    ("optimizer", "itemsize", "expected"),
    [
        ("adamw", 4, 8000), ("adamw", 2, 4000), ("adamw-foreach", 4, 8000), ("sgd", 4, 0), ("adafactor", 4, 0),
        ("adamw-8bit", 4, 2031.25), ("adamw-8bit", 2, 2031.25),
    ],
)  # fmt: skip
def test_the_optimizers_state(optimizer: Optimizer, itemsize: int, expected: float) -> None:
    """AdamW: two moments of each of 1,000 weights; in 8 bits two bytes and two scales of 4 bytes for 256 weights."""
    assert optimizer_bytes(optimizer, 1000, itemsize) == expected


def test_eight_bits_take_two_bytes_and_their_scales() -> None:
    assert EIGHT_BIT_STATE == 2 + 8 / 256
    assert set(OPTIMIZERS) == {"adamw", "adamw-foreach", "adamw-8bit", "sgd", "adafactor"}


def test_the_total_multiplies_what_passes_and_adds_the_context() -> None:
    found = with_total(tensors(weights=100, gradients=10, optimizer=20, activations=40, logits=30, cache=7, workspace=10), ROUND)
    assert found.total.value == 137 + 1.5 * 80 + 10
    assert found.total.low == pytest.approx((137 + 80 + 5) * 0.9)
    assert found.total.high == pytest.approx((137 + 160 + 20) * 1.1)
    assert found.workspace == 10 + 0.5 * 80
    assert found.context == 10
    parts = [v for k, v in vars(found).items() if k != "total"]
    assert sum(parts) == found.total.value


def test_nothing_takes_the_context_alone() -> None:
    found = with_total(tensors(), PUBLISHED)
    assert found.total == Estimate(*PUBLISHED.context_bytes)
    assert found.workspace == 0


@pytest.mark.parametrize(
    ("memory", "expected"), [(12, "fits"), (30, "fits"), (11.9, "may not fit"), (8, "may not fit"), (7.9, "does not fit")]
)
def test_whether_it_fits(memory: float, expected: str) -> None:
    assert verdict(Estimate(10, 8, 12), memory) == expected


def test_published_constants_hold_their_values() -> None:
    for value, low, high in (PUBLISHED.memory_factor, PUBLISHED.context_bytes):
        assert low <= value <= high
    for pace in (PUBLISHED.training, PUBLISHED.answering):
        assert 0 < pace.flops_share <= 1
        assert 0 < pace.bandwidth_share <= 1
        assert pace.launch_seconds > 0
        assert pace.error >= 1
    assert PUBLISHED.context_bytes[0] == GIB / 2


# ---------------------------------------------------------------------------------------------------- time


def test_a_pass_is_products_launches_and_traffic() -> None:
    assert seconds(1000, 0, 0, SPEED, PACE) == 10
    assert seconds(0, 300, 0, SPEED, PACE) == 3
    assert seconds(0, 0, 100, SPEED, PACE) == 5
    assert seconds(1000, 300, 100, SPEED, PACE) == 18
    assert seconds(0, 0, 0, SPEED, PACE) == 0


def test_a_bandwidth_without_bound_costs_nothing() -> None:
    assert seconds(100, 0, 1e30, Speed(200.0, math.inf), PACE) == 1


def test_a_devices_speed_by_type() -> None:
    device = find_device("L40S")
    assert Speed.of(device, sixteen_bit=True) == Speed(device.bfloat16_flops, device.bandwidth_bytes_per_second)
    assert Speed.of(device, sixteen_bit=False) == Speed(device.float32_flops, device.bandwidth_bytes_per_second)


@pytest.mark.parametrize(
    ("examples", "batch", "epochs", "expected"),
    [(200, 8, 1, 25), (201, 8, 1, 26), (200, 8, 3, 75), (201, 8, 2, 52), (1, 8, 1, 1), (100, 8, 0.5, 7), (200, 8, 0, 0)],
)
def test_steps(examples: int, batch: int, epochs: float, expected: int) -> None:
    """A batch that is not full is a step too."""
    assert steps(examples, batch, epochs) == expected


# ---------------------------------------------------------------------------------------------------- intervals


def test_intervals() -> None:
    assert around(10, 2) == Estimate(10, 5, 20)
    assert around(10, 1) == Estimate(10, 10, 10)
    assert Estimate(10, 5, 20).times(3) == Estimate(30, 15, 60)
    assert Estimate(10, 5, 20).plus(Estimate(1, 0, 3)) == Estimate(11, 5, 23)
