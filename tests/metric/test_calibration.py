"""Calibration: values known by hand and from other implementations, ties, simulations with known truth, and what is left out."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, roc_auc_score

from bench.metric import get
from bench.metric.calibration import (
    Counts,
    Ranked,
    accuracy_at_coverage,
    area_under_risk_coverage,
    area_under_roc,
    brier_parts,
    calibration_error,
    excess_area,
)
from bench.metric.confidence import confidence
from bench.metric.resample import Resamples
from bench.metric.sample import Sample

ROWS = st.lists(st.tuples(st.sampled_from([0.1, 0.3, 0.5, 0.9, 0.95]), st.booleans()), min_size=1, max_size=40)
CORPUS = ["ece", "brier_reliability", "brier_resolution", "confidence_auroc", "aurc", "excess_aurc", "accuracy_at_80_coverage"]


def counts(rows: list[tuple[float, bool]] | list[tuple[float, int]]) -> Counts:
    return Ranked.of([c for c, _ in rows], [float(right) for _, right in rows]).counts()


def sample(sure: float, right: bool, **changes: object) -> Sample:
    return replace(Sample("x", ("y",), outcome="correct" if right else "incorrect", logprob=math.log(sure)), **changes)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------ confidence


def test_confidence_is_the_probability_of_the_answer_or_of_the_option() -> None:
    assert confidence(Sample("x", logprob=math.log(0.3))) == pytest.approx(0.3)
    assert confidence(Sample("x", logprob=1e-9)) == 1.0  # by rounding
    assert confidence(Sample("x", logprob=None)) is None
    options = tuple(math.log(p) for p in (0.01, 0.03, 0.06))
    assert confidence(Sample("x", logprob=math.log(0.06), options=("a", "b", "c"), option_logprobs=options)) == pytest.approx(0.6)
    assert confidence(Sample("x", options=("a", "b"), option_logprobs=(-2000.0, -2001.0))) == pytest.approx(1 / (1 + math.exp(-1)))


# ------------------------------------------------------------------------------------------ AUROC


@given(ROWS)
def test_auroc_is_scikit_learns(rows: list[tuple[float, bool]]) -> None:
    found = area_under_roc(counts(rows))[0]
    if len({right for _, right in rows}) == 2:
        assert found == pytest.approx(roc_auc_score([right for _, right in rows], [c for c, _ in rows]))
    else:
        assert np.isnan(found)


# ------------------------------------------------------------------------------------------ risk and coverage


def risk_coverage_over_orders(rows: list[tuple[float, bool]]) -> float:
    """The definition, averaged over all orders of items of equal confidence."""
    values = []
    for order in permutations(rows):
        if all(a[0] >= b[0] for a, b in pairwise(order)):
            wrong = np.cumsum([not right for _, right in order])
            values.append(float(np.mean(wrong / np.arange(1, len(order) + 1))))
    return float(np.mean(values))


def test_risk_coverage_by_hand() -> None:
    rows = [(0.9, 1), (0.8, 0), (0.7, 1), (0.6, 0)]
    assert area_under_risk_coverage(counts(rows))[0] == pytest.approx((0 + 1 / 2 + 1 / 3 + 2 / 4) / 4)
    assert excess_area(counts(rows))[0] == pytest.approx((0 + 1 / 2 + 1 / 3 + 2 / 4) / 4 - (0 + 0 + 1 / 3 + 2 / 4) / 4)
    best = [(0.9, 1), (0.8, 1), (0.7, 0), (0.6, 0)]
    assert excess_area(counts(best))[0] == pytest.approx(0)
    assert area_under_risk_coverage(counts([(0.5, 1)] * 5))[0] == 0
    assert area_under_risk_coverage(counts([(0.5, 0)] * 5))[0] == pytest.approx(1)
    assert excess_area(counts([(0.5, 0)] * 5))[0] == pytest.approx(0)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from([0.1, 0.5, 0.9]), st.booleans()), min_size=1, max_size=6))
def test_risk_coverage_of_ties_is_the_mean_over_their_orders(rows: list[tuple[float, bool]]) -> None:
    assert area_under_risk_coverage(counts(rows))[0] == pytest.approx(risk_coverage_over_orders(rows))
    assert excess_area(counts(rows))[0] >= -1e-12


def test_accuracy_at_coverage() -> None:
    rows = [(0.9, 1), (0.8, 1), (0.7, 0), (0.6, 1), (0.5, 0)]
    assert accuracy_at_coverage(counts(rows))[0] == pytest.approx(3 / 4)
    assert accuracy_at_coverage(counts(rows), 1.0)[0] == pytest.approx(3 / 5)
    assert accuracy_at_coverage(counts([(0.5, 1), (0.5, 0)]))[0] == pytest.approx(1 / 2)  # a level in proportion
    assert accuracy_at_coverage(counts(rows), 0.5)[0] == pytest.approx(2 / 2.5)


# ------------------------------------------------------------------------------------------ Brier score


@given(ROWS)
def test_brier_is_scikit_learns_and_the_sum_of_its_parts(rows: list[tuple[float, bool]]) -> None:
    expected = brier_score_loss([right for _, right in rows], [c for c, _ in rows])
    metric = get("brier")()
    assert metric.corpus_level([sample(c, right) for c, right in rows]) == pytest.approx(expected)
    parts = brier_parts(counts(rows))
    assert parts.brier[0] == pytest.approx(expected)
    accuracy = np.mean([right for _, right in rows])
    assert parts.uncertainty[0] == pytest.approx(accuracy * (1 - accuracy))


def test_brier_parts_by_hand() -> None:
    # Two levels of 10 items, so two bins: 2 of 10 right at 0.2, 9 of 10 at 0.7.
    rows = [(0.2, 1)] * 2 + [(0.2, 0)] * 8 + [(0.7, 1)] * 9 + [(0.7, 0)]
    parts = brier_parts(counts(rows))
    assert parts.reliability[0] == pytest.approx((10 * 0 + 10 * 0.2**2) / 20)
    assert parts.resolution[0] == pytest.approx((0.55 - 0.2) ** 2 / 2 + (0.9 - 0.55) ** 2 / 2)
    assert parts.uncertainty[0] == pytest.approx(0.55 * 0.45)
    assert parts.within[0] == pytest.approx(0)  # nothing varies within a bin


# ------------------------------------------------------------------------------------------ calibration error


def test_calibration_error_of_much_data_by_hand() -> None:
    # Gaps far beyond their noise are taken as they are.
    rows = [(0.9, 1)] * 5000 + [(0.9, 0)] * 5000 + [(0.2, 0)] * 10000
    assert calibration_error(counts(rows))[0] == pytest.approx((0.4 + 0.2) / 2, abs=1e-3)


def test_equal_confidences_share_a_bin_whatever_their_order() -> None:
    rng = np.random.default_rng(0)
    rows = [(0.6, i % 2) for i in range(300)] + [(0.3, i % 3 == 0) for i in range(300)]
    first = calibration_error(counts(rows))[0]
    for _ in range(5):
        assert calibration_error(counts([rows[i] for i in rng.permutation(len(rows))]))[0] == pytest.approx(first)
    n, sure, right = counts(rows).binned()
    assert sorted(n[0][n[0] > 0]) == [300, 300]
    assert sorted(right[0][n[0] > 0]) == [100, 150]
    assert sure.sum() == pytest.approx(300 * 0.6 + 300 * 0.3)


def test_bins_hold_about_equally_many_items_and_are_fewer_where_items_are() -> None:
    for n, n_bins in ((1, 1), (19, 1), (45, 4), (150, 15), (400, 15)):
        items, _, _ = counts([(i / (n + 1), 1) for i in range(1, n + 1)]).binned()
        assert items.shape == (1, n_bins)
        assert items.max() - items.min() <= 1
        assert items.sum() == n


def simulated(rng: np.random.Generator, n: int, shift: float) -> tuple[np.ndarray, np.ndarray]:
    sure = rng.beta(2, 1, n) * (1 - shift) + shift
    return sure, (rng.random(n) < sure - shift).astype(float)


@pytest.mark.parametrize(("shift", "most"), [(0.0, 0.05), (0.05, 0.02), (0.15, 0.02)])
def test_calibration_error_is_near_the_truth_where_the_plain_sum_is_not(shift: float, most: float) -> None:
    rng = np.random.default_rng(1)
    found, plain = [], []
    for _ in range(100):
        of = Ranked.of(*simulated(rng, 400, shift)).counts()
        n, sure, right = of.binned()
        found.append(calibration_error(of)[0])
        plain.append(float(np.abs(sure - right).sum() / n.sum()))
    assert abs(np.mean(found) - shift) < most
    assert np.mean(plain) - shift > 0.002  # what is corrected
    assert shift > 0.1 or abs(np.mean(found) - shift) < 0.75 * abs(np.mean(plain) - shift)


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.15])
def test_the_interval_of_the_calibration_error_covers_the_truth(shift: float) -> None:
    rng = np.random.default_rng(2)
    metric, resamples = get("ece")(), Resamples([str(i) for i in range(400)], 200)
    covered = 0
    for _ in range(60):
        samples = [sample(max(c, 1e-9), bool(right)) for c, right in zip(*simulated(rng, 400, shift), strict=True)]
        value = metric.corpus_level(samples)
        assert value is not None
        interval = resamples.interval(metric, samples, value)
        assert interval is not None
        assert interval[0] <= value <= interval[1]
        covered += interval[0] <= shift <= interval[1]
    assert covered >= 0.85 * 60


# ------------------------------------------------------------------------------------------ as metrics


@pytest.mark.parametrize("name", [*CORPUS, "brier", "confidence_nll"])
def test_only_attempts_of_known_confidence_count(name: str) -> None:
    metric = get(name)()
    counted = [sample(0.9, True), sample(0.6, False), sample(0.3, True), sample(0.4, False)]
    left_out = {
        "abstained": sample(0.5, False, outcome="abstained"),
        "empty answer": sample(0.5, False, prediction=" "),
        "no log-probability of the answer": sample(0.5, True, logprob=None),
    }
    assert metric.corpus_level([*counted, *left_out.values()]) == pytest.approx(metric.corpus_level(counted))
    for reason, one in left_out.items():
        assert metric.undefined_because(one) == reason
        assert metric.sample_level(one) is None
    assert metric.undefined_because(counted[0]) is None
    assert metric.corpus_level(list(left_out.values())) is None
    assert metric.corpus_level([]) is None
    assert (metric.sample_level(counted[0]) is None) != metric.mean_of_items


def test_nll_by_hand() -> None:
    metric = get("confidence_nll")()
    assert metric.corpus_level([sample(0.8, True), sample(0.8, False)]) == pytest.approx(-(math.log(0.8) + math.log(0.2)) / 2)
    assert metric.sample_level(sample(1.0, False)) == pytest.approx(-math.log(1e-7))  # certain and wrong is finite
    assert metric.sample_level(sample(1.0, True)) == 0


def test_auroc_is_undefined_where_all_are_right() -> None:
    assert get("confidence_auroc")().corpus_level([sample(0.9, True), sample(0.1, True)]) is None


@pytest.mark.parametrize("name", CORPUS)
@settings(max_examples=25)
@given(rows=ROWS, data=st.data())
def test_a_resample_has_the_value_of_its_items(name: str, rows: list[tuple[float, bool]], data: st.DataObject) -> None:
    metric = get(name)()
    samples = [sample(c, right) for c, right in rows]
    times = data.draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows)))
    drawn = [s for s, k in zip(samples, times, strict=True) for _ in range(k)]
    found = metric.statistic(samples)(np.array([times], dtype=float))[0]
    expected = metric.corpus_level(drawn)
    assert np.isnan(found) if expected is None else found == pytest.approx(expected)


def test_calibration_of_what_is_not_judged_has_no_meaning() -> None:
    for name in [*CORPUS, "brier", "confidence_nll"]:
        assert "summarization" not in get(name).kinds
