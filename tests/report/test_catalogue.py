from collections.abc import Callable
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.report.catalogue import catalogue, section
from bench.result.schema import Item, MetricValue, Parameters, Phase, Record, Run, Tokens
from bench.result.store import RunFolder
from bench.strategy.spec import FAMILIES, Range, Strategy, load_strategy, preset_names

PAGE = Path(__file__).parents[2] / "docs" / "strategies.md"


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Path]:
    """A run folder of records alone."""

    def make(*records: Record) -> Path:
        folder = RunFolder(tmp_path / "r")
        folder.create()
        suite = {"tasks": ["t"], "strategies": [r.strategy for r in records], "seeds": [0], "budget": {"trials": 3, "train_examples": None}}
        folder.write_run(Run(name="r", suite=suite, environment={"git_commit": "a" * 40}, started="2026-11-21T00:00:00+00:00", status="ok"))
        for record in records:
            with folder.item_writer(record.task, record.strategy, record.seed, record.cell_id) as writer:
                for item in items_of(record):
                    writer.append(item)
                writer.finish([i.id for i in items_of(record)])
            folder.write_record(record)
        return folder.path

    return make


def items_of(record: Record) -> list[Item]:
    """As many as the record says, the first half of them right."""
    return [
        Item(
            id=str(i), cluster=str(i), input_hash="", prompt_hash="", prediction="a", targets=["a"], answerable=True, outcome="correct",
            scores={"accuracy": float(i < record.n_items / 2)}, tokens=Tokens(), latency_seconds=0.0,
        )
        for i in range(record.n_items)
    ]  # fmt: skip


def record(strategy: str, status: str = "ok", **more: object) -> Record:
    common = {"cell_id": strategy, "task": "t", "model": "embedded", "strategy": strategy, "seed": 0, "status": status}
    return Record.model_validate({**common, "primary_metric": "accuracy", **more})


def test_the_page_has_what_was_measured_and_what_was_not(run: Callable[..., Path]) -> None:
    measured = {
        "metrics": {"accuracy": MetricValue(value=0.5, n_scored=4)}, "params": Parameters(total=10**7, trainable=116736),
        "phases": {"tune": Phase(wall_seconds=61.3, cpu_seconds=60, flops=1)}, "artifact_bytes": 474040, "n_items": 4,
    }  # fmt: skip
    merging = {"n_items": 4, "n_equal": 3, "unmerged_seconds": 2.0, "merged_seconds": 1.5}
    soft = record("prompt-tuning", merging={"reason": "virtual tokens stand before the text"})
    skipped = record("rag", "skipped", error="the task has no corpus")
    page = catalogue([run(record("lora", **measured, merging=merging), soft, skipped)])
    assert "Merged into the base: 3 of 4 answers stay the same; time to answer times 0.75." in page
    assert "Not merged: virtual tokens stand before the text." in page
    assert "/r: trials 3, seeds [0]; 2026-11-21, commit aaaaaaaaaa\n" in page
    assert "| t | accuracy | 50.0 (" in page
    assert "116,736" in page
    assert "463 KiB" in page
    assert "61.3 s" in page
    assert "t: skipped, the task has no corpus." in page


def test_a_run_without_records_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(BenchError):
        catalogue([tmp_path])


def test_a_section_has_all_that_is_said_and_the_choices() -> None:
    strategy = Strategy.model_validate({
        "description": "What it is.", "source": "Somebody 2020", "trains": "two of them", "traps": ["One.", "Two."],
        "tuning": {"method": "lora", "r": 4}, "search": {"tuning.learning_rate": Range(low=0.1, high=1.0)},
    })  # fmt: skip
    text = section("mine", strategy)
    for part in ("### mine", "What it is.", "Source: Somebody 2020.", "Trained parameters: two of them.", "- One.\n- Two.", "r: 4"):
        assert part in text
    assert "batch_size" not in text  # what is left at its default is not repeated


@pytest.mark.parametrize("name", preset_names())
def test_the_committed_page_says_what_the_preset_says(name: str) -> None:
    """Make it anew: python -m bench.report.catalogue RUN.. > docs/strategies.md"""
    page = PAGE.read_text()
    assert section(name, load_strategy(name)[1]) in page
    after = page.split(f"### {name}\n", 1)[1].split("\n### ", 1)[0]
    assert "| task | metric | value |" in after or "skipped" in after


def test_the_page_has_every_family() -> None:
    assert all(f"\n## {family[0].upper()}{family[1:]}\n" in PAGE.read_text() for family in FAMILIES)
