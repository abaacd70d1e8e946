"""The formulas against torch's own counter, which counts the matrix multiplications that really run."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from bench.cost.flops import ModelShape, forward_flops, generation_flops, shape_of, training_flops
from bench.errors import BenchError

# torch's counter knows no fused attention on a CPU, so every model here computes it in the plain way ("eager"),
# which multiplies the whole rectangle of queries and keys and then masks: causal=False below.
EAGER = {"attn_implementation": "eager"}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def llama(**changes: object) -> PreTrainedModel:
    settings = {"hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 8, "num_attention_heads": 4, "vocab_size": 320}
    return LlamaForCausalLM(LlamaConfig(**{**settings, "num_key_value_heads": 2, "tie_word_embeddings": True, **EAGER, **changes}))


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(n_embd=64, n_layer=8, n_head=4, vocab_size=320, n_positions=128, **EAGER))


def qwen3() -> PreTrainedModel:
    """Heads wider than the residual stream (head size 32, four heads, width 64)."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
    return Qwen3ForCausalLM(Qwen3Config(**sizes, head_dim=32, vocab_size=320, **EAGER))


def mixtral() -> PreTrainedModel:
    """Four experts, of which a token meets two."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "experts_implementation": "eager"}
    return MixtralForCausalLM(MixtralConfig(**sizes, **experts, vocab_size=320, **EAGER))


def bert() -> PreTrainedModel:
    sizes = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 8, "num_attention_heads": 4}
    return BertModel(BertConfig(**sizes, vocab_size=320, **EAGER), add_pooling_layer=False)


def counted(model: torch.nn.Module, tokens: int, *, train: bool = False, **call: object) -> int:
    ids = torch.arange(tokens)[None] % 300
    with FlopCounterMode(display=False) as counter:
        if train:
            model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        else:
            with torch.no_grad():
                model(input_ids=ids, **call)
    return int(counter.get_total_flops())


@pytest.mark.parametrize("build", [llama, gpt2, qwen3, mixtral, bert])
@pytest.mark.parametrize("tokens", [1, 7, 96])
def test_forward_agrees_with_the_counter(build, tokens):
    model = build()
    assert forward_flops(shape_of(model), tokens, causal=False) == pytest.approx(counted(model, tokens), rel=0.02)


def test_output_head_on_the_last_position_only():
    model = llama(vocab_size=2048)
    expected = counted(model, 50, logits_to_keep=1)
    assert forward_flops(shape_of(model), 50, logits_tokens=1, causal=False) == pytest.approx(expected, rel=0.02)
    assert forward_flops(shape_of(model), 50, causal=False) > 1.05 * expected


def test_tokens_fed_one_by_one_through_a_cache_give_the_exact_causal_sum():
    model = llama()
    cache, total = None, 0
    for position in range(12):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            cache = model(input_ids=torch.tensor([[position]]), past_key_values=cache, use_cache=True).past_key_values
        total += int(counter.get_total_flops())
    shape = shape_of(model)
    assert forward_flops(shape, 12) == pytest.approx(total, rel=0.002)
    assert forward_flops(shape, 5) + forward_flops(shape, 7, 5) == forward_flops(shape, 12)


@pytest.mark.parametrize("build", [llama, gpt2])
def test_generation_agrees_with_the_counter(build):
    model = build().eval()
    ids = torch.arange(20)[None]
    with FlopCounterMode(display=False) as counter:
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, min_new_tokens=10, do_sample=False, pad_token_id=0)
    shape = shape_of(model)
    assert generation_flops(shape, 20, 10) == pytest.approx(counter.get_total_flops(), rel=0.02)
    saved = forward_flops(shape, 15, logits_tokens=0)
    assert generation_flops(shape, 20, 10, n_cached_tokens=15) == generation_flops(shape, 20, 10) - saved


def test_a_prompt_without_completion_costs_its_prefill():
    shape = shape_of(llama())
    assert generation_flops(shape, 20, 0) == generation_flops(shape, 20, 1) == forward_flops(shape, 20, logits_tokens=1)


@pytest.mark.parametrize("build", [llama, gpt2, qwen3])
def test_full_training_agrees_with_the_counter_and_is_three_forward_passes(build):
    model = build()
    shape = shape_of(model)
    assert training_flops(shape, 64, causal=False) == pytest.approx(counted(model, 64, train=True), rel=0.02)
    assert training_flops(shape, 64) == 3 * forward_flops(shape, 64)


@pytest.mark.parametrize("lora", [False, True])
def test_training_with_logits_at_the_completion_only_agrees_with_the_counter(lora):
    model = llama(vocab_size=2048)
    if lora:
        model = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    shape, ids = shape_of(model), torch.arange(60)[None]
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, use_cache=False, logits_to_keep=torch.arange(48, 60)).logits.sum().backward()
    assert training_flops(shape, 60, logits_tokens=12, causal=False) == pytest.approx(counter.get_total_flops(), rel=0.02)
    assert training_flops(shape, 60, causal=False) > 1.1 * counter.get_total_flops()


@pytest.mark.parametrize(("build", "targets"), [(llama, "all-linear"), (llama, ["q_proj", "v_proj"]), (gpt2, ["c_attn", "c_proj", "c_fc"])])
def test_lora_agrees_with_the_counter(build, targets):
    base = build()
    before = shape_of(base)
    model = get_peft_model(base, LoraConfig(r=8, target_modules=targets, task_type="CAUSAL_LM", fan_in_fan_out=build is gpt2))
    shape = shape_of(model)
    assert shape.matmul_params == before.matmul_params
    assert shape.head_params == before.head_params == 320 * 64
    assert shape.adapter_params == shape.trainable_params == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert forward_flops(shape, 64, causal=False) == pytest.approx(counted(model, 64), rel=0.02)
    assert training_flops(shape, 64, causal=False) == pytest.approx(counted(model, 64, train=True), rel=0.02)


def test_a_merged_or_disabled_adapter_costs_nothing():
    base = shape_of(llama())
    model = get_peft_model(llama(), LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    with model.disable_adapter():
        assert shape_of(model).adapter_params == 0
    assert shape_of(model).adapter_params > 0
    model.merge_adapter()
    assert forward_flops(shape_of(model), 30) == forward_flops(base, 30)
    assert shape_of(model.merge_and_unload()).matmul_params == base.matmul_params


def test_only_the_active_adapter_counts():
    model = get_peft_model(llama(), LoraConfig(r=8, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    one = shape_of(model).adapter_params
    model.add_adapter("second", LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    assert shape_of(model).adapter_params == one
    model.set_adapter("second")
    assert shape_of(model).adapter_params == one // 4


def test_gradients_flow_only_through_the_layers_above_the_lowest_that_trains():
    model = llama()
    model.requires_grad_(False)
    for layer in model.model.layers[6:]:
        layer.requires_grad_(True)
    shape = shape_of(model)
    assert shape.backward_layers == 2
    assert training_flops(shape, 64, causal=False) == pytest.approx(counted(model, 64, train=True), rel=0.02)
    assert training_flops(shape, 64) < 0.7 * training_flops(shape_of(llama()), 64)


def test_a_trained_head_on_a_frozen_body_needs_its_own_gradients_only():
    model = llama(tie_word_embeddings=False)
    model.requires_grad_(False)
    model.lm_head.requires_grad_(True)
    shape = shape_of(model)
    assert (shape.backward_layers, shape.trainable_params) == (0, shape.head_params)
    assert training_flops(shape, 64, causal=False) == pytest.approx(counted(model, 64, train=True), rel=0.02)


def test_a_soft_prompt_sends_gradients_through_every_layer():
    model = get_peft_model(llama(), PromptTuningConfig(num_virtual_tokens=10, task_type="CAUSAL_LM"))
    shape = shape_of(model)
    assert (shape.backward_layers, shape.trainable_params) == (8, 0)
    # The virtual tokens run through the model like any others: 64 of the text and 10 of the prompt.
    ids = torch.arange(64)[None]
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss.backward()
    assert training_flops(shape, 74, causal=False) == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_shape_by_hand():
    shape = shape_of(llama())
    layer = 64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 172
    expected = ModelShape(
        layers=8, width=64, heads=4, attention_width=64, kv_width=32, vocab=320, matmul_params=8 * layer + 320 * 64, head_params=320 * 64,
        trainable_params=8 * layer + 320 * 64, trainable_head_params=320 * 64, backward_layers=8,
    )  # fmt: skip
    assert shape == expected
    assert shape_of(qwen3()).attention_width == 128
    # By hand: two positions see one and two tokens, so three pairs.
    assert forward_flops(shape, 2) == 2 * 2 * shape.matmul_params + 4 * 8 * 64 * 3


def test_bad_input():
    shape = shape_of(llama())
    assert forward_flops(shape, 0) == training_flops(shape, 0) == 0
    with pytest.raises(ValueError, match="-1 new"):
        forward_flops(shape, -1)
    with pytest.raises(ValueError, match="6 with logits"):
        forward_flops(shape, 5, logits_tokens=6)
    with pytest.raises(ValueError, match="token counts"):
        generation_flops(shape, 5, 1, n_cached_tokens=6)
    with pytest.raises(BenchError, match='Linear: cannot count FLOPs, "num_hidden_layers" is None'):
        shape_of(torch.nn.Linear(2, 2))
