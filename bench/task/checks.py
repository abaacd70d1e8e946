"""What can be wrong with a task beside the syntax of its files: its settings, and leakage between its splits.

Each problem is either a `BenchError` (the numbers would be wrong) or a line of warning (they may be read wrongly).
"""

from __future__ import annotations

import math
import re
import statistics
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from bench.errors import BenchError, did_you_mean
from bench.metric.text import is_unspaced, label_key
from bench.metric.text import words as words_by_script
from bench.settings import parse_settings, shown
from bench.task.rows import read_text
from bench.task.schema import Example, Passage, TaskConfig

MAX_SHARED_INPUTS: Final = 0.01
"""Share of test inputs that may stand in train too: real sets have a few, and below this they cannot decide a comparison."""
NEAR_DUPLICATE: Final = 0.8
"""Jaccard similarity of the word shingles from which two inputs are near-duplicates."""
MAX_SAME_PLACE: Final = 0.6
"""Multiple choice: share of test items with the right option at one place from which a warning is given."""
_PLACED_ITEMS: Final = 20
_QUESTION_WORDS: Final = 4
"""Shorter inputs are not looked for in the corpus: they would be found by chance."""


def read_config(path: Path) -> TaskConfig:
    """The settings of a ``task.yaml``.

    Raises:
        BenchError: The file cannot be read, is no YAML, or has an unknown, missing, wrong or contradictory key.
    """
    config = parse_settings(TaskConfig, read_text(path), str(path))
    _check_config(config, path)
    return config


def _check_config(config: TaskConfig, path: Path) -> None:
    for key, kind in (("labels", "classification"), ("fields", "structured")):
        if getattr(config, key) is not None and config.kind != kind:
            raise BenchError(f"{path}: {key}: has a meaning for kind {kind} only, found kind {config.kind}")
    if (config.options is not None) != (config.kind == "multiple_choice"):
        if config.options is None:
            raise BenchError(f"{path}: options: is missing, expected the column with the options (kind multiple_choice)")
        raise BenchError(f"{path}: options: has a meaning for kind multiple_choice only, found kind {config.kind}")
    for key in ("abstain", "rationale") if config.kind == "multiple_choice" else ():
        if getattr(config, key):
            raise BenchError(f"{path}: {key}: has no meaning for kind multiple_choice (a choice is always made, and nothing is written)")
    if config.labels is not None:
        check_label_set(config.labels, f"{path}: labels")
    if config.fields == {}:
        raise BenchError(f"{path}: fields: found no field, expected at least one (leave the key out to accept any)")
    if any(not phrase.strip() for phrase in config.abstain):
        raise BenchError(f"{path}: abstain: found an empty phrase, expected words that the model can answer")
    from bench.metric.registry import metric_names  # the metric room reads the task's schema: importing it above would go in a circle

    for name in config.metrics:
        if name not in (known := metric_names()):
            raise BenchError(f'{path}: metrics: unknown metric "{name}"; {did_you_mean(name, known)}')


def check_label_set(labels: Sequence[str], where: str) -> None:
    """Refuse labels that cannot be told apart when scored (case and runs of spaces do not count), and fewer than two."""
    if len(labels) < 2:
        raise BenchError(f"{where}: found {len(labels)} label{'s' * (len(labels) != 1)}, expected at least two")
    seen: dict[str, str] = {}
    for label in labels:
        key = label_key(label)
        if not key:
            raise BenchError(f"{where}: found an empty label")
        if key in seen:
            raise BenchError(f'{where}: "{seen[key]}" and "{label}" count as the same label; expected each label once')
        seen[key] = label


def input_key(text: str) -> str:
    """Inputs with the same key are exact duplicates: NFKC, case folded, whitespace collapsed.

    Punctuation counts, since a duplicate can be an error and "1 + 2" is not "1 - 2"; texts that differ in it are near-duplicates.
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def check_option_places(test: Sequence[Example]) -> list[str]:
    """Warn where the right option mostly stands at one place, which would reward a model that leans to it.

    Options that are the same for all items are labels: there it is the share of a label, and no warning. Nor are there any for fewer
    than 20 items, where the share is left to chance, and for the other kinds, which have no options.
    """
    if len(test) < _PLACED_ITEMS or len({example.options for example in test}) == 1:
        return []
    place, count = Counter(example.options.index(example.targets[0]) for example in test).most_common(1)[0]
    if count <= MAX_SAME_PLACE * len(test):
        return []
    return [f"test: the right option is number {place + 1} in {count} of {len(test)} items, expected a mix; shuffle each item's options"]


def check_leakage(
    config: TaskConfig, splits: Mapping[str, Sequence[Example]], corpus: Sequence[Passage], where: str
) -> list[str]:
    """Look for test items in what strategies learn from: shared clusters, equal and nearly equal inputs, questions in the corpus.

    Args:
        config: The task's settings.
        splits: The examples of train, validation and test, before any limit.
        corpus: The passages.
        where: The task's folder, to begin an error with.

    Returns:
        Warnings, one line each.

    Raises:
        BenchError: Train and test share a cluster and the task does not allow it, or more than `MAX_SHARED_INPUTS` of the test
            inputs stand in train or validation.
    """
    warnings: list[str] = []
    if config.cluster and config.shared_clusters == "refuse":
        warnings += _shared_clusters(config.cluster, splits, where)
    keys = {name: [input_key(example.input) for example in examples] for name, examples in splits.items()}
    if repeated := len(keys["test"]) - len(set(keys["test"])):
        warnings.append(f"test: {repeated} items repeat the input of another one; they are not independent")
    for first, second in (("test", "train"), ("test", "validation"), ("validation", "train")):
        warnings += _shared_inputs(first, second, splits, keys, where)
    warnings += _near_duplicates(splits, keys)
    if found := _inside_corpus(splits["test"], corpus):
        example, passage = found[0]
        warnings.append(
            f"corpus: {len(found)} of {len(splits['test'])} test inputs stand there word for word, as {shown(example.id)} in passage "
            f"{shown(passage.id)}; retrieval may find the question rather than the answer"
        )
    return warnings


def _shared_clusters(column: str, splits: Mapping[str, Sequence[Example]], where: str) -> list[str]:
    clusters = {name: {example.cluster: None for example in examples} for name, examples in splits.items()}  # ordered
    warnings = []
    for first, second in (("test", "train"), ("test", "validation"), ("validation", "train")):
        shared = [cluster for cluster in clusters[first] if cluster in clusters[second]]
        if not shared:
            continue
        share = f"share {len(shared)} of {len(clusters[first])}"
        said = f'{first} and {second} {share} values of the cluster column "{column}", as {shown(shared[0])}'
        if (first, second) == ("test", "train"):
            raise BenchError(
                f"{where}: {said}; expected none (keep each in one split, or, "
                "if what is learned about them is what you test, write shared_clusters: allow in task.yaml)"
            )
        warnings.append(said)
    return warnings


def _shared_inputs(
    first: str, second: str, splits: Mapping[str, Sequence[Example]], keys: Mapping[str, Sequence[str]], where: str
) -> list[str]:
    other = dict(zip(keys[second], splits[second], strict=True))
    shared = [(example, other[key]) for example, key in zip(splits[first], keys[first], strict=True) if key in other]
    if not shared:
        return []
    same = sum(set(a.targets) == set(b.targets) for a, b in shared)
    a, b = shared[0]
    count = f"{len(shared)} of {len(splits[first])}"
    said = f"{count} {first} inputs stand in {second} too ({same} with the same answer), as {shown(a.id)} and {shown(b.id)}"
    if first == "test" and len(shared) > MAX_SHARED_INPUTS * len(splits[first]):
        raise BenchError(f"{where}: {said}; expected at most {MAX_SHARED_INPUTS:.0%} (take them out of {second})")
    return [said]


def _near_duplicates(splits: Mapping[str, Sequence[Example]], keys: Mapping[str, Sequence[str]]) -> list[str]:
    """Near-duplicates by the Jaccard similarity of their shingles, found by prefix filtering (Chaudhuri, Ganti, Kaushik 2006).

    Near-duplicates share at least s = ceil(0.8 n) of the n shingles of either. In whatever order all shingles are put, the first that
    they share is among the first n - s + 1 of both, so no pair is missed; with the rarest first, few others are compared.
    """
    words = {name: [_words(key) for key in split] for name, split in keys.items()}
    n = 3 if statistics.median(len(w) for w in words["test"]) < 20 else 5  # one length for all, or short and long never match
    shingles = {name: [shingles_of(w, n) for w in split] for name, split in words.items()}
    counts = Counter(shingle for split in shingles.values() for s in split for shingle in s)
    index: dict[str, dict[str, list[int]]] = {"train": {}, "validation": {}}
    for name, places in index.items():
        for number, own in enumerate(shingles[name]):
            for shingle in rarest(own, counts):
                places.setdefault(shingle, []).append(number)
    warnings = []
    for first, second in (("test", "train"), ("test", "validation"), ("validation", "train")):
        pairs = []
        for number, (mine, key) in enumerate(zip(shingles[first], keys[first], strict=True)):
            candidates = sorted({c for shingle in rarest(mine, counts) for c in index[second].get(shingle, ())})
            close = (c for c in candidates if keys[second][c] != key and jaccard(mine, shingles[second][c]) >= NEAR_DUPLICATE)
            if (match := next(close, None)) is not None:
                pairs.append((splits[first][number].id, splits[second][match].id))
        if pairs:
            warnings.append(
                f"{len(pairs)} of {len(splits[first])} {first} inputs nearly repeat one of {second} (Jaccard of {n}-word shingles at least "
                f"{NEAR_DUPLICATE}), as {shown(pairs[0][0])} and {shown(pairs[0][1])}"
            )
    return warnings


def _words(text: str) -> list[str]:
    return words_by_script(text) if is_unspaced(text) else re.findall(r"\w+", text)


def shingles_of(words: Sequence[str], n: int) -> set[str]:
    """Every n words in a row; of a shorter text all of it."""
    return {" ".join(words[i : i + n]) for i in range(max(1, len(words) - n + 1))} if words else set()


def rarest(shingles: set[str], counts: Mapping[str, int]) -> list[str]:
    """The first n - s + 1 of n shingles, of which a near-duplicate has one among its own first."""
    shared = math.ceil(NEAR_DUPLICATE * len(shingles) - 1e-9)
    return sorted(shingles, key=lambda shingle: (counts[shingle], shingle))[: len(shingles) - shared + 1] if shingles else []


def jaccard(a: set[str], b: set[str]) -> float:
    """Size of what both have over size of what either has."""
    return len(a & b) / len(a | b)


def _inside_corpus(test: Iterable[Example], corpus: Sequence[Passage]) -> list[tuple[Example, Passage]]:
    # One pass over the corpus: an input is compared in full only where its first words occur.
    wanted: dict[tuple[str, ...], list[tuple[list[str], Example]]] = {}
    for example in test:
        words = _words(input_key(example.input))
        if len(words) >= _QUESTION_WORDS:
            wanted.setdefault(tuple(words[:_QUESTION_WORDS]), []).append((words, example))
    found: dict[str, tuple[Example, Passage]] = {}
    for passage in corpus if wanted else ():
        text = _words(input_key(passage.text))
        for start, window in enumerate(zip(*(text[i:] for i in range(_QUESTION_WORDS)), strict=False)):
            for words, example in wanted.get(window, ()):
                if text[start : start + len(words)] == words:
                    found.setdefault(example.id, (example, passage))
    return list(found.values())
