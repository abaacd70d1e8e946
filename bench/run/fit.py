"""A strategy made ready to answer: model, shots, passages and trained weights for one point of its settings."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from bench.cost.flops import generation_flops, shape_of
from bench.cost.meter import Meter
from bench.errors import BenchError
from bench.metric.score import Answer, score
from bench.model.language_model import Generation, LanguageModel
from bench.result.schema import Trial
from bench.strategy.embedder import Embedder
from bench.strategy.prompt import Prompt, build_prompts, draw_shots
from bench.strategy.retrieval import Found, Retriever
from bench.strategy.spec import Strategy
from bench.strategy.tuning import Tuned, restore, tune, wrap
from bench.suite import Cell
from bench.task.schema import Example, Task

Report = Callable[[str], None]

load_embedder = cache(Embedder)
"""An embedder is the same for every trial of a cell's process."""


@dataclass(frozen=True)
class Request:
    """What the model is asked for one example."""

    prompt: Prompt
    found: Found | None
    """None where the strategy reads nothing."""


@dataclass(frozen=True)
class Answered:
    """The answer to the request at `index`."""

    index: int
    generation: Generation
    request: Request


class Fitted:
    """A strategy at one point of its settings, ready to answer."""

    def __init__(self, cell: Cell, strategy: Strategy, stores: Path, meter: Meter) -> None:
        """Load the base and open what the strategy reads; `tune` comes after."""
        self.cell, self.strategy, self.meter = cell, strategy, meter
        with meter.phase("load"):
            self.model = LanguageModel(cell.model, trust_remote_code=cell.trust_remote_code)
            embedder = load_embedder(strategy.retrieval.embedder) if strategy.retrieval.search == "dense" else None
        with meter.phase("index"):
            self.retriever = Retriever(cell.task, strategy.retrieval, embedder, stores)
        self.shots = draw_shots(cell.task, strategy.prompt.shots, cell.seed)
        self.validation = cell.task.validation[: cell.budget.validation_examples]
        self.tuned: Tuned | None = None

    def tune(self, weights: dict[str, torch.Tensor] | None, report: Report) -> None:
        """Train the weights that the strategy moves, or put back the `weights` that an earlier fit trained."""
        choice, task = self.strategy.tuning, self.cell.task
        if choice.method == "none":
            return
        wrap(self.model, choice, self.cell.seed)
        if weights is not None:
            restore(self.model, weights)
            return
        # An example that is also a shot would stand in its own prompt, answer and all.
        shown = {s.id for s in self.shots}
        train = [e for e in task.train if e.id not in shown]
        requests = self.requests(train, read=choice.with_passages)
        pairs = [self.model.training_ids(r.prompt.messages, e.targets[0]) for r, e in zip(requests, train, strict=True)]
        asked = self.requests(self.validation)
        self.tuned = tune(
            self.model, choice, pairs, lambda: self.score(self.validation, asked), self.cell.seed,
            on_step=lambda step, total: report(f"tune {step}/{total}"),
        )  # fmt: skip
        self.meter.add_flops(self.tuned.flops)

    def validation_score(self) -> float:
        """The task's primary metric on the validation examples of the budget."""
        return self.score(self.validation, self.requests(self.validation))

    def score(self, examples: Sequence[Example], requests: Sequence[Request]) -> float:
        """The task's primary metric on the answers to `requests`. Raises `BenchError` where it is undefined on all of them."""
        answered = sorted((a for batch in self.answer(requests) for a in batch), key=lambda a: a.index)
        name = self.cell.task.primary_metric
        value = score(self.cell.task, to_answers(self.cell.task, examples, answered), [name]).corpus.get(name)
        if value is None:
            raise BenchError(f"task {self.cell.task.name}: {name} is undefined on the validation examples")
        return value

    def requests(self, examples: Sequence[Example], read: bool = True) -> list[Request]:
        """What the model is asked for each example; `read`: with what the strategy retrieves."""
        found = self.retriever.find(examples) if read else None
        passages = [f.passages for f in found] if found else [()] * len(examples)
        prompts = build_prompts(self.model, self.cell.task, examples, self.shots, passages)
        return [Request(p, found[i] if found else None) for i, p in enumerate(prompts)]

    def answer(self, requests: Sequence[Request], done: Collection[int] = ()) -> Iterator[list[Answered]]:
        """Answers batch by batch; a batch whose requests are all in `done` is passed over."""
        self.model.network.eval()  # dropout off
        shape = shape_of(self.model.network)
        for batch in self.model.generate([r.prompt.ids for r in requests], self.cell.task.config.max_new_tokens, skip=done):
            for _, g in batch:
                self.meter.add_flops(generation_flops(shape, g.prompt_tokens, g.completion_tokens, g.cached_tokens))
            yield [Answered(i, g, requests[i]) for i, g in batch]


def to_answers(task: Task, examples: Sequence[Example], answered: Sequence[Answered]) -> list[Answer]:
    """What the metrics need of answers: with the text that each should rest on."""
    texts = {p.id: p.text for p in task.corpus}
    answers = []
    for example, a in zip(examples, answered, strict=True):
        evidence = "\n".join(texts[i] for i in example.evidence) if example.evidence else None
        if task.config.kind == "summarization":
            evidence = example.input
        found = a.request.found
        answers.append(Answer(example, a.generation.text, found.document_ids if found else None, evidence))
    return answers


def search(cell: Cell, stores: Path, meter: Meter, report: Report) -> tuple[Fitted, list[Trial]]:
    """Fit every point of the search and keep the best by validation score (the first one of equals).

    A point that fails (diverges, runs out of memory) is a failed trial; the search fails only where all do. A strategy with
    nothing to search is fitted once without being scored.
    """
    points = cell.strategy.settings_to_try(cell.budget.trials)
    if len(points) == 1:
        fitted = fit(cell, cell.strategy.with_settings(points[0]), stores, meter, report)
        return fitted, []
    trials: list[Trial] = []
    best: tuple[float, int, dict[str, torch.Tensor] | None] | None = None
    fitted_now: Fitted | None = None
    for i, point in enumerate(points):
        before = _tuning(meter)
        value, error, epochs = None, None, None
        fitted_now = None  # frees the last model before the next is loaded
        try:
            fitted_now = fit(cell, cell.strategy.with_settings(point), stores, meter, _prefixed(report, f"trial {i + 1}/{len(points)}, "))
            if fitted_now.tuned:
                value, epochs = fitted_now.tuned.validation_score, fitted_now.tuned.epochs
            else:
                with meter.phase("tune"):
                    value = fitted_now.validation_score()
            if best is None or value > best[0]:
                best = (value, i, fitted_now.tuned.weights if fitted_now.tuned else None)
        except (BenchError, MemoryError, torch.OutOfMemoryError) as problem:
            error = f"{type(problem).__name__}: {problem}".splitlines()[0]
        wall, cpu, flops = (now - then for now, then in zip(_tuning(meter), before, strict=True))
        trials.append(
            Trial(settings=point, validation_score=value, wall_seconds=wall, cpu_seconds=cpu, flops=flops, epochs=epochs, error=error)
        )
    if best is None:
        raise BenchError(f"all {len(points)} trials of the search failed; the last one: {trials[-1].error}")
    _, chosen, weights = best
    if fitted_now is None or chosen != len(points) - 1:
        fitted_now = None
        fitted_now = fit(cell, cell.strategy.with_settings(points[chosen]), stores, meter, report, weights)
    return fitted_now, trials


def _prefixed(report: Report, prefix: str) -> Report:
    return lambda text: report(prefix + text)


def _tuning(meter: Meter) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and FLOPs of the tune phase so far."""
    tune = meter.readings().get("tune")
    return (tune.wall_seconds, tune.cpu_seconds, tune.flops) if tune else (0.0, 0.0, 0.0)


def fit(
    cell: Cell, strategy: Strategy, stores: Path, meter: Meter, report: Report, weights: dict[str, torch.Tensor] | None = None
) -> Fitted:
    """Load, index and tune one point of the settings, or put back the `weights` that an earlier fit of it trained."""
    report("load")
    fitted = Fitted(cell, strategy, stores, meter)
    if strategy.tuning.method != "none":
        report("tune")
        with meter.phase("tune"):
            fitted.tune(weights, report)
    return fitted
