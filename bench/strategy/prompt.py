"""The prompt choice: instruction, worked examples, numbered passages, input; what gives way when the window is full; and
what of the model's text is its answer."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from jinja2 import StrictUndefined, Template
from jinja2.sandbox import SandboxedEnvironment

from bench.errors import BenchError
from bench.metric.citation import split_citations
from bench.strategy.spec import PromptChoice
from bench.task.schema import AnswerPattern, Example, PromptLayout, Task, TextStep

if TYPE_CHECKING:
    from bench.model.conversation import Message
    from bench.model.language_model import LanguageModel

CITE = 'After the answer give the number of the passage that it rests on in square brackets, as in "answer [1]".'
ANSWER = "Answer:"
TEXT_STEPS: dict[TextStep, Callable[[str], str]] = {"strip": str.strip, "lowercase": str.lower, "uppercase": str.upper}


@dataclass(frozen=True)
class Prompt:
    """One request as the model gets it."""

    messages: tuple[Message, ...]
    ids: tuple[int, ...]
    truncated: bool
    """Whether passages or shots had to be left out to fit the window."""


@dataclass(frozen=True)
class Parsed:
    """What of a model's text is its answer."""

    answer: str
    reasoning: str | None = None
    """None without a chain of thought, or where no answer is marked in it."""
    cited: tuple[int, ...] | None = None
    """Numbers of passages, from 1; None where the strategy asks for none."""


def draw_shots(task: Task, k: int, seed: int) -> tuple[Example, ...]:
    """`k` training examples: one fixed set per (task, seed), of which a smaller `k` takes the first ones.

    Classification takes turns over the labels in a shuffled order, so that few shots still show as many labels as they can;
    the other kinds take the examples as shuffled. A task's layout may ask for the first ones instead.
    """
    if task.config.layout and task.config.layout.shots == "first":
        return task.train[:k]
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


@cache
def _template(text: str) -> Template:
    return SandboxedEnvironment(undefined=StrictUndefined).from_string(text)


def instruction(task: Task, choice: PromptChoice) -> str:
    """What stands before everything else: the task's instruction in the strategy's wording, with what is asked for beside the answer."""
    wording = _template(choice.instruction).render(instruction=task.instruction)
    told = [wording] if wording or task.instruction else []
    return " ".join([*told, *([choice.chain_of_thought] if choice.chain_of_thought else []), *([CITE] if choice.cite else [])])


def answer_text(choice: PromptChoice, example: Example, passage_ids: Sequence[str] = ()) -> str:
    """The right answer to `example` as a worked example or a training target shows it.

    `passage_ids`: the documents of the passages in the prompt, in order; those that are gold are cited where the strategy cites.
    """
    text = example.targets[0]
    if choice.chain_of_thought:
        text = f"{example.rationale} {ANSWER} {text}"
    if choice.cite:
        text += "".join(f" [{i}]" for i, document in enumerate(passage_ids, start=1) if document in example.evidence)
    return text


def shape_answers(model: LanguageModel, task: Task, choice: PromptChoice) -> None:
    """Tell the model where its answers begin and end: as in the plain form, or as the task's layout says."""
    layout = task.config.layout
    model.before_answer = layout.after_input if layout else " "
    model.line_ends_answer = layout is None and not choice.chain_of_thought
    model.stop = None if layout is None else tuple(layout.stop)


def parse(choice: PromptChoice, text: str, layout: PromptLayout | None = None) -> Parsed:
    """Take the answer out of what the model wrote: after the last "Answer:", without citations, and as the task's `layout` cleans it."""
    reasoning = None
    if choice.chain_of_thought:
        thought, marker, answer = text.rpartition(ANSWER)
        if marker:
            reasoning, text = thought.strip(), answer.strip()
    cited: tuple[int, ...] | None = None
    if choice.cite:
        text, cited = split_citations(text)
    for step in layout.clean if layout else ():
        text = step.find(text) if isinstance(step, AnswerPattern) else TEXT_STEPS[step](text)
    return Parsed(text, reasoning, cited)


def answer_tokens(task: Task, choice: PromptChoice) -> int:
    """How many tokens the model may write."""
    return task.config.max_new_tokens + (choice.reasoning_tokens if choice.chain_of_thought else 0) + (4 if choice.cite else 0)


def build_messages(
    task: Task, text: str, shots: Sequence[Example] = (), passages: Sequence[str] = (), choice: PromptChoice | None = None
) -> list[Message]:
    """The conversation: the instruction opens the first turn, each shot is a turn with its answer, passages stand right before the input.

    What all requests of a strategy share comes first, so that it can be computed once.
    """
    choice = choice or PromptChoice()
    numbered = "\n".join(f"[{i}] {p}" for i, p in enumerate(passages, start=1))
    asked = [*(shot.input for shot in shots), f"{numbered}\n\n{text}" if numbered else text]
    if task.config.layout:
        return _laid_out(task, task.config.layout, choice, asked, [answer_text(choice, shot) for shot in shots])
    # Asked for once, reasoning is forgotten after a few shots; so every turn asks for it.
    heads = [instruction(task, choice)] + [choice.chain_of_thought or ""] * len(shots)
    answers = [answer_text(choice, shot) for shot in shots]
    messages: list[Message] = []
    for i, (head, content) in enumerate(zip(heads, asked, strict=True)):
        messages.append({"role": "user", "content": f"{head}\n\n{content}" if head else content})
        messages += [{"role": "assistant", "content": answers[i]}] if i < len(answers) else []
    return messages


def _laid_out(task: Task, layout: PromptLayout, choice: PromptChoice, asked: Sequence[str], answers: Sequence[str]) -> list[Message]:
    """The conversation to the letter of the task's layout; `answers`: those of all inputs but the last."""
    head = instruction(task, choice)
    head += (layout.after_instruction if task.instruction else "\n\n") if head else ""
    if not layout.chat:
        shots = (
            f"{text}{layout.after_input}{answer}{layout.after_answer}" for text, answer in zip(asked[:-1], answers, strict=True)
        )
        return [{"role": "text", "content": "".join([head, *shots, asked[-1]])}]
    messages: list[Message] = [{"role": "system", "content": head}] if head else []
    for text, answer in zip(asked, [*answers, None], strict=True):
        messages.append({"role": "user", "content": text})
        messages += [{"role": "assistant", "content": answer}] if answer is not None else []
    return messages


def build_prompts(
    model: LanguageModel,
    task: Task,
    choice: PromptChoice,
    examples: Sequence[Example],
    shots: Sequence[Sequence[Example]],
    passages: Sequence[Sequence[str]],
) -> list[Prompt]:
    """One prompt per example, with its own shots and passages, each short enough to leave room for the answer.

    Where the window is too small, shots that all requests share are shortened alike (they stay one shared set), those chosen
    for a request lose the least similar; then a request loses its lowest ranked passages. Raises `BenchError` for an example
    that does not fit on its own.
    """
    if not model.reads_instruction:
        alone = [[{"role": "user", "content": e.input}] for e in examples]
        return [Prompt(tuple(m), tuple(ids), truncated=False) for m, ids in zip(alone, model.prompts_ids(alone), strict=True)]
    if task.config.layout and task.config.layout.chat and model.decoding.get("format") == "plain":
        raise BenchError(f"task {task.name}: layout.chat: {model.source.name} has no chat template")
    room = model.window - answer_tokens(task, choice)
    whole = [
        build_messages(task, example.input, shown, read, choice) for example, shown, read in zip(examples, shots, passages, strict=True)
    ]
    prompts = [Prompt(tuple(m), tuple(ids), truncated=False) for m, ids in zip(whole, model.prompts_ids(whole), strict=True)]
    if all(len(prompt.ids) <= room for prompt in prompts):
        return prompts

    def ids(example: Example, shown: Sequence[Example], read: Sequence[str]) -> tuple[list[Message], list[int]]:
        messages = build_messages(task, example.input, shown, read, choice)
        return messages, model.prompt_ids(messages)

    lengths = [len(row) for row in model.prompts_ids([build_messages(task, e.input, choice=choice) for e in examples])]
    for example, length in zip(examples, lengths, strict=True):
        if length > room:
            raise BenchError(
                f"task {task.name}: item {example.id} takes {length} tokens with the instruction alone, and {model.window - room} to"
                f" answer; the window of {model.source.name} is {model.window}"
            )
    kept = [list(s) for s in shots]
    if choice.select == "drawn":
        longest = max(range(len(examples)), key=lengths.__getitem__)
        k = len(shots[longest])
        while k and len(ids(examples[longest], shots[longest][:k], ())[1]) > room:
            k -= 1
        kept = [list(s[:k]) for s in shots]
    for i, (example, read) in enumerate(zip(examples, passages, strict=True)):
        if len(kept[i]) == len(shots[i]) and len(prompts[i].ids) <= room:
            continue
        n = len(read)
        messages, tokens = ids(example, kept[i], read)
        while len(tokens) > room:
            if choice.select == "nearest" and kept[i]:
                kept[i].pop(0)  # the nearest stands last
            else:
                n -= 1
            messages, tokens = ids(example, kept[i], read[:n])
        prompts[i] = Prompt(tuple(messages), tuple(tokens), truncated=len(kept[i]) < len(shots[i]) or n < len(read))
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
