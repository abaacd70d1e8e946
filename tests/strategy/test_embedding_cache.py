import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import damage_cut, damage_empty, damage_flipped

from bench.cost.meter import Meter
from bench.model.source import locate
from bench.run.ask import Asker
from bench.run.fit import Fitted, fit
from bench.strategy.embedder import DEFAULT_EMBEDDER, Embedder
from bench.strategy.embedding_cache import CachedEmbedder, _Cached, _read, _write
from bench.strategy.nearest import NearestExamples
from bench.strategy.retrieval import Retriever
from bench.strategy.spec import RetrievalChoice
from bench.strategy.store import Store, StoreSettings
from bench.suite import Cell, Suite, expand
from bench.task.schema import Example, Passage, Task, TaskConfig

CORPUS = (
    Passage("kettle", "The kettle heats water in minutes."),
    Passage("lamp", "The lamp gives warm light and runs on batteries."),
    Passage("tent", "The tent sleeps four people."),
)
QUESTIONS = ["How fast does water boil?", "How many batteries does the lamp need?", "family camping"]
CONFIG = TaskConfig(kind="qa", instruction="Answer.", input="{{ question }}", target="answers", metrics=["exact_match"])
TASK = Task("products", Path(), CONFIG, (), (), (), CORPUS)


def example(i: int, text: str) -> Example:
    return Example(f"q{i}", text, ("yes",), answerable=True, cluster=str(i))


ASKED = [example(i, text) for i, text in enumerate(QUESTIONS)]


@pytest.fixture(scope="module")
def plain() -> Embedder:
    import torch

    torch.set_num_threads(1)
    return Embedder()


def cached(folder: Path, meter: Meter | None = None) -> CachedEmbedder:
    """As in the process of another cell."""
    return CachedEmbedder(DEFAULT_EMBEDDER, folder, meter or Meter())


def loaded(embedder: Embedder) -> bool:
    return embedder.load_seconds != (0.0, 0.0)


def only_file(folder: Path) -> Path:
    (file,) = folder.iterdir()
    return file


# ------------------------------------------------------------------------------------------------ what is kept


def test_what_another_cell_embedded_is_read_bit_for_bit_and_nothing_is_loaded(tmp_path: Path, plain: Embedder) -> None:
    texts = [f"question {'long ' * (i % 7)}number {i}" for i in range(40)] + ["question number 0"]
    first, second = cached(tmp_path / "a"), cached(tmp_path / "a")
    assert first.fingerprint == plain.fingerprint
    made = first.embed(texts, role="query")
    assert loaded(first)
    found = second.embed(texts, role="query")
    assert not loaded(second)
    assert made.dtype == found.dtype == np.float32
    assert np.array_equal(made, found)
    assert np.array_equal(found, plain.embed(texts, role="query"))


def test_only_the_same_list_for_the_same_role_of_the_same_model_is_the_same(tmp_path: Path, plain: Embedder) -> None:
    embedder = cached(tmp_path)
    lists = [["a", "b"], ["b", "a"], ["ab"], ["a"], ["a", "b", "b"], ['a", "b']]
    for texts in lists:
        np.testing.assert_array_equal(embedder.embed(texts, role="query"), plain.embed(texts, role="query"))
    assert len(list(tmp_path.iterdir())) == len(lists)
    keys = {embedder._key(["a", "b"], role) for role in ("query", "passage")}
    embedder.fingerprint = "other weights"
    assert len(keys | {embedder._key(["a", "b"], "query")}) == 3


def test_passages_and_empty_lists_are_not_kept(tmp_path: Path, plain: Embedder) -> None:
    embedder = cached(tmp_path / "a")
    np.testing.assert_array_equal(embedder.embed(["a", "b"]), plain.embed(["a", "b"]))
    assert embedder.embed([], role="query").shape == (0, 384)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("choice", [{"search": "dense"}, {"search": "hybrid"}, {"search": "dense", "index": "hnsw"}], ids=str)
def test_passages_are_found_alike_with_and_without_what_is_kept(tmp_path: Path, plain: Embedder, choice: dict[str, Any]) -> None:
    retrieval = RetrievalChoice(top_k=2, **choice)
    expected = Retriever(TASK, retrieval, plain, tmp_path / "plain").find(ASKED)
    for _ in range(2):
        embedder = cached(tmp_path / "stores" / "queries")
        assert Retriever(TASK, retrieval, embedder, tmp_path / "stores").find(ASKED) == expected
    assert not loaded(embedder)


def test_examples_and_passages_for_the_same_questions_share_vectors(tmp_path: Path, plain: Embedder) -> None:
    train = [example(i + 10, p.text) for i, p in enumerate(CORPUS)]
    expected = NearestExamples(train, plain, tmp_path / "plain").find(ASKED, 2)
    for _ in range(2):
        embedder = cached(tmp_path / "stores" / "queries")
        assert NearestExamples(train, embedder, tmp_path / "stores").find(ASKED, 2) == expected
    assert not loaded(embedder)
    Retriever(TASK, RetrievalChoice(search="dense"), cached(tmp_path / "stores" / "queries"), tmp_path / "stores").find(ASKED)
    assert len(list((tmp_path / "stores" / "queries").iterdir())) == 1


SECOND_CELL = """
import json, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_embedding_cache import ASKED, TASK, Retriever, RetrievalChoice, cached, example

root = Path({root!r})
retriever = Retriever(TASK, RetrievalChoice(search="dense", top_k=2), cached(root / "queries"), root)
print(json.dumps([[f.document_ids, f.score] for f in retriever.find(ASKED)]))
print("sentence_transformers" in sys.modules)
retriever.find([example(9, "never asked before")])
print("sentence_transformers" in sys.modules)
"""


def test_a_process_that_finds_all_its_vectors_does_not_even_import_the_library(tmp_path: Path) -> None:
    import torch

    torch.set_num_threads(1)
    retriever = Retriever(TASK, RetrievalChoice(search="dense", top_k=2), cached(tmp_path / "queries"), tmp_path)
    found = retriever.find(ASKED)
    assert found is not None
    code = SECOND_CELL.format(tests=str(Path(__file__).parent), root=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, *imported = done.stdout.splitlines()
    assert first == json.dumps([[f.document_ids, f.score] for f in found])
    assert imported == ["False", "True"]


# ------------------------------------------------------------------------------------------------ damage


class Exits:
    """Ends the program that unpickles it."""

    def __reduce__(self) -> Any:
        return sys.exit, ("a pickle was run",)


def damage_pickle(file: Path) -> None:
    np.savez(file, vectors=np.array([Exits()], dtype=object), seconds=np.zeros((2, 2)))


def damage_shape(file: Path) -> None:
    """Fewer numbers than there are: numpy reads those and is content."""
    data = file.read_bytes()
    assert data.count(b"(3, 384)") == 1
    file.write_bytes(data.replace(b"(3, 384)", b"(3, 184)"))


def damage_keys(file: Path) -> None:
    np.savez(file, vectors=np.zeros((3, 384), dtype=np.float32))


def damage_rows(file: Path) -> None:
    np.savez(file, vectors=np.zeros((2, 384), dtype=np.float32), seconds=np.zeros((2, 2)))


def damage_type(file: Path) -> None:
    np.savez(file, vectors=np.zeros((3, 384)), seconds=np.zeros((2, 2)))


DAMAGES = [damage_cut, damage_flipped, damage_empty, damage_pickle, damage_shape, damage_keys, damage_rows, damage_type]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_made_anew(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    made = cached(tmp_path).embed(QUESTIONS, role="query")
    file = only_file(tmp_path)
    damage(file)
    again = cached(tmp_path)
    assert np.array_equal(again.embed(QUESTIONS, role="query"), made)
    assert loaded(again)
    assert only_file(tmp_path) == file, "nothing is left beside it"
    third = cached(tmp_path)
    assert np.array_equal(third.embed(QUESTIONS, role="query"), made)
    assert not loaded(third)


def test_no_flipped_bit_goes_unseen(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    good = _Cached(np.arange(6, dtype=np.float32).reshape(2, 3), np.array([[1.0, 2.0], [3.0, 4.0]]))
    _write(file, good)
    data = file.read_bytes()
    refused = 0
    for i in range(len(data)):
        file.write_bytes(data[:i] + bytes([data[i] ^ (1 << i % 8)]) + data[i + 1 :])
        found = _read(file, 2)
        refused += found is None
        # Some bytes, such as the time of a member, say nothing about what is in it.
        assert found is None or all(np.array_equal(a, b) for a, b in zip(found, good, strict=True))
    assert refused > len(data) / 2


@pytest.mark.parametrize("missing", ["file in the way", "parent is a file"])
def test_a_folder_that_cannot_be_written_keeps_nothing_and_costs_nothing_else(tmp_path: Path, plain: Embedder, missing: str) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" if missing == "file in the way" else tmp_path / "file" / "queries"
    embedder = cached(folder)
    expected = plain.embed(QUESTIONS, role="query")
    for _ in range(2):
        np.testing.assert_array_equal(embedder.embed(QUESTIONS, role="query"), expected)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


WRITER = """
import sys
from pathlib import Path
import numpy as np
from bench.strategy.embedding_cache import _Cached, _write

file = Path(sys.argv[1])
for _ in range(200):
    _write(file, _Cached(np.ones((50, 384), dtype=np.float32), np.zeros((2, 2))))
"""


def test_two_processes_that_write_the_same_file_never_show_half_of_it(tmp_path: Path) -> None:
    file = tmp_path / "queries" / "a.npz"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(file)], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    read = 0
    while any(w.poll() is None for w in writers):
        if file.exists():
            assert _read(file, 50) is not None
            read += 1
    assert [(w.wait(), w.communicate()[1]) for w in writers] == [(0, ""), (0, "")]
    assert read > 0
    assert only_file(file.parent) == file


# ------------------------------------------------------------------------------------------------ what is charged


def set_seconds(folder: Path, embedding: tuple[float, float], loading: tuple[float, float]) -> None:
    """Let what is kept have taken so long that nothing else counts beside it."""
    for file in folder.iterdir():
        with np.load(file) as found:
            vectors = found["vectors"]
        _write(file, _Cached(vectors, np.array([embedding, loading])))


def whole(meter: Meter) -> dict[str, tuple[int, int]]:
    """Thousands of seconds, wall and CPU, of each phase."""
    return {name: (round(p.wall_seconds / 1000), round(p.cpu_seconds / 1000)) for name, p in meter.readings().items()}


def test_who_reuses_is_charged_once_in_the_phase_that_asks_and_once_for_loading(tmp_path: Path) -> None:
    for texts in (QUESTIONS, QUESTIONS[:2]):
        cached(tmp_path).embed(texts, role="query")
    set_seconds(tmp_path, (5000.0, 4000.0), (20_000.0, 10_000.0))
    meter = Meter()
    embedder = cached(tmp_path, meter)
    with meter.phase("load"):
        pass
    with meter.phase("tune"):
        embedder.embed(QUESTIONS, role="query")
    with meter.phase("tune"):
        embedder.embed(QUESTIONS, role="query")  # the next trial
    assert whole(meter) == {"load": (20, 10), "tune": (5, 4)}
    with meter.phase("answer"):
        embedder.embed(QUESTIONS, role="query")
        embedder.embed(QUESTIONS[:2], role="query")
    assert whole(meter) == {"load": (20, 10), "tune": (5, 4), "answer": (5, 4)}
    with meter.phase("probe"):
        embedder.embed(["something new"], role="query")
    assert loaded(embedder)
    assert whole(meter) == {"load": (20, 10), "tune": (5, 4), "answer": (5, 4), "probe": (0, 0)}, "loading has been paid"


def test_who_embeds_itself_is_charged_for_loading_where_loading_belongs(tmp_path: Path) -> None:
    meter = Meter()
    embedder = cached(tmp_path / "queries", meter)
    with meter.phase("load"):
        pass
    before = meter.readings()["load"].cpu_seconds
    began = time.process_time()
    with meter.phase("index"):
        store = Store.build_or_open(tmp_path, CORPUS, embedder, StoreSettings())
    took = time.process_time() - began
    with meter.phase("answer"):
        store.search(QUESTIONS, 1)
        store.search(QUESTIONS, 1)
    loading = embedder.load_seconds
    assert loading[1] > 0
    assert store.build_seconds[1] <= took - loading[1], "building a store does not take a loaded embedder's loading"
    readings = meter.readings()
    assert readings["load"].cpu_seconds == pytest.approx(before + loading[1])
    assert store.build_seconds[1] <= readings["index"].cpu_seconds <= took - loading[1]
    with np.load(only_file(tmp_path / "queries")) as found:
        (wall, cpu), kept_loading = found["seconds"].tolist()
    assert tuple(kept_loading) == loading
    assert 0 < cpu <= readings["answer"].cpu_seconds
    assert 0 < wall <= readings["answer"].wall_seconds


def test_a_cell_that_reuses_what_an_earlier_one_embedded_asks_the_same_and_pays_the_same(
    make_task: Callable[..., Path], tmp_path: Path
) -> None:
    import torch

    torch.set_num_threads(1)
    (tmp_path / "mine.yaml").write_text("prompt: {shots: 2, select: nearest}\n")
    suite = Suite(tasks=[str(make_task())], strategies=[str(tmp_path / "mine.yaml")], seeds=[0])
    cell = expand(suite, locate("embedded"))[0]
    stores = tmp_path / "stores"

    def asked(cell: Cell) -> tuple[Fitted, Meter, list[Any]]:
        meter = Meter()
        fitted = fit(cell, cell.strategy, stores, meter, lambda text: None)
        with meter.phase("answer"):
            return fitted, meter, [r.prompt.messages for r in fitted.requests(cell.task.test)]

    first, _, messages = asked(cell)
    assert first.asker.nearest is not None
    set_seconds(stores / "queries", (5000.0, 4000.0), (20_000.0, 10_000.0))
    second, meter, again = asked(cell)
    assert again == messages
    assert second.asker.nearest is not None
    assert not loaded(second.asker.nearest.store._embedder)
    assert whole(meter) == {"load": (20, 10), "index": (0, 0), "answer": (5, 4)}

    alone = Asker(cell.task, cell.strategy, second.model, tmp_path / "export", ())
    assert [r.prompt.messages for r in alone.asked(cell.task.test)] == messages
    assert not (tmp_path / "export" / "queries").exists(), "whoever answers a user's questions does not keep them"
