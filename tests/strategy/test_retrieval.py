import json
import math
import shutil
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.errors import BenchError
from bench.strategy.chunk import Chunk
from bench.strategy.embedder import DEFAULT_EMBEDDER, Embedder
from bench.strategy.lexical import LexicalIndex, words
from bench.strategy.reranker import Reranker, load_reranker
from bench.strategy.retrieval import Found, Retriever, fuse
from bench.strategy.spec import RetrievalChoice
from bench.task.load import load_task
from bench.task.schema import Example, Passage, Task, TaskConfig

CORPUS = (
    Passage("kettle", "The kettle heats water in minutes."),
    Passage("lamp", "The lamp gives warm light and runs on batteries."),
    Passage("radio", "The radio runs on batteries or on mains."),
    Passage("tent", "The tent sleeps four people."),
    Passage("pump", "The pump moves water."),
)
CONFIG = TaskConfig(kind="qa", instruction="Answer.", input="{{ question }}", target="answers", metrics=["exact_match"])
PRODUCTS = Path(__file__).parents[2] / "tasks" / "product_support"


def example(i: str, text: str, *evidence: str) -> Example:
    return Example(i, text, ("yes",), answerable=True, cluster=i, evidence=evidence)


def task_of(corpus: Sequence[Passage] = CORPUS) -> Task:
    return Task("products", Path(), CONFIG, (), (), (), tuple(corpus))


class AngleEmbedder:
    """Two-dimensional vectors at an angle (degrees) that is given for each text: cosines are known."""

    name = DEFAULT_EMBEDDER
    fingerprint = "angles"
    dimension = 2

    def __init__(self, angles: dict[str, float]) -> None:
        self.angles = angles
        self.queries: list[list[str]] = []

    def embed(self, texts: Sequence[str], role: str = "passage") -> Any:
        if role == "query":
            self.queries.append(list(texts))
        radians = np.radians([self.angles[t] for t in texts]).reshape(-1)
        return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


BOIL, POWER, NOTHING = example("q0", "water minutes", "kettle"), example("q1", "batteries", "lamp", "radio"), example("q2", "zzz")


@pytest.fixture
def angles() -> Any:
    """Passages 10 degrees apart in the corpus's order; a question stands right by one of them."""
    return AngleEmbedder({p.text: 10 * i for i, p in enumerate(CORPUS)} | {BOIL.input: 28, POWER.input: 11, NOTHING.input: 60})


def retriever(folder: Path, embedder: Any = None, task: Task | None = None, **choice: Any) -> Retriever:
    return Retriever(task or task_of(), RetrievalChoice(**choice), embedder, folder)


def documents(found: Sequence[Found] | None) -> list[tuple[str, ...]]:
    assert found is not None
    return [f.document_ids for f in found]


# ------------------------------------------------------------------------------------------------ kinds of search


def test_without_a_search_there_is_nothing_to_read_and_nothing_to_keep(tmp_path: Path) -> None:
    nothing = retriever(tmp_path / "stores")
    assert nothing.find([BOIL]) is None
    assert nothing.find_for_training([BOIL], 0.5, 0) is None
    assert (nothing.size_bytes, nothing.store) == (0, None)
    assert not (tmp_path / "stores").exists()


def test_the_oracle_hands_over_the_gold_documents_whole(tmp_path: Path) -> None:
    oracle = retriever(tmp_path, search="oracle", top_k=1, chunk_words=2, chunk_overlap=0)
    assert oracle.find([POWER, NOTHING]) == [Found((CORPUS[1].text, CORPUS[2].text), ("lamp", "radio")), Found((), ())]
    assert oracle.size_bytes == 0


@pytest.mark.parametrize("index", ["flat", "hnsw"])
def test_a_dense_search_gives_the_nearest_passages_and_the_cosine_of_the_best(tmp_path: Path, angles: Any, index: str) -> None:
    dense = retriever(tmp_path, angles, search="dense", top_k=2, index=index)
    found = dense.find([BOIL, NOTHING])
    assert found is not None
    assert found[0].passages == (CORPUS[3].text, CORPUS[2].text)
    assert documents(found) == [("tent", "radio"), ("pump", "tent")]
    assert [f.score for f in found] == pytest.approx([math.cos(math.radians(2)), math.cos(math.radians(20))], abs=1e-5)
    assert angles.queries == [[BOIL.input, NOTHING.input]], "each question is embedded once, and all at once"
    assert dense.store is not None
    assert dense.size_bytes == dense.store.size_bytes > 0


def test_a_document_stands_beside_each_of_its_passages(tmp_path: Path) -> None:
    long = Passage("manual", "Fill the water tank. Press the water button. Empty it.")
    lexical = retriever(tmp_path, None, task_of([*CORPUS, long]), search="lexical", chunk_words=4, chunk_overlap=0)
    found = lexical.find([example("q", "water tank button")])
    assert found is not None
    assert found[0].passages[:2] == ("Fill the water tank.", "Press the water button.")
    assert found[0].document_ids[:2] == ("manual", "manual")


def test_a_lexical_search_finds_shared_words_and_nothing_else(tmp_path: Path) -> None:
    lexical = retriever(tmp_path / "stores", search="lexical", top_k=4)
    found = lexical.find([BOIL, POWER, NOTHING])
    # The pump's text is the shorter one of those with water, and of the equal ones the lamp comes first.
    assert documents(found) == [("kettle", "pump"), ("radio", "lamp"), ()]
    assert found is not None
    assert [f.score for f in found] == [None] * 3
    assert lexical.size_bytes > sum(len(p.text) for p in CORPUS)
    assert not (tmp_path / "stores").exists(), "it is built in memory"


def test_a_hybrid_search_fuses_both_rankings(tmp_path: Path, angles: Any) -> None:
    hybrid = retriever(tmp_path, angles, search="hybrid", top_k=4, candidates=4, rrf_k=60)
    # By meaning: tent, radio, pump, lamp. By words: kettle, pump. Only the pump is in both.
    found = hybrid.find([BOIL])
    assert documents(found) == [("pump", "kettle", "tent", "radio")], "kettle and tent tie, and kettle comes first in the corpus"
    assert found is not None
    assert found[0].score is None
    assert hybrid.store is not None
    assert hybrid.size_bytes > hybrid.store.size_bytes
    assert documents(retriever(tmp_path, angles, search="hybrid", top_k=1, candidates=1).find([NOTHING])) == [("pump",)]


def test_a_fusion_goes_by_its_constant(tmp_path: Path, angles: Any) -> None:
    # By meaning: lamp, radio, kettle, tent, pump. By words: kettle, tent, pump.
    asked = [example("q", "water minutes four")]
    angles.angles[asked[0].input] = 12
    for rrf_k, expected in ((60, ("kettle", "tent", "pump", "lamp", "radio")), (1, ("kettle", "tent", "lamp", "pump", "radio"))):
        assert documents(retriever(tmp_path, angles, search="hybrid", top_k=5, rrf_k=rrf_k).find(asked)) == [expected]


def test_no_question_gets_no_answer(tmp_path: Path, angles: Any, cross_encoder: Path) -> None:
    reranked = {"rerank": True, "reranker": str(cross_encoder)}
    for choice in ({"search": "dense"}, {"search": "lexical"}, {"search": "hybrid"}, {"search": "oracle"}, {"search": "hybrid"} | reranked):
        asked = retriever(tmp_path, angles, **choice)
        assert asked.find([]) == asked.find_for_training([], 0.5, 0) == []


def test_fusion_by_the_formula() -> None:
    a, b, c, d = (Chunk(f"{i}#0", i, i) for i in "abcd")
    place = {chunk: i for i, chunk in enumerate((a, b, c, d))}
    assert fuse([[b, a, c], [b, d]], 60, place) == [b, a, d, c]
    # 1/(k+1) against 2/(k+3): at k = 0 a first place outweighs two third ones, at k = 60 it does not.
    assert fuse([[a, b, d], [c, b, d]], 0, place) == [a, b, c, d]
    assert fuse([[a, b, d], [c, b, d]], 60, place) == [b, d, a, c]
    assert fuse([[], []], 60, place) == []


# ------------------------------------------------------------------------------------------------ BM25


def test_bm25_scores_are_those_of_the_formula() -> None:
    texts = ["red lamp red", "blue lamp", "green kettle with a long cord", "Lamp"]
    index = LexicalIndex([Chunk(f"{i}#0", str(i), t) for i, t in enumerate(texts)])
    split = [t.lower().split() for t in texts]
    mean = sum(map(len, split)) / len(split)

    def score(query: list[str], document: list[str]) -> float:
        total = 0.0
        for t in query:
            n, f = sum(t in d for d in split), document.count(t)
            total += math.log(1 + (len(split) - n + 0.5) / (n + 0.5)) * f / (f + 1.5 * (0.25 + 0.75 * len(document) / mean))
        return total

    for query in ("red", "Lamp", "lamp lamp blue", "long red unknown"):
        expected = [score(query.lower().split(), d) for d in split]
        assert index.scores(query) == pytest.approx(expected, abs=1e-5)
        assert [int(c.document_id) for c in index.search([query], 4)[0]] == sorted(
            (i for i in range(4) if expected[i] > 0), key=lambda i: (-expected[i], i)
        )


def test_words_are_runs_of_letters_and_digits_in_any_case() -> None:
    assert words("The X-200's Straße: 5 kg, naïve_mode!") == ["the", "x", "200", "s", "strasse", "5", "kg", "naïve_mode"]


def test_words_are_the_same_however_their_accents_are_encoded() -> None:
    for text in ("Café NAÏVE", "Ångström", "ǰ"):
        assert words(unicodedata.normalize("NFD", text)) == words(unicodedata.normalize("NFC", text))
    assert words("cafe\u0301 CAFE\u0301") == ["café", "café"]
    assert words("cafe") != words("café")


def test_equal_chunks_come_in_their_order_and_punctuation_is_never_found() -> None:
    chunks = [Chunk(f"{i}#0", str(i), "same words" if i % 2 else "...") for i in range(50)]
    index = LexicalIndex(chunks)
    assert [c.document_id for c in index.search(["same"], 5)[0]] == ["1", "3", "5", "7", "9"]
    assert index.search(["...", "", "other"], 5) == [[], [], []]
    blank = LexicalIndex(chunks[:1])
    assert (blank.search(["same"], 5), blank.size_bytes) == ([[]], 0)


# ------------------------------------------------------------------------------------------------ cross-encoders


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_cross_encoder(tmp_path_factory.mktemp("cross_encoder"), 1)


def save_cross_encoder(folder: Path, labels: int) -> Path:
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *sorted({w for p in CORPUS for w in words(p.text)})]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    torch.manual_seed(1)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=len(vocabulary), num_labels=labels, initializer_range=1.0, **sizes)
    BertForSequenceClassification(config).save_pretrained(folder)
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def logit(folder: Path, query: str, text: str) -> float:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return float(model(**AutoTokenizer.from_pretrained(folder)(query, text, return_tensors="pt")).logits)


def test_a_reranker_orders_the_candidates_and_keeps_the_score_of_the_search(tmp_path: Path, angles: Any, cross_encoder: Path) -> None:
    choice = {"search": "dense", "rerank": True, "reranker": str(cross_encoder), "candidates": 3}
    plain = retriever(tmp_path, angles, search="dense", top_k=3).find([BOIL, POWER])
    ordered = retriever(tmp_path, angles, **choice, top_k=3).find([BOIL, POWER])
    assert plain is not None
    assert ordered is not None
    for question, before, after in zip([BOIL, POWER], plain, ordered, strict=True):
        expected = sorted(before.passages, key=lambda text: -logit(cross_encoder, question.input, text))
        assert list(after.passages) == expected
        assert after.score == before.score
    assert documents(plain) != documents(ordered), "the model agrees with the angles: the test shows nothing"
    first = retriever(tmp_path, angles, **choice, top_k=1).find([BOIL])
    assert documents(first) == [ordered[0].document_ids[:1]]
    assert load_reranker(str(cross_encoder)) is load_reranker(str(cross_encoder))


def test_a_reranker_chooses_from_as_many_fused_candidates_as_set(tmp_path: Path, angles: Any, cross_encoder: Path) -> None:
    # By meaning: tent, radio. By words: kettle, pump. The first of each are fused first.
    hybrid = {"search": "hybrid", "top_k": 2, "candidates": 2}
    assert documents(retriever(tmp_path, angles, **hybrid).find([BOIL])) == [("kettle", "tent")]
    [found] = documents(retriever(tmp_path, angles, **hybrid, rerank=True, reranker=str(cross_encoder)).find([BOIL]))
    assert sorted(found) == ["kettle", "tent"]


def test_a_reranker_leaves_equals_and_empty_rows_as_they_are(cross_encoder: Path) -> None:
    rows = [[Chunk(f"{i}#0", str(i), "the lamp" if i % 2 else "the tent") for i in range(50)], []]
    [ordered, empty] = Reranker(str(cross_encoder)).order(["light", "water"], rows)
    odd, even = rows[0][1::2], rows[0][::2]
    assert ordered in (odd + even, even + odd)
    assert empty == []
    assert Reranker(str(cross_encoder)).order(["light"], [[]]) == [[]]


def rescaled(source: Path, folder: Path, factor: float) -> str:
    """A copy of a cross-encoder with all that its head gives times a number."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, folder)
    weights = load_file(folder / "model.safetensors")
    save_file({k: w * factor if k.startswith("classifier") else w for k, w in weights.items()}, folder / "model.safetensors")
    return str(folder)


def test_a_reranker_tells_apart_what_a_sigmoid_rounds_to_one(tmp_path: Path, cross_encoder: Path) -> None:
    rows = [[Chunk(f"{p.id}#0", p.id, p.text) for p in CORPUS]]
    expected = Reranker(str(cross_encoder)).order(["water"], rows)
    assert expected != rows
    assert Reranker(rescaled(cross_encoder, tmp_path / "certain", 1e4)).order(["water"], rows) == expected


def test_scores_that_are_no_numbers_are_refused(tmp_path: Path, cross_encoder: Path) -> None:
    broken = Reranker(rescaled(cross_encoder, tmp_path / "broken", math.nan))
    with pytest.raises(BenchError, match=r"^retrieval.reranker .*broken: gave scores that are not finite; expected numbers$"):
        broken.order(["water"], [[Chunk("lamp#0", "lamp", "the lamp")]])


def test_what_is_no_cross_encoder_is_refused(tmp_path: Path, cross_encoder: Path) -> None:
    with pytest.raises(BenchError, match=r"^retrieval.reranker: model .*no such folder"):
        Reranker(str(tmp_path / "missing"))
    with pytest.raises(BenchError, match=r"retrieval.reranker embedded: found a LlamaForCausalLM; expected a cross-encoder"):
        Reranker("embedded")
    with pytest.raises(BenchError, match=r"gives 3 scores for a pair; expected 1"):
        Reranker(str(save_cross_encoder(tmp_path, 3)))
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 64)
    with pytest.raises(BenchError, match=r"retrieval.reranker .* cannot be loaded from .* \([^\n]+\)$"):
        Reranker(str(tmp_path))
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(BenchError, match=r"found pytorch_model.bin .*expected \*.safetensors"):
        Reranker(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(BenchError, match=r"^retrieval.reranker"):
        Reranker(str(tmp_path))


def test_a_reranker_reads_no_more_of_a_passage_than_it_can(cross_encoder: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    long = Chunk("long#0", "long", "the lamp gives warm light " * 400)
    short = [Chunk(f"{p.id}#0", p.id, p.text) for p in CORPUS]
    model = AutoModelForSequenceClassification.from_pretrained(cross_encoder).eval()
    tokens = AutoTokenizer.from_pretrained(cross_encoder)("water", long.text, return_tensors="pt", truncation=True, max_length=512)
    with torch.no_grad():
        cut = float(model(**tokens).logits)
    ordered = Reranker(str(cross_encoder)).order(["water"], [[long, *short]])[0]
    assert ordered.index(long) == sum(logit(cross_encoder, "water", c.text) > cut for c in short)


def test_a_missing_reranker_is_refused_before_anything_is_asked(tmp_path: Path, angles: Any) -> None:
    with pytest.raises(BenchError, match="no such folder"):
        retriever(tmp_path, angles, search="dense", rerank=True, reranker=str(tmp_path / "missing"))


# ------------------------------------------------------------------------------------------------ passages to train on


def training(folder: Path, angles: Any, examples: Sequence[Example], share: float | None, seed: int = 0, **choice: Any) -> list[Found]:
    found = retriever(folder, angles, **({"search": "dense", "top_k": 3} | choice)).find_for_training(examples, share, seed)
    assert found is not None
    return found


def test_without_a_gold_share_training_reads_what_is_found(tmp_path: Path, angles: Any) -> None:
    dense = retriever(tmp_path, angles, search="dense", top_k=2)
    assert dense.find_for_training([BOIL, POWER], None, 0) == dense.find([BOIL, POWER])


def test_raft_hands_over_gold_among_the_best_distractors(tmp_path: Path, angles: Any) -> None:
    # By meaning: tent, radio, pump, lamp, kettle for the first question; lamp, radio, kettle, tent for the second.
    boil, power, nothing = training(tmp_path, angles, [BOIL, POWER, NOTHING], 1.0)
    assert sorted(boil.document_ids) == ["kettle", "radio", "tent"]
    assert sorted(power.document_ids) == ["kettle", "lamp", "radio"]
    assert sorted(nothing.document_ids) == ["pump", "radio", "tent"], "without evidence: what is found"
    text = {p.id: p.text for p in CORPUS}
    assert [text[i] for i in boil.document_ids] == list(boil.passages)
    boil, power, nothing = training(tmp_path, angles, [BOIL, POWER, NOTHING], 0.0)
    assert sorted(boil.document_ids) == ["pump", "radio", "tent"]
    assert sorted(power.document_ids) == ["kettle", "pump", "tent"]
    assert sorted(nothing.document_ids) == ["pump", "radio", "tent"]


def test_raft_cuts_gold_documents_like_all_and_keeps_their_best_chunks(tmp_path: Path) -> None:
    long = Passage("manual", "One tank here. Two tank cord. Three cord tank button. Four.")
    task = task_of([*CORPUS, long])
    lexical = retriever(tmp_path, None, task, search="lexical", top_k=2, chunk_words=4, chunk_overlap=0)
    found = lexical.find_for_training([example("q", "tank cord button", "manual")], 1.0, 0)
    assert found is not None
    assert sorted(found[0].passages) == ["Three cord tank button.", "Two tank cord."]
    assert found[0].document_ids == ("manual", "manual")


def test_raft_hands_over_fewer_where_too_few_are_found(tmp_path: Path) -> None:
    lexical = retriever(tmp_path, search="lexical", top_k=3)
    with_gold = lexical.find_for_training([BOIL, POWER, NOTHING, replace(NOTHING, evidence=("tent",))], 1.0, 0)
    assert [set(ids) for ids in documents(with_gold)] == [{"kettle", "pump"}, {"lamp", "radio"}, set(), {"tent"}]
    assert documents(lexical.find_for_training([BOIL, POWER], 0.0, 0)) == [("pump",), ()]


@pytest.mark.parametrize("choice", [{"search": "dense"}, {"search": "hybrid"}, {"search": "dense", "rerank": True}], ids=str)
def test_raft_ranks_an_example_alike_beside_one_with_a_long_gold_document(
    tmp_path: Path, choice: dict[str, Any], cross_encoder: Path
) -> None:
    # Twelve chunks, nearest to the question by meaning and sharing a word with it.
    long = Passage("long", " ".join(f"Water lamp number {i} here." for i in range(12)))
    chunks = {f"Water lamp number {i} here.": 25.0 + i / 10 for i in range(12)}
    embedder: Any = AngleEmbedder(chunks | {p.text: 10.0 * i for i, p in enumerate(CORPUS)} | {BOIL.input: 28, POWER.input: 11})
    # Nine words are the longest other document and less than two sentences of the long one.
    settings = {"top_k": 2, "candidates": 2, "chunk_words": 9, "chunk_overlap": 0, "reranker": str(cross_encoder)} | choice
    asked = retriever(tmp_path, embedder, task_of([*CORPUS, long]), **settings)
    beside = replace(POWER, evidence=("long",))
    for share in (0.0, 1.0):
        alone, together = asked.find_for_training([BOIL], share, 0), asked.find_for_training([BOIL, beside], share, 0)
        assert alone is not None
        assert together is not None
        assert alone[0] == together[0]


def test_raft_draws_the_share_and_the_order_by_seed_and_id_alone(tmp_path: Path, angles: Any) -> None:
    examples = [replace(BOIL, id=f"e{i}") for i in range(400)]
    found = training(tmp_path, angles, examples, 0.7)
    gold = ["kettle" in f.document_ids for f in found]
    assert 0.6 < np.mean(gold) < 0.8
    places = [f.document_ids.index("kettle") for f in found if "kettle" in f.document_ids]
    assert min(places.count(i) for i in range(3)) > 60, "gold stands at every place alike"
    assert training(tmp_path, angles, examples[::-1], 0.7) == found[::-1]
    assert training(tmp_path, angles, examples[7:8], 0.7) == found[7:8]
    assert training(tmp_path, angles, examples, 0.7, seed=1) != found
    wider = ["kettle" in f.document_ids for f in training(tmp_path, angles, examples, 0.9)]
    assert all(now or not before for before, now in zip(gold, wider, strict=True)), "a larger share keeps those of a smaller one"


def test_raft_draws_the_same_in_every_version(tmp_path: Path, angles: Any) -> None:
    examples = [replace(BOIL, id=f"e{i}") for i in range(6)]
    assert documents(training(tmp_path, angles, examples, 0.5)) == [
        ("tent", "kettle", "radio"),
        ("pump", "tent", "radio"),
        ("pump", "radio", "tent"),
        ("radio", "kettle", "tent"),
        ("tent", "pump", "radio"),
        ("kettle", "radio", "tent"),
    ]


def test_trials_share_an_index_of_words_and_another_corpus_or_cut_does_not(tmp_path: Path) -> None:
    first, second = retriever(tmp_path, search="lexical", top_k=1), retriever(tmp_path, search="lexical", top_k=4)
    assert first._lexical is second._lexical
    assert documents(second.find([POWER])) == [("radio", "lamp")]
    cut = retriever(tmp_path, search="lexical", chunk_words=5, chunk_overlap=0)
    other = retriever(tmp_path, None, task_of([replace(CORPUS[0], text="The batteries are flat."), *CORPUS[1:]]), search="lexical")
    assert cut._lexical is not first._lexical
    assert documents(other.find([POWER]))[0][0] == "kettle"
    assert documents(first.find([POWER])) == [("radio",)]


# ------------------------------------------------------------------------------------------------ a real task


def test_real_searches_find_the_pages_of_the_products(tmp_path: Path) -> None:
    import torch

    torch.set_num_threads(1)
    task, embedder = load_task(PRODUCTS), Embedder()
    asked = task.test[:100]

    def recall(**choice: Any) -> float:
        found = documents(retriever(tmp_path, embedder, task, **choice).find(asked))
        return float(np.mean([e.evidence[0] in ids for e, ids in zip(asked, found, strict=True)]))

    dense, lexical, hybrid = (recall(search=s, top_k=1) for s in ("dense", "lexical", "hybrid"))
    assert dense > 0.75
    assert lexical > 0.9
    assert hybrid > dense
    assert recall(search="dense", top_k=1, index="hnsw") == dense
    assert dense - 0.2 < recall(search="dense", top_k=1, index="ivfpq") <= dense
