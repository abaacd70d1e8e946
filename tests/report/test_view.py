"""The live view: what it says, when it makes the report again, and to whom it answers."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cost.cost_samples import choices
from report.test_evidence import add, items, new_run

from bench.errors import BenchError
from bench.report.view import HOST, View, server
from bench.result.schema import Run
from bench.result.store import RunFolder


class Rendered:
    """Counts how often the report is made."""

    def __init__(self) -> None:
        self.times = 0
        self.problem: str | None = None

    def __call__(self) -> str:
        self.times += 1
        if self.problem:
            raise BenchError(self.problem)
        return f"<p>report {self.times}</p>"


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return new_run(tmp_path / "live", ["zero-shot", "lora"])


def set_status(run: RunFolder, status: str) -> None:
    run.write_run(Run.model_validate(run.read_run().model_dump() | {"status": status}))


def test_progress_counts_what_has_ended_and_names_what_is_at_work(run: RunFolder) -> None:
    set_status(run, "running")
    view = View(run, Rendered())
    before = view.progress()
    assert before["line"] == "live: going on. Cells that have ended: none yet."
    add(run, "zero-shot", items(3, 5), choices())
    partial = run.cell_folder("support", "lora", 1)
    partial.mkdir(parents=True)
    (partial / "items.jsonl.partial-abc").write_text("")
    after = view.progress()
    assert after["line"] == "live: going on. Cells that have ended: 1 ok. At work: support / lora / s1."
    assert after["version"] != before["version"]
    set_status(run, "interrupted")
    assert view.progress()["line"] == "live: interrupted. Cells that have ended: 1 ok."


def test_the_report_is_made_again_only_when_a_cell_has_ended(run: RunFolder) -> None:
    render = Rendered()
    view = View(run, render)
    assert (view.report(), view.report(), render.times) == ("<p>report 1</p>", "<p>report 1</p>", 1)
    add(run, "zero-shot", items(3, 5), choices())
    assert (view.report(), render.times) == ("<p>report 2</p>", 2)


def test_why_there_is_no_report_yet_is_said_and_escaped(run: RunFolder) -> None:
    render = Rendered()
    render.problem = "no records <script>here</script>"
    assert "no records &lt;script&gt;here" in View(run, render).report()


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="nowhere"):
        View(RunFolder(tmp_path / "nowhere"), Rendered())


@pytest.fixture
def port(run: RunFolder) -> Iterator[int]:
    with server(View(run, Rendered()), 0) as listening:
        assert listening.server_address[0] == HOST
        thread = threading.Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        yield listening.server_port
        listening.shutdown()
        thread.join()


def ask(port: int, path: str, host: str | None = None) -> tuple[int, str, str]:
    connection = http.client.HTTPConnection(HOST, port, timeout=10)
    connection.request("GET", path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    found = answer.status, answer.getheader("Content-Type") or "", answer.read().decode()
    connection.close()
    return found


def test_it_serves_a_frame_the_progress_and_the_report(port: int) -> None:
    status, kind, page = ask(port, "/")
    assert (status, kind) == (200, "text/html; charset=utf-8")
    assert '<iframe id="report" title="The decision report so far" src="report">' in page
    assert "default-src 'none'" in page
    assert json.loads(ask(port, "/progress")[2])["line"].startswith("live: ")
    assert ask(port, "/report?abc")[2] == "<p>report 1</p>"
    assert ask(port, f"/localhost:{port}", f"localhost:{port}")[0] == 404
    assert ask(port, "/../../etc/passwd")[0] == 404


def test_it_answers_under_this_machines_names_only(port: int) -> None:
    assert ask(port, "/", f"localhost:{port}")[0] == 200
    for other in ("evil.example", f"evil.example:{port}", "127.0.0.1"):
        assert ask(port, "/report", other)[0] == 403


def test_a_port_that_is_taken_is_one_line(port: int, run: RunFolder) -> None:
    with pytest.raises(BenchError, match=f"--port {port}: cannot be used"):
        server(View(run, Rendered()), port)
