"""Learning curves: lines that cross where they are made to."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from result_samples import add, make_item, make_record
from typer.testing import CliRunner

from bench.errors import BenchError
from bench.result.cli import register
from bench.result.curve import Curves, crossover, learning_curves, uses_examples
from bench.result.curve_text import render_curves
from bench.result.schema import Run
from bench.result.store import RunFolder

N = 120
TUNED: dict[str, Any] = {"strategy": {"tuning": {"method": "lora"}}}
PROMPTED: dict[str, Any] = {"strategy": {"tuning": {"method": "none"}, "prompt": {"shots": 0}}}
Rates = dict[str, float | Sequence[float]]
"""Strategy -> share of right items; one number for a strategy without seeds."""
NewCurve = Callable[..., list[RunFolder]]


@pytest.fixture
def new_curve(tmp_path: Path) -> NewCurve:
    """Makes a run folder for each size: {size: {strategy: rate}}; the first ``rate`` of the items, in a mixed order, are right."""

    def make(rates: dict[int, Rates], n_train: int = 1000, metric: str = "exact_match", task: str = "support") -> list[RunFolder]:
        order = np.random.default_rng(0).permutation(N)
        folders = []
        for size, strategies in rates.items():
            run = RunFolder(tmp_path / f"run-n{size}").create()
            suite = {"tasks": [task], "strategies": list(strategies), "budget": {"train_examples": size, "trials": 1}}
            run.write_run(Run(name=run.path.name, suite=suite, environment={}, started="2025-01-01T00:00:00Z", status="ok"))
            for strategy, rate in strategies.items():
                config = (PROMPTED if isinstance(rate, float) else TUNED) | {"n_train": min(size, n_train)}
                for seed, share in enumerate([rate] if isinstance(rate, float) else rate):
                    right = order < round(share * N)
                    items = [make_item(i, float(right[i]), scores={metric: float(right[i])}) for i in range(N)]
                    record = make_record(task, strategy, seed, items, cell_id=f"{size}", config=config, primary_metric=metric)
                    add(run, record, items)
            folders.append(run)
        return folders

    return make


def crossing(new_curve: NewCurve) -> list[RunFolder]:
    return new_curve({10: {"rag": 0.5, "lora": [0.25] * 3}, 20: {"rag": 0.5, "lora": [0.375] * 3}, 40: {"rag": 0.5, "lora": [0.75] * 3}})


def test_the_crossover_is_where_the_lines_cross_in_log2(new_curve: NewCurve) -> None:
    found = learning_curves(crossing(new_curve))
    (row,) = found.crossovers
    assert (row["a"], row["b"], row["ahead_at_smallest"], row["ahead_at_largest"]) == ("rag", "lora", "rag", "lora")
    # From .125 behind at 20 to .25 ahead at 40: a third of the way.
    assert row["crossover"] == pytest.approx(20 * 2 ** (1 / 3))
    assert row["low"] < row["crossover"] < row["high"]
    assert row["share_crossing"] == 1.0
    assert [(p["strategy"], p["train_examples"], p["value"]) for p in found.points] == [
        *(("rag", size, 0.5) for size in (10, 20, 40)),
        ("lora", 10, 0.25), ("lora", 20, 0.375), ("lora", 40, 0.75),
    ]  # fmt: skip
    assert all(p["ci_low"] < p["value"] < p["ci_high"] for p in found.points)
    assert {p["interval"] for p in found.points if p["strategy"] == "lora"} == {"items + seeds"}


def test_runs_come_in_any_order_and_everything_is_seeded(new_curve: NewCurve) -> None:
    folders = crossing(new_curve)
    first = learning_curves(folders)
    assert learning_curves([folders[2].path, folders[0].path, folders[1].path]) == first
    assert learning_curves(folders, seed=1).crossovers != first.crossovers


def test_noise_between_seeds_widens_the_interval(new_curve: NewCurve) -> None:
    quiet = learning_curves(crossing(new_curve)).crossovers[0]
    shifts = (-0.1, 0.0, 0.1)
    loud = new_curve({n: {"rag": 0.5, "lora": [rate + x for x in shifts]} for n, rate in ((10, 0.25), (20, 0.375), (40, 0.75))})
    wide = learning_curves(loud).crossovers[0]
    assert wide["crossover"] == pytest.approx(quiet["crossover"])
    assert math.log2(wide["high"] / wide["low"]) > 1.2 * math.log2(quiet["high"] / quiet["low"])


def test_no_crossover_says_who_is_ahead_and_how_sure_that_is(new_curve: NewCurve) -> None:
    folders = new_curve({
        10: {"rag": 0.9, "lora": [0.2, 0.2], "full": [0.48, 0.48]}, 40: {"rag": 0.9, "lora": [0.5, 0.5], "full": [0.5, 0.5]},
    })  # fmt: skip
    rows = {(row["a"], row["b"]): row for row in learning_curves(folders).crossovers}
    ahead = rows["rag", "lora"]
    assert (ahead["crossover"], ahead["ahead_throughout"], ahead["share_crossing"]) == (None, "rag", 0.0)
    equal = rows["lora", "full"]
    assert (equal["crossover"], equal["ahead_at_smallest"], equal["ahead_at_largest"]) == (None, "full", None)
    text = render_curves(learning_curves(folders), "md")
    assert "none within 10..40 (rag is ahead throughout)" in text
    assert "none within 10..40 (ahead: at 10 full, at 40 neither)" in text
    same = learning_curves(new_curve({10: {"lora": [0.4, 0.4], "full": [0.4, 0.4]}, 40: {"lora": [0.5, 0.5], "full": [0.5, 0.5]}}))
    assert (same.crossovers[0]["crossover"], same.crossovers[0]["share_crossing"]) == (None, 0.0)
    assert "(equal at both ends)" in render_curves(same, "md")


def test_an_interval_that_ends_beyond_the_sizes_is_open(new_curve: NewCurve) -> None:
    folders = new_curve({10: {"rag": 0.5, "lora": [0.2, 0.2]}, 40: {"rag": 0.5, "lora": [0.45, 0.6]}})
    (row,) = learning_curves(folders).crossovers
    assert row["high"] is None
    assert row["low"] > 10
    assert 0.5 < row["share_crossing"] < 1
    assert ", >40]: lora overtakes rag" in render_curves(learning_curves(folders), "md")


def test_with_a_baseline_only_its_pairs_and_two_constants_never_cross(new_curve: NewCurve) -> None:
    rates: Rates = {"rag": 0.5, "zero-shot": 0.3, "lora": [0.2, 0.2], "full": [0.1, 0.1]}
    folders = new_curve({10: rates, 40: rates | {"lora": [0.6, 0.6]}})
    assert [(r["a"], r["b"]) for r in learning_curves(folders, "lora").crossovers] == [
        ("rag", "lora"),
        ("zero-shot", "lora"),
        ("full", "lora"),
    ]
    pairs = {(r["a"], r["b"]) for r in learning_curves(folders).crossovers}
    assert ("rag", "zero-shot") not in pairs
    assert len(pairs) == 5


def test_a_strategy_that_uses_no_examples_is_drawn_where_it_was_not_run(new_curve: NewCurve) -> None:
    folders = new_curve({10: {"lora": [0.2, 0.2]}, 40: {"rag": 0.5, "lora": [0.6, 0.6]}})
    found = learning_curves(folders)
    assert [(p["train_examples"], p["value"], p["uses_examples"]) for p in found.points if p["strategy"] == "rag"] == [
        (10, 0.5, False),
        (40, 0.5, False),
    ]
    assert found.crossovers[0]["crossover"] == pytest.approx(10 * 4 ** (0.3 / 0.4))
    assert "= 50.0" in render_curves(found, "md")


def test_a_tuned_strategy_is_not_continued(new_curve: NewCurve) -> None:
    folders = new_curve({10: {"rag": 0.5}, 20: {"rag": 0.5, "lora": [0.2, 0.2]}, 40: {"rag": 0.5, "lora": [0.6, 0.6]}})
    found = learning_curves(folders)
    assert [p["train_examples"] for p in found.points if p["strategy"] == "lora"] == [20, 40]
    assert found.crossovers[0]["crossover"] == pytest.approx(20 * 2 ** (0.3 / 0.4))


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ({"tuning": {"method": "none"}, "prompt": {"shots": 0}}, False),
        ({"tuning": {"method": "lora"}}, True),
        ({"tuning": {"method": "none"}, "prompt": {"shots": 4}}, True),
        ({"prompt": {"shots": 0}, "search": {"prompt.shots": [0, 4]}}, True),
        ({"prompt": {"constant": "majority"}}, True),
        ({"prompt": {"constant": "abstain"}}, False),
        (None, True),
    ],
)
def test_what_uses_examples(strategy: dict[str, Any] | None, expected: bool) -> None:
    assert uses_examples(make_record("t", "s", 0, [], status="failed", config={"strategy": strategy})) is expected


def test_the_data_floor_is_the_smallest_size_with_nine_tenths(new_curve: NewCurve) -> None:
    rates = {10: 0.3, 25: 0.7, 50: 0.78, 100: 0.8}
    found = learning_curves(new_curve({size: {"rag": 0.5, "lora": [rate, rate]} for size, rate in rates.items()}))
    (floor,) = found.data_floors
    # .72 of .8: 25 has .70, 50 has .78.
    assert (floor["strategy"], floor["data_floor"], floor["largest_size"]) == ("lora", 50, 100)
    assert floor["low"] == 25
    assert floor["high"] == 50


def test_lower_is_better_turns_the_lead_around(new_curve: NewCurve) -> None:
    rates: dict[int, Rates] = {10: {"rag": 0.5, "lora": [0.75] * 2}, 40: {"rag": 0.5, "lora": [0.25] * 2}}
    found = learning_curves(new_curve(rates, metric="hallucination_rate"))
    assert (found.crossovers[0]["ahead_at_smallest"], found.crossovers[0]["ahead_at_largest"]) == ("rag", "lora")
    assert found.data_floors == []


def test_macro_f1_has_a_curve(tmp_path: Path) -> None:
    gold = np.random.default_rng(0).choice(["a", "b", "c"], N)
    folders = []
    for size, rate in ((10, 0.4), (40, 0.9)):
        run = RunFolder(tmp_path / f"n{size}").create()
        suite = {"tasks": ["t"], "strategies": ["rag", "lora"], "budget": {"train_examples": size}}
        run.write_run(Run(name="r", suite=suite, environment={}, started="2025-01-01T00:00:00Z", status="ok"))
        for strategy, share, config in (("rag", 0.65, PROMPTED), ("lora", rate, TUNED)):
            right = np.random.default_rng(1).random(N) < share
            items = [make_item(i, prediction=str(gold[i]) if right[i] else "a", targets=[str(gold[i])], scores={}) for i in range(N)]
            add(run, make_record("t", strategy, 0, items, primary_metric="macro_f1", config=config), items)
        folders.append(run)
    found = learning_curves(folders)
    assert 10 < found.crossovers[0]["low"] < found.crossovers[0]["crossover"] < found.crossovers[0]["high"] < 40
    assert all(point["ci_low"] < point["value"] < point["ci_high"] for point in found.points)


def test_a_size_beyond_the_tasks_examples_is_left_out_with_a_note(new_curve: NewCurve) -> None:
    folders = new_curve({n: {"rag": 0.5, "lora": [0.2, 0.3]} for n in (10, 40, 160, 640)}, n_train=60)
    found = learning_curves(folders)
    assert {p["train_examples"] for p in found.points} == {10, 40}
    assert found.notes == ["support: has 60 training examples, so larger sizes are left out (160, 640)"]


def test_a_failed_cell_is_said(new_curve: NewCurve) -> None:
    folders = crossing(new_curve)
    for seed in range(3):
        folder = folders[1].cell_folder("support", "lora", seed)
        (folder / "record.json").unlink()
        folders[1].write_record(make_record("support", "lora", seed, [], status="failed", error="out of memory"))
    found = learning_curves(folders)
    assert [p["status"] for p in found.points if p["strategy"] == "lora"] == ["ok", "failed", "ok"]
    # Straight from .25 behind at 10 to .25 ahead at 40.
    assert found.crossovers[0]["crossover"] == pytest.approx(20)
    assert "failed" in render_curves(found, "md")


def test_bad_input_is_one_line(new_curve: NewCurve, tmp_path: Path) -> None:
    folders = crossing(new_curve)
    with pytest.raises(BenchError, match="found runs of 1 size, expected two"):
        learning_curves(folders[:1])
    with pytest.raises(BenchError, match="both have 10 training examples"):
        learning_curves([folders[0], folders[0]])
    with pytest.raises(BenchError, match=r'--baseline "lorra".*did you mean "lora"'):
        learning_curves(folders, "lorra")
    with pytest.raises(BenchError, match=r"expected the file run\.json"):
        learning_curves([tmp_path / "nothing", *folders])
    run = folders[0].read_run()
    folders[0].write_run(run.model_copy(update={"suite": {"budget": {"train_examples": None}}}))
    with pytest.raises(BenchError, match=r"run\.json: suite\.budget\.train_examples: found None"):
        learning_curves(folders)
    folders[0].write_run(run)
    items = [make_item(i, 1.0, input_hash="changed") for i in range(N)]
    add(folders[0], make_record("support", "rag", 0, items, config=PROMPTED), items)
    with pytest.raises(BenchError, match="another question"):
        learning_curves(folders)


def test_one_cluster_has_points_but_no_crossover(new_curve: NewCurve) -> None:
    folders = crossing(new_curve)
    for run in folders:
        for record in list(run.records()):
            items = [i.model_copy(update={"cluster": "only"}) for i in run.read_items(record.task, record.strategy, record.seed)]
            add(run, record, items)
    found = learning_curves(folders)
    assert found.crossovers == []
    assert {p["ci_low"] for p in found.points} == {None}
    assert "| rag" in render_curves(found, "md")


# The crossover of differences


def test_the_last_change_counts() -> None:
    values = np.array([1.0, -1.0, 1.0, -3.0])
    found = crossover(values, values[None].repeat(5, axis=0), [1, 2, 4, 8])
    assert found["crossover"] == pytest.approx(2 ** (2 + 1 / 4))
    assert (found["low"], found["high"]) == (found["crossover"], found["crossover"])


def test_a_zero_on_the_way_is_the_crossover() -> None:
    values = np.array([1.0, 0.0, -1.0])
    assert crossover(values, values[None], [10, 20, 40])["crossover"] == pytest.approx(20)


def test_undefined_draws_are_left_out_and_draws_the_other_way_tell_nothing_of_the_place() -> None:
    values = np.array([1.0, -1.0])
    draws = np.array([[1.0, -1.0]] * 97 + [[-1.0, 1.0]] * 3 + [[np.nan, 1.0]] * 50)
    found = crossover(values, draws, [10, 40])
    assert (found["low"], found["high"], found["share_crossing"]) == (pytest.approx(20), pytest.approx(20), 0.97)


def test_the_interval_covers_a_known_crossover() -> None:
    generator = np.random.default_rng(0)
    sizes, truth, noise = [10, 20, 40, 80], np.array([0.3, 0.1, -0.1, -0.3]), 0.04
    covered = []
    for _ in range(300):
        values = truth + noise * generator.standard_normal(4)
        found = crossover(values, values + noise * generator.standard_normal((400, 4)), sizes)
        covered.append(found["low"] <= 20 * math.sqrt(2) <= found["high"])
    assert 0.90 <= np.mean(covered) <= 0.985


# Rendering and the command


def test_formats(new_curve: NewCurve) -> None:
    found = learning_curves(crossing(new_curve))
    text = render_curves(found, "md")
    assert "### support: exact_match (embedded)" in text
    assert "| Strategy" in text
    assert "25 [" in text
    assert "lora overtakes rag" in text
    assert json.loads(render_curves(found, "json"))["crossovers"][0]["crossover"] == found.crossovers[0]["crossover"]
    assert render_curves(found, "csv").splitlines()[0].startswith("task,model,strategy,primary_metric,train_examples,value")
    assert len(render_curves(found, "csv").splitlines()) == 7
    with pytest.raises(BenchError, match='did you mean "json"'):
        render_curves(Curves(), "jsn")


def test_the_command(new_curve: NewCurve, tmp_path: Path) -> None:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    folders = [str(run.path) for run in crossing(new_curve)]
    shown = CliRunner().invoke(app, ["curve", *folders, "--baseline", "rag"])
    assert shown.exit_code == 0, shown.output
    assert "lora overtakes rag" in shown.output
    CliRunner().invoke(app, ["curve", *folders, "--format", "json", "-o", str(tmp_path / "curve.json")])
    assert json.loads((tmp_path / "curve.json").read_text())["notes"] == []


def test_curves_need_neither_torch_nor_pandas() -> None:
    heavy = ("torch", "transformers", "pandas", "scipy")
    code = f"import sys, bench.result.curve, bench.result.curve_text; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
