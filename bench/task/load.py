"""Load a task: ``task.yaml``, its rows and its corpus become one checked `Task`; the same files always give the same one."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import jinja2
import jinja2.meta
from jinja2.sandbox import SandboxedEnvironment

from bench.errors import BenchError, did_you_mean
from bench.metric.text import is_abstention
from bench.settings import shown
from bench.task.checks import check_label_set, check_leakage, check_option_places, input_key, read_config
from bench.task.rows import FORMATS, SPLITS, Row, find_file, json_type, parse_json, read_rows, read_text
from bench.task.schema import Example, Passage, Task, TaskConfig

VALIDATION_SHARE: Final = 0.2
NOT_IN_FINGERPRINT: Final = frozenset({"description", "data", "data_config", "revision"})
"""Settings that say where the rows come from, or nothing to a model: the rows themselves are in the fingerprint."""


def load_task(folder: Path | str, *, data: str | None = None, limit: int | None = None, train_examples: int | None = None) -> Task:
    """Load and check a task.

    Args:
        folder: The folder with ``task.yaml``.
        data: Folder (relative to the working directory) or hub id of the rows, in place of the ``data`` of task.yaml.
        limit: Keep the first so many test items. All are checked.
        train_examples: Keep so many training examples, drawn by a fixed rule; a smaller number is a subset of a larger one.

    Returns:
        The task, with what is doubtful in ``warnings``.

    Raises:
        BenchError: A file is missing or malformed, a setting or row is wrong, or the splits leak into each other.
    """
    try:
        return _load(Path(folder), data, limit, train_examples)
    except BenchError as error:  # an id or column name may hold a line break; a message may not
        if str(error).isprintable():
            raise
        raise BenchError("".join(c if c.isprintable() else " " for c in str(error))) from error.__cause__


def _load(folder: Path, data: str | None, limit: int | None, train_examples: int | None) -> Task:
    for name, number in (("limit", limit), ("train_examples", train_examples)):
        if number is not None and number < 1:
            raise BenchError(f"{name}: found {number}, expected at least 1")
    if not folder.is_dir():
        raise BenchError(f"{folder}: no such folder, expected a task's folder with task.yaml")
    if not (folder / "task.yaml").is_file():
        raise BenchError(f"{folder}: found no task.yaml (bench new-task writes one)")
    config = read_config(folder / "task.yaml")
    rows, source, warnings = _read_splits(folder, config, data)
    corpus = _corpus(folder, source)
    splits = _examples(folder, config, rows, corpus)
    labels = _labels(folder, source, config, splits)
    instruction = _instruction(folder, config, labels)
    if "validation" not in splits:
        splits["train"], splits["validation"] = _carve(folder, config, splits["train"])
        warnings.append(
            f"validation: no file, so {len(splits['validation'])} of {len(rows['train'])} training rows were set apart "
            f"(whole {'clusters' if config.cluster else 'inputs'}, by a fixed rule)"
        )
    if labels and (unseen := sorted(set(labels) - {target for example in splits["train"] for target in example.targets})):
        warnings.append(f"labels: {len(unseen)} of {len(labels)} have no training example, as {shown(unseen[0])}")
    warnings += check_leakage(config, splits, corpus, str(folder))
    warnings += check_option_places(splits["test"])
    train, test = splits["train"], splits["test"][:limit]
    if train_examples is not None:
        if train_examples > len(train):
            warnings.append(f"train: {train_examples} examples were asked for, there are {len(train)}")
        shown_first = config.layout is not None and config.layout.shots == "first"
        order = range(len(train)) if shown_first else sorted(range(len(train)), key=lambda i: _rank("train_examples", train[i].id))
        kept = set(order[:train_examples])
        train = [example for i, example in enumerate(train) if i in kept]
    task = Task(
        folder.resolve().name, folder, config, tuple(train), tuple(splits["validation"]), tuple(test), tuple(corpus), labels, instruction,
        warnings=tuple(warnings),
    )  # fmt: skip
    return replace(task, fingerprint=_fingerprint(task))


def _rank(purpose: str, key: str) -> bytes:
    """A fixed order that is arbitrary with regard to the data."""
    return hashlib.sha256(f"{purpose}/{key}".encode()).digest()


def _fingerprint(task: Task) -> str:
    chooses = task.config.kind == "multiple_choice"  # the other kinds keep the fingerprints of before there were options
    later = {name for name in ("layout", "matching") if getattr(task.config, name) is None}  # as before there were these keys
    content = {
        "config": task.config.model_dump(mode="json", exclude={*NOT_IN_FINGERPRINT, *later, *([] if chooses else ["options"])}),
        "labels": task.labels,
        "corpus": [vars(passage) for passage in task.corpus],
        **{split: [_content(example) for example in getattr(task, split)] for split in SPLITS},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _content(example: Example) -> dict[str, Any]:
    return {name: value for name, value in vars(example).items() if name != "options" or value}


# ---------------------------------------------------------------------------------------------- rows


def _read_splits(folder: Path, config: TaskConfig, data: str | None) -> tuple[dict[str, list[Row]], Path | None, list[str]]:
    """Rows by split, the folder that they came from (None: the hub) and warnings."""
    named = config.data if data is None else data
    where = f"{folder / 'task.yaml'}: data" if data is None else "data"
    source = (Path() if data is not None else folder) / Path(named or ".").expanduser()
    if source.is_dir():
        return _read_folder(source, config), source, []
    if named is not None and re.fullmatch(r"(?!\.)[\w.-]+/(?!\.)[\w.-]+", named):
        warnings = [] if config.revision else [f'data: "{named}" without a revision, so its rows may change (revision: in task.yaml)']
        return _read_hub(named, config, f"{where}: there is no folder {source}"), None, warnings
    raise BenchError(f"{where}: found no folder {source}, expected one, or a hub id (org/name)")


def _read_folder(source: Path, config: TaskConfig) -> dict[str, list[Row]]:
    lists = [column for column in (config.target, config.evidence, config.options) if column]
    rows = {}
    for split in SPLITS:
        path = find_file(source, split)
        if path is not None:
            rows[split] = read_rows(path, lists)
        elif split != "validation":
            there = sorted(p.name for p in source.iterdir() if p.suffix in FORMATS)
            raise BenchError(
                f"{source}: found no {split} file, expected {split}{', '.join(FORMATS[:-1])} or {FORMATS[-1]}; "
                f"{'there are: ' + ', '.join(there) if there else 'there is no data file'}"
            )
    return rows


def _read_hub(name: str, config: TaskConfig, where: str) -> dict[str, list[Row]]:
    from datasets import ClassLabel, DatasetDict, load_dataset  # type: ignore[import-untyped]

    try:
        loaded = load_dataset(name, config.data_config, revision=config.revision)
    except Exception as error:  # the hub client raises whatever its transport, cache and parsers raise
        reason = (str(error).splitlines() or [""])[0]
        raise BenchError(f"{where}, and the hub gives no such data set ({type(error).__name__}: {reason[:200]})") from error
    rows: dict[str, list[Row]] = {}
    for split in SPLITS:
        if not isinstance(loaded, DatasetDict) or split not in loaded:
            if split != "validation":
                raise BenchError(f'data: "{name}" has no split {split}; there are: {", ".join(map(str, loaded))}')
            continue
        table = loaded[split]
        index = config.target if config.kind == "multiple_choice" else None  # there a class number is the place of the right option
        names = {c: feature.int2str for c, feature in table.features.items() if isinstance(feature, ClassLabel) and c != index}
        rows[split] = []
        for number, values in enumerate(table, start=1):
            classes = {c: text(values[c]) for c, text in names.items() if isinstance(values[c], int) and values[c] >= 0}
            rows[split].append(Row(f"{name}/{split}, row {number}", number, {**values, **classes}))
        if not rows[split]:
            raise BenchError(f"{name}/{split}: found no rows, expected at least one")
    return rows


def _beside(folder: Path, source: Path | None, find: Callable[[Path], Path | None]) -> Path | None:
    """A file of the rows' folder, or else of the task's."""
    return (find(source) if source is not None else None) or find(folder)


def _corpus(folder: Path, source: Path | None) -> list[Passage]:
    path = _beside(folder, source, lambda place: find_file(place, "corpus"))
    if path is None:
        return []
    passages: dict[str, Passage] = {}
    for row in read_rows(path):
        identity = _identity(row, "corpus", passages)
        parts = [_column(row, "text", "corpus"), row.values.get("title")]
        for name, part in zip(("text", "title"), parts, strict=True):
            if not isinstance(part, str) and (name == "text" or part is not None):
                raise BenchError(f'{row.where}: column "{name}": found {json_type(part)}, expected a string')
        text, title = parts[0].strip(), (parts[1] or "").strip()
        if not text:
            raise BenchError(f'{row.where}: column "text" is empty')
        passages[identity] = Passage(identity, f"{title}\n{text}" if title else text)
    return list(passages.values())


def _identity(row: Row, split: str, known: Mapping[str, object]) -> str:
    value = row.values.get("id")
    identity = f"{split}-{row.number}" if value is None else _scalar(value, row, "id")
    if identity in known:
        raise BenchError(f'{row.where}: the id "{identity}" stands twice in {split}; expected each once')
    return identity


# ---------------------------------------------------------------------------------------------- examples


def _examples(folder: Path, config: TaskConfig, rows: Mapping[str, Sequence[Row]], corpus: Sequence[Passage]) -> dict[str, list[Example]]:
    if config.evidence and not corpus:
        raise BenchError(f"{folder}: evidence names passages, but there is no corpus file, expected corpus.jsonl with id and text")
    template = InputTemplate(config.input, f"{folder / 'task.yaml'}: input")
    passages = {passage.id for passage in corpus}
    splits: dict[str, list[Example]] = {}
    for split, split_rows in rows.items():
        examples: dict[str, Example] = {}
        for row in split_rows:
            identity = _identity(row, split, examples)
            options = _options(row, config.options) if config.options else ()
            targets, answerable = (_right_options(row, config, options), True) if options else _targets(row, config)
            examples[identity] = Example(
                identity,
                template.render(row),
                targets,
                answerable,
                _cluster(row, config.cluster) or f"{split}/{identity}" if config.cluster else identity,
                _evidence(row, config.evidence, passages) if config.evidence else (),
                {name: _slice(row, name) for name in config.slices},
                _rationale(row, config.rationale, split) if config.rationale else None,
                options,
            )
        splits[split] = list(examples.values())
    return splits


class InputTemplate:
    """The input template. Sandboxed: a task from someone else cannot run code."""

    def __init__(self, source: str, where: str) -> None:
        environment = SandboxedEnvironment(undefined=jinja2.StrictUndefined, finalize=_printable)
        try:
            self.template = environment.from_string(source)
            self.names = sorted(jinja2.meta.find_undeclared_variables(environment.parse(source)))
        except (jinja2.TemplateError, RecursionError) as error:
            line = f", line {error.lineno} of the template" if isinstance(error, jinja2.TemplateSyntaxError) else ""
            raise BenchError(f"{where}: found no valid Jinja template ({error}{line})") from None

    def render(self, row: Row) -> str:
        try:
            text = self.template.render(row.values)
        except Exception as error:  # a template can fail in any way: division, a missing method, the sandbox
            for name in self.names if isinstance(error, jinja2.UndefinedError) else ():
                _column(row, name, "input")
                if row.values[name] is None:
                    hint = f'or write {{{{ {name} or "" }}}} in input'
                    raise BenchError(f'{row.where}: column "{name}" is null, expected text ({hint})') from None
            raise BenchError(f"{row.where}: input: the template fails ({type(error).__name__}: {shown(str(error), 120)})") from None
        if not text.strip():
            raise BenchError(f"{row.where}: the input is empty (columns in it: {', '.join(self.names) or 'none'})")
        return text


def _printable(value: object) -> object:
    if value is None:
        raise jinja2.UndefinedError("null")
    return value


def _column(row: Row, name: str, key: str) -> Any:
    if name not in row.values:
        hint = did_you_mean(name, row.values)
        there = "" if hint.startswith("expected") else f" The columns are: {', '.join(sorted(row.values))}"
        raise BenchError(f'{row.where}: {key}: found no column "{name}"; {hint}{there}')
    return row.values[name]


def _scalar(value: object, row: Row, name: str) -> str:
    """A string, number or boolean as text; true and false as in JSON."""
    if isinstance(value, str):
        if not value.strip():
            raise BenchError(f'{row.where}: column "{name}" is empty')
        return value.strip()
    if isinstance(value, float) and not math.isfinite(value):
        raise BenchError(f'{row.where}: column "{name}": found {value}, expected a finite number')
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    raise BenchError(f'{row.where}: column "{name}": found {json_type(value)}, expected a string, number or boolean')


def _cluster(row: Row, name: str) -> str | None:
    value = _column(row, name, "cluster")
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    return None if value in (None, "", []) else _scalar(value, row, name)


def _slice(row: Row, name: str) -> str:
    value = _column(row, name, "slices")
    return "none" if value in (None, "") else _scalar(value, row, name)


def _evidence(row: Row, name: str, passages: set[str]) -> tuple[str, ...]:
    value = _column(row, name, "evidence")
    ids = [] if value in (None, "") else value if isinstance(value, list) else [value]
    found = tuple(_scalar(identity, row, name) for identity in ids)
    for identity in found:
        if identity not in passages:
            hint = did_you_mean(identity, passages)
            near = f"; {hint}" if hint.startswith("did") else ""
            raise BenchError(f'{row.where}: column "{name}": the corpus has no passage "{identity}"{near}')
    return found


def _rationale(row: Row, name: str, split: str) -> str | None:
    """Worked examples and tuning show it, so each training row needs one; validation and test rows are only asked."""
    value = _column(row, name, "rationale") if split == "train" else row.values.get(name)
    value = value.strip() if isinstance(value, str) else value
    if split != "train" and value in (None, ""):
        return None
    if not isinstance(value, str) or not value:
        found = "an empty text" if value == "" else json_type(value)
        raise BenchError(f'{row.where}: column "{name}": found {found}, expected the reasoning that leads to the answer')
    return value


def _targets(row: Row, config: TaskConfig) -> tuple[tuple[str, ...], bool]:
    """The right answers, never empty, and whether there is one."""
    value = _column(row, config.target, "target")
    if value in (None, ""):
        found = "null" if value is None else "an empty text"
        raise BenchError(f'{row.where}: column "{config.target}": found {found}, expected an answer (an empty list where there is none)')
    targets = tuple(dict.fromkeys(_target(v, row, config) for v in (value if isinstance(value, list) else [value])))
    if any(not is_abstention(target, config.abstain) for target in targets):
        return targets, True
    if not config.abstain:
        raise BenchError(
            f'{row.where}: column "{config.target}": found an empty list, expected an answer, or in task.yaml '
            'what to say where there is none (abstain: ["unknown"])'
        )
    return (config.abstain[0],), False


def _options(row: Row, name: str) -> tuple[str, ...]:
    value, place = _column(row, name, "options"), f'{row.where}: column "{name}"'
    if not isinstance(value, list):
        raise BenchError(f"{place}: found {json_type(value)}, expected a list of at least two options (in a CSV file a JSON list)")
    for option in value:
        if not isinstance(option, str) or not option.strip():
            found = "an empty text" if isinstance(option, str) else json_type(option)
            raise BenchError(f"{place}: found {found} among the options, expected strings")
    options = tuple(option.strip() for option in value)
    if len(options) < 2:
        raise BenchError(f"{place}: found {len(options)} option{'s' * (len(options) != 1)}, expected at least two")
    if len(set(options)) < len(options):
        raise BenchError(f"{place}: found the option {shown(max(options, key=options.count))} twice, expected each once")
    return options


def _right_options(row: Row, config: TaskConfig, options: tuple[str, ...]) -> tuple[str, ...]:
    value, place = _column(row, config.target, "target"), f'{row.where}: column "{config.target}"'
    right = tuple(dict.fromkeys(_option(v, options, place) for v in (value if isinstance(value, list) else [value])))
    if not right or len(right) == len(options):
        found = f"all {len(right)} options" if right else "an empty list"
        raise BenchError(f"{place}: found {found}, expected at least one option, and not all of them")
    return right


def _option(value: object, options: tuple[str, ...], place: str) -> str:
    """The option that a target names by its text or its index."""
    if isinstance(value, str):
        if value.strip() in options:
            return value.strip()
        # A CSV file has no numbers. Where options are digits too, reading some as texts and others as indices would be a silent mistake.
        if value.strip() in map(str, range(len(options))) and not any(option.isdecimal() for option in options):
            value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(options):
        return options[value]
    found = shown(value) if isinstance(value, str | int | float) else json_type(value)
    near = did_you_mean(value, options) if isinstance(value, str) and len(options) <= 10 else ""
    hint = f"; {near}" if near.startswith("did") else ""
    raise BenchError(f"{place}: found {found}, expected one of the item's {len(options)} options, or its index from 0{hint}")


def _target(value: object, row: Row, config: TaskConfig) -> str:
    if config.kind != "structured":
        return _scalar(value, row, config.target)
    if isinstance(value, str) and is_abstention(value, config.abstain):
        return value.strip()
    place = f'{row.where}: column "{config.target}"'
    found = parse_json(value, lambda *_: place) if isinstance(value, str) else value
    if not isinstance(found, dict):
        raise BenchError(f"{place}: found {json_type(found)}, expected a JSON object (kind structured)")
    for key, item in found.items() if config.fields else ():
        if key not in (config.fields or {}):
            raise BenchError(f'{place}: unknown field "{key}"; {did_you_mean(key, config.fields or {})}')
        if not _has_type(item, (config.fields or {})[key]):
            raise BenchError(f'{place}: field "{key}": found {shown(item)}, expected {(config.fields or {})[key]}')
    order = [key for key in config.fields if key in found] if config.fields else sorted(found)
    try:
        return json.dumps({key: found[key] for key in order}, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):
        raise BenchError(f"{place}: found {shown(found)}, expected what JSON can hold") from None


def _has_type(value: object, declared: str) -> bool:
    if isinstance(value, bool):  # in Python a boolean is an integer too
        return declared == "boolean"
    types: dict[str, type | tuple[type, ...]] = {"string": str, "integer": int, "number": (int, float), "boolean": bool}
    return isinstance(value, types[declared])


# ---------------------------------------------------------------------------------------------- labels, instruction, validation


class _Labels(tuple[str, ...]):
    """Printed joined by commas; a template can loop over it too."""

    __slots__ = ()

    def __str__(self) -> str:
        return ", ".join(self)


def _labels(folder: Path, source: Path | None, config: TaskConfig, splits: Mapping[str, Sequence[Example]]) -> tuple[str, ...]:
    """Those of task.yaml, or else of labels.json, or else of the training examples (sorted)."""
    if config.kind != "classification":
        return ()
    path = _beside(folder, source, lambda place: p if (p := place / "labels.json").is_file() else None)
    if config.labels is not None:
        labels, origin = config.labels, "labels in task.yaml"
    elif path is not None:
        labels, origin = parse_json(read_text(path), lambda line, column: f"{path}:{line}:{column}"), path.name
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise BenchError(f"{path}: found {shown(labels)}, expected a list of strings")
        check_label_set(labels, str(path))
    else:
        labels, origin = sorted({target for example in splits["train"] if example.answerable for target in example.targets}), "train"
        check_label_set(labels, f"{source or folder}: train")
    labels = [label.strip() for label in labels]
    known = set(labels)
    for split, examples in splits.items():
        for example in examples:
            unknown = [target for target in example.targets if target not in known] if example.answerable else []
            if unknown:
                hint = did_you_mean(unknown[0], labels)
                hint = hint if hint.startswith("did") or len(labels) <= 10 else f"expected one of the {len(labels)} labels"
                hint += " (or list them all under labels in task.yaml)" if origin == "train" else ""
                at = f"{source or folder}: {split}: item {shown(example.id)}"
                raise BenchError(f"{at} has the label {shown(unknown[0])}, which {origin} does not have; {hint}")
    return tuple(labels)


def _instruction(folder: Path, config: TaskConfig, labels: tuple[str, ...]) -> str:
    if not config.instruction:
        return ""
    where = f"{folder / 'task.yaml'}: instruction"
    template = InputTemplate(config.instruction, where)
    for name in template.names:
        if name != "labels":
            raise BenchError(f'{where}: found "{{{{ {name} }}}}", expected no column here (those go into input), only {{{{ labels }}}}')
        if not labels:
            raise BenchError(f"{where}: found {{{{ labels }}}}, which only a task of kind classification has")
    return template.render(Row(where, 0, {"labels": _Labels(labels)}))


def _carve(folder: Path, config: TaskConfig, train: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Set whole clusters apart, in the order of their hashes, as many as fit into a fifth of the rows; at least one."""
    groups: dict[str, int] = {}
    keys = [example.cluster if config.cluster else input_key(example.input) for example in train]
    for key in keys:
        groups[key] = groups.get(key, 0) + 1
    if len(groups) < 2:
        what = "cluster" if config.cluster else "input"
        raise BenchError(f"{folder}: found no validation file, expected one (all of train is one {what}, so none can be set apart)")
    order = sorted(groups, key=lambda key: _rank("validation", key))
    chosen: set[str] = set()
    room = VALIDATION_SHARE * len(train)
    for key in order:
        if groups[key] <= room:
            chosen.add(key)
            room -= groups[key]
    chosen = chosen or {min(order, key=lambda key: groups[key])}
    split = list(zip(keys, train, strict=True))
    return [example for key, example in split if key not in chosen], [example for key, example in split if key in chosen]
