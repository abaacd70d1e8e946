"""peft's methods: a choice as peft's configuration, checked, and the start of those that learn virtual tokens."""

from __future__ import annotations

import inspect
import itertools
import sys
from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from bench.errors import BenchError, did_you_mean
from bench.model.language_model import LanguageModel
from bench.strategy.spec import TuningChoice

REFUSED = {
    "LILY": "its answers depend on what else stands in the batch",
    "MULTITASK_PROMPT_TUNING": "it needs a task id with every request, and a cell has one task",
    "POLY": "it needs a task id with every request, and a cell has one task",
    "CPT": "it needs a mask of token types with every request",
    "XLORA": "it mixes adapters trained before, and a cell starts from the base",
}
"""Methods of peft that cannot be run here, and why."""

_FILLED_IN = {
    "task_type": "the kind of model", "inference_mode": "what is being done", "base_model_name_or_path": "the model",
    "tokenizer_name_or_path": "the model", "total_step": "the length of the training",
}  # fmt: skip
_LORA_SETTINGS = {"r": "r", "lora_alpha": "alpha", "lora_dropout": "dropout", "target_modules": "targets"}
_LORA_STARTS = (True, False, "gaussian", "olora", "orthogonal", "pissa")
_IA3_MODULES = (("k_proj", "v_proj", "down_proj"), ("k_proj", "v_proj", "fc2"), ("k_lin", "v_lin", "lin2"))
"""Keys, values and the feed-forward output by the names of common families; for some of them peft would take the queries."""
_KEYS_AND_VALUES = ("PREFIX_TUNING", "CARTRIDGE")
_NEEDS_WHOLE_PROMPT = ("SHADOW",)
"""Methods whose answers change where the cache of a part of the prompt is reused: they run a second model beside the base."""
_LENGTH_UNKNOWN = sys.maxsize
"""AdaLoRA's schedule until `bench.strategy.adapters.after_step` knows the number of steps."""


def add_peft_adapter(model: LanguageModel, choice: TuningChoice, text: str) -> None:
    """Replace `model.network` by peft's model over it, whose adapter alone trains; `text`: what virtual tokens start from.

    A model without weights gets an adapter without values: those that start from the base's weights or texts have nothing to start from.

    Raises `BenchError` for an unknown method or setting, targets that the model does not have, and a method that does not fit.
    """
    from peft import get_peft_model

    outline = model.device.type == "meta"
    config = _config(model, choice, text)
    if outline:
        _start_from_nothing(config)
    if config.is_prompt_learning and not 0 < (config.num_virtual_tokens or 0) < model.window:
        raise BenchError(f"tuning.peft.num_virtual_tokens: found {config.num_virtual_tokens}; expected 1 to {model.window - 1}")
    start = None
    if config.peft_type in _KEYS_AND_VALUES:
        _check_prefix(model, choice)
        starts = model.peft_task == "CAUSAL_LM" and not outline
        start = _keys_and_values(model, text, config.num_virtual_tokens) if starts else None
    try:
        model.network = get_peft_model(model.network, config)
    except (ValueError, TypeError, AttributeError, KeyError, NotImplementedError) as error:
        setting = "tuning.targets" if choice.method == "lora" else "tuning.peft"
        raise BenchError(f"{setting}: {_first_line(error)}") from error
    if config.is_prompt_learning:
        model.virtual_tokens = config.num_virtual_tokens
        model.window -= config.num_virtual_tokens
        if "position_ids" in inspect.signature(model.network.base_model.forward).parameters and model.peft_task == "CAUSAL_LM":
            model.network.base_model.register_forward_pre_hook(_positions_without_padding, with_kwargs=True)
    if config.is_prompt_learning or config.peft_type in _NEEDS_WHOLE_PROMPT:
        model.shared_prefix = False
    if start is not None:
        _start_prefix(model.network, start)


def _config(model: LanguageModel, choice: TuningChoice, text: str) -> Any:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    settings = dict(choice.peft)
    for key, source in _FILLED_IN.items():
        if key in settings:
            raise BenchError(f"tuning.peft.{key}: is filled in from {source}; leave it out")
    if choice.method == "lora":
        for key, own in {**_LORA_SETTINGS, "peft_type": "method"}.items():
            if key in settings:
                raise BenchError(f"tuning.peft.{key}: of method lora this is set by tuning.{own}")
        settings |= {"peft_type": "LORA"} | {key: getattr(choice, own) for key, own in _LORA_SETTINGS.items()}
    kind = str(settings.pop("peft_type")).upper()
    if kind in REFUSED:
        raise BenchError(f"tuning.peft.peft_type {kind}: {REFUSED[kind]}")
    known = {str(getattr(k, "value", k)): config for k, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    if kind not in known:
        raise BenchError(f"tuning.peft.peft_type: peft has no method {kind}; {did_you_mean(kind, known.keys() - REFUSED.keys())}")
    accepted = inspect.signature(known[kind]).parameters.keys() - _FILLED_IN.keys() - {"peft_type"}
    for key in settings:
        if key not in accepted:
            raise BenchError(f"tuning.peft.{key}: peft's {kind} has no such setting; {did_you_mean(key, accepted)}")
    if kind == "LORA" and settings.get("init_lora_weights", True) not in _LORA_STARTS:
        # Others are drawn at random again when the adapter is loaded (pissa_niter_*), or need data to start from (eva, corda).
        raise BenchError(f"tuning.peft.init_lora_weights: found {settings['init_lora_weights']!r}; expected one of {_LORA_STARTS}")
    try:
        return known[kind](**(settings | _filled_in(model, kind, settings, accepted, text)))
    except (ValueError, TypeError, ImportError) as error:
        raise BenchError(f"tuning.peft: {_first_line(error)}") from error


def _filled_in(model: LanguageModel, kind: str, settings: dict[str, Any], accepted: Collection[str], text: str) -> dict[str, Any]:
    """What peft's configuration needs to know about the model, the task and the training."""
    network = model.network
    found: dict[str, Any] = {"task_type": model.peft_task}
    if model.new_modules:
        found["modules_to_save"] = [*(settings.get("modules_to_save") or ()), *model.new_modules]
    if "token_dim" in accepted:
        # peft reads these from the configuration's own names, which are others in some models (DistilBERT).
        names = {"token_dim": "hidden_size", "num_layers": "num_hidden_layers", "num_attention_heads": "num_attention_heads"}
        found |= {key: getattr(network.config, name) for key, name in names.items() if key not in settings}
    if kind == "ADALORA":
        found["total_step"] = _LENGTH_UNKNOWN
    if kind == "IA3" and not {"target_modules", "feedforward_modules"} & settings.keys():
        inner = {name.rpartition(".")[2] for name, _ in network.named_modules()}
        named = next((names for names in _IA3_MODULES if inner.issuperset(names)), None)
        if named:
            found |= {"target_modules": list(named), "feedforward_modules": [named[-1]]}
    if kind == "LN_TUNING" and "target_modules" not in settings:
        found["target_modules"] = [name for name, m in network.named_modules() if type(m).__name__.endswith("Norm")]
    if kind in ("PROMPT_TUNING", "P_TUNING"):
        found["num_transformer_submodules"] = 1  # peft makes tokens for encoder and decoder, and uses those of the encoder
    if kind == "PROMPT_TUNING" and settings.get("prompt_tuning_init") == "TEXT":
        arguments = dict(model.source.tokenizer_arguments)
        found["tokenizer_name_or_path"] = str(arguments.pop("pretrained_model_name_or_path"))
        found |= {"tokenizer_kwargs": arguments} if arguments else {}
        found["prompt_tuning_init_text"] = settings.get("prompt_tuning_init_text", text)
        if not found["prompt_tuning_init_text"].strip():
            raise BenchError("tuning.peft.prompt_tuning_init: TEXT needs a text, and the task has no instruction; expected SAMPLE_VOCAB")
    return found


def _start_from_nothing(config: Any) -> None:
    if hasattr(config, "init_lora_weights"):
        config.init_lora_weights = True
    if hasattr(config, "prompt_tuning_init"):
        config.prompt_tuning_init = "RANDOM"


def _check_prefix(model: LanguageModel, choice: TuningChoice) -> None:
    if choice.gradient_checkpointing:
        raise BenchError("tuning.gradient_checkpointing: a prefix of keys and values lies in the cache, which checkpointing turns off")
    if model.peft_task == "SEQ_2_SEQ_LM":
        raise BenchError("tuning.peft.peft_type: in an encoder-decoder model half of peft's prefix is never read; expected another method")
    parts = (model.network, getattr(model.network, model.network.base_model_prefix, model.network))
    if not any("past_key_values" in inspect.signature(part.forward).parameters for part in parts):
        raise BenchError(f"tuning.peft.peft_type: {type(model.network).__name__} takes no keys and values; expected another method")


def _positions_without_padding(network: nn.Module, args: Any, inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Count positions over what the mask lets through.

    A batch for generation holds virtual tokens, then padding, then text, and peft leaves out the positions. Counted with the
    padding, the text would stand farther from the virtual tokens the shorter it is beside the others.
    """
    mask = inputs.get("attention_mask")
    if mask is not None and mask.ndim == 2 and inputs.get("position_ids") is None:
        given = inputs["input_ids"] if inputs.get("inputs_embeds") is None else inputs["inputs_embeds"]
        inputs["position_ids"] = (mask.long().cumsum(-1) - 1).clamp(min=0)[:, -given.shape[1] :]
    return args, inputs


@torch.no_grad()
def _keys_and_values(model: LanguageModel, text: str, count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The base's keys and values on `count` tokens, for each layer: those of `text`, repeated or cut; of random ones without text.

    Each of shape (1, key heads, count, head size). Real activations start better than random numbers (Li & Liang 2021, 7.4).
    """
    from transformers import DynamicCache

    ids = list(itertools.islice(itertools.cycle(model.tokenizer(text)["input_ids"]), count)) if text.strip() else []
    ids = ids or torch.randint(model.network.config.vocab_size, (count,)).tolist()
    cache = DynamicCache(config=model.network.config)
    model.network(input_ids=torch.tensor([ids], device=model.device), past_key_values=cache, use_cache=True)
    layers: Any = cache.layers
    return [(layer.keys, layer.values) for layer in layers]


@torch.no_grad()
def _start_prefix(network: Any, start: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Set the prefix to these keys and values; where a network makes it, that network's last layer, so that it makes them."""
    from peft import initialize_kv_prefix_from_past_key_values, prompt_embeddings_from_past_key_values

    encoder = network.prompt_encoder[network.active_adapter]
    if not getattr(encoder, "prefix_projection", False):
        initialize_kv_prefix_from_past_key_values(network, past_key_values=start)
        return
    first, tanh, last = encoder.transform
    hidden = tanh(first(encoder.embedding.weight))
    wanted = prompt_embeddings_from_past_key_values(start, num_virtual_tokens=len(hidden)).to(hidden.dtype)
    last.bias.copy_(wanted.mean(0))
    # The smallest weights that do: (tokens, hidden) @ (hidden, out) = (tokens, out).
    last.weight.copy_((torch.linalg.pinv(hidden) @ (wanted - last.bias)).T)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
