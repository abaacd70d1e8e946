"""Detectors and their table: scores known by hand, AUROC against scikit-learn, an interval against its coverage, and wrong files."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from real_data import shared
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from bench.errors import BenchError
from bench.metric.cli import register
from bench.metric.detector import DETECTORS, Detector, Response, sentences
from bench.metric.detector_data import Labelled, read_labelled, response_of
from bench.metric.detector_quality import (
    Score,
    Undefined,
    auroc,
    auroc_difference,
    auroc_interval,
    average_precision,
    defined,
    mean_value,
    separation,
)
from bench.metric.detector_table import render, validate
from bench.result.schema import Item, Tokens
from bench.task.schema import Example

BY_NAME = {d.name: d for d in DETECTORS}
CHEAP = [d for d in DETECTORS if d.name != "embedding_distance"]


def score(name: str, text: str, evidence: str, question: str = "", context: str = "") -> Score:
    (found,) = BY_NAME[name].scores([Response(text, evidence, question, context)])
    return found


# ---------------------------------------------------------------------------------------------- text


def test_sentences_are_split_also_where_the_space_is_missing() -> None:
    assert sentences("It ran in the 19th century.First for Women is new! Is it? Yes") == [
        "It ran in the 19th century.", "First for Women is new!", "Is it?", "Yes",
    ]  # fmt: skip
    assert sentences("Version 3.5 of the U.S.A map") == ["Version 3.5 of the U.S.A map"]
    assert sentences("  ") == []


# ---------------------------------------------------------------------------------------------- detectors


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("length", "the cat is blue", 3.0),  # articles do not count
        ("k_precision", "cat is blue", 2 / 3),
        ("k_precision", "cat cat", 1 / 2),  # a multiset: one cat is supported once
        ("k_recall", "cat sat", 1 / 3),
        ("bigram_novelty", "cat sat down there", 1 / 3),
        ("bigram_novelty", "down sat", 1.0),  # the words, but not in this order
        ("number_support", "it cost 5 or 7", 1 / 2),
        ("entity_support", "He met Ann Lee and Bob Ray", 1 / 2),
    ],
)
def test_scores_known_by_hand(name: str, text: str, expected: float) -> None:
    evidence = {"number_support": "5 euros", "entity_support": "ANN LEE was there"}.get(name, "The cat sat down.")
    assert score(name, text, evidence) == pytest.approx(expected)


def test_what_says_nothing_is_undefined_with_its_reason() -> None:
    assert all(d.scores([Response(" ?!", "Some evidence.")]) != [0.0] for d in CHEAP)
    for detector in DETECTORS:
        assert detector.scores([Response("", "Some evidence.")]) == [Undefined("empty response")], detector.name
        assert detector.scores([Response("Some text", " ")]) == [Undefined("empty evidence")], detector.name
    assert score("number_support", "no digits", "5") == Undefined("no number")
    assert score("entity_support", "no names", "5") == Undefined("no name")
    assert score("bigram_novelty", "red", "red") == Undefined("one word")


def test_what_was_asked_or_said_before_is_no_invention() -> None:
    assert score("number_support", "born in 1950", "a singer", question="Who was born in 1950?") == 0
    assert score("entity_support", "he likes Ann Lee", "a singer", context="what of ann lee") == 0


def test_embedding_distance_takes_the_nearest_sentence() -> None:
    near, far = BY_NAME["embedding_distance"].scores(
        [Response("A cat sleeps.", "Taxes rose. A cat is asleep."), Response("Taxes will rise.", "A dog barks. A cat is asleep.")]
    )
    assert isinstance(near, float)
    assert isinstance(far, float)
    assert 0 <= near < 0.3 < far
    assert BY_NAME["embedding_distance"].scores([Response("red", "red")]) == [pytest.approx(0, abs=1e-5)]


# ---------------------------------------------------------------------------------------------- AUROC


def test_auroc_is_scikit_learns_with_ties_and_weights() -> None:
    draw = np.random.default_rng(0)
    scores, positive = draw.integers(0, 6, 80).astype(float), draw.random(80) < 0.4
    assert auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))
    weights = draw.integers(0, 4, size=(5, 80)).astype(float)
    expected = [roc_auc_score(positive, scores, sample_weight=row) for row in weights]
    assert auroc(scores, positive, weights) == pytest.approx(expected)


def test_auroc_by_hand() -> None:
    assert auroc([1, 2, 3, 4], [False, False, True, True]) == 1
    assert auroc([3, 4, 1, 2], [False, False, True, True]) == 0
    assert auroc([5, 5, 5], [True, False, True]) == 0.5
    assert auroc([1, 2, 3], [True, False, True]) == 0.5
    assert math.isnan(auroc([1, 2], [True, True]))


def made(n_clusters: int, size: int, seed: int) -> tuple[list[Score], list[bool], list[str]]:
    """Scores of clusters that share a shift: N(d, 1) plus a shift, d = 1 for positive items. AUROC = Phi(1 / sqrt(2 (1 + .25)))."""
    draw = np.random.default_rng(seed)
    shift = np.repeat(draw.normal(0, 0.5, n_clusters), size)
    positive = draw.random(n_clusters * size) < 0.5
    scores = draw.normal(positive.astype(float), 1) + shift
    return scores.tolist(), positive.tolist(), [str(i // size) for i in range(n_clusters * size)]


def test_the_interval_covers_the_true_auroc() -> None:
    truth = 0.5 * (1 + math.erf(1 / math.sqrt(2 * 1.25) / math.sqrt(2)))
    covered = 0
    for seed in range(80):
        found = auroc_interval(defined(*made(40, 3, seed))[0], seed)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= truth <= found.high
    assert covered >= 70  # 95 % of 80 is 76, three standard errors are 6


def test_the_difference_is_paired() -> None:
    scores, positive, clusters = made(40, 3, 1)
    first = defined(scores, positive, clusters)[0]
    noise = np.random.default_rng(2).normal(0, 0.05, 120)
    second = defined((first.scores + noise).tolist(), positive, clusters)[0]
    found, alone = auroc_difference(first, second), auroc_interval(first)
    assert found.value == pytest.approx(float(auroc(first.scores, positive) - auroc(second.scores, positive)))
    assert found.low is not None
    assert found.high is not None
    assert alone.low is not None
    assert alone.high is not None
    assert found.high - found.low < (alone.high - alone.low) / 4
    same = auroc_difference(first, first)
    assert (same.value, same.low, same.high) == (0, None, None)
    with pytest.raises(ValueError, match="same"):
        auroc_difference(first, defined(scores[:-1], positive[:-1], clusters[:-1])[0])


def test_edges_of_an_interval() -> None:
    one_cluster = auroc_interval(defined([1.0, 2.0, 3.0], [False, True, True], ["a"] * 3)[0])
    assert (one_cluster.value, one_cluster.low, one_cluster.high) == (1.0, None, None)
    assert separation([1.0, 2.0], [True, True], ["a", "b"]) is None
    assert separation([], [], []) is None
    assert separation([Undefined("x"), 1.0], [True, False], ["a", "b"]) is None
    value = separation([0.0, 1.0, Undefined("x"), Undefined("x"), Undefined("y")], [False, True, True, False, True], list("abcde"))
    assert value is not None
    assert (value.value, value.n_scored, value.n_undefined, value.undefined) == (1.0, 2, 3, {"x": 2, "y": 1})


def test_average_precision_of_a_useless_score_is_the_prevalence() -> None:
    scored = defined([1.0] * 10, [True] * 3 + [False] * 7, [str(i) for i in range(10)])[0]
    assert average_precision(scored) == pytest.approx(0.3)


def test_mean_value_counts_the_undefined_apart() -> None:
    scores: dict[str, Score] = {"a": 1.0, "b": 0.0, "c": Undefined("empty")}
    value = mean_value(scores, {name: name for name in scores})
    assert value is not None
    assert (value.value, value.ci_low, value.ci_high, value.n_undefined, value.undefined) == (0.5, 0.0, 1.0, 1, {"empty": 1})
    assert mean_value({"a": Undefined("empty")}, {"a": "a"}) is None


# ---------------------------------------------------------------------------------------------- the table


def labelled(text: str, unsupported: bool | None, cluster: str, pair: int | None = None) -> Labelled:
    return Labelled(Response(text, "the cat sat"), unsupported, cluster, pair)


def test_table_of_pairs_by_hand() -> None:
    rows = [
        labelled("cat", False, "a", 1), labelled("dog ran off", True, "a", 1),
        labelled("cat sat", False, "b", 2), labelled("dog", True, "b", 2),
        labelled("hello", None, "c"),
    ]  # fmt: skip
    found = validate(rows, CHEAP)
    by_name = {row.detector: row for row in found.rows}
    assert (found.n_supported, found.n_unsupported, found.n_no_claim, found.n_clusters) == (2, 2, 1, 2)
    precision, length = by_name["k_precision"], by_name["length"]
    assert precision.auroc is not None
    assert precision.auroc.value == 1
    assert precision.win_rate is not None
    assert precision.win_rate.value == 1
    assert length.win_rate is not None
    assert length.win_rate.value == 0.5  # 3 words against 1, and 1 against 2
    assert length.win_rate_like_length is not None
    assert (length.win_rate_like_length.value, length.n_like_length) == (0, 1)  # of the second pair alone
    assert by_name["number_support"].win_rate is None
    assert by_name["number_support"].n_like_length == 0
    assert length.auroc is not None
    assert length.auroc.value == pytest.approx((1 + 1 + 0.5 + 0) / 4)  # lengths 3, 1 against 1, 2
    assert length.over_length is None
    assert precision.over_length is not None
    assert precision.over_length.value == pytest.approx(1 - 0.625)
    assert by_name["number_support"].undefined == {"no number": 4}
    assert by_name["number_support"].auroc is None
    assert by_name["number_support"].auroc_common is None
    assert by_name["bigram_novelty"].undefined == {"one word": 2}
    assert found.n_common == 2  # of the detectors with a score for at least half


def test_the_table_in_each_format() -> None:
    found = validate([labelled("cat", False, "a"), labelled("dog ran", True, "b"), labelled("big dog", True, "c")], CHEAP)
    markdown = render(found, "md").splitlines()
    assert markdown[0].startswith("1 supported and 2 unsupported responses to 3 evidence texts; 0 without a claim")
    assert "pairs won" not in markdown[2]
    assert len({line.count("|") for line in markdown[2:]}) == 1
    read = list(csv.DictReader(io.StringIO(render(found, "csv"))))
    assert [row["detector"] for row in read] == [d.name for d in CHEAP]
    assert float(read[1]["auroc"]) == 1
    assert read[4]["auroc"] == ""
    assert read[4]["undefined"] == "no number 3"
    told = json.loads(render(found, "json"))
    assert told["rows"][1]["auroc"]["value"] == 1
    with pytest.raises(BenchError, match='format "xml" is unknown'):
        render(found, "xml")


def test_a_table_needs_both_kinds() -> None:
    with pytest.raises(BenchError, match="2 supported and 0 unsupported; expected some of each"):
        validate([labelled("cat", False, "a"), labelled("sat", False, "b"), labelled("hi", None, "c")], CHEAP)


# ---------------------------------------------------------------------------------------------- files


def write(folder: Path, *rows: Any, name: str = "test.jsonl") -> Path:
    file = folder / name
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows))
    return file


GOOD = {"knowledge": "the cat sat", "response": "cat", "label": "Fully attributable"}


def test_labels_and_optional_columns(tmp_path: Path) -> None:
    rows = [
        GOOD,
        GOOD | {"label": "not fully attributable", "question": "who\u2028sat?", "extra": 1},
        GOOD | {"label": "Generic", "message": "hi"},
    ]
    found = read_labelled(write(tmp_path, *rows))
    assert [one.unsupported for one in found] == [False, True, None]
    assert (found[1].response.question, found[2].response.context) == ("who\u2028sat?", "hi")
    assert read_labelled(tmp_path) == found  # a folder has its test split


def test_pairs_share_their_evidence_and_number(tmp_path: Path) -> None:
    write(tmp_path, {"id": "k", "text": "the cat sat"}, name="corpus.jsonl")
    write(tmp_path, {"knowledge_id": "k", "question": "who?", "right_answer": "cat", "hallucinated_answer": "dog"}, name="train.jsonl")
    right, wrong = read_labelled(tmp_path, "train")
    assert (right.response.text, right.unsupported, wrong.response.text, wrong.unsupported) == ("cat", False, "dog", True)
    assert right.cluster == wrong.cluster == "the cat sat"
    assert right.pair == wrong.pair == 1


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"response": "x", "label": "supported"}, 'test.jsonl:2: neither "knowledge" nor "knowledge_id" is there; found response, label'),
        ({"knowledge": "k", "answer": "x"}, 'test.jsonl:2: neither "response" (with "label") nor "right_answer"'),
        ({"knowledge": "k", "response": "x"}, 'test.jsonl:2: the column "label" is missing; found knowledge, response'),
        ({"knowledge": "k", "right_answer": "x"}, 'test.jsonl:2: the column "hallucinated_answer" is missing'),
        (GOOD | {"label": "maybe"}, 'test.jsonl:2: label is "maybe"; expected one of: fully attributable'),
        (GOOD | {"label": 1}, "test.jsonl:2: label is 1, expected text"),
        (GOOD | {"response": None}, "test.jsonl:2: response is None, expected text"),
        (GOOD | {"question": ["q"]}, "test.jsonl:2: question is ['q'], expected text"),
        ({"knowledge_id": "x", "response": "r", "label": "supported"}, 'test.jsonl:2: knowledge_id is "x", which'),
        ({}, "test.jsonl:2: neither"),
        ("[1]", "test.jsonl:2: found list, expected an object"),
        ("{not json", "test.jsonl:2: is no valid JSON"),
    ],
)
def test_wrong_rows_are_named(tmp_path: Path, row: Any, said: str) -> None:
    write(tmp_path, {"id": "k", "text": "t"}, name="corpus.jsonl")
    with pytest.raises(BenchError) as raised:
        read_labelled(write(tmp_path, GOOD, row))
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"test\.jsonl: no such file"):
        read_labelled(tmp_path)
    with pytest.raises(BenchError, match="is empty"):
        read_labelled(write(tmp_path, ""))
    write(tmp_path, {"knowledge_id": "x", "response": "r", "label": "supported"})
    with pytest.raises(BenchError, match=r"corpus\.jsonl: no such file"):
        read_labelled(tmp_path)
    (tmp_path / "latin.jsonl").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(BenchError, match="cannot be read as UTF-8"):
        read_labelled(tmp_path / "latin.jsonl")


@pytest.mark.parametrize(
    ("prediction", "outcome", "evidence", "expected"),
    [
        ("red", "correct", "It is red.", Response("red", "It is red.", "Color?")),
        ("unknown", "abstained", "It is red.", Undefined("abstained")),
        ("", "incorrect", "It is red.", Undefined("empty response")),
        ("red", "incorrect", None, Undefined("no evidence")),
        ("red", "incorrect", " ", Undefined("empty evidence")),
    ],
)
def test_an_answer_as_a_response(prediction: str, outcome: Any, evidence: str | None, expected: Response | Undefined) -> None:
    item = Item(
        id="1", cluster="c", input_hash="", prompt_hash="", prediction=prediction, targets=["red"], answerable=True, outcome=outcome,
        scores={}, tokens=Tokens(), latency_seconds=0,
    )  # fmt: skip
    assert response_of(item, Example("1", "Color?", ("red",), True, "c"), evidence) == expected


# ---------------------------------------------------------------------------------------------- the command


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer()
    register(made)
    made.command("other")(lambda: None)
    return made


def test_the_command_writes_a_file(app: typer.Typer, tmp_path: Path) -> None:
    file = write(tmp_path, GOOD, GOOD | {"response": "dog ran", "label": "Not fully attributable"})
    result = CliRunner().invoke(app, ["validate-detector", str(file), "--format", "json", "-o", str(tmp_path / "out.json")])
    assert result.exit_code == 0, result.exception
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [row["detector"] for row in rows] == [d.name for d in DETECTORS]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--format", "xml"], '--format: found "xml"'),
        (["--judge-url", "http://x"], "expected both or none"),
        (["--split", "dev"], "dev.jsonl"),
    ],
)
def test_the_command_refuses(app: typer.Typer, tmp_path: Path, arguments: list[str], said: str) -> None:
    write(tmp_path, GOOD)
    result = CliRunner().invoke(app, ["validate-detector", str(tmp_path), *arguments])
    assert isinstance(result.exception, BenchError)
    assert said in str(result.exception)


def test_real_labels_are_told_by_the_words_they_share_with_the_evidence() -> None:
    found = validate(read_labelled(shared("data/begin_wow")), CHEAP)
    by_name = {row.detector: row for row in found.rows}
    assert (found.n_supported, found.n_unsupported, found.n_no_claim) == (193, 306, 1)
    assert by_name["k_precision"].over_length is not None
    assert (by_name["k_precision"].over_length.low or 0) > 0.2


def test_a_detector_that_knows_the_label_is_perfect() -> None:
    rows = [labelled("cat " * (1 + i % 3), i % 2 == 0, str(i)) for i in range(20)]
    truth = iter([float(one.unsupported or 0) for one in rows])
    oracle = Detector("oracle", "", lambda responses: [next(truth) for _ in responses])
    row = validate(rows, [BY_NAME["length"], oracle]).rows[1]
    assert row.auroc == (1.0, None, None)  # resamples that are all the same say nothing of an error
    assert row.average_precision == 1
