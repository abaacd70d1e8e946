"""What is written beside the rows of a task made from data: task.yaml with a comment on each key, and a data card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import yaml

from bench.metric.text import UNSPACED_SCRIPTS

_COMMENTS: Final = {
    "kind": "qa, classification, summarization, structured (a JSON object) or multiple_choice.",
    "instruction": "What every strategy is told, the form of the answer included. Make it your own: all strategies depend on it.",
    "input": "What is asked: a Jinja template over the columns of a row.",
    "target": "The column with the right answer. A list means that any one of them is right; an empty one, that there is no answer.",
    "options": "The column with the options of a row. The target is the text of the right one or its place, counted from 0.",
    "evidence": "The column with the id, or list of ids, of the passages in corpus.jsonl that hold the answer.",
    "cluster": "Items with the same value here are not independent: they are in one split, and intervals are computed over them.",
    "shared_clusters": "refuse: train and test may share no cluster. allow: what is learned about one is what you test.",
    "labels": "All labels. An answer that is none of them is wrong.",
    "fields": "The keys of the JSON object and their types: string, integer, number or boolean.",
    "abstain": "Answers that count as abstaining. An item without an answer is right when the model gives one of them.",
    "metrics": "The first is the primary one. All: bench list metrics",
    "max_new_tokens": "Room for the answer, in tokens. bench validate says whether it is enough for a model.",
    "description": "One line for listings.",
}
INSTRUCTIONS: Final = {
    "qa": "Answer the question in a few words.",
    "classification": "Sort the text into one of the labels: {{ labels }}. Answer with the label alone, as it is written there.",
    "summarization": "Summarize the text in a few sentences.",
    "structured": "Return what the text says as a JSON object.",
    "multiple_choice": "Answer the question with one of the options.",
}
UNLISTED: Final = "Sort the text into one of the {} labels. Answer with the label alone."
"""The instruction where there are too many labels to name them in every prompt."""
METRICS: Final = {
    "qa": ("exact_match", "f1"),
    "classification": ("accuracy", "macro_f1"),
    "summarization": ("rougeL", "rouge1"),
    "structured": ("field_accuracy", "format_validity"),
    "multiple_choice": ("accuracy", "accuracy_normalized"),
}

LONG_ANSWER_METRICS: Final = ("f1", "answer_recall")
"""For questions with answers in sentences, which no model gives to the letter."""


@dataclass(frozen=True)
class Facts:
    """What the data card says."""

    source: str
    files: Mapping[str, str]
    """SHA-256 by file name."""
    found: int
    """Rows read."""
    sizes: Mapping[str, int]
    """Rows by split."""
    changes: Sequence[str]
    """What was changed or dropped, with its number."""
    rule: str
    """How the rows were split."""
    parts: Sequence[str]
    """Which column plays which part, and why."""
    unspaced: int
    """Rows written, at least in part, without spaces between words."""
    passages: int
    documents: str
    """Where the corpus comes from; empty without one."""


def task_yaml(settings: Mapping[str, Any]) -> str:
    """The settings as YAML, each under a comment that says what it is for."""
    parts = ["# Made by bench new-task. How the rows came about is in README.md. Check it with: bench validate FOLDER\n"]
    for key, value in settings.items():
        if isinstance(value, list | dict):
            dumped = f"{key}: " + yaml.safe_dump(value, allow_unicode=True, sort_keys=False, width=120, default_flow_style=True)
            dumped = dumped.rstrip().replace("\n", "\n  ") + "\n"
        else:
            dumped = yaml.safe_dump({key: value}, allow_unicode=True, width=120)
        parts.append(f"# {_COMMENTS[key]}\n{dumped}")
    return "\n".join(parts)


def readme(name: str, settings: Mapping[str, Any], facts: Facts) -> str:
    """The data card in Markdown."""
    files = [f"- `{file}`, SHA-256 `{digest}`" for file, digest in facts.files.items()] or ["- a data set of the hub, copied here"]
    sizes = ", ".join(f"{split} {size}" for split, size in facts.sizes.items())
    parts = [
        f"# {_plain(name)}\n\n{settings['description']}",
        "## Source\n\n" + "\n".join([f"Made by `bench new-task` from `{_plain(facts.source)}`:", "", *files]),
        "Licence: *fill in the licence of the data, and whether it may be passed on.*",
        "## Rows\n\n" + f"{facts.found} rows were read, {sum(facts.sizes.values())} are kept: {sizes}.\n\n" + _list(facts.changes),
        f"## Splits\n\n{facts.rule}",
        "## Columns\n\n" + _list(facts.parts),
        f"## Language\n\n{_language(facts)}",
    ]
    if facts.documents:
        parts.append(f"## Corpus\n\n{facts.passages} passages, from {_plain(facts.documents)}.")
    return "\n\n".join(parts) + "\n"


def _language(facts: Facts) -> str:
    rule = (
        f"Text in scripts without spaces between words ({', '.join(UNSPACED_SCRIPTS)}) is cut into characters, other text into words at "
        "spaces (ROUGE: into runs of letters and digits), for F1, ROUGE and the measures of support by passages. Korean counts words."
    )
    return f"{facts.unspaced} of {sum(facts.sizes.values())} rows hold text of such a script. {rule}" if facts.unspaced else (
        f"No row holds text without spaces between words: F1 and ROUGE count words. {rule}"
    )  # fmt: skip


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {_plain(line)}" for line in lines) or "Nothing was changed."


def _plain(text: str) -> str:
    """Text on one line of Markdown."""
    return " ".join(text.replace("`", "'").split())
