"""Metrics of the predicted label. Labels compare without regard to case and surrounding whitespace, options of an item exactly."""

from __future__ import annotations

from collections.abc import Sequence

from bench.metric.base import AnswerMetric, Metric
from bench.metric.sample import Sample
from bench.metric.text import label_key, macro_f1


class Accuracy(AnswerMetric):
    """1 if the answer is a target label or, of a multiple choice, a right option, else 0."""

    name = "accuracy"
    kinds = frozenset({"classification", "multiple_choice"})
    correct_at = 1.0

    def sample_level(self, sample: Sample) -> float | None:
        if sample.options:  # two options may differ in nothing but case
            return float(sample.prediction in sample.targets)
        return super().sample_level(sample)

    def match(self, prediction: str, target: str) -> float:
        return float(label_key(prediction) == label_key(target))


class MacroF1(Metric):
    """Unweighted mean over the labels of each label's F1 (see `bench.metric.text.macro_f1`). It has no item scores."""

    name = "macro_f1"
    kinds = frozenset({"classification"})
    mean_of_items = False

    def sample_level(self, sample: Sample) -> None:
        return None

    def corpus_level(self, samples: Sequence[Sample]) -> float | None:
        return macro_f1((sample.prediction, sample.targets) for sample in samples)
