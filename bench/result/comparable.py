"""Whether records belong together: a difference between strategies means nothing where the question, the gold or the scoring differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bench.errors import BenchError
from bench.result.arms import Arm
from bench.result.schema import Record


def check_comparable(group: Sequence[Arm], allow_unequal: bool = False) -> list[str]:
    """Notes on what differs between the arms of one task without making the comparison void.

    Gold answers and scoring version must be the same, as must questions (``arms.groups_of``). Task data as a whole, weights and budget
    (protocol: equal labelled examples, trials and validation set) must be so too unless ``allow_unequal``. Raises BenchError.
    """
    gold: dict[str, tuple[list[str], str]] = {}
    for arm in group:
        for items in arm.items:
            for item in items.values():
                targets, first = gold.setdefault(item.id, (item.targets, arm.strategy))
                if targets != item.targets:
                    raise BenchError(
                        f'task {arm.task}: item "{item.id}" has the gold {item.targets} in {arm.strategy} and {targets} in {first}: '
                        "expected the same; run the cells again"
                    )
    ok = [record for arm in group for record in arm.ok]
    if found := _first_two(ok, lambda record: record.fingerprints and record.fingerprints.scoring):
        raise BenchError(f"task {group[0].task}: scored by different versions: {found}: run the older cells again")
    notes = []
    differing: dict[str, Callable[[Record], Any]] = {
        "task rows or settings": lambda record: record.fingerprints and record.fingerprints.task[:12],
        "weights of the base model": lambda record: record.fingerprints and record.fingerprints.model[:12],
        "tokenizer": lambda record: record.fingerprints and record.fingerprints.tokenizer[:12],
        "budget": lambda record: record.config.get("budget"),
    }
    for what, of in differing.items():
        if found := _first_two(ok, of):
            if not allow_unequal:
                raise BenchError(f"task {group[0].task}: {what} differ: {found}: run again alike, or pass --allow-unequal")
            notes.append(f"{what} differ: {found}")
    others = sorted({name for record in ok for name in record.config.get("trained_with") or ()})
    if others:
        notes.append(f"tuned strategies were also trained on {', '.join(others)}, which prompting did not see")
    return notes


def _first_two(records: Sequence[Record], of: Callable[[Record], Any]) -> str | None:
    """The first two records that differ in what ``of`` gives, None where none do; one for which it gives nothing is left out."""
    known = [(record, value) for record in records if (value := of(record))]
    for record, value in known[1:]:
        if value != known[0][1]:
            first = known[0][0]
            return f"{first.strategy}/s{first.seed} has {_short(known[0][1])}, {record.strategy}/s{record.seed} has {_short(value)}"
    return None


def _short(value: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
