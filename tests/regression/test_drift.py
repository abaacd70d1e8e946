"""The detectors of slow decay: formulas against numerical integration and simulation, histories whose truth is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import integrate, stats

from bench.regression.drift import (
    CUSUM_ALARMS,
    HORIZON,
    Alarm,
    Drift,
    Series,
    cusum,
    cusum_limit,
    flip_step,
    log_e_of_flips,
    log_e_of_redraws,
    redraw_scores,
    run_length,
    watch,
)

N_ITEMS = 1000
Generator = np.random.Generator


def flips(worse: Any, better: Any) -> Series:
    """A measure that is not redrawn, of items that are their own clusters, from the counts of each step (T,)."""
    worse, better = np.asarray(worse), np.asarray(better)
    count, changed = len(worse), worse + better > 0
    with np.errstate(invalid="ignore"):
        steps = np.where(changed, (better - worse) / np.sqrt(worse + better), np.nan)
    joined = np.arange(count) > 0
    values = 0.7 + np.cumsum(np.where(joined, better - worse, 0)) / N_ITEMS
    unknown, no = np.full(count, np.nan), np.zeros(count, dtype=bool)
    return Series(values, joined, changed, no, worse, better, steps, unknown, np.ones(count, dtype=int))


def noisy(generator: Generator, count: int, share: float = 0.015, loss: int = 0, since: int = 1) -> Series:
    """Flips of a `share` of the items at each check, as many for the worse as for the better on average; and `loss` more worse."""
    changed = generator.binomial(N_ITEMS, share, count)
    worse = generator.binomial(changed, 0.5)
    return flips(worse + np.where(np.arange(count) >= since, loss, 0), changed - worse)


def redrawn(generator: Generator, count: int, seeds: int = 3, seed_sd: float = 0.01, lost: Any = 0.0) -> Series:
    """A measure that is trained anew at each check: items around their own probabilities, and a shift of each seed; minus `lost` (T,)."""
    right = 0.9 * generator.beta(2, 1, N_ITEMS)
    of_items = np.sqrt((right * (1 - right)).sum()) / N_ITEMS
    by_seed = right.mean() + generator.normal(0, np.hypot(of_items, seed_sd), (count, seeds))
    return draws(by_seed - np.broadcast_to(np.asarray(lost, dtype=float), (count,))[:, None])


def draws(by_seed: NDArray[Any]) -> Series:
    count, seeds = by_seed.shape
    zero, yes = np.zeros(count, dtype=int), np.ones(count, dtype=bool)
    spread = by_seed.std(axis=1, ddof=1) / np.sqrt(seeds) if seeds > 1 else np.full(count, np.nan)
    return Series(by_seed.mean(axis=1), np.arange(count) > 0, yes, yes, zero, zero, np.full(count, np.nan), spread, np.full(count, seeds))


def step_at(count: int, at: int, size: float) -> NDArray[np.float64]:
    return np.where(np.arange(count) >= at, size, 0.0)


def ramp(count: int, since: int, each: float) -> NDArray[np.float64]:
    return each * np.maximum(0, np.arange(count) - since + 1)


# ---------------------------------------------------------------------------------------------- e-process


def test_one_change_for_the_worse_is_weak_evidence_and_one_for_the_better_counts_against() -> None:
    assert np.exp(log_e_of_flips([0, 1, 0, 2], [0, 0, 1, 0])) == pytest.approx([1, 1.5, 0.5, 7 / 3])  # 4 * 3/8, 4 * 1/8, 8 * 7/24


@pytest.mark.parametrize(("worse", "better"), [(0, 0), (3, 1), (1, 9), (40, 22), (300, 250), (2500, 2600), (4000, 2000)])
def test_e_of_flips_is_the_integral(worse: int, better: int) -> None:
    top = max(0.5, min(worse / max(worse + better, 1), 1 - 1e-12))

    def log_integrand(p: float) -> float:
        return worse * math.log(2 * p) + better * math.log(2 * (1 - p)) if 0 < p < 1 else 0.0 if better == 0 else -math.inf

    area, _ = integrate.quad(lambda p: math.exp(log_integrand(p) - log_integrand(top)), 0.5, 1, points=[top], limit=500, epsabs=0)
    assert float(log_e_of_flips(worse, better)) == pytest.approx(math.log(2 * area) + log_integrand(top), abs=1e-6)


def test_e_of_flips_where_the_beta_function_underflows() -> None:
    assert math.exp(log_e_of_flips(0, 5000)) == pytest.approx(1 / 5001, rel=1e-9)  # the integral is 2^-(l + 1) / (l + 1)
    assert math.exp(log_e_of_flips(100, 20_000)) == pytest.approx(1 / 19_900, rel=2e-3)


def test_e_of_flips_is_a_martingale_of_fair_coins() -> None:
    worse, better = np.meshgrid(np.arange(60), np.arange(60))
    mean = (np.exp(log_e_of_flips(worse + 1, better)) + np.exp(log_e_of_flips(worse, better + 1))) / 2
    assert mean == pytest.approx(np.exp(log_e_of_flips(worse, better)), rel=1e-9)


def test_e_of_redraws_is_the_integral_and_a_martingale() -> None:
    for loss, n in ((0.0, 0), (3.0, 2), (-4.0, 9), (25.0, 40)):

        def ratio(mean: float, loss: float = loss, n: int = n) -> float:
            return 2 * stats.norm.pdf(mean) * math.exp(mean * loss - n * mean**2 / 2)

        area, _ = integrate.quad(ratio, 0, 10, epsabs=0)
        assert math.exp(log_e_of_redraws(loss, n)) == pytest.approx(area, rel=1e-6)

        def weighted(score: float, loss: float = loss, n: int = n) -> float:
            return float(stats.norm.pdf(score) * np.exp(log_e_of_redraws(loss + score, n + 1)))

        mean, _ = integrate.quad(weighted, -40, 40, limit=500, points=[0.0])
        assert mean == pytest.approx(math.exp(log_e_of_redraws(loss, n)), rel=1e-6)


# ---------------------------------------------------------------------------------------------- CUSUM


def test_cusum_by_hand() -> None:
    assert cusum(np.array([np.nan, 1.0, -2.0, np.nan, -1.0, 0.5])).tolist() == [0, 0, 1.5, 1.5, 2.0, 1.0]


@pytest.mark.parametrize("limit", [3.0, 4.0])
def test_run_length_is_that_of_simulated_histories(limit: float) -> None:
    """2,000 histories that go on until they alarm; the run length is about exponential, so 4 standard errors are 9 %."""
    generator = np.random.default_rng(1)
    total, length, going = np.zeros(2000), np.zeros(2000), np.ones(2000, dtype=bool)
    while going.any():
        total[going] = np.maximum(0, total[going] + generator.normal(size=going.sum()) - 0.5)
        length[going] += 1
        going &= total < limit
    assert run_length(limit) == pytest.approx(length.mean(), rel=0.09)


def test_the_limit_grows_with_the_measures() -> None:
    assert run_length(5) == pytest.approx(938, rel=0.01)  # the protocol's "about 930", 27 % of 300 checks
    assert cusum_limit(1) == pytest.approx(8.45, abs=0.01)
    for n in (1, 12):
        assert 1 - math.exp(-n * HORIZON / run_length(cusum_limit(n))) == pytest.approx(CUSUM_ALARMS, rel=1e-6)


# ---------------------------------------------------------------------------------------------- steps


def test_flip_step_by_hand() -> None:
    before, after = np.array([1, 1, 0.5, 0, np.nan, 1]), np.array([0, 1, 0.25, 0.5, 1, np.nan])
    assert flip_step(before, after) == (2, 1, pytest.approx(-0.75 / math.sqrt(1 + 1 / 16 + 1 / 4)))
    assert math.isnan(flip_step(before, before)[2])


def test_redraw_scores_by_hand() -> None:
    """Three draws of two seeds: variances between seeds 2 * .01^2, residuals 0, -.03 / sqrt(1/2 + 1/2), ..."""
    values, spread, seeds = np.array([0.5, 0.47, 0.52]), np.array([0.01, 0.02, 0.03]), np.array([2, 2, 2])
    second = -0.03 / math.sqrt((2e-4 + 8e-4) / 2)
    third = (0.52 - 0.485) / math.sqrt(1 / 2 + 1 / 4) / math.sqrt((2e-4 + 8e-4 + 18e-4 + 0.03**2) / 4)
    z = redraw_scores(values, spread, seeds, 8.0)
    assert math.isnan(z[0])
    assert z[1:].tolist() == pytest.approx([stats.norm.ppf(stats.t.cdf(second, 2)), stats.norm.ppf(stats.t.cdf(third, 4))])


def test_one_seed_a_draw_needs_three_draws() -> None:
    z = redraw_scores(np.array([0.5, 0.48, 0.4]), np.full(3, np.nan), np.ones(3, dtype=int), 8.0)
    assert np.isnan(z[:2]).all()
    assert z[2] == pytest.approx(stats.norm.ppf(stats.t.cdf(-0.09 / math.sqrt(1.5) / (0.02 / math.sqrt(2)), 1)))


@pytest.mark.parametrize("seeds", [1, 3])
def test_redraw_scores_are_independent_standard_normal_ones(seeds: int) -> None:
    """From the first on, with seed spread that has to be learnt: 2,000 histories of 12 checks."""
    generator = np.random.default_rng(2)
    found = []
    for _ in range(2000):
        series = draws(generator.normal(0.6, 0.02, (12, seeds)))
        found.append(redraw_scores(series.values, series.seed_sds, series.n_seeds, 8.0)[1 if seeds > 1 else 2 :])
    z = np.array(found)
    assert stats.kstest(z.ravel(), "norm").pvalue > 0.01
    together = np.corrcoef(np.abs(z).T) - np.eye(z.shape[1])
    assert np.abs(together).max() < 4.5 / math.sqrt(2000)  # sizes too: a wrong spread would make all large at once


def test_checks_of_one_seed_and_of_three_mix() -> None:
    """A draw of one seed varies sqrt(3) times as much as one of three, and weighs a third in the mean."""
    generator = np.random.default_rng(3)
    seeds = np.tile([3, 1], 10)
    z = []
    for _ in range(1500):
        by_seed = generator.normal(0.6, 0.02, (20, 3))
        values = np.where(seeds == 3, by_seed.mean(axis=1), by_seed[:, 0])
        spread = np.where(seeds == 3, by_seed.std(axis=1, ddof=1) / math.sqrt(3), np.nan)
        z.append(redraw_scores(values, spread, seeds, 8.0)[1:])
    deviations = np.std(z, axis=0)
    assert deviations == pytest.approx(np.ones(19), abs=4.5 / math.sqrt(3000))


def test_a_level_that_rose_is_learnt_anew() -> None:
    """Ten points up at check 40, five points down at check 60: still above the mean of all, yet a loss."""
    by_seed = np.random.default_rng(4).normal(0.6, 0.01, (70, 3)) + (step_at(70, 40, 0.1) - step_at(70, 60, 0.05))[:, None]
    drift = watch(draws(by_seed), 1)
    assert [alarm.first_bad for alarm in drift.alarms] == [60]


# ---------------------------------------------------------------------------------------------- false alarms and power


def share_of_alarms(make: Callable[[Generator], Series], n_measures: int, histories: int, first: int = 0, last: int = HORIZON) -> float:
    """Share of the histories in which a measure raises its first alarm at one of the checks from `first` to `last`."""
    found = 0
    for history in range(histories):
        generator = np.random.default_rng((history, n_measures))
        raised = [drift.alarms[0].at for drift in (watch(make(generator), n_measures) for _ in range(n_measures)) if drift.alarms]
        found += any(first <= at <= last for at in raised)
    return found / histories


NOISE: dict[str, Callable[[Generator], Series]] = {
    "flips of 1 %": lambda g: noisy(g, HORIZON, 0.01),
    "flips of 2 %": lambda g: noisy(g, HORIZON, 0.02),
    "redrawn, 3 seeds": lambda g: redrawn(g, HORIZON),
    "redrawn, 1 seed": lambda g: redrawn(g, HORIZON, 1),
}


@pytest.mark.parametrize("kind", NOISE)
@pytest.mark.parametrize(("n_measures", "histories"), [(1, 1000), (12, 250)])
def test_noise_raises_alarms_in_at_most_a_twentieth_of_histories(kind: str, n_measures: int, histories: int) -> None:
    """300 checks. A true share of 5 % gives more than the bound in 1 of 1,000 simulations."""
    assert share_of_alarms(NOISE[kind], n_measures, histories) <= stats.binom.ppf(0.999, histories, 0.05) / histories


@pytest.mark.parametrize("share", [0.2, 0.35, 0.45])
def test_flips_that_are_mostly_for_the_better_raise_no_alarm(share: float) -> None:
    generator = np.random.default_rng(5)
    worse = generator.binomial(15, share, (200, HORIZON))
    assert sum(bool(watch(flips(w, 15 - w), 1).alarms) for w in worse) <= 2


DECAY: dict[str, Callable[[Generator, int], Series]] = {
    "flips of 1 % beside": lambda g, since: noisy(g, since + 20, 0.01, loss=5, since=since),
    "redrawn, 3 seeds, 0.5 points": lambda g, since: redrawn(g, since + 20, seed_sd=0.005, lost=ramp(since + 20, since, 0.005)),
    "redrawn, 3 seeds, 1 point": lambda g, since: redrawn(g, since + 20, seed_sd=0.01, lost=ramp(since + 20, since, 0.005)),
    "redrawn, 1 seed, 1 point": lambda g, since: redrawn(g, since + 20, 1, seed_sd=0.01, lost=ramp(since + 20, since, 0.005)),
}


@pytest.mark.parametrize("kind", DECAY)
@pytest.mark.parametrize("since", [1, 100])
def test_a_decay_of_half_a_point_a_check_is_caught_within_20(kind: str, since: int) -> None:
    """At once or after 100 good checks, with the limits of 12 measures: in 92 to 100 % of histories."""
    caught = 0
    for history in range(200):
        alarms = watch(DECAY[kind](np.random.default_rng((history, since)), since), 12).alarms
        caught += any(alarm.at >= since for alarm in alarms)
    assert caught >= 180


def test_a_decay_without_noise_is_caught_in_a_few_checks() -> None:
    drift = watch(flips(np.full(10, 5), np.zeros(10, dtype=int)), 12)
    assert drift.alarms == (Alarm("e-process", 3, 1, None),)  # 15 clusters, all worse: E is about 2^16 / 17


# ---------------------------------------------------------------------------------------------- the first bad check


def test_a_sudden_drop_names_its_check() -> None:
    worse = np.zeros(30, dtype=int)
    worse[12] = 30
    drift = watch(flips(worse, np.zeros(30, dtype=int)), 12)
    assert drift.alarms == (Alarm("e-process", 12, 12, None),)
    assert drift.standing == drift.alarms[0]


def test_a_sudden_drop_of_a_trained_model_names_its_check() -> None:
    """Three points in redraw noise of about 0.8 points, 200 histories; the check itself, and within two checks."""
    off = []
    for history in range(200):
        alarms = watch(redrawn(np.random.default_rng(history), 50, seed_sd=0.005, lost=step_at(50, 30, 0.03)), 12).alarms
        off += [alarm.first_bad - 30 for alarm in alarms if alarm.at >= 30]
    assert len(off) >= 195
    assert np.mean(np.equal(off, 0)) >= 0.75
    assert np.mean(np.abs(off) <= 2) >= 0.93


# ---------------------------------------------------------------------------------------------- starting anew


def losing(count: int, at: int, size: int = 30) -> NDArray[np.int64]:
    worse = np.zeros(count, dtype=np.int64)
    worse[at] = size
    return worse


def test_a_release_accepts_what_was_lost_and_starts_both_anew() -> None:
    worse = losing(10, 3)
    drift = watch(flips(worse, np.zeros(10, dtype=int)), 1, [3])
    assert drift.alarms == (Alarm("e-process", 3, 3, None),)
    assert drift.standing is None
    assert drift.starts == (0, 3)
    assert drift.log_e[3] > 10
    assert drift.log_e[4:].tolist() == drift.cusum[4:].tolist() == [0.0] * 6
    worse[6] = 20
    again = watch(flips(worse, np.zeros(10, dtype=int)), 1, [3])
    assert again.standing == Alarm("e-process", 6, 6, None)


def test_the_mean_of_a_trained_measure_starts_anew_at_a_release() -> None:
    by_seed = np.random.default_rng(6).normal(0.6, 0.01, (40, 3)) - step_at(40, 20, 0.1)[:, None]
    assert watch(draws(by_seed), 1).standing is not None
    assert watch(draws(by_seed), 1, [20]).standing is None


def test_a_repair_ends_an_alarm() -> None:
    worse, better = losing(12, 3), losing(12, 7)
    drift = watch(flips(worse, better), 1)
    assert drift.alarms == (Alarm("e-process", 3, 3, 7),)
    assert drift.standing is None
    assert drift.starts == (0, 7)
    worse[9] = 30
    assert watch(flips(worse, better), 1).standing == Alarm("e-process", 9, 9, None)


def test_what_does_not_compare_neither_adds_up_nor_ends_an_alarm() -> None:
    """Other items or another machine at check 3: the loss there is no step, and a higher value there no repair."""
    series = flips(losing(6, 3), np.zeros(6, dtype=int))
    series.joined[3] = False
    assert not watch(series, 1).alarms
    easier = flips(losing(6, 1), losing(6, 3, 100))
    assert watch(easier, 1).standing is None
    easier.joined[3] = False
    assert watch(easier, 1).standing == Alarm("e-process", 1, 1, None)


def test_an_unchanged_trained_model_is_no_new_draw() -> None:
    by_seed = np.repeat(np.random.default_rng(7).normal(0.6, 0.01, (4, 3)), 50, axis=0)
    series = draws(by_seed)
    series.changed[:] = np.arange(200) % 50 == 0
    shown = watch(series, 1)
    once = watch(draws(by_seed[::50]), 1)
    assert shown.cusum[::50].tolist() == once.cusum.tolist()
    assert shown.log_e[49::50].tolist() == once.log_e.tolist()


def drift_of(series: Series) -> Drift:
    return watch(series, 1)


def test_whether_anything_could_be_judged() -> None:
    still = flips(np.zeros(4, dtype=int), np.zeros(4, dtype=int))
    assert drift_of(still).judged  # nothing changed, and that is known
    assert not drift_of(still.part(0, 1)).judged
    one_seed = draws(np.array([[0.5], [0.6], [0.4]]))
    assert not drift_of(one_seed.part(0, 2)).judged
    assert drift_of(one_seed).judged
