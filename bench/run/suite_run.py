"""A suite from its settings to a run folder."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from rich.console import Console

from bench.environment import environment
from bench.errors import BenchError
from bench.model.hosted_jobs import going_on
from bench.model.source import Endpoint, locate
from bench.result.schema import Run
from bench.result.store import RunFolder, locked
from bench.run.executor import Outcome, run_cells
from bench.run.progress import LiveProgress
from bench.run.stem import warm_up
from bench.suite import Cell, Suite, expand, find_task
from bench.task.load import load_task


def run_suite(
    suite: Suite, results: Path, name: str, workers: int, threads: int, fresh: bool, console: Console, endpoint: Endpoint | None = None
) -> tuple[RunFolder, Outcome]:
    """Run what of the suite is not done yet under `results`/`name`: the folder, and what became of the cells.

    ``fresh``: an earlier run of the name is kept aside, and every cell computed, indexes and embeddings too. ``endpoint``: how the model
    is asked, where it is a served one. Everything is loaded and
    checked before the first file is written. Raises `BenchError` for bad input, and SystemExit(130) on Ctrl-C, with what is done kept.
    """
    folder = RunFolder(results / name)
    if fresh or not _is_whole(folder):
        warm_up()  # the libraries are imported while the suite is read and checked
    source = locate(suite.model, suite.loading)
    if source.endpoint:
        source = replace(source, endpoint=replace(endpoint or source.endpoint, run=folder.path.absolute()))
    cells = expand(suite, source)
    with locked(results, name):
        if fresh and folder.path.exists():
            _keep_aside(folder.path)
        folder.create()
        earlier = folder.read_run() if (folder.path / "run.json").exists() else None
        started = earlier.started if earlier else _now()
        header = Run(name=name, suite=suite.model_dump(mode="json"), environment=environment(), started=started, status="running")
        folder.write_run(header)
        for warning in _notes(cells):
            console.print(f"[yellow]note:[/yellow] {warning}", highlight=False)
        status: Literal["ok", "failed", "interrupted"] = "interrupted"
        ended = None
        try:
            with LiveProgress(console, len(cells)) as progress, _stores(results, fresh) as stores:
                outcome = run_cells(cells, folder, stores, workers, progress, threads)
            status = "failed" if outcome.failed else "ok"
            # A run that had nothing left to do ended when it did.
            ended = earlier.ended if earlier and outcome.reused == outcome.total else None
        except KeyboardInterrupt:
            print("bench: stopped; what is done is kept, run the same command to go on", file=sys.stderr)
            if n := going_on(folder.path):
                jobs = "1 fine-tuning job goes" if n == 1 else f"{n} fine-tuning jobs go"
                print(f"bench: {jobs} on at the provider; bench jobs {folder.path} --cancel ends what is not wanted", file=sys.stderr)
            sys.exit(130)
        finally:
            folder.write_run(header.model_copy(update={"ended": ended or _now(), "status": status}))
            _keep_texts(cells, folder)
    return folder, outcome


@contextmanager
def _stores(results: Path, fresh: bool) -> Iterator[Path]:
    """Where indexes and embeddings are kept for later runs; for a fresh one a place of its own, since what another version of the code
    has built would hide a change of it, and spare a cell the memory of an embedder."""
    if not fresh:
        yield results / ".stores"
        return
    with tempfile.TemporaryDirectory(prefix=".stores-", dir=results, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def run_train_sizes(
    suite: Suite, sizes: Sequence[int], results: Path, name: str, workers: int, threads: int, fresh: bool, console: Console,
    endpoint: Endpoint | None = None,
) -> tuple[list[RunFolder], Outcome]:  # fmt: skip
    """Run the suite once per number of training examples, into `results`/`name`-n10, `name`-n25 and so on: a learning curve.

    The examples of a smaller size are among those of a larger one. Returns the folders in the order of size, and what became of all
    cells together. Raises `BenchError` as `run_suite`, and before anything runs where a task has fewer examples than a size.
    """
    if len(set(sizes)) < 2 or len(set(sizes)) < len(sizes) or min(sizes) < 1:
        raise BenchError(f"train sizes: found {', '.join(map(str, sizes)) or 'none'}; expected two or more different numbers from 1 on")
    for task in (load_task(find_task(each), data=suite.data) for each in suite.tasks):
        if len(task.train) < max(sizes):
            raise BenchError(f"train sizes: found {max(sizes)}; task {task.name} has {len(task.train)} training examples, expected no more")
    folders, together = [], Outcome()
    for size in sorted(sizes):
        console.print(f"{size} training examples", highlight=False)
        chosen = suite.model_copy(update={"budget": suite.budget.model_copy(update={"train_examples": size})})
        folder, outcome = run_suite(chosen, results, f"{name}-n{size}", workers, threads, fresh, console, endpoint)
        folders.append(folder)
        together.ok += outcome.ok
        together.skipped += outcome.skipped
        together.reused += outcome.reused
        together.failed += outcome.failed
    return folders, together


def _keep_texts(cells: Sequence[Cell], folder: RunFolder) -> None:
    """Keep what items hold only hashes and ids of, for reports: test inputs, and documents that are gold or that a cell has read."""
    for task in {cell.task.name: cell.task for cell in cells}.values():
        read = {document for example in task.test for document in example.evidence}
        for cell in cells:
            if cell.task.name == task.name and cell.strategy.retrieval.search != "none":
                where = (task.name, cell.strategy_name, cell.seed)
                record = folder.read_record(*where)
                items = folder.read_items(*where) if record and record.status == "ok" else []
                read.update(document for item in items for document in item.retrieved_ids or ())
        passages = {passage.id: passage.text for passage in task.corpus if passage.id in read}
        folder.write_texts(task.name, {"items": {example.id: example.input for example in task.test}, "passages": passages})


def _notes(cells: Sequence[Cell]) -> list[str]:
    """What is said before anything is run, each once: of the tasks, and of the model where a cell asks it in its own form."""
    notes = dict.fromkeys(f"{c.task.name}: {w}" for c in cells for w in c.task.warnings)
    if any(c.strategy.prompt.constant is None and c.task.config.layout is None and c.not_applicable is None for c in cells):
        notes |= dict.fromkeys(cells[0].model.notes)
    return list(notes)


def _is_whole(folder: RunFolder) -> bool:
    """Whether an earlier run left nothing to do, if the suite is still the same."""
    try:
        return folder.read_run().status == "ok"
    except BenchError:
        return False


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _keep_aside(path: Path) -> None:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    try:
        path.rename(path.with_name(f"{path.name}.before-{stamp}"))
    except OSError as error:
        raise BenchError(f"{path}: the earlier run could not be moved aside: {error.strerror}") from error
