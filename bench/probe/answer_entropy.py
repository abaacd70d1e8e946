"""How sure a strategy is of its answer, where the possible answers are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from bench.metric.calibration import Ranked, calibration_error
from bench.metric.detector_quality import Score, Undefined, cluster_draws, mean_value, numbers_of, separation
from bench.metric.text import is_abstention, label_key
from bench.probe.base import Context, Finding, Probe
from bench.probe.shared.world import facts_of
from bench.result.statistics import FloatArray, Interval
from bench.suite import Cell
from bench.task.schema import Example, Task

NOT_ASKED = Undefined("the model was not asked")


class AnswerEntropy(Probe):
    """The exact entropy of the answer over a finite set of values, and whether it tells wrong answers.

    The candidates are the labels, the options, or the values of the attribute asked for (embedded world) with the abstention
    phrase. With p the softmax over the log-probabilities of all candidates as answers (without an end token, so that a candidate
    which begins another one gets the other's share too):

    * ``entropy_bits`` = mean of -sum p log2 p;
    * ``entropy_auroc``: how well it ranks the strategy's own answers that are attempted and wrong above those that are right;
    * ``candidate_accuracy``, ``candidate_confidence``: of the likeliest candidate, and ``candidate_ece``: the expected calibration
      error between the two over bins of equal mass, corrected for noise (see `bench.metric.calibration`).
      Where an abstention is likeliest, nothing is claimed, and the item is left out of the three.
    """

    items: int = Field(default=150, ge=2)
    """Test items, at most."""

    def not_applicable(self, cell: Cell) -> str | None:
        if cell.strategy.prompt.constant:
            return "the strategy asks no model"
        if cell.strategy.prompt.chain_of_thought:
            return "the answer comes after reasoning, and candidates cannot be scored without it"
        if cell.model.kind == "encoder" or cell.strategy.tuning.method == "features":
            return "a classification head chooses the answer, and no text is scored"
        if not candidates_of(cell.task):
            return "the task's answers are no finite set of values"
        return None

    def run(self, context: Context) -> tuple[dict[str, Finding], dict[str, Any]]:
        fitted, candidates = context.ready, candidates_of(context.cell.task)
        examples = [e for e in context.cell.task.test if e.id in candidates]
        examples = sorted(context.random("answer-entropy").sample(examples, min(self.items, len(examples))), key=lambda e: e.id)
        requests = context.requests(examples)
        asked = [(e, r) for e, r in zip(examples, requests, strict=True) if not r.abstains]
        prompts = [r.prompt.ids for _, r in asked]
        options = [candidates[e.id] for e, _ in asked]
        ids = fitted.model.option_ids([r.prompt.messages for _, r in asked], prompts, options)
        fitted.model.network.eval()
        chosen = dict(pair for batch in fitted.model.choose(prompts, options, ids) for pair in batch)
        logprobs = {e.id: np.array(chosen[i].option_logprobs) for i, (e, _) in enumerate(asked)}
        return _findings(context.cell.task, examples, candidates, logprobs, {i.id: i.outcome for i in context.items})


def candidates_of(task: Task) -> dict[str, tuple[str, ...]]:
    """The possible answers to each test example whose answers are a finite set, by its id."""
    kind = task.config.kind
    if kind == "classification":
        return {e.id: task.labels for e in task.test}
    if kind == "multiple_choice":
        return {e.id: e.options for e in task.test}
    if kind != "qa":
        return {}
    abstain = tuple(task.config.abstain[:1])
    return {e.id: (*fact.attribute.values, *abstain) for fact in facts_of(task) for e in fact.examples}


def entropy_bits(logprobs: FloatArray) -> float:
    """Entropy of the softmax over log-probabilities (k,), in bits: 0 where one has it all, log2 k where all are equal."""
    logs = logprobs - np.logaddexp.reduce(logprobs)
    p = np.exp(logs)
    return max(0.0, float(-(p[p > 0] * logs[p > 0]).sum() / np.log(2)))


def _findings(
    task: Task, examples: Sequence[Example], candidates: Mapping[str, tuple[str, ...]], logprobs: Mapping[str, FloatArray],
    outcomes: Mapping[str, str],
) -> tuple[dict[str, Finding], dict[str, Any]]:  # fmt: skip
    clusters = {e.id: e.cluster for e in examples}
    entropy: dict[str, Score] = {e.id: NOT_ASKED for e in examples}
    confidence, right, told = dict(entropy), dict(entropy), dict(entropy)
    for e in examples:
        if e.id not in logprobs:
            continue
        row = logprobs[e.id]
        best = int(row.argmax())
        entropy[e.id] = told[e.id] = entropy_bits(row)
        if outcomes[e.id] == "abstained":
            told[e.id] = Undefined("abstained")
        if is_abstention(candidates[e.id][best], task.config.abstain):
            confidence[e.id] = right[e.id] = Undefined("an abstention is likeliest")
        else:
            confidence[e.id] = float(np.exp(row[best] - np.logaddexp.reduce(row)))
            right[e.id] = float(label_key(candidates[e.id][best]) in {label_key(target) for target in e.targets})

    found: dict[str, Finding] = {}
    most = max(len(row) for row in candidates.values())
    shown = {"entropy_bits": (entropy, np.log2(most)), "candidate_accuracy": (right, 1.0), "candidate_confidence": (confidence, 1.0)}
    for name, (scores, top) in shown.items():
        if value := mean_value(scores, clusters, top):
            found[name] = Finding(value, numbers_of(scores))
    if "candidate_accuracy" in found:
        ece = _calibration_error(numbers_of(confidence), numbers_of(right), clusters)
        update = {"value": ece.value, "ci_low": ece.low, "ci_high": ece.high}
        found["candidate_ece"] = Finding(found["candidate_accuracy"].value.model_copy(update=update))
    auroc = separation(list(told.values()), [outcomes[name] == "incorrect" for name in told], [clusters[name] for name in told])
    if auroc:
        found["entropy_auroc"] = Finding(auroc)
    absent = {} if auroc else {"entropy_auroc": "undefined: the attempted answers are all right, all wrong, or none"}
    return found, {"most_candidates": most, **absent}


def _calibration_error(confidence: Mapping[str, float], right: Mapping[str, float], clusters: Mapping[str, str]) -> Interval:
    ranked = Ranked.of(list(confidence.values()), list(right.values()))
    value = float(calibration_error(ranked.counts())[0])
    names = np.array([clusters[name] for name in confidence])
    if len(np.unique(names)) < 2:
        return Interval(value, None, None)
    low, high = np.quantile(calibration_error(ranked.counts(cluster_draws(names))), [0.025, 0.975])
    # A resample adds its noise to that of the items, so it lies above them as they lie above the truth.
    return Interval(value, max(0.0, min(float(low), 2 * value - float(high))), max(value, float(high)))


PROBE = AnswerEntropy
