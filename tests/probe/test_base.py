"""What every probe relies on: the registry, settings, the untrained base, a fit of one's own, and a cell that keeps what they find."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.errors import BenchError
from bench.model.source import locate
from bench.probe import base
from bench.probe.base import Context, Finding, Probe, in_order, make, mean_of, probe_names, run_probe
from bench.probe.shared.world import ask, attribute_of, facts_of
from bench.result.store import RunFolder
from bench.run.cell import run_cell
from bench.run.executor import run_cells
from bench.suite import Cell, Suite, expand
from bench.task.load import load_task
from bench.world.entities import ATTRIBUTES

LORA = {"tuning": {"method": "lora", "r": 4, "epochs": 1, "learning_rate": 0.01}}
FULL = {"tuning": {"method": "full", "epochs": 1, "learning_rate": 0.001}}
SOFT = {"tuning": {"method": "peft", "peft": {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4}, "epochs": 1, "learning_rate": 0.1}}


def test_every_probe_is_whole() -> None:
    assert probe_names()
    for name in probe_names():
        probe = base.get(name)
        assert (probe.__doc__ or "").splitlines()[0].endswith("."), name
        assert isinstance(probe.trains, bool)
        assert probe.version >= 1


def test_an_unknown_probe_or_setting_is_refused_with_a_hint() -> None:
    with pytest.raises(BenchError, match=r'probe "forgeting": no such probe; .*forgetting'):
        make("forgeting", {})
    with pytest.raises(BenchError, match=r'probe_settings.wording: unknown key "wordngs"'):
        make("wording", {"wordngs": []})
    with pytest.raises(BenchError, match=r"probe_settings.forgetting: the suite has no such probe"):
        expand(Suite(tasks=["product_support"], strategies=["zero-shot"], probe_settings={"forgetting": {}}), locate("embedded"))


def test_probes_are_no_part_of_the_identity() -> None:
    plain, probed = (
        expand(Suite(tasks=["ticket_triage"], strategies=["lora"], seeds=[0], probes=probes), locate("embedded"))[0]
        for probes in ([], ["wording"])
    )
    assert plain.cell_id == probed.cell_id
    assert probed.probes == {"wording": {}}


def test_a_mean_counts_the_undefined_apart() -> None:
    found = mean_of({"a": 1.0, "b": 0.0, "c": None, "d": 1.0}, {"a": "x", "b": "x", "c": "y", "d": "z"})
    assert (found.value.value, found.value.n_scored, found.value.n_undefined) == (pytest.approx(2 / 3), 3, 1)
    assert dict(found.items) == {"a": 1.0, "b": 0.0, "d": 1.0}
    assert mean_of({"a": 1.5, "b": 2.5}, share=False).value.ci_high > 2.5  # type: ignore[operator]
    with pytest.raises(ValueError, match="0 items"):
        mean_of({"a": None})


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model.network(input_ids=torch.tensor([[1, 40, 50, 60]])).logits[:, -4:]


@pytest.mark.parametrize("settings", [LORA, FULL, SOFT], ids=["lora", "full", "soft prompt"])
def test_the_base_is_the_untrained_model_and_the_strategy_stays_as_it_was(
    context_of: Callable[..., Context], embedded: Any, settings: dict[str, Any]
) -> None:
    context = context_of(settings, task="ticket_triage")
    requests = context.requests(context.cell.task.test[:8])
    meter = context.ready.meter
    with meter.phase("probe"):
        before = [a.generation for a in context.answer(requests)]
    conversations = [r.prompt.messages for r in requests]
    with context.base() as base_model:
        assert torch.equal(logits(base_model), logits(embedded))
        assert ask(base_model, conversations) == ask(embedded, conversations)
    with meter.phase("probe"):
        after = [a.generation for a in context.answer(requests)]
    assert [(a.text, a.logprob) for a in before] == [(a.text, a.logprob) for a in after]


def test_a_refit_trains_to_the_same_weights_in_a_meter_of_its_own(context_of: Callable[..., Context]) -> None:
    context = context_of(LORA, task="ticket_triage")
    again, meter = context.refit()
    assert again is not context.fitted
    assert meter.readings()["tune"].wall_seconds > 0
    requests = context.requests(context.cell.task.test[:8])
    with context.ready.meter.phase("probe"), torch.inference_mode():
        first = [a.generation.text for a in context.answer(requests)]
    with meter.phase("answer"):
        assert [a.generation.text for a in in_order(again, requests)] == first


def test_probe_items_depend_on_the_task_and_not_on_the_strategy(context_of: Callable[..., Context]) -> None:
    one, other = context_of(LORA, task="ticket_triage"), context_of(FULL, task="ticket_triage")
    assert one.random("x").random() == other.random("x").random() != one.random("y").random()


def test_facts_of_a_world_task() -> None:
    task = load_task(Path("tasks/product_support"))
    facts = facts_of(task)
    page = {p.id: p.text for p in task.corpus}
    assert len(facts) == 160
    assert all(f.value in page[f.document_id] and f.product in page[f.document_id] and f.value in f.attribute.values for f in facts)
    assert facts_of(load_task(Path("tasks/ticket_triage"))) == []
    assert {attribute_of(v) for a in ATTRIBUTES for v in a.values} == set(ATTRIBUTES)


# ------------------------------------------------------------------------------------------------ in a cell


class Counting(Probe):
    """Counts answers."""

    fails: bool = False

    def not_applicable(self, cell: Cell) -> str | None:
        return "asks no model" if cell.strategy.prompt.constant else None

    def run(self, context: Context) -> tuple[dict[str, Finding], dict[str, Any]]:
        if self.fails:
            raise RuntimeError("out of luck\nand more")
        assert context.scratch.is_dir()
        (context.scratch / "x").write_text("x")
        return {"n_items": mean_of({i.id: float(len(i.prediction)) for i in context.items}, share=False)}, {"kept": [1, 2]}


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "get", lambda name: Counting)
    monkeypatch.setattr("bench.run.cell.get", lambda name: Counting)


def cells(task: Path, probe_settings: dict[str, Any] | None = None, probes: tuple[str, ...] = ("counting",)) -> list[Cell]:
    settings = {"counting": probe_settings or {}}
    suite = Suite(tasks=[str(task)], strategies=["majority", "zero-shot"], probes=list(probes), probe_settings=settings)
    return expand(suite, locate("embedded"))


def silent(text: str) -> None:
    pass


def test_a_cell_keeps_what_a_probe_finds(counting: None, make_task: Callable[..., Path], tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run").create()
    constant, asked = (run_cell(cell, folder, tmp_path / "stores", silent) for cell in cells(make_task()))
    assert constant.probes["counting"].reason == "asks no model"
    assert constant.probes["counting"].values == {}
    result = asked.probes["counting"]
    assert (result.version, result.settings, result.details, result.error) == (1, {}, {"kept": [1, 2]}, None)
    assert result.values["n_items"].n_scored == asked.n_items
    assert asked.phases["probe"].wall_seconds > 0
    items = folder.read_probe_items(asked.task, asked.strategy, 0)
    assert len(items["counting"]["n_items"]) == asked.n_items
    assert folder.read_probe_items(constant.task, constant.strategy, 0) == {}
    assert not list(folder.path.rglob("probe-*"))
    assert folder.read_record(asked.task, asked.strategy, 0) == asked


def test_a_probe_that_fails_leaves_its_reason_and_the_cell_stands(
    counting: None, make_task: Callable[..., Path], tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run").create()
    record = run_cell(cells(make_task(), {"fails": True})[1], folder, tmp_path / "stores", silent)
    assert record.status == "ok"
    assert record.metrics["accuracy"].n_scored == record.n_items
    assert record.probes["counting"].error == "RuntimeError: out of luck"
    assert record.failure == "probe counting: RuntimeError: out of luck"
    log = folder.cell_folder(record.task, record.strategy, 0) / "probe-counting.txt"
    assert "out of luck" in log.read_text()


def test_broken_probe_items_are_told(tmp_path: Path, counting: None, make_task: Callable[..., Path]) -> None:
    folder = RunFolder(tmp_path / "run").create()
    record = run_cell(cells(make_task())[1], folder, tmp_path / "stores", silent)
    (folder.cell_folder(record.task, record.strategy, 0) / "probes.json").write_text("{")
    with pytest.raises(BenchError, match=r"probes.json: is broken"):
        folder.read_probe_items(record.task, record.strategy, 0)


class Quiet:
    def phase(self, cell: Cell, text: str) -> None: ...
    def done(self, cell: Cell, record: Any) -> None: ...


def test_a_finished_cell_is_run_again_for_a_probe_it_lacks_and_not_for_one_it_has(make_task: Callable[..., Path], tmp_path: Path) -> None:
    task, folder = make_task(), RunFolder(tmp_path / "run").create()

    def run(probes: list[str], **settings: dict[str, Any]) -> int:
        suite = Suite(tasks=[str(task)], strategies=["zero-shot"], probes=probes, probe_settings=settings)
        return run_cells(expand(suite, locate("embedded")), folder, tmp_path / "stores", 1, Quiet()).reused

    assert run([]) == 0
    assert run([]) == 1
    before = folder.read_items(task.name, "zero-shot", 0)
    assert run(["wording"]) == 0
    assert run(["wording"]) == 1
    assert run([]) == 1  # what it has beside what is asked for does not matter
    assert run(["wording"], wording={"items": 5}) == 0
    record = folder.read_record(task.name, "zero-shot", 0)
    assert record is not None
    assert record.probes["wording"].settings == {"items": 5}
    after = folder.read_items(task.name, "zero-shot", 0)
    assert [i.prediction for i in before] == [i.prediction for i in after]


def test_the_result_of_run_probe_names_settings_and_version(context_of: Callable[..., Context], counting: None) -> None:
    context = context_of({}, task="ticket_triage", probes=None)
    context.cell.probes["counting"] = {}
    result, items = run_probe("counting", context)
    assert result.version == 1
    assert set(items) == {"n_items"}


def test_the_example_of_the_docs_runs(context_of: Callable[..., Context]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "probes.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    names = {"Probe": Probe, "Finding": Finding, "Context": Context, "Cell": Cell, "Any": Any, "mean_of": mean_of}
    exec(code, names)
    context = context_of({}, task="ticket_triage")
    findings, details = names["PROBE"]().run(context)
    assert (findings["words"].value.n_scored, details) == (len(context.items), {})
