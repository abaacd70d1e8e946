"""How cost grows: CPU seconds and peak memory against items, shots, passages and cells, and the figure of it."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import material
from benchmarks.measure import Usage
from benchmarks.workload import Sizes, direct, run_suite, write_suite

LINEAR = 1.1
"""The highest slope on logarithmic axes that counts as linear."""

Values = dict[str, float]
TIME, MEMORY = "CPU seconds", "peak GiB"


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Least squares of the logarithms over the upper half of the sizes, two at least: 1 is linear, 0 constant."""
    points = [(math.log(max(x, 1)), math.log(y)) for x, y in zip(sizes, values, strict=True)][-max(2, math.ceil(len(sizes) / 2)) :]
    mean_x, mean_y = (sum(p[axis] for p in points) / len(points) for axis in (0, 1))
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)


def _values(used: Usage) -> Values:
    return {TIME: used.cpu_seconds, MEMORY: used.peak_bytes / 2**30}


def _write_task(folder: Path, items: int, train: int) -> Path:
    rows = {
        split: material.choice_rows(n, split, words, (3, 6))
        for split, n, words in (("train", train, (6, 7)), ("validation", 4, (15, 20)), ("test", items, (15, 20)))
    }
    settings = {"kind": "qa", "instruction": "Answer.", "input": "{{ question }}", "target": "answer", "metrics": ["exact_match"]}
    return material.write_task(folder, settings | {"max_new_tokens": 4}, rows)


def _run(place: Path, weights: Path, task: Path, strategies: dict[str, dict[str, Any]]) -> Values:
    return _values(run_suite(write_suite(place / "suite" / "suite.yaml", weights, [task], strategies), place)[0])


def _ask(place: Path, weights: Path, items: int, shots: int) -> Values:
    return _run(place, weights, _write_task(place / "task", items, 100), {"prompting": {"prompt": {"shots": shots}}})


def _schedule(place: Path, weights: Path, cells: int) -> Values:
    floors: dict[str, dict[str, Any]] = {f"majority-{i}": {"prompt": {"constant": "majority"}} for i in range(cells)}
    return _run(place, weights, _write_task(place / "task", 1, 4), floors)


def _search(place: Path, passages: int) -> Values:
    used, found = direct("corpus", place, passages=passages, stores=place / "stores")
    shutil.rmtree(place / "stores")  # gigabytes
    return {"index, CPU seconds": found["index_cpu_seconds"], "search, CPU seconds": found["search_cpu_seconds"], **_values(used)}


@dataclass(frozen=True)
class Curve:
    """What is measured at which sizes; `once` measures one of them in a folder of its own."""

    name: str
    title: str
    axis: str
    sizes: tuple[int, ...]
    once: Callable[[Path, int], Values]

    def measure(self, work: Path) -> dict[str, Any]:
        """Measure each size once: the curve's entry in ``results.json``."""
        points: list[dict[str, Any]] = []
        for size in self.sizes:
            place = work / "runs" / self.name / str(size)
            shutil.rmtree(place, ignore_errors=True)
            points.append({"size": size, "values": self.once(place, size)})
        slopes = {n: slope(self.sizes, [p["values"][n] for p in points]) for n in points[0]["values"]}
        return {"name": self.name, "title": self.title, "axis": self.axis, "points": points, "slopes": slopes}


def growth(work: Path, sizes: Sizes) -> list[Curve]:
    base, large = work / "models" / "base", work / "models" / "llama30m"
    small = sizes == Sizes.quick()
    return [
        Curve(
            "growth-items", "Zero-shot answers of up to 4 tokens, embedded base", "items",
            (100, 200) if small else (100, 300, 1_000, 3_000, 10_000), lambda place, n: _ask(place, base, n, 0),
        ),
        Curve(
            "growth-shots", "Worked examples in the prompt, 50 items, 30 M parameters", "shots",
            (0, 2) if small else (0, 1, 2, 4, 8, 16, 32, 64), lambda place, n: _ask(place, large, 50, n),
        ),
        Curve(
            "growth-passages", "A flat index of generated vectors (384 dimensions), top-5 search of 100 queries", "passages",
            (1_000, 2_000) if small else (1_000, 10_000, 100_000, 300_000, 1_000_000), _search,
        ),
        Curve(
            "growth-cells", "Scheduling: cells with nothing to compute", "cells",
            (5, 10) if small else (10, 30, 100, 300, 1_000), lambda place, n: _schedule(place, base, n),
        ),
    ]  # fmt: skip


def draw(curves: Sequence[dict[str, Any]], path: Path) -> None:
    """One panel a curve, seconds and memory against size, each on logarithmic axes; the same data give the same file."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "growth", "svg.fonttype": "none", "font.size": 9}
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(curves), figsize=(3.4 * len(curves), 3.2), squeeze=False, layout="constrained")
    for panel, curve in zip(panels[0], curves, strict=True):
        # A size of 0 has no place on a logarithmic axis.
        points = [p for p in curve["points"] if p["size"] > 0]
        for name in points[0]["values"]:
            panel.plot([p["size"] for p in points], [p["values"][name] for p in points], marker="o", markersize=3, label=name)
        panel.set(xscale="log", yscale="log", xlabel=curve["axis"], title=curve["axis"])
        panel.legend(fontsize=7)
        panel.grid(alpha=0.3)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
