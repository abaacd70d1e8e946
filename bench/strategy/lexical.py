"""Passages found by the words they share with a request: BM25, by bm25s (Lù 2024, arXiv 2407.03618)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bench.strategy.chunk import Chunk

_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """The words of a text as BM25 counts them: runs of letters, digits and underscores, with case folded and letters composed.

    No stop words are left out and no endings cut off: a frequent word weighs little by itself, and both need a language. Scripts that put
    no spaces between words (Chinese, Japanese, Thai) give a word for each run between punctuation, and so find little.
    """
    return _WORD.findall(unicodedata.normalize("NFC", text.casefold()))


class LexicalIndex:
    """BM25 over chunks (Robertson and Zaragoza 2009), in Lucene's form.

    A chunk scores, over the query's words t (one that comes twice counts twice), the sum of
    ``log(1 + (N - n_t + 0.5) / (n_t + 0.5)) * f / (f + k1 * (1 - b + b * length / mean_length))``
    with N chunks, n_t of them with t, and f times t in the chunk; k1 = 1.5 and b = 0.75. Above 0 exactly where a word is shared.
    """

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        """Index at least one chunk."""
        import bm25s

        self._chunks = chunks
        self._vocabulary: dict[str, int] = {}
        numbers = [[self._vocabulary.setdefault(w, len(self._vocabulary)) for w in words(chunk.text)] for chunk in chunks]
        # Chunks of nothing but punctuation: bm25s takes no empty vocabulary.
        self._bm25 = bm25s.BM25(method="lucene", k1=1.5, b=0.75, backend="numpy") if self._vocabulary else None
        if self._bm25:
            self._bm25.index((numbers, self._vocabulary), create_empty_token=False, show_progress=False)

    def scores(self, query: str) -> npt.NDArray[np.float32]:
        """The score of every chunk, shape (chunks,)."""
        known = [self._vocabulary[w] for w in words(query) if w in self._vocabulary]
        if not known or self._bm25 is None:
            return np.zeros(len(self._chunks), dtype=np.float32)
        scores: npt.NDArray[np.float32] = self._bm25.get_scores_from_ids(known)
        return scores

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Chunk]]:
        """The `top_k` best chunks of each query, best first, of equals the earlier one; none that shares no word with it."""
        rows = []
        for query in queries:
            scores = self.scores(query)
            matching = np.flatnonzero(scores)
            best = matching[np.argsort(-scores[matching], kind="stable")][:top_k]
            rows.append([self._chunks[i] for i in best.tolist()])
        return rows

    @property
    def size_bytes(self) -> int:
        """Of the index's arrays and its vocabulary; without the chunks."""
        arrays = sum(self._bm25.scores[name].nbytes for name in ("data", "indices", "indptr")) if self._bm25 else 0
        return arrays + sum(len(word.encode()) for word in self._vocabulary)
