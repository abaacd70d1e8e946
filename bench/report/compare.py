"""Two strategies or many, compared in the criteria of a decision: who is ahead, who is on the front, and how far on a scale of 0 to 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bench.report.constraints import parts
from bench.report.model import Candidate, Measure, TaskEvidence
from bench.result.paired import ALPHA

Values = dict[str, dict[str, float]]
"""Criterion -> strategy -> value, each so that higher is better."""

COSTS = ("total_usd", "usd_per_1000_requests")
"""What stands for the cost: the first one that is known for all. The total has volume, refreshes, set-up and labels in it."""
MEASURES = {"hallucination": "hallucination_rate", "memory": "peak_memory_bytes", "latency": "latency_p95_seconds"}
TOLERANCE, MEMORY_TOLERANCE = 0.05, 0.02
"""Relative differences up to these are none: timings and prices are no more exact, memory is."""


class Gap(NamedTuple):
    """The difference of two strategies in quality, turned so that above 0 the first one is better."""

    ahead: float
    low: float | None
    high: float | None
    p: float | None
    detectable: float | None
    apart: bool
    """Told apart by the paired test; by intervals where there is no test; by value where there are none."""


def gap(task: TaskEvidence, a: Candidate, b: Candidate) -> Gap:
    """How far a is ahead of b in quality. Raises KeyError where one of them has no quality."""
    sign = 1.0 if task.higher_is_better else -1.0
    for pair in task.pairs:
        if {pair.a, pair.b} == {a.strategy, b.strategy} and pair.p is not None:
            turned = sign if pair.a == a.strategy else -sign
            ends = [None if end is None else turned * end for end in (pair.difference.low, pair.difference.high)]
            low, high = ends if turned > 0 else reversed(ends)
            by = turned * pair.difference.value
            return Gap(by, low, high, pair.p, pair.detectable, pair.p <= ALPHA and by != 0)
    one, other = a.measures["quality"], b.measures["quality"]
    (low_a, high_a), (low_b, high_b) = _ends(one), _ends(other)
    return Gap(sign * (one.value - other.value), None, None, None, None, low_a > high_b or low_b > high_a)


def _ends(measure: Measure) -> tuple[float, float]:
    """The interval; the value alone where none is known."""
    return (measure.value, measure.value) if measure.low is None or measure.high is None else (measure.low, measure.high)


def ahead(task: TaskEvidence, criterion: str, a: Candidate, b: Candidate, values: Mapping[str, Mapping[str, float]]) -> int:
    """1 where a is the better one in a criterion, -1 where b is, 0 where the difference is none."""
    x, y = (values[criterion][c.strategy] for c in (a, b))
    if criterion == "quality":
        found = gap(task, a, b)
        differ, x, y = found.apart, found.ahead, 0.0
    elif criterion == "simplicity":
        differ = x != y
    else:
        differ = abs(x - y) > (MEMORY_TOLERANCE if criterion == "memory" else TOLERANCE) * max(abs(x), abs(y))
    if criterion == "hallucination":
        one, other = (c.measures["hallucination_rate"] for c in (a, b))
        differ = differ and not (holds(one, other.value) and holds(other, one.value))
    return 0 if not differ else 1 if x > y else -1


def pareto_front(task: TaskEvidence, eligible: Sequence[Candidate], values: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The strategies that no other one beats, in the order of `eligible`; never empty.

    Differences too small to count make "beats" intransitive: a may beat b, b c, and c a. So whoever is beaten, directly or over
    others, by one that it does not beat in turn is left out (the maximal set of the transitive closure; Schwartz 1972).
    """
    n = len(eligible)
    beats = [[_beats([ahead(task, criterion, a, b, values) for criterion in values]) for b in eligible] for a in eligible]
    for k in range(n):
        for i in range(n):
            for j in range(n):
                beats[i][j] = beats[i][j] or (beats[i][k] and beats[k][j])
    return [c.strategy for i, c in enumerate(eligible) if not any(beats[j][i] and not beats[i][j] for j in range(n))]


def _beats(results: Sequence[int]) -> bool:
    return max(results) > 0 and min(results) >= 0


def holds(measure: Measure, value: float) -> bool:
    return measure.low is not None and measure.high is not None and measure.low <= value <= measure.high


def values_of(task: TaskEvidence, eligible: Sequence[Candidate]) -> tuple[Values, dict[str, list[str]]]:
    """The criteria measured for all eligible strategies; of the others, the strategies that lack them."""
    cost = next((name for name in COSTS if all(name in c.measures for c in eligible)), COSTS[-1])
    found: Values = {}
    missing: dict[str, list[str]] = {}
    for criterion, measure in {"quality": "quality", "hallucination": "", "cost": cost, "memory": "", "latency": ""}.items():
        name = measure or MEASURES[criterion]
        sign = 1.0 if criterion == "quality" and task.higher_is_better else -1.0
        if lacking := [c.strategy for c in eligible if name not in c.measures]:
            missing[criterion] = lacking
        else:
            found[criterion] = {c.strategy: sign * c.measures[name].value for c in eligible}
    found["simplicity"] = {c.strategy: -float(len(parts(c.choices))) for c in eligible}
    return found, missing


def scaled(task: TaskEvidence, eligible: Sequence[Candidate], values: Values) -> dict[str, dict[str, float]]:
    """Strategy -> criterion -> [0, 1]."""
    found: dict[str, dict[str, float]] = {c.strategy: {} for c in eligible}
    for criterion, of in values.items():
        best, worst = max(eligible, key=lambda c: of[c.strategy]), min(eligible, key=lambda c: of[c.strategy])
        span = of[best.strategy] - of[worst.strategy] if ahead(task, criterion, best, worst, values) > 0 else 0.0
        for name, value in of.items():
            found[name][criterion] = (value - of[worst.strategy]) / span if span else 1.0
    return found
