"""The retrieval store: chunks, their vectors in a FAISS index, and both on disk. Imports neither torch nor faiss until used.

A store's folder is named by the SHA-256 of all that it is made of, so it never changes once it stands: a store whose
documents change moves to another folder, and two processes that build the same one write the same files, but for what it
took them.
"""

from __future__ import annotations

import difflib
import errno
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from bench.errors import BenchError
from bench.strategy.chunk import Chunk, chunk_passages
from bench.strategy.embedder import DEFAULT_EMBEDDER, Embedder
from bench.strategy.index import IndexKind, faiss_threads, new_index
from bench.task.schema import Passage

_FORMAT = 1
_INDEX, _CHUNKS, _META, _COST = "index.faiss", "chunks.jsonl", "meta.json", "build_cost.json"
_COST_KEYS = ("wall_seconds", "cpu_seconds")
# What faiss gives in place of an id where an approximate index finds fewer than asked for.
_NONE = -1
# Scores closer than this are a tie: the same text gets vectors that differ by about 1e-7 when its batch differs.
_TIE = 1e-6


class StoreSettings(BaseModel):
    """How a store is made. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    embedder: str = DEFAULT_EMBEDDER
    """The default one, a folder or a hub id of a sentence-transformers model."""
    chunk_words: int = Field(default=120, ge=1)
    """A chunk's words at most. The embedder reads only as far as its own limit (the default one: 256 tokens)."""
    chunk_overlap: int = Field(default=20, ge=0)
    """Words at most that a chunk shares with the one before."""
    index: IndexKind = "flat"
    """``flat``: exact search by inner product. ``hnsw``: a graph over the vectors (Malkov and Yashunin 2016, arXiv 1603.09320);
    may miss a neighbour, scores exactly. ``ivfpq``: compressed vectors in lists (Jégou et al. 2011), many times smaller; scores
    are estimates. Flat is the right one below some 100,000 chunks."""

    @model_validator(mode="after")
    def _overlap_below_size(self) -> StoreSettings:
        if self.chunk_overlap >= self.chunk_words:
            raise ValueError(f"chunk_overlap: found {self.chunk_overlap}; expected less than chunk_words, which is {self.chunk_words}")
        return self


@dataclass(frozen=True)
class Hit:
    """A chunk that was found; `score` is the cosine of its and the query's vectors (``ivfpq``: an estimate of it)."""

    chunk: Chunk
    score: float


class Store:
    """Chunks of documents, found by meaning. Made by `build_or_open`; not for use by two threads at once."""

    def __init__(self, root: Path, embedder: Embedder, settings: StoreSettings, documents: dict[str, str], threads: int) -> None:
        self.settings = settings
        self.built = False
        """Whether `build_or_open` had to build it."""
        self.build_seconds = (0.0, 0.0)
        """(wall, CPU) of making it: embedding and indexing, also where an earlier process did that."""
        self._root = root
        self._embedder = embedder
        self._threads = threads
        self._documents = documents
        self._index: Any = None
        self._chunks: dict[int, Chunk] = {}
        self._derived: Path | None = None

    @classmethod
    def build_or_open(
        cls, folder: Path, passages: Sequence[Passage], embedder: Embedder, settings: StoreSettings, *, threads: int = 1
    ) -> Store:
        """The store of these passages in its own folder under `folder`: read if it is there whole, built otherwise.

        It is built anew only when the corpus, the chunking, the embedder or the kind of index changes, or when its files
        are damaged. `threads` is how many faiss may use for a search.

        Raises `BenchError` for an empty corpus, a document id that comes twice, a passage without text, an embedder that is
        not the settings' own, and a folder that cannot be written.
        """
        if embedder.name != settings.embedder:
            raise BenchError(f'store: found an embedder "{embedder.name}"; expected "{settings.embedder}" as set')
        if not passages:
            raise BenchError("store: the corpus is empty; expected at least one passage")
        store = cls(folder, embedder, settings, _digests(passages), threads)
        found = store._read(store.folder)
        if found is None:
            store.built = True
            with store._timed():
                store._index = new_index(settings.index, np.zeros((0, embedder.dimension), dtype=np.float32))
                store._insert(passages)
            store.save()
            store._derived = None
        else:
            store._index, store._chunks, store.build_seconds = found
        return store

    @property
    def key(self) -> str:
        """SHA-256 over the documents' ids and texts in order, the chunking, the embedder and the kind of index."""
        made_of = {
            "format": _FORMAT,
            "settings": self.settings.model_dump(mode="json", include=set(StoreSettings.model_fields) - {"embedder"}),
            "embedder": self._embedder.fingerprint,
            "documents": list(self._documents.items()),
        }
        return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()

    @property
    def folder(self) -> Path:
        """Where this store is, or will be once saved."""
        return self._root / self.key

    @property
    def size_bytes(self) -> int:
        """What the store's own files take on disk: vectors, chunks and metadata."""
        folder = self.folder
        return sum((folder / name).stat().st_size for name in (_INDEX, _CHUNKS, _META))

    @property
    def document_ids(self) -> tuple[str, ...]:
        """The documents in the store, in order."""
        return tuple(self._documents)

    def __len__(self) -> int:
        """How many chunks it holds."""
        return len(self._chunks)

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Hit]]:
        """The `top_k` nearest chunks of each query, best first; fewer where the store holds, or an approximate index finds, fewer.

        Several chunks of one document may be among them. Scores within 1e-6 are a tie, and then the earlier chunk is first.

        Raises `BenchError` for a `top_k` below 1.
        """
        if top_k < 1:
            raise BenchError(f"store: found top_k {top_k}; expected 1 or more")
        if not queries or not self._chunks:
            return [[] for _ in queries]
        scores, ids = self._nearest(self._embedder.embed(queries, role="query"), min(top_k, len(self)))
        chunks = self._chunks
        rows = zip(ids.tolist(), scores.tolist(), strict=True)
        return [[Hit(chunks[i], s) for i, s in zip(*row, strict=True) if i != _NONE] for row in rows]

    def add(self, passages: Sequence[Passage]) -> None:
        """Take documents in without touching the others, after the last one, and save.

        Only a flat index takes them in as it is. An approximate one is built anew, so that it is the one a fresh build makes:
        ``hnsw`` from the vectors it holds, ``ivfpq``, which holds none, by embedding every chunk again.

        Raises `BenchError`, and leaves the store as it was, for an id that is already there or comes twice and for a passage
        without text; and where it cannot be saved.
        """
        new = _digests(passages)
        for document_id in new:
            if document_id in self._documents:
                raise BenchError(f'store: document "{document_id}" is already there; expected a new id (remove it first to replace it)')
        with self._timed():
            self._insert(passages)
        self._documents |= new
        self.save()

    def remove(self, document_ids: Iterable[str]) -> None:
        """Take documents out without touching the others, and save; approximate indexes are built anew as in `add`.

        Raises `BenchError`, and leaves the store as it was, for an id that is not there; and where it cannot be saved.
        """
        gone = set(document_ids)
        for document_id in sorted(gone - self._documents.keys()):
            near = difflib.get_close_matches(document_id, self._documents, n=1)
            hint = f'; did you mean "{near[0]}"?' if near else f"; it has {len(self._documents)} documents"
            raise BenchError(f'store: document "{document_id}" is not there{hint}')
        ids = [i for i, chunk in self._chunks.items() if chunk.document_id in gone]
        with self._timed():
            if self.settings.index == "flat":
                self._index.remove_ids(np.array(ids, dtype=np.int64))
                for i in ids:
                    del self._chunks[i]
            else:
                self._rebuild([chunk for chunk in self._chunks.values() if chunk.document_id not in gone])
        self._documents = {i: digest for i, digest in self._documents.items() if i not in gone}
        self.save()

    def save(self) -> None:
        """Write the store to its folder, whole or not at all; `build_or_open`, `add` and `remove` have done so already.

        A folder that an earlier `save` of this object made for documents since changed is deleted, any other is left.

        Raises `BenchError` where it cannot be written.
        """
        import faiss

        folder = self.folder
        temporary = None
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=self._root))
            faiss.write_index(self._index, str(temporary / _INDEX))
            lines = [json.dumps(vars(chunk), ensure_ascii=False) + "\n" for chunk in self._chunks.values()]
            (temporary / _CHUNKS).write_text("".join(lines), encoding="utf-8")
            meta = {
                "format": _FORMAT,
                "key": folder.name,
                "settings": self.settings.model_dump(mode="json", include=set(StoreSettings.model_fields) - {"embedder"}),
                "embedder": self._embedder.fingerprint,
                "dimension": self._embedder.dimension,
                "documents": len(self._documents),
                "chunks": len(self._chunks),
                "sha256": {name: _sha256(temporary / name) for name in (_INDEX, _CHUNKS)},
            }
            (temporary / _META).write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
            cost = dict(zip(_COST_KEYS, self.build_seconds, strict=True))
            (temporary / _COST).write_text(json.dumps(cost) + "\n", encoding="utf-8")
            temporary.chmod(0o755)
            made = self._publish(temporary, folder)
        except (OSError, RuntimeError) as error:  # faiss raises RuntimeError when it cannot write
            raise BenchError(f"store: cannot write {folder} ({str(error).partition(chr(10))[0]})") from error
        finally:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)
        if self._derived != folder:
            if self._derived:
                shutil.rmtree(self._derived, ignore_errors=True)
            self._derived = folder if made else None

    def _publish(self, temporary: Path, folder: Path) -> bool:
        """Rename into place; False where another process has put the same store there first. Gives up after a few rivals."""
        for _ in range(20):
            try:
                temporary.rename(folder)
                return True
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            if self._read(folder) is not None:
                return False
            # Damaged: out of the way in one step, so that nobody ever sees a folder half deleted.
            aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=self._root))
            try:
                folder.rename(aside)
            except FileNotFoundError:
                continue
            finally:
                shutil.rmtree(aside, ignore_errors=True)
        raise OSError(f"{folder} is being replaced over and over")

    def _read(self, folder: Path) -> tuple[Any, dict[int, Chunk], tuple[float, float]] | None:
        """The index, the chunks and what they took in a folder, or None where they are not there whole and sound."""
        import faiss

        try:
            meta = json.loads((folder / _META).read_bytes())
            if meta["format"] != _FORMAT or meta["key"] != folder.name:
                return None
            if any(meta["sha256"][name] != _sha256(folder / name) for name in (_INDEX, _CHUNKS)):
                return None
            index: Any = faiss.read_index(str(folder / _INDEX))
            # As one list: a call per line takes three times as long.
            lines = (folder / _CHUNKS).read_bytes().splitlines()
            chunks = [Chunk(**chunk) for chunk in json.loads(b"[" + b",".join(lines) + b"]")]
            ids = faiss.vector_to_array(index.id_map).tolist()
            if index.d != meta["dimension"]:
                return None
            cost = json.loads((folder / _COST).read_bytes())
            wall, cpu = (float(cost[key]) for key in _COST_KEYS)
            return index, dict(zip(ids, chunks, strict=True)), (wall, cpu)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError):
            return None

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Add what the body takes to `build_seconds`, but for loading the embedder."""
        _ = self._embedder.dimension  # what has to load it
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        before = self.build_seconds
        self.build_seconds = (before[0] + time.perf_counter() - wall, before[1] + time.process_time() - cpu)

    def _insert(self, passages: Sequence[Passage]) -> None:
        chunks = chunk_passages(passages, self.settings.chunk_words, self.settings.chunk_overlap)
        if not chunks:
            return
        if self.settings.index != "flat":
            self._rebuild([*self._chunks.values(), *chunks])
            return
        first = max(self._chunks, default=-1) + 1
        ids = np.arange(first, first + len(chunks), dtype=np.int64)
        self._index.add_with_ids(self._embedder.embed([chunk.text for chunk in chunks]), ids)
        self._chunks |= zip(ids.tolist(), chunks, strict=True)

    def _rebuild(self, chunks: Sequence[Chunk]) -> None:
        """Make the index of these chunks as a fresh build would; those that it has not yet come last."""
        held = {} if self.settings.index == "ivfpq" else {chunk.id: i for i, chunk in self._chunks.items()}
        old = [self._index.reconstruct(held[chunk.id]) for chunk in chunks if chunk.id in held]
        new = self._embedder.embed([chunk.text for chunk in chunks if chunk.id not in held])
        vectors = np.concatenate([np.array(old, dtype=np.float32).reshape(-1, self._embedder.dimension), new])
        with faiss_threads(1):  # with more, the graph depends on which is faster
            self._index = new_index(self.settings.index, vectors)
            self._index.add_with_ids(vectors, np.arange(len(chunks), dtype=np.int64))
        self._chunks = dict(enumerate(chunks))

    def _nearest(self, vectors: npt.NDArray[np.float32], k: int, spare: int = 1) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Scores and ids of the `k` best chunks, each (len(vectors), k), ties in the order of ids; `_NONE` fills up at the end.

        `spare` more are fetched, to see whether the k-th ties with a chunk that was left out; if so, with more again.
        """
        fetched = min(k + spare, len(self))
        # The number belongs to the whole process, torch included, where both use one OpenMP library.
        with faiss_threads(self._threads):
            scores, ids = self._index.search(vectors, fetched)
        tied = np.zeros(scores.shape, dtype=np.int64)
        np.cumsum((scores[:, :-1] - scores[:, 1:] > _TIE) | (ids[:, 1:] == _NONE), axis=1, out=tied[:, 1:])
        order = np.lexsort((ids, tied))[:, :k]
        best_scores, best_ids = np.take_along_axis(scores, order, axis=1), np.take_along_axis(ids, order, axis=1)
        open_ended = np.flatnonzero(tied[:, k - 1] == tied[:, -1])
        if fetched < len(self) and len(open_ended):
            best_scores[open_ended], best_ids[open_ended] = self._nearest(vectors[open_ended], k, 8 * (spare + 1))
        return best_scores, best_ids


def _digests(passages: Sequence[Passage]) -> dict[str, str]:
    """SHA-256 of each passage's text by id, in order."""
    digests: dict[str, str] = {}
    for passage in passages:
        if passage.id in digests:
            raise BenchError(f'store: document "{passage.id}" comes twice; expected each id once')
        try:
            passage.id.encode()
            digests[passage.id] = hashlib.sha256(passage.text.encode()).hexdigest()
        except UnicodeEncodeError as error:
            raise BenchError(f"store: document {passage.id!r} is no valid Unicode at character {error.start}") from error
    return digests


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
