"""Metrics of the answer's form: is it what was declared, and are the fields of a JSON object right?"""

from __future__ import annotations

import json
import math
from typing import Any, Final, NoReturn

from bench.metric.base import AnswerMetric, FieldType, Metric
from bench.metric.sample import Sample
from bench.metric.text import label_key, normalize

_ABSENT: Final = object()


def parse_object(text: str) -> dict[str, Any] | None:
    """The JSON object that the whole text is, or None. Strict: no code fence, no text around it, no NaN, no repeated key."""
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def has_type(value: object, declared: FieldType) -> bool:
    """Whether a parsed JSON value has the declared type. An integer is a number; a boolean is neither, nor is 5.0 an integer."""
    if declared == "string":
        return isinstance(value, str)
    if declared == "boolean":
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (declared == "number" and isinstance(value, float) and math.isfinite(value))


class FormatValidity(Metric):
    """1 if the answer has the declared form, else 0; apart from whether it is right.

    With ``fields``: a JSON object with exactly these keys, each value of its type. With ``labels``: one of the labels. An
    abstention phrase of the task is always valid. Undefined where neither is declared.
    """

    name = "format_validity"
    kinds = frozenset({"classification", "structured"})

    def undefined_because(self, sample: Sample) -> str | None:
        return None if self.fields or self.labels else "the task declares no labels or fields"

    def sample_level(self, sample: Sample) -> float | None:
        if not self.fields and not self.labels:
            return None
        if self.abstains(sample.prediction):
            return 1.0
        if self.fields:
            found = parse_object(sample.prediction)
            return float(
                found is not None and found.keys() == self.fields.keys() and all(has_type(found[k], t) for k, t in self.fields.items())
            )
        return float(label_key(sample.prediction) in {label_key(label) for label in self.labels})


class FieldAccuracy(AnswerMetric):
    """Share of the declared fields whose value is the target's, in [0, 1]; 0 for an answer that is no JSON object.

    Strings compare after SQuAD normalisation, numbers by value (5 is 5.0, but not "5"). Without ``fields`` the target's keys are
    the declared ones. A field that the target lacks must be absent. Undefined where no target is a JSON object.
    """

    name = "field_accuracy"
    kinds = frozenset({"structured"})
    correct_at = 1.0

    def undefined_because(self, sample: Sample) -> str | None:
        return "no target is a JSON object"

    def match(self, prediction: str, target: str) -> float | None:
        wanted = parse_object(target)
        keys = list(self.fields or wanted or ())
        if wanted is None or not keys:
            return None
        found = parse_object(prediction)
        if found is None:
            return 0.0
        return sum(_same(found.get(key, _ABSENT), wanted.get(key, _ABSENT)) for key in keys) / len(keys)


def _same(found: object, wanted: object) -> bool:
    if isinstance(found, str) and isinstance(wanted, str):
        return normalize(found) == normalize(wanted)
    if isinstance(found, bool) or isinstance(wanted, bool):  # in Python True == 1
        return found is wanted
    return found == wanted


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("repeated key")
    return result


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
