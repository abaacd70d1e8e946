"""A causal language model in Hugging Face format: chat rendering, and greedy answers in batches over a shared prefix."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, GenerationConfig, LogitsProcessor, LogitsProcessorList

from bench.errors import BenchError
from bench.model.source import ModelSource

Message = dict[str, str]
"""``{"role": "user" | "assistant", "content": text}``"""

IGNORED = -100
"""The label of positions that no loss is computed for."""
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


class GreedyLogprob(LogitsProcessor):
    """Sums the log-probability of each step's most likely token, which is what greedy decoding takes."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> GreedyLogprob:
        return self  # peft copies what generate is given for an encoder-decoder, and the steps would be lost with the copy

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.steps.append(scores.max(-1).values.float() - torch.logsumexp(scores.float(), -1))
        return scores


def mean_nats(logits: torch.Tensor, targets: torch.Tensor, weights: Sequence[float] | None) -> torch.Tensor:
    """Mean cross-entropy over the tokens that are not `IGNORED`; logits (rows, tokens, vocab), targets (rows, tokens), one weight a row."""
    nats = functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="none")
    each = (targets != IGNORED).float()
    if weights is not None:
        each = each * torch.tensor(weights, device=targets.device)[:, None]
    return (nats * each.flatten()).sum() / each.sum()


def _four_bits(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise BenchError("tuning.quantize: needs bitsandbytes; pip install bitsandbytes") from error
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    return {"quantization_config": config, "device_map": {"": device}}


def _train_after_answering(network: torch.nn.Module) -> None:
    """Keep bitsandbytes from repacking 4-bit weights at the first answer, after which lower adapters silently get no gradient.

    It does so on CPUs with avx512_bf16. Without the repacking a forward pass takes about twice the time.
    """
    from bitsandbytes.nn import Linear4bit

    for module in network.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


class LanguageModel:
    """A loaded base model with its tokenizer; `network` may later be wrapped by an adapter."""

    kind_name: ClassVar[str] = "causal language model"
    auto_class: ClassVar[Any] = AutoModelForCausalLM
    peft_task: ClassVar[str] = "CAUSAL_LM"
    """What peft calls this kind of model."""
    reads_instruction: ClassVar[bool] = True
    """Whether a prompt holds the task's instruction; a classifier gets the input alone."""
    new_modules: tuple[str, ...] = ()
    """Modules that no pretraining has set, by their names in `network`; every way of tuning has to train them."""

    def __init__(
        self, source: ModelSource, *, device: str | None = None, trust_remote_code: bool = False, quantize: Literal["none", "nf4"] = "none"
    ) -> None:
        """Load tokenizer and weights; `quantize`: the linear layers in 4 bits. Raises `BenchError` where that is not possible."""
        self.source = source
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        # On a GPU 16-bit weights run as bfloat16: training in float16 needs loss scaling.
        dtype = torch.float32 if self.device.type == "cpu" else torch.bfloat16
        extra: dict[str, Any] = _four_bits(dtype, self.device) if quantize == "nf4" else {}
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(source.folder, trust_remote_code=trust_remote_code)
            network: Any = self._load(dtype=dtype, use_safetensors=True, trust_remote_code=trust_remote_code, **extra)
        except (OSError, ValueError, KeyError, ImportError, StrictDataclassError) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise BenchError(f"model {source.name}: {source.folder} could not be loaded as a {self.kind_name} ({first})") from error
        self.network: Any = (network if extra else network.to(self.device)).eval()
        if extra:
            _train_after_answering(self.network)
        self.end_ids = self._end_ids()
        self._decode_greedily()
        self.window: int = self._window()
        self.compute_dtype: torch.dtype | None = None
        """What matrix products are computed in where the weights' own type is not used (mixed precision)."""
        self.line_ends_answer = True
        """Without a chat template: an answer is one line. A chain of thought turns this off; its answer ends with the "Answer:" line."""
        self.virtual_tokens = 0
        """Positions that an adapter puts before every text; they count towards the window."""
        self.shared_prefix = True
        """Whether the prompts' common prefix is computed once; an adapter with virtual tokens turns it off."""

    def _load(self, **arguments: Any) -> Any:
        network, info = self.auto_class.from_pretrained(self.source.folder, output_loading_info=True, **arguments)
        if info["missing_keys"]:
            # transformers would fill them in at random: an encoder "answering" as a causal model, say.
            raise ValueError(f"the checkpoint lacks {len(info['missing_keys'])} tensors, {min(info['missing_keys'])} for one")
        return network

    def _decode_greedily(self) -> None:
        # A field left unset in the config of a call is filled in from the model's own; this one has nothing to fill in but greedy.
        self.network.generation_config = GenerationConfig(
            do_sample=False, num_beams=1, eos_token_id=sorted(self.end_ids), pad_token_id=self.pad_id, use_cache=True
        )

    def _window(self) -> int:
        config = self.network.config
        positions = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
        return int(positions) if positions else 1 << 20

    def positions(self, pair: tuple[list[int], int]) -> int:
        """How much of the window a (token ids, prompt length) row takes in training."""
        return len(pair[0])

    def reset_head(self, seed: int) -> None:
        """Draw the weights of `new_modules`, before anything wraps `network`; a language model has none."""

    def _end_ids(self) -> frozenset[int]:
        found: set[int] = set()
        own = getattr(self.network, "generation_config", None)  # a classifier has none
        for ids in (getattr(own, "eos_token_id", None), self.network.config.eos_token_id, self.tokenizer.eos_token_id):
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

    def text_ids(self, text: str) -> tuple[list[int], int]:
        """Token ids of a plain text to train on, all of it to be predicted but the first token."""
        ids = list(self.tokenizer(text, add_special_tokens=True)["input_ids"])
        start, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        if start is not None and ids[:1] != [start]:
            ids = [start, *ids]
        return ids if end is None or ids[-1] == end else [*ids, end], 1

    # ------------------------------------------------------------------------------------------ training

    def padded(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids filled up on the right, and the mask of those that are real: each of shape (rows, longest)."""
        width = max(len(row) for row in rows)
        ids = [[*row, *[self.pad_id] * (width - len(row))] for row in rows]
        mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
        return torch.tensor(ids, device=self.device), torch.tensor(mask, device=self.device)

    def autocast(self) -> torch.autocast:
        """The context in which the network is run: mixed precision where `compute_dtype` says so."""
        return torch.autocast(self.device.type, dtype=self.compute_dtype or torch.bfloat16, enabled=self.compute_dtype is not None)

    def loss(self, pairs: Sequence[tuple[list[int], int]], weights: Sequence[float] | None = None) -> torch.Tensor:
        """Mean cross-entropy over the completion tokens of (token ids, prompt length) rows, in nats; `weights`: of each row's tokens.

        Rows are padded on the right and carry no mask: under causal attention no real token sees the padding. Without virtual
        tokens, logits are computed only at positions from which some row's completion is predicted.
        """
        width = max(len(ids) for ids, _ in pairs)
        first = min(n for _, n in pairs) - 1
        ids = torch.tensor([row + [self.pad_id] * (width - len(row)) for row, _ in pairs], device=self.device)
        labels = torch.tensor([[IGNORED] * n + row[n:] + [IGNORED] * (width - len(row)) for row, n in pairs], device=self.device)
        if self.virtual_tokens:
            # Soft prompts come before the text in the logits too, a prefix of keys and values does not.
            logits = self.network(input_ids=ids).logits[:, -width:][:, first:-1]
        else:
            keep = torch.arange(first, width - 1, device=self.device)
            logits = self.network(input_ids=ids, use_cache=False, logits_to_keep=keep).logits
        return mean_nats(logits, labels[:, first + 1 :], weights)

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
        ids = torch.tensor([list(prefix)], device=self.device)
        with self.autocast():
            self.network(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
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
        logprobs = GreedyLogprob()
        arguments |= {"attention_mask": mask, "max_new_tokens": max_new_tokens, "logits_processor": LogitsProcessorList([logprobs])}
        with self.autocast():
            out = self.network.generate(input_ids=ids, **arguments)
        new = out[:, width:]
        steps = torch.stack(logprobs.steps, 1)[:, : new.shape[1]]
        answers = []
        for row, values in zip(new.tolist(), steps.tolist(), strict=True):
            text, n = self.answer(row)
            answers.append((text, float(sum(values[:n])), n))
        return answers

    def answer(self, row: Sequence[int]) -> tuple[str, int]:
        """The answer in a row of generated tokens, and how many of them are its own, the end token included."""
        n = next((i + 1 for i, token in enumerate(row) if token in self.end_ids), len(row))
        text = self.tokenizer.decode(row[:n], skip_special_tokens=True)
        if self.tokenizer.chat_template:
            return text.strip(), n
        # A base model without a chat form goes on after its answer: the plain form ends an answer with its line.
        thought, marker, rest = ("", "", text) if self.line_ends_answer else text.partition("Answer:")
        return f"{thought}{marker} {rest.lstrip().partition(chr(10))[0]}".strip(), n
