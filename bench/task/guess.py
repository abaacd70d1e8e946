"""Guess what a table asks and answers: the kind of task and the columns that play a part, each with the reason."""

from __future__ import annotations

import json
import statistics
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast, get_args

from bench.errors import BenchError, did_you_mean
from bench.metric.text import words
from bench.settings import shown
from bench.task.schema import TaskKind

Ask = Callable[[str, str, Sequence[str]], str]
"""Called with a flag, a question and the columns to choose from; gives the column, or raises BenchError where nobody can answer."""

TARGET_NAMES: Final = (
    "label", "labels", "label_text", "category", "class", "intent", "sentiment", "answer", "answers", "answerkey", "target", "targets",
    "summary", "summaries", "highlights", "output", "response", "completion", "reference", "expected", "gold", "correct_answer",
)  # fmt: skip
INPUT_NAMES: Final = (
    "question", "query", "input", "prompt", "message", "text", "sentence", "utterance", "review", "article", "document", "report",
    "content", "body", "instruction", "note", "title",
)  # fmt: skip
ID_NAMES: Final = ("id", "_id", "uid", "uuid", "guid", "qid", "question_id", "example_id", "row_id", "index", "idx", "column_1")
CLUSTER_NAMES: Final = (
    "cluster", "group", "group_id", "document_id", "doc_id", "source_id", "conversation_id", "thread_id", "user_id", "customer_id",
    "product_id", "patient_id",
)  # fmt: skip
EVIDENCE_NAMES: Final = ("evidence", "evidence_ids", "context_ids", "context_id", "passage_ids", "passage_id", "document_ids", "gold_ids")
QUESTION_NAMES: Final = ("question", "query", "prompt", "input")
CONTEXT_NAMES: Final = ("context", "passage", "paragraph", "document", "article")
OPTION_NAMES: Final = ("options", "choices")

SHORT_LABEL: Final = 8
"""Words (characters in scripts without spaces) that a label has at most."""
SHORT_ANSWER: Final = 16
MAX_LABELS: Final = 200


@dataclass(frozen=True)
class Choices:
    """What the user decided; what is None is guessed."""

    kind: str | None = None
    input: str | None = None
    """A column, or a Jinja template over columns."""
    target: str | None = None
    id: str | None = None
    cluster: str | None = None
    evidence: str | None = None
    corpus: str | None = None
    """A folder or file of documents, or a column with their texts."""
    metrics: tuple[str, ...] = ()
    abstain: tuple[str, ...] = ()


@dataclass
class Guess:
    """The part that each column plays; None where none does."""

    kind: TaskKind
    input: str
    """A Jinja template."""
    target: str
    id: str | None = None
    cluster: str | None = None
    evidence: str | None = None
    context: str | None = None
    """Column with the text of a passage."""
    options: str | None = None
    reasons: dict[str, str] = field(default_factory=dict)
    """Why, by key of task.yaml."""


def guess(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], choices: Choices, ask: Ask) -> Guess:
    """Decide on a kind and columns: the user's choice first, then names, then what the cells look like.

    Args:
        rows: All rows, values by column.
        columns: The columns that a template can write.
        choices: What is decided. ``corpus`` counts as a column only where it is one of `columns`.
        ask: Asked for the input or the target where nothing tells them.

    Raises:
        BenchError: A chosen column does not exist, the kind is unknown, or `ask` raises.
    """
    _check(columns, choices)
    table = _Table(rows, columns)
    reasons: dict[str, str] = {}
    options = None
    if choices.kind in (None, "multiple_choice"):
        options = table.named(OPTION_NAMES, lambda values: all(len(options_of(value)[0]) > 1 for value in values))
        reasons |= {"options": "lists of options under that name"} if options else {}
    target, reasons["target"] = _target(table, choices, ask)
    kind, reasons["kind"] = (cast(TaskKind, choices.kind), "as given") if choices.kind else _kind(table, target, options)
    context = _context(table, choices, kind, target)
    reasons |= {"context": "the passages that questions are about: they become the corpus"} if context else {}
    source, reasons["input"] = _input(table, choices, ask, (target, context, options))
    found = Guess(kind, source, target, context=context, options=options, reasons=reasons)
    _identity(found, table, choices)
    return found


def _check(columns: Sequence[str], choices: Choices) -> None:
    if choices.kind is not None and choices.kind not in get_args(TaskKind):
        raise BenchError(f'--kind: found "{choices.kind}"; {did_you_mean(choices.kind, get_args(TaskKind))}')
    for flag in ("input", "target", "id", "cluster", "evidence"):
        column = getattr(choices, flag)
        if column is not None and "{{" not in column and column not in columns:
            raise BenchError(f'--{flag}: found no column "{column}"; {did_you_mean(column, columns)}')
        if column == "id" and flag in ("target", "cluster", "evidence"):
            raise BenchError(f'--{flag}: found the column "id", which names each row of a task; expected another one (rename it)')


class _Table:
    """The columns of the data, each as the values that are not empty."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
        self.columns = columns
        self.values = {c: [v for row in rows if (v := row.get(c)) not in (None, "") and v == v] for c in columns}  # NaN is not itself
        self.size = len(rows)

    def named(self, names: Iterable[str], fits: Callable[[Sequence[Any]], bool]) -> str | None:
        """The first of these names that is a column with values that fit."""
        lowered = {column.lower(): column for column in reversed(self.columns)}
        found = (lowered[name] for name in names if name in lowered)
        return next((column for column in found if self.values[column] and fits(self.values[column])), None)

    def distinct(self, column: str) -> set[str]:
        return {json.dumps(value, default=str) for value in self.values[column]}

    def length(self, column: str) -> float:
        """Median words of the texts."""
        return statistics.median([len(words(str(value))) for value in self.values[column]] or [0])


def _target(table: _Table, choices: Choices, ask: Ask) -> tuple[str, str]:
    if choices.target:
        return choices.target, "as given"
    if column := table.named([name for name in TARGET_NAMES if name != choices.input], lambda values: True):
        return column, "called so"
    free = [c for c in table.columns if c != choices.input and c.lower() not in ID_NAMES and c != choices.corpus]
    labels = [c for c in free if _label_like(table, c)]
    if len(labels) == 1 and len(free) <= 3:  # of many columns another one may be the answer
        return labels[0], f"{len(table.distinct(labels[0]))} different short values"
    return ask("--target", "Which column holds the right answer?", free), "as given"


def _label_like(table: _Table, column: str) -> bool:
    values = table.values[column]
    different = len(table.distinct(column))
    short = all(isinstance(v, str | int | bool) and len(words(str(v).replace("_", " "))) <= SHORT_LABEL for v in values)
    return bool(values) and short and 2 <= different <= min(MAX_LABELS, len(values) / 3)


def _kind(table: _Table, target: str, options: str | None) -> tuple[TaskKind, str]:
    values = table.values[target]
    if options:
        return "multiple_choice", f"{options} holds the options"
    if values and all(_is_object(value) for value in values):
        return "structured", "the answers are JSON objects"
    if _label_like(table, target):
        return "classification", f"{len(table.distinct(target))} different short answers in {table.size} rows"
    texts = [str(answer) for value in values for answer in (answers_of(value) or [""])[:1]]
    length = statistics.median([len(words(text)) for text in texts] or [0])
    if length <= SHORT_ANSWER:
        return "qa", f"many different answers of {length:.0f} words in the median"
    if table.named(("question", "query"), _texts):
        return "qa", f"questions with answers of {length:.0f} words in the median"
    return "summarization", f"answers of {length:.0f} words in the median"


def _is_object(value: Any) -> bool:
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except ValueError:
            return False
    return isinstance(value, dict) and not (isinstance(value.get("text"), list))


def answers_of(value: Any) -> list[Any]:
    """The answers in a cell: one, a list, or SQuAD's ``{"text": [...]}``; none where it is empty."""
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        value = value["text"]
    found = value if isinstance(value, list) else [value]
    return [answer for answer in found if answer not in (None, "") and answer == answer]


def options_of(value: Any) -> tuple[list[Any], list[str]]:
    """The options in a cell and the letters that name them: a list, or ``{"text": [...], "label": [...]}`` as some public sets have it."""
    if isinstance(value, dict) and isinstance(value.get("text"), list) and isinstance(value.get("label"), list):
        return value["text"], [str(label) for label in value["label"]]
    return (value, list(string.ascii_uppercase)) if isinstance(value, list) else ([], [])


def _texts(values: Sequence[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def _scalars(values: Sequence[Any]) -> bool:
    return all(isinstance(value, str | int) for value in values)


def _input(table: _Table, choices: Choices, ask: Ask, taken: Sequence[str | None]) -> tuple[str, str]:
    if choices.input:
        return (choices.input if "{{" in choices.input else f"{{{{ {choices.input} }}}}"), "as given"
    if column := table.named([name for name in INPUT_NAMES if name not in taken], _texts):
        return f"{{{{ {column} }}}}", "called so"
    free = [c for c in table.columns if c not in taken and table.values[c] and _texts(table.values[c]) and c.lower() not in ID_NAMES]
    free = [c for c in free if c not in (choices.cluster, choices.evidence, choices.id)]
    if len(free) == 1:
        return f"{{{{ {free[0]} }}}}", "the only other column with text"
    long = [c for c in free if table.length(c) >= 3 and len(table.distinct(c)) > len(table.values[c]) / 2]
    if len(long) == 1:
        return f"{{{{ {long[0]} }}}}", "the only other column with different texts of some words"
    return f"{{{{ {ask('--input', 'Which column holds what is asked?', free or table.columns)} }}}}", "as given"


def _context(table: _Table, choices: Choices, kind: TaskKind, target: str) -> str | None:
    if choices.corpus is not None:
        return choices.corpus if choices.corpus in table.columns else None
    asked = choices.input or table.named(QUESTION_NAMES, _texts)
    if kind != "qa" or asked is None or "{{" in asked:
        return None
    return table.named([name for name in CONTEXT_NAMES if name not in (target, asked)], _texts)


def _identity(found: Guess, table: _Table, choices: Choices) -> None:
    """Fill in which column names a row, and which its group and its evidence."""
    unique = {c for c in table.columns if len(table.values[c]) == table.size == len(table.distinct(c))}
    found.id = choices.id or table.named(ID_NAMES, lambda values: _scalars(values) and len(values) == table.size)
    if found.id and not choices.id and found.id not in unique:
        found.reasons["id"], found.id = f"{found.id} does not tell rows apart, so rows are numbered", None
    elif found.id:
        found.reasons["id"] = "as given" if choices.id else "a different one in every row"
    _evidence(found, table, choices)


def _evidence(found: Guess, table: _Table, choices: Choices) -> None:
    documents = choices.corpus is not None and found.context is None
    found.evidence = choices.evidence or (table.named(EVIDENCE_NAMES, lambda values: True) if documents else None)
    found.reasons |= {"evidence": "as given" if choices.evidence else "called so"} if found.evidence else {}
    found.cluster = choices.cluster or table.named(CLUSTER_NAMES, _scalars)
    if found.cluster and not choices.cluster and not 10 <= len(table.distinct(found.cluster)) < table.size:
        found.cluster = None
    found.reasons |= {"cluster": "as given" if choices.cluster else "rows that share it are not independent"} if found.cluster else {}
    if not found.cluster and found.evidence and _single(table.values[found.evidence]):
        found.cluster, found.reasons["cluster"] = found.evidence, f"rows about the same {shown(found.evidence)} are not independent"


def _single(values: Sequence[Any]) -> bool:
    """Whether each names one passage, and some the same."""
    named = [json.dumps(value) for value in values if not isinstance(value, list) or len(value) == 1]
    return len(named) == len([v for v in values if v != []]) and len(set(named)) < len(named)
