"""Metrics of what was retrieved, before anything was read.

Used alone, a prediction is the list of retrieved ids in order of rank and a reference the list of gold ids.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from bench.metric.base import Metric
from bench.metric.sample import Sample


class _RetrievalMetric(Metric):
    """Undefined where nothing was searched for or no passage is gold; a search that found nothing scores 0."""

    compares_ids = True

    @abstractmethod
    def rank_score(self, retrieved: tuple[str, ...], gold: frozenset[str]) -> float:
        """The score of one ranking; `gold` is not empty."""

    def undefined_because(self, sample: Sample) -> str | None:
        return "nothing was searched for" if sample.retrieved_ids is None else "no gold passage"

    def sample_level(self, sample: Sample) -> float | None:
        if sample.retrieved_ids is None or not sample.gold_ids:
            return None
        return self.rank_score(sample.retrieved_ids, frozenset(sample.gold_ids))

    def make_sample(self, prediction: Any, reference: Any) -> Sample:
        return Sample(retrieved_ids=tuple(prediction), gold_ids=tuple(reference))


class RecallAtK(_RetrievalMetric):
    """Share of the gold passages that are among those retrieved (k is how many were retrieved), in [0, 1]."""

    name = "recall_at_k"

    def rank_score(self, retrieved: tuple[str, ...], gold: frozenset[str]) -> float:
        return len(gold.intersection(retrieved)) / len(gold)


class MeanReciprocalRank(_RetrievalMetric):
    """1 / rank of the first gold passage, counted from 1; 0 if none was retrieved."""

    name = "mrr"

    def rank_score(self, retrieved: tuple[str, ...], gold: frozenset[str]) -> float:
        return next((1 / rank for rank, passage in enumerate(retrieved, start=1) if passage in gold), 0.0)


class RightWithoutEvidence(Metric):
    """Share of the right answers for which no gold passage was retrieved or, where the strategy cites, that cite others only.

    They are right, but not for what was read: from memory, from a passage that is not labelled as gold, or by chance.
    Undefined where nothing was searched for, no passage is gold, the answer is not right, or it should cite and does not. Used alone, a
    prediction is the list of retrieved ids of a right answer.
    """

    name = "right_without_evidence"
    higher_is_better = False
    compares_ids = True

    def undefined_because(self, sample: Sample) -> str | None:
        if sample.retrieved_ids is None:
            return "nothing was searched for"
        if not sample.gold_ids:
            return "no gold passage"
        if sample.outcome == "correct":
            return "no citation"
        return "abstained" if sample.outcome == "abstained" else "wrong answer"

    def sample_level(self, sample: Sample) -> float | None:
        if sample.retrieved_ids is None or not sample.gold_ids or sample.outcome != "correct":
            return None
        sources = sample.retrieved_ids if sample.cited_ids is None else sample.cited_ids
        if sample.cited_ids == ():
            return None
        return float(not set(sources) & set(sample.gold_ids))

    def make_sample(self, prediction: Any, reference: Any) -> Sample:
        return Sample(outcome="correct", retrieved_ids=tuple(prediction), gold_ids=tuple(reference))
