from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from result_samples import GIB, N_ITEMS, TRIALS, add, make_item, make_phase, make_record, scored
from rich.console import Console
from typer.testing import CliRunner

from bench.cli import app
from bench.cost.prices import Prices, load_prices
from bench.errors import BenchError
from bench.metric.text import macro_f1
from bench.result.columns import HOSTED, PRICED
from bench.result.schema import Item, MetricValue, Tokens
from bench.result.shares import variance_shares
from bench.result.statistics import clustered_interval
from bench.result.store import RunFolder
from bench.result.table import COLUMNS, build_table, error_table, print_table, render, slice_table, table_rows, write_table

NewRun = Callable[[str], RunFolder]


def row(table: pd.DataFrame, strategy: str) -> pd.Series[Any]:
    return table.set_index("strategy").loc[strategy]


def test_one_row_per_strategy_in_the_order_of_the_suite(run: RunFolder) -> None:
    table = build_table(run)
    assert tuple(table.columns) == COLUMNS
    assert list(table["strategy"]) == ["majority", "zero-shot", "rag", "rag-oracle", "lora", "full"]
    assert list(table["status"]) == ["skipped", "ok", "ok", "ok", "ok", "failed"]
    assert row(table, "full")["reason"].startswith("OutOfMemoryError")
    assert math.isnan(row(table, "full")["value"])
    assert build_table(run.path).equals(table)


def test_value_and_interval_come_from_the_items(run: RunFolder) -> None:
    table = build_table(run)
    items = run.read_items("support", "rag", 0)
    expected = clustered_interval([item.scores["exact_match"] for item in items], [item.cluster for item in items])
    rag = row(table, "rag")
    assert (rag["value"], rag["ci_low"], rag["ci_high"]) == pytest.approx(expected)
    assert rag["interval"] == "items"
    lora = row(table, "lora")
    seeds = [run.read_record("support", "lora", seed) for seed in range(3)]
    assert lora["value"] == pytest.approx(np.mean([record.metrics["exact_match"].value for record in seeds if record]))
    assert lora["interval"] == "items + seeds"
    assert lora["n_seeds"] == 3
    assert not lora["deterministic"]
    assert rag["deterministic"]


def test_costs_are_per_thousand_requests_and_set_up_counts_the_search_once(run: RunFolder) -> None:
    table = build_table(run)
    rag, lora = row(table, "rag"), row(table, "lora")
    assert rag["seconds_per_1000_requests"] == pytest.approx(1000 * 2.4 / N_ITEMS)
    assert rag["cpu_seconds_per_1000_requests"] == pytest.approx(2 * 1000 * 2.4 / N_ITEMS)
    assert rag["prompt_tokens_per_1000_requests"] == 100_000
    assert rag["setup_seconds"] == 3.0
    assert row(table, "zero-shot")["setup_seconds"] == 0.0
    # Seed 0 searched, 42 s in all; what the other seeds tuned is no part of setting the strategy up once.
    assert lora["setup_seconds"] == pytest.approx(42)
    assert lora["setup_cpu_seconds"] == pytest.approx(2 * 42)
    assert lora["n_trials"] == 3
    assert lora["trainable_params"] == 49_152


def test_a_search_by_every_seed_is_averaged(new_run: NewRun) -> None:
    run, items = new_run("run"), scored(0.5)
    for seed in range(2):
        trials = [t.model_copy(update={"wall_seconds": 10.0 + seed}) for t in TRIALS]
        phases = {"tune": make_phase(40.0 + 3 * seed), "answer": make_phase(1.0)}
        add(run, make_record("support", "lora", seed, items, trials=trials, phases=phases), items)
    assert row(build_table(run), "lora")["setup_seconds"] == pytest.approx((40 + 43) / 2)


def test_memory_is_the_strategys_own_peak_and_says_its_kind(new_run: NewRun) -> None:
    run, items = new_run("run"), scored(0.5)
    phases = {"answer": make_phase(1.0, peak_rss_bytes=2 * GIB), "probe": make_phase(1.0, peak_rss_bytes=9 * GIB)}
    add(run, make_record("support", "rag", 0, items, phases=phases), items)
    phases = {"answer": make_phase(1.0, peak_gpu_allocated_bytes=5 * GIB)}
    add(run, make_record("support", "lora", 0, items, phases=phases), items)
    table = build_table(run)
    assert (row(table, "rag")["peak_memory_bytes"], row(table, "rag")["peak_memory_kind"]) == (2 * GIB, "rss")
    assert (row(table, "lora")["peak_memory_bytes"], row(table, "lora")["peak_memory_kind"]) == (5 * GIB, "gpu")
    text = str(render(table, "md"))
    assert "2 GiB rss" in text
    assert "5 GiB gpu" in text


# Best and tied


def test_the_oracle_is_never_the_best_and_strategies_that_differ_by_noise_are_tied(run: RunFolder) -> None:
    table = build_table(run)
    assert list(table.loc[table["best"], "strategy"]) == ["rag"]
    assert set(table.loc[table["tied"], "strategy"]) == {"rag", "lora"}
    assert row(table, "zero-shot")["p_vs_best"] < 0.01
    assert row(table, "lora")["p_vs_best"] > 0.05
    assert "**" not in str(render(table, "md"))


def test_an_oracle_by_its_settings_is_left_out_too(new_run: NewRun) -> None:
    run = new_run("run")
    for strategy, rate, config in [("a", 0.9, {"strategy": {"retrieval": {"search": "oracle"}}}), ("b", 0.5, {}), ("c", 0.2, {})]:
        items = scored(rate)
        add(run, make_record("support", strategy, 0, items, config=config), items)
    assert list(build_table(run).query("best")["strategy"]) == ["b"]


def test_a_clear_best_is_bold_and_alone_nothing_is(new_run: NewRun) -> None:
    run = new_run("run")
    items = scored(0.8)
    add(run, make_record("support", "rag", 0, items, deterministic=True), items)
    assert not build_table(run)["best"].any()
    items = scored(0.3)
    add(run, make_record("support", "zero-shot", 0, items, deterministic=True), items)
    table = build_table(run)
    assert row(table, "rag")["best"]
    assert not table["tied"].any()
    lines = str(render(table, "md")).splitlines()
    assert [line for line in lines if line.startswith("| **rag**")]
    assert [line for line in lines if line.startswith("- bold")]
    assert r"\textbf{rag}" in str(render(table, "latex"))


def test_a_difference_that_seeds_explain_is_no_difference(new_run: NewRun) -> None:
    # Item by item lora's mean beats zero-shot clearly, but its seeds scatter from far below it to far above it.
    run = new_run("run")
    for seed, rate in enumerate([0.2, 0.95, 0.9]):
        items = scored(rate, seed)
        add(run, make_record("support", "lora", seed, items), items)
    items = scored(0.5)
    add(run, make_record("support", "zero-shot", 0, items, deterministic=True), items)
    table = build_table(run)
    assert row(table, "lora")["value"] > row(table, "zero-shot")["value"] + 0.1
    assert row(table, "zero-shot")["tied"]
    assert row(table, "lora")["ci_high"] - row(table, "lora")["ci_low"] > 0.4


def test_lower_is_better_for_a_rate_of_errors(new_run: NewRun) -> None:
    run = new_run("run")
    for strategy, rate in [("few", 0.1), ("many", 0.9)]:
        items = [i.model_copy(update={"scores": {"hallucination_rate": i.scores["f1"]}}) for i in scored(rate)]
        add(run, make_record("support", strategy, 0, items, primary_metric="hallucination_rate"), items)
    assert list(build_table(run).query("best")["strategy"]) == ["few"]


# Corpus metrics


def labelled(rate: float, seed: int = 0) -> list[Item]:
    generator = np.random.default_rng([seed, int(100 * rate)])
    gold = np.random.default_rng(0).choice(["A1", "B2", "C3"], N_ITEMS, p=[0.6, 0.3, 0.1])
    said = np.where(generator.random(N_ITEMS) < rate, gold, "b2 ")
    return [
        make_item(i, float(s.strip().lower() == g.lower()), prediction=str(s), targets=[str(g)], scores={})
        for i, (s, g) in enumerate(zip(said, gold, strict=True))
    ]


def with_macro_f1(run: RunFolder, strategy: str, rate: float, seeds: int) -> float:
    values = []
    for seed in range(seeds):
        items = labelled(rate, seed)
        value = macro_f1((item.prediction, item.targets) for item in items)
        assert value is not None
        metrics = {"macro_f1": MetricValue(value=value, n_scored=N_ITEMS)}
        add(run, make_record("triage", strategy, seed, items, primary_metric="macro_f1", metrics=metrics, deterministic=seeds == 1), items)
        values.append(value)
    return float(np.mean(values))


def test_macro_f1_is_computed_again_from_the_items(new_run: NewRun) -> None:
    run = new_run("run")
    expected = {name: with_macro_f1(run, name, *how) for name, how in {"lora": (0.9, 3), "full": (0.91, 3), "rag": (0.4, 1)}.items()}
    table = build_table(run)
    for name, value in expected.items():
        assert row(table, name)["value"] == pytest.approx(value)
        assert row(table, name)["ci_low"] < value < row(table, name)["ci_high"]
    assert row(table, "lora")["interval"] == "items + seeds"
    assert row(table, "rag")["interval"] == "items"
    assert row(table, "rag")["p_vs_best"] < 0.05
    assert table.loc[table["strategy"].isin(["lora", "full"]), "tied"].all()


def test_a_metric_that_items_do_not_give_keeps_the_records_interval_and_is_never_called_better(new_run: NewRun) -> None:
    run = new_run("run")
    for strategy, value in [("a", 0.9), ("b", 0.1)]:
        items = scored(value)
        metrics = {"perplexity_like": MetricValue(value=value, ci_low=value - 0.05, ci_high=value + 0.02, n_scored=N_ITEMS)}
        add(run, make_record("t", strategy, 0, items, primary_metric="perplexity_like", metrics=metrics), items)
    table = build_table(run)
    assert (row(table, "a")["value"], row(table, "a")["ci_low"], row(table, "a")["ci_high"]) == pytest.approx((0.9, 0.85, 0.92))
    assert row(table, "b")["tied"]


# Seeds that fail, several runs, broken runs


def test_a_seed_that_failed_is_said(run: RunFolder) -> None:
    (run.cell_folder("support", "lora", 2) / "record.json").unlink()
    run.write_record(make_record("support", "lora", 2, [], status="failed", error="loss\nis nan"))
    lora = row(build_table(run), "lora")
    assert (lora["status"], lora["n_seeds"], lora["reason"]) == ("partial", 2, "1 of 3 seeds failed: loss is nan")
    assert "lora on support: 1 of 3 seeds failed" in str(render(build_table(run), "md"))


def test_undefined_items_are_left_out_of_the_value(new_run: NewRun) -> None:
    run = new_run("run")
    items = [make_item(i, float(i % 4 < 2), scores={"exact_match": float(i % 4 < 2)} if i % 4 else {}) for i in range(40)]
    metrics = {"exact_match": MetricValue(value=1 / 3, n_scored=30, n_undefined=10)}
    add(run, make_record("support", "rag", 0, items, metrics=metrics), items)
    assert row(build_table(run), "rag")["value"] == pytest.approx(1 / 3)


def test_several_runs_make_one_table_if_they_agree(run: RunFolder, new_run: NewRun) -> None:
    other, items = new_run("other"), scored(0.3)
    add(other, make_record("support", "few-shot", 0, items), items)
    assert set(build_table([run, other.path])["strategy"]) == {*build_table(run)["strategy"], "few-shot"}
    assert build_table([run, run.path]).equals(build_table(run))
    items = scored(0.2)
    add(other, make_record("support", "zero-shot", 0, items, cell_id="changed"), items)
    with pytest.raises(BenchError, match="hold different cells support/zero-shot/s0"):
        build_table([run, other])


def test_models_are_not_compared_with_each_other(new_run: NewRun) -> None:
    folders = []
    for model, rate in [("small", 0.2), ("large", 0.9)]:
        folders.append(new_run(model))
        items = scored(rate)
        add(folders[-1], make_record("support", "rag", 0, items, model=model), items)
    table = build_table(folders)
    assert len(table) == 2
    assert not table["best"].any()
    assert "rag [large]" in str(render(table, "md"))


def test_runs_that_cannot_be_tabled_are_one_line(new_run: NewRun, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no records"):
        build_table(new_run("empty"))
    with pytest.raises(BenchError, match="no such run folder"):
        build_table(tmp_path / "nothing")
    run, items = new_run("run"), scored(0.5)
    add(run, make_record("support", "rag", 0, items), items)
    add(run, make_record("support", "lora", 0, items, primary_metric="f1"), items)
    with pytest.raises(BenchError, match="disagree on the primary metric"):
        build_table(run)
    changed = [items[0].model_copy(update={"input_hash": "other"}), *items[1:]]
    add(run, make_record("support", "lora", 0, changed), changed)
    with pytest.raises(BenchError, match="another question"):
        build_table(run)
    add(run, make_record("support", "lora", 0, items, n_items=len(items) + 1), items)
    with pytest.raises(BenchError, match=f"found {N_ITEMS} items, expected {N_ITEMS + 1}"):
        build_table(run)


def test_a_run_in_which_everything_failed_still_has_a_table(new_run: NewRun) -> None:
    run = new_run("run")
    run.write_record(make_record("support", "lora", 0, [], status="failed", error="broke", primary_metric=None))
    table = write_table(run)
    assert [row["status"] for row in table] == ["failed"]
    assert "failed: broke" in (run.path / "table.md").read_text(encoding="utf-8")
    print_table(Console(file=io.StringIO()), table)


# Slices


def test_slices_have_their_own_intervals(run: RunFolder) -> None:
    table = slice_table(run)
    assert set(zip(table["slice"], table["slice_value"], strict=True)) == {("facts", "seen"), ("facts", "corpus")}
    assert len(table) == 2 * 4
    found = table[(table["strategy"] == "rag") & (table["slice_value"] == "seen")].iloc[0]
    items = [item for item in run.read_items("support", "rag", 0) if item.slices["facts"] == "seen"]
    expected = clustered_interval([item.scores["exact_match"] for item in items], [item.cluster for item in items], clip=True)
    assert (found["value"], found["ci_low"], found["ci_high"]) == pytest.approx(expected)
    assert found["n_items"] == len(items)
    assert set(table.loc[table["strategy"] == "lora", "interval"]) == {"items + seeds"}


def test_slices_of_macro_f1(new_run: NewRun) -> None:
    run = new_run("run")
    with_macro_f1(run, "lora", 0.9, 2)
    table = slice_table(run)
    values = []
    for seed in range(2):
        items = [item for item in run.read_items("triage", "lora", seed) if item.slices["facts"] == "seen"]
        values.append(macro_f1((item.prediction, item.targets) for item in items) or 0.0)
    assert table.set_index("slice_value").loc["seen", "value"] == pytest.approx(np.mean(values))


# Shares of variance


def test_shares_of_variance_stand_where_there_are_seeds(run: RunFolder) -> None:
    table = build_table(run)
    columns = ["item_share", "seed_share", "residual_share"]
    lora = row(table, "lora")
    assert sum(lora[columns]) == pytest.approx(1)
    items = [run.read_items("support", "lora", seed) for seed in range(3)]
    scores = np.array([[item.scores["exact_match"] for item in of_seed] for of_seed in items])
    assert tuple(lora[columns]) == pytest.approx(variance_shares(scores, [item.cluster for item in items[0]]))
    assert table.loc[table["strategy"] != "lora", columns].isna().all(axis=None)
    text = str(render(table, "md"))
    shown = "/".join(f"{100 * share:.0f}" for share in lora[columns])
    assert [shown in line for line in text.splitlines() if line.startswith("| ") and "i/s/r %" not in line].count(True) == 1
    assert "- i/s/r %:" in text


def test_without_seeds_or_for_macro_f1_no_column_of_shares(new_run: NewRun) -> None:
    run = new_run("run")
    with_macro_f1(run, "lora", 0.9, 3)
    items = scored(0.5)
    add(run, make_record("support", "rag", 0, items), items)
    table = build_table(run)
    assert table["item_share"].isna().all()
    assert "i/s/r" not in str(render(table, "md"))


# Rendering


def test_markdown_is_the_golden_one(new_run: NewRun) -> None:
    run = new_run("run")
    items = [make_item(i, float(i % 10 < 8)) for i in range(100)]
    phases = {"index": make_phase(3.21), "answer": make_phase(1.5)}
    add(run, make_record("support", "rag", 0, items, deterministic=True, phases=phases, artifact_bytes=91_000), items)
    items = [make_item(i, float(i % 10 < 1)) for i in range(100)]
    add(run, make_record("support", "zero-shot", 0, items, deterministic=True), items)
    run.write_record(make_record("support", "lora", 0, [], status="failed", error="out of memory | killed"))
    table = str(render(build_table(run), "md")).split("\n\n")[1]
    costs = ["trained", "artifact", "seeds |"]
    assert [[cell.strip() for cell in line.split(" | ")] for line in table.splitlines() if not line.startswith("|:")] == [
        ["| Strategy", "exact_match [95 %]", "halluc.", "abst.", "set-up", "time/1k", "tok/1k", "peak RSS", *costs],
        ["| zero-shot", "10.0 [4.3, 15.7]", "90.0", "0.0", "0 s", "12 s", "102 k", "1 GiB", "0", "0 B", "det. |"],
        ["| **rag**", "**80.0 [68.5, 91.5]**", "20.0", "0.0", "3.2 s", "15 s", "102 k", "1 GiB", "0", "88.9 KiB", "det. |"],
        ["| lora", r"failed: out of memory \| killed", *[""] * 8, "|"],
    ]


def test_every_column_of_the_markdown_is_explained(run: RunFolder) -> None:
    text = str(render(build_table(run), "md"))
    head, legend = text.split("\n\n")[1].splitlines()[0], text.split("\n\n")[-1]
    assert text.startswith("### support\n")
    for title in [cell.strip() for cell in head.strip("|").split(" | ")][2:]:
        assert f"- {title}:" in legend
    assert "- ≈:" in legend


def test_rows_by_strategy(new_run: NewRun) -> None:
    run = new_run("run")
    for task in ("triage", "support"):
        for strategy in ("rag", "zero-shot"):
            items = scored(0.5)
            add(run, make_record(task, strategy, 0, items), items)
    table = build_table(run)
    assert list(table["task"]) == ["support", "support", "triage", "triage"]
    text = str(render(table, "md", by="strategy"))
    assert text.index("### zero-shot") < text.index("### rag")
    assert "| support" in text
    rows = json.loads(str(render(table, "json", by="strategy")))
    assert [(r["strategy"], r["task"]) for r in rows][:2] == [("zero-shot", "support"), ("zero-shot", "triage")]
    with pytest.raises(BenchError, match='did you mean "strategy"'):
        render(table, "md", by="strategies")


def test_machine_formats_keep_every_column_and_digit(run: RunFolder) -> None:
    table = build_table(run)
    value = float(row(table, "lora")["value"])
    rows = json.loads(str(render(table, "json")))
    assert tuple(rows[0]) == COLUMNS
    assert next(r for r in rows if r["strategy"] == "lora")["value"] == value
    assert next(r for r in rows if r["strategy"] == "full")["value"] is None
    read = pd.read_csv(io.StringIO(str(render(table, "csv"))))
    assert read.set_index("strategy").loc["lora", "value"] == pytest.approx(value, rel=1e-15)
    assert repr(value) in str(render(table, "csv"))
    parquet = render(table, "parquet")
    assert isinstance(parquet, bytes)
    pd.testing.assert_frame_equal(pd.read_parquet(io.BytesIO(parquet)), table)
    with pytest.raises(BenchError, match='did you mean "parquet"'):
        render(table, "parquett")


def test_rows_and_frame_render_the_same_and_csv_is_that_of_pandas(run: RunFolder) -> None:
    add(run, make_record("support", 'odd, "name"\n', 0, [], status="failed", error='first\r\nsecond; "third"'), [])
    frame, rows = build_table(run), table_rows(run)
    assert all(tuple(row) == COLUMNS for row in rows)
    for by in ("task", "strategy"):
        for format in ("md", "csv", "json", "latex", "parquet"):
            assert render(rows, format, by) == render(frame, format, by)
    assert render(rows, "csv") == frame.to_csv(index=False, lineterminator="\n")


def test_latex_escapes_what_latex_reads(new_run: NewRun) -> None:
    run = new_run("run")
    run.write_record(make_record("my_task", "a_b", 0, [], status="failed", error=r"100% of {x} & #1 \n ~"))
    text = str(render(build_table(run), "latex"))
    assert r"a\_b" in text
    assert r"100\% of \{x\} \& \#1 \textbackslash{}n \textasciitilde{}" in text


def test_write_table_writes_three_files_that_are_the_same_each_time(run: RunFolder) -> None:
    table = write_table(run)
    names = ("table.md", "table.csv", "table.parquet")
    first = {name: (run.path / name).read_bytes() for name in names}
    assert first["table.md"].decode() == render(table, "md")
    pd.testing.assert_frame_equal(pd.read_parquet(run.path / "table.parquet"), build_table(run))
    write_table(run)
    assert {name: (run.path / name).read_bytes() for name in names} == first
    (run.path / "table.parquet").unlink()
    (run.path / "table.md").write_text("changed by hand")
    write_table(run)
    assert {name: (run.path / name).read_bytes() for name in names} == first


def test_write_table_follows_the_records(run: RunFolder) -> None:
    write_table(run)
    items = scored(0.9)
    add(run, make_record("support", "few-shot", 0, items), items)
    rows = write_table(run)
    assert "few-shot" in {row["strategy"] for row in rows}
    pd.testing.assert_frame_equal(pd.read_parquet(run.path / "table.parquet"), build_table(run))
    assert "few-shot" in (run.path / "table.md").read_text()
    assert (run.path / "table.csv").read_text() == render(rows, "csv")


def test_the_terminal_table_fits_120_columns(new_run: NewRun) -> None:
    run = new_run("run")
    for strategy in ("a-strategy-with-a-rather-long-name", "rag"):
        items = scored(0.5)
        names = ("f1", "rougeL", "macro_f1", "hallucination_rate", "abstention_rate", "mrr")
        shares = {name: MetricValue(value=1.0, n_scored=1) for name in names}
        metrics = {"exact_match": MetricValue(value=0.5, n_scored=1), **shares}
        phases = {"tune": make_phase(123_456.0), "answer": make_phase(123.0)}
        add(run, make_record("support", strategy, 0, items, metrics=metrics, phases=phases), items)
        items = scored(0.5, 1)
        add(run, make_record("support", strategy, 1, items, metrics=metrics, phases=phases), items)
    run.write_record(make_record("support", "lora", 0, [], status="failed", error="[red] " + "long " * 40))
    out = io.StringIO()
    print_table(Console(file=out, width=120), build_table(run))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= 120
    found = [line for line in text.splitlines() if "rag" in line]
    assert len(found) == 1
    assert "≈ " in found[0]
    assert "[red] long" in text
    for title in ("exact_match", "F1", "ROUGE-L", "halluc.", "abst.", "set-up", "time/1k", "tok/1k", "seeds", "i/s/r %"):
        assert title in text


# Dollars

PRICES = """
devices:
  - {name: cpu, unit: core_hour, price: 3.6, source: the bill, as_of: 2026-01-02}
  - {name: L40S, unit: device_hour, price: 36, source: the bill, as_of: 2026-01-02}
models:
  - {name: small, input: 2, cached_input: 0.5, output: 10, source: the list, as_of: 2026-01-02}
"""


@pytest.fixture
def price_file(tmp_path: Path) -> Path:
    """A CPU second costs 0.001 USD, a second of an L40S 0.01."""
    file = tmp_path / "prices.yaml"
    file.write_text(PRICES)
    return file


@pytest.fixture
def prices(price_file: Path) -> Prices:
    return load_prices(price_file)


def by_strategy(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["strategy"]: row for row in rows}


def test_without_prices_there_are_no_dollars(run: RunFolder) -> None:
    assert all(tuple(row) == COLUMNS for row in table_rows(run))
    for format in ("md", "csv", "json", "latex"):
        assert "usd" not in str(render(table_rows(run), format)).lower()


def test_dollars_of_a_run_on_cpus_are_those_of_its_cpu_seconds(run: RunFolder, prices: Prices) -> None:
    rows = by_strategy(table_rows(run, prices))
    assert all(tuple(row) == (*COLUMNS, *PRICED) for row in rows.values())
    # Phases of these records take twice as many CPU seconds as wall seconds.
    assert rows["rag"]["setup_usd"] == pytest.approx(2 * 3.0 * 0.001)
    assert rows["rag"]["usd_per_1000_requests"] == pytest.approx(1000 * 2 * 2.4 * 0.001 / N_ITEMS)
    right = sum(item.outcome == "correct" for item in run.read_items("support", "rag", 0)) / N_ITEMS
    assert 0.3 < right < 0.9
    assert rows["rag"]["usd_per_1000_correct"] == pytest.approx(rows["rag"]["usd_per_1000_requests"] / right)
    assert rows["rag"]["price"] == "cpu: 3.6 USD per core-hour (the bill, 2026-01-02)"
    assert rows["zero-shot"]["setup_usd"] == 0
    unpriced = by_strategy(table_rows(run))
    assert {name: {key: row[key] for key in COLUMNS} for name, row in rows.items()} == unpriced


def test_set_up_is_paid_once_by_the_seed_that_searched_and_correct_answers_are_of_all_seeds(run: RunFolder, prices: Prices) -> None:
    lora = by_strategy(table_rows(run, prices))["lora"]
    assert lora["setup_usd"] == pytest.approx(2 * 42 * 0.001)
    found = [item.outcome == "correct" for seed in range(3) for item in run.read_items("support", "lora", seed)]
    assert len(found) == 3 * N_ITEMS
    assert lora["usd_per_1000_correct"] == pytest.approx(1000 * 2 * 1.2 * 0.001 / N_ITEMS / np.mean(found))


def test_what_did_not_run_costs_nothing_known(run: RunFolder, prices: Prices) -> None:
    rows = by_strategy(table_rows(run, prices, prices.model("small")))
    for strategy in ("majority", "full"):
        usd = {key: value for key, value in rows[strategy].items() if "usd" in key}
        assert len(usd) == 5
        assert set(usd.values()) == {None}
        assert rows[strategy]["price"] is None


def test_without_a_correct_answer_its_cost_is_undefined(new_run: NewRun, prices: Prices) -> None:
    run = new_run("run")
    items = [make_item(i, 1.0, outcome="abstained") for i in range(4)]  # right to abstain, but no answer
    add(run, make_record("support", "rag", 0, items), items)
    [found] = table_rows(run, prices)
    assert found["usd_per_1000_requests"] > 0
    assert found["usd_per_1000_correct"] is None
    assert "USD/1k right" not in str(render([found], "md"))
    assert "USD/1k" in str(render([found], "md"))


def test_a_record_without_an_answer_phase_has_a_set_up_but_no_requests(new_run: NewRun, prices: Prices) -> None:
    run, items = new_run("run"), scored(0.5)
    add(run, make_record("support", "rag", 0, items, phases={"index": make_phase(5.0)}), items)
    [found] = table_rows(run, prices)
    assert found["setup_usd"] == pytest.approx(2 * 5 * 0.001)
    assert (found["usd_per_1000_requests"], found["usd_per_1000_correct"]) == (None, None)


def test_a_gpu_is_paid_by_wall_time_and_each_price_is_named_under_the_table(new_run: NewRun, prices: Prices) -> None:
    run, items = new_run("run"), scored(0.5)
    add(run, make_record("support", "zero-shot", 0, items), items)
    phases = {"tune": make_phase(100.0), "answer": make_phase(2.4)}
    add(run, make_record("support", "lora", 0, items, phases=phases, environment={"gpu": "NVIDIA L40S"}), items)
    rows = table_rows(run, prices)
    lora = by_strategy(rows)["lora"]
    assert lora["setup_usd"] == pytest.approx(100 * 0.01)
    assert lora["usd_per_1000_requests"] == pytest.approx(1000 * 2.4 * 0.01 / N_ITEMS)
    lines = [line for line in str(render(rows, "md")).splitlines() if line.startswith("- priced at")]
    assert lines == [
        "- priced at cpu: 3.6 USD per core-hour (the bill, 2026-01-02)",
        "- priced at L40S: 36 USD per device-hour (the bill, 2026-01-02)",
    ]


def test_seeds_on_two_devices_have_two_prices(new_run: NewRun, prices: Prices) -> None:
    run = new_run("run")
    for seed, environment in enumerate(({}, {"gpu": "NVIDIA L40S"})):
        items = scored(0.5, seed)
        phases = {"answer": make_phase(N_ITEMS / 1000)}
        add(run, make_record("support", "lora", seed, items, phases=phases, environment=environment), items)
    [found] = table_rows(run, prices)
    assert found["usd_per_1000_requests"] == pytest.approx((2 * 0.001 + 0.01) / 2)
    assert found["price"].count("USD per") == 2


def test_a_device_without_a_price_is_an_error_and_never_a_zero(new_run: NewRun, prices: Prices) -> None:
    run, items = new_run("run"), scored(0.5)
    add(run, make_record("support", "rag", 0, items, environment={"gpu": "NVIDIA GeForce RTX 3060"}), items)
    with pytest.raises(BenchError, match='no price for the device "NVIDIA GeForce RTX 3060"'):
        table_rows(run, prices)


def test_a_hosted_model_is_paid_by_tokens_with_and_without_the_shared_prefix_cached(new_run: NewRun, prices: Prices) -> None:
    run, items = new_run("run"), scored(0.5)
    tokens = Tokens(prompt=100 * N_ITEMS, prompt_cached=60 * N_ITEMS, completion=2 * N_ITEMS)
    add(run, make_record("support", "rag", 0, items, tokens=tokens), items)
    add(run, make_record("support", "always-abstain", 0, items, tokens=Tokens()), items)
    rows = table_rows(run, prices, prices.model("small"))
    found = by_strategy(rows)
    assert tuple(rows[0]) == (*COLUMNS, *PRICED, *HOSTED)
    assert found["rag"]["api_usd_per_1000_requests"] == pytest.approx(1000 * (100 * 2 + 2 * 10) / 1e6)
    assert found["rag"]["api_usd_per_1000_requests_cached"] == pytest.approx(1000 * (40 * 2 + 60 * 0.5 + 2 * 10) / 1e6)
    assert found["always-abstain"]["api_usd_per_1000_requests"] == 0  # it asks no model
    text = str(render(rows, "md"))
    assert "- priced at small: 2 USD per million tokens of input, 0.5 cached, 10 of output (the list, 2026-01-02)" in text
    [line] = [line for line in text.splitlines() if line.startswith("| rag")]
    assert [cell.strip() for cell in line.split("|")].count("0.220") == 1


def test_dollars_stand_in_every_format(run: RunFolder, prices: Prices) -> None:
    rows = table_rows(run, prices, prices.model("small"))
    columns = (*COLUMNS, *PRICED, *HOSTED)
    read = pd.read_csv(io.StringIO(str(render(rows, "csv")))).set_index("strategy")
    assert (*read.columns[:2], "strategy", *read.columns[2:]) == columns
    rag = by_strategy(rows)["rag"]
    assert read.loc["rag", "usd_per_1000_correct"] == pytest.approx(rag["usd_per_1000_correct"], rel=1e-15)
    assert by_strategy(json.loads(str(render(rows, "json")))) == by_strategy(rows)
    parquet = render(rows, "parquet")
    assert isinstance(parquet, bytes)
    frame = pd.read_parquet(io.BytesIO(parquet))
    assert tuple(frame.columns) == columns
    assert row(frame, "rag")["setup_usd"] == rag["setup_usd"]
    assert math.isnan(row(frame, "full")["setup_usd"])
    for format in ("md", "csv", "json", "latex", "parquet"):
        assert render(frame, format, "strategy") == render(rows, format, "strategy")
    assert "USD/1k right" in str(render(rows, "latex"))


def test_every_column_of_dollars_is_explained(run: RunFolder, prices: Prices) -> None:
    text = str(render(table_rows(run, prices, prices.model("small")), "md"))
    titles = [cell.strip() for cell in text.split("\n\n")[1].splitlines()[0].strip("|").split(" | ")]
    shown = ["set-up USD", "USD/1k", "USD/1k right", "API USD/1k", "API USD/1k cached"]
    assert [title for title in titles if "USD" in title] == shown
    for title in shown:
        assert f"- {title}: " in text


@pytest.mark.parametrize(
    ("usd", "shown"),
    [
        (0.0, "0"),
        (1e-9, "1.00e-9"),
        (0.0345, "0.0345"),
        (1234.5, "1,234"),
    ],
)
def test_dollars_are_written_as_in_the_costs(run: RunFolder, prices: Prices, usd: float, shown: str) -> None:
    found = by_strategy(table_rows(run, prices))["rag"] | {"setup_usd": usd}
    lines = str(render([found], "md")).splitlines()
    place = [cell.strip() for cell in lines[2].split("|")].index("set-up USD")
    assert lines[4].split("|")[place].strip() == shown


def test_the_command_prices_a_run(run: RunFolder, price_file: Path) -> None:
    plain = CliRunner().invoke(app, ["table", str(run.path)])
    assert (plain.exit_code, plain.stdout) == (0, render(table_rows(run), "md"))
    priced = CliRunner().invoke(app, ["table", str(run.path), "--prices", str(price_file), "--price-model", "small", "--format", "json"])
    assert by_strategy(json.loads(priced.stdout))["rag"]["setup_usd"] == pytest.approx(0.006)
    assert "api_usd_per_1000_requests_cached" in priced.stdout
    by_default = CliRunner().invoke(app, ["table", str(run.path), "--prices", "default"])
    assert "- priced at cpu: " in by_default.stdout
    assert "API" not in by_default.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--prices", "{file}", "--price-model", "smal"], 'no price for the model "smal"; did you mean "small"'),
        (["--prices", "{file}", "--slices"], "--slices, --errors, --usage and --prices: found several, expected one"),
        (["--slices", "--errors"], "--slices, --errors, --usage and --prices: found several, expected one"),
        (["--prices", "{file}.missing"], "cannot be read"),
        (["--prices", ""], "cannot be read"),
        (["--price-model", "small"], "--price-model: expected --prices beside it"),
    ],
)
def test_wrong_ways_to_price_are_one_line(run: RunFolder, price_file: Path, arguments: list[str], says: str) -> None:
    given = [argument.format(file=price_file) for argument in arguments]
    found = CliRunner().invoke(app, ["table", str(run.path), *given])
    assert isinstance(found.exception, BenchError)
    assert says in str(found.exception)


def test_kinds_of_error_are_shares_of_all_items_over_all_seeds(new_run: NewRun) -> None:
    run = new_run("run")
    for seed, kinds in enumerate((["retrieval_miss", "fabricated"], ["fabricated"])):
        items = [make_item(i, 0.0, error=kind) for i, kind in enumerate(kinds)] + [make_item(i) for i in range(len(kinds), 10)]
        add(run, make_record("support", "rag", seed, items), items)
    items = [make_item(i, 0.0) for i in range(10)]
    add(run, make_record("support", "lora", 0, items), items)
    table = error_table(run)
    assert list(table["strategy"]) == ["rag"]
    rag = table.iloc[0]
    assert (rag["retrieval_miss"], rag["fabricated"], rag["distractor_copied"]) == (0.05, 0.10, 0.0)
    assert (rag["errors"], rag["n_items"]) == (pytest.approx(0.15), 10)
