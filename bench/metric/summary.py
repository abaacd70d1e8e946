"""Metrics of summaries beside ROUGE: what they leave out, and how long they are."""

from __future__ import annotations

import math
import re
from typing import Final

from bench.metric.base import AnswerMetric, Metric
from bench.metric.sample import Sample

_WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W_]+")

_FUNCTION_WORDS = """
    a about after also an and are as at be been before being between both but by can could did do does during each for from had has
    have he her his how if in into is it its may more most of on or other our over she should so some such than that the their them
    then there these they this those through to under up was we were what when where which while who will with would you your
"""
FUNCTION_WORDS: Final = frozenset(_FUNCTION_WORDS.split())
"""English words that carry no fact by themselves. Negations ("no", "not", "without") are facts and are not among them."""


def key_facts(text: str) -> frozenset[str]:
    """The distinct content words and numbers of a text: lower-cased, thousands separators dropped, function words left out."""
    words = (word.replace(",", "") if word[0].isdigit() else word for word in _WORD.findall(text.lower()))
    return frozenset(word for word in words if word not in FUNCTION_WORDS)


class KeyFactCoverage(AnswerMetric):
    """Share of the reference's distinct content words and numbers (`key_facts`) that occur in the answer, in [0, 1].

    A recall of words as written: no stemming, no synonyms, order does not count, and copying the source scores high, so read it
    beside `length_ratio`. Undefined where the reference has none.
    """

    name = "key_fact_coverage"
    kinds = frozenset({"summarization"})

    def undefined_because(self, sample: Sample) -> str | None:
        return "no content word in the reference"

    def match(self, prediction: str, target: str) -> float | None:
        wanted = key_facts(target)
        return len(wanted & key_facts(prediction)) / len(wanted) if wanted else None


class LengthRatio(Metric):
    """Whitespace-separated words of the answer per word of the reference: 1 is the right length, 2 twice as long.

    With several references the one nearest in length counts. Undefined where there is none with a word, or nothing to answer.
    """

    name = "length_ratio"
    higher_is_better = None
    bounds = (0.0, math.inf)
    kinds = frozenset({"summarization"})

    def undefined_because(self, sample: Sample) -> str | None:
        return "no word in the reference" if sample.answerable else "has no answer"

    def sample_level(self, sample: Sample) -> float | None:
        said = len(sample.prediction.split())
        lengths = [length for target in sample.targets if (length := len(target.split()))]
        if not lengths or not sample.answerable:
            return None
        return said / min(lengths, key=lambda length: abs(said - length))
