"""Citations: taking them off an answer, and scoring them against the gold passages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.metric import get
from bench.metric.citation import split_citations
from bench.metric.sample import Sample
from bench.metric.score import Answer, names_for, score
from bench.task.schema import Example, Task, TaskConfig


@pytest.mark.parametrize(
    ("text", "answer", "cited"),
    [
        ("red [2]", "red", (2,)),
        ("red[2]", "red", (2,)),
        ("[1][3] red", "red", (1, 3)),
        ("red [1, 3].", "red.", (1, 3)),
        ("red [ 3 ,1 ]", "red", (3, 1)),
        ("It is red [1] and heavy [2].", "It is red and heavy.", (1, 2)),
        ("red [2] [2][1, 2]", "red", (2, 1)),
        ("red\n[12]", "red", (12,)),
        ("[7]", "", (7,)),
        ("", "", ()),
        (" none ", "none", ()),
    ],
)
def test_citations_are_taken_off(text: str, answer: str, cited: tuple[int, ...]) -> None:
    assert split_citations(text) == (answer, cited)


@pytest.mark.parametrize(
    "text",
    ["[abc]", "[0]", "[-1]", "[1.5]", "[1-3]", "[1,]", "[, 1]", "[]", "[1a]", "[2019]", "(1)", "red [1", "red 1]", "[[1, 2], [3]]",
     '["a", [1]]', '{"sizes": [1, 2]}', '{"a": {"b": [3]}}', '{"cut": [1', "[٣]"],
)  # fmt: skip
def test_what_is_no_citation_is_left_as_it_is(text: str) -> None:
    assert split_citations(text) == (text, ())


def test_a_citation_after_an_object_is_taken_off_and_the_objects_own_numbers_stay() -> None:
    assert split_citations('{"sizes": [1, 2]} [3]') == ('{"sizes": [1, 2]}', (3,))
    assert split_citations("a :} [3]") == ("a :}", (3,))


@given(st.text(alphabet="a1, []{}.\n9", max_size=40))
def test_any_text_can_be_split_and_only_the_numbers_of_citations_are_lost(text: str) -> None:
    answer, cited = split_citations(text)
    assert all(1 <= n <= 999 for n in cited)
    assert len(set(cited)) == len(cited)
    assert answer.count("a") == text.count("a")
    if not cited:
        assert answer == text.strip()


def value(name: str, cited: list[list[str]], gold: list[list[str]]) -> float | None:
    found: dict[str, float | None] = get(name)().compute(predictions=cited, references=gold)
    return found[name]


def test_precision_and_recall_by_hand() -> None:
    cited = [["a", "b"], ["a"], ["c", "c"], [], ["x"]]
    gold = [["a"], ["a", "b"], ["a"], ["a"], []]
    # The fourth cites nothing: no precision, recall 0. The fifth has no gold passage: neither.
    assert value("citation_precision", cited, gold) == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert value("citation_recall", cited, gold) == pytest.approx((1 + 1 / 2 + 0 + 0) / 4)


@pytest.mark.parametrize("name", ["citation_precision", "citation_recall"])
def test_a_strategy_that_does_not_cite_has_no_score(name: str) -> None:
    assert get(name)().sample_level(Sample(cited_ids=None, gold_ids=("a",))) is None
    assert value(name, [], []) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cited_ids": None}, "the strategy does not cite"),
        ({"gold_ids": ()}, "no gold passage"),
        ({"outcome": "abstained"}, "abstained"),
        ({"prediction": ""}, "empty answer"),
        ({"cited_ids": ()}, "no citation"),
    ],
)
def test_what_claims_or_cites_nothing_says_so(changes: dict[str, Any], reason: str) -> None:
    sample = replace(Sample("red", ("red",), outcome="correct", cited_ids=("a",), gold_ids=("a",)), **changes)
    metric = get("citation_precision")()
    assert metric.sample_level(sample) is None
    assert metric.undefined_because(sample) == reason
    recall = get("citation_recall")().sample_level(sample)
    assert recall == (0.0 if reason == "no citation" else None)


def test_precision_counts_a_passage_cited_twice_once() -> None:
    assert value("citation_precision", [["a", "a", "b"]], [["a"]]) == 0.5


CONFIG = TaskConfig(kind="qa", instruction="Answer.", input="{{ q }}", target="a", metrics=["exact_match"])
TASK = Task(name="sample", folder=Path("tasks/sample"), config=CONFIG, train=(), validation=(), test=())


def example(*gold: str) -> Example:
    return Example(id="1", input="?", targets=("red",), answerable=True, cluster="c", evidence=gold)


def test_they_stand_where_the_strategy_cites_and_something_is_gold() -> None:
    both = {"citation_precision", "citation_recall"}
    assert both <= set(names_for(TASK, [example("a")], retrieves=True, cites=True))
    assert not both & set(names_for(TASK, [example("a")], retrieves=True))
    assert not both & set(names_for(TASK, [example()], retrieves=True, cites=True))


def test_scores_of_answers() -> None:
    answers = [
        Answer(example("a"), "red", retrieved_ids=("a", "b"), cited_ids=("a", "b")),
        Answer(example("a"), "red", retrieved_ids=("a", "b"), cited_ids=()),
    ]
    scores = score(TASK, answers)
    assert (scores.corpus["citation_precision"], scores.corpus["citation_recall"]) == (0.5, 0.5)
    assert (scores.undefined["citation_precision"], scores.undefined["citation_recall"]) == (1, 0)
    silent = score(TASK, [Answer(example("a"), "red", retrieved_ids=("a",))])
    assert not {"citation_precision", "citation_recall"} & set(silent.undefined)
