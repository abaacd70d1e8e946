"""The rule on constructed cases whose right answer is known."""

from itertools import combinations
from typing import Any

import pytest

from bench.report.compare import pareto_front
from bench.report.constraints import Constraints, Weights
from bench.report.decide import decide
from bench.report.explain import items_needed
from bench.report.model import Candidate, Measure, Pair, Standing, TaskEvidence

TRAINED = {"tuning": {"method": "lora"}}
READS = {"retrieval": {"search": "dense"}}


def strategy(
    name: str,
    quality: float | None = 0.9,
    *,
    standing: Standing = "contender",
    choices: dict[str, Any] | None = None,
    usd: float | None = 1.0,
    memory: float | None = 1e9,
    wrong: float | None = 0.1,
    latency: float | None = 0.1,
    half: float = 0.02,
    **more: Measure,
) -> Candidate:
    """A candidate with intervals of `half` on both sides; None: not measured."""
    numbers = {"usd_per_1000_requests": usd, "peak_memory_bytes": memory, "latency_p95_seconds": latency}
    measures = {key: Measure(value) for key, value in numbers.items() if value is not None}
    for key, value in {"quality": quality, "hallucination_rate": wrong}.items():
        if value is not None:
            measures[key] = Measure(value, value - half, value + half)
    reason = "out of memory" if standing == "failed" else None
    return Candidate(name, standing, reason, "", "", choices or {}, measures | more, 100, 3)


def task_of(
    *candidates: Candidate,
    higher: bool = True,
    share: bool = True,
    tied: tuple[tuple[str, str], ...] = (),
    detectable: float | None = 0.005,
    model: str = "m",
) -> TaskEvidence:
    """Every two contenders are told apart but the `tied` ones."""
    scored = [c for c in candidates if c.standing == "contender" and "quality" in c.measures]
    pairs = []
    for a, b in combinations(scored, 2):
        difference = a.measures["quality"].value - b.measures["quality"].value
        apart = difference != 0 and {a.strategy, b.strategy} not in [set(t) for t in tied]
        half = abs(difference) / 2 if apart else abs(difference) * 2
        interval = Measure(difference, difference - half, difference + half)
        pairs.append(Pair(a.strategy, b.strategy, interval, 0.001 if apart else 0.6, detectable, None, None, None))
    return TaskEvidence("t", model, "exact_match", higher, share, candidates, tuple(pairs), ())


def test_the_best_and_cheapest_is_recommended_and_decided() -> None:
    decision = decide(task_of(strategy("a", 0.6, usd=2), strategy("b", 0.9, usd=1), strategy("c", 0.7, usd=3)), Constraints())
    assert (decision.recommended, decision.certainty, decision.front) == ("b", "decided", ("b",))
    assert decision.runner_up in ("a", "c")  # of the beaten
    assert "Recommended: b." in decision.explanation[0]
    assert len(decision.explanation) == 5
    assert "90.0 % [88.0, 92.0]" in decision.explanation[1]
    assert decision.utilities["b"] == {
        "quality": 1, "hallucination": 1, "cost": 1, "memory": 1, "latency": 1, "simplicity": 1, "total": pytest.approx(1),
    }  # fmt: skip


@pytest.mark.parametrize("weights", [{"quality": 1}, {"cost": 5}, {"simplicity": 9}, {"memory": 3, "latency": 3}])
def test_a_dominated_strategy_is_never_recommended(weights: dict[str, float]) -> None:
    task = task_of(strategy("a", 0.9, usd=1), strategy("worse", 0.8, usd=2, latency=0.5), strategy("cheap", 0.5, usd=0.1))
    decision = decide(task, Constraints(weights=Weights(**weights)))
    assert "worse" not in decision.front
    assert decision.recommended in ("a", "cheap")


def test_floors_oracles_and_failed_strategies_are_never_recommended_though_best() -> None:
    task = task_of(
        strategy("floor", 0.3, standing="floor"), strategy("oracle", 1.0, standing="oracle"), strategy("broken", None, standing="failed"),
        strategy("unscored", None), strategy("a", 0.8),
    )  # fmt: skip
    decision = decide(task, Constraints())
    assert (decision.recommended, decision.runner_up, decision.certainty) == ("a", None, "decided")
    assert set(decision.excluded) == {"floor", "oracle", "broken", "unscored"}
    assert "out of memory" in decision.excluded["broken"][0]
    assert "quality was not measured" in decision.excluded["unscored"][0]


def test_no_better_than_the_best_floor_is_left_out_while_another_one_is_better() -> None:
    floors = strategy("constant", 0.5, standing="floor"), strategy("lower", 0.1, standing="floor")
    free = strategy("zero-shot", 0.51, usd=0.0001, wrong=0.0, memory=1e6, latency=0.001)
    decision = decide(task_of(*floors, free, strategy("lora", 0.6, choices=TRAINED)), Constraints())
    assert (decision.recommended, decision.flagged) == ("lora", {"zero-shot": "constant"})
    assert decision.excluded["zero-shot"] == ("no better than constant",)
    alone = decide(task_of(*floors, free), Constraints())
    assert (alone.recommended, alone.certainty) == ("zero-shot", "tied")
    assert "no better than constant" in alone.explanation[0]


def test_a_floor_is_compared_by_the_paired_test_where_there_is_one() -> None:
    floor, a = strategy("floor", 0.5, standing="floor"), strategy("a", 0.51)
    pair = Pair("floor", "a", Measure(-0.01, -0.015, -0.005), 0.01, 0.004, None, None, None)
    assert decide(TaskEvidence("t", "m", "f1", True, True, (floor, a), (pair,), ()), Constraints()).flagged == {}


def test_lower_is_better_turns_quality_around() -> None:
    candidates = strategy("a", 3.0), strategy("b", 2.0), strategy("floor", 9.0, standing="floor")
    decision = decide(task_of(*candidates, higher=False, share=False), Constraints())
    assert (decision.recommended, decision.runner_up, decision.certainty, decision.flagged) == ("b", "a", "decided", {})
    assert "better (+1.000 [+0.500, +1.500], p = 0.001)" in decision.explanation[1]
    assert decision.utilities["a"]["quality"] == 0
    flipped = task_of(*candidates, higher=True, share=False)
    assert decide(flipped, Constraints()).flagged == {"a": "floor", "b": "floor"}


def test_constraints_leave_out_the_best_with_its_reason() -> None:
    task = task_of(strategy("a", 0.95, wrong=0.3), strategy("b", 0.9, wrong=0.05))
    decision = decide(task, Constraints(maximum_hallucination=0.1))
    assert (decision.recommended, decision.runner_up) == ("b", None)
    assert decision.excluded == {"a": ("hallucination 30.0 % [28.0, 32.0] is above 10 %",)}
    assert "hallucination 30.0 %" in decision.steps[1].result


def test_a_limit_within_the_interval_is_said() -> None:
    decision = decide(task_of(strategy("a", wrong=0.09)), Constraints(maximum_hallucination=0.1))
    assert list(decision.uncertain) == ["a"]
    assert "uncertain whether it meets the constraints" in decision.explanation[4]


def test_nothing_eligible_names_the_nearest_that_beats_a_floor() -> None:
    task = task_of(
        strategy("floor", 0.3, standing="floor"), strategy("poor", 0.3, wrong=0.0), strategy("a", 0.8, wrong=0.3, usd=9),
        strategy("b", 0.7, wrong=0.3), strategy("c", 0.6, wrong=0.3),
    )  # fmt: skip
    decision = decide(task, Constraints(maximum_hallucination=0.1, minimum_quality=0.5, maximum_usd_per_1000_requests=5))
    assert (decision.recommended, decision.runner_up, decision.certainty, decision.front) == (None, None, None, ())
    assert "Nearest: b, " in decision.explanation[1]
    assert "violates 1: hallucination 30.0 %" in decision.explanation[1]


def test_the_nearest_is_no_better_than_a_floor_only_where_all_are() -> None:
    floor, poor = strategy("floor", 0.3, standing="floor"), strategy("poor", 0.3, wrong=0.2)
    limits = Constraints(maximum_hallucination=0.1, maximum_usd_per_1000_requests=5)
    assert "Nearest: b, " in decide(task_of(floor, poor, strategy("b", 0.7, wrong=0.3, usd=9)), limits).explanation[1]
    assert "Nearest: poor, " in decide(task_of(floor, poor), limits).explanation[1]


def test_no_strategy_was_scored() -> None:
    decision = decide(task_of(strategy("a", None, standing="failed")), Constraints())
    assert decision.recommended is None
    assert "No strategy of this task was scored" in decision.explanation[0]
    assert decide(task_of(), Constraints()).recommended is None


def test_equal_candidates_are_tied_and_the_first_of_the_suite_is_named() -> None:
    decision = decide(task_of(strategy("a"), strategy("b")), Constraints())
    assert (decision.recommended, decision.runner_up, decision.certainty) == ("a", "b", "tied")
    assert decision.front == ("a", "b")
    assert "not distinguishable" in decision.explanation[4]
    assert "Take either a or b" in decision.settle


def test_not_told_apart_and_cheaper_is_decided_and_not_cheaper_enough_is_tied() -> None:
    pair = (("a", "b"),)
    cheaper = decide(task_of(strategy("a", 0.9, usd=1.0), strategy("b", 0.901, usd=2.0), tied=pair), Constraints())
    assert (cheaper.recommended, cheaper.certainty) == ("a", "decided")
    assert "ahead in cost" in cheaper.explanation[4]
    within = decide(task_of(strategy("a", 0.9, usd=1.0), strategy("b", 0.901, usd=1.04), tied=pair), Constraints())
    assert within.certainty == "tied"
    simpler = decide(task_of(strategy("a", 0.9, choices=TRAINED), strategy("b", 0.9), tied=pair), Constraints())
    assert (simpler.recommended, simpler.certainty) == ("b", "decided")


def test_not_told_apart_counts_as_no_difference_in_quality() -> None:
    """Two that the test does not tell apart: the cheaper one beats the other, whatever the values are."""
    task = task_of(strategy("a", 0.95, usd=2.0), strategy("b", 0.90, usd=1.0), tied=(("a", "b"),))
    assert decide(task, Constraints(weights=Weights(quality=100))).front == ("b",)
    assert decide(task_of(strategy("a", 0.95, usd=2.0), strategy("b", 0.90, usd=1.0)), Constraints()).front == ("a", "b")


def test_not_enough_data_says_how_many_items_would_settle_it() -> None:
    task = task_of(strategy("a", 0.95), strategy("b", 0.90, usd=2), tied=(("a", "b"),), detectable=0.1)
    decision = decide(task, Constraints())
    assert (decision.recommended, decision.certainty) == ("a", "not enough data")
    assert "At most about 300 more items (of 100 now)" in decision.settle  # (0.1 / 0.05)^2 = 4 times as many
    assert "More seeds would change nothing" in decision.settle
    seeded = task_of(strategy("a", 0.95, choices=TRAINED), strategy("b", 0.90, usd=2), tied=(("a", "b"),), detectable=0.1)
    assert "a now 3, then 12" in decide(seeded, Constraints()).settle


def test_a_difference_below_the_margin_is_planned_for_the_margin() -> None:
    def settled(model: str) -> str:
        task = task_of(strategy("a", 0.905), strategy("b", 0.900), tied=(("a", "b"),), detectable=0.04, model=model)
        return decide(task, Constraints()).settle

    assert "300 more items" in settled("other")  # margin .02
    assert "1,500 more items" in settled("embedded")  # margin .01


def test_a_metric_without_a_margin_plans_for_the_difference_alone() -> None:
    one = task_of(strategy("a", 5.0), strategy("b", 4.0), share=False, tied=(("a", "b"),), detectable=2.0)
    assert "300 more items" in decide(one, Constraints()).settle
    equal = task_of(strategy("a", 5.0), strategy("b", 5.0), share=False, detectable=2.0)
    assert "cannot be said" in decide(equal, Constraints()).settle


def test_an_interval_that_rules_out_a_loss_decides_for_the_cheaper_one_whatever_is_detectable() -> None:
    a, b = strategy("a", 0.95, usd=1), strategy("b", 0.94, usd=2)

    def certainty(low: float) -> str | None:
        pair = Pair("b", "a", Measure(-0.01, -0.03, -low), 0.2, 0.1, None, None, None)
        return decide(TaskEvidence("t", "m", "f1", True, True, (a, b), (pair,), ()), Constraints()).certainty

    assert certainty(-0.019) == "decided"
    assert certainty(-0.021) == "not enough data"


def test_told_apart_and_worse_but_chosen_by_the_weights() -> None:
    task = task_of(strategy("a", 0.9, usd=1.0), strategy("b", 0.92, usd=50.0))
    decision = decide(task, Constraints(weights=Weights(quality=0.1, cost=1)))
    assert (decision.recommended, decision.certainty) == ("a", "decided")
    assert "worse in quality" in decision.explanation[4]
    assert "ahead in cost: the weights decide" in decision.explanation[4]


def test_criteria_count_only_where_all_eligible_ones_have_them() -> None:
    decision = decide(task_of(strategy("a", latency=None), strategy("b", 0.8)), Constraints())
    assert "latency" not in decision.weights
    assert sum(decision.weights.values()) == pytest.approx(1)
    assert "not by latency, unknown for a" in decision.steps[3].result
    only = decide(task_of(strategy("a", latency=None, usd=None), strategy("b", 0.8)), Constraints(weights=_only("latency")))
    assert "of nothing that was measured" in only.steps[4].result
    assert set(only.weights.values()) == {0.25}


def _only(criterion: str) -> Weights:
    return Weights(**(dict.fromkeys(Weights.model_fields, 0.0) | {criterion: 1.0}))


def test_the_total_cost_is_compared_where_it_is_known_for_all() -> None:
    cheap_to_run = strategy("a", 0.9, usd=1.0, total_usd=Measure(500.0))
    cheap_in_all = strategy("b", 0.9, usd=2.0, total_usd=Measure(100.0))
    assert decide(task_of(cheap_to_run, cheap_in_all), Constraints()).front == ("b",)
    assert decide(task_of(cheap_to_run, strategy("b", 0.9, usd=2.0)), Constraints()).front == ("a",)


def test_utility_is_the_weighted_mean_of_scaled_criteria() -> None:
    task = task_of(strategy("a", 0.9, usd=3.0), strategy("b", 0.8, usd=2.0), strategy("c", 0.7, usd=1.0))
    decision = decide(task, Constraints(weights=Weights(quality=3, hallucination=0, cost=1, latency=0, simplicity=0)))
    assert {name: u["total"] for name, u in decision.utilities.items()} == pytest.approx({"a": 0.75, "b": 0.5, "c": 0.25})
    assert decision.front == ("a", "b", "c")
    assert (decision.recommended, decision.runner_up) == ("a", "b")


def test_hallucination_within_both_intervals_is_no_difference() -> None:
    assert decide(task_of(strategy("a", wrong=0.10), strategy("b", wrong=0.115)), Constraints()).front == ("a", "b")
    assert decide(task_of(strategy("a", wrong=0.10), strategy("b", wrong=0.13)), Constraints()).front == ("a",)


def test_small_differences_in_a_circle_leave_all_of_it_on_the_front() -> None:
    """a beats b in cost, b beats c in memory, c beats a in latency; every other difference is too small to count."""
    circle = (
        strategy("a", usd=1.00, memory=1.015e9, latency=0.106), strategy("b", usd=1.06, memory=1.000e9, latency=0.103),
        strategy("c", usd=1.03, memory=1.030e9, latency=0.100), strategy("d", usd=9.0, memory=9e9, latency=9.0),
    )  # fmt: skip
    task = task_of(*circle)
    values = {
        "cost": {c.strategy: -c.measures["usd_per_1000_requests"].value for c in circle},
        "memory": {c.strategy: -c.measures["peak_memory_bytes"].value for c in circle},
        "latency": {c.strategy: -c.measures["latency_p95_seconds"].value for c in circle},
    }
    assert pareto_front(task, circle, values) == ["a", "b", "c"]


def test_risks_name_what_was_lost_and_what_was_not_measured() -> None:
    lost = strategy("a", choices=TRAINED, **{"forgetting.known_recall_drop": Measure(0.85, 0.78, 0.92)})
    assert "training costs 85.0 points [78.0, 92.0] of the recall" in decide(task_of(lost), Constraints()).explanation[3]
    silent = strategy("a", choices=TRAINED, wrong=None)
    assert "was not measured (bench run --probe forgetting)" in decide(task_of(silent), Constraints()).explanation[3]
    none = strategy("a", **{"forgetting.skill_drop": Measure(0.0, -0.1, 0.1)})
    assert "not distinguishable from none" in decide(task_of(none), Constraints()).explanation[3]


def test_items_needed() -> None:
    assert items_needed(100, 0.04, 0.02) == 400
    assert items_needed(400, 0.03, 0.02) == 900
    assert items_needed(10, 0.011, 0.01) == 13  # 12.1, rounded up


def test_the_same_evidence_gives_the_same_decision_in_any_order_of_pairs() -> None:
    task = task_of(strategy("a", 0.9, usd=3.0), strategy("b", 0.8, usd=2.0), strategy("c", 0.7, usd=1.0))
    turned = [
        Pair(
            p.b, p.a, Measure(-p.difference.value, -(p.difference.high or 0), -(p.difference.low or 0)), p.p, p.detectable, None, None, None
        )
        for p in reversed(task.pairs)
    ]
    again = TaskEvidence(task.task, task.model, task.metric, True, True, task.candidates, tuple(turned), ())
    assert decide(again, Constraints()) == decide(task, Constraints())
