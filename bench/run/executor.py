"""Run many cells: one process each, a few at a time, with what is done kept and what fails contained."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import signal
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

from bench.environment import environment
from bench.errors import BenchError
from bench.result.schema import Record
from bench.result.store import RunFolder
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
class _Child:
    cell: Cell
    process: multiprocessing.process.BaseProcess
    messages: Connection
    failure: str | None = None
    """The reason of a failure where the child told one."""


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
        if record and record.cell_id == cell.cell_id and record.status != "failed":
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
    context = multiprocessing.get_context("forkserver")
    # The server imports the heavy libraries once; each cell's process starts from there, with a peak memory of its own.
    context.set_forkserver_preload(["bench.run.preload"])
    searching = {(c.task.name, c.strategy_name) for c in waiting if c.seed == c.search_seed and c.strategy.search}
    children: list[_Child] = []
    try:
        while waiting or children:
            ready = [c for c in waiting if c.seed == c.search_seed or (c.task.name, c.strategy_name) not in searching]
            while ready and len(children) < workers:
                cell = ready.pop(0)
                waiting.remove(cell)
                receive, send = context.Pipe(duplex=False)
                process = context.Process(target=_child, args=(cell, folder.path, stores, threads, send), name=cell.label)
                process.start()
                send.close()
                children.append(_Child(cell, process, receive))
            multiprocessing.connection.wait([c.messages for c in children] + [c.process.sentinel for c in children])
            for child in list(children):
                _read_messages(child, progress)
                if child.process.is_alive():
                    continue
                _read_messages(child, progress)  # what it said between the two lines above
                child.process.join()
                children.remove(child)
                searching.discard((child.cell.task.name, child.cell.strategy_name))
                record = _finish(child, folder)
                outcome.ok += record.status == "ok"
                if record.status == "failed":
                    outcome.failed.append(record)
                progress.done(child.cell, record)
    finally:
        for child in children:
            child.process.terminate()
        for child in children:
            child.process.join(5)


def _read_messages(child: _Child, progress: Progress) -> None:
    """Pass phases on, and keep the reason of a failure."""
    try:
        while child.messages.poll():
            kind, text = child.messages.recv()
            if kind == "phase":
                progress.phase(child.cell, text)
            else:
                child.failure = text
    except EOFError:
        # The pipe stays readable after its end; waiting on the process alone avoids a busy loop.
        child.process.join()


def _finish(child: _Child, folder: RunFolder) -> Record:
    cell, failure = child.cell, child.failure
    if failure is None and child.process.exitcode == 0:
        record = folder.read_record(cell.task.name, cell.strategy_name, cell.seed)
        if record and record.cell_id == cell.cell_id:
            return record
        failure = "the cell ended without a record"
    return _write_unrun(cell, folder, "failed", failure or _death(child.process.exitcode))


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


def _child(cell: Cell, run: Path, stores: Path, threads: int, messages: Connection) -> None:
    """The body of a cell's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides, and ends this process with SIGTERM
    import torch

    from bench.run.cell import run_cell

    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    last = 0.0

    def report(text: str) -> None:
        nonlocal last
        if time.monotonic() - last > 0.2 or not text.startswith(("answer", "tune ")):
            last = time.monotonic()
            messages.send(("phase", text))

    try:
        run_cell(cell, RunFolder(run), stores, report)
    except BenchError as error:
        messages.send(("failed", str(error)))
    except (MemoryError, torch.OutOfMemoryError) as error:
        messages.send(("failed", f"out of memory: {str(error).splitlines()[0] if str(error) else type(error).__name__}"))
    except Exception as error:
        messages.send(("failed", f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}".strip()))
        log = RunFolder(run).cell_folder(cell.task.name, cell.strategy_name, cell.seed) / "traceback.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(traceback.format_exc())
