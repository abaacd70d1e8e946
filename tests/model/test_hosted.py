"""Jobs at a fine-tuning API: begun once, waited for, taken up again, and paid for within a cap."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from fine_tuning_server import Answer, FineTuningServer

from bench.cost.prices import TokenPrice
from bench.cost.spending import Spending
from bench.errors import BenchError
from bench.model.connection import Connection, EndpointStopped
from bench.model.hosted import HostedTuning
from bench.model.hosted_jobs import HOSTED, HostedJob, JobFile, job_key, new_job, read_jobs
from bench.model.served import ServedModel
from bench.model.source import locate, served_name

KEY = "sk-marked-0123456789"
ROWS = [{"messages": [{"role": "user", "content": f"question {i}"}, {"role": "assistant", "content": f"answer {i}"}]} for i in range(5)]
TRAINED = 20
"""Words of the rows, which the server counts as tokens."""
PRICE = TokenPrice(name="m", input=1, output=1, training=1000, tuned_input=1, tuned_output=1, source="here", as_of=date(2026, 1, 1))
JOBS = ("POST", "/fine_tuning/jobs")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FineTuningServer]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    made = FineTuningServer()
    yield made
    made.close()


def tuning(server: FineTuningServer, folder: Path, spending: Spending | None = None, timeout: float = 5.0) -> HostedTuning:
    connection = Connection(server.url, backoff_seconds=0.01, retries=2, timeout_seconds=timeout)
    return HostedTuning(connection, "m", folder / HOSTED, spending, poll_seconds=(0.01, 0.02))


def tune(made: HostedTuning, told: list[str] | None = None, seed: int = 0, **hyperparameters: Any) -> HostedJob:
    return made.tune(ROWS, hyperparameters, seed, (told if told is not None else []).append)


def test_a_job_is_asked_for_as_the_published_api_has_it(server: FineTuningServer, tmp_path: Path) -> None:
    server.polls = 3
    told: list[str] = []
    job = tune(tuning(server, tmp_path), told, seed=7, n_epochs=2)
    assert server.files == {"file-1": ROWS}
    (body,) = server.bodies
    assert body == {
        "model": "m", "training_file": "file-1", "seed": 7, "suffix": job.suffix,
        "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
    }  # fmt: skip
    assert told == ["validating_files", "running", "running"]
    assert (job.status, job.fine_tuned_model) == ("succeeded", f"ft:m:org:{job.suffix}:ftjob-1")
    assert (job.trained_tokens, job.seconds) == (2 * TRAINED, 120.0)
    assert job.hyperparameters == {"n_epochs": 2, "batch_size": 1, "learning_rate_multiplier": 2.0}
    assert server.keys == {f"Bearer {KEY}"}
    assert read_jobs(tmp_path / HOSTED).jobs == [job]
    assert KEY not in (tmp_path / HOSTED).read_text()


def test_what_the_provider_chooses_is_left_to_it_and_a_server_without_keys_gets_none(
    server: FineTuningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    job = tune(tuning(server, tmp_path))
    assert "method" not in server.bodies[0]
    assert job.hyperparameters["n_epochs"] == 3
    assert server.keys == {None}


def test_what_is_tuned_is_not_tuned_again_and_anything_else_is(server: FineTuningServer, tmp_path: Path) -> None:
    first = tune(tuning(server, tmp_path), n_epochs=1)
    server.seen.clear()
    assert tune(tuning(server, tmp_path), n_epochs=1) == first
    assert server.seen == []
    others = [tune(tuning(server, tmp_path), n_epochs=2), tune(tuning(server, tmp_path), seed=1, n_epochs=1)]
    assert len({job.fine_tuned_model for job in (first, *others)}) == 3
    assert tuning(server, tmp_path).file.trained_tokens == 4 * TRAINED
    assert job_key("u", "m", ROWS, {}, 0) != job_key("u", "m", ROWS[:-1], {}, 0)


def test_a_job_that_was_begun_is_taken_up(server: FineTuningServer, tmp_path: Path) -> None:
    server.instead = lambda method, path: (500, "down") if method == "GET" else None
    with pytest.raises(EndpointStopped, match=r"gave up after 3 .*HTTP 500 for fine-tuning job ftjob-1.*\(job ftjob-1 goes on there"):
        tune(tuning(server, tmp_path))
    server.instead = lambda method, path: None
    assert tune(tuning(server, tmp_path)).job_id == "ftjob-1"
    assert server.count(*JOBS) == 1


@pytest.mark.parametrize("tells_suffix", [True, False])
@pytest.mark.parametrize("status", [200, 500])
def test_a_creation_whose_answer_is_lost_is_not_made_twice(
    server: FineTuningServer, tmp_path: Path, tells_suffix: bool, status: int
) -> None:
    """Within one process: the answer is broken, or an error, though the job was created."""
    server.tells_suffix = tells_suffix
    for n in range(3):  # of others
        server.jobs[f"other-{n}"] = {"id": f"other-{n}", "status": "running", "training_file": "x", "user_provided_suffix": "x"}
        server.bodies.append({})
    create, lost = server._create, []

    def broken(body: dict[str, Any]) -> Answer:
        create(body)
        lost.append(body)
        return status, "{"

    server._create = broken  # type: ignore[method-assign]
    job = tune(tuning(server, tmp_path))
    assert (job.status, job.job_id, len(lost)) == ("succeeded", "ftjob-4", 1)


def test_a_kill_between_creation_and_note_is_made_good(server: FineTuningServer, tmp_path: Path) -> None:
    """As a kill leaves it: the provider has the job, the file knows the suffix and the rows' file alone."""
    begun = tuning(server, tmp_path)
    job = new_job(job_key(server.url, "m", ROWS, {}, 0)).model_copy(update={"file_id": begun.api.upload(ROWS)})
    begun.file.put(job)
    begun.api.create("m", job, {}, 0, look=False)
    assert tune(tuning(server, tmp_path)).job_id == "ftjob-1"
    assert (server.count(*JOBS), server.count("POST", "/files")) == (1, 1)


def test_a_server_that_lists_no_jobs_gets_another(server: FineTuningServer, tmp_path: Path) -> None:
    begun = tuning(server, tmp_path)
    begun.file.put(new_job(job_key(server.url, "m", ROWS, {}, 0)).model_copy(update={"file_id": begun.api.upload(ROWS)}))
    server.instead = lambda method, path: (405, "{}") if (method, path) == ("GET", "/fine_tuning/jobs") else None
    assert tune(begun).status == "succeeded"
    assert server.count(*JOBS) == 1


def test_pages_of_jobs_are_looked_through(server: FineTuningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.model.hosted._PAGE", 2)
    begun = tuning(server, tmp_path)
    for _ in range(5):
        job = new_job("k").model_copy(update={"file_id": begun.api.upload(ROWS)})
        begun.api.create("m", job, {}, 0, look=False)
    job = new_job(job_key(server.url, "m", ROWS, {}, 0)).model_copy(update={"file_id": "file-1", "suffix": server.bodies[0]["suffix"]})
    begun.file.put(job)
    assert tune(begun).job_id == "ftjob-1"
    assert server.count("GET", "/fine_tuning/jobs") == 3


def test_a_failed_job_says_why_and_is_begun_anew_by_the_next_run(
    server: FineTuningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.failure = lambda body: f"10 examples\nat least, not with {KEY}"
    with pytest.raises(BenchError, match=r"fine-tuning job ftjob-1 failed: 10 examples at least, not with \*\*\*$"):
        tune(tuning(server, tmp_path))
    assert KEY not in (tmp_path / HOSTED).read_text()
    server.failure = lambda body: None
    assert tune(tuning(server, tmp_path)).job_id == "ftjob-2"
    assert [job.status for job in read_jobs(tmp_path / HOSTED).jobs] == ["failed", "succeeded"]


def test_a_job_that_is_cancelled_stops_the_cell_and_is_begun_anew_by_the_next_run(server: FineTuningServer, tmp_path: Path) -> None:
    server.held.set()
    made = tuning(server, tmp_path)

    def cancel(state: str) -> None:
        made.api.cancel("ftjob-1")

    with pytest.raises(EndpointStopped, match="job ftjob-1 was cancelled; the same command begins another"):
        made.tune(ROWS, {}, 0, cancel)
    server.held.clear()
    assert tune(tuning(server, tmp_path)).job_id == "ftjob-2"


def test_a_job_that_was_cancelled_in_the_meantime_is_begun_anew_at_once(server: FineTuningServer, tmp_path: Path) -> None:
    server.instead = lambda method, path: (500, "") if method == "GET" else None
    with pytest.raises(EndpointStopped):
        tune(tuning(server, tmp_path))
    server.instead = lambda method, path: None
    server.jobs["ftjob-1"]["status"] = "cancelled"
    assert tune(tuning(server, tmp_path)).job_id == "ftjob-2"


@pytest.mark.parametrize(
    ("at", "answer", "words"),
    [
        ("/files", (401, {"error": {"message": f"not with {KEY}"}}), "HTTP 401: the API key was refused; .* OPENAI_API_KEY is set"),
        ("/files", (404, {"error": {"message": "No."}}), "404 for files for fine-tuning: No.; expected a server with OpenAI's"),
        ("/fine_tuning/jobs", (404, {}), "404 for fine-tuning jobs of model m: .*; expected a server with OpenAI's fine-tuning API"),
        ("/fine_tuning/jobs", (429, {"error": {"message": "quota"}}), "gave up after 3 attempts; the last one: HTTP 429 .* quota"),
        ("/files", (200, "no json"), "gave up after 3 attempts; .*found b'no json', expected a file in JSON"),
        ("/fine_tuning/jobs", (200, {"id": "x"}), "found job x without a status"),
        ("/fine_tuning/jobs", (200, {"id": "x", "status": "succeeded"}), "succeeded without the name of its model"),
        ("/fine_tuning/jobs/ftjob-1", (200, []), r"found b'\[\]', expected a fine-tuning job in JSON"),
        ("/fine_tuning/jobs/ftjob-1", (404, {}), r"HTTP 404 for fine-tuning job ftjob-1: \{\} \(job ftjob-1 goes on there\)"),
    ],
)
def test_what_is_no_fault_of_the_settings_stops_the_cell(
    server: FineTuningServer, tmp_path: Path, at: str, answer: Answer, words: str
) -> None:
    server.instead = lambda method, path: answer if path == at and (method, path) != ("GET", JOBS[1]) else None
    with pytest.raises(EndpointStopped, match=words) as raised:
        tune(tuning(server, tmp_path))
    assert KEY not in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_settings_that_the_provider_refuses_are_a_bad_trial(server: FineTuningServer, tmp_path: Path) -> None:
    server.instead = lambda method, path: (400, {"error": {"message": "n_epochs is too large"}}) if (method, path) == JOBS else None
    with pytest.raises(BenchError, match="HTTP 400 for fine-tuning jobs of model m: n_epochs is too large"):
        tune(tuning(server, tmp_path), n_epochs=1000)


def test_a_slow_server_is_asked_again_and_a_busy_one_too(server: FineTuningServer, tmp_path: Path) -> None:
    refused: list[str] = []

    def once(method: str, path: str) -> Answer | None:
        if path in refused:
            return None
        refused.append(path)
        return 503, "busy"

    server.instead = once
    assert tune(tuning(server, tmp_path)).status == "succeeded"
    assert len(server.jobs) == 1
    server.silent.set()  # a creation is never answered: the second attempt finds the job
    assert tune(tuning(server, tmp_path, timeout=0.2), seed=1).job_id == "ftjob-2"
    assert len(server.jobs) == 2


def test_nobody_listens(server: FineTuningServer, tmp_path: Path) -> None:
    server.close()
    with pytest.raises(EndpointStopped, match=r"gave up after 3 attempts; the last one: .*refused"):
        tune(tuning(server, tmp_path))


def test_a_job_is_charged_before_it_is_created_and_settled_by_what_it_trained_on(server: FineTuningServer, tmp_path: Path) -> None:
    spending = Spending(tmp_path / "usd", PRICE, max_usd=2.0)
    bound = sum(len(m["content"]) + 16 for row in ROWS for m in row["messages"]) * 1000 / 1e6
    made = tuning(server, tmp_path, spending)
    seen: list[float] = []
    made.tune(ROWS, {"n_epochs": 3}, 0, lambda _: seen.append(spending.usd))
    assert seen == pytest.approx([3 * bound])
    assert spending.usd == pytest.approx(3 * TRAINED * 1000 / 1e6)
    with pytest.raises(EndpointStopped, match=r"--max-usd: 0\.0600 of 2 USD are spent, and the next job could cost 2\.5"):
        tune(made, n_epochs=10)
    assert len(server.jobs) == 1


def test_a_cap_needs_to_know_what_a_job_costs(server: FineTuningServer, tmp_path: Path) -> None:
    spending = Spending(tmp_path / "usd", PRICE, max_usd=100.0)
    for hyperparameters in ({}, {"n_epochs": "auto"}, {"n_epochs": True}):
        with pytest.raises(EndpointStopped, match=r"--max-usd: tuning\.hosted\.n_epochs is (missing|auto|True); expected a number"):
            tune(tuning(server, tmp_path, spending), **hyperparameters)
    spending = Spending(tmp_path / "usd", PRICE.model_copy(update={"training": None, "tuned_output": None}), max_usd=100.0)
    with pytest.raises(EndpointStopped, match='the price of "m" has no training, tuned_output; expected them'):
        tune(tuning(server, tmp_path, spending), n_epochs=1)
    assert server.seen == []


def test_base_and_tuned_models_never_share_an_answer(server: FineTuningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.model.hosted.time.sleep", lambda seconds: None)
    source = locate(served_name("m", server.url))

    def answer(*epochs: int) -> str:
        served = ServedModel(source, tmp_path / "answers.jsonl")
        for n in epochs:
            served.tune(ROWS, {"n_epochs": n}, 0, lambda _: None)
        ((_, found),) = next(served.generate(served.prompts_ids([[{"role": "user", "content": "question 4"}]]), 5))
        return found.text

    for _ in range(2):  # the second time from the file alone
        assert [answer(), answer(5), answer(1), answer(5, 1), answer(1, 5)] == ["unknown", "answer 4", "answer 0", "answer 0", "answer 4"]
    assert [chat["model"].split(":")[0] for chat in server.chats] == ["m", "ft", "ft"]
    assert len(server.jobs) == 2


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    for text in ("{", "[]", json.dumps({"url": "u", "model": "m", "jobs": [{"id": 1}]})):
        (tmp_path / HOSTED).write_text(text)
        with pytest.raises(BenchError, match=r"hosted\.json: found .*; expected the jobs of a cell, as bench run writes them"):
            JobFile(tmp_path / HOSTED, "u", "m")
