"""Greedy answers and log-probabilities of options over a prefix that all requests share, with the library's own forward pass.

The prefix is run once, and its keys and values are read by every row of every batch. Padding stands between the prefix and the
rest of a prompt, so that the prefix lies at the same place in every row; positions are counted without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

LEAVE_SHARE = 0.25
"""Rows that have ended leave the batch when they are this share of it: dropping them copies the others' keys and values once."""


class RoomyLayer(DynamicLayer):
    """A cache layer that writes new keys and values into room kept free behind the old ones.

    The library's own copies everything for each new token, which takes longer than a small model's forward pass.
    """

    def __init__(self, room: int) -> None:
        """`room`: how many tokens will come after the first ones."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._room = room
        self._all: list[torch.Tensor] = []

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        before = self.get_seq_length()
        after = before + key_states.shape[-2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._all = [t.new_empty((*t.shape[:2], after + self._room, t.shape[-1])) for t in (key_states, value_states)]
        for whole, new in zip(self._all, (key_states, value_states), strict=True):
            whole[:, :, before:after] = new
        return self._show(after)

    def _show(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = (t[:, :, :length] for t in self._all)
        self.keys, self.values = keys, values
        return keys, values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self._all = [t[indices] for t in self._all]
        self._show(self.get_seq_length())


def attends_to_all(config: Any, length: int) -> bool:
    """Whether every layer attends to all of so many tokens: no layer of another kind, and no window that is shorter."""

    def whole(layer: Any) -> bool:
        # get_max_length: of a sliding layer its window.
        return type(layer) is DynamicLayer or (type(layer) is DynamicSlidingWindowLayer and layer.get_max_length() >= length)

    return all(map(whole, DynamicCache(config=config).layers))


class SharedPrefix:
    """The keys and values of the tokens that all requests begin with, possibly none."""

    def __init__(self, network: Any, ids: Sequence[int], device: torch.device) -> None:
        self.length = len(ids)
        self._config = network.config
        self._cache = DynamicCache(config=network.config)
        if ids:
            tokens = torch.tensor([list(ids)], device=device)
            network(input_ids=tokens, past_key_values=self._cache, use_cache=True, logits_to_keep=1)

    def cache(self, rows: int, room: int) -> DynamicCache:
        """A cache of its own for a batch, with room for so many tokens behind the prefix."""
        cache = DynamicCache(config=self._config)
        layers: list[Any] = cache.layers
        shared: list[Any] = self._cache.layers
        for i, (layer, one) in enumerate(zip(layers, shared, strict=True)):
            if type(layer) is DynamicLayer:
                layers[i] = RoomyLayer(room)
            if self.length:
                layers[i].update(one.keys.expand(rows, -1, -1, -1), one.values.expand(rows, -1, -1, -1))
        return cache


def shared_length(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with, at most one less than the shortest has: one has to be run after the prefix."""
    # The first and last in lexical order share no more than all do.
    low, high = min(map(tuple, prompts)), max(map(tuple, prompts))
    shared = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    return min(shared, min(len(p) for p in prompts) - 1)


def runner_up(scores: torch.Tensor, best: torch.Tensor) -> torch.Tensor:
    """The second best of each row's scores (rows, choices), given the place of the best (rows,); minus infinity where there is none."""
    return scores.scatter(-1, best[:, None], -math.inf).amax(-1)


def logit_margin(leads: Iterable[float]) -> float | None:
    """The smallest of the leads (nats) that each choice had over the second best; None where nothing had a second."""
    smallest = min(leads, default=math.inf)
    return None if smallest == math.inf else smallest


@dataclass
class GreedyRow:
    """What `greedy` writes after one prompt."""

    tokens: list[int] = field(default_factory=list)
    logprob: float = 0.0
    """Sum over the tokens, nats."""
    leads: list[float] = field(default_factory=list)
    """Of each token over the second best, nats."""


def greedy(
    network: Any,
    prefix: SharedPrefix,
    rests: Sequence[Sequence[int]],
    max_new_tokens: int,
    ended: Callable[[Sequence[int]], bool],
    device: torch.device,
) -> list[GreedyRow]:
    """The most likely next token over and over, after each rest of a prompt.

    A row ends with the token for which `ended` says so of the row's new tokens, or after `max_new_tokens`.
    """
    width = max(map(len, rests))
    ids = torch.tensor([[0] * (width - len(r)) + list(r) for r in rests], device=device)
    real = [[1] * prefix.length + [0] * (width - len(r)) + [1] * (len(r) + max_new_tokens) for r in rests]
    mask = torch.tensor(real, device=device)  # as long as the longest answer; each step takes its part
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    cache = prefix.cache(len(rests), width + max_new_tokens)
    rows = [GreedyRow() for _ in rests]
    under_way = list(range(len(rests)))  # the row that each place of the batch holds
    is_over = [False] * len(rests)
    begin = prefix.length
    for step in range(max_new_tokens):
        end = prefix.length + width + step
        out = network(
            input_ids=ids, attention_mask=mask[:, :end], position_ids=positions[:, begin:end], past_key_values=cache, use_cache=True,
            logits_to_keep=1,
        )  # fmt: skip
        logits = out.logits[:, -1].float()
        best = logits.max(-1)
        beaten = torch.stack([logits.logsumexp(-1), runner_up(logits, best.indices)], -1)
        found = (best.values[:, None] - beaten).tolist()
        for row, token, (logprob, lead) in zip(under_way, best.indices.tolist(), found, strict=True):
            if not is_over[row]:
                rows[row].tokens.append(token)
                rows[row].logprob += logprob
                rows[row].leads.append(lead)
                is_over[row] = ended(rows[row].tokens)
        staying = [place for place, row in enumerate(under_way) if not is_over[row]]
        if not staying:
            break
        ids, begin = best.indices[:, None], end
        if len(staying) <= (1 - LEAVE_SHARE) * len(under_way):
            places = torch.tensor(staying, device=device)
            cache.batch_select_indices(places)
            ids, mask, positions = ids[places], mask[places], positions[places]
            under_way = [under_way[place] for place in staying]
    return rows


def option_logprobs(
    network: Any, prefix: SharedPrefix, rests: Sequence[Sequence[int]], options: Sequence[Sequence[Sequence[int]]], device: torch.device
) -> list[list[float]]:
    """The log-probability of each option's tokens after each rest of a prompt, in one pass.

    A row holds the rest of the prompt and behind it all of its options but their last tokens; under the mask an option sees the
    prompt and itself, and not the options beside it.
    """
    tails = [sum(len(o) - 1 for o in each) for each in options]
    width = max(len(rest) + tail for rest, tail in zip(rests, tails, strict=True))
    n_logits = 1 + max(tails)
    ids, parts, positions, wanted = [], [], [], []
    for row, (rest, each, tail) in enumerate(zip(rests, options, tails, strict=True)):
        pad = width - len(rest) - tail
        ids.append([0] * pad + list(rest) + [token for option in each for token in option[:-1]])
        # Which part of the row a token belongs to: -1 padding, 0 prompt, then the options.
        parts.append([-1] * pad + [0] * len(rest) + [k for k, option in enumerate(each, start=1) for _ in option[:-1]])
        after = prefix.length + len(rest)
        behind = [after + i for option in each for i in range(len(option) - 1)]
        positions.append([0] * pad + list(range(prefix.length, after)) + behind)
        place = n_logits - 1 - tail  # of the logits from which an option's first token is predicted
        start = place
        for k, option in enumerate(each):
            for i, token in enumerate(option):
                wanted.append((row, k, place if i == 0 else start + i, token))
            start += len(option) - 1
    part = torch.tensor(parts, device=device)
    causal = torch.ones((width, width), dtype=torch.bool, device=device).tril()
    seen = causal & (part[:, None, :] >= 0) & ((part[:, None, :] == 0) | (part[:, None, :] == part[:, :, None]))
    seen |= torch.eye(width, dtype=torch.bool, device=device)  # padding sees itself: a row of nothing would not be a number
    mask = torch.cat([seen.new_ones((len(rests), width, prefix.length)), seen], -1)[:, None]
    if network.config._attn_implementation == "eager":
        dtype = next(network.parameters()).dtype
        mask = torch.zeros(mask.shape, dtype=dtype, device=device).masked_fill_(~mask, torch.finfo(dtype).min)
    out = network(
        input_ids=torch.tensor(ids, device=device), attention_mask=mask, position_ids=torch.tensor(positions, device=device),
        past_key_values=prefix.cache(len(rests), width), use_cache=True, logits_to_keep=n_logits,
    )  # fmt: skip
    logits = out.logits.float()
    row_ids, _, place_ids, tokens = (torch.tensor(c, device=device) for c in zip(*wanted, strict=True))
    found = logits[row_ids, place_ids, tokens] - logits.logsumexp(-1)[row_ids, place_ids]
    sums = [[0.0] * len(each) for each in options]
    for (row, k, _, _), value in zip(wanted, found.tolist(), strict=True):
        sums[row][k] += value
    return sums
