"""Claims judged by synthetic runs whose truth is known, and the committed registry itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from result_samples import TRIALS, add, make_item, make_phase, make_record

from bench.errors import BenchError
from bench.result.claims import Claim, judge, load_claims
from bench.result.claims_text import render_claims
from bench.result.schema import MetricValue, ProbeResult
from bench.result.store import RunFolder
from bench.strategy.spec import load_strategy
from bench.suite import load_suite
from bench.world import claim_tasks

NewRun = Callable[..., RunFolder]


def arm(
    run: RunFolder, strategy: str, right: Callable[[int], bool], n: int = 200, seeds: int = 1, task: str = "support", **changes: Any
) -> None:
    for seed in range(seeds):
        items = [make_item(i, float(right(i)), cluster=f"c{i}", slices={"facts": "seen" if i % 2 else "corpus"}) for i in range(n)]
        add(run, make_record(task, strategy, seed, items, deterministic=seeds == 1, **changes), items)


def claim(**test: Any) -> Claim:
    return Claim.model_validate({"id": "X", "claim": "It is so.", "tests": [{"says": "it is", **test}]})


def term(strategy: str, weight: float = 1, **more: Any) -> dict[str, Any]:
    return {"task": "support", "strategy": strategy, "weight": weight, **more}


BOTH = [term("rag"), term("lora", -1)]


@pytest.fixture
def run(new_run: NewRun) -> RunFolder:
    made = new_run("run")
    arm(made, "rag", lambda i: i % 10 < 8)
    arm(made, "lora", lambda i: i % 10 < 4)
    arm(made, "twin", lambda i: (i * 7) % 10 < 8)
    return made


@pytest.mark.parametrize(
    ("test", "outcome"),
    [
        ({"terms": BOTH, "margin": 0.05}, "REPRODUCED"),
        ({"terms": [term("lora"), term("rag", -1)], "margin": 0.05}, "CONTRADICTED"),
        ({"terms": [term("lora"), term("rag", -1)], "expects": "not_greater", "margin": 0.05}, "REPRODUCED"),
        ({"terms": BOTH, "expects": "not_greater", "margin": 0.05}, "CONTRADICTED"),
        ({"terms": BOTH, "expects": "equal", "margin": 0.05}, "CONTRADICTED"),
        ({"terms": [term("rag"), term("twin", -1)], "expects": "equal", "margin": 0.15}, "REPRODUCED"),
        ({"terms": [term("rag"), term("twin", -1)], "expects": "equal", "margin": 0.01}, "INCONCLUSIVE"),
        ({"terms": [term("rag"), term("twin", -1)], "margin": 0.01}, "INCONCLUSIVE"),
        ({"terms": BOTH, "kind": "identical"}, "CONTRADICTED"),
        ({"terms": [term("rag"), term("rag")], "kind": "identical"}, "REPRODUCED"),
        ({"terms": [term("rag"), term("dora", -1)]}, "NOT APPLICABLE"),
        ({"terms": [term("rag", slice={"facts": "none"}), term("lora", -1)]}, "NOT APPLICABLE"),
        ({"terms": [term("rag", probe="wording", value="spread"), term("lora", -1)]}, "NOT APPLICABLE"),
    ],
)  # fmt: skip
def test_outcomes(run: RunFolder, test: dict[str, Any], outcome: str) -> None:
    assert judge([claim(**test)], [run.path])[0].outcome == outcome


def test_a_slice_takes_its_items_only(new_run: NewRun) -> None:
    run = new_run("run")
    arm(run, "rag", lambda i: i % 2 == 1)
    arm(run, "lora", lambda i: False)
    test = {"terms": [term("rag", slice={"facts": "seen"}), term("lora", -1, slice={"facts": "seen"})]}
    (judged,) = judge([claim(**test)], [run.path])
    assert judged.tests[0].found is not None
    assert judged.tests[0].found.estimate == pytest.approx(1.0)


def test_a_trend_is_the_slope_over_x(new_run: NewRun) -> None:
    run = new_run("run")
    for k in range(4):
        arm(run, "lora", lambda i, k=k: i % 10 < 2 + 2 * k, task=f"dial_{k}")  # type: ignore[misc]
    terms = [{"task": f"dial_{k}", "strategy": "lora", "x": k} for k in range(4)]
    (judged,) = judge([claim(kind="trend", terms=terms, margin=0.01)], [run.path])
    assert judged.outcome == "REPRODUCED"
    assert judged.tests[0].found is not None
    assert judged.tests[0].found.estimate == pytest.approx(0.2)
    (opposite,) = judge([claim(kind="trend", terms=[t | {"weight": -1} for t in terms], margin=0.01)], [run.path])
    assert opposite.outcome == "CONTRADICTED"


def test_break_even_is_set_up_over_what_a_request_saves(new_run: NewRun) -> None:
    run = new_run("run")
    tuned = {"tune": make_phase(50.0), "answer": make_phase(0.1 * 200)}  # make_phase counts two CPU seconds a second
    arm(run, "lora", lambda i: True, phases=tuned, trials=TRIALS)
    arm(run, "rag", lambda i: True, phases={"answer": make_phase(0.2 * 200)})
    (judged,) = judge([claim(kind="break_even", terms=[term("lora"), term("rag")])], [run.path])
    assert judged.outcome == "REPRODUCED"
    assert "break-even after 500 requests" in judged.tests[0].says
    (other,) = judge([claim(kind="break_even", terms=[term("rag"), term("lora")])], [run.path])
    assert other.outcome == "CONTRADICTED"


def probed(value: float, low: float, high: float, **more: float) -> dict[str, ProbeResult]:
    values = {"spread": MetricValue(value=value, ci_low=low, ci_high=high, n_scored=50)}
    values |= {name: MetricValue(value=v, ci_low=v - 0.01, ci_high=v + 0.01, n_scored=50) for name, v in more.items()}
    return {"wording": ProbeResult(version=1, values=values)}


def test_values_of_probes_with_their_own_intervals(new_run: NewRun) -> None:
    run = new_run("run")
    arm(run, "rag", lambda i: True, probes=probed(0.4, 0.3, 0.5))
    arm(run, "lora", lambda i: True, probes=probed(0.1, 0.0, 0.2))
    terms = [term("rag", probe="wording", value="spread"), term("lora", -1, probe="wording", value="spread")]
    (judged,) = judge([claim(terms=terms)], [run.path])
    found = judged.tests[0].found
    assert found is not None
    assert found.estimate == pytest.approx(0.3)
    assert found.error == pytest.approx(2**0.5 * 0.1 / 1.96)
    assert judged.outcome == "REPRODUCED"


def test_values_of_probes_by_item_are_paired(new_run: NewRun) -> None:
    run = new_run("run")
    rng = [((i * 37) % 100) / 100 for i in range(200)]
    for strategy, shift in (("rag", 0.05), ("lora", 0.0)):
        arm(run, strategy, lambda i: True, probes=probed(0.5 + shift, 0.0, 1.0))
        record = run.read_record("support", strategy, 0)
        assert record is not None
        run.write_probe_items(record, {"wording": {"spread": {f"q{i}": x + shift + 0.001 * (i % 3) for i, x in enumerate(rng)}}})
    terms = [term("rag", probe="wording", value="spread"), term("lora", -1, probe="wording", value="spread")]
    (judged,) = judge([claim(terms=terms)], [run.path])
    assert judged.tests[0].found is not None
    assert judged.tests[0].found.estimate == pytest.approx(0.05)
    assert judged.tests[0].found.error < 0.01  # unpaired it would be 0.04


def test_a_matched_value_is_the_largest_that_all_cells_have(new_run: NewRun) -> None:
    run = new_run("run")
    arm(run, "rag", lambda i: True, probes=probed(0.4, 0.3, 0.5, **{"rise_at_0.5": 0.3, "rise_at_0.6": 0.4, "rise_at_0.7": 0.9}))
    arm(run, "lora", lambda i: True, probes=probed(0.4, 0.3, 0.5, **{"rise_at_0.5": 0.1, "rise_at_0.6": 0.2}))
    terms = [term("rag", probe="wording", value="rise_at_*"), term("lora", -1, probe="wording", value="rise_at_*")]
    (judged,) = judge([claim(terms=terms)], [run.path])
    assert judged.tests[0].found is not None
    assert judged.tests[0].found.estimate == pytest.approx(0.2)


def test_all_tests_of_a_claim_have_to_hold(run: RunFolder) -> None:
    tests = [{"says": "a", "terms": BOTH}, {"says": "b", "terms": [term("rag"), term("twin", -1)]}]
    two = Claim.model_validate({"id": "X", "claim": "c", "tests": tests})
    (judged,) = judge([two], [run.path])
    assert [t.outcome for t in judged.tests] == ["REPRODUCED", "INCONCLUSIVE"]
    assert judged.outcome == "INCONCLUSIVE"


def test_p_values_are_adjusted_over_the_registry(run: RunFolder) -> None:
    weak = claim(terms=[term("rag"), term("twin", -1)], expects="equal", margin=0.12)
    alone = judge([weak], [run.path])[0].tests[0]
    among = judge([weak, *[claim(terms=[term("rag"), term("twin", -1)])] * 9], [run.path])[0].tests[0]
    assert alone.p_for is not None
    assert among.p_for is not None
    assert among.p_for == pytest.approx(min(1.0, 10 * alone.p_for))


def test_runs_that_hold_different_cells_are_refused(run: RunFolder, new_run: NewRun) -> None:
    other = new_run("other")
    items = [make_item(i, cluster=f"c{i}") for i in range(4)]
    add(other, make_record("support", "rag", 0, items, cell_id="another"), items)
    with pytest.raises(BenchError, match="different cells support / rag"):
        judge([claim(terms=BOTH)], [run.path, other.path])


def test_what_is_shown(run: RunFolder) -> None:
    judged = judge([claim(terms=BOTH, margin=0.05), claim(terms=[term("rag"), term("dora")])], [run.path])
    text = render_claims(judged, "md")
    assert "1 reproduced, 0 contradicted, 0 inconclusive, 1 not applicable of 2 claims." in text
    assert "no run has support / dora" in text
    assert "+0.400" in text
    plain = json.loads(render_claims(judged, "json"))
    assert plain[0]["tests"][0]["estimate"] == pytest.approx(0.4)
    with pytest.raises(BenchError, match="expected one of: json, md"):
        render_claims(judged, "csv")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "trend"}, "every term of a trend needs x"),
        ({"kind": "identical", "terms": BOTH[:1]}, "compares two, found 1"),
        ({"terms": [term("rag", probe="wording")]}, "probe and value"),
        ({"terms": [term("rag", probe="wording", value="x", slice={"a": "b"})]}, "no meaning for a probe"),
        ({"expects": "less"}, "expects"),
    ],
)
def test_a_broken_registry_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    file = tmp_path / "claims.yaml"
    test = {"says": "it is", "terms": BOTH, **change}
    file.write_text(yaml.safe_dump({"claims": [{"id": "X", "claim": "c", "tests": [test]}]}))
    with pytest.raises(BenchError, match=message):
        load_claims(file)


def test_ids_are_unique(tmp_path: Path) -> None:
    one = {"id": "X", "claim": "c", "tests": [{"says": "s", "terms": BOTH}]}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"claims": [one, one]}))
    with pytest.raises(BenchError, match="X stands twice"):
        load_claims(tmp_path / "c.yaml")
    with pytest.raises(BenchError, match="no such file"):
        load_claims(tmp_path / "none.yaml")


def test_every_arm_of_the_registry_is_in_a_suite() -> None:
    """What `make claims` runs has every cell and probe that a claim reads."""
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    names = next(line for line in makefile.splitlines() if line.startswith("CLAIMS :=")).removeprefix("CLAIMS :=").split()
    held: dict[tuple[str, str], set[str]] = {}
    for suite in map(load_suite, names):
        for task in suite.tasks:
            for strategy in suite.strategies:
                held.setdefault((Path(task).name, load_strategy(strategy)[0]), set()).update(suite.probes)
    made = {f"paraphrases_{n}" for n in claim_tasks.PARAPHRASES} | {f"unknown_{n:03d}" for n in claim_tasks.UNKNOWN_PERCENT}
    assert made <= {task for task, _ in held}
    claims = load_claims()
    assert {c.id for c in claims} >= {f"C{i}" for i in range(1, 17)} | {"N1", "N2", "N3"}
    for each in claims:
        for test in each.tests:
            for t in test.terms:
                assert (t.task, t.strategy) in held, (each.id, t)
                assert t.probe is None or t.probe in held[t.task, t.strategy], (each.id, t)


def test_the_published_page_is_of_this_registry() -> None:
    page = (Path(__file__).parents[2] / "docs" / "claims.md").read_text()
    for each in load_claims():
        assert f"| {each.id} | {each.claim} |" in page
        assert all(test.says in page for test in each.tests)
        assert not each.note or each.note in page
