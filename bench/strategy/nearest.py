"""Worked examples chosen for each request: those whose input is most like its own (Liu et al. 2022, arXiv 2101.06804)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bench.strategy.embedder import Embedder
from bench.strategy.store import Store, StoreSettings
from bench.task.schema import Example, Passage

# More words than an input has: each is one vector, of as much as the embedder reads.
_UNCUT = 1_000_000_000


class NearestExamples:
    """Labelled examples, found by the likeness of their inputs (cosine)."""

    def __init__(self, examples: Sequence[Example], embedder: Embedder, folder: Path) -> None:
        """Build or open the store of the examples' inputs; `folder` holds stores of all tasks and settings.

        Raises `BenchError` for no examples and for an id that comes twice.
        """
        self._examples = {e.id: e for e in examples}
        self._copies = Counter(e.input for e in examples)
        settings = StoreSettings(embedder=embedder.name, chunk_words=_UNCUT, chunk_overlap=0)
        self.store = Store.build_or_open(folder, [Passage(e.id, e.input) for e in examples], embedder, settings)

    @property
    def size_bytes(self) -> int:
        """What has to be kept to find and show them: index, inputs and answers."""
        return self.store.size_bytes + sum(len(e.targets[0].encode()) for e in self._examples.values())

    def find(self, queries: Sequence[Example], k: int) -> list[tuple[Example, ...]]:
        """The `k` nearest examples of each query, the nearest last, next to the question; fewer where there are fewer.

        Never the query itself (by id) nor one with the same input. Of equally near ones the earlier counts as nearer.
        """
        if k == 0:
            return [() for _ in queries]
        left_out = max((self._copies[q.input] for q in queries), default=0) + 1
        rows = self.store.search([q.input for q in queries], k + left_out)
        found = []
        for query, row in zip(queries, rows, strict=True):
            examples = (self._examples[hit.chunk.document_id] for hit in row)
            others = [e for e in examples if e.id != query.id and e.input != query.input]
            found.append(tuple(reversed(others[:k])))
        return found
