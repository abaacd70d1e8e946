from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from bench.probe.base import Context
from bench.probe.shared.perturb import (
    Tally,
    contradicted,
    false_answer,
    hand,
    is_whole,
    judge_item,
    readings,
    sampled,
    says,
    with_typos,
)
from bench.task.schema import Example, Passage
from bench.world.entities import ATTRIBUTE

ContextOf = Callable[..., Context]

LEXICAL = {"retrieval": {"search": "lexical", "top_k": 2}}


def example(targets: Sequence[str] = ("red",), options: Sequence[str] = ()) -> Example:
    return Example("e", "Which color?", tuple(targets), True, "Zorba", options=tuple(options))


# ------------------------------------------------------------------------------------------ typos


def test_the_share_of_words_with_a_typo() -> None:
    text = " ".join(["battery", "screen", "manual", "voucher"] * 2500)
    for share, typed in zip((0.05, 0.1, 0.2), with_typos(text, (0.05, 0.1, 0.2), random.Random(0)), strict=True):
        hit = np.mean([a != b for a, b in zip(text.split(), typed.split(), strict=True)])
        assert hit == pytest.approx(share, abs=4 * np.sqrt(share / 10_000))


def test_a_stronger_strength_keeps_the_typos_of_a_weaker_one() -> None:
    text = "The parcel with my new battery never came and nobody could tell me where it was left"
    weak, strong = with_typos(text, (0.3, 0.7), random.Random(1))
    pairs = list(zip(text.split(), weak.split(), strong.split(), strict=True))
    assert all(b == c for a, b, c in pairs if a != b)
    assert 0 < sum(a != b for a, b, _ in pairs) < sum(a != c for a, _, c in pairs)


def test_each_typo_is_one_edit_of_one_kind() -> None:
    kinds = {"swap": 0, "drop": 0, "key": 0}
    for word in with_typos(" ".join(["planet"] * 3000), (1.0,), random.Random(2))[0].split():
        if len(word) == 5:
            assert any("planet"[:i] + "planet"[i + 1 :] == word for i in range(6))
            kinds["drop"] += 1
        else:
            different = [i for i in range(6) if word[i] != "planet"[i]]
            kinds["swap" if len(different) == 2 else "key"] += 1
            if len(different) == 1:
                i = different[0]
                assert word[i] in {"p": "o", "l": "k", "a": "s", "n": "bm", "e": "wr", "t": "ry"}["planet"[i]]
            else:
                i, j = different
                assert j == i + 1
                assert word[i] + word[j] == "planet"[j] + "planet"[i]
    assert all(900 < n < 1100 for n in kinds.values()), kinds


@pytest.mark.parametrize("text", ["", "a 12 of 7,5 % -- it", "\n\n \t"])
def test_short_words_and_numbers_stay(text: str) -> None:
    assert with_typos(text, (1.0,), random.Random(0)) == [text]


def test_what_is_between_words_stays() -> None:
    """Line breaks, marks and upper case; letters that are on no key, and words of one letter only."""
    (typed,) = with_typos("Zorba\n\n  Pro, (größe)!\tFFF", (1.0,), random.Random(3))
    rest = [c for c in typed if not c.isalpha()]
    assert rest == [c for c in "Zorba\n\n  Pro, (größe)!\tFFF" if not c.isalpha()]
    assert all(with_typos("FFF", (1.0,), random.Random(seed))[0] != "FFF" for seed in range(20))
    assert all(with_typos("ßßß", (1.0,), random.Random(seed))[0] == "ßß" for seed in range(20))


# ------------------------------------------------------------------------------------------ answers and passages


def test_a_wrong_answer_is_of_the_same_kind(context_of: ContextOf) -> None:
    task = context_of(LEXICAL).cell.task
    drawn = {false_answer(task, example(), "It is blue and green.", random.Random(seed)) for seed in range(300)}
    assert drawn == set(ATTRIBUTE["color"].values) - {"red", "blue", "green"}
    assert false_answer(task, example(options=["red", "cat"]), "", random.Random(0)) == "cat"
    assert false_answer(task, example(options=["red", "cat"]), "The cat.", random.Random(0)) is None
    # Where the answer is no value of the world: another training target.
    drawn = {false_answer(task, example(["Mars"]), "", random.Random(seed)) for seed in range(300)}
    assert drawn == {e.targets[0] for e in task.train if e.answerable}


def test_words_in_a_row() -> None:
    assert says("It is 200 grams.", "200 grams")
    assert says("The RED one", "red")
    assert not says("It is 1200 grams", "200 grams")
    assert not says("redder", "red")


def test_a_contradicting_copy() -> None:
    text = "The Redford is red. Its lid is red-brown, not 5.0 red."
    assert contradicted(Passage("d", text), example(), "blue") == Passage("d", "The Redford is blue. Its lid is blue-brown, not 5.0 blue.")
    assert contradicted(Passage("d", "It is 20 g net"), example(["20 g", "20 g net"]), r"\1") == Passage("d", r"It is \1")
    assert contradicted(Passage("d", "The Redford."), example(), "blue") is None


def test_readings_hold_what_they_say(context_of: ContextOf) -> None:
    context = context_of(LEXICAL)
    task = context.cell.task
    examples = [e for e in task.test if e.answerable]
    documents = {p.id: p.text for p in task.corpus}
    rests_on = {e.cluster: set(e.evidence) for e in (*task.train, *task.validation, *task.test)}
    made = readings(context, examples, 4)
    for e, reading in zip(examples, made, strict=True):
        assert [p.id for p in reading.gold] == list(e.evidence)
        assert says(reading.gold[0].text, e.targets[0])
        for others in (reading.distractors, reading.irrelevant):
            assert len({p.id for p in others}) == 4
            assert not {p.id for p in others} & set(e.evidence)
            assert all(p.text == documents[p.id] for p in others)
        assert not {p.id for p in reading.irrelevant} & rests_on[e.cluster]
    # Best first: a distractor that shares a word of the product's name comes before one that shares none.
    shared = [[bool(set(e.cluster.split()) & set(p.text.split())) for p in r.distractors] for e, r in zip(examples, made, strict=True)]
    assert any(any(row) for row in shared)
    assert np.mean([row[0] for row in shared]) > np.mean([row[3] for row in shared])
    # Neither the other examples nor the seed of the cell matters.
    assert readings(context, examples[3:4], 4) == made[3:4]
    assert readings(context_of(LEXICAL, seed=1), examples, 4) == made


def test_of_a_long_gold_document_the_piece_with_the_answer_is_handed(context_of: ContextOf, monkeypatch: pytest.MonkeyPatch) -> None:
    context = context_of(LEXICAL)
    task = context.cell.task
    asked = next(e for e in task.test if e.answerable)
    filler = " ".join([f"Words of {asked.cluster} that say nothing at all here."] * 30)
    long = tuple(replace(p, text=f"{filler} {p.text}") if p.id in asked.evidence else p for p in task.corpus)
    monkeypatch.setattr(context, "cell", replace(context.cell, task=replace(task, corpus=long)))
    (reading,) = readings(context, [asked], 2)
    assert says(reading.gold[0].text, asked.targets[0])
    assert len(reading.gold[0].text.split()) <= 120


def test_a_small_corpus_has_few_others(context_of: ContextOf, monkeypatch: pytest.MonkeyPatch) -> None:
    context = context_of(LEXICAL)
    task = context.cell.task
    asked = next(e for e in task.test if e.answerable)
    small = tuple(p for p in task.corpus if p.id in asked.evidence) + tuple(p for p in task.corpus if p.id not in asked.evidence)[:1]
    monkeypatch.setattr(context, "cell", replace(context.cell, task=replace(task, corpus=small)))
    (reading,) = readings(context, [asked], 4)
    assert [p.id for p in reading.distractors] == [p.id for p in reading.irrelevant] == [small[1].id]


def test_passages_are_handed_as_retrieval_would(context_of: ContextOf) -> None:
    context = context_of(LEXICAL)
    asker, asked = context.ready.asker, context.cell.task.test[:3]
    texts = {p.id: p for p in context.cell.task.corpus}
    found = asker.retriever.find(asked) or []
    requests = hand(asker, asked, [[texts[i] for i in f.document_ids] for f in found])
    assert [r.prompt.ids for r in requests] == [r.prompt.ids for r in asker.asked(asked)]
    assert all(is_whole(r) for r in requests)


def test_a_gate_on_the_cosine_sees_the_documents_handed(context_of: ContextOf) -> None:
    context = context_of({"retrieval": {"search": "dense", "top_k": 1, "abstain_below": 0.3}}, limit=8)
    asker = context.ready.asker
    asked = [e for e in context.cell.task.test if e.answerable]
    texts = {p.id: p for p in context.cell.task.corpus}
    found = asker.retriever.find(asked) or []
    best = hand(asker, asked, [[texts[i] for i in f.document_ids] for f in found])
    assert [r.found.score for r in best if r.found] == pytest.approx([f.score for f in found])
    assert asker.retriever.store is not None
    worst = [hits[-1].chunk.document_id for hits in asker.retriever.store.search([e.input for e in asked], len(texts))]
    assert all(r.abstains for r in hand(asker, asked, [[texts[i]] for i in worst]))


def test_passages_that_do_not_fit_are_noticed(context_of: ContextOf) -> None:
    context = context_of(LEXICAL)
    long = [Passage("d", f"Page {i}. " + "it is red " * 60) for i in range(4)]
    whole, cut = hand(context.ready.asker, context.cell.task.test[:2], [long[:1], long])
    assert is_whole(whole)
    assert not is_whole(cut)


# ------------------------------------------------------------------------------------------ items and values


def test_the_same_items_for_every_strategy_and_seed(context_of: ContextOf) -> None:
    drawn = sampled(context_of(LEXICAL), 10)
    ids = [e.id for e, _ in drawn]
    assert len(set(ids)) == 10
    assert ids == [item.id for _, item in drawn]
    assert ids == [e.id for e, _ in sampled(context_of({"tuning": {"method": "none"}}, seed=1), 10)]
    order = [e.id for e in context_of(LEXICAL).cell.task.test]
    assert sorted(ids, key=order.index) == ids
    assert len(sampled(context_of(LEXICAL), 1000)) == 24


def test_right_is_to_abstain_where_there_is_no_answer(context_of: ContextOf) -> None:
    context = context_of({"prompt": {"constant": "abstain"}})
    task = context.cell.task
    judged = [judge_item(task, item) for item in context.items]
    assert [j.right for j in judged] == [not e.answerable for e in task.test]
    assert all(j.abstained for j in judged)
    assert [j.score for j in judged] == [i.scores["exact_match"] for i in context.items]


def test_a_drop_of_nothing_leaves_room_on_both_sides() -> None:
    tally = Tally({str(i): str(i) for i in range(10)})
    ones: dict[str, float | None] = {str(i): 1.0 for i in range(10)}
    tally.drop("drop", ones, ones, "why")
    value = tally.findings["drop"].value
    assert (value.value, value.ci_low, value.ci_high) == (0, pytest.approx(-0.2775, abs=1e-3), pytest.approx(0.2775, abs=1e-3))
    assert tally.p["drop"] == 1
    tally.mean("slope", dict.fromkeys(ones, 0.0), "why", share=False)
    assert tally.findings["slope"].value.ci_low == pytest.approx(-0.2775, abs=1e-3)


def test_a_drop_is_paired() -> None:
    before: dict[str, float | None] = {"a": 1, "b": 1, "c": 0, "d": 1}
    after: dict[str, float | None] = {"a": 0, "b": 1, "c": 1, "d": None}
    tally = Tally({name: name for name in before})
    tally.drop("drop", before, after, "cut")
    found = tally.findings["drop"]
    assert found.items == {"a": 1, "b": 0, "c": -1}
    assert (found.value.value, found.value.n_scored, found.value.n_undefined, found.value.undefined) == (0, 3, 1, {"cut": 1})
    # Differences 1, 0, -1: standard error sqrt(2 / 3 / 2) = 0.577, t(2) = 4.303.
    assert found.value.ci_high == pytest.approx(4.3027 * np.sqrt(1 / 3), rel=1e-4)


def test_what_nobody_can_score_is_absent_with_its_reason() -> None:
    tally = Tally({"a": "a"})
    tally.mean("nothing", {}, "no item")
    tally.mean("none", {"a": None}, "cut")
    tally.drop("drop", {"a": 1.0}, {"a": None}, "cut")
    assert tally.findings == {}
    assert tally.undefined == {"nothing": "no item", "none": "cut", "drop": "cut"}
