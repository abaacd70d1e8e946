"""Scripts without spaces between words are scored by characters; all other text as ever, to the bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rouge_score.rouge_scorer import RougeScorer

from bench.metric.grounding import KPrecision
from bench.metric.overlap import ExactMatch, Rouge1, RougeL, RougeLsum, TokenF1
from bench.metric.text import is_abstention, is_unspaced, normalize, stands_in, tokens, words

TASKS = Path(__file__).parents[2] / "tasks"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("iPhone很好。2020年", ["iphone", "很", "好", "2020", "年"]),
        ("コーヒー、です", ["コ", "ー", "ヒ", "ー", "で", "す"]),
        ("ที่นี่", ["ที่", "นี่"]),  # a letter and its marks are one character
        ("한국어 단어", ["한국어", "단어"]),  # Korean has spaces
        ("مرحبا بالعالم", ["مرحبا", "بالعالم"]),
        ("caf\u00e9 — na\u00efve", ["caf\u00e9", "—", "na\u00efve"]),
        ("👍 好", ["好"]),
        ("👍", ["👍"]),
        ("。", ["。"]),
        ("", []),
    ],
)
def test_tokens(text: str, expected: list[str]) -> None:
    assert tokens(text) == expected


def test_scores_by_character() -> None:
    assert TokenF1().match("北京很大", "北京大学") == pytest.approx(0.75)  # 3 of 4 and 4 characters
    assert TokenF1().match("北京", "上海") == 0
    assert ExactMatch().match("北京 大学。", "北京大学") == 1
    assert Rouge1().match("北京很大", "北京大学") == pytest.approx(0.75)
    assert RougeL().match("大北京很", "北京大学") == pytest.approx(0.5)
    assert RougeLsum().match("我来。他走。", "他走。我来。") == 1
    assert KPrecision().compute(predictions=["北京很大"], references=["北京是大城市"])["k_precision"] == pytest.approx(0.75)
    assert stands_in("北京", "我在北京。")
    assert not stands_in("京北", "我在北京。")
    assert is_abstention("不知道。", ["不知道"])


def test_other_alphabets_have_a_rouge() -> None:
    assert RougeL().match("مرحبا يا عالم", "مرحبا يا صديق") == pytest.approx(2 / 3)
    assert RougeL().match("Москва это город", "москва город") == pytest.approx(0.8)
    assert words("नमस्ते दुनिया") == ["नमस्ते", "दुनिया"]


def test_latin_text_with_some_other_letters_is_scored_as_ever() -> None:
    one, other = "The α-helix of the café binds β", "An α-helix in cafés binding β sheets"
    assert RougeL().match(one, other) == RougeScorer(["rougeL"], use_stemmer=True).score(other, one)["rougeL"].fmeasure


def test_the_texts_of_this_project_are_cut_as_ever() -> None:
    scorer, own, checked = RougeScorer(["rouge1"], use_stemmer=True), Rouge1(), 0
    for path in sorted(TASKS.glob("*/*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines()[::7]:
            for text in (str(value) for value in json.loads(line).values()):
                assert not is_unspaced(text)
                assert tokens(text) == normalize(text).split()
                if checked % 50 == 0:  # stemming takes its time
                    assert own.match(text, line) == scorer.score(line, text)["rouge1"].fmeasure
                checked += 1
    assert checked > 1000
