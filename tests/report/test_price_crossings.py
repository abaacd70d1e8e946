"""Prices at which two strategies cost the same, against crossings by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cost.cost_samples import ASSUMPTIONS, PRICES

from bench.report.model import Measure, PriceCrossing
from bench.report.prices import Thing, crossing, price_crossings, things_with_a_price

CPU, L4 = PRICES.devices
HOSTED, DISK = PRICES.models[0], PRICES.storage
assert DISK is not None


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((10, 1), (4, 3), (3.0, -1, 1)),  # 10 + p = 4 + 3 p; a costs less beyond
        ((4, 3), (10, 1), (3.0, 1, -1)),
        ((4, 1), (10, 3), (None, 1, 1)),  # they would cross below 0
        ((4, 1), (10, 1), (None, 1, 1)),
        ((10, 0), (4, 0), (None, -1, -1)),
        ((4, 3), (4, 1), (None, -1, -1)),  # they cross at 0: above it the same one costs less
        ((4, 1), (4, 1), (None, 0, 0)),
        ((0.3, 1), (0.1 + 0.2, 2), (None, 1, 1)),  # equal but for rounding
        ((0, 0), (0, 0), (None, 0, 0)),
    ],
)
def test_crossings_by_hand(a: tuple[float, float], b: tuple[float, float], expected: tuple[float | None, int, int]) -> None:
    assert crossing(*a, *b) == expected


def row(strategy: str, **costs: float) -> dict[str, Any]:
    nothing = ("n_labels", "data_usd", "search_usd", "training_usd", "index_usd", "refresh_usd", "storage_usd_per_month", "error_rate")
    return {"strategy": strategy, **dict.fromkeys(nothing, 0.0), "usd_per_1000_requests": 0.0, **costs}


def crossings(a: dict[str, Any], b: dict[str, Any], *prices: Any, **assumed: Any) -> dict[str, PriceCrossing]:
    """By what is bought; 1,000 requests and 5 refreshes over 10 months."""
    assumptions = ASSUMPTIONS.model_copy(update=assumed)
    things = things_with_a_price(prices or (CPU, DISK), assumptions)
    bounds = {"break_even_error_usd_low": 0.5, "break_even_error_usd_high": None}
    return {thing.name: c for thing, c in zip(things, price_crossings(a, b, bounds, things, assumptions), strict=True)}


def test_each_price_by_hand() -> None:
    # a: 20 labels at 1 USD, requests for 1 USD in all. b: 100 USD to train, again at each refresh (at 3600 an hour), 2 USD of requests,
    # 3 bytes for 10 months at 1 USD, 10 errors fewer.
    a = row("a", n_labels=20, data_usd=20, usd_per_1000_requests=1, error_rate=0.05)
    b = row("b", training_usd=100, refresh_usd=100, usd_per_1000_requests=2, storage_usd_per_month=3, error_rate=0.04)
    found = crossings(a, b)
    assert found["labels"] == PriceCrossing("a label", "usd", 1, Measure(pytest.approx((602 + 30 - 1) / 20)), "a", "b")
    # a costs 21 and 50 errors, b 632 and 40 errors
    assert found["errors"] == PriceCrossing("an error", "usd", 0, Measure(pytest.approx((632 - 21) / 10), 0.5, None), "a", "b")
    # a uses 1 / 3600 hours and pays 20 besides; b uses 602 / 3600 hours and pays 30 besides: a costs less at any price
    assert found["compute"] == PriceCrossing("a core-hour of cpu", "usd", 3600, None, "a", "a")
    cheap = crossings(a | {"n_labels": 50, "data_usd": 50}, b)["compute"]
    assert cheap == PriceCrossing("a core-hour of cpu", "usd", 3600, Measure(pytest.approx(3600 * (50 - 30) / 601)), "b", "a")
    # of a byte and month 1 USD, so of a GiB 2^30; b without it costs 602, and more than a
    assert found["storage"] == PriceCrossing("a GiB stored for a month", "usd", 2**30, None, "a", "a")


def test_labels_that_a_refresh_makes_worthless_are_bought_again() -> None:
    # 5 refreshes at a half: 3.5 times the labels; training costs the rest of a refresh.
    a = row("a", n_labels=20, data_usd=20, training_usd=4, refresh_usd=0.5 * 20 + 4)
    b = row("b", training_usd=10, refresh_usd=10)
    found = crossings(a, b, relabel_share=0.5)
    assert found["labels"].at == Measure(pytest.approx((60 - 24) / 70))
    only = row("a", n_labels=20, data_usd=20.1, refresh_usd=0.3 * 20.1)  # what is left of the refresh is rounding, and no compute
    assert crossings(only, row("b"), relabel_share=0.3)["compute"].cheaper_above == "b"
    assert crossings(only, row("b", n_labels=20, data_usd=20.1, refresh_usd=0.3 * 20.1), relabel_share=0.3)["compute"].at is None


def test_equal_ones_cost_the_same_at_any_price() -> None:
    a = row("a", n_labels=20, data_usd=20, usd_per_1000_requests=1, error_rate=0.05)
    assert {(c.at, c.cheaper_below, c.cheaper_above) for c in crossings(a, a | {"strategy": "b"}).values()} == {(None, None, None)}


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


def test_compute_at_several_prices_is_bought_at_multiples_of_them() -> None:
    a, b = row("a", n_labels=20, data_usd=20), row("b", usd_per_1000_requests=5)
    assert crossings(a, b, CPU, L4)["compute"] == PriceCrossing("compute", "times", 1, Measure(4.0), "b", "a")


def test_free_labels_can_have_a_price_that_turns_it_round() -> None:
    found = crossings(row("a", n_labels=20), row("b", usd_per_1000_requests=5), label_usd_per_example=0.0)["labels"]
    assert found == PriceCrossing("a label", "usd", 0, Measure(0.25), "a", "b")
