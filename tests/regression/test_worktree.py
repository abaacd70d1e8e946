"""A commit checked out beside the working tree and run there."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_repository import calls, commit, git, suite, with_stand_in, write

from bench.errors import BenchError
from bench.regression.worktree import arms_of, checked_out, records_of, resolve, working_tree, write_header

ARM = ("colors", "a")


def quality(run, arm=ARM) -> list[float]:  # type: ignore[no-untyped-def]
    return [record.metrics["accuracy"].value for record in records_of(run, arm)]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return with_stand_in(tmp_path / "ours")


def n_worktrees(repository: Path) -> int:
    return len(git(repository, "worktree", "list", "--porcelain").split("\n\n"))


def test_each_side_runs_its_own_code_tasks_and_strategies(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old_code = (repository / "bench" / "cli.py").read_text()
    (repository / "bench" / "cli.py").write_text(old_code.replace('says["quality"]', 'says["quality"] / 2'))
    write(repository, "a.yaml", quality=0.8)
    first = commit(repository)
    (repository / "bench" / "cli.py").write_text(old_code)
    commit(repository, "the code no longer halves")
    write(repository, "a.yaml", quality=0.6)  # not committed
    monkeypatch.setenv("STAND_IN_LOG", str(tmp_path / "log"))
    with checked_out(repository, first) as side:
        assert n_worktrees(repository) == 2
        old = side.run(suite(), ARM, tmp_path / "results", "old")
        assert records_of(old, ("colors", "b")) == []
    new = working_tree(repository).run(suite(), ARM, tmp_path / "results", "new")
    assert quality(old) == [0.4, 0.4]  # one a seed
    assert quality(new) == [0.6, 0.6]
    there, here = calls(tmp_path / "log")
    assert there["cwd"] == str(side.folder)
    assert here["cwd"] == str(repository)
    assert there["options"]["--workers"] == "1"
    assert n_worktrees(repository) == 1
    assert not side.root.parent.exists()


def test_a_suite_holds_one_arm_and_no_key_that_is_not_set(repository: Path) -> None:
    commit(repository)
    with checked_out(repository, "HEAD") as side:
        read = side.suite(suite(settings={"prompt.cite": False}, multitask=True), ARM)
        assert side.suite(suite(strategies=["./a.yaml"]), ARM)["strategies"] == ["a.yaml"]
        with pytest.raises(BenchError, match='strategy "c": the suite has none of this name'):
            side.suite(suite(), ("colors", "c"))
    assert read == {
        "tasks": ["tasks/colors"], "strategies": ["a.yaml"], "model": "embedded", "seeds": [0, 1], "budget": {"trials": 2},
        "settings": {"prompt.cite": False}, "multitask": True,
    }  # fmt: skip


def test_paths_of_the_working_tree_are_turned_to_the_commits(repository: Path, tmp_path: Path) -> None:
    (repository / "committed").mkdir()
    (repository / "committed" / "file").touch()
    commit(repository)
    (repository / "ignored").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "link").symlink_to(repository)
    given = suite(
        model="./ignored", data=str(tmp_path / "link" / "committed"), strategies=[str(repository / "a.yaml")],
        tasks=[str(repository / "tasks" / "new"), "../outside"],
        settings={
            "retrieval.embedder": "org/name", "retrieval.reranker": "../outside", "tuning.targets": ["a/b", str(repository / "ignored")],
        },
    )  # fmt: skip
    with checked_out(repository, "HEAD") as side:
        read = side.suite(given, ("new", "a"))
        assert read["data"] == str(side.root / "committed")
        assert read["strategies"] == [str(side.root / "a.yaml")]
        assert read["tasks"] == [str(side.root / "tasks" / "new")]  # not there, which the run will say: never the working tree's
        assert read["model"] == str(repository / "ignored")
        assert read["settings"]["retrieval.embedder"] == "org/name"
        assert read["settings"]["retrieval.reranker"] == str(tmp_path / "outside")
        assert read["settings"]["tuning.targets"] == ["a/b", str(repository / "ignored")]
        assert side.suite(given, ("outside", "a"))["tasks"] == [str(tmp_path / "outside")]
        assert [note.split(":")[0] for note in side.shared(given)] == ["./ignored", str(repository / "ignored")]
    here = working_tree(repository)
    assert here.suite(given, ("new", "a"))["model"] == "./ignored"
    assert here.shared(given) == []


def test_a_project_in_a_folder_of_its_repository(tmp_path: Path) -> None:
    with_stand_in(tmp_path / "ours" / "evaluation")
    git(tmp_path / "ours", "init", "-q")
    (tmp_path / "ours" / "evaluation" / ".git").rename(tmp_path / "unused")
    first = commit(tmp_path / "ours")
    write(tmp_path / "ours" / "evaluation", "a.yaml", quality=0.1)
    with checked_out(tmp_path / "ours" / "evaluation", first) as side:
        assert side.folder == side.root / "evaluation"
        assert quality(side.run(suite(), ARM, tmp_path / "results", "old")) == [0.9, 0.9]
    (tmp_path / "ours" / "other").mkdir()
    with pytest.raises(BenchError, match="has no folder other"), checked_out(tmp_path / "ours" / "other", first):
        pass


def test_cells_that_fail_are_records_and_a_tool_that_fails_is_an_error(repository: Path, tmp_path: Path) -> None:
    write(repository, "a.yaml", fails="cell")
    write(repository, "b.yaml", fails="tool")
    commit(repository)
    with checked_out(repository, "HEAD") as side:
        run = side.run(suite(), ARM, tmp_path, "run")
        assert [(r.status, r.error) for r in records_of(run, ARM)] == [("failed", "boom")] * 2
        # The run.json of the arm before says "failed" too, which is not this arm's.
        with pytest.raises(BenchError, match=r"^\w{10}: colors / b cannot be run there: .*RuntimeError: the tool is broken here$"):
            side.run(suite(), ("colors", "b"), tmp_path, "run")
        with pytest.raises(BenchError, match=r"cannot be run there: bench: strategy c\.yaml: no such file"):
            side.run(suite(strategies=["c.yaml"]), ("colors", "c"), tmp_path, "run")
        with pytest.raises(BenchError, match=r'bench: the suite: unknown key "multitask".*an older version of bench'):
            side.run(suite(multitask=True), ARM, tmp_path, "other")


def test_the_header_says_the_whole_suite(repository: Path, tmp_path: Path) -> None:
    commit(repository)
    for arm in arms_of(suite()):
        run = working_tree(repository).run(suite(), arm, tmp_path, "run")
    assert run.read_run().suite["strategies"] == ["b.yaml"]
    write_header(run, suite())
    assert run.read_run().suite == suite()
    assert len(list(run.records())) == 4


def test_arms_have_the_names_of_their_records() -> None:
    from bench.strategy.spec import preset_names

    assert arms_of(suite(tasks=["product_support", "/x/colors/"], strategies=["rag", "./files/own.yaml"])) == [
        ("product_support", "rag"), ("product_support", "own"), ("colors", "rag"), ("colors", "own"),
    ]  # fmt: skip
    assert [strategy for _, strategy in arms_of(suite(strategies=["all"]))] == preset_names()
    for wrong in (None, [], "rag", [1]):
        with pytest.raises(BenchError, match=r"key strategies: found .*, expected a list of names"):
            arms_of(suite(strategies=wrong))


def test_a_setup_makes_the_interpreter(repository: Path, tmp_path: Path) -> None:
    commit(repository)
    # An interpreter that leaves a mark, so that it is seen to be the one that runs.
    setup = (
        f"mkdir -p env && printf '#!/bin/sh\\ntouch {tmp_path}/ran\\nexec {sys.executable} \"$@\"\\n' > env/python && chmod +x env/python"
    )
    with checked_out(repository, "HEAD", setup=setup, python="env/python") as side:
        assert quality(side.run(suite(), ARM, tmp_path, "run")) == [0.9, 0.9]
    assert (tmp_path / "ran").exists()
    failing = "echo no compiler >&2; echo here >&2; exit 3"
    said = r"set-up command ended with exit code 3: no compiler \| here"
    with pytest.raises(BenchError, match=said), checked_out(repository, "HEAD", setup=failing):
        pass
    with pytest.raises(BenchError, match="found no interpreter env/python"), checked_out(repository, "HEAD", python="env/python"):
        pass
    assert n_worktrees(repository) == 1


def test_other_libraries_are_a_note_unless_there_is_a_setup(repository: Path) -> None:
    (repository / "requirements-dev.txt").write_text("torch==2.0\n")
    first = commit(repository)
    with checked_out(repository, first) as side:
        assert side.notes == ()
    (repository / "requirements-dev.txt").write_text("torch==2.1\n")
    (repository / "uv.lock").touch()
    commit(repository)
    with checked_out(repository, first) as side:
        assert side.notes == (
            f"{first[:10]} ran with the libraries installed now, though requirements-dev.txt, uv.lock changed since; "
            "a set-up command gives it its own",
        )
    with checked_out(repository, first, setup="true") as side:
        assert side.notes == ()


def test_python_path_of_the_user_is_turned_too(repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (repository / "plugins").mkdir()
    (repository / "plugins" / "ours.py").touch()
    commit(repository)
    (repository / "site").mkdir()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(repository / "plugins"), str(repository / "site"), "relative"]))
    with checked_out(repository, "HEAD", setup=f"printenv PYTHONPATH > {tmp_path}/seen") as side:
        seen = (tmp_path / "seen").read_text().strip().split(os.pathsep)
        assert seen == [str(side.root), str(side.root / "plugins"), str(repository / "site"), "relative"]


def test_within_a_hook_the_worktree_is_its_own(repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    commit(repository)
    (repository / ".git" / "hooks" / "post-checkout").write_text(f"#!/bin/sh\ntouch {tmp_path}/hooked\n")
    (repository / ".git" / "hooks" / "post-checkout").chmod(0o755)
    before = git(repository, "ls-files", "--stage")
    for key, value in (("GIT_DIR", repository / ".git"), ("GIT_INDEX_FILE", repository / ".git" / "index"), ("GIT_PREFIX", "")):
        monkeypatch.setenv(key, str(value))
    with checked_out(repository, "HEAD", setup=f"git rev-parse --show-toplevel > {tmp_path}/top") as side:
        assert (tmp_path / "top").read_text().strip() == str(side.root)
    monkeypatch.undo()
    assert git(repository, "ls-files", "--stage") == before
    assert not (tmp_path / "hooked").exists()


def test_an_exception_leaves_nothing_behind(repository: Path) -> None:
    commit(repository)
    kept: list[Path] = []

    def fail() -> None:
        with checked_out(repository, "HEAD") as side:
            kept.append(side.root)
            (side.root / "untracked").touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert n_worktrees(repository) == 1
    assert not kept[0].exists()
    with checked_out(repository, "HEAD") as side:  # a folder that something else has removed
        subprocess.run(["rm", "-rf", side.root], check=True)
    assert n_worktrees(repository) == 1


def test_ctrl_c_leaves_nothing_behind(repository: Path, tmp_path: Path) -> None:
    commit(repository)
    code = "import signal, sys; from pathlib import Path; from bench.regression.worktree import checked_out\n"
    code += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # what runs in the background of a script ignores it otherwise
    code += f"with checked_out(Path(sys.argv[1]), 'HEAD', setup='touch {tmp_path}/begun; exec sleep 60'): pass"
    environment = os.environ | {"TMPDIR": str(tmp_path / "temporary")}
    (tmp_path / "temporary").mkdir()
    process = subprocess.Popen([sys.executable, "-c", code, repository], env=environment, stderr=subprocess.PIPE)
    while not (tmp_path / "begun").exists():
        assert process.poll() is None
        time.sleep(0.02)
    assert n_worktrees(repository) == 2
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert b"KeyboardInterrupt" in stderr
    assert n_worktrees(repository) == 1
    assert list((tmp_path / "temporary").iterdir()) == []


def test_commits_that_are_not_there(repository: Path, tmp_path: Path) -> None:
    first = commit(repository)
    commit(repository)
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{repository}", "shallow")
    with pytest.raises(BenchError, match=f"is not in this shallow clone; fetch it: git fetch --depth=1 origin {first}"):
        resolve(tmp_path / "shallow", first)
    git(tmp_path / "shallow", "fetch", "-q", "--depth=1", "origin", first)  # the advice helps
    with checked_out(tmp_path / "shallow", first) as side:
        assert side.commit == first
    with pytest.raises(BenchError, match=r"commit nowhere: the repository .* has no such commit"):
        resolve(repository, "nowhere")
    for name in ("--all", "-q", "", "a\0b", "HEAD\n"):
        with pytest.raises(BenchError, match="commit "):
            resolve(repository, name)
    assert resolve(repository, first[:8]) == first


def test_no_repository(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="expected a git repository with a working tree"):
        working_tree(tmp_path)
    with pytest.raises(BenchError, match="no such folder"):
        working_tree(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(BenchError, match="no such folder"):
        working_tree(tmp_path / "file")
