"""Records by hand for the tests of costs: seconds are CPU seconds, and a CPU second costs one dollar."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.cost.assumptions import Assumptions
from bench.cost.prices import Prices
from bench.result.schema import Item, MetricValue, Phase, Record, Run, Tokens, Trial
from bench.result.store import RunFolder

ENTRY = {"source": "https://example.org", "as_of": "2026-01-01"}
PRICES = Prices.model_validate(
    {
        "devices": [
            {"name": "cpu", "unit": "core_hour", "price": 3600, **ENTRY},
            {"name": "L4", "unit": "device_hour", "price": 7200, **ENTRY},
        ],
        "models": [{"name": "hosted", "input": 1e6, "cached_input": 5e5, "output": 4e6, **ENTRY}],
        "storage": {"name": "disk", "price": 2**30, **ENTRY},
    }
)
"""Dollars: 1 a CPU second, 2 a second of the L4; 1 a token of input, 0.5 where it is cached, 4 of output; 1 a byte and month."""
ASSUMPTIONS = Assumptions(
    requests_per_month=100, horizon_months=10, refreshes_per_month=0.5, relabel_share=0, revalidate=True, utilisation=0.5,
    prefix_cached=True, label_usd_per_example=1, error_usd=0, abstention_weight=1, price_factor=2,
)  # fmt: skip


def phase(cpu: float, wall: float | None = None) -> Phase:
    return Phase(wall_seconds=cpu if wall is None else wall, cpu_seconds=cpu, flops=0.0)


def trial(cpu: float, **settings: Any) -> Trial:
    return Trial(settings=settings, validation_score=0.5, wall_seconds=cpu, cpu_seconds=cpu)


def choices(prompt: dict[str, Any] | None = None, retrieval: dict[str, Any] | None = None, tuning: dict[str, Any] | None = None) -> Any:
    """The config of a record: 20 training examples, 5 for validation."""
    strategy = {"prompt": prompt or {"shots": 0}, "retrieval": retrieval or {"search": "none"}, "tuning": tuning or {"method": "none"}}
    return {"strategy": strategy, "n_train": 20, "budget": {"train_examples": 20, "trials": 3, "validation_examples": 5}, "batch_rows": 8}


def items(right: int, n: int = 10, missed: int = 0, latencies: Sequence[float] | None = None, tokens: Tokens | None = None) -> list[Item]:
    """``right`` right answers, then ``missed`` missed ones, the others wrong; each item a cluster of its own."""
    outcomes = ["correct"] * right + ["abstained"] * missed + ["incorrect"] * (n - right - missed)
    return [
        Item(
            id=f"q{i}", cluster=f"c{i}", input_hash=f"in{i}", prompt_hash="p", prediction="x", targets=["y"], answerable=True,
            outcome=outcome, scores={"exact_match": float(outcome == "correct")}, tokens=tokens or Tokens(prompt=10, completion=1),
            latency_seconds=latencies[i] if latencies else 0.1,
        )
        for i, outcome in enumerate(outcomes)
    ]  # fmt: skip


def add(run: RunFolder, strategy: str, answers: list[Item], phases: dict[str, Phase], config: Any, seed: int = 0, **changes: Any) -> None:
    mean = sum(item.scores["exact_match"] for item in answers) / len(answers)
    values: dict[str, Any] = {
        "cell_id": f"{strategy}-{seed}", "task": "support", "model": "embedded", "strategy": strategy, "seed": seed, "status": "ok",
        "primary_metric": "exact_match", "metrics": {"exact_match": MetricValue(value=mean, n_scored=len(answers))},
        "n_items": len(answers), "phases": phases, "config": config, "artifact_bytes": 0,
        "tokens": Tokens(
            prompt=sum(i.tokens.prompt for i in answers), prompt_cached=sum(i.tokens.prompt_cached for i in answers),
            completion=sum(i.tokens.completion for i in answers),
        ),
    }  # fmt: skip
    record = Record(**{**values, **changes})
    if record.status == "ok":
        with run.item_writer("support", strategy, seed, record.cell_id) as writer:
            for item in answers:
                writer.append(item)
            writer.finish()
    run.write_record(record)


def new_run(folder: Path, strategies: Sequence[str]) -> RunFolder:
    run = RunFolder(folder / "run").create()
    suite = {"tasks": ["support"], "strategies": list(strategies)}
    run.write_run(Run(name="run", suite=suite, environment={}, started="2026-01-01T00:00:00Z", status="ok"))
    return run


def rag_and_lora(folder: Path) -> RunFolder:
    """The two strategies whose costs ``test_total`` computes by hand."""
    run = new_run(folder, ["rag", "lora"])
    phases = {"index": phase(3), "validate": phase(10), "answer": phase(10)}
    trials = [trial(6, **{"retrieval.top_k": 3}), trial(4, **{"retrieval.top_k": 1})]
    config = choices(retrieval={"search": "dense", "top_k": 1})
    add(run, "rag", items(8), phases, config, deterministic=True, artifact_bytes=1, trials=trials)
    config = choices(tuning={"method": "lora", "learning_rate": 0.01, "train_on": ["examples"]})
    trials = [trial(20, **{"tuning.learning_rate": 0.01}), trial(38, **{"tuning.learning_rate": 0.1})]
    phases = {"index": phase(7), "prepare": phase(1), "tune": phase(50), "validate": phase(9), "answer": phase(5)}
    add(run, "lora", items(5), phases, config, artifact_bytes=4, trials=trials)
    phases = {"index": phase(7), "prepare": phase(2), "tune": phase(25), "validate": phase(3), "answer": phase(5)}
    add(run, "lora", items(5), phases, config, seed=1, artifact_bytes=4)
    return run
