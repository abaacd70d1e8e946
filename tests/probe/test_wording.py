from __future__ import annotations

import re
from collections.abc import Callable
from math import sqrt

import numpy as np
import pytest
from scripted_answers import target_of, with_answers

from bench.errors import BenchError
from bench.probe import wording
from bench.probe.base import Context, Finding, make
from bench.probe.wording import Wording, spread_of
from bench.result.schema import ProbeResult

ContextOf = Callable[..., Context]
Probed = Callable[..., ProbeResult]

ZERO_SHOT = {"tuning": {"method": "none"}}


def test_values_of_answers_that_are_known(context_of: ContextOf, probed: Probed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Right under the task's own wording, wrong under "Please": 1, 1, 0 over three wordings."""
    context = context_of(ZERO_SHOT)
    asked = with_answers(monkeypatch, lambda prompt, _: "wrong" if "Please" in prompt else target_of(context, prompt))
    result = probed(context, "wording", wordings=["{{ instruction }}", "{{ instruction }} Thank you.", "Please. {{ instruction }}"])
    value = {name: v.value for name, v in result.values.items()}
    assert (value["wording_1_score"], value["wording_2_score"], value["wording_3_score"]) == (1, 1, 0)
    assert value["score"] == pytest.approx(2 / 3)
    assert (value["spread"], value["worst_score"], value["worst_case_score"], value["consistency"]) == (1, 0, 0, 0)
    assert value["score_sd"] == pytest.approx(sqrt(1 / 3))
    assert result.details["spread_p"] < 0.01
    assert 0 < value["spread_excess"] < 1
    heads = [str(request.prompt.messages[0]["content"]).split("\n\n")[0] for request in asked]
    task = context.cell.task.instruction
    assert heads == [task] * 24 + [f"{task} Thank you."] * 24 + [f"Please. {task}"] * 24


def test_the_strategys_own_wording_stays_around(context_of: ContextOf, probed: Probed, monkeypatch: pytest.MonkeyPatch) -> None:
    context = context_of({"prompt": {"instruction": "Read this. {{ instruction }} Go."}})
    asked = with_answers(monkeypatch, lambda prompt, _: target_of(context, prompt))
    probed(context, "wording", wordings=["{{ instruction }}", "Please. {{ instruction }}"], items=2)
    task = context.cell.task.instruction
    heads = {str(request.prompt.messages[0]["content"]).split("\n\n")[0] for request in asked}
    assert heads == {f"Read this. {task} Go.", f"Read this. Please. {task} Go."}
    assert context.ready.asker.task.instruction == task, "the fitted strategy was changed"


def test_the_own_wording_is_answered_as_in_the_test(context_of: ContextOf) -> None:
    """With the real model, and a strategy that reads passages."""
    context = context_of({"retrieval": {"search": "lexical", "top_k": 2}}, limit=12)
    with context.ready.meter.phase("probe"):
        findings, details = Wording(items=12).run(context)
    assert findings["wording_1_score"].items == {i.id: i.scores["exact_match"] for i in context.items}
    assert details["n_truncated"] == {f"wording_{n}": 0 for n in range(1, 7)}
    assert details["undefined"] == {}
    assert len(details["wordings"]) == 6


def test_a_metric_without_item_scores_gives_way_to_correctness(context_of: ContextOf, monkeypatch: pytest.MonkeyPatch) -> None:
    context = context_of(ZERO_SHOT, task="ticket_triage", limit=8)
    by_f1 = context.cell.task.config.model_copy(update={"metrics": ["macro_f1"]})
    monkeypatch.setitem(context.cell.task.__dict__, "config", by_f1)
    first = context.cell.task.test[0].input
    with_answers(monkeypatch, lambda prompt, _: target_of(context, prompt) if first in prompt else "nothing")
    findings, _ = Wording(wordings=("{{ instruction }}", "Please. {{ instruction }}")).run(context)
    assert findings["score"].items == {e.id: float(e.input == first) for e in context.cell.task.test}


@pytest.mark.parametrize(
    ("task", "metric"), [("ticket_triage", "accuracy"), ("abstract_summary", "rougeL"), ("review_feedback", "field_accuracy")]
)
def test_every_kind_of_task(context_of: ContextOf, probed: Probed, task: str, metric: str) -> None:
    context = context_of(ZERO_SHOT, task=task, limit=4)
    result = probed(context, "wording")
    assert result.values["wording_1_score"].value == pytest.approx(np.mean([i.scores[metric] for i in context.items]))


def test_spread_is_analytic_for_one_cluster_and_has_no_interval() -> None:
    values, details = spread_of(np.array([[1.0, 0.0], [1.0, 1.0]]), ["a", "a"])
    assert (values["spread"].value, values["worst_score"].value) == (0.5, 0.5)
    assert {v.ci_low for v in values.values()} == {None}
    # Shuffling one cluster over two wordings gives the same spread every time.
    assert (details["spread_by_chance"], details["spread_p"]) == (0.5, 1.0)


def test_items_that_never_vary_still_leave_room() -> None:
    values, details = spread_of(np.ones((10, 5)), [str(i) for i in range(10)])
    assert values["spread"].value == values["score_sd"].value == 0
    assert values["spread"].ci_high == pytest.approx(0.2775, abs=1e-3)  # Wilson: 0 of 10
    assert (values["worst_score"].ci_low, values["worst_score"].ci_high) == (pytest.approx(1 - 0.2775, abs=1e-3), 1)
    assert details["spread_p"] == 1


def simulated(n_studies: int, effect: float) -> list[tuple[float, float, float | None, float]]:
    """(p, excess, low, spread) of studies of 60 items in 30 clusters and 5 wordings; the last wording has the effect, in logits."""
    rng = np.random.default_rng(3)
    clusters = np.repeat(np.arange(30), 2)
    found = []
    for _ in range(n_studies):
        noise = rng.normal(0, 1.5, (30, 5))[clusters] + rng.normal(0, 1, (60, 5)) + rng.normal(0, 1, (60, 1))
        values, details = spread_of((noise + effect * (np.arange(5) == 4) > 0).astype(float), [str(c) for c in clusters])
        excess = values["spread_excess"]
        found.append((details["spread_p"], excess.value, excess.ci_low, values["spread"].value))
    return found


def test_chance_alone_makes_a_spread_but_no_excess(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wording, "PERMUTATIONS", 200)
    studies = simulated(150, 0.0)
    assert 0.01 <= np.mean([p <= 0.05 for p, *_ in studies]) <= 0.10
    assert np.mean([spread for *_, spread in studies]) > 0.1
    assert np.mean([excess for _, excess, *_ in studies]) == pytest.approx(0, abs=0.01)
    assert np.mean([low is not None and low > 0 for _, _, low, _ in studies]) <= 0.08


def test_the_excess_is_as_uncertain_as_the_spread() -> None:
    scores = np.random.default_rng(0).integers(0, 2, (40, 5)).astype(float)
    values, details = spread_of(scores, [str(i // 2) for i in range(40)])
    spread, excess = values["spread"], values["spread_excess"]
    assert excess.value == pytest.approx(spread.value - details["spread_by_chance"])
    assert None not in (spread.ci_low, spread.ci_high, excess.ci_low, excess.ci_high)
    assert excess.ci_high - excess.ci_low == pytest.approx(spread.ci_high - spread.ci_low)
    assert excess.ci_low < excess.value < excess.ci_high


def test_a_wording_that_matters_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wording, "PERMUTATIONS", 200)
    studies = simulated(40, 2.5)
    assert np.mean([p <= 0.05 for p, *_ in studies]) > 0.9
    assert np.mean([low is not None and low > 0 for _, _, low, _ in studies]) > 0.8


def test_undefined_item_scores_are_counted_apart(context_of: ContextOf, monkeypatch: pytest.MonkeyPatch) -> None:
    context = context_of(ZERO_SHOT, limit=6)
    first = context.cell.task.test[0].id
    rows = [wording.Judged("red", None if e.id == first else 1.0, True, False) for e in context.cell.task.test]
    monkeypatch.setattr(wording, "judge", lambda task, examples, answered: rows)
    with_answers(monkeypatch, lambda prompt, _: target_of(context, prompt))
    findings, _ = Wording().run(context)
    for name in ("score", "spread", "wording_1_score", "worst_case_score"):
        value = findings[name].value
        assert (value.n_scored, value.n_undefined, value.undefined) == (5, 1, {wording.UNDEFINED: 1}), name
    assert first not in findings["score"].items
    rows[:] = [wording.Judged("red", None, True, False) for _ in rows]
    findings, details = Wording().run(context)
    assert set(findings) == {"consistency"}
    assert details["undefined"]["score"] == wording.UNDEFINED


def test_it_is_not_applicable_where_no_instruction_is_read(context_of: ContextOf, probed: Probed) -> None:
    assert probed(context_of({"prompt": {"constant": "majority"}}), "wording").reason == "the strategy asks no model"


@pytest.mark.parametrize(
    ("wordings", "message"),
    [
        (["{{ instruction }}"], "expected two or more different ones"),
        (["{{ instruction }}", "{{ instruction }}"], "expected two or more different ones"),
        (["{{ instruction }}", "Just answer."], 'found "Just answer."; expected {{ instruction }} in it'),
        (["{{ instruction }}", "{{ task }}"], "the only variable is {{ instruction }}"),
        (["{{ instruction }}", "{{ instruction"], "is no valid Jinja template"),
    ],
)
def test_wordings_that_are_refused(wordings: list[str], message: str) -> None:
    with pytest.raises(BenchError, match=re.escape(message)) as caught:
        make("wording", {"wordings": wordings})
    assert str(caught.value).startswith("probe_settings.wording: wordings: ")


def test_findings_keep_item_scores_of_each_wording(context_of: ContextOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the spreads of two strategies can be compared on the same resamples of items."""
    context = context_of(ZERO_SHOT)
    with_answers(monkeypatch, lambda prompt, _: target_of(context, prompt))
    found: dict[str, Finding] = Wording(items=10).run(context)[0]
    assert len(found["wording_6_score"].items) == 10
    assert all(found[f"wording_{n}_score"].items.keys() == found["score"].items.keys() for n in range(1, 7))
