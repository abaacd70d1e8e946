"""Documents become passages: a folder of .txt, .md, .html and .pdf files, or a table with a column of texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final

from bench.errors import BenchError
from bench.settings import shown
from bench.task.rows import read_text
from bench.task.source import read_table

TEXT_COLUMNS: Final = ("text", "content", "body", "passage", "context", "document")
_SILENT: Final = frozenset({"script", "style", "head", "noscript", "template"})
_BLOCKS: Final = frozenset({
    "address", "article", "blockquote", "br", "dd", "div", "dl", "dt", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "main", "ol", "p",
    "pre", "section", "table", "tr", "ul",
})  # fmt: skip


def read_documents(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The passages (``id``, ``title``, ``text``) of a folder or a table, and notes on what was left out.

    In a folder each .txt, .md, .html, .htm and .pdf file, subfolders included, is one passage with its path as id (retrieval cuts long
    ones into chunks); a PDF without text, as a scan has none, and an empty file are left out and named.

    Raises:
        BenchError: There is no document, or a file cannot be read.
    """
    if path.is_file():
        return _table(path), []
    passages: list[dict[str, Any]] = []
    skipped: Counter[str] = Counter()
    notes = []
    for file in sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".")):
        if file.suffix.lower() not in _READERS:
            skipped[file.suffix or "no suffix"] += 1
            continue
        title, text = _READERS[file.suffix.lower()](file)
        if text.strip():
            passages.append({"id": file.relative_to(path).as_posix(), "title": title or file.stem, "text": text.strip().replace("\0", "")})
        else:
            notes.append(f"document {shown(file.name)} has no text and was left out")
    if skipped:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(skipped.items()))
        notes.append(f"files of other kinds than {', '.join(_READERS)} were left out: {kinds}")
    if not passages:
        raise BenchError(f"{path}: found no document with text, expected {', '.join(_READERS)}")
    return passages, notes


def passages_of_column(texts: Sequence[str]) -> dict[str, str]:
    """The id of the passage that each different text becomes, by the text, in the order of first occurrence; an empty text is none."""
    return {text: f"p{number}" for number, text in enumerate(dict.fromkeys(filter(None, texts)), start=1)}


def _table(path: Path) -> list[dict[str, Any]]:
    rows = read_table(path)
    column = next((name for name in TEXT_COLUMNS if name in rows[0].values), None)
    if column is None:
        raise BenchError(f"{rows[0].where}: found the columns {', '.join(rows[0].values)}, expected one of {', '.join(TEXT_COLUMNS)}")
    passages = []
    for row in rows:
        text = row.values.get(column)
        if not isinstance(text, str) or not text.strip():
            raise BenchError(f'{row.where}: column "{column}" is empty, expected the text of a passage')
        passages.append({"id": row.values.get("id") or f"p{row.number}", "title": row.values.get("title") or "", "text": text})
    return passages


def _plain(path: Path) -> tuple[str, str]:
    text = read_text(path)
    heading = next((line.lstrip("# ").strip() for line in text.splitlines() if line.startswith("# ")), "")
    return (heading if path.suffix.lower() == ".md" else ""), text


def _html(path: Path) -> tuple[str, str]:
    reader = _Text()
    reader.feed(read_text(path))
    reader.close()
    lines = (" ".join(line.split()) for line in "".join(reader.parts).splitlines())
    return " ".join("".join(reader.title).split()), "\n".join(line for line in lines if line)


class _Text(HTMLParser):
    """What a reader of the page sees; block elements begin a new line."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.title: list[str] = []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _SILENT or tag == "title":
            self._open.append(tag)
        elif tag in _BLOCKS:
            if "head" in self._open:  # a page that leaves out </head>
                self._open.clear()
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            del self._open[self._open.index(tag) :]
        elif tag in _BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if "title" in self._open:
            self.title.append(data)
        elif not self._open:
            self.parts.append(data)


def _pdf(path: Path) -> tuple[str, str]:
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        reader = PdfReader(path)
        title = reader.metadata.title if reader.metadata else None
        text = "\n".join(page.extract_text() for page in reader.pages)
    except (PyPdfError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:  # what a broken file raises
        reason = shown(str(error) or type(error).__name__)
        raise BenchError(f"{path}: is no readable PDF ({reason}); take it out, or save it as text") from None
    return (title or "").strip(), text


_READERS: Final = {".txt": _plain, ".md": _plain, ".html": _html, ".htm": _html, ".pdf": _pdf}
