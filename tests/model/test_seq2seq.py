"""An encoder-decoder model of a few thousand random parameters, trained to give answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BartConfig, BartForConditionalGeneration, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from bench.errors import BenchError
from bench.model.language_model import LanguageModel
from bench.model.load import load_model
from bench.model.seq2seq import Seq2SeqModel
from bench.model.source import locate
from bench.strategy.adapters import wrap
from bench.strategy.spec import TuningChoice
from bench.strategy.tuning import tune

COLORS = ("red", "blue", "green", "black")
WORDS = ["<pad>", "</s>", "<unk>", "<s>", *COLORS, *(f"n{i}" for i in range(20))]
WORDS += ["What", "is", "the", "color", "of", "item", "?", "Answer", ":"]


def save_tokenizer(folder: Path, *, closes: bool = True, **settings: Any) -> None:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    if closes:
        words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    named = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=words, **{**named, **settings}).save_pretrained(folder)


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("t5")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = T5Config(
        vocab_size=len(WORDS), d_model=32, d_kv=8, num_layers=2, num_decoder_layers=2, num_heads=4, d_ff=64, dropout_rate=0.0,
        decoder_start_token_id=0, n_positions=64,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture
def model(t5: Path) -> Any:
    return load_model(locate(str(t5)))


@pytest.fixture(scope="module")
def trained(t5: Path) -> Any:
    """A model that has learned the colors of eight items."""
    model = load_model(locate(str(t5)))
    choice = TuningChoice(method="full", epochs=60, evaluations=6, patience=6, learning_rate=1e-2, batch_size=4)
    wrap(model, choice, 0)
    before = model.loss(pairs(model)).item()
    tuned = tune(model, choice, pairs(model), lambda: share_right(model), 0)
    assert tuned.validation_score == 1.0
    assert tuned.flops > 0
    assert model.loss(pairs(model)).item() < 0.2 * before
    return model


def ask(i: int, words: int = 0) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"What is the color of item n{i}{' ?' * words}"}]


def pairs(model: Any, n: int = 8) -> list[tuple[list[int], int]]:
    return [model.training_ids(ask(i, i % 3), COLORS[i % 4]) for i in range(n)]


def answers(model: Any, prompts: list[list[int]], n: int = 6) -> list[Any]:
    found = dict(pair for batch in model.generate(prompts, n) for pair in batch)
    return [found[i] for i in range(len(prompts))]


def share_right(model: Any, n: int = 8) -> float:
    found = answers(model, [model.prompt_ids(ask(i, i % 3)) for i in range(n)])
    return sum(g.text == COLORS[i % 4] for i, g in enumerate(found)) / n


def test_the_kind_decides_the_class(model: Any) -> None:
    assert type(model) is Seq2SeqModel
    assert model.source.kind == "seq2seq"
    assert (model.window, model.reads_instruction, model.new_modules) == (64, True, ())
    assert model.decoding == {"do_sample": False, "num_beams": 1, "format": "plain", "end_ids": [1]}


def test_a_prompt_is_the_plain_form_with_its_shots_and_an_end_token(model: Any) -> None:
    shot = [*ask(1), {"role": "assistant", "content": "red"}]
    text = "What is the color of item n1 Answer : red What is the color of item n2 Answer :"
    assert model.tokenizer.convert_ids_to_tokens(model.prompt_ids([*shot, *ask(2)])) == [*text.split(), "</s>"]


def test_training_ids_are_the_encoders_and_then_the_decoders(model: Any) -> None:
    ids, n = model.training_ids(ask(3), "red blue")
    assert ids[:n] == model.prompt_ids(ask(3))
    assert model.tokenizer.convert_ids_to_tokens(ids[n:]) == ["red", "blue", "</s>"]


def test_an_end_token_that_the_tokenizer_does_not_write_is_added_to_the_answer(t5: Path, tmp_path: Path) -> None:
    T5ForConditionalGeneration.from_pretrained(t5).save_pretrained(tmp_path)
    save_tokenizer(tmp_path, closes=False)
    model = load_model(locate(str(tmp_path)))
    ids, n = model.training_ids(ask(3), "red")
    assert model.tokenizer.convert_ids_to_tokens(ids[n:]) == ["red", "</s>"]


def test_the_loss_is_the_mean_over_answer_tokens_of_single_rows(model: Any) -> None:
    batch = [model.training_ids(ask(1), "red"), model.training_ids(ask(2, 5), "blue green black"), model.training_ids(ask(3, 1), "red red")]
    each = []
    with torch.no_grad():
        for ids, n in batch:
            read, wrote = torch.tensor([ids[:n]]), ids[n:]
            logits = model.network(input_ids=read, decoder_input_ids=torch.tensor([[0, *wrote[:-1]]])).logits[0].log_softmax(-1)
            each.append([-logits[i, token].item() for i, token in enumerate(wrote)])
        found, weighted = model.loss(batch).item(), model.loss(batch, [1.0, 2.0, 0.5]).item()
    assert [len(e) for e in each] == [2, 4, 3]
    assert found == pytest.approx(sum(map(sum, each)) / 9, abs=1e-5)
    mass = [w * len(e) for w, e in zip((1, 2, 0.5), each, strict=True)]
    assert weighted == pytest.approx(sum(w * sum(e) for w, e in zip((1, 2, 0.5), each, strict=True)) / sum(mass), abs=1e-5)


def test_training_fits_eight_examples(trained: Any) -> None:
    assert share_right(trained) == 1.0


def test_an_answer_does_not_depend_on_its_batch(trained: Any) -> None:
    prompts = [trained.prompt_ids(ask(i, i % 5)) for i in range(12)]
    together = answers(trained, prompts)
    alone = [answers(trained, [p])[0] for p in prompts]
    assert [(g.text, g.completion_tokens) for g in together] == [(g.text, g.completion_tokens) for g in alone]
    assert [g.logprob for g in together] == pytest.approx([g.logprob for g in alone], abs=1e-4)
    assert [g.logit_margin for g in together] == pytest.approx([g.logit_margin for g in alone], abs=1e-4)
    assert {g.cached_tokens for g in together} == {0}
    assert [g.prompt_tokens for g in together] == [len(p) for p in prompts]


def test_the_log_probability_is_that_of_the_generated_tokens(trained: Any) -> None:
    g = answers(trained, [trained.prompt_ids(ask(2, 2)), trained.prompt_ids(ask(1))])[0]
    assert (g.text, g.completion_tokens) == ("green", 2)
    pair = trained.training_ids(ask(2, 2), g.text)
    with torch.no_grad():
        assert g.logprob == pytest.approx(-2 * trained.loss([pair]).item(), abs=1e-4)
        first, end = (row.topk(2).values.tolist() for row in trained.completion_logits([pair])[0][0])
    assert g.logit_margin == pytest.approx(min(first[0] - first[1], end[0] - end[1]), abs=1e-4)


def test_lora_trains_an_encoder_decoder(model: Any) -> None:
    choice = TuningChoice(method="lora", r=4, epochs=10, learning_rate=1e-2, batch_size=4, evaluations=1)
    wrap(model, choice, 0)
    with torch.no_grad():
        before = model.loss(pairs(model)).item()
    tune(model, choice, pairs(model), lambda: share_right(model), 0)
    with torch.no_grad():
        assert model.loss(pairs(model)).item() < before - 0.5
    moved = [n for n, p in model.network.named_parameters() if p.requires_grad]
    assert any(".encoder." in n for n in moved)
    assert any(".decoder." in n for n in moved)
    assert all("lora_" in n for n in moved)


def test_what_a_decoder_begins_with_is_kept_and_other_defaults_are_not(tmp_path: Path) -> None:
    config = BartConfig(
        vocab_size=len(WORDS), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=48, pad_token_id=0, bos_token_id=3, eos_token_id=1,
        decoder_start_token_id=1, forced_bos_token_id=3,
    )  # fmt: skip
    torch.manual_seed(0)
    network = BartForConditionalGeneration(config)
    network.generation_config.update(num_beams=4, min_length=9, no_repeat_ngram_size=3, decoder_start_token_id=1, forced_bos_token_id=3)
    network.save_pretrained(tmp_path)
    save_tokenizer(tmp_path, bos_token="<s>")
    model = load_model(locate(str(tmp_path)))
    config = model.network.generation_config
    assert (config.decoder_start_token_id, config.forced_bos_token_id) == (1, 3)
    assert (config.num_beams, config.min_length, config.no_repeat_ngram_size, config.do_sample) == (1, None, None, False)
    assert model.window == 48
    g = answers(model, [model.prompt_ids(ask(1)), model.prompt_ids(ask(2))], 5)[0]
    assert 1 <= g.completion_tokens <= 5


def test_a_window_without_positions_is_the_tokenizers(t5: Path, tmp_path: Path) -> None:
    network = T5ForConditionalGeneration.from_pretrained(t5)
    del network.config.n_positions
    network.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    assert load_model(locate(str(tmp_path))).window == 1 << 20
    save_tokenizer(tmp_path, model_max_length=40)
    model = load_model(locate(str(tmp_path)))
    assert model.window == 40
    with pytest.raises(BenchError, match="window of 40"):
        answers(model, [[5] * 38], 4)


def test_bad_input(model: Any, t5: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="cannot be trained on plain text"):
        model.text_ids("red")
    with pytest.raises(BenchError, match="could not be loaded as a causal language model"):
        LanguageModel(locate(str(t5)))
    with pytest.raises(BenchError, match=r"embedded.* could not be loaded as a sequence-to-sequence model"):
        Seq2SeqModel(locate("embedded"))
    encoder = T5ForConditionalGeneration.from_pretrained(t5).encoder
    encoder.config.is_encoder_decoder = True
    encoder.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    with pytest.raises(BenchError, match="the checkpoint lacks"):
        load_model(locate(str(tmp_path)))


def test_a_configuration_without_a_start_token_is_refused(t5: Path, tmp_path: Path) -> None:
    network = T5ForConditionalGeneration.from_pretrained(t5)
    network.config.decoder_start_token_id = network.generation_config.decoder_start_token_id = None
    network.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    with pytest.raises(BenchError, match="names no decoder_start_token_id"):
        load_model(locate(str(tmp_path)))


@pytest.mark.parametrize("peft", [{"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4}, {"peft_type": "IA3"}])
def test_other_adapters_train_an_encoder_decoder_and_answer_in_batches(model: Any, peft: dict[str, Any]) -> None:
    choice = TuningChoice(method="peft", peft=peft, epochs=10, learning_rate=5e-2, batch_size=4, evaluations=1)
    wrap(model, choice, 0)
    with torch.no_grad():
        before = model.loss(pairs(model)).item()
    tune(model, choice, pairs(model), lambda: share_right(model), 0)
    with torch.no_grad():
        assert model.loss(pairs(model)).item() < before - 0.2
    prompts = [model.prompt_ids(ask(i, i % 3)) for i in range(6)]
    alone = [answers(model, [p])[0] for p in prompts]
    assert [(g.text, round(g.logprob, 3)) for g in answers(model, prompts)] == [(g.text, round(g.logprob, 3)) for g in alone]
