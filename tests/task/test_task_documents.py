"""Documents become passages: text, Markdown, HTML, PDF, tables, columns."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.task.documents import passages_of_column, read_documents

PAGE = """<!doctype html><html><head><title>Red &amp; blue
pumps</title><style>p {color: red}</style></head>
<body><script>alert("no")</script><h1>Pumps</h1><p>It weighs <b>12</b>&nbsp;kg.</p><ul><li>one<li>two</ul>
<p>The caf\u00e9.</body></html>"""


def pdf(path: Path, text: str) -> Path:
    """A file of one page with a line of text, by hand as the format has it."""
    stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET" if text else ""
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
        f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    content, places = "%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        places.append(len(content))
        content += f"{number} 0 obj\n{body}\nendobj\n"
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    end = f"trailer << /Size 6 /Root 1 0 R >>\nstartxref\n{len(content)}\n%%EOF\n"
    path.write_bytes(f"{content}xref\n0 6\n0000000000 65535 f \n{table}{end}".encode("latin-1"))
    return path


def test_a_folder_of_all_kinds(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.txt").write_text("\ufeffplain 文\n", encoding="utf-8")
    (tmp_path / "b.md").write_text("intro\n# The valve\nMade in Porto.\n")
    (tmp_path / "deep" / "c.html").write_text(PAGE, encoding="utf-8")
    pdf(tmp_path / "d.pdf", "Hello from a page")
    pdf(tmp_path / "scan.pdf", "")
    (tmp_path / "e.docx").write_bytes(b"PK")
    (tmp_path / ".hidden.txt").write_text("no")
    passages, notes = read_documents(tmp_path)
    found = {passage["id"]: (passage["title"], passage["text"]) for passage in passages}
    assert found == {
        "a.txt": ("a", "plain 文"),
        "b.md": ("The valve", "intro\n# The valve\nMade in Porto."),
        "d.pdf": ("d", "Hello from a page"),
        "deep/c.html": ("Red & blue pumps", "Pumps\nIt weighs 12 kg.\none\ntwo\nThe café."),
    }
    assert notes == [
        'document "scan.pdf" has no text and was left out',
        "files of other kinds than .txt, .md, .html, .htm, .pdf were left out: 1 .docx",
    ]


def test_a_page_that_never_closes_its_head(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("<head><meta charset=utf-8><title>T</title><p>shown")
    passages, _ = read_documents(tmp_path)
    assert (passages[0]["title"], passages[0]["text"]) == ("T", "shown")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pdf", b"no pdf at all", "a.pdf: is no readable PDF"),
        ("a.pdf", b"%PDF-1.4\n%%EOF", "a.pdf: is no readable PDF"),
        ("a.txt", b"caf\xe9", "a.txt:1:4: found the byte 0xe9, expected UTF-8"),
        ("a.docx", b"PK", "found no document with text"),
        ("a.txt", b"  ", "found no document with text"),
    ],
)
def test_a_bad_document_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BenchError) as caught:
        read_documents(tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_of_passages(tmp_path: Path) -> None:
    path = tmp_path / "corpus.csv"
    path.write_text("id,content\np7,one\n,two\n")
    assert read_documents(path)[0] == [{"id": "p7", "title": "", "text": "one"}, {"id": "p2", "title": "", "text": "two"}]
    path.write_text("id,content\np7, \n")
    with pytest.raises(BenchError, match=r'corpus\.csv:2: column "content" is empty'):
        read_documents(path)
    path.write_text("id,words\np7,x\n")
    with pytest.raises(BenchError, match="found the columns id, words, expected one of text, content"):
        read_documents(path)


def test_equal_texts_are_one_passage() -> None:
    assert passages_of_column(["b", "", "a", "b"]) == {"b": "p1", "a": "p2"}
