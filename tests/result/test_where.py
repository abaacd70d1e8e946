"""Conditions on items: what they mean, and what is said where they cannot be read."""

from __future__ import annotations

from typing import Any

import pytest
from result_samples import make_item

from bench.errors import BenchError
from bench.result.schema import Item, Tokens
from bench.result.where import DEEPEST, Row, names_of, parse_condition


def halluc(i: int, **changes: Any) -> Item:
    return make_item(i, 0.0, scores={"f1": 0.2, "hallucination_rate": 1.0}, error="retrieval_miss", logprob=-3.0, **changes)


def abstained(i: int, **changes: Any) -> Item:
    return make_item(i, 0.0, outcome="abstained", scores={"hallucination_rate": 0.0}, undefined={"f1": "abstained"}, **changes)


ROWS: list[Row] = [
    {"rag": make_item(0), "rag-oracle": make_item(0), "lora v1.5": make_item(0, logprob=-0.5, tokens=Tokens(prompt=7, completion=2))},
    {"rag": halluc(1), "rag-oracle": make_item(1), "lora v1.5": make_item(1, logprob=-2.0)},
    {"rag": abstained(2), "rag-oracle": make_item(2), "lora v1.5": abstained(2)},
    {"rag": halluc(3, answerable=False), "rag-oracle": abstained(3, answerable=False), "lora v1.5": make_item(3, answerable=False)},
]


def found(text: str) -> list[str]:
    """Of each row: "+" holds, "-" does not, "?" undecided."""
    condition = parse_condition(text, names_of(ROWS))
    return [{True: "+", False: "-", None: "?"}[condition.test(row)] for row in ROWS]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rag right", "+---"),
        ("rag wrong", "-+++"),  # abstaining from what has an answer is wrong
        ("oracle right", "++++"),  # abstaining from what has none is right; a part of the name is enough where one has it
        ("rag wrong and oracle right", "-+++"),
        ("rag wrong, oracle right", "-+++"),
        ("rag abstained", "--+-"),
        ("rag hallucinated", "?+-+"),  # the first has no such score
        ("not rag hallucinated", "?-+-"),
        ("'lora v1.5' wrong", "--++"),  # an answer to what has none is wrong
        ("rag.f1 < 0.5", "-+?+"),
        ("rag.f1 >= 0.5", "+-?-"),
        ("not rag.f1 < 0.5", "+-?-"),  # undefined is neither below nor not below
        ("rag.f1 < .5 or rag abstained", "-+++"),
        ("rag.f1 < .5 and rag right", "----"),
        ("'lora v1.5.logprob'>-1", "+-??"),
        ('"lora v1.5.logprob" <= -2', "-+??"),
        ("'lora v1.5'.prompt_tokens = 7", None),  # the quote has to go round all of it
        ("rag.error = retrieval_miss", "-+-+"),
        ("rag.error != retrieval_miss", "+-+-"),
        ("rag.error = none", "+-+-"),
        ("rag.outcome = abstained", "--+-"),
        ("rag.prediction = blue", "+---"),
        ("facts = corpus", "--++"),
        ("facts != corpus AND id = q0", "+---"),
        ("NOT (facts = corpus OR id = q0)", "-+--"),
        # "and" binds before "or", and both before a comma
        ("id = q0 or id = q1 and rag right", "+---"),
        ("(id = q0 or id = q1) and rag wrong", "-+--"),
        ("rag wrong, id = q0 or id = q1", "-+--"),
        ("not not rag right", "+---"),
        ("not rag right and id = q1", "-+--"),
        ("(" * (DEEPEST - 1) + "rag right" + ")" * (DEEPEST - 1), "+---"),
    ],
)
def test_what_conditions_mean(text: str, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(BenchError):
            found(text)
    else:
        assert "".join(found(text)) == expected


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("", 1, 'found the end, expected a strategy, a slice, "not" or "("'),
        ("rag", 4, "found the end, expected one of: right, wrong"),
        ("rag rihgt", 5, 'found "rihgt", did you mean "right"?'),
        ("rga right", 1, 'did you mean "rag"?'),
        ("rag right and", 14, "found the end"),
        ("rag right or or", 14, 'found "or"'),
        ("rag right oracle right", 11, 'found "oracle", expected "and", "or" or the end'),
        ("(rag right", 11, 'expected ")" for the "(" of character 1'),
        ("rag right)", 10, 'found ")", expected "and"'),
        ("rag.exact_macth < 1", 1, 'rag: did you mean "exact_match"?'),
        ("rag.f1 < much", 10, "expected a number"),
        ("rag.f1 < nan", 10, "expected a number"),
        ("rag.f1 < 1e999", 10, "expected a number"),
        ("rag.f1 <", 9, "found the end, expected a value"),
        ("rag.error < 3", 11, "expected = or !="),
        ("facts > corpus", 7, "expected = or !="),
        ("facts = corpsu", 9, 'no value of facts; did you mean "corpus"?'),
        ("fatcs = corpus", 1, 'no slice of this task; did you mean "facts"?'),
        ("rag = right", 1, "expected a metric of it before the =, as in rag.f1"),
        ("rag 'right", 5, "expected its closing quote"),
        ("rag ! right", 5, "expected =, !="),
        ("v1 right", 1, "no strategy with answers here"),
        ("not " * (DEEPEST + 1) + "rag right", 4 * DEEPEST + 1, f"expected at most {DEEPEST}"),
        ("(" * 5000, DEEPEST + 1, f"expected at most {DEEPEST}"),
        ("__import__('os').system('x')", 1, "no strategy with answers here"),
        ("facts = 'a\n\x1b[2Jb'", 9, 'found "a ␛[2Jb", no value of facts'),
    ],
)
def test_a_condition_that_cannot_be_read_says_where(text: str, place: int, message: str) -> None:
    with pytest.raises(BenchError) as error:
        parse_condition(text, names_of(ROWS))
    assert str(error.value).startswith(f"--where: character {place}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_part_of_a_name_that_several_have_is_none() -> None:
    rows: list[Row] = [{"rag-lora": make_item(0), "rag-full": make_item(0)}]
    with pytest.raises(BenchError, match="expected one of: rag-full, rag-lora"):
        parse_condition("rag right", names_of(rows))
    assert parse_condition("full right", names_of(rows)).strategies == ("rag-full",)


def test_a_strategy_without_an_answer_is_undecided() -> None:
    rows = [*ROWS, {"rag": make_item(4)}]
    assert parse_condition("oracle right", names_of(rows)).test(rows[-1]) is None
    assert parse_condition("oracle right or rag right", names_of(rows)).test(rows[-1]) is True


def test_the_strategies_it_names_stand_in_their_order() -> None:
    names = names_of(ROWS)
    assert parse_condition("oracle right and (rag wrong or not rag.f1 < 1)", names).strategies == ("rag-oracle", "rag")
    assert parse_condition("facts = corpus", names).strategies == ()


def test_of_many_values_a_message_names_one() -> None:
    rows: list[Row] = [{"rag": make_item(i)} for i in range(100)]
    with pytest.raises(BenchError) as error:
        parse_condition("id = nothing", names_of(rows))
    assert "there are 100, such as q0" in str(error.value)
