"""The helps for whoever writes a task: validate, new_task, the guide."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from bench.errors import BenchError
from bench.task.author import new_task
from bench.task.load import load_task
from bench.task.schema import TaskConfig
from bench.task.validate import validate

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "add-a-task.md"
KINDS = ["qa", "classification", "summarization", "structured", "multiple_choice"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_task_loads_without_a_warning(tmp_path: Path, kind: str) -> None:
    files = new_task(tmp_path / "deep" / "mine", kind)
    task = load_task(tmp_path / "deep" / "mine")
    assert task.config.kind == kind
    assert (len(task.train), len(task.validation), len(task.test)) == (3, 3, 3)
    assert task.warnings == ()
    assert bool(task.corpus) == (kind == "qa")
    assert sorted(files) == sorted((tmp_path / "deep" / "mine").iterdir())
    assert validate(tmp_path / "deep" / "mine")[0].startswith(f"task mine: {kind}, metrics ")


def test_a_new_task_overwrites_nothing(tmp_path: Path) -> None:
    new_task(tmp_path / "mine", "qa")
    before = {path: path.read_bytes() for path in (tmp_path / "mine").iterdir()}
    with pytest.raises(BenchError, match=r"mine: is not empty, expected a new folder"):
        new_task(tmp_path / "mine", "classification")
    assert {path: path.read_bytes() for path in (tmp_path / "mine").iterdir()} == before


def test_a_new_task_needs_a_known_kind_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match='kind: found "summarisation"; did you mean "summarization"'):
        new_task(tmp_path / "mine", "summarisation")
    assert not (tmp_path / "mine").exists()
    (tmp_path / "file").write_text("x")
    with pytest.raises(BenchError, match="cannot be written"):
        new_task(tmp_path / "file", "qa")


def test_validate_reports_what_needs_no_model(tmp_path: Path) -> None:
    new_task(tmp_path / "qa", "qa")
    lines = validate(tmp_path / "qa")
    assert "train: 3 items in 2 clusters, 66.7% answerable, median words 6 in the input and 2 in the answer" in lines
    assert "corpus: 3 passages, 3 of them named as evidence" in lines
    assert "baseline: always abstaining is right for 33.3% of test" in lines
    new_task(tmp_path / "c", "classification")
    rows = [{"message": f"short note {i} {['a', 'b', 'c', 'd'][i % 4]}", "label": "billing" if i < 8 else "other"} for i in range(10)]
    (tmp_path / "c" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = validate(tmp_path / "c")
    assert "labels: 3; billing 80.0%, other 20.0% of train" in lines
    assert 'baseline: the most frequent answer of train, "billing", is right for 33.3% of test' in lines
    advice = "to do: add one of each, or take the label out of labels"
    assert f'warning: labels: 1 of 3 have no training example, as "delivery"; {advice}' in lines
    new_task(tmp_path / "s", "structured")
    assert "baseline: urgent is false, the most frequent of train, for 66.7% of test" in validate(tmp_path / "s")


def test_validate_names_five_labels_at_most(tmp_path: Path) -> None:
    new_task(tmp_path / "c", "classification")
    settings = yaml.safe_load((tmp_path / "c" / "task.yaml").read_text())
    (tmp_path / "c" / "task.yaml").write_text(yaml.safe_dump({**settings, "labels": [f"l{i}" for i in range(7)]}))
    for s, split in enumerate(("train", "validation", "test")):
        rows = [{"message": f"{split} note {i} {s}{i}", "label": f"l{i}"} for i in range(7)]
        (tmp_path / "c" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (line,) = (line for line in validate(tmp_path / "c") if line.startswith("labels: "))
    assert line == "labels: 7; l0 14.3%, l1 14.3%, l2 14.3%, l3 14.3%, l4 14.3%, 2 more of train"


def test_validate_refuses_a_metric_of_another_kind(tmp_path: Path) -> None:
    new_task(tmp_path / "mine", "summarization")
    path = tmp_path / "mine" / "task.yaml"
    path.write_text(path.read_text().replace("metrics: [rougeL, rouge1]", "metrics: [macro_f1]"))
    with pytest.raises(BenchError, match=r'metrics: metric "macro_f1" has no meaning for kind summarization'):
        validate(tmp_path / "mine")


@pytest.mark.parametrize("rows", sorted((ROOT / "tasks").glob("*/train.jsonl")), ids=lambda path: path.parent.name)
def test_the_tasks_of_this_project_load_without_a_warning(rows: Path) -> None:
    assert load_task(rows.parent).warnings == ()


def test_every_task_of_this_project_is_described() -> None:
    for path in (ROOT / "tasks").glob("*/task.yaml"):
        assert yaml.safe_load(path.read_text(encoding="utf-8"))["description"]
        assert (path.parent / "README.md").is_file()


def test_rationales_are_measured(tmp_path: Path) -> None:
    new_task(tmp_path / "c", "classification")
    assert not any(line.startswith("rationales") for line in validate(tmp_path / "c"))
    path = tmp_path / "c" / "task.yaml"
    text = path.read_text()
    assert "# rationale: reasoning\n" in text
    path.write_text(text.replace("# rationale: reasoning\n", "rationale: reasoning\n"))
    train = tmp_path / "c" / "train.jsonl"
    found = [json.loads(line) for line in train.read_text().splitlines()]
    said = ["It is about money.", "Short.", "The parcel is late, so it is about delivery."]
    train.write_text("".join(json.dumps({**row, "reasoning": r}) + "\n" for row, r in zip(found, said, strict=True)))
    assert "rationales: 3, median words 4, at most 9" in validate(tmp_path / "c")


def test_validate_says_what_rules_that_read_no_question_score(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    new_task(folder, "multiple_choice")
    rows = [
        {"question": "first of them", "options": ["a b", "c d", "e", "f g h"], "answer": [0, 2]},
        {"question": "second of them", "options": ["h", "i j"], "answer": "i j"},
    ]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train = [{"question": f"{word} question here", "options": ["x", "y"], "answer": 1} for word in ("one", "two")]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in train))
    lines = validate(folder)
    assert "options: 2 to 4 an item, median words 2" in lines
    assert "baseline: picking at random is right for 50.0% of test" in lines
    assert "baseline: picking number 2, the most frequent place in train, is right for 50.0% of test" in lines
    assert "baseline: picking the longest option is right for 50.0% of test" in lines
    assert 'baseline: the most frequent answer of train, "y", is right for 0.0% of test' in lines


def test_a_new_multiple_choice_sets_nothing_that_only_generation_reads(tmp_path: Path) -> None:
    new_task(tmp_path / "m", "multiple_choice")
    text = (tmp_path / "m" / "task.yaml").read_text()
    assert "max_new_tokens" not in text
    assert "rationale" not in text
    assert "options: options\n" in text


# ---------------------------------------------------------------------------------------------- the guide


def guide_files(section: str = "A worked example") -> dict[str, str]:
    """The fenced blocks of an example, by the file name that stands in front of each."""
    example = GUIDE.read_text().partition(f"## {section}\n")[2].partition("\n## ")[0]
    return dict(re.findall(r"^`([\w.]+)`:\n\n```\w+\n(.*?)^```$", example, re.MULTILINE | re.DOTALL))


def test_the_example_in_the_guide_loads(tmp_path: Path) -> None:
    files = guide_files()
    assert {"task.yaml", "train.csv", "test.jsonl", "corpus.jsonl"} <= set(files)
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    task = load_task(tmp_path)
    assert task.config.kind == "qa"
    assert task.test[0].evidence
    assert any(not e.answerable for e in task.test)
    assert len(task.warnings) == 1  # validation is carved out
    assert task.warnings[0] in GUIDE.read_text()


def test_the_multiple_choice_in_the_guide_loads(tmp_path: Path) -> None:
    files = guide_files("Multiple choice")
    assert set(files) == {"task.yaml", "train.csv", "validation.jsonl", "test.jsonl"}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    task = load_task(tmp_path)
    assert task.config.kind == "multiple_choice"
    assert task.warnings == ()
    assert all(set(e.targets) < set(e.options) for e in (*task.train, *task.validation, *task.test))


def test_the_letters_in_the_guide_load(tmp_path: Path) -> None:
    lettered = re.search(r"^```yaml\n(input: .*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    assert lettered
    (tmp_path / "task.yaml").write_text(f"kind: multiple_choice\ninstruction: Answer.\nmetrics: [accuracy]\n{lettered[1]}")
    for number, split in enumerate(("train", "validation", "test")):
        row = {"question": f"{split} {number}?", "texts": ["one", "two", "three", f"x{number}"], "letters": ["A", "B", "C", "D"]}
        answers = [{**row, "answer": "B"}, {**row, "question": f"Or {number * 7} {split}?", "answer": 1}]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    task = load_task(tmp_path)
    assert task.test[0].input == "test 2? A. one B. two C. three D. x2"
    assert {e.targets for e in task.test} == {("B",)}
    assert task.warnings == ()


def test_the_guide_explains_every_key() -> None:
    explained = set(re.findall(r"^\| `(\w+)`", GUIDE.read_text(), re.MULTILINE))
    assert explained == set(TaskConfig.model_fields)
