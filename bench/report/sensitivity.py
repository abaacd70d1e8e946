"""What would change the answer: other weights of the criteria, one criterion less, another volume, other prices. From a decision and
its evidence alone.

Utility is linear in the weights, so every threshold here is solved for and not searched.
"""

from __future__ import annotations

import math

from bench.report.compare import COSTS, ahead, gap
from bench.report.decide import Decision
from bench.report.explain import listed
from bench.report.model import Measure, Pair, PriceCrossing, TaskEvidence
from bench.report.numbers import in_words, shown

EQUAL = 1e-9
"""Utilities closer than this are equal: they are sums of a few numbers in [0, 1]."""


def weightings(decision: Decision, n: int = 10_000, seed: int = 0) -> dict[str, float]:
    """Strategy of the front -> share of all weightings under which it has the highest utility; empty where nothing is recommended.

    `n` weightings are drawn from the flat Dirichlet distribution, under which every way to split the weight over the criteria is as
    likely as any other. Strategies that are equal under a weighting share it.
    """
    import numpy as np

    if not decision.front:
        return {}
    criteria = list(decision.weights)
    scores = np.array([[decision.utilities[name][c] for c in criteria] for name in decision.front])
    drawn = np.random.default_rng(seed).dirichlet(np.ones(len(criteria)), size=n)
    totals = drawn @ scores.T
    wins = totals >= totals.max(axis=1, keepdims=True) - EQUAL
    shares = (wins / wins.sum(axis=1, keepdims=True)).mean(axis=0)
    return {name: float(share) for name, share in zip(decision.front, shares, strict=True)}


def leave_one_out(decision: Decision) -> dict[str, str]:
    """Criterion -> the strategy of the front that wins without it, the others' weights in proportion.

    Equal weights where all others are 0; of equal utilities the recommended strategy. Empty where there are fewer than two criteria.
    """
    if not decision.front or len(decision.weights) < 2:
        return {}
    return {criterion: _winner(decision, {c: w for c, w in _at(decision, criterion, 0.0).items() if c != criterion})
            for criterion in decision.weights}  # fmt: skip


def flips(task: TaskEvidence, decision: Decision) -> list[str]:
    """In words: at which weight of each criterion another strategy wins, and at which volume and which prices another one costs less.

    A weight is varied with the others kept in proportion. Volumes are requests over the horizon of the costs' assumptions. Volumes are
    those of all eligible strategies, prices those of the front and the runner-up.
    """
    if decision.recommended is None:
        return []
    lines = [line for criterion in decision.weights for line in _weight_flips(decision, criterion)]
    if not lines and len(decision.front) > 1:
        lines = ["No weight of a single criterion changes the choice."]
    return lines + _volume_flips(task, decision) + _price_flips(task, decision)


def weight_range(decision: Decision, criterion: str) -> tuple[tuple[float, str] | None, tuple[float, str] | None]:
    """(below, above): the nearest weights on both sides of the present one beyond which another strategy wins, and which.

    None where there is no such weight in [0, 1]. With the others in proportion, utility at the weight t is t x + (1 - t) R, where x is
    the strategy's score in the criterion and R its weighted mean over the others; two such lines cross at most once.
    """
    own = decision.recommended
    assert own is not None
    rest = _at(decision, criterion, 0.0)
    below: tuple[float, str] | None = None
    above: tuple[float, str] | None = None
    for other in decision.front:
        at_0 = _utility(decision, other, rest) - _utility(decision, own, rest)
        at_1 = decision.utilities[other][criterion] - decision.utilities[own][criterion]
        if at_0 > EQUAL:
            crossing = at_0 / (at_0 - at_1)
            if below is None or crossing > below[0]:
                below = crossing, other
        if at_1 > EQUAL:
            crossing = at_0 / (at_0 - at_1)
            if above is None or crossing < above[0]:
                above = crossing, other
    return below, above


def _at(decision: Decision, criterion: str, weight: float) -> dict[str, float]:
    """The weights with that of one criterion set, the others in proportion; shared equally where they are all 0."""
    others = {c: w for c, w in decision.weights.items() if c != criterion}
    total = math.fsum(others.values())
    rest = {c: (1 - weight) * (w / total if total else 1 / len(others)) for c, w in others.items()}
    return {c: weight if c == criterion else rest[c] for c in decision.weights}


def _utility(decision: Decision, strategy: str, weights: dict[str, float]) -> float:
    return math.fsum(weight * decision.utilities[strategy][c] for c, weight in weights.items())


def _winner(decision: Decision, weights: dict[str, float]) -> str:
    """The front is in the order of the decision, so that the recommended one wins ties."""
    best = max(_utility(decision, name, weights) for name in decision.front)
    return next(name for name in decision.front if _utility(decision, name, weights) >= best - EQUAL)


def _weight_flips(decision: Decision, criterion: str) -> list[str]:
    if len(decision.weights) < 2:
        return []
    below, above = weight_range(decision, criterion)
    now = f"(now {decision.weights[criterion]:.2f})"
    lines = [f"With a weight of {criterion} below {below[0]:.2f} {now}, {below[1]} wins."] if below else []
    return lines + ([f"With a weight of {criterion} above {above[0]:.2f} {now}, {above[1]} wins."] if above else [])


# ------------------------------------------------------------------------------------- volume


def _volume_flips(task: TaskEvidence, decision: Decision) -> list[str]:
    """Where an eligible one becomes cheaper or dearer than the recommended strategy, and whether that could change the choice."""
    lines = []
    for pair in task.pairs:
        other = {pair.a: pair.b, pair.b: pair.a}.get(decision.recommended or "")
        if other in decision.utilities and pair.break_even_requests and pair.cheaper_below and pair.cheaper_above:
            lines.append(_volume_flip(task, decision, other, pair, pair.break_even_requests))
    return lines


def _volume_flip(task: TaskEvidence, decision: Decision, other: str, pair: Pair, at: Measure) -> str:
    where = f"{_count(at.value)} requests"
    if at.low is not None:
        where += f" (95 % {_count(at.low)} to {_count(at.high)})" if at.high is not None else f" (95 % from {_count(at.low)} on)"
    return _flip(task, decision, other, "below" if pair.cheaper_below == other else "above", f"{where} over the horizon")


def _flip(task: TaskEvidence, decision: Decision, other: str, side: str, where: str) -> str:
    own = decision.recommended
    assert own is not None
    line = f"In all, {other} costs less than {own} {side} {where}"
    if ahead(task, "cost", task.candidate(other), task.candidate(own), {"cost": _totals(task)}) > 0:
        line += ", as it does now"
    return f"{line}{_change(task, decision, own, other)}."


def _totals(task: TaskEvidence) -> dict[str, float]:
    """Strategy -> cost over the horizon, turned so that higher is better."""
    return {c.strategy: -c.measures[COSTS[0]].value for c in task.candidates if COSTS[0] in c.measures}


def _change(task: TaskEvidence, decision: Decision, own: str, other: str) -> str:
    """What it would mean for the choice that the other one is the cheapest of all and the recommended one the dearest."""
    weight = decision.weights.get("cost", 0.0)
    most = {name: of["total"] + weight * (end - of.get("cost", end)) for name, of, end in (
        (own, decision.utilities[own], 0.0), (other, decision.utilities[other], 1.0),
    )}  # fmt: skip
    quality = gap(task, task.candidate(other), task.candidate(own))
    if most[other] <= most[own] + EQUAL:
        return "; that alone cannot change the choice, whatever it saves"
    if quality.apart and quality.ahead < 0:
        return "; it is worse in quality, so that the weights decide whether that changes the choice"
    return "; that could change the choice, if it saves enough"


# ------------------------------------------------------------------------------------- prices


def _price_flips(task: TaskEvidence, decision: Decision) -> list[str]:
    """As `_volume_flips`, by price; the pairs that no price turns round in one line."""
    lines: list[str] = []
    never: dict[str, list[str]] = {}
    things: dict[str, None] = {}
    for pair in task.pairs:
        other = {pair.a: pair.b, pair.b: pair.a}.get(decision.recommended or "")
        if not pair.prices or other is None or other not in {*decision.front, decision.runner_up}:
            continue
        crossings = [(price, price.at) for price in pair.prices if price.at is not None]
        lines += [
            _flip(task, decision, other, "below" if price.cheaper_below == other else "above", _priced(price, at))
            for price, at in crossings
        ]
        if not crossings:
            things |= dict.fromkeys(price.thing for price in pair.prices)
            relation = {other: "less than", None: "as much as"}.get(pair.prices[0].cheaper_below, "more than")
            never.setdefault(relation, []).append(other)
    if never:
        others = "; ".join(f"{listed(names)} {relation} {decision.recommended}" for relation, names in never.items())
        lines.append(f"No single price above 0 (of {listed(things)}) turns round which one costs less in all: {others}.")
    return lines


def _priced(price: PriceCrossing, at: Measure) -> str:
    if price.unit == "times":
        return f"{at.value:.3g} times the present prices of {price.thing}"
    interval = ""
    if at.low is not None:
        ends = f"{shown(at.low, 'usd')} to {shown(at.high, 'usd')}" if at.high is not None else f"from {shown(at.low, 'usd')} on"
        interval = f"95 % {ends}; "
    return f"{in_words(at.value, 'usd')} for {price.thing} ({interval}now {shown(price.now, 'usd')})"


def _count(value: float) -> str:
    for size, unit in ((1e12, " trillion"), (1e9, " billion"), (1e6, " million")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:,.0f}"
