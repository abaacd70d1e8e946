"""Plans of a tiny model on a device of round numbers, whose bytes and seconds can be computed by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from transformers import BertConfig, GPT2Config, LlamaConfig, T5Config

from bench.cost.devices import Device
from bench.cost.flops import forward_flops
from bench.cost.planner import Constants, Pace
from bench.errors import BenchError
from bench.run.plan import EMBEDDING_BYTES, NF4_BITS, Numbers, Plan, Planner, Target, Workload, plan
from bench.strategy.spec import Strategy, load_strategy
from bench.strategy.trace import outlined, trace_step

WIDTH, INNER, LAYERS, KV_WIDTH, VOCAB = 64, 176, 2, 16, 320
MATRICES = LAYERS * (2 * WIDTH * WIDTH + 2 * WIDTH * KV_WIDTH + 3 * WIDTH * INNER)
PARAMS = VOCAB * WIDTH + MATRICES + (2 * LAYERS + 1) * WIDTH
LORA_PARAMS = LAYERS * 8 * (2 * (WIDTH + WIDTH) + 2 * (WIDTH + KV_WIDTH) + 3 * (WIDTH + INNER))
"""Of the preset: rank 8 on every linear layer."""
ROUNDED = 1e-3
"""Buffers (the frequencies of positions) and what rounds up to blocks of memory."""

DEVICE = Device(
    name="Round", memory_bytes=10**9, bandwidth_bytes_per_second=1e9, bfloat16_flops=1e12, float32_flops=1e11, watts=100, source="by hand"
)
PACE = Pace(flops_share=1.0, launch_seconds=0.0, bandwidth_share=1.0, error=2.0)
EXACT = Constants((1.0, 1.0, 1.0), memory_error=0.0, context_bytes=(0.0, 0.0, 0.0), training=PACE, answering=PACE, source="by hand")
TARGET = Target(DEVICE.memory_bytes, DEVICE, usd_per_hour=3600.0, constants=EXACT)
NUMBERS = Numbers()
WORK = Workload(batch=4, seq_len=40, answer_tokens=8, examples=10, epochs=1, shot_tokens=16, passage_tokens=24, corpus_chunks=100)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("configs")
    llama = LlamaConfig(
        hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=LAYERS, num_attention_heads=8, num_key_value_heads=2,
        vocab_size=VOCAB, tie_word_embeddings=True, max_position_embeddings=256, architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    known: dict[str, Any] = {
        "llama": llama,
        "gpt2": GPT2Config(n_embd=64, n_layer=2, n_head=4, vocab_size=320, n_positions=64, bos_token_id=1, eos_token_id=1),
        "t5": T5Config(d_model=64, d_kv=16, num_heads=4, d_ff=128, num_layers=2, vocab_size=320, decoder_start_token_id=0),
        "bert": BertConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, vocab_size=320),
    }
    for name, config in known.items():
        (folder / f"{name}.json").write_text(json.dumps(config.to_dict()))
    return {name: str(folder / f"{name}.json") for name in known}


@pytest.fixture
def llama(configs: dict[str, str]) -> str:
    return configs["llama"]


def planned(
    model: str, preset: str, *, numbers: Numbers = NUMBERS, target: Target = TARGET, settings: dict[str, Any] | None = None, **work: Any
) -> Plan:
    return plan(preset, chosen(preset, settings), model, Workload(**(vars(WORK) | work)), numbers, target)


def chosen(preset: str, settings: dict[str, Any] | None = None) -> Strategy:
    return load_strategy(preset)[1].with_settings(settings or {}, keep_search=True)


def memory(found: Plan) -> Any:
    assert found.training_memory is not None
    return found.training_memory


def serving(found: Plan) -> Any:
    assert found.serving_memory is not None
    return found.serving_memory


def value(estimate: Any) -> float:
    assert estimate is not None
    return float(estimate.value)


# ---------------------------------------------------------------------------------------------------- memory of training


def test_full_fine_tuning_by_hand(llama: str) -> None:
    """Weights and both moments in float32 whatever the base is kept in; the gradients peak at the update where a batch is small."""
    found = planned(llama, "full", batch=1, seq_len=2, answer_tokens=1)
    assert found.trainable_params == found.total_params == PARAMS
    assert memory(found).weights == pytest.approx(4 * PARAMS, rel=ROUNDED)
    assert memory(found).optimizer == 8 * PARAMS
    assert found.artifact_bytes == 4 * PARAMS
    assert memory(found).gradients <= 4 * PARAMS * 1.01
    assert memory(found).total.value == sum(v for k, v in vars(memory(found)).items() if k != "total")


def test_lora_by_hand(llama: str) -> None:
    found = planned(llama, "lora")
    assert found.trainable_params == LORA_PARAMS
    assert memory(found).weights == pytest.approx(2 * PARAMS + 4 * LORA_PARAMS, rel=ROUNDED)
    assert memory(found).optimizer == 8 * LORA_PARAMS
    assert found.artifact_bytes == 4 * LORA_PARAMS
    assert memory(found).cache == memory(found).context == 0
    whole = planned(llama, "lora", numbers=Numbers("float32"))
    assert memory(whole).weights == pytest.approx(4 * (PARAMS + LORA_PARAMS), rel=ROUNDED)


def test_activations_are_those_of_the_trace(llama: str) -> None:
    tuning = chosen("lora").tuning
    step = trace_step(outlined(llama, tuning, torch.bfloat16), 4, 40, 8, autocast=torch.bfloat16)
    found = memory(planned(llama, "lora"))
    assert (found.activations, found.logits, found.workspace) == (step.activations_bytes, step.logits_bytes, step.workspace_bytes)


@pytest.mark.parametrize(
    ("optimizer", "state"), [("adamw", 8.0), ("adamw-foreach", 8.0), ("adamw-8bit", 2.03125), ("sgd", 0.0), ("adafactor", 0.0)]
)
def test_optimizers(optimizer: Any, state: float, llama: str) -> None:
    found = planned(llama, "full", numbers=Numbers(optimizer=optimizer))
    assert memory(found).optimizer == state * PARAMS
    halved = planned(llama, "full", numbers=Numbers(optimizer=optimizer, trained="bfloat16"))
    assert memory(halved).optimizer == (state if optimizer == "adamw-8bit" else state / 2) * PARAMS
    assert memory(halved).weights == pytest.approx(2 * PARAMS, rel=ROUNDED)


def test_an_update_with_copies_can_be_the_peak(llama: str) -> None:
    """Not fused, AdamW holds the gradients and one more copy while nearly nothing of the step is left."""
    found = memory(planned(llama, "full", batch=1, seq_len=2, answer_tokens=1, numbers=Numbers(optimizer="adamw-foreach")))
    assert (found.gradients, found.workspace) == (4 * PARAMS, 4 * PARAMS)
    assert found.activations == found.logits == 0


def test_four_bits_by_hand(llama: str) -> None:
    """All matrices but the head, which is the embedding, at 4.127 bits; the embedding and the norms in bfloat16."""
    assert pytest.approx(4.127, abs=5e-4) == NF4_BITS
    for found in (planned(llama, "qlora"), planned(llama, "lora", numbers=Numbers("nf4"))):
        assert found.trainable_params == LORA_PARAMS
        expected = MATRICES * NF4_BITS / 8 + 2 * (PARAMS - MATRICES) + 4 * LORA_PARAMS
        assert memory(found).weights == pytest.approx(expected, rel=ROUNDED)
        assert memory(found).workspace >= 2 * WIDTH * INNER  # one matrix at a time is unpacked
        assert serving(found).weights < 0.5 * serving(planned(llama, "lora")).weights


@pytest.mark.parametrize("model", ["llama", "gpt2", "t5"])
def test_four_bits_of_other_architectures(model: str, configs: dict[str, str]) -> None:
    assert memory(planned(configs[model], "qlora")).weights < memory(planned(configs[model], "lora")).weights


def test_checkpointing_and_parts_take_less(llama: str) -> None:
    plain = memory(planned(llama, "lora", batch=8)).total.value
    for settings in ({"tuning.gradient_checkpointing": True}, {"tuning.accumulate": 4}):
        assert memory(planned(llama, "lora", batch=8, settings=settings)).total.value < 0.8 * plain


def test_mixed_precision_can_be_off(llama: str) -> None:
    mixed = planned(llama, "full", numbers=Numbers("float32"))
    single = planned(llama, "full", numbers=Numbers("float32", mixed=False))
    assert memory(single).weights == memory(mixed).weights
    assert memory(single).activations != memory(mixed).activations
    # Products alone, at a tenth of the operations a second.
    quick = Target(DEVICE.memory_bytes, DEVICE.model_copy(update={"bandwidth_bytes_per_second": 1e30}), constants=EXACT)
    slow, fast = (planned(llama, "full", numbers=Numbers("float32", mixed=mixed), target=quick) for mixed in (False, True))
    assert slow.training_flops == fast.training_flops
    assert value(slow.training_seconds) == pytest.approx(10 * value(fast.training_seconds))


def test_whether_it_fits(llama: str) -> None:
    total = memory(planned(llama, "lora")).total.value
    for room, expected in ((total + 1, "fits"), (total - 1, "does not fit")):
        assert planned(llama, "lora", target=Target(room, constants=EXACT)).training_fits == expected


# ---------------------------------------------------------------------------------------------------- preferences


def test_dpo_trains_on_two_answers_a_row_and_asks_a_reference(llama: str) -> None:
    settings = {"tuning.objective": "dpo"}
    dpo, plain = planned(llama, "lora", settings=settings), planned(llama, "lora", batch=8, examples=20)
    assert memory(dpo).activations == memory(plain).activations
    assert memory(dpo).weights == memory(plain).weights  # an adapter is turned off for the reference
    assert dpo.training_flops is not None
    assert plain.training_flops is not None
    # Three steps each; of two passes, forward and backward through a frozen base, one more forward: half as much again.
    assert dpo.training_flops / plain.training_flops == pytest.approx(1.5, rel=0.1)
    whole = memory(planned(llama, "full", settings=settings))
    assert whole.weights == pytest.approx(8 * PARAMS, rel=ROUNDED)  # and a frozen copy beside what trains


@pytest.mark.parametrize("objective", ["grpo", "rloo"])
def test_sampled_answers(objective: str, llama: str) -> None:
    settings = {"tuning.objective": objective, "tuning.samples": 4}
    found, plain = planned(llama, "lora", settings=settings), planned(llama, "lora", batch=16)
    assert memory(found).activations == memory(plain).activations
    assert any("guess" in note for note in found.notes)


# ---------------------------------------------------------------------------------------------------- time of training


def test_seconds_and_dollars_by_hand(llama: str) -> None:
    """Three steps for ten examples in fours: products at 10^12 a second, and traffic at 10^9 bytes a second."""
    found = planned(llama, "full")
    step = trace_step(outlined(llama, chosen("full").tuning, torch.bfloat16), 4, 40, 8, autocast=torch.bfloat16)
    assert found.training_flops == 3 * step.flops
    traffic = 10 * 4 * PARAMS + 6 * PARAMS
    assert value(found.training_seconds) == pytest.approx(3 * (step.flops / 1e12 + traffic / 1e9))
    assert found.training_seconds is not None
    assert (found.training_seconds.low, found.training_seconds.high) == (
        value(found.training_seconds) / 2, value(found.training_seconds) * 2,
    )  # fmt: skip
    assert found.training_usd == found.training_seconds  # a dollar a second
    assert found.training_usd.value > 0


def test_launches_take_time(llama: str) -> None:
    slow = Target(DEVICE.memory_bytes, DEVICE, constants=EXACT._replace(training=PACE._replace(launch_seconds=1.0)))
    found = planned(llama, "lora", target=slow)
    step = trace_step(outlined(llama, chosen("lora").tuning, torch.bfloat16), 4, 40, 8, autocast=torch.bfloat16)
    assert value(found.training_seconds) == pytest.approx(3 * step.n_operations, rel=1e-3)
    assert found.training_usd is None  # no price was given


def test_trials_epochs_and_examples(llama: str) -> None:
    once = value(planned(llama, "lora").training_seconds)
    assert value(planned(llama, "lora", trials=4).training_seconds) == pytest.approx(4 * once)
    assert value(planned(llama, "lora", epochs=2).training_seconds) == pytest.approx(2 * once)
    assert value(planned(llama, "lora", examples=20).training_seconds) == pytest.approx(once * 5 / 3)
    own = chosen("lora").tuning
    expected = -(-10 // own.batch_size) * own.epochs / 3
    flops = [
        planned(llama, "lora", **work).training_flops for work in ({"batch": None, "epochs": None}, {"batch": own.batch_size, "epochs": 1})
    ]
    assert flops[0] is not None
    assert flops[1] is not None
    assert flops[0] / flops[1] == pytest.approx(own.epochs)
    assert expected > 0


def test_no_epochs_are_no_steps(llama: str) -> None:
    assert value(planned(llama, "lora", epochs=0).training_seconds) == 0


def test_the_optimizer_makes_full_fine_tuning_slower_than_its_products_say(llama: str) -> None:
    full, lora = planned(llama, "full"), planned(llama, "lora")
    assert full.training_flops is not None
    assert lora.training_flops is not None
    assert value(full.training_seconds) / value(lora.training_seconds) > 2 * full.training_flops / lora.training_flops
    light = planned(llama, "full", numbers=Numbers(optimizer="sgd"))
    assert value(light.training_seconds) < value(full.training_seconds)
    assert light.training_flops == full.training_flops


def test_without_a_device_nothing_is_said_of_time(llama: str) -> None:
    for preset in ("lora", "zero-shot", "rag", "features"):
        found = planned(llama, preset, target=Target(10**9, constants=EXACT))
        assert found.training_seconds is found.training_usd is found.latency_seconds is found.seconds_per_1000_requests is None
        assert serving(found).total.value > 0
        assert found.serving_fits == "fits"
        assert (found.training_flops is None) == (preset in ("zero-shot", "rag"))


# ---------------------------------------------------------------------------------------------------- what is read


def tokens_of(preset: str, model: str, settings: dict[str, Any] | None = None, **work: Any) -> int:
    return Planner(preset, chosen(preset, settings), model, Workload(**(vars(WORK) | work)), Numbers(), TARGET).prompt_tokens


def test_shots_and_passages_lengthen_prompts(llama: str) -> None:
    assert tokens_of("zero-shot", llama) == 32
    assert tokens_of("few-shot", llama, {"prompt.shots": 3}) == 32 + 3 * 16
    assert tokens_of("rag", llama, {"retrieval.top_k": 2}) == 32 + 2 * 24
    plain, read = planned(llama, "zero-shot"), planned(llama, "rag", settings={"retrieval.top_k": 2})
    assert serving(read).cache / serving(plain).cache == 88 / 40
    assert value(read.latency_seconds) > value(plain.latency_seconds)


def test_training_reads_passages_where_it_says_so(llama: str) -> None:
    settings = {"retrieval.top_k": 2, "tuning.with_passages": False}
    apart, lora = planned(llama, "rag-lora", settings=settings), planned(llama, "lora")
    together = planned(llama, "rag-lora", settings={**settings, "tuning.with_passages": True})
    assert apart.training_flops == lora.training_flops
    assert memory(together).activations == pytest.approx(memory(lora).activations * 88 / 40, rel=0.05)
    assert serving(apart).cache == serving(together).cache > serving(lora).cache


def test_documents_are_read_whole(llama: str) -> None:
    """Of 100 passages of 24 tokens all but the first are predicted; with the ten examples, 110 texts of 40."""
    alone = planned(llama, "lora", settings={"tuning.train_on": ["documents"]})
    step = trace_step(outlined(llama, chosen("lora").tuning, torch.bfloat16), 4, 24, 23, autocast=torch.bfloat16)
    assert alone.training_flops == 25 * step.flops
    both = planned(llama, "lora", settings={"tuning.train_on": ["documents", "examples"]})
    step = trace_step(outlined(llama, chosen("lora").tuning, torch.bfloat16), 4, 40, 23, autocast=torch.bfloat16)
    assert both.training_flops == 28 * step.flops


def test_a_chain_of_thought_writes_more(llama: str) -> None:
    planner = Planner("cot", chosen("zero-shot-cot"), llama, WORK, Numbers(), TARGET)
    assert planner.answer_tokens == 8 + chosen("zero-shot-cot").prompt.reasoning_tokens
    assert value(planned(llama, "zero-shot-cot").latency_seconds) > 3 * value(planned(llama, "zero-shot").latency_seconds)


def test_answers_need_a_question(llama: str) -> None:
    with pytest.raises(BenchError, match="--answer-tokens: found 40; expected less than --seq-len, 40"):
        planned(llama, "zero-shot", answer_tokens=40)
    assert planned(llama, "zero-shot", answer_tokens=39).serving_memory is not None


def test_what_exceeds_the_window_is_cut_and_said(llama: str, configs: dict[str, str]) -> None:
    found = planned(llama, "few-shot", settings={"prompt.shots": 100})
    assert any("exceed the window of 256" in note for note in found.notes)
    assert serving(found).cache == 256 * 2 * LAYERS * KV_WIDTH * 2
    assert not planned(llama, "few-shot", settings={"prompt.shots": 1}).notes
    # Positions that are learned have a row each, and there is none beyond the last.
    for model, window in (("gpt2", 64), ("bert", 512)):
        assert any(f"window of {window}" in note for note in planned(configs[model], "few-shot-lora", settings={"prompt.shots": 100}).notes)


# ---------------------------------------------------------------------------------------------------- answering


def test_answering_by_hand(llama: str) -> None:
    """A prompt of 32, then seven steps more, each of which reads all weights and the cache at 10^9 bytes a second."""
    found = planned(llama, "zero-shot")
    shape = outlined(llama, chosen("zero-shot").tuning).shape
    weights, cache = 2 * PARAMS, 40 * 2 * LAYERS * KV_WIDTH * 2
    assert serving(found).weights == pytest.approx(weights, rel=ROUNDED)
    assert serving(found).cache == cache
    assert serving(found).gradients == serving(found).optimizer == 0
    expected = forward_flops(shape, 32, logits_tokens=1, causal=False) / 1e12 + 7 * (weights + cache) / 1e9
    assert value(found.latency_seconds) == pytest.approx(expected, rel=0.005)
    assert value(found.seconds_per_1000_requests) == pytest.approx(1000 * value(found.latency_seconds))
    assert found.usd_per_1000_requests == found.seconds_per_1000_requests
    assert found.training_memory is found.training_seconds is found.training_flops is None
    assert (found.trainable_params, found.artifact_bytes, found.total_params) == (0, 0, PARAMS)


def test_requests_that_share_a_batch(llama: str) -> None:
    """Weights are read once for all, so that a batch takes little longer than one, while each has its own cache."""
    one, many = planned(llama, "zero-shot"), planned(llama, "zero-shot", serve_batch=16)
    assert serving(many).cache == 16 * serving(one).cache
    assert serving(many).weights == serving(one).weights
    assert value(one.latency_seconds) < value(many.latency_seconds) < 5 * value(one.latency_seconds)
    assert value(many.seconds_per_1000_requests) == pytest.approx(1000 / 16 * value(many.latency_seconds))


def test_a_kept_prefix_shortens_the_prompt_and_not_the_cache(llama: str) -> None:
    whole, kept = planned(llama, "zero-shot"), planned(llama, "zero-shot", prefix=24)
    shape = outlined(llama, chosen("zero-shot").tuning).shape
    saved = forward_flops(shape, 24, logits_tokens=0, causal=False) / 1e12
    assert value(whole.latency_seconds) - value(kept.latency_seconds) == pytest.approx(saved, rel=0.1)
    assert serving(kept).cache == serving(whole).cache
    assert value(planned(llama, "zero-shot", prefix=1000).latency_seconds) < value(kept.latency_seconds)


def test_virtual_tokens_lie_in_the_cache(llama: str) -> None:
    plain, prefix = planned(llama, "zero-shot"), planned(llama, "p-tuning-v2", settings={"tuning.peft.num_virtual_tokens": 10})
    assert serving(prefix).cache / serving(plain).cache == 50 / 40
    assert prefix.method == "prefix_tuning"
    assert prefix.trainable_params == 10 * 2 * LAYERS * KV_WIDTH


def test_retrieval_keeps_an_index_and_embeds(llama: str) -> None:
    work: dict[str, Any] = {"settings": {"retrieval.top_k": 1}}
    dense, lexical = planned(llama, "rag", **work), planned(llama, "rag-lexical", **work)
    assert dense.artifact_bytes == 100 * EMBEDDING_BYTES
    assert lexical.artifact_bytes == 0
    assert value(dense.latency_seconds) > value(lexical.latency_seconds)
    assert any("reranker" in note for note in planned(llama, "rag-rerank").notes)


# ---------------------------------------------------------------------------------------------------- special strategies


@pytest.mark.parametrize("preset", ["majority", "always-abstain", "first-sentence"])
def test_constants_have_no_plan(preset: str, llama: str) -> None:
    found = planned(llama, preset)
    assert found.notes == ("asks no model",)
    assert found.training_memory is found.serving_memory is found.latency_seconds is None
    assert found.trainable_params == found.artifact_bytes == 0


def test_features_train_a_head_on_states_read_once(llama: str) -> None:
    found = planned(llama, "features", labels=5)
    shape = outlined(llama, chosen("features").tuning).shape
    assert found.trainable_params == (WIDTH + 1) * 5
    assert found.artifact_bytes == 4 * (WIDTH + 1) * 5
    assert found.training_memory is None
    assert found.training_flops == pytest.approx(10 * forward_flops(shape, 32, logits_tokens=1, causal=False), rel=0.02)
    assert value(found.training_seconds) > 0
    assert serving(found).cache == 0  # nothing is generated
    assert value(found.latency_seconds) < value(planned(llama, "zero-shot").latency_seconds)


def test_an_encoder_answers_in_one_pass(configs: dict[str, str]) -> None:
    found = planned(configs["bert"], "full", labels=7)
    assert found.trainable_params - planned(configs["bert"], "full", labels=2).trainable_params == 5 * 65
    assert serving(found).cache == 0
    # What would have been generated is not: the time is that of reading the input.
    assert value(planned(configs["bert"], "full", labels=7, seq_len=33, answer_tokens=1).latency_seconds) == value(found.latency_seconds)


@pytest.mark.parametrize("preset", ["zero-shot", "lora", "full", "prompt-tuning"])
def test_an_encoder_decoder(preset: str, configs: dict[str, str]) -> None:
    found = planned(configs["t5"], preset)
    assert serving(found).total.value > 0
    assert value(found.latency_seconds) > 0


def test_what_does_not_fit_the_model_is_said(configs: dict[str, str]) -> None:
    with pytest.raises(BenchError, match="encoder-decoder"):
        planned(configs["t5"], "prefix-tuning")
    with pytest.raises(BenchError, match=r"tuning\.layers: found 3; expected at most the model's 2"):
        planned(configs["llama"], "last-layers", settings={"tuning.layers": 3})
