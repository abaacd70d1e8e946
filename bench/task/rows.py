"""The files of a task: JSONL, JSON, CSV and Parquet become rows, with the place of every problem."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

from bench.errors import BenchError
from bench.settings import shown

SPLITS: Final = ("train", "validation", "test")
FORMATS: Final = (".jsonl", ".json", ".csv", ".parquet")


class Row(NamedTuple):
    """One row of a file."""

    where: str
    """File and line, to begin a message with."""
    number: int
    """Line of a JSONL file; else the row, counted from 1 (of a CSV file: after the header)."""
    values: dict[str, Any]


def find_file(folder: Path, stem: str) -> Path | None:
    """The file ``stem`` in one of the formats, or None.

    Raises:
        BenchError: There are two of them.
    """
    found = [path for path in (folder / f"{stem}{suffix}" for suffix in FORMATS) if path.is_file()]
    if len(found) > 1:
        raise BenchError(f"{folder}: found {' and '.join(p.name for p in found)}, expected one {stem} file")
    return found[0] if found else None


def read_rows(path: Path, list_columns: Sequence[str] = ()) -> list[Row]:
    """The rows of a JSONL, JSON, CSV or Parquet file, at least one.

    Args:
        path: The file; its suffix says the format.
        list_columns: Columns of a CSV file in which a cell that is a JSON list is read as one.

    Raises:
        BenchError: The file cannot be read, is malformed or has no rows.
    """
    if path.suffix == ".parquet":
        rows = _read_parquet(path)
    else:
        text = read_text(path)
        rows = _read_csv(path, text, list_columns) if path.suffix == ".csv" else _read_json(path, text)
    if not rows:
        raise BenchError(f"{path}: found no rows, expected at least one")
    return rows


def read_text(path: Path) -> str:
    """The text of a UTF-8 file; a byte-order mark is dropped, line ends stay as they are.

    Raises:
        BenchError: The file cannot be read, is not UTF-8 or has NUL bytes.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BenchError(f"{path}: cannot be read ({error.strerror or error})") from None
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise BenchError(f"{path}: found UTF-16, expected UTF-8")
    raw = raw.removeprefix(codecs.BOM_UTF8)
    if (at := raw.find(b"\0")) >= 0:
        raise BenchError(f"{path}:{_line_and_column(raw, at)}: found a NUL byte, expected text")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        place = _line_and_column(raw, error.start)
        raise BenchError(f"{path}:{place}: found the byte 0x{raw[error.start]:02x}, expected UTF-8") from None


def _line_and_column(raw: bytes, at: int) -> str:
    line, column = raw.count(b"\n", 0, at) + 1, at - raw.rfind(b"\n", 0, at)
    return f"{line}:{column}"


def _read_json(path: Path, text: str) -> list[Row]:
    if path.suffix == ".json":
        listed = parse_json(text, lambda line, column: f"{path}:{line}:{column}")
        if not isinstance(listed, list):
            raise BenchError(f"{path}: found {json_type(listed)}, expected a list of objects")
        values = [(f"{path}, row {number}", number, value) for number, value in enumerate(listed, start=1)]
    else:
        values = [
            (f"{path}:{number}", number, parse_json(line, lambda _, column, number=number: f"{path}:{number}:{column}"))
            for number, line in enumerate(text.split("\n"), start=1)  # not splitlines(): U+2028 may stand in a JSON string
            if line.strip()
        ]
    for where, _, value in values:
        if not isinstance(value, dict):
            raise BenchError(f'{where}: found {json_type(value)}, expected an object {{"column": value, ...}}')
    return [Row(*value) for value in values]


def parse_json(text: str, place: Callable[..., str]) -> Any:
    """Strict JSON: no NaN, no repeated key, no half of a surrogate pair.

    Raises:
        BenchError: It is none; the message begins with ``place(line, column)``.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        found = f"found {shown(text[error.pos : error.pos + 20])}" if error.pos < len(text) else "it ends too early"
        raise BenchError(f"{place(error.lineno, error.colno)}: is no valid JSON ({error.msg}; {found})") from None
    except UnicodeEncodeError:
        raise BenchError(f"{place(1, 1)}: found half of a surrogate pair (\\ud800 to \\udfff), expected text") from None
    except (ValueError, RecursionError) as error:
        raise BenchError(f"{place(1, 1)}: is no valid JSON ({shown(str(error))})") from None
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        (repeated, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f'the key "{repeated}" stands twice')
    return result


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def csv_lines(path: Path, text: str, delimiter: str = ",") -> Iterator[tuple[str, list[str]]]:
    """Where each line of a CSV begins (``file:line``) and its cells, the header too; empty lines have none. Raises BenchError."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    # The default refuses cells of more than 131,072 characters. The limit is the process's, so it only grows: others may be at work.
    csv.field_size_limit(max(len(text), csv.field_size_limit()))
    start = 1
    try:
        for cells in reader:
            yield f"{path}:{start}", cells
            start = reader.line_num + 1
    except csv.Error as error:
        raise BenchError(f"{path}:{reader.line_num}: is no valid CSV ({error})") from None


def _read_csv(path: Path, text: str, list_columns: Sequence[str]) -> list[Row]:
    lines = csv_lines(path, text)
    rows: list[Row] = []
    _, header = next(lines, ("", []))
    if not header or any(not name.strip() for name in header) or len(set(header)) < len(header):
        raise BenchError(f"{path}:1: found the header {shown(','.join(header))}, expected column names, each once")
    for where, cells in lines:
        if not cells:
            continue
        if len(cells) != len(header):
            raise BenchError(f"{where}: found {len(cells)} cells, expected {len(header)} ({', '.join(header)})")
        values: dict[str, Any] = dict(zip(header, cells, strict=True))
        for name in list_columns:
            values |= {name: _list_or_text(values[name])} if name in values else {}
        rows.append(Row(where, len(rows) + 1, values))
    return rows


def _list_or_text(cell: str) -> Any:
    if not cell.lstrip().startswith("["):
        return cell
    try:
        return parse_json(cell, lambda *_: "")
    except BenchError:  # a text that begins with a bracket
        return cell


def _read_parquet(path: Path) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        values = pyarrow.parquet.ParquetFile(path).read().to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise BenchError(f"{path}: is no readable Parquet file ({shown(str(error))})") from None
    return [Row(f"{path}, row {number}", number, value) for number, value in enumerate(values, start=1)]


def json_type(value: object) -> str:
    """What a value is called in JSON, for messages."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
