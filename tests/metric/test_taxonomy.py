"""Kinds of errors: each branch of the decision list, its order, and that every error of a reading strategy has exactly one kind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.metric.score import Answer, score
from bench.metric.taxonomy import ERROR_KINDS, error_counts, error_kinds
from bench.result.schema import Item, Outcome, Tokens
from bench.task.schema import Example, Passage, Task, TaskConfig

GOLD = Passage("gold", "Zorpol is white and made of wool. It is sold in Perth.")
REST = Passage("gold", "Zorpol weighs 300 grams.")
OTHER = Passage("other", "Lunqua is green and made of cork.")
UNREAD = Passage("unread", "Kelesto is brown.")
CORPUS = (Passage("gold", f"{GOLD.text} {REST.text}"), OTHER, UNREAD)

CONFIG = TaskConfig(
    kind="qa", instruction="Answer.", input="{{ q }}", target="a", abstain=["unknown", "not stated"], metrics=["exact_match"]
)
TRAIN = Example("t", "?", ("violet",), True, "t")
TASK = Task("sample", Path("tasks/sample"), CONFIG, (TRAIN,), (), (), CORPUS)

ASKED = Example("1", "What color is Zorpol?", ("white", "off white"), True, "Zorpol", ("gold",))
NO_ANSWER = Example("2", "What is the power of Zorpol?", ("unknown",), False, "Zorpol", ("gold",))


def kind(said: str, read: tuple[Passage, ...] | None, left_out: tuple[Passage, ...] = (), example: Example = ASKED) -> str | None:
    answer = Answer(example, said, passages=read, left_out=left_out)
    [found] = error_kinds(TASK, [answer], score(TASK, [answer], ["exact_match"]).outcomes)
    return found


@pytest.mark.parametrize(
    ("said", "read", "left_out", "expected"),
    [
        ("white", (GOLD, OTHER), (), None),
        ("white", (OTHER,), (), None),  # right, whatever it read
        ("it is white", (GOLD,), (), "format_failure"),
        ("it is white", (OTHER,), (), "format_failure"),  # what was asked for is there: not for want of evidence
        ("", (GOLD,), (), "format_failure"),
        (" ", (OTHER,), (), "format_failure"),
        ("green", (OTHER,), (), "retrieval_miss"),
        ("green", (), (), "retrieval_miss"),
        ("unknown", (OTHER,), (), "retrieval_miss"),
        ("green", (OTHER, REST), (), "retrieval_miss"),  # of the gold document, but not the part with the answer
        ("green", (OTHER,), (GOLD,), "evidence_truncated"),
        ("Unknown.", (OTHER,), (GOLD,), "evidence_truncated"),
        ("green", (OTHER,), (REST,), "retrieval_miss"),
        ("unknown", (GOLD, OTHER), (), "wrongly_abstained"),
        ("wool", (GOLD, OTHER), (), "evidence_misread"),
        ("made of", (GOLD, OTHER), (), "evidence_misread"),  # in a gold and in another passage
        ("300 grams", (GOLD, REST), (), "evidence_misread"),
        ("Green", (GOLD, OTHER), (), "distractor_copied"),
        ("green", (GOLD,), (OTHER,), "evidence_ignored"),  # left out of the prompt: not read
        ("brown", (GOLD, OTHER), (), "evidence_ignored"),
        ("violet", (GOLD, OTHER), (), "evidence_ignored"),  # a training target
        ("purple", (GOLD, OTHER), (), "fabricated"),
        ("brown violet", (GOLD, OTHER), (), "fabricated"),  # in no single text
        ("gree", (GOLD, OTHER), (), "fabricated"),
        ("purple", None, (), None),  # nothing to read
    ],
)
def test_an_item_with_an_answer(said: str, read: tuple[Passage, ...] | None, left_out: tuple[Passage, ...], expected: str | None) -> None:
    assert kind(said, read, left_out) == expected


@pytest.mark.parametrize(
    ("said", "read", "expected"),
    [
        ("unknown", (GOLD,), None),
        ("not stated", (), None),
        ("", (GOLD,), "format_failure"),
        ("it is unknown", (GOLD,), "format_failure"),
        ("wool", (GOLD, OTHER), "evidence_misread"),
        ("cork", (GOLD, OTHER), "distractor_copied"),
        ("cork", (OTHER,), "distractor_copied"),  # no miss: nothing that could be retrieved answers it
        ("brown", (GOLD,), "evidence_ignored"),
        ("steam", (GOLD,), "fabricated"),
        ("steam", (), "fabricated"),
    ],
)
def test_an_item_without_an_answer(said: str, read: tuple[Passage, ...], expected: str | None) -> None:
    assert kind(said, read, example=NO_ANSWER) == expected


def test_where_the_answer_is_not_in_words_any_passage_of_a_gold_document_is_evidence() -> None:
    asked = replace(ASKED, targets=("yes",))
    assert kind("no", (REST,), example=asked) == "fabricated"
    assert kind("no", (OTHER,), example=asked) == "retrieval_miss"
    assert kind("unknown", (REST,), example=asked) == "wrongly_abstained"


def test_no_kind_without_a_known_gold_document_or_outside_question_answering() -> None:
    assert kind("green", (OTHER,), example=replace(ASKED, evidence=())) is None
    assert kind("cork", (OTHER,), example=replace(NO_ANSWER, evidence=())) == "distractor_copied"
    labels = replace(TASK, config=CONFIG.model_copy(update={"kind": "classification"}))
    assert error_kinds(labels, [Answer(ASKED, "green", passages=(OTHER,))], ["incorrect"]) == [None]


WORDS = st.sampled_from(["white", "it is white", "", "unknown", "wool", "green", "brown", "purple", "is", "the"])
PASSAGES = st.lists(st.sampled_from([GOLD, REST, OTHER, UNREAD]), max_size=3, unique=True).map(tuple)


@given(WORDS, PASSAGES, PASSAGES, st.sampled_from([ASKED, NO_ANSWER]))
def test_every_error_has_a_kind_and_nothing_else_has(
    said: str, read: tuple[Passage, ...], left_out: tuple[Passage, ...], example: Example
) -> None:
    answer = Answer(example, said, passages=read, left_out=left_out)
    scores = score(TASK, [answer], ["exact_match"])
    [found] = error_kinds(TASK, [answer], scores.outcomes)
    assert (found is None) == (scores.items[0]["exact_match"] == 1.0)
    assert found is None or found in ERROR_KINDS


def test_errors_are_counted_with_zeros() -> None:
    def item(error: str | None, outcome: Outcome = "incorrect") -> Item:
        return Item(
            id="1", cluster="c", input_hash="", prompt_hash="", prediction="", targets=[], answerable=True, outcome=outcome, scores={},
            error=error, tokens=Tokens(), latency_seconds=0.0,
        )  # fmt: skip

    found = error_counts([item("fabricated"), item("fabricated"), item("retrieval_miss"), item(None, "correct")])
    assert list(found) == list(ERROR_KINDS)
    assert {k: n for k, n in found.items() if n} == {"fabricated": 2, "retrieval_miss": 1}
    assert error_counts([]) == dict.fromkeys(ERROR_KINDS, 0)
