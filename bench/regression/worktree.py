"""A commit's code beside the working tree's: checked out into a temporary folder, run there, and removed again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from bench.errors import BenchError, did_you_mean
from bench.result.schema import Record
from bench.result.store import RunFolder
from bench.result.text import visible
from bench.settings import shown

BENCH = "from bench.cli import main; main()"
"""``python -m bench`` would need a module that the first versions do not have."""
LIBRARIES = ("constraints*.txt", "requirements*.txt", "pyproject.toml", "uv.lock", "poetry.lock")
"""Files that say which libraries a commit runs with."""
HOOK_VARIABLES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY")
"""What git sets for its hooks; a command that they reach works on the hook's tree, whatever folder it runs in."""
Arm = tuple[str, str]
"""Task and strategy, by the names that records have."""


@dataclass(frozen=True)
class Side:
    """Code that can run a suite: the working tree as it is, or a commit that is checked out beside it."""

    label: str
    """What messages call it: ``the working tree``, or the commit's first ten digits."""
    commit: str | None
    """The full hash; None for the working tree."""
    root: Path
    """Root of its tree."""
    folder: Path
    """Where its commands run: the folder in it that is in the place of `user_folder`."""
    user_folder: Path
    """The folder of the working tree that the comparison is made for: the one with ``tasks/`` and the suites."""
    user_root: Path
    """Root of the working tree."""
    python: Path
    """The interpreter that runs it."""
    notes: tuple[str, ...] = ()

    def run(self, suite: dict[str, Any], arm: Arm, results: Path, name: str) -> RunFolder:
        """Run one arm of a suite, all of its seeds, with this side's code, tasks and strategy files; probes are left out.

        `suite`: as in ``run.json``. Arms that are run with the same `results` and `name`, each of them once, gather in one folder. A
        cell that fails is a record there, as ever. Raises `BenchError` where no cell could be run, with what the command said last.
        """
        folder = RunFolder(results.resolve() / name)
        with tempfile.TemporaryDirectory(prefix="bench-suite-") as temporary:
            file = Path(temporary) / "suite.yaml"
            file.write_text(yaml.safe_dump(self.suite(suite, arm), allow_unicode=True, sort_keys=False))
            # -P: the folder that it runs in holds a user's files, and one of them may be called as a library is.
            command = [self.python, "-P", "-c", BENCH, "run", file, "--results", folder.path.parent, "--name", name, "--workers", "1"]
            done = self._call(list(map(str, command)))
        if done.returncode and not self._ended_with_failed_cells(done.returncode, folder, arm):
            said = _last_lines(done.stderr.replace(str(file), "the suite"))
            hint = " (an older version of bench, which does not know this key of the suite)" if "unknown key" in said else ""
            raise BenchError(f"{self.label}: {' / '.join(arm)} cannot be run there: {said or f'exit code {done.returncode}'}{hint}")
        return folder

    def suite(self, suite: dict[str, Any], arm: Arm) -> dict[str, Any]:
        """The suite with one arm, as this side reads it: without what is not set, so that a version that has no such key can read it,
        and with paths of the working tree turned to this tree. Raises `BenchError` for an arm that the suite does not have."""
        task, strategy = _entries(suite, arm)
        # "./" in a suite file is the file's folder, and here a temporary one.
        own = str(Path(self._path(strategy))) if "/" in strategy else strategy
        return {"tasks": [self._path(task)], "strategies": [own]} | _set_keys(self._paths(_without_arms(suite)))

    def shared(self, suite: dict[str, Any]) -> list[str]:
        """Notes on what the suite names by path that the working tree has and this tree has not, such as weights that git ignores. A
        task or a strategy file is none of these: it has to be the commit's own."""
        found = dict.fromkeys(text for text in _texts(_without_arms(suite)) if self._only_of_user(text))
        return [f"{visible(text)}: is not in {self.label}, which used the working tree's" for text in found]

    def _paths(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._paths(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._paths(inner) for inner in value]
        if not isinstance(value, str):
            return value
        return str(self.user_folder / value) if self._only_of_user(value) else self._path(value)

    def _only_of_user(self, text: str) -> bool:
        return "/" in text and (self.user_folder / text).exists() and not (self.folder / self._path(text)).exists()

    def _path(self, text: str) -> str:
        """A path as it reads in this tree; other text as it is."""
        if "/" not in text:
            return text
        path = (self.user_folder / text).resolve()
        if not path.is_relative_to(self.user_root):
            return str(path) if path.exists() else text
        return str(self.root / path.relative_to(self.user_root)) if Path(text).is_absolute() else text

    def _call(self, command: list[str] | str) -> subprocess.CompletedProcess[str]:
        """A command in this tree; a text is a shell's. Raises `BenchError` where it cannot be started."""
        environment = clean_environment()
        inherited = environment.get("PYTHONPATH", "").split(os.pathsep)
        turned = [there if Path(there := self._path(entry)).exists() else entry for entry in inherited if entry]
        # A tree that holds the package itself is run by its own.
        own = [str(f) for f in dict.fromkeys((self.folder, self.root)) if (f / "bench/cli.py").exists() and (f / "bench/suite.py").exists()]
        environment["PYTHONPATH"] = os.pathsep.join([*own, *turned])
        try:
            return subprocess.run(  # noqa: S603 (the interpreter, or the user's own set-up command)
                command, shell=isinstance(command, str), cwd=self.folder, env=environment, text=True, errors="replace",
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False,
            )  # fmt: skip
        except OSError as error:
            raise BenchError(f"{self.label}: {self.python} cannot be started: {error.strerror}") from error

    @staticmethod
    def _ended_with_failed_cells(code: int, folder: RunFolder, arm: Arm) -> bool:
        """Whether the run came to its end and its failures are in the records."""
        return code == 2 and bool(records_of(folder, arm)) and folder.read_run().status == "failed"


def working_tree(folder: Path) -> Side:
    """The code of a folder as it is, changes that are not committed included. Raises `BenchError` outside a repository."""
    folder, root = folder.resolve(), _root(folder)
    return Side("the working tree", None, root, folder, folder, root, Path(sys.executable))


@contextmanager
def checked_out(folder: Path, commit: str, setup: str | None = None, python: str | None = None) -> Iterator[Side]:
    """A commit of the repository that `folder` is in, checked out into a temporary folder that is removed at the end.

    `setup`: a shell command, run first in the counterpart of `folder`, such as ``make setup``; `python`: the interpreter that it makes,
    relative to there. By default the present interpreter and its libraries run the commit's code, and where files that name libraries
    differ from the working tree's, a note says so. Raises `BenchError` where the commit is not there, or its set-up fails.
    """
    folder, root, commit = folder.resolve(), _root(folder), resolve(folder, commit)
    label = commit[:10]
    with tempfile.TemporaryDirectory(prefix="bench-worktree-", ignore_cleanup_errors=True) as temporary:
        tree = Path(temporary).resolve() / "tree"
        try:
            git(folder, "-c", "core.hooksPath=/dev/null", "worktree", "add", "--detach", str(tree), commit)
            there = tree / folder.relative_to(root)
            if not there.is_dir():
                raise BenchError(f"{label}: has no folder {folder.relative_to(root)}; expected the one with the tasks and suites")
            notes = () if setup else _other_libraries(folder, commit, label)
            side = Side(label, commit, tree, there, folder, root, Path(sys.executable), notes)
            if setup and (done := side._call(setup)).returncode:
                raise BenchError(f"{label}: the set-up command ended with exit code {done.returncode}: {_last_lines(done.stderr)}")
            if python:
                # Not resolved: the interpreter of a virtual environment is a link, and known by where it lies.
                own = there / python
                if not own.is_file():
                    raise BenchError(f"{label}: found no interpreter {python} in the commit's folder after its set-up")
                side = replace(side, python=own)
            yield side
        finally:
            _remove(folder, tree)


def resolve(folder: Path, commit: str) -> str:
    """The full hash of a commit. Raises `BenchError` where the repository does not have it."""
    root = _root(folder)
    if not commit or not commit.isprintable():
        raise BenchError(f"commit {shown(commit)}: expected a hash, a tag or a branch")
    found = _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}")
    if found.returncode == 0:
        return found.stdout.strip()
    if git(root, "rev-parse", "--is-shallow-repository") == "true":
        raise BenchError(f"commit {commit}: is not in this shallow clone; fetch it: git fetch --depth=1 origin {commit}")
    raise BenchError(f"commit {commit}: the repository {root} has no such commit; git fetch origin {commit} may bring it")


def git(folder: Path, *arguments: str) -> str:
    """What git prints. Raises `BenchError` with what it says where it fails."""
    done = _git(folder, *arguments)
    if done.returncode:
        raise BenchError(f"{folder}: git: {_last_lines(done.stderr)}")
    return done.stdout.strip()


def clean_environment() -> dict[str, str]:
    """The environment without what git sets for its hooks."""
    return {key: value for key, value in os.environ.items() if key not in HOOK_VARIABLES}


def arms_of(suite: dict[str, Any]) -> list[Arm]:
    """All arms of a suite, by the names that their records have, in its order."""
    return [(_task(task), _strategy(strategy)) for task in _named(suite, "tasks") for strategy in _strategies(suite)]


def records_of(folder: RunFolder, arm: Arm) -> list[Record]:
    """The records of an arm in a run, without a look at the others'. Raises `BenchError` where one cannot be read."""
    cells = folder.cell_folder(*arm, seed=0).parent.glob("s*/record.json")
    found = [folder.read_record(*arm, seed=int(path.parent.name[1:])) for path in sorted(cells)]
    return [record for record in found if record]


def write_header(folder: RunFolder, suite: dict[str, Any]) -> None:
    """Say in ``run.json`` what was run by arms: the whole suite."""
    folder.write_run(folder.read_run().model_copy(update={"suite": suite}))


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603
            ["git", *arguments], cwd=folder, env=clean_environment(), capture_output=True, text=True, errors="replace", check=False,  # noqa: S607
        )  # fmt: skip
    except (FileNotFoundError, NotADirectoryError) as error:
        what = "no such folder" if not folder.is_dir() else "git is not installed, and is needed to check a commit out"
        raise BenchError(f"{folder}: {what}") from error


def _root(folder: Path) -> Path:
    found = _git(folder, "rev-parse", "--show-toplevel")
    if found.returncode:
        raise BenchError(f"{folder}: expected a git repository with a working tree: {_last_lines(found.stderr)}")
    return Path(found.stdout.strip()).resolve()


def _remove(folder: Path, tree: Path) -> None:
    if _git(folder, "worktree", "remove", "--force", str(tree)).returncode:
        # It was never made, or its folder is broken; git then keeps an entry for as long as the folder is there.
        shutil.rmtree(tree, ignore_errors=True)
        _git(folder, "worktree", "prune")


def _other_libraries(folder: Path, commit: str, label: str) -> tuple[str, ...]:
    paths = [f":({magic}){name}" for name in LIBRARIES for magic in ("glob", "top,glob")]
    changed = git(folder, "diff", "--name-only", commit, "--", *paths).splitlines()
    if not changed:
        return ()
    what = ", ".join(visible(name) for name in changed)
    return (f"{label} ran with the libraries installed now, though {what} changed since; a set-up command gives it its own",)


def _named(suite: dict[str, Any], key: str) -> list[str]:
    found = suite.get(key)
    if not isinstance(found, list) or not found or not all(isinstance(name, str) for name in found):
        raise BenchError(f"suite of the run: key {key}: found {shown(found)}, expected a list of names")
    return found


def _strategies(suite: dict[str, Any]) -> list[str]:
    from bench.strategy.spec import preset_names

    return [name for entry in _named(suite, "strategies") for name in (preset_names() if entry == "all" else [entry])]


def _entries(suite: dict[str, Any], arm: Arm) -> tuple[str, str]:
    """The arm's task and strategy as the suite names them."""
    tasks = {_task(entry): entry for entry in _named(suite, "tasks")}
    strategies = {_strategy(entry): entry for entry in _strategies(suite)}
    for name, known, what in zip(arm, (tasks, strategies), ("task", "strategy"), strict=True):
        if name not in known:
            raise BenchError(f'{what} "{name}": the suite has none of this name; {did_you_mean(name, known)}')
    return tasks[arm[0]], strategies[arm[1]]


def _task(entry: str) -> str:
    return Path(entry).resolve().name


def _strategy(entry: str) -> str:
    return Path(entry).stem if entry.endswith((".yaml", ".yml")) or "/" in entry else entry


def _without_arms(suite: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in suite.items() if key not in ("tasks", "strategies", "probes", "probe_settings")}


def _set_keys(suite: dict[str, Any]) -> dict[str, Any]:
    """Without keys that are null, false or empty, which in a suite all mean that something is not asked for."""
    plain = {key: _set_keys(value) if key == "budget" else value for key, value in suite.items()}
    return {key: value for key, value in plain.items() if value is not None and value is not False and value not in ([], {})}


def _texts(value: Any) -> list[str]:
    """All texts among nested values."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [value] if isinstance(value, str) else [text for each in inner for text in _texts(each)]


def _last_lines(text: str, count: int = 3) -> str:
    """The end of what a command said, as one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return visible(" | ".join(lines[-count:]))[-600:]
