import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from bench.errors import BenchError
from bench.model.source import locate
from bench.probe import base, leakage
from bench.probe.base import Context
from bench.probe.leakage import Canary, Leakage, area, attack, bits, caught, draw_names, exposure, exposures, losses, rate, secret_space
from bench.result.schema import ProbeResult
from bench.strategy.prompt import PromptChoice, answer_text
from bench.suite import Cell, Suite, expand
from bench.task.load import load_task

LORA = {"tuning": {"method": "lora", "epochs": 8, "evaluations": 1, "learning_rate": 5e-3}}


def cell_of(folder: Path, settings: dict[str, Any], task: str, **suite: Any) -> Cell:
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump(settings))
    return expand(Suite(tasks=[task], strategies=[str(file)], seeds=[0], **suite), locate("embedded"))[0]


# ---------------------------------------------------------------------------------------------- exposure


def test_exposure_is_all_bits_for_the_likeliest_secret_and_none_for_the_last() -> None:
    scores = [-float(i) for i in range(1024)]
    assert exposure(scores, 0) == 10
    assert exposure(scores, 1) == 9
    assert exposure(scores, 1023) == 0


def test_equal_candidates_share_the_mean_of_their_ranks() -> None:
    assert exposure([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 3) == pytest.approx(math.log2(7) - math.log2(4))
    assert exposure([1.0, 0.0, 0.0, -1.0], 1) == pytest.approx(2 - math.log2(2.5))


def test_the_mean_exposure_of_a_secret_that_nothing_is_known_of() -> None:
    """log2 N - log2(N!) / N, about 1 / ln 2."""
    scores = list(range(1024))
    mean = sum(exposure(scores, i) for i in scores) / 1024
    assert mean == pytest.approx(10 - math.lgamma(1025) / math.log(2) / 1024)
    assert mean == pytest.approx(1 / math.log(2), abs=0.01)


def test_a_rank_is_that_of_the_secrets_loss_after_the_prompt(context_of: Callable[..., Context]) -> None:
    context = context_of({"prompt": {}})
    space = secret_space(random.Random(0))[:70]  # more than are scored at once
    canaries = [Canary("a", "Zorwen", space[0], 1), Canary("b", "Kelgor Max", space[69], 1)]
    requests = context.requests([c.example() for c in canaries])
    model = context.ready.model
    found = exposures(model, PromptChoice(), canaries, requests, space)
    for canary, request, value in zip(canaries, requests, found, strict=True):
        pairs = [model.training_ids(request.prompt.messages, secret) for secret in space]
        pairs = [(ids[:-1], n) for ids, n in pairs]  # without the end token
        nats = [loss * (len(ids) - n) for loss, (ids, n) in zip(losses(model, pairs), pairs, strict=True)]
        rank = sum(x <= nats[space.index(canary.secret)] for x in nats)
        assert value == pytest.approx(math.log2(70) - math.log2(rank))


def test_secrets_are_pairs_of_words_each_once() -> None:
    space = secret_space(random.Random(3))
    assert len(set(space)) == 1024
    assert all(len(secret.split()) == 2 for secret in space)
    assert space == secret_space(random.Random(3)) != secret_space(random.Random(4))


def test_the_interval_of_exposures_stays_within_the_bits_that_there_are() -> None:
    ceiling = bits({"a": 10.0, "b": 10.0, "c": None}).value
    assert (ceiling.value, ceiling.ci_low, ceiling.ci_high, ceiling.n_undefined) == (10, None, None, 1)
    wide = bits({"a": 10.0, "b": 0.5, "c": 10.0}).value
    assert (wide.ci_low, wide.ci_high) == (0, 10)
    four = bits({"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}).value
    assert four.ci_low == pytest.approx(2.5 - 3.182 * math.sqrt(5 / 3) / 2, abs=0.001)


# ---------------------------------------------------------------------------------------------- membership


def test_the_area_is_scikit_learns_ties_included() -> None:
    from sklearn.metrics import roc_auc_score

    draw = np.random.default_rng(0)
    rows = np.stack([draw.integers(0, 6, 80), draw.integers(0, 2, 80)], axis=1).astype(float)
    assert area(rows) == pytest.approx(roc_auc_score(rows[:, 1], rows[:, 0]))
    assert math.isnan(area(rows[rows[:, 1] == 1]))


def test_members_are_caught_above_all_but_one_in_a_hundred_others() -> None:
    others = [[float(i), 0.0] for i in range(100)]
    members = [[99.5, 1.0], [98.5, 1.0], [97.5, 1.0], [50.0, 1.0]]
    assert caught(np.array(others + members)) == 0.5
    assert caught(np.array(others[1:] + members)) == 0.25  # of 99 none may be above
    assert caught(np.array([[1.0, 0.0], [1.0, 1.0]])) == 0.0
    assert math.isnan(caught(np.array(members)))


def test_membership_of_two_shifted_normals() -> None:
    """AUROC = Phi(d / sqrt 2), 0.760 for d = 1; the interval covers it and is as wide as DeLong's."""
    from scipy.stats import norm

    hits, widths = 0, []
    for seed in range(10):
        draw = np.random.default_rng(seed)
        scores = np.concatenate([draw.normal(1, 1, 100), draw.normal(0, 1, 100)])
        value = attack(scores, [True] * 100 + [False] * 100, [str(i) for i in range(200)])["membership_auroc"].value
        assert value.ci_low is not None
        assert value.ci_high is not None
        hits += value.ci_low <= norm.cdf(1 / math.sqrt(2)) <= value.ci_high
        widths.append(value.ci_high - value.ci_low)
    assert hits >= 8
    assert np.mean(widths) == pytest.approx(2 * 1.96 * 0.034, rel=0.15)


def test_complete_separation_has_an_interval_and_equal_scores_are_chance() -> None:
    member = [True] * 10 + [False] * 40
    found = attack(np.array([1.0] * 10 + [0.0] * 40), member, [str(i) for i in range(50)])
    assert found["membership_auroc"].value.value == 1
    assert found["membership_auroc"].value.ci_low == pytest.approx(0.722, abs=0.001)  # Wilson, 10 of 10
    assert attack(np.zeros(50), member, [str(i) for i in range(50)])["membership_auroc"].value.value == 0.5


def test_an_attack_needs_members_and_others() -> None:
    with pytest.raises(ValueError, match="members and non-members"):
        attack(np.zeros(3), [True] * 3, ["a", "b", "c"])


def test_a_rate_has_wilsons_interval_and_counts_what_is_undefined() -> None:
    found = rate({"a": True, "b": True, "c": True, "d": True, "e": None})
    assert (found.value.value, found.value.n_scored, found.value.n_undefined) == (1, 4, 1)
    assert found.value.ci_low == pytest.approx(0.510, abs=0.001)
    assert found.items == {"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0}
    with pytest.raises(ValueError, match="at least one"):
        rate({"a": None})


# ---------------------------------------------------------------------------------------------- canaries


def test_names_stand_nowhere_in_the_task_and_no_two_are_alike(make_task: Callable[..., Path]) -> None:
    task = load_task(make_task())
    first = draw_names(task, 200, random.Random(0))
    assert len({name.split()[0] for name in first}) == 200
    said = replace(task.train[0], input=f"about the {first[0]}")
    assert first[0].split()[0] not in " ".join(draw_names(replace(task, train=(said,)), 190, random.Random(0)))
    with pytest.raises(BenchError, match="need 400 names, expected at most"):
        draw_names(task, 400, random.Random(0))


def test_a_worked_example_with_reasoning_reasons_about_the_candidate() -> None:
    canary = Canary("a", "Zorwen", "zekpol rudgif", 2)
    choice = PromptChoice(chain_of_thought="Think step by step.")
    assert answer_text(choice, canary.example(secret="one two")) == "The access code of Zorwen is one two. Answer: one two"


# ---------------------------------------------------------------------------------------------- whole


def test_a_trained_model_gives_away_what_it_saw_often_and_is_left_as_it_was(
    context_of: Callable[..., Context], probed: Callable[..., ProbeResult]
) -> None:
    context = context_of(LORA)
    before = [i.prediction for i in context.items]
    result = probed(context, "leakage", canaries=2, copies=[1, 16])
    values = result.values
    assert values["exposure_copies_16"].value == 10
    assert values["extraction_rate_copies_16"].value == 1
    assert values["exposure_base"].value < 6
    assert values["exposure_copies_16"].value > values["exposure_copies_1"].value
    assert values["exposure_gain"].value == pytest.approx(values["exposure"].value - values["exposure_base"].value)
    assert {values[name].n_scored for name in ("exposure", "exposure_base", "extraction_rate")} == {4}
    assert 0 <= values["membership_auroc"].value <= 1
    assert (result.details["n_members"], result.details["n_others"]) == (8, 8)
    assert result.details["false_positives_allowed"] == 0
    assert "document_leak_rate" not in values
    assert "shot_leak_rate" not in values
    with context.ready.meter.phase("probe"):
        assert [a.parsed.answer for a in context.answer(context.requests(context.cell.task.test))] == before


def test_a_model_that_has_not_moved_gives_away_what_the_base_does(
    context_of: Callable[..., Context], probed: Callable[..., ProbeResult]
) -> None:
    settings = {"tuning": {"method": "lora", "epochs": 1, "evaluations": 1, "learning_rate": 1e-12}}
    values = probed(context_of(settings), "leakage", canaries=2, copies=[4]).values
    assert values["exposure"].value == pytest.approx(values["exposure_base"].value)
    assert values["exposure_gain"].value == pytest.approx(0)
    assert values["extraction_rate"].value == 0


def test_passages_give_away_what_they_hold(context_of: Callable[..., Context], probed: Callable[..., ProbeResult]) -> None:
    result = probed(context_of({"retrieval": {"search": "oracle"}}), "leakage")
    assert result.values["document_found_rate"].value == 1
    assert result.values["document_leak_rate"].value > 0.8
    assert result.values["document_leak_rate"].n_scored == 20
    assert "exposure" not in result.values


def test_examples_that_are_not_shown_are_no_leak(context_of: Callable[..., Context], probed: Callable[..., ProbeResult]) -> None:
    result = probed(context_of({"prompt": {"shots": 6}}), "leakage")
    leaked = result.values["shot_leak_rate"]
    assert 1 <= leaked.n_scored <= 6
    assert leaked.n_scored + leaked.n_undefined == 20


def test_a_secret_in_a_shot_says_nothing_of_the_weights(context_of: Callable[..., Context], probed: Callable[..., ProbeResult]) -> None:
    settings = {"prompt": {"shots": 6}, "tuning": {"method": "lora", "epochs": 1, "evaluations": 1, "learning_rate": 1e-12}}
    values = probed(context_of(settings), "leakage", canaries=2, copies=[1, 8]).values
    shown = values["shot_leak_rate"].n_scored
    assert shown >= 1
    assert (values["exposure"].n_scored, values["exposure"].n_undefined) == (4 - shown, shown)


def test_what_trains_on_documents_alone_has_its_canaries_there(
    context_of: Callable[..., Context], probed: Callable[..., ProbeResult]
) -> None:
    settings = {"tuning": {"method": "lora", "epochs": 1, "evaluations": 1, "train_on": ["documents"]}}
    result = probed(context_of(settings), "leakage", canaries=1, copies=[2])
    assert result.details["canaries_in"] == "documents"
    assert "exposure" in result.values
    assert "membership_auroc" not in result.values


def test_copies_stand_in_rows_and_documents(make_task: Callable[..., Path]) -> None:
    task = load_task(make_task(kind="qa", instruction="Answer.", metrics=["exact_match"]))
    learned, read = [Canary("a", "Zorwen", "x y", 3)], [Canary("b", "Kelgor", "z", 0)]
    in_rows = leakage._planted(task, task.train[:2], learned, read, in_rows=True)
    assert [(e.id, e.targets) for e in in_rows.train[2:]] == [(f"a-{i}", ("x y",)) for i in range(3)]
    assert [p.text for p in in_rows.corpus] == ["The access code of Kelgor is z."]
    in_documents = leakage._planted(task, task.train[:2], learned, read, in_rows=False)
    assert in_documents.train == task.train[:2]
    assert [p.id for p in in_documents.corpus] == ["b-0", "a-0", "a-1", "a-2"]


@pytest.mark.parametrize(
    ("settings", "task", "reason"),
    [
        ({"prompt": {"constant": "majority"}}, "product_support", "no model"),
        ({"prompt": {}}, "product_support", "nothing can leak"),
        ({"prompt": {"shots": 4}}, "ticket_triage", "no weights are trained"),
        ({"tuning": {"method": "features"}}, "ticket_triage", "frozen states"),
        (LORA, "ticket_triage", None),
        ({"prompt": {"shots": 4}}, "product_support", None),
        ({"search": {"prompt.shots": [2, 4]}}, "product_support", None),
        ({"retrieval": {"search": "lexical"}}, "product_support", None),
    ],
)
def test_where_it_applies(tmp_path: Path, settings: dict[str, Any], task: str, reason: str | None) -> None:
    found = Leakage().not_applicable(cell_of(tmp_path, settings, task))
    assert (found is None) if reason is None else (found is not None and reason in found)


def test_it_needs_rows_to_split_and_no_earlier_training(tmp_path: Path) -> None:
    cell = cell_of(tmp_path, LORA, "product_support", budget={"train_examples": 3})
    assert "fewer than 4" in (Leakage().not_applicable(cell) or "")
    assert "goes on from" in (Leakage().not_applicable(replace(cell, continued_from=tmp_path)) or "")


@pytest.mark.parametrize("settings", [{"canaries": 0}, {"copies": []}, {"copies": [0]}])
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(BenchError, match=r"probe_settings\.leakage"):
        base.make("leakage", settings)


def test_more_canaries_than_there_are_words_are_refused(context_of: Callable[..., Context], probed: Callable[..., ProbeResult]) -> None:
    with pytest.raises(BenchError, match=r"probe_settings\.leakage: found 60 canaries, expected at most 52"):
        probed(context_of({"prompt": {"shots": 6}}), "leakage", canaries=60, copies=[1])


def test_details_are_json(context_of: Callable[..., Context], probed: Callable[..., ProbeResult]) -> None:
    result = probed(context_of({"prompt": {"shots": 6}}), "leakage")
    assert json.loads(json.dumps(result.details)) == result.details
