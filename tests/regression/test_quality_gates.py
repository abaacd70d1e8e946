"""Quality gates on runs of known truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from regression.constructed_runs import METRIC, arm_of, flipped, items_of, record_of, scores, side_of, worse

from bench.regression.check import compare
from bench.regression.model import Comparison, Gate, Gates, MetricGate
from bench.regression.quality import shared, ties_excused
from bench.result.arms import Arm

ONE = Gates(metrics={"primary": MetricGate()})


def check(old: Sequence[Arm] | Arm, new: Sequence[Arm] | Arm, gates: Gates = ONE) -> Comparison:
    before, now = ([arms] if isinstance(arms, Arm) else arms for arms in (old, new))
    return compare("run", side_of(*before), side_of(*now), gates)


def quality(comparison: Comparison, strategy: str = "rag") -> Gate:
    (found,) = (g for g in comparison.gates if g.kind == "quality" and g.strategy == strategy)
    return found


def test_an_identical_run_passes_every_gate() -> None:
    arms = [arm_of("rag", [scores(40, 0.5)]), arm_of("lora", [scores(40, 0.5, s) for s in range(3)], method="lora")]
    found = check(arms, arms, Gates())
    assert {gate.verdict for gate in found.gates} == {"pass"}
    assert quality(check(arms, arms)).reason == "the same answers"
    assert {gate.kind for gate in found.gates} == {"status", "prompts", "quality", "cost", "memory"}


def test_five_percent_degraded_on_one_arm_fails_and_names_it() -> None:
    right = scores(400, 0.7)
    old = [arm_of(name, [right]) for name in ("zero-shot", "rag", "few-shot", "rag-lexical")]
    new = [arm_of(name, [worse(right, 0.05) if name == "rag" else right]) for name in ("zero-shot", "rag", "few-shot", "rag-lexical")]
    found = check(old, new, Gates())
    bad = [gate for gate in found.gates if gate.verdict == "regression"]
    assert {(gate.strategy, gate.measure) for gate in bad} == {("rag", METRIC), ("rag", "hallucination_rate")}
    gate = next(gate for gate in bad if gate.measure == METRIC)
    assert gate.change == pytest.approx(-0.05)
    assert gate.p == pytest.approx(2**-20)  # McNemar: 20 lost, none won
    assert gate.p_adjusted == pytest.approx(2 * 2**-20)  # two gates in which a score changed: Holm over these
    assert gate.test == "McNemar, exact"
    assert len(gate.flips) == 20
    assert gate.flips[0].before == "blue"
    assert gate.flips[0].after == "red"
    assert gate.high is not None
    assert gate.high < 0


def test_symmetric_flips_of_ten_percent_do_not_fail() -> None:
    """At alpha .05 at most 5 % of 200 checks; of two tied tests (exact match and hallucination are one) about that of one."""
    generator = np.random.default_rng(7)
    n_bad = 0
    for _ in range(200):
        right = scores(300, 0.6, int(generator.integers(1 << 30)))
        now = _symmetric(right, generator)
        n_bad += any(g.verdict == "regression" for g in check(arm_of("rag", [right]), arm_of("rag", [now]), Gates()).gates)
    assert n_bad <= 10


def _symmetric(right: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """About 10 % of the items turned round, each loss as likely as a win."""
    now = right.copy()
    for _ in range(generator.binomial(len(right), 0.1)):
        value = float(generator.integers(2))
        now[generator.choice(np.flatnonzero(right == value))] = 1 - value
    return now


def test_symmetric_flips_of_clustered_items_and_seeds_do_not_fail() -> None:
    generator = np.random.default_rng(8)
    n_bad = 0
    for _ in range(100):
        base = generator.random(60).repeat(5)  # clusters of five that are easy or hard together
        old, new = ([(generator.random(300) < base + generator.normal(0, 0.02)).astype(float) for _ in range(3)] for _ in range(2))
        arms = [arm_of("lora", rows, method="lora", items={"per_cluster": 5}) for rows in (old, new)]
        n_bad += quality(check(arms[0], arms[1]), "lora").verdict == "regression"
    assert n_bad <= 9  # 5 of 100, two standard errors above it


def test_a_small_sample_is_inconclusive_and_says_how_many_items_would_do() -> None:
    right = scores(40, 0.5)
    gate = quality(check(arm_of("rag", [right]), arm_of("rag", [flipped(right, 0.2, np.random.default_rng(0))])))
    assert gate.verdict == "inconclusive"
    # 8 of 40 items differ, 4 each way: SE = sqrt(40/39 * 8) / 40; room = the margin of .02.
    error = math.sqrt(40 / 39 * 8) / 40
    assert gate.needed_items == math.ceil(40 * ((1.6448536 + 0.8416212) * error / 0.02) ** 2)


def test_that_many_items_settle_it() -> None:
    n = 13_000
    right = scores(n, 0.5)
    gate = quality(check(arm_of("rag", [right]), arm_of("rag", [flipped(right, 0.2, np.random.default_rng(0))])))
    assert gate.verdict == "pass"
    assert gate.reason == "no loss of 0.02 or more"


def test_a_sure_loss_below_the_smallest_that_counts_passes_and_is_said() -> None:
    right = scores(4000, 0.7)
    now = worse(right, 0.003)
    gate = quality(check(arm_of("rag", [right]), arm_of("rag", [now])))
    assert gate.verdict == "pass"
    assert "a sure loss below 0.005" in gate.reason
    strict = Gates(metrics={"primary": MetricGate(min_delta=0.0)})
    assert quality(check(arm_of("rag", [right]), arm_of("rag", [now]), strict)).verdict == "regression"


def test_an_improvement_is_never_a_regression() -> None:
    right = scores(400, 0.5)
    gate = quality(check(arm_of("rag", [worse(right, 0.2)]), arm_of("rag", [right])))
    assert gate.verdict == "pass"
    assert gate.p is not None
    assert gate.p > 0.99


def test_a_metric_where_lower_is_better_is_turned_round() -> None:
    right = scores(400, 0.6)
    gates = Gates(metrics={"hallucination_rate": MetricGate()})
    found = quality(check(arm_of("rag", [right]), arm_of("rag", [worse(right, 0.05)]), gates))
    assert (found.verdict, found.change) == ("regression", pytest.approx(-0.05))
    assert (found.before, found.after) == (pytest.approx(0.4), pytest.approx(0.45))
    assert quality(check(arm_of("rag", [worse(right, 0.05)]), arm_of("rag", [right]), gates)).verdict == "pass"


def test_a_changed_answer_between_ties_is_excused() -> None:
    right = scores(200, 0.6)
    now = worse(right, 0.05)
    tied, sure = {"margin": 1e-5}, {"margin": 0.5}
    assert quality(check(arm_of("rag", [right], items=sure), arm_of("rag", [now], items=tied))).verdict == "regression"
    gate = quality(check(arm_of("rag", [right], items=tied), arm_of("rag", [now], items=tied)))
    assert gate.verdict == "pass"
    assert gate.n_excused == 10
    assert gate.reason == "the same answers (10 tied answers excused)"
    unknown = {"margin": None}
    assert quality(check(arm_of("rag", [right], items=unknown), arm_of("rag", [now], items=unknown))).verdict == "regression"


def test_ties_excused_counts_the_other_changes() -> None:
    old, new = arm_of("rag", [[1, 1, 1, 0]]), arm_of("rag", [[0, 0, 1, 0]])
    cut, excused, n_changed = ties_excused(old, new, tie_margin=0.5)
    assert (excused, n_changed) == (set(), 2)
    cut, excused, n_changed = ties_excused(old, new, tie_margin=1.0)
    assert (excused, n_changed) == ({(0, "q0"), (0, "q1")}, 0)
    assert [item.scores[METRIC] for item in cut.items[0].values()] == [1, 1, 1, 0]


def test_seeds_are_in_the_interval_of_a_strategy_that_depends_on_them() -> None:
    """Each seed loses or wins as a whole: over items alone a loss is sure, over seeds it is not."""
    old = [scores(400, 0.6, s) for s in range(3)]
    moved = [worse(old[0], 0.10), worse(old[1], 0.06), 1 - worse(1 - old[2], 0.06)]
    found = quality(check(arm_of("lora", old, method="lora"), arm_of("lora", moved, method="lora")), "lora")
    assert found.verdict == "inconclusive"
    assert found.test == "sign-flip and t over items and seeds"
    assert not found.items_only
    one = quality(check(arm_of("lora", old[:1], method="lora", deterministic=False),
                        arm_of("lora", moved[:1], method="lora", deterministic=False)), "lora")  # fmt: skip
    assert one.verdict == "regression"
    assert one.items_only
    assert "over items alone, fewer than 3 seeds" in one.reason


def test_two_seeds_do_not_hide_a_total_loss() -> None:
    right = [scores(400, 0.6, s) for s in range(2)]
    old, new = (arm_of("few-shot", rows) for rows in (right, [right[0] * 0, right[1] * 0]))
    gate = quality(check(old, new), "few-shot")
    assert (gate.verdict, gate.items_only, gate.n_seeds) == ("regression", True, 2)


def test_a_loss_in_every_seed_is_a_regression() -> None:
    old = [scores(400, 0.6, s) for s in range(3)]
    new = [worse(row, share, 9) for row, share in zip(old, (0.07, 0.08, 0.06), strict=True)]
    assert quality(check(arm_of("lora", old, method="lora"), arm_of("lora", new, method="lora")), "lora").verdict == "regression"


def test_a_few_changed_answers_of_a_trained_strategy_leave_it_decided() -> None:
    """The seeds' spread is large, but equal seeds do alike: no redraw, so it says nothing about the change."""
    old = [scores(400, share, s) for s, share in enumerate((0.3, 0.6, 0.8))]
    new = [flipped(row, 0.01, np.random.default_rng(s)) for s, row in enumerate(old)]
    gate = quality(check(arm_of("lora", old, method="lora"), arm_of("lora", new, method="lora")), "lora")
    assert gate.verdict == "pass"
    assert gate.low is not None
    assert gate.low > -0.01


def test_a_run_of_one_seed_is_compared_with_that_seed() -> None:
    old = arm_of("lora", [scores(100, 0.6, s) for s in range(3)], method="lora")
    new = arm_of("lora", [scores(100, 0.6, 0)], method="lora", deterministic=False)
    found = check(old, new)
    assert quality(found, "lora").reason == "the same answers"
    assert "questions/lora: seeds in one of the two only: 1, 2" in found.notes


def test_only_items_that_are_the_same_question_are_compared() -> None:
    old, new = arm_of("rag", [scores(50, 0.5)]), arm_of("rag", [scores(60, 0.5)])
    cut = shared(old, new)
    assert cut.notes == ("10 of 60 items are new, gone or changed",)
    assert len(cut.new.items[0]) == 50
    other = {name: replace(item, input_hash="other") for name, item in items_of(scores(50, 0.5)).items()}
    changed = Arm("questions", "embedded", "rag", (record_of("questions", "rag", 0, other),), (other,))
    found = quality(check(old, changed))
    assert found.verdict == "inconclusive"
    assert "the task changed" in found.reason


def test_other_scoring_is_not_compared() -> None:
    from bench.result.schema import Fingerprints

    old = arm_of("rag", [scores(50, 0.5)])
    new = arm_of("rag", [scores(50, 0.1)], fingerprints=Fingerprints(task="t", model="m", tokenizer="k", strategy="rag", scoring="3"))
    found = quality(check(old, new))
    assert found.verdict == "inconclusive"
    assert found.reason == "scored by different versions (2 and 3): accept a new baseline"


def test_one_cluster_gives_no_interval() -> None:
    old, new = (arm_of("rag", [scores(20, share)], items={"per_cluster": 20}) for share in (0.8, 0.4))
    assert quality(check(old, new)).reason == "one cluster of items gives no interval"


def test_macro_f1_is_tested_from_predictions() -> None:
    def arm(wrong: float) -> Arm:
        generator = np.random.default_rng(0)
        right = generator.random(300) >= wrong
        said = [("blue", "red")[i % 2 if right[i] else 1 - i % 2] for i in range(300)]
        items = {
            name: replace(item, targets=[("blue", "red")[i % 2]], prediction=said[i], scores={})
            for i, (name, item) in enumerate(items_of(right.astype(float)).items())
        }  # fmt: skip
        return Arm("sort", "embedded", "rag", (record_of("sort", "rag", 0, items, primary_metric="macro_f1"),), (items,))

    gate = quality(check(arm(0.1), arm(0.3)))
    assert gate.measure == "macro_f1"
    assert gate.verdict == "regression"
    shares = [(np.random.default_rng(0).random(300) >= wrong).mean() for wrong in (0.1, 0.3)]
    assert gate.change == pytest.approx(shares[1] - shares[0], abs=0.005)  # of two balanced labels macro F1 is nearly accuracy
    assert quality(check(arm(0.1), arm(0.1))).verdict == "pass"


@pytest.mark.parametrize("n", [1, 2])
def test_few_items_never_fail(n: int) -> None:
    gate = quality(check(arm_of("rag", [np.ones(n)]), arm_of("rag", [np.zeros(n)])))
    assert gate.verdict == "inconclusive"


def test_holm_over_the_gates_in_which_something_changed() -> None:
    right = scores(200, 0.7)
    lost: Any = {"a": 6, "b": 5, "c": 0}
    arms = {name: arm_of(name, [worse(right, k / 200, 3)]) for name, k in lost.items()}
    found = check([arm_of(name, [right]) for name in lost], list(arms.values()))
    assert [quality(found, name).p for name in lost] == [pytest.approx(2**-6), pytest.approx(2**-5), None]
    assert [quality(found, name).p_adjusted for name in ("a", "b")] == [pytest.approx(2 * 2**-6), pytest.approx(2**-5)]
