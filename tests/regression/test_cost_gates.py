"""Gates on what is counted, on memory and on seconds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from regression.constructed_runs import MACHINE, arm_of, items_of, record_of, scores, side_of

from bench.regression.check import compare
from bench.regression.costs import memory_gates, prompts_gate, status_gate, time_gates
from bench.regression.model import Comparison, Gate, Gates
from bench.result.arms import Arm
from bench.result.schema import Parameters, Phase, Tokens

RIGHT = scores(100, 0.6)


def check(old: Arm, new: Arm, gates: Gates | None = None) -> Comparison:
    return compare("run", side_of(old), side_of(new), gates or Gates())


def gate(comparison: Comparison, measure: str) -> Gate:
    (found,) = (g for g in comparison.gates if g.measure == measure)
    return found


def test_a_doubled_prompt_fails_on_tokens() -> None:
    found = check(arm_of("rag", [RIGHT]), arm_of("rag", [RIGHT], cell_id="other", tokens=Tokens(prompt=6000, completion=200)))
    bad = [g for g in found.gates if g.verdict == "regression"]
    assert [(g.measure, g.change, g.before, g.after) for g in bad] == [("prompt_tokens", pytest.approx(1.0), 30.0, 60.0)]
    assert bad[0].reason == "more than before"


@pytest.mark.parametrize(
    ("changes", "measure"),
    [
        ({"params": Parameters(total=1000, trainable=1)}, "trainable_params"),
        ({"artifact_bytes": 11}, "artifact_bytes"),
        ({"phase": {"flops": 1e9 + 100}}, "answer_flops"),
        ({"tokens": Tokens(prompt=3001, completion=200)}, "prompt_tokens"),
    ],
)
def test_what_is_counted_has_no_tolerance(changes: dict[str, Any], measure: str) -> None:
    base = {"params": Parameters(total=1000, trainable=0)}
    found = check(arm_of("rag", [RIGHT], **base), arm_of("rag", [RIGHT], **changes))
    assert [g.measure for g in found.gates if g.verdict == "regression"] == [measure]
    back = check(arm_of("rag", [RIGHT], **changes), arm_of("rag", [RIGHT], **base))
    assert not [g for g in back.gates if g.verdict != "pass"]


def test_operations_of_a_served_model_are_no_gate() -> None:
    unknown = Phase(wall_seconds=1.0, cpu_seconds=1.0, flops=None)
    served = arm_of("rag", [RIGHT], phases={"validate": unknown, "answer": unknown})
    measures = {g.measure for g in check(served, served).gates}
    assert "prompt_tokens" in measures
    assert not measures & {"setup_flops", "answer_flops"}


def test_an_allowed_growth_passes() -> None:
    gates = Gates(costs={"prompt_tokens": 0.1})
    new = arm_of("rag", [RIGHT], tokens=Tokens(prompt=3200, completion=200))
    assert gate(check(arm_of("rag", [RIGHT]), new, gates), "prompt_tokens").verdict == "pass"
    new = arm_of("rag", [RIGHT], tokens=Tokens(prompt=3400, completion=200))
    assert gate(check(arm_of("rag", [RIGHT]), new, gates), "prompt_tokens").reason == "more than the 10.0% that are allowed"


def test_rounding_of_sums_is_no_growth() -> None:
    new = arm_of("rag", [RIGHT], phase={"flops": 1e9 * (1 + 1e-12)})
    assert gate(check(arm_of("rag", [RIGHT]), new), "answer_flops").reason == "the same"


def test_longer_answers_fail_where_they_are_surely_longer() -> None:
    old = arm_of("rag", [RIGHT])
    longer = arm_of("rag", [RIGHT], items={"tokens": 9, "wrong": "red and on"})
    found = gate(check(old, longer), "completion_tokens")
    assert found.verdict == "regression"
    assert found.p is not None
    assert found.p < 1e-3
    # One answer of another length is no more than chance.
    items = items_of(RIGHT)
    name = next(n for n, i in items.items() if not i.scores["exact_match"])
    items[name] = replace(items[name], prediction="red as it is", tokens=Tokens(completion=5))
    one = Arm("questions", "embedded", "rag", (record_of("questions", "rag", 0, items),), (items,))
    found = gate(check(old, one), "completion_tokens")
    assert found.verdict == "pass"
    assert "not surely longer" in found.reason


def test_more_tokens_for_the_same_answers_fail() -> None:
    new = arm_of("rag", [RIGHT], tokens=Tokens(prompt=3000, completion=201))
    assert gate(check(arm_of("rag", [RIGHT]), new), "completion_tokens").verdict == "regression"


def test_flops_that_follow_the_answers_pass_with_them() -> None:
    old = arm_of("rag", [RIGHT])
    other = RIGHT.copy()
    lost, won = np.flatnonzero(RIGHT == 1)[0], np.flatnonzero(RIGHT == 0)[0]
    other[[lost, won]] = 0, 1
    tokens = {"tokens": Tokens(prompt=3000, completion=201), "phase": {"flops": 1.01e9}}
    found = check(old, arm_of("rag", [other], **tokens))
    assert gate(found, "completion_tokens").verdict == "pass"
    assert gate(found, "answer_flops").reason == "follows the answers, whose tokens have passed"


def test_a_tie_that_is_one_token_longer_passes() -> None:
    tied = {"margin": 1e-6}
    other = RIGHT.copy()
    other[np.flatnonzero(RIGHT == 1)[0]] = 0
    new = arm_of("rag", [other], items=tied, tokens=Tokens(prompt=3000, completion=201), phase={"flops": 1.01e9})
    found = check(arm_of("rag", [RIGHT], items=tied), new)
    assert gate(found, "completion_tokens").reason == "only tied answers are longer"
    assert not [g for g in found.gates if g.verdict != "pass"]


def test_trainings_of_another_course_are_tested_over_seeds() -> None:
    def arm(flops: list[float], flip: bool) -> Arm:
        rows = [RIGHT.copy() for _ in flops]
        if flip:
            for row in rows:
                row[[np.flatnonzero(RIGHT == 1)[0], np.flatnonzero(RIGHT == 0)[0]]] = 0, 1
        made = arm_of("lora", rows, method="lora", deterministic=False)
        records = [
            r.model_copy(update={"phases": {**r.phases, "tune": Phase(wall_seconds=1, cpu_seconds=1, flops=f)}})
            for r, f in zip(made.records, flops, strict=True)
        ]
        return Arm(made.task, made.model, made.strategy, tuple(records), made.items)

    old = arm([1e12, 1.2e12, 1.1e12], flip=False)
    chance = gate(check(old, arm([1.2e12, 1.1e12, 1.15e12], flip=True)), "setup_flops")
    assert (chance.verdict, "not surely more" in chance.reason) == ("pass", True)
    more = gate(check(old, arm([1.3e12, 1.6e12, 1.4e12], flip=True)), "setup_flops")
    assert (more.verdict, "trainings take more" in more.reason) == ("regression", True)
    alike = gate(check(old, arm([1.5e12, 1.8e12, 1.65e12], flip=True)), "setup_flops")
    assert (alike.verdict, alike.reason) == ("regression", "more than before")
    alone = gate(check(arm([1e12], flip=False), arm([1.1e12], flip=True)), "setup_flops")
    assert alone.verdict == "inconclusive"
    same_answers = gate(check(arm([1e12], flip=False), arm([1.1e12], flip=False)), "setup_flops")
    assert same_answers.verdict == "regression"


def test_other_items_make_growth_inconclusive() -> None:
    old = arm_of("rag", [RIGHT])
    new = arm_of("rag", [scores(120, 0.6)], tokens=Tokens(prompt=120 * 40, completion=240))
    found = gate(check(old, new), "prompt_tokens")
    assert found.verdict == "inconclusive"
    assert "some items are others" in found.reason


@pytest.mark.parametrize(("growth", "verdict"), [(1.0, "pass"), (1.09, "pass"), (1.11, "regression"), (0.5, "pass")])
def test_resident_memory_may_grow_by_a_tenth(growth: float, verdict: str) -> None:
    old, new = (arm_of("rag", [RIGHT], phase={"peak_rss_bytes": round(5e8 * g)}) for g in (1.0, growth))
    (found,) = memory_gates(old, new, Gates())
    assert (found.measure, found.verdict) == ("peak_rss_bytes", verdict)


@pytest.mark.parametrize(("growth", "verdict"), [(1.009, "pass"), (1.011, "regression")])
def test_gpu_memory_may_grow_by_a_hundredth_and_takes_the_place_of_resident_memory(growth: float, verdict: str) -> None:
    old, new = (
        arm_of("rag", [RIGHT], phase={"peak_gpu_allocated_bytes": round(1e9 * g), "peak_rss_bytes": round(5e8 * g)}) for g in (1, growth)
    )
    (found,) = memory_gates(old, new, Gates())
    assert (found.measure, found.verdict) == ("peak_gpu_allocated_bytes", verdict)


def test_memory_that_one_side_lacks_is_no_gate() -> None:
    assert memory_gates(arm_of("rag", [RIGHT]), arm_of("rag", [RIGHT], phase={"peak_rss_bytes": None}), Gates()) == []


def test_seconds_are_gated_by_the_interval_of_the_ratio() -> None:
    generator = np.random.default_rng(0)

    def seconds(middle: float) -> list[float]:
        return (middle * generator.lognormal(0, 0.02, 7)).tolist()

    of = {("questions", "rag"): {"answer": (seconds(1), seconds(1.5)), "setup": (seconds(1), seconds(1.02))},
          ("questions", "few"): {"answer": ([1.0], [9.0])}}  # fmt: skip
    answer, setup = time_gates(of, Gates())
    assert (answer.measure, answer.verdict, setup.verdict) == ("answer_seconds", "regression", "pass")
    assert answer.change == pytest.approx(0.5, abs=0.1)
    assert (answer.before, answer.n_seeds) == (pytest.approx(1, abs=0.05), 7)


def test_other_prompts_under_the_same_id_are_a_regression() -> None:
    old = arm_of("few-shot", [RIGHT, RIGHT])
    found = prompts_gate(old, arm_of("few-shot", [RIGHT, RIGHT], items={"prompts": "drawn-anew"}))
    assert found is not None
    assert found.verdict == "regression"
    assert found.reason.startswith("200 of 200 prompts are others")
    assert prompts_gate(old, arm_of("few-shot", [RIGHT], cell_id="another", items={"prompts": "x"})) is None
    same = prompts_gate(old, old)
    assert same is not None
    assert same.verdict == "pass"


def test_a_failed_cell_is_a_regression_and_a_missing_one_is_inconclusive() -> None:
    old = arm_of("lora", [RIGHT, RIGHT], method="lora")
    failed = record_of("questions", "lora", 1, {}, status="failed", error="out of memory", n_items=0)
    found = status_gate(old, Arm("questions", "embedded", "lora", (old.records[0], failed), old.items[:1]))
    assert (found.verdict, found.reason) == ("regression", "1 of 2 cells failed, such as s1: out of memory")
    assert status_gate(old, None).reason == "the run has no cell of it"
    assert status_gate(old, None).verdict == "inconclusive"
    one_seed = Arm("questions", "embedded", "lora", old.records[:1], old.items[:1])
    assert status_gate(old, one_seed).verdict == "pass"  # a pull request runs one seed of three
    skipped = record_of("questions", "lora", 0, {}, status="skipped", error="no labels", n_items=0)
    assert status_gate(old, Arm("questions", "embedded", "lora", (skipped,), ())).reason == "1 of 2 cells are skipped now: no labels"


def test_a_changed_library_or_machine_makes_a_regression_inconclusive_and_names_it() -> None:
    old, new = arm_of("rag", [np.ones(100)]), arm_of("rag", [np.zeros(100)], environment=MACHINE | {"packages": {"torch": "2.14.0"}})
    found = check(old, new)
    assert {g.verdict for g in found.gates} == {"pass", "inconclusive"}
    quality = gate(found, "exact_match")
    assert quality.reason.endswith("but the baseline was made with another torch 2.13.0 -> 2.14.0, peft 0.21.2 -> none: use --relative")
    assert [(d.part, d.what) for d in found.untrusted] == [("library", "torch"), ("library", "peft")]
    new = arm_of("rag", [np.zeros(100)], environment=MACHINE | {"cpu": "another"})
    assert [d.what for d in check(old, new).untrusted] == ["cpu"]
    failed = record_of("questions", "rag", 0, {}, status="failed", error="crash", n_items=0)
    broken = Arm("questions", "embedded", "rag", (failed,), ())
    assert [g.verdict for g in check(old, broken).gates] == ["regression"]
