"""What has nothing to compute imports nothing heavy: help, tables, and a run of which every cell is done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.model.source import locate
from bench.probe.base import get
from bench.result.schema import Item, Record, Run, Tokens
from bench.result.store import RunFolder
from bench.suite import expand, load_suite

ROOT = Path(__file__).parents[2]
CODE = """
import json, sys
from multiprocessing import forkserver
from bench.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
assert forkserver._forkserver._forkserver_pid is None
with open({file!r}, "w") as file:
    json.dump(sorted(sys.modules), file)
"""
NEVER = {"torch", "transformers", "peft", "sentence_transformers", "faiss", "evaluate", "datasets", "nltk", "rouge_score", "scipy"}


def imported_by(folder: Path, *arguments: str | Path) -> tuple[str, set[str]]:
    """What a command prints, and the modules that it has imported at its end."""
    file = folder / "modules.json"
    command = [sys.executable, "-c", CODE.format(file=str(file)), *map(str, arguments)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout, set(json.loads(file.read_text()))


@pytest.fixture
def done_run(tmp_path: Path) -> RunFolder:
    """A run of which every cell is done, as its records say."""
    run = RunFolder(tmp_path / "done").create()
    chosen = {
        "tasks": ["product_support", "abstract_summary"],
        "strategies": ["zero-shot", "few-shot", "lora"],
        "seeds": [0, 1],
        "limit": 5,
    }
    suite = load_suite("default").model_copy(update=chosen)
    run.write_run(Run(name="done", suite=suite.model_dump(mode="json"), environment={}, started="2025-01-01T00:00:00Z", status="ok"))
    for cell in expand(suite, locate("embedded")):
        with run.item_writer(cell.task.name, cell.strategy_name, cell.seed, cell.cell_id) as writer:
            for number, example in enumerate(cell.task.test):
                score = float(number % 2)
                writer.append(
                    Item(
                        id=example.id,
                        cluster=example.cluster,
                        input_hash="x",
                        prompt_hash="x",
                        prediction="x",
                        targets=list(example.targets),
                        answerable=True,
                        outcome="correct" if score else "incorrect",
                        scores={cell.task.primary_metric: score},
                        tokens=Tokens(),
                        latency_seconds=0.1,
                    )
                )
            writer.finish()
        probed = {name: {"version": get(name).version, "settings": settings} for name, settings in cell.probes.items()}
        run.write_record(Record.model_validate(cell.identity() | {"status": "ok", "n_items": len(cell.task.test), "probes": probed}))
    return run


def test_help(tmp_path: Path) -> None:
    text, modules = imported_by(tmp_path, "--help")
    assert "Compare ways" in text
    assert not modules & (NEVER | {"pandas", "pyarrow", "numpy"})


@pytest.mark.parametrize("format", ["md", "csv", "json"])
def test_a_table(done_run: RunFolder, tmp_path: Path, format: str) -> None:
    text, modules = imported_by(tmp_path, "table", done_run.path, "--format", format)
    assert "few-shot" in text
    assert not modules & (NEVER | {"pandas", "pyarrow"})


def test_a_comparison(done_run: RunFolder, tmp_path: Path) -> None:
    text, modules = imported_by(tmp_path, "compare", done_run.path, "--baseline", "zero-shot")
    assert "few-shot" in text
    assert not modules & (NEVER | {"pandas", "pyarrow"})


def test_a_run_of_which_every_cell_is_done(done_run: RunFolder, tmp_path: Path) -> None:
    options: list[str | Path] = ["--results", done_run.path.parent, "--name", done_run.path.name, "--seeds", "2", "--limit", "5"]
    for task in ("product_support", "abstract_summary"):
        options += ["--task", task]
    for strategy in ("zero-shot", "few-shot", "lora"):
        options += ["--strategy", strategy]
    before = {path: path.stat().st_mtime_ns for path in done_run.path.glob("cells/**/*.json*")}
    assert len(before) == 2 * (1 + 2 + 2) * 2
    _, first = imported_by(tmp_path, "run", *options)
    text, second = imported_by(tmp_path, "run", *options)
    assert "few-shot" in text
    assert {path: path.stat().st_mtime_ns for path in done_run.path.glob("cells/**/*.json*")} == before
    assert not (first | second) & NEVER
    assert not second & {"pandas", "pyarrow"}  # the Parquet file of the first run stands


def test_no_probe_imports_more_to_be_looked_up(tmp_path: Path) -> None:
    """A run asks every probe for its version to see whether there is anything to do."""
    _, modules = imported_by(tmp_path, "list", "probes")
    assert not modules & NEVER
