"""Whether a strategy answers worse than before: paired tests on the same items with the same seeds, one-sided, Holm-corrected.

The rule (docs/regression.md): a gate is a regression where p <= alpha, the upper bound of the improvement is below 0 and the loss is
at least ``min_delta``; else it passes where the lower bound is above -margin, or where no score changed; else it is inconclusive.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

from bench.metric.registry import higher_is_better
from bench.regression.model import PRIMARY, Flip, Gate, Gates, MetricGate
from bench.result.arms import Arm
from bench.result.schema import ScoredItem

if TYPE_CHECKING:
    from bench.result.compare import ArmScores, SeedNoise
    from bench.result.statistics import Difference

POWER = 0.8
LEAST_SEEDS = 3
"""For seeds to be part of an interval: of two, the one degree of freedom would hide a total loss, which one seed alone shows."""
Arms = Mapping[tuple[str, str], tuple[Arm, Arm]]
"""(task, strategy) -> the arm before and now, cut to the same seeds and items by ``shared``."""


@dataclass(frozen=True)
class Shared:
    """What two arms have in common."""

    old: Arm
    new: Arm
    reason: str | None
    """Why nothing can be compared."""
    notes: tuple[str, ...] = ()
    """What was left out."""


def shared(old: Arm, new: Arm) -> Shared:
    """Both arms with the seeds that both have, and the items that are the same question with the same gold in both.

    A run of one seed is compared with that seed of the baseline, so that what does not change gives the same answers.
    """
    seeds = [record.seed for record in old.ok if record.seed in {r.seed for r in new.ok}]
    if not seeds:
        return Shared(old, new, "no seed was scored in both")
    notes = []
    if dropped := {r.seed for r in old.ok} ^ {r.seed for r in new.ok}:
        notes.append(f"seeds in one of the two only: {', '.join(map(str, sorted(dropped)))}")
    versions = {r.fingerprints.scoring for arm in (old, new) for r in arm.ok if r.fingerprints}
    if len(versions) > 1:
        return Shared(old, new, f"scored by different versions ({' and '.join(sorted(versions))}): accept a new baseline")
    before, after = (_of_seeds(arm, seeds) for arm in (old, new))
    same = [
        name for name, item in before.items[0].items()
        if all(name in items and _is_same(items[name], item) for items in (*before.items, *after.items))
    ]  # fmt: skip
    total = len(set(before.items[0]) | set(after.items[0]))
    if not same:
        return Shared(old, new, "no item is the same question with the same gold: the task changed; accept a new baseline")
    if len(same) < total:
        notes.append(f"{total - len(same)} of {total} items are new, gone or changed")
    return Shared(_of_items(before, same), _of_items(after, same), None, tuple(notes))


def _of_seeds(arm: Arm, seeds: Sequence[int]) -> Arm:
    kept = [(record, items) for record, items in zip(arm.ok, arm.items, strict=True) if record.seed in seeds]
    return replace(arm, records=tuple(record for record, _ in kept), items=tuple(items for _, items in kept))


def _of_items(arm: Arm, names: Sequence[str]) -> Arm:
    return replace(arm, items=tuple({name: items[name] for name in names} for items in arm.items))


def _is_same(a: ScoredItem, b: ScoredItem) -> bool:
    return a.input_hash == b.input_hash and a.targets == b.targets


class Ties(NamedTuple):
    """What changed between two arms, ties apart."""

    arm: Arm
    """The new one, with the old answer put in wherever both were ties."""
    excused: set[tuple[int, str]]
    """Those answers, (seed, item)."""
    n_changed: int
    """How many other answers changed."""


def ties_excused(old: Arm, new: Arm, tie_margin: float) -> Ties:
    """Look for changed answers, and which of them were ties.

    Greedy decoding takes the best token by whatever lead; where that is below rounding, another order of additions gives another
    answer. An answer counts as a tie only where it was one before and is one now.
    """
    excused = set()
    n_changed = 0
    kept = []
    for record, before, after in zip(new.ok, old.items, new.items, strict=True):
        items = dict(after)
        for name, item in after.items():
            if item.prediction != before[name].prediction:
                if all(i.logit_margin is not None and i.logit_margin <= tie_margin for i in (item, before[name])):
                    excused.add((record.seed, name))
                    items[name] = before[name]
                else:
                    n_changed += 1
        kept.append(items)
    return Ties(replace(new, items=tuple(kept)), excused, n_changed)


def quality_gates(pairs: Arms, ties: Mapping[tuple[str, str], Ties], gates: Gates) -> list[Gate]:
    """The gates of all metrics of all arms, p Holm-corrected over those in which any score changed; ``ties``: of each pair.

    A hypothesis whose test could not reach alpha whatever came out costs the others nothing (Tarone 1990): a gate in which no score
    differs is one. Seeds are part of the interval where an arm depends on them and has three. What they add is read off the
    differences of equal seeds, pooled over the changed strategies of a task that are of one family: where training took another course
    that is as much as between two trainings, and where a few answers changed it is next to nothing.
    """
    from bench.result.compare import score_group, seed_noise
    from bench.result.statistics import holm

    found: list[_Tested] = []
    for task in dict.fromkeys(task for task, _ in pairs):
        arms = [pair for (name, _), pair in pairs.items() if name == task]
        excused = [of_pair for (name, _), of_pair in ties.items() if name == task]
        group = [arm for (old, _), (new, _, _) in zip(arms, excused, strict=True) for arm in (old, new)]
        for metric, setting in metrics_of(arms[0][0], gates).items():
            scored = score_group(group, metric=metric)
            both = [_paired(before, after) for before, after in zip(scored[::2], scored[1::2], strict=True)]
            moved = [
                (new, scores) for (_, new), pair in zip(arms, both, strict=True)
                if pair and pair.differences is not None and not new.deterministic and (scores := pair.differences).values.any()
            ]  # fmt: skip
            noise = seed_noise([arm for arm, _ in moved], [scores for _, scores in moved])
            for (old, new), (cut, tied, _), pair in zip(arms, excused, both, strict=True):
                if pair is not None:
                    found.append(_test(old, cut, metric, setting, gates.alpha, pair, noise, _flips(old, new, metric, tied)))
    tested = [one for one in found if one.gate.p is not None]
    for one, p in zip(tested, holm([one.gate.p or 0.0 for one in tested]), strict=True):
        one.gate = replace(one.gate, p_adjusted=p)
    return [_decided(one, gates.alpha) for one in found]


def metrics_of(arm: Arm, gates: Gates) -> dict[str, MetricGate]:
    """The gated metrics of a task by their own names; where two settings name one, the more special."""
    settings = {arm.primary_metric if name == PRIMARY else name: gate for name, gate in gates.metrics.items() if name == PRIMARY}
    settings |= {name: gate for name, gate in gates.metrics.items() if name != PRIMARY}
    return {name: gate for name, gate in settings.items() if name}


@dataclass(frozen=True)
class _Paired:
    """A metric of an arm before and now, items and seeds in the same order."""

    old: ArmScores
    new: ArmScores
    differences: ArmScores | None
    """Now minus before; None where the metric has no scores of items. Of macro F1 only ``values``."""


def _paired(old: ArmScores | None, new: ArmScores | None) -> _Paired | None:
    """None where the metric is none of this task's or this strategy's."""
    from bench.result.compare import ArmScores

    if old is None or new is None:
        return None
    if not (old.table.size and new.table.size):
        return _Paired(old, new, None)
    table = new.table - old.table if new.is_mean else new.table[:, :0, 0]
    return _Paired(old, new, ArmScores(new.ids, new.clusters, table, new.values - old.values))


@dataclass
class _Tested:
    """A gate before its verdict."""

    gate: Gate
    difference: Difference | None
    setting: MetricGate
    has_item_scores: bool


def _test(
    old: Arm, new: Arm, metric: str, setting: MetricGate, alpha: float, pair: _Paired, noise: SeedNoise, flips: tuple[Flip, ...]
) -> _Tested:
    import numpy as np

    sign = -1.0 if higher_is_better(metric) is False else 1.0
    before, after = float(pair.old.values.mean()), float(pair.new.values.mean())
    gate = Gate(
        old.task, old.strategy, "quality", metric, "pass", "", before, after, sign * (after - before), limit=setting.margin,
        n_items=len(pair.new.ids), n_seeds=len(old.ok), flips=flips,
    )  # fmt: skip
    if pair.differences is None or np.array_equal(pair.old.table, pair.new.table, equal_nan=True):
        return _Tested(gate, None, setting, pair.differences is not None)
    difference = _difference(pair, noise.get(new.family, (0.0, 0)) if not new.deterministic else (0.0, 0))
    bounds = sorted(sign * bound for bound in difference.interval(1 - 2 * alpha) or ())
    p, test = _one_sided(pair, difference, sign)
    gate = replace(
        gate, change=sign * difference.delta, low=bounds[0] if bounds else None, high=bounds[1] if bounds else None, p=p, test=test,
        n_items=difference.n, items_only=not new.deterministic and difference.p_seeds is None,
    )  # fmt: skip
    return _Tested(gate, difference, setting, True)


def _difference(pair: _Paired, noise: tuple[float, int]) -> Difference:
    """Now minus before, over items and, with df, over seeds; ``noise``: (excess, df) of the differences."""
    from bench.result.compare import item_means
    from bench.result.statistics import macro_f1_of_sums, paired_difference, paired_statistic_difference, seed_variances

    assert pair.differences is not None
    excess, df = noise if len(pair.new.table) >= LEAST_SEEDS else (0.0, 0)
    n_seeds, clusters = len(pair.new.table), pair.new.clusters
    if not pair.new.is_mean:
        of_seeds = excess / n_seeds
        return paired_statistic_difference(
            macro_f1_of_sums, pair.new.table, pair.old.table, clusters, seed_variance=of_seeds, df=df, seed_spread=of_seeds
        )
    spread = (excess + seed_variances(pair.differences.table, clusters)[1]) / n_seeds if df else 0.0
    a, b = item_means(pair.new.table), item_means(pair.old.table)
    return paired_difference(a, b, clusters, seed_variance=excess / n_seeds, df=df, seed_spread=spread)


def _one_sided(pair: _Paired, difference: Difference, sign: float) -> tuple[float, str]:
    """p that the arm became worse: exact McNemar where each item is its own cluster and scored 0 or 1 by one seed, else sign-flip over
    clusters, and with several seeds the larger of that and the t test over items and seeds.

    Both two-sided distributions are symmetric, so that half of a two-sided p is the one-sided one.
    """
    from bench.result.paired import discordant, mcnemar

    worse = sign * difference.delta < 0
    if pair.new.is_mean and len(pair.new.table) == 1 and len(set(pair.new.clusters)) == len(pair.new.clusters):
        counts = discordant(pair.new.table[0], pair.old.table[0])
        if counts is not None:
            half = min(0.5, mcnemar(*counts).p / 2)
            return (half if worse else 1 - half), "McNemar, exact"
    half = difference.p / 2
    name = "sign-flip over clusters" if difference.p_seeds is None else "sign-flip and t over items and seeds"
    return (half if worse else 1 - half), name


def _flips(old: Arm, new: Arm, metric: str, excused: set[tuple[int, str]]) -> tuple[Flip, ...]:
    """Those that lost most come first, excused ones last."""
    sign = -1.0 if higher_is_better(metric) is False else 1.0
    found = []
    for record, before, after in zip(new.ok, old.items, new.items, strict=True):
        for name, item in after.items():
            was = before[name]
            if item.prediction != was.prediction:
                one = Flip(
                    name, record.seed, was.prediction, item.prediction, tuple(item.targets), was.scores.get(metric),
                    item.scores.get(metric), (record.seed, name) in excused,
                )  # fmt: skip
                found.append((one.excused, sign * ((one.score_after or 0.0) - (one.score_before or 0.0)), one))
    return tuple(one for *_, one in sorted(found, key=lambda entry: entry[:2]))


def _decided(one: _Tested, alpha: float) -> Gate:
    gate, margin = one.gate, one.setting.margin
    change = gate.change or 0.0
    ties = f" ({gate.n_excused} tied answers excused)" if gate.n_excused else ""
    if gate.p is None and one.has_item_scores:
        n_changed = len(gate.flips) - gate.n_excused
        reason = f"no score changed, {n_changed} answers did" if n_changed else "the same answers"
        return replace(gate, reason=reason + ties)
    if gate.p is None or gate.p_adjusted is None:
        if change == 0:
            return replace(gate, reason="the same value; the metric has no scores of items to test")
        return replace(gate, verdict="inconclusive", reason="the value changed, and the metric has no scores of items to test")
    if gate.low is None or gate.high is None:
        return replace(gate, verdict="inconclusive", reason="one cluster of items gives no interval" + ties)
    sure = gate.p_adjusted <= alpha and gate.high < 0
    seeds = f"; over items alone, fewer than {LEAST_SEEDS} seeds" if gate.items_only else ""
    if sure and -change >= one.setting.min_delta:
        return replace(gate, verdict="regression", reason=f"worse, p = {gate.p_adjusted:.2g}{seeds}{ties}")
    if gate.low > -margin:
        small = f"; a sure loss below {one.setting.min_delta:g}" if sure else ""
        return replace(gate, reason=f"no loss of {margin:g} or more{small}{seeds}{ties}")
    needed = _needed_items(one, alpha)
    return replace(gate, verdict="inconclusive", needed_items=needed, reason=f"could be a loss of {margin:g} or more, or none{seeds}{ties}")


def _needed_items(one: _Tested, alpha: float) -> int | None:
    """How many items (in clusters as large as now) show with power .8 what seems to be so: a loss, or none of the margin.

    n (z_{1 - alpha} + z_power)^2 SE^2 / room^2, where room is the larger of the distances from the change to 0 and to -margin.
    """
    gate, normal = one.gate, NormalDist()
    if one.difference is None or not one.difference.standard_error:
        return None
    change = gate.change or 0.0
    room = max(change + one.setting.margin, -change)
    z = normal.inv_cdf(1 - alpha) + normal.inv_cdf(POWER)
    return max(gate.n_items + 1, math.ceil(gate.n_items * (z * one.difference.standard_error / room) ** 2))
