"""What a cell asked: ``prompts.jsonl.gz`` beside its items, one line per test item.

Items hold only a hash of their prompt. Prompts are much longer than answers and repeat one another (instruction, shots, passages), so they
are kept apart and compressed. Nothing but `bench show` reads them; a run without them is as good as one with them.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from bench.errors import BenchError
from bench.result.schema import Item
from bench.result.store import write_atomic

PROMPTS = "prompts.jsonl.gz"


class KeptPassage(BaseModel):
    """A passage that retrieval found."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    document: str
    """Id of the document that it is a part of."""
    text: str


class KeptPrompt(BaseModel):
    """What one test item was asked with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    """Of the item."""
    messages: list[dict[str, str]]
    """The conversation before the chat template, in its order: ``role`` and ``content``."""
    passages: list[KeptPassage] | None = None
    """Best first, also those that were left out to fit the window; None where the strategy retrieves nothing."""
    options: list[str] = []
    """Multiple choice: what the answer was chosen from."""

    @property
    def n_read(self) -> int:
        """How many of the passages, counted from the best, stand in the prompt."""
        asked = self.messages[-1]["content"] if self.messages else ""
        return sum(f"[{number}] {passage.text}" in asked for number, passage in enumerate(self.passages or (), start=1))


def prompt_hash(messages: Iterable[dict[str, str]]) -> str:
    """SHA-256 of a conversation, as items hold it."""
    return hashlib.sha256(json.dumps(list(messages), ensure_ascii=False).encode()).hexdigest()


def write_prompts(cell_folder: Path, prompts: Iterable[KeptPrompt]) -> None:
    """Write the prompts of a cell's test items; equal ones make equal files. Raises BenchError where the folder cannot be written."""
    lines = "".join(json.dumps(prompt.model_dump(mode="json"), ensure_ascii=False) + "\n" for prompt in prompts)
    write_atomic(cell_folder / PROMPTS, gzip.compress(lines.encode(), compresslevel=6, mtime=0))


def read_prompt(cell_folder: Path, item: Item) -> KeptPrompt | None:
    """The prompt of an item; None where the run has kept none, as runs of older versions have not, or no model was asked.

    Raises BenchError where the file is broken, or holds another prompt than the one that was answered.
    """
    path = cell_folder / PROMPTS
    if not path.exists():
        return None
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            found = next((p for line in lines if (p := KeptPrompt.model_validate_json(line)).id == item.id), None)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, ValidationError) as error:
        raise BenchError(f"{path}: is broken ({str(error).splitlines()[0]}); run the cell again") from error
    if found is None or prompt_hash(found.messages) != item.prompt_hash:
        raise BenchError(f'{path}: holds {"no prompt" if found is None else "another prompt"} of item "{item.id}"; run the cell again')
    return found
