"""Charts with a row per strategy: stacked bars of shares, errors, memory and utility, and the dots of calibration.

As `bench.report.charts`, which offers them with the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from bench.report.chart_parts import ends_of, linear_axis, name_of, percent, strategies, value_of, words_of
from bench.report.drawing import PALETTE, SHAPES, Axis, Canvas, Chart, Point, contrast, legend_height, shortened, text_width, visible
from bench.report.model import TaskEvidence
from bench.report.numbers import Unit, shown, with_interval
from bench.result.text import NONE


def hallucination_bars(task: TaskEvidence) -> Chart | None:
    """Shares of right, wrong and abstained answers, from ``hallucination_rate`` and ``abstention_rate``; empty answers are no attempt."""
    names = ("hallucination_rate", "abstention_rate")
    drawn = [c for c in task.candidates if c.standing != "failed" and set(names) <= c.measures.keys()]
    if not drawn:
        return None
    parts = {}
    for c in drawn:
        wrong, abstained = (value_of(c, name) for name in names)
        parts[c.strategy] = {"right": max(1 - wrong - abstained, 0.0), "wrong (hallucinated)": wrong, "abstained": abstained}
    worst = max(drawn, key=lambda c: value_of(c, names[0]))
    text = f"Shares of right, wrong and abstained answers of {strategies(drawn)}: the most wrong has {name_of(worst)}"
    text += f" ({with_interval(worst.measures[names[0]], 'share')}), the fewest "
    least = min((c for c in drawn if c.standing == "contender"), key=lambda c: value_of(c, names[0]), default=worst)
    text += f"among the contenders {name_of(least)} ({with_interval(least.measures[names[0]], 'share')},"
    text += f" {percent(value_of(least, names[1]))} abstained)."
    head = ("strategy", "right", "wrong, of all attempted or abstained", "abstained")
    rows = tuple(
        (visible(c.strategy), percent(parts[c.strategy]["right"]), *(with_interval(c.measures[n], "share") for n in names)) for c in drawn
    )
    colours = {"right": PALETTE[0], "wrong (hallucinated)": PALETTE[1], "abstained": PALETTE[7]}
    return _stacked(task, parts, "Right, wrong, abstained", text, (head, rows), "share", whole=True, colours=colours)


def error_kinds(task: TaskEvidence) -> Chart | None:
    """Kinds of error of the strategies that read passages, as shares of all items (`bench.metric.taxonomy`)."""
    parts = {name: {words_of(kind): share for kind, share in kinds.items()} for name, kinds in task.errors.items()}
    kinds = {kind for shares in parts.values() for kind, share in shares.items() if share > 0}
    if not kinds:
        return None
    totals = {kind: sum(shares.get(kind, 0) for shares in parts.values()) / len(parts) for kind in kinds}
    first = max(sorted(totals), key=lambda kind: totals[kind])
    most = max(parts, key=lambda name: sum(parts[name].values()))
    text = (
        f"Kinds of error, as shares of all items, of {strategies(parts)}: {visible(most)} errs most ({percent(sum(parts[most].values()))});"
    )
    text += f" the most frequent kind is {first} ({percent(totals[first])} of items on average)."
    return _stacked(task, parts, "Kinds of error", text, None, "share")


def memory_parts(task: TaskEvidence) -> Chart | None:
    """What the peak memory consists of, in the phase where it was highest; a part that is negative in the record is drawn as none."""
    parts = {
        name: {words_of(part.removesuffix("_bytes")): float(size) for part, size in sizes.items()} for name, sizes in task.memory.items()
    }
    if not any(size > 0 for sizes in parts.values() for size in sizes.values()):
        return None
    totals = {name: sum(sizes.values()) for name, sizes in parts.items()}
    most, least = max(totals, key=lambda n: totals[n]), min(totals, key=lambda n: totals[n])
    text = f"Parts of the peak memory of {strategies(parts)}, from {shown(totals[least], 'bytes')} ({visible(least)})"
    text += f" to {shown(totals[most], 'bytes')} ({visible(most)})."
    sized = {part: sum(sizes.get(part, 0) for sizes in parts.values()) for sizes in parts.values() for part in sizes}
    text += f" The largest part on average is {max(sized, key=lambda part: sized[part])}."
    return _stacked(task, parts, "What takes the memory", text, None, "bytes")


def utilities(task: TaskEvidence, scaled: Mapping[str, Mapping[str, float]], weights: Mapping[str, float]) -> Chart | None:
    """Utility by criterion: each scaled value (0 to 1) times its weight's share; a key that has no weight (such as a total) is left out."""
    criteria = [name for name in weights if any(name in values for values in scaled.values()) and weights[name] > 0]
    whole = sum(weights[name] for name in criteria)
    parts = {name: {words_of(c): weights[c] / whole * values[c] for c in criteria if c in values} for name, values in scaled.items()}
    if not criteria or not parts:
        return None
    order = sorted(parts, key=lambda name: -sum(parts[name].values()))
    text = f"Weighted utility of {strategies(parts)}: " + ", ".join(f"{visible(n)} {sum(parts[n].values()):.2f}" for n in order) + "."
    text += " Weights: " + ", ".join(f"{words_of(c)} {percent(weights[c] / whole)}" for c in criteria) + "."
    return _stacked(task, {name: parts[name] for name in order}, "Utility by criterion", text, None, "number")


def weightings(task: TaskEvidence, shares: Mapping[str, float]) -> Chart | None:
    """The share of all weightings of the criteria under which each strategy is the choice."""
    if not shares:
        return None
    order = sorted(shares, key=lambda name: -shares[name])
    text = f"{visible(order[0])} is the choice under {percent(shares[order[0]])} of all weightings of the criteria"
    text += "".join(f", {visible(name)} under {percent(shares[name])}" for name in order[1:]) + "."
    parts = {name: {"share of weightings": shares[name]} for name in order}
    return _stacked(task, parts, "Who wins under which weighting", text, None, "share", whole=True)


def _stacked(
    task: TaskEvidence,
    parts: Mapping[str, Mapping[str, float]],
    title: str,
    text: str,
    table: tuple[tuple[str, ...], tuple[tuple[str, ...], ...]] | None,
    unit: Unit,
    whole: bool = False,
    colours: Mapping[str, str] | None = None,
) -> Chart:
    """Horizontal bars of parts, one row per strategy. Parts are told apart by a letter too, unless there is one alone."""
    kinds = list(dict.fromkeys(kind for values in parts.values() for kind in values))
    kinds = [kind for kind in kinds if any(values.get(kind, 0) > 0 for values in parts.values())]
    letters = {kind: chr(ord("A") + i) for i, kind in enumerate(kinds)} if len(kinds) > 1 else {}
    paint = {kind: (colours or {}).get(kind, PALETTE[i % len(PALETTE)]) for i, kind in enumerate(kinds)}
    legend = [(paint[kind], "square", f"{letters[kind]}  {shortened(kind, 60)}") for kind in letters]
    longest = max(sum(max(v, 0) for v in values.values()) for values in parts.values())
    high = 1.0 if whole else longest or 1.0
    left = math.ceil(max(text_width(shortened(name)) for name in parts)) + 14
    x = linear_axis([0, high], "", unit, exact=True)
    canvas = Canvas(
        x, Axis(len(parts), 0), 26 * len(parts), left=left, right=62, top=legend_height(legend) + 6 if legend else 12, bottom=30
    )
    canvas.legend(legend)
    for row, (name, values) in enumerate(parts.items()):
        canvas.row_label(row + 0.5, shortened(name))
        at = 0.0
        for kind in kinds:
            value = max(values.get(kind, 0.0), 0.0)
            canvas.bar(Point(at, row + 0.14), Point(at + value, row + 0.86), paint[kind])
            width = value / (x.high - x.low) * canvas.width
            for label in (f"{letters[kind]} {shown(value, unit)}", letters[kind]) if letters else ():
                if text_width(label, 11) + 4 <= width:
                    middle = canvas.pixel(Point(at + value / 2, row + 0.5))
                    black = contrast(paint[kind], "#000000") > contrast(paint[kind], "#ffffff")
                    canvas.text(middle, label, dy=4, align="center", size=11, colour="#000000" if black else "#ffffff")
                    break
            at += value
        if not whole or len(kinds) == 1:
            canvas.text(canvas.pixel(Point(at, row + 0.5)), shown(sum(values.values()), unit), dx=6, dy=4.5, size=12)
    if table is None:
        every = list(dict.fromkeys(kind for values in parts.values() for kind in values))
        rows = tuple(
            (visible(n), *(shown(values[k], unit) if k in values else NONE for k in every), shown(sum(values.values()), unit))
            for n, values in parts.items()
        )
        table = ("strategy", *map(visible, every), "all"), rows
        if len(every) == 1:
            table = table[0][:-1], tuple(cells[:-1] for cells in rows)
    return Chart(canvas.svg(title, text, f"{task.task}\n{task.model}"), title, text, table)


def calibration(task: TaskEvidence) -> Chart | None:
    """Expected calibration error and Brier score of attempted answers, with 95 % intervals; 0 is best for both."""
    names = {"ece": "expected calibration error", "brier": "Brier score"}
    drawn = [c for c in task.candidates if c.standing in ("contender", "oracle") and names.keys() & c.measures.keys()]
    if not drawn:
        return None
    found = [name for name in names if any(name in c.measures for c in drawn)]
    legend = [(PALETTE[i], SHAPES[(0, 3)[i]], names[name]) for i, name in enumerate(names) if name in found]
    x = linear_axis([0, *(end for name in found for end in ends_of([c for c in drawn if name in c.measures], name))], "0 is best")
    left = math.ceil(max(text_width(shortened(c.strategy)) for c in drawn)) + 14
    canvas = Canvas(x, Axis(len(drawn), 0), 32 * len(drawn), left=left, top=legend_height(legend) + 6)
    canvas.legend(legend)
    for row, candidate in enumerate(drawn):
        canvas.row_label(row + 0.5, shortened(candidate.strategy))
        for i, name in enumerate(names):
            if name not in candidate.measures:
                continue
            measure, height = candidate.measures[name], row + (0.33, 0.67)[i]
            if measure.low is not None and measure.high is not None:
                canvas.line([Point(x.clipped(measure.low), height), Point(x.clipped(measure.high), height)], PALETTE[i])
            canvas.mark(Point(measure.value, height), PALETTE[i], SHAPES[(0, 3)[i]])
    first = found[0]
    ranked = sorted((c for c in drawn if first in c.measures), key=lambda c: value_of(c, first))
    lowest, highest = (f"{name_of(c)} ({with_interval(c.measures[first], 'number')})" for c in (ranked[0], ranked[-1]))
    text = f"Calibration of {strategies(drawn)}: the lowest {names[first]} has {lowest}, the highest {highest}."
    rows = tuple(
        (visible(c.strategy), *(with_interval(c.measures[n], "number") if n in c.measures else NONE for n in found)) for c in drawn
    )
    title = "Calibration"
    table = (("strategy", *(names[name] for name in found)), rows)
    return Chart(canvas.svg(title, text, f"{task.task}\n{task.model}"), title, text, table)
