"""The prompt choice: instruction, worked examples, numbered passages, input; and what gives way when the window is full."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from bench.errors import BenchError
from bench.model.language_model import LanguageModel, Message
from bench.task.schema import Example, Task


@dataclass(frozen=True)
class Prompt:
    """One request as the model gets it."""

    messages: tuple[Message, ...]
    ids: tuple[int, ...]
    truncated: bool
    """Whether passages or shots had to be left out to fit the window."""


def draw_shots(task: Task, k: int, seed: int) -> tuple[Example, ...]:
    """`k` training examples: one fixed set per (task, seed), of which a smaller `k` takes the first ones.

    Classification takes turns over the labels in a shuffled order, so that few shots still show as many labels as they can;
    the other kinds take the examples as shuffled.
    """
    order = list(task.train)
    random.Random(f"shots/{seed}").shuffle(order)
    if task.config.kind == "classification":
        turns: dict[str, int] = {}
        rank: list[tuple[int, int]] = []
        for example in order:
            label = example.targets[0]
            rank.append((turns.setdefault(label, 0), len(rank)))
            turns[label] += 1
        order = [order[i] for _, i in sorted(rank)]
    return tuple(order[:k])


def build_messages(task: Task, text: str, shots: Sequence[Example] = (), passages: Sequence[str] = ()) -> list[Message]:
    """The conversation: the instruction opens the first turn, each shot is a turn with its answer, passages stand right before the input.

    What all requests of a strategy share comes first, so that it can be computed once.
    """
    messages: list[Message] = []
    for shot in shots:
        messages += [{"role": "user", "content": shot.input}, {"role": "assistant", "content": shot.targets[0]}]
    numbered = "\n".join(f"[{i}] {p}" for i, p in enumerate(passages, start=1))
    messages.append({"role": "user", "content": f"{numbered}\n\n{text}" if numbered else text})
    messages[0] = {"role": "user", "content": f"{task.instruction}\n\n{messages[0]['content']}"}
    return messages


def build_prompts(
    model: LanguageModel, task: Task, examples: Sequence[Example], shots: Sequence[Example], passages: Sequence[Sequence[str]]
) -> list[Prompt]:
    """One prompt per example, each short enough to leave room for the answer.

    Where the window is too small, all requests lose the same last shots (they stay one shared set), then a request its lowest
    ranked passages. Raises `BenchError` for an example that does not fit on its own.
    """
    room = model.window - task.config.max_new_tokens

    def ids(example: Example, k: int, read: Sequence[str]) -> tuple[list[Message], list[int]]:
        messages = build_messages(task, example.input, shots[:k], read)
        return messages, model.prompt_ids(messages)

    alone = [len(ids(e, 0, ())[1]) for e in examples]
    for example, length in zip(examples, alone, strict=True):
        if length > room:
            raise BenchError(
                f"task {task.name}: item {example.id} takes {length} tokens with the instruction alone, and {task.config.max_new_tokens} to"
                f" answer; the window of {model.source.name} is {model.window}"
            )
    longest = max(range(len(examples)), key=alone.__getitem__) if examples else 0
    k = len(shots)
    while k and len(ids(examples[longest], k, ())[1]) > room:
        k -= 1
    prompts = []
    for example, read in zip(examples, passages, strict=True):
        n = len(read)
        messages, tokens = ids(example, k, read)
        while len(tokens) > room:
            n -= 1
            messages, tokens = ids(example, k, read[:n])
        prompts.append(Prompt(tuple(messages), tuple(tokens), truncated=k < len(shots) or n < len(read)))
    return prompts


def constant_answer(task: Task, kind: str, example: Example) -> str:
    """The answer of a strategy that asks no model: the most frequent training answer, an abstention or the first sentence."""
    if kind == "majority":
        counts: dict[str, int] = {}
        for row in task.train:
            counts[row.targets[0]] = counts.get(row.targets[0], 0) + 1
        return min(counts, key=lambda answer: (-counts[answer], answer))
    if kind == "abstain":
        return task.config.abstain[0]
    head = example.input.replace("? ", ". ").replace("! ", ". ").split(". ", 1)[0]
    return head if head.endswith((".", "?", "!")) else head + "."
