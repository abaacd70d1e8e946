"""Query vectors on disk, shared by all cells and trials that ask the same texts."""

from __future__ import annotations

import hashlib
import json
import time
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from bench.cost.meter import Meter
from bench.strategy.embedder import Embedder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_FORMAT = 1


class _Cached(NamedTuple):
    """A file's content."""

    vectors: npt.NDArray[np.float32]
    seconds: npt.NDArray[np.float64]
    """What it took: a row for embedding and one for loading the model, each (wall, CPU)."""


class CachedEmbedder(Embedder):
    """An embedder that keeps the vectors of queries in a folder and charges a meter as if nobody had kept any.

    A file holds the vectors of one list of texts, in order: a text's vector differs by about 1e-7 when its batch differs, so
    vectors of single texts would depend on what was asked before. Vectors of passages are not kept: a store holds them.

    What a cell finds kept is charged as it took the one that made it: embedding in the phase that asks, and only the first time;
    loading the model in the phase ``load``, once. A model that is loaded here is charged there, too, whichever phase needed it.
    """

    def __init__(self, name: str, folder: Path, meter: Meter) -> None:
        """Find the model, as `Embedder` does; `folder` is made when there is something to keep."""
        super().__init__(name)
        self._kept = folder
        self._meter = meter
        self._paid: set[Path] = set()
        self._load_paid = False

    def load(self) -> SentenceTransformer:
        if self._model is not None:
            return self._model
        model = super().load()
        wall, cpu = self.load_seconds
        self._meter.add_seconds(-wall, -cpu)
        self._pay_load(wall, cpu)
        return model

    def embed(self, texts: Sequence[str], role: Literal["passage", "query"] = "passage") -> npt.NDArray[np.float32]:
        """As `Embedder.embed`; a damaged file is made anew, and a folder that cannot be written keeps nothing."""
        if role == "passage" or not texts:
            return super().embed(texts, role)
        file = self._kept / f"{self._key(texts, role)}.npz"
        cached = _read(file, len(texts))
        if cached is None:
            self.load()
            wall, cpu = time.perf_counter(), time.process_time()
            vectors = super().embed(texts, role)
            seconds = np.array([(time.perf_counter() - wall, time.process_time() - cpu), self.load_seconds])
            cached = _Cached(vectors, seconds)
            _write(file, cached)
        elif file not in self._paid:
            embedding, loading = cached.seconds.tolist()
            self._meter.add_seconds(*embedding)
            self._pay_load(*loading)
        self._paid.add(file)
        return cached.vectors

    def _pay_load(self, wall: float, cpu: float) -> None:
        if not self._load_paid:
            self._meter.add_seconds(wall, cpu, "load")
        self._load_paid = True

    def _key(self, texts: Sequence[str], role: str) -> str:
        made_of = {"format": _FORMAT, "embedder": self.fingerprint, "role": role, "texts": list(texts)}
        return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


def _read(file: Path, n: int) -> _Cached | None:
    """What a file holds for `n` texts, or None where it is not there whole and sound."""
    try:
        with file.open("rb") as stream:
            # numpy itself compares no checksum where a damaged header makes it read less than there is.
            if zipfile.ZipFile(stream).testzip() is not None:
                return None
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as found:
                cached = _Cached(found["vectors"], found["seconds"])
    except Exception:  # of many kinds, numpy's, zipfile's and zlib's; whatever it is, the file is made anew
        return None
    sound = cached.vectors.dtype == np.float32 and cached.vectors.ndim == 2 and len(cached.vectors) == n
    return cached if sound and cached.seconds.shape == (2, 2) else None


def _write(file: Path, cached: _Cached) -> None:
    """Put a file in place whole, or leave it: whoever cannot write has to embed again, and that is all."""
    temporary = file.with_name(f".{file.name}.{uuid4().hex}")
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as stream:
                np.savez(stream, vectors=cached.vectors, seconds=cached.seconds)
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
