"""A suite at several numbers of training examples; what one size does is tested where a suite is run."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench.errors import BenchError
from bench.result.store import RunFolder
from bench.run import suite_run
from bench.run.executor import Outcome
from bench.suite import Budget, Suite, find_task
from bench.task.load import load_task

SUITE = Suite(tasks=["product_support", "review_feedback"], strategies=["zero-shot"], budget=Budget(trials=2))


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Budget]]:
    """The names and budgets with which the suite was run."""
    found: list[tuple[str, Budget]] = []

    def run_suite(suite: Suite, results: Path, name: str, *rest: Any) -> tuple[RunFolder, Outcome]:
        found.append((name, suite.budget))
        return RunFolder(results / name), Outcome(ok=3, skipped=1, reused=2)

    monkeypatch.setattr(suite_run, "run_suite", run_suite)
    return found


def run(sizes: list[int]) -> tuple[list[RunFolder], Outcome]:
    return suite_run.run_train_sizes(SUITE, sizes, Path("results"), "mine", 1, 1, False, Console(file=io.StringIO()))


def test_one_run_of_each_size_that_differs_in_nothing_else(ran: list[tuple[str, Budget]]) -> None:
    folders, outcome = run([50, 10, 25])
    assert [folder.path for folder in folders] == [Path("results") / f"mine-n{n}" for n in (10, 25, 50)]
    assert ran == [(f"mine-n{n}", Budget(trials=2, train_examples=n)) for n in (10, 25, 50)]
    assert (outcome.ok, outcome.skipped, outcome.reused, outcome.total) == (9, 3, 6, 12)


@pytest.mark.parametrize("sizes", [[], [10], [10, 10], [0, 10]])
def test_sizes_that_make_no_curve(ran: list[tuple[str, Budget]], sizes: list[int]) -> None:
    with pytest.raises(BenchError, match="expected two or more different numbers"):
        run(sizes)
    assert ran == []


def test_more_than_a_task_has_is_an_error_before_anything_runs(ran: list[tuple[str, Budget]]) -> None:
    with pytest.raises(BenchError, match="found 100; task review_feedback has 60 training examples, expected no more"):
        run([10, 100])
    assert ran == []


def test_the_examples_of_the_shipped_tasks_are_nested() -> None:
    for name in SUITE.tasks:
        subsets = [{e.id for e in load_task(find_task(name), train_examples=n).train} for n in (10, 25, 50)]
        assert [len(subset) for subset in subsets] == [10, 25, 50]
        assert subsets[0] < subsets[1] < subsets[2]
