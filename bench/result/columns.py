"""The columns of the comparison table: plain rows, and the same as a pandas frame. pandas is imported for a frame only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]
"""Every column; None is undefined."""

SECONDARY = (
    "f1",
    "rougeL",
    "macro_f1",
    "format_validity",
    "hallucination_rate",
    "abstention_rate",
    "accuracy_given_attempted",
    "k_precision",
    "recall_at_k",
    "mrr",
    "citation_precision",
    "citation_recall",
    "f_attempted",
    "penalized_score_3",
    "no_answer_accuracy",
    "passage_precision",
    "right_without_evidence",
    "ece",
    "confidence_auroc",
)
WHOLE_NUMBERS = ("peak_memory_bytes", "trainable_params", "artifact_bytes", "n_items", "n_seeds", "n_trials")
TEXTS = ("task", "model", "strategy", "primary_metric", "interval", "peak_memory_kind", "status", "reason", "price", "api_price")
FLAGS = ("deterministic", "best", "tied")
COLUMNS = (
    "task",
    "model",
    "strategy",
    "primary_metric",
    "value",
    "ci_low",
    "ci_high",
    "interval",
    *SECONDARY,
    "setup_seconds",
    "setup_cpu_seconds",
    "seconds_per_1000_requests",
    "cpu_seconds_per_1000_requests",
    "prompt_tokens_per_1000_requests",
    "completion_tokens_per_1000_requests",
    "peak_memory_bytes",
    "peak_memory_kind",
    "trainable_params",
    "artifact_bytes",
    "n_items",
    "n_seeds",
    "deterministic",
    "n_trials",
    "status",
    "reason",
    "best",
    "tied",
    "p_vs_best",
    "seed_noise_ratio",
    "item_share",
    "seed_share",
    "residual_share",
)
PRICED = ("setup_usd", "usd_per_1000_requests", "usd_per_1000_correct", "price")
"""With prices of devices; ``price`` says which: name, price, unit, source and date."""
HOSTED = ("api_usd_per_1000_requests", "api_usd_per_1000_requests_cached", "api_price")
"""With the price of a hosted model."""


def columns_of(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """``COLUMNS`` and, where the rows have them, ``PRICED`` and ``HOSTED``."""
    return (*COLUMNS, *(column for column in (*PRICED, *HOSTED) if rows and column in rows[0]))


def plain_row(values: Mapping[str, Any]) -> Row:
    """The values as a row: all columns in their order and of their types; NaN and what is not there are None. Dollars only if given."""
    row: Row = {}
    for column in columns_of([values]):
        value = values.get(column)
        if value is not None and column not in (*WHOLE_NUMBERS, *TEXTS, *FLAGS):
            value = None if math.isnan(value) else float(value)
        row[column] = value
    return row


def as_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """The rows as a frame: undefined is NaN, whole numbers are Int64, which has a missing value of its own."""
    import pandas as pd

    kinds = dict.fromkeys(WHOLE_NUMBERS, "Int64") | dict.fromkeys(TEXTS, "str") | dict.fromkeys(FLAGS, "bool")
    columns = columns_of(rows)
    return pd.DataFrame(rows, columns=list(columns)).astype({column: kinds.get(column, "float64") for column in columns})


def as_rows(table: pd.DataFrame | Sequence[Row]) -> list[Row]:
    """Rows of plain Python values."""
    if isinstance(table, Sequence):
        return list(table)
    import pandas as pd

    return [
        {str(key): None if pd.isna(value) else getattr(value, "item", lambda v=value: v)() for key, value in row.items()}
        for row in table.to_dict("records")
    ]
