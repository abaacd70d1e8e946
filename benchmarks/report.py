"""From readings to ratios, and from ratios to ``results.md``."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Literal

from benchmarks.growth import LINEAR
from benchmarks.workload import PEERS, ROOT, Goal

Scope = Literal["phase", "whole"]
Clock = Literal["cpu", "wall"]


@dataclass(frozen=True)
class Comparison:
    """One goal of a workload with what was measured: seconds of each repeat, in order."""

    scope: Scope
    clock: Clock
    goal: Goal | None
    ours: tuple[float, ...]
    peer: tuple[float, ...]
    """Empty where the goal is a number of seconds."""

    @property
    def ratio(self) -> float:
        """The median of our seconds (goal in seconds), of ours over the peer's (``times``) or of the peer's over ours."""
        if not self.peer:
            return median(self.ours)
        return _quotient(self.goal, median(self.ours), median(self.peer))

    @property
    def spread(self) -> tuple[float, float]:
        """The least and greatest ratio of a single repeat."""
        if not self.peer:
            return min(self.ours), max(self.ours)
        each = [_quotient(self.goal, a, b) for a, b in zip(self.ours, self.peer, strict=True)]
        return min(each), max(each)

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None where there is none."""
        if self.goal is None:
            return None
        return self.ratio >= self.goal.number if self.goal.kind == "faster" else self.ratio <= self.goal.number


def _quotient(goal: Goal | None, ours: float, peer: float) -> float:
    return ours / peer if goal and goal.kind == "times" else peer / ours


def rows(result: dict[str, Any]) -> list[Comparison]:
    """The comparisons of one workload's entry in ``results.json``."""
    found = []
    scopes: tuple[Scope, ...] = ("phase", "whole")
    for scope in scopes:
        clock: Clock = result["clock"] if scope == "whole" else "cpu"
        key = "phase_seconds" if scope == "phase" else f"{clock}_seconds"
        ours, peer = (tuple(r[key] for r in result[side] if r[key] is not None) for side in ("ours", "peer"))
        goal = Goal(**result["goals"][scope]) if result["goals"][scope] else None
        if ours and (peer or goal):
            found.append(Comparison(scope, clock, goal, ours, peer))
    return found


def table(results: Sequence[dict[str, Any]]) -> str:
    """The Markdown table of all workloads."""
    lines = ["| workload | peer | measured | here | peer | ratio | range | goal | |", "|---|---|---|--:|--:|--:|---|---|---|"]
    for result in results:
        for c in rows(result):
            low, high = c.spread
            kind = "its time" if c.goal and c.goal.kind == "times" else "faster"
            cells = [
                result["title"], result["peer_name"], f"{c.scope}, {'CPU' if c.clock == 'cpu' else 'wall'}",
                _seconds(c, result, "ours"), _seconds(c, result, "peer") if c.peer else "",
                f"{c.ratio:.2f} x {kind}" if c.peer else "", f"{low:.2f} to {high:.2f}",
                str(c.goal or ""), {True: "met", False: "**missed**", None: ""}[c.met],
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _seconds(c: Comparison, result: dict[str, Any], side: Literal["ours", "peer"]) -> str:
    """The median, and for a whole process in CPU seconds the median wall time beside it."""
    text = f"{median(c.ours if side == 'ours' else c.peer):.2f} s"
    wall = median(reading["wall_seconds"] for reading in result[side])
    return f"{text} (wall {wall:.2f} s)" if c.scope == "whole" and c.clock == "cpu" else text


def machine() -> dict[str, Any]:
    """The processor, its cores and the memory."""
    model = next((line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    kilobytes = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    system = f"{platform.system()} {platform.machine()}"
    return {"processor": model, "cores": os.cpu_count(), "memory_bytes": kilobytes * 1024, "system": system}


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def versions(python: Path) -> dict[str, str]:
    """The Python and the packages of an environment; empty where it is not there."""
    if not python.exists():
        return {}
    program = "import json, platform, importlib.metadata as m; print(json.dumps({'python': platform.python_version()} | " \
              "{d.name: d.version for d in m.distributions()}))"  # fmt: skip
    out = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True)
    return dict(sorted(json.loads(out.stdout).items(), key=lambda pair: pair[0].lower()))


def commit() -> str:
    """The commit that is checked out, and whether the files differ from it; `unknown` outside a repository."""
    try:
        head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S607
        changed = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S607
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + (" with changes" if changed.stdout.strip() else "")


def header(python: Path, command: str) -> dict[str, Any]:
    """What the results rest on."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": commit(), "command": command,
        "machine": machine(), "ours": versions(python), "peers": versions(PEERS / "python"),
    }  # fmt: skip


_SHOWN = (
    "python", "torch", "transformers", "tokenizers", "peft", "lm_eval", "trl", "sentence-transformers", "faiss-cpu", "numpy", "pandas",
)  # fmt: skip


def _versions_line(found: dict[str, str]) -> str:
    return ", ".join(f"{name} {found[name]}" for name in _SHOWN if name in found) or "not installed"


def markdown(report: dict[str, Any]) -> str:
    """``results.md`` from the content of ``results.json``."""
    head, box = report["header"], report["header"]["machine"]
    goals = [c for result in report["workloads"] for c in rows(result) if c.goal]
    met = sum(c.met is True for c in goals)
    failed = f"; **{len(report['failed'])} workloads failed**, see below" if report["failed"] else ""
    text = [
        "# Speed beside the peers",
        "",
        f"{met} of {len(goals)} goals met{failed}. Medians of alternating runs on one thread. CPU seconds are user and system "
        "time, for a whole process those of its whole process tree; the range is that of the single runs. What is measured, and how: "
        "[README.md](README.md).",
        "",
        f"- Machine: {box['processor']}, {box['cores']} cores, {box['memory_bytes'] / 2**30:.1f} GiB; {box['system']}",
        f"- Here: commit {head['commit']}; {_versions_line(head['ours'])}",
        f"- Peers: {_versions_line(head['peers'])}",
        f"- {head['date']}, by `{head['command']}`",
        *(f"- measured again at commit {a['commit']}: {a['date']}, by `{a['command']}`" for a in report.get("again", [])),
        "",
        table(report["workloads"]),
    ]
    agreed = [f"- {result['title']}: {said}" for result in report["workloads"] for said in dict.fromkeys(result["agreement"]) if said]
    if agreed:
        text += ["", "## Agreement", "", *agreed]
    if report["failed"]:
        text += ["", "## Failed", "", *(f"- {name}: {reason}" for name, reason in report["failed"].items())]
    for growth in report["growth"]:
        text += ["", f"## {growth['title']}", "", *_growth_table(growth)]
    if report["growth"]:
        text += ["", "![seconds and peak memory against size, each on logarithmic axes](growth.svg)"]
    return "\n".join(text) + "\n"


def measured_again(earlier: dict[str, Any], header: dict[str, Any]) -> dict[str, Any]:
    """Earlier results, of which some workloads are measured again: the header stays, and what is new in this one is noted beside it."""
    again = {"date": header["date"], "commit": header["commit"], "command": header["command"]}
    return earlier | {"again": [*earlier.get("again", []), again]}


def put(results: list[dict[str, Any]], found: dict[str, Any], order: Sequence[str]) -> None:
    """Put a result in the place of an earlier one of its name, or where it belongs."""
    results[:] = sorted([r for r in results if r["name"] != found["name"]] + [found], key=lambda r: order.index(r["name"]))


def write(report: dict[str, Any], folder: Path) -> None:
    """``results.json`` and ``results.md``."""
    (folder / "results.json").write_text(json.dumps(report, indent=1) + "\n")
    (folder / "results.md").write_text(markdown(report))


def _three(value: float) -> str:
    """About three digits."""
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3}f}"


def _growth_table(growth: dict[str, Any]) -> list[str]:
    names = list(growth["points"][0]["values"])
    lines = [f"| {growth['axis']} | {' | '.join(names)} |", "|--:" * (len(names) + 1) + "|"]
    lines += [f"| {p['size']:,} | " + " | ".join(_three(p["values"][n]) for n in names) + " |" for p in growth["points"]]
    lines += ["", "Slope of the upper half on logarithmic axes (linear is 1): " + ", ".join(
        f"{name} {slope:.2f}{'' if slope <= LINEAR else ' **(more than linear)**'}" for name, slope in growth["slopes"].items()
    ) + "."]  # fmt: skip
    return lines
