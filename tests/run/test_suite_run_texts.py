"""A run keeps the texts that its items hold only hashes and ids of."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench.result.schema import Item, Record, Tokens
from bench.result.store import RunFolder
from bench.run import suite_run
from bench.run.executor import Outcome
from bench.suite import Budget, Cell, Suite


@pytest.fixture
def suite(make_task: Callable[..., Path]) -> Suite:
    """Two test questions over a corpus of four documents, the first of which is gold."""

    def rows(split: str, gold: str) -> list[dict[str, Any]]:
        return [
            {"id": f"{split}-{i}", "text": f"{split} question {i} on {gold}?", "answer": f"{split}{i}", "docs": [gold]} for i in range(2)
        ]

    made = {"train": rows("train", "d4"), "validation": rows("validation", "d4"), "test": rows("test", "d1")}
    settings = {"kind": "qa", "instruction": "Answer.", "target": "answer", "evidence": "docs", "metrics": ["exact_match"]}
    folder = make_task("asked", rows=made, **settings)
    corpus = [{"id": f"d{i}", "text": f"Text of document {i}."} for i in range(1, 5)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus))
    return Suite(tasks=[str(folder)], strategies=["rag-lexical", "always-abstain", "zero-shot"], seeds=[0], budget=Budget(trials=1))


def run(suite: Suite, folder: Path) -> RunFolder:
    return suite_run.run_suite(suite, folder, "mine", 1, 1, False, Console(file=io.StringIO()))[0]


def answered(cell: Cell, folder: RunFolder, retrieved: list[str]) -> None:
    with folder.item_writer(cell.task.name, cell.strategy_name, cell.seed, cell.cell_id) as writer:
        for example in cell.task.test:
            writer.append(Item(
                id=example.id, cluster=example.cluster, input_hash=hashlib.sha256(example.input.encode()).hexdigest(), prompt_hash="",
                prediction="x", targets=list(example.targets), answerable=True, outcome="incorrect", scores={}, tokens=Tokens(),
                latency_seconds=0.0, retrieved_ids=retrieved,
            ))  # fmt: skip
        writer.finish()
    folder.write_record(Record.model_validate(cell.identity() | {"status": "ok", "n_items": len(cell.task.test)}))


def test_inputs_and_the_documents_that_are_gold_or_were_read(suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_cells(cells: Sequence[Cell], folder: RunFolder, *_: Any) -> Outcome:
        answered(next(c for c in cells if c.strategy_name == "rag-lexical"), folder, ["d3", "d1"])
        return Outcome(ok=1)

    monkeypatch.setattr(suite_run, "run_cells", run_cells)
    kept = run(suite, tmp_path / "results").read_texts("asked")
    assert kept["items"] == {"test-0": "test question 0 on d1?", "test-1": "test question 1 on d1?"}
    assert kept["passages"] == {"d1": "Text of document 1.", "d3": "Text of document 3."}


def test_a_run_that_was_stopped_keeps_them_too(suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_cells(*_: Any) -> Outcome:
        raise KeyboardInterrupt

    monkeypatch.setattr(suite_run, "run_cells", run_cells)
    with pytest.raises(SystemExit) as stopped:
        run(suite, tmp_path / "results")
    assert stopped.value.code == 130
    folder = RunFolder(tmp_path / "results" / "mine")
    assert folder.read_run().status == "interrupted"
    assert set(folder.read_texts("asked")["items"]) == {"test-0", "test-1"}
    assert set(folder.read_texts("asked")["passages"]) == {"d1"}


def test_a_fresh_run_reads_no_index_that_was_kept(suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another version of the code has built would hide a change of it."""
    seen: list[tuple[Path, list[Path]]] = []

    def run_cells(cells: Sequence[Cell], folder: RunFolder, stores: Path, *rest: Any) -> Outcome:
        seen.append((stores, list(stores.iterdir())))
        (stores / "made").touch()
        return Outcome()

    monkeypatch.setattr(suite_run, "run_cells", run_cells)
    kept = tmp_path / ".stores"
    kept.mkdir()
    for fresh in (False, True, False):
        suite_run.run_suite(suite, tmp_path, "mine", 1, 1, fresh, Console(file=io.StringIO()))
    assert [(stores == kept, len(there)) for stores, there in seen] == [(True, 0), (False, 0), (True, 1)]
    assert list(tmp_path.glob(".stores*")) == [kept]
