"""Every strategy against one baseline on the same items: differences, tests, verdicts and ranks, from records and items alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import BenchError, did_you_mean
from bench.metric.registry import higher_is_better
from bench.result.arms import Arm, groups_of, load_arms
from bench.result.comparable import check_comparable
from bench.result.compare import (
    ArmScores,
    Pair,
    difference_of,
    is_share,
    item_means,
    noise_ratio,
    pair_of,
    places_of,
    score_group,
    seed_noise,
)
from bench.result.paired import ALPHA, McNemar, detectable_difference, discordant, mcnemar, tost, wins_losses_ties
from bench.result.ranking import Entrant, mean_of_sums, mean_rows, rank_entrants, readings
from bench.result.statistics import Difference, FloatArray, holm, macro_f1_of_sums
from bench.result.store import RunFolder

Row = dict[str, Any]
MARGINS = {"embedded": 0.01}
"""Smallest difference that matters by model, as a share: one point in the embedded world, where items are free; two elsewhere."""
MARGIN = 0.02
COLUMNS = (
    "task", "model", "strategy", "baseline", "metric", "higher_is_better", "status", "reason", "estimand", "n", "n_undefined", "n_clusters",
    "n_seeds", "baseline_n_seeds", "mean", "baseline_mean", "difference", "ci_low", "ci_high", "p_sign_flip", "p_seeds", "p", "p_holm",
    "family_size", "mcnemar_b", "mcnemar_c", "mcnemar_p", "mcnemar_mid_p", "mcnemar_reason", "wins", "losses", "ties", "mde", "margin",
    "p_equivalence", "verdict", "rank", "rank_low", "rank_high", "p_best", "p_pareto", "cost_seconds_per_1000_requests", "cost_kind",
    "peak_memory_bytes", "memory_kind", "seconds_per_1000_requests", "notes",
)  # fmt: skip


def comparison_rows(
    run: RunFolder | Path | Sequence[RunFolder | Path],
    baseline: str,
    metric: str | None = None,
    margin: float | None = None,
    seed: int = 0,
    *,
    allow_unequal: bool = False,
) -> list[Row]:
    """One row per (task, model, strategy), the baseline's own among them; columns as in ``COLUMNS``, undefined is None.

    ``difference`` is strategy minus baseline on the ``n`` items that both have and on which the metric is defined for both;
    ``n_undefined`` counts the shared ones on which it is not. ``mean`` and ``baseline_mean`` are over the same ``n`` items.

    ``estimand`` E1: the two artifacts at hand, over items; E2: the strategies, over items and seeds (a side has several seeds).
    ``p``: the larger of the sign-flip test's (clusters of items) and, for E2, the t test's that includes the seed variance;
    ``p_holm``: adjusted over the ``family_size`` strategies compared with the baseline on one metric and task. McNemar (items as
    independent) only where each side is one artifact with 0/1 scores: the majority of several seeds would be an ensemble that nobody
    deploys, so there is a reason instead. Wins, losses, ties: items, by means over seeds; for macro F1 by right labels.
    ``mde``: the true difference that would be found with power .8 at Holm's strictest step.

    ``verdict``: better or worse where ``p_holm`` <= .05 and the difference is at least ``margin`` (higher or lower where the metric
    has no good end); else equivalent where the 90 % interval lies within the margin (TOST at .05, not adjusted); else inconclusive.
    ``margin``: in the metric's unit; default .01 for the embedded model, .02 for others, none for a metric that is no share.

    Ranks, ``p_best`` and ``p_pareto`` (``ranking.rank_entrants``) are over all strategies of the task but oracles, on the items on
    which the metric is defined for all.

    Raises BenchError for a baseline or metric that no record has, for nothing to compare, for a margin that makes no sense, and
    for records that do not belong together: other questions, gold answers or scoring version; without ``allow_unequal`` also
    other task data, weights or budget.
    """
    if margin is not None and not margin > 0:
        raise BenchError(f"margin: found {margin}, expected a number above 0 in the metric's unit (0.02 is two points of a share)")
    groups = list(groups_of(load_arms(run)))
    names = sorted({arm.strategy for group in groups for arm in group})
    if baseline not in names:
        raise BenchError(f'baseline "{baseline}": no record of this strategy; {did_you_mean(baseline, names)}')
    if len(names) == 1:
        raise BenchError(f'baseline "{baseline}": the only strategy here; expected at least one other to compare with it')
    known = sorted({name for group in groups for arm in group for record in arm.ok for name in record.metrics})
    if metric is not None and metric not in known:
        raise BenchError(f'metric "{metric}": in no record; {did_you_mean(metric, known)}')
    rows = []
    for group in groups:
        notes = check_comparable(group, allow_unequal)
        rows += _group_rows(group, baseline, metric, margin, seed, notes)
    return [{column: row.get(column) for column in COLUMNS} for row in rows]


def _group_rows(
    group: Sequence[Arm], baseline: str, metric: str | None, margin: float | None, seed: int, notes: Sequence[str]
) -> list[Row]:
    """The rows of one task and base model."""
    name = metric or next((arm.primary_metric for arm in group if arm.primary_metric), None)
    found = score_group(group, metric=name)
    missing = [_missing(arm, scores, name) for arm, scores in zip(group, found, strict=True)]
    scored = [None if reason else scores for reason, scores in zip(missing, found, strict=True)]
    noise = seed_noise(group, scored)
    base = next((place for place, arm in enumerate(group) if arm.strategy == baseline), None)
    no_base = f"the baseline {baseline} was not run on this task"
    if base is not None:
        no_base = f"the baseline {baseline}: {missing[base]}"
    rows: list[Row] = []
    compared: dict[int, tuple[Pair, Difference]] = {}
    for place, (arm, own) in enumerate(zip(group, scored, strict=True)):
        other = None if base is None else scored[base]
        pair = pair_of(own, other)
        status, reason = "ok", missing[place]
        if place == base:
            status = "baseline"
        elif own and other and pair and base is not None:
            compared[place] = pair, difference_of(arm, group[base], own, other, pair, noise)
        else:
            reason = reason or (no_base if other is None else f"no item on which {name} is defined for both")
        rows.append(
            {
                "task": arm.task,
                "model": arm.model,
                "strategy": arm.strategy,
                "baseline": baseline,
                "metric": name,
                "status": "not compared" if reason else status,
                "reason": reason,
                "n_seeds": len(arm.ok),
                "baseline_n_seeds": None if base is None else len(group[base].ok),
                # The baseline's own row; those of the others are over the items that they share with it.
                "n": int(np.isfinite(_per_item(own.table)).sum()) if own and place == base else None,
                "mean": float(own.values.mean()) if own and place == base else None,
            }
        )
    higher = higher_is_better(name)
    adjusted = holm([difference.p for _, difference in compared.values()])
    for (place, (pair, difference)), p_holm in zip(compared.items(), adjusted, strict=True):
        rows[place] |= _tested(pair, difference, p_holm, len(compared), group[place].model, margin, higher)
    ranked = [place for place, arm in enumerate(group) if scored[place] and not arm.is_oracle]
    ranks = _ranks([group[place] for place in ranked], [s for place in ranked if (s := scored[place])], higher, seed)
    for place, columns in zip(ranked, ranks, strict=True):
        rows[place] |= columns
    every = [*notes, *_seed_notes(group, scored, missing)]
    return [row | {"higher_is_better": higher, "notes": every} for row in rows]


def _missing(arm: Arm, scores: ArmScores | None, metric: str | None) -> str | None:
    """Why an arm has no items with the metric."""
    if not arm.ok:
        first = arm.records[0]
        return f"{first.status}: {' '.join((first.error or 'no reason recorded').split())}"
    if metric is None or not any(metric in record.metrics for record in arm.ok):
        return f"no {metric or 'primary metric'} in its records"
    if scores is None:
        return "its seeds share no item"
    return None if scores.table.size else f"{metric} has no item scores, so there is nothing to pair"


def _tested(pair: Pair, difference: Difference, p_holm: float, family: int, model: str, margin: float | None, higher: bool | None) -> Row:
    a, b = _per_item(pair.a), _per_item(pair.b)
    both = np.isfinite(a) & np.isfinite(b)
    if pair.is_mean:
        mean, baseline_mean = float(a[both].mean()), float(b[both].mean())
    else:
        mean, baseline_mean = (float(np.mean(macro_f1_of_sums(table.sum(axis=1)))) for table in (pair.a, pair.b))
    share = not pair.is_mean or (is_share(pair.a) and is_share(pair.b))
    if margin is not None and share and margin >= 1:
        raise BenchError(f"margin: found {margin}, expected less than 1, since the metric is a share (0.02 is two points)")
    if margin is None and share:
        margin = MARGINS.get(model, MARGIN)
    low, high = difference.low, difference.high
    if share and low is not None and high is not None:
        low, high = max(-1.0, low), min(1.0, high)
    equivalence = None if margin is None else tost(difference, margin)
    test = _mcnemar(pair, a, b)
    known = test if isinstance(test, McNemar) else None
    wins, losses, ties = wins_losses_ties(a, b, higher_is_better=higher is not False)
    return {
        "estimand": "E1" if difference.p_seeds is None else "E2",
        "n": difference.n,
        "n_undefined": len(a) - difference.n,
        "n_clusters": len({name for name, defined in zip(pair.clusters, both.tolist(), strict=True) if defined}),
        "mean": mean,
        "baseline_mean": baseline_mean,
        "difference": difference.delta,
        "ci_low": low,
        "ci_high": high,
        "p_sign_flip": difference.p_sign_flip,
        "p_seeds": difference.p_seeds,
        "p": difference.p,
        "p_holm": p_holm,
        "family_size": family,
        "mcnemar_b": known and known.b,
        "mcnemar_c": known and known.c,
        "mcnemar_p": known and known.p,
        "mcnemar_mid_p": known and known.mid_p,
        "mcnemar_reason": None if known else test,
        "wins": wins,
        "losses": losses,
        "ties": ties,
        "mde": detectable_difference(difference, m=family),
        "margin": margin,
        "p_equivalence": equivalence and equivalence.p,
        "verdict": _verdict(difference.delta, p_holm, margin, equivalence is not None and equivalence.equivalent, higher),
    }


def _verdict(delta: float, p_holm: float, margin: float | None, equivalent: bool, higher: bool | None) -> str:
    if p_holm <= ALPHA and abs(delta) >= (margin or 0.0):
        if higher is None:
            return "higher" if delta > 0 else "lower"
        return "better" if (delta > 0) == higher else "worse"
    return "equivalent" if equivalent else "inconclusive"


def _per_item(table: FloatArray) -> FloatArray:
    """(n,): mean over seeds of the item's score; of rows for macro F1, whether the label is right."""
    return item_means(table) if table.ndim == 2 else np.asarray(table[..., : table.shape[2] // 3].sum(axis=2).mean(axis=0))


def _mcnemar(pair: Pair, a: FloatArray, b: FloatArray) -> McNemar | str:
    """The test, or why there is none."""
    if not pair.is_mean:
        return "macro F1 is no score of an item"
    if len(pair.a) > 1 or len(pair.b) > 1:
        return "several seeds, so no single artifact"
    counts = discordant(a, b)
    return mcnemar(*counts) if counts else "scores are not 0 or 1"


def _ranks(arms: Sequence[Arm], scored: Sequence[ArmScores], higher: bool | None, seed: int) -> list[Row]:
    """Rank columns and what was read on the axes of the front, per arm."""
    if not arms:
        return []
    read = readings(arms)
    names = {"cost": "cost_seconds_per_1000_requests", "memory": "peak_memory_bytes", "latency": "seconds_per_1000_requests"}
    columns: list[Row] = [
        {"cost_kind": read.cost_kind, "memory_kind": read.memory_kind} | {names[axis]: float(v.mean()) for axis, v in costs.items()}
        for costs in read.costs
    ]
    in_all = set(scored[0].ids).intersection(*[s.ids for s in scored[1:]])
    shared = [i for i in scored[0].ids if i in in_all]
    tables = [s.table[:, places_of(s.ids, shared)] for s in scored]
    if scored[0].is_mean:
        defined = np.all([np.isfinite(table).any(axis=0) for table in tables], axis=0)
        tables = [mean_rows(table[:, defined]) for table in tables]
        shared = [i for i, keep in zip(shared, defined.tolist(), strict=True) if keep]
    if higher is None or len(arms) < 2 or not shared:
        return columns
    cluster_of = dict(zip(scored[0].ids, scored[0].clusters, strict=True))
    found = rank_entrants(
        [Entrant(table, costs) for table, costs in zip(tables, read.costs, strict=True)],
        [cluster_of[i] for i in shared],
        mean_of_sums if scored[0].is_mean else macro_f1_of_sums,
        higher_is_better=higher,
        seed=seed,
    )
    for row, rank in zip(columns, found or [], strict=bool(found)):
        row |= {"rank": rank.rank, "rank_low": rank.low, "rank_high": rank.high, "p_best": rank.p_best, "p_pareto": rank.p_pareto}
    return columns


def _seed_notes(group: Sequence[Arm], scored: Sequence[ArmScores | None], missing: Sequence[str | None]) -> list[str]:
    ok = [arm for arm, reason in zip(group, missing, strict=True) if reason is None]
    notes = []
    single = [arm.strategy for arm in ok if len(arm.ok) == 1 and not arm.deterministic]
    if single:
        notes.append(f"one seed only, so the artifact is compared and not the strategy (E1): {', '.join(single)}")
    few = [arm.strategy for arm in ok if len(arm.ok) == 2]
    if few:
        notes.append(f"two seeds only, expected three or more: {', '.join(few)}")
    partial = [f"{arm.strategy} ({len(arm.records) - len(arm.ok)} of {len(arm.records)})" for arm in ok if len(arm.ok) < len(arm.records)]
    if partial:
        notes.append(f"seeds left out since they are not ok, which may flatter: {', '.join(partial)}")
    if noise_ratio(group, scored) > 9:
        notes.append("seed noise differs more than 9-fold within a family of strategies, over which it is pooled")
    return notes
