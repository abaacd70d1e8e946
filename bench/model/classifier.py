"""An encoder with a classification head: the answer is the most likely of the labels, and no text is generated."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging

from bench.errors import BenchError
from bench.model.conversation import Message
from bench.model.decoding import runner_up
from bench.model.language_model import Generation, LanguageModel
from bench.model.source import ModelSource


def beside_body(network: Any) -> tuple[str, ...]:
    """The names of the parts of a classifier that are no part of its encoder: its head."""
    body = network.base_model_prefix
    return tuple(name for name, module in network.named_children() if name != body and any(True for _ in module.parameters()))


class Classifier(LanguageModel):
    """A BERT-like encoder (Devlin et al. 2019) under a linear head over the labels, as transformers builds it for the architecture.

    For BERT the head reads the pooler's output at the first token. Sentence encoders such as all-MiniLM-L6-v2 carry the
    pooler of the model that they were made from, though they were trained with the mean over tokens instead. It is kept: with
    everything trained, a head on the mean was no better within the error (77 labels, 2,700 examples).
    """

    kind_name: ClassVar[str] = "classifier over an encoder"
    auto_class: ClassVar[Any] = AutoModelForSequenceClassification
    peft_task: ClassVar[str] = "SEQ_CLS"
    reads_instruction: ClassVar[bool] = False

    def __init__(self, source: ModelSource, labels: Sequence[str], *, device: str | None = None, trust_remote_code: bool = False) -> None:
        """Load the encoder and draw a head for `labels`, in their order. Raises `BenchError` for fewer than two or repeated labels."""
        if len(labels) < 2 or len(set(labels)) != len(labels):
            raise BenchError(f"model {source.name}: found labels {list(labels)}; an encoder needs two or more, each once")
        if source.kind != "encoder":
            raise BenchError(f"model {source.name}: is {source.kind}; a classification head needs an encoder")
        self.labels = tuple(labels)
        super().__init__(source, device=device, trust_remote_code=trust_remote_code)
        self.reset_head(0)

    def _load(self, **arguments: Any) -> Any:
        level = logging.get_verbosity()
        logging.set_verbosity_error()  # that the head's weights are new is meant so
        try:
            network, info = self.auto_class.from_pretrained(
                self.source.folder, num_labels=len(self.labels), ignore_mismatched_sizes=True, output_loading_info=True, **arguments
            )
        finally:
            logging.set_verbosity(level)
        beside = beside_body(network)
        missing = {name.rpartition(".")[0] for name in info["missing_keys"] if name.partition(".")[0] not in beside}
        if lacking := sorted(name for name in missing if ".pooler." not in name + "."):  # a checkpoint made without a pooler is whole
            raise ValueError(f"the checkpoint lacks weights of {len(lacking)} modules, {lacking[0]} for one")
        self.new_modules = (*beside, *sorted(missing))
        return network

    def _decode_greedily(self) -> None:
        pass  # generates nothing

    def _window(self) -> int:
        # RoBERTa and its kin count positions from the padding index on.
        tables = [m for n, m in self.network.named_modules() if n.endswith("position_embeddings") and isinstance(m, nn.Embedding)]
        reserved = next((t.padding_idx + 1 for t in tables if t.padding_idx is not None), 0)
        return min(super()._window() - reserved, int(self.tokenizer.model_max_length))

    def reset_head(self, seed: int) -> None:
        """Draw the weights that no pretraining has set: matrices from a normal distribution as in the encoder's own
        initialisation (`initializer_range`), biases zero. Call this before anything wraps `network`.

        A head that a checkpoint brings along belongs to other labels, so it is drawn anew too.
        """
        draw = torch.Generator().manual_seed(seed)
        deviation = getattr(self.network.config, "initializer_range", 0.02)
        with torch.no_grad():
            for name in self.new_modules:
                for module in self.network.get_submodule(name).modules():
                    if isinstance(module, nn.Linear):
                        module.weight.copy_(torch.normal(0.0, deviation, module.weight.shape, generator=draw))
                        if module.bias is not None:
                            module.bias.zero_()
                    elif hasattr(module, "reset_parameters"):
                        module.reset_parameters()

    @property
    def decoding(self) -> dict[str, Any]:
        """How answers are chosen; part of the cell id."""
        return {"format": "classifier", "labels": list(self.labels)}

    def positions(self, pair: tuple[list[int], int]) -> int:
        """How much of the window a row takes: its label takes none."""
        return pair[1]

    # ------------------------------------------------------------------------------------------ text to tokens

    def prompts_ids(self, conversations: Sequence[Sequence[Message]]) -> list[list[int]]:
        """Token ids of the last user turn of each, which is the input alone, cut at the window's end."""
        texts = [next(m["content"] for m in reversed(messages) if m["role"] == "user") for messages in conversations]
        return [list(ids) for ids in self.tokenizer(texts, truncation=True, max_length=self.window)["input_ids"]] if texts else []

    def training_ids(self, messages: Sequence[Message], answer: str) -> tuple[list[int], int]:
        """Token ids of the input with the index of its label behind them, and how many of them are input."""
        if answer not in self.labels:
            raise BenchError(f'a training example has the label "{answer}"; expected one of {", ".join(self.labels)}')
        ids = self.prompt_ids(messages)
        return [*ids, self.labels.index(answer)], len(ids)

    def text_ids(self, text: str) -> tuple[list[int], int]:
        """Raises `BenchError`: a classifier predicts no text."""
        raise BenchError(f"model {self.source.name}: a classifier cannot be trained on plain text")

    # ------------------------------------------------------------------------------------------ training and answers

    def loss(self, pairs: Sequence[tuple[list[int], int]], weights: Sequence[float] | None = None) -> torch.Tensor:
        """Mean cross-entropy of the labels of (token ids and label index, input length) rows, in nats; `weights`: one per row."""
        targets = torch.tensor([ids[n] for ids, n in pairs], device=self.device)
        each = torch.ones(len(pairs), device=self.device) if weights is None else torch.tensor(weights, device=self.device)
        nats = functional.cross_entropy(self._logits([ids[:n] for ids, n in pairs]), targets, reduction="none")
        return (nats * each).sum() / each.sum()

    def generate(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, skip: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Generation]]]:
        """The most likely label of each prompt (`max_new_tokens` has no meaning here); yields batches of (index, answer), longest first.

        `logprob` is that of the label. A batch whose prompts are all in `skip` is left out.
        """
        lengths = [len(p) for p in prompts]
        if lengths and max(lengths) > self.window:
            raise BenchError(f"a prompt of {max(lengths)} tokens exceeds the model's window of {self.window}")

        def work(batch: list[int]) -> Any:
            with torch.inference_mode(), self.autocast():
                logprobs = self._logits([prompts[i] for i in batch]).log_softmax(-1)
                best = logprobs.max(-1)
                return best.indices.tolist(), best.values.tolist(), (best.values - runner_up(logprobs, best.indices)).tolist()

        for batch, found, seconds in self.batcher.run(lengths, work, skip):
            yield [
                (i, Generation(self.labels[label], logprob, lengths[i], 0, 0, seconds, logit_margin=lead))
                for i, label, logprob, lead in zip(batch, *found, strict=True)
            ]

    def _logits(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Scores of the labels in float32: shape (rows, labels)."""
        ids, mask = self.padded(rows)
        logits: torch.Tensor = self.network(input_ids=ids, attention_mask=mask).logits
        return logits.float()
