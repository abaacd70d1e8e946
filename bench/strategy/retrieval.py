"""The retrieval choice: which passages each request is handed, and what it cost to be able to find them."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError
from bench.result.store import write_atomic
from bench.strategy.embedder import Embedder
from bench.strategy.spec import RetrievalChoice
from bench.strategy.store import Store, StoreSettings
from bench.task.schema import Example, Task


@dataclass(frozen=True)
class Found:
    """What one request is handed to read, best first, and the documents it comes from."""

    passages: tuple[str, ...]
    document_ids: tuple[str, ...]


def _wait_for(file: Path, seconds: float = 5.0) -> str:
    """A file that another process writes right after the store it has just built."""
    until = time.monotonic() + seconds
    while not file.exists():
        if time.monotonic() > until:
            raise BenchError(f"{file}: is missing, so that building the store cannot be charged; remove the folder {file.parent}")
        time.sleep(0.05)
    return file.read_text()


class Retriever:
    """Finds passages for requests, from a store on disk or by the examples' gold ids."""

    def __init__(self, task: Task, choice: RetrievalChoice, embedder: Embedder | None, folder: Path) -> None:
        """Build or open the store; `folder` holds stores of all tasks and settings.

        `build_seconds` is (wall, CPU) of building the store, also where an earlier cell built it: each strategy is charged
        what it would have paid alone.
        """
        self.choice = choice
        self.gold = {p.id: p.text for p in task.corpus}
        self.store: Store | None = None
        self.build_seconds = (0.0, 0.0)
        if choice.search == "dense":
            assert embedder is not None
            settings = StoreSettings(**choice.model_dump(include=set(StoreSettings.model_fields)))
            wall, cpu = time.perf_counter(), time.process_time()
            self.store = Store.build_or_open(folder, task.corpus, embedder, settings)
            spent = (time.perf_counter() - wall, time.process_time() - cpu)
            cost_file = self.store.folder / "build_cost.json"
            if self.store.built:
                write_atomic(cost_file, json.dumps({"wall_seconds": spent[0], "cpu_seconds": spent[1]}) + "\n")
                self.build_seconds = spent
            else:
                cost = json.loads(_wait_for(cost_file))
                self.build_seconds = (cost["wall_seconds"], cost["cpu_seconds"])

    @property
    def size_bytes(self) -> int:
        """What the store takes on disk; 0 without one."""
        return self.store.size_bytes if self.store else 0

    def find(self, examples: Sequence[Example]) -> list[Found] | None:
        """Passages for each example, or None where the strategy reads nothing."""
        if self.choice.search == "none":
            return None
        if self.choice.search == "oracle":
            return [Found(tuple(self.gold[i] for i in e.evidence), e.evidence) for e in examples]
        assert self.store is not None
        hits = self.store.search([e.input for e in examples], self.choice.top_k)
        return [Found(tuple(h.chunk.text for h in row), tuple(dict.fromkeys(h.chunk.document_id for h in row))) for row in hits]
