"""Metrics: one small file per family. Each is an `evaluate.Metric` kept in this package; nothing is fetched at run time.

Importing this package, listing the metrics and recomputing corpus values do not import `evaluate` (which takes seconds).
"""

from bench.metric.registry import describe, get, metric_names

__all__ = ["describe", "get", "metric_names"]
