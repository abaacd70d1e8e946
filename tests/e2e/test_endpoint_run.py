"""``bench run --endpoint`` by whole commands: against a server that fails as it is told, and against a real one."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer, completion
from test_command_line import bench

from bench.cost.prices import TokenPrice
from bench.model.source import EMBEDDED_FOLDER, served_name
from bench.result.schema import Record
from bench.result.store import RunFolder
from bench.result.usage import usage_table
from bench.run.plan_command import answers
from bench.run.served_run import dry_run
from bench.suite import Budget, Suite

KEY = "sk-marked-0123456789"
OPTIONS = ["--task", "product_support", "--limit", "10", "--train-examples", "16", "--trials", "1", "--seeds", "1", "--name", "r"]
PRICES = """
devices:
  - {name: cpu, unit: core_hour, price: 0.05, source: here, as_of: 2026-01-01}
models:
  - {name: small, input: 1000.0, output: 2000.0, source: here, as_of: 2026-01-01}
storage: {name: disk, price: 0.02, source: here, as_of: 2026-01-01}
"""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    made = ChatServer()
    made.answers((200, completion("unknown", usage={"prompt_tokens": 100, "completion_tokens": 1})))
    yield made
    made.close()


def record_of(results: Path, strategy: str) -> Record:
    found = RunFolder(results / "r").read_record("product_support", strategy, 0)
    assert found is not None
    return found


def test_a_failure_keeps_what_is_answered_and_the_next_run_asks_for_the_rest(server: ChatServer, tmp_path: Path) -> None:
    run = ["run", "--endpoint", server.url, "--model", "small", "--strategy", "zero-shot", "--strategy", "lora", *OPTIONS]
    good, asked = server.replies[0], []

    def answer(body: dict[str, Any]) -> tuple[int, str, dict[str, str]]:
        asked.append(body["messages"][-1]["content"])
        # One question is refused, with the key in the words; another comes through at the second attempt.
        if asked[-1] == asked[0]:
            return 400, json.dumps({"error": {"message": f"not with {KEY}"}}), {}
        return (429, "{}", {"Retry-After": "0.01"}) if asked[-1] == asked[1] and asked.count(asked[1]) == 1 else good

    server.answer = answer
    done = bench(*run, "--results", tmp_path, "--concurrency", "1", code=2)
    assert "HTTP 400 for model small: not with *** (9 of 10 requests answered" in done.stderr
    assert record_of(tmp_path, "zero-shot").status == "failed"
    assert len(asked) == 11
    assert "trains" in (record_of(tmp_path, "lora").error or "")

    server.answer = None
    server.seen.clear()
    done = bench(*run, "--results", tmp_path, "--probe", "answer-entropy")
    assert [body["messages"][-1]["content"] for _, _, body in server.seen] == [asked[0]]
    record = record_of(tmp_path, "zero-shot")
    assert (record.status, record.n_items, record.tokens.prompt, record.tokens.completion) == ("ok", 10, 1000, 10)
    assert record.model == f"small@{server.url}"
    assert record.config["endpoint"] | {"url": ""} == {
        "url": "", "model": "small", "weights": "not known", "n_requests": 10, "n_tokens_estimated": 0,
    }  # fmt: skip
    assert "needs the model itself" in (record.probes["answer-entropy"].reason or "")
    assert record.config["decoding"]["asked"] == {"temperature": 0, "seed": 0, "logprobs": True}
    assert (record.params, record.memory, record.phases["answer"].peak_rss_bytes) == (None, {}, None)
    assert {phase.flops for phase in record.phases.values()} == {None}
    assert usage_table(tmp_path / "r").flops.isna().all()
    assert answers(RunFolder(tmp_path / "r")) == []  # nothing to fit the planner to
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(written) > 5
    assert not [file for file in written if KEY.encode() in file.read_bytes()]
    assert KEY not in done.stdout + done.stderr
    assert not list(tmp_path.rglob("answers.jsonl"))


def test_the_cap_holds_in_a_search_and_nothing_is_asked_twice(server: ChatServer, tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text(PRICES)
    run = ["run", "--endpoint", server.url, "--model", "small", "--strategy", "few-shot", "--prices", prices, *OPTIONS, "--trials", "2"]
    results = tmp_path / "results"
    # 100 tokens of prompt and one of answer: 0.102 USD each.
    done = bench(*run, "--results", results, "--max-usd", "3", code=2)
    assert "--max-usd" in done.stderr
    assert 0 < 0.102 * len(server.seen) <= 3
    assert "--max-usd" in (record_of(results, "few-shot").error or "")
    bench(*run, "--results", results, "--max-usd", "1000")
    record = record_of(results, "few-shot")
    assert [trial.error for trial in record.trials] == [None, None]  # the one that was stopped is no failed one
    asked = [json.dumps(body["messages"]) for _, _, body in server.seen]
    assert len(asked) == len(set(asked)) > 2 * 20
    costs = json.loads(bench("cost", results / "r", "--prices", prices, "--format", "json").stdout)
    (row,) = costs["strategies"]
    assert row["priced_by"] == "small"
    assert row["usd_per_1000_requests"] == pytest.approx(102.0)


def test_a_dry_run_counts_what_the_run_would_ask_and_asks_nothing(server: ChatServer) -> None:
    suite = Suite(
        model=served_name("small", server.url), tasks=["product_support"], strategies=["majority", "zero-shot", "few-shot", "lora"],
        seeds=[0, 1], limit=10, budget=Budget(train_examples=16, trials=2, validation_examples=20),
    )  # fmt: skip
    price = TokenPrice(name="small", input=1000, output=2000, source="here", as_of=date(2026, 1, 1))
    lines = dry_run(suite, price).splitlines()
    rows = {line.split("  ")[0].strip(): line.split()[-4:] for line in lines[1:5]}
    requests = {name: int(row[0]) for name, row in rows.items()}
    few_shot = 10 + 2 * 20 + 10  # its first seed searches
    assert requests == {
        "product_support / majority": 0, "product_support / zero-shot": 10, "product_support / few-shot": few_shot, "total": 10 + few_shot,
    }  # fmt: skip
    prompt, answer = (int(n.replace(",", "")) for n in rows["product_support / zero-shot"][1:3])
    assert 100 < prompt < 1000
    assert answer == 10 * 8  # max_new_tokens of the task
    assert float(rows["product_support / zero-shot"][3]) == pytest.approx((prompt * 1000 + answer * 2000) / 1e6)
    assert "skipped: product_support / lora: a served model's weights are not at hand, and this strategy trains" in lines
    assert "unknown" in dry_run(suite, None)
    assert not server.seen


def test_bad_options_are_one_line(server: ChatServer, tmp_path: Path) -> None:
    for options, words in (
        (["--endpoint", server.url], "found no --model beside it"),
        (["--endpoint", "ftp://x", "--model", "m"], "expected one like https"),
        (["--concurrency", "3"], "--concurrency: found it without --endpoint"),
        (["--dry-run"], "--dry-run: found no --endpoint"),
        (["--endpoint", server.url, "--model", "m", "--max-usd", "1"], 'no price for the model "m"'),
    ):
        done = bench("run", *options, "--results", tmp_path / "none", code=2)
        assert words in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "none").exists()
    assert not server.seen


@pytest.fixture(scope="module")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = tmp_path_factory.mktemp("hub")
    command = [shutil.which("transformers", path=str(Path(sys.executable).parent)) or "transformers", "serve", "--device", "cpu"]
    environment = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with (home / "log").open("wb") as log:
        served = subprocess.Popen([*command, "--port", str(port)], stdout=log, stderr=log, env=environment)
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                assert served.poll() is None, (home / "log").read_text()
                time.sleep(0.25)
        else:
            pytest.fail((home / "log").read_text())
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        served.terminate()
        served.wait(20)


def test_a_served_base_answers_as_the_loaded_one_item_by_item(real_server: str, tmp_path: Path) -> None:
    strategies = ["zero-shot", "few-shot", "rag"]
    options = [*OPTIONS, "--no-probes", *(part for name in strategies for part in ("--strategy", name))]
    bench("run", *options, "--results", tmp_path / "local")
    bench("run", *options, "--results", tmp_path / "served", "--endpoint", real_server, "--model", str(EMBEDDED_FOLDER))
    for strategy in strategies:
        local, served = (RunFolder(tmp_path / where / "r").read_items("product_support", strategy, 0) for where in ("local", "served"))
        assert len(local) == 10
        for one, other in zip(local, served, strict=True):
            assert (one.id, one.prompt_hash, one.prediction) == (other.id, other.prompt_hash, other.prediction)
            assert (one.scores["exact_match"], one.outcome) == (other.scores["exact_match"], other.outcome)
            assert (one.tokens.prompt, one.tokens.completion) == (other.tokens.prompt, other.tokens.completion)
            assert other.logprob is None  # this server gives none
