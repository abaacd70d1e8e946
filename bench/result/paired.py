"""Tests on pairs beside the sign-flip test: McNemar, equivalence, and the smallest difference that could be seen.

All are about the same items answered by two arms. Differences with their standard errors come from ``statistics.paired_difference``.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from bench.result.statistics import Difference, FloatArray, wilson_interval
from bench.result.student_t import t_quantile, t_within

ALPHA = 0.05
POWER = 0.8


class McNemar(NamedTuple):
    """McNemar's test of two 0/1 scores on the same items."""

    b: int
    """Items that only the first has right."""
    c: int
    """Items that only the second has right."""
    p: float
    """Exact, two-sided; for decisions."""
    mid_p: float
    """Less conservative; for reports."""


class Equivalence(NamedTuple):
    """Two one-sided tests (TOST) of a difference against a margin."""

    p: float
    """The larger of the two one-sided p."""
    low: float
    """The interval whose lying inside the margin is the same as p <= alpha (90 % for alpha .05)."""
    high: float
    equivalent: bool


def mcnemar(b: int, c: int) -> McNemar:
    """McNemar's exact test from the discordant counts, items being independent (clusters are not seen).

    p = min(1, 2 P[Bin(b + c, 1/2) <= min(b, c)]), mid-p = that less P[Bin = min(b, c)] (McNemar 1947; Fagerland et al. 2013). Under
    six discordant pairs p cannot reach .05. Raises ValueError for a negative count.
    """
    if b < 0 or c < 0:
        raise ValueError(f"discordant pairs: found {b} and {c}, expected counts of 0 or more")
    n = b + c
    at = below = 1  # ways to have 0 of n; whole numbers, since 2 ** n of a thousand pairs fits no float
    for k in range(min(b, c)):
        at = at * (n - k) // (k + 1)
        below += at
    return McNemar(b, c, min(1.0, 2 * below / 2**n), min(1.0, (2 * below - at) / 2**n))


def discordant(a: FloatArray, b: FloatArray) -> tuple[int, int] | None:
    """(only A right, only B right) of scores (n,); items with a NaN are left out; None where a score is neither 0 nor 1."""
    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known], b[known]
    if not (np.isin(a, (0.0, 1.0)).all() and np.isin(b, (0.0, 1.0)).all()):
        return None
    return int(np.count_nonzero(a > b)), int(np.count_nonzero(b > a))


def wins_losses_ties(a: FloatArray, b: FloatArray, *, higher_is_better: bool = True) -> tuple[int, int, int]:
    """Items on which A is better, worse and the same, of scores (n,); items with a NaN are left out; equal up to rounding is the same."""
    d = (a - b)[np.isfinite(a) & np.isfinite(b)] * (1 if higher_is_better else -1)
    wins, losses = int(np.count_nonzero(d > 1e-9)), int(np.count_nonzero(d < -1e-9))
    return wins, losses, len(d) - wins - losses


def tost(difference: Difference, margin: float, alpha: float = ALPHA) -> Equivalence | None:
    """Whether a difference lies within +- ``margin``: both one-sided t tests at ``alpha`` (Schuirmann 1987); None without an interval.

    The same as the 1 - 2 alpha interval lying inside the margin; where no item differs that has Wilson's width, and so has p.
    Raises ValueError for a margin that is not above 0.
    """
    if not margin > 0:
        raise ValueError(f"margin: found {margin}, expected a number above 0")
    interval = difference.interval(1 - 2 * alpha)
    if interval is None or difference.standard_error is None or difference.df is None:
        return None
    room, error, clusters = margin - abs(difference.delta), difference.standard_error, difference.constant_over
    if error > 0:
        within = t_within(abs(room) / error, difference.df)
        p = (1 - within) / 2 if room >= 0 else (1 + within) / 2
    else:
        p = 0.0 if room > 0 else 1.0
    if clusters and 0 < room < 1:
        # The alpha at which Wilson's bound z^2 / (C + z^2) for 0 of C clusters reaches the margin.
        p = max(p, 1 - NormalDist().cdf(math.sqrt(clusters * room / (1 - room))))
    return Equivalence(p, *interval, p <= alpha)


def minimum_detectable_effect(discordance: float, n: int, alpha: float = ALPHA, power: float = POWER, m: int = 1) -> float:
    """Smallest difference of two accuracies on the same ``n`` independent items that is found with probability ``power``.

    (z_{1 - alpha / 2m} + z_power) sqrt(discordance / n), where ``discordance`` is the share of items that exactly one has right and
    ``m`` the number of comparisons that Holm corrects for (its strictest step). For planning; see ``detectable_difference`` for
    what a run could show. Raises ValueError for a share outside [0, 1] or n below 1.
    """
    if not 0 <= discordance <= 1 or n < 1:
        raise ValueError(f"discordance {discordance} and n {n}: expected a share in [0, 1] and at least one item")
    normal = NormalDist()
    return (normal.inv_cdf(1 - alpha / (2 * m)) + normal.inv_cdf(power)) * math.sqrt(discordance / n)


def detectable_difference(difference: Difference, alpha: float = ALPHA, power: float = POWER, m: int = 1) -> float | None:
    """Smallest true difference that a comparison with this standard error finds with probability ``power``; None without one.

    (t_{1 - alpha / 2m} + t_power) SE with the difference's degrees of freedom (Bloom 1995), so clusters and seeds are in it. Where no
    item differs, the standard error is at least that of Wilson's upper bound for 0 of C clusters. Raises ValueError for a
    power that is not above one half.
    """
    if not 0.5 < power < 1:
        raise ValueError(f"power: found {power}, expected more than .5 and less than 1")
    if difference.standard_error is None or difference.df is None:
        return None
    error, df, clusters = difference.standard_error, difference.df, difference.constant_over
    if clusters and error < (least := math.sqrt(wilson_interval(0.0, clusters)[1] / clusters)):
        error, df = least, clusters - 1
    return (t_quantile(1 - alpha / m, df) + t_quantile(2 * power - 1, df)) * error
