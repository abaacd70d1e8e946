"""The history of checks as one self-contained HTML file without a script: charts of each measure that changed, a table behind each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import __version__
from bench.regression.history import CheckLine, Line, suites_of
from bench.regression.history_text import (
    HEAD,
    alarm_of,
    bisect_command,
    changed_costs,
    cost_changes,
    findings,
    heading,
    is_share,
    limits,
    name_of,
    row_of,
    shown_commit,
    shown_cost,
    shown_e,
    shown_value,
)
from bench.regression.track import Track, tracks_of
from bench.report.chart_parts import linear_axis
from bench.report.drawing import INK, PALETTE, Axis, Canvas, Chart, Point, text_width, visible
from bench.report.numbers import Unit
from bench.report.page import TEMPLATES, markup, page_template
from bench.result.text import NONE

HEIGHT = 170
"""Of a plot, in pixels."""
LINE, ALARM, GOOD, GATE = PALETTE[0], PALETTE[1], PALETTE[2], PALETTE[3]
_LN10 = math.log(10)


def history_html(lines: Sequence[Line], suite: str | None = None) -> str:
    """The page of all suites, or of one.

    Raises BenchError for a suite that has no line, and where the library that draws charts is not installed.
    """
    return page_template(Path(__file__).parent / "history.html.jinja").render(
        suites=[_suite(name, of_suite) for name, of_suite in suites_of(lines, suite).items()],
        head=HEAD, style=markup((TEMPLATES / "style.css").read_text(encoding="utf-8")), version=__version__,
    )  # fmt: skip


def _suite(suite: str, lines: Sequence[Line]) -> dict[str, Any]:
    tracks = tracks_of(lines)
    return {
        "name": suite,
        "heading": heading(lines),
        "limits": limits(tracks) if tracks else "",
        "verdict": _verdict(tracks),
        "findings": findings(tracks),
        "rows": [(track.state, row_of(track)) for track in tracks],
        "measures": [_measure(suite, track) for track in sorted(filter(_changed, tracks), key=lambda track: track.state != "alarm")],
        "still": [name_of(track) for track in tracks if not _changed(track)],
        "cost_changes": cost_changes(lines),
        "costs": _figures(suite, [_cost_chart(name, counted) for name, counted in changed_costs(lines).items()]),
    }


def _changed(track: Track) -> bool:
    return len({measure.value for measure in track.measures}) > 1 or bool(track.drift.log_e.any())


def _verdict(tracks: Sequence[Track]) -> str:
    alarms = sum(track.state == "alarm" for track in tracks)
    of = f"{len(tracks)} measure{'' if len(tracks) == 1 else 's'}"
    return f"{alarms} of {of} became worse." if alarms else f"None of {of} became worse."


def _measure(suite: str, track: Track) -> dict[str, Any]:
    last = track.measures[-1]
    drawn = not last.deterministic and last.n_seeds > 1
    changed = "only with the code" if last.deterministic else f"with each training: a check is a draw of {last.n_seeds} seed{'s' * drawn}"
    seed_sd = last.seed_sd or 0.0
    facts = {
        "state": f"{track.state} ({track.reason})" if track.reason else track.state,
        **({"since": alarm_of(track), "to find the commit": bisect_command(track) or NONE} if track.state == "alarm" else {}),
        "last": shown_value(track, last.value),
        "answers change": changed,
        **({"its standard deviation": f"{100 * seed_sd:.1f} points" if is_share(track) else f"{seed_sd:.3g}"} if drawn else {}),
        "clusters of items": str(last.n_clusters),
        "earlier alarms": str(len(track.drift.alarms) - (track.drift.standing is not None)),
    }
    first, *others = _figures(suite, charts_of(track))
    return {"name": name_of(track), "alarm": track.state == "alarm", "facts": list(facts.items()), "first": first, "others": others}


def _figures(suite: str, charts: Sequence[tuple[Canvas, Chart]]) -> list[dict[str, Any]]:
    return [
        {"svg": markup(canvas.svg(c.title, c.description, f"{suite}\n{c.description}")), "title": c.title,
         "description": c.description, "head": c.table[0], "rows": c.table[1]}
        for canvas, c in charts
    ]  # fmt: skip


def charts_of(track: Track) -> list[tuple[Canvas, Chart]]:
    """Value, e-process and CUSUM over the checks; the value alone where the detectors had nothing to go by. ``svg`` is left empty."""
    drift = track.drift
    e_values, sums = [value / _LN10 for value in drift.log_e.tolist()], drift.cusum.tolist()
    charts = [_value_chart(track)]
    if any(e_values):
        limit = math.log10(drift.e_limit)
        ends = (min(0.0, *e_values), max(limit, *e_values))
        step = max(1, math.ceil((ends[1] - ends[0]) / 6))
        ticks = tuple((float(power), _power(power)) for power in range(math.floor(ends[0]), math.ceil(ends[1]) + 1, step))
        y = Axis(ends[0] - 0.3, ends[1], "E, on a logarithmic scale", False, ticks)
        text = f"Evidence that {name_of(track)} became worse; now {shown_e(drift.log_e[-1])}."
        charts.append(_detector_chart(track, "e-process", text, y, e_values, limit, f"{drift.e_limit:g}", lambda e: shown_e(e * _LN10)))
        limit = drift.cusum_limit
        y = linear_axis([0.0, max(limit, *sums)], "loss added up, in standard errors")
        text = f"CUSUM of {name_of(track)}; now {sums[-1]:.1f}."
        charts.append(_detector_chart(track, "CUSUM", text, y, sums, limit, f"{limit:.1f}", lambda value: f"{value:.1f}"))
    return charts


def _value_chart(track: Track) -> tuple[Canvas, Chart]:
    values = [measure.value for measure in track.measures]
    unit: Unit = "share" if is_share(track) else "number"
    direction = "higher" if track.measures[-1].higher_is_better else "lower"
    y = linear_axis(values, f"{visible(track.metric).replace('_', ' ')} ({direction} is better)", unit)
    marks = [(number, GATE, "cross", "gate failed") for number, m in enumerate(track.measures) if m.verdict == "regression"]
    for alarm in track.drift.alarms:
        raised = f"alarm of the {alarm.detector}"
        marks += [(alarm.first_bad, ALARM, "diamond", "worse since here"), (alarm.at, ALARM, "triangle-down", raised)]
        marks += [] if alarm.over is None else [(alarm.over, GOOD, "triangle-up", "as good again")]
    canvas = _canvas(track.checks, y, top=56 if marks else 30)
    canvas.legend(list(dict.fromkeys(mark[1:] for mark in marks)))
    _draw_accepts(canvas, track)
    _draw(canvas, [list(enumerate(values))])
    happened: list[list[str]] = [[] for _ in values]
    for number, colour, shape, words in marks:
        canvas.mark(Point(number, values[number]), colour, shape)
        happened[number].append(words)
    for number, accept in track.accepts:
        happened[number].append(f"{'released' if accept.release else 'accepted'} by {accept.who}: {accept.reason}")
    rows = tuple(
        (*_check(number, check), shown_value(track, value), "; ".join(words) or NONE)
        for number, (check, value, words) in enumerate(zip(track.checks, values, happened, strict=True))
    )
    text = f"{name_of(track)}: {shown_value(track, values[0])} at first, {shown_value(track, values[-1])} now."
    return canvas, Chart("", "Value", text, (("check", "commit", "when", "value", "what happened"), rows))


def _detector_chart(
    track: Track, title: str, text: str, y: Axis, values: Sequence[float], limit: float, shown_limit: str, show: Callable[[float], str]
) -> tuple[Canvas, Chart]:
    canvas = _canvas(track.checks, y, top=30)
    _draw_accepts(canvas, track)
    canvas.line([Point(canvas.x.low, limit), Point(canvas.x.high, limit)], ALARM, width=1.5, dash=(5, 4))
    canvas.text(canvas.pixel(Point(canvas.x.low, limit)), f"alarm at {shown_limit}", dx=6, dy=15, size=12)
    starts = track.drift.starts
    ends = [*starts[1:], len(values) - 1]
    _draw(canvas, [[(a, 0.0), *((n, values[n]) for n in range(a + 1, b + 1))] for a, b in zip(starts, ends, strict=True)])
    for alarm in track.drift.alarms:
        if alarm.detector == title:
            canvas.mark(Point(alarm.at, values[alarm.at]), ALARM, "triangle-down")
    rows = tuple((*_check(number, check), show(value)) for number, (check, value) in enumerate(zip(track.checks, values, strict=True)))
    return canvas, Chart("", title[:1].upper() + title[1:], f"{text} Alarm at {shown_limit}.", (("check", "commit", "when", title), rows))


def _cost_chart(name: str, counted: Sequence[tuple[CheckLine, float]]) -> tuple[Canvas, Chart]:
    checks, values = [check for check, _ in counted], [value for _, value in counted]
    canvas = _canvas(checks, linear_axis(values, visible(name), "bytes" if name.endswith("_bytes") else "count"), top=30)
    _draw(canvas, [list(enumerate(values))])
    rows = tuple((*_check(number, check), f"{value:g}") for number, (check, value) in enumerate(counted))
    text = f"{name}: {shown_cost(name, values[0])} at first, {shown_cost(name, values[-1])} now."
    return canvas, Chart("", name, text, (("check", "commit", "when", "value"), rows))


def _canvas(checks: Sequence[CheckLine], y: Axis, top: int) -> Canvas:
    """With room above the data for the names of acceptances."""
    high = y.high + 0.14 * (y.high - y.low)
    y = replace(y, high=high, ticks=tuple(tick for tick in y.ticks if y.low <= tick[0] <= y.high))
    count = len(checks)
    step = max(1, math.ceil(count / 6))
    ticks = tuple((float(n), visible(shown_commit(checks[n])[:10])) for n in range(0, count, step))
    return Canvas(Axis(-0.5, count - 0.5, "commit of the check", False, ticks), y, HEIGHT, left=70, right=40, top=top)


def _draw(canvas: Canvas, stretches: Sequence[Sequence[tuple[int, float]]]) -> None:
    few = sum(map(len, stretches)) <= 30
    for stretch in stretches:
        points = [Point(number, value) for number, value in stretch]
        if len(points) > 1:
            canvas.line(points, LINE)
        for point in points if few else ():
            canvas.mark(point, LINE, "circle")


def _draw_accepts(canvas: Canvas, track: Track) -> None:
    """A line for each acceptance, named where there is room for it."""
    end = -math.inf
    for number, accept in track.accepts:
        top = Point(number, canvas.y.high)
        canvas.line([Point(number, canvas.y.low), top], INK, width=1.5, dash=() if accept.release else (2, 3), opacity=0.5)
        label, pixel = "release" if accept.release else "accepted", canvas.pixel(top)
        if pixel.x > end:
            canvas.text(pixel, label, dx=5, dy=11, size=12)
            end = pixel.x + text_width(label, 12) + 5


def _check(number: int, check: CheckLine) -> tuple[str, str, str]:
    return str(number + 1), shown_commit(check), check.when


def _power(power: int) -> str:
    return f"{10.0**power:g}" if -3 <= power <= 3 else f"10^{power}"
