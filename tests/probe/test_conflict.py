from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from bench.errors import BenchError
from bench.model.language_model import Generation
from bench.probe.base import Context, make
from bench.probe.conflict import NEITHER, UNKNOWN, Conflict, _found
from bench.result.schema import ProbeResult
from bench.run.ask import Answered, Request
from bench.strategy.prompt import Parsed
from bench.world.entities import ATTRIBUTES, known_products, names

ContextOf = Callable[..., Context]
Probed = Callable[..., ProbeResult]

ZERO_SHOT = {"tuning": {"method": "none"}}


def says(monkeypatch: pytest.MonkeyPatch, *rounds: Sequence[str]) -> None:
    """Let the model answer these texts, a list for each time that it is asked."""
    left = iter(rounds)

    def answer(self: Context, requests: Sequence[Request]) -> list[Answered]:
        said = zip(next(left), requests, strict=True)
        return [Answered(i, Generation(text, None, 0, 0, 0, 0.0), r, Parsed(text)) for i, (text, r) in enumerate(said)]

    monkeypatch.setattr(Context, "answer", answer)


def test_rates_of_answers_that_are_known(context_of: ContextOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 10, 8 are known; of these 3 follow the memory, 1 the page and 4 neither: a ratio of 3 / 4."""
    context, probe = context_of(ZERO_SHOT), Conflict(items=10)
    clashes = probe.clashes(context)
    memory, stated = [c.memory for c in clashes], [c.stated for c in clashes]
    without = [*memory[:8], "unknown", stated[9]]
    with_page = [*memory[:3], stated[3], "unknown", "", "both", "not stated", memory[8], stated[9]]
    says(monkeypatch, without, with_page, [*stated[:5], *["unknown"] * 5])
    findings, details = probe.run(context)
    values = {name: finding.value for name, finding in findings.items()}
    assert {name: v.value for name, v in values.items()} == {
        "parametric_recall": 0.8, "context_rate": 1 / 8, "memory_rate": 3 / 8, "other_rate": 4 / 8, "memorisation_ratio": 0.75,
        "control_rate": 0.5,
    }  # fmt: skip
    assert values["memory_rate"].undefined == {UNKNOWN: 2}
    assert (values["memory_rate"].n_scored, values["memory_rate"].n_undefined) == (8, 2)
    assert values["memorisation_ratio"].undefined == {UNKNOWN: 2, NEITHER: 4}
    assert (values["memorisation_ratio"].n_scored, values["memorisation_ratio"].n_undefined) == (4, 6)
    assert values["parametric_recall"].undefined == values["control_rate"].undefined == {}
    assert (details["n_items"], details["n_known"], details["n_abstained"]) == (10, 8, 2)
    assert findings["control_rate"].items.keys() == findings["parametric_recall"].items.keys() == {c.example.id for c in clashes}
    assert findings["memory_rate"].items == {c.example.id: float(i < 3) for i, c in enumerate(clashes[:8])}


def test_what_is_not_known_leaves_the_rates_out(context_of: ContextOf, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, ["unknown"] * 5, ["red"] * 5, ["unknown"] * 5)
    findings, details = Conflict(items=5).run(context_of(ZERO_SHOT))
    assert {name: f.value.value for name, f in findings.items()} == {"parametric_recall": 0.0, "control_rate": 0.0}
    assert details["n_known"] == 0


def test_neither_value_ever_given_leaves_the_ratio_out(context_of: ContextOf, monkeypatch: pytest.MonkeyPatch) -> None:
    context, probe = context_of(ZERO_SHOT), Conflict(items=5)
    says(monkeypatch, [c.memory for c in probe.clashes(context)], ["unknown"] * 5, ["unknown"] * 5)
    findings, _ = probe.run(context)
    assert "memorisation_ratio" not in findings
    assert findings["other_rate"].value.value == 1.0


def test_a_page_states_the_new_value_and_three_truths(context_of: ContextOf) -> None:
    context = context_of(ZERO_SHOT, limit=60)
    truth = {p.name: p.facts for p in known_products()}
    clashes = Conflict(items=200).clashes(context)
    assert len({c.example.cluster for c in clashes}) == 200
    for c in clashes:
        product, name = c.example.id.split("/")
        facts = truth[product]
        assert c.memory == facts[name] != c.stated
        assert product in c.example.input
        stated = {a.name: [v for v in a.values if v in c.page] for a in ATTRIBUTES}
        assert stated.pop(name) == [c.stated]
        rest = {a: values for a, values in stated.items() if values}
        assert rest == {a: [facts[a]] for a in rest}
        assert len(rest) == 3


def test_a_control_differs_by_a_name_that_pretraining_has_never_named(context_of: ContextOf) -> None:
    clash = Conflict(items=1).clashes(context_of(ZERO_SHOT))[0]
    control = clash.about(names("fake")[0])
    assert clash.example.cluster not in control.page + control.example.input
    assert control.page.replace(names("fake")[0], clash.example.cluster) == clash.page
    assert control.example.input.replace(names("fake")[0], clash.example.cluster) == clash.example.input
    assert control.stated == clash.stated


def test_all_strategies_and_seeds_get_the_same_questions(context_of: ContextOf) -> None:
    same = Conflict(items=10).clashes(context_of(ZERO_SHOT))
    assert same == Conflict(items=10).clashes(context_of({"retrieval": {"search": "oracle"}}, seed=5))


def test_the_page_stands_where_retrieval_puts_it_and_is_always_asked_about(context_of: ContextOf) -> None:
    """Also for strategies that read nothing, or that abstain where nothing is like the question."""
    for settings in (ZERO_SHOT, {"retrieval": {"search": "dense", "top_k": 1, "abstain_below": 0.99}}):
        context = context_of(settings)
        clashes = Conflict(items=3).clashes(context)
        requests = context.ready.asker.requests([c.example for c in clashes], _found(clashes))
        for clash, request in zip(clashes, requests, strict=True):
            assert not request.abstains
            assert request.prompt.messages[-1]["content"].endswith(f"[1] {clash.page}\n\n{clash.example.input}")


def test_the_base_knows_its_products_and_reads_pages_about_others(context_of: ContextOf, probed: Probed) -> None:
    result = probed(context_of(ZERO_SHOT, limit=60), "conflict", items=60)
    values = result.values
    assert values["parametric_recall"].value >= 0.6
    assert values["control_rate"].value >= 0.9
    assert values["memory_rate"].value + values["context_rate"].value + values["other_rate"].value == pytest.approx(1)
    known = values["memory_rate"].n_scored
    assert known == result.details["n_known"] == round(60 * values["parametric_recall"].value)
    assert result.details["reads_passages"] is False
    for value in values.values():
        assert value.ci_low is not None
        assert value.ci_high is not None
        assert value.ci_low <= value.value <= value.ci_high


def test_it_has_a_meaning_for_questions_about_products(context_of: ContextOf) -> None:
    assert Conflict().not_applicable(context_of(ZERO_SHOT).cell) is None
    assert Conflict().not_applicable(context_of({"prompt": {"constant": "abstain"}}).cell) == "the strategy asks no model"
    cell = context_of(ZERO_SHOT).cell
    other = replace(cell.task, test=tuple(replace(e, evidence=()) for e in cell.task.test))
    assert "embedded world" in str(Conflict().not_applicable(replace(cell, task=other)))


@pytest.mark.parametrize("items", [0, 201])
def test_a_number_of_items_out_of_range_is_refused(items: int) -> None:
    with pytest.raises(BenchError, match=r"probe_settings\.conflict: items"):
        make("conflict", {"items": items})
