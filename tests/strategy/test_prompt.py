from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.errors import BenchError
from bench.strategy.prompt import answer_text, answer_tokens, build_messages, build_prompts, constant_answer, draw_shots, parse
from bench.strategy.spec import PromptChoice
from bench.task.schema import Example, Task, TaskConfig

PLAIN = PromptChoice()


def task(kind: str = "classification", n: int = 40, labels: int = 4, words: int = 6, **settings: Any) -> Task:
    config = TaskConfig(kind=kind, instruction="Sort it.", input="{{ x }}", target="y", metrics=["accuracy"], **settings)  # type: ignore[arg-type]
    rows = tuple(Example(str(i), f"message {i} " + "leak " * words, (f"label{i % labels}",), True, str(i)) for i in range(n))
    return Task("t", Path(), config, rows, rows[:5], rows[5:10], instruction="Sort it.")


def test_shots_are_one_nested_set_per_seed() -> None:
    t = task()
    assert draw_shots(t, 8, 0) == draw_shots(t, 8, 0)
    assert draw_shots(t, 4, 0) == draw_shots(t, 8, 0)[:4]
    assert draw_shots(t, 8, 0) != draw_shots(t, 8, 1)
    assert {s.id for s in draw_shots(t, 8, 0)} <= {e.id for e in t.train}


def test_classification_shots_show_every_label_before_one_twice() -> None:
    for seed in range(5):
        assert len({s.targets[0] for s in draw_shots(task(), 4, seed)}) == 4


def test_more_shots_than_examples_gives_all_of_them() -> None:
    assert len(draw_shots(task(n=3), 8, 0)) == 3


def test_the_conversation_in_order() -> None:
    t = task()
    shot = t.train[0]
    messages = build_messages(t, "the input", [shot], ["first", "second"])
    assert [m["role"] for m in messages] == ["user", "assistant", "user"]
    assert messages[0]["content"].startswith("Sort it.\n\nmessage 0")
    assert messages[2]["content"] == "[1] first\n[2] second\n\nthe input"
    assert build_messages(t, "the input") == [{"role": "user", "content": "Sort it.\n\nthe input"}]


def test_what_does_not_fit_gives_way_and_is_counted(embedded: Any) -> None:
    t = task(words=40)
    prompts = build_prompts(embedded, t, PLAIN, t.test, [t.train[:20]] * 5, [()] * 5)
    assert all(len(p.ids) + t.config.max_new_tokens <= embedded.window for p in prompts)
    assert all(p.truncated for p in prompts)
    assert len({len(p.messages) for p in prompts}) == 1  # all requests keep the same shots
    assert len(prompts[0].messages) > 3


def test_passages_give_way_from_the_last_one(embedded: Any) -> None:
    t = task()
    passages = [f"passage {i} " + "battery " * 90 for i in range(8)]
    prompt = build_prompts(embedded, t, PLAIN, t.test[:1], [()], [passages])[0]
    text = prompt.messages[-1]["content"]
    assert prompt.truncated
    assert "passage 0" in text
    assert "passage 7" not in text


def test_what_fits_is_left_alone(embedded: Any) -> None:
    t = task()
    prompt = build_prompts(embedded, t, PLAIN, t.test[:1], [t.train[:2]], [["a passage"]])[0]
    assert not prompt.truncated
    assert len(prompt.messages) == 5


def test_an_item_that_fits_no_window_is_named(embedded: Any) -> None:
    t = task()
    long = replace(t.test[0], id="item-7", input="leak " * 600)
    with pytest.raises(BenchError, match=r"item-7 takes .* window of embedded is 512"):
        build_prompts(embedded, t, PLAIN, [long], [()], [()])


def test_constant_answers() -> None:
    t = task(labels=3, abstain=["unknown"])
    assert constant_answer(t, "majority", t.test[0]) == "label0"
    assert constant_answer(t, "abstain", t.test[0]) == "unknown"
    example = replace(t.test[0], input="What came first? Then more. And more.")
    assert constant_answer(t, "first_sentence", example) == "What came first."


def test_the_wording_of_an_instruction_and_what_is_asked_for_beside_the_answer() -> None:
    t = task()
    wording = PromptChoice(instruction="Now: {{ instruction }}", chain_of_thought="Think.")
    assert build_messages(t, "x", choice=wording)[0]["content"] == "Now: Sort it. Think.\n\nx"
    cited = build_messages(t, "x", passages=["a"], choice=PromptChoice(cite=True))[0]["content"]
    assert cited.startswith("Sort it. After the answer give the number of the passage")


def test_shots_with_a_chain_of_thought_show_their_rationale() -> None:
    t = task()
    shot = replace(t.train[0], rationale="It leaks.")
    reasoned = PromptChoice(chain_of_thought="Think.")
    messages = build_messages(t, "x", [shot], choice=reasoned)
    assert messages[0]["content"].startswith("Sort it. Think.\n\nmessage 0")
    assert messages[1]["content"] == "It leaks. Answer: label0"
    assert messages[2]["content"] == "Think.\n\nx"
    assert build_messages(t, "x", [shot])[1]["content"] == "label0"
    assert answer_tokens(t, reasoned) == t.config.max_new_tokens + 64
    assert answer_tokens(t, PLAIN) == t.config.max_new_tokens


def test_a_training_target_cites_the_gold_passages_that_are_there() -> None:
    example = replace(task().train[0], evidence=("d2", "d9"))
    cite = PromptChoice(cite=True)
    assert answer_text(cite, example, ("d1", "d2", "d2")) == "label0 [2] [3]"
    assert answer_text(cite, example, ("d1",)) == "label0"
    assert answer_text(PLAIN, example, ("d2",)) == "label0"


@pytest.mark.parametrize(
    ("choice", "text", "answer", "reasoning", "cited"),
    [
        (PLAIN, "Because. Answer: red [2]", "Because. Answer: red [2]", None, None),
        (PromptChoice(chain_of_thought="Think."), "It is A. Answer: maybe. So Answer: red", "red", "It is A. Answer: maybe. So", None),
        (PromptChoice(chain_of_thought="Think."), "red", "red", None, None),
        (PromptChoice(cite=True), "red [2]", "red", None, (2,)),
        (PromptChoice(cite=True, chain_of_thought="Think."), "See [1]. Answer: red [2]", "red", "See [1].", (2,)),
    ],
)
def test_the_answer_in_what_the_model_wrote(
    choice: PromptChoice, text: str, answer: str, reasoning: str | None, cited: tuple[int, ...] | None
) -> None:
    found = parse(choice, text)
    assert (found.answer, found.reasoning, found.cited) == (answer, reasoning, cited)


def test_shots_chosen_for_a_request_lose_the_least_similar_first(embedded: Any) -> None:
    t = task(words=40)
    prompt = build_prompts(embedded, t, PromptChoice(shots=20, select="nearest"), t.test[:1], [t.train[:20]], [()])[0]
    assert prompt.truncated
    assert prompt.messages[-3]["content"] == t.train[19].input
    assert t.train[0].input not in prompt.messages[0]["content"]
