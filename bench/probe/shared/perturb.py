"""What probes of robustness share: other texts and passages for the same test items, and how their answers are judged."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from bench.metric.registry import get
from bench.metric.score import score
from bench.metric.text import normalize
from bench.probe.base import Context, Finding, mean_of
from bench.probe.shared.world import attribute_of
from bench.result.schema import Item, MetricValue
from bench.result.statistics import paired_difference
from bench.strategy.chunk import chunk_passages
from bench.strategy.retrieval import Found, Retriever
from bench.strategy.spec import RetrievalChoice
from bench.task.schema import Example, Passage, Task

if TYPE_CHECKING:
    from bench.run.ask import Answered, Asker, Request

RANKED = 50
"""How far down the lexical ranking distractors are looked for."""
GATED = 1000
"""How far down the dense ranking a passage's cosine is looked up."""
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_BESIDE = {letter: row[max(0, i - 1) : i] + row[i + 1 : i + 2] for row in _ROWS for i, letter in enumerate(row)}
_WORD = re.compile(r"[^\W\d_]{3,}")


@dataclass(frozen=True)
class Judged:
    """One answer, judged."""

    prediction: str
    score: float | None
    """The item score of the task's primary metric; 1 or 0 for right or not where it has none (macro F1); None where it is undefined."""
    right: bool
    """The answer is correct; for an item without an answer: it abstains."""
    abstained: bool


@dataclass(frozen=True)
class Reading:
    """What one example can be handed to read; the same for every strategy."""

    gold: tuple[Passage, ...]
    """Of each gold document the passage that holds a right answer, the best ranked of several."""
    distractors: tuple[Passage, ...]
    """Passages of other documents, best ranked first (BM25), filled up with any others where too few share a word with the input."""
    irrelevant: tuple[Passage, ...]
    """Passages drawn from documents that no example of the same cluster rests on."""


class Tally:
    """The values of a probe by name, and why others are undefined."""

    def __init__(self, clusters: Mapping[str, str]) -> None:
        """`clusters`: item id -> cluster."""
        self.clusters = clusters
        self.findings: dict[str, Finding] = {}
        self.undefined: dict[str, str] = {}
        """Value -> why it is absent."""
        self.p: dict[str, float] = {}
        """Drop -> two-sided p of no drop, over items."""

    def mean(self, name: str, scores: Mapping[str, float | None], reason: str, share: bool = True, paired: bool = True) -> None:
        """The mean of item scores; None is undefined for `reason`, and so is the value where no item is defined.

        ``share``: the scores lie in [0, 1]. ``paired``: every strategy scores the same items, so item scores are kept for comparisons.
        """
        if all(score is None for score in scores.values()):
            self.undefined[name] = reason
            return
        found = mean_of(scores, self.clusters, share=share)
        value = _with_reason(found.value, reason)
        if not share and value.ci_high is not None and not any(found.items.values()):
            value = value.model_copy(update={"ci_low": -value.ci_high})  # Wilson's bound for 0 of n is one-sided
        self.findings[name] = Finding(value, found.items if paired else {})

    def drop(self, name: str, before: Mapping[str, float | None], after: Mapping[str, float | None], reason: str) -> None:
        """The mean of before - after, with the items' differences; those that lack one of the two are undefined for `reason`."""
        known = {i: (a, b) for i in before if (a := before[i]) is not None and (b := after[i]) is not None}
        if not known:
            self.undefined[name] = reason
            return
        a, b = np.array(list(known.values()), dtype=np.float64).T
        found = paired_difference(a, b, [self.clusters[i] for i in known])
        value = MetricValue(
            value=found.delta, ci_low=found.low, ci_high=found.high, n_scored=len(known), n_undefined=len(before) - len(known)
        )
        self.findings[name] = Finding(_with_reason(value, reason), {i: x - y for i, (x, y) in known.items()})
        self.p[name] = found.p_sign_flip


def _with_reason(value: MetricValue, reason: str) -> MetricValue:
    return value.model_copy(update={"undefined": {reason: value.n_undefined}}) if value.n_undefined else value


def sampled(context: Context, n: int) -> list[tuple[Example, Item]]:
    """At most `n` test examples with what the strategy answered, drawn once per task, in the task's order."""
    rows = list(zip(context.cell.task.test, context.items, strict=True))
    drawn = context.random("items").sample(range(len(rows)), min(n, len(rows)))
    return [rows[i] for i in sorted(drawn)]


def judge_item(task: Task, item: Item) -> Judged:
    """A scored test item as other answers are judged."""
    return _judged(task, item.prediction, item.scores, item.outcome, item.answerable)


def judge(task: Task, examples: Sequence[Example], answered: Sequence[Answered]) -> list[Judged]:
    """The answers to the examples, in order, judged by the task's primary metric."""
    from bench.run.ask import to_answers

    answers = to_answers(task, examples, answered)
    scored = score(task, answers, [task.primary_metric])
    return [
        _judged(task, answer.prediction, values, outcome, answer.example.answerable)
        for answer, values, outcome in zip(answers, scored.items, scored.outcomes, strict=True)
    ]


def _judged(task: Task, prediction: str, scores: Mapping[str, float], outcome: str, answerable: bool) -> Judged:
    right = outcome == ("correct" if answerable else "abstained")
    value = scores.get(task.primary_metric) if get(task.primary_metric).mean_of_items else float(right)
    return Judged(prediction, value, right, outcome == "abstained")


def with_typos(text: str, shares: Sequence[float], rng: Random) -> list[str]:
    """The text with typos in each of these shares of its words, in expectation.

    A word has at least three letters and gets one typo: two neighbouring letters swapped, a letter dropped, or the key beside it
    hit (QWERTY), a third each. A word that is hit at a share is hit in the same way at every larger one.
    """
    hits = [(match, rng.random(), _typo(match.group(), rng)) for match in _WORD.finditer(text)]
    texts = []
    for share in shares:
        parts, end = [], 0
        for match, draw, typo in hits:
            parts += [text[end : match.start()], typo if draw < share else match.group()]
            end = match.end()
        texts.append("".join([*parts, text[end:]]))
    return texts


def _typo(word: str, rng: Random) -> str:
    kind, i = rng.choice(("swap", "drop", "key")), rng.randrange(len(word))
    if kind == "swap":
        places = [j for j in range(len(word) - 1) if word[j] != word[j + 1]]
        if places:
            j = places[i % len(places)]
            return word[:j] + word[j + 1] + word[j] + word[j + 2 :]
    if kind == "key" and (beside := _BESIDE.get(word[i].lower())):
        key = rng.choice(beside)
        return word[:i] + (key.upper() if word[i].isupper() else key) + word[i + 1 :]
    return word[:i] + word[i + 1 :]


def readings(context: Context, examples: Sequence[Example], n: int) -> list[Reading]:
    """What each example, which has evidence, can be handed: its gold passages, and up to `n` distractors and irrelevant passages."""
    task, choice = context.cell.task, RetrievalChoice(search="lexical", top_k=RANKED)
    documents = {p.id: p for p in task.corpus}
    rests_on: dict[str, set[str]] = {}
    for example in (*task.train, *task.validation, *task.test):
        rests_on.setdefault(example.cluster, set()).update(example.evidence)

    def passages(document: str) -> list[Passage]:
        return [Passage(document, c.text) for c in chunk_passages([documents[document]], choice.chunk_words, choice.chunk_overlap)]

    found = Retriever(task, choice, None, context.scratch).find(examples) or []
    made = []
    for example, row in zip(examples, found, strict=True):
        ranked = [Passage(i, text) for i, text in zip(row.document_ids, row.passages, strict=True)]

        def fitness(passage: Passage, example: Example = example, ranked: list[Passage] = ranked) -> tuple[bool, int]:
            holds = any(says(passage.text, target) for target in example.targets)
            return not holds, ranked.index(passage) if passage in ranked else len(ranked)

        gold = tuple(min(passages(i), key=fitness) for i in example.evidence)
        best = [p for p in ranked if p.id not in example.evidence][:n]
        rng = context.random(f"reading/{example.id}")
        others = [i for i in documents if i not in rests_on[example.cluster]]
        drawn = [passages(i)[0] for i in rng.sample(others, min(len(others), n + len(best)))]
        fill = [p for p in drawn if p.id not in {b.id for b in best}]
        made.append(Reading(gold, tuple([*best, *fill][:n]), tuple(drawn[:n])))
    return made


def hand(asker: Asker, examples: Sequence[Example], passages: Sequence[Sequence[Passage]]) -> list[Request]:
    """The requests with these passages in place of what retrieval finds.

    A strategy that abstains below a cosine does so here by the nearest of the documents handed.
    """
    nearest: dict[str, dict[str, float]] = {}
    store = asker.retriever.store
    if asker.strategy.retrieval.abstain_below is not None and store:
        inputs = list(dict.fromkeys(e.input for e in examples))
        for text, hits in zip(inputs, store.search(inputs, GATED), strict=True):
            nearest[text] = {hit.chunk.document_id: hit.score for hit in reversed(hits)}
    found = []
    for example, read in zip(examples, passages, strict=True):
        cosines = nearest.get(example.input, {})
        cosine = max((cosines[p.id] for p in read if p.id in cosines), default=None)
        found.append(Found(tuple(p.text for p in read), tuple(p.id for p in read), cosine))
    return asker.requests(examples, found)


def is_whole(request: Request) -> bool:
    """Whether all passages stand in the prompt; those that do not fit the window are left out of it."""
    last = request.prompt.messages[-1]["content"]
    return all(text in last for text in (request.found.passages if request.found else ()))


def says(text: str, answer: str) -> bool:
    """Whether the words of the answer stand in the text in a row, both normalised."""
    return f" {normalize(answer)} " in f" {normalize(text)} "


def false_answer(task: Task, example: Example, text: str, rng: Random) -> str | None:
    """A wrong answer of the same kind, that `text` does not hold; None where there is none.

    Another of the item's options or, in the embedded world, another value of the attribute asked for; else another training target.
    """
    attribute = attribute_of(example.targets[0])
    if example.options:
        pool = list(example.options)
    elif attribute:
        pool = list(attribute.values)
    else:
        pool = sorted({e.targets[0] for e in task.train if e.answerable})
    right = {normalize(target) for target in example.targets}
    pool = [answer for answer in pool if normalize(answer) not in right and not says(text, answer)]
    return rng.choice(pool) if pool else None


def contradicted(passage: Passage, example: Example, answer: str) -> Passage | None:
    """A copy of the passage with `answer` in place of each right answer; None where it holds none word by word."""
    targets = "|".join(re.escape(target) for target in sorted(example.targets, key=len, reverse=True))
    text, n = re.subn(rf"(?<!\w)(?:{targets})(?!\w)", lambda _: answer, passage.text)
    return Passage(passage.id, text) if n else None
