"""Conditions on a task's items over its strategies, such as ``rag wrong and (oracle right or lora.f1 > 0.5)``.

    condition  = any {"," any}                              a comma is an "and" that binds last
    any        = all {"or" all}
    all        = one {"and" one}
    one        = "not" one | "(" condition ")" | strategy state | strategy "." field operator value | slice operator value
    state      = right | wrong | abstained | hallucinated
    operator   = "<" | "<=" | ">" | ">=" | "=" | "!="

Names and values with spaces stand in quotes. A condition is true, false or undecided: a metric that is undefined for an item is neither
above a value nor below it, and "not" of undecided is undecided (Kleene's strong three-valued logic).
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.errors import BenchError, did_you_mean
from bench.result.schema import Item
from bench.result.text import visible

Row = Mapping[str, Item]
"""The answers to one test item, by strategy."""
Test = Callable[[Row], bool | None]

_TOKEN = re.compile(r"""(?P<space>\s+)|(?P<quoted>"[^"]*"|'[^']*')|(?P<mark><=|>=|!=|[=<>(),])|(?P<word>[^\s"'<>=!(),]+)""")
_KEYWORDS = ("and", "or", "not")
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq, "!=": operator.ne,
}  # fmt: skip
_NUMBERS: dict[str, Callable[[Item], float | None]] = {
    "logprob": lambda item: item.logprob,
    "logit_margin": lambda item: item.logit_margin,
    "prompt_tokens": lambda item: item.tokens.prompt,
    "completion_tokens": lambda item: item.tokens.completion,
}
_TEXTS: dict[str, Callable[[Item], str]] = {
    "outcome": lambda item: item.outcome,
    "error": lambda item: item.error or "none",
    "prediction": lambda item: item.prediction,
}
DEEPEST = 50
"""Parentheses and "not" inside one another."""
MOST_NAMED = 20
"""Values that an error message lists."""


def is_right(item: Item) -> bool:
    """Correct, or an abstention where the item has no answer."""
    return item.outcome == ("correct" if item.answerable else "abstained")


def _hallucinated(item: Item) -> bool | None:
    rate = item.scores.get("hallucination_rate")
    return None if rate is None else rate > 0


_STATES: dict[str, Callable[[Item], bool | None]] = {
    "right": is_right,
    "wrong": lambda item: not is_right(item),
    "abstained": lambda item: item.outcome == "abstained",
    "hallucinated": _hallucinated,
}


@dataclass(frozen=True)
class Names:
    """What a condition may speak of."""

    metrics: Mapping[str, frozenset[str]]
    """Strategy -> metrics that its items have, or have a reason for not having."""
    slices: Mapping[str, frozenset[str]]
    """Slice, ``id`` or ``cluster`` -> its values."""


@dataclass(frozen=True)
class Condition:
    """A condition that has been read."""

    test: Test
    """True, False, or None where what it asks for is undefined for the item."""
    strategies: tuple[str, ...]
    """Those that it names, in order."""


def parse_condition(text: str, names: Names) -> Condition:
    """Read a condition. Raises BenchError that says where it breaks off and what could stand there."""
    parser = _Parser(text, names)
    test = parser.condition()
    parser.end()
    return Condition(test, tuple(parser.strategies))


@dataclass(frozen=True)
class _Token:
    kind: str
    """``word``, ``quoted``, ``mark``, ``keyword`` or ``end``."""
    text: str
    place: int
    """Character of the condition, from 1."""


def _tokens(text: str) -> list[_Token]:
    found = []
    place = 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None or match.lastgroup is None:
            expected = "its closing quote" if text[place] in "\"'" else "=, !=, <, <=, > or >="
            raise BenchError(f"--where: character {place + 1}: found {text[place:][:20]!r}, expected {expected}")
        kind, token = match.lastgroup, match.group()
        if kind == "word" and token.lower() in _KEYWORDS:
            kind, token = "keyword", token.lower()
        if kind != "space":
            found.append(_Token(kind, token[1:-1] if kind == "quoted" else token, place + 1))
        place = match.end()
    return [*found, _Token("end", "", len(text) + 1)]


class _Parser:
    """Recursive descent; each method reads one rule of the grammar above."""

    def __init__(self, text: str, names: Names) -> None:
        self.tokens, self.names, self.next, self.depth = _tokens(text), names, 0, 0
        self.strategies: dict[str, None] = {}

    def condition(self) -> Test:
        return self._joined(self._any, ",", _all_of)

    def end(self) -> None:
        token = self._token
        if token.kind != "end":
            raise self._error(token, 'expected "and", "or" or the end')

    def _any(self) -> Test:
        return self._joined(self._all, "or", _any_of)

    def _all(self) -> Test:
        return self._joined(self._one, "and", _all_of)

    def _joined(self, read: Callable[[], Test], word: str, join: Callable[[Sequence[Test]], Test]) -> Test:
        parts = [read()]
        while self._take(word):
            parts.append(read())
        return join(parts) if len(parts) > 1 else parts[0]

    def _one(self) -> Test:
        first = self._token
        self.depth += 1
        if self.depth > DEEPEST:
            raise self._error(first, f"expected at most {DEEPEST} parentheses inside one another")
        if self._take("not"):
            inner = self._one()
            test: Test = lambda row: None if (held := inner(row)) is None else not held  # noqa: E731
        elif self._take("("):
            test = self.condition()
            if not self._take(")"):
                raise self._error(self._token, f'expected ")" for the "(" of character {first.place}')
        else:
            test = self._comparison_or_state()
        self.depth -= 1
        return test

    def _comparison_or_state(self) -> Test:
        name = self._name('a strategy, a slice, "not" or "("')
        sign = self._token
        if sign.kind == "mark" and sign.text in _OPERATORS:
            self.next += 1
            value = self._name("a value")
            if "." in name.text and name.text not in self.names.slices:
                return self._of_field(name, sign, value)
            return self._of_slice(name, sign, value)
        strategy = self._strategy(name, name.text)
        state = self._name(f"one of: {', '.join(_STATES)}")
        if state.text not in _STATES:
            raise self._error(state, did_you_mean(state.text, _STATES))
        holds = _STATES[state.text]
        return lambda row: holds(row[strategy]) if strategy in row else None

    def _of_field(self, name: _Token, sign: _Token, value: _Token) -> Test:
        """``rag.f1 < 0.5``; strategies may have dots in their names, metrics have none."""
        before, _, field = name.text.rpartition(".")
        strategy = self._strategy(name, before)
        if field in _TEXTS:
            of_text, wanted, equal = _TEXTS[field], value.text, self._equal(sign)
            return lambda row: (of_text(row[strategy]) == wanted) is equal if strategy in row else None
        if field not in _NUMBERS and field not in self.names.metrics[strategy]:
            raise self._error(name, f"{strategy}: {did_you_mean(field, [*self.names.metrics[strategy], *_NUMBERS, *_TEXTS])}")
        read, compare, limit = _NUMBERS.get(field) or (lambda item: item.scores.get(field)), _OPERATORS[sign.text], self._number(value)
        return lambda row: None if strategy not in row or (found := read(row[strategy])) is None else compare(found, limit)

    def _of_slice(self, name: _Token, sign: _Token, value: _Token) -> Test:
        values = self.names.slices.get(name.text)
        if values is None:
            if name.text in self.names.metrics:
                raise self._error(name, f"expected a metric of it before the {sign.text}, as in {name.text}.f1")
            raise self._error(name, f"no slice of this task; {did_you_mean(name.text, self.names.slices)}")
        equal = self._equal(sign)
        if value.text not in values:
            hint = did_you_mean(value.text, values) if len(values) <= MOST_NAMED else f"there are {len(values)}, such as {min(values)}"
            raise self._error(value, f"no value of {name.text}; {hint}")
        column, wanted = name.text, value.text
        return lambda row: None if (found := _slice(row, column)) is None else (found == wanted) is equal

    def _strategy(self, token: _Token, name: str) -> str:
        """A strategy by its name, or by a part of it between dashes where only one has it: ``oracle`` for ``rag-oracle``."""
        known = self.names.metrics
        named = [name] if name in known else [strategy for strategy in known if name in strategy.split("-")]
        if len(named) > 1:
            raise self._error(token, f"expected one of: {', '.join(sorted(named))}")
        if not named:
            raise self._error(token, f"no strategy with answers here; {did_you_mean(name, known)}")
        self.strategies[named[0]] = None
        return named[0]

    def _equal(self, sign: _Token) -> bool:
        if sign.text not in ("=", "!="):
            raise self._error(sign, "expected = or != before a text")
        return sign.text == "="

    def _number(self, token: _Token) -> float:
        try:
            value = float(token.text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self._error(token, "expected a number")
        return value

    @property
    def _token(self) -> _Token:
        return self.tokens[self.next]

    def _take(self, text: str) -> bool:
        token = self._token
        taken = token.kind in ("keyword", "mark") and token.text == text
        self.next += taken
        return taken

    def _name(self, expected: str) -> _Token:
        token = self._token
        if token.kind not in ("word", "quoted"):
            raise self._error(token, f"expected {expected}")
        self.next += 1
        return token

    def _error(self, token: _Token, expected: str) -> BenchError:
        found = f'"{token.text[:40]}"' if token.kind != "end" else "the end"
        # Values of slices come from the task's rows, and may hold anything.
        return BenchError(visible(" ".join(f"--where: character {token.place}: found {found}, {expected}".split())))


def _slice(row: Row, column: str) -> str | None:
    item = next(iter(row.values()))
    return item.id if column == "id" else item.cluster if column == "cluster" else item.slices.get(column)


def names_of(rows: Iterable[Row]) -> Names:
    """What a condition on these rows may speak of."""
    metrics: dict[str, set[str]] = {}
    slices: dict[str, set[str]] = {}
    for row in rows:
        for strategy, item in row.items():
            metrics.setdefault(strategy, set()).update(item.scores, item.undefined)
            for column, value in {**item.slices, "id": item.id, "cluster": item.cluster}.items():
                slices.setdefault(column, set()).add(value)
    return Names({name: frozenset(of) for name, of in metrics.items()}, {name: frozenset(of) for name, of in slices.items()})


def _all_of(tests: Sequence[Test]) -> Test:
    def test(row: Row) -> bool | None:
        found = [part(row) for part in tests]
        return False if False in found else None if None in found else True

    return test


def _any_of(tests: Sequence[Test]) -> Test:
    def test(row: Row) -> bool | None:
        found = [part(row) for part in tests]
        return True if True in found else None if None in found else False

    return test
