"""Metrics of what a strategy does when it does not know: attempt and err, or abstain.

Each item has one outcome: correct, incorrect or abstained. Hallucination is *attempted and wrong*, so it compares across strategies
with and without passages. An empty answer is incorrect, but it neither attempts nor abstains: what counts attempts leaves it out, with
that reason. Counts and rates after SimpleQA (Wei et al. 2024, arXiv 2411.04368) and SQuAD 2 (Rajpurkar et al. 2018, arXiv 1806.03822).
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar, get_args

import numpy as np

from bench.metric.base import CorpusMetric, FieldType, Metric
from bench.metric.overlap import ExactMatch
from bench.metric.sample import Sample
from bench.result.schema import Outcome
from bench.result.statistics import FloatArray


def judge_outcome(sample: Sample, judge: Metric) -> Outcome:
    """The outcome of one item.

    ``abstained`` if the prediction, normalised, is one of the judge's abstention phrases, whether or not that was right; else
    ``correct`` if the item has an answer and the judge's item score reaches its ``correct_at``; else ``incorrect``. An empty
    prediction is no abstention (unless "" is one of the phrases), and what the judge cannot score is not correct.
    """
    if judge.abstains(sample.prediction):
        return "abstained"
    if not sample.answerable or judge.correct_at is None:
        return "incorrect"
    score = judge.sample_level(sample)
    return "correct" if score is not None and score >= judge.correct_at else "incorrect"


def outcome_counts(outcomes: Iterable[Outcome], answerable: Iterable[bool]) -> dict[str, dict[Outcome, int]]:
    """Items by ``answerable | unanswerable`` and outcome, zeros included. All else here follows from these six numbers."""
    counted = Counter(zip(answerable, outcomes, strict=True))
    kinds: tuple[Outcome, ...] = get_args(Outcome)
    return {row: {o: counted[has_answer, o] for o in kinds} for row, has_answer in (("answerable", True), ("unanswerable", False))}


class OutcomeMetric(Metric):
    """A metric of outcomes. Used alone (no outcome known), exact match is the judge."""

    def __init__(self, *, labels: Sequence[str] = (), fields: Mapping[str, FieldType] | None = None, abstain: Sequence[str] = ()) -> None:
        super().__init__(labels=labels, fields=fields, abstain=abstain)
        self._judge = ExactMatch(abstain=abstain)

    def outcome(self, sample: Sample) -> Outcome:
        return sample.outcome or judge_outcome(sample, self._judge)

    def no_attempt(self, sample: Sample) -> str | None:
        """Why the item is not attempted; None where it is."""
        outcome = self.outcome(sample)
        if outcome == "abstained":
            return "abstained"
        return None if outcome == "correct" or sample.prediction.strip() else "empty answer"


class _ScoreOfOutcome(OutcomeMetric):
    """The mean of a number for each outcome; an abstention is no attempt and has 0, an empty answer is left out."""

    correct: ClassVar[float]
    incorrect: ClassVar[float]

    def undefined_because(self, sample: Sample) -> str | None:
        return "empty answer"

    def sample_level(self, sample: Sample) -> float | None:
        reason = self.no_attempt(sample)
        if reason:
            return 0.0 if reason == "abstained" else None
        return self.correct if self.outcome(sample) == "correct" else self.incorrect


class HallucinationRate(_ScoreOfOutcome):
    """Incorrect answers per item, abstentions included in the denominator; undefined for an empty answer."""

    name = "hallucination_rate"
    higher_is_better = False
    correct, incorrect = 0.0, 1.0


class PenalizedScore1(_ScoreOfOutcome):
    """Mean of 1 for correct, -1 for wrong and 0 for an abstention, in [-1, 1]: it pays to answer from a confidence of 1/2.

    (n_correct - w n_incorrect) / n with w = t / (1 - t) for a target confidence t (Kalai et al. 2025, "Why Language Models Hallucinate").
    Undefined for an empty answer.
    """

    name = "penalized_score_1"
    bounds = (-1.0, 1.0)
    correct, incorrect = 1.0, -1.0


class PenalizedScore3(_ScoreOfOutcome):
    """As `penalized_score_1` with -3 for wrong, in [-3, 1]: it pays to answer from a confidence of 3/4."""

    name = "penalized_score_3"
    bounds = (-3.0, 1.0)
    correct, incorrect = 1.0, -3.0


class AbstentionRate(OutcomeMetric):
    """Abstentions per item, whether or not there was an answer."""

    name = "abstention_rate"
    higher_is_better = None

    def sample_level(self, sample: Sample) -> float:
        return float(self.outcome(sample) == "abstained")


class AccuracyGivenAttempted(OutcomeMetric):
    """Correct answers per attempted item; undefined for an abstention and an empty answer. 1 minus it: how often a claim is false."""

    name = "accuracy_given_attempted"

    def undefined_because(self, sample: Sample) -> str | None:
        return self.no_attempt(sample)

    def sample_level(self, sample: Sample) -> float | None:
        return None if self.no_attempt(sample) else float(self.outcome(sample) == "correct")


class CorrectOverall(OutcomeMetric):
    """Correct answers per item that has an answer, attempted or not; undefined for an item without one."""

    name = "correct_overall"

    def undefined_because(self, sample: Sample) -> str | None:
        return "has no answer"

    def sample_level(self, sample: Sample) -> float | None:
        return float(self.outcome(sample) == "correct") if sample.answerable else None


class NoAnswerAccuracy(OutcomeMetric):
    """Abstentions per item without an answer; undefined for an item that has one."""

    name = "no_answer_accuracy"

    def undefined_because(self, sample: Sample) -> str | None:
        return "has an answer"

    def sample_level(self, sample: Sample) -> float | None:
        return None if sample.answerable else float(self.outcome(sample) == "abstained")


class FalseRefusalRate(OutcomeMetric):
    """Abstentions per item that has an answer; undefined for one without."""

    name = "false_refusal_rate"
    higher_is_better = False

    def undefined_because(self, sample: Sample) -> str | None:
        return "has no answer"

    def sample_level(self, sample: Sample) -> float | None:
        return float(self.outcome(sample) == "abstained") if sample.answerable else None


class _OfCounts(CorpusMetric, OutcomeMetric):
    """A value of counts of items."""

    @abstractmethod
    def marks(self, sample: Sample) -> tuple[bool, ...]:
        """Which counts the item is in."""

    @abstractmethod
    def of_counts(self, counts: FloatArray) -> FloatArray:
        """The value (R,) of counts (k, R), NaN where undefined."""

    def statistic(self, samples: Sequence[Sample]) -> Callable[[FloatArray], FloatArray]:
        marked = np.array([self.marks(sample) for sample in samples], dtype=np.float64)

        def values(weights: FloatArray) -> FloatArray:
            with np.errstate(invalid="ignore"):  # 0 / 0 is undefined
                return self.of_counts((weights @ marked).T) if samples else np.full(len(weights), np.nan)

        return values


class FAttempted(_OfCounts):
    """Harmonic mean of `accuracy_given_attempted` and `correct_overall`, in [0, 1] (SimpleQA: F-score); it has no item scores.

    2 n_correct / (n_attempted + n_answerable). Without unanswerable items it is SimpleQA's; with them, right abstentions cost
    nothing and attempts at them lower the first part. Guessing raises it as long as one guess in two times F is right: read it
    beside `penalized_score_1` and `penalized_score_3`.
    """

    name = "f_attempted"

    def marks(self, sample: Sample) -> tuple[bool, ...]:
        return self.outcome(sample) == "correct", self.no_attempt(sample) is None, sample.answerable

    def of_counts(self, counts: FloatArray) -> FloatArray:
        correct, attempted, answerable = counts
        return np.asarray(2 * correct / (attempted + answerable))


class YoudenJ(_OfCounts):
    """`no_answer_accuracy` minus `false_refusal_rate`, in [-1, 1] (Youden 1950): 0 for abstaining at random; it has no item scores."""

    name = "youden_j"
    bounds = (-1.0, 1.0)

    def marks(self, sample: Sample) -> tuple[bool, ...]:
        abstained = self.outcome(sample) == "abstained"
        return abstained and not sample.answerable, not sample.answerable, abstained and sample.answerable, sample.answerable

    def of_counts(self, counts: FloatArray) -> FloatArray:
        rightly, unanswerable, wrongly, answerable = counts
        return np.asarray(rightly / unanswerable - wrongly / answerable)
