"""What kind of error a wrong answer is, for strategies that hand the model passages to read.

Question answering only: the texts of answers, passages and targets are compared as words (`bench.metric.text.stands_in`: SQuAD
normalisation, one after another). A passage is *evidence* if it is of a gold document and holds a target; where no gold document holds a
target as words (a yes, a sum), every passage of a gold document is. Every error has exactly one kind: the first of these that applies.

An item with an answer, answered wrongly or abstained from:

1. ``format_failure``: the answer is empty, or a target stands in it beside other words. What was asked for was found, or nothing said.
2. ``retrieval_miss``: no evidence was retrieved.
3. ``evidence_truncated``: evidence was retrieved, but left out of the prompt to fit the window.
4. ``wrongly_abstained``: evidence was read, and the answer is an abstention.
5. ``evidence_misread``: the answer stands in a gold document's passage that was read: the wrong part of the right text.
6. ``distractor_copied``: the answer stands in another passage that was read.
7. ``evidence_ignored``: the answer stands in nothing that was read, but in the corpus or among the training targets: from memory.
8. ``fabricated``: the answer stands nowhere.

An item without an answer, answered: abstaining is right whatever was read, so 2 to 4 do not apply, and in 1 it is an abstention phrase
that stands beside other words. No error has a kind where the item has an answer but no gold document is known.

Limits: an answer of common words stands in many passages by chance, and one that was put in other words stands in none. Where several gold
documents are needed, one of them is enough for 2 to 4.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Literal, Protocol, get_args

from bench.metric.score import Answer
from bench.metric.text import normalize, stands_in
from bench.result.schema import Outcome
from bench.task.schema import Passage, Task

ErrorKind = Literal[
    "format_failure",
    "retrieval_miss",
    "evidence_truncated",
    "wrongly_abstained",
    "evidence_misread",
    "distractor_copied",
    "evidence_ignored",
    "fabricated",
]
ERROR_KINDS: tuple[ErrorKind, ...] = get_args(ErrorKind)


class ItemLike(Protocol):
    """What errors are counted of; `bench.result.schema.Item` is one."""

    @property
    def error(self) -> str | None: ...


def error_kinds(task: Task, answers: Sequence[Answer], outcomes: Sequence[Outcome]) -> list[ErrorKind | None]:
    """The kind of error of each answer, in order; None for a right answer, and where no kind is defined (see the module)."""
    if task.config.kind != "qa":
        return [None] * len(answers)
    return [_kind(task, answer, outcome) for answer, outcome in zip(answers, outcomes, strict=True)]


def error_counts(items: Iterable[ItemLike]) -> dict[str, int]:
    """Items by kind of error, zeros included, in the order of `ERROR_KINDS`."""
    counted = Counter(item.error for item in items)
    return {kind: counted[kind] for kind in ERROR_KINDS}


def _kind(task: Task, answer: Answer, outcome: Outcome) -> ErrorKind | None:
    example, said = answer.example, answer.prediction
    if answer.passages is None or outcome == "correct":
        return None
    if not example.answerable and outcome == "abstained":
        return None
    if example.answerable and not example.evidence:
        return None
    beside = example.targets if example.answerable else task.config.abstain
    if outcome != "abstained" and (not said.strip() or any(stands_in(text, said) for text in beside)):
        return "format_failure"
    if example.answerable:
        is_evidence = _evidence_of(task, answer)
        if not any(map(is_evidence, (*answer.passages, *answer.left_out))):
            return "retrieval_miss"
        if not any(map(is_evidence, answer.passages)):
            return "evidence_truncated"
        if outcome == "abstained":
            return "wrongly_abstained"
    sources = [passage.id in example.evidence for passage in answer.passages if stands_in(said, passage.text)]
    if sources:
        return "evidence_misread" if any(sources) else "distractor_copied"
    known = _known_text(task.corpus, tuple(target for row in task.train for target in row.targets))
    return "evidence_ignored" if f" {normalize(said)} " in known else "fabricated"


def _evidence_of(task: Task, answer: Answer) -> Callable[[Passage], bool]:
    """Whether a passage is evidence for the answer's example."""
    gold, targets = answer.example.evidence, answer.example.targets

    def holds_target(passage: Passage) -> bool:
        return passage.id in gold and any(stands_in(target, passage.text) for target in targets)

    return holds_target if any(map(holds_target, task.corpus)) else lambda passage: passage.id in gold


@lru_cache(maxsize=4)  # of the tasks at hand: all batches of a cell ask for the same
def _known_text(corpus: tuple[Passage, ...], targets: tuple[str, ...]) -> str:
    """The words of corpus and targets; a line each, so that none are found across two of them."""
    texts = (*(passage.text for passage in corpus), *targets)
    return "\n".join(f" {normalize(text)} " for text in texts)
