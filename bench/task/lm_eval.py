"""Import a task of lm-evaluation-harness: its rows, rendered, and its prompt layout become a task folder of this harness.

The made task is asked and scored as there (docs/import-lm-eval.md says how far); what has no counterpart is refused by name.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from bench.errors import BenchError
from bench.settings import shown
from bench.task.lm_eval_config import LmEvalTask, read_lm_eval_task
from bench.task.lm_eval_data import read_docs
from bench.task.lm_eval_rows import Doc, render
from bench.task.lm_eval_splits import Splits
from bench.task.load import load_task


def import_lm_eval(
    path: Path,
    folder: Path,
    data: Path | None = None,
    chat: bool = False,
    filter_name: str | None = None,
    hold_out: float | None = None,
) -> list[str]:
    """Make the task folder `folder` of the task file `path`.

    Args:
        path: YAML of a task of lm-evaluation-harness.
        folder: The folder to make; its parent is made too.
        data: Where the task's data files lie, or the data set itself in place of its ``dataset_path``. Default: files are looked for in
            the working folder, then beside `path`.
        chat: Lay prompts out as ``lm_eval run --apply_chat_template``; else as without it, as plain text.
        filter_name: Which of the task's filters scores it. Default: the first.
        hold_out: Share of the scored rows to learn from instead, where the task has no others: the first rows with sampler ``first_n``,
            else drawn by a fixed rule.

    Returns:
        What was made and what to know of it, a line each.

    Raises:
        BenchError: Something in the task has no counterpart here, the data cannot be read, or `folder` exists.
    """
    if folder.exists():
        raise BenchError(f"{folder}: exists already, expected a folder to make")
    task, notes = read_lm_eval_task(path, filter_name)
    if chat and task.gen_prefix:
        raise BenchError(f"{path}: gen_prefix: has no counterpart with --chat (an answer of a chat begins with no given text)")
    try:
        splits = Splits.of(task, hold_out)
    except BenchError as error:
        raise BenchError(f"{path}: {error}") from None
    docs = read_docs(task, path, data, splits.names)
    columns = docs[splits.scored][0].keys() if docs[splits.scored] else ()
    rows = render(task, path, docs, columns)
    samples = render(task, path, {"fewshot_config.samples": task.fewshot_config.samples or []}, columns)["fewshot_config.samples"]
    try:
        made, of_splits = splits.made(rows, samples, task.num_fewshot)
    except BenchError as error:
        raise BenchError(f"{path}: {error}") from None
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
    return [f"{config['kind']}, {counts}, metrics {', '.join(task.metrics)}", *of_splits, *notes]


def _config(task: LmEvalTask, path: Path, made: dict[str, list[Doc]], chat: bool, first: bool) -> dict[str, Any]:
    """The keys of task.yaml; takes the spaces that all inputs of a choice end with off the rows of `made`."""
    chooses = task.output_type == "multiple_choice"
    head = task.description.rstrip()
    between = _between(task, path, [row for rows in made.values() for row in rows], chat)
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
        layout["clean"] = [step if isinstance(step, str) else step.model_dump() for step in task.clean]
        config["max_new_tokens"] = task.generation_kwargs.max_gen_toks
        if task.matching:
            config["matching"] = task.matching.model_dump()
    return config | {"metrics": task.metrics, "layout": layout}


def _between(task: LmEvalTask, path: Path, rows: Sequence[Doc], chat: bool) -> str:
    """What stands between an input and its answer; of a choice the spaces that all inputs end with go there."""
    between = task.target_delimiter
    if task.gen_prefix:  # there an answer is joined to it by a space where there is none, and what is generated by nothing
        joints = {"" if row["input"][-1].isspace() else " " for row in rows}
        if len(joints) > 1:
            raise BenchError(f"{path}: gen_prefix: found texts with a space at their end and without one, expected the same")
        joint = joints.pop()
        if task.output_type == "generate_until":
            return joint
        if task.num_fewshot and joint != between:
            expected = f"{shown(joint)}, by which worked examples join gen_prefix to an answer"
            raise BenchError(f"{path}: target_delimiter: found {shown(between)}, expected {expected}")
    if task.output_type == "multiple_choice" and not chat:
        between = _take_spaces(path, rows) + between
    return between


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
