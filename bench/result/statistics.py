"""Intervals and tests. Items of one cluster (entity, document) are not independent, so everything here works on clusters.

Two claims need two intervals (Bouthillier et al. 2021): "this artifact beats that one" varies over items; "this strategy beats
that one" varies over training seeds as well, and an interval over items alone covers far too rarely. With few seeds the seed
variance of one strategy is hardly known, so it is pooled over the strategies of a study.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.result.student_t import t_quantile, t_within

FloatArray = NDArray[np.float64]
SumStatistic = Callable[[FloatArray], FloatArray]
"""Maps sums over items, shape (..., k), to values, shape (...)."""


class Interval(NamedTuple):
    """A value and its confidence interval; None where no interval is defined (fewer than two clusters)."""

    value: float
    low: float | None
    high: float | None


class PooledInterval(NamedTuple):
    """An interval over items and, unless ``items_only``, over seeds."""

    value: float
    low: float | None
    high: float | None
    items_only: bool


@dataclass(frozen=True)
class Difference:
    """A minus B on the same items."""

    delta: float
    low: float | None
    high: float | None
    """Interval over the items (clusters), and over the seeds where a seed variance was given."""
    p_sign_flip: float
    """Two-sided; the two given artifacts, over items."""
    p_seeds: float | None
    """Two-sided t test over items and seeds; None where no seed variance was given."""
    n: int
    """Items that were compared."""
    standard_error: float | None = None
    """Of the difference, over what the interval is over; None where there is no interval."""
    df: float | None = None
    """Degrees of freedom of the interval's t."""
    constant_over: int | None = None
    """Number of clusters where no item differs, or all differ by 1 (either way), so that the standard error may be zero for want of
    variation; else None."""

    @property
    def p(self) -> float:
        """The larger p: a difference is real only if it stands against both the items and the seeds."""
        return max(self.p_sign_flip, self.p_seeds or 0.0)

    def interval(self, level: float) -> tuple[float, float] | None:
        """The interval at another level than .95 (90 % for equivalence); None where there is none."""
        if self.standard_error is None or self.df is None:
            return None
        least = wilson_interval(0.0, self.constant_over, level)[1] if self.constant_over else 0.0
        half = max(least, t_quantile(level, self.df) * self.standard_error)
        return self.delta - half, self.delta + half


def clustered_interval(
    scores: FloatArray | Sequence[float], clusters: Sequence[str], level: float = 0.95, *, clip: bool = False
) -> Interval:
    """Mean of ``scores`` (n,) with a t interval from the clustered standard error, C - 1 degrees of freedom.

    SE = sqrt(C / (C - 1) * sum_c (sum_{i in c} (s_i - mean))^2) / n (Miller 2024, "Adding Error Bars to Evals", appendix A).
    Where all scores are 0, or all are 1, that is zero and says nothing: Wilson's interval over the C clusters then, as if each
    were one observation (0 of n is about 0 to 4 / n). No interval with fewer than two clusters. ``clip``: cut to [0, 1]. Raises
    ValueError for no scores.
    """
    array = np.asarray(scores, dtype=np.float64)
    _, count = _codes(clusters, len(array))
    mean = float(array.mean())
    if count < 2:
        return Interval(mean, None, None)
    if _at_the_edge(array):
        return Interval(mean, *wilson_interval(mean, count, level))
    error = math.sqrt(_clustered_variance(array, clusters))
    return Interval(mean, *_around(mean, error, count - 1, level, clip))


def wilson_interval(rate: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a rate seen in ``n`` independent observations (Wilson 1927)."""
    z = NormalDist().inv_cdf(0.5 + level / 2)
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # By rounding alone a bound could pass the rate itself at 0 and 1.
    return max(0.0, min(rate, centre - half)), min(1.0, max(rate, centre + half))


def bootstrap_interval(
    statistic: Callable[[Any], Any],
    items: NDArray[Any],
    clusters: Sequence[str],
    n_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    *,
    of_sums: bool = False,
) -> Interval:
    """Percentile interval from resampling clusters with replacement, for statistics that are no means (macro F1).

    ``items``: one row per item, shape (n, ...). By default ``statistic`` takes such rows and gives a float. With ``of_sums`` it
    depends on the rows' sum only and takes an array of sums (..., k), which is a thousand times faster. Resamples on which the
    statistic is not finite are left out. No interval with fewer than two clusters.
    """
    codes, count = _codes(clusters, len(items))
    value = float(statistic(items.sum(axis=0, dtype=np.float64) if of_sums else items))
    if count < 2:
        return Interval(value, None, None)
    draws = np.random.default_rng(seed).integers(0, count, size=(n_resamples, count))
    if of_sums:
        weights = np.stack([np.bincount(draw, minlength=count) for draw in draws]).astype(np.float64)
        values = np.asarray(statistic(weights @ _sum_rows(items, codes, count)), dtype=np.float64)
    else:
        members = [np.flatnonzero(codes == c) for c in range(count)]
        values = np.array([float(statistic(items[np.concatenate([members[c] for c in draw])])) for draw in draws])
    values = values[np.isfinite(values)]
    if not len(values):
        return Interval(value, None, None)
    low, high = np.quantile(values, [0.5 - level / 2, 0.5 + level / 2])
    return Interval(value, float(low), float(high))


def pooled_seed_variance(arms: Sequence[FloatArray], clusters: Sequence[Sequence[str]] | None = None) -> tuple[float, int]:
    """Variance that a fresh training seed adds to a mean score, pooled over the arms of a study: (excess, degrees of freedom).

    ``arms``: scores of shape (seeds, items), NaN where undefined; those with one seed are left out. Per arm, v is the variance over
    seeds of the mean score and w the part of it that items alone explain (an answer that flips between seeds adds noise to the mean
    without any shift of the whole): w = sum_c sum_s (sum_{i in c} (y_is - mean_s y_is))^2 / ((S - 1) n^2), which is the mean over
    items of var_s(y_i) / n where each item is its own cluster. excess = max(0, mean v - mean w), weighted by S - 1;
    df = sum of (S - 1). It assumes about the same seed noise in all arms: pool like with like, and see ``seed_variances``.
    """
    names: Sequence[Sequence[str] | None] = [None] * len(arms) if clusters is None else clusters
    parts = [(*seed_variances(arm, own), len(arm) - 1) for arm, own in zip(arms, names, strict=True) if len(arm) > 1]
    df = sum(part[2] for part in parts)
    if df == 0:
        return 0.0, 0
    return max(0.0, sum((v - w) * weight for v, w, weight in parts) / df), df


def seed_variances(scores: FloatArray, clusters: Sequence[str] | None = None) -> tuple[float, float]:
    """(v, w) of one arm, as in ``pooled_seed_variance``. ``scores``: (seeds, items), at least two seeds."""
    own = [str(i) for i in range(scores.shape[1])] if clusters is None else clusters
    scores, names = _keep(scores, np.isfinite(scores).all(axis=0), own)
    n_seeds, n = scores.shape
    if n == 0:
        return 0.0, 0.0
    v = float(scores.mean(axis=1).var(ddof=1))
    deviations = scores - scores.mean(axis=0)
    codes, count = _codes(names, n)
    sums = _sum_rows(deviations.T, codes, count)
    return v, float((sums**2).sum() / ((n_seeds - 1) * n * n))


def seed_pooled_interval(
    scores_by_seed: dict[int, FloatArray],
    clusters: Sequence[str],
    excess_seed_variance: float = 0.0,
    df: int = 0,
    level: float = 0.95,
    *,
    clip: bool = False,
) -> PooledInterval:
    """A strategy's mean score with an interval over items and seeds.

    ``scores_by_seed``: seed -> scores (n,) in the same order of items, NaN where undefined. Var = clustered variance of the items'
    means over seeds + excess / S, t with ``joint_df`` degrees of freedom, where (excess, df) come from ``pooled_seed_variance``.
    The first term already holds the item-by-seed residual. With one seed, or df 0, the interval is over items only and says so.
    Where all scores are 0, or all are 1, Wilson's bound takes the place of the first term. Raises ValueError for no scores.
    """
    table = np.stack([scores_by_seed[seed] for seed in sorted(scores_by_seed)])
    table, names = _keep(table, np.isfinite(table).any(axis=0), clusters)
    items_only = len(table) < 2 or df < 1
    means = np.nanmean(table, axis=0)
    over_items = clustered_interval(means, names, level, clip=clip)
    value, low, high = over_items
    if items_only or low is None or high is None:
        return PooledInterval(value, low, high, items_only)
    item_df, seeds_part = len(set(names)) - 1, excess_seed_variance / len(table)
    if _at_the_edge(means):
        value, low, high = add_seed_variance(over_items, seeds_part, df, item_df, level)
        return PooledInterval(value, max(0.0, low or 0.0), min(1.0, high or 0.0), False)
    items_part = _clustered_variance(means, names)
    spread = (excess_seed_variance + seed_variances(table, names)[1]) / len(table)
    freedom = joint_df(items_part, item_df, seeds_part, spread, df)
    error = math.sqrt(items_part + seeds_part)
    return PooledInterval(value, *_around(value, error, freedom, level, clip), False)


def joint_df(item_variance: float, item_df: int, seed_variance: float, seed_spread: float, seed_df: int) -> float:
    """Degrees of freedom of ``item_variance`` + ``seed_variance``, by Satterthwaite (1946).

    The seed variance is a difference (excess = v - w, divided by S), and as uncertain as the v that it is made of: ``seed_spread`` is
    v / S, with ``seed_df`` degrees of freedom. So few seeds make the interval wide only as far as seeds make up the variance. Never
    less than the smaller of the two.
    """
    least = float(min(item_df, seed_df))
    uncertainty = item_variance**2 / item_df + seed_spread**2 / seed_df
    return max(least, (item_variance + seed_variance) ** 2 / uncertainty) if uncertainty > 0 else least


def add_seed_variance(interval: Interval, seed_variance: float, df: int, item_df: int | None = None, level: float = 0.95) -> Interval:
    """An interval over items that is no t interval (Wilson, bootstrap), widened to items and seeds, each side for itself.

    A side's standard error is its width over the normal quantile; ``seed_variance`` (excess / S, with ``df`` degrees of freedom) is
    added to its square, and the new width is the t quantile times the root: with ``joint_df`` degrees of freedom, or with ``df`` where
    ``item_df`` (clusters - 1) is not known.
    """
    value, low, high = interval
    if low is None or high is None:
        return interval
    z = NormalDist().inv_cdf(0.5 + level / 2)
    widths = []
    for side in (value - low, high - value):
        items_part = (side / z) ** 2
        freedom = df if item_df is None else joint_df(items_part, item_df, seed_variance, seed_variance, df)
        widths.append(t_quantile(level, freedom) * math.sqrt(items_part + seed_variance))
    return Interval(value, value - widths[0], value + widths[1])


def paired_difference(
    a: FloatArray,
    b: FloatArray,
    clusters: Sequence[str],
    *,
    seed_variance: float = 0.0,
    df: int = 0,
    seed_spread: float | None = None,
    level: float = 0.95,
    n_flips: int = 10_000,
    seed: int = 0,
) -> Difference:
    """A minus B on the same items, scores (n,) each (means over seeds where there are several); items with a NaN are left out.

    p: sign-flip test on the clusters' sums of differences, (1 + #{|d*| >= |d|}) / (R + 1), exact in level (approximate
    randomisation). Interval: clustered t interval; with ``seed_variance`` (excess / S of A plus excess / S of B) and its ``df`` it is
    over items and seeds, and so is ``p_seeds``. ``seed_spread`` (v / S of A plus v / S of B) is for ``joint_df``; without it the
    degrees of freedom are those of the seeds alone, which is too few. Where every item differs by the same 0, 1 or -1, the clustered
    error is zero and Wilson's bound for 0 of C takes its place in the interval. Raises ValueError where no item is left.
    """
    d, names = _keep((a - b)[None, :], np.isfinite(a) & np.isfinite(b), clusters)
    d = d[0]
    codes, count = _codes(names, len(d))
    delta = float(d.mean())
    p = _sign_flip(np.bincount(codes, d, count).astype(np.float64), n_flips, seed)
    variance = _clustered_variance(d, names) if count > 1 else 0.0
    return _difference(delta, variance, p, count, len(d), seed_variance, df, level, seed_spread, constant=_at_the_edge(abs(d)))


def paired_statistic_difference(
    statistic: SumStatistic,
    a: FloatArray,
    b: FloatArray,
    clusters: Sequence[str],
    *,
    seed_variance: float = 0.0,
    df: int = 0,
    seed_spread: float | None = None,
    level: float = 0.95,
    n_resamples: int = 2_000,
    seed: int = 0,
) -> Difference:
    """``paired_difference`` for a statistic of sums, such as macro F1: clusters swap sides at random and it is computed again.

    ``a`` and ``b``: (seeds, n, k) with the same number of seeds; the statistic is averaged over them. The standard error of the
    difference is that of a cluster bootstrap; where A and B are the same in every cluster it is zero, and Wilson's bound for 0 of C
    takes its place in the interval.
    """
    codes, count = _codes(clusters, a.shape[1])
    sums_a, sums_b = (np.stack([_sum_rows(rows, codes, count) for rows in side]) for side in (a, b))
    total_a, total_b = sums_a.sum(axis=1), sums_b.sum(axis=1)
    delta = float(np.mean(statistic(total_a)) - np.mean(statistic(total_b)))
    generator = np.random.default_rng(seed)
    swap = generator.integers(0, 2, size=(n_resamples, count)).astype(np.float64)
    moved = swap @ (sums_b - sums_a)
    swapped = np.mean(statistic(total_a[:, None] + moved), axis=0) - np.mean(statistic(total_b[:, None] - moved), axis=0)
    p = _share_at_least(swapped, delta)
    weights = generator.multinomial(count, np.full(count, 1 / count), size=n_resamples).astype(np.float64)
    drawn = np.mean(statistic(weights @ sums_a), axis=0) - np.mean(statistic(weights @ sums_b), axis=0)
    same = bool(np.array_equal(sums_a, sums_b))
    return _difference(delta, float(np.var(drawn, ddof=1)), p, count, a.shape[1], seed_variance, df, level, seed_spread, constant=same)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values, in the order given (Holm 1979): family-wise error over all of them."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def macro_f1_rows(gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> FloatArray:
    """Per item, shape (n, 3L): right, predicted and gold for each label; the rows whose sum ``macro_f1_of_sums`` takes."""
    g = np.array([[g == label for label in labels] for g in gold], dtype=np.float64).reshape(len(gold), len(labels))
    p = np.array([[p == label for label in labels] for p in predicted], dtype=np.float64).reshape(len(gold), len(labels))
    return np.concatenate([g * p, p, g], axis=1)


def macro_f1_of_sums(sums: FloatArray) -> FloatArray:
    """Mean of 2 * right / (predicted + gold) over the labels that are gold for some item, shape (..., 3L) -> (...)."""
    right, predicted, gold = np.split(sums, 3, axis=-1)
    each = 2 * right / np.maximum(predicted + gold, 1e-12)
    return np.asarray(each.sum(axis=-1) / np.maximum((gold > 0).sum(axis=-1), 1))


def _difference(
    delta: float, variance: float, p: float, count: int, n: int, seed_variance: float, df: int, level: float,
    seed_spread: float | None, *, constant: bool,
) -> Difference:  # fmt: skip
    if count < 2:
        return Difference(delta, None, None, p, None, n)
    freedom = float(min(df, count - 1) if df > 0 else count - 1)
    if df > 0 and seed_spread is not None:
        freedom = joint_df(variance, count - 1, seed_variance, seed_spread, df)
    error = math.sqrt(variance + seed_variance)
    p_seeds = None
    if df > 0:
        p_seeds = 1.0 if delta == 0 else 0.0 if error == 0 else max(0.0, 1 - t_within(abs(delta) / error, freedom))
    found = Difference(delta, None, None, p, p_seeds, n, error, freedom, count if constant else None)
    low, high = found.interval(level) or (None, None)
    return replace(found, low=low, high=high)


def _keep(scores: FloatArray, kept: NDArray[np.bool_] | np.bool_, clusters: Sequence[str]) -> tuple[FloatArray, list[str]]:
    """The columns of ``scores`` (rows, n) and the cluster names that ``kept`` (n,) marks."""
    marks = np.atleast_1d(kept)
    return scores[:, marks], [name for name, keep in zip(clusters, marks.tolist(), strict=True) if keep]


def _at_the_edge(scores: FloatArray) -> bool:
    """True where all scores are 0, or all are 1."""
    return bool((scores == 0).all() or (scores == 1).all())


def _codes(clusters: Sequence[str], n: int) -> tuple[NDArray[np.intp], int]:
    if n == 0 or len(clusters) != n:
        raise ValueError(f"{n} items and {len(clusters)} cluster names: expected the same number of both, at least one")
    names, codes = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    return codes, len(names)


def _sum_rows(rows: NDArray[Any], codes: NDArray[np.intp], count: int) -> FloatArray:
    """Rows (n, k) summed by cluster: (C, k)."""
    sums = np.zeros((count, rows.shape[1]))
    np.add.at(sums, codes, rows)
    return sums


def _clustered_variance(scores: FloatArray, clusters: Sequence[str]) -> float:
    """Variance of the mean of ``scores``, clusters being independent."""
    codes, count = _codes(clusters, len(scores))
    sums = np.bincount(codes, scores - scores.mean(), count)
    return float(count / (count - 1) * (sums**2).sum()) / len(scores) ** 2


def _around(value: float, error: float, df: float, level: float, clip: bool) -> tuple[float, float]:
    half = t_quantile(level, df) * error
    low, high = value - half, value + half
    return (max(0.0, low), min(1.0, high)) if clip else (low, high)


def _sign_flip(sums: FloatArray, n_flips: int, seed: int) -> float:
    """Two-sided p of the sign-flip test on sums by cluster."""
    flipped = np.concatenate([signs.astype(np.float64) @ sums for signs in _signs(n_flips, len(sums), seed)])
    return _share_at_least(flipped, float(sums.sum()))


@lru_cache(maxsize=1)  # drawing them takes most of the test's time, and the pairs of a task, which have as many clusters, take the same
def _signs(n_flips: int, count: int, seed: int) -> list[NDArray[np.int8]]:
    """1 and -1 at random, ``n_flips`` rows of ``count`` in parts of a thousand."""
    generator = np.random.default_rng(seed)
    parts = [min(1000, n_flips - start) for start in range(0, n_flips, 1000)]
    return [(2 * generator.integers(0, 2, size=(rows, count)) - 1).astype(np.int8) for rows in parts]


def _share_at_least(draws: FloatArray, observed: float) -> float:
    """(1 + #{|draw| >= |observed|}) / (R + 1); equal up to rounding counts as equal."""
    tolerance = 1e-9 * max(1.0, abs(observed))
    return float((1 + np.count_nonzero(np.abs(draws) >= abs(observed) - tolerance)) / (len(draws) + 1))
