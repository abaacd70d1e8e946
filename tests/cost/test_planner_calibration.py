"""Constants that were put in have to come out, and a run must not take part in its own prediction."""

from __future__ import annotations

import math
import random

import pytest

from bench.cost.calibration import Observation, calibrate
from bench.errors import BenchError

PER_OPERATION, LAUNCH, FACTOR, LIBRARIES, BESIDE = 2e-12, 3e-5, 1.25, 3e8, 1e8


def observed(name: str, operations: float, launches: float, lasting: float, passing: float) -> Observation:
    held, seconds = LIBRARIES + lasting + FACTOR * passing + BESIDE, PER_OPERATION * operations + LAUNCH * launches
    return Observation(name, LIBRARIES, lasting, passing, held, operations, launches, seconds)


RUNS = [
    observed("small", 1e12, 1e5, 1e9, 2e8), observed("wide", 8e12, 1e5, 4e9, 1e9), observed("deep", 3e12, 6e5, 2e9, 3e9),
    observed("long", 2e13, 3e5, 1e9, 6e9),
]  # fmt: skip


def test_known_constants_are_recovered() -> None:
    found = calibrate(RUNS, [], "runs")
    constants = found.constants
    assert 1 / constants.training.flops_share == pytest.approx(PER_OPERATION)
    assert constants.training.launch_seconds == pytest.approx(LAUNCH)
    assert constants.training.bandwidth_share == 1
    assert constants.training.error == pytest.approx(1)
    assert constants.answering == constants.training
    assert constants.memory_factor == pytest.approx((FACTOR,) * 3)
    assert constants.context_bytes == pytest.approx((LIBRARIES + BESIDE,) * 3)
    assert constants.memory_error == pytest.approx(0, abs=1e-9)
    assert constants.source == "runs"
    assert (found.most_operations, found.most_bytes) == (2e13, 1e9 + FACTOR * 6e9 + LIBRARIES + BESIDE)
    assert [c.name for c in found.checked] == ["small", "wide", "deep", "long"]
    for checked, run in zip(found.checked, RUNS, strict=True):
        assert (checked.seconds, checked.held_bytes) == (run.seconds, run.held_bytes)
        assert checked.predicted_seconds == pytest.approx(run.seconds)
        assert checked.predicted_bytes == pytest.approx(run.held_bytes)


def test_with_noise_they_come_near() -> None:
    rng = random.Random(0)
    noisy = []
    for i in range(60):
        run = observed(str(i), rng.uniform(1e12, 1e14), rng.uniform(1e5, 1e7), 1e9, rng.uniform(1e8, 1e10))
        assert run.seconds
        assert run.held_bytes
        noisy.append(run._replace(seconds=run.seconds * rng.uniform(0.9, 1.1), held_bytes=run.held_bytes * rng.uniform(0.98, 1.02)))
    found = calibrate(noisy, [], "runs")
    assert 1 / found.constants.training.flops_share == pytest.approx(PER_OPERATION, rel=0.1)
    assert found.constants.training.launch_seconds == pytest.approx(LAUNCH, rel=0.1)
    assert found.constants.memory_factor[0] == pytest.approx(FACTOR, rel=0.03)
    assert 1.05 < found.constants.training.error < 1.25
    assert 0.01 < found.constants.memory_error < 0.05


def test_a_run_has_no_part_in_its_own_prediction() -> None:
    """Two runs of 1 s an operation, and one of 3; their few launches explain nothing."""
    measured = (("a", 1, 3, 1, 1), ("b", 2, 5, 2, 2), ("c", 3, 14, 3, 9))
    runs = [Observation(name, 0, 0, passing, held, operations, 0.001, seconds) for name, passing, held, operations, seconds in measured]
    found = calibrate(runs, [], "runs")
    # Relative errors: c by a and b is 1 s an operation; a or b by the other and c is (1 + 1/3) / (1 + 1/9), as no launch costs less than 0.
    assert [c.predicted_seconds for c in found.checked] == pytest.approx([1.2, 2.4, 3])
    assert found.constants.training.error == pytest.approx(3)
    # c by a and b: 1 + 2 x; a and b by lines through 0, as no context is less than 0: (10 + 42) / (4 + 9) and (3 + 42) / (1 + 9).
    assert [c.predicted_bytes for c in found.checked] == pytest.approx([4, 2 * 4.5, 7])
    assert found.worst_memory == found.constants.memory_error == pytest.approx(0.8)


def test_neither_rate_is_negative() -> None:
    """Times that fall with the launches would ask for a negative cost of one."""
    runs = [Observation(str(i), 0, 0, 1, None, 10.0, 100.0 * (i + 1), 10.0 - i) for i in range(4)]
    found = calibrate(runs, [], "runs")
    assert found.constants.training.launch_seconds == 0
    assert found.constants.training.flops_share > 0
    held = [Observation(str(i), 0, 0, 10.0 * (i + 1), 100.0 - i, 1.0, 1.0, 1.0) for i in range(4)]
    constants = calibrate(held, [], "runs").constants
    assert constants.memory_factor[0] == 0
    assert constants.context_bytes[0] == pytest.approx(98.5)


def test_equal_runs_predict_each_other() -> None:
    found = calibrate([RUNS[0]._replace(name=str(i)) for i in range(4)], [], "runs")
    for checked in found.checked:
        assert checked.predicted_seconds == pytest.approx(RUNS[0].seconds)
        assert checked.predicted_bytes == pytest.approx(RUNS[0].held_bytes)
    assert found.constants.training.error == pytest.approx(1)
    assert found.worst_memory == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_few_runs_say_nothing_of_an_error(n: int) -> None:
    with pytest.raises(BenchError, match=f"results/x: found {n} trainings with a measured time; expected at least 3"):
        calibrate(RUNS[:n], [], "results/x")


def test_a_run_without_a_time_does_not_count() -> None:
    with pytest.raises(BenchError, match="found 2 trainings"):
        calibrate([*RUNS[:2], RUNS[2]._replace(seconds=None)], [], "runs")


def test_libraries_of_another_size_are_no_error() -> None:
    """What was there before the model is known of every run, and the mean of it is what a new one is given."""
    more = [run._replace(context_bytes=LIBRARIES + i * 1e8, held_bytes=(run.held_bytes or 0) + i * 1e8) for i, run in enumerate(RUNS)]
    found = calibrate(more, [], "runs")
    assert found.worst_memory == pytest.approx(0, abs=1e-6)
    assert found.constants.context_bytes == pytest.approx((LIBRARIES + 1.5e8 + BESIDE,) * 3)


def test_memory_that_was_not_measured() -> None:
    found = calibrate([run._replace(held_bytes=None) for run in RUNS], [], "runs")
    assert found.constants.memory_factor == (1.0, 1.0, 1.0)
    assert found.constants.context_bytes == (0.0, 0.0, 0.0)
    assert found.constants.memory_error == 0
    assert found.most_bytes == 0
    assert math.isnan(found.worst_memory)
    assert {c.predicted_bytes for c in found.checked} == {None}
    assert found.constants.training.error == pytest.approx(1)


def test_one_of_them_without_memory() -> None:
    found = calibrate([*RUNS[:3], RUNS[3]._replace(held_bytes=None)], [], "runs")
    assert found.checked[3].predicted_bytes is None
    assert found.checked[3].predicted_seconds == pytest.approx(RUNS[3].seconds)
    assert found.constants.memory_factor[0] == pytest.approx(FACTOR)


def test_one_of_them_without_a_time() -> None:
    found = calibrate([*RUNS[:3], RUNS[3]._replace(seconds=None)], [], "runs")
    assert found.checked[3].predicted_seconds is None
    assert found.checked[3].predicted_bytes == pytest.approx(RUNS[3].held_bytes)
    assert found.most_operations == 8e12


# ---------------------------------------------------------------------------------------------------- answers


def answered(name: str, operations: float, launches: float, slower: float = 1.0) -> Observation:
    seconds = slower * (5 * PER_OPERATION * operations + LAUNCH / 3 * launches)
    return Observation(name, 0, 0, 0, None, operations, launches, seconds)


ANSWERS = [answered("short", 1e11, 1e4), answered("wide", 9e11, 2e4), answered("long", 3e11, 9e4)]


def test_answering_has_a_pace_of_its_own() -> None:
    found = calibrate(RUNS, ANSWERS, "runs")
    assert 1 / found.constants.answering.flops_share == pytest.approx(5 * PER_OPERATION)
    assert found.constants.answering.launch_seconds == pytest.approx(LAUNCH / 3)
    assert found.constants.answering.error == pytest.approx(1)
    assert 1 / found.constants.training.flops_share == pytest.approx(PER_OPERATION)
    assert [c.name for c in found.answered] == ["short", "wide", "long"]
    assert {c.predicted_bytes for c in found.answered} == {None}
    assert [c.name for c in found.checked] == [run.name for run in RUNS]


def test_an_answer_that_is_unlike_the_others_widens_the_interval_of_answers_alone() -> None:
    found = calibrate(RUNS, [*ANSWERS, answered("slow", 2e11, 3e4, slower=2.0)], "runs")
    assert found.constants.answering.error >= 2
    assert found.constants.training.error == pytest.approx(1)


def test_two_cells_of_answers_are_too_few() -> None:
    found = calibrate(RUNS, ANSWERS[:2], "runs")
    assert found.constants.answering == found.constants.training
    assert found.answered == ()
