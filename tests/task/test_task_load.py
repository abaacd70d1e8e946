"""Loading a task: formats, columns, labels, splits, fingerprint, real data."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from real_data import shared

from bench.errors import BenchError
from bench.task.load import load_task
from bench.task.schema import Task

QA = {"kind": "qa", "instruction": "Answer.", "input": "{{ question }}", "target": "answers", "metrics": ["exact_match"]}
WORDS = ["amber", "basil", "cedar", "dune", "ember", "fjord", "grove", "harbor", "iris", "jade", "kelp", "lotus", "maple", "north", "onyx"]


def question(number: int) -> str:
    """Texts that share no three words in a row."""
    return " ".join(WORDS[(number * step + step) % len(WORDS)] + str(number) for step in (1, 3, 7))


def rows(split: str, count: int, **more: Any) -> list[dict[str, Any]]:
    start = {"train": 0, "validation": 1000, "test": 2000}[split]
    return [{"id": f"{split}{i}", "question": question(start + i), "answers": [f"a{start + i}"], **more} for i in range(count)]


def write_rows(path: Path, values: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(v) + "\n" for v in values), encoding="utf-8")


def write(folder: Path, config: dict[str, Any] | None = None, **splits: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "task.yaml").write_text(json.dumps({**QA, **(config or {})}), encoding="utf-8")  # JSON is YAML
    for split in ("train", "validation", "test"):
        splits.setdefault(split, rows(split, 10))
    for name, values in splits.items():
        if values:
            write_rows(folder / f"{name}.jsonl", values)
    return folder


def error_of(folder: Path, **arguments: Any) -> str:
    with pytest.raises(BenchError) as caught:
        load_task(folder, **arguments)
    message = str(caught.value)
    assert message.isprintable()
    return message


# ---------------------------------------------------------------------------------------------- what is loaded


def test_a_task_has_its_rows_in_order(tmp_path: Path) -> None:
    task = load_task(write(tmp_path / "mine"))
    assert task.name == "mine"
    assert [e.id for e in task.train] == [f"train{i}" for i in range(10)]
    assert task.test[0].input == question(2000)
    assert task.test[0].targets == ("a2000",)
    assert task.test[0].cluster == "test0"
    assert task.test[0].answerable
    assert task.warnings == ()


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_every_format_gives_the_same_task(tmp_path: Path, suffix: str) -> None:
    import pandas as pd

    expected = load_task(write(tmp_path / "jsonl"))
    folder = write(tmp_path / "other", train=[], validation=[], test=[])
    for split in ("train", "validation", "test"):
        table, path = pd.DataFrame(rows(split, 10)), folder / f"{split}.{suffix}"
        if suffix == "jsonl":
            write_rows(path, rows(split, 10))
        elif suffix == "json":
            path.write_text(json.dumps(rows(split, 10)))
        elif suffix == "csv":
            table.assign(answers=table["answers"].map(json.dumps)).to_csv(path, index=False)
        else:
            table.to_parquet(path)
    assert load_task(folder).fingerprint == expected.fingerprint


@pytest.mark.parametrize(
    ("value", "targets"),
    [("x", ("x",)), (" x ", ("x",)), (3, ("3",)), (2.5, ("2.5",)), (True, ("true",)), (["b", 1, "b"], ("b", "1"))],
)
def test_targets_become_text(tmp_path: Path, value: Any, targets: tuple[str, ...]) -> None:
    task = load_task(write(tmp_path, test=[{"question": "why so", "answers": value}]))
    assert task.test[0].targets == targets
    assert task.test[0].answerable


@pytest.mark.parametrize("value", [[], "Not  stated.", ["unknown", "not stated"]])
def test_no_answer_becomes_the_first_abstention_phrase(tmp_path: Path, value: Any) -> None:
    task = load_task(write(tmp_path, {"abstain": ["unknown", "not stated"]}, test=[{"question": "why so", "answers": value}]))
    assert task.test[0].targets == ("unknown",)
    assert not task.test[0].answerable


def test_no_answer_without_an_abstention_phrase_is_an_error(tmp_path: Path) -> None:
    message = error_of(write(tmp_path, test=[{"question": "why so", "answers": []}]))
    assert f'{tmp_path / "test.jsonl"}:1: column "answers": found an empty list' in message
    assert "abstain" in message


def test_a_structured_target_is_one_text_however_it_is_written(tmp_path: Path) -> None:
    config = {"kind": "structured", "metrics": ["field_accuracy"], "fields": {"b": "integer", "a": "string"}}
    values = [{"a": "é", "b": 1}, '{"b":1,  "a":"é"}', [{"b": 1, "a": "é"}]]
    task = load_task(write(tmp_path, config, **{s: [{"question": question(i * 9 + j), "answers": v} for j, v in enumerate(values)]
                                                 for i, s in enumerate(("train", "validation", "test"))}))  # fmt: skip
    assert {e.targets for e in (*task.train, *task.validation, *task.test)} == {('{"b": 1, "a": "é"}',)}


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ({"scor": 1}, 'unknown field "scor"; did you mean "score"?'),
        ({"score": "1"}, 'field "score": found "1", expected integer'),
        ({"score": True}, 'field "score": found True, expected integer'),
        ("no json", "is no valid JSON"),
        (3, "found a number, expected a JSON object"),
    ],
)
def test_a_wrong_structured_target_is_an_error(tmp_path: Path, target: Any, said: str) -> None:
    config = {"kind": "structured", "metrics": ["field_accuracy"], "fields": {"score": "integer"}}
    message = error_of(write(tmp_path, config, train=[{"question": "q", "answers": target}]))
    assert message.startswith(f"{tmp_path / 'train.jsonl'}:1: ")
    assert said in message


CHOICE = {"kind": "multiple_choice", "options": "options", "metrics": ["accuracy"]}


def choices(split: str, count: int = 4, answer: Any = 1) -> list[dict[str, Any]]:
    made = rows(split, count, options=["red ", "green", "Green"])
    return [{**row, "answers": answer} for row in made]


def write_choices(folder: Path, config: dict[str, Any] | None = None, **splits: list[dict[str, Any]]) -> Path:
    all_splits = {split: splits.get(split, choices(split)) for split in ("train", "validation", "test")}
    return write(folder, {**CHOICE, **(config or {})}, **all_splits)


@pytest.mark.parametrize(
    ("target", "right"),
    [
        ("green", ("green",)),
        ("Green", ("Green",)),  # case tells options apart
        (" red", ("red",)),
        (0, ("red",)),
        (2, ("Green",)),
        ("2", ("Green",)),  # as a CSV file has it
        (["Green", "red"], ("Green", "red")),
        ([2, "Green", 0], ("Green", "red")),
    ],
)
def test_a_right_option_is_named_by_text_or_index(tmp_path: Path, target: Any, right: tuple[str, ...]) -> None:
    (example, *_) = load_task(write_choices(tmp_path, test=choices("test", answer=target))).test
    assert example.options == ("red", "green", "Green")
    assert example.targets == right
    assert example.answerable


@pytest.mark.parametrize("target", ["2", 2])
def test_a_number_among_the_options_is_a_text_and_a_number_in_json_an_index(tmp_path: Path, target: Any) -> None:
    numbers = [{"question": "how many", "options": ["1", "2", "4"], "answers": target}]
    task = load_task(write_choices(tmp_path, test=numbers))
    assert task.test[0].targets == (("2",) if target == "2" else ("4",))


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (3, "found 3, expected one of the item's 3 options, or its index from 0"),
        (-1, "found -1, expected one of"),
        ("3", 'found "3", expected one of'),
        (1.0, "found 1.0, expected one of"),
        (True, "found True, expected one of"),
        (None, "found null, expected one of"),
        ("", 'found "", expected one of'),
        ("greeen", 'or its index from 0; did you mean "green"?'),
        ({"a": 1}, "found an object, expected one of"),
        ([1, "blue"], 'found "blue", expected one of'),
        ([[1]], "found a list, expected one of"),
        ([], "found an empty list, expected at least one option, and not all of them"),
        ([0, 1, 2], "found all 3 options, expected at least one option, and not all of them"),
    ],
)
def test_a_target_that_is_no_option_is_an_error(tmp_path: Path, target: Any, said: str) -> None:
    message = error_of(write_choices(tmp_path, train=choices("train", answer=target)))
    assert message.startswith(f'{tmp_path / "train.jsonl"}:1: column "answers": ')
    assert said in message


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["a"], "found 1 option, expected at least two"),
        ([], "found 0 options, expected at least two"),
        (["a", "b", "a "], 'found the option "a" twice, expected each once'),
        (["a", " "], "found an empty text among the options, expected strings"),
        (["a", 2], "found a number among the options, expected strings"),
        (["a", None], "found null among the options, expected strings"),
        (["a", ["b"]], "found a list among the options, expected strings"),
        ("a, b", "found a string, expected a list of at least two options (in a CSV file a JSON list)"),
        ({"text": ["a", "b"]}, "found an object, expected a list"),
        (None, "found null, expected a list"),
    ],
)
def test_wrong_options_are_an_error(tmp_path: Path, options: Any, said: str) -> None:
    message = error_of(write_choices(tmp_path, test=[{**row, "options": options, "answers": 0} for row in choices("test")]))
    assert message == f'{tmp_path / "test.jsonl"}:1: column "options": {said}' + (
        " of at least two options (in a CSV file a JSON list)" if said.endswith("a list") else ""
    )


def test_numbers_as_options_leave_no_index_in_text(tmp_path: Path) -> None:
    # Some rows' "0" would be the first option and others' the option 0, without a word.
    numbers = [{"question": "how many", "options": ["1", "2", "4"], "answers": "0"}]
    assert 'found "0", expected one of the item\'s 3 options' in error_of(write_choices(tmp_path, test=numbers))


def test_a_missing_options_column_is_named(tmp_path: Path) -> None:
    assert 'options: found no column "option"; did you mean "options"?' in error_of(write_choices(tmp_path, {"options": "option"}))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("answer", [2, "Green", ["Green", "red"]])
def test_options_of_every_format_give_the_same_task(tmp_path: Path, suffix: str, answer: Any) -> None:
    import pandas as pd

    splits = {split: choices(split, answer=answer) for split in ("train", "validation", "test")}
    expected = load_task(write_choices(tmp_path / "jsonl", **splits))
    folder = write(tmp_path / "other", CHOICE, train=[], validation=[], test=[])
    for split, values in splits.items():
        table = pd.DataFrame(values)
        if suffix == "csv":
            as_cell = (lambda v: json.dumps(v)) if isinstance(answer, list) else (lambda v: v)
            table.assign(options=table["options"].map(json.dumps), answers=table["answers"].map(as_cell)).to_csv(
                folder / f"{split}.csv", index=False
            )
        else:
            table.to_parquet(folder / f"{split}.parquet")
    assert load_task(folder).fingerprint == expected.fingerprint


def test_the_input_may_show_the_options(tmp_path: Path) -> None:
    shown = "{{ question }}{% for option in options %} {{ 'ABCDE'[loop.index0] }}. {{ option | trim }}{% endfor %}"
    assert load_task(write_choices(tmp_path, {"input": shown})).test[0].input == f"{question(2000)} A. red B. green C. Green"


def test_the_options_are_part_of_the_fingerprint(tmp_path: Path) -> None:
    more = [{**row, "options": ["red", "green", "Green", "blue"]} for row in choices("test")]
    a, b = load_task(write_choices(tmp_path / "a")), load_task(write_choices(tmp_path / "b", test=more))
    assert a.fingerprint != b.fingerprint
    assert load_task(write(tmp_path / "c")).test[0].options == ()


def test_leakage_is_checked_as_for_questions(tmp_path: Path) -> None:
    message = error_of(write_choices(tmp_path, train=[{**row, "id": None} for row in choices("test")]))
    assert "4 of 4 test inputs stand in train too (4 with the same answer)" in message


@pytest.mark.parametrize(("first", "warned"), [(20, True), (13, True), (12, False)])
def test_a_right_option_that_keeps_its_place_is_a_warning(tmp_path: Path, first: int, warned: bool) -> None:
    test = [{**row, "options": [f"x{i}", f"y{i}"], "answers": int(i >= first)} for i, row in enumerate(choices("test", 20))]
    found = [w for w in load_task(write_choices(tmp_path, test=test)).warnings if "the right option" in w]
    said = f"test: the right option is number 1 in {first} of 20 items, expected a mix; shuffle each item's options"
    assert found == ([said] if warned else [])


def test_few_items_or_the_same_labels_for_all_have_no_place_to_warn_of(tmp_path: Path) -> None:
    few = [{**row, "options": [f"x{i}", f"y{i}"], "answers": 0} for i, row in enumerate(choices("test", 19))]
    assert load_task(write_choices(tmp_path / "few", test=few)).warnings == ()
    assert load_task(write_choices(tmp_path / "labels", test=choices("test", 30))).warnings == ()


def test_an_object_is_no_target_of_another_kind(tmp_path: Path) -> None:
    folder = write(tmp_path, train=[{"question": "q", "answers": {"a": 1}}])
    assert "found an object, expected a string, number or boolean" in error_of(folder)


def test_missing_ids_come_from_the_line(tmp_path: Path) -> None:
    folder = write(tmp_path)
    (tmp_path / "test.jsonl").write_text('{"question": "one", "answers": "1"}\n\n{"question": "two", "answers": "2", "id": null}\n')
    assert [e.id for e in load_task(folder).test] == ["test-1", "test-3"]


def test_clusters_slices_and_evidence(tmp_path: Path) -> None:
    config = {"evidence": "docs", "cluster": "firm", "slices": ["new"]}
    corpus = [{"id": "d1", "text": " First. ", "title": "One"}, {"id": 2, "text": "Second.", "title": None}]
    splits = {s: rows(s, 2, docs=["d1", 2], firm=f"{s} ltd", new=True) for s in ("train", "validation", "test")}
    splits["test"][1] |= {"docs": None, "firm": None, "new": None}
    task = load_task(write(tmp_path, config, corpus=corpus, **splits))
    assert [(p.id, p.text) for p in task.corpus] == [("d1", "One\nFirst."), ("2", "Second.")]
    assert (task.test[0].evidence, task.test[0].cluster, task.test[0].slices) == (("d1", "2"), "test ltd", {"new": "true"})
    assert (task.test[1].evidence, task.test[1].cluster, task.test[1].slices) == ((), "test/test1", {"new": "none"})


def test_evidence_must_exist(tmp_path: Path) -> None:
    folder = write(tmp_path, {"evidence": "docs"}, train=rows("train", 3, docs="doc-1"), corpus=[{"id": "doc-01", "text": "x"}])
    assert f'{tmp_path / "train.jsonl"}:1: column "docs": the corpus has no passage "doc-1"; did you mean "doc-01"?' == error_of(folder)
    (tmp_path / "corpus.jsonl").unlink()
    assert "there is no corpus file" in error_of(folder)


# ---------------------------------------------------------------------------------------------- rationales

REASONED = {"rationale": "why"}


def test_rationales_are_loaded_and_only_training_rows_need_one(tmp_path: Path) -> None:
    splits = {s: rows(s, 3, why=f" The {s} facts. ") for s in ("train", "validation", "test")}
    splits["validation"] = [{**splits["validation"][0], "why": None}, {**splits["validation"][1], "why": " "}, splits["validation"][2]]
    splits["test"] = rows("test", 2)  # without the column
    task = load_task(write(tmp_path, REASONED, **splits))
    assert [e.rationale for e in task.train] == ["The train facts."] * 3
    assert [e.rationale for e in task.validation] == [None, None, "The validation facts."]
    assert [e.rationale for e in task.test] == [None, None]
    assert all(e.rationale is None for e in load_task(write(tmp_path / "without", **splits)).train)


def test_a_training_row_without_a_rationale_is_an_error(tmp_path: Path) -> None:
    folder = write(tmp_path, REASONED)
    train = tmp_path / "train.jsonl"
    assert error_of(folder) == (
        f'{train}:1: rationale: found no column "why"; expected one of: answers, id, question'
    )
    for value, found in ((None, "null"), ("  ", "an empty text"), (["step"], "a list"), (3, "a number")):
        write_rows(train, rows("train", 2, why=value))
        assert error_of(folder) == f'{train}:1: column "why": found {found}, expected the reasoning that leads to the answer'
    write_rows(train, rows("train", 2, why="So."))
    write_rows(tmp_path / "test.jsonl", rows("test", 2, why=["step"]))
    assert 'test.jsonl:1: column "why": found a list' in error_of(folder)


def test_a_rationale_changes_the_fingerprint(tmp_path: Path) -> None:
    a, b = (load_task(write(tmp_path / x, REASONED, train=rows("train", 3, why=f"So {x}."))) for x in "ab")
    assert a.fingerprint != b.fingerprint


# ---------------------------------------------------------------------------------------------- templates


def test_the_input_is_a_template_over_columns(tmp_path: Path) -> None:
    config = {"input": "{{ question | upper }}{% if hint is defined and hint %} ({{ hint }}){% endif %}"}
    test = [{"question": "why", "answers": "a", "hint": None}, {"question": "who", "answers": "b", "hint": "x"}]
    task = load_task(write(tmp_path, config, test=test))
    assert [e.input for e in task.test] == ["WHY", "WHO (x)"]


def test_a_missing_column_names_the_columns_there_are(tmp_path: Path) -> None:
    message = error_of(write(tmp_path, {"input": "{{ qestion }}"}))
    assert message == (
        f'{tmp_path / "train.jsonl"}:1: input: found no column "qestion"; did you mean "question"? The columns are: answers, id, question'
    )
    assert 'target: found no column "zzz"; expected one of: answers, id, question' in error_of(write(tmp_path, {"target": "zzz"}))


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ question ", "found no valid Jinja template"),
        ("{% for x in %}", "found no valid Jinja template"),
        ("{{ question.__class__.__mro__ }}", "the template fails (SecurityError"),
        ("{{ 1 / 0 }}", "the template fails (ZeroDivisionError"),
        ("{{ question.text }}", "has no attribute"),
        ("{{ hint }}", 'column "hint" is null, expected text (or write {{ hint or "" }} in input)'),
        ("{{ hint or '' }}", "the input is empty (columns in it: hint)"),
    ],
)
def test_a_broken_template_is_an_error(tmp_path: Path, template: str, said: str) -> None:
    assert said in error_of(write(tmp_path, {"input": template}, train=rows("train", 3, hint=None)))


def test_labels_are_filled_into_the_instruction(tmp_path: Path) -> None:
    config = {"kind": "classification", "metrics": ["accuracy"], "labels": ["b", "a"], "instruction": "One of {{ labels }}."}
    splits = {s: [{**r, "answers": "ab"[i % 2]} for i, r in enumerate(rows(s, 4))] for s in ("train", "validation", "test")}
    assert load_task(write(tmp_path, config, **splits)).instruction == "One of b, a."
    loop = {**config, "instruction": "{% for label in labels %}- {{ label }};{% endfor %}"}
    assert load_task(write(tmp_path, loop, **splits)).instruction == "- b;- a;"
    assert 'found "{{ question }}"' in error_of(write(tmp_path, {**config, "instruction": "{{ question }}"}, **splits))
    assert "only a task of kind classification has" in error_of(write(tmp_path / "qa", {"instruction": "{{ labels }}"}))


# ---------------------------------------------------------------------------------------------- labels


def labelled(*labels: str, split: str = "train") -> list[dict[str, Any]]:
    return [{**row, "answers": label} for row, label in zip(rows(split, len(labels)), labels, strict=True)]


CLASSES = {"kind": "classification", "metrics": ["accuracy"]}


def test_labels_come_from_the_settings_a_file_or_train(tmp_path: Path) -> None:
    splits = {s: labelled("late", "early", split=s) for s in ("train", "validation", "test")}
    assert load_task(write(tmp_path, CLASSES, **splits)).labels == ("early", "late")
    (tmp_path / "labels.json").write_text('["late", "never", "early"]')
    task = load_task(tmp_path)
    assert task.labels == ("late", "never", "early")
    assert task.warnings == ('labels: 1 of 3 have no training example, as "never"',)
    assert load_task(write(tmp_path, {**CLASSES, "labels": ["early", " late"]}, **splits)).labels == ("early", "late")


def test_an_unknown_label_is_an_error(tmp_path: Path) -> None:
    splits = {s: labelled("late", "erly" if s == "test" else "early", split=s) for s in ("train", "validation", "test")}
    message = error_of(write(tmp_path, CLASSES, **splits))
    assert 'test: item "test1" has the label "erly", which train does not have; did you mean "early"?' in message
    message = error_of(write(tmp_path, {**CLASSES, "labels": ["early", "late"]}, **splits))
    assert 'which labels in task.yaml does not have; did you mean "early"?' in message


@pytest.mark.parametrize(
    ("labels", "said"),
    [(["a"], "found 1 label, expected at least two"), (["a", " "], "empty label"), (["Late", "late "], "count as the same label")],
)
def test_a_useless_label_set_is_an_error(tmp_path: Path, labels: list[str], said: str) -> None:
    assert said in error_of(write(tmp_path, {**CLASSES, "labels": labels}))


# ---------------------------------------------------------------------------------------------- splits


def test_a_missing_split_is_an_error_that_names_what_there_is(tmp_path: Path) -> None:
    folder = write(tmp_path, test=[])
    write_rows(tmp_path / "tests.jsonl", rows("test", 3))
    assert error_of(folder) == (
        f"{tmp_path}: found no test file, expected test.jsonl, .json, .csv or .parquet; "
        "there are: tests.jsonl, train.jsonl, validation.jsonl"
    )


def test_two_files_for_one_split_are_an_error(tmp_path: Path) -> None:
    folder = write(tmp_path)
    (tmp_path / "test.csv").write_text("question,answers\nq,a\n")
    assert "found test.jsonl and test.csv, expected one test file" in error_of(folder)


def test_validation_is_carved_out_by_cluster(tmp_path: Path) -> None:
    train = [{**row, "firm": f"firm{i // 4}"} for i, row in enumerate(rows("train", 100))]
    folder = write(tmp_path, {"cluster": "firm"}, train=train, validation=[], test=rows("test", 5, firm="other"))
    task = load_task(folder)
    assert len(task.train) + len(task.validation) == 100
    assert len(task.validation) == 20
    assert not {e.cluster for e in task.train} & {e.cluster for e in task.validation}
    assert task.warnings == ("validation: no file, so 20 of 100 training rows were set apart (whole clusters, by a fixed rule)",)
    assert load_task(folder) == task


def test_carving_takes_at_least_one_cluster_and_leaves_one(tmp_path: Path) -> None:
    train = [{**row, "firm": "big" if i else "small"} for i, row in enumerate(rows("train", 3))]
    folder = write(tmp_path, {"cluster": "firm"}, train=train, validation=[], test=rows("test", 2, firm="other"))
    assert [e.cluster for e in load_task(folder).validation] == ["small"]
    write(tmp_path, {"cluster": "firm"}, train=rows("train", 3, firm="one"), validation=[], test=rows("test", 2, firm="other"))
    assert "found no validation file, expected one (all of train is one cluster" in error_of(tmp_path)


def test_carving_keeps_equal_inputs_together(tmp_path: Path) -> None:
    train = [{**row, "question": question(i % 10)} for i, row in enumerate(rows("train", 40))]
    task = load_task(write(tmp_path, train=train, validation=[]))
    assert task.validation
    assert not {e.input for e in task.train} & {e.input for e in task.validation}


def test_limit_keeps_the_first_test_items_only(tmp_path: Path) -> None:
    task = load_task(write(tmp_path), limit=3)
    assert [e.id for e in task.test] == ["test0", "test1", "test2"]
    assert (len(task.train), len(task.validation)) == (10, 10)
    assert len(load_task(tmp_path, limit=99).test) == 10


def test_training_subsets_are_nested_and_drawn_across_the_file(tmp_path: Path) -> None:
    folder = write(tmp_path, train=rows("train", 60))
    subsets = {n: {e.id for e in load_task(folder, train_examples=n).train} for n in (5, 20, 40, 60)}
    assert [len(s) for s in subsets.values()] == [5, 20, 40, 60]
    assert subsets[5] < subsets[20] < subsets[40] < subsets[60]
    assert subsets[20] != {f"train{i}" for i in range(20)}
    order = [int(e.id.removeprefix("train")) for e in load_task(folder, train_examples=20).train]
    assert order == sorted(order)
    assert load_task(folder, train_examples=61).warnings == ("train: 61 examples were asked for, there are 60",)


@pytest.mark.parametrize("name", ["limit", "train_examples"])
def test_a_number_below_one_is_an_error(tmp_path: Path, name: str) -> None:
    assert error_of(tmp_path, **{name: 0}) == f"{name}: found 0, expected at least 1"


# ---------------------------------------------------------------------------------------------- where the rows are


def test_rows_may_be_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "rows")
    (tmp_path / "rows" / "task.yaml").unlink()
    empty = {"train": [], "validation": [], "test": []}
    relative = load_task(write(tmp_path / "tasks" / "t", {"data": "../../rows"}, **empty))
    absolute = load_task(write(tmp_path / "tasks" / "t", {"data": str(tmp_path / "rows")}, **empty))
    write(tmp_path / "tasks" / "t", {"data": "../nowhere"}, **empty)
    monkeypatch.chdir(tmp_path)
    argument = load_task(tmp_path / "tasks" / "t", data="rows")
    assert relative.fingerprint == absolute.fingerprint == argument.fingerprint
    assert "data: found no folder" in error_of(tmp_path / "tasks" / "t")
    assert error_of(tmp_path / "tasks" / "t", data="nowhere") == "data: found no folder nowhere, expected one, or a hub id (org/name)"


def test_rows_may_be_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []
    features = datasets.Features({"question": datasets.Value("string"), "answers": datasets.ClassLabel(names=["no", "yes"])})

    def load_dataset(*arguments: Any, **keywords: Any) -> Any:
        asked.append((arguments, keywords))
        splits = {s: {"question": [r["question"] for r in rows(s, 6)], "answers": [0, 1] * 3} for s in ("train", "validation", "test")}
        return datasets.DatasetDict({s: datasets.Dataset.from_dict(v, features=features) for s, v in splits.items()})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    empty = {"train": [], "validation": [], "test": []}
    config = {**CLASSES, "data": "org/some-set", "data_config": "en", "revision": "abc"}
    task = load_task(write(tmp_path, config, **empty))
    assert asked == [(("org/some-set", "en"), {"revision": "abc"})]
    assert task.labels == ("no", "yes")
    assert task.test[1].targets == ("yes",)
    assert task.warnings == ()
    assert "without a revision" in load_task(write(tmp_path, {**CLASSES, "data": "org/some-set"}, **empty)).warnings[0]


def test_a_class_number_of_the_hub_is_the_index_of_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    features = datasets.Features(
        {
            "question": datasets.Value("string"),
            "options": datasets.List(datasets.Value("string")),
            "answers": datasets.ClassLabel(names=["A", "B"]),
        }
    )

    def table(start: int) -> Any:
        values = {"question": [question(start), question(start + 1)], "options": [["x", "y"], ["z", "w"]], "answers": [1, 0]}
        return datasets.Dataset.from_dict(values, features=features)

    splits = datasets.DatasetDict({"train": table(0), "validation": table(100), "test": table(200)})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: splits)
    folder = write(tmp_path, {**CHOICE, "data": "org/name", "revision": "a1b2"}, train=[], validation=[], test=[])
    assert [e.targets for e in load_task(folder).test] == [("y",), ("z",)]


def test_a_hub_that_does_not_answer_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load_dataset(*arguments: Any, **keywords: Any) -> Any:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    message = error_of(write(tmp_path), data="org/name")
    assert "there is no folder org/name, and the hub gives no such data set (ConnectionError: no route)" in message


def test_a_hub_set_without_test_names_its_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    table = datasets.Dataset.from_dict({"question": ["q"], "answers": ["a"]})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.DatasetDict({"train": table, "dev": table}))
    assert error_of(write(tmp_path), data="org/name") == 'data: "org/name" has no split test; there are: train, dev'


# ---------------------------------------------------------------------------------------------- fingerprint


def test_the_fingerprint_is_of_content_and_not_of_place(tmp_path: Path) -> None:
    base = load_task(write(tmp_path / "a"))
    assert load_task(write(tmp_path / "b", {"description": "other", "revision": "x"})).fingerprint == base.fingerprint
    changed: list[Task] = [
        load_task(write(tmp_path / "c", {"instruction": "Answer!"})),
        load_task(write(tmp_path / "d", test=[*rows("test", 9), {**rows("test", 10)[9], "answers": "x"}])),
        load_task(write(tmp_path / "e", corpus=[{"id": "d", "text": "t"}])),
        load_task(tmp_path / "a", limit=5),
        load_task(tmp_path / "a", train_examples=5),
    ]
    assert len({base.fingerprint, *(task.fingerprint for task in changed)}) == 6


# ---------------------------------------------------------------------------------------------- any bytes


def loaded_or_one_line(folder: Path) -> Task | None:
    """The task, or None where loading fails as it should."""
    try:
        return load_task(folder)
    except BenchError as error:
        message = str(error)
    assert message.isprintable()
    assert message.startswith((str(folder), "data: "))
    return None


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.one_of(
        st.binary(max_size=200),
        st.lists(st.dictionaries(st.sampled_from(["id", "question", "answers"]), st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2), max_leaves=4)), max_size=4,
        ).map(lambda values: "\n".join(json.dumps(v) for v in values).encode()),
    ),
    suffix=st.sampled_from(["jsonl", "json", "csv", "parquet"]),
)  # fmt: skip
def test_any_bytes_load_or_give_one_clear_line(tmp_path: Path, content: bytes, suffix: str) -> None:
    folder = write(tmp_path, test=[])
    for old in folder.glob("test.*"):
        old.unlink()
    (folder / f"test.{suffix}").write_bytes(content)
    if (task := loaded_or_one_line(folder)) is not None:
        assert all(e.input.strip() and e.targets and all(e.targets) for e in task.test)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.one_of(st.binary(max_size=100), st.text(alphabet="kind: qa\n-[]{}!&*?|>'\"\\u0129", max_size=60).map(str.encode)))
def test_any_settings_load_or_give_one_clear_line(tmp_path: Path, content: bytes) -> None:
    folder = write(tmp_path)
    for prefix in (b"", json.dumps(QA)[1:-1].replace(", ", "\n").encode() + b"\n"):
        (folder / "task.yaml").write_bytes(prefix + content)
        loaded_or_one_line(folder)


# ---------------------------------------------------------------------------------------------- real data

XQUAD = {"evidence": "context_ids", "cluster": "context_ids", "metrics": ["exact_match", "f1"]}
SCITLDR = {"kind": "summarization", "input": "{{ document }}", "target": "summaries", "metrics": ["rougeL"]}
MEDQUAD = {"target": "answer", "evidence": "context_ids", "cluster": "focus", "metrics": ["f1"]}


def real(folder: Path, name: str, config: dict[str, Any], **arguments: Any) -> Task:
    return load_task(write(folder, {**config, "data": str(shared(f"data/{name}"))}, train=[], validation=[], test=[]), **arguments)


BANKING77 = Path(__file__).parents[2] / "tasks" / "banking77"


def test_banking77_takes_rows_from_a_folder_and_sets_validation_apart(tmp_path: Path) -> None:
    intents = ["card_arrival", "change_pin"]
    train = [{"id": f"t{i}", "text": question(i), "label": intents[i % 2]} for i in range(20)]
    write_rows(tmp_path / "train.jsonl", train)
    write_rows(tmp_path / "test.jsonl", [{"id": "q", "text": question(2000), "label": "change_pin"}])
    task = load_task(BANKING77, data=str(tmp_path))
    assert (len(task.train), len(task.validation), len(task.test)) == (16, 4, 1)
    assert task.labels == ("card_arrival", "change_pin")
    assert "card_arrival, change_pin" in task.instruction
    assert task.test[0].input == question(2000)
    assert task.warnings == ("validation: no file, so 4 of 20 training rows were set apart (whole inputs, by a fixed rule)",)


def test_banking77() -> None:
    started = time.process_time()
    task = load_task(BANKING77, data=str(shared("data/banking77")))
    seconds = time.process_time() - started
    assert (len(task.train), len(task.validation), len(task.test), len(task.labels)) == (2400, 599, 500, 77)
    assert task.labels[0] == "card_arrival"  # the order of labels.json
    assert "card_arrival, card_linking" in task.instruction
    assert {t for e in task.test for t in e.targets} <= set(task.labels)
    assert seconds < 6  # about 0.4 s; room for a busy machine


def test_xquad(tmp_path: Path) -> None:
    task = real(tmp_path, "xquad_en", XQUAD, train_examples=50, limit=20)
    assert (len(task.train), len(task.test), len(task.corpus)) == (50, 20, 240)
    texts = {p.id: p.text for p in task.corpus}
    found = [any(t.lower() in texts[i].lower() for t in e.targets for i in e.evidence) for e in task.test]
    assert sum(found) >= 19  # the gold passage holds the answer


def test_scitldr_has_several_references(tmp_path: Path) -> None:
    task = real(tmp_path, "scitldr", SCITLDR)
    assert len(task.test) == 500
    assert max(len(e.targets) for e in task.test) > 1


def test_medquad_loads_with_warnings(tmp_path: Path) -> None:
    task = real(tmp_path, "medquad", MEDQUAD)
    assert any("5 of 500 test inputs stand in train too (0 with the same answer)" in w for w in task.warnings)
    assert any(w.startswith("corpus: ") and "word for word" in w for w in task.warnings)
