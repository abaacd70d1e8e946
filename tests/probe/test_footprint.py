from collections.abc import Callable
from typing import Any

import pytest

from bench.model.source import locate
from bench.probe import footprint
from bench.probe.base import Context
from bench.probe.footprint import components, deletion, mean_seconds, settings, share_traceable, size_of_parts, switch_seconds, traceable
from bench.result.schema import Item, Outcome, ProbeResult, Tokens
from bench.strategy import adapters
from bench.strategy.spec import Strategy, load_strategy, preset_names
from bench.suite import Suite, expand

LORA = {"tuning": {"method": "lora", "epochs": 1, "evaluations": 1}}
FULL = {"tuning": {"method": "full", "epochs": 1, "evaluations": 1}}
FEATURES = {"tuning": {"method": "features"}}
RAG = {"retrieval": {"search": "hybrid", "top_k": 2}}
NEAREST = {"prompt": {"shots": 2, "select": "nearest"}}


def item(name: str, said: str, outcome: Outcome = "incorrect", cluster: str = "") -> Item:
    return Item(
        id=name, cluster=cluster or name, input_hash="", prompt_hash="", prediction=said, targets=["red"], answerable=True,
        outcome=outcome, scores={}, tokens=Tokens(), latency_seconds=0.0,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------- transparency

DOCUMENTS = {"d1": "The Zorba is RED. It weighs 300 grams.", "d2": "The Fenba is a reddish one."}


@pytest.mark.parametrize(
    ("said", "read", "expected"),
    [
        ("red", ["d1"], 1.0),
        ("Red.", ["d2", "d1"], 1.0),
        ("red", ["d2"], 0.0),  # a part of a word is no word
        ("the 300 grams", ["d1"], 1.0),
        ("grams 300", ["d1"], 0.0),
        ("red", [], 0.0),
        ("red", ["[7]"], 0.0),
    ],
)
def test_an_answer_is_traceable_where_its_words_stand_in_a_document_read(said: str, read: list[str], expected: float) -> None:
    assert traceable([item("a", said)], DOCUMENTS, {"a": read}) == {"a": expected}


def test_abstentions_and_empty_answers_claim_nothing() -> None:
    items = [item("a", "red"), item("b", "unknown", "abstained"), item("c", ""), item("d", "blue"), item("e", "unknown", "abstained")]
    traced = traceable(items, DOCUMENTS, {i.id: ["d1"] for i in items})
    assert traced == {"a": 1.0, "b": None, "c": None, "d": 0.0, "e": None}
    found = share_traceable(traced, items)
    assert (found.value.value, found.value.n_scored, found.value.n_undefined) == (0.5, 2, 3)
    assert found.value.undefined == {footprint.ABSTAINED: 2, footprint.NO_TEXT: 1}
    assert found.items == {"a": 1.0, "d": 0.0}


def test_traceable_shares_are_clustered() -> None:
    items = [item(str(i), "red" if i < 4 else "blue", cluster=str(i // 4)) for i in range(8)]
    traced = traceable(items, DOCUMENTS, {i.id: ["d1"] for i in items})
    apart = share_traceable(traced, [i.model_copy(update={"cluster": i.id}) for i in items]).value
    together = share_traceable(traced, items).value
    assert together.value == apart.value == 0.5
    assert together.ci_high is not None
    assert apart.ci_high is not None
    assert together.ci_high > apart.ci_high


def test_who_reads_passages_is_traced_and_who_reads_none_is_not(
    context_of: Callable[..., Context], probed: Callable[..., ProbeResult]
) -> None:
    reads = probed(context_of(RAG), "footprint").values["traceable_share"]
    assert reads.value > 0.5
    assert reads.ci_low is not None
    result = probed(context_of({}, task="ticket_triage"), "footprint")
    value = result.values["traceable_share"]
    assert (value.value, value.ci_low, value.ci_high) == (0.0, None, None)
    assert value.n_scored == 24
    assert result.details["traceable"] == footprint.READS_NOTHING


def test_where_nothing_is_attempted_nothing_is_traced(context_of: Callable[..., Context], probed: Callable[..., ProbeResult]) -> None:
    result = probed(context_of({"prompt": {"constant": "abstain"}}), "footprint")
    assert "traceable_share" not in result.values
    assert result.details["left_out"]["traceable_share"] == "no answer was attempted"


def test_citations_are_traced_beside_what_was_read(context_of: Callable[..., Context], probed: Callable[..., ProbeResult]) -> None:
    context = context_of({"prompt": {"cite": True}, "retrieval": {"search": "lexical", "top_k": 2}})
    before = context.items
    # The shipped base does not cite untrained.
    context.items = [i.model_copy(update={"cited_ids": list(i.retrieved_ids or [])[:1]}) for i in before]
    values = probed(context, "footprint").values
    context.items = [i.model_copy(update={"cited_ids": []}) for i in before]
    none = probed(context, "footprint").values
    context.items = before
    assert 0 < values["cited_traceable_share"].value <= values["traceable_share"].value
    assert none["cited_traceable_share"].value == 0
    assert none["traceable_share"] == values["traceable_share"]


# ---------------------------------------------------------------------------------------------- complexity


def test_settings_are_those_that_were_changed_or_are_searched() -> None:
    assert settings(Strategy()) == []
    strategy = Strategy.model_validate({"tuning": {"method": "lora", "r": 4, "epochs": 8}, "search": {"tuning.learning_rate": [1e-3]}})
    assert settings(strategy) == ["tuning.learning_rate", "tuning.method", "tuning.r"]  # 8 epochs are the default
    assert settings(strategy.with_settings({"tuning.learning_rate": 2e-3})) == settings(strategy)
    assert settings(load_strategy("prompt-tuning")[1]) == [
        "tuning.learning_rate", "tuning.method", "tuning.peft.num_virtual_tokens", "tuning.peft.peft_type",
        "tuning.peft.prompt_tuning_init",
    ]  # fmt: skip


def test_settings_of_what_a_strategy_does_not_do_are_not_counted() -> None:
    assert settings(Strategy().with_settings({"tuning.epochs": 3, "retrieval.top_k": 7})) == []


@pytest.mark.parametrize(
    ("given", "task", "expected"),
    [
        ({}, "product_support", ["base model"]),
        ({"prompt": {"constant": "majority"}}, "ticket_triage", []),
        (LORA, "product_support", ["base model", "adapter"]),
        (FULL, "product_support", ["tuned model"]),
        (FEATURES, "ticket_triage", ["base model", "classifier"]),
        (RAG, "product_support", ["base model", "embedder", "vector index", "lexical index"]),
        (NEAREST, "ticket_triage", ["base model", "embedder", "example index"]),
    ],
)
def test_components_are_named_and_counted(
    context_of: Callable[..., Context], probed: Callable[..., ProbeResult], given: dict[str, Any], task: str, expected: list[str]
) -> None:
    result = probed(context_of(given, task=task), "footprint")
    assert components(context_of(given, task=task).fitted) == expected == result.details["components"]
    assert result.values["n_components"].value == len(expected)
    assert result.values["n_components"].ci_low is None


@pytest.mark.parametrize(
    ("preset", "places"),
    [
        ("zero-shot", ["base"]), ("few-shot", ["prompt", "base"]), ("rag", ["corpus", "base"]), ("lora", ["weights", "base"]),
        ("rag-lora", ["corpus", "weights", "base"]), ("majority", ["nothing is kept but the constant answer"]),
    ],
)  # fmt: skip
def test_a_fact_is_taken_out_wherever_it_may_be(preset: str, places: list[str]) -> None:
    assert [step.partition(":")[0] for step in deletion(load_strategy(preset)[1])] == places


# ---------------------------------------------------------------------------------------------- flexibility


@pytest.mark.parametrize(
    ("given", "task", "kept"),
    [
        ({}, "product_support", {"instruction"}),
        ({"prompt": {"shots": 2}}, "ticket_triage", {"instruction", "examples"}),
        (NEAREST, "ticket_triage", {"instruction", "examples"}),
        (RAG, "product_support", {"instruction", "index"}),
        (LORA, "product_support", {"instruction", "weights"}),
        (FULL, "product_support", {"instruction", "weights"}),
        (FEATURES, "ticket_triage", {"instruction", "weights"}),
        (LORA | RAG, "product_support", {"instruction", "weights", "index"}),
    ],
)
def test_bytes_are_the_artifacts_and_the_instruction_and_all_but_weights_is_portable(
    context_of: Callable[..., Context], probed: Callable[..., ProbeResult], given: dict[str, Any], task: str, kept: set[str]
) -> None:
    context = context_of(given, task=task)
    sizes = size_of_parts(context.ready)
    assert {name for name, size in sizes.items() if size} == kept
    assert sum(sizes.values()) == context.ready.artifact_bytes + sizes["instruction"]
    values = probed(context, "footprint").values
    assert values["switch_bytes"].value == sum(sizes.values())
    assert values["portable_bytes_share"].value == pytest.approx(1 - sizes["weights"] / sum(sizes.values()))
    assert (values["portable_bytes_share"].value == 1) is ("weights" not in kept)


@pytest.mark.parametrize(("given", "loads"), [({}, 0), (LORA, 1), (FULL, 1)])
def test_switching_loads_what_was_trained_into_another_base(
    context_of: Callable[..., Context], monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], loads: int
) -> None:
    context = context_of(given)
    loaded: list[Any] = []
    load = adapters.load_adapter

    def spy(model: Any, *rest: Any) -> None:
        load(model, *rest)
        loaded.append(model)

    monkeypatch.setattr(adapters, "load_adapter", spy)
    assert switch_seconds(context.ready, context.scratch / "switch") > 0
    assert len(loaded) == loads
    for model in loaded:
        assert model is not context.ready.model
        own = dict(context.ready.model.network.named_parameters())
        assert all(bool((p == own[n]).all()) for n, p in model.network.named_parameters())


def test_switching_opens_the_index_that_is_there(context_of: Callable[..., Context], monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.strategy.store import Store

    context = context_of(RAG)
    opened: list[Store] = []
    build_or_open = Store.build_or_open.__func__  # type: ignore[attr-defined]

    def spy(cls: type[Store], *rest: Any, **more: Any) -> Store:
        opened.append(build_or_open(cls, *rest, **more))
        return opened[-1]

    monkeypatch.setattr(Store, "build_or_open", classmethod(spy))
    switch_seconds(context.ready, context.scratch / "switch")
    assert [s.built for s in opened] == [False]
    assert opened[0].folder == context.ready.asker.retriever.store.folder  # type: ignore[union-attr]


def test_seconds_are_a_mean_of_repeats_and_never_below_zero() -> None:
    value = mean_seconds([0.001, 0.001, 0.010]).value
    assert value.value == pytest.approx(0.004)
    assert value.ci_low == 0.0
    assert value.ci_high == pytest.approx(0.004 + 4.302653 * 0.003, rel=1e-4)
    assert mean_seconds([0.001, 0.001, 0.010]).items == {}


def test_the_strategy_answers_as_before(context_of: Callable[..., Context], probed: Callable[..., ProbeResult]) -> None:
    context = context_of(LORA)
    probed(context, "footprint")
    with context.ready.meter.phase("answer"):
        again = [a.parsed.answer for a in context.answer(context.requests(context.cell.task.test))]
    assert again == [i.prediction for i in context.items]


def test_every_preset_has_a_footprint() -> None:
    cells = expand(Suite(tasks=["product_support"], strategies=["all"], seeds=[0]), locate("embedded"))
    assert {c.strategy_name for c in cells} == set(preset_names())
    for cell in cells:
        assert footprint.PROBE().not_applicable(cell) is None
        assert set(cell.strategy.search) <= set(settings(cell.strategy))
        assert deletion(cell.strategy)
