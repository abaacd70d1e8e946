"""What a model and its training hold in memory, counted from the tensors themselves."""

from __future__ import annotations

import contextlib
import math
from bisect import bisect
from collections.abc import Iterator
from typing import Any

import torch

from bench.cost.counters import file_mappings


def weights_bytes(network: torch.nn.Module) -> int:
    """Bytes of parameters and buffers, those of adapters included; tied ones count once, 4-bit ones as they are packed.

    The constants that 4-bit weights are scaled by (1 % to 6 % on top, by block size) are neither parameters nor buffers, and not counted.
    """
    return sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))


def forked_weights_bytes(network: torch.nn.Module) -> int:
    """Bytes of the weights on a CPU that a forked process has resident from its start.

    Those are the ones in ordinary memory. Weights that lie in memory as their file does, which is where a checkpoint of the very type
    that is asked for is left, become resident in each process when it reads them.
    """
    files = file_mappings()

    def mapped(tensor: torch.Tensor) -> bool:
        place = bisect(files, (tensor.data_ptr(), math.inf)) - 1
        return place >= 0 and tensor.data_ptr() < files[place][1]

    return sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()) if not mapped(tensor))


def gradients_bytes(network: torch.nn.Module) -> int:
    """Bytes of the gradients that are there now: call this between a backward pass and the next clearing."""
    return sum(parameter.grad.nbytes for parameter in network.parameters() if parameter.grad is not None)


def optimizer_bytes(optimizer: Any) -> int:
    """Bytes of the tensors in a torch optimizer's state, which is empty before its first step."""
    return sum(value.nbytes for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor))


def cache_bytes(rows: int, tokens: int, layers: int, kv_width: int, bytes_per_number: int) -> int:
    """Bytes of the keys and values that `layers` layers keep of `tokens` tokens in each of `rows` rows; `kv_width`: key heads times head
    size."""
    return 2 * rows * tokens * layers * kv_width * bytes_per_number


class SavedForBackward:
    """Counts what forward passes keep for their backward passes, outputs of matrix products up to the loss included.

    Every storage counts once and whole, as it stays in memory whole; those of parameters and buffers are left out, since views of them
    take no room of their own. With gradient checkpointing, what is kept is the inputs of the checkpointed layers.
    """

    def __init__(self, network: torch.nn.Module) -> None:
        self._network = network
        self.bytes = 0
        """Of the largest pass that was counted."""

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Count the forward pass in the body. Each tensor is kept as it is, so losses and gradients stay the same to the bit."""
        own = {t.untyped_storage().data_ptr() for t in (*self._network.parameters(), *self._network.buffers())}
        kept: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield
        self.bytes = max(self.bytes, sum(kept.values()))
