"""How sure a choice is, what would settle it, and the answer in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from bench.report.compare import Gap, ahead, gap, holds
from bench.report.constraints import depends_on_seed, tuned_by
from bench.report.model import Candidate, Measure, TaskEvidence
from bench.report.numbers import Unit, difference_unit, interval_in_words, quality_unit, shown, with_interval
from bench.result.comparison import MARGIN, MARGINS

Certainty = Literal["decided", "tied", "not enough data"]
NOT_APART = "not distinguishable"
RISKS: dict[str, tuple[Unit, str]] = {
    "hallucination_rate": ("share", "{} of all items are answered wrongly rather than not at all"),
    "forgetting.known_recall_drop": ("points", "training costs {} of the recall of facts that the base knew"),
    "forgetting.skill_drop": ("points", "training costs {} of the base's few-shot skill"),
    "forgetting.behavioural_recall_drop": ("points", "with its prompt and passages, {} of the base's recall are lost"),
    "leakage.extraction_rate": ("share", "{} of the secrets planted in what it learned or reads can be got out of it"),
}
"""Measure -> unit, and the risk in words."""


def certainty_of(
    task: TaskEvidence, best: Candidate, runner_up: Candidate | None, values: Mapping[str, Mapping[str, float]]
) -> tuple[Certainty, str, str]:
    """(certainty, why, what would settle or change it) of a choice between two."""
    final = "No further measurement is needed for this choice; other weights, prices or constraints can change it."
    if runner_up is None:
        return "decided", "nothing else is eligible", final
    found = gap(task, best, runner_up)
    better = {c: ahead(task, c, best, runner_up, values) for c in values if c != "quality"}
    for_it = [c for c in ("cost", "simplicity", "hallucination") if better.get(c) == 1]
    against = [c for c in ("cost", "simplicity", "hallucination") if better.get(c) == -1]
    trade = f"it is ahead in {listed(for_it)}" + (f" and behind in {listed(against)}, so that the weights decide" if against else "")
    if found.apart and found.ahead > 0:
        return "decided", f"it is better in quality {_by(task, found)}", final
    if found.apart:
        reasons = [c for c, side in better.items() if side == 1]
        return (
            "decided",
            f"it is worse in quality {_by(task, found)}, and ahead in {listed(reasons) or 'nothing else'}: the weights decide",
            final,
        )
    margin = MARGINS.get(task.model, MARGIN) if task.is_share else 0.0
    quality = f"quality is {NOT_APART} {_by(task, found)}"
    if for_it and not against and found.low is not None and found.low > -margin:
        return "decided", f"{quality}, at worst by less than {_points(task, margin)}, and {trade}", final
    if found.detectable is not None and found.detectable > max(margin, abs(found.ahead)):
        why = f"{quality}; a difference below {_points(task, found.detectable)} would mostly not be found"
        return "not enough data", why, _what_settles(task, best, runner_up, found, margin)
    if for_it:
        return "decided", f"{quality}, and {trade}", final
    return (
        "tied",
        f"{quality}, and it is ahead neither in cost nor in simplicity nor in hallucination",
        (f"Take either {best.strategy} or {runner_up.strategy}; what was not measured, or matters to nobody else, may choose."),
    )


def items_needed(n_items: int, detectable: float, target: float) -> int:
    """Items (or seeds) with which a difference of `target` would be found as surely as one of `detectable` is with `n_items`.

    The detectable difference is a multiple of the standard error, which falls with the square root of the items (Bloom 1995); the
    multiple itself falls too where the degrees of freedom are few, so this is an upper bound.
    """
    return math.ceil(round(n_items * (detectable / target) ** 2, 6))


def _what_settles(task: TaskEvidence, best: Candidate, runner_up: Candidate, found: Gap, margin: float) -> str:
    target = max(abs(found.ahead), margin)
    if not target or found.detectable is None:
        return f"How many more items cannot be said: no difference was seen, and {task.metric} has no margin."
    n = min(best.n_items, runner_up.n_items)
    more = items_needed(n, found.detectable, target) - n
    which = "as large as the one seen" if abs(found.ahead) >= margin else "that would matter"
    seeds, advice = "", "More seeds would change nothing: neither depends on one."
    if seeded := [c for c in (best, runner_up) if depends_on_seed(c.choices)]:
        now = listed(f"{c.strategy} now {c.n_seeds}, then {items_needed(c.n_seeds, found.detectable, target)}" for c in seeded)
        seeds = f" and as many times the seeds ({now})"
        advice = "Begin with the seeds: they are few, and items alone cannot make up for them."
    return f"At most about {more:,} more items (of {n:,} now){seeds} would show a difference {which}, {_points(task, target)}. {advice}"


def five_lines(
    task: TaskEvidence, best: Candidate, runner_up: Candidate | None, flagged: str | None, certainty: str, settle: str
) -> tuple[str, ...]:
    """Recommendation, quality, cost, risks, certainty."""
    unit = quality_unit(task)
    floor = f" It is no better than {flagged}, which asks no model: nothing here is worth running." if flagged else ""
    quality = f"Quality: {task.metric} {with_interval(best.measures['quality'], unit)}"
    if runner_up:
        found = gap(task, best, runner_up)
        side = "better" if found.ahead > 0 else "worse"
        relation = side if found.apart else NOT_APART
        quality += f"; {runner_up.strategy} has {with_interval(runner_up.measures['quality'], unit)}: {relation} {_by(task, found)}"
    return (
        f"Recommended: {best.strategy}. Runner-up: {runner_up.strategy if runner_up else 'none'}.{floor}",
        f"{quality}.",
        f"Cost: {'; '.join(_costs(best)) or 'not known (bench report --prices FILE, with the price of the device that ran it)'}.",
        f"Risks: {'; '.join(_risks(best))}.",
        f"Certainty: {certainty} {settle}",
    )


COST_FACTS: dict[str, tuple[Unit, str]] = {
    "usd_per_1000_requests": ("usd", "per 1,000 requests"),
    "total_usd": ("usd", "in all over the horizon"),
    "setup_usd": ("usd", "of it to set up"),
    "latency_p95_seconds": ("seconds", "for a request (p95)"),
    "peak_memory_bytes": ("bytes", "of memory at the peak"),
}


def _costs(candidate: Candidate) -> list[str]:
    known = [(name, *fact) for name, fact in COST_FACTS.items() if name in candidate.measures]
    return [f"{interval_in_words(candidate.measures[name], unit)} {says}" for name, unit, says in known]


def _risks(candidate: Candidate) -> list[str]:
    found = []
    for name, (unit, says) in RISKS.items():
        if (measure := candidate.measures.get(name)) is not None:
            none = f" ({NOT_APART} from none)" if unit == "points" and holds(measure, 0.0) else ""
            found.append(says.format(with_interval(measure, unit)) + none)
    if tuned_by(candidate.choices) != "none" and not any(name.startswith("forgetting.") for name in candidate.measures):
        how = "the weights are the provider's" if candidate.hosted else "bench run --probe forgetting"
        found.append(f"what training made it forget was not measured ({how})")
    return found or ["none was measured (bench run --probe NAME)"]


def nothing_eligible(
    task: TaskEvidence, contenders: Sequence[Candidate], violated: Mapping[str, Sequence[str]], flagged: Mapping[str, str]
) -> tuple[str, ...]:
    """Why nothing is recommended, and what comes nearest: the fewest violations, of those that are better than a floor if there are any."""
    if not contenders:
        return ("Recommended: none. No strategy of this task was scored.", "Run one that asks a model, or see why those here failed.")
    sign = 1 if task.higher_is_better else -1
    nearest = min(contenders, key=lambda c: (c.strategy in flagged, len(violated[c.strategy]), -sign * c.measures["quality"].value))
    reasons = violated[nearest.strategy]
    quality = with_interval(nearest.measures["quality"], quality_unit(task))
    return (
        f"Recommended: none. Each of the {len(contenders)} strategies violates a hard constraint.",
        f"Nearest: {nearest.strategy}, {task.metric} {quality}. It violates {len(reasons)}: {'; '.join(reasons)}.",
        "Loosen these constraints, measure what was not measured, or add a strategy that keeps to them.",
    )


def _by(task: TaskEvidence, found: Gap) -> str:
    """The size of a difference with its interval and p, from the first one's side: "(+5.2 points [1.1, 9.3], p = 0.012)"."""
    by = with_interval(Measure(found.ahead, found.low, found.high), difference_unit(task), signed=True)
    if found.low is None or found.high is None:
        return f"({by}, by their intervals alone)"
    test = "" if found.p is None else ", p < .001" if found.p < 0.001 else f", p = {found.p:.2g}"
    return f"({by}{test})"


def _points(task: TaskEvidence, difference: float) -> str:
    return shown(difference, difference_unit(task))


def listed(names: Iterable[str]) -> str:
    return ", ".join(names)
