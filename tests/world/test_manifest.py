import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bench.errors import BenchError
from bench.world.manifest import BASE_MODEL, check_manifest, write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file({"a": torch.zeros(2, 3), "b": torch.zeros(4, dtype=torch.bfloat16)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    rows = [{"step": s, "tokens": 100 * s, "stage": "mix", "loss": 1 / s, "accuracy": {"known": 0.9}, "learning_rate": 0.1} for s in (1, 2)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return tmp_path


def test_manifest_round_trip(folder: Path) -> None:
    assert write_manifest(folder, generator_seed=9) == folder / "manifest.json"
    manifest = check_manifest(folder)
    assert manifest["sha256"].keys() == {"model.safetensors", "config.json", "log.jsonl"}
    assert manifest["sha256"]["config.json"] == hashlib.sha256(b"{}").hexdigest()
    assert manifest["parameters"] == 10
    assert (manifest["generator_seed"], manifest["tokens"], manifest["torch"]) == (9, 200, torch.__version__)
    assert manifest["log"] == {"step": 2, "stage": "mix", "loss": 0.5, "accuracy": {"known": 0.9}}
    assert write_manifest(folder, tokens=5).exists()
    assert check_manifest(folder)["tokens"] == 5
    (folder / "log.jsonl").rename(folder / "training_log.jsonl")
    write_manifest(folder)
    assert check_manifest(folder)["tokens"] == 200


def test_a_changed_or_missing_file_is_found(folder: Path) -> None:
    write_manifest(folder)
    (folder / "config.json").write_text("{ }")
    with pytest.raises(BenchError, match=r"config.json: SHA-256 is \w+\.\.\., expected \w+\.\.\. \(manifest.json\)"):
        check_manifest(folder)
    (folder / "config.json").unlink()
    with pytest.raises(BenchError, match=r"config.json: not found"):
        check_manifest(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "manifest.json: not found"), ("{", "malformed"), ("[]", "malformed"), ('{"sha256": 3}', "malformed"),
     ('{"sha256": {}}', "lists no model.safetensors")],
)
def test_bad_manifest(folder: Path, content: str | None, message: str) -> None:
    if content is not None:
        (folder / "manifest.json").write_text(content)
    with pytest.raises(BenchError, match=message):
        check_manifest(folder)


def test_nothing_to_write_about(tmp_path: Path, folder: Path) -> None:
    (folder / "log.jsonl").unlink()
    with pytest.raises(BenchError, match=r"training_log.jsonl: not found, expected a training log or the number of tokens"):
        write_manifest(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(BenchError, match=r"model.safetensors: not found"):
        write_manifest(folder, tokens=1)


def test_shipped_weights_are_those_of_their_manifest() -> None:
    manifest = check_manifest()
    assert {"model.safetensors", "config.json", "tokenizer.json", "training_log.jsonl"} <= manifest["sha256"].keys()
    assert (BASE_MODEL / "model.safetensors").stat().st_size <= 16e6
