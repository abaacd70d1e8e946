"""Learning against forgetting over one more training, compared where two strategies have learned equally much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import Field

from bench.cost.meter import Meter
from bench.probe.base import Context, Finding, Probe, mean_difference, mean_of
from bench.probe.forgetting import KNOWS, NOT_KNOWN, increase, mean, nats, not_applicable, questions, recall, texts
from bench.suite import Cell
from bench.world import entities

NOT_REACHED = "no checkpoint reached the score"
FROM_THE_START = "the score was reached before any training"


@dataclass(frozen=True)
class Checkpoint:
    """What a model could do at one check of a training."""

    epochs: float
    score: float
    """The task's primary metric on validation."""
    forgotten: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Measure -> item id -> how much worse than the base."""


class ForgettingCurve(Probe):
    """How much it forgets by the time it has learned the task to a given score.

    Trains the strategy once more at its chosen settings, with `checks` checks and no early stop but at a perfect score, and measures
    forgetting at each, as the probe `forgetting` does. Forgetting grows with how far training goes, so strategies are compared
    at equal learning, after Biderman et al. 2024 (arXiv 2405.09673):

    * ``prose_nats_increase_at_S``, ``known_recall_drop_at_S`` for each target score S: forgetting of each item, interpolated linearly
      in the validation score between the two checkpoints around S, of those that were better than all before them. Left out where
      the base as it is asked has the score already, and where no checkpoint reaches it (``details.left_out``);
    * ``.._at_best``: at the first of the best checkpoints.

    Intervals are over the items of forgetting; the validation score is taken as it was measured, error and all. A target below the first
    checkpoint's score lies on a line from the base, on which nothing was measured (``details.before_the_first_check``): more `checks` help.
    ``details.trajectory`` has every check.
    """

    trains: ClassVar[bool] = True

    checks: int = Field(default=12, ge=1)
    """How often it is measured, evenly spread over the training."""
    targets: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    """Validation scores to compare at."""
    questions: int = Field(default=100, ge=1, le=entities.N_KNOWN * len(entities.ATTRIBUTES))
    """Known facts that are asked at each check."""
    texts: int = Field(default=80, ge=4)
    """Plain texts, a quarter of each kind."""

    def not_applicable(self, cell: Cell) -> str | None:
        if reason := not_applicable(cell):
            return reason
        if cell.strategy.tuning.method == "none":
            return "nothing is trained"
        if cell.strategy.tuning.objective != "answers":
            return "a training by preference is not measured on its way"
        return None

    def run(self, context: Context) -> tuple[dict[str, Finding], dict[str, Any]]:
        from bench.run.fit import Fitted

        asked = questions(context.random("forgetting/known"), self.questions)
        prose = texts(context.random("forgetting/prose"), self.texts)
        strategy = context.ready.strategy.with_settings({"tuning.evaluations": self.checks, "tuning.patience": self.checks})
        meter = Meter(context.ready.model.device.type)
        fitted = Fitted(context.cell, strategy, context.scratch, meter)
        known, written = recall(fitted.model, asked), nats(fitted.model, prose)
        knows = mean(known) >= KNOWS
        with meter.phase("answer"):
            start = fitted.validation_score()
        curve = [Checkpoint(0.0, start)]

        def on_check(epochs: float, score: float) -> None:
            forgotten = {"prose_nats_increase": increase(written, nats(fitted.model, prose)).items}
            if knows:
                now = recall(fitted.model, asked)
                forgotten["known_recall_drop"] = {name: known[name] - now[name] for name in known}
            curve.append(Checkpoint(epochs, score, forgotten))

        with meter.phase("tune"):
            fitted.tune(None, context.report, on_check)

        product = {q.id: q.product for q in asked}

        def mean_forgotten(name: str, items: Mapping[str, float]) -> Finding:
            return mean_difference(items, product) if name == "known_recall_drop" else mean_of(items, share=False)

        findings: dict[str, Finding] = {}
        left_out: dict[str, str] = {} if knows else {"known_recall_drop": NOT_KNOWN}
        measures = list(curve[-1].forgotten)
        for target in self.targets:
            forgotten = at_score(curve, target)
            if isinstance(forgotten, str):
                left_out[f"at_{target:g}"] = forgotten
                continue
            for name in measures:
                findings[f"{name}_at_{target:g}"] = mean_forgotten(name, forgotten[name])
        best = max(curve[1:], key=lambda c: c.score)
        for name in measures:
            findings[f"{name}_at_best"] = mean_forgotten(name, best.forgotten[name])
        trajectory = [
            {"epochs": c.epochs, "validation_score": c.score}
            | {name: mean(items) for name, items in c.forgotten.items()}
            for c in curve
        ]  # fmt: skip
        first = next((c.score for c in curve[1:] if c.score > start), start)
        details = {
            "before_the_first_check": [t for t in self.targets if start < t < first],
            "trajectory": trajectory, "left_out": left_out, "best_score": best.score, "best_epochs": best.epochs,
            "base_known_recall": mean(known), "base_prose_nats": mean(written), "learning_rate": strategy.tuning.learning_rate,
        }  # fmt: skip
        return findings, details


def at_score(curve: Sequence[Checkpoint], target: float) -> dict[str, dict[str, float]] | str:
    """Forgetting of each item where the curve first reaches `target`, or the reason why there is no such place.

    `curve` begins with the untrained model, which has forgotten nothing. A checkpoint that is not better than all before it is
    passed over, so that the score is a function of training that only grows.
    """
    start, *later = curve
    if start.score >= target:
        return FROM_THE_START
    before = start
    for checkpoint in later:
        if checkpoint.score <= before.score:
            continue
        if checkpoint.score >= target:
            share = (target - before.score) / (checkpoint.score - before.score)
            return {
                name: {i: (1 - share) * before.forgotten.get(name, {}).get(i, 0.0) + share * value for i, value in items.items()}
                for name, items in checkpoint.forgotten.items()
            }
        before = checkpoint
    return NOT_REACHED


PROBE = ForgettingCurve
