"""Metrics of the predicted label. Labels compare without regard to case and surrounding whitespace, options of an item exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from bench.metric.base import AnswerMetric, CorpusMetric
from bench.metric.sample import Sample
from bench.metric.text import label_key, macro_f1

if TYPE_CHECKING:
    from bench.result.statistics import FloatArray


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


class MacroF1(CorpusMetric):
    """Unweighted mean over the labels of each label's F1 (see `bench.metric.text.macro_f1`). It has no item scores."""

    name = "macro_f1"
    kinds = frozenset({"classification"})

    def corpus_level(self, samples: Sequence[Sample]) -> float | None:
        return macro_f1((sample.prediction, sample.targets) for sample in samples)

    def statistic(self, samples: Sequence[Sample]) -> Callable[[FloatArray], FloatArray]:
        from bench.result.statistics import macro_f1_of_sums, macro_f1_rows

        said = [label_key(sample.prediction) for sample in samples]
        golds = [[label_key(target) for target in sample.targets] for sample in samples]
        gold = [s if s in g else (g[0] if g else "") for s, g in zip(said, golds, strict=True)]
        rows = macro_f1_rows(gold, said, sorted({label for g in golds for label in g}))
        return lambda weights: macro_f1_of_sums(weights @ rows)
