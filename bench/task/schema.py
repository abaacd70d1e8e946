"""What a task is: its settings (``task.yaml``), its examples and the passages that strategies may read or train on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

TaskKind = Literal["qa", "classification", "summarization", "structured", "multiple_choice"]


class TaskConfig(BaseModel):
    """The keys of ``task.yaml``. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: TaskKind
    instruction: str = Field(min_length=1)
    """What every strategy is told, answer format included. ``{{ labels }}`` becomes the label list."""
    input: str = Field(min_length=1)
    """Jinja template over a row's columns."""
    target: str = Field(min_length=1)
    """Column with the right answer; a list means that any one is right, an empty list that the question has no answer.
    Multiple choice: the text of the right option or its index (an integer, from 0); there is always one."""
    options: str | None = None
    """Multiple choice: column with the item's options, a list of at least two different texts, of which the model picks one."""
    evidence: str | None = None
    """Column with the ids of the passages that hold the answer."""
    rationale: str | None = None
    """Column with the reasoning that leads to the answer, for worked examples with a chain of thought."""
    cluster: str | None = None
    """Column that says which items are not independent; default: every item on its own."""
    slices: list[str] = Field(default_factory=list)
    """Columns by whose values the metrics are also reported apart."""
    labels: list[str] | None = None
    """Classification: the labels; default: those of the training examples, sorted."""
    fields: dict[str, Literal["string", "integer", "number", "boolean"]] | None = None
    """Structured: the keys of the JSON object and their types."""
    abstain: list[str] = Field(default_factory=list)
    """Answers that count as abstaining. A target among them marks an unanswerable item. Not in multiple choice: a choice is always made."""
    metrics: list[str] = Field(min_length=1)
    """The first is the primary one."""
    max_new_tokens: int = Field(default=32, ge=1)
    """Room for the answer. Multiple choice: what a prompt leaves free for the longest option; nothing is generated."""
    data: str | None = None
    """Folder (relative to the task's) or hub id of the rows; default: the task's own folder."""
    data_config: str | None = None
    revision: str | None = None
    shared_clusters: Literal["refuse", "allow"] = "refuse"
    """What to do when train and test share a cluster (entity): refuse, or allow because the task is about just that."""
    description: str = ""


@dataclass(frozen=True)
class Example:
    """One row: what is asked and which answers are right."""

    id: str
    input: str
    targets: tuple[str, ...]
    """Never empty: for an item without an answer, the task's first abstention phrase."""
    answerable: bool
    cluster: str
    evidence: tuple[str, ...] = ()
    slices: dict[str, str] = field(default_factory=dict)
    rationale: str | None = None
    options: tuple[str, ...] = ()
    """Multiple choice: what the model picks from, each once; every target is among them. Empty for the other kinds."""


@dataclass(frozen=True)
class Passage:
    """One document of the corpus."""

    id: str
    text: str


@dataclass(frozen=True)
class Task:
    """A loaded and checked task."""

    name: str
    folder: Path
    config: TaskConfig
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    corpus: tuple[Passage, ...] = ()
    labels: tuple[str, ...] = ()
    instruction: str = ""
    """The instruction with the labels filled in."""
    fingerprint: str = ""
    """SHA-256 over settings, rows and corpus; not over paths."""
    warnings: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def primary_metric(self) -> str:
        return self.config.metrics[0]
