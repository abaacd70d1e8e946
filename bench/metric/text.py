"""The text rules by which all metrics compare answers. Plain functions; nothing heavy is imported."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(text: str) -> str:
    """Lower-case, without ASCII punctuation and English articles, whitespace collapsed.

    These are the rules of the official SQuAD evaluation (Rajpurkar et al. 2016), with one exception: where they leave nothing
    ("A", "The", "?!"), the lower-cased text is kept, so that an empty prediction does not equal the answer "A".
    """
    lowered = text.lower()
    kept = " ".join(_ARTICLES.sub(" ", lowered.translate(_NO_PUNCTUATION)).split())
    return kept or " ".join(lowered.split())


def tokens(text: str) -> list[str]:
    """The words of the normalised text."""
    return normalize(text).split()


def stands_in(part: str, text: str) -> bool:
    """Whether the words of `part`, normalised, stand one after another in the text; never where `part` has no word."""
    words = normalize(part)
    return bool(words) and f" {words} " in f" {normalize(text)} "


def label_key(text: str) -> str:
    """How labels compare: without regard to case and to whitespace at the ends or in runs; punctuation and articles count."""
    return " ".join(text.casefold().split())


def is_abstention(prediction: str, phrases: Iterable[str]) -> bool:
    """Whether the whole prediction, normalised, is one of the abstention phrases. Nothing is guessed from wording."""
    said = normalize(prediction)
    return any(said == normalize(phrase) for phrase in phrases)


def overlap(first: str, second: str) -> tuple[int, int, int]:
    """Size of the multiset intersection of the two texts' tokens, and the number of tokens of each."""
    a, b = Counter(tokens(first)), Counter(tokens(second))
    return (a & b).total(), a.total(), b.total()


def macro_f1(pairs: Iterable[tuple[str, tuple[str, ...] | list[str]]]) -> float | None:
    """Unweighted mean of the F1 of each label, in [0, 1]; None without pairs.

    Args:
        pairs: (prediction, targets) of each item. Where several targets are right, the predicted one counts as the true label if it
            is among them, else the first.

    The mean is over the labels that are the true label of some item, as
    ``sklearn.metrics.f1_score(labels=sorted(set(true)), average="macro", zero_division=0)``: an answer that is no such label
    is a miss for the true label and makes no class of its own.
    """
    true_positive: Counter[str] = Counter()
    predicted: Counter[str] = Counter()
    true: Counter[str] = Counter()
    for prediction, targets in pairs:
        said = label_key(prediction)
        golds = [label_key(target) for target in targets]
        if not golds:
            continue
        gold = said if said in golds else golds[0]
        true[gold] += 1
        predicted[said] += 1
        true_positive[gold] += said == gold
    if not true:
        return None
    return sum(2 * true_positive[label] / (predicted[label] + count) for label, count in sorted(true.items())) / len(true)
