"""How much hangs on the wording of the instruction."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import Field, ValidationError, field_validator

from bench.metric.text import normalize
from bench.probe.base import Context, Finding, Probe
from bench.probe.shared.perturb import Judged, Tally, judge, sampled
from bench.result.schema import MetricValue
from bench.result.statistics import FloatArray, Interval, SumStatistic, bootstrap_interval, clustered_interval, wilson_interval
from bench.settings import first_problem
from bench.strategy.prompt import instruction
from bench.strategy.spec import PromptChoice
from bench.suite import Cell

PERMUTATIONS = 2000
UNDEFINED = "the primary metric is undefined in some wording"


class Wording(Probe):
    """How the score varies over wordings of the instruction that mean the same; the same ones for every strategy.

    The strategy's own wording stays around each, and what it was trained on stays as it was: for a trained strategy this is
    transfer to other templates. With m_t the mean score of wording t over the items:

    * ``score`` = mean of m_t, ``worst_score`` = min m_t, ``score_sd`` = standard deviation of m_t (n - 1), ``wording_<t>_score`` = m_t;
    * ``spread`` = max m_t - min m_t (Sclar et al. 2024, arXiv 2310.11324). Chance alone makes it positive, so its interval never
      holds 0. ``details.spread_p`` is the p of a spread this large where wordings do not matter, from shuffling each cluster's
      scores over the wordings, and ``spread_excess`` = spread - its mean over these shuffles: 0 on average where wordings do not
      matter, and too low where they do, since the extremes are then no longer picked by chance;
    * ``consistency`` = share of items with the same answer in every wording; ``worst_case_score`` = mean over items of the worst wording.

    Intervals of what is no mean over items: percentile bootstrap over clusters, which all wordings share.
    """

    wordings: tuple[str, ...] = (
        "{{ instruction }}",
        "{{ instruction }} Reply with the answer only.",
        "Read carefully. {{ instruction }}",
        "Please help. {{ instruction }}",
        "Instruction: {{ instruction }}",
        "{{ instruction }} Thank you.",
    )
    """Jinja templates over the task's ``instruction``."""
    items: int = Field(default=100, ge=1)
    """Test items, at most."""

    @field_validator("wordings")
    @classmethod
    def _different(cls, wordings: tuple[str, ...]) -> tuple[str, ...]:
        if len(wordings) < 2 or len(set(wordings)) < len(wordings):
            raise ValueError(f"wordings: found {list(wordings)}; expected two or more different ones")
        for text in wordings:
            try:
                PromptChoice(instruction=text)
            except ValidationError as error:
                raise ValueError(f'wordings: "{text}" {first_problem(PromptChoice, error)}') from error
            if not re.search(r"\{\{[^}]*\binstruction\b", text):
                raise ValueError(f'wordings: found "{text}"; expected {{{{ instruction }}}} in it')
        return wordings

    def not_applicable(self, cell: Cell) -> str | None:
        if cell.strategy.prompt.constant:
            return "the strategy asks no model"
        if cell.model.kind == "encoder":
            return "an encoder reads the input alone, and no instruction"
        return None

    def run(self, context: Context) -> tuple[dict[str, Finding], dict[str, Any]]:
        task, asker = context.cell.task, context.ready.asker
        examples = [example for example, _ in sampled(context, self.items)]
        found = asker.retriever.find(examples)
        answers: list[list[Judged]] = []
        truncated: dict[str, int] = {}
        for number, text in enumerate(self.wordings, start=1):
            worded = copy.copy(asker)
            worded.task = replace(task, instruction=instruction(task, PromptChoice(instruction=text)))
            requests = worded.requests(examples, found)
            truncated[f"wording_{number}"] = sum(request.prompt.truncated for request in requests)
            answers.append(judge(task, examples, context.answer(requests)))

        ids, clusters = [e.id for e in examples], {e.id: e.cluster for e in examples}
        table = [[judged.score for judged in row] for row in zip(*answers, strict=True)]
        whole = {i: [s for s in row if s is not None] for i, row in zip(ids, table, strict=True) if None not in row}
        share = all(0 <= s <= 1 for row in whole.values() for s in row)
        tally = Tally(clusters)
        tally.mean("score", {i: float(np.mean(whole[i])) if i in whole else None for i in ids}, UNDEFINED, share)
        tally.mean("worst_case_score", {i: min(whole[i]) if i in whole else None for i in ids}, UNDEFINED, share)
        said = [{normalize(judged.prediction) for judged in row} for row in zip(*answers, strict=True)]
        tally.mean("consistency", {i: float(len(texts) == 1) for i, texts in zip(ids, said, strict=True)}, "")
        for t in range(len(self.wordings)):
            tally.mean(f"wording_{t + 1}_score", {i: whole[i][t] if i in whole else None for i in ids}, UNDEFINED, share)
        details: dict[str, Any] = {
            "wordings": {f"wording_{n}": text for n, text in enumerate(self.wordings, start=1)},
            "n_items": len(ids), "n_truncated": truncated, "undefined": tally.undefined,
        }  # fmt: skip
        findings = tally.findings
        if whole:
            values, more = spread_of(np.array(list(whole.values())), [clusters[i] for i in whole])
            missing = len(ids) - len(whole)
            more_undefined = {"n_undefined": missing, "undefined": {UNDEFINED: missing} if missing else {}}
            findings |= {name: Finding(value.model_copy(update=more_undefined)) for name, value in values.items()}
            details |= more
        return findings, details


def spread_of(scores: FloatArray, clusters: list[str]) -> tuple[dict[str, MetricValue], dict[str, float]]:
    """What varies over the columns of `scores` (items, wordings), in [0, 1]: values with intervals, and the test of the spread.

    The interval of ``spread_excess`` is that of the spread with the median of its resamples moved to the excess, since resampling
    adds as much to the spread by chance as the excess takes off. Where no item varies, a bootstrap would say that none ever does:
    the upper bounds are then Wilson's for 0 of C clusters.
    """
    n = len(scores)
    rows = np.column_stack([scores, np.ones(n)])
    found = {name: bootstrap_interval(statistic, rows, clusters, of_sums=True) for name, statistic in _STATISTICS.items()}
    names, codes = np.unique(clusters, return_inverse=True)
    by_cluster = np.zeros((len(names), scores.shape[1]))
    np.add.at(by_cluster, codes, scores)
    repeated = np.broadcast_to(by_cluster, (PERMUTATIONS, *by_cluster.shape))
    shuffled = np.ptp(np.random.default_rng(0).permuted(repeated, axis=2).sum(axis=1), axis=1) / n
    expected = float(shuffled.mean())
    spread, low, high = found["spread"]
    excess = spread - expected
    found["spread_excess"] = Interval(excess, None, None)
    if low is not None and high is not None:
        middle = bootstrap_interval(_STATISTICS["spread"], rows, clusters, level=0.0, of_sums=True).low or 0.0
        found["spread_excess"] = Interval(excess, excess + low - middle, excess + high - middle)
        if not np.ptp(scores, axis=1).any():
            bound = wilson_interval(0.0, len(names))[1]
            found = {name: Interval(interval.value, 0.0, bound) for name, interval in found.items()}
            found["worst_score"] = clustered_interval(scores[:, 0], clusters, clip=True)
    values = {name: MetricValue(value=i.value, ci_low=i.low, ci_high=i.high, n_scored=n) for name, i in found.items()}
    at_least = int(np.count_nonzero(shuffled >= spread - 1e-9))
    return values, {"spread_p": (1 + at_least) / (1 + PERMUTATIONS), "spread_by_chance": expected}


def _means(sums: FloatArray) -> FloatArray:
    return sums[..., :-1] / sums[..., -1:]


_STATISTICS: dict[str, SumStatistic] = {
    "spread": lambda sums: np.asarray(np.ptp(_means(sums), axis=-1)),
    "worst_score": lambda sums: np.asarray(np.min(_means(sums), axis=-1)),
    "score_sd": lambda sums: np.asarray(np.std(_means(sums), axis=-1, ddof=1)),
}


PROBE = Wording
