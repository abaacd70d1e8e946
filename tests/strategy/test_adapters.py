"""Every preset of the tuning choice that moves weights, on the shipped base model; and the methods on other architectures."""

import copy
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5ForConditionalGeneration,
)

from bench.cost.flops import shape_of
from bench.errors import BenchError
from bench.model.classifier import Classifier
from bench.model.language_model import LanguageModel
from bench.model.load import load_model
from bench.model.source import EMBEDDED_FOLDER, locate
from bench.strategy.adapters import after_step, artifact_bytes, load_adapter, merge, parameter_counts, restore, save_adapter, wrap
from bench.strategy.bottleneck import add_bottlenecks
from bench.strategy.partial import mark_biases, mark_last_layers
from bench.strategy.spec import Strategy, TuningChoice, load_strategy
from bench.strategy.tuning import tune

torch.set_num_threads(1)

TEXT = "Answer the question about the product."
LAYERS, D, FF = 4, 192, 512  # of the shipped base: a Llama without grouped queries
SQUARE, UP, DOWN = 4 * LAYERS, 2 * LAYERS, LAYERS  # matrices of D x D, D to FF, FF to D


def per_matrix(count: Callable[[int, int], int]) -> int:
    """The sum of `count` (in, out) over all linear layers but the output layer."""
    return SQUARE * count(D, D) + UP * count(D, FF) + DOWN * count(FF, D)


LORA = per_matrix(lambda i, o: 8 * (i + o))
# preset: (what the names of trained parameters hold, how many numbers they are)
TRAINED: dict[str, tuple[str, int]] = {
    "lora": ("lora_", LORA),
    "rslora": ("lora_", LORA),
    "dora": ("lora_", LORA + per_matrix(lambda i, o: o)),
    "pissa": ("lora_", LORA),
    "qlora": ("lora_", LORA),
    "adalora": ("lora_", per_matrix(lambda i, o: 12 * (i + o + 1))),
    "ia3": ("ia3_l", LAYERS * (D + D + FF)),
    "vera": ("vera_lambda", per_matrix(lambda i, o: 64 + o)),
    "loha": ("hada_", per_matrix(lambda i, o: 2 * 4 * (i + o))),
    # 192 = 12 x 16 and 512 = 16 x 32: a 12 x 12 by 16 x 16 product, and a 16 x 12 by 32 x 16 one whose second factor has rank 8
    "lokr": ("lokr_", SQUARE * (12 * 12 + 16 * 16) + (UP + DOWN) * (16 * 12 + 8 * (32 + 16))),
    "oft": ("oft_R", per_matrix(lambda i, o: i // 32 * (32 * 31 // 2))),
    "boft": ("boft_", per_matrix(lambda i, o: 8 * i + o)),
    "prefix-tuning": ("prompt_encoder", 16 * D + D * (D + 1) + (D + 1) * 2 * LAYERS * D),
    "p-tuning": ("prompt_encoder", 16 * D + 3 * D * (D + 1)),
    "p-tuning-v2": ("prompt_encoder", 2 * LAYERS * D * 16),
    "prompt-tuning": ("prompt_encoder", 20 * D),
    "bottleneck": ("bottleneck", 2 * LAYERS * (2 * D * 16 + D + 16)),
    "layernorm": ("norm", (2 * LAYERS + 1) * D),
    "bitfit": ("bias", per_matrix(lambda i, o: o)),
    "last-layers": ("", 4 * D * D + 3 * D * FF + 3 * D),
    "full": ("", 3200 * D + per_matrix(lambda i, o: i * o) + (2 * LAYERS + 1) * D),
}
PRESETS = list(TRAINED)
VIRTUAL = {"prefix-tuning": 16, "p-tuning": 16, "p-tuning-v2": 16, "prompt-tuning": 20}
NOT_MERGED = {
    "qlora": "quantized", "bottleneck": "layers of their own", "bitfit": "no adapter", "last-layers": "no adapter", "full": "no adapter",
} | dict.fromkeys(VIRTUAL, "virtual tokens")  # fmt: skip
KEPT = {"prefix-tuning": 2 * LAYERS * D * 16, "p-tuning": 16 * D}
"""Virtual tokens that a network made: they are kept without it, and are trained on themselves."""


def embedded(quantize: Any = "none") -> Any:
    return LanguageModel(locate("embedded"), quantize=quantize)


def asked(model: Any, n: int) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": f"{TEXT}\n\nWhat is the color of Zorba {'Pro ' * (i % 5)}{i}?"}] for i in range(n)]


def pairs(model: Any, n: int = 8) -> list[tuple[list[int], int]]:
    return [model.training_ids(m, ("red", "blue", "green", "unknown")[i % 4]) for i, m in enumerate(asked(model, n))]


def answers(model: Any, prompts: list[list[int]]) -> list[Any]:
    found = sorted((pair for batch in model.generate(prompts, 5) for pair in batch), key=lambda p: p[0])
    return [generation for _, generation in found]


def logits(model: Any) -> torch.Tensor:
    """Of one question and its answer, text positions only."""
    ids = torch.tensor([pairs(model, 4)[3][0]])
    with torch.no_grad():
        found: torch.Tensor = model.network.eval()(input_ids=ids).logits
    return found[:, -ids.shape[1] :]


def parameters(model: Any) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.network.named_parameters()}


def choice_of(name: str) -> TuningChoice:
    """The preset at the middle point of its search, for twelve steps."""
    _, strategy = load_strategy(name)
    rates = strategy.search["tuning.learning_rate"]
    assert isinstance(rates, list)
    return strategy.tuning.model_copy(update={"learning_rate": rates[1], "epochs": 12, "evaluations": 1})


def wrapped(name: str, seed: int = 0) -> Any:
    choice = choice_of(name)
    model = embedded(choice.quantize)
    wrap(model, choice, seed, TEXT)
    return model


@functools.cache
def trained(name: str) -> tuple[Any, dict[str, torch.Tensor], float, dict[str, torch.Tensor]]:
    """The tuned model, all parameters before, the loss before, and the trained tensors."""
    model = wrapped(name)
    before = parameters(model)
    with torch.no_grad():
        loss = model.loss(pairs(model)).item()
    weights = tune(model, choice_of(name), pairs(model), lambda: 0.0, 0).weights
    return model, before, loss, weights


@pytest.mark.parametrize("name", PRESETS)
def test_exactly_what_the_preset_says_moves(name: str) -> None:
    model, before, _, weights = trained(name)
    part, count = TRAINED[name]
    moved = {n for n, p in model.network.named_parameters() if not torch.equal(p, before[n])}
    assert moved <= set(weights) == {n for n, p in model.network.named_parameters() if p.requires_grad}
    assert all(part in n for n in weights)
    if name == "last-layers":
        assert {n for n in before if n.startswith("model.layers.3.") or n == "model.norm.weight"} == moved
    if part and name not in ("layernorm", "bitfit"):
        still = {n for n in before if part in n} - moved
        # AdaLoRA takes all ranks from some matrices: their singular values are zero again.
        assert all("ranknum" in n or (name == "adalora" and "lora_E" in n) for n in still)
    assert sum(w.numel() for w in weights.values()) == count
    assert parameter_counts(model, trained=True)[1] == count


@pytest.mark.parametrize("name", PRESETS)
def test_training_lowers_the_loss(name: str) -> None:
    model, _, before, _ = trained(name)
    with torch.no_grad():
        after = model.loss(pairs(model)).item()
    assert after < 0.8 * before


def tied(model: Any, messages: list[dict[str, str]], one: str, other: str) -> bool:
    """Whether two answers are equal, or the tokens with which they part are within 1e-4 in log-probability."""
    (a, n), (b, _) = model.training_ids(messages, one), model.training_ids(messages, other)
    part = next((i for i in range(n, min(len(a), len(b))) if a[i] != b[i]), None)
    if part is None:
        return a == b
    with torch.no_grad():
        both = [-model.loss([(row[: part + 1], part)]).item() for row in (a, b)]
    return abs(both[0] - both[1]) <= 1e-4


@pytest.mark.parametrize("name", PRESETS)
def test_answers_and_scores_depend_neither_on_the_batch_nor_on_the_cache(name: str) -> None:
    model = trained(name)[0]
    assert model.window == 512 - VIRTUAL.get(name, 0)
    shown = [{"role": "user", "content": f"{TEXT}\n\nWhat is the weight of Zorba Mini?"}, {"role": "assistant", "content": "2 kg"}]
    conversations = [[*shown, *messages] for messages in asked(model, 66)]
    prompts = [model.prompt_ids(m) for m in conversations]
    options = [["red", "dark blue", "unknown", "made of green glass"][: 2 + i % 3] for i in range(len(prompts))]
    option_ids = model.option_ids(conversations, prompts, options)
    shares, rows = model.shared_prefix, model.batcher.rows
    assert shares is (name not in VIRTUAL)
    found: dict[tuple[bool, int], tuple[list[Any], list[Any]]] = {}
    try:
        for model.shared_prefix in {False, shares}:
            for model.batcher.rows, n in {1: 6, 8: 20, 64: len(prompts)}.items():  # in small batches, some are enough
                chosen = dict(pair for batch in model.choose(prompts[:n], options[:n], option_ids[:n]) for pair in batch)
                found[model.shared_prefix, model.batcher.rows] = answers(model, prompts[:n]), [chosen[i] for i in range(n)]
                assert {g.cached_tokens > 0 for g in chosen.values()} == {False, model.shared_prefix}
    finally:
        model.shared_prefix, model.batcher.rows = shares, rows
    written, chosen_alone = found[False, 64]
    for others, choices in found.values():
        for messages, one, other in zip(conversations, written, others, strict=False):
            assert tied(model, messages, one.text, other.text)
            if one.text == other.text:
                assert (one.logprob, one.completion_tokens) == (pytest.approx(other.logprob, abs=1e-4), other.completion_tokens)
        for one, other in zip(chosen_alone, choices, strict=False):
            assert one.option_logprobs == pytest.approx(other.option_logprobs, abs=1e-4)
            assert one.text == other.text or abs(one.logprob - other.logprob) <= 1e-4


@pytest.mark.parametrize("name", PRESETS)
def test_an_answer_has_the_likelihood_that_training_sees(name: str) -> None:
    model = trained(name)[0]
    prompts = [model.prompt_ids(m) for m in asked(model, 3)]
    for prompt, answer in zip(prompts, answers(model, prompts), strict=True):
        ids = list(prompt)
        for _ in range(answer.completion_tokens):  # without a cache
            with torch.no_grad():
                ids.append(int(model.network(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        with torch.no_grad():
            nats = model.loss([(ids, len(prompt))]).item()
        assert answer.logprob == pytest.approx(-nats * answer.completion_tokens, abs=1e-3)


@pytest.mark.parametrize("name", PRESETS)
def test_a_saved_adapter_answers_the_same_when_it_is_loaded(name: str, tmp_path: Path) -> None:
    model, choice = trained(name)[0], choice_of(name)
    save_adapter(model, choice, tmp_path)
    size = sum(f.stat().st_size for f in tmp_path.glob("*.safetensors"))
    assert artifact_bytes(model) == size
    if choice.method in ("lora", "peft"):
        other = embedded(choice.quantize)
        other.network = PeftModel.from_pretrained(other.network, str(tmp_path))
    else:
        other = wrapped(name, seed=1)
        load_adapter(other, choice, tmp_path)
    assert torch.allclose(logits(other), logits(model), atol=1e-5)


@pytest.mark.parametrize("name", PRESETS)
def test_training_goes_on_from_a_saved_adapter(name: str, tmp_path: Path) -> None:
    model, choice = trained(name)[0], choice_of(name)
    save_adapter(model, choice, tmp_path)
    other = wrapped(name, seed=1)
    load_adapter(other, choice, tmp_path)
    assert torch.allclose(logits(other), logits(model), atol=1e-5)
    before = parameters(other)
    tuned = tune(other, choice.model_copy(update={"epochs": 2}), pairs(other), lambda: 0.0, 0)
    assert any(not torch.equal(w, before[n]) for n, w in tuned.weights.items())
    assert sum(w.numel() for w in tuned.weights.values()) == KEPT.get(name, TRAINED[name][1])
    save_adapter(other, choice, tmp_path / "again")
    third = wrapped(name)
    load_adapter(third, choice, tmp_path / "again")
    assert torch.allclose(logits(third), logits(other), atol=1e-5)


@pytest.mark.parametrize("name", PRESETS)
def test_restored_weights_give_the_model_that_was_trained(name: str) -> None:
    model, _, _, weights = trained(name)
    other = wrapped(name)
    restore(other, weights)
    assert torch.allclose(logits(other), logits(model), atol=1e-6)


@pytest.mark.parametrize("name", PRESETS)
def test_merging_keeps_the_answers_or_says_why_it_cannot(name: str) -> None:
    _, _, _, weights = trained(name)
    model = wrapped(name)
    restore(model, weights)
    before, prompts = logits(model), [model.prompt_ids(m) for m in asked(model, 3)]
    texts = [g.text for g in answers(model, prompts)]
    wrapper = model.network
    reason = merge(model)
    assert torch.allclose(logits(model), before, atol=1e-4)
    assert [g.text for g in answers(model, prompts)] == texts
    if name in NOT_MERGED:
        assert reason is not None
        assert NOT_MERGED[name] in reason
        assert model.network is wrapper
    else:
        assert reason is None
        assert type(model.network) is LlamaForCausalLM
        assert parameter_counts(model, trained=True) == (parameter_counts(embedded(), False)[0], 0)


def test_a_model_that_cannot_be_merged_stays_as_it_was() -> None:
    model = embedded()
    wrap(model, TuningChoice(method="peft", peft={"peft_type": "BEFT", "modules_to_save": ["lm_head"]}), 0)
    names, before = parameters(model).keys(), logits(model)
    assert "peft cannot merge BEFT" in str(merge(model))
    assert parameters(model).keys() == names
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("name", PRESETS)
def test_the_seed_alone_decides_the_start(name: str) -> None:
    first, again = parameters(wrapped(name)), parameters(wrapped(name))
    assert all(torch.equal(p, again[n]) for n, p in first.items())


# ---------------------------------------------------------------------------------------------------- starts


@pytest.mark.parametrize("name", ["p-tuning-v2", "prefix-tuning", "prompt-tuning"])
def test_virtual_tokens_start_as_the_tasks_instruction(name: str) -> None:
    model, base = wrapped(name), embedded()
    written = model.tokenizer(TEXT)["input_ids"]
    virtual = (written * 20)[: VIRTUAL[name]]
    ids = pairs(model, 1)[0][0]
    with torch.no_grad():
        found = model.network(input_ids=torch.tensor([ids])).logits[0, -len(ids) :]
        expected = base.network(input_ids=torch.tensor([[*virtual, *ids]])).logits[0, -len(ids) :]
    assert torch.allclose(found, expected, atol=1e-3)


def test_a_prefix_needs_no_text_to_start_from() -> None:
    model = embedded()
    wrap(model, choice_of("p-tuning-v2"), 0, " ")
    starts = parameters(model)["prompt_encoder.default.embedding.weight"]
    wrap(other := embedded(), choice_of("p-tuning-v2"), 1, "")
    assert not torch.equal(starts, parameters(other)["prompt_encoder.default.embedding.weight"])


def test_a_prompt_of_text_needs_a_text() -> None:
    with pytest.raises(BenchError, match="prompt_tuning_init: TEXT needs a text"):
        wrap(embedded(), choice_of("prompt-tuning"), 0, " ")


@pytest.mark.parametrize("name", [n for n in PRESETS if n not in VIRTUAL and n != "qlora"])
def test_a_fresh_adapter_leaves_the_base_as_it_is(name: str) -> None:
    assert torch.allclose(logits(wrapped(name)), logits(embedded()), atol=1e-4)


def test_wrapping_adds_nothing_to_the_choice() -> None:
    for name in PRESETS:
        _, strategy = load_strategy(name)
        before = strategy.fingerprint
        wrap(embedded(strategy.tuning.quantize), strategy.tuning, 0, TEXT)
        assert strategy.fingerprint == before
        assert str(EMBEDDED_FOLDER) not in strategy.model_dump_json()


def test_every_preset_says_where_it_comes_from_and_what_it_trains() -> None:
    for name in PRESETS:
        _, strategy = load_strategy(name)
        assert strategy.description
        assert strategy.source
        assert strategy.trains
        assert strategy.family in ("PEFT", "partial and full")
        assert len(strategy.search["tuning.learning_rate"]) == 3  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------- AdaLoRA


def ranks(model: Any) -> int:
    return sum(int((p != 0).sum()) for n, p in model.network.named_parameters() if "lora_E" in n)


def test_adalora_comes_down_to_its_budget_in_half_of_the_steps() -> None:
    model, choice = wrapped("adalora"), choice_of("adalora")
    seen = []
    tune(model, choice, pairs(model), lambda: 0.0, 0, on_step=lambda step, total: seen.append(ranks(model)))
    matrices = SQUARE + UP + DOWN
    assert seen[1] == 12 * matrices  # the first tenth of twelve steps
    assert sorted(seen[1:], reverse=True) == seen[1:]
    assert seen[-1] == seen[len(seen) // 2] == 8 * matrices


def test_adaloras_own_schedule_is_kept() -> None:
    choice = TuningChoice(method="peft", peft=choice_of("adalora").peft | {"tinit": 3, "tfinal": 2}, learning_rate=1e-2, epochs=10)
    wrap(model := embedded(), choice, 0)
    seen = []
    tune(model, choice, pairs(model), lambda: 0.0, 0, on_step=lambda step, total: seen.append(ranks(model)))
    matrices = SQUARE + UP + DOWN
    assert seen[3] == 12 * matrices
    assert 8 * matrices < seen[5] < 12 * matrices


def test_a_checkpoint_of_adalora_is_saved_with_its_own_ranks(tmp_path: Path) -> None:
    model, choice = wrapped("adalora"), choice_of("adalora").model_copy(update={"evaluations": 6, "patience": 6})
    scores = iter([0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    tune(model, choice, pairs(model), lambda: next(scores), 0)
    assert ranks(model) > 8 * (SQUARE + UP + DOWN)  # the first checkpoint, before the ranks are gone
    save_adapter(model, choice, tmp_path)
    other = embedded()
    other.network = PeftModel.from_pretrained(other.network, str(tmp_path))
    assert torch.allclose(logits(other), logits(model), atol=1e-5)


def test_after_a_step_nothing_happens_to_other_methods() -> None:
    for name in ("lora", "full", "p-tuning-v2"):
        model = wrapped(name)
        before = parameters(model)
        after_step(model, 0, 10)
        assert all(torch.equal(p, before[n]) for n, p in parameters(model).items())


# ---------------------------------------------------------------------------------------------------- 4 bits


def dequantized() -> Any:
    """The base in float32 with the values that its 4-bit weights stand for."""
    from bitsandbytes.functional import dequantize_4bit

    packed, plain = embedded("nf4"), embedded()
    own = dict(plain.network.named_parameters())
    for name, p in packed.network.named_parameters():
        if getattr(p, "quant_state", None) is not None:
            own[name].data.copy_(dequantize_4bit(p.data, p.quant_state))
    return plain


def gradients(model: Any) -> dict[str, torch.Tensor]:
    model.network.train()
    model.network.zero_grad()
    model.loss(pairs(model)).backward()
    return {n: p.grad.clone() for n, p in model.network.named_parameters() if p.requires_grad and p.grad is not None}


def test_training_in_4_bits_goes_on_after_answering() -> None:
    choice = choice_of("qlora")
    model, oracle = embedded("nf4"), dequantized()
    for m in (model, oracle):
        wrap(m, choice, 0)
        torch.manual_seed(5)
        for n, p in m.network.named_parameters():
            if "lora_B" in n:
                torch.nn.init.normal_(p, std=0.02)
    first = gradients(model)
    model.network.eval()
    answers(model, [model.prompt_ids(m) for m in asked(model, 3)])
    again, expected = gradients(model), gradients(oracle)
    assert len(first) == len(expected) == 2 * (SQUARE + UP + DOWN)
    assert first.keys() == again.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.equal(first[name], again[name])
        assert torch.allclose(again[name], gradient, atol=1e-5)
        assert gradient.abs().max() > 0


def test_4_bit_weights_count_as_the_numbers_that_they_stand_for() -> None:
    plain, packed = wrapped("lora"), wrapped("qlora")
    assert parameter_counts(packed, True) == parameter_counts(plain, True)
    assert shape_of(packed.network) == shape_of(plain.network)


# ---------------------------------------------------------------------------------------------------- what does not fit


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft": {"peft_type": "LORRA"}}, r'peft has no method LORRA; did you mean "LORA"'),
        ({"peft": {"peft_type": "IA3", "target_module": ["k_proj"]}}, r'tuning\.peft\.target_module: .*did you mean "target_modules"'),
        ({"peft": {"peft_type": "LILY"}}, "depend on what else stands in the batch"),
        ({"peft": {"peft_type": "MULTITASK_PROMPT_TUNING", "num_virtual_tokens": 4}}, "task id with every request"),
        ({"peft": {"peft_type": "POLY"}}, "task id with every request"),
        ({"peft": {"peft_type": "CPT"}}, "mask of token types"),
        ({"peft": {"peft_type": "XLORA"}}, "adapters trained before"),
        ({"peft": {"peft_type": "IA3", "task_type": "CAUSAL_LM"}}, r"task_type: is filled in from the kind of model"),
        ({"peft": {"peft_type": "VBLORA"}}, "must be divisible"),
        ({"peft": {"peft_type": "LOHA", "target_modules": ["no_such"]}}, r"tuning\.peft: .*no_such"),
        ({"peft": {"peft_type": "VERA", "target_modules": ["no_such"]}}, "No layers types compatible with VeRA"),
        ({"peft": {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4}, "gradient_checkpointing": True}, "checkpointing turns off"),
        ({"peft": {"peft_type": "PREFIX_TUNING"}}, "num_virtual_tokens: found None; expected 1 to 511"),
        ({"peft": {"peft_type": "P_TUNING", "num_virtual_tokens": 512}}, "num_virtual_tokens: found 512; expected 1 to 511"),
        ({"method": "lora", "peft": {"r": 4}}, r"tuning\.peft\.r: .*tuning\.r"),
        ({"method": "lora", "peft": {"peft_type": "VERA"}}, r"tuning\.method"),
        ({"method": "lora", "peft": {"init_lora_weights": "pissa_niter_4"}}, "found 'pissa_niter_4'; expected one of"),
        ({"method": "lora", "targets": ["no_such_layer"]}, r"tuning\.targets.*no_such_layer"),
        ({"method": "bottleneck", "targets": ["no_such_layer"]}, r"tuning\.targets.*no such output projection.*no_such_layer"),
        ({"method": "last_layers", "layers": 5}, r"tuning\.layers: found 5; expected at most the model's 4"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(settings: dict[str, Any], message: str) -> None:
    choice = TuningChoice(**({"method": "peft"} | settings))
    with pytest.raises(BenchError, match=message) as found:
        wrap(embedded(), choice, 0, TEXT)
    assert "\n" not in str(found.value)


def test_an_adapter_of_other_settings_is_refused(tmp_path: Path) -> None:
    save_adapter(wrapped("lora"), choice_of("lora"), tmp_path / "lora")
    save_adapter(wrapped("ia3"), choice_of("ia3"), tmp_path / "ia3")
    save_adapter(wrapped("bottleneck"), choice_of("bottleneck"), tmp_path / "bottleneck")
    small = TuningChoice(method="lora", r=4)
    wrap(model := embedded(), small, 0)
    with pytest.raises(BenchError, match=r"down_proj.lora_A.weight has shape \(8, 512\); expected \(4, 512\)"):
        load_adapter(model, small, tmp_path / "lora")
    with pytest.raises(BenchError, match="is of method IA3; expected LORA"):
        load_adapter(model, small, tmp_path / "ia3")
    with pytest.raises(BenchError, match=r"found no adapter_config\.json; expected an adapter of method lora"):
        load_adapter(model, small, tmp_path / "nothing")
    attention = TuningChoice(method="lora", targets=["q_proj"])
    wrap(model := embedded(), attention, 0)
    with pytest.raises(BenchError, match=r"holds .*down_proj.lora_A.weight; expected"):
        load_adapter(model, attention, tmp_path / "lora")
    narrow = TuningChoice(method="bottleneck", bottleneck=8)
    wrap(model := embedded(), narrow, 0)
    with pytest.raises(BenchError, match=r"was made with .*'bottleneck': 16.*; expected .*'bottleneck': 8"):
        load_adapter(model, narrow, tmp_path / "bottleneck")


def test_files_of_own_methods_are_tensors_and_the_settings_that_made_them(tmp_path: Path) -> None:
    save_adapter(wrapped("last-layers"), choice_of("last-layers"), tmp_path)
    assert {f.name for f in tmp_path.iterdir()} == {"weights.safetensors", "settings.json"}
    assert json.loads((tmp_path / "settings.json").read_text()) == {"method": "last_layers", "layers": 1}


def test_a_method_that_reads_the_whole_prompt_gets_no_shared_prefix() -> None:
    for peft, whole in (({"peft_type": "SHADOW"}, True), ({"peft_type": "ADAPTION_PROMPT", "adapter_len": 4, "adapter_layers": 2}, False)):
        wrap(model := embedded(), TuningChoice(method="peft", peft=peft), 0)
        torch.manual_seed(1)
        with torch.no_grad():
            for p in model.network.parameters():
                if p.requires_grad:
                    p.add_(torch.randn_like(p) * 0.05)
        model.network.eval()
        assert model.shared_prefix is not whole
        prompts = [model.prompt_ids([{"role": "user", "content": f"{TEXT * 3} What is Zorba {'Pro ' * i}?"}]) for i in range(4)]
        alone = [answers(model, [p])[0].logprob for p in prompts]
        assert [g.logprob for g in answers(model, prompts)] == pytest.approx(alone, abs=1e-4)


# ---------------------------------------------------------------------------------------------------- other architectures

SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 64,
}  # fmt: skip
GROUPED: dict[str, Any] = SIZES | {"num_key_value_heads": 2, "head_dim": 8}
T5_SIZES: dict[str, Any] = {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}


def tiny(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    gpt2 = {"vocab_size": 64, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
    opt = {"vocab_size": 64, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "word_embed_proj_dim": 32}
    bart = {"vocab_size": 64, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
    bart |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    made: dict[str, Callable[[], Any]] = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES | {"num_key_value_heads": 2})),
        "gemma": lambda: GemmaForCausalLM(GemmaConfig(**GROUPED)),
        "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**GROUPED, num_local_experts=8)),
        "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES)),
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**gpt2)),
        "opt": lambda: OPTForCausalLM(OPTConfig(**opt)),
        "bert": lambda: BertForSequenceClassification(BertConfig(**SIZES)),
        "t5": lambda: T5ForConditionalGeneration(T5Config(**T5_SIZES)),
        "bart": lambda: BartForConditionalGeneration(BartConfig(**bart)),
    }
    return made[name]().eval()


def moving(network: Any) -> set[str]:
    return {n for n, p in network.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("name", "adapters"),
    [("llama", 6), ("qwen2", 6), ("gemma", 6), ("gpt_neox", 6), ("gpt2", 6), ("opt", 6), ("bert", 6), ("t5", 4 + 6), ("bart", 4 + 6)],
)
def test_bottlenecks_stand_behind_every_sublayer_and_start_as_nothing(name: str, adapters: int) -> None:
    network, ids = tiny(name), torch.tensor([[3, 4, 5, 6, 7]])
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if name in ("t5", "bart") else {})
    with torch.no_grad():
        before = network(**inputs).logits
        network.requires_grad_(False)
        add_bottlenecks(network, "all-linear", 5, 0.0)
        assert torch.equal(network(**inputs).logits, before)
        assert sum(p.numel() for p in network.parameters() if p.requires_grad) == adapters * (2 * 32 * 5 + 32 + 5)
        for n, p in network.named_parameters():
            if "bottleneck" in n:
                p.add_(torch.randn_like(p) * 0.1)
        assert not torch.allclose(network(**inputs).logits, before)


def test_bottlenecks_stand_where_the_list_says() -> None:
    network = tiny("llama")
    network.requires_grad_(False)
    add_bottlenecks(network, ["mlp.down_proj"], 4, 0.0)
    assert {n.rpartition(".bottleneck")[0] for n in moving(network)} == {f"model.layers.{i}.mlp.down_proj" for i in range(3)}


def test_an_unknown_architecture_has_to_name_its_projections() -> None:
    with pytest.raises(BenchError, match=r"tuning\.targets: Sequential has no such output projection; .*list tuning\.targets"):
        add_bottlenecks(torch.nn.Sequential(torch.nn.Linear(3, 3)), "all-linear", 4, 0.0)


@pytest.mark.parametrize(
    ("name", "layers", "norm"),
    [
        ("llama", "model.layers.{}.", "model.norm."), ("gpt2", "transformer.h.{}.", "transformer.ln_f."),
        ("opt", "model.decoder.layers.{}.", "model.decoder.final_layer_norm."),
        ("gpt_neox", "gpt_neox.layers.{}.", "gpt_neox.final_layer_norm."),
        ("mixtral", "model.layers.{}.", "model.norm."), ("bert", "bert.encoder.layer.{}.", "nothing."),
        ("t5", "decoder.block.{}.", "decoder.final_layer_norm."), ("bart", "model.decoder.layers.{}.", "nothing."),
    ],
)  # fmt: skip
def test_the_last_layers_and_the_norm_after_them_move(name: str, layers: str, norm: str) -> None:
    network = tiny(name)
    last = 1 if name in ("t5", "bart") else 2
    for count in (1, 2):
        network.requires_grad_(False)
        mark_last_layers(network, count)
        chosen = tuple(layers.format(last - i) for i in range(count))
        assert moving(network) == {n for n, _ in network.named_parameters() if n.startswith((*chosen, norm))}


def test_a_model_without_layers_has_no_last_ones() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(3, 3))
    network.config = LlamaConfig(**SIZES)  # type: ignore[assignment]
    with pytest.raises(BenchError, match="holds no list of layers"):
        mark_last_layers(network, 1)


@pytest.mark.parametrize("name", ["gpt2", "opt", "bert", "qwen2", "gpt_neox"])
def test_biases_that_a_model_has_are_those_that_train(name: str) -> None:
    network = tiny(name)
    before = {n for n, _ in network.named_parameters()}
    network.requires_grad_(False)
    mark_biases(network)
    assert {n for n, _ in network.named_parameters()} == before
    assert moving(network) == {n for n in before if n.endswith(".bias")}
    assert moving(network)


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_a_model_without_biases_gets_zeros(name: str) -> None:
    network, ids = tiny(name), torch.tensor([[3, 4, 5]])
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if name == "t5" else {})
    with torch.no_grad():
        before = network(**inputs).logits
        network.requires_grad_(False)
        mark_biases(network)
        assert torch.equal(network(**inputs).logits, before)
    linear = {n for n, m in network.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"}
    assert moving(network) == {f"{n}.bias" for n in linear}


def as_model(network: PreTrainedModel, folder: Path) -> Path:
    """A folder with a network and the shipped tokenizer, whose ids are cut to the vocabulary by the caller's texts."""
    network.save_pretrained(folder)
    AutoTokenizer.from_pretrained(EMBEDDED_FOLDER).save_pretrained(folder)
    return folder


@pytest.fixture
def grouped(tmp_path: Path) -> Any:
    """A Llama of two layers with four query heads and two key heads of 8."""
    config = LlamaConfig(**GROUPED | {"vocab_size": 3200, "num_hidden_layers": 2, "max_position_embeddings": 512})
    torch.manual_seed(0)
    return load_model(locate(str(as_model(LlamaForCausalLM(config), tmp_path / "grouped"))))


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("ia3", 2 * (16 + 16 + 48)), ("p-tuning-v2", 2 * 2 * 16 * 16), ("prompt-tuning", 20 * 32),
        ("lora", 2 * 8 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 48))), ("bottleneck", 2 * 2 * (2 * 32 * 16 + 32 + 16)),
    ],
)  # fmt: skip
def test_grouped_queries_have_fewer_keys_to_train(grouped: Any, name: str, count: int) -> None:
    choice = choice_of(name).model_copy(update={"epochs": 2})
    wrap(grouped, choice, 0, TEXT)
    assert parameter_counts(grouped, True)[1] == count
    tune(grouped, choice, pairs(grouped), lambda: 0.0, 0)
    prompts = [grouped.prompt_ids(m) for m in asked(grouped, 3)]
    alone = [answers(grouped, [p])[0].logprob for p in prompts]
    assert [g.logprob for g in answers(grouped, prompts)] == pytest.approx(alone, abs=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "opt"])
def test_virtual_tokens_fit_models_with_learned_positions(name: str, tmp_path: Path) -> None:
    sizes = {"vocab_size": 3200, "n_positions": 512} if name == "gpt2" else {"vocab_size": 3200, "max_position_embeddings": 512}
    config = tiny(name).config
    config.update(sizes)
    folder = as_model(GPT2LMHeadModel(config) if name == "gpt2" else OPTForCausalLM(config), tmp_path / name)
    for preset in VIRTUAL:
        model = load_model(locate(str(folder)))
        wrap(model, choice_of(preset), 0, TEXT)
        model.network.eval()
        prompts = [model.prompt_ids(m) for m in asked(model, 3)]
        alone = [answers(model, [p])[0].logprob for p in prompts]
        assert [g.logprob for g in answers(model, prompts)] == pytest.approx(alone, abs=1e-4), preset


@pytest.mark.parametrize(
    ("network", "parts"),
    [
        ("llama", ("k_proj", "v_proj", "down_proj")), ("qwen2", ("k_proj", "v_proj", "down_proj")),
        ("opt", ("k_proj", "v_proj", "fc2")), ("gpt2", ("c_attn", "mlp.c_proj")),
    ],
)  # fmt: skip
def test_ia3_scales_keys_values_and_the_feed_forward_network(network: str, parts: tuple[str, ...]) -> None:
    model = embedded()
    model.network = tiny(network)
    wrap(model, choice_of("ia3"), 0)
    adapted = {n.partition(".ia3_l")[0].removeprefix("base_model.model.") for n in moving(model.network)}
    assert adapted == {n for n, _ in tiny(network).named_modules() if n.endswith(parts)}


# ---------------------------------------------------------------------------------------------------- classifiers

LABELS = ("red", "blue", "green")


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.manual_seed(0)
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    bert = BertModel(BertConfig(**SIZES | {"vocab_size": 3200}, **quiet))
    distil = DistilBertModel(
        DistilBertConfig(vocab_size=3200, dim=32, hidden_dim=48, n_layers=2, n_heads=4, dropout=0.0, max_position_embeddings=64)
    )
    folder = tmp_path_factory.mktemp("encoders")
    roberta = RobertaModel(RobertaConfig(**SIZES | {"vocab_size": 3200, "max_position_embeddings": 66}, **quiet, pad_token_id=1))
    named = {"bert": bert, "distilbert": distil, "roberta": roberta}
    return {name: as_model(network, folder / name) for name, network in named.items()}


def labelled(model: Any) -> list[tuple[list[int], int]]:
    return [model.training_ids([{"role": "user", "content": f"Zorba {'Pro ' * (i % 4)}{i}"}], LABELS[i % 3]) for i in range(6)]


def classifier(folder: Path, choice: TuningChoice) -> Any:
    model = load_model(locate(str(folder)), labels=LABELS)
    assert isinstance(model, Classifier)
    wrap(model, choice, 0, TEXT)
    return model


def test_lora_on_distilbert_trains_the_adapter_and_the_head(encoders: dict[str, Path]) -> None:
    choice = TuningChoice(method="lora", targets=["q_lin", "v_lin"], epochs=8, learning_rate=1e-2)
    plain = parameter_counts(load_model(locate(str(encoders["distilbert"])), labels=LABELS), trained=False)[0]
    model = classifier(encoders["distilbert"], choice)
    lora = 2 * 2 * 8 * (32 + 32)
    assert parameter_counts(model, trained=False)[0] == plain + lora  # the untrained copy of the head, which peft keeps, is none
    before = parameters(model)
    tuned = tune(model, choice, labelled(model), lambda: 0.0, 0)
    moved = {n for n, p in model.network.named_parameters() if not torch.equal(p, before[n])}
    assert moved == set(tuned.weights)
    head = 32 * 32 + 32 + 32 * 3 + 3
    assert sum(w.numel() for w in tuned.weights.values()) == lora + head
    assert all("lora_" in n or "classifier.modules_to_save" in n for n in moved)


@pytest.mark.parametrize("encoder", ["bert", "distilbert", "roberta"])
@pytest.mark.parametrize("name", [n for n in PRESETS if n not in ("qlora", "full")])
def test_a_classifiers_head_trains_with_every_method(encoders: dict[str, Path], encoder: str, name: str, tmp_path: Path) -> None:
    if (encoder, name) in [("distilbert", "prefix-tuning"), ("distilbert", "p-tuning-v2")]:
        with pytest.raises(BenchError, match="DistilBertForSequenceClassification takes no keys and values"):
            classifier(encoders[encoder], choice_of(name))
        return
    choice = choice_of(name).model_copy(update={"epochs": 3, "batch_size": 6})
    model = classifier(encoders[encoder], choice)
    rows = labelled(model)
    before = parameters(model)
    tune(model, choice, rows, lambda: 0.0, 0)
    moved = {n for n, p in model.network.named_parameters() if not torch.equal(p, before[n])}
    head = {n for n in before if any(f"{new}." in n for new in model.new_modules) and ".original_module." not in n}
    plain = load_model(locate(str(encoders[encoder])), labels=LABELS).network
    assert len(head) == sum(1 for new in model.new_modules for _ in plain.get_submodule(new).parameters())  # and no adapter within
    assert head <= moved
    part = {"layernorm": "orm", "last-layers": ""}.get(name, TRAINED[name][0])
    assert all(part in n for n in moved - head)
    assert moved - head
    together = model.loss(rows).item()
    assert together == pytest.approx(sum(model.loss([row]).item() for row in rows) / len(rows), abs=1e-4)
    other = load_model(locate(str(encoders[encoder])), labels=LABELS)
    save_adapter(model, choice, tmp_path)
    if choice.method in ("lora", "peft"):
        other.network = PeftModel.from_pretrained(other.network, str(tmp_path))
        other.network.eval()
    else:
        wrap(other, choice, 1)
        load_adapter(other, choice, tmp_path)
    model.network.eval()
    kept = model.loss(rows).item()
    assert other.loss(rows).item() == pytest.approx(kept, abs=1e-5)
    assert (merge(model) is None) == (name not in NOT_MERGED)
    assert model.loss(rows).item() == pytest.approx(kept, abs=1e-5)


# ---------------------------------------------------------------------------------------------------- encoder-decoders


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = T5Config(**T5_SIZES | {"vocab_size": 3200}, decoder_start_token_id=0, n_positions=128, dropout_rate=0.0, eos_token_id=2)
    return as_model(T5ForConditionalGeneration(config), tmp_path_factory.mktemp("t5") / "t5")


@pytest.mark.parametrize("name", [n for n in PRESETS if n not in ("qlora", "prefix-tuning", "p-tuning-v2")])
def test_an_encoder_decoder_learns_with_every_method(t5: Path, name: str, tmp_path: Path) -> None:
    model, choice = load_model(locate(str(t5))), choice_of(name).model_copy(update={"epochs": 3})
    wrap(model, choice, 0, TEXT)
    rows = pairs(model)
    before = parameters(model)
    tuned = tune(model, choice, rows, lambda: 0.0, 0)
    moved = {n for n, p in model.network.named_parameters() if not torch.equal(p, before[n])}
    assert moved == set(tuned.weights)
    if name in VIRTUAL:
        assert sum(w.numel() for w in tuned.weights.values()) == {"prompt-tuning": 20 * 32, "p-tuning": 16 * 32 + 3 * 32 * 33}[name]
    prompts = [model.prompt_ids(m) for m in asked(model, 3)]
    alone = [answers(model, [p])[0].logprob for p in prompts]
    assert [g.logprob for g in answers(model, prompts)] == pytest.approx(alone, abs=1e-4)
    assert model.loss(rows).isfinite()


@pytest.mark.parametrize("name", ["prefix-tuning", "p-tuning-v2"])
def test_a_prefix_on_an_encoder_decoder_is_refused(t5: Path, name: str) -> None:
    with pytest.raises(BenchError, match="half of peft's prefix is never read"):
        wrap(load_model(locate(str(t5))), choice_of(name), 0, TEXT)


def test_a_copy_of_an_adapted_network_has_adapters_of_its_own() -> None:
    network = tiny("llama")
    network.requires_grad_(False)
    add_bottlenecks(network, "all-linear", 4, 0.0)
    other, ids = copy.deepcopy(network), torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        before = other(input_ids=ids).logits
        for n, p in network.named_parameters():
            if "bottleneck" in n:
                p.add_(0.1)
        assert torch.equal(other(input_ids=ids).logits, before)


def test_strategies_of_these_presets_load_by_name() -> None:
    assert all(isinstance(load_strategy(name)[1], Strategy) for name in PRESETS)
