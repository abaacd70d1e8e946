"""A causal language model in Hugging Face format: chat rendering, and greedy answers in batches over a shared prefix."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, GenerationConfig, LogitsProcessor, LogitsProcessorList

from bench.errors import BenchError
from bench.model.source import ModelSource

Message = dict[str, str]
"""``{"role": "user" | "assistant", "content": text}``"""

MIN_SHARED_PREFIX = 16
BATCH_TOKENS = 8192
MAX_BATCH = 64


@dataclass(frozen=True)
class Generation:
    """One greedy answer. Token counts never include padding; `prompt_tokens` includes `cached_tokens`."""

    text: str
    logprob: float | None
    """Sum of the natural log-probabilities of the generated tokens, the end token included."""
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    latency_seconds: float


class _GreedyLogprob(LogitsProcessor):
    """Sums the log-probability of each step's most likely token, which is what greedy decoding takes."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.steps.append(scores.max(-1).values.float() - torch.logsumexp(scores.float(), -1))
        return scores


class LanguageModel:
    """A loaded base model with its tokenizer; `network` may later be wrapped by an adapter."""

    def __init__(self, source: ModelSource, *, device: str | None = None, trust_remote_code: bool = False) -> None:
        self.source = source
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        # On a GPU 16-bit weights run as bfloat16: training in float16 needs loss scaling.
        dtype = torch.float32 if self.device.type == "cpu" else torch.bfloat16
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(source.folder, trust_remote_code=trust_remote_code)
            network: Any = AutoModelForCausalLM.from_pretrained(
                source.folder, dtype=dtype, use_safetensors=True, trust_remote_code=trust_remote_code
            )
        except (OSError, ValueError, KeyError, ImportError) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise BenchError(f"model {source.name}: {source.folder} could not be loaded as a causal language model ({first})") from error
        self.network: Any = network.to(self.device).eval()
        self.end_ids = self._end_ids()
        # A field left unset in the config of a call is filled in from the model's own; this one has nothing to fill in but greedy.
        self.network.generation_config = GenerationConfig(
            do_sample=False, num_beams=1, eos_token_id=sorted(self.end_ids), pad_token_id=self.pad_id, use_cache=True
        )
        positions = getattr(network.config, "max_position_embeddings", None) or getattr(network.config, "n_positions", None)
        self.window: int = int(positions) if positions else 1 << 20
        self.shared_prefix = True
        """Whether the prompts' common prefix is computed once; an adapter with virtual tokens turns it off."""

    def _end_ids(self) -> frozenset[int]:
        found: set[int] = set()
        for ids in (self.network.generation_config.eos_token_id, self.network.config.eos_token_id, self.tokenizer.eos_token_id):
            found.update(ids if isinstance(ids, list) else [] if ids is None else [ids])
        return frozenset(found)

    @property
    def pad_id(self) -> int:
        """A token to fill up with; it is masked, so any id will do where the tokenizer names none."""
        return int(self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else min(self.end_ids, default=0))

    @property
    def decoding(self) -> dict[str, Any]:
        """How answers are generated; part of the cell id."""
        chat = "chat_template" if self.tokenizer.chat_template else "plain"
        return {"do_sample": False, "num_beams": 1, "format": chat, "end_ids": sorted(self.end_ids)}

    # ------------------------------------------------------------------------------------------ text to tokens

    def _text(self, messages: Sequence[Message]) -> str:
        """The conversation as text; where the last turn is the user's, with the start of an answer."""
        asks = messages[-1]["role"] == "user"
        if self.tokenizer.chat_template:
            return str(
                self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=asks, enable_thinking=False)
            )
        parts = [m["content"] + "\nAnswer:" if m["role"] == "user" else f" {m['content']}\n\n" for m in messages]
        return "".join(parts)

    def _ids(self, text: str) -> list[int]:
        # A chat template writes the special tokens itself; plain text gets the tokenizer's own.
        return list(self.tokenizer(text, add_special_tokens=not self.tokenizer.chat_template)["input_ids"])

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation that ends with a user turn, up to where the answer begins."""
        ids = self._ids(self._text(messages))
        # Tokenizers that close every text with an end token would end the answer before it begins.
        return ids[:-1] if ids and ids[-1] in self.end_ids and not self.tokenizer.chat_template else ids

    def training_ids(self, messages: Sequence[Message], answer: str) -> tuple[list[int], int]:
        """Token ids of a conversation with its answer and end token, and how many of them are prompt.

        Prompt and answer are tokenised together where that leaves the prompt's tokens as they are in `prompt_ids`, since
        an answer tokenised apart can differ from what the model would have to generate.
        """
        prompt = self.prompt_ids(messages)
        end = self.tokenizer.eos_token or ""
        head = self._text(messages)
        full = self._text([*messages, {"role": "assistant", "content": answer}])
        if not self.tokenizer.chat_template:
            full = full.rstrip("\n") + "\n"
        if not full.startswith(head):
            full = head + answer + end
        ids = self._ids(full)
        if ids[: len(prompt)] != prompt:
            ids = prompt + list(self.tokenizer(full[len(head) :], add_special_tokens=False)["input_ids"])
        if self.tokenizer.chat_template:
            # What a template writes after the end token (a newline, say) is never generated.
            cut = next((i for i in range(len(prompt), len(ids)) if ids[i] in self.end_ids), len(ids) - 1)
            ids = ids[: cut + 1]
        return ids, len(prompt)

    # ------------------------------------------------------------------------------------------ answers

    def generate(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, skip: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Generation]]]:
        """Answer `prompts` greedily; yields batches of (index, answer), longest prompts first.

        The tokens that all prompts begin with are run once, and their keys and values reused by every batch. Batches depend
        on `prompts` alone: one whose prompts are all in `skip` is left out, so a resumed run answers in the same batches.
        """
        lengths = [len(p) for p in prompts]
        if not prompts:
            return
        if max(lengths) + max_new_tokens > self.window:
            raise BenchError(f"a prompt of {max(lengths)} tokens and {max_new_tokens} to answer exceed the model's window of {self.window}")
        shared = self._shared_length(prompts)
        cache = self._prefix_cache(prompts[0][:shared]) if shared else None
        order = sorted(range(len(prompts)), key=lambda i: (-lengths[i], i))
        first = order[0]  # is charged for the shared prefix
        while order:
            size = max(1, min(MAX_BATCH, BATCH_TOKENS // (lengths[order[0]] + max_new_tokens)))
            batch, order = order[:size], order[size:]
            if all(i in skip for i in batch):
                continue
            began = time.perf_counter()
            answers = self._batch([prompts[i] for i in batch], shared, cache, max_new_tokens)
            seconds = (time.perf_counter() - began) / len(batch)
            yield [
                (i, Generation(text, logprob, lengths[i], 0 if i == first else shared, n, seconds))
                for i, (text, logprob, n) in zip(batch, answers, strict=True)
            ]

    def _shared_length(self, prompts: Sequence[Sequence[int]]) -> int:
        if not self.shared_prefix or len(prompts) < 2:
            return 0
        # The first and last in lexical order share no more than all do.
        low, high = min(list(p) for p in prompts), max(list(p) for p in prompts)
        shared = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
        # At least one token of each prompt has to be run after the prefix.
        shared = min(shared, min(len(p) for p in prompts) - 1)
        return shared if shared >= MIN_SHARED_PREFIX else 0

    @torch.inference_mode()
    def _prefix_cache(self, prefix: Sequence[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        cache = DynamicCache(config=self.network.config)
        self.network(input_ids=torch.tensor([list(prefix)], device=self.device), past_key_values=cache, use_cache=True, logits_to_keep=1)
        layers: Any = cache.layers
        return [(layer.keys, layer.values) for layer in layers]

    @torch.inference_mode()
    def _batch(
        self, prompts: list[Sequence[int]], shared: int, prefix: list[tuple[torch.Tensor, torch.Tensor]] | None, max_new_tokens: int
    ) -> list[tuple[str, float, int]]:
        # Padding stands between the shared prefix and the rest, so that the prefix lies at the same place in every row.
        width = max(len(p) for p in prompts)
        ids = torch.tensor([[*p[:shared], *[self.pad_id] * (width - len(p)), *p[shared:]] for p in prompts], device=self.device)
        mask = torch.tensor([[1] * shared + [0] * (width - len(p)) + [1] * (len(p) - shared) for p in prompts], device=self.device)
        arguments: dict[str, Any] = {}
        if prefix is not None:
            data = [(k.expand(len(prompts), -1, -1, -1), v.expand(len(prompts), -1, -1, -1)) for k, v in prefix]
            arguments["past_key_values"] = DynamicCache(ddp_cache_data=data, config=self.network.config)
        logprobs = _GreedyLogprob()
        out = self.network.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=max_new_tokens, logits_processor=LogitsProcessorList([logprobs]), **arguments
        )
        new = out[:, width:]
        steps = torch.stack(logprobs.steps, 1)[:, : new.shape[1]]
        answers = []
        for row, values in zip(new.tolist(), steps.tolist(), strict=True):
            n = next((i + 1 for i, token in enumerate(row) if token in self.end_ids), len(row))
            text = self.tokenizer.decode(row[:n], skip_special_tokens=True)
            if not self.tokenizer.chat_template:
                # A base model without a chat form goes on after its answer: the plain form ends an answer with its line.
                text = text.lstrip().split("\n", 1)[0]
            answers.append((text.strip(), float(sum(values[:n])), n))
        return answers
