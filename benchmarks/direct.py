"""Parts of this harness called without its command line, each in a process of its own: ``python -m benchmarks.direct PART ...``."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


class Asked:
    """A cell of a suite with its model: what it asks, without running it."""

    def __init__(self, suite: Path, strategy: str | None = None) -> None:
        """`strategy`: the cell's, where the suite has several."""
        from bench.model.load import load_model
        from bench.model.source import locate
        from bench.suite import expand, load_suite

        loaded = load_suite(str(suite))
        (self.cell,) = (c for c in expand(loaded, locate(loaded.model)) if strategy in (None, c.strategy_name))
        self.model = load_model(self.cell.model)

    def prompts(self, passages: dict[str, list[str]] | None = None) -> list[dict[str, Any]]:
        """Of each test item: id, the prompt as text and token ids, and the token ids of its options after that.

        `passages`: what each item is handed to read, by its id.
        """
        from bench.strategy.prompt import build_prompts, draw_shots

        task, choice, model = self.cell.task, self.cell.strategy.prompt, self.model
        shots = draw_shots(task, choice.shots, self.cell.seed)
        read = [passages[e.id] if passages else [] for e in task.test]
        rows = []
        for example, prompt in zip(task.test, build_prompts(model, task, choice, task.test, [shots] * len(read), read), strict=True):
            text, ids = model._text(prompt.messages), list(prompt.ids)
            options = model.option_ids([prompt.messages], [ids], [example.options])[0] if example.options else []
            rows.append({"id": example.id, "text": text, "ids": ids, "options": options})
        return rows

    def gaps(self, pairs: dict[str, list[str]]) -> dict[str, float]:
        """By item: how far apart the log-probabilities of the first two tokens are in which two answers differ, in nats."""
        import torch

        found, end = {}, min(self.model.end_ids)
        for prompt in self.prompts():
            if prompt["id"] not in pairs:
                continue
            a, b = (list(self.model.tokenizer(f"{prompt['text']} {text}\n")["input_ids"]) for text in pairs[prompt["id"]])
            i = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
            with torch.inference_mode():
                scores = self.model.network(torch.tensor([a[:i]])).logits[0, -1].float().log_softmax(-1)
            first, second = (float(scores[row[i] if i < len(row) else end]) for row in (a, b))
            found[prompt["id"]] = abs(first - second)
        return found

    def training_rows(self) -> list[tuple[list[int], int]]:
        """The (token ids, prompt length) rows to train on."""
        from bench.strategy.prompt import build_messages

        return [self.model.training_ids(build_messages(self.cell.task, e.input), e.targets[0]) for e in self.cell.task.train]

    def tune(self, bare: bool) -> dict[str, float]:
        """Train: seconds of the training and the loss on its rows; `bare`: by a loop of plain torch instead."""
        import peft  # noqa: F401  (imported before the clock starts)

        from bench.strategy.adapters import wrap
        from bench.strategy.tuning import tune

        choice, seed, rows = self.cell.strategy.tuning, self.cell.seed, self.training_rows()
        wrap(self.model, choice, seed)
        before = completion_loss(self.model.network, rows)
        cpu, wall = time.process_time(), time.perf_counter()
        if bare:
            bare_loop(self.model, choice, rows, seed)
        else:
            tune(self.model, choice, rows, lambda: 0.0, seed)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        after = completion_loss(self.model.network, rows)
        return {"cpu_seconds": cpu, "wall_seconds": wall, "loss_before": before, "loss_after": after}

    def loss_of(self, trained: Path) -> float:
        """The loss on the training rows of a model, or of an adapter on the cell's base, in a folder in Hugging Face format."""
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        if (trained / "adapter_config.json").exists():
            return completion_loss(PeftModel.from_pretrained(self.model.network, trained), self.training_rows())
        return completion_loss(AutoModelForCausalLM.from_pretrained(trained), self.training_rows())


def completion_loss(network: Any, pairs: Sequence[tuple[list[int], int]]) -> float:
    """Mean cross-entropy over the completion tokens of the first hundred (token ids, prompt length) rows, in nats."""
    import torch
    from torch.nn import functional

    total, n = 0.0, 0
    network.eval()
    with torch.inference_mode():
        for ids, prompt in pairs[:100]:
            logits = network(input_ids=torch.tensor([ids])).logits[0, prompt - 1 : -1].float()
            total += float(functional.cross_entropy(logits, torch.tensor(ids[prompt:]), reduction="sum"))
            n += len(ids) - prompt
    return total / n


def bare_loop(model: Any, choice: Any, rows: Sequence[tuple[list[int], int]], seed: int) -> None:
    """What one would write by hand, over the very batches that the harness makes."""
    import random

    import torch

    from bench.strategy.tuning import learning_rate_factor, length_grouped

    network, rng = model.network, random.Random(f"tune/{seed}")
    moving = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(moving, lr=choice.learning_rate, weight_decay=choice.weight_decay, fused=True)
    batches = [
        batch for _ in range(choice.epochs) for batch in length_grouped([len(ids) for ids, _ in rows], choice.batch_size, rng)
    ]
    total = math.ceil(len(rows) / choice.batch_size) * choice.epochs
    network.train()
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = choice.learning_rate * learning_rate_factor(choice, step, total)
        width = max(len(rows[i][0]) for i in batch)
        ids = torch.tensor([rows[i][0] + [model.pad_id] * (width - len(rows[i][0])) for i in batch])
        mask = torch.tensor([[1] * len(rows[i][0]) + [0] * (width - len(rows[i][0])) for i in batch])
        labels = torch.tensor([[-100] * n + row[n:] + [-100] * (width - len(row)) for row, n in (rows[i] for i in batch)])
        loss = network(input_ids=ids, attention_mask=mask, labels=labels).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(moving, choice.max_gradient_norm)
        optimizer.step()


def search(texts: dict[str, list[str]], stores: Path) -> dict[str, Any]:
    """Embed and index the passages, and find the 5 nearest of each query: seconds and hits."""
    from bench.strategy.embedder import Embedder
    from bench.strategy.store import Store, StoreSettings
    from bench.task.schema import Passage

    embedder = Embedder()
    embedder.embed(["warm up"])
    passages = [Passage(str(i), text) for i, text in enumerate(texts["passages"])]
    cpu, wall = time.process_time(), time.perf_counter()
    store = Store.build_or_open(stores, passages, embedder, StoreSettings())
    found = store.search(texts["queries"], 5)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {
        "cpu_seconds": cpu, "wall_seconds": wall, "ids": [[int(hit.chunk.document_id) for hit in row] for row in found],
        "scores": [[hit.score for hit in row] for row in found],
    }  # fmt: skip


def corpus(n: int, dimension: int, queries: int, stores: Path) -> dict[str, float]:
    """A store of `n` passages whose vectors are drawn and not embedded: CPU seconds to index and to search."""
    import numpy as np

    from bench.strategy.embedder import Embedder
    from bench.strategy.store import Store, StoreSettings
    from bench.task.schema import Passage

    class Drawn(Embedder):
        """Vectors of length 1 in place of an embedder's."""

        def embed(self, texts: Sequence[str], role: Any = "passage") -> Any:
            vectors = np.random.default_rng(len(texts)).standard_normal((len(texts), dimension), dtype=np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            return vectors

    embedder = Drawn()
    embedder.dimension = dimension
    passages = [Passage(str(i), f"passage {i}") for i in range(n)]
    began = time.process_time()
    store = Store.build_or_open(stores, passages, embedder, StoreSettings())
    indexed = time.process_time()
    store.search([f"query {i}" for i in range(queries)], 5)
    return {"index_cpu_seconds": indexed - began, "search_cpu_seconds": time.process_time() - indexed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", help="prompts, gaps, rows, tune, loop, loss, search or corpus")
    parser.add_argument("output", type=Path, help="JSON file to write")
    parser.add_argument("--suite", type=Path, help="a suite of one cell, or of several and a --strategy")
    parser.add_argument("--strategy", help="the cell's strategy")
    parser.add_argument("--input", type=Path, help="JSON file; prompts: passages by item; gaps: two answers by item; search: texts")
    parser.add_argument("--trained", type=Path, help="loss: folder of a trained model or adapter")
    parser.add_argument("--stores", type=Path, help="search, corpus: folder for the store")
    parser.add_argument("--passages", type=int, help="corpus: how many")
    given = parser.parse_args()

    if given.part != "corpus":  # which runs no model
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
    read: Any = json.loads(given.input.read_text()) if given.input else None
    parts: dict[str, Callable[[], Any]] = {
        "prompts": lambda: Asked(given.suite, given.strategy).prompts(read),
        "gaps": lambda: Asked(given.suite).gaps(read),
        "rows": lambda: Asked(given.suite).training_rows(),
        "tune": lambda: Asked(given.suite).tune(bare=False),
        "loop": lambda: Asked(given.suite).tune(bare=True),
        "loss": lambda: Asked(given.suite).loss_of(given.trained),
        "search": lambda: search(read, given.stores),
        "corpus": lambda: corpus(given.passages, 384, 100, given.stores),
    }
    given.output.write_text(json.dumps(parts[given.part]()))


if __name__ == "__main__":
    main()
