"""Which passages an answer cites, and whether they are the gold ones.

After the citation precision and recall of ALCE (Gao et al. 2023, arXiv 2305.14627), where a model of inference judges whether the
cited text supports each statement. Here a citation is right if its passage is gold: exact and free, but it needs labelled evidence,
asks nothing of the statement that carries the citation, and counts a passage that supports the answer without being gold as wrong.
An answer is one statement here, as are the short answers of this package's tasks.

Used alone, a prediction is the list of cited ids and a reference the list of gold ids.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from typing import Any

from bench.metric.base import Metric
from bench.metric.sample import Sample

_CITATION_OR_BRACKET = re.compile(r"\s*\[ *([1-9][0-9]{0,2}(?: *, *[1-9][0-9]{0,2})*) *\]|[\[{]|[\]}]")


def split_citations(text: str) -> tuple[str, tuple[int, ...]]:
    """The answer without its citations, and the passages cited: each once, in order.

    A citation is one number or several, from 1 to 999, in square brackets, with the whitespace before it: ``red [2]``,
    ``[1][3] red``, ``red [1, 3].``. What stands within other brackets or braces is left as it is, so that a JSON object keeps its
    lists of numbers.
    """
    cited: dict[int, None] = {}
    depth = 0

    def take(match: re.Match[str]) -> str:
        nonlocal depth
        numbers: str | None = match[1]
        if numbers is None:
            depth = depth + 1 if match[0] in "[{" else max(0, depth - 1)
        elif not depth:
            cited.update((int(number), None) for number in numbers.split(","))
            return ""
        return match[0]

    return _CITATION_OR_BRACKET.sub(take, text).strip(), tuple(cited)


class _CitationMetric(Metric):
    """Undefined where the strategy does not cite, no passage is gold, or the answer claims nothing (an abstention, an empty answer). A
    passage cited twice counts once."""

    compares_ids = True

    @abstractmethod
    def share(self, cited: frozenset[str], gold: frozenset[str]) -> float:
        """The score of one answer for which it is defined."""

    def undefined_because(self, sample: Sample) -> str | None:
        if sample.cited_ids is None:
            return "the strategy does not cite"
        if not sample.gold_ids:
            return "no gold passage"
        return None if sample.outcome is None else self.no_claim(sample)  # used alone, there are ids only and no answer

    def sample_level(self, sample: Sample) -> float | None:
        if self.undefined_because(sample) or sample.cited_ids is None:
            return None
        return self.share(frozenset(sample.cited_ids), frozenset(sample.gold_ids))

    def make_sample(self, prediction: Any, reference: Any) -> Sample:
        return Sample(cited_ids=tuple(prediction), gold_ids=tuple(reference))


class CitationPrecision(_CitationMetric):
    """Share of the cited passages that are gold, in [0, 1]; undefined also where nothing is cited."""

    name = "citation_precision"

    def undefined_because(self, sample: Sample) -> str | None:
        return super().undefined_because(sample) or (None if sample.cited_ids else "no citation")

    def share(self, cited: frozenset[str], gold: frozenset[str]) -> float:
        return len(cited & gold) / len(cited)


class CitationRecall(_CitationMetric):
    """Share of the gold passages that are cited, in [0, 1]; 0 where nothing is cited."""

    name = "citation_recall"

    def share(self, cited: frozenset[str], gold: frozenset[str]) -> float:
        return len(cited & gold) / len(gold)
