"""The first commit between a good and a bad one with which a strategy is worse, by running cells on commits between."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bench.errors import BenchError
from bench.regression.worktree import Arm, checked_out, git, resolve, write_header
from bench.result.store import RunFolder
from bench.result.text import visible

Verdict = Literal["good", "bad", "unclear"]


@dataclass(frozen=True)
class Step:
    """One commit that was tried."""

    commit: str
    """Full hash."""
    subject: str
    """First line of its message."""
    verdict: Verdict
    seconds: float
    """Wall seconds, set-up included."""
    reason: str = ""
    """Why it could not be run, which makes it unclear."""


@dataclass(frozen=True)
class Bisection:
    """What a search found."""

    candidates: tuple[str, ...]
    """Full hashes in the order of history, the first bad commit among them: one, or more where those between are unclear."""
    steps: tuple[Step, ...]
    """In the order in which they were tried; the two ends first."""
    n_between: int
    """Commits after the good one, up to the bad one."""
    notes: tuple[str, ...] = ()

    @property
    def first_bad(self) -> str | None:
        """None where the candidates cannot be told apart."""
        return self.candidates[0] if len(self.candidates) == 1 else None


def bisect(
    folder: Path,
    good: str,
    bad: str,
    suite: dict[str, Any],
    arms: Sequence[Arm],
    judge: Callable[[RunFolder, RunFolder], Verdict],
    setup: str | None = None,
    python: str | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Bisection:
    """Search the commits after `good` up to `bad` for the first bad one, each run with its own code by `checked_out`.

    `judge` holds the run of a commit against that of the good one. History is followed by first parents, so that a merge counts as
    one change: what it brought in. A commit that cannot be run, or that is unclear, is skipped and a neighbour tried. As with any
    bisection, what became bad has to stay bad; else the commit named is bad, with a good one before it, but need not be the first.
    Raises `BenchError` where the ends are not there, not in one line, not run, or not judged as they are called.
    """
    if not arms:
        raise BenchError("bisect: found no arms to run, expected one or more")
    good, bad = resolve(folder, good), resolve(folder, bad)
    commits = between(folder, good, bad)
    runs: dict[str, RunFolder] = {}
    notes: dict[str, None] = {}
    steps: list[Step] = []

    def run(commit: str, results: Path) -> RunFolder:
        with checked_out(folder, commit, setup, python) as side:
            # Results of its own: an index that another commit's code has built must not be read.
            found = [side.run(suite, arm, results / commit, "run") for arm in arms][-1]
            notes.update(dict.fromkeys((*side.notes, *side.shared(suite))))
        write_header(found, suite)
        return found

    def verdict(commit: str, results: Path) -> Verdict:
        start = time.perf_counter()
        subject = visible(git(folder, "-c", "log.showSignature=false", "log", "-1", "--format=%s", commit))
        progress(f"{commit[:10]} {subject}")
        try:
            runs[commit] = run(commit, results)
            found, reason = judge(runs[good], runs[commit]), ""
        except BenchError as error:
            found, reason = "unclear", str(error)
        steps.append(Step(commit, subject, found, time.perf_counter() - start, reason))
        progress(f"{commit[:10]} is {found}{f': {reason}' if reason else ''}")
        return found

    with tempfile.TemporaryDirectory(prefix="bench-bisect-", ignore_cleanup_errors=True) as temporary:
        results = Path(temporary)
        if verdict(good, results) != "good":
            raise BenchError(f"commit {good[:10]}: expected a good one, {_found(steps[-1])}")
        if verdict(bad, results) != "bad":
            hint = "; what changed is not in what is committed" if steps[-1].verdict == "good" else ""
            raise BenchError(f"commit {bad[:10]}: expected one that is worse than {good[:10]}, {_found(steps[-1])}{hint}")
        candidates = first_bad(commits, lambda commit: verdict(commit, results))
    return Bisection(tuple(candidates), tuple(steps), len(commits), tuple(notes))


def between(folder: Path, good: str, bad: str) -> list[str]:
    """The commits after `good` up to `bad`, oldest first, by first parents. Raises `BenchError` where good is no ancestor of bad."""
    span = f"{good}..{bad}"
    after_good = set(git(folder, "rev-list", "--ancestry-path", span).split())
    # The good commit may itself have come in by a merge: what the first parents did beside it has no place in the line.
    commits = [commit for commit in git(folder, "rev-list", "--reverse", "--first-parent", span).split() if commit in after_good]
    if not commits:
        hint = "; this clone is shallow: git fetch --unshallow" if git(folder, "rev-parse", "--is-shallow-repository") == "true" else ""
        raise BenchError(f"commit {good[:10]}: expected an ancestor of {bad[:10]}, with commits between them{hint}")
    return commits


def first_bad(commits: Sequence[str], verdict: Callable[[str], Verdict]) -> list[str]:
    """The first bad one of commits whose last is bad and whose predecessor is good, by binary search.

    In place of an unclear commit its nearest neighbour is tried. More than one where all that could tell them apart are unclear.
    """
    good, bad = -1, len(commits) - 1
    unclear: set[int] = set()
    while left := [i for i in range(good + 1, bad) if i not in unclear]:
        middle = min(left, key=lambda i: abs(2 * i - good - bad))
        found = verdict(commits[middle])
        if found == "good":
            good = middle
        elif found == "bad":
            bad = middle
        else:
            unclear.add(middle)
    return list(commits[good + 1 : bad + 1])


def _found(step: Step) -> str:
    return f"found it {step.verdict}" + (f" ({step.reason})" if step.reason else "")
