"""Encoders with a classification head: tiny random ones, and the real sentence encoder of an installed package."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
)

from bench.errors import BenchError
from bench.model.classifier import Classifier
from bench.model.language_model import LanguageModel
from bench.model.load import load_model
from bench.model.source import locate
from bench.strategy.adapters import artifact_bytes, parameter_counts, wrap
from bench.strategy.spec import TuningChoice
from bench.strategy.tuning import tune

LABELS = ("billing", "delivery", "other")
WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *(f"n{i}" for i in range(30))]


def save(network: PreTrainedModel, folder: Path, **settings: Any) -> Path:
    network.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    PreTrainedTokenizerFast(tokenizer_object=words, **names, **settings).save_pretrained(folder)
    return folder


def bert_config() -> BertConfig:
    return BertConfig(
        vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, max_position_embeddings=20,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return save(BertModel(bert_config()), tmp_path_factory.mktemp("bert"))


@pytest.fixture
def model(bert: Path) -> Any:
    return load_model(locate(str(bert)), labels=LABELS)


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def pairs(model: Any, n: int = 8) -> list[tuple[list[int], int]]:
    return [model.training_ids(ask(f"n{i} n{i + 8}" + " n29" * (i % 3)), LABELS[i % 3]) for i in range(n)]


def answers(model: Any, prompts: list[list[int]], skip: tuple[int, ...] = ()) -> dict[int, Any]:
    return dict(pair for batch in model.generate(prompts, 5, skip=skip) for pair in batch)


def share_right(model: Any, rows: list[tuple[list[int], int]]) -> float:
    found = answers(model, [ids[:n] for ids, n in rows])
    return sum(found[i].text == model.labels[ids[n]] for i, (ids, n) in enumerate(rows)) / len(rows)


def test_the_kind_decides_the_class(model: Any) -> None:
    assert type(model) is Classifier
    assert (model.source.kind, model.reads_instruction, model.window) == ("encoder", False, 20)
    assert model.new_modules == ("classifier",)
    assert model.decoding == {"format": "classifier", "labels": list(LABELS)}


def test_a_prompt_is_the_input_alone_cut_at_the_window(model: Any) -> None:
    turns = [*ask("n1 n2"), {"role": "assistant", "content": "billing"}, *ask("n3 n4")]
    assert model.tokenizer.convert_ids_to_tokens(model.prompt_ids(turns)) == ["[CLS]", "n3", "n4", "[SEP]"]
    long = model.prompt_ids(ask("n5 " * 50))
    assert len(long) == 20
    assert long[-1] == 2


def test_training_ids_end_with_the_index_of_the_label(model: Any) -> None:
    ids, n = model.training_ids(ask("n1 n2"), "delivery")
    assert (ids[:n], ids[n:]) == (model.prompt_ids(ask("n1 n2")), [1])
    full = model.training_ids(ask("n5 " * 50), "other")
    assert model.positions(full) == 20


def test_the_loss_is_the_mean_over_rows(model: Any) -> None:
    batch = pairs(model, 4)
    with torch.no_grad():
        each = [
            -model.network(input_ids=torch.tensor([ids[:n]]), token_type_ids=torch.zeros(1, n, dtype=torch.long)).logits[0]
            .log_softmax(-1)[ids[n]].item()
            for ids, n in batch
        ]  # fmt: skip
        assert model.loss(batch).item() == pytest.approx(sum(each) / 4, abs=1e-5)
        weights = [1.0, 3.0, 0.0, 0.5]
        expected = sum(w * e for w, e in zip(weights, each, strict=True)) / 4.5
        assert model.loss(batch, weights).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("choice", "moves"),
    [
        (TuningChoice(method="full", learning_rate=3e-3), "encoder.layer.0.attention.self.query.weight"),
        (TuningChoice(method="lora", learning_rate=2e-2, targets=["query", "value"]), "query.lora_A"),
    ],
)
def test_training_fits_eight_examples(model: Any, choice: TuningChoice, moves: str) -> None:
    model.reset_head(0)
    wrap(model, choice, 0)
    rows = pairs(model)
    before = model.loss(rows).item()
    tuned = tune(model, choice.model_copy(update={"epochs": 40, "batch_size": 4}), rows, lambda: share_right(model, rows), 0)
    assert tuned.validation_score == share_right(model, rows) == 1.0
    assert model.loss(rows).item() < 0.7 * before
    assert any(moves in name for name in tuned.weights)
    assert any("classifier" in name for name in tuned.weights)
    assert tuned.flops > 0
    total, trainable = parameter_counts(model, trained=True)
    assert (trainable == total) == (choice.method == "full")
    assert artifact_bytes(model) >= 4 * trainable


def test_an_answer_does_not_depend_on_its_batch_and_has_its_labels_probability(model: Any) -> None:
    prompts = [model.prompt_ids(ask("n1 " * (1 + i % 7) + f"n{i}")) for i in range(12)]
    together = answers(model, prompts)
    for i, prompt in enumerate(prompts):
        alone, g = answers(model, [prompt])[0], together[i]
        assert (g.text, g.prompt_tokens, g.cached_tokens, g.completion_tokens) == (alone.text, len(prompt), 0, 0)
        assert g.logprob == pytest.approx(alone.logprob, abs=1e-5)
        with torch.no_grad():
            logits = model.network(input_ids=torch.tensor([prompt])).logits[0]
        assert g.text == LABELS[int(logits.argmax())]
        assert g.logprob == pytest.approx(logits.log_softmax(-1).max().item(), abs=1e-5)
        second, best = sorted(logits.tolist())[-2:]
        assert g.logit_margin == pytest.approx(best - second, abs=1e-5)


def test_skipped_batches_leave_the_others_as_they_were(model: Any) -> None:
    prompts = [model.prompt_ids(ask("n1 " * (1 + i % 7))) for i in range(100)]
    batches = list(model.generate(prompts, 1))
    assert len(batches) == 2
    lengths = [g.prompt_tokens for batch in batches for _, g in batch]
    assert lengths == sorted(lengths, reverse=True)
    rest = answers(model, prompts, skip=tuple(i for i, _ in batches[0]))
    assert [(i, g.logprob) for i, g in rest.items()] == [(i, g.logprob) for i, g in batches[1]]
    assert answers(model, []) == {}


def test_the_seed_draws_the_head_and_nothing_else(bert: Path) -> None:
    one, two = (load_model(locate(str(bert)), labels=LABELS) for _ in range(2))
    assert torch.equal(one.network.classifier.weight, two.network.classifier.weight)
    two.reset_head(1)
    different = [n for n, p in one.network.named_parameters() if not torch.equal(p, two.network.get_parameter(n))]
    assert different == ["classifier.weight"]
    assert two.network.classifier.weight.std().item() == pytest.approx(0.02, rel=0.3)
    two.reset_head(0)
    assert torch.equal(one.network.classifier.weight, two.network.classifier.weight)


def test_a_head_for_other_labels_is_replaced(tmp_path: Path) -> None:
    config = bert_config()
    config.num_labels = 3
    network = BertForSequenceClassification(config)
    with torch.no_grad():
        network.classifier.weight.fill_(7.0)
    save(network, tmp_path)
    for labels in (LABELS, ("yes", "no")):
        model = load_model(locate(str(tmp_path)), labels=labels)
        assert model.network.classifier.weight.abs().max() < 1
        assert model.network.classifier.out_features == len(labels)
    assert torch.equal(model.network.bert.encoder.layer[0].output.dense.weight, network.bert.encoder.layer[0].output.dense.weight)


def test_every_weight_that_the_checkpoint_lacks_is_new(tmp_path: Path) -> None:
    no_pooler = load_model(locate(str(save(BertModel(bert_config(), add_pooling_layer=False), tmp_path / "a"))), labels=LABELS)
    assert no_pooler.new_modules == ("classifier", "bert.pooler.dense")
    before = no_pooler.network.bert.pooler.dense.weight.clone()
    no_pooler.reset_head(5)
    assert not torch.equal(no_pooler.network.bert.pooler.dense.weight, before)
    config = DistilBertConfig(vocab_size=len(WORDS), dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=20)
    distilled = load_model(locate(str(save(DistilBertModel(config), tmp_path / "b"))), labels=LABELS)
    assert distilled.new_modules == ("pre_classifier", "classifier")
    rows = pairs(distilled)
    assert set(answers(distilled, [ids[:n] for ids, n in rows])) == set(range(8))


def test_positions_that_start_behind_the_padding_index(tmp_path: Path) -> None:
    config = RobertaConfig(
        vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64, max_position_embeddings=22,
        pad_token_id=0,
    )  # fmt: skip
    model = load_model(locate(str(save(RobertaModel(config), tmp_path))), labels=LABELS)
    assert model.window == 21
    assert answers(model, [model.prompt_ids(ask("n1 " * 50))])[0].prompt_tokens == 21


def test_a_checkpoint_that_lacks_a_layer_is_refused(bert: Path, tmp_path: Path) -> None:
    shutil.copytree(bert, tmp_path, dirs_exist_ok=True)
    weights = load_file(bert / "model.safetensors")
    save_file({n: w for n, w in weights.items() if ".layer.1." not in n}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(BenchError, match=r"lacks weights of \d+ modules, bert\.encoder\.layer\.1"):
        load_model(locate(str(tmp_path)), labels=LABELS)


def test_loading_says_nothing_of_new_weights(bert: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_model(locate(str(bert)), labels=LABELS)
    out = capfd.readouterr()
    assert "classifier" not in out.out + out.err


@pytest.mark.parametrize(
    ("labels", "message"),
    [((), r"found labels \[\]"), (("a",), r"found labels \['a'\]"), (("a", "b", "a"), "expected two or more|each once")],
)
def test_labels_that_make_no_head(bert: Path, labels: tuple[str, ...], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        load_model(locate(str(bert)), labels=labels)


def test_bad_input(model: Any, bert: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match='label "zek"; expected one of billing, delivery, other'):
        model.training_ids(ask("n1"), "zek")
    with pytest.raises(BenchError, match="prompt of 21 tokens exceeds the model's window of 20"):
        answers(model, [[5] * 21])
    with pytest.raises(BenchError, match="cannot be trained on plain text"):
        model.text_ids("n1")
    with pytest.raises(BenchError, match=r"tuning\.quantize is nf4; an encoder"):
        load_model(locate(str(bert)), labels=LABELS, quantize="nf4")
    with pytest.raises(BenchError, match="embedded: is causal; a classification head needs an encoder"):
        Classifier(locate("embedded"), LABELS)
    with pytest.raises(BenchError, match=r"could not be loaded as a causal language model \(the checkpoint lacks"):
        LanguageModel(locate(str(bert)))
    broken = Path(shutil.copytree(bert, tmp_path / "broken"))
    (broken / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"], "hidden_size": "wide"}')
    with pytest.raises(BenchError, match="could not be loaded as a classifier over an encoder"):
        load_model(locate(str(broken)), labels=LABELS)


def test_the_packaged_sentence_encoder_learns_a_few_labels() -> None:
    model = load_model(locate("all-MiniLM-L6-v2"), labels=LABELS)
    assert model.new_modules == ("classifier",)
    texts = {
        "billing": ["I was charged twice", "my invoice shows a wrong amount", "please refund my payment"],
        "delivery": ["my parcel has not arrived", "when will the package be shipped", "the courier lost my order"],
        "other": ["what is your favourite song", "tell me a joke", "how old are you"],
    }
    rows = [model.training_ids(ask(text), label) for label, some in texts.items() for text in some]
    choice = TuningChoice(method="full", learning_rate=2e-4, epochs=6, evaluations=1)
    wrap(model, choice, 0)
    tune(model, choice, rows, lambda: share_right(model, rows), 0)
    asked = {"the bill is too high and I want my money back": "billing", "the shipment is late": "delivery", "do you like to sing": "other"}
    found = answers(model, [model.prompt_ids(ask(text)) for text in asked])
    assert [found[i].text for i in range(3)] == list(asked.values())
