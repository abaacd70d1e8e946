from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.errors import BenchError
from bench.strategy.embedder import DEFAULT_EMBEDDER
from bench.strategy.nearest import NearestExamples
from bench.task.schema import Example


class NumberEmbedder:
    """A text's vector stands at the angle (degrees) that its last word says."""

    name = DEFAULT_EMBEDDER
    fingerprint = "numbers"
    dimension = 2

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def embed(self, texts: Sequence[str], role: str = "passage") -> Any:
        self.calls.append(list(texts))
        radians = np.radians([float(t.split()[-1]) for t in texts]).reshape(-1)
        return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def example(i: str, text: str, target: str = "zek") -> Example:
    return Example(i, text, (target,), answerable=True, cluster=i)


TRAIN = [example(f"train-{a}", f"turn by {a}") for a in (0, 10, 20, 30, 40, 50)]


def ids(rows: Sequence[Sequence[Example]]) -> list[list[str]]:
    return [[e.id for e in row] for row in rows]


@pytest.fixture
def nearest(tmp_path: Path) -> NearestExamples:
    return NearestExamples(TRAIN, NumberEmbedder(), tmp_path)  # type: ignore[arg-type]


def test_the_nearest_examples_come_with_the_nearest_last(nearest: NearestExamples) -> None:
    found = nearest.find([example("a", "turn 22"), example("b", "turn 49")], 3)
    assert ids(found) == [["train-10", "train-30", "train-20"], ["train-30", "train-40", "train-50"]]
    assert found[0][-1] is TRAIN[2]


def test_neither_the_query_itself_nor_its_copies_are_shown(tmp_path: Path) -> None:
    copies = [*TRAIN, *(example(f"copy-{i}", "turn by 20") for i in range(3))]
    nearest = NearestExamples(copies, NumberEmbedder(), tmp_path)  # type: ignore[arg-type]
    own, copied, renamed = TRAIN[1], TRAIN[2], example("train-30", "turn slowly by 31")
    found = ids(nearest.find([own, copied, renamed, example("q", "turn by 20")], 2))
    assert found[0] == ["train-20", "train-0"], "of equally near ones the first counts as nearest"
    assert found[1] == found[3] == ["train-30", "train-10"]
    assert found[2] == ["train-20", "train-40"]
    unique = NearestExamples(TRAIN, NumberEmbedder(), tmp_path)  # type: ignore[arg-type]
    assert ids(unique.find([renamed], 2)) == [["train-20", "train-40"]]


def test_there_may_be_fewer_than_asked_for_or_none(nearest: NearestExamples) -> None:
    assert len(nearest.find([example("q", "turn 3")], 99)[0]) == 6
    assert len(nearest.find([TRAIN[0]], 99)[0]) == 5
    assert nearest.find([TRAIN[0], TRAIN[1]], 0) == [(), ()]
    assert nearest.find([], 3) == []


def test_every_question_is_embedded_once_and_the_store_is_opened_again_by_content(tmp_path: Path) -> None:
    embedder: Any = NumberEmbedder()
    first = NearestExamples(TRAIN, embedder, tmp_path)
    first.find([example(str(a), f"turn {a}") for a in (1, 2)], 2)
    assert embedder.calls == [[e.input for e in TRAIN], ["turn 1", "turn 2"]]
    relabelled = [example(e.id, e.input, "pol") for e in TRAIN]
    again = NearestExamples(relabelled, embedder, tmp_path)
    assert not again.store.built
    assert again.find([example("q", "turn 1")], 1)[0][0].targets == ("pol",), "the store holds inputs, never answers"
    assert NearestExamples(TRAIN[:-1], embedder, tmp_path).store.built
    assert first.size_bytes > first.store.size_bytes


def test_a_long_input_is_one_vector(tmp_path: Path) -> None:
    long = example("long", "word. " * 3000 + "25")
    nearest = NearestExamples([*TRAIN, long], NumberEmbedder(), tmp_path)  # type: ignore[arg-type]
    assert len(nearest.store) == 7
    assert ids(nearest.find([example("q", "turn 26")], 2)) == [["train-30", "long"]]


def test_examples_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match='"train-0" comes twice'):
        NearestExamples([TRAIN[0], TRAIN[0]], NumberEmbedder(), tmp_path)  # type: ignore[arg-type]
