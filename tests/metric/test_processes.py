"""In a process of its own: offline, side by side, with nowhere to write, and light where nothing is scored; plugins."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.metric import registry
from bench.metric.base import Metric
from bench.metric.sample import Sample

ROOT = Path(__file__).parents[2]

COMPUTE = """
import socket
def refuse(*args, **kwargs): raise AssertionError("network")
socket.socket.connect = refuse
from bench.metric import get
from bench.metric.hugging_face import as_evaluate
for _ in range(3):
    print(as_evaluate(get("exact_match")()).compute(predictions=["the Nile", "x"], references=[["Nile"], ["y"]]))
print(as_evaluate(get("rougeL")()).compute(predictions=["dog ran"], references=["dog ran"], bootstrap=True)["rougeL_mid"])
"""

LISTING = """
import sys
from bench.metric import describe, metric_names
from bench.metric.score import check_metrics, corpus_value
for name in metric_names():
    assert describe(name)
check_metrics(["exact_match", "f1"], "qa", "here")
assert corpus_value("f1", []) is None and corpus_value("macro_f1", []) is None
"""

SCORING = """
import sys
from bench.metric.score import Answer, score
from bench.task.load import load_task
for name in ("product_support", "ticket_triage", "review_feedback"):
    task = load_task(f"tasks/{name}")
    scores = score(task, [Answer(example, example.targets[0], evidence_text="red") for example in task.test])
    assert scores.corpus[task.primary_metric] == 1.0
"""
HEAVY = """
import sys
found = {"evaluate", "torch", "transformers", "datasets", "pandas", "scipy", "rouge_score", "nltk"} & set(sys.modules)
assert not found, found
"""


def start(code: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_compute_at_once_offline_with_no_folder_to_write_to(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("a file where the cache folder would be, so that nobody can make it")
    nowhere = str(blocked / "home")
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": nowhere, "HOME": nowhere, "XDG_CACHE_HOME": nowhere}
    runs = [start(COMPUTE, **environment) for _ in range(2)]
    for run in runs:
        out, err = run.communicate(timeout=120)
        assert run.returncode == 0, err
        assert out == "{'exact_match': 0.5}\n" * 3 + "1.0\n"


@pytest.mark.parametrize("code", [LISTING, SCORING], ids=["listing", "scoring"])
def test_listing_and_scoring_import_nothing_heavy(code: str) -> None:
    run = start(code + HEAVY)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 0, err


class Shout(Metric):
    """Share of answers in capitals."""

    name = "shout"

    def sample_level(self, sample: Sample) -> float:
        return float(sample.prediction.isupper())


not_a_metric = 3


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Install a distribution with the given entry points for the length of a test."""

    def write(*lines: str, package: str = "plugin") -> None:
        folder = tmp_path / f"{package}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text("[bench.metrics]\n" + "\n".join(lines) + "\n")
        monkeypatch.syspath_prepend(tmp_path)
        registry._plugins.cache_clear()

    yield write
    registry._plugins.cache_clear()


def here(attribute: str) -> str:
    return f"{__name__}:{attribute}"


def test_a_plugin_is_a_metric_like_any_other(install) -> None:
    install(f"shout = {here('Shout')}")
    assert "shout" in registry.metric_names()
    assert registry.describe("shout") == "Share of answers in capitals."
    assert registry.get("shout")().compute(predictions=["HO", "ho"], references=["", ""]) == {"shout": 0.5}


@pytest.mark.parametrize(
    ("line", "name", "message"),
    [
        (f"f1 = {here('Shout')}", "f1", 'the name "f1" of .* is already taken by a built-in metric'),
        (f"loud = {here('Shout')}", "loud", 'the class is named "shout", expected "loud"'),
        (f"three = {here('not_a_metric')}", "three", "found 3, expected a subclass"),
        ("gone = no_such_module_here:X", "gone", "gone = no_such_module_here:X: cannot be loaded: ModuleNotFoundError"),
    ],
)
def test_a_bad_plugin_is_named(install, line: str, name: str, message: str) -> None:
    install(line)
    with pytest.raises(BenchError, match=message):
        registry.get(name)


def test_two_plugins_of_one_name_are_an_error(install) -> None:
    install(f"shout = {here('Shout')}")
    install(f"shout = {here('not_a_metric')}", package="other")
    with pytest.raises(BenchError, match=r'"shout" of .* is already taken by'):
        registry.metric_names()
