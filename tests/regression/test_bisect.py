"""The first bad commit, by running commits between."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_repository import calls, commit, git, suite, with_stand_in, write

from bench.errors import BenchError
from bench.regression.bisect import Verdict, between, bisect, first_bad
from bench.regression.relative import relative
from bench.regression.worktree import records_of
from bench.result.store import RunFolder

ARM = ("colors", "a")


def judge(old: RunFolder, new: RunFolder) -> Verdict:
    """Bad where accuracy fell by more than a tenth, unclear by more than a twentieth."""
    before, after = (records_of(run, ARM)[0].metrics["accuracy"].value for run in (old, new))
    return "bad" if after < before - 0.1 else "unclear" if after < before - 0.05 else "good"


def counted(truth: str) -> tuple[list[str], Callable[[str], Verdict]]:
    """Commits "0", "1", … with a verdict each (g, b, u), as a function that keeps what it is asked."""
    asked: list[str] = []

    def verdict(name: str) -> Verdict:
        asked.append(name)
        return {"g": "good", "b": "bad", "u": "unclear"}[truth[int(name)]]  # type: ignore[return-value]

    return asked, verdict


def test_every_place_among_sixteen_is_found_in_four_runs() -> None:
    for first in range(16):
        asked, verdict = counted("g" * first + "b" * (16 - first))
        assert first_bad([str(i) for i in range(16)], verdict) == [str(first)]
        assert len(asked) <= 4  # and the two ends: six
        assert len(set(asked)) == len(asked)


def test_unclear_commits_are_stepped_over() -> None:
    for truth, expected in {
        "gguggbbb": ["5"], "ggguubbb": ["3", "4", "5"], "uuuuuuub": list("01234567"), "b": ["0"], "ub": ["0", "1"], "gubbbbbb": ["1", "2"],
        "ggggguub": ["5", "6", "7"], "gggubbbu" + "b": ["3", "4"],
    }.items():  # fmt: skip
        asked, verdict = counted(truth)
        assert first_bad([str(i) for i in range(len(truth))], verdict) == expected, truth
        assert len(set(asked)) == len(asked)


def test_a_broken_middle_costs_its_neighbours() -> None:
    asked, verdict = counted("g" * 6 + "uuu" + "b" * 7)
    assert first_bad([str(i) for i in range(16)], verdict) == ["6", "7", "8", "9"]
    assert asked == ["7", "6", "8", "5", "10", "9"]


@pytest.mark.parametrize("truth", ["gbgbgbgb", "bgggggbb", "ggbbggbb", "bgbgbbgb"])
def test_what_goes_and_comes_is_found_at_some_bad_commit_after_a_good_one(truth: str) -> None:
    _, verdict = counted(truth)
    (found,) = first_bad([str(i) for i in range(8)], verdict)
    assert truth[int(found)] == "b"
    assert found == "0" or truth[int(found) - 1] == "g"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return with_stand_in(tmp_path / "ours")


def test_sixteen_commits_that_are_run(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = commit(repository)
    commits = []
    for i in range(16):
        write(repository, "a.yaml", quality=0.9 if i < 10 else 0.7, **({"fails": "tool"} if i == 7 else {}))
        commits.append(commit(repository, f"change {i}\x1b[31m\n\nbody"))
    write(repository, "a.yaml", quality=0.9)  # not committed, and not looked at
    monkeypatch.setenv("STAND_IN_LOG", str(tmp_path / "log"))
    told: list[str] = []
    found = bisect(repository, good[:12], "main", suite(), [ARM], judge, progress=told.append)
    assert found.first_bad == commits[10]
    assert found.n_between == 16
    tried = [commits.index(step.commit) if step.commit != good else None for step in found.steps]
    assert tried == [None, 15, 7, 6, 10, 8, 9]
    assert [step.verdict for step in found.steps] == ["good", "bad", "unclear", "good", "bad", "good", "good"]
    assert "the tool is broken here" in found.steps[2].reason
    assert found.steps[1].subject == "change 15␛[31m"
    assert all(step.seconds > 0 for step in found.steps)
    assert [call["arm"] for call in calls(tmp_path / "log")] == [list(ARM)] * 7  # the other arm of the suite is not run
    assert told[:2] == [f"{good[:10]} a change", f"{good[:10]} is good"]
    assert git(repository, "worktree", "list").count("\n") == 0


def test_candidates_that_cannot_be_told_apart(repository: Path) -> None:
    good = commit(repository)
    commits = []
    for quality in (0.9, 0.83, 0.7):  # the second is unclear
        write(repository, "a.yaml", quality=quality)
        commits.append(commit(repository))
    found = bisect(repository, good, "HEAD", suite(), [ARM], judge)
    assert found.first_bad is None
    assert found.candidates == tuple(commits[1:])
    assert (found.steps[-1].verdict, found.steps[-1].reason) == ("unclear", "")


def test_ends_have_to_be_what_they_are_called(repository: Path) -> None:
    first = commit(repository)
    second = commit(repository)
    write(repository, "a.yaml", fails="tool")
    broken = commit(repository)
    write(repository, "a.yaml", quality=0.5)
    bad = commit(repository)

    def wrong(good: str, last: str, judged: Any = judge) -> str:
        with pytest.raises(BenchError) as error:
            bisect(repository, good, last, suite(), [ARM], judged)
        return str(error.value)

    assert wrong(first, second).endswith(f"worse than {first[:10]}, found it good; what changed is not in what is committed")
    assert "the tool is broken here" in wrong(first, broken)
    assert wrong(broken, bad).startswith(f"commit {broken[:10]}: expected a good one, found it unclear (")
    assert wrong(first, bad, lambda old, new: "bad") == f"commit {first[:10]}: expected a good one, found it bad"
    assert "expected an ancestor" in wrong(bad, first)
    assert "expected an ancestor" in wrong(first, first)
    with pytest.raises(BenchError, match="found no arms"):
        bisect(repository, first, bad, suite(), [], judge)


def test_a_merge_is_one_change(repository: Path) -> None:
    good = commit(repository, "good")
    git(repository, "checkout", "-q", "-b", "side")
    side = [commit(repository, f"side {i}") for i in range(2)]
    git(repository, "checkout", "-q", "main")
    first = commit(repository, "first")
    git(repository, "merge", "-q", "--no-ff", "-m", "merge", "side")
    merge = git(repository, "rev-parse", "HEAD")
    last = commit(repository, "last")
    assert between(repository, good, last) == [first, merge, last]
    assert between(repository, side[0], last) == [merge, last]  # what came in by a merge stands before it
    with pytest.raises(BenchError, match="expected an ancestor"):
        between(repository, first, side[0])


def test_a_shallow_clone_is_told_to_fetch(repository: Path, tmp_path: Path) -> None:
    good = commit(repository)
    for _ in range(3):
        last = commit(repository)
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{repository}", "shallow")
    git(tmp_path / "shallow", "fetch", "-q", "--depth=1", "origin", good)
    with pytest.raises(BenchError, match="this clone is shallow: git fetch --unshallow"):
        between(tmp_path / "shallow", good, last)


def test_with_the_harness_itself(make_task: Callable[..., Path], tmp_path: Path) -> None:
    """The repository of a user who has the harness installed: a task whose labels are turned around at a known commit."""
    task = make_task(n=8)
    (tmp_path / "own.yaml").write_text("prompt: {constant: majority}\n")
    git(tmp_path, "init", "-q")
    given = suite(tasks=["colors"], strategies=["own.yaml"], seeds=[0], budget={"trials": 1})
    rows = (task / "train.jsonl").read_text()

    def say(most: str, few: str) -> None:
        (task / "train.jsonl").write_text(rows.replace("zek", most).replace("pol", most).replace(most, few, 1))

    say("zek", "pol")
    commits = [commit(tmp_path)]
    say("pol", "zek")
    commits += [commit(tmp_path)]

    def answers(run: RunFolder) -> set[str]:
        (record,) = records_of(run, ("colors", "own"))
        return {item.prediction for item in run.read_items("colors", "own", record.seed)}

    found = bisect(
        tmp_path, commits[0], "HEAD", given, [("colors", "own")], lambda old, new: "good" if answers(old) == answers(new) else "bad"
    )
    assert found.first_bad == commits[1]
    say("zek", "pol")
    with relative(given, "HEAD", tmp_path, repeats=1) as both:
        assert answers(both.old[0]) == {"pol"}
        assert answers(both.new[0]) == {"zek"}  # not committed
        assert both.seconds == {}  # a constant takes no time
