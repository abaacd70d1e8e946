"""A generated task before it is written, and the text of its files."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

VALIDATION, TEST = 200, 400
"""Rows of the splits that strategies are compared on."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Draft:
    """A task before it is written: settings, rows of each split, corpus, and what the data card says about it."""

    config: dict[str, Any]
    card: str
    train: list[Row]
    validation: list[Row]
    test: list[Row]
    corpus: list[Row] | None = None

    def files(self, name: str, made_by: str) -> dict[str, str]:
        """The content of each file of the task `name`, by file name; `made_by`: command and source that the card names."""
        corpus = f", {len(self.corpus)} documents" if self.corpus else ""
        card = f"""# {name}

{self.config["description"]}
Part of the synthetic world of this package; no real person, firm or product is meant.

{self.card}

Sizes: {len(self.train)} train, {len(self.validation)} validation, {len(self.test)} test{corpus}.

Generated, this card included, by {made_by}; the same seed gives the
same bytes. Licence: Apache-2.0.
"""
        files = {
            "task.yaml": yaml.safe_dump(self.config, sort_keys=False, width=1000, allow_unicode=True),
            "train.jsonl": _jsonl(self.train), "validation.jsonl": _jsonl(self.validation), "test.jsonl": _jsonl(self.test),
            "README.md": card,
        }
        if self.corpus is not None:
            files["corpus.jsonl"] = _jsonl([{"id": row["id"], "text": row["text"]} for row in self.corpus])
        return files


def numbered(split: str, rows: list[Row]) -> list[Row]:
    """The rows with an id first."""
    return [{"id": f"{split}-{i:03d}", **row} for i, row in enumerate(rows, start=1)]


def shuffled(rng: random.Random, *splits: list[Row]) -> Iterator[list[Row]]:
    """The rows of train, validation and test, each split in an order drawn from `rng` and with an id first."""
    for name, rows in zip(("train", "validation", "test"), splits, strict=True):
        yield numbered(name, rng.sample(rows, len(rows)))


def _jsonl(rows: list[Row]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
