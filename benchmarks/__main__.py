"""Run the benchmarks and write ``results.json``, ``results.md`` and ``growth.svg``: ``python -m benchmarks --help``."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import material, report
from benchmarks.answering import answering, together
from benchmarks.growth import draw, growth
from benchmarks.retrieval import retrieval
from benchmarks.startup import startup
from benchmarks.tuning import tuning
from benchmarks.workload import OURS, ROOT, Reading, Sizes, Workload


def compare(workload: Workload, work: Path, repeats: int) -> dict[str, Any]:
    """Run both sides in turn, `repeats` times each: the workload's entry in ``results.json``."""
    workload.prepare()
    readings: dict[str, list[Reading]] = {"ours": [], "peer": []}
    agreement = []
    for i in range(repeats):
        for side, once in (("ours", workload.ours), ("peer", workload.theirs)):
            if once:
                folder = work / "runs" / workload.name / f"{side}-{i}"
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                readings[side].append(once(folder))
        if workload.theirs:
            agreement.append(workload.check(readings["ours"][-1], readings["peer"][-1]))
    return {
        "name": workload.name, "title": workload.title, "peer_name": workload.peer, "clock": workload.clock, "agreement": agreement,
        "goals": {"phase": asdict(workload.phase) if workload.phase else None, "whole": asdict(workload.whole) if workload.whole else None},
        **{side: [asdict(r.whole) | {"phase_seconds": r.phase_seconds} for r in found] for side, found in readings.items()},
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="names or their beginnings (--list); results of others stay")
    parser.add_argument("--list", action="store_true", help="list the workloads and stop")
    parser.add_argument("--quick", action="store_true", help="few items, one repeat: whether everything runs, not how fast")
    parser.add_argument("--repeats", type=int, help="runs of each side (3, of short ones 5, of long ones 2; with --quick 1)")
    parser.add_argument("--work", type=Path, default=ROOT / ".benchmarks", help="folder for what is generated")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks", help="folder for results.md, results.json, growth.svg")
    given = parser.parse_args()
    sizes = Sizes.quick() if given.quick else Sizes()
    work = (given.work / "quick" if given.quick else given.work).resolve()
    workloads = [*answering(work, sizes), together(work, sizes), *tuning(work, sizes), retrieval(work, sizes), *startup(work, sizes)]
    curves = growth(work, sizes)
    begins = tuple(given.only or ("",))
    if given.list:
        print("\n".join(f"{w.name:<26} {w.title}; {w.peer or 'no peer'}" for w in workloads))
        print("\n".join(f"{c.name:<26} {c.title}" for c in curves))
        return 0
    chosen = [w for w in workloads if w.name.startswith(begins)]
    chosen_curves = [c for c in curves if c.name.startswith(begins)]
    if not chosen and not chosen_curves:
        print(f"error: no workload begins with {' or '.join(begins)}; see python -m benchmarks --list", file=sys.stderr)
        return 2
    os.environ["HF_HOME"] = str(work / "huggingface")  # the peers' caches: filled while prompts are checked, so none is timed
    material.make_models(work / "models")
    command = " ".join(["python -m benchmarks", *sys.argv[1:]])
    results: dict[str, Any] = {"header": report.header(OURS / "python", command), "workloads": [], "failed": {}, "growth": []}
    given.output.mkdir(parents=True, exist_ok=True)
    if given.only and (given.output / "results.json").exists():
        results = report.measured_again(json.loads((given.output / "results.json").read_text()), results["header"])
    order = [x.name for x in (*workloads, *curves)]
    for workload in chosen:
        with kept_going(workload.name, results):
            repeats = given.repeats or (1 if given.quick else workload.repeats)
            found = compare(workload, work, repeats) | {"commit": report.commit()}
            report.put(results["workloads"], found, order)
            print(report.table([found]), *found["agreement"][:1], sep="\n", flush=True)
        report.write(results, given.output)
    for curve in chosen_curves:
        with kept_going(curve.name, results):
            report.put(results["growth"], curve.measure(work), order)
            draw(results["growth"], given.output / "growth.svg")
        report.write(results, given.output)
    return 1 if results["failed"] else 0


@contextmanager
def kept_going(name: str, results: dict[str, Any]) -> Iterator[None]:
    """Where the body fails the others still count; what failed stands in the results, and the exit code tells."""
    print(f"{name} ...", flush=True)
    results["failed"].pop(name, None)
    try:
        yield
    except Exception as error:
        traceback.print_exc()
        results["failed"][name] = f"{type(error).__name__}: {error}".splitlines()[0]


if __name__ == "__main__":
    sys.exit(main())
