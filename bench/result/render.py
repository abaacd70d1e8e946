"""How the comparison table looks: Markdown and LaTeX for people, CSV, JSON and Parquet for programs, a short form for the terminal."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from bench.errors import BenchError, did_you_mean
from bench.result.columns import Row, as_frame, as_rows, columns_of
from bench.result.text import NONE, as_csv, as_json, check_format, shown_bytes, shown_count, shown_seconds, shown_usd

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

Format = Literal["md", "csv", "json", "latex", "parquet"]
By = Literal["task", "strategy"]

TIED = "≈"
INTERVAL_LEGEND = (
    "mean over seeds of the primary metric (% where it is a share) and its interval over items and seeds; "
    'marked "items" where it covers items only though the strategy depends on a seed'
)
LATEX = {
    **{mark: "\\" + mark for mark in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    TIED: r"$\approx$",
    NONE: "--",
    "\n": " ",
}
SHARES = "i/s/r %"
SHARES_LEGEND = (
    "uncertainty of the primary metric that is due to few items / few seeds (its own alone, so rough) / the rest (answers that flip "
    "between seeds): buy more of what weighs most"
)
API_LEGEND = (
    "the tokens of 1,000 requests at a hosted model's price, counted by this run's tokenizer, without a surcharge for tuned weights"
)
CACHED_LEGEND = "the prefix that requests share cached (providers cache prefixes from some length on, often 1,024 tokens)"
MEMORY_LEGEND = "peak memory from loading to answering: of tensors on the GPU, or without one of the process (RSS)"


@dataclass(frozen=True)
class _Column:
    key: str
    """The table's column that decides whether there is anything to show."""
    title: str
    legend: str
    cell: Callable[[Row], str]
    core: bool = True
    """Shown in the terminal, where width is short."""


def render(table: pd.DataFrame | Sequence[Row], format: str, by: str = "task") -> str | bytes:
    """The table of ``build_table`` or ``table_rows`` in one format; bytes for parquet, else text that ends with a newline.

    ``by``: rows grouped by task (default) or by strategy. md and latex are rounded and in human units; csv, json and parquet hold
    all columns in full precision and SI units. Raises BenchError for an unknown format or order.
    """
    check_format(format, get_args(Format))
    rows = _ordered(table, by)
    if format == "csv":
        return as_csv(rows, columns_of(rows))
    if format == "json":
        return as_json([_plain(row) for row in rows])
    if format == "parquet":
        buffer = io.BytesIO()
        as_frame(rows).to_parquet(buffer, index=False)
        return buffer.getvalue()
    return _latex(rows, by) if format == "latex" else _markdown(rows, by)


def print_table(console: Console, table: pd.DataFrame | Sequence[Row], by: str = "task") -> None:
    """Print the core columns, one block per task (or strategy); fits 120 columns. Raises BenchError for an unknown order."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    ordered = _ordered(table, by)
    for title, rows in _blocks(ordered, by):
        columns = [column for column in _columns(rows, by) if column.core]
        # Tasks of different kinds have different ones; more than two do not fit.
        beyond = [column.key for column in columns if column.key in ("f1", "rougeL", "macro_f1")][2:]
        columns = [column for column in columns if column.key not in beyond]
        block = Table(title=escape(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        block.pad_edge, block.collapse_padding = False, True
        block.add_column(escape(columns[0].title), overflow="fold", min_width=12)
        for column in columns[1:]:
            block.add_column(escape(column.title), justify="right", no_wrap=True)
        shown = [row for row in rows if row["status"] != "skipped"]
        for row in shown:
            style = "bold" if _is_clear_best(row) else None
            if row["value"] is None:
                # A reason is longer than any cell: it goes under the block.
                block.add_row(escape(columns[0].cell(row)), escape(row["status"]), *[""] * (len(columns) - 2), style="red")
            else:
                block.add_row(*[escape(column.cell(row)) for column in columns], style=style)
        console.print(block)
        for row in shown:
            if row["reason"]:
                console.print(f"  {escape(_name(row, by))}: {escape(row['reason'])}", style="red", highlight=False)
        for line in _not_applicable(rows, by):
            console.print(f"  {escape(line)}", style="dim", highlight=False)
    shares = [f"{SHARES}: {SHARES_LEGEND}"] if any(row["item_share"] is not None for row in ordered) else []
    console.print(escape("\n".join([*shares, *_marks(ordered)])), highlight=False)


def _markdown(table: Sequence[Row], by: str) -> str:
    from tabulate import tabulate

    parts = []
    shown: dict[str, str] = {}
    for title, rows in _blocks(table, by):
        columns = _columns(rows, by)
        shown |= {column.key: f"{column.title}: {column.legend}" for column in columns[1:]}
        body = []
        for row in (row for row in rows if row["status"] != "skipped"):
            cells = [column.cell(row) for column in columns]
            if row["value"] is None:
                cells = [cells[0], _problem(row), *[""] * (len(cells) - 2)]
            cells = [_escape_markdown(cell) for cell in cells]
            if _is_clear_best(row):
                cells[:2] = [f"**{cell}**" for cell in cells[:2]]
            body.append(cells)
        align = ["left", *["right"] * (len(columns) - 1)]
        text = tabulate(body, [_escape_markdown(column.title) for column in columns], "pipe", colalign=align, disable_numparse=True)
        notes = "".join(f"\n{_escape_markdown(line)}\n" for line in _not_applicable(rows, by))
        parts.append(f"### {title}\n\n{text}\n{notes}")
    shown["value"] = f"first column after the name: {INTERVAL_LEGEND}"
    legend = [f"- {line}" for line in [*shown.values(), *_marks(table)]]
    legend += [f"- priced at {price}" for price in _prices(table)]
    partial = [f"- {row['strategy']} on {row['task']}: {row['reason']}" for row in table if row["status"] == "partial"]
    return "\n".join(parts) + "\n" + "\n".join(legend + partial) + "\n"


def _latex(table: Sequence[Row], by: str) -> str:
    from tabulate import tabulate

    parts = []
    for title, rows in _blocks(table, by):
        columns = _columns(rows, by)
        body = []
        for row in rows:
            cells = [column.cell(row) for column in columns]
            if row["value"] is None:
                cells = [cells[0], _problem(row), *[""] * (len(cells) - 2)]
            cells = [_escape_latex(cell) for cell in cells]
            if _is_clear_best(row):
                cells[:2] = [rf"\textbf{{{cell}}}" for cell in cells[:2]]
            body.append(cells)
        align = ["left", *["right"] * (len(columns) - 1)]
        text = tabulate(body, [_escape_latex(column.title) for column in columns], "latex_raw", colalign=align, disable_numparse=True)
        parts.append(f"% {title}\n{text}\n")
    return "\n".join(parts)


def _columns(rows: Sequence[Row], by: str) -> list[_Column]:
    """The columns in which some row has something to show; the first is the row's name, the second the primary metric."""
    metrics = list(dict.fromkeys(row["primary_metric"] for row in rows if row["primary_metric"]))
    primary = metrics[0] if len(metrics) == 1 else "primary metric"
    several_models = len({row["model"] for row in rows}) > 1
    name = "Task" if by == "strategy" else "Strategy"

    def label(row: Row) -> str:
        text = _name(row, by) + (f" ({row['primary_metric']})" if len(metrics) > 1 and row["primary_metric"] else "")
        return f"{text} [{row['model']}]" if several_models else text

    kinds = sorted({row["peak_memory_kind"] for row in rows if row["peak_memory_kind"]})
    memory = {"gpu": "peak GPU", "rss": "peak RSS"}.get(kinds[0] if len(kinds) == 1 else "", "peak memory")

    def share(key: str, title: str, legend: str, core: bool = False) -> _Column:
        return _Column(key, title, f"{legend}, %", lambda row: _share(row[key]), core)

    def amount(key: str, title: str, legend: str, show: Callable[[Any], str], core: bool = True) -> _Column:
        return _Column(key, title, legend, lambda row: show(row[key]), core)

    candidates = [
        _Column("value", f"{primary} [95 %]", INTERVAL_LEGEND, _primary),
        share("f1", "F1", "token overlap with the nearest right answer", core=True),
        share("rougeL", "ROUGE-L", "longest common subsequence with the reference, F-measure", core=True),
        share("macro_f1", "macro F1", "unweighted mean of the F1 of each label", core=True),
        share("format_validity", "valid", "answers in the declared form"),
        share("hallucination_rate", "halluc.", "attempted and wrong, of all items", core=True),
        share("abstention_rate", "abst.", "abstained, of all items", core=True),
        share("accuracy_given_attempted", "acc. att.", "right, of the items attempted"),
        share("k_precision", "K-Prec.", "the answer's words found in the gold evidence"),
        share("recall_at_k", "recall@k", "gold passages among those retrieved"),
        share("mrr", "MRR", "mean of 1 / rank of the first gold passage"),
        share("citation_precision", "cite prec.", "cited passages that are gold"),
        share("citation_recall", "cite rec.", "gold passages that are cited"),
        share("ece", "ECE", "expected calibration error of the confidence in attempted answers"),
        amount("setup_seconds", "set-up", "tuning with all search trials, and indexing, wall time; loading is left out", shown_seconds),
        amount("seconds_per_1000_requests", "time/1k", "wall time to answer 1,000 requests", shown_seconds),
        _Column("prompt_tokens_per_1000_requests", "tok/1k", "tokens of prompt and completion for 1,000 requests", _tokens),
        amount("setup_usd", "set-up USD", "tuning with all search trials, and indexing, in dollars of the device", shown_usd, core=False),
        amount("usd_per_1000_requests", "USD/1k", "device to answer 1,000 requests, in batches as they were run", shown_usd, core=False),
        amount("usd_per_1000_correct", "USD/1k right", "device for 1,000 right answers; an abstention is none", shown_usd, core=False),
        amount("api_usd_per_1000_requests", "API USD/1k", f"{API_LEGEND}, nothing cached", shown_usd, core=False),
        amount("api_usd_per_1000_requests_cached", "API USD/1k cached", f"{API_LEGEND}, {CACHED_LEGEND}", shown_usd, core=False),
        _Column("peak_memory_bytes", memory, MEMORY_LEGEND, lambda row: _memory(row, len(kinds) > 1)),
        amount("trainable_params", "trained", "trainable parameters", shown_count, core=False),
        amount("artifact_bytes", "artifact", "what has to be kept beside the base model", shown_bytes, core=False),
        _Column("n_seeds", "seeds", "seeds in the means; det.: the answers depend on none", _seeds),
        _Column("item_share", SHARES, SHARES_LEGEND, _shares),
    ]
    # A metric that is the primary one has its column already.
    kept = [c for c in candidates if c.key == "value" or (c.key not in metrics and any(row.get(c.key) is not None for row in rows))]
    return [_Column("", name, "", label), *kept]


def _blocks(table: Sequence[Row], by: str) -> list[tuple[str, list[Row]]]:
    """Title and rows of each group, in the order of the table."""
    groups: dict[str, list[Row]] = {}
    for row in table:
        groups.setdefault(row[by], []).append(row)
    return list(groups.items())


def _ordered(table: pd.DataFrame | Sequence[Row], by: str) -> list[Row]:
    if by not in get_args(By):
        raise BenchError(f'order "{by}" is unknown: {did_you_mean(by, get_args(By))}')
    rows = as_rows(table)
    places = {name: place for place, name in enumerate(dict.fromkeys(row[by] for row in rows))}
    return sorted(rows, key=lambda row: places[row[by]])


def _plain(row: Row) -> Row:
    """JSON has no infinity."""
    return {key: None if isinstance(value, float) and math.isinf(value) else value for key, value in row.items()}


def _is_clear_best(row: Row) -> bool:
    return bool(row["best"] and not row["tied"])


def _name(row: Row, by: str) -> str:
    return str(row["task"] if by == "strategy" else row["strategy"])


def _not_applicable(rows: Sequence[Row], by: str) -> list[str]:
    """One line for each reason why strategies have no meaning for a task."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row["status"] == "skipped":
            reasons.setdefault(str(row["reason"]), []).append(_name(row, by))
    return [f"not applicable: {', '.join(names)} ({reason})" for reason, names in reasons.items()]


def _problem(row: Row) -> str:
    return f"{row['status']}: {row['reason'] or 'no value'}"


def _marks(rows: Sequence[Row]) -> list[str]:
    """What the marks mean, as far as they occur."""
    lines = []
    if any(_is_clear_best(row) for row in rows):
        lines.append("bold: best of the task, oracles left out, and every other is worse (paired test, Holm-adjusted p <= .05)")
    if any(row["tied"] for row in rows):
        lines.append(f"{TIED}: not told apart from the task's best (paired test, Holm-adjusted p > .05), or that best itself")
    if any(row["status"] == "partial" for row in rows):
        lines.append("!: some seeds failed; the means are over the others and may flatter")
    noisy = sorted({row["task"] for row in rows if row["seed_noise_ratio"] is not None and row["seed_noise_ratio"] > 9})
    if noisy:
        lines.append(
            f"seed noise differs more than 9-fold within a family of strategies (prompting, PEFT, full; tasks: {', '.join(noisy)}): "
            "it is pooled, so intervals of the noisy ones are too narrow and the others too wide"
        )
    return lines


def _prices(rows: Sequence[Row]) -> list[str]:
    """The prices that dollars were computed with."""
    return list(dict.fromkeys(row[key] for key in ("price", "api_price") for row in rows if row.get(key)))


def _primary(row: Row) -> str:
    value, low, high = row["value"], row["ci_low"], row["ci_high"]
    if value is None:
        return NONE
    as_percent = all(bound is None or -0.5 <= bound <= 1.5 for bound in (low, high)) and abs(value) <= 1
    scale, digits = (100, 1) if as_percent else (1, 2)
    text = f"{scale * value:.{digits}f}"
    if low is not None and high is not None:
        text += f" [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"
    if row["interval"] == "items" and not row["deterministic"]:
        text += " items"
    return text + (f" {TIED}" if row["tied"] else "") + (" !" if row["status"] == "partial" else "")


def _share(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.1f}"


def _memory(row: Row, say_kind: bool) -> str:
    return shown_bytes(row["peak_memory_bytes"]) + (f" {row['peak_memory_kind']}" if say_kind and row["peak_memory_kind"] else "")


def _tokens(row: Row) -> str:
    prompt, completion = row["prompt_tokens_per_1000_requests"], row["completion_tokens_per_1000_requests"]
    return NONE if prompt is None or completion is None else shown_count(prompt + completion)


def _shares(row: Row) -> str:
    shares = [row[key] for key in ("item_share", "seed_share", "residual_share")]
    return NONE if None in shares else "/".join(f"{100 * share:.0f}" for share in shares)


def _seeds(row: Row) -> str:
    return "det." if row["deterministic"] else str(row["n_seeds"])


def _escape_markdown(text: str) -> str:
    for mark in "\\|*`<":
        text = text.replace(mark, "\\" + mark)
    return text.replace("\n", " ")


def _escape_latex(text: str) -> str:
    return "".join(LATEX.get(mark, mark) for mark in text)
