"""The task whose answers take two facts: what its passages tell, and that reasoning pays on it."""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bench.strategy.prompt import build_messages, parse
from bench.strategy.spec import PromptChoice
from bench.task.load import load_task
from bench.world import entities as e
from bench.world.draft import Draft, Row
from bench.world.reasoning import product_reasoning
from bench.world.tasks import TASKS_SEED

COMMITTED = Path(__file__).parents[2] / "tasks" / "product_reasoning"
STEPS = PromptChoice(chain_of_thought="Think step by step.")


@pytest.fixture(params=(TASKS_SEED, 1, 2))
def draft(request: pytest.FixtureRequest) -> Draft:
    return product_reasoning(random.Random(f"{request.param}/product_reasoning"))


def all_rows(draft: Draft) -> list[Row]:
    return [*draft.train, *draft.validation, *draft.test]


def test_a_product_occurs_in_one_pair_and_a_pair_in_one_split(draft: Draft) -> None:
    pairs = [{r["products"] for r in rows} for rows in (draft.train, draft.validation, draft.test)]
    assert [len(p) for p in pairs] == [100, 100, 200]
    products = [name for split in pairs for pair in split for name in pair.split(", ")]
    assert len(products) == len(set(products)) == 800
    assert set(products) <= set(e.names("context"))


def test_each_pair_has_two_questions_and_every_second_pair_a_comparison(draft: Draft) -> None:
    for rows in (draft.train, draft.validation, draft.test):
        kinds: dict[str, list[str]] = {}
        for row in rows:
            kinds.setdefault(row["products"], []).append(row["kind"])
        share = len(rows) // 4
        assert Counter(tuple(sorted(k)) for k in kinds.values()) == {("comparison", "two_hop"): share, ("two_hop", "two_hop"): share}


def test_the_passages_tell_the_answer_and_the_rationale_says_how(draft: Draft) -> None:
    for row in all_rows(draft):
        lines = [line.split("] ", 1)[1] for line in row["passages"].splitlines()]
        seats = dict(line.removesuffix(".").split(" is based in ") for line in lines if " is based in " in line)
        assert (len(lines), len(seats), len(set(seats.values()))) == (4, 2, 2)
        pages = {name: page_of(name, lines) for name in row["products"].split(", ")}
        if row["kind"] == "two_hop":
            (asked,) = (name for name in pages if f" {name} based?" in row["question"] or f" {name} is based?" in row["question"])
            (maker,) = (m for m in seats if m in pages[asked])
            assert row["answer"] == seats[maker]
            assert row["rationale"] == f"The maker of {asked} is {maker}. {maker} is based in {seats[maker]}."
            assert not any(asked in line and seats[maker] in line for line in lines)
        else:
            a, b = row["question"].removesuffix("?").split(", ")[1].split(" or ")
            weight = {name: int(page.split(" grams")[0].split()[-1]) for name, page in pages.items()}
            assert weight[a] != weight[b]
            assert row["answer"] == (a if (weight[a] > weight[b]) == ("heavier" in row["question"]) else b)
            assert row["rationale"] == f"{a} weighs {weight[a]} grams. {b} weighs {weight[b]} grams."


def page_of(name: str, lines: list[str]) -> str:
    """The one passage on a product; another product's name may begin with its name."""
    (page,) = (line for line in lines if re.search(rf"\b{name}\b(?! (?:{'|'.join(e.MODEL_WORDS)}))", line))
    return page


def test_place_tells_nothing(draft: Draft) -> None:
    hops = [r for r in all_rows(draft) if r["kind"] == "two_hop"]
    comparisons = [r for r in all_rows(draft) if r["kind"] == "comparison"]
    assert 0.4 < sum(f"{r['answer']} or " in r["question"] for r in comparisons) / 200 < 0.6
    assert 0.4 < sum("heavier" in r["question"] for r in comparisons) / 200 < 0.6
    assert 0.4 < sum(re.findall(r"is based in (\w+)", r["passages"]).index(r["answer"]) for r in hops) / 600 < 0.6


def test_reasoning_pays_on_the_shipped_base_model(embedded: Any) -> None:
    task = load_task(COMMITTED)
    hops = [x for x in task.test if x.slices["kind"] == "two_hop"][:48]
    right = []
    for choice, room in ((PromptChoice(), 8), (STEPS, 32)):
        prompts = [embedded.prompt_ids(build_messages(task, x.input, choice=choice)) for x in hops]
        answers = dict(pair for batch in embedded.generate(prompts, room) for pair in batch)
        right.append(sum(parse(choice, answers[i].text).answer == x.targets[0] for i, x in enumerate(hops)) / len(hops))
    assert right[0] < 0.75
    assert right[1] > 0.9


def test_three_worked_examples_with_their_reasoning_fit_the_window(embedded: Any) -> None:
    task = load_task(COMMITTED)
    length = {x.id: len(embedded.prompt_ids([{"role": "user", "content": x.input}])) for x in (*task.train, *task.test)}
    longest = sorted(task.train, key=lambda x: length[x.id])[-3:]
    asked = max(task.test, key=lambda x: length[x.id])
    prompt = embedded.prompt_ids(build_messages(task, asked.input, longest, choice=STEPS))
    assert len(prompt) + task.config.max_new_tokens + STEPS.reasoning_tokens <= embedded.window
