"""The total cost of every strategy over a horizon, from records alone: set-up, requests, refreshes, storage.

Total(Q) = set-up + refreshes x refresh + months x storage + Q x (request + price of an error x error rate), in USD. What was measured
(seconds, tokens, bytes, errors) comes from records, prices from a price file, the rest from assumptions.

Every quantity is an array whose first number is what was measured and whose others are bootstrap draws of it: clusters of items, the same
for all strategies of a task; each strategy's seeds; the trials of a search; and every price times a factor that is log-uniform in
[1 / f, f] and the same for all that is paid at this price, so that it cancels where only one price matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.cost.assumptions import Assumptions
from bench.cost.break_even import pair_rows
from bench.cost.draws import Draws, Price, Purse
from bench.cost.prices import Prices
from bench.cost.strategy_cost import StrategyCost
from bench.errors import BenchError, did_you_mean
from bench.result.arms import Arm, groups_of, load_arms
from bench.result.compare import interval_of, score_group, seed_noise
from bench.result.schema import Item, Record
from bench.result.store import RunFolder

Row = dict[str, Any]
COLUMNS = (
    "task", "model", "strategy", "status", "reason", "priced_by", "batch_rows", "primary_metric", "value", "ci_low", "ci_high",
    "correct_share", "wrong_share", "missed_share", "error_rate", "n_labels", "data_usd", "search_usd", "training_usd", "index_usd",
    "setup_usd", "setup_usd_low", "setup_usd_high", "usd_per_1000_requests", "usd_per_1000_requests_low", "usd_per_1000_requests_high",
    "usd_per_1000_requests_cached", "usd_per_1000_requests_not_cached", "caching_estimated", "refresh", "refresh_usd", "refresh_usd_low",
    "refresh_usd_high", "storage_usd_per_month", "errors_usd", "total_usd", "total_usd_low", "total_usd_high",
    "total_usd_per_1000_requests", "usd_per_1000_correct", "usd_per_1000_correct_low", "usd_per_1000_correct_high", "n_seeds", "floor",
    "oracle",
)  # fmt: skip


@dataclass(frozen=True)
class TotalCosts:
    """What ``total_costs`` finds; rows in the order of the suite. Undefined is None."""

    assumptions: Assumptions
    strategies: list[Row] = field(default_factory=list)
    """One row per task, model and strategy, with ``COLUMNS``; ``*_low`` and ``*_high`` are 95 % intervals."""
    pairs: list[Row] = field(default_factory=list)
    """One row for every two strategies of a task, see ``break_even.pair_rows``."""
    prices: list[Price] = field(default_factory=list)
    """Those that were used."""


def total_costs(
    runs: Sequence[RunFolder | Path],
    prices: Prices,
    assumptions: Assumptions,
    *,
    task: str | None = None,
    price_model: str | None = None,
    seed: int = 0,
) -> TotalCosts:
    """Price every strategy of the runs, over the horizon and with the volume of the assumptions.

    ``price_model``: strategies that train nothing pay for tokens at this hosted model's price, and not for the device that answered.

    ``data_usd``: labels of the examples that the deployed strategy and its choice rest on (``Needs``). ``training_usd``: one training at
    the settings that were kept, mean over seeds. ``search_usd``: the other trials, of the cell that searched. ``refresh_usd``: what is to
    be done again, once, as ``refresh`` says. ``usd_per_1000_requests``: as the assumptions have it, cached or not. ``error_rate``: wrong
    answers, and missed ones (abstained though there is an answer) by their weight. ``usd_per_1000_correct``: the total, all in, by the
    answers that are attempted and right. Loading the base model, scoring and probing cost nothing here.

    A strategy that has no price, or whose records lack something, has a ``reason`` instead of costs. Raises BenchError where that is so
    of all, for an unknown task or hosted model, and as ``load_arms`` does.
    """
    folders = [run if isinstance(run, RunFolder) else RunFolder(run) for run in runs]
    arms = load_arms(folders)
    tasks = {arm.task for arm in arms}
    if task is not None and task not in tasks:
        raise BenchError(f'--task "{task}": no such task in the runs; {did_you_mean(task, tasks)}')
    purse = Purse(prices, price_model, Draws(seed, assumptions.price_factor))
    at_list = Purse(prices, price_model, Draws(seed, 1.0))
    found = TotalCosts(assumptions)
    for group in groups_of([arm for arm in arms if task in (None, arm.task)]):
        rows, costs, listed = [], [], []
        clusters = sorted({item.cluster for arm in group for items in arm.items for item in items.values()})
        for place, (row, arm) in enumerate(zip(_quality_rows(group), group, strict=True)):
            lines = lines_at_list = None
            if arm.ok:
                try:
                    items = [_items_of(record, folders) for record in arm.ok]
                    strategy = StrategyCost(arm, items, clusters, purse, assumptions, place)
                    lines = strategy.lines
                    lines_at_list = StrategyCost(arm, items, clusters, at_list, assumptions, place).lines
                    row |= strategy.columns(lines)
                except BenchError as error:
                    row["reason"] = str(error)
            rows.append(row)
            costs.append(lines)
            listed.append(lines_at_list)
        found.strategies.extend(rows)
        found.pairs.extend(pair_rows(group, costs, listed, assumptions))
    tried = [row for row in found.strategies if row["status"] in ("ok", "partial")]
    if tried and all(row["reason"] and row["total_usd"] is None for row in tried):
        raise BenchError(tried[0]["reason"])
    found.prices.extend(purse.used.values())
    return found


def _quality_rows(group: Sequence[Arm]) -> list[Row]:
    scored = score_group(group)
    noise = seed_noise(group, scored)
    rows = []
    for arm, scores in zip(group, scored, strict=True):
        bad = [record for record in arm.records if record.status != "ok"]
        row: Row = {**dict.fromkeys(COLUMNS), "task": arm.task, "model": arm.model, "strategy": arm.strategy, "n_seeds": len(arm.ok)}
        row |= {"primary_metric": arm.primary_metric, "oracle": arm.is_oracle, "status": "partial" if bad and arm.ok else "ok"}
        if bad:
            row["reason"] = " ".join((bad[0].error or "no reason recorded").split())
            if not arm.ok:
                row["status"] = next((record.status for record in bad if record.status == "failed"), bad[0].status)
        if scores is not None:
            interval = interval_of(arm, scores, noise[arm.family])
            row |= {"value": interval.value, "ci_low": interval.low, "ci_high": interval.high}
        rows.append(row)
    return rows


def _items_of(record: Record, folders: Sequence[RunFolder]) -> list[Item]:
    """The items of a record, from the last run that holds it, as ``load_arms`` reads."""
    cell = (record.task, record.strategy, record.seed)
    folder = next(f for f in reversed(folders) if (f.cell_folder(*cell) / "record.json").exists())
    return folder.read_items(*cell)
