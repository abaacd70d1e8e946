"""Self-consistency: formulas by hand, and samples of the embedded model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.probe.base import Context
from bench.probe.self_consistency import consistency, sample_answers, semantic_entropy_bits, surprisals
from bench.result.schema import ProbeResult

Probed = Callable[..., ProbeResult]
FEW = {"prompt": {"shots": 2}}


def test_formulas_by_hand() -> None:
    assert consistency("Red", ["red.", "the red", "blue", ""]) == 0.5
    assert semantic_entropy_bits(["red", "Red!", "blue", "blue"]) == 1
    assert semantic_entropy_bits(["red"] * 8) == 0
    assert semantic_entropy_bits(list("bcde")) == 2
    assert surprisals("red box", ["red", "red"]) == pytest.approx([-math.log(3 / 4), -math.log(1 / 4)])
    assert surprisals("red", ["red", "red"]) == [0]
    assert surprisals("", ["red"]) == []


def test_samples_follow_the_models_distribution(context_of: Callable[..., Context]) -> None:
    """The share of a label among many samples is its probability, within four standard errors."""
    context = context_of({}, task="ticket_triage", limit=12)
    fitted, example = context.ready, context.cell.task.test[0]
    (request,) = context.requests([example])
    n = 200
    for temperature in (1.0, 0.5):
        (samples,) = sample_answers(fitted, [request.prompt.ids], n, temperature, seed=1)
        with torch.inference_mode():
            logits = fitted.model.network(torch.tensor([request.prompt.ids])).logits[0, -1] / temperature
        p = torch.softmax(logits.float(), -1).numpy()
        first = Counter(fitted.model.tokenizer(" " + s, add_special_tokens=False)["input_ids"][0] for s in samples if s)
        for token in np.argsort(p)[-2:]:
            assert abs(first[int(token)] / n - p[token]) < 4 * math.sqrt(p[token] * (1 - p[token]) / n) + 1e-9


def test_samples_are_seeded_and_leave_the_random_state_alone(context_of: Callable[..., Context]) -> None:
    context = context_of({}, task="ticket_triage", limit=12)
    prompts = [r.prompt.ids for r in context.requests(context.cell.task.test[:3])]
    before = torch.get_rng_state()
    first = sample_answers(context.ready, prompts, 4, 1.0, seed=3)
    assert torch.equal(before, torch.get_rng_state())
    assert first == sample_answers(context.ready, prompts, 4, 1.0, seed=3)
    assert first != sample_answers(context.ready, prompts, 4, 1.0, seed=4)
    assert [len(own) for own in first] == [4, 4, 4]


def test_at_a_low_temperature_samples_are_the_greedy_answer(context_of: Callable[..., Context]) -> None:
    context = context_of({}, task="ticket_triage", limit=12)
    prompts = [r.prompt.ids for r in context.requests(context.cell.task.test)]
    samples = sample_answers(context.ready, prompts, 2, 1e-3, seed=0)
    assert [own[0] for own in samples] == [i.prediction for i in context.items]  # in the items' order, though batches are not
    assert [own[1] for own in samples] == [i.prediction for i in context.items]


def test_the_probe_reports_each_score_beside_its_baselines(context_of: Callable[..., Context], probed: Probed) -> None:
    context = context_of({"retrieval": {"search": "dense", "top_k": 1}}, limit=40)
    result = probed(context, "self-consistency", n_samples=4, items=30)
    outcomes = result.details["outcomes"]
    assert sum(outcomes.values()) == 30
    assert outcomes["incorrect"] > 0
    assert outcomes["correct"] > 0
    names = {f"{name}_auroc" for name in ("inconsistency", "semantic_entropy", "unigram_mean", "unigram_max", "length", "logprob")}
    assert set(result.values) == names | {"consistency", "semantic_entropy_bits"}
    for name in names:
        value = result.values[name]
        assert 0 <= value.value <= 1
        assert value.n_scored == outcomes["incorrect"] + outcomes["correct"]
        assert value.undefined == ({"abstained": outcomes["abstained"]} if "abstained" in outcomes else {})
    assert result.values["consistency"].n_scored == 30
    assert 0 <= result.values["semantic_entropy_bits"].value <= 2


def test_where_all_answers_are_abstentions_nothing_is_told_apart(context_of: Callable[..., Context], probed: Probed) -> None:
    context = context_of({}, limit=24)
    result = probed(context, "self-consistency", n_samples=2, items=8)
    assert result.details["outcomes"] == {"abstained": 8}
    assert set(result.values) == {"consistency", "semantic_entropy_bits"}
    assert len(result.details["undefined"]["names"]) == 6


def test_contradiction_by_an_entailment_model(context_of: Callable[..., Context], probed: Probed, tmp_path: Path) -> None:
    from metric.nli_models import bert

    context = context_of({}, task="ticket_triage", limit=40)
    folder = bert(tmp_path, ["entailment", "neutral", "contradiction"], [0.0, 0.0, 1.0])
    result = probed(context, "self-consistency", n_samples=2, items=30, model=str(folder))
    assert {"correct", "incorrect"} <= set(result.details["outcomes"])
    assert result.values["contradiction_auroc"].value == 0.5  # the model says the same of every pair


@pytest.mark.parametrize(
    ("strategy", "task", "reason"),
    [
        ({"prompt": {"constant": "majority"}}, "ticket_triage", "asks no model"),
        ({"tuning": {"method": "features"}}, "ticket_triage", "no text is generated"),
    ],
)
def test_where_it_has_no_meaning(
    context_of: Callable[..., Context], probed: Probed, strategy: dict[str, object], task: str, reason: str
) -> None:
    result = probed(context_of(strategy, task=task, limit=4), "self-consistency")
    assert reason in (result.reason or "")
