"""Batches of requests of like length, as large as memory allows."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TypeVar

import psutil
import torch

T = TypeVar("T")

MEMORY_SHARE = 0.25
"""Of the device's memory, for the keys, values and logits of one batch. Of the whole, not of what is free now: the same run makes
the same batches."""


class Batcher:
    """Runs requests in batches: longest first, within budgets of rows, tokens and bytes; fewer rows where memory runs out."""

    def __init__(self, device: torch.device) -> None:
        gpu = device.type == "cuda"
        # Measured on a CPU at 2 and 30 M parameters. Token by token, rows pay up to 64; what is computed at once is best in parts that
        # stay in the processor's cache, and loses a fifth in batches four times as large.
        self.rows = 1024 if gpu else 64
        """Rows of a batch at most; halved when a batch does not fit in memory, and remembered."""
        self.tokens = 65536 if gpu else 4096
        """Tokens to compute in a batch at most where answers are generated."""
        self.tokens_at_once = 65536 if gpu else 1024
        """The same where nothing is generated."""
        memory = torch.cuda.mem_get_info(device)[1] if gpu else psutil.virtual_memory().total
        self.bytes = int(MEMORY_SHARE * memory)

    def run(
        self,
        tokens: Sequence[int],
        work: Callable[[list[int]], T],
        skip: Collection[int] = (),
        bytes_per_row: Callable[[int], float] | None = None,
        generates: bool = False,
    ) -> Iterator[tuple[list[int], T, float]]:
        """Call `work` with the indices of each batch; yields the indices, what it gave and the seconds that it took for each request.

        `tokens`: what has to be computed for each request; `bytes_per_row`: what a row takes in memory, by the index of the
        longest request of its batch. Batches depend on these alone: one whose requests are all in `skip` is left out, so
        that a resumed run makes the same batches. Raises the out-of-memory error of a batch of one.
        """
        limit = self.tokens if generates else self.tokens_at_once
        order = sorted(range(len(tokens)), key=lambda i: (-tokens[i], i))
        while order:
            longest = order[0]
            fits = self.bytes / bytes_per_row(longest) if bytes_per_row else self.rows
            size = max(1, int(min(self.rows, limit // max(1, tokens[longest]), fits)))
            batch = order[:size]
            if all(i in skip for i in batch):
                order = order[size:]
                continue
            began = time.perf_counter()
            try:
                done = work(batch)
            except (RuntimeError, MemoryError) as error:
                if len(batch) == 1 or not out_of_memory(error):
                    raise
                self.rows = len(batch) // 2
            else:
                order = order[size:]
                yield batch, done, (time.perf_counter() - began) / len(batch)
                continue
            # Outside of the handler, which keeps the failed batch's tensors alive.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: torch has an error of its own for GPUs, and a text for CPUs."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
