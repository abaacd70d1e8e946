"""Test items side by side: gathered from items and kept texts, chosen by rule, and packed for the page."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import pvariance
from typing import Any, NamedTuple

from bench.errors import BenchError
from bench.report.model import Answer, Question, TaskEvidence
from bench.result.arms import Arm
from bench.result.schema import Item
from bench.result.store import RunFolder

DISAGREEMENT = "most informative disagreement"
CORRECTED = "corrected hallucination"
NEW_ERROR = "new error"
UNANSWERABLE = "no answer exists, and they differ"
ALL_WRONG = "all wrong"


class Chosen(NamedTuple):
    """An item worth reading."""

    question: str
    """Its id."""
    rule: str
    why: str


def read_questions(group: Sequence[Arm], folders: Sequence[RunFolder], metric: str) -> tuple[tuple[Question, ...], dict[str, str]]:
    """The test items of one task with what each strategy's first seed answered, and the texts of their passages by id.

    Texts are those that the runs kept, or else of the task's own files where these are still the same: an input whose SHA-256 is the
    item's, the passages of a task with the records' fingerprint. Others have no text. Raises BenchError for a broken file.
    """
    answers = {arm.strategy: {item.id: item for item in _first_items(arm, folders)} for arm in group if arm.ok}
    items = {identity: item for of_arm in answers.values() for identity, item in of_arm.items()}
    documents = {i for of_arm in answers.values() for item in of_arm.values() for i in documents_of(item)}
    inputs, passages = _kept_texts(group[0].task, folders)
    texts = {i: text for i, text in inputs.items() if i in items and _same(text, items[i])}
    if items.keys() - texts.keys() or documents - passages.keys():
        inputs, corpus = _task_texts(group, folders)
        texts |= {i: text for i, text in inputs.items() if i in items and _same(text, items[i])}
        passages = corpus | passages
    questions = []
    for identity, item in items.items():
        given = {name: _answer(of_arm[identity], metric) for name, of_arm in answers.items() if identity in of_arm}
        known = texts.get(identity), tuple(item.targets), tuple(item.gold_ids), given
        questions.append(Question(identity, *known, answerable=item.answerable, cluster=item.cluster))
    return tuple(questions), {i: text for i, text in passages.items() if i in documents}


def documents_of(item: Item) -> set[str]:
    """Ids of the documents that an item has to do with: gold, read or cited."""
    return {*item.gold_ids, *(item.retrieved_ids or ()), *(item.cited_ids or ())}


def _first_items(arm: Arm, folders: Sequence[RunFolder]) -> list[Item]:
    cell = (arm.task, arm.strategy, arm.ok[0].seed)
    folder = next(f for f in reversed(folders) if (f.cell_folder(*cell) / "record.json").exists())
    return folder.read_items(*cell)


def _answer(item: Item, metric: str) -> Answer:
    retrieved, cited = (None if ids is None else tuple(ids) for ids in (item.retrieved_ids, item.cited_ids))
    return Answer(item.prediction, item.scores.get(metric), item.outcome, item.error, retrieved, cited)


def _same(text: str, item: Item) -> bool:
    return hashlib.sha256(text.encode()).hexdigest() == item.input_hash


def _kept_texts(task: str, folders: Sequence[RunFolder]) -> tuple[dict[str, str], dict[str, str]]:
    inputs: dict[str, str] = {}
    passages: dict[str, str] = {}
    for folder in folders:
        kept = folder.read_texts(task)
        inputs |= kept.get("items", {})
        passages |= kept.get("passages", {})
    return inputs, passages


def _task_texts(group: Sequence[Arm], folders: Sequence[RunFolder]) -> tuple[dict[str, str], dict[str, str]]:
    """Inputs and passages of the task as it is on this machine now; the passages only where it is the one that was run."""
    from bench.suite import find_task
    from bench.task.checks import read_config
    from bench.task.load import load_task

    name, suite = group[0].task, folders[-1].read_run().suite
    data, limit, budget = suite.get("data"), suite.get("limit"), suite.get("budget") or {}
    named = next((entry for entry in suite.get("tasks", ()) if Path(str(entry)).name == name), name)
    try:
        place = find_task(named)
        rows = (Path() if data else place) / Path(data or read_config(place / "task.yaml").data or ".").expanduser()
        if not rows.is_dir():
            return {}, {}  # rows of a hub: a report asks no network
        task = load_task(place, data=data, limit=limit, train_examples=budget.get("train_examples"))
    except BenchError:
        return {}, {}
    made = {record.fingerprints.task for arm in group for record in arm.ok if record.fingerprints}
    corpus = {passage.id: passage.text for passage in task.corpus} if made == {task.fingerprint} else {}
    return {example.id: example.input for example in task.test}, corpus


def is_right(question: Question, answer: Answer) -> bool:
    """Whether an answer is right: correct, or an abstention where the item has no answer."""
    return answer.outcome == ("correct" if question.answerable else "abstained")


@dataclass
class _Choice:
    """Items chosen so far; a cluster gives a second one only when no other has one left."""

    limit: int
    chosen: dict[str, Chosen] = field(default_factory=dict)
    clusters: set[str] = field(default_factory=set)

    def take(self, rule: str, found: Iterable[tuple[Question, str]], count: int) -> None:
        """Up to ``count`` of the items found, best first."""
        rest = [(question, why) for question, why in found if question.id not in self.chosen]
        for fresh in (True, False):
            for question, why in rest:
                if count <= 0 or len(self.chosen) >= self.limit:
                    return
                if question.id in self.chosen or (fresh and question.cluster and question.cluster in self.clusters):
                    continue
                self.chosen[question.id] = Chosen(question.id, rule, why)
                self.clusters.add(question.cluster)
                count -= 1


def choose(task: TaskEvidence, baseline: str | None, recommended: str | None, limit: int = 12) -> list[Chosen]:
    """Up to ``limit`` items to show side by side, each by a rule that it names; the same evidence always gives the same ones.

    A quarter of the items each: corrected hallucinations (the baseline attempted and was wrong, the recommended strategy is right), new
    errors (the other way round, an abstention where there is an answer counts), the rest disagreements; and one item without an answer on
    which the strategies differ, one that all get wrong. What a rule cannot fill, disagreements do. These are the items whose scores
    have the largest variance over the contenders (of scores 0 and 1, the most even split; Var = p (1 - p)), ties in the order of
    the task. Floors and oracles have no say. A baseline or recommended strategy that has no answers: its rules find nothing.
    """
    contenders = [c.strategy for c in task.candidates if c.standing == "contender"]
    asked = [(question, {name: question.answers[name] for name in contenders if name in question.answers}) for question in task.questions]
    rights = {question.id: {name: is_right(question, answer) for name, answer in given.items()} for question, given in asked}

    def spread(pair: tuple[Question, dict[str, Answer]]) -> float:
        question, given = pair
        scores = [float(rights[question.id][name]) if answer.score is None else answer.score for name, answer in given.items()]
        return pvariance(scores) if scores else 0.0

    def says(question: Question) -> str:
        right = rights[question.id]
        return f"{sum(right.values())} of {len(right)} strategies are right"

    differing = sorted((pair for pair in asked if round(spread(pair), 12) > 0), key=lambda pair: -round(spread(pair), 12))
    picked = _Choice(limit)
    quarter = max(1, limit // 4)
    changed: tuple[tuple[str, Callable[[Question], bool], str], ...] = ()
    if baseline is not None and recommended is not None and baseline != recommended:
        changed = (
            (CORRECTED, lambda q: q.answers[baseline].outcome == "incorrect" and is_right(q, q.answers[recommended]),
             f"{baseline} answered and was wrong, {recommended} is right"),
            (NEW_ERROR, lambda q: is_right(q, q.answers[baseline]) and not is_right(q, q.answers[recommended]),
             f"{baseline} is right, {recommended} is not"),
        )  # fmt: skip
    for rule, holds, why in changed:
        both = [q for q in task.questions if baseline in q.answers and recommended in q.answers and holds(q)]
        picked.take(rule, [(q, f"{why}; {says(q)}") for q in both], quarter)
    unanswerable = [q for q in task.questions if not q.answerable and len(set(rights[q.id].values())) > 1]
    unanswerable.sort(key=lambda q: -pvariance(list(map(float, rights[q.id].values()))))
    picked.take(UNANSWERABLE, [(q, says(q)) for q in unanswerable], 1)
    hopeless = [(q, given) for q, given in asked if len(given) > 1 and not any(rights[q.id].values())]
    picked.take(ALL_WRONG, [(q, f"none of {len(given)} strategies is right") for q, given in hopeless], 1)
    picked.take(DISAGREEMENT, [(q, _scores_differ(q, given) or says(q)) for q, given in differing], limit)
    rank = {rule: place for place, rule in enumerate((DISAGREEMENT, CORRECTED, NEW_ERROR, UNANSWERABLE, ALL_WRONG))}
    return sorted(picked.chosen.values(), key=lambda c: rank[c.rule])


def _scores_differ(question: Question, given: dict[str, Answer]) -> str:
    """What to say where scores are graded; empty where they are 0 or 1."""
    scores = [answer.score for answer in given.values() if answer.score is not None]
    if all(score in (0.0, 1.0) for score in scores):
        return ""
    return f"scores from {min(scores):.2f} to {max(scores):.2f} over {len(scores)} strategies"


def packed(task: TaskEvidence) -> dict[str, Any]:
    """Questions, answers and passages as small JSON-ready lists; every text stands once.

    ``texts`` holds every text; wherever a key below says *text*, its place in it, or None. ``questions`` has lists of equal length:
    ``id`` and ``text``, ``cluster``: text; ``targets``: lists of texts; ``gold``: lists of documents; ``answerable``: 1 or 0.
    ``documents``: pairs of id and text, both text; a *document* is a place among them. ``outcomes``: the words that ``outcome`` counts in.
    ``answers``: strategy -> lists as long as those of the questions: ``prediction`` and ``error``: text; ``score``: to four decimals;
    ``outcome``: a place in ``outcomes``; None throughout where the strategy has no answer. ``retrieved`` and ``cited``, left out where
    the strategy has none: lists of documents, best first.
    """
    texts: dict[str, int] = {}

    def text(value: str | None) -> int | None:
        return None if value is None else texts.setdefault(value, len(texts))

    named = dict.fromkeys(task.passages)
    for question in task.questions:
        for ids in (question.gold, *(ids for answer in question.answers.values() for ids in (answer.retrieved, answer.cited) if ids)):
            named |= dict.fromkeys(ids)
    places = {identity: place for place, identity in enumerate(named)}
    outcomes = ["correct", "incorrect", "abstained"]
    questions: dict[str, list[Any]] = {
        "id": [text(q.id) for q in task.questions],
        "text": [text(q.text) for q in task.questions],
        "cluster": [text(q.cluster) for q in task.questions],
        "targets": [[text(target) for target in q.targets] for q in task.questions],
        "gold": [[places[i] for i in q.gold] for q in task.questions],
        "answerable": [int(q.answerable) for q in task.questions],
    }
    answers: dict[str, dict[str, list[Any]]] = {}
    for strategy in (c.strategy for c in task.candidates):
        given = [q.answers.get(strategy) for q in task.questions]
        if not any(given):
            continue
        answers[strategy] = {
            "prediction": [a and text(a.prediction) for a in given],
            "score": [None if a is None or a.score is None else _short(a.score) for a in given],
            "outcome": [a and outcomes.index(a.outcome) for a in given],
            "error": [a and text(a.error) for a in given],
        }
        for key in ("retrieved", "cited"):
            listed = [None if a is None else getattr(a, key) for a in given]
            if any(ids is not None for ids in listed):
                answers[strategy][key] = [None if ids is None else [places[i] for i in ids] for ids in listed]
    documents = [[text(identity), text(task.passages.get(identity))] for identity in places]
    return {"texts": list(texts), "documents": documents, "outcomes": outcomes, "questions": questions, "answers": answers}


def _short(score: float) -> float | int:
    rounded = round(score, 4)
    return int(rounded) if rounded == int(rounded) else rounded
