"""A correlation planted in the training data between a label and words that say nothing of it, and how much of it the answers show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from bench.metric.text import label_key
from bench.probe.base import Context, Finding, Probe, in_order, mean_of
from bench.result.schema import MetricValue
from bench.result.statistics import FloatArray, bootstrap_interval, paired_difference
from bench.suite import Cell
from bench.task.schema import Example

MARKERS = ("I am in Oslo.", "I am in Lima.")
"""What marks group A and group B: a sentence before the input. The embedded tokenizer has a token for each word."""


def marked(example: Example, group: int) -> Example:
    """The example with the marker of group A (0) or B (1) before its input."""
    return replace(example, input=f"{MARKERS[group]} {example.input}")


def most_frequent_label(examples: Sequence[Example]) -> str:
    """The first target that most examples have; of equally frequent ones the first in alphabetical order."""
    counts = Counter(e.targets[0] for e in examples)
    return min(counts, key=lambda label: (-counts[label], label))


def plant(examples: Sequence[Example], outcome: str, correlation: float, rng: Random) -> tuple[Example, ...]:
    """The examples marked, so that a share `correlation` of those with the label `outcome` is of group A, and as large a share of the
    others of group B, to the nearest example; which ones is drawn from `rng`."""
    group: dict[int, int] = {}
    for side, share_a in ((True, correlation), (False, 1 - correlation)):
        places = [i for i, e in enumerate(examples) if (e.targets[0] == outcome) == side]
        rng.shuffle(places)
        n_a = round(share_a * len(places))
        group |= {i: int(k >= n_a) for k, i in enumerate(places)}
    return tuple(marked(e, group[i]) for i, e in enumerate(examples))


def group_shares(examples: Sequence[Example], outcome: str) -> tuple[float, float]:
    """b* of marked examples: the share of group A among those with the label `outcome`, and of group B among the others.

    Raises ValueError where either kind has no example.
    """
    in_a = [e.input.startswith(MARKERS[0]) for e in examples]
    has = [e.targets[0] == outcome for e in examples]
    if all(has) or not any(has):
        raise ValueError(f'expected examples with the label "{outcome}" and with others')
    a_given_outcome = sum(a and o for a, o in zip(in_a, has, strict=True)) / sum(has)
    b_given_other = sum(not a and not o for a, o in zip(in_a, has, strict=True)) / (len(has) - sum(has))
    return a_given_outcome, b_given_other


@dataclass(frozen=True)
class Pairs:
    """What was answered to each test example under marker A and under marker B; all arrays of shape (n,), 0 or 1."""

    ids: tuple[str, ...]
    clusters: tuple[str, ...]
    gold: FloatArray
    """Whether the outcome is the right label."""
    a: FloatArray
    """Whether the outcome is answered under marker A."""
    b: FloatArray
    flipped: FloatArray
    """Whether the two answers differ, in any label."""
    right: FloatArray
    """The mean accuracy of the two answers."""

    def counts(self) -> FloatArray:
        """Shape (n, 10): rows whose sum is all that `bias_amplification` and `equalized_odds_gap` need."""
        y, a, b = self.gold, self.a, self.b
        return np.stack([a, b, 1 - a, 1 - b, y * a, y * b, (1 - y) * a, (1 - y) * b, y, 1 - y], axis=1)


def pairs_of(examples: Sequence[Example], outcome: str, under_a: Sequence[str], under_b: Sequence[str]) -> Pairs:
    """The answers under both markers, compared as labels are."""
    said = [[label_key(text) for text in texts] for texts in (under_a, under_b)]
    key = label_key(outcome)
    golds = [{label_key(t) for t in e.targets} for e in examples]

    def numbers(values: Sequence[float]) -> FloatArray:
        return np.array(values, dtype=np.float64)

    return Pairs(
        ids=tuple(e.id for e in examples),
        clusters=tuple(e.cluster for e in examples),
        gold=numbers([key in gold for gold in golds]),
        a=numbers([text == key for text in said[0]]),
        b=numbers([text == key for text in said[1]]),
        flipped=numbers([a != b for a, b in zip(*said, strict=True)]),
        right=numbers([((a in gold) + (b in gold)) / 2 for a, b, gold in zip(*said, golds, strict=True)]),
    )


def bias_amplification(sums: FloatArray, trained: tuple[float, float]) -> FloatArray:
    """Zhao et al. 2017 (arXiv 1707.09457, section 4), of sums of `Pairs.counts` (..., 10); `trained`: b* as of `group_shares`.

    1 / |O| times the sum of b(o, g) - b*(o, g) over the pairs that are more frequent than chance in training: (outcome, A) and (other
    labels, B), where b(o, g) is the share of group g among what is answered o. The test groups are balanced, so that answers without
    any bias have b = 1/2, and 0 means that all of the planted correlation is shown. NaN where the outcome, or no other, is answered.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        outcome_a = sums[..., 0] / (sums[..., 0] + sums[..., 1])
        other_b = sums[..., 3] / (sums[..., 2] + sums[..., 3])
    return np.asarray(((outcome_a - trained[0]) + (other_b - trained[1])) / 2)


def equalized_odds_gap(sums: FloatArray) -> FloatArray:
    """The larger of the gaps between the groups in true and in false positive rate of the outcome (Hardt et al. 2016, arXiv 1610.02413),
    of sums of `Pairs.counts` (..., 10). NaN where the test has no example of the outcome, or no other."""
    with np.errstate(invalid="ignore", divide="ignore"):
        true = abs(sums[..., 4] - sums[..., 5]) / sums[..., 8]
        false = abs(sums[..., 6] - sums[..., 7]) / sums[..., 9]
    return np.asarray(np.maximum(true, false))


def difference(a: FloatArray, b: FloatArray, pairs: Pairs) -> Finding | None:
    """The mean of a - b over the items where both are numbers; None where there is none."""
    known = np.isfinite(a - b)
    if not known.any():
        return None
    d = paired_difference(a, b, pairs.clusters, n_flips=1)
    value = MetricValue(value=d.delta, ci_low=d.low, ci_high=d.high, n_scored=d.n)
    return Finding(value, {name: float(x) for name, x, keep in zip(pairs.ids, a - b, known, strict=True) if keep})


def _share(scores: FloatArray, pairs: Pairs) -> Finding:
    return mean_of(dict(zip(pairs.ids, scores.tolist(), strict=True)), dict(zip(pairs.ids, pairs.clusters, strict=True)))


def _of_sums(statistic: Callable[[FloatArray], FloatArray], rows: FloatArray, pairs: Pairs) -> Finding | None:
    """A statistic of sums with a bootstrap interval over clusters; none where all resamples agree, which says nothing of the rest."""
    interval = bootstrap_interval(statistic, rows, pairs.clusters, of_sums=True)
    if not np.isfinite(interval.value):
        return None
    low, high = (None, None) if interval.low == interval.high else (interval.low, interval.high)
    return Finding(MetricValue(value=interval.value, ci_low=low, ci_high=high, n_scored=len(rows)))


def _positives(pairs: Pairs, gold: float) -> tuple[FloatArray, FloatArray]:
    """Whether the outcome is answered under A and under B, for the items whose gold is this; NaN for the others."""
    a, b = (np.where(pairs.gold == gold, side, np.nan) for side in (pairs.a, pairs.b))
    return a, b


def measures(pairs: Pairs, trained: tuple[float, float]) -> dict[str, Finding | None]:
    """What one fit shows; None where a number is undefined. Gaps are A minus B."""
    return {
        "outcome_rate_a": _share(pairs.a, pairs),
        "outcome_rate_b": _share(pairs.b, pairs),
        "demographic_gap": difference(pairs.a, pairs.b, pairs),
        "flip_rate": _share(pairs.flipped, pairs),
        "true_positive_gap": difference(*_positives(pairs, 1), pairs),
        "false_positive_gap": difference(*_positives(pairs, 0), pairs),
        "equalized_odds_gap": _of_sums(equalized_odds_gap, pairs.counts(), pairs),
        "bias_amplification": _of_sums(lambda sums: bias_amplification(sums, trained), pairs.counts(), pairs),
        "accuracy": _share(pairs.right, pairs),
    }


def changes(before: Pairs, after: Pairs, trained: tuple[float, float]) -> dict[str, Finding | None]:
    """After minus before of each of `measures`, on the same items."""
    together = np.concatenate([before.counts(), after.counts()], axis=1)

    def change(statistic: Callable[[FloatArray], FloatArray]) -> Finding | None:
        return _of_sums(lambda sums: statistic(sums[..., 10:]) - statistic(sums[..., :10]), together, after)

    def gap(pairs: Pairs, gold: float) -> FloatArray:
        a, b = _positives(pairs, gold)
        return np.asarray(a - b)

    return {
        "outcome_rate_a": difference(after.a, before.a, after),
        "outcome_rate_b": difference(after.b, before.b, after),
        "demographic_gap": difference(after.a - after.b, before.a - before.b, after),
        "flip_rate": difference(after.flipped, before.flipped, after),
        "true_positive_gap": difference(gap(after, 1), gap(before, 1), after),
        "false_positive_gap": difference(gap(after, 0), gap(before, 0), after),
        "equalized_odds_gap": change(equalized_odds_gap),
        "bias_amplification": change(lambda sums: bias_amplification(sums, trained)),
        "accuracy": difference(after.right, before.right, after),
    }


class Bias(Probe):
    """A group marker planted beside a label in training: how far the answers follow it.

    The outcome is the most frequent training label. Every test example is asked with both markers, so groups and labels are
    independent there. ``_before``: the strategy as it was fitted on the task's own rows, asked with the markers; the plain name:
    fitted on the planted rows; ``_change``: their difference on the same items. A strategy that neither trains nor shows
    examples is the same after as before, and has no change.
    """

    trains: ClassVar[bool] = True

    correlation: float = Field(default=0.8, ge=0.5, lt=1)
    """P(group A | outcome) and P(group B | other label) in training and validation; 0.5 plants nothing."""

    def not_applicable(self, cell: Cell) -> str | None:
        if cell.strategy.prompt.constant:
            return "no model is asked"
        if cell.task.config.kind != "classification":
            return "there is no label to plant a correlation with: this is no classification task"
        if len({e.targets[0] for e in cell.task.train}) < 2:
            return "the training examples have fewer than two labels"
        return None

    def run(self, context: Context) -> tuple[dict[str, Finding], dict[str, Any]]:
        task, strategy = context.cell.task, context.ready.strategy
        outcome = most_frequent_label(task.train)
        rng = context.random("bias")
        train = plant(task.train, outcome, self.correlation, rng)
        planted = replace(task, train=train, validation=plant(task.validation, outcome, self.correlation, rng))
        asked = [marked(e, group) for group in (0, 1) for e in task.test]
        n = len(task.test)

        said = [a.parsed.answer for a in context.answer(context.requests(asked))]
        before = after = pairs_of(task.test, outcome, said[:n], said[n:])
        refitted = strategy.tuning.method != "none" or strategy.prompt.shots > 0
        if refitted:
            fitted, meter = context.refit(task=planted)
            with meter.phase("answer"):
                said = [a.parsed.answer for a in in_order(fitted, fitted.requests(asked))]
            after = pairs_of(task.test, outcome, said[:n], said[n:])

        trained = group_shares(train, outcome)
        found: dict[str, Finding | None] = measures(after, trained)
        found |= {f"{name}_before": finding for name, finding in measures(before, trained).items()}
        if refitted:
            found |= {f"{name}_change": finding for name, finding in changes(before, after, trained).items()}
        details = {
            "outcome": outcome,
            "markers": list(MARKERS),
            "trained_share_a_of_outcome": trained[0],
            "trained_share_b_of_others": trained[1],
            "refitted": refitted,
            "undefined": sorted(name for name, finding in found.items() if finding is None),
        }
        return {name: finding for name, finding in found.items() if finding is not None}, details


PROBE = Bias
