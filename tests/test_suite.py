import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.model.source import locate
from bench.strategy.embedder import packaged_default
from bench.strategy.spec import preset_names
from bench.suite import Budget, Suite, expand, find_task, load_suite


def cells(folder: Path, **settings: object) -> dict[tuple[str, int], str]:
    suite = Suite(**({"tasks": [str(folder)], "strategies": ["zero-shot", "few-shot"]} | settings))  # type: ignore[arg-type]
    return {(c.strategy_name, c.seed): c.cell_id for c in expand(suite, locate("embedded"))}


def test_the_default_suite_covers_four_tasks_and_three_seeds() -> None:
    suite = load_suite("default")
    made = expand(suite, locate("embedded"))
    assert {c.task.name for c in made} == {"product_support", "ticket_triage", "abstract_summary", "review_feedback"}
    assert {c.seed for c in made if c.strategy_name == "lora"} == {0, 1, 2}
    assert {c.seed for c in made if c.strategy_name == "zero-shot"} == {0}
    assert len({c.cell_id for c in made}) == len(made)


def test_the_searching_seed_comes_first(make_task: Callable[..., Path]) -> None:
    order = list(cells(make_task(), seeds=[4, 2, 9]))
    assert order == [("zero-shot", 4), ("few-shot", 4), ("few-shot", 2), ("few-shot", 9)]


def test_identity_follows_what_can_change_answers(make_task: Callable[..., Path]) -> None:
    task = make_task()
    before = cells(task)
    assert cells(task) == before
    assert cells(task, budget=Budget(train_examples=4)).keys() == before.keys()
    assert not set(cells(task, budget=Budget(train_examples=4)).values()) & set(before.values())
    assert not set(cells(task, limit=5).values()) & set(before.values())
    file = task / "test.jsonl"
    file.write_text(file.read_text().replace("about the lid", "about the door"))
    assert not set(cells(task).values()) & set(before.values())


def test_identity_does_not_follow_the_place(make_task: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task()
    before = cells(task)
    monkeypatch.chdir(task.parent)
    assert cells(Path(task.name)) == before


def test_two_models_never_share_an_identity(make_task: Callable[..., Path], tmp_path: Path) -> None:
    import shutil

    from bench.model.source import EMBEDDED_FOLDER

    other = Path(shutil.copytree(EMBEDDED_FOLDER, tmp_path / "other"))
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(bytes(weights))
    suite = Suite(tasks=[str(make_task())], strategies=["zero-shot"])
    ours, theirs = expand(suite, locate("embedded")), expand(suite, locate(str(other)))
    assert ours[0].cell_id != theirs[0].cell_id


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tasks: [a]\nstrategies: [b]\nseed: [0]", r'suite.yaml: unknown key "seed"; did you mean "seeds"'),
        ("strategies: [b]", r'suite.yaml: the key "tasks" is missing'),
        ("tasks: []\nstrategies: [b]", r"suite.yaml: tasks: found \[\], expected"),
        ("tasks: [a]\nstrategies: [b]\nbudget: {trails: 2}", r'unknown key "budget.trails"; did you mean "trials"'),
        ("tasks: [a\n", r"suite.yaml:\d: is no valid YAML"),
    ],
)
def test_bad_suite_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "suite.yaml").write_text(text)
    with pytest.raises(BenchError, match=message):
        load_suite(str(tmp_path / "suite.yaml"))


def test_unknown_names_get_a_suggestion() -> None:
    with pytest.raises(BenchError, match='did you mean "default"'):
        load_suite("defualt")
    with pytest.raises(BenchError, match='did you mean "ticket_triage"'):
        find_task("ticket_traige")
    with pytest.raises(BenchError, match=r"expected a folder with a task\.yaml"):
        find_task("tests/")


def test_repeated_seeds_and_strategies_are_refused(make_task: Callable[..., Path]) -> None:
    task = make_task()
    with pytest.raises(BenchError, match="expected each seed once"):
        cells(task, seeds=[0, 0])
    with pytest.raises(BenchError, match="expected each name once"):
        cells(task, strategies=["rag", "rag"])


def test_a_metric_without_meaning_for_the_kind_is_refused(make_task: Callable[..., Path]) -> None:
    with pytest.raises(BenchError, match=r"task\.yaml: metrics.*field_accuracy"):
        cells(make_task(metrics=["field_accuracy"]))


def test_settings_are_laid_over_every_strategy(make_task: Callable[..., Path]) -> None:
    base = Suite(tasks=[str(make_task())], strategies=["zero-shot", "lora"], seeds=[0])
    plain = expand(base, locate("embedded"))
    changed = expand(base.model_copy(update={"settings": {"tuning.batch_size": 4, "tuning.learning_rate": 1e-3}}), locate("embedded"))
    assert [c.strategy.tuning.batch_size for c in changed] == [4, 4]
    assert changed[1].strategy.search == {}  # a setting that is given is not searched
    assert {c.cell_id for c in plain}.isdisjoint({c.cell_id for c in changed})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tuning.batchsize": 4}, r'settings: tuning.batchsize: no such setting; did you mean .* \(strategy zero-shot\)'),
        ({"tuning.batch_size": "many"}, "settings: tuning.batch_size: found .many., expected"),
        ({"prompt.cite": True}, "prompt.cite: needs retrieval"),
    ],
)
def test_bad_settings_are_one_clear_line(make_task: Callable[..., Path], settings: dict[str, object], message: str) -> None:
    suite = Suite(tasks=[str(make_task())], strategies=["zero-shot"], settings=settings)
    with pytest.raises(BenchError, match=message):
        expand(suite, locate("embedded"))


def test_all_stands_for_every_preset(make_task: Callable[..., Path]) -> None:
    cells = expand(Suite(tasks=[str(make_task())], strategies=["all"], seeds=[0]), locate("embedded"))
    assert [c.strategy_name for c in cells] == preset_names()


def test_tasks_trained_together_say_what_has_no_meaning(make_task: Callable[..., Path]) -> None:
    tasks, strategies = [str(make_task("a")), str(make_task("b"))], ["features", "dpo", "lora", "zero-shot"]
    suite = Suite(tasks=tasks, strategies=strategies, seeds=[0], multitask=True)
    reasons = {c.strategy_name: c.not_applicable for c in expand(suite, locate("embedded"))}
    assert reasons["lora"] is reasons["zero-shot"] is None
    assert "one task" in str(reasons["features"])
    assert "one task" in str(reasons["dpo"])


def test_an_embedder_is_identified_by_its_weights(make_task: Callable[..., Path], tmp_path: Path) -> None:
    """At the same path other weights are another embedder; which one is of no account to a strategy that does not embed."""
    shutil.copytree(packaged_default(), tmp_path / "embedder")
    suite = Suite(
        tasks=[str(make_task())], strategies=["few-shot-nearest", "few-shot"], seeds=[0],
        settings={"retrieval.embedder": str(tmp_path / "embedder")},
    )  # fmt: skip
    before = [c.cell_id for c in expand(suite, locate("embedded"))]
    config = tmp_path / "embedder" / "sentence_bert_config.json"
    config.write_text(config.read_text().replace("256", "128"))
    after = [c.cell_id for c in expand(suite, locate("embedded"))]
    assert before[0] != after[0]
    assert before[1] == after[1]
