"""Items on a terminal. Nothing that a model, a document or a user wrote can act on it: control characters are made visible."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.result.schema import Item, Record
from bench.result.show import STATES, ItemView, Selection
from bench.result.text import NONE, visible
from bench.result.where import is_right

LONGEST_LINE = 300
"""Characters of a question or an answer where many stand below one another."""
_STYLES = {"correct": "green", "incorrect": "red", "abstained": "yellow", "right": "green", "wrong": "red"}


def print_item(console: Console, view: ItemView) -> None:
    """Everything that is known of one item, under headings."""
    record, item = view.record, view.item
    _line(console, f"{record.task} / {record.strategy} / s{record.seed}   item {item.id}: ", (item.outcome, _STYLES[item.outcome]))
    slices = [f"cluster {item.cluster}", *(f"{column} = {value}" for column, value in item.slices.items())]
    _line(console, "; ".join([*slices, *([] if item.answerable else ["has no answer"])]))
    for title, lines in (("Prompt", _prompt(view)), ("Passages", _passages(view)), ("Answer", _answer(item)), ("Gold", _gold(item))):
        _section(console, title, lines)
    _section(console, "Scores", _scores(item))
    _section(console, "Model", _model(item))


def print_items(console: Console, record: Record, items: Sequence[Item], limit: int) -> None:
    """The items of a cell in a table, one a line, cut to the width; ``items``: all that were asked for."""
    metric = record.primary_metric or ""
    value = record.metrics.get(metric)
    counts = Counter(item.outcome for item in items)
    _line(console, f"{record.task} / {record.strategy} / s{record.seed}" + (f"   {metric} {value.value:.4f}" if value else ""))
    table = Table(box=None, pad_edge=False, expand=True)
    for place, column in enumerate(("id", "outcome", metric or "score", "gold", "prediction")):
        # What is left of the width is shared by the last two: an id is worth more than a whole answer, and is needed for --item.
        table.add_column(
            visible(column), no_wrap=True, overflow="ellipsis", justify="right" if place == 2 else "left", ratio=1 if place > 2 else None
        )
    for item in items[:limit]:
        texts = [item.id, item.outcome, _number(item.scores.get(metric)), " | ".join(item.targets), item.prediction]
        table.add_row(*(Text(_one_line(text), style=_STYLES.get(text, "") if place == 1 else "") for place, text in enumerate(texts)))
    console.print(table)
    outcomes = ", ".join(f"{n} {outcome}" for outcome, n in counts.most_common())
    _line(console, f"{min(limit, len(items))} of {len(items)} items" + (f": {outcomes}" if outcomes else ""))


def print_selection(console: Console, found: Selection, limit: int) -> None:
    """How the strategies did on the items found, then each item with the answers side by side."""
    undecided = f"; {found.n_undecided} more are undecided: something it asks for is undefined for them" if found.n_undecided else ""
    _line(console, f"{found.task}, seed {found.seed}: {len(found.rows)} of {found.n_items} items where {found.where}{undecided}")
    if not found.rows:
        return
    table = Table(box=None, pad_edge=False)
    for column in ("strategy", *STATES):
        table.add_column(column, justify="left" if column == "strategy" else "right")
    for strategy, counts in found.counts.items():
        table.add_row(Text(visible(strategy)), *(str(counts[state]) for state in STATES))
    console.print(table)
    _line(console, "wrong: not right; abstained: right where the item has no answer, else wrong")
    width = max(len(strategy) for strategy in found.strategies)
    for row in found.rows[:limit]:
        first = next(iter(row.values()))
        console.print()
        _line(console, f"{first.id}  {_one_line(found.input_of(first) or '')}".rstrip())
        _line(console, f"    {'gold':<{width}}         {_one_line(_targets(first))}")
        for strategy in found.strategies:
            if (item := row.get(strategy)) is not None:
                state = "right" if is_right(item) else "wrong"
                kind = f"  ({item.error})" if item.error else ""
                _line(console, f"    {strategy:<{width}}  ", (state, _STYLES[state]), f"  {_one_line(item.prediction)}{kind}")
    if len(found.rows) > limit:
        console.print()
        _line(console, f"{limit} of {len(found.rows)} shown; --limit shows more, bench show RUN TASK/STRATEGY --item ID one whole")


def _prompt(view: ItemView) -> Iterator[str]:
    if view.note:
        yield f"({view.note})"
    if view.prompt is None:
        if view.input is not None:
            yield view.input
        return
    for message in view.prompt.messages:
        yield f"[{message['role']}]"
        yield message["content"]
    if view.prompt.options:
        yield f"[options] {' | '.join(view.prompt.options)}"
    if view.item.truncated:
        yield "(passages or shots were left out to fit the window)"


def _passages(view: ItemView) -> Iterator[str]:
    for number, passage in enumerate(view.passages or (), start=1):
        gold = " (gold)" if passage.gold else ""
        left_out = " (left out to fit the window)" if passage.in_prompt is False else ""
        yield f"[{number}] {passage.document}{gold}{left_out}"
        if passage.text is not None:
            yield f"    {passage.text}"
    if view.item.retrieval_score is not None:
        yield f"cosine of the question and the best one: {view.item.retrieval_score:.3f}"


def _answer(item: Item) -> Iterator[str]:
    if item.reasoning:
        yield f"reasoning: {item.reasoning}"
    yield item.prediction or "(empty)"
    if item.cited_ids is not None:
        yield f"cites: {', '.join(item.cited_ids) or 'nothing'}"


def _gold(item: Item) -> Iterator[str]:
    yield _targets(item)
    if item.gold_ids:
        yield f"evidence: {', '.join(item.gold_ids)}"


def _targets(item: Item) -> str:
    return " | ".join(item.targets) + ("" if item.answerable else f"{' ' if item.targets else ''}(no answer)")


def _scores(item: Item) -> Iterator[str]:
    if item.error:
        yield f"kind of error: {item.error}"
    for name, value in item.scores.items():
        yield f"{name} {_number(value)}"
    for name, reason in item.undefined.items():
        yield f"{name} {NONE} ({reason})"


def _model(item: Item) -> Iterator[str]:
    tokens = item.tokens
    yield f"tokens: {tokens.prompt} prompt ({tokens.prompt_cached} of them cached), {tokens.completion} completion"
    if item.logprob is not None:
        yield f"log-probability of the answer: {item.logprob:.4g} nats"
    if item.option_logprobs is not None:
        yield f"log-probabilities of the options: {', '.join(f'{value:.4g}' for value in item.option_logprobs)} nats"
    if item.logit_margin is not None:
        yield f"logit margin: {item.logit_margin:.4g} nats"


def _section(console: Console, title: str, lines: Iterator[str]) -> None:
    text = "\n".join(lines)
    if text:
        console.print()
        _line(console, (title, "bold"))
        _line(console, text)


def _line(console: Console, *parts: str | tuple[str, str]) -> None:
    """Text that is never wrapped, so that what is copied from a terminal is what was written."""
    pieces = [visible(part) if isinstance(part, str) else (visible(part[0]), part[1]) for part in parts]
    console.print(Text.assemble(*pieces), soft_wrap=True)


def _one_line(text: str) -> str:
    joined = " ".join(visible(text).split())
    return joined if len(joined) <= LONGEST_LINE else joined[: LONGEST_LINE - 1] + "…"


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.4g}"
