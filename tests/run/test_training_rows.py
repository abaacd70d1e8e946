"""What a provider's fine-tuning is given to read: the conversations that are asked later, with their answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.model.served import ServedModel
from bench.model.source import locate
from bench.probe.base import Context, run_probe
from bench.run.ask import Asker, shots_of
from bench.run.fit import Fitted
from bench.run.plan import Numbers, Target, Workload, plan
from bench.strategy.spec import Strategy
from bench.suite import Suite, expand, find_task
from bench.task.load import load_task

SOURCE = "m@http://127.0.0.1:9/v1"


def rows_of(tmp_path: Path, strategy: dict[str, Any]) -> tuple[Asker, list[dict[str, Any]]]:
    chosen, task = Strategy.model_validate(strategy), load_task(find_task("product_support"), train_examples=12)
    asker = Asker(task, chosen, ServedModel(locate(SOURCE)), tmp_path, shots_of(task, chosen, 0))
    return asker, asker.training_rows(0)


def test_rows_are_what_is_asked_with_the_answer(tmp_path: Path) -> None:
    asker, rows = rows_of(tmp_path, {"tuning": {"method": "hosted"}})
    asked = asker.requests(asker.task.train, None)
    assert len(rows) == 12
    for row, request, example in zip(rows, asked, asker.task.train, strict=True):
        assert row["messages"] == [*request.prompt.messages, {"role": "assistant", "content": example.targets[0]}]


def test_of_the_answers_of_shots_nothing_is_learned_and_no_shot_is_a_row(tmp_path: Path) -> None:
    asker, rows = rows_of(tmp_path, {"prompt": {"shots": 2}, "tuning": {"method": "hosted"}})
    assert len(rows) == 10
    for row in rows:
        *before, last = row["messages"]
        assert [m.get("weight") for m in before] == [None, 0, None, 0, None]
        assert "weight" not in last
    assert all("weight" not in m for m in asker.requests(asker.task.train, None)[0].prompt.messages)


def test_passages_are_trained_with_where_the_strategy_says_so(tmp_path: Path) -> None:
    retrieval = {"search": "lexical", "top_k": 2}
    _, without = rows_of(tmp_path, {"retrieval": retrieval, "tuning": {"method": "hosted"}})
    _, with_them = rows_of(tmp_path, {"retrieval": retrieval, "tuning": {"method": "hosted", "with_passages": True}})
    assert not any("[1] " in row["messages"][0]["content"] for row in without)
    assert all("[1] " in row["messages"][0]["content"] and "[2] " in row["messages"][0]["content"] for row in with_them)


@pytest.mark.parametrize("wrong", [{"class_weights": "balanced"}, {"objective": "dpo"}, {"train_on": ["documents"]}])
def test_what_the_provider_cannot_do_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"tuning.{'class_weights' if 'class_weights' in wrong else 'objective'}: the provider"):
        Strategy.model_validate({"tuning": {"method": "hosted", **wrong}})


def test_probes_that_train_again_begin_no_job_and_what_needs_weights_is_left_out(tmp_path: Path) -> None:
    suite = Suite(model=SOURCE, tasks=["product_support"], strategies=["hosted"], limit=5, probes=["bias", "footprint"])
    cell = expand(suite, locate(SOURCE))[0]
    fitted = Fitted.__new__(Fitted)  # as tuned: nothing of it is asked anything
    asker, _ = rows_of(tmp_path, {"tuning": {"method": "hosted"}})
    fitted.asker, fitted.head, fitted.strategy = asker, None, cell.strategy
    context = Context(cell, fitted, [], tmp_path, lambda _: None)
    assert run_probe("bias", context)[0].reason == "it trains the strategy again, which the provider would have to be paid for"
    found = run_probe("footprint", context)[0]
    assert found.details["components"] == ["tuned model"]
    assert found.details["left_out"]["switch_bytes"] == "the tuned weights are the provider's, and nobody else can load them"


def test_a_plan_leaves_it_out() -> None:
    found = plan("hosted", Strategy.model_validate({"tuning": {"method": "hosted"}}), "embedded", Workload(), Numbers(), Target(2**33))
    assert found.notes == ("is tuned and served by a provider: bench run --dry-run says what that costs",)
