"""The base classes of all metrics. A metric has two parts: one item's score, and the value of a set of items."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from bench.metric.sample import Sample, mean
from bench.metric.text import is_abstention
from bench.task.schema import TaskKind

if TYPE_CHECKING:
    from bench.result.statistics import FloatArray

FieldType = Literal["string", "integer", "number", "boolean"]
ALL_KINDS: frozenset[TaskKind] = frozenset(get_args(TaskKind))


class Metric:
    """A metric of this package; usable alone:

    >>> ExactMatch().compute(predictions=["the Nile"], references=[["Nile", "River Nile"]])
    {'exact_match': 1.0}

    and by `bench.metric.hugging_face.as_evaluate` as any other of Hugging Face `evaluate`. It is no subclass of `evaluate.Metric`,
    since importing `evaluate` takes longer than scoring a task.

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
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    """Between what a score always lies; infinite where there is no bound. An interval is cut there."""
    biased_up: ClassVar[bool] = False
    """Whether a resample comes out higher than the items themselves, as what sums up deviations of either sign does."""
    correct_at: ClassVar[float | None] = None
    """As a task's primary metric, the item score from which an answer counts as correct; None: it cannot judge answers."""
    compares_ids: ClassVar[bool] = False
    """Used alone, whether a prediction is a list of ids (in order of rank) and a reference one too, in place of texts."""

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

    @abstractmethod
    def sample_level(self, sample: Sample) -> float | None:
        """The score of one item; None where it is undefined. Never raises for any text."""

    def undefined_because(self, sample: Sample) -> str | None:
        """Why an item has no score, in a few words. Asked of items without one; where the metric has no item scores, of all items, and
        None says that the item counts."""
        return None

    def corpus_level(self, samples: Sequence[Sample]) -> float | None:
        """The value of a set of items; None where it is undefined for all of them."""
        return mean([score for score in map(self.sample_level, samples) if score is not None])

    def statistic(self, samples: Sequence[Sample]) -> Callable[[FloatArray], FloatArray]:
        """The value of resamples of these items: maps how often each item is drawn, (R, n) whole numbers, to values (R,), NaN where
        undefined. Here each resample is scored anew, which is slow."""
        import numpy as np

        def values(weights: FloatArray) -> FloatArray:
            drawn = ([s for s, times in zip(samples, row, strict=True) for _ in range(int(times))] for row in weights)
            return np.array([np.nan if value is None else value for value in map(self.corpus_level, drawn)], dtype=np.float64)

        return values

    def compute(self, *, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float | None]:
        """The value of the predictions under the metric's name; None where the metric is undefined for all of them.

        Args:
            predictions: One text (or list of ids, see `compares_ids`) per item.
            references: For each, one string, or a list of strings of which any is right.

        Raises:
            ValueError: There are not as many references as predictions.
        """
        return {self.name: self.corpus_level(self.make_samples(predictions, references))}

    def no_claim(self, sample: Sample) -> str | None:
        """Why an answer claims nothing, so that nothing in it can be false; None where it claims something."""
        if sample.outcome == "abstained" or self.abstains(sample.prediction):
            return "abstained"
        return None if sample.prediction.strip() else "empty answer"

    def abstains(self, text: str) -> bool:
        return is_abstention(text, self.abstain)

    def make_sample(self, prediction: Any, reference: Any) -> Sample:
        """One row of `compute`'s input."""
        targets = (reference,) if isinstance(reference, str) else tuple(reference)
        return Sample(prediction=prediction, targets=targets, answerable=not any(map(self.abstains, targets)))

    def make_samples(self, predictions: Sequence[Any], references: Sequence[Any]) -> list[Sample]:
        if len(predictions) != len(references):
            raise ValueError(f"Mismatch in the number of predictions ({len(predictions)}) and references ({len(references)})")
        return [self.make_sample(p, r) for p, r in zip(predictions, references, strict=True)]


class CorpusMetric(Metric):
    """A metric without item scores. It says what its value is for items that are drawn a number of times each."""

    mean_of_items = False

    def sample_level(self, sample: Sample) -> None:
        return None

    @abstractmethod
    def statistic(self, samples: Sequence[Sample]) -> Callable[[FloatArray], FloatArray]: ...

    def corpus_level(self, samples: Sequence[Sample]) -> float | None:
        import numpy as np  # here, since most metrics do without

        value = float(self.statistic(samples)(np.ones((1, len(samples))))[0])
        return None if np.isnan(value) else value


class AnswerMetric(Metric):
    """A metric that compares the answer with each target; the best match counts.

    For an item without an answer the right thing is to abstain: 1 for an abstention (any of the phrases), 0 for anything else
    (as for SQuAD 2, Rajpurkar et al. 2018).
    """

    @abstractmethod
    def match(self, prediction: str, target: str) -> float | None:
        """How well the prediction matches one target, in [0, 1]; None where the target allows no comparison."""

    def undefined_because(self, sample: Sample) -> str | None:
        return "no target to compare with"

    def sample_level(self, sample: Sample) -> float | None:
        if not sample.answerable:
            return float(self.abstains(sample.prediction))
        return max((m for t in sample.targets if (m := self.match(sample.prediction, t)) is not None), default=None)
