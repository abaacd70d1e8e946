"""What a decision report is made of: plain values, gathered once from records; nothing here looks at a run again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Standing = Literal["contender", "floor", "oracle", "failed"]
"""``floor``: asks no model; ``oracle``: reads what no deployed strategy can. Neither is ever recommended."""


class Measure(NamedTuple):
    """A measured number with its 95 % interval; None where no interval is known."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Candidate:
    """One strategy on one task, as measured."""

    strategy: str
    standing: Standing
    reason: str | None
    """Why it failed or was skipped; None otherwise."""
    description: str
    family: str
    """The heading of the catalogue: prompting, retrieval, PEFT, ..."""
    choices: dict[str, Any]
    """The resolved strategy as its record has it (prompt, retrieval, tuning)."""
    measures: dict[str, Measure]
    """By name: ``quality`` (the primary metric in its own direction), every metric of the record by its own name, ``usd_per_1000_requests``
    (running cost), ``total_usd`` (over the horizon), ``setup_usd``, ``setup_seconds``, ``latency_p95_seconds`` (where probed),
    ``seconds_per_1000_requests``, ``refresh_usd`` (once), ``storage_usd_per_month``, ``usd_per_1000_correct``, ``peak_memory_bytes``,
    ``artifact_bytes``, ``trainable_params``, and probe values as ``probe.value``. What was not measured is absent."""
    n_items: int
    n_seeds: int
    hosted: bool = False
    """Whether it asks a model that runs elsewhere, so that it needs a network and data leave."""


class PriceCrossing(NamedTuple):
    """At which price of one thing two strategies cost the same over the horizon, all else as it is assumed."""

    thing: str
    """In words: "a label", "a core-hour of cpu"."""
    unit: Literal["usd", "times"]
    """``times``: of its present prices, where it has several."""
    now: float
    at: Measure | None
    """None where the same one costs less at any price."""
    cheaper_below: str | None
    """None where they cost the same at any price."""
    cheaper_above: str | None


@dataclass(frozen=True)
class Pair:
    """Two strategies on the same items, a minus b."""

    a: str
    b: str
    difference: Measure
    p: float | None
    """Holm-adjusted over the task's pairs."""
    detectable: float | None
    """The smallest true difference that the items and seeds at hand would find with power .8."""
    break_even_requests: Measure | None
    cheaper_below: str | None
    cheaper_above: str | None
    prices: tuple[PriceCrossing, ...] = ()
    """Of all that has a price; empty where the costs of one of them are not known."""


class Change(NamedTuple):
    """One strategy in two runs, the second minus the first."""

    strategy: str
    before: Measure | None
    after: Measure | None
    difference: Measure | None
    """On the items that both runs have."""
    p: float | None
    """Holm-adjusted over the strategies of the task."""
    n_items: int
    costs: dict[str, tuple[float | None, float | None]]
    """Measure -> before and after."""
    reason: str | None
    """Why there is no difference."""


@dataclass(frozen=True)
class Answer:
    """What one strategy answered to one item."""

    prediction: str
    score: float | None
    outcome: str
    error: str | None
    retrieved: tuple[str, ...] | None
    """Ids of the documents read, best first."""
    cited: tuple[str, ...] | None


@dataclass(frozen=True)
class Question:
    """One test item with the answers of all strategies (first seed)."""

    id: str
    text: str | None
    """None where the run has not kept it."""
    targets: tuple[str, ...]
    gold: tuple[str, ...]
    """Ids of the gold passages."""
    answers: dict[str, Answer]
    """By strategy."""
    answerable: bool = True
    """Where False, abstaining is right."""
    cluster: str = ""
    """Items of one cluster are not independent."""


@dataclass(frozen=True)
class TaskEvidence:
    """Everything about one task with one base model."""

    task: str
    model: str
    metric: str
    higher_is_better: bool
    is_share: bool
    """Whether the metric is in [0, 1], to be shown in percent."""
    candidates: tuple[Candidate, ...]
    """In the order of the suite."""
    pairs: tuple[Pair, ...]
    """Every two contenders, and each of them with the best floor."""
    questions: tuple[Question, ...]
    passages: dict[str, str] = field(default_factory=dict)
    """Text of the documents that were read or are gold, by id, where the run has kept them."""
    curves: tuple[dict[str, Any], ...] = ()
    """Points of learning curves (`bench.result.curve`): strategy, train_examples, value, ci_low, ci_high."""
    crossovers: tuple[dict[str, Any], ...] = ()
    """Where one curve overtakes another (`bench.result.curve.Curves.crossovers`): a, b, crossover, low, high, ahead_at_largest."""
    errors: dict[str, dict[str, float]] = field(default_factory=dict)
    """Strategy -> kind of error -> share of all items."""
    changes: tuple[Change, ...] = ()
    """Against an earlier run of the same cells, where two were given."""
    memory: dict[str, dict[str, int]] = field(default_factory=dict)
    """Strategy -> part -> bytes, of the phase with the highest peak."""

    def candidate(self, strategy: str) -> Candidate:
        """The candidate of this name. Raises KeyError."""
        return next(c for c in self.candidates if c.strategy == strategy)


@dataclass(frozen=True)
class Evidence:
    """All tasks of the runs, and what is needed to make them again."""

    tasks: tuple[TaskEvidence, ...]
    runs: tuple[str, ...]
    """Of two runs of the same cells the first is what the second is compared with."""
    command: str
    """That makes the runs again."""
    environment: dict[str, Any]
    fingerprints: dict[str, dict[str, str]]
    """Task -> what is hashed -> SHA-256."""
    assumptions: dict[str, Any]
    """Of the costs."""
    prices: tuple[str, ...]
    claims: tuple[dict[str, Any], ...] = ()
    """Published claims judged by these runs: id, claim, outcome, detail."""
    notes: tuple[str, ...] = ()
    """What could not be gathered, and why."""
