"""The kinds of FAISS index that a store can have. Imports no faiss until used."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

IndexKind = Literal["flat", "hnsw", "ivfpq"]


@contextmanager
def faiss_threads(n: int) -> Iterator[None]:
    """How many threads faiss uses in the body."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(n)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def new_index(kind: IndexKind, vectors: npt.NDArray[np.float32]) -> Any:
    """An empty index that takes vectors by id, made for vectors of this number and length: shape (chunks, dimension)."""
    import faiss

    index: Any
    n, dimension = vectors.shape
    if kind == "flat":
        index = faiss.IndexFlatIP(dimension)
    elif kind == "hnsw":
        index = faiss.IndexHNSWFlat(dimension, 32, faiss.METRIC_INNER_PRODUCT)
        # faiss's own 16 misses a few per cent of the neighbours from some 20,000 chunks on, 64 almost none.
        index.hnsw.efSearch = 64
    else:
        index = _ivfpq(vectors) if n else faiss.IndexFlatIP(dimension)  # there is nothing to train on
    return faiss.IndexIDMap2(index)


class IvfpqSizes(NamedTuple):
    """How an IVF-PQ index is cut: lists of vectors, and a code of `bits` bits for each of the pieces of a vector."""

    lists: int
    probed: int
    pieces: int
    bits: int


def ivfpq_sizes(n: int, dimension: int) -> IvfpqSizes:
    """The sizes for `n` vectors, at least one, of this length.

    - Lists: 4 sqrt(n), as faiss's guidelines advise below a million, but no more than n / 39, the vectors that its k-means wants
      for each centroid: 1 for 60 chunks, 1,264 for 100,000.
    - Probed: a sixteenth of the lists and at least 8. More find no more; it is the codes that miss.
    - Codes: a byte for each 8 dimensions (48 for 384, a thirty-second of the vector; 4 dimensions would find some more and take
      twenty times as long to train); fewer bits below 256 chunks, which have no 256 different pieces. Queries are not compressed
      and no later vector is, so a codebook may fit its own chunks closely.
    """
    lists = max(1, min(int(4 * math.sqrt(n)), n // 39))
    pieces = next(m for m in range(max(1, dimension // 8), 0, -1) if dimension % m == 0)
    bits = max(1, min(8, int(math.log2(n))))
    return IvfpqSizes(lists, min(lists, max(8, lists // 16)), pieces, bits)


def _ivfpq(vectors: npt.NDArray[np.float32]) -> Any:
    """An index trained on the vectors it is for, with faiss's own fixed seeds."""
    import faiss

    n, dimension = vectors.shape
    sizes = ivfpq_sizes(n, dimension)
    coarse = faiss.IndexFlatIP(dimension)
    index = faiss.IndexIVFPQ(coarse, dimension, sizes.lists, sizes.pieces, sizes.bits, faiss.METRIC_INNER_PRODUCT)
    index.nprobe = sizes.probed
    for clustering in (index.cp, index.pq.cp):
        clustering.min_points_per_centroid = 1  # no warnings on standard error
    index.train(vectors if n > 1 else np.repeat(vectors, 2, axis=0))
    return index
