"""Whole commands, as a user runs them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from real_data import shared

from bench.result.store import RunFolder, comparable

ROOT = Path(__file__).parents[2]


def bench(*arguments: str | Path, cwd: Path = ROOT, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *map(str, arguments)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> list[str | Path]:
    """Options for a small run of every kind of strategy."""
    folder = tmp_path_factory.mktemp("strategies")
    text = "tuning: {method: %s, epochs: 1, evaluations: 1}\nsearch: {tuning.learning_rate: [1.0e-3, 5.0e-3]}\n"
    (folder / "lora-fast.yaml").write_text(text % "lora")
    (folder / "full-fast.yaml").write_text(text % "full")
    (folder / "rag-lora-fast.yaml").write_text("retrieval: {search: dense, top_k: 2}\n" + text % "lora, with_passages: true")
    chosen = ["majority", "zero-shot", "few-shot", "rag", "rag-oracle", *sorted(folder.glob("*.yaml"))]
    options: list[str | Path] = ["--task", "product_support", "--limit", "24", "--train-examples", "24", "--trials", "2", "--seeds", "2"]
    for strategy in chosen:
        options += ["--strategy", strategy]
    return options


def test_two_fresh_runs_agree_byte_for_byte(fast: list[str | Path], tmp_path: Path) -> None:
    for name in ("a", "b"):
        # the two runs differ in all that must not matter: name, results folder, number of workers
        bench("run", *fast, "--results", tmp_path / f"results-{name}", "--name", name, "--workers", "1" if name == "a" else "2")
    contents = []
    for name in ("a", "b"):
        folder = RunFolder(tmp_path / f"results-{name}" / name)
        records = list(folder.records())
        assert len(records) == 12
        assert all(r.status == "ok" for r in records)
        items = [[comparable(i) for i in folder.read_items(r.task, r.strategy, r.seed)] for r in records]
        contents.append(json.dumps([[comparable(r) for r in records], items]))
    assert contents[0] == contents[1]


def test_a_second_run_is_done_in_seconds_and_fresh_recomputes(fast: list[str | Path], tmp_path: Path) -> None:
    options = ["--task", "ticket_triage", "--strategy", "zero-shot", "--strategy", "majority", "--limit", "20", "--results", tmp_path]
    first = bench("run", *options, "--name", "r")
    assert "2/2" in first.stdout
    record = tmp_path / "r/cells/ticket_triage/zero-shot/s0/record.json"
    before = record.stat().st_mtime_ns
    began = time.monotonic()
    header = (tmp_path / "r/run.json").read_text()
    second = bench("run", *options, "--name", "r")
    assert (tmp_path / "r/run.json").read_text() == header
    assert time.monotonic() - began < 15
    assert record.stat().st_mtime_ns == before
    assert "zero-shot" in second.stdout
    bench("run", *options, "--name", "r", "--fresh")
    assert record.stat().st_mtime_ns > before
    assert len(list(tmp_path.glob("r.before-*"))) == 1
    for name in ("table.md", "table.csv", "table.parquet", "run.json"):
        assert (tmp_path / "r" / name).stat().st_size > 0
    run = RunFolder(tmp_path / "r").read_run()
    assert run.status == "ok"
    assert run.suite["limit"] == 20
    table = bench("table", tmp_path / "r").stdout
    assert "zero-shot" in table
    assert "majority" in table
    assert json.loads(bench("table", tmp_path / "r", "--format", "json").stdout)[0]["task"] == "ticket_triage"
    shown = json.loads(bench("show", tmp_path / "r", "ticket_triage/zero-shot", "--item", "test-001", "--format", "json").stdout)
    assert (shown["id"], shown["messages"][0]["role"], shown["note"]) == ("test-001", "user", None)
    assert shown["messages"][0]["content"].endswith(shown["input"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "defualt"], 'did you mean "default"'),
        (["run", "--task", "ticket_traige"], 'did you mean "ticket_triage"'),
        (["run", "--strategy", "zero-shott"], 'did you mean "zero-shot"'),
        (["run", "--model", "./no-such-model"], "no such folder"),
        (["run", "--model", "tests"], "config.json is missing"),
        (["run", "--results", "/proc/nowhere"], "cannot be written"),
        (["run", "--probe", "wordng"], 'did you mean "wording"'),
        (["run", "--probe-set", "forgetting.item=3"], 'probe_settings.forgetting: unknown key "item"'),
        (["run", "--probe", "wording", "--no-probes"], "--no-probes: found --probe"),
        (["run", "--train-sizes", "10,x"], "expected numbers such as 10,25,50"),
        (["run", "--train-sizes", "10,20", "--train-examples", "10"], "found both, expected one"),
        (["compare", "no-such-run", "--baseline", "zero-shot"], "no-such-run"),
        (["claims", "no-such-run"], "no-such-run"),
        (["table", "no-such-run"], "no-such-run"),
        (["list", "strategy"], 'did you mean "strategies"'),
        (["validate", "tasks/nothing"], "tasks/nothing"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments: list[str], message: str) -> None:
    done = bench(*arguments, code=2)
    assert done.stderr.startswith("bench: ")
    assert len(done.stderr.strip().splitlines()) == 1
    assert message in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    limit = tmp_path / "small"
    limit.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(limit)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no permission to mount a small file system")
    try:
        options = ["--task", "ticket_triage", "--strategy", "majority", "--results", limit]
        done = bench("run", *options, code=2)
    finally:
        subprocess.run(["umount", str(limit)], check=True)
    assert "disk is full" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_broken_task_writes_nothing(make_task: Callable[..., Path], tmp_path: Path) -> None:
    task = make_task()
    with (task / "train.jsonl").open("a") as file:
        file.write('{"id": "x", "text": ')
    done = bench("run", "--task", task, "--results", tmp_path / "results", code=2)
    assert "train.jsonl:13" in done.stderr
    assert not (tmp_path / "results").exists()


def test_a_failing_cell_shows_in_the_exit_code(make_task: Callable[..., Path], tmp_path: Path) -> None:
    rows = [{"id": "long", "text": "lid " * 700, "label": "zek"}, {"id": "short", "text": "a lid", "label": "pol"}]
    options = ["--strategy", "majority", "--strategy", "zero-shot", "--results", tmp_path / "results", "--name", "r"]
    done = bench("run", "--task", make_task(rows={"test": rows}), *options, code=2)
    assert "1 of 2 cells failed" in done.stderr
    assert "window of embedded is 512" in done.stderr
    assert RunFolder(tmp_path / "results/r").read_run().status == "failed"
    assert "majority" in done.stdout


def test_an_interrupted_run_keeps_what_is_done_and_goes_on(tmp_path: Path) -> None:
    arguments = ["run", "--task", "ticket_triage", "--strategy", "majority", "--strategy", "lora", "--limit", "40"]
    arguments += ["--results", str(tmp_path), "--name", "r", "--seeds", "1"]
    record = tmp_path / "r/cells/ticket_triage/majority/s0/record.json"
    # A shell that runs tests in the background has them ignore SIGINT, and so their children.
    heeding = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    process = subprocess.Popen([sys.executable, "-m", "bench", *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True, **heeding)
    until = time.monotonic() + 60
    while not record.exists() and time.monotonic() < until:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == "bench: stopped; what is done is kept, run the same command to go on\n"
    assert RunFolder(tmp_path / "r").read_run().status == "interrupted"
    before = record.stat().st_mtime_ns
    bench(*arguments, "--train-examples", "16", "--trials", "1")
    assert record.exists()
    assert {r.status for r in RunFolder(tmp_path / "r").records()} == {"ok"}
    kept = list((tmp_path / "r" / "superseded").rglob("record.json"))
    assert [k.stat().st_mtime_ns for k in kept] == [before]  # other examples, another cell: kept aside


def test_a_run_is_compared_probed_and_judged_from_its_records(tmp_path: Path) -> None:
    options = ["--task", "ticket_triage", "--limit", "40", "--results", tmp_path, "--name", "r", "--seeds", "2"]
    strategies = ["--strategy", "zero-shot", "--strategy", "majority", "--strategy", "few-shot"]
    bench("run", *options, *strategies, "--probe", "wording", "--probe-set", "wording.items=10")
    compared = bench("compare", tmp_path / "r", "--baseline", "zero-shot").stdout
    assert "ticket_triage: accuracy against zero-shot" in compared
    assert "| few-shot" in compared
    assert "worst_case_score" in bench("probes", tmp_path / "r", "--probe", "wording").stdout
    assert "NOT APPLICABLE" in bench("claims", tmp_path / "r").stdout
    assert json.loads(bench("claims", tmp_path / "r", "--format", "json").stdout)[0]["id"] == "C1"


def test_learning_curves_of_two_sizes(tmp_path: Path) -> None:
    options = ["--task", "ticket_triage", "--limit", "20", "--results", tmp_path, "--no-probes", "--seeds", "2", "--name", "c"]
    done = bench("run", *options, "--strategy", "majority", "--strategy", "few-shot", "--train-sizes", "10,40")
    assert {p.name for p in tmp_path.iterdir() if not p.name.startswith(".")} == {"c-n10", "c-n40"}
    assert "few-shot" in done.stdout
    again = bench("curve", tmp_path / "c-n10", tmp_path / "c-n40", "--baseline", "majority").stdout
    assert "few-shot" in again


def test_new_task_validates_and_runs(tmp_path: Path) -> None:
    bench("new-task", tmp_path / "mine", "--kind", "classification")
    assert "train" in bench("validate", tmp_path / "mine").stdout
    bench("run", "--task", tmp_path / "mine", "--strategy", "zero-shot", "--results", tmp_path / "results")


def test_lists_and_help() -> None:
    assert "rag-oracle" in bench("list", "strategies").stdout
    assert "product_support" in bench("list", "tasks").stdout
    assert "exact_match" in bench("list", "metrics").stdout
    assert "Examples:" in bench("run", "--help").stdout


def real_task(folder: Path, data: str, **config: object) -> Path:
    source = shared(f"data/{data}")
    folder.mkdir()
    (folder / "task.yaml").write_text(yaml.safe_dump(config | {"data": str(source)}))
    return folder


REAL = {
    "banking77": {
        "kind": "classification", "instruction": "Name the intent of the message.", "input": "{{ text }}", "target": "label",
        "metrics": ["accuracy", "macro_f1"], "max_new_tokens": 8,
    },
    "xquad_en": {
        "kind": "qa", "instruction": "Answer in a few words.", "input": "{{ question }}", "target": "answers", "evidence": "context_ids",
        "metrics": ["exact_match", "f1"], "max_new_tokens": 8,
    },
    "scitldr": {
        "kind": "summarization", "instruction": "Summarize.", "input": "{{ document[:300] }}", "target": "summaries",
        "metrics": ["rougeL"], "max_new_tokens": 16,
    },
}  # fmt: skip


@pytest.mark.parametrize("data", REAL)
def test_a_real_model_on_real_data(data: str, tmp_path: Path) -> None:
    model = shared("models/stories260K")
    (tmp_path / "lora.yaml").write_text("tuning: {method: lora, epochs: 1, evaluations: 1}\n")
    task = real_task(tmp_path / data, data, **REAL[data])
    strategies = ["--strategy", "zero-shot", "--strategy", tmp_path / "lora.yaml", *(["--strategy", "rag"] if data == "xquad_en" else [])]
    options = ["--limit", "10", "--train-examples", "16", "--seeds", "1", "--results", tmp_path / "results", "--name", "r"]
    bench("run", "--model", model, "--task", task, *strategies, *options)
    records = list(RunFolder(tmp_path / "results/r").records())
    assert {r.status for r in records} == {"ok"}
    assert all(r.n_items == 10 for r in records)
    assert all(r.config.get("decoding", {}).get("format") == "plain" for r in records)
