"""What the probes of a run measured, one row per (task, strategy, probe, value), from records alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import BenchError, did_you_mean
from bench.result.arms import Arm, load_arms
from bench.result.schema import MetricValue
from bench.result.statistics import Interval, add_seed_variance
from bench.result.text import as_csv, as_json, check_format

COLUMNS = ("task", "model", "strategy", "probe", "value_name", "value", "ci_low", "ci_high", "n_scored", "n_seeds", "reason")


def probe_rows(runs: Sequence[Path], probe: str | None = None) -> list[dict[str, Any]]:
    """The values as means over seeds, with 95 % intervals over items and, with several seeds, seeds.

    The interval over items is the mean of the seeds' own; what their values vary beyond that is added as seed variance, of one
    strategy alone, so that few seeds make it wide. A probe without meaning for a strategy, or that failed, is one row with the reason.
    Raises BenchError for a run that cannot be read, and where no cell has a probe (of this name).
    """
    arms = load_arms(runs)
    there = sorted({name for arm in arms for record in arm.ok for name in record.probes})
    where = ", ".join(map(str, runs))
    if not there:
        raise BenchError(f"{where}: no cell has a probe; run one with: bench run --probe NAME")
    if probe is not None and probe not in there:
        raise BenchError(f'{where}: no cell has the probe "{probe}"; {did_you_mean(probe, there)}')
    return [row for arm in arms for row in _rows_of(arm, probe)]


def _rows_of(arm: Arm, wanted: str | None) -> Iterable[dict[str, Any]]:
    names = list(dict.fromkeys(name for record in arm.ok for name in record.probes))
    head = {"task": arm.task, "model": arm.model, "strategy": arm.strategy}
    for name in names if wanted is None else [n for n in names if n == wanted]:
        results = [r.probes[name] for r in arm.ok if name in r.probes]
        keys = list(dict.fromkeys(key for result in results for key in result.values))
        reason = next((f"failed: {r.error}" for r in results if r.error), next((r.reason for r in results if r.reason), None))
        if reason or not keys:
            yield {**head, "probe": name, "reason": reason or "nothing was measured"}
        for key in keys:
            values = [r.values[key] for r in results if key in r.values]
            value, low, high = pooled_value(values)
            yield {
                **head, "probe": name, "value_name": key, "value": value, "ci_low": low, "ci_high": high,
                "n_scored": values[0].n_scored, "n_seeds": len(values),
            }  # fmt: skip


def pooled_value(values: Sequence[MetricValue]) -> Interval:
    found = np.array([v.value for v in values])
    lows, highs = [v.ci_low for v in values], [v.ci_high for v in values]
    mean = float(found.mean())
    known = [(low, high) for low, high in zip(lows, highs, strict=True) if low is not None and high is not None]
    if len(known) < len(values):
        return Interval(mean, None, None)
    low, high = (float(np.mean(bounds)) for bounds in zip(*known, strict=True))
    over_items = Interval(mean, min(low, mean), max(high, mean))
    if len(values) < 2:
        return over_items
    of_items = ((high - low) / 2 / 1.96) ** 2
    excess = max(0.0, float(found.var(ddof=1)) - of_items)
    if not excess:
        return over_items
    # The number of clusters is not in a record; that of items is at least as large.
    widened = add_seed_variance(over_items, excess / len(values), len(values) - 1, max(1, values[0].n_scored - 1))
    if all(0 <= a <= b <= 1 for a, b in known) and widened.low is not None and widened.high is not None:
        return Interval(mean, max(0.0, widened.low), min(1.0, widened.high))
    return widened


def render_probes(rows: Sequence[dict[str, Any]], format: str) -> str:
    """md, csv or json. Raises BenchError for another format."""
    check_format(format, ("md", "csv", "json"))
    if format == "json":
        return as_json([{c: row.get(c) for c in COLUMNS} for row in rows])
    if format == "csv":
        return as_csv(rows, COLUMNS)
    lines = []
    for task in dict.fromkeys(row["task"] for row in rows):
        for name in dict.fromkeys(row["probe"] for row in rows if row["task"] == task):
            lines += _markdown(task, name, [r for r in rows if (r["task"], r["probe"]) == (task, name)])
    return "\n".join(lines)


def _markdown(task: str, probe: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    """One table per task and probe: values down, strategies across; strategies without values are named below with their reason."""
    strategies = list(dict.fromkeys(r["strategy"] for r in rows if r.get("value_name")))
    values = list(dict.fromkeys(r["value_name"] for r in rows if r.get("value_name")))
    lines = [f"## {task}: {probe}", ""]
    if strategies:
        cells = {(r["value_name"], r["strategy"]): _cell(r) for r in rows if r.get("value_name")}
        lines += [f"| value | {' | '.join(strategies)} |", "| --- |" + " --- |" * len(strategies)]
        lines += [f"| {v} | {' | '.join(cells.get((v, s), '–') for s in strategies)} |" for v in values]
        lines.append("")
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.get("reason"):
            reasons.setdefault(row["reason"], []).append(row["strategy"])
    return [*lines, *(f"{', '.join(names)}: {reason}." for reason, names in reasons.items()), ""] if reasons else lines


def _cell(row: dict[str, Any]) -> str:
    def shown(x: float) -> str:
        x = 0.0 if abs(x) < 1e-9 else x  # what rounding leaves of a sum
        seconds = row["value_name"].endswith("_seconds")  # from milliseconds to hours
        return f"{x:.3g}" if seconds or abs(x) >= 100 or (x and abs(x) < 0.001) else f"{x:.3f}"

    if row["ci_low"] is None or math.isclose(row["ci_low"], row["ci_high"]):
        return shown(row["value"])
    return f"{shown(row['value'])} [{shown(row['ci_low'])}, {shown(row['ci_high'])}]"
