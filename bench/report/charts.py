"""The charts of the decision report: each takes measured values and returns a static SVG with a description and the table behind it.

None where nothing, or only one thing, was measured that the chart would show. Strategies that lack a measure are left out and named in
the description.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations, pairwise
from typing import Literal

from bench.cost.total_text import usd
from bench.report.bars import calibration, error_kinds, hallucination_bars, memory_parts, utilities, weightings
from bench.report.chart_parts import (
    apart,
    decimal,
    ends_of,
    linear_axis,
    log_axis,
    log_ticks,
    metric_of,
    name_of,
    place_labels,
    quality,
    spread,
    strategies,
    value_of,
    with_interval,
)
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
    legend_height,
    shortened,
    text_width,
    visible,
)
from bench.report.model import Candidate, Measure, TaskEvidence
from bench.result.text import NONE, shown_bytes, shown_count, shown_seconds

__all__ = [
    "Chart", "break_even", "calibration", "error_kinds", "forgetting_against_quality", "hallucination_bars", "learning_curves",
    "memory_parts", "pareto", "utilities", "weightings",
]  # fmt: skip

Horizontal = Literal["usd_per_1000_requests", "peak_memory_bytes", "latency"]

# ---------------------------------------------------------------------------------------------- quality against something


def pareto(task: TaskEvidence, x: Horizontal) -> Chart | None:
    """Quality against running cost, peak memory or latency, with 95 % intervals; the front is over these two alone, by values.

    ``latency`` is the 95th percentile where it was probed for most contenders, else the seconds that 1,000 requests took in batches.
    """
    name = x if x != "latency" else max(("latency_p95_seconds", "seconds_per_1000_requests"), key=lambda key: _count(task, key))
    words = {
        "usd_per_1000_requests": "running cost, USD per 1,000 requests",
        "peak_memory_bytes": "peak memory",
        "latency_p95_seconds": "latency, 95th percentile",
        "seconds_per_1000_requests": "time for 1,000 requests, in batches",
    }[name]
    short = {"usd_per_1000_requests": "running cost", "peak_memory_bytes": "peak memory"}.get(name, "time to answer")
    show: Callable[[float], str] = {"usd_per_1000_requests": usd, "peak_memory_bytes": lambda value: shown_bytes(round(value))}.get(
        name, shown_seconds
    )
    shown = [c for c in task.candidates if c.standing in ("contender", "oracle") and {"quality", name} <= c.measures.keys()]
    contenders = [c for c in shown if c.standing == "contender"]
    if not contenders or len(shown) < 2:
        return None
    sign = 1 if task.higher_is_better else -1
    front = sorted((c for c in contenders if not any(_beats(o, c, name, sign) for o in contenders)), key=lambda c: value_of(c, name))
    lead = ", ".join(f"{name_of(c)} ({quality(task, value_of(c, 'quality'))} at {show(value_of(c, name))})" for c in front)
    text = f"{metric_of(task)} against {words} for {strategies(shown)}; on the front, where no other is as good with less {short}: {lead}."
    return _scatter(task, shown, front, name, words, show, f"Quality against {short}", text)


def forgetting_against_quality(task: TaskEvidence) -> Chart | None:
    """Quality on the task against what the strategy forgot of the pretraining: the first measure of `_FORGETTING` that any has.

    Strategies that train nothing have the base's weights: they forget nothing by construction, and are left out.
    """
    contenders = [c for c in task.candidates if c.standing == "contender" and "quality" in c.measures]
    name = next((name for name in _FORGETTING if any(f"forgetting.{name}" in c.measures for c in contenders)), None)
    if name is None:
        return None
    words, is_share = _FORGETTING[name]
    key = f"forgetting.{name}"
    shown = [c for c in contenders if key in c.measures]
    values = ", ".join(f"{name_of(c)} {decimal(value_of(c, key), is_share)} ({quality(task, value_of(c, 'quality'))})" for c in shown)
    text = f"Forgetting ({words}) and, in brackets, {metric_of(task)}: {values}. Strategies that train nothing keep the base's weights."
    return _scatter(task, shown, [], key, words, lambda value: decimal(value, is_share), "Forgetting against quality", text, is_share)


_FORGETTING = {
    "known_recall_drop": ("drop in recall of facts known before", True),
    "skill_drop": ("drop in a skill shown by a few examples", True),
    "prose_nats_increase": ("rise in cross-entropy of plain prose, nats per token", False),
    "kl_to_base": ("divergence from the base model, nats per token", False),
    "behavioural_recall_drop": ("drop in recall, asked as the task is asked", True),
}


def _scatter(
    task: TaskEvidence,
    shown: Sequence[Candidate],
    front: Sequence[Candidate],
    name: str,
    words: str,
    show: Callable[[float], str],
    title: str,
    text: str,
    share: bool = False,
) -> Chart:
    floors = [c for c in task.candidates if c.standing == "floor" and "quality" in c.measures]
    best = max if task.higher_is_better else min
    floor = best(floors, key=lambda c: value_of(c, "quality"), default=None)
    families = list(dict.fromkeys(c.family for c in task.candidates if c.standing in ("contender", "oracle")))
    used = {c.family for c in shown}
    legend = [(PALETTE[i % 8], SHAPES[i % 8], shortened(family, 40)) for i, family in enumerate(families) if family in used]
    if front:
        legend.append((INK, "stroke", "on the front: filled"))
    heights = [*ends_of(shown, "quality"), *([value_of(floor, "quality")] if floor else [])]
    y = linear_axis(heights, f"{metric_of(task)} ({'higher' if task.higher_is_better else 'lower'} is better)", share=task.is_share)
    values, ends = [value_of(c, name) for c in shown], ends_of(shown, name)
    wide = min(values) > 0 and max(values) >= 10 * min(values)
    inside = [end for end in ends if min(values) / 4 <= end <= 4 * max(values)]
    named = _tick if show is usd else show
    x = log_axis(inside, words, named) if wide else linear_axis(ends, words, share=share, show=named)
    canvas = Canvas(x, y, 310, top=legend_height(legend) + 26)
    canvas.legend(legend)
    taken, lines = [], []
    if floor:
        level = value_of(floor, "quality")
        canvas.line([Point(x.low, level), Point(x.high, level)], INK, width=1.5, dash=(5, 4), opacity=0.7)
        label = f"best floor: {shortened(floor.strategy)}"
        pixel = canvas.pixel(Point(x.high, level))
        canvas.text(pixel, label, dx=-4, dy=-7, align="right", size=12)
        taken.append(Box(pixel.x - 4 - text_width(label, 12), pixel.y - 20, pixel.x, pixel.y - 4))
        lines.append(_around(canvas.pixel(Point(x.low, level)), pixel))
    if front:
        steps = [Point(value_of(c, name), value_of(c, "quality")) for c in front]
        corners = [p for a, b in pairwise(steps) for p in (Point(b.x, a.y), b)]
        canvas.line([steps[0], *corners], INK, width=1.5, opacity=0.55)
        path = [canvas.pixel(p) for p in [steps[0], *corners]]
        lines += [_around(a, b) for a, b in pairwise(path)]
    for candidate in shown:
        colour = PALETTE[families.index(candidate.family) % 8]
        at = Point(value_of(candidate, name), value_of(candidate, "quality"))
        across, up = candidate.measures[name], candidate.measures["quality"]
        bars = []
        if up.low is not None and up.high is not None:
            bars.append([Point(at.x, y.clipped(up.low)), Point(at.x, y.clipped(up.high))])
        if across.low is not None and across.high is not None:
            bars.append([Point(x.clipped(across.low), at.y), Point(x.clipped(across.high), at.y)])
        for ends_of_bar in bars:
            canvas.line(ends_of_bar, colour, width=1.5, opacity=0.8)
            lines.append(_around(*map(canvas.pixel, ends_of_bar)))
    for candidate in shown:
        index = families.index(candidate.family) % 8
        at = Point(value_of(candidate, name), value_of(candidate, "quality"))
        canvas.mark(at, PALETTE[index], SHAPES[index], filled=candidate in front or not front)
    labels = [shortened(c.strategy) + (" (oracle)" if c.standing == "oracle" else "") for c in shown]
    points = [canvas.pixel(Point(value_of(c, name), value_of(c, "quality"))) for c in shown]
    within = Box(2, -8, canvas.width + canvas.right - 4, canvas.height - 2)
    for point, label, (box, distance) in zip(points, labels, place_labels(points, labels, taken, lines, within), strict=True):
        if distance > 20:
            canvas.leader(point, box)
        canvas.text(Point(box.left, box.bottom - 5), label)
    lacking = [c for c in task.candidates if c.standing == "contender" and c not in shown]
    if lacking and not name.startswith("forgetting."):
        text += f" Not measured: {', '.join(map(name_of, lacking))}."
    if floor:
        text += f" The best floor, {name_of(floor)}, has {quality(task, value_of(floor, 'quality'))}."
    head = ("strategy", "family", metric_of(task), words, *(["on the front"] if front else []))
    rows = tuple(
        (
            visible(c.strategy), visible(c.family) + (", oracle" if c.standing == "oracle" else ""),
            with_interval(c.measures["quality"], lambda value: quality(task, value)), with_interval(c.measures[name], show),
            *(["yes" if c in front else "no"] if front else []),
        )
        for c in [*shown, *(lacking if not name.startswith("forgetting.") else [])] if {"quality", name} <= c.measures.keys()
    )  # fmt: skip
    return Chart(canvas.svg(title, text, f"{task.task}\n{task.model}\n{name}"), title, text, (head, rows))


def _beats(other: Candidate, one: Candidate, name: str, sign: int) -> bool:
    better = sign * (value_of(other, "quality") - value_of(one, "quality"))
    less = value_of(one, name) - value_of(other, name)
    return better >= 0 and less >= 0 and (better > 0 or less > 0)


def _around(a: Point, b: Point) -> Box:
    return Box(min(a.x, b.x) - 3, min(a.y, b.y) - 3, max(a.x, b.x) + 3, max(a.y, b.y) + 3)


# ---------------------------------------------------------------------------------------------- lines


def learning_curves(task: TaskEvidence) -> Chart | None:
    """The metric against the number of labelled examples, with 95 % intervals, and where the strategy that is ahead changes.

    Between sizes values are interpolated linearly in log2 of the size, as in `bench.result.curve`. None for fewer than two sizes.
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
    y = linear_axis(ends, f"{metric_of(task)} ({'higher' if task.higher_is_better else 'lower'} is better)", share=task.is_share)
    canvas = Canvas(x, y, 310, right=_margin(series), top=62, headroom=46)
    _changes(canvas, [(at, f"{shortened(ahead, 18)} ahead from {at:,.0f}") for at, _, ahead in changes])
    for name, points in series.items():
        colour, dash, shape = _style(task, name)
        places = [Point(size, points[size].value) for size in sorted(points)]
        canvas.line(places, colour, dash=dash)
        for size, measure in points.items():
            if measure.low is not None and measure.high is not None:
                canvas.line([Point(size, measure.low), Point(size, measure.high)], colour, width=1.2, opacity=0.7)
        for place in places:
            canvas.mark(place, colour, shape)
    _end_labels(task, canvas, {name: Point(max(points), points[max(points)].value) for name, points in series.items()})
    best = _ahead(deployed, sizes[-1], 1 if task.higher_is_better else -1)
    text = f"{metric_of(task)} of {len(series)} strategies with {sizes[0]:,} to {sizes[-1]:,} labelled examples."
    text += f" With the most, {visible(best)} is ahead ({quality(task, deployed[best][sizes[-1]].value)})." if best else ""
    text += "".join(f" {visible(new)} overtakes {visible(old)} at about {at:,.0f} examples." for at, old, new in changes)
    if best and not changes:
        text += " The same one is ahead at all sizes."
    rows = tuple(
        (visible(name), *(with_interval(points[s], lambda v: quality(task, v)) if s in points else NONE for s in sizes))
        for name, points in series.items()
    )
    title = "Learning curves"
    head = ("strategy", *(f"{size:,} examples" for size in sizes))
    return Chart(canvas.svg(title, text, f"{task.task}\n{task.model}"), title, text, (head, rows))


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
    x = Axis(low, high, "requests answered", True, tuple((tick, shown_count(tick)) for tick in log_ticks(low, high)))
    ends = [total for once, each in costs.values() for n in (low, high) if (total := once + each * n) > 0]
    y = log_axis(ends, f"total cost, USD{f', with {refreshes:,} refreshes' if refreshes else ''}", _tick)
    canvas = Canvas(x, y, 310, left=70, right=_margin(costs), top=62, headroom=46)
    _changes(
        canvas, [(start, f"{shortened(name, 18)} cheapest from {shown_count(start)}") for start, name in ranges[1:] if low < start < high]
    )
    numbers = [low * (high / low) ** (i / 48) for i in range(49)]
    for name, (once, each) in costs.items():
        colour, dash, _ = _style(task, name)
        drawn = [Point(n, once + each * n) for n in numbers if once + each * n > 0]
        # A flat line needs its two ends alone; the others bend on logarithmic axes.
        canvas.line(drawn if each and once else [drawn[0], drawn[-1]], colour, dash=dash)
    _end_labels(task, canvas, {name: Point(high, once + each * high) for name, (once, each) in costs.items()})
    cheap = [f"{visible(ranges[0][1])} is the cheapest of all to begin with"]
    cheap += [f"{visible(name)} from {shown_count(start)} requests on" for start, name in ranges[1:]]
    extra = f", {refreshes:,} refreshes" if refreshes else ""
    text = f"Set-up{extra} and requests of {len(costs)} strategies, whatever their quality: {'; '.join(cheap)}."
    rows = tuple(
        (visible(name), usd(once), usd(1000 * each), *(usd(once + each * n) for n in (1e3, 1e5, 1e7)))
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


def _count(task: TaskEvidence, name: str) -> int:
    return sum(name in c.measures for c in task.candidates if c.standing == "contender")


def _tick(value: float) -> str:
    """Round dollars of an axis: "0.001", "1,000", and "5e-5" below."""
    digits = f"{value:.3g}"
    return digits.replace("e-0", "e-") if abs(value) < 1000 else f"{value:,.0f}"
