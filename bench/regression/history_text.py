"""The history of checks on a terminal, and the words that its page shares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from string import hexdigits

from bench.regression.history import AcceptLine, CheckLine, Line, suites_of
from bench.regression.track import Track, tracks_of
from bench.result.text import NONE, escaped, markdown_list, markdown_table, shown_bytes, shown_count, visible

HEAD = ("measure", "values", "last", "E", "CUSUM", "state", "worse since")
BLOCKS = "▁▂▃▄▅▆▇█"
WIDTH = 24
"""Of a sparkline: the last so many checks."""


def history_table(lines: Sequence[Line], suite: str | None = None) -> str:
    """For each suite, or for one, a table of its measures, in Markdown that reads well on a terminal, and since when which is worse.

    Raises BenchError for a suite that has no line.
    """
    return "\n".join(_suite_table(name, of_suite) for name, of_suite in suites_of(lines, suite).items())


def _suite_table(suite: str, lines: Sequence[Line]) -> str:
    tracks = tracks_of(lines)
    parts = [f"## {prose(suite)}\n\n{prose(heading(lines))}\n"]
    if tracks:
        parts += [f"\n{markdown_table(HEAD, [list(map(prose, row_of(track))) for track in tracks])}\n", f"{limits(tracks)}\n"]
    found = [*findings(tracks), *cost_changes(lines)]
    return "".join([*parts, *(["\n", markdown_list(map(prose, found))] if found else [])])


def heading(lines: Sequence[Line]) -> str:
    """How many checks and acceptances, from when to when."""
    checks = [line for line in lines if isinstance(line, CheckLine)]
    accepts = [line for line in lines if isinstance(line, AcceptLine)]
    times = f" from {lines[0].when} to {lines[-1].when}" if len(lines) > 1 else f" at {lines[0].when}" if lines else ""
    releases = sum(line.release for line in accepts)
    return f"{_count(len(checks), 'check')} and {_count(len(accepts), 'acceptance')} ({_count(releases, 'release')}){times}."


def limits(tracks: Sequence[Track]) -> str:
    """What an alarm is."""
    drift = tracks[0].drift
    return (
        f"E: evidence that it became worse, alarm at {drift.e_limit:g}; CUSUM: loss added up, in standard errors, alarm at "
        f"{drift.cusum_limit:.1f}. Both limits are for {_count(len(tracks), 'measure')} together; both start anew at a release."
    )


def row_of(track: Track) -> list[str]:
    """The cells under ``HEAD``, unescaped."""
    values = [measure.value for measure in track.measures]
    since = NONE if track.first_bad is None else shown_commit(track.checks[track.first_bad])
    return [
        name_of(track), sparkline(values), shown_value(track, values[-1]), shown_e(float(track.drift.log_e[-1])),
        f"{track.drift.cusum[-1]:.1f}", track.state, since,
    ]  # fmt: skip


def findings(tracks: Sequence[Track]) -> list[str]:
    """Since when each measure with an alarm is worse and how to find the commit, and why others cannot be told; unescaped."""
    found = []
    for track in tracks:
        if track.state == "alarm":
            command = bisect_command(track)
            found.append(f"{name_of(track)}: {alarm_of(track)}" + (f"; {command}" if command else ""))
    return [*found, *(f"{name_of(track)}: not enough to tell ({track.reason})" for track in tracks if track.state == "not enough")]


def alarm_of(track: Track) -> str:
    """Since when a measure is worse, unescaped."""
    if track.first_bad is None or track.between is None:
        return f"worse in all checks here ({track.reason})"
    before, now = (shown_value(track, track.measures[number].value) for number in (track.first_bad - 1, -1))
    bad = track.checks[track.first_bad]
    return f"worse since {shown_commit(bad)} ({bad.when}), {before} before it and {now} now ({track.reason})"


def bisect_command(track: Track) -> str:
    """What finds the commit between the last good check and the first bad one; empty where their commits are not known, or the same."""
    good, bad = (check.commit or "" for check in track.between) if track.between else ("", "")
    # To be pasted into a shell, so nothing but hexadecimal digits.
    known = good and bad and good != bad and not (good + bad).strip(hexdigits)
    return f"bench bisect RUN --good {good[:12]} --bad {bad[:12]}" if known else ""


def cost_changes(lines: Sequence[Line]) -> list[str]:
    """What ``changed_costs`` were and are, unescaped."""
    found = []
    for name, counted in changed_costs(lines).items():
        (_, first), (_, last) = counted[0], counted[-1]
        since = next(check for (_, before), (check, after) in pairwise(counted) if before == first != after)
        grown = f" ({100 * (last / first - 1):+.1f} %)" if first else ""
        values = sparkline([value for _, value in counted])
        found.append(f"{name}: {values} {shown_cost(name, first)} to {shown_cost(name, last)}{grown}, first at {shown_commit(since)}")
    return found


def changed_costs(lines: Sequence[Line]) -> dict[str, list[tuple[CheckLine, float]]]:
    """Name -> the checks that counted it, with what they counted; of costs that are not what they were at first."""
    found: dict[str, list[tuple[CheckLine, float]]] = {}
    for line in lines:
        if isinstance(line, CheckLine):
            for name, value in line.costs.items():
                found.setdefault(name, []).append((line, value))
    # Resident memory is the machine's in part and never twice the same: only a tenth is a change.
    tolerance = {name: 0.1 if name.endswith("peak_rss_bytes") else 0.0 for name in found}
    return {name: of_one for name, of_one in found.items() if abs(of_one[-1][1] - of_one[0][1]) > tolerance[name] * of_one[0][1]}


def sparkline(values: Sequence[float]) -> str:
    """One block for each of the last ``WIDTH`` values, from the least of them to the largest."""
    shown = values[-WIDTH:]
    low, high = min(shown), max(shown)
    if low == high:
        return BLOCKS[3] * len(shown)
    return "".join(BLOCKS[round((value - low) / (high - low) * (len(BLOCKS) - 1))] for value in shown)


def name_of(track: Track) -> str:
    return f"{track.task}/{track.strategy} {track.metric}"


def is_share(track: Track) -> bool:
    """Whether the scores of items are all within 0 and 1."""
    return track.measures[-1].clusters is not None


def shown_value(track: Track, value: float) -> str:
    return f"{100 * value:.1f} %" if is_share(track) else f"{value:.4g}"


def shown_cost(name: str, value: float) -> str:
    return shown_bytes(round(value)) if name.endswith("_bytes") else shown_count(value)


def shown_e(log_e: float) -> str:
    """E with two digits, or as a power of ten where it is large."""
    return f"{math.exp(log_e):.2g}" if log_e < math.log(1e4) else f"10^{log_e / math.log(10):.1f}"


def shown_commit(check: CheckLine) -> str:
    """Ten characters of the commit, with a plus where the code had changes; the time where there is no commit."""
    return visible(check.commit[:10] + ("+" if check.dirty else "") if check.commit else check.when)


def prose(text: str) -> str:
    """Untrusted text that neither Markdown nor a terminal acts on."""
    return escaped(visible(text))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
