"""Rows as found become rows to write: trimmed, without empty ones and duplicates; whatever is changed or dropped is counted."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.errors import BenchError, did_you_mean
from bench.metric.text import label_key
from bench.settings import shown
from bench.task.checks import input_key
from bench.task.guess import Guess, answers_of, options_of
from bench.task.load import InputTemplate
from bench.task.rows import Row

LONG_INPUT: Final = 20_000
"""Characters from which an input is pointed out."""
_FORMULA: Final = re.compile(r"[=@]\S|[+-][^\d\s.,+-]")


@dataclass
class Item:
    """One row to write."""

    where: str
    values: dict[str, Any]
    input: str
    split: str
    """Empty where the data names none."""
    targets: tuple[str, ...]
    """Each as text; empty where there is no answer."""


@dataclass
class Cleaned:
    """The items in their order, and what was done, by what it was."""

    items: list[Item]
    counts: Counter[str] = field(default_factory=Counter)
    """Number of cells or rows by what happened to them."""
    contradictions: list[str] = field(default_factory=list)
    """Places of rows that ask the same and answer differently."""


def clean(rows: Mapping[str, Sequence[Row]], guess: Guess, abstain: Sequence[str]) -> Cleaned:
    """Trim cells, drop empty rows and duplicates, and unite spellings of a label.

    A row without an answer is kept where there is a phrase for that (`abstain`) or its cell is an empty list. Of rows that ask the
    same, one with the same answer is dropped; where the data has splits, test keeps its rows and train loses those that test has too.

    Raises:
        BenchError: The template names no column or fails on a row, or nothing is left.
    """
    done = Cleaned([])
    template = InputTemplate(guess.input, "--input")
    columns = list(dict.fromkeys(name for found in rows.values() for row in found for name in row.values))
    if unknown := [name for name in template.names if name not in columns]:
        raise BenchError(f'--input: found no column "{unknown[0]}"; {did_you_mean(unknown[0], columns)}')
    for split, found in rows.items():
        for row in found:
            values = {name: _tidy(row.values.get(name), done.counts) for name in columns}
            if guess.options:
                values |= _chosen(values, guess.options, guess.target)
            item = _item(Row(row.where, row.number, values), split, guess, template, abstain, done.counts)
            done.items += [item] if item else []
    if guess.kind == "classification":
        _unite_labels(done, guess.target)
    _drop_repeated(done)
    if not done.items:
        raise BenchError(f"found no row with an input and an answer ({'; '.join(counted(done.counts))}); see --input and --target")
    labels = {target for item in done.items for target in item.targets}
    if guess.kind == "classification" and len(labels) < 2:
        only = ", ".join(map(shown, labels))
        raise BenchError(f'--target: column "{guess.target}" has {len(labels)} label ({only}), expected at least two')
    return done


def counted(counts: Mapping[str, int]) -> list[str]:
    """What was done, one line each, with its number."""
    return [f"{what}: {number}" for what, number in counts.items()]


def _tidy(value: Any, counts: Counter[str]) -> Any:
    if isinstance(value, str):
        text = value.replace("\0", "")
        counts.update({"NUL characters taken out of cells": 1} if text != value else {})
        counts.update({"cells that look like formulas, kept as text": 1} if _FORMULA.match(text) else {})
        counts.update({"cells trimmed": 1} if text != text.strip() else {})
        return text.strip()
    if isinstance(value, list):
        return [_tidy(item, counts) for item in value]
    if isinstance(value, dict):
        return {str(key): _tidy(item, counts) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, bool | int | float) or value is None else str(value)  # dates and the like


def _chosen(values: Mapping[str, Any], options: str, target: str) -> dict[str, Any]:
    """The options as a list, and a right one that is named by its letter by its place."""
    texts, letters = options_of(values[options])
    answer = values[target]
    named = answer in letters[: len(texts)] and answer not in texts
    return {options: texts, target: letters.index(answer) if named else answer}


def _item(
    row: Row, split: str, guess: Guess, template: InputTemplate, abstain: Sequence[str], counts: Counter[str]
) -> Item | None:
    if any(row.values.get(name) in (None, "") for name in template.names) and len(template.names) == 1:
        counts["rows dropped, as the input is empty"] += 1
        return None
    cell = row.values.get(guess.target)
    given = [cell] if guess.kind in ("structured", "multiple_choice") and cell not in (None, "") else answers_of(cell)
    if not given and not (abstain or cell == [] or isinstance(cell, dict)):
        counts["rows dropped, as the answer is empty"] += 1
        return None
    text = template.render(row)
    counts.update({f"inputs of more than {LONG_INPUT:,} characters": 1} if len(text) > LONG_INPUT else {})
    values = row.values if guess.kind in ("structured", "multiple_choice") else {**row.values, guess.target: _target(given)}
    return Item(row.where, values, text, split, tuple(v if isinstance(v, str) else json.dumps(v, sort_keys=True) for v in given))


def _target(answers: Sequence[Any]) -> Any:
    unique = list({json.dumps(answer): answer for answer in answers}.values())
    return unique[0] if len(unique) == 1 else unique


def _unite_labels(done: Cleaned, column: str) -> None:
    """Give labels that differ only in case or spaces the most frequent spelling: they could not be told apart when scored."""
    spellings = Counter(target for item in done.items for target in item.targets)
    best: dict[str, str] = {}
    for spelling, _ in spellings.most_common():
        best.setdefault(label_key(spelling), spelling)
    for item in done.items:
        united = tuple(dict.fromkeys(best[label_key(target)] for target in item.targets))
        if united != item.targets:
            done.counts["labels brought to their most frequent spelling"] += 1
            item.targets = united
            item.values = {**item.values, column: _target(united)}


def _drop_repeated(done: Cleaned) -> None:
    order = ["test", "validation", "train", ""]
    first: dict[str, list[Item]] = {}
    dropped: set[int] = set()
    for item in sorted(done.items, key=lambda item: order.index(item.split)):
        known = first.setdefault(f"{input_key(item.input)}\n{item.values.get('options')}", [])
        if any(set(item.targets) == set(other.targets) for other in known if other.split == item.split):
            done.counts["rows dropped, as exact duplicates"] += 1
        elif known and known[0].split != item.split:
            done.counts[f"rows of {item.split} dropped, as their input stands in {known[0].split}"] += 1
        else:
            done.contradictions += [f"{Path(known[0].where).name} and {Path(item.where).name}"] if known else []
            known.append(item)
            continue
        dropped.add(id(item))
    done.items = [item for item in done.items if id(item) not in dropped]


def numbered(items: Sequence[Item], column: str | None) -> Iterator[Item]:
    """The items with an ``id``, of that column or by their place; a repeated id gets its place behind it."""
    taken: set[str] = set()
    for number, item in enumerate(items, start=1):
        identity = str(item.values[column]) if column and item.values.get(column) not in (None, "") else f"row-{number}"
        identity = f"{identity}-{number}" if identity in taken else identity
        taken.add(identity)
        item.values = {"id": identity, **{key: value for key, value in item.values.items() if key not in ("id", column)}}
        yield item
