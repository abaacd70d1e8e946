from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from bench.cost.calibration import Calibration, Checked
from bench.cost.plan_text import assumption_lines, render_plans
from bench.cost.planner import GIB, PUBLISHED, Estimate, Memory
from bench.errors import BenchError
from bench.run.plan import Numbers, Plan, Workload

MEMORY = Memory(
    weights=6 * GIB, gradients=1 * GIB, optimizer=2 * GIB, activations=3 * GIB, logits=1 * GIB, cache=0.0, workspace=1.5 * GIB,
    context=0.5 * GIB, total=Estimate(15 * GIB, 12 * GIB, 20 * GIB),
)  # fmt: skip
SERVING = replace(MEMORY, gradients=0.0, optimizer=0.0, cache=0.25 * GIB, total=Estimate(8 * GIB, 7 * GIB, 9 * GIB))
LORA = Plan(
    strategy="lora", method="lora", trainable_params=1_234_567, total_params=123_456_700, artifact_bytes=4_938_268.0,
    training_memory=MEMORY, training_fits="may not fit", training_flops=1e15, training_seconds=Estimate(120.0, 60.0, 240.0),
    training_usd=Estimate(0.5, 0.25, 1.0), serving_memory=SERVING, serving_fits="fits", latency_seconds=Estimate(2.0, 1.0, 4.0),
    seconds_per_1000_requests=Estimate(2000.0, 1000.0, 4000.0), usd_per_1000_requests=Estimate(0.61, 0.305, 1.22), notes=("a | note",),
)  # fmt: skip
PROMPTED = replace(
    LORA, strategy="zero-shot", method="none", trainable_params=0, artifact_bytes=0, training_memory=None, training_fits=None,
    training_flops=None, training_seconds=None, training_usd=None, notes=(),
)  # fmt: skip
CONSTANT = replace(
    PROMPTED, strategy="majority", total_params=0, serving_memory=None, serving_fits=None, latency_seconds=None,
    seconds_per_1000_requests=None, usd_per_1000_requests=None, notes=("asks no model",),
)  # fmt: skip
CHECKED = (Checked("support / lora", 1e9, 1.1e9, 10.0, 8.0), Checked("support / full", None, None, 20.0, 22.0))
CALIBRATION = Calibration(PUBLISHED, CHECKED, (), 1e12, 1e9)


def table(*plans: Plan, calibration: Calibration | None = None, assumptions: tuple[str, ...] = ("device: round",)) -> str:
    return render_plans(plans, assumptions, calibration, "table")


def rows(text: str, strategy: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith(f"| {strategy} ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_a_strategy_that_trains_has_a_row_in_both_tables() -> None:
    training, answering = rows(table(LORA), "lora")
    assert training[:8] == ["lora", "1,234,567", "1", "15.0 [12.0, 20.0]", "6.00", "3.00", "4.00", "2.00"]
    assert training[8] == "may not fit"
    assert training[-1] == "0.500 [0.250, 1.00]"
    assert answering[:6] == ["lora", "8.0 [7.0, 9.0]", "6.00", "0.25", "6.00", "fits"]
    assert answering[-1] == "0.610 [0.305, 1.22]"


def test_what_trains_nothing_stands_among_answers_alone() -> None:
    text = table(LORA, PROMPTED, CONSTANT)
    assert len(rows(text, "zero-shot")) == 1
    (constant,) = rows(text, "majority")
    assert constant[1:] == ["–"] * 8
    assert "- majority: asks no model\n" in text
    assert "Training" not in table(PROMPTED, CONSTANT)


def test_small_models_are_in_mebibytes() -> None:
    small = replace(MEMORY, weights=6 * GIB / 1024, total=Estimate(15 * GIB / 1024, 12 * GIB / 1024, 20 * GIB / 1024))
    text = table(replace(LORA, training_memory=small))
    assert "peak MiB" in text.split("Answering")[0]
    assert "peak GiB" in text.split("Answering")[1]
    assert rows(text, "lora")[0][3:5] == ["15.0 [12.0, 20.0]", "6.00"]


def test_what_is_not_known_is_a_dash() -> None:
    untimed = replace(LORA, training_seconds=None, training_usd=None, latency_seconds=None, usd_per_1000_requests=None)
    training, answering = rows(table(untimed), "lora")
    assert training[-2:] == ["–", "–"]
    assert answering[6] == answering[8] == "–"
    features = replace(LORA, training_memory=None, training_fits=None)
    assert rows(table(features), "lora")[0][3:9] == ["–"] * 6


def test_assumptions_and_notes_are_listed() -> None:
    text = table(LORA, assumptions=("model x: 1 parameter", "price: none"))
    assert "- model x: 1 parameter\n- price: none\n" in text
    assert "- lora: a \\| note\n" in text
    assert "GiB = 2^30" in text
    assert text.endswith("\n")


def test_names_are_escaped() -> None:
    assert "| a\\|b" in table(replace(LORA, strategy="a|b"))


def test_measured_runs_beside_their_predictions() -> None:
    text = table(LORA, calibration=CALIBRATION)
    (lora,), (full,) = rows(text, "support / lora"), rows(text, "support / full")
    assert lora[3] == "+10 %"
    assert lora[-1] == "-20 %"
    assert full[1:4] == ["–", "–", "–"]
    assert full[-1] == "+10 %"
    assert "Measured answers" not in text
    answered = replace(CALIBRATION, answered=(Checked("support / few-shot", None, None, 4.0, 5.0),))
    assert rows(table(LORA, calibration=answered), "support / few-shot")[0][-1] == "+25 %"


def test_json_holds_everything() -> None:
    plain: Any = json.loads(render_plans([LORA, PROMPTED, CONSTANT], ["device: round"], CALIBRATION, "json"))
    assert plain["assumptions"] == ["device: round"]
    lora, prompted, constant = plain["plans"]
    assert lora.keys() == prompted.keys() == constant.keys() == vars(LORA).keys()
    assert lora["training_seconds"] == {"value": 120.0, "low": 60.0, "high": 240.0}
    memory = {f"{part}_bytes": size for part, size in vars(MEMORY).items() if part != "total"}
    assert lora["training_memory"] == memory | {"total_bytes": {"value": 15 * GIB, "low": 12 * GIB, "high": 20 * GIB}}
    assert (lora["notes"], prompted["notes"]) == (["a | note"], [])
    assert prompted["training_memory"] is constant["serving_memory"] is None
    assert plain["calibration"]["checked"][0] == {
        "name": "support / lora", "held_bytes": 1e9, "predicted_bytes": 1.1e9, "seconds": 10.0, "predicted_seconds": 8.0,
    }  # fmt: skip
    assert "calibration" not in json.loads(render_plans([LORA], [], None, "json"))


def test_no_plan_at_all() -> None:
    assert json.loads(render_plans([], [], None, "json")) == {"assumptions": [], "plans": []}
    assert "Answering" in table()


def test_an_unknown_format() -> None:
    with pytest.raises(BenchError, match='format "md" is unknown'):
        render_plans([LORA], [], None, "md")


def test_what_predictions_rest_on_is_said() -> None:
    lines = assumption_lines("x", "1 parameter", "Round", Workload(batch=4, epochs=None), Numbers("nf4"), "by hand", "1 USD")
    assert lines[0] == "model x: 1 parameter"
    assert lines[1] == "device: Round"
    assert "batch 4, seq len 512, answer tokens 64" in lines[2]
    assert "epochs" not in lines[2]  # the strategy's own
    assert "dtype nf4, trained float32, optimizer adamw" in lines[3]
    assert lines[4:] == ["constants: by hand", "price: 1 USD"]
