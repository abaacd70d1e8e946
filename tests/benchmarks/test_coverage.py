"""The simulation of coverage, small; the whole of it is ``python -m benchmarks.coverage``."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import coverage
from benchmarks.coverage import FOUR, ITEMS, ONE, Condition, Found, evaluate, missed, report, simulate, truth


def test_the_truth_is_the_expectation_over_items_and_seeds() -> None:
    assert truth(0.0, 0.3) == pytest.approx(0.5)
    generator = np.random.default_rng(0)
    drawn = 1 + np.sqrt(1 + 0.25 + 0.09) * generator.standard_normal(1_000_000)
    assert truth(1.0, 0.3) == pytest.approx(float(np.mean(1 / (1 + np.exp(-drawn)))), abs=0.001)


@pytest.mark.parametrize("clustered", [False, True])
def test_what_is_simulated_has_that_expectation_and_the_clusters(clustered: bool) -> None:
    generator = np.random.default_rng(0)
    condition = Condition(0.3, 3, clustered)
    scores = np.array([simulate(condition, generator) for _ in range(200)])
    assert scores.shape == (200, 4, 3, ITEMS)
    for arm, skill in enumerate(coverage.SKILLS):
        assert scores[:, arm].mean() == pytest.approx(truth(skill, 0.3), abs=0.015)
    centred = scores[:, 0, 0] - scores[:, 0, 0].mean()
    together = float((centred[:, 0::3] * centred[:, 1::3]).mean())
    assert (together > 0.01) == clustered


@pytest.mark.parametrize("condition", [Condition(0.0, 3, True), Condition(0.3, 3, False), Condition(0.3, 5, False, ONE)])
def test_intervals_cover_and_tests_hold_their_level(condition: Condition) -> None:
    found = evaluate(condition, 200, 1)
    assert 0.90 <= found.arm <= 0.995
    assert 0.90 <= found.difference <= 0.995
    assert found.combined <= 0.10
    if condition.noise == 0:
        assert 0.01 <= found.sign_flip <= 0.10
        assert found.arm_items == pytest.approx(0.95, abs=0.04)
    else:
        # Why seeds have to be counted.
        assert found.arm_items < 0.85
        assert found.difference_items < 0.75
        assert found.sign_flip > 0.25


GOOD = Found(0.95, 0.7, 0.95, 0.6, 0.05, 0.05)


@pytest.mark.parametrize(
    ("condition", "change", "expected"),
    [
        (Condition(0.0, 3, False), {}, []),
        (Condition(0.0, 3, False), {"arm": 0.985, "difference": 0.92, "sign_flip": 0.07}, ["arm", "difference", "sign_flip"]),
        (Condition(0.3, 3, False), {"sign_flip": 0.4}, []),
        (Condition(0.1, 5, True), {"sign_flip": 0.4, "arm": 0.925}, ["arm"]),
        (Condition(0.0, 3, False, ONE), {"arm": 0.99}, ["arm"]),
    ],
)
def test_what_misses_its_target_is_said(condition: Condition, change: dict[str, float], expected: list[str]) -> None:
    found = Found(**(vars(GOOD) | change))
    assert missed(condition, found) == expected
    text = report([(condition, found)], "python -m benchmarks.coverage", 0, 100, 1.0)
    assert text.count("**missed**") == len(expected)
    assert ("Every target is met." in text) == (not expected)


def test_the_program_writes_its_report_and_fails_where_a_target_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = {FOUR: GOOD, ONE: GOOD}
    monkeypatch.setattr(coverage, "evaluate", lambda condition, replications, seed: results[condition.pooling])
    monkeypatch.setattr(sys, "argv", ["coverage", "--output", str(tmp_path / "coverage.md"), "--replications", "10"])
    assert coverage.main() == 0
    text = (tmp_path / "coverage.md").read_text()
    assert len([line for line in text.splitlines() if line.startswith("| 0")]) == 18
    assert "seed 0" in text
    results[ONE] = Found(**(vars(GOOD) | {"arm": 0.5}))
    assert coverage.main() == 1
    assert "6 of the numbers miss their target" in (tmp_path / "coverage.md").read_text()
