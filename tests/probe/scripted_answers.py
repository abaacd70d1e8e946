"""A model whose answers are known, for probes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from bench.model.language_model import Generation
from bench.probe.base import Context
from bench.run.ask import Answered, Request
from bench.strategy.prompt import Parsed

Rule = Callable[[str, tuple[str, ...]], str]
"""(what stands in the last turn, the passages handed) -> answer"""


def with_answers(monkeypatch: pytest.MonkeyPatch, say: Rule) -> list[Request]:
    """Let every context's model answer by a rule; gives the list that its requests are put into."""
    asked: list[Request] = []

    def answer(self: Context, requests: Sequence[Request]) -> list[Answered]:
        asked.extend(requests)
        texts = [say(str(r.prompt.messages[-1]["content"]), r.found.passages if r.found else ()) for r in requests]
        return [Answered(i, Generation(t, None, 0, 0, 0, 0.0), r, Parsed(t)) for i, (t, r) in enumerate(zip(texts, requests, strict=True))]

    monkeypatch.setattr(Context, "answer", answer)
    return asked


def target_of(context: Context, prompt: str) -> str:
    """The right answer to the test question that the prompt holds."""
    return next(e.targets[0] for e in context.cell.task.test if e.input in prompt)
