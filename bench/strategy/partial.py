"""Training a part of a model's own weights: its biases, or its last layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from bench.cost.flops import FINAL_NORMS
from bench.errors import BenchError


def mark_biases(network: Any, new_modules: Sequence[str] = ()) -> None:
    """Let every bias train (BitFit, Ben Zaken et al. 2021, arXiv 2106.10199).

    A model whose linear layers have no biases, as most decoders since Llama, gets them first: zeros, on every linear layer
    but the output head and the `new_modules`, which train whole.
    """
    heads = [network.get_output_embeddings(), *(network.get_submodule(name) for name in new_modules)]
    left_out = {id(m) for head in heads if head is not None for m in head.modules()}
    linear = [m for m in network.modules() if _is_linear(m) and id(m) not in left_out]
    if all(layer.bias is None for layer in linear):
        for layer in linear:
            layer.bias = nn.Parameter(torch.zeros(layer.weight.shape[0], dtype=layer.weight.dtype, device=layer.weight.device))
    for name, parameter in network.named_parameters():
        if name.rpartition(".")[2] == "bias":
            parameter.requires_grad_(True)


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"  # GPT-2's linear layer


def mark_last_layers(network: Any, count: int) -> None:
    """Let the last `count` layers and the norm after them train; embeddings and output head stay.

    Of an encoder-decoder, the decoder's. Raises `BenchError` where the model has no list of layers or fewer than `count`.
    """
    body = network.get_decoder() if getattr(network.config, "is_encoder_decoder", False) else network
    lists = {name: m for name, m in body.named_modules() if isinstance(m, nn.ModuleList)}
    # Lists within a layer (the experts of a mixture, say) can be longer than that of the layers.
    outer = {name: m for name, m in lists.items() if not any(name.startswith(other + ".") for other in lists)}
    if not outer:
        raise BenchError(f"tuning.method last_layers: {type(network).__name__} holds no list of layers")
    name = max(outer, key=lambda n: len(outer[n]))
    layers = list(outer[name])
    if count > len(layers):
        raise BenchError(f"tuning.layers: found {count}; expected at most the model's {len(layers)}")
    for layer in layers[-count:]:
        layer.requires_grad_(True)
    for child, module in body.get_submodule(name.rpartition(".")[0]).named_children():
        if child in FINAL_NORMS:
            module.requires_grad_(True)
