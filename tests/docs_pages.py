"""What a reader of a page does: the commands in its code blocks, the files that it shows, and what it says that commands print."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(p for p in (ROOT / "docs").rglob("*.md") if p.name != "commands.md")])
SHELL = ("sh", "bash", "console")
PROGRAMS = ("bench", "git", "head", "pip")
"""What is executed. `make` is held against the Makefile; a ```sh block may hold nothing else."""


@dataclass(frozen=True)
class Step:
    """One thing that a page has its reader do."""

    page: str
    line: int

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command(Step):
    """A line of shell, with its continuations and without its comment."""

    text: str
    code: int = 0
    """The exit code that the comment beside it states (``# exit 2: ...``)."""


@dataclass(frozen=True)
class Export(Step):
    """``export NAME=VALUE``: holds for the block's further commands."""

    name: str
    value: str


@dataclass(frozen=True)
class Made(Step):
    """A block whose first line is a comment with nothing but a file's name is that file."""

    path: str
    content: str


@dataclass(frozen=True)
class Shown(Step):
    """A block of output (```text), with what the command before it prints."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Block:
    """A code block of a page."""

    line: int
    """Of its first line of content, from 1."""
    kind: str | None
    """What stands behind the fence; None for an indented block."""
    lines: tuple[str, ...]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(text: str) -> Iterator[Block]:
    """The code blocks of a page, fenced ones and indented ones."""
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        start = at
        if fence := re.match(r"( {0,3})```(\w*)", lines[at]):
            at += 1
            while not lines[at].lstrip().startswith("```"):
                at += 1
            yield Block(start + 2, fence[2], tuple(line.removeprefix(fence[1]) for line in lines[start + 1 : at]))
        elif lines[at].startswith("    ") and not (at and lines[at - 1].strip()):
            while at < len(lines) and lines[at].startswith("    "):
                at += 1
            yield Block(start + 1, None, tuple(line[4:] for line in lines[start:at]))
        at += 1


def steps(page: Path) -> Iterator[list[Step]]:
    """The steps of a page, in order, block by block. Raises ValueError for a line of shell that is neither executed nor known."""
    name = name_of(page)
    for block in blocks(page.read_text()):
        if block.kind == "text":
            yield [Shown(name, block.line, block.lines)]
        elif block.kind in (*SHELL, "", None):
            yield [step for n, line in _joined(block) if (step := _step(name, n, line, block.kind in SHELL))]
        elif block.lines and (file := re.fullmatch(r"# ([\w./-]+\.\w+)", block.lines[0])):
            yield [Made(name, block.line, file[1], "\n".join(block.lines) + "\n")]


def _joined(block: Block) -> Iterator[tuple[int, str]]:
    """The lines with their numbers, those that end with a backslash together with what follows."""
    whole, start = "", block.line
    for number, line in enumerate(block.lines, start=block.line):
        start = start if whole else number
        whole += line
        if whole.endswith("\\"):
            whole = whole[:-1]
        else:
            yield start, whole
            whole = ""


def _step(page: str, line: int, text: str, is_shell: bool) -> Step | None:
    before, _, comment = text.partition("  #")
    program = (before.split() or [""])[0]
    if program == "export":
        variable, _, value = before.split(maxsplit=1)[1].partition("=")
        return Export(page, line, variable, value.strip())
    if program in (*PROGRAMS, "make"):
        stated = re.match(r" exit (\d)", comment)
        return Command(page, line, before.strip(), int(stated[1]) if stated else 0)
    if is_shell and program and not program.startswith("#"):
        raise ValueError(f'{page}:{line}: found "{program}" in a shell block, expected make or one of {PROGRAMS} (tests/docs_pages.py)')
    return None
