"""What phases used: means, peaks and parts over seeds, by known numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
from result_samples import add, make_item, make_record
from typer.testing import CliRunner

from bench.cli import app
from bench.result.schema import Memory, Phase
from bench.result.store import RunFolder
from bench.result.usage import COLUMNS, usage_table


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run").create()
    for seed, (wall, peak, joules, source) in enumerate([(2.0, 500, 8.0, "rapl"), (4.0, 700, 12.0, "estimated")]):
        items = [make_item(i) for i in range(3)]
        phase = Phase(wall_seconds=wall, cpu_seconds=1.0, flops=10.0, peak_rss_bytes=peak, energy_joules=joules, energy_source=source)
        answer = Phase(wall_seconds=1.0, cpu_seconds=1.0, flops=0.0, energy_joules=None if seed else 1.0)
        memory = Memory(
            kind="rss", peak_bytes=peak, baseline_bytes=300, weights_bytes=100, activations_bytes=seed, workspace_bytes=peak - 400 - seed
        )
        changes = {"phases": {"tune": phase, "answer": answer}, "memory": {"tune": memory}}
        add(folder, make_record("support", "lora", seed, items, **changes), items)
    return folder


def test_means_peaks_and_the_parts_of_the_highest_peak(run: RunFolder) -> None:
    table = usage_table(run).set_index("phase")
    assert tuple(usage_table(run).columns) == COLUMNS
    assert list(table.index) == ["tune", "answer"]
    tune = table.loc["tune"]
    assert (tune["wall_seconds"], tune["flops"], tune["energy_joules"], tune["n_seeds"]) == (3.0, 10.0, 10.0, 2)
    assert tune["energy_source"] == "estimated"  # one of the two is
    assert (tune["peak_rss_bytes"], tune["baseline_bytes"], tune["weights_bytes"], tune["activations_bytes"]) == (700, 300, 100, 1)
    assert tune["workspace_bytes"] == 299


def test_what_is_not_measured_is_undefined_and_no_zero(run: RunFolder) -> None:
    table = usage_table(run).set_index("phase")
    assert table["energy_joules"].isna()["answer"]  # of one seed only
    assert table["peak_gpu_allocated_bytes"].isna().all()
    assert table["weights_bytes"].isna()["answer"]


def test_the_command_prints_it(run: RunFolder) -> None:
    found = CliRunner().invoke(app, ["table", str(run.path), "--usage", "--format", "csv"])
    assert found.exit_code == 0
    assert found.stdout.splitlines()[0] == ",".join(COLUMNS)
    assert found.stdout.splitlines()[1].startswith("support,")
