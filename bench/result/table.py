"""The comparison table: one row per (task, strategy), from records and items alone. How it looks is in ``render.py``.

Rows are compared only within one task and one base model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.metric.text import label_key
from bench.result.arms import Arm, groups_of, load_arms
from bench.result.render import print_table, render
from bench.result.schema import Item, Phase, PhaseName, Record
from bench.result.statistics import (
    Difference,
    FloatArray,
    Interval,
    PooledInterval,
    add_seed_variance,
    bootstrap_interval,
    holm,
    macro_f1_of_sums,
    macro_f1_rows,
    paired_difference,
    paired_statistic_difference,
    pooled_seed_variance,
    seed_pooled_interval,
    seed_variances,
)
from bench.result.store import RunFolder, write_atomic

__all__ = ["COLUMNS", "build_table", "print_table", "render", "slice_table", "write_table"]

SECONDARY = (
    "f1",
    "rougeL",
    "macro_f1",
    "format_validity",
    "hallucination_rate",
    "abstention_rate",
    "accuracy_given_attempted",
    "k_precision",
    "recall_at_k",
    "mrr",
)
WHOLE_NUMBERS = ("peak_memory_bytes", "trainable_params", "artifact_bytes", "n_items", "n_seeds", "n_trials")
TEXTS = ("task", "model", "strategy", "primary_metric", "interval", "peak_memory_kind", "status", "reason")
FLAGS = ("deterministic", "best", "tied")
COLUMNS = (
    "task",
    "model",
    "strategy",
    "primary_metric",
    "value",
    "ci_low",
    "ci_high",
    "interval",
    *SECONDARY,
    "setup_seconds",
    "setup_cpu_seconds",
    "seconds_per_1000_requests",
    "cpu_seconds_per_1000_requests",
    "prompt_tokens_per_1000_requests",
    "completion_tokens_per_1000_requests",
    "peak_memory_bytes",
    "peak_memory_kind",
    "trainable_params",
    "artifact_bytes",
    "n_items",
    "n_seeds",
    "deterministic",
    "n_trials",
    "status",
    "reason",
    "best",
    "tied",
    "p_vs_best",
    "seed_noise_ratio",
)
LOWER_IS_BETTER = frozenset({"hallucination_rate", "false_refusal_rate"})
ALPHA = 0.05
SERVING: tuple[PhaseName, ...] = ("load", "tune", "index", "answer")
"""Phases whose memory is the strategy's own; scoring and probing are ours."""


@dataclass(frozen=True)
class _Scores:
    """The primary metric of an arm on a set of items."""

    ids: tuple[str, ...]
    clusters: tuple[str, ...]
    table: FloatArray
    """(seeds, items), NaN where undefined; (seeds, items, k) rows of sums where the metric is macro F1."""
    values: FloatArray
    """(seeds,): the metric of each seed."""

    @property
    def is_mean(self) -> bool:
        return self.table.ndim == 2


def build_table(run: RunFolder | Path | Sequence[RunFolder | Path]) -> pd.DataFrame:
    """The table of one run, or of several together; columns as in ``COLUMNS``, undefined is NaN.

    ``value`` is the mean over seeds of the primary metric, ``ci_*`` its 95 % interval over items and, where there are two seeds or
    more, seeds (``interval`` says which). The other metrics are means over seeds. ``setup_*``: tuning, with all
    trials of the search, and indexing, of the cell that searched; loading the base model is left out. ``peak_memory_bytes``: of the
    phases load to answer, on a GPU what tensors held, else resident memory. ``best``: highest value among the task's strategies,
    oracles left out; ``tied``: not told apart from it (Holm-adjusted p > .05, ``statistics.Difference.p``); on the best row: some
    other is. Both are False where there is nothing to compare with. ``seed_noise_ratio``: largest over smallest variance between
    the seeds of one strategy among the strategies of one family (prompting, PEFT, full), over which seed variance is pooled.

    Raises BenchError for a run without records, a broken file, or records that do not belong together.
    """
    arms = load_arms(run)
    rows: list[dict[str, Any]] = []
    for group in groups_of(arms):
        rows += _group_rows(group)
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    kinds = dict.fromkeys(WHOLE_NUMBERS, "Int64") | dict.fromkeys(TEXTS, "str") | dict.fromkeys(FLAGS, "bool")
    return table.astype({column: kinds.get(column, "float64") for column in COLUMNS})


def slice_table(run: RunFolder | Path | Sequence[RunFolder | Path]) -> pd.DataFrame:
    """The primary metric by slice: one row per (task, model, strategy, slice, slice_value), intervals as in ``build_table``.

    Raises BenchError as ``build_table`` does.
    """
    rows: list[dict[str, Any]] = []
    columns = ["task", "model", "strategy", "primary_metric", "slice", "slice_value", "value", "ci_low", "ci_high", "interval", "n_items"]
    for group in groups_of(load_arms(run)):
        pairs = sorted({pair for arm in group for items in arm.items for item in items.values() for pair in item.slices.items()})
        for name, wanted in pairs:
            scored = _score_group(group, name, wanted)
            noise = _seed_noise(group, scored)
            for arm, scores in zip(group, scored, strict=True):
                if scores is None:
                    continue
                interval = _interval(arm, scores, noise[arm.family], f"{name}={wanted}")
                head = {"task": arm.task, "model": arm.model, "strategy": arm.strategy, "primary_metric": arm.primary_metric}
                rows.append({**head, "slice": name, "slice_value": wanted, **_interval_columns(interval), "n_items": len(scores.ids)})
    return pd.DataFrame(rows, columns=columns)


def write_table(run: RunFolder) -> pd.DataFrame:
    """Write table.md, table.csv and table.parquet into the run folder and return the table. Raises BenchError."""
    table = build_table(run)
    for format in ("md", "csv", "parquet"):
        write_atomic(run.path / f"table.{format}", render(table, format))
    return table


def _group_rows(group: list[Arm]) -> list[dict[str, Any]]:
    scored = _score_group(group)
    noise = _seed_noise(group, scored)
    ratio = _noise_ratio(group, scored)
    rows = []
    for arm, scores in zip(group, scored, strict=True):
        interval = None if scores is None else _interval(arm, scores, noise[arm.family])
        rows.append({**_arm_columns(arm), **_interval_columns(interval), "seed_noise_ratio": ratio})
    _mark_best(group, scored, noise, rows)
    return rows


def _mark_best(group: list[Arm], scored: Sequence[_Scores | None], noise: _Noise, rows: list[dict[str, Any]]) -> None:
    """Set ``best``, ``tied`` and ``p_vs_best`` in the rows of one task."""
    entrants = [i for i, arm in enumerate(group) if scored[i] is not None and not arm.is_oracle]
    for row in rows:
        row.update(best=False, tied=False, p_vs_best=None)
    if len(entrants) < 2:
        return
    sign = -1.0 if group[0].primary_metric in LOWER_IS_BETTER else 1.0
    best = max(entrants, key=lambda i: sign * rows[i]["value"])
    rest = [i for i in entrants if i != best]
    adjusted = holm([_compare(group[best], group[i], scored[best], scored[i], noise) for i in rest])
    for i, p in zip(rest, adjusted, strict=True):
        rows[i].update(tied=p > ALPHA, p_vs_best=p)
    rows[best].update(best=True, tied=any(p > ALPHA for p in adjusted))


def _compare(best: Arm, other: Arm, a: _Scores | None, b: _Scores | None, noise: _Noise) -> float:
    """p of no difference between two arms; 1 where they share no item or the metric cannot be computed again from items."""
    if a is None or b is None:
        return 1.0
    both = [i for i in a.ids if i in set(b.ids)]
    if not both or a.table.shape[2:] != b.table.shape[2:] or not (a.table.size and b.table.size):
        return 1.0
    at_a, at_b = _places(a.ids, both), _places(b.ids, both)
    clusters = [a.clusters[i] for i in at_a]
    seeds, freedom = _seed_part([(noise[arm.family], len(s.table), arm.family) for arm, s in ((best, a), (other, b))])
    found: Difference
    if a.is_mean:
        found = paired_difference(_item_means(a.table)[at_a], _item_means(b.table)[at_b], clusters, seed_variance=seeds, df=freedom)
    else:
        rows_a, rows_b = _same_seeds(a.table[:, at_a], b.table[:, at_b])
        found = paired_statistic_difference(macro_f1_of_sums, rows_a, rows_b, clusters, seed_variance=seeds, df=freedom)
    return found.p


def _seed_part(sides: Sequence[tuple[tuple[float, int], int, str]]) -> tuple[float, int]:
    """(variance, df) that seeds add to a difference; each side is ((excess, df), seeds, family).

    Two sides of one family share one estimate; of two families the degrees of freedom are Satterthwaite's.
    """
    parts: dict[str, tuple[float, int]] = {}
    for (excess, df), n_seeds, family in sides:
        if n_seeds > 1 and df:
            parts[family] = (parts.get(family, (0.0, df))[0] + excess / n_seeds, df)
    total = sum(v for v, _ in parts.values())
    if not total:
        return 0.0, max((df for _, df in parts.values()), default=0)
    return total, max(1, int(total**2 / sum(v**2 / df for v, df in parts.values())))


def _same_seeds(a: FloatArray, b: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Both with the same number of seeds: a single one stands for all of the other's, else those in excess are left out."""
    if len(a) == 1:
        a = np.repeat(a, len(b), axis=0)
    if len(b) == 1:
        b = np.repeat(b, len(a), axis=0)
    least = min(len(a), len(b))
    return a[:least], b[:least]


def _score_group(group: Sequence[Arm], name: str | None = None, wanted: str | None = None) -> list[_Scores | None]:
    """The primary metric of each arm on the items whose slice ``name`` is ``wanted``, None where it has none."""
    gold = sorted({label_key(target) for arm in group for items in arm.items for item in items.values() for target in item.targets})
    return [_score_arm(arm, gold, lambda item: name is None or item.slices.get(name) == wanted) for arm in group]


def _score_arm(arm: Arm, labels: Sequence[str], chosen: Callable[[Item], bool]) -> _Scores | None:
    metric = arm.primary_metric
    if metric is None or not arm.items:
        return None
    shared = [item for item in arm.items[0].values() if chosen(item) and all(item.id in other for other in arm.items)]
    if not shared:
        return None
    ids, clusters = tuple(item.id for item in shared), tuple(item.cluster for item in shared)
    by_seed = [[items[i] for i in ids] for items in arm.items]
    if metric == "macro_f1":
        rows = np.stack([_macro_f1_rows(items, labels) for items in by_seed])
        return _Scores(ids, clusters, rows, macro_f1_of_sums(rows.sum(axis=1)))
    table = np.array([[item.scores.get(metric, math.nan) for item in items] for items in by_seed])
    if np.isfinite(table).any(axis=1).all():
        return _Scores(ids, clusters, table, np.nanmean(table, axis=1))
    values = [record.metrics[metric].value for record in arm.ok if metric in record.metrics]
    return _Scores(ids, clusters, np.empty((len(values), 0)), np.array(values)) if len(values) == len(arm.ok) else None


def _macro_f1_rows(items: Sequence[Item], labels: Sequence[str]) -> FloatArray:
    said = [label_key(item.prediction) for item in items]
    golds = [[label_key(target) for target in item.targets] for item in items]
    return macro_f1_rows([s if s in g or not g else g[0] for s, g in zip(said, golds, strict=True)], said, labels)


_Noise = Mapping[str, tuple[float, int]]
"""Family of strategies -> (excess, df) of its seeds."""


def _families(group: Sequence[Arm], scored: Sequence[_Scores | None]) -> dict[str, list[_Scores]]:
    found: dict[str, list[_Scores]] = {arm.family: [] for arm in group}
    for arm, scores in zip(group, scored, strict=True):
        if scores is not None:
            found[arm.family].append(scores)
    return found


def _seed_noise(group: Sequence[Arm], scored: Sequence[_Scores | None]) -> _Noise:
    """(excess, df) of the seeds, pooled over the strategies of one task that are of one family (protocol: pool like with like)."""
    return {family: _pooled(members) for family, members in _families(group, scored).items()}


def _pooled(scored: Sequence[_Scores]) -> tuple[float, int]:
    means = [s for s in scored if s.is_mean and s.table.size]
    if means:
        return pooled_seed_variance([s.table for s in means], [s.clusters for s in means])
    # No item scores, so the part that items explain is unknown: all of the variance between seeds counts.
    several = [s.values for s in scored if len(s.values) > 1]
    df = sum(len(values) - 1 for values in several)
    return (sum(float(values.var(ddof=1)) * (len(values) - 1) for values in several) / df, df) if df else (0.0, 0)


def _noise_ratio(group: Sequence[Arm], scored: Sequence[_Scores | None]) -> float:
    """Largest over smallest variance between seeds in a family of a task; above 9 pooling hides a noisy strategy."""
    ratios = [r for members in _families(group, scored).values() if not math.isnan(r := _ratio(members))]
    return max(ratios, default=math.nan)


def _ratio(scored: Sequence[_Scores]) -> float:
    found = []
    for scores in scored:
        if len(scores.values) > 1:
            mean = scores.is_mean and scores.table.size
            found.append(seed_variances(scores.table, scores.clusters)[0] if mean else float(scores.values.var(ddof=1)))
    if len(found) < 2 or max(found) == 0:
        return math.nan
    return max(found) / min(found) if min(found) > 0 else math.inf


def _interval(arm: Arm, scores: _Scores, noise: tuple[float, int], slice_name: str | None = None) -> PooledInterval:
    excess, df = noise
    if scores.is_mean and scores.table.size:
        table = dict(enumerate(scores.table))
        found = seed_pooled_interval(table, scores.clusters, excess, df, clip=_is_share(scores.table))
        return found._replace(value=float(scores.values.mean()))
    value = float(scores.values.mean())
    if scores.table.size:
        # One row per item, the seeds side by side: resampling a cluster takes its answers of all seeds.
        rows = np.concatenate(list(scores.table), axis=1)
        n_seeds = len(scores.table)

        def statistic(sums: FloatArray) -> FloatArray:
            return np.asarray(np.mean([macro_f1_of_sums(part) for part in np.split(sums, n_seeds, axis=-1)], axis=0))

        _, low, high = bootstrap_interval(statistic, rows, scores.clusters, of_sums=True)
    else:
        low, high = _recorded_interval(arm, slice_name)
    if low is None or high is None:
        return PooledInterval(value, None, None, True)
    if len(scores.values) < 2 or df < 1:
        return PooledInterval(value, low, high, True)
    freedom = min(df, max(1, len(set(scores.clusters)) - 1))
    _, low, high = add_seed_variance(Interval(value, low, high), excess / len(scores.values), freedom)
    if scores.table.size and low is not None and high is not None:
        low, high = max(0.0, low), min(1.0, high)  # macro F1 is a share; of other metrics the range is unknown
    return PooledInterval(value, low, high, False)


def _recorded_interval(arm: Arm, slice_name: str | None) -> tuple[float | None, float | None]:
    """Mean over seeds of the bounds in the records, for a metric that items alone do not give."""
    metric = arm.primary_metric or ""
    entries = [(r.metrics if slice_name is None else r.slices.get(slice_name, {})).get(metric) for r in arm.ok]
    lows = [e.ci_low for e in entries if e is not None and e.ci_low is not None]
    highs = [e.ci_high for e in entries if e is not None and e.ci_high is not None]
    if not lows or len(lows) != len(arm.ok) or len(highs) != len(arm.ok):
        return None, None
    return float(np.mean(lows)), float(np.mean(highs))


def _interval_columns(interval: PooledInterval | None) -> dict[str, Any]:
    if interval is None:
        return {"value": None, "ci_low": None, "ci_high": None, "interval": None}
    kind = None if interval.low is None else "items" if interval.items_only else "items + seeds"
    return {"value": interval.value, "ci_low": interval.low, "ci_high": interval.high, "interval": kind}


def _arm_columns(arm: Arm) -> dict[str, Any]:
    """Everything about an arm that needs no comparison with the others."""
    ok = arm.ok
    status, reason = _status(arm)
    memory, kind = _peak_memory(ok)
    requests = [record for record in ok if record.n_items > 0]
    answers = [(record.phases["answer"], record.n_items) for record in requests if "answer" in record.phases]
    return {
        "task": arm.task,
        "model": arm.model,
        "strategy": arm.strategy,
        "primary_metric": arm.primary_metric,
        **{name: _mean(record.metrics[name].value for record in ok if name in record.metrics) for name in SECONDARY},
        "setup_seconds": _setup(ok, "wall_seconds"),
        "setup_cpu_seconds": _setup(ok, "cpu_seconds"),
        "seconds_per_1000_requests": _mean(1000 * phase.wall_seconds / n for phase, n in answers),
        "cpu_seconds_per_1000_requests": _mean(1000 * phase.cpu_seconds / n for phase, n in answers),
        "prompt_tokens_per_1000_requests": _mean(1000 * record.tokens.prompt / record.n_items for record in requests),
        "completion_tokens_per_1000_requests": _mean(1000 * record.tokens.completion / record.n_items for record in requests),
        "peak_memory_bytes": memory,
        "peak_memory_kind": kind,
        "trainable_params": max((record.params.trainable for record in ok if record.params), default=None),
        "artifact_bytes": max((record.artifact_bytes for record in ok if record.artifact_bytes is not None), default=None),
        "n_items": max((record.n_items for record in ok), default=0),
        "n_seeds": len(ok),
        "deterministic": arm.deterministic,
        "n_trials": max((len(record.trials) for record in arm.records), default=0),
        "status": status,
        "reason": reason,
    }


def _status(arm: Arm) -> tuple[str, str | None]:
    """``partial`` where some seeds are ok and others are not: their mean may flatter the strategy."""
    bad = [record for record in arm.records if record.status != "ok"]
    if not bad:
        return "ok", None
    first = next((record for record in bad if record.status == "failed"), bad[0])
    reason = " ".join((first.error or "no reason recorded").split())
    if len(bad) < len(arm.records):
        return "partial", f"{len(bad)} of {len(arm.records)} seeds {first.status}: {reason}"
    return first.status, reason


def _setup(records: Sequence[Record], clock: str) -> float | None:
    """Seconds to set the strategy up once: tuning, with all trials of a search, and indexing.

    Of the cell that searched: its tune phase holds the trials, and the best of them is the model that it keeps. Where several
    searched, or none did, the mean over them.
    """
    searched = [r for r in records if r.trials] or list(records)
    return _mean(_clock(r.phases.get("tune"), clock) + _clock(r.phases.get("index"), clock) for r in searched)


def _clock(phase: Phase | None, clock: str) -> float:
    return float(getattr(phase, clock)) if phase else 0.0


def _peak_memory(records: Sequence[Record]) -> tuple[int | None, str | None]:
    phases = [record.phases[name] for record in records for name in SERVING if name in record.phases]
    gpu = [phase.peak_gpu_allocated_bytes for phase in phases if phase.peak_gpu_allocated_bytes is not None]
    rss = [phase.peak_rss_bytes for phase in phases if phase.peak_rss_bytes is not None]
    if gpu:
        return max(gpu), "gpu"
    return (max(rss), "rss") if rss else (None, None)


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return math.fsum(found) / len(found) if found else None


def _item_means(table: FloatArray) -> FloatArray:
    """Mean over seeds of each item's score, NaN where it is defined for none."""
    counts = np.isfinite(table).sum(axis=0)
    return np.where(counts > 0, np.nansum(table, axis=0) / np.maximum(counts, 1), np.nan)


def _places(ids: Sequence[str], wanted: Sequence[str]) -> NDArray[np.intp]:
    where = {name: place for place, name in enumerate(ids)}
    return np.array([where[name] for name in wanted], dtype=np.intp)


def _is_share(table: FloatArray) -> bool:
    """Whether all scores are in [0, 1], so that an interval is cut there."""
    known = table[np.isfinite(table)]
    return bool(((known >= 0) & (known <= 1)).all())
