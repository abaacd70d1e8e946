"""``tuning.method: hosted`` by whole commands, against a server of the published API's shapes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fine_tuning_server import FineTuningServer
from test_command_line import ROOT, bench

from bench.cost.prices import load_prices
from bench.errors import BenchError
from bench.model.hosted_jobs import HOSTED, read_jobs
from bench.model.source import served_name
from bench.result.schema import Record
from bench.result.store import RunFolder
from bench.result.table import table_rows
from bench.run.jobs import run_jobs
from bench.run.served_run import dry_run
from bench.suite import Budget, Suite

KEY = "sk-marked-0123456789"
TASK = "ticket_triage"
OPTIONS = ["--task", TASK, "--limit", "10", "--train-examples", "40", "--no-probes", "--name", "r"]
PRICES = """
devices:
  - {name: cpu, unit: core_hour, price: 0.05, source: here, as_of: 2026-01-01}
models:
  - {name: small, input: 1000.0, output: 2000.0, source: here, as_of: 2026-01-01%s}
storage: {name: disk, price: 0.02, source: here, as_of: 2026-01-01}
"""
TUNED = ", training: 10.0, tuned_input: 3000.0, tuned_output: 6000.0"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FineTuningServer]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    made = FineTuningServer()
    yield made
    made.close()


def run_of(server: FineTuningServer, *more: str | Path) -> list[str | Path]:
    return ["run", "--endpoint", server.url, "--model", "small", *OPTIONS, *more]


def record_of(results: Path, strategy: str = "hosted", seed: int = 0) -> Record:
    found = RunFolder(results / "r").read_record(TASK, strategy, seed)
    assert found is not None
    return found


def prices_file(folder: Path, more: str = TUNED) -> Path:
    file = folder / "prices.yaml"
    file.write_text(PRICES % more)
    return file


def test_a_search_and_two_seeds_tune_once_each_and_the_tuned_model_answers(server: FineTuningServer, tmp_path: Path) -> None:
    run = run_of(server, "--strategy", "zero-shot", "--strategy", "hosted", "--trials", "2", "--seeds", "2", "--results", tmp_path)
    done = bench(*run)
    first, second, base = record_of(tmp_path), record_of(tmp_path, seed=1), record_of(tmp_path, "zero-shot")
    assert len(server.jobs) == 3  # two trials, and the other seed at what they chose
    assert [body["seed"] for body in server.bodies] == [0, 0, 1]
    assert [trial.error for trial in first.trials] == [None, None]
    scores = {trial.settings["tuning.hosted.n_epochs"]: trial.validation_score or 0.0 for trial in first.trials}
    chosen = first.config["strategy"]["tuning"]["hosted"]["n_epochs"]
    assert scores[chosen] == max(scores.values())
    metric = first.primary_metric or ""
    assert first.metrics[metric].value > base.metrics[metric].value

    tuning = first.config["endpoint"]["tuning"]
    assert first.config["endpoint"]["model"] == "small"
    assert server.jobs[tuning["job"]]["fine_tuned_model"] == tuning["model"]
    assert (tuning["seconds"], tuning["hyperparameters"]["n_epochs"]) == (120.0, chosen)
    assert tuning["trained_tokens"] == server.jobs[tuning["job"]]["trained_tokens"]
    assert tuning["trained_tokens_of_all_jobs"] == sum(server.jobs[f"ftjob-{n}"]["trained_tokens"] for n in (1, 2))
    assert second.config["endpoint"]["tuning"]["job"] == "ftjob-3"
    assert (first.params, first.training, first.artifact_bytes, first.memory, first.deterministic) == (None, None, 0, {}, False)
    # What each model was asked: the base its ten questions, and nobody any question twice.
    asked = [(chat["model"], json.dumps(chat["messages"])) for chat in server.chats]
    assert len(asked) == len(set(asked))
    assert sum(model == "small" for model, _ in asked) == 10
    # What was trained on: the conversations as they are asked, with the answer.
    rows = server.files["file-1"]
    assert len(rows) == 40
    assert rows[0]["messages"][-1]["role"] == "assistant"
    assert rows[0]["messages"][0]["content"].splitlines()[0] == server.chats[0]["messages"][0]["content"].splitlines()[0]

    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert not [file for file in written if KEY.encode() in file.read_bytes()]
    assert KEY not in done.stdout + done.stderr
    server.seen.clear()
    bench(*run)
    assert server.seen == []

    listed = [(one.cell, one.job.job_id, one.job.status) for one in run_jobs(tmp_path / "r", "OPENAI_API_KEY", cancel=True)]
    assert listed == [(f"{TASK}/hosted/s{seed}", f"ftjob-{n}", "succeeded") for seed, n in ((0, 1), (0, 2), (1, 3))]
    assert server.seen == []
    assert "weights that are the provider's" in bench("export", tmp_path / "r", f"{TASK}/hosted", "-o", tmp_path / "e", code=2).stderr

    costs = json.loads(bench("cost", tmp_path / "r", "--prices", prices_file(tmp_path), "--format", "json").stdout)
    row = next(row for row in costs["strategies"] if row["strategy"] == "hosted")
    tokens = [tuning["trained_tokens"], second.config["endpoint"]["tuning"]["trained_tokens"]]
    assert row["training_usd"] == pytest.approx(sum(tokens) / 2 * 10 / 1e6)
    assert row["search_usd"] > (tuning["trained_tokens_of_all_jobs"] - tokens[0]) * 10 / 1e6  # the other trial, and asking for both
    mean = sum(3000 * r.tokens.prompt + 6000 * r.tokens.completion for r in (first, second)) / 20 / 1e6
    assert row["usd_per_1000_requests"] == pytest.approx(1000 * mean)
    assert (row["priced_by"], row["refresh"]) == ("small (tuned)", "re-train")
    plain = next(row for row in costs["strategies"] if row["strategy"] == "zero-shot")
    assert (plain["priced_by"], plain["setup_usd"]) == ("small", 0.0)

    unknown = bench("cost", tmp_path / "r", "--prices", prices_file(tmp_path, ""), "--format", "json").stdout
    row = next(row for row in json.loads(unknown)["strategies"] if row["strategy"] == "hosted")
    assert (row["training_usd"], row["setup_usd"], row["total_usd"]) == (None, None, None)
    assert "has no " in row["reason"]
    for more, known in ((TUNED, True), ("", False)):
        rows_ = table_rows(RunFolder(tmp_path / "r"), load_prices(prices_file(tmp_path, more)))
        cell = next(row for row in rows_ if row["strategy"] == "hosted")
        assert (cell["setup_usd"] is not None) is known
        assert cell["price"].startswith("unknown: ") is not known
        if known:
            asked = 2 * first.n_validation * cell["usd_per_1000_requests"] / 1000
            assert cell["setup_usd"] == pytest.approx(tuning["trained_tokens_of_all_jobs"] * 10 / 1e6 + asked)
            assert cell["usd_per_1000_requests"] == pytest.approx(1000 * mean)


def wait_for(found: object, process: subprocess.Popen[bytes]) -> None:
    assert callable(found)
    for _ in range(1200):
        if found():
            return
        assert process.poll() is None, "the run has ended"
        time.sleep(0.05)
    pytest.fail("it did not come")


def test_a_run_that_is_stopped_says_what_goes_on(server: FineTuningServer, tmp_path: Path) -> None:
    server.held.set()
    command = [sys.executable, "-m", "bench", *map(str, run_of(server, "--strategy", "hosted", "--seeds", "1", "--results", tmp_path))]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=-3, stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # in the background of a script it would be ignored
    ) as stopped:  # fmt: skip
        wait_for(lambda: ("GET", "/fine_tuning/jobs/ftjob-1") in server.seen, stopped)
        os.killpg(stopped.pid, signal.SIGINT)
        assert stopped.stderr is not None
        said = stopped.stderr.read().splitlines()[-2:]
    assert said == [
        "bench: stopped; what is done is kept, run the same command to go on",
        f"bench: 1 fine-tuning job goes on at the provider; bench jobs {tmp_path / 'r'} --cancel ends what is not wanted",
    ]


@pytest.mark.parametrize("when", ["polling", "creating"])
def test_a_run_that_is_killed_goes_on_with_the_job_that_it_began(server: FineTuningServer, tmp_path: Path, when: str) -> None:
    (server.held if when == "polling" else server.silent).set()
    run = run_of(server, "--strategy", "hosted", "--trials", "2", "--seeds", "1", "--results", tmp_path)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "bench", *map(str, run)]
    with subprocess.Popen(command, cwd=ROOT, stdout=-3, stderr=-3, env=environment, start_new_session=True) as killed:
        wait_for(lambda: ("GET", "/fine_tuning/jobs/ftjob-1") in server.seen if when == "polling" else server.jobs, killed)
        os.killpg(killed.pid, signal.SIGKILL)
    (job,) = read_jobs(next(tmp_path.rglob(HOSTED))).jobs
    assert job.job_id == ("ftjob-1" if when == "polling" else None)
    server.held.clear()
    server.silent.clear()
    bench(*run)
    assert record_of(tmp_path).status == "ok"
    assert len(server.jobs) == len(server.files) == len(record_of(tmp_path).trials) == 2
    assert server.count("POST", "/fine_tuning/jobs") == 2


def test_a_failed_job_is_a_failed_trial_and_all_failed_a_failed_cell(server: FineTuningServer, tmp_path: Path) -> None:
    def too_many(body: dict[str, object]) -> str | None:
        return "too many epochs" if "5" in json.dumps(body["method"]) else None

    server.failure = too_many
    run = run_of(server, "--strategy", "hosted", "--trials", "3", "--seeds", "1")
    bench(*run, "--results", tmp_path / "some")
    errors = {trial.settings["tuning.hosted.n_epochs"]: trial.error for trial in record_of(tmp_path / "some").trials}
    assert "fine-tuning job" in (errors.pop(5) or "")
    assert errors == {1: None, 3: None}
    server.failure = lambda body: "no such examples"
    done = bench(*run, "--results", tmp_path / "none", code=2)
    assert "all 3 trials of the search failed; the last one: BenchError: endpoint" in done.stderr
    assert "failed: no such examples" in done.stderr
    server.failure = lambda body: None
    bench(*run, "--results", tmp_path / "none")
    assert record_of(tmp_path / "none").status == "ok"
    assert len(server.jobs) == 9


def test_a_refused_key_fails_the_cell_and_counts_as_no_trial(server: FineTuningServer, tmp_path: Path) -> None:
    server.instead = lambda method, path: (401, {}) if path == "/files" else None
    run = run_of(server, "--strategy", "hosted", "--trials", "2", "--seeds", "1", "--results", tmp_path)
    done = bench(*run, code=2)
    assert "HTTP 401: the API key was refused; the environment variable OPENAI_API_KEY is set" in done.stderr
    assert "trials" not in done.stderr
    server.instead = lambda method, path: None
    bench(*run)
    assert [trial.error for trial in record_of(tmp_path).trials] == [None, None]


def test_jobs_are_listed_and_cancelled(server: FineTuningServer, tmp_path: Path) -> None:
    server.held.set()
    run = run_of(server, "--strategy", "hosted", "--trials", "1", "--seeds", "1", "--results", tmp_path)
    command = [sys.executable, "-m", "bench", *map(str, run)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, stdout=-3, stderr=subprocess.PIPE, env=environment, start_new_session=True) as going:
        wait_for(lambda: ("GET", "/fine_tuning/jobs/ftjob-1") in server.seen, going)
        assert "ftjob-1  running" in bench("jobs", tmp_path / "r").stdout
        done = bench("jobs", tmp_path / "r", "--cancel").stdout
        assert "ftjob-1  cancelled (cancelled now)" in done
        assert done.endswith("Cancelled: 1\n")
        assert going.stderr is not None
        assert b"job ftjob-1 was cancelled; the same command begins another" in going.stderr.read()
    file = next(tmp_path.rglob(HOSTED))
    noted = file.read_text()
    file.write_text(noted.replace('"cancelled"', '"running"'))
    assert [one.job.status for one in run_jobs(tmp_path / "r", "OPENAI_API_KEY", cancel=True)] == ["cancelled"]
    server.instead = lambda method, path: (404, {})
    assert [one.note for one in run_jobs(tmp_path / "r", "OPENAI_API_KEY", cancel=True)] == ["the provider does not know it"]
    server.instead = lambda method, path: (401, {})
    with pytest.raises(BenchError, match="HTTP 401: the API key was refused; the environment variable OTHER is not set"):
        run_jobs(tmp_path / "r", "OTHER", cancel=False)
    with pytest.raises(BenchError, match=r"run\.json"):
        run_jobs(tmp_path, "OPENAI_API_KEY", cancel=False)
    server.instead = lambda method, path: None
    file.write_text(noted)
    server.held.clear()
    bench(*run)
    assert record_of(tmp_path).config["endpoint"]["tuning"]["job"] == "ftjob-2"


def test_the_cap_holds_for_jobs_and_for_what_the_tuned_model_is_asked(server: FineTuningServer, tmp_path: Path) -> None:
    run = run_of(server, "--strategy", "hosted", "--trials", "1", "--seeds", "1", "--results", tmp_path / "results")
    done = bench(*run, "--max-usd", "5", "--prices", prices_file(tmp_path, ""), code=2)
    assert '--max-usd: the price of "small" has no training, tuned_input, tuned_output' in done.stderr
    dear = prices_file(tmp_path, TUNED.replace("10.0", "100000.0"))
    assert "and the next job could cost" in bench(*run, "--max-usd", "5", "--prices", dear, code=2).stderr
    assert server.seen == []
    done = bench(*run, "--max-usd", "1", "--prices", prices_file(tmp_path), code=2)
    assert "--max-usd" in done.stderr
    assert len(server.jobs) == 1
    bench(*run, "--max-usd", "1000", "--prices", prices_file(tmp_path))
    assert len(server.jobs) == 1
    spent = float((tmp_path / "results/r/endpoint_usd.txt").read_text())
    usd = sum(3000 * len(" ".join(m["content"] for m in chat["messages"]).split()) for chat in server.chats) / 1e6
    trained = server.jobs["ftjob-1"]["trained_tokens"] * 10 / 1e6
    assert spent > usd + trained
    assert spent == pytest.approx(usd + trained, rel=0.2)  # and the answers


def test_a_dry_run_counts_jobs_trained_tokens_and_dollars(server: FineTuningServer, tmp_path: Path) -> None:
    free = tmp_path / "free.yaml"
    free.write_text("tuning: {method: hosted}\n")
    suite = Suite(
        model=served_name("small", server.url), tasks=[TASK], strategies=["zero-shot", "hosted", str(free)], seeds=[0, 1], limit=10,
        budget=Budget(train_examples=40, trials=2, validation_examples=20),
    )  # fmt: skip
    price = load_prices(prices_file(tmp_path)).model("small")
    lines = dry_run(suite, price).splitlines()
    rows = {line.split("  ")[0].strip(): line.split()[-4:] for line in lines[1:5]}
    requests, prompt, answers = (int(n.replace(",", "")) for n in rows[f"{TASK} / hosted"][:3])
    assert requests == 10 + 2 * 20 + 10
    (line,) = (line for line in lines if line.startswith(f"tuned at the provider: {TASK} / hosted: 3 jobs, "))
    trained = int(line.split("3 jobs, ")[1].split()[0].replace(",", ""))
    assert 3 * 5 * 40 * 20 < trained < 3 * 5 * 40 * 400  # three jobs of five epochs of forty rows
    assert float(rows[f"{TASK} / hosted"][3]) == pytest.approx((3000 * prompt + 6000 * answers + 10 * trained) / 1e6, abs=1e-4)
    assert rows[f"{TASK} / free"][3] == rows["total"][3] == "unknown"
    assert any("free: 2 jobs, of as many epochs as the provider chooses" in line for line in lines)
    unpriced = dry_run(suite, load_prices(prices_file(tmp_path, "")).model("small"))
    assert "trained tokens at most; the price of training is unknown" in unpriced
    assert server.seen == []


def test_a_model_that_is_loaded_here_skips_it(tmp_path: Path) -> None:
    bench("run", *OPTIONS, "--strategy", "hosted", "--results", tmp_path)
    record = record_of(tmp_path)
    assert (record.status, record.error) == ("skipped", "the provider's fine-tuning needs a model at its endpoint")
    assert run_jobs(tmp_path / "r", "OPENAI_API_KEY", cancel=False) == []
