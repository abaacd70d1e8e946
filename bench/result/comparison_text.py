"""How a comparison looks: Markdown for people (and the terminal), CSV and JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from bench.result.comparison import COLUMNS, Row
from bench.result.text import NONE, as_csv, as_json, check_format, escaped, markdown_table

Format = Literal["md", "csv", "json"]
HEAD = """\
Estimand E1: the two artifacts at hand, over items. E2: the strategies, over items and training seeds.
Holm's family: all strategies of one task and metric against the baseline.
"""
LEGEND = (
    "difference: strategy minus baseline on the same items; 95 % interval over clusters, for E2 with the seed variance pooled by family",
    "p Holm: of the sign-flip test over clusters, for E2 the larger of it and the t test over items and seeds; adjusted",
    "W/L/T: items on which the strategy is better, worse, the same (means over seeds; macro F1: right labels)",
    "McNemar: exact p, items as independent; only where both sides are one artifact with 0/1 scores",
    "MDE: the true difference that such a comparison finds with power .8 at Holm's strictest step",
    "verdict: better or worse at p Holm <= .05 and a difference of the margin or more; equivalent: 90 % interval inside it (TOST)",
    "rank, P(best), P(front): joint bootstrap over items and seeds, oracles left out",
    "front: of quality, cost, memory and latency; relative differences below 5 % (memory 2 %) are none",
)


def render_comparison(rows: Sequence[Row], format: str) -> str:
    """Rows of ``comparison_rows`` as text that ends with a newline. md is rounded, with shares in points; csv and json hold all columns
    in full precision. Raises BenchError for an unknown format."""
    check_format(format, get_args(Format))
    if format == "json":
        return as_json(list(rows))
    if format == "csv":
        return as_csv((row | {"notes": "; ".join(row["notes"])} for row in rows), COLUMNS)
    return _markdown(rows)


def _markdown(rows: Sequence[Row]) -> str:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["task"], row["model"]), []).append(row)
    several = len({model for _, model in groups}) > 1
    parts = [HEAD]
    for (task, model), group in groups.items():
        first = group[0]
        good = {True: "", False: " (lower is better)", None: " (neither end is good)"}[first["higher_is_better"]]
        of_model = f" ({escaped(model)})" if several else ""
        parts.append(f"### {escaped(task)}{of_model}: {first['metric']}{good} against {escaped(first['baseline'])}\n")
        compared = [row for row in group if row["status"] == "ok"]
        if compared:
            parts.append(_differences(compared))
        ranked = [row for row in group if row["rank"] is not None]
        if ranked:
            parts.append(_ranks(ranked))
        reasons: dict[str, list[str]] = {}
        for row in group:
            if row["status"] == "not compared":
                reasons.setdefault(row["reason"], []).append(row["strategy"])
        lines = [f"not compared: {', '.join(names)} ({reason})" for reason, names in reasons.items()]
        lines += first["notes"]
        undefined = [f"{row['strategy']} {row['n_undefined']}" for row in compared if row["n_undefined"]]
        if undefined:
            lines.append(f"shared items left out since the metric is undefined on a side: {', '.join(undefined)}")
        if lines:
            parts.append("\n".join(f"- {escaped(line)}" for line in lines) + "\n")
    parts.append("\n".join(f"- {line}" for line in LEGEND) + "\n")
    return "\n".join(parts)


def _differences(rows: Sequence[Row]) -> str:
    scale, digits = (1, 3) if any(row["margin"] is None or row["margin"] >= 1 for row in rows) else (100, 1)

    def number(value: float | None, sign: str = "") -> str:
        return NONE if value is None else f"{scale * value:{sign}.{digits}f}"

    margins = sorted({row["margin"] for row in rows if row["margin"] is not None})
    title = "verdict" + (f" (±{number(margins[0])})" if len(margins) == 1 else "")
    head = ["Strategy", "n (clusters)", "mean", "base", "difference [95 %]", "E", "p Holm", "McNemar", "W/L/T", "MDE", title]
    body = []
    for row in rows:
        interval = "" if row["ci_low"] is None else f" [{number(row['ci_low'], '+')}, {number(row['ci_high'], '+')}]"
        test = NONE if row["mcnemar_p"] is None else _p(row["mcnemar_p"])
        cells = [escaped(row["strategy"]), f"{row['n']} ({row['n_clusters']})", number(row["mean"]), number(row["baseline_mean"])]
        cells += [number(row["difference"], "+") + interval, row["estimand"], _p(row["p_holm"]), test]
        cells += [
            f"{row['wins']}/{row['losses']}/{row['ties']}",
            f">{scale}" if scale == 100 and (row["mde"] or 0) > 1 else number(row["mde"]),
            row["verdict"],
        ]
        body.append(cells)
    return markdown_table(head, body)


def _ranks(rows: Sequence[Row]) -> str:
    cost, memory = rows[0]["cost_kind"], rows[0]["memory_kind"]
    axes = [
        ("cost_seconds_per_1000_requests", f"{cost} s/1k", "{:.3g}", 1.0),
        ("peak_memory_bytes", f"peak {memory} MiB", "{:.0f}", 2**-20),
        ("seconds_per_1000_requests", "wall s/1k", "{:.3g}", 1.0),
    ]
    axes = [axis for axis in axes if rows[0][axis[0]] is not None]
    head = ["Strategy", "rank [95 %]", "P(best)", "P(front)", *[title for _, title, _, _ in axes]]
    body = []
    for row in sorted(rows, key=lambda row: row["rank"]):
        front = NONE if row["p_pareto"] is None else f"{row['p_pareto']:.2f}"
        cells = [escaped(row["strategy"]), f"{row['rank']} [{row['rank_low']}, {row['rank_high']}]", f"{row['p_best']:.2f}", front]
        body.append(cells + [form.format(unit * row[key]) for key, _, form, unit in axes])
    return markdown_table(head, body)



def _p(p: float) -> str:
    return "<.001" if p < 0.001 else f"{p:.3f}".removeprefix("0")
