import hashlib
import json
import subprocess
import sys
import time
import zlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import damage_cut, damage_empty, damage_flipped
from pydantic import ValidationError

from bench.errors import BenchError
from bench.strategy.chunk import Chunk
from bench.strategy.embedder import Embedder
from bench.strategy.index import ivfpq_sizes
from bench.strategy.store import Hit, Store, StoreSettings
from bench.task.schema import Passage

CORPUS = [
    Passage("kettle", "The Velko kettle heats one litre of water in two minutes. Its cord is one metre long."),
    Passage("lamp", "The Orin lamp gives a warm light of 400 lumens. It runs on three batteries."),
    Passage("radio", "The Tamber radio receives short wave stations and has a headphone socket."),
    Passage("tent", "The Summit tent sleeps four people and weighs five kilograms."),
]
NEW = Passage("bicycle", "The Marrow bicycle has eight gears and disc brakes.")
DEFAULT = StoreSettings()
SMALL = StoreSettings(chunk_words=12, chunk_overlap=0)
FILES = ("index.faiss", "chunks.jsonl", "meta.json")


class HashEmbedder:
    """Stands in where only the store is tested: a vector is drawn by the text's hash."""

    name = DEFAULT.embedder
    fingerprint = "hash"
    dimension = 8

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def embed(self, texts: Sequence[str], role: str = "passage") -> Any:
        self.calls.append(list(texts))
        seeds = [int.from_bytes(hashlib.sha256(t.encode()).digest()[:4], "big") for t in texts]
        vectors = np.stack([np.random.default_rng(s).normal(size=self.dimension) for s in seeds]).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def minilm() -> Embedder:
    import torch

    torch.set_num_threads(1)
    return Embedder()


@pytest.fixture
def fake() -> Any:
    return HashEmbedder()


def build(folder: Path, embedder: Any, passages: Sequence[Passage] = CORPUS, settings: StoreSettings = DEFAULT) -> Store:
    return Store.build_or_open(folder, passages, embedder, settings)


def found(store: Store, query: str, top_k: int = 3) -> list[str]:
    return [h.chunk.id for h in store.search([query], top_k)[0]]


def numbered(n: int) -> list[Passage]:
    return [Passage(f"d{i}", f"text {i}") for i in range(n)]


def test_finds_the_passage_that_answers_and_its_score_is_a_cosine(tmp_path: Path, minilm: Embedder) -> None:
    store = build(tmp_path, minilm)
    queries = ["How fast does water boil?", "How many batteries does the lamp need?", "Can I plug in headphones?", "family camping"]
    rows = store.search(queries, 2)
    assert [row[0].chunk.document_id for row in rows] == ["kettle", "lamp", "radio", "tent"]
    assert rows[0][0].chunk == Chunk("kettle#0", "kettle", CORPUS[0].text)
    cosine = float(minilm.embed([queries[0]])[0] @ minilm.embed([CORPUS[0].text])[0])
    assert rows[0][0].score == pytest.approx(cosine, abs=1e-5)
    assert all(row[0].score >= row[1].score for row in rows)


def test_chunks_of_one_document_are_hits_of_their_own(tmp_path: Path, minilm: Embedder) -> None:
    store = build(tmp_path, minilm, settings=SMALL)
    assert len(store) == 6
    hit = store.search(["How long is the cord?"], 1)[0][0]
    assert hit.chunk == Chunk("kettle#1", "kettle", "Its cord is one metre long.")


def test_a_larger_top_k_than_the_store_gives_fewer_hits(tmp_path: Path, fake: Any) -> None:
    store = build(tmp_path, fake)
    assert len(found(store, "light", 100)) == len(store) == 4
    assert store.search([], 3) == []


def test_search_gives_the_same_twice_after_reopening_and_one_by_one(tmp_path: Path, minilm: Embedder) -> None:
    queries = ["water", "gears", "waves and sockets", "What weighs five kilograms?"]
    first = build(tmp_path, minilm, settings=SMALL)
    rows = first.search(queries, 4)
    assert rows == first.search(queries, 4)
    assert rows == build(tmp_path, minilm, settings=SMALL).search(queries, 4)
    assert [[h.chunk.id for h in row] for row in rows] == [found(first, q, 4) for q in queries]


@pytest.mark.parametrize("top_k", [1, 3, 39, 60])
def test_ties_are_broken_by_the_order_of_the_chunks(tmp_path: Path, fake: Any, top_k: int) -> None:
    passages = [Passage(f"d{i}", "the same text" if i % 3 else f"text {i}") for i in range(60)]
    store = build(tmp_path, fake, passages)
    same = [f"d{i}#0" for i in range(60) if i % 3]
    hits = store.search(["text 0", "the same text", "text 3"], top_k)
    assert [h.chunk.id for h in hits[1]][:40] == same[:top_k]
    assert [hits[0][0].chunk.id, hits[2][0].chunk.id] == ["d0#0", "d3#0"]


def test_scores_as_close_as_rounding_are_a_tie(tmp_path: Path, fake: Any) -> None:
    def embed(texts: Sequence[str], role: str = "passage") -> Any:
        x = np.array([{"first": 0.6, "second": 0.6 + 3e-7, "better": 0.6 + 1e-4, "query": 1.0}[t] for t in texts])
        return np.stack([x, np.sqrt(1 - x**2), *[np.zeros_like(x)] * 6], axis=1).astype(np.float32)

    fake.embed = embed
    store = build(tmp_path, fake, [Passage("a", "first"), Passage("b", "second"), Passage("c", "better")])
    assert found(store, "query", 3) == ["c#0", "a#0", "b#0"]
    assert found(store, "query", 2) == ["c#0", "a#0"]


@pytest.mark.parametrize("top_k", [1, 2, 5])
def test_an_earlier_chunk_wins_a_tie_from_beyond_the_first_fetch(tmp_path: Path, fake: Any, top_k: int) -> None:
    def embed(texts: Sequence[str], role: str = "passage") -> Any:
        # Steps of one float32 unit, each later text a little nearer, and one text clearly behind.
        x = np.array([1.0 if t == "query" else 0.1 if t == "far" else 0.6 + 6e-8 * int(t) for t in texts])
        return np.stack([x, np.sqrt(1 - x**2), *[np.zeros_like(x)] * 6], axis=1).astype(np.float32)

    fake.embed = embed
    store = build(tmp_path, fake, [Passage("far", "far"), *(Passage(f"d{i}", str(i)) for i in range(40))])
    assert found(store, "query", top_k) == [f"d{i}#0" for i in range(top_k)]
    rows = store.search(["far", "query", "far"], top_k)
    assert [h.chunk.id for h in rows[1]] == [f"d{i}#0" for i in range(top_k)]
    assert rows[0] == rows[2]


def test_is_built_once_and_only_a_change_builds_it_again(tmp_path: Path, fake: Any) -> None:
    first = build(tmp_path, fake)
    assert first.built
    assert len(fake.calls) == 1
    times = {name: (first.folder / name).stat().st_mtime_ns for name in FILES}
    again = build(tmp_path, fake)
    assert not again.built
    assert len(fake.calls) == 1
    assert again.folder == first.folder
    assert {name: (first.folder / name).stat().st_mtime_ns for name in FILES} == times

    other = HashEmbedder()
    other.fingerprint = "other weights"
    changed = [
        build(tmp_path, other),
        build(tmp_path, fake, settings=SMALL),
        build(tmp_path, fake, settings=StoreSettings(chunk_overlap=5)),
        build(tmp_path, fake, [*CORPUS, NEW]),
        build(tmp_path, fake, CORPUS[::-1]),
        build(tmp_path, fake, [Passage("kettle", CORPUS[0].text + " "), *CORPUS[1:]]),
        build(tmp_path, fake, [Passage("cattle", CORPUS[0].text), *CORPUS[1:]]),
    ]
    assert all(store.built for store in changed)
    assert len({store.folder for store in [first, *changed]}) == 8
    assert not build(tmp_path, fake).built


def test_the_embedders_place_does_not_matter_but_it_has_to_be_the_one_set(tmp_path: Path, fake: Any) -> None:
    build(tmp_path, fake)
    moved = HashEmbedder()
    moved.name = "/elsewhere/model"
    assert not build(tmp_path, moved, settings=StoreSettings(embedder="/elsewhere/model")).built
    with pytest.raises(BenchError, match='found an embedder "/elsewhere/model"; expected "all-MiniLM-L6-v2"'):
        build(tmp_path, moved)


def test_adding_equals_a_fresh_build(tmp_path: Path, minilm: Embedder) -> None:
    store = build(tmp_path / "a", minilm, CORPUS[:2], SMALL)
    before = store.folder
    store.add([*CORPUS[2:], NEW])
    fresh = build(tmp_path / "b", minilm, [*CORPUS, NEW], SMALL)
    assert store.document_ids == fresh.document_ids
    assert (len(store), store.key) == (len(fresh), fresh.key)
    queries = ["gears", "boiling", "camping", "light"]
    for ours, theirs in zip(store.search(queries, 7), fresh.search(queries, 7), strict=True):
        assert [h.chunk for h in ours] == [h.chunk for h in theirs]
        assert [h.score for h in ours] == pytest.approx([h.score for h in theirs], abs=1e-5)
    assert found(store, "How many gears?", 1) == ["bicycle#0"]
    assert (before / "meta.json").exists(), "the store of the old corpus is somebody's"
    reopened = build(tmp_path / "a", minilm, [*CORPUS, NEW], SMALL)
    assert not reopened.built
    assert found(reopened, "How many gears?", 7) == found(store, "How many gears?", 7)


def test_removing_equals_a_fresh_build_and_what_is_gone_is_not_found(tmp_path: Path, minilm: Embedder) -> None:
    store = build(tmp_path / "a", minilm, settings=SMALL)
    store.remove(["kettle", "radio"])
    assert store.document_ids == ("lamp", "tent")
    assert all(not i.startswith(("kettle", "radio")) for i in found(store, "How fast does water boil?", 10))
    fresh = build(tmp_path / "b", minilm, [CORPUS[1], CORPUS[3]], SMALL)
    assert store.key == fresh.key
    assert found(store, "boiling", 10) == found(fresh, "boiling", 10)
    assert not build(tmp_path / "a", minilm, [CORPUS[1], CORPUS[3]], SMALL).built


def test_a_document_is_replaced_by_taking_it_out_and_in(tmp_path: Path, fake: Any) -> None:
    store = build(tmp_path, fake)
    store.remove(["lamp"])
    store.add([Passage("lamp", "The Orin lamp is sold out.")])
    assert store.search(["The Orin lamp is sold out."], 1)[0][0].chunk.text == "The Orin lamp is sold out."
    assert len(store) == 4
    reopened = build(tmp_path, fake, [*CORPUS[:1], *CORPUS[2:], Passage("lamp", "The Orin lamp is sold out.")])
    assert not reopened.built
    reopened.add([NEW])
    store.add([NEW])
    assert found(reopened, NEW.text, 1) == ["bicycle#0"]
    assert reopened.search([NEW.text, "light"], 5) == store.search([NEW.text, "light"], 5)


def test_single_changes_embed_only_what_is_new_and_leave_one_folder(tmp_path: Path, fake: Any) -> None:
    store = build(tmp_path, fake)
    fake.calls.clear()
    for i in range(5):
        store.add([Passage(f"new{i}", f"new text {i}")])
    store.remove(["new0", "kettle"])
    assert fake.calls == [[f"new text {i}"] for i in range(5)]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([build(tmp_path, fake).key, store.key])


def test_a_change_never_deletes_what_another_made(tmp_path: Path, fake: Any) -> None:
    larger = build(tmp_path, fake, [*CORPUS, NEW])
    store = build(tmp_path, fake)
    store.add([NEW])
    assert store.folder == larger.folder
    store.remove(["bicycle"])
    assert not build(tmp_path, fake, [*CORPUS, NEW]).built


def test_everything_can_be_taken_out(tmp_path: Path, fake: Any) -> None:
    store = build(tmp_path, fake)
    store.remove(p.id for p in CORPUS)
    assert (len(store), store.search(["anything"], 3)) == (0, [[]])
    store.add([NEW])
    assert found(store, "gears") == ["bicycle#0"]


def test_bad_changes_are_refused_and_change_nothing(tmp_path: Path, fake: Any) -> None:
    store = build(tmp_path, fake)
    before = store.key, found(store, "light", 9)
    for passages, message in [
        ([NEW, CORPUS[1]], 'document "lamp" is already there'),
        ([NEW, NEW], 'document "bicycle" comes twice'),
        ([NEW, Passage("blank", " ")], 'passage "blank": found no text'),
        ([Passage("torn", "a\ud800b")], "document 'torn' is no valid Unicode at character 1"),
    ]:
        with pytest.raises(BenchError, match=message):
            store.add(passages)
    with pytest.raises(BenchError, match=r'document "kettel" is not there; did you mean "kettle"\?'):
        store.remove(["lamp", "kettel"])
    with pytest.raises(BenchError, match='document "zzz" is not there; it has 4 documents'):
        store.remove(["zzz"])
    assert (store.key, found(store, "light", 9)) == before


def test_bad_corpora_and_settings_are_refused(tmp_path: Path, fake: Any) -> None:
    with pytest.raises(BenchError, match="the corpus is empty"):
        build(tmp_path, fake, [])
    with pytest.raises(BenchError, match='document "lamp" comes twice'):
        build(tmp_path, fake, [*CORPUS, CORPUS[1]])
    with pytest.raises(BenchError, match="found top_k 0; expected 1 or more"):
        build(tmp_path, fake).search(["q"], 0)
    for bad in ({"chunk_words": 0}, {"chunk_overlap": -1}, {"chunk_words": 20}, {"index": "annoy"}, {"chunks": 3}):
        with pytest.raises(ValidationError):
            StoreSettings(**bad)


class WideEmbedder(HashEmbedder):
    """Vectors in groups of about ten that are alike, long enough to be cut into pieces."""

    dimension = 32

    def embed(self, texts: Sequence[str], role: str = "passage") -> Any:
        self.calls.append(list(texts))
        groups = [np.random.default_rng(zlib.crc32(t.encode()) % 30).normal(size=self.dimension) for t in texts]
        own = [np.random.default_rng(zlib.crc32(t.encode())).normal(size=self.dimension) for t in texts]
        vectors = (np.stack(groups) + 0.5 * np.stack(own)).astype(np.float32) if texts else np.zeros((0, self.dimension), dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def wide() -> Any:
    return WideEmbedder()


HNSW, IVFPQ = StoreSettings(index="hnsw"), StoreSettings(index="ivfpq")
approximate = pytest.mark.parametrize("settings", [HNSW, IVFPQ], ids=["hnsw", "ivfpq"])


def test_a_graph_finds_what_exact_search_finds_with_the_same_scores(tmp_path: Path, wide: Any) -> None:
    queries = [f"query {i}" for i in range(50)]
    exact, graph = build(tmp_path, wide, numbered(300)), build(tmp_path, wide, numbered(300), HNSW)
    assert graph.folder != exact.folder
    for ours, theirs in zip(graph.search(queries, 10), exact.search(queries, 10), strict=True):
        assert [h.chunk for h in ours] == [h.chunk for h in theirs]
        assert [h.score for h in ours] == pytest.approx([h.score for h in theirs], abs=1e-6)


def test_compressed_vectors_are_smaller_and_find_most(tmp_path: Path, wide: Any) -> None:
    queries = [f"query {i}" for i in range(50)]
    exact, small = build(tmp_path, wide, numbered(2000)), build(tmp_path, wide, numbered(2000), IVFPQ)
    assert small.size_bytes < 0.6 * exact.size_bytes
    pairs = list(zip(small.search(queries, 10), exact.search(queries, 10), strict=True))
    recall = np.mean([len({h.chunk for h in ours} & {h.chunk for h in theirs}) / 10 for ours, theirs in pairs])
    assert 0.4 < recall < 1
    assert np.mean([abs(ours[0].score - theirs[0].score) for ours, theirs in pairs]) < 0.1, "estimates of the cosine"


@pytest.mark.parametrize("n", [1, 2, 3, 40])
@approximate
def test_approximate_indexes_find_all_of_a_small_corpus(
    tmp_path: Path, wide: Any, settings: StoreSettings, n: int, capfd: pytest.CaptureFixture[str]
) -> None:
    store = build(tmp_path, wide, numbered(n), settings)
    assert sorted(found(store, "text 0", 100)) == sorted(f"d{i}#0" for i in range(n))
    assert found(build(tmp_path, wide, numbered(n), settings), "text 0", 100) == found(store, "text 0", 100)
    assert capfd.readouterr() == ("", ""), "faiss warned"


@approximate
def test_an_approximate_index_that_finds_too_few_gives_fewer_hits(tmp_path: Path, wide: Any, settings: StoreSettings) -> None:
    store = build(tmp_path, wide, numbered(1500), settings)
    queries = ["text 3", "text 900"]
    for row in store.search(queries, 1500):
        assert 200 < len(row) <= 1500
        assert len({h.chunk for h in row}) == len(row)
        assert all(before.score >= after.score - 1e-6 for before, after in pairwise(row))
    if settings is IVFPQ:
        assert max(len(row) for row in store.search(queries, 1500)) < 1500, "all lists were probed: the test shows nothing"


@approximate
def test_ties_in_an_approximate_index_are_broken_by_the_order_of_the_chunks(tmp_path: Path, wide: Any, settings: StoreSettings) -> None:
    passages = [Passage(f"d{i}", "the same text" if i % 3 else f"text {i}") for i in range(60)]
    store = build(tmp_path, wide, passages, settings)
    same = [f"d{i}#0" for i in range(60) if i % 3]
    for top_k in (1, 5, 40):
        assert found(store, "the same text", top_k) == same[:top_k]


@approximate
def test_changing_an_approximate_store_gives_the_bytes_of_a_fresh_build(tmp_path: Path, wide: Any, settings: StoreSettings) -> None:
    corpus = numbered(120)
    store = build(tmp_path / "a", wide, corpus[:100], settings)
    store.add(corpus[100:])
    store.remove(["d3", "d77", "d110"])
    left = [p for p in corpus if p.id not in {"d3", "d77", "d110"}]
    fresh = build(tmp_path / "b", wide, left, settings)
    assert store.key == fresh.key
    for name in FILES:
        assert (store.folder / name).read_bytes() == (fresh.folder / name).read_bytes()
    assert "d77#0" not in found(store, "text 77", 117)
    assert store.search(["text 5", "text 99"], 20) == fresh.search(["text 5", "text 99"], 20)
    reopened = build(tmp_path / "a", wide, left, settings)
    assert not reopened.built
    reopened.add([NEW])
    assert NEW.id + "#0" in found(reopened, NEW.text, 3)
    with pytest.raises(BenchError, match='document "d4" is already there'):
        reopened.add([corpus[4]])


@pytest.mark.parametrize("settings", [DEFAULT, HNSW, IVFPQ], ids=["flat", "hnsw", "ivfpq"])
def test_a_change_of_nothing_changes_nothing(tmp_path: Path, wide: Any, settings: StoreSettings) -> None:
    store = build(tmp_path, wide, numbered(20), settings)
    before = store.key, store.search(["text 3", "text 9"], 20)
    wide.calls.clear()
    store.add([])
    store.remove([])
    if settings is not IVFPQ:
        assert not any(wide.calls), "nothing is embedded again"
    assert (store.key, store.search(["text 3", "text 9"], 20)) == before
    assert [p.name for p in tmp_path.iterdir()] == [store.key]


@approximate
def test_a_damaged_approximate_store_is_built_anew_as_it_was(tmp_path: Path, wide: Any, settings: StoreSettings) -> None:
    file = build(tmp_path, wide, numbered(80), settings).folder / "index.faiss"
    whole = file.read_bytes()
    for damage in (damage_cut, damage_flipped, damage_empty, damage_missing):
        damage(file)
        assert build(tmp_path, wide, numbered(80), settings).built
        assert file.read_bytes() == whole


def test_a_graph_that_changes_embeds_only_what_is_new(tmp_path: Path, wide: Any) -> None:
    store = build(tmp_path, wide, numbered(20), HNSW)
    wide.calls.clear()
    store.add([NEW])
    store.remove(["d0"])
    assert [call for call in wide.calls if call] == [[NEW.text]]


@approximate
def test_an_approximate_store_can_be_emptied_and_filled(tmp_path: Path, wide: Any, settings: StoreSettings) -> None:
    store = build(tmp_path, wide, numbered(5), settings)
    store.remove([f"d{i}" for i in range(5)])
    assert (len(store), store.search(["anything"], 3)) == (0, [[]])
    store.add([NEW, CORPUS[0]])
    assert found(store, NEW.text, 1) == ["bicycle#0"]
    assert sorted(found(store, "x", 9)) == ["bicycle#0", "kettle#0"]


@approximate
def test_the_number_of_threads_changes_no_bit_of_an_approximate_index(tmp_path: Path, wide: Any, settings: StoreSettings) -> None:
    import faiss

    before = faiss.omp_get_max_threads()
    try:
        made = []
        for threads in (1, 2):
            faiss.omp_set_num_threads(threads)
            made.append(build(tmp_path / str(threads), wide, numbered(800), settings))
            assert faiss.omp_get_max_threads() == threads
    finally:
        faiss.omp_set_num_threads(before)
    assert (made[0].folder / "index.faiss").read_bytes() == (made[1].folder / "index.faiss").read_bytes()


@pytest.mark.parametrize(
    ("n", "dimension", "sizes"),
    [
        (1, 384, (1, 1, 48, 1)), (60, 384, (1, 1, 48, 5)), (1000, 384, (25, 8, 48, 8)), (100_000, 384, (1264, 79, 48, 8)),
        (500, 7, (12, 8, 1, 8)), (500, 100, (12, 8, 10, 8)),
    ],
)  # fmt: skip
def test_the_sizes_of_compressed_indexes(n: int, dimension: int, sizes: tuple[int, ...]) -> None:
    assert ivfpq_sizes(n, dimension) == sizes


def test_what_a_store_took_is_kept_for_all_who_open_it(tmp_path: Path, fake: Any) -> None:
    embed = fake.embed

    def slow(texts: Sequence[str], role: str = "passage") -> Any:
        time.sleep(0.05)
        return embed(texts, role)

    fake.embed = slow
    store = build(tmp_path, fake)
    wall, cpu = store.build_seconds
    assert wall > 0.05 > cpu >= 0
    assert build(tmp_path, fake).build_seconds == (wall, cpu)
    store.add([NEW])
    assert store.build_seconds[0] > wall + 0.05, "an addition comes on top"
    assert build(tmp_path, fake, [*CORPUS, NEW]).build_seconds == store.build_seconds
    (store.folder / "build_cost.json").write_text("{}")
    assert build(tmp_path, fake, [*CORPUS, NEW]).built, "what it took is unknown"


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path, fake: Any) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchError, match=r"store: cannot write .*file"):
        build(tmp_path / "file", fake)


def damage_missing(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize("damage", [damage_missing, damage_cut, damage_flipped, damage_empty])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_store_is_built_anew(tmp_path: Path, fake: Any, name: str, damage: Any) -> None:
    store = build(tmp_path, fake)
    rows = store.search(["light", "water"], 3)
    damage(store.folder / name)
    again = build(tmp_path, fake)
    # One bit of the metadata may not matter to anything that is read from it.
    assert again.built or (name, damage) == ("meta.json", damage_flipped)
    assert again.search(["light", "water"], 3) == rows
    assert not build(tmp_path, fake).built
    assert [p.name for p in tmp_path.iterdir()] == [store.key], "left something behind"


@pytest.mark.parametrize("content", ["[]", "null", '{"format": 1}', '{"format": 99}'])
def test_foreign_metadata_is_built_anew(tmp_path: Path, fake: Any, content: str) -> None:
    (build(tmp_path, fake).folder / "meta.json").write_text(content)
    assert build(tmp_path, fake).built


def test_a_build_that_dies_leaves_no_store(tmp_path: Path, fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import faiss

    def dies(index: Any, path: str) -> None:
        Path(path).write_bytes(b"half")
        raise RuntimeError("Error in faiss: disk full\nmore")

    with monkeypatch.context() as patch:
        patch.setattr(faiss, "write_index", dies)
        with pytest.raises(BenchError, match=r"store: cannot write .* \(Error in faiss: disk full\)$"):
            build(tmp_path, fake)
    assert list(tmp_path.iterdir()) == []
    assert build(tmp_path, fake).built


def test_what_is_on_disk_is_text_and_a_faiss_index(tmp_path: Path, fake: Any) -> None:
    import faiss

    passages = [Passage("a", "line separator \u2028 and ünïcode"), Passage("b", "second")]
    store = build(tmp_path, fake, passages)
    lines = (store.folder / "chunks.jsonl").read_text(encoding="utf-8").split("\n")
    assert json.loads(lines[0]) == {"id": "a#0", "document_id": "a", "text": passages[0].text}
    index = faiss.read_index(str(store.folder / "index.faiss"))
    assert (index.ntotal, index.d) == (2, 8)
    meta = json.loads((store.folder / "meta.json").read_text())
    assert (meta["key"], meta["documents"], meta["chunks"]) == (store.key, 2, 2)
    (store.folder / "note.json").write_text("of somebody else")
    assert store.size_bytes == sum((store.folder / name).stat().st_size for name in FILES)
    assert build(tmp_path, fake, passages).search([passages[0].text], 1) == [[Hit(Chunk("a#0", "a", passages[0].text), pytest.approx(1.0))]]


def test_the_same_build_writes_the_same_bytes(tmp_path: Path, minilm: Embedder) -> None:
    one, two = build(tmp_path / "a", minilm), build(tmp_path / "b", minilm)
    for name in FILES:
        assert (one.folder / name).read_bytes() == (two.folder / name).read_bytes()


@pytest.mark.parametrize("threads", [1, 2])
def test_faiss_gets_the_threads_that_the_caller_says_and_torch_keeps_its_own(tmp_path: Path, fake: Any, threads: int) -> None:
    import faiss
    import torch

    store = Store.build_or_open(tmp_path, CORPUS, fake, DEFAULT, threads=threads)
    index, used = store._index, []

    class Watched:
        def search(self, *arguments: Any) -> Any:
            used.append(faiss.omp_get_max_threads())
            return index.search(*arguments)

    store._index = Watched()
    before = torch.get_num_threads()
    try:
        for torch_threads in (1, 2):
            torch.set_num_threads(torch_threads)
            store.search(["q"], 1)
            assert torch.get_num_threads() == torch_threads
    finally:
        torch.set_num_threads(before)
    assert used == [threads, threads]


BUILDER = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_store import HashEmbedder, build, found, numbered

root, me, other = Path({root!r}), sys.argv[1], sys.argv[2]

class Waiting(HashEmbedder):
    def embed(self, texts, role="passage"):
        # Neither goes on before the other has found nothing and begun to build.
        if role == "passage":
            (root / me).touch()
            deadline = time.monotonic() + 60
            while not (root / other).exists():
                assert time.monotonic() < deadline
                time.sleep(0.001)
        return super().embed(texts, role)

store = build(root / "stores", Waiting(), numbered(500))
print(store.built, found(store, "text 77", 3), store.folder.name)
"""


@pytest.mark.parametrize("damaged", [False, True])
def test_two_processes_that_build_at_once_both_have_a_good_store(tmp_path: Path, fake: Any, damaged: bool) -> None:
    if damaged:
        damage_cut(build(tmp_path / "stores", fake, numbered(500)).folder / "index.faiss")
    code = BUILDER.format(tests=str(Path(__file__).parent), root=str(tmp_path))
    started = [
        subprocess.Popen([sys.executable, "-c", code, *names], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for names in (("a", "b"), ("b", "a"))
    ]
    outputs = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    after = build(tmp_path / "stores", fake, numbered(500))
    assert not after.built
    expected = f"True {found(after, 'text 77', 3)} {after.key}\n"
    assert [out for out, _ in outputs] == [expected, expected]
    assert [p.name for p in (tmp_path / "stores").iterdir()] == [after.key]
