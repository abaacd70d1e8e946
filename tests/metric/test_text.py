"""The text rules: SQuAD normalisation, labels, abstention, macro F1."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from bench.metric.text import is_abstention, label_key, macro_f1, normalize, overlap


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Nile.", "nile"),
        ("  a  BIG\tdog\n", "big dog"),
        ("an apple, a day", "apple day"),
        ("theatre and anthem", "theatre and anthem"),  # articles are whole words
        ("U.S.A.", "usa"),
        ("state-of-the-art", "stateoftheart"),  # punctuation goes first, as in the official script
        ("it's $3.50", "its 350"),
        ("Émile — Zola", "émile — zola"),  # only ASCII punctuation is removed
        ("A", "a"),  # the official script would leave nothing
        ("The", "the"),
        ("?!", "?!"),
        ("", ""),
        (" \n ", ""),
    ],
)
def test_normalize(text: str, expected: str) -> None:
    assert normalize(text) == expected


@given(st.text())
def test_normalize_is_the_official_rule_wherever_that_leaves_something(text: str) -> None:
    bare = "".join(character for character in text.lower() if character not in set(string.punctuation))
    official = " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())
    assert normalize(text) == (official or " ".join(text.lower().split()))


def test_labels_differ_by_punctuation_and_articles_but_not_by_case_or_space() -> None:
    assert label_key(" Card\n Lost ") == label_key("card lost")
    assert label_key("A") != label_key("the")
    assert label_key("c++") != label_key("c")


def test_only_a_whole_phrase_is_an_abstention() -> None:
    phrases = ["unknown", "not stated"]
    assert is_abstention("Unknown.", phrases)
    assert is_abstention(" not  stated", phrases)
    assert not is_abstention("unknown to most, it is blue", phrases)
    assert not is_abstention("", phrases)
    assert not is_abstention("unknown", [])


def test_overlap_counts_repeated_words() -> None:
    assert overlap("red red blue", "red blue blue green") == (2, 3, 4)


def test_macro_f1_by_hand() -> None:
    # x: tp 1, predicted 2, true 1 -> 2/3; y: tp 1, predicted 1, true 2 -> 2/3
    assert macro_f1([("x", ("x",)), ("x", ("y",)), ("y", ("y",))]) == pytest.approx(2 / 3)
    # an answer that is no label makes no class of its own: x: 2*1/(1+2), nothing else
    assert macro_f1([("x", ("x",)), ("gibberish", ("x",))]) == pytest.approx(2 / 3)
    # any target is right
    assert macro_f1([("b", ("a", "b")), ("a", ("a", "b"))]) == 1.0
    assert macro_f1([]) is None


@given(st.lists(st.tuples(st.sampled_from("wxyz?"), st.sampled_from("wxyz")), min_size=1))
def test_macro_f1_agrees_with_sklearn(pairs: list[tuple[str, str]]) -> None:
    said, true = [p for p, _ in pairs], [t for _, t in pairs]
    expected = f1_score(true, said, labels=sorted(set(true)), average="macro", zero_division=0)
    assert macro_f1((p, (t,)) for p, t in pairs) == pytest.approx(expected)
