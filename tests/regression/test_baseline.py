"""Accepting a run as the baseline, and reading it again."""

from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from regression.constructed_runs import PROJECT, write_run

from bench.errors import BenchError
from bench.regression.baseline import Side, accept, read_baseline, side_of_run
from bench.regression.check import check, compare_runs, load_gates
from bench.regression.model import Gates
from bench.result.schema import Tokens
from bench.result.store import RunFolder


@pytest.fixture(autouse=True)
def no_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)


def test_what_is_accepted_is_what_is_read(tmp_path: Path) -> None:
    run = write_run(tmp_path / "smoke", seeds=2)
    made = accept(run, tmp_path / "baseline" / "smoke", "  first one\n")
    found = read_baseline(tmp_path / "baseline" / "smoke")
    assert list(found) == ["accepted"]
    assert found["accepted"].acceptance == made
    assert (made.suite, made.run, made.reason, made.commit) == ("smoke", "smoke", "first one", "c" * 40)
    assert made.who
    side = side_of_run(run)
    kept = found["accepted"]
    assert kept.run == side.run
    for a, b in zip(kept.arms, side.arms, strict=True):
        assert [r.metrics for r in a.records] == [r.metrics for r in b.records]
        strip = [{n: replace(i, slices={}, error=None, tokens=Tokens(completion=2)) for n, i in items.items()} for items in b.items]
        assert list(a.items) == strip
    assert {i.logit_margin for i in kept.arms[0].items[0].values()} == {0.05, None}  # far from a tie is not kept


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    run = write_run(tmp_path / "smoke")
    for name in ("a", "b"):
        accept(run, tmp_path / name, "again")
    assert (tmp_path / "a" / "accepted.jsonl.gz").read_bytes() == (tmp_path / "b" / "accepted.jsonl.gz").read_bytes()


def test_the_release_stays_until_it_is_pinned_anew(tmp_path: Path) -> None:
    folder = tmp_path / "baseline"
    accept(write_run(tmp_path / "one", 30), folder, "first")
    accept(write_run(tmp_path / "two", 10), folder, "a new prompt costs twenty items")
    found = read_baseline(folder)
    assert [side.acceptance and side.acceptance.reason for side in found.values()] == ["a new prompt costs twenty items", "first"]
    result = check(write_run(tmp_path / "three", 10), folder, Gates())
    assert [c.name for c in result.comparisons] == ["accepted", "release"]
    assert {g.verdict for g in result.comparisons[0].gates} == {"pass"}
    assert result.verdict == "regression"  # slow decay cannot ratchet
    accept(write_run(tmp_path / "four", 10), folder, "release 2", release=True)
    assert list(read_baseline(folder)) == ["accepted"]
    assert check(tmp_path / "three", folder, Gates()).verdict == "pass"


def test_what_cannot_be_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "baseline"
    run = write_run(tmp_path / "run")
    with pytest.raises(BenchError, match="--reason: found nothing"):
        accept(run, folder, "  ")
    with pytest.raises(BenchError, match="the run is failed"):
        accept(write_run(tmp_path / "failed", status="failed"), folder, "x")
    dirty = write_run(tmp_path / "dirty", environment={"project_dirty": True})
    with pytest.raises(BenchError, match="uncommitted changes"):
        accept(dirty, folder, "x")
    assert not folder.exists()
    assert accept(dirty, folder, "x", allow_dirty=True)
    monkeypatch.setenv("CI", "true")
    with pytest.raises(BenchError, match="a build never accepts its own baseline"):
        accept(run, folder, "x")


def test_a_missing_or_broken_baseline_is_said(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    with pytest.raises(BenchError, match=r"nothing: found neither baseline\.json nor run\.json"):
        check(run, tmp_path / "nothing", Gates())
    folder = tmp_path / "baseline"
    accept(run, folder, "x")
    data, head = folder / "accepted.jsonl.gz", (folder / "baseline.json").read_text()
    whole = data.read_bytes()
    data.write_bytes(whole[:-20])
    with pytest.raises(BenchError, match=r"accepted\.jsonl\.gz: found SHA-256 .*, expected .*: take both from one commit"):
        check(run, folder, Gates())
    data.unlink()
    with pytest.raises(BenchError, match="file is missing"):
        check(run, folder, Gates())
    (folder / "baseline.json").write_text(head.replace('"reason"', '"reasons"', 1))
    with pytest.raises(BenchError, match=r"baseline\.json: is broken \(key accepted\.acceptance"):
        read_baseline(folder)
    (folder / "baseline.json").write_text("<<<<<<< HEAD\n")
    with pytest.raises(BenchError, match=r"baseline\.json: is broken"):
        read_baseline(folder)


@pytest.mark.parametrize("content", [b"not gzip", *map(gzip.compress, (b"{}\n", b'{"run": 3}\n', b"[1]\n", b""))], ids=range(5))
def test_a_baseline_of_the_right_hash_that_is_no_baseline(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "baseline"
    accept(write_run(tmp_path / "run"), folder, "x")
    head = json.loads((folder / "baseline.json").read_text())
    for name in ("accepted", "release"):
        head[name]["sha256"] = hashlib.sha256(content).hexdigest()
        (folder / f"{name}.jsonl.gz").write_bytes(content)
    (folder / "baseline.json").write_text(json.dumps(head))
    with pytest.raises(BenchError, match=r"accepted\.jsonl\.gz: is broken"):
        read_baseline(folder)


def test_another_run_can_be_the_baseline(tmp_path: Path) -> None:
    one, two = write_run(tmp_path / "one", 30), write_run(tmp_path / "two", 10)
    result = check(two, one, Gates())
    assert [c.name for c in result.comparisons] == ["run"]
    assert (result.verdict, result.exit_code) == ("regression", 1)
    assert compare_runs(two, one, Gates()).acceptance is None


def test_cells_kept_from_an_earlier_commit_are_said(tmp_path: Path) -> None:
    run = write_run(tmp_path / "one")
    folder = RunFolder(run)
    folder.write_run(folder.read_run().model_copy(update={"environment": PROJECT | {"project_commit": "d" * 40}}))
    found = compare_runs(run, write_run(tmp_path / "two"), Gates())
    assert any(note.startswith(f"some cells were kept from an earlier commit ({'c' * 12})") for note in found.notes)


def test_nothing_in_common(tmp_path: Path) -> None:
    run = write_run(tmp_path / "one")
    other = side_of_run(run)
    from bench.regression.check import compare

    renamed = Side(other.run, tuple(replace(arm, strategy=arm.strategy + "-2") for arm in other.arms))
    with pytest.raises(BenchError, match="no strategy of any task in common with the baseline"):
        compare("run", other, renamed, Gates())


def test_gates_come_from_the_baseline_folder_or_a_file(tmp_path: Path) -> None:
    assert load_gates(None, tmp_path) == Gates()
    (tmp_path / "gates.yaml").write_text("metrics: {primary: {margin: 0.05}}\ncosts: {completion_tokens: 0.02}\n")
    found = load_gates(None, tmp_path)
    assert (found.metrics["primary"].margin, found.costs) == (0.05, {"completion_tokens": 0.02})
    (tmp_path / "other.yaml").write_text("margins: 3\n")
    with pytest.raises(BenchError, match=r'other\.yaml: unknown key "margins"'):
        load_gates(tmp_path / "other.yaml", tmp_path)
    with pytest.raises(BenchError, match=r"none\.yaml: cannot be read"):
        load_gates(tmp_path / "none.yaml", tmp_path)
