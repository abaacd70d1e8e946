"""A run against its baselines: every gate of every strategy, and what stands between a number and its verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from bench.errors import BenchError
from bench.regression.baseline import Side, is_baseline, read_baseline, side_of_run
from bench.regression.costs import Seconds, cost_gates, memory_gates, prompts_gate, status_gate, time_gates
from bench.regression.fingerprint import differences, environment_of
from bench.regression.model import Check, Comparison, Difference, Gate, Gates
from bench.regression.quality import quality_gates, shared, ties_excused
from bench.result.arms import Arm
from bench.settings import parse_settings

GATES = "gates.yaml"
Key = tuple[str, str]


def load_gates(path: Path | None, against: Path) -> Gates:
    """The gates of a file; by default of ``gates.yaml`` in the baseline's folder, else the defaults. Raises BenchError."""
    chosen = path or against / GATES
    if path is None and not chosen.exists():
        return Gates()
    try:
        return parse_settings(Gates, chosen.read_text(encoding="utf-8"), str(chosen))
    except OSError as error:
        raise BenchError(f"{chosen}: cannot be read: {error.strerror}") from None


@dataclass(frozen=True)
class Relative:
    """The baseline's code run anew beside the run's, instead of what the baseline holds."""

    old: Side
    new: Side
    seconds: Seconds
    notes: tuple[str, ...] = ()


def check(run: Path, against: Path, gates: Gates, new: Side | None = None) -> Check:
    """Compare a run with the last accepted and the release baseline in a folder, or with another run's folder.

    ``new``: the run as it was read before. Raises BenchError where one of the two is missing or broken, or they have no strategy of any
    task in common.
    """
    new = new or side_of_run(run)
    return checked(new, str(run), against.name, [compare(name, old, new, gates) for name, old in sides_of(against).items()])


def sides_of(against: Path) -> dict[Literal["accepted", "release", "run"], Side]:
    """What a run is compared with, the last accepted baseline or another run first. Raises BenchError where the folder holds neither."""
    if is_baseline(against):
        return dict(read_baseline(against).items())
    if (against / "run.json").exists():
        return {"run": side_of_run(against)}
    raise BenchError(f"{against}: found neither baseline.json nor run.json; expected a baseline (bench accept) or a run's folder")


def compare_runs(run: Path, against: Path, gates: Gates) -> Comparison:
    """Two runs' folders. Raises BenchError as `check`."""
    return compare("run", side_of_run(against), side_of_run(run), gates)


def checked(new: Side, run: str, suite: str, comparisons: Sequence[Comparison]) -> Check:
    """The comparisons of a run, with what it was made by."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Check(suite, run, new.commit, new.dirty, now, tuple(comparisons), environment_of(new))


def compare(
    name: Literal["accepted", "release", "run"], old: Side, new: Side, gates: Gates, relative: Relative | None = None
) -> Comparison:
    """All gates of all arms of the baseline, in its order. With ``relative``, its sides take the place of both."""
    stored = old
    if relative is not None:
        old, new = replace(relative.old, acceptance=old.acceptance), relative.new
    pairs, missing = _pairs(old, new)
    # What the baseline's commit was not run for, because the suite has it no longer or the commit cannot run it here.
    missing |= {key: arm for arm in stored.arms if arm.ok and (key := (arm.task, arm.strategy)) not in pairs}
    if not pairs:
        raise BenchError(f"the run has no strategy of any task in common with the baseline ({_names(old)}); expected the same suite")
    found: dict[Key, list[Gate]] = {}
    notes: list[str] = list(relative.notes if relative else ())
    comparable: dict[Key, tuple[Arm, Arm]] = {}
    for key, before in [*((key, a) for key, (a, _) in pairs.items()), *missing.items()]:
        now = pairs[key][1] if key in pairs else None
        if not before.ok:
            continue
        found[key] = [status_gate(before, now)]
        if now is None or not now.ok:
            continue
        if (prompts := prompts_gate(before, now)) is not None:
            found[key].append(prompts)
        cut = shared(before, now)
        notes += [f"{'/'.join(key)}: {note}" for note in cut.notes]
        if cut.reason is None:
            comparable[key] = (cut.old, cut.new)
        else:
            found[key].append(Gate(*key, "quality", before.primary_metric or "", "inconclusive", cut.reason))
    ties = {key: ties_excused(before, now, gates.tie_margin) for key, (before, now) in comparable.items()}
    for gate in quality_gates(comparable, ties, gates):
        found[gate.task, gate.strategy].append(gate)
    for key, (before, now) in comparable.items():
        costs = [*cost_gates(before, now, ties[key], gates), *memory_gates(before, now, gates)]
        other_items = any(record.n_items != len(before.items[0]) for arm in (before, now) for record in arm.ok)
        found[key] += [_of_other_items(gate) for gate in costs] if other_items else costs
    for gate in time_gates(relative.seconds, gates) if relative else ():
        found[gate.task, gate.strategy].append(gate)
    differing = differences(old, new, pairs)
    whole = Comparison(name, old.acceptance, (), tuple(differing), relative is not None, (*notes, *_notes(new, pairs, old)))
    return replace(whole, gates=tuple(_trusted(gate, whole.untrusted) for of_arm in found.values() for gate in of_arm))


def _pairs(old: Side, new: Side) -> tuple[dict[Key, tuple[Arm, Arm]], dict[Key, Arm]]:
    """The arms that both sides have, and those that only the baseline has; by model as well where a side has several."""
    models = [{arm.model for arm in side.arms} for side in (old, new)]
    if max(map(len, models)) > 1:
        raise BenchError(f"found the models {', '.join(sorted(models[0] | models[1]))} in one run; expected one: check each on its own")
    now = {(arm.task, arm.strategy): arm for arm in new.arms}
    before = {(arm.task, arm.strategy): arm for arm in old.arms}
    missing = {key: arm for key, arm in before.items() if key not in now and arm.ok}
    return {key: (arm, now[key]) for key, arm in before.items() if key in now}, missing


def _names(side: Side) -> str:
    names = [f"{arm.task}/{arm.strategy}" for arm in side.arms]
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _notes(new: Side, pairs: dict[Key, tuple[Arm, Arm]], old: Side) -> list[str]:
    known = {(arm.task, arm.strategy) for arm in old.arms}
    notes = []
    if added := ["/".join(key) for arm in new.arms if (key := (arm.task, arm.strategy)) not in known]:
        notes.append(f"not in the baseline, so not gated: {', '.join(added)}")
    commits = {commit for _, now in pairs.values() for r in now.ok if (commit := _commit(r.environment)) and commit != new.commit}
    if commits:
        which = ", ".join(sorted(commit[:12] for commit in commits))
        notes.append(f"some cells were kept from an earlier commit ({which}) and say nothing about the present code: run with --fresh")
    return notes


def _of_other_items(gate: Gate) -> Gate:
    if gate.verdict != "regression":
        return gate
    return replace(gate, verdict="inconclusive", reason=f"{gate.reason}; but some items are others than the baseline's")


def _commit(environment: dict[str, object]) -> str | None:
    found = environment.get("project_commit") or environment.get("git_commit")
    return str(found) if found else None


def _trusted(gate: Gate, untrusted: Sequence[Difference]) -> Gate:
    """The gate, with a regression made inconclusive where the machine or a library is another one."""
    if gate.verdict != "regression" or not untrusted or gate.kind == "status":
        return gate
    what = ", ".join(f"{d.what} {d.before} -> {d.after}" for d in untrusted[:3]) + (", …" if len(untrusted) > 3 else "")
    return replace(gate, verdict="inconclusive", reason=f"{gate.reason}; but the baseline was made with another {what}: use --relative")
