"""Metrics of what a strategy does when it does not know: attempt and err, or abstain.

Each item has one outcome: correct, incorrect or abstained. Hallucination is *attempted and wrong*, so it compares across strategies
with and without passages. Counts and rates after SimpleQA (Wei et al. 2024) and SQuAD 2 (Rajpurkar et al. 2018).
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from bench.metric.base import FieldType, Metric
from bench.metric.overlap import ExactMatch
from bench.metric.sample import Sample
from bench.metric.text import overlap
from bench.result.schema import Outcome


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


class _OutcomeMetric(Metric):
    """A rate over outcomes. Used alone (no outcome known), exact match is the judge."""

    def __init__(self, *, labels: Sequence[str] = (), fields: Mapping[str, FieldType] | None = None, abstain: Sequence[str] = ()) -> None:
        super().__init__(labels=labels, fields=fields, abstain=abstain)
        self._judge = ExactMatch(abstain=abstain)

    @abstractmethod
    def rate(self, outcome: Outcome, answerable: bool) -> bool | None:
        """Whether the item counts; None where it is not among those that the rate is about."""

    def sample_level(self, sample: Sample) -> float | None:
        counts = self.rate(sample.outcome or judge_outcome(sample, self._judge), sample.answerable)
        return None if counts is None else float(counts)


class HallucinationRate(_OutcomeMetric):
    """Incorrect answers per item, abstentions included in the denominator."""

    name = "hallucination_rate"
    higher_is_better = False

    def rate(self, outcome: Outcome, answerable: bool) -> bool:
        return outcome == "incorrect"


class AbstentionRate(_OutcomeMetric):
    """Abstentions per item, whether or not there was an answer."""

    name = "abstention_rate"
    higher_is_better = None

    def rate(self, outcome: Outcome, answerable: bool) -> bool:
        return outcome == "abstained"


class AccuracyGivenAttempted(_OutcomeMetric):
    """Correct answers per attempted item; undefined for an abstention."""

    name = "accuracy_given_attempted"

    def rate(self, outcome: Outcome, answerable: bool) -> bool | None:
        return None if outcome == "abstained" else outcome == "correct"


class NoAnswerAccuracy(_OutcomeMetric):
    """Abstentions per item without an answer; undefined for an item that has one."""

    name = "no_answer_accuracy"

    def rate(self, outcome: Outcome, answerable: bool) -> bool | None:
        return None if answerable else outcome == "abstained"


class FalseRefusalRate(_OutcomeMetric):
    """Abstentions per item that has an answer; undefined for one without."""

    name = "false_refusal_rate"
    higher_is_better = False

    def rate(self, outcome: Outcome, answerable: bool) -> bool | None:
        return outcome == "abstained" if answerable else None


class KPrecision(Metric):
    """Share of the answer's words that occur in the gold evidence, in [0, 1] (Adlakha et al. 2024: K-Precision).

    Multiset of SQuAD-normalised words. Undefined for an abstention, an empty answer and an item without evidence. It says nothing of
    what was left out, and does not see a negation or a swapped entity. Used alone, the references are the evidence.
    """

    name = "k_precision"

    def sample_level(self, sample: Sample) -> float | None:
        if not sample.evidence or self.abstains(sample.prediction):
            return None
        common, said, _ = overlap(sample.prediction, sample.evidence)
        return common / said if said else None

    def make_sample(self, prediction: Any, reference: Any) -> Sample:
        return Sample(prediction=prediction, evidence=reference if isinstance(reference, str) else "\n".join(reference))
