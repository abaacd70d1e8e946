"""The charts of the decision report: each takes measured values and returns a static SVG with a description and the table behind it.

None where nothing, or only one thing, was measured that the chart would show. Strategies that lack a measure are left out and named in
the description.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from bench.report.bars import calibration, error_kinds, hallucination_bars, memory_parts, utilities, weightings
from bench.report.chart_parts import (
    ends_of,
    linear_axis,
    log_axis,
    metric_of,
    name_of,
    place_labels,
    quality,
    strategies,
    value_of,
)
from bench.report.drawing import (
    INK,
    PALETTE,
    SHAPES,
    Box,
    Canvas,
    Chart,
    Point,
    legend_height,
    shortened,
    text_width,
    visible,
)
from bench.report.lines import break_even, learning_curves
from bench.report.model import Candidate, TaskEvidence
from bench.report.numbers import Unit, quality_unit, shown, with_interval

__all__ = [
    "Chart", "break_even", "calibration", "error_kinds", "forgetting_against_quality", "hallucination_bars", "learning_curves",
    "memory_parts", "pareto", "utilities", "weightings",
]  # fmt: skip

Horizontal = Literal["usd_per_1000_requests", "peak_memory_bytes", "latency"]


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
    units: dict[str, Unit] = {"usd_per_1000_requests": "usd", "peak_memory_bytes": "bytes"}
    unit = units.get(name, "seconds")
    drawn = [c for c in task.candidates if c.standing in ("contender", "oracle") and {"quality", name} <= c.measures.keys()]
    contenders = [c for c in drawn if c.standing == "contender"]
    if not contenders or len(drawn) < 2:
        return None
    sign = 1 if task.higher_is_better else -1
    front = sorted((c for c in contenders if not any(_beats(o, c, name, sign) for o in contenders)), key=lambda c: value_of(c, name))
    lead = ", ".join(f"{name_of(c)} ({quality(task, value_of(c, 'quality'))} at {shown(value_of(c, name), unit)})" for c in front)
    text = f"{metric_of(task)} against {words} for {strategies(drawn)}; on the front, where no other is as good with less {short}: {lead}."
    return _scatter(task, drawn, front, name, words, unit, f"Quality against {short}", text)


def forgetting_against_quality(task: TaskEvidence) -> Chart | None:
    """Quality on the task against what the strategy forgot of the pretraining: the first measure of `_FORGETTING` that any has.

    Strategies that train nothing have the base's weights: they forget nothing by construction, and are left out.
    """
    contenders = [c for c in task.candidates if c.standing == "contender" and "quality" in c.measures]
    name = next((name for name in _FORGETTING if any(f"forgetting.{name}" in c.measures for c in contenders)), None)
    if name is None:
        return None
    words, unit = _FORGETTING[name]
    key = f"forgetting.{name}"
    drawn = [c for c in contenders if key in c.measures]
    values = ", ".join(f"{name_of(c)} {shown(value_of(c, key), unit)} ({quality(task, value_of(c, 'quality'))})" for c in drawn)
    text = f"Forgetting ({words}) and, in brackets, {metric_of(task)}: {values}. Strategies that train nothing keep the base's weights."
    return _scatter(task, drawn, [], key, words, unit, "Forgetting against quality", text)


_FORGETTING: dict[str, tuple[str, Unit]] = {
    "known_recall_drop": ("drop in recall of facts known before", "share"),
    "skill_drop": ("drop in a skill shown by a few examples", "share"),
    "prose_nats_increase": ("rise in cross-entropy of plain prose, nats per token", "number"),
    "kl_to_base": ("divergence from the base model, nats per token", "number"),
    "behavioural_recall_drop": ("drop in recall, asked as the task is asked", "share"),
}


def _scatter(
    task: TaskEvidence,
    drawn: Sequence[Candidate],
    front: Sequence[Candidate],
    name: str,
    words: str,
    unit: Unit,
    title: str,
    text: str,
) -> Chart:
    floors = [c for c in task.candidates if c.standing == "floor" and "quality" in c.measures]
    best = max if task.higher_is_better else min
    floor = best(floors, key=lambda c: value_of(c, "quality"), default=None)
    families = list(dict.fromkeys(c.family for c in task.candidates if c.standing in ("contender", "oracle")))
    used = {c.family for c in drawn}
    legend = [(PALETTE[i % 8], SHAPES[i % 8], shortened(family, 40)) for i, family in enumerate(families) if family in used]
    if front:
        legend.append((INK, "stroke", "on the front: filled"))
    heights = [*ends_of(drawn, "quality"), *([value_of(floor, "quality")] if floor else [])]
    y = linear_axis(heights, f"{metric_of(task)} ({'higher' if task.higher_is_better else 'lower'} is better)", quality_unit(task))
    values, ends = [value_of(c, name) for c in drawn], ends_of(drawn, name)
    wide = min(values) > 0 and max(values) >= 10 * min(values)
    inside = [end for end in ends if min(values) / 4 <= end <= 4 * max(values)]
    x = log_axis(inside, words, unit) if wide else linear_axis(ends, words, unit)
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
    for candidate in drawn:
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
    for candidate in drawn:
        index = families.index(candidate.family) % 8
        at = Point(value_of(candidate, name), value_of(candidate, "quality"))
        canvas.mark(at, PALETTE[index], SHAPES[index], filled=candidate in front or not front)
    labels = [shortened(c.strategy) + (" (oracle)" if c.standing == "oracle" else "") for c in drawn]
    points = [canvas.pixel(Point(value_of(c, name), value_of(c, "quality"))) for c in drawn]
    within = Box(2, -8, canvas.width + canvas.right - 4, canvas.height - 2)
    for point, label, (box, distance) in zip(points, labels, place_labels(points, labels, taken, lines, within), strict=True):
        if distance > 20:
            canvas.leader(point, box)
        canvas.text(Point(box.left, box.bottom - 5), label)
    lacking = [c for c in task.candidates if c.standing == "contender" and c not in drawn]
    if lacking and not name.startswith("forgetting."):
        text += f" Not measured: {', '.join(map(name_of, lacking))}."
    if floor:
        text += f" The best floor, {name_of(floor)}, has {quality(task, value_of(floor, 'quality'))}."
    head = ("strategy", "family", metric_of(task), words, *(["on the front"] if front else []))
    rows = tuple(
        (
            visible(c.strategy), visible(c.family) + (", oracle" if c.standing == "oracle" else ""),
            with_interval(c.measures["quality"], quality_unit(task)), with_interval(c.measures[name], unit),
            *(["yes" if c in front else "no"] if front else []),
        )
        for c in [*drawn, *(lacking if not name.startswith("forgetting.") else [])] if {"quality", name} <= c.measures.keys()
    )  # fmt: skip
    return Chart(canvas.svg(title, text, f"{task.task}\n{task.model}\n{name}"), title, text, (head, rows))


def _beats(other: Candidate, one: Candidate, name: str, sign: int) -> bool:
    better = sign * (value_of(other, "quality") - value_of(one, "quality"))
    less = value_of(one, name) - value_of(other, name)
    return better >= 0 and less >= 0 and (better > 0 or less > 0)


def _around(a: Point, b: Point) -> Box:
    return Box(min(a.x, b.x) - 3, min(a.y, b.y) - 3, max(a.x, b.x) + 3, max(a.y, b.y) + 3)


def _count(task: TaskEvidence, name: str) -> int:
    return sum(name in c.measures for c in task.candidates if c.standing == "contender")
