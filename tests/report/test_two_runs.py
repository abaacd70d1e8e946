"""Two runs of the same strategies, the second with known changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from cost.cost_samples import ASSUMPTIONS, PRICES, choices, phase
from report.test_evidence import LORA, add, items, new_run

from bench.report.constraints import Constraints
from bench.report.contents import change_table, decided
from bench.report.evidence import gather
from bench.report.model import Change
from bench.report.page import render_page
from bench.report.text import render_text
from bench.report.two_runs import changes, shared_cells
from bench.result.store import RunFolder


@pytest.fixture
def two(tmp_path: Path) -> tuple[RunFolder, RunFolder]:
    """The same prompt; an adapter that lost 30 of 60 items and takes twice the time; one strategy in each run alone."""
    before, after = (new_run(tmp_path / name, ["zero-shot", "lora", "old", "new"]) for name in ("before", "after"))
    for run, right, seconds in ((before, 50, 2.0), (after, 20, 4.0)):
        add(run, "zero-shot", items(30, 60), choices(), deterministic=True)
        add(run, "lora", items(right, 60), LORA, phases={"tune": phase(5.0), "answer": phase(seconds)})
    add(before, "old", items(10, 60), choices(), deterministic=True)
    add(after, "new", items(10, 60), choices(), deterministic=True)
    return before, after


def by_name(found: tuple[Change, ...]) -> dict[str, Change]:
    return {change.strategy: change for change in found}


def test_what_changed_is_the_second_minus_the_first(two: tuple[RunFolder, RunFolder]) -> None:
    found = changes(*two)["support", "embedded"]
    assert [change.strategy for change in found] == ["zero-shot", "lora", "new", "old"]
    of = by_name(found)
    lora = of["lora"]
    assert lora.before is not None
    assert lora.after is not None
    assert lora.difference is not None
    assert (lora.before.value, lora.after.value, lora.difference.value) == pytest.approx((50 / 60, 20 / 60, -0.5))
    assert lora.difference.low is not None
    assert -0.65 < lora.difference.low < -0.5 < (lora.difference.high or 0) < -0.3
    assert lora.p is not None
    assert lora.p < 0.001
    assert lora.n_items == 60
    before, after = lora.costs["seconds_per_1000_requests"]
    assert (before, after) == pytest.approx((1000 * 2 / 60, 1000 * 4 / 60))
    assert lora.costs["setup_seconds"] == (5.0, 5.0)


def test_what_is_the_same_is_no_difference(two: tuple[RunFolder, RunFolder]) -> None:
    same = by_name(changes(*two)["support", "embedded"])["zero-shot"]
    assert same.difference is not None
    assert (same.difference.value, same.p) == (0.0, 1.0)
    assert all(change.p in (1.0, None) for change in changes(two[0], two[0])["support", "embedded"])


def test_strategies_of_one_run_and_other_questions_have_a_reason(two: tuple[RunFolder, RunFolder], tmp_path: Path) -> None:
    of = by_name(changes(*two)["support", "embedded"])
    assert (of["new"].reason, of["old"].reason) == ("not scored in the first run", "not scored in the second run")
    assert of["new"].difference is None
    other = new_run(tmp_path / "other", ["zero-shot"])
    add(other, "zero-shot", items(30, 60, input_hash="another"), choices(), deterministic=True)
    (change,) = [c for c in changes(two[0], other)["support", "embedded"] if c.strategy == "zero-shot"]
    assert (change.difference, change.reason) == (None, "the items are other questions in one of the runs")


def test_runs_without_a_cell_in_common_are_read_together(two: tuple[RunFolder, RunFolder], tmp_path: Path) -> None:
    apart = new_run(tmp_path / "apart", ["rag"])
    add(apart, "rag", items(30, 60), choices(retrieval={"search": "dense"}), deterministic=True)
    assert {path.parts for path in shared_cells(two)} == {("cells", "support", name, "s0") for name in ("zero-shot", "lora")}
    assert not shared_cells((two[0], apart))
    assert gather([two[0].path, apart.path], PRICES, ASSUMPTIONS).tasks[0].changes == ()
    assert gather([two[0].path], PRICES, ASSUMPTIONS).tasks[0].changes == ()


def test_the_report_is_of_the_second_run_and_shows_the_changes(two: tuple[RunFolder, RunFolder]) -> None:
    evidence = gather([run.path for run in two], PRICES, ASSUMPTIONS)
    task = evidence.tasks[0]
    assert [c.strategy for c in task.candidates] == ["zero-shot", "lora", "new"]
    assert task.candidate("lora").measures["quality"].value == pytest.approx(20 / 60)
    rows = {row[0]: row for row in change_table(task)[1]}
    assert rows["lora"][4] == "worse"
    assert rows["zero-shot"][4] == "not distinguishable"
    assert rows["old"][3:5] == ["–", "not scored in the second run"]
    assert rows["lora"][7] == "33 s → 67 s"
    reports = decided(evidence, Constraints())
    text = render_text(evidence, reports, Constraints())
    assert "#### Since the earlier run" in text
    page = render_page(evidence, reports, Constraints())
    assert "Since the earlier run" in page
    alone = gather([two[1].path], PRICES, ASSUMPTIONS)
    assert "Since the earlier run" not in render_page(alone, decided(alone, Constraints()), Constraints())
