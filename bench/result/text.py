"""What all renderers share: a checked format, JSON, CSV, and tables and escapes of Markdown."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.errors import BenchError, did_you_mean


def check_format(format: str, known: Sequence[str]) -> None:
    """Raises BenchError for a format that is none of the known ones."""
    if format not in known:
        raise BenchError(f'format "{format}" is unknown: {did_you_mean(format, known)}')


def as_json(value: Any) -> str:
    """Indented, UTF-8 as it is, with a newline at the end. Raises ValueError for NaN and infinity: what is undefined is None."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def as_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """The rows under a head of these columns, undefined left empty. Raises ValueError for a row with another column."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def markdown_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """First column to the left, the others to the right; tabulate would pad every heading by two, and a terminal's 140 columns are
    needed."""
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    ruled = [f":{'-' * (widths[0] - 1)}", *[f"{'-' * (width - 1)}:" for width in widths[1:]]]
    lines = [
        " | ".join([cells[0].ljust(widths[0]), *[cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]])
        for cells in [head, ruled, *body]
    ]
    return "".join(f"| {line} |\n" for line in lines)


def markdown_list(lines: Iterable[str]) -> str:
    """One entry a line, as it is."""
    return "".join(f"- {line}\n" for line in lines)


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, in a table too."""
    for mark in "\\|*`<":
        text = text.replace(mark, "\\" + mark)
    return text.replace("\n", " ")
