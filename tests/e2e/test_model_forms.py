"""Other forms of a model by whole commands: a run's own adapter, few bits, no chat template."""

import shutil
from pathlib import Path

import pytest
from test_command_line import bench

from bench.model.source import EMBEDDED_FOLDER
from bench.result.store import RunFolder

OPTIONS = ["--task", "product_support", "--limit", "8", "--seeds", "1", "--trials", "1", "--no-probes"]
SHORT = ["--train-examples", "32", "--set", "tuning.epochs=2", "--set", "tuning.evaluations=1"]


def test_the_adapter_that_a_run_kept_is_a_model_that_answers_as_its_cell(tmp_path: Path) -> None:
    bench("run", "smoke", *OPTIONS, *SHORT, "--strategy", "lora", "--results", tmp_path, "--name", "first")
    kept = tmp_path / "first/cells/product_support/lora/s0"
    bench("run", "smoke", *OPTIONS, "--model", kept / "adapter", "--strategy", "zero-shot", "--results", tmp_path, "--name", "second")
    first, second = RunFolder(tmp_path / "first"), RunFolder(tmp_path / "second")
    tuned = {i.id: i.prediction for i in first.read_items("product_support", "lora", 0)}
    assert {i.id: i.prediction for i in second.read_items("product_support", "zero-shot", 0)} == tuned
    record = second.read_cell("product_support/zero-shot/s0")
    assert record.model == str(kept / "adapter")
    assert record.config["quantize"] == "none"
    assert "model_revision" not in record.config


def test_few_bits_by_a_flag_and_a_model_without_a_chat_template(tmp_path: Path) -> None:
    model = Path(shutil.copytree(EMBEDDED_FOLDER, tmp_path / "plain"))
    (model / "chat_template.jinja").unlink()
    chosen = ["--strategy", "zero-shot", "--strategy", "full", "--quantize", "int8", "--device", "cpu"]
    done = bench("run", "smoke", *OPTIONS, *chosen, "--model", model, "--results", tmp_path, "--name", "r")
    said = " ".join(done.stdout.split())
    assert said.count("its tokenizer has no chat template, so prompts are plain turns: the message, a line with Answer:") == 1
    run = RunFolder(tmp_path / "r")
    record = run.read_cell("product_support/zero-shot/s0")
    assert (record.config["quantize"], record.config["dtype"], record.environment["device"]) == ("int8", "float32", "cpu")
    assert run.read_cell("product_support/full/s0").status == "skipped"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--revision", "v1"], "--revision: found no --model beside it"),
        (["--revision", "v1", "--model", "embedded"], "--revision: found it with --model embedded"),
        (["--dtype", "bf16"], '--dtype: found "bf16"'),
        (["--quantize", "int4"], '--quantize: found "int4"'),
        (["--device", "mps"], '--device: found "mps"'),
    ],
)
def test_flags_that_do_not_fit_are_one_line(options: list[str], message: str) -> None:
    done = bench("run", "smoke", *options, code=2)
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
