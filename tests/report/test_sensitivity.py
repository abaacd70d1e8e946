"""What would change the answer, on decisions whose thresholds are known by hand."""

from dataclasses import replace

import pytest

from bench.report.constraints import Constraints
from bench.report.decide import Decision, decide
from bench.report.model import Candidate, Measure, Pair, PriceCrossing, TaskEvidence
from bench.report.sensitivity import flips, leave_one_out, weight_range, weightings


def decision_of(scores: dict[str, dict[str, float]], weights: dict[str, float]) -> Decision:
    utilities = {name: {**of, "total": sum(weights[c] * x for c, x in of.items())} for name, of in scores.items()}
    front = tuple(sorted(scores, key=lambda name: -utilities[name]["total"]))
    return Decision(front[0], None, "decided", (), (), {}, front=front, utilities=utilities, weights=weights)


NOTHING = Decision(None, None, None, (), (), {})
EVEN = {"quality": 0.5, "cost": 0.5}
OPPOSITE = {"a": {"quality": 1.0, "cost": 0.0}, "b": {"quality": 0.0, "cost": 1.0}}
THIRD = {"a": {"quality": 1.0, "cost": 0.0}, "b": {"quality": 0.5, "cost": 1.0}}


def test_opposite_strategies_share_the_weightings_evenly() -> None:
    assert weightings(decision_of(OPPOSITE, EVEN)) == pytest.approx({"a": 0.5, "b": 0.5}, abs=0.02)


def test_the_share_is_the_area_where_a_strategy_wins() -> None:
    """a wins where w > .5 w + (1 - w), that is w > 2/3, and w is uniform."""
    found = weightings(decision_of(THIRD, EVEN))
    assert found == pytest.approx({"a": 1 / 3, "b": 2 / 3}, abs=0.02)
    assert sum(found.values()) == pytest.approx(1)
    assert found == weightings(decision_of(THIRD, EVEN))
    assert found != weightings(decision_of(THIRD, EVEN), seed=1)


def test_three_specialists_of_three_criteria_win_a_third_each() -> None:
    criteria = ("quality", "cost", "memory")
    scores = {c: {d: float(c == d) for d in criteria} for c in criteria}
    assert weightings(decision_of(scores, dict.fromkeys(criteria, 1 / 3))) == pytest.approx(dict.fromkeys(criteria, 1 / 3), abs=0.02)


def test_equal_strategies_share_and_a_single_one_has_all() -> None:
    assert weightings(decision_of({"a": OPPOSITE["a"], "b": OPPOSITE["a"]}, EVEN), n=100) == pytest.approx({"a": 0.5, "b": 0.5})
    assert weightings(decision_of({"a": OPPOSITE["a"]}, EVEN), n=100) == {"a": 1.0}
    assert weightings(NOTHING) == {}


def test_leave_one_out_names_the_winner_of_the_rest() -> None:
    decision = decision_of(OPPOSITE, {"quality": 0.7, "cost": 0.3})
    assert leave_one_out(decision) == {"quality": "b", "cost": "a"}
    assert leave_one_out(NOTHING) == {}
    assert leave_one_out(decision_of({"a": {"quality": 1.0}}, {"quality": 1.0})) == {}


def test_leaving_out_the_only_weight_leaves_the_others_even_ones() -> None:
    scores = {"a": {"quality": 1.0, "cost": 0.0, "memory": 0.4}, "b": {"quality": 0.0, "cost": 1.0, "memory": 0.5}}
    assert leave_one_out(decision_of(scores, {"quality": 1.0, "cost": 0.0, "memory": 0.0}))["quality"] == "b"


def test_of_equals_the_recommended_one_stays() -> None:
    assert leave_one_out(decision_of({"x": OPPOSITE["a"], "a": OPPOSITE["a"]}, EVEN)) == {"quality": "x", "cost": "x"}


def test_weights_at_which_the_choice_changes() -> None:
    decision = decision_of(THIRD, {"quality": 0.8, "cost": 0.2})
    assert decision.recommended == "a"
    below, above = weight_range(decision, "quality")
    assert below == (pytest.approx(2 / 3), "b")
    assert above is None
    below, above = weight_range(decision, "cost")
    assert below is None
    assert above == (pytest.approx(1 / 3), "b")


def test_the_nearest_of_several_thresholds_is_taken() -> None:
    scores = {"a": {"quality": 1.0, "cost": 0.0}, "b": {"quality": 0.5, "cost": 1.0}, "c": {"quality": 0.9, "cost": 0.5}}
    below, _ = weight_range(decision_of(scores, {"quality": 0.9, "cost": 0.1}), "quality")
    assert below == (pytest.approx(5 / 6), "c")  # w = .9 w + .5 (1 - w)


def test_the_threshold_is_where_the_decision_turns() -> None:
    """Against the rule itself, on both sides of the threshold."""
    task = evidence()
    weights = {"quality": 0.8, "hallucination": 0.0, "cost": 0.2, "memory": 0.0, "latency": 0.0, "simplicity": 0.0}

    def chosen(quality: float) -> Decision:
        return decide(task, Constraints.model_validate({"weights": {**weights, "quality": quality, "cost": 1 - quality}}))

    below, _ = weight_range(chosen(0.9), "quality")
    assert below is not None
    assert below[1] == "cheap"
    assert chosen(below[0] + 0.01).recommended == "good"
    assert chosen(below[0] - 0.01).recommended == "cheap"


def candidate(name: str, quality: float, total: float) -> Candidate:
    measures = {"quality": Measure(quality, quality - 0.01, quality + 0.01), "total_usd": Measure(total)}
    return Candidate(name, "contender", None, "", "", {}, measures, 100, 1)


def evidence(*more: Candidate, **pair: object) -> TaskEvidence:
    one = Pair("good", "cheap", Measure(0.1, 0.05, 0.15), 0.001, 0.05, Measure(2e6, 1e6, None), "cheap", "good")
    candidates = candidate("good", 0.9, 20.0), candidate("cheap", 0.8, 10.0), *more
    return TaskEvidence("t", "m", "f1", True, True, candidates, (replace(one, **pair),), ())


def test_flips_say_weights_and_volume() -> None:
    """Quality .4, cost .2 and simplicity .1 are what was measured; simplicity is equal. Quality: t = (1 - t) 2/3; cost: t = (1 - t) 4/5."""
    task = evidence()
    lines = flips(task, decide(task, Constraints()))
    assert lines[:2] == [
        "With a weight of quality below 0.40 (now 0.57), cheap wins.",
        "With a weight of cost above 0.44 (now 0.29), cheap wins.",
    ]
    assert len(lines) == 3
    assert lines[2].startswith(
        "In all, cheap costs less than good below 2 million requests (95 % from 1 million on) over the horizon, as it does now"
    )


def test_a_volume_says_whether_it_could_change_the_choice() -> None:
    # "good" costs hardly more than the cheapest, and would be the dearest at worst: much for a heavy weight of cost.
    task = evidence(candidate("dear", 0.5, 1000.0))

    def said(of: TaskEvidence, cost: float, recommended: str = "good") -> str:
        decision = decide(of, Constraints.model_validate({"weights": {"quality": 1, "cost": cost}}))
        assert decision.recommended == recommended
        return flips(of, decision)[-1]

    assert "cannot change the choice" in said(task, 0.1)
    assert "worse in quality, so that the weights decide" in said(task, 2.0)
    not_apart = evidence(candidate("dear", 0.5, 1000.0), p=0.5, difference=Measure(0.1, -0.05, 0.25))
    line = said(not_apart, 2.0, "cheap")
    assert line.startswith("In all, good costs less than cheap above 2 million requests")
    assert "as it does now" not in line
    assert "could change the choice, if it saves enough" in line


LABEL = PriceCrossing("a label", "usd", 0.5, Measure(0.25), "good", "cheap")
ERROR = PriceCrossing("an error", "usd", 0.0, Measure(0.1, 0.05, 0.2), "cheap", "good")
COMPUTE = PriceCrossing("compute", "times", 1.0, Measure(2.5), "good", "cheap")
NONE = PriceCrossing("storage", "usd", 0.02, None, "cheap", "cheap")


def test_flips_say_prices_and_whether_they_could_change_the_choice() -> None:
    task = evidence(prices=(LABEL, ERROR, COMPUTE, NONE))
    lines = flips(task, decide(task, Constraints()))[3:]
    change = "; that alone cannot change the choice, whatever it saves."
    assert lines == [
        f"In all, cheap costs less than good above 0.250 USD for a label (now 0.500), as it does now{change}",
        f"In all, cheap costs less than good below 0.100 USD for an error (95 % 0.0500 to 0.200; now 0), as it does now{change}",
        f"In all, cheap costs less than good above 2.5 times the present prices of compute, as it does now{change}",
    ]
    open_ended = evidence(prices=(ERROR._replace(at=Measure(0.1, 0.05, None)),))
    assert "(95 % from 0.0500 on; now 0)" in flips(open_ended, decide(open_ended, Constraints()))[-1]


@pytest.mark.parametrize(
    ("cheaper", "says"), [("cheap", "cheap less than good"), ("good", "cheap more than good"), (None, "cheap as much as good")]
)
def test_what_no_price_turns_round_is_one_line(cheaper: str | None, says: str) -> None:
    never = [NONE._replace(thing=thing, cheaper_below=cheaper, cheaper_above=cheaper) for thing in ("a label", "an error")]
    task = evidence(prices=tuple(never))
    lines = flips(task, decide(task, Constraints()))
    assert lines[3:] == [f"No single price above 0 (of a label, an error) turns round which one costs less in all: {says}."]
    other = replace(task.pairs[0], b="third", prices=tuple(never))
    both = replace(task, candidates=(*task.candidates, candidate("third", 0.7, 5.0)), pairs=(*task.pairs, other))
    lines = flips(both, decide(both, Constraints()))
    assert sum("No single price" in line for line in lines) == 1


def test_prices_are_those_of_the_front_and_the_runner_up() -> None:
    """A strategy that two others beat has no lines of its own, though it is eligible."""
    beaten = candidate("beaten", 0.5, 30.0)
    task = evidence(beaten)
    pair = Pair("good", "beaten", Measure(0.4, 0.3, 0.5), 0.001, 0.05, None, "good", "good", (LABEL._replace(cheaper_above="beaten"),))
    task = replace(task, pairs=(*task.pairs, pair))
    decision = decide(task, Constraints())
    assert "beaten" in decision.utilities
    assert "beaten" not in (*decision.front, decision.runner_up)
    assert not any("beaten" in line for line in flips(task, decision))


def test_no_crossing_is_no_line() -> None:
    task = evidence(break_even_requests=None, cheaper_below="cheap", cheaper_above="cheap")
    assert not any("requests" in line for line in flips(task, decide(task, Constraints())))
    assert flips(task, NOTHING) == []


def test_one_candidate_has_no_flips() -> None:
    task = evidence()
    alone = replace(task, candidates=task.candidates[:1], pairs=())
    assert flips(alone, decide(alone, Constraints())) == []
