"""The four axes: and which measure stands behind which cell."""

import pytest

from bench.report.axes import CRITERIA, Column, cell, columns
from bench.report.model import Candidate, Measure, Standing, TaskEvidence


def candidate(name: str, standing: Standing = "contender", reason: str | None = None, **measures: float) -> Candidate:
    named = {key.replace("__", "."): Measure(value) for key, value in measures.items()}
    return Candidate(name, standing, reason, "", "prompting", {}, named, 100, 1)


def task(*candidates: Candidate) -> TaskEvidence:
    return TaskEvidence("t", "m", "exact_match", True, True, candidates, (), ())


def column(of: TaskEvidence, name: str) -> Column:
    return next(c for c in columns(of) if c.criterion.name == name)


def test_a_column_holds_one_measure_for_all_strategies() -> None:
    both = task(candidate("a", freshness__efficacy=0.9, conflict__context_rate=0.1), candidate("b", conflict__context_rate=0.8))
    found = column(both, "Up-to-date answers")
    assert found.source is not None
    assert found.source.measure == "freshness.efficacy"
    # b has only the other measure, which is no number for this column
    assert (cell(both.candidates[1], found).text, cell(both.candidates[1], found).reason) == ("–", "not defined for this strategy")


def test_the_next_measure_stands_in_where_the_first_is_in_no_strategy() -> None:
    found = column(task(candidate("a", conflict__context_rate=0.25)), "Up-to-date answers")
    assert found.source is not None
    assert found.source.measure == "conflict.context_rate"
    assert cell(candidate("a", conflict__context_rate=0.25), found).text == "25.0 %"


def test_what_nobody_measured_says_so_and_how_to() -> None:
    one = task(candidate("a"))
    for found in columns(one):
        got = cell(one.candidates[0], found)
        assert (got.text, got.value) == ("not measured", None)
        assert got.reason == found.criterion.how
        assert got.reason


@pytest.mark.parametrize(
    ("standing", "reason", "expected"),
    [("floor", None, "asks no model"), ("failed", "out of memory", "out of memory"), ("oracle", None, "not defined for this strategy")],
)
def test_a_gap_has_its_reason(standing: Standing, reason: str | None, expected: str) -> None:
    of = task(candidate("a", usd_per_1000_requests=1.0), candidate("b", standing, reason))
    assert cell(of.candidates[1], column(of, "Running")).reason == expected


def test_every_axis_of_the_brief_is_there() -> None:
    assert list(dict.fromkeys(c.axis for c in CRITERIA)) == ["Cost", "Complexity", "Accuracy", "Flexibility"]
    accuracy = [c.name for c in CRITERIA if c.axis == "Accuracy"]
    assert accuracy[:4] == ["Domain terms", "Up-to-date answers", "Transparency", "Hallucination"]


def test_zero_is_a_number_and_not_a_gap() -> None:
    of = task(candidate("a", hallucination_rate=0.0))
    assert cell(of.candidates[0], column(of, "Hallucination")).text == "0.0 %"
    assert cell(of.candidates[0], column(of, "Hallucination")).value == 0.0
