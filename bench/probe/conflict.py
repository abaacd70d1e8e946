"""Whom a strategy believes where a passage contradicts what the model knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import Field

from bench.metric.text import is_abstention, normalize
from bench.probe.base import Context, Finding, Probe, mean_of
from bench.probe.shared.world import facts_of
from bench.strategy.retrieval import Found
from bench.suite import Cell
from bench.task.schema import Example
from bench.world.entities import ATTRIBUTES, N_KNOWN, Product, known_products, names
from bench.world.text import product_page

STATED = 4
"""Facts that a page states, as those of the world's corpora do."""
UNKNOWN = "the pretrained value is not the answer without the passage"
NEITHER = "the answer is neither the passage's value nor the pretrained one"


@dataclass(frozen=True)
class Clash:
    """One question on which pretraining and a passage differ."""

    example: Example
    memory: str
    """The value of pretraining."""
    stated: str
    """The value that the page states."""
    page: str

    def about(self, name: str) -> Clash:
        """The same question and page about the product `name`."""
        own, example = self.example.cluster, self.example
        moved = replace(example, id=f"{example.id}/control", input=example.input.replace(own, name), cluster=name)
        return replace(self, example=moved, page=self.page.replace(own, name))


class Conflict(Probe):
    """Whether it follows a passage that contradicts what the model knows from pretraining.

    A product of the base model's pretraining, with the value v of an attribute, is asked about with one passage: a page that states
    v' != v for that attribute and the truth for three others. Test questions of the task give the wordings; the prompt is the
    strategy's own, shots included, with the page where retrieval puts what it finds. A strategy that reads nothing is asked in the same
    form: for it, this is what tuning has left of the model's reading, not what its users see (``details.reads_passages``).

    Only questions count to which the answer without any passage is v; with a base model of another pretraining there are none.

    * ``parametric_recall`` = P(answers v without the passage), of all questions;
    * ``context_rate`` = P(answers v'), ``memory_rate`` = P(answers v), ``other_rate`` = P(neither), with the passage;
    * ``memorisation_ratio`` = memory / (memory + context) (Longpre et al. 2021, arXiv 2109.05052);
    * ``control_rate`` = P(answers v') to all the same questions and pages with the product's name replaced by one that pretraining has
      never named: whether it can read such a page at all, where nothing contradicts it.

    Desired here is a reader that follows its passage (documents are newer than weights): a ratio of 0. Where documents may be
    wrong the opposite is desired: counterfactual robustness (Chen et al. 2023, arXiv 2309.01431) is a ratio of 1.
    """

    items: int = Field(default=150, ge=1, le=N_KNOWN)
    """Questions, each about another product."""

    def not_applicable(self, cell: Cell) -> str | None:
        if cell.strategy.prompt.constant:
            return "the strategy asks no model"
        if not facts_of(cell.task):
            return "the task does not ask for single facts about products of the embedded world"
        return None

    def run(self, context: Context) -> tuple[dict[str, Finding], dict[str, Any]]:
        clashes = self.clashes(context)
        without = _answers(context, clashes, None)
        with_page = _answers(context, clashes, _found(clashes))
        controls = [c.about(name) for c, name in zip(clashes, names("fake"), strict=False)]
        read = _answers(context, controls, _found(controls))

        knows = {c.example.id: normalize(without[c.example.id]) == normalize(c.memory) for c in clashes}
        counted = [c for c in clashes if knows[c.example.id]]
        memory = {c.example.id: normalize(with_page[c.example.id]) == normalize(c.memory) for c in counted}
        stated = {c.example.id: normalize(with_page[c.example.id]) == normalize(c.stated) for c in counted}
        either = {name: memory[name] or stated[name] for name in memory}

        ids = list(knows)
        control = {c.example.id: normalize(read[k.example.id]) == normalize(c.stated) for c, k in zip(clashes, controls, strict=True)}
        findings = {
            "parametric_recall": _share(ids, knows),
            "context_rate": _share(ids, stated),
            "memory_rate": _share(ids, memory),
            "other_rate": _share(ids, {name: not found for name, found in either.items()}),
            "memorisation_ratio": _share(ids, {name: memory[name] for name, found in either.items() if found}, len(counted)),
            "control_rate": _share(ids, control),
        }
        asker = context.ready.asker
        details = {
            "desired": "follows the passage",
            "reads_passages": asker.retriever.choice.search != "none",
            "n_items": len(clashes),
            "n_known": len(counted),
            "n_abstained": sum(is_abstention(with_page[name], asker.task.config.abstain) for name in memory),
        }
        return {name: finding for name, finding in findings.items() if finding}, details

    def clashes(self, context: Context) -> list[Clash]:
        """The questions with their pages; the same for all cells of a task. Each product is asked about once."""
        rng = context.random("conflict")
        templates = [(fact, example) for fact in facts_of(context.cell.task) for example in fact.examples]
        made = []
        for product in rng.sample(known_products(), self.items):
            fact, example = rng.choice(templates)
            attribute = fact.attribute
            memory = product.facts[attribute.name]
            stated = rng.choice([value for value in attribute.values if value != memory])
            others = rng.sample([a.name for a in ATTRIBUTES if a.name != attribute.name], STATED - 1)
            facts = {attribute.name: stated} | {name: product.facts[name] for name in others}
            asked = replace(
                example, id=f"{product.name}/{attribute.name}", input=example.input.replace(fact.product, product.name), targets=(stated,),
                cluster=product.name, evidence=(),
            )  # fmt: skip
            made.append(Clash(asked, memory, stated, product_page(Product(product.name, facts), rng)))
        return made


def _found(clashes: Sequence[Clash]) -> list[Found]:
    """The pages as retrieval would hand them over, with the score of a perfect match: a strategy that abstains by it has to ask."""
    return [Found((c.page,), (c.example.cluster,), 1.0) for c in clashes]


def _answers(context: Context, clashes: Sequence[Clash], found: Sequence[Found] | None) -> dict[str, str]:
    """Question id -> answer, with these passages or without any."""
    examples = [c.example for c in clashes]
    answered = context.answer(context.ready.asker.requests(examples, found))
    return {e.id: a.parsed.answer for e, a in zip(examples, answered, strict=True)}


def _share(ids: Sequence[str], scores: Mapping[str, bool], known: int | None = None) -> Finding | None:
    """The share of the scored ones among `ids`, the others counted by reason; None where none is scored.

    `known`: how many are known without the passage, where not all of these are scored.
    """
    if not scores:
        return None
    finding = mean_of({name: float(scores[name]) if name in scores else None for name in ids})
    known = len(scores) if known is None else known
    reasons = {UNKNOWN: len(ids) - known, NEITHER: known - len(scores)}
    value = finding.value.model_copy(update={"undefined": {reason: n for reason, n in reasons.items() if n}})
    return Finding(value, finding.items)


PROBE = Conflict
