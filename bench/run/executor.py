"""Run many cells: one process each, a few at a time, with what is done kept and what fails contained."""

from __future__ import annotations

import multiprocessing.connection
import signal
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bench.environment import environment
from bench.errors import BenchError
from bench.result.schema import Record
from bench.result.store import RunFolder
from bench.run.stem import Stem, libraries
from bench.suite import Cell


class Progress(Protocol):
    """What a run tells while it goes on."""

    def phase(self, cell: Cell, text: str) -> None: ...
    def done(self, cell: Cell, record: Record) -> None: ...


@dataclass
class Outcome:
    """What became of a run's cells."""

    ok: int = 0
    failed: list[Record] = field(default_factory=list)
    skipped: int = 0
    reused: int = 0
    """Of the cells that are ok or skipped: those that an earlier run had finished."""

    @property
    def total(self) -> int:
        return self.ok + self.skipped + len(self.failed)


@dataclass
class _Running:
    cell: Cell
    stem: Stem
    failure: str | None = None
    """The reason of a failure where the cell's process told one."""


def run_cells(
    cells: Sequence[Cell], folder: RunFolder, stores: Path, workers: int, progress: Progress, threads: int = 1
) -> Outcome:
    """Run the cells that have no record of their own id yet.

    A cell's process that raises or dies leaves a failed record with the reason, and the others go on. The seeds of a strategy
    wait for the one that searches. Ctrl-C ends the children; what they had answered is kept.

    ``threads``: CPU threads of each cell. Another number rounds sums differently, so it is a choice of its own and does not
    follow from the number of workers.
    """
    outcome = Outcome()
    waiting: list[Cell] = []
    for cell in cells:
        record = folder.read_record(cell.task.name, cell.strategy_name, cell.seed)
        if record and record.cell_id == cell.cell_id and record.status != "failed" and _probed(cell, record):
            outcome.reused += 1
            outcome.skipped += record.status == "skipped"
            outcome.ok += record.status == "ok"
            progress.done(cell, record)
            continue
        if record and record.cell_id != cell.cell_id:
            _set_aside(folder, cell, record)
        if reason := cell.not_applicable:
            record = _write_unrun(cell, folder, "skipped", reason)
            outcome.skipped += 1
            progress.done(cell, record)
            continue
        waiting.append(cell)
    if waiting:
        _run_waiting(waiting, folder, stores, workers, threads, progress, outcome)
    return outcome


def _probed(cell: Cell, record: Record) -> bool:
    """Whether a record holds every probe that is asked for, as it would be made now."""
    if record.status == "skipped":
        return True
    if not cell.probes:
        return True
    from bench.probe.base import get

    found = {n: (r.version, r.settings) for n, r in record.probes.items() if r.error is None}
    return all(found.get(name) == (get(name).version, settings) for name, settings in cell.probes.items())


def _set_aside(folder: RunFolder, cell: Cell, record: Record) -> None:
    """Results are never overwritten: a record of another identity moves out of the way, with its items."""
    source = folder.cell_folder(cell.task.name, cell.strategy_name, cell.seed)
    relative = source.relative_to(folder.path / "cells")
    target = folder.path / "superseded" / relative.parent / f"{relative.name}-{record.cell_id[:12]}"
    while target.exists():
        target = target.with_name(target.name + "+")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
    except OSError as error:
        raise BenchError(f"{source}: could not be moved to {target}: {error.strerror}") from error


def _run_waiting(
    waiting: list[Cell], folder: RunFolder, stores: Path, workers: int, threads: int, progress: Progress, outcome: Outcome
) -> None:
    # A seed that uses a search's choice waits for the cell that makes it.
    searching = {(c.task.name, c.strategy_name) for c in waiting if c.seed == c.search_seed and c.strategy.search}
    held: dict[tuple[str, str], list[Cell]] = {}
    ready: deque[Cell] = deque()
    for cell in waiting:
        key = (cell.task.name, cell.strategy_name)
        if cell.seed != cell.search_seed and key in searching:
            held.setdefault(key, []).append(cell)
        else:
            ready.append(cell)
    stems: dict[tuple[str, ...], Stem] = {}
    running: dict[int, _Running] = {}
    number = 0

    def finish(which: int, exit_code: int | None, failure: str | None = None) -> None:
        done = running.pop(which)
        record = _finish(done.cell, failure or done.failure, exit_code, folder)
        if record.failure:
            outcome.failed.append(record)
        else:
            outcome.ok += record.status == "ok"
        progress.done(done.cell, record)
        ready.extendleft(reversed(held.pop((done.cell.task.name, done.cell.strategy_name), [])))

    def stem_of(cell: Cell) -> Stem:
        imports = libraries(cell)
        if imports not in stems:
            stems[imports] = Stem(cell.model, imports, folder.path, stores, threads)
        return stems[imports]

    try:
        while ready or running:
            while ready and len(running) < workers:
                cell, number = ready.popleft(), number + 1
                running[number] = _Running(cell, stem_of(cell))
                running[number].stem.start(number, cell)
            for cell in ready if number <= workers else ():
                stem_of(cell)  # the first cells are at work; the others' libraries are imported meanwhile
            multiprocessing.connection.wait([stem.events for stem in stems.values()])
            for imports, stem in list(stems.items()):
                try:
                    for which, kind, told in stem.read():
                        if kind == "phase":
                            progress.phase(running[which].cell, told)
                        elif kind == "failed":
                            running[which].failure = told
                        else:
                            finish(which, told)
                except EOFError:
                    stems.pop(imports).close()
                    for which in [n for n, r in running.items() if r.stem is stem]:
                        finish(which, None, "the process that cells are forked from has ended")
    finally:
        for stem in stems.values():
            stem.close()


def _finish(cell: Cell, failure: str | None, exit_code: int | None, folder: RunFolder) -> Record:
    if failure is None and exit_code == 0:
        record = folder.read_record(cell.task.name, cell.strategy_name, cell.seed)
        if record and record.cell_id == cell.cell_id:
            return record
        failure = "the cell ended without a record"
    return _write_unrun(cell, folder, "failed", failure or _death(exit_code))


def _death(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        hint = " (the system ends a process so when memory runs out)" if name == "SIGKILL" else ""
        return f"the cell's process was ended by {name}{hint}"
    return f"the cell's process ended with exit code {exit_code}"


def _write_unrun(cell: Cell, folder: RunFolder, status: str, reason: str) -> Record:
    record = Record.model_validate(cell.identity() | {"status": status, "error": reason, "environment": environment()})
    folder.write_record(record)
    return record
