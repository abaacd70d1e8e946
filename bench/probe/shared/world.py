"""What probes of the embedded world share: which facts a task asks about, and how a model is asked without a strategy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.task.schema import Example, Task
from bench.world.entities import ATTRIBUTES, Attribute

if TYPE_CHECKING:  # a finished run is recognised without torch
    from bench.model.conversation import Message
    from bench.model.language_model import LanguageModel

ANSWER_TOKENS = 8
"""Room for an answer, which is a word or two."""

_ATTRIBUTE_OF = {value: attribute for attribute in ATTRIBUTES for value in attribute.values}


@dataclass(frozen=True)
class Fact:
    """What a document of a task's corpus states, as far as test asks for it."""

    product: str
    attribute: Attribute
    value: str
    document_id: str
    examples: tuple[Example, ...]
    """The test examples that ask for it."""


def attribute_of(value: str) -> Attribute | None:
    """The attribute that has this value; no value belongs to two."""
    return _ATTRIBUTE_OF.get(value)


def facts_of(task: Task) -> list[Fact]:
    """The facts that test asks for, in its order; empty for a task that is not about the products of the embedded world."""
    asked: dict[tuple[str, str], list[Example]] = {}
    for example in task.test:
        attribute = attribute_of(example.targets[0]) if example.answerable and len(example.evidence) == 1 else None
        if attribute and example.cluster in example.input:
            asked.setdefault((example.cluster, attribute.name), []).append(example)
        elif example.answerable:
            return []
    return [
        Fact(product, _ATTRIBUTE_OF[found[0].targets[0]], found[0].targets[0], found[0].evidence[0], tuple(found))
        for (product, _), found in asked.items()
    ]


def ask(model: LanguageModel, conversations: Sequence[Sequence[Message]], max_new_tokens: int = ANSWER_TOKENS) -> list[str]:
    """One greedy answer per conversation, which ends with a user turn, in order. Without a chat template an answer is one line."""
    prompts = model.prompts_ids(conversations)
    before, model.line_ends_answer = model.line_ends_answer, True
    try:
        found = dict(pair for batch in model.generate(prompts, max_new_tokens) for pair in batch)
    finally:
        model.line_ends_answer = before
    return [found[i].text for i in range(len(prompts))]
