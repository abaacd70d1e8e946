"""A contrast against analytic values, the paired test it generalises, and simulated coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from bench.result.contrast import KNOWN_DF, Contrast, Known, Part, Seeds, contrast, slope_weights
from bench.result.statistics import joint_df, paired_difference, pooled_seed_variance, seed_variances, wilson_interval

RNG = np.random.default_rng(3)


def part(weight: float, scores: np.ndarray, clusters: list[str] | None = None, seeds: Seeds | None = None) -> Part:
    return Part(weight, scores, tuple(clusters or map(str, range(len(scores)))), seeds)


def test_two_arms_on_the_same_items_are_the_clustered_paired_difference() -> None:
    a, b = RNG.random(60), RNG.random(60)
    clusters = [str(i // 3) for i in range(60)]
    found = contrast([part(1, a, clusters), part(-1, b, clusters)])
    expected = paired_difference(a, b, clusters, level=0.9)
    assert found.estimate == pytest.approx(expected.delta)
    assert found.interval(0.9) == pytest.approx((expected.low, expected.high))
    assert (found.df, found.n_clusters) == (19, 20)


def test_p_values_are_those_of_a_paired_t_test() -> None:
    a, b = RNG.normal(0.6, 0.2, 40), RNG.normal(0.5, 0.2, 40)
    found = contrast([part(1, a), part(-1, b)])
    assert found.p_for("greater", 0.0) == pytest.approx(stats.ttest_rel(a, b, alternative="greater").pvalue)
    assert found.p_against("not_greater", 0.1) == pytest.approx(found.p_for("greater", 0.0))
    assert found.p_for("not_greater", 0.05) == pytest.approx(stats.ttest_1samp(a - b, 0.05, alternative="less").pvalue)
    lower = stats.ttest_1samp(a - b, -0.05, alternative="greater").pvalue
    assert found.p_for("equal", 0.05) == pytest.approx(max(lower, found.p_for("not_greater", 0.05)))


def test_arms_on_other_items_are_independent() -> None:
    a, b = RNG.random(50), RNG.random(30)
    found = contrast([part(1, a), Part(-1, b, tuple(f"other{i}" for i in range(30)))])
    n = 80
    expected = math.sqrt(n / (n - 1) * (a.var() / 50 + b.var() / 30))
    assert found.error == pytest.approx(expected)


def test_seed_variance_is_weighted_and_the_degrees_of_freedom_are_satterthwaites() -> None:
    a = RNG.random(40)
    plain = contrast([part(2, a)])
    seeded = contrast([part(2, a, seeds=Seeds(0.01, 0.012, 4, "x"))])
    assert seeded.error**2 == pytest.approx(plain.error**2 + 4 * 0.01)
    assert seeded.df == pytest.approx(joint_df(plain.error**2, 39, 0.04, 0.048, 4))
    known = contrast([Known(2, 0.3, 0.05, Seeds(0.01, 0.012, 4, "x"))])
    assert (known.estimate, known.error) == (pytest.approx(0.6), pytest.approx(2 * math.sqrt(0.05**2 + 0.01)))
    assert known.df == pytest.approx(joint_df(0.01, KNOWN_DF, 0.04, 0.048, 4))


def test_two_pools_of_seeds_have_more_degrees_of_freedom_than_one() -> None:
    a, b = RNG.random(40), RNG.random(40)
    one, two = (
        contrast([part(1, a, seeds=Seeds(1.0, 1.0, 2, "x")), part(-1, b, seeds=Seeds(1.0, 1.0, 2, pool))]) for pool in ("x", "y")
    )
    assert one.df == pytest.approx(2, abs=0.1)
    assert two.df == pytest.approx(4, abs=0.1)
    assert one.error == two.error


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_intervals_over_items_and_seeds_cover(noise: float) -> None:
    """Two arms of three seeds, truly equal in expectation: the 90 % interval of their difference holds 0 at least nine times in ten."""
    rng, inside, clusters = np.random.default_rng(2), 0, tuple(map(str, range(200)))
    for _ in range(400):
        ease = rng.normal(0, 1.5, 200)
        tables = [(rng.random((3, 200)) < 1 / (1 + np.exp(-(ease + rng.normal(0, noise, (3, 1)))))).astype(float) for _ in range(4)]
        excess, df = pooled_seed_variance(tables, [clusters] * 4)
        parts = [
            part(w, t.mean(axis=0), seeds=Seeds(excess / 3, (excess + seed_variances(t, clusters)[1]) / 3, df, "family"))
            for w, t in zip((1, -1), tables, strict=False)
        ]
        low, high = contrast(parts).interval(0.9)
        inside += low <= 0 <= high
    assert 0.87 <= inside / 400 <= 0.97


def test_where_no_item_differs_the_error_is_not_zero() -> None:
    ones = np.ones(50)
    found = contrast([part(1, ones), part(-1, ones)])
    assert found.estimate == 0
    assert found.error == pytest.approx(wilson_interval(0.0, 50)[1] / 1.96)
    assert found.p_for("equal", 0.01) > 0.05
    assert found.p_for("equal", 0.2) < 0.05


def test_a_slope_is_least_squares() -> None:
    x, y = [0.0, 1.0, 2.0, 4.0], [0.1, 0.4, 0.45, 0.9]
    assert sum(w * v for w, v in zip(slope_weights(x), y, strict=True)) == pytest.approx(stats.linregress(x, y).slope)
    with pytest.raises(ValueError, match="all x are the same"):
        slope_weights([2.0, 2.0])


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="at least one part"):
        contrast([])
    with pytest.raises(ValueError, match="one cluster"):
        contrast([part(1, np.array([0.0, 1.0]), ["a", "a"])])


def test_minimum_detectable_effect_is_found_with_the_power_it_names() -> None:
    rng, n, runs = np.random.default_rng(0), 100, 800
    mde = Contrast(0.0, 1 / math.sqrt(n), n - 1, n).minimum_detectable()
    found = [contrast([part(1, rng.normal(mde, 1, n))]).p_for("greater", 0.0) <= 0.05 for _ in range(runs)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.05)


def test_intervals_of_an_interaction_cover() -> None:
    """Four arms on the same clustered items, the interaction truly zero: the 90 % interval holds it about nine times in ten."""
    rng, inside = np.random.default_rng(1), 0
    clusters = [str(i // 2) for i in range(120)]
    for _ in range(500):
        ease = np.repeat(rng.normal(0, 1, 60), 2) + rng.normal(0, 0.5, 120)
        arms = [rng.random(120) < 1 / (1 + np.exp(-ease)) for _ in range(4)]
        low, high = contrast([part(w, a.astype(float), clusters) for w, a in zip((1, -1, -1, 1), arms, strict=True)]).interval(0.9)
        inside += low <= 0 <= high
    assert 0.86 <= inside / 500 <= 0.94
