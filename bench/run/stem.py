"""Processes that cells are forked from, with the libraries and the base model loaded once for all of them.

Cells that need the same libraries share a stem: those that leave the weights alone need not wait for peft, nor hold it in memory.
A stem touches no GPU, which no fork could use after that.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bench.environment import environment
from bench.errors import BenchError
from bench.model.source import ModelSource
from bench.result.store import RunFolder
from bench.suite import Cell

PRELOAD = "bench.run.preload"

Event = tuple[int, str, Any]
"""(number of the cell, "phase" | "failed" | "ended", text of the phase or reason, or exit code)"""


def libraries(cell: Cell) -> tuple[str, ...]:
    """What a cell needs that takes long to import, beside what all need."""
    peft = ("peft",) if cell.strategy.tuning.needs_peft else ()
    rouge = any(name.startswith("rouge") for name in cell.task.config.metrics)
    client = ("openai",) if cell.model.endpoint else ()
    return (*peft, *client, *(("rouge_score.rouge_scorer",) if rouge else ()))


def warm_up() -> None:
    """Have the libraries imported, in a process of their own and without waiting for it."""
    multiprocessing.get_context("forkserver").set_forkserver_preload([PRELOAD])
    multiprocessing.forkserver.ensure_running()


class Stem:
    """A process that forks one process for each cell it is given."""

    def __init__(self, source: ModelSource, imports: tuple[str, ...], run: Path, stores: Path, threads: int) -> None:
        warm_up()
        context = multiprocessing.get_context("forkserver")
        self.events, theirs = context.Pipe()
        """Where it tells what becomes of the cells."""
        arguments = (theirs, imports, source, run, stores, threads)
        self._process = context.Process(target=_serve, args=arguments, name="bench stem")
        self._process.start()
        theirs.close()

    def start(self, number: int, cell: Cell) -> None:
        """Start the cell's process; `number` is what its events are told by."""
        with contextlib.suppress(OSError):  # it has died, which `read` tells
            self.events.send((number, cell))

    def read(self) -> Iterator[Event]:
        """What has been told since the last time. Raises EOFError where the stem has died."""
        try:
            while self.events.poll():
                yield self.events.recv()
        except OSError as error:
            raise EOFError from error

    def close(self) -> None:
        """End it and the processes of its cells."""
        self.events.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()


def _serve(events: Connection, imports: tuple[str, ...], source: ModelSource, run: Path, stores: Path, threads: int) -> None:
    """The body of a stem: fork what is asked for and pass on what the cells tell, until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides, and ends this process by closing its end
    gc.disable()
    for module in (PRELOAD, *imports):
        importlib.import_module(module)
    from bench.model.load import preload

    with contextlib.suppress(BenchError):  # the cells will say so, each in its record
        preload(source)
    environment()  # kept for the records of all cells: it asks git
    gc.freeze()  # a collection would touch, and so copy, the pages that forks share
    gc.enable()
    context = multiprocessing.get_context("fork")
    children: dict[int, tuple[Any, Connection]] = {}
    try:
        while True:
            if events in multiprocessing.connection.wait([events, *(told for _, told in children.values())]):
                number, cell = events.recv()
                receive, send = context.Pipe(duplex=False)
                inherited = [events, receive, *(told for _, told in children.values())]
                process = context.Process(target=_run, args=(cell, run, stores, threads, send, inherited), name=cell.label)
                process.start()
                send.close()
                children[number] = (process, receive)
            for number, (process, told) in list(children.items()):
                try:
                    while told.poll():
                        events.send((number, *told.recv()))
                except EOFError:  # the process has closed its end, and ends
                    process.join()
                    events.send((number, "ended", process.exitcode))
                    told.close()
                    del children[number]
    except (EOFError, OSError):
        pass  # the run is over, or was killed
    finally:
        for process, _ in children.values():
            process.terminate()
        for process, _ in children.values():
            process.join(5)


def _run(cell: Cell, run: Path, stores: Path, threads: int, events: Connection, inherited: list[Connection]) -> None:
    """The body of a cell's process."""
    for connection in inherited:
        connection.close()  # who waits for the end of one would wait for this process too
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    from bench.model.batches import out_of_memory
    from bench.model.connection import EndpointStopped
    from bench.run.cell import run_cell

    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        run_cell(cell, RunFolder(run), stores, _reporter(events))
    except BrokenPipeError:
        return  # nobody listens any more
    except (BenchError, EndpointStopped) as error:
        events.send(("failed", str(error)))
    except Exception as error:
        line = str(error).splitlines()[0] if str(error) else ""
        if out_of_memory(error):
            events.send(("failed", f"out of memory: {line or type(error).__name__}"))
            return
        events.send(("failed", f"{type(error).__name__}: {line}".strip()))
        log = RunFolder(run).cell_folder(cell.task.name, cell.strategy_name, cell.seed) / "traceback.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(traceback.format_exc())


def _end_with_parent() -> None:
    """A stem that was killed could not end its cells, and a later run would do the same ones beside them."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _reporter(events: Connection) -> Callable[[str], None]:
    last = 0.0

    def report(text: str) -> None:
        nonlocal last
        if time.monotonic() - last > 0.2 or not text.startswith(("answer", "tune ")):
            last = time.monotonic()
            events.send(("phase", text))

    return report
