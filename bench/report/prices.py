"""At which price of a thing two strategies cost the same: a label, an error, a device's time, storage.

The total over the horizon is linear in each price (`bench.cost.total`): what is bought of a thing times its price, and the rest. What is
bought follows from the columns that `bench cost` gives for every strategy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from bench.cost.assumptions import Assumptions
from bench.cost.prices import DevicePrice, StoragePrice, TokenPrice
from bench.report.model import Measure, PriceCrossing

Row = Mapping[str, Any]


class Thing(NamedTuple):
    """What has a price."""

    name: str
    words: str
    unit: Literal["usd", "times"]
    now: float


def things_with_a_price(prices: Sequence[DevicePrice | TokenPrice | StoragePrice], assumptions: Assumptions) -> list[Thing]:
    """All that strategies pay for. Compute at several prices is one thing, bought at multiples of them; what is free now is left out,
    but for labels and errors: how much of it is used cannot be told from the costs."""
    found = [Thing("labels", "a label", "usd", assumptions.label_usd_per_example)]
    found.append(Thing("errors", "an error", "usd", assumptions.error_usd))
    compute = [price for price in prices if not isinstance(price, StoragePrice)]
    if len(compute) == 1 and isinstance(compute[0], DevicePrice):
        device = compute[0]
        found.append(Thing("compute", f"a {device.unit.replace('_', '-')} of {device.name}", "usd", device.price))
    elif compute:
        found.append(Thing("compute", "compute", "times", 1.0))
    found += [Thing("storage", "a GiB stored for a month", "usd", price.price) for price in prices if isinstance(price, StoragePrice)]
    return [thing for thing in found if thing.now or thing.name in ("labels", "errors")]


def price_crossings(a: Row, b: Row, pair: Row, things: Sequence[Thing], assumptions: Assumptions) -> tuple[PriceCrossing, ...]:
    """For each thing where a and b cost the same. ``a`` and ``b`` are rows of `TotalCosts.strategies`, ``pair`` is theirs of ``pairs``.

    The price of an error has the interval of the bootstrap; of the others the records' columns give none.
    """
    bought_a, bought_b = (_bought(row, things, assumptions) for row in (a, b))
    found = []
    for thing in things:
        rest_a, rest_b = (math.fsum(bought[t.name] * t.now for t in things if t != thing) for bought in (bought_a, bought_b))
        at, below, above = crossing(rest_a, bought_a[thing.name], rest_b, bought_b[thing.name])
        measure = None if at is None else Measure(at)
        if measure and thing.name == "errors":
            measure = Measure(measure.value, pair["break_even_error_usd_low"], pair["break_even_error_usd_high"])
        names = {1: a["strategy"], -1: b["strategy"], 0: None}
        found.append(PriceCrossing(thing.words, thing.unit, thing.now, measure, names[below], names[above]))
    return tuple(found)


def _bought(row: Row, things: Sequence[Thing], assumptions: Assumptions) -> dict[str, float]:
    """Thing -> how much of it is paid for over the horizon, in what its price is of."""
    relabelled = assumptions.refreshes * assumptions.relabel_share
    refreshed = row["refresh_usd"] - assumptions.relabel_share * row["data_usd"]
    if abs(refreshed) <= 1e-9 * row["refresh_usd"]:  # what is left of two equal numbers
        refreshed = 0.0
    compute = row["search_usd"] + row["training_usd"] + row["index_usd"] + assumptions.refreshes * refreshed
    compute += assumptions.requests * row["usd_per_1000_requests"] / 1000
    usd = {"compute": compute, "storage": assumptions.horizon_months * row["storage_usd_per_month"]}
    amounts = {"labels": row["n_labels"] * (1 + relabelled), "errors": assumptions.requests * row["error_rate"]}
    return {thing.name: usd[thing.name] / thing.now if thing.name in usd else amounts[thing.name] for thing in things}


def crossing(start_a: float, slope_a: float, start_b: float, slope_b: float) -> tuple[float | None, int, int]:
    """(price, below, above): where two lines of cost cross above 0, None where they do not; 1 where a costs less there, -1 where b does,
    0 where they cost the same. Lines that start alike do not cross: the one that rises less costs less at any price above 0."""
    start, slope = _less(start_a, start_b), _less(slope_a, slope_b)
    below, above = start or slope, slope or start
    if start * slope < 0:
        return (start_a - start_b) / (slope_b - slope_a), below, above
    return None, below, above


def _less(a: float, b: float) -> int:
    """1 where a is less, -1 where b is, 0 where they are equal up to rounding."""
    return 0 if math.isclose(a, b, rel_tol=1e-9) else 1 if a < b else -1
