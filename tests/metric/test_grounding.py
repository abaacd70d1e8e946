"""What an answer rests on: words, numbers and names in passages and evidence, and the reasons where that says nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.metric import get
from bench.metric.grounding import named_entities, numbers
from bench.metric.sample import Sample
from bench.metric.text import stands_in


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It weighs 1,250.0 grams", [1250]),
        ("300g or 5GHz", [300, 5]),
        ("in 1999.", [1999]),
        ("3.5% of 12,5", [3.5, 12, 5]),
        ("B12 and Q3-4", [4]),
        ("1.5.2", [1.5]),
        ("007, 2.50", [7, 2.5]),
        ("$5 (-6)", [5, 6]),
        ("three", []),
        ("", []),
    ],
)
def test_numbers(text: str, found: list[float]) -> None:
    assert numbers(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Is Zorpol Evo made by Hestra?", ["Zorpol Evo", "Hestra"]),
        ("The Zorpol Evo is light. Its maker is Hestra's rival.", ["Zorpol Evo", "Hestra"]),
        ("Zorpol Evo weighs more", ["Zorpol Evo"]),
        ("Green is the color", []),  # one capital, at the beginning of a sentence
        ("It is red. Blue was meant.", []),
        ("NASA said so", ["NASA"]),
        ("Wendal", ["Wendal"]),  # the answer is no sentence
        ("Wendal.", ["Wendal"]),
        ("Yes", []),
        ("No", []),
        ("I think it is Perth, not Lima", ["Perth", "Lima"]),
        ("version 2.0 of Talco", ["Talco"]),  # a point within a number ends no sentence
        ("red", []),
        ("", []),
    ],
)
def test_named_entities(text: str, found: list[str]) -> None:
    assert named_entities(text) == found


@given(st.text())
def test_any_text_has_numbers_and_names(text: str) -> None:
    assert all(number >= 0 for number in numbers(text))
    assert all(word in text for name in named_entities(text) for word in name.split())


@pytest.mark.parametrize(
    ("part", "text", "stands"),
    [
        ("Red box", "A red box.", True),
        ("red box", "red, blue box", False),
        ("red", "reddish", False),
        ("the", "the box", False),  # of the text the article is dropped, of the part alone it is kept
        ("", "anything", False),
        ("red", "", False),
    ],
)
def test_words_stand_in_a_text_one_after_another(part: str, text: str, stands: bool) -> None:
    assert stands_in(part, text) == stands


READ = Sample(
    prediction="Hestra sells 300 grams to Lima in 1999",
    evidence="Zorpol is by Hestra.",
    passages=("Zorpol weighs 300 grams.", "It goes to Lima."),
    question="What of 1999?",
)


def test_support_is_by_what_was_read_or_asked() -> None:
    numbers_of, names = get("number_support")(), get("entity_support")()
    assert numbers_of.sample_level(READ) == 1.0
    assert names.sample_level(READ) == 1.0  # Hestra begins the sentence alone
    named = replace(READ, prediction="It is by Hestra for Lima and 7")
    assert names.sample_level(named) == 0.5
    assert numbers_of.sample_level(named) == 0.0
    closed_book = replace(named, passages=None)
    assert names.sample_level(closed_book) == 0.5  # by the gold evidence: Hestra
    assert numbers_of.sample_level(replace(READ, passages=())) == 0.5  # nothing was found: the question is left


def test_numbers_compare_by_value_and_each_counts() -> None:
    assert get("number_support")().compute(predictions=["1250 or 1250.0 or 9"], references=["1,250"]) == {
        "number_support": pytest.approx(2 / 3)
    }


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("number_support", {"prediction": "red"}, "no number in the answer"),
        ("entity_support", {"prediction": "red"}, "no named entity in the answer"),
        ("number_support", {"passages": None, "evidence": None}, "no evidence"),
        ("entity_support", {"prediction": "unknown"}, "abstained"),
        ("entity_support", {"outcome": "abstained"}, "abstained"),
        ("number_support", {"prediction": " "}, "empty answer"),
        ("k_precision", {"evidence": None}, "no evidence"),
        ("k_precision", {"prediction": "Unknown."}, "abstained"),
        ("k_recall", {"prediction": ""}, "empty answer"),
        ("k_recall", {"evidence": ""}, "no evidence"),
        ("passage_precision", {"passages": None}, "nothing was read"),
        ("passage_precision", {"passages": ()}, "nothing was read"),
    ],
)
def test_what_is_undefined_says_why(name: str, changes: dict[str, object], reason: str) -> None:
    metric = get(name)(abstain=["unknown"])
    sample = replace(READ, **changes)  # type: ignore[arg-type]
    assert metric.sample_level(sample) is None
    assert metric.undefined_because(sample) == reason


def test_precision_and_recall_of_the_evidence() -> None:
    assert get("k_recall")().compute(predictions=["red box"], references=["A red box. It is big."]) == {"k_recall": pytest.approx(2 / 5)}
    assert get("passage_precision")().sample_level(replace(READ, prediction="300 grams of lead")) == pytest.approx(2 / 4)
    assert get("passage_precision")().compute(predictions=["red box"], references=[["a red", "a ball"]]) == {"passage_precision": 0.5}


def test_answer_recall() -> None:
    metric = get("answer_recall")(abstain=["unknown"])
    assert metric.sample_level(Sample("It is the red and very big box", ("red box",))) == 1.0
    assert metric.sample_level(Sample("red", ("red red box", "red ball"))) == 0.5
    assert metric.sample_level(Sample("", ("red",))) == 0.0
    assert metric.sample_level(Sample("unknown", ("unknown",), answerable=False)) == 1.0
    assert metric.sample_level(Sample("red", ("",))) is None
    assert metric.undefined_because(Sample("red", ("",))) == "no word in the target"


def test_right_without_evidence() -> None:
    metric = get("right_without_evidence")()
    right = Sample("x", ("x",), outcome="correct", retrieved_ids=("a", "b"), gold_ids=("b",))
    assert metric.sample_level(right) == 0.0
    assert metric.sample_level(replace(right, gold_ids=("c",))) == 1.0
    assert metric.sample_level(replace(right, retrieved_ids=())) == 1.0
    assert metric.sample_level(replace(right, cited_ids=("a",))) == 1.0  # retrieved, but not what the answer names
    assert metric.sample_level(replace(right, cited_ids=("b", "a"))) == 0.0
    reasons = {
        "nothing was searched for": replace(right, retrieved_ids=None),
        "no gold passage": replace(right, gold_ids=()),
        "no citation": replace(right, cited_ids=()),
        "wrong answer": replace(right, outcome="incorrect"),
        "abstained": replace(right, outcome="abstained"),
    }
    for reason, sample in reasons.items():
        assert metric.sample_level(sample) is None
        assert metric.undefined_because(sample) == reason
    assert metric.compute(predictions=[["a"], ["b"]], references=[["b"], ["b"]]) == {"right_without_evidence": 0.5}
