"""The measures of a suite over its history: how each went on from check to check, and since which commit it is worse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bench.regression.drift import Drift, Series, flip_step, watch
from bench.regression.history import AcceptLine, CheckLine, Line, Measure

if TYPE_CHECKING:
    from bench.result.statistics import FloatArray

State = Literal["ok", "alarm", "not enough"]


@dataclass(frozen=True)
class Track:
    """One measure over the checks that hold it."""

    task: str
    strategy: str
    metric: str
    checks: tuple[CheckLine, ...]
    measures: tuple[Measure, ...]
    """Of each check."""
    accepts: tuple[tuple[int, AcceptLine], ...]
    """Acceptances, each after the check of this number."""
    drift: Drift

    @property
    def failed_since(self) -> int | None:
        """The first of the checks whose gate failed without a pause up to the last one, after the last acceptance; None for none."""
        since = None
        for number in range(len(self.measures) - 1, max((number for number, _ in self.accepts), default=-1), -1):
            if self.measures[number].verdict != "regression":
                break
            since = number
        return since

    @property
    def state(self) -> State:
        """``alarm`` where a detector's alarm stands or the gate of the last check failed."""
        if self.drift.standing is not None or self.failed_since is not None:
            return "alarm"
        return "ok" if self.drift.judged else "not enough"

    @property
    def reason(self) -> str:
        """Who raised the alarm, or why there is not enough to tell; else empty."""
        if self.state == "alarm":
            standing = self.drift.standing
            return " and ".join([*([standing.detector] if standing else []), *(["gate"] if self.failed_since is not None else [])])
        if self.state == "ok":
            return ""
        last = self.measures[-1]
        if self.drift.starts[-1] == len(self.checks) - 1:
            return "no check since the detectors set out anew" if len(self.drift.starts) > 1 else "one check"
        if last.deterministic and last.clusters is None:
            return "no scores of items from 0 to 1"
        return "too few draws of one seed" if last.n_seeds == 1 and not last.deterministic else "items, libraries or hardware differ"

    @property
    def first_bad(self) -> int | None:
        """The check since which the measure is worse: of the gate and the detectors the earlier; None without an alarm."""
        standing = self.drift.standing
        return min((i for i in (standing.first_bad if standing else None, self.failed_since) if i is not None), default=None)

    @property
    def between(self) -> tuple[CheckLine, CheckLine] | None:
        """The last good check and the first bad one; None without an alarm, or where the first check is bad."""
        return (self.checks[self.first_bad - 1], self.checks[self.first_bad]) if self.first_bad else None


def tracks_of(lines: Sequence[Line]) -> list[Track]:
    """The measures of one suite's lines, in the order in which they first came. Lines are in the order of the history."""
    found: dict[tuple[str, str, str], list[tuple[int, CheckLine, Measure]]] = {}
    for place, line in enumerate(lines):
        if isinstance(line, CheckLine):
            for measure in line.measures:
                found.setdefault(measure.key, []).append((place, line, measure))
    accepts = [(place, line) for place, line in enumerate(lines) if isinstance(line, AcceptLine)]
    return [_track(key, rows, accepts, len(found)) for key, rows in found.items()]


def _track(
    key: tuple[str, str, str], rows: Sequence[tuple[int, CheckLine, Measure]], accepts: Sequence[tuple[int, AcceptLine]], n_measures: int
) -> Track:
    checks, measures = tuple(check for _, check, _ in rows), tuple(measure for _, _, measure in rows)
    after = [(sum(place < at for place, _, _ in rows) - 1, line) for at, line in accepts]
    releases = sorted({number for number, line in after if line.release and number > 0})
    drift = watch(_series(checks, measures), n_measures, releases)
    return Track(*key, checks, measures, tuple(pair for pair in after if pair[0] >= 0), drift)


def _series(checks: Sequence[CheckLine], measures: Sequence[Measure]) -> Series:
    import numpy as np

    signs = [1.0 if measure.higher_is_better else -1.0 for measure in measures]
    scores = [None if m.scores is None else sign * m.scores for m, sign in zip(measures, signs, strict=True)]
    count = len(measures)
    joined = [i > 0 and _compares(checks[i - 1], measures[i - 1], checks[i], measures[i]) for i in range(count)]
    changed = [i == 0 or not _same(measures[i - 1], scores[i - 1], measures[i], scores[i]) for i in range(count)]
    steps = [(0, 0, float("nan"))] * count
    for i in range(count):
        before, after = scores[i - 1], scores[i]
        if joined[i] and measures[i].deterministic and before is not None and after is not None:
            steps[i] = flip_step(before, after)
    worse, better, z = zip(*steps, strict=True)
    return Series(
        values=np.array([sign * m.value for m, sign in zip(measures, signs, strict=True)]),
        joined=np.array(joined, dtype=np.bool_),
        changed=np.array(changed, dtype=np.bool_),
        redrawn=np.array([not m.deterministic for m in measures], dtype=np.bool_),
        worse=np.array(worse, dtype=np.int64),
        better=np.array(better, dtype=np.int64),
        steps=np.array(z),
        seed_sds=np.array([np.nan if m.seed_sd is None else m.seed_sd for m in measures]),
        n_seeds=np.array([m.n_seeds for m in measures], dtype=np.int64),
    )


def _compares(check: CheckLine, measure: Measure, next_check: CheckLine, next_measure: Measure) -> bool:
    """Whether the step between two checks is one of the code alone. Other seeds are another draw, but no other answer of the same."""

    def what(one: Measure) -> tuple[object, ...]:
        seeds = one.n_seeds if one.deterministic else None
        return one.items, one.n_clusters, one.higher_is_better, one.deterministic, seeds

    return check.environment == next_check.environment and what(measure) == what(next_measure)


def _same(before: Measure, scores_before: FloatArray | None, after: Measure, scores_after: FloatArray | None) -> bool:
    import numpy as np

    if scores_before is None or scores_after is None:
        return before.value == after.value
    return np.array_equal(scores_before, scores_after, equal_nan=True)
