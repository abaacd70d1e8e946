"""A task file of lm-evaluation-harness as settings: read, its includes merged, and what has no counterpart here refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.errors import BenchError
from bench.settings import first_problem, shown
from bench.task.rows import read_text
from bench.task.schema import AnswerPattern, Matching

REFUSED: Final = {
    "custom_dataset": "Python code is not run",
    "process_docs": "Python code is not run",
    "process_results": "Python code is not run",
    "use_prompt": "promptsource templates are not read; write doc_to_text",
    "doc_to_image": "tasks are text",
    "doc_to_audio": "tasks are text",
    "gen_prefix": "an answer begins with no given text; write it at the end of doc_to_text",
    "unsafe_code": "no code is run",
    "group": "this is a group of tasks; import each of its tasks",
    "task_list": "this is a list of tasks; import each of them",
}
"""Keys without a counterpart, and why."""
UNUSED: Final = frozenset({"task", "task_alias", "tag", "metadata", "should_decontaminate", "doc_to_decontamination_query"})
"""Keys that change neither a prompt nor a score."""
METRICS: Final = {
    "multiple_choice": {"acc": "accuracy", "acc_norm": "accuracy_normalized"},
    "generate_until": {"exact_match": "exact_text"},
}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FewshotConfig(_Part):
    sampler: Literal["default", "first_n"] = "default"
    split: str | None = None


class GenerationKwargs(_Part):
    until: str | list[str] | None = None
    max_gen_toks: int = Field(default=256, ge=1)
    do_sample: bool | None = None
    temperature: float = 0.0


class DatasetKwargs(_Part):
    data_files: str | list[str] | dict[str, str | list[str]] | None = None
    data_dir: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    """Of no effect: data sets that come with code are not read."""


class MetricEntry(_Part):
    metric: str
    aggregation: str = "mean"
    higher_is_better: bool = True
    hf_evaluate: bool = False
    ignore_case: bool = False
    ignore_punctuation: bool = False
    ignore_numbers: bool = False
    regexes_to_ignore: list[str] | None = None


class FilterStep(_Part):
    function: Literal["regex", "remove_whitespace", "take_first"]
    regex_pattern: str = r"#### (\-?[0-9\.\,]+)"
    group_select: int = 0
    fallback: str = "[invalid]"


class Filter(_Part):
    name: str
    filter: list[FilterStep]


class LmEvalTask(_Part):
    """The keys of a task of lm-evaluation-harness that have a counterpart here; their meaning is as there."""

    dataset_path: str
    dataset_name: str | None = None
    dataset_kwargs: DatasetKwargs = DatasetKwargs()
    training_split: str | None = None
    validation_split: str | None = None
    test_split: str | None = None
    fewshot_split: str | None = None
    fewshot_config: FewshotConfig = FewshotConfig()
    num_fewshot: int = Field(default=0, ge=0)
    output_type: Literal["multiple_choice", "generate_until"] = "generate_until"
    doc_to_text: str
    doc_to_target: str | int | list[str] | list[int]
    doc_to_choice: str | list[str] | dict[str, str] | None = None
    description: str = ""
    target_delimiter: str = " "
    fewshot_delimiter: str = "\n\n"
    generation_kwargs: GenerationKwargs = GenerationKwargs()
    metric_list: list[MetricEntry] | None = None
    filter_list: list[Filter] | None = None
    repeats: int = 1

    @property
    def metrics(self) -> list[str]:
        """The counterparts of its metrics, the first one primary."""
        known = METRICS[self.output_type]
        return list(known.values()) if self.metric_list is None else [known[entry.metric] for entry in self.metric_list]

    @property
    def stop(self) -> list[str]:
        until = self.generation_kwargs.until
        texts = [self.fewshot_delimiter] if until is None else [until] if isinstance(until, str) else until
        return [text for text in texts if text]

    @property
    def clean(self) -> list[Literal["strip"] | AnswerPattern]:
        """What its filter does to a generated text."""
        steps = self.filter_list[0].filter if self.filter_list else []
        return [
            "strip"
            if step.function == "remove_whitespace"
            else AnswerPattern(regex=step.regex_pattern, match=step.group_select, fallback=step.fallback)
            for step in steps
            if step.function != "take_first"
        ]

    @property
    def matching(self) -> Matching | None:
        """What its exact_match ignores."""
        entry = next((e for e in self.metric_list or () if e.metric == "exact_match"), None)
        found = Matching() if entry is None else Matching(
            remove=entry.regexes_to_ignore or [], ignore_case=entry.ignore_case, ignore_punctuation=entry.ignore_punctuation,
            ignore_numbers=entry.ignore_numbers,
        )  # fmt: skip
        return None if found == Matching() else found


def read_lm_eval_task(path: Path) -> tuple[LmEvalTask, list[str]]:
    """The settings of a task file, and the keys in it that are not used, since they change neither a prompt nor a score.

    Raises:
        BenchError: The file or one that it includes cannot be read, or a key is wrong or has no counterpart here.
    """
    keys = {key: value for key, value in _merged(path, ()).items() if value is not None}
    for key, value in keys.items():
        try:
            place = _function(value, key)
        except RecursionError:
            raise BenchError(f"{path}: {key}: found an alias of itself, expected plain values") from None
        if place:
            raise BenchError(f"{path}: {place}: found a !function, expected text (Python code is not run)")
        if key in REFUSED and value is not False:
            raise BenchError(f"{path}: {key}: has no counterpart here ({REFUSED[key]})")
    unused = sorted(keys.keys() & UNUSED)
    try:
        task = LmEvalTask(**{key: value for key, value in keys.items() if key not in UNUSED and key not in REFUSED})
        _check(task)
        _ = task.clean, task.matching  # their expressions are checked
    except ValidationError as error:
        parts: dict[str, type[BaseModel]] = {"AnswerPattern": AnswerPattern, "Matching": Matching}
        model = parts.get(error.title, LmEvalTask)
        raise BenchError(f"{path}: {first_problem(model, error)}") from None
    except BenchError as error:
        raise BenchError(f"{path}: {error}") from None
    return task, unused


class _Function:
    """A ``!function`` in a task file."""


class _Loader(yaml.SafeLoader):
    """Plain YAML, with ``!function`` marked and not run."""


_Loader.add_constructor("!function", lambda *_: _Function())


def _merged(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """The keys of a file over those of the files that it includes, the later ones over the earlier."""
    path = path.resolve()
    if path in above:
        raise BenchError(f"{path}: include: the file includes itself")
    if not path.is_file():
        raise BenchError(f"{above[-1]}: include: there is no file {path}" if above else f"{path}: no such file")
    try:
        keys = yaml.load(read_text(path), Loader=_Loader)  # noqa: S506 (a safe loader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        raise BenchError(f"{path}{f':{mark.line + 1}' if mark else ''}: is no valid YAML ({shown(str(error).splitlines()[0])})") from None
    if not isinstance(keys, dict):
        raise BenchError(f"{path}: found {type(keys).__name__}, expected keys and values")
    keys = {str(key): value for key, value in keys.items()}
    included = keys.pop("include", [])
    merged: dict[str, Any] = {}
    for name in included if isinstance(included, list) else [included]:
        if not isinstance(name, str):
            raise BenchError(f"{path}: include: found {shown(name)}, expected a file")
        merged |= _merged(path.parent / name, (*above, path))
    return merged | keys


def _function(value: object, place: str) -> str | None:
    """Where in a value a ``!function`` stands."""
    if isinstance(value, _Function):
        return place
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return next((found for key, part in parts if (found := _function(part, f"{place}.{key}"))), None)


def _check(task: LmEvalTask) -> None:
    """Raises `BenchError` for a value that lm-evaluation-harness knows and this harness has no counterpart of."""
    known = METRICS[task.output_type]
    for entry in task.metric_list or ():
        if entry.metric not in known:
            raise BenchError(
                f"metric_list: {entry.metric}: has no counterpart here for {task.output_type}, where there are {', '.join(known)}"
            )
        if entry.aggregation != "mean" or not entry.higher_is_better or entry.hf_evaluate:
            raise BenchError(f"metric_list: {entry.metric}: expected aggregation mean, higher_is_better true and no hf_evaluate")
        if task.output_type == "multiple_choice" and entry != MetricEntry(metric=entry.metric):
            raise BenchError(f"metric_list: {entry.metric}: found what to ignore, which has a meaning for exact_match only")
    generation = task.generation_kwargs
    sampling = generation.do_sample or (generation.do_sample is None and generation.temperature != 0)
    wrong = {
        "metric_list: is empty; expected a metric": task.metric_list == [],
        "repeats: found more than one answer to each item, expected 1 (decoding is greedy)": task.repeats != 1,
        "generation_kwargs: found sampling, expected do_sample: false and temperature 0 (decoding is greedy)": sampling,
        "doc_to_choice: is missing; expected it with output_type multiple_choice":
            task.output_type == "multiple_choice" and task.doc_to_choice is None,
        "description: found Jinja over the row, expected the same text for all":
            any(mark in task.description for mark in ("{{", "{%", "{#")),
        "test_split: is missing, and so is validation_split; expected one to be scored": not (task.test_split or task.validation_split),
    }  # fmt: skip
    filters = task.filter_list or []
    names = ", ".join(f.name for f in filters)
    wrong |= {
        f"filter_list: found {len(filters)} ({names}), expected one (each is a score of its own; keep one of them in a copy)":
            len(filters) > 1,
        "filter_list: expected take_first at its end": any(f.filter[-1:] != [FilterStep(function="take_first")] for f in filters),
        "filter_list: has a meaning for generate_until only": task.output_type == "multiple_choice" and bool(task.clean),
    }  # fmt: skip
    for message, found in wrong.items():
        if found:
            raise BenchError(message)
