"""What a run's items hold, for reading: one item whole, the items of a cell, and items side by side over strategies."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.errors import BenchError, did_you_mean
from bench.result.prompts import KeptPrompt, read_prompt
from bench.result.schema import Item, Record
from bench.result.store import RunFolder
from bench.result.where import Row, is_right, names_of, parse_condition

NO_PROMPTS = "the run has kept no prompts: it was made by an older version; bench run --fresh keeps them"
STATES = ("right", "wrong", "abstained")


@dataclass(frozen=True)
class ReadPassage:
    """A passage or, where the run has kept no prompts, a document that the strategy was handed."""

    document: str
    text: str | None
    """None where the run has not kept it."""
    gold: bool
    in_prompt: bool | None
    """False where it was left out to fit the window; None where that is not known."""


@dataclass(frozen=True)
class ItemView:
    """All that a run knows of one item of one cell."""

    record: Record
    item: Item
    input: str | None
    """The rendered input; None where the run has not kept it, or has kept another one's."""
    prompt: KeptPrompt | None
    passages: tuple[ReadPassage, ...] | None
    """Best first; None where the strategy retrieves nothing."""
    note: str | None
    """Why there is no prompt, or why the model was not asked."""

    def as_dict(self) -> dict[str, Any]:
        """Of the cell task, strategy, seed and id; the item's own fields; ``input``, ``messages``, ``passages``, ``note``."""
        passages = None if self.passages is None else [vars(passage) for passage in self.passages]
        return _cell(self.record) | self.item.model_dump(mode="json") | {
            "input": self.input, "messages": self.prompt.messages if self.prompt else None,
            "options": (self.prompt.options or None) if self.prompt else None, "passages": passages, "note": self.note,
        }  # fmt: skip


def view_item(folder: RunFolder, record: Record, item_id: str) -> ItemView:
    """One item of a cell. Raises BenchError where there is none of that id, or the cell has no items."""
    items = {item.id: item for item in read_items(folder, record)}
    if item_id not in items:
        raise BenchError(f'{folder.path}: {record.task}/{record.strategy} has no item "{item_id}"; {_near(item_id, list(items))}')
    item = items[item_id]
    texts = folder.read_texts(record.task)
    prompt, note = _asked(folder, record, item)
    passages = _passages(item, prompt, texts.get("passages", {}))
    return ItemView(record, item, _input(item, texts.get("items", {})), prompt, passages, note)


def _asked(folder: RunFolder, record: Record, item: Item) -> tuple[KeptPrompt | None, str | None]:
    """The prompt of an item, and what has to be said of it."""
    strategy = record.config.get("strategy", {})
    if strategy.get("prompt", {}).get("constant"):
        return None, "this strategy asks no model"
    try:
        prompt = read_prompt(folder.cell_folder(record.task, record.strategy, record.seed), item)
    except BenchError as error:
        return None, str(error)  # the answer and its scores are worth showing all the same
    below = strategy.get("retrieval", {}).get("abstain_below")
    if prompt and below is not None and (item.retrieval_score is None or item.retrieval_score < below):
        return prompt, "the model was not asked: what was found is too unlike the question"
    return prompt, None if prompt else NO_PROMPTS


def read_items(folder: RunFolder, record: Record) -> list[Item]:
    """The items of a cell. Raises BenchError where the cell has failed or was skipped."""
    if record.status != "ok":
        raise BenchError(f"{record.task}/{record.strategy}/s{record.seed}: {record.status} ({record.error}): there are no items to show")
    return folder.read_items(record.task, record.strategy, record.seed)


def items_as_dicts(record: Record, items: Sequence[Item]) -> list[dict[str, Any]]:
    """Id, outcome, primary metric and score (None where undefined), gold and prediction of each."""
    metric = record.primary_metric
    return [
        {
            "id": i.id, "outcome": i.outcome, "metric": metric, "score": i.scores.get(metric or ""), "targets": i.targets,
            "prediction": i.prediction,
        }
        for i in items
    ]  # fmt: skip


@dataclass(frozen=True)
class Selection:
    """The items of a task for which a condition holds."""

    task: str
    seed: int
    where: str
    strategies: tuple[str, ...]
    """Those that the condition names; all where it names none."""
    rows: tuple[Row, ...]
    inputs: Mapping[str, str]
    """Item id -> rendered input, as far as the run has kept it."""
    n_items: int
    n_undecided: int
    """Items for which something that the condition asks for is undefined."""

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Strategy -> how many of the chosen items it has right, not right, and abstains on (which is right or not)."""
        found: dict[str, Counter[str]] = {}
        for row in self.rows:
            for strategy, item in row.items():
                found.setdefault(strategy, Counter()).update(_states(item))
        return {strategy: {state: counter[state] for state in STATES} for strategy, counter in found.items()}

    def input_of(self, item: Item) -> str | None:
        """The rendered input; None where the run has not kept it, or has kept another one's."""
        return _input(item, self.inputs)

    def as_dict(self, limit: int) -> dict[str, Any]:
        """Counts over all items found, and the first ``limit`` of them with the answers of all strategies."""
        items = []
        for row in self.rows[:limit]:
            first = next(iter(row.values()))
            answers = {
                name: {"outcome": item.outcome, "right": is_right(item), "prediction": item.prediction, "scores": item.scores}
                for name, item in row.items()
            }
            items.append({
                "id": first.id, "input": self.input_of(first), "targets": first.targets, "answerable": first.answerable,
                "slices": first.slices, "answers": answers,
            })  # fmt: skip
        return {
            "task": self.task, "seed": self.seed, "where": self.where, "n_items": self.n_items, "n_found": len(self.rows),
            "n_undecided": self.n_undecided, "counts": self.counts, "items": items,
        }  # fmt: skip


def select(folder: RunFolder, where: str, task: str | None = None, seed: int = 0) -> Selection:
    """The items of a task for which a condition (see `bench.result.where`) holds.

    Strategies that do not depend on the seed answer for every seed. Raises BenchError for a condition that cannot be read, a task or
    seed that the run does not have, and where several tasks leave it open which one is meant.
    """
    records = [record for record in folder.records() if record.status == "ok"]
    if not records:
        raise BenchError(f"{folder.path}: no cell with answers here; run bench run first")
    tasks = list(dict.fromkeys(record.task for record in records))
    if task is None and len(tasks) > 1:
        raise BenchError(f"--where: the run has several tasks; expected --task with one of: {', '.join(tasks)}")
    task = task or tasks[0]
    if task not in tasks:
        raise BenchError(f'--task: found "{task}"; {did_you_mean(task, tasks)}')
    of_task = [record for record in records if record.task == task]
    chosen = [record for record in of_task if record.seed == seed or record.deterministic]
    seeds = sorted({record.seed for record in of_task})
    if seed not in seeds:
        raise BenchError(f"--seed: found {seed}, expected one of: {', '.join(map(str, seeds))}")
    rows = _rows(folder, chosen)
    condition = parse_condition(where, names_of(rows))
    held = [condition.test(row) for row in rows]
    return Selection(
        task, seed, where, condition.strategies or tuple(record.strategy for record in chosen),
        tuple(row for row, holds in zip(rows, held, strict=True) if holds), folder.read_texts(task).get("items", {}), len(rows),
        held.count(None),
    )  # fmt: skip


def _rows(folder: RunFolder, records: Sequence[Record]) -> list[Row]:
    """The answers to each item by strategy, in the order of the items."""
    rows: dict[str, dict[str, Item]] = {}
    for record in records:
        for item in read_items(folder, record):
            row = rows.setdefault(item.id, {})
            other = next(iter(row.values()), item)
            if other.input_hash != item.input_hash:
                raise BenchError(
                    f'task {record.task}: item "{item.id}" of {record.strategy} is another question than in {next(iter(row))}: '
                    "the task changed between the cells; run them again"
                )
            row[record.strategy] = item
    return list(rows.values())


def _states(item: Item) -> list[str]:
    return ["right" if is_right(item) else "wrong", *(["abstained"] if item.outcome == "abstained" else [])]


def _passages(item: Item, prompt: KeptPrompt | None, documents: Mapping[str, str]) -> tuple[ReadPassage, ...] | None:
    if prompt and prompt.passages is not None:
        return tuple(
            ReadPassage(passage.document, passage.text, passage.document in item.gold_ids, place < prompt.n_read)
            for place, passage in enumerate(prompt.passages)
        )
    if item.retrieved_ids is None:
        return None
    return tuple(ReadPassage(document, documents.get(document), document in item.gold_ids, None) for document in item.retrieved_ids)


def _input(item: Item, inputs: Mapping[str, str]) -> str | None:
    text = inputs.get(item.id)
    return text if text is not None and hashlib.sha256(text.encode()).hexdigest() == item.input_hash else None


def _cell(record: Record) -> dict[str, Any]:
    return {"task": record.task, "strategy": record.strategy, "seed": record.seed, "cell_id": record.cell_id}


def _near(item_id: str, known: Sequence[str]) -> str:
    return did_you_mean(item_id, known) if len(known) <= 20 else f'expected one of {len(known)}, such as "{known[0]}"'
