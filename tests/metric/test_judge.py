"""The judge: what it is asked, what counts as a verdict, and Cohen's kappa against known answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import typer
from sklearn.metrics import cohen_kappa_score
from typer.testing import CliRunner

from bench.errors import BenchError
from bench.metric.cli import register
from bench.metric.detector import Response
from bench.metric.detector_data import Labelled
from bench.metric.detector_quality import Undefined
from bench.metric.judge import RUBRIC, VERDICTS, Judge, Verdict, agreement, cohen_kappa, messages, parse_verdict, support_score
from bench.model.endpoint import ChatEndpoint


class Fake:
    """Says `verdict` of a response that has that word in it."""

    def complete(self, messages: Sequence[dict[str, str]], max_tokens: int) -> str:
        text = messages[1]["content"]
        said = next((word for word in ("unsupported", "supported", "no claim") if f"<response>\n{word}" in text), "?")
        return json.dumps({"verdict": said, "reason": "r"})


def test_the_judge_gets_the_rubric_and_all_parts() -> None:
    system, user = messages(Response("red", "It is red.", question="Color?", context="Hi"))
    assert system == {"role": "system", "content": RUBRIC}
    parts = [("evidence", "It is red."), ("context", "Hi"), ("question", "Color?"), ("response", "red")]
    assert user["content"] == "\n\n".join(f"<{name}>\n{text}\n</{name}>" for name, text in parts)
    assert "question" not in messages(Response("red", "It is red."))[1]["content"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"verdict": "supported", "reason": "x"}', "supported"),
        ('```json\n{"verdict": "Unsupported ", "reason": "a } b"}\n```', "unsupported"),
        ('Sure: {"verdict": "no claim"} {"verdict": "supported"}', "no claim"),
        ('{"verdict": "maybe"}', None),
        ('{"answer": "supported"}', None),
        ('{"verdict": 1}', None),
        ('{"verdict": "supported"', None),
        ("[1]", None),
        ("supported", None),  # a word in prose may be anything ("not supported")
        ("", None),
    ],
)
def test_only_json_is_a_verdict(text: str, expected: Verdict | None) -> None:
    assert parse_verdict(text) == (expected or Undefined("no verdict"))


def test_verdicts_keep_their_order_and_skip_what_is_empty() -> None:
    responses = [Response(text, "e") for text in ("supported", "unsupported", "no claim", "else", " ")] * 5 + [Response("supported", "")]
    judge = Judge(Fake())
    expected = ["supported", "unsupported", "no claim", Undefined("no verdict"), Undefined("empty response")]
    assert judge.verdicts(responses) == expected * 5 + [Undefined("empty evidence")]
    scores = judge.detector().scores(responses[:5])
    assert scores == [0.0, 1.0, Undefined("no claim"), Undefined("no verdict"), Undefined("empty response")]
    assert support_score("supported", unsupported=0.0) == 1.0


def labelled(*labels: bool | None) -> list[Labelled]:
    return [Labelled(Response("x", "e"), label, str(i)) for i, label in enumerate(labels)]


def test_kappa_is_scikit_learns() -> None:
    draw = np.random.default_rng(0)
    labels, verdicts = draw.integers(0, 3, 60), draw.integers(0, 3, 60)
    verdicts[:30] = labels[:30]
    found = agreement(
        labelled(*[(False, True, None)[i] for i in labels]), [VERDICTS[i] for i in verdicts]
    )  # fmt: skip
    assert found.kappa is not None
    assert found.kappa.value == pytest.approx(cohen_kappa_score(labels, verdicts))
    assert found.kappa.ci_low is not None
    assert found.kappa.ci_high is not None
    assert found.kappa.ci_low < found.kappa.value < found.kappa.ci_high
    assert found.raw.value == pytest.approx((labels == verdicts).mean())
    assert sum(found.counts.values()) == 60


def test_kappa_by_hand() -> None:
    assert cohen_kappa(np.array([20.0, 5, 10, 15])) == pytest.approx(0.4)  # observed .7, expected .5
    assert cohen_kappa(np.array([[5.0, 0, 0, 5], [5.0, 5, 5, 5]])) == pytest.approx([1, 0])
    assert np.isnan(cohen_kappa(np.array([5.0, 0, 0, 0])))


def test_a_judge_that_says_one_thing_agrees_by_chance_alone() -> None:
    found = agreement(labelled(True, False, True, True), ["supported"] * 4)
    assert found.kappa is not None
    assert found.kappa.value == 0
    assert found.raw.value == 0.25
    assert found.counts == {"supported / supported": 1, "unsupported / supported": 3}


def test_missing_verdicts_are_counted_apart() -> None:
    none = Undefined("no verdict")
    found = agreement(labelled(True, False, True, False), ["unsupported", "supported", none, none])
    assert (found.raw.value, found.raw.n_scored, found.raw.n_undefined, found.raw.undefined) == (1.0, 2, 2, {"no verdict": 2})
    only_one = agreement(labelled(True, False), ["unsupported", none])
    assert only_one.kappa is None  # one label and one verdict are left, which agree by chance


def test_agreement_needs_labels_of_two_kinds_and_a_verdict() -> None:
    with pytest.raises(BenchError, match="all are unsupported; agreement needs two kinds"):
        agreement(labelled(True, True), ["unsupported", "supported"])
    with pytest.raises(BenchError, match="no verdict on any of 2"):
        agreement(labelled(True, False), [Undefined("no verdict")] * 2)


def test_the_command_adds_a_row_for_the_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ChatEndpoint, "complete", Fake.complete)
    rows = [{"knowledge": "k", "response": label, "label": label} for label in ("supported", "unsupported")]
    file = tmp_path / "labelled.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    app = typer.Typer()
    register(app)
    app.command("other")(lambda: None)
    arguments = ["--judge-url", "http://localhost:1/v1", "--judge-model", "m", "--format", "json"]
    result = CliRunner().invoke(app, ["validate-detector", str(file), *arguments])
    assert result.exit_code == 0, result.exception
    row = json.loads(result.stdout)["rows"][-1]
    assert (row["detector"], row["n_scored"], row["auroc"]["value"]) == ("judge", 2, 1.0)
