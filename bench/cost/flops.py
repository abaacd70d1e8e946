"""Floating-point operations by formula, from a model's shape; one multiply-add is two operations.

Per token and direction a matrix multiplication with ``p`` parameters takes ``2 p`` operations (Kaplan et al. 2020, section
2.1; Hoffmann et al. 2022, appendix F), and attention over ``T`` positions ``4 * attention_width * T`` per layer (queries by
keys, then weights by values). A backward pass takes the same again for the gradients of the activations, and the same again
for the gradients of those weights that train. Norms, activation functions, softmax and table look-ups are left out: they
move memory but are no matrix multiplications.

Count tokens without padding. Mixtures of experts count the experts that a token meets. Not covered: sliding windows (counted
as full attention) and encoder-decoder models.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from bench.errors import BenchError

FINAL_NORMS = ("norm", "ln_f", "final_layernorm", "final_layer_norm")
"""What the common architectures call the norm between the last layer and the output head."""


@dataclass(frozen=True)
class ModelShape:
    """The numbers of a transformer that its FLOPs follow from."""

    layers: int
    width: int
    """Size of the residual stream."""
    heads: int
    attention_width: int
    """Query heads times head size; differs from ``width`` in some models (Qwen3-0.6B: 2048 and 1024)."""
    kv_width: int
    """Key heads times head size; smaller than ``attention_width`` with grouped queries."""
    vocab: int
    matmul_params: int
    """Base parameters that a token is multiplied with: all linear layers, output head included, embedding look-up not.
    The pooler of a sentence encoder is among them, though it sees one token only."""
    head_params: int
    """The output head's part of ``matmul_params``; 0 without one (a sentence encoder)."""
    adapter_params: int = 0
    """Parameters of active, unmerged adapters; on top of ``matmul_params``."""
    trainable_params: int = 0
    """Those of ``matmul_params`` and ``adapter_params`` that have gradients."""
    trainable_head_params: int = 0
    """The output head's part of ``trainable_params``."""
    backward_layers: int = 0
    """Layers from the lowest one that trains up to the top: those that gradients flow through."""


def forward_flops(
    shape: ModelShape, n_new_tokens: int, n_context_tokens_before: int = 0, *, logits_tokens: int | None = None, causal: bool = True
) -> int:
    """Operations of one sequence's forward pass.

    ``n_context_tokens_before`` tokens are in the key-value cache (virtual tokens of prefix tuning too). ``logits_tokens`` is
    the number of positions that the output head is applied to: default all new ones; generation needs one per step.
    ``causal``: a position attends to itself and those before it, summed exactly over positions; False counts the full
    rectangle, which is what an encoder computes, and what eager attention does before it masks half of it.

    Raises ValueError for a negative count or more logits than new tokens.
    """
    logits = n_new_tokens if logits_tokens is None else logits_tokens
    if min(n_new_tokens, n_context_tokens_before, logits) < 0 or logits > n_new_tokens:
        raise ValueError(f"token counts: {n_new_tokens} new, {n_context_tokens_before} before, {logits} with logits")
    body = shape.matmul_params - shape.head_params + shape.adapter_params
    attention = _attention(shape, shape.layers, n_new_tokens, n_context_tokens_before, causal)
    return 2 * (body * n_new_tokens + shape.head_params * logits) + attention


def generation_flops(shape: ModelShape, n_prompt_tokens: int, n_completion_tokens: int, n_cached_tokens: int = 0) -> int:
    """Operations of answering one request with a key-value cache.

    ``n_prompt_tokens`` includes the ``n_cached_tokens`` whose keys and values are already there (count that shared prefix
    once with :func:`forward_flops`). The first completion token comes out of the prompt's pass, so that ``n`` tokens take
    ``n - 1`` steps more. Raises ValueError where more tokens are cached than the prompt has.
    """
    new = n_prompt_tokens - n_cached_tokens
    prefill = forward_flops(shape, new, n_cached_tokens, logits_tokens=min(1, new))
    return prefill + forward_flops(shape, max(0, n_completion_tokens - 1), n_prompt_tokens)


def training_flops(
    shape: ModelShape, n_tokens: int, n_context_tokens_before: int = 0, *, logits_tokens: int | None = None, causal: bool = True
) -> int:
    """Operations of one sequence's forward and backward pass, by what trains in ``shape``; arguments as for :func:`forward_flops`.

    Everything trains: 3 forward passes (about 6 per parameter and token). Frozen base with adapters in every layer: 2
    forward passes of the base (about 4), its weights having no gradients, and 3 of the adapters. Only the upper layers:
    gradients flow through ``backward_layers`` of them. A frozen model that feeds a trained soft prompt counts like adapters.

    The lowest layer's projections are counted with activation gradients, though autograd skips those of queries, keys and
    values where nothing below trains: about 1.5 % too much for LoRA on 8 layers, less on more. The optimizer's own step (about
    10 operations per trained parameter and step, not per token) is left out, and so is recomputation under checkpointing.
    """
    logits = n_tokens if logits_tokens is None else logits_tokens
    forward = forward_flops(shape, n_tokens, n_context_tokens_before, logits_tokens=logits, causal=causal)
    layer_params = (shape.matmul_params - shape.head_params + shape.adapter_params) / max(1, shape.layers)
    head = shape.head_params if shape.backward_layers else 0
    activations = 2 * (round(layer_params * shape.backward_layers) * n_tokens + head * logits)
    attention = 2 * _attention(shape, shape.backward_layers, n_tokens, n_context_tokens_before, causal)
    weights = 2 * ((shape.trainable_params - shape.trainable_head_params) * n_tokens + shape.trainable_head_params * logits)
    return forward + activations + attention + weights


def shape_of(model: nn.Module) -> ModelShape:
    """Read the shape off a transformers model (decoder or encoder), adapters of peft counted apart.

    What trains is read from ``requires_grad``: call this after the adapter is attached or the layers are frozen. Raises
    BenchError for a model whose configuration does not name its layers, width and heads.
    """
    config: Any = getattr(model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    layers, width, heads = (_setting(model, config, key) for key in ("num_hidden_layers", "hidden_size", "num_attention_heads"))
    head_size = getattr(config, "head_dim", None) or width // heads
    output = getattr(model, "get_output_embeddings", lambda: None)()
    output = getattr(output, "base_layer", output)
    matmuls = list(_matmuls(model))
    trained = [m for m in matmuls if m.trains]
    return ModelShape(
        layers=layers,
        width=width,
        heads=heads,
        attention_width=heads * head_size,
        kv_width=(getattr(config, "num_key_value_heads", None) or heads) * head_size,
        vocab=config.vocab_size,
        matmul_params=sum(m.params for m in matmuls if not m.adapter),
        head_params=_size(output) if output is not None else 0,
        adapter_params=sum(m.params for m in matmuls if m.adapter),
        trainable_params=sum(m.params for m in trained),
        trainable_head_params=_size(output) if output is not None and _trains(output) else 0,
        backward_layers=_backward_layers(model, layers),
    )


def _attention(shape: ModelShape, layers: int, new: int, before: int, causal: bool) -> int:
    pairs = new * before + (new * (new + 1) // 2 if causal else new * new)
    return 4 * layers * shape.attention_width * pairs


@dataclass(frozen=True)
class _Matmul:
    params: int
    adapter: bool
    trains: bool


def _matmuls(model: nn.Module) -> Iterator[_Matmul]:
    """Every matrix that a token is multiplied with, once for each module that applies it (a tied head is applied)."""
    from peft.tuners.tuners_utils import BaseTunerLayer  # slow to import; whoever has a model to count has it loaded anyway

    tuned = [(name + ".", module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    experts_per_token = getattr(getattr(model, "config", None), "num_experts_per_tok", None)
    for name, parameter in model.named_parameters():
        if experts_per_token and parameter.ndim == 3 and ".experts." in name:  # one matrix per expert, of which a token meets a few
            yield _Matmul(parameter[0].numel() * experts_per_token, adapter=False, trains=parameter.requires_grad)
    for name, module in model.named_modules():
        # peft keeps the untrained copy of a module that it saves whole; it is not applied.
        if ".original_module" in name or not (isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"):
            continue
        owner = next((layer for prefix, layer in tuned if name.startswith(prefix) and not name.startswith(prefix + "base_layer")), None)
        if owner is None:
            yield _Matmul(_size(module), adapter=False, trains=_trains(module))
        elif not owner.merged and not owner.disable_adapters and name.rpartition(".")[2] in owner.active_adapters:
            yield _Matmul(_size(module), adapter=True, trains=_trains(module))


def _size(module: nn.Module) -> int:
    # Features, not the weight's element count: a 4-bit weight packs two parameters into one element.
    if isinstance(module, nn.Linear):
        return module.in_features * module.out_features
    weight = module.weight
    return weight.numel() if isinstance(weight, nn.Parameter) else 0


def _trains(module: nn.Module) -> bool:
    return any(parameter.requires_grad for name, parameter in module.named_parameters(recurse=False) if name == "weight")


def _backward_layers(model: nn.Module, layers: int) -> int:
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    stack = next((m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == layers), None)
    if stack is None:
        return layers if trained else 0
    in_layers = [{id(p) for p in layer.parameters()} for layer in stack]
    above = set[int]()
    output = getattr(model, "get_output_embeddings", lambda: None)()
    table = getattr(model, "get_input_embeddings", lambda: None)()
    if output is not None and table is not None:
        above = {id(p) for p in output.parameters()} - {id(p) for p in table.parameters()}
    above |= {id(p) for name, p in model.named_parameters() if name.rpartition(".")[0].rpartition(".")[2] in FINAL_NORMS}
    if trained - above - set().union(*in_layers):
        return layers  # embeddings or a soft prompt below the first layer
    lowest = next((i for i, ids in enumerate(in_layers) if ids & trained), layers)
    return layers - lowest


def _setting(model: nn.Module, config: object, key: str) -> int:
    value = getattr(config, key, None)
    if not isinstance(value, int):
        raise BenchError(f'{type(model).__name__}: cannot count FLOPs, "{key}" is {value!r} in its configuration, expected a whole number')
    return value
