"""A language model as judge of whether evidence supports a response, and how far it agrees with people's labels.

A judge is another noisy detector: its scores mean nothing without the agreement, measured by the same prompt on labelled responses.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np

from bench.errors import BenchError
from bench.metric.detector import Detector, Response, unusable
from bench.metric.detector_data import Labelled
from bench.metric.detector_quality import Score, Undefined
from bench.result.schema import MetricValue
from bench.result.statistics import FloatArray, bootstrap_interval, clustered_interval

Verdict = Literal["supported", "unsupported", "no claim"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
MAX_TOKENS = 200
REQUESTS_AT_A_TIME = 4

RUBRIC = """You check whether a response is supported by evidence. Use the evidence alone, not what you know besides.
- "supported": everything that the response claims is stated in the evidence or follows from it.
- "unsupported": something that the response claims is contradicted by the evidence or is not in it, even if it may be true.
- "no claim": the response claims nothing that evidence could support (a greeting, a question, an opinion, a refusal).
Length, style and politeness do not matter. A short answer is to be read as an answer to the question.
Write one line of JSON and nothing else: {"verdict": "supported" or "unsupported" or "no claim", "reason": "a few words"}"""


class Chat(Protocol):
    """What a judge asks (`bench.model.endpoint.ChatEndpoint`)."""

    def complete(self, messages: Sequence[dict[str, str]], max_tokens: int) -> str:
        """The answer to a conversation."""


@dataclass(frozen=True)
class Agreement:
    """How far a judge agrees with labels on the responses that both have a verdict for."""

    kappa: MetricValue | None
    """Cohen's kappa (Cohen 1960), by a bootstrap over clusters; None where chance alone would agree always."""
    raw: MetricValue
    """Share of equal verdicts."""
    counts: dict[str, int]
    """``label / verdict`` -> responses."""


class Judge:
    """Asks for one verdict a response, by a fixed rubric."""

    def __init__(self, chat: Chat) -> None:
        self.chat = chat

    def verdicts(self, responses: Sequence[Response]) -> list[Verdict | Undefined]:
        """One verdict a response, in order; undefined where the response is empty or the judge gave none.

        Raises:
            BenchError: The endpoint fails.
        """
        with ThreadPoolExecutor(REQUESTS_AT_A_TIME) as pool:
            return list(pool.map(self._verdict, responses))

    def detector(self) -> Detector:
        """1 for unsupported, 0 for supported."""

        def scores(responses: Sequence[Response]) -> list[Score]:
            return [support_score(verdict, unsupported=1.0) for verdict in self.verdicts(responses)]

        return Detector("judge", "whether a language model judges the response unsupported", scores)

    def _verdict(self, response: Response) -> Verdict | Undefined:
        if reason := unusable(response):
            return reason
        return parse_verdict(self.chat.complete(messages(response), MAX_TOKENS))


def messages(response: Response) -> list[dict[str, str]]:
    """What the judge is asked about a response."""
    parts = {"evidence": response.evidence, "context": response.context, "question": response.question, "response": response.text}
    asked = "\n\n".join(f"<{name}>\n{text}\n</{name}>" for name, text in parts.items() if text)
    return [{"role": "system", "content": RUBRIC}, {"role": "user", "content": asked}]


def parse_verdict(text: str) -> Verdict | Undefined:
    """The verdict in what a judge wrote: the first JSON object in it, whatever stands around it."""
    try:
        said = json.JSONDecoder().raw_decode(text, text.index("{"))[0]["verdict"]
    except (ValueError, LookupError, TypeError):
        said = None
    return next((v for v in VERDICTS if isinstance(said, str) and said.strip().lower() == v), Undefined("no verdict"))


def support_score(verdict: Verdict | Undefined, unsupported: float) -> Score:
    """``unsupported`` for an unsupported response and the other of 0 and 1 for a supported one; undefined without a claim."""
    if isinstance(verdict, Undefined):
        return verdict
    if verdict == "no claim":
        return Undefined("no claim")
    return unsupported if verdict == "unsupported" else 1 - unsupported


def agreement(labelled: Sequence[Labelled], verdicts: Sequence[Verdict | Undefined]) -> Agreement:
    """Agreement of verdicts with labels, over the three of `VERDICTS`; clustered by the evidence.

    Raises:
        BenchError: The labels are all the same, or the judge gave no verdict at all.
    """
    labels = [_label(one) for one in labelled]
    if len(set(labels)) < 2:
        raise BenchError(f"labelled responses: all are {labels[0] if labels else 'missing'}; agreement needs two kinds of label")
    kept = [i for i, verdict in enumerate(verdicts) if not isinstance(verdict, Undefined)]
    if not kept:
        raise BenchError(f"judge: no verdict on any of {len(labels)} labelled responses; expected JSON as the rubric asks for")
    reasons = dict(sorted(Counter(v.reason for v in verdicts if isinstance(v, Undefined)).items()))
    clusters = [labelled[i].cluster for i in kept]
    cells = np.zeros((len(kept), len(VERDICTS), len(VERDICTS)))
    for row, i in enumerate(kept):
        cells[row, VERDICTS.index(labels[i]), VERDICTS.index(verdicts[i])] = 1
    counted = {"n_scored": len(kept), "n_undefined": len(labels) - len(kept), "undefined": reasons}
    equal = clustered_interval(np.trace(cells, axis1=1, axis2=2), clusters, clip=True)
    found = bootstrap_interval(cohen_kappa, cells.reshape(len(kept), -1), clusters, n_resamples=2000, of_sums=True)
    total = cells.sum(axis=0)
    return Agreement(
        kappa=None
        if np.isnan(found.value)
        else MetricValue.model_validate({"value": found.value, "ci_low": found.low, "ci_high": found.high, **counted}),
        raw=MetricValue.model_validate({"value": equal.value, "ci_low": equal.low, "ci_high": equal.high, **counted}),
        counts={f"{a} / {b}": int(total[i, j]) for i, a in enumerate(VERDICTS) for j, b in enumerate(VERDICTS) if total[i, j]},
    )


def cohen_kappa(counts: FloatArray) -> FloatArray:
    """(observed - expected agreement) / (1 - expected) of square tables of counts, flattened: shape (..., k * k) -> (...).

    NaN where the expected agreement is 1: both always say the same one thing.
    """
    k = round(counts.shape[-1] ** 0.5)
    table = counts.reshape(*counts.shape[:-1], k, k)
    n = table.sum(axis=(-2, -1))
    observed = np.trace(table, axis1=-2, axis2=-1) / n
    expected = (table.sum(axis=-1) * table.sum(axis=-2)).sum(axis=-1) / n**2
    rest = 1 - expected
    return np.asarray(np.divide(observed - expected, rest, out=np.full(np.shape(rest), np.nan), where=rest > 1e-12))


def _label(one: Labelled) -> Verdict:
    return "no claim" if one.unsupported is None else "unsupported" if one.unsupported else "supported"
