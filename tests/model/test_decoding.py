"""Answers over a shared prefix are the library's own, for every kind of attention; and options scored in one pass those scored apart."""

import json
import math
import random
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from bench.errors import BenchError
from bench.model.batches import Batcher
from bench.model.conversation import OPTION_CONTEXT
from bench.model.decoding import SharedPrefix, greedy, logit_margin, runner_up, shared_length
from bench.model.language_model import GreedyLogprob, LanguageModel
from bench.model.source import EMBEDDED_FOLDER, locate
from bench.suite import tasks_folder
from bench.task.load import load_task

SIZES: dict[str, Any] = {
    "vocab_size": 3200, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    "initializer_range": 0.3,
}  # fmt: skip
POSITIONS = {"vocab_size": 3200, "n_embd": 64, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.3}
# name: (a fresh network, whether its prompts can share a prefix)
KINDS: dict[str, tuple[Any, bool]] = {
    "grouped queries": (lambda: LlamaForCausalLM(LlamaConfig(**SIZES)), True),
    "eager attention": (lambda: LlamaForCausalLM(LlamaConfig(**SIZES)), True),
    "learned positions": (lambda: GPT2LMHeadModel(GPT2Config(n_positions=512, **POSITIONS)), True),
    "window wider than the prompts": (lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=256)), True),
    "window narrower than the prompts": (lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=24)), False),
    "narrow and full windows in turn": (
        lambda: Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, sliding_window=24, layer_types=["sliding_attention", "full_attention"])), False,
    ),
    "no positions": (lambda: BloomForCausalLM(BloomConfig(vocab_size=3200, hidden_size=64, n_layer=2, n_head=4, eos_token_id=2)), False),
}  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, bool]:
    """A random network of the kind with the shipped tokenizer and no chat template, and whether it can share a prefix."""
    make, shares = KINDS[request.param]
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    make().save_pretrained(folder)
    plain(folder)
    loaded = LanguageModel(locate(str(folder)), device="cpu")
    if request.param == "eager attention":
        loaded.network.set_attn_implementation("eager")
    return loaded, shares


def plain(folder: Path) -> None:
    """The shipped tokenizer without its chat template."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(EMBEDDED_FOLDER / name, folder / name)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def conversations(n: int) -> list[list[dict[str, str]]]:
    rng = random.Random(5)
    words = ["the", "color", "of", "product", "is", "red", "what", "weight", "blue", "answer", "large"]
    said = "Answer the question about the product with what you know of it: " + " ".join(words * 3)
    return [[{"role": "user", "content": f"{said}\n\n{' '.join(rng.choices(words, k=rng.randint(2, 14)))}"}] for _ in range(n)]


def written(model: Any, prompts: list[list[int]], n: int = 8) -> list[Any]:
    found = dict(pair for batch in model.generate(prompts, n) for pair in batch)
    return [found[i] for i in range(len(prompts))]


def chosen(model: Any, asked: list[list[dict[str, str]]], options: list[list[str]]) -> list[Any]:
    prompts = [model.prompt_ids(m) for m in asked]
    found = dict(pair for b in model.choose(prompts, options, model.option_ids(asked, prompts, options)) for pair in b)
    return [found[i] for i in range(len(asked))]


def test_a_shared_prefix_changes_no_answer(model: tuple[Any, bool]) -> None:
    network, shares = model
    prompts = [network.prompt_ids(m) for m in conversations(30)]
    shared = written(network, prompts)
    assert {g.cached_tokens > 0 for g in shared} == ({True, False} if shares else {False})
    network.shared_prefix = False
    try:
        whole = written(network, prompts)
    finally:
        network.shared_prefix = True
    assert [(g.text, g.completion_tokens) for g in shared] == [(g.text, g.completion_tokens) for g in whole]
    assert [g.logprob for g in shared] == pytest.approx([g.logprob for g in whole], abs=1e-4)
    assert [g.logit_margin for g in shared] == pytest.approx([g.logit_margin for g in whole], abs=1e-4)
    assert not shares or len({g.text for g in shared}) > 10


def test_options_in_one_pass_score_as_they_do_apart(model: tuple[Any, bool]) -> None:
    network, shares = model
    asked = conversations(30)
    options = [["blue", "red", "dark blue and green", "the weight of the product"][: 3 + i % 2] for i in range(30)]
    together = chosen(network, asked, options)
    assert {g.cached_tokens > 0 for g in together} == ({True, False} if shares else {False})
    for messages, each, g in zip(asked, options, together, strict=True):
        apart = []
        prompt = network.prompt_ids(messages)
        for option in each:
            whole = network.tokenizer(network._text(messages) + " " + option)["input_ids"]
            assert whole[: len(prompt)] == prompt
            with torch.no_grad():
                logits = network.network(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
            apart.append(sum(logits[i - 1, whole[i]].item() for i in range(len(prompt), len(whole))))
        assert g.option_logprobs == pytest.approx(apart, abs=2e-4)
        assert g.text == each[max(range(len(each)), key=apart.__getitem__)]
        assert g.logprob == max(g.option_logprobs)
        second, best = sorted(g.option_logprobs)[-2:]
        assert g.logit_margin == best - second
        assert g.completion_tokens == sum(len(network.tokenizer(" " + o, add_special_tokens=False)["input_ids"]) for o in each)


class Scripted(torch.nn.Module):
    """Says what is written down: at each step the next logits of the rows, which are in the batch at that step."""

    def __init__(self, rows: list[list[int]]) -> None:
        super().__init__()
        self.config = LlamaConfig(**SIZES | {"num_hidden_layers": 0})
        self.steps = enumerate(rows)

    def forward(self, input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
        step, rows = next(self.steps)
        assert len(input_ids) == len(rows)
        return SimpleNamespace(logits=torch.tensor([[SCRIPT[row][step]] for row in rows]))


END = 3
SCRIPT = [  # of each row, at each step, the logits of three tokens and of the end token
    [[5.0, 1.0, 2.0, 0.0], [0.0, 1.0, 1.5, 3.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]],  # leads 3 and 1.5, then it is over
    [[0.0, 4.0, 0.0, 0.0], [2.0, 0.5, 2.0, 2.0], [0.0, 1.0, 1.25, 0.0], [7.0, 0.0, 0.0, 9.0]],  # 4, an exact tie, 0.25, 2
    [[0.0, 0.0, 1.0, 1.125], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]],  # 0.125: the end token itself
]


def test_the_margin_is_the_smallest_lead_up_to_the_end_token() -> None:
    batch = [0, 1, 1, 1, 2]
    # One of five rows that has ended stays in the batch, two leave it.
    network, device = Scripted([batch, batch, [1] * 3, [1] * 3]), torch.device("cpu")
    rows = greedy(network, SharedPrefix(network, (), device), [[7]] * 5, 4, lambda ids: ids[-1] == END, device)
    answers = {0: [0, 3], 1: [1, 0, 2, 3], 2: [3]}  # of equals the first
    leads = {0: [3.0, 1.5], 1: [4.0, 0.0, 0.25, 2.0], 2: [0.125]}
    assert [row.tokens for row in rows] == [answers[row] for row in batch]
    assert [row.leads for row in rows] == [leads[row] for row in batch]
    assert [logit_margin(row.leads) for row in rows] == [1.5, 0.0, 0.0, 0.0, 0.125]
    assert rows[-1].logprob == pytest.approx(1.125 - math.log(2 + math.e + math.exp(1.125)))


def test_the_library_s_generation_is_read_in_the_same_way() -> None:
    read = GreedyLogprob()
    scores = torch.tensor(SCRIPT)
    for step in range(4):
        before = scores[:, step].clone()
        assert torch.equal(read(torch.zeros(3, 1), scores[:, step]), before)  # it reads and changes nothing
    found = read.of_answers([2, 4, 1])
    assert [margin for _, margin in found] == [1.5, 0.0, 0.125]
    assert found[2][0] == pytest.approx(1.125 - math.log(2 + math.e + math.exp(1.125)))


def test_where_nothing_is_second_there_is_no_margin() -> None:
    assert runner_up(torch.tensor([[2.0], [3.0]]), torch.tensor([0, 0])).tolist() == [-math.inf, -math.inf]
    assert logit_margin([math.inf]) is None  # a vocabulary of one, or a token that the model's configuration forces
    assert logit_margin([]) is None
    assert logit_margin([math.inf, 0.5]) == 0.5


@pytest.fixture(scope="module")
def without_template(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The shipped base without its chat template."""
    folder = tmp_path_factory.mktemp("plain")
    for file in EMBEDDED_FOLDER.iterdir():
        if file.suffix in (".json", ".safetensors"):
            shutil.copy(file, folder / file.name)
    plain(folder)
    return LanguageModel(locate(str(folder)), device="cpu")


def test_an_answer_in_plain_form_ends_with_its_line(without_template: Any) -> None:
    model = without_template
    line = model.tokenizer("red\nblue", add_special_tokens=False)["input_ids"]
    assert model.tokenizer.decode(line[:2]) == " red\n"
    assert model.answer(line) == ("red", 2)
    blank = model.tokenizer("\n red\nblue", add_special_tokens=False)["input_ids"]
    assert model.answer(blank)[0] == "red"  # a line break before the answer does not end it
    model.line_ends_answer = False
    try:
        text = "The color\nis red. Answer: red\nblue"
        thought = model.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert model.answer(thought)[0] == "The color\nis red. Answer: red"
    finally:
        model.line_ends_answer = True
    assert model.answer(line[:1]) == ("red", 1)


def test_rows_that_have_ended_leave_the_batch(embedded: Any) -> None:
    sizes: list[int] = []
    handle = embedded.network.register_forward_pre_hook(lambda m, a, k: sizes.append(len(k["input_ids"])), with_kwargs=True)
    abstracts = load_task(tasks_folder() / "abstract_summary")
    names = ("Zorba", "Quil", "Tavo", "Mirel", "Opal", "Brin")
    asked = [f"Answer the question.\n\nWhat is the color of {name}?" for name in names]
    asked.append(f"{abstracts.instruction}\n\n{abstracts.test[0].input}")
    try:
        found = written(embedded, [embedded.prompt_ids([{"role": "user", "content": text}]) for text in asked], 24)
    finally:
        handle.remove()
    lengths = sorted(g.completion_tokens for g in found)
    assert lengths[len(lengths) // 2] < lengths[-1]  # or none could leave before another
    assert sizes[0] == len(asked)
    assert sizes[-1] == 1
    assert sorted(sizes, reverse=True) == sizes
    assert len(sizes) == lengths[-1]


def test_the_first_of_equal_options_is_chosen(embedded: Any) -> None:
    asked = conversations(1)
    (g,) = chosen(embedded, asked, [["blue", "blue"]])
    assert g.option_logprobs[0] == pytest.approx(g.option_logprobs[1], abs=1e-5)
    assert g.text == "blue"


@pytest.mark.parametrize("option", ["red", "dark blue", "-5 kg", "über", "中文 字", "(a)", "  spaced", "a\nb", "’s", "🦙"])
def test_an_option_is_tokenised_as_it_is_in_its_prompt(without_template: Any, option: str) -> None:
    model = without_template
    for asked in conversations(4):
        prompt = model.prompt_ids(asked)
        ((ids,),) = model.option_ids([asked], [prompt], [[option]])
        assert prompt + ids == model.tokenizer(model._text(asked) + " " + option)["input_ids"]


def test_options_of_many_prompts_stay_with_their_own(without_template: Any) -> None:
    model = without_template
    # Long ends that are alike, one with no space in it, and a prompt that is shorter than the end that is looked at.
    end = ("is the product red or blue? " * 10)[: OPTION_CONTEXT - len("\n\nAnswer:")]
    word = "w" * OPTION_CONTEXT
    asked = [[{"role": "user", "content": text}] for text in (f"first\n\n{end}", f"second\n{end}", f"third {word}", f"4th  {end}", "five")]
    options = [[f"red {i}", "blue", "green"][: 2 + i % 2] for i in range(len(asked))]
    prompts = model.prompts_ids(asked)
    for messages, prompt, each, ids in zip(asked, prompts, options, model.option_ids(asked, prompts, options), strict=True):
        assert [prompt + row for row in ids] == [model.tokenizer(f"{model._text(messages)} {option}")["input_ids"] for option in each]


def test_an_option_over_the_window_is_refused(embedded: Any) -> None:
    asked = conversations(2)
    with pytest.raises(BenchError, match="window of 512"):
        chosen(embedded, asked, [["red", "blue " * 600]] * 2)


@pytest.mark.parametrize(
    ("prompts", "expected"), [([[1, 2, 3], [1, 2, 4]], 2), ([[1, 2], [1, 2, 4]], 1), ([[1, 2], [1, 2]], 1), ([[3], [4]], 0)]
)
def test_a_shared_prefix_leaves_each_prompt_a_token(prompts: list[list[int]], expected: int) -> None:
    assert shared_length(prompts) == expected


# ---------------------------------------------------------------------------------------------------- batches


@pytest.fixture
def batcher() -> Batcher:
    return Batcher(torch.device("cpu"))


def test_batches_hold_the_longest_first_within_their_budgets(batcher: Batcher) -> None:
    batcher.rows, batcher.tokens_at_once, batcher.tokens = 4, 20, 30
    tokens = [1, 10, 3, 9, 2, 2, 2, 2, 30]
    assert [batch for batch, _, _ in batcher.run(tokens, list)] == [[8], [1, 3], [2, 4, 5, 6], [7, 0]]
    assert [batch for batch, _, _ in batcher.run(tokens, list, generates=True)] == [[8], [1, 3, 2], [4, 5, 6, 7], [0]]
    batcher.bytes = 100
    assert [batch for batch, _, _ in batcher.run([1] * 5, list, bytes_per_row=lambda i: 50.0)] == [[0, 1], [2, 3], [4]]
    assert [batch for batch, _, _ in batcher.run([1] * 2, list, bytes_per_row=lambda i: 500.0)] == [[0], [1]]


def test_what_is_done_is_left_out_and_the_other_batches_stay(batcher: Batcher) -> None:
    batcher.rows = 2
    assert [batch for batch, _, _ in batcher.run([5, 4, 3, 2, 1], list, skip={0, 1, 2})] == [[2, 3], [4]]


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_a_batch_that_does_not_fit_is_halved_and_that_is_remembered(batcher: Batcher, error: Exception) -> None:
    def work(batch: list[int]) -> list[int]:
        if len(batch) > 5:
            raise error
        return batch

    assert [done for _, done, _ in batcher.run([1] * 12, work)] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert batcher.rows == 3
    batcher.rows = 1
    with pytest.raises(type(error)):
        list(batcher.run([1], lambda batch: work([0] * 9)))


def test_torch_itself_says_so_when_memory_runs_out(batcher: Batcher) -> None:
    def work(batch: list[int]) -> int:
        return torch.empty(1 << 50 if len(batch) > 1 else 1).numel()

    assert [batch for batch, _, _ in batcher.run([1, 1], work)] == [[0], [1]]


def test_another_error_is_passed_on(batcher: Batcher) -> None:
    def work(batch: list[int]) -> None:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        list(batcher.run([1, 1], work))
