"""The comparison table: one row per (task, strategy), from records and items alone. How it looks is in ``render.py``.

Rows are compared only within one task and one base model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError
from bench.metric.registry import higher_is_better
from bench.result.arms import Arm, groups_of, load_arms
from bench.result.columns import COLUMNS, SECONDARY, Row, as_frame, plain_row
from bench.result.compare import ArmScores, SeedNoise, interval_of, noise_ratio, p_of_no_difference, score_group, seed_noise
from bench.result.render import print_table, render
from bench.result.schema import SETUP, Phase, PhaseName, Record
from bench.result.shares import variance_shares
from bench.result.statistics import PooledInterval, holm
from bench.result.store import RunFolder, write_atomic

if TYPE_CHECKING:
    import pandas as pd

    from bench.cost.prices import Prices, TokenPrice

__all__ = ["COLUMNS", "build_table", "error_table", "print_table", "render", "slice_table", "table_rows", "write_table"]

ALPHA = 0.05
SERVING: tuple[PhaseName, ...] = ("load", *SETUP, "answer")
"""Phases whose memory is the strategy's own; scoring and probing are ours."""


def build_table(run: RunFolder | Path | Sequence[RunFolder | Path]) -> pd.DataFrame:
    """``table_rows`` as a pandas frame; undefined is NaN."""
    return as_frame(table_rows(run))


def table_rows(
    run: RunFolder | Path | Sequence[RunFolder | Path], prices: Prices | None = None, hosted: TokenPrice | None = None
) -> list[Row]:
    """The table of one run, or of several together; columns as in ``COLUMNS``, undefined is None.

    ``value`` is the mean over seeds of the primary metric, ``ci_*`` its 95 % interval over items and, where there are two seeds or
    more, seeds (``interval`` says which). The other metrics are means over seeds. ``setup_*``: tuning, with all
    trials of the search, and indexing, of the cell that searched; loading the base model is left out. ``peak_memory_bytes``: of the
    phases load to answer, on a GPU what tensors held, else resident memory. ``best``: highest value among the task's strategies,
    oracles left out; ``tied``: not told apart from it (Holm-adjusted p > .05, ``statistics.Difference.p``); on the best row: some
    other is. Both are False where there is nothing to compare with. ``seed_noise_ratio``: largest over smallest variance between
    the seeds of one strategy among the strategies of one family (prompting, PEFT, full), over which seed variance is pooled.
    ``item_share``, ``seed_share``, ``residual_share``: ``shares.variance_shares`` of a mean over two seeds or more.

    With ``prices`` also ``PRICED``: the same set-up and requests in dollars of the device that each record ran on, or of a served model's
    tokens, and what 1,000 correct answers cost, ``usd_per_1000_requests`` over the share of items whose outcome is correct; undefined
    where none is. With ``hosted``
    also ``HOSTED``: the tokens of 1,000 requests at this price, nothing cached, and the prefix that requests shared cached.

    Raises BenchError for a run without records, a broken file, records that do not belong together, or a device without a price.
    """
    rows = []
    for group in groups_of(load_arms(run)):
        for arm, values in zip(group, _group_rows(group), strict=True):
            priced = {} if prices is None else _priced_columns(arm, prices, hosted)
            api = {} if hosted is None else _hosted_columns(arm, hosted)
            rows.append(plain_row({**values, **priced, **api}))
    return rows


def slice_table(run: RunFolder | Path | Sequence[RunFolder | Path]) -> pd.DataFrame:
    """The primary metric by slice: one row per (task, model, strategy, slice, slice_value), intervals as in ``build_table``.

    Raises BenchError as ``build_table`` does.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    columns = ["task", "model", "strategy", "primary_metric", "slice", "slice_value", "value", "ci_low", "ci_high", "interval", "n_items"]
    for group in groups_of(load_arms(run)):
        pairs = sorted({pair for arm in group for items in arm.items for item in items.values() for pair in item.slices.items()})
        for name, wanted in pairs:
            scored = score_group(group, name, wanted)
            noise = seed_noise(group, scored)
            for arm, scores in zip(group, scored, strict=True):
                if scores is None:
                    continue
                interval = interval_of(arm, scores, noise[arm.family], f"{name}={wanted}")
                head = {"task": arm.task, "model": arm.model, "strategy": arm.strategy, "primary_metric": arm.primary_metric}
                rows.append({**head, "slice": name, "slice_value": wanted, **_interval_columns(interval), "n_items": len(scores.ids)})
    return pd.DataFrame(rows, columns=columns)


def error_table(run: RunFolder | Path | Sequence[RunFolder | Path]) -> pd.DataFrame:
    """What kind of errors each strategy that reads passages makes: shares of all its items, means over seeds, by kind.

    One row per (task, model, strategy) with an error of a kind, the kinds as columns in the order of `bench.metric.taxonomy`; ``errors`` is
    their sum. Raises BenchError as ``build_table`` does.
    """
    import pandas as pd

    from bench.metric.taxonomy import ERROR_KINDS

    rows = []
    for arm in (arm for group in groups_of(load_arms(run)) for arm in group):
        kinds = [item.error for items in arm.items for item in items.values()]
        if any(kinds):
            shares: dict[str, float] = {kind: kinds.count(kind) / len(kinds) for kind in ERROR_KINDS}
            head = {"task": arm.task, "model": arm.model, "strategy": arm.strategy, "errors": sum(shares.values())}
            rows.append({**head, **shares, "n_items": len(arm.items[0])})
    return pd.DataFrame(rows, columns=["task", "model", "strategy", "errors", *ERROR_KINDS, "n_items"])


def write_table(run: RunFolder) -> list[Row]:
    """Write table.md, table.csv and table.parquet into the run folder and return the rows. Raises BenchError.

    Where table.csv is what it would be, so is table.parquet, which takes more time than all the rest (pandas and pyarrow).
    """
    rows = table_rows(run)
    text, csv, parquet = str(render(rows, "csv")), run.path / "table.csv", run.path / "table.parquet"
    if not (parquet.exists() and csv.exists() and csv.read_bytes() == text.encode()):
        write_atomic(parquet, render(rows, "parquet"))
        write_atomic(csv, text)
    write_atomic(run.path / "table.md", render(rows, "md"))
    return rows


def _group_rows(group: list[Arm]) -> list[dict[str, Any]]:
    scored = score_group(group)
    noise = seed_noise(group, scored)
    ratio = noise_ratio(group, scored)
    rows = []
    for arm, scores in zip(group, scored, strict=True):
        interval = None if scores is None else interval_of(arm, scores, noise[arm.family])
        rows.append({**_arm_columns(arm), **_interval_columns(interval), "seed_noise_ratio": ratio, **_share_columns(scores)})
    _mark_best(group, scored, noise, rows)
    return rows


def _mark_best(group: list[Arm], scored: Sequence[ArmScores | None], noise: SeedNoise, rows: list[dict[str, Any]]) -> None:
    """Set ``best``, ``tied`` and ``p_vs_best`` in the rows of one task."""
    entrants = [i for i, arm in enumerate(group) if scored[i] is not None and not arm.is_oracle]
    for row in rows:
        row.update(best=False, tied=False, p_vs_best=None)
    if len(entrants) < 2:
        return
    sign = -1.0 if higher_is_better(group[0].primary_metric) is False else 1.0
    best = max(entrants, key=lambda i: sign * rows[i]["value"])
    rest = [i for i in entrants if i != best]
    adjusted = holm([p_of_no_difference(group[best], group[i], scored[best], scored[i], noise) for i in rest])
    for i, p in zip(rest, adjusted, strict=True):
        rows[i].update(tied=p > ALPHA, p_vs_best=p)
    rows[best].update(best=True, tied=any(p > ALPHA for p in adjusted))


def _interval_columns(interval: PooledInterval | None) -> dict[str, Any]:
    if interval is None:
        return {"value": None, "ci_low": None, "ci_high": None, "interval": None}
    kind = None if interval.low is None else "items" if interval.items_only else "items + seeds"
    return {"value": interval.value, "ci_low": interval.low, "ci_high": interval.high, "interval": kind}


def _share_columns(scores: ArmScores | None) -> dict[str, Any]:
    shares = variance_shares(scores.table, scores.clusters) if scores is not None and scores.is_mean and scores.table.size else None
    return {} if shares is None else {"item_share": shares.items, "seed_share": shares.seeds, "residual_share": shares.residual}


def _arm_columns(arm: Arm) -> dict[str, Any]:
    """Everything about an arm that needs no comparison with the others."""
    ok = arm.ok
    status, reason = _status(arm)
    memory, kind = _peak_memory(ok)
    requests = [record for record in ok if record.n_items > 0]
    answers = [(record.phases["answer"], record.n_items) for record in requests if "answer" in record.phases]
    return {
        "task": arm.task,
        "model": arm.model,
        "strategy": arm.strategy,
        "primary_metric": arm.primary_metric,
        **{name: _mean(record.metrics[name].value for record in ok if name in record.metrics) for name in SECONDARY},
        "setup_seconds": setup_seconds(ok, "wall_seconds"),
        "setup_cpu_seconds": setup_seconds(ok, "cpu_seconds"),
        "seconds_per_1000_requests": _mean(1000 * phase.wall_seconds / n for phase, n in answers),
        "cpu_seconds_per_1000_requests": _mean(1000 * phase.cpu_seconds / n for phase, n in answers),
        "prompt_tokens_per_1000_requests": _mean(1000 * record.tokens.prompt / record.n_items for record in requests),
        "completion_tokens_per_1000_requests": _mean(1000 * record.tokens.completion / record.n_items for record in requests),
        "peak_memory_bytes": memory,
        "peak_memory_kind": kind,
        "trainable_params": max((record.params.trainable for record in ok if record.params), default=None),
        "artifact_bytes": max((record.artifact_bytes for record in ok if record.artifact_bytes is not None), default=None),
        "n_items": max((record.n_items for record in ok), default=0),
        "n_seeds": len(ok),
        "deterministic": arm.deterministic,
        "n_trials": max((len(record.trials) for record in arm.records), default=0),
        "status": status,
        "reason": reason,
    }


def _status(arm: Arm) -> tuple[str, str | None]:
    """``partial`` where some seeds are ok and others are not: their mean may flatter the strategy."""
    bad = [record for record in arm.records if record.status != "ok"]
    if not bad:
        return "ok", None
    first = next((record for record in bad if record.status == "failed"), bad[0])
    reason = " ".join((first.error or "no reason recorded").split())
    if len(bad) < len(arm.records):
        return "partial", f"{len(bad)} of {len(arm.records)} seeds {first.status}: {reason}"
    return first.status, reason


def setup_seconds(records: Sequence[Record], clock: str) -> float | None:
    """Seconds to set the strategy up once: making training rows, tuning and validation, with all trials of a search, and indexing.

    Of the cell that searched: its phases hold the trials, and the best of them is the model that it keeps. Where several
    searched, or none did, the mean over them.
    """
    return _mean(sum(getattr(phase, clock) for phase in _setup(record)) for record in _searched(records))


def _searched(records: Sequence[Record]) -> list[Record]:
    return [record for record in records if record.trials] or list(records)


def _setup(record: Record) -> list[Phase]:
    return [record.phases[name] for name in SETUP if name in record.phases]


def _priced_columns(arm: Arm, prices: Prices, hosted: TokenPrice | None) -> dict[str, Any]:
    if arm.ok and "endpoint" in arm.ok[0].config:
        try:
            setup, requests, paid = _at_endpoint(arm, prices, hosted)
        except BenchError as error:
            setup, requests, paid = None, None, f"unknown: {error}"
    else:
        setup, requests, paid = _on_devices(arm, prices)
    correct = _share_correct(arm)
    return {
        "setup_usd": setup,
        "usd_per_1000_requests": requests,
        "usd_per_1000_correct": requests / correct if requests is not None and correct else None,
        "price": paid,
    }


def _on_devices(arm: Arm, prices: Prices) -> tuple[float | None, float | None, str | None]:
    """Dollars of set-up and of 1,000 requests by the time of the devices that worked for them, and their prices."""
    from bench.cost.prices import device_of, phase_usd

    of = {record.seed: prices.device(device_of(record)) for record in arm.ok}
    answers = [record for record in arm.ok if record.n_items > 0 and "answer" in record.phases]
    requests = _mean(1000 * phase_usd(record.phases["answer"], of[record.seed]) / record.n_items for record in answers)
    setup = _mean(sum(phase_usd(phase, of[record.seed]) for phase in _setup(record)) for record in _searched(arm.ok))
    return setup, requests, "; ".join(dict.fromkeys(map(str, of.values()))) or None


def _at_endpoint(arm: Arm, prices: Prices, hosted: TokenPrice | None) -> tuple[float | None, float | None, str | None]:
    """The same of a served model by tokens, at the price of `hosted` or of the model's name. Set-up is the requests of the search, each as
    dear as one of the test, the provider's fine-tuning jobs, and indexing here. Raises `BenchError` where one of them has no price."""
    from bench.cost.prices import device_of, phase_usd, provider_training_usd, tokens_usd, tuned_by_provider

    base = hosted or prices.model(arm.ok[0].config["endpoint"]["model"])
    price = base.of_tuned() if tuned_by_provider(arm.ok[0]) else base
    each = _mean(tokens_usd(record.tokens, price, cached=True) / record.n_items for record in arm.ok if record.n_items)

    def setup(record: Record) -> float:
        jobs = provider_training_usd(record, base, all_jobs=True) if tuned_by_provider(record) else 0.0
        index = phase_usd(record.phases["index"], prices.device(device_of(record))) if "index" in record.phases else 0.0
        return jobs + index + len(record.trials) * record.n_validation * (each or 0.0)

    return _mean(map(setup, _searched(arm.ok))), None if each is None else 1000 * each, str(base)


def _hosted_columns(arm: Arm, price: TokenPrice) -> dict[str, Any]:
    from bench.cost.prices import tokens_usd

    requests = [record for record in arm.ok if record.n_items > 0]

    def usd(cached: bool) -> float | None:
        return _mean(1000 * tokens_usd(record.tokens, price, cached=cached) / record.n_items for record in requests)

    return {"api_usd_per_1000_requests": usd(False), "api_usd_per_1000_requests_cached": usd(True), "api_price": str(price)}


def _share_correct(arm: Arm) -> float | None:
    """Share of the items of all seeds whose outcome is correct: a right abstention is none."""
    found = [item.outcome == "correct" for items in arm.items for item in items.values()]
    return sum(found) / len(found) if found else None


def _peak_memory(records: Sequence[Record]) -> tuple[int | None, str | None]:
    phases = [record.phases[name] for record in records for name in SERVING if name in record.phases]
    gpu = [phase.peak_gpu_allocated_bytes for phase in phases if phase.peak_gpu_allocated_bytes is not None]
    rss = [phase.peak_rss_bytes for phase in phases if phase.peak_rss_bytes is not None]
    if gpu:
        return max(gpu), "gpu"
    return (max(rss), "rss") if rss else (None, None)


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return math.fsum(found) / len(found) if found else None
