"""The retrieval choice: which passages each request is handed, and what it cost to be able to find them."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from bench.strategy.chunk import Chunk, chunk_passages
from bench.strategy.embedder import Embedder
from bench.strategy.lexical import LexicalIndex
from bench.strategy.reranker import Reranker, load_reranker
from bench.strategy.spec import RetrievalChoice
from bench.strategy.store import Store, StoreSettings
from bench.task.schema import Example, Passage, Task


@dataclass(frozen=True)
class Found:
    """What one request is handed to read, best first."""

    passages: tuple[str, ...]
    document_ids: tuple[str, ...]
    """The document that each passage is from; one that several are from comes as often."""
    score: float | None = None
    """The cosine of the passage nearest to the request, before any reranking; None for a search other than dense."""


class Retriever:
    """Finds passages for requests: by meaning, by words, by both, or by the examples' gold ids."""

    def __init__(self, task: Task, choice: RetrievalChoice, embedder: Embedder | None, folder: Path) -> None:
        """Build or open what `choice` searches; `folder` holds stores of all tasks and settings.

        A lexical index is built once in a process. `embedder`: needed for a dense and a hybrid search.

        Raises `BenchError` for what a store or a reranker refuses: see `Store.build_or_open` and `Reranker`.
        """
        self.choice = choice
        self._corpus = task.corpus
        self.store: Store | None = None
        self._lexical: LexicalIndex | None = None
        if choice.search in ("dense", "hybrid"):
            assert embedder is not None
            settings = StoreSettings(**choice.model_dump(include=set(StoreSettings.model_fields)))
            self.store = Store.build_or_open(folder, task.corpus, embedder, settings)
        if choice.search in ("lexical", "hybrid"):
            self._lexical = _lexical_index(task.corpus, choice.chunk_words, choice.chunk_overlap)
        self._reranker: Reranker | None = None
        if choice.rerank:
            assert choice.reranker is not None
            self._reranker = load_reranker(choice.reranker)

    @property
    def size_bytes(self) -> int:
        """What has to be kept to find passages: index and chunks, without the models that embed and rerank; 0 for an oracle."""
        store = self.store.size_bytes if self.store else 0
        if not self._lexical:
            return store
        return self._lexical.size_bytes + (store or sum(len(chunk.text.encode()) for chunk in self._chunks))

    def find(self, examples: Sequence[Example]) -> list[Found] | None:
        """Passages for each example, or None where the strategy reads nothing."""
        if self.choice.search == "none":
            return None
        if self.choice.search == "oracle":
            text = {p.id: p.text for p in self._corpus}
            return [Found(tuple(text[i] for i in e.evidence), e.evidence) for e in examples]
        top_k = self.choice.top_k
        return [_found(row[:top_k], score) for row, score in self._rank([(e.input, top_k) for e in examples])]

    def find_for_training(self, examples: Sequence[Example], gold_share: float | None, seed: int) -> list[Found] | None:
        """Passages to train each example on: those of `find`, or as in RAFT (Zhang et al. 2024, arXiv 2403.10131).

        With a `gold_share`, that share of the examples (drawn by the seed) reads its gold documents' chunks, best ranked first
        where they are more than `top_k`, and as many distractors as make up `top_k`: the best ranked chunks of other documents,
        fewer where the search finds fewer. The other examples read `top_k` distractors; one without evidence, what is ranked
        best. All in a shuffled order, so that a passage's place tells nothing. What an example gets depends on the seed and
        its id, not on the examples beside it.
        """
        if gold_share is None or self.choice.search == "none":
            return self.find(examples)
        top_k = self.choice.top_k
        of_document: dict[str, list[Chunk]] = defaultdict(list)
        for chunk in self._chunks:
            of_document[chunk.document_id].append(chunk)
        gold_of = [[chunk for i in e.evidence for chunk in of_document[i]] for e in examples]
        ranked = self._rank([(e.input, top_k + len(gold)) for e, gold in zip(examples, gold_of, strict=True)])
        found = []
        for example, gold, (row, score) in zip(examples, gold_of, ranked, strict=True):
            draw = random.Random(f"gold/{seed}/{example.id}")
            best_first = sorted(gold, key=lambda chunk: row.index(chunk) if chunk in row else len(row))
            handed = best_first[:top_k] if draw.random() < gold_share else []
            handed += [chunk for chunk in row if chunk.document_id not in example.evidence][: top_k - len(handed)]
            draw.shuffle(handed)
            found.append(_found(handed, score))
        return found

    @cached_property
    def _chunks(self) -> list[Chunk]:
        return _chunks_of(self._corpus, self.choice.chunk_words, self.choice.chunk_overlap)

    @cached_property
    def _place(self) -> dict[Chunk, int]:
        return {chunk: i for i, chunk in enumerate(self._chunks)}

    def _rank(self, asked: Sequence[tuple[str, int]]) -> list[tuple[list[Chunk], float | None]]:
        """For each query and depth at least so many chunks where there are as many, best first, and the cosine of the nearest one."""
        choice = self.choice
        queries = [query for query, _ in asked]
        least = choice.candidates if choice.search == "hybrid" or choice.rerank else 1
        depths = [max(depth, least) for _, depth in asked]
        deepest = max(depths, default=least)
        dense = self.store.search(queries, deepest) if self.store else [[] for _ in queries]
        lexical = self._lexical.search(queries, deepest) if self._lexical else [[] for _ in queries]
        # Cut to the query's own depth first: what is fused or reranked must not depend on how deep another query goes.
        pairs = [([hit.chunk for hit in a[:n]], b[:n]) for a, b, n in zip(dense, lexical, depths, strict=True)]
        if choice.search == "hybrid":
            rows = [fuse(pair, choice.rrf_k, self._place)[:n] for pair, n in zip(pairs, depths, strict=True)]
        else:
            rows = [a or b for a, b in pairs]
        if self._reranker:
            rows = self._reranker.order(queries, rows)
        scores = [row[0].score if row and choice.search == "dense" else None for row in dense]
        return list(zip(rows, scores, strict=True))


# A few, since tasks that are trained together are opened again at each trial.
@lru_cache(maxsize=8)
def _chunks_of(corpus: tuple[Passage, ...], size_words: int, overlap_words: int) -> list[Chunk]:
    return chunk_passages(corpus, size_words, overlap_words)


@lru_cache(maxsize=8)
def _lexical_index(corpus: tuple[Passage, ...], size_words: int, overlap_words: int) -> LexicalIndex:
    return LexicalIndex(_chunks_of(corpus, size_words, overlap_words))


def fuse(rankings: Sequence[Sequence[Chunk]], k: int, place: dict[Chunk, int]) -> list[Chunk]:
    """All chunks of some rankings by reciprocal rank fusion (Cormack, Clarke and Büttcher 2009); equals by their `place`.

    A chunk scores the sum of 1 / (k + rank) over the rankings that hold it, ranks counted from 1.
    """
    scores: dict[Chunk, float] = defaultdict(float)
    for ranking in rankings:
        for rank, chunk in enumerate(ranking, start=1):
            scores[chunk] += 1 / (k + rank)
    return sorted(scores, key=lambda chunk: (-scores[chunk], place[chunk]))


def _found(chunks: Sequence[Chunk], score: float | None) -> Found:
    return Found(tuple(c.text for c in chunks), tuple(c.document_id for c in chunks), score)
