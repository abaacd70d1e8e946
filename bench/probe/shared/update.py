"""A change of the embedded world: facts of a task's products are edited, added and deleted, with all that strategies may use of it."""

from __future__ import annotations

import random
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from bench.task.schema import Example, Passage, Task
from bench.world.entities import ATTRIBUTE, ATTRIBUTES, GENERIC_QUESTIONS, HELD_OUT_QUESTIONS, Attribute, Product, draw_facts, names
from bench.world.text import product_page

STATED = 4
"""Facts of an added product, as those of the task have."""
TRAIN_WORDINGS = 2
"""Wordings in which an update's training rows ask for each changed fact."""


@dataclass(frozen=True)
class Change:
    """One fact and what becomes of it; `old` is None where it is added, `new` where it is deleted, both are equal where it stays."""

    product: str
    document_id: str
    attribute: Attribute
    old: str | None
    new: str | None

    @property
    def id(self) -> str:
        return f"{self.product}/{self.attribute.name}"

    def answer(self, task: Task) -> dict[str, Any]:
        """The fields of an example that say what is right after the change."""
        return {"targets": (self.new or task.config.abstain[0],), "answerable": self.new is not None}

    def example(self, form: str, name: str, task: Task) -> Example:
        """The question of this form."""
        text = form.format(a=self.attribute.noun, n=self.product)
        return Example(f"{self.id}/{name}", text, cluster=self.product, evidence=(self.document_id,), **self.answer(task))


@dataclass(frozen=True)
class Page:
    """A document about one product."""

    id: str
    product: str
    text: str
    facts: tuple[Change, ...]
    """What it states."""


@dataclass(frozen=True)
class Update:
    """A change of the world, with all that strategies may use of it and the questions that measure what it did."""

    edited: tuple[Change, ...]
    deleted: tuple[Change, ...]
    corpus: tuple[Passage, ...]
    """The whole corpus after the update."""
    changed: tuple[Passage, ...]
    """The documents that are new or differ."""
    rows: tuple[Example, ...]
    """Labelled examples of the changed facts."""
    train: tuple[Example, ...]
    """The task's examples, put right, and the rows."""
    questions: dict[str, tuple[Example, ...]]
    """edited, held_out (the same facts), added, deleted, unrelated -> questions, in wordings that no row has and no training example of
    the same fact."""


def draw_update(task: Task, rng: random.Random, *, n_edited: int, n_deleted: int, added: int, unrelated: int) -> Update:
    """Draw an update of a task of which `pages_of` finds at least `n_edited` + `n_deleted` pages; at most `unrelated` facts that stay."""
    pages = pages_of(task)
    drawn = rng.sample(pages, n_edited + n_deleted)
    trained = {(e.cluster, e.targets[0]) for e in task.train}
    # Facts that are asked in train and facts that are not take turns.
    old = [_fact(page, trained, rng, in_train=i % 2 == 0) for i, page in enumerate(drawn)]
    edited = [replace(c, new=rng.choice([v for v in c.attribute.values if v != c.old])) for c in old[: n_edited]]
    deleted = [replace(c, new=None) for c in old[n_edited :]]
    kept = [c for page in pages for c in page.facts if c.id not in {gone.id for gone in old}]
    new = _new_pages(task, added, rng)
    groups = {
        "edited": edited, "added": [c for page in new for c in page.facts], "deleted": deleted,
        "unrelated": rng.sample(kept, min(unrelated, len(kept))),
    }  # fmt: skip

    changed = {page.id: _edited(page, change, rng) for page, change in zip(drawn, (*edited, *deleted), strict=True)}
    changed |= {page.id: Passage(page.id, page.text) for page in new}
    corpus = [changed.get(p.id, p) for p in task.corpus] + [changed[page.id] for page in new]

    taken = {e.input for e in (*task.train, *task.validation)}
    rows: list[Example] = []
    questions: dict[str, list[Example]] = {"held_out": []}
    for name, changes in groups.items():
        questions[name] = []
        for c in changes:
            forms = [f for f in (*GENERIC_QUESTIONS, *c.attribute.questions) if c.example(f, name, task).input not in taken]
            asked, *others = rng.sample(forms, 1 + TRAIN_WORDINGS)
            questions[name].append(c.example(asked, name, task))
            if name != "unrelated":
                rows += [c.example(form, f"row-{i}", task) for i, form in enumerate(others, start=1)]
            if name == "edited":
                questions["held_out"] += [c.example(f, f"held_out-{i}", task) for i, f in enumerate(HELD_OUT_QUESTIONS, start=1)]
    rng.shuffle(rows)
    now = {(c.product, c.old): c for c in (*edited, *deleted)}
    right = [replace(e, **now[fact].answer(task)) if (fact := (e.cluster, e.targets[0])) in now else e for e in task.train]
    return Update(
        tuple(edited), tuple(deleted), tuple(corpus), tuple(changed.values()), tuple(rows), (*right, *rows),
        {name: tuple(group) for name, group in questions.items()},
    )  # fmt: skip


_VALUES = [(a, re.compile(r"\b(" + "|".join(map(re.escape, a.values)) + r")\b")) for a in ATTRIBUTES]


def pages_of(task: Task) -> list[Page]:
    """The pages of the products that the task asks about, by product; empty where its rows are no plain questions on such pages."""
    texts = {p.id: p.text for p in task.corpus}
    pages: dict[str, Page] = {}
    for e in (*task.train, *task.validation, *task.test):
        if len(e.evidence) != 1 or e.evidence[0] not in texts or e.cluster not in e.input:
            return []
        page = pages.setdefault(e.cluster, _page(e.evidence[0], e.cluster, texts[e.evidence[0]]))
        if e.answerable and not any(c.old == e.targets[0] and _asks(e, c.attribute) for c in page.facts):
            return []
    return [pages[product] for product in sorted(pages)]


def _page(document_id: str, product: str, text: str) -> Page:
    stated = ((a, set(pattern.findall(text))) for a, pattern in _VALUES)
    facts = [Change(product, document_id, a, value, value) for a, found in stated if len(found) == 1 for value in found]
    return Page(document_id, product, text, tuple(facts))


def _asks(example: Example, attribute: Attribute) -> bool:
    """Whether the input is a question of the world for this attribute, and nothing else."""
    forms = (*GENERIC_QUESTIONS, *attribute.questions, *HELD_OUT_QUESTIONS)
    return example.input in {form.format(a=attribute.noun, n=example.cluster) for form in forms}


def _fact(page: Page, trained: Collection[tuple[str, str]], rng: random.Random, in_train: bool) -> Change:
    """A fact of the page that is asked in train, or is not; where there is no such fact, any."""
    return rng.choice([c for c in page.facts if ((c.product, c.old) in trained) == in_train] or page.facts)


def _edited(page: Page, change: Change, rng: random.Random) -> Passage:
    """The page after the change."""
    assert change.old is not None
    if change.new is not None:
        return Passage(page.id, re.sub(rf"\b{re.escape(change.old)}\b", change.new, page.text))
    # A sentence cannot just be cut: those after it may say "it" and rely on it.
    left = {c.attribute.name: c.new for c in page.facts if c.new and c.id != change.id}
    return Passage(page.id, product_page(Product(page.product, left), rng))


def _new_pages(task: Task, n: int, rng: random.Random) -> list[Page]:
    """Pages of products that no text of the task has named."""
    texts = [p.text for p in task.corpus] + [e.input for e in (*task.train, *task.validation, *task.test)]
    free = [name for name in names("new") if not any(name in text for text in texts)]
    pages = []
    for i, name in enumerate(rng.sample(free, n), start=1):
        facts, document_id = draw_facts(rng, STATED), f"added-{i:02d}"
        stated = tuple(Change(name, document_id, ATTRIBUTE[a], None, value) for a, value in facts.items())
        pages.append(Page(document_id, name, product_page(Product(name, facts), rng), stated))
    return pages
