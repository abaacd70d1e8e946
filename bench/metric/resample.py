"""Intervals of metrics over items: within the metric's bounds, and by resampling for what is no mean of item scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bench.result.statistics import clustered_interval

if TYPE_CHECKING:
    from bench.metric.base import Metric
    from bench.metric.sample import Sample

_CELLS = 2_000_000
"""Resamples times items that are worked on at a time: 16 MB an array."""


class Resamples:
    """Bootstrap resamples of one set of items, the same for all metrics: clusters drawn with replacement, seeded."""

    def __init__(self, clusters: Sequence[str], n_resamples: int = 400, seed: int = 0) -> None:
        names, self._codes = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
        self._count = len(names)
        draws = np.random.default_rng(seed).integers(0, max(1, self._count), size=(n_resamples, self._count))
        self._drawn = np.stack([np.bincount(draw, minlength=self._count) for draw in draws]).astype(np.float64)

    def interval(self, metric: Metric, samples: Sequence[Sample], value: float, level: float = 0.95) -> tuple[float, float] | None:
        """Low and high around the `value` of the items; None for fewer than two clusters, or where no two resamples differ.

        The percentile interval. Where the metric is `biased_up`, a resample, which adds its noise to that of the items, lies above them as
        they do above the truth: the lower end is then also that of the basic interval, value - (high - value), if that is less.
        Resamples on which the metric is undefined are left out.
        """
        if self._count < 2:
            return None
        statistic = metric.statistic(samples)
        rows = max(1, _CELLS // len(samples))
        parts = [statistic(self._drawn[at : at + rows][:, self._codes]) for at in range(0, len(self._drawn), rows)]
        values = np.concatenate(parts)
        values = values[np.isfinite(values)]
        if not len(values) or values.min() == values.max():  # as if it were certain: all abstained, say, or all are right
            return None
        low, high = map(float, np.quantile(values, [0.5 - level / 2, 0.5 + level / 2]))
        if metric.biased_up:
            low = min(low, 2 * value - high)
        return max(metric.bounds[0], min(low, value)), min(metric.bounds[1], max(high, value))


def mean_interval(scores: Sequence[float], clusters: Sequence[str], bounds: tuple[float, float]) -> tuple[float | None, float | None]:
    """Low and high of `clustered_interval` for scores with these bounds; None for fewer than two clusters.

    Scores that are all at one bound have Wilson's interval, as all 0 or all 1 have it there; where all are the same between the bounds,
    their variance says nothing and there is none. Bounds that some score does not keep to are no bounds.
    """
    low, high = bounds
    least, most = min(scores), max(scores)
    if low <= least and most <= high < math.inf:
        if low < least == most < high:
            return None, None
        width = high - low
        found = clustered_interval([(s - low) / width for s in scores], clusters, clip=True)
        return (None, None) if found.low is None or found.high is None else (low + width * found.low, low + width * found.high)
    if least == most:
        return None, None
    found = clustered_interval(scores, clusters)
    return (found.low if found.low is None or least < low else max(low, found.low)), found.high
