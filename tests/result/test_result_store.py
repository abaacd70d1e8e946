from __future__ import annotations

import errno
import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from result_samples import TRIALS, add, make_item, make_phase, make_record

from bench.errors import BenchError
from bench.result.schema import VOLATILE_ITEM_FIELDS, VOLATILE_RECORD_FIELDS, Item, Run, ScoredItem
from bench.result.store import (
    RunFolder,
    comparable,
    folder_name,
    json_schemas,
    locked,
    original_name,
    to_json,
    write_atomic,
)

SCHEMAS = Path(__file__).parents[2] / "docs" / "schema"


def one_line(error: pytest.ExceptionInfo[BenchError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_written_record_and_items_read_back_the_same(new_run) -> None:
    run = new_run("run")
    items = [make_item(i, i % 2, prediction='é\u2028\u0085\r "x"\\ \U0001f600') for i in range(5)]
    record = make_record("support", "rag", 3, items, config={"r": 0.1 + 0.2, "list": [1, None]})
    add(run, record, items)
    assert run.read_record("support", "rag", 3) == record
    assert run.read_items("support", "rag", 3) == items
    assert run.read_record("support", "rag", 4) is None
    assert run.cell_folder("support", "rag", 3) == run.path / "cells/support/rag/s3"
    assert {path.name for path in run.cell_folder("support", "rag", 3).iterdir()} == {"record.json", "items.jsonl"}


def test_run_header_reads_back_and_its_absence_is_one_line(new_run, tmp_path) -> None:
    run = new_run("run")
    header = run.read_run()
    assert isinstance(header, Run)
    assert header.name == "run"
    with pytest.raises(BenchError) as error:
        RunFolder(tmp_path / "other").read_run()
    assert "run.json" in one_line(error)


def test_json_keeps_the_models_order_and_ends_with_a_newline(new_run) -> None:
    run = new_run("run")
    run.write_record(make_record("support", "rag", 0, [], status="failed", error="é", config={"z": 1, "a": 2}))
    text = (run.cell_folder("support", "rag", 0) / "record.json").read_text(encoding="utf-8")
    assert text.startswith('{\n  "schema_version": 2,\n  "cell_id"')
    assert text.endswith("}\n")
    assert "é" in text
    assert text.index('"z"') < text.index('"a"')


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_are_exact_and_stable(value: float) -> None:
    text = to_json({"x": value})
    assert json.loads(text)["x"] == value
    assert to_json(json.loads(text)) == text


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_never_written(new_run, bad: float) -> None:
    run = new_run("run")
    record = make_record("support", "rag", 0, [], status="failed", config={"tuning": {"rates": [0.1, bad]}})
    with pytest.raises(BenchError) as error:
        run.write_record(record)
    assert "config.tuning.rates.1" in one_line(error)
    assert not list(run.path.glob("cells/**/record.json*"))
    with (
        run.item_writer("support", "rag", 0, "id") as writer,
        pytest.raises(BenchError, match=r"scores\.f1"),
    ):
        writer.append(make_item(0, scores={"f1": bad}))


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=15))
def test_folder_names_are_safe_and_reversible(name: str) -> None:
    folder = folder_name(name)
    assert original_name(folder) == name
    assert "/" not in folder
    assert "\\" not in folder
    assert "\0" not in folder
    assert not folder.startswith(".")


def test_ordinary_names_stay_readable_and_impossible_ones_are_refused() -> None:
    assert folder_name("rag-lora_v2.1") == "rag-lora_v2.1"
    assert folder_name("..") == "%2E."
    assert folder_name("org/model") == "org%2Fmodel"
    for name in ("", "x" * 300):
        with pytest.raises(BenchError, match="folder for the name"):
            folder_name(name)


def test_records_come_in_order_of_task_strategy_and_seed_number(new_run) -> None:
    run = new_run("run")
    for task, strategy, seed in [("b", "x", 0), ("a/1", "y", 10), ("a/1", "y", 9), ("a/1", "x", 2)]:
        run.write_record(make_record(task, strategy, seed, [], status="failed", error="e"))
    assert [(r.task, r.strategy, r.seed) for r in run.records()] == [("a/1", "x", 2), ("a/1", "y", 9), ("a/1", "y", 10), ("b", "x", 0)]


# Resuming


def test_a_killed_cell_resumes_from_its_whole_lines(tmp_path) -> None:
    run = RunFolder(tmp_path)
    writer = run.item_writer("t", "s", 0, "cell-a")
    writer.append(make_item(0))
    writer.append(make_item(1))
    # Killed here: nothing is closed, and the last line is cut in the middle of a character.
    with writer.path.open("ab") as file:
        file.write(to_json(make_item(2, prediction="é"), indent=None).encode()[:-400] + b"\xc3")
    with run.item_writer("t", "s", 0, "cell-a") as resumed:
        assert [item.id for item in resumed.read_partial()] == ["q0", "q1"]
        resumed.append(make_item(2))
        resumed.finish(["q2", "q0", "q1"])
    assert [item.id for item in run.read_items("t", "s", 0)] == ["q2", "q0", "q1"]
    assert [path.name for path in run.cell_folder("t", "s", 0).iterdir()] == ["items.jsonl"]


def test_items_are_on_disk_as_soon_as_they_are_appended(tmp_path) -> None:
    with RunFolder(tmp_path).item_writer("t", "s", 0, "a") as writer:
        writer.append(make_item(0))
        assert writer.path.read_bytes().count(b"\n") == 1
        assert not (writer.folder / "items.jsonl").exists()


def test_a_partial_file_of_another_cell_id_is_never_used(tmp_path) -> None:
    run = RunFolder(tmp_path)
    with run.item_writer("t", "s", 0, "cell-a") as writer:
        writer.append(make_item(0))
    with run.item_writer("t", "s", 0, "cell-b") as writer:
        assert writer.read_partial() == []
    with run.item_writer("t", "s", 0, "cell-a") as writer:
        assert writer.read_partial() == []


def test_a_record_never_stands_beside_items_of_another_cell(new_run) -> None:
    run = new_run("run")
    items = [make_item(0)]
    add(run, make_record("t", "s", 0, items), items)
    with run.item_writer("t", "s", 0, "another") as writer:
        writer.append(make_item(0, 0.0))
        assert run.read_record("t", "s", 0) is not None
        writer.finish()
    assert run.read_record("t", "s", 0) is None


def test_missing_unexpected_and_repeated_items_are_refused(tmp_path) -> None:
    with RunFolder(tmp_path).item_writer("t", "s", 0, "a") as writer:
        writer.append(make_item(0))
        with pytest.raises(BenchError, match="written twice"):
            writer.append(make_item(0))
        for ids in (["q0", "q1"], [], ["q0", "q0"]):
            with pytest.raises(BenchError, match="found 1 items, expected"):
                writer.finish(ids)
        assert writer.path.exists()


# Broken files


def test_broken_json_names_the_file(run) -> None:
    path = run.cell_folder("support", "rag", 0) / "record.json"
    path.write_text('{"cell_id": ')
    with pytest.raises(BenchError) as error:
        run.read_record("support", "rag", 0)
    assert str(path) in one_line(error)
    with pytest.raises(BenchError):
        list(run.records())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"schema_version": 99}, "schema_version 99 is newer"),
        ({"schema_version": "x"}, "schema_version"),
        ({"status": "fine"}, "key status"),
        ({"unheard_of": 1}, "key unheard_of"),
        ({"seed": 7}, "s7, expected support/rag/s0"),
    ],
)
def test_a_wrong_record_names_file_and_key(run, change: dict[str, object], expected: str) -> None:
    path = run.cell_folder("support", "rag", 0) / "record.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(BenchError) as error:
        run.read_record("support", "rag", 0)
    assert str(path) in one_line(error)
    assert expected in one_line(error)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda lines: [*lines[:-1], lines[-1][:20]], "line 120 is cut off"),
        (lambda lines: [lines[0], "[]\n", *lines[2:]], "line 2: found list"),
        (lambda lines: [lines[0], lines[1].replace('"cluster"', '"clutter"'), *lines[2:]], "line 2: key cluster"),
        (lambda lines: [b"\xff\n".decode("latin-1"), *lines], "line 1"),
    ],
)
def test_broken_items_name_the_line(run, damage, expected: str) -> None:
    path = run.cell_folder("support", "rag", 0) / "items.jsonl"
    path.write_text("".join(damage(path.read_text().splitlines(keepends=True))), encoding="latin-1")
    for read in (run.read_items, run.read_scores):
        with pytest.raises(BenchError) as error:
            read("support", "rag", 0)
        assert str(path) in one_line(error)
        assert expected in one_line(error)


def test_scores_are_a_part_of_the_items(run) -> None:
    items, scores = run.read_items("support", "rag", 0), run.read_scores("support", "rag", 0)
    assert len(scores) == len(items)
    for item, score in zip(items, scores, strict=True):
        assert {name: getattr(item, name) for name in ScoredItem.__slots__} == asdict(score)
    for name, hint in get_type_hints(ScoredItem).items():
        assert Item.model_fields[name].annotation == hint


@given(st.binary(max_size=60))
def test_any_bytes_give_an_item_or_one_clear_line(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(folder)
        path = run.cell_folder("t", "s", 0) / "items.jsonl"
        write_atomic(path, data)
        try:
            assert run.read_items("t", "s", 0) == []
        except BenchError as error:
            assert "\n" not in str(error)  # noqa: PT017 - either outcome is fine
            with pytest.raises(BenchError):
                run.read_scores("t", "s", 0)


# Folders that cannot be written


def test_a_file_in_the_way_is_one_line(tmp_path) -> None:
    (tmp_path / "results").write_text("x")
    for path in (tmp_path / "results", tmp_path / "results" / "run"):
        with pytest.raises(BenchError) as error:
            RunFolder(path).create()
        assert "in the way" in one_line(error)


def test_a_folder_without_permission_is_one_line(tmp_path, monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(BenchError) as error:
        RunFolder(tmp_path / "run").create()
    assert "no permission" in one_line(error)


def test_a_full_disk_leaves_the_old_file_and_no_temporary_one(tmp_path, monkeypatch) -> None:
    path = tmp_path / "record.json"
    write_atomic(path, "old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BenchError) as error:
        write_atomic(path, "new")
    assert "disk is full" in one_line(error)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_while_appending_is_one_line(tmp_path) -> None:
    writer = RunFolder(tmp_path).item_writer("t", "s", 0, "a")
    writer.close()
    writer._file = Path("/dev/full").open("ab")  # noqa: SIM115
    with pytest.raises(BenchError, match="disk is full"):
        writer.append(make_item(0))
    with pytest.raises(BenchError, match="disk is full"):
        writer.close()


# What is compared, and the committed schemas


def test_comparable_drops_what_may_differ_and_nothing_else() -> None:
    items = [make_item(0)]
    one = make_record("t", "s", 0, items, trials=TRIALS)
    slower = [trial.model_copy(update={"wall_seconds": 99.0, "cpu_seconds": 99.0}) for trial in TRIALS]
    two = one.model_copy(update={"phases": {"answer": make_phase(99.0)}, "environment": {"host": "x"}, "trials": slower})
    assert comparable(one) == comparable(two)
    assert comparable(one) != comparable(one.model_copy(update={"trials": TRIALS[:2]}))
    assert set(type(one).model_fields) - set(comparable(one)) == set(VOLATILE_RECORD_FIELDS)
    assert comparable(make_item(0)) == comparable(make_item(0, latency_seconds=5.0))
    assert comparable(make_item(0)) != comparable(make_item(0, prediction="other"))
    assert set(Item.model_fields) - set(comparable(make_item(0))) == set(VOLATILE_ITEM_FIELDS)


@pytest.mark.parametrize("name", ["record.schema.json", "item.schema.json", "run.schema.json"])
def test_committed_json_schemas_are_current(name: str) -> None:
    assert (SCHEMAS / name).read_text(encoding="utf-8") == json_schemas()[name], "run: python -m bench.result.store docs/schema"


def test_a_run_is_held_by_one_command_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path, "r"):
        with pytest.raises(BenchError, match=r"r: another bench run is at work on it"), locked(tmp_path, "r"):
            pass
        with locked(tmp_path, "other"):
            pass
    with locked(tmp_path, "r"):
        pass


def test_texts_read_back_and_are_written_only_when_they_changed(new_run) -> None:
    run = new_run("run")
    assert run.read_texts("a/b") == {}
    texts = {"items": {"q1": "é </script>\n\u2028"}, "passages": {}}
    run.write_texts("a/b", texts)
    assert run.read_texts("a/b") == texts
    (path,) = (run.path / "texts").iterdir()
    assert path.name == "a%2Fb.json"
    os.utime(path, (1, 1))
    run.write_texts("a/b", texts)
    assert path.stat().st_mtime == 1
    run.write_texts("a/b", texts | {"passages": {"d1": "text"}})
    assert run.read_texts("a/b")["passages"] == {"d1": "text"}


@pytest.mark.parametrize("content", ["{", "[]", '{"items": {"q1": 3}}', '{"other": {}}'])
def test_what_is_no_texts_is_one_line(new_run, content: str) -> None:
    run = new_run("run")
    run.write_texts("t", {"items": {}})
    (run.path / "texts" / "t.json").write_text(content)
    with pytest.raises(BenchError) as error:
        run.read_texts("t")
    assert "texts/t.json" in one_line(error)
