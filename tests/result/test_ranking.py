from __future__ import annotations

import math

import numpy as np
import pytest
from result_samples import GIB, make_phase, make_record, scored

from bench.result.arms import Arm
from bench.result.ranking import Entrant, mean_of_sums, mean_rows, rank_entrants, readings
from bench.result.schema import Phase
from bench.result.statistics import macro_f1_of_sums, macro_f1_rows


def alone(n: int) -> list[str]:
    return [str(i) for i in range(n)]


def entrant(*seeds: np.ndarray, **costs: list[float]) -> Entrant:
    return Entrant(mean_rows(np.stack(seeds).astype(float)), {axis: np.array(values) for axis, values in costs.items()})


def test_arms_far_apart_have_one_rank_each() -> None:
    generator = np.random.default_rng(0)
    arms = [entrant(generator.random(400) < rate) for rate in (0.2, 0.9, 0.5)]
    found = rank_entrants(arms, alone(400))
    assert found is not None
    assert [(r.rank, r.low, r.high, r.p_best) for r in found] == [(3, 3, 3, 0.0), (1, 1, 1, 1.0), (2, 2, 2, 0.0)]
    lower = rank_entrants(arms, alone(400), higher_is_better=False)
    assert lower is not None
    assert [r.rank for r in lower] == [1, 3, 2]


def test_p_best_of_two_is_the_share_that_the_normal_distribution_says() -> None:
    generator = np.random.default_rng(1)
    a, b = generator.normal(size=500), generator.normal(size=500)
    found = rank_entrants([entrant(a), entrant(b)], alone(500), n_draws=4000)
    assert found is not None
    z = (a - b).mean() / ((a - b).std(ddof=1) / math.sqrt(500))
    assert found[0].p_best == pytest.approx(0.5 * (1 + math.erf(z / math.sqrt(2))), abs=0.02)
    assert found[0].p_best + found[1].p_best == pytest.approx(1)


def test_the_same_item_draw_for_all_keeps_strategies_paired() -> None:
    # B is A on every item but 12: unpaired draws would often put B first, paired ones almost never do.
    a = (np.random.default_rng(2).random(300) < 0.5).astype(float)
    b = a.copy()
    b[np.flatnonzero(a)[:12]] = 0
    found = rank_entrants([entrant(a), entrant(b)], alone(300))
    assert found is not None
    assert found[0].p_best > 0.99


def test_equal_strategies_share_the_best_and_cover_all_ranks() -> None:
    same = (np.random.default_rng(3).random(100) < 0.5).astype(float)
    found = rank_entrants([entrant(same), entrant(same), entrant(np.zeros(100))], alone(100))
    assert found is not None
    assert [(r.rank, r.low, r.high) for r in found] == [(1, 1, 2), (1, 1, 2), (3, 3, 3)]
    assert found[0].p_best == pytest.approx(0.5)


def test_seeds_count_with_their_whole_variance() -> None:
    # No variance over items: what is drawn is seeds alone. Ten of them are near normal, with variance var / 10 of their mean.
    values = np.random.default_rng(4).normal(0.5, 0.1, 10)
    ahead = values.mean() + 0.02
    found = rank_entrants([entrant(*[np.full(50, v) for v in values]), entrant(np.full(50, ahead))], alone(50), n_draws=8000)
    assert found is not None
    z = -0.02 / math.sqrt(values.var(ddof=1) / 10)
    assert found[0].p_best == pytest.approx(0.5 * (1 + math.erf(z / math.sqrt(2))), abs=0.02)
    # Two seeds, .1 from their mean: a quarter of the draws takes the better one twice, which stands for .1 * sqrt(2) above it.
    for reference, expected in [(0.63, 0.25), (0.65, 0.0)]:
        pair = rank_entrants([entrant(np.full(50, 0.4), np.full(50, 0.6)), entrant(np.full(50, reference))], alone(50))
        assert pair is not None
        assert pair[0].p_best == pytest.approx(expected, abs=0.03)


def test_items_of_one_cluster_are_drawn_together() -> None:
    generator = np.random.default_rng(5)
    ahead = np.repeat(generator.normal(0.12, 1, 40), 25)
    clustered = rank_entrants([entrant(ahead), entrant(np.zeros(1000))], [str(i // 25) for i in range(1000)])
    naive = rank_entrants([entrant(ahead), entrant(np.zeros(1000))], alone(1000))
    assert clustered is not None
    assert naive is not None
    assert abs(clustered[0].p_best - 0.5) < abs(naive[0].p_best - 0.5)


def test_macro_f1_is_computed_again_in_every_draw() -> None:
    generator = np.random.default_rng(6)
    labels = ["a", "b", "c"]
    gold = list(generator.choice(labels, 200))
    good = [g if generator.random() < 0.8 else "a" for g in gold]
    arms = [Entrant(macro_f1_rows(gold, said, labels)[None]) for said in (["a"] * 200, good)]
    found = rank_entrants(arms, alone(200), macro_f1_of_sums)
    assert found is not None
    assert [(r.rank, r.p_best, r.p_pareto) for r in found] == [(2, 0.0, None), (1, 1.0, None)]


# The Pareto front


def test_the_front_by_hand() -> None:
    generator = np.random.default_rng(7)
    good, bad = (generator.random(400) < 0.9).astype(float), (generator.random(400) < 0.2).astype(float)
    arms = [
        entrant(good, cost=[10.0], memory=[1.0]),
        entrant(bad, cost=[1.0], memory=[1.0]),  # worse and cheaper
        entrant(bad, cost=[10.2], memory=[1.01]),  # worse, and as dear as the first
        entrant(bad, cost=[1.03], memory=[1.0]),  # as the second: 3 % dearer is noise
    ]
    found = rank_entrants(arms, alone(400))
    assert found is not None
    assert [r.p_pareto for r in found] == [1.0, 1.0, 0.0, 1.0]


def test_seeds_carry_their_own_readings_and_an_axis_that_some_lack_is_used_for_none() -> None:
    good = np.ones(100)
    # As often cheaper as dearer than the other, which is just as good.
    found = rank_entrants([entrant(good, good, cost=[1.0, 3.0]), entrant(good, cost=[2.0])], alone(100))
    assert found is not None
    assert found[0].p_pareto == pytest.approx(0.75, abs=0.04)  # mean of two draws: 1, 2, 2 or 3
    assert rank_entrants([entrant(good, cost=[1.0]), entrant(good, memory=[2.0])], alone(100))[0].p_pareto is None  # type: ignore[index]


# Edges


def test_no_ranks_from_one_cluster_and_the_same_items_for_all() -> None:
    assert rank_entrants([entrant(np.ones(3)), entrant(np.zeros(3))], ["a"] * 3) is None
    with pytest.raises(ValueError, match="same items"):
        rank_entrants([entrant(np.ones(3)), entrant(np.ones(4))], alone(3))
    with pytest.raises(ValueError, match="same items"):
        rank_entrants([], [])


def test_undefined_scores_are_no_part_of_a_mean() -> None:
    table = np.array([[1.0, math.nan, 0.0], [math.nan, math.nan, 1.0]])
    assert mean_of_sums(mean_rows(table).sum(axis=1)) == pytest.approx([0.5, 1.0])
    assert math.isnan(float(mean_of_sums(np.zeros(2))))


def test_it_is_seeded() -> None:
    generator = np.random.default_rng(8)
    arms = [entrant(generator.random(60) < 0.5) for _ in range(3)]
    assert rank_entrants(arms, alone(60)) == rank_entrants(arms, alone(60))
    assert rank_entrants(arms, alone(60)) != rank_entrants(arms, alone(60), seed=1)


# Readings


def arm(*phases: dict[str, Phase]) -> Arm:
    items = scored(0.5)
    return Arm("t", "m", "s", tuple(make_record("t", "s", seed, items, phases=p) for seed, p in enumerate(phases)), ())


def test_readings_are_per_seed_in_the_units_of_the_axes() -> None:
    found = readings([arm({"load": make_phase(9.0, peak_rss_bytes=3 * GIB), "answer": make_phase(1.2)}, {"answer": make_phase(2.4)})])
    assert (found.cost_kind, found.memory_kind) == ("cpu", "rss")
    assert found.costs[0]["latency"] == pytest.approx([10, 20])
    assert found.costs[0]["cost"] == pytest.approx([20, 40])
    assert found.costs[0]["memory"] == pytest.approx([3 * GIB, GIB])


def test_what_is_not_measured_alike_is_no_axis() -> None:
    gpu = arm({"answer": make_phase(1.2, device_seconds=0.6, peak_gpu_allocated_bytes=GIB)})
    cpu = arm({"answer": make_phase(1.2)})
    assert readings([gpu]).cost_kind == "device"
    assert readings([gpu]).costs[0]["cost"] == pytest.approx([5])
    both = readings([gpu, cpu])
    assert (both.cost_kind, both.memory_kind) == ("cpu", None)
    assert "memory" not in both.costs[0]
    none = readings([arm({"load": make_phase(1.0, peak_rss_bytes=None)}), cpu])
    assert none.costs == [{}, {}]
