"""A strategy as data: three choices and an optional validation search over their settings. Imports no torch."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bench.errors import BenchError, did_you_mean
from bench.settings import parse_settings
from bench.strategy.store import StoreSettings
from bench.task.schema import Task


class _Choice(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PromptChoice(_Choice):
    """What the model is told: the task's instruction and `shots` worked examples, or no model at all."""

    shots: int = Field(default=0, ge=0)
    """Worked examples: one set per (task, seed), drawn from the examples that tuning trains on."""
    constant: Literal["majority", "abstain", "first_sentence"] | None = None
    """Answer without asking the model: a floor that every strategy has to beat."""


class RetrievalChoice(StoreSettings):
    """What the model is handed to read: nothing, the `top_k` nearest passages, or the gold ones (``oracle``)."""

    search: Literal["none", "dense", "oracle"] = "none"
    top_k: int = Field(default=3, ge=1)


class TuningChoice(_Choice):
    """Which weights move, and how they are trained. Defaults are the same for every method but the learning rate's scale."""

    method: Literal["none", "lora", "full"] = "none"
    r: int = Field(default=8, ge=1)
    """LoRA rank."""
    alpha: int = Field(default=16, ge=1)
    """LoRA scale: the update is multiplied by alpha / r."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: str | list[str] = "all-linear"
    """LoRA: the modules adapted, by name, or every linear layer but the output layer."""
    with_passages: bool = False
    """Train on prompts with the passages that retrieval finds, as the model will be asked."""
    learning_rate: float = Field(default=1e-3, gt=0)
    epochs: int = Field(default=8, ge=1)
    """At most; the best of `evaluations` checkpoints by validation score is kept."""
    evaluations: int = Field(default=4, ge=1)
    patience: int = Field(default=2, ge=1)
    """Stop after this many evaluations in a row without a better one."""
    batch_size: int = Field(default=8, ge=1)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup_share: float = Field(default=0.1, ge=0, le=1)
    max_gradient_norm: float = Field(default=1.0, gt=0)


class Strategy(_Choice):
    """The keys of a strategy file. Unknown keys are errors; what is left out takes its default."""

    description: str = ""
    prompt: PromptChoice = PromptChoice()
    retrieval: RetrievalChoice = RetrievalChoice()
    tuning: TuningChoice = TuningChoice()
    search: dict[str, list[Any]] = Field(default_factory=dict)
    """``{"tuning.learning_rate": [..], ..}``: each list is an axis of the search on validation."""

    @model_validator(mode="after")
    def _consistent(self) -> Strategy:
        if self.tuning.with_passages and self.retrieval.search == "none":
            raise ValueError("tuning.with_passages: needs retrieval.search other than none")
        if self.prompt.constant and (self.tuning.method != "none" or self.retrieval.search != "none" or self.prompt.shots):
            raise ValueError("prompt.constant: asks no model, so shots, retrieval and tuning must be left out")
        for axis, values in self.search.items():
            if not values:
                raise ValueError(f"search.{axis}: the list is empty")
            for value in values:
                self.with_settings({axis: value})
        return self

    def with_settings(self, settings: dict[str, Any]) -> Strategy:
        """This strategy with dotted settings filled in and nothing left to search; raises ValueError for an unknown one."""
        data = self.model_dump(exclude={"search"})
        for dotted, value in settings.items():
            *path, last = dotted.split(".")
            node = data
            for key in path:
                node = node.get(key, {}) if isinstance(node, dict) else {}
            if last not in node:
                known = [f"{c}.{k}" for c in ("prompt", "retrieval", "tuning") for k in data[c]]
                raise ValueError(f"search.{dotted}: no such setting; {did_you_mean(dotted, known)}")
            node[last] = value
        return Strategy(**data)

    @property
    def deterministic(self) -> bool:
        """Whether the answers depend on no seed: no drawn examples and no training."""
        shots = self.prompt.shots > 0 or "prompt.shots" in self.search
        return not shots and self.tuning.method == "none"

    def not_applicable(self, task: Task) -> str | None:
        """Why this strategy has no meaning for a task, or None where it has."""
        if self.retrieval.search != "none" and not task.corpus:
            return "the task has no corpus"
        if self.retrieval.search == "oracle" and task.config.evidence is None:
            return "the task names no evidence column"
        if self.prompt.constant == "abstain" and not task.config.abstain:
            return "the task has no abstention phrase"
        if self.prompt.constant == "first_sentence" and task.config.kind != "summarization":
            return "the first sentence answers only a summarization task"
        return None

    def settings_to_try(self, trials: int) -> list[dict[str, Any]]:
        """The points of the search: the whole grid, or `trials` points of it drawn without replacement by a fixed rule."""
        grid = [dict(zip(self.search, values, strict=True)) for values in itertools.product(*self.search.values())]
        if len(grid) <= trials:
            return grid
        return [grid[i] for i in sorted(random.Random("search").sample(range(len(grid)), trials))]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the strategy without its description."""
        data = self.model_dump(mode="json", exclude={"description"})
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def preset_names() -> list[str]:
    """The names of the presets that come with the package."""
    return sorted(p.name.removesuffix(".yaml") for p in _preset_folder() if p.name.endswith(".yaml"))


def _preset_folder() -> Iterator[Any]:
    yield from resources.files("bench.strategy").joinpath("presets").iterdir()


def load_strategy(name: str) -> tuple[str, Strategy]:
    """A strategy by preset name or by the path of a YAML file: its name and its choices.

    Raises `BenchError` for an unknown name, broken YAML, an unknown key or a wrong value.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = Path(name)
        if not path.is_file():
            raise BenchError(f"strategy {name}: no such file")
        return path.stem, parse_settings(Strategy, path.read_text(), str(path))
    for file in _preset_folder():
        if file.name == f"{name}.yaml":
            return name, parse_settings(Strategy, file.read_text(), f"preset {name}")
    raise BenchError(f'strategy "{name}": no such preset; {did_you_mean(name, preset_names())} (or give a path to a .yaml file)')
