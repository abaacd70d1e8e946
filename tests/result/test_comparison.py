from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from result_samples import N_ITEMS, add, make_item, make_phase, make_record, scored
from scipy import stats
from sklearn.metrics import f1_score
from typer.testing import CliRunner

from bench.errors import BenchError
from bench.result.cli import register
from bench.result.comparison import COLUMNS, comparison_rows
from bench.result.comparison_text import render_comparison
from bench.result.paired import mcnemar
from bench.result.schema import Fingerprints, Item, MetricValue, Record
from bench.result.statistics import holm, paired_difference
from bench.result.store import RunFolder

NewRun = Callable[[str], RunFolder]


def row(rows: Sequence[dict[str, Any]], strategy: str) -> dict[str, Any]:
    return next(row for row in rows if row["strategy"] == strategy)


def put(run: RunFolder, strategy: str, items: list[Item], seed: int = 0, task: str = "support", **changes: Any) -> None:
    add(run, make_record(task, strategy, seed, items, **changes), items)


def items_of(scores: Sequence[float] | np.ndarray, **changes: Any) -> list[Item]:
    """Each item a cluster of its own."""
    return [make_item(i, float(s), cluster=str(i), **changes) for i, s in enumerate(scores)]


def prints(**changes: str) -> Fingerprints:
    return Fingerprints(**{"task": "t", "model": "m", "tokenizer": "k", "strategy": "s", "scoring": "1", **changes})


# Known answers


def test_one_artifact_each(run: RunFolder) -> None:
    found = row(comparison_rows(run, "zero-shot"), "rag")
    a, b = run.read_scores("support", "rag", 0), run.read_scores("support", "zero-shot", 0)
    x, y = (np.array([item.scores["exact_match"] for item in items]) for items in (a, b))
    expected = paired_difference(x, y, [item.cluster for item in a])
    assert (found["difference"], found["ci_low"], found["ci_high"]) == pytest.approx((expected.delta, expected.low, expected.high))
    assert (found["mean"], found["baseline_mean"]) == pytest.approx((x.mean(), y.mean()))
    assert (found["n"], found["n_clusters"], found["n_undefined"]) == (N_ITEMS, N_ITEMS // 2, 0)
    assert found["p"] == found["p_sign_flip"] == expected.p_sign_flip
    assert (found["estimand"], found["p_seeds"]) == ("E1", None)
    wins, losses = int((x > y).sum()), int((x < y).sum())
    assert (found["wins"], found["losses"], found["ties"]) == (wins, losses, N_ITEMS - wins - losses)
    assert (found["mcnemar_b"], found["mcnemar_c"]) == (wins, losses)
    assert found["mcnemar_p"] == mcnemar(wins, losses).p
    assert found["verdict"] == "better"


def test_several_seeds_are_compared_as_a_strategy(run: RunFolder) -> None:
    found = row(comparison_rows(run, "zero-shot"), "lora")
    assert (found["estimand"], found["n_seeds"], found["baseline_n_seeds"]) == ("E2", 3, 1)
    assert found["p"] == max(found["p_sign_flip"], found["p_seeds"])
    assert found["mcnemar_p"] is None
    assert found["mcnemar_reason"] == "several seeds, so no single artifact"
    assert found["wins"] + found["losses"] + found["ties"] == N_ITEMS


def test_holm_is_over_the_strategies_of_the_task(run: RunFolder) -> None:
    rows = comparison_rows(run, "zero-shot")
    tested = [r for r in rows if r["status"] == "ok"]
    assert [r["strategy"] for r in tested] == ["rag", "rag-oracle", "lora"]
    assert {r["family_size"] for r in tested} == {3}
    assert [r["p_holm"] for r in tested] == pytest.approx(holm([r["p"] for r in tested]))
    assert any(r["p_holm"] > r["p"] for r in tested)
    one = row(comparison_rows(run, "zero-shot"), "rag")
    assert one["mde"] == pytest.approx(
        (stats.t.ppf(1 - 0.025 / 3, 59) + stats.t.ppf(0.8, 59)) * (one["ci_high"] - one["ci_low"]) / 2 / stats.t.ppf(0.975, 59)
    )


@pytest.mark.parametrize(
    ("right", "expected"), [(400, "equivalent"), (398, "inconclusive"), (340, "worse")], ids=["the same", "nearly", "clearly worse"]
)
def test_verdicts(new_run: NewRun, right: int, expected: str) -> None:
    run = new_run("run")
    put(run, "zero-shot", items_of(np.ones(400)), deterministic=True)
    put(run, "rag", items_of([1] * right + [0] * (400 - right)), deterministic=True)
    rows = comparison_rows(run, "zero-shot")
    assert row(rows, "rag")["verdict"] == expected
    assert row(rows, "rag")["margin"] == 0.01
    if expected == "worse":
        assert row(comparison_rows(run, "rag"), "zero-shot")["verdict"] == "better"
    if expected == "inconclusive":
        wide = row(comparison_rows(run, "zero-shot", margin=0.03), "rag")
        assert wide["verdict"] == "equivalent"
        assert wide["p_equivalence"] < 0.05


def test_a_real_difference_that_does_not_matter_is_no_better(new_run: NewRun) -> None:
    run = new_run("run")
    generator = np.random.default_rng(0)
    put(run, "zero-shot", items_of(np.full(400, 0.5)), deterministic=True)
    put(run, "rag", items_of(np.clip(0.504 + generator.normal(0, 0.01, 400), 0, 1)), deterministic=True)
    found = row(comparison_rows(run, "zero-shot"), "rag")
    assert found["p_holm"] < 0.01
    assert found["verdict"] == "equivalent"
    assert found["mcnemar_reason"] == "scores are not 0 or 1"
    assert row(comparison_rows(run, "zero-shot", margin=0.001), "rag")["verdict"] == "better"


def test_a_real_model_has_a_margin_of_two_points(new_run: NewRun) -> None:
    run = new_run("run")
    for strategy in ("zero-shot", "rag"):
        put(run, strategy, items_of(np.ones(50)), deterministic=True, model="some/model")
    assert row(comparison_rows(run, "zero-shot"), "rag")["margin"] == 0.02


def test_where_lower_is_better_less_is_better(new_run: NewRun) -> None:
    run = new_run("run")
    for strategy, share in [("zero-shot", 0.6), ("rag", 0.2)]:
        wrong = (np.arange(200) < 200 * share).astype(float)
        items = [make_item(i, 1 - w, cluster=str(i), scores={"exact_match": 1 - w, "hallucination_rate": w}) for i, w in enumerate(wrong)]
        put(run, strategy, items, deterministic=True)
    found = row(comparison_rows(run, "zero-shot", "hallucination_rate"), "rag")
    assert found["higher_is_better"] is False
    assert found["difference"] == pytest.approx(-0.4)
    assert (found["verdict"], found["wins"], found["losses"]) == ("better", 80, 0)
    assert (found["rank"], found["p_best"]) == (1, 1.0)


def test_a_metric_without_a_good_end_is_higher_or_lower_and_ranks_nothing(new_run: NewRun) -> None:
    run = new_run("run")
    for strategy, length in [("zero-shot", 1.0), ("rag", 3.0)]:
        lengths = length + np.random.default_rng(0).random(60)
        metrics = {"length_ratio": MetricValue(value=float(lengths.mean()), n_scored=60)}
        items = [make_item(i, cluster=str(i), scores={"length_ratio": float(v)}) for i, v in enumerate(lengths)]
        put(run, strategy, items, deterministic=True, metrics=metrics, primary_metric="length_ratio")
    found = row(comparison_rows(run, "zero-shot"), "rag")
    assert (found["verdict"], found["margin"], found["p_equivalence"], found["rank"]) == ("higher", None, None, None)
    assert row(comparison_rows(run, "zero-shot", margin=5), "rag")["verdict"] == "equivalent"


def test_undefined_items_are_left_out_on_both_sides_and_counted(new_run: NewRun) -> None:
    run = new_run("run")
    put(run, "zero-shot", items_of([1, 0, 1, 0, 1, 0]), deterministic=True)
    items = items_of([1, 1, 1, 1, 1, 1])
    items = [item.model_copy(update={"scores": {} if i < 2 else item.scores}) for i, item in enumerate(items)]
    put(run, "rag", items, deterministic=True, metrics={"exact_match": MetricValue(value=1.0, n_scored=4, n_undefined=2)})
    found = row(comparison_rows(run, "zero-shot"), "rag")
    assert (found["n"], found["n_undefined"], found["n_clusters"]) == (4, 2, 4)
    assert (found["mean"], found["baseline_mean"]) == (1.0, 0.5)
    assert "- shared items left out since the metric is undefined on a side: rag 2" in render_comparison(
        comparison_rows(run, "zero-shot"), "md"
    )


def test_macro_f1_is_compared_by_its_own_statistic(new_run: NewRun) -> None:
    run = new_run("run")
    generator = np.random.default_rng(1)
    gold = list(generator.choice(["billing", "login", "other"], 150, p=[0.6, 0.3, 0.1]))
    said: dict[str, list[str]] = {"majority": ["billing"] * 150, "lora": [g if generator.random() < 0.7 else "other" for g in gold]}
    metrics = {"macro_f1": MetricValue(value=0.5, n_scored=150)}
    for strategy, answers in said.items():
        items = [
            make_item(i, cluster=str(i), prediction=a, targets=[g], scores={"accuracy": float(a == g)})
            for i, (a, g) in enumerate(zip(answers, gold, strict=True))
        ]
        put(run, strategy, items, task="triage", deterministic=True, metrics=metrics, primary_metric="macro_f1")
    found = row(comparison_rows(run, "majority"), "lora")
    values = {name: f1_score(gold, answers, average="macro") for name, answers in said.items()}
    assert (found["mean"], found["baseline_mean"]) == pytest.approx((values["lora"], values["majority"]))
    assert found["difference"] == pytest.approx(values["lora"] - values["majority"])
    assert found["wins"] == sum(a == g != "billing" for a, g in zip(said["lora"], gold, strict=True))
    assert found["mcnemar_reason"] == "macro F1 is no score of an item"
    assert (found["verdict"], found["rank"], found["p_best"]) == ("better", 1, 1.0)


# Ranks


def test_ranks_leave_oracles_out_and_the_front_weighs_cost(new_run: NewRun) -> None:
    run = new_run("run")
    for strategy, rate, seconds in [("zero-shot", 0.3, 1.0), ("rag", 0.8, 5.0), ("rag-oracle", 0.95, 5.0), ("full", 0.3, 9.0)]:
        put(run, strategy, scored(rate), deterministic=True, phases={"answer": make_phase(seconds)})
    rows = comparison_rows(run, "zero-shot")
    assert row(rows, "rag-oracle")["rank"] is None
    assert row(rows, "rag-oracle")["verdict"] == "better"
    assert (row(rows, "rag")["rank"], row(rows, "rag")["rank_high"], row(rows, "rag")["p_pareto"]) == (1, 1, 1.0)
    assert (row(rows, "zero-shot")["rank_low"], row(rows, "full")["rank_high"]) == (2, 3)
    assert (row(rows, "zero-shot")["p_pareto"], row(rows, "full")["p_pareto"]) == (1.0, 0.0)
    assert (row(rows, "rag")["cost_kind"], row(rows, "rag")["memory_kind"]) == ("cpu", "rss")
    assert row(rows, "rag")["cost_seconds_per_1000_requests"] == pytest.approx(2 * 5000 / N_ITEMS)
    assert comparison_rows(run, "zero-shot") == rows
    assert sum(r["p_best"] for r in rows if r["p_best"] is not None) == pytest.approx(1)


# What does not belong together


def change(items: list[Item], **changes: Any) -> list[Item]:
    return [items[0].model_copy(update=changes), *items[1:]]


@pytest.mark.parametrize(
    ("items", "changes", "message"),
    [
        (change(scored(0.5), input_hash="else"), {}, "another question"),
        (change(scored(0.5), targets=["green"]), {}, r'item "q0" has the gold \[.blue.\] in .*green'),
        (scored(0.5), {"fingerprints": prints(scoring="2")}, "scored by different versions: .* has 1, .* has 2"),
    ],
)
def test_other_questions_gold_or_scoring_are_never_compared(new_run: NewRun, items: list[Item], changes: Any, message: str) -> None:
    one, two = new_run("one"), new_run("two")
    put(one, "zero-shot", items, fingerprints=prints())
    put(two, "rag", scored(0.6), **{"fingerprints": prints(), **changes})
    for allow in (False, True):
        with pytest.raises(BenchError, match=message):
            comparison_rows([one, two], "zero-shot", allow_unequal=allow)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fingerprints": prints(task="u")}, "task rows or settings differ: zero-shot/s0 has t, rag/s0 has u"),
        ({"fingerprints": prints(model="n")}, "weights of the base model differ: zero-shot/s0 has m, rag/s0 has n"),
        ({"fingerprints": prints(), "config": {"budget": {"trials": 8}}}, "budget differ: zero-shot/s0 has trials 3, rag/s0 has trials 8"),
    ],
)
def test_unequal_data_weights_or_budgets_only_when_asked_and_then_said(new_run: NewRun, changes: Any, message: str) -> None:
    one, two = new_run("one"), new_run("two")
    put(one, "zero-shot", scored(0.5), fingerprints=prints(), config={"budget": {"trials": 3}})
    put(two, "rag", scored(0.9), **changes)
    with pytest.raises(BenchError, match=f"{message}: run again alike, or pass --allow-unequal"):
        comparison_rows([one, two], "zero-shot")
    rows = comparison_rows([one, two], "zero-shot", allow_unequal=True)
    assert message in rows[0]["notes"]
    assert row(rows, "rag")["verdict"] == "better"
    assert f"- {message}" in render_comparison(rows, "md")


# Nothing to compare


def test_an_unknown_baseline_or_metric_or_a_bad_margin_is_refused(run: RunFolder) -> None:
    with pytest.raises(BenchError, match=r'baseline "zeroshot": no record of this strategy; did you mean "zero-shot"'):
        comparison_rows(run, "zeroshot")
    with pytest.raises(BenchError, match=r'metric "exact_mach": in no record; did you mean "exact_match"'):
        comparison_rows(run, "zero-shot", "exact_mach")
    for margin in (0, -1, float("nan"), 2):
        with pytest.raises(BenchError, match="margin: found"):
            comparison_rows(run, "zero-shot", margin=margin)
    with pytest.raises(BenchError, match='format "xml" is unknown'):
        render_comparison([], "xml")


def test_one_strategy_alone_is_refused(new_run: NewRun) -> None:
    run = new_run("run")
    put(run, "zero-shot", scored(0.5))
    with pytest.raises(BenchError, match="the only strategy here"):
        comparison_rows(run, "zero-shot")


def test_what_cannot_be_compared_says_why(run: RunFolder) -> None:
    items = items_of([1.0, 0.0])
    put(run, "rag", items, task="triage", deterministic=True)
    rows = comparison_rows(run, "zero-shot")
    assert [r["status"] for r in rows] == ["not compared", "baseline", "ok", "ok", "ok", "not compared", "not compared"]
    assert rows[0]["reason"] == "skipped: no labels in a qa task"
    assert rows[5]["reason"] == "failed: OutOfMemoryError: tried to allocate 9 | GiB"
    assert rows[6]["reason"] == "the baseline zero-shot was not run on this task"
    assert row(comparison_rows(run, "full"), "rag")["reason"] == "the baseline full: failed: OutOfMemoryError: tried to allocate 9 | GiB"
    assert row(comparison_rows(run, "zero-shot", "hallucination_rate"), "rag")["reason"] == (
        "hallucination_rate has no item scores, so there is nothing to pair"
    )
    assert "- not compared: full (failed: OutOfMemoryError: tried to allocate 9 \\| GiB)" in render_comparison(rows, "md")


def test_one_item_or_one_cluster_has_a_difference_and_no_interval(new_run: NewRun) -> None:
    run = new_run("run")
    put(run, "zero-shot", [make_item(i, 0.0, cluster="one") for i in range(3)])
    put(run, "rag", [make_item(i, 1.0, cluster="one") for i in range(3)])
    rows = comparison_rows(run, "zero-shot")
    found = row(rows, "rag")
    assert (found["difference"], found["ci_low"], found["mde"], found["rank"], found["verdict"]) == (1.0, None, None, None, "inconclusive")
    assert found["notes"] == ["one seed only, so the artifact is compared and not the strategy (E1): zero-shot, rag"]
    assert "| rag" in render_comparison(rows, "md")
    assert json.loads(render_comparison(rows, "json"))[1]["ci_low"] is None


def test_two_seeds_and_seeds_that_failed_are_noted(new_run: NewRun) -> None:
    run = new_run("run")
    put(run, "zero-shot", scored(0.2), deterministic=True)
    for seed in range(2):
        put(run, "lora", scored(0.6, seed), seed)
    run.write_record(make_record("support", "lora", 2, [], status="failed", error="boom"))
    notes = comparison_rows(run, "zero-shot")[0]["notes"]
    assert notes == [
        "two seeds only, expected three or more: lora",
        "seeds left out since they are not ok, which may flatter: lora (1 of 3)",
    ]


# How it looks


def test_markdown_states_the_estimand_and_the_family_and_fits_140_columns(run: RunFolder) -> None:
    text = render_comparison(comparison_rows(run, "zero-shot"), "md")
    assert text.startswith("Estimand E1: ")
    assert "Holm's family: all strategies of one task and metric against the baseline." in text
    assert max(map(len, text.splitlines())) <= 140
    (line,) = [line for line in text.splitlines() if line.startswith("| rag ") and "better" in line]
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    found = row(comparison_rows(run, "zero-shot"), "rag")
    assert cells[1:4] == ["120 (60)", f"{100 * found['mean']:.1f}", f"{100 * found['baseline_mean']:.1f}"]
    assert cells[4] == f"{100 * found['difference']:+.1f} [{100 * found['ci_low']:+.1f}, {100 * found['ci_high']:+.1f}]"
    assert cells[-1] == "better"
    assert text.index("P(best)") > text.index("McNemar")


def test_csv_and_json_hold_every_column(run: RunFolder) -> None:
    rows = comparison_rows(run, "zero-shot")
    assert all(tuple(r) == COLUMNS for r in rows)
    assert json.loads(render_comparison(rows, "json")) == rows
    read = list(csv.DictReader(io.StringIO(render_comparison(rows, "csv"))))
    assert tuple(read[0]) == COLUMNS
    assert float(read[2]["difference"]) == rows[2]["difference"]


def invoke(*arguments: str) -> Any:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    return CliRunner().invoke(app, ["compare", *arguments])


def test_the_command(run: RunFolder, tmp_path: Path) -> None:
    assert invoke(str(run.path), "--baseline", "zero-shot").output == render_comparison(comparison_rows(run, "zero-shot"), "md")
    file = tmp_path / "out.csv"
    assert invoke(str(run.path), "--baseline", "rag", "--format", "csv", "--margin", "0.05", "-o", str(file)).exit_code == 0
    assert file.read_text() == render_comparison(comparison_rows(run, "rag", margin=0.05), "csv")
    assert invoke(str(run.path)).exit_code == 2
    failed = invoke(str(run.path), "--baseline", "nothing")
    assert isinstance(failed.exception, BenchError)


def test_comparing_imports_nothing_heavy(run: RunFolder) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom bench.result.comparison import comparison_rows\n"
        "from bench.result.comparison_text import render_comparison\n"
        f"render_comparison(comparison_rows(Path({str(run.path)!r}), 'zero-shot'), 'md')\n"
        "print([name for name in ('torch', 'transformers', 'pandas', 'scipy', 'evaluate') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_several_runs_are_compared_together(new_run: NewRun) -> None:
    one, two = new_run("one"), new_run("two")
    put(one, "zero-shot", scored(0.2), deterministic=True)
    put(two, "rag", scored(0.8), deterministic=True)
    rows = comparison_rows([one, two], "zero-shot")
    assert row(rows, "rag")["verdict"] == "better"
    record = two.read_record("support", "rag", 0)
    assert isinstance(record, Record)
    assert row(rows, "rag")["mean"] == pytest.approx(record.metrics["exact_match"].value)


def test_two_base_models_are_two_comparisons(new_run: NewRun) -> None:
    one, two = new_run("one"), new_run("two")
    for run, model in [(one, "small"), (two, "large")]:
        put(run, "zero-shot", scored(0.2), deterministic=True, model=model, cell_id=f"{model}-zero-shot")
        put(run, "rag", scored(0.8), deterministic=True, model=model, cell_id=f"{model}-rag")
    rows = comparison_rows([one, two], "zero-shot")
    assert [(r["model"], r["strategy"], r["status"]) for r in rows] == [
        ("large", "zero-shot", "baseline"),
        ("large", "rag", "ok"),
        ("small", "zero-shot", "baseline"),
        ("small", "rag", "ok"),
    ]
    assert {r["family_size"] for r in rows if r["status"] == "ok"} == {1}
    assert "### support (large): exact_match against zero-shot" in render_comparison(rows, "md")
