"""A run against a served model before it is made: how it is asked, and what it would ask and cost."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.cost.prices import Prices, TokenPrice, load_prices, tokens_usd
from bench.errors import BenchError
from bench.model.source import DEFAULT_KEY, Endpoint, locate
from bench.result.schema import Tokens
from bench.strategy.spec import Strategy
from bench.suite import Cell, Suite, expand

SAMPLE = 50
"""Test items of a cell whose prompts are made for the estimate."""


@dataclass(frozen=True)
class Estimate:
    """What a strategy would ask, all seeds together."""

    task: str
    strategy: str
    requests: int = 0
    tokens: Tokens = Tokens()  # noqa: RUF009  (is frozen)
    """Prompts estimated, answers at most."""
    jobs: int = 0
    """Of the provider's fine-tuning."""
    trained_tokens: int | None = 0
    """Of all jobs, estimated, each with the largest number of epochs; None where the provider chooses that."""
    reason: str | None = None
    """Why it is skipped."""


def served_endpoint(
    model: str, concurrency: int | None, api_key_env: str | None, prices: str | None, price_model: str | None, max_usd: float | None
) -> Endpoint | None:
    """How the suite's model is asked by these options of the command line; None where it is no served one.

    Raises `BenchError` for options that need a served model, for a cap without a price, and where the client is not installed.
    """
    endpoint = locate(model).endpoint if "@http" in model else None
    if endpoint is None:
        given = {
            "--concurrency": concurrency, "--api-key-env": api_key_env, "--prices": prices, "--price-model": price_model,
            "--max-usd": max_usd,
        }  # fmt: skip
        if odd := next((name for name, value in given.items() if value is not None), None):
            raise BenchError(f"{odd}: found it without --endpoint; expected both")
        return None
    if find_spec("openai") is None:
        raise BenchError("--endpoint: needs the openai client; pip install openai")
    price = _price(load_prices(prices), endpoint.model, price_model, needed=max_usd is not None)
    return Endpoint(endpoint.url, endpoint.model, api_key_env or DEFAULT_KEY, concurrency or endpoint.concurrency, price, max_usd)


def _price(prices: Prices, model: str, price_model: str | None, needed: bool) -> TokenPrice | None:
    try:
        return prices.model(price_model or model)
    except BenchError:
        if needed or price_model:
            raise
        return None


def dry_run(suite: Suite, price: TokenPrice | None) -> str:
    """What a run would ask and cost, as text. Nothing is asked and nothing is kept.

    Raises `BenchError` as the run would before it begins.
    """
    estimates: dict[tuple[str, str], Estimate] = {}
    with tempfile.TemporaryDirectory(prefix="bench-dry-run-") as stores:
        for cell in expand(suite, locate(suite.model)):
            found = _of_cell(cell, Path(stores))
            before = estimates.get((found.task, found.strategy))
            estimates[found.task, found.strategy] = _sum(before, found) if before else found
    return "\n".join(_lines(list(estimates.values()), price)) + "\n"


def _of_cell(cell: Cell, stores: Path) -> Estimate:
    from bench.cost.meter import Meter
    from bench.model.served import ServedModel, estimated_tokens
    from bench.run.ask import Asker, cell_embedder, shots_of
    from bench.run.search import n_trials
    from bench.strategy.prompt import answer_tokens

    task, name = cell.task, cell.strategy_name
    if reason := cell.not_applicable:
        return Estimate(task.name, name, reason=reason)
    if cell.strategy.prompt.constant:
        return Estimate(task.name, name)
    strategy = _largest(cell.strategy)
    embedder = cell_embedder(strategy.retrieval.embedder, stores, Meter()) if strategy.embeds else None
    asker = Asker(task, strategy, ServedModel(cell.model), stores, shots_of(task, strategy, cell.seed), embedder)
    sample = [r for r in asker.asked(task.test[:SAMPLE]) if not r.abstains]
    searches = n_trials(cell.strategy, cell.budget.trials) if cell.strategy.search and cell.seed == cell.search_seed else 1
    validation = len(task.validation[: cell.budget.validation_examples])
    requests = len(task.test) + (searches * validation if searches > 1 else 0)
    each = sum(estimated_tokens(r.prompt.messages) for r in sample) / len(sample) if sample else 0
    tokens = Tokens(prompt=math.ceil(each * requests), completion=requests * answer_tokens(task, strategy.prompt))
    if strategy.tuning.method != "hosted":
        return Estimate(task.name, name, requests, tokens)
    others = (Asker(t, strategy, asker.model, stores, shots_of(t, strategy, cell.seed), embedder) for t in cell.trained_with)
    rows = [row for one in (asker, *others) for row in one.training_rows(cell.seed)]
    epochs, each_epoch = strategy.tuning.hosted.get("n_epochs"), sum(estimated_tokens(row["messages"]) for row in rows)
    trained = searches * epochs * each_epoch if isinstance(epochs, int) and not isinstance(epochs, bool) else None
    return Estimate(task.name, name, requests, tokens, searches, trained)


def _largest(strategy: Strategy) -> Strategy:
    """The strategy at the largest numbers that its search may try, which make the longest prompts; at the first of other values."""
    settings: dict[str, Any] = {}
    for axis, values in strategy.search.items():
        if isinstance(values, list):
            numbers = all(isinstance(value, int | float) for value in values)
            settings[axis] = max(values) if numbers else values[0]
        else:
            settings[axis] = values.high
    return strategy.with_settings(settings)


def _sum(a: Estimate, b: Estimate) -> Estimate:
    tokens = Tokens(prompt=a.tokens.prompt + b.tokens.prompt, completion=a.tokens.completion + b.tokens.completion)
    trained = None if a.trained_tokens is None or b.trained_tokens is None else a.trained_tokens + b.trained_tokens
    return Estimate(a.task, a.strategy, a.requests + b.requests, tokens, a.jobs + b.jobs, trained, a.reason)


def _lines(estimates: Sequence[Estimate], price: TokenPrice | None) -> Iterator[str]:
    width = max([len("total"), *(len(f"{e.task} / {e.strategy}") for e in estimates)])
    yield f"{'task / strategy':<{width}}  {'requests':>9}  {'prompt tokens':>14}  {'answer tokens':>14}  {'USD at most':>12}"
    asked = [e for e in estimates if e.reason is None]
    total, usd = Estimate("", "total"), [_usd(one, price) for one in asked]
    for one, cost in zip(asked, usd, strict=True):
        total = _sum(total, one)
        yield _line(f"{one.task} / {one.strategy}", width, one, cost)
    yield _line("total", width, total, None if None in usd else sum(cost or 0.0 for cost in usd))
    for one in asked:
        if one.jobs:
            yield _jobs(one, price)
    yield from (f"skipped: {e.task} / {e.strategy}: {e.reason}" for e in estimates if e.reason)
    yield "Prompt tokens are estimated: 1.3 a word, or one for four characters (for each character that is not ASCII), whichever is more;"
    yield "answer tokens are as many as may be written. Searches are counted at their longest prompts. Probes are not counted."
    yield f"Price: {price}" if price else "No price is known: name one of the price file by --price-model, or give a file by --prices."


def _usd(one: Estimate, price: TokenPrice | None) -> float | None:
    """What a strategy costs at most, jobs and all; None where that is not known."""
    if price is None:
        return None
    if not one.jobs:
        return tokens_usd(one.tokens, price, cached=False)
    if price.missing_for_tuning or one.trained_tokens is None:
        return None
    return tokens_usd(one.tokens, price.of_tuned(), cached=False) + price.training_usd(one.trained_tokens)


def _jobs(one: Estimate, price: TokenPrice | None) -> str:
    """What a strategy has the provider tune: a job for each trial of its search, and for each other seed."""
    head = f"tuned at the provider: {one.task} / {one.strategy}: {one.jobs} {'job' if one.jobs == 1 else 'jobs'}"
    if one.trained_tokens is None:
        return f"{head}, of as many epochs as the provider chooses (tuning.hosted.n_epochs is not given): their price is unknown"
    trained = f"{head}, {one.trained_tokens:,} trained tokens at most"
    if price is None or price.training is None:
        return f"{trained}; the price of training is unknown"
    usd = f"{trained}, {price.training_usd(one.trained_tokens):.4f} USD of the above"
    missing = [key for key in price.missing_for_tuning if key != "training"]
    return f"{usd.removesuffix(' of the above')}; the price of asking the tuned model is unknown ({', '.join(missing)})" if missing else usd


def _line(name: str, width: int, one: Estimate, usd: float | None) -> str:
    cost = "unknown" if usd is None else f"{usd:.4f}"
    return f"{name:<{width}}  {one.requests:>9,}  {one.tokens.prompt:>14,}  {one.tokens.completion:>14,}  {cost:>12}"
