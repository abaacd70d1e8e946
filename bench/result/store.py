"""Where records live: ``results/<run>/run.json`` and ``cells/<task>/<strategy>/s<seed>/{record.json,items.jsonl}``.

Nothing is ever half-written under its final name: a file is written beside its place, forced to disk and renamed. Items are
appended as they are produced to ``items.jsonl.partial-<cell_id>``, so that a killed cell resumes and only under its own id.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar
from urllib.parse import quote, unquote

from pydantic import BaseModel, TypeAdapter, ValidationError

from bench.errors import BenchError, did_you_mean
from bench.result.schema import (
    SCHEMA_VERSION,
    VOLATILE_ITEM_FIELDS,
    VOLATILE_MERGING_FIELDS,
    VOLATILE_PROBE_DETAILS,
    VOLATILE_PROBE_FIELDS,
    VOLATILE_RECORD_FIELDS,
    VOLATILE_TRAINING_FIELDS,
    VOLATILE_TRIAL_FIELDS,
    Item,
    Record,
    Run,
    ScoredItem,
)

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

ITEMS = "items.jsonl"
PARTIAL = ITEMS + ".partial-"


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a whole file or nothing: temporary name in the same folder, fsync, rename.

    Raises BenchError when the folder cannot be written or the disk is full; the temporary file is removed then.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        _remove(temporary)
        raise _cannot_write(path, error) from error


def to_json(value: BaseModel | dict[str, Any], *, indent: int | None = 2) -> str:
    """JSON in the order of the model's fields, UTF-8 as it is, floats in their shortest exact form.

    Raises BenchError for NaN and infinity: a number that is undefined is left out of a record, never written.
    """
    # Looked for before the dump: pydantic turns an infinity under an untyped key into null.
    bad = _first_not_finite(value.model_dump() if isinstance(value, BaseModel) else value)
    if bad:
        name = type(value).__name__
        raise BenchError(f"cannot write {name}: key {bad[0]} is {bad[1]}, expected a finite number (leave out what is undefined)")
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return json.dumps(plain, indent=indent, ensure_ascii=False, allow_nan=False)


def folder_name(name: str) -> str:
    """A task's or strategy's name as one safe folder name; ``original_name`` is its inverse."""
    encoded = quote(name, safe="()+,=@")
    if encoded.startswith("."):
        encoded = "%2E" + encoded[1:]
    if not encoded or len(encoded) > 200:
        found = f'"{name[:60]}" ({len(encoded)} characters after escaping)'
        raise BenchError(f"cannot make a folder for the name {found}: expected 1 to 200 characters")
    return encoded


def original_name(folder: str) -> str:
    """The name that ``folder_name`` was given."""
    return unquote(folder)


def comparable(entry: Record | Item) -> dict[str, Any]:
    """The entry without what may differ between two runs of the same cell (times, memory, environment)."""
    plain = entry.model_dump(mode="json")
    if isinstance(entry, Item):
        return {key: value for key, value in plain.items() if key not in VOLATILE_ITEM_FIELDS}
    plain["trials"] = [{key: value for key, value in trial.items() if key not in VOLATILE_TRIAL_FIELDS} for trial in plain["trials"]]
    # A value in seconds or joules is a measurement of the machine.
    plain["probes"] = {
        name: {key: value for key, value in probe.items() if key not in VOLATILE_PROBE_FIELDS}
        | {"details": {key: value for key, value in probe["details"].items() if key not in VOLATILE_PROBE_DETAILS}}
        | {"values": {key: value for key, value in probe["values"].items() if not key.endswith(("_seconds", "_joules"))}}
        for name, probe in plain["probes"].items()
    }
    if plain["merging"]:
        plain["merging"] = {key: value for key, value in plain["merging"].items() if key not in VOLATILE_MERGING_FIELDS}
    if plain["training"]:
        plain["training"] = {key: value for key, value in plain["training"].items() if key not in VOLATILE_TRAINING_FIELDS}
    return {key: value for key, value in plain.items() if key not in VOLATILE_RECORD_FIELDS}


@contextlib.contextmanager
def locked(results: Path, name: str) -> Iterator[None]:
    """Hold the run `name` of a results folder, so that two commands never write the same cells.

    Raises BenchError where another process holds it, or the folder cannot be written. The system lets go of it when the
    process ends, however it ends.
    """
    path = results / f".{folder_name(name)}.lock"
    try:
        results.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise _cannot_write(path, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BenchError(f"{results / name}: another bench run is at work on it; wait for it, or give another --name") from None
        yield


class RunFolder:
    """One run on disk. Making the object touches nothing; ``create`` makes the folder."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    def create(self) -> Self:
        """Make the folder if it is not there and check that it can be written. Raises BenchError."""
        probe = self.path / f".writable.{os.getpid()}.tmp"
        try:
            (self.path / "cells").mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"x")
            probe.unlink()
        except OSError as error:
            _remove(probe)
            raise _cannot_write(self.path, error) from error
        return self

    def write_run(self, run: Run) -> None:
        """Write ``run.json``. Raises BenchError."""
        write_atomic(self.path / "run.json", to_json(run) + "\n")

    def read_run(self) -> Run:
        """Read ``run.json``. Raises BenchError where it is missing, broken or of a newer version."""
        path = self.path / "run.json"
        if not path.exists():
            raise BenchError(f"{self.path}: no run here: expected the file run.json")
        return _read_model(path, Run)

    def cell_folder(self, task: str, strategy: str, seed: int) -> Path:
        """The folder of a cell, which need not exist."""
        return self.path / "cells" / folder_name(task) / folder_name(strategy) / f"s{seed}"

    def write_record(self, record: Record) -> None:
        """Write ``record.json``: the last file of a cell, so that a record means that the cell is done. Raises BenchError."""
        write_atomic(self.cell_folder(record.task, record.strategy, record.seed) / "record.json", to_json(record) + "\n")

    def write_probe_items(self, record: Record, items: dict[str, dict[str, Mapping[str, float]]]) -> None:
        """Write ``probes.json``: probe -> value -> item id -> score. Raises BenchError."""
        path = self.cell_folder(record.task, record.strategy, record.seed) / "probes.json"
        write_atomic(path, to_json(dict(items), indent=None) + "\n")

    def read_probe_items(self, task: str, strategy: str, seed: int) -> dict[str, dict[str, dict[str, float]]]:
        """As ``write_probe_items`` wrote them; empty where no probe has item scores. Raises BenchError."""
        path = self.cell_folder(task, strategy, seed) / "probes.json"
        if not path.exists():
            return {}
        try:
            found: dict[str, dict[str, dict[str, float]]] = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise BenchError(f"{path}: is broken ({error}); run the cell again") from None
        return found

    def write_texts(self, task: str, texts: Mapping[Literal["items", "passages"], Mapping[str, str]]) -> None:
        """Write ``texts/<task>.json``: what items hold only hashes and ids of. ``items``: id -> input; ``passages``: document id -> text.

        A file that holds just this is left as it is. Raises BenchError.
        """
        path = self.path / "texts" / f"{folder_name(task)}.json"
        content = to_json({kind: dict(of_kind) for kind, of_kind in texts.items()}, indent=0) + "\n"
        if not path.exists() or _read_bytes(path) != content.encode("utf-8"):
            write_atomic(path, content)

    def read_texts(self, task: str) -> dict[Literal["items", "passages"], dict[str, str]]:
        """As ``write_texts`` wrote them; empty where the run has kept none. Raises BenchError for a file that is no texts."""
        path = self.path / "texts" / f"{folder_name(task)}.json"
        return _parse(_read_bytes(path), _texts().validate_json, str(path)) if path.exists() else {}

    def read_record(self, task: str, strategy: str, seed: int) -> Record | None:
        """The record of a cell, or None where there is none. Raises BenchError where it is broken or of a newer version."""
        path = self.cell_folder(task, strategy, seed) / "record.json"
        return _read_record(path) if path.exists() else None

    def read_cell(self, cell: str) -> Record:
        """The record of ``task/strategy`` (seed 0) or ``task/strategy/s1``. Raises BenchError where the run has none."""
        parts = cell.split("/")
        if len(parts) not in (2, 3) or (len(parts) == 3 and not parts[2].removeprefix("s").isdecimal()):
            raise BenchError(f'cell "{cell}": expected task/strategy or task/strategy/s0')
        record = self.read_record(parts[0], parts[1], int(parts[2].removeprefix("s")) if len(parts) == 3 else 0)
        if record is None:
            known = [f"{r.task}/{r.strategy}/s{r.seed}" for r in self.records()]
            raise BenchError(f'{self.path}: no cell "{cell}"; {did_you_mean(cell, known)}')
        return record

    def records(self) -> Iterator[Record]:
        """All records in the order of task, strategy, seed. Raises BenchError at the first that cannot be read."""
        return map(_read_record, self.record_paths())

    def record_paths(self) -> list[Path]:
        """The ``record.json`` of every finished cell, in the same order."""
        return sorted((self.path / "cells").glob("*/*/s*/record.json"), key=_cell_order)

    def item_writer(self, task: str, strategy: str, seed: int, cell_id: str) -> ItemWriter:
        """An open writer for the items of a cell; what a killed run of the same cell id left is in its ``items``."""
        return ItemWriter(self.cell_folder(task, strategy, seed), cell_id)

    def read_items(self, task: str, strategy: str, seed: int) -> list[Item]:
        """The items of a finished cell. Raises BenchError where the file is missing or broken."""
        return _read_lines(self.cell_folder(task, strategy, seed) / ITEMS, Item.model_validate_json)

    def read_scores(self, task: str, strategy: str, seed: int) -> list[ScoredItem]:
        """As `read_items`, but only what tables and statistics need is read and checked."""
        return _read_lines(self.cell_folder(task, strategy, seed) / ITEMS, _scored_items().validate_json)


class ItemWriter:
    """Appends the items of one cell and flushes each; ``finish`` makes the file whole.

    The partial file carries the cell id in its name: one that another cell id left is deleted, never continued. A last line that
    a killed process left broken is cut off. Use as a context manager: leaving it without ``finish`` keeps the partial file.
    """

    def __init__(self, folder: Path, cell_id: str) -> None:
        self.folder = folder
        self.path = folder / (PARTIAL + folder_name(cell_id))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for other in folder.glob(PARTIAL + "*"):
                if other != self.path:
                    other.unlink()
            self.items, size = _whole_lines(self.path)
            self._file = self.path.open("ab")
            self._file.truncate(size)
        except OSError as error:
            raise _cannot_write(self.path, error) from error
        self._ids = {item.id for item in self.items}

    def read_partial(self) -> list[Item]:
        """The items that are already there, in the order in which they were written."""
        return list(self.items)

    def append(self, item: Item) -> None:
        """Write one item and flush it. Raises BenchError for an id that was written before, or when the disk is full."""
        if item.id in self._ids:
            raise BenchError(f'{self.path}: item "{item.id}" is written twice: item ids must be unique in a task')
        line = to_json(item, indent=None) + "\n"
        try:
            self._file.write(line.encode("utf-8"))
            self._file.flush()
        except OSError as error:
            raise _cannot_write(self.path, error) from error
        self.items.append(item)
        self._ids.add(item.id)

    def finish(self, ids: Sequence[str] | None = None) -> Path:
        """Make ``items.jsonl`` and return its path.

        ``ids``: the items that must be there, in the order to write them in (default: as they came). Batches and resumed cells
        answer in an order of their own; the file should not depend on it. Raises BenchError where one is missing.
        """
        by_id = {item.id: item for item in self.items}
        if ids is not None and (set(ids) != by_id.keys() or len(ids) != len(by_id)):
            odd = next(iter(sorted(set(ids) ^ by_id.keys())), "an id given twice")
            raise BenchError(f"{self.path}: found {len(by_id)} items, expected {len(ids)} (first difference: {odd})")
        self.close()
        try:
            # Old record first: a record must never stand beside items of another cell id.
            _remove(self.folder / "record.json")
            ordered = self.items if ids is None else [by_id[i] for i in ids]
            write_atomic(self.folder / ITEMS, "".join(to_json(item, indent=None) + "\n" for item in ordered))
            self.path.unlink()
        except OSError as error:
            raise _cannot_write(self.path, error) from error
        return self.folder / ITEMS

    def close(self) -> None:
        """Close the partial file and leave it there. Raises BenchError when what is buffered no longer fits on the disk."""
        try:
            self._file.close()
        except OSError as error:
            raise _cannot_write(self.path, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
        if not self.items:
            _remove(self.path)  # nothing to resume from


def json_schemas() -> dict[str, str]:
    """The JSON Schemas of the contract, by file name, as committed in ``docs/schema``."""
    return {
        f"{name}.schema.json": to_json({"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}) + "\n"
        for name, model in (("record", Record), ("item", Item), ("run", Run))
    }


def write_json_schemas(folder: Path) -> None:
    """Write the JSON Schemas; ``python -m bench.result.store docs/schema`` does it for the committed ones."""
    for name, text in json_schemas().items():
        write_atomic(folder / name, text)


def _whole_lines(path: Path) -> tuple[list[Item], int]:
    """The items of a partial file up to its first broken line, and the bytes that they take."""
    items: list[Item] = []
    size = 0
    if path.exists():
        for line in path.read_bytes().split(b"\n")[:-1]:
            try:
                items.append(Item.model_validate_json(line))
            except ValidationError:
                break
            size += len(line) + 1
    return items, size


def _read_record(path: Path) -> Record:
    record = _read_model(path, Record)
    found = (folder_name(record.task), folder_name(record.strategy), f"s{record.seed}")
    if found != path.parts[-4:-1]:
        raise BenchError(f"{path}: holds the cell {'/'.join(found)}, expected {'/'.join(path.parts[-4:-1])}: was the folder moved?")
    return record


@cache
def _scored_items() -> TypeAdapter[ScoredItem]:
    return TypeAdapter(ScoredItem)


@cache
def _texts() -> TypeAdapter[dict[Literal["items", "passages"], dict[str, str]]]:
    return TypeAdapter(dict[Literal["items", "passages"], dict[str, str]])


def _read_model(path: Path, model: type[M]) -> M:
    data = _read_bytes(path)
    return _parse(data, model.model_validate_json, str(path), check=lambda plain: _check_version(plain, path))


def _read_lines(path: Path, validate: Callable[[bytes], T]) -> list[T]:
    lines = _read_bytes(path).split(b"\n")
    if lines[-1]:
        raise BenchError(f"{path}: line {len(lines)} is cut off: expected a newline at its end; run the cell again")
    try:
        return [validate(line) for line in lines[:-1]]
    except ValidationError:  # which line, and what is wrong with it, takes more time to find out than most files need
        return [_parse(line, validate, f"{path}: line {number}") for number, line in enumerate(lines[:-1], start=1)]


def _parse(data: bytes, validate: Callable[[bytes], T], where: str, check: Callable[[dict[str, Any]], None] | None = None) -> T:
    try:
        plain = json.loads(data)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BenchError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(plain, dict):
        raise BenchError(f"{where}: found {type(plain).__name__}, expected a JSON object")
    if check is not None:
        check(plain)
    try:
        return validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"])) or "(whole)"
        found = "" if first["type"] == "missing" else f", found {str(first['input'])[:60]!r}"
        raise BenchError(f"{where}: key {key}: {first['msg']}{found}") from error


def _check_version(plain: dict[str, Any], path: Path) -> None:
    version = plain.get("schema_version", SCHEMA_VERSION)
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise BenchError(f"{path}: schema_version {version!r} is newer than this version of bench reads ({SCHEMA_VERSION}): update bench")


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise BenchError(f"{path}: file is missing") from error
    except OSError as error:
        raise BenchError(f"{path}: cannot be read: {error.strerror}") from error


def _cell_order(path: Path) -> tuple[str, str, int]:
    task, strategy, seed = path.parts[-4:-1]
    return original_name(task), original_name(strategy), int(seed[1:]) if seed[1:].lstrip("-").isdecimal() else 0


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # the error that led here is the one to report


def _cannot_write(path: Path, error: OSError) -> BenchError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        reason = "the disk is full (or its quota); free some space and run again: finished cells are kept"
    elif error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
        reason = "a file or folder of another kind is in the way; choose another name or remove it"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        reason = f"no permission to write ({error.strerror}); choose another folder with --results"
    else:
        reason = error.strerror or str(error)
    return BenchError(f"{path}: cannot be written: {reason}")


def _first_not_finite(value: Any, where: str = "") -> tuple[str, float] | None:
    """Key path and value of the first NaN or infinity."""
    if isinstance(value, float) and not abs(value) < float("inf"):
        return where or "value", value
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, inner in pairs:
        found = _first_not_finite(inner, f"{where}.{key}" if where else str(key))
        if found:
            return found
    return None


if __name__ == "__main__":
    write_json_schemas(Path(sys.argv[1]))
