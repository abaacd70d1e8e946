"""A task from the user's own data: what is guessed, cleaned, split and written."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import typer
import yaml
from real_data import shared
from typer.testing import CliRunner

from bench.errors import BenchError
from bench.task import cli
from bench.task.from_data import new_task_from
from bench.task.guess import Choices
from bench.task.load import load_task
from bench.task.schema import Task
from bench.task.validate import validate

SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}
LABELS = ["billing", "delivery", "other"]


def refuse(flag: str, question: str, columns: Sequence[str]) -> str:
    raise BenchError(f"{flag}: cannot be guessed among {', '.join(columns)}")


def make(folder: Path, source: Path | str, *, seed: int = 0, **choices: Any) -> tuple[Task, list[str]]:
    said: list[str] = []
    lines = new_task_from(folder / "made", str(source), Choices(**choices), SHARES, seed, refuse, said.append)
    return load_task(folder / "made"), [*said, *lines]


def write(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]], delimiter: str = ",") -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    return path


def tickets(number: int = 30) -> list[list[str]]:
    return [[f"ticket about matter w{i} and thing v{i}", LABELS[i % 3]] for i in range(number)]


def questions(number: int = 30) -> list[list[str]]:
    return [[f"q{i}", f"What is the colour of item {i * 7}?", f"shade {i}"] for i in range(number)]


# ---------------------------------------------------------------------------------------------- kinds


def test_a_csv_of_few_labels_is_a_classification(tmp_path: Path) -> None:
    task, said = make(tmp_path, write(tmp_path / "data.csv", ["message", "label"], tickets()))
    assert task.config.kind == "classification"
    assert task.labels == tuple(LABELS)
    assert (task.config.input, task.config.target) == ("{{ message }}", "label")
    assert [len(split) for split in (task.train, task.validation, task.test)] == [18, 6, 6]
    assert {example.targets[0] for example in task.test} == set(LABELS)
    assert task.warnings == ()
    assert "kind: classification (3 different short answers in 30 rows)" in said
    assert sum(line.startswith("row ") for line in said) == 3
    card = (tmp_path / "made" / "README.md").read_text()
    assert "30 rows were read, 30 are kept" in card
    assert "fill in the licence" in card
    assert all(line.startswith("# ") for line in _before_keys(tmp_path / "made" / "task.yaml"))


def _before_keys(path: Path) -> list[str]:
    """The line above each key."""
    lines = path.read_text().splitlines()
    return [lines[number - 1] for number, line in enumerate(lines) if line and line[0] not in "# "]


def test_short_different_answers_are_questions(tmp_path: Path) -> None:
    task, _ = make(tmp_path, write(tmp_path / "data.csv", ["qid", "question", "answer"], questions()))
    assert task.config.kind == "qa"
    assert task.config.metrics == ["exact_match", "f1"]
    assert {example.id for split in (task.train, task.validation, task.test) for example in split} == {f"q{i}" for i in range(30)}


def test_a_context_column_becomes_the_corpus_and_no_passage_is_cut_in_two(tmp_path: Path) -> None:
    rows = [[*row, f"Passage number {i // 3} speaks of {i // 3}."] for i, row in enumerate(questions())]
    task, _ = make(tmp_path, write(tmp_path / "data.csv", ["id", "question", "answer", "context"], rows))
    assert len(task.corpus) == 10
    passages = {passage.id: passage.text for passage in task.corpus}
    found: dict[str, str] = {}
    for name in ("train", "validation", "test"):
        for example in getattr(task, name):
            assert passages[example.evidence[0]] == f"Passage number {int(example.id[1:]) // 3} speaks of {int(example.id[1:]) // 3}."
            assert found.setdefault(example.cluster, name) == name
    assert "context" not in (tmp_path / "made" / "train.jsonl").read_text()


def test_an_article_without_a_question_column_is_asked_about_not_looked_up(tmp_path: Path) -> None:
    rows = [[f"article {i} about things", f"head {i}"] for i in range(20)]
    task, _ = make(tmp_path, write(tmp_path / "d.csv", ["article", "target"], rows))
    assert (task.config.kind, task.config.input, task.corpus) == ("qa", "{{ article }}", ())


def test_long_answers_are_summaries(tmp_path: Path) -> None:
    rows = [[f"article {i} " + "word " * 60, f"summary {i} of " + "some more words " * 10] for i in range(20)]
    task, _ = make(tmp_path, write(tmp_path / "d.tsv", ["article", "summary"], rows, "\t"))
    assert task.config.kind == "summarization"
    assert (task.config.input, task.config.target) == ("{{ article }}", "summary")


def test_objects_are_structured_with_their_types(tmp_path: Path) -> None:
    orders = [{"item": f"i{i}", "count": i, "price": i / 2, "now": i % 2 == 0} for i in range(20)]
    rows = [{"note": f"we need {i} of item {i * 3}", "output": order} for i, order in enumerate(orders)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task, _ = make(tmp_path, tmp_path / "d.jsonl")
    assert task.config.kind == "structured"
    assert task.config.fields == {"item": "string", "count": "integer", "price": "number", "now": "boolean"}


def test_options_are_a_multiple_choice(tmp_path: Path) -> None:
    table = {
        "question": [f"Which is right of number {i * 13}?" for i in range(20)],
        "choices": [[f"a{i}", f"b{i}", f"c{i}"] for i in range(20)],
        "answer": [i % 3 for i in range(20)],
    }
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "d.parquet")
    task, _ = make(tmp_path, tmp_path / "d.parquet")
    assert task.config.kind == "multiple_choice"
    assert all(example.targets[0] in example.options for example in task.test)


@pytest.mark.parametrize("letters", [["A", "B", "C"], ["1", "2", "3"]])
def test_a_right_option_named_by_its_letter(tmp_path: Path, letters: list[str]) -> None:
    def row(i: int) -> dict[str, Any]:
        choices = {"text": [f"a{i}", f"b{i}", f"c{i}"], "label": letters}
        return {"question": f"Which is right of number {i * 13}?", "choices": choices, "answerKey": letters[i % 3]}

    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row(i)) + "\n" for i in range(20)))
    task, _ = make(tmp_path, tmp_path / "d.jsonl")
    assert task.config.kind == "multiple_choice"
    for example in (*task.train, *task.validation, *task.test):
        assert example.targets == (example.options[int(example.options[0][1:]) % 3],)


def test_answers_as_squad_has_them_and_questions_without_one(tmp_path: Path) -> None:
    answers = [{"text": [f"town {i}"] * (i % 4 > 0), "answer_start": []} for i in range(24)]
    rows = [{"question": f"Where is place {i * 3}?", "answers": answer} for i, answer in enumerate(answers)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task, _ = make(tmp_path, tmp_path / "d.jsonl")
    assert task.config.abstain == ["unknown"]
    assert 'answer "unknown"' in task.instruction
    examples = [*task.train, *task.validation, *task.test]
    assert sum(not example.answerable for example in examples) == 6
    assert "town 1" in {example.targets[0] for example in examples}


def test_lists_as_pandas_writes_them_are_lists(tmp_path: Path) -> None:
    rows = [[f"Who is person {i * 3}?", f"['P{i}', 'Q {i}']"] for i in range(15)]
    task, _ = make(tmp_path, write(tmp_path / "d.csv", ["question", "answers"], rows))
    assert all(len(example.targets) == 2 for example in task.test)


# ---------------------------------------------------------------------------------------------- choices and questions


def test_what_cannot_be_guessed_is_asked_for_by_its_flag(tmp_path: Path) -> None:
    rows = [[f"some words {i} here", f"other words {i} there", f"and more {i} words"] for i in range(12)]
    path = write(tmp_path / "d.csv", ["alpha", "beta", "gamma"], rows)
    with pytest.raises(BenchError, match="--target: cannot be guessed among alpha, beta, gamma"):
        make(tmp_path, path)
    with pytest.raises(BenchError, match="--input: cannot be guessed among alpha, beta"):
        make(tmp_path, path, target="gamma")
    assert not (tmp_path / "made").exists()
    task, _ = make(tmp_path, path, target="gamma", input="{{ alpha }} / {{ beta }}")
    assert " / other words" in task.test[0].input


def test_the_command_asks_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BenchError, match=r"^--target: cannot be guessed \(which one\?\), expected one of a, b$"):
        cli._refuse("--target", "Which one?", ["a", "b"])
    answers = iter(["c", "b"])
    monkeypatch.setattr("typer.prompt", lambda text: next(answers))
    assert cli._ask("--target", "Which one?", ["a", "b"]) == "b"


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"target": "lable"}, '--target: found no column "lable"; did you mean "label"'),
        ({"kind": "classify"}, '--kind: found "classify"'),
        ({"metrics": ("rougeL",)}, '--metrics: metric "rougeL" has no meaning for kind classification'),
        ({"corpus": "nowhere"}, "--corpus: found no column, folder or file nowhere"),
        ({"input": "{{ mesage }}"}, 'found no column "mesage"'),
        ({"input": "{{ message"}, "--input: found no valid Jinja template"),
    ],
)
def test_a_wrong_choice_is_one_line_and_leaves_nothing(tmp_path: Path, choices: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "d.csv", ["message", "label"], tickets())
    with pytest.raises(BenchError) as caught:
        make(tmp_path, path, **choices)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.csv"]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = write(tmp_path / "d.csv", ["message", "label"], tickets())
    (tmp_path / "made").mkdir()
    make(tmp_path, path)  # an empty folder is fine
    with pytest.raises(BenchError, match="is there and not empty"):
        make(tmp_path, path)


def test_the_commands(tmp_path: Path) -> None:
    rows = [["\x1b[31mred\x1b[0m number one", "billing"], *tickets()]
    path, folder = write(tmp_path / "d.csv", ["message", "label"], rows), str(tmp_path / "made")
    app = typer.Typer()
    cli.register(app)
    run = CliRunner().invoke
    made = run(app, ["new-task", folder, "--from", str(path), "--split", "0.5,0.25,0.25", "--abstain", "unknown, not stated"])
    assert made.exit_code == 0
    assert "\x1b" not in made.stdout
    assert "50% / 25% / 25%" in made.stdout
    assert load_task(folder).config.abstain == ["unknown", "not stated"]
    checked = run(app, ["validate", folder])
    assert checked.exit_code == 0
    assert len(checked.stdout.splitlines()) <= 40
    for flag in ("--input", "--data-config", "--data-revision"):
        refused = run(app, ["new-task", str(tmp_path / "other"), flag, "x"])
        assert f"{flag}: has a meaning with --from only" in str(refused.exception)
    assert run(app, ["new-task", str(tmp_path / "other")]).exit_code == 0
    assert load_task(tmp_path / "other").config.kind == "qa"


def test_a_configuration_of_a_data_set_becomes_a_task_and_the_card_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    names = "- config_name: {0}\n  data_files: {0}.csv\n"
    (tmp_path / "set" / "README.md").write_text(f"---\nconfigs:\n{names.format('old')}{names.format('new')}---\n")
    for config in ("old", "new"):
        write(tmp_path / "set" / f"{config}.csv", ["message", "label"], [[f"{config} {text}", label] for text, label in tickets()])
    app = typer.Typer()
    cli.register(app)
    flags = ["--from", str(tmp_path / "set"), "--data-config", "new"]
    made = CliRunner().invoke(app, ["new-task", str(tmp_path / "made"), *flags])
    assert made.exit_code == 0, made.exception
    task = load_task(tmp_path / "made")
    assert all(example.input.startswith("new ") for example in (*task.train, *task.validation, *task.test))
    assert "from `set configuration new`" in (tmp_path / "made" / "README.md").read_text()


# ---------------------------------------------------------------------------------------------- cleaning


def test_what_is_cleaned_is_counted(tmp_path: Path) -> None:
    rows = tickets()
    extra = [rows[0], ["", "other"], ["a ticket without label", " "], ["  spaces around  ", "Billing"], ["=cmd|' /C calc'!A0", "other"]]
    extra += [["x" * 100_000, "billing"], [rows[1][0].upper(), "other"]]
    task, said = make(tmp_path, write(tmp_path / "d.csv", ["message", "label"], rows + extra))
    for line in (
        "note: rows dropped, as exact duplicates: 1",
        "note: rows dropped, as the input is empty: 1",
        "note: rows dropped, as the answer is empty: 1",
        "note: cells trimmed: 2",
        "note: cells that look like formulas, kept as text: 1",
        "note: inputs of more than 20,000 characters: 1",
        "note: labels brought to their most frequent spelling: 1",
        "note: rows that ask what another one asks and answer differently, kept: 1, as d.csv:3 and d.csv:38",
    ):
        assert line in said, line
    everything = [*task.train, *task.validation, *task.test]
    assert len(everything) == 34
    assert "=cmd|' /C calc'!A0" in {example.input for example in everything}
    assert task.labels == tuple(LABELS)


def test_nul_characters_and_numbers_that_are_none(tmp_path: Path) -> None:
    rows = [{"text": f"line\u0000 {i} of words", "label": LABELS[i % 2], "score": float("nan")} for i in range(12)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "d.parquet")
    task, said = make(tmp_path, tmp_path / "d.parquet")
    assert "note: NUL characters taken out of cells: 12" in said
    assert "\0" not in task.test[0].input
    assert '"score": null' in (tmp_path / "made" / "test.jsonl").read_text()


def test_one_label_is_no_task(tmp_path: Path) -> None:
    path = write(tmp_path / "d.csv", ["message", "label"], [[f"m {i}", "spam"] for i in range(9)])
    with pytest.raises(BenchError, match=r'--target: column "label" has 1 label \("spam"\), expected at least two'):
        make(tmp_path, path, kind="classification")


def test_an_empty_answer_is_kept_where_there_is_a_phrase_for_it(tmp_path: Path) -> None:
    rows = [*questions(), ["q99", "Who knows this one?", ""]]
    path = write(tmp_path / "d.csv", ["id", "question", "answer"], rows)
    task, _ = make(tmp_path, path, abstain=("not stated",))
    (unanswerable,) = [e for split in (task.train, task.validation, task.test) for e in split if not e.answerable]
    assert (unanswerable.id, unanswerable.targets) == ("q99", ("not stated",))


# ---------------------------------------------------------------------------------------------- splits


def test_near_duplicates_and_clusters_stay_together(tmp_path: Path) -> None:
    rows = []
    for i in range(20):
        text = f"how do i change the w{i} v{i} u{i} t{i} of my own account in the app on the old blue phone of my wife"
        rows += [[text, LABELS[i % 2], f"c{i % 10}"], [text + " please", LABELS[i % 2], f"c{i % 10}"]]
    path = write(tmp_path / "d.csv", ["text", "label", "customer"], rows)
    task, _ = make(tmp_path, path)
    assert task.warnings == ()
    (tmp_path / "made").rename(tmp_path / "first")
    task, _ = make(tmp_path, path, cluster="customer")
    assert not {e.cluster for e in task.test} & {e.cluster for e in (*task.train, *task.validation)}


def test_the_seed_decides_and_nothing_else(tmp_path: Path) -> None:
    path = write(tmp_path / "d.csv", ["message", "label"], tickets(60))
    ids = []
    for number, seed in enumerate((0, 0, 1)):
        task, _ = make(tmp_path / str(number), path, seed=seed)
        ids.append([example.id for example in task.test])
    assert ids[0] == ids[1]
    assert ids[0] != ids[2]
    first = Counter(int(identity.removeprefix("row-")) % 3 for identity in ids[0][:6])
    assert len(first) > 1  # the first items, which --limit keeps, are not of one label though files are often sorted


def test_a_folder_keeps_its_splits_and_test_wins_over_train(tmp_path: Path) -> None:
    rows = tickets(40)
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "train.csv", ["message", "label"], rows[:30])
    write(tmp_path / "data" / "test.csv", ["message", "label"], [*rows[30:], rows[0]])
    task, said = make(tmp_path, tmp_path / "data")
    assert len(task.test) == 11
    assert len(task.train) + len(task.validation) == 29
    assert "note: rows of train dropped, as their input stands in test: 1" in said


def test_a_split_column_and_validation_as_test(tmp_path: Path) -> None:
    rows = [[*row, "dev" if i % 4 == 0 else "train"] for i, row in enumerate(tickets(40))]
    task, said = make(tmp_path, write(tmp_path / "d.csv", ["message", "label", "split"], rows))
    assert len(task.test) == 10
    assert len(task.validation) == 6
    assert any("the validation rows are test" in line for line in said)


def test_clusters_that_given_splits_cut_in_two(tmp_path: Path) -> None:
    rows = [[*row, f"g{i % 12}", "test" if i % 4 == 0 else "train"] for i, row in enumerate(tickets(48))]
    rows = [[text, label, f"g{i // 4}", split] for i, (text, label, _, split) in enumerate(rows)]
    path = write(tmp_path / "d.csv", ["message", "label", "group", "split"], rows)
    with pytest.raises(BenchError, match='--cluster: 12 values of the column "group" stand in test and in train'):
        make(tmp_path, path, cluster="group")
    task, _ = make(tmp_path, path)
    assert task.config.cluster is None
    assert "so it is not used as cluster" in (tmp_path / "made" / "README.md").read_text()


def test_too_few_groups(tmp_path: Path) -> None:
    rows = [[*row, "one" if i % 2 else "two"] for i, row in enumerate(tickets())]
    path = write(tmp_path / "d.csv", ["message", "label", "customer"], rows)
    with pytest.raises(BenchError, match="found 30 rows in 2 groups that belong together"):
        make(tmp_path, path, cluster="customer")


# ---------------------------------------------------------------------------------------------- all languages


@pytest.mark.parametrize(
    "text", ["这是第{}个问题，关于天气", "ما هو السؤال رقم {} هنا؟", "Où est la clé n° {} à Besançon ?", "emoji 🎉🎈 number {} 👩‍🚀"]
)
def test_any_script(tmp_path: Path, text: str) -> None:
    rows = [[text.format(i * 17), f"答案{i}"] for i in range(20)]
    task, _ = make(tmp_path, write(tmp_path / "d.csv", ["问题", "答案"], rows), target="答案")
    assert task.config.input == "{{ 问题 }}"
    inputs = {example.input for split in (task.train, task.validation, task.test) for example in split}
    assert inputs == {row[0] for row in rows}
    assert "20 of 20 rows hold text of such a script" in (tmp_path / "made" / "README.md").read_text()


def test_columns_that_no_template_can_write_are_renamed(tmp_path: Path) -> None:
    path = write(tmp_path / "d.csv", ["My question?", "The answer"], [row[1:] for row in questions()])
    task, said = make(tmp_path, path, target="The_answer")
    assert task.config.input == "{{ My_question }}"
    assert 'note: column "My question?" is called My_question here, which a template can write' in said


# ---------------------------------------------------------------------------------------------- real data


@pytest.mark.parametrize(("name", "kind"), [("banking77", "classification"), ("xquad_en", "qa"), ("scitldr", "summarization")])
def test_real_data_become_tasks_that_validate(tmp_path: Path, name: str, kind: str) -> None:
    folder = shared(f"data/{name}")
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()[:400]]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = str(folder / "corpus.jsonl") if (folder / "corpus.jsonl").is_file() else None
    task, _ = make(tmp_path, tmp_path / "d.jsonl", corpus=corpus)
    assert task.config.kind == kind
    assert len(validate(tmp_path / "made")) <= 40
    assert yaml.safe_load((tmp_path / "made" / "task.yaml").read_text())["kind"] == kind
