"""Online latency: how long a strategy takes to answer one request at a time, retrieval and all."""

from __future__ import annotations

import bisect
import contextlib
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pydantic import Field

from bench.probe.base import Context, Finding, Probe
from bench.result.schema import MetricValue
from bench.strategy.nearest import NearestExamples
from bench.suite import Cell

if TYPE_CHECKING:  # a finished run is recognised without torch
    from bench.model.language_model import Generation, LanguageModel
    from bench.run.ask import Request
    from bench.run.fit import Fitted
    from bench.task.schema import Example

QUANTILES = {"latency": (0.5, 0.95, 0.99), "ttft": (0.5, 0.95), "tpot": (0.5,), "retrieval": (0.5,)}
NOT_ASKED, ONE_TOKEN = "it abstained, and the model was not asked", "the answer is one token"
CHOSEN = "the answer is chosen, and no token is generated"
SEARCHES_NOTHING = "nothing is searched for a request"


class Latency(Probe):
    """Online latency of single requests: one at a time, each sent when the one before is answered (closed loop, concurrency 1, batch 1).

    A request goes the whole way: embed the question, search, rerank, make the prompt and its tokens, run the model, read the answer.
    Requests are the test inputs in order, from the start again where they are fewer. Nothing that an earlier request leaves behind
    serves a later one: no cached vectors or features, no prefix computed beforehand. An adapter stays beside the base, unmerged.

    * ``latency_p50_seconds``, ``…_p95_…``, ``…_p99_…``: from the request to the end of its answer;
    * ``ttft_p50_seconds``, ``ttft_p95_seconds``: time to the first token, that is retrieval, prompt and prefill. Of generated answers only;
    * ``tpot_p50_seconds``: time per output token after the first, (latency - ttft) / (n - 1) of a request with n of them;
    * ``retrieval_p50_seconds``: embedding, search and reranking of it, for passages and for examples chosen per request.

    A quantile's interval is made of two of the measured values (`quantile_interval`), and is left out where the sample is too small for
    its upper end: p95 needs 72 requests, p99 368. It takes requests for independent, which equal questions and a busy neighbour are not.
    A closed loop has no queue: what many users at once would wait is not measured. ``details.machine.busy_share`` is CPU seconds per
    second; below 1 on a CPU the process waited for others, and the times are theirs as well.
    """

    n_requests: int = Field(default=200, ge=1)
    n_warm_up: int = Field(default=5, ge=1)
    """Requests before them that are not counted: the first ones load the embedder and fill caches of code."""

    def not_applicable(self, cell: Cell) -> str | None:
        return "the strategy asks no model" if cell.strategy.prompt.constant else None

    def run(self, context: Context) -> tuple[dict[str, Finding], dict[str, Any]]:
        import torch

        examples, model = context.cell.task.test, context.ready.model
        load_before = os.getloadavg()[0]
        with serving(context.ready, context.scratch) as ask:
            for example in islice(cycle(examples), self.n_warm_up):
                ask(example)
            began, cpu_began = time.perf_counter(), time.process_time()
            timings = [ask(example) for example in islice(cycle(examples), self.n_requests)]
            busy_share = (time.process_time() - cpu_began) / (time.perf_counter() - began)
        findings, left_out = summarize(timings)
        details: dict[str, Any] = {
            "batch_size": 1,
            "concurrency": 1,
            "n_requests": self.n_requests,
            "n_different_requests": min(self.n_requests, len(examples)),
            "n_warm_up": self.n_warm_up,
            "prefix_cached": False,
            "adapter": "beside the base" if context.ready.tuned_by_adapter else None,
            "dtype": str(model.compute_dtype or next(model.network.parameters()).dtype).removeprefix("torch."),
            "mean_prompt_tokens": fmean(t.prompt_tokens for t in timings),
            "mean_output_tokens": fmean(t.output_tokens for t in timings),
            "left_out": left_out,
            "machine": {
                "device": torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else model.device.type,
                "threads": torch.get_num_threads(),
                "load_average": [load_before, os.getloadavg()[0]],
                "busy_share": busy_share,
            },
        }
        return findings, details


@dataclass(frozen=True)
class Timing:
    """One request; seconds since it was sent."""

    total_seconds: float
    first_token_seconds: float | None
    """None where no token was generated."""
    retrieval_seconds: float | None
    """None where the strategy searches nothing."""
    prompt_tokens: int
    output_tokens: int
    """Of the answer."""
    n_generated: int
    """Tokens that the model computed, one a forward pass: those behind the answer's end as well, where it goes on."""
    chosen: bool = False
    """Whether the answer is one of given labels or options."""

    @property
    def per_token_seconds(self) -> float | None:
        if self.first_token_seconds is None or self.n_generated < 2:
            return None
        return (self.total_seconds - self.first_token_seconds) / (self.n_generated - 1)


class _TimedExamples(NearestExamples):
    """Sums the seconds that finding examples takes."""

    seconds = 0.0

    def find(self, queries: Sequence[Example], k: int) -> list[tuple[Example, ...]]:
        began = time.perf_counter()
        found = super().find(queries, k)
        self.seconds += time.perf_counter() - began
        return found


@contextlib.contextmanager
def serving(fitted: Fitted, folder: Path) -> Iterator[Callable[[Example], Timing]]:
    """A function that answers one request and says how long it took; `fitted` stays as it is. `folder`: an empty one to write to."""
    import torch

    from bench.run.ask import Asker
    from bench.strategy.embedder import Embedder
    from bench.strategy.features import FeatureClassifier
    from bench.strategy.prompt import answer_tokens

    cell, model, asker, strategy = fitted.cell, fitted.model, fitted.asker, fitted.strategy
    nearest: _TimedExamples | None = None
    if asker.stores:
        # The cell's own embedder looks up what it has embedded before.
        stores, embedder = asker.stores[0].folder.parent, Embedder(strategy.retrieval.embedder)
        asker = Asker(cell.task, strategy, model, stores, asker.shots, embedder)
        if asker.nearest:
            asker.nearest = nearest = _TimedExamples(cell.task.train, embedder, stores)
    if fitted.head:
        fitted.head.save(folder / "head")
    searches = nearest is not None or strategy.retrieval.search not in ("none", "oracle")
    among_options = cell.task.config.kind == "multiple_choice"
    chosen = cell.model.kind == "encoder" or fitted.head is not None or among_options
    room = answer_tokens(cell.task, strategy.prompt)
    passes: list[float] = []

    def now() -> float:
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        return time.perf_counter()

    def answer(request: Request, answerer: LanguageModel | FeatureClassifier) -> Generation:
        # As `Fitted.answer`, without what it does for the record: counting operations takes a small model a twentieth of a request.
        prompts = [request.prompt.ids]
        if among_options:
            options = [request.options]
            batches = model.choose(prompts, options, model.option_ids([request.prompt.messages], prompts, options))
        else:
            batches = answerer.generate(prompts, room)
        ((_, generation),) = next(batches)
        return generation

    def ask(example: Example) -> Timing:
        head = FeatureClassifier.load(model, folder / "head") if fitted.head else None  # one that remembers no features
        if nearest:
            nearest.seconds = 0.0
        passes.clear()
        began = now()
        found = asker.retriever.find([example])
        retrieval = now() - began
        (request,) = asker.requests([example], found)
        generation = None if request.abstains else answer(request, head or model)
        if generation:
            asker.parsed(generation.text)
        total = now() - began
        return Timing(
            total_seconds=total,
            first_token_seconds=None if chosen or not passes else passes[0] - began,
            retrieval_seconds=retrieval + (nearest.seconds if nearest else 0.0) if searches else None,
            prompt_tokens=generation.prompt_tokens if generation else 0,
            output_tokens=generation.completion_tokens if generation else 0,
            n_generated=0 if chosen else len(passes),
            chosen=chosen,
        )

    model.network.eval()  # dropout off
    # Each token is one pass of the network itself, whatever wraps it and whichever loop runs it.
    network = model.network.get_base_model() if hasattr(model.network, "get_base_model") else model.network
    hook = network.register_forward_hook(lambda *_: passes.append(now()))
    try:
        yield ask
    finally:
        hook.remove()


# ---------------------------------------------------------------------------------------------- quantiles


def summarize(timings: Sequence[Timing]) -> tuple[dict[str, Finding], dict[str, str]]:
    """The quantiles by name, and why those that are missing are."""
    seconds: dict[str, list[float | None]] = {
        "latency": [t.total_seconds for t in timings],
        "ttft": [t.first_token_seconds for t in timings],
        "tpot": [t.per_token_seconds for t in timings],
        "retrieval": [t.retrieval_seconds for t in timings],
    }
    findings: dict[str, Finding] = {}
    left_out: dict[str, str] = {}
    for name, values in seconds.items():
        known = sorted(value for value in values if value is not None)
        undefined = Counter(_why_undefined(name, t) for t, value in zip(timings, values, strict=True) if value is None)
        for q in QUANTILES[name]:
            key = f"{name}_p{round(100 * q)}_seconds"
            if known:
                value, low, high = quantile_interval(known, q)
                findings[key] = Finding(
                    MetricValue(
                        value=value, ci_low=low, ci_high=high, n_scored=len(known), n_undefined=undefined.total(), undefined=undefined
                    )
                )
            else:
                left_out[key] = "; ".join(sorted(undefined))
    return findings, left_out


def _why_undefined(name: str, timing: Timing) -> str:
    if name == "retrieval":
        return SEARCHES_NOTHING
    if timing.chosen:
        return CHOSEN
    return ONE_TOKEN if timing.n_generated == 1 else NOT_ASKED


def quantile_interval(values: Sequence[float], q: float) -> tuple[float, float | None, float | None]:
    """The `q`-quantile of sorted values, and a 95 % interval between two of them: exact, whatever they are distributed like.

    The quantile is the value of rank ceil(n q), the smallest that at least a share `q` does not exceed. Of n independent values the
    number below the true quantile is binomial (n, q), so the value of rank r is below it with probability P(B >= r) and that of
    rank s above it with P(B < s) (David and Nagaraja 2003, section 7.1). The interval leaves at most 2.5 % on either side; the ranks
    n q -/+ 1.96 sqrt(n q (1 - q)) are its normal approximation, which covers 92 % for p99 of 100 values. A bound is None where its
    rank would be outside of the sample. Raises ValueError for no values, or a `q` outside of (0, 1).
    """
    from scipy.special import bdtr

    n = len(values)
    if not n or not 0 < q < 1:
        raise ValueError(f"found {n} values and q = {q}; expected at least one, and a share between 0 and 1")
    at_most = bdtr(range(n + 1), n, q)  # P(B <= k)
    low = bisect.bisect_left(at_most, 0.025)
    high = bisect.bisect_left(at_most, 0.975) + 1
    value = values[math.ceil(round(n * q, 9)) - 1]  # 100 * 0.07 is 7.000000000000001
    return value, values[low - 1] if low else None, values[high - 1] if high <= n else None


PROBE = Latency
