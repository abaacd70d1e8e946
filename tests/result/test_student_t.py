"""Student's t against scipy's."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from bench.result.student_t import t_quantile, t_within

DEGREES = [*range(1, 60), 119, 120, 399, 400, 1999, 10_000]


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9, 0.95, 0.99, 0.9999])
def test_quantiles(level: float) -> None:
    for df in DEGREES:
        assert t_quantile(level, df) == pytest.approx(stats.t.ppf(0.5 + level / 2, df), rel=1e-10 if level > 0.99 else 3e-12)


@pytest.mark.parametrize("t", [0.0, 0.01, 0.5, 1.0, 2.0, 5.0, 30.0, 1e6])
def test_probabilities(t: float) -> None:
    for df in DEGREES:
        assert t_within(t, df) == pytest.approx(1 - 2 * stats.t.sf(t, df), abs=1e-12)


def test_one_and_two_degrees_of_freedom_by_hand() -> None:
    assert t_within(1.0, 1) == pytest.approx(0.5, abs=1e-15)  # Cauchy
    assert t_within(math.sqrt(2), 2) == pytest.approx(math.sqrt(0.5), abs=1e-15)  # t / sqrt(2 + t^2)
    assert t_quantile(0.5, 1) == pytest.approx(1.0, rel=1e-14)


@pytest.mark.parametrize("df", [0, -3])
def test_no_degrees_of_freedom_are_an_error(df: int) -> None:
    with pytest.raises(ValueError, match=f"degrees of freedom: found {df}"):
        t_within(1.0, df)
    with pytest.raises(ValueError, match=f"degrees of freedom: found {df}"):
        t_quantile(0.95, df)


@pytest.mark.parametrize("df", [1.01, 1.5, 2.5, 4.7, 20.3, 399.7, 9999.5])
def test_a_fraction_of_a_degree_of_freedom(df: float) -> None:
    for t in (0.01, 0.5, 2.0, 5.0, 30.0):
        assert t_within(t, df) == pytest.approx(1 - 2 * stats.t.sf(t, df), abs=1e-5)
    for level in (0.5, 0.9, 0.95, 0.99):
        assert t_quantile(level, df) == pytest.approx(stats.t.ppf(0.5 + level / 2, df), rel=1e-5)


def test_a_fraction_goes_over_into_whole_degrees() -> None:
    assert t_quantile(0.95, 5 + 1e-9) == pytest.approx(t_quantile(0.95, 5), rel=1e-8)
