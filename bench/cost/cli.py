"""The commands about money, from records alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(cost)


def cost(
    run_folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs; several are read together.")],
    prices: Annotated[Path | None, typer.Option(help="A price file; default: the one that comes with the package.")] = None,
    assumptions: Annotated[
        Path | None, typer.Option(help="A file of assumptions; what it leaves out is as in the one of the package.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="Only this task.")] = None,
    price_model: Annotated[
        str | None, typer.Option(help="A hosted model of the price file: strategies that train nothing pay its price for tokens.")
    ] = None,
    format: Annotated[str, typer.Option(help="md, csv (the strategies) or json.")] = "md",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write to a file.")] = None,
) -> None:
    """Print what each strategy costs in total over a horizon, and from when on which one is cheaper.

    Example: bench cost results/default --task product_support
    """
    from bench.cost.assumptions import load_assumptions
    from bench.cost.prices import load_prices
    from bench.cost.total import total_costs
    from bench.cost.total_text import render_total
    from bench.result.store import write_atomic

    found = total_costs(run_folders, load_prices(prices), load_assumptions(assumptions), task=task, price_model=price_model)
    text = render_total(found, format)
    if output:
        write_atomic(output, text)
    else:
        sys.stdout.write(text)
