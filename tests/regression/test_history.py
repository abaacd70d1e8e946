"""The history's file, how lines become measures over time, and how they are shown."""

from __future__ import annotations

import base64
import fcntl
import json
import re
import threading
import zlib
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from regression.constructed_runs import METRIC, arm_of, scores, worse

from bench.errors import BenchError
from bench.regression.history import AcceptLine, CheckLine, Line, Measure, append, measure_of, read
from bench.regression.history_page import history_html
from bench.regression.history_text import history_table, sparkline
from bench.regression.track import Track, tracks_of
from bench.result.arms import Arm
from bench.result.compare import ArmScores, score_group

GOOD, BAD = f"{6:040x}", f"{7:040x}"


def measure(right: Any, strategy: str = "rag", verdict: Any = "pass", *, seeds: Any = None, **changes: Any) -> Measure:
    """Of items scored `right` (n,), or of several seeds' (S, n)."""
    arm = arm_of(strategy, [right] if seeds is None else seeds)
    (found,) = score_group([arm], metric=METRIC)
    assert found is not None
    return measure_of(arm, found, METRIC, higher_is_better=True, verdict=verdict).model_copy(update=changes)


def line(number: int, *measures: Measure, **changes: Any) -> CheckLine:
    values: dict[str, Any] = {
        "suite": "smoke", "run": "r", "when": f"2026-01-{number + 1:02d}", "commit": f"{number:040x}", "dirty": False,
        "environment": {"torch": "2.13.0"}, "verdict": "pass", "measures": measures,
    }  # fmt: skip
    return CheckLine(**values | changes)


def accepted(release: bool = True, **changes: Any) -> AcceptLine:
    values = {"suite": "smoke", "when": "2026-01-09", "who": "a@b.example", "reason": "shorter prompts", "release": release}
    return AcceptLine(**values | changes)


def dropped(count: int = 12, at: int = 7, **changes: Any) -> list[Line]:
    """200 items, 30 of 150 right ones lost at one check."""
    right = scores(200, 0.75)
    return [line(i, measure(right if i < at else worse(right, 0.15), **changes)) for i in range(count)]


def the_track(lines: Sequence[Line]) -> Track:
    (found,) = tracks_of(lines)
    return found


# ---------------------------------------------------------------------------------------------- measures


def test_a_measure_holds_what_the_arm_has() -> None:
    right = np.array([[1, 0, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0], [1, 0, 0, 1, 1, 1]], dtype=float)
    found = measure(None, seeds=right)
    assert found.key == ("questions", "rag", METRIC)
    assert found.value == pytest.approx(right.mean())
    assert (found.n_seeds, found.n_clusters) == (3, 6)
    assert found.seed_sd == pytest.approx(np.std([4 / 6, 4 / 6, 4 / 6], ddof=1) / np.sqrt(3))
    assert found.scores == pytest.approx(right.mean(axis=0), abs=1e-5)
    assert Measure.model_validate_json(found.model_dump_json()) == found


def test_the_spread_between_seeds_is_that_of_their_mean() -> None:
    seeds = [scores(200, share, seed) for seed, share in enumerate((0.5, 0.6, 0.7))]
    assert measure(None, seeds=seeds).seed_sd == pytest.approx(0.1 / np.sqrt(3))
    assert measure(seeds[0]).seed_sd is None


def test_scores_are_means_of_clusters_and_undefined_ones_stay_so() -> None:
    table = np.array([[1, 0, np.nan, np.nan, 0.25]])
    arm = arm_of("rag", [np.ones(5)])
    found = measure_of(
        arm, ArmScores(tuple(arm.items[0]), ("a", "a", "b", "b", "c"), table, np.array([0.4])), "f1", higher_is_better=True, verdict="pass"
    )
    assert found.scores is not None
    assert found.scores == pytest.approx([0.5, np.nan, 0.25], abs=1e-5, nan_ok=True)


def test_scores_beyond_shares_and_without_items_are_not_packed() -> None:
    arm = arm_of("rag", [np.ones(2)])
    for table in (np.array([[0.5, 1.5]]), np.empty((1, 0))):
        found = measure_of(
            arm, ArmScores(tuple(arm.items[0]), ("a", "b"), table, np.array([1.0])), "x", higher_is_better=True, verdict="pass"
        )
        assert found.scores is None


def test_macro_f1_is_followed_by_the_share_of_right_answers() -> None:
    right = scores(40, 0.7)
    arm = arm_of("rag", [right])
    (found,) = score_group([arm], metric="macro_f1")
    assert found is not None
    packed = measure_of(arm, found, "macro_f1", higher_is_better=True, verdict="pass").scores
    assert packed is not None
    assert packed.sum() == pytest.approx(right.sum(), abs=1e-3)


def test_what_trains_nothing_changes_only_with_the_code() -> None:
    def kind(arm: Arm) -> bool:
        (found,) = score_group([arm], metric=METRIC)
        assert found is not None
        return measure_of(arm, found, METRIC, higher_is_better=True, verdict="pass").deterministic

    right = scores(20, 0.5)
    assert kind(arm_of("few-shot", [right, right]))  # its examples depend on the seed, its weights do not
    assert not kind(arm_of("lora", [right, right], method="lora"))


def test_the_hash_tells_other_items_apart() -> None:
    right = scores(20, 0.5)
    one = measure(right)
    assert one.items == measure(1 - right).items
    assert one.items != measure(right[:19]).items
    assert len(one.items) == 12


def test_four_hundred_clusters_take_little_room() -> None:
    assert len(measure(scores(400, 0.7)).model_dump_json()) < 600


# ---------------------------------------------------------------------------------------------- the file


def test_lines_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "results" / "history.jsonl"
    lines: list[Line] = [line(0, measure(scores(20, 0.5)), costs={"a/rag prompt_tokens": 410.0}), accepted(), line(1)]
    for each in lines:
        append(path, each)
    assert read(path) == (tuple(lines), ())


def test_a_last_line_that_was_cut_off_is_left_out_and_cut_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    append(path, line(0))
    whole = path.read_bytes()
    path.write_bytes(whole + line(1).model_dump_json().encode()[:40])
    found = read(path)
    assert len(found.lines) == 1
    assert found.notes == (f"{path}:2: the last line is cut off (its writer was killed) and left out",)
    append(path, line(2))
    assert path.read_bytes() == whole + line(2).model_dump_json().encode() + b"\n"


def test_a_last_line_that_only_lacks_its_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text(line(0).model_dump_json())
    assert read(path) == ((line(0),), ())
    append(path, line(1))
    assert read(path).lines == (line(0), line(1))


def test_a_writer_waits_for_another(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    writer = threading.Thread(target=append, args=(path, line(1)))
    with path.open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        writer.start()
        writer.join(0.2)
        assert path.read_bytes() == b""
        other.write(line(0).model_dump_json() + "\n")
    writer.join()
    assert read(path).lines == (line(0), line(1))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("<<<<<<< HEAD", "is not valid JSON"),
        ("[1]", "found list, expected a JSON object"),
        ('{"kind": "check"}', "key schema_version: found None, expected at most 1"),
        ('{"schema_version": 2, "kind": "check"}', "key schema_version: found 2, expected at most 1: update bench"),
        ('{"schema_version": 1, "kind": "chekc"}', "'check', 'accept'"),
        ('{"schema_version": 1, "kind": "accept", "suite": "s", "when": "t", "who": "w"}', "key accept.reason: Field required"),
        (accepted().model_dump_json()[:-1] + ', "more": 1}', "key accept.more: Extra inputs are not permitted"),
    ],
)
def test_another_broken_line_is_named(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text(f"{line(0).model_dump_json()}\n{row}\n{line(1).model_dump_json()}\n")
    with pytest.raises(BenchError, match=re.escape(message)) as raised:
        read(path)
    assert str(raised.value).startswith(f"{path}:2: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("clusters", ["***", "AAAA", *(base64.b64encode(zlib.compress(bytes(size))).decode() for size in (38, 10**7))])
def test_scores_that_cannot_be_unpacked_are_a_broken_line(tmp_path: Path, clusters: str) -> None:
    plain = json.loads(line(0, measure(scores(20, 0.5))).model_dump_json())
    plain["measures"][0]["clusters"] = clusters
    path = tmp_path / "history.jsonl"
    path.write_text(json.dumps(plain) + "\n")
    with pytest.raises(BenchError, match=r"history\.jsonl:1: key check\.measures\.0: .*clusters: "):
        read(path)


def test_no_file_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="file is missing: expected the history that `bench check` writes"):
        read(tmp_path / "history.jsonl")
    with pytest.raises(BenchError, match="cannot be read"):
        read(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(BenchError, match="cannot be written"):
        append(tmp_path / "file" / "history.jsonl", line(0))


# ---------------------------------------------------------------------------------------------- measures over time


def test_a_drop_names_the_commits_around_it() -> None:
    track = the_track(dropped())
    assert (track.state, track.reason, track.first_bad) == ("alarm", "e-process", 7)
    assert track.between is not None
    assert [check.commit for check in track.between] == [GOOD, BAD]


def test_of_a_metric_that_should_be_low_a_rise_is_the_loss() -> None:
    assert the_track(dropped(higher_is_better=False)).state == "ok"
    rise = [line(i, measure(1 - scores(200, 0.75) if i < 7 else 1 - worse(scores(200, 0.75), 0.15))) for i in range(12)]
    low = [line(i, m.model_copy(update={"higher_is_better": False})) for i, one in enumerate(rise) for m in one.measures]
    assert the_track(low).first_bad == 7
    assert the_track(rise).state == "ok"


def test_the_steps_are_those_of_the_items() -> None:
    """60 checks of item scores that flip at random: E is that of the flips counted here."""
    from bench.regression.drift import log_e_of_flips

    generator, right = np.random.default_rng(8), scores(300, 0.6)
    lines: list[Line] = [line(0, measure(right))]
    worse_so_far = better_so_far = 0
    for number in range(1, 25):
        turned = generator.choice(300, 6, replace=False)
        worse_so_far += int(right[turned].sum())
        better_so_far += int((1 - right[turned]).sum())
        right = right.copy()
        right[turned] = 1 - right[turned]
        lines.append(line(number, measure(right)))
    assert the_track(lines).drift.log_e[-1] == pytest.approx(float(log_e_of_flips(worse_so_far, better_so_far)))


@pytest.mark.parametrize(
    "changes", [{"environment": {"torch": "2.14.0"}}, {"items": "0" * 12}, {"higher_is_better": False}, {"n_seeds": 2}]
)
def test_a_change_that_is_not_the_codes_is_no_step(changes: dict[str, Any]) -> None:
    lines = []
    for number, each in enumerate(dropped()):
        assert isinstance(each, CheckLine)
        of_measure = {key: value for key, value in changes.items() if key != "environment"}
        if number >= 7:
            each = each.model_copy(update={"measures": tuple(m.model_copy(update=of_measure) for m in each.measures)})
            each = each.model_copy(update={"environment": changes.get("environment", each.environment)})
        lines.append(each)
    assert the_track(lines).state == "ok"


def test_a_release_after_the_drop_is_the_end_of_it_and_another_acceptance_is_not() -> None:
    lines = dropped()
    assert the_track([*lines[:8], accepted(), *lines[8:]]).state == "ok"
    assert the_track([*lines, accepted()]).state == "not enough"
    assert the_track([*lines[:8], accepted(release=False), *lines[8:]]).first_bad == 7
    assert the_track([accepted(), *lines]).first_bad == 7


def test_a_gate_that_fails_now_is_an_alarm_since_it_first_did() -> None:
    right = scores(200, 0.75)
    verdicts = ["pass", "regression", "pass", "pass", "regression", "regression"]
    lines: list[Line] = [line(i, measure(right, verdict=verdict)) for i, verdict in enumerate(verdicts)]
    track = the_track(lines)
    assert (track.state, track.reason, track.first_bad) == ("alarm", "gate", 4)
    assert the_track([*lines, line(6, measure(right))]).state == "ok"
    assert the_track([*lines, accepted(release=False)]).state == "ok"  # accepted knowingly
    always = the_track(lines[4:])
    assert (always.first_bad, always.between) == (0, None)


def test_a_gate_that_failed_before_the_alarm_comes_first() -> None:
    right = scores(200, 0.75)
    lines = [line(i, measure(right if i < 7 else worse(right, 0.15), verdict="regression" if i >= 5 else "pass")) for i in range(12)]
    track = the_track(lines)
    assert (track.reason, track.first_bad) == ("e-process and gate", 5)


def test_measures_are_told_apart_and_may_come_and_go() -> None:
    right = scores(200, 0.75)
    rag, lora = measure(right), measure(right, "lora")
    tracks = tracks_of([line(0, rag), line(1, rag, lora), line(2, lora), line(3, rag, lora)])
    assert [(t.strategy, len(t.checks)) for t in tracks] == [("rag", 3), ("lora", 3)]
    assert {t.drift.e_limit for t in tracks} == {40.0}


def test_why_there_is_not_enough() -> None:
    def reason(*lines: Line) -> str:
        track = the_track(lines)
        assert track.state == "not enough"
        return track.reason

    one, other = measure(scores(200, 0.75)), measure(scores(200, 0.7))
    bare = [m.model_copy(update={"clusters": None}) for m in (one, other)]
    trained = [m.model_copy(update={"deterministic": False}) for m in (one, other)]
    assert reason(line(0, one)) == "one check"
    assert reason(line(0, one), line(1, other), accepted()) == "no check since the detectors set out anew"
    assert reason(line(0, bare[0]), line(1, bare[1])) == "no scores of items from 0 to 1"
    assert reason(line(0, trained[0]), line(1, trained[1])) == "too few draws of one seed"
    assert reason(line(0, one), line(1, other, environment={})) == "items, libraries or hardware differ"


# ---------------------------------------------------------------------------------------------- how it is shown


def test_sparkline() -> None:
    assert sparkline([0, 1, 2, 7]) == "▁▂▃█"
    assert sparkline([3.0, 3.0]) == "▄▄"
    assert len(sparkline(list(range(100)))) == 24


def test_the_table_says_where_to_look() -> None:
    lines = [*dropped(), accepted(release=False)]
    text = history_table(lines)
    assert "12 checks and 1 acceptance (0 releases) from 2026-01-01 to 2026-01-09." in text
    (row,) = [each for each in text.splitlines() if each.startswith("| questions/rag")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["questions/rag exact_match", "███████▁▁▁▁▁", "60.0 %", "10^7.8", "5.0", "alarm", BAD[:10]]
    assert "alarm at 20; CUSUM: loss added up, in standard errors, alarm at 8.4." in text
    finding = f"worse since {BAD[:10]} (2026-01-08), 75.0 % before it and 60.0 % now (e-process)"
    assert f"- questions/rag exact\\_match: {finding}" in text.replace("exact_match", "exact\\_match")
    assert f"; bench bisect RUN --good {GOOD[:12]} --bad {BAD[:12]}\n" in text


def test_suites_are_shown_apart() -> None:
    lines = [line(0, measure(scores(20, 0.5))), line(1, measure(scores(20, 0.5), "lora"), suite="nightly")]
    assert history_table(lines).count("## ") == 2
    assert "lora" in history_table(lines, "nightly")
    assert "rag" not in history_table(lines, "nightly")
    with pytest.raises(BenchError, match='--suite: the history has no line of "nigthly"; did you mean "nightly"'):
        history_table(lines, "nigthly")
    with pytest.raises(BenchError, match="it is empty"):
        history_table([], "nightly")
    assert history_table([]) == ""


def test_costs_that_changed_are_named_with_the_check() -> None:
    costs = [{"a/rag prompt_tokens": 410.0, "a/rag peak_rss_bytes": 2.0**30, "a/rag flops": 5.0}] * 3
    costs += [costs[0] | {"a/rag prompt_tokens": 820.0, "a/rag peak_rss_bytes": 1.05 * 2**30}] * 2
    text = history_table([line(i, costs=each) for i, each in enumerate(costs)])
    assert f"- a/rag prompt_tokens: ▁▁▁██ 410 to 820 (+100.0 %), first at {3:040x}"[:-30] in text
    assert "flops" not in text
    assert "rss" not in text  # never the same twice


def test_a_command_is_never_made_of_another_ones_text() -> None:
    lines = [each.model_copy(update={"commit": f"$(rm -rf {i})"}) for i, each in enumerate(dropped())]
    assert "worse since" in history_table(lines)
    assert "bisect" not in history_table(lines)
    assert "bisect" not in history_table([each.model_copy(update={"commit": None}) for each in dropped()])


HOSTILE = "<script>alert(1)</script>|\x1b[31m*"


def hostile() -> list[Line]:
    lines = [each.model_copy(update={"suite": HOSTILE, "commit": HOSTILE, "when": HOSTILE}) for each in dropped()]
    named = {"task": HOSTILE, "strategy": HOSTILE, "metric": HOSTILE}
    made: list[Line] = [
        each.model_copy(update={"measures": tuple(m.model_copy(update=named) for m in each.measures), "costs": {HOSTILE: float(i)}})
        for i, each in enumerate(lines) if isinstance(each, CheckLine)
    ]  # fmt: skip
    return [*made, accepted(suite=HOSTILE, who=HOSTILE, reason=HOSTILE)]


def test_names_of_others_act_neither_on_a_terminal_nor_in_markdown() -> None:
    text = history_table(hostile())
    assert "\x1b" not in text
    assert not re.search(r"(?<!\\)<script", text)
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in text.splitlines() if row.startswith("|")} == {8}


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "onload", "onclick")]


def test_the_page_is_one_file_that_cannot_act() -> None:
    text = history_html(hostile())
    page = Page(text)
    assert "script" not in page.tags
    assert not page.links
    assert "\x1b" not in text
    assert "default-src 'none'" in text
    assert text.count("&lt;script&gt;") > 5


def test_the_page_draws_every_measure_that_changed_with_a_table_behind_each_chart() -> None:
    still = measure(scores(200, 0.3), "majority")
    lines = [each.model_copy(update={"measures": (*each.measures, still)}) for each in dropped() if isinstance(each, CheckLine)]
    text = history_html([*lines[:3], accepted(release=False), *lines[3:]])
    page = Page(text)
    assert page.tags.count("svg") == 3  # value, e-process, CUSUM
    assert text.count("The numbers as a table") == 3
    assert "<details open>" in text
    assert "1 of 2 measures became worse." in text
    assert "Never changed</h3><p>questions/majority exact_match</p>" in text
    assert "<td>worse since here; alarm of the e-process</td>" in text
    assert "<td>accepted by a@b.example: shorter prompts</td>" in text
    assert f"bench bisect RUN --good {GOOD[:12]} --bad {BAD[:12]}" in text


def test_the_page_of_one_check_and_of_none() -> None:
    assert Page(history_html([line(0, measure(scores(20, 0.5)))])).tags.count("svg") == 0
    assert "The history has no line yet." in history_html([])
    moved = history_html([line(0, measure(scores(20, 0.5))), line(1, measure(scores(20, 0.7)), environment={})])
    assert Page(moved).tags.count("svg") == 1  # nothing for the detectors to go by
