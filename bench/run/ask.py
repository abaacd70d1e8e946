"""One task as a strategy asks it: examples become requests, and answers become scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from bench.cost.meter import Meter
from bench.errors import BenchError
from bench.metric.score import Answer, score
from bench.model.language_model import Generation, LanguageModel
from bench.strategy.embedder import Embedder
from bench.strategy.embedding_cache import CachedEmbedder
from bench.strategy.nearest import NearestExamples
from bench.strategy.prompt import Parsed, Prompt, answer_text, build_prompts, draw_shots, parse
from bench.strategy.retrieval import Found, Retriever
from bench.strategy.spec import Strategy
from bench.strategy.store import Store
from bench.task.schema import Example, Passage, Task


@lru_cache(maxsize=1)
def cell_embedder(name: str, stores: Path, meter: Meter) -> Embedder:
    """One embedder for all trials of a cell, which are those of one meter; what it embeds is kept beside the stores."""
    return CachedEmbedder(name, stores / "queries", meter)


@dataclass(frozen=True)
class Request:
    """What the model is asked for one example."""

    prompt: Prompt
    found: Found | None
    """None where the strategy reads nothing."""
    abstains: bool = False
    """What was found is too unlike the question: the answer is an abstention, and the model is not asked."""
    options: tuple[str, ...] = ()
    """Multiple choice: what to choose from."""


@dataclass(frozen=True)
class Answered:
    """The answer to the request at `index`."""

    index: int
    generation: Generation
    request: Request
    parsed: Parsed

    @property
    def cited_ids(self) -> tuple[str, ...] | None:
        """Documents of the passages cited, in order; a number that no passage has counts as an unknown document. None where none is
        asked for."""
        if self.parsed.cited is None:
            return None
        ids = self.request.found.document_ids if self.request.found else ()
        return tuple(ids[n - 1] if 1 <= n <= len(ids) else f"[{n}]" for n in self.parsed.cited)


class Asker:
    """One task as a strategy asks it: its shots and passages, its examples as prompts, its answers and their score."""

    def __init__(
        self, task: Task, strategy: Strategy, model: LanguageModel, stores: Path, shots: Sequence[Example], embedder: Embedder | None = None
    ) -> None:
        """Open or build what the strategy reads, in the folder `stores`; `shots`: the examples that all requests show; `embedder`:
        where the strategy embeds, its embedder, by default a new one that keeps nothing."""
        self.task, self.strategy, self.model, self.shots = task, strategy, model, tuple(shots)
        if strategy.embeds:
            embedder = embedder or Embedder(strategy.retrieval.embedder)
        self.retriever = Retriever(task, strategy.retrieval, embedder, stores)
        prompt = strategy.prompt
        self.nearest: NearestExamples | None = None
        if prompt.select == "nearest" and prompt.shots:
            assert embedder is not None
            self.nearest = NearestExamples(task.train, embedder, stores)

    @property
    def stores(self) -> list[Store]:
        """The stores that are searched."""
        return [s for s in (self.retriever.store, self.nearest.store if self.nearest else None) if s is not None]

    def requests(self, examples: Sequence[Example], found: Sequence[Found] | None) -> list[Request]:
        """What the model is asked for each example, with what was found for it."""
        passages: Sequence[Sequence[str]] = [f.passages for f in found] if found else [()] * len(examples)
        prompt = self.strategy.prompt
        shots = self.nearest.find(examples, prompt.shots) if self.nearest else [self.shots] * len(examples)
        prompts = build_prompts(self.model, self.task, prompt, examples, shots, passages)
        below = self.strategy.retrieval.abstain_below
        unlike = [below is not None and (f.score is None or f.score < below) for f in found] if found else [False] * len(examples)
        return [
            Request(p, found[i] if found else None, unlike[i], e.options) for i, (e, p) in enumerate(zip(examples, prompts, strict=True))
        ]

    def asked(self, examples: Sequence[Example]) -> list[Request]:
        """The requests with what retrieval finds, as in a test."""
        return self.requests(examples, self.retriever.find(examples))

    @property
    def train(self) -> list[Example]:
        """The examples to train on: a shot that all prompts show would stand in its own prompt, answer and all."""
        shown = {s.id for s in self.shots}
        return [e for e in self.task.train if e.id not in shown]

    def training_requests(self, train: Sequence[Example], seed: int) -> list[Request]:
        """What the model is asked for each example in training: with passages only where the strategy trains with them."""
        choice = self.strategy.tuning
        return self.requests(train, self.retriever.find_for_training(train, choice.gold_share, seed) if choice.with_passages else None)

    def training_rows(self, seed: int) -> list[dict[str, Any]]:
        """The training examples as conversations with their answers, as a provider's fine-tuning reads them.

        Only the last answer is to be learned; those of shots are marked with weight 0.
        """
        train = self.train
        rows = []
        for example, request in zip(train, self.training_requests(train, seed), strict=True):
            asked: list[dict[str, Any]] = [{**m, "weight": 0} if m["role"] == "assistant" else {**m} for m in request.prompt.messages]
            read = request.found.document_ids if request.found else ()
            rows.append({"messages": [*asked, {"role": "assistant", "content": answer_text(self.strategy.prompt, example, read)}]})
        return rows

    def parsed(self, text: str) -> Parsed:
        return parse(self.strategy.prompt, text, self.task.config.layout)

    def score(self, examples: Sequence[Example], answered: Sequence[Answered]) -> float:
        """The task's primary metric. Raises `BenchError` where it is undefined on all of the examples."""
        name = self.task.primary_metric
        answers = to_answers(self.task, examples, sorted(answered, key=lambda a: a.index))
        value = score(self.task, answers, [name]).corpus.get(name)
        if value is None:
            raise BenchError(f"task {self.task.name}: {name} is undefined on the validation examples")
        return value

    def reward(self, examples: Sequence[Example], texts: Sequence[str]) -> list[float]:
        """The primary metric of each text as an answer to its example; where that has no item score, whether it is right."""
        name = self.task.primary_metric
        scores = score(self.task, [Answer(e, self.parsed(t).answer) for e, t in zip(examples, texts, strict=True)], [name])
        return [item.get(name, float(outcome == "correct")) for item, outcome in zip(scores.items, scores.outcomes, strict=True)]


def shots_of(task: Task, strategy: Strategy, seed: int) -> tuple[Example, ...]:
    """The examples that all requests of a strategy show."""
    return draw_shots(task, strategy.prompt.shots, seed) if strategy.prompt.select == "drawn" else ()


def to_answers(task: Task, examples: Sequence[Example], answered: Sequence[Answered]) -> list[Answer]:
    """What the metrics need of answers: with the text that each should rest on, and what was read."""
    texts = {p.id: p.text for p in task.corpus}
    answers = []
    for example, a in zip(examples, answered, strict=True):
        evidence = "\n".join(texts[i] for i in example.evidence) if example.evidence else None
        if task.config.kind == "summarization":
            evidence = example.input
        found = a.request.found
        read, left_out = _passages(a.request) if found else (None, ())
        answers.append(
            Answer(
                example,
                a.parsed.answer,
                retrieved_ids=tuple(dict.fromkeys(found.document_ids)) if found else None,
                evidence_text=evidence,
                cited_ids=a.cited_ids,
                option_logprobs=a.generation.option_logprobs,
                logprob=None if a.parsed.reasoning else a.generation.logprob,
                passages=read,
                left_out=left_out,
            )
        )
    return answers


def _passages(request: Request) -> tuple[tuple[Passage, ...], tuple[Passage, ...]]:
    """What was found that stands in the prompt, and what was left out of it: the lowest ranked, where the window is full."""
    assert request.found is not None
    found = [Passage(i, text) for i, text in zip(request.found.document_ids, request.found.passages, strict=True)]
    prompt = request.prompt.messages[-1]["content"]
    n = sum(f"[{i}] {passage.text}" in prompt for i, passage in enumerate(found, start=1))
    return tuple(found[:n]), tuple(found[n:])
