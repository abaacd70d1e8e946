"""A causal language model in Hugging Face format: greedy answers in batches over a shared prefix, and its loss in training."""

from __future__ import annotations

import inspect
import struct
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from huggingface_hub.errors import StrictDataclassError
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LogitsProcessor, LogitsProcessorList

from bench.errors import BenchError
from bench.model.batches import Batcher
from bench.model.conversation import Conversations
from bench.model.decoding import SharedPrefix, attends_to_all, greedy, logit_margin, option_logprobs, runner_up, shared_length
from bench.model.source import ModelSource, Quantize
from bench.model.weights import bits_arguments, bits_of, completed, gguf_arguments, kept_dtype, train_after_answering

IGNORED = -100
"""The label of positions that no loss is computed for."""
MIN_SHARED_PREFIX = 8


@dataclass(frozen=True)
class Generation:
    """One greedy answer. Token counts never include padding; `prompt_tokens` includes `cached_tokens`."""

    text: str
    logprob: float | None
    """Sum of the natural log-probabilities of the generated tokens, the end token included; of a choice that of the chosen option."""
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    """Tokens generated; of a choice those of all options."""
    latency_seconds: float
    option_logprobs: tuple[float, ...] | None = None
    """Of a choice: the log-probability of each option's tokens, without an end token."""
    logit_margin: float | None = None
    """The smallest lead (nats) of a generated token, the end token included, over the second best; of a choice that of the chosen
    option, of a classifier that of the label. None where there was no second."""


@dataclass(frozen=True)
class Answer:
    """An answer of one batch, before what it cost is known."""

    text: str
    logprob: float | None
    n_tokens: int
    logit_margin: float | None
    option_logprobs: tuple[float, ...] | None = None


class GreedyLogprob(LogitsProcessor):
    """Keeps log-probability and lead of each step's most likely token, which is what greedy decoding takes."""

    def __init__(self) -> None:
        self._steps: list[torch.Tensor] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> GreedyLogprob:
        return self  # peft copies what generate is given for an encoder-decoder, and the steps would be lost with the copy

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        logits = scores.float()
        best = logits.max(-1)
        self._steps.append(best.values[:, None] - torch.stack([torch.logsumexp(logits, -1), runner_up(logits, best.indices)], -1))
        return scores

    def of_answers(self, lengths: Sequence[int]) -> list[tuple[float, float | None]]:
        """Log-probability and logit margin of each row's first tokens, so many of each."""
        rows = torch.stack(self._steps, 1).tolist()
        own = [row[:n] for row, n in zip(rows, lengths, strict=True)]
        return [(float(sum(logprob for logprob, _ in steps)), logit_margin(lead for _, lead in steps)) for steps in own]


def mean_nats(logits: torch.Tensor, targets: torch.Tensor, weights: Sequence[float] | None) -> torch.Tensor:
    """Mean cross-entropy over the tokens that are not `IGNORED`; logits (rows, tokens, vocab), targets (rows, tokens), one weight a row."""
    nats = functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="none")
    each = (targets != IGNORED).float()
    if weights is not None:
        each = each * torch.tensor(weights, device=targets.device)[:, None]
    return (nats * each.flatten()).sum() / each.sum()


class LanguageModel(Conversations):
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
        self, source: ModelSource, *, device: str | None = None, trust_remote_code: bool = False, quantize: Quantize = "none"
    ) -> None:
        """Load tokenizer and weights; `quantize`: the linear layers in 4 or 8 bits, where the source itself does not say so already.

        Raises `BenchError` where that is not possible, and where the source's loading asks for other bits.
        """
        self.source = source
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.quantized = bits_of(source, quantize)
        """What the linear layers are kept in: "none", or few bits in which they cannot be trained."""
        dtype = kept_dtype(source.loading, self.device)
        extra = bits_arguments(self.quantized, dtype, self.device) if source.loading.quantize != "none" or quantize != "none" else {}
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(**source.tokenizer_arguments, trust_remote_code=trust_remote_code)
            network: Any = self._load(dtype=dtype, use_safetensors=True, trust_remote_code=trust_remote_code, **extra)
            network = completed(network, source)
        except (OSError, ValueError, LookupError, ImportError, StrictDataclassError, struct.error) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise BenchError(f"model {source.name}: {source.folder} could not be loaded as a {self.kind_name} ({first})") from error
        self._adopt((network if extra else network.to(self.device)).eval())
        if extra:
            train_after_answering(self.network)
        self._decode_greedily()
        self.batcher = Batcher(self.device)
        self._line_breaks: dict[int, bool] = {}

    def _adopt(self, network: Any) -> None:
        """Take a network with the tokenizer that is there, before any adapter."""
        self.network: Any = network
        self.end_ids = self._end_ids()
        self.window: int = self._window()
        self.compute_dtype: torch.dtype | None = None
        """What matrix products are computed in where the weights' own type is not used (mixed precision)."""
        self.line_ends_answer = True
        """Without a chat template: an answer is one line. A chain of thought turns this off; its answer ends with the "Answer:" line."""
        self.before_answer = " "
        self.stop: tuple[str, ...] | None = None
        """Where no line ends an answer: the texts that do, of which none is part of it; the answer then keeps its spaces."""
        self.virtual_tokens = 0
        """Positions that an adapter puts before every text; they count towards the window."""
        self.shared_prefix = True
        """Whether the prompts' common prefix is computed once. Off, as adapters with virtual tokens need it, prompts are run
        whole by the library's own generation."""

    def _load(self, **arguments: Any) -> Any:
        arguments |= gguf_arguments(self.source)
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
        return mean_nats(*self.completion_logits(pairs), weights)

    def completion_logits(self, pairs: Sequence[tuple[Sequence[int], int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (rows, positions, vocabulary) and the tokens to come (rows, positions), `IGNORED` where a row's completion has none."""
        width = max(len(ids) for ids, _ in pairs)
        first = min(n for _, n in pairs) - 1
        ids = torch.tensor([[*row, *[self.pad_id] * (width - len(row))] for row, _ in pairs], device=self.device)
        labels = torch.tensor([[*[IGNORED] * n, *row[n:], *[IGNORED] * (width - len(row))] for row, n in pairs], device=self.device)
        if self.virtual_tokens:
            # Soft prompts come before the text in the logits too, a prefix of keys and values does not.
            logits = self.network(input_ids=ids).logits[:, -width:][:, first:-1]
        else:
            keep = torch.arange(first, width - 1, device=self.device)
            logits = self.network(input_ids=ids, use_cache=False, logits_to_keep=keep).logits
        return logits, labels[:, first + 1 :]

    # ------------------------------------------------------------------------------------------ answers

    def generate(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, skip: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Generation]]]:
        """Answer `prompts` greedily; yields batches of (index, answer), longest prompts first.

        The tokens that all prompts begin with are run once, and their keys and values reused by every batch. Batches depend
        on `prompts` alone: one whose prompts are all in `skip` is left out, so a resumed run answers in the same batches.
        """
        prefix = self._prefix(prompts, [max_new_tokens] * len(prompts))

        def work(batch: list[int]) -> list[Answer]:
            given = [prompts[i] for i in batch]
            if prefix is None:
                return self._batch(given, max_new_tokens)
            rests = [p[prefix.length :] for p in given]
            rows = greedy(self.network, prefix, rests, max_new_tokens, self._is_over, self.device)
            return [Answer(self.answer(row.tokens)[0], row.logprob, len(row.tokens), logit_margin(row.leads)) for row in rows]

        yield from self._in_batches(prompts, [max_new_tokens] * len(prompts), prefix, work, skip, generates=True)

    def choose(
        self,
        prompts: Sequence[Sequence[int]],
        options: Sequence[Sequence[str]],
        option_ids: Sequence[Sequence[Sequence[int]]],
        skip: Collection[int] = (),
    ) -> Iterator[list[tuple[int, Generation]]]:
        """The most likely of each prompt's options, by the sum of its tokens' log-probabilities, the first of equals.

        `option_ids`: each option's tokens as of `option_ids`. A prompt's options share one pass over it. Batches as in `generate`.
        """
        after = [max(map(len, each)) for each in option_ids]
        prefix = self._prefix(prompts, after)

        def work(batch: list[int]) -> list[Answer]:
            given, ids = [prompts[i] for i in batch], [option_ids[i] for i in batch]
            if prefix is None:
                found = self._option_logprobs(given, ids)
            else:
                found = option_logprobs(self.network, prefix, [p[prefix.length :] for p in given], ids, self.device)
            answers = []
            for i, row in zip(batch, found, strict=True):
                k = max(range(len(row)), key=row.__getitem__)
                margin = logit_margin(row[k] - other for other in row[:k] + row[k + 1 :])
                answers.append(Answer(options[i][k], row[k], sum(map(len, option_ids[i])), margin, tuple(row)))
            return answers

        computed = [sum(map(len, each)) for each in option_ids]
        if prefix is None:
            computed = [n + (len(each) - 1) * len(p) for n, each, p in zip(computed, option_ids, prompts, strict=True)]
        yield from self._in_batches(prompts, computed, prefix, work, skip)

    def _in_batches(
        self,
        prompts: Sequence[Sequence[int]],
        more: Sequence[int],
        prefix: SharedPrefix | None,
        work: Callable[[list[int]], list[Answer]],
        skip: Collection[int],
        generates: bool = False,
    ) -> Iterator[list[tuple[int, Generation]]]:
        """Run `work` on batches; `more`: the tokens to compute behind each prompt."""
        shared = prefix.length if prefix else 0
        computed = [len(p) - shared + n for p, n in zip(prompts, more, strict=True)]
        first = max(range(len(prompts)), key=lambda i: (computed[i], -i), default=0)  # is charged for the shared prefix
        per_token, per_logit = self._bytes_per_token()

        def row_bytes(i: int) -> float:
            return per_token * (shared + computed[i]) + per_logit * more[i]

        def inference(batch: list[int]) -> list[Answer]:
            with torch.inference_mode(), self.autocast():
                return work(batch)

        for batch, answers, seconds in self.batcher.run(computed, inference, skip, row_bytes, generates):
            yield [
                (
                    i,
                    Generation(
                        a.text, a.logprob, len(prompts[i]), 0 if i == first else shared, a.n_tokens, seconds, a.option_logprobs,
                        a.logit_margin,
                    ),
                )
                for i, a in zip(batch, answers, strict=True)
            ]  # fmt: skip

    def _prefix(self, prompts: Sequence[Sequence[int]], after: Sequence[int]) -> SharedPrefix | None:
        """What all prompts begin with, computed; `after`: tokens behind each prompt. None where prompts have to be run whole.

        Raises `BenchError` where a prompt and what comes after it exceed the window.
        """
        if not prompts:
            return None
        longest = max(range(len(prompts)), key=lambda i: len(prompts[i]) + after[i])
        length = len(prompts[longest]) + after[longest]
        if length > self.window:
            raise BenchError(
                f"a prompt of {len(prompts[longest])} tokens and {after[longest]} to answer exceed the model's window of {self.window}"
            )
        if not self.shared_prefix or not self._reads_positions() or not attends_to_all(self.network.config, length):
            return None
        n = shared_length(prompts) if len(prompts) > 1 else 0
        with torch.inference_mode(), self.autocast():
            return SharedPrefix(self.network, prompts[0][:n] if n >= MIN_SHARED_PREFIX else (), self.device)

    def _reads_positions(self) -> bool:
        """Whether the network takes positions and a mask of any form as they are given, and not counts and makes them itself."""
        base = self.network.get_base_model() if hasattr(self.network, "get_base_model") else self.network
        known = self.network.config._attn_implementation in ("sdpa", "eager")
        return known and "position_ids" in inspect.signature(base.forward).parameters

    def _bytes_per_token(self) -> tuple[float, float]:
        """What one token takes in memory: its keys and values in all layers, and its logits (with a copy in float32)."""
        config = self.network.config.get_text_config()
        layers, heads = getattr(config, "num_hidden_layers", 0), getattr(config, "num_attention_heads", 0)
        size = getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else 0)
        heads = getattr(config, "num_key_value_heads", None) or heads
        return 2 * layers * heads * size * next(self.network.parameters()).element_size(), 8 * config.vocab_size

    def _batch(self, prompts: list[Sequence[int]], max_new_tokens: int) -> list[Answer]:
        """Answers to whole prompts by the library's own generation."""
        width = max(len(p) for p in prompts)
        ids = torch.tensor([[*[self.pad_id] * (width - len(p)), *p] for p in prompts], device=self.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self.device)
        logprobs = GreedyLogprob()
        arguments = {"attention_mask": mask, "max_new_tokens": max_new_tokens, "logits_processor": LogitsProcessorList([logprobs])}
        new = self.network.generate(input_ids=ids, **arguments)[:, width:]
        answers = [self.answer(row) for row in new.tolist()]
        found = logprobs.of_answers([n for _, n in answers])
        return [Answer(text, logprob, n, margin) for (text, n), (logprob, margin) in zip(answers, found, strict=True)]

    def _option_logprobs(self, prompts: Sequence[Sequence[int]], options: Sequence[Sequence[Sequence[int]]]) -> list[list[float]]:
        """The log-probability of each option's tokens after its whole prompt, one row of the batch for each."""
        rows = [([*p, *option], len(p)) for p, each in zip(prompts, options, strict=True) for option in each]
        logits, targets = self.completion_logits(rows)
        nats = functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="none")
        found = iter((-nats.view(targets.shape).sum(-1)).tolist())
        return [[next(found) for _ in each] for each in options]

    def _is_over(self, ids: Sequence[int]) -> bool:
        """Whether an answer ends with the last of its tokens."""
        last = ids[-1]
        if last not in self.end_ids and (stop := self._stop_texts()) is not None:
            # An earlier one would have ended the answer before; a character takes at most four tokens.
            end = self.tokenizer.decode(ids[-(4 * max(map(len, stop), default=0) + 1) :], skip_special_tokens=True)
            return any(text in end for text in stop)
        if last in self.end_ids or self.tokenizer.chat_template:
            return last in self.end_ids
        # A base model without a chat form goes on after its answer: the plain form ends an answer with its line.
        if last not in self._line_breaks:
            self._line_breaks[last] = "\n" in self.tokenizer.decode([last])
        return self._line_breaks[last] and "\n" in self._last_line(self.tokenizer.decode(ids, skip_special_tokens=True))[1]

    def _stop_texts(self) -> tuple[str, ...] | None:
        return None if self.line_ends_answer else self.stop

    def _last_line(self, text: str) -> tuple[str, str]:
        """What an answer holds before the line that it ends with, and the text from that line on; without a chat template."""
        if self.line_ends_answer:
            return "", text.lstrip()
        thought, marker, rest = text.partition("Answer:")
        return thought + marker, rest.lstrip()

    def answer(self, row: Sequence[int]) -> tuple[str, int]:
        """The answer in a row of generated tokens, and how many of them are its own, the end token included."""
        n = next((i + 1 for i in range(len(row)) if self._is_over(row[: i + 1])), len(row))
        text = self.tokenizer.decode(row[:n], skip_special_tokens=True)
        if (stop := self._stop_texts()) is not None:
            return min((text.partition(part)[0] for part in stop), key=len, default=text), n
        if self.tokenizer.chat_template:
            return text.strip(), n
        before, line = self._last_line(text)
        return f"{before} {line.partition(chr(10))[0]}".strip(), n
