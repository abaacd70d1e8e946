"""A check for other programs: JSON lines, github-action-benchmark and Bencher."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Literal

from bench.metric.registry import higher_is_better
from bench.regression.fingerprint import environment_hash
from bench.regression.model import Check, Gate
from bench.regression.wording import change_text, one_line, sample_text
from bench.result.text import as_json

UNITS = {"_tokens": "tokens", "_flops": "FLOPs", "_params": "parameters", "_bytes": "bytes", "_seconds": "seconds"}


def results_jsonl(check: Check) -> str:
    """One row per gate of each comparison, with all of its numbers; flips are counted. What is undefined is null."""
    of_run = {"suite": check.suite, "run": check.run, "commit": check.commit, "dirty": check.dirty, "when": check.when}
    rows = []
    for comparison in check.comparisons:
        by = comparison.acceptance
        baseline = {
            "baseline": comparison.name,
            "baseline_run": by and by.run,
            "baseline_commit": by and by.commit,
            "relative": comparison.relative,
            "trusted": not comparison.untrusted,
            "fingerprint": environment_hash(check.environment),
        }
        for gate in comparison.gates:
            values = {key: _finite(value) for key, value in asdict(gate).items() if key != "flips"}
            rows.append(of_run | baseline | values | {"n_flips": len(gate.flips), "n_excused": gate.n_excused})
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)


def benchmark_json(check: Check) -> dict[Literal["smaller", "bigger"], str]:
    """What was measured now as ``customSmallerIsBetter`` and ``customBiggerIsBetter`` of github-action-benchmark: a list of objects with
    name, unit, value and, optional, range and extra (its README and ``BenchmarkResult`` in src/extract.ts)."""
    found: dict[Literal["smaller", "bigger"], list[dict[str, Any]]] = {"smaller": [], "bigger": []}
    for gate in _measured(check):
        name = one_line(f"{gate.task} / {gate.strategy}: {gate.measure}")
        entry: dict[str, Any] = {"name": name, "unit": _unit(gate), "value": gate.after}
        if bounds := _bounds(gate):
            entry["range"] = f"± {(bounds[1] - bounds[0]) / 2:.3g}"
        entry["extra"] = one_line(f"{gate.verdict}; change: {change_text(gate)}; {sample_text(gate)}")
        found["bigger" if gate.kind == "quality" and higher_is_better(gate.measure) is not False else "smaller"].append(entry)
    return {side: as_json(entries) for side, entries in found.items()}


def bencher_json(check: Check) -> str:
    """What was measured now in Bencher Metric Format: benchmark -> measure -> {value, lower_value, upper_value}
    (bencher.dev/docs/reference/bencher-metric-format). The bounds are of the value, were the baseline's one exact."""
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for gate in _measured(check):
        metric = {"value": gate.after}
        if bounds := _bounds(gate):
            metric |= {"lower_value": bounds[0], "upper_value": bounds[1]}
        found.setdefault(one_line(f"{gate.task}/{gate.strategy}", 1024), {})[one_line(gate.measure, 64)] = metric
    return as_json(found)


def _measured(check: Check) -> Iterator[Gate]:
    """Each measure once: every comparison has the same value of now."""
    seen = set()
    for gate in check.gates:
        key = gate.task, gate.strategy, gate.measure
        if gate.kind not in ("status", "prompts") and _finite(gate.after) is not None and key not in seen:
            seen.add(key)
            yield gate


def _bounds(gate: Gate) -> tuple[float, float] | None:
    """The bounds of the change as bounds of the value; None where there are none."""
    if gate.before is None or gate.low is None or gate.high is None:
        return None
    if gate.kind != "quality":
        return gate.before * (1 + gate.low), gate.before * (1 + gate.high)
    if higher_is_better(gate.measure) is False:
        return gate.before - gate.high, gate.before - gate.low
    return gate.before + gate.low, gate.before + gate.high


def _unit(gate: Gate) -> str:
    return "score" if gate.kind == "quality" else next((u for end, u in UNITS.items() if gate.measure.endswith(end)), "count")


def _finite(value: Any) -> Any:
    """JSON knows no infinity: growth from nothing is null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
