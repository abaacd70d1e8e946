"""Split rows into train, validation and test: what belongs together stays together, and labels are spread alike."""

from __future__ import annotations

import random
import statistics
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence

from bench.errors import BenchError
from bench.metric.text import words
from bench.task.checks import NEAR_DUPLICATE, input_key, jaccard, rarest, shingles_of


def group(inputs: Sequence[str], clusters: Sequence[Hashable | None]) -> list[int]:
    """The number of each row's group: rows of one cluster, with the same input, or that nearly repeat each other, directly or by others.

    Near-duplicates are those of ``bench validate``: Jaccard similarity of the word 3-grams (of characters, in scripts without spaces) of at
    least 0.8. A cluster of None is none.
    """
    parents = list(range(len(inputs)))

    def root(number: int) -> int:
        while parents[number] != number:
            parents[number] = number = parents[parents[number]]
        return number

    keys = [input_key(text) for text in inputs]
    for names in (keys, clusters):
        first: dict[Hashable, int] = {}
        for number, name in enumerate(names):
            if name is not None:
                parents[root(number)] = root(first.setdefault(name, number))
    cut = [words(key) for key in keys]
    for n in (3, 5) if statistics.median(map(len, cut)) >= 20 else (3,):  # long inputs are checked by 5-grams
        _join_near([shingles_of(own, n) for own in cut], parents, root)
    return [root(number) for number in range(len(inputs))]


def _join_near(shingles: Sequence[set[str]], parents: list[int], root: Callable[[int], int]) -> None:
    """Give rows that nearly repeat each other one root.

    As in `bench.task.checks` only rows that share one of their rarest shingles are compared; here also only until one of a group is found
    near, so that a thousand rows from one template are no million pairs.
    """
    counts = Counter(shingle for own in shingles for shingle in own)
    places: dict[str, dict[int, list[int]]] = {}
    for number, own in enumerate(shingles):
        rare = rarest(own, counts)
        for shingle in rare:
            for first, members in places.get(shingle, {}).items():
                if root(first) != root(number) and any(jaccard(own, shingles[other]) >= NEAR_DUPLICATE for other in members):
                    parents[root(number)] = root(first)
        for shingle in rare:
            places.setdefault(shingle, {}).setdefault(root(number), []).append(number)


def assign(groups: Sequence[int], labels: Sequence[str], shares: Mapping[str, float], seed: int) -> list[str]:
    """The split of each row: whole groups, by `shares` of the rows and of each label.

    Groups are taken from large to small, of the same size in a random order; each goes where its rarest label is missing most. A label with
    as many groups as there are splits is in each of them.

    Raises:
        BenchError: There are fewer groups than splits.
    """
    members: dict[int, list[int]] = {}
    for number, own in enumerate(groups):
        members.setdefault(own, []).append(number)
    if len(members) < len(shares):
        raise BenchError(
            f"found {len(groups)} rows in {len(members)} groups that belong together (same cluster or nearly the same input), "
            f"expected at least {len(shares)}, for {', '.join(shares)} (or give files of your own for them)"
        )
    order = list(members.values())
    random.Random(f"split/{seed}").shuffle(order)
    order.sort(key=len, reverse=True)
    totals, placed = Counter(labels), {name: Counter[str]() for name in shares}
    split = [""] * len(groups)
    for number, rows in enumerate(order):
        label = min({labels[row] for row in rows}, key=lambda name: (totals[name], name))
        empty = [name for name in shares if not placed[name]]
        # The last groups go where there is nothing yet.
        open_splits = empty if len(empty) == len(order) - number else list(shares)
        chosen = max(open_splits, key=lambda name: _need(name, label, shares, placed, totals))
        placed[chosen].update(labels[row] for row in rows)
        for row in rows:
            split[row] = chosen
    return split


def _need(
    name: str, label: str, shares: Mapping[str, float], placed: Mapping[str, Counter[str]], totals: Counter[str]
) -> tuple[bool, float, float]:
    """How much a split is in want of a label: whether it has none, and how many of it and of all rows are missing."""
    missing = shares[name] * totals[label] - placed[name][label]
    return placed[name][label] == 0, missing, shares[name] * totals.total() - placed[name].total()


def shares(given: str) -> dict[str, float]:
    """``0.6,0.2,0.2`` as the shares of train, validation and test.

    Raises:
        BenchError: They are not three positive numbers with the sum 1.
    """
    try:
        parts = [float(part) for part in given.split(",")]
    except ValueError:
        parts = []
    if len(parts) != 3 or not all(part > 0 for part in parts) or abs(sum(parts) - 1) > 1e-6:
        raise BenchError(f"--split: found {given}, expected the shares of train, validation and test, such as 0.6,0.2,0.2")
    return dict(zip(("train", "validation", "test"), parts, strict=True))
