"""Labelled responses: files that say of a response whether its evidence supports it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.metric.detector import Response, unusable
from bench.metric.detector_quality import Undefined
from bench.result.schema import Item
from bench.settings import shown
from bench.task.schema import Example, Task

LABELS: dict[str, bool | None] = {
    "fully attributable": False, "supported": False,
    "not fully attributable": True, "unsupported": True,
    "generic": None, "no claim": None,
}  # fmt: skip
"""What a label says of a response: whether it is unsupported; None where it claims nothing. Case does not count."""


@dataclass(frozen=True)
class Labelled:
    """A response with its label."""

    response: Response
    unsupported: bool | None
    """None: the response claims nothing that evidence could support."""
    cluster: str
    """Responses to one evidence are not independent."""
    pair: int | None = None
    """The number of the right and the hallucinated answer to one question."""


def read_labelled(path: Path, split: str = "test") -> list[Labelled]:
    """The labelled responses of a JSONL file, or of the file ``<split>.jsonl`` of a folder.

    Each line has its evidence in ``knowledge``, or in ``knowledge_id`` with a ``corpus.jsonl`` (``id``, ``text``) beside the file; and
    either ``response`` and ``label`` (see `LABELS`), or ``right_answer`` and ``hallucinated_answer``, which make two responses.
    ``question`` and ``message`` (what was said before) are optional; other columns are not read.

    Raises:
        BenchError: A file is missing, empty or no JSONL, or a line lacks a column or has a wrong one.
    """
    file = path / f"{split}.jsonl" if path.is_dir() else path
    corpus: dict[str, str] | None = None
    found: list[Labelled] = []
    for line, row in _rows(file):
        where = f"{file}:{line}"
        if "knowledge" in row:
            evidence = _text(row, "knowledge", where)
        elif "knowledge_id" in row:
            corpus = _corpus(file) if corpus is None else corpus
            key = _text(row, "knowledge_id", where)
            if key not in corpus:
                raise BenchError(f"{where}: knowledge_id is {shown(key)}, which {file.parent / 'corpus.jsonl'} does not have")
            evidence = corpus[key]
        else:
            raise BenchError(f'{where}: neither "knowledge" nor "knowledge_id" is there; found {", ".join(row) or "no column"}')
        question, context = (_text(row, name, where) if name in row else "" for name in ("question", "message"))

        if "response" in row:
            response = Response(_text(row, "response", where), evidence, question, context)
            found.append(Labelled(response, _label(row, where), evidence))
        elif "right_answer" in row:
            for column, unsupported in (("right_answer", False), ("hallucinated_answer", True)):
                response = Response(_text(row, column, where), evidence, question, context)
                found.append(Labelled(response, unsupported, evidence, line))
        else:
            expected = '"response" (with "label") nor "right_answer" (with "hallucinated_answer")'
            raise BenchError(f"{where}: neither {expected} is there; found {', '.join(row)}")
    if not found:
        raise BenchError(f"{file}: is empty; expected one labelled response a line")
    return found


def gold_evidence(task: Task) -> dict[str, str]:
    """What the right answer of each test example rests on, by its id: its gold passages, of a summary the input; absent where there
    is neither."""
    texts = {p.id: p.text for p in task.corpus}
    if task.config.kind == "summarization":
        return {e.id: e.input for e in task.test}
    return {e.id: "\n".join(texts[i] for i in e.evidence) for e in task.test if e.evidence}


def response_of(item: Item, example: Example, evidence: str | None) -> Response | Undefined:
    """A test item's answer as a response to check; undefined where it abstains, is empty, or has nothing to be checked against."""
    if item.outcome == "abstained":
        return Undefined("abstained")
    if evidence is None:
        return Undefined("no evidence")
    response = Response(item.prediction, evidence, example.input)
    return unusable(response) or response


def responses_of(task: Task, items: Sequence[Item], evidence: dict[str, str]) -> list[Response | Undefined]:
    """`response_of` for the items, in order; `evidence`: by item id."""
    examples = {e.id: e for e in task.test}
    return [response_of(i, examples[i.id], evidence.get(i.id)) for i in items]


def _corpus(file: Path) -> dict[str, str]:
    corpus = file.parent / "corpus.jsonl"
    return {_text(row, "id", f"{corpus}:{line}"): _text(row, "text", f"{corpus}:{line}") for line, row in _rows(corpus)}


def _rows(file: Path) -> list[tuple[int, dict[str, Any]]]:
    try:
        lines = file.read_text(encoding="utf-8").split("\n")  # splitlines would also break at U+2028, which JSON allows
    except FileNotFoundError:
        raise BenchError(f"{file}: no such file; expected labelled responses in JSONL") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"{file}: cannot be read as UTF-8 text ({error})") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise BenchError(f"{file}:{number}: is no valid JSON ({error.msg})") from None
        if not isinstance(row, dict):
            raise BenchError(f"{file}:{number}: found {type(row).__name__}, expected an object with named columns")
        rows.append((number, row))
    return rows


def _text(row: dict[str, Any], column: str, where: str) -> str:
    if column not in row:
        raise BenchError(f'{where}: the column "{column}" is missing; found {", ".join(row)}')
    if not isinstance(row[column], str):
        raise BenchError(f"{where}: {column} is {shown(row[column])}, expected text")
    return str(row[column])


def _label(row: dict[str, Any], where: str) -> bool | None:
    label = _text(row, "label", where)
    if label.strip().lower() not in LABELS:
        raise BenchError(f"{where}: label is {shown(label)}; expected one of: {', '.join(LABELS)}")
    return LABELS[label.strip().lower()]
