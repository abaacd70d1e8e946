"""Whether a language model judges a strategy's answers to be supported, with its agreement with labels beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from bench.errors import BenchError
from bench.metric.detector import Response
from bench.metric.detector_data import gold_evidence, read_labelled, responses_of
from bench.metric.detector_quality import Score, Undefined, mean_value, numbers_of
from bench.metric.judge import Judge, agreement, support_score
from bench.model.endpoint import ChatEndpoint
from bench.probe.base import Context, Finding, Probe
from bench.suite import Cell


class JudgeProbe(Probe):
    """Share of answers that a judge at an endpoint finds supported by the gold evidence (off by default: it costs requests).

    ``judged_supported`` is never without ``agreement_kappa`` (Cohen's) and ``agreement_raw``: the same judge with the same rubric on
    labelled responses. Abstentions, empty answers, and what the judge finds to claim nothing are left out. Every cell asks for
    `items` answers and as many labelled responses. A judged text can try to instruct the judge; nothing prevents that.
    """

    url: str
    """Base URL of an OpenAI-compatible endpoint, such as http://localhost:8000/v1."""
    model: str
    """The judge's name there."""
    labelled: str
    """Labelled responses, as `bench validate-detector` reads them: a judge without agreement is hearsay."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the key."""
    items: int = Field(default=100, ge=2)
    """Test items judged, and labelled responses judged, at most."""

    def not_applicable(self, cell: Cell) -> str | None:
        if cell.task.config.kind not in ("qa", "summarization"):
            return "the task's answers are no statements"
        return None if gold_evidence(cell.task) else "the task has no evidence"

    def run(self, context: Context) -> tuple[dict[str, Finding], dict[str, Any]]:
        judge = Judge(ChatEndpoint(self.url, self.model, api_key_env=self.api_key_env))
        # The labelled ones first: a judge that cannot be trusted with them need not be paid for more.
        labelled = read_labelled(Path(self.labelled))
        labelled = context.random("judge/labelled").sample(labelled, min(self.items, len(labelled)))
        agreed = agreement(labelled, judge.verdicts([one.response for one in labelled]))
        if agreed.kappa is None:
            raise BenchError(f"judge {self.model}: always gives one verdict on {self.labelled}; expected one that tells responses apart")

        ids = {e.id for e in context.random("judge").sample(context.cell.task.test, min(self.items, len(context.cell.task.test)))}
        items = [i for i in context.items if i.id in ids]
        responses = responses_of(context.cell.task, items, gold_evidence(context.cell.task))
        verdicts = iter(judge.verdicts([r for r in responses if isinstance(r, Response)]))
        scores: dict[str, Score] = {
            i.id: r if isinstance(r, Undefined) else support_score(next(verdicts), unsupported=0.0)
            for i, r in zip(items, responses, strict=True)
        }
        found = {"agreement_kappa": Finding(agreed.kappa), "agreement_raw": Finding(agreed.raw)}
        if value := mean_value(scores, {i.id: i.cluster for i in items}):
            found["judged_supported"] = Finding(value, numbers_of(scores))
        return found, {"judge": self.model, "label / verdict": agreed.counts}


PROBE = JudgeProbe
