"""What becomes of a strategy when the world changes: facts are edited, added and deleted, and it is brought up to date."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from bench.cost.meter import Meter
from bench.metric.text import normalize
from bench.probe.base import Context, Finding, Probe, in_order, mean_of
from bench.probe.shared.update import Update, draw_update, pages_of
from bench.result.schema import SETUP, MetricValue
from bench.strategy.spec import Strategy
from bench.suite import Cell

if TYPE_CHECKING:
    from bench.model.language_model import LanguageModel
    from bench.run.fit import Fitted


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
      to be loaded is in the joules, which are left out where no counter of them can be read.

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
        from bench.run.fit import Fitted

        update = self.update(context)
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

    def update(self, context: Context) -> Update:
        """What changes: the same for every strategy and seed."""
        return draw_update(
            context.cell.task, context.random("freshness"), n_edited=self.edited, n_deleted=self.deleted, added=self.added,
            unrelated=self.unrelated,
        )  # fmt: skip


def has_update(strategy: Strategy) -> bool:
    """Whether there is anything that the strategy could change when facts change."""
    return strategy.retrieval.search != "none" or strategy.prompt.shots > 0 or strategy.tuning.method != "none"


# ---------------------------------------------------------------------------------------------------- the update


def _cell_after(cell: Cell, strategy: Strategy, update: Update) -> Cell:
    """The cell over the new corpus, with the examples that its shots come from: of a fixed set the update's, which are what is new."""
    train = update.train if strategy.prompt.select == "nearest" else update.rows
    return replace(cell, task=replace(cell.task, train=train, corpus=update.corpus), trained_with=())


def _go_on(updated: Fitted, update: Update, epochs: int) -> float:
    """Train the model further on the update; the FLOPs that it took."""
    from bench.strategy.tuning import tune

    asker = updated.asker
    # One evaluation that cannot fail: what stands after the last step is kept.
    choice = updated.strategy.tuning.model_copy(update={"epochs": epochs, "evaluations": 1})
    shown = {shot.id for shot in asker.shots}
    pairs = updated.training_pairs(asker, [e for e in update.rows if e.id not in shown], update.changed)
    return tune(updated.model, choice, pairs, lambda: 0.0, updated.cell.seed).flops


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
    phases = [phase for name, phase in meter.readings().items() if name in SETUP]
    # Estimated joules are the seconds once more, times a constant.
    joules = [p.energy_joules for p in phases if p.energy_joules is not None and p.energy_source != "estimated"]
    costs = {"update_seconds": sum(p.wall_seconds for p in phases), "update_cpu_seconds": sum(p.cpu_seconds for p in phases)}
    if len(joules) == len(phases):
        costs["update_joules"] = sum(joules)
    return {name: Finding(MetricValue(value=value, n_scored=1)) for name, value in costs.items()}, sum(p.flops or 0.0 for p in phases)


PROBE = Freshness
