"""A run in the browser while it goes on: its progress, and the decision report of what is there so far; on this machine only."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import html
import json
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from bench.errors import BenchError
from bench.result.store import PARTIAL, RunFolder
from bench.result.text import visible

HOST = "127.0.0.1"
SCRIPT = """
const text = document.getElementById("progress"), frame = document.getElementById("report");
let shown = null;
async function look() {
  try {
    const found = await (await fetch("progress")).json();
    text.textContent = found.line;
    if (found.version !== shown) {
      if (shown !== null) frame.src = "report?" + found.version;
      shown = found.version;
    }
  } catch (error) {
    text.textContent = "The server has stopped.";
  }
}
look();
setInterval(look, 2000);
"""
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{name}</title>
<meta http-equiv="Content-Security-Policy" content="{policy}">
<style>
:root {{ color-scheme: light dark; font-family: system-ui, sans-serif; }}
body {{ margin: 0; display: flex; flex-direction: column; height: 100vh; }}
p {{ margin: 0; padding: .6rem 1rem; border-bottom: 1px solid; }}
iframe {{ border: 0; flex: 1; }}
</style></head><body><p id="progress" role="status">{line}</p><iframe id="report" title="The decision report so far" src="report"></iframe>
<script>{script}</script></body></html>
"""


class View:
    """What is shown of one run; `render` makes the report of what is there. One report at a time, made again when records have changed."""

    def __init__(self, folder: RunFolder, render: Callable[[], str]) -> None:
        """Raises `BenchError` where there is no run."""
        self.folder, self._render = folder, render
        self._lock = threading.Lock()
        self._version, self._report = "", ""
        folder.read_run()

    def progress(self) -> dict[str, Any]:
        """``line``: how far the run is, in words; ``version``: changes when a cell has ended."""
        header = self.folder.read_run()
        counts = Counter(record.status for record in self.folder.records())
        ended = ", ".join(f"{n} {status}" for status, n in sorted(counts.items())) or "none yet"
        state = "going on" if header.status == "running" else header.status
        line = f"{header.name}: {state}. Cells that have ended: {ended}."
        if header.status == "running":
            at_work = [f"{path.parent.parent.parent.name} / {path.parent.parent.name} / {path.parent.name}" for path in self._partial()]
            line += f" At work: {', '.join(at_work)}." if at_work else ""
        return {"line": visible(line), "version": self._stamp()}

    def report(self) -> str:
        """The page; a line that says why where it cannot be made yet."""
        with self._lock:
            stamp = self._stamp()
            if stamp != self._version or not self._report:
                try:
                    self._report = self._render()
                except BenchError as error:
                    self._report = f"<!doctype html><title>No report yet</title><p>{html.escape(visible(str(error)))}</p>"
                self._version = stamp
            return self._report

    def page(self) -> str:
        """The frame around the report, with the progress above it."""
        digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
        policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; connect-src 'self'; frame-src 'self'"
        name, line = (html.escape(text) for text in (self.folder.path.name, str(self.progress()["line"])))
        return PAGE.format(name=name, policy=policy, line=line, script=SCRIPT)

    def _stamp(self) -> str:
        paths = self.folder.record_paths()
        return hashlib.sha256("".join(f"{path}{path.stat().st_mtime_ns}" for path in paths).encode()).hexdigest()[:16]

    def _partial(self) -> list[Any]:
        return sorted(self.folder.path.glob(f"cells/*/*/s*/{PARTIAL}*"))


def server(view: View, port: int) -> ThreadingHTTPServer:
    """A server of the view on the loopback address; port 0: any that is free. Raises `BenchError` where the port is taken."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # Another site's name that points here would be let in by the browser, but not by its Host header (DNS rebinding).
            if self.headers.get("Host") not in (f"{HOST}:{self.server.server_port}", f"localhost:{self.server.server_port}"):  # type: ignore[attr-defined]
                self._give(403, "text/plain", "asked for under another name than this machine's\n")
                return
            path = self.path.partition("?")[0]
            if path == "/":
                self._give(200, "text/html", view.page())
            elif path == "/progress":
                self._give(200, "application/json", json.dumps(view.progress()))
            elif path == "/report":
                self._give(200, "text/html", view.report())
            else:
                self._give(404, "text/plain", "not found\n")

        def _give(self, status: int, kind: str, text: str) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # the browser has gone on
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: the terminal belongs to the run's own lines."""

    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        raise BenchError(f"--port {port}: cannot be used ({error.strerror}); expected a free one") from error
