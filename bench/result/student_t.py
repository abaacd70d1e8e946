"""Student's t distribution. scipy has it too, but importing it takes longer than making a table."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray


def t_within(t: float, df: float) -> float:
    """P(-t < T < t) of Student's t.

    For whole ``df`` a finite sum (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4), right to 1e-12 up to 10,000 degrees of freedom. Else
    2 / B(1/2, df/2) times the integral of cos(x)^(df - 1) from 0 to atan(t / sqrt(df)), by Gauss-Legendre quadrature, right to 1e-5.
    Raises ValueError for ``df`` below 1.
    """
    if df < 1:
        raise ValueError(f"degrees of freedom: found {df}, expected at least 1")
    angle = math.atan(t / math.sqrt(df))
    if df != int(df):
        nodes, weights = _quadrature()
        log_beta = math.lgamma(0.5) + math.lgamma(df / 2) - math.lgamma((df + 1) / 2)
        return angle * math.exp(-log_beta) * float(weights @ np.cos(angle * (nodes + 1) / 2) ** (df - 1))
    sine, cosine = math.sin(angle), math.cos(angle)
    k = np.arange(1 + df % 2, df - 1, 2)
    series = 1.0 + float(np.cumprod(k / (k + 1) * cosine**2).sum())
    if df % 2 == 0:
        return sine * series
    return 2 / math.pi * (angle + (sine * cosine * series if df > 1 else 0.0))


@lru_cache(maxsize=1)
def _quadrature() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    nodes, weights = np.polynomial.legendre.leggauss(64)
    return nodes, weights


@lru_cache(maxsize=1000)
def t_quantile(level: float, df: float) -> float:
    """The t between whose negative and itself Student's t lies with probability ``level``. Raises ValueError as ``t_within``.

    Newton's method: on the positive side the probability is concave in t, so from the normal quantile, which is smaller, it only climbs.
    """
    t = NormalDist().inv_cdf(0.5 + level / 2)
    step = t
    while step > 1e-14 * t:
        missing = level - t_within(t, df)
        log_density = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - (math.log(df * math.pi) + (df + 1) * math.log1p(t * t / df)) / 2
        step = missing / (2 * math.exp(log_density))
        t += step
    return t
