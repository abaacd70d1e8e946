"""Bytes of small networks, counted by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from bench.cost.memory import (
    SavedForBackward,
    cache_bytes,
    forked_weights_bytes,
    gradients_bytes,
    optimizer_bytes,
    weights_bytes,
)


class Small(nn.Module):
    """(5, 3) -> relu -> (5, 4) -> (5, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)
        self.register_buffer("scale", torch.ones(7, dtype=torch.float16), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.second(self.first(x).relu())
        return found


@pytest.fixture
def small() -> Small:
    torch.manual_seed(0)
    return Small()


X = torch.arange(15, dtype=torch.float32).view(5, 3)


def test_weights_are_parameters_and_buffers(small: Small) -> None:
    assert weights_bytes(small) == 4 * (3 * 4 + 4 + 4 * 2 + 2) + 2 * 7
    assert forked_weights_bytes(small) == weights_bytes(small)
    small.first.weight = nn.Parameter(small.first.weight.to(torch.bfloat16))
    assert weights_bytes(small) == 4 * (4 + 4 * 2 + 2) + 2 * 12 + 2 * 7


def test_tied_weights_count_once() -> None:
    tied = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False))
    tied[1].weight = tied[0].weight
    assert weights_bytes(tied) == 4 * 36


def test_weights_that_lie_in_memory_as_their_file_does_are_not_in_a_fork(tmp_path: Any) -> None:
    file = tmp_path / "weights.bin"
    file.write_bytes(bytes(4 * 1024))
    network = nn.Linear(1024, 1, bias=True)
    network.weight = nn.Parameter(torch.from_file(str(file), shared=False, size=1024, dtype=torch.float32).view(1, 1024))
    assert weights_bytes(network) == 4 * 1025
    assert forked_weights_bytes(network) == 4


def test_gradients_are_those_that_are_there(small: Small) -> None:
    assert gradients_bytes(small) == 0
    small.first.requires_grad_(False)
    small(X).sum().backward()
    assert gradients_bytes(small) == 4 * (4 * 2 + 2)
    small.zero_grad()
    assert gradients_bytes(small) == 0


def test_the_state_of_adam_is_two_numbers_a_parameter_and_a_step_count_each(small: Small) -> None:
    optimizer = torch.optim.AdamW(small.parameters())
    assert optimizer_bytes(optimizer) == 0
    small(X).sum().backward()
    optimizer.step()
    assert optimizer_bytes(optimizer) == 2 * 4 * (3 * 4 + 4 + 4 * 2 + 2) + 4 * 4
    assert optimizer_bytes(torch.optim.SGD(small.parameters())) == 0


def test_the_cache_is_keys_and_values_of_all_layers() -> None:
    # Llama-3.2-3B in 16 bits: 28 layers, 8 key heads of 128: 112 KiB a token.
    assert cache_bytes(rows=1, tokens=1, layers=28, kv_width=8 * 128, bytes_per_number=2) == 112 * 1024
    assert cache_bytes(rows=8, tokens=100, layers=28, kv_width=8 * 128, bytes_per_number=2) == 800 * 112 * 1024


def test_what_is_kept_for_the_backward_pass_is_counted_by_storage_without_the_weights(small: Small) -> None:
    saved = SavedForBackward(small)
    with saved.counting():
        small(X).sum()
    # The input, which the first layer needs, and the relu's output, which the relu and the second layer need.
    assert saved.bytes == 4 * (15 + 20)
    with saved.counting():
        small(X[:1]).sum()
    # A view of one row keeps the whole input.
    assert saved.bytes == 4 * (15 + 20), "the largest pass stands"


def test_a_frozen_network_keeps_nothing(small: Small) -> None:
    small.requires_grad_(False)
    saved = SavedForBackward(small)
    with saved.counting():
        small(X).sum()
    assert saved.bytes == 0


def test_checkpointed_layers_keep_their_inputs_alone(small: Small) -> None:
    layers = [nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 8), nn.ReLU()) for _ in range(4)]
    network = nn.Sequential(*layers)
    kept = []
    for wanted in (False, True):
        saved, x = SavedForBackward(network), torch.ones(16, 8, requires_grad=True)
        with saved.counting():
            for layer in layers:
                x = checkpoint(layer, x, use_reentrant=False) if wanted else layer(x)
            loss = x.sum()
        loss.backward()
        kept.append(saved.bytes)
    assert kept == [4 * 16 * (8 + 4 * (64 + 8)), 4 * 16 * 8 * 4]


def test_counting_changes_neither_losses_nor_gradients() -> None:
    found = []
    for counted in (False, True):
        torch.manual_seed(3)
        network = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Dropout(0.3), nn.LayerNorm(32), nn.Linear(32, 4))
        x, y = torch.randn(6, 8), torch.tensor([0, 1, 2, 3, 0, 1])
        if counted:
            with SavedForBackward(network).counting():
                loss = nn.functional.cross_entropy(network(x), y)
        else:
            loss = nn.functional.cross_entropy(network(x), y)
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in network.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
