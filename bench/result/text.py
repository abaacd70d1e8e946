"""What all renderers share: a checked format, JSON, CSV, and tables and escapes of Markdown."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.errors import BenchError, did_you_mean

NONE = "–"
"""An undefined value."""


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


def shown_seconds(value: float | None) -> str:
    """Two digits and a unit, from milliseconds to hours."""
    if value is None:
        return NONE
    if value == 0:
        return "0 s"
    if abs(value) < 0.1:
        return f"{1000 * value:.2g} ms"
    if value < 10:
        return f"{value:.2g} s"
    if value < 600:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 36_000 else f"{value / 3600:.0f} h"


def shown_bytes(value: int | None) -> str:
    """Three digits and a binary unit (1 GiB is 2^30 bytes), as memory is planned, limited and paid for."""
    if value is None:
        return NONE
    for size, unit in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}" if abs(value) < 999.5 * size else f"{value / size:.0f} {unit}"
    return f"{value} B"


def shown_usd(value: float | None) -> str:
    """Dollars to three digits; in scientific notation below a tenth of a cent."""
    if value is None:
        return NONE
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) < 0.001:
        digits, power = f"{value:.2e}".split("e")
        return f"{digits}e{int(power)}"
    return f"{value:#.3g}".rstrip(".")


def shown_count(value: float | None) -> str:
    """Three digits and a decimal prefix, such as "49.2 k"."""
    if value is None:
        return NONE
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {prefix}" if value < 999.5 * size else f"{value / size:.0f} {prefix}"
    return f"{value:.0f}"


def visible(text: str) -> str:
    """Text with its control characters as symbols: ANSI codes cannot act, and characters that turn the direction of text around are
    named. Line breaks stay; tabs become spaces."""
    return "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    code = ord(character)
    if character == "\n":
        return character
    if character == "\t":
        return "    "
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    # Cc: C1 controls; Cs: lone surrogates, which no file can hold; Bidi controls are Cf, as are joiners that scripts and emoji need.
    if unicodedata.category(character) in ("Cc", "Cs") or code in (
        0x061C,
        0x200E,
        0x200F,
        0xFEFF,
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
    ):
        return f"⟨U+{code:04X}⟩"
    return character
