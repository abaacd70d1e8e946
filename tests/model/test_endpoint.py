"""The chat client against a real HTTP server on this machine."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from bench.errors import BenchError
from bench.model.endpoint import ChatEndpoint

MESSAGES = [{"role": "user", "content": "Hi"}]
GOOD = json.dumps({"choices": [{"message": {"role": "assistant", "content": "Hello"}}]})


class Server:
    """Answers with what a test has put into `replies`, (status, body, headers) each, the last one again and again."""

    def __init__(self) -> None:
        self.replies: list[tuple[int, str, dict[str, str]]] = []
        self.seen: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.delay = 0.0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.seen.append((self.path, dict(self.headers), json.loads(body)))
                time.sleep(outer.delay)
                status, text, headers = outer.replies.pop(0) if len(outer.replies) > 1 else outer.replies[0]
                try:
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(text.encode())))
                    self.end_headers()
                    self.wfile.write(text.encode())
                except (BrokenPipeError, ConnectionResetError):
                    pass  # the client has given up

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def answers(self, *replies: tuple[int, str] | tuple[int, str, dict[str, str]]) -> None:
        self.replies = [(r[0], r[1], r[2] if len(r) == 3 else {}) for r in replies]


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def endpoint(server: Server, **settings: Any) -> ChatEndpoint:
    return ChatEndpoint(server.url, "m", backoff_seconds=0.01, **settings)


def test_a_request_is_greedy_and_carries_the_key(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    server.answers((200, GOOD))
    assert endpoint(server, api_key_env="MY_KEY").complete(MESSAGES, 7) == "Hello"
    ((path, headers, body),) = server.seen
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret"
    assert body == {"model": "m", "messages": MESSAGES, "temperature": 0, "max_tokens": 7}


def test_a_local_server_needs_no_key(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    server.answers((200, GOOD))
    endpoint(server).complete(MESSAGES, 7)
    assert "Authorization" not in server.seen[0][1]


def test_a_refused_key_is_said_and_not_tried_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    server.answers((401, "{}"))
    with pytest.raises(BenchError, match="HTTP 401: the API key was refused; the environment variable MY_KEY is set") as raised:
        endpoint(server, api_key_env="MY_KEY").complete(MESSAGES, 7)
    assert len(server.seen) == 1
    assert "secret" not in str(raised.value)
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(BenchError, match="MY_KEY is not set"):
        endpoint(server, api_key_env="MY_KEY").complete(MESSAGES, 7)


def test_an_unknown_model_is_said_in_the_servers_words(server: Server) -> None:
    server.answers((404, json.dumps({"error": {"message": "no such\nmodel"}})))
    with pytest.raises(BenchError, match="HTTP 404 for model m: no such model"):
        endpoint(server).complete(MESSAGES, 7)
    assert len(server.seen) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(server: Server, status: int) -> None:
    server.answers((status, "later"), (status, "later"), (200, GOOD))
    assert endpoint(server).complete(MESSAGES, 7) == "Hello"
    assert len(server.seen) == 3


def test_the_wait_doubles_unless_the_server_says_how_long(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_it_gives_up_with_the_last_reason(server: Server) -> None:
    server.answers((500, "boom"))
    with pytest.raises(BenchError, match="gave up after 3 attempts; the last one: HTTP 500 for model m: boom"):
        endpoint(server, retries=2).complete(MESSAGES, 7)
    assert len(server.seen) == 3


@pytest.mark.parametrize("body", ["not json", "{}", '{"choices": []}', "[]", '{"choices": [{"message": {"content": null}}]}', ""])
def test_another_answer_than_a_completion_is_said(server: Server, body: str) -> None:
    server.answers((200, body))
    with pytest.raises(BenchError, match="expected"):
        endpoint(server).complete(MESSAGES, 7)
    assert len(server.seen) == 1


def test_a_silent_server_times_out(server: Server) -> None:
    server.delay = 1.0
    server.answers((200, GOOD))
    with pytest.raises(BenchError, match=r"gave up after 2 attempts; the last one: .*timed out"):
        endpoint(server, retries=1, timeout_seconds=0.1).complete(MESSAGES, 7)


def test_an_address_where_nobody_listens(server: Server) -> None:
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(BenchError, match=r"gave up after 2 attempts; the last one: .*refused"):
        endpoint(server, retries=1).complete(MESSAGES, 7)


@pytest.mark.parametrize("url", ["localhost:8000", "file:///etc/passwd", "", "http://"])
def test_only_http_addresses(url: str) -> None:
    with pytest.raises(BenchError, match="expected one like https"):
        ChatEndpoint(url, "m")
