"""The command that imports tasks of lm-evaluation-harness."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("import-lm-eval")(import_lm_eval)


def import_lm_eval(
    file: Annotated[Path, typer.Argument(metavar="TASK.YAML", help="A task file of lm-evaluation-harness.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to make.")],
    data: Annotated[Path | None, typer.Option(help="Folder of the task's data files, or the data set itself.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Prompts in the model's chat template; default: plain text.")] = False,
    filter_: Annotated[str | None, typer.Option("--filter", help="The filter whose score is taken; default: the task's first.")] = None,
    hold_out: Annotated[
        float | None, typer.Option(help="Share of the scored rows to learn from instead, where the task has no others.")
    ] = None,
) -> None:
    """Make a task of a lm-evaluation-harness task, asked and scored as there. What has no counterpart here is refused by name.

    Example: bench import-lm-eval my_task.yaml -o tasks/my_task
    """
    from bench.result.text import visible
    from bench.task.lm_eval import import_lm_eval as make

    for line in make(file, output, data, chat, filter_, hold_out):
        print(visible(line))
    print(visible(f"Made {output}. Check it with: bench validate {output}"))
