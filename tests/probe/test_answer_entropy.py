"""Exact answer entropy: known distributions, and the embedded model's own."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from bench.probe.answer_entropy import _calibration_error, candidates_of, entropy_bits
from bench.probe.base import Context, run_probe
from bench.result.schema import ProbeResult

Probed = Callable[..., ProbeResult]
RAG = {"retrieval": {"search": "oracle"}}


def test_entropy_of_known_distributions() -> None:
    assert entropy_bits(np.zeros(8)) == pytest.approx(3)
    assert entropy_bits(np.array([-5.0, -5.0])) == pytest.approx(1)  # of the softmax: what both share does not count
    assert entropy_bits(np.log([0.5, 0.25, 0.25])) == pytest.approx(1.5)
    assert entropy_bits(np.array([0.0, -2000.0])) == 0
    assert entropy_bits(np.array([-3.0])) == 0


def test_the_calibration_error_of_what_is_sure_and_wrong_half_the_time() -> None:
    names = [str(i) for i in range(60)]
    found = _calibration_error(dict.fromkeys(names, 1.0), {n: float(int(n) % 2) for n in names}, {n: n for n in names})
    assert found.value == pytest.approx(0.5, abs=0.01)
    assert found.low is not None
    assert found.high is not None
    assert 0.3 < found.low < found.value < found.high < 0.7
    one = _calibration_error({"a": 0.5, "b": 0.5}, {"a": 1.0, "b": 0.0}, {"a": "c", "b": "c"})
    assert (one.low, one.high) == (None, None)


def test_the_candidates_are_the_values_of_what_is_asked(context_of: Callable[..., Context]) -> None:
    task = context_of(RAG).cell.task
    found = candidates_of(task)
    assert found
    for example in task.test:
        if example.id in found:
            assert example.targets[0] in found[example.id]
            assert found[example.id][-1] == "unknown"
            assert len(set(found[example.id])) == len(found[example.id]) >= 8
        else:
            assert not example.answerable
    triage = context_of({}, task="ticket_triage").cell.task
    assert set(candidates_of(triage).values()) == {triage.labels}


def test_a_reader_of_the_gold_passage_is_surer_and_better_than_one_without(context_of: Callable[..., Context], probed: Probed) -> None:
    read = probed(context_of(RAG, limit=40), "answer-entropy").values
    assert read["candidate_accuracy"].value > 0.5
    assert 0 <= read["entropy_bits"].value < 1.5
    assert read["entropy_bits"].ci_low is not None
    assert read["entropy_bits"].ci_low >= 0
    closed = probed(context_of({}, limit=40), "answer-entropy")
    assert "candidate_accuracy" not in closed.values  # it says "unknown" to all: nothing is claimed
    assert closed.details["entropy_auroc"].startswith("undefined")


def test_values_are_those_of_the_candidates(context_of: Callable[..., Context]) -> None:
    context = context_of({}, task="ticket_triage", limit=12)
    context.cell.probes["answer-entropy"] = {}
    with context.ready.meter.phase("probe"):
        result, items = run_probe("answer-entropy", context)
    task, model = context.cell.task, context.ready.model
    example = task.test[3]
    (request,) = context.requests([example])
    logs = []
    for label in task.labels:  # each by the model's loss, one at a time
        (ids,) = model.option_ids([request.prompt.messages], [request.prompt.ids], [[label]])
        whole = [*request.prompt.ids, *ids[0]]
        logs.append(-model.loss([(whole, len(request.prompt.ids))]).item() * len(ids[0]))
    p = np.exp(np.array(logs) - np.logaddexp.reduce(logs))
    assert items["entropy_bits"][example.id] == pytest.approx(-(p * np.log2(p)).sum(), abs=1e-3)
    assert items["candidate_confidence"][example.id] == pytest.approx(p.max(), abs=1e-3)
    assert items["candidate_accuracy"][example.id] == float(task.labels[int(p.argmax())] in example.targets)
    assert result.values["entropy_bits"].value == pytest.approx(np.mean(list(items["entropy_bits"].values())))
    assert result.values["entropy_bits"].value <= math.log2(len(task.labels))


def test_the_number_of_items_is_kept_and_the_same_for_all(context_of: Callable[..., Context]) -> None:
    chosen = []
    for strategy in ({}, RAG):
        context = context_of(strategy, limit=40)
        context.cell.probes["answer-entropy"] = {"items": 10}
        with context.ready.meter.phase("probe"):
            chosen.append(set(run_probe("answer-entropy", context)[1]["entropy_bits"]))
    assert chosen[0] == chosen[1]
    assert len(chosen[0]) == 10


def test_an_item_that_the_model_is_not_asked_is_undefined(context_of: Callable[..., Context], probed: Probed) -> None:
    context = context_of({"retrieval": {"search": "dense", "abstain_below": 1.0}}, limit=12)
    result = probed(context, "answer-entropy")
    assert result.values == {}


@pytest.mark.parametrize(
    ("strategy", "task", "reason"),
    [
        ({"prompt": {"constant": "majority"}}, "ticket_triage", "asks no model"),
        ({"prompt": {"chain_of_thought": "Think."}}, "product_reasoning", "after reasoning"),
        ({"tuning": {"method": "features"}}, "ticket_triage", "classification head"),
        ({}, "abstract_summary", "no finite set"),
    ],
)
def test_where_it_has_no_meaning(
    context_of: Callable[..., Context], probed: Probed, strategy: dict[str, object], task: str, reason: str
) -> None:
    result = probed(context_of(strategy, task=task, limit=4), "answer-entropy")
    assert reason in (result.reason or "")
    assert result.values == {}
