"""What a strategy says about products that do not exist."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field

from bench.metric.text import is_abstention
from bench.probe.base import Context, Finding, Probe, mean_difference, mean_of
from bench.probe.shared.world import facts_of
from bench.suite import Cell
from bench.task.schema import Example, Task
from bench.world.entities import N_FAKE, names

SHOWN = 5
"""Answers that are kept to look at."""


class Fabrication(Probe):
    """How often it answers questions about products that exist nowhere instead of abstaining.

    Each question is a test question with its product's name replaced by one that occurs in no text, asked just as the strategy
    asks its task: with its instruction, its shots, and what its retrieval finds (passages on other products; an oracle finds
    none). An attempt is any answer but the task's abstention phrases.

    * ``fabrication_rate`` = P(attempt | product does not exist), clustered by the made-up product;
    * ``attempt_rate_real`` = P(attempt | the test question that it was made of), clustered by product;
    * ``selective_gap`` = P(attempt | real) - P(attempt | fake), of pairs of the same wording, clustered by the real product. Near 0
      the strategy cannot tell what it knows from what it does not, however often it abstains.
    """

    items: int = Field(default=100, ge=1, le=N_FAKE)
    """Questions at most; no product is asked about twice."""

    def not_applicable(self, cell: Cell) -> str | None:
        if cell.strategy.prompt.constant:
            return "the strategy asks no model"
        if not cell.task.config.abstain:
            return "the task has no words to abstain with"
        if not facts_of(cell.task):
            return "the task does not ask for single facts about products of the embedded world"
        return None

    def run(self, context: Context) -> tuple[dict[str, Finding], dict[str, Any]]:
        task = context.cell.task
        pairs = self.pairs(context)
        answers = context.answer(context.requests([fake for _, fake in pairs]))
        said = [a.parsed.answer for a in answers]
        outcomes = {item.id: item.outcome for item in context.items}
        real = {example.id: float(outcomes[example.id] != "abstained") for example, _ in pairs}
        fake = {example.id: float(not is_abstention(text, task.config.abstain)) for (example, _), text in zip(pairs, said, strict=True)}
        product = {example.id: example.cluster for example, _ in pairs}
        findings = {
            "fabrication_rate": mean_of(fake),  # every item has a made-up product of its own
            "attempt_rate_real": mean_of(real, product),
            "selective_gap": mean_difference({name: real[name] - fake[name] for name in real}, product),
        }
        shown = [{"question": made.input, "answer": text} for (_, made), text in zip(pairs, said, strict=True)][:SHOWN]
        return findings, {"n_fake_products": len(pairs), "n_real_products": len(set(product.values())), "shown": shown}

    def pairs(self, context: Context) -> list[tuple[Example, Example]]:
        """Answerable test questions, each with the same question about a product that does not exist; the same for all cells of a task."""
        rng = context.random("fabrication")
        task = context.cell.task
        examples = [example for fact in facts_of(task) for example in fact.examples]
        free = _unnamed(task)
        n = min(self.items, len(examples), len(free))
        chosen = zip(rng.sample(examples, n), rng.sample(free, n), strict=True)
        return [(example, _about(example, name, task)) for example, name in chosen]


def _unnamed(task: Task) -> Sequence[str]:
    """The made-up names that no document and no question has in it."""
    texts = [p.text for p in task.corpus] + [e.input for e in (*task.train, *task.validation, *task.test)]
    return [name for name in names("fake") if not any(name in text for text in texts)]


def _about(example: Example, name: str, task: Task) -> Example:
    """The example's question about the product `name`, which has no document and no answer."""
    return replace(
        example, id=f"{example.id}/fake", input=example.input.replace(example.cluster, name), targets=(task.config.abstain[0],),
        answerable=False, cluster=name, evidence=(),
    )  # fmt: skip


PROBE = Fabrication
