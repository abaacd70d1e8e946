"""Where one strategy becomes cheaper than another: by volume, by how often things change, by the price of what is paid for.

All are the same question. A cost is a line in what is asked for, start + slope x, and two lines cross at
x* = (start_a - start_b) / (slope_b - slope_a) where both differences have the same sign; else one is cheaper at any x.

- volume: start is what does not depend on requests, over the horizon; slope the cost of a request
- refresh rate: start is everything but refreshes, at a given volume; slope one refresh a month over the horizon
- price of an error: start is the cost per request, all in; slope the error rate
- price of a label, of compute, of storage: start is all the rest, over the horizon; slope what is bought: labels, or what compute or
  storage costs now, so that x is a multiple of their prices. These prices themselves, and all others, are taken as listed: the interval
  is over items, seeds and trials
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from bench.cost.assumptions import Assumptions
from bench.metric.registry import higher_is_better
from bench.result.arms import Arm
from bench.result.compare import ArmScores, paired_differences, score_group, seed_noise
from bench.result.paired import ALPHA
from bench.result.statistics import FloatArray

Row = dict[str, Any]
CROSSINGS = (
    "break_even_requests", "break_even_refreshes_per_month", "break_even_error_usd",
    "break_even_label_usd", "break_even_compute_times", "break_even_storage_times",
)  # fmt: skip
PAIR_COLUMNS = (
    "task", "model", "a", "b", "cheaper", "cheaper_share",
    *(f"{name}{end}" for name in CROSSINGS for end in ("", "_low", "_high", "_share", "_below", "_above")),
    "value_a", "value_b", "difference", "difference_low", "difference_high", "p_holm", "verdict", "error_rate_a", "error_rate_b",
)  # fmt: skip


@dataclass(frozen=True)
class CostLines:
    """What one strategy costs, in USD; each (1 + draws,), what was measured first and bootstrap draws of it after."""

    setup: FloatArray
    refresh: FloatArray
    """Once."""
    storage: FloatArray
    """A month."""
    request: FloatArray
    """One, as it is served by the assumptions."""
    error_rate: FloatArray
    """Wrong answers, and missed ones by their weight, as a share of requests."""
    labels: float
    """How many are paid for over the horizon."""

    def fixed(self, assumptions: Assumptions) -> FloatArray:
        """Whatever the volume is, over the horizon."""
        return self.setup + assumptions.refreshes * self.refresh + assumptions.horizon_months * self.storage

    def total(self, assumptions: Assumptions) -> FloatArray:
        """Over the horizon, errors at their price."""
        return self.fixed(assumptions) + assumptions.requests * (self.request + assumptions.error_usd * self.error_rate)


class Crossing(NamedTuple):
    """Where two lines of cost cross."""

    at: float | None
    """None where one of them is never the dearer one."""
    low: float | None
    high: float | None
    """95 % interval over the draws but those that cross the other way: where one of them is cheaper throughout, the lines cross at 0
    or nowhere. ``high`` is None where the interval has no end, both are None where there is no crossing."""
    share: float
    """Of the draws that agree about which one is cheaper at the low and at the high end."""
    below: int | None
    """The cheaper one at the low end: 0 for a, 1 for b; None where they cost the same throughout."""
    above: int | None
    """The cheaper one at the high end."""


def crossing(start_a: FloatArray, slope_a: FloatArray, start_b: FloatArray, slope_b: FloatArray) -> Crossing:
    """Where a and b cost the same, each (1 + draws,), what was measured first.

    Lines that start alike do not cross: the one that rises less is the cheaper one from there on.
    """
    start, slope = _less(start_a, start_b), _less(slope_a, slope_b)
    below = np.where(start == 0, slope, start)
    above = np.where(slope == 0, start, slope)
    agree = (below == below[0]) & (above == above[0])
    crosses = below * above < 0
    side = {1.0: 0, -1.0: 1, 0.0: None}
    sides = side[float(below[0])], side[float(above[0])]
    share = float(agree[1:].mean())
    if not crosses[0]:
        return Crossing(None, None, None, share, *sides)
    where = np.full(len(start), np.nan)
    where[agree] = (start_a - start_b)[agree] / (slope_b - slope_a)[agree]
    where[~crosses & (below == below[0])] = math.inf
    where[~crosses & (below == above[0])] = 0.0
    low, high = np.quantile(where[1:][~np.isnan(where[1:])], [0.025, 0.975], method="inverted_cdf") if share else (math.inf, math.inf)
    return Crossing(float(where[0]), _finite(low), _finite(high), share, *sides)


def _finite(bound: float) -> float | None:
    return float(bound) if math.isfinite(bound) else None


def _less(a: FloatArray, b: FloatArray) -> FloatArray:
    """1 where a is less, -1 where b is, 0 where they are equal up to rounding."""
    return np.where(np.isclose(a, b, rtol=1e-9, atol=0), 0.0, np.sign(b - a))


def pair_rows(
    group: Sequence[Arm], costs: Sequence[CostLines | None], listed: Sequence[CostLines | None], assumptions: Assumptions
) -> list[Row]:
    """One row with ``PAIR_COLUMNS`` for every two strategies of a task whose costs are known, oracles left out; ``listed``: their costs at
    prices without uncertainty, for the crossings in these.

    ``cheaper``: in total, at the volume and refresh rate of the assumptions, ``cheaper_share`` of the draws. For each of ``CROSSINGS``:
    where, its 95 % interval, the share of draws that agree, and the cheaper strategy below and above; the same one in both where there is
    no crossing. The price of an error is that at which the totals are equal; what the assumptions take an error to cost is not in it.
    ``difference``: of the primary metric, a minus b on the same items, with ``compare``'s interval; ``p_holm`` is adjusted over the pairs
    of the task; ``verdict`` (on a): better, worse, or not told apart.
    """
    scored = score_group(group)
    entrants = [i for i, (arm, cost) in enumerate(zip(group, costs, strict=True)) if cost is not None and not arm.is_oracle]
    pairs = list(combinations(entrants, 2))
    rows = []
    for (i, j), quality in zip(pairs, _qualities(group, scored, pairs), strict=True):
        a, b, listed_a, listed_b = costs[i], costs[j], listed[i], listed[j]
        assert a is not None
        assert b is not None
        assert listed_a is not None
        assert listed_b is not None
        names = (group[i].strategy, group[j].strategy)
        row = dict.fromkeys(PAIR_COLUMNS) | {"task": group[i].task, "model": group[i].model, "a": names[0], "b": names[1]} | quality
        row |= _cheaper(a.total(assumptions), b.total(assumptions), names)
        crossings = (*_crossings(a, b, assumptions), *price_crossings(listed_a, listed_b, assumptions))
        for column, found in zip(CROSSINGS, crossings, strict=True):
            row |= {column: found.at, f"{column}_low": found.low, f"{column}_high": found.high, f"{column}_share": found.share}
            row |= {f"{column}_below": None if found.below is None else names[found.below]}
            row |= {f"{column}_above": None if found.above is None else names[found.above]}
        rows.append(row | {"error_rate_a": float(a.error_rate[0]), "error_rate_b": float(b.error_rate[0])})
    return rows


def _crossings(a: CostLines, b: CostLines, assumptions: Assumptions) -> tuple[Crossing, Crossing, Crossing]:
    error = assumptions.error_usd
    volume = crossing(a.fixed(assumptions), a.request + error * a.error_rate, b.fixed(assumptions), b.request + error * b.error_rate)
    months = assumptions.horizon_months
    unchanging = [cost.total(assumptions) - assumptions.refreshes * cost.refresh for cost in (a, b)]
    refresh = crossing(unchanging[0], months * a.refresh, unchanging[1], months * b.refresh)
    free = assumptions.model_copy(update={"error_usd": 0.0})
    price = crossing(a.total(free) / free.requests, a.error_rate, b.total(free) / free.requests, b.error_rate)
    return volume, refresh, price


def price_crossings(a: CostLines, b: CostLines, assumptions: Assumptions) -> tuple[Crossing, Crossing, Crossing]:
    """In the price of a label (USD), in that of compute and in that of storage (multiples of what they are)."""
    totals = [cost.total(assumptions) for cost in (a, b)]
    labels = [np.full(len(total), cost.labels) for total, cost in zip(totals, (a, b), strict=True)]
    storage = [assumptions.horizon_months * cost.storage for cost in (a, b)]
    errors = [assumptions.requests * assumptions.error_usd * cost.error_rate for cost in (a, b)]
    paid = [assumptions.label_usd_per_example * n for n in labels]
    compute = []
    for total, *others in zip(totals, paid, storage, errors, strict=True):
        rest = total - sum(others)
        compute.append(np.where(np.abs(rest) <= 1e-9 * total, 0.0, rest))  # what is left of equal numbers
    found = []
    for slope, now in ((labels, paid), (compute, compute), (storage, storage)):
        found.append(crossing(totals[0] - now[0], slope[0], totals[1] - now[1], slope[1]))
    return found[0], found[1], found[2]


def _cheaper(total_a: FloatArray, total_b: FloatArray, names: tuple[str, str]) -> Row:
    less = _less(total_a, total_b)
    side = {1.0: names[0], -1.0: names[1], 0.0: None}[float(less[0])]
    return {"cheaper": side, "cheaper_share": float((less[1:] == less[0]).mean())}


def _qualities(group: Sequence[Arm], scored: Sequence[ArmScores | None], pairs: Sequence[tuple[int, int]]) -> list[Row]:
    noise = seed_noise(group, scored)
    sign = {True: 1.0, False: -1.0, None: 0.0}[higher_is_better(next((arm.primary_metric for arm in group if arm.primary_metric), None))]
    rows: dict[tuple[int, int], Row] = {}
    chosen = {}
    for i, j in pairs:
        a, b = scored[i], scored[j]
        rows[i, j] = {"value_a": a and float(a.values.mean()), "value_b": b and float(b.values.mean())}
        if a is not None and b is not None:
            chosen[i, j] = ((group[i], a), (group[j], b))
    for place, found in zip(chosen, paired_differences(list(chosen.values()), noise), strict=True):
        if found is not None:
            _, difference, p = found
            ahead = sign * difference.delta
            verdict = "not told apart" if p > ALPHA or ahead == 0 else "better" if ahead > 0 else "worse"
            rows[place] |= {"difference": difference.delta, "difference_low": difference.low, "difference_high": difference.high}
            rows[place] |= {"p_holm": p, "verdict": verdict}
    return list(rows.values())
