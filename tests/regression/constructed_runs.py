"""Runs whose truth is known, as sides of a comparison: scores, answers and costs are set, nothing is run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from result.result_samples import make_item, make_record

from bench.regression.baseline import Side
from bench.result.arms import Arm
from bench.result.schema import Fingerprints, Parameters, Phase, Record, Run, ScoredItem, Tokens
from bench.result.store import RunFolder

MACHINE = {
    "bench": "0.1.0", "python": "3.11.7", "packages": {"torch": "2.13.0", "peft": "0.21.2"}, "cpu": "one of its kind", "threads": 1,
    "project_commit": "a" * 40, "project_dirty": False,
}  # fmt: skip
METRIC = "exact_match"


def items_of(
    right: Sequence[float] | NDArray[Any], *, per_cluster: int = 1, margin: float | None = 1.0, tokens: int = 2, prompts: str = "p",
    wrong: str = "red",
) -> dict[str, ScoredItem]:  # fmt: skip
    """Items scored `right` (n,): 1 answers "blue", which is the gold, 0 answers `wrong`."""
    return {
        f"q{i}": ScoredItem(
            id=f"q{i}", cluster=f"c{i // per_cluster}", input_hash=f"in{i}", prediction="blue" if score else wrong, targets=["blue"],
            scores={METRIC: float(score), "hallucination_rate": 1.0 - float(score)}, outcome="correct" if score else "incorrect",
            logit_margin=margin, prompt_hash=f"{prompts}{i}", tokens=Tokens(completion=tokens),
        )
        for i, score in enumerate(right)
    }  # fmt: skip


def record_of(task: str, strategy: str, seed: int, items: dict[str, ScoredItem], **changes: Any) -> Record:
    """A finished cell of those items. `method`: tuning method, `phase`: over the answer phase."""
    method = changes.pop("method", "none")
    phase = {"wall_seconds": 1.0, "cpu_seconds": 1.0, "flops": 1e9, "peak_rss_bytes": 500_000_000} | changes.pop("phase", {})
    values: dict[str, Any] = {
        "cell_id": f"{task}/{strategy}/{seed}", "task": task, "model": "embedded", "strategy": strategy, "seed": seed, "status": "ok",
        "deterministic": True, "primary_metric": METRIC, "n_items": len(items), "environment": MACHINE,
        "config": {"strategy": {"prompt": {"shots": 0}, "tuning": {"method": method}}, "dtype": "float32"},
        "tokens": Tokens(prompt=30 * len(items), completion=sum(item.tokens.completion for item in items.values())),
        "phases": {"answer": Phase(**phase)}, "params": Parameters(total=1000, trainable=0), "artifact_bytes": 10,
        "fingerprints": Fingerprints(task="t", model="m", tokenizer="k", strategy=strategy, scoring="2"),
    }  # fmt: skip
    return Record(**{**values, **changes})


def arm_of(strategy: str, by_seed: Sequence[Any], task: str = "questions", *, items: dict[str, Any] | None = None, **changes: Any) -> Arm:
    """One strategy from the scores (n,) of each seed, from 0 on; several seeds make it one that depends on them."""
    made = [items_of(right, **(items or {})) for right in by_seed]
    changes = {"deterministic": len(by_seed) == 1} | changes
    return Arm(task, "embedded", strategy, tuple(record_of(task, strategy, s, of, **changes) for s, of in enumerate(made)), tuple(made))


def side_of(*arms: Arm, **environment: Any) -> Side:
    run = Run(name="made", suite={}, environment=MACHINE | environment, started="2026-01-01T00:00:00+00:00", status="ok")
    return Side(run, arms)


def scores(n: int, share: float, seed: int = 0) -> NDArray[np.float64]:
    """n scores of 0 or 1, `share` of them 1, in an order drawn from `seed`."""
    right = np.zeros(n)
    right[: round(n * share)] = 1
    return np.asarray(np.random.default_rng(seed).permutation(right))


def flipped(right: NDArray[np.float64], share: float, generator: np.random.Generator) -> NDArray[np.float64]:
    """With `share` of the items turned round: as many lost as won, where both are at least so many."""
    k = round(share * len(right) / 2)
    now = right.copy()
    for value in (0.0, 1.0):
        now[generator.choice(np.flatnonzero(right == value), k, replace=False)] = 1 - value
    return now


def worse(right: NDArray[np.float64], share: float, seed: int = 1) -> NDArray[np.float64]:
    """With `share` of all items lost, drawn from those that were right."""
    now = right.copy()
    lost = np.random.default_rng(seed).choice(np.flatnonzero(right == 1), round(share * len(right)), replace=False)
    now[lost] = 0
    return now


PROJECT = {"bench": "0.1.0", "python": "3.11.7", "project_commit": "c" * 40, "project_dirty": False}


def write_run(
    path: Path, right: int = 30, *, status: Literal["ok", "failed"] = "ok", seeds: int = 1, environment: dict[str, object] | None = None
) -> Path:
    """A run's folder with rag and lora on 40 items in 20 clusters, `right` of them right; the odd ones answered by a lead of .05 nats."""
    folder = RunFolder(path).create()
    there = PROJECT | (environment or {})
    suite = {"tasks": ["support"], "strategies": ["rag", "lora"]}
    folder.write_run(Run(name=path.name, suite=suite, environment=there, started="2026-01-01", status=status))
    for strategy in ("rag", "lora"):
        for seed in range(seeds):
            items = [make_item(i, 1.0 if i < right else 0.0, logit_margin=0.05 if i % 2 else 3.0) for i in range(40)]
            with folder.item_writer("support", strategy, seed, "c") as writer:
                for item in items:
                    writer.append(item)
                writer.finish()
            folder.write_record(make_record("support", strategy, seed, items, environment=there))
    return path
