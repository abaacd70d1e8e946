"""`validate`: what is in a task, what is doubtful about it, and what to do about that."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.metric.text import is_unspaced, words
from bench.task.load import load_task
from bench.task.rows import SPLITS
from bench.task.schema import Example, Task

if TYPE_CHECKING:
    from bench.model.conversation import Message
    from bench.model.files import ModelFiles

TYPICAL_DISCORDANCE: Final = 0.2
"""Share of items that exactly one of two strategies has right; what it is shows after a run (``bench compare``)."""


ENOUGH_POINTS: Final = 10
"""A test set that finds no difference of so many points gets a warning."""
MOST_OF_ALL: Final = 0.8
"""Share of train from which one label is pointed out."""
_ADVICE: Final = {
    "nearly repeat": "keep each such group in one split (bench new-task --from does)",
    "too (": "take them out of one of the two",
    "repeat the input of another one": "keep one of each",
    "values of the cluster column": "keep each in one split",
    "have no training example": "add one of each, or take the label out of labels",
    "word for word": "take the questions out of the corpus",
    "validation: no file": "write a validation file to choose them yourself",
}
"""What to do, by what a warning of `load_task` says."""


def validate(folder: Path | str, data: str | None = None, model: str = "embedded") -> list[str]:
    """Load a task with all checks and say what is in it.

    Args:
        folder: The task's folder.
        data: Folder or hub id of the rows, as for `load_task`.
        model: Whose tokens and window lengths are checked against: a name as for ``bench run``; no weights are loaded.

    Returns:
        Lines of a report: sizes, labels, the scores that need no model, lengths, power, and warnings with what to do.

    Raises:
        BenchError: As `load_task`, where a metric has no meaning for the task's kind, and where there is no such model.
    """
    from bench.metric.score import check_metrics
    from bench.result.paired import minimum_detectable_effect

    task = load_task(folder, data=data)
    check_metrics(task.config.metrics, task.config.kind, f"{task.folder / 'task.yaml'}: metrics")
    lines = [f"task {task.name}: {task.config.kind}, metrics {', '.join(task.config.metrics)}"]
    for split in SPLITS:
        examples: Sequence[Example] = getattr(task, split)
        answerable = sum(example.answerable for example in examples) / len(examples)
        asked, answered = (
            statistics.median(map(_words, texts))
            for texts in ([example.input for example in examples], [example.targets[0] for example in examples])
        )
        lines.append(
            f"{split}: {len(examples)} items in {len({e.cluster for e in examples})} clusters, {answerable:.1%} answerable, "
            f"median words {asked:.0f} in the input and {answered:.0f} in the answer"
        )
    reasoning = [example.rationale for split in SPLITS for example in getattr(task, split) if example.rationale is not None]
    if reasoning:
        spoken = [_words(text) for text in reasoning]
        lines.append(f"rationales: {len(reasoning)}, median words {statistics.median(spoken):.0f}, at most {max(spoken)}")
    if task.corpus:
        used = {identity for split in SPLITS for example in getattr(task, split) for identity in example.evidence}
        lines.append(f"corpus: {len(task.corpus)} passages, {len(used)} of them named as evidence")
    lines += _answers(task)
    for name in task.config.slices:
        counts = Counter(example.slices[name] for example in task.test)
        lines.append(f"slice {name}: {_shares(counts)} of test")
    clusters = len({e.cluster for e in task.test})
    lines.append(
        f"power: a true difference of {100 * minimum_detectable_effect(TYPICAL_DISCORDANCE, clusters):.1f} points or more is found with"
        f" probability .8 where two strategies disagree on {TYPICAL_DISCORDANCE:.0%} of {clusters} independent items (clusters)"
    )
    lengths, too_long = _lengths(task, model)
    lines += lengths
    warnings = [f"{warning}; to do: {_advice(warning)}" for warning in task.warnings] + too_long + _balance(task) + _size(clusters)
    lines.append(_leakage(task))
    lines += [f"warning: {warning}" for warning in warnings]
    lines.append(f"fingerprint: {task.fingerprint}")
    return lines


def _advice(warning: str) -> str:
    return next((advice for part, advice in _ADVICE.items() if part in warning), "see docs/add-a-task.md")


def _leakage(task: Task) -> str:
    """What was compared between the splits; what was found is among the warnings."""
    if not task.config.cluster:
        clusters = "no cluster column, so rows of one document or customer are not looked for"
    elif task.config.shared_clusters == "allow":
        clusters = "shared clusters are allowed"
    else:
        clusters = f"no {task.config.cluster} of test stands in train"
    found = sum("too (" in warning or "nearly repeat" in warning for warning in task.warnings)
    return f"leakage: {found or 'no'} warnings of equal or nearly equal inputs between splits; {clusters}"


def _balance(task: Task) -> list[str]:
    if not task.labels:
        return []
    counts = Counter(example.targets[0] for example in task.train)
    label, most = counts.most_common(1)[0]
    found = []
    if most > MOST_OF_ALL * len(task.train):
        found.append(f'labels: "{label}" is {most / len(task.train):.0%} of train; to do: make macro_f1 the first metric')
    tested = Counter(example.targets[0] for example in task.test)
    if rare := [label for label in task.labels if tested[label] < 3]:
        share = f"{len(rare)} of {len(task.labels)}"
        found.append(f'labels: {share} have fewer than 3 test items, as "{rare[0]}"; to do: add some, or unite them')
    return found


def _size(clusters: int) -> list[str]:
    from bench.result.paired import minimum_detectable_effect

    smallest = 100 * minimum_detectable_effect(TYPICAL_DISCORDANCE, clusters)
    if smallest <= ENOUGH_POINTS:
        return []
    needed = math.ceil(clusters * (smallest / ENOUGH_POINTS) ** 2)
    return [
        f"test: {clusters} independent items show only differences of {smallest:.0f} points or more; to do: have {needed} for "
        f"{ENOUGH_POINTS} points"
    ]


def _lengths(task: Task, model: str) -> tuple[list[str], list[str]]:
    """Tokens of the zero-shot prompts, as the model is asked, and of the answers of test; warnings where there is no room for them."""
    from bench.model.files import PLAIN_TURNS, has_chat_template
    from bench.model.source import config_of, tokenizer_files
    from bench.strategy.prompt import build_messages

    config, kind = config_of(model)
    files = tokenizer_files(model)
    window = config.get("max_position_embeddings") or config.get("n_positions")
    conversations = [
        [{"role": "text", "content": example.input}] if kind == "encoder" else build_messages(task, example.input) for example in task.test
    ]
    targets = [list(example.targets) for example in task.test]
    try:
        prompts, answers = _token_counts(files, conversations, targets)
        unit = "tokens"
    except Exception:  # the library raises whatever its own and a model's code raise
        prompts = [sum(_words(turn["content"]) for turn in messages) for messages in conversations]
        answers = [max(map(_words, each)) for each in targets]
        unit, window = "words", None
    room = task.config.max_new_tokens
    said = f" of a window of {window}" if window else ""
    lines = [
        f"lengths on test ({model}, {unit}): zero-shot prompts median {statistics.median(prompts):.0f}, at most {max(prompts)}{said}; "
        f"answers median {statistics.median(answers):.0f}, at most {max(answers)}"
    ]
    if kind == "causal" and not task.config.layout and not has_chat_template(files):
        lines.append(f"note: model {model}: {PLAIN_TURNS}")
    cut = sum(answer > room for answer in answers)
    warnings = []
    if cut and task.config.kind != "multiple_choice":
        warnings.append(
            f"answers: {cut} of {len(answers)} on test have more {unit} than max_new_tokens ({room}) and cannot be given whole; to do: "
            f"max_new_tokens: {max(answers) + 1}"
        )
    if window and (over := sum(prompt + room > window for prompt in prompts)):
        warnings.append(
            f"prompts: {over} of {len(prompts)} on test, with {room} for the answer, exceed {model}'s window of {window}; to do: "
            "shorten the input, retrieve parts of it (--corpus), or take a model with a longer window (--model)"
        )
    return lines, warnings


def _token_counts(
    files: ModelFiles, asked: Sequence[Sequence[Message]], targets: Sequence[Sequence[str]]
) -> tuple[list[int], list[int]]:
    """Tokens of each conversation, and of the longest of each item's answers."""
    from bench.model.conversation import Conversations

    conversations = Conversations.of(files)
    texts = [text for each in targets for text in each]
    counts = iter([len(ids) for ids in conversations.tokenizer(texts, add_special_tokens=False)["input_ids"]])
    return [len(ids) for ids in conversations.prompts_ids(asked)], [max(next(counts) for _ in each) for each in targets]


def _words(text: str) -> int:
    """Words by spaces; characters where there are no spaces between words."""
    return len(words(text) if is_unspaced(text) else text.split())


def _answers(task: Task) -> list[str]:
    """The distribution of answers, and what those score on test that ask no model."""
    counts = Counter(example.targets[0] for example in task.train)
    lines = []
    if task.labels:
        lines.append(f"labels: {len(task.labels)}; {_shares(counts)} of train")
    if task.config.kind == "multiple_choice":
        lines += _options(task)
    if task.config.kind in ("classification", "qa", "multiple_choice"):
        answer, _ = counts.most_common(1)[0]
        right = sum(answer in example.targets for example in task.test)
        lines.append(f'baseline: the most frequent answer of train, "{answer}", is right for {right / len(task.test):.1%} of test')
    if task.config.abstain:
        without = sum(not example.answerable for example in task.test)
        lines.append(f"baseline: always abstaining is right for {without / len(task.test):.1%} of test")
    for name in task.config.fields or () if task.config.kind == "structured" else ():
        values = {split: [_field(example, name) for example in getattr(task, split)] for split in ("train", "test")}
        value, _ = Counter(values["train"]).most_common(1)[0]
        right = values["test"].count(value)
        lines.append(f"baseline: {name} is {value}, the most frequent of train, for {right / len(task.test):.1%} of test")
    return lines


def _options(task: Task) -> list[str]:
    """How many options there are, and how often rules that read no question pick a right one on test."""
    counts = sorted({len(example.options) for split in SPLITS for example in getattr(task, split)})
    length = statistics.median(_words(option) for example in task.test for option in example.options)
    number = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    place, _ = Counter(example.options.index(example.targets[0]) for example in task.train).most_common(1)[0]
    rules: dict[str, Sequence[float]] = {
        "picking at random": [len(e.targets) / len(e.options) for e in task.test],
        f"picking number {place + 1}, the most frequent place in train,": [
            place in map(e.options.index, e.targets) for e in task.test
        ],
        "picking the longest option": [max(e.options, key=len) in e.targets for e in task.test],
    }
    lines = [f"options: {number} an item, median words {length:.0f}"]
    return lines + [f"baseline: {rule} is right for {sum(right) / len(task.test):.1%} of test" for rule, right in rules.items()]


def _field(example: Example, name: str) -> str:
    try:
        return json.dumps(json.loads(example.targets[0]).get(name), ensure_ascii=False)
    except ValueError:  # an abstention phrase
        return "null"


def _shares(counts: Counter[str]) -> str:
    most = [f"{value} {count / counts.total():.1%}" for value, count in counts.most_common(5)]
    return ", ".join([*most, f"{len(counts) - 5} more"] if len(counts) > 5 else most)
