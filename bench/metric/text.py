"""The text rules by which all metrics compare answers. Plain functions; nothing heavy is imported."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable
from functools import cache
from typing import Any

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


UNSPACED_SCRIPTS = ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan")
"""Scripts (Unicode names) that put no space between words: there each letter or digit, with its marks, counts as a word."""


@cache
def _pattern(name: str) -> Any:
    import regex  # type: ignore[import-untyped]  # it knows scripts; text in ASCII need not wait for it

    scripts = "".join(rf"\p{{{script}}}" for script in UNSPACED_SCRIPTS)
    letter = rf"[[{scripts}]&&[\p{{L}}\p{{N}}]]"
    patterns = {"unspaced": letter, "word": rf"{letter}\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}]--{letter}]+"}
    return regex.compile(patterns[name], regex.V1)


def is_unspaced(text: str) -> bool:
    """Whether a character of the text belongs to a script without spaces between words (`UNSPACED_SCRIPTS`)."""
    return not text.isascii() and _pattern("unspaced").search(text) is not None


def words(text: str) -> list[str]:
    """Runs of letters, marks and digits in the order of the text; in a script without spaces between words, each character.

    Punctuation and symbols of any script separate and are left out: "iPhone很好。" is "iPhone", "很", "好".
    """
    found: list[str] = _pattern("word").findall(text)
    return found


def tokens(text: str) -> list[str]:
    """The words of the normalised text; characters where it is written without spaces.

    A text with a character of `UNSPACED_SCRIPTS` (Chinese, Japanese, Thai, ...) is cut by `words`, the words of other scripts in it
    staying whole; every other text, Korean included, is cut at its spaces.
    """
    normal = normalize(text)
    return words(normal) if is_unspaced(normal) else normal.split()


def stands_in(part: str, text: str) -> bool:
    """Whether the tokens of `part` stand one after another in the text; never where `part` has none."""
    wanted = " ".join(tokens(part))
    return bool(wanted) and f" {wanted} " in f" {' '.join(tokens(text))} "


def label_key(text: str) -> str:
    """How labels compare: without regard to case and to whitespace at the ends or in runs; punctuation and articles count."""
    return " ".join(text.casefold().split())


def is_abstention(prediction: str, phrases: Iterable[str]) -> bool:
    """Whether the whole prediction, normalised, is one of the abstention phrases. Nothing is guessed from wording."""
    said = tokens(prediction)
    return any(said == tokens(phrase) for phrase in phrases)


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
