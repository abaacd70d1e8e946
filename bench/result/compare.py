"""Scores of arms on the same items: intervals over items and seeds, and paired differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.metric.text import label_key
from bench.result.arms import Arm
from bench.result.schema import Item, ScoredItem
from bench.result.statistics import (
    Difference,
    FloatArray,
    Interval,
    PooledInterval,
    add_seed_variance,
    bootstrap_interval,
    holm,
    macro_f1_of_sums,
    macro_f1_rows,
    paired_difference,
    paired_statistic_difference,
    pooled_seed_variance,
    seed_pooled_interval,
    seed_variances,
)


@dataclass(frozen=True)
class ArmScores:
    """The primary metric of an arm on a set of items."""

    ids: tuple[str, ...]
    clusters: tuple[str, ...]
    table: FloatArray
    """(seeds, items), NaN where undefined; (seeds, items, k) rows of sums where the metric is macro F1."""
    values: FloatArray
    """(seeds,): the metric of each seed."""

    @property
    def is_mean(self) -> bool:
        return self.table.ndim == 2


@dataclass(frozen=True)
class Pair:
    """Two arms on the items that both have."""

    a: FloatArray
    """As ``ArmScores.table``; of macro F1 with as many seeds as ``b``."""
    b: FloatArray
    clusters: list[str]

    @property
    def is_mean(self) -> bool:
        return self.a.ndim == 2


def pair_of(a: ArmScores | None, b: ArmScores | None) -> Pair | None:
    """The shared items of two arms; None where they share none, no item is defined in both, or items alone do not give the metric."""
    if a is None or b is None:
        return None
    others = set(b.ids)
    both = [i for i in a.ids if i in others]
    if not both or a.table.shape[2:] != b.table.shape[2:] or not (a.table.size and b.table.size):
        return None
    at_a, at_b = places_of(a.ids, both), places_of(b.ids, both)
    pair = Pair(a.table[:, at_a], b.table[:, at_b], [a.clusters[i] for i in at_a])
    if not pair.is_mean:
        return Pair(*_same_seeds(pair.a, pair.b), pair.clusters)
    return pair if np.isfinite(item_means(pair.a) - item_means(pair.b)).any() else None


def difference_of(a: Arm, b: Arm, scores_a: ArmScores, scores_b: ArmScores, pair: Pair, noise: SeedNoise) -> Difference:
    """A minus B, over items and, where an arm has several seeds, over seeds; ``pair``: of the two scores."""
    sides = [
        (noise[x.family], _items_part(rows, pair), len(s.table), x.family) for x, s, rows in ((a, scores_a, pair.a), (b, scores_b, pair.b))
    ]
    seeds, spread, df = _seed_part(sides)
    if pair.is_mean:
        means = item_means(pair.a), item_means(pair.b)
        return paired_difference(*means, pair.clusters, seed_variance=seeds, df=df, seed_spread=spread)
    return paired_statistic_difference(macro_f1_of_sums, pair.a, pair.b, pair.clusters, seed_variance=seeds, df=df, seed_spread=spread)


def _items_part(rows: FloatArray, pair: Pair) -> float:
    """What items alone add to the variance between an arm's seeds; of macro F1 it is unknown and no part of the excess."""
    return seed_variances(rows, pair.clusters)[1] if pair.is_mean and len(rows) > 1 else 0.0


def paired_differences(
    chosen: Sequence[tuple[tuple[Arm, ArmScores], tuple[Arm, ArmScores]]], noise: SeedNoise
) -> list[tuple[Pair, Difference, float] | None]:
    """For each (a, b) their shared items, a minus b on those, and its p, Holm-adjusted over all that were compared; None where
    ``pair_of`` finds nothing to compare."""
    found: list[tuple[Pair, Difference] | None] = []
    for (a, scores_a), (b, scores_b) in chosen:
        pair = pair_of(scores_a, scores_b)
        found.append(None if pair is None else (pair, difference_of(a, b, scores_a, scores_b, pair, noise)))
    adjusted = iter(holm([difference.p for _, difference in filter(None, found)]))
    return [None if one is None else (*one, next(adjusted)) for one in found]


def p_of_no_difference(best: Arm, other: Arm, a: ArmScores | None, b: ArmScores | None, noise: SeedNoise) -> float:
    """p of no difference between two arms; 1 where ``pair_of`` finds nothing to compare."""
    pair = pair_of(a, b)
    if a is None or b is None or pair is None:
        return 1.0
    return difference_of(best, other, a, b, pair, noise).p


def _seed_part(sides: Sequence[tuple[tuple[float, int], float, int, str]]) -> tuple[float, float, int]:
    """(variance, spread, df) that seeds add to a difference, see ``statistics.joint_df``.

    Each side is ((excess, df), items' part, seeds, family). Two sides of one family share one estimate; of two families the degrees
    of freedom are Satterthwaite's.
    """
    parts: dict[str, tuple[float, float, int]] = {}
    for (excess, df), items_part, n_seeds, family in sides:
        if n_seeds > 1 and df:
            variance, spread, _ = parts.get(family, (0.0, 0.0, df))
            parts[family] = (variance + excess / n_seeds, spread + (excess + items_part) / n_seeds, df)
    total = sum(spread for _, spread, _ in parts.values())
    if not total:
        return 0.0, 0.0, max((df for _, _, df in parts.values()), default=0)
    df = max(1, int(total**2 / sum(spread**2 / df for _, spread, df in parts.values())))
    return sum(variance for variance, _, _ in parts.values()), total, df


def _same_seeds(a: FloatArray, b: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Both with the same number of seeds: a single one stands for all of the other's, else those in excess are left out."""
    if len(a) == 1:
        a = np.repeat(a, len(b), axis=0)
    if len(b) == 1:
        b = np.repeat(b, len(a), axis=0)
    least = min(len(a), len(b))
    return a[:least], b[:least]


def score_group(
    group: Sequence[Arm], name: str | None = None, wanted: str | None = None, *, metric: str | None = None
) -> list[ArmScores | None]:
    """A metric (default: the primary one) of each arm on the items whose slice ``name`` is ``wanted``, None where it has none."""
    by_label = [arm for arm in group if (metric or arm.primary_metric) == "macro_f1"]
    gold = sorted({label_key(target) for arm in by_label for items in arm.items for item in items.values() for target in item.targets})
    return [
        _score_arm(arm, metric or arm.primary_metric, gold, lambda item: name is None or item.slices.get(name) == wanted) for arm in group
    ]


def _score_arm(arm: Arm, metric: str | None, labels: Sequence[str], chosen: Callable[[ScoredItem], bool]) -> ArmScores | None:
    if metric is None or not arm.items:
        return None
    shared = [item for item in arm.items[0].values() if chosen(item) and all(item.id in other for other in arm.items)]
    if not shared:
        return None
    ids, clusters = tuple(item.id for item in shared), tuple(item.cluster for item in shared)
    by_seed = [[items[i] for i in ids] for items in arm.items]
    if metric == "macro_f1":
        rows = np.stack([rows_for_macro_f1(items, labels) for items in by_seed])
        return ArmScores(ids, clusters, rows, macro_f1_of_sums(rows.sum(axis=1)))
    table = np.array([[item.scores.get(metric, math.nan) for item in items] for items in by_seed])
    if np.isfinite(table).any(axis=1).all():
        return ArmScores(ids, clusters, table, np.nanmean(table, axis=1))
    values = [record.metrics[metric].value for record in arm.ok if metric in record.metrics]
    return ArmScores(ids, clusters, np.empty((len(values), 0)), np.array(values)) if len(values) == len(arm.ok) else None


def rows_for_macro_f1(items: Sequence[Item] | Sequence[ScoredItem], labels: Sequence[str]) -> FloatArray:
    """Rows whose sum ``macro_f1_of_sums`` takes, with labels compared as the metric does; `labels`: all true ones, normalised."""
    said = [label_key(item.prediction) for item in items]
    golds = [[label_key(target) for target in item.targets] for item in items]
    return macro_f1_rows([s if s in g or not g else g[0] for s, g in zip(said, golds, strict=True)], said, labels)


SeedNoise = Mapping[str, tuple[float, int]]
"""Family of strategies -> (excess, df) of its seeds."""


def _families(group: Sequence[Arm], scored: Sequence[ArmScores | None]) -> dict[str, list[ArmScores]]:
    found: dict[str, list[ArmScores]] = {arm.family: [] for arm in group}
    for arm, scores in zip(group, scored, strict=True):
        if scores is not None:
            found[arm.family].append(scores)
    return found


def seed_noise(group: Sequence[Arm], scored: Sequence[ArmScores | None]) -> SeedNoise:
    """(excess, df) of the seeds, pooled over the strategies of one task that are of one family (protocol: pool like with like)."""
    return {family: _pooled(members) for family, members in _families(group, scored).items()}


def _pooled(scored: Sequence[ArmScores]) -> tuple[float, int]:
    means = [s for s in scored if s.is_mean and s.table.size]
    if means:
        return pooled_seed_variance([s.table for s in means], [s.clusters for s in means])
    # No item scores, so the part that items explain is unknown: all of the variance between seeds counts.
    several = [s.values for s in scored if len(s.values) > 1]
    df = sum(len(values) - 1 for values in several)
    return (sum(float(values.var(ddof=1)) * (len(values) - 1) for values in several) / df, df) if df else (0.0, 0)


def noise_ratio(group: Sequence[Arm], scored: Sequence[ArmScores | None]) -> float:
    """Largest over smallest variance between seeds in a family of a task; above 9 pooling hides a noisy strategy."""
    ratios = [r for members in _families(group, scored).values() if not math.isnan(r := _ratio(members))]
    return max(ratios, default=math.nan)


def _ratio(scored: Sequence[ArmScores]) -> float:
    found = []
    for scores in scored:
        if len(scores.values) > 1:
            mean = scores.is_mean and scores.table.size
            found.append(seed_variances(scores.table, scores.clusters)[0] if mean else float(scores.values.var(ddof=1)))
    if len(found) < 2 or max(found) == 0:
        return math.nan
    return max(found) / min(found) if min(found) > 0 else math.inf


def interval_of(arm: Arm, scores: ArmScores, noise: tuple[float, int], slice_name: str | None = None) -> PooledInterval:
    """The arm's value with its interval over items and seeds; `noise`: (excess, df) of its family."""
    excess, df = noise
    if scores.is_mean and scores.table.size:
        table = dict(enumerate(scores.table))
        found = seed_pooled_interval(table, scores.clusters, excess, df, clip=is_share(scores.table))
        return found._replace(value=float(scores.values.mean()))
    value = float(scores.values.mean())
    if scores.table.size:
        # One row per item, the seeds side by side: resampling a cluster takes its answers of all seeds.
        rows = np.concatenate(list(scores.table), axis=1)
        n_seeds = len(scores.table)

        def statistic(sums: FloatArray) -> FloatArray:
            return np.asarray(np.mean([macro_f1_of_sums(part) for part in np.split(sums, n_seeds, axis=-1)], axis=0))

        _, low, high = bootstrap_interval(statistic, rows, scores.clusters, of_sums=True)
    else:
        low, high = _recorded_interval(arm, slice_name)
    if low is None or high is None:
        return PooledInterval(value, None, None, True)
    if len(scores.values) < 2 or df < 1:
        return PooledInterval(value, low, high, True)
    item_df = max(1, len(set(scores.clusters)) - 1)
    _, low, high = add_seed_variance(Interval(value, low, high), excess / len(scores.values), df, item_df)
    if scores.table.size and low is not None and high is not None:
        low, high = max(0.0, low), min(1.0, high)  # macro F1 is a share; of other metrics the range is unknown
    return PooledInterval(value, low, high, False)


def _recorded_interval(arm: Arm, slice_name: str | None) -> tuple[float | None, float | None]:
    """Mean over seeds of the bounds in the records, for a metric that items alone do not give."""
    metric = arm.primary_metric or ""
    entries = [(r.metrics if slice_name is None else r.slices.get(slice_name, {})).get(metric) for r in arm.ok]
    lows = [e.ci_low for e in entries if e is not None and e.ci_low is not None]
    highs = [e.ci_high for e in entries if e is not None and e.ci_high is not None]
    if not lows or len(lows) != len(arm.ok) or len(highs) != len(arm.ok):
        return None, None
    return float(np.mean(lows)), float(np.mean(highs))


def item_means(table: FloatArray) -> FloatArray:
    """Mean over seeds of each item's score, (seeds, n) -> (n,); NaN where it is defined for none."""
    counts = np.isfinite(table).sum(axis=0)
    return np.where(counts > 0, np.nansum(table, axis=0) / np.maximum(counts, 1), np.nan)


def places_of(ids: Sequence[str], wanted: Sequence[str]) -> NDArray[np.intp]:
    """Where the wanted ids are among ``ids``."""
    where = {name: place for place, name in enumerate(ids)}
    return np.array([where[name] for name in wanted], dtype=np.intp)


def is_share(table: FloatArray) -> bool:
    """Whether all scores are in [0, 1], so that an interval is cut there."""
    known = table[np.isfinite(table)]
    return bool(((known >= 0) & (known <= 1)).all())
