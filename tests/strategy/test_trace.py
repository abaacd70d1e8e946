"""The traced step beside the real one: what torch's allocator held on a CPU, and what torch's counter counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, LlamaConfig, LlamaForCausalLM, MixtralConfig, PreTrainedTokenizerFast, T5Config

from bench.cost.flops import forward_flops, training_flops
from bench.errors import BenchError
from bench.model.load import load_model
from bench.model.source import locate
from bench.strategy.adapters import wrap
from bench.strategy.spec import TuningChoice
from bench.strategy.trace import ROUNDING, Traced, outlined, trace_prompt, trace_step
from bench.strategy.tuning import gradient_checkpointing

WIDTH, LAYERS, KV_WIDTH, VOCAB = 256, 4, 64, 8000
LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": 768,
    "num_hidden_layers": LAYERS, "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": VOCAB, "tie_word_embeddings": True,
}  # fmt: skip
ROWS, TOKENS, TARGETS = 8, 128, 32
LORA, FULL = TuningChoice(method="lora"), TuningChoice(method="full")
IA3 = TuningChoice(method="peft", peft={"peft_type": "IA3"})
LAST = TuningChoice(method="last_layers", layers=1)
VIRTUAL = {"num_virtual_tokens": 10}
CHOICES = {
    "lora": LORA, "full": FULL, "ia3": IA3, "last_layers": LAST, "dora": TuningChoice(method="lora", peft={"use_dora": True}),
    "bottleneck": TuningChoice(method="bottleneck"), "prefix": TuningChoice(method="peft", peft={"peft_type": "PREFIX_TUNING", **VIRTUAL}),
    "prompt": TuningChoice(method="peft", peft={"peft_type": "PROMPT_TUNING", **VIRTUAL}),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Llama of 5 million random weights with grouped queries, and a tokenizer of two words."""
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**{k: v for k, v in LLAMA.items() if k not in ("architectures", "model_type")})).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="a", eos_token="b").save_pretrained(folder)
    return str(folder)


def config_file(folder: Path, **changes: Any) -> str:
    file = folder / f"{'-'.join(map(str, changes.values())) or 'llama'}.json"
    file.write_text(json.dumps(LLAMA | changes))
    return str(file)


def held(
    name: str, choice: TuningChoice, autocast: torch.dtype | None = None, checkpointing: bool = False,
    rows: int = ROWS, tokens: int = TOKENS, targets: int = TARGETS,
) -> int:  # fmt: skip
    """Most bytes that torch's allocator held during a real step, beyond what it held before."""
    model = load_model(locate(name))
    wrap(model, choice, 0, "a b")
    model.compute_dtype = autocast
    model.network.train()

    def step() -> None:
        with model.autocast():
            loss = model.loss([([1] * tokens, tokens - targets)] * rows)
        loss.backward()

    with gradient_checkpointing(model, checkpointing):
        step()  # what is made once (rotations of positions, say) is there afterwards
        model.network.zero_grad(set_to_none=True)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            step()
    results: Any = profiler.profiler
    events = sorted((e.start_ns(), e.nbytes()) for e in results.kineto_results.events() if e.name() == "[memory]")
    assert events
    now = most = 0
    for _, size in events:
        now += size
        most = max(most, now)
    return most


def step_of(
    name: str, choice: TuningChoice = LORA, rows: int = ROWS, tokens: int = TOKENS, targets: int = TARGETS,
    dtype: torch.dtype = torch.float32, **options: Any,
) -> Traced:  # fmt: skip
    return trace_step(outlined(name, choice, dtype), rows, tokens, targets, **({"autocast": None} | options))


# ---------------------------------------------------------------------------------------------------- memory, measured


MEASURED = [
    (method, autocast, ck)
    for method in ("lora", "full", "ia3", "last_layers")
    for autocast in (None, torch.bfloat16)
    for ck in (False, True)
]
MEASURED += [("dora", None, False), ("dora", None, True), ("bottleneck", None, False), ("prompt", None, True), ("prefix", None, False)]


@pytest.mark.parametrize(("method", "autocast", "checkpointing"), MEASURED)
def test_the_peak_is_what_the_allocator_held(method: str, autocast: torch.dtype | None, checkpointing: bool, llama: str) -> None:
    """Within 1 % in float32. Within 10 % where the CPU does otherwise than the GPU that the trace assumes: in mixed precision, and in the
    attention over a prefix, which has a mask."""
    found = step_of(llama, CHOICES[method], autocast=autocast, checkpointing=checkpointing)
    exact = autocast is None and method != "prefix"
    expected = held(llama, CHOICES[method], autocast, checkpointing)
    assert found.peak_bytes == pytest.approx(expected, rel=0.01 if exact else 0.1)


def test_a_prefix_cannot_be_checkpointed(llama: str) -> None:
    with pytest.raises(BenchError, match="gradient_checkpointing"):
        outlined(llama, CHOICES["prefix"].model_copy(update={"gradient_checkpointing": True}))


# ---------------------------------------------------------------------------------------------------- memory, by hand


def test_gradients_of_full_fine_tuning_by_hand(tmp_path: Path) -> None:
    """One short row: nearly nothing but gradients is there at the end, when the last of them is made."""
    base = outlined(config_file(tmp_path, tie_word_embeddings=False), FULL, torch.float32)
    found = trace_step(base, 1, 4, 1, autocast=None)
    assert found.peak_bytes == pytest.approx(4 * base.trainable_params, rel=0.02)
    assert found.gradients_bytes > 0.5 * found.peak_bytes  # all but the embeddings', which is just being made
    assert base.weights_bytes == pytest.approx(4 * base.total_params, rel=1e-4)


def test_embeddings_that_are_the_head_too_have_two_gradients_until_they_are_added(llama: str) -> None:
    base = outlined(llama, FULL, torch.float32)
    found = trace_step(base, 1, 4, 1, autocast=None)
    assert found.peak_bytes == pytest.approx(4 * (base.trainable_params + 2 * VOCAB * WIDTH), rel=0.02)
    assert found.peak_bytes == pytest.approx(held(llama, FULL, rows=1, tokens=4, targets=1), rel=0.02)


def test_frozen_weights_have_no_gradients(tmp_path: Path) -> None:
    base = outlined(config_file(tmp_path), LORA, torch.float32)
    found = trace_step(base, 1, 4, 1, autocast=None)
    n_matrices = LAYERS * 7 * 2
    assert found.gradients_bytes <= 4 * base.trainable_params + n_matrices * ROUNDING


def test_logits_by_hand(tmp_path: Path) -> None:
    """At the peak of a short step: in float32, their log-softmax, and its gradient, of the targets alone."""
    small, large = (step_of(config_file(tmp_path, vocab_size=n)) for n in (VOCAB, 4 * VOCAB))
    assert small.logits_bytes == 3 * ROWS * TARGETS * VOCAB * 4
    assert large.logits_bytes == 4 * small.logits_bytes
    assert large.activations_bytes == small.activations_bytes
    assert step_of(config_file(tmp_path), targets=2 * TARGETS).logits_bytes == 2 * small.logits_bytes


def test_activations_of_the_last_layer_alone(tmp_path: Path) -> None:
    name = config_file(tmp_path)
    lora, last = step_of(name), step_of(name, LAST)
    assert last.activations_bytes < 0.35 * lora.activations_bytes
    assert last.flops < 0.75 * lora.flops


def test_what_makes_the_peak_lower_and_higher(tmp_path: Path) -> None:
    name = config_file(tmp_path)
    plain = step_of(name)
    assert step_of(name, rows=2 * ROWS).peak_bytes == pytest.approx(2 * plain.peak_bytes, rel=0.02)
    assert step_of(name, tokens=2 * TOKENS).activations_bytes == pytest.approx(2 * plain.activations_bytes, rel=0.02)
    assert step_of(name, autocast=torch.bfloat16, dtype=torch.bfloat16).activations_bytes < 0.8 * plain.activations_bytes
    halves = step_of(name, parts=2)
    assert halves.peak_bytes == pytest.approx(plain.peak_bytes / 2, rel=0.05)
    assert halves.flops == plain.flops
    checkpointed = step_of(name, checkpointing=True)
    assert checkpointed.peak_bytes < 0.4 * plain.peak_bytes
    # One more forward pass through the layers, but not of the head.
    again = forward_flops(outlined(name, LORA).shape, TOKENS, logits_tokens=0, causal=False)
    assert checkpointed.flops - plain.flops == pytest.approx(ROWS * again, rel=0.1)


@pytest.mark.parametrize(("rows", "parts"), [(5, 2), (3, 8), (1, 1)])
def test_parts_need_not_divide_the_batch(rows: int, parts: int, tmp_path: Path) -> None:
    name = config_file(tmp_path)
    assert step_of(name, rows=rows, parts=parts).flops == step_of(name, rows=rows).flops


def test_an_embedding_that_trains_takes_all_layers(tmp_path: Path) -> None:
    """A soft prompt lies below the first layer: frozen layers above it keep what leads back to it."""
    name = config_file(tmp_path)
    assert step_of(name, CHOICES["prompt"]).activations_bytes > 0.7 * step_of(name).activations_bytes


# ---------------------------------------------------------------------------------------------------- operations


@pytest.mark.parametrize("method", ["full", "lora", "last_layers"])
def test_operations_agree_with_the_formula(method: str, tmp_path: Path) -> None:
    """On 32 tokens, where attention, whose fused backward pass computes the scores again, is a hundredth of all."""
    base = outlined(config_file(tmp_path), CHOICES[method], torch.float32)
    expected = 4 * training_flops(base.shape, 32, logits_tokens=8, causal=False)
    assert trace_step(base, 4, 32, 8, autocast=None).flops == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_operations_are_those_of_torchs_counter(checkpointing: bool, llama: str) -> None:
    """On real numbers, with the plain attention that the counter knows on a CPU."""
    model = load_model(locate(llama))
    wrap(model, LORA, 0)
    model.network.set_attn_implementation("eager")
    model.network.train()
    with gradient_checkpointing(model, checkpointing), FlopCounterMode(display=False) as counter:
        model.loss([([1] * 32, 24)] * 2).backward()
    assert step_of(llama, rows=2, tokens=32, targets=8, checkpointing=checkpointing).flops == pytest.approx(
        counter.get_total_flops(), rel=0.02
    )


def test_more_rows_are_no_more_operations_to_launch(tmp_path: Path) -> None:
    name = config_file(tmp_path)
    one, many = step_of(name, rows=1), step_of(name, rows=8)
    assert one.n_operations == pytest.approx(many.n_operations, abs=2)  # one row is laid out as if it were several
    assert step_of(name, parts=4).n_operations == pytest.approx(4 * many.n_operations, rel=0.1)
    assert step_of(config_file(tmp_path, num_hidden_layers=2 * LAYERS)).n_operations == pytest.approx(2 * many.n_operations, rel=0.1)


# ---------------------------------------------------------------------------------------------------- prompts


def test_a_prompt_by_hand(tmp_path: Path) -> None:
    base = outlined(config_file(tmp_path), TuningChoice(), torch.bfloat16)
    found = trace_prompt(base, 4, 32, autocast=None)
    assert found.flops == pytest.approx(4 * forward_flops(base.shape, 32, logits_tokens=1, causal=False), rel=0.001)
    assert found.logits_bytes <= ROUNDING * -(-4 * VOCAB * 2 // ROUNDING)  # at the last position, or none yet at the peak
    keys_and_values = 2 * LAYERS * KV_WIDTH * 4 * 32 * 2
    assert found.gradients_bytes == 0
    assert keys_and_values < found.activations_bytes < 8 * keys_and_values
    assert base.trainable_params == base.kept_bytes == 0


def test_virtual_tokens_are_read_with_the_prompt(tmp_path: Path) -> None:
    name = config_file(tmp_path)
    plain, soft, prefix = (
        trace_prompt(outlined(name, choice), 1, 32, autocast=None).flops
        for choice in (TuningChoice(), CHOICES["prompt"], CHOICES["prefix"])
    )
    assert soft > 1.25 * plain  # ten positions more, and logits at all of them
    assert plain < prefix < soft


# ---------------------------------------------------------------------------------------------------- other kinds of models


def test_an_encoder_and_an_encoder_decoder(tmp_path: Path) -> None:
    bert = BertConfig(hidden_size=64, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4, vocab_size=320)
    t5 = T5Config(d_model=64, d_kv=16, num_heads=4, d_ff=256, num_layers=4, num_decoder_layers=4, vocab_size=320, decoder_start_token_id=0)
    for name, config in {"bert": bert, "t5": t5}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(config.to_dict()))
        file = str(tmp_path / f"{name}.json")
        base = outlined(file, FULL, torch.float32, n_labels=3)
        labels = 3 if name == "bert" else 8
        expected = 4 * training_flops(base.shape, 24 + (labels if name == "bert" else 8), logits_tokens=labels, causal=False)
        found = trace_step(base, 4, 24 if name == "bert" else 32, 8, autocast=None)
        assert found.flops == pytest.approx(expected, rel=0.03), name
        assert trace_prompt(outlined(file, TuningChoice()), 2, 16, autocast=None).flops > 0
        assert found.peak_bytes > 4 * base.trainable_params / 2


def experts(folder: Path, number: int) -> str:
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    file = folder / f"{number}-experts.json"
    file.write_text(json.dumps(MixtralConfig(**sizes, num_local_experts=number, num_experts_per_tok=2, vocab_size=320).to_dict()))
    return str(file)


def test_a_mixture_of_experts(tmp_path: Path) -> None:
    few, many = (outlined(experts(tmp_path, n), IA3, torch.bfloat16) for n in (4, 16))
    assert many.total_params - few.total_params == 2 * 12 * (3 * 64 * 96 + 64)
    steps = [trace_step(base, 2, 32, 8, autocast=torch.bfloat16) for base in (few, many)]
    assert steps[1].activations_bytes < 1.5 * steps[0].activations_bytes


def test_operations_of_experts(tmp_path: Path) -> None:
    base = outlined(experts(tmp_path, 4), TuningChoice(), torch.bfloat16)
    expected = 2 * forward_flops(base.shape, 32, logits_tokens=1, causal=False)
    assert trace_prompt(base, 2, 32, autocast=torch.bfloat16).flops == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("case", ["VBLORA", "WAVEFT", "experts"])
def test_what_cannot_be_traced_is_one_line(case: str, tmp_path: Path) -> None:
    """Adapters that look at their own numbers; experts in float32, for which torch knows no shapes."""
    settings = {"peft_type": case, "target_modules": ["q_proj"]} | ({"vector_length": 4} if case == "VBLORA" else {"n_frequency": 20})
    choice = FULL if case == "experts" else TuningChoice(method="peft", peft=settings)
    name = experts(tmp_path, 4) if case == "experts" else config_file(tmp_path)
    with pytest.raises(BenchError, match="a step cannot be followed without numbers") as raised:
        step_of(name, choice)
    assert "\n" not in str(raised.value)
