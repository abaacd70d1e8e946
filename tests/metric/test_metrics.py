"""Each metric: answers known by hand, and its range on any text."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from bench.errors import BenchError
from bench.metric import get, metric_names
from bench.metric.base import Metric
from bench.metric.hallucination import judge_outcome, outcome_counts
from bench.metric.registry import BUILT_IN
from bench.metric.sample import Sample
from bench.metric.structured import has_type, parse_object
from bench.metric.summary import key_facts

FIELDS = {"score": "integer", "aspect": "string", "liked": "boolean", "price": "number"}
GOLD = '{"score": 4, "aspect": "battery life", "liked": true, "price": 9.5}'


def value(name: str, predictions: list[Any], references: list[Any], **settings: Any) -> float | None:
    result = get(name)(**settings).compute(predictions=predictions, references=references)
    assert list(result) == [name]
    return result[name]


def test_exact_match_takes_the_best_target() -> None:
    assert value("exact_match", ["the Nile!", "Rhine"], [["Amazon", "Nile"], ["Rhône"]]) == 0.5
    assert value("exact_match", ["a", ""], [["A"], ["A"]]) == 0.5


@pytest.mark.parametrize(
    ("said", "targets", "expected"),
    [
        ("red small box", ["red box"], 2 * (2 / 3) * 1 / (2 / 3 + 1)),
        ("box box", ["box"], 2 / 3),
        ("the box", ["box"], 1.0),
        ("ball", ["box", "blue ball"], 2 / 3),
        ("", ["box"], 0.0),
    ],
)
def test_token_f1(said: str, targets: list[str], expected: float) -> None:
    assert value("f1", [said], [targets]) == pytest.approx(expected)


def test_accuracy_and_macro_f1() -> None:
    said, true = ["x", "X ", "y", "the z"], ["x", "x", "x", "z"]
    assert value("accuracy", said, true) == 0.5
    assert value("macro_f1", said, true) == pytest.approx((0.8 + 0.0) / 2)
    assert get("macro_f1")().sample_level(Sample("x", ("x",))) is None


@pytest.mark.parametrize("kind", ["rouge1", "rouge2", "rougeL"])
def test_rouge_is_rouge_scores(kind: str) -> None:
    pairs = [("the dogs were running fast", "a dog ran fast home"), ("no overlap", "at all here"), ("same text", "same text")]
    scorer = RougeScorer([kind], use_stemmer=True)
    expected = [scorer.score(target, said)[kind].fmeasure for said, target in pairs]
    assert value(kind, [p for p, _ in pairs], [[t] for _, t in pairs]) == pytest.approx(sum(expected) / 3)


def test_rouge_by_hand() -> None:
    # "runs" and "running" share a stem: 2 of 3 and 2 of 2 words; no pair of neighbours
    assert value("rouge1", ["dog now runs"], ["dog running"]) == pytest.approx(0.8)
    assert value("rouge2", ["dog now runs"], ["dog running"]) == 0.0
    assert value("rougeL", ["runs dog"], ["dog runs"]) == pytest.approx(0.5)
    assert value("rougeL", ["x y"], [["q", "x y"]]) == 1.0


def test_rouge_lsum_splits_sentences() -> None:
    said, target = "One cat sat. Two dogs ran.", "Two dogs ran. One cat sat."
    lines = RougeScorer(["rougeLsum"], use_stemmer=True).score(target.replace(". ", ".\n"), said.replace(". ", ".\n"))
    assert value("rougeLsum", [said], [target]) == pytest.approx(lines["rougeLsum"].fmeasure) == 1.0
    assert value("rougeL", [said], [target]) == pytest.approx(0.5)


def test_rouge_bootstrap_is_seeded_and_encloses_the_mean() -> None:
    said, true = ["dog ran", "cat"] * 20, ["dog ran", "bird"] * 20
    np.random.seed(7)  # noqa: NPY002 - the caller's generator is left as it was
    expected_draw = np.random.random()  # noqa: NPY002
    np.random.seed(7)  # noqa: NPY002
    first = get("rouge1")().compute(predictions=said, references=true, bootstrap=True)
    assert np.random.random() == expected_draw  # noqa: NPY002
    assert first == get("rouge1")().compute(predictions=said, references=true, bootstrap=True)
    assert first["rouge1"] == 0.5
    standard_error = math.sqrt(0.25 / 40)
    assert first["rouge1_low"] == pytest.approx(0.5 - 1.96 * standard_error, abs=0.03)
    assert first["rouge1_high"] == pytest.approx(0.5 + 1.96 * standard_error, abs=0.03)


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        (GOLD, True),
        (f"  {GOLD}\n", True),
        ('{"price": 9, "liked": false, "aspect": "", "score": -1}', True),  # any order; an integer is a number
        ('{"score": 4, "aspect": "x", "liked": true}', False),  # missing key
        (GOLD.replace("}", ', "more": 1}'), False),  # a key too many
        (GOLD.replace("4", "4.0"), False),
        (GOLD.replace("4", '"4"'), False),
        (GOLD.replace("4", "true"), False),
        (GOLD.replace("true", "1"), False),
        (GOLD.replace("9.5", "NaN"), False),
        (GOLD.replace("9.5", "1e999"), False),
        (GOLD.replace("}", ', "score": 4}'), False),  # repeated key
        (f"```json\n{GOLD}\n```", False),
        (f"{GOLD} as asked", False),
        (f"[{GOLD}]", False),
        ("", False),
        ("[" * 100_000, False),
        ('{"score": ' + "1" * 5000 + "}", False),
    ],
)
def test_format_validity_of_json(text: str, valid: bool) -> None:
    assert value("format_validity", [text], [GOLD], fields=FIELDS) == float(valid)


def test_format_validity_of_labels_and_abstentions() -> None:
    metric = {"labels": ["Q1", "Q2"], "abstain": ["unknown"]}
    assert value("format_validity", [" q2", "Q3", "Q1 Q2", "Unknown."], ["Q1"] * 4, **metric) == 0.5
    assert value("format_validity", ["anything"], ["Q1"]) is None


@pytest.mark.parametrize(
    ("text", "right"),
    [
        (GOLD, 4),
        ('{"score": 4.0, "aspect": "The battery-life.", "liked": false, "price": 9.5, "more": 1}', 2),
        ('{"score": "4", "aspect": "battery life", "liked": 1, "price": 9.50}', 2),
        ('{"aspect": null}', 0),
        ("{}", 0),
        ("score: 4", 0),
    ],
)
def test_field_accuracy(text: str, right: int) -> None:
    assert value("field_accuracy", [text], [GOLD], fields=FIELDS) == right / 4
    assert value("field_accuracy", [text], [["{}", GOLD]]) == right / 4  # keys of the target; a target without keys allows no comparison


def test_field_accuracy_is_undefined_without_a_json_target() -> None:
    assert value("field_accuracy", [GOLD], ["no object"], fields=FIELDS) is None


def test_key_fact_coverage() -> None:
    assert key_facts("The yield of B12 was 1,250 mg, not 3.5%.") == {"yield", "b12", "1250", "mg", "not", "3.5"}
    assert value("key_fact_coverage", ["A yield of 1250 mg"], ["The yield was 1,250 mg, not 3.5%."]) == pytest.approx(3 / 5)
    assert value("key_fact_coverage", ["anything"], ["it was"]) is None


def test_length_ratio() -> None:
    assert value("length_ratio", ["one two three"], ["one two"]) == 1.5
    assert value("length_ratio", ["one two three"], [["one", "one two three four"]]) == 0.75  # the nearest in length
    assert value("length_ratio", [""], ["one"]) == 0.0
    assert value("length_ratio", ["one"], [""]) is None


SAID = ["Paris", "Rome", "unknown", "Oslo", "Not stated."]
TRUE = ["Paris", "Bonn", "Bern", "unknown", "unknown"]  # the last two have no answer
ABSTAIN = ["unknown", "not stated"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hallucination_rate", 2 / 5),  # Rome, Oslo
        ("penalized_score_1", (1 - 2) / 5),
        ("penalized_score_3", (1 - 3 * 2) / 5),
        ("abstention_rate", 2 / 5),
        ("correct_overall", 1 / 3),
        ("f_attempted", 2 / (3 + 3)),  # of three attempts and of three answers one is right
        ("youden_j", 1 / 2 - 1 / 3),
        ("accuracy_given_attempted", 1 / 3),
        ("no_answer_accuracy", 1 / 2),
        ("false_refusal_rate", 1 / 3),
        ("exact_match", 2 / 5),  # Paris, and the abstention in other words than the target's
        ("f1", 2 / 5),
        ("rougeL", 2 / 5),
    ],
)
def test_unanswerable_items_and_outcomes(name: str, expected: float) -> None:
    assert value(name, SAID, TRUE, abstain=ABSTAIN) == pytest.approx(expected)


def test_rates_are_undefined_where_no_item_is_concerned() -> None:
    assert value("accuracy_given_attempted", ["unknown"], ["Paris"], abstain=ABSTAIN) is None
    assert value("no_answer_accuracy", ["Paris"], ["Paris"], abstain=ABSTAIN) is None
    assert value("false_refusal_rate", ["unknown"], ["unknown"], abstain=ABSTAIN) is None
    assert value("correct_overall", ["unknown"], ["unknown"], abstain=ABSTAIN) is None
    assert value("youden_j", ["unknown"], ["Paris"], abstain=ABSTAIN) is None
    assert value("f_attempted", ["unknown"], ["unknown"], abstain=ABSTAIN) is None  # no answer to give and none given
    assert value("f_attempted", ["unknown"], ["Paris"], abstain=ABSTAIN) == 0.0


def test_f_attempted_is_the_harmonic_mean() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        outcomes = rng.choice(["correct", "incorrect", "abstained"], 30)
        samples = [Sample("x", ("x",), outcome=o) for o in outcomes]
        p, r = (get(name)().corpus_level(samples) for name in ("accuracy_given_attempted", "correct_overall"))
        assert get("f_attempted")().corpus_level(samples) == pytest.approx(2 * p * r / (p + r))


def test_abstaining_beats_guessing_below_the_target_confidence() -> None:
    guesses = [Sample("x", ("x",), outcome="correct" if i < 12 else "incorrect") for i in range(20)]  # right in 60 %
    assert get("penalized_score_1")().corpus_level(guesses) == pytest.approx(0.2)  # worth it at 50 %
    assert get("penalized_score_3")().corpus_level(guesses) == pytest.approx(-0.6)  # not at 75 %


@pytest.mark.parametrize("name", ["hallucination_rate", "penalized_score_1", "penalized_score_3", "accuracy_given_attempted"])
def test_an_empty_answer_is_no_attempt_and_no_abstention(name: str) -> None:
    metric = get(name)(abstain=ABSTAIN)
    for said in ("", " \n"):
        sample = Sample(said, ("Paris",), outcome="incorrect")
        assert metric.sample_level(sample) is None
        assert metric.undefined_because(sample) == "empty answer"
        assert get("abstention_rate")().sample_level(sample) == 0.0
    assert metric.sample_level(Sample("", ("",))) is not None  # right, and so an attempt
    empty_abstains = get(name)(abstain=[""]).make_sample("", "Paris")  # unless the task says that it is one
    assert metric.undefined_because(empty_abstains) == "empty answer"
    assert get("abstention_rate")(abstain=[""]).sample_level(empty_abstains) == 1.0


@pytest.mark.parametrize(
    ("name", "said", "true", "reason"),
    [
        ("accuracy_given_attempted", "unknown", "Paris", "abstained"),
        ("no_answer_accuracy", "Paris", "Paris", "has an answer"),
        ("false_refusal_rate", "Paris", "unknown", "has no answer"),
        ("correct_overall", "Paris", "unknown", "has no answer"),
        ("field_accuracy", "{}", "no object", "no target is a JSON object"),
        ("format_validity", "x", "x", "the task declares no labels or fields"),
        ("key_fact_coverage", "x", "it was", "no content word in the reference"),
        ("length_ratio", "x", "", "no word in the reference"),
        ("length_ratio", "x", "unknown", "has no answer"),
        ("accuracy_normalized", "x", "x", "no log-probabilities"),
    ],
)
def test_what_is_undefined_says_why(name: str, said: str, true: str, reason: str) -> None:
    metric = get(name)(abstain=ABSTAIN)
    sample = metric.make_sample(said, true)
    assert metric.sample_level(sample) is None
    assert metric.undefined_because(sample) == reason


@pytest.mark.parametrize("name", ["recall_at_k", "mrr"])
def test_what_is_undefined_of_a_search_says_why(name: str) -> None:
    metric = get(name)()
    assert metric.undefined_because(Sample(retrieved_ids=None, gold_ids=("a",))) == "nothing was searched for"
    assert metric.undefined_because(Sample(retrieved_ids=("a",))) == "no gold passage"


def test_outcome_counts() -> None:
    judge = get("exact_match")(abstain=ABSTAIN)
    samples = [judge.make_sample(said, true) for said, true in zip(SAID, TRUE, strict=True)]
    outcomes = [judge_outcome(sample, judge) for sample in samples]
    assert outcomes == ["correct", "incorrect", "abstained", "incorrect", "abstained"]
    assert outcome_counts(outcomes, [sample.answerable for sample in samples]) == {
        "answerable": {"correct": 1, "incorrect": 1, "abstained": 1},
        "unanswerable": {"correct": 0, "incorrect": 1, "abstained": 1},
    }


def test_an_attempt_without_an_answer_is_wrong_whatever_the_judge_says() -> None:
    class Generous(Metric):
        name = "generous"
        correct_at = 1.0

        def sample_level(self, sample: Sample) -> float:
            return 1.0

    assert judge_outcome(Sample("Paris", ("unknown",), answerable=False), Generous()) == "incorrect"
    assert judge_outcome(Sample("Paris", ("Rome",)), Generous()) == "correct"


def test_a_given_outcome_is_used() -> None:
    metric = get("hallucination_rate")()
    assert metric.sample_level(Sample("Paris", ("Rome",), outcome="correct")) == 0.0
    assert metric.sample_level(Sample("Paris", ("Paris",), outcome="incorrect")) == 1.0


def test_k_precision() -> None:
    assert value("k_precision", ["the red red box"], ["A red box. It is big."]) == pytest.approx(2 / 3)  # "red" is there once
    assert value("k_precision", ["green"], [["A red box.", "A green ball."]]) == 1.0
    metric = get("k_precision")(abstain=ABSTAIN)
    assert metric.sample_level(Sample("unknown", evidence="unknown")) is None
    assert metric.sample_level(Sample("red", evidence=None)) is None
    assert metric.sample_level(Sample("", evidence="red")) is None


def test_retrieval() -> None:
    retrieved, gold = [["a", "b", "c"], ["a", "a", "b"], ["a"], []], [["b", "x"], ["b"], ["x"], ["x"]]
    assert value("recall_at_k", retrieved, gold) == pytest.approx((0.5 + 1 + 0 + 0) / 4)
    assert value("mrr", retrieved, gold) == pytest.approx((1 / 2 + 1 / 3 + 0 + 0) / 4)
    for name in ("recall_at_k", "mrr"):
        assert value(name, [["a"]], [[]]) is None
        assert get(name)().sample_level(Sample(retrieved_ids=None, gold_ids=("a",))) is None


def test_no_rows_is_undefined_and_unequal_numbers_are_an_error() -> None:
    assert value("f1", [], []) is None
    with pytest.raises(ValueError, match="Mismatch"):
        get("f1")().compute(predictions=["x"], references=["x", "y"])


TEXT = st.text() | st.sampled_from(["unknown", "The", GOLD, '{"score": 5}', "Q1", "3,5 and 1.000", "\x00", "null", "{}"])


@settings(max_examples=200)
@given(TEXT, st.lists(TEXT, max_size=2), st.booleans(), st.none() | TEXT, st.none() | st.lists(TEXT, max_size=3))
def test_any_text_scores_within_the_bounds_or_says_why_not(
    prediction: str, targets: list[str], answerable: bool, evidence: str | None, ids: list[str] | None
) -> None:
    retrieved = None if ids is None else tuple(ids)
    sample = Sample(
        prediction, tuple(targets), answerable, None, evidence, retrieved, tuple(targets), passages=retrieved, question="?", logprob=-0.5
    )
    for metric in METRICS:
        score = metric.sample_level(sample)
        assert score is None or metric.bounds[0] <= score <= metric.bounds[1], metric.name
        if score is None and metric.mean_of_items:
            assert metric.undefined_because(sample), metric.name
        total = metric.corpus_level([sample])
        assert total is None or metric.bounds[0] <= total <= metric.bounds[1], metric.name
        assert total == score or not metric.mean_of_items


METRICS = [get(name)(labels=["Q1", "Q2"], fields=FIELDS, abstain=ABSTAIN) for name in BUILT_IN]


@given(st.text())
def test_an_answer_equal_to_the_target_is_right(text: str) -> None:
    for name in ("exact_match", "f1", "accuracy"):
        assert get(name)().sample_level(Sample(text, (text,))) == 1.0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@given(JSON)
def test_parse_object_takes_objects_only(value: Any) -> None:
    text = json.dumps(value)
    if isinstance(value, dict) and not any(word in text for word in ("NaN", "Infinity")):
        assert parse_object(text) == value
    elif not isinstance(value, dict):
        assert parse_object(text) is None


def test_types_are_strict() -> None:
    assert has_type(3, "number")
    assert not has_type(True, "integer")
    assert not has_type(math.inf, "number")


def test_the_listing_agrees_with_the_classes() -> None:
    assert set(BUILT_IN) <= set(metric_names())
    for name, entry in BUILT_IN.items():
        metric = get(name)
        assert (metric.name, metric.kinds) == (name, entry.kinds)
        assert entry.summary
        assert metric.bounds[0] < metric.bounds[1]
        assert metric.__doc__


def test_an_unknown_metric_gets_a_suggestion() -> None:
    with pytest.raises(BenchError, match=r'^unknown metric "exact_mach"; did you mean "exact_match"\?$'):
        get("exact_mach")
