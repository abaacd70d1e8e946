"""Orders passages by how well a cross-encoder thinks they answer (Nogueira and Cho 2019, arXiv 1901.04085)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import numpy as np

from bench.errors import BenchError
from bench.model.source import locate
from bench.strategy.chunk import Chunk


class Reranker:
    """A sentence-transformers CrossEncoder. Only safetensors weights are read, and no code that comes with a model is run."""

    def __init__(self, name: str) -> None:
        """Load it by folder or hub id.

        Raises `BenchError` where there is no such model, its weights are pickled, it is no cross-encoder, or it gives other than
        one score for a pair.
        """
        from sentence_transformers import CrossEncoder

        self.name = name
        try:
            folder = locate(name).folder
        except BenchError as error:
            raise BenchError(f"retrieval.reranker: {error}") from error
        made_for = json.loads((folder / "config.json").read_text()).get("architectures") or ["nothing named"]
        if not made_for[0].endswith("ForSequenceClassification"):
            # It would be loaded all the same, with a random head.
            raise BenchError(f"retrieval.reranker {name}: found a {made_for[0]}; expected a cross-encoder (..ForSequenceClassification)")
        try:
            model = CrossEncoder(str(folder), trust_remote_code=False, local_files_only=True, model_kwargs={"use_safetensors": True})
        except Exception as error:  # of many kinds: the library's own, torch's, safetensors' and those of reading JSON
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise BenchError(f"retrieval.reranker {name}: cannot be loaded from {folder} ({reason})") from error
        if model.num_labels != 1:
            raise BenchError(f"retrieval.reranker {name}: gives {model.num_labels} scores for a pair; expected 1")
        self._model = model

    def order(self, queries: Sequence[str], rows: Sequence[Sequence[Chunk]]) -> list[list[Chunk]]:
        """Each query's chunks, best first; equals stay as they were."""
        import torch

        pairs = [(query, chunk.text) for query, row in zip(queries, rows, strict=True) for chunk in row]
        if not pairs:
            return [[] for _ in rows]
        # Each once: the same pair gets scores that differ by rounding at different places of a batch.
        unique = {pair: i for i, pair in enumerate(dict.fromkeys(pairs))}
        # Without the usual sigmoid: in float32 it makes equals of good scores that differ.
        found = self._model.predict(list(unique), activation_fn=torch.nn.Identity(), show_progress_bar=False)
        if not np.isfinite(found).all():
            raise BenchError(f"retrieval.reranker {self.name}: gave scores that are not finite; expected numbers")
        scores = np.array([found[unique[pair]] for pair in pairs], dtype=np.float32)
        ends = np.cumsum([0, *(len(row) for row in rows)])
        orders = [np.argsort(-scores[start:end], kind="stable").tolist() for start, end in pairwise(ends)]
        return [[row[i] for i in order] for row, order in zip(rows, orders, strict=True)]


load_reranker = cache(Reranker)
"""One load serves all that a process asks of it."""
