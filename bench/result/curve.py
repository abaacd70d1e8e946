"""Learning curves: a metric against the number of labelled examples, where one strategy overtakes another, how many examples one needs.

Read from runs that differ in ``budget.train_examples`` alone (``bench run --train-sizes``), whose examples are nested subsets.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import BenchError, did_you_mean
from bench.metric.registry import higher_is_better
from bench.result.arms import Arm, groups_of, load_arms
from bench.result.comparable import check_comparable
from bench.result.compare import ArmScores, interval_of, score_group, seed_noise
from bench.result.ranking import cluster_sums, mean_of_sums, mean_rows, seed_weights
from bench.result.schema import Record
from bench.result.statistics import FloatArray, macro_f1_of_sums
from bench.result.store import RunFolder

N_DRAWS = 2_000
FLOOR_SHARE = 0.9
"""The data floor is the size that reaches this share of the score at the largest size."""

Row = dict[str, Any]
POINT_COLUMNS = (
    "task", "model", "strategy", "primary_metric", "train_examples", "value", "ci_low", "ci_high", "interval", "n_items", "n_seeds",
    "uses_examples", "status",
)  # fmt: skip


@dataclass(frozen=True)
class Curves:
    """What ``learning_curves`` finds; all rows in the order of the suite. Undefined is None."""

    points: list[Row] = field(default_factory=list)
    """One row per task, model, strategy and size, with ``POINT_COLUMNS``; the interval is that of the table."""
    crossovers: list[Row] = field(default_factory=list)
    """One row per pair ``a``, ``b``: ``crossover`` is the number of examples from which on the one that was behind at the smallest size is
    ahead, None where the same one is ahead at both ends. ``low`` and ``high``: 95 % interval, None where it ends beyond the sizes
    measured. ``ahead_at_smallest``, ``ahead_at_largest``: strategies; ``ahead_throughout``: one of them, or None; ``share_crossing``: of
    the bootstrap draws."""
    data_floors: list[Row] = field(default_factory=list)
    """One row per strategy that uses examples: ``data_floor`` is the smallest size with 90 % of its score at the largest, with a 95 %
    interval ``low`` to ``high`` over the draws."""
    notes: list[str] = field(default_factory=list)


def learning_curves(runs: Sequence[RunFolder | Path], baseline: str | None = None, seed: int = 0) -> Curves:
    """The curves of runs with different ``budget.train_examples``; pairs are all of them, or each strategy with ``baseline``.

    A strategy that uses no labelled examples is a constant: where it was not run at a size, its value at another holds. Differences
    are of means over the items that all share; between sizes they are interpolated linearly in log2 of the size. Intervals are of a
    joint bootstrap: clusters of items, the same for all strategies and sizes, and each strategy's seeds, the same for all its sizes, with
    their deviations stretched as in ``ranking.rank_entrants``.

    Raises BenchError for fewer than two sizes, two runs of one size, runs that do not belong together, an unknown baseline.
    """
    by_size: dict[int, RunFolder] = {}
    for run in runs:
        folder = run if isinstance(run, RunFolder) else RunFolder(run)
        size = _size_of(folder)
        if size in by_size:
            raise BenchError(f"{by_size[size].path} and {folder.path} both have {size} training examples: expected one run of each size")
        by_size[size] = folder
    if len(by_size) < 2:
        raise BenchError(f"found runs of {len(by_size)} size, expected two sizes or more: `bench run --train-sizes 10,25,50` makes them")
    arms = {size: load_arms(by_size[size]) for size in sorted(by_size)}
    names = {arm.strategy for loaded in arms.values() for arm in loaded}
    if baseline is not None and baseline not in names:
        raise BenchError(f'--baseline "{baseline}": no such strategy in the runs; {did_you_mean(baseline, names)}')
    found = Curves()
    # All sizes together: whether questions, gold and scoring are the same, and in the order of the largest.
    for group in groups_of([arm for size in sorted(arms, reverse=True) for arm in arms[size]]):
        notes = check_comparable(group, allow_unequal=True)
        found.notes.extend(f"{group[0].task}: {note}" for note in notes if note.startswith(("weights", "tokenizer")))
        members = {id(arm) for arm in group}
        _Task({size: [arm for arm in loaded if id(arm) in members] for size, loaded in arms.items()}, seed).report(found, baseline)
    return found


def _size_of(folder: RunFolder) -> int:
    size = (folder.read_run().suite.get("budget") or {}).get("train_examples")
    if not isinstance(size, int):
        raise BenchError(f"{folder.path}/run.json: suite.budget.train_examples: found {size}, expected the number of training examples")
    return size


def uses_examples(record: Record) -> bool:
    """Whether the strategy of a record depends on labelled training examples; where the record does not say, it may."""
    strategy = record.config.get("strategy")
    if not isinstance(strategy, dict):
        return True
    prompt = strategy.get("prompt") or {}
    shown = prompt.get("shots", 0) > 0 or "prompt.shots" in (strategy.get("search") or {})
    return shown or prompt.get("constant") == "majority" or (strategy.get("tuning") or {}).get("method", "none") != "none"


class _Task:
    """The arms of one task and base model at all sizes."""

    def __init__(self, arms: dict[int, list[Arm]], seed: int) -> None:
        self.seed = seed
        self.first = next(arm for group in arms.values() for arm in group)
        self.names = list(dict.fromkeys(arm.strategy for size in sorted(arms, reverse=True) for arm in arms[size]))
        self.metric = next((arm.primary_metric for group in arms.values() for arm in group if arm.primary_metric), None)
        self.sign = -1.0 if higher_is_better(self.metric) is False else 1.0
        self.rows: dict[tuple[str, int], Row] = {}
        self.scores: dict[tuple[str, int], ArmScores] = {}
        self.constant = {arm.strategy for group in arms.values() for arm in group if arm.ok and not any(map(uses_examples, arm.ok))}
        limit = max((r.config.get("n_train", 0) for group in arms.values() for arm in group for r in arm.ok), default=0)
        self.sizes = [size for size in sorted(arms) if not limit or size <= limit]
        self.left_out = [size for size in sorted(arms) if size not in self.sizes]
        self.limit = limit
        for size in self.sizes:
            self._measure(size, arms[size])
        for name in self.constant:
            self._continue(name)
        self.draws = self._drawn()

    def _measure(self, size: int, group: list[Arm]) -> None:
        scored = score_group(group)
        noise = seed_noise(group, scored)
        for arm, scores in zip(group, scored, strict=True):
            head = {"task": arm.task, "model": arm.model, "strategy": arm.strategy, "primary_metric": self.metric, "train_examples": size}
            row: Row = {**dict.fromkeys(POINT_COLUMNS), **head, "status": "ok" if scores else arm.records[0].status}
            row |= {"uses_examples": arm.strategy not in self.constant, "n_seeds": len(arm.ok)}
            if scores is not None:
                value, low, high, items_only = interval_of(arm, scores, noise[arm.family])
                kind = None if low is None else "items" if items_only else "items + seeds"
                row |= {"value": value, "ci_low": low, "ci_high": high, "interval": kind, "n_items": len(scores.ids)}
                self.scores[arm.strategy, size] = scores
            self.rows[arm.strategy, size] = row

    def _continue(self, name: str) -> None:
        """A constant at the sizes at which it was not run."""
        measured = [size for size in self.sizes if (name, size) in self.scores]
        for size in self.sizes:
            if measured and (name, size) not in self.scores:
                self.rows[name, size] = self.rows[name, measured[-1]] | {"train_examples": size}
                self.scores[name, size] = self.scores[name, measured[-1]]

    def _drawn(self) -> dict[str, tuple[list[int], FloatArray, FloatArray]]:
        """Strategy -> (sizes, values (sizes,), bootstrap draws (draws, sizes)) on the items that all share."""
        usable = {key: scores for key, scores in self.scores.items() if scores.table.size}
        if not usable:
            return {}
        shared = set.intersection(*(set(scores.ids) for scores in usable.values()))
        some = next(iter(usable.values()))
        ids = [name for name in some.ids if name in shared]
        clusters = [cluster for name, cluster in zip(some.ids, some.clusters, strict=True) if name in shared]
        names, codes = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
        if len(names) < 2:
            return {}
        generator = np.random.default_rng(self.seed)
        weights = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=N_DRAWS).astype(np.float64)
        found = {}
        for place, strategy in enumerate(self.names):
            sizes = [size for size in self.sizes if (strategy, size) in usable]
            if len(sizes) < 2:
                continue
            values, draws = np.empty(len(sizes)), np.empty((N_DRAWS, len(sizes)))
            for k, size in enumerate(sizes):
                scores = usable[strategy, size]
                where = {name: i for i, name in enumerate(scores.ids)}
                table = scores.table[:, [where[name] for name in ids]]
                rows, statistic = (mean_rows(table), mean_of_sums) if scores.is_mean else (table, macro_f1_of_sums)
                by_seed = seed_weights(len(rows), N_DRAWS, np.random.default_rng([self.seed, place]))
                values[k] = float(np.mean(statistic(rows.sum(axis=1))))
                draws[:, k] = np.einsum("bs,sb->b", by_seed, statistic(weights @ cluster_sums(rows, codes, len(names))))
            found[strategy] = (sizes, values, draws)
        return found

    def report(self, found: Curves, baseline: str | None) -> None:
        """Add the task's rows."""
        found.points.extend(self.rows[name, size] for name in self.names for size in self.sizes if (name, size) in self.rows)
        head = {"task": self.first.task, "model": self.first.model}
        if self.left_out:
            larger = ", ".join(map(str, self.left_out))
            found.notes.append(f"{self.first.task}: has {self.limit} training examples, so larger sizes are left out ({larger})")
        pairs: Iterable[tuple[str, str]] = combinations(self.names, 2)
        if baseline is not None:
            pairs = [(name, baseline) for name in self.names if name != baseline]
        for a, b in pairs:
            # Two constants never cross.
            if a in self.draws and b in self.draws and not {a, b} <= self.constant and (row := self._crossover(a, b)):
                found.crossovers.append({**head, "a": a, "b": b, **row})
        for name, (sizes, values, draws) in self.draws.items():
            if name not in self.constant and self.sign > 0 and values[-1] > 0:
                found.data_floors.append({**head, "strategy": name, **_data_floor(sizes, values, draws)})

    def _crossover(self, a: str, b: str) -> Row | None:
        (sizes_a, values_a, draws_a), (sizes_b, values_b, draws_b) = self.draws[a], self.draws[b]
        sizes = [size for size in sizes_a if size in sizes_b]
        if len(sizes) < 2:
            return None
        in_a, in_b = [sizes_a.index(size) for size in sizes], [sizes_b.index(size) for size in sizes]
        # Equal answers may differ in the last bit.
        values = (self.sign * (values_a[in_a] - values_b[in_b])).round(12)
        draws = (self.sign * (draws_a[:, in_a] - draws_b[:, in_b])).round(12)
        first, last = np.sign(values[0]), np.sign(values[-1])
        found = crossover(values, draws, sizes)

        def ahead(sign: float) -> str | None:
            return {1.0: a, -1.0: b}.get(float(sign))

        throughout = ahead(first) if (np.sign(values) == first).all() else None
        return {"ahead_at_smallest": ahead(first), "ahead_at_largest": ahead(last), "ahead_throughout": throughout, **found}


def crossover(values: FloatArray, draws: FloatArray, sizes: Sequence[int]) -> Row:
    """Where the differences ``values`` (sizes,) change sign for good, with a 95 % interval from ``draws`` of them (draws, sizes).

    Only where the ends have opposite signs. A draw without such a change counts as a crossover beyond the sizes: above them where its
    sign at the largest size is still the first one, below them where the sign at the smallest is already the last one; one that
    crosses the other way tells of neither and is left out of the interval. ``low`` and ``high`` are None beyond the sizes.
    """
    draws = draws[np.isfinite(draws).all(axis=1)]
    logs = np.log2(np.asarray(sizes, dtype=np.float64))
    first, last = np.sign(values[0]), np.sign(values[-1])
    starts, ends = np.sign(draws[:, 0]), np.sign(draws[:, -1])
    none: Row = {"crossover": None, "low": None, "high": None, "share_crossing": float((starts * ends < 0).mean()) if len(draws) else None}
    if first * last >= 0 or not len(draws):
        return none
    crossing = (starts == first) & (ends == last)
    places = np.full(len(draws), np.nan)
    places[crossing] = [_last_change(draw, logs) for draw in draws[crossing]]
    places[(starts != last) & (ends != last)] = math.inf
    places[(starts != first) & (ends != first)] = -math.inf
    places[(starts == 0) & (ends == 0)] = np.nan
    places = places[~np.isnan(places)]
    low, high = np.quantile(places, [0.025, 0.975], method="inverted_cdf") if len(places) else (-math.inf, math.inf)
    return {
        "crossover": float(2 ** _last_change(values, logs)),
        "low": float(2**low) if math.isfinite(low) else None,
        "high": float(2**high) if math.isfinite(high) else None,
        "share_crossing": float(crossing.mean()),
    }


def _last_change(values: FloatArray, logs: FloatArray) -> float:
    """Where a line through (logs, values) last takes the sign that it ends with."""
    before = int(np.flatnonzero(values * np.sign(values[-1]) <= 0)[-1])
    share = values[before] / (values[before] - values[before + 1])
    return float(logs[before] + share * (logs[before + 1] - logs[before]))


def _data_floor(sizes: Sequence[int], values: FloatArray, draws: FloatArray) -> Row:
    drawn = draws[np.isfinite(draws).all(axis=1) & (draws[:, -1] > 0)]
    reached = np.asarray(sizes)[np.argmax(drawn >= FLOOR_SHARE * drawn[:, -1:], axis=1)]
    low, high = (int(x) for x in np.quantile(reached, [0.025, 0.975], method="inverted_cdf")) if len(reached) else (None, None)
    return {"data_floor": sizes[int(np.argmax(values >= FLOOR_SHARE * values[-1]))], "low": low, "high": high, "largest_size": sizes[-1]}
