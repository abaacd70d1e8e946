"""Workloads of the command line itself: how soon the work begins, and commands that have none to do."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import material
from benchmarks.workload import OURS, ROOT, Goal, Reading, Sizes, Workload, run, run_suite, write_suite

TASKS = ("product_support", "ticket_triage", "abstract_summary", "review_feedback")
COPIES = 18
"""Times four tasks: 72 cells, as many as the default suite has."""


def imports(names: str) -> Callable[[Path], Reading]:
    """A Python that imports some packages and ends."""
    return lambda place: Reading(run([OURS / "python", "-c", f"import {names}"], place))


def startup(work: Path, sizes: Sizes) -> list[Workload]:
    folder = work / "startup"
    results, suite = folder / "results", folder / "done" / "suite.yaml"
    again: list[str | Path] = [OURS / "bench", "run", suite, "--results", results, "--name", "done", "--workers", "1"]

    def small_task() -> None:
        rows = {s: material.choice_rows(8, s, (15, 20), (3, 6)) for s in ("train", "validation", "test")}
        settings = {"kind": "qa", "instruction": "Answer.", "input": "{{ question }}", "target": "answer", "metrics": ["exact_match"]}
        material.write_task(folder / "small", settings | {"max_new_tokens": 4}, rows)
        write_suite(folder / "start" / "suite.yaml", work / "models" / "base", [folder / "small"], {"zero-shot": {}})

    def finish_cells() -> None:
        floors: dict[str, dict[str, Any]] = {f"majority-{i}": {"prompt": {"constant": "majority"}} for i in range(COPIES)}
        write_suite(suite, work / "models" / "base", [ROOT / "tasks" / name for name in TASKS], floors)
        run(again, folder)

    def first_work(place: Path) -> Reading:
        """Wall seconds until the first cell's work begins, which is when its folder is made."""
        used, ran = run_suite(folder / "start" / "suite.yaml", place)
        cell = ran.cell_folder("small", "zero-shot", 0)
        born = subprocess.run(["stat", "-c", "%.W", cell], capture_output=True, text=True, check=True)  # noqa: S607
        return Reading(replace(used, wall_seconds=float(born.stdout) - used.started))

    def command(arguments: Sequence[str | Path]) -> Callable[[Path], Reading]:
        return lambda place: Reading(run([OURS / "bench", *arguments], place))

    def nothing(mine: Reading, peers: Reading) -> str:
        return ""

    heavy, light = Goal("times", 2), Goal("times", 1.5)
    libraries, pandas = "python -c 'import torch, transformers'", "python -c 'import pandas'"
    return [
        Workload(
            "start", "bench run until the first cell's work", libraries, small_task, first_work, imports("torch, transformers"), nothing,
            heavy, clock="wall", repeats=5,
        ),
        Workload("help", "bench --help", pandas, lambda: None, command(["--help"]), imports("pandas"), nothing, light, repeats=5),
        Workload(
            "table", f"bench table of {COPIES * len(TASKS)} cells", pandas, finish_cells, command(["table", results / "done"]),
            imports("pandas"), nothing, light, repeats=5,
        ),
        Workload(
            "done", f"bench run with {COPIES * len(TASKS)} cells already done", "", finish_cells, lambda place: Reading(run(again, place)),
            None, nothing, Goal("seconds", 3), clock="wall", repeats=5,
        ),
    ]  # fmt: skip
