"""Two runs of the same strategies: what changed from the first to the second, paired on the same items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.report.model import Change, Measure
from bench.result.arms import Arm, groups_of, load_arms
from bench.result.store import RunFolder
from bench.result.table import table_rows

if TYPE_CHECKING:
    from bench.result.compare import ArmScores

COSTS = ("setup_seconds", "seconds_per_1000_requests", "peak_memory_bytes")
Key = tuple[str, str]
"""(task, model)"""


def shared_cells(folders: Sequence[RunFolder]) -> set[Path]:
    """The cells (task, strategy, seed) that all of the runs hold, as paths within a run."""
    return set.intersection(*({path.parent.relative_to(folder.path) for path in folder.record_paths()} for folder in folders))


def changes(before: RunFolder, after: RunFolder) -> dict[Key, tuple[Change, ...]]:
    """Every strategy that one of the runs scored, in the order of the second run's suite, then those that only the first one has.

    The difference is the second run minus the first on the items that both have, over items and, where there are several seeds, seeds,
    whose variance is pooled over both runs by family; p is Holm-adjusted over the strategies of a task. Items that are another question
    in one of the runs are a reason for no difference. Raises BenchError as `load_arms` does.
    """
    sides = [{(group[0].task, group[0].model): group for group in groups_of(load_arms(folder))} for folder in (before, after)]
    tables = [{(row["task"], row["model"], row["strategy"]): row for row in table_rows(folder)} for folder in (before, after)]
    return {key: _of_task(key, [side.get(key, []) for side in sides], tables) for key in sides[1]}


def _of_task(
    key: Key, groups: Sequence[list[Arm]], tables: Sequence[Mapping[tuple[str, str, str], Mapping[str, object]]]
) -> tuple[Change, ...]:
    from bench.result.compare import paired_differences, score_group, seed_noise

    scored = [score_group(group) for group in groups]
    noise = seed_noise([*groups[0], *groups[1]], [*scored[0], *scored[1]])
    of: list[dict[str, tuple[Arm, ArmScores | None]]] = [
        {arm.strategy: (arm, scores) for arm, scores in zip(group, found, strict=True)} for group, found in zip(groups, scored, strict=True)
    ]
    names = list(dict.fromkeys([*of[1], *of[0]]))
    found: dict[str, Change] = {}
    chosen = {}
    for name in names:
        rows = [table.get((*key, name)) for table in tables]
        values = [_measure(row) for row in rows]
        if not any(values):
            continue
        costs = {cost: (_number(rows[0], cost), _number(rows[1], cost)) for cost in COSTS}
        change = Change(name, values[0], values[1], None, None, 0, costs, None)
        if values[0] is None or values[1] is None:
            side = "first" if values[0] is None else "second"
            found[name] = change._replace(reason=f"not scored in the {side} run")
            continue
        (old, old_scores), (new, new_scores) = of[0][name], of[1][name]
        if _other_questions(old, new):
            found[name] = change._replace(reason="the items are other questions in one of the runs")
            continue
        found[name] = change._replace(reason="the runs share no item")
        if new_scores is not None and old_scores is not None:
            chosen[name] = ((new, new_scores), (old, old_scores))
    for name, one in zip(chosen, paired_differences(list(chosen.values()), noise), strict=True):
        if one is not None:
            pair, d, p = one
            found[name] = found[name]._replace(difference=Measure(d.delta, d.low, d.high), p=p, n_items=len(pair.clusters), reason=None)
    return tuple(found[name] for name in names if name in found)


def _measure(row: Mapping[str, object] | None) -> Measure | None:
    value = _number(row, "value")
    return None if value is None else Measure(value, _number(row, "ci_low"), _number(row, "ci_high"))


def _number(row: Mapping[str, object] | None, column: str) -> float | None:
    value = None if row is None else row[column]
    return float(value) if isinstance(value, int | float) else None


def _other_questions(old: Arm, new: Arm) -> bool:
    hashes = {item.id: item.input_hash for items in old.items for item in items.values()}
    return any(hashes.get(item.id, item.input_hash) != item.input_hash for items in new.items for item in items.values())
