"""The kinds of FAISS index that a store can have. Imports no faiss until used."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

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
        index = _inverted_lists(vectors) if n else _inverted_lists(np.zeros((1, dimension), dtype=np.float32))
    return faiss.IndexIDMap2(index)


def _inverted_lists(vectors: npt.NDArray[np.float32]) -> Any:
    """An IVF-PQ index trained on the vectors it is for, shape (n, d), with sizes that follow from n and d.

    - Lists: 4 sqrt(n), as faiss's guidelines advise below a million, but no more than n / 39, the vectors that its k-means wants
      for each centroid: 1 for 60 chunks, 1,264 for 100,000.
    - Probed: a sixteenth of the lists and at least 8. More find no more; it is the codes that miss.
    - Codes: a byte for each 8 dimensions (48 for 384, a thirty-second of the vector); fewer bits below 256 chunks, which have no
      256 different pieces. Queries are not compressed and no later vector is, so a codebook may fit its own chunks closely.
    """
    import faiss

    n, dimension = vectors.shape
    lists = max(1, min(int(4 * math.sqrt(n)), n // 39))
    pieces = next(m for m in range(max(1, dimension // 8), 0, -1) if dimension % m == 0)
    bits = max(1, min(8, int(math.log2(n))))
    index = faiss.IndexIVFPQ(faiss.IndexFlatIP(dimension), dimension, lists, pieces, bits, faiss.METRIC_INNER_PRODUCT)
    index.nprobe = min(lists, max(8, lists // 16))
    for clustering in (index.cp, index.pq.cp):
        clustering.min_points_per_centroid = 1  # no warnings on standard error
    index.train(vectors if n > 1 else np.repeat(vectors, 2, axis=0))
    return index
