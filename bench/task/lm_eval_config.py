"""A task file of lm-evaluation-harness as settings: read, its includes merged, and what has no counterpart here refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.errors import BenchError, did_you_mean
from bench.settings import first_problem, shown
from bench.task.rows import read_text
from bench.task.schema import AnswerPattern, Matching, TextStep

REFUSED: Final = {
    "custom_dataset": "Python code is not run",
    "process_docs": "Python code is not run",
    "process_results": "Python code is not run",
    "use_prompt": "promptsource templates are not read; write doc_to_text",
    "doc_to_image": "tasks are text",
    "doc_to_audio": "tasks are text",
    "unsafe_code": "no code is run",
    "group": "this is a group of tasks; import each of its tasks",
    "task_list": "this is a list of tasks; import each of them",
}
"""Keys without a counterpart, and why."""
UNUSED: Final = frozenset({"task", "task_alias", "tag", "metadata", "should_decontaminate", "doc_to_decontamination_query"})
"""Keys that change neither a prompt nor a score."""
METRICS: Final = {
    "multiple_choice": {"acc": "accuracy", "acc_norm": "accuracy_normalized", "acc_bytes": "accuracy_per_byte"},
    "generate_until": {"exact_match": "exact_text"},
}
DEFAULT_METRICS: Final = {"multiple_choice": ("acc", "acc_norm"), "generate_until": ("exact_match",)}
"""Where a task file names none."""

IGNORED: Final = {"ignore_case", "ignore_punctuation", "ignore_numbers", "regexes_to_ignore"}
"""What exact_match can ignore."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FewshotConfig(_Part):
    sampler: Literal["default", "first_n"] = "default"
    split: str | None = None
    samples: list[dict[str, Any]] | None = Field(default=None, min_length=1)


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
    weight_by_size: bool = False
    """Of no effect on a task: it is for the mean over a group of them."""
    ignore_case: bool = False
    ignore_punctuation: bool = False
    ignore_numbers: bool = False
    regexes_to_ignore: list[str] | None = None


class FilterStep(_Part):
    function: Literal["regex", "remove_whitespace", "lowercase", "uppercase", "take_first"]
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
    gen_prefix: str = ""
    generation_kwargs: GenerationKwargs = GenerationKwargs()
    metric_list: list[MetricEntry] | None = None
    filter_list: list[Filter] | None = None
    repeats: int = 1

    @property
    def metrics(self) -> list[str]:
        """The counterparts of its metrics, the first one primary."""
        names = DEFAULT_METRICS[self.output_type] if self.metric_list is None else [entry.metric for entry in self.metric_list]
        return [METRICS[self.output_type][name] for name in names]

    @property
    def stop(self) -> list[str]:
        until = self.generation_kwargs.until
        texts = [self.fewshot_delimiter] if until is None else [until] if isinstance(until, str) else until
        return [text for text in texts if text]

    @property
    def clean(self) -> list[TextStep | AnswerPattern]:
        """What its filter does to a generated text."""
        steps = self.filter_list[0].filter if self.filter_list else []
        return [made for step in steps if (made := _step(step)) is not None]

    @property
    def matching(self) -> Matching | None:
        """What its exact_match ignores."""
        entry = next((e for e in self.metric_list or () if e.metric == "exact_match"), None)
        found = Matching() if entry is None else Matching(
            remove=entry.regexes_to_ignore or [], ignore_case=entry.ignore_case, ignore_punctuation=entry.ignore_punctuation,
            ignore_numbers=entry.ignore_numbers,
        )  # fmt: skip
        return None if found == Matching() else found


def _step(step: FilterStep) -> TextStep | AnswerPattern | None:
    """A step of a filter as a step of a layout's `clean`; None for one that does nothing to a single text."""
    if step.function == "regex":
        return AnswerPattern(regex=step.regex_pattern, match=step.group_select, fallback=step.fallback)
    if step.function == "remove_whitespace":
        return "strip"
    return None if step.function == "take_first" else step.function


def read_lm_eval_task(path: Path, filter_name: str | None = None) -> tuple[LmEvalTask, list[str]]:
    """The settings of a task file, with one filter at most, and what to know of them, a line each.

    Args:
        path: YAML of a task of lm-evaluation-harness.
        filter_name: Which of its filters scores it. Default: the first.

    Raises:
        BenchError: The file or one that it includes cannot be read, there is no such filter, or a key is wrong or has no counterpart here.
    """
    keys = {key: value for key, value in _merged(path, ()).items() if value is not None}
    try:
        notes = _choose_filter(keys, filter_name)
    except BenchError as error:
        raise BenchError(f"{path}: {error}") from None
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
    if unused:
        notes.append(f"not used, since they change neither a prompt nor a score: {', '.join(unused)}")
    return task, notes


def _choose_filter(keys: dict[str, Any], name: str | None) -> list[str]:
    """Leave one filter in the keys of a task; says which, where there were several."""
    filters = keys.get("filter_list")
    names = [str(each["name"]) for each in filters if isinstance(each, dict) and "name" in each] if isinstance(filters, list) else []
    if not isinstance(filters, list) or not names or len(names) < len(filters):  # none, or what the settings refuse
        if name is not None:
            raise BenchError(f"--filter: found {shown(name)}, expected none, since filter_list names no filter")
        return []
    if name is not None and name not in names:
        raise BenchError(f"--filter: found {shown(name)}; {did_you_mean(name, names)}")
    chosen = name or names[0]
    keys["filter_list"] = [filters[names.index(chosen)]]
    if len(names) == 1:
        return []
    return [f'filter: "{chosen}" of {", ".join(names)}; each is a score of its own (--filter takes another)']


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
    if above:
        keys.pop("task_list", None)  # it is of the included file only
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
        if task.output_type == "multiple_choice" and entry.model_dump(include=IGNORED, exclude_defaults=True):
            raise BenchError(f"metric_list: {entry.metric}: found what to ignore, which has a meaning for exact_match only")
        if task.output_type == "generate_until" and entry.weight_by_size:
            raise BenchError(f"metric_list: {entry.metric}: found weight_by_size, which has no meaning for it")
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
    shots = task.fewshot_config
    samples = shots.samples
    wrong |= {
        "filter_list: expected take_first at its end":
            any(each.filter[-1:] != [FilterStep(function="take_first")] for each in task.filter_list or ()),
        "filter_list: has a meaning for generate_until only": task.output_type == "multiple_choice" and bool(task.clean),
        "fewshot_config.samples: expected sampler first_n beside it (the default draws others for each item)":
            samples is not None and shots.sampler != "first_n",
        "fewshot_config.samples: found a split for worked examples too, which goes before them; expected one of the two":
            samples is not None and bool(shots.split or task.fewshot_split),
        f"fewshot_config.samples: found {len(samples or ())}, expected {task.num_fewshot} or more (num_fewshot)":
            samples is not None and len(samples) < task.num_fewshot,
    }  # fmt: skip
    for message, found in wrong.items():
        if found:
            raise BenchError(message)
