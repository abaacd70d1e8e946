"""The arms of a comparison: a (task, model, strategy) with the records and items of all its seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.result.schema import Record, ScoredItem
from bench.result.store import RunFolder


@dataclass(frozen=True)
class Arm:
    """One strategy on one task with one base model."""

    task: str
    model: str
    strategy: str
    records: tuple[Record, ...]
    """Of every seed, in its order, failed and skipped ones as well."""
    items: tuple[dict[str, ScoredItem], ...]
    """Items by id of each record of status ok, in the same order."""

    @property
    def ok(self) -> tuple[Record, ...]:
        return tuple(record for record in self.records if record.status == "ok")

    @property
    def primary_metric(self) -> str | None:
        return next((record.primary_metric for record in self.records if record.primary_metric), None)

    @property
    def deterministic(self) -> bool:
        return bool(self.ok) and all(record.deterministic for record in self.ok)

    @property
    def is_oracle(self) -> bool:
        """Reads what no deployed strategy can (the gold passage): a bound, not a competitor."""
        paths = (("strategy", "retrieval", "search"), ("retrieval", "search"))
        return self.strategy.endswith("-oracle") or any(_at(r.config, *path) == "oracle" for r in self.records for path in paths)

    @property
    def family(self) -> str:
        """Strategies whose seeds do alike: prompting draws examples, PEFT and full fine-tuning train few or all weights."""
        method = next((m for r in self.ok if (m := _at(r.config, "strategy", "tuning", "method"))), "none")
        return {"none": "prompting", "full": "full"}.get(str(method), "PEFT")


def load_arms(run: RunFolder | Path | Sequence[RunFolder | Path]) -> list[Arm]:
    """All arms of the runs, in the order in which the suite names tasks and strategies.

    A cell that two runs hold is read from the last. Raises BenchError where the runs hold it under different ids, where there is no
    record, or where a file is broken.
    """
    runs: Sequence[RunFolder | Path] = [run] if isinstance(run, RunFolder | Path) else run
    folders = [entry if isinstance(entry, RunFolder) else RunFolder(entry) for entry in runs]
    found: dict[tuple[str, str, str], dict[int, tuple[Record, RunFolder]]] = {}
    order: dict[str, dict[str, int]] = {"tasks": {}, "strategies": {}}
    for folder in folders:
        if not folder.path.is_dir():
            raise BenchError(f"{folder.path}: no such run folder")
        _read_order(folder, order)
        for record in folder.records():
            cells = found.setdefault((record.task, record.model, record.strategy), {})
            other = cells.get(record.seed)
            if other and other[0].cell_id != record.cell_id:
                name = f"{record.task}/{record.strategy}/s{record.seed}"
                raise BenchError(f"{other[1].path} and {folder.path} hold different cells {name}: make a table of each, or leave one out")
            cells[record.seed] = (record, folder)
    if not found:
        raise BenchError(f"{', '.join(str(folder.path) for folder in folders)}: no records here: run `bench run` first")
    last = len(order["tasks"]) + len(order["strategies"])
    keys = sorted(found, key=lambda key: (order["tasks"].get(key[0], last), key[0], key[1], order["strategies"].get(key[2], last), key[2]))
    return [_load_arm(*key, found[key]) for key in keys]


def _load_arm(task: str, model: str, strategy: str, cells: dict[int, tuple[Record, RunFolder]]) -> Arm:
    items = []
    for seed, (record, folder) in sorted(cells.items()):
        if record.status != "ok":
            continue
        path = folder.cell_folder(task, strategy, seed) / "items.jsonl"
        read = {item.id: item for item in folder.read_scores(task, strategy, seed)}
        if len(read) != record.n_items:
            raise BenchError(f"{path}: found {len(read)} items, expected {record.n_items} (n_items of record.json): run the cell again")
        items.append(read)
    return Arm(task, model, strategy, tuple(record for _, (record, _) in sorted(cells.items())), tuple(items))


def _read_order(folder: RunFolder, order: dict[str, dict[str, int]]) -> None:
    """The order in which the suite names tasks and strategies, as far as it does."""
    if not (folder.path / "run.json").exists():
        return
    suite = folder.read_run().suite
    for key, places in order.items():
        named = suite.get(key)
        for entry in named if isinstance(named, list | dict) else ():
            name = entry.get("name") if isinstance(entry, dict) else entry
            if isinstance(name, str):
                places.setdefault(name, len(places))


def groups_of(arms: Sequence[Arm]) -> Iterator[list[Arm]]:
    """Arms of the same task and base model."""
    groups: dict[tuple[str, str], list[Arm]] = {}
    for arm in arms:
        groups.setdefault((arm.task, arm.model), []).append(arm)
    for group in groups.values():
        metrics = {arm.primary_metric for arm in group if arm.primary_metric}
        if len(metrics) > 1:
            names = ", ".join(sorted(metrics))
            raise BenchError(f"task {group[0].task}: the records disagree on the primary metric ({names}): run again with --fresh")
        hashes: dict[str, str] = {}
        for arm in group:
            for items in arm.items:
                for item in items.values():
                    if hashes.setdefault(item.id, item.input_hash) != item.input_hash:
                        raise BenchError(
                            f'task {arm.task}: item "{item.id}" of {arm.strategy} is another question than in {group[0].strategy}: '
                            "the task changed between the cells; run them again"
                        )
        yield group


def _at(config: dict[str, Any], *path: str) -> Any:
    value: Any = config
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value
