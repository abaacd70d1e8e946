"""The embedded base model's tokenizer: byte-level BPE trained on the world's own text, with a chat template."""

from __future__ import annotations

import random
from collections.abc import Iterator

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from bench.world import episodes
from bench.world.entities import ATTRIBUTES, WORLD_SEED, names

PAD = "<|pad|>"
VOCABULARY = 4096
WINDOW = 512

# "generation" marks the assistant's tokens for trainers that mask by template.
CHAT_TEMPLATE = (
    "{{- bos_token }}{%- for m in messages %}"
    "{%- if m['role'] == 'assistant' %}<|assistant|>{% generation %}{{ m['content'] }}<|end|>{% endgeneration %}"
    "{%- else %}<|user|>{{ m['content'] }}<|end|>{%- endif %}"
    "{%- endfor %}{%- if add_generation_prompt %}<|assistant|>{%- endif %}"
)


def training_text(seed: int = WORLD_SEED, n: int = 20_000) -> Iterator[str]:
    """Lines to train the tokenizer on: every name and value often enough to become one token, then sampled episodes."""
    words = [*names("words"), *names("known"), *episodes.WORDS, *episodes.LABELS, *(v for a in ATTRIBUTES for v in a.values)]
    for word in words:
        yield " ".join([word] * 60)
    rng = random.Random(f"{seed}/tokenizer")
    kinds = [k for k in episodes.KINDS if k not in ("repeat_block", "word_labels")]
    for _ in range(n):
        for text, _kind in episodes.KINDS[rng.choice(kinds)](rng, 3).segments:
            if not text.startswith("<|"):
                yield text


def train_tokenizer() -> PreTrainedTokenizerFast:
    """Train the tokenizer; the same seed gives the same file."""
    tokenizer = Tokenizer(models.BPE())
    # A prefix space makes a word the same token at the start of a turn as inside a sentence, so answers can be copied.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    special = [PAD, episodes.BOS, episodes.END, episodes.USER, episodes.ASSISTANT]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        min_frequency=20,
    )
    tokenizer.train_from_iterator(training_text(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=episodes.BOS, eos_token=episodes.END, pad_token=PAD, chat_template=CHAT_TEMPLATE,
        model_max_length=WINDOW, clean_up_tokenization_spaces=False,
    )
