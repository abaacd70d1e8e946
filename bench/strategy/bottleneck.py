"""Bottleneck adapters (Houlsby et al. 2019, arXiv 1902.00751): two small layers after every sub-layer of a frozen transformer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from bench.errors import BenchError

OUTPUT_PROJECTIONS = (
    ("o_proj", "down_proj"),  # Llama, Mistral, Qwen, Gemma
    ("attn.c_proj", "mlp.c_proj"),  # GPT-2
    ("out_proj", "fc2"),  # OPT, BART
    ("attention.output.dense", "output.dense"),  # BERT, RoBERTa
    ("out_lin", "lin2"),  # DistilBERT
    ("o", "wo"),  # T5
    ("attention.dense", "dense_4h_to_h"),  # GPT-NeoX, Pythia
)
"""How families of models name the last linear layer of attention and of the feed-forward network."""


class Bottleneck(nn.Module):
    """``h + up(gelu(down(h)))`` over the last dimension, from `width` to `size` and back: 2 d m + d + m parameters.

    `up` starts at zero, so that the adapted model starts as the model it was.
    """

    def __init__(self, width: int, size: int, dropout: float) -> None:
        super().__init__()
        self.down = nn.Linear(width, size)
        self.dropout = nn.Dropout(dropout)
        self.up = nn.Linear(size, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Shape (.., width) to the same; computed in the adapter's own precision where the base is kept in a lower one."""
        inner = functional.gelu(self.down(hidden.to(self.down.weight.dtype)))
        added: torch.Tensor = self.up(self.dropout(inner))
        return hidden + added.to(hidden.dtype)


def add_bottlenecks(network: nn.Module, targets: str | list[str], size: int, dropout: float) -> None:
    """Put an adapter behind each output projection within the layers of a `network`, before the residual connection.

    `targets`: their names' last parts; a string stands for the names of the known families. The adapter hangs on the
    projection as ``bottleneck``, so that the base's parameters keep their names. Raises `BenchError` where none is found.
    """
    found = _projections(network, targets)
    if not found:
        expected = f"a module named {' or '.join(targets)}" if isinstance(targets, list) else "a known family; list tuning.targets"
        raise BenchError(f"tuning.targets: {type(network).__name__} has no such output projection; expected {expected}")
    for projection in found:
        weight: Any = projection.weight
        width = int(getattr(projection, "out_features", 0) or getattr(projection, "nf", 0))
        projection.bottleneck = Bottleneck(width, size, dropout).to(weight.device)
        projection.register_forward_hook(_through_bottleneck)


def _projections(network: nn.Module, targets: str | list[str]) -> list[nn.Module]:
    # Only what stands in a numbered layer: a classification head can have an "out_proj" too.
    names = {name: m for name, m in network.named_modules() if any(part.isdigit() for part in name.split(".")) and hasattr(m, "weight")}
    for suffixes in [tuple(targets)] if isinstance(targets, list) else OUTPUT_PROJECTIONS:
        matches = [[m for name, m in names.items() if f".{name}".endswith(f".{suffix}")] for suffix in suffixes]
        if all(matches):
            return list({id(m): m for found in matches for m in found}.values())
    return []


def _through_bottleneck(module: Any, inputs: Any, output: torch.Tensor) -> Any:
    return module.bottleneck(output)
