"""Every metric as one of Hugging Face `evaluate`: the same values by every way in."""

from __future__ import annotations

from typing import Any

import evaluate
import pytest

from bench.metric import get, metric_names
from bench.metric.base import Metric
from bench.metric.hugging_face import as_evaluate
from bench.metric.sample import Sample

FIELDS = {"score": "integer", "aspect": "string"}
OBJECT = '{"score": 4, "aspect": "battery"}'
TEXTS = (
    ["the red box", "unknown", "a box", OBJECT, "positive", "Two dogs ran. One cat sat.", ""],
    [["red box", "box"], ["unknown"], ["unknown"], [OBJECT], ["negative"], ["One cat sat. Two dogs ran.", "x"], ["y"]],
)
ID_LISTS = ([["a", "b", "c"], ["a"], [], ["x", "a"]], [["b"], ["x"], ["a"], ["a", "b"]])


def make(name: str) -> Metric:
    return get(name)(labels=["positive", "negative"], fields=FIELDS, abstain=["unknown"])


def rows(metric: Metric) -> tuple[list[Any], list[Any]]:
    return ID_LISTS if metric.compares_ids else TEXTS


@pytest.mark.parametrize("name", metric_names())
def test_the_same_value_in_one_go_and_in_parts(name: str) -> None:
    metric = make(name)
    predictions, references = rows(metric)
    expected = metric.compute(predictions=predictions, references=references)
    assert list(expected) == [name]
    wrapped = as_evaluate(metric)
    assert isinstance(wrapped, evaluate.Metric)
    assert wrapped.name == name
    assert wrapped.description
    assert wrapped.compute(predictions=predictions, references=references) == expected
    wrapped.add(prediction=predictions[0], reference=references[0])
    wrapped.add_batch(predictions=predictions[1:], references=references[1:])
    assert wrapped.compute() == expected
    assert wrapped.compute(predictions=predictions[:1], references=references[:1]) == metric.compute(
        predictions=predictions[:1], references=references[:1]
    )
    assert wrapped.compute(predictions=[], references=[]) == metric.compute(predictions=[], references=[]) == {name: None}


@pytest.mark.parametrize("by_ids", [False, True])
def test_combined_metrics(by_ids: bool) -> None:
    metrics = [metric for name in metric_names() if (metric := make(name)).compares_ids == by_ids]
    predictions, references = rows(metrics[0])
    expected = {metric.name: metric.compute(predictions=predictions, references=references)[metric.name] for metric in metrics}
    together = evaluate.combine([as_evaluate(metric) for metric in metrics])
    assert together.compute(predictions=predictions, references=references) == expected
    together.add_batch(predictions=predictions, references=references)
    assert together.compute() == expected


def test_one_text_as_reference_and_options_of_the_metric() -> None:
    metric = get("rouge1")()
    given: dict[str, Any] = {"predictions": ["dog ran", "cat"] * 20, "references": ["dog ran", "bird"] * 20}
    wrapped = as_evaluate(metric).compute(**given, bootstrap=True, n_resamples=200)
    assert wrapped == metric.compute(**given, bootstrap=True, n_resamples=200)
    assert wrapped["rouge1_low"] < wrapped["rouge1"] == 0.5 < wrapped["rouge1_high"]
    with pytest.raises(TypeError, match="bootstrap"):
        as_evaluate(get("f1")()).compute(**given, bootstrap=True)


def test_unequal_numbers_are_an_error() -> None:
    with pytest.raises(ValueError, match="Mismatch in the number of predictions"):
        as_evaluate(get("f1")()).compute(predictions=["x"], references=["x", "y"])


class Shout(Metric):
    """Share of answers in capitals."""

    name = "shout"

    def sample_level(self, sample: Sample) -> float:
        return float(sample.prediction.isupper())


def test_a_metric_of_ones_own() -> None:
    assert as_evaluate(Shout()).compute(predictions=["HO", "ho"], references=["", ""]) == {"shout": 0.5}
