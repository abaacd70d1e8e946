"""What the page and report.md both show of a task: the decision and what is made of it, and the table that compares strategies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.report.model import Candidate, Evidence, Measure, TaskEvidence
from bench.report.numbers import Unit, difference_unit, quality_unit, shown, shown_interval, with_interval
from bench.result.text import NONE

if TYPE_CHECKING:
    from bench.report.constraints import Constraints
    from bench.report.decide import Decision

ALPHA = 0.05
BASELINE = "zero-shot"
THREATS: tuple[tuple[str, str], ...] = (
    (
        "One base model, one task",
        "Ranks change with the model, its size and the task. What holds here is a reason to test, no proof, elsewhere.",
    ),
    (
        "Items",
        "Intervals say how far other items of the same kind would move a number. Users who ask otherwise than the test set are in none.",
    ),
    (
        "Seeds",
        "A strategy with one seed varies over items only, and its interval is too narrow for another training; the table shows how many.",
    ),
    ("Many comparisons", "p values are Holm-adjusted over the pairs of a task. Reading many columns for a difference is not adjusted for."),
    (
        "The same budget",
        "All strategies get the same examples and the same number of tuning trials. One that needs more of either is judged without it.",
    ),
    (
        "Prices and machines",
        "Dollars follow from measured seconds, prices and assumptions; times and memory are those of one machine. All are named below.",
    ),
    (
        "Weights are a choice",
        "Utility depends on weights and on how criteria are scaled. The sensitivity section shows how much hangs on them.",
    ),
)
"""Heading and sentence each."""
EMBEDDED_THREAT = (
    "The embedded world is no forecast",
    "This base model is small, and its task is of a generated world. The results show mechanisms, exactly measured; which strategy "
    "wins on a real model and real documents has to be measured there, with the same command.",
)


@dataclass(frozen=True)
class Heading:
    """A column of the comparison."""

    measure: str
    label: str
    unit: Unit


@dataclass(frozen=True)
class Difference:
    """A strategy against the baseline, as it is read."""

    text: str
    interval: str
    verdict: str
    """better, worse, "not distinguishable", baseline, or empty where there is no test."""
    value: float | None


def headings(task: TaskEvidence) -> tuple[Heading, ...]:
    """The columns beside quality that any strategy has."""
    measured = {name for candidate in task.candidates for name in candidate.measures}
    latency = "latency_p95_seconds" in measured
    wanted = (
        Heading("hallucination_rate", "Hallucination", "share"),
        Heading("abstention_rate", "Abstained", "share"),
        Heading("usd_per_1000_requests", "USD per 1,000", "usd"),
        Heading("total_usd", "USD in all", "usd"),
        Heading("latency_p95_seconds", "Latency p95", "seconds") if latency
        else Heading("seconds_per_1000_requests", "Time per 1,000", "seconds"),
        Heading("peak_memory_bytes", "Peak memory", "bytes"),
        Heading("artifact_bytes", "Kept", "bytes"),
        Heading("trainable_params", "Trained", "count"),
    )  # fmt: skip
    return tuple(h for h in wanted if h.measure in measured)


def quality(task: TaskEvidence, candidate: Candidate) -> Measure | None:
    """The primary metric as it was measured, whichever end of it is good."""
    return candidate.measures.get(task.metric) or candidate.measures.get("quality")


def best_first(task: TaskEvidence) -> list[Candidate]:
    """All candidates by quality, those without any last."""
    sign = -1 if task.higher_is_better else 1

    def key(candidate: Candidate) -> tuple[bool, float]:
        found = quality(task, candidate)
        return found is None, 0.0 if found is None else sign * found.value

    return sorted(task.candidates, key=key)


def baseline_of(task: TaskEvidence) -> str | None:
    """What differences are taken against at first: zero-shot where it is there, else the first contender; None without a contender."""
    names = [c.strategy for c in task.candidates if c.standing == "contender"]
    return BASELINE if BASELINE in names else names[0] if names else None


def differences(task: TaskEvidence, baseline: str) -> dict[str, Difference]:
    """Every strategy that a pair holds against the baseline: strategy minus baseline, in the metric's own direction."""
    found = {baseline: Difference("0", "", "baseline", 0.0)}
    unit = difference_unit(task)
    for pair in task.pairs:
        if baseline not in (pair.a, pair.b):
            continue
        sign = 1 if pair.b == baseline else -1
        d = pair.difference
        ends = [None if end is None else sign * end for end in (d.low, d.high)][::sign]
        turned = Measure(sign * d.value, ends[0], ends[1])
        text = shown(turned.value, unit, signed=True)
        found[pair.a if sign == 1 else pair.b] = Difference(
            text, shown_interval(turned, unit, signed=True), _verdict(task, pair.p, turned.value), turned.value
        )
    return found


def change_table(task: TaskEvidence) -> tuple[list[str], list[list[str]]]:
    """Head and rows of what changed since the earlier run; no rows where there is none."""
    unit = quality_unit(task)
    units: dict[str, Unit] = {"setup_seconds": "seconds", "seconds_per_1000_requests": "seconds", "peak_memory_bytes": "bytes"}
    head = ["Strategy", f"{task.metric} before", "after", "Difference", "Verdict", "Items", "Set-up", "Time per 1,000", "Peak memory"]
    rows = []
    for change in task.changes:
        values = [NONE if m is None else with_interval(m, unit) for m in (change.before, change.after)]
        d = change.difference
        if d is None:
            said = [NONE, change.reason or NONE]
        else:
            said = [with_interval(d, difference_unit(task), signed=True), _verdict(task, change.p, d.value)]
        costs = [
            " → ".join(NONE if value is None else shown(value, units[name]) for value in pair) for name, pair in change.costs.items()
        ]
        rows.append([change.strategy, *values, *said, str(change.n_items) if d else NONE, *costs])
    return head, rows


def _verdict(task: TaskEvidence, p: float | None, value: float) -> str:
    if p is None:
        return ""
    if p > ALPHA or value == 0:
        return "not distinguishable"
    return "better" if (value > 0) == task.higher_is_better else "worse"


def letters(task: TaskEvidence) -> dict[str, str]:
    """Letters of the contenders: two that share one are not distinguishable (Holm-adjusted p > .05, or no test between them).

    Insert and absorb (Piepho 2004, Journal of Computational and Graphical Statistics 13): every set of strategies that holds a pair that
    is told apart is split in two, and sets inside others are dropped; a letter is what is left, a being that of the best.
    """
    names = [c.strategy for c in task.candidates if c.standing == "contender" and quality(task, c) is not None]
    values = {c.strategy: q.value for c in task.candidates if (q := quality(task, c)) is not None}
    names.sort(key=lambda name: values[name], reverse=task.higher_is_better)
    groups: list[frozenset[str]] = [frozenset(names)] if names else []
    for pair in task.pairs:
        if pair.p is None or pair.p > ALPHA or pair.difference.value == 0:
            continue
        split = [g - {gone} for g in groups if {pair.a, pair.b} <= g for gone in (pair.a, pair.b)]
        kept = [g for g in groups if not {pair.a, pair.b} <= g]
        groups = _absorbed(kept + split)
    groups.sort(key=lambda g: [names.index(n) for n in sorted(g, key=names.index)])
    return {name: "".join(_letter(place) for place, group in enumerate(groups) if name in group) for name in names}


def _absorbed(groups: Sequence[frozenset[str]]) -> list[frozenset[str]]:
    unique = list(dict.fromkeys(groups))
    return [g for g in unique if not any(g < other for other in unique)]


def _letter(place: int) -> str:
    return "abcdefghijklmnopqrstuvwxyz"[place] if place < 26 else f"({place + 1})"


def threats(task: TaskEvidence) -> tuple[tuple[str, str], ...]:
    """What could make the answer wrong elsewhere; of the embedded model first that it is no forecast."""
    return (EMBEDDED_THREAT, *THREATS) if task.model == "embedded" else THREATS


def flattened(values: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as names and values for a list to read."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        name = prefix + key.replace("_", " ")
        if isinstance(value, Mapping):
            rows += flattened(value, f"{name}: ")
        else:
            rows.append((name, _in_words(value)))
    return rows


def _in_words(value: object) -> str:
    if value is None:
        return "not known"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,.10g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class TaskReport:
    """One task, decided."""

    task: TaskEvidence
    decision: Decision
    shares: dict[str, float]
    """Strategy -> share of random weightings in which it wins; empty where nothing is eligible."""
    left_out: dict[str, str]
    """Criterion -> the choice without it."""
    flips: tuple[str, ...]
    """Prices, volumes and weights at which the choice changes, in words."""


def decided(evidence: Evidence, constraints: Constraints) -> tuple[TaskReport, ...]:
    """The decision of every task, with its sensitivity. Raises `BenchError` for an excluded strategy that no run has."""
    from bench.report.constraints import check_excluded
    from bench.report.decide import decide
    from bench.report.sensitivity import flips, leave_one_out, weightings

    check_excluded(constraints, {c.strategy for task in evidence.tasks for c in task.candidates})
    reports = []
    for task in evidence.tasks:
        decision = decide(task, constraints)
        reports.append(TaskReport(task, decision, weightings(decision), leave_one_out(decision), tuple(flips(task, decision))))
    return tuple(reports)


def asked_for(constraints: Constraints) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Hard constraints, and what else was given or holds: assumptions of the costs, and the weights."""
    given = constraints.model_dump(exclude_defaults=True, exclude={"weights"})
    assumed = constraints.assumptions()
    hard = {key: ", ".join(value) if isinstance(value, tuple) else value for key, value in given.items() if key not in assumed}
    weights = ", ".join(f"{name} {value:g}" for name, value in constraints.weights.model_dump().items())
    return flattened(hard), [*flattened(assumed), ("weights", weights)]


def outcome_of(task: TaskEvidence, decision: Decision, strategy: str) -> tuple[str, tuple[str, ...]]:
    """How a strategy fared under the constraints, and why."""
    uncertain = tuple(f"uncertain: {reason}" for reason in decision.uncertain.get(strategy, ()))
    if strategy in decision.excluded:
        standing = task.candidate(strategy).standing
        return ("left out" if standing == "contender" else standing), (*decision.excluded[strategy], *uncertain)
    return ("passes" if not uncertain else "passes, within the error"), uncertain


def named_tasks(evidence: Evidence) -> list[str]:
    """A name for each task, with the model where a task comes with several."""
    names = [task.task for task in evidence.tasks]
    return [t.task if names.count(t.task) == 1 else f"{t.task} ({t.model})" for t in evidence.tasks]


def fingerprints_of(evidence: Evidence, task: TaskEvidence) -> list[tuple[str, str]]:
    """What was hashed of a task's cells, and its SHA-256."""
    found = evidence.fingerprints.get(task.task) or evidence.fingerprints.get(f"{task.task} ({task.model})") or {}
    return list(found.items())
