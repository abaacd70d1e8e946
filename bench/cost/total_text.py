"""How a total cost looks: Markdown for people (and the terminal), CSV and JSON for programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

from bench.cost.assumptions import Assumptions
from bench.cost.total import COLUMNS, TotalCosts
from bench.result.text import NONE, as_csv, as_json, check_format, escaped, markdown_list, markdown_table, shown_usd

Row = dict[str, Any]
Format = Literal["md", "csv", "json"]
LEGEND = (
    "set-up: labels of the examples that the strategy and its choice rest on; the trials of the search that were not kept; one training; "
    "the index. Loading the base model is every strategy's and left out",
    "per 1k: 1,000 requests in batches as measured, idle time of the device paid for; not cached: where nothing of the prompt is found "
    "in a cache, on an own device estimated by tokens (*)",
    "refresh: what one change of knowledge or labels makes to be done again",
    "total: over the horizon; per 1k correct: the total by the answers that are attempted and right",
    "95 % intervals: bootstrap over items, seeds and trials, and every price times a factor that is common to all that pay it",
    "break-even: the cheaper one below and above a number of requests over the horizon, or below and above what an error costs; none: the "
    "same one throughout; draws: share of those of the bootstrap that agree",
    "errors: wrong answers, and missed ones (abstained though there is an answer) by their weight",
)


def render_total(costs: TotalCosts, format: str) -> str:
    """Text that ends with a newline. md is rounded; csv has the strategies and json everything, in full precision.

    md leaves oracles and floors out of what it says about two strategies; json has all pairs but those with an oracle. Raises BenchError
    for an unknown format.
    """
    check_format(format, get_args(Format))
    if format == "json":
        plain = {
            "assumptions": costs.assumptions.model_dump(mode="json"),
            "prices": [price.model_dump(mode="json") for price in costs.prices],
            "strategies": costs.strategies,
            "pairs": costs.pairs,
        }
        return as_json(plain)
    if format == "csv":
        return as_csv(costs.strategies, COLUMNS)
    return _markdown(costs)


def _markdown(costs: TotalCosts) -> str:
    parts = []
    for key in dict.fromkeys((row["task"], row["model"]) for row in costs.strategies):
        rows, pairs = ([row for row in of if (row["task"], row["model"]) == key] for of in (costs.strategies, costs.pairs))
        task, model = map(escaped, key)
        parts.append(f"### {task} ({model}): total cost over {_number(costs.assumptions.horizon_months)} months, USD\n")
        priced = [row for row in rows if row["total_usd"] is not None]
        if priced:
            parts += [_setup_table(priced), _total_table(priced)]
        missing: dict[str, list[str]] = {}
        for row in rows:
            if row["reason"]:
                missing.setdefault(f"{row['status']}: {row['reason']}", []).append(row["strategy"])
        batches = sorted({row["batch_rows"] for row in priced if row["batch_rows"]})
        lines = [f"answered in batches of up to {_and([str(n) for n in batches])} requests"] if batches else []
        payers: dict[str, list[str]] = {}
        for row in priced:
            payers.setdefault(row["priced_by"], []).append(row["strategy"])
        if len(payers) > 1:
            lines += [f"requests at the price of {price}: {', '.join(names)}" for price, names in payers.items()]
        lines += [f"{', '.join(names)}: {reason}" for reason, names in missing.items()]
        if lines:
            parts.append(markdown_list(map(escaped, lines)))
        entrants = [row for row in priced if not (row["oracle"] or row["floor"])]
        names = {row["strategy"] for row in entrants}
        pairs = [row for row in pairs if {row["a"], row["b"]} <= names]
        if entrants:
            parts += ["Which one, and when\n", markdown_list(map(escaped, _decisions(entrants, pairs, costs.assumptions)))]
        if pairs:
            parts.append(_pair_table(pairs))
    parts.append("Assumptions (not measured)\n")
    parts.append(markdown_list([f"{key}: {_number(value)}" for key, value in costs.assumptions]))
    if costs.prices:
        parts.append("Prices\n")
        parts.append(markdown_list(map(str, costs.prices)))
    parts.append(markdown_list(LEGEND))
    return "\n".join(parts)


def _setup_table(rows: Sequence[Row]) -> str:
    head = ["Strategy", "labels", "data", "search", "training", "index", "set-up [95 %]", "refresh", "what", "storage/month"]
    body = []
    for row in rows:
        cells = [_name(row), str(row["n_labels"])]
        cells += [shown_usd(row[key]) for key in ("data_usd", "search_usd", "training_usd", "index_usd")]
        cells += [_interval(row, "setup_usd"), shown_usd(row["refresh_usd"]), row["refresh"], shown_usd(row["storage_usd_per_month"])]
        body.append(cells)
    return markdown_table(head, body)


def _total_table(rows: Sequence[Row]) -> str:
    metric = rows[0]["primary_metric"] or "score"
    head = ["Strategy", escaped(metric), "errors", "per 1k [95 %]", "not cached", "total [95 %]", "per 1k, all in", "per 1k correct [95 %]"]
    body = []
    for row in rows:
        estimated = "*" if row["caching_estimated"] else ""
        cells = [_name(row), _score(row["value"]), _score(row["error_rate"])]
        cells += [_interval(row, "usd_per_1000_requests"), shown_usd(row["usd_per_1000_requests_not_cached"]) + estimated]
        cells += [_interval(row, "total_usd"), shown_usd(row["total_usd_per_1000_requests"])]
        cells.append(NONE if row["usd_per_1000_correct"] is None else _interval(row, "usd_per_1000_correct"))
        body.append(cells)
    return markdown_table(head, body)


def _name(row: Row) -> str:
    kind = " (oracle)" if row["oracle"] else " (floor)" if row["floor"] else ""
    return escaped(row["strategy"]) + kind


# ---------------------------------------------------------------------------------------------- what decides


def _decisions(rows: Sequence[Row], pairs: Sequence[Row], assumptions: Assumptions) -> list[str]:
    """Sentences: from the cheapest strategy up, what each costs more and brings over the last one that was found to score better; then
    when refreshes decide."""
    lines: list[str] = []
    last: Row | None = None
    for row in sorted(rows, key=lambda row: float(row["total_usd"])):
        if last is None:
            lines.append(f"{row['strategy']} costs least, {shown_usd(row['total_usd'])} USD in all, and scores {_score(row['value'])}.")
            last = row
            continue
        pair = next(p for p in pairs if {p["a"], p["b"]} == {row["strategy"], last["strategy"]})
        more = shown_usd(row["total_usd"] - last["total_usd"])
        begin = f"{row['strategy']} costs {more} USD more than {last['strategy']}"
        lines.append(" ".join([f"{begin} and {_scores(pair, row, last)}.", *_volume(pair, row, last, assumptions), *_error(pair, row)]))
        if _verdict(pair, row) == "better":
            last = row
    if len(rows) == 1:
        lines.append("It is the only strategy here that is no oracle and no floor: nothing to compare it with.")
    return lines + _refreshes(rows, pairs, assumptions)


def _scores(pair: Row, row: Row, last: Row) -> str:
    if row["value"] is None or last["value"] is None:
        return "their scores cannot be compared"
    return f"scores {_score(row['value'])} against {_score(last['value'])} ({_verdict(pair, row)})"


def _verdict(pair: Row, row: Row) -> str:
    """On this strategy of the pair."""
    verdict = str(pair["verdict"] or "not compared")
    return verdict if row["strategy"] == pair["a"] else {"better": "worse", "worse": "better"}.get(verdict, verdict)


def _volume(pair: Row, row: Row, last: Row, assumptions: Assumptions) -> list[str]:
    below, above = pair["break_even_requests_below"], pair["break_even_requests_above"]
    at = pair["break_even_requests"]
    if below is None:
        return ["They cost the same at any volume."]
    if at is None:
        return [f"{below} is the cheaper one at any volume ({_draws(pair, 'break_even_requests')})."]
    side = "beyond" if above == row["strategy"] else "below"
    months = at / assumptions.requests_per_month
    pace = f", {months:.3g} months at this pace" if months < 1200 else ""
    span = _span(pair, "break_even_requests", _count)
    return [f"{row['strategy']} would be the cheaper one {side} {_count(at)} requests ({span}{pace})."]


def _error(pair: Row, row: Row) -> list[str]:
    """When the dearer one pays by its fewer errors."""
    if pair["break_even_error_usd"] is None or pair["break_even_error_usd_above"] != row["strategy"]:
        return []
    at, span = shown_usd(pair["break_even_error_usd"]), _span(pair, "break_even_error_usd", shown_usd)
    return [f"{row['strategy']} pays once an error costs more than {at} USD ({span})."]


def _refreshes(rows: Sequence[Row], pairs: Sequence[Row], assumptions: Assumptions) -> list[str]:
    """Strategies that index against those that train: from which refresh rate on which one is cheaper."""
    redone = {row["strategy"]: row["refresh"] for row in rows}
    key = "break_even_refreshes_per_month"
    at = f"at {_count(assumptions.requests_per_month)} requests a month"
    lines = []
    always: dict[str, list[str]] = {}
    for pair in pairs:
        names = [pair["a"], pair["b"]]
        trained = [name for name in names if "re-train" in redone[name]]
        if len(trained) != 1 or not any("re-index" in redone[name] for name in names if name not in trained):
            continue
        below, above = pair[f"{key}_below"], pair[f"{key}_above"]
        if pair[key] is not None:
            lines.append(
                f"From {_count(pair[key])} refreshes a month on ({_span(pair, key, _count)}), {above} costs less than {below}, {at}."
            )
        elif below is not None:
            loser = next(name for name in names if name != below)
            always.setdefault(below, []).append(f"{loser} ({_draws(pair, key)})")
    return lines + [f"{winner} costs less than {_and(losers)} at any refresh rate, {at}." for winner, losers in always.items()]


def _pair_table(pairs: Sequence[Row]) -> str:
    head = ["Break-even", "cheaper below", "above", "requests [95 %]", "draws", "scores", "first is", "error USD [95 %]", "fewer errors"]
    body = []
    for row in pairs:
        cells = [f"{escaped(row['a'])} / {escaped(row['b'])}"]
        cells += [escaped(row[f"break_even_requests_{side}"] or "same") for side in ("below", "above")]
        cells += [_at(row, "break_even_requests", _count), f"{100 * row['break_even_requests_share']:.0f} %"]
        cells += [f"{_score(row['value_a'])} / {_score(row['value_b'])}", row["verdict"] or NONE]
        cells.append(_at(row, "break_even_error_usd", shown_usd))
        errors = [row["error_rate_a"], row["error_rate_b"]]
        cells.append("same" if errors[0] == errors[1] else escaped(row["a" if errors[0] < errors[1] else "b"]))
        body.append(cells)
    return markdown_table(head, body)


def _at(row: Row, key: str, shown: Callable[[float], str]) -> str:
    if row[key] is None:
        return "none"
    low, high = row[f"{key}_low"], row[f"{key}_high"]
    return shown(row[key]) + ("" if low is None else f" [{shown(low)}, {'∞' if high is None else shown(high)}]")


def _draws(row: Row, key: str) -> str:
    return f"{100 * row[f'{key}_share']:.0f} % of draws"


def _span(row: Row, key: str, shown: Callable[[float], str]) -> str:
    low, high = row[f"{key}_low"], row[f"{key}_high"]
    if low is None:
        return _draws(row, key)
    return (f"95 % from {shown(low)} on, " if high is None else f"95 % {shown(low)} to {shown(high)}, ") + _draws(row, key)


# ---------------------------------------------------------------------------------------------- numbers


def _interval(row: Row, key: str) -> str:
    low, high = row[f"{key}_low"], row[f"{key}_high"]
    return shown_usd(row[key]) + ("" if low is None else f" [{shown_usd(low)}, {NONE if high is None else shown_usd(high)}]")


def _count(value: float) -> str:
    for size, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _score(value: float | None) -> str:
    """A share in percent; of other metrics the number."""
    return NONE if value is None else f"{100 * value:.1f}" if -1 <= value <= 1 else f"{value:.3g}"


def _number(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:,.10g}"


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
