"""A folder that holds a peft adapter and names the base that it belongs to. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.model.files import file_hash, read_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_OWN_SETTINGS = "settings.json"
"""What this program writes beside the tensors of methods that are none of peft's (`bench.strategy.adapters`)."""
_NOT_MERGED = frozenset({
    "ADAPTION_PROMPT", "BEFT", "CARTRIDGE", "CPT", "MULTITASK_PROMPT_TUNING", "POLY", "PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING",
    "SHADOW", "XLORA",
})  # fmt: skip
"""Types of peft for which no weights of the base could do the same."""
# Where it was made and by what, not what it computes.
_VOLATILE_CONFIG = ("base_model_name_or_path", "revision", "peft_version", "inference_mode", "auto_mapping")


def is_adapter(name: str, folder: Path) -> bool:
    """Whether a folder is a peft adapter. Raises `BenchError` for an adapter of another form, and for one beside a whole model."""
    if (folder / CONFIG).is_file():
        if (folder / "config.json").is_file() and any(file.name != WEIGHTS for file in folder.glob("*.safetensors")):
            raise BenchError(f"model {name}: holds a whole model and an adapter ({CONFIG}); expected one of them")
        return True
    if (folder / _OWN_SETTINGS).is_file() and not (folder / "config.json").is_file():
        method = read_json(folder / _OWN_SETTINGS).get("method")
        raise BenchError(f"model {name}: is an adapter of method {method}, which is not merged into a base; expected one of peft's")
    return False


def base_of(name: str, folder: Path) -> tuple[str, str | None]:
    """The base of an adapter as its configuration names it, and its revision there.

    Raises `BenchError` where it names none, where peft cannot merge its type, and where it has no safetensors.
    """
    config = read_json(folder / CONFIG)
    kind, base = str(config.get("peft_type")), config.get("base_model_name_or_path")
    if kind in _NOT_MERGED:
        raise BenchError(f"model {name}: is an adapter of type {kind}, which peft cannot merge into a base; expected one such as LORA")
    if not base:
        raise BenchError(f"model {name}: {folder / CONFIG} names no base_model_name_or_path; expected a folder or a hub id")
    if not (folder / WEIGHTS).is_file():
        others = sorted(file.name for pattern in ("*.bin", "*.pt") for file in folder.glob(pattern))
        found = f"found {', '.join(others)}" if others else "found no weights"
        raise BenchError(f"model {name}: {found} in {folder}; expected {WEIGHTS} (pickled weights are not loaded)")
    return str(base), config.get("revision")


def adapter_hash(folder: Path) -> bytes:
    """SHA-256 of an adapter's weights and of what of its configuration changes what it computes."""
    config: dict[str, Any] = {k: v for k, v in read_json(folder / CONFIG).items() if k not in _VOLATILE_CONFIG}
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode() + file_hash(folder / WEIGHTS)).digest()
