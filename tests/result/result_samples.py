"""Synthetic records and items for the tests of this folder."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.result.schema import Item, MetricValue, Parameters, Phase, Record, Status, Tokens, Trial
from bench.result.store import RunFolder

N_ITEMS = 120
GIB = 1 << 30


def make_item(i: int, score: float = 1.0, **changes: Any) -> Item:
    values: dict[str, Any] = {
        "id": f"q{i}",
        "cluster": f"product{i // 2}",
        "slices": {"facts": "seen" if i % 4 < 2 else "corpus"},
        "input_hash": f"in{i}",
        "prompt_hash": f"p{i}",
        "prediction": "blue" if score else "red",
        "targets": ["blue"],
        "answerable": True,
        "outcome": "correct" if score else "incorrect",
        "scores": {"exact_match": score, "f1": score},
        "tokens": Tokens(prompt=100, completion=2),
        "latency_seconds": 0.01,
    }
    return Item(**{**values, **changes})


def make_phase(wall: float, **changes: Any) -> Phase:
    return Phase(**{"wall_seconds": wall, "cpu_seconds": 2 * wall, "flops": 1e9, "peak_rss_bytes": GIB, **changes})


def make_record(task: str, strategy: str, seed: int, items: list[Item], status: Status = "ok", **changes: Any) -> Record:
    metric = changes.get("primary_metric", "exact_match")
    values: dict[str, Any] = {
        "cell_id": f"{task}-{strategy}-{seed}",
        "task": task,
        "model": "embedded",
        "strategy": strategy,
        "seed": seed,
        "status": status,
        "primary_metric": metric,
    }
    if status == "ok":
        mean = float(np.mean([item.scores[metric] for item in items])) if metric in items[0].scores else 0.5
        wrong = sum(item.outcome == "incorrect" for item in items) / len(items)
        values |= {
            "n_items": len(items),
            "metrics": {
                metric: MetricValue(value=mean, ci_low=mean - 0.1, ci_high=mean + 0.1, n_scored=len(items)),
                "hallucination_rate": MetricValue(value=wrong, n_scored=len(items)),
                "abstention_rate": MetricValue(value=0.0, n_scored=len(items)),
            },
            "phases": {"load": make_phase(5.0), "answer": make_phase(0.012 * len(items))},
            "tokens": Tokens(prompt=100 * len(items), completion=2 * len(items)),
            "params": Parameters(total=2_600_000, trainable=0),
            "artifact_bytes": 0,
        }
    return Record(**{**values, **changes})


def add(run: RunFolder, record: Record, items: list[Item]) -> None:
    if record.status == "ok":
        with run.item_writer(record.task, record.strategy, record.seed, record.cell_id) as writer:
            for item in items:
                writer.append(item)
            writer.finish()
    run.write_record(record)


def scored(rate: float, seed: int = 0, n: int = N_ITEMS) -> list[Item]:
    """Items of which a share is right; the same ones are the easier ones in every strategy."""
    difficulty = np.random.default_rng(7).random(n)
    noise = 0.15 * np.random.default_rng([seed, int(1000 * rate)]).standard_normal(n)
    return [make_item(i, float(difficulty[i] + noise[i] < rate)) for i in range(n)]


TRIALS = [Trial(settings={"r": r}, validation_score=0.5, wall_seconds=10.0, cpu_seconds=20.0) for r in (4, 8, 16)]
