from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import f1_score

from bench.result.statistics import (
    Interval,
    add_seed_variance,
    bootstrap_interval,
    clustered_interval,
    holm,
    joint_df,
    macro_f1_of_sums,
    macro_f1_rows,
    paired_difference,
    paired_statistic_difference,
    pooled_seed_variance,
    seed_pooled_interval,
    seed_variances,
    wilson_interval,
)


def alone(n: int) -> list[str]:
    return [str(i) for i in range(n)]


# Known answers


def test_with_clusters_of_one_the_interval_is_the_textbook_t_interval() -> None:
    scores = np.random.default_rng(0).random(50)
    value, low, high = clustered_interval(scores, alone(50))
    expected = stats.t.interval(0.95, 49, loc=scores.mean(), scale=stats.sem(scores))
    assert value == pytest.approx(scores.mean())
    assert (low, high) == pytest.approx(expected)


def test_clustered_interval_by_hand() -> None:
    # Two clusters, mean .5, deviations summed by cluster +1 and -1: SE = sqrt(2/1 * 2) / 4 = .5
    value, low, high = clustered_interval([1, 1, 0, 0], ["a", "a", "b", "b"])
    assert value == 0.5
    assert (low, high) == pytest.approx((0.5 - stats.t.ppf(0.975, 1) * 0.5, 0.5 + stats.t.ppf(0.975, 1) * 0.5))
    assert clustered_interval([1, 1, 0, 0], ["a", "a", "b", "b"], clip=True)[1:] == (0.0, 1.0)


def test_copies_of_items_inside_a_cluster_add_no_certainty() -> None:
    scores = np.random.default_rng(1).random(30)
    once = clustered_interval(scores, alone(30))
    thrice = clustered_interval(np.repeat(scores, 3), [name for name in alone(30) for _ in range(3)])
    assert thrice == pytest.approx(once)


def test_all_wrong_or_all_right_has_a_width() -> None:
    value, low, high = clustered_interval(np.zeros(100), alone(100))
    assert (value, low) == (0.0, 0.0)
    assert high == pytest.approx(1.96**2 / (100 + 1.96**2), rel=1e-3)  # near the rule of three
    assert clustered_interval(np.ones(100), alone(100)).low == pytest.approx(1 - high)
    # What counts is clusters: 100 items in 10 of them say little more than 10 items.
    assert clustered_interval(np.zeros(100), [str(i % 10) for i in range(100)]).high == pytest.approx(1.96**2 / (10 + 1.96**2), rel=1e-3)


def test_wilson_against_a_published_value() -> None:
    # 81 of 263: .2553 to .3662 (Newcombe 1998, method 3)
    assert wilson_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)


def test_one_cluster_has_no_interval_and_no_items_are_refused() -> None:
    assert clustered_interval([0.5, 1.0], ["a", "a"]) == Interval(0.75, None, None)
    assert bootstrap_interval(np.mean, np.ones(3), ["a"] * 3) == Interval(1.0, None, None)
    assert paired_difference(np.ones(2), np.zeros(2), ["a", "a"]).low is None
    with pytest.raises(ValueError, match="at least one"):
        clustered_interval([], [])
    with pytest.raises(ValueError, match="same number"):
        clustered_interval([1.0, 0.0], ["a"])


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_order_and_never_lowers_a_p(p: list[float]) -> None:
    adjusted = holm(p)
    assert all(before <= after <= 1 for before, after in zip(p, adjusted, strict=True))
    assert all(adjusted[i] <= adjusted[j] for i in range(len(p)) for j in range(len(p)) if p[i] < p[j])


def test_macro_f1_of_sums_is_scikit_learns() -> None:
    generator = np.random.default_rng(3)
    gold, said = (list(generator.choice(["a", "b", "c"], 60, p=[0.7, 0.2, 0.1])) for _ in range(2))
    said[:5] = ["not a label"] * 5
    labels = ["a", "b", "c", "never there"]
    expected = f1_score(gold, said, labels=sorted(set(gold)), average="macro", zero_division=0)
    assert float(macro_f1_of_sums(macro_f1_rows(gold, said, labels).sum(axis=0))) == pytest.approx(expected)


# Bootstrap


def test_bootstrap_of_a_mean_agrees_with_the_clustered_interval_in_both_forms() -> None:
    generator = np.random.default_rng(2)
    clusters = [str(i // 3) for i in range(600)]
    scores = np.repeat(generator.normal(size=200), 3) + generator.normal(size=600)
    rows = np.stack([scores, np.ones(600)], axis=1)
    exact = clustered_interval(scores, clusters)
    fast = bootstrap_interval(lambda sums: sums[..., 0] / sums[..., 1], rows, clusters, 4000, of_sums=True)
    slow = bootstrap_interval(np.mean, scores, clusters, 1000)
    for found in (fast, slow):
        assert found.value == pytest.approx(exact.value)
        assert found.high - found.low == pytest.approx(exact.high - exact.low, rel=0.08)
    assert bootstrap_interval(np.mean, scores, clusters, 50, seed=1) == bootstrap_interval(np.mean, scores, clusters, 50, seed=1)
    assert bootstrap_interval(np.mean, scores, clusters, 50, seed=1) != bootstrap_interval(np.mean, scores, clusters, 50, seed=2)


# Coverage, with a known truth


def test_clustered_interval_covers_where_the_naive_one_does_not() -> None:
    generator = np.random.default_rng(0)
    repeats, clusters, size = 800, 60, 5
    names = [str(i // size) for i in range(clusters * size)]
    covered = naive = 0
    for _ in range(repeats):
        scores = np.repeat(generator.normal(size=clusters), size) + generator.normal(size=clusters * size)
        _, low, high = clustered_interval(scores, names)
        covered += low <= 0 <= high
        half = 1.96 * scores.std(ddof=1) / math.sqrt(len(scores))
        naive += abs(scores.mean()) <= half
    assert 0.93 <= covered / repeats <= 0.97
    assert naive / repeats < 0.85


def simulate_arms(generator: np.random.Generator, seed_sd: float, n: int = 200, arms: int = 4, seeds: int = 3) -> np.ndarray:
    """Right or wrong, (arms, seeds, items), on clusters of two; a seed moves the whole strategy by ``seed_sd`` on the logit scale."""
    ability = np.repeat(generator.normal(size=n // 2), 2) + generator.normal(size=n)
    shift = generator.normal(size=(arms, seeds, 1)) * seed_sd
    return (generator.random((arms, seeds, n)) < 1 / (1 + np.exp(-ability - shift))).astype(float)


@pytest.mark.parametrize("seed_sd", [0.0, 0.4])
def test_interval_over_items_and_seeds_covers_where_items_alone_do_not(seed_sd: float) -> None:
    # A symmetric logit has mean .5 whatever the spread of abilities, seeds included.
    generator = np.random.default_rng(5)
    clusters = [str(i // 2) for i in range(200)]
    repeats, covered, items_only = 400, 0, 0
    for _ in range(repeats):
        arms = simulate_arms(generator, seed_sd)
        excess, df = pooled_seed_variance(list(arms), [clusters] * len(arms))
        assert df == 8
        by_seed = dict(enumerate(arms[0]))
        pooled = seed_pooled_interval(by_seed, clusters, excess, df)
        covered += pooled.low <= 0.5 <= pooled.high
        plain = seed_pooled_interval(by_seed, clusters)
        items_only += plain.low <= 0.5 <= plain.high
        assert plain.items_only
        assert not pooled.items_only
    assert 0.93 <= covered / repeats <= 0.995
    if seed_sd:
        assert items_only / repeats < 0.90


def test_pooled_seed_variance_finds_the_variance_that_was_put_in() -> None:
    generator = np.random.default_rng(11)
    truth = 0.03
    arms = [generator.random((1, 300)) + truth * generator.normal(size=(5, 1)) + 0.3 * generator.normal(size=(5, 300)) for _ in range(200)]
    excess, df = pooled_seed_variance(arms)
    assert df == 800
    assert excess == pytest.approx(truth**2, rel=0.2)
    # Flips of single items alone are no seed effect, though the means differ.
    quiet = [generator.random((1, 300)) + 0.3 * generator.normal(size=(5, 300)) for _ in range(200)]
    assert pooled_seed_variance(quiet)[0] < 0.1 * truth**2


def test_seed_variances_by_hand_and_for_one_seed() -> None:
    scores = np.array([[1.0, 0.0, 1.0, 1.0], [1.0, 0.0, 0.0, 1.0]])
    v, w = seed_variances(scores)
    assert v == pytest.approx(np.var([0.75, 0.5], ddof=1))
    assert w == pytest.approx(np.mean([0, 0, 0.5, 0]) / 4)
    # Clusters matter: items that flip together are one flip of more weight.
    together = np.array([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert seed_variances(together, ["a", "a", "b", "b"])[1] == pytest.approx(2 * seed_variances(together)[1])
    assert pooled_seed_variance([scores[:1]]) == (0.0, 0)
    assert pooled_seed_variance([]) == (0.0, 0)


def test_one_seed_gives_the_interval_over_items_and_says_so() -> None:
    scores = np.random.default_rng(0).random(40)
    found = seed_pooled_interval({3: scores}, alone(40), 0.01, 8)
    assert found.items_only
    assert found[:3] == clustered_interval(scores, alone(40))


def test_undefined_scores_are_left_out_not_taken_for_zero() -> None:
    scores = np.array([1.0, np.nan, 0.0, 1.0])
    other = np.array([1.0, np.nan, np.nan, 1.0])
    found = seed_pooled_interval({0: scores, 1: other}, alone(4), 0.0, 2)
    assert found.value == pytest.approx(2 / 3)
    assert paired_difference(scores, np.zeros(4), alone(4)).n == 3


def test_seeds_that_are_all_right_still_have_a_width() -> None:
    found = seed_pooled_interval({0: np.ones(50), 1: np.ones(50)}, alone(50), 0.0004, 4)
    plain = clustered_interval(np.ones(50), alone(50))
    assert found.value == found.high == 1.0
    assert found.low < plain.low


def test_adding_seed_variance_adds_squares() -> None:
    z = stats.norm.ppf(0.975)
    found = add_seed_variance(Interval(0.5, 0.5 - 3 * z, 0.5), 16.0, df=10**7)
    assert found.low == pytest.approx(0.5 - 5 * z, rel=1e-5)
    assert found.high == pytest.approx(0.5 + 4 * z, rel=1e-5)
    assert add_seed_variance(Interval(0.5, None, None), 1.0, 3) == Interval(0.5, None, None)


# Paired tests


def test_sign_flip_p_is_the_exact_one() -> None:
    # Five items, all better by one: of 2^5 flips two are as extreme.
    found = paired_difference(np.ones(5), np.zeros(5), alone(5))
    assert found.p_sign_flip == pytest.approx(2 / 32, abs=0.01)
    assert found.delta == 1.0
    assert found.low < 1.0
    # Two clusters: two of four flips.
    assert paired_difference(np.ones(5), np.zeros(5), list("aabbb")).p_sign_flip == pytest.approx(0.5, abs=0.03)


def test_equal_arms_differ_by_nothing_with_certainty_of_nothing() -> None:
    scores = (np.arange(40) % 2).astype(float)
    found = paired_difference(scores, scores, alone(40))
    assert (found.delta, found.p_sign_flip) == (0.0, 1.0)
    assert found.low == -found.high
    assert 0 < found.high < 0.1


def test_paired_interval_is_that_of_the_differences() -> None:
    generator = np.random.default_rng(4)
    a, b, clusters = generator.random(60), generator.random(60), [str(i // 2) for i in range(60)]
    found = paired_difference(a, b, clusters)
    assert (found.delta, found.low, found.high) == pytest.approx(clustered_interval(a - b, clusters))
    assert found.p_seeds is None
    mirrored = paired_difference(b, a, clusters)
    assert mirrored.p_sign_flip == found.p_sign_flip
    assert mirrored.delta == -found.delta


def test_a_seed_variance_widens_the_difference_and_can_undo_it() -> None:
    generator = np.random.default_rng(4)
    a = generator.random(400) + 0.1
    b = generator.random(400)
    plain, wide = paired_difference(a, b, alone(400)), paired_difference(a, b, alone(400), seed_variance=0.1**2, df=8)
    assert plain.p < 0.01 < 0.05 < wide.p
    assert wide.low < 0 < plain.low
    assert wide.p_sign_flip == plain.p_sign_flip
    half = stats.t.ppf(0.975, 8) * math.sqrt(stats.sem(a - b) ** 2 + 0.1**2)
    assert wide.high - wide.delta == pytest.approx(half)


def test_sign_flip_test_keeps_its_level_on_clusters() -> None:
    generator = np.random.default_rng(9)
    clusters = [str(i // 4) for i in range(80)]
    repeats, clustered, naive = 600, 0, 0
    for i in range(repeats):
        d = np.repeat(generator.standard_t(3, size=20), 4) + 0.3 * generator.normal(size=80)
        clustered += paired_difference(d, np.zeros(80), clusters, n_flips=400, seed=i).p_sign_flip <= 0.05
        naive += paired_difference(d, np.zeros(80), alone(80), n_flips=400, seed=i).p_sign_flip <= 0.05
    assert 0.025 <= clustered / repeats <= 0.075
    assert naive / repeats > 0.15


def labelled(generator: np.random.Generator, rate: float, gold: np.ndarray, seeds: int = 1) -> np.ndarray:
    labels = ["a", "b", "c"]
    said = [np.where(generator.random(len(gold)) < rate, gold, generator.choice(labels, len(gold))) for _ in range(seeds)]
    return np.stack([macro_f1_rows(list(gold), list(one), labels) for one in said])


def test_paired_test_of_macro_f1_keeps_its_level_and_finds_a_difference() -> None:
    generator = np.random.default_rng(1)
    gold = generator.choice(["a", "b", "c"], 120, p=[0.6, 0.3, 0.1])
    rejected = covered = 0
    for i in range(200):
        a, b = labelled(generator, 0.5, gold), labelled(generator, 0.5, gold)
        found = paired_statistic_difference(macro_f1_of_sums, a, b, alone(120), n_resamples=200, seed=i)
        rejected += found.p_sign_flip <= 0.05
        covered += found.low <= 0 <= found.high
    assert rejected / 200 <= 0.095
    assert covered / 200 >= 0.91
    clear = paired_statistic_difference(macro_f1_of_sums, labelled(generator, 0.9, gold, 2), labelled(generator, 0.4, gold, 2), alone(120))
    assert clear.p_sign_flip < 0.01
    assert clear.low > 0


def test_joint_degrees_of_freedom() -> None:
    # Satterthwaite with equal parts: (1 + 1)^2 / (1 / 10 + 1 / 10).
    assert joint_df(1.0, 10, 1.0, 1.0, 10) == pytest.approx(20)
    # Seeds that weigh nothing take none away; those that are all there is leave only their own.
    assert joint_df(1.0, 300, 0.0, 0.0, 2) == pytest.approx(300)
    assert joint_df(0.0, 300, 1.0, 1.0, 2) == pytest.approx(2)
    # A difference of 0 between the variances seen and expected is as uncertain as they are.
    assert joint_df(1.0, 300, 0.0, 0.5, 2) == pytest.approx(1 / (1 / 300 + 0.125))
    assert joint_df(0.0, 300, 0.0, 0.0, 2) == 2


def test_few_seeds_widen_a_difference_only_as_far_as_seeds_make_it_up() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.random(300), generator.random(300)
    names = [str(i) for i in range(300)]
    items, blunt, sharp = (
        paired_difference(a, b, names, **how)
        for how in ({}, {"seed_variance": 1e-9, "df": 2}, {"seed_variance": 1e-9, "df": 2, "seed_spread": 1e-6})
    )
    widths = [(d.high or 0) - (d.low or 0) for d in (items, blunt, sharp)]
    assert widths[1] > 2 * widths[0]
    assert widths[2] == pytest.approx(widths[0], rel=0.001)
