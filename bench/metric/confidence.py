"""Whether a model knows what it knows: how the confidence in an answer goes with its being right.

Confidence is the probability of the answer as it was given: exp of the sum of its tokens' log-probabilities, citations and the end of
the answer included; for a choice among options the softmax over the options. Only attempts count: an abstention claims nothing, and
how well it is chosen is seen in `no_answer_accuracy` and `false_refusal_rate`. Answers whose log-probability is not known, or is of a
chain of thought as well, are left out. All values are of the raw confidence; no temperature is fitted.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from bench.metric.base import CorpusMetric
from bench.metric.calibration import (
    Counts,
    Ranked,
    accuracy_at_coverage,
    area_under_risk_coverage,
    area_under_roc,
    brier_parts,
    calibration_error,
    excess_area,
)
from bench.metric.hallucination import OutcomeMetric
from bench.metric.sample import Sample
from bench.result.statistics import FloatArray
from bench.task.schema import TaskKind

KINDS: Final[frozenset[TaskKind]] = frozenset({"qa", "classification", "structured", "multiple_choice"})
"""A summary is not right or wrong."""


def confidence(sample: Sample) -> float | None:
    """The probability that the model gave its answer, in [0, 1]; None where it is not known."""
    if sample.option_logprobs:
        best = max(sample.option_logprobs)
        return 1 / math.fsum(math.exp(value - best) for value in sample.option_logprobs)
    return None if sample.logprob is None else min(1.0, math.exp(sample.logprob))


class _OfConfidence(OutcomeMetric):
    """A metric of attempts whose confidence is known."""

    kinds = KINDS

    def undefined_because(self, sample: Sample) -> str | None:
        return self.no_attempt(sample) or (None if confidence(sample) is not None else "no log-probability of the answer")

    def right(self, sample: Sample) -> float:
        return float(self.outcome(sample) == "correct")


class Brier(_OfConfidence):
    """Mean of (confidence - 1 if right, else 0)^2, in [0, 1] (Brier 1950): calibration and discrimination in one.

    Undefined for an abstention, an empty answer, and where the answer's log-probability is not known.
    """

    name = "brier"
    higher_is_better = False

    def sample_level(self, sample: Sample) -> float | None:
        sure = confidence(sample)
        return None if sure is None or self.no_attempt(sample) else (sure - self.right(sample)) ** 2


class ConfidenceNLL(_OfConfidence):
    """Mean of -ln(confidence) where right and -ln(1 - confidence) where wrong; infinite certainty is cut at 1 in 10^7.

    Undefined as `brier`.
    """

    name = "confidence_nll"
    higher_is_better = False
    bounds = (0.0, math.inf)

    def sample_level(self, sample: Sample) -> float | None:
        sure = confidence(sample)
        if sure is None or self.no_attempt(sample):
            return None
        # Log-probabilities are of single precision, which knows nothing nearer to 1.
        return -math.log(max(1e-7, sure if self.right(sample) else 1 - sure))


class _OfCounts(CorpusMetric, _OfConfidence):
    """A value of the attempts by level of confidence; undefined where there are none."""

    @abstractmethod
    def of_counts(self, counts: Counts) -> FloatArray:
        """The values (R,); no resample is empty."""

    def statistic(self, samples: Sequence[Sample]) -> Callable[[FloatArray], FloatArray]:
        places = [i for i, sample in enumerate(samples) if not self.undefined_because(sample)]
        counted = [samples[i] for i in places]
        ranked = Ranked.of([confidence(s) or 0.0 for s in counted], [self.right(s) for s in counted])

        def values(weights: FloatArray) -> FloatArray:
            drawn = weights[:, places]
            some = drawn.sum(axis=1) > 0
            found = np.full(len(weights), np.nan)
            if some.any():
                found[some] = self.of_counts(ranked.counts(drawn[some]))
            return found

        return values


class ExpectedCalibrationError(_OfCounts):
    """Mean distance of confidence and accuracy in 15 bins of equal mass, in [0, 1], corrected for noise: see `calibration_error`.

    Fewer bins below 150 attempts (10 items each). The 95 % interval covered the truth in 95 to 100 % of simulations with a true error of
    .05 and .15, and in 87 to 93 % for a perfectly calibrated model (100 to 1,000 items), whose value is biased up.
    """

    name = "ece"
    higher_is_better = False
    biased_up = True

    def of_counts(self, counts: Counts) -> FloatArray:
        return calibration_error(counts)


class BrierReliability(_OfCounts):
    """The part of `brier` that is miscalibration, over 15 bins of equal mass (see `BrierParts`); biased up by noise with few items."""

    name = "brier_reliability"
    higher_is_better = False
    biased_up = True

    def of_counts(self, counts: Counts) -> FloatArray:
        return brier_parts(counts).reliability


class BrierResolution(_OfCounts):
    """The part of `brier` by which confidence tells right from wrong, over 15 bins of equal mass; biased up by noise with few items."""

    name = "brier_resolution"
    biased_up = True

    def of_counts(self, counts: Counts) -> FloatArray:
        return brier_parts(counts).resolution


class ConfidenceAUROC(_OfCounts):
    """P(a right answer has a higher confidence than a wrong one), ties half, in [0, 1]: .5 tells nothing.

    Undefined where all attempts are right, or none.
    """

    name = "confidence_auroc"

    def of_counts(self, counts: Counts) -> FloatArray:
        return area_under_roc(counts)


class RiskCoverage(_OfCounts):
    """Area under the risk-coverage curve, in [0, 1]: the mean error rate of the k most confident answers over all k.

    It falls with better answers as well as with better confidence: `excess_aurc` takes the former off.
    """

    name = "aurc"
    higher_is_better = False

    def of_counts(self, counts: Counts) -> FloatArray:
        return area_under_risk_coverage(counts)


class ExcessRiskCoverage(_OfCounts):
    """`aurc` above the least that as many wrong answers allow (E-AURC, Geifman et al. 2019, arXiv 1805.08206): 0 is a perfect ranking."""

    name = "excess_aurc"
    higher_is_better = False

    def of_counts(self, counts: Counts) -> FloatArray:
        return excess_area(counts)


class AccuracyAtCoverage(_OfCounts):
    """Share of right answers among the 80 % of attempts with the highest confidence, in [0, 1]: what refusing the rest would give."""

    name = "accuracy_at_80_coverage"

    def of_counts(self, counts: Counts) -> FloatArray:
        return accuracy_at_coverage(counts)
