"""Where the uncertainty of a strategy's mean comes from: too few items, too few seeds, or answers that flip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bench.result.statistics import FloatArray


class VarianceShares(NamedTuple):
    """Shares of the variance of a mean over items and seeds; they add up to 1."""

    items: float
    """More items make it smaller."""
    seeds: float
    """A whole seed that did better or worse: more seeds make it smaller."""
    residual: float
    """Single answers that differ between seeds: more of either make it smaller."""


def variance_shares(scores: FloatArray, clusters: Sequence[str]) -> VarianceShares | None:
    """The shares of one strategy; ``scores``: (seeds, items), items that some seed leaves undefined (NaN) are left out.

    Two-way analysis of variance without replication (Searle, Casella and McCulloch 1992, chapter 4): with MS_I, MS_S and MS_E the mean
    squares of items, seeds and residual, the parts are max(0, MS_I - MS_E) / (nS), max(0, MS_S - MS_E) / (nS) and MS_E / (nS). The sums
    of squares of items and residual are taken over the clusters' sums, which is the same where each item is its own cluster. The
    part of the seeds is from this strategy's seeds alone, so with three of them it is rough.

    None where there are fewer than two seeds or two clusters, or no variance at all.
    """
    kept = np.isfinite(scores).all(axis=0)
    table = scores[:, kept]
    n_seeds, n = table.shape
    names, codes = np.unique(np.asarray(clusters, dtype=str)[kept], return_inverse=True)
    if n_seeds < 2 or len(names) < 2:
        return None
    item_means, seed_means, mean = table.mean(axis=0), table.mean(axis=1), table.mean()
    correction = len(names) / (len(names) - 1) / n**2
    over_items = correction * float((_by_cluster(item_means[None] - mean, codes, len(names)) ** 2).sum())
    noise = table - item_means - seed_means[:, None] + mean
    residual = correction * float((_by_cluster(noise, codes, len(names)) ** 2).sum()) / (n_seeds - 1)
    parts = (max(0.0, over_items - residual / n_seeds), max(0.0, float(seed_means.var(ddof=1)) - residual) / n_seeds, residual / n_seeds)
    total = sum(parts)
    # Rounding alone leaves some 1e-34 where all scores are equal.
    return VarianceShares(*(part / total for part in parts)) if total > 1e-20 else None


def _by_cluster(rows: FloatArray, codes: np.ndarray[tuple[int], np.dtype[np.intp]], count: int) -> FloatArray:
    """Sums by cluster: (rows, n) -> (rows, count)."""
    return np.stack([np.bincount(codes, row, count) for row in rows]).astype(np.float64)
