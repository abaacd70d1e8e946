"""A small run on disk, made of synthetic records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from result_samples import GIB, TRIALS, add, make_phase, make_record, scored

from bench.result.schema import Parameters, Run
from bench.result.store import RunFolder


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[[str], RunFolder]:
    """Makes an empty run folder."""

    def make(name: str = "run") -> RunFolder:
        run = RunFolder(tmp_path / name).create()
        suite = {"tasks": ["support", "triage"], "strategies": ["majority", "zero-shot", "rag", "rag-oracle", "lora", "full"]}
        run.write_run(Run(name=name, suite=suite, environment={}, started="2025-01-01T00:00:00Z", status="ok"))
        return run

    return make


@pytest.fixture
def run(new_run: Callable[[str], RunFolder]) -> RunFolder:
    """Deterministic, three-seed, oracle, failed and skipped strategies of one task."""
    run = new_run("run")
    items = scored(0.2)
    add(run, make_record("support", "zero-shot", 0, items, deterministic=True), items)
    items = scored(0.6)
    phases = {"load": make_phase(5.0), "index": make_phase(3.0), "answer": make_phase(2.4, peak_rss_bytes=3 * GIB)}
    add(run, make_record("support", "rag", 0, items, deterministic=True, phases=phases, artifact_bytes=91_000), items)
    items = scored(0.95)
    add(run, make_record("support", "rag-oracle", 0, items, deterministic=True), items)
    for seed in range(3):
        items = scored(0.58, seed)
        tune = make_phase(42.0 if seed == 0 else 12.0 + seed)
        changes = {"phases": {"load": make_phase(5.0), "tune": tune, "answer": make_phase(1.2)}, "trials": TRIALS if seed == 0 else []}
        params = Parameters(total=2_649_152, trainable=49_152)
        add(run, make_record("support", "lora", seed, items, params=params, artifact_bytes=196_608, **changes), items)
    run.write_record(make_record("support", "full", 0, [], status="failed", error="OutOfMemoryError: tried to allocate 9 | GiB"))
    run.write_record(make_record("support", "majority", 0, [], status="skipped", error="no labels in a qa task"))
    return run
