"""Scoring a cell: answers in; outcomes, item scores and corpus values out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

from bench.errors import BenchError
from bench.metric.registry import get, kinds
from bench.metric.sample import Sample, mean
from bench.result.schema import Outcome
from bench.task.schema import Example, Passage, Task, TaskKind

if TYPE_CHECKING:
    from bench.metric.base import Metric

SCORING_VERSION: Final = 3
"""Part of the cell id. Raise it with every change that can change a score or an outcome."""

DEFAULT_JUDGE: Final[Mapping[TaskKind, str]] = {
    "qa": "exact_match",
    "classification": "accuracy",
    "summarization": "rougeL",
    "structured": "field_accuracy",
    "multiple_choice": "accuracy",
}
"""Who tells right from wrong where the primary metric cannot (macro F1 has no item score, a length ratio no right end)."""


@dataclass(frozen=True)
class Answer:
    """What a strategy said to one example."""

    example: Example
    prediction: str
    retrieved_ids: tuple[str, ...] | None = None
    """In order of rank; None where the strategy retrieves nothing."""
    evidence_text: str | None = None
    """Text of the example's gold passages, joined; the text to be summarized; None if there is neither."""
    cited_ids: tuple[str, ...] | None = None
    """None where the strategy does not cite."""
    option_logprobs: tuple[float, ...] | None = None
    """Multiple choice: log-probability (natural log) of each of the example's options, in their order, the sum over its tokens.
    None where no model was asked for them."""
    logprob: float | None = None
    """Log-probability (natural log) of the answer, the sum over its tokens. None where no model was asked, and after a chain of thought,
    whose tokens would count as well."""
    passages: tuple[Passage, ...] | None = None
    """What the model was handed to read, best first, each with the id of its document. None where the strategy reads nothing."""
    left_out: tuple[Passage, ...] = ()
    """What was retrieved too, but left out of the prompt to fit the window."""


@dataclass(frozen=True)
class Scores:
    """The scores of one cell."""

    outcomes: list[Outcome]
    """One per answer, in order."""
    items: list[dict[str, float]]
    """One per answer, in order; a metric that is undefined for an item, or has no item scores, is absent."""
    corpus: dict[str, float]
    """A metric that is undefined for every item is absent."""
    undefined: dict[str, int]
    """For every metric asked for: the number of items that it could not score."""
    reasons: list[dict[str, str]]
    """One per answer, in order: the metrics that are undefined for the item, and why."""


class ItemLike(Protocol):
    """What corpus values are recomputed from; `bench.result.schema.Item` is one."""

    @property
    def prediction(self) -> str: ...
    @property
    def targets(self) -> list[str]: ...
    @property
    def answerable(self) -> bool: ...
    @property
    def outcome(self) -> Outcome: ...
    @property
    def scores(self) -> dict[str, float]: ...
    @property
    def reasoning(self) -> str | None: ...
    @property
    def logprob(self) -> float | None: ...
    @property
    def option_logprobs(self) -> list[float] | None: ...


def score(task: Task, answers: Sequence[Answer], metric_names: Sequence[str] | None = None) -> Scores:
    """Score the answers by the task's metrics and those that always stand (`names_for`), or by the metrics named and no others.

    The outcome of an item is by the task's primary metric (`bench.metric.hallucination.judge_outcome`), whichever metrics are named:
    right from 1.0 for exact_match, accuracy and field_accuracy, and from 0.5 for f1 and ROUGE.

    Raises:
        BenchError: A metric is unknown or has no meaning for the task's kind.
    """
    from bench.metric.hallucination import judge_outcome

    config = task.config
    check_metrics(config.metrics, config.kind, f"task {task.name}")
    if metric_names is None:
        retrieves, cites = any(a.retrieved_ids is not None for a in answers), any(a.cited_ids is not None for a in answers)
        metric_names = names_for(task, [a.example for a in answers], retrieves, cites)
    names = list(dict.fromkeys(metric_names))
    check_metrics(names, config.kind, f"task {task.name}")

    judge = _judge(task)
    samples = [_sample(answer) for answer in answers]
    samples = [replace(sample, outcome=judge_outcome(sample, judge)) for sample in samples]
    items: list[dict[str, float]] = [{} for _ in samples]
    reasons: list[dict[str, str]] = [{} for _ in samples]
    corpus: dict[str, float] = {}
    undefined: dict[str, int] = {}
    for name in names:
        metric = _build(get(name), task)
        for item, why, sample in zip(items, reasons, samples, strict=True):
            value = metric.sample_level(sample) if metric.mean_of_items else None
            if value is not None:
                item[name] = value
            elif metric.mean_of_items:
                why[name] = metric.undefined_because(sample) or UNDEFINED
            elif reason := metric.undefined_because(sample):
                why[name] = reason
        total = mean(item[name] for item in items if name in item) if metric.mean_of_items else metric.corpus_level(samples)
        undefined[name] = len(samples) if total is None else sum(name in why for why in reasons)
        if total is not None:
            corpus[name] = total
    return Scores([sample.outcome or "incorrect" for sample in samples], items, corpus, undefined, reasons)


UNDEFINED: Final = "undefined"
"""The reason where a metric gives none."""


def as_sample(item: ItemLike) -> Sample:
    """What metrics without item scores see of a scored item."""
    return Sample(
        prediction=item.prediction,
        targets=tuple(item.targets),
        answerable=item.answerable,
        outcome=item.outcome,
        logprob=None if item.reasoning else item.logprob,
        option_logprobs=None if item.option_logprobs is None else tuple(item.option_logprobs),
    )


def corpus_value(name: str, items: Sequence[ItemLike]) -> float | None:
    """The metric's value over any set of items (a slice, a resample), from the items alone; None where it is undefined.

    A plugin's metric that is no mean of item scores is given what `as_sample` makes of an item, and none of the task's settings.

    Raises:
        BenchError: No item has a score of this name and no metric has it either.
    """
    value = mean(item.scores[name] for item in items if name in item.scores)
    if value is not None:
        return value
    metric = get(name)
    return None if metric.mean_of_items else metric().corpus_level([as_sample(item) for item in items])


def check_metrics(names: Sequence[str], kind: TaskKind, where: str) -> None:
    """Check that each metric exists and applies to the kind of task.

    Args:
        names: Metrics to check.
        kind: The task's kind.
        where: What to begin the message with, as ``tasks/x/task.yaml: metrics``.

    Raises:
        BenchError: One does not.
    """
    for name in names:
        try:
            allowed = kinds(name)
        except BenchError as error:
            raise BenchError(f"{where}: {error}") from error
        if kind not in allowed:
            raise BenchError(f'{where}: metric "{name}" has no meaning for kind {kind}, only for {", ".join(sorted(allowed))}')


def names_for(task: Task, examples: Sequence[Example], retrieves: bool, cites: bool = False) -> list[str]:
    """The metrics of a cell: the task's own, and those that always stand where they have a meaning for `examples`.

    ``retrieves``: whether the strategy hands the model passages; ``cites``: whether it asks for the one that an answer rests on.
    """
    kind = task.config.kind
    has_evidence = any(example.evidence for example in examples)
    unanswerable = any(not example.answerable for example in examples)
    writes = kind in ("qa", "summarization")  # labels, options and JSON are not the model's own words
    names = [*task.config.metrics]
    # A summary is more or less good, not right or wrong; a choice is always an attempt, so these would be accuracy again, and 0.
    if kind not in ("summarization", "multiple_choice"):
        names += ["hallucination_rate", "abstention_rate", "accuracy_given_attempted"]
        if task.config.abstain:
            names += ["correct_overall", "f_attempted", "penalized_score_1", "penalized_score_3"]
    if unanswerable:
        names += ["no_answer_accuracy", "false_refusal_rate", "youden_j"]
    if kind != "summarization":
        names += ["ece", "brier", "confidence_auroc", "aurc"]
    if (kind == "classification" and task.labels) or (kind == "structured" and task.config.fields):
        names.append("format_validity")
    if (has_evidence and kind != "multiple_choice") or kind == "summarization":
        names.append("k_precision")
    if kind == "summarization":
        names.append("k_recall")
    if kind == "qa":
        names.append("answer_recall")
    if writes and (has_evidence or retrieves or kind == "summarization"):
        names += ["number_support", "entity_support"]
    if writes and retrieves:
        names.append("passage_precision")
    if has_evidence and retrieves:
        names += ["recall_at_k", "mrr", "right_without_evidence"]
    if has_evidence and cites:
        names += ["citation_precision", "citation_recall"]
    return list(dict.fromkeys(names))


def _judge(task: Task) -> Metric:
    primary = get(task.primary_metric)
    return _build(primary if primary.correct_at is not None else get(DEFAULT_JUDGE[task.config.kind]), task)


def _build(metric: type[Metric], task: Task) -> Metric:
    from bench.metric.exact import ExactText

    if issubclass(metric, ExactText):
        return metric(abstain=task.config.abstain, matching=task.config.matching)
    return metric(labels=task.labels, fields=task.config.fields, abstain=task.config.abstain)


def _sample(answer: Answer) -> Sample:
    return Sample(
        prediction=answer.prediction,
        targets=answer.example.targets,
        answerable=answer.example.answerable,
        evidence=answer.evidence_text,
        retrieved_ids=answer.retrieved_ids,
        gold_ids=answer.example.evidence,
        cited_ids=answer.cited_ids,
        passages=None if answer.passages is None else tuple(passage.text for passage in answer.passages),
        question=answer.example.input,
        logprob=answer.logprob,
        options=answer.example.options,
        option_logprobs=answer.option_logprobs,
    )
