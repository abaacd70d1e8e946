"""The commands that make and check the embedded world."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

world_app = typer.Typer(help="The embedded synthetic world.", no_args_is_help=True)
base_app = typer.Typer(help="The embedded base model.", no_args_is_help=True)


def _say(text: str) -> None:
    from rich.console import Console

    Console(highlight=False, markup=False).print(text)


@world_app.command("make-tasks")
def make_tasks(
    folder: Annotated[Path, typer.Option(help="Folder to write the tasks to.")] = Path("tasks"),
    seed: Annotated[int | None, typer.Option(help="Seed of the rows; default: that of the tasks that come with the package.")] = None,
) -> None:
    """Generate the five embedded tasks; the same seed gives the same bytes.

    Example: bench world make-tasks --folder /tmp/tasks --seed 1
    """
    from bench.world.tasks import TASKS_SEED
    from bench.world.tasks import make_tasks as make

    make(folder, TASKS_SEED if seed is None else seed)
    _say(f"Written: {folder}")


@world_app.command("make-claim-tasks")
def make_claim_tasks(
    folder: Annotated[Path, typer.Option(help="Folder to write the tasks to.")] = Path("results/claim-tasks"),
) -> None:
    """Generate the tasks that only the claims need (`bench claims`); the same bytes every time.

    Example: bench world make-claim-tasks
    """
    from bench.world.claim_tasks import make_claim_tasks as make

    make(folder)
    _say(f"Written: {folder}")


@base_app.command("train")
def base_train(
    folder: Annotated[Path, typer.Argument(help="Working folder; an unfinished training there is resumed.")],
    tokens: Annotated[float, typer.Option(help="Token budget; the default is that of the shipped weights.")] = 34e6,
    threads: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Pretrain the embedded base model from scratch (about an hour on two cores).

    Example: bench base-model train /tmp/base
    """
    import torch

    from bench.world.pretrain import Trainer

    torch.set_num_threads(threads)
    Trainer(folder).train(tokens)


@base_app.command("verify")
def base_verify(
    folder: Annotated[Path | None, typer.Argument(help="Model folder; default: the shipped weights.")] = None,
    n: Annotated[int, typer.Option(min=1, help="Items per gate.")] = 500,
    seed: Annotated[int, typer.Option(help="Seed of the items.")] = 1,
) -> None:
    """Check the base model against its gates on fresh items; exit 1 where one fails.

    Example: bench base-model verify
    """
    import torch
    import transformers

    from bench.world.manifest import BASE_MODEL
    from bench.world.verify import report, verify

    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)  # at this size more threads wait for each other
    gates = verify(folder or BASE_MODEL, n, seed, show=lambda gate: _say(str(gate)))
    _say(report(gates).splitlines()[-1])
    if not all(g.passed for g in gates):
        raise typer.Exit(1)
