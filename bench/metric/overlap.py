"""Metrics of the overlap between the answer and the nearest target: exact match, token F1, ROUGE."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from bench.metric.base import AnswerMetric, FieldType
from bench.metric.sample import Sample
from bench.metric.text import is_unspaced, overlap, tokens, words

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])")
_LATIN_END = 0x250
"""Below it, and in the block of Vietnamese and others (1E00 to 1EFF), letters are Latin."""


class ExactMatch(AnswerMetric):
    """1 if the answer equals a target after SQuAD normalisation, else 0. In text without spaces between words, spaces and all
    punctuation do not count (`bench.metric.text.tokens`)."""

    name = "exact_match"
    kinds = frozenset({"qa", "classification"})
    correct_at = 1.0

    def match(self, prediction: str, target: str) -> float:
        return float(tokens(prediction) == tokens(target))


class TokenF1(AnswerMetric):
    """Harmonic mean of token precision and recall after SQuAD normalisation (multiset of words; of characters in text without spaces
    between words), in [0, 1]."""

    name = "f1"
    kinds = frozenset({"qa", "summarization"})
    correct_at = 0.5

    def match(self, prediction: str, target: str) -> float:
        common, said, wanted = overlap(prediction, target)
        return 2 * common / (said + wanted) if common else float(said == wanted == 0)


class AnswerRecall(AnswerMetric):
    """Share of the target's words that the answer holds (multiset of SQuAD-normalised words), in [0, 1]; the best target counts.

    For answers in whole sentences, on which it agrees best with human judgment (Adlakha et al. 2024, "Evaluating Correctness and
    Faithfulness of Instruction-Following Models for Question Answering": recall). It does not see what else the answer claims: read it
    beside `k_precision` or `passage_precision`.
    """

    name = "answer_recall"
    kinds = frozenset({"qa", "summarization"})

    def undefined_because(self, sample: Sample) -> str | None:
        return "no word in the target"

    def match(self, prediction: str, target: str) -> float | None:
        common, _, wanted = overlap(prediction, target)
        return common / wanted if wanted else None


class _AnyScript:
    """The tokenizer of rouge-score for the texts it was made for, and `bench.metric.text.words` for those it would read nothing of."""

    def __init__(self, latin: Any) -> None:
        self._latin = latin

    def tokenize(self, text: str) -> list[str]:
        if text.isascii() or not (is_unspaced(text) or _mostly_not_latin(text)):
            return list(self._latin.tokenize(text))
        return [token for word in words(text.lower()) for token in (self._latin.tokenize(word) if word.isascii() else [word])]


def _mostly_not_latin(text: str) -> bool:
    letters = [character for character in text if character.isalpha()]
    return sum(ord(letter) >= _LATIN_END and not 0x1E00 <= ord(letter) <= 0x1EFF for letter in letters) > len(letters) / 2


class _Rouge(AnswerMetric):
    """ROUGE (Lin 2004) F-measure by rouge-score, with Porter stemming, in [0, 1].

    Words are runs of a-z and 0-9, as in rouge-score. That reads nothing of other scripts, so a text with characters of a script without
    spaces between words, and one of which most letters are not Latin, is cut by `bench.metric.text.words` instead.
    """

    kinds = frozenset({"summarization", "qa"})
    correct_at = 0.5

    def __init__(self, *, labels: Sequence[str] = (), fields: Mapping[str, FieldType] | None = None, abstain: Sequence[str] = ()) -> None:
        from rouge_score.rouge_scorer import RougeScorer  # takes half a second, for nltk, and most tasks are scored without it
        from rouge_score.tokenizers import DefaultTokenizer

        super().__init__(labels=labels, fields=fields, abstain=abstain)
        self._scorer = RougeScorer([self.name], tokenizer=_AnyScript(DefaultTokenizer(use_stemmer=True)))

    def match(self, prediction: str, target: str) -> float:
        return float(self._scorer.score(target, prediction)[self.name].fmeasure)

    def compute(
        self,
        *,
        predictions: Sequence[Any],
        references: Sequence[Any],
        bootstrap: bool = False,
        n_resamples: int = 1000,
        confidence: float = 0.95,
    ) -> dict[str, float | None]:
        """The mean; with ``bootstrap``, also ``<name>_low``, ``_mid`` and ``_high`` of rouge-score's own bootstrap over items (seeded)."""
        result = super().compute(predictions=predictions, references=references)
        if bootstrap and result[self.name] is not None:
            import numpy as np
            from rouge_score.scoring import BootstrapAggregator, Score

            aggregator = BootstrapAggregator(confidence_interval=confidence, n_samples=n_resamples)
            for sample in self.make_samples(predictions, references):
                if (value := self.sample_level(sample)) is not None:
                    aggregator.add_scores({self.name: Score(value, value, value)})
            before = np.random.get_state()  # noqa: NPY002 - the generator that rouge-score draws from
            np.random.seed(0)  # noqa: NPY002
            try:
                interval = aggregator.aggregate()[self.name]
            finally:
                np.random.set_state(before)  # noqa: NPY002
            for end in ("low", "mid", "high"):
                result[f"{self.name}_{end}"] = float(getattr(interval, end).fmeasure)
        return result


class Rouge1(_Rouge):
    """ROUGE-1: words in common. F-measure with Porter stemming, in [0, 1]."""

    name = "rouge1"


class Rouge2(_Rouge):
    """ROUGE-2: pairs of neighbouring words in common. F-measure with Porter stemming, in [0, 1]."""

    name = "rouge2"


class RougeL(_Rouge):
    """ROUGE-L: longest common subsequence of words, the text as one sequence. F-measure with Porter stemming, in [0, 1]."""

    name = "rougeL"


class RougeLsum(_Rouge):
    """ROUGE-Lsum: union of the longest common subsequences, sentence by sentence. F-measure with Porter stemming, in [0, 1].

    Sentences end at a line break or after ``.``, ``!`` or ``?`` with a space (rouge-score alone splits at line breaks only).
    """

    name = "rougeLsum"

    def match(self, prediction: str, target: str) -> float:
        return super().match(_SENTENCE_END.sub("\n", prediction), _SENTENCE_END.sub("\n", target))
