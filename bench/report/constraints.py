"""What a user needs of a strategy: hard limits, which rule strategies out with a reason in words, and weights, which rank the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from bench.errors import BenchError, did_you_mean
from bench.report.model import Candidate, TaskEvidence
from bench.report.numbers import Unit, in_words, interval_in_words, quality_unit
from bench.settings import parse_settings, shown

GIB = 2**30


class _Given(BaseModel):
    """A file with any keys: they are checked together with those of the command line."""

    model_config = ConfigDict(extra="allow")


class Weights(BaseModel):
    """How much each criterion counts, by proportion. The defaults are a choice, not a truth: the report says where another one would
    change the answer. A key that is left out keeps its default; a criterion that was not measured for all drops out."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    quality: float = Field(default=0.4, ge=0)
    """The task's primary metric."""
    hallucination: float = Field(default=0.2, ge=0)
    """Attempted and wrong, as a share of all items."""
    cost: float = Field(default=0.2, ge=0)
    """In USD: all of it over the horizon, or per 1,000 requests where the total is not known."""
    memory: float = Field(default=0.0, ge=0)
    """Peak bytes. Not in the default: up to what a machine has, memory costs nothing; beyond, it is a hard limit."""
    latency: float = Field(default=0.1, ge=0)
    """95th percentile of single requests."""
    simplicity: float = Field(default=0.1, ge=0)
    """Few parts to make and to keep running."""

    @model_validator(mode="after")
    def _some(self) -> Weights:
        if not sum(self.model_dump().values()) > 0:
            raise ValueError("weights: found 0 for every criterion, expected at least one above 0")
        return self


class Constraints(BaseModel):
    """The keys of a constraints file; whatever is left out is not asked for."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    minimum_quality: float | None = None
    """Of the primary metric, in its own unit (0.9 is 90 % of a share). Where lower is better: the most that is allowed."""
    maximum_hallucination: float | None = Field(default=None, ge=0, le=1)
    """Share of all items that are attempted and wrong."""
    maximum_memory_gib: float | None = Field(default=None, gt=0)
    """Peak memory as measured, in GiB (2^30 bytes)."""
    maximum_latency_p95_seconds: float | None = Field(default=None, gt=0)
    """95th percentile of single requests (`bench run --probe latency`)."""
    maximum_usd_per_1000_requests: float | None = Field(default=None, ge=0)
    """Running cost."""
    maximum_setup_usd: float | None = Field(default=None, ge=0)
    """Labels, search, training and index, once."""
    maximum_artifact_gib: float | None = Field(default=None, ge=0)
    """What the strategy leaves on disk beside the base model: adapter, weights, index."""
    requests_per_month: float | None = Field(default=None, gt=0)
    """Expected volume; an assumption of the costs, no limit."""
    refreshes_per_month: float | None = Field(default=None, ge=0)
    """How often the knowledge or the labels change; an assumption of the costs, no limit."""
    must_cite_sources: bool = False
    """Only strategies that can show the passages that an answer rests on: they retrieve, or cite."""
    must_run_offline: bool = False
    """No hosted model. Whatever was run on one's own machine passes."""
    data_may_not_leave: bool = False
    """No request, example or document may be sent to a hosted model. Whatever was run on one's own machine passes."""
    no_training: bool = False
    """Nobody is there who can train a model: leaves out every strategy that moves weights."""
    no_retrieval: bool = False
    """Nobody is there to run an index: leaves out passages, and examples that are looked up for each request."""
    excluded: tuple[str, ...] = ()
    """Strategies that are out for a reason of one's own, by name."""
    weights: Weights = Weights()

    def assumptions(self) -> dict[str, float]:
        """What goes to the assumptions of the costs (`bench.cost.assumptions`): volume and refresh rate, where given."""
        found = {"requests_per_month": self.requests_per_month, "refreshes_per_month": self.refreshes_per_month}
        return {key: value for key, value in found.items() if value is not None}


def load_constraints(path: Path | None = None, given: Mapping[str, Any] | None = None) -> Constraints:
    """The constraints of a file, with those `given` (on a command line) over them; of neither: no constraints, the default weights.

    Raises `BenchError` for a file that is missing, no YAML, or has an unknown, wrong or contradictory key.
    """
    where, found = "constraints", {}
    if path is not None:
        where = str(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
            raise BenchError(f"{path}: cannot be read ({reason}); expected a file of constraints") from error
        found = parse_settings(_Given, text, where).model_extra or {}
    return parse_settings(Constraints, yaml.safe_dump({**found, **(given or {})}), where)


def check_excluded(constraints: Constraints, known: Iterable[str]) -> None:
    """Raises `BenchError` for an excluded strategy that is none of the known ones: a typing error would let it win unnoticed."""
    names = list(known)
    for name in constraints.excluded:
        if name not in names:
            raise BenchError(f"excluded: found {shown(name)}, no strategy of these runs; {did_you_mean(name, names)}")


class Verdict(NamedTuple):
    """What the constraints say about one strategy."""

    violations: tuple[str, ...]
    """Each in words, with the measured number; empty: it passes."""
    uncertain: tuple[str, ...]
    """Limits within the interval of what was measured: it passes or fails by its value, and could as well not."""


def judged(task: TaskEvidence, candidate: Candidate, constraints: Constraints) -> Verdict:
    """One strategy under the hard constraints. A limit on what was not measured is violated: nothing shows that it is kept."""
    violations, uncertain = _other_violations(candidate, constraints), []
    for limit in _limits(task, constraints):
        measure = candidate.measures.get(limit.measure)
        if measure is None:
            violations.append(f"{limit.label} was not measured: {limit.how}")
            continue
        at_most = limit.side == "above"
        passes = measure.value <= limit.bound if at_most else measure.value >= limit.bound
        number = interval_in_words(measure, limit.unit)
        if not passes:
            violations.append(f"{limit.label} {number} is {limit.side} {in_words(limit.bound, limit.unit)}")
        if measure.low is not None and measure.high is not None and measure.low < limit.bound < measure.high:
            kept = "kept" if passes else "missed"
            uncertain.append(f"{limit.label} {number}: the limit of {in_words(limit.bound, limit.unit)} is {kept}, but within the interval")
    return Verdict(tuple(violations), tuple(uncertain))


class _Limit(NamedTuple):
    label: str
    measure: str
    bound: float
    side: str
    """Where the forbidden values are: above or below the bound."""
    unit: Unit
    how: str
    """To have it measured."""


def _limits(task: TaskEvidence, c: Constraints) -> list[_Limit]:
    side = "below" if task.higher_is_better else "above"
    prices = "bench report --prices FILE, with the price of the run's device"
    every: tuple[tuple[str, str, float | None, str, Unit, str], ...] = (
        ("quality", "quality", c.minimum_quality, side, quality_unit(task), f"no record has {task.metric}"),
        ("hallucination", "hallucination_rate", c.maximum_hallucination, "above", "share", "it has no meaning for this task's metrics"),
        ("peak memory", "peak_memory_bytes", c.maximum_memory_gib and c.maximum_memory_gib * GIB, "above", "bytes", "run it again"),
        ("latency p95", "latency_p95_seconds", c.maximum_latency_p95_seconds, "above", "seconds", "bench run --probe latency"),
        ("cost of 1,000 requests", "usd_per_1000_requests", c.maximum_usd_per_1000_requests, "above", "usd", prices),
        ("set-up cost", "setup_usd", c.maximum_setup_usd, "above", "usd", prices),
        ("artifact", "artifact_bytes", c.maximum_artifact_gib and c.maximum_artifact_gib * GIB, "above", "bytes", "run it again"),
    )
    return [_Limit(label, name, bound, at, unit, how) for label, name, bound, at, unit, how in every if bound is not None]


def _other_violations(candidate: Candidate, c: Constraints) -> list[str]:
    choices = candidate.choices
    search, nearest = searched_by(choices), looks_up_shots(choices)
    index = f"retrieval.search {search}" if search != "none" else "prompt.select nearest"
    reasons = {
        "it is excluded by name": candidate.strategy in c.excluded,
        "it shows no sources: it neither retrieves nor cites": c.must_cite_sources and search == "none" and not _prompt(choices, "cite"),
        "it asks a hosted model, which is not reached offline": c.must_run_offline and candidate.hosted,
        "it sends data to a hosted model": c.data_may_not_leave and candidate.hosted,
        f"it has to be trained (tuning.method {tuned_by(choices)})": c.no_training and tuned_by(choices) != "none",
        f"it needs an index ({index})": c.no_retrieval and (search != "none" or nearest),
    }
    return [reason for reason, holds in reasons.items() if holds]


# ------------------------------------------------------------------------------------- what a strategy's choices say


def _prompt(choices: Mapping[str, Any], key: str) -> Any:
    return (choices.get("prompt") or {}).get(key)


def tuned_by(choices: Mapping[str, Any]) -> str:
    """The tuning method, "none" where no weights move."""
    return str((choices.get("tuning") or {}).get("method") or "none")


def searched_by(choices: Mapping[str, Any]) -> str:
    """How passages are found, "none" where nothing is retrieved."""
    return str((choices.get("retrieval") or {}).get("search") or "none")


def looks_up_shots(choices: Mapping[str, Any]) -> bool:
    """Whether worked examples are found anew for each request."""
    return bool(_prompt(choices, "shots")) and _prompt(choices, "select") == "nearest"


def parts(choices: Mapping[str, Any]) -> tuple[str, ...]:
    """What has to be made and kept running beside the base model, one name each: the fewer, the simpler a strategy is."""
    tuning, retrieval = choices.get("tuning") or {}, choices.get("retrieval") or {}
    search, nearest, trained = searched_by(choices), looks_up_shots(choices), tuned_by(choices) != "none"
    found = {
        "worked examples": bool(_prompt(choices, "shots")),
        "a chain of thought": bool(_prompt(choices, "chain_of_thought")),
        "an index": search in ("dense", "lexical", "hybrid") or nearest,
        "an embedding model": search in ("dense", "hybrid") or nearest,
        "a reranker": search != "none" and bool(retrieval.get("rerank")),
        "a training": trained,
        "weights of its own": trained,
        "preference pairs or rewards": trained and tuning.get("objective", "answers") != "answers",
        "a quantized base": trained and tuning.get("quantize", "none") != "none",
    }
    return tuple(name for name, there in found.items() if there)


def depends_on_seed(choices: Mapping[str, Any]) -> bool:
    """Whether another seed gives other answers: examples are drawn, or weights trained by steps."""
    drawn = bool(_prompt(choices, "shots")) and _prompt(choices, "select") != "nearest"
    return drawn or tuned_by(choices) not in ("none", "features")
