from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cost_samples import ASSUMPTIONS, PRICES, add, choices, items, new_run, phase, rag_and_lora, trial

from bench.cost.assumptions import DEFAULT_ASSUMPTIONS, Assumptions, load_assumptions
from bench.cost.break_even import Crossing, crossing
from bench.cost.total import COLUMNS, TotalCosts, total_costs
from bench.errors import BenchError
from bench.result.schema import Tokens
from bench.result.store import RunFolder

CERTAIN = ASSUMPTIONS.model_copy(update={"price_factor": 1.0})


def costs(run: RunFolder, assumptions: Assumptions = ASSUMPTIONS, **options: Any) -> TotalCosts:
    return total_costs([run], PRICES, assumptions, **options)


def row(found: TotalCosts, strategy: str) -> dict[str, Any]:
    return next(row for row in found.strategies if row["strategy"] == strategy)


def assume(**changes: float) -> Assumptions:
    return ASSUMPTIONS.model_copy(update=changes)


# ------------------------------------------------------------------------------------------ by hand


def test_the_parts_of_both_strategies(tmp_path: Path) -> None:
    found = costs(rag_and_lora(tmp_path))
    rag, lora = row(found, "rag"), row(found, "lora")
    assert tuple(rag) == tuple(lora) == COLUMNS
    # Labels: 5 of validation, which chose top_k; and 20 to train on.
    assert (rag["n_labels"], rag["data_usd"], lora["n_labels"], lora["data_usd"]) == (5, 5.0, 25, 25.0)
    # RAG trains nothing: both trials are search. LoRA's kept trial of 20 s and the 30 s of seed 1 are one training, on average.
    assert (rag["search_usd"], rag["training_usd"], rag["index_usd"]) == pytest.approx((10, 0, 3))
    assert (lora["search_usd"], lora["training_usd"], lora["index_usd"]) == pytest.approx((60 - 20, 25, 0))
    assert (rag["setup_usd"], lora["setup_usd"]) == pytest.approx((18, 90))
    # 1 and 0.5 CPU seconds a request, on a device that works half of the time.
    assert (rag["usd_per_1000_requests"], lora["usd_per_1000_requests"]) == pytest.approx((2000, 1000))
    assert (rag["refresh"], rag["refresh_usd"]) == ("re-index, re-validate", pytest.approx(3 + 4))
    assert (lora["refresh"], lora["refresh_usd"]) == ("re-train", pytest.approx(25))
    assert (rag["storage_usd_per_month"], lora["storage_usd_per_month"]) == pytest.approx((1, 4))
    # 1,000 requests and 5 refreshes in 10 months.
    assert rag["total_usd"] == pytest.approx(18 + 5 * 7 + 10 * 1 + 2000)
    assert lora["total_usd"] == pytest.approx(90 + 5 * 25 + 10 * 4 + 1000)
    assert rag["total_usd_per_1000_requests"] == pytest.approx(2063)
    assert rag["usd_per_1000_correct"] == pytest.approx(2063 / 0.8)
    assert lora["usd_per_1000_correct"] == pytest.approx(1255 / 0.5)
    assert (rag["correct_share"], rag["wrong_share"], rag["missed_share"], rag["error_rate"]) == pytest.approx((0.8, 0.2, 0, 0.2))
    assert (rag["priced_by"], rag["batch_rows"], rag["status"], rag["reason"]) == ("cpu", 8, "ok", None)
    assert [price.name for price in found.prices] == ["cpu", "disk"]


def test_where_the_two_cost_the_same(tmp_path: Path) -> None:
    run = rag_and_lora(tmp_path)
    pair = costs(run).pairs[0]
    assert (pair["a"], pair["b"], pair["cheaper"]) == ("rag", "lora", "lora")
    volume, rate, price = 192, (2028 - 1130) / (10 * (25 - 7)), (2.063 - 1.255) / 0.3
    assert pair["break_even_requests"] == pytest.approx(volume)
    assert (pair["break_even_requests_below"], pair["break_even_requests_above"]) == ("rag", "lora")
    assert pair["break_even_refreshes_per_month"] == pytest.approx(rate)
    assert (pair["break_even_refreshes_per_month_below"], pair["break_even_refreshes_per_month_above"]) == ("lora", "rag")
    assert pair["break_even_error_usd"] == pytest.approx(price)
    assert (pair["break_even_error_usd_below"], pair["break_even_error_usd_above"]) == ("lora", "rag")
    assert (pair["error_rate_a"], pair["error_rate_b"]) == pytest.approx((0.2, 0.5))
    # At each of them, alone, the totals are equal.
    for changes in ({"requests_per_month": volume / 10}, {"refreshes_per_month": rate}, {"error_usd": price}):
        found = costs(run, assume(**changes))
        assert row(found, "rag")["total_usd"] == pytest.approx(row(found, "lora")["total_usd"]), changes
    with_price = costs(run, assume(error_usd=2.0))
    assert row(with_price, "rag")["errors_usd"] == pytest.approx(1000 * 2 * 0.2)
    assert row(with_price, "rag")["total_usd"] == pytest.approx(2063 + 400)
    assert with_price.pairs[0]["break_even_error_usd"] == pytest.approx(price)
    assert with_price.pairs[0]["break_even_requests"] == pytest.approx((255 - 63) / (2.4 - 2.0))


def test_quality_stands_beside(tmp_path: Path) -> None:
    run = new_run(tmp_path, ["good", "bad"])
    for name, right in (("good", 180), ("bad", 20)):
        add(run, name, items(right, 200), {"answer": phase(200)}, choices(), deterministic=True)
    pair = costs(run).pairs[0]
    assert (pair["value_a"], pair["value_b"], pair["difference"]) == pytest.approx((0.9, 0.1, 0.8))
    assert pair["verdict"] == "better"
    assert pair["p_holm"] < 0.001
    assert pair["difference_low"] < 0.8 < pair["difference_high"]


def test_one_that_costs_less_in_both_is_cheaper_at_any_volume(tmp_path: Path) -> None:
    run = new_run(tmp_path, ["dear", "cheap"])
    config = choices(retrieval={"search": "dense"})
    add(run, "dear", items(8), {"index": phase(9), "answer": phase(10)}, config, deterministic=True)
    add(run, "cheap", items(8), {"index": phase(1), "answer": phase(5)}, config, deterministic=True)
    pair = costs(run).pairs[0]
    assert pair["break_even_requests"] is None
    assert (pair["break_even_requests_low"], pair["break_even_requests_high"]) == (None, None)
    assert (pair["break_even_requests_below"], pair["break_even_requests_above"], pair["break_even_requests_share"]) == (
        "cheap",
        "cheap",
        1,
    )
    assert pair["break_even_error_usd"] is None  # they err alike
    assert pair["break_even_error_usd_above"] == "cheap"


def test_equal_costs_never_cross(tmp_path: Path) -> None:
    run = new_run(tmp_path, ["one", "two"])
    for name in ("one", "two"):
        add(run, name, items(8), {"answer": phase(10)}, choices(), deterministic=True)
    pair = costs(run).pairs[0]
    for key in ("break_even_requests", "break_even_refreshes_per_month", "break_even_error_usd"):
        assert (pair[key], pair[f"{key}_below"], pair[f"{key}_above"], pair[f"{key}_share"]) == (None, None, None, 1.0)
    assert (pair["cheaper"], pair["cheaper_share"], pair["verdict"]) == (None, 1.0, "not told apart")


# ------------------------------------------------------------------------------------------ crossings


def lines(*starts_and_slopes: list[float]) -> Crossing:
    return crossing(*(np.array(values, dtype=np.float64) for values in starts_and_slopes))


def test_a_crossing_needs_both_differences_of_one_sign() -> None:
    assert lines([63, 63], [2, 2], [255, 255], [1, 1]) == Crossing(192, 192, 192, 1.0, 0, 1)
    assert lines([255, 255], [1, 1], [63, 63], [2, 2]) == Crossing(192, 192, 192, 1.0, 1, 0)
    assert lines([1, 1], [1, 1], [2, 2], [2, 2]) == Crossing(None, None, None, 1.0, 0, 0)
    assert lines([1, 1], [2, 2], [1, 1], [1, 1]) == Crossing(None, None, None, 1.0, 1, 1)
    assert lines([1, 1], [1, 1], [2, 2], [1, 1]) == Crossing(None, None, None, 1.0, 0, 0)
    assert lines([1, 1], [1, 1], [1, 1], [1, 1]) == Crossing(None, None, None, 1.0, None, None)


def test_a_draw_without_a_crossing_lies_at_the_end_of_the_interval() -> None:
    """Of 100 draws 10 never cross, since a stays the cheaper one, and 10 cross at 0, since b is it from the start."""
    slope_a = np.concatenate([[2.0], np.full(80, 2.0), np.full(10, 0.5), np.full(10, 2.0)])
    start_b = np.concatenate([[10.0], np.full(80, 10.0), np.full(10, 10.0), np.full(10, -10.0)])
    found = crossing(np.zeros(101), slope_a, start_b, np.ones(101))
    assert found == Crossing(10, 0.0, None, 0.8, 0, 1)


def test_a_draw_that_crosses_the_other_way_tells_nothing_of_where() -> None:
    found = lines([0, 0, 10], [2, 2, 1], [10, 10, 0], [1, 1, 2])
    assert found == Crossing(10, 10, 10, 0.5, 0, 1)


# ------------------------------------------------------------------------------------------ uncertainty


def test_a_price_that_both_pay_cancels(tmp_path: Path) -> None:
    run = new_run(tmp_path, ["rag", "zero-shot"])
    add(run, "zero-shot", items(8), {"answer": phase(10)}, choices(), deterministic=True)
    add(run, "rag", items(8), {"index": phase(90), "answer": phase(5)}, choices(retrieval={"search": "dense"}), deterministic=True)
    at = (90 + 5 * (90 + 5)) / 1.0  # re-validating takes 5 requests at 1 USD
    for factor in (1.0, 4.0):
        pair = costs(run, assume(price_factor=factor)).pairs[0]
        found = [pair[f"break_even_requests{end}"] for end in ("", "_low", "_high")]
        assert found == pytest.approx([at] * 3)
    total = row(costs(run), "rag")
    # The median total is the measured one, and 95 % of log-uniform factors in [1/2, 2] lie within 2 ** -0.95 and 2 ** 0.95.
    assert total["total_usd_low"] == pytest.approx(total["total_usd"] * 2**-0.95, rel=0.03)
    assert total["total_usd_high"] == pytest.approx(total["total_usd"] * 2**0.95, rel=0.03)


def test_a_price_does_not_cancel_against_labels(tmp_path: Path) -> None:
    run = new_run(tmp_path, ["labels", "compute"])
    add(run, "compute", items(8), {"answer": phase(10)}, choices(), deterministic=True)
    add(run, "labels", items(8), {"answer": phase(5)}, choices(prompt={"shots": 4}), deterministic=True)
    pair = costs(run, assume(revalidate=False)).pairs[0]
    assert pair["break_even_requests"] == pytest.approx(4.0)  # 4 USD of labels against 1 USD less a request
    assert pair["break_even_requests_low"] == pytest.approx(4 * 2**-0.95, rel=0.03)
    assert pair["break_even_requests_high"] == pytest.approx(4 * 2**0.95, rel=0.03)


def test_prices_vary_independently_of_each_other(tmp_path: Path) -> None:
    run = new_run(tmp_path, ["cpu", "gpu"])
    add(run, "cpu", items(8), {"answer": phase(20)}, choices(), deterministic=True)
    environment = {"gpu": "NVIDIA L4"}
    add(run, "gpu", items(8), {"answer": phase(99, wall=10.5)}, choices(), deterministic=True, environment=environment)
    found = costs(run)
    assert row(found, "gpu")["usd_per_1000_requests"] == pytest.approx(1000 * 2 * 10.5 / 10 / 0.5)  # wall seconds, two dollars each
    assert found.pairs[0]["cheaper"] == "cpu"
    assert 0.5 < found.pairs[0]["cheaper_share"] < 0.8  # the same prices would say 1


def test_items_are_resampled(tmp_path: Path) -> None:
    run = new_run(tmp_path, ["zero-shot"])
    n = 400
    add(run, "zero-shot", items(200, n, latencies=[0.0, 2.0] * (n // 2)), {"answer": phase(n)}, choices(), deterministic=True)
    found = row(costs(run, CERTAIN), "zero-shot")
    assert found["usd_per_1000_requests"] == pytest.approx(2000)
    # The mean of 400 items that cost 0 or 4 USD: standard error 2 / sqrt(400).
    assert found["usd_per_1000_requests_low"] == pytest.approx(2000 - 1.96 * 100, rel=0.01)
    assert found["usd_per_1000_requests_high"] == pytest.approx(2000 + 1.96 * 100, rel=0.01)


def test_seeds_are_resampled(tmp_path: Path) -> None:
    run = new_run(tmp_path, ["lora"])
    config = choices(tuning={"method": "lora"})
    for seed, seconds in enumerate((10.0, 20.0, 30.0, 40.0)):
        add(run, "lora", items(5), {"tune": phase(seconds), "answer": phase(5)}, config, seed=seed)
    found = row(costs(run, CERTAIN), "lora")
    assert found["training_usd"] == pytest.approx(25)
    error = np.std([10, 20, 30, 40], ddof=1) / 2
    assert found["refresh_usd_high"] - found["refresh_usd_low"] == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_trials_are_resampled(tmp_path: Path) -> None:
    run = new_run(tmp_path, ["rag"])
    config = choices(retrieval={"search": "dense", "top_k": 0})
    trials = [trial(seconds, **{"retrieval.top_k": k}) for k, seconds in enumerate((5.0, 15.0) * 8)]
    add(run, "rag", items(5), {"validate": phase(160), "answer": phase(5)}, config, deterministic=True, trials=trials)
    found = row(costs(run, CERTAIN), "rag")
    assert found["search_usd"] == pytest.approx(160)
    assert found["setup_usd_high"] - found["setup_usd_low"] == pytest.approx(2 * 1.96 * math.sqrt(16) * 5, rel=0.1)


def test_the_same_seed_draws_the_same(tmp_path: Path) -> None:
    run = rag_and_lora(tmp_path)
    assert costs(run) == costs(run)
    assert costs(run, seed=1).strategies != costs(run).strategies
    assert [row["total_usd"] for row in costs(run, seed=1).strategies] == [row["total_usd"] for row in costs(run).strategies]


# ------------------------------------------------------------------------------------------ what a strategy rests on


@pytest.mark.parametrize(
    ("config", "trials", "labels", "refresh"),
    [
        (choices(), [], 0, "nothing"),
        (choices(prompt={"shots": 0, "constant": "majority"}), [], 20, "nothing"),
        (choices(prompt={"shots": 0, "constant": "abstain"}), [], 0, "nothing"),
        (choices(prompt={"shots": 4}), [], 4, "re-validate"),
        (choices(prompt={"shots": 4}), [trial(1, **{"prompt.shots": n}) for n in (4, 12, 8)], 12 + 5, "re-validate"),
        (choices(prompt={"shots": 4, "select": "nearest"}), [], 20, "re-index, re-validate"),
        (choices(retrieval={"search": "lexical"}), [], 0, "re-index, re-validate"),
        (choices(retrieval={"search": "oracle"}), [], 0, "nothing"),
        (choices(tuning={"method": "full", "train_on": ["documents"]}), [], 5, "re-train"),
        (choices(tuning={"method": "features"}), [], 20, "re-train"),
        (choices(retrieval={"search": "dense"}, tuning={"method": "lora"}), [], 25, "re-index, re-train"),
        # Fewer rows than the budget allows, and a budget that takes all of them.
        (choices(tuning={"method": "lora"}) | {"n_validation": 3}, [], 23, "re-train"),
        (choices(tuning={"method": "lora"}) | {"n_validation": 40, "budget": {"validation_examples": None}}, [], 60, "re-train"),
    ],
)
def test_labels_and_what_a_refresh_does_again(tmp_path: Path, config: Any, trials: list[Any], labels: int, refresh: str) -> None:
    run = new_run(tmp_path, ["one"])
    add(run, "one", items(5), {"tune": phase(6), "answer": phase(5)}, config, deterministic=True, trials=trials)
    found = row(costs(run), "one")
    assert (found["n_labels"], found["refresh"]) == (labels, refresh)


def test_a_refresh_can_take_new_labels_and_no_validation(tmp_path: Path) -> None:
    run = rag_and_lora(tmp_path)
    found = costs(run, ASSUMPTIONS.model_copy(update={"relabel_share": 0.2, "revalidate": False}))
    assert (row(found, "rag")["refresh"], row(found, "rag")["refresh_usd"]) == ("re-label, re-index", pytest.approx(0.2 * 5 + 3))
    assert (row(found, "lora")["refresh"], row(found, "lora")["refresh_usd"]) == ("re-label, re-train", pytest.approx(0.2 * 25 + 25))


def test_a_missed_answer_counts_by_its_weight(tmp_path: Path) -> None:
    run = new_run(tmp_path, ["zero-shot"])
    answers = items(5, missed=3)
    answers[5] = answers[5].model_copy(update={"answerable": False})  # rightly abstained: no error
    add(run, "zero-shot", answers, {"answer": phase(5)}, choices(), deterministic=True)
    for weight, rate in ((1.0, 0.4), (0.5, 0.3), (0.0, 0.2)):
        found = row(costs(run, assume(abstention_weight=weight)), "zero-shot")
        assert (found["correct_share"], found["wrong_share"], found["missed_share"]) == pytest.approx((0.5, 0.2, 0.2))
        assert found["error_rate"] == pytest.approx(rate)


# ------------------------------------------------------------------------------------------ the cache and hosted models


def test_without_a_cache_the_shared_prefix_is_paid_for(tmp_path: Path) -> None:
    run = new_run(tmp_path, ["few-shot", "majority"])
    answers = items(8, tokens=Tokens(prompt=10, prompt_cached=6, completion=2))
    add(run, "few-shot", answers, {"answer": phase(10)}, choices(prompt={"shots": 2}), deterministic=True)
    nothing = items(2, tokens=Tokens())
    add(run, "majority", nothing, {"answer": phase(0)}, choices(prompt={"constant": "majority"}), deterministic=True, artifact_bytes=None)
    found = costs(run)
    few = row(found, "few-shot")
    assert few["usd_per_1000_requests_cached"] == few["usd_per_1000_requests"] == pytest.approx(2000)
    # 10 + 2 tokens instead of 4 + 2.
    assert few["usd_per_1000_requests_not_cached"] == pytest.approx(4000)
    assert few["caching_estimated"]
    without = row(costs(run, assume(prefix_cached=False)), "few-shot")
    assert without["usd_per_1000_requests"] == pytest.approx(4000)
    floor = row(found, "majority")
    assert floor["floor"]
    assert (floor["usd_per_1000_requests"], floor["usd_per_1000_requests_not_cached"], floor["storage_usd_per_month"]) == (0, 0, 0)


def test_a_hosted_model_is_paid_by_tokens(tmp_path: Path) -> None:
    run = new_run(tmp_path, ["few-shot", "lora", "majority"])
    answers = items(8, tokens=Tokens(prompt=10, prompt_cached=6, completion=2))
    trials = [trial(9, **{"prompt.shots": n}) for n in (2, 4, 8)]
    add(run, "few-shot", answers, {"validate": phase(27), "answer": phase(10)}, choices(prompt={"shots": 2}), trials=trials)
    add(run, "lora", items(8), {"tune": phase(6), "answer": phase(5)}, choices(tuning={"method": "lora"}))
    add(run, "majority", items(8), {"answer": phase(5)}, choices(prompt={"constant": "majority"}), artifact_bytes=None)
    found = costs(run, price_model="hosted")
    few = row(found, "few-shot")
    assert (few["priced_by"], few["caching_estimated"], few["batch_rows"]) == ("hosted", False, None)
    request = 4 * 1 + 6 * 0.5 + 2 * 4
    assert few["usd_per_1000_requests"] == pytest.approx(1000 * request)  # no idle time in a price per token
    assert few["usd_per_1000_requests_not_cached"] == pytest.approx(1000 * (10 + 2 * 4))
    assert few["search_usd"] == pytest.approx(3 * 5 * request)  # three trials on five validation examples
    assert few["refresh_usd"] == pytest.approx(5 * request)
    assert row(found, "lora")["priced_by"] == row(found, "majority")["priced_by"] == "cpu"
    assert row(found, "lora")["usd_per_1000_requests"] == pytest.approx(1000)
    assert {price.name for price in found.prices} == {"hosted", "cpu"}
    with pytest.raises(BenchError, match='model "hostel"'):
        costs(run, price_model="hostel")


# ------------------------------------------------------------------------------------------ what is missing


def test_failed_partial_and_oracle(tmp_path: Path) -> None:
    run = new_run(tmp_path, ["zero-shot", "rag-oracle", "lora", "full", "first-sentence"])
    add(run, "zero-shot", items(8), {"answer": phase(10)}, choices(), deterministic=True)
    add(run, "rag-oracle", items(10), {"answer": phase(10)}, choices(retrieval={"search": "oracle"}), deterministic=True)
    add(run, "lora", items(8), {"tune": phase(6), "answer": phase(5)}, choices(tuning={"method": "lora"}))
    add(run, "lora", items(8), {}, {}, seed=1, status="failed", error="diverged\nat step 3")
    add(run, "full", items(8), {}, {}, status="failed", error="out of memory")
    add(run, "first-sentence", items(8), {}, {}, status="skipped", error="no summaries")
    found = costs(run)
    assert [(r["strategy"], r["status"], r["reason"]) for r in found.strategies] == [
        ("zero-shot", "ok", None),
        ("rag-oracle", "ok", None),
        ("lora", "partial", "diverged at step 3"),
        ("full", "failed", "out of memory"),
        ("first-sentence", "skipped", "no summaries"),
    ]
    assert row(found, "full")["total_usd"] is None
    assert row(found, "lora")["training_usd"] == pytest.approx(6)
    assert row(found, "rag-oracle")["oracle"]
    assert [(pair["a"], pair["b"]) for pair in found.pairs] == [("zero-shot", "lora")]


def test_one_strategy_has_no_pair(tmp_path: Path) -> None:
    run = new_run(tmp_path, ["zero-shot"])
    add(run, "zero-shot", items(1, n=1), {"answer": phase(1)}, choices(), deterministic=True)
    found = costs(run)
    assert found.pairs == []
    assert row(found, "zero-shot")["total_usd"] == pytest.approx(2000)


def test_no_right_answer_has_no_price(tmp_path: Path) -> None:
    run = new_run(tmp_path, ["zero-shot"])
    add(run, "zero-shot", items(0), {"answer": phase(10)}, choices(), deterministic=True)
    found = row(costs(run), "zero-shot")
    assert (found["correct_share"], found["usd_per_1000_correct"], found["usd_per_1000_correct_high"]) == (0, None, None)
    add(run, "zero-shot", items(1), {"answer": phase(10)}, choices(), deterministic=True)
    found = row(costs(run), "zero-shot")
    assert found["usd_per_1000_correct"] == pytest.approx(20_000)
    assert found["usd_per_1000_correct_high"] is None  # a third of the draws has no right answer


def test_a_device_without_a_price_is_said_and_never_free(tmp_path: Path) -> None:
    run = new_run(tmp_path, ["zero-shot", "rag"])
    add(run, "zero-shot", items(8), {"answer": phase(10)}, choices(), deterministic=True)
    environment = {"gpu": "NVIDIA Z9"}
    add(run, "rag", items(8), {"answer": phase(1)}, choices(), deterministic=True, environment=environment)
    found = costs(run)
    assert 'no price for the device "NVIDIA Z9"' in row(found, "rag")["reason"]
    assert row(found, "rag")["usd_per_1000_requests"] is None
    assert row(found, "zero-shot")["total_usd"] == pytest.approx(2000)
    assert found.pairs == []
    add(run, "zero-shot", items(8), {"answer": phase(10)}, choices(), deterministic=True, environment=environment)
    with pytest.raises(BenchError, match='no price for the device "NVIDIA Z9"'):
        costs(run)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {}}, "config.strategy"),
        ({"phases": {}}, "no answer phase"),
        ({"artifact_bytes": None}, "artifact_bytes"),
        ({"trials": [trial(1, **{"prompt.shots": 3})]}, "none of its 1 trials"),
    ],
)
def test_a_record_that_lacks_something(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    run = new_run(tmp_path, ["zero-shot"])
    phases = changes.pop("phases", {"answer": phase(10)})
    add(run, "zero-shot", items(8), phases, changes.pop("config", choices()), deterministic=True, **changes)
    with pytest.raises(BenchError, match=message):
        costs(run)


def test_storage_without_a_price(tmp_path: Path) -> None:
    run = rag_and_lora(tmp_path)
    with pytest.raises(BenchError, match="no price for storage"):
        total_costs([run], PRICES.model_copy(update={"storage": None}), ASSUMPTIONS)


def test_an_unknown_task(tmp_path: Path) -> None:
    run = rag_and_lora(tmp_path)
    assert costs(run, task="support") == costs(run)
    with pytest.raises(BenchError, match='--task "suport": no such task in the runs; did you mean "support"'):
        costs(run, task="suport")


def test_two_runs_together(tmp_path: Path) -> None:
    """A strategy of another run is read, and a cell of both from the last."""
    first, second = rag_and_lora(tmp_path / "a"), new_run(tmp_path / "b", ["zero-shot"])
    add(second, "zero-shot", items(8), {"answer": phase(10)}, choices(), deterministic=True)
    found = total_costs([first, second], PRICES, ASSUMPTIONS)
    assert [r["strategy"] for r in found.strategies] == ["rag", "lora", "zero-shot"]
    assert len(found.pairs) == 3


# ------------------------------------------------------------------------------------------ assumptions


def test_a_file_stands_over_the_assumptions_of_the_package(tmp_path: Path) -> None:
    standard = load_assumptions()
    assert standard.price_factor == 2
    file = tmp_path / "mine.yaml"
    file.write_text("requests_per_month: 5\nhorizon_months: 3\n")
    mine = load_assumptions(file)
    assert (mine.requests, mine.refreshes) == (15, 3 * standard.refreshes_per_month)
    assert mine == standard.model_copy(update={"requests_per_month": 5.0, "horizon_months": 3.0})
    documented = {line.split(":")[0] for line in DEFAULT_ASSUMPTIONS.read_text().splitlines() if line and not line.startswith("#")}
    assert documented == set(Assumptions.model_fields)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("request_per_month: 5", 'unknown key "request_per_month"; did you mean "requests_per_month"'),
        ("utilisation: 0", "utilisation: found 0, expected greater than 0"),
        ("utilisation: 2", "utilisation: found 2"),
        ("horizon_months: .nan", "horizon_months: found nan"),
        ("requests_per_month: .inf", "requests_per_month: found inf"),
        ("price_factor: 0.5", "price_factor: found 0.5"),
        ("revalidate: maybe", "revalidate: found"),
        ("- 1", "found list, expected keys and values"),
        ("a: [", "is no valid YAML"),
    ],
)
def test_a_wrong_file_of_assumptions(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(BenchError) as caught:
        load_assumptions(file)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


def test_no_file_of_assumptions(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"none\.yaml: cannot be read"):
        load_assumptions(tmp_path / "none.yaml")
