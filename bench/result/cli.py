"""The commands that compare strategies, from records alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (compare, curve, probes, claims):
        app.command()(command)


Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs; several are read together.")]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="Write to a file.")]


def _give(content: str, output: Path | None) -> None:
    from bench.result.store import write_atomic

    if output:
        write_atomic(output, content)
    else:
        sys.stdout.write(content)


def compare(
    run_folders: Runs,
    baseline: Annotated[str, typer.Option(help="The strategy that all others are compared with.")],
    metric: Annotated[str | None, typer.Option(help="A metric of the records; default: each task's primary one.")] = None,
    margin: Annotated[
        float | None, typer.Option(help="Smallest difference that matters, in the metric's unit; default .01 (embedded) or .02.")
    ] = None,
    format: Annotated[str, typer.Option(help="md, csv or json.")] = "md",
    output: Output = None,
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

    _give(render_comparison(comparison_rows(run_folders, baseline, metric, margin, seed, allow_unequal=allow_unequal), format), output)


def curve(
    run_folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, one of each size.")],
    baseline: Annotated[str | None, typer.Option(help="Crossovers with this strategy only; default: of all pairs.")] = None,
    format: Annotated[str, typer.Option(help="md, csv (the points) or json.")] = "md",
    output: Output = None,
) -> None:
    """Print learning curves: the primary metric at each number of training examples, and where strategies cross.

    Example: bench curve results/default-n10 results/default-n50 results/default-n200 --baseline few-shot
    """
    from bench.result.curve import learning_curves
    from bench.result.curve_text import render_curves

    _give(render_curves(learning_curves(run_folders, baseline), format), output)


def probes(
    run_folders: Runs,
    probe: Annotated[str | None, typer.Option(help="Only this probe.")] = None,
    format: Annotated[str, typer.Option(help="md, csv or json.")] = "md",
    output: Output = None,
) -> None:
    """Print what probes measured beside the task.

    Example: bench probes results/default --probe forgetting
    """
    from bench.result.probes import probe_rows, render_probes

    _give(render_probes(probe_rows(run_folders, probe), format), output)


def claims(
    run_folders: Runs,
    registry: Annotated[Path | None, typer.Option(help="A file of claims; default: those that come with the package.")] = None,
    format: Annotated[str, typer.Option(help="md or json.")] = "md",
    output: Output = None,
) -> None:
    """Judge published claims by runs: reproduced, contradicted, inconclusive or not applicable, with the numbers.

    `make claims` makes the runs that decide all of them. Example: bench claims results/claims-*
    """
    from bench.result.claims import judge, load_claims
    from bench.result.claims_text import render_claims

    _give(render_claims(judge(load_claims(registry), run_folders), format), output)
