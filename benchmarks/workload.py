"""What a workload is: the same work here and at a peer, a check that both did it, and a goal for the ratio of their times."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from benchmarks.measure import Usage, measure

if TYPE_CHECKING:
    from bench.result.schema import Phase, PhaseName
    from bench.result.store import RunFolder

ROOT = Path(__file__).parents[1]
OURS = Path(sys.executable).parent
PEERS = Path(os.environ.get("BENCHMARKS_PEERS", ROOT / ".venv-benchmarks")) / "bin"


@dataclass(frozen=True)
class Sizes:
    """How much work there is; `quick` is for a look at whether everything runs."""

    items: int = 500
    items_large: int = 100
    """For the model of 30 M parameters."""
    passages: int = 10_000
    rows: int = 500
    rows_large: int = 50

    @classmethod
    def quick(cls) -> Sizes:
        return cls(items=40, items_large=16, passages=500, rows=40, rows_large=8)


@dataclass(frozen=True)
class Goal:
    """``faster``: the peer's time over ours is at least `number`. ``times``: our time over the peer's is at most `number`.
    ``seconds``: our time is at most `number`."""

    kind: Literal["faster", "times", "seconds"]
    number: float

    def __str__(self) -> str:
        sign, unit = {"faster": ("≥", "x faster"), "times": ("≤", "x its time"), "seconds": ("≤", "s")}[self.kind]
        return f"{sign} {self.number:g} {unit}"


@dataclass(frozen=True)
class Reading:
    """One run of one side."""

    whole: Usage
    phase_seconds: float | None = None
    """CPU seconds of the work alone, without imports, loading and saving."""
    answers: Any = None
    """What the other side's must agree with."""


Side = Callable[[Path], Reading]
"""Runs once, in a new folder of its own."""


@dataclass(frozen=True)
class Workload:
    """One row of the results."""

    name: str
    title: str
    peer: str
    prepare: Callable[[], None]
    """Writes what both sides read, and checks what can be checked before anything is timed."""
    ours: Side
    theirs: Side | None
    """None where the goal is a number of seconds."""
    check: Callable[[Reading, Reading], str]
    """Says how the two agree, or raises `DisagreementError`."""
    whole: Goal | None
    phase: Goal | None = None
    clock: Literal["cpu", "wall"] = "cpu"
    """What the goal for the whole process is in."""
    repeats: int = 3
    """Runs of each side; fewer of what takes long."""


def environment() -> dict[str, str]:
    """One thread and no network, for every process of either side."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    offline = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"), "1")
    return threads | offline | {"TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"}


def run(command: Sequence[str | Path], folder: Path) -> Usage:
    """Measure a command of either side; its output goes to ``log.txt`` in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    return measure(command, folder / "log.txt", environment(), ROOT)


def direct(part: str, folder: Path, **options: Path | int | str) -> tuple[Usage, Any]:
    """What ``python -m benchmarks.direct PART`` took and gave."""
    folder.mkdir(parents=True, exist_ok=True)
    given = [text for key, value in options.items() for text in (f"--{key}", str(value))]
    output = folder / f"{part}.json"
    used = run([OURS / "python", "-m", "benchmarks.direct", part, output, *given], folder)
    return used, json.loads(output.read_text())


def write_suite(path: Path, model: Path | str, tasks: Sequence[Path], strategies: dict[str, dict[str, Any]]) -> Path:
    """A suite, with the files of its strategies beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for name, strategy in strategies.items():
        (path.parent / f"{name}.yaml").write_text(yaml.safe_dump(strategy))
    files = [str(path.parent / f"{name}.yaml") for name in strategies]
    path.write_text(yaml.safe_dump({"model": str(model), "tasks": [str(t) for t in tasks], "strategies": files, "seeds": [0]}))
    return path


def run_suite(suite: Path, folder: Path) -> tuple[Usage, RunFolder]:
    """``bench run`` of a suite: what it took, and its run folder."""
    from bench.result.store import RunFolder

    used = run([OURS / "bench", "run", suite, "--results", folder / "results", "--name", "run", "--workers", "1"], folder)
    return used, RunFolder(folder / "results" / "run")


def phase(results: RunFolder, task: str, strategy: str, name: PhaseName) -> Phase:
    """What a phase of a finished cell took; raises ValueError where there is none."""
    record = results.read_record(task, strategy, 0)
    if record is None or name not in record.phases:
        raise ValueError(f"{results.path}: {task} / {strategy} has no phase {name}: {record and record.error}")
    return record.phases[name]
