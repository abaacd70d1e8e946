"""A served model in the place of a loaded one: many requests at a time, failures contained, nothing asked twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer, completion

from bench.cost.prices import TokenPrice
from bench.errors import BenchError
from bench.model.connection import EndpointStopped
from bench.model.conversation import Message
from bench.model.served import FAILURES_IN_A_ROW, NotHere, ServedModel, estimated_tokens
from bench.model.source import locate, served_name
from bench.strategy.spec import load_strategy
from bench.suite import find_task
from bench.task.load import load_task

USAGE = {"prompt_tokens": 10, "completion_tokens": 2}


@pytest.fixture
def server() -> Iterator[ChatServer]:
    made = ChatServer()
    made.answer = lambda body: (200, completion(f" to {body['messages'][-1]['content']} ", usage=USAGE), {})
    yield made
    made.close()


def asked(n: int) -> list[list[Message]]:
    return [[{"role": "user", "content": f"q{i}"}] for i in range(n)]


def model(server: ChatServer, answers: Path | None = None, **settings: Any) -> ServedModel:
    source = locate(served_name("m", server.url))
    assert source.endpoint
    made = ServedModel(replace(source, endpoint=replace(source.endpoint, **settings)), answers)
    made.chat.connection.backoff, made.chat.connection.retries = 0.01, 1
    return made


def answers_of(served: ServedModel, n: int, skip: tuple[int, ...] = ()) -> dict[int, str]:
    return {i: g.text for batch in served.generate(served.prompts_ids(asked(n)), 5, skip) for i, g in batch}


def collect(served: ServedModel, n: int, found: list[int]) -> None:
    """Which of so many are answered, up to where it stops."""
    for batch in served.generate(served.prompts_ids(asked(n)), 5):
        found += [i for i, _ in batch]


def failing(server: ChatServer, status: int, *which: str) -> None:
    """These questions fail, the others are answered."""
    good = server.answer
    assert good

    def answer(body: dict[str, Any]) -> tuple[int, str, dict[str, str]]:
        bad = body["messages"][-1]["content"] in which
        return (status, json.dumps({"error": {"message": "no"}}), {}) if bad else good(body)

    server.answer = answer


def test_each_prompt_gets_its_own_answer_and_many_are_asked_at_a_time(server: ChatServer) -> None:
    server.delay = 0.1
    assert answers_of(model(server, concurrency=4), 12) == {i: f"to q{i}" for i in range(12)}
    assert 2 <= server.at_once <= 4
    assert server.seen[0][2]["seed"] == 0
    assert server.seen[0][2]["temperature"] == 0
    assert server.seen[0][2]["max_tokens"] == 5


def test_what_is_done_is_not_asked(server: ChatServer) -> None:
    assert sorted(answers_of(model(server), 4, skip=(0, 2))) == [1, 3]
    assert len(server.seen) == 2


def test_conversations_arrive_as_they_are(server: ChatServer) -> None:
    talk = [{"role": "user", "content": '你好 "é" \n🙂'}, {"role": "assistant", "content": ""}, {"role": "user", "content": "{}"}]
    served = model(server)
    list(served.generate([served.prompt_ids(talk)], 5))
    assert server.seen[0][2]["messages"] == talk


def test_tokens_are_the_servers_or_else_estimated_and_counted_as_such(server: ChatServer) -> None:
    ((_, told),) = next(model(server).generate([model(server).prompt_ids(asked(1)[0])], 5))
    assert (told.prompt_tokens, told.cached_tokens, told.completion_tokens) == (10, 0, 2)
    assert told.logprob is None
    server.answer = lambda _: (200, completion("one two three four"), {})
    served = model(server)
    question = [{"role": "user", "content": " ".join(["a"] * 100)}]
    ((_, silent),) = next(served.generate([served.prompt_ids(question)], 5))
    assert (silent.prompt_tokens, silent.completion_tokens) == (130, 5)
    assert served.about["n_tokens_estimated"] == 1


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("word " * 10, 13), ("x" * 40, 10), ("你好世界", 4)])
def test_estimates(text: str, tokens: int) -> None:
    assert estimated_tokens([{"role": "user", "content": text}]) == tokens


def test_one_failure_keeps_the_others(server: ChatServer) -> None:
    failing(server, 500, "q3")
    found: list[int] = []
    with pytest.raises(EndpointStopped, match=r"HTTP 500 for model m: no \(9 of 10 requests answered; a second run asks for the others"):
        collect(model(server, concurrency=2), 10, found)
    assert sorted(found) == [0, 1, 2, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("status", [401, 404])
def test_a_refusal_stops_at_once(server: ChatServer, status: int) -> None:
    failing(server, status, *(f"q{i}" for i in range(100)))
    with pytest.raises(EndpointStopped, match=f"HTTP {status}"):
        answers_of(model(server, concurrency=2), 100)
    assert len(server.seen) <= 4


def test_a_server_that_is_down_is_not_asked_for_everything(server: ChatServer) -> None:
    failing(server, 503, *(f"q{i}" for i in range(100)))
    with pytest.raises(EndpointStopped, match="HTTP 503"):
        answers_of(model(server, concurrency=2), 100)
    assert len(server.seen) <= 2 * (FAILURES_IN_A_ROW + 2)  # two attempts each


def test_answers_survive_the_process(server: ChatServer, tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    failing(server, 500, "q3")
    with pytest.raises(EndpointStopped):
        answers_of(model(server, file), 5)
    with file.open("a") as half:
        half.write('{"key": "cut o')
    server.seen.clear()
    server.answer = lambda _: (200, completion("late"), {})
    again = model(server, file)
    assert answers_of(again, 5) == {0: "to q0", 1: "to q1", 2: "to q2", 3: "late", 4: "to q4"}
    assert len(server.seen) == 1
    again.forget()
    assert not file.exists()


def test_the_cap_stops_before_it_is_passed(server: ChatServer, tmp_path: Path) -> None:
    price = TokenPrice(name="m", input=1000, output=1000, source="here", as_of=date(2026, 1, 1))  # a dollar is 1000 tokens
    served = model(server, concurrency=1, price=price, max_usd=0.1, run=tmp_path)
    found: list[int] = []
    with pytest.raises(EndpointStopped, match=r"--max-usd: 0\.0840 of 0\.1 USD are spent"):
        collect(served, 50, found)
    assert len(found) == len(server.seen) == 7  # 12 tokens each; the next could take 16 + 2 of the prompt and 5 of the answer


def test_what_needs_the_model_itself_is_told_so(server: ChatServer) -> None:
    with pytest.raises(NotHere, match=r"needs the model itself \(network\)"):
        _ = model(server).network
    with pytest.raises(NotHere, match="tokenizer"):
        model(server).option_ids([asked(1)[0]], [[1]], [["a"]])


def test_two_endpoints_are_two_models() -> None:
    names = ["m@http://a/v1", "m@http://b/v1", "m@http://a:80/v1", "m@http://a/v2", "m@http://a/V1", "n@http://a/v1"]
    assert len({locate(name).fingerprint for name in names}) == len(names)
    assert locate("m@http://a/v1/").fingerprint == locate("m@http://A/v1").fingerprint
    assert all(locate(name).fingerprint.startswith("unknown-") for name in names)
    assert locate("org/m:free@https://a/v1").endpoint.model == "org/m:free"  # type: ignore[union-attr]
    with pytest.raises(BenchError, match="holds a user"):
        locate("m@https://me:key@a/v1")


@pytest.mark.parametrize(
    ("strategy", "task", "reason"),
    [
        ("zero-shot", "product_support", None),
        ("rag", "product_support", None),
        ("majority", "product_support", None),
        ("lora", "product_support", "this strategy trains"),
        ("features", "ticket_triage", "this strategy trains"),
    ],
)
def test_strategies_that_train_are_not_for_a_served_model(strategy: str, task: str, reason: str | None) -> None:
    chosen, loaded = load_strategy(strategy)[1], load_task(find_task(task))
    found = chosen.not_applicable(loaded, "endpoint")
    assert found is None if reason is None else reason in (found or "")
    assert chosen.not_applicable(loaded, "causal") is None


def test_options_are_not_chosen_at_an_endpoint() -> None:
    loaded = load_task(find_task("product_support"))
    chooses = replace(loaded, config=loaded.config.model_copy(update={"kind": "multiple_choice"}))
    assert "log-likelihoods" in (load_strategy("zero-shot")[1].not_applicable(chooses, "endpoint") or "")
