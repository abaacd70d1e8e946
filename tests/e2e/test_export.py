"""What a run leaves for use: adapters in peft's format, and exports that answer as the run did."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_command_line import ROOT, bench

from bench.model.source import EMBEDDED_FOLDER
from bench.result.schema import Record
from bench.result.store import RunFolder

TUNING = "epochs: 1, evaluations: 1, learning_rate: 5.0e-3"
STRATEGIES = {
    "rag-lora": f"retrieval: {{search: dense, top_k: 2}}\ntuning: {{method: lora, with_passages: true, {TUNING}}}\n",
    "prompt": f"tuning: {{method: peft, peft: {{peft_type: PROMPT_TUNING, num_virtual_tokens: 4}}, {TUNING}}}\n",
    "houlsby": f"tuning: {{method: bottleneck, {TUNING}}}\n",
    "shots": "prompt: {shots: 2}\n",
    "near": "prompt: {shots: 2, select: nearest}\n",
    "all-weights": f"tuning: {{method: full, {TUNING}}}\n",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    options: list[str | Path] = ["--task", "product_support", "--limit", "6", "--train-examples", "16", "--seeds", "1"]
    for name, text in {**STRATEGIES, "head": "tuning: {method: features}\n"}.items():
        (folder / f"{name}.yaml").write_text(f"description: What {name} is.\n{text}")
        options += ["--strategy", folder / f"{name}.yaml"]
    bench("run", *options, "--results", folder, "--name", "r")
    bench("run", "--task", "ticket_triage", "--limit", "6", "--train-examples", "32", "--strategy", folder / "head.yaml",
          "--results", folder, "--name", "heads")  # fmt: skip
    return folder / "r"


def said(folder: Path, text: str) -> str:
    """What the export's own script answers."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, folder / "answer.py", text], capture_output=True, text=True, env=environment, check=True)
    return done.stdout.strip()


def inputs(task: str, run: Path) -> dict[str, str]:
    from bench.suite import find_task
    from bench.task.load import load_task

    return {e.id: e.input for e in load_task(find_task(task), limit=6).test}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_export_answers_as_the_run_did(run: Path, tmp_path: Path, strategy: str) -> None:
    out = tmp_path / "out"
    bench("export", run, f"product_support/{strategy}", "-o", out)
    item = RunFolder(run).read_items("product_support", strategy, 0)[0]
    assert said(out, inputs("product_support", run)[item.id]) == item.prediction
    card = (out / "README.md").read_text()
    assert f"What {strategy} is." in card
    assert "exact_match" in card
    assert "embedded" in card
    assert json.loads((out / "generation_config.json").read_text())["do_sample"] is False
    assert (out / "adapter").exists() == (strategy in ("rag-lora", "prompt", "houlsby"))
    assert (out / "model").exists() == (strategy == "all-weights")
    assert (out / "stores").exists() == (strategy in ("rag-lora", "near"))


def test_a_merged_export_is_a_plain_model_that_answers_the_same(run: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    out = tmp_path / "out"
    bench("export", run, "product_support/rag-lora/s0", "-o", out, "--merged")
    assert not (out / "adapter").exists()
    network = AutoModelForCausalLM.from_pretrained(out / "model")
    assert not any("lora" in n for n, _ in network.named_parameters())
    item = RunFolder(run).read_items("product_support", "rag-lora", 0)[0]
    assert said(out, inputs("product_support", run)[item.id]) == item.prediction


def test_a_classifier_on_features_is_exported_with_its_head(run: Path, tmp_path: Path) -> None:
    heads, out = run.parent / "heads", tmp_path / "out"
    bench("export", heads, "ticket_triage/head", "-o", out)
    item = RunFolder(heads).read_items("ticket_triage", "head", 0)[0]
    assert said(out, inputs("ticket_triage", heads)[item.id]) == item.prediction


def test_a_kept_adapter_loads_into_the_base_by_peft_alone(run: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = RunFolder(run).cell_folder("product_support", "rag-lora", 0) / "adapter"
    network = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(EMBEDDED_FOLDER), folder)
    moved = [p for n, p in network.named_parameters() if "lora_B" in n]
    assert len(moved) == 28
    assert all(torch.any(p != 0) for p in moved)


def test_the_record_says_whether_the_adapter_can_be_merged_and_that_answers_stay(run: Path) -> None:
    folder = RunFolder(run)

    def merging(strategy: str) -> Record:
        record = folder.read_record("product_support", strategy, 0)
        assert record is not None
        return record

    lora = merging("rag-lora").merging
    assert lora is not None
    assert (lora.n_equal, lora.n_items, lora.reason) == (6, 6, None)
    assert lora.unmerged_seconds
    assert lora.merged_seconds
    prompt = merging("prompt").merging
    assert prompt is not None
    assert prompt.reason
    assert "virtual tokens" in prompt.reason
    assert merging("all-weights").merging is None
    assert merging("shots").merging is None


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("product_support/lorra", "no cell"),
        ("product_support", "expected task/strategy"),
        ("product_support/head", "is skipped"),
    ],
)
def test_what_cannot_be_exported_is_said(run: Path, tmp_path: Path, cell: str, message: str) -> None:
    done = bench("export", run, cell, "-o", tmp_path / "out", code=2)
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_empty_is_left_alone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    assert "is not empty" in bench("export", run, "product_support/shots", "-o", tmp_path, code=2).stderr
    assert [f.name for f in tmp_path.iterdir()] == ["mine.txt"]


def test_training_goes_on_from_the_adapters_of_an_earlier_run(run: Path, tmp_path: Path) -> None:
    strategy = tmp_path / "houlsby.yaml"
    strategy.write_text(STRATEGIES["houlsby"].replace("5.0e-3", "1.0e-9"))  # moves nothing that could be seen
    options: list[str | Path] = ["--task", "product_support", "--limit", "6", "--train-examples", "16", "--seeds", "1"]
    options += ["--strategy", strategy]
    bench("run", *options, "--results", tmp_path, "--name", "again", "--continue-from", run)
    before, after = (RunFolder(r).read_items("product_support", "houlsby", 0) for r in (run, tmp_path / "again"))
    assert [i.prediction for i in after] == [i.prediction for i in before]
    one, other = (RunFolder(r).read_record("product_support", "houlsby", 0) for r in (run, tmp_path / "again"))
    assert one is not None
    assert other is not None
    assert one.cell_id != other.cell_id
    missing = bench("run", *options[:-1], "lora", "--results", tmp_path, "--continue-from", run, code=2)
    assert "has no adapter" in missing.stderr
