"""The user's own files: what is read, and the one line that each bad one gives."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.task.rows import csv_lines
from bench.task.source import read_source


def read(tmp_path: Path, content: bytes, name: str = "d.csv") -> list[dict[str, object]]:
    (tmp_path / name).write_bytes(content)
    return [row.values for row in read_source(str(tmp_path / name)).rows[""]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n1,2\n3\n", "d.csv:3: found 1 cells, expected 2"),
        (b"a,b\n\"x\ny\",2\n3,4,5\n", "d.csv:4: found 3 cells, expected 2"),
        (b"a,b\n1,2,3\n", "a cell with ',' in it needs quotes"),
        (b"a,b\ncaf\xe9,2\n", "d.csv:2:4: found the byte 0xe9, expected UTF-8; save it as UTF-8"),
        ("a,b\n1,2\n".encode("utf-16"), "d.csv: found UTF-16, expected UTF-8; save it as UTF-8"),
        (b"a,a\n1,2\n", 'd.csv:1: the column "a" stands twice in the header'),
        (b"", "d.csv: is empty, expected a header and rows"),
        (b" \n\n", "d.csv: is empty, expected a header and rows"),
        (b"a,b\n", "d.csv: found a header and no rows"),
        (b"a,b\n1,x\x00y\n", "d.csv:2:4: found a NUL byte"),
        (b'a,b\n"1,2\n', "d.csv:2: is no valid CSV"),
    ],
)
def test_a_bad_csv_is_one_line_with_its_place(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(BenchError) as caught:
        read(tmp_path, content)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_byte_order_mark_semicolons_and_long_cells(tmp_path: Path) -> None:
    rows = read(tmp_path, b"\xef\xbb\xbf" + b"text;label\r\n" + b"x" * 200_000 + b";a, b\r\n\r\ny;c\r\n")
    assert [len(str(row["text"])) for row in rows] == [200_000, 1]
    assert rows[0]["label"] == "a, b"


def test_tabs(tmp_path: Path) -> None:
    assert read(tmp_path, b"a\tb\n1,5\t2\n", "d.tsv") == [{"a": "1,5", "b": "2"}]


def test_a_nameless_column_gets_a_name(tmp_path: Path) -> None:
    assert read(tmp_path, b",text\n0,x\n") == [{"column_1": "0", "text": "x"}]


def test_lists_only_where_the_whole_column_is_lists(tmp_path: Path) -> None:
    rows = read(tmp_path, b"a,b,c\n\"[1, 2]\",\"['x', 'y']\",[draft] x\n,\"['z']\",\"[1]\"\n")
    assert rows == [{"a": [1, 2], "b": ["x", "y"], "c": "[draft] x"}, {"a": [], "b": ["z"], "c": "[1]"}]


def test_a_cell_is_never_code(tmp_path: Path) -> None:
    rows = read(tmp_path, b"a\n[__import__('os').getcwd()]\n")
    assert rows == [{"a": "[__import__('os').getcwd()]"}]


@pytest.mark.parametrize(("name", "message"), [("nothing.csv", "found no file or folder"), ("d.xlsx", "found a file of kind .xlsx")])
def test_no_such_source(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "d.xlsx").write_bytes(b"PK")
    with pytest.raises(BenchError, match=message):
        read_source(str(tmp_path / name))


def test_a_folder_without_a_train_file(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("a,b\n1,2\n")
    with pytest.raises(BenchError, match="found no train file"):
        read_source(str(tmp_path))
    (tmp_path / "train.csv").write_text("a,b\n1,2\n")
    (tmp_path / "Train.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(BenchError, match=r"expected one train file"):
        read_source(str(tmp_path))


def test_names_of_splits(tmp_path: Path) -> None:
    for name in ("training", "dev", "test"):
        (tmp_path / f"{name}.csv").write_text("a,b\n1,2\n")
    source = read_source(str(tmp_path))
    assert list(source.rows) == ["train", "validation", "test"]
    assert set(source.files) == {"training.csv", "dev.csv", "test.csv"}
    assert all(len(digest) == 64 for digest in source.files.values())


def test_a_hub_set(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    table = datasets.Dataset.from_dict({"text": ["x", "y"], "label": [1, 0]}, features=features)
    asked: list[tuple[object, ...]] = []

    def load(name: str, config: str | None, revision: str | None) -> datasets.DatasetDict:
        asked.append((name, config, revision))
        return datasets.DatasetDict({"train": table, "val": table, "unsupervised": table})

    monkeypatch.setattr(datasets, "load_dataset", load)
    source = read_source("someone/something", "large", "v1")
    assert asked == [("someone/something", "large", "v1")]
    assert list(source.rows) == ["train", "validation"]
    assert [row.values["label"] for row in source.rows["train"]] == ["yes", "no"]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.DatasetDict({"train": table}))
    assert list(read_source("someone/something").rows) == [""]  # one split alone is yet to be split

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no way out\nand more")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(BenchError, match=r"no such file, and the hub gives no such set \(ConnectionError: no way out\)$"):
        read_source("someone/something")


def test_a_configuration_of_a_folder_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = copy_of_a_set(tmp_path / "set")
    source = read_source(str(folder), "large")
    assert [row.values for row in source.rows["train"]] == [{"q": "large", "a": "yes"}]
    assert list(source.rows) == ["train", "test"]
    for config, found in (("lareg", '"lareg"'), ("", "none")):
        with pytest.raises(BenchError, match=rf"--data-config: found {found}, expected one of \['small', 'large'\]$"):
            read_source(str(folder), config)


def copy_of_a_set(folder: Path) -> Path:
    """A folder as a data set with two configurations is laid out on the hub."""
    names = "- config_name: {0}\n  data_files:\n  - {{split: train, path: {0}/a.csv}}\n  - {{split: test, path: {0}/b.csv}}\n"
    for config in ("small", "large"):
        (folder / config).mkdir(parents=True)
        for file in ("a", "b"):
            (folder / config / f"{file}.csv").write_text(f"q,a\n{config},yes\n")
    (folder / "README.md").write_text(f"---\nconfigs:\n{names.format('small')}{names.format('large')}---\n")
    return folder


def test_a_configuration_or_revision_without_a_meaning(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("a,b\n1,2\n")
    with pytest.raises(BenchError, match=r"--data-config: found x, expected none, since .*d.csv is a file"):
        read_source(str(tmp_path / "d.csv"), "x")
    for name in ("d.csv", ""):
        with pytest.raises(BenchError, match=r"--data-revision: found v1, expected none, since .* lies here"):
            read_source(str(tmp_path / name), None, "v1")
    (tmp_path / "README.md").write_text("---\nconfigs: {\n---\n")
    with pytest.raises(BenchError, match=r"--from .*: the folder cannot be read \("):
        read_source(str(tmp_path), "x")


def test_a_reader_that_stops_early_leaves_others_their_cells(tmp_path: Path) -> None:
    short, long = tmp_path / "short.csv", tmp_path / "long.csv"
    cell = "x" * 200_000
    first = csv_lines(short, "a,b\n1,2\n")
    assert next(first)[1] == ["a", "b"]
    second = csv_lines(long, f"a\n{cell}\n")
    assert next(second)[1] == ["a"]
    first.close()
    assert [cells for _, cells in second] == [[cell]]
    assert csv.field_size_limit() >= len(cell)
