"""An encoder-decoder model: the encoder reads the prompt, the decoder writes the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from transformers import AutoModelForSeq2SeqLM, LogitsProcessorList

from bench.errors import BenchError
from bench.model.conversation import Message
from bench.model.language_model import IGNORED, Answer, GreedyLogprob, LanguageModel


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

    def _open(self, ids: list[int], plain: bool = False) -> list[int]:
        return ids  # what the encoder reads may be closed by an end token

    def option_ids(
        self, conversations: Sequence[Sequence[Message]], prompts: Sequence[Sequence[int]], options: Sequence[Sequence[str]]
    ) -> list[list[list[int]]]:
        """Token ids of each option as the decoder writes it, without an end token."""
        rows = [[list(self.tokenizer(text_target=option)["input_ids"]) for option in each] for each in options]
        return [[ids[:-1] if ids[-1] in self.end_ids else ids for ids in each] for each in rows]

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

    def completion_logits(self, pairs: Sequence[tuple[Sequence[int], int]]) -> tuple[torch.Tensor, torch.Tensor]:
        # Of a pair the encoder reads the prompt, and the decoder writes the rest.
        ids, mask = self.padded([row[:n] for row, n in pairs])
        width = max(len(row) - n for row, n in pairs)
        labels = torch.tensor([[*row[n:], *[IGNORED] * (width - len(row) + n)] for row, n in pairs], device=self.device)
        # The model shifts the labels itself to get what the decoder reads; soft prompts may come before them in the logits.
        return self.network(input_ids=ids, attention_mask=mask, labels=labels).logits[:, -width:], labels

    def _prefix(self, prompts: Sequence[Sequence[int]], after: Sequence[int]) -> None:
        """None: in an encoder every position sees the whole prompt, so no part of it can be computed for all."""
        super()._prefix(prompts, after)

    def _batch(self, prompts: list[Sequence[int]], max_new_tokens: int) -> list[Answer]:
        ids, mask = self.padded(prompts)
        logprobs = GreedyLogprob()
        out = self.network.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=max_new_tokens, logits_processor=LogitsProcessorList([logprobs])
        )
        rows = out[:, 1:].tolist()
        lengths = [next((i + 1 for i, token in enumerate(row) if token in self.end_ids), len(row)) for row in rows]
        texts = [self.tokenizer.decode(row[:n], skip_special_tokens=True).strip() for row, n in zip(rows, lengths, strict=True)]
        found = logprobs.of_answers(lengths)
        return [Answer(text, logprob, n, margin) for text, n, (logprob, margin) in zip(texts, lengths, found, strict=True)]
