"""How well a score tells what is wrong from what is right: AUROC and average precision with intervals, and differences of the two.

A score is higher where a response is more likely wrong. What a score is undefined for is left out and counted with the reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.result.schema import MetricValue
from bench.result.statistics import FloatArray, Interval, clustered_interval

RESAMPLES = 2000


class Undefined(NamedTuple):
    """A score that does not exist, and why."""

    reason: str


Score = float | Undefined


@dataclass(frozen=True)
class Scored:
    """Scores (n,), whether each item is positive (n,), and its cluster: those of the items that have a score."""

    scores: FloatArray
    positive: NDArray[np.bool_]
    clusters: NDArray[np.str_]

    @property
    def has_both(self) -> bool:
        """Whether there is anything to tell apart."""
        return bool(self.positive.any() and not self.positive.all())


def auroc(scores: ArrayLike, positive: ArrayLike, weights: ArrayLike | None = None) -> FloatArray:
    """Area under the ROC curve: the probability that a positive item scores above a negative one, ties counted half (Hanley and
    McNeil 1982).

    scores (n,), positive (n,) of bool, weights (R, n) or (n,) or None for one each; gives (R,), or () for weights (n,) and None.
    NaN where the positive or the negative items weigh nothing.
    """
    values, hits = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    given = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    ordered, table = values[order], np.atleast_2d(given)[:, order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    above = np.add.reduceat(table * hits[order], starts, axis=1)
    below = np.add.reduceat(table * ~hits[order], starts, axis=1)
    won = (above * (np.cumsum(below, axis=1) - below / 2)).sum(axis=1)
    pairs = above.sum(axis=1) * below.sum(axis=1)
    found = np.divide(won, pairs, out=np.full(len(won), np.nan), where=pairs > 0)
    return found if given.ndim == 2 else np.asarray(found[0])


def average_precision(scored: Scored) -> float:
    """Mean precision at each positive item, ranked by score; the share of positive items is what a useless score gets."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(scored.positive, scored.scores))


def auroc_interval(scored: Scored, seed: int = 0) -> Interval:
    """AUROC with a 95 % percentile interval of a bootstrap over clusters. Raises ValueError unless there are items of both kinds."""
    return _interval(float(_both(scored)), auroc(scored.scores, scored.positive, cluster_draws(scored.clusters, seed)), scored.clusters)


def auroc_difference(first: Scored, second: Scored, seed: int = 0) -> Interval:
    """AUROC of the first minus that of the second on the same items, with a 95 % interval of a bootstrap over clusters."""
    if not (np.array_equal(first.positive, second.positive) and np.array_equal(first.clusters, second.clusters)):
        raise ValueError("two AUROCs differ in their items; a paired difference needs the same")
    draws = cluster_draws(first.clusters, seed)
    resampled = auroc(first.scores, first.positive, draws) - auroc(second.scores, second.positive, draws)
    return _interval(float(_both(first) - _both(second)), resampled, first.clusters)


def defined(scores: Sequence[Score], positive: Sequence[bool], clusters: Sequence[str]) -> tuple[Scored, dict[str, int]]:
    """The items that have a score, and how many have none by reason."""
    kept = [i for i, score in enumerate(scores) if not isinstance(score, Undefined)]
    reasons = Counter(score.reason for score in scores if isinstance(score, Undefined))
    return (
        Scored(
            np.array([scores[i] for i in kept], dtype=np.float64),
            np.array([positive[i] for i in kept], dtype=bool),
            np.array([clusters[i] for i in kept], dtype=str),
        ),
        dict(sorted(reasons.items())),
    )


def separation(scores: Sequence[Score], positive: Sequence[bool], clusters: Sequence[str]) -> MetricValue | None:
    """The AUROC of scores as a measured value; None where the items that have a score are not of both kinds."""
    scored, reasons = defined(scores, positive, clusters)
    if not scored.has_both:
        return None
    value, low, high = auroc_interval(scored)
    n = len(scored.scores)
    return MetricValue(value=value, ci_low=low, ci_high=high, n_scored=n, n_undefined=len(scores) - n, undefined=reasons)


def cluster_draws(clusters: NDArray[np.str_], seed: int = 0) -> FloatArray:
    """How often each item is in each resample, (R, n): clusters are drawn with replacement."""
    names, codes = np.unique(clusters, return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=RESAMPLES)
    return np.asarray(drawn[:, codes], dtype=np.float64)


def mean_value(scores: Mapping[str, Score], clusters: Mapping[str, str], most: float = 1.0) -> MetricValue | None:
    """The mean of item scores in [0, most] with its 95 % interval, clustered by `clusters` (item id -> cluster); None without a score."""
    scored, reasons = defined(list(scores.values()), [False] * len(scores), [clusters[name] for name in scores])
    n = len(scored.scores)
    if not n:
        return None
    value, low, high = clustered_interval(scored.scores, scored.clusters.tolist())
    if low is not None and high is not None:
        low, high = max(0.0, low), min(most, high)
    return MetricValue(value=value, ci_low=low, ci_high=high, n_scored=n, n_undefined=len(scores) - n, undefined=reasons)


def numbers_of(scores: Mapping[str, Score]) -> dict[str, float]:
    """The scores that are defined."""
    return {name: score for name, score in scores.items() if not isinstance(score, Undefined)}


def _both(scored: Scored) -> FloatArray:
    if not scored.has_both:
        raise ValueError("an AUROC needs items of both kinds")
    return auroc(scored.scores, scored.positive)


def _interval(value: float, resampled: FloatArray, clusters: NDArray[np.str_]) -> Interval:
    # A resample may lack the items of one kind.
    finite = resampled[np.isfinite(resampled)]
    # Where all resamples are the same (all are told apart, say), their spread says nothing.
    if len(np.unique(clusters)) < 2 or not len(finite) or finite.min() == finite.max():
        return Interval(value, None, None)
    low, high = np.quantile(finite, [0.025, 0.975])
    return Interval(value, float(low), float(high))
