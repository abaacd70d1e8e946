from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.errors import BenchError
from bench.metric.text import normalize
from bench.probe import freshness
from bench.probe.base import Context, make
from bench.probe.freshness import Freshness
from bench.probe.shared import update as update_of_world
from bench.probe.shared.update import Update, pages_of
from bench.result.schema import Phase, ProbeResult
from bench.strategy.tuning import Pair, Tuned
from bench.task.schema import Task

ContextOf = Callable[..., Context]
Probed = Callable[..., ProbeResult]

ZERO_SHOT = {"tuning": {"method": "none"}}
ORACLE = {"retrieval": {"search": "oracle"}}
LEXICAL = {"retrieval": {"search": "lexical", "top_k": 1}}
FULL = {"tuning": {"method": "full", "learning_rate": 1e-3, "epochs": 20, "evaluations": 1}}


def update_of(context: Context) -> tuple[Task, Update]:
    task = context.cell.task
    return task, Freshness().update(context)


@pytest.fixture
def trained_on(monkeypatch: pytest.MonkeyPatch) -> list[list[Pair]]:
    """What the probe hands to training, one list a call; nothing is trained."""
    calls: list[list[Pair]] = []

    def tune(model: Any, choice: Any, pairs: Sequence[Pair], *others: Any) -> Tuned:
        calls.append(list(pairs))
        return Tuned(0.0, choice.epochs, 7.0, {})

    monkeypatch.setattr("bench.strategy.tuning.tune", tune)
    return calls


# ---------------------------------------------------------------------------------------------- the update


def test_the_documents_state_what_the_update_says(context_of: ContextOf) -> None:
    task, update = update_of(context_of(ZERO_SHOT, train_examples=200))
    texts = {p.id: p.text for p in task.corpus}
    now = {p.id: p.text for p in update.corpus}
    assert [len(update.edited), len(update.deleted), len(update.changed)] == [20, 10, 40]
    for c in update.edited:
        assert c.old is not None
        assert c.new is not None
        assert texts[c.document_id].replace(c.old, c.new) == now[c.document_id]
        assert c.old not in now[c.document_id]
    for c in update.deleted:
        before = {f.attribute.name: f.old for f in update_of_world._page(c.document_id, c.product, texts[c.document_id]).facts}
        after = {f.attribute.name: f.old for f in update_of_world._page(c.document_id, c.product, now[c.document_id]).facts}
        assert before.pop(c.attribute.name) == c.old
        assert after == before
        assert now[c.document_id].count(c.product) >= 1
    changed = {p.id for p in update.changed}
    assert {i: text for i, text in texts.items() if i not in changed} == {i: text for i, text in now.items() if i not in changed}
    assert len(update.corpus) == len(task.corpus) + 10


def test_edited_and_deleted_facts_are_of_different_products_and_half_were_asked_in_train(context_of: ContextOf) -> None:
    task, update = update_of(context_of(ZERO_SHOT, train_examples=200))
    assert len({c.product for c in (*update.edited, *update.deleted)}) == 30
    trained = {(e.cluster, e.targets[0]) for e in task.train}
    assert sum((c.product, c.old) in trained for c in update.edited) == 10
    assert sum((c.product, c.old) in trained for c in update.deleted) == 5


def test_the_rows_and_the_corrected_examples_have_the_new_answers(context_of: ContextOf) -> None:
    task, update = update_of(context_of(ZERO_SHOT, train_examples=200))
    now = {(c.product, c.attribute.noun): c for c in (*update.edited, *update.deleted)}
    assert len(update.rows) == 2 * (20 + 10 * 4 + 10)
    assert len({e.id for e in update.rows}) == len({e.input for e in update.rows}) == len(update.rows)
    by_id = {e.id: e for e in update.train}
    assert len(by_id) == len(task.train) + len(update.rows)
    put_right = [(e, by_id[e.id]) for e in task.train if by_id[e.id] != e]
    assert len(put_right) == 2 * (10 + 5)  # two training rows for each of the facts that were asked in train
    old = {(c.product, c.old): c.new for c in now.values()}
    for before, after in put_right:
        new = old[before.cluster, before.targets[0]]
        assert (after.input, after.targets, after.answerable) == (before.input, (new or "unknown",), new is not None)


def test_no_question_was_ever_trained_on_and_held_out_wordings_are_in_no_row(context_of: ContextOf) -> None:
    task, update = update_of(context_of(ZERO_SHOT, train_examples=200))
    seen = {e.input for e in (*task.train, *update.rows)}
    asked = [e for group in update.questions.values() for e in group]
    assert {name: len(group) for name, group in update.questions.items()} == {
        "held_out": 60, "edited": 20, "added": 40, "deleted": 10, "unrelated": 60,
    }  # fmt: skip
    assert not seen & {e.input for e in asked}
    assert len({e.id for e in asked}) == len(asked)
    starts = ("Could you tell me", "Do you know which", "My question is about")
    assert all(e.input.startswith(starts) for e in update.questions["held_out"])
    assert not any(e.input.startswith(starts) for e in update.rows)
    touched = {(c.product, c.old) for c in (*update.edited, *update.deleted)}
    assert not touched & {(e.cluster, e.targets[0]) for e in update.questions["unrelated"]}


def test_added_products_were_named_nowhere(context_of: ContextOf) -> None:
    task, update = update_of(context_of(ZERO_SHOT))
    texts = [p.text for p in task.corpus] + [e.input for e in (*task.train, *task.validation, *task.test)]
    added = {e.cluster for e in update.questions["added"]}
    assert len(added) == 10
    assert not any(name in text for name in added for text in texts)
    now = {p.id: p.text for p in update.corpus}
    assert all(e.targets[0] in now[e.evidence[0]] and e.cluster in now[e.evidence[0]] for e in update.questions["added"])


def test_all_strategies_and_seeds_get_the_same_update(context_of: ContextOf) -> None:
    assert update_of(context_of(ZERO_SHOT))[1] == update_of(context_of({"prompt": {"shots": 2}}, seed=3))[1]


# ---------------------------------------------------------------------------------------------- what comes of it


def test_a_reader_with_the_gold_page_is_up_to_date_at_once(context_of: ContextOf, probed: Probed) -> None:
    context = context_of(ORACLE, limit=60)
    result = probed(context, "freshness")
    values = {name: v.value for name, v in result.values.items()}
    accuracy = [item.scores["exact_match"] for item in context.items]
    assert abs(values["efficacy"] - sum(accuracy) / len(accuracy)) <= 0.05
    for name in ("efficacy", "generality", "added_accuracy", "locality", "unrelated_accuracy", "stale_rate_before", "deletion_leak_before"):
        assert values[name] >= 0.95
        assert result.values[name].ci_high is not None
    for name in ("stale_rate", "deletion_leak"):
        assert values[name] <= 0.05
    assert 0 <= values["update_cpu_seconds"] < 1
    assert "no_update" not in result.details


def test_what_a_search_finds_after_the_update_is_the_new_page(context_of: ContextOf, monkeypatch: pytest.MonkeyPatch) -> None:
    context = context_of(LEXICAL)
    _, update = update_of(context)
    found: dict[str, tuple[str, ...]] = {}
    in_order = freshness.in_order

    def spy(fitted: Any, requests: Sequence[Any]) -> Any:
        answered = in_order(fitted, requests)
        asked = [e for group in update.questions.values() for e in group]
        found.update({e.id: a.request.found.passages for e, a in zip(asked, answered, strict=True)})
        return answered

    monkeypatch.setattr(freshness, "in_order", spy)
    with context.ready.meter.phase("probe"):
        findings, details = Freshness().run(context)
    now = {p.id: p.text for p in update.corpus}
    assert all(passage in now.values() for passages in found.values() for passage in passages)
    right = [found[e.id] == (now[e.evidence[0]],) for e in (*update.questions["edited"], *update.questions["added"])]
    assert sum(right) / len(right) > 0.5
    assert findings["update_seconds"].value.value > 0
    assert details["update_flops"] == 0
    assert context.ready.asker.task is context.cell.task  # the strategy itself still reads the old corpus


def test_without_an_update_there_is_no_cost_and_nothing_moves(context_of: ContextOf, probed: Probed) -> None:
    result = probed(context_of(ZERO_SHOT), "freshness")
    assert result.values["locality"].value == 1.0
    assert result.values["stale_rate"].value == result.values["stale_rate_before"].value
    assert not [name for name in result.values if name.startswith("update_")]
    assert "nothing to update" in result.details["no_update"]


def test_rates_of_answers_that_are_known(context_of: ContextOf) -> None:
    """Before: every old value. After: 5 new, 10 old and 5 other values of the edited facts, and all unrelated ones but 6 as before."""
    _, update = update_of(context_of(ZERO_SHOT))
    edited, deleted, unrelated = (update.questions[name] for name in ("edited", "deleted", "unrelated"))
    before = {e.id: str(c.old) for e, c in zip((*edited, *deleted), (*update.edited, *update.deleted), strict=True)}
    before |= {e.id: e.targets[0] for e in unrelated}
    after = {e.id: "unknown" for group in update.questions.values() for e in group}
    after |= {e.id: e.targets[0] for e in edited[:5]} | {e.id: before[e.id].upper() for e in edited[5:15]}
    after |= {deleted[0].id: before[deleted[0].id]} | {e.id: before[e.id] for e in unrelated[6:]}
    values = {name: f.value.value for name, f in freshness._compare(update, before, after).items()}
    assert values == {
        "efficacy": 0.25, "generality": 0.0, "stale_rate": 0.5, "stale_rate_before": 1.0, "added_accuracy": 0.0, "deletion_leak": 0.1,
        "deletion_leak_before": 1.0, "locality": pytest.approx(0.9), "unrelated_accuracy": pytest.approx(0.9),
        "unrelated_accuracy_before": 1.0,
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------- tuning


def test_a_tuned_model_takes_the_update_in_and_is_put_back(context_of: ContextOf, probed: Probed) -> None:
    context = context_of(FULL, limit=400, train_examples=40)
    model = context.ready.model
    kept = {n: p.detach().clone() for n, p in model.network.named_parameters()}
    result = probed(context, "freshness", epochs=12, edited=16, added=2, deleted=4, unrelated=20)
    values = {name: v.value for name, v in result.values.items()}

    # What it gave away before the update is what it recalls of these facts in the task's own test questions.
    edited = {(c["id"].split("/")[0], c["old"]) for c in result.details["edited"]}
    asked = [item for item in context.items if (item.cluster, item.targets[0]) in edited]
    recall = sum(normalize(item.prediction) == normalize(item.targets[0]) for item in asked) / len(asked)
    assert recall > 0.2
    assert abs(values["stale_rate_before"] - recall) <= 0.2

    assert values["efficacy"] > 0.5
    assert values["stale_rate"] < values["stale_rate_before"]
    assert values["update_seconds"] > 0
    assert values["update_cpu_seconds"] > 0
    assert result.details["update_flops"] > 1e9
    after = dict(model.network.named_parameters())
    assert all(torch.equal(kept[n], p) and p.dtype == kept[n].dtype and p.grad is None for n, p in after.items())


def test_training_that_fails_leaves_the_weights_as_they_were(context_of: ContextOf, monkeypatch: pytest.MonkeyPatch) -> None:
    context = context_of({"tuning": {"method": "lora", "epochs": 1, "evaluations": 1}})
    network = context.ready.model.network
    kept = {n: p.detach().clone() for n, p in network.named_parameters()}

    def tune(*arguments: Any) -> Tuned:
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.double() + 1
        raise BenchError("training diverged")

    monkeypatch.setattr("bench.strategy.tuning.tune", tune)
    with pytest.raises(BenchError, match="diverged"), context.ready.meter.phase("probe"):
        Freshness().run(context)
    assert all(torch.equal(kept[n], p) and p.dtype == kept[n].dtype for n, p in network.named_parameters())


def test_examples_are_trained_on_with_the_new_passages_and_without_the_shots(context_of: ContextOf, trained_on: list[list[Pair]]) -> None:
    settings = {
        "prompt": {"shots": 2}, "retrieval": {"search": "oracle"},
        "tuning": {"method": "lora", "epochs": 1, "evaluations": 1, "with_passages": True},
    }  # fmt: skip
    context = context_of(settings)
    _, update = update_of(context)
    with context.ready.meter.phase("probe"):
        _, details = Freshness().run(context)
    (pairs,) = trained_on
    texts = [context.ready.model.tokenizer.decode(ids) for ids, _ in pairs]
    assert len(pairs) == len(update.rows) - 2
    now = {p.id: p.text for p in update.corpus}
    rows = {e.input: e for e in update.rows}
    shown = [e for e in update.rows if all(e.input in text for text in texts)]
    assert len(shown) == 2
    for text in texts:
        (row,) = [e for question, e in rows.items() if question in text and e not in shown]
        assert now[row.evidence[0]] in text
    assert details["update_flops"] == 7.0


def test_documents_are_trained_on_where_the_strategy_trains_on_documents(context_of: ContextOf, trained_on: list[list[Pair]]) -> None:
    context = context_of({"tuning": {"method": "lora", "epochs": 1, "evaluations": 1, "train_on": ["documents"]}})
    _, update = update_of(context)
    with context.ready.meter.phase("probe"):
        Freshness().run(context)
    (pairs,) = trained_on
    texts = {context.ready.model.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids, _ in pairs}
    assert texts == {p.text for p in update.changed}
    assert all(n == 1 for _, n in pairs)


def test_nearest_shots_come_from_the_corrected_examples_and_drawn_ones_from_the_update(context_of: ContextOf) -> None:
    context = context_of(ZERO_SHOT, train_examples=200)
    _, update = update_of(context)
    for select, train in (("drawn", update.rows), ("nearest", update.train)):
        strategy = context.cell.strategy.with_settings({"prompt.shots": 4, "prompt.select": select})
        after = freshness._cell_after(context.cell, strategy, update)
        assert after.task.train == train
        assert after.task.corpus == update.corpus
        assert freshness.has_update(strategy)
    assert not freshness.has_update(context.cell.strategy)


# ---------------------------------------------------------------------------------------------- where it has no meaning


def test_it_has_a_meaning_for_questions_on_pages_about_products(context_of: ContextOf) -> None:
    cell = context_of(ORACLE).cell
    assert Freshness().not_applicable(cell) is None
    assert Freshness().not_applicable(context_of({"prompt": {"constant": "abstain"}}).cell) == "the strategy asks no model"
    by_preference = cell.strategy.with_settings({"tuning.method": "lora", "tuning.objective": "dpo"})
    assert "preference" in str(Freshness().not_applicable(replace(cell, strategy=by_preference)))
    assert "the task has 40 products; 35 edited and 10 deleted" in str(Freshness(edited=35).not_applicable(cell))
    assert "corpus" in str(Freshness().not_applicable(replace(cell, task=replace(cell.task, corpus=()))))


def test_pages_are_those_of_plain_questions_about_what_they_state(context_of: ContextOf) -> None:
    task = context_of(ZERO_SHOT).cell.task
    pages = pages_of(task)
    assert len(pages) == 40
    assert {len(page.facts) for page in pages} == {4}
    first = task.test[0]
    wrong = {
        "wrapped": replace(first, input=f"Please: {first.input}"),
        "no evidence": replace(first, evidence=()),
        "another's page": replace(first, evidence=("doc-01",), cluster="Nobody Air"),
        "not stated": replace(first, targets=("mauve",)),
    }
    for example in wrong.values():
        assert pages_of(replace(task, test=(example, *task.test[1:]))) == []


def test_settings_out_of_range_are_refused() -> None:
    for name, value in (("epochs", 0), ("edited", 1), ("added", 101), ("unrelated", 0)):
        with pytest.raises(BenchError, match=rf"probe_settings\.freshness: {name}"):
            make("freshness", {name: value})


def test_details_are_json(context_of: ContextOf, probed: Probed, tmp_path: Path) -> None:
    result = probed(context_of(ORACLE, limit=60), "freshness")
    assert ProbeResult.model_validate(json.loads(result.model_dump_json())) == result


@pytest.mark.parametrize(("source", "joules"), [("rapl", 9.0), ("estimated", None), (None, None)])
def test_joules_are_those_of_a_counter(source: Any, joules: float | None) -> None:
    def phase(value: float, of: Any) -> Phase:
        return Phase(wall_seconds=1, cpu_seconds=1, flops=1, energy_joules=value if of else None, energy_source=of)

    phases = {"load": phase(100.0, source), "index": phase(2.0, "rapl"), "tune": phase(7.0, source)}
    costs, flops = freshness._costs(SimpleNamespace(readings=lambda: phases))  # type: ignore[arg-type]
    assert flops == 2
    assert costs["update_seconds"].value.value == 2
    assert ("update_joules" in costs) == (joules is not None)
    if joules:
        assert costs["update_joules"].value.value == joules
