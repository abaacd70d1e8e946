"""The benchmarks' own arithmetic and measuring; what they measure is run by ``make benchmarks``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import agree, report
from benchmarks.growth import Curve, draw, slope
from benchmarks.material import choice_rows, tuning_rows, words, write_lm_eval_task
from benchmarks.measure import measure
from benchmarks.workload import Goal

BUSY = "import time\nwhile time.process_time() < {seconds}: pass\n"
DAEMON = f"""
import os, subprocess, sys
# Twice removed and in a session of its own: its parent ends at once, and nobody waits for it.
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        subprocess.run([sys.executable, "-c", {BUSY.format(seconds=0.6)!r}])
    os._exit(0)
"""


def test_the_work_of_a_daemon_is_counted_and_waited_for(tmp_path: Path) -> None:
    used = measure([sys.executable, "-c", DAEMON], tmp_path / "log")
    assert used.cpu_seconds >= 0.6
    assert used.wall_seconds < used.cpu_seconds + 60
    idle = measure([sys.executable, "-c", "pass"], tmp_path / "log")
    assert idle.cpu_seconds < 0.6


def test_memory_is_that_of_the_command_not_of_the_measuring_process(tmp_path: Path) -> None:
    held = bytearray(300 << 20)  # were it inherited, the command would seem to take as much
    small = measure([sys.executable, "-c", "pass"], tmp_path / "log")
    large = measure([sys.executable, "-c", "x = bytearray(b'x') * (200 << 20)"], tmp_path / "log")
    assert small.peak_bytes < 150 << 20 < 200 << 20 <= large.peak_bytes
    del held


def test_a_command_that_fails_is_an_error_with_the_end_of_its_output(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)exit code 3 .*what went wrong"):
        measure([sys.executable, "-c", "import sys; print('what went wrong'); sys.exit(3)"], tmp_path / "log")
    with pytest.raises(RuntimeError, match="exit code 137"):
        measure([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], tmp_path / "log")


def test_the_environment_of_a_command_is_added_to(tmp_path: Path) -> None:
    measure([sys.executable, "-c", "import os; print(os.environ['A'], 'PATH' in os.environ)"], tmp_path / "log", {"A": "b"}, tmp_path)
    assert (tmp_path / "log").read_text() == "b True\n"


# ---------------------------------------------------------------------------------------------- agreement


def test_choices_that_agree() -> None:
    said = agree.choices({"a": [-1.0, -2.0], "b": [-3.0, -3.00005]}, {"a": [-1.0, -2.0005], "b": [-3.00005, -3.0]})
    assert said == "2 items, 4 options: log-probabilities within 5.0e-04, 1 choices equal, 1 tied"


@pytest.mark.parametrize(
    ("peer", "message"),
    [
        ({"a": [-1.0, -2.002], "b": [0.0, -1.0]}, "item a, option 1: log-probability -2.000000 here, -2.002000"),
        ({"a": [-1.0, -2.0], "b": [0.0, float("nan")]}, "item b, option 1"),
        ({"a": [-1.0, -2.0]}, "2 items here, 1 at the peer; b"),
        ({"a": [-1.0, -2.0, -3.0], "b": [0.0, -1.0]}, "item a: 2 options here, 3 at the peer"),
    ],
)
def test_a_planted_difference_in_choices_is_found(peer: dict[str, list[float]], message: str) -> None:
    with pytest.raises(agree.DisagreementError, match=message):
        agree.choices({"a": [-1.0, -2.0], "b": [0.0, -1.0]}, peer)


def test_another_choice_within_the_tolerance_is_still_a_difference_unless_tied() -> None:
    with pytest.raises(agree.DisagreementError, match="item a: option 0 chosen here, 1 at the peer"):
        agree.choices({"a": [-1.0, -1.0001]}, {"a": [-1.0005, -1.0001]})


def test_texts() -> None:
    assert agree.texts({"a": "x", "b": "y"}, {"b": "y", "a": "x"}) == "2 items: 2 texts equal, 0 tied"
    assert agree.texts({"a": "x"}, {"a": "z"}, {"a": 5e-5}) == "1 items: 0 texts equal, 1 tied"
    for gaps in (None, {}, {"a": 2e-4}, {"a": float("nan")}):
        with pytest.raises(agree.DisagreementError, match="item a: 'x' here, 'z' at the peer"):
            agree.texts({"a": "x"}, {"a": "z"}, gaps)


def test_tokens() -> None:
    agree.tokens([[[1, 2], [3]]], [[[1, 2], [3]]])
    with pytest.raises(agree.DisagreementError, match="request 0 has other tokens"):
        agree.tokens([[[1, 2], [3]]], [[[1], [2, 3]]])
    with pytest.raises(agree.DisagreementError, match="1 requests here, 0 at the peer"):
        agree.tokens([[[1]]], [])


def test_losses() -> None:
    assert "1.0900 after here" in agree.losses(1.09, 1.0, 3.0, 0.05)
    with pytest.raises(agree.DisagreementError, match=r"within 5\.0% of the fall"):
        agree.losses(1.11, 1.0, 3.0, 0.05)
    with pytest.raises(agree.DisagreementError, match=r"3\.0000 before it"):
        agree.losses(3.0, 2.99, 3.0, 0.05)
    with pytest.raises(agree.DisagreementError):
        agree.losses(1.0, float("nan"), 3.0, 0.05)


def test_hits() -> None:
    assert agree.hits([[4, 7]], [[0.9, 0.8]], [[4, 7]]) == "1 queries: the same passages, 0 at tied places"
    assert agree.hits([[4, 7]], [[0.9, 0.89999]], [[7, 4]]) == "1 queries: the same passages, 2 at tied places"
    with pytest.raises(agree.DisagreementError, match="query 0"):
        agree.hits([[4, 7]], [[0.9, 0.8]], [[7, 4]])
    with pytest.raises(agree.DisagreementError, match="query 0"):
        agree.hits([[4, 7]], [[0.9, 0.8]], [[5, 7]])


# ---------------------------------------------------------------------------------------------- ratios and the report


def result(goal: Goal | None, ours: list[float], peer: list[float], clock: str = "cpu") -> dict[str, Any]:
    """A workload's entry in results.json with only a whole process measured."""

    def reading(seconds: float) -> dict[str, Any]:
        other = "wall" if clock == "cpu" else "cpu"
        return {f"{clock}_seconds": seconds, f"{other}_seconds": 99.0, "peak_bytes": 1, "started": 0.0, "phase_seconds": None}

    return {
        "name": "w", "title": "a workload", "peer_name": "a peer", "clock": clock, "agreement": ["all equal"] if peer else [],
        "goals": {"phase": None, "whole": vars(goal) if goal else None},
        "ours": [reading(s) for s in ours], "peer": [reading(s) for s in peer],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("goal", "ours", "peer", "ratio", "spread", "met"),
    [
        (Goal("faster", 3), [2.0, 1.0, 4.0], [6.0, 6.0, 4.0], 3.0, (1.0, 6.0), True),
        (Goal("faster", 3.1), [2.0, 1.0, 4.0], [6.0, 6.0, 4.0], 3.0, (1.0, 6.0), False),
        (Goal("times", 1.1), [1.1], [1.0], 1.1, (1.1, 1.1), True),
        (Goal("times", 1.1), [1.2], [1.0], 1.2, (1.2, 1.2), False),
        (Goal("seconds", 3), [2.0, 9.0, 1.0], [], 2.0, (1.0, 9.0), True),
        (Goal("seconds", 3), [4.0], [], 4.0, (4.0, 4.0), False),
        (None, [2.0], [3.0], 1.5, (1.5, 1.5), None),
    ],
)
def test_the_ratio_is_that_of_the_medians(
    goal: Goal | None, ours: list[float], peer: list[float], ratio: float, spread: tuple[float, float], met: bool | None
) -> None:
    (found,) = report.rows(result(goal, ours, peer))
    assert found.ratio == pytest.approx(ratio)
    assert found.spread == pytest.approx(spread)
    assert found.met is met


def whole_report(*results: dict[str, Any], **more: Any) -> dict[str, Any]:
    machine = {"processor": "a processor", "cores": 2, "memory_bytes": 8 << 30, "system": "Linux"}
    head = {"date": "2026-01-01", "commit": "abc", "command": "run it", "machine": machine, "ours": {"torch": "2.13.0"}, "peers": {}}
    return {"header": head, "workloads": list(results), "failed": {}, "growth": []} | more


def test_a_missed_goal_and_a_failed_workload_are_marked_so() -> None:
    text = report.markdown(
        whole_report(
            result(Goal("faster", 3), [1.0], [2.0]), result(Goal("seconds", 3), [2.5], [], "wall"), failed={"other": "DisagreementError: x"}
        )
    )
    assert "1 of 2 goals met; **1 workloads failed**, see below." in text
    missed, met = (line for line in text.splitlines() if line.startswith("| a workload"))
    assert missed.endswith("| 1.00 s (wall 99.00 s) | 2.00 s (wall 99.00 s) | 2.00 x faster | 2.00 to 2.00 | ≥ 3 x faster | **missed** |")
    assert met.endswith("| whole, wall | 2.50 s |  |  | 2.50 to 2.50 | ≤ 3 s | met |")
    assert "- other: DisagreementError: x" in text
    assert "- a workload: all equal" in text
    assert "torch 2.13.0" in text
    assert "Peers: not installed" in text


def test_what_is_measured_again_takes_its_place_and_the_header_says_so() -> None:
    goal = Goal("faster", 2)
    first, second, third = (result(goal, [1.0], [x]) | {"name": name} for name, x in (("a", 3.0), ("b", 1.5), ("c", 4.0)))
    earlier = whole_report(first, second, failed={"c": "no network"})
    again = report.measured_again(earlier, earlier["header"] | {"commit": "fffffff", "command": "python -m benchmarks --only b c"})
    for found in (third, second | {"ours": [{**second["ours"][0], "cpu_seconds": 0.5}]}):
        report.put(again["workloads"], found, ["a", "b", "c"])
    assert [w["name"] for w in again["workloads"]] == ["a", "b", "c"]
    text = report.markdown(again)
    assert "measured again at commit fffffff" in text
    assert "--only b c" in text
    assert "**missed**" not in text


def test_the_report_tells_growth_that_is_more_than_linear() -> None:
    points = [{"size": n, "values": {"CPU seconds": n**1.5, "peak GiB": 1.0}} for n in (10, 100, 1000)]
    growing = {"name": "g", "title": "It grows", "axis": "things", "points": points, "slopes": {"CPU seconds": 1.5, "peak GiB": 0.0}}
    text = report.markdown(whole_report(growth=[growing]))
    assert "CPU seconds 1.50 **(more than linear)**, peak GiB 0.00." in text
    assert "| 1,000 | 31,623 | 1.00 |" in text


# ---------------------------------------------------------------------------------------------- growth


def test_the_slope_is_that_of_the_upper_half() -> None:
    sizes = [1, 10, 100, 1000]
    assert slope(sizes, [5.0, 5.0, 5.0, 50.0]) == pytest.approx(1.0)
    assert slope(sizes, [5.0, 5.0, 5.0, 5.0]) == pytest.approx(0.0)
    assert slope([0, 1, 2, 4], [1.0, 1.0, 3.0, 12.0]) == pytest.approx(2.0)


def test_a_curve_measures_each_size_in_a_folder_of_its_own(tmp_path: Path) -> None:
    places = []

    def once(place: Path, size: int) -> dict[str, float]:
        places.append(place)
        return {"CPU seconds": float(size)}

    found = Curve("x", "X", "sizes", (1, 10), once).measure(tmp_path)
    assert len(set(places)) == 2
    assert found["points"] == [{"size": 1, "values": {"CPU seconds": 1.0}}, {"size": 10, "values": {"CPU seconds": 10.0}}]
    assert found["slopes"]["CPU seconds"] == pytest.approx(1.0)


def test_the_figure_is_the_same_for_the_same_data(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    one = {"axis": "shots", "points": [{"size": n, "values": {"CPU seconds": n + 1.0}} for n in (0, 1, 2)]}
    for name in ("a.svg", "b.svg"):
        draw([one], tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert "shots" in (tmp_path / "a.svg").read_text()


# ---------------------------------------------------------------------------------------------- what is generated


def test_generated_words_are_one_token_each() -> None:
    from transformers import AutoTokenizer

    from bench.model.source import EMBEDDED_FOLDER

    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_FOLDER)
    found = words()
    assert len(found) > 1000
    assert all(len(ids) == 1 for ids in tokenizer([f" {word}" for word in found], add_special_tokens=False)["input_ids"])


def test_generated_rows_are_the_same_each_time_and_their_options_in_question() -> None:
    rows = choice_rows(20, "test", (15, 20), (3, 6))
    assert rows == choice_rows(20, "test", (15, 20), (3, 6))
    assert rows[:10] == choice_rows(10, "test", (15, 20), (3, 6))
    assert all(row["options"][row["gold"]] == row["answer"] and len(set(row["options"])) == 4 for row in rows)
    assert all(15 <= len(row["question"].split()) <= 20 for row in rows)
    (lettered,) = choice_rows(1, "test", (15, 20), (1, 2), shown=True)
    assert lettered["options"] == ["A", "B", "C", "D"]
    assert "\nD. " in lettered["question"]
    for row in tuning_rows(20, "train", (3, 119)):
        assert row["question"].startswith(row["answer"])


def test_a_task_for_lm_eval_has_the_shots_in_their_order(tmp_path: Path) -> None:
    shots = [{"id": "b", "question": "q", "answer": "y"}, {"id": "a", "question": "p", "answer": "x"}]
    write_lm_eval_task(tmp_path, "t", "Answer.", shots, [{"id": "c", "question": "r", "answer": "z"}], 16, ["\n"])
    assert [json.loads(line)["id"] for line in (tmp_path / "t.shots.jsonl").read_text().splitlines()] == ["b", "a"]
    assert "num_fewshot: 2" in (tmp_path / "t.yaml").read_text()
