"""The commands for whoever brings a task: make one, check one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from bench.errors import BenchError


def register(app: typer.Typer) -> None:
    """Add ``validate`` and ``new-task`` to a command line."""
    app.command("validate")(validate)
    app.command("new-task")(new_task)


def validate(
    task: Annotated[str, typer.Argument(help="Task name or folder.")],
    data: Annotated[str | None, typer.Option(help="Folder or hub id with the rows.")] = None,
    model: Annotated[str, typer.Option(help="Whose tokens and window lengths are checked against.")] = "embedded",
) -> None:
    """Check a task: schema, sizes, leakage, labels, lengths, power; each warning says what to do.

    Examples: bench validate tasks/product_support; bench validate tasks/mine --model ./my-model
    """
    from bench.suite import find_task
    from bench.task.validate import validate as check

    for line in check(find_task(task), data, model):
        _say(line)


def new_task(
    folder: Annotated[Path, typer.Argument(help="Folder to make.")],
    source: Annotated[str | None, typer.Option("--from", help="Your data: .csv, .tsv, .jsonl, .parquet, a folder or a hub id.")] = None,
    data_config: Annotated[str | None, typer.Option(help="Configuration of a data set of the hub, where it has several.")] = None,
    data_revision: Annotated[str | None, typer.Option(help="Commit, branch or tag of a data set of the hub; default: its newest.")] = None,
    kind: Annotated[
        str | None, typer.Option(help="qa, classification, summarization, structured or multiple_choice; without --from: default qa.")
    ] = None,
    input_: Annotated[str | None, typer.Option("--input", help="Column with what is asked, or a template: '{{ a }} {{ b }}'.")] = None,
    target: Annotated[str | None, typer.Option(help="Column with the right answer.")] = None,
    id_: Annotated[str | None, typer.Option("--id", help="Column that tells rows apart.")] = None,
    cluster: Annotated[str | None, typer.Option(help="Column of what belongs together (document, customer): never cut in two.")] = None,
    evidence: Annotated[str | None, typer.Option(help="Column with the ids of the passages that hold the answer.")] = None,
    corpus: Annotated[str | None, typer.Option(help="Documents: a folder (.txt .md .html .pdf), a table, or a column of texts.")] = None,
    metrics: Annotated[str | None, typer.Option(help="Such as exact_match,f1; the first is the primary one.")] = None,
    abstain: Annotated[str | None, typer.Option(help="Answers that count as abstaining, such as 'unknown,not stated'.")] = None,
    split: Annotated[str, typer.Option(help="Shares of train, validation and test, where the data has no splits.")] = "0.6,0.2,0.2",
    seed: Annotated[int, typer.Option(help="For the split.")] = 0,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing: what cannot be guessed is an error that names the flag.")] = False,
) -> None:
    """Make a task of your own data, or without --from write a commented task.yaml and example rows to start from.

    Examples: bench new-task tasks/mine --from tickets.csv; bench new-task tasks/mine --kind classification
    """
    if source is None:
        from bench.task.author import new_task as make

        given = {"--input": input_, "--target": target, "--corpus": corpus, "--cluster": cluster, "--evidence": evidence, "--id": id_}
        given |= {"--data-config": data_config, "--data-revision": data_revision}
        if wrong := [flag for flag, value in given.items() if value is not None]:
            raise BenchError(f"{wrong[0]}: has a meaning with --from only, which is not given")
        make(folder, kind or "qa")
        _say(f"Made {folder}. Check it with: bench validate {folder}")
        return
    from bench.task.from_data import new_task_from
    from bench.task.guess import Choices
    from bench.task.split import shares

    choices = Choices(kind, input_, target, id_, cluster, evidence, corpus, _listed(metrics), _listed(abstain))
    asked = _refuse if yes or not sys.stdin.isatty() else _ask
    for line in new_task_from(folder, source, choices, shares(split), seed, asked, _say, data_config, data_revision):
        _say(line)
    _say(f"Made {folder}: read task.yaml, fill in the licence in README.md. Check it with: bench validate {folder}")


def _listed(given: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in given.split(",") if part.strip()) if given else ()


def _ask(flag: str, question: str, columns: Sequence[str]) -> str:
    from bench.result.text import visible

    while True:
        answer = str(typer.prompt(f"{question} ({flag}) One of: {visible(', '.join(columns))}"))
        if answer in columns:
            return answer
        _say(f'There is no column "{answer}".')


def _refuse(flag: str, question: str, columns: Sequence[str]) -> str:
    raise BenchError(f"{flag}: cannot be guessed ({question[0].lower()}{question[1:]}), expected one of {', '.join(columns)}")


def _say(line: str) -> None:
    from bench.result.text import visible

    print(visible(line))
