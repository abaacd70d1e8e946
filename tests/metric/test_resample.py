"""Intervals over items: against analytic values, within a metric's bounds, and none where nothing can be said."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from bench.metric import get
from bench.metric.base import Metric
from bench.metric.resample import Resamples, mean_interval
from bench.metric.sample import Sample
from bench.result.statistics import bootstrap_interval, clustered_interval, macro_f1_of_sums, macro_f1_rows


class MeanLength(Metric):
    """A plugin's metric: it says nothing of how its resamples are computed."""

    name = "mean_length"
    mean_of_items = False
    bounds = (0.0, math.inf)

    def sample_level(self, sample: Sample) -> None:
        return None

    def corpus_level(self, samples: Sequence[Sample]) -> float | None:
        return float(np.mean([len(s.prediction) for s in samples])) if samples else None


def test_any_metric_has_an_interval_and_it_is_that_of_the_mean() -> None:
    lengths = np.random.default_rng(0).integers(0, 20, 200)
    samples = [Sample("x" * int(n)) for n in lengths]
    clusters = [str(i // 2) for i in range(200)]
    found = Resamples(clusters, 2000).interval(MeanLength(), samples, float(lengths.mean()))
    expected = clustered_interval(lengths.astype(float), clusters)
    assert found == pytest.approx((expected.low, expected.high), abs=0.12)


def test_macro_f1_has_the_interval_of_the_bootstrap_of_sums() -> None:
    rng = np.random.default_rng(3)
    gold, said = [list(rng.choice(["a", "b", "c"], 90)) for _ in range(2)]
    clusters = [str(i // 3) for i in range(90)]
    samples = [Sample(p, (g,)) for p, g in zip(said, gold, strict=True)]
    expected = bootstrap_interval(macro_f1_of_sums, macro_f1_rows(gold, said, ["a", "b", "c"]), clusters, 400, of_sums=True)
    value = get("macro_f1")().corpus_level(samples)
    assert value == pytest.approx(expected.value)
    assert Resamples(clusters).interval(get("macro_f1")(), samples, expected.value) == pytest.approx((expected.low, expected.high))


def test_f_attempted_against_the_delta_method() -> None:
    # 2 c / (a + n): with independent items its standard error is that of the mean of 2 c_i - F (a_i + 1), over the mean of a_i + 1.
    rng = np.random.default_rng(4)
    outcomes = rng.choice(["correct", "incorrect", "abstained"], 400, p=[0.5, 0.3, 0.2])
    samples = [Sample("x", ("x",), outcome=o) for o in outcomes]
    correct, attempted = outcomes == "correct", outcomes != "abstained"
    f = 2 * correct.sum() / (attempted.sum() + 400)
    error = np.std(2 * correct - f * (attempted + 1)) / math.sqrt(400) / np.mean(attempted + 1)
    metric = get("f_attempted")()
    assert metric.corpus_level(samples) == pytest.approx(f)
    found = Resamples([str(i) for i in range(400)], 2000).interval(metric, samples, float(f))
    assert found == pytest.approx((f - 1.96 * error, f + 1.96 * error), abs=0.006)


def test_resamples_are_seeded_and_of_clusters() -> None:
    samples = [Sample("x" * (i % 7)) for i in range(70)]
    alone = [str(i) for i in range(70)]
    value = MeanLength().corpus_level(samples)
    assert value is not None
    first = Resamples(alone, 200, seed=1).interval(MeanLength(), samples, value)
    assert first == Resamples(alone, 200, seed=1).interval(MeanLength(), samples, value)
    assert first != Resamples(alone, 200, seed=2).interval(MeanLength(), samples, value)
    assert Resamples(["a"] * 70).interval(MeanLength(), samples, value) is None
    of_seven = Resamples([str(i % 7) for i in range(70)], 200).interval(MeanLength(), samples, value)
    assert first is not None
    assert of_seven is not None
    assert of_seven[1] - of_seven[0] > 2 * (first[1] - first[0])  # items of a cluster are all alike


def test_many_items_are_resampled_in_parts_to_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [Sample("x", ("x",), outcome="correct" if i % 3 else "incorrect") for i in range(50)]
    resamples, metric = Resamples([str(i) for i in range(50)], 100), get("f_attempted")()
    whole = resamples.interval(metric, samples, 2 / 3)
    monkeypatch.setattr("bench.metric.resample._CELLS", 120)
    assert resamples.interval(metric, samples, 2 / 3) == whole


def test_no_interval_where_no_resample_differs_or_is_defined() -> None:
    alone = [str(i) for i in range(20)]
    abstained = [Sample("unknown", ("x",), outcome="abstained")] * 20
    assert get("f_attempted")().corpus_level(abstained) == 0
    assert Resamples(alone).interval(get("f_attempted")(), abstained, 0.0) is None
    assert Resamples(alone).interval(get("youden_j")(), abstained, 0.0) is None


# ------------------------------------------------------------------------------------------ means


ALONE = [str(i) for i in range(40)]


def test_a_mean_within_0_and_1_has_the_clustered_interval() -> None:
    scores = [0.0, 1.0, 1.0, 0.5] * 10
    _, low, high = clustered_interval(scores, ALONE, clip=True)
    assert mean_interval(scores, ALONE, (0.0, 1.0)) == (low, high)
    assert mean_interval([0.0] * 40, ALONE, (0.0, 1.0)) == clustered_interval([0.0] * 40, ALONE)[1:]


def test_other_bounds_are_kept_as_0_and_1_are() -> None:
    scores = [1.0, -3.0, 0.0, 1.0] * 10
    _, low, high = clustered_interval(scores, ALONE)
    assert mean_interval(scores, ALONE, (-3.0, 1.0)) == pytest.approx((low, high))
    assert low is not None
    assert low < 0
    # All wrong: as sure as a rate of 40 in 40.
    low, high = mean_interval([-3.0] * 40, ALONE, (-3.0, 1.0))
    wilson = clustered_interval([0.0] * 40, ALONE).high
    assert wilson is not None
    assert (low, high) == pytest.approx((-3.0, -3 + 4 * wilson))
    nearly = [1.0, *[0.9] * 38, -1.0]
    assert mean_interval(nearly, ALONE, (-1.0, 1.0))[1] <= 1.0


def test_a_score_without_a_bound_is_not_cut_at_1() -> None:
    scores = [0.5, 2.0, 3.0, 1.5] * 10
    _, low, high = clustered_interval(scores, ALONE)
    assert mean_interval(scores, ALONE, (0.0, math.inf)) == (low, high)
    assert mean_interval([0.0, 0.0, 9.0, 0.0], ALONE[:4], (0.0, math.inf))[0] == 0.0
    assert mean_interval([5.0, -5.0] * 20, ALONE, (0.0, 1.0)) == clustered_interval([5.0, -5.0] * 20, ALONE)[1:]  # not kept to: none


@pytest.mark.parametrize(("score", "bounds"), [(0.0, (-1.0, 1.0)), (0.5, (0.0, 1.0)), (1.0, (0.0, math.inf)), (2.0, (0.0, 1.0))])
def test_equal_scores_between_the_bounds_have_none(score: float, bounds: tuple[float, float]) -> None:
    assert mean_interval([score] * 40, ALONE, bounds) == (None, None)


def test_one_cluster_has_none() -> None:
    assert mean_interval([0.0, 1.0], ["a", "a"], (0.0, 1.0)) == (None, None)
    assert mean_interval([0.0, 2.0], ["a", "a"], (0.0, math.inf)) == (None, None)
