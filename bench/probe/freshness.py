"""What becomes of a strategy when the world changes: facts are edited, added and deleted, and it is brought up to date."""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from pydantic import Field

from bench.cost.meter import Meter
from bench.metric.text import normalize
from bench.model.language_model import LanguageModel
from bench.probe.base import Context, Finding, Probe, in_order, mean_of
from bench.result.schema import MetricValue
from bench.run.fit import Fitted
from bench.strategy.chunk import chunk_passages
from bench.strategy.prompt import answer_text
from bench.strategy.spec import Strategy
from bench.strategy.tuning import Pair, tune
from bench.suite import Cell
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


class Freshness(Probe):
    """What an update of the facts costs, what of it arrives, and what of the old remains.

    In a task about products of the embedded world, facts change their value, products are added with a page, and facts are deleted
    from their pages. Half of the edited and of the deleted facts were asked in train, half are in the corpus only. Each strategy
    updates itself as it can, and is measured by questions in wordings that it was not updated with:

    * retrieval: its store is built again over the new corpus;
    * shots: drawn (or retrieved) from the update's labelled rows;
    * tuning: goes on from the present weights, at the chosen settings, for `epochs` over what it trains on: the update's rows (each
      changed fact in two wordings), the changed documents, or both. Nothing selects a checkpoint, and nothing old is rehearsed.

    Definitions as in the literature on editing models (Meng et al. 2022, arXiv 2202.05262); intervals are clustered by product:

    * ``efficacy`` = P(new value | edited); ``generality``: the same in held-out wordings;
    * ``stale_rate`` = P(old value | edited); ``deletion_leak`` = P(old value | deleted);
    * ``added_accuracy`` = P(right | added); ``locality`` = P(answer unchanged | unrelated fact), right or wrong, and
      ``unrelated_accuracy``; names that end in ``_before``: before the update;
    * ``update_seconds``, ``update_cpu_seconds``, ``update_joules``: indexing and training, without loading models. An embedder that has
      to be loaded is in the joules.

    The weights are put back afterwards.
    """

    trains: ClassVar[bool] = True

    epochs: int = Field(default=4, ge=1)
    """Of tuning on the update; the task itself takes 6 or 8."""
    edited: int = Field(default=20, ge=2)
    """Facts, each of another product."""
    added: int = Field(default=10, ge=1, le=100)
    """Products."""
    deleted: int = Field(default=10, ge=2)
    """Facts, each of another product that has no edited one."""
    unrelated: int = Field(default=60, ge=1)
    """Unchanged facts, at most."""

    def not_applicable(self, cell: Cell) -> str | None:
        if cell.strategy.prompt.constant:
            return "the strategy asks no model"
        if cell.strategy.tuning.objective != "answers":
            return "training by preference has no update of its own here"
        if not cell.task.config.abstain or not (pages := pages_of(cell.task)):
            return "the task does not ask for facts about products of the embedded world that its corpus states"
        if len(pages) < self.edited + self.deleted:
            return f"the task has {len(pages)} products; {self.edited} edited and {self.deleted} deleted facts need as many products"
        return None

    def run(self, context: Context) -> tuple[dict[str, Finding], dict[str, Any]]:
        update = self.update(context.cell.task, context.random("freshness"))
        fitted = context.ready
        asked = [example for name in ("edited", "deleted", "unrelated") for example in update.questions[name]]
        before = {e.id: a.parsed.answer for e, a in zip(asked, context.answer(context.requests(asked)), strict=True)}

        meter = Meter(fitted.model.device.type)
        tuned = fitted.strategy.tuning.method != "none"
        with _weights_kept(fitted.model) if tuned else nullcontext():
            updated = Fitted(_cell_after(context.cell, fitted.strategy, update), fitted.strategy, context.scratch, meter, fitted.model)
            if tuned:
                context.report("probe freshness, tune")
                with meter.phase("tune"):
                    meter.add_flops(_go_on(updated, update, self.epochs))
            asked = [example for group in update.questions.values() for example in group]
            with meter.phase("answer"):
                answered = in_order(updated, updated.requests(asked))
        after = {e.id: a.parsed.answer for e, a in zip(asked, answered, strict=True)}

        findings = _compare(update, before, after)
        trained = {(e.cluster, e.targets[0]) for e in context.cell.task.train}
        details: dict[str, Any] = {"n_rows": len(update.rows), "n_changed_documents": len(update.changed)}
        for name, changes in (("edited", update.edited), ("deleted", update.deleted)):
            details[name] = [{"id": c.id, "old": c.old, "new": c.new, "in_train": (c.product, c.old) in trained} for c in changes]
        if has_update(fitted.strategy):
            costs, details["update_flops"] = _costs(meter)
            findings |= costs
        else:
            details["no_update"] = "reads nothing, shows nothing and trains nothing: there is nothing to update, and no cost of it"
        return findings, details

    def update(self, task: Task, rng: random.Random) -> Update:
        """Draw an update of a task that `not_applicable` lets pass."""
        pages = pages_of(task)
        drawn = rng.sample(pages, self.edited + self.deleted)
        trained = {(e.cluster, e.targets[0]) for e in task.train}
        # Facts that are asked in train and facts that are not take turns.
        old = [_fact(page, trained, rng, in_train=i % 2 == 0) for i, page in enumerate(drawn)]
        edited = [replace(c, new=rng.choice([v for v in c.attribute.values if v != c.old])) for c in old[: self.edited]]
        deleted = [replace(c, new=None) for c in old[self.edited :]]
        kept = [c for page in pages for c in page.facts if c.id not in {gone.id for gone in old}]
        new = _new_pages(task, self.added, rng)
        groups = {
            "edited": edited, "added": [c for page in new for c in page.facts], "deleted": deleted,
            "unrelated": rng.sample(kept, min(self.unrelated, len(kept))),
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


def has_update(strategy: Strategy) -> bool:
    """Whether there is anything that the strategy could change when facts change."""
    return strategy.retrieval.search != "none" or strategy.prompt.shots > 0 or strategy.tuning.method != "none"


# ---------------------------------------------------------------------------------------------------- the world


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


# ---------------------------------------------------------------------------------------------------- the update


def _cell_after(cell: Cell, strategy: Strategy, update: Update) -> Cell:
    """The cell over the new corpus, with the examples that its shots come from: of a fixed set the update's, which are what is new."""
    train = update.train if strategy.prompt.select == "nearest" else update.rows
    return replace(cell, task=replace(cell.task, train=train, corpus=update.corpus), trained_with=())


def _go_on(updated: Fitted, update: Update, epochs: int) -> float:
    """Train the model further on the update; the FLOPs that it took."""
    model, asker, strategy = updated.model, updated.asker, updated.strategy
    # One evaluation that cannot fail: what stands after the last step is kept.
    choice = strategy.tuning.model_copy(update={"epochs": epochs, "evaluations": 1})
    pairs: list[Pair] = []
    if "examples" in choice.train_on:
        shown = {shot.id for shot in asker.shots}
        rows = [e for e in update.rows if e.id not in shown]
        found = asker.retriever.find_for_training(rows, choice.gold_share, updated.cell.seed) if choice.with_passages else None
        for example, request in zip(rows, asker.requests(rows, found), strict=True):
            read = request.found.document_ids if request.found else ()
            pairs.append(model.training_ids(request.prompt.messages, answer_text(strategy.prompt, example, read)))
    if "documents" in choice.train_on:
        for chunk in chunk_passages(update.changed, strategy.retrieval.chunk_words, strategy.retrieval.chunk_overlap):
            ids, n = model.text_ids(chunk.text)
            pairs.append((ids[: model.window], n))
    return tune(model, choice, pairs, lambda: 0.0, updated.cell.seed).flops


@contextmanager
def _weights_kept(model: LanguageModel) -> Iterator[None]:
    """Whatever is trained inside this context is undone after it, types included."""
    moving = [p for p in model.network.parameters() if p.requires_grad]
    kept = [p.detach().to("cpu", copy=True) for p in moving]
    try:
        yield
    finally:
        model.network.eval()
        for parameter, value in zip(moving, kept, strict=True):
            parameter.data = value.to(parameter.device)
            parameter.grad = None


# ---------------------------------------------------------------------------------------------------- the numbers


def _compare(update: Update, before: dict[str, str], after: dict[str, str]) -> dict[str, Finding]:
    def gives(answers: dict[str, str], group: str, values: Sequence[str | None]) -> Finding:
        examples = update.questions[group]
        scores = {e.id: float(normalize(answers[e.id]) == normalize(str(v))) for e, v in zip(examples, values, strict=True)}
        return mean_of(scores, {e.id: e.cluster for e in examples})

    def right(answers: dict[str, str], group: str) -> Finding:
        return gives(answers, group, [e.targets[0] for e in update.questions[group]])

    return {
        "efficacy": right(after, "edited"),
        "generality": right(after, "held_out"),
        "stale_rate": gives(after, "edited", [c.old for c in update.edited]),
        "stale_rate_before": gives(before, "edited", [c.old for c in update.edited]),
        "added_accuracy": right(after, "added"),
        "deletion_leak": gives(after, "deleted", [c.old for c in update.deleted]),
        "deletion_leak_before": gives(before, "deleted", [c.old for c in update.deleted]),
        "locality": gives(after, "unrelated", [before[e.id] for e in update.questions["unrelated"]]),
        "unrelated_accuracy": right(after, "unrelated"),
        "unrelated_accuracy_before": right(before, "unrelated"),
    }


def _costs(meter: Meter) -> tuple[dict[str, Finding], float]:
    """What indexing and training took, and their FLOPs."""
    phases = [phase for name, phase in meter.readings().items() if name in ("index", "tune")]
    joules = [phase.energy_joules for phase in phases if phase.energy_joules is not None]
    costs = {"update_seconds": sum(p.wall_seconds for p in phases), "update_cpu_seconds": sum(p.cpu_seconds for p in phases)}
    if len(joules) == len(phases):
        costs["update_joules"] = sum(joules)
    return {name: Finding(MetricValue(value=value, n_scored=1)) for name, value in costs.items()}, sum(p.flops for p in phases)


PROBE = Freshness
