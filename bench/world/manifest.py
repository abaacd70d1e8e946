"""The manifest of the shipped weights: what they were made from, and the hash of every file."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from bench.errors import BenchError
from bench.model.source import EMBEDDED_FOLDER
from bench.world.entities import WORLD_SEED

BASE_MODEL = EMBEDDED_FOLDER
"""The shipped weights."""
LOGS = ("training_log.jsonl", "log.jsonl")
"""Names of the training log: as shipped, and as pretraining writes it."""


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_manifest(folder: Path, generator_seed: int = WORLD_SEED, tokens: int | None = None) -> Path:
    """Write `manifest.json` beside the weights: the SHA-256 of every other file, and where the weights come from.

    `tokens` (seen in pretraining) defaults to those of the last line of the training log, of which a summary is kept.

    Raises:
        BenchError: if `model.safetensors` is missing, or neither `tokens` nor a log is there.
    """
    weights = folder / "model.safetensors"
    log = next((folder / name for name in LOGS if (folder / name).exists()), folder / LOGS[0])
    if not weights.exists():
        raise BenchError(f"{weights}: not found, expected the weights that the manifest is about")
    last: dict[str, Any] = json.loads(log.read_text(encoding="utf-8").splitlines()[-1]) if log.exists() else {}
    seen = last.get("tokens") if tokens is None else tokens
    if seen is None:
        raise BenchError(f"{log}: not found, expected a training log or the number of tokens")
    with safe_open(str(weights), framework="pt") as tensors:
        parameters = sum(math.prod(tensors.get_slice(key).get_shape()) for key in tensors.keys())  # noqa: SIM118 - not a mapping
    manifest = {
        "sha256": {p.name: _sha256(p) for p in sorted(folder.iterdir()) if p.is_file() and p.name != "manifest.json"},
        "generator_seed": generator_seed,
        "tokens": seen,
        "parameters": parameters,
        "torch": str(torch.__version__),
        "log": {k: last[k] for k in ("step", "stage", "levels", "seconds", "loss", "accuracy") if k in last},
    }
    path = folder / "manifest.json"
    path.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return path


def check_manifest(folder: Path = BASE_MODEL) -> dict[str, Any]:
    """The manifest of `folder`, after every file that it lists was found to have the SHA-256 that it states.

    Raises:
        BenchError: if the manifest is missing or malformed, or a file is missing or differs.
    """
    path = folder / "manifest.json"
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        hashes: dict[str, str] = dict(manifest["sha256"])
    except OSError:
        raise BenchError(f"{path}: not found, expected the manifest of the shipped weights") from None
    except (ValueError, KeyError, TypeError):
        raise BenchError(f'{path}: malformed, expected a JSON object with the key "sha256" (file name to hash)') from None
    if "model.safetensors" not in hashes:
        raise BenchError(f'{path}: "sha256" lists no model.safetensors, expected its hash')
    for name, expected in hashes.items():
        if not (folder / name).is_file():
            raise BenchError(f"{folder / name}: not found, expected a file with SHA-256 {expected[:12]}... (manifest.json)")
        if (found := _sha256(folder / name)) != expected:
            raise BenchError(f"{folder / name}: SHA-256 is {found[:12]}..., expected {expected[:12]}... (manifest.json)")
    return manifest
