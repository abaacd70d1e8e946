"""Floating-point operations by formula, from a model's shape; one multiply-add is two operations.

Per token and direction a matrix multiplication with ``p`` parameters takes ``2 p`` operations (Kaplan et al. 2020, section
2.1; Hoffmann et al. 2022, appendix F), and attention over ``T`` positions ``4 * attention_width * T`` per layer (queries by
keys, then weights by values). A backward pass takes the same again for the gradients of the activations, and the same again
for the gradients of those weights that train. Norms, activation functions, softmax and table look-ups are left out: they
move memory but are no matrix multiplications.

Of a text that is answered by another, an encoder-decoder model sends the first through its encoder and the second through its
decoder, whose cross-attention multiplies its key and value matrices with the first (Raffel et al. 2020, section 2.1). An
encoder that feeds a classifier sends nothing but the first through: a label is no token.

Count tokens without padding. Mixtures of experts count the experts that a token meets. Not covered: sliding windows (counted
as full attention) and layers that share their weights (ALBERT: counted once).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

from torch import nn

from bench.errors import BenchError

FINAL_NORMS = ("norm", "ln_f", "final_layernorm", "final_layer_norm", "final_norm", "layer_norm")
"""What the common architectures call the norm between the last layer and the output head."""
CROSS_KEYS_AND_VALUES = re.compile(r"\.(EncDecAttention|encoder_attn|cross_attn)\.(k|v|k_proj|v_proj)(\.|$)")
"""Matrices of a decoder that are multiplied with what the encoder has read."""


@dataclass(frozen=True)
class ModelShape:
    """The numbers of a transformer that its FLOPs follow from; of an encoder-decoder model those of its decoder."""

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
    """Base parameters that a token is multiplied with: all linear layers, output head included, embedding look-up not."""
    head_params: int
    """The output head's part of ``matmul_params``: over the vocabulary, or an encoder's pooler and classifier, which see one
    position. 0 without one."""
    adapter_params: int = 0
    """Parameters of active, unmerged adapters; on top of ``matmul_params``."""
    trainable_params: int = 0
    """Those of ``matmul_params`` and ``adapter_params`` that have gradients."""
    trainable_head_params: int = 0
    """The output head's part of ``trainable_params``."""
    backward_layers: int = 0
    """Layers from the lowest one that trains up to the top: those that gradients flow through."""
    bidirectional: bool = False
    """An encoder: every position attends to all of them, and no text is generated."""
    encoder: ModelShape | None = None
    """Of an encoder-decoder model."""
    cross_params: int = 0
    """Key and value matrices of a decoder's cross-attention, their adapters included: multiplied with the encoder's tokens."""
    trainable_cross_params: int = 0


def forward_flops(
    shape: ModelShape, n_new_tokens: int, n_context_tokens_before: int = 0, *, logits_tokens: int | None = None, causal: bool = True
) -> int:
    """Operations of one sequence's forward pass.

    ``n_context_tokens_before`` tokens are in the key-value cache (virtual tokens of prefix tuning too). ``logits_tokens`` is
    the number of positions that the output head is applied to: default all new ones; generation needs one per step.
    ``causal``: a position of a decoder attends to itself and those before it, summed exactly over positions; False counts the
    full rectangle, which is what eager attention computes before it masks half of it. An encoder computes it always.

    Of an encoder-decoder model ``logits_tokens`` have to be given: they are the decoder's, the other new ones the encoder's.

    Raises ValueError for a negative count, more logits than new tokens, and an encoder with tokens cached.
    """
    new, before, logits = _counts(shape, n_new_tokens, n_context_tokens_before, logits_tokens)
    if shape.encoder is not None:
        return _forward(shape.encoder, new - logits, 0, 0, causal) + _forward(shape, logits, new - logits, logits, causal)
    return _forward(shape, new, before, logits, causal)


def generation_flops(shape: ModelShape, n_prompt_tokens: int, n_completion_tokens: int, n_cached_tokens: int = 0) -> int:
    """Operations of answering one request with a key-value cache.

    ``n_prompt_tokens`` includes the ``n_cached_tokens`` whose keys and values are already there (count that shared prefix
    once with :func:`forward_flops`). The first completion token comes out of the prompt's pass, so that ``n`` tokens take
    ``n - 1`` steps more; a decoder under an encoder begins with a token of its own and takes ``n`` steps. Raises ValueError
    where more tokens are cached than the prompt has, or any by an encoder.
    """
    new = n_prompt_tokens - n_cached_tokens
    if shape.encoder is not None:
        if n_cached_tokens:
            raise ValueError(f"token counts: {n_cached_tokens} cached, which an encoder cannot use")
        return forward_flops(shape, n_prompt_tokens + n_completion_tokens, logits_tokens=n_completion_tokens)
    prefill = forward_flops(shape, new, n_cached_tokens, logits_tokens=min(1, new))
    return prefill + (0 if shape.bidirectional else forward_flops(shape, max(0, n_completion_tokens - 1), n_prompt_tokens))


def training_flops(
    shape: ModelShape, n_tokens: int, n_context_tokens_before: int = 0, *, logits_tokens: int | None = None, causal: bool = True
) -> int:
    """Operations of one sequence's forward and backward pass, by what trains in ``shape``; arguments as for :func:`forward_flops`.

    Everything trains: 3 forward passes (about 6 per parameter and token). Frozen base with adapters in every layer: 2
    forward passes of the base (about 4), its weights having no gradients, and 3 of the adapters. Only the upper layers:
    gradients flow through ``backward_layers`` of them. A frozen model that feeds a trained soft prompt counts like adapters.

    The ``logits_tokens`` of an encoder with a classifier are its labels: they count towards ``n_tokens``, but not in the encoder.

    The lowest layer's projections are counted with activation gradients, though autograd skips those of queries, keys and
    values where nothing below trains: about 1.5 % too much for LoRA on 8 layers, less on more. The optimizer's own step (about
    10 operations per trained parameter and step, not per token) is left out, and so is recomputation under checkpointing.
    """
    new, before, logits = _counts(shape, n_tokens, n_context_tokens_before, logits_tokens)
    if shape.encoder is not None:
        read = new - logits
        return _training(shape.encoder, read, 0, 0, causal) + _training(shape, logits, read, logits, causal)
    if shape.bidirectional and logits_tokens is not None:
        new -= logits
    return _training(shape, new, before, logits, causal)


def _counts(shape: ModelShape, new: int, before: int, logits_tokens: int | None) -> tuple[int, int, int]:
    if shape.encoder is not None and logits_tokens is None:
        raise ValueError("token counts: an encoder-decoder model needs logits_tokens, those of the decoder")
    logits = new if logits_tokens is None else logits_tokens
    if min(new, before, logits) < 0 or logits > new:
        raise ValueError(f"token counts: {new} new, {before} before, {logits} with logits")
    if before and (shape.bidirectional or shape.encoder is not None):
        raise ValueError(f"token counts: {before} before, which an encoder cannot use")
    return new, before, logits


def _forward(shape: ModelShape, new: int, before: int, logits: int, causal: bool) -> int:
    """``before``: tokens in the cache of a decoder, or those that a decoder with an encoder reads by cross-attention."""
    body = shape.matmul_params - shape.head_params + shape.adapter_params - shape.cross_params
    cross = shape.cross_params * before if shape.encoder is not None else 0
    return 2 * (body * new + cross + shape.head_params * logits) + _attention(shape, shape.layers, new, before, causal)


def _training(shape: ModelShape, new: int, before: int, logits: int, causal: bool) -> int:
    layer_params = (shape.matmul_params - shape.head_params + shape.adapter_params - shape.cross_params) / max(1, shape.layers)
    head = shape.head_params if shape.backward_layers else 0
    body = shape.trainable_params - shape.trainable_head_params - shape.trainable_cross_params
    activations = round(layer_params * shape.backward_layers) * new + head * logits
    weights = body * new + shape.trainable_head_params * logits
    if shape.encoder is not None:
        # Gradients go on into the encoder's states where something below asks for them.
        activations += shape.cross_params * before if shape.encoder.backward_layers else 0
        weights += shape.trainable_cross_params * before
    attention = 2 * _attention(shape, shape.backward_layers, new, before, causal)
    return _forward(shape, new, before, logits, causal) + 2 * (activations + weights) + attention


def shape_of(model: nn.Module) -> ModelShape:
    """Read the shape off a transformers model (decoder, encoder or both), adapters of peft counted apart.

    What trains is read from ``requires_grad``: call this after the adapter is attached or the layers are frozen. Raises
    BenchError for a model whose configuration does not name its layers, width and heads, or whose cross-attention is not found.
    """
    config: Any = getattr(model, "config", None)
    pair = bool(getattr(config, "is_encoder_decoder", False))
    config = config.get_text_config() if hasattr(config, "get_text_config") and not pair else config
    encodes = not pair and _is_encoder(config)
    in_head = _head_names(model, encodes)
    matmuls = list(_matmuls(model, in_head))
    head = {id(p) for name, p in model.named_parameters() if in_head(name)}
    if not pair:
        return _part(model, config, "", matmuls, head, encodes)
    stacks: dict[str, nn.Module] = {"encoder": cast(Any, model).get_encoder(), "decoder": cast(Any, model).get_decoder()}
    written = [m for m in matmuls if m.head or ".decoder." in f".{m.name}"]
    read = [m for m in matmuls if m not in written]
    cross = [m for m in written if CROSS_KEYS_AND_VALUES.search(m.name)]
    if not cross:
        raise BenchError(f"{type(model).__name__}: cannot count FLOPs, its decoder has no cross-attention of a known name")
    encoder = _part(stacks["encoder"], getattr(config, "encoder", config), "encoder", read, head, True)
    decoder = _part(stacks["decoder"], getattr(config, "decoder", config), "decoder", written, head, False)
    inside = head | {id(p) for stack in stacks.values() for p in stack.parameters()}
    if any(p.requires_grad and id(p) not in inside for p in model.parameters()):
        encoder = replace(encoder, backward_layers=encoder.layers)  # a soft prompt
    return replace(
        decoder,
        encoder=encoder,
        cross_params=sum(m.params for m in cross),
        trainable_cross_params=sum(m.params for m in cross if m.trains),
        # Every layer of the decoder reads the encoder's states: gradients for these come through all of them.
        backward_layers=decoder.layers if encoder.backward_layers else decoder.backward_layers,
    )


def _part(stack: nn.Module, config: object, side: str, matmuls: list[_Matmul], head: set[int], bidirectional: bool) -> ModelShape:
    """The shape of a model, or of its encoder or decoder alone; ``head``: the ids of the head's parameters."""
    layers = _setting(stack, config, "num_hidden_layers", f"num_{side}_layers", f"{side}_layers")
    heads = _setting(stack, config, "num_attention_heads", f"{side}_attention_heads")
    width = _setting(stack, config, "hidden_size")
    head_size = getattr(config, "head_dim", None) or getattr(config, "d_kv", None) or width // heads
    trained = [m for m in matmuls if m.trains]
    return ModelShape(
        layers=layers,
        width=width,
        heads=heads,
        attention_width=heads * head_size,
        kv_width=(getattr(config, "num_key_value_heads", None) or heads) * head_size,
        vocab=_setting(stack, config, "vocab_size"),
        matmul_params=sum(m.params for m in matmuls if not m.adapter),
        head_params=sum(m.params for m in matmuls if m.head),
        adapter_params=sum(m.params for m in matmuls if m.adapter),
        trainable_params=sum(m.params for m in trained),
        trainable_head_params=sum(m.params for m in trained if m.head),
        backward_layers=_backward_layers(stack, layers, head),
        bidirectional=bidirectional,
    )


def _is_encoder(config: object) -> bool:
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    return getattr(config, "model_type", None) in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)


def _head_names(model: nn.Module, encoder: bool) -> Callable[[str], bool]:
    """Whether a module or parameter, by its name, belongs to what stands on the last layer's states."""
    output = getattr(model, "get_output_embeddings", lambda: None)()
    if output is not None:
        own = next(name for name, module in model.named_modules() if module is output)
        return lambda name: f"{name}.".startswith(f"{own}.")
    body = getattr(model, "base_model_prefix", "")
    beside = encoder and bool(body) and hasattr(model, body)
    return lambda name: encoder and (".pooler." in f".{name}." or (beside and f".{body}." not in f".{name}."))


def _attention(shape: ModelShape, layers: int, new: int, before: int, causal: bool) -> int:
    pairs = new * before + (new * (new + 1) // 2 if causal and not shape.bidirectional else new * new)
    return 4 * layers * shape.attention_width * pairs


@dataclass(frozen=True)
class _Matmul:
    name: str
    params: int
    adapter: bool
    trains: bool
    head: bool


def _matmuls(model: nn.Module, in_head: Callable[[str], bool]) -> Iterator[_Matmul]:
    """Every matrix that a token is multiplied with, once for each module that applies it (a tied head is applied)."""
    peft = sys.modules.get("peft.tuners.tuners_utils")  # slow to import, and without it no module is one of its layers
    tuned = [(name + ".", module) for name, module in model.named_modules() if peft and isinstance(module, peft.BaseTunerLayer)]
    experts_per_token = getattr(getattr(model, "config", None), "num_experts_per_tok", None)
    for name, parameter in model.named_parameters():
        if experts_per_token and parameter.ndim == 3 and ".experts." in name:  # one matrix per expert, of which a token meets a few
            yield _Matmul(name, parameter[0].numel() * experts_per_token, adapter=False, trains=parameter.requires_grad, head=False)
    for name, module in model.named_modules():
        # peft keeps the untrained copy of a module that it saves whole, which is not applied; and what makes virtual tokens runs
        # once per batch over those, not over the text.
        applied = ".original_module" not in name and not name.startswith("prompt_encoder.")
        if not applied or not (isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"):
            continue
        owner = next((layer for prefix, layer in tuned if name.startswith(prefix) and not name.startswith(prefix + "base_layer")), None)
        if owner is None:
            yield _Matmul(name, _size(module), adapter=False, trains=_trains(module), head=in_head(name))
        elif not owner.merged and not owner.disable_adapters and name.rpartition(".")[2] in owner.active_adapters:
            yield _Matmul(name, _size(module), adapter=True, trains=_trains(module), head=in_head(name))


def _size(module: nn.Module) -> int:
    # Features, not the weight's element count: a 4-bit weight packs two parameters into one element.
    if isinstance(module, nn.Linear):
        return module.in_features * module.out_features
    weight = module.weight
    return weight.numel() if isinstance(weight, nn.Parameter) else 0


def _trains(module: nn.Module) -> bool:
    return any(parameter.requires_grad for name, parameter in module.named_parameters(recurse=False) if name == "weight")


def _backward_layers(model: nn.Module, layers: int, head: set[int]) -> int:
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    stack = next((m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == layers), None)
    if stack is None:
        return layers if trained else 0
    in_layers = [{id(p) for p in layer.parameters()} for layer in stack]
    table = getattr(model, "get_input_embeddings", lambda: None)()
    above = head - ({id(p) for p in table.parameters()} if table is not None else set())
    above |= {id(p) for name, p in model.named_parameters() if name.rpartition(".")[0].rpartition(".")[2] in FINAL_NORMS}
    if trained - above - set().union(*in_layers):
        return layers  # embeddings or a soft prompt below the first layer
    lowest = next((i for i, ids in enumerate(in_layers) if ids & trained), layers)
    return layers - lowest


def _setting(model: nn.Module, config: object, key: str, *more_specific: str) -> int:
    value = next((v for v in (getattr(config, k, None) for k in (*more_specific, key)) if v is not None), None)
    if not isinstance(value, int):
        raise BenchError(f'{type(model).__name__}: cannot count FLOPs, "{key}" is {value!r} in its configuration, expected a whole number')
    return value
