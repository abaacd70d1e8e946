from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from bench.errors import BenchError
from bench.model.language_model import Generation
from bench.probe.base import Context, make
from bench.probe.fabrication import Fabrication
from bench.result.schema import ProbeResult
from bench.run.ask import Answered, Request
from bench.strategy.prompt import Parsed
from bench.world.entities import names

ContextOf = Callable[..., Context]
Probed = Callable[..., ProbeResult]

ORACLE = {"retrieval": {"search": "oracle"}}


def says(monkeypatch: pytest.MonkeyPatch, texts: Sequence[str]) -> None:
    """Let the model answer these texts, in order."""

    def answer(self: Context, requests: Sequence[Request]) -> list[Answered]:
        said = zip(texts, requests, strict=True)
        return [Answered(i, Generation(text, None, 0, 0, 0, 0.0), r, Parsed(text)) for i, (text, r) in enumerate(said)]

    monkeypatch.setattr(Context, "answer", answer)


def test_rates_of_answers_that_are_known(context_of: ContextOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """3 of 8 made-up and 6 of 8 real products attempted: .375, .75 and a gap of .375."""
    context = context_of(ORACLE)
    probe = Fabrication(items=8)
    pairs = probe.pairs(context)
    attempted = {example.id for example, _ in pairs[:6]}
    items = [item.model_copy(update={"outcome": "incorrect" if item.id in attempted else "abstained"}) for item in context.items]
    says(monkeypatch, ["red", "Unknown.", "not stated", "Oslo", "unknown", "I do not know", "unknown", "unknown"])
    findings, details = probe.run(replace(context, items=items))
    assert findings["fabrication_rate"].value.value == 0.375  # "I do not know" is none of the task's phrases, so it is an attempt
    assert findings["attempt_rate_real"].value.value == 0.75
    assert findings["selective_gap"].value.value == 0.375
    assert findings["selective_gap"].items == {e.id: float(e.id in attempted) - float(i in (0, 3, 5)) for i, (e, _) in enumerate(pairs)}
    assert findings["fabrication_rate"].items.keys() == {e.id for e, _ in pairs}
    low, high = findings["selective_gap"].value.ci_low, findings["selective_gap"].value.ci_high
    assert low is not None
    assert high is not None
    assert low < 0.375 < high
    assert details["n_fake_products"] == 8
    assert details["shown"][0] == {"question": pairs[0][1].input, "answer": "red"}


def test_a_question_differs_from_its_pair_by_a_name_that_no_text_has(context_of: ContextOf) -> None:
    context = context_of(ORACLE, limit=60)
    task = context.cell.task
    texts = [p.text for p in task.corpus] + [e.input for e in (*task.train, *task.validation, *task.test)]
    pairs = Fabrication().pairs(context)
    assert len(pairs) > 40
    for real, fake in pairs:
        assert real.answerable
        assert real in task.test
        assert fake.cluster in names("fake")
        assert fake.cluster in fake.input
        assert not any(fake.cluster in text for text in texts)
        assert fake.input.replace(fake.cluster, real.cluster) == real.input
        assert (fake.answerable, fake.evidence, fake.targets) == (False, (), ("unknown",))
    assert len({fake.cluster for _, fake in pairs}) == len(pairs)


def test_all_strategies_and_seeds_get_the_same_questions(context_of: ContextOf) -> None:
    first = Fabrication(items=10).pairs(context_of(ORACLE))
    assert first == Fabrication(items=10).pairs(context_of({"prompt": {"shots": 2}}, seed=3))
    assert len(first) == 10


def test_what_retrieval_finds_is_read_and_an_oracle_finds_nothing(context_of: ContextOf) -> None:
    for settings, passages in (({"retrieval": {"search": "lexical", "top_k": 2}}, 2), (ORACLE, 0)):
        context = context_of(settings)
        (_, fake), *_ = Fabrication(items=1).pairs(context)
        (request,) = context.requests([fake])
        assert request.found is not None
        assert len(request.found.passages) == passages
        assert not any(fake.cluster in passage for passage in request.found.passages)


def test_a_reader_with_the_gold_page_tells_real_products_from_made_up_ones(context_of: ContextOf, probed: Probed) -> None:
    values = probed(context_of(ORACLE, limit=60), "fabrication").values
    assert values["fabrication_rate"].value <= 0.1
    assert values["attempt_rate_real"].value >= 0.9
    assert values["selective_gap"].value >= 0.8
    low, high = values["fabrication_rate"].ci_low, values["fabrication_rate"].ci_high
    assert low is not None
    assert high is not None
    assert 0 <= low <= values["fabrication_rate"].value < high


def test_one_question_has_no_interval(context_of: ContextOf, probed: Probed) -> None:
    values = probed(context_of(ORACLE), "fabrication", items=1).values
    assert {v.n_scored for v in values.values()} == {1}
    assert {v.ci_low for v in values.values()} == {None}


def test_it_has_a_meaning_where_made_up_products_can_be_asked_about(context_of: ContextOf) -> None:
    assert Fabrication().not_applicable(context_of(ORACLE).cell) is None
    assert Fabrication().not_applicable(context_of({"prompt": {"constant": "abstain"}}).cell) == "the strategy asks no model"
    cell = context_of(ORACLE).cell
    silent = replace(cell.task, config=cell.task.config.model_copy(update={"abstain": []}))
    assert Fabrication().not_applicable(replace(cell, task=silent)) == "the task has no words to abstain with"
    other = replace(cell.task, test=tuple(replace(e, targets=("mauve",)) for e in cell.task.test))
    assert "embedded world" in str(Fabrication().not_applicable(replace(cell, task=other)))


@pytest.mark.parametrize("items", [0, 301])
def test_a_number_of_items_out_of_range_is_refused(items: int) -> None:
    with pytest.raises(BenchError, match=r"probe_settings\.fabrication: items"):
        make("fabrication", {"items": items})
