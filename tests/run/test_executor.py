"""Cells in processes of their own: what fails is contained, what is done is kept."""

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from bench.model.source import locate
from bench.result.schema import Record
from bench.result.store import RunFolder
from bench.run import executor
from bench.run.executor import Outcome, run_cells
from bench.suite import Cell, Suite, expand


class Log:
    def __init__(self) -> None:
        self.phases: list[str] = []
        self.records: list[Record] = []

    def phase(self, cell: Cell, text: str) -> None:
        self.phases.append(text)

    def done(self, cell: Cell, record: Record) -> None:
        self.records.append(record)


def run(cells: list[Cell], folder: Path, workers: int = 2) -> tuple[Outcome, Log]:
    log = Log()
    return run_cells(cells, RunFolder(folder).create(), folder / "stores", workers, log), log


def cells_of(task: Path, strategies: list[str], seeds: list[int] | None = None) -> list[Cell]:
    return expand(Suite(tasks=[str(task)], strategies=strategies, seeds=seeds or [0, 1]), locate("embedded"))


@pytest.fixture
def fast(tmp_path: Path) -> list[str]:
    """Strategies that train for one epoch."""
    files = []
    for method, rate in (("lora", "5.0e-3"), ("full", "5.0e-4")):
        file = tmp_path / f"{method}-fast.yaml"
        file.write_text(f"tuning: {{method: {method}, epochs: 1, evaluations: 1}}\nsearch: {{tuning.learning_rate: [1.0e-4, {rate}]}}\n")
        files.append(str(file))
    return files


def test_a_run_from_cells_to_records(make_task: Callable[..., Path], fast: list[str], tmp_path: Path) -> None:
    cells = cells_of(make_task(), ["majority", "zero-shot", "few-shot", "rag", *fast])
    outcome, log = run(cells, tmp_path / "run")
    assert outcome.failed == []
    assert (outcome.ok, outcome.skipped, outcome.reused) == (8, 1, 0)
    folder = RunFolder(tmp_path / "run")
    records = {(r.strategy, r.seed): r for r in folder.records()}
    assert records["rag", 0].status == "skipped"
    assert records["rag", 0].error == "the task has no corpus"
    for (strategy, seed), record in records.items():
        if record.status == "skipped":
            continue
        items = folder.read_items(record.task, strategy, seed)
        assert [i.id for i in items] == [f"test-{n}" for n in range(12)]
        assert record.metrics["accuracy"].value == pytest.approx(sum(i.scores["accuracy"] for i in items) / 12)
        assert record.tokens.prompt == sum(i.tokens.prompt for i in items)
        assert record.n_items == 12
    lora = records["lora-fast", 0]
    assert sorted(t.settings["tuning.learning_rate"] for t in lora.trials) == [1e-4, 5e-3]
    assert lora.config["strategy"]["tuning"]["learning_rate"] in (1e-4, 5e-3)
    assert lora.params
    assert 0 < lora.params.trainable < lora.params.total
    assert lora.artifact_bytes
    assert {"load", "prepare", "tune", "validate", "answer", "score"} <= set(lora.phases)
    assert lora.training
    assert lora.training.n_steps == 2 * 2  # two trials of an epoch, which has two batches
    assert lora.training.tokens_per_second is None
    if lora.phases["tune"].peak_rss_bytes:
        tune, answer = lora.memory["tune"], lora.memory["answer"]
        assert tune.gradients_bytes == 4 * lora.params.trainable
        assert tune.optimizer_bytes > 8 * lora.params.trainable
        assert tune.weights_bytes == answer.weights_bytes >= 4 * lora.params.total
        assert tune.activations_bytes > 0
        assert answer.cache_bytes > 0
        assert (tune.cache_bytes, answer.activations_bytes) == (0, 0)
        for name, memory in lora.memory.items():
            assert memory.peak_bytes == lora.phases[name].peak_rss_bytes
            assert 0 < memory.baseline_bytes < memory.peak_bytes
        assert set(records["few-shot", 0].memory) == {"answer"}
    assert records["few-shot", 0].training is None
    assert lora.phases["tune"].flops > lora.phases["answer"].flops > 0
    # the second seed uses the first one's choice and does not search again
    assert records["lora-fast", 1].trials == []
    assert records["lora-fast", 1].config["strategy"] == lora.config["strategy"]
    assert records["full-fast", 0].params
    assert records["full-fast", 0].params.trainable == records["full-fast", 0].params.total
    majority = records["majority", 0]
    assert majority.params is None
    assert majority.metrics["accuracy"].value == 0.5
    assert "load" not in majority.phases
    assert (majority.memory, majority.training) == ({}, None)
    assert any(p.startswith("trial 2/2, tune") for p in log.phases)


def test_a_second_run_finds_everything_done(make_task: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = cells_of(make_task(), ["majority", "few-shot"])
    run(cells, tmp_path / "run")
    monkeypatch.setattr(executor, "_run_waiting", None)  # starting a process would fail
    outcome, _ = run(cells, tmp_path / "run")
    assert (outcome.ok, outcome.reused) == (3, 3)


def test_a_failing_cell_is_a_record_and_the_others_go_on(make_task: Callable[..., Path], tmp_path: Path) -> None:
    rows = [{"id": f"test-{i}", "text": f"test {i} " + ("lid " * 600 if i == 3 else ""), "label": "zek"} for i in range(4)]
    task = make_task(rows={"test": rows})
    outcome, _ = run(cells_of(task, ["majority", "zero-shot"]), tmp_path / "run")
    assert outcome.ok == 1
    assert len(outcome.failed) == 1
    record = RunFolder(tmp_path / "run").read_record(task.name, "zero-shot", 0)
    assert record
    assert record.status == "failed"
    assert record.error
    assert "test-3 takes" in record.error
    assert not list((tmp_path / "run").rglob("items.jsonl.partial*"))


def test_a_failed_cell_is_tried_again(make_task: Callable[..., Path], tmp_path: Path) -> None:
    cells = cells_of(make_task(), ["zero-shot"])
    folder = RunFolder(tmp_path / "run").create()
    folder.write_record(Record.model_validate(cells[0].identity() | {"status": "failed", "error": "the power went out"}))
    outcome, _ = run(cells, tmp_path / "run")
    assert (outcome.ok, outcome.reused, outcome.failed) == (1, 0, [])


def test_a_record_of_another_identity_is_kept_aside(make_task: Callable[..., Path], tmp_path: Path) -> None:
    task = make_task()
    run(cells_of(task, ["majority"]), tmp_path / "run")
    before = RunFolder(tmp_path / "run").read_record(task.name, "majority", 0)
    file = task / "test.jsonl"
    file.write_text(file.read_text().replace("about the lid", "about the door"))
    run(cells_of(task, ["majority"]), tmp_path / "run")
    after = RunFolder(tmp_path / "run").read_record(task.name, "majority", 0)
    assert before
    assert after
    assert before.cell_id != after.cell_id
    kept = list((tmp_path / "run" / "superseded").rglob("record.json"))
    assert [json.loads(f.read_text())["cell_id"] for f in kept] == [before.cell_id]


def test_a_choice_is_scored_by_the_options_likelihood(make_task: Callable[..., Path], fast: list[str], tmp_path: Path) -> None:
    options = [["zek", "pol", "dark zek"], ["pol", "zek"]]
    rows = {
        split: [{"id": f"{split}{i}", "text": f"{split} {i}", "of": options[i % 2], "right": i % 2} for i in range(n)]
        for split, n in (("train", 12), ("validation", 6), ("test", 12))
    }
    metrics = ["accuracy", "accuracy_normalized"]
    task = make_task(rows=rows, kind="multiple_choice", instruction="Pick one.", options="of", target="right", metrics=metrics)
    cells = cells_of(task, ["majority", "zero-shot", "few-shot", "zero-shot-cot", "rag-oracle", fast[0]], seeds=[0])
    outcome, _ = run(cells, tmp_path / "run")
    assert (outcome.ok, outcome.skipped, outcome.failed) == (4, 2, [])
    folder = RunFolder(tmp_path / "run")
    for name in ("zero-shot", "few-shot", "lora-fast"):
        record, items = folder.read_record("colors", name, 0), folder.read_items("colors", name, 0)
        assert record
        assert set(record.metrics) >= {"accuracy", "accuracy_normalized"}
        assert record.config["batch_rows"] == 64
        assert record.phases["answer"].flops > 0
        for item, row in zip(items, rows["test"], strict=True):
            assert item.option_logprobs
            assert len(item.option_logprobs) == len(row["of"])
            assert item.prediction == row["of"][item.option_logprobs.index(max(item.option_logprobs))]
            assert (item.logprob, item.outcome == "correct") == (max(item.option_logprobs), item.prediction == row["of"][row["right"]])
            second, best = sorted(item.option_logprobs)[-2:]
            assert item.logit_margin == best - second
        assert record.environment["threads"] >= 1
    majority = folder.read_items("colors", "majority", 0)
    assert {i.prediction for i in majority} == {"zek"}
    assert {(i.option_logprobs, i.logit_margin) for i in majority} == {(None, None)}


def test_a_base_that_was_loaded_for_all_is_charged_to_each(make_task: Callable[..., Path], tmp_path: Path) -> None:
    cells = cells_of(make_task(), ["zero-shot", "few-shot"], seeds=[0])
    run(cells, tmp_path / "run", workers=1)
    seconds = [RunFolder(tmp_path / "run").read_record("colors", c.strategy_name, 0).phases["load"].cpu_seconds for c in cells]  # type: ignore[union-attr]
    assert min(seconds) > 0.01


def test_the_other_seeds_do_not_search_for_themselves(make_task: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("tuning: {method: lora, targets: [nothing]}\nsearch: {tuning.learning_rate: [1.0e-3, 1.0e-4]}\n")
    outcome, _ = run(cells_of(make_task(), [str(tmp_path / "bad.yaml")]), tmp_path / "run")
    reasons = {r.seed: r.error or "" for r in outcome.failed}
    assert "all 2 trials of the search failed" in reasons[0]
    assert "which seed 0 does for all" in reasons[1]


class Killer(Log):
    """Kills the first cell's process once it says that it answers, or the one that it was forked from."""

    def __init__(self, stem: bool = False) -> None:
        super().__init__()
        self.stem = stem
        self.cells: list[psutil.Process] = []

    def phase(self, cell: Cell, text: str) -> None:
        if text.startswith("answer") and not any(p.startswith("answer") for p in self.phases):
            for stem in multiprocessing.active_children():
                self.cells = psutil.Process(stem.pid).children()
                for process in [psutil.Process(stem.pid)] if self.stem else self.cells:
                    process.kill()
        super().phase(cell, text)


def test_a_killed_stem_takes_its_cell_along_and_the_others_go_on(make_task: Callable[..., Path], tmp_path: Path) -> None:
    cells = cells_of(make_task(n=600), ["zero-shot", "few-shot"])
    killer = Killer(stem=True)
    outcome = run_cells(cells, RunFolder(tmp_path / "run").create(), tmp_path / "stores", 1, killer)
    assert [(r.strategy, r.error) for r in outcome.failed] == [("zero-shot", "the process that cells are forked from has ended")]
    assert outcome.ok == len(cells) - 1
    gone, alive = psutil.wait_procs(killer.cells, timeout=10)
    assert (len(gone), alive) == (1, [])


def test_a_killed_cell_is_a_failed_record(make_task: Callable[..., Path], tmp_path: Path) -> None:
    cells = cells_of(make_task(n=600), ["zero-shot"])
    outcome = run_cells(cells, RunFolder(tmp_path / "run").create(), tmp_path / "stores", 1, Killer())
    assert len(outcome.failed) == 1
    assert outcome.failed[0].error
    assert "SIGKILL" in outcome.failed[0].error
    # what it had answered is kept, and the next run goes on from there
    partial = list((tmp_path / "run").rglob("items.jsonl.partial*"))
    answered = len(partial[0].read_text().splitlines()) if partial else 0
    outcome, log = run(cells, tmp_path / "run")
    assert (outcome.ok, outcome.failed) == (1, [])
    told = [int(p.split()[1].removesuffix("/600")) for p in log.phases if p.startswith("answer")]
    assert all(n >= answered for n in told)
    record = RunFolder(tmp_path / "run").read_record(cells[0].task.name, "zero-shot", 0)
    assert record
    assert record.n_items == 600
