"""What one strategy costs, from its records and items, prices and assumptions: set-up, a request, a refresh, storage."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from bench.cost.assumptions import Assumptions
from bench.cost.break_even import CostLines
from bench.cost.draws import N_DRAWS, Purse, with_interval
from bench.cost.prices import TokenPrice, phase_usd, provider_training_usd, tokens_usd, tuned_by_provider
from bench.errors import BenchError
from bench.result.arms import Arm
from bench.result.ranking import cluster_sums
from bench.result.schema import SETUP, Item, Phase, PhaseName, Record, Trial
from bench.result.statistics import FloatArray

Row = dict[str, Any]
FITTING: tuple[PhaseName, ...] = tuple(name for name in SETUP if name != "index")


@dataclass(frozen=True)
class Needs:
    """What a strategy rests on, as its record says."""

    trains: bool
    indexes: bool
    """Whether passages or examples are looked up in an index that was built."""
    shows: bool
    """Whether its prompts show examples."""
    floor: bool
    """Answers without a model."""
    n_train: int
    """Training examples whose labels it uses: all for training, for nearest shots and for the majority label; of drawn shots as many as
    a prompt of its search showed at most."""
    n_validation: int
    """Validation examples whose labels chose its settings or its checkpoint."""

    @classmethod
    def of(cls, records: Sequence[Record]) -> Needs:
        config = records[0].config
        chosen, budget = config.get("strategy"), config.get("budget")
        if not isinstance(chosen, dict) or not isinstance(budget, dict) or "n_train" not in config:
            raise BenchError("its record does not say what the strategy consists of (config.strategy, budget, n_train): run it again")
        prompt, retrieval, tuning = (chosen.get(choice) or {} for choice in ("prompt", "retrieval", "tuning"))
        method, constant = tuning.get("method", "none"), prompt.get("constant")
        trials = [trial for record in records for trial in record.trials]
        shots = prompt.get("shots", 0)
        most_shots = max([shots, *(trial.settings.get("prompt.shots", 0) for trial in trials)])
        nearest = prompt.get("select") == "nearest"
        labels = int(config["n_train"])
        taught = method != "none" and "examples" in tuning.get("train_on", ("examples",))
        every = constant == "majority" or taught or (nearest and most_shots > 0)
        checked = bool(trials) or method not in ("none", "features", "hosted")
        return cls(
            trains=method != "none",
            indexes=(nearest and shots > 0) or retrieval.get("search", "none") not in ("none", "oracle"),
            shows=shots > 0,
            floor=constant is not None,
            n_train=labels if every else min(most_shots, labels),
            n_validation=records[0].n_validation if checked else 0,
        )


class StrategyCost:
    """The costs of one arm, in USD."""

    def __init__(
        self, arm: Arm, items: list[list[Item]], clusters: Sequence[str], purse: Purse, assumptions: Assumptions, place: int
    ) -> None:
        """``items``: of each record of status ok; ``clusters``: of all strategies of the task; ``place``: among them."""
        self.records, self.items, self.purse, self.assumptions, self.place = arm.ok, items, purse, assumptions, place
        self.needs = Needs.of(arm.ok)
        served = "endpoint" in arm.ok[0].config  # the time of its requests is not that of a device that is paid for
        self.hosted = tuned_by_provider(arm.ok[0])
        self.by_tokens = (purse.tokens is not None or served) and (self.hosted or not self.needs.trains) and not self.needs.floor
        self._weights = purse.draws.seeds(len(arm.ok), place)
        self._codes = {name: code for code, name in enumerate(clusters)}
        self._clusters = purse.draws.clusters(len(clusters))

    def _over_seeds(self, of_seed: Sequence[FloatArray]) -> FloatArray:
        """Mean over the records' draws, (1 + draws,); never below zero, which the weights of a draw could lead to."""
        return np.asarray(np.maximum(np.einsum("ds,sd->d", self._weights, np.stack(of_seed)), 0.0))

    def _over_items(self, items: Sequence[Item], values: Sequence[float]) -> FloatArray:
        """Mean over the items of one record, (1 + draws,)."""
        rows = np.stack([np.asarray(values), np.ones(len(items))], axis=1)[None]
        codes = np.array([self._codes[item.cluster] for item in items])
        total, count = np.moveaxis(self._clusters @ cluster_sums(rows, codes, len(self._codes))[0], 1, 0)
        return np.asarray(np.where(count > 0, total / np.where(count > 0, count, 1), total[0] / count[0]))

    # ------------------------------------------------------------------------------------------ set-up

    def _on_device(self, record: Record, phases: Sequence[Phase]) -> FloatArray:
        price, factor = self.purse.of_device(record)
        return math.fsum(phase_usd(phase, price) for phase in phases) * factor

    def _token_price(self) -> tuple[TokenPrice, FloatArray]:
        """Of what is asked, the tuned model where a provider has tuned one; and its factor."""
        price, factor = self.purse.of_tokens(self.records[0])
        return (price.of_tuned() if self.hosted else price), factor

    def _at_provider(self, record: Record, *, all_jobs: bool) -> FloatArray:
        price, factor = self.purse.of_tokens(record)
        return provider_training_usd(record, price, all_jobs=all_jobs) * factor

    @cached_property
    def data(self) -> float:
        return self.assumptions.label_usd_per_example * (self.needs.n_train + self.needs.n_validation)

    @cached_property
    def index(self) -> FloatArray:
        if not self.needs.indexes:
            return np.zeros(1 + N_DRAWS)
        return self._over_seeds([self._on_device(record, _phases(record, ["index"])) for record in self.records])

    @cached_property
    def training(self) -> FloatArray:
        """One training at the settings that were kept: a trial of the cell that searched, all that the other cells did; a provider's job
        by the tokens it trained on."""

        def once(record: Record) -> FloatArray:
            if self.hosted:
                return self._at_provider(record, all_jobs=False)
            kept = _kept(record)
            return self._on_device(record, [_as_phase(kept)] if kept else _phases(record, FITTING))

        return self._over_seeds([once(record) for record in self.records]) if self.needs.trains else np.zeros(1 + N_DRAWS)

    @cached_property
    def search(self) -> FloatArray:
        """All that a search did but for the one training that is kept; where several cells searched, their mean."""
        found = []
        for record in self.records:
            kept = _kept(record)
            if kept is None:
                continue
            others = [trial for trial in record.trials if not (self.needs.trains and trial is kept)]
            if self.by_tokens:
                usd = len(record.trials) * self._validation
                if self.hosted:
                    usd = usd + self._at_provider(record, all_jobs=True) - self._at_provider(record, all_jobs=False)
            else:
                every = self._on_device(record, _phases(record, FITTING))
                usd = np.maximum(every - self._on_device(record, [_as_phase(kept)]), 0.0) if self.needs.trains else every
            found.append(usd * self.purse.draws.spread([trial.cpu_seconds for trial in others], self.place))
        return np.asarray(np.mean(found, axis=0)) if found else np.zeros(1 + N_DRAWS)

    # ------------------------------------------------------------------------------------------ requests

    @cached_property
    def requests(self) -> tuple[FloatArray, FloatArray]:
        """One request with the shared prefix cached, and not; (1 + draws,) each."""
        if self.by_tokens:
            price, factor = self._token_price()
            with_cache, without = (
                [
                    factor * self._over_items(items, [tokens_usd(item.tokens, price, cached=cached) for item in items])
                    for items in self.items
                ]
                for cached in (True, False)
            )
            return self._over_seeds(with_cache), self._over_seeds(without)
        found = []
        for record, items in zip(self.records, self.items, strict=True):
            if "answer" not in record.phases or not items:
                raise BenchError("its record has no answer phase: nothing was measured")
            usd = self._on_device(record, [record.phases["answer"]]) / record.n_items / self.assumptions.utilisation
            found.append(usd * self._over_items(items, _latency_shares(items)))
        # A token costs about the same operations in the prompt as in the answer; in time it costs less there, so this is an upper estimate.
        tokens = [record.tokens for record in self.records]
        run = sum(t.prompt - t.prompt_cached + t.completion for t in tokens)
        more = sum(t.prompt + t.completion for t in tokens) / run if run else 1.0
        return self._over_seeds(found), more * self._over_seeds(found)

    @cached_property
    def request(self) -> FloatArray:
        return self.requests[0 if self.assumptions.prefix_cached else 1]

    # ------------------------------------------------------------------------------------------ upkeep

    @cached_property
    def refresh(self) -> tuple[FloatArray, list[str]]:
        """What a change of knowledge or labels makes necessary, and its names."""
        needs, assumptions = self.needs, self.assumptions
        usd: FloatArray = np.zeros(1 + N_DRAWS)
        parts: list[str] = []
        if assumptions.relabel_share and self.data:
            usd, parts = usd + assumptions.relabel_share * self.data, [*parts, "re-label"]
        if needs.indexes:
            usd, parts = usd + self.index, [*parts, "re-index"]
        if needs.trains:
            usd, parts = usd + self.training, [*parts, "re-train"]
        elif assumptions.revalidate and (needs.indexes or needs.shows):
            usd, parts = usd + self._validation, [*parts, "re-validate"]
        return usd, parts

    @cached_property
    def _validation(self) -> FloatArray:
        """Scoring the strategy, which trains nothing, once on validation."""
        kept = [(record, trial) for record in self.records if (trial := _kept(record))]
        if self.by_tokens or not kept:
            return self.records[0].n_validation * self.request
        return np.asarray(np.mean([self._on_device(record, [_as_phase(trial)]) for record, trial in kept], axis=0))

    @cached_property
    def storage(self) -> FloatArray:
        """A month."""
        sizes = [record.artifact_bytes for record in self.records]
        if any(size is None for size in sizes) and not self.needs.floor:
            raise BenchError("artifact_bytes is in none of its records, so what has to be stored is unknown: run it again")
        largest = max(size or 0 for size in sizes)
        return largest * self.purse.of_storage() if largest else np.zeros(1 + N_DRAWS)

    @cached_property
    def outcomes(self) -> dict[str, FloatArray]:
        """Shares of requests, (1 + draws,) each; what is left abstained where there is no answer, and rightly so."""
        kinds: dict[str, Callable[[Item], float]] = {
            "correct": lambda item: float(item.outcome == "correct"),
            "wrong": lambda item: float(item.outcome == "incorrect"),
            "missed": lambda item: float(item.outcome == "abstained" and item.answerable),
        }
        return {
            name: np.minimum(self._over_seeds([self._over_items(items, [of(item) for item in items]) for items in self.items]), 1.0)
            for name, of in kinds.items()
        }

    @cached_property
    def lines(self) -> CostLines:
        errors = self.outcomes["wrong"] + self.assumptions.abstention_weight * self.outcomes["missed"]
        setup = self.data + self.search + self.training + self.index
        bought = 1 + self.assumptions.refreshes * self.assumptions.relabel_share
        labels = bought * (self.needs.n_train + self.needs.n_validation)
        return CostLines(setup, self.refresh[0], self.storage, self.request, errors, labels)

    def columns(self, lines: CostLines) -> Row:
        """Its part of ``COLUMNS``."""
        assumptions, shares = self.assumptions, self.outcomes
        total, correct = lines.total(assumptions), shares["correct"]
        with np.errstate(divide="ignore"):
            per_correct = 1000 * total / (assumptions.requests * correct)
        cached, not_cached = (1000 * float(usd[0]) for usd in self.requests)
        first = self.records[0]
        return {
            "priced_by": (self._token_price() if self.by_tokens else self.purse.of_device(first))[0].name,
            "batch_rows": None if self.by_tokens else first.config.get("batch_rows"),
            **{f"{name}_share": float(share[0]) for name, share in shares.items()},
            "error_rate": float(lines.error_rate[0]),
            "n_labels": self.needs.n_train + self.needs.n_validation,
            "data_usd": self.data,
            "search_usd": float(self.search[0]),
            "training_usd": float(self.training[0]),
            "index_usd": float(self.index[0]),
            **with_interval("setup_usd", lines.setup),
            **with_interval("usd_per_1000_requests", 1000 * lines.request),
            "usd_per_1000_requests_cached": cached,
            "usd_per_1000_requests_not_cached": not_cached,
            "caching_estimated": not self.by_tokens,
            "refresh": ", ".join(self.refresh[1]) or "nothing",
            **with_interval("refresh_usd", lines.refresh),
            "storage_usd_per_month": float(lines.storage[0]),
            "errors_usd": assumptions.requests * assumptions.error_usd * float(lines.error_rate[0]),
            **with_interval("total_usd", total),
            "total_usd_per_1000_requests": 1000 * float(total[0]) / assumptions.requests,
            **(with_interval("usd_per_1000_correct", per_correct) if correct[0] > 0 else {}),
            "floor": self.needs.floor,
        }


def _phases(record: Record, names: Sequence[PhaseName]) -> list[Phase]:
    return [record.phases[name] for name in names if name in record.phases]


def _as_phase(trial: Trial) -> Phase:
    return Phase(wall_seconds=trial.wall_seconds, cpu_seconds=trial.cpu_seconds, flops=trial.flops)


def _kept(record: Record) -> Trial | None:
    """The trial whose settings the strategy has; None where the cell did not search."""
    if not record.trials:
        return None
    kept = [trial for trial in record.trials if all(_setting(record, name) == value for name, value in trial.settings.items())]
    if not kept:
        raise BenchError(f"none of its {len(record.trials)} trials has the settings of config.strategy: run it again")
    return kept[0]


def _setting(record: Record, dotted: str) -> Any:
    node: Any = record.config["strategy"]
    for key in dotted.split("."):
        node = node.get(key) if isinstance(node, dict) else None
    return node


def _latency_shares(items: Sequence[Item]) -> list[float]:
    """Each item's latency by their mean; all alike where none took any time."""
    mean = math.fsum(item.latency_seconds for item in items) / len(items)
    return [item.latency_seconds / mean if mean else 1.0 for item in items]
