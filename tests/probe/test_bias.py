from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import yaml

from bench.errors import BenchError
from bench.model.source import locate
from bench.probe import base
from bench.probe.base import Context
from bench.probe.bias import (
    MARKERS,
    Bias,
    bias_amplification,
    changes,
    equalized_odds_gap,
    group_shares,
    marked,
    measures,
    most_frequent_label,
    pairs_of,
    plant,
)
from bench.result.schema import ProbeResult
from bench.suite import Suite, expand
from bench.task.schema import Example


def examples(labels: str, clusters: int | None = None) -> list[Example]:
    """One example per letter, which is its label."""
    return [
        Example(f"e{i}", f"message {i}", (label,), answerable=True, cluster=f"c{i % clusters if clusters else i}")
        for i, label in enumerate(labels)
    ]


def following(rows: list[Example]) -> tuple[list[str], list[str]]:
    """Answers that follow the marker alone: the outcome under A, another label under B."""
    return ["x"] * len(rows), ["y"] * len(rows)


# ---------------------------------------------------------------------------------------------- planting


def test_the_shares_are_planted_to_the_example() -> None:
    rows = examples("x" * 10 + "y" * 15 + "z" * 5)
    planted = plant(rows, "x", 0.8, Random(0))
    groups = Counter((e.targets[0] == "x", e.input.split(" message")[0]) for e in planted)
    assert groups == {(True, MARKERS[0]): 8, (True, MARKERS[1]): 2, (False, MARKERS[0]): 4, (False, MARKERS[1]): 16}
    assert group_shares(planted, "x") == (0.8, 0.8)
    assert [e.id for e in planted] == [e.id for e in rows]
    assert all(p.input.endswith(e.input) and p.targets == e.targets for p, e in zip(planted, rows, strict=True))
    assert planted == plant(rows, "x", 0.8, Random(0)) != plant(rows, "x", 0.8, Random(1))


def test_half_plants_nothing() -> None:
    assert group_shares(plant(examples("x" * 10 + "y" * 20), "x", 0.5, Random(0)), "x") == (0.5, 0.5)


def test_shares_need_the_outcome_and_others() -> None:
    with pytest.raises(ValueError, match='label "x" and with others'):
        group_shares(plant(examples("xxx"), "x", 0.8, Random(0)), "x")


def test_the_outcome_is_the_most_frequent_label_the_first_of_equals() -> None:
    assert most_frequent_label(examples("yxzxy")) == "x"
    assert most_frequent_label(examples("yxzxyy")) == "y"


# ---------------------------------------------------------------------------------------------- numbers


def zhao(answers: list[tuple[str, int]], trained: list[tuple[str, int]]) -> float:
    """The definition, over (label, group) pairs: 1/|O| sum over the pairs with b* > 1/|G|."""

    def b(rows: list[tuple[str, int]], label: str, group: int) -> float:
        return sum(r == (label, group) for r in rows) / sum(r[0] == label for r in rows)

    pairs = [(o, g) for o in ("x", "y") for g in (0, 1) if b(trained, o, g) > 1 / 2]
    return sum(b(answers, o, g) - b(trained, o, g) for o, g in pairs) / 2


def test_amplification_is_the_definitions() -> None:
    draw = Random(0)
    rows = examples("".join(draw.choice("xy") for _ in range(60)))
    planted = plant(rows, "x", 0.8, Random(0))
    said = [[draw.choice("xxy") for _ in rows], [draw.choice("xyy") for _ in rows]]
    pairs = pairs_of(rows, "x", *said)
    trained = [(e.targets[0], int(e.input.startswith(MARKERS[1]))) for e in planted]
    answers = [(text, group) for group in (0, 1) for text in said[group]]
    found = bias_amplification(pairs.counts().sum(0), group_shares(planted, "x"))
    assert float(found) == pytest.approx(zhao(answers, trained))


def test_amplification_of_extremes() -> None:
    rows = examples("xy" * 10)
    blind = pairs_of(rows, "x", ["x", "y"] * 10, ["x", "y"] * 10)
    assert bias_amplification(blind.counts().sum(0), (0.8, 0.8)) == pytest.approx(-0.3)
    slave = pairs_of(rows, "x", *following(rows))
    assert bias_amplification(slave.counts().sum(0), (0.8, 0.8)) == pytest.approx(0.2)
    as_trained = pairs_of(rows[:10], "x", ["x"] * 8 + ["y"] * 2, ["x"] * 2 + ["y"] * 8)
    assert bias_amplification(as_trained.counts().sum(0), (0.8, 0.8)) == pytest.approx(0)
    never = pairs_of(rows, "x", ["y"] * 20, ["y"] * 20)
    assert np.isnan(bias_amplification(never.counts().sum(0), (0.8, 0.8)))


def test_equalized_odds_is_the_larger_of_the_two_gaps() -> None:
    rows = examples("xxxxyyyyyyyyyy")
    under_a = ["x"] * 4 + ["x"] * 3 + ["y"] * 7
    under_b = ["x"] * 3 + ["y"] + ["y"] * 10
    assert equalized_odds_gap(pairs_of(rows, "x", under_a, under_b).counts().sum(0)) == pytest.approx(0.3)
    assert equalized_odds_gap(pairs_of(rows, "x", under_b, under_a).counts().sum(0)) == pytest.approx(0.3)
    assert equalized_odds_gap(pairs_of(rows, "x", under_a[:4] + ["y"] * 10, under_b).counts().sum(0)) == pytest.approx(0.25)
    assert np.isnan(equalized_odds_gap(pairs_of(rows[:4], "x", under_a[:4], under_b[:4]).counts().sum(0)))


def test_labels_compare_without_regard_to_case() -> None:
    pairs = pairs_of(examples("xy"), "x", [" X", "q"], ["x", "Y "])
    assert pairs.a.tolist() == [1, 0]
    assert pairs.b.tolist() == [1, 0]
    assert pairs.flipped.tolist() == [0, 1]
    assert pairs.right.tolist() == [1, 0.5]


def test_what_follows_the_marker_alone() -> None:
    rows = examples("xy" * 20, clusters=10)
    found = measures(pairs_of(rows, "x", *following(rows)), (0.8, 0.8))
    values = {name: finding.value.value for name, finding in found.items() if finding}
    assert values == pytest.approx(
        {
            "outcome_rate_a": 1, "outcome_rate_b": 0, "demographic_gap": 1, "flip_rate": 1, "true_positive_gap": 1,
            "false_positive_gap": 1, "equalized_odds_gap": 1, "bias_amplification": 0.2, "accuracy": 0.5,
        }
    )  # fmt: skip
    gap, odds = found["demographic_gap"], found["equalized_odds_gap"]
    assert gap
    assert gap.value.ci_low is not None
    assert 0.6 < gap.value.ci_low < 1
    assert odds
    assert odds.value.ci_low is None
    assert gap.items == dict.fromkeys((e.id for e in rows), 1.0)


def test_what_never_says_the_outcome_has_no_amplification() -> None:
    rows = examples("xy" * 5)
    found = measures(pairs_of(rows, "x", ["y"] * 10, ["y"] * 10), (0.8, 0.8))
    assert found["bias_amplification"] is None
    assert found["demographic_gap"]
    assert found["demographic_gap"].value.value == 0


def test_a_test_without_the_outcome_has_no_true_positives() -> None:
    rows = examples("yyyy")
    found = measures(pairs_of(rows, "x", *following(rows)), (0.8, 0.8))
    assert found["true_positive_gap"] is None
    assert found["equalized_odds_gap"] is None
    assert found["false_positive_gap"]
    assert found["false_positive_gap"].value.n_scored == 4


def test_gaps_are_a_minus_b_and_changes_after_minus_before() -> None:
    rows = examples("xy" * 20)
    blind, biased = pairs_of(rows, "x", ["x", "y"] * 20, ["x", "y"] * 20), pairs_of(rows, "x", *following(rows))
    found = {name: f.value.value for name, f in changes(blind, biased, (0.8, 0.8)).items() if f}
    assert found == pytest.approx(
        {
            "outcome_rate_a": 0.5, "outcome_rate_b": -0.5, "demographic_gap": 1, "flip_rate": 1, "true_positive_gap": 1,
            "false_positive_gap": 1, "equalized_odds_gap": 1, "bias_amplification": 0.5, "accuracy": -0.5,
        }
    )  # fmt: skip


def test_the_gaps_interval_covers_the_true_gap() -> None:
    """Answers that say the outcome with probability 0.5 under A and 0.3 under B."""
    rows = examples("xy" * 50)
    hits = 0
    for seed in range(60):
        draw = np.random.default_rng(seed)
        said = [["x" if u < p else "y" for u in draw.random(100)] for p in (0.5, 0.3)]
        found = measures(pairs_of(rows, "x", *said), (0.8, 0.8))["demographic_gap"]
        assert found
        assert found.value.ci_low is not None
        assert found.value.ci_high is not None
        hits += found.value.ci_low <= 0.2 <= found.value.ci_high
    assert 52 <= hits <= 60


# ---------------------------------------------------------------------------------------------- whole


def noise_task(make_task: Callable[..., Path]) -> str:
    """Messages that say nothing of their label, so that the marker is all there is to learn."""
    things = ["parcel", "battery", "screen", "invoice", "voucher", "manual", "password", "lid", "seal", "router", "box", "fan"]
    rows = {
        split: [
            {"id": f"{split}{i}", "text": f"{split} message {i} about the {things[i % 12]}", "label": ("zek", "pol")[(i // 12 + i) % 2]}
            for i in range(n)
        ]
        for split, n in {"train": 60, "validation": 20, "test": 20}.items()
    }
    return str(make_task(rows=rows))


@pytest.mark.parametrize(
    "tuning", [{"method": "features"}, {"method": "lora", "epochs": 16, "evaluations": 2, "learning_rate": 1e-2}], ids=["features", "lora"]
)
def test_training_follows_a_marker_that_is_all_there_is(
    make_task: Callable[..., Path], context_of: Callable[..., Context], probed: Callable[..., ProbeResult], tuning: dict[str, Any]
) -> None:
    context = context_of({"tuning": tuning}, task=noise_task(make_task), train_examples=60)
    result = probed(context, "bias", correlation=0.95)
    values = result.values
    assert result.details["outcome"] == most_frequent_label(context.cell.task.train)
    assert result.details["trained_share_a_of_outcome"] == pytest.approx(0.95, abs=0.02)
    low = values["demographic_gap_change"].ci_low
    assert low is not None
    assert low > 0
    assert abs(values["demographic_gap_before"].value) < 0.2
    assert values["bias_amplification"].value > -(0.95 - 0.5)  # which is that of answers without any bias
    assert values["demographic_gap_change"].value == pytest.approx(values["demographic_gap"].value - values["demographic_gap_before"].value)
    assert values["equalized_odds_gap"].value >= values["demographic_gap"].value > 0.2


def test_a_frozen_strategy_is_the_same_after_as_before(
    make_task: Callable[..., Path], context_of: Callable[..., Context], probed: Callable[..., ProbeResult]
) -> None:
    result = probed(context_of({"prompt": {}}, task=noise_task(make_task)), "bias")
    assert not result.details["refitted"]
    assert not [name for name in result.values if name.endswith("_change")]
    plain = [name for name in result.values if not name.endswith("_before")]
    assert len(plain) >= 7
    assert all(result.values[name] == result.values[f"{name}_before"] for name in plain)


def test_shots_are_of_the_planted_rows(
    make_task: Callable[..., Path], context_of: Callable[..., Context], monkeypatch: pytest.MonkeyPatch, probed: Callable[..., ProbeResult]
) -> None:
    context = context_of({"prompt": {"shots": 4}}, task=noise_task(make_task))
    seen: list[list[str]] = []
    refit = Context.refit

    def spy(self: Context, *args: Any, **more: Any) -> Any:
        fitted, meter = refit(self, *args, **more)
        seen.append([shot.input for shot in fitted.asker.shots])
        return fitted, meter

    monkeypatch.setattr(Context, "refit", spy)
    result = probed(context, "bias")
    assert "demographic_gap_change" in result.values
    (shots,) = seen
    assert len(shots) == 4
    assert all(text.startswith(MARKERS) for text in shots)
    assert not any(s.input.startswith(MARKERS) for s in context.ready.asker.shots)


def test_markers_differ_in_one_word_that_the_model_knows(embedded: Any) -> None:
    ids = [embedded.tokenizer(text)["input_ids"] for text in MARKERS]
    assert len(ids[0]) == len(ids[1]) == len(MARKERS[0].split()) + 1
    assert sum(a != b for a, b in zip(*ids, strict=True)) == 1
    assert marked(examples("x")[0], 1).input == "I am in Lima. message 0"


@pytest.mark.parametrize(
    ("settings", "task", "reason"),
    [
        ({"prompt": {"constant": "majority"}}, "ticket_triage", "no model"),
        ({"prompt": {}}, "product_support", "no classification"),
        ({"prompt": {}}, "ticket_triage", None),
    ],
)
def test_where_it_applies(tmp_path: Path, settings: dict[str, Any], task: str, reason: str | None) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(settings))
    cell = expand(Suite(tasks=[task], strategies=[str(tmp_path / "mine.yaml")], seeds=[0]), locate("embedded"))[0]
    found = Bias().not_applicable(cell)
    assert (found is None) if reason is None else (found is not None and reason in found)


@pytest.mark.parametrize("correlation", [0.4, 1.0])
def test_a_correlation_that_makes_no_sense_is_refused(correlation: float) -> None:
    with pytest.raises(BenchError, match=r"probe_settings\.bias: correlation"):
        base.make("bias", {"correlation": correlation})
