"""The record contract: everything that later steps (tables, statistics, report, regression check) may read.

`record.json` holds one `Record`; `items.jsonl` beside it one `Item` a line; `run.json` above them one `Run`. Keys are
snake_case with SI units in the name. Undefined is not zero: a metric that has no meaning for a cell is absent, and items that
a metric could not score are counted in ``n_undefined``. The JSON Schema in ``docs/schema/`` is generated from these models.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 2

Status = Literal["ok", "failed", "skipped"]
Outcome = Literal["correct", "incorrect", "abstained"]
PhaseName = Literal["load", "prepare", "tune", "validate", "index", "answer", "score", "probe"]
"""``tune`` is training steps alone; ``prepare`` puts the adapter on and makes their rows of tokens, wrong answers to prefer against among
them; ``validate`` scores checkpoints and trials."""
SETUP: tuple[PhaseName, ...] = ("prepare", "tune", "validate", "index")
"""The phases that set a strategy up, once, before its first request. Loading the base model is every strategy's."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MetricValue(_Model):
    """One metric of one cell, with a 95 % interval over its items (clustered); seeds are pooled later, in the table."""

    value: float
    ci_low: float | None = None
    """None where no interval is defined (fewer than two clusters, or no variance to tell it from)."""
    ci_high: float | None = None
    n_scored: int
    n_undefined: int = 0
    undefined: dict[str, int] = Field(default_factory=dict)
    """Items that could not be scored, by reason; they add up to ``n_undefined``."""


class Phase(_Model):
    """What one phase of a cell used. None means not measured on this machine, never zero."""

    wall_seconds: float
    cpu_seconds: float
    """User and system time of this process, all threads."""
    device_seconds: float | None = None
    """Span of this phase on the GPU's stream, gaps included in which it waited for the host; None without a GPU."""
    flops: float | None
    """Floating-point operations by the model's formula (bench.cost.flops); None where the model is served and its size not known."""
    peak_rss_bytes: int | None = None
    peak_gpu_allocated_bytes: int | None = None
    peak_gpu_reserved_bytes: int | None = None
    peak_gpu_process_bytes: int | None = None
    """What NVML reports for the process: reserved memory plus the CUDA context."""
    energy_joules: float | None = None
    energy_source: Literal["nvml", "rapl", "estimated"] | None = None
    """``nvml``: the board's counter; ``rapl``: the processor packages', all processes together; ``estimated``: watts of the device table
    times seconds, where no counter can be read."""


class Memory(_Model):
    """What a phase's peak memory consists of. Every part is counted; ``workspace_bytes`` is what they leave of the measured peak.

    Of several trials, the peak and each part are the largest of all, which need not have been one trial's.
    """

    kind: Literal["gpu", "rss"]
    """``gpu``: tensors of the caching allocator; ``rss``: resident memory of the process, libraries included."""
    peak_bytes: int
    baseline_bytes: int
    """Resident before the model was loaded: libraries and interpreter; 0 on a GPU."""
    weights_bytes: int
    """Parameters and buffers, the adapter's included."""
    gradients_bytes: int = 0
    optimizer_bytes: int = 0
    activations_bytes: int = 0
    """What the heaviest training step kept for its backward pass, logits included."""
    cache_bytes: int = 0
    """Keys and values of the largest batch of requests, by formula."""
    workspace_bytes: int
    """The rest: temporaries, index, fragmentation, pages of libraries that were first touched after loading; negative where parts counted
    here were not alive at the peak."""


class Training(_Model):
    """The training steps of a cell, all trials together but those that failed.

    Tokens are those of the texts, without an adapter's virtual ones; of a pair to prefer by, both texts are counted.
    """

    n_steps: int
    n_tokens: int
    """Without padding."""
    n_padded_tokens: int
    """With it: what the model computes."""
    n_target_tokens: int
    """Tokens that the loss is computed over."""
    longest_batch: tuple[int, int]
    """Rows and tokens per row of the batch with most tokens, padding included; of a batch that is run in parts, the part."""
    tokens_per_second: float | None = None
    """Tokens without padding: median over windows of 10 steps, the first 10 steps of each trial left out; None where no trial took 20."""


class Tokens(_Model):
    """Tokens of a request or of a cell's test requests; never padding. ``prompt`` includes ``prompt_cached``."""

    prompt: int = 0
    prompt_cached: int = 0
    completion: int = 0


class Parameters(_Model):
    """Parameter counts of the adapted model."""

    total: int
    trainable: int


class Merging(_Model):
    """An adapter beside the base and merged into it: the same answers, at what latency."""

    reason: str | None = None
    """Why it cannot be merged; the other fields are then None."""
    n_items: int | None = None
    """The first test items, answered both ways."""
    n_equal: int | None = None
    """Of these, how many got the same text."""
    unmerged_seconds: float | None = None
    """Wall time for all of them in one go."""
    merged_seconds: float | None = None


class Trial(_Model):
    """One point of the validation search, with what it scored and what it cost."""

    settings: dict[str, Any]
    validation_score: float | None = None
    """None where the trial failed; `error` says why."""
    wall_seconds: float
    """Its part of the phases prepare, tune and validate; loading the model and indexing are left out."""
    cpu_seconds: float
    flops: float | None = 0.0
    """As `Phase.flops`."""
    epochs: float | None = None
    error: str | None = None


class ProbeResult(_Model):
    """What a probe measured of a cell. The item scores of its values are in ``probes.json`` beside the record."""

    version: int
    settings: dict[str, Any] = Field(default_factory=dict)
    reason: str | None = None
    """Why the probe has no meaning for this cell; there are no values then."""
    error: str | None = None
    """Why the probe failed; the cell stands all the same, and is run again when the probe is asked for."""
    values: dict[str, MetricValue] = Field(default_factory=dict)
    details: dict[str, Any] = Field(default_factory=dict)
    """What else is worth keeping, such as a trajectory."""
    wall_seconds: float | None = None
    """What the probe itself took; None where it was not run."""


class Fingerprints(_Model):
    """SHA-256 of what the cell id is made of, so that a difference between two runs can be named."""

    task: str
    model: str
    tokenizer: str
    strategy: str
    scoring: str


class Record(_Model):
    """What a cell leaves behind."""

    schema_version: int = SCHEMA_VERSION
    cell_id: str
    """SHA-256 over everything that can change the answers or scores, and nothing else."""
    task: str
    model: str
    strategy: str
    seed: int
    deterministic: bool = False
    """True where the strategy's answers do not depend on the seed: such a cell runs once."""
    status: Status
    error: str | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    """The resolved strategy (after the search), decoding and task settings."""
    primary_metric: str | None = None
    metrics: dict[str, MetricValue] = Field(default_factory=dict)
    slices: dict[str, dict[str, MetricValue]] = Field(default_factory=dict)
    """``{"facts=seen": {metric: value}}`` for each value of each column that the task declares as a slice."""
    probes: dict[str, ProbeResult] = Field(default_factory=dict)
    memory: dict[Literal["tune", "answer"], Memory] = Field(default_factory=dict)
    """What the peak of each of these phases consists of; empty where no model is asked or its peak is not measured."""
    training: Training | None = None
    """None where nothing is trained step by step."""
    phases: dict[PhaseName, Phase] = Field(default_factory=dict)
    tokens: Tokens = field(default_factory=Tokens)
    params: Parameters | None = None
    artifact_bytes: int | None = None
    """What has to be kept to serve the strategy, beside the base model: adapter, weights, index, examples."""
    merging: Merging | None = None
    """None where no adapter was trained."""
    n_items: int = 0
    n_truncated: int = 0
    """Prompts that lost passages or shots to fit the window."""
    trials: list[Trial] = Field(default_factory=list)
    """The points of the search, in the record of the cell that searched; their cost is part of its phases prepare, tune and validate."""
    fingerprints: Fingerprints | None = None
    environment: dict[str, Any] = Field(default_factory=dict)

    @property
    def n_validation(self) -> int:
        """Validation examples that trials and checkpoints are scored on; of a record that does not say, those that its budget allows."""
        return int(self.config.get("n_validation", self.config.get("budget", {}).get("validation_examples") or 0))

    @property
    def failure(self) -> str | None:
        """What went wrong, in the cell or in one of its probes."""
        probes = (f"probe {name}: {result.error}" for name, result in self.probes.items() if result.error)
        return self.error if self.status == "failed" else next(probes, None)


class Item(_Model):
    """One test item of one cell."""

    id: str
    cluster: str
    slices: dict[str, str] = Field(default_factory=dict)
    input_hash: str
    prompt_hash: str
    prediction: str
    reasoning: str | None = None
    """What a chain of thought wrote before its answer; None without one, or where it marked no answer."""
    targets: list[str]
    answerable: bool
    outcome: Outcome
    scores: dict[str, float]
    """Item-level metrics; a metric that is undefined for this item is absent."""
    undefined: dict[str, str] = Field(default_factory=dict)
    """The metrics that are undefined for this item, and why."""
    error: str | None = None
    """What kind of error the answer is (`bench.metric.taxonomy`); None for a right answer, and where the strategy
    reads no passages or the task is no question answering."""
    logprob: float | None = None
    """Sum of the log-probabilities (natural log) of the generated tokens."""
    option_logprobs: list[float] | None = None
    """Multiple choice: log-probability (natural log) of each option in the order of the task's row, the sum over its tokens. None for
    the other kinds, and where no model was asked."""
    logit_margin: float | None = None
    """How near the answer was to being another one: the smallest lead (nats) of one of its tokens, the end token included, over the
    second best; of multiple choice that of the chosen option's log-probability, of a classifier that of the label's. None where there
    was no second, and where no model was asked."""
    retrieved_ids: list[str] | None = None
    """None where the strategy retrieves nothing."""
    retrieval_score: float | None = None
    """Cosine of the question and the best passage; None where passages are not found by vectors alone."""
    cited_ids: list[str] | None = None
    """Documents that the answer cites; None where the strategy asks for no citations."""
    gold_ids: list[str] = Field(default_factory=list)
    truncated: bool = False
    """Whether passages or shots were left out of the prompt to fit the window."""
    tokens: Tokens
    latency_seconds: float
    """Wall seconds of the item's batch divided by its items: a throughput share, not an online latency."""


@dataclass(frozen=True, slots=True)
class ScoredItem:
    """What tables and statistics read of an `Item`: a third of the time to read, which tables of many cells are made of."""

    id: str
    cluster: str
    input_hash: str
    prediction: str
    targets: list[str]
    scores: dict[str, float]
    outcome: Outcome
    slices: dict[str, str] = field(default_factory=dict)
    error: str | None = None
    prompt_hash: str = ""
    logit_margin: float | None = None
    tokens: Tokens = field(default_factory=Tokens)


class Run(_Model):
    """The header of a run folder."""

    schema_version: int = SCHEMA_VERSION
    name: str
    suite: dict[str, Any]
    environment: dict[str, Any]
    started: str
    """UTC, ISO 8601."""
    ended: str | None = None
    status: Literal["running", "ok", "failed", "interrupted"]


# Fields that may differ between two runs of the same cell on the same environment.
VOLATILE_RECORD_FIELDS = ("phases", "memory", "environment")
VOLATILE_TRAINING_FIELDS = ("tokens_per_second",)
VOLATILE_MERGING_FIELDS = ("unmerged_seconds", "merged_seconds")
VOLATILE_PROBE_FIELDS = ("wall_seconds",)
VOLATILE_PROBE_DETAILS = ("machine",)
VOLATILE_TRIAL_FIELDS = ("wall_seconds", "cpu_seconds")
VOLATILE_ITEM_FIELDS = ("latency_seconds",)
