"""A user's git repository in a temporary folder, and a stand-in for the harness that a commit can hold as its own."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

STAND_IN = '''
"""Writes a record as the strategy file says, in milliseconds: {quality, seconds, fails: cell | tool}."""
import json, os, sys
from pathlib import Path
import yaml

def main():
    _, command, suite_file, *options = sys.argv
    assert command == "run"
    options = dict(zip(options[::2], options[1::2]))
    suite = yaml.safe_load(Path(suite_file).read_text())
    known = {"model", "tasks", "strategies", "seeds", "budget", "limit", "settings"}
    for key in suite:
        if key not in known:
            print(f'bench: {suite_file}: unknown key "{key}"; expected one of: model', file=sys.stderr)
            sys.exit(2)
    task, strategy = suite["tasks"][0], suite["strategies"][0]
    if not Path(strategy).is_file():
        print(f"bench: strategy {strategy}: no such file", file=sys.stderr)
        sys.exit(2)
    says = yaml.safe_load(Path(strategy).read_text())
    if "STAND_IN_LOG" in os.environ:
        with open(os.environ["STAND_IN_LOG"], "a") as log:
            arm = [Path(task).name, Path(strategy).stem]
            log.write(json.dumps({"cwd": os.getcwd(), "arm": arm, "suite": suite, "options": options}) + "\\n")
    if says.get("fails") == "tool":
        raise RuntimeError("the tool is broken here")
    run = Path(options["--results"]) / options["--name"]
    failed = says.get("fails") == "cell"
    for seed in suite["seeds"]:
        phase = {"wall_seconds": says.get("seconds", 1.0), "cpu_seconds": 1.0, "flops": 0.0}
        cell = run / "cells" / Path(task).name / Path(strategy).stem / f"s{seed}"
        cell.mkdir(parents=True, exist_ok=True)
        metric = {"accuracy": {"value": says["quality"], "n_scored": 10}}
        record = {"cell_id": "x", "task": Path(task).name, "model": "m", "strategy": Path(strategy).stem, "seed": seed}
        record |= {"status": "failed", "error": "boom"} if failed else {
            "status": "ok", "metrics": metric, "phases": {"tune": phase, "index": phase, "answer": phase}}
        (cell / "record.json").write_text(json.dumps(record))
    header = {"name": options["--name"], "suite": suite, "environment": {}, "started": "2026-01-01T00:00:00+00:00"}
    (run / "run.json").write_text(json.dumps(header | {"status": "failed" if failed else "ok"}))
    if failed:
        print("bench: 1 of 1 cells failed", file=sys.stderr)
        sys.exit(2)
'''


def git(folder: Path, *arguments: str) -> str:
    who = {"GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@example.com", "GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@example.com"}
    command = ["git", "-c", "init.defaultBranch=main", "-c", "commit.gpgsign=false", *arguments]
    return subprocess.run(command, cwd=folder, env=os.environ | who, check=True, capture_output=True, text=True).stdout.strip()


def commit(folder: Path, message: str = "a change") -> str:
    """Everything as it is; the full hash."""
    git(folder, "add", "-A")
    git(folder, "commit", "--allow-empty", "-q", "-m", message)
    return git(folder, "rev-parse", "HEAD")


def write(folder: Path, name: str, **says: Any) -> None:
    """What the stand-in does with a strategy file."""
    (folder / name).write_text(json.dumps({"quality": 0.9} | says))


def with_stand_in(folder: Path) -> Path:
    """A repository that holds the stand-in as its package ``bench``, a task and two strategy files; nothing is committed."""
    (folder / "bench").mkdir(parents=True)
    git(folder, "init", "-q")
    (folder / "bench" / "__init__.py").touch()
    (folder / "bench" / "suite.py").touch()
    (folder / "bench" / "cli.py").write_text(STAND_IN)
    (folder / "tasks" / "colors").mkdir(parents=True)
    (folder / "tasks" / "colors" / "task.yaml").write_text("kind: classification\n")
    for name in ("a.yaml", "b.yaml"):
        write(folder, name)
    return folder


def suite(**keys: Any) -> dict[str, Any]:
    """As in ``run.json``."""
    return {
        "model": "embedded", "tasks": ["tasks/colors"], "strategies": ["a.yaml", "b.yaml"], "seeds": [0, 1], "limit": None, "data": None,
        "budget": {"train_examples": None, "trials": 2, "validation_examples": None}, "settings": {}, "probes": ["forgetting"],
        "probe_settings": {}, "trust_remote_code": False, "multitask": False, "continue_from": None,
    } | keys  # fmt: skip


def calls(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]
