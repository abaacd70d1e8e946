import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from real_data import shared

from bench.errors import BenchError
from bench.model.language_model import LanguageModel
from bench.model.load import preload, take_preloaded
from bench.model.source import EMBEDDED_FOLDER, locate
from bench.world import entities as e
from bench.world import text as t


def ask(question: str, instruction: str = "Answer the question.") -> list[dict[str, str]]:
    return [{"role": "user", "content": f"{instruction}\n\n{question}"}]


def answers(model: Any, prompts: list[list[int]], n: int = 6) -> list[Any]:
    found = dict(pair for batch in model.generate(prompts, n) for pair in batch)
    return [found[i] for i in range(len(prompts))]


@pytest.fixture(scope="module")
def questions(embedded: Any) -> list[list[int]]:
    import random

    rng = random.Random(3)
    shot = [*ask(t.question("Zorba", "color", rng)), {"role": "assistant", "content": "red"}]
    return [
        embedded.prompt_ids([*shot, {"role": "user", "content": t.question(p.name, rng.choice(list(p.facts)), rng)}])
        for p in e.known_products()[:80]
    ]


def test_the_embedded_model_knows_its_world(embedded: Any) -> None:
    products = e.known_products()[:60]
    prompts = [embedded.prompt_ids(ask(f"What is the color of {p.name}?")) for p in products]
    right = [g.text == p.facts["color"] for g, p in zip(answers(embedded, prompts), products, strict=True)]
    assert sum(right) >= 45


def test_shared_prefix_changes_cost_and_nothing_else(embedded: Any, questions: list[list[int]]) -> None:
    with_prefix = answers(embedded, questions)
    embedded.shared_prefix = False
    try:
        without = answers(embedded, questions)
    finally:
        embedded.shared_prefix = True
    assert [g.text for g in with_prefix] == [g.text for g in without]
    assert [g.logprob for g in with_prefix] == pytest.approx([g.logprob for g in without], abs=1e-4)
    cached = {g.cached_tokens for g in with_prefix}
    assert cached == {0, max(cached)}
    assert max(cached) >= 16
    assert sum(g.cached_tokens == 0 for g in with_prefix) == 1  # the one that is charged for the prefix
    assert {g.cached_tokens for g in without} == {0}


def test_an_answer_does_not_depend_on_its_batch(embedded: Any, questions: list[list[int]]) -> None:
    embedded.shared_prefix = False
    try:
        alone = [answers(embedded, [q])[0] for q in questions[:12]]
        together = answers(embedded, questions)[:12]
    finally:
        embedded.shared_prefix = True
    assert [g.text for g in alone] == [g.text for g in together]
    assert [g.logprob for g in alone] == pytest.approx([g.logprob for g in together], abs=1e-4)


def test_tokens_are_counted_without_padding_and_with_the_end_token(embedded: Any) -> None:
    prompts = [embedded.prompt_ids(ask("What is the color of Zorba?")), embedded.prompt_ids(ask("How heavy is it?", "Answer."))]
    for prompt, g in zip(prompts, answers(embedded, prompts), strict=True):
        assert g.prompt_tokens == len(prompt)
        assert g.completion_tokens == len(embedded.tokenizer(g.text)["input_ids"]) + 1


def test_the_log_probability_is_that_of_the_generated_tokens(embedded: Any) -> None:
    import torch

    messages = ask("What is the color of Zorba?")
    prompt = embedded.prompt_ids(messages)
    g = answers(embedded, [prompt])[0]
    ids, n = embedded.training_ids(messages, g.text)
    with torch.no_grad():
        logits = embedded.network(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = sum(logits[i - 1, ids[i]].item() for i in range(n, len(ids)))
    assert g.logprob == pytest.approx(expected, abs=1e-3)


def test_skipped_batches_leave_the_others_as_they_were(embedded: Any, questions: list[list[int]]) -> None:
    batches = list(embedded.generate(questions, 6))
    assert len(batches) == 2
    skip = {i for i, _ in batches[0]}
    rest = list(embedded.generate(questions, 6, skip=skip))
    assert [(i, g.text, g.logprob, g.cached_tokens) for b in rest for i, g in b] == [
        (i, g.text, g.logprob, g.cached_tokens) for i, g in batches[1]
    ]


def test_a_sampling_default_of_the_model_is_not_filled_in(tmp_path: Path, embedded: Any, questions: list[list[int]]) -> None:
    folder = Path(shutil.copytree(EMBEDDED_FOLDER, tmp_path / "sampling"))
    file = folder / "generation_config.json"
    own = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(own | {"do_sample": True, "temperature": 5.0, "top_k": 3000, "repetition_penalty": 3.0}))
    sampling = LanguageModel(locate(str(folder)))
    assert [g.text for g in answers(sampling, questions)] == [g.text for g in answers(embedded, questions)]


def test_a_prompt_over_the_window_is_refused(embedded: Any) -> None:
    with pytest.raises(BenchError, match="window of 512"):
        answers(embedded, [[5] * 510], 8)


def test_training_ids_hold_the_prompt_the_answer_and_the_end(embedded: Any) -> None:
    messages = ask("What is the color of Zorba?")
    ids, n = embedded.training_ids(messages, "red")
    assert ids[:n] == embedded.prompt_ids(messages)
    assert embedded.tokenizer.convert_ids_to_tokens(ids[n:]) == ["Ġred", "<|end|>"]


def test_a_real_model_without_a_chat_template() -> None:
    model = LanguageModel(locate(str(shared("models/stories260K"))))
    assert model.decoding["format"] == "plain"
    messages = ask("Once upon a time")
    g = answers(model, [model.prompt_ids(messages)], 12)[0]
    assert g.completion_tokens <= 12
    assert "\n" not in g.text
    ids, n = model.training_ids(messages, "a cat")
    assert ids[:n] == model.prompt_ids(messages)
    assert model.tokenizer.decode(ids[n:]).strip() == "a cat"


def test_a_folder_that_is_no_causal_model(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(EMBEDDED_FOLDER, tmp_path / "odd"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "no_such_type", "architectures": ["X"]}))
    with pytest.raises(BenchError, match="could not be loaded as a causal language model") as error:
        LanguageModel(locate(str(folder)))
    assert "\n" not in str(error.value)


def test_a_model_loaded_for_all_is_handed_out_once_with_what_it_took() -> None:
    source = locate("embedded")
    preload(source)
    found = take_preloaded(source)
    assert found
    model, wall, cpu = found
    assert model.source == source
    assert min(wall, cpu) > 0
    assert take_preloaded(source) is None
    preload(locate("all-MiniLM-L6-v2"))  # an encoder's head depends on the task
    assert take_preloaded(locate("all-MiniLM-L6-v2")) is None
