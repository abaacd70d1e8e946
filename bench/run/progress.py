"""Live progress of a run: a bar and the cells at work on a terminal, one line per finished cell elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from bench.result.schema import Record
from bench.result.text import visible
from bench.suite import Cell


class LiveProgress:
    """Use as a context manager around `run_cells`."""

    def __init__(self, console: Console, total: int) -> None:
        self.console, self.total, self.finished, self.ran = console, total, 0, 0
        self.at_work: dict[str, tuple[str, float]] = {}
        self.began = time.monotonic()
        live = Live(get_renderable=self._render, console=console, refresh_per_second=4, transient=True)
        self.live = live if console.is_terminal else None

    def __enter__(self) -> Self:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.live:
            self.live.stop()

    def phase(self, cell: Cell, text: str) -> None:
        began = self.at_work.get(cell.label, ("", time.monotonic()))[1]
        self.at_work[cell.label] = (text, began)

    def done(self, cell: Cell, record: Record) -> None:
        self.finished += 1
        began = self.at_work.pop(cell.label, None)
        if began is None and record.status != "failed":
            return  # done before, or skipped
        self.ran += 1
        seconds = f" in {time.monotonic() - began[1]:.0f} s" if began else ""
        value = record.metrics.get(record.primary_metric or "")
        result = f"{record.primary_metric} {100 * value.value:.1f}" if value else ""
        # Names are a user's and reasons a server's or a library's: none of them is markup.
        note = f"[red]failed: {escape(visible(record.failure))}[/red]" if record.failure else f"{result}{seconds}"
        self.console.print(f"\\[{self.finished}/{self.total}] {escape(cell.label)}: {note}", highlight=False)

    def _eta(self) -> str:
        if not self.ran:
            return "ETA –"
        left = (time.monotonic() - self.began) / self.ran * (self.total - self.finished)
        return f"ETA {int(left // 60)}:{int(left % 60):02d}"

    def _render(self) -> Table:
        table = Table.grid(padding=(0, 2))
        filled = 30 * self.finished // max(1, self.total)
        table.add_row(f"{'━' * filled}[dim]{'━' * (30 - filled)}[/dim]", f"{self.finished}/{self.total} cells", self._eta())
        for label, (text, began) in self.at_work.items():
            table.add_row(escape(label), escape(text), f"{time.monotonic() - began:.0f} s")
        return table
