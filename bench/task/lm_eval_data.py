"""The rows of a lm-evaluation-harness task: from local files, a local data set or the hub."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from bench.errors import BenchError, did_you_mean
from bench.settings import shown
from bench.task.lm_eval_config import LmEvalTask

FILES: Final = ("json", "csv", "parquet")


def read_docs(task: LmEvalTask, path: Path, data: Path | None, names: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """The rows of the splits `names`, as lm-evaluation-harness reads them: by ``datasets``.

    Args:
        task: Says which data set, with the keys ``dataset_path``, ``dataset_name`` and ``dataset_kwargs``.
        path: The task file, beside which data files are looked for too.
        data: Where the data files lie, or the data set itself in place of ``dataset_path``.
        names: Splits.

    Raises:
        BenchError: The data cannot be read, or have no such split.
    """
    from datasets import DatasetDict, disable_progress_bars, load_dataset  # type: ignore[import-untyped]

    roots = [data] if data else [Path(), path.parent]
    source = task.dataset_path
    given: dict[str, Any] = task.dataset_kwargs.model_dump(exclude_none=True, exclude={"trust_remote_code"})
    if "data_files" in given:
        given["data_files"] = _found(given["data_files"], roots, str(path))
    elif source not in FILES:
        source = str(data or next((root / source for root in roots if (root / source).is_dir()), source))
    elif not data:
        raise BenchError(f"{path}: dataset_kwargs.data_files: is missing; expected it with dataset_path {source}, or --data FOLDER")
    else:
        given["data_dir"] = str(data)
    disable_progress_bars()
    try:
        with tempfile.TemporaryDirectory() as cache:
            loaded = load_dataset(source, task.dataset_name, cache_dir=cache, **given)
            if not isinstance(loaded, DatasetDict):
                raise BenchError(f"{path}: dataset_path: found no splits in {source}")
            for name in names:
                if name not in loaded:
                    raise BenchError(f"{path}: the data have no split {shown(name)}; {did_you_mean(name, map(str, loaded))}")
            return {name: [dict(row) for row in loaded[name]] for name in names}
    except BenchError:
        raise
    except Exception as error:  # the library raises whatever its transport, cache and parsers raise
        reason = (str(error).splitlines() or [""])[0]
        raise BenchError(f"{path}: dataset_path: {source} cannot be read ({type(error).__name__}: {shown(reason, 200)})") from None


def _found(files: Any, roots: Sequence[Path], where: str) -> Any:
    """Data files with relative paths looked for in the folders, in their order."""
    if isinstance(files, dict):
        return {split: _found(each, roots, where) for split, each in files.items()}
    if isinstance(files, list):
        return [_found(each, roots, where) for each in files]
    if "://" in files or Path(files).is_absolute():
        return files
    for root in roots:
        if any(root.glob(files)):
            return str((root / files).absolute())
    raise BenchError(f"{where}: dataset_kwargs.data_files: found no {shown(files)} in {' or '.join(str(r.absolute()) for r in roots)}")
