"""The command that writes the decision report, from records alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (report, view):
        app.command()(command)


def report(
    run_folders: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Runs, read together; of two runs of the same cells the second is compared with the first."),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The HTML file; the same in Markdown is written beside it.")] = Path(
        "report.html"
    ),
    constraints: Annotated[
        Path | None, typer.Option(help="A file of hard constraints and weights; default: none, and the usual weights.")
    ] = None,
    require: Annotated[
        list[str] | None, typer.Option("--require", help="KEY=VALUE over that file, such as minimum_quality=0.8; may be repeated.")
    ] = None,
    prices: Annotated[Path | None, typer.Option(help="A price file; default: the one that comes with the package.")] = None,
    assumptions: Annotated[
        Path | None, typer.Option(help="A file of cost assumptions; what it leaves out is as in the one of the package.")
    ] = None,
) -> None:
    """Write the decision report: which strategy to use for each task, how sure that is, and what would change the answer.

    Example: bench report results/default -o report.html --require maximum_hallucination=0.05 --require no_training=true
    """
    from bench.cost.assumptions import load_assumptions
    from bench.cost.prices import load_prices
    from bench.errors import BenchError
    from bench.report.constraints import load_constraints
    from bench.report.contents import decided
    from bench.report.evidence import gather
    from bench.report.page import render_page
    from bench.report.text import render_text
    from bench.result.store import write_atomic
    from bench.settings import parse_assignments

    if output.suffix not in (".html", ".htm"):
        raise BenchError(f"--output: found {output}, expected a name that ends with .html; the Markdown is written beside it")
    wanted = load_constraints(constraints, parse_assignments(require, "--require") if require else None)
    assumed = load_assumptions(assumptions).model_copy(update=wanted.assumptions())
    evidence = gather(run_folders, load_prices(prices), assumed)
    reports = decided(evidence, wanted)
    write_atomic(output, render_page(evidence, reports, wanted))
    write_atomic(output.with_suffix(".md"), render_text(evidence, reports, wanted))
    for found in reports:
        choice = found.decision.recommended or "nothing is eligible"
        certainty = f" ({found.decision.certainty})" if found.decision.certainty else ""
        typer.echo(f"{found.task.task}: {choice}{certainty}")
    typer.echo(f"Written: {output}, {output.with_suffix('.md')}")


def view(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder; the run may still be going on.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="On 127.0.0.1; 0: any that is free.")] = 8642,
    constraints: Annotated[Path | None, typer.Option(help="As of `bench report`.")] = None,
) -> None:
    """Serve a run's decision report with its live progress, to this machine alone; Ctrl-C ends it.

    Example: bench view results/default
    """
    from bench.cost.assumptions import load_assumptions
    from bench.cost.prices import load_prices
    from bench.report.constraints import load_constraints
    from bench.report.contents import decided
    from bench.report.evidence import gather
    from bench.report.page import render_page
    from bench.report.view import HOST, View, server
    from bench.result.store import RunFolder

    wanted = load_constraints(constraints)
    assumed = load_assumptions(None).model_copy(update=wanted.assumptions())

    def render() -> str:
        evidence = gather([run_folder], load_prices(), assumed)
        return render_page(evidence, decided(evidence, wanted), wanted)

    with server(View(RunFolder(run_folder), render), port) as listening:
        typer.echo(f"http://{HOST}:{listening.server_port}/  (Ctrl-C ends it)")
        try:
            listening.serve_forever()
        except KeyboardInterrupt:
            typer.echo("ended")
