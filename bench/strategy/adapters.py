"""The tuning choice's weights: which of them move, how they are kept, and how they are folded into the base."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from bench.errors import BenchError
from bench.model.language_model import LanguageModel
from bench.model.weights import fold
from bench.strategy.bottleneck import Bottleneck, add_bottlenecks
from bench.strategy.partial import mark_biases, mark_last_layers
from bench.strategy.peft_methods import add_peft_adapter
from bench.strategy.spec import TuningChoice

WEIGHTS_FILE, SETTINGS_FILE = "weights.safetensors", "settings.json"
"""What `save_adapter` writes for methods that are none of peft's."""
_SETTINGS: dict[str, set[str]] = {"bottleneck": {"bottleneck", "targets"}, "bitfit": set(), "last_layers": {"layers"}, "full": set()}


def wrap(model: LanguageModel, choice: TuningChoice, seed: int, text: str = "") -> None:
    """Mark the weights that will move, adding an adapter where the method has one.

    `seed` draws its initial values; `text`, the task's instruction, is what virtual tokens start from. Raises `BenchError` for
    settings that the method does not have or that do not fit the model.
    """
    torch.manual_seed(seed)
    if choice.method in ("lora", "peft"):
        # What peft prepares a 4-bit base with is left out: the base is frozen anyhow, checkpointing is a setting of its own, and
        # norms in float32 would make the base another one than that of the arms without it.
        add_peft_adapter(model, choice, text)
        return
    network = model.network
    network.requires_grad_(choice.method == "full")
    if choice.method == "bottleneck":
        add_bottlenecks(network, choice.targets, choice.bottleneck, choice.dropout)
    elif choice.method == "bitfit":
        mark_biases(network, model.new_modules)
    elif choice.method == "last_layers":
        mark_last_layers(network, choice.layers)
    for name in model.new_modules:
        network.get_submodule(name).requires_grad_(True)


def after_step(model: LanguageModel, step: int, total: int) -> None:
    """What a method does after the optimizer's step number `step` (from 0) of `total`, while the gradients are there.

    AdaLoRA (Zhang et al. 2023, arXiv 2303.10512) takes rank from the matrices that use it least: nothing in the first tenth of
    the steps, down to its budget until half of them, and the same matrices' ranks from there on, where its settings name no
    other schedule.
    """
    config = _peft_config(model)
    if config is None or config.peft_type != "ADALORA":
        return
    if config.total_step != total:
        config.total_step = total
        if config.tinit == config.tfinal == 0:
            config.tinit, config.tfinal = total // 10, total // 2
    model.network.base_model.update_and_allocate(step)


def parameter_counts(model: LanguageModel, trained: bool) -> tuple[int, int]:
    """(all parameters, those that move); tied weights count once, 4-bit ones as the numbers that they stand for.

    The untrained copy that peft keeps of a module that trains whole is not counted.
    """
    sizes = [(_size(p), p.requires_grad) for name, p in model.network.named_parameters() if ".original_module." not in name]
    return sum(size for size, _ in sizes), sum(size for size, moves in sizes if moves) if trained else 0


def _size(parameter: Any) -> int:
    packed = getattr(parameter, "quant_state", None)
    return int(packed.shape.numel()) if packed is not None else int(parameter.numel())


def restore(model: LanguageModel, weights: dict[str, torch.Tensor]) -> None:
    """Put trained tensors back into a model that `wrap` prepared."""
    own = dict(model.network.named_parameters())
    with torch.no_grad():
        for name, value in weights.items():
            own[name].copy_(value)


def merge(model: LanguageModel) -> str | None:
    """Fold the adapter into the base's weights, so that `model.network` is a plain network that answers the same at the base's cost.

    Returns None, or the reason why there is no such network, with the model left as it was.
    """
    network, config = model.network, _peft_config(model)
    if any(isinstance(m, Bottleneck) for m in network.modules()):
        return "bottleneck adapters are layers of their own: no weights of the base could do the same"
    if config is None:
        return "no adapter: what was trained are the model's own weights"
    if config.is_prompt_learning:
        return "virtual tokens stand before the text: no weights of the base could do the same"
    if getattr(network.config, "quantization_config", None) is not None:
        return "the base is quantized: the sum of its weights and the adapter's would be rounded again"
    try:
        model.network = fold(network)
    except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
        return f"peft cannot merge {config.peft_type.value}: {(str(error) or type(error).__name__).splitlines()[0]}"
    model.network.requires_grad_(False)
    return None


def _peft_config(model: LanguageModel) -> Any:
    """The configuration of the model's adapter, or None where it has none of peft's."""
    found = getattr(model.network, "peft_config", None)
    return found[model.network.active_adapter] if isinstance(found, dict) else None


# ---------------------------------------------------------------------------------------------------- files


def artifact_bytes(model: LanguageModel) -> int:
    """The size of the weights that have to be kept to serve the tuned model, as they are written to disk.

    Their configuration (about a kilobyte) is left out: it names the base model's path, and a record must not depend on paths.
    """
    with tempfile.TemporaryDirectory() as folder:
        _save_weights(model, Path(folder))
        return sum(f.stat().st_size for f in Path(folder).rglob("*.safetensors"))


def save_adapter(model: LanguageModel, choice: TuningChoice, folder: Path) -> None:
    """Write what the tuning moved to `folder`.

    Methods of peft in its own format, for ``PeftModel.from_pretrained`` over the same base; the others as the tensors that
    moved, by their names in the network, and a file with the settings that made them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _save_weights(model, folder)
    if _peft_config(model) is None:
        (folder / SETTINGS_FILE).write_text(json.dumps(_settings(choice), indent=2) + "\n")


def _settings(choice: TuningChoice) -> dict[str, Any]:
    """What the tensors' names and shapes follow from."""
    return {"method": choice.method} | choice.model_dump(mode="json", include=_SETTINGS[choice.method])


def kept_tensors(model: LanguageModel) -> dict[str, torch.Tensor]:
    """What `save_adapter` writes of a model that `wrap` prepared, by name; of AdaLoRA with the ranks that it starts with."""
    if _peft_config(model) is None:
        return {n: p for n, p in model.network.named_parameters() if p.requires_grad}
    from peft import get_peft_model_state_dict

    return dict(get_peft_model_state_dict(model.network, save_embedding_layers=False))


def _save_weights(model: LanguageModel, folder: Path) -> None:
    config = _peft_config(model)
    if config is None:
        save_file({n: p.detach().contiguous() for n, p in kept_tensors(model).items()}, folder / WEIGHTS_FILE)
        return
    if config.peft_type == "ADALORA":
        # peft would write the ranks of the last step, which are not those of the checkpoint that was kept.
        values = {n: p for n, p in model.network.base_model.model.named_parameters() if ".lora_E." in n}
        config.rank_pattern = {name: (p.detach().view(-1) != 0).tolist() for name, p in values.items()}
    # "auto" would look the base up on the hub to see whether its vocabulary has grown; here it never does.
    model.network.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # a model card of nothing but blanks


def load_adapter(model: LanguageModel, choice: TuningChoice, folder: Path) -> None:
    """Put weights that `save_adapter` wrote into a freshly wrapped model, to answer with them or to train them on.

    Raises `BenchError` where the folder holds none, or those of another method, other settings or another base.
    """
    config = _peft_config(model)
    settings_file = folder / (SETTINGS_FILE if config is None else "adapter_config.json")
    if not settings_file.is_file():
        raise BenchError(f"adapter {folder}: found no {settings_file.name}; expected an adapter of method {choice.method}")
    if config is None:
        settings = json.loads(settings_file.read_text())
        if settings != _settings(choice):
            raise BenchError(f"adapter {folder}: was made with {settings}; expected {_settings(choice)}")
        weights = load_file(folder / WEIGHTS_FILE)
        _check_fit(folder, weights, {n: p for n, p in model.network.named_parameters() if p.requires_grad})
        restore(model, weights)
        return
    from peft import PeftConfig, get_peft_model_state_dict, set_peft_model_state_dict

    saved = PeftConfig.from_pretrained(str(folder))
    if saved.peft_type != config.peft_type:
        raise BenchError(f"adapter {folder}: is of method {saved.peft_type.value}; expected {config.peft_type.value}")
    if config.peft_type == "P_TUNING" or getattr(config, "prefix_projection", False):
        # The network that made the virtual tokens is not kept with them: from here on they are trained themselves.
        config.inference_mode = True
        encoders, name = model.network.prompt_encoder, model.network.active_adapter
        encoders[name] = type(encoders[name])(config).to(model.device)
    found = load_file(folder / "adapter_model.safetensors")
    own = get_peft_model_state_dict(model.network, save_embedding_layers=False)
    if config.peft_type == "ADALORA":
        found = _with_all_ranks(found, own, saved.rank_pattern or {})
    _check_fit(folder, found, own)
    set_peft_model_state_dict(model.network, found)


def _with_all_ranks(found: dict[str, torch.Tensor], own: dict[str, torch.Tensor], kept: dict[str, list[bool]]) -> dict[str, torch.Tensor]:
    """AdaLoRA's saved ranks among the fresh ones, whose singular values are zero."""
    found = dict(found)
    for name, rows in kept.items():
        where = torch.tensor(rows).nonzero().view(-1)
        for part, dimension in (("lora_A", 0), ("lora_E", 0), ("lora_B", 1)):
            key = "base_model.model." + name.replace("lora_E", part)
            if key in own and key in found and own[key].shape[dimension] == len(rows):
                found[key] = own[key].clone().index_copy_(dimension, where, found[key])
    return found


def _check_fit(folder: Path, found: dict[str, torch.Tensor], own: dict[str, torch.Tensor]) -> None:
    for name in sorted(found.keys() ^ own.keys()):
        what = "holds" if name in found else "lacks"
        raise BenchError(f"adapter {folder}: {what} {name}; expected the weights of an adapter to this model with the same settings")
    for name, tensor in found.items():
        if tensor.shape != own[name].shape:
            raise BenchError(f"adapter {folder}: {name} has shape {tuple(tensor.shape)}; expected {tuple(own[name].shape)}")
