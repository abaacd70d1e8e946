"""A chat API on this machine that answers, and fails, as a test tells it to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, str, dict[str, str]]
"""HTTP status, body, headers."""


def completion(text: str | None = "Hello", **more: Any) -> str:
    """The body of a chat completion."""
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}], **more})


class ChatServer:
    """Answers with what is in `replies`, the last one again and again, or with what `answer` makes of a request's body."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.answer: Callable[[dict[str, Any]], Reply] | None = None
        self.seen: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        """Path, headers (lower case) and body of every request."""
        self.delay = 0.0
        self.at_once, self._busy, self._lock = 0, 0, threading.Lock()
        """The most requests that were under way together."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer._lock:
                    outer._busy += 1
                    outer.at_once = max(outer.at_once, outer._busy)
                    outer.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
                    if outer.answer:
                        status, text, headers = outer.answer(body)
                    else:
                        status, text, headers = outer.replies.pop(0) if len(outer.replies) > 1 else outer.replies[0]
                time.sleep(outer.delay)
                with outer._lock:
                    outer._busy -= 1
                try:
                    self.send_response(status)
                    for name, value in {"Content-Type": "application/json", **headers}.items():
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
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def answers(self, *replies: tuple[int, str] | Reply) -> None:
        self.replies = [(r[0], r[1], r[2] if len(r) == 3 else {}) for r in replies]

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
