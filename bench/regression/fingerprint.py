"""What two runs do not share: libraries and hardware, which make a baseline's numbers doubtful, and data, configuration and code, which
are what a check is about."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bench.regression.baseline import Side
from bench.regression.model import Difference
from bench.result.arms import Arm
from bench.result.schema import Record

NO_CONFIGURATION = (
    "strategy.family", "strategy.source", "strategy.trains", "strategy.traps", "batch_rows", "dtype", "epochs", "validation_score",
)  # fmt: skip
"""Keys of a record's config that say something about a strategy, or what came out of its search."""


def environment_of(side: Side) -> dict[str, str]:
    """Libraries and hardware by name, as the cells have them; one that cells of a run differ in has all of its values."""
    found: dict[str, set[str]] = {}
    for record in _ok(side):
        for _, what, value in _machine(record):
            found.setdefault(what, set()).add(value)
    return {what: " and ".join(sorted(values)) for what, values in found.items()}


def environment_hash(environment: Mapping[str, str]) -> str:
    """SHA-256, its first 12 digits: equal where all libraries and hardware are."""
    return hashlib.sha256(json.dumps(dict(environment), sort_keys=True).encode()).hexdigest()[:12]


def differences(old: Side, new: Side, paired: Mapping[tuple[str, str], tuple[Arm, Arm]]) -> list[Difference]:
    """All that differs, what makes the baseline doubtful first. ``paired``: (task, strategy) -> the arm before and now."""
    return [*_machines(old, new), *_data(paired), *_models(paired), *_configurations(paired), *_code(old, new)]


def _ok(side: Side) -> Iterator[Record]:
    return (record for arm in side.arms for record in arm.ok)


def _machine(record: Record) -> Iterator[tuple[str, str, str]]:
    """(part, what, value); a package that is not installed is left out."""
    there = record.environment
    yield "library", "python", ".".join(str(there.get("python", "unknown")).split(".")[:2])
    for package, version in (there.get("packages") or {}).items():
        if version:
            yield "library", package, str(version)
    for what in ("cpu", "cpu_family", "cpu_capability", "gpu", "threads"):
        if there.get(what) is not None:
            yield "hardware", what, str(there[what])
    if "dtype" in record.config:
        yield "hardware", "dtype", str(record.config["dtype"])


def _machines(old: Side, new: Side) -> Iterator[Difference]:
    parts: dict[str, str] = {}
    for side in (old, new):
        parts |= {what: part for record in _ok(side) for part, what, _ in _machine(record)}
    before, after = environment_of(old), environment_of(new)
    for what, part in parts.items():
        a, b = before.get(what, "none"), after.get(what, "none")
        if a != b:
            yield Difference("library" if part == "library" else "hardware", what, a, b)


def _data(paired: Mapping[tuple[str, str], tuple[Arm, Arm]]) -> Iterator[Difference]:
    yield from _fingerprints(paired, "data", "task rows or settings", lambda r: r.fingerprints and r.fingerprints.task[:12])


def _models(paired: Mapping[tuple[str, str], tuple[Arm, Arm]]) -> Iterator[Difference]:
    of: dict[str, Callable[[Record], Any]] = {
        "weights of the base model": lambda r: r.fingerprints and r.fingerprints.model[:12],
        "tokenizer": lambda r: r.fingerprints and r.fingerprints.tokenizer[:12],
        "scoring version": lambda r: r.fingerprints and r.fingerprints.scoring,
    }
    for what, read in of.items():
        found = {(d.before, d.after) for d in _fingerprints(paired, "configuration", what, read)}
        yield from (Difference("configuration", what, *values) for values in sorted(found))


def _fingerprints(
    paired: Mapping[tuple[str, str], tuple[Arm, Arm]], part: Any, what: str, read: Callable[[Record], Any]
) -> Iterator[Difference]:
    """Once per task."""
    seen = set()
    for (task, _), (old, new) in paired.items():
        if task not in seen and old.ok and new.ok and (a := read(old.ok[0])) != (b := read(new.ok[0])):
            seen.add(task)
            yield Difference(part, f"{task}: {what}", str(a), str(b))


def _configurations(paired: Mapping[tuple[str, str], tuple[Arm, Arm]]) -> Iterator[Difference]:
    for (task, strategy), (old, new) in paired.items():
        if not (old.ok and new.ok):
            continue
        before, after = (dict(_flat(arm.ok[0].config)) for arm in (old, new))
        # Under the same id, a key that one side has alone is one that the other's version of the program did not write down.
        known = set(before) & set(after) if {r.cell_id for r in old.ok} == {r.cell_id for r in new.ok} else set(before) | set(after)
        for key in dict.fromkeys([*before, *after]):
            if key in known and key not in NO_CONFIGURATION and before.get(key) != after.get(key):
                yield Difference("configuration", f"{task}/{strategy}: {key}", _shown(before.get(key)), _shown(after.get(key)))


def _flat(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield from _flat(inner, f"{prefix}{key}.")
        else:
            yield prefix + key, inner


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def _code(old: Side, new: Side) -> Iterator[Difference]:
    a, b = old.run.environment, new.run.environment
    if a.get("bench") != b.get("bench"):
        yield Difference("code", "bench", str(a.get("bench")), str(b.get("bench")))
    if old.commit != new.commit or new.dirty:
        before, after = ((side.commit or "unknown")[:12] for side in (old, new))
        yield Difference("code", "commit", before, after + (" with changes" if new.dirty else ""))
