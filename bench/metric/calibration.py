"""Estimators of how confidence goes with being right: calibration, discrimination, what refusing the least confident answers gains.

Each takes counts of items by level of confidence in any number of resamples. Items of equal confidence are never parted by their order:
they share a bin, and rank as the mean over all orders.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.result.statistics import FloatArray

BINS: Final = 15
ITEMS_PER_BIN: Final = 10
"""Fewer bins where one would hold fewer items."""
COVERAGE: Final = 0.8


@dataclass(frozen=True)
class Ranked:
    """Items in the order of falling confidence, by level: the items of equal confidence."""

    confidence: FloatArray
    """(G,): of each level, falling."""
    order: NDArray[np.intp]
    """(n,): the items, most confident first."""
    starts: NDArray[np.intp]
    """(G,): where each level begins in that order."""
    correct: FloatArray
    """(n,): 1 for right, in that order."""

    @classmethod
    def of(cls, confidence: Sequence[float] | FloatArray, correct: Sequence[float] | FloatArray) -> Ranked:
        values = np.asarray(confidence, dtype=np.float64)
        order = np.argsort(-values, kind="stable")
        levels, starts = np.unique(-values[order], return_index=True)
        return cls(-levels, order, starts, np.asarray(correct, dtype=np.float64)[order])

    def counts(self, weights: FloatArray | None = None) -> Counts:
        """Of resamples that draw each item so often, (R, n) in the items' own order; by default the items themselves, R = 1."""
        drawn = np.ones((1, len(self.order))) if weights is None else weights[:, self.order]
        items = np.add.reduceat(drawn, self.starts, axis=1)
        return Counts(self.confidence, items, np.add.reduceat(drawn * self.correct, self.starts, axis=1))


@dataclass(frozen=True)
class Counts:
    """Items and right ones by level of confidence, in R resamples."""

    confidence: FloatArray
    """(G,), falling."""
    items: FloatArray
    """(R, G)"""
    right: FloatArray
    """(R, G)"""

    @property
    def total(self) -> FloatArray:
        """(R,)"""
        return np.asarray(self.items.sum(axis=1))

    def binned(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Items, their summed confidence and right ones, each (R, bins), in bins of about equally many items.

        `BINS` of them, or as many as leave `ITEMS_PER_BIN` to each. A level goes whole to the bin of its middle item.
        """
        n_bins = int(max(1, min(BINS, self.total.max() // ITEMS_PER_BIN)))
        middle = np.cumsum(self.items, axis=1) - self.items / 2
        place = np.minimum(n_bins - 1, n_bins * middle / np.maximum(self.total, 1)[:, None]).astype(np.intp)
        at = (place + n_bins * np.arange(len(place))[:, None]).ravel()
        shape = (len(place), n_bins)

        def summed(values: FloatArray) -> FloatArray:
            return np.bincount(at, values.ravel(), shape[0] * n_bins).astype(np.float64).reshape(shape)

        return summed(self.items), summed(self.items * self.confidence), summed(self.right)


def calibration_error(counts: Counts) -> FloatArray:
    """Expected calibration error (R,): sum_b n_b / n |acc_b - conf_b| over bins of equal mass, corrected for noise (Guo et al. 2017).

    With few items in a bin its accuracy differs from its confidence by chance alone, which the plain sum counts as miscalibration
    (.06 for a perfectly calibrated model and 400 items). So each gap is replaced by the one whose mean absolute value, with the bin's
    binomial noise, is what was seen: the mean of a folded normal, inverted. What is left of the bias at 400 items is .04 for perfect
    calibration and within .01 from a true error of .05 on.
    """
    n, sure, right = counts.binned()
    several = np.maximum(n, 1)
    gap = np.abs(right - sure) / several
    expected = (right + sure / several) / (several + 1)  # one item's worth of the forecast, so that no noise is zero
    noise = np.sqrt(np.maximum(expected * (1 - expected) / several, 1e-12))
    return np.asarray((n * _without_noise(gap / noise) * noise).sum(axis=1) / counts.total)


_GAPS: Final = np.linspace(0, 6, 601)
_SEEN: Final = np.array([math.sqrt(2 / math.pi) * math.exp(-(x**2) / 2) + x * (1 - 2 * NormalDist().cdf(-x)) for x in _GAPS])


def _without_noise(seen: FloatArray) -> FloatArray:
    """The m >= 0 for which E|N(m, 1)| is what was seen; 0 where that is less than any such mean."""
    return np.where(seen >= _SEEN[-1], seen, np.interp(seen, _SEEN, _GAPS))


@dataclass(frozen=True)
class BrierParts:
    """Brier score = reliability - resolution + uncertainty + within, each (R,)."""

    reliability: FloatArray
    """sum_b n_b / n (conf_b - acc_b)^2: 0 is calibrated."""
    resolution: FloatArray
    """sum_b n_b / n (acc_b - acc)^2: how far confidence tells right from wrong."""
    uncertainty: FloatArray
    """acc (1 - acc)"""
    within: FloatArray
    """What the confidences vary within bins: the remainder that makes the sum exact (Stephenson et al. 2008)."""

    @property
    def brier(self) -> FloatArray:
        return self.reliability - self.resolution + self.uncertainty + self.within


def brier_parts(counts: Counts) -> BrierParts:
    """The Brier score in parts (Murphy 1973), over bins of equal mass."""
    n, sure, right = counts.binned()
    total = counts.total[:, None]
    several = np.maximum(n, 1)
    accuracy = right.sum(axis=1, keepdims=True) / total
    reliability = (n * ((sure - right) / several) ** 2).sum(axis=1) / total[:, 0]
    resolution = (n * (right / several - accuracy) ** 2).sum(axis=1) / total[:, 0]
    c = counts.confidence
    brier = (counts.items * c**2 - 2 * c * counts.right + counts.right).sum(axis=1) / total[:, 0]
    uncertainty = (accuracy * (1 - accuracy))[:, 0]
    return BrierParts(reliability, resolution, uncertainty, brier - (reliability - resolution + uncertainty))


def area_under_roc(counts: Counts) -> FloatArray:
    """P(a right answer has a higher confidence than a wrong one), ties half (R,); NaN where all are right, or none."""
    wrong = counts.items - counts.right
    below = wrong.sum(axis=1, keepdims=True) - np.cumsum(wrong, axis=1)
    pairs = counts.right.sum(axis=1) * wrong.sum(axis=1)
    return np.asarray((counts.right * (below + wrong / 2)).sum(axis=1) / np.where(pairs == 0, np.nan, pairs))


def area_under_risk_coverage(counts: Counts) -> FloatArray:
    """Mean over k = 1..n of the error rate among the k most confident (R,) (Geifman and El-Yaniv 2017).

    Within a level the mean over all orders: of m items, e of them wrong, behind N items with E wrong, the sum over their k is
    e + (E - N e / m) (H(N + m) - H(N)), with the harmonic numbers H.
    """
    wrong = counts.items - counts.right
    n_to, wrong_to = np.cumsum(counts.items, axis=1), np.cumsum(wrong, axis=1)
    n_before, wrong_before = n_to - counts.items, wrong_to - wrong
    harmonic = _harmonic(int(counts.total.max(initial=0)))
    behind = harmonic[n_to.astype(np.intp)] - harmonic[n_before.astype(np.intp)]
    share = wrong / np.maximum(counts.items, 1)
    return np.asarray((wrong + (wrong_before - n_before * share) * behind).sum(axis=1) / counts.total)


def excess_area(counts: Counts) -> FloatArray:
    """`area_under_risk_coverage` minus the least that the same number of wrong answers allows, all of them least confident (R,)."""
    n, right = counts.total.astype(np.intp), counts.right.sum(axis=1).astype(np.intp)
    harmonic = _harmonic(int(n.max(initial=0)))
    least = ((n - right) - right * (harmonic[n] - harmonic[right])) / n
    return np.asarray(area_under_risk_coverage(counts) - least)


def accuracy_at_coverage(counts: Counts, coverage: float = COVERAGE) -> FloatArray:
    """Share of right answers among the most confident `coverage` of them (R,); a level that is cut counts in proportion."""
    kept = coverage * counts.total
    before = np.cumsum(counts.items, axis=1) - counts.items
    taken = np.clip(kept[:, None] - before, 0, counts.items)
    return np.asarray((counts.right / np.maximum(counts.items, 1) * taken).sum(axis=1) / kept)


def _harmonic(n: int) -> FloatArray:
    """H(0) to H(n)."""
    return np.concatenate([[0.0], np.cumsum(1 / np.arange(1, n + 1))])
