"""Commands that stand in pages and files, held against the command line that there is."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import typer

from bench.cli import app


def commands(script: str) -> Iterator[list[str]]:
    """The calls of ``bench`` in a piece of shell, word by word, without what the shell adds; variables become 1, which is a name and a
    number."""
    text = script.replace("\\\n", " ")
    text = re.sub(r"\$\{\w+:\+([^}]*)\}", r"\1", text).replace('"${options[@]}"', "")
    text = re.sub(r"\$\{[^}]*\}|\$\w+", "1", text)
    for line in re.split(r"\n|&&|\|\||[{};]", text):
        line = re.sub(r"(?:2>&1|>>?\s*\S+)", " ", line).strip().removeprefix("- ")
        line = re.sub(r"^(?:bash -c '|if !? ?)|'$", "", line)
        if re.match(r"(?:\S*/)?bench\s", line):
            yield shlex.split(line, comments=True)[1:]


def parse(words: list[str]) -> str:
    """The name of the command. Raises where it, or one of its options, is not known."""
    group: Any = typer.main.get_command(app)
    if words == ["--help"]:
        return "--help"
    group.commands[words[0]].make_context(words[0], words[1:])
    return words[0]


def parse_mention(words: list[str]) -> str:
    """The same of a command that a sentence names, without the arguments that it needs."""
    group: Any = typer.main.get_command(app)
    known = {option for parameter in group.commands[words[0]].params for option in (*parameter.opts, *parameter.secondary_opts)}
    if unknown := {word for word in words if word.startswith("-")} - known - {"--help"}:
        raise ValueError(f"bench {words[0]}: no option {min(unknown)}")
    return words[0]
