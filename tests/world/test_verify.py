import math
import random
import re
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from bench.errors import BenchError
from bench.model.language_model import LanguageModel
from bench.model.source import locate
from bench.world import entities as e
from bench.world import episodes as ep
from bench.world import text as t
from bench.world import verify as v
from bench.world.manifest import write_manifest
from bench.world.pretrain import new_model


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    folder = tmp_path_factory.mktemp("untrained")
    new_model(tokenizer, 1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# ---------------------------------------------------------------------------------------------- arithmetic


@pytest.mark.parametrize(
    ("value", "low", "high", "passed"),
    [(0.9, 0.9, None, True), (0.899, 0.9, None, False), (0.1, None, 0.1, True), (0.101, None, 0.1, False), (0.5, 0.3, 0.9, True),
     (0.95, 0.3, 0.9, False), (0.0, None, None, True), (math.nan, 0.3, None, False), (math.nan, None, 0.9, False)],
)
def test_a_gate_passes_within_its_bounds(value: float, low: float | None, high: float | None, passed: bool) -> None:
    gate = v.Gate("x", value, 10, low, high)
    assert gate.passed is passed
    assert gate.required is (low is not None or high is not None)


def test_report_counts_gates_and_not_what_is_only_reported() -> None:
    text = v.report([v.Gate("a", 0.5, 500, low=0.4), v.Gate("b", 0.3, 500, low=0.4, high=0.6), v.Gate("c", 2.0, 500, detail="why")])
    lines = text.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["pass", "FAIL", "info"]
    assert ">= 0.400 and <= 0.600" in lines[1]
    assert lines[2].endswith("c (why)")
    assert lines[3] == "1 of 2 gates passed"


def test_bernoulli_mean_known_answers() -> None:
    assert v.bernoulli_mean([0.25] * 300) == pytest.approx((0.25, math.sqrt(0.25 * 0.75 / 300)))
    assert v.bernoulli_mean([0.0, 1.0]) == (0.5, 0.0)


def test_uninformed_accuracy_known_answer() -> None:
    # color: golds red, red, blue; the answer red is right with 2/3, blue with 1/3, green never. origin: Oslo with 1/1.
    mean, error = v.uninformed_accuracy(["color"] * 3 + ["origin"], ["red", "blue", "green", "Oslo"], ["red", "red", "blue", "Oslo"])
    assert mean == pytest.approx((2 / 3 + 1 / 3 + 0 + 1) / 4)
    assert error == pytest.approx(math.sqrt(2 * (2 / 9)) / 4)


def test_uninformed_accuracy_is_the_mean_over_permutations() -> None:
    rng = random.Random(0)
    golds = [rng.choice(e.COLORS) for _ in range(200)]
    answers = [rng.choice(e.COLORS[:3]) for _ in range(200)]
    accuracies = []
    for _ in range(2000):
        rng.shuffle(golds)
        accuracies.append(sum(a == g for a, g in zip(answers, golds, strict=True)) / 200)
    mean, error = v.uninformed_accuracy(["color"] * 200, answers, golds)
    assert sum(accuracies) / 2000 == pytest.approx(mean, abs=0.003)
    spread = math.sqrt(sum((a - mean) ** 2 for a in accuracies) / 2000)
    assert spread == pytest.approx(error, rel=0.15)


# ---------------------------------------------------------------------------------------------- items


@pytest.mark.parametrize("k", [1, 5])
def test_reading_states_the_answer_or_does_not(k: int) -> None:
    rng = random.Random(1)
    for missing in (False, True):
        for _ in range(50):
            item = v.reading(rng, k, abstain=missing, missing=missing)
            _, passages, question = item.messages[0]["content"].split("\n\n")
            assert passages.count("\n") == k - 1
            name = max((n for n in e.names("context") if n in question), key=len)
            whole = re.compile(rf"\b{name}\b(?! (?:{'|'.join(e.MODEL_WORDS)})\b)")
            pages = [p for p in passages.split("\n") if whole.search(p)]
            assert (item.target in ep.ABSTAIN_WORDS) is missing
            if missing:
                assert len(pages) == (item.group == "attribute missing")
            else:
                assert len(pages) == 1
                assert item.target in pages[0]
            assert ("unknown" in item.messages[0]["content"] or "not stated" in item.messages[0]["content"]) is missing


@pytest.mark.parametrize("shots", [0, 2])
def test_mapping_shows_each_label_and_never_the_clause_asked(shots: int) -> None:
    rng = random.Random(2)
    for _ in range(50):
        item = v.mapping(rng, shots)
        *shown, question = item.messages
        assert len(shown) == 2 * 4 * shots
        assert all(label in item.messages[0]["content"] for label in item.listed)
        answers = [m["content"] for m in shown if m["role"] == "assistant"]
        assert sorted(answers) == sorted(list(item.listed) * shots)
        assert question["role"] == "user"
        assert item.target in item.listed
        clause = next(c for clauses in t.TOPICS.values() for c in sorted(clauses, key=len, reverse=True) if c in question["content"])
        assert shots == 0 or not any(f"{clause}." in m["content"] for m in shown)


def test_fresh_products_and_known_pairs() -> None:
    rng = random.Random(3)
    pairs = v._pairs(rng, e.known_products(), 1200)
    assert len({(p.name, a) for p, a in pairs}) == 1200
    assert len(v._pairs(rng, e.known_products(), 1300)) == 1300
    item = v.closed_book(rng, *pairs[0])
    assert item.target == pairs[0][0].facts[pairs[0][1]]
    assert pairs[0][0].name in item.messages[0]["content"]


def test_first_turn_of_an_episode() -> None:
    episode = ep.Episode().user("Q1").answer("A1", "json").user("Q2").answer("A2", "json")
    item, kind = v.first_turn(episode)
    assert (item.messages, item.target, kind) == ([{"role": "user", "content": "Q1"}], "A1", "json")


# ---------------------------------------------------------------------------------------------- the model


def test_answers_do_not_depend_on_the_batch(untrained: Path) -> None:
    model = LanguageModel(locate(str(untrained)))
    rng = random.Random(5)
    prompts = [v.reading(rng, k, abstain=False).messages for k in (5, 1, 3, 2)]
    assert v.answer(model, prompts, 6) == [v.answer(model, [p], 6)[0] for p in prompts]


def test_loss_is_the_mean_over_tokens_without_padding(untrained: Path) -> None:
    model = LanguageModel(locate(str(untrained)))
    texts = ["The color of Zorba is red.", "It leaks."]
    total, count = 0.0, 0
    with torch.inference_mode():
        for text in texts:
            ids = model.tokenizer("<|bos|>" + text, add_special_tokens=False, return_tensors="pt")["input_ids"]
            total += float(functional.cross_entropy(model.network(input_ids=ids).logits[0, :-1], ids[0, 1:], reduction="sum"))
            count += ids.shape[1] - 1
    loss, tokens = v.loss(model, texts)
    assert tokens == count
    assert loss == pytest.approx(total / count, rel=1e-5)


def test_verify_of_an_untrained_model_fails_where_ability_is_asked_for(untrained: Path) -> None:
    shown: list[v.Gate] = []
    gates = v.verify(untrained, n=4, show=shown.append)
    assert shown == gates
    by_name = {g.name: g for g in gates}
    assert len(by_name) == len(gates)
    assert sum(g.required for g in gates) == 11
    for name in ("reading: gold among 5 passages", "mapping: 8 shots, 4 fresh labels", "known facts: trained wordings"):
        assert by_name[name].value == 0
        assert not by_name[name].passed
    # An untrained model's loss is close to that of a uniform guess over the vocabulary.
    assert by_name["plain prose: nats per token"].value == pytest.approx(math.log(4096), abs=0.5)


def test_bad_input(tmp_path: Path, untrained: Path) -> None:
    with pytest.raises(BenchError, match=r"config.json is missing; expected a folder in Hugging Face format"):
        v.verify(tmp_path)
    with pytest.raises(BenchError, match=r"n is 0, expected at least 1"):
        v.verify(untrained, n=0)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BenchError, match=r"found no weights in .*; expected \*\.safetensors") as error:
        v.verify(tmp_path)
    assert "\n" not in str(error.value)


def test_verify_refuses_weights_that_differ_from_their_manifest(tmp_path: Path, untrained: Path) -> None:
    for file in untrained.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    write_manifest(tmp_path, tokens=0)
    data = bytearray((tmp_path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(bytes(data))
    with pytest.raises(BenchError, match=r"model.safetensors: SHA-256 is \w{12}\.\.\., expected \w{12}"):
        v.verify(tmp_path, n=1)
