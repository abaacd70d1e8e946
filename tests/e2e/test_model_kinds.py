"""The same presets on models of other kinds, by whole commands."""

from pathlib import Path

import pytest
import torch
from test_command_line import bench
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import DistilBertConfig, DistilBertForMaskedLM, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from bench.result.store import RunFolder
from bench.strategy.spec import preset_names
from bench.suite import find_task
from bench.task.load import load_task

OPTIONS = ["--limit", "4", "--train-examples", "16", "--trials", "1", "--seeds", "1", "--name", "r"]
SHORT = ["--set", "tuning.epochs=1", "--set", "tuning.evaluations=1"]


def tokenizer(folder: Path, task: str) -> int:
    """A word tokenizer of the task's texts with an end token; the number of its words."""
    words = Tokenizer(models.WordLevel(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    texts = [e.input + " " + " ".join(e.targets) for e in load_task(find_task(task)).train]
    words.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=["<pad>", "</s>", "<unk>"]))
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512)
    fast.save_pretrained(folder)
    return words.get_vocab_size()


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-t5")
    size = tokenizer(folder, "product_support")
    torch.manual_seed(0)
    config = T5Config(vocab_size=size, d_model=16, d_kv=4, num_layers=2, num_heads=4, d_ff=32, decoder_start_token_id=0, n_positions=2048)
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def distilbert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-distilbert")
    size = tokenizer(folder, "ticket_triage")
    torch.manual_seed(0)
    DistilBertForMaskedLM(DistilBertConfig(vocab_size=size, dim=32, n_layers=2, n_heads=4, hidden_dim=64)).save_pretrained(folder)
    return folder


def statuses(run: Path) -> dict[str, tuple[str, str]]:
    return {r.strategy: (r.status, r.error or "") for r in RunFolder(run).records()}


def test_an_encoder_decoder_model_runs_what_makes_sense(t5: Path, tmp_path: Path) -> None:
    chosen = ["zero-shot", "few-shot", "rag-lexical", "lora", "ia3", "bottleneck", "last-layers", "full", "raft", "dpo", "lora-documents"]
    strategies = [part for name in chosen for part in ("--strategy", name)]
    bench("run", "--model", t5, "--task", "product_support", *strategies, *OPTIONS, *SHORT, "--results", tmp_path)
    found = statuses(tmp_path / "r")
    assert {n for n, (status, _) in found.items() if status == "ok"} == set(chosen) - {"dpo", "lora-documents"}
    assert found["dpo"] == ("skipped", "preference training is for causal models")


def test_an_encoder_classifies_and_says_what_it_cannot(distilbert: Path, tmp_path: Path) -> None:
    """Every preset of the catalogue ends as ok or as skipped with a reason, but for the prefixes that this encoder does not take."""
    targets = tmp_path / "attention.yaml"
    targets.write_text("tuning: {method: lora, targets: [q_lin, v_lin]}\n")
    prefixes = {"prefix-tuning", "p-tuning-v2"}
    chosen = [name for name in preset_names() if name not in prefixes]
    strategies = [part for name in (*chosen, targets) for part in ("--strategy", name)]
    bench("run", "--model", distilbert, "--task", "ticket_triage", *strategies, *OPTIONS, *SHORT, "--results", tmp_path)
    found = statuses(tmp_path / "r")
    assert all(status == "ok" or (status == "skipped" and reason) for status, reason in found.values())
    assert {"features", "lora", "full", "attention", "bitfit", "majority", "last-layers"} <= {n for n, (s, _) in found.items() if s == "ok"}
    assert {"zero-shot", "few-shot", "few-shot-lora", "grpo"} <= {n for n, (s, _) in found.items() if s == "skipped"}
    record = RunFolder(tmp_path / "r").read_record("ticket_triage", "attention", 0)
    assert record is not None
    assert record.params is not None
    labels = len(load_task(find_task("ticket_triage")).labels)
    # two layers, queries and values, rank 8; and the head: a dense layer and the labels
    assert record.params.trainable == 2 * 2 * 8 * (32 + 32) + (32 * 32 + 32) + (32 * labels + labels)


def test_an_encoder_has_no_answer_to_a_question(tmp_path: Path) -> None:
    bench("run", "--model", "all-MiniLM-L6-v2", "--task", "product_support", "--strategy", "lora", *OPTIONS, "--results", tmp_path)
    assert statuses(tmp_path / "r")["lora"] == ("skipped", "an encoder with a classification head answers classification tasks only")
