"""Constraints: what rules a strategy out, in words with the number, and what a file may say."""

from pathlib import Path
from typing import Any

import pytest

from bench.errors import BenchError
from bench.report.constraints import (
    Constraints,
    check_excluded,
    depends_on_seed,
    judged,
    load_constraints,
    parts,
)
from bench.report.model import Candidate, Measure, TaskEvidence

RAG = {"prompt": {"shots": 0, "select": "drawn", "cite": False}, "retrieval": {"search": "dense"}, "tuning": {"method": "none"}}
LORA = {"prompt": {}, "retrieval": {"search": "none"}, "tuning": {"method": "lora", "objective": "answers", "quantize": "none"}}
NEAREST = {"prompt": {"shots": 4, "select": "nearest"}}


def candidate(choices: dict[str, Any] | None = None, *, hosted: bool = False, **measures: Measure) -> Candidate:
    return Candidate("s", "contender", None, "", "", choices or {}, measures, 100, 1, hosted)


def task(one: Candidate, *, higher: bool = True, share: bool = True) -> TaskEvidence:
    return TaskEvidence("t", "m", "exact_match", higher, share, (one,), (), ())


def reasons(one: Candidate, higher: bool = True, share: bool = True, **constraints: Any) -> list[str]:
    return list(judged(task(one, higher=higher, share=share), one, Constraints(**constraints)).violations)


def test_no_constraints_rule_nothing_out() -> None:
    assert reasons(candidate(RAG)) == []


def test_a_limit_is_violated_in_words_with_the_number_and_its_interval() -> None:
    found = reasons(candidate(hallucination_rate=Measure(0.523, 0.49, 0.56)), maximum_hallucination=0.1)
    assert found == ["hallucination 52.3 % [49.0, 56.0] is above 10 %"]


@pytest.mark.parametrize(
    ("key", "limit", "measure", "value", "says"),
    [
        ("minimum_quality", 0.9, "quality", 0.85, "quality 85.0 % is below 90 %"),
        ("maximum_memory_gib", 2, "peak_memory_bytes", 3 * 2**30, "peak memory 3 GiB is above 2 GiB"),
        ("maximum_latency_p95_seconds", 0.5, "latency_p95_seconds", 0.75, "latency p95 0.75 s is above 0.5 s"),
        ("maximum_usd_per_1000_requests", 1, "usd_per_1000_requests", 1.5, "cost of 1,000 requests 1.50 USD is above 1.00 USD"),
        ("maximum_setup_usd", 0, "setup_usd", 20, "set-up cost 20.0 USD is above 0 USD"),
        ("maximum_artifact_gib", 0, "artifact_bytes", 2**29, "artifact 512 MiB is above 0 B"),
    ],
)
def test_each_limit_has_its_measure_and_unit(key: str, limit: float, measure: str, value: float, says: str) -> None:
    assert reasons(candidate(**{measure: Measure(value)}), **{key: limit}) == [says]
    assert (
        reasons(candidate(**{measure: Measure(limit * (2**30 if "gib" in key else 1))}), **{key: limit}) == []
    )  # the limit itself is kept


def test_what_was_not_measured_does_not_pass() -> None:
    assert reasons(candidate(), maximum_latency_p95_seconds=1.0) == ["latency p95 was not measured: bench run --probe latency"]


def test_quality_where_lower_is_better_is_a_maximum() -> None:
    one = candidate(quality=Measure(2.5))
    assert reasons(one, higher=False, share=False, minimum_quality=2.0) == ["quality 2.500 is above 2"]
    assert reasons(one, higher=False, share=False, minimum_quality=3.0) == []


def test_a_limit_within_the_interval_is_uncertain_both_ways() -> None:
    one = candidate(hallucination_rate=Measure(0.09, 0.05, 0.13))
    kept = judged(task(one), one, Constraints(maximum_hallucination=0.1))
    missed = judged(task(one), one, Constraints(maximum_hallucination=0.08))
    sure = judged(task(one), one, Constraints(maximum_hallucination=0.2))
    assert (kept.violations, len(missed.violations), sure) == ((), 1, ((), ()))
    assert kept.uncertain == ("hallucination 9.0 % [5.0, 13.0]: the limit of 10 % is kept, but within the interval",)
    assert "missed" in missed.uncertain[0]


def test_skills_at_hand_and_places() -> None:
    assert reasons(candidate(LORA), no_training=True) == ["it has to be trained (tuning.method lora)"]
    assert reasons(candidate(RAG), no_training=True) == []
    assert reasons(candidate(RAG), no_retrieval=True) == ["it needs an index (retrieval.search dense)"]
    assert reasons(candidate(NEAREST), no_retrieval=True) == ["it needs an index (prompt.select nearest)"]
    assert reasons(candidate(LORA), no_retrieval=True) == []
    assert reasons(candidate(RAG), must_cite_sources=True) == []
    assert reasons(candidate({"prompt": {"cite": True}}), must_cite_sources=True) == []
    assert len(reasons(candidate(LORA), must_cite_sources=True)) == 1
    for key in ("must_run_offline", "data_may_not_leave"):
        assert reasons(candidate(RAG), **{key: True}) == []
        assert "hosted" in reasons(candidate(RAG, hosted=True), **{key: True})[0]
    assert reasons(candidate(RAG), excluded=("s",)) == ["it is excluded by name"]


def test_a_file_with_values_of_the_command_line_over_it(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("minimum_quality: 0.8\nrequests_per_month: 5000\nexcluded: [full]\nweights: {quality: 1, cost: 0}\n")
    found = load_constraints(file, {"minimum_quality": 0.9, "no_training": True})
    assert (found.minimum_quality, found.no_training, found.excluded) == (0.9, True, ("full",))
    assert (found.weights.quality, found.weights.cost, found.weights.hallucination) == (1, 0, 0.2)
    assert found.assumptions() == {"requests_per_month": 5000}
    assert load_constraints() == Constraints()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("minimum_qualty: 1", 'unknown key "minimum_qualty"; did you mean "minimum_quality"?'),
        ("maximum_hallucination: 10", "maximum_hallucination: found 10, expected less than or equal to 1"),
        ("weights: {quality: -1}", "weights.quality: found -1"),
        ("weights: {speed: 1}", 'unknown key "weights.speed"'),
        ("weights: {quality: 0, hallucination: 0, cost: 0, latency: 0, simplicity: 0}", "found 0 for every criterion"),
        ("minimum_quality: .nan", "minimum_quality"),
        ("- a", "expected keys and values"),
    ],
)
def test_a_bad_file_is_one_line_that_names_it(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(BenchError) as error:
        load_constraints(file)
    assert str(error.value).startswith(str(file))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_bad_value_without_a_file(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="cannot be read"):
        load_constraints(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff")
    with pytest.raises(BenchError, match="no UTF-8"):
        load_constraints(tmp_path / "latin.yaml")
    with pytest.raises(BenchError, match="requests_per_month"):
        load_constraints(given={"requests_per_month": 0})


def test_an_excluded_name_that_no_run_has_is_an_error() -> None:
    check_excluded(Constraints(excluded=("rag",)), ["rag", "lora"])
    with pytest.raises(BenchError, match='did you mean "lora"'):
        check_excluded(Constraints(excluded=("lorra",)), ["rag", "lora"])


def test_parts_and_seeds_by_the_choices() -> None:
    assert parts({}) == ()
    assert parts(RAG) == ("an index", "an embedding model")
    assert parts({"retrieval": {"search": "lexical"}}) == ("an index",)
    assert parts(LORA) == ("a training", "weights of its own")
    assert parts({**RAG, **{"tuning": LORA["tuning"]}}) == ("an index", "an embedding model", "a training", "weights of its own")
    assert parts(NEAREST) == ("worked examples", "an index", "an embedding model")
    assert [depends_on_seed(c) for c in ({}, RAG, NEAREST, LORA, {"prompt": {"shots": 2}}, {"tuning": {"method": "features"}})] == [
        False, False, False, True, True, False,
    ]  # fmt: skip


def test_the_docs_name_every_key() -> None:
    page = (Path(__file__).parents[2] / "docs" / "report.md").read_text()
    assert [key for key in Constraints.model_fields if f"`{key}`" not in page] == []
