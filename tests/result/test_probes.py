"""What the probes of a run measured, as rows and as text."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable

import pytest
from result_samples import add, make_record, scored
from scipy.stats import t

from bench.errors import BenchError
from bench.result.probes import COLUMNS, probe_rows, render_probes
from bench.result.schema import MetricValue, ProbeResult
from bench.result.statistics import joint_df
from bench.result.store import RunFolder

NewRun = Callable[..., RunFolder]


def value(x: float, half: float | None = 0.1, n: int = 50) -> MetricValue:
    return MetricValue(value=x, ci_low=None if half is None else x - half, ci_high=None if half is None else x + half, n_scored=n)


@pytest.fixture
def run(new_run: NewRun) -> RunFolder:
    run, items = new_run("run"), scored(0.5)
    for seed, x in enumerate((0.2, 0.4, 0.6)):
        probes = {"forgetting": ProbeResult(version=1, values={"drop": value(x), "load_seconds": value(1.0, None)})}
        add(run, make_record("support", "lora", seed, items, probes=probes), items)
    reason = ProbeResult(version=1, reason="nothing was trained")
    probes = {"forgetting": reason, "wording": ProbeResult(version=1, values={"spread": value(0.3)})}
    add(run, make_record("support", "rag", 0, items, probes=probes), items)
    add(run, make_record("support", "zero-shot", 0, items, probes={"wording": ProbeResult(version=1, error="ValueError: no")}), items)
    return run


def test_seeds_widen_the_interval_by_what_they_differ_beyond_the_items(run: RunFolder) -> None:
    rows = {(r["strategy"], r["probe"], r.get("value_name")): r for r in probe_rows([run.path])}
    drop = rows["lora", "forgetting", "drop"]
    assert (drop["value"], drop["n_seeds"]) == (pytest.approx(0.4), 3)
    of_items = (0.1 / 1.96) ** 2
    excess = 0.04 - of_items
    df = joint_df(of_items, 49, excess / 3, excess / 3, 2)
    assert 2 < df < 4
    assert drop["ci_high"] - drop["value"] == pytest.approx(t.ppf(0.975, df) * (of_items + excess / 3) ** 0.5, rel=1e-3)
    assert rows["lora", "forgetting", "load_seconds"]["ci_low"] is None
    assert rows["rag", "wording", "spread"]["ci_high"] == pytest.approx(0.4)
    assert rows["rag", "forgetting", None]["reason"] == "nothing was trained"
    assert rows["zero-shot", "wording", None]["reason"] == "failed: ValueError: no"


def test_an_interval_of_a_share_stays_one(new_run: NewRun) -> None:
    run, items = new_run("run"), scored(0.5)
    for seed, x in enumerate((0.6, 0.95, 0.95)):
        values = {"score": MetricValue(value=x, ci_low=x - 0.05, ci_high=x + 0.05, n_scored=50)}
        add(run, make_record("support", "lora", seed, items, probes={"wording": ProbeResult(version=1, values=values)}), items)
    (row,) = probe_rows([run.path])
    assert row["ci_low"] < 0.6
    assert row["ci_high"] == 1.0


def test_equal_seeds_add_nothing(new_run: NewRun) -> None:
    run, items = new_run("run"), scored(0.5)
    for seed in range(3):
        probes = {"wording": ProbeResult(version=1, values={"spread": value(0.3)})}
        add(run, make_record("support", "lora", seed, items, probes=probes), items)
    (row,) = probe_rows([run.path])
    assert (row["ci_low"], row["ci_high"]) == (pytest.approx(0.2), pytest.approx(0.4))


def test_as_text(run: RunFolder) -> None:
    rows = probe_rows([run.path])
    text = render_probes(rows, "md")
    assert "## support: forgetting" in text
    assert "| drop | 0.400 [" in text
    assert "rag: nothing was trained." in text
    assert "zero-shot: failed: ValueError: no." in text
    table = list(csv.DictReader(io.StringIO(render_probes(rows, "csv"))))
    assert tuple(table[0]) == COLUMNS
    assert json.loads(render_probes(rows, "json"))[0]["task"] == "support"
    with pytest.raises(BenchError, match="expected one of: csv, json, md"):
        render_probes(rows, "latex")


def test_only_the_probe_asked_for(run: RunFolder) -> None:
    assert {r["probe"] for r in probe_rows([run.path], "wording")} == {"wording"}
    with pytest.raises(BenchError, match=r'no cell has the probe "wordng"; did you mean "wording"'):
        probe_rows([run.path], "wordng")
