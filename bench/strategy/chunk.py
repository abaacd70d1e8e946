"""Cuts passages into the chunks that are embedded and handed to the model."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from bench.errors import BenchError
from bench.task.schema import Passage

_WORD = re.compile(r"\S+")
# A word that ends a sentence: a full stop, question or exclamation mark, perhaps closed by quotes or brackets.
_SENTENCE_END = re.compile(r"[.!?。！？…][\"'”’»)\]]*$")


@dataclass(frozen=True)
class Chunk:
    """A piece of a document: `id` is ``<document id>#<number>``, counted from 0 in the order of the text."""

    id: str
    document_id: str
    text: str


def chunk_passages(passages: Sequence[Passage], size_words: int, overlap_words: int) -> list[Chunk]:
    """The chunks of all passages, in order; each holds at most `size_words` words, as they stand in the text.

    Words are what stands between white space. A passage no longer than `size_words` is one chunk. A longer one is packed
    greedily with whole sentences, and each chunk starts with the last sentences of the one before, up to `overlap_words`
    words, as long as the next sentence still fits whole. Only a sentence longer than a chunk is cut, between words.

    Raises `BenchError` for sizes that make no sense and for a passage without text.
    """
    if size_words < 1:
        raise BenchError(f"chunk size: found {size_words} words; expected 1 or more")
    if not 0 <= overlap_words < size_words:
        raise BenchError(f"chunk overlap: found {overlap_words} words; expected 0 to {size_words - 1}, less than the chunk size")
    chunks = []
    for passage in passages:
        count = len(passage.text.split())
        if count == 0:
            raise BenchError(f'passage "{passage.id}": found no text; expected at least one word')
        texts = [passage.text] if count <= size_words else _split(passage.text, size_words, overlap_words)
        chunks += [Chunk(f"{passage.id}#{i}", passage.id, text) for i, text in enumerate(texts)]
    return chunks


def _split(text: str, size: int, overlap: int) -> list[str]:
    words = [m.span() for m in _WORD.finditer(text)]
    bounds = _sentence_bounds(text, words)
    texts = []
    start = 0
    while True:
        end = min(start + size, len(words))
        sentence_end = bounds[bisect_right(bounds, end) - 1]
        if sentence_end > start:
            end = sentence_end
        texts.append(text[words[start][0] : words[end - 1][1]])
        if end == len(words):
            return texts
        start = _next_start(bounds, end, size, overlap)


def _next_start(bounds: list[int], end: int, size: int, overlap: int) -> int:
    """Where the chunk after one that stops at `end` starts, so that it reaches beyond `end`.

    The sentence after `end` did not fit into the chunk before, so a start from which it fits lies after that chunk's start.
    """
    after_end = bisect_right(bounds, end)
    if bounds[after_end - 1] != end:
        return end - overlap
    earliest = max(end - overlap, bounds[after_end] - size)
    return end if earliest >= end else bounds[bisect_left(bounds, earliest)]


def _sentence_bounds(text: str, words: list[tuple[int, int]]) -> list[int]:
    """Word positions where a sentence starts, and the end of the text: ascending, from 0 to ``len(words)``.

    A mark before a lower-case letter ends no sentence ("e.g. this"); an empty line always ends one.
    """
    bounds = [0]
    for i in range(1, len(words)):
        gap = text[words[i - 1][1] : words[i][0]]
        ended = _SENTENCE_END.search(text, words[i - 1][0], words[i - 1][1]) and not text[words[i][0]].islower()
        if ended or gap.count("\n") > 1:
            bounds.append(i)
    return [*bounds, len(words)]
