"""How rows are grouped and split."""

from __future__ import annotations

import random
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import BenchError
from bench.task.split import assign, group, shares

SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}


def test_groups_are_joined_through_each_other() -> None:
    inputs = ["one two three", "One  two three", "four five six", "seven eight nine", "ten eleven twelve"]
    groups = group(inputs, [None, "a", "a", None, None])
    assert groups[0] == groups[1] == groups[2]
    assert len(set(groups)) == 3


def test_near_duplicates_without_spaces_are_found_by_characters() -> None:
    text = "请问我怎样才能修改银行账户里面登记的手机号码以及家庭住址呢"
    groups = group([text, text + "谢谢", "今天天气怎么样，适合出去散步吗"], [None] * 3)
    assert groups[0] == groups[1] != groups[2]


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from("abcd")), min_size=6, max_size=80), st.integers(0, 3))
def test_no_group_is_cut_and_none_is_empty(rows: list[tuple[int, str]], seed: int) -> None:
    groups, labels = [g for g, _ in rows], [label for _, label in rows]
    if len(set(groups)) < 3:
        return
    split = assign(groups, labels, SHARES, seed)
    assert set(split) == set(SHARES)
    assert len(set(zip(groups, split, strict=True))) == len(set(groups))
    assert split == assign(groups, labels, SHARES, seed)


def test_each_label_with_three_rows_is_in_each_split_and_shares_hold() -> None:
    labels = [label for number in range(40) for label in [f"l{number}"] * (3 + number)]
    random.Random(0).shuffle(labels)
    split = assign(range(len(labels)), labels, SHARES, 0)
    found = Counter(zip(labels, split, strict=True))
    assert all(found[label, name] >= 1 for label in set(labels) for name in SHARES)
    for name, share in SHARES.items():
        assert abs(split.count(name) / len(labels) - share) < 0.03
        assert all(abs(found[f"l{n}", name] - share * (3 + n)) <= 1.2 for n in range(10, 40))


def test_near_duplicates_are_those_that_comparing_all_pairs_finds() -> None:
    generator = random.Random(1)
    inputs = []
    for number in range(60):
        base = [f"w{generator.randrange(400)}" for _ in range(14)]
        inputs += [" ".join(base), " ".join([*base, f"x{number}"]), " ".join([f"y{number}", *base[:7], f"z{number}", *base[7:]])]
    sets = [{tuple(text.split()[i : i + 3]) for i in range(len(text.split()) - 2)} for text in inputs]
    groups = group(inputs, [None] * len(inputs))
    for i, one in enumerate(sets):
        for j, other in enumerate(sets[:i]):
            if len(one & other) / len(one | other) >= 0.8:
                assert groups[i] == groups[j]
    assert len(set(groups)) == 120  # the first two of each three


def test_many_rows_of_one_template_are_one_group_in_no_time() -> None:
    text = "please tell me about the product and all that belongs to it in our shop as soon as you can, item "
    start = time.process_time()
    assert len(set(group([f"{text}{number}" for number in range(3000)], [None] * 3000))) == 1
    assert time.process_time() - start < 5


def test_too_few_groups() -> None:
    with pytest.raises(BenchError, match="found 4 rows in 2 groups"):
        assign([1, 1, 2, 2], ["a"] * 4, SHARES, 0)


@pytest.mark.parametrize("given_", ["0.5,0.5", "1,0,0", "0.6,0.2,0.3", "a,b,c", "", "nan,0.5,0.5"])
def test_shares_that_are_none(given_: str) -> None:
    with pytest.raises(BenchError, match="--split: found"):
        shares(given_)
    assert shares("0.5, 0.25,0.25") == {"train": 0.5, "validation": 0.25, "test": 0.25}
