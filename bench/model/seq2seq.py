"""An encoder-decoder model: the encoder reads the prompt, the decoder writes the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from transformers import AutoModelForSeq2SeqLM, LogitsProcessorList

from bench.errors import BenchError
from bench.model.language_model import IGNORED, GreedyLogprob, LanguageModel, Message, mean_nats


class Seq2SeqModel(LanguageModel):
    """A T5-like or BART-like model (Raffel et al. 2020; Lewis et al. 2020).

    Prompts take the same form as a causal model's without a chat template, shots and all. A prompt and its answer share
    the window here too, which is stricter than the architecture: encoder and decoder count their positions apart.
    """

    kind_name: ClassVar[str] = "sequence-to-sequence model"
    auto_class: ClassVar[Any] = AutoModelForSeq2SeqLM
    peft_task: ClassVar[str] = "SEQ_2_SEQ_LM"

    def _decode_greedily(self) -> None:
        own = self.network.generation_config
        super()._decode_greedily()
        greedy = self.network.generation_config
        # What the decoder begins with (T5's padding token, the target language of mBART) belongs to the model's form.
        for name in ("bos_token_id", "decoder_start_token_id", "forced_bos_token_id"):
            token = getattr(own, name, None)
            setattr(greedy, name, token if token is not None else getattr(self.network.config, name, None))
        if greedy.decoder_start_token_id is None and greedy.bos_token_id is None:
            raise BenchError(f"model {self.source.name}: its configuration names no decoder_start_token_id; expected a token id")

    def _window(self) -> int:
        found = super()._window()
        # T5 has relative positions and no limit of its own; its tokenizer names the length that it was trained with.
        return min(found, int(self.tokenizer.model_max_length)) if found == 1 << 20 else found

    # ------------------------------------------------------------------------------------------ text to tokens

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids that the encoder reads, closed by an end token where the tokenizer sets one."""
        return self._ids(self._text(messages))

    def training_ids(self, messages: Sequence[Message], answer: str) -> tuple[list[int], int]:
        """Token ids for the encoder, then those that the decoder has to write with their end token; how many the encoder reads."""
        prompt = self.prompt_ids(messages)
        ids = list(self.tokenizer(text_target=answer)["input_ids"])
        if ids[-1:] and ids[-1] in self.end_ids:
            return [*prompt, *ids], len(prompt)
        return [*prompt, *ids, min(self.end_ids)], len(prompt)

    def text_ids(self, text: str) -> tuple[list[int], int]:
        """Raises `BenchError`: an encoder-decoder model learns answers to inputs, and a plain text has neither."""
        raise BenchError(f"model {self.source.name}: a sequence-to-sequence model cannot be trained on plain text")

    # ------------------------------------------------------------------------------------------ training and answers

    def loss(self, pairs: Sequence[tuple[list[int], int]], weights: Sequence[float] | None = None) -> torch.Tensor:
        """Mean cross-entropy over the answers' tokens of (token ids, encoder length) rows, in nats; `weights`: of each row's tokens."""
        ids, mask = self.padded([row[:n] for row, n in pairs])
        width = max(len(row) - n for row, n in pairs)
        labels = torch.tensor([row[n:] + [IGNORED] * (width - len(row) + n) for row, n in pairs], device=self.device)
        # The model shifts the labels itself to get what the decoder reads; soft prompts may come before them in the logits.
        logits = self.network(input_ids=ids, attention_mask=mask, labels=labels).logits[:, -width:]
        return mean_nats(logits, labels, weights)

    def _shared_length(self, prompts: Sequence[Sequence[int]]) -> int:
        return 0  # in an encoder every position sees the whole prompt, so no part of it can be computed for all

    @torch.inference_mode()
    def _batch(
        self, prompts: list[Sequence[int]], shared: int, prefix: list[tuple[torch.Tensor, torch.Tensor]] | None, max_new_tokens: int
    ) -> list[tuple[str, float, int]]:
        ids, mask = self.padded(prompts)
        logprobs = GreedyLogprob()
        with self.autocast():
            out = self.network.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=max_new_tokens, logits_processor=LogitsProcessorList([logprobs])
            )
        answers = []
        for row, values in zip(out[:, 1:].tolist(), torch.stack(logprobs.steps, 1).tolist(), strict=True):
            n = next((i + 1 for i, token in enumerate(row) if token in self.end_ids), len(row))
            answers.append((self.tokenizer.decode(row[:n], skip_special_tokens=True).strip(), float(sum(values[:n])), n))
        return answers
