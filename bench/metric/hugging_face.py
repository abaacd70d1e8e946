"""The metrics in the interface of Hugging Face `evaluate`: for notebooks, `evaluate.combine` and everything else that takes such metrics.

The only module of the package that imports `evaluate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import evaluate
from datasets import Features, Value  # type: ignore[import-untyped]
from datasets import List as ListOf

from bench.metric.base import Metric


def as_evaluate(metric: Metric) -> evaluate.Metric:
    """The metric as an `evaluate.Metric` of the same name and values: ``compute``, ``add``, ``add_batch``, ``evaluate.combine``.

    >>> as_evaluate(get("exact_match")()).compute(predictions=["the Nile"], references=[["Nile", "River Nile"]])
    {'exact_match': 1.0}

    What ``compute`` of the metric takes beside predictions and references, this one takes too. Rows are kept in memory: no file, lock
    or cache is touched, so processes can compute side by side.
    """
    return _Evaluate(metric)


class _Evaluate(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        super().__init__(keep_in_memory=True, seed=0)

    @property
    def name(self) -> str:
        return self.metric.name

    def _features(self) -> list[Features]:
        text, texts = Value("string"), ListOf(Value("string"))
        if self.metric.compares_ids:
            return [Features({"predictions": texts, "references": texts})]
        return [Features({"predictions": text, "references": texts}), Features({"predictions": text, "references": text})]

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=type(self.metric).__doc__ or "",
            citation="",
            inputs_description=Metric.compute.__doc__ or "",
            features=self._features(),
        )

    def _compute(self, predictions: Sequence[Any], references: Sequence[Any], **options: Any) -> dict[str, float | None]:
        return self.metric.compute(predictions=predictions, references=references, **options)

    def _build_data_dir(self) -> str:
        return ""  # evaluate would make a folder in the user's cache, which may be read-only and is never used in memory

    def _infer_feature_from_batch(self, batch: dict[str, Any]) -> Features:
        if not all(map(len, batch.values())):  # evaluate looks at the first row, and there may be none
            return self._features()[0]
        return super()._infer_feature_from_batch(batch)
