"""The metrics of a multiple choice: by hand, against the formula, and as a task's scores."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import BenchError
from bench.metric import get
from bench.metric.sample import Sample
from bench.metric.score import Answer, names_for, score
from bench.task.schema import Example, Task, TaskConfig


def normalized(options: tuple[str, ...], logprobs: tuple[float, ...] | None, *targets: str) -> float | None:
    return get("accuracy_normalized")().sample_level(Sample("", targets, options=options, option_logprobs=logprobs))


@pytest.mark.parametrize(
    ("options", "logprobs", "right"),
    [
        (("no", "certainly"), (-2.0, -4.5), "certainly"),  # -1 against -0.5 a character
        (("no", "certainly"), (-2.0, -9.5), "no"),
        (("ab", "cd", "e"), (-2.0, -2.0, -1.0), "ab"),  # a tie: the first
        (("\u00e9\u00e9", "ee"), (-2.0, -2.1), "\u00e9\u00e9"),  # characters, not bytes
        (("a", "b"), (-math.inf, -3.0), "b"),
        (("a", "b"), (-math.inf, -math.inf), "a"),
        (("a", "b"), (0.0, -1.0), "a"),
    ],
)
def test_the_choice_by_log_probability_per_character(options: tuple[str, ...], logprobs: tuple[float, ...], right: str) -> None:
    for option in options:
        assert normalized(options, logprobs, option) == float(option == right)
    assert normalized(options, logprobs, *options[:2]) == 1.0  # any target is right; the choices here are among the first two


@pytest.mark.parametrize(
    ("options", "logprobs", "right"),
    [
        (("\u00e9\u00e9", "ee"), (-2.0, -1.1), "\u00e9\u00e9"),  # -0.5 against -0.55 a byte; a character -1 against -0.55
        (("\u65e5\u672c", "nihon"), (-6.0, -5.5), "\u65e5\u672c"),  # six bytes against five
        (("no", "certainly"), (-2.0, -4.5), "certainly"),
    ],
)
def test_the_choice_by_log_probability_per_byte(options: tuple[str, ...], logprobs: tuple[float, ...], right: str) -> None:
    metric = get("accuracy_per_byte")()
    for option in options:
        assert metric.sample_level(Sample("", (option,), options=options, option_logprobs=logprobs)) == float(option == right)
    assert metric.sample_level(Sample("", options[:1], options=options)) is None


def test_without_log_probabilities_it_is_undefined() -> None:
    assert normalized(("a", "b"), None, "a") is None
    assert get("accuracy_normalized")().compute(predictions=["a"], references=[["a"]]) == {"accuracy_normalized": None}


def test_as_many_log_probabilities_as_options_or_it_is_a_fault() -> None:
    with pytest.raises(ValueError, match="shorter"):
        normalized(("a", "b", "c"), (-1.0, -2.0), "a")


@given(
    st.lists(st.text(min_size=1, max_size=9), min_size=2, max_size=6, unique=True).flatmap(
        lambda options: st.tuples(
            st.just(tuple(options)), st.lists(st.floats(-1e6, 0), min_size=len(options), max_size=len(options)).map(tuple)
        )
    )
)
def test_options_of_one_length_are_chosen_as_without_normalisation(made: tuple[tuple[str, ...], tuple[float, ...]]) -> None:
    options, logprobs = made
    longest = max(map(len, options))
    padded = tuple(option.ljust(longest, "_") for option in options)
    best = max(logprob / longest for logprob in logprobs)
    first = next(option for option, logprob in zip(padded, logprobs, strict=True) if logprob / longest == best)
    assert normalized(padded, logprobs, first) == 1.0


@pytest.mark.parametrize(
    ("said", "targets", "right"),
    [("Pump", ("Pump",), 1.0), ("pump", ("Pump",), 0.0), ("Pump.", ("Pump",), 0.0), ("pump", ("Pump", "pump"), 1.0), ("", ("Pump",), 0.0)],
)
def test_the_accuracy_of_a_choice_is_exact(said: str, targets: tuple[str, ...], right: float) -> None:
    accuracy = get("accuracy")()
    assert accuracy.sample_level(Sample(said, targets, options=("Pump", "pump", "Pump."))) == right
    assert accuracy.sample_level(Sample("pump", ("Pump",))) == 1.0  # a label, as ever


# ---------------------------------------------------------------------------------------------- a task's scores


def make_task(*metrics: str, evidence: str | None = None) -> Task:
    config = TaskConfig(
        kind="multiple_choice", instruction="Answer.", input="{{ q }}", target="a", options="o", metrics=list(metrics), evidence=evidence
    )
    return Task("sample", Path("tasks/sample"), config, (), (), ())


def answer(prediction: str, target: str, logprobs: tuple[float, ...] | None, evidence: tuple[str, ...] = ()) -> Answer:
    example = Example("1", "?", (target,), True, "c", evidence, options=("No", "no", "perhaps"))
    return Answer(example, prediction, ("p1",) if evidence else None, "It is so." if evidence else None, option_logprobs=logprobs)


ANSWERS = [
    answer("No", "No", (-1.0, -5.0, -4.0)),  # right; per character -0.5, -2.5, -0.57
    answer("No", "no", (-1.0, -5.0, -2.1)),  # differs in case alone
    answer("No", "perhaps", (-2.0, -5.0, -2.8)),  # right per character
    answer("perhaps", "perhaps", None),  # a constant strategy
]


def test_scores_of_a_multiple_choice_by_hand() -> None:
    scores = score(make_task("accuracy", "accuracy_normalized"), ANSWERS)
    # A choice's confidence is the softmax over the options.
    sure = [1 / (1 + math.exp(-4) + math.exp(-3)), 1 / (1 + math.exp(-4) + math.exp(-1.1)), 1 / (1 + math.exp(-3) + math.exp(-0.8))]
    assert scores.outcomes == ["correct", "incorrect", "incorrect", "correct"]
    assert scores.items == [
        {"accuracy": 1.0, "accuracy_normalized": 1.0, "brier": pytest.approx((1 - sure[0]) ** 2)},
        {"accuracy": 0.0, "accuracy_normalized": 0.0, "brier": pytest.approx(sure[1] ** 2)},
        {"accuracy": 0.0, "accuracy_normalized": 1.0, "brier": pytest.approx(sure[2] ** 2)},
        {"accuracy": 1.0},
    ]
    assert scores.corpus["accuracy"] == 0.5
    assert scores.corpus["accuracy_normalized"] == pytest.approx(2 / 3)
    assert scores.corpus["confidence_auroc"] == 1.0  # the right one is the surest
    assert scores.undefined == {"accuracy": 0, "accuracy_normalized": 1, "ece": 1, "brier": 1, "confidence_auroc": 1, "aurc": 1}
    assert scores.reasons[3]["accuracy_normalized"] == "no log-probabilities"


def test_accuracy_judges_whatever_stands_first() -> None:
    assert score(make_task("accuracy_normalized"), ANSWERS).outcomes == ["correct", "incorrect", "incorrect", "correct"]


def test_a_choice_has_no_rates_of_attempts_and_keeps_those_of_retrieval() -> None:
    task, said = make_task("accuracy", evidence="pages"), answer("No", "No", None, ("p1",))
    calibration = ["ece", "brier", "confidence_auroc", "aurc"]
    assert names_for(task, [said.example], retrieves=True) == ["accuracy", *calibration, "recall_at_k", "mrr", "right_without_evidence"]
    assert score(task, [said]).corpus == {"accuracy": 1.0, "recall_at_k": 1.0, "mrr": 1.0, "right_without_evidence": 0.0}


@pytest.mark.parametrize("metric", ["macro_f1", "exact_match", "f1", "rougeL", "field_accuracy", "format_validity"])
def test_metrics_of_written_answers_have_no_meaning_for_a_choice(metric: str) -> None:
    with pytest.raises(BenchError, match=f'metric "{metric}" has no meaning for kind multiple_choice'):
        score(make_task(metric), [])


def test_the_normalised_choice_is_of_no_other_kind() -> None:
    config = TaskConfig(kind="qa", instruction="Answer.", input="{{ q }}", target="a", metrics=["accuracy_normalized"])
    with pytest.raises(BenchError, match='"accuracy_normalized" has no meaning for kind qa, only for multiple_choice'):
        score(Task("sample", Path(), config, (), (), ()), [])
