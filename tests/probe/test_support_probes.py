"""The probes that ask another model whether answers are supported: one of inference, and a judge at an endpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from metric.nli_models import bert

from bench.errors import BenchError
from bench.metric.entailment import rogan_gladen
from bench.model.endpoint import ChatEndpoint
from bench.probe.base import Context, make
from bench.result.schema import ProbeResult

Probed = Callable[..., ProbeResult]
ORACLE = {"retrieval": {"search": "oracle"}}


@pytest.fixture
def yes(tmp_path: Path) -> str:
    return str(bert(tmp_path / "yes", ["entailment", "contradiction"], [3.0, 0.0]))


def test_entailed_answers_are_counted_by_both_sources(context_of: Callable[..., Context], probed: Probed, yes: str) -> None:
    context = context_of(ORACLE)
    result = probed(context, "entailment", model=yes, sensitivity=0.9, specificity=0.8)
    abstained = sum(i.outcome == "abstained" for i in context.items)
    for name in ("entailed_by_gold", "entailed_by_read"):
        assert result.values[name].value == 1
        assert result.values[name].n_scored == len(context.items) - abstained
        assert result.values[name].undefined == ({"abstained": abstained} if abstained else {})
        low = result.values[name].ci_low
        assert low is not None
        assert result.values[f"{name}_corrected"].ci_low == rogan_gladen(low, 0.9, 0.8)
    closed = probed(context_of({}), "entailment", model=yes)
    assert closed.values == {}  # it abstains from all


def test_a_model_that_finds_nothing_entailed(context_of: Callable[..., Context], probed: Probed, tmp_path: Path) -> None:
    no = str(bert(tmp_path / "no", ["entailment", "contradiction"], [0.0, 3.0]))
    assert probed(context_of(ORACLE), "entailment", model=no).values["entailed_by_gold"].value == 0
    summary = probed(context_of({"prompt": {"constant": "first_sentence"}}, task="abstract_summary", limit=6), "entailment", model=no)
    assert summary.values["entailed_by_gold"].n_scored == 6
    assert "no statements" in (probed(context_of({}, task="ticket_triage", limit=12), "entailment", model=no).reason or "")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, 'the key "model" is missing'),
        ({"model": "m", "template": "{question}"}, 'expected "{answer}"'),
        ({"model": "m", "sensitivity": 0.9}, "expected both or none"),
        ({"model": "m", "sensitivity": 0.5, "specificity": 0.5}, "expected more than 1"),
    ],
)
def test_wrong_settings_of_entailment(settings: dict[str, object], said: str) -> None:
    with pytest.raises(BenchError, match=r"probe_settings\.entailment") as raised:
        make("entailment", settings)
    assert said in str(raised.value)


def test_a_judge_without_labels_is_refused() -> None:
    with pytest.raises(BenchError, match='the key "labelled" is missing'):
        make("judge", {"url": "http://localhost:1/v1", "model": "m"})


def test_a_judges_scores_stand_beside_its_agreement(
    context_of: Callable[..., Context], probed: Probed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A judge that calls supported what stands in the evidence word by word."""

    def complete(self: ChatEndpoint, messages: Sequence[dict[str, str]], max_tokens: int) -> str:
        text = messages[1]["content"]
        evidence, response = (text.split(f"<{name}>\n")[1].split(f"\n</{name}>")[0] for name in ("evidence", "response"))
        return json.dumps({"verdict": "supported" if response in evidence else "unsupported"})

    monkeypatch.setattr(ChatEndpoint, "complete", complete)
    rows = [("cat", "supported"), ("sat", "supported"), ("dog", "unsupported"), ("ran", "unsupported"), ("feline", "supported")]
    file = tmp_path / "labelled.jsonl"
    file.write_text(
        "".join(json.dumps({"knowledge": f"the cat sat {i}", "response": r, "label": y}) + "\n" for i, (r, y) in enumerate(rows))
    )

    context = context_of(ORACLE)
    result = probed(context, "judge", url="http://localhost:1/v1", model="m", labelled=str(file), items=20)
    assert result.values["agreement_raw"].value == 0.8
    assert result.values["agreement_kappa"].value == pytest.approx((0.8 - 0.48) / (1 - 0.48))
    supported = result.values["judged_supported"]
    texts = {p.id: p.text for p in context.cell.task.corpus}
    chosen = {i.id: i for i in context.items if i.outcome != "abstained"}
    assert supported.n_scored + supported.n_undefined == 20
    assert supported.n_scored <= len(chosen)
    assert supported.value > 0
    assert any(item.prediction in texts[item.gold_ids[0]] for item in chosen.values())
    assert "agreement_kappa" in result.values

    file.write_text(json.dumps({"knowledge": "k", "response": "k", "label": "supported"}) + "\n")
    with pytest.raises(BenchError, match="agreement needs two kinds"):
        probed(context, "judge", url="http://localhost:1/v1", model="m", labelled=str(file))
