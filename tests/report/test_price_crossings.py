"""Prices at which two strategies cost the same, against crossings by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cost.cost_samples import ASSUMPTIONS, PRICES

from bench.cost.break_even import CostLines, Crossing
from bench.cost.break_even import price_crossings as crossings_of
from bench.report.model import Measure, PriceCrossing
from bench.report.prices import COLUMNS, Thing, price_crossings, things_with_a_price

CPU, L4 = PRICES.devices
HOSTED, DISK = PRICES.models[0], PRICES.storage
assert DISK is not None


def lines(
    labels: float = 0, compute: float = 0, storage: float = 0, request: float = 0, refresh: float = 0, errors: float = 0
) -> CostLines:
    """A strategy's costs, USD, the same in all draws: `compute` to set up, `refresh` once, `storage` a month, `request` each."""
    return CostLines(*(np.full(3, x) for x in (labels + compute, refresh, storage, request, errors)), labels)


def crossings(a: CostLines, b: CostLines, **assumed: Any) -> tuple[Crossing, Crossing, Crossing]:
    """1,000 requests and 5 refreshes over 10 months; a label costs 1 USD."""
    return crossings_of(a, b, ASSUMPTIONS.model_copy(update=assumed))


def test_each_price_by_hand() -> None:
    # a: 20 labels, requests for 1 USD in all. b: 100 USD to train, again at each refresh, 2 USD of requests, 3 USD a month for 10 months.
    a = lines(labels=20, request=0.001)
    b = lines(compute=100, refresh=100, request=0.002, storage=3)
    label, compute, storage = crossings(a, b)
    assert (label.at, label.below, label.above) == (pytest.approx((602 + 30 - 1) / 20), 0, 1)
    # a pays 20 and 1 of compute, b 30 and 602 of compute: a costs less at any price
    assert (compute.at, compute.below, compute.above) == (None, 0, 0)
    _, compute, _ = crossings(lines(labels=50, request=0.001), b)
    assert (compute.at, compute.below, compute.above) == (pytest.approx((50 - 30) / 601), 1, 0)
    # b without storage costs 602, more than a
    assert (storage.at, storage.below, storage.above) == (None, 0, 0)
    _, _, storage = crossings(lines(labels=700), b)
    assert (storage.at, storage.below, storage.above) == (pytest.approx((700 - 602) / 30), 1, 0)
    # Ten errors at 5 USD are a part of the rest.
    label, _, _ = crossings(lines(labels=20, request=0.001, errors=0.01), b, error_usd=5.0)
    assert label.at == pytest.approx((602 + 30 - 1 - 50) / 20)


def test_equal_ones_cost_the_same_at_any_price() -> None:
    a = lines(labels=20.1, refresh=0.3, request=0.001, errors=0.05)
    assert {(c.at, c.below, c.above) for c in crossings(a, a)} == {(None, None, None)}
    only = crossings(lines(labels=20.1), lines(labels=30.1))  # neither buys compute or storage
    assert [(c.at, c.below, c.above) for c in only] == [(None, 0, 0)] * 3


def test_free_labels_can_have_a_price_that_turns_it_round() -> None:
    a = CostLines(*(np.zeros(3) for _ in range(5)), 20)
    label, _, _ = crossings(a, lines(request=0.005), label_usd_per_example=0.0)
    assert (label.at, label.below, label.above) == (0.25, 0, 1)


def test_draws_give_the_interval() -> None:
    draws = np.linspace(0.5, 1.5, 2001)
    b = CostLines(100 * np.concatenate([[1.0], draws]), *(np.zeros(2002) for _ in range(4)), 0)
    a = CostLines(np.full(2002, 20.0), *(np.zeros(2002) for _ in range(4)), 20)
    label, _, _ = crossings(a, b)
    assert (label.at, label.low, label.high) == (5.0, pytest.approx(0.525 * 5, abs=0.01), pytest.approx(1.475 * 5, abs=0.01))


def test_a_row_gives_prices_in_their_units() -> None:
    nothing: dict[str, Any] = {f"{column}{end}": None for column in COLUMNS.values() for end in ("", "_low", "_high", "_below", "_above")}
    row = nothing | {
        "break_even_label_usd": 0.5, "break_even_label_usd_low": 0.25, "break_even_label_usd_below": "a", "break_even_label_usd_above": "b",
        "break_even_compute_times": 2.0, "break_even_compute_times_low": 1.0, "break_even_compute_times_high": 4.0,
    }  # fmt: skip
    label, error, compute, storage = price_crossings(row, things_with_a_price((CPU, DISK), ASSUMPTIONS))
    assert label == PriceCrossing("a label", "usd", 1, Measure(0.5, 0.25, None), "a", "b")
    assert error.at is None
    assert compute == PriceCrossing("a core-hour of cpu", "usd", 3600, Measure(7200, 3600, 14400), None, None)
    assert storage.at is None
    assert price_crossings(row, things_with_a_price((CPU, L4), ASSUMPTIONS))[2].at == Measure(2.0, 1.0, 4.0)


def test_what_has_a_price() -> None:
    def names(*prices: Any, **assumed: float) -> list[Thing]:
        return things_with_a_price(prices, ASSUMPTIONS.model_copy(update=assumed))

    assert names() == [Thing("labels", "a label", "usd", 1), Thing("errors", "an error", "usd", 0)]
    assert names(L4)[2:] == [Thing("compute", "a device-hour of L4", "usd", 7200)]
    assert names(CPU, L4, DISK)[2:] == [Thing("compute", "compute", "times", 1), Thing("storage", "a GiB stored for a month", "usd", 2**30)]
    assert names(HOSTED)[2:] == [Thing("compute", "compute", "times", 1)]  # input and output have a price each
    free = CPU.model_copy(update={"price": 0.0})
    assert [thing.name for thing in names(free, label_usd_per_example=0)] == ["labels", "errors"]


def test_the_docs_name_all_that_has_a_price() -> None:
    page = (Path(__file__).parents[2] / "docs" / "report.md").read_text()
    section = " ".join(page.split("**Where the choice flips**")[1].split("**Learning curves**")[0].split())
    assert "of a label, of an error, of the device's time and of storage" in section
    assert len(things_with_a_price((CPU, DISK), ASSUMPTIONS)) == 4
