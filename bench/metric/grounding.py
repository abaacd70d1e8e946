"""Whether an answer rests on its evidence: the share of its words, numbers and named entities that stand there.

Overlap of words sees no negation and no swapped entity, and a measure of precision rewards saying little: each is to be read beside one of
recall. Measures relative to the gold evidence compare across all strategies, those relative to what was read only across strategies
that read.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, Final

from bench.metric.base import Metric
from bench.metric.sample import Sample
from bench.metric.summary import FUNCTION_WORDS
from bench.metric.text import overlap, stands_in

# Not within a word or number: "300g" and "1,250.5" are numbers, the 12 of "B12" is none.
_NUMBER = re.compile(r"(?<![^\W_])(?<!\d\.)\d+(?:,\d{3})*(?!\d)(?:\.\d+)?")
_SENTENCE = re.compile(r"[^.!?\n]+(?:[.!?](?!\s)[^.!?\n]*)*")
_WORD = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*")
_NO_NAMES: Final = FUNCTION_WORDS | {"i", "no", "not", "yes"}


def numbers(text: str) -> list[float]:
    """The numbers written in digits, by value: "1,250" is "1250.0". A comma parts thousands or numbers; signs are not read."""
    return [float(found.replace(",", "")) for found in _NUMBER.findall(text)]


def named_entities(text: str) -> list[str]:
    """Runs of capitalised words, a heuristic for names in English: "Zorpol Evo" and "Hestra" in "Is Zorpol Evo by Hestra?".

    A run loses the function words ("The", "Its") that begin it. At the beginning of a sentence the capital of a single word says nothing,
    so it counts only if it is all capitals ("NASA"), or if the sentence has no other word (an answer in one word). Names in lower case
    are missed, "Bank of England" is two names, and languages that write all nouns in capitals are beyond it.
    """
    found = []
    for sentence in _SENTENCE.findall(text):
        words = _WORD.findall(sentence)
        for start, run in _capitalised_runs(words):
            if start == 0 and len(run) == 1 and len(words) > 1 and not (run[0].isupper() and len(run[0]) > 1):
                continue
            found.append(" ".join(run))
    return found


def _capitalised_runs(words: list[str]) -> Iterator[tuple[int, list[str]]]:
    """(place of the first word, words) of each run."""
    run: list[str] = []
    for place, word in enumerate([*words, ""]):
        if word[:1].isupper() and (run or word.lower() not in _NO_NAMES):
            run.append(re.sub(r"['’]s$", "", word))
        elif run:
            yield place - len(run), run
            run = []


class _Precision(Metric):
    """Share of the answer's words that occur in a text (multiset of SQuAD-normalised words). Used alone, the references are the text."""

    @abstractmethod
    def text(self, sample: Sample) -> str | None:
        """What the words should be found in; None or empty where there is none."""

    missing: str
    """Why there is no text."""

    def undefined_because(self, sample: Sample) -> str | None:
        return self.no_claim(sample) or self.missing

    def sample_level(self, sample: Sample) -> float | None:
        text = self.text(sample)
        if not text or self.no_claim(sample):
            return None
        common, said, _ = overlap(sample.prediction, text)
        return common / said


class KPrecision(_Precision):
    """Share of the answer's words that occur in the gold evidence, in [0, 1] (Adlakha et al. 2024, arXiv 2307.16877: K-Precision).

    Undefined for an abstention, an empty answer and an item without evidence. It is the measure that agreed best with human judgment of
    faithfulness there.
    """

    name = "k_precision"
    missing = "no evidence"

    def text(self, sample: Sample) -> str | None:
        return sample.evidence

    def make_sample(self, prediction: Any, reference: Any) -> Sample:
        return Sample(prediction=prediction, evidence=_joined(reference))


class PassagePrecision(_Precision):
    """Share of the answer's words that occur in the passages that the model read, gold or not, in [0, 1]; for strategies that read.

    K-Precision of Adlakha et al. 2024 with the passages in the prompt. Undefined for an abstention, an empty answer, and where nothing
    was read.
    """

    name = "passage_precision"
    missing = "nothing was read"

    def text(self, sample: Sample) -> str | None:
        return "\n".join(sample.passages or ())

    def make_sample(self, prediction: Any, reference: Any) -> Sample:
        return Sample(prediction=prediction, passages=(_joined(reference),))


class KRecall(Metric):
    """Share of the gold evidence's words that the answer holds, in [0, 1]: how much of it is passed on, for long answers.

    Multiset of SQuAD-normalised words. Undefined as `k_precision`. Used alone, the references are the evidence.
    """

    name = "k_recall"
    higher_is_better = None

    def undefined_because(self, sample: Sample) -> str | None:
        return self.no_claim(sample) or "no evidence"

    def sample_level(self, sample: Sample) -> float | None:
        if not sample.evidence or self.no_claim(sample):
            return None
        common, _, known = overlap(sample.prediction, sample.evidence)
        return common / known if known else None

    def make_sample(self, prediction: Any, reference: Any) -> Sample:
        return Sample(prediction=prediction, evidence=_joined(reference))


class _Support(Metric):
    """Share of some things in an answer that stand in what was read (for a strategy that reads nothing, in the gold evidence) or in the
    question. Used alone, the references are the evidence."""

    thing: str

    @abstractmethod
    def supported(self, answer: str, source: str) -> list[bool]:
        """For each such thing in the answer, whether it stands in the source."""

    def undefined_because(self, sample: Sample) -> str | None:
        if sample.passages is None and not sample.evidence:
            return "no evidence"
        return self.no_claim(sample) or f"no {self.thing} in the answer"

    def sample_level(self, sample: Sample) -> float | None:
        if (sample.passages is None and not sample.evidence) or self.no_claim(sample):
            return None
        read = sample.passages if sample.passages is not None else (sample.evidence or "",)
        found = self.supported(sample.prediction, "\n".join([*read, sample.question]))
        return sum(found) / len(found) if found else None

    def make_sample(self, prediction: Any, reference: Any) -> Sample:
        return Sample(prediction=prediction, evidence=_joined(reference))


class NumberSupport(_Support):
    """Share of the numbers in the answer (`numbers`: in digits, by value) that stand in what was read or in the question, in [0, 1].

    Where the strategy reads nothing, in the gold evidence or in the question. Undefined for an abstention, an empty answer, an answer
    without a number, and where there is neither passage nor evidence. After the named-entity precision of FactualityPrompts (Lee et al.
    2022, arXiv 2206.04624), which counts numbers among the entities.
    """

    name = "number_support"
    thing = "number"

    def supported(self, answer: str, source: str) -> list[bool]:
        said = numbers(answer)
        known = set(numbers(source)) if said else set()
        return [number in known for number in said]


class EntitySupport(_Support):
    """Share of the named entities in the answer (`named_entities`, a heuristic) that stand in what was read or in the question.

    In [0, 1]; an entity stands there if its words follow each other there, whatever their case. Undefined as `number_support`, for an
    answer without a named entity. 1 minus it is the named-entity error of FactualityPrompts (Lee et al. 2022, arXiv 2206.04624), which
    finds entities with a model.
    """

    name = "entity_support"
    thing = "named entity"

    def supported(self, answer: str, source: str) -> list[bool]:
        return [stands_in(entity, source) for entity in named_entities(answer)]


def _joined(reference: str | list[str]) -> str:
    return reference if isinstance(reference, str) else "\n".join(reference)
