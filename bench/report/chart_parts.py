"""What the charts share: axes with round ticks, where labels go, and numbers in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from bench.report.drawing import FONT_SIZE, Axis, Box, Point, text_width, visible
from bench.report.model import Candidate, TaskEvidence
from bench.report.numbers import Unit, quality_unit, shown

# ---------------------------------------------------------------------------------------------- axes


def linear_axis(values: Iterable[float], title: str, unit: Unit = "number", *, exact: bool = False) -> Axis:
    """An axis around the values with about five round ticks; ``exact`` ends at the values, and a share stays within 0 and 1."""
    ends = list(values)
    low, high = min(ends), max(ends)
    pad = 0.0 if exact else 0.06 * (high - low) or max(abs(high) * 0.1, 0.05)
    least = 0.0 if low >= 0 else -math.inf
    low, high = max(low - pad, least), high + pad
    # Bytes are read in powers of 1,024.
    size = 1024.0 ** math.floor(math.log(high, 1024)) if unit == "bytes" and high >= 1 else 1.0
    step = size * 10 ** math.floor(math.log10((high - low) / size / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (factor * step) <= 6)
    ticks = [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    if unit == "share":
        ticks = [tick for tick in ticks if -1.0001 <= tick <= 1.0001]
    return Axis(low, high, title, False, tuple((tick, tick_label(tick, unit)) for tick in ticks))


def log_axis(values: Iterable[float], title: str, unit: Unit) -> Axis:
    """An axis around the values with round ticks."""
    ends = list(values)
    low, high = min(ends) / 1.5, max(ends) * 1.5
    ticks = _powers_of_2(low, high) if unit == "bytes" else log_ticks(low, high)
    return Axis(low, high, title, True, tuple((tick, tick_label(tick, unit)) for tick in ticks))


def _powers_of_2(low: float, high: float) -> list[float]:
    first, last = math.ceil(math.log2(low)), math.floor(math.log2(high))
    return [2.0**power for power in range(first, last + 1, max(1, math.ceil((last - first) / 6)))]


def tick_label(value: float, unit: Unit) -> str:
    """A round number: "40 %", "0.001", "1,000", "5e-5"."""
    if unit == "share":
        return f"{100 * value:.3g} %"
    if unit in ("seconds", "bytes", "count"):
        return shown(value, unit)
    return f"{value:.3g}".replace("e-0", "e-") if abs(value) < 1000 else f"{value:,.0f}"


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers on a logarithmic axis: 1, 2, 5 in a decade where there are few decades, powers of ten thinned out where many."""
    first, last, decades = math.floor(math.log10(low)), math.ceil(math.log10(high)), math.log10(high / low)
    factors = (1, 2, 5) if decades <= 1.5 else (1, 3) if decades <= 3 else (1,)
    step = max(1, math.ceil((last - first) / 7))
    return [
        f * 10.0**p
        for p in range(first, last + 1, step)
        for f in factors
        if low <= f * 10.0**p * 1.0000001 and f * 10.0**p <= high * 1.0000001
    ]


def apart(sizes: Sequence[int]) -> list[int]:
    """The sizes that have room for a label each on a logarithmic axis, the largest kept."""
    room = math.log(sizes[-1] / sizes[0]) / 8
    kept = [sizes[-1]]
    for size in reversed(sizes[:-1]):
        if math.log(kept[-1] / size) >= room:
            kept.append(size)
    return kept[::-1]


def ends_of(candidates: Iterable[Candidate], name: str) -> list[float]:
    return [end for c in candidates for end in c.measures[name] if end is not None]


def value_of(candidate: Candidate, name: str) -> float:
    return candidate.measures[name].value


def name_of(candidate: Candidate) -> str:
    return visible(candidate.strategy)


def words_of(name: str) -> str:
    return visible(name).replace("_", " ")


def metric_of(task: TaskEvidence) -> str:
    words = words_of(task.metric)
    return words[:1].upper() + words[1:]


def strategies(things: Sequence[object] | Mapping[str, object]) -> str:
    return f"{len(things)} strateg{'y' if len(things) == 1 else 'ies'}"


def percent(value: float) -> str:
    return shown(value, "share")


def quality(task: TaskEvidence, value: float) -> str:
    return shown(value, quality_unit(task))


# ---------------------------------------------------------------------------------------------- where labels go


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The places moved apart, in their order, to at least ``gap`` from each other and, where there is room, within the bounds."""
    order = sorted(range(len(places)), key=lambda i: (places[i], i))
    found = [min(max(place, low), high) for place in places]
    for before, after in pairwise(order):
        found[after] = max(found[after], found[before] + gap)
    ceiling = high
    for index in reversed(order):
        found[index] = min(found[index], ceiling)
        ceiling = found[index] - gap
    return found


_DIRECTIONS = ((1, 0), (1, -0.7), (1, 0.7), (0, -1), (0, 1), (-1, 0), (-1, -0.7), (-1, 0.7))


def place_labels(
    points: Sequence[Point], labels: Sequence[str], taken: Sequence[Box], lines: Sequence[Box], within: Box
) -> list[tuple[Box, float]]:
    """For each point in pixels a box for its label and the distance it had to move, in the order of the points.

    Each label takes the nearest of the places around its point (8 directions, 4 distances) that covers the least of ``taken``, of the
    other points and of the labels before it, then of ``lines``, which count a tenth. Points that are crowded come first.
    """
    near = [Box(p.x - 7, p.y - 7, p.x + 7, p.y + 7) for p in points]
    crowd = [sum(abs(p.x - q.x) < 90 and abs(p.y - q.y) < 18 for q in points) for p in points]
    placed: dict[int, tuple[Box, float]] = {}
    for index in sorted(range(len(points)), key=lambda i: (-crowd[i], points[i].y, i)):
        best: tuple[float, Box, float] | None = None
        for distance in (11.0, 20.0, 34.0, 52.0):
            for dx, dy in _DIRECTIONS:
                box = _label_box(points[index], labels[index], dx * distance, dy * distance * (1 if dx else 1.15))
                outside = (box.right - box.left) * (box.bottom - box.top) - box.overlap(within)
                solid = [*taken, *near[:index], *near[index + 1 :], *(b for b, _ in placed.values())]
                cost = 20 * outside + 10 * sum(map(box.overlap, solid)) + sum(map(box.overlap, lines)) + 3 * (distance - 11) + (dx < 1)
                if best is None or cost < best[0]:
                    best = (cost, box, distance)
        assert best is not None
        placed[index] = best[1], best[2]
    return [placed[index] for index in range(len(points))]


def _label_box(point: Point, label: str, dx: float, dy: float) -> Box:
    width, half = text_width(label), FONT_SIZE / 2 + 1
    left = point.x + dx - (0 if dx > 0 else width if dx < 0 else width / 2)
    return Box(left, point.y + dy - half, left + width, point.y + dy + half)
