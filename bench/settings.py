"""Settings files: YAML that becomes a pydantic model, with every problem in one line that says where and what was expected."""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from bench.errors import BenchError, did_you_mean

M = TypeVar("M", bound=BaseModel)


def parse_settings(model: type[M], text: str, where: str) -> M:
    """A model from YAML text; `where` (a file) begins every message.

    Raises:
        BenchError: The text is no YAML, or has an unknown, missing, wrong or contradictory key.
    """
    try:
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise BenchError(f"{where}{line}: is no valid YAML ({error.problem or error.context})") from None
    except yaml.reader.ReaderError as error:
        line_number = text.count("\n", 0, error.position) + 1
        raise BenchError(f"{where}:{line_number}: is no valid YAML ({error.reason})") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:  # PyYAML on "2020-99-99" or "!!int ''"
        raise BenchError(f"{where}: is no valid YAML ({type(error).__name__}: {shown(str(error))})") from None
    if not isinstance(data, dict):
        raise BenchError(f"{where}: found {type(data).__name__}, expected keys and values")
    try:
        return model(**{str(key): value for key, value in data.items()})
    except ValidationError as error:
        raise BenchError(f"{where}: {first_problem(model, error)}") from None


def shown(value: object, width: int = 60) -> str:
    """A value as part of a one-line message: quoted, and cut if long."""
    text = json.dumps(value, ensure_ascii=not value.isprintable()) if isinstance(value, str) else repr(value)
    return text if len(text) <= width else f"{text[: width - 3]}..."


def first_problem(model: type[BaseModel], error: ValidationError) -> str:
    """What is wrong, in one line."""
    # An unknown key first: a misspelt key is also a missing one, and only the misspelling has a hint.
    problem = min(error.errors(), key=lambda p: p["type"] != "extra_forbidden")
    path = [str(part) for part in problem["loc"]]
    key, found = ".".join(path), problem["input"]
    if problem["type"] == "extra_forbidden":
        return f'unknown key "{key}"; {did_you_mean(path[-1], _keys(model, path[:-1]))}'
    if problem["type"] == "missing":
        return f'the key "{key}" is missing'
    if problem["type"] == "literal_error":
        options = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
        return f"{key}: found {shown(found)}; {did_you_mean(str(found), options)}"
    if problem["type"] == "value_error":  # said by the model itself, about more than one key
        return problem["msg"].removeprefix("Value error, ")
    expected = problem["msg"].removeprefix("Input should be ")
    quotes = " (YAML reads yes, no, on and off as true and false: put them in quotes)" if isinstance(found, bool) else ""
    return f"{key}: found {shown(found)}, expected {expected[0].lower()}{expected[1:]}{quotes}"


def _keys(model: type[BaseModel], path: list[str]) -> list[str]:
    """The keys that are known at a place of nested models."""
    for part in path:
        field = model.model_fields.get(part)
        kinds: list[Any] = [field.annotation, *get_args(field.annotation)] if field else []
        model = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), model)
    return list(model.model_fields)


def parse_assignments(settings: list[str], option: str) -> dict[str, Any]:
    """``KEY=VALUE`` texts of a command line's `option` as a mapping, the values read as YAML. Raises `BenchError` for another form."""
    found = {}
    for setting in settings:
        key, sign, value = setting.partition("=")
        if not sign:
            raise BenchError(f"{option} {setting}: expected KEY=VALUE")
        try:
            found[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise BenchError(f"{option} {setting}: the value is no valid YAML") from error
    return found
