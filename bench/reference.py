"""The reference pages of the docs, made from the code: every command with its options, every key of the files that a user writes.

``python -m bench.reference docs/reference`` writes the committed ones; a test holds them to the code.
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
import textwrap
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from bench.result.store import write_atomic

MADE = "<!-- Made by python -m bench.reference docs/reference: change the code, not this page. -->\n\n"


def commands_page() -> str:
    """Every command with its arguments and options, in the order of ``bench --help``, as typer's own tool writes it."""
    from typer.cli import get_docs_for_click

    from bench.cli import app

    group: Any = typer.main.get_command(app)
    with group.make_context("bench", [], resilient_parsing=True) as context:
        return MADE + get_docs_for_click(obj=group, ctx=context, name="bench", title="Commands").rstrip() + "\n"


def files_page() -> str:
    """Every key of the files that a user writes, with its type, its default and what it means."""
    from bench.cost.assumptions import Assumptions
    from bench.regression.model import Gates, MetricGate
    from bench.report.constraints import Constraints
    from bench.strategy.spec import PromptChoice, RetrievalChoice, Strategy, TuningChoice
    from bench.suite import Budget, Suite
    from bench.task.schema import TaskConfig

    parts: list[tuple[str, str, list[tuple[str, type[BaseModel]]]]] = [
        ("A task: `task.yaml`", "[How to write one](../add-a-task.md).", [("", TaskConfig)]),
        ("A strategy", "[How to write one](../add-a-strategy.md).",
         [("", Strategy), ("prompt", PromptChoice), ("retrieval", RetrievalChoice), ("tuning", TuningChoice)]),
        ("A suite", "What `bench run SUITE` runs.", [("", Suite), ("budget", Budget)]),
        ("Constraints of a decision", "For `bench report --constraints` ([the decision report](../report.md)).", [("", Constraints)]),
        ("Assumptions of costs", "For `bench cost --assumptions` ([what a strategy costs](../cost.md)).", [("", Assumptions)]),
        ("Gates: `gates.yaml`", "For `bench check` ([regression tracking](../regression.md)).",
         [("", Gates), ("metrics.NAME", MetricGate)]),
    ]  # fmt: skip
    text = MADE + "# Files\n\nAll are YAML. A key that is left out takes its default; an unknown one is an error.\n\n"
    for title, about, models in parts:
        text += f"## {title}\n\n{about}\n\n| key | type | default | meaning |\n|---|---|---|---|\n"
        text += "".join(row for prefix, model in models for row in _keys(prefix, model)) + "\n"
    return text


def _keys(prefix: str, model: type[BaseModel]) -> list[str]:
    notes = _docstrings(model)
    rows = []
    for name, field in model.model_fields.items():
        key = f"{prefix}.{name}" if prefix else name
        if field.is_required():
            default = "required"
        else:
            value = field.get_default(call_default_factory=True)
            default = "" if isinstance(value, BaseModel) or value is PydanticUndefined else f"`{_plain(value)}`"
        cells = [f"`{key}`", *map(_cell, (_type(field.annotation), default, notes.get(name, "")))]
        rows.append(f"| {' | '.join(cells)} |\n")
    return rows


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        value = {k: v.model_dump() if isinstance(v, BaseModel) else v for k, v in value.items()}
    return json.dumps(value, ensure_ascii=False, default=list)


def _type(annotation: Any) -> str:
    """A type as it is written, without modules and without what only validation needs."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(inner[0])
    if origin in (Union, UnionType):
        return " | ".join(map(_type, inner))
    if origin is Literal:
        return " | ".join(f'"{value}"' if isinstance(value, str) else str(value) for value in inner)
    if origin is not None:
        return f"{getattr(origin, '__name__', origin)}[{', '.join(map(_type, inner))}]"
    return "None" if annotation is type(None) else "..." if annotation is ... else getattr(annotation, "__name__", str(annotation))


def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    """What stands under each field of a model and of those it is built on."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if not issubclass(base, BaseModel) or base is BaseModel:
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for field, after in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(after, ast.Expr):
                found[field.target.id] = ast.literal_eval(after.value) if isinstance(after.value, ast.Constant) else ""
    return found


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("``", "`").split())


def pages() -> dict[str, str]:
    """The pages by file name."""
    return {"commands.md": commands_page(), "files.md": files_page()}


if __name__ == "__main__":
    for file, content in pages().items():
        write_atomic(Path(sys.argv[1]) / file, content)
