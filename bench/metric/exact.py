"""Equality of texts, letter by letter."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence

from bench.metric.base import AnswerMetric, FieldType
from bench.task.schema import Matching


class ExactText(AnswerMetric):
    """1 if the answer is a target, letter by letter, spaces included, else 0.

    What it ignores all the same stands in task.yaml under ``matching``, in the terms of the ``exact_match`` of lm-evaluation-harness and of
    Hugging Face ``evaluate``: expressions to remove, then case, punctuation, numbers.
    """

    name = "exact_text"
    kinds = frozenset({"qa"})
    correct_at = 1.0

    def __init__(
        self,
        *,
        labels: Sequence[str] = (),
        fields: Mapping[str, FieldType] | None = None,
        abstain: Sequence[str] = (),
        matching: Matching | None = None,
    ) -> None:
        super().__init__(labels=labels, fields=fields, abstain=abstain)
        self.matching = matching or Matching()

    def match(self, prediction: str, target: str) -> float:
        return float(self._compared(prediction) == self._compared(target))

    def _compared(self, text: str) -> str:
        for expression in self.matching.remove:
            text = re.sub(expression, "", text)
        text = text.lower() if self.matching.ignore_case else text
        ignored = (string.punctuation if self.matching.ignore_punctuation else "") + (string.digits if self.matching.ignore_numbers else "")
        return text.translate(str.maketrans("", "", ignored))
