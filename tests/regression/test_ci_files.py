"""The action, the examples for CI and the hook: they parse, call commands that exist, and do what the exit codes of a check ask for."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_lines import commands, parse

ROOT = Path(__file__).parents[2]
ACTION = ROOT / "action.yml"
WORKFLOW = ROOT / "docs/ci/github-workflow.yml"
GITLAB = ROOT / "docs/ci/gitlab-ci.yml"
HOOKS = ROOT / ".pre-commit-hooks.yaml"
HOOK_CONFIG = ROOT / "docs/ci/pre-commit-config.yaml"


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def scripts(path: Path) -> Iterator[str]:
    """Every piece of shell in a file."""

    def walk(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            for key, inner in value.items():
                if key in ("run", "script", "before_script", "after_script", "entry") and isinstance(inner, str | list):
                    yield "\n".join(inner) if isinstance(inner, list) else inner
                else:
                    yield from walk(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from walk(inner)

    yield from walk(read(path))


def step(name: str) -> dict[str, Any]:
    return next(s for s in read(ACTION)["runs"]["steps"] if s.get("name") == name)


# ------------------------------------------------------------------------------------------------ they parse


@pytest.mark.parametrize(
    ("schema", "path", "options"),
    [
        ("vendor.github-actions", ACTION, []),
        ("vendor.github-workflows", WORKFLOW, []),
        ("custom.github-workflows-require-timeout", WORKFLOW, []),
        ("vendor.gitlab-ci", GITLAB, ["--data-transform", "gitlab-ci"]),
    ],
)
def test_files_of_ci_keep_to_their_schemas(schema: str, path: Path, options: list[str]) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *options, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("command", "path"), [("validate-manifest", HOOKS), ("validate-config", HOOK_CONFIG)])
def test_pre_commit_reads_its_files(command: str, path: Path) -> None:
    words = [sys.executable, "-m", "pre_commit", command, str(path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_hook_of_the_example_is_one_that_there_is() -> None:
    ids = {hook["id"] for hook in read(HOOKS)}
    assert {hook["id"] for repository in read(HOOK_CONFIG)["repos"] for hook in repository["hooks"]} == ids


def test_the_workflow_gives_the_action_inputs_that_it_has() -> None:
    known = read(ACTION)["inputs"]
    uses = [s for job in read(WORKFLOW)["jobs"].values() for s in job["steps"] if "adaptation-bench@" in s.get("uses", "")]
    assert len(uses) == 2
    for used in uses:
        assert used["with"].keys() <= known.keys()
    # A YAML true would reach the action as the text "true", but says something else to who reads it.
    assert all(isinstance(value, str) for used in uses for value in used["with"].values())
    assert all(isinstance(value["default"], str) for value in known.values())


def test_inputs_and_outputs_are_used() -> None:
    text = ACTION.read_text()
    found = set(re.findall(r"inputs\.([\w-]+)", text))
    assert found == read(ACTION)["inputs"].keys()
    ids = {s.get("id") for s in read(ACTION)["runs"]["steps"]}
    assert set(re.findall(r"steps\.(\w+)\.", text)) <= ids


# ------------------------------------------------------------------------------------------------ commands


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (ACTION, ["--help", "run", "check"]),
        (WORKFLOW, ["history"]),
        (GITLAB, ["--help", "run", "check", "run", "check", "history"]),
        (HOOKS, ["run", "check"]),
    ],
)
def test_commands_of_the_files_exist(path: Path, expected: list[str]) -> None:
    assert [parse(words) for script in scripts(path) for words in commands(script)] == expected


def test_options_that_the_action_adds_exist() -> None:
    script = step("Run and check")["run"]
    added = re.findall(r"options\+=\((\S+)\)", script)
    assert added == ["--relative", "--inconclusive-ok"]
    assert parse(["check", "results/smoke", *added]) == "check"


def test_commands_of_the_page_exist() -> None:
    text = (ROOT / "docs/ci/README.md").read_text()
    lines = re.findall(r"^    (bench .*)$", text, re.MULTILINE)
    assert [parse(words) for line in lines for words in commands(line)] == ["run", "accept"]
    for path in re.findall(r"\]\(([^)]+)\)", text):
        assert (ROOT / "docs/ci" / path).exists(), path


def test_a_command_that_does_not_exist_is_found() -> None:
    """The test of the tests above."""
    assert list(commands("bench run smoke --seeds 1 || x=$?")) == [["run", "smoke", "--seeds", "1"]]
    assert list(commands('bench check "$RUN" \\\n  --junit "$a/b.xml" > /dev/null 2>&1')) == [["check", "1", "--junit", "1/b.xml"]]
    with pytest.raises(Exception, match="no-such-option"):
        parse(["run", "smoke", "--no-such-option"])
    with pytest.raises(KeyError):
        parse(["no-such-command"])


# ------------------------------------------------------------------------------------------------ rights


def test_no_file_accepts_a_baseline_or_pushes() -> None:
    for path in (ACTION, WORKFLOW, GITLAB, HOOKS):
        for script in scripts(path):
            assert "bench accept" not in script
            assert "git push" not in script
            assert "git commit" not in script


def test_inputs_reach_the_shell_as_variables_only() -> None:
    """An expression within a script is put in before the shell reads it: the title of a pull request could be a command."""
    for path in (ACTION, WORKFLOW):
        for script in scripts(path):
            assert "${{" not in script


def test_the_workflow_has_the_least_rights() -> None:
    workflow = read(WORKFLOW)
    assert workflow["permissions"] == {"contents": "read"}
    assert {name: job.get("permissions") for name, job in workflow["jobs"].items()} == {
        "pull-request": {"contents": "read", "pull-requests": "write"},
        "main": None,
    }
    assert "pull_request_target" not in workflow[True]  # YAML 1.1 reads the key on as true
    steps = [s for job in workflow["jobs"].values() for s in job["steps"]]
    checkouts = [s for s in steps if s.get("uses", "").startswith("actions/checkout@")]
    assert len(checkouts) == 2
    assert all(s["with"]["persist-credentials"] is False for s in checkouts)
    used = [s["uses"] for s in [*steps, *read(ACTION)["runs"]["steps"]] if "uses" in s]
    assert all(re.fullmatch(r"[\w./-]+@v\d+(\.\d+\.\d+)?", name) for name in used)


def test_only_main_writes_the_history() -> None:
    jobs = read(WORKFLOW)["jobs"]
    with_history = [name for name, job in jobs.items() if any("history" in str(s.get("with")) for s in job["steps"])]
    assert with_history == ["main"]
    restore, save = (s for s in jobs["main"]["steps"] if s.get("uses", "").startswith("actions/cache/"))
    assert restore["with"]["key"] == save["with"]["key"]
    assert restore["with"]["key"].startswith(restore["with"]["restore-keys"])
    assert jobs["main"]["concurrency"]["cancel-in-progress"] is False


# ------------------------------------------------------------------------------------------------ what the steps do


FAKE_BENCH = 'echo "$*" >> calls\nif [ "$1" = run ]; then exit "$RUN_EXIT"; else exit "$CHECK_EXIT"; fi'


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


def run_step(name: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """A step of the action as GitHub runs it: its inputs at their defaults but for what is given."""
    names = {key: re.fullmatch(r"\$\{\{ inputs\.([\w-]+) \}\}", value) for key, value in step(name)["env"].items()}
    inputs = {key: read(ACTION)["inputs"][found[1]]["default"] for key, found in names.items() if found}
    environment = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "GITHUB_OUTPUT": str(folder / "output"), "GITHUB_REPOSITORY": "o/r"}
    (folder / "step.sh").write_text(step(name)["run"])
    return subprocess.run(
        ["/bin/bash", "--noprofile", "--norc", "-eo", "pipefail", "step.sh"],
        cwd=folder, env=environment | inputs | variables, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.fixture
def fake_bench(tmp_path: Path) -> Path:
    """A folder with a ``bench`` that writes down how it is called and exits as RUN_EXIT and CHECK_EXIT say."""
    program(tmp_path / ".venv/bin/bench", FAKE_BENCH)
    return tmp_path


@pytest.mark.parametrize(
    ("ran", "checked", "expected"),
    [(0, 0, 0), (0, 1, 1), (0, 2, 2), (0, 3, 3), (2, 0, 2), (2, 1, 1)],
)
def test_the_step_ends_as_the_check_does(fake_bench: Path, ran: int, checked: int, expected: int) -> None:
    """A run with a failed cell is checked as well, and does not pass."""
    done = run_step("Run and check", fake_bench, RUN_EXIT=str(ran), CHECK_EXIT=str(checked))
    assert done.returncode == expected, done.stderr
    assert [line.split()[0] for line in (fake_bench / "calls").read_text().splitlines()] == ["run", "check"]


def test_the_step_runs_the_suite_afresh_and_writes_all_reports(fake_bench: Path) -> None:
    run_step("Run and check", fake_bench, RUN_EXIT="0", CHECK_EXIT="0", SUITE="suites/our own.yaml", SEEDS="1")
    run, check = (fake_bench / "calls").read_text().splitlines()
    assert run == "run suites/our own.yaml --name our own --fresh --seeds 1"
    reports = "bench-reports/our own"
    assert check == (
        f"check results/our own --against results/baseline/our own --github --inconclusive-ok --junit {reports}/junit.xml "
        f"--markdown {reports}/comment.md --jsonl {reports}/results.jsonl --bencher {reports}/bencher.json --benchmark {reports}"
    )
    assert (fake_bench / "output").read_text() == f"name=our own\nrun=results/our own\nreport={reports}/comment.md\n"


def test_inputs_of_the_step(fake_bench: Path) -> None:
    given = {"RUN": "runs/a", "AGAINST": "runs/b", "RELATIVE": "true", "FAIL_ON_INCONCLUSIVE": "true"}
    run_step("Run and check", fake_bench, RUN_EXIT="0", CHECK_EXIT="0", **given)
    (check,) = (fake_bench / "calls").read_text().splitlines()
    assert check.startswith("check runs/a --against runs/b --github --relative --junit ")


def test_an_environment_that_works_is_kept_and_another_is_made_anew(tmp_path: Path) -> None:
    program(tmp_path / "bin/python", 'echo "$*" >> calls; mkdir -p .venv/bin')
    done = run_step("Install bench", tmp_path, INSTALL="echo installed >> calls; false; echo not here >> calls")
    assert done.returncode != 0
    assert (tmp_path / "calls").read_text() == "-m venv --clear .venv\ninstalled\n"
    program(tmp_path / ".venv/bin/bench", "exit 0")
    assert run_step("Install bench", tmp_path, INSTALL="echo again >> calls").returncode == 0
    assert "again" not in (tmp_path / "calls").read_text()


@pytest.mark.parametrize(
    ("ids", "call"),
    [("", "--method POST repos/o/r/issues/7/comments"), ("41\n42\n", "--method PATCH repos/o/r/issues/comments/41")],
)
def test_the_comment_is_made_once_and_then_updated(tmp_path: Path, ids: str, call: str) -> None:
    (tmp_path / "comment.md").write_text("<!-- bench-check: smoke -->\n### …\n")
    program(tmp_path / "bin/gh", f'echo "$MARKER | $*" >> calls\nif [ "$2" = --paginate ]; then printf "{ids}"; fi')
    done = run_step("Comment on the pull request", tmp_path, NUMBER="7", REPORT="comment.md")
    assert (done.returncode, done.stdout) == (0, "")
    listed, written = (tmp_path / "calls").read_text().splitlines()
    assert listed.startswith("<!-- bench-check: smoke --> | api --paginate repos/o/r/issues/7/comments --jq ")
    assert '.user.type == "Bot"' in listed
    assert written == f"<!-- bench-check: smoke --> | api --silent {call} --field body=@comment.md"


@pytest.mark.parametrize("fails", ["--paginate", "--silent"])
def test_no_right_to_comment_is_no_failure(tmp_path: Path, fails: str) -> None:
    (tmp_path / "comment.md").write_text("<!-- bench-check: smoke -->\n")
    program(tmp_path / "bin/gh", f'if [ "$2" = {fails} ]; then exit 1; fi')
    done = run_step("Comment on the pull request", tmp_path, NUMBER="7", REPORT="comment.md")
    assert done.returncode == 0
    assert done.stdout.startswith("::notice title=bench check::no comment")


def test_the_hook_runs_and_then_checks(tmp_path: Path) -> None:
    program(tmp_path / "bin/bench", FAKE_BENCH)
    (hook,) = read(HOOKS)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    for ran, checked, expected, n in ((0, 1, 1, 2), (0, 0, 0, 2), (2, 0, 2, 1)):
        (tmp_path / "calls").unlink(missing_ok=True)
        variables = {"PATH": path, "RUN_EXIT": str(ran), "CHECK_EXIT": str(checked)}
        done = subprocess.run(shlex.split(hook["entry"]), cwd=tmp_path, env=variables, timeout=60, check=False)
        assert done.returncode == expected
        assert len((tmp_path / "calls").read_text().splitlines()) == n
