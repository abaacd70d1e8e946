"""The rows of a lm-evaluation-harness task, rendered: input, right answer and choices as its templates make them."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined
from jinja2.sandbox import SandboxedEnvironment

from bench.errors import BenchError
from bench.settings import shown
from bench.task.lm_eval_config import LmEvalTask
from bench.task.rows import json_type

Doc = dict[str, Any]


def _regex_replace(text: str, pattern: str, repl: str, count: int = 0) -> str:
    return re.sub(pattern, repl, text, count=count)


_JINJA = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
_JINJA.filters["regex_replace"] = _regex_replace  # the one filter that lm-evaluation-harness adds


def render(task: LmEvalTask, path: Path, docs: Mapping[str, Sequence[Doc]], columns: Collection[str]) -> dict[str, list[Doc]]:
    """Rows with the columns input, target and, of a choice, options.

    Args:
        task: Its templates.
        path: The task file, to begin a message with.
        docs: Rows by split.
        columns: Those of the scored split; a template that is one of them stands for its value.

    Raises:
        BenchError: A template fails, or makes what has no counterpart here; the message names split and row.
    """
    made: dict[str, list[Doc]] = {}
    for split, of_split in docs.items():
        made[split] = []
        for number, doc in enumerate(of_split):
            try:
                made[split].append(_row(task, doc, columns))
            except BenchError as error:
                raise BenchError(f"{path}: {split}, row {number}: {error}") from None
    return made


def _row(task: LmEvalTask, doc: Doc, columns: Collection[str]) -> Doc:
    text = _value(task.doc_to_text, doc, columns, "doc_to_text")
    if not isinstance(text, str) or (text.isdigit() and task.doc_to_choice is not None):
        raise BenchError(f"doc_to_text: found {shown(text)}, expected a text (one input per choice has no counterpart here)")
    if task.gen_prefix:
        text = _begun(task, text, _value(task.gen_prefix, doc, columns, "gen_prefix"))
    whole = not isinstance(task.doc_to_target, str) or task.doc_to_target in columns
    target: Any = task.doc_to_target
    if isinstance(target, str):
        target = _value(target, doc, columns, "doc_to_target")
    if task.doc_to_choice is None:
        if not whole and target[:1] == "[" and target[-1:] == "]":
            target = _literal(target, target)
        return {"input": text, "target": _texts(target)}
    options = _choices(task.doc_to_choice, doc, columns)
    if not whole and (target.isdigit() or target[:1] == "["):
        target = _literal(target, target)
    if task.output_type == "multiple_choice":
        for option in options:
            if option != option.strip():
                raise BenchError(f"doc_to_choice: found {shown(option)}, expected no space at its ends (write it in target_delimiter)")
        if isinstance(target, str) and target not in options:
            raise BenchError(f"doc_to_target: found {shown(target)}, expected one of the item's {len(options)} options")
        return {"input": text, "target": target, "options": options}
    if not isinstance(target, int) or not 0 <= target < len(options):
        raise BenchError(f"doc_to_target: found {shown(target)}, expected the index of one of {len(options)} choices")
    return {"input": text, "target": _texts(options[target])}


def _begun(task: LmEvalTask, text: str, prefix: object) -> str:
    """An input with what its answer begins with, the delimiter between them where there is no space."""
    if not isinstance(prefix, str) or not prefix:
        raise BenchError(f"gen_prefix: found {shown(prefix)}, expected a text in every row")
    apart = not text or text[-1].isspace() or prefix[0].isspace()
    return f"{text}{'' if apart else task.target_delimiter}{prefix}"


def _value(template: str, doc: Doc, columns: Collection[str], key: str) -> Any:
    """A column's value, or what the Jinja template makes of the row."""
    if template in columns:
        if template not in doc:
            raise BenchError(f"{key}: found no column {shown(template)}, which the scored rows have")
        return doc[template]
    try:
        return _JINJA.from_string(template).render(doc)
    except Exception as error:  # a template can fail in any way: syntax, division, a missing column, the sandbox
        raise BenchError(f"{key}: the template fails ({type(error).__name__}: {shown(str(error), 120)})") from None


def _literal(text: str, otherwise: Any) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return otherwise


def _choices(choice: str | list[str] | dict[str, str], doc: Doc, columns: Collection[str]) -> list[str]:
    if isinstance(choice, dict):
        return list(choice.values())
    found = choice if isinstance(choice, list) else _value(choice, doc, columns, "doc_to_choice")
    if isinstance(choice, str) and isinstance(found, str):
        found = _literal(found, found)
    if not isinstance(found, list) or not all(isinstance(option, str) for option in found):
        raise BenchError(f"doc_to_choice: found {shown(found)}, expected a list of texts")
    return found


def _texts(target: Any) -> str | list[str]:
    """Right answers as texts. Raises `BenchError` for one with spaces at its ends, which this harness does not keep."""
    texts = target if isinstance(target, list) else [str(target)]
    for text in texts:
        if not isinstance(text, str) or not text or text != text.strip():
            found = shown(text) if isinstance(text, str) else json_type(text)
            raise BenchError(f"doc_to_target: found {found}, expected a text with no space at its ends")
    return texts if isinstance(target, list) else texts[0]
