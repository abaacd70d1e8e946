"""The commands that look inside: a run's items, and this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from bench.errors import BenchError, did_you_mean

if TYPE_CHECKING:
    from rich.console import Console

    from bench.result.schema import Record
    from bench.result.store import RunFolder


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (show, doctor):
        app.command()(command)


def _console() -> Console:
    from rich.console import Console

    # A pipe or a log has no width of its own.
    return Console(width=None if sys.stdout.isatty() else 140, highlight=False, markup=False, emoji=False)


def show(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN")],
    cell: Annotated[str | None, typer.Argument(help="task/strategy or task/strategy/s0")] = None,
    item: Annotated[str | None, typer.Option(help="This test item whole: prompt, passages, answer, gold, scores.")] = None,
    outcome: Annotated[str | None, typer.Option(help="Only items that are correct, incorrect or abstained.")] = None,
    where: Annotated[
        str | None, typer.Option(help="Instead of a cell: a condition over all strategies, such as 'rag wrong and oracle right'.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="With --where: the task, where the run has several.")] = None,
    seed: Annotated[int, typer.Option(help="With --where: the seed.")] = 0,
    limit: Annotated[int, typer.Option(min=1, help="Items to print.")] = 10,
    format: Annotated[str, typer.Option(help="text or json.")] = "text",
) -> None:
    """Print what a cell was asked and answered: its items, one item whole, or items side by side over strategies.

    Examples: bench show results/default product_support/rag --item test-001;
    bench show results/default --task product_support --where 'rag wrong and oracle right'
    """
    from bench.result.store import RunFolder
    from bench.result.text import check_format

    check_format(format, ("text", "json"))
    if (cell is None) == (where is None):
        raise BenchError(f"show: found {'both' if cell else 'neither'}, expected either a cell (task/strategy) or --where")
    folder = RunFolder(run_folder)
    folder.read_run()
    if where is not None:
        if item is not None or outcome is not None:
            raise BenchError("--where: found --item or --outcome beside it; expected a cell for them, or them in the condition")
        _show_selection(folder, where, task, seed, limit, format)
        return
    assert cell is not None
    if task is not None or seed:
        raise BenchError("--task and --seed: expected --where beside them; a cell is named task/strategy/s0")
    record = folder.read_cell(cell)
    if item is not None:
        _show_item(folder, record, item, format)
    else:
        _show_items(folder, record, outcome, limit, format)


def _show_selection(folder: RunFolder, where: str, task: str | None, seed: int, limit: int, format: str) -> None:
    from bench.result.show import select
    from bench.result.text import as_json

    found = select(folder, where, task, seed)
    if format == "json":
        sys.stdout.write(as_json(found.as_dict(limit)))
    else:
        from bench.result.show_text import print_selection

        print_selection(_console(), found, limit)


def _show_item(folder: RunFolder, record: Record, item: str, format: str) -> None:
    from bench.result.show import view_item
    from bench.result.text import as_json

    view = view_item(folder, record, item)
    if format == "json":
        sys.stdout.write(as_json(view.as_dict()))
    else:
        from bench.result.show_text import print_item

        print_item(_console(), view)


def _show_items(folder: RunFolder, record: Record, outcome: str | None, limit: int, format: str) -> None:
    from bench.result.schema import Outcome
    from bench.result.show import items_as_dicts, read_items
    from bench.result.text import as_json

    if outcome is not None and outcome not in get_args(Outcome):
        raise BenchError(f'--outcome: found "{outcome}"; {did_you_mean(outcome, get_args(Outcome))}')
    items = [i for i in read_items(folder, record) if outcome in (None, i.outcome)]
    if format == "json":
        sys.stdout.write(as_json(items_as_dicts(record, items[:limit])))
    else:
        from bench.result.show_text import print_items

        print_items(_console(), record, items, limit)


def doctor(
    results: Annotated[Path, typer.Option("--results", help="Folder that holds the runs.")] = Path("results"),
    json: Annotated[bool, typer.Option("--json", help="For programs, with the whole environment.")] = False,
) -> None:
    """Check this machine: versions, devices, disk, caches, the shipped models, extras; and say what to do about what is wrong.

    Asks no network. Exit code 2 where something that is needed is broken. Example: bench doctor
    """
    from bench.doctor import as_dict, examine, print_checks

    checks = examine(results)
    if json:
        from bench.result.text import as_json

        sys.stdout.write(as_json(as_dict(checks)))
    else:
        print_checks(_console(), checks)
    if any(check.status == "problem" for check in checks):
        raise typer.Exit(2)
