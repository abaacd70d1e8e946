from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.strategy.spec import FAMILIES, Strategy, load_strategy, preset_names
from bench.task.schema import Task, TaskConfig


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_says_what_it_is(name: str) -> None:
    loaded, strategy = load_strategy(name)
    assert loaded == name
    assert len(strategy.description) > 20
    assert strategy.family in FAMILIES
    if strategy.tuning.method not in ("none", "features"):
        assert strategy.trains
    if strategy.family != "floor":
        assert strategy.traps


@pytest.mark.parametrize("name", preset_names())
def test_every_searching_preset_uses_the_three_trials_that_each_has(name: str) -> None:
    axes = load_strategy(name)[1].search
    assert len(axes) <= 1
    assert all(not isinstance(values, list) or len(values) == 3 for values in axes.values())


def test_a_strategy_file_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("prompt: {shots: 2}\ntuning: {method: lora, r: 4}\n")
    name, strategy = load_strategy(str(file))
    assert (name, strategy.prompt.shots, strategy.tuning.r) == ("mine", 2, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tunning: {}", r'unknown key "tunning"; did you mean "tuning"\?'),
        ("tuning: {methd: lora}", r'unknown key "tuning.methd"; did you mean "method"\?'),
        ("tuning: {method: lorra}", "tuning.method.*lorra"),
        ("prompt: {shots: -1}", "prompt.shots.*-1.*greater than or equal to 0"),
        ("prompt: [1]", "prompt"),
        ("just words", "expected keys and values"),
        ("tuning: {method: lora, with_passages: true}", "needs retrieval.search"),
        ("prompt: {constant: majority, shots: 3}", "asks no model"),
        ("search: {tuning.learning_rte: [1]}", r'did you mean "tuning.learning_rate"\?'),
        ("search: {tuning.learning_rate: []}", "the list is empty"),
        ("search: {tuning.learning_rate: [fast]}", "learning_rate"),
        ("search: {tuning.learning_rate: {low: 1.0, high: 0.1}}", "expected low below high"),
        ("search: {tuning.learning_rate: {low: 0, high: 0.1, log: true}}", "above 0 on a log scale"),
        ("search: {tuning.learning_rate: {low: 0.1, high: 1, steps: 3}}", "steps"),
        ("prompt: {instruction: 'Do {{ it }}'}", r"found \{\{ it \}\}; the only variable is \{\{ instruction \}\}"),
        ("prompt: {instruction: '{{ instruction'}", "no valid Jinja"),
        ("prompt: {cite: true}", "prompt.cite: needs retrieval.search"),
        ("tuning: {method: peft}", "needs a peft_type"),
        ("tuning: {method: full, peft: {r: 4}}", "tuning.peft"),
        ("tuning: {method: full, quantize: nf4}", "4-bit weights cannot be trained"),
        ("tuning: {objective: dpo}", "needs a method that trains"),
        ("tuning: {method: lora, objective: dpo, train_on: [documents]}", "documents have no meaning"),
        ("tuning: {method: lora, train_on: []}", "is empty"),
        ("retrieval: {search: dense}\ntuning: {method: lora, gold_share: 0.5}", "needs tuning.with_passages"),
        ("retrieval: {search: oracle}\ntuning: {method: lora, with_passages: true, gold_share: 0.5}", "for distractors"),
        ("retrieval: {search: oracle, rerank: true}", "retrieval.rerank"),
        ("retrieval: {search: lexical, abstain_below: 0.5}", "retrieval.abstain_below: needs retrieval.search dense"),
        ("a: b: c", r"mine.yaml:1: is no valid YAML"),
    ],
)
def test_bad_strategy_files_are_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(BenchError, match=message) as error:
        load_strategy(str(file))
    assert "\n" not in str(error.value)
    assert "mine.yaml" in str(error.value)


def test_an_unknown_preset_gets_a_suggestion() -> None:
    with pytest.raises(BenchError, match='did you mean "few-shot"'):
        load_strategy("few-shots")


def a_task(kind: str = "qa", corpus: bool = False, **settings: object) -> Task:
    keys = {"kind": kind, "instruction": "i", "input": "x", "target": "y", "metrics": ["exact_match"], **settings}
    config = TaskConfig.model_validate(keys)
    return Task("t", Path(), config, (), (), (), corpus=(object(),) if corpus else ())  # type: ignore[arg-type]


def test_what_depends_on_a_seed() -> None:
    drawn, first = a_task(), a_task(layout={"shots": "first"})
    deterministic = {n for n in preset_names() if load_strategy(n)[1].deterministic(drawn)}
    assert {"zero-shot", "rag", "rag-oracle", "majority", "few-shot-nearest"} <= deterministic
    assert not deterministic & {"few-shot", "lora", "full", "rag-lora"}
    assert {n for n in preset_names() if load_strategy(n)[1].deterministic(first)} - deterministic == {
        n for n in preset_names() if n not in deterministic and load_strategy(n)[1].tuning.method == "none"
    }


CHOICE = a_task("multiple_choice", options="o")


@pytest.mark.parametrize(
    ("strategy", "task", "kind", "reason"),
    [
        ("rag", a_task(), "causal", "no corpus"),
        ("rag-oracle", a_task(corpus=True), "causal", "no evidence column"),
        ("raft", a_task(corpus=True), "causal", "no evidence column"),
        ("rag-rerank", a_task(corpus=True), "causal", "no cross-encoder is given"),
        ("rag-abstain", a_task(corpus=True), "causal", "no abstention phrase"),
        ("few-shot-cot", a_task(), "causal", "no rationale column"),
        ("zero-shot-cot", a_task(), "causal", None),
        ("few-shot-cot", a_task(rationale="r"), "causal", None),
        ("features", a_task(), "causal", "no classification task"),
        ("features", a_task("classification"), "causal", None),
        ("lora-documents", a_task(), "causal", "no corpus"),
        ("lora-documents", a_task(corpus=True), "seq2seq", "causal"),
        ("dpo", a_task(), "seq2seq", "causal"),
        ("lora", a_task(), "seq2seq", None),
        ("p-tuning-v2", a_task(), "seq2seq", "half of peft's prefix"),
        ("p-tuning-v2", a_task(), "causal", None),
        ("qlora", a_task("classification"), "encoder", "not in 4 bits"),
        ("lora", a_task(), "encoder", "classification tasks only"),
        ("lora", a_task("classification"), "encoder", None),
        ("zero-shot", a_task("classification"), "encoder", "before it is trained"),
        ("few-shot-lora", a_task("classification"), "encoder", "reads the input alone"),
        ("majority", a_task("classification"), "encoder", None),
        ("zero-shot", CHOICE, "causal", None),
        ("few-shot", CHOICE, "causal", None),
        ("majority", CHOICE, "causal", None),
        ("lora", CHOICE, "causal", None),
        ("rag", a_task("multiple_choice", corpus=True, options="o"), "causal", None),
        ("zero-shot-cot", CHOICE, "causal", "writes no chain of thought"),
        ("few-shot-cot", CHOICE, "causal", "writes no chain of thought"),
        ("rag-cite", a_task("multiple_choice", corpus=True, options="o"), "causal", "writes no citation"),
        ("dpo", CHOICE, "causal", "preference training needs answers that the model writes"),
        ("grpo", CHOICE, "causal", "preference training needs answers that the model writes"),
        ("features", CHOICE, "causal", "no classification task"),
        ("lora", CHOICE, "encoder", "classification tasks only"),
        ("always-abstain", CHOICE, "causal", "no abstention phrase"),
        ("first-sentence", CHOICE, "causal", "only a summarization task"),
        ("rag-abstain", a_task("multiple_choice", corpus=True, options="o"), "causal", "no abstention phrase"),
    ],
)
def test_what_has_no_meaning_is_said_with_its_reason(strategy: str, task: Task, kind: str, reason: str | None) -> None:
    found = load_strategy(strategy)[1].not_applicable(task, kind)  # type: ignore[arg-type]
    assert found is None if reason is None else found is not None and reason in found


@pytest.mark.parametrize(
    ("axis", "values", "more", "reason"),
    [
        ("prompt.chain_of_thought", [None, "Think first."], {}, "writes no chain of thought"),
        ("prompt.cite", [False, True], {"retrieval": {"search": "lexical"}}, "writes no citation"),
        ("tuning.objective", ["answers", "dpo"], {"tuning": {"method": "lora"}}, "preference training"),
    ],
)
def test_a_search_over_what_a_choice_cannot_have_is_refused(axis: str, values: list[object], more: dict[str, object], reason: str) -> None:
    task = a_task("multiple_choice", corpus=True, options="o")
    assert reason in (Strategy.model_validate({"search": {axis: values}, **more}).not_applicable(task) or "")
    assert Strategy.model_validate(more).not_applicable(task) is None


def test_settings_are_filled_in() -> None:
    strategy = Strategy(search={"tuning.r": [2]}).with_settings({"tuning.r": 2, "prompt.shots": 3})
    assert (strategy.tuning.r, strategy.prompt.shots, strategy.search) == (2, 3, {})


def test_settings_inside_peft_can_be_searched() -> None:
    tuning = {"method": "peft", "peft": {"peft_type": "IA3", "r": 1}}
    strategy = Strategy.model_validate({"tuning": tuning, "search": {"tuning.peft.r": [2]}})
    filled = strategy.with_settings({"tuning.peft.r": 2})
    assert filled.tuning.peft == {"peft_type": "IA3", "r": 2}
    assert filled.setting("tuning.peft.r") == 2


def test_what_is_said_about_it_is_no_part_of_the_identity() -> None:
    said = Strategy(description="a", source="b", family="c", trains="d", traps=("e",))
    assert said.fingerprint == Strategy(description="b").fingerprint
    assert Strategy().fingerprint != Strategy.model_validate({"tuning": {"r": 4}}).fingerprint
