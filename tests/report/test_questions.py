from __future__ import annotations

import json
from typing import Any

from bench.report.model import Answer, Candidate, Question, TaskEvidence
from bench.report.questions import ALL_WRONG, CORRECTED, DISAGREEMENT, NEW_ERROR, UNANSWERABLE, choose, packed

OUTCOME = {"+": "correct", "-": "incorrect", "0": "abstained"}


def answer(sign: str, **changes: Any) -> Answer:
    known = {"prediction": sign, "score": float(sign == "+"), "outcome": OUTCOME[sign], "error": None, "retrieved": None, "cited": None}
    return Answer(**{**known, **changes})


def question(name: str, signs: str, **changes: Any) -> Question:
    """Answers of the strategies a, b, c, ... by sign: + right, - wrong, 0 abstained."""
    known = {"id": name, "text": f"what is {name}?", "targets": ("x",), "gold": (), "cluster": name}
    return Question(**{**known, "answers": {s: answer(sign) for s, sign in zip("abcd", signs, strict=False)}, **changes})


def task(questions: list[Question], standings: str = "cccc", **changes: Any) -> TaskEvidence:
    names = {"c": "contender", "f": "floor", "o": "oracle", "x": "failed"}
    candidates = tuple(
        Candidate(strategy, names[standing], None, "", "prompting", {}, {}, 1, 1)  # type: ignore[arg-type]
        for strategy, standing in zip("abcd", standings, strict=False)
    )
    known = {"task": "t", "model": "m", "metric": "exact_match", "higher_is_better": True, "is_share": True, "pairs": ()}
    return TaskEvidence(**{**known, "candidates": candidates, "questions": tuple(questions), **changes})


def by_rule(evidence: TaskEvidence, *names: Any, **options: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for chosen in choose(evidence, *names, **options):
        found.setdefault(chosen.rule, []).append(chosen.question)
    return found


def test_each_rule_finds_its_item() -> None:
    evidence = task([
        question("same", "++++"),
        question("even", "++00"),
        question("corrected", "-+++"),
        question("silent", "0+++"),
        question("broken", "+-++"),
        question("nobody", "-0--"),
        question("unknowable", "0-00", answerable=False),
    ])  # fmt: skip
    found = by_rule(evidence, "a", "b")
    assert found == {
        DISAGREEMENT: ["even", "silent"],
        CORRECTED: ["corrected"],
        # Where there is no answer, abstaining is right and answering a new error: the first rule that applies has the item.
        NEW_ERROR: ["broken", "unknowable"],
        ALL_WRONG: ["nobody"],
    }
    found = by_rule(evidence, None, None)
    assert found == {DISAGREEMENT: ["even", "corrected", "silent", "broken"], UNANSWERABLE: ["unknowable"], ALL_WRONG: ["nobody"]}


def test_why_says_who_is_right() -> None:
    evidence = task([question("corrected", "-+0+")])
    assert [c.why for c in choose(evidence, "a", "b")] == ["a answered and was wrong, b is right; 2 of 4 strategies are right"]
    assert [c.why for c in choose(evidence, None, None)] == ["2 of 4 strategies are right"]


def test_the_most_even_split_comes_first_and_ties_keep_their_order() -> None:
    evidence = task([question("q1", "+---"), question("q2", "++--"), question("q3", "+++-"), question("q4", "-+-+")])
    assert by_rule(evidence, None, None) == {DISAGREEMENT: ["q2", "q4", "q1", "q3"]}
    assert by_rule(evidence, None, None, limit=1) == {DISAGREEMENT: ["q2"]}


def test_a_cluster_gives_a_second_item_only_when_no_other_is_left() -> None:
    split = [question("q1", "++--", cluster="x"), question("q2", "++--", cluster="x"), question("q3", "+---", cluster="y")]
    assert by_rule(task(split), None, None, limit=2) == {DISAGREEMENT: ["q1", "q3"]}
    assert by_rule(task(split), None, None) == {DISAGREEMENT: ["q1", "q3", "q2"]}


def test_one_rule_does_not_crowd_out_the_others() -> None:
    many = [question(f"fixed{i}", "-+++") for i in range(20)] + [question("broken", "+-++"), question("nobody", "----")]
    found = by_rule(task(many), "a", "b", limit=8)
    assert found[CORRECTED] == ["fixed0", "fixed1"]
    assert (found[NEW_ERROR], found[ALL_WRONG]) == (["broken"], ["nobody"])
    assert sum(map(len, found.values())) == 8


def test_floors_and_oracles_have_no_say() -> None:
    evidence = task([question("q1", "--+0")], standings="ccfo")
    assert by_rule(evidence, None, None) == {ALL_WRONG: ["q1"]}


def test_graded_scores_are_as_informative_as_they_are_spread() -> None:
    def graded(name: str, *scores: float) -> Question:
        return question(name, "", answers={s: answer("+", score=score) for s, score in zip("abcd", scores, strict=True)})

    evidence = task([graded("alike", 0.5, 0.5, 0.5, 0.5), graded("near", 0.4, 0.5, 0.5, 0.6), graded("far", 0.1, 0.9, 0.2, 0.8)])
    chosen = choose(evidence, None, None)
    assert [c.question for c in chosen] == ["far", "near"]
    assert chosen[0].why == "scores from 0.10 to 0.90 over 4 strategies"


def test_nothing_to_choose_from() -> None:
    assert choose(task([]), "a", "b") == []
    assert choose(task([question("q", "+")], standings="c"), "a", "a") == []
    # A strategy that failed has no answers: its rules find nothing.
    assert by_rule(task([question("q", "+-")], standings="ccx"), "d", "a") == {DISAGREEMENT: ["q"]}


def test_a_tuned_baseline_that_has_no_score_is_taken_by_right_and_wrong() -> None:
    unscored = {s: answer(sign, score=None) for s, sign in zip("ab", "+-", strict=True)}
    assert by_rule(task([question("q", "", answers=unscored)]), None, None) == {DISAGREEMENT: ["q"]}


# ------------------------------------------------------------------------------------------ packed


def unpacked(data: dict[str, Any]) -> dict[tuple[str, str], Answer]:
    """(question, strategy) -> answer, as a reader of the page's data would make it."""
    texts, documents = data["texts"], [data["texts"][place] for place, _ in data["documents"]]
    found = {}
    for strategy, lists in data["answers"].items():
        for row, identity in enumerate(data["questions"]["id"]):
            if lists["prediction"][row] is None:
                continue
            error = lists["error"][row]
            read = [(lists[key][row] if key in lists else None) for key in ("retrieved", "cited")]
            found[texts[identity], strategy] = Answer(
                texts[lists["prediction"][row]], lists["score"][row], data["outcomes"][lists["outcome"][row]],
                None if error is None else texts[error], *(None if ids is None else tuple(documents[i] for i in ids) for ids in read),
            )  # fmt: skip
    return found


def test_packed_holds_everything_and_every_text_once() -> None:
    hostile = "</script><!-- \x1b[31m"
    evidence = task(
        [
            question("q1", "", gold=("d2",), answers={"a": answer("-", prediction=hostile, error="fabricated", retrieved=("d1", "d2"))}),
            question(
                "q2", "", text=None, answerable=False, answers={"a": answer("+", prediction=hostile, score=0.123456), "b": answer("0")}
            ),
            question("q3", "", answers={"a": answer("+", retrieved=(), cited=("d9",))}),
        ],
        standings="cccx",
        passages={"d1": "one", "d2": "two"},
    )
    data = json.loads(json.dumps(packed(evidence)))
    assert len(set(data["texts"])) == len(data["texts"])
    asked = data["questions"]
    text = [None if place is None else data["texts"][place] for place in asked["text"]]
    assert text == ["what is q1?", None, "what is q3?"]
    assert asked["answerable"] == [1, 0, 1]
    assert [[data["texts"][place] for place in targets] for targets in asked["targets"]] == [["x"], ["x"], ["x"]]
    documents = [[None if place is None else data["texts"][place] for place in pair] for pair in data["documents"]]
    assert documents == [["d1", "one"], ["d2", "two"], ["d9", None]]
    assert [[documents[i][0] for i in gold] for gold in asked["gold"]] == [["d2"], [], []]
    found = unpacked(data)
    assert found.keys() == {("q1", "a"), ("q2", "a"), ("q2", "b"), ("q3", "a")}
    assert found["q1", "a"] == evidence.questions[0].answers["a"]
    assert found["q2", "a"] == answer("+", prediction=hostile, score=0.1235)
    assert found["q3", "a"] == evidence.questions[2].answers["a"]
    assert "retrieved" not in data["answers"]["b"]
