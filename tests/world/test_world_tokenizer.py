import random

import pytest
from transformers import PreTrainedTokenizerFast

from bench.world import entities as e
from bench.world import episodes as ep
from bench.world.tokenizer import VOCABULARY, WINDOW, train_tokenizer


def test_training_is_deterministic(tokenizer: PreTrainedTokenizerFast) -> None:
    assert train_tokenizer().backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert len(tokenizer) <= VOCABULARY
    assert tokenizer.model_max_length == WINDOW


@pytest.mark.parametrize(
    "words",
    [e.names("words"), e.names("known"), ep.LABELS, [w for a in e.ATTRIBUTES for v in a.values for w in v.split()], e.MODEL_WORDS],
    ids=["words", "known", "labels", "values", "model words"],
)
def test_names_values_and_labels_are_one_token(tokenizer: PreTrainedTokenizerFast, words: list[str]) -> None:
    # Inside a sentence as well as at the start of a turn: the same token, so that an answer can be copied.
    for word in words:
        (at_start,) = tokenizer(word, add_special_tokens=False)["input_ids"]
        assert tokenizer(f"the {word}", add_special_tokens=False)["input_ids"][1:] == [at_start], word


def test_text_comes_back_whole(tokenizer: PreTrainedTokenizerFast) -> None:
    for text in ("The color of Zorba is red.", '{"score": 5, "aspect": "lid"}', "café – 42 %\nnext line"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]).lstrip(" ") == text


def test_chat_template_gives_the_tokens_of_the_pretraining_episodes(tokenizer: PreTrainedTokenizerFast) -> None:
    """Prompts are rendered as one string and episodes tokenised in segments; both must give the same ids."""
    rng = random.Random(3)
    checked = 0
    for kind in ("read", "reason", "classify", "closed_book", "summarize", "extract"):
        for _ in range(20):
            segments = [text for text, _ in ep.KINDS[kind](rng, 3).segments]
            if segments[1] != ep.USER:
                continue  # a context or pairs as plain text before the conversation
            messages = []
            for role, marker in (("user", ep.USER), ("assistant", ep.ASSISTANT)):
                messages.append([{"role": role, "content": segments[i + 1]} for i, s in enumerate(segments) if s == marker])
            conversation = [m for pair in zip(*messages, strict=True) for m in pair]
            ids = [i for piece in tokenizer(segments, add_special_tokens=False)["input_ids"] for i in piece]
            assert tokenizer.apply_chat_template(conversation, return_dict=False) == ids
            checked += 1
    assert checked > 60


def test_generation_prompt_and_assistant_mask(tokenizer: PreTrainedTokenizerFast) -> None:
    question = [{"role": "user", "content": "Who makes Zorba?"}]
    prompt = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    assert prompt == "<|bos|><|user|>Who makes Zorba?<|end|><|assistant|>"
    out = tokenizer.apply_chat_template(
        [*question, {"role": "assistant", "content": "Norda"}], return_dict=True, return_assistant_tokens_mask=True
    )
    supervised = [i for i, m in zip(out["input_ids"], out["assistant_masks"], strict=True) if m]
    assert tokenizer.decode(supervised).strip() == "Norda<|end|>"
