"""The chat client against a real HTTP server on this machine."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer, completion

from bench.cost.prices import TokenPrice
from bench.cost.spending import Spending, SpendingCap
from bench.errors import BenchError
from bench.model.endpoint import ChatEndpoint, prompt_bound
from bench.result.schema import Tokens

MESSAGES = [{"role": "user", "content": "Hi"}]
GOOD = completion()
PRICE = TokenPrice(name="m", input=10, output=20, source="here", as_of=date(2026, 1, 1))


@pytest.fixture
def server() -> Iterator[ChatServer]:
    made = ChatServer()
    yield made
    made.close()


def endpoint(server: ChatServer, **settings: Any) -> ChatEndpoint:
    return ChatEndpoint(server.url, "m", backoff_seconds=0.01, **settings)


def test_a_request_is_greedy_and_carries_the_key(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    server.answers((200, GOOD))
    assert endpoint(server, api_key_env="MY_KEY").complete(MESSAGES, 7) == "Hello"
    ((path, headers, body),) = server.seen
    assert path == "/v1/chat/completions"
    assert headers["authorization"] == "Bearer secret"
    assert body == {"model": "m", "messages": MESSAGES, "temperature": 0, "max_tokens": 7}


def test_a_local_server_needs_no_key(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    server.answers((200, GOOD))
    endpoint(server).complete(MESSAGES, 7)
    assert "authorization" not in server.seen[0][1]


def test_a_refused_key_is_said_and_not_tried_again(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    server.answers((401, "{}"))
    with pytest.raises(BenchError, match="HTTP 401: the API key was refused; the environment variable MY_KEY is set") as raised:
        endpoint(server, api_key_env="MY_KEY").complete(MESSAGES, 7)
    assert len(server.seen) == 1
    assert "secret" not in str(raised.value)
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(BenchError, match="MY_KEY is not set"):
        endpoint(server, api_key_env="MY_KEY").complete(MESSAGES, 7)


def test_an_unknown_model_is_said_in_the_servers_words(server: ChatServer) -> None:
    server.answers((404, json.dumps({"error": {"message": "no such\nmodel"}})))
    with pytest.raises(BenchError, match="HTTP 404 for model m: no such model"):
        endpoint(server).complete(MESSAGES, 7)
    assert len(server.seen) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(server: ChatServer, status: int) -> None:
    server.answers((status, "later"), (status, "later"), (200, GOOD))
    assert endpoint(server).complete(MESSAGES, 7) == "Hello"
    assert len(server.seen) == 3


def test_the_wait_doubles_unless_the_server_says_how_long(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("bench.model.endpoint.time.sleep", waits.append)
    server.answers(
        (429, ""), (429, "", {"Retry-After": "7"}), (500, "", {"Retry-After": "Fri, 1 Jan 2027"}), (429, "", {"Retry-After": "999"})
    )
    with pytest.raises(BenchError):
        ChatEndpoint(server.url, "m", backoff_seconds=2, retries=3).complete(MESSAGES, 7)
    assert [wait for wait in waits if wait] == [2, 7, 8]
    waits.clear()
    with pytest.raises(BenchError):
        ChatEndpoint(server.url, "m", retries=1).complete(MESSAGES, 7)
    assert [wait for wait in waits if wait] == [60]  # not for a quarter of an hour


def test_it_gives_up_with_the_last_reason(server: ChatServer) -> None:
    server.answers((500, "boom"))
    with pytest.raises(BenchError, match="gave up after 3 attempts; the last one: HTTP 500 for model m: boom"):
        endpoint(server, retries=2).complete(MESSAGES, 7)
    assert len(server.seen) == 3


@pytest.mark.parametrize("body", ["not json", "{}", '{"choices": []}', "[]", '{"choices": [{"message": {"content": 7}}]}', ""])
def test_another_answer_than_a_completion_is_said(server: ChatServer, body: str) -> None:
    server.answers((200, body))
    with pytest.raises(BenchError, match=r"gave up after 3 attempts; the last one: .*expected"):
        endpoint(server, retries=2).complete(MESSAGES, 7)
    assert len(server.seen) == 3  # the next answer may be whole


def test_a_silent_server_times_out(server: ChatServer) -> None:
    server.delay = 1.0
    server.answers((200, GOOD))
    with pytest.raises(BenchError, match=r"gave up after 2 attempts; the last one: .*timed out"):
        endpoint(server, retries=1, timeout_seconds=0.1).complete(MESSAGES, 7)


def test_an_address_where_nobody_listens(server: ChatServer) -> None:
    server.close()
    with pytest.raises(BenchError, match=r"gave up after 2 attempts; the last one: .*refused"):
        endpoint(server, retries=1).complete(MESSAGES, 7)


@pytest.mark.parametrize("url", ["localhost:8000", "file:///etc/passwd", "", "http://"])
def test_only_http_addresses(url: str) -> None:
    with pytest.raises(BenchError, match="expected one like https"):
        ChatEndpoint(url, "m")


def test_urls_that_could_hold_a_secret_are_refused_without_being_shown() -> None:
    for url in ("https://me:secret@host/v1", "https://host/v1?key=secret", "https://host/v1#secret"):
        with pytest.raises(BenchError, match="holds a user, a query or a fragment") as raised:
            ChatEndpoint(url, "m")
        assert "secret" not in str(raised.value)


@pytest.mark.parametrize("content", ["", None])
def test_an_empty_answer_is_an_answer(server: ChatServer, content: str | None) -> None:
    server.answers((200, completion(content)))
    assert endpoint(server).complete(MESSAGES, 7) == ""
    assert len(server.seen) == 1


def test_a_reply_has_what_the_server_tells(server: ChatServer) -> None:
    logprobs = {"content": [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -0.25}]}
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11, "prompt_tokens_details": {"cached_tokens": 4}}
    whole = {"choices": [{"message": {"content": "ab"}, "logprobs": logprobs}], "usage": usage}
    server.answers((200, json.dumps(whole)), (200, GOOD))
    told = endpoint(server).ask(MESSAGES, 7)
    assert (told.text, told.logprob, told.tokens) == ("ab", -0.75, Tokens(prompt=9, prompt_cached=4, completion=2))
    silent = endpoint(server).ask(MESSAGES, 7)
    assert (silent.text, silent.logprob, silent.tokens) == ("Hello", None, None)


@pytest.mark.parametrize("usage", [7, {}, {"prompt_tokens": "9", "completion_tokens": 2}, {"prompt_tokens": -1, "completion_tokens": 2}])
def test_counts_that_are_none_are_not_taken(server: ChatServer, usage: Any) -> None:
    server.answers((200, completion(usage=usage)))
    assert endpoint(server).ask(MESSAGES, 7).tokens is None


def test_a_parameter_that_a_model_does_not_take_is_left_out_once_for_all(server: ChatServer) -> None:
    def refuse(name: str) -> tuple[int, str]:
        return 400, json.dumps({"error": {"message": "no", "param": name, "code": "unsupported_parameter"}})

    server.answers(refuse("max_tokens"), refuse("temperature"), (200, GOOD))
    asked = endpoint(server, options={"seed": 0})
    asked.complete(MESSAGES, 7)
    asked.complete(MESSAGES, 7)
    assert [body for _, _, body in server.seen[2:]] == 2 * [{"model": "m", "messages": MESSAGES, "max_completion_tokens": 7, "seed": 0}]
    assert (asked.options, asked.refused) == ({"seed": 0}, ["temperature"])


def test_a_parameter_that_cannot_be_left_out_is_an_error_and_no_endless_loop(server: ChatServer) -> None:
    server.answers((400, json.dumps({"error": {"message": "no", "param": "max_tokens", "code": "unsupported_parameter"}})))
    with pytest.raises(BenchError, match="HTTP 400 for model m: no"):
        endpoint(server).complete(MESSAGES, 7)
    assert len(server.seen) == 2


def test_what_a_server_says_cannot_act_on_a_terminal(server: ChatServer) -> None:
    server.answers((400, json.dumps({"error": {"message": "\x1b[2Jgone"}})))
    with pytest.raises(BenchError) as raised:
        endpoint(server).complete(MESSAGES, 7)
    assert "\x1b" not in str(raised.value)
    assert "gone" in str(raised.value)


KEY = "sk-marked-0123456789"


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 429, 500])
def test_no_error_shows_the_key(server: ChatServer, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.answers((status, json.dumps({"error": {"message": f"not with {KEY}!"}})))
    with pytest.raises(BenchError) as raised:
        endpoint(server, retries=0).complete(MESSAGES, 7)
    assert KEY in server.seen[0][1]["authorization"]
    assert KEY not in "".join(traceback.format_exception(raised.value))


def test_no_connection_error_shows_the_key(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.close()
    with pytest.raises(BenchError) as raised:
        endpoint(server, retries=0).complete(MESSAGES, 7)
    assert KEY not in "".join(traceback.format_exception(raised.value))


def test_a_key_that_no_header_can_hold_is_not_shown(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answers((200, GOOD))
    for bad in (f"{KEY}\nX-More: 1", f"{KEY}…"):
        monkeypatch.setenv("OPENAI_API_KEY", bad)
        with pytest.raises(BenchError, match="OPENAI_API_KEY is not printable ASCII") as raised:
            endpoint(server).complete(MESSAGES, 7)
        assert KEY not in str(raised.value)
    assert not server.seen


def test_every_attempt_is_charged_before_it_is_made(server: ChatServer, tmp_path: Path) -> None:
    spending = Spending(tmp_path / "usd", PRICE, max_usd=1.0)
    server.answers((500, "no"), (200, "broken"), (200, completion(usage={"prompt_tokens": 1000, "completion_tokens": 500})))
    endpoint(server, spending=spending).complete(MESSAGES, 7)
    bound = (prompt_bound(MESSAGES) * 10 + 7 * 20) / 1e6  # of the broken answer, which may be billed
    assert spending.usd == pytest.approx((1000 * 10 + 500 * 20) / 1e6 + bound)


def test_nothing_is_asked_that_could_pass_the_cap(server: ChatServer, tmp_path: Path) -> None:
    server.answers((200, completion(usage={"prompt_tokens": 100, "completion_tokens": 5})))
    spending = Spending(tmp_path / "usd", PRICE, max_usd=0.002)
    asked = endpoint(server, spending=spending)
    asked.complete(MESSAGES, 7)
    with pytest.raises(SpendingCap, match=r"0.0011 of 0.002 USD are spent, and the next request could cost 0.02"):
        asked.complete(MESSAGES, 1000)
    assert len(server.seen) == 1
    assert spending.usd == pytest.approx(0.0011)


def test_processes_share_what_is_spent(tmp_path: Path) -> None:
    one, other = (Spending(tmp_path / "usd", PRICE, max_usd=0.01) for _ in range(2))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: (one, other)[i % 2].reserve(Tokens(completion=1)), range(100)))
    assert one.usd == other.usd == pytest.approx(100 * 20 / 1e6)


def test_half_a_character_is_replaced(server: ChatServer) -> None:
    server.answers((200, '{"choices": [{"message": {"content": "a\\ud800b"}}]}'))
    assert endpoint(server).complete(MESSAGES, 7) == "a?b"


def test_without_the_client_it_is_said_what_to_install(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(BenchError, match="pip install openai"):
        endpoint(server).complete(MESSAGES, 7)
