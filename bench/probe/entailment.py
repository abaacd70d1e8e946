"""Whether what a strategy answers follows from what it should rest on, by a model of inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from pydantic import Field, model_validator

from bench.errors import BenchError
from bench.metric.detector import Response
from bench.metric.detector_data import gold_evidence, responses_of
from bench.metric.detector_quality import Score, Undefined, mean_value, numbers_of
from bench.metric.entailment import TEMPLATE, EntailmentModel, check_template, rogan_gladen
from bench.probe.base import Context, Finding, Probe
from bench.suite import Cell


class Entailment(Probe):
    """Share of answers that an entailment model finds supported (off by default: it needs a model).

    * ``entailed_by_gold``: by the gold passages (of a summary: by the text); ``entailed_by_read``: by the passages that the
      strategy read, which says nothing of whether they were the right ones. An answer is entailed where SummaC-ZS reaches .5
      (see `bench.metric.entailment`). Abstentions and empty answers claim nothing and are left out.
    * ``…_corrected``, where `sensitivity` and `specificity` are given: the share behind what a detector with these errors reports
      (Rogan and Gladen 1978). Measure the two on labelled answers of your own task.
    """

    model: str
    """A folder in Hugging Face format or a hub id; see `bench validate-detector --model`."""
    template: str = TEMPLATE
    """How question and answer become a statement."""
    sensitivity: float | None = Field(default=None, gt=0, le=1)
    """P(found entailed | entailed)."""
    specificity: float | None = Field(default=None, gt=0, le=1)
    """P(found not entailed | not entailed)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            check_template(self.template)
        except BenchError as error:
            raise ValueError(str(error)) from error
        if (self.sensitivity is None) != (self.specificity is None):
            raise ValueError("sensitivity and specificity: found one of the two, expected both or none")
        if self.sensitivity is not None and self.specificity is not None and self.sensitivity + self.specificity <= 1:
            raise ValueError(f"sensitivity {self.sensitivity} + specificity {self.specificity}: expected more than 1")
        return self

    def not_applicable(self, cell: Cell) -> str | None:
        if cell.task.config.kind not in ("qa", "summarization"):
            return "the task's answers are no statements"
        if not gold_evidence(cell.task) and cell.strategy.retrieval.search == "none":
            return "the task has no evidence, and the strategy reads none"
        return None

    def run(self, context: Context) -> tuple[dict[str, Finding], dict[str, Any]]:
        model = EntailmentModel(self.model, template=self.template, trust_remote_code=context.cell.trust_remote_code)
        task = context.cell.task
        sources = {"entailed_by_gold": gold_evidence(task)}
        if context.cell.strategy.retrieval.search != "none":
            read = [(e.id, r.found) for e, r in zip(task.test, context.requests(task.test), strict=True)]
            sources["entailed_by_read"] = {i: "\n".join(found.passages) for i, found in read if found}
        found: dict[str, Finding] = {}
        clusters = {i.id: i.cluster for i in context.items}
        for name, evidence in sources.items():
            responses = responses_of(task, context.items, evidence)
            scores = dict(zip(clusters, _entailed(model, responses), strict=True))
            value = mean_value(scores, clusters)
            if value is None:
                continue
            found[name] = Finding(value, numbers_of(scores))
            if self.sensitivity is not None and self.specificity is not None:
                bounds = {
                    key: None if bound is None else rogan_gladen(bound, self.sensitivity, self.specificity)
                    for key in ("value", "ci_low", "ci_high")
                    for bound in (getattr(value, key),)
                }
                found[f"{name}_corrected"] = Finding(value.model_copy(update=bounds))
        return found, {"model": model.name}


def _entailed(model: EntailmentModel, responses: Sequence[Response | Undefined]) -> list[Score]:
    usable = iter(model.supported([r for r in responses if isinstance(r, Response)]).tolist())
    return [r if isinstance(r, Undefined) else float(next(usable) >= 0.5) for r in responses]


PROBE = Entailment
