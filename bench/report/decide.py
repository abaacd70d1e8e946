"""Which strategy to use, by a rule that the report prints: hard constraints, then the Pareto front, then utility; and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bench.report.compare import COSTS, MEMORY_TOLERANCE, TOLERANCE, gap, pareto_front, scaled, values_of
from bench.report.constraints import Constraints, judged
from bench.report.explain import Certainty, certainty_of, five_lines, listed, nothing_eligible
from bench.report.model import Candidate, TaskEvidence

PARTS = (
    "worked examples, a chain of thought, an index, an embedding model, a reranker, a training, weights of its own, preference pairs or "
    "rewards, a quantized base."
)
CHOICE = (
    "Recommended: the highest utility on the front; runner-up: the next, or the best of the beaten. Decided: told apart from the "
    "runner-up in quality by the paired test (Holm); or not told apart, ahead in cost, simplicity or hallucination, and the data suffice. "
    "They do not (not enough data) where the smallest difference that the test would find (power .8) is larger than the one seen and than "
    "the margin (a difference that matters), unless the interval rules out that it is worse by the margin and it is behind in none of the "
    "three. Else tied."
)
WORTHLESS = "Nothing here is shown to be worth running: try another strategy, or test on more items."
STANDINGS = {"floor": "a floor: it asks no model", "oracle": "an oracle: it reads what no deployed strategy can"}


class Step(NamedTuple):
    """One step of the rule, as the report prints it."""

    rule: str
    result: str


@dataclass(frozen=True)
class Decision:
    """The answer for one task, and how it came about."""

    recommended: str | None
    runner_up: str | None
    certainty: Certainty | None
    """None where nothing is recommended."""
    explanation: tuple[str, ...]
    """Five lines: recommendation, quality, cost, risks, certainty; fewer where nothing is eligible."""
    steps: tuple[Step, ...]
    excluded: dict[str, tuple[str, ...]]
    """Strategy -> why it is not eligible."""
    uncertain: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Strategy -> hard limits within the interval of what was measured."""
    flagged: dict[str, str] = field(default_factory=dict)
    """Strategy -> the floor that it is no better than."""
    front: tuple[str, ...] = ()
    """In the order of their utility, best first."""
    utilities: dict[str, dict[str, float]] = field(default_factory=dict)
    """Eligible strategy -> criterion -> [0, 1], best 1; and "total"."""
    weights: dict[str, float] = field(default_factory=dict)
    """Of the criteria that were measured for all eligible strategies; they sum to 1."""
    settle: str = ""
    """What would settle it, or change it."""


def decide(task: TaskEvidence, constraints: Constraints) -> Decision:
    """Apply the rule to one task. Nothing is drawn at random; the same evidence gives the same decision."""
    excluded = {c.strategy: [why] for c in task.candidates if (why := _not_eligible(c))}
    contenders = [c for c in task.candidates if c.strategy not in excluded]
    standing = Step(
        "Floors, oracles and strategies that failed or were not scored cannot be recommended.",
        f"{listed(c.strategy for c in contenders) or 'none'} can be; left out: {_with_reasons(excluded) or 'none'}.",
    )
    verdicts = {c.strategy: judged(task, c, constraints) for c in contenders}
    violated = {name: list(verdict.violations) for name, verdict in verdicts.items() if verdict.violations}
    uncertain = {name: verdict.uncertain for name, verdict in verdicts.items() if verdict.uncertain}
    limits = Step(
        "Every hard constraint has to be met; one on what was not measured is not met.",
        f"Left out: {_with_reasons(violated) or 'none'}."
        + (f" Met or missed within the error of measurement: {_with_reasons(uncertain)}." if uncertain else ""),
    )
    eligible = [c for c in contenders if c.strategy not in violated]
    flagged = _no_better_than_floor(task, contenders)
    beaten = {c.strategy: [f"no better than {flagged[c.strategy]}"] for c in eligible if c.strategy in flagged}
    if len(beaten) < len(eligible):
        eligible = [c for c in eligible if c.strategy not in beaten]
        floors = f"Left out: {_with_reasons(beaten) or 'none'}."
    else:
        beaten, floors = {}, f"None is better: {_with_reasons(beaten)}." if beaten else "Nothing is left to compare."
    below = Step("A strategy that is no better than the best floor is left out while another one is better.", floors)
    every = {name: tuple(reasons) for name, reasons in (excluded | violated | beaten).items()}
    steps = (standing, limits, below)
    if not eligible:
        lines = nothing_eligible(task, contenders, violated, flagged)
        return Decision(None, None, None, lines, steps, every, uncertain, flagged, settle=lines[-1])
    return _chosen(task, eligible, constraints, Decision(None, None, None, (), steps, every, uncertain, flagged))


def _chosen(task: TaskEvidence, eligible: Sequence[Candidate], constraints: Constraints, so_far: Decision) -> Decision:
    values, missing = values_of(task, eligible)
    front = pareto_front(task, eligible, values)
    on_scale = scaled(task, eligible, values)
    wanted = {name: weight for name, weight in constraints.weights.model_dump().items() if name in values}
    total = sum(wanted.values())
    weights = {name: weight / total if total else 1 / len(wanted) for name, weight in wanted.items()}
    utilities = {
        name: {**of_one, "total": math.fsum(weights[criterion] * x for criterion, x in of_one.items())} for name, of_one in on_scale.items()
    }
    # Of equal totals the better one, then the first of the suite: sorted() keeps the order. Rounded, as sums of equal parts may differ.
    ranked = sorted(front, key=lambda name: (-round(utilities[name]["total"], 12), -values["quality"][name]))
    best = task.candidate(ranked[0])
    runner_up = task.candidate(ranked[1]) if len(ranked) > 1 else None
    dominated = [c.strategy for c in eligible if c.strategy not in front]
    if runner_up is None and dominated:  # the best of what the front beats is still what one would fall back on
        runner_up = task.candidate(max(dominated, key=lambda name: utilities[name]["total"]))
    of_cost = next((name for name in COSTS if all(name in c.measures for c in eligible)), None)
    compared = ", ".join(f"cost ({of_cost})" if name == "cost" else name for name in values)
    reached = listed(f"{name} {utilities[name]['total']:.3f}" for name in ranked)
    given = ", ".join(f"{name} {weight:.2f}" for name, weight in weights.items())
    steps = (
        *so_far.steps,
        Step(
            "A strategy that another one beats in a criterion and is beaten by in none is left out (Pareto). Relative differences up to "
            f"{TOLERANCE:.0%} ({MEMORY_TOLERANCE:.0%} of memory) are none, nor are those in quality that the paired test does not tell "
            "apart and those in hallucination within both intervals.",
            f"Compared by {compared}{_not_compared(missing, len(eligible))}. "
            f"On the front: {listed(ranked)}; beaten: {listed(dominated) or 'none'}.",
        ),
        Step(
            "Utility is the weighted mean of the criteria, each scaled over the eligible strategies from 0 (worst) to 1 (best); 1 for all "
            "where best and worst do not differ. Simplicity counts the parts to make and keep running beside the base model: " + PARTS,
            f"Weights: {given}{'' if total else ' (those given are of nothing that was measured)'}. Utility: {reached}.",
        ),
    )
    certainty, why, settle = certainty_of(task, best, runner_up, values)
    flagged = so_far.flagged.get(best.strategy)
    if flagged:
        certainty, why, settle = "tied", f"it is no better than {flagged}, nor is any other one", WORTHLESS
    if best.strategy in so_far.uncertain:
        why += f"; uncertain whether it meets the constraints ({'; '.join(so_far.uncertain[best.strategy])})"
    steps = (*steps, Step(CHOICE, f"{best.strategy}{f', before {runner_up.strategy}' if runner_up else ''}: {certainty}, {why}."))
    return Decision(
        recommended=best.strategy,
        runner_up=runner_up.strategy if runner_up else None,
        certainty=certainty,
        explanation=five_lines(task, best, runner_up, flagged, f"{certainty}, {why}.", settle),
        steps=steps,
        excluded=so_far.excluded,
        uncertain=so_far.uncertain,
        flagged=so_far.flagged,
        front=tuple(ranked),
        utilities=utilities,
        weights=weights,
        settle=settle,
    )


def _not_eligible(candidate: Candidate) -> str | None:
    if candidate.standing == "failed":
        return f"failed or skipped: {candidate.reason or 'no reason is known'}"
    return STANDINGS.get(candidate.standing) or (None if "quality" in candidate.measures else "its quality was not measured")


def _no_better_than_floor(task: TaskEvidence, contenders: Sequence[Candidate]) -> dict[str, str]:
    """Strategy -> the best floor, for those that are not shown to be better than it."""
    floors = [c for c in task.candidates if c.standing == "floor" and "quality" in c.measures]
    if not floors:
        return {}
    best = max(floors, key=lambda c: c.measures["quality"].value * (1 if task.higher_is_better else -1))
    gaps = {c.strategy: gap(task, c, best) for c in contenders}
    return {name: best.strategy for name, found in gaps.items() if not (found.apart and found.ahead > 0)}


def _with_reasons(reasons: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{name} ({', '.join(why)})" for name, why in reasons.items())


def _not_compared(missing: Mapping[str, Sequence[str]], n: int) -> str:
    return "".join(f"; not by {c}, {f'unknown for {listed(names)}' if len(names) < n else 'unknown'}" for c, names in missing.items())
