"""Tiny models of inference on disk: their probabilities are set by hand, or follow a rule that a test can compute."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *["the", "cat", "dog", "sat", "ran", "red", "blue", "color", "of", "box", "is", "."]]

RULE = '''
import torch
from transformers import PretrainedConfig, PreTrainedModel


class RuleConfig(PretrainedConfig):
    model_type = "rule"


class RuleModel(PreTrainedModel):
    """Scores a pair by the share of the hypothesis' words that stand in the premise."""

    config_class = RuleConfig
    all_tied_weights_keys = {}

    def __init__(self, config):
        super().__init__(config)
        self.weight = torch.nn.Parameter(torch.ones(1))

    def predict(self, pairs):
        return torch.tensor([sum(w in p.split() for w in h.split()) / len(h.split()) for p, h in pairs])
'''


def save_tokenizer(folder: Path) -> None:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    special = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)


def bert(folder: Path, labels: list[str], bias: list[float] | None = None) -> Path:
    """A BERT with two random layers; with a `bias`, its head has no weights, and the logits are the bias for any input."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=24,
        num_labels=len(labels), id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)},
    )  # fmt: skip
    network = BertForSequenceClassification(config)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if "weight" in name and value.dim() == 2:
                value.mul_(10)  # far enough from zero that different inputs get different answers
        if bias is not None:
            network.classifier.weight.zero_()
            network.classifier.bias.copy_(torch.tensor(bias))
    network.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def rule(folder: Path) -> Path:
    """A model with code of its own that scores pairs itself, in the form of HHEM-2.1-Open."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rule_model.py").write_text(RULE)
    auto = {"AutoConfig": "rule_model.RuleConfig", "AutoModelForSequenceClassification": "rule_model.RuleModel"}
    (folder / "config.json").write_text(json.dumps({"model_type": "rule", "architectures": ["RuleModel"], "auto_map": auto}))
    save_file({"weight": torch.ones(1)}, folder / "model.safetensors", {"format": "pt"})
    return folder
