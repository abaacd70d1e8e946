"""Metrics: one small file per family, kept in this package; nothing is fetched at run time.

Each is usable as an `evaluate.Metric` (`bench.metric.hugging_face.as_evaluate`). Scoring itself never imports `evaluate`, which takes
seconds.
"""

from bench.metric.registry import describe, get, metric_names

__all__ = ["describe", "get", "metric_names"]
