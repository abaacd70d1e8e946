"""The command about a run's jobs at a provider."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register_jobs(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(jobs)


def jobs(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN")],
    cancel: Annotated[bool, typer.Option("--cancel", help="End the jobs that are still at work.")] = False,
    api_key_env: Annotated[str, typer.Option(help="Environment variable with the key.")] = "OPENAI_API_KEY",
) -> None:
    """List the fine-tuning jobs that a run has begun at a provider, with the state that each is in now.

    A run that was stopped leaves its jobs at work: the same bench run takes them up again, --cancel ends them.
    Example: bench jobs results/hosted --cancel
    """
    from bench.result.text import visible
    from bench.run.jobs import COLUMNS, run_jobs

    found = run_jobs(run_folder, api_key_env, cancel)
    if not found:
        print(f"{run_folder}: has begun no jobs")
        return
    rows = [COLUMNS, *(job.cells for job in found)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    for row in rows:
        print(visible("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()))
    if cancel:
        print(f"Cancelled: {sum(job.note == 'cancelled now' for job in found)}")
