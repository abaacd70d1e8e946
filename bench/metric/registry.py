"""The metrics by name. A class is imported when it is asked for; a package adds its own by an entry point.

A plugin declares ``[project.entry-points."bench.metrics"]`` with lines ``my_metric = "my_package.module:MyMetric"``, where
``MyMetric`` is a subclass of `bench.metric.base.Metric` whose ``name`` is ``my_metric``.
"""

from __future__ import annotations

import functools
import importlib
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Final, NamedTuple

from bench.errors import BenchError, did_you_mean
from bench.task.schema import TaskKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.metric.base import Metric

GROUP: Final = "bench.metrics"


class Entry(NamedTuple):
    """What can be said of a built-in metric without importing it."""

    target: str
    """``module:class`` in this package."""
    kinds: frozenset[TaskKind]
    """As the class says; here so that a task can be checked at once."""
    summary: str


_QA: Final[frozenset[TaskKind]] = frozenset({"qa"})
_LABELS: Final[frozenset[TaskKind]] = frozenset({"classification"})
_SUMMARY: Final[frozenset[TaskKind]] = frozenset({"summarization"})
_FIELDS: Final[frozenset[TaskKind]] = frozenset({"structured"})
_CHOICE: Final[frozenset[TaskKind]] = frozenset({"multiple_choice"})
_JUDGED: Final = _QA | _LABELS | _FIELDS | _CHOICE
_ANY: Final = _QA | _LABELS | _SUMMARY | _FIELDS | _CHOICE

BUILT_IN: Final[Mapping[str, Entry]] = {
    "accuracy": Entry("classification:Accuracy", _LABELS | _CHOICE, "share of items with the right label or option"),
    "accuracy_normalized": Entry("choice:AccuracyNormalized", _CHOICE, "accuracy of the choice by log-probability per character"),
    "accuracy_per_byte": Entry("choice:AccuracyPerByte", _CHOICE, "accuracy of the choice by log-probability per byte of UTF-8"),
    "macro_f1": Entry("classification:MacroF1", _LABELS, "unweighted mean of the F1 of each label"),
    "exact_match": Entry("overlap:ExactMatch", _QA | _LABELS, "share of answers equal to a target after SQuAD normalisation"),
    "exact_text": Entry("exact:ExactText", _QA, "share of answers equal to a target to the letter, but for what the task ignores"),
    "f1": Entry("overlap:TokenF1", _QA | _SUMMARY, "token F1 with the nearest target after SQuAD normalisation"),
    "answer_recall": Entry("overlap:AnswerRecall", _QA | _SUMMARY, "share of the target's words found in the answer"),
    "rouge1": Entry("overlap:Rouge1", _QA | _SUMMARY, "ROUGE-1 F-measure (stemmed words)"),
    "rouge2": Entry("overlap:Rouge2", _QA | _SUMMARY, "ROUGE-2 F-measure (stemmed word pairs)"),
    "rougeL": Entry("overlap:RougeL", _QA | _SUMMARY, "ROUGE-L F-measure (longest common subsequence)"),
    "rougeLsum": Entry("overlap:RougeLsum", _QA | _SUMMARY, "ROUGE-L F-measure, sentence by sentence"),
    "format_validity": Entry("structured:FormatValidity", _LABELS | _FIELDS, "share of answers in the declared form"),
    "field_accuracy": Entry("structured:FieldAccuracy", _FIELDS, "share of the declared JSON fields with the right value"),
    "key_fact_coverage": Entry("summary:KeyFactCoverage", _SUMMARY, "share of the reference's content words and numbers found"),
    "length_ratio": Entry("summary:LengthRatio", _SUMMARY, "words of the answer per word of the reference"),
    "hallucination_rate": Entry("hallucination:HallucinationRate", _ANY, "share of items attempted and wrong"),
    "abstention_rate": Entry("hallucination:AbstentionRate", _ANY, "share of items abstained from"),
    "accuracy_given_attempted": Entry("hallucination:AccuracyGivenAttempted", _ANY, "share right among the items attempted"),
    "no_answer_accuracy": Entry("hallucination:NoAnswerAccuracy", _ANY, "share abstained from among the items without an answer"),
    "false_refusal_rate": Entry("hallucination:FalseRefusalRate", _ANY, "share abstained from among the items with an answer"),
    "correct_overall": Entry("hallucination:CorrectOverall", _ANY, "share right among the items with an answer, attempted or not"),
    "f_attempted": Entry("hallucination:FAttempted", _ANY, "harmonic mean of accuracy_given_attempted and correct_overall"),
    "penalized_score_1": Entry("hallucination:PenalizedScore1", _ANY, "mean of 1 right, -1 wrong, 0 abstained"),
    "penalized_score_3": Entry("hallucination:PenalizedScore3", _ANY, "mean of 1 right, -3 wrong, 0 abstained"),
    "youden_j": Entry("hallucination:YoudenJ", _ANY, "no_answer_accuracy minus false_refusal_rate"),
    "k_precision": Entry("grounding:KPrecision", _ANY, "share of the answer's words found in the gold evidence"),
    "k_recall": Entry("grounding:KRecall", _ANY, "share of the gold evidence's words found in the answer"),
    "passage_precision": Entry("grounding:PassagePrecision", _ANY, "share of the answer's words found in the passages read"),
    "number_support": Entry("grounding:NumberSupport", _ANY, "share of the answer's numbers found in what was read or the question"),
    "entity_support": Entry("grounding:EntitySupport", _ANY, "share of the answer's names found in what was read or the question"),
    "ece": Entry("confidence:ExpectedCalibrationError", _JUDGED, "mean distance of confidence and accuracy, corrected for noise"),
    "brier": Entry("confidence:Brier", _JUDGED, "mean squared distance of confidence and being right"),
    "brier_reliability": Entry("confidence:BrierReliability", _JUDGED, "the part of the Brier score that is miscalibration"),
    "brier_resolution": Entry("confidence:BrierResolution", _JUDGED, "the part of the Brier score that tells right from wrong"),
    "confidence_nll": Entry("confidence:ConfidenceNLL", _JUDGED, "mean negative log-likelihood of being right or wrong"),
    "confidence_auroc": Entry("confidence:ConfidenceAUROC", _JUDGED, "chance that a right answer is more confident than a wrong one"),
    "aurc": Entry("confidence:RiskCoverage", _JUDGED, "error rate of the most confident answers, averaged over all coverages"),
    "excess_aurc": Entry("confidence:ExcessRiskCoverage", _JUDGED, "aurc above the least that as many wrong answers allow"),
    "accuracy_at_80_coverage": Entry("confidence:AccuracyAtCoverage", _JUDGED, "share right among the 80 % most confident attempts"),
    "recall_at_k": Entry("retrieval:RecallAtK", _ANY, "share of the gold passages among those retrieved"),
    "mrr": Entry("retrieval:MeanReciprocalRank", _ANY, "mean of 1 / rank of the first gold passage"),
    "right_without_evidence": Entry("retrieval:RightWithoutEvidence", _ANY, "share of right answers without a gold passage"),
    "citation_precision": Entry("citation:CitationPrecision", _ANY, "share of the cited passages that are gold"),
    "citation_recall": Entry("citation:CitationRecall", _ANY, "share of the gold passages that are cited"),
}


@functools.cache
def _plugins() -> Mapping[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        if point.name in BUILT_IN or point.name in found:
            owner = found[point.name].value if point.name in found else "a built-in metric"
            raise BenchError(f'entry point {GROUP}: the name "{point.name}" of {point.value} is already taken by {owner}; rename one')
        found[point.name] = point
    return found


def metric_names() -> list[str]:
    """All metrics, plugins included, sorted."""
    return sorted([*BUILT_IN, *_plugins()])


def get(name: str) -> type[Metric]:
    """The metric's class.

    Raises:
        BenchError: No metric has this name, or a plugin cannot be loaded or is no metric.
    """
    plugins = _plugins()  # also for a built-in name: a plugin that claims it is an error, not a silent loser
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].target.partition(":")
        built_in: type[Metric] = getattr(importlib.import_module(f"bench.metric.{module}"), attribute)
        return built_in
    point = plugins.get(name)
    if point is None:
        raise BenchError(f'unknown metric "{name}"; {did_you_mean(name, metric_names())}')
    return _load(point)


def higher_is_better(name: str | None) -> bool | None:
    """Which end of the metric is good; None where neither is, or where the metric is of a package that is not installed here."""
    return get(name).higher_is_better if name in metric_names() else None


def kinds(name: str) -> frozenset[TaskKind]:
    """The kinds of task that the metric applies to.

    Raises:
        BenchError: As `get`.
    """
    return BUILT_IN[name].kinds if name in BUILT_IN else get(name).kinds


def describe(name: str) -> str:
    """One line that says what the metric is.

    Raises:
        BenchError: As `get`.
    """
    if name in BUILT_IN:
        return BUILT_IN[name].summary
    lines = (get(name).__doc__ or "").strip().splitlines()
    return lines[0] if lines else ""


def _load(point: EntryPoint) -> type[Metric]:
    from bench.metric.base import Metric

    where = f"entry point {GROUP}: {point.name} = {point.value}"
    try:
        loaded = point.load()
    except Exception as error:  # a plugin's import may fail in any way, and the user needs to know which plugin
        raise BenchError(f"{where}: cannot be loaded: {type(error).__name__}: {error}") from error
    if not (isinstance(loaded, type) and issubclass(loaded, Metric)):
        raise BenchError(f"{where}: found {loaded!r}, expected a subclass of bench.metric.base.Metric")
    if getattr(loaded, "name", None) != point.name:
        raise BenchError(f'{where}: the class is named "{getattr(loaded, "name", "")}", expected "{point.name}"')
    return loaded
