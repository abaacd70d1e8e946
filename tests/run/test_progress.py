"""What a run prints of a cell is text, whatever a server or a user wrote into it."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from bench.result.schema import Record
from bench.run.progress import LiveProgress


@pytest.mark.parametrize("terminal", [False, True])
def test_markup_and_control_characters_do_not_act(terminal: bool) -> None:
    out = io.StringIO()
    progress = LiveProgress(Console(file=out, width=200, force_terminal=terminal, color_system=None), 3)
    cell: Any = SimpleNamespace(label="my [b]task[/] / rag / s0")
    record = Record(
        cell_id="x", task="t", model="m", strategy="s", seed=0, status="failed", error="500 [/red] [bold]no\x1b[31m"
    )  # fmt: skip
    with progress:
        progress.phase(cell, "asks [/dim]")
        progress.done(cell, record)
    assert "[1/3] my [b]task[/] / rag / s0: failed: 500 [/red] [bold]no␛[31m" in out.getvalue()
