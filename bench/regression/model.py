"""What a regression check is made of: the gates that are set, and what was found at each of them. Plain values for all outputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Verdict = Literal["pass", "regression", "inconclusive"]
Kind = Literal["status", "prompts", "quality", "cost", "memory", "time"]
"""``status``: the cell ended well; ``prompts``: the same cell id asks the same; ``cost``: what is counted (tokens, FLOPs, parameters,
bytes kept)."""
PRIMARY = "primary"
"""In ``Gates.metrics``: each task's primary metric."""


class MetricGate(BaseModel):
    """How much of a metric may be lost, in its own unit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    margin: float = Field(default=0.02, gt=0)
    """A loss that is surely smaller than this passes."""
    min_delta: float = Field(default=0.005, ge=0)
    """A loss that is smaller than this is no regression by itself, however sure; the history adds such losses up."""


class Gates(BaseModel):
    """The keys of a gates file; every key has a default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    """One-sided, Holm-corrected over all quality gates of a check."""
    metrics: dict[str, MetricGate] = Field(default={PRIMARY: MetricGate(), "hallucination_rate": MetricGate()}, min_length=1)
    """Gated metrics; one that a task does not have is no gate there."""
    tie_margin: float = Field(default=1e-3, ge=0)
    """Nats by which the best token has to lead the second best for a changed answer to count; see ``Item.logit_margin``."""
    costs: dict[
        Literal["prompt_tokens", "completion_tokens", "setup_flops", "answer_flops", "trainable_params", "artifact_bytes"], float
    ] = Field(default_factory=dict)
    """Measure -> relative growth that is allowed; 0 for what is left out."""
    gpu_memory: float = Field(default=0.01, ge=0)
    """Relative growth of the peak of allocated GPU memory that is allowed."""
    resident_memory: float = Field(default=0.10, ge=0)
    """The same of the peak of resident memory (RSS), which the machine has a part in."""
    seconds: float = Field(default=0.25, ge=0)
    """The same of the median of wall seconds; gated only where both sides ran in turn on one machine."""


@dataclass(frozen=True)
class Flip:
    """One item that is answered in another way than before, by the same strategy with the same seed."""

    item: str
    seed: int
    before: str
    after: str
    targets: tuple[str, ...]
    score_before: float | None
    """Of the gate's metric; None where it is undefined."""
    score_after: float | None
    excused: bool
    """A tie: both answers were chosen by less than ``Gates.tie_margin``, so rounding alone can turn it."""


@dataclass(frozen=True)
class Gate:
    """One measure of one strategy on one task, before and now."""

    task: str
    strategy: str
    kind: Kind
    measure: str
    """A metric's name, a key of ``Gates.costs``, or such as ``peak_rss_bytes`` and ``answer_seconds``."""
    verdict: Verdict
    reason: str
    """Why, in one line of words."""
    before: float | None = None
    after: float | None = None
    change: float | None = None
    """Quality: how much better it became, in the metric's unit, whatever its direction. Else: relative growth (.1 is a tenth more)."""
    low: float | None = None
    high: float | None = None
    """Of quality, bounds of ``change``, each one-sided at 1 - alpha; of time, the 95 % interval of the ratio of medians less 1."""
    p: float | None = None
    """One-sided, that it became worse."""
    p_adjusted: float | None = None
    """Holm's over the quality gates of the check."""
    limit: float | None = None
    """The margin, or the relative growth that is allowed."""
    n_items: int = 0
    n_seeds: int = 0
    items_only: bool = False
    """Whether seeds are not in the interval though the strategy depends on them, for want of several."""
    needed_items: int | None = None
    """How many items would settle an inconclusive gate, with power .8."""
    test: str = ""
    """The name of the test that ``p`` is of."""
    flips: tuple[Flip, ...] = ()
    """Items answered in another way, those that lost first."""

    @property
    def n_excused(self) -> int:
        return sum(flip.excused for flip in self.flips)


@dataclass(frozen=True)
class Difference:
    """Something that two runs do not share."""

    part: Literal["library", "hardware", "data", "configuration", "code"]
    what: str
    """Such as ``torch``, ``cpu`` or ``product_support/rag: prompt.instruction``."""
    before: str
    after: str


@dataclass(frozen=True)
class Acceptance:
    """Who made a run the baseline, and why; the head of a baseline."""

    suite: str
    run: str
    reason: str
    who: str
    accepted: str
    """UTC, ISO 8601."""
    commit: str | None
    """Of the code that made the run; None outside a repository."""


@dataclass(frozen=True)
class Comparison:
    """A run held against one baseline."""

    name: Literal["accepted", "release", "run"]
    """The last accepted baseline, the pinned one of a release, or another run."""
    acceptance: Acceptance | None
    """None for another run."""
    gates: tuple[Gate, ...]
    differences: tuple[Difference, ...]
    relative: bool = False
    """Whether the baseline's code was run anew beside the run's own, in turn and on the same machine."""
    notes: tuple[str, ...] = ()
    """What is in one of the two only, and other things to know."""

    @property
    def untrusted(self) -> tuple[Difference, ...]:
        """The differences for which the baseline's numbers cannot be trusted here: every regression is then inconclusive."""
        return () if self.relative else tuple(d for d in self.differences if d.part in ("library", "hardware"))


@dataclass(frozen=True)
class Check:
    """All that a check has to say."""

    suite: str
    run: str
    commit: str | None
    dirty: bool | None
    """Whether the code that made the run had changes that were not committed; None outside a repository."""
    when: str
    """UTC, ISO 8601."""
    comparisons: tuple[Comparison, ...]
    environment: dict[str, str] = field(default_factory=dict)
    """What the run ran on: python, packages, cpu, gpu."""

    @property
    def gates(self) -> tuple[Gate, ...]:
        return tuple(gate for comparison in self.comparisons for gate in comparison.gates)

    @property
    def verdict(self) -> Verdict:
        """Regression where any gate is one, else inconclusive where any is, else pass."""
        found = {gate.verdict for gate in self.gates}
        return "regression" if "regression" in found else "inconclusive" if "inconclusive" in found else "pass"

    @property
    def exit_code(self) -> int:
        return {"pass": 0, "regression": 1, "inconclusive": 3}[self.verdict]
