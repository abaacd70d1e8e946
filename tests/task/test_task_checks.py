"""What is checked: the settings, the syntax of the files, leakage between the splits."""

from __future__ import annotations

import itertools
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from bench.errors import BenchError
from bench.task.checks import MAX_SHARED_INPUTS, NEAR_DUPLICATE, check_leakage, input_key, read_config
from bench.task.rows import read_rows
from bench.task.schema import Example, Passage, TaskConfig

QA = {"kind": "qa", "instruction": "Answer.", "input": "{{ question }}", "target": "answers", "metrics": ["exact_match"]}


def config_error(folder: Path, text: str | bytes) -> str:
    path = folder / "task.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BenchError) as caught:
        read_config(path)
    assert str(caught.value).startswith(f"{path}:")
    assert str(caught.value).isprintable()
    return str(caught.value).removeprefix(f"{path}:")


def rows_error(path: Path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BenchError) as caught:
        read_rows(path)
    assert str(caught.value).startswith(f"{path}")
    return str(caught.value).removeprefix(f"{path}")


# ---------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"instrution": "x"}, ' unknown key "instrution"; did you mean "instruction"?'),
        ({"kind": "clasification"}, ' kind: found "clasification"; did you mean "classification"?'),
        ({"kind": 3}, " kind: found 3; expected one of: classification, multiple_choice, qa, structured, summarization"),
        ({"metrics": []}, " metrics: found [], expected"),
        ({"metrics": ["exactmatch"]}, ' metrics: unknown metric "exactmatch"; did you mean "exact_match"?'),
        ({"max_new_tokens": 0}, " max_new_tokens: found 0, expected greater than or equal to 1"),
        ({"abstain": [False]}, " abstain.0: found False, expected a valid string (YAML reads yes, no, on and off as true and false"),
        ({"abstain": [""]}, " abstain: found an empty phrase"),
        ({"labels": ["a", "b"]}, " labels: has a meaning for kind classification only, found kind qa"),
        ({"fields": {"a": "string"}}, " fields: has a meaning for kind structured only, found kind qa"),
        ({"options": "choices"}, " options: has a meaning for kind multiple_choice only, found kind qa"),
        ({"kind": "multiple_choice"}, " options: is missing, expected the column with the options"),
        ({"kind": "multiple_choice", "options": "o", "labels": ["a", "b"]}, " labels: has a meaning for kind classification only"),
        ({"kind": "multiple_choice", "options": "o", "fields": {"a": "string"}}, " fields: has a meaning for kind structured only"),
        ({"kind": "multiple_choice", "options": "o", "abstain": ["unknown"]}, " abstain: has no meaning for kind multiple_choice"),
        ({"kind": "multiple_choice", "options": "o", "rationale": "why"}, " rationale: has no meaning for kind multiple_choice"),
        ({"kind": "multiple_choice", "options": ["a", "b"]}, " options: found"),
        ({"shared_clusters": "alow"}, ' shared_clusters: found "alow"; did you mean "allow"?'),
    ],
)
def test_a_wrong_setting_names_the_key(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    assert config_error(tmp_path, json.dumps({**QA, **change})).startswith(said)


def test_a_misspelt_required_key_is_named_before_the_missing_one(tmp_path: Path) -> None:
    misspelt = {("targett" if key == "target" else key): value for key, value in QA.items()}
    assert config_error(tmp_path, json.dumps(misspelt)) == ' unknown key "targett"; did you mean "target"?'
    del misspelt["targett"]
    assert config_error(tmp_path, json.dumps(misspelt)) == ' the key "target" is missing'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: qa\ninput: [1,\nmetrics: x: y\n", "3: is no valid YAML"),
        ("kind: qa\n\tinput: x\n", "2: is no valid YAML"),
        ("kind: qa\nwhen: 2020-99-99\n", " is no valid YAML (ValueError"),
        ("kind: qa\n\x07\n", "2: is no valid YAML"),
        ("- qa\n", " found list, expected keys and values"),
        ("", " found NoneType, expected keys and values"),
        (b"kind: q\xff", "1:8: found the byte 0xff, expected UTF-8"),
    ],
)
def test_broken_yaml_names_the_line(tmp_path: Path, text: str | bytes, said: str) -> None:
    assert config_error(tmp_path, text).startswith(said)


def test_yaml_runs_no_code(tmp_path: Path) -> None:
    assert "is no valid YAML" in config_error(tmp_path, "kind: !!python/object/apply:os.getcwd []\n")


# ---------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": 2,}\n', ":2:9: is no valid JSON"),
        ("a.jsonl", '{"a": 1}\n{"a": \n', ":2:7: is no valid JSON (Expecting value; it ends too early)"),
        ("a.jsonl", '{"a": 1} {"a": 2}\n', ':1:10: is no valid JSON (Extra data; found "{\\"a\\": 2}")'),
        ("a.jsonl", '\n[1]\n', ":2: found a list, expected an object"),
        ("a.jsonl", '{"a": NaN}\n', ':1:1: is no valid JSON ("NaN is not JSON")'),
        ("a.jsonl", '{"a": 1, "b": 2, "a": 3}\n', ":1:1: is no valid JSON"),
        ("a.jsonl", '{"a": "\\ud800"}\n', ":1:1: found half of a surrogate pair"),
        ("a.jsonl", "[" * 100_000, ":1:1: is no valid JSON"),
        ("a.jsonl", '{"a": 1}\n{"a": "x\0y"}\n', ":2:9: found a NUL byte, expected text"),
        ("a.jsonl", b'{"a": 1}\n{"a": "caf\xe9"}\n', ":2:11: found the byte 0xe9, expected UTF-8"),
        ("a.jsonl", '{"a": 1}'.encode("utf-16"), ": found UTF-16, expected UTF-8"),
        ("a.jsonl", "\n \n", ": found no rows, expected at least one"),
        ("a.jsonl", "", ": found no rows, expected at least one"),
        ("a.json", '[\n{"a": 1},\n{"a" 2}]', ":3:6: is no valid JSON"),
        ("a.json", '{"a": 1}', ": found an object, expected a list of objects"),
        ("a.json", '[{"a": 1}, 2]', ", row 2: found a number, expected an object"),
        ("a.json", "[]", ": found no rows"),
        ("a.csv", "a,b\n1,2\n3\n", ":3: found 1 cells, expected 2 (a, b)"),
        ("a.csv", 'a,b\n"1\n2",3\n4,5,6\n', ":4: found 3 cells"),
        ("a.csv", 'a,b\n"1,2\n', ":2: is no valid CSV"),
        ("a.csv", "a,a\n1,2\n", ':1: found the header "a,a", expected column names, each once'),
        ("a.csv", "a,b\n", ": found no rows"),
        ("a.csv", "", ":1: found the header"),
        ("a.parquet", "PAR1", ": is no readable Parquet file"),
    ],
)
def test_a_malformed_file_names_the_place(tmp_path: Path, name: str, content: str | bytes, said: str) -> None:
    assert rows_error(tmp_path / name, content).startswith(said)


def test_marks_line_ends_and_separators_of_other_systems_are_fine(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes('\ufeff{"a": "x\u2028y"}\r\n{"a": "z"}\r\n'.encode())
    assert [row.values for row in read_rows(tmp_path / "a.jsonl")] == [{"a": "x\u2028y"}, {"a": "z"}]
    (tmp_path / "a.csv").write_bytes('\ufeffa,b\r\n"1\r\n2",\r\n\r\n[3],é\r\n'.encode())
    rows = read_rows(tmp_path / "a.csv", ["a"])
    assert [row.values for row in rows] == [{"a": "1\r\n2", "b": ""}, {"a": [3], "b": "é"}]
    assert [row.where for row in rows] == [f"{tmp_path / 'a.csv'}:2", f"{tmp_path / 'a.csv'}:5"]


def test_a_csv_cell_may_be_long_and_may_begin_with_a_bracket(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"a,b\n{'x' * 200_000},[sic] so it was\n")
    row = read_rows(tmp_path / "a.csv", ["b"])[0].values
    assert (len(row["a"]), row["b"]) == (200_000, "[sic] so it was")


# ---------------------------------------------------------------------------------------------- leakage


def example(identity: str, text: str, target: str = "x", cluster: str | None = None) -> Example:
    return Example(identity, text, (target,), True, cluster or identity)


def leaks(
    train: list[Example],
    test: list[Example],
    corpus: list[Passage] | None = None,
    validation: list[Example] | None = None,
    **config: Any,
) -> list[str]:
    splits = {"train": train, "validation": validation or [example("v", "nothing of the sort")], "test": test}
    return check_leakage(TaskConfig(**{**QA, **config}), splits, corpus or [], "folder")


def texts(count: int, words: int, seed: int, vocabulary: int = 5000) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(f"w{rng.randrange(vocabulary)}" for _ in range(words)) for _ in range(count)]


def test_clean_splits_give_no_warning() -> None:
    train, test = ([example(f"{s}{i}", t) for i, t in enumerate(texts(50, 12, s))] for s in (1, 2))
    assert leaks(train, test) == []


def test_a_shared_cluster_is_refused_unless_allowed() -> None:
    train = [example(f"r{i}", t, cluster=c) for i, (t, c) in enumerate(zip(texts(3, 9, 1), "abc", strict=True))]
    test = [example(f"s{i}", t, cluster=c) for i, (t, c) in enumerate(zip(texts(3, 9, 2), "cde", strict=True))]
    said = r'test and train share 1 of 3 values of the cluster column "firm", as "c".*shared_clusters: allow'
    with pytest.raises(BenchError, match=said):
        leaks(train, test, cluster="firm")
    assert leaks(train, test, cluster="firm", shared_clusters="allow") == []
    assert leaks(train, test) == []  # without a cluster column the cluster is the id


def test_a_cluster_shared_with_validation_is_a_warning() -> None:
    validation = [example("v1", "some words of its own", cluster="a")]
    train = [example("r1", "other words that differ", cluster="a")]
    test = [example("s1", "yet another set of words", cluster="b")]
    assert leaks(train, test, validation=validation, cluster="firm") == [
        'validation and train share 1 of 1 values of the cluster column "firm", as "a"'
    ]


@pytest.mark.parametrize("shared", [1, 2, 3])
def test_few_shared_inputs_are_a_warning_and_many_an_error(shared: int) -> None:
    size = 200
    questions = texts(size, 12, 1)
    train = [example(f"r{i}", t.upper() + " ", target="x") for i, t in enumerate(questions[:shared])]
    test = [example(f"s{i}", t, target="x" if i else "y") for i, t in enumerate(questions)]
    said = f'{shared} of 200 test inputs stand in train too ({shared - 1} with the same answer), as "s0" and "r0"'
    if shared <= MAX_SHARED_INPUTS * size:
        assert leaks(train, test) == [said]
    else:
        with pytest.raises(BenchError, match=r"3 of 200 test inputs stand in train too .*expected at most 1% \(take them out of train\)"):
            leaks(train, test, shared_clusters="allow")


def test_punctuation_makes_a_difference_to_exact_duplicates() -> None:
    assert input_key("1 + 2") != input_key("1 - 2")
    assert input_key("Straße\u00a0 NR. ½") == input_key("strasse nr. 1\u20442")


def test_a_near_duplicate_is_a_warning_with_an_example() -> None:
    words = texts(1, 30, 1)[0].split()
    train = [example("r0", "totally different words all along the line"), example("r1", " ".join(words[:-1]))]
    test = [example("s0", " ".join(words)), example("s1", "nothing like it is to be found in here")]
    (said,) = leaks(train, test)
    assert said.startswith("1 of 2 test inputs nearly repeat one of train")
    assert said.endswith('as "s0" and "r1"')


@pytest.mark.parametrize(("length", "vocabulary", "seed"), [(12, 5000, 5), (18, 5000, 6), (7, 5000, 7), (12, 3, 8), (18, 4, 9)])
def test_near_duplicates_are_those_that_a_full_comparison_finds(length: int, vocabulary: int, seed: int) -> None:
    rng = random.Random(seed)
    train_texts = texts(60, length, 3, vocabulary)
    test_texts = []
    for text in train_texts:
        words = text.split()
        for at in rng.sample(range(length), rng.randrange(3)):
            words[at] = "changed"
        test_texts.append(" ".join([*words, "and", "more"][: rng.randrange(length - 1, length + 3)]))
    test_texts = [t for t in test_texts if t not in train_texts]

    def shingles(text: str) -> set[tuple[str, ...]]:
        words = re.findall(r"\w+", text)
        return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}

    def similarity(a: str, b: str) -> float:
        return len(shingles(a) & shingles(b)) / len(shingles(a) | shingles(b))

    expected = sum(any(similarity(a, b) >= NEAR_DUPLICATE for b in train_texts) for a in test_texts)
    assert expected > 5
    (said,) = leaks([example(f"r{i}", t) for i, t in enumerate(train_texts)], [example(f"s{i}", t) for i, t in enumerate(test_texts)])
    assert said.startswith(f"{expected} of {len(test_texts)} test inputs nearly repeat one of train")


def test_inputs_without_words_do_not_match_each_other() -> None:
    assert leaks([example("r0", "?!")], [example("s0", "...")]) == []


def test_a_test_question_in_the_corpus_is_a_warning() -> None:
    corpus = [Passage("p0", "Nothing here. How do I reset"), Passage("p1", "FAQ. How do I reset the pump? Press both buttons.")]
    test = [example("s0", "How do I reset the pump"), example("s1", "How do I reset the valve"), example("s2", "the pump")]
    (said,) = leaks([example("r0", "unrelated words of training")], test, corpus)
    assert said.startswith('corpus: 1 of 3 test inputs stand there word for word, as "s0" in passage "p1"')


def test_repeated_test_inputs_are_a_warning() -> None:
    test = [example(f"s{i}", "the very same question") for i in range(3)]
    said = "test: 2 items repeat the input of another one; they are not independent"
    assert leaks([example("r", "unrelated words of training")], test) == [said]


@pytest.mark.parametrize("names", list(itertools.permutations(["train", "validation", "test"]))[:3])
def test_the_order_of_the_splits_does_not_matter(names: tuple[str, ...]) -> None:
    split = {name: [example(f"{name}0", f"only {name} says this sentence")] for name in names}
    assert check_leakage(TaskConfig(**QA), split, [], "folder") == []
