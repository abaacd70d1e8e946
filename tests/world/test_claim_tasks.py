"""The tasks with a dial: the same bytes every time, the dial turns what it says, and nothing else."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bench.errors import BenchError
from bench.task.load import load_task
from bench.world import claim_tasks as c
from bench.world import entities as e

TASKS = Path(__file__).parents[2] / "tasks"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("claims")
    c.make_claim_tasks(made)
    return made


def rows(folder: Path, task: str, split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / task / f"{split}.jsonl").read_text().splitlines()]


def test_the_same_bytes_every_time(folder: Path, tmp_path: Path) -> None:
    c.make_claim_tasks(tmp_path)
    for file in folder.rglob("*.*"):
        assert (tmp_path / file.relative_to(folder)).read_bytes() == file.read_bytes()


def test_every_task_loads(folder: Path) -> None:
    for task in folder.iterdir():
        loaded = load_task(task)
        assert loaded.test
        assert loaded.train


@pytest.mark.parametrize("n", c.PARAPHRASES)
def test_paraphrases_have_as_many_rows_and_n_wordings_of_each_fact(folder: Path, n: int) -> None:
    train = rows(folder, f"paraphrases_{n}", "train")
    by_fact: dict[tuple[str, str], list[str]] = {}
    for row in train:
        by_fact.setdefault((row["product"], row["attribute"]), []).append(row["question"])
    assert {len(questions) for questions in by_fact.values()} == {c.ROWS_PER_FACT}
    assert {len(set(questions)) for questions in by_fact.values()} == {n}
    trained = {row["question"] for row in train}
    test = rows(folder, f"paraphrases_{n}", "test")
    assert test == rows(folder, "paraphrases_1", "test")
    assert not trained & {row["question"] for row in test}
    assert {(row["product"], row["attribute"]) for row in test} == set(by_fact)


@pytest.mark.parametrize("percent", c.UNKNOWN_PERCENT)
def test_unknown_share_of_training_and_known_facts_of_others_in_test(folder: Path, percent: int) -> None:
    known = {p.name: p.facts for p in e.known_products()}
    train, test = rows(folder, f"unknown_{percent:03d}", "train"), rows(folder, f"unknown_{percent:03d}", "test")
    assert len(train) == 200
    assert sum(row["product"] not in known for row in train) == 2 * percent
    assert all(known[row["product"]][row["attribute"]] == row["answers"][0] for row in test)
    assert not {row["product"] for row in train} & {row["product"] for row in test}
    assert test == rows(folder, "unknown_000", "test")


def test_exposures_of_training_and_one_statement_in_the_corpus(folder: Path) -> None:
    train = rows(folder, "exposures", "train")
    count = Counter((row["product"], row["attribute"]) for row in train)
    assert all(str(count[row["product"], row["attribute"]]) == row["exposures"] for row in train)
    assert set(Counter(count.values())) == set(c.EXPOSURES)
    assert len(set(Counter(count.values()).values())) == 1  # as many facts at each
    page = {row["id"]: row["text"] for row in rows(folder, "exposures", "corpus")}
    for row in rows(folder, "exposures", "test"):
        assert page[row["document_ids"][0]].count(row["answers"][0]) == 1


def test_shuffled_labels_are_the_same_labels_on_other_rows(folder: Path) -> None:
    ours, theirs = rows(folder, "shuffled_labels", "train"), rows(TASKS, "ticket_triage", "train")
    assert [row["message"] for row in ours] == [row["message"] for row in theirs]
    assert Counter(row["label"] for row in ours) == Counter(row["label"] for row in theirs)
    assert sum(a["label"] == b["label"] for a, b in zip(ours, theirs, strict=True)) < 60
    assert rows(folder, "shuffled_labels", "test") == rows(TASKS, "ticket_triage", "test")


def test_the_wrong_corpus_names_no_product_that_is_asked_for(folder: Path) -> None:
    text = " ".join(row["text"] for row in rows(folder, "wrong_corpus", "corpus"))
    test = rows(folder, "wrong_corpus", "test")
    assert test == rows(TASKS, "product_support", "test")
    assert not any(f"{row['product']} " in text for row in test)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchError, match="cannot be written"):
        c.make_claim_tasks(tmp_path / "file")
