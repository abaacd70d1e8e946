"""How learning curves look: Markdown for people (and the terminal), CSV and JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Literal, get_args

from bench.result.curve import POINT_COLUMNS, Curves, Row
from bench.result.text import NONE, as_csv, as_json, check_format, escaped, markdown_table

Format = Literal["md", "csv", "json"]
LEGEND = (
    "first table: the primary metric by number of labelled examples, mean over seeds and its 95 % interval over items and seeds, % where "
    "it is a share; =: the strategy uses no examples",
    "90 % from: the smallest size with 90 % of the strategy's score at the largest one, and its 95 % interval",
    "crossover: the number of examples from which on the other one is ahead, by lines between the sizes on a logarithmic axis, and its "
    "95 % interval; < and >: it ends beyond the sizes measured",
    "draws that cross: share of bootstrap draws (items and seeds) in which the lead changes in this way; without a crossover, in any way",
)


def render_curves(curves: Curves, format: str) -> str:
    """Text that ends with a newline. md is rounded; csv has the points and json everything, in full precision. Raises BenchError for an
    unknown format."""
    check_format(format, get_args(Format))
    if format == "json":
        return as_json(asdict(curves))
    if format == "csv":
        return as_csv(curves.points, POINT_COLUMNS)
    parts = []
    for key in dict.fromkeys((row["task"], row["model"]) for row in curves.points):
        points, crossovers, floors = (
            [row for row in rows if (row["task"], row["model"]) == key] for rows in (curves.points, curves.crossovers, curves.data_floors)
        )
        parts += [f"### {key[0]}: {points[0]['primary_metric']} ({key[1]})\n", _points(points, floors)]
        if crossovers:
            parts.append(_crossovers(crossovers, sorted({row["train_examples"] for row in points})))
    parts.append("\n".join(f"- {line}" for line in (*curves.notes, *LEGEND)) + "\n")
    return "\n".join(parts)


def _points(points: Sequence[Row], floors: Sequence[Row]) -> str:
    sizes = sorted({row["train_examples"] for row in points})
    known = [abs(row[key]) for row in points for key in ("value", "ci_low", "ci_high") if row[key] is not None]
    scale, digits = (100, 1) if not known or max(known) <= 1.5 else (1, 2)
    by_place = {(row["strategy"], row["train_examples"]): row for row in points}
    floor_of = {row["strategy"]: row for row in floors}
    body = []
    for name in dict.fromkeys(row["strategy"] for row in points):
        cells = [escaped(name)]
        for size in sizes:
            row = by_place.get((name, size))
            if row is None or row["value"] is None:
                cells.append(NONE if row is None else row["status"])
                continue
            interval = "" if row["ci_low"] is None else f" [{scale * row['ci_low']:.{digits}f}, {scale * row['ci_high']:.{digits}f}]"
            cells.append(("" if row["uses_examples"] else "= ") + f"{scale * row['value']:.{digits}f}{interval}")
        floor = floor_of.get(name)
        cells.append(f"{floor['data_floor']} [{floor['low']}, {floor['high']}]" if floor else NONE)
        body.append(cells)
    return markdown_table(["Strategy", *map(str, sizes), "90 % from"], body)


def _crossovers(rows: Sequence[Row], sizes: Sequence[int]) -> str:
    body = []
    for row in rows:
        first, last = (escaped(row[key] or "neither") for key in ("ahead_at_smallest", "ahead_at_largest"))
        if row["crossover"] is not None:
            low = f"<{sizes[0]}" if row["low"] is None else f"{row['low']:.0f}"
            high = f">{sizes[-1]}" if row["high"] is None else f"{row['high']:.0f}"
            found = f"{row['crossover']:.0f} [{low}, {high}]: {last} overtakes {first}"
        elif row["ahead_throughout"]:
            found = f"none within {sizes[0]}..{sizes[-1]} ({first} is ahead throughout)"
        else:
            who = f"{first} is ahead at both ends" if first == last else f"ahead: at {sizes[0]} {first}, at {sizes[-1]} {last}"
            who = "equal at both ends" if first == last == "neither" else who
            found = f"none within {sizes[0]}..{sizes[-1]} ({who})"
        share = NONE if row["share_crossing"] is None else f"{100 * row['share_crossing']:.0f} %"
        body.append([f"{escaped(row['a'])}, {escaped(row['b'])}", found, share])
    return markdown_table(["Strategies", "crossover [95 %], examples", "draws that cross"], body)
