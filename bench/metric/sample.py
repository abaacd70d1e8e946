"""What a metric sees of one item, and how the scores of items become one value."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from bench.result.schema import Outcome


@dataclass(frozen=True)
class Sample:
    """One prediction with what it is judged by. A metric reads the fields that concern it."""

    prediction: str = ""
    targets: tuple[str, ...] = ()
    """Any one of them is right."""
    answerable: bool = True
    """False where abstaining is the right answer."""
    outcome: Outcome | None = None
    """None: not judged yet."""
    evidence: str | None = None
    """Text of the gold passages; None where the item has none."""
    retrieved_ids: tuple[str, ...] | None = None
    """In order of rank. None where nothing was searched for; empty where the search found nothing."""
    gold_ids: tuple[str, ...] = ()
    cited_ids: tuple[str, ...] | None = None
    """The passages that the answer names as its source. None where the strategy does not cite; empty where the answer names none."""
    options: tuple[str, ...] = ()
    """Multiple choice: what was to be chosen from. Empty for the other kinds."""
    option_logprobs: tuple[float, ...] | None = None
    """Log-probability (natural log) of each option, the sum over its tokens. None where no model was asked for them."""
    passages: tuple[str, ...] | None = None
    """Texts that the model was handed to read, best first. None where the strategy reads nothing; empty where nothing was found."""
    question: str = ""
    """What was asked."""
    logprob: float | None = None
    """Log-probability (natural log) of the answer, the sum over its tokens. None where it is not known, or is of reasoning as well."""


def mean(scores: Iterable[float]) -> float | None:
    """The arithmetic mean, the same in any order; None for no scores."""
    found = list(scores)
    return math.fsum(found) / len(found) if found else None
