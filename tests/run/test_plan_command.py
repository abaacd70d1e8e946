"""`bench plan` from the command line, and the planner fitted to runs whose times are made up by known rates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, T5Config
from typer.testing import CliRunner

from bench.cli import app
from bench.cost.devices import find_device
from bench.errors import BenchError
from bench.result.schema import Item, Memory, Phase, Record, Run, Tokens, Training
from bench.result.store import RunFolder
from bench.run.plan import Plan
from bench.run.plan_command import answers, trainings
from bench.settings import parse_assignments
from bench.strategy.spec import load_strategy, preset_names

SMALL = ["--seq-len", "24", "--answer-tokens", "4", "--batch", "2", "--examples", "8", "--epochs", "1"]
GPU = ["--gpu", "L40S"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def shown(*arguments: str | Path, model: str | Path = "embedded") -> str:
    result = CliRunner().invoke(app, ["plan", "--model", str(model), *SMALL, *map(str, arguments)])
    assert result.exit_code == 0, result.output + str(result.exception)
    return result.stdout


def plans(*arguments: str | Path, model: str | Path = "embedded") -> dict[str, Any]:
    plain = json.loads(shown(*arguments, "--format", "json", model=model))
    return {found["strategy"]: found for found in plain["plans"]}


def failure(*arguments: str | Path, model: str | Path = "embedded") -> str:
    result = CliRunner().invoke(app, ["plan", "--model", str(model), *SMALL, *map(str, arguments)])
    assert isinstance(result.exception, BenchError), result.output + str(result.exception)
    message = str(result.exception)
    assert "\n" not in message
    return message


# ---------------------------------------------------------------------------------------------------- what is printed


def test_a_table_for_people() -> None:
    text = shown("--strategy", "lora", "--strategy", "zero-shot", "--strategy", "majority", *GPU)
    training, answering = text.split("Answering\n")
    assert training.count("| lora") == 1
    assert "zero-shot" not in training
    assert [answering.count(f"\n| {name}") for name in ("lora", "zero-shot", "majority")] == [1, 1, 1]
    # What the table rests on: the model, the device, the workload, numbers, constants and the price.
    layers = "4 layers of 192, 6 heads, 6 of keys and values, vocabulary 3200 (tied)"
    assert f"- model embedded: 2,385,600 parameters, {layers}\n" in text
    assert "- device: L40S, 45.0 GiB, 362 TFLOP/s in bfloat16 (dense), 864 GB/s (https://" in text
    assert "- workload: batch 2, seq len 24, answer tokens 4, examples 8, epochs 1" in text
    assert "- price: L40S: 1.09 USD per device-hour" in text
    assert "majority: asks no model" in text


def test_json_for_programs(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    assert shown("--strategy", "full", *GPU, "--format", "json", "-o", file) == ""
    plain = json.loads(file.read_text())
    assert plain.keys() == {"assumptions", "plans"}
    (full,) = plain["plans"]
    assert full.keys() == set(Plan.__dataclass_fields__)
    assert full["trainable_params"] == full["total_params"] == 2_385_600
    assert full["artifact_bytes"] == 4 * 2_385_600
    assert full["training_fits"] == full["serving_fits"] == "fits"
    for key in ("training_seconds", "training_usd", "latency_seconds", "seconds_per_1000_requests", "usd_per_1000_requests"):
        assert 0 < full[key]["low"] < full[key]["value"] < full[key]["high"], key
    assert full["training_usd"]["value"] == pytest.approx(full["training_seconds"]["value"] * 1.09 / 3600)
    for key in ("training_memory", "serving_memory"):
        assert full[key]["total_bytes"]["low"] <= full[key]["total_bytes"]["value"] <= full[key]["total_bytes"]["high"]


def test_memory_alone_says_nothing_of_time() -> None:
    found = plans("--strategy", "lora", "--vram", "1")["lora"]
    assert found["training_fits"] == "fits"
    for key in ("training_seconds", "training_usd", "latency_seconds", "seconds_per_1000_requests", "usd_per_1000_requests"):
        assert found[key] is None, key
    assert plans("--strategy", "lora", "--vram", "0.1")["lora"]["training_fits"] == "does not fit"
    assert "price: none, since the device is not known" in shown("--strategy", "zero-shot", "--vram", "1")


def test_options_that_a_strategy_has_are_set_on_it() -> None:
    own = plans("--strategy", "lora", "--strategy", "prompt-tuning", "--strategy", "loha", "--strategy", "full", *GPU)
    options = ["--lora-r", "2", "--virtual-tokens", "7", "--targets", "q_proj,v_proj", "--checkpointing"]
    names = [argument for name in own for argument in ("--strategy", name)]
    found = plans(*names, *options, *GPU)
    assert found["lora"]["trainable_params"] == 4 * 2 * 2 * (192 + 192)
    assert found["prompt-tuning"]["trainable_params"] == 7 * 192
    assert found["loha"]["trainable_params"] < own["loha"]["trainable_params"]
    assert found["full"]["trainable_params"] == own["full"]["trainable_params"]
    assert found["full"]["training_flops"] > own["full"]["training_flops"]  # computed again in the backward pass
    assert plans("--strategy", "lora", "--set", "tuning.r=3", *GPU)["lora"]["trainable_params"] * 8 == own["lora"]["trainable_params"] * 3


def test_types_and_optimizers() -> None:
    base = plans("--strategy", "full", *GPU)["full"]["training_memory"]
    assert plans("--strategy", "full", "--optimizer", "sgd", *GPU)["full"]["training_memory"]["optimizer_bytes"] == 0
    kept = plans("--strategy", "full", "--trained-dtype", "bfloat16", *GPU)["full"]["training_memory"]
    assert kept["optimizer_bytes"] == base["optimizer_bytes"] / 2
    packed, whole = (plans("--strategy", "lora", "--dtype", dtype, *GPU)["lora"] for dtype in ("nf4", "float32"))
    assert packed["serving_memory"]["weights_bytes"] < 0.5 * whole["serving_memory"]["weights_bytes"]


def test_a_device_without_a_price_is_planned_without_dollars(tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    known = {"name": "T4", "unit": "device_hour", "price": 1, "source": "by hand", "as_of": "2026-01-01"}
    disk = {"name": "disk", "price": 1, "source": "by hand", "as_of": "2026-01-01"}
    prices.write_text(json.dumps({"currency": "USD", "devices": [known], "models": [], "storage": disk}))
    text = shown("--strategy", "lora", *GPU, "--prices", prices, "--format", "json")
    (found,) = json.loads(text)["plans"]
    assert found["training_seconds"] is not None
    assert found["training_usd"] is found["usd_per_1000_requests"] is None
    assert 'no price for the device "L40S"' in json.loads(text)["assumptions"][-1]


@pytest.mark.slow
def test_every_preset_is_planned_on_the_embedded_model() -> None:
    found = plans(*GPU)
    assert list(found) == preset_names()
    hosted = found.pop("hosted")
    assert hosted["notes"] == ["is tuned and served by a provider: bench run --dry-run says what that costs"]
    assert hosted["training_memory"] is hosted["serving_memory"] is None
    for name, one in found.items():
        strategy = load_strategy(name)[1]
        trains = strategy.tuning.method not in ("none", "features")
        assert (one["training_memory"] is not None) == trains, name
        assert (one["training_seconds"] is not None) == (one["trainable_params"] > 0) == (strategy.tuning.method != "none"), name
        assert (one["serving_memory"] is None) == (one["usd_per_1000_requests"] is None) == bool(strategy.prompt.constant), name
        for memory in (one["training_memory"], one["serving_memory"]):
            assert memory is None or 0 < memory["total_bytes"]["low"] <= memory["total_bytes"]["value"] <= memory["total_bytes"]["high"], (
                name
            )
        # A preset is told that it asks no model, what is left out of its time or prompts, or what is a guess.
        assert all("guess" in note or "left out" in note or "asks no model" in note for note in one["notes"]), (name, one["notes"])


# ---------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--gpu: is missing; expected a device of the table, --vram GIB, or --calibrate RUN"),
        ([*GPU, "--vram", "8"], "--gpu and --vram: found both, expected one"),
        (["--gpu", "L40T"], 'no device "L40T" in the device table; did you mean "L40'),
        ([*GPU, "--strategy", "lorra"], 'strategy "lorra": no such preset; did you mean "lora"?'),
        ([*GPU, "--strategy", "none.yaml"], "strategy none.yaml: no such file"),
        ([*GPU, "--dtype", "bfloat"], '--dtype: found "bfloat"; did you mean "bfloat16"?'),
        ([*GPU, "--trained-dtype", "float16"], '--trained-dtype: found "float16"; did you mean'),
        ([*GPU, "--optimizer", "adam"], '--optimizer: found "adam"; did you mean "adamw"?'),
        ([*GPU, "--format", "xml"], 'format "xml" is unknown'),
        ([*GPU, "--strategy", "lora", "--answer-tokens", "24"], "--answer-tokens: found 24; expected less than --seq-len, 24"),
        ([*GPU, "--strategy", "lora", "--set", "tuning.rank=3"], "strategy lora: tuning.rank: no such setting"),
        ([*GPU, "--strategy", "lora", "--set", "tuning.r"], "--set tuning.r: expected KEY=VALUE"),
        ([*GPU, "--strategy", "lora", "--set", "tuning.r=[1"], "--set tuning.r=[1: the value is no valid YAML"),
        ([*GPU, "--strategy", "lora", "--targets", "query"], "tuning.targets: "),
        ([*GPU, "--prices", "none.yaml", "--strategy", "lora"], "none.yaml: cannot be read"),
    ],
)
def test_bad_options_are_one_line(arguments: list[str], message: str) -> None:
    assert message in failure(*arguments)


@pytest.mark.parametrize("option", ["--batch", "--seq-len", "--examples", "--trials", "--serve-batch", "--labels", "--lora-r"])
def test_nothing_of_something_is_refused(option: str) -> None:
    result = CliRunner().invoke(app, ["plan", "--model", "embedded", *GPU, option, "0"])
    assert result.exit_code == 2
    assert option in result.output


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "config.json:1: is no valid JSON"),
        ('{"model_type": "lama"}', 'model_type "lama" in its configuration; did you mean "llama"?'),
    ],
)
def test_broken_configurations(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(text)
    assert message in failure(*GPU, "--strategy", "lora", model=file)


def test_models_that_are_not_there(tmp_path: Path) -> None:
    assert "no such folder" in failure(*GPU, "--strategy", "lora", model=tmp_path / "none")
    assert "could not be fetched from the hub" in failure(*GPU, "--strategy", "lora", model="nobody/nothing")


def test_other_kinds_of_models(tmp_path: Path) -> None:
    t5 = T5Config(d_model=64, d_kv=16, num_heads=4, d_ff=128, num_layers=2, vocab_size=320, decoder_start_token_id=0)
    bert = BertConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, vocab_size=320)
    for name, config in {"t5": t5, "bert": bert}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(config.to_dict()))
        found = plans("--strategy", "lora", "--strategy", "full", *GPU, model=tmp_path / f"{name}.json")
        assert 0 < found["lora"]["trainable_params"] < found["full"]["trainable_params"] == found["full"]["total_params"]
    message = failure("--strategy", "p-tuning-v2", *GPU, model=tmp_path / "t5.json")
    assert "in an encoder-decoder model half of peft's prefix is never read" in message
    labelled = plans("--strategy", "full", "--labels", "9", *GPU, model=tmp_path / "bert.json")["full"]
    assert labelled["trainable_params"] - found["full"]["trainable_params"] == 7 * 65


def test_presets_that_do_not_fit_a_model_are_noted_among_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for by name they are an error."""
    monkeypatch.setattr("bench.run.plan_command.preset_names", lambda: ["lora", "prefix-tuning", "zero-shot"])
    t5 = T5Config(d_model=64, d_kv=16, num_heads=4, d_ff=128, num_layers=1, vocab_size=320, decoder_start_token_id=0)
    (tmp_path / "t5.json").write_text(json.dumps(t5.to_dict()))
    found = plans(*GPU, model=tmp_path / "t5.json")
    assert list(found) == ["lora", "prefix-tuning", "zero-shot"]
    assert "half of peft's prefix" in found["prefix-tuning"]["notes"][0]
    assert found["prefix-tuning"]["training_memory"] is None
    assert found["lora"]["training_memory"] is not None


def test_assignments_are_read_as_yaml() -> None:
    assert parse_assignments(["a.b=3", "c=[x, y]", "d=on=off", "e="], "--set") == {"a.b": 3, "c": ["x", "y"], "d": "on=off", "e": None}


# ---------------------------------------------------------------------------------------------------- fitted to runs

PER_OPERATION, LAUNCH = 2e-11, 1e-5
BEFORE = 300_000_000
"""Resident before the model was loaded."""


def item(i: int, latency: float, tokens: int) -> Item:
    return Item(
        id=f"q{i}", cluster="c", input_hash="i", prompt_hash="p", prediction="x", targets=["y"], answerable=True, outcome="incorrect",
        scores={}, tokens=Tokens(prompt=10, completion=tokens), latency_seconds=latency,
    )  # fmt: skip


def record(strategy: str, rows: int, tokens: int, tune: float = 1.0, answer: float = 1.0, peak: int = 10**9, **changes: Any) -> Record:
    """A cell that trained 20 steps of `rows` times `tokens`, four of which were predicted, and answered four questions in two batches."""
    kept = load_strategy(strategy)[1].with_settings({"tuning.batch_size": rows})
    trains = kept.tuning.method != "none"
    training = Training(
        n_steps=20, n_tokens=20 * rows * tokens, n_padded_tokens=20 * rows * tokens, n_target_tokens=20 * rows * 4,
        longest_batch=(rows, tokens),
    )  # fmt: skip
    held = Memory(kind="rss", peak_bytes=peak, baseline_bytes=BEFORE, weights_bytes=0, workspace_bytes=0)
    phases = {"answer": Phase(wall_seconds=9.0, cpu_seconds=answer, flops=1e9 * tokens)}
    if trains:
        phases["tune"] = Phase(wall_seconds=9.0, cpu_seconds=tune, flops=0.0)
    values: dict[str, Any] = {
        "cell_id": f"{strategy}-{rows}", "task": f"task{rows}", "model": "embedded", "strategy": strategy, "seed": 0, "status": "ok",
        "config": {"strategy": kept.model_dump(mode="json"), "dtype": "float32"}, "phases": phases,
        "environment": {"memory_bytes": 8 * 2**30}, "tokens": Tokens(prompt=40, completion=14),
        "training": training if trains else None, "memory": {"tune": held} if trains else {},
    }  # fmt: skip
    return Record(**(values | changes))


RUNS = [("lora", 2, 16), ("full", 4, 24), ("ia3", 8, 48), ("last-layers", 2, 64)]


def run_of(folder: Path, records: list[Record]) -> RunFolder:
    run = RunFolder(folder / "run").create()
    run.write_run(Run(name="run", suite={}, environment={}, started="2026-01-01T00:00:00Z", status="ok"))
    for one in records:
        with run.item_writer(one.task, one.strategy, one.seed, one.cell_id) as writer:
            for i, (latency, tokens) in enumerate([(0.1, 5), (0.1, 5), (0.2, 2), (0.2, 2)]):
                writer.append(item(i, latency, tokens))
            writer.finish()
        run.write_record(one)
    return run


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Four cells that took what known rates say, and held a quarter more than their passing tensors and 50 MB beside."""
    torch.set_num_threads(1)
    made = []
    folder = tmp_path_factory.mktemp("measured")
    counted = trainings([record(*run) for run in RUNS])
    asked = answers(run_of(folder / "draft", [record(*run) for run in RUNS]))
    for run, tuned in zip(RUNS, counted, strict=True):
        answered = next(a for a in asked if a.name == tuned.name)
        peak = round(BEFORE + tuned.lasting_bytes + 1.25 * tuned.passing_bytes + 5e7)
        seconds = [PER_OPERATION * one.operations + LAUNCH * one.n_operations for one in (tuned, answered)]
        made.append(record(*run, tune=seconds[0], answer=3 * seconds[1], peak=peak))
    return run_of(folder, made)


def test_what_was_measured_of_a_training() -> None:
    (found,) = trainings([record("full", 4, 24, tune=7.0)])
    assert found.name == "task4 / full"
    assert (found.context_bytes, found.held_bytes, found.seconds) == (BEFORE, 10**9, 7.0)
    # Weights and two moments in float32; gradients are there or not at the peak of so small a step.
    assert 3 * 4 * 2_385_600 <= found.lasting_bytes <= 4.3 * 4 * 2_385_600
    assert found.operations > 20 * 6 * 4 * 24 * 1_769_472  # 6 per parameter of a layer and token, 4 layers
    (on_gpu,) = trainings([record("full", 4, 24, tune=7.0, environment={"gpu": "NVIDIA L40S"})])
    assert on_gpu.seconds == 9.0  # a device is busy by the wall clock


def test_which_trainings_count() -> None:
    """One seed of each; none that trained nothing; nothing of memory where an embedder lay beside the model."""
    one, other = record("lora", 2, 16), record("lora", 2, 16, seed=1)
    assert len(trainings([one, other, record("zero-shot", 2, 16)])) == 1
    assert trainings([record("dpo", 2, 16)]) == []
    assert trainings([record("lora", 2, 16, memory={})])[0].held_bytes is None
    assert trainings([record("rag-lora", 2, 64)])[0].held_bytes is None


def test_what_was_measured_of_answers(tmp_path: Path) -> None:
    run = run_of(tmp_path, [record("lora", 2, 16, answer=3.0), record("rag", 2, 16), record("zero-shot", 2, 16)])
    found = answers(run)
    assert [one.name for one in found] == ["task2 / lora", "task2 / zero-shot"]
    assert [one.operations for one in found] == [1.6e10, 1.6e10]
    assert found[0].seconds == 3.0
    assert found[0].n_operations > found[1].n_operations
    assert found[1].n_operations % 7 == 0  # two batches, of five tokens and of two


def test_the_planner_is_fitted_to_runs(measured: RunFolder) -> None:
    plain = json.loads(shown("--strategy", "lora", "--calibrate", measured.path, "--format", "json"))
    assert [c["name"] for c in plain["calibration"]["checked"]] == ["task2 / last-layers", "task2 / lora", "task4 / full", "task8 / ia3"]
    for one in plain["calibration"]["checked"]:
        assert one["predicted_seconds"] == pytest.approx(one["seconds"], rel=1e-6)
        assert one["predicted_bytes"] == pytest.approx(one["held_bytes"], rel=1e-3)
    assert len(plain["calibration"]["answered"]) == 4
    (lora,) = plain["plans"]
    assert lora["training_memory"]["context_bytes"] == pytest.approx(BEFORE + 5e7, rel=1e-3)
    total = lora["training_memory"]["total_bytes"]
    assert total["high"] / total["low"] == pytest.approx(1, abs=1e-3)
    assert "numbers: dtype float32, trained float32, optimizer adamw, mixed False" in plain["assumptions"]
    assert any(line.startswith("price: cpu: ") for line in plain["assumptions"])
    text = shown("--strategy", "lora", "--calibrate", measured.path)
    assert "Measured trainings beside what the others predict for them" in text
    assert "8.0 GiB, as fast as the runs measured" in text


def test_a_plan_of_what_was_measured_says_what_was_measured(measured: RunFolder) -> None:
    """The same steps as of the run: 20 of four rows of 24 tokens."""
    arguments = ["--batch", "4", "--seq-len", "24", "--answer-tokens", "4", "--examples", "80", "--epochs", "1"]
    found = plans("--strategy", "full", "--calibrate", measured.path, *arguments)["full"]
    expected = next(r for r in measured.records() if r.strategy == "full")
    assert found["training_seconds"]["value"] == pytest.approx(expected.phases["tune"].cpu_seconds, rel=1e-3)
    assert found["training_memory"]["total_bytes"]["value"] == pytest.approx(expected.memory["tune"].peak_bytes, rel=1e-3)


def test_far_from_all_runs_is_said(measured: RunFolder) -> None:
    found = plans("--strategy", "lora", "--calibrate", measured.path, "--examples", "1000000")["lora"]
    assert found["notes"] == ["more than 100 times the operations of any measured run: an extrapolation"]
    assert plans("--strategy", "lora", "--calibrate", measured.path)["lora"]["notes"] == []


def test_what_does_not_go_with_a_calibration(measured: RunFolder, tmp_path: Path) -> None:
    message = failure("--strategy", "lora", "--calibrate", measured.path, *GPU)
    assert "--calibrate: was measured on cpu, which says nothing about L40S" in message
    few = run_of(tmp_path, [record(*run) for run in RUNS[:2]])
    message = failure("--strategy", "lora", "--calibrate", few.path)
    assert "found 2 trainings with a measured time; expected at least 3" in message
    others = run_of(tmp_path / "other", [record(*run, environment={"gpu": "NVIDIA L40S"}) for run in RUNS[:3]])
    message = failure("--strategy", "lora", "--calibrate", measured.path, "--calibrate", others.path)
    assert "--calibrate: found runs of several devices (NVIDIA L40S, cpu); expected one" in message
    assert f"{tmp_path / 'none'}: no run here" in failure("--calibrate", tmp_path / "none")


def test_runs_of_a_gpu_are_a_share_of_its_peak(tmp_path: Path) -> None:
    """The device is the one that was measured, without being named."""
    environment = {"gpu": "NVIDIA L40S", "memory_bytes": 8 * 2**30}
    run = run_of(tmp_path, [record(*one, environment=environment) for one in RUNS])
    text = shown("--strategy", "lora", "--calibrate", run.path)
    assert f"- device: L40S, {find_device('L40S').memory_bytes / 2**30:.1f} GiB" in text
    assert "- numbers: dtype bfloat16" in text
