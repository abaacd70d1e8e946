"""A contrast: a weighted sum of mean scores of arms, with a standard error over items (clusters) and seeds, and its tests.

Differences, interactions and trends are all such sums, so one estimator serves every claim. Two arms on the same items are paired
through their clusters; arms on different items of the same clusters (slices, tasks about the same products) as far as those go.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from bench.result.statistics import FloatArray, joint_df, wilson_interval

KNOWN_DF = 1_000_000
"""Without items nothing says how many stand behind a standard error: it is taken as known."""

Expectation = Literal["greater", "not_greater", "equal"]


class Seeds(NamedTuple):
    """What seeds add to the variance of an arm's mean (`statistics.pooled_seed_variance`, `statistics.joint_df`)."""

    variance: float
    """excess / S"""
    spread: float
    """v / S, of which the excess is a part."""
    df: int
    pool: str
    """Arms of one pool share one estimate."""


@dataclass(frozen=True)
class Part:
    """One arm's share in a contrast. Raises ValueError for no scores."""

    weight: float
    scores: FloatArray
    """(n,): item scores, the means over seeds."""
    clusters: tuple[str, ...]
    seeds: Seeds | None = None
    """None for one artifact, or a deterministic strategy."""


@dataclass(frozen=True)
class Known:
    """A share in a contrast of which only the value and its standard error over items are known, not the items."""

    weight: float
    value: float
    error: float
    seeds: Seeds | None = None


@dataclass(frozen=True)
class Contrast:
    """The estimate with its standard error and degrees of freedom."""

    estimate: float
    error: float
    df: float
    n_clusters: int

    def interval(self, level: float = 0.9) -> tuple[float, float]:
        """Two-sided t interval. At 90 % each bound is a one-sided test at .05, and both inside a margin are TOST."""
        from scipy.stats import t

        half = float(t.ppf(0.5 + level / 2, self.df)) * self.error
        return self.estimate - half, self.estimate + half

    def p_above(self, bound: float) -> float:
        """One-sided p of "not above `bound`"."""
        from scipy.stats import t

        if self.error == 0:
            return 0.0 if self.estimate > bound else 1.0
        return float(t.sf((self.estimate - bound) / self.error, self.df))

    def p_for(self, expects: Expectation, margin: float) -> float:
        """p of the test that the expectation has to pass to hold.

        greater: above 0. not_greater: below `margin`. equal: both one-sided tests against the margins (TOST, Schuirmann 1987).
        """
        if expects == "greater":
            return self.p_above(0.0)
        below = 1 - self.p_above(margin)
        return below if expects == "not_greater" else max(below, self.p_above(-margin))

    def p_against(self, expects: Expectation, margin: float) -> float:
        """p of the test that has to be passed for the opposite to hold.

        greater: below `margin`, so that what is left of the effect would not matter. not_greater: above 0. equal: beyond either margin.
        """
        if expects == "greater":
            return 1 - self.p_above(margin)
        return self.p_above(0.0) if expects == "not_greater" else min(1.0, 2 * min(self.p_above(margin), 1 - self.p_above(-margin)))

    def minimum_detectable(self, alpha: float = 0.05, power: float = 0.8) -> float:
        """The smallest effect that a one-sided test at `alpha` finds with this power: (t_{1-alpha} + t_{power}) * SE."""
        from scipy.stats import t

        return float(t.ppf(1 - alpha, self.df) + t.ppf(power, self.df)) * self.error


def contrast(parts: Sequence[Part | Known]) -> Contrast:
    """The weighted sum of the parts' means.

    Var = C / (C - 1) * sum_c (sum_parts w * sum_{i in c} (y_i - mean) / n)^2 + sum_parts w^2 * (seed variance + error^2): for two
    arms on the same items the first term is the clustered variance of their mean difference (Miller 2024, appendix A). Where it is
    zero because no item differs, Wilson's bound for 0 of C stands in for 1.96 standard errors. Degrees of freedom by Satterthwaite
    from those of items (C - 1) and seeds (`statistics.joint_df`). Raises ValueError for a contrast without parts, or with items of
    fewer than two clusters.
    """
    if not parts:
        raise ValueError("a contrast needs at least one part")
    influence: dict[str, float] = defaultdict(float)
    estimate = of_items = 0.0
    pools: dict[str, tuple[float, float, int]] = {}
    for part in parts:
        if isinstance(part, Known):
            estimate += part.weight * part.value
            of_items += part.weight**2 * part.error**2
        else:
            mean = float(part.scores.mean())
            estimate += part.weight * mean
            for cluster, score in zip(part.clusters, part.scores.tolist(), strict=True):
                influence[cluster] += part.weight * (score - mean) / len(part.scores)
        if part.seeds:
            variance, spread, _ = pools.get(part.seeds.pool, (0.0, 0.0, 0))
            square = part.weight**2
            pools[part.seeds.pool] = (variance + square * part.seeds.variance, spread + square * part.seeds.spread, part.seeds.df)
    count = len(influence)
    if count == 1:
        raise ValueError("the items are of one cluster; expected two or more")
    if count:
        found = count / (count - 1) * sum(x * x for x in influence.values())
        if found < 1e-18:
            scale = max(abs(p.weight) for p in parts)
            found = (scale * wilson_interval(0.0, count)[1] / 1.96) ** 2
        of_items += found
    item_df = count - 1 if count else KNOWN_DF
    of_seeds, spread = (sum(pool[i] for pool in pools.values()) for i in (0, 1))
    df: float = item_df
    if spread > 0:
        seed_df = max(1, int(spread**2 / sum(own**2 / own_df for _, own, own_df in pools.values())))
        df = joint_df(of_items, item_df, of_seeds, spread, seed_df)
    return Contrast(estimate, math.sqrt(of_items + of_seeds), df, count)


def slope_weights(x: Sequence[float]) -> list[float]:
    """Weights that make a sum of means at `x` their least-squares slope. Raises ValueError where all x are the same."""
    values = np.asarray(x, dtype=np.float64)
    centred = values - values.mean()
    total = float((centred**2).sum())
    if total == 0:
        raise ValueError("all x are the same; expected two different ones")
    return [float(v) for v in centred / total]
