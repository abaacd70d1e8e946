"""Entailment by tiny models: probabilities set by hand, and a rule that a test can compute."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from metric.nli_models import bert, rule
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from bench.errors import BenchError
from bench.metric.cli import register
from bench.metric.detector import Response
from bench.metric.detector_quality import Undefined
from bench.metric.entailment import EntailmentModel, check_template, rogan_gladen

PAIRS = [("the cat sat .", "the dog ran ."), ("red", "the box is red ."), ("the color of the box is blue .", "cat"), ("dog", "dog")]


def softmax(*logits: float) -> list[float]:
    return [math.exp(x) / sum(map(math.exp, logits)) for x in logits]


@pytest.mark.parametrize("labels", [["contradiction", "neutral", "entailment"], ["ENTAILMENT", "Neutral", "CONTRADICTION"]])
def test_the_labels_say_which_output_is_entailment(tmp_path: Path, labels: list[str]) -> None:
    bias = [2.0, 0.5, -1.0]
    model = EntailmentModel(str(bert(tmp_path, labels, bias)))
    place = [label.lower() for label in labels].index("entailment")
    assert model.entailed(PAIRS) == pytest.approx([softmax(*bias)[place]] * 4, abs=1e-6)
    yes, no = bias[place], bias[2 - place]
    assert model.contradicted(PAIRS) == pytest.approx([softmax(yes, no)[1]] * 4, abs=1e-6)  # neutral is left out


def test_models_of_consistency(tmp_path: Path) -> None:
    two = EntailmentModel(str(bert(tmp_path / "two", ["hallucinated", "consistent"], [0.0, 1.0])))
    assert two.entailed(PAIRS[:1]) == pytest.approx([softmax(0, 1)[1]], abs=1e-6)
    one = EntailmentModel(str(bert(tmp_path / "one", ["LABEL_0"], [1.0])))
    assert one.entailed(PAIRS[:1]) == pytest.approx([1 / (1 + math.exp(-1))], abs=1e-6)
    assert not one.tells_contradiction
    with pytest.raises(BenchError, match="no label that means contradiction"):
        two.contradicted(PAIRS)


def test_labels_without_entailment_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="its labels are label_0, not_entailment; expected one of entailment"):
        EntailmentModel(str(bert(tmp_path, ["LABEL_0", "not_entailment"])))


def test_a_batch_gives_what_each_pair_gives_alone(tmp_path: Path) -> None:
    model = EntailmentModel(str(bert(tmp_path, ["contradiction", "entailment"])))
    together = model.entailed(PAIRS * 20)  # more than one batch, and of different lengths
    alone = [model.entailed([pair])[0] for pair in PAIRS]
    assert together == pytest.approx(alone * 20, abs=1e-5)
    assert len({round(value, 4) for value in alone}) > 1
    assert model.entailed([("cat", "dog ran .")]) != pytest.approx(model.entailed([("dog ran .", "cat")]), abs=1e-4)
    assert model.entailed([]).shape == (0,)


def test_a_long_pair_is_cut_to_the_window(tmp_path: Path) -> None:
    model = EntailmentModel(str(bert(tmp_path, ["contradiction", "entailment"])))
    assert np.isfinite(model.entailed([("cat " * 100, "dog"), ("cat", "dog " * 100)])).all()


def test_what_is_no_trained_classifier_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="could not be loaded"):
        EntailmentModel(str(tmp_path / "nothing"))
    folder = bert(tmp_path / "encoder", ["contradiction", "entailment"])
    weights = {name: value for name, value in load_file(folder / "model.safetensors").items() if not name.startswith("classifier")}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(BenchError, match=r"lacks classifier\.bias; expected a trained classifier"):
        EntailmentModel(str(folder))


def test_a_model_that_scores_pairs_itself_needs_consent(tmp_path: Path) -> None:
    folder = str(rule(tmp_path))
    with pytest.raises(BenchError, match="contains custom code"):
        EntailmentModel(folder)
    model = EntailmentModel(folder, trust_remote_code=True)
    assert model.entailed([("the cat sat", "the dog"), ("a", "a"), ("a", "b")]) == pytest.approx([0.5, 1, 0])


def test_support_is_the_mean_over_sentences_of_the_best_evidence(tmp_path: Path) -> None:
    model = EntailmentModel(str(rule(tmp_path)), trust_remote_code=True, template="{answer}")
    responses = [
        Response("the cat. red fox.", "the cat. a red box."),  # the words "cat." and "fox." count with their points
        Response("", "the cat."),
        Response("the cat.", " "),
        Response("the", "the cat. a red box."),
    ]
    found = model.supported(responses)
    assert found == pytest.approx([(1 + 1 / 2) / 2, math.nan, math.nan, 1], nan_ok=True)
    assert model.detector().scores(responses) == [
        pytest.approx(0.25), Undefined("empty response"), Undefined("empty evidence"), pytest.approx(0),
    ]  # fmt: skip


def test_question_and_answer_become_a_statement(tmp_path: Path) -> None:
    model = EntailmentModel(str(rule(tmp_path)), trust_remote_code=True, template="{question} It is {answer}")
    assert model.statement("Color?", "red") == "Color? It is red"
    assert model.statement("", "red") == "red"
    assert model.supported([Response("red", "It is red", question="is")]) == pytest.approx([1])
    assert model.supported([Response("red", "It was red", question="is")]) == pytest.approx([0.5])


@pytest.mark.parametrize("template", ["{question}", "{answer} {context}", "", "{0} {answer}"])
def test_a_template_without_the_answer_is_refused(template: str) -> None:
    with pytest.raises(BenchError, match=r'expected "\{answer\}"'):
        check_template(template)


def test_rogan_gladen_undoes_the_errors_of_a_detector() -> None:
    for true in (0.0, 0.1, 0.5, 1.0):
        seen = true * 0.9 + (1 - true) * (1 - 0.7)
        assert rogan_gladen(seen, sensitivity=0.9, specificity=0.7) == pytest.approx(true)
    assert rogan_gladen(0.1, 0.9, 0.7) == 0  # fewer than the false alarms alone
    assert rogan_gladen(0.95, 0.9, 0.7) == 1
    with pytest.raises(ValueError, match="tells nothing"):
        rogan_gladen(0.5, 0.5, 0.5)


def test_the_command_adds_a_row_for_the_model(tmp_path: Path) -> None:
    rows = [
        {"knowledge": "cat .", "response": "cat", "label": "supported"},
        {"knowledge": "dog .", "response": "ran", "label": "unsupported"},
    ]
    file = tmp_path / "labelled.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    app = typer.Typer()
    register(app)
    app.command("other")(lambda: None)
    arguments = ["--model", str(rule(tmp_path / "model")), "--trust-remote-code", "--format", "json"]
    result = CliRunner().invoke(app, ["validate-detector", str(file), *arguments])
    assert result.exit_code == 0, result.exception
    row = json.loads(result.stdout)["rows"][-1]
    assert (row["detector"], row["n_scored"], row["auroc"]["value"]) == ("entailment", 2, 1.0)


def test_inference_leaves_the_random_state_alone(tmp_path: Path) -> None:
    model = EntailmentModel(str(bert(tmp_path, ["contradiction", "entailment"])))
    before = torch.get_rng_state()
    model.entailed(PAIRS)
    assert torch.equal(before, torch.get_rng_state())
