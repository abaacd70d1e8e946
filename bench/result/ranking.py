"""How sure a ranking is: the strategies of a task ranked again and again on redrawn items and seeds.

The Pareto front is of quality and three readings of each seed's own cell, the lower the better: cost, the seconds of the device
(without a GPU: of the CPU) to answer 1,000 requests; memory, the highest peak from loading to answering; latency, wall seconds to
answer 1,000 requests. Their noise enters by the redrawn seeds and by a floor under which a relative difference is none. Set-up
cost is on no axis: how much it weighs depends on how many requests it is spread over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from bench.result.arms import Arm
from bench.result.schema import Record
from bench.result.statistics import FloatArray, SumStatistic
from bench.result.table import SERVING

N_DRAWS = 2_000
FLOORS: Mapping[str, float] = {"cost": 0.05, "memory": 0.02, "latency": 0.05}
"""Axes of the Pareto front beside quality, and the relative difference of each that is noise (protocol: memory 2 %, times 5 %)."""


@dataclass(frozen=True)
class Entrant:
    """One strategy as it is ranked."""

    rows: FloatArray
    """(seeds, items, k): rows whose sums over items the statistic takes."""
    costs: Mapping[str, FloatArray] = field(default_factory=dict)
    """Axis of ``FLOORS`` -> what each seed's cell read, (seeds,). An axis that some strategy lacks is used for none."""


class Rank(NamedTuple):
    """How one strategy ranks among all; 1 is best, and equals share the better rank."""

    rank: int
    low: int
    high: int
    """95 % interval of the rank over the draws; those that a draw leaves equal count as both ahead and behind."""
    p_best: float
    """Share of draws in which it is the best, divided among equals."""
    p_pareto: float | None
    """Share of draws in which no other dominates it; None where no cost was read by all."""


@dataclass(frozen=True)
class Readings:
    """What the cells of some strategies read on the axes of the front."""

    costs: list[dict[str, FloatArray]]
    """Per strategy: axis -> reading of each seed, (seeds,); only axes that all strategies have read, in the same way."""
    cost_kind: str | None
    """device or cpu."""
    memory_kind: str | None
    """gpu (allocated by tensors) or rss."""


def readings(arms: Sequence[Arm]) -> Readings:
    """Cost, memory and latency of each arm's cells of status ok, in the order of its seeds."""
    per_arm = [[_reading(record) for record in arm.ok] for arm in arms]
    cost_kind = next((kind for kind in ("device", "cpu") if _all_have(per_arm, kind)), None)
    memory_kind: str | None = "gpu" if _all_have(per_arm, "gpu") else "rss"
    # A machine with a GPU has both kinds; where only some cells read the GPU's, none can be compared.
    if memory_kind == "rss" and (any("gpu" in cell for cells in per_arm for cell in cells) or not _all_have(per_arm, "rss")):
        memory_kind = None
    sources = {"cost": cost_kind, "memory": memory_kind, "latency": "wall" if _all_have(per_arm, "wall") else None}
    costs = [{axis: np.array([cell[kind] for cell in cells]) for axis, kind in sources.items() if kind} for cells in per_arm]
    return Readings(costs, cost_kind, memory_kind)


def _reading(record: Record) -> dict[str, float]:
    found: dict[str, float] = {}
    answer = record.phases.get("answer")
    if answer and record.n_items:
        seconds = {"wall": answer.wall_seconds, "cpu": answer.cpu_seconds, "device": answer.device_seconds}
        found |= {kind: 1000 * value / record.n_items for kind, value in seconds.items() if value is not None}
    phases = [record.phases[name] for name in SERVING if name in record.phases]
    for kind, key in (("gpu", "peak_gpu_allocated_bytes"), ("rss", "peak_rss_bytes")):
        peaks = [peak for phase in phases if (peak := getattr(phase, key)) is not None]
        if peaks:
            found[kind] = float(max(peaks))
    return found


def _all_have(per_arm: Sequence[Sequence[Mapping[str, float]]], kind: str) -> bool:
    return all(kind in cell for cells in per_arm for cell in cells)


def mean_rows(table: FloatArray) -> FloatArray:
    """Rows (seeds, items, 2) of which ``mean_of_sums`` makes the mean, from scores (seeds, items) with NaN where undefined."""
    known = np.isfinite(table)
    return np.stack([np.where(known, table, 0.0), known.astype(np.float64)], axis=2)


def mean_of_sums(sums: FloatArray) -> FloatArray:
    """(..., 2) -> (...): the sum of scores by the number of defined ones; NaN where there is none."""
    count = sums[..., 1]
    return np.asarray(np.where(count > 0, sums[..., 0] / np.where(count > 0, count, 1), np.nan))


def rank_entrants(
    entrants: Sequence[Entrant],
    clusters: Sequence[str],
    statistic: SumStatistic = mean_of_sums,
    *,
    higher_is_better: bool = True,
    n_draws: int = N_DRAWS,
    seed: int = 0,
) -> list[Rank] | None:
    """Rank interval, P(best) and P(on the Pareto front) by a joint bootstrap over clusters of items and over seeds.

    ``clusters``: names (items,), the items being the same, in the same order, for all. Each draw takes clusters with replacement, the same
    for all strategies (so that they stay paired), and for each strategy its own seeds with replacement, which carry that seed's
    cost readings along. With S seeds a plain draw would have (S - 1) / S of their variance, so deviations are stretched by
    sqrt(S / (S - 1)) (Rao and Wu 1988). A strategy with one seed varies over items only.

    Front: quality as drawn, and the axes of ``FLOORS``. One dominates another where it is better on at least one axis and worse on none,
    relative differences within an axis's floor being none (epsilon-dominance); quality, which is drawn, has no floor.

    None with fewer than two clusters. Raises ValueError for no entrants, or where they differ in items.
    """
    sizes = {entrant.rows.shape[1:] for entrant in entrants}
    if len(sizes) != 1 or next(iter(sizes))[0] != len(clusters):
        raise ValueError(f"entrants of {sorted(sizes)} items and {len(clusters)} cluster names: expected the same items for all")
    names, codes = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    count, sign = len(names), 1.0 if higher_is_better else -1.0
    if count < 2:
        return None
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=n_draws).astype(np.float64)
    axes = [axis for axis in FLOORS if all(axis in entrant.costs for entrant in entrants)]
    quality = np.empty((len(entrants), n_draws))
    costs = {axis: np.empty((len(entrants), n_draws)) for axis in axes}
    for place, entrant in enumerate(entrants):
        of_clusters = cluster_sums(entrant.rows, codes, count)
        drawn_seeds = seed_weights(len(entrant.rows), n_draws, np.random.default_rng([seed, place]))
        quality[place] = sign * np.einsum("bs,sb->b", drawn_seeds, statistic(weights @ of_clusters))
        for axis in axes:
            costs[axis][place] = np.maximum(0.0, drawn_seeds @ entrant.costs[axis])
    defined = np.isfinite(quality).all(axis=0)
    if not defined.any():
        return None
    # Equal answers may differ in the last bit.
    quality = quality[:, defined].round(12)
    ahead, equal = _ahead_and_equal(quality)
    best = ahead == 0
    p_best = (best / best.sum(axis=0)).mean(axis=1)
    on_front = _on_front(quality, {axis: drawn[:, defined] for axis, drawn in costs.items()}) if axes else None
    values = sign * np.array([float(np.mean(statistic(entrant.rows.sum(axis=1)))) for entrant in entrants]).round(12)
    found = []
    for place in range(len(entrants)):
        low = np.quantile(ahead[place], 0.025, method="inverted_cdf")
        high = np.quantile(ahead[place] + equal[place], 0.975, method="inverted_cdf")
        share = None if on_front is None else float(on_front[place].mean())
        found.append(Rank(1 + int((values > values[place]).sum()), 1 + int(low), 1 + int(high), float(p_best[place]), share))
    return found


def cluster_sums(rows: FloatArray, codes: np.ndarray, count: int) -> FloatArray:
    """(seeds, items, k) -> (seeds, clusters, k)."""
    sums = np.zeros((len(rows), count, rows.shape[2]))
    for seed, of_items in enumerate(rows):
        np.add.at(sums[seed], codes, of_items)
    return sums


def seed_weights(n_seeds: int, n_draws: int, generator: np.random.Generator) -> FloatArray:
    """(draws, seeds): how much each seed counts in a draw; they add up to 1."""
    if n_seeds == 1:
        return np.ones((n_draws, 1))
    drawn = generator.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=n_draws) / n_seeds
    return np.asarray(1 / n_seeds + math.sqrt(n_seeds / (n_seeds - 1)) * (drawn - 1 / n_seeds))


def _ahead_and_equal(quality: FloatArray) -> tuple[np.ndarray, np.ndarray]:
    """How many are better than each entrant, and how many others equal it, per draw: (entrants, draws) both."""
    ahead = np.stack([(quality > own).sum(axis=0) for own in quality])
    return ahead, np.stack([(quality == own).sum(axis=0) - 1 for own in quality])


def _on_front(quality: FloatArray, costs: Mapping[str, FloatArray]) -> np.ndarray:
    """(entrants, draws): whether no other dominates it."""
    front = np.ones(quality.shape, dtype=bool)
    for a in range(len(quality)):
        for b in range(len(quality)):
            if a == b:
                continue
            no_worse, better = quality[b] >= quality[a], quality[b] > quality[a]
            for axis, drawn in costs.items():
                no_worse &= drawn[b] <= drawn[a] * (1 + FLOORS[axis])
                better |= drawn[b] * (1 + FLOORS[axis]) < drawn[a]
            front[a] &= ~(no_worse & better)
    return front
