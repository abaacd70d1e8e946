"""`bench show`: what a run keeps of its prompts, and how items are shown."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from result_samples import add, make_item, make_record
from rich.console import Console
from typer.testing import CliRunner

from bench.cli import app
from bench.errors import BenchError
from bench.model.source import locate
from bench.result.prompts import PROMPTS, KeptPassage, KeptPrompt, prompt_hash, read_prompt, write_prompts
from bench.result.schema import Item, Record
from bench.result.show import NO_PROMPTS, select, view_item
from bench.result.show_text import print_item, print_items, print_selection
from bench.result.store import RunFolder

MESSAGES = [{"role": "user", "content": "Answer.\n\n[1] Text of d1.\n[2] Text of d2.\n\nWhich colour?"}]
PASSAGES = [KeptPassage(document=f"d{i}", text=f"Text of d{i}.") for i in (1, 2, 3)]


def shown(write: Callable[..., None], *arguments: Any) -> str:
    out = io.StringIO()
    write(Console(file=out, width=140, markup=False, highlight=False, force_terminal=True, color_system=None), *arguments)
    return out.getvalue()


def asked(folder: RunFolder, item: Item, **changes: Any) -> Record:
    """A cell of this one item and its prompt."""
    record = make_record("support", "rag", 0, [item])
    add(folder, record, [item])
    kept = {"id": item.id, "messages": MESSAGES, "passages": PASSAGES} | changes
    write_prompts(folder.cell_folder("support", "rag", 0), [KeptPrompt.model_validate(kept)])
    return record


@pytest.fixture
def item() -> Item:
    return make_item(0, prompt_hash=prompt_hash(MESSAGES), retrieved_ids=["d1", "d2", "d3"], gold_ids=["d2"], input_hash="?")


# ------------------------------------------------------------------------------------------- what a run keeps


def test_a_run_keeps_what_each_item_was_asked_with_also_when_it_was_killed(
    make_task: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.run import cell as cell_module
    from bench.suite import Suite, expand

    task = make_task(n=8)
    cell = expand(Suite(tasks=[str(task)], strategies=["few-shot"], seeds=[0]), locate("embedded"))[0]

    def run(name: str) -> RunFolder:
        folder = RunFolder(tmp_path / name).create()
        cell_module.run_cell(cell, folder, tmp_path / "stores", lambda text: None)
        return folder

    whole = run("whole")
    own = whole.cell_folder("colors", "few-shot", 0)
    items = whole.read_items("colors", "few-shot", 0)
    for example, item in zip(cell.task.test, items, strict=True):
        kept = read_prompt(own, item)
        assert kept is not None
        assert kept.passages is None
        assert kept.messages[-1]["content"] == example.input
        assert [m["role"] for m in kept.messages[:2]] == ["user", "assistant"]  # the first shot
    # A killed run: a part of the items is there under the cell's id, and no prompts are.
    resumed = RunFolder(tmp_path / "resumed").create()
    with resumed.item_writer("colors", "few-shot", 0, cell.cell_id) as writer:
        for item in items[:3]:
            writer.append(item)
    run("resumed")
    other = resumed.cell_folder("colors", "few-shot", 0)
    assert (other / PROMPTS).read_bytes() == (own / PROMPTS).read_bytes()


def test_a_strategy_that_asks_no_model_keeps_no_prompts(make_task: Callable[..., Path], tmp_path: Path) -> None:
    from bench.run.cell import run_cell
    from bench.suite import Suite, expand

    cell = expand(Suite(tasks=[str(make_task())], strategies=["majority"], seeds=[0]), locate("embedded"))[0]
    folder = RunFolder(tmp_path / "run").create()
    record = run_cell(cell, folder, tmp_path / "stores", lambda text: None)
    assert not (folder.cell_folder("colors", "majority", 0) / PROMPTS).exists()
    view = view_item(folder, record, "test-0")
    assert (view.prompt, view.passages) == (None, None)
    assert view.note == "this strategy asks no model"


def test_a_baseline_is_no_larger_by_prompts(new_run: Callable[[str], RunFolder], item: Item, tmp_path: Path) -> None:
    from bench.regression.baseline import _packed, side_of_run

    folder = new_run("with")
    asked(folder, item)
    with_prompts = _packed(side_of_run(folder))
    (folder.cell_folder("support", "rag", 0) / PROMPTS).unlink()
    assert _packed(side_of_run(folder)) == with_prompts


@pytest.mark.parametrize(
    "content", [b"", b"no gzip", gzip.compress(b"{}\n"), gzip.compress(b'{"id": "\xff"}\n'), gzip.compress(b"x" * 999)[:20]]
)
def test_broken_prompts_are_said_and_the_answer_is_shown(new_run: Callable[[str], RunFolder], item: Item, content: bytes) -> None:
    folder = new_run("run")
    record = asked(folder, item)
    (folder.cell_folder("support", "rag", 0) / PROMPTS).write_bytes(content)
    with pytest.raises(BenchError, match=r"prompts\.jsonl\.gz"):
        read_prompt(folder.cell_folder("support", "rag", 0), item)
    text = shown(print_item, view_item(folder, record, "q0"))
    assert "run the cell again" in text
    assert "blue" in text


def test_prompts_of_another_cell_are_not_shown(new_run: Callable[[str], RunFolder], item: Item) -> None:
    folder = new_run("run")
    record = asked(folder, item, messages=[{"role": "user", "content": "Something else"}])
    view = view_item(folder, record, "q0")
    assert view.prompt is None
    assert 'another prompt of item "q0"' in str(view.note)


# ------------------------------------------------------------------------------------------- one item


def test_an_item_whole(new_run: Callable[[str], RunFolder], item: Item) -> None:
    folder = new_run("run")
    item = item.model_copy(update={"logit_margin": 0.125, "error": "distractor_copied", "reasoning": "Because.", "truncated": True})
    view = view_item(folder, asked(folder, item), "q0")
    assert view.passages is not None
    assert [(p.document, p.gold, p.in_prompt) for p in view.passages] == [("d1", False, True), ("d2", True, True), ("d3", False, False)]
    text = shown(print_item, view)
    for expected in (
        "support / rag / s0   item q0: correct", "cluster product0; facts = seen", "[user]\nAnswer.", "Which colour?", "[1] d1\n",
        "[2] d2 (gold)\n", "[3] d3 (left out to fit the window)", "reasoning: Because.", "Gold\nblue\nevidence: d2", "exact_match 1\n",
        "kind of error: distractor_copied", "tokens: 100 prompt", "logit margin: 0.125 nats",
    ):  # fmt: skip
        assert expected in text
    plain = view.as_dict()
    assert plain["messages"] == MESSAGES
    assert plain["passages"][1] == {"document": "d2", "text": "Text of d2.", "gold": True, "in_prompt": True}
    assert (plain["task"], plain["id"], plain["scores"]["f1"]) == ("support", "q0", 1.0)


def test_an_older_run_has_its_documents_and_says_what_is_missing(new_run: Callable[[str], RunFolder], item: Item) -> None:
    folder = new_run("run")
    item = item.model_copy(update={"input_hash": hashlib.sha256(b"Which colour?").hexdigest(), "retrieval_score": 0.5})
    record = asked(folder, item)
    (folder.cell_folder("support", "rag", 0) / PROMPTS).unlink()
    folder.write_texts("support", {"items": {"q0": "Which colour?"}, "passages": {"d1": "The document.", "d2": "Another."}})
    view = view_item(folder, record, "q0")
    assert view.note == NO_PROMPTS
    assert view.input == "Which colour?"
    assert view.passages is not None
    assert [(p.text, p.in_prompt) for p in view.passages] == [("The document.", None), ("Another.", None), (None, None)]
    folder.write_texts("support", {"items": {"q0": "Which size?"}, "passages": {}})
    assert view_item(folder, record, "q0").input is None  # the text of another question


@pytest.mark.parametrize(("score", "was_asked"), [(0.2, False), (None, False), (0.5, True), (0.7, True)])
def test_a_question_that_the_model_was_not_asked(
    new_run: Callable[[str], RunFolder], item: Item, score: float | None, was_asked: bool
) -> None:
    folder = new_run("run")
    item = item.model_copy(update={"retrieval_score": score})
    config = {"strategy": {"retrieval": {"abstain_below": 0.5}}}
    record = asked(folder, item).model_copy(update={"config": config})
    assert (view_item(folder, record, "q0").note is None) is was_asked


def test_nothing_in_an_item_acts_on_the_terminal(new_run: Callable[[str], RunFolder]) -> None:
    evil = "\x1b[2J\x1b]0;owned\x07\u202e[red]x[/red]\r"
    messages = [{"role": evil, "content": evil}]
    item = make_item(
        0, id=evil, cluster=evil, slices={evil: evil}, prediction=evil, reasoning=evil, targets=[evil], error=evil, gold_ids=[evil],
        retrieved_ids=[evil], cited_ids=[evil], undefined={evil: evil}, prompt_hash=prompt_hash(messages),
    )  # fmt: skip
    folder = new_run("run")
    record = asked(folder, item, messages=messages, passages=[{"document": evil, "text": evil}], options=[evil])
    texts = [shown(print_item, view_item(folder, record, evil)), shown(print_items, record, [item], 5)]
    texts.append(shown(print_selection, select(folder, "rag right"), 5))
    for text in texts:
        assert "[red]x[/red]" in text
        assert not set(text) & {"\x1b", "\x07", "\r", "\u202e"}
        assert "␛[2J" in text


def test_long_answers_leave_room_for_the_id(new_run: Callable[[str], RunFolder]) -> None:
    items = [make_item(i, id=f"identifier-{i}", prediction="long " * 90, targets=["long " * 90]) for i in range(2)]
    text = shown(print_items, make_record("support", "rag", 0, items), items, 1)
    assert "identifier-0  correct            1  long long" in text
    assert max(map(len, text.splitlines())) <= 140


def test_an_unknown_item(run: RunFolder) -> None:
    with pytest.raises(BenchError, match='support/rag has no item "q999"; expected one of 120, such as "q0"'):
        view_item(run, run.read_cell("support/rag"), "q999")


# ------------------------------------------------------------------------------------------- several


def test_a_selection_counts_and_shows_side_by_side(run: RunFolder) -> None:
    found = select(run, "rag wrong and oracle right")
    by_id = {name: {i.id: i.outcome for i in run.read_items("support", name, 0)} for name in ("rag", "rag-oracle", "lora", "zero-shot")}
    expected = [i for i, outcome in by_id["rag"].items() if outcome == "incorrect" and by_id["rag-oracle"][i] == "correct"]
    assert 0 < len(expected) < 120
    assert [row["rag"].id for row in found.rows] == expected
    assert (found.n_items, found.n_undecided, found.strategies) == (120, 0, ("rag", "rag-oracle"))
    assert found.counts["rag"] == {"right": 0, "wrong": len(expected), "abstained": 0}
    lora = sum(by_id["lora"][i] == "correct" for i in expected)
    assert found.counts["lora"] == {"right": lora, "wrong": len(expected) - lora, "abstained": 0}
    text = shown(print_selection, found, 2)
    assert f"{len(expected)} of 120 items where rag wrong and oracle right" in text
    assert f"2 of {len(expected)} shown" in text
    assert text.count("rag         wrong  red") == 2
    assert text.count("rag-oracle  right  blue") == 2
    plain = found.as_dict(3)
    assert [i["id"] for i in plain["items"]] == expected[:3]
    assert plain["items"][0]["answers"]["lora"]["scores"].keys() == {"exact_match", "f1"}
    assert (plain["n_found"], plain["counts"]) == (len(expected), found.counts)


def test_the_seed_is_that_of_the_strategies_that_have_several(run: RunFolder) -> None:
    for seed in (0, 2):
        right = sum(item.outcome == "correct" for item in run.read_items("support", "lora", seed))
        assert len(select(run, "lora right", seed=seed).rows) == right
    assert len(select(run, "zero-shot right", seed=2).rows) == len(select(run, "zero-shot right").rows)  # it does not depend on one
    with pytest.raises(BenchError, match="--seed: found 7, expected one of: 0, 1, 2"):
        select(run, "lora right", seed=7)


def test_undefined_scores_are_counted_apart(new_run: Callable[[str], RunFolder]) -> None:
    folder = new_run("run")
    items = [make_item(0), make_item(1, scores={"exact_match": 1.0}, undefined={"f1": "empty"})]
    add(folder, make_record("support", "rag", 0, items), items)
    found = select(folder, "rag.f1 >= 0")
    assert (len(found.rows), found.n_undecided) == (1, 1)
    assert "1 more are undecided" in shown(print_selection, found, 5)
    assert "0 of 2 items" in shown(print_selection, select(folder, "rag.exact_match > 1"), 5)


def test_of_several_tasks_one_has_to_be_named(run: RunFolder) -> None:
    items = [make_item(0)]
    add(run, make_record("triage", "rag", 0, items), items)
    with pytest.raises(BenchError, match="expected --task with one of: support, triage"):
        select(run, "rag right")
    assert select(run, "rag right", task="triage").n_items == 1
    with pytest.raises(BenchError, match='did you mean "triage"'):
        select(run, "rag right", task="triag")


def test_a_task_that_changed_between_cells_is_not_compared(run: RunFolder) -> None:
    items = [make_item(0, input_hash="another")]
    add(run, make_record("support", "mine", 0, items), items)
    with pytest.raises(BenchError, match=r'item "q0" of .* is another question'):
        select(run, "rag right")


def test_a_run_without_answers(new_run: Callable[[str], RunFolder]) -> None:
    with pytest.raises(BenchError, match="no cell with answers"):
        select(new_run("empty"), "rag right")


# ------------------------------------------------------------------------------------------- the command


def bench(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_command(run: RunFolder) -> None:
    one = json.loads(bench("show", run.path, "support/rag", "--item", "q0", "--format", "json"))
    assert one["scores"] == run.read_items("support", "rag", 0)[0].scores
    text = bench("show", run.path, "support/rag", "--limit", "2", "--outcome", "incorrect")
    wrong = [item.id for item in run.read_items("support", "rag", 0) if item.outcome == "incorrect"]
    assert f"2 of {len(wrong)} items: {len(wrong)} incorrect" in text
    assert "correct  " not in text.replace("incorrect", "")
    listed = json.loads(bench("show", run.path, "support/lora/s1", "--limit", "3", "--format", "json"))
    assert [i["id"] for i in listed] == ["q0", "q1", "q2"]
    assert set(listed[0]) == {"id", "outcome", "metric", "score", "targets", "prediction"}
    found = json.loads(bench("show", run.path, "--where", "facts = corpus", "--format", "json", "--limit", "1"))
    assert (found["n_found"], len(found["items"])) == (60, 1)
    assert NO_PROMPTS in bench("show", run.path, "support/rag", "--item", "q0")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "found neither"),
        (["support/rag", "--where", "rag right"], "found both"),
        (["support/rga"], 'did you mean "support/rag/s0"'),
        (["support/full"], "failed (OutOfMemoryError"),
        (["support/majority", "--item", "q0"], "skipped (no labels"),
        (["support/rag", "--outcome", "corect"], 'did you mean "correct"'),
        (["support/rag", "--format", "jsn"], 'did you mean "json"'),
        (["support/rag", "--task", "support"], "expected --where beside them"),
        (["--where", "rag right", "--item", "q0"], "found --item or --outcome"),
        (["--where", "rag rihgt"], "character 5"),
    ],
)
def test_bad_input(run: RunFolder, arguments: list[str], message: str) -> None:
    with pytest.raises(BenchError) as error:
        bench("show", run.path, *arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"no run here: expected the file run\.json"):
        bench("show", tmp_path / "nothing", "a/b")


def test_it_imports_nothing_heavy(run: RunFolder) -> None:
    code = "import sys; from bench.cli import main; sys.argv[1:] = {}\ntry: main()\nexcept SystemExit: pass\nprint(*sys.modules)"
    for arguments in (["support/rag", "--item", "q0"], ["--where", "rag right"]):
        done = subprocess.run([sys.executable, "-c", code.format(["show", str(run.path), *arguments])], capture_output=True, text=True)
        modules = done.stdout.splitlines()[-1].split()
        assert "bench.result.show_text" in modules
        assert not {"torch", "transformers", "pandas", "pyarrow", "numpy", "scipy"} & set(modules)
