"""Read the data that a task is made from: one file, a folder with a file for each split, or a data set of the hub."""

from __future__ import annotations

import ast
import hashlib
import json
import keyword
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.errors import BenchError
from bench.settings import shown
from bench.task.rows import SPLITS, Row, csv_lines, read_rows, read_text

SPLIT_NAMES: Final = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
"""How files, columns and hub sets call the splits."""
_TABLES: Final = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
_LABELLED: Final = ("split", "subset", "partition")


@dataclass(frozen=True)
class Source:
    """Rows as they were found, by split; where the data names no splits, all are under the empty name."""

    name: str
    """As the user gave it."""
    files: dict[str, str]
    """SHA-256 by file name; empty for a hub set."""
    rows: dict[str, list[Row]]
    columns: tuple[str, ...]
    """Each is a name that a template can write."""
    notes: tuple[str, ...]
    """What was changed or left out while reading."""


def read_source(name: str, config: str | None = None, revision: str | None = None) -> Source:
    """The rows of a .csv, .tsv, .jsonl, .json or .parquet file, of a folder with one for each split, or of a hub id (``org/name``).

    Args:
        name: The file, folder or hub id.
        config: Configuration of a data set that has several: of a hub id, or of a folder that is a copy of one (README.md names them).
        revision: Commit, branch or tag of a hub id.

    Raises:
        BenchError: There is no such thing, it cannot be read, is malformed or has no rows, or `config` or `revision` has no meaning.
    """
    path, files, notes = Path(name).expanduser(), {}, []
    if revision is not None and path.exists():
        raise BenchError(f"--data-revision: found {revision}, expected none, since {name} lies here (it is for a hub id)")
    if config is not None and path.is_file():
        raise BenchError(f"--data-config: found {config}, expected none, since {name} is a file")
    if path.is_dir() and config is not None:
        rows = _read_set(str(path), config, None)
    elif path.is_dir():
        parts = _split_files(path)
        rows = {split: read_table(file) for split, file in parts.items()}
        files = {file.name: _sha256(file) for file in parts.values()}
    elif path.is_file():
        rows, files = {"": read_table(path)}, {path.name: _sha256(path)}
    elif re.fullmatch(r"(?!\.)[\w.-]+/(?!\.)[\w.-]+", name) and path.suffix not in _TABLES:
        rows = _read_set(name, config, revision)
    else:
        raise BenchError(f"--from: found no file or folder {name}, expected one ({', '.join(_TABLES)}) or a hub id (org/name)")
    rows = _by_column(rows) if list(rows) == [""] else rows
    rows = {"": next(iter(rows.values()))} if len(rows) == 1 else rows  # one split alone is no split
    rows, renamed = _renamed(rows)
    notes += [f"column {shown(old)} is called {new} here, which a template can write" for old, new in renamed.items()]
    columns = dict.fromkeys(column for split in rows.values() for row in split for column in row.values)
    return Source(name, files, rows, tuple(columns), tuple(notes))


def read_table(path: Path) -> list[Row]:
    """The rows of one file, at least one. In .csv and .tsv a column of lists (JSON, or as Python prints them) is read as such.

    Raises:
        BenchError: The file is of another kind, cannot be read, is malformed or has no rows; the message says file and line.
    """
    if path.suffix.lower() not in _TABLES:
        raise BenchError(f"{path}: found a file of kind {path.suffix or 'none'}, expected {', '.join(_TABLES)}")
    if path.suffix.lower() not in (".csv", ".tsv"):
        return read_rows(path)
    try:
        text = read_text(path)
    except BenchError as error:
        hint = "; save it as UTF-8 (in a spreadsheet: CSV UTF-8)" if str(error).endswith("expected UTF-8") else ""
        raise BenchError(f"{error}{hint}") from None
    if not text.strip():
        raise BenchError(f"{path}: is empty, expected a header and rows")
    return _read_delimited(path, text)


def _read_delimited(path: Path, text: str) -> list[Row]:
    head = text.split("\n", 1)[0]
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=head.count)
    lines = csv_lines(path, text, delimiter)
    rows: list[Row] = []
    header = _header(next(lines)[1], path)
    for where, cells in lines:
        if not cells:
            continue
        if len(cells) != len(header):
            found = f"{where}: found {len(cells)} cells, expected {len(header)} ({shown(', '.join(header))})"
            raise BenchError(f"{found}; a cell with {delimiter!r} in it needs quotes")
        rows.append(Row(where, len(rows) + 1, dict(zip(header, cells, strict=True))))
    if not rows:
        raise BenchError(f"{path}: found a header and no rows, expected at least one")
    _read_lists(header, rows)
    return rows


def _header(cells: Sequence[str], path: Path) -> list[str]:
    names = [cell.strip() or f"column_{number}" for number, cell in enumerate(cells, start=1)]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise BenchError(f"{path}:1: the column {shown(twice[0])} stands twice in the header, expected each once")
    return names


def _read_lists(header: Sequence[str], rows: Sequence[Row]) -> None:
    """Where every cell of a column that is not empty is a list, make it one."""
    for name in header:
        cells = [row.values[name] for row in rows]
        if not any(cell.strip() for cell in cells) or not all(cell.strip().startswith("[") for cell in cells if cell.strip()):
            continue
        lists = [_list(cell) if cell.strip() else [] for cell in cells]
        if None not in lists:
            for row, found in zip(rows, lists, strict=True):
                row.values[name] = found


def _list(cell: str) -> list[Any] | None:
    try:
        found = json.loads(cell)
    except ValueError:
        try:  # pandas writes lists as Python does, with single quotes
            found = ast.literal_eval(cell.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    return found if isinstance(found, list) else None


def _split_files(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        split = SPLIT_NAMES.get(path.stem.lower())
        if split is None or path.suffix.lower() not in _TABLES:
            continue
        if split in found:
            raise BenchError(f"{folder}: found {found[split].name} and {path.name}, expected one {split} file")
        found[split] = path
    if "train" not in found:
        raise BenchError(f"{folder}: found no train file, expected train and test ({', '.join(_TABLES)}); or give one file")
    return {split: found[split] for split in SPLITS if split in found}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_set(name: str, config: str | None, revision: str | None) -> dict[str, list[Row]]:
    """The rows of a data set of the hub, or of a folder that is a copy of one."""
    from datasets import ClassLabel, DatasetDict, load_dataset  # type: ignore[import-untyped]

    try:
        loaded = load_dataset(name, config, revision=revision)
    except Exception as error:  # the hub client raises whatever its transport, cache and parsers raise
        if (several := re.search(r"\[.*\]", str(error))) and str(error).startswith(("Config name is missing", "BuilderConfig")):
            raise BenchError(f"--data-config: found {shown(config) if config else 'none'}, expected one of {several[0]}") from error
        reason = (str(error).splitlines() or [""])[0]
        missing = "the folder cannot be read" if Path(name).is_dir() else "no such file, and the hub gives no such set"
        raise BenchError(f"--from {name}: {missing} ({type(error).__name__}: {reason[:200]})") from error
    rows: dict[str, list[Row]] = {}
    for given, table in loaded.items() if isinstance(loaded, DatasetDict) else [("", loaded)]:
        split = SPLIT_NAMES.get(given, given)
        if split not in ("", *SPLITS):
            continue
        names = {column: feature.int2str for column, feature in table.features.items() if isinstance(feature, ClassLabel)}
        rows[split] = []
        for number, values in enumerate(table, start=1):
            classes = {c: text(values[c]) for c, text in names.items() if isinstance(values[c], int) and values[c] >= 0}
            rows[split].append(Row(f"{name}/{given}, row {number}", number, {**values, **classes}))
    if not any(rows.values()):
        raise BenchError(f"--from {name}: found no rows in train, validation or test")
    return rows


def _by_column(rows: Mapping[str, list[Row]]) -> dict[str, list[Row]]:
    """Rows by the values of a column that names the splits, if there is one; it is then left out."""
    everything = rows[""]
    for column in _LABELLED:
        named = [SPLIT_NAMES.get(str(row.values.get(column)).strip().lower()) for row in everything]
        if None in named or not {"train"} < set(named):
            continue
        return {
            split: [
                Row(row.where, row.number, {key: value for key, value in row.values.items() if key != column})
                for row, own in zip(everything, named, strict=True)
                if own == split
            ]
            for split in SPLITS
            if split in named
        }
    return dict(rows)


def _renamed(rows: Mapping[str, list[Row]]) -> tuple[dict[str, list[Row]], dict[str, str]]:
    """The rows with column names that a Jinja template can write, and the new name of each that was none."""
    names: dict[str, str] = {}
    taken = {column for split in rows.values() for row in split for column in row.values if _writable(column)}
    for column in dict.fromkeys(column for split in rows.values() for row in split for column in row.values):
        if column in taken:
            continue
        new = re.sub(r"\W+", "_", column).strip("_") or "column"
        new = new if _writable(new) else f"column_{new}"
        while new in taken:
            new += "_"
        taken.add(new)
        names[column] = new
    if not names:
        return dict(rows), names
    return {
        split: [Row(row.where, row.number, {names.get(key, key): value for key, value in row.values.items()}) for row in found]
        for split, found in rows.items()
    }, names


def _writable(name: str) -> bool:
    return name.isidentifier() and not keyword.iskeyword(name) and name not in ("true", "false", "none")
