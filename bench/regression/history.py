"""The history of a suite's checks: ``results/history.jsonl``, one line per check and one per acceptance, only ever appended to.

A line holds what ``drift`` needs to go on from one check to the next without the runs themselves: per measure its value, how much of it
training seeds can move, and the scores of the clusters of items, packed to about two bytes each.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from bench.errors import BenchError, did_you_mean
from bench.regression.model import Verdict

if TYPE_CHECKING:
    from bench.result.arms import Arm
    from bench.result.compare import ArmScores
    from bench.result.statistics import FloatArray

SCHEMA_VERSION = 1
_UNDEFINED = 0xFFFF
"""Among packed scores; 0 to 0xFFFE are shares of 0 to 1."""


class Measure(BaseModel):
    """One metric of one strategy on one task, in one check."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str
    strategy: str
    metric: str
    value: float = Field(allow_inf_nan=False)
    """Mean over items and seeds, in the metric's unit."""
    higher_is_better: bool
    deterministic: bool
    """Nothing is trained, so an answer changes only where the code does, and stays changed. Else a change of the code can draw all
    trained weights anew."""
    n_seeds: int = Field(ge=1)
    n_clusters: int = Field(ge=1)
    seed_sd: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Standard deviation that another set of as many training seeds gives ``value``; None for one seed."""
    verdict: Verdict
    """Of its gate in this check."""
    clusters: str | None = None
    """Mean score of each cluster of items, in the order of their names: base64 of zlib of little-endian uint16, 65534 for a score of 1
    and 65535 for an undefined one. Of macro F1, the share of right answers instead. None where a score is outside [0, 1], or where
    the metric has no scores of items."""
    items: str
    """First 12 hex digits of the SHA-256 of all (item id, input hash, cluster): scores compare only where it is the same."""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.task, self.strategy, self.metric

    @property
    def scores(self) -> FloatArray | None:
        """``clusters`` as numbers, shape (n_clusters,), NaN where undefined. Raises ValueError where they are not what they should be."""
        if self.clusters is None:
            return None
        import numpy as np

        try:
            data = zlib.decompressobj().decompress(base64.b64decode(self.clusters, validate=True), 2 * self.n_clusters + 1)
        except (binascii.Error, zlib.error) as error:
            raise ValueError(f"clusters: cannot be unpacked ({error})") from None
        if len(data) != 2 * self.n_clusters:
            raise ValueError(f"clusters: expected the scores of {self.n_clusters} clusters")
        packed = np.frombuffer(data, dtype="<u2")
        return np.where(packed == _UNDEFINED, np.nan, packed / (_UNDEFINED - 1))

    @model_validator(mode="after")
    def _unpacks(self) -> Self:
        _ = self.scores
        return self


class CheckLine(BaseModel):
    """What one ``bench check`` found."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = SCHEMA_VERSION
    kind: Literal["check"] = "check"
    suite: str
    run: str
    when: str
    """UTC, ISO 8601."""
    commit: str | None = None
    dirty: bool | None = None
    environment: dict[str, str]
    """Libraries and hardware: a step between lines where it differs says nothing about the code."""
    verdict: Verdict
    measures: tuple[Measure, ...]
    costs: dict[str, float] = Field(default_factory=dict)
    """Name, such as ``product_support/rag prompt_tokens``, -> number."""


class AcceptLine(BaseModel):
    """A run that became the baseline."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = SCHEMA_VERSION
    kind: Literal["accept"] = "accept"
    suite: str
    when: str
    commit: str | None = None
    who: str
    reason: str
    release: bool = False
    """Whether the baseline is pinned as a release: what was lost until then is accepted, and the detectors start anew."""


Line = CheckLine | AcceptLine


class History(NamedTuple):
    """What a file holds."""

    lines: tuple[Line, ...]
    notes: tuple[str, ...]
    """What was left out."""


def append(path: Path, line: Line) -> None:
    """Write one line at the end, whole and forced to disk; two processes take turns. What a killed one left half-written is cut off.

    Raises BenchError where the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            whole, _, tail = file.read().rpartition(b"\n")
            if tail and not _is_whole(tail):
                file.truncate(len(whole) + 1 if whole else 0)
                tail = b""
            file.write((b"\n" if tail else b"") + line.model_dump_json().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise BenchError(f"{path}: cannot be written: {error.strerror}") from error


def read(path: Path) -> History:
    """All lines, in the order in which they were written.

    A last line that is broken and has no end (its writer was killed) is left out, with a note. Raises BenchError, with the number of
    the line, for any other that is broken or newer than this version reads, and where the file cannot be read.
    """
    try:
        rows = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        raise BenchError(f"{path}: file is missing: expected the history that `bench check` writes") from None
    except OSError as error:
        raise BenchError(f"{path}: cannot be read: {error.strerror}") from error
    notes = []
    if rows[-1] and not _is_whole(rows[-1]):
        notes.append(f"{path}:{len(rows)}: the last line is cut off (its writer was killed) and left out")
        del rows[-1]
    return History(tuple(_parsed(row, f"{path}:{number}") for number, row in enumerate(rows, start=1) if row.strip()), tuple(notes))


def suites_of(lines: Sequence[Line], suite: str | None = None) -> dict[str, list[Line]]:
    """Lines by suite, in the order in which suites first came; only ``suite`` where it is given. Raises BenchError where it has none."""
    found: dict[str, list[Line]] = {}
    for line in lines:
        found.setdefault(line.suite, []).append(line)
    if suite is not None and suite not in found:
        raise BenchError(f'--suite: the history has no line of "{suite}"; {did_you_mean(suite, found) if found else "it is empty"}')
    return found if suite is None else {suite: found[suite]}


def measure_of(arm: Arm, scores: ArmScores, metric: str, *, higher_is_better: bool, verdict: Verdict) -> Measure:
    """A metric of an arm as a line holds it; ``scores``: of that metric, by ``bench.result.compare.score_group``."""
    import numpy as np

    n_seeds = len(scores.values)
    hashes = sorted((i, arm.items[0][i].input_hash, cluster) for i, cluster in zip(scores.ids, scores.clusters, strict=True))
    return Measure(
        task=arm.task, strategy=arm.strategy, metric=metric, value=float(np.mean(scores.values)), higher_is_better=higher_is_better,
        deterministic=arm.deterministic or arm.family == "prompting", n_seeds=n_seeds, n_clusters=len(set(scores.clusters)),
        seed_sd=float(np.std(scores.values, ddof=1) / np.sqrt(n_seeds)) if n_seeds > 1 else None, verdict=verdict,
        clusters=_packed(scores), items=hashlib.sha256(json.dumps(hashes).encode()).hexdigest()[:12],
    )  # fmt: skip


def _packed(scores: ArmScores) -> str | None:
    import numpy as np

    if not scores.table.size:
        return None
    # Rows of macro F1 begin with a 1 under the label that was answered rightly.
    table = scores.table if scores.is_mean else scores.table[..., : scores.table.shape[2] // 3].sum(axis=2)
    if np.nanmin(table) < 0 or np.nanmax(table) > 1:
        return None
    names, codes = np.unique(np.asarray(scores.clusters, dtype=str), return_inverse=True)
    defined = np.isfinite(table)
    sums = np.bincount(codes, np.where(defined, table, 0.0).sum(axis=0), len(names))
    counts = np.bincount(codes, defined.sum(axis=0), len(names))
    shares = np.rint(sums / np.maximum(counts, 1) * (_UNDEFINED - 1))
    return base64.b64encode(zlib.compress(np.where(counts > 0, shares, _UNDEFINED).astype("<u2").tobytes(), 9)).decode()


@cache
def _lines() -> TypeAdapter[Line]:
    return TypeAdapter(Annotated[Line, Field(discriminator="kind")])


def _is_whole(row: bytes) -> bool:
    try:
        json.loads(row)
    except ValueError:
        return False
    return True


def _parsed(row: bytes, where: str) -> Line:
    try:
        plain: Any = json.loads(row)
    except ValueError as error:
        raise BenchError(f"{where}: is not valid JSON: {error}") from None
    if not isinstance(plain, dict):
        raise BenchError(f"{where}: found {type(plain).__name__}, expected a JSON object")
    version = plain.get("schema_version")
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise BenchError(f"{where}: key schema_version: found {version!r}, expected at most {SCHEMA_VERSION}: update bench")
    try:
        return _lines().validate_json(row)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise BenchError(f"{where}: key {'.'.join(map(str, first['loc'])) or '(whole)'}: {first['msg']}") from None
