"""How the report writes measured numbers, in sentences, tables and charts alike."""

from __future__ import annotations

from typing import Literal

from bench.report.model import Measure, TaskEvidence
from bench.result.text import shown_bytes, shown_count, shown_seconds, shown_usd

Unit = Literal["share", "points", "number", "usd", "count", "seconds", "bytes"]
"""``points``: a difference of shares."""


def quality_unit(task: TaskEvidence) -> Unit:
    """Of the primary metric."""
    return "share" if task.is_share else "number"


def difference_unit(task: TaskEvidence) -> Unit:
    """Of a difference in the primary metric."""
    return "points" if task.is_share else "number"


def shown(value: float, unit: Unit, *, signed: bool = False) -> str:
    """A number as it is read in a table: shares in percent, the rest with its unit; dollars bare, as their heading says USD."""
    if unit in ("share", "points"):
        text = f"{_no_minus_zero(f'{100 * value:.1f}')} {'%' if unit == 'share' else 'points'}"
    elif unit == "usd":
        text = shown_usd(value)
    elif unit == "count":
        text = shown_count(value) if value >= 1000 else f"{value:.3g}"
    elif unit == "seconds":
        text = shown_seconds(value)
    elif unit == "bytes":
        text = shown_bytes(round(value))
    else:
        text = f"{value:.2g}" if 0 < abs(value) < 0.001 else f"{value:.3f}" if abs(value) < 100 else f"{value:,.1f}"
    return f"+{text}" if signed and value > 0 else text


def shown_interval(measure: Measure, unit: Unit, *, signed: bool = False) -> str:
    """ "[low, high]" in the unit of the number before it; empty where none is known, or where it is that number as it is shown."""
    if measure.low is None or measure.high is None:
        return ""
    texts = [shown(each, unit, signed=signed) for each in (measure.value, measure.low, measure.high)]
    if len(set(texts)) == 1:
        return ""
    if len({text.partition(" ")[2] for text in texts}) == 1:
        texts = [text.partition(" ")[0] for text in texts]
    return f"[{texts[1]}, {texts[2]}]"


def in_words(value: float, unit: Unit) -> str:
    """A number that was not measured, such as a limit, in a sentence: dollars with their unit, no more digits than it has."""
    number, space, name = shown(value, unit).partition(" ")
    if unit in ("share", "points", "number") and "." in number:
        number = number.rstrip("0").rstrip(".")
    return number + (" USD" if unit == "usd" else space + name)


def with_interval(measure: Measure, unit: Unit, *, signed: bool = False) -> str:
    """A measured number with its 95 % interval as in a table, "52.3 % [49.0, 56.0]"."""
    return " ".join(filter(None, (shown(measure.value, unit, signed=signed), shown_interval(measure, unit, signed=signed))))


def interval_in_words(measure: Measure, unit: Unit) -> str:
    """As `with_interval`, in a sentence: "2.00 USD [1.00, 3.00]"."""
    return " ".join(filter(None, (shown(measure.value, unit), "USD" if unit == "usd" else "", shown_interval(measure, unit))))


def _no_minus_zero(text: str) -> str:
    return text[1:] if text.startswith("-") and not text.strip("-0.") else text
