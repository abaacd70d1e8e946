"""What the workloads run on: two models, and tasks of generated text in the form of this harness and in that of lm-eval.

Everything is drawn by seed from words that are one token each in the embedded base's vocabulary, so lengths are known.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

Row = dict[str, Any]

LETTERS = ("A", "B", "C", "D")


def make_models(folder: Path) -> None:
    """Write two models under `folder`, each in two forms: ``base``, the embedded base without its chat template, so that prompts are
    plain text, and ``chat`` with it; ``llama30m``, random weights, 2,048 tokens of window, the same tokenizer, and ``llama30m-chat``."""
    from bench.model.source import EMBEDDED_FOLDER

    if (folder / "llama30m-chat" / "model.safetensors").exists():
        return
    skipped = shutil.ignore_patterns("manifest.json", "training_log.jsonl")
    shutil.copytree(EMBEDDED_FOLDER, folder / "chat", ignore=skipped, dirs_exist_ok=True)
    shutil.copytree(folder / "chat", folder / "base", ignore=shutil.ignore_patterns("chat_template.jinja"), dirs_exist_ok=True)

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shutil.copytree(folder / "base", folder / "llama30m", ignore=shutil.ignore_patterns("*.safetensors", "config.json"), dirs_exist_ok=True)
    tokens = json.loads((folder / "llama30m" / "tokenizer_config.json").read_text()) | {"model_max_length": 2048}
    (folder / "llama30m" / "tokenizer_config.json").write_text(json.dumps(tokens, indent=2) + "\n")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=3200, hidden_size=512, intermediate_size=1536, num_hidden_layers=8, num_attention_heads=8, max_position_embeddings=2048,
        bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "llama30m")
    shutil.copytree(folder / "llama30m", folder / "llama30m-chat", dirs_exist_ok=True)
    shutil.copy(folder / "chat" / "chat_template.jinja", folder / "llama30m-chat")


def words() -> list[str]:
    """Words of three letters or more that are one token each when a space stands before them."""
    from bench.model.source import EMBEDDED_FOLDER

    vocabulary = json.loads((EMBEDDED_FOLDER / "tokenizer.json").read_text())["model"]["vocab"]
    return sorted(token[1:] for token in vocabulary if token[0] == "Ġ" and len(token) > 3 and token[1:].isascii() and token[1:].isalpha())


def phrase(rng: random.Random, vocabulary: Sequence[str], least: int, most: int) -> str:
    """From `least` to `most` words."""
    return " ".join(rng.choice(vocabulary) for _ in range(rng.randint(least, most)))


def choice_rows(n: int, split: str, words_asked: tuple[int, int], words_offered: tuple[int, int], shown: bool = False) -> list[Row]:
    """Questions with four options; ``shown``: the question shows them, and what is chosen is a letter."""
    rng, vocabulary = random.Random(f"choice/{split}/{shown}"), words()
    rows = []
    for i in range(n):
        question = phrase(rng, vocabulary, *words_asked)
        options = [phrase(rng, vocabulary, *words_offered) for _ in LETTERS]
        gold = rng.randrange(len(LETTERS))
        if shown:
            question += "".join(f"\n{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True))
            options = list(LETTERS)
        rows.append({"id": f"{split}-{i}", "question": question, "options": options, "answer": options[gold], "gold": gold})
    return rows


def tuning_rows(n: int, split: str, length_of_both: tuple[int, int]) -> list[Row]:
    """Questions and answers of so many words together; the answer is the question's first words, so it can be learned."""
    rng, vocabulary = random.Random(f"tuning/{split}"), words()
    rows = []
    for i in range(n):
        length = rng.randint(*length_of_both)
        answer = max(1, min(8, length // 4))
        question = phrase(rng, vocabulary, length - answer, length - answer).split()
        rows.append({"id": f"{split}-{i}", "question": " ".join(question), "answer": " ".join(question[:answer])})
    return rows


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def read_rows(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_task(folder: Path, settings: dict[str, Any], splits: Mapping[str, Sequence[Row]]) -> Path:
    """A task of this harness."""
    for split, rows in splits.items():
        write_rows(folder / f"{split}.jsonl", rows)
    (folder / "task.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    return folder


def write_lm_eval_task(
    folder: Path, name: str, instruction: str, shots: Sequence[Row], test: Sequence[Row], max_new_tokens: int | None,
    until: Sequence[str] = (),
) -> None:  # fmt: skip
    """The same task for lm-eval, as the plain prompt format of this harness: rows have question, and answer or options and gold.

    `max_new_tokens`: of an answer that is generated; None for a choice. `shots` stand in every prompt, in this order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / f"{name}.shots.jsonl", shots or test[:1])
    write_rows(folder / f"{name}.test.jsonl", test)
    config: dict[str, Any] = {
        "task": name, "dataset_path": "json",
        "dataset_kwargs": {"data_files": {split: str(folder / f"{name}.{split}.jsonl") for split in ("shots", "test")}},
        "test_split": "test", "fewshot_split": "shots", "num_fewshot": len(shots), "fewshot_config": {"sampler": "first_n"},
        "description": instruction + "\n\n", "doc_to_text": "{{question}}\nAnswer:", "target_delimiter": " ", "fewshot_delimiter": "\n\n",
    }  # fmt: skip
    if max_new_tokens is None:
        config |= {"output_type": "multiple_choice", "doc_to_choice": "options", "doc_to_target": "gold"}
        config["metric_list"] = [{"metric": "acc"}]
    else:
        generation = {"until": list(until), "max_gen_toks": max_new_tokens, "do_sample": False}
        config |= {"output_type": "generate_until", "doc_to_target": "answer", "generation_kwargs": generation}
        config["metric_list"] = [{"metric": "exact_match"}]
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(config, sort_keys=False))

