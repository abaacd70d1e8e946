"""What a strategy costs now and cost before: counts exactly, memory within its noise, seconds only where both sides ran in turn.

Counts that follow from the answers (tokens written, FLOPs of answering) or from a training's course are exact only while those stay
what they were; where they changed, growth has to be more than chance, by the same tests as quality.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any, Literal

from bench.regression.model import Gate, Gates
from bench.regression.quality import Ties
from bench.result.arms import Arm
from bench.result.schema import SETUP, Record

ROUNDING = 1e-9
"""Relative: FLOPs are sums of floats."""
Seconds = Mapping[tuple[str, str], Mapping[Literal["setup", "answer"], tuple[Sequence[float], Sequence[float]]]]
"""(task, strategy) -> phase -> wall seconds of the repeats before and now."""


def status_gate(old: Arm, new: Arm | None) -> Gate:
    """Whether every seed that ended well before does so now; one that was not run tells nothing."""
    gate = Gate(old.task, old.strategy, "status", "status", "pass", "every cell ended well", n_seeds=len(old.ok))
    there = {record.seed: record for record in new.records} if new else {}
    wanted = [record.seed for record in old.ok]
    failed = [there[seed] for seed in wanted if seed in there and there[seed].status == "failed"]
    if failed:
        first = failed[0]
        return _with(gate, "regression", f"{len(failed)} of {len(wanted)} cells failed, such as s{first.seed}: {first.error}")
    if not any(seed in there for seed in wanted):
        return _with(gate, "inconclusive", "the run has no cell of it")
    if skipped := [there[seed] for seed in wanted if seed in there and there[seed].status == "skipped"]:
        return _with(gate, "inconclusive", f"{len(skipped)} of {len(wanted)} cells are skipped now: {skipped[0].error}")
    return gate


def prompts_gate(old: Arm, new: Arm) -> Gate | None:
    """Whether a cell of the same id asks the same: the id stands for everything that can change an answer (but the code), so that other
    prompts under it mean a source of chance that nobody set, or code that changed what is asked without saying so. None where the ids
    differ.
    """
    before = {record.seed: (record.cell_id, items) for record, items in zip(old.ok, old.items, strict=True)}
    n = n_other = 0
    for record, items in zip(new.ok, new.items, strict=True):
        cell_id, was = before.get(record.seed, ("", {}))
        if cell_id == record.cell_id:
            n += len(items)
            n_other += sum(name in was and was[name].prompt_hash != item.prompt_hash for name, item in items.items())
    if not n:
        return None
    gate = Gate(old.task, old.strategy, "prompts", "prompts", "pass", "the same prompts", n_items=n)
    if n_other:
        return _with(gate, "regression", f"{n_other} of {n} prompts are others, though nothing that is part of the cell's id changed")
    return gate


def cost_gates(old: Arm, new: Arm, ties: Ties, gates: Gates) -> list[Gate]:
    """The counts of an arm, their mean over its seeds; ``ties``: of the two arms, which are of the same seeds."""
    found: list[Gate] = []
    of: dict[str, Callable[[Record], float | None]] = {
        "prompt_tokens": lambda r: _per_item(r, r.tokens.prompt),
        "completion_tokens": lambda r: _per_item(r, r.tokens.completion),
        "setup_flops": _setup_flops,
        "answer_flops": lambda r: _per_item(r, r.phases["answer"].flops) if "answer" in r.phases else None,
        "trainable_params": lambda r: r.params.trainable if r.params else None,
        "artifact_bytes": lambda r: r.artifact_bytes,
    }
    allowed: Mapping[str, float] = {str(name): growth for name, growth in gates.costs.items()}
    for measure, read in of.items():
        gate = _grown(old, new, "cost", measure, read, allowed.get(measure, 0.0))
        if gate is None:
            continue
        if gate.verdict == "regression" and measure == "completion_tokens" and ties.n_changed:
            gate = _by_items(gate, old, new, gates.alpha)
        elif gate.verdict == "regression" and measure == "completion_tokens" and ties.excused:
            gate = _with(gate, "pass", "only tied answers are longer")
        elif gate.verdict == "regression" and measure == "answer_flops" and _answers_only(found):
            gate = _with(gate, "pass", "follows the answers, whose tokens have passed")
        elif gate.verdict == "regression" and measure == "setup_flops" and not new.deterministic and ties.n_changed:
            gate = _by_seeds(gate, old, new, read, gates.alpha)
        found.append(gate)
    return found


def memory_gates(old: Arm, new: Arm, gates: Gates) -> list[Gate]:
    """The highest peak of a strategy's phases: on a GPU of allocated memory, else of resident memory."""
    for measure, limit in (("peak_gpu_allocated_bytes", gates.gpu_memory), ("peak_rss_bytes", gates.resident_memory)):
        gate = _grown(old, new, "memory", measure, lambda r, m=measure: _peak(r, m), limit, together=max)  # type: ignore[misc]
        if gate is not None:
            return [gate]
    return []


def time_gates(seconds: Seconds, gates: Gates) -> list[Gate]:
    """Wall seconds of repeats that ran in turn: a regression where the ratio of medians is surely above what is allowed.

    Too few repeats for an interval give no gate.
    """
    from bench.regression.relative import time_ratio

    found = []
    for (task, strategy), phases in seconds.items():
        for phase, (before, now) in phases.items():
            ratio = time_ratio(before, now)
            if ratio is None:
                continue
            value, low, high = ratio
            slower = low > 1 + gates.seconds
            reason = f"slower than the {gates.seconds:.0%} that are allowed" if slower else "no slower than is allowed"
            found.append(
                Gate(
                    task, strategy, "time", f"{phase}_seconds", "regression" if slower else "pass", reason, median(before), median(now),
                    value - 1, low - 1, high - 1, limit=gates.seconds, n_seeds=len(now), test="bootstrap of medians",
                )
            )  # fmt: skip
    return found


def _grown(
    old: Arm, new: Arm, kind: Any, measure: str, read: Callable[[Record], float | None], limit: float,
    together: Callable[[Sequence[float]], float] = sum,
) -> Gate | None:  # fmt: skip
    """None where a side has not measured it."""
    sides = []
    for arm in (old, new):
        values = [value for record in arm.ok if (value := read(record)) is not None]
        if not values:
            return None
        sides.append(together(values) / (len(values) if together is sum else 1))
    before, after = sides
    gate = Gate(old.task, old.strategy, kind, measure, "pass", "", before, after, limit=limit, n_seeds=len(new.ok))
    if before == 0:
        return _with(gate, "regression", "was none before") if after > 0 else _with(gate, "pass", "the same", 0.0)
    change = after / before - 1
    if change > limit + ROUNDING:
        return _with(gate, "regression", f"more than the {limit:.1%} that are allowed" if limit else "more than before", change)
    return _with(gate, "pass", "the same" if abs(change) <= ROUNDING else "less" if change < 0 else "no more than is allowed", change)


def _setup_flops(record: Record) -> float | None:
    """None where one of the phases has none: the model is served."""
    found = [phase.flops for name, phase in record.phases.items() if name in SETUP]
    return None if None in found else sum(f for f in found if f is not None)


def _per_item(record: Record, value: float | None) -> float | None:
    return value / record.n_items if value is not None and record.n_items else None


def _peak(record: Record, measure: str) -> float | None:
    peaks = [getattr(phase, measure) for name, phase in record.phases.items() if name in (*SETUP, "answer")]
    return max((peak for peak in peaks if peak is not None), default=None)


def _answers_only(before: Sequence[Gate]) -> bool:
    """Whether tokens written are more, and passed, and tokens read are not more: then so are the FLOPs of answering."""
    of = {gate.measure: gate for gate in before}
    written, read = of.get("completion_tokens"), of.get("prompt_tokens")
    grown = written is not None and written.verdict == "pass" and (written.change or 0) > 0
    return grown and (read is None or read.verdict == "pass")


def _by_items(gate: Gate, old: Arm, new: Arm, alpha: float) -> Gate:
    """Whether more tokens are written than chance explains: one-sided sign-flip over clusters of items."""
    import numpy as np

    from bench.result.statistics import paired_difference

    names = list(new.items[0])
    before, now = (
        np.array([[items[name].tokens.completion for name in names] for items in arm.items], dtype=np.float64).mean(axis=0)
        for arm in (old, new)
    )
    found = paired_difference(now, before, [new.items[0][name].cluster for name in names])
    p = found.p_sign_flip / 2 if found.delta > 0 else 1 - found.p_sign_flip / 2
    if p <= alpha:
        return _with(gate, "regression", f"answers are longer, p = {p:.2g}", gate.change, p)
    return _with(gate, "pass", f"answers changed, and are not surely longer, p = {p:.2g}", gate.change, p)


def _by_seeds(gate: Gate, old: Arm, new: Arm, read: Callable[[Record], float | None], alpha: float) -> Gate:
    """Whether trainings take more than chance explains: a one-sided t test of the logarithms' differences over seeds."""
    import numpy as np

    from bench.result.student_t import t_within

    pairs = [(read(a), read(b)) for a, b in zip(old.ok, new.ok, strict=True)]
    logs = np.log([b / a for a, b in pairs if a and b])
    if len(logs) < 2:
        return _with(gate, "inconclusive", "trainings took another course; one seed cannot tell more from chance", gate.change)
    if float(logs.std(ddof=1)) <= ROUNDING:
        return gate  # as much more with every seed
    t = float(logs.mean() / (logs.std(ddof=1) / np.sqrt(len(logs))))
    p = (1 - t_within(abs(t), len(logs) - 1)) / 2
    if t > 0 and p <= alpha:
        return _with(gate, "regression", f"trainings take more, p = {p:.2g}", gate.change, p)
    return _with(gate, "pass", f"trainings took another course, and not surely more, p = {p if t > 0 else 1 - p:.2g}", gate.change, p)


def _with(gate: Gate, verdict: Any, reason: str, change: float | None = None, p: float | None = None) -> Gate:
    return replace(gate, verdict=verdict, reason=reason, change=gate.change if change is None else change, p=p)
