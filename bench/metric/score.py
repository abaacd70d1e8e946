"""Scoring a cell: answers in; outcomes, item scores and corpus values out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

from bench.errors import BenchError
from bench.metric.registry import BUILT_IN, get, kinds
from bench.metric.sample import Sample, mean
from bench.metric.text import macro_f1
from bench.result.schema import Outcome
from bench.task.schema import Example, Task, TaskKind

if TYPE_CHECKING:
    from bench.metric.base import Metric

SCORING_VERSION: Final = 1
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


class ItemLike(Protocol):
    """What corpus values are recomputed from; `bench.result.schema.Item` is one."""

    @property
    def prediction(self) -> str: ...
    @property
    def targets(self) -> list[str]: ...
    @property
    def outcome(self) -> Outcome: ...
    @property
    def scores(self) -> dict[str, float]: ...


def score(task: Task, answers: Sequence[Answer], metric_names: Sequence[str] | None = None) -> Scores:
    """Score the answers by the task's metrics and those that always stand, or by the metrics named and no others.

    Always, but for summaries and multiple choice: hallucination_rate, abstention_rate, accuracy_given_attempted. Where they have a meaning:
    format_validity, retrieval recall and MRR, citation precision and recall, k_precision, and, with unanswerable items,
    no_answer_accuracy and false_refusal_rate.

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
    corpus: dict[str, float] = {}
    undefined: dict[str, int] = {}
    for name in names:
        metric = _build(get(name), task)
        if metric.mean_of_items:
            for item, sample in zip(items, samples, strict=True):
                if (value := metric.sample_level(sample)) is not None:
                    item[name] = value
            total = mean(item[name] for item in items if name in item)
            undefined[name] = sum(name not in item for item in items)
        else:
            total = metric.corpus_level(samples)
            undefined[name] = len(samples) if total is None else 0
        if total is not None:
            corpus[name] = total
    return Scores([sample.outcome or "incorrect" for sample in samples], items, corpus, undefined)


def corpus_value(name: str, items: Sequence[ItemLike]) -> float | None:
    """The metric's value over any set of items (a slice, a resample), from the items alone; None where it is undefined.

    A plugin's metric that is no mean of item scores is given prediction, targets and outcome, and none of the task's settings.

    Raises:
        BenchError: No item has a score of this name and no metric has it either.
    """
    if name == "macro_f1":
        return macro_f1((item.prediction, item.targets) for item in items)
    value = mean(item.scores[name] for item in items if name in item.scores)
    if value is not None or name in BUILT_IN:  # the other built-in metrics are means of item scores
        return value
    metric = get(name)
    if metric.mean_of_items:
        return None
    return metric().corpus_level([Sample(item.prediction, tuple(item.targets), outcome=item.outcome) for item in items])


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
    names = [*task.config.metrics]
    # A summary is more or less good, not right or wrong; a choice is always an attempt, so these would be accuracy again, and 0.
    if task.config.kind not in ("summarization", "multiple_choice"):
        names += ["hallucination_rate", "abstention_rate", "accuracy_given_attempted"]
    if (task.config.kind == "classification" and task.labels) or (task.config.kind == "structured" and task.config.fields):
        names.append("format_validity")
    if any(not example.answerable for example in examples):
        names += ["no_answer_accuracy", "false_refusal_rate"]
    has_evidence = any(example.evidence for example in examples)
    if (has_evidence and task.config.kind != "multiple_choice") or task.config.kind == "summarization":  # options are not the model's words
        names.append("k_precision")
    if has_evidence and retrieves:
        names += ["recall_at_k", "mrr"]
    if has_evidence and cites:
        names += ["citation_precision", "citation_recall"]
    return list(dict.fromkeys(names))


def _judge(task: Task) -> Metric:
    primary = get(task.primary_metric)
    return _build(primary if primary.correct_at is not None else get(DEFAULT_JUDGE[task.config.kind]), task)


def _build(metric: type[Metric], task: Task) -> Metric:
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
        options=answer.example.options,
        option_logprobs=answer.option_logprobs,
    )
