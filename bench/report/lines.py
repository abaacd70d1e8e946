"""Charts of lines: learning curves and total cost over volume, with where the best strategy changes.

As `bench.report.charts`, which offers them with the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any

from bench.report.chart_parts import apart, linear_axis, log_axis, log_ticks, metric_of, quality, spread, tick_label, value_of
from bench.report.drawing import (
    DASHES,
    FONT_SIZE,
    INK,
    PALETTE,
    SHAPES,
    Align,
    Axis,
    Box,
    Canvas,
    Chart,
    Point,
    shortened,
    text_width,
    visible,
)
from bench.report.model import Measure, TaskEvidence
from bench.report.numbers import quality_unit, shown, with_interval
from bench.result.text import NONE, shown_usd


def learning_curves(task: TaskEvidence) -> Chart | None:
    """The metric against the number of labelled examples, and where the strategy that is ahead changes, with 95 % intervals.

    Between sizes values are interpolated linearly in log2 of the size, as in `bench.result.curve`. The interval of a change of the lead
    is that of the two strategies' crossover; the table has the crossovers of all. None for fewer than two sizes.
    """
    series: dict[str, dict[int, Measure]] = {}
    for row in task.curves:
        if row["value"] is not None:
            found = Measure(row["value"], row.get("ci_low"), row.get("ci_high"))
            series.setdefault(row["strategy"], {})[row["train_examples"]] = found
    sizes = sorted({size for points in series.values() for size in points})
    if len(sizes) < 2:
        return None
    standings = {c.strategy: c.standing for c in task.candidates}
    deployed = {name: points for name, points in series.items() if standings.get(name, "contender") == "contender"}
    changes = _lead_changes(deployed, sizes, 1 if task.higher_is_better else -1)
    x = Axis(sizes[0] / 1.06, sizes[-1] * 1.06, "labelled training examples", True, tuple((size, f"{size:,}") for size in apart(sizes)))
    ends = [end for points in series.values() for m in points.values() for end in m if end is not None]
    y = linear_axis(ends, f"{metric_of(task)} ({'higher' if task.higher_is_better else 'lower'} is better)", quality_unit(task))
    canvas = Canvas(x, y, 310, right=_margin(series), top=62, headroom=46)
    crossovers = {(_behind(row), row["ahead_at_largest"]): row for row in task.crossovers if row["crossover"] is not None}
    found_at = []
    for at, old, new in changes:
        crossed = crossovers.get((old, new))
        if crossed and not math.isclose(crossed["crossover"], at, rel_tol=0.05):
            crossed = None  # they cross more than once, and a crossover is the last time
        found_at.append((at, old, new, f"{at:,.0f}{_span(crossed, sizes) if crossed else ''}", crossed))
    _changes(canvas, [(at, f"{shortened(new, 18)} ahead from {where}") for at, _, new, where, _ in found_at])
    for name, points in series.items():
        colour, dash, shape = _style(task, name)
        places = [Point(size, points[size].value) for size in sorted(points)]
        canvas.line(places, colour, dash=dash)
        for size, measure in points.items():
            if measure.low is not None and measure.high is not None:
                canvas.line([Point(size, measure.low), Point(size, measure.high)], colour, width=1.2, opacity=0.7)
        for place in places:
            canvas.mark(place, colour, shape)
    for at, _, new, _, crossed in found_at:
        if crossed:
            _interval(canvas, _value_at(series[new], at), crossed["low"], crossed["high"])
    _end_labels(task, canvas, {name: Point(max(points), points[max(points)].value) for name, points in series.items()})
    best = _ahead(deployed, sizes[-1], 1 if task.higher_is_better else -1)
    text = f"{metric_of(task)} of {len(series)} strategies with {sizes[0]:,} to {sizes[-1]:,} labelled examples."
    text += f" With the most, {visible(best)} is ahead ({quality(task, deployed[best][sizes[-1]].value)})." if best else ""
    text += "".join(f" {visible(new)} overtakes {visible(old)} at about {where} examples." for _, old, new, where, _ in found_at)
    if best and not changes:
        text += " The same one is ahead at all sizes."
    overtaken: dict[str, list[str]] = {}
    for (old, new), row in crossovers.items():
        overtaken.setdefault(new, []).append(f"{visible(old)} at {row['crossover']:,.0f}{_span(row, sizes)}")
    rows = tuple(
        (
            visible(name), *(with_interval(points[s], quality_unit(task)) if s in points else NONE for s in sizes),
            *(["; ".join(overtaken.get(name, [])) or NONE] if overtaken else []),
        )
        for name, points in series.items()
    )  # fmt: skip
    title = "Learning curves"
    head = ("strategy", *(f"{size:,} examples" for size in sizes), *(["overtakes, at examples [95 %]"] if overtaken else []))
    return Chart(canvas.svg(title, text, f"{task.task}\n{task.model}"), title, text, (head, rows))


def _behind(crossover: Mapping[str, Any]) -> str:
    """Of the two strategies the one that is overtaken."""
    return str(crossover["b"] if crossover["ahead_at_largest"] == crossover["a"] else crossover["a"])


def _span(crossover: Mapping[str, Any], sizes: Sequence[int]) -> str:
    """The interval of a crossover; a bound that is None lies beyond the sizes."""
    low, high = crossover["low"], crossover["high"]
    return f" [{f'<{sizes[0]:,}' if low is None else f'{low:,.0f}'}, {f'>{sizes[-1]:,}' if high is None else f'{high:,.0f}'}]"


def _value_at(points: Mapping[int, Measure], size: float) -> float:
    """Interpolated linearly in the logarithm of the size."""
    before, after = max(s for s in points if s <= size), min(s for s in points if s >= size)
    share = math.log(size / before) / math.log(after / before) if before < after else 0.0
    return points[before].value + share * (points[after].value - points[before].value)


def _interval(canvas: Canvas, height: float, low: float | None, high: float | None) -> None:
    """A horizontal bar between two sizes, with a stroke at its ends but for one beyond the plot."""
    ends = [canvas.x.low if low is None else canvas.x.clipped(low), canvas.x.high if high is None else canvas.x.clipped(high)]
    canvas.line([Point(end, height) for end in ends], INK, width=6, opacity=0.3)  # the lines stay visible below it
    for end, bound in zip(ends, (low, high), strict=True):
        if bound is not None:
            pixel = canvas.pixel(Point(end, height))
            canvas.pixel_line([Point(pixel.x, pixel.y - 6), Point(pixel.x, pixel.y + 6)], INK)


def _ahead(series: Mapping[str, Mapping[int, Measure]], size: int, sign: int) -> str | None:
    here = [name for name in series if size in series[name]]
    return max(here, key=lambda name: sign * series[name][size].value, default=None)


def _lead_changes(series: Mapping[str, Mapping[int, Measure]], sizes: Sequence[int], sign: int) -> list[tuple[float, str, str]]:
    """Where another strategy comes ahead: size, the one before, the new one; of those that were measured at both neighbouring sizes."""
    changes: list[tuple[float, str, str]] = []
    for low, high in pairwise(sizes):
        both = {name: points for name, points in series.items() if low in points and high in points}
        ahead, share = _ahead(both, low, sign), 0.0
        while ahead is not None:
            nearest: tuple[float, float, str] | None = None
            rise = sign * (both[ahead][high].value - both[ahead][low].value)
            for name, points in both.items():
                gain = sign * (points[high].value - points[low].value) - rise
                behind = sign * (both[ahead][low].value - points[low].value)
                if gain > 0 and share <= behind / gain < 1 and name != ahead:
                    nearest = min(nearest or (2.0, 0.0, ""), (behind / gain, -gain, name))
            if nearest is None:
                break
            changes.append((low * (high / low) ** nearest[0], ahead, nearest[2]))
            share, ahead = nearest[0], nearest[2]
    return changes


def break_even(task: TaskEvidence, refreshes: int = 0) -> Chart | None:
    """What the contenders cost in all against the number of requests: set-up, the refreshes, and the requests.

    Without storage and the price of wrong answers. ``refreshes`` in all need the measure ``refresh_usd``. Where a strategy has neither
    set-up nor running cost, or no price, it is left out. None for fewer than two.
    """
    needed = {"setup_usd", "usd_per_1000_requests", *(["refresh_usd"] if refreshes else [])}
    costs: dict[str, tuple[float, float]] = {}
    for c in task.candidates:
        if c.standing == "contender" and needed <= c.measures.keys():
            once = value_of(c, "setup_usd") + (refreshes * value_of(c, "refresh_usd") if refreshes else 0)
            if once + value_of(c, "usd_per_1000_requests") > 0:
                costs[c.strategy] = once, value_of(c, "usd_per_1000_requests") / 1000
    if len(costs) < 2:
        return None
    meetings = [(b[0] - a[0]) / (a[1] - b[1]) for a, b in combinations(costs.values(), 2) if a[1] != b[1]]
    meetings = sorted(n for n in meetings if 1 <= n <= 1e12) or [1e2, 1e6]
    low, high = 10.0 ** math.floor(math.log10(meetings[0]) - 0.3), 10.0 ** math.ceil(math.log10(meetings[-1]) + 0.3)
    ranges = _cheapest(costs)
    x = Axis(low, high, "requests answered", True, tuple((tick, tick_label(tick, "count")) for tick in log_ticks(low, high)))
    ends = [total for once, each in costs.values() for n in (low, high) if (total := once + each * n) > 0]
    y = log_axis(ends, f"total cost, USD{f', with {refreshes:,} refreshes' if refreshes else ''}", "usd")
    canvas = Canvas(x, y, 310, left=70, right=_margin(costs), top=62, headroom=46)
    inside = [(start, name) for start, name in ranges[1:] if low < start < high]
    _changes(canvas, [(start, f"{shortened(name, 18)} cheapest from {shown(start, 'count')}") for start, name in inside])
    numbers = [low * (high / low) ** (i / 48) for i in range(49)]
    for name, (once, each) in costs.items():
        colour, dash, _ = _style(task, name)
        drawn = [Point(n, once + each * n) for n in numbers if once + each * n > 0]
        # A flat line needs its two ends alone; the others bend on logarithmic axes.
        canvas.line(drawn if each and once else [drawn[0], drawn[-1]], colour, dash=dash)
    _end_labels(task, canvas, {name: Point(high, once + each * high) for name, (once, each) in costs.items()})
    cheap = [f"{visible(ranges[0][1])} is the cheapest of all to begin with"]
    cheap += [f"{visible(name)} from {shown(start, 'count')} requests on" for start, name in ranges[1:]]
    extra = f", {refreshes:,} refreshes" if refreshes else ""
    text = f"Set-up{extra} and requests of {len(costs)} strategies, whatever their quality: {'; '.join(cheap)}."
    rows = tuple(
        (visible(name), shown_usd(once), shown_usd(1000 * each), *(shown_usd(once + each * n) for n in (1e3, 1e5, 1e7)))
        for name, (once, each) in costs.items()
    )
    once_head = "set-up and refreshes, USD" if refreshes else "set-up, USD"
    head = ("strategy", once_head, "USD per 1,000 requests", *(f"total at {n:,} requests" for n in (1_000, 100_000, 10_000_000)))
    title = f"Break-even over volume{f', with {refreshes:,} refreshes' if refreshes else ''}"
    return Chart(canvas.svg(title, text, f"{task.task}\n{task.model}"), title, text, (head, rows))


def _cheapest(costs: Mapping[str, tuple[float, float]]) -> list[tuple[float, str]]:
    """The lower envelope of the lines ``once + each * n``: from which volume on which strategy costs least."""
    name = min(costs, key=lambda n: costs[n])
    found = [(0.0, name)]
    while True:
        once, each = costs[name]
        later = [((o - once) / (each - e), e, n) for n, (o, e) in costs.items() if e < each]
        if not later:
            return found
        start, _, name = min(later)
        found.append((start, name))


def _end_labels(task: TaskEvidence, canvas: Canvas, ends: Mapping[str, Point]) -> None:
    """Names right of the plot at the height of the lines' ends, moved apart."""
    pixels = [canvas.pixel(point) for point in ends.values()]
    heights = spread([pixel.y for pixel in pixels], FONT_SIZE + 3, 4, canvas.height - 2)
    for name, pixel, height in zip(ends, pixels, heights, strict=True):
        colour, _, _ = _style(task, name)
        edge = canvas.width
        canvas.pixel_line([Point(max(pixel.x, edge) + 2, pixel.y), Point(edge + 16, height)], colour)
        canvas.text(Point(edge + 19, height + 4.5), shortened(name))


def _changes(canvas: Canvas, changes: Sequence[tuple[float, str]]) -> None:
    """Dotted lines across the plot, with what they mean above it on two lines of text where there is room; the description has all."""
    taken: list[Box] = []
    for at, text in changes:
        canvas.line([Point(at, canvas.y.low), Point(at, canvas.y.high)], INK, width=1.5, dash=(3, 4), opacity=0.7)
        pixel = canvas.pixel(Point(at, canvas.y.high))
        align: Align = "right" if pixel.x > canvas.width / 2 else "left"
        start = pixel.x - (text_width(text, 12) if align == "right" else 0)
        for dy in (-5, -19):
            box = Box(start - 6, dy - 10, start + text_width(text, 12) + 6, dy + 2)
            if not any(box.overlap(other) for other in taken):
                canvas.text(pixel, text, dy=dy, align=align, size=12)
                taken.append(box)
                break


def _margin(names: Iterable[str]) -> int:
    return math.ceil(max(text_width(shortened(name)) for name in names)) + 26


def _style(task: TaskEvidence, strategy: str) -> tuple[str, tuple[int, ...], str]:
    """Colour, dash and shape of a strategy: the same in all charts of the task."""
    index = next((i for i, c in enumerate(task.candidates) if c.strategy == strategy), len(task.candidates))
    return PALETTE[index % len(PALETTE)], DASHES[index % len(DASHES)], SHAPES[index % len(SHAPES)]
