"""A commit and the working tree run in turn on one machine, for where a stored baseline cannot be trusted, and for seconds."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from bench.errors import BenchError
from bench.regression.worktree import Arm, Side, arms_of, checked_out, records_of, working_tree, write_header
from bench.result.schema import SETUP, PhaseName, Record
from bench.result.store import RunFolder

Span = Literal["setup", "answer"]
MINIMUM_REPEATS = 5
"""Of each side, for an interval of the ratio of their medians."""
RESAMPLES = 10_000
NEGLIGIBLE_SECONDS = 0.01
"""A span with a median below this on both sides is not compared: its ratio is the noise of a clock."""
SPANS: dict[Span, tuple[PhaseName, ...]] = {"setup": SETUP, "answer": ("answer",)}
RUN = "run"
"""Name of every run."""


@dataclass(frozen=True)
class Relative:
    """Both sides' runs; the folders are removed when the context ends."""

    commit: str
    """Full hash of the old side."""
    old: tuple[RunFolder, ...]
    """One per repeat, with all arms that both sides can run."""
    new: tuple[RunFolder, ...]
    seconds: dict[Arm, dict[Span, tuple[list[float], list[float]]]]
    """Wall seconds of each repeat, old and new, over the seeds that both sides have. ``setup``: the phases of `SETUP`. What a strategy
    does not do is absent, as are spans of less than `NEGLIGIBLE_SECONDS`, and an arm with a cell that is not ok."""
    notes: tuple[str, ...]


@contextmanager
def relative(
    suite: dict[str, Any],
    commit: str,
    folder: Path,
    arms: Sequence[Arm] | None = None,
    repeats: int = 5,
    setup: str | None = None,
    python: str | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Iterator[Relative]:
    """Run arms of a suite with a commit's code and with the code of `folder` as it is, in turn.

    `suite`: as in ``run.json``; `arms`: default all of it; `setup`, `python`: see `checked_out`. Within each repeat the sides take
    turns arm by arm, old first in one repeat and new first in the next, so that a machine that becomes slower hits both alike.
    An arm that the commit cannot run, such as one that is new, is left out and noted. Raises `BenchError` where the commit
    is not there or can run no arm, and where the working tree cannot run one.
    """
    chosen = list(arms_of(suite) if arms is None else arms)
    if repeats < 1 or not chosen:
        raise BenchError(f"relative run: found {repeats} repeats of {len(chosen)} arms; expected one or more of each")
    with tempfile.TemporaryDirectory(prefix="bench-relative-", ignore_cleanup_errors=True) as temporary:
        # A folder of results for each repeat: the indexes that lie beside its runs would else be made in the first one only.
        old, new = (tuple(RunFolder(Path(temporary) / f"{side}-{i}" / RUN) for i in range(repeats)) for side in ("old", "new"))
        with checked_out(folder, commit, setup, python) as baseline:
            missing = _alternate(baseline, working_tree(folder), suite, chosen, repeats, Path(temporary), progress)
        for run in (*old, *new):
            write_header(run, suite)
        seconds = {arm: spans for arm in chosen if (spans := _seconds(old, new, arm))}
        yield Relative(baseline.commit or commit, old, new, seconds, (*baseline.notes, *baseline.shared(suite), *missing.values()))


def time_ratio(old: Sequence[float], new: Sequence[float], seed: int = 0) -> tuple[float, float, float] | None:
    """New median over old, with its 95 % interval: percentile bootstrap, both sides resampled (Efron and Tibshirani 1993, 13.3).

    None with fewer than `MINIMUM_REPEATS` values on a side, or where one is not above zero. Seconds in, ratio out.
    """
    if min(len(old), len(new)) < MINIMUM_REPEATS or min(*old, *new) <= 0:
        return None
    import numpy as np

    generator = np.random.default_rng(seed)
    drawn = [np.median(generator.choice(np.asarray(side), (RESAMPLES, len(side))), axis=1) for side in (old, new)]
    low, high = np.quantile(drawn[1] / drawn[0], [0.025, 0.975])
    return float(np.median(new) / np.median(old)), float(low), float(high)


def _alternate(
    old: Side, new: Side, suite: dict[str, Any], arms: list[Arm], repeats: int, results: Path, progress: Callable[[str], None]
) -> dict[Arm, str]:
    """Fill the folders of both sides; the arms that the old one cannot run, with the reason."""
    missing: dict[Arm, str] = {}
    for repeat in range(repeats):
        for arm in arms:
            for side in (old, new) if repeat % 2 == 0 else (new, old):
                if arm in missing:
                    continue
                progress(f"repeat {repeat + 1} of {repeats}: {' / '.join(arm)}: {side.label}")
                try:
                    side.run(suite, arm, results / f"{'old' if side is old else 'new'}-{repeat}", RUN)
                except BenchError as error:
                    if side is new or repeat > 0:
                        raise
                    missing[arm] = str(error)
        if len(missing) == len(arms):
            raise BenchError(next(iter(missing.values())))
    return missing


def _seconds(old: Sequence[RunFolder], new: Sequence[RunFolder], arm: Arm) -> dict[Span, tuple[list[float], list[float]]]:
    before, after = ([{record.seed: record for record in records_of(folder, arm)} for folder in side] for side in (old, new))
    if any(record.status != "ok" for cells in (*before, *after) for record in cells.values()):
        return {}
    seeds = set.intersection(*(set(cells) for cells in (*before, *after)))
    found: dict[Span, tuple[list[float], list[float]]] = {}
    for span, phases in SPANS.items():
        olds, news = ([_wall([cells[seed] for seed in seeds], phases) for cells in side] for side in (before, after))
        if all(olds) and all(news):
            totals = [sum(seconds) for seconds in olds], [sum(seconds) for seconds in news]
            if max(median(totals[0]), median(totals[1])) >= NEGLIGIBLE_SECONDS:
                found[span] = totals
    return found


def _wall(records: Sequence[Record], phases: Sequence[PhaseName]) -> list[float]:
    return [record.phases[name].wall_seconds for record in records for name in phases if name in record.phases]
