from __future__ import annotations

import builtins
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from trl import DPOTrainer, GRPOTrainer

from bench.errors import BenchError
from bench.model.language_model import LanguageModel
from bench.model.source import locate
from bench.strategy import preference
from bench.strategy.adapters import artifact_bytes, parameter_counts, wrap
from bench.strategy.preference import _answer_ends, preference_pairs, preference_rows, tune_by_preference
from bench.strategy.spec import TuningChoice
from bench.strategy.tuning import Tuned

NAMES = ("Zorba", "Mira", "Kelvo Pro", "Plat", "Dorn", "Seeb Max", "Vink", "Lufo")
ASKED = [[{"role": "user", "content": f"What is the color of {name}?"}] for name in NAMES]
BLUE = ["blue"] * len(NAMES)


@pytest.fixture
def model() -> Any:
    torch.set_num_threads(1)
    return LanguageModel(locate("embedded"))


def is_blue(indices: Sequence[int], texts: Sequence[str]) -> list[float]:
    return [float(text == "blue") for text in texts]


def has_an_o(indices: Sequence[int], texts: Sequence[str]) -> list[float]:
    """A reward that the base gets now and then."""
    return [float("o" in text) / 2 for text in texts]


def choice_of(**settings: Any) -> TuningChoice:
    return TuningChoice(**({"method": "lora", "objective": "dpo", "epochs": 2, "evaluations": 1, "learning_rate": 5e-3} | settings))


def tune(
    model: LanguageModel, choice: TuningChoice, asked: Any, targets: Sequence[str], reward: Any, max_new_tokens: int,
    evaluate: Callable[[], float], seed: int, on_step: Callable[[int, int], None] | None = None,
) -> Tuned:  # fmt: skip
    """Rows made and trained on."""
    rows, _ = preference_rows(model, choice, asked, targets, reward, max_new_tokens, seed)
    return tune_by_preference(model, choice, rows, reward, max_new_tokens, evaluate, seed, on_step)


def trained(model: LanguageModel, choice: TuningChoice, evaluate: Callable[[], float] = lambda: 0.5, reward: Any = is_blue) -> Tuned:
    wrap(model, choice, 0)
    return tune(model, choice, ASKED, BLUE, reward, 4, evaluate, 0)


def tensors(model: LanguageModel) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.network.named_parameters()}


def answers(model: LanguageModel) -> list[str]:
    found = dict(a for batch in model.generate([model.prompt_ids(m) for m in ASKED], 4) for a in batch)
    return [found[i].text for i in range(len(ASKED))]


@torch.no_grad()
def logprob(model: LanguageModel, messages: Any, answer: str) -> float:
    ids, n = model.training_ids(messages, answer)
    logits = model.network(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return float(sum(logits[i - 1, ids[i]] for i in range(n, len(ids))))


# ---------------------------------------------------------------------------------------------------- pairs


def test_a_pair_holds_the_right_answer_and_a_wrong_one_of_the_model(model: Any) -> None:
    said = answers(model)
    rows, flops = preference_pairs(model, ASKED, BLUE, is_blue, 4, 0)
    assert len(rows) == len(ASKED)
    assert flops > 0
    for row, messages, text in zip(rows, ASKED, said, strict=True):
        ids, n = model.training_ids(messages, "blue")
        assert (row["prompt_ids"], row["chosen_ids"]) == (ids[:n], ids[n:])
        assert row["prompt_ids"] + row["rejected_ids"] == model.training_ids(messages, text)[0]
        assert text != "blue"


def test_where_the_greedy_answer_is_right_a_wrong_one_is_sampled(model: Any) -> None:
    greedy = answers(model)

    def reward(indices: Sequence[int], texts: Sequence[str]) -> list[float]:
        return [float(text == greedy[i]) for i, text in zip(indices, texts, strict=True)]

    rows, _ = preference_pairs(model, ASKED, greedy, reward, 4, 0)
    assert rows
    assert all(row["rejected_ids"] != row["chosen_ids"] for row in rows)
    assert preference_pairs(model, ASKED, greedy, reward, 4, 0)[0] == rows


def test_only_prompts_with_a_wrong_answer_are_kept(model: Any) -> None:
    rows, _ = preference_pairs(model, ASKED, BLUE, lambda ix, texts: [float(i != 3) for i in ix], 4, 0)
    assert [row["prompt_ids"] for row in rows] == [model.prompt_ids(ASKED[3])]


def test_a_model_that_is_right_everywhere_has_nothing_to_prefer_against(model: Any) -> None:
    with pytest.raises(BenchError, match="the base model answers all training prompts right"):
        preference_pairs(model, ASKED, BLUE, lambda ix, texts: [1.0] * len(texts), 4, 0)


def test_an_answer_with_the_targets_words_is_not_rejected_whatever_its_reward(model: Any) -> None:
    """Case, articles and punctuation aside, nothing that the model says greedily is wrong here, so all rejected ones are sampled."""
    said = answers(model)
    rows, _ = preference_pairs(model, ASKED, [f"The {text.upper()}." for text in said], lambda ix, texts: [0.0] * len(texts), 4, 0)
    greedy = {tuple(model.training_ids(m, text)[0]) for m, text in zip(ASKED, said, strict=True)}
    assert rows
    assert greedy.isdisjoint({(*row["prompt_ids"], *row["rejected_ids"]) for row in rows})


# ---------------------------------------------------------------------------------------------------- tokens


def test_dpo_is_fed_the_tokens_of_the_package(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fed: set[tuple[tuple[int, ...], tuple[int, ...]]] = set()
    compute_loss = DPOTrainer.compute_loss

    def spy(self: Any, network: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
        for ids, mask, answer in zip(inputs["input_ids"], inputs["attention_mask"], inputs["completion_mask"], strict=True):
            fed.add((tuple(ids[mask.bool()].tolist()), tuple(ids[answer.bool()].tolist())))
        return compute_loss(self, network, inputs, *rest, **more)

    monkeypatch.setattr(DPOTrainer, "compute_loss", spy)
    said = answers(model)
    trained(model, choice_of(epochs=1))
    pairs = [model.training_ids(m, text) for m, wrong in zip(ASKED, said, strict=True) for text in ("blue", wrong)]
    assert fed == {(tuple(ids), tuple(ids[n:])) for ids, n in pairs}


@pytest.mark.parametrize("objective", ["grpo", "rloo"])
def test_answers_are_sampled_after_the_prompts_of_the_package(objective: str, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import trl

    kind = getattr(trl, f"{objective.upper()}Trainer")
    fed: list[tuple[int, ...]] = []
    compute_loss = kind._compute_loss

    def spy(self: Any, network: Any, inputs: Any) -> Any:
        fed.extend(tuple(ids[mask.bool()].tolist()) for ids, mask in zip(inputs["prompt_ids"], inputs["prompt_mask"], strict=True))
        return compute_loss(self, network, inputs)

    monkeypatch.setattr(kind, "_compute_loss", spy)
    trained(model, choice_of(objective=objective, samples=2, epochs=1))
    assert sorted(fed) == sorted(tuple(model.prompt_ids(m)) for m in ASKED for _ in range(2))


def test_an_answer_without_a_chat_template_ends_with_its_line() -> None:
    plain = LanguageModel(locate("embedded"))
    assert _answer_ends(plain) == sorted(plain.end_ids)
    plain.tokenizer.chat_template = None
    added = set(_answer_ends(plain)) - plain.end_ids
    assert plain.tokenizer.decode(sorted(added)) == "\n"
    plain.line_ends_answer = False  # a chain of thought has several
    assert _answer_ends(plain) == sorted(plain.end_ids)


@pytest.mark.parametrize("objective", ["grpo", "rloo"])
def test_nothing_after_the_end_of_a_sampled_answer_is_trained_on(objective: str, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import trl

    kind = getattr(trl, f"{objective.upper()}Trainer")
    fed: list[list[int]] = []
    compute_loss = kind._compute_loss

    def spy(self: Any, network: Any, inputs: Any) -> Any:
        fed.extend(ids[mask.bool()].tolist() for ids, mask in zip(inputs["completion_ids"], inputs["completion_mask"], strict=True))
        return compute_loss(self, network, inputs)

    monkeypatch.setattr(kind, "_compute_loss", spy)
    orange, end = model.training_ids(ASKED[0], "orange")[0][-2:]  # what the base says most often
    monkeypatch.setattr(preference, "_answer_ends", lambda model: [orange])
    trained(model, choice_of(objective=objective, samples=4, epochs=1))
    stopped = [ids for ids in fed if orange in ids]
    assert stopped
    assert all(ids.index(orange) == len(ids) - 1 for ids in stopped)
    assert any(end in ids[:-1] for ids in fed)  # no longer an end itself


# ---------------------------------------------------------------------------------------------------- training


def test_dpo_raises_the_right_answer_over_the_wrong_one(model: Any) -> None:
    said = answers(model)
    before = [logprob(model, m, "blue") - logprob(model, m, w) for m, w in zip(ASKED, said, strict=True)]
    tuned = trained(model, choice_of(epochs=4))
    after = [logprob(model, m, "blue") - logprob(model, m, w) for m, w in zip(ASKED, said, strict=True)]
    assert min(b - a for a, b in zip(before, after, strict=True)) > 1
    assert answers(model).count("blue") > said.count("blue") + 4
    assert (tuned.validation_score, tuned.epochs) == (0.5, 4.0)
    assert tuned.flops > 0


@pytest.mark.parametrize("objective", ["grpo", "rloo"])
def test_a_rewarded_answer_becomes_more_likely(objective: str, model: Any) -> None:
    """The base says blue sometimes; with reward 1 for it and 0 for anything else it says it nearly always."""
    rates: list[float] = []

    def reward(indices: Sequence[int], texts: Sequence[str]) -> list[float]:
        found = is_blue(indices, texts)
        rates.append(sum(found) / len(found))
        return found

    trained(model, choice_of(objective=objective, samples=8, epochs=6, beta=0.01, learning_rate=1e-2), reward=reward)
    assert 0 < rates[0] < 0.5
    assert rates[-1] > rates[0] + 0.3


def test_without_a_reward_there_is_nothing_to_learn_from(model: Any) -> None:
    choice = choice_of(objective="grpo", samples=2, epochs=1, beta=0.0, weight_decay=0.0)
    wrap(model, choice, 0)
    before = tensors(model)
    tune(model, choice, ASKED, BLUE, lambda ix, texts: [0.0] * len(texts), 4, lambda: 0.5, 0)
    assert all(torch.equal(w, before[n]) for n, w in tensors(model).items())


@pytest.mark.parametrize("objective", ["dpo", "grpo"])
def test_only_the_adapter_moves_and_trl_leaves_nothing_behind(objective: str, model: Any, capfd: pytest.CaptureFixture[str]) -> None:
    choice = choice_of(objective=objective, samples=2, epochs=1, peft={"init_lora_weights": "pissa"} if objective == "dpo" else {})
    decoding, template = model.network.generation_config.to_dict(), model.tokenizer.pad_token
    wrap(model, choice, 0)
    before, counts, forward, size = tensors(model), parameter_counts(model, True), model.network.forward, artifact_bytes(model)
    capfd.readouterr()
    tuned = tune(model, choice, ASKED, BLUE, has_an_o, 4, lambda: 0.5, 0)
    assert capfd.readouterr() == ("", "")
    after = tensors(model)
    assert after.keys() == before.keys()
    moved = {n for n, w in after.items() if not torch.equal(w, before[n])}
    assert moved
    assert all("lora_" in n for n in moved)
    assert moved <= tuned.weights.keys()
    assert parameter_counts(model, True) == counts
    assert artifact_bytes(model) == size
    assert list(model.network.peft_config) == ["default"]
    assert model.network.forward == forward
    assert model.network.peft_config["default"].init_lora_weights == ("pissa" if objective == "dpo" else True)
    assert (model.network.generation_config.to_dict(), model.tokenizer.pad_token) == (decoding, template)


def test_full_fine_tuning_has_a_frozen_copy_to_refer_to(model: Any) -> None:
    choice = choice_of(method="full", learning_rate=5e-4)
    wrap(model, choice, 0)
    before = tensors(model)
    tune(model, choice, ASKED, BLUE, is_blue, 4, lambda: 0.5, 0)
    assert all(not torch.equal(w, before[n]) for n, w in tensors(model).items())
    assert "blue" in answers(model)


@pytest.mark.parametrize("objective", ["dpo", "grpo"])
def test_the_reference_is_the_model_at_the_start(objective: str, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where an adapter has been trained before: its copy is not the untrained one. IA3's are copied by none of trl's rules."""
    found: dict[str, bool] = {}
    trainer_of = preference._trainer

    def spy(*args: Any, **more: Any) -> Any:
        trainer = trainer_of(*args, **more)
        own = dict(trainer.model.named_parameters())
        found.update({n: torch.equal(p, own[n.replace(".default", ".ref")]) for n, p in own.items() if ".default" in n})
        return trainer

    monkeypatch.setattr(preference, "_trainer", spy)
    choice = choice_of(objective=objective, method="peft", peft={"peft_type": "IA3"}, samples=2, epochs=1)
    wrap(model, choice, 0)
    with torch.no_grad():
        for parameter in model.network.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01)
    tune(model, choice, ASKED, BLUE, is_blue, 4, lambda: 0.5, 0)
    assert found
    assert all(found.values())


@pytest.mark.parametrize("objective", ["dpo", "grpo", "rloo"])
def test_the_same_seed_trains_the_same_weights(objective: str) -> None:
    torch.set_num_threads(1)
    found = []
    for seed in (0, 0, 1):
        model, choice = LanguageModel(locate("embedded")), choice_of(objective=objective, samples=4, epochs=1, batch_size=4)
        wrap(model, choice, 0)
        found.append(tune(model, choice, ASKED, BLUE, has_an_o, 4, lambda: 0.5, seed).weights)
    assert all(torch.equal(found[0][n], found[1][n]) for n in found[0])
    assert any(not torch.equal(found[0][n], found[2][n]) for n in found[0])


def test_the_best_checkpoint_is_kept_and_training_stops_early(model: Any) -> None:
    choice = choice_of(epochs=8, evaluations=8, patience=2)
    wrap(model, choice, 0)
    scores, seen, steps = iter([0.2, 0.9, 0.5, 0.4, 0.8]), [], []

    def evaluate() -> float:
        assert not model.network.training
        seen.append({n: p.detach().clone() for n, p in model.network.named_parameters() if p.requires_grad})
        return next(scores)

    tuned = tune(model, choice, ASKED, BLUE, is_blue, 4, evaluate, 0, lambda step, total: steps.append((step, total)))
    assert (tuned.validation_score, tuned.epochs, len(seen)) == (0.9, 2.0, 4)
    assert steps == [(1, 8), (2, 8), (3, 8), (4, 8)]
    assert seen[1].keys() == tuned.weights.keys()
    now = tensors(model)
    assert all(torch.equal(now[n], w) and torch.equal(tuned.weights[n], w) for n, w in seen[1].items())
    assert not model.network.training


def test_training_stops_where_no_checkpoint_can_be_better(model: Any) -> None:
    tuned = trained(model, choice_of(epochs=4, evaluations=4), evaluate=lambda: 1.0)
    assert tuned.epochs == 1.0


def test_a_batch_in_parts_and_checkpointed_activations_train_the_same_weights() -> None:
    torch.set_num_threads(1)
    found = []
    for settings in ({}, {"accumulate": 3}, {"gradient_checkpointing": True}):
        model = LanguageModel(locate("embedded"))
        found.append(trained(model, choice_of(epochs=1, **settings)).weights)
    for other in found[1:]:
        assert all(torch.allclose(found[0][n], other[n], atol=2e-3) for n in found[0])


def test_mixed_precision_trains_float32_weights(model: Any) -> None:
    model.compute_dtype = torch.bfloat16
    choice = choice_of(epochs=4)
    tuned = trained(model, choice)
    assert all(w.dtype == torch.float32 for w in tuned.weights.values())
    assert "blue" in answers(model)


# ---------------------------------------------------------------------------------------------------- steps and memory


def test_the_steps_of_dpo_are_counted_in_both_answers(model: Any) -> None:
    said = answers(model)
    tuned = trained(model, choice_of(epochs=3, batch_size=4))
    rows = [model.training_ids(m, text) for m, wrong in zip(ASKED, said, strict=True) for text in ("blue", wrong)]
    steps = tuned.steps
    assert (steps.n_steps, steps.n_tokens) == (6, 3 * sum(len(ids) for ids, _ in rows))
    assert steps.n_target_tokens == 3 * sum(len(ids) - n for ids, n in rows)
    assert steps.longest_batch == (8, max(len(ids) for ids, _ in rows))
    assert steps.n_tokens <= steps.n_padded_tokens <= 6 * 8 * steps.longest_batch[1]


def test_the_steps_of_sampled_answers_are_counted_as_they_were_sampled(model: Any) -> None:
    lengths: list[int] = []

    def reward(indices: Sequence[int], texts: Sequence[str]) -> list[float]:
        lengths.extend(len(model.prompt_ids(ASKED[i])) for i in indices)
        return has_an_o(indices, texts)

    steps = trained(model, choice_of(objective="grpo", samples=4, epochs=1, batch_size=4), reward=reward).steps
    assert steps.n_steps == 2
    assert steps.n_tokens == sum(lengths) + steps.n_target_tokens
    assert len(lengths) <= steps.n_target_tokens <= 4 * len(lengths)
    assert steps.longest_batch[0] == 16


@pytest.mark.parametrize(("method", "copies"), [("lora", None), ("full", 2)])
def test_the_reference_is_among_the_weights_that_are_held(method: str, copies: int | None, model: Any) -> None:
    choice = choice_of(method=method, epochs=1)
    wrap(model, choice, 0)
    own = sum(t.nbytes for t in (*model.network.parameters(), *model.network.buffers()))
    _, trainable = parameter_counts(model, True)
    held = tune(model, choice, ASKED, BLUE, is_blue, 4, lambda: 0.5, 0).held
    assert held["weights"] == (copies * own if copies else own + 4 * trainable)
    assert held["gradients"] == 4 * trainable
    assert held["optimizer"] > 8 * trainable
    assert held["activations"] > 0


# ---------------------------------------------------------------------------------------------------- what is refused


def test_a_diverging_gradient_is_an_error_and_leaves_no_second_adapter(model: Any) -> None:
    with pytest.raises(BenchError, match=r"training diverged at step \d+ \(learning rate 1e\+30\)"):
        trained(model, choice_of(learning_rate=1e30, max_gradient_norm=1e30, epochs=8))
    assert list(model.network.peft_config) == ["default"]


def test_nothing_to_train_on_is_an_error(model: Any) -> None:
    choice = choice_of()
    wrap(model, choice, 0)
    with pytest.raises(BenchError, match="no training example"):
        tune(model, choice, [], [], is_blue, 4, lambda: 0.5, 0)


@pytest.mark.parametrize("objective", ["dpo", "grpo"])
def test_a_prompt_over_the_window_is_refused(objective: str, model: Any) -> None:
    choice = choice_of(objective=objective)
    wrap(model, choice, 0)
    with pytest.raises(BenchError, match="window of"):
        tune(model, choice, [[{"role": "user", "content": "red " * 600}]], ["blue"], is_blue, 4, lambda: 0.5, 0)


def test_a_method_of_one_adapter_only_is_refused(model: Any) -> None:
    with pytest.raises(BenchError, match=r"tuning\.objective dpo: trl cannot train this \(AdaLora"):
        trained(model, choice_of(method="peft", peft={"peft_type": "ADALORA"}))


def test_without_trl_the_hint_names_the_extra(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **more: Any) -> Any:
        if name == "trl":
            raise ImportError(name)
        return real(name, *args, **more)

    choice = choice_of()
    wrap(model, choice, 0)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BenchError, match=r"pip install 'adaptation-bench\[preference\]'"):
        tune(model, choice, ASKED, BLUE, is_blue, 4, lambda: 0.5, 0)


def test_no_use_is_reported_to_anybody(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import trl.trainer.base_trainer

    def refuse(*args: Any, **more: Any) -> None:
        raise AssertionError("trl reports")

    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(trl.trainer.base_trainer, "send_telemetry", refuse)
    assert GRPOTrainer._send_telemetry  # the method that is replaced still has this name
    assert trained(model, choice_of(epochs=1)).epochs == 1.0
