"""At which price of a thing two strategies cost the same: a label, an error, a device's time, storage (`bench.cost.break_even`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from bench.cost.assumptions import Assumptions
from bench.cost.prices import DevicePrice, StoragePrice, TokenPrice
from bench.report.model import Measure, PriceCrossing

Row = Mapping[str, Any]
COLUMNS = {
    "labels": "break_even_label_usd", "errors": "break_even_error_usd", "compute": "break_even_compute_times",
    "storage": "break_even_storage_times",
}  # fmt: skip
"""Thing -> where a pair's row has it; the last two are multiples of the present price."""


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


def price_crossings(pair: Row, things: Sequence[Thing]) -> tuple[PriceCrossing, ...]:
    """For each thing where the two strategies of a row of `TotalCosts.pairs` cost the same, with its 95 % interval."""
    found = []
    for thing in things:
        column = COLUMNS[thing.name]
        unit = thing.now if thing.name in ("compute", "storage") else 1.0
        at, low, high = (None if value is None else unit * value for value in (pair[column], pair[f"{column}_low"], pair[f"{column}_high"]))
        measure = None if at is None else Measure(at, low, high)
        below, above = pair[f"{column}_below"], pair[f"{column}_above"]
        found.append(PriceCrossing(thing.words, thing.unit, thing.now, measure, below, above))
    return tuple(found)
