from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scripted_answers import target_of, with_answers

from bench.errors import BenchError
from bench.probe.base import Context, make
from bench.probe.robustness import DISTRACTORS, NO_PASSAGES, Robustness, _held_out, _relative_drop, _slopes
from bench.probe.shared.perturb import Tally, readings, says
from bench.probe.shared.world import attribute_of
from bench.result.schema import Item, ProbeResult

ContextOf = Callable[..., Context]
Probed = Callable[..., ProbeResult]

RAG = {"retrieval": {"search": "lexical", "top_k": 2}}
ORACLE = {"retrieval": {"search": "oracle"}}
ZERO_SHOT = {"tuning": {"method": "none"}}


def gold_place(context: Context, prompt: str, passages: tuple[str, ...]) -> int | None:
    """Where the gold passage of the question stands among those handed; None where it does not, or the question has typos."""
    texts = {p.id: p.text for p in context.cell.task.corpus}
    gold = next((texts[e.evidence[0]] for e in context.cell.task.test if e.input in prompt), None)
    return passages.index(gold) if gold in passages else None


# ------------------------------------------------------------------------------------------ typos and wordings


def test_typos_cost_what_they_spoil(context_of: ContextOf, probed: Probed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is right on a question that it knows letter by letter, and wrong on any other."""
    context = context_of(ZERO_SHOT)
    known = {e.input: e.targets[0] for e in context.cell.task.test}
    monkeypatch.setattr(context, "items", [i.model_copy(update={"scores": {"exact_match": 1.0}}) for i in context.items])
    with_answers(monkeypatch, lambda prompt, _: known.get(prompt.rpartition("\n\n")[2], "wrong"))
    result = probed(context, "robustness")
    spoilt = result.details["share_of_items_with_typos"]
    assert 0 < spoilt["typos_5"] <= spoilt["typos_10"] <= spoilt["typos_20"] < 1
    for name in ("typos_5", "typos_10", "typos_20"):
        assert result.values[f"{name}_score"].value == pytest.approx(1 - spoilt[name])
        assert result.values[f"{name}_drop"].value == pytest.approx(spoilt[name])
        assert result.values[f"{name}_relative_drop"].value == pytest.approx(spoilt[name])
    assert result.values["clean_score"].value == 1
    assert result.details["p_of_no_drop"]["typos_20_drop"] < 0.01


def test_the_same_typos_for_every_strategy_and_seed(context_of: ContextOf, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = with_answers(monkeypatch, lambda prompt, _: "unknown")
    inputs = []
    for strategy, seed in ((ZERO_SHOT, 0), ({"prompt": {"shots": 2}}, 1)):
        asked.clear()
        Robustness(items=10).run(context_of(strategy, seed=seed))
        inputs.append([str(r.prompt.messages[-1]["content"]).rpartition("\n\n")[2] for r in asked])
    assert inputs[0] == inputs[1]
    assert len(inputs[0]) == 30


def test_relative_drop_is_the_ratio_of_the_means() -> None:
    tally = Tally({name: name for name in "abcd"})
    before: dict[str, float | None] = {"a": 1, "b": 1, "c": 0.5, "d": 0}
    _relative_drop("drop", before, {"a": 1, "b": 0, "c": 0.5, "d": 0.5}, tally)
    assert tally.findings["drop"].value.value == pytest.approx((2.5 - 2) / 2.5)
    _relative_drop("none", before, before, tally)
    value = tally.findings["none"].value
    assert (value.value, value.ci_high) == (0, pytest.approx(0.4899 / 0.625, abs=1e-3))  # Wilson: 0 of 4
    assert value.ci_low == -value.ci_high
    _relative_drop("zero", dict.fromkeys(before, 0.0), before, tally)
    assert tally.undefined == {"zero": "the score without typos is 0"}


def items_of(context: Context, wordings: list[str], right: list[float]) -> list[Item]:
    changes = [{"slices": {"wording": w}, "scores": {"exact_match": s}} for w, s in zip(wordings, right, strict=True)]
    return [item.model_copy(update=change) for item, change in zip(context.items, changes, strict=False)]


def test_held_out_wordings_are_other_items(context_of: ContextOf) -> None:
    context = context_of(ZERO_SHOT)
    task, tally = context.cell.task, Tally({})
    _held_out(task, items_of(context, ["seen"] * 4 + ["held_out"] * 5, [1, 1, 1, 0, 1, 1, 0, 0, 0]), tally)
    value = tally.findings["held_out_drop"].value
    assert value.value == pytest.approx(0.75 - 0.4)
    assert value.n_scored == 9
    assert value.ci_low is not None
    assert value.ci_high is not None
    assert value.ci_low < 0 < 0.35 < value.ci_high
    # All right: as far apart as Wilson's bounds of the two parts allow, 4 and 5 clusters here.
    rows = items_of(context, ["seen"] * 4 + ["held_out"] * 5, [1] * 9)
    _held_out(task, [item.model_copy(update={"cluster": str(k)}) for k, item in enumerate(rows)], tally)
    value = tally.findings["held_out_drop"].value
    assert (value.value, value.ci_low, value.ci_high) == (0, pytest.approx(-0.4899, abs=1e-3), pytest.approx(0.4345, abs=1e-3))


@pytest.mark.parametrize("wordings", [["seen"] * 4, ["held_out"] * 4, ["other"] * 4, []])
def test_without_both_wordings_there_is_no_difference(context_of: ContextOf, wordings: list[str]) -> None:
    context, tally = context_of(ZERO_SHOT), Tally({})
    _held_out(context.cell.task, items_of(context, wordings, [1.0] * len(wordings)), tally)
    assert tally.findings == {}
    assert tally.undefined == {"held_out_drop": "the test items have no slice wording with both seen and held_out"}


# ------------------------------------------------------------------------------------------ passages


def test_a_reader_that_minds_more_than_two_passages(context_of: ContextOf, probed: Probed, monkeypatch: pytest.MonkeyPatch) -> None:
    context = context_of(RAG)

    def say(prompt: str, passages: tuple[str, ...]) -> str:
        right = len(passages) <= 2 and gold_place(context, prompt, passages) is not None
        return target_of(context, prompt) if right else "unknown"

    with_answers(monkeypatch, say)
    result = probed(context, "robustness")
    assert [result.values[f"distractors_{n}"].value for n in DISTRACTORS] == [1, 1, 0, 0]
    assert result.values["distractor_slope"].value == pytest.approx(np.polyfit(DISTRACTORS, [1, 1, 0, 0], 1)[0])
    assert result.values["irrelevant_4"].value == 0
    assert result.values["irrelevant_4_drop"].value == 1
    assert result.values["negative_rejection"].value == 1
    assert result.values["without_gold_right"].value == 0
    assert result.values["contradiction_right"].value == 1
    assert result.values["contradiction_followed"].value == 0
    assert result.details["undefined"] == {}


def test_a_reader_of_the_last_passage(context_of: ContextOf, probed: Probed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost in the middle, and believes whatever comes last."""
    context = context_of(RAG)

    def say(prompt: str, passages: tuple[str, ...]) -> str:
        asked = next((e for e in context.cell.task.test if e.input in prompt), None)
        attribute = attribute_of(asked.targets[0]) if asked else None
        return next((v for v in attribute.values if says(passages[-1], v)), "none") if attribute and passages else "none"

    with_answers(monkeypatch, say)
    result = probed(context, "robustness")
    assert result.values["gold_last"].value == 1
    assert result.values["gold_first"].value < 0.5
    assert result.values["gold_middle"].value < 0.5
    assert result.values["contradiction_right"].value == 0
    assert result.values["contradiction_followed"].value == 1
    assert result.values["negative_rejection"].value == 0


def test_what_is_handed_under_each_condition(context_of: ContextOf, monkeypatch: pytest.MonkeyPatch) -> None:
    context = context_of(RAG)
    asked = with_answers(monkeypatch, lambda prompt, _: "unknown")
    Robustness().run(context)
    examples = [e for e in context.cell.task.test if e.answerable]
    (reading,) = readings(context, examples[:1], 4)
    gold = reading.gold[0].text
    handed = [r.found.passages for r in asked if r.found and examples[0].input in r.prompt.messages[-1]["content"]]
    others = [p.text for p in reading.distractors]
    *_, contradiction = handed
    assert handed[-6:-1][1:] == [(gold, *others[:2]), (others[0], gold, others[1]), (*others[:2], gold), tuple(others[:3])]
    assert [len(p) for p in handed[-10:-5]] == [1, 2, 3, 5, 5]
    assert all(gold in p for p in handed[-10:-5])
    assert set(handed[-7]) == {gold, *others}
    assert set(handed[-6]) == {gold, *(p.text for p in reading.irrelevant)}
    assert contradiction[0] == gold
    assert len(contradiction) == 2
    assert says(gold, examples[0].targets[0])
    assert not says(contradiction[1], examples[0].targets[0])


def test_the_gold_passage_stands_anywhere_among_distractors(context_of: ContextOf, monkeypatch: pytest.MonkeyPatch) -> None:
    context = context_of(RAG)
    asked = with_answers(monkeypatch, lambda prompt, _: "unknown")
    Robustness().run(context)
    among_four = [r for r in asked if r.found and len(r.found.passages) == 5]
    places = [gold_place(context, str(r.prompt.messages[-1]["content"]), r.found.passages) for r in among_four if r.found]
    assert set(places[::2]) == {0, 1, 2, 3, 4}, "four distractors"
    assert places[::2] == places[1::2], "four irrelevant ones"


def test_passages_that_do_not_fit_the_window_are_undefined(context_of: ContextOf, monkeypatch: pytest.MonkeyPatch) -> None:
    context = context_of(RAG)
    task = context.cell.task
    long = tuple(replace(p, text=p.text + " And so on." * 30) for p in task.corpus)
    with_answers(monkeypatch, lambda prompt, _: "unknown")
    findings, details = Robustness().run(replace(context, cell=replace(context.cell, task=replace(task, corpus=long))))
    assert findings["distractors_1"].value.n_undefined == 0
    for name in ("distractors_4", "distractor_slope", "irrelevant_4"):
        assert details["undefined"][name] == NO_PASSAGES, name


def test_strategies_of_one_model_read_the_same_passages(context_of: ContextOf, probed: Probed) -> None:
    """With the real model: what is handed does not depend on the strategy's own search, so neither do the answers."""
    a, b = (probed(context_of(strategy), "robustness") for strategy in (RAG, ORACLE))
    own = ("retrieval_help", "retrieval_harm", "retrieval_net", "clean_score", "held_out_drop")
    shared = [name for name in a.values if not name.startswith("typos") and name not in own]
    assert len(shared) == 15
    assert {name: a.values[name] for name in shared} == {name: b.values[name] for name in shared}


def test_gold_alone_is_what_an_oracle_hands(context_of: ContextOf) -> None:
    context = context_of(ORACLE)
    with context.ready.meter.phase("probe"):
        findings, _ = Robustness().run(context)
    own = {i.id: float(i.outcome == "correct") for i in context.items if i.answerable}
    assert findings["distractors_0"].items == own


def test_help_and_harm(context_of: ContextOf, probed: Probed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 24 items: 12 right without passages, of which 3 are wrong with them; of the other 12, 8 are right with them."""
    context = context_of(RAG)
    test = context.cell.task.test
    with_passages = [k >= 3 if k < 12 else k < 20 for k in range(24)]

    def outcome(k: int) -> dict[str, object]:
        right = "correct" if test[k].answerable else "abstained"
        return {"outcome": right if with_passages[k] else "incorrect"}

    monkeypatch.setattr(context, "items", [item.model_copy(update=outcome(k)) for k, item in enumerate(context.items)])
    right_without = {e.input: e.targets[0] for e in test[:12]}

    def say(prompt: str, passages: tuple[str, ...]) -> str:
        return right_without.get(prompt.rpartition("\n\n")[2], "wrong") if not passages else "wrong"

    with_answers(monkeypatch, say)
    value = {name: found.value for name, found in probed(context, "robustness").values.items()}
    assert value["right_without_passages"] == pytest.approx(12 / 24)
    assert value["retrieval_harm"] == pytest.approx(3 / 12)
    assert value["retrieval_help"] == pytest.approx(8 / 12)
    # net = help * P(wrong without) - harm * P(right without)
    assert value["retrieval_net"] == pytest.approx(8 / 12 * 0.5 - 3 / 12 * 0.5)


def test_harm_is_undefined_where_nobody_is_right_without(context_of: ContextOf, monkeypatch: pytest.MonkeyPatch) -> None:
    context = context_of(RAG)
    with_answers(monkeypatch, lambda prompt, passages: "wrong")
    findings, details = Robustness().run(context)
    assert "retrieval_harm" not in findings
    assert details["undefined"]["retrieval_harm"] == "no item is right without passages"
    assert findings["retrieval_help"].value.n_scored == 24
    assert findings["retrieval_help"].items == {}, "which items these are depends on the strategy"


def test_a_corpus_of_two_documents_has_no_slope(context_of: ContextOf, monkeypatch: pytest.MonkeyPatch) -> None:
    context = context_of(RAG)
    task = context.cell.task
    asked = next(k for k, e in enumerate(task.test) if e.answerable)
    gold = [p for p in task.corpus if p.id in task.test[asked].evidence]
    small = replace(task, test=(task.test[asked],), corpus=(*gold, *[p for p in task.corpus if p not in gold][:1]))
    with_answers(monkeypatch, lambda prompt, passages: "unknown")
    one = replace(context, cell=replace(context.cell, task=small), items=[context.items[asked]])
    findings, details = Robustness().run(one)
    assert {"distractors_0", "distractors_1", "contradiction_right"} <= set(findings)
    for name in ("distractors_2", "distractor_slope", "irrelevant_4", "gold_middle", "negative_rejection"):
        assert details["undefined"][name] == NO_PASSAGES
    assert findings["distractors_0"].value.ci_low is None, "one cluster has no interval"


def test_rejection_needs_a_phrase_to_abstain_with(context_of: ContextOf, monkeypatch: pytest.MonkeyPatch) -> None:
    context = context_of(RAG)
    task = context.cell.task
    silent = replace(task, config=task.config.model_copy(update={"abstain": []}))
    with_answers(monkeypatch, lambda prompt, passages: "unknown")
    findings, details = Robustness().run(replace(context, cell=replace(context.cell, task=silent)))
    assert "negative_rejection" not in findings
    assert details["undefined"]["negative_rejection"] == "the task has no abstention phrase"


def test_slopes_need_all_numbers_of_distractors() -> None:
    scores: list[dict[str, float | None]] = [{"a": 1, "b": 1}, {"a": 1, "b": None}, {"a": 0, "b": 1}, {"a": 1, "b": 0}]
    assert _slopes(scores) == {"a": pytest.approx(np.polyfit(DISTRACTORS, [1, 1, 0, 1], 1)[0]), "b": None}


# ------------------------------------------------------------------------------------------ where it applies


@pytest.mark.parametrize("task", ["ticket_triage", "abstract_summary", "review_feedback"])
def test_every_kind_of_task(context_of: ContextOf, probed: Probed, task: str) -> None:
    result = probed(context_of(ZERO_SHOT, task=task, limit=6), "robustness")
    names = {f"typos_{n}_{what}" for n in (5, 10, 20) for what in ("score", "drop", "relative_drop")} | {"clean_score", "held_out_drop"}
    assert set(result.values) | set(result.details["undefined"]) == names
    assert {f"typos_{n}_drop" for n in (5, 10, 20)} <= set(result.values)


def test_where_it_has_no_meaning(context_of: ContextOf, probed: Probed) -> None:
    assert probed(context_of({"prompt": {"constant": "majority"}}), "robustness").reason == "the strategy asks no model"


@pytest.mark.parametrize(("settings", "message"), [({"typos": [0]}, "greater than 0"), ({"typos": [1.5]}, "1"), ({"items": 0}, "1")])
def test_settings_that_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(BenchError, match=rf"^probe_settings.robustness: .*{message}"):
        make("robustness", settings)
