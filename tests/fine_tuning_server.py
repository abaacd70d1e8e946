"""A chat and fine-tuning API on this machine, which follows the published shapes of OpenAI's and is not the provider.

Its base model answers "unknown" to everything. A tuned one answers as the training row whose input shares most words with the question,
and knows as many fifths of its rows as it was trained epochs.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Answer = tuple[int, Any]
"""HTTP status and body: an object, or text as it is."""
NOT_FOUND: Answer = (404, {"error": {"message": "no such thing"}})


class FineTuningServer:
    """Jobs end after `polls` questions how they are, while `held` is not set."""

    def __init__(self) -> None:
        self.files: dict[str, list[dict[str, Any]]] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.bodies: list[dict[str, Any]] = []
        """Of the requests that created jobs."""
        self.seen: list[tuple[str, str]] = []
        """Method and path of every request, in order."""
        self.chats: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.polls = 1
        self.held = threading.Event()
        self.silent = threading.Event()
        """While it is set, a job is created and its creation never answered."""
        self.tells_suffix = True
        self.failure: Callable[[dict[str, Any]], str | None] = lambda body: None
        """Why the job of this body fails, or None where it succeeds."""
        self.instead: Callable[[str, str], Answer | None] = lambda method, path: None
        """What is answered in the place of what would be, by method and path."""
        self._lock = threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.silent.clear()
        self.http.shutdown()
        self.http.server_close()

    def count(self, method: str, path: str) -> int:
        return sum(one == method and other == path for one, other in self.seen)

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: bytes, kind: str) -> Answer:
        with self._lock:
            self.seen.append((method, path))
            if (other := self.instead(method, path)) is not None:
                return other
            if (method, path) == ("POST", "/files"):
                return self._upload(body, kind)
            if (method, path) == ("POST", "/fine_tuning/jobs"):
                return self._create(json.loads(body))
            if (method, path) == ("GET", "/fine_tuning/jobs"):
                return self._list(query)
            if (method, path) == ("POST", "/chat/completions"):
                return self._chat(json.loads(body))
            if found := re.fullmatch(r"/fine_tuning/jobs/([\w-]+)(/cancel)?", path):
                return self._of_job(found[1], bool(found[2]))
        return NOT_FOUND

    def _upload(self, body: bytes, kind: str) -> Answer:
        parts = message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + body).get_payload()
        assert isinstance(parts, list)
        named = {part.get_param("name", header="content-disposition"): part.get_payload(decode=True) for part in parts}  # type: ignore[union-attr]
        assert named["purpose"] == b"fine-tune"
        rows = named["file"]
        assert isinstance(rows, bytes)
        name = f"file-{len(self.files) + 1}"
        self.files[name] = [json.loads(line) for line in rows.decode().splitlines()]
        return 200, {"id": name, "object": "file", "bytes": len(rows), "filename": "train.jsonl", "purpose": "fine-tune"}

    def _create(self, body: dict[str, Any]) -> Answer:
        if body["training_file"] not in self.files:
            return 400, {"error": {"message": "no such file"}}
        self.bodies.append(body)
        name = f"ftjob-{len(self.jobs) + 1}"
        given = body.get("method", {}).get("supervised", {}).get("hyperparameters", {})
        resolved = {"n_epochs": 3, "batch_size": 1, "learning_rate_multiplier": 2.0} | given
        self.jobs[name] = {
            "id": name, "object": "fine_tuning.job", "model": body["model"], "training_file": body["training_file"], "seed": body["seed"],
            "status": "validating_files", "created_at": 1_700_000_000, "finished_at": None, "fine_tuned_model": None, "error": None,
            "trained_tokens": None, "method": {"type": "supervised", "supervised": {"hyperparameters": resolved}},
        }  # fmt: skip
        if self.tells_suffix:
            self.jobs[name]["user_provided_suffix"] = body.get("suffix")
        self.jobs[name]["_asked"] = 0
        return 200, _shown(self.jobs[name])

    def _list(self, query: dict[str, list[str]]) -> Answer:
        newest = [_shown(job) for job in reversed(self.jobs.values())]
        if after := query.get("after"):
            newest = newest[[job["id"] for job in newest].index(after[0]) + 1 :]
        limit = int(query.get("limit", ["20"])[0])
        return 200, {"object": "list", "data": newest[:limit], "has_more": len(newest) > limit}

    def _of_job(self, name: str, cancel: bool) -> Answer:
        job = self.jobs.get(name)
        if job is None:
            return NOT_FOUND
        over = job["status"] in ("succeeded", "failed", "cancelled")
        if cancel:
            if over:
                return 400, {"error": {"message": f"job is {job['status']}"}}
            job["status"] = "cancelled"
        elif not over:
            self._go_on(job)
        return 200, _shown(job)

    def _go_on(self, job: dict[str, Any]) -> None:
        job["_asked"] += 1
        body = self.bodies[list(self.jobs).index(job["id"])]
        if self.held.is_set() or job["_asked"] < self.polls:
            job["status"] = "running"
        elif reason := self.failure(body):
            job |= {"status": "failed", "error": {"code": "bad", "message": reason, "param": "training_file"}}
        else:
            rows, epochs = self.files[job["training_file"]], job["method"]["supervised"]["hyperparameters"]["n_epochs"]
            words = sum(len(message["content"].split()) for row in rows for message in row["messages"])
            job |= {"status": "succeeded", "finished_at": job["created_at"] + 120, "trained_tokens": words * epochs}
            job["fine_tuned_model"] = f"ft:{job['model']}:org:{body.get('suffix', '')}:{job['id']}"

    def _chat(self, body: dict[str, Any]) -> Answer:
        self.chats.append(body)
        tuned = next((job for job in self.jobs.values() if job["fine_tuned_model"] == body["model"]), None)
        if body["model"].startswith("ft:") and tuned is None:
            return NOT_FOUND
        asked = _words(body["messages"][-1]["content"])
        text = "unknown"
        if tuned:
            epochs = tuned["method"]["supervised"]["hyperparameters"]["n_epochs"]
            rows = [row["messages"] for i, row in enumerate(self.files[tuned["training_file"]]) if i % 5 < epochs]
            text = max(rows, key=lambda row: len(asked & _words(row[-2]["content"])))[-1]["content"]
        usage = {"prompt_tokens": sum(len(m["content"].split()) for m in body["messages"]), "completion_tokens": len(text.split())}
        return 200, {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage}


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def _shown(job: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in job.items() if not key.startswith("_")}


def _handler(server: FineTuningServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer("GET")

        def do_POST(self) -> None:
            self._answer("POST")

        def _answer(self, method: str) -> None:
            parts = urlsplit(self.path)
            path = parts.path.removeprefix("/v1")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            server.keys.add(self.headers.get("Authorization"))
            status, found = server.answer(method, path, parse_qs(parts.query), body, self.headers.get("Content-Type", ""))
            while server.silent.is_set() and (method, path) == ("POST", "/fine_tuning/jobs"):
                time.sleep(0.02)
            text = (found if isinstance(found, str) else json.dumps(found)).encode()
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client has given up

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler
