"""What the pages speak of, made small: models, tasks, runs, files; and which commands are run otherwise than a page has them.

A new page gets the `common` things. What else its commands name is made by a function of its own, registered with ``@of(page)``.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from docs_pages import ROOT, Block, Command, blocks
from fine_tuning_server import Answer, FineTuningServer
from metric.nli_models import bert
from model.test_gguf_model import write as write_gguf
from regression.small_repository import commit, git

from bench.model.source import EMBEDDED_FOLDER

BUDGET = "--limit 4 --seeds 1 --trials 1 --train-examples 8 --set tuning.epochs=1 --set tuning.evaluations=1"
PROBES = {
    "default": {"forgetting.questions": 8, "forgetting.sorts": 4, "forgetting.texts": 4, "fabrication.items": 4, "conflict.items": 4},
    "probes": {
        "forgetting-curve.checks": 1, "forgetting-curve.questions": 8, "forgetting-curve.texts": 4, "freshness.epochs": 1,
        "freshness.edited": 2, "freshness.added": 1, "freshness.deleted": 2, "freshness.unrelated": 2, "robustness.items": 4,
        "wording.items": 4, "injection.items": 4, "leakage.canaries": 1, "self-consistency.items": 4, "latency.n_requests": 4,
    },
}  # fmt: skip
"""Fewer items of the probes of a suite, where a page's command is about probes; elsewhere they are left out."""
REDUCED: tuple[tuple[str, str, str, str], ...] = (
    # page, beginning of the command, what is added to it, why; the first that fits holds
    ("docs/tutorial.md", "bench run", "--limit 60 --seeds 2 --trials 1 --train-examples 32 --set tuning.epochs=2", "minutes of training"),
    ("docs/regression.md", "bench run smoke", "--name smoke --task my_task --strategy house.yaml --limit 24 --seeds 1", "one arm"),
    ("docs/ci/README.md", "bench run smoke", "--name smoke --task my_task --strategy majority --limit 8", "one arm"),
    ("docs/regression.md", "bench check results/smoke --relative", "--repeats 1", "five runs of each side"),
    ("docs/probes.md", "bench run probes", f"--name probes --task product_support --strategy rag {BUDGET}", "all probes of six strategies"),
    ("docs/planner.md", "bench plan --model ./config.json", "--strategy lora --strategy full", "half a minute for every preset"),
    ("*", "pip install", "-q --no-deps --no-build-isolation --target site", "the environment of the tests is not to change"),
    ("*", "bench run", BUDGET, "minutes to an hour, by the budgets of the suites"),
    ("*", "bench view", "--port 0", "the port may be in use"),
)
ROWS = {"train": 60, "validation": 12, "test": 40}
"""Of the embedded tasks: a checkpoint is scored on all validation rows."""
SERVER_URLS = ("https://api.openai.com/v1", "http://localhost:8000/v1")
"""Endpoints of the pages; a server of the test answers in their place."""
WAITS = ("bench view",)
"""Commands that serve until Ctrl-C: they are asked for their page, and interrupted."""
NOT_RUN = {
    "bench run --model ./my-model --device cuda:1 --task product_support": "needs two GPUs",
}
"""Commands that cannot be run in a test, to the letter, with the reason."""


class Provider(FineTuningServer):
    """The endpoint of all pages: it knows nothing, can be tuned, and says of a judge's questions that they are supported or not."""

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: bytes, kind: str) -> Answer:
        if path == "/chat/completions" and b"supported by evidence" in body:
            verdict = json.dumps({"verdict": ("supported", "unsupported")[len(body) % 2]})
            return 200, {"choices": [{"message": {"role": "assistant", "content": verdict}}]}
        return super().answer(method, path, query, body, kind)


Builder = Callable[["World"], None]
BUILDERS: dict[str, Builder] = {}
BETWEEN: dict[tuple[str, str], Builder] = {}


def of(page: str) -> Callable[[Builder], Builder]:
    """Registers what a page needs beside the `common` things."""

    def register(build: Builder) -> Builder:
        BUILDERS[page] = build
        return build

    return register


def before(page: str, command: str) -> Callable[[Builder], Builder]:
    """Registers what has to happen before the first command of a page that begins so: what the page's reader has lived through."""

    def register(build: Builder) -> Builder:
        BETWEEN[page, command] = build
        return build

    return register


@dataclass
class World:
    """A folder that a page's commands run in."""

    folder: Path
    shared: Path
    """What all pages have, made once."""
    server: Provider
    page: str
    environment: dict[str, str] = field(default_factory=dict)
    _passed: set[str] = field(default_factory=set)

    def write(self, name: str, content: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    def local(self, text: str) -> str:
        """With the server of the test in place of those of the page."""
        for url in SERVER_URLS:
            text = text.replace(url, self.server.url)
        return text

    def link(self, name: str, target: Path) -> None:
        (self.folder / name).symlink_to(target)

    def run_copy(self, name: str) -> None:
        """The small run of the default suite under another name."""
        shutil.copytree(self.shared / "results/default", self.folder / "results" / name)

    def bench(self, arguments: str) -> None:
        """A command that belongs to no page; raises where it fails."""
        done = self.shell(f"bench {arguments}")
        assert done.returncode == 0, f"bench {arguments}\n{done.stdout}\n{done.stderr}"

    def execute(self, command: Command, exported: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """Runs a command of the page as `as_run` says."""
        for (page, beginning), build in BETWEEN.items():
            if page == self.page and command.text.startswith(beginning) and beginning not in self._passed:
                self._passed.add(beginning)
                build(self)
        text = self.local(as_run(command))
        return self.serve(text) if command.text.startswith(WAITS) else self.shell(text, exported)

    def shell(self, text: str, exported: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", text], cwd=self.folder, env=self._variables() | (exported or {}), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip

    def failed_probes(self) -> list[str]:
        """What went wrong in probes: a probe that fails leaves a reason in its record, and the run ends well."""
        found = (json.loads(file.read_text()) for file in self.folder.glob("results/*/cells/*/*/*/record.json"))
        return [f"{name}: {probe['error']}" for record in found for name, probe in record["probes"].items() if probe.get("error")]

    def serve(self, text: str) -> subprocess.CompletedProcess[str]:
        """Starts a server, fetches the page at the address that it prints, and interrupts it, which in the background of a script it would
        ignore otherwise."""
        server = subprocess.Popen(
            ["bash", "-c", f"exec {text}"], cwd=self.folder, env=self._variables() | {"PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        assert server.stdout is not None
        said = server.stdout.readline()
        if address := re.search(r"http://\S+", said):
            with urllib.request.urlopen(address[0], timeout=60) as page:
                said += page.read().decode()
        server.send_signal(signal.SIGINT)
        rest, _ = server.communicate(timeout=60)
        return subprocess.CompletedProcess(text, server.returncode, said + rest, said + rest)

    def _variables(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name != "CI" and not name.startswith(("GITHUB_", "GIT_"))}
        programs = f"{self.shared / 'bin'}{os.pathsep}{os.environ['PATH']}"
        who = {f"GIT_{part}_{what}": "a@example.com" for part in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        own = who | {"PATH": programs, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_HOME": str(self.shared / "hub")}
        return kept | own | self.environment


def as_run(command: Command) -> str:
    """The command with what makes it small."""
    text = command.text
    added = next((more for page, beginning, more, _ in REDUCED if page in ("*", command.page) and text.startswith(beginning)), "")
    if text.startswith("bench run"):
        added = f"{_narrowed(text + added)} {_fewer_probes(text)} {added}"
    return " ".join(f"{text} {added}".split())


def _narrowed(text: str) -> str:
    """A task and strategies, where a run names none and no suite file of its own."""
    if text.split()[2].endswith(".yaml"):
        return ""
    task = "" if "--task" in text else "--task product_support"
    # What retrieves by embedding has to load what embeds; the oracle reads passages without.
    strategies = "" if "--strategy" in text else "--strategy rag-oracle" if "--probe" in text else "--strategy zero-shot"
    return f"{task} {strategies}"


def _fewer_probes(text: str) -> str:
    suites = ["default", *(["probes"] if text.startswith("bench run probes") else [])]
    if text.startswith("bench run probes") or "--probe" in text:
        found = {key: value for suite in suites for key, value in PROBES[suite].items() if key not in text}
        return " ".join(f"--probe-set {key}={value}" for key, value in found.items())
    return "" if "--no-probes" in text else "--no-probes"


def make_shared(folder: Path, server: Provider) -> None:
    """What all pages have."""
    (folder / "bin").mkdir(parents=True)
    for program in ("bench", "pip"):
        (folder / "bin" / program).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m {program} "$@"\n')
        (folder / "bin" / program).chmod(0o755)
    for hub_id in ("Qwen/Qwen3-0.6B", "meta-llama/Llama-3.2-3B"):
        _cache_as(hub_id, folder / "hub/hub")
    bert(folder / "nli", ["entailment", "contradiction"])
    for name in ("product_support", "ticket_triage"):
        shutil.copytree(ROOT / "tasks" / name, folder / "tasks" / name)
        for split, rows in ROWS.items():
            first_lines(folder / "tasks" / name / f"{split}.jsonl", rows)
    shutil.copy(ROOT / "docs/tutorial/tickets.csv", folder)
    first_lines(folder / "tickets.csv", 150)
    here = World(folder, folder, server, "")
    here.bench("new-task tasks/my_task --from tickets.csv")
    strategies = "majority zero-shot few-shot rag rag-oracle lora full rag-lora"
    options = " ".join(f"--strategy {name}" for name in strategies.split())
    small = BUDGET.replace("--seeds 1", "--seeds 2").replace("--limit 4", "--limit 16")
    here.bench(f"run --no-probes --name default --task product_support --task ticket_triage {options} {small}")


def first_lines(file: Path, n: int) -> None:
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:n]))


def _cache_as(hub_id: str, hub: Path) -> None:
    """The embedded base model as the local cache of the hub has a download."""
    commit_hash = "0" * 40
    cached = hub / f"models--{hub_id.replace('/', '--')}"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text(commit_hash)
    (cached / "snapshots").mkdir()
    shutil.copytree(EMBEDDED_FOLDER, cached / "snapshots" / commit_hash)


def common(world: World) -> None:
    """What every page's folder has but the tutorial's, which begins with nothing but a table."""
    world.link("my-model", EMBEDDED_FOLDER)
    world.link("nli", world.shared / "nli")
    shutil.copytree(world.shared / "tasks", world.folder / "tasks")
    shutil.copy(world.shared / "tickets.csv", world.folder)
    shutil.copy(EMBEDDED_FOLDER / "config.json", world.folder)
    world.run_copy("default")


def yaml_block(page: str, holds: str) -> str:
    """The YAML block of a page that holds a key: what its prose shows as an example has to work as a file."""
    found: list[Block] = [b for b in blocks((ROOT / page).read_text()) if b.kind == "yaml" and any(holds in line for line in b.lines)]
    return "\n".join(found[0].lines) + "\n"


@of("README.md")
def readme(world: World) -> None:
    world.write("mine.yaml", "retrieval: {search: lexical, top_k: 1}\n")


@of("docs/tutorial.md")
def tutorial(world: World) -> None:
    shutil.rmtree(world.folder)
    world.folder.mkdir()
    shutil.copy(ROOT / "docs/tutorial/tickets.csv", world.folder)


@of("docs/add-a-model.md")
def add_a_model(world: World) -> None:
    world.link("my-adapter", world.folder / "results/default/cells/product_support/lora/s0/adapter")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(EMBEDDED_FOLDER / name, world.folder)
    write_gguf(world.folder / "my-model.gguf")


@of("docs/add-a-strategy.md")
def add_a_strategy(world: World) -> None:
    world.run_copy("last-month")


@of("docs/ci/README.md")
@of("docs/regression.md")
def regression(world: World) -> None:
    """A user's repository: tasks and strategies are committed, runs are not."""
    shutil.rmtree(world.folder / "results")
    world.write(".gitignore", "results/\n.venv/\n")
    world.write("house.yaml", "prompt: {instruction: '{{ instruction }}'}\n")
    program = 'mkdir -p .venv/bin && printf \'#!/bin/sh\\nexec %s "$$@"\\n\' $(PYTHON) > .venv/bin/python && chmod +x .venv/bin/python'
    world.write("Makefile", f"PYTHON := {sys.executable}\nsetup:\n\t{program}\n")
    git(world.folder, "init", "-q")
    commit(world.folder, "Tasks and a strategy")


@before("docs/regression.md", "bench bisect results/smoke")
def lose(world: World) -> None:
    """A commit after the baseline's that makes the strategy worse, and a run of it."""
    world.write("house.yaml", "prompt: {instruction: 'Say hello. {{ instruction[:0] }}'}\n")
    commit(world.folder, "A friendlier prompt")
    done = world.shell(as_run(Command(world.page, 0, "bench run smoke")))
    assert done.returncode == 0, done.stderr


@before("docs/regression.md", "bench check results/smoke --relative")
def go_back(world: World) -> None:
    git(world.folder, "checkout", "-q", "main~1")


@before("docs/regression.md", "bench bisect results/smoke --against")
def go_on(world: World) -> None:
    git(world.folder, "checkout", "-q", "main")


@of("docs/claims.md")
def claims(world: World) -> None:
    world.run_copy("claims-strategies")


@of("docs/cost.md")
def cost(world: World) -> None:
    shutil.copy(ROOT / "bench/cost/prices.yaml", world.folder / "mine.yaml")
    world.write("ours.yaml", yaml_block("docs/cost.md", "label_usd_per_example:"))


@of("docs/extend.md")
def extend(world: World) -> None:
    """A copy of the repository, for the file that is put into it, and where the package of the page is installed."""
    shutil.copytree(ROOT / "bench", world.folder / "bench", ignore=shutil.ignore_patterns("__pycache__"))
    world.environment["PYTHONPATH"] = f"{world.folder}{os.pathsep}{world.folder / 'site'}"


@of("docs/hallucination.md")
def hallucination(world: World) -> None:
    rows = [
        {"knowledge": f"The color of the box is {color}. The cat sat.", "response": f"the color is {said}", "label": label}
        for color, other in (("red", "blue"), ("blue", "red")) for said, label in ((color, "supported"), (other, "unsupported"))
    ]  # fmt: skip
    world.write("labelled.jsonl", "".join(json.dumps(row) + "\n" for row in rows * 3))


@of("docs/import-lm-eval.md")
def import_lm_eval(world: World) -> None:
    shutil.rmtree(world.folder / "tasks/my_task")
    source = ROOT / "tests/task/lm_eval"
    world.write("my_task.yaml", (source / "grams.yaml").read_text())
    for name in ("grams.dev.csv", "grams.test.csv"):
        shutil.copy(source / name, world.folder)


@of("docs/report.md")
def report(world: World) -> None:
    world.write("ours.yaml", yaml_block("docs/report.md", "minimum_quality:"))
    world.run_copy("before")
    world.run_copy("after")


def targets() -> Iterator[str]:
    """The targets of the Makefile."""
    for line in (ROOT / "Makefile").read_text().splitlines():
        if found := re.match(r"([a-z-]+):(?!=)", line):
            yield found[1]
