"""A task from the user's own data: read, guess the columns, clean, split, and write it with its data card."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.errors import BenchError
from bench.metric.text import is_unspaced
from bench.settings import shown
from bench.task.card import INSTRUCTIONS, LONG_ANSWER_METRICS, METRICS, UNLISTED, Facts, readme, task_yaml
from bench.task.checks import NEAR_DUPLICATE
from bench.task.clean import Cleaned, Item, clean, counted, numbered
from bench.task.documents import passages_of_column, read_documents
from bench.task.guess import Ask, Choices, Guess, guess
from bench.task.load import load_task
from bench.task.rows import SPLITS
from bench.task.source import Source, read_source
from bench.task.split import assign, group

_TYPES: Final = {str: "string", bool: "boolean", int: "integer", float: "number"}

MAX_LABEL_LIST: Final = 800
"""Characters of all labels up to which the instruction names them."""

LONG_ANSWER: Final = 64
"""Room in tokens from which no answer is expected to the letter."""


@dataclass
class _Made:
    """A task on its way to its folder."""

    settings: dict[str, Any]
    corpus: list[dict[str, Any]]
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    rule: str = ""
    """How the rows were split."""


def new_task_from(
    folder: Path | str,
    source: str,
    choices: Choices,
    shares: dict[str, float],
    seed: int,
    ask: Ask,
    say: Callable[[str], None],
    config: str | None = None,
    revision: str | None = None,
) -> list[str]:
    """Make a task of a file, a folder with a file for each split, or a hub id.

    Args:
        folder: Where to; it must not exist, or be empty.
        source: As `read_source` takes it.
        choices: What is not to be guessed.
        shares: Of train, validation and test, where the data has no splits (see `bench.task.split.shares`).
        seed: For the split.
        ask: Asked where nothing tells which column is the input or the target.
        say: Called with each line about what was guessed, before anything is written.
        config: As `read_source` takes it.
        revision: As `read_source` takes it.

    Returns:
        Lines on what was made, dropped and left to do.

    Raises:
        BenchError: The folder is not empty, the data or a choice is wrong, or the task would not load. Nothing is left behind.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BenchError(f"{folder}: is there and not empty, expected a new folder (nothing is overwritten)")
    data = read_source(source, config, revision)
    everything = [row.values for rows in data.rows.values() for row in rows]
    found = guess(everything, data.columns, choices, ask)
    for line in [*_parts(found), *_first_rows(found, everything)]:
        say(line)
    cleaned = clean(data.rows, found, choices.abstain)
    corpus, documents, left_out = _corpus(found, choices, cleaned.items)
    made = _Made(_settings(found, choices, cleaned.items, Path(source).name), corpus)
    notes = [*data.notes, *left_out, *_name_labels(made)]
    _split(made, data, found, cleaned.items, shares, seed, choices.cluster is not None)
    changes = [*counted(cleaned.counts), *_contradictions(cleaned), *notes]
    facts = Facts(
        source=_named(Path(source).name if Path(source).expanduser().exists() else source, config, revision),
        files=data.files,
        found=len(everything),
        sizes={split: len(rows) for split, rows in made.rows.items()},
        changes=changes,
        rule=made.rule,
        parts=_parts(found),
        unspaced=sum(is_unspaced(f"{item.input}{''.join(item.targets)}") for item in cleaned.items),
        passages=len(made.corpus),
        documents=documents,
    )
    _write(folder, made, readme(folder.name, made.settings, facts))
    sizes = ", ".join(f"{split} {size}" for split, size in facts.sizes.items())
    return [f"rows: {facts.found} read; {sizes}", *(f"note: {change}" for change in changes), f"splits: {made.rule}"]


def _named(source: str, config: str | None, revision: str | None) -> str:
    return " ".join([source, *([f"configuration {config}"] if config else []), *([f"revision {revision}"] if revision else [])])


def _parts(found: Guess) -> list[str]:
    """Which column plays which part, and why."""
    parts = {"kind": found.kind, "input": found.input, "target": found.target, "options": found.options, "id": found.id}
    parts |= {"context": found.context, "evidence": found.evidence, "cluster": found.cluster}
    return [f"{key}: {value or 'none'} ({found.reasons[key]})" for key, value in parts.items() if key in found.reasons]


def _first_rows(found: Guess, rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    for number, row in enumerate(rows[:3], start=1):
        asked = (column for column in row if re.search(rf"\b{column}\b", found.input))
        cells = ", ".join(f"{column} {shown(str(row[column]), 70)}" for column in asked)
        yield f"row {number}: {cells} -> {shown(str(row.get(found.target)), 50)}"


def _settings(found: Guess, choices: Choices, items: Sequence[Item], source: str) -> dict[str, Any]:
    """The keys of task.yaml, in their order there; splitting may take the cluster out again."""
    from bench.metric.score import check_metrics  # the metric room reads the task's schema: importing it above would go in a circle

    abstain = list(choices.abstain) or (["unknown"] if any(not item.targets for item in items) else [])
    instruction = INSTRUCTIONS[found.kind] + (f' If you cannot know, answer "{abstain[0]}".' if abstain else "")
    settings: dict[str, Any] = {"kind": found.kind, "instruction": instruction, "input": found.input, "target": found.target}
    settings |= {key: getattr(found, key) for key in ("options", "evidence", "cluster") if getattr(found, key)}
    if found.kind == "classification":
        settings["labels"] = sorted({target for item in items for target in item.targets} - set(abstain))
    if found.kind == "structured" and (fields := _fields(items)):
        settings["fields"] = fields
        settings["instruction"] = f"Return a JSON object with the keys {', '.join(fields)}."
    settings |= {"abstain": abstain} if abstain else {}
    long = found.kind == "qa" and _room(items) > LONG_ANSWER
    usual = LONG_ANSWER_METRICS if long else METRICS[found.kind]
    settings["metrics"] = list(choices.metrics or usual)
    check_metrics(settings["metrics"], found.kind, "--metrics")
    if found.kind != "multiple_choice":
        settings["max_new_tokens"] = _room(items)
    return settings | {"description": f"Made from {source}: {len(items)} rows."}


def _name_labels(made: _Made) -> list[str]:
    """Leave the labels out of the instruction where naming them would fill a short window; says so."""
    labels = made.settings.get("labels", ())
    length = len(", ".join(labels))
    if length <= MAX_LABEL_LIST:
        return []
    made.settings["instruction"] = UNLISTED.format(len(labels))
    return [
        f"the {len(labels)} labels ({length:,} characters) are not named in the instruction, which stands in every prompt; for a model "
        "with a long window write {{ labels }} there: without it zero-shot has to guess them"
    ]


def _room(items: Sequence[Item]) -> int:
    """Tokens for the answers: two bytes each, which is plenty for most tokenizers; a multiple of 8, for nearly all answers."""
    lengths = sorted(max((len(target.encode()) for target in item.targets), default=0) for item in items)
    return max(8, min(512, 8 * (lengths[int(0.99 * (len(lengths) - 1))] // 16 + 1)))


def _fields(items: Sequence[Item]) -> dict[str, str] | None:
    """The type of each key of the objects, if they have one each."""
    kinds: dict[str, set[str]] = {}
    for target in (target for item in items for target in item.targets):
        try:
            value = json.loads(target)
        except ValueError:
            return None
        for key, part in value.items() if isinstance(value, dict) else ():
            kinds.setdefault(key, set()).add(_TYPES.get(type(part), "none"))
    united = {key: "number" if found == {"integer", "number"} else "".join(found) for key, found in kinds.items()}
    return united if united and all(kind in _TYPES.values() for kind in united.values()) else None


def _corpus(found: Guess, choices: Choices, items: Sequence[Item]) -> tuple[list[dict[str, Any]], str, list[str]]:
    """The passages, where they come from and notes on them; rows get the passage that each is about where a column holds it."""
    if found.context is None:
        if choices.corpus is None:
            return [], "", []
        path = Path(choices.corpus).expanduser()
        if not path.exists():
            raise BenchError(f"--corpus: found no column, folder or file {choices.corpus}, expected one")
        passages, notes = read_documents(path)
        return passages, choices.corpus, notes
    if found.evidence:
        raise BenchError(f'--evidence: found --corpus with the column "{found.context}" beside it, whose passages are the evidence')
    ids = passages_of_column([str(item.values.get(found.context) or "") for item in items])
    for item in items:
        item.values["passage_id"] = ids.get(str(item.values.pop(found.context, None) or ""), [])
    found.evidence, found.reasons["evidence"] = "passage_id", f"the passages are those of {found.context}"
    if found.cluster is None:
        found.cluster, found.reasons["cluster"] = "passage_id", "questions about one passage are not independent"
    return [{"id": identity, "text": text} for text, identity in ids.items()], f"the column {found.context}", []


def _split(
    made: _Made, data: Source, found: Guess, items: Sequence[Item], shares: dict[str, float], seed: int, chosen: bool
) -> None:
    cluster = made.settings.get("cluster")
    names = [_cluster(item, cluster) for item in items]
    items = list(numbered(items, found.id))
    groups = group([item.input for item in items], names)
    labels = [item.targets[0] if found.kind == "classification" and item.targets else "" for item in items]
    kept = [split for split in SPLITS if split in data.rows]
    if not kept:
        for item, split in zip(items, assign(groups, labels, shares, seed), strict=True):
            item.split = split
        made.rule = (
            f"By bench, seed {seed}, {' / '.join(f'{share:.0%}' for share in shares.values())}: rows "
            f"{f'of one {cluster}, ' if cluster else ''}with the same input or nearly the same one (Jaccard similarity of 3-grams of "
            f"{NEAR_DUPLICATE} or more) are in one split{', labels are spread alike' if found.kind == 'classification' else ''}."
        )
        # A file is often sorted, and --limit takes the first rows.
        items.sort(key=lambda item: _shuffled(seed, item))
    else:
        made.rule = f"As the data has them: {', '.join(kept)}. {_complete(items, groups, labels, kept, seed)}".strip()
        _check_clusters(made, items, names, chosen)
    made.rows = {split: [item.values for item in items if item.split == split] for split in SPLITS}
    empty = [split for split, rows in made.rows.items() if not rows]
    if empty:
        raise BenchError(f"{data.name}: found no rows for {empty[0]} after cleaning, expected at least one")


def _shuffled(seed: int, item: Item) -> bytes:
    from hashlib import sha256

    return sha256(f"order/{seed}/{item.values['id']}".encode()).digest()


def _cluster(item: Item, column: str | None) -> str | None:
    value = item.values.get(column) if column else None
    return None if value in (None, "", []) else json.dumps(value, default=str)


def _complete(items: Sequence[Item], groups: Sequence[int], labels: Sequence[str], kept: Sequence[str], seed: int) -> str:
    """Make the splits that the data lacks; says how."""
    said = []
    if "test" not in kept:
        for item in items:
            item.split = "test" if item.split == "validation" else item.split
        said.append("There is no test split: the validation rows are test.")
    if "validation" not in kept or "test" not in kept:
        train = [number for number, item in enumerate(items) if item.split == "train"]
        split = assign([groups[n] for n in train], [labels[n] for n in train], {"train": 0.8, "validation": 0.2}, seed)
        for number, name in zip(train, split, strict=True):
            items[number].split = name
        said.append("A fifth of train is set apart as validation, whole groups of nearly the same inputs.")
    return " ".join(said)


def _check_clusters(made: _Made, items: Sequence[Item], names: Sequence[str | None], chosen: bool) -> None:
    """Given splits may cut clusters in two: an error where the user named the column, else it is no cluster column."""
    splits = {split: {name for item, name in zip(items, names, strict=True) if item.split == split and name} for split in SPLITS}
    shared = splits["test"] & (splits["train"] | splits["validation"])
    if not shared:
        return
    column = made.settings["cluster"]
    said = f'{len(shared)} values of the column "{column}" stand in test and in train or validation'
    if chosen:
        raise BenchError(f"--cluster: {said}, as {min(shared)}; expected none (leave the splits out of the data to have them made)")
    del made.settings["cluster"]
    made.rule += f" {said}, so it is not used as cluster, and intervals may be too narrow."


def _contradictions(cleaned: Cleaned) -> list[str]:
    pairs = cleaned.contradictions
    return [f"rows that ask what another one asks and answer differently, kept: {len(pairs)}, as {pairs[0]}"] if pairs else []


def _write(folder: Path, made: _Made, card: str) -> None:
    """Write everything beside the folder, load it, and only then move it there."""
    contents = {"task.yaml": task_yaml(made.settings), "README.md": card}
    contents |= {f"{split}.jsonl": _jsonl(rows) for split, rows in made.rows.items()}
    contents |= {"corpus.jsonl": _jsonl(made.corpus)} if made.corpus else {}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            for name, content in contents.items():
                (draft / name).write_text(content, encoding="utf-8", newline="\n")
            load_task(draft)
            draft.chmod(0o755)  # a temporary folder is closed to others
            if folder.exists():
                folder.rmdir()
            draft.rename(folder)
        except BenchError as error:
            raise BenchError(str(error).replace(str(draft), str(folder))) from None
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise BenchError(f"{folder}: cannot be written ({error.strerror or error}), expected a folder for the new task") from None


def _jsonl(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
