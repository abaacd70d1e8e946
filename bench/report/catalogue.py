"""The catalogue of strategies: docs/strategies.md, from the presets and the records of a run.

    python -m bench.report.catalogue results/all results/reasoning > docs/strategies.md
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from bench.errors import BenchError
from bench.result.store import RunFolder
from bench.result.table import build_table
from bench.result.text import shown_bytes
from bench.strategy.spec import FAMILIES, Range, Strategy, load_strategy, preset_names

HEAD = """# The catalogue of strategies

Each is a preset: a YAML file in `bench/strategy/presets/` that fills in the three choices (prompt, retrieval, tuning), run by
`bench run --strategy NAME` on the embedded base model or any other. `make bench-all` runs them all. This page is generated:
`python -m bench.report.catalogue {runs} > docs/strategies.md`.

The numbers are of a small model (2.4 million parameters) in a synthetic world. They show that each strategy does what it is meant to,
and by what mechanism it helps or fails; they are no forecast of its rank on a real model and task. Intervals are 95 %, over
items and seeds as `docs/protocol.md` says; "=" marks what is not told apart from the best of its task (Holm-adjusted p > .05).
"""


def catalogue(runs: Sequence[Path]) -> str:
    """The page. Raises `BenchError` for a run that cannot be read."""
    table = build_table([RunFolder(run) for run in runs])
    strategies = {name: load_strategy(name)[1] for name in preset_names()}
    runs_made = "\n".join(["Measured in:\n", *map(_measured_by, runs), ""])
    parts = [HEAD.format(runs=" ".join(str(r) for r in runs)), runs_made, "## Overview\n", _overview(table, strategies)]
    parts += ["## Search spaces\n", SEARCH, _search_spaces(strategies)]
    for family in FAMILIES:
        members = [name for name, s in strategies.items() if s.family == family]
        parts.append(f"## {family[0].upper()}{family[1:]}\n")
        for name in members:
            parts.append(f"{section(name, strategies[name])}\n{_measured(table[table['strategy'] == name])}{_merged(runs, name)}")
    return "\n".join(parts).rstrip() + "\n"


SEARCH = """Every strategy has the same number of trials (`budget.trials`, three by default), each scored on the same validation examples;
optuna draws them by a fixed seed, without repetition from lists. Rates are those of a small model: prompt-like methods need about ten
times LoRA's, and LoRA about ten times that of full fine-tuning. With one rate for all, published comparisons moved a method by 20 to 30
points.
"""


def section(name: str, strategy: Strategy) -> str:
    """What there is to say about a strategy whatever it scored."""
    lines = [f"### {name}\n", strategy.description + "\n"]
    if strategy.source:
        lines.append(f"Source: {strategy.source}.\n")
    if strategy.trains:
        lines.append(f"Trained parameters: {strategy.trains}.\n")
    lines += [f"- {trap}" for trap in strategy.traps] + [""] * bool(strategy.traps)
    lines.append(f"```yaml\n{_choices(strategy)}```\n")
    return "\n".join(lines)


def _choices(strategy: Strategy) -> str:
    data = strategy.model_dump(mode="json", include={"prompt", "retrieval", "tuning", "search"}, exclude_defaults=True)
    return yaml.safe_dump(data or {"prompt": {}}, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)


def _measured_by(run: Path) -> str:
    """What a run was, in a line."""
    header = RunFolder(run).read_run()
    suite = header.suite
    budget = ", ".join(f"{key} {value}" for key, value in suite["budget"].items() if value is not None)
    more = ", ".join(f"{key} {suite[key]}" for key in ("limit", "settings") if suite.get(key))
    commit = str(header.environment.get("git_commit") or "unknown")[:10]
    commit += " and uncommitted changes" if header.environment.get("git_dirty") else ""
    model = f"model {suite['model']}, " if suite.get("model", "embedded") != "embedded" else ""
    return f"- {run}: {model}{budget}, seeds {suite['seeds']}{', ' * bool(more)}{more}; {header.started[:10]}, commit {commit}"


def _overview(table: pd.DataFrame, strategies: dict[str, Strategy]) -> str:
    groups = list(dict.fromkeys(zip(table["task"], table["model"], table["primary_metric"], strict=True)))
    columns = list(dict.fromkeys((task, model) for task, model, _ in groups))
    heads = [task if model == "embedded" else f"{task} ({Path(model).name})" for task, model in columns]
    lines = [_row(["strategy", *heads, "trained parameters", "kept"]), _row(["---"] + ["---:"] * (len(heads) + 2))]
    ordered = [n for family in FAMILIES for n, s in strategies.items() if s.family == family]
    for name in [*ordered, *(n for n in dict.fromkeys(table["strategy"]) if n not in ordered)]:
        rows = table[table["strategy"] == name]
        cells = []
        for task, model in columns:
            found = rows[(rows["task"] == task) & (rows["model"] == model)]
            cells.append(_short(found.iloc[0]) if len(found) else "")
        own = rows[rows["model"] == columns[0][1]]
        trained, kept = (own[column].max() if len(own) else None for column in ("trainable_params", "artifact_bytes"))
        lines.append(_row([f"[{name}](#{name})", *cells, _count(trained), _size(kept)]))
    return "\n".join(lines) + "\n"


def _measured(rows: pd.DataFrame) -> str:
    if not len(rows):
        return ""
    heads = ["task", "metric", "value", "hallucination", "trained", "set-up", "answers, per 1,000", "trials"]
    lines = [_row(heads), _row(["---", "---"] + ["---:"] * (len(heads) - 2))]
    notes = []
    for _, row in rows.iterrows():
        task = row["task"] if row["model"] == "embedded" else f"{row['task']} ({Path(row['model']).name})"
        if row["status"] not in ("ok", "partial"):
            notes.append(f"{task}: {row['status']}, {row['reason']}")
            continue
        lines.append(_row([
            task, str(row["primary_metric"]), _interval(row), _percent(row["hallucination_rate"]), _count(row["trainable_params"]),
            _seconds(row["setup_seconds"]), _seconds(row["seconds_per_1000_requests"]), str(row["n_trials"]),
        ]))  # fmt: skip
    body = "\n".join(lines) + "\n" if len(lines) > 2 else ""
    return body + "".join(f"\n{note}.\n" for note in notes)


def _merged(runs: Sequence[Path], name: str) -> str:
    """What became of the answers and their time when the adapter was merged into the base, over all cells of a strategy."""
    found = [r.merging for run in runs for r in RunFolder(run).records() if r.strategy == name and r.merging]
    whole = [m for m in found if m.n_items]
    if not whole:
        return "".join(f"\nNot merged: {m.reason}.\n" for m in found[:1])
    equal, n = sum(m.n_equal or 0 for m in whole), sum(m.n_items or 0 for m in whole)
    apart, together = (sum(getattr(m, key) or 0.0 for m in whole) for key in ("unmerged_seconds", "merged_seconds"))
    return f"\nMerged into the base: {equal} of {n} answers stay the same; time to answer times {together / apart:.2f}.\n"


def _search_spaces(strategies: dict[str, Strategy]) -> str:
    lines = [_row(["strategy", "setting", "values"]), _row(["---"] * 3)]
    for name, strategy in strategies.items():
        for axis, values in strategy.search.items():
            shown = f"{values.low} to {values.high}{', log' * values.log}" if isinstance(values, Range) else ", ".join(map(str, values))
            lines.append(_row([name, f"`{axis}`", shown]))
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"


def _short(row: pd.Series[Any]) -> str:
    if row["status"] not in ("ok", "partial"):
        return "–"
    low, high = row["ci_low"], row["ci_high"]
    width = "" if pd.isna(low) else f" ± {100 * (high - low) / 2:.1f}"
    mark = "**" if row["best"] else ""
    return f"{mark}{100 * row['value']:.1f}{mark}{width}{' =' if row['tied'] and not row['best'] else ''}"


def _interval(row: pd.Series[Any]) -> str:
    low, high = row["ci_low"], row["ci_high"]
    return _percent(row["value"]) + ("" if pd.isna(low) else f" ({_percent(low)} to {_percent(high)})")


def _percent(value: Any) -> str:
    return "–" if pd.isna(value) else f"{100 * value:.1f}"


def _count(value: Any) -> str:
    return "–" if value is None or pd.isna(value) or not value else f"{int(value):,}"


def _size(value: Any) -> str:
    return "–" if value is None or pd.isna(value) or not value else shown_bytes(int(value))


def _seconds(value: Any) -> str:
    return "–" if pd.isna(value) or value == 0 else f"{value:.1f} s"


if __name__ == "__main__":
    try:
        sys.stdout.write(catalogue([Path(argument) for argument in sys.argv[1:]] or [Path("results/all"), Path("results/reasoning")]))
    except BenchError as error:
        sys.exit(f"catalogue: {error}")
