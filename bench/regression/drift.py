"""Slow decay that no single check sees: an e-process and a CUSUM over the checks of a measure, and where it began.

Two kinds of measures need two kinds of steps from one check to the next. Where nothing is trained, an answer changes only where the code
does and stays changed, so the clusters of items that became worse are counted against those that became better, and the differences
are what the CUSUM adds up. Where weights are trained, a change of the code can draw all of them anew: each check is then one draw around
a level, and is held against the mean of the earlier ones. Clusters would mislead there, as a training seed moves them together.

The share of histories of ``HORIZON`` checks without any change for the worse in which one of the detectors raises an alarm is at most 5 %
for all measures of a suite together; the tests simulate it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float64]
    IntArray = NDArray[np.int64]
    BoolArray = NDArray[np.bool_]

E_ALARM = 20.0
"""By Ville's inequality an e-process without loss ever reaches it with a probability of at most 1 in 20."""
SLACK = 0.5
"""k of the CUSUM, in standard deviations of a step: tuned to losses of one standard deviation a check."""
HORIZON = 300
CUSUM_ALARMS = 0.01
"""Share of histories of ``HORIZON`` checks in which the CUSUM of any measure may alarm falsely."""


@dataclass(frozen=True)
class Series:
    """One measure over T checks; all arrays (T,). The step to a check is from the one before it."""

    values: FloatArray
    """Higher is better: of other metrics the negative."""
    joined: BoolArray
    """Whether the step compares: the same items, libraries, hardware and kind of measure."""
    changed: BoolArray
    """Whether any score differs from the check before."""
    redrawn: BoolArray
    """Whether weights are trained, see above."""
    worse: IntArray
    """Clusters that became worse in the step, of measures that are not redrawn; those without a step have 0."""
    better: IntArray
    steps: FloatArray
    """The step in standard errors, see ``flip_step``; NaN where there is none."""
    seed_sds: FloatArray
    """Of ``values`` over training seeds, NaN where unknown."""
    n_seeds: IntArray

    def part(self, start: int, end: int) -> Series:
        """The checks from ``start`` on, before ``end``."""
        return Series(**{name: array[start:end] for name, array in vars(self).items()})


@dataclass(frozen=True)
class Alarm:
    """That a measure has become worse, by check numbers of its series."""

    detector: Literal["e-process", "CUSUM"]
    at: int
    """The check that raised it."""
    first_bad: int
    """Where the loss most likely began; the check before is the last good one."""
    over: int | None
    """The first later check that is as good as the last good one; None while it stands."""


@dataclass(frozen=True)
class Drift:
    """What the detectors say of a series after each check; both start anew at a release and when an alarm is over."""

    log_e: FloatArray
    """Natural logarithm of the e-process, (T,)."""
    cusum: FloatArray
    """(T,), in standard deviations of a step."""
    e_limit: float
    cusum_limit: float
    alarms: tuple[Alarm, ...]
    starts: tuple[int, ...]
    """The checks from which the detectors set out, the first 0; what they say of such a check is of what led to it."""
    judged: bool
    """Whether anything since the last start could be held against what was before, if only that nothing changed."""

    @property
    def standing(self) -> Alarm | None:
        """The alarm that is not over, by a repair or by a release."""
        return next((alarm for alarm in self.alarms if alarm.over is None and alarm.at > self.starts[-1]), None)


def watch(series: Series, n_measures: int, releases: Sequence[int] = ()) -> Drift:
    """Run both detectors. ``n_measures``: that are watched together; ``releases``: checks from which on both start anew, in order.

    The e-process alarms at ``E_ALARM`` times ``n_measures``: the mean of e-values is one, so that a single one counts by its share
    (e-Bonferroni, Vovk & Wang 2021, Annals of Statistics 49). It is the product of ``log_e_of_flips`` and ``log_e_of_redraws``.
    """
    import numpy as np

    count = len(series.values)
    log_e, total = np.zeros(count), np.zeros(count)
    e_limit, limit = E_ALARM * n_measures, cusum_limit(n_measures)
    alarms: list[Alarm] = []
    starts = [0]
    while True:
        start = starts[-1]
        release = next((release for release in releases if release > start), None)
        # The steps from ``start`` to ``last``: the check between two stretches ends one and is where the other sets out from.
        last = count - 1 if release is None else release
        part, new = series.part(start, last + 1), slice(start + 1, last + 1)
        z, worse, better = _scores(part, limit)
        e_part, total_part = log_e_of_steps(z, worse, better, part.redrawn), cusum(z)
        log_e[new], total[new] = e_part[1:], total_part[1:]
        found = _alarm(part, z, worse, better, e_part >= np.log(e_limit), total_part, limit)
        over = None
        if found is not None:
            over = None if found.over is None else start + found.over
            alarms.append(Alarm(found.detector, start + found.at, start + found.first_bad, over))
        if over is None and release is None:
            return Drift(log_e, total, e_limit, limit, tuple(alarms), tuple(starts), _judged(part, z))
        starts.append(last if over is None else over)


# ---------------------------------------------------------------------------------------------- e-process


def log_e_of_flips(worse: IntArray | Any, better: IntArray | Any) -> FloatArray:
    """ln E of w clusters that became worse and l that became better, counted from the start; any shape.

    H0: a cluster that changes becomes worse with a probability of at most 1/2, whatever was before. E is the likelihood ratio of the
    sequence against 1/2, mixed over p by a uniform prior on [1/2, 1]: E = 2^(w + l + 1) * integral from 1/2 to 1 of p^w (1 - p)^l dp =
    2^(w + l + 1) * B(w + 1, l + 1) * I_{1/2}(l + 1, w + 1), with I the regularised incomplete beta function (mixtures of likelihood ratios:
    Robbins 1970, Annals of Mathematical Statistics 41). With one more cluster its mean under p = 1/2 is E, so it goes on over any number of
    checks. Where I underflows (l far above w) E is within a thousandth of 1 / (l - w + 1).
    """
    import numpy as np
    from scipy.special import betainc, betaln

    w, l = np.asarray(worse, dtype=np.float64), np.asarray(better, dtype=np.float64)  # noqa: E741  as in the formula
    share = betainc(l + 1, w + 1, 0.5)
    far = share < 1e-290
    exact = (w + l + 1) * np.log(2) + betaln(w + 1, l + 1) + np.log(np.where(far, 1.0, share))
    return np.asarray(np.where(far, -np.log(np.maximum(l - w, 0) + 1), exact))


def log_e_of_redraws(loss: FloatArray | Any, n: IntArray | Any) -> FloatArray:
    """ln E of n scores that are standard normal under H0 and whose negatives add up to ``loss``; any shape.

    The likelihood ratio of a mean of -m against 0, mixed over m > 0 by a half-normal prior: E = 2 / sqrt(n + 1) *
    exp(loss^2 / (2 (n + 1))) * Phi(loss / sqrt(n + 1)) (Robbins 1970; Howard et al. 2021, Annals of Statistics 49, proposition 6).
    """
    import numpy as np
    from scipy.special import log_ndtr

    root = np.sqrt(np.asarray(n, dtype=np.float64) + 1)
    scaled = np.asarray(loss, dtype=np.float64) / root
    return np.asarray(np.log(2) - np.log(root) + scaled**2 / 2 + log_ndtr(scaled))


def log_e_of_steps(z: FloatArray, worse: IntArray, better: IntArray, redrawn: BoolArray) -> FloatArray:
    """ln E after each step, (T,)."""
    import numpy as np

    drawn = redrawn & np.isfinite(z)
    losses = np.cumsum(np.where(drawn, -z, 0.0))
    return log_e_of_flips(np.cumsum(worse), np.cumsum(better)) + log_e_of_redraws(losses, np.cumsum(drawn))


# ---------------------------------------------------------------------------------------------- CUSUM


def cusum(z: FloatArray) -> FloatArray:
    """S_t = max(0, S_{t-1} - z_t - k), (T,) (Page 1954, Biometrika 41); where z is NaN it stays as it was."""
    import numpy as np

    found, total = [], 0.0
    for score in z.tolist():
        if score == score:
            total = max(0.0, total - score - SLACK)
        found.append(total)
    return np.array(found)


def run_length(limit: float) -> float:
    """Mean number of steps to a false alarm at a limit: (exp(2kb) - 2kb - 1) / (2k^2), b = limit + 1.166 (Siegmund 1985, Sequential
    Analysis, section II.6; independent standard normal steps)."""
    import math

    exponent = 2 * SLACK * (limit + 1.166)
    return (math.exp(exponent) - exponent - 1) / (2 * SLACK**2)


def cusum_limit(n_measures: int) -> float:
    """The limit at which ``CUSUM_ALARMS`` of the histories of ``HORIZON`` checks with so many measures alarm falsely.

    The time to a false alarm is about exponential, with ``run_length`` as its mean. The usual limit of 5 would alarm in a quarter of the
    histories of one measure.
    """
    import math

    wanted = -HORIZON * n_measures / math.log(1 - CUSUM_ALARMS)
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if run_length(middle) < wanted else (low, middle)
    return high


# ---------------------------------------------------------------------------------------------- steps


def flip_step(before: FloatArray, after: FloatArray) -> tuple[int, int, float]:
    """Clusters that became worse, those that became better, and the step in standard errors; scores (C,), higher is better.

    The step is the sum of the clusters' differences over the root of the sum of their squares: standard normal for many clusters where a
    loss is as likely as a gain of the same size. NaN where none changed; clusters undefined in one are left out.
    """
    import numpy as np

    d = (after - before)[np.isfinite(after) & np.isfinite(before)]
    square = float((d**2).sum())
    return int((d < 0).sum()), int((d > 0).sum()), float(d.sum() / np.sqrt(square)) if square else float("nan")


def redraw_scores(values: FloatArray, seed_sds: FloatArray, n_seeds: IntArray, limit: float) -> FloatArray:
    """How far each draw lies from the mean of those before it, as standard normal scores, (T,); NaN where that is not known.

    Recursive residuals (Brown, Durbin & Evans 1975, JRSS B 37): w_t = (y_t - m) / sqrt(1/S_t + 1/sum S_i), with S the numbers of seeds
    and m the mean of the draws before, weighted by S. Each is divided by the root of s^2, the variance of one seed's value: the variance
    between seeds of the draws so far, S - 1 degrees of freedom each, pooled with the squares of the earlier w, one each. It holds the
    redraw of single answers as well as shifts of the whole, and one seed a draw will do from the third on. The quotients have
    independent t distributions while the level stays (Quesenberry 1991, Journal of Quality Technology 23), which are turned into the
    normal one. A level that rises is learnt anew: where a CUSUM of gains reaches ``limit``, the mean begins at the start of the rise.
    """
    import numpy as np

    z = _residuals(values, seed_sds, n_seeds, 0)
    known = 0
    while True:
        gains = cusum(-z[known:])
        over = np.flatnonzero(gains >= limit)
        if not len(over):
            return z
        start = known + _after_zero(gains, int(over[0]))
        known += int(over[0]) + 1
        z[known:] = _residuals(values, seed_sds, n_seeds, start)[known:]


def _residuals(values: FloatArray, seed_sds: FloatArray, n_seeds: IntArray, start: int) -> FloatArray:
    """Scores with a mean from ``start`` on, (T,)."""
    import numpy as np
    from scipy.special import ndtri, stdtr

    own_df = np.where(np.isfinite(seed_sds), n_seeds - 1, 0)
    squares = np.cumsum(own_df * n_seeds * np.nan_to_num(seed_sds) ** 2)[start:]
    y, seeds = values[start:], n_seeds[start:].astype(np.float64)
    weight = np.cumsum(seeds) - seeds
    with np.errstate(divide="ignore", invalid="ignore"):
        residuals = (y - (np.cumsum(seeds * y) - seeds * y) / weight) / np.sqrt(1 / seeds + 1 / weight)
        residuals[0] = 0.0
        squares += np.cumsum(residuals**2) - residuals**2
        df = np.cumsum(own_df)[start:] + np.maximum(np.arange(len(y)) - 1, 0)
        t = residuals / np.sqrt(squares / df)
    known = (np.arange(len(y)) > 0) & (df > 0) & np.isfinite(t)
    tail = np.maximum(stdtr(np.where(known, df, 1), np.where(known, -np.abs(t), 0.0)), 1e-300)
    return np.concatenate([np.full(start, np.nan), np.where(known, -np.sign(t) * ndtri(tail), np.nan)])


def _scores(part: Series, limit: float) -> tuple[FloatArray, IntArray, IntArray]:
    """Steps as standard normal scores, and clusters that became worse and better, all (T,); the first check has no step."""
    import numpy as np

    first = np.arange(len(part.values)) == 0
    joined = part.joined & ~first
    z = np.where(joined & ~part.redrawn, part.steps, np.nan)
    chains = np.cumsum(~joined)
    for chain in np.unique(chains[part.redrawn]):
        # An unchanged trained model is no new draw.
        draws = np.flatnonzero((chains == chain) & (part.changed | ~joined))
        z[draws] = redraw_scores(part.values[draws], part.seed_sds[draws], part.n_seeds[draws], limit)
    counted = joined & ~part.redrawn
    return z, np.where(counted, part.worse, 0), np.where(counted, part.better, 0)


def _judged(part: Series, z: FloatArray) -> bool:
    import numpy as np

    joined, known = part.joined[1:], np.isfinite(z[1:])
    return bool(joined.any() and (known.any() or not (joined & part.changed[1:]).any()))


# ---------------------------------------------------------------------------------------------- alarms


def _alarm(
    part: Series, z: FloatArray, worse: IntArray, better: IntArray, by_e: BoolArray, total: FloatArray, limit: float
) -> Alarm | None:
    """The first alarm."""
    import numpy as np

    raised = np.flatnonzero(by_e | (total >= limit))
    if not len(raised):
        return None
    at = int(raised[0])
    first_bad = _most_likely_start(z, worse, better, part.redrawn, at)
    chains = np.cumsum(~part.joined)
    as_good = (part.values >= part.values[first_bad - 1]) & (chains == chains[first_bad - 1])
    over = np.flatnonzero(as_good[at + 1 :])
    return Alarm("e-process" if by_e[at] else "CUSUM", at, first_bad, at + 1 + int(over[0]) if len(over) else None)


def _after_zero(total: FloatArray, at: int) -> int:
    """The first step after the CUSUM was last 0 (Page 1954). It is 0 at the first check, which has no step."""
    return int((total[:at] == 0).nonzero()[0][-1]) + 1


def _most_likely_start(z: FloatArray, worse: IntArray, better: IntArray, redrawn: BoolArray, at: int) -> int:
    """The step from which on, up to ``at``, ``log_e_of_steps`` is largest; of equal ones the last, before which nothing changed.

    For alarms of the CUSUM too: where it was last 0 (Page's estimate) is off by more than two checks twice as often.
    """
    import numpy as np

    suffixes = log_e_of_steps(z[at:0:-1], worse[at:0:-1], better[at:0:-1], redrawn[at:0:-1])
    return at - int(np.argmax(suffixes))
