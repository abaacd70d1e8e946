"""The base classes of all metrics: an `evaluate.Metric` in two parts, one item's score and the value of a set of items."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import evaluate
from datasets import Features, Value  # type: ignore[import-untyped]
from datasets import List as ListOf

from bench.metric.sample import Sample, mean
from bench.metric.text import is_abstention
from bench.task.schema import TaskKind

FieldType = Literal["string", "integer", "number", "boolean"]
ALL_KINDS: frozenset[TaskKind] = frozenset(get_args(TaskKind))


class Metric(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """A metric of this package; usable alone, as any other of Hugging Face `evaluate`:

    >>> ExactMatch().compute(predictions=["the Nile"], references=[["Nile", "River Nile"]])
    {'exact_match': 1.0}

    A reference is one string or a list of strings of which any is right. The value is None where the metric is undefined for all
    items. Everything is kept in memory: no file, lock or cache is touched, so processes can compute side by side.

    Args:
        labels: The labels of a classification task.
        fields: Keys and types of the JSON object of a structured task.
        abstain: Answers that count as abstaining. A reference among them marks an item that has no answer.
    """

    name: ClassVar[str]
    higher_is_better: ClassVar[bool | None] = True
    """None where neither end is good by itself (a length ratio, a rate of abstention)."""
    kinds: ClassVar[frozenset[TaskKind]] = ALL_KINDS
    """The kinds of task that it has a meaning for."""
    mean_of_items: ClassVar[bool] = True
    """True: the corpus value is the mean of the defined item scores. False: there are no item scores."""
    correct_at: ClassVar[float | None] = None
    """As a task's primary metric, the item score from which an answer counts as correct; None: it cannot judge answers."""

    def __init__(
        self,
        *,
        labels: Sequence[str] = (),
        fields: Mapping[str, FieldType] | None = None,
        abstain: Sequence[str] = (),
    ) -> None:
        self.labels = tuple(labels)
        self.fields = None if fields is None else dict(fields)
        self.abstain = tuple(abstain)
        super().__init__(keep_in_memory=True, seed=0)

    @abstractmethod
    def sample_level(self, sample: Sample) -> float | None:
        """The score of one item; None where it is undefined. Never raises for any text."""

    def corpus_level(self, samples: Sequence[Sample]) -> float | None:
        """The value of a set of items; None where it is undefined for all of them."""
        return mean([score for score in map(self.sample_level, samples) if score is not None])

    def abstains(self, text: str) -> bool:
        return is_abstention(text, self.abstain)

    def make_sample(self, prediction: Any, reference: Any) -> Sample:
        """One row of `compute`'s input."""
        targets = (reference,) if isinstance(reference, str) else tuple(reference)
        return Sample(prediction=prediction, targets=targets, answerable=not any(map(self.abstains, targets)))

    def make_samples(self, predictions: Sequence[Any], references: Sequence[Any]) -> list[Sample]:
        return [self.make_sample(p, r) for p, r in zip(predictions, references, strict=True)]

    def _features(self) -> list[Features]:
        text = Value("string")
        return [Features({"predictions": text, "references": ListOf(text)}), Features({"predictions": text, "references": text})]

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=type(self).__doc__ or "", citation="", inputs_description=Metric.__doc__ or "", features=self._features()
        )

    def _compute(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float | None]:
        return {self.name: self.corpus_level(self.make_samples(predictions, references))}

    def _build_data_dir(self) -> str:
        return ""  # evaluate would make a folder in the user's cache, which may be read-only and is never used in memory

    def _infer_feature_from_batch(self, batch: dict[str, Any]) -> Features:
        if not all(map(len, batch.values())):  # evaluate looks at the first row, and there may be none
            return self._features()[0]
        return super()._infer_feature_from_batch(batch)


class AnswerMetric(Metric):
    """A metric that compares the answer with each target; the best match counts.

    For an item without an answer the right thing is to abstain: 1 for an abstention (any of the phrases), 0 for anything else
    (as for SQuAD 2, Rajpurkar et al. 2018).
    """

    @abstractmethod
    def match(self, prediction: str, target: str) -> float | None:
        """How well the prediction matches one target, in [0, 1]; None where the target allows no comparison."""

    def sample_level(self, sample: Sample) -> float | None:
        if not sample.answerable:
            return float(self.abstains(sample.prediction))
        return max((m for t in sample.targets if (m := self.match(sample.prediction, t)) is not None), default=None)
