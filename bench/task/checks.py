"""What can be wrong with a task beside the syntax of its files: its settings, and leakage between its splits.

Each problem is either a `BenchError` (the numbers would be wrong) or a line of warning (they may be read wrongly).
"""

from __future__ import annotations

import re
import statistics
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from bench.errors import BenchError, did_you_mean
from bench.metric.text import label_key
from bench.settings import parse_settings, shown
from bench.task.rows import read_text
from bench.task.schema import Example, Passage, TaskConfig

MAX_SHARED_INPUTS: Final = 0.01
"""Share of test inputs that may stand in train too: real sets have a few, and below this they cannot decide a comparison."""
NEAR_DUPLICATE: Final = 0.8
"""Jaccard similarity of the word shingles from which two inputs are near-duplicates."""
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
    """Near-duplicates by MinHash and LSH (Broder 1997; Leskovec, Rajaraman, Ullman, chapter 3), confirmed by the Jaccard similarity.

    With 21 bands of 6 rows a pair of similarity 0.8 is a candidate with probability 1 - (1 - 0.8^6)^21 = 0.998.
    """
    from datasketch import MinHash, MinHashLSH

    words = {name: [re.findall(r"\w+", key) for key in split] for name, split in keys.items()}
    n = 3 if statistics.median(len(w) for w in words["test"]) < 20 else 5  # one length for all, or short and long never match
    shingles = {name: [_shingles(w, n) for w in split] for name, split in words.items()}
    hashes = {
        name: MinHash.bulk([[shingle.encode() for shingle in s] for s in split], num_perm=128) for name, split in shingles.items()
    }
    index = {}
    for name in ("train", "validation"):
        index[name] = MinHashLSH(params=(21, 6), num_perm=128)
        for number, minhash in enumerate(hashes[name]):
            if shingles[name][number]:
                index[name].insert(number, minhash)
    warnings = []
    for first, second in (("test", "train"), ("test", "validation"), ("validation", "train")):
        pairs = []
        for number, minhash in enumerate(hashes[first]):
            mine, key = shingles[first][number], keys[first][number]
            candidates = sorted(index[second].query(minhash)) if mine else []
            close = (c for c in candidates if keys[second][c] != key and _jaccard(mine, shingles[second][c]) >= NEAR_DUPLICATE)
            if (match := next(close, None)) is not None:
                pairs.append((splits[first][number].id, splits[second][match].id))
        if pairs:
            warnings.append(
                f"{len(pairs)} of {len(splits[first])} {first} inputs nearly repeat one of {second} (Jaccard of {n}-word shingles at least "
                f"{NEAR_DUPLICATE}), as {shown(pairs[0][0])} and {shown(pairs[0][1])}"
            )
    return warnings


def _shingles(words: Sequence[str], n: int) -> set[str]:
    return {" ".join(words[i : i + n]) for i in range(max(1, len(words) - n + 1))} if words else set()


def _jaccard(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b)


def _inside_corpus(test: Iterable[Example], corpus: Sequence[Passage]) -> list[tuple[Example, Passage]]:
    # One pass over the corpus: an input is compared in full only where its first words occur.
    wanted: dict[tuple[str, ...], list[tuple[list[str], Example]]] = {}
    for example in test:
        words = re.findall(r"\w+", input_key(example.input))
        if len(words) >= _QUESTION_WORDS:
            wanted.setdefault(tuple(words[:_QUESTION_WORDS]), []).append((words, example))
    found: dict[str, tuple[Example, Passage]] = {}
    for passage in corpus if wanted else ():
        text = re.findall(r"\w+", input_key(passage.text))
        for start, window in enumerate(zip(*(text[i:] for i in range(_QUESTION_WORDS)), strict=False)):
            for words, example in wanted.get(window, ()):
                if text[start : start + len(words)] == words:
                    found.setdefault(example.id, (example, passage))
    return list(found.values())
