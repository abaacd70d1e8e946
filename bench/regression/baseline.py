"""Baselines: what a run scored, item by item, kept small enough for git; and sides of a comparison, read from a run or a baseline.

A folder ``results/baseline/<suite>`` holds ``baseline.json`` (who accepted what, when and why; to be read in a review), and, as
gzipped JSON lines, ``accepted.jsonl.gz`` and the pinned ``release.jsonl.gz``. A file's first line is the run's header, then there is
one line per task with its items and one per cell with its record and what it answered.
"""

from __future__ import annotations

import getpass
import gzip
import hashlib
import json
import os
import subprocess
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from bench.errors import BenchError
from bench.regression.model import Acceptance
from bench.result.arms import Arm, load_arms
from bench.result.schema import SCHEMA_VERSION, Record, Run, ScoredItem, Tokens
from bench.result.store import RunFolder, to_json, write_atomic

Name = Literal["accepted", "release"]
DIGITS = 6
"""Decimals of item scores that a baseline keeps; both sides of a comparison are cut to them."""
NEAR = 0.1
"""Logit margins (nats) above this are not kept: such answers are no ties under any sensible setting."""
HASH_DIGITS = 12
NOT_KEPT = ("platform", "memory_bytes", "cpu_count")
"""Of an environment: nothing that changes an answer, and nobody else's business."""


class _Kept(BaseModel):
    """One baseline of a folder, as ``baseline.json`` has it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    acceptance: Acceptance
    sha256: str
    """Of the file beside it."""


class _Head(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = SCHEMA_VERSION
    accepted: _Kept
    release: _Kept


@dataclass(frozen=True)
class Side:
    """A run as a check sees it: from its own folder or from a baseline."""

    run: Run
    arms: tuple[Arm, ...]
    """Scores cut to ``DIGITS``, hashes to ``HASH_DIGITS``."""
    acceptance: Acceptance | None = None

    @property
    def commit(self) -> str | None:
        """Of the project whose tasks and strategies were run; of the package's own source where there is no such."""
        return self.run.environment.get("project_commit") or self.run.environment.get("git_commit")

    @property
    def dirty(self) -> bool | None:
        return self.run.environment.get("project_dirty", self.run.environment.get("git_dirty"))


def side_of_run(folder: Path | RunFolder) -> Side:
    """Raises BenchError as `load_arms` does, and where the run's header is missing or broken."""
    opened = folder if isinstance(folder, RunFolder) else RunFolder(folder)
    run = opened.read_run()
    return Side(run, tuple(replace(arm, items=tuple(map(_cut, arm.items))) for arm in load_arms(opened)))


def _cut(items: dict[str, ScoredItem]) -> dict[str, ScoredItem]:
    return {
        name: replace(
            item, scores={metric: round(score, DIGITS) for metric, score in item.scores.items()}, logit_margin=_near(item.logit_margin),
            input_hash=item.input_hash[:HASH_DIGITS], prompt_hash=item.prompt_hash[:HASH_DIGITS],
        )
        for name, item in items.items()
    }  # fmt: skip


def _near(margin: float | None) -> float | None:
    return None if margin is None or margin > NEAR else round(margin, DIGITS)


# ------------------------------------------------------------------------------------------------ accepting


def accept(run: Path, folder: Path, reason: str, *, release: bool = False, allow_dirty: bool = False) -> Acceptance:
    """Make a run the baseline in ``folder``; with ``release``, or where there is none yet, also the pinned one of a release.

    Raises BenchError where the run is not whole, was made by code that is not committed (unless ``allow_dirty``), has a failed cell,
    where no reason is given, or in CI: a build that accepts what it measured can never fail.
    """
    if os.environ.get("CI", "").lower() in ("1", "true", "yes"):
        raise BenchError("accept: found the environment variable CI set; expected a person: a build never accepts its own baseline")
    if not reason.strip():
        raise BenchError("--reason: found nothing; expected why this run is to be the baseline")
    side = side_of_run(run)
    if side.run.status != "ok":
        raise BenchError(f"{run}: the run is {side.run.status}; expected one that has ended and in which no cell failed")
    if side.dirty and not allow_dirty:
        raise BenchError(f"{run}: was made by code with uncommitted changes: commit and run it again with --fresh, or pass --allow-dirty")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    acceptance = Acceptance(folder.name, side.run.name, reason.strip(), _who(), now, side.commit)
    data = _packed(side)
    kept = _Kept(acceptance=acceptance, sha256=hashlib.sha256(data).hexdigest())
    first = not (folder / "baseline.json").exists()
    pinned = kept if release or first else _read_head(folder).release
    # The head comes last: it holds the hashes of what it is the head of.
    names: tuple[Name, ...] = ("accepted", "release") if release or first else ("accepted",)
    for name in names:
        write_atomic(_file(folder, name), data)
    write_atomic(folder / "baseline.json", to_json(_Head(accepted=kept, release=pinned)) + "\n")
    return acceptance


def _who() -> str:
    try:
        done = subprocess.run(["git", "config", "user.name"], capture_output=True, text=True, timeout=10, check=False)  # noqa: S607
        if done.stdout.strip():
            return done.stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        pass
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def _packed(side: Side) -> bytes:
    # No time stamp: the same run gives the same bytes.
    return gzip.compress("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in _lines(side)).encode(), mtime=0)


def _lines(side: Side) -> Iterator[dict[str, Any]]:
    yield {"schema_version": SCHEMA_VERSION, "run": _small(side.run)}
    ids: dict[str, list[str]] = {}
    for task in dict.fromkeys(arm.task for arm in side.arms):
        items = {name: item for arm in side.arms if arm.task == task for of_seed in arm.items for name, item in of_seed.items()}
        ids[task] = list(items)
        columns = {
            "id": ids[task], "cluster": [i.cluster for i in items.values()], "input_hash": [i.input_hash for i in items.values()],
            "targets": [i.targets for i in items.values()],
        }  # fmt: skip
        yield {"task": task, "items": columns}
    for arm in side.arms:
        answered = iter(arm.items)
        for record in arm.records:
            # Probes, slices and trials are of no use to a check, and most of a record.
            record = record.model_copy(update={"probes": {}, "slices": {}, "trials": []})
            of_seed = next(answered) if record.status == "ok" else {}
            yield {"record": _small(record), "answers": _columns(of_seed, ids[arm.task])}


def _small(header: Run | Record) -> dict[str, Any]:
    kept = {key: value for key, value in header.environment.items() if key not in NOT_KEPT}
    return header.model_copy(update={"environment": kept}).model_dump(mode="json", exclude_defaults=True)


def _columns(items: dict[str, ScoredItem], ids: Sequence[str]) -> dict[str, Any]:
    """What a cell answered, in the order of the task's items; an item that it was not asked has no prediction."""
    if not items:
        return {}
    metrics = sorted({metric for item in items.values() for metric in item.scores})
    rows = [items.get(name) for name in ids]
    return {
        "prediction": [row and row.prediction for row in rows],
        "outcome": [row and row.outcome for row in rows],
        "logit_margin": [row and row.logit_margin for row in rows],
        "prompt_hash": [row and row.prompt_hash for row in rows],
        "completion_tokens": [row and row.tokens.completion for row in rows],
        "scores": {metric: [row and row.scores.get(metric) for row in rows] for metric in metrics},
    }


# ------------------------------------------------------------------------------------------------ reading


def is_baseline(folder: Path) -> bool:
    return (folder / "baseline.json").exists()


def read_baseline(folder: Path) -> dict[Name, Side]:
    """The last accepted baseline and, where it is another one, the pinned one of the release.

    Raises BenchError where one is missing, is not what ``baseline.json`` says, or cannot be read.
    """
    head = _read_head(folder)
    found: dict[Name, Side] = {"accepted": _read_side(folder, "accepted", head.accepted)}
    if head.release.sha256 != head.accepted.sha256:
        found["release"] = _read_side(folder, "release", head.release)
    return found


def _file(folder: Path, name: Name) -> Path:
    return folder / f"{name}.jsonl.gz"


def _read_head(folder: Path) -> _Head:
    path = folder / "baseline.json"
    try:
        data = path.read_bytes()
    except OSError:
        raise BenchError(f"{path}: file is missing: expected a baseline here; make one with: bench accept RUN --reason …") from None
    try:
        head = _Head.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"])) or "(whole)"
        raise BenchError(f"{path}: is broken (key {key}: {first['msg']}); take it from git again") from None
    if head.schema_version > SCHEMA_VERSION:
        raise BenchError(f"{path}: schema_version {head.schema_version} is newer than this version of bench reads ({SCHEMA_VERSION})")
    return head


def _read_side(folder: Path, name: Name, kept: _Kept) -> Side:
    path = _file(folder, name)
    try:
        data = path.read_bytes()
    except OSError:
        raise BenchError(f"{path}: file is missing, which {folder}/baseline.json names; take it from git again") from None
    if (found := hashlib.sha256(data).hexdigest()) != kept.sha256:
        raise BenchError(f"{path}: found SHA-256 {found[:12]}, expected {kept.sha256[:12]} (baseline.json): take both from one commit")
    try:
        lines = [json.loads(line) for line in gzip.decompress(data).splitlines()]
        return replace(_unpacked(lines), acceptance=kept.acceptance)
    except (OSError, EOFError, zlib.error, ValueError, LookupError, TypeError, AttributeError) as error:
        raise BenchError(f"{path}: is broken ({type(error).__name__}: {str(error).splitlines()[0][:80]})") from None


def _unpacked(lines: list[dict[str, Any]]) -> Side:
    run = Run.model_validate(lines[0]["run"])
    tasks = {line["task"]: line["items"] for line in lines if "task" in line}
    cells: dict[tuple[str, str, str], list[tuple[Record, dict[str, ScoredItem]]]] = {}
    for line in lines:
        if "record" in line:
            record = Record.model_validate(line["record"])
            items = _items(tasks[record.task], line["answers"])
            cells.setdefault((record.task, record.model, record.strategy), []).append((record, items))
    arms = [
        Arm(*key, tuple(record for record, _ in found), tuple(items for record, items in found if record.status == "ok"))
        for key, found in cells.items()
    ]
    return Side(run, tuple(arms))


def _items(task: dict[str, list[Any]], answers: dict[str, Any]) -> dict[str, ScoredItem]:
    found = {}
    for place, name in enumerate(task["id"] if answers else ()):
        if answers["prediction"][place] is not None:
            found[name] = ScoredItem(
                id=name, cluster=task["cluster"][place], input_hash=task["input_hash"][place], targets=task["targets"][place],
                prediction=answers["prediction"][place], outcome=answers["outcome"][place],
                logit_margin=answers["logit_margin"][place], prompt_hash=answers["prompt_hash"][place],
                tokens=Tokens(completion=answers["completion_tokens"][place]),
                scores={m: column[place] for m, column in answers["scores"].items() if column[place] is not None},
            )  # fmt: skip
    return found
