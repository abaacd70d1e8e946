from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import BenchError
from bench.strategy.chunk import Chunk, chunk_passages
from bench.task.schema import Passage


def texts(text: str, size: int, overlap: int = 0) -> list[str]:
    return [c.text for c in chunk_passages([Passage("d", text)], size, overlap)]


def test_a_document_no_longer_than_the_size_is_one_chunk_as_it_stands() -> None:
    text = " One two.\n\nThree  four. "
    assert chunk_passages([Passage("doc/1", text)], 4, 0) == [Chunk("doc/1#0", "doc/1", text)]
    assert len(texts(text, 3)) == 2


def test_whole_sentences_are_packed_and_numbered() -> None:
    passages = [Passage("a", "One two. Three four five. Six."), Passage("b", "Alone.")]
    assert chunk_passages(passages, 5, 0) == [
        Chunk("a#0", "a", "One two. Three four five."),
        Chunk("a#1", "a", "Six."),
        Chunk("b#0", "b", "Alone."),
    ]


def test_overlap_repeats_whole_sentences_only() -> None:
    text = "A b. C d. E f. G h."
    assert texts(text, 4, 2) == ["A b. C d.", "C d. E f.", "E f. G h."]
    assert texts(text, 4, 1) == ["A b. C d.", "E f. G h."]


def test_overlap_gives_way_where_the_next_sentence_would_be_cut() -> None:
    assert texts("A b. C d e f. G.", 4, 3) == ["A b.", "C d e f.", "G."]


def test_a_sentence_longer_than_a_chunk_is_cut_between_words() -> None:
    assert texts("a b c d e f g.", 3, 1) == ["a b c", "c d e", "e f g."]
    assert texts("Hi. A b c d e. Bye.", 3, 0) == ["Hi.", "A b c", "d e. Bye."]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("He said no! (Really.) Then left town.", "He said no! (Really.)"),
        ('She asked "why?" Nobody knew it then.', 'She asked "why?"'),
        ("Use a tool, e.g. this one. Done here.", "Use a tool, e.g. this"),
        ("A title\n\nThe text goes on here", "A title"),
        ("Version 2.5 is out now. Get it.", "Version 2.5 is out now."),
    ],
)
def test_where_sentences_end(text: str, first: str) -> None:
    assert texts(text, 5)[0] == first


words = st.text("abcXY.!?)", min_size=1, max_size=6)
documents = st.lists(st.tuples(words, st.sampled_from([" ", "\n", "\n\n", "  "])), min_size=1, max_size=60).map(
    lambda pairs: "".join(w + s for w, s in pairs)
)


@given(documents, st.integers(1, 12), st.data())
def test_chunks_are_pieces_of_any_text_and_none_is_too_long(text: str, size: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    chunks = texts(text, size, overlap)
    assert chunks == texts(text, size, overlap)
    assert all(chunk in text for chunk in chunks)
    lengths = [len(chunk.split()) for chunk in chunks]
    assert max(lengths) <= size
    n = len(text.split())
    assert n <= sum(lengths) <= n + overlap * (len(chunks) - 1)


@given(st.integers(1, 80), st.integers(1, 12), st.data())
def test_numbered_words_come_back_whole(n: int, size: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    ends = data.draw(st.sets(st.integers(0, n - 1)))
    text = " ".join(f"W{i}." if i in ends else f"W{i}" for i in range(n))
    chunks = [[int(w.strip("W.")) for w in c.split()] for c in texts(text, size, overlap)]
    assert chunks[0][0] == 0
    assert chunks[-1][-1] == n - 1
    for chunk in chunks:
        assert chunk == list(range(chunk[0], chunk[-1] + 1))
        assert len(chunk) <= size
    sentence_of = [sum(e < i for e in ends) for i in range(n)]
    length_of = [sentence_of.count(s) for s in sentence_of]
    for before, after in pairwise(chunks):
        assert before[0] < after[0] <= before[-1] + 1, "a gap, or no progress"
        assert after[-1] > before[-1]
        assert before[-1] + 1 - after[0] <= overlap
        cut = before[-1]
        assert cut in ends or length_of[cut] > size, "cut in the middle of a sentence that fits into a chunk"
        assert after[0] == 0 or after[0] - 1 in ends or length_of[after[0]] > size, "starts in the middle of a sentence that fits"


@pytest.mark.parametrize(
    ("size", "overlap", "message"),
    [
        (0, 0, "chunk size: found 0 words; expected 1 or more"),
        (5, 5, "chunk overlap: found 5 words; expected 0 to 4"),
        (5, -1, "chunk overlap: found -1 words; expected 0 to 4"),
    ],
)
def test_bad_settings(size: int, overlap: int, message: str) -> None:
    with pytest.raises(BenchError, match=message):
        chunk_passages([Passage("d", "text")], size, overlap)


@pytest.mark.parametrize("text", ["", " \n "])
def test_a_passage_without_text_is_named(text: str) -> None:
    with pytest.raises(BenchError, match='passage "blank": found no text'):
        chunk_passages([Passage("d", "text"), Passage("blank", text)], 5, 0)
