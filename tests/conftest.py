"""Shared fixtures: the shipped base model on one thread, and small tasks on disk."""

import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml

hypothesis.settings.register_profile("any machine", deadline=None)  # a busy one is no failure
hypothesis.settings.load_profile("any machine")


@pytest.fixture(scope="session")
def embedded() -> Any:
    import torch
    import transformers

    from bench.model.language_model import LanguageModel
    from bench.model.source import locate

    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    return LanguageModel(locate("embedded"))


@pytest.fixture
def make_task(tmp_path: Path) -> Callable[..., Path]:
    """Write a small classification task and return its folder; keyword arguments replace keys of task.yaml."""

    def make(name: str = "colors", n: int = 12, rows: dict[str, list[dict[str, Any]]] | None = None, **settings: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        config = {
            "kind": "classification", "instruction": "Pick one of {{ labels }} for each message.", "input": "{{ text }}",
            "target": "label", "metrics": ["accuracy", "macro_f1"], "max_new_tokens": 4,
        } | settings  # fmt: skip
        (folder / "task.yaml").write_text(yaml.safe_dump({k: v for k, v in config.items() if v is not None}))
        things = ["parcel", "battery", "screen", "invoice", "voucher", "manual", "password", "lid", "seal", "router", "box", "fan"]
        for split, size in {"train": n, "validation": 6, "test": n}.items():
            made = [
                {"id": f"{split}-{i}", "text": f"{split} message {i} about the {things[i % len(things)]}", "label": ("zek", "pol")[i % 2]}
                for i in range(size)
            ]
            lines = (rows or {}).get(split, made)
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
        return folder

    return make
