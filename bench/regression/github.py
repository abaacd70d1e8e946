"""A check in GitHub Actions: the summary of the step, annotations and outputs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from bench.errors import BenchError
from bench.regression.markdown import blocks, fitted
from bench.regression.model import Check
from bench.regression.wording import excused_text, finding, headline, one_line, title, untrusted_text

SUMMARY_BYTES = 1_000_000
"""GitHub drops the whole summary of a step that is larger than 1 MiB."""
N_ANNOTATIONS = 10
"""Of each kind that GitHub shows for a step."""
Level = Literal["error", "warning", "notice"]


def github_summary(check: Check, limit: int = SUMMARY_BYTES) -> str:
    """The check in Markdown, in at most ``limit`` bytes of UTF-8."""
    return fitted(blocks(check), limit)


def github_annotations(check: Check) -> str:
    """Workflow commands, one a line: an error per regression, a warning per inconclusive gate and per baseline that is not trusted, a
    notice for excused ties and where all is well; at most ``N_ANNOTATIONS`` of a kind, the last of which counts those left out."""
    found: dict[Level, list[tuple[str, str]]] = {"error": [], "warning": [], "notice": []}
    for comparison in check.comparisons:
        name = f"bench check, {comparison.name}"
        if why := untrusted_text(comparison):
            found["warning"].append((f"{name} baseline", why))
        for gate in comparison.gates:
            if gate.verdict != "pass":
                found["error" if gate.verdict == "regression" else "warning"].append((f"{name}: {title(gate)}", finding(gate)))
        if ties := excused_text(comparison):
            found["notice"].append((f"{name} baseline", ties))
    if check.verdict == "pass":
        found["notice"].insert(0, ("bench check", headline(check)))
    lines = []
    for level, entries in found.items():
        shown = entries if len(entries) <= N_ANNOTATIONS else entries[: N_ANNOTATIONS - 1]
        if left := len(entries) - len(shown):
            shown = [*shown, ("bench check", f"{left} more of this kind: see the summary of the step")]
        lines += [f"::{level} title={_property(one_line(heading, 200))}::{_data(one_line(text, 1000))}\n" for heading, text in shown]
    return "".join(lines)


def write_github(check: Check, environ: Mapping[str, str]) -> None:
    """Append the summary and set the output ``verdict`` in the files that ``environ`` names, and print annotations in a job of GitHub.

    Does nothing outside GitHub Actions. Raises BenchError for a file that cannot be written.
    """
    if path := environ.get("GITHUB_STEP_SUMMARY"):
        # The limit is of all that one step writes.
        there = Path(path).stat().st_size if Path(path).exists() else 0
        _append(path, github_summary(check, max(SUMMARY_BYTES - there, 0)))
    if path := environ.get("GITHUB_OUTPUT"):
        _append(path, f"verdict={check.verdict}\n")
    if environ.get("GITHUB_ACTIONS") == "true":
        sys.stdout.write(github_annotations(check))


def _append(path: str, text: str) -> None:
    try:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise BenchError(f"{path}: cannot be written: {error.strerror}; expected the file that GitHub Actions made") from error


def _data(text: str) -> str:
    """As the runner reads it back (actions/toolkit, core/src/command.ts)."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
