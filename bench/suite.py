"""What to run: a suite file becomes cells, each with its identity."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.errors import BenchError, did_you_mean
from bench.metric.score import SCORING_VERSION, check_metrics
from bench.model.source import EMBEDDED, Dtype, Loading, ModelSource, Quantize, locate
from bench.result.schema import Fingerprints
from bench.settings import first_problem, parse_settings
from bench.strategy.embedder import DEFAULT_EMBEDDER, embedder_fingerprint
from bench.strategy.kept_base import not_over
from bench.strategy.spec import Strategy, load_strategy, preset_names
from bench.task.load import load_task
from bench.task.schema import Task

# Raise when prompts, training or decoding change in a way that changes answers; part of every cell id.
PIPELINE_VERSION = 3


class Budget(BaseModel):
    """What every strategy gets alike."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train_examples: int | None = Field(default=None, ge=1)
    """Labelled examples, for tuning and for shots; a smaller number is a subset of a larger one."""
    trials: int = Field(default=3, ge=1)
    """Points of the validation search."""
    validation_examples: int | None = Field(default=None, ge=1)
    """Validation examples that trials and checkpoints are scored on; default all."""


class Suite(BaseModel):
    """The keys of a suite file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = EMBEDDED
    """``embedded``, a folder, a GGUF file, a hub id (``owner/name``, ``owner/name@REVISION``), or ``NAME@URL`` of a served model."""
    dtype: Dtype = "auto"
    """What the model's weights are kept in; ``auto``: float32 on a CPU, bfloat16 on a GPU."""
    quantize: Quantize = "none"
    """Keep the model's linear layers in 4 or 8 bits, for every strategy alike."""
    tasks: list[str] = Field(min_length=1)
    strategies: list[str] = Field(min_length=1)
    """Presets by name, strategy files by path (``./`` is the suite file's folder); ``all`` stands for every preset."""
    seeds: list[int] = Field(default=[0, 1, 2], min_length=1)
    budget: Budget = Budget()
    limit: int | None = Field(default=None, ge=1)
    """Test items per task; default all."""
    data: str | None = None
    """Folder or hub id of the rows, over the task's own."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Dotted settings laid over those of every strategy, such as ``tuning.batch_size: 32``."""
    probes: list[str] = Field(default_factory=list)
    """What is measured beside the task (``bench list probes``). No part of a cell's identity."""
    probe_settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Settings of probes by name, such as ``entailment: {model: ./nli}``."""
    trust_remote_code: bool = False
    multitask: bool = False
    """Train on the examples of all tasks together; each task is still asked and scored on its own."""
    continue_from: str | None = None
    """Folder of an earlier run: training starts from the adapters of its cells of the same task, strategy and seed."""

    @property
    def loading(self) -> Loading:
        """How the model is loaded."""
        return Loading(self.dtype, self.quantize)

    @property
    def digest(self) -> str:
        """SHA-256 of the keys, which a run's name is made of."""
        # Keys that came later than the others count where they say something: runs without them keep their names.
        later = {name for name in ("dtype", "quantize") if getattr(self, name) == type(self).model_fields[name].default}
        return hashlib.sha256(self.model_dump_json(exclude=later).encode()).hexdigest()


@dataclass(frozen=True)
class Cell:
    """The unit of work, failure, caching and distribution: (task, model, strategy, seed)."""

    cell_id: str
    search_id: str
    """As the cell id, without the seed: what the seeds of a strategy share, and with it the choice of their search."""
    task: Task
    model: ModelSource
    strategy_name: str
    strategy: Strategy
    seed: int
    search_seed: int
    """The seed whose cell searches; the others of the strategy use its choice."""
    budget: Budget
    trust_remote_code: bool
    fingerprints: Fingerprints
    trained_with: tuple[Task, ...] = ()
    """Other tasks whose examples are trained on together with the cell's own."""
    continued_from: Path | None = None
    """The adapter that training starts from."""
    probes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name -> settings."""

    @property
    def not_applicable(self) -> str | None:
        """Why the cell has no meaning, or None where it has."""
        if reason := _not_applicable(self.strategy, self.task, self.model):
            return reason
        tuning = self.strategy.tuning
        if self.trained_with and tuning.method != "none":
            if tuning.objective != "answers":
                return "preference training is for one task at a time"
            if tuning.method == "features" or self.model.kind == "encoder":
                return "a classification head has the labels of one task"
        return None

    @property
    def label(self) -> str:
        return f"{self.task.name} / {self.strategy_name} / s{self.seed}"

    def identity(self) -> dict[str, Any]:
        """The fields that every record of this cell has, whatever became of it."""
        return {
            "cell_id": self.cell_id, "task": self.task.name, "model": self.model.name, "strategy": self.strategy_name, "seed": self.seed,
            "deterministic": self.strategy.deterministic(self.task), "primary_metric": self.task.primary_metric,
            "fingerprints": self.fingerprints,
        }  # fmt: skip


def tasks_folder() -> Path:
    """Where named tasks are: ``tasks/`` of the working folder, or of the source tree that this package lies in."""
    here = Path("tasks")
    return here if here.is_dir() else Path(__file__).parents[1] / "tasks"


def find_task(name: str) -> Path:
    """A task by name or by folder; `BenchError` with the nearest name where there is none."""
    if Path(name).is_dir() and (Path(name) / "task.yaml").exists():
        return Path(name)
    named = tasks_folder() / name
    if named.is_dir():
        return named
    if Path(name).is_dir() or "/" in name:
        raise BenchError(f"task {name}: expected a folder with a task.yaml")
    known = [p.parent.name for p in tasks_folder().glob("*/task.yaml")]
    raise BenchError(f'task "{name}": no such folder, and no task of this name; {did_you_mean(name, known)}')


def load_suite(name: str) -> Suite:
    """A suite by the name of one that comes with the package, or by the path of a YAML file."""
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = Path(name)
        if not path.is_file():
            raise BenchError(f"suite {name}: no such file")
        return _beside(parse_settings(Suite, path.read_text(), str(path)), path.parent)
    folder = Path(str(resources.files("bench").joinpath("suites")))
    known = [p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml")]
    if name not in known:
        raise BenchError(f'suite "{name}": no such suite; {did_you_mean(name, known)} (or give a path to a .yaml file)')
    return _beside(parse_settings(Suite, folder.joinpath(f"{name}.yaml").read_text(), f"suite {name}"), folder)


def _beside(suite: Suite, folder: Path) -> Suite:
    """The suite with strategy files that begin with "./" looked for beside the suite's file."""
    strategies = [str(folder / name) if name.startswith("./") else name for name in suite.strategies]
    return suite.model_copy(update={"strategies": strategies})


def _sha(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def expand(suite: Suite, source: ModelSource) -> list[Cell]:
    """The cells of a suite, in an order that puts each strategy's searching seed first.

    A deterministic strategy, or one that does not apply to a task, has one cell. Raises `BenchError` for a task or
    strategy that cannot be loaded: nothing is run with half a suite.
    """
    if len(set(suite.seeds)) < len(suite.seeds):
        raise BenchError(f"seeds: found {suite.seeds}; expected each seed once")
    strategies = [load_strategy(s) for name in suite.strategies for s in (preset_names() if name == "all" else [name])]
    if suite.settings:
        strategies = [(name, _overlaid(name, strategy, suite.settings)) for name, strategy in strategies]
    names = [name for name, _ in strategies]
    if len(set(names)) < len(names):
        raise BenchError(f"strategies: found {names}; expected each name once")
    probes = _probes(suite)
    cells = []
    tasks = []
    for folder in [find_task(t) for t in suite.tasks]:
        task = load_task(folder, data=suite.data, limit=suite.limit, train_examples=suite.budget.train_examples)
        check_metrics(task.config.metrics, task.config.kind, f"{folder / 'task.yaml'}: metrics")
        tasks.append(task)
    for task in tasks:
        for name, strategy in strategies:
            once = strategy.deterministic(task) or _not_applicable(strategy, task, source) is not None
            together = tuple(t for t in tasks if t is not task) if suite.multitask and strategy.tuning.method != "none" else ()
            for seed in suite.seeds[:1] if once else suite.seeds:
                fingerprints = Fingerprints(
                    task=task.fingerprint, model=source.fingerprint, tokenizer=source.tokenizer_fingerprint,
                    strategy=strategy.fingerprint, scoring=str(SCORING_VERSION),
                )  # fmt: skip
                common = {
                    **fingerprints.model_dump(), "pipeline": PIPELINE_VERSION, "search_seed": suite.seeds[0],
                    "budget": suite.budget.model_dump(), "task_name": task.name, "strategy_name": name,
                    "trained_with": [t.fingerprint for t in together],
                    "continued_from": _adapter(suite, task, name, strategy, suite.seeds[0])[1],
                }  # fmt: skip
                common |= _reading_models(strategy)
                start, start_hash = _adapter(suite, task, name, strategy, seed)
                cells.append(
                    Cell(
                        cell_id=_sha(common | {"seed": seed, "start": start_hash}), search_id=_sha(common), task=task, model=source,
                        strategy_name=name, strategy=strategy, seed=seed, search_seed=suite.seeds[0], budget=suite.budget,
                        trust_remote_code=suite.trust_remote_code, fingerprints=fingerprints, trained_with=together, continued_from=start,
                        probes=probes,
                    )
                )
    return cells


def _not_applicable(strategy: Strategy, task: Task, source: ModelSource) -> str | None:
    """Why a strategy has no meaning for a task and a model as it is loaded, or None where it has."""
    return strategy.not_applicable(task, source.kind) or not_over(source, strategy.tuning)


def _probes(suite: Suite) -> dict[str, dict[str, Any]]:
    """The probes with their settings; `BenchError` for what is unknown."""
    if unused := set(suite.probe_settings) - set(suite.probes):
        raise BenchError(f"probe_settings.{min(unused)}: the suite has no such probe; {did_you_mean(min(unused), suite.probes)}")
    found = {name: suite.probe_settings.get(name, {}) for name in suite.probes}
    if found:
        from bench.probe.base import make

        for name, settings in found.items():
            make(name, settings)
    return found


def _reading_models(strategy: Strategy) -> dict[str, str]:
    """SHA-256 of the models that find passages, which a name does not identify; the default embedder is pinned by its own."""
    found = {}
    if strategy.embeds and strategy.retrieval.embedder != DEFAULT_EMBEDDER:
        found["embedder"] = embedder_fingerprint(strategy.retrieval.embedder)
    if strategy.retrieval.rerank and strategy.retrieval.reranker:
        found["reranker"] = locate(strategy.retrieval.reranker).fingerprint
    return found


def _overlaid(name: str, strategy: Strategy, settings: dict[str, Any]) -> Strategy:
    try:
        return strategy.with_settings(settings, keep_search=True)
    except ValueError as error:
        reason = first_problem(Strategy, error) if isinstance(error, ValidationError) else str(error)
        raise BenchError(f"settings: {reason} (strategy {name})") from error


def _adapter(suite: Suite, task: Task, name: str, strategy: Strategy, seed: int) -> tuple[Path | None, str | None]:
    """The adapter that a cell goes on from, and SHA-256 of its weights; `BenchError` where the earlier run has none."""
    if suite.continue_from is None or not strategy.tuning.trains_here:
        return None, None
    folder = Path(suite.continue_from) / "cells" / task.name / name / f"s{seed}" / "adapter"
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise BenchError(f"continue_from: {folder} has no adapter; expected one of an earlier run of {task.name} / {name} / s{seed}")
    return folder, hashlib.sha256(b"".join(f.read_bytes() for f in weights)).hexdigest()
