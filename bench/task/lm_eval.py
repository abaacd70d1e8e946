"""Import a task of lm-evaluation-harness: its rows, rendered, and its prompt layout become a task folder of this harness.

The made task is asked and scored as there (docs/import-lm-eval.md says how far); what has no counterpart is refused by name.
"""

from __future__ import annotations

import ast
import json
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from jinja2 import StrictUndefined
from jinja2.sandbox import SandboxedEnvironment

from bench.errors import BenchError, did_you_mean
from bench.settings import shown
from bench.task.lm_eval_config import LmEvalTask, read_lm_eval_task
from bench.task.load import load_task
from bench.task.rows import json_type

HELD_OUT: Final = 0.2
"""Share of the training rows, from the end, that become validation where the task has no split for it."""
FILES: Final = ("json", "csv", "parquet")

Doc = dict[str, Any]


def import_lm_eval(path: Path, folder: Path, data: Path | None = None, chat: bool = False) -> list[str]:
    """Make the task folder `folder` of the task file `path`.

    Args:
        path: YAML of a task of lm-evaluation-harness.
        folder: The folder to make; its parent is made too.
        data: Where the task's data files lie, or the data set itself in place of its ``dataset_path``. Default: files are looked for in
            the working folder, then beside `path`.
        chat: Lay prompts out as ``lm_eval run --apply_chat_template``; else as without it, as plain text.

    Returns:
        What was made and what to know of it, a line each.

    Raises:
        BenchError: Something in the task has no counterpart here, the data cannot be read, or `folder` exists.
    """
    if folder.exists():
        raise BenchError(f"{folder}: exists already, expected a folder to make")
    task, unused = read_lm_eval_task(path)
    splits = _Splits.of(task, str(path))
    docs = _read(task, path, data, splits.names)
    rows = {name: _rows(task, path, name, docs) for name in splits.names}
    made, notes = splits.made(rows, task.num_fewshot, str(path))
    config = _config(task, path, made, chat, splits.first)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".import-") as scratch:
        work = Path(scratch) / folder.name
        work.mkdir()
        for split, of_split in made.items():
            lines = (json.dumps({"id": str(i), **row}, ensure_ascii=False) + "\n" for i, row in enumerate(of_split))
            (work / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
        (work / "task.yaml").write_text(_yaml(config), encoding="utf-8")
        if task.num_fewshot:
            strategy = {"description": f"{task.num_fewshot} worked examples, as the imported task has them.", "family": "prompting"}
            text = _yaml(strategy | {"prompt": {"shots": task.num_fewshot}})
            (work / f"lm-eval-{task.num_fewshot}-shot.yaml").write_text(text, encoding="utf-8")
        try:
            load_task(work)
        except BenchError as error:
            raise BenchError(str(error).replace(str(work), str(path))) from None
        work.rename(folder)
    counts = ", ".join(f"{len(of_split)} {split}" for split, of_split in made.items())
    if unused:
        notes.append(f"not used, since they change neither a prompt nor a score: {', '.join(unused)}")
    return [f"{config['kind']}, {counts}, metrics {', '.join(task.metrics)}", *notes]


@dataclass(frozen=True)
class _Splits:
    """Which splits of the data become which of the task."""

    scored: str
    train: list[str]
    validation: str | None
    first: bool
    """Whether the shots are the first rows of train, as they are there."""

    @classmethod
    def of(cls, task: LmEvalTask, where: str) -> _Splits:
        scored = task.test_split or task.validation_split or ""
        shots = task.fewshot_config.split or task.fewshot_split or task.training_split or task.validation_split
        train = list(dict.fromkeys(name for name in (shots, task.training_split) if name and name != scored))
        if not train:
            raise BenchError(f'{where}: training_split: is missing; expected rows to learn from that are not the scored split "{scored}"')
        validation = task.validation_split if task.validation_split not in (None, scored, *train) else None
        return cls(scored, train, validation, shots != scored and task.fewshot_config.sampler == "first_n")

    @property
    def names(self) -> list[str]:
        return [self.scored, *self.train, *([self.validation] if self.validation else [])]

    def made(self, rows: dict[str, list[Doc]], num_fewshot: int, where: str) -> tuple[dict[str, list[Doc]], list[str]]:
        """The rows of train, validation and test, and what to know of them."""
        train = [row for name in self.train for row in rows[name]]
        notes = [
            f"worked examples: the first of train, as sampler first_n takes them ({' + '.join(self.train)})"
            if self.first
            else "worked examples: drawn here once per seed, there anew for each item (sampler first_n would be equal); zero-shot is equal"
        ]
        if self.validation:
            return {"train": train, "validation": rows[self.validation], "test": rows[self.scored]}, notes
        n = min(max(1, int(HELD_OUT * len(train))), len(train) - max(1, num_fewshot))
        if n < 1:
            raise BenchError(f"{where}: validation_split: is missing, and the {len(train)} training rows are too few to hold some out")
        notes.append(f"validation: the last {n} of {len(train)} training rows")
        return {"train": train[:-n], "validation": train[-n:], "test": rows[self.scored]}, notes


def _config(task: LmEvalTask, path: Path, made: dict[str, list[Doc]], chat: bool, first: bool) -> dict[str, Any]:
    """The keys of task.yaml; takes the spaces that all inputs of a choice end with off the rows of `made`."""
    chooses = task.output_type == "multiple_choice"
    head = task.description.rstrip()
    between = task.target_delimiter
    if chooses and not chat:
        between = _take_spaces(path, [row for rows in made.values() for row in rows]) + between
    layout: dict[str, Any] = {
        "chat": chat, "after_instruction": task.description[len(head) :], "after_input": between, "after_answer": task.fewshot_delimiter,
        "shots": "first" if first else "drawn",
    }  # fmt: skip
    config: dict[str, Any] = {
        "description": f"Imported from the lm-evaluation-harness task {path.name}.", "kind": "multiple_choice" if chooses else "qa",
        "instruction": head, "input": "{{ input }}", "target": "target",
    }  # fmt: skip
    if chooses:
        config["options"] = "options"
    else:
        layout["stop"] = task.stop
        layout["clean"] = [step if step == "strip" else step.model_dump() for step in task.clean]
        config["max_new_tokens"] = task.generation_kwargs.max_gen_toks
        if task.matching:
            config["matching"] = task.matching.model_dump()
    return config | {"metrics": task.metrics, "layout": layout}


def _take_spaces(path: Path, rows: Sequence[Doc]) -> str:
    """Move the spaces at the end of the inputs behind them: there a choice is scored with the spaces before it."""
    ends: set[str] = {row["input"][len(row["input"].rstrip()) :] for row in rows}
    if len(ends) > 1:
        raise BenchError(f"{path}: doc_to_text: found inputs that end with different spaces ({shown(sorted(ends))}), expected the same")
    for row in rows:
        row["input"] = row["input"].rstrip()
    return ends.pop()


class _Dumper(yaml.SafeDumper):
    """YAML in which spaces and line breaks at the ends of a text can be seen."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return yaml.ScalarNode("tag:yaml.org,2002:str", data, style='"' if data != data.strip() else None)


_Dumper.add_representer(str, _Dumper.represent_str)


def _yaml(keys: dict[str, Any]) -> str:
    return str(yaml.dump(keys, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=140))


# ---------------------------------------------------------------------------------------------- data


def _read(task: LmEvalTask, path: Path, data: Path | None, names: Iterable[str]) -> dict[str, list[Doc]]:
    """The rows of the splits that are needed, as lm-evaluation-harness reads them: by ``datasets``."""
    from datasets import DatasetDict, disable_progress_bars, load_dataset  # type: ignore[import-untyped]

    roots = [data] if data else [Path(), path.parent]
    source = task.dataset_path
    given: dict[str, Any] = task.dataset_kwargs.model_dump(exclude_none=True, exclude={"trust_remote_code"})
    if "data_files" in given:
        given["data_files"] = _found(given["data_files"], roots, str(path))
    elif source not in FILES:
        source = str(data or next((root / source for root in roots if (root / source).is_dir()), source))
    elif not data:
        raise BenchError(f"{path}: dataset_kwargs.data_files: is missing; expected it with dataset_path {source}, or --data FOLDER")
    else:
        given["data_dir"] = str(data)
    disable_progress_bars()
    try:
        with tempfile.TemporaryDirectory() as cache:
            loaded = load_dataset(source, task.dataset_name, cache_dir=cache, **given)
            if not isinstance(loaded, DatasetDict):
                raise BenchError(f"{path}: dataset_path: found no splits in {source}")
            for name in names:
                if name not in loaded:
                    raise BenchError(f"{path}: the data have no split {shown(name)}; {did_you_mean(name, map(str, loaded))}")
            return {name: [dict(row) for row in loaded[name]] for name in names}
    except BenchError:
        raise
    except Exception as error:  # the library raises whatever its transport, cache and parsers raise
        reason = (str(error).splitlines() or [""])[0]
        raise BenchError(f"{path}: dataset_path: {source} cannot be read ({type(error).__name__}: {shown(reason, 200)})") from None


def _found(files: Any, roots: Sequence[Path], where: str) -> Any:
    """Data files with relative paths looked for in the folders, in their order."""
    if isinstance(files, dict):
        return {split: _found(each, roots, where) for split, each in files.items()}
    if isinstance(files, list):
        return [_found(each, roots, where) for each in files]
    if "://" in files or Path(files).is_absolute():
        return files
    for root in roots:
        if any(root.glob(files)):
            return str((root / files).absolute())
    raise BenchError(f"{where}: dataset_kwargs.data_files: found no {shown(files)} in {' or '.join(str(r.absolute()) for r in roots)}")


# ---------------------------------------------------------------------------------------------- rows


def _regex_replace(text: str, pattern: str, repl: str, count: int = 0) -> str:
    return re.sub(pattern, repl, text, count=count)


_JINJA = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
_JINJA.filters["regex_replace"] = _regex_replace  # the one filter that lm-evaluation-harness adds


def _rows(task: LmEvalTask, path: Path, split: str, docs: dict[str, list[Doc]]) -> list[Doc]:
    """A split's rows with the columns id, input, target and, of a choice, options."""
    made = []
    for number, doc in enumerate(docs[split]):
        try:
            made.append(_row(task, doc))
        except BenchError as error:
            raise BenchError(f"{path}: {split}, row {number}: {error}") from None
    return made


def _row(task: LmEvalTask, doc: Doc) -> Doc:
    text = _value(task.doc_to_text, doc, "doc_to_text")
    if not isinstance(text, str) or (text.isdigit() and task.doc_to_choice is not None):
        raise BenchError(f"doc_to_text: found {shown(text)}, expected a text (one input per choice has no counterpart here)")
    target = task.doc_to_target if not isinstance(task.doc_to_target, str) else _value(task.doc_to_target, doc, "doc_to_target")
    if task.doc_to_choice is None:
        if isinstance(target, str) and target[:1] == "[" and target[-1:] == "]" and task.doc_to_target not in doc:
            target = _literal(target, target)
        return {"input": text, "target": _texts(target)}
    options = _choices(task.doc_to_choice, doc)
    if isinstance(target, str) and task.doc_to_target not in doc and (target.isdigit() or target[:1] == "["):
        target = _literal(target, target)
    if task.output_type == "multiple_choice":
        for option in options:
            if option != option.strip():
                raise BenchError(f"doc_to_choice: found {shown(option)}, expected no space at its ends (write it in target_delimiter)")
        return {"input": text, "target": target, "options": options}
    if not isinstance(target, int) or not 0 <= target < len(options):
        raise BenchError(f"doc_to_target: found {shown(target)}, expected the index of one of {len(options)} choices")
    return {"input": text, "target": _texts(options[target])}


def _value(template: str, doc: Doc, key: str) -> Any:
    """A column's value, or what the Jinja template makes of the row."""
    if template in doc:
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


def _choices(choice: str | list[str] | dict[str, str], doc: Doc) -> list[str]:
    if isinstance(choice, dict):
        return list(choice.values())
    found = choice if isinstance(choice, list) else _value(choice, doc, "doc_to_choice")
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
