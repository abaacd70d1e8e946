"""The four axes on which ways of adapting a model are argued about, each column of them a measured fact and no grade.

What people call "complex" or "flexible" is here what was counted or timed: a column names its measure, and a strategy without it
says why. Of a criterion that several measures could stand for, one is taken for the whole column (the first that any strategy has),
so that cells of a column are always comparable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bench.report.model import Candidate, TaskEvidence
from bench.report.numbers import Unit, shown, shown_interval
from bench.result.text import NONE

Axis = Literal["Cost", "Complexity", "Accuracy", "Flexibility"]
NO_MODEL, NOT_DEFINED = "asks no model", "not defined for this strategy"


@dataclass(frozen=True)
class Source:
    """A measure that can stand for a criterion."""

    measure: str
    """Its name in `Candidate.measures`."""
    label: str
    unit: Unit
    says: str
    """What the number is."""


@dataclass(frozen=True)
class Criterion:
    """One column of the axes."""

    axis: Axis
    name: str
    sources: tuple[Source, ...]
    """The first one that any strategy of the task has is used for all."""
    how: str
    """What to do to have it measured."""


CRITERIA: tuple[Criterion, ...] = (
    Criterion("Cost", "Running", (
        Source("usd_per_1000_requests", "USD per 1,000 requests", "usd", "what 1,000 requests cost at the prices below"),
        Source("seconds_per_1000_requests", "seconds per 1,000 requests", "seconds", "time to answer 1,000 requests on the run's machine"),
    ), "give --prices a file that knows the run's device"),
    Criterion("Cost", "Set-up", (
        Source("setup_usd", "USD, once", "usd", "search, training, index and labels at the prices below"),
        Source("setup_seconds", "seconds, once", "seconds", "search, training and indexing on the run's machine"),
    ), "give --prices a file that knows the run's device"),
    Criterion("Complexity", "Parts to run", (
        Source("footprint.n_components", "components", "count", "what has to be up to answer: base model, adapter, embedder, index"),
    ), "bench run --probe footprint"),
    Criterion("Complexity", "Settings", (
        Source("footprint.n_settings_exposed", "settings", "count", "settings that differ from their default or are searched"),
    ), "bench run --probe footprint"),
    Criterion("Accuracy", "Domain terms", (
        Source("key_fact_coverage", "key facts covered", "share", "share of the reference's content words and numbers found in the answer"),
        Source("answer_recall", "answer words found", "share", "share of the right answer's words, the domain's names and values, found"),
        Source("field_accuracy", "fields right", "share", "share of the declared fields with the right value"),
        Source("macro_f1", "macro F1", "share", "mean over labels, so that rare terms count as much as frequent ones"),
    ), "add answer_recall, key_fact_coverage, field_accuracy or macro_f1 to the task's metrics"),
    Criterion("Accuracy", "Up-to-date answers", (
        Source("freshness.efficacy", "new value after an update", "share", "share of edited facts answered by their new value"),
        Source("conflict.context_rate", "follows a newer passage", "share",
               "share of questions answered by a passage that contradicts what pretraining left; no update was made"),
    ), "bench run --probe freshness"),
    Criterion("Accuracy", "Transparency", (
        Source("footprint.cited_traceable_share", "traceable to a citation", "share", "share of answers found in a cited document"),
        Source("footprint.traceable_share", "traceable to a passage", "share",
               "share of attempted answers whose words stand in a document that the model was handed; 0 where nothing is read"),
    ), "bench run --probe footprint"),
    Criterion("Accuracy", "Hallucination", (
        Source("hallucination_rate", "attempted and wrong", "share", "share of items answered wrongly in place of abstaining"),
        Source("number_support", "numbers supported, higher is better", "share", "share of its numbers found in what was read or asked"),
    ), "add hallucination_rate to the task's metrics"),
    Criterion("Accuracy", "Fabrication", (
        Source("fabrication.fabrication_rate", "made up", "share", "share of questions about things that do not exist answered anyway"),
    ), "bench run --probe fabrication"),
    Criterion("Flexibility", "Update", (
        Source("freshness.update_seconds", "seconds to take in changes", "seconds", "index and training that a change of facts took"),
    ), "bench run --probe freshness"),
    Criterion("Flexibility", "Switch", (
        Source("footprint.switch_seconds", "seconds to switch task", "seconds", "to make a loaded base model ready for this task"),
    ), "bench run --probe footprint"),
    Criterion("Flexibility", "Portable", (
        Source("footprint.portable_bytes_share", "kept with another base", "share", "share of what is kept that another base could use"),
    ), "bench run --probe footprint"),
)  # fmt: skip
"""The measures behind each axis; quality itself stands in the comparison."""


@dataclass(frozen=True)
class Column:
    """A criterion on one task."""

    criterion: Criterion
    source: Source | None
    """None where no strategy of the task has any of the measures."""


@dataclass(frozen=True)
class Cell:
    """One fact."""

    text: str
    interval: str
    """95 %, empty where none is known."""
    reason: str
    """Why there is no number; empty where there is one."""
    value: float | None


def columns(task: TaskEvidence) -> tuple[Column, ...]:
    """All criteria in order, each with the measure that stands for it on this task."""
    measured = {name for candidate in task.candidates for name in candidate.measures}
    return tuple(Column(c, next((s for s in c.sources if s.measure in measured), None)) for c in CRITERIA)


def cell(candidate: Candidate, column: Column) -> Cell:
    """What was measured of a strategy, or why nothing was."""
    if column.source is None:
        return Cell("not measured", "", column.criterion.how, None)
    found = candidate.measures.get(column.source.measure)
    if found is not None:
        return Cell(shown(found.value, column.source.unit), shown_interval(found, column.source.unit), "", found.value)
    if candidate.standing == "failed":
        return Cell(NONE, "", candidate.reason or "failed", None)
    return Cell(NONE, "", NO_MODEL if candidate.standing == "floor" else NOT_DEFINED, None)
