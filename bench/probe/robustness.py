"""How answers hold up against typos, other wordings and other passages, and what retrieval itself does to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from bench.metric.score import Answer, score
from bench.probe.base import Context, Finding, Probe
from bench.probe.shared.perturb import (
    Judged,
    Reading,
    Tally,
    contradicted,
    false_answer,
    hand,
    is_whole,
    judge,
    judge_item,
    readings,
    sampled,
    with_typos,
)
from bench.result.schema import Item, MetricValue
from bench.result.statistics import FloatArray, bootstrap_interval, clustered_interval, wilson_interval
from bench.suite import Cell
from bench.task.schema import Example, Passage, Task

NO_SCORE = "the primary metric is undefined"
NO_PASSAGES = "the corpus has too few other passages, or the passages do not fit the window"
DISTRACTORS = (0, 1, 2, 4)
IRRELEVANT = 4
BESIDE = 2
"""Distractors beside the gold passage, where its place among them is asked about."""
WITHOUT_GOLD = 3


class Robustness(Probe):
    """How answers hold up against typos, held-out wordings, distractors, order, contradiction; retrieval's help and harm.

    Scores are the task's primary metric (right or not where it has no item score), drops are paired: the score as the cell was
    scored minus that under the change, on the same items.

    Typos in the input, question and all (`with_typos`): ``typos_<percent>_score``, ``_drop``, ``_relative_drop`` = drop / score
    without. Of a task with a slice ``wording``: ``held_out_drop`` = score on wordings seen in training - on held-out ones, which
    are other items, all of test.

    Of a strategy that reads passages, on answerable items with evidence, P(right) with passages that are the same for every strategy
    in place of those found: ``distractors_<k>`` (the gold ones among the k best ranked of other documents, at a place drawn once per
    item) and ``distractor_slope``, the least-squares slope over k; ``irrelevant_4`` (among four of documents that nothing in the cluster
    rests on) and its drop from gold alone; ``gold_first``, ``_middle``, ``_last`` (among two distractors; Liu et al. 2024,
    arXiv 2307.03172); ``without_gold_right``, and ``negative_rejection`` = P(abstains | three distractors, no gold). A copy of the
    gold passage that states a wrong answer, placed after it: ``contradiction_right``, ``contradiction_followed`` = P(that answer)
    (Chen et al. 2024, arXiv 2309.01431). What does not fit the window is undefined.

    The model asked without passages against the cell's own answers: ``retrieval_help`` = P(right with | wrong without),
    ``retrieval_harm`` = P(wrong with | right without), ``retrieval_net`` = P(right with) - P(right without).
    """

    typos: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (0.05, 0.1, 0.2)
    """Shares of the words."""
    items: int = Field(default=100, ge=1)
    """Test items, at most."""

    def not_applicable(self, cell: Cell) -> str | None:
        return "the strategy asks no model" if cell.strategy.prompt.constant else None

    def run(self, context: Context) -> tuple[dict[str, Finding], dict[str, Any]]:
        task, rows = context.cell.task, sampled(context, self.items)
        examples = [example for example, _ in rows]
        clean = {example.id: judge_item(task, item) for example, item in rows}
        tally = Tally({e.id: e.cluster for e in examples})
        details: dict[str, Any] = {"n_items": len(rows), "undefined": tally.undefined, "p_of_no_drop": tally.p}
        details |= self._typos(context, examples, clean, tally)
        _held_out(task, context.items, tally)
        if context.ready.strategy.retrieval.search != "none":
            _retrieval(context, examples, clean, tally)
            told = [e for e in examples if e.answerable and e.evidence]
            if told:
                _passages(context, told, tally)
            else:
                tally.undefined["distractor_slope"] = "no answerable item has evidence"
        return tally.findings, details

    def _typos(self, context: Context, examples: Sequence[Example], clean: Mapping[str, Judged], tally: Tally) -> dict[str, Any]:
        task = context.cell.task
        before = {i: judged.score for i, judged in clean.items()}
        tally.mean("clean_score", before, NO_SCORE, share=_are_shares(before))
        texts = [with_typos(e.input, self.typos, context.random(f"typos/{e.id}")) for e in examples]
        changed = {}
        for k, share in enumerate(self.typos):
            name = f"typos_{100 * share:g}".replace(".", "_")
            typed = [replace(e, input=row[k]) for e, row in zip(examples, texts, strict=True)]
            changed[name] = sum(a.input != b.input for a, b in zip(examples, typed, strict=True)) / len(examples)
            judged = judge(task, typed, context.answer(context.requests(typed)))
            after = {e.id: j.score for e, j in zip(examples, judged, strict=True)}
            tally.mean(f"{name}_score", after, NO_SCORE, share=_are_shares(after))
            tally.drop(f"{name}_drop", before, after, NO_SCORE)
            _relative_drop(f"{name}_relative_drop", before, after, tally)
        return {"share_of_items_with_typos": changed}


def _are_shares(scores: Mapping[str, float | None]) -> bool:
    return all(0 <= score <= 1 for score in scores.values() if score is not None)


def _relative_drop(name: str, before: Mapping[str, float | None], after: Mapping[str, float | None], tally: Tally) -> None:
    """(sum before - sum after) / sum before, by cluster bootstrap; where no item moves, as far as Wilson's bound of 0 of C goes."""
    known = {i: (a, b) for i in before if (a := before[i]) is not None and (b := after[i]) is not None}
    rows = np.array(list(known.values()), dtype=np.float64).reshape(-1, 2)
    if not rows[:, 0].any():
        tally.undefined[name] = "the score without typos is 0"
        return
    clusters = [tally.clusters[i] for i in known]
    value, low, high = bootstrap_interval(_relative, rows, clusters, of_sums=True)
    if high is not None and (rows[:, 0] == rows[:, 1]).all():
        high = wilson_interval(0.0, len(set(clusters)))[1] / float(rows[:, 0].mean())
        low = -high
    tally.findings[name] = Finding(MetricValue(value=value, ci_low=low, ci_high=high, n_scored=len(known)))


def _relative(sums: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore", invalid="ignore"):  # resamples without a point are left out
        return np.asarray((sums[..., 0] - sums[..., 1]) / sums[..., 0])


def _held_out(task: Task, items: Sequence[Item], tally: Tally) -> None:
    """The difference of two means over different items, by cluster bootstrap, since a cluster may have items in both.

    Where all items score alike, 0 or 1, as far apart as the two means' Wilson bounds allow.
    """
    scores: dict[str, list[tuple[float, str]]] = {"seen": [], "held_out": []}
    for item in items:
        value, wording = judge_item(task, item).score, item.slices.get("wording", "")
        if value is not None and wording in scores:
            scores[wording].append((value, item.cluster))
    seen, held_out = scores.values()
    if not seen or not held_out:
        tally.undefined["held_out_drop"] = "the test items have no slice wording with both seen and held_out"
        return
    table = np.array([(v, 1, 0, 0) for v, _ in seen] + [(0, 0, v, 1) for v, _ in held_out], dtype=np.float64)
    value, low, high = bootstrap_interval(_difference, table, [c for _, c in (*seen, *held_out)], of_sums=True)
    if low is not None and low == high:
        a, b = (clustered_interval([v for v, _ in part], [c for _, c in part]) for part in (seen, held_out))
        if a.low is not None and a.high is not None and b.low is not None and b.high is not None:
            low, high = a.low - b.high, a.high - b.low
    tally.findings["held_out_drop"] = Finding(MetricValue(value=value, ci_low=low, ci_high=high, n_scored=len(table)))


def _difference(sums: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(sums[..., 0] / sums[..., 1] - sums[..., 2] / sums[..., 3])


def _retrieval(context: Context, examples: Sequence[Example], clean: Mapping[str, Judged], tally: Tally) -> None:
    asker = context.ready.asker
    judged = judge(context.cell.task, examples, context.answer(asker.requests(examples, None)))
    without = {e.id: j.right for e, j in zip(examples, judged, strict=True)}
    with_passages = {i: j.right for i, j in clean.items()}
    helped = {i: float(with_passages[i]) for i, right in without.items() if not right}
    harmed = {i: float(not with_passages[i]) for i, right in without.items() if right}
    tally.mean("retrieval_help", helped, "every item is right without passages", paired=False)
    tally.mean("retrieval_harm", harmed, "no item is right without passages", paired=False)
    tally.mean("right_without_passages", {i: float(right) for i, right in without.items()}, "")
    # A gain is a drop from with to without.
    tally.drop("retrieval_net", {i: float(r) for i, r in with_passages.items()}, {i: float(r) for i, r in without.items()}, "")


def _conditions(reading: Reading, place: float, false: Passage | None) -> dict[str, list[Passage] | None]:
    """The passages handed, by condition; None where the item cannot have it. `place`: of the gold ones among distractors, in [0, 1)."""

    def among(others: Sequence[Passage], n: int, at: int) -> list[Passage] | None:
        return [*others[:at], *reading.gold, *others[at:n]] if len(others) >= n else None

    return {
        **{f"distractors_{n}": among(reading.distractors, n, int(place * (n + 1))) for n in DISTRACTORS},
        f"irrelevant_{IRRELEVANT}": among(reading.irrelevant, IRRELEVANT, int(place * (IRRELEVANT + 1))),
        "gold_first": among(reading.distractors, BESIDE, 0),
        "gold_middle": among(reading.distractors, BESIDE, BESIDE // 2),
        "gold_last": among(reading.distractors, BESIDE, BESIDE),
        "without_gold": list(reading.distractors[:WITHOUT_GOLD]) if len(reading.distractors) >= WITHOUT_GOLD else None,
        "contradiction": [*reading.gold, false] if false else None,
    }


def _passages(context: Context, examples: Sequence[Example], tally: Tally) -> None:
    task = context.cell.task
    false: dict[str, str] = {}
    asked: list[tuple[str, Example, list[Passage]]] = []
    for example, reading in zip(examples, readings(context, examples, max(*DISTRACTORS, IRRELEVANT, WITHOUT_GOLD)), strict=True):
        rng = context.random(f"passages/{example.id}")
        answer, place = false_answer(task, example, " ".join(p.text for p in reading.gold), rng), rng.random()
        copies = [c for p in reading.gold if (c := contradicted(p, example, answer))] if answer else []
        if answer and copies:
            false[example.id] = answer
        conditions = _conditions(reading, place, copies[0] if copies else None)
        asked += [(name, example, passages) for name, passages in conditions.items() if passages is not None]
    rows = [example for _, example, _ in asked]
    requests = hand(context.ready.asker, rows, [passages for *_, passages in asked])
    judged = judge(task, rows, context.answer(requests))
    answers: dict[str, dict[str, Judged]] = {}
    for (name, example, _), request, answer_ in zip(asked, requests, judged, strict=True):
        if is_whole(request):
            answers.setdefault(name, {})[example.id] = answer_

    def right(name: str) -> dict[str, float | None]:
        found = answers.get(name, {})
        return {e.id: float(found[e.id].right) if e.id in found else None for e in examples}

    for name in (f"distractors_{n}" for n in DISTRACTORS):
        tally.mean(name, right(name), NO_PASSAGES)
    for name in (f"irrelevant_{IRRELEVANT}", "gold_first", "gold_middle", "gold_last"):
        tally.mean(name, right(name), NO_PASSAGES)
    tally.drop(f"irrelevant_{IRRELEVANT}_drop", right("distractors_0"), right(f"irrelevant_{IRRELEVANT}"), NO_PASSAGES)
    tally.mean("distractor_slope", _slopes([right(f"distractors_{n}") for n in DISTRACTORS]), NO_PASSAGES, share=False)
    tally.mean("without_gold_right", right("without_gold"), NO_PASSAGES)
    if task.config.abstain:
        found = answers.get("without_gold", {})
        abstains = {e.id: float(found[e.id].abstained) if e.id in found else None for e in examples}
        tally.mean("negative_rejection", abstains, NO_PASSAGES)
    else:
        tally.undefined["negative_rejection"] = "the task has no abstention phrase"

    no_copy = "the gold passage does not hold the answer word by word, there is no wrong one of its kind, or the window is too small"
    tally.mean("contradiction_right", right("contradiction"), no_copy)
    told = [e for e in examples if e.id in answers.get("contradiction", {})]
    scored = score(task, [Answer(replace(e, targets=(false[e.id],)), answers["contradiction"][e.id].prediction) for e in told])
    followed = {e.id: float(outcome == "correct") for e, outcome in zip(told, scored.outcomes, strict=True)}
    tally.mean("contradiction_followed", {e.id: followed.get(e.id) for e in examples}, no_copy)


def _slopes(scores: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Each item's least-squares slope over the number of distractors; their mean is the slope of the mean scores."""
    steps = np.array(DISTRACTORS) - np.mean(DISTRACTORS)
    slopes: dict[str, float | None] = {}
    for name in scores[0]:
        known = [value for row in scores if (value := row[name]) is not None]
        slopes[name] = float(steps @ known / (steps @ steps)) if len(known) == len(scores) else None
    return slopes


PROBE = Robustness
