"""Detectors of hallucination: each gives a response a score that is HIGHER where its evidence is less likely to support it.

A detector takes responses and gives a score or `Undefined` for each: a response without words, or without what the detector looks
at (numbers, names), says nothing either way. How well a detector does is measured by `bench validate-detector`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from bench.metric.detector_quality import Score, Undefined
from bench.metric.grounding import named_entities, numbers
from bench.metric.text import overlap, stands_in, tokens

# Also where a sentence follows without a space, as in text that was joined from parts; but not in "U.S.A" or "3.5".
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[a-z0-9)\"'][.!?])(?=[A-Z])")


@dataclass(frozen=True)
class Response:
    """What was said, and what it should rest on."""

    text: str
    evidence: str
    question: str = ""
    context: str = ""
    """What was said before: a response may repeat it."""

    @property
    def given(self) -> str:
        """All that the response may have its numbers and names from."""
        return f"{self.evidence}\n{self.question}\n{self.context}"


@dataclass(frozen=True)
class Detector:
    """A named way of scoring responses."""

    name: str
    summary: str
    scores: Callable[[Sequence[Response]], list[Score]]


def sentences(text: str) -> list[str]:
    """The sentences of a text, by their punctuation; what has none is one sentence. Abbreviations ("Dr. Who") are split."""
    return [part for part in (piece.strip() for piece in _SENTENCE_END.split(text)) if part]


def unusable(response: Response) -> Undefined | None:
    """Why no detector can say anything of the response: it, or its evidence, is without a word."""
    if not tokens(response.text):
        return Undefined("empty response")
    return None if tokens(response.evidence) else Undefined("empty evidence")


def length(response: Response) -> Score:
    """Number of words: what every other detector has to beat."""
    return float(len(tokens(response.text)))


def k_precision(response: Response) -> Score:
    """1 - K-Precision: share of the response's words that the evidence lacks (Adlakha et al. 2024)."""
    common, said, _ = overlap(response.text, _spaced(response.evidence))
    return 1 - common / said


def k_recall(response: Response) -> Score:
    """1 - K-Recall: share of the evidence's words that the response lacks (Adlakha et al. 2024)."""
    common, _, there = overlap(response.text, _spaced(response.evidence))
    return 1 - common / there


def bigram_novelty(response: Response) -> Score:
    """Share of the response's pairs of neighbouring words that are none in the evidence."""
    said, there = tokens(response.text), tokens(_spaced(response.evidence))
    pairs, known = list(pairwise(said)), set(pairwise(there))
    return sum(pair not in known for pair in pairs) / len(pairs) if pairs else Undefined("one word")


def number_support(response: Response) -> Score:
    """Share of the response's numbers that stand neither in the evidence nor in the question."""
    said, there = numbers(response.text), set(numbers(_spaced(response.given)))
    return sum(number not in there for number in said) / len(said) if said else Undefined("no number")


def entity_support(response: Response) -> Score:
    """Share of the response's named entities (runs of capitalised words) that stand neither in the evidence nor in the question."""
    said, there = named_entities(response.text), _spaced(response.given)
    return sum(not stands_in(name, there) for name in said) / len(said) if said else Undefined("no name")


def embedding_distance(responses: Sequence[Response]) -> list[Score]:
    """1 - cosine of the response and the most similar sentence of the evidence, by the default sentence embedder."""
    from bench.strategy.embedder import Embedder

    usable = [r for r in responses if not unusable(r)]
    parts = list(dict.fromkeys(s for r in usable for s in sentences(r.evidence)))
    embedder = Embedder()
    said = embedder.embed([r.text for r in usable]) if usable else ()
    vectors = dict(zip(parts, embedder.embed(parts), strict=True)) if parts else {}
    nearest = iter([max(float(vectors[s] @ own) for s in sentences(r.evidence)) for r, own in zip(usable, said, strict=True)])
    return [unusable(r) or 1 - next(nearest) for r in responses]


def _each(score: Callable[[Response], Score]) -> Detector:
    return Detector(score.__name__, (score.__doc__ or "").splitlines()[0], lambda responses: [unusable(r) or score(r) for r in responses])


DETECTORS = (
    *(_each(score) for score in (length, k_precision, k_recall, bigram_novelty, number_support, entity_support)),
    Detector("embedding_distance", (embedding_distance.__doc__ or "").splitlines()[0], embedding_distance),
)
"""Those that need nothing but the package. `bench.metric.entailment` and `bench.metric.judge` make one of a model and of an endpoint."""


def _spaced(text: str) -> str:
    # Where one sentence follows another without a space, two words would be taken for one.
    return " ".join(sentences(text))
