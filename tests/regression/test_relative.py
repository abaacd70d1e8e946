"""Both sides in turn on one machine, and the ratio of their medians."""

from pathlib import Path

import numpy as np
import pytest
from small_repository import calls, commit, git, suite, with_stand_in, write

from bench.errors import BenchError
from bench.regression.relative import relative, time_ratio
from bench.regression.worktree import records_of


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return with_stand_in(tmp_path / "ours")


def test_sides_take_turns_arm_by_arm(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(repository, "a.yaml", quality=0.8, seconds=2.0)
    first = commit(repository)
    write(repository, "a.yaml", quality=0.6, seconds=3.0)  # not committed
    monkeypatch.setenv("STAND_IN_LOG", str(tmp_path / "log"))
    told: list[str] = []
    with relative(suite(), "HEAD", repository, repeats=3, progress=told.append) as found:
        order = [("new" if call["cwd"] == str(repository) else "old") + " " + call["arm"][1] for call in calls(tmp_path / "log")]
        assert found.commit == first
        assert [records_of(run, ("colors", "a"))[0].metrics["accuracy"].value for run in (*found.old, *found.new)] == [0.8] * 3 + [0.6] * 3
        assert found.old[0].read_run().suite == suite()
        # Two seeds; the phases tune and index make the set-up.
        assert found.seconds["colors", "a"] == {"setup": ([8.0] * 3, [12.0] * 3), "answer": ([4.0] * 3, [6.0] * 3)}
        assert found.seconds["colors", "b"] == {"setup": ([4.0] * 3, [4.0] * 3), "answer": ([2.0] * 3, [2.0] * 3)}
        assert found.notes == ()
        assert len({run.path for run in (*found.old, *found.new)}) == 6
    assert order == ["old a", "new a", "old b", "new b", "new a", "old a", "new b", "old b", "old a", "new a", "old b", "new b"]
    assert told[0] == f"repeat 1 of 3: colors / a: {first[:10]}"
    assert not any(run.path.exists() for run in (*found.old, *found.new))
    assert git(repository, "worktree", "list").count("\n") == 0


def test_an_arm_that_the_commit_cannot_run_is_noted(repository: Path) -> None:
    commit(repository)
    write(repository, "new.yaml")
    both = suite(strategies=["a.yaml", "new.yaml"])
    with relative(both, "HEAD", repository, repeats=2) as found:
        assert [len(list(run.records())) for run in (*found.old, *found.new)] == [2, 2, 2, 2]
        assert list(found.seconds) == [("colors", "a")]
        assert len(found.notes) == 1
        assert found.notes[0].endswith("colors / new cannot be run there: bench: strategy new.yaml: no such file")
    with relative(both, "HEAD", repository, arms=[("colors", "a")], repeats=1) as found:
        assert found.notes == ()
    with pytest.raises(BenchError, match=r"new\.yaml: no such file"), relative(suite(strategies=["new.yaml"]), "HEAD", repository):
        pass


def test_what_the_working_tree_cannot_run_is_an_error(repository: Path) -> None:
    commit(repository)
    (repository / "b.yaml").unlink()
    with pytest.raises(BenchError, match="the working tree: colors / b cannot be run there"), relative(suite(), "HEAD", repository):
        pass
    assert git(repository, "worktree", "list").count("\n") == 0
    for wrong in ({"repeats": 0}, {"arms": []}):
        with pytest.raises(BenchError, match="expected one or more of each"), relative(suite(), "HEAD", repository, **wrong):
            pass


def test_seconds_are_of_cells_that_both_sides_finished(repository: Path) -> None:
    commit(repository)
    write(repository, "a.yaml", fails="cell")
    with relative(suite(), "HEAD", repository, repeats=1) as found:
        assert list(found.seconds) == [("colors", "b")]
        assert records_of(found.new[0], ("colors", "a"))[0].status == "failed"


def test_spans_that_take_no_time_are_not_compared(repository: Path) -> None:
    write(repository, "a.yaml", seconds=0.002)  # twice in the answers of two seeds, four times in their set-up
    write(repository, "b.yaml", seconds=0.002)
    commit(repository)
    write(repository, "b.yaml", seconds=0.006)
    with relative(suite(), "HEAD", repository, repeats=1) as found:
        assert {arm: set(spans) for arm, spans in found.seconds.items()} == {("colors", "b"): {"setup", "answer"}}


def test_known_ratios() -> None:
    assert time_ratio([2.0] * 5, [3.0] * 5) == (1.5, 1.5, 1.5)
    ratio, low, high = time_ratio([1.0, 1.1, 0.9, 1.0, 5.0], [2.0, 2.2, 1.8, 2.0, 1.9]) or (0, 0, 0)
    assert ratio == 2.0  # an outlier does not move a median
    assert low < 2 < high
    # The 2.5 % quantile of the resampled median, by hand: of 5 values the median is the least one where at least 3 of 5 draws are it,
    # probability .0579; so both quantiles of a side against a constant are its extremes.
    assert time_ratio([1.0] * 5, [1.0, 2.0, 3.0, 4.0, 5.0]) == (3.0, 1.0, 5.0)
    assert time_ratio([1.0, 2.0, 3.0, 4.0, 5.0], [1.0] * 5) == (1 / 3, 1 / 5, 1.0)
    values = [1.0, 1.3, 1.2, 1.6, 1.4, 1.1]
    assert time_ratio(values, values[::-1], seed=3) == time_ratio(values, values[::-1], seed=3)


@pytest.mark.parametrize(("old", "new"), [([1.0] * 4, [1.0] * 9), ([1.0] * 9, [1.0] * 4), ([], []), ([0.0] * 5, [1.0] * 5)])
def test_a_ratio_is_undefined_for_few_values_and_for_nothing(old: list[float], new: list[float]) -> None:
    assert time_ratio(old, new) is None


@pytest.mark.parametrize("n", [5, 10, 20])
def test_the_interval_covers_the_ratio(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.regression.relative.RESAMPLES", 1000)
    generator = np.random.default_rng(n)
    trials = 400
    covered = 0
    for _ in range(trials):
        old, new = (scale * generator.lognormal(0, 0.1, n) for scale in (1.0, 1.2))
        _, low, high = time_ratio(list(old), list(new)) or (0, 0, 0)
        covered += low <= 1.2 <= high
    # Over 3,000 trials .976, .967 and .972: medians of few values are coarse, on the wide side.
    assert 0.945 <= covered / trials <= 0.995
