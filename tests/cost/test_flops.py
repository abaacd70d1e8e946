"""The formulas against torch's own counter, which counts the matrix multiplications that really run."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    T5GemmaConfig,
    T5GemmaForConditionalGeneration,
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


def t5(**changes: object) -> PreTrainedModel:
    """A decoder of another depth than the encoder, and heads wider than the residual stream."""
    sizes = {"d_model": 64, "d_kv": 32, "num_heads": 4, "d_ff": 172, "num_layers": 6, "num_decoder_layers": 4, "vocab_size": 320}
    settings = {**sizes, "decoder_start_token_id": 0, "dropout_rate": 0.0, **EAGER, **changes}
    return T5ForConditionalGeneration(T5Config(**settings))


def bart() -> PreTrainedModel:
    layers = {"encoder_layers": 3, "decoder_layers": 5, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    sizes = {"d_model": 64, "encoder_ffn_dim": 172, "decoder_ffn_dim": 128, "vocab_size": 320, "max_position_embeddings": 128}
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": None}
    return BartForConditionalGeneration(BartConfig(**layers, **sizes, **ends, dropout=0.0, **EAGER))


def t5gemma() -> PreTrainedModel:
    """Its own settings for each side, and keys and values for two queries each."""
    sizes = {"hidden_size": 64, "intermediate_size": 172, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
    side = {**sizes, "vocab_size": 320, "attn_implementation": "eager"}
    config = T5GemmaConfig(encoder={**side, "num_hidden_layers": 3}, decoder={**side, "num_hidden_layers": 2}, vocab_size=320, **EAGER)
    return T5GemmaForConditionalGeneration(config)


def bert_classifier(**changes: object) -> PreTrainedModel:
    sizes = {"hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 8, "num_attention_heads": 4, "vocab_size": 320}
    return BertForSequenceClassification(BertConfig(**sizes, num_labels=30, **EAGER, **changes))


def distilbert_classifier() -> PreTrainedModel:
    config = DistilBertConfig(dim=64, hidden_dim=172, n_layers=8, n_heads=4, vocab_size=320, num_labels=30, **EAGER)
    return DistilBertForSequenceClassification(config)


def counted_pair(model: torch.nn.Module, read: int, written: int, *, train: bool = False) -> int:
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(train):
        out = model(input_ids=torch.arange(read)[None] % 300, labels=torch.arange(written)[None] % 300)
        if train:
            out.loss.backward()
    return int(counter.get_total_flops())


def counted_label(model: torch.nn.Module, tokens: int, *, train: bool = False) -> int:
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(train):
        out = model(input_ids=torch.arange(tokens)[None], labels=torch.tensor([3]))
        if train:
            out.loss.backward()
    return int(counter.get_total_flops())


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


@pytest.mark.parametrize("build", [t5, bart, t5gemma])
@pytest.mark.parametrize(("read", "written"), [(1, 1), (60, 9), (7, 40)])
def test_an_encoder_decoder_agrees_with_the_counter(build, read, written):
    model = build()
    found = forward_flops(shape_of(model), read + written, logits_tokens=written, causal=False)
    assert found == pytest.approx(counted_pair(model, read, written), rel=0.02)


@pytest.mark.parametrize("build", [t5, bart, t5gemma])
def test_an_encoder_decoders_training_is_three_forward_passes(build):
    model = build()
    shape = shape_of(model)
    found = training_flops(shape, 72, logits_tokens=12, causal=False)
    assert found == pytest.approx(counted_pair(model, 60, 12, train=True), rel=0.02)
    assert found == 3 * forward_flops(shape, 72, logits_tokens=12, causal=False)


def test_the_encoder_runs_once_for_all_that_the_decoder_writes():
    model = t5().eval()
    ids = torch.arange(40)[None] + 2
    settings = {"max_new_tokens": 10, "min_new_tokens": 10, "do_sample": False}
    with FlopCounterMode(display=False) as counter:
        model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
    shape = shape_of(model)
    assert generation_flops(shape, 40, 10) == pytest.approx(counter.get_total_flops(), rel=0.02)
    assert generation_flops(shape, 40, 20) < 2 * generation_flops(shape, 40, 10)
    assert shape.encoder is not None
    # Without an answer: the encoder, and the keys and values that the decoder would read.
    assert generation_flops(shape, 40, 0) == forward_flops(shape.encoder, 40) + 2 * shape.cross_params * 40


@pytest.mark.parametrize(("build", "targets"), [(t5, ["q", "v"]), (t5, "all-linear"), (bart, ["k_proj", "v_proj", "fc1"])])
def test_lora_on_an_encoder_decoder_agrees_with_the_counter(build, targets):
    before = shape_of(build())
    model = get_peft_model(build(), LoraConfig(r=8, target_modules=targets, task_type="SEQ_2_SEQ_LM"))
    shape = shape_of(model)
    assert shape.encoder is not None
    assert before.encoder is not None
    assert (shape.matmul_params, shape.encoder.matmul_params) == (before.matmul_params, before.encoder.matmul_params)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert shape.trainable_params + shape.encoder.trainable_params == shape.adapter_params + shape.encoder.adapter_params == trained
    assert shape.cross_params > before.cross_params
    # Two stacks, so two lowest layers whose projections are counted with activation gradients.
    found = training_flops(shape, 72, logits_tokens=12, causal=False)
    assert found == pytest.approx(counted_pair(model, 60, 12, train=True), rel=0.04)


def test_a_decoder_that_trains_alone_sends_nothing_into_the_encoder():
    model = t5()
    model.requires_grad_(False)
    model.decoder.block[2:].requires_grad_(True)
    shape = shape_of(model)
    assert shape.encoder is not None
    assert (shape.encoder.backward_layers, shape.backward_layers) == (0, 2)
    found = training_flops(shape, 72, logits_tokens=12, causal=False)
    assert found == pytest.approx(counted_pair(model, 60, 12, train=True), rel=0.03)
    soft = get_peft_model(t5(), PromptTuningConfig(num_virtual_tokens=4, num_transformer_submodules=1, task_type="SEQ_2_SEQ_LM"))
    shape = shape_of(soft)
    assert shape.encoder is not None
    assert (shape.encoder.backward_layers, shape.backward_layers, shape.trainable_params) == (6, 4, 0)


@pytest.mark.parametrize("build", [bert_classifier, distilbert_classifier])
@pytest.mark.parametrize("tokens", [1, 12, 60])
def test_a_classifier_agrees_with_the_counter(build, tokens):
    model = build()
    shape = shape_of(model)
    assert shape.bidirectional
    assert shape.head_params == 64 * 64 + 64 * 30
    # The head sees one position; the label that training counts as a token goes through nothing.
    assert generation_flops(shape, tokens, 0) == pytest.approx(counted_label(model, tokens), rel=0.01)
    found = training_flops(shape, tokens + 1, logits_tokens=1)
    assert found == pytest.approx(counted_label(model, tokens, train=True), rel=0.01)
    assert found == 3 * generation_flops(shape, tokens, 0)


def test_lora_under_a_classifier_trains_the_head_too():
    settings = LoraConfig(r=8, target_modules=["query", "value"], task_type="SEQ_CLS", modules_to_save=["classifier"])
    model = get_peft_model(bert_classifier(), settings)
    shape = shape_of(model)
    assert shape.trainable_head_params == 64 * 30
    assert shape.adapter_params == 8 * 2 * 8 * 128
    assert shape.backward_layers == 8
    assert training_flops(shape, 61, logits_tokens=1) == pytest.approx(counted_label(model, 60, train=True), rel=0.03)


def test_a_classifiers_head_alone_sends_no_gradients_into_the_body():
    model = bert_classifier()
    model.requires_grad_(False)
    model.classifier.requires_grad_(True)
    shape = shape_of(model)
    assert shape.backward_layers == 0
    assert training_flops(shape, 61, logits_tokens=1) == pytest.approx(counted_label(model, 60, train=True), rel=0.01)


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
    with pytest.raises(ValueError, match="needs logits_tokens"):
        forward_flops(shape_of(t5()), 5)
    with pytest.raises(ValueError, match="2 cached, which an encoder cannot use"):
        generation_flops(shape_of(t5()), 5, 1, n_cached_tokens=2)
    with pytest.raises(ValueError, match="2 before, which an encoder cannot use"):
        generation_flops(shape_of(bert()), 5, 0, n_cached_tokens=2)
    with pytest.raises(BenchError, match='Linear: cannot count FLOPs, "num_hidden_layers" is None'):
        shape_of(torch.nn.Linear(2, 2))


def test_what_makes_virtual_tokens_is_not_applied_to_every_token() -> None:
    config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    network = LlamaForCausalLM(config)
    before = shape_of(network)
    prefix = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=8, prefix_projection=True, encoder_hidden_size=64)
    after = shape_of(get_peft_model(network, prefix))
    assert after.matmul_params == before.matmul_params
    assert after.adapter_params == 0
