"""`bench validate`: each warning says what to do, lengths are those of a model, all on one screen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.model.language_model import LanguageModel
from bench.model.source import EMBEDDED_FOLDER, locate
from bench.strategy.prompt import build_messages
from bench.task.author import new_task
from bench.task.load import load_task
from bench.task.validate import validate

ROOT = Path(__file__).parents[2]


def rows(folder: Path, split: str, found: list[dict[str, object]]) -> None:
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))


def one(lines: list[str], start: str) -> str:
    (found,) = (line for line in lines if line.startswith(start))
    return found


def warnings(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("warning: ")]


@pytest.mark.parametrize("name", ["product_support", "ticket_triage", "abstract_summary", "review_feedback", "product_reasoning"])
def test_a_task_of_this_project_fits_its_model_on_one_screen(name: str) -> None:
    lines = validate(ROOT / "tasks" / name)
    assert len(lines) <= 40
    assert not [line for line in warnings(lines) if "answers:" in line or "prompts:" in line]


def test_lengths_against_the_room_and_the_window(tmp_path: Path) -> None:
    new_task(tmp_path / "q", "qa")
    long = {"question": "why " * 600, "answers": ["because " * 40], "passage_ids": []}
    rows(tmp_path / "q", "test", [long, {"question": "Who was it then?", "answers": ["Ada"], "passage_ids": []}])
    found = warnings(validate(tmp_path / "q"))
    (answers,) = (line for line in found if "answers: 1 of 2 on test have more tokens than max_new_tokens (16)" in line)
    assert int(answers.rpartition("to do: max_new_tokens: ")[2]) > 40
    assert any("prompts: 1 of 2 on test, with 16 for the answer, exceed embedded's window of 512" in line for line in found)


def test_prompts_are_counted_as_the_model_is_asked(embedded: LanguageModel, tmp_path: Path) -> None:
    task = load_task(ROOT / "tasks" / "ticket_triage")
    longest = max(len(embedded.prompt_ids(build_messages(task, example.input))) for example in task.test)
    assert f"at most {longest} of a window of 512" in one(validate(ROOT / "tasks" / "ticket_triage"), "lengths on test (embedded, tokens)")
    plain = tmp_path / "plain"
    shutil.copytree(EMBEDDED_FOLDER, plain)
    (plain / "chat_template.jinja").unlink()
    model = LanguageModel(locate(str(plain)))
    without = max(len(model.prompt_ids(build_messages(task, example.input))) for example in task.test)
    lines = validate(ROOT / "tasks" / "ticket_triage", model=str(plain))
    assert f"at most {without} of a window of 512" in one(lines, "lengths on test")
    assert one(lines, "note: ").startswith(f"note: model {plain}: its tokenizer has no chat template")
    encoder = one(validate(ROOT / "tasks" / "ticket_triage", model="all-MiniLM-L6-v2"), "lengths on test (all-MiniLM-L6-v2, tokens)")
    assert int(encoder.split("at most ")[1].split()[0]) < longest  # the input alone


def test_a_model_without_such_a_tokenizer_is_counted_in_words(tmp_path: Path) -> None:
    new_task(tmp_path / "q", "qa")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama", "max_position_embeddings": 64}')
    lines = validate(tmp_path / "q", model=str(tmp_path / "model"))
    assert any(line.startswith(f"lengths on test ({tmp_path}/model, words): ") for line in lines)
    with pytest.raises(BenchError, match=r"model \./nowhere"):
        validate(tmp_path / "q", model="./nowhere")


def test_every_warning_says_what_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    new_task(folder, "classification")
    long = "a long message of a customer with more than a few words in it so that shingles count in full number"
    rows(folder, "train", [{"message": f"note {i} of x{i}", "label": "billing"} for i in range(20)] + [{"message": long, "label": "other"}])
    (folder / "validation.jsonl").unlink()
    rows(folder, "test", [{"message": long + " please", "label": "other"}, {"message": "the same", "label": "other"}] * 2)
    lines = validate(folder)
    found = warnings(lines)
    for part in (
        "validation: no file", "no training example", "repeat the input of another one", "nearly repeat", "is 9", "fewer than 3 test items",
        "independent items show only differences of",
    ):  # fmt: skip
        assert any(part in line for line in found), part
    assert all("; to do: " in line and not line.endswith("see docs/add-a-task.md") for line in found)
    assert any(line.startswith("leakage: 1 warnings") for line in lines)


def test_a_large_enough_test_set_needs_157_items(tmp_path: Path) -> None:
    new_task(tmp_path / "q", "qa")
    for number, enough in ((156, False), (157, True)):
        rows(tmp_path / "q", "test", [{"question": f"w{i} v{i} u{i}?", "answers": ["x"], "passage_ids": []} for i in range(number)])
        assert len(load_task(tmp_path / "q").test) == number
        assert any("to do: have 157 for 10 points" in line for line in validate(tmp_path / "q")) is not enough
