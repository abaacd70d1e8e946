"""Scoring a task's answers: outcomes, standing metrics, sums, and recomputation from items."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import BenchError
from bench.metric import get
from bench.metric.score import Answer, Scores, check_metrics, corpus_value, score
from bench.result.schema import Item, Outcome, Tokens
from bench.task.schema import Example, Passage, Task, TaskConfig, TaskKind

ATTEMPTS = {"hallucination_rate", "abstention_rate", "accuracy_given_attempted"}
ABSTAINING = {"correct_overall", "f_attempted", "penalized_score_1", "penalized_score_3"}
CALIBRATION = {"ece", "brier", "confidence_auroc", "aurc"}
SUPPORT = {"number_support", "entity_support"}


def make_task(kind: TaskKind = "qa", metrics: tuple[str, ...] = ("exact_match", "f1"), labels: tuple[str, ...] = (), **config: Any) -> Task:
    settings = TaskConfig(kind=kind, instruction="Answer.", input="{{ q }}", target="a", metrics=list(metrics), **config)
    return Task(name="sample", folder=Path("tasks/sample"), config=settings, train=(), validation=(), test=(), labels=labels)


def test_a_task_where_nobody_can_abstain_has_no_metrics_of_abstaining() -> None:
    names = set(score(make_task("classification", ("accuracy",), labels=("a", "b")), [answer("a", "a")]).undefined)
    assert names == {"accuracy", "format_validity", *ATTEMPTS, *CALIBRATION}


def test_what_was_read_has_its_own_columns() -> None:
    read = (Passage("d2", "It is red."), Passage("d1", "It is blue."))
    said = replace(answer("red", "blue", gold=("d1",), retrieved=("d2", "d1"), evidence="It is blue."), passages=read)
    scores = score(QA, [said])
    assert (scores.corpus["k_precision"], scores.corpus["passage_precision"]) == (0.0, 1.0)
    assert scores.reasons[0]["number_support"] == "no number in the answer"


def test_calibration_of_a_task() -> None:
    answers = [replace(answer(p, "blue"), logprob=math.log(c)) for p, c in [("blue", 0.9), ("red", 0.4), ("unknown", 0.8), ("", 0.7)]]
    scores = score(QA, answers)
    assert scores.corpus["brier"] == pytest.approx((0.1**2 + 0.4**2) / 2)
    assert scores.corpus["confidence_auroc"] == 1.0
    assert scores.corpus["aurc"] == pytest.approx((0 + 1 / 2) / 2)
    for name in CALIBRATION:
        assert scores.undefined[name] == 2
        assert [why.get(name) for why in scores.reasons] == [None, None, "abstained", "empty answer"]


def answer(
    prediction: str,
    *targets: str,
    answerable: bool = True,
    gold: tuple[str, ...] = (),
    retrieved: tuple[str, ...] | None = None,
    evidence: str | None = None,
) -> Answer:
    example = Example(id="1", input="?", targets=targets, answerable=answerable, cluster="c", evidence=gold)
    return Answer(example, prediction, retrieved, evidence)


def as_items(answers: list[Answer], scores: Scores) -> list[Item]:
    return [
        Item(
            id=str(index),
            cluster="c",
            input_hash="",
            prompt_hash="",
            prediction=given_answer.prediction,
            targets=list(given_answer.example.targets),
            answerable=given_answer.example.answerable,
            outcome=outcome,
            scores=item,
            undefined=why,
            logprob=given_answer.logprob,
            tokens=Tokens(),
            latency_seconds=0.0,
        )
        for index, (given_answer, outcome, item, why) in enumerate(zip(answers, scores.outcomes, scores.items, scores.reasons, strict=True))
    ]


QA = make_task(abstain=["unknown", "not stated"])
QA_ANSWERS = [
    answer("The blue.", "blue", gold=("d1",), retrieved=("d2", "d1"), evidence="It is blue."),
    answer("red", "blue", gold=("d3",), retrieved=("d2",), evidence="Its colour: blue."),
    answer("Unknown", "blue"),
    answer("not stated", "unknown", answerable=False),
    answer("green", "unknown", answerable=False),
]


def test_scores_of_a_question_task_by_hand() -> None:
    scores = score(QA, QA_ANSWERS)
    assert scores.outcomes == ["correct", "incorrect", "abstained", "abstained", "incorrect"]
    assert scores.corpus == pytest.approx(
        {
            "exact_match": 2 / 5,
            "f1": 2 / 5,
            "hallucination_rate": 2 / 5,
            "abstention_rate": 2 / 5,
            "accuracy_given_attempted": 1 / 3,
            "correct_overall": 1 / 3,
            "f_attempted": 1 / 3,
            "penalized_score_1": -1 / 5,
            "penalized_score_3": -1,
            "no_answer_accuracy": 1 / 2,
            "false_refusal_rate": 1 / 3,
            "youden_j": 1 / 6,
            "k_precision": 1 / 2,
            "answer_recall": 2 / 5,
            "recall_at_k": 1 / 2,
            "mrr": 1 / 4,
            "right_without_evidence": 0,
        }
    )
    assert scores.undefined == {
        "exact_match": 0,
        "f1": 0,
        "hallucination_rate": 0,
        "abstention_rate": 0,
        "accuracy_given_attempted": 2,
        "correct_overall": 2,
        "f_attempted": 0,
        "penalized_score_1": 0,
        "penalized_score_3": 0,
        "no_answer_accuracy": 3,
        "false_refusal_rate": 2,
        "youden_j": 0,
        "k_precision": 3,
        "answer_recall": 0,
        **dict.fromkeys([*CALIBRATION, *SUPPORT, "passage_precision"], 5),  # no log-probability, number, name or passage
        "recall_at_k": 3,
        "mrr": 3,
        "right_without_evidence": 4,
    }
    assert scores.items[2] == {
        "exact_match": 0.0,
        "f1": 0.0,
        "hallucination_rate": 0.0,
        "abstention_rate": 1.0,
        "correct_overall": 0.0,
        "penalized_score_1": 0.0,
        "penalized_score_3": 0.0,
        "false_refusal_rate": 1.0,
        "answer_recall": 0.0,
    }
    assert scores.reasons[2] == {
        "accuracy_given_attempted": "abstained",
        "no_answer_accuracy": "has an answer",
        "k_precision": "abstained",
        "number_support": "no evidence",
        "entity_support": "no evidence",
        "passage_precision": "abstained",
        "recall_at_k": "nothing was searched for",
        "mrr": "nothing was searched for",
        "right_without_evidence": "nothing was searched for",
        **dict.fromkeys(CALIBRATION, "abstained"),
    }
    assert scores.reasons[0]["ece"] == "no log-probability of the answer"


def test_what_has_no_meaning_is_not_there() -> None:
    scores = score(QA, [answer("blue", "blue", gold=("d1",))])  # nothing retrieved, no text of the evidence, nothing unanswerable
    assert set(scores.corpus) == {"exact_match", "f1", "answer_recall", *ATTEMPTS, *ABSTAINING}
    # Gold evidence whose text is not there, answers whose log-probability is not: undefined, and counted.
    assert set(scores.undefined) == {*scores.corpus, "k_precision", *SUPPORT, *CALIBRATION}
    scores = score(QA, [answer("blue", "blue", retrieved=("d1",))])  # nothing is gold
    assert "recall_at_k" not in scores.undefined


def test_a_summary_is_held_against_its_text_and_is_neither_right_nor_wrong() -> None:
    config = QA.config.model_copy(update={"kind": "summarization", "metrics": ["rougeL"], "abstain": []})
    said = answer("mice slept more", "mice slept longer")
    scores = score(replace(QA, config=config), [replace(said, evidence_text="The mice slept well.")])
    assert scores.corpus["k_precision"] == pytest.approx(2 / 3)
    assert scores.corpus["k_recall"] == pytest.approx(2 / 3)
    assert not {*ATTEMPTS, *ABSTAINING, *CALIBRATION} & set(scores.undefined)


def test_a_metric_that_no_item_defines_is_counted_but_has_no_value() -> None:
    scores = score(QA, [answer("unknown", "blue"), answer("unknown", "red")])
    assert "accuracy_given_attempted" not in scores.corpus
    assert scores.undefined["accuracy_given_attempted"] == 2


def test_no_answers() -> None:
    scores = score(QA, [])
    assert (scores.outcomes, scores.items, scores.corpus) == ([], [], {})


def test_named_metrics_replace_all_others_and_leave_the_outcome_alone() -> None:
    scores = score(QA, QA_ANSWERS, ["f1"])
    assert set(scores.corpus) == {"f1"}
    assert scores.outcomes == score(QA, QA_ANSWERS).outcomes


@pytest.mark.parametrize(
    ("kind", "metrics", "prediction", "target", "outcome"),
    [
        ("qa", ("exact_match",), "blue box", "box", "incorrect"),
        ("qa", ("f1",), "blue box", "box", "correct"),  # 2/3
        ("qa", ("f1",), "very light blue box", "box red", "incorrect"),  # 1/3
        ("qa", ("f1",), "blue box red", "box", "correct"),  # exactly 0.5
        ("classification", ("accuracy",), "x ", "X", "correct"),
        ("classification", ("macro_f1", "accuracy"), "x", "x", "correct"),  # no item score: accuracy judges
        ("classification", ("macro_f1",), "y", "x", "incorrect"),
        ("summarization", ("rouge1",), "dog ran home", "dogs ran", "correct"),
        ("summarization", ("length_ratio",), "cat sat", "dog ran", "incorrect"),  # ROUGE-L judges
        ("structured", ("field_accuracy",), '{"a": 1, "b": 2}', '{"b": 2, "a": 1}', "correct"),
        ("structured", ("field_accuracy",), '{"a": 1, "b": 3}', '{"b": 2, "a": 1}', "incorrect"),
        ("structured", ("format_validity",), '{"a": 1, "b": 3}', '{"b": 2, "a": 1}', "incorrect"),  # valid, but not right
    ],
)
def test_the_primary_metric_judges_where_it_can(
    kind: TaskKind, metrics: tuple[str, ...], prediction: str, target: str, outcome: Outcome
) -> None:
    assert score(make_task(kind, metrics), [answer(prediction, target)]).outcomes == [outcome]


def test_an_abstention_counts_as_one_even_in_a_classification_with_such_a_label() -> None:
    task = make_task("classification", ("accuracy",), labels=("a", "other"), abstain=["other"])
    scores = score(task, [answer("other", "other", answerable=False), answer("other", "a"), answer("b", "a")])
    assert scores.outcomes == ["abstained", "abstained", "incorrect"]
    assert scores.corpus["accuracy"] == pytest.approx(1 / 3)
    assert scores.corpus["format_validity"] == pytest.approx(2 / 3)


def test_format_validity_stands_apart_from_correctness() -> None:
    task = make_task("structured", ("field_accuracy",), fields={"a": "integer"})
    scores = score(task, [answer('{"a": 1}', '{"a": 2}'), answer('{"a": 2.0}', '{"a": 2}')])
    assert [item["format_validity"] for item in scores.items] == [1.0, 0.0]
    assert [item["field_accuracy"] for item in scores.items] == [0.0, 1.0]


WORDS = st.sampled_from(["blue", "the blue", "light blue", "red", "unknown", "", "Q1", "Q2"])
ANSWERS = st.lists(st.tuples(WORDS, st.sampled_from(["blue", "red"]), st.booleans(), st.booleans()), min_size=1, max_size=8)


@settings(max_examples=50)
@given(ANSWERS, st.data())
def test_corpus_values_are_recomputed_from_items_alone(rows: list[tuple[str, str, bool, bool]], data: st.DataObject) -> None:
    tasks = [QA, make_task("classification", ("macro_f1", "accuracy"), labels=("blue", "red"), abstain=["unknown"])]
    task = data.draw(st.sampled_from(tasks))
    answers = [
        replace(
            answer(said, target if has else "unknown", answerable=has, gold=("d",), retrieved=("d",) if searched else None),
            logprob=-0.1 * place if searched else None,
        )
        for place, (said, target, has, searched) in enumerate(rows)
    ]
    scores = score(task, answers)
    items = as_items(answers, scores)
    for name in scores.undefined:
        assert corpus_value(name, items) == scores.corpus.get(name), name
        if get(name).mean_of_items:
            assert sum(name in item.scores for item in items) + scores.undefined[name] == len(items)
            assert all((name in item.scores) != (name in item.undefined) for item in items)
    half = slice(0, len(items) // 2)  # any subset scores as if it had been scored alone
    alone = score(task, answers[half], list(scores.undefined))
    assert {n: v for n in scores.undefined if (v := corpus_value(n, items[half])) is not None} == alone.corpus


@settings(max_examples=50)
@given(ANSWERS)
def test_outcomes_and_rates_sum_up(rows: list[tuple[str, str, bool, bool]]) -> None:
    scores = score(QA, [answer(said, target if has else "unknown", answerable=has) for said, target, has, _ in rows])
    n = len(rows)
    empty = sum(not said for said, *_ in rows)  # wrong, but no attempt
    right, wrong, none = (scores.outcomes.count(outcome) for outcome in ("correct", "incorrect", "abstained"))
    assert right + wrong + none == n
    assert scores.corpus["abstention_rate"] == pytest.approx(none / n)
    assert scores.undefined["hallucination_rate"] == (empty or 0)
    if n > empty:
        assert scores.corpus["hallucination_rate"] == pytest.approx((wrong - empty) / (n - empty))
        assert scores.corpus["penalized_score_3"] == pytest.approx((right - 3 * (wrong - empty)) / (n - empty))
    if right + wrong > empty:
        assert scores.corpus["accuracy_given_attempted"] == pytest.approx(right / (right + wrong - empty))
    abstained_rightly = sum(o == "abstained" and not row[2] for o, row in zip(scores.outcomes, rows, strict=True))
    assert scores.corpus["exact_match"] == pytest.approx((right + abstained_rightly) / n)


@dataclass
class Plain:
    prediction: str
    targets: list[str]
    outcome: Outcome
    scores: dict[str, float]
    logprob: float | None = None
    reasoning: str | None = None
    answerable: bool = True
    option_logprobs: list[float] | None = None


def test_corpus_value_of_anything_with_an_items_fields() -> None:
    items = [
        Plain("x", ["x"], "correct", {"accuracy": 1.0}),
        Plain("y", ["x"], "incorrect", {"accuracy": 0.0}),
        Plain("", [], "abstained", {}),
    ]
    assert corpus_value("accuracy", items) == 0.5
    assert corpus_value("macro_f1", items) == pytest.approx(2 / 3)
    assert corpus_value("f1", items) is None
    assert corpus_value("accuracy", []) is None
    assert corpus_value("confidence_auroc", items) is None
    sure = [replace(items[0], logprob=-0.1), replace(items[1], logprob=-0.5), replace(items[0], logprob=-0.9, reasoning="so")]
    assert corpus_value("confidence_auroc", sure) == 1.0  # the confidence in a chain of thought is not that in its answer
    assert corpus_value("f_attempted", items) == pytest.approx(2 / (2 + 3))
    with pytest.raises(BenchError, match='unknown metric "acuracy"; did you mean "accuracy"'):
        corpus_value("acuracy", items)


def test_bad_metric_names_are_one_clear_line() -> None:
    with pytest.raises(BenchError, match=r'^task sample: unknown metric "rouge"; did you mean "rouge'):
        score(make_task("summarization", ("rouge",)), [])
    with pytest.raises(BenchError, match=r'^task sample: metric "macro_f1" has no meaning for kind qa, only for classification$'):
        score(QA, [], ["macro_f1"])
    with pytest.raises(BenchError, match=r'^tasks/x/task.yaml: metrics: metric "rouge1" has no meaning for kind structured'):
        check_metrics(["rouge1"], "structured", "tasks/x/task.yaml: metrics")
