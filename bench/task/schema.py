"""What a task is: its settings (``task.yaml``), its examples and the passages that strategies may read or train on."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

TaskKind = Literal["qa", "classification", "summarization", "structured", "multiple_choice"]


def _regex(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"found the regular expression {text!r}, which is none ({error})") from error
    return text


Regex = Annotated[str, AfterValidator(_regex)]


class AnswerPattern(BaseModel):
    """What of a generated text is its answer, by a regular expression."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    regex: Regex
    match: int = 0
    """Which of its matches, from 0; negative from the end. Of a match its first group that is not empty, or where it has none all."""
    fallback: str = "[invalid]"
    """The answer where nothing matches."""

    def find(self, text: str) -> str:
        try:
            found = re.findall(self.regex, text)[self.match]
        except IndexError:
            return self.fallback
        if isinstance(found, tuple):
            found = next((part for part in found if part), self.fallback)
        return str(found).strip()


TextStep = Literal["strip", "lowercase", "uppercase"]


class PromptLayout(BaseModel):
    """Prompts and answers to the letter, as another harness lays them out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    chat: bool = False
    """The model's chat template, the instruction as its system message; without it one plain text, whatever the model has."""
    after_instruction: str = "\n\n"
    after_input: str = " "
    """Plain text: between an input and its answer."""
    after_answer: str = "\n\n"
    """Plain text: between worked examples."""
    shots: Literal["drawn", "first"] = "drawn"
    """``first``: worked examples are the first rows of train, in their order, for every seed; and fewer train_examples are the first."""
    stop: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    """Generation ends before the first of these texts."""
    clean: list[TextStep | AnswerPattern] = Field(default_factory=list)
    """What is done to a generated text, in this order; without it spaces around an answer stay."""


class Matching(BaseModel):
    """What the metric ``exact_text`` ignores in answer and target."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    remove: list[Regex] = Field(default_factory=list)
    """Taken out first, in this order."""
    ignore_case: bool = False
    ignore_punctuation: bool = False
    """ASCII punctuation."""
    ignore_numbers: bool = False
    """ASCII digits."""


class TaskConfig(BaseModel):
    """The keys of ``task.yaml``. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: TaskKind
    instruction: str
    """What every strategy is told, answer format included. ``{{ labels }}`` becomes the label list. Empty only with a `layout`."""
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
    layout: PromptLayout | None = None
    """Default: the layout of this harness."""
    matching: Matching | None = None

    @model_validator(mode="after")
    def _consistent(self) -> TaskConfig:
        if not self.instruction and self.layout is None:
            raise ValueError('instruction: found "", expected string should have at least 1 character')
        if self.matching is not None and "exact_text" not in self.metrics:
            raise ValueError("matching: has a meaning for the metric exact_text only, which is not among metrics")
        return self


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
