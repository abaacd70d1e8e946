"""A model without its weights, from its configuration alone: shapes to count with, before anything is downloaded or trained.

Parameters lie on torch's "meta" device; `materialised` makes them fake tensors of a CPU, on which a step can be run for what it
allocates and computes (`bench.strategy.trace`). What the network is, how adapters are put around it and how its loss is computed is
the same code as of a loaded model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import CONFIG_MAPPING, AttentionInterface

from bench.errors import BenchError, did_you_mean
from bench.model.classifier import Classifier, beside_body
from bench.model.language_model import LanguageModel
from bench.model.seq2seq import Seq2SeqModel
from bench.model.source import ModelKind, ModelSource, config_of

_ATTENTION = "outline"


class _NoTokenizer:
    """What a model asks its tokenizer where no text is read."""

    pad_token_id = 0
    eos_token_id = 0
    chat_template = None
    model_max_length = 1 << 20


def _attention(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, scaling: float | None = None, **_: Any
) -> tuple[torch.Tensor, None]:
    """Fused attention that keeps no scores, with as many key heads as there are: what torch runs on a GPU where there is no mask."""
    causal = getattr(module, "is_causal", True) and query.shape[2] == key.shape[2]
    found = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, 0.0, causal, scale=scaling)
    return found[0].transpose(1, 2).contiguous(), None


def outline(name: str, dtype: torch.dtype, n_labels: int = 2) -> LanguageModel:
    """The model of `name` (as `bench.model.source.locate` takes it, or a config.json) without weights, in `dtype`.

    `n_labels`: of an encoder, those that its head tells apart. Raises `BenchError` for a configuration that cannot be read or that no
    architecture of transformers is known for.
    """
    settings, kind = config_of(name)
    model_type = str(settings.get("model_type"))
    if model_type not in CONFIG_MAPPING:
        raise BenchError(f'model {name}: model_type "{model_type}" in its configuration; {did_you_mean(model_type, CONFIG_MAPPING.keys())}')
    config = CONFIG_MAPPING[model_type].from_dict(settings)
    kinds: dict[ModelKind, type[LanguageModel]] = {"causal": LanguageModel, "seq2seq": Seq2SeqModel, "encoder": Classifier}
    model = kinds[kind].__new__(kinds[kind])
    model.source = ModelSource(name, Path(name), "", "", kind)
    model.device = torch.device("meta")
    model.tokenizer = _NoTokenizer()
    if isinstance(model, Classifier):
        config.num_labels = n_labels
        model.labels = tuple(map(str, range(n_labels)))
    network = _network(model, config, dtype, name)
    if isinstance(model, Classifier):
        model.new_modules = beside_body(network)
    model._adopt(network.eval())
    return model


def _network(model: LanguageModel, config: Any, dtype: torch.dtype, name: str) -> Any:
    AttentionInterface.register(_ATTENTION, _attention)
    problem: Exception | None = None
    for attention in (_ATTENTION, "eager"):  # architectures that choose their attention themselves know no other
        try:
            with torch.device("meta"):
                return model.auto_class.from_config(config, dtype=dtype, attn_implementation=attention)
        except (ValueError, KeyError, ImportError, TypeError) as error:
            problem = error
    raise BenchError(f"model {name}: no {model.kind_name} can be made of its configuration ({str(problem).splitlines()[0]})")


def materialised(model: LanguageModel, mode: FakeTensorMode, trained: torch.dtype) -> None:
    """Turn an outline's tensors into fake ones of a CPU, in place; weights that train into `trained`, which they are kept in.

    A CPU's, since mixed precision has a meaning there and none on "meta".
    """
    made: dict[int, torch.Tensor] = {}
    device = torch.device("cpu")

    def fake(tensor: torch.Tensor, moves: bool) -> torch.Tensor:
        if id(tensor) not in made:
            flat = tensor.detach().to(trained) if moves else tensor.detach()
            made[id(tensor)] = mode.fake_tensor_converter.from_meta_and_device(mode, flat, device)
        return made[id(tensor)]

    kept: list[torch.Tensor] = []  # an id names a tensor only while it lives
    parameters: dict[int, nn.Parameter] = {}
    for module in model.network.modules():
        for key, parameter in module._parameters.items():
            if parameter is None:
                continue
            kept.append(parameter)
            if id(parameter) not in parameters:
                parameters[id(parameter)] = nn.Parameter(fake(parameter, parameter.requires_grad), parameter.requires_grad)
            module._parameters[key] = parameters[id(parameter)]
        for key, buffer in module._buffers.items():
            if buffer is not None and buffer.device.type == "meta":
                kept.append(buffer)
                module._buffers[key] = fake(buffer, False)
    model.device = device

