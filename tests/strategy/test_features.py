"""A logistic regression on frozen states, of every kind of model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from bench.errors import BenchError
from bench.model.load import load_model
from bench.model.source import locate
from bench.strategy import features as module
from bench.strategy.features import FeatureCache, FeatureClassifier
from bench.strategy.spec import load_strategy
from bench.suite import find_task
from bench.task.load import load_task

LABELS = ("billing", "delivery", "other")
TEXTS = {
    "billing": ["I was charged twice", "my invoice shows a wrong amount", "please refund my payment", "the price on my bill is off"],
    "delivery": ["my parcel has not arrived", "when will the package be shipped", "the courier lost my order", "it was sent elsewhere"],
    "other": ["what is your favourite song", "tell me a joke", "how old are you", "do you like the sea"],
}


def ids(model: Any, texts: list[str]) -> list[list[int]]:
    return [model.prompt_ids([{"role": "user", "content": text}]) for text in texts]


def data(model: Any) -> tuple[list[list[int]], list[str]]:
    pairs = [(text, label) for label, some in TEXTS.items() for text in some]
    return ids(model, [text for text, _ in pairs]), [label for _, label in pairs]


@pytest.fixture(scope="module")
def encoder() -> Any:
    torch.set_num_threads(1)
    return load_model(locate("all-MiniLM-L6-v2"), labels=LABELS)


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("t5")
    words = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2, **{f"n{i}": i + 3 for i in range(20)}}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>").save_pretrained(folder)
    config = T5Config(vocab_size=23, d_model=16, d_kv=8, num_layers=2, num_heads=2, d_ff=32, decoder_start_token_id=0)
    torch.manual_seed(0)
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return load_model(locate(str(folder)))


def test_features_of_a_causal_model_are_the_state_at_the_last_token(embedded: Any) -> None:
    prompts = ids(embedded, ["What is the color of Zorba?", "How heavy is it?", "Why?"])
    found = FeatureClassifier(embedded, LABELS).features(prompts)
    assert found.shape == (3, 192)
    for prompt, vector in zip(prompts, found, strict=True):
        with torch.no_grad():
            states = embedded.network(input_ids=torch.tensor([prompt]), output_hidden_states=True).hidden_states[-1]
        np.testing.assert_allclose(vector, states[0, -1].numpy(), atol=1e-4)


def test_features_of_an_encoder_are_the_mean_over_its_tokens(encoder: Any) -> None:
    prompts = ids(encoder, ["I was charged twice", "no", "the courier has lost my order, it seems"])
    found = FeatureClassifier(encoder, LABELS).features(prompts)
    for prompt, vector in zip(prompts, found, strict=True):
        with torch.no_grad():
            states = encoder.network.bert(input_ids=torch.tensor([prompt])).last_hidden_state
        np.testing.assert_allclose(vector, states[0].mean(0).numpy(), atol=1e-5)


def test_features_of_an_encoder_decoder_are_its_encoders(t5: Any) -> None:
    prompts = ids(t5, ["n1 n2 n3", "n4"])
    found = FeatureClassifier(t5, LABELS).features(prompts)
    assert found.shape == (2, 16)
    with torch.no_grad():
        states = t5.network.get_encoder()(input_ids=torch.tensor([prompts[1]])).last_hidden_state
    np.testing.assert_allclose(found[1], states[0].mean(0).numpy(), atol=1e-5)


@pytest.mark.parametrize(("regularization", "weights"), [(1.0, "none"), (50.0, "none"), (2.0, "balanced")])
def test_the_answers_are_those_of_scikit_learn(encoder: Any, regularization: float, weights: Any) -> None:
    prompts, answers = data(encoder)
    prompts, answers = prompts[:-2], answers[:-2]  # labels of unequal number
    classifier = FeatureClassifier(encoder, LABELS)
    classifier.fit(prompts, answers, regularization, weights)
    scaled = StandardScaler().fit_transform(classifier.features(prompts).astype(float))
    reference = LogisticRegression(C=1 / regularization, class_weight=None if weights == "none" else weights, max_iter=2000)
    expected = reference.fit(scaled, answers).predict_log_proba(scaled)
    found = classifier.predict(prompts)
    assert [LABELS[k] for k, _, _ in found] == list(reference.predict(scaled)) == answers
    assert [logprob for _, logprob, _ in found] == pytest.approx(list(expected.max(1)), abs=1e-3)
    second, best = np.sort(expected)[:, -2:].T
    assert [lead for _, _, lead in found] == pytest.approx(list(best - second), abs=1e-2)


def test_two_labels_and_one_that_training_never_saw(encoder: Any) -> None:
    prompts, answers = data(encoder)
    classifier = FeatureClassifier(encoder, LABELS)
    classifier.fit(prompts[:8], answers[:8], 1.0, "none")
    scaler = StandardScaler().fit(classifier.features(prompts[:8]).astype(float))
    reference = LogisticRegression(C=1.0, max_iter=2000).fit(scaler.transform(classifier.features(prompts[:8])), answers[:8])
    found = classifier.predict(prompts)
    assert "other" not in {LABELS[k] for k, _, _ in found}
    expected = reference.predict_log_proba(scaler.transform(classifier.features(prompts))).max(1)
    assert [logprob for _, logprob, _ in found] == pytest.approx(list(expected), abs=1e-3)
    # Of two labels the lead is the difference of the log-probabilities, and the label that is never answered is no second.
    assert [lead for _, _, lead in found] == pytest.approx([p - math.log1p(-math.exp(p)) for p in expected], rel=1e-2)


def test_it_tells_new_inputs_apart(encoder: Any) -> None:
    classifier = FeatureClassifier(encoder, LABELS)
    classifier.fit(*data(encoder))
    asked = ids(encoder, ["the bill is too high and I want my money back", "the shipment is late", "do you like to sing"])
    found = dict(pair for batch in classifier.generate(asked, 8) for pair in batch)
    assert [found[i].text for i in range(3)] == list(LABELS)
    g = found[0]
    assert (g.prompt_tokens, g.cached_tokens, g.completion_tokens) == (len(asked[0]), 0, 0)
    assert math.log(1 / 3) < g.logprob < 0
    assert g.logit_margin == classifier.predict(asked)[0][2] > 0
    assert (classifier.parameter_count, classifier.size_bytes) == (385 * 3, 4 * 385 * 3)


def test_a_second_regularization_does_not_run_the_model_again(encoder: Any) -> None:
    prompts, answers = data(encoder)
    cache: FeatureCache = {}
    FeatureClassifier(encoder, LABELS, cache).fit(prompts, answers, 1.0)
    assert set(cache) == {tuple(p) for p in prompts}
    runs = 0

    def count(*_: object) -> None:
        nonlocal runs
        runs += 1

    handle = encoder.network.bert.register_forward_hook(count)
    try:
        second = FeatureClassifier(encoder, LABELS, cache)
        second.fit(prompts, answers, 100.0)
        second.predict(prompts)
        assert runs == 0
        second.predict(ids(encoder, ["something new"]))
        assert runs == 1
    finally:
        handle.remove()


def test_training_again_gives_the_same_and_a_stronger_penalty_less_certainty(encoder: Any) -> None:
    prompts, answers = data(encoder)
    one, two, strong = (FeatureClassifier(encoder, LABELS) for _ in range(3))
    one.fit(prompts, answers)
    two.fit(prompts, answers)
    strong.fit(prompts, answers, 1000.0)
    assert one.predict(prompts) == two.predict(prompts)
    assert all(a > b for (_, a, _), (_, b, _) in zip(one.predict(prompts), strong.predict(prompts), strict=True))


def test_skipped_batches_leave_the_others_as_they_were(encoder: Any) -> None:
    classifier = FeatureClassifier(encoder, LABELS)
    classifier.fit(*data(encoder))
    asked = ids(encoder, [f"{'very ' * (i % 7)}late parcel {i}" for i in range(100)])
    batches = list(classifier.generate(asked, 8))
    assert len(batches) == 2
    rest = list(classifier.generate(asked, 8, skip={i for i, _ in batches[0]}))
    assert [(i, g.text, g.logprob) for i, g in rest[0]] == [(i, g.text, g.logprob) for i, g in batches[1]]
    assert len(rest) == 1
    assert list(classifier.generate([], 8)) == []


def test_a_saved_classifier_answers_the_same(encoder: Any, embedded: Any, tmp_path: Path) -> None:
    prompts, answers = data(encoder)
    classifier = FeatureClassifier(encoder, LABELS)
    classifier.fit(prompts, answers)
    classifier.save(tmp_path / "head")
    again = FeatureClassifier.load(encoder, tmp_path / "head")
    assert again.labels == LABELS
    assert again.predict(prompts) == classifier.predict(prompts)
    with pytest.raises(BenchError, match="is for states of 384 numbers; those of embedded have 192"):
        FeatureClassifier.load(embedded, tmp_path / "head")


def test_bad_input(encoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, answers = data(encoder)
    classifier = FeatureClassifier(encoder, LABELS)
    with pytest.raises(BenchError, match="asked before it was trained"):
        classifier.predict(prompts)
    with pytest.raises(BenchError, match='label "zek"; expected one of billing, delivery, other'):
        classifier.fit(prompts, ["zek", *answers[1:]])
    with pytest.raises(BenchError, match="found 1 label in the training examples; expected two"):
        classifier.fit(prompts, ["other"] * len(prompts))
    with pytest.raises(BenchError, match="prompt of 513 tokens exceeds the window of all-MiniLM-L6-v2, 512"):
        classifier.features([[5] * 513])
    monkeypatch.setattr(module, "MAX_ITERATIONS", 1)
    with pytest.raises(BenchError, match=r"tuning\.regularization 0\.5: no convergence in 1 iterations; expected a stronger one"):
        classifier.fit(prompts, answers, 0.5)


def test_the_preset_tries_three_penalties() -> None:
    name, strategy = load_strategy("features")
    assert (name, strategy.tuning.method) == ("features", "features")
    assert len(strategy.search["tuning.regularization"]) == 3
    assert strategy.deterministic(load_task(find_task("ticket_triage")))
