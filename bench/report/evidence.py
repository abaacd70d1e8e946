"""Gather everything that a decision report says from the records of runs, once: no model is loaded and no network asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError
from bench.metric.registry import get, higher_is_better, metric_names
from bench.report.model import Candidate, Evidence, Measure, Pair, Standing, TaskEvidence
from bench.report.prices import Thing, price_crossings, things_with_a_price
from bench.report.questions import read_questions
from bench.report.reproduce import command_of, environment_of, fingerprints_of
from bench.report.two_runs import changes, shared_cells
from bench.result.arms import Arm, groups_of, load_arms
from bench.result.probes import pooled_value, probe_rows
from bench.result.schema import Memory, Run
from bench.result.store import RunFolder
from bench.result.table import table_rows

if TYPE_CHECKING:
    from bench.cost.assumptions import Assumptions
    from bench.cost.prices import Prices
    from bench.result.compare import ArmScores, SeedNoise

    Scored = tuple[Arm, ArmScores]

Row = dict[str, Any]
MEMORY_PARTS = tuple(name for name in Memory.model_fields if name not in ("kind", "peak_bytes"))
TABLE_MEASURES = ("setup_seconds", "seconds_per_1000_requests", "peak_memory_bytes", "artifact_bytes", "trainable_params")
COST_MEASURES = ("usd_per_1000_requests", "total_usd", "setup_usd", "refresh_usd", "storage_usd_per_month", "usd_per_1000_correct")
CLAIM_GOALS = {"greater": "above 0", "not_greater": "below the margin", "equal": "within the margin"}


def gather(runs: Sequence[Path], prices: Prices, assumptions: Assumptions) -> Evidence:
    """The evidence of runs that belong together, in the order of the suite.

    Runs that differ in ``budget.train_examples`` and share cells make learning curves; all else is then of the largest one. Of two other
    runs that share cells the second one is reported, with what changed since the first. Costs that cannot be known (a device without a
    price), claims that cannot be judged and curves that cannot be drawn are left out and named in ``notes``. Raises BenchError for a run
    without records or ``run.json``, a broken file, and runs that hold different cells of one name.
    """
    folders = [RunFolder(run) for run in runs]
    for folder in folders:
        if not folder.path.is_dir():
            raise BenchError(f"{folder.path}: no such run folder")
    headers = [folder.read_run() for folder in folders]
    sizes = _sizes(folders, headers)
    versions = not sizes and len(folders) == 2 and bool(shared_cells(folders))
    changed = changes(*folders) if versions else {}
    if versions:
        folders, headers = folders[1:], headers[1:]
    book = _Book([folder for _, folder in sorted(sizes.items())][-1:] if sizes else folders, prices, assumptions)
    points, crossovers = _curves(folders, book.notes) if sizes else ([], [])
    tasks = []
    for group in groups_of(book.arms):
        own = {"task": group[0].task, "model": group[0].model}
        found = book.task(group, *([row for row in rows if own.items() <= row.items()] for rows in (points, crossovers)))
        tasks.append(replace(found, changes=changed.get((group[0].task, group[0].model), ())))
    return Evidence(
        tasks=tuple(tasks),
        runs=tuple(str(run) for run in runs),
        command="\n".join(command_of(folder, header) for folder, header in zip(folders, headers, strict=True)),
        environment=environment_of(folders, headers, book.arms, book.notes),
        fingerprints=fingerprints_of(book.arms),
        assumptions=assumptions.model_dump(mode="json"),
        prices=tuple(book.prices),
        claims=_claims([folder.path for folder in book.folders], book.notes),
        notes=tuple(book.notes),
    )


@dataclass
class _Book:
    """What is read once for all tasks."""

    folders: list[RunFolder]
    given_prices: Prices
    assumptions: Assumptions
    notes: list[str] = field(default_factory=list)
    prices: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.arms = load_arms(self.folders)
        self.table = {_key(row): row for row in table_rows(self.folders)}
        self.presets = _presets([folder.read_run() for folder in self.folders])
        self.costs: dict[tuple[str, ...], Row] = {}
        self.crossings: dict[tuple[str, ...], Row] = {}
        self.things: list[Thing] = []
        self._read_costs()
        has_probes = any(record.probes for arm in self.arms for record in arm.ok)
        self.probes = [row for row in probe_rows([f.path for f in self.folders]) if row.get("value_name")] if has_probes else []

    def _read_costs(self) -> None:
        from bench.cost.total import total_costs

        try:
            found = total_costs(self.folders, self.given_prices, self.assumptions)
        except BenchError as error:
            self.notes.append(f"no costs: {error}")
            return
        self.costs = {_key(row): row for row in found.strategies}
        self.crossings = {(*_key(row | {"strategy": row["a"]}), row["b"]): row for row in found.pairs}
        self.prices = [str(price) for price in found.prices]
        self.things = things_with_a_price(found.prices, self.assumptions)
        without = [row for row in found.strategies if row["total_usd"] is None and row["status"] in ("ok", "partial")]
        self.notes.extend(f"no costs of {row['task']} / {row['strategy']}: {row['reason']}" for row in without)

    def task(self, group: list[Arm], points: list[Row], crossovers: list[Row]) -> TaskEvidence:
        """The evidence of one task with one base model."""
        from bench.result.compare import is_share, score_group

        metric = next((arm.primary_metric for arm in group if arm.primary_metric), "")
        scored = score_group(group)
        share = all(not s.table.size or is_share(s.table) for s in scored if s) and any(scored)
        if metric in metric_names():
            share = get(metric).bounds == (0.0, 1.0)
        candidates = tuple(self._candidate(arm) for arm in group)
        questions, passages = read_questions(group, self.folders, metric)
        return TaskEvidence(
            task=group[0].task,
            model=group[0].model,
            metric=metric,
            higher_is_better=higher_is_better(metric) is not False,
            is_share=share,
            candidates=candidates,
            pairs=self._pairs(group, scored, candidates, share),
            questions=questions,
            passages=passages,
            curves=tuple(points),
            crossovers=tuple(crossovers),
            errors={arm.strategy: shares for arm in group if (shares := _error_shares(arm))},
            memory={arm.strategy: parts for arm in group if (parts := _memory(arm))},
        )

    def _candidate(self, arm: Arm) -> Candidate:
        row, preset = self.table[_key(vars(arm))], self.presets.get(arm.strategy)
        config = next((c for r in arm.records if isinstance(c := r.config.get("strategy"), dict)), {})
        described = config or ({} if preset is None else preset.model_dump(mode="json"))
        standing: Standing = "contender"
        if not arm.ok:
            standing = "failed"
        elif (described.get("prompt") or {}).get("constant"):
            standing = "floor"
        elif arm.is_oracle:
            standing = "oracle"
        return Candidate(
            strategy=arm.strategy,
            standing=standing,
            reason=row["reason"],
            description="" if preset is None else preset.description,
            family=str(described.get("family") or arm.family),
            choices={choice: described[choice] for choice in ("prompt", "retrieval", "tuning") if choice in described},
            measures=self._measures(arm, row) if arm.ok else {},
            n_items=row["n_items"],
            n_seeds=row["n_seeds"],
            hosted=any("endpoint" in record.config for record in arm.ok),
        )

    def _measures(self, arm: Arm, row: Row) -> dict[str, Measure]:
        found: dict[str, Measure] = {}
        names = dict.fromkeys(name for record in arm.ok for name in record.metrics)
        for name in names:
            found[name] = Measure(*pooled_value([record.metrics[name] for record in arm.ok if name in record.metrics]))
        if row["value"] is not None:
            found["quality"] = Measure(row["value"], row["ci_low"], row["ci_high"])
            if arm.primary_metric in found:  # one number, one interval
                found[arm.primary_metric] = found["quality"]
        found |= {name: Measure(float(row[name])) for name in TABLE_MEASURES if row[name] is not None}
        cost = self.costs.get(_key(row), {})
        for name in COST_MEASURES:
            if cost.get(name) is not None:
                found[name] = Measure(cost[name], cost.get(f"{name}_low"), cost.get(f"{name}_high"))
        for probe in (p for p in self.probes if _key(p) == _key(row)):
            found[f"{probe['probe']}.{probe['value_name']}"] = Measure(probe["value"], probe["ci_low"], probe["ci_high"])
        if "latency.latency_p95_seconds" in found:
            found["latency_p95_seconds"] = found["latency.latency_p95_seconds"]
        return found

    def _pairs(
        self, group: Sequence[Arm], scored: Sequence[ArmScores | None], candidates: Sequence[Candidate], share: bool
    ) -> tuple[Pair, ...]:
        """Every two contenders that share an item, and each contender with the best floor; Holm's correction over each kind apart."""
        from itertools import combinations

        from bench.result.compare import seed_noise

        names, floor_names = ({c.strategy for c in candidates if c.standing == kind} for kind in ("contender", "floor"))
        noise = seed_noise(group, scored)
        known = [(arm, scores) for arm, scores in zip(group, scored, strict=True) if scores]
        entrants = [entry for entry in known if entry[0].strategy in names]
        floors = [entry for entry in known if entry[0].strategy in floor_names]
        sign = -1.0 if higher_is_better(group[0].primary_metric) is False else 1.0
        best_floor = max(floors, key=lambda entry: sign * float(entry[1].values.mean()), default=None)
        return (
            *self._compared(list(combinations(entrants, 2)), noise, share),
            *self._compared([(entry, best_floor) for entry in entrants] if best_floor else [], noise, share),
        )

    def _compared(self, chosen: Sequence[tuple[Scored, Scored]], noise: SeedNoise, share: bool) -> list[Pair]:
        from bench.result.compare import paired_differences
        from bench.result.paired import detectable_difference

        differences = paired_differences(chosen, noise)
        compared = [(a, b, found, p) for ((a, _), (b, _)), one in zip(chosen, differences, strict=True) if one for _, found, p in [one]]
        pairs = []
        for a, b, found, p in compared:
            low, high = found.low, found.high
            if share and low is not None and high is not None:
                low, high = max(-1.0, low), min(1.0, high)
            crossing = self.crossings.get((*_key(vars(a)), b.strategy), {})
            at = crossing.get("break_even_requests")
            pairs.append(Pair(
                a.strategy, b.strategy, Measure(found.delta, low, high), p, detectable_difference(found, m=len(compared)),
                None if at is None else Measure(at, crossing["break_even_requests_low"], crossing["break_even_requests_high"]),
                crossing.get("break_even_requests_below"), crossing.get("break_even_requests_above"),
                price_crossings(crossing, self.things) if crossing else (),
            ))  # fmt: skip
        return pairs


def _key(row: Mapping[str, Any]) -> tuple[str, ...]:
    return row["task"], row["model"], row["strategy"]


def _presets(headers: Sequence[Run]) -> dict[str, Any]:
    """The presets that the suites name; a strategy of a file with a preset's name is none."""
    from bench.strategy.spec import load_strategy, preset_names

    named = {str(name) for header in headers for name in header.suite.get("strategies", ())}
    return {name: load_strategy(name)[1] for name in preset_names() if name in named or "all" in named}


def _error_shares(arm: Arm) -> dict[str, float]:
    """Kind of error -> share of all items of all seeds, in the order of the taxonomy; empty where no error has a kind."""
    from bench.metric.taxonomy import ERROR_KINDS

    kinds = [item.error for items in arm.items for item in items.values()]
    return {kind: kinds.count(kind) / len(kinds) for kind in ERROR_KINDS if kind in kinds}


def _memory(arm: Arm) -> dict[str, int]:
    highest = max((m for record in arm.ok for m in record.memory.values()), key=lambda m: m.peak_bytes, default=None)
    return {} if highest is None else {part: getattr(highest, part) for part in MEMORY_PARTS}


# ------------------------------------------------------------------------------------------ curves, claims


def _sizes(folders: Sequence[RunFolder], headers: Sequence[Run]) -> dict[int, RunFolder]:
    """Number of training examples -> run, where each has another one and some cell is in all of them; else empty."""
    sizes = [(header.suite.get("budget") or {}).get("train_examples") for header in headers]
    by_size = {size: folder for size, folder in zip(sizes, folders, strict=True) if isinstance(size, int)}
    if len(by_size) < 2 or len(by_size) < len(folders):
        return {}
    return by_size if shared_cells(folders) else {}


def _curves(folders: Sequence[RunFolder], notes: list[str]) -> tuple[list[Row], list[Row]]:
    from bench.result.curve import learning_curves

    try:
        found = learning_curves(folders)
    except BenchError as error:
        notes.append(f"no learning curves: {error}")
        return [], []
    notes.extend(found.notes)
    return found.points, found.crossovers


def _claims(runs: Sequence[Path], notes: list[str]) -> tuple[dict[str, Any], ...]:
    """The claims that the runs can decide."""
    from bench.result.claims import Verdict, judge, load_claims

    def detail(verdict: Verdict) -> str:
        if verdict.found is None:
            return f"{verdict.test.says} ({verdict.says})"
        low, high = verdict.found.interval()
        goal = CLAIM_GOALS[verdict.test.expects]
        margin = f", margin {verdict.test.margin:g}" if verdict.test.margin else ""
        return f"{verdict.test.says} ({verdict.found.estimate:+.3f} [{low:+.3f}, {high:+.3f}], expected {goal}{margin})"

    try:
        judged = judge(load_claims(), runs)
    except BenchError as error:
        notes.append(f"no claims: {error}")
        return ()
    return tuple(
        {"id": j.claim.id, "claim": j.claim.claim, "outcome": j.outcome, "detail": "; ".join(detail(v) for v in j.tests)}
        for j in judged
        if j.outcome != "NOT APPLICABLE"
    )
