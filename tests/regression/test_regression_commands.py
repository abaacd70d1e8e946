"""The commands check and accept, as a user gives them; records are constructed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from regression.constructed_runs import write_run
from typer.testing import CliRunner, Result

from bench.cli import app
from bench.regression.history import CheckLine, read
from bench.regression.model import Gates
from bench.settings import parse_settings


@pytest.fixture(autouse=True)
def no_ci(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("CI", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def accepted(tmp_path: Path) -> Path:
    write_run(tmp_path / "results" / "smoke")
    assert bench("accept", "results/smoke", "--reason", "first").exit_code == 0
    return tmp_path / "results" / "baseline" / "smoke"


def test_the_baseline_of_a_run_is_the_one_of_its_name(accepted: Path) -> None:
    assert sorted(file.name for file in accepted.iterdir()) == ["accepted.jsonl.gz", "baseline.json", "release.jsonl.gz"]
    found = bench("check", "results/smoke")
    assert found.exit_code == 0
    assert found.output.startswith("PASS in smoke")


def test_a_regression_is_exit_1_and_says_what_and_what_to_do(accepted: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "results" / "smoke", right=10)
    found = bench("check", "results/smoke")
    assert found.exit_code == 1
    assert "support / rag: quality exact_match" in found.output
    assert 'bench accept results/smoke --reason "…"' in found.output
    assert "PASS" not in found.output


def test_too_few_items_are_exit_3_which_may_be_mapped_to_0(accepted: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "results" / "smoke", right=28)
    assert bench("check", "results/smoke").exit_code == 3
    assert bench("check", "results/smoke", "--inconclusive-ok").exit_code == 0
    write_run(tmp_path / "results" / "smoke", right=10)
    assert bench("check", "results/smoke", "--inconclusive-ok").exit_code == 1


def test_a_changed_library_downgrades_to_a_warning_that_names_it(accepted: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "results" / "smoke", right=10, environment={"packages": {"torch": "2.14.0"}})
    found = bench("check", "results/smoke")
    assert found.exit_code == 3
    assert "torch none → 2.14.0" in found.output
    assert "--relative" in found.output


def test_bad_input_is_exit_2_in_one_line(accepted: Path) -> None:
    def failed(*arguments: str) -> str:
        done = subprocess.run([sys.executable, "-m", "bench", *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        return done.stderr

    nothing = "results/baseline/nothing"
    assert f"{nothing}: found neither baseline.json" in failed("check", "results/smoke", "--against", nothing)
    (accepted / "accepted.jsonl.gz").write_bytes(b"broken")
    assert "accepted.jsonl.gz: found SHA-256" in failed("check", "results/smoke")
    assert "no run here" in failed("check", "results/none", "--against", str(accepted))


def test_all_outputs_are_written_and_agree(accepted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "results" / "smoke", right=10)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    found = bench(
        "check", "results/smoke", "--junit", "junit.xml", "--markdown", "comment.md", "--jsonl", "gates.jsonl", "--benchmark", "made",
        "--bencher", "bencher.json", "--github", "--history", "kept.jsonl",
    )  # fmt: skip
    assert found.exit_code == 1
    rows = [json.loads(line) for line in Path("gates.jsonl").read_text().splitlines()]
    n_bad = sum(row["verdict"] == "regression" for row in rows)
    assert n_bad == 2  # exact match of both strategies
    suites = ElementTree.parse("junit.xml").getroot()
    assert sum(1 for _ in suites.iter("failure")) == n_bad
    assert Path("comment.md").read_text().startswith("<!-- bench-check: smoke -->")
    assert "::error" in found.output
    assert "regression" in Path("output").read_text()
    assert "exact_match" in Path("summary.md").read_text()
    for name in ("made/smaller.json", "made/bigger.json", "bencher.json"):
        assert json.loads(Path(name).read_text())
    (line,) = read(Path("kept.jsonl")).lines
    assert isinstance(line, CheckLine)
    assert (line.verdict, line.suite, line.commit) == ("regression", "smoke", "c" * 40)
    assert {(m.strategy, m.value, m.verdict) for m in line.measures if m.metric == "exact_match"} == {
        ("rag", 0.25, "regression"), ("lora", 0.25, "regression"),
    }  # fmt: skip
    assert line.costs["support/rag prompt_tokens"] == 100.0


def test_accepting_and_checking_leave_a_history(accepted: Path, tmp_path: Path) -> None:
    bench("check", "results/smoke")
    write_run(tmp_path / "results" / "smoke", right=28)
    bench("check", "results/smoke")
    lines = read(tmp_path / "results" / "history.jsonl").lines
    assert [line.kind for line in lines] == ["accept", "check", "check"]
    shown = bench("history", "-o", "history.html")
    assert shown.exit_code == 0
    assert "exact_match" in shown.output
    assert "<svg" in Path("history.html").read_text()


def test_a_build_never_accepts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "results" / "smoke")
    monkeypatch.setenv("CI", "true")
    found = bench("accept", "results/smoke", "--reason", "green")
    assert found.exit_code != 0
    assert not (tmp_path / "results" / "baseline").exists()


def test_the_gates_of_the_docs_are_the_defaults() -> None:
    page = (Path(__file__).parents[2] / "docs" / "regression.md").read_text()
    (block,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert parse_settings(Gates, block, "docs") == Gates(costs={"completion_tokens": 0.02})
