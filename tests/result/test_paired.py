from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from bench.result.paired import (
    detectable_difference,
    discordant,
    mcnemar,
    minimum_detectable_effect,
    tost,
    wins_losses_ties,
)
from bench.result.statistics import macro_f1_of_sums, paired_difference, paired_statistic_difference


def alone(n: int) -> list[str]:
    return [str(i) for i in range(n)]


# McNemar


@pytest.mark.parametrize(
    ("b", "c", "p"), [(8, 0, 0.0078), (5, 0, 0.0625), (6, 0, 0.031), (10, 2, 0.039), (30, 15, 0.036), (50, 30, 0.033), (7, 7, 1), (0, 0, 1)]
)
def test_mcnemar_known_answers(b: int, c: int, p: float) -> None:
    assert mcnemar(b, c).p == pytest.approx(p, abs=0.0006)
    assert mcnemar(c, b).p == mcnemar(b, c).p


def test_mcnemar_is_the_binomial_test_and_mid_p_takes_off_half_of_the_observed() -> None:
    for b, c in [(3, 9), (40, 61), (700, 800), (2000, 2100)]:
        found = mcnemar(b, c)
        assert found.p == pytest.approx(stats.binomtest(b, b + c).pvalue)
        assert found.mid_p == pytest.approx(found.p - stats.binom.pmf(min(b, c), b + c, 0.5))
    with pytest.raises(ValueError, match="counts of 0 or more"):
        mcnemar(-1, 2)


def test_counts_leave_out_what_is_undefined() -> None:
    a, b = np.array([1, 1, 0, 0, 1, math.nan]), np.array([1, 0, 1, 0, 0, 1.0])
    assert discordant(a, b) == (2, 1)
    assert wins_losses_ties(a, b) == (2, 1, 2)
    assert wins_losses_ties(a, b, higher_is_better=False) == (1, 2, 2)
    assert discordant(np.array([0.5, 1]), np.array([1.0, 0])) is None
    assert wins_losses_ties(np.array([0.1 + 0.2]), np.array([0.3])) == (0, 0, 1)


# Equivalence


def test_tost_agrees_with_two_t_tests() -> None:
    generator = np.random.default_rng(0)
    d = generator.normal(0.005, 0.1, 300)
    found = tost(paired_difference(d, np.zeros(300), alone(300)), 0.02)
    above = stats.ttest_1samp(d, -0.02, alternative="greater").pvalue
    below = stats.ttest_1samp(d, 0.02, alternative="less").pvalue
    assert found is not None
    assert found.p == pytest.approx(max(above, below))
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.9, 299, d.mean(), stats.sem(d)))
    assert found.equivalent == (found.low > -0.02 and found.high < 0.02)


def test_a_difference_beyond_the_margin_is_not_equivalent_and_its_p_is_above_one_half() -> None:
    d = np.random.default_rng(0).normal(0.05, 0.1, 300)
    found = tost(paired_difference(d, np.zeros(300), alone(300)), 0.02)
    assert found is not None
    assert found.p > 0.5
    assert not found.equivalent


def test_the_same_answers_are_equivalent_only_where_there_are_enough_of_them() -> None:
    # Wilson's bound z^2 / (C + z^2) for 0 of C at z = 1.645: below .01 from 268 clusters on.
    for n, expected in [(267, False), (268, True)]:
        same = np.ones(n)
        found = tost(paired_difference(same, same, alone(n)), 0.01)
        assert found is not None
        assert found.equivalent is expected
        assert found.equivalent == (found.high < 0.01)
    rows = np.ones((1, 50, 3))
    same_f1 = tost(paired_statistic_difference(macro_f1_of_sums, rows, rows, alone(50)), 0.01)
    assert same_f1 is not None
    assert not same_f1.equivalent


def test_equivalence_is_claimed_of_a_true_difference_at_the_margin_no_more_often_than_alpha() -> None:
    generator = np.random.default_rng(1)
    claims = 0
    for _ in range(600):
        d = generator.normal(0.02, 0.1, 200)
        found = tost(paired_difference(d, np.zeros(200), alone(200), n_flips=10), 0.02)
        claims += found is not None and found.equivalent
    assert 0.02 <= claims / 600 <= 0.08


def test_without_an_interval_or_a_margin_there_is_no_equivalence() -> None:
    one_cluster = paired_difference(np.ones(3), np.zeros(3), ["a"] * 3)
    assert tost(one_cluster, 0.1) is None
    assert detectable_difference(one_cluster) is None
    with pytest.raises(ValueError, match="above 0"):
        tost(one_cluster, 0.0)


# Power


@pytest.mark.parametrize(
    ("discordance", "m", "points"),
    [
        (0.1, 1, [8.9, 6.3, 5.1, 4.0, 2.8, 2.4, 2.0, 1.3]),
        (0.2, 1, [12.5, 8.9, 7.2, 5.6, 4.0, 3.4, 2.8, 1.8]),
        (0.3, 1, [15.3, 10.9, 8.9, 6.9, 4.9, 4.2, 3.4, 2.2]),
        (0.2, 10, [16.3, 11.5, 9.4, 7.3, 5.2, 4.5, 3.6, 2.3]),
    ],
)
def test_the_table_of_detectable_effects(discordance: float, m: int, points: list[float]) -> None:
    sizes = (100, 200, 300, 500, 1000, 1319, 2000, 5000)
    found = [100 * minimum_detectable_effect(discordance, n, m=m) for n in sizes]
    assert found == pytest.approx(points, abs=0.0501)


def test_the_detectable_difference_is_detected_with_its_power() -> None:
    generator = np.random.default_rng(2)
    clusters = [str(i // 2) for i in range(200)]

    def sample(delta: float) -> np.ndarray:
        return np.repeat(generator.normal(0, 0.3, 100), 2) + generator.normal(delta, 0.2, 200)

    effect = math.sqrt((0.3**2 + 0.2**2 / 2) / 100) * (1.984 + 0.845)
    estimates, detected = [], 0
    for _ in range(500):
        difference = paired_difference(sample(effect), np.zeros(200), clusters, n_flips=10)
        estimates.append(detectable_difference(difference))
        detected += difference.low is not None and difference.low > 0
    assert np.mean(estimates) == pytest.approx(effect, rel=0.02)
    assert detected / 500 == pytest.approx(0.8, abs=0.05)


def test_power_asked_of_more_comparisons_or_fewer_seeds_costs() -> None:
    d = np.random.default_rng(0).normal(0, 0.3, 100)
    alone_over_items = paired_difference(d, np.zeros(100), alone(100))
    with_seeds = paired_difference(d, np.zeros(100), alone(100), seed_variance=1e-4, df=2)
    one, ten, seeds = (
        detectable_difference(alone_over_items),
        detectable_difference(alone_over_items, m=10),
        detectable_difference(with_seeds),
    )
    assert one is not None
    assert ten is not None
    assert seeds is not None
    error = d.std(ddof=1) / 10
    assert one == pytest.approx((stats.t.ppf(0.975, 99) + stats.t.ppf(0.8, 99)) * error)
    assert ten == pytest.approx((stats.t.ppf(0.9975, 99) + stats.t.ppf(0.8, 99)) * error)
    assert seeds == pytest.approx((stats.t.ppf(0.975, 2) + stats.t.ppf(0.8, 2)) * math.sqrt(error**2 + 1e-4))
    with pytest.raises(ValueError, match="power"):
        detectable_difference(alone_over_items, power=0.4)
    with pytest.raises(ValueError, match="share"):
        minimum_detectable_effect(1.2, 100)


def test_no_discordance_seen_does_not_mean_that_anything_can_be_detected() -> None:
    same = paired_difference(np.ones(200), np.ones(200), alone(200))
    found = detectable_difference(same)
    assert found is not None
    assert 0.02 < found < 0.04


# Trend
