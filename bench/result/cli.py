"""The commands that compare strategies, from records alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(compare)


def compare(
    run_folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs; several are compared together.")],
    baseline: Annotated[str, typer.Option(help="The strategy that all others are compared with.")],
    metric: Annotated[str | None, typer.Option(help="A metric of the records; default: each task's primary one.")] = None,
    margin: Annotated[
        float | None, typer.Option(help="Smallest difference that matters, in the metric's unit; default .01 (embedded) or .02.")
    ] = None,
    format: Annotated[str, typer.Option(help="md, csv or json.")] = "md",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write to a file.")] = None,
    allow_unequal: Annotated[
        bool, typer.Option("--allow-unequal", help="Compare though budget, task data or weights differ; the differences are listed.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap that ranks.")] = 0,
) -> None:
    """Compare strategies with a baseline on the same items: differences, tests, verdicts, ranks.

    Example: bench compare results/default --baseline zero-shot
    """
    from bench.result.comparison import comparison_rows
    from bench.result.comparison_text import render_comparison
    from bench.result.store import write_atomic

    content = render_comparison(comparison_rows(run_folders, baseline, metric, margin, seed, allow_unequal=allow_unequal), format)
    if output:
        write_atomic(output, content)
    else:
        sys.stdout.write(content)
