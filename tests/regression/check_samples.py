"""Checks made by hand, for the tests of what is made from one."""

from __future__ import annotations

from typing import Any

from bench.regression.model import Acceptance, Check, Comparison, Difference, Flip, Gate

ACCEPTANCE = Acceptance("smoke", "smoke", "first baseline", "Ada", "2025-01-02T03:04:05+00:00", "a" * 40)


def flip(item: str = "p17", before: str = "Oslo", after: str = "Bergen", **changes: Any) -> Flip:
    """An answer that was right and is wrong."""
    values: dict[str, Any] = {"seed": 0, "targets": ("Oslo",), "score_before": 1.0, "score_after": 0.0, "excused": False}
    return Flip(item, before=before, after=after, **values | changes)


def worse(**changes: Any) -> Gate:
    """Exact match fell from .812 to .760 on 250 items."""
    values: dict[str, Any] = {
        "task": "product_support", "strategy": "rag", "kind": "quality", "measure": "exact_match", "verdict": "regression",
        "reason": "worse, p = 0.012", "before": 0.812, "after": 0.76, "change": -0.052, "low": -0.081, "high": -0.023, "p": 0.0004,
        "p_adjusted": 0.012, "limit": 0.02, "n_items": 250, "n_seeds": 1, "test": "McNemar, exact",
        "flips": (*(flip(f"p{n}") for n in range(5)), flip("p5", score_after=1.0, excused=True)),
    }  # fmt: skip
    return Gate(**values | changes)


def unsure(**changes: Any) -> Gate:
    """A loss of hallucination that may be noise."""
    values: dict[str, Any] = {
        "strategy": "lora", "measure": "hallucination_rate", "verdict": "inconclusive",
        "reason": "could be a loss of 0.02 or more, or none", "before": 0.1, "after": 0.11, "change": -0.01, "low": -0.03, "high": 0.01,
        "p": 0.2, "p_adjusted": 0.4, "needed_items": 740, "flips": (),
    }  # fmt: skip
    return worse(**values | changes)


def longer(**changes: Any) -> Gate:
    """A doubled prompt."""
    values: dict[str, Any] = {
        "kind": "cost", "measure": "prompt_tokens", "reason": "grew by 100 %", "before": 12_300.0, "after": 24_600.0, "change": 1.0,
        "low": None, "high": None, "p": None, "p_adjusted": None, "limit": 0.0, "n_items": 0, "test": "", "flips": (),
    }  # fmt: skip
    return worse(**values | changes)


def fine(**changes: Any) -> Gate:
    """Nothing changed."""
    values: dict[str, Any] = {
        "strategy": "lora", "verdict": "pass", "reason": "the same answers", "before": 0.9, "after": 0.9, "change": 0.0, "low": None,
        "high": None, "p": None, "p_adjusted": None, "flips": (), "test": "",
    }  # fmt: skip
    return worse(**values | changes)


def comparison(*gates: Gate, **changes: Any) -> Comparison:
    values: dict[str, Any] = {"name": "accepted", "acceptance": ACCEPTANCE, "differences": ()}
    return Comparison(gates=gates, **values | changes)


def check(*comparisons: Comparison, **changes: Any) -> Check:
    """Of the comparisons given; by default one with a gate of each verdict, a difference, a note and an excused tie."""
    known = comparison(
        fine(), unsure(), worse(), longer(), differences=(Difference("code", "commit", "aaaa", "bbbb"),), notes=("seeds 1, 2 are new",)
    )
    values: dict[str, Any] = {
        "suite": "smoke", "run": "results/smoke", "commit": "b" * 40, "dirty": False, "when": "2025-02-03T04:05:06+00:00",
        "environment": {"torch": "2.13.0", "cpu": "x86"},
    }  # fmt: skip
    return Check(comparisons=comparisons or (known,), **values | changes)
