"""What is made from a check: known answers, limits of the places that it goes to, and texts of others that must not act there."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from regression.check_samples import ACCEPTANCE, check, comparison, fine, flip, longer, unsure, worse

from bench.errors import BenchError
from bench.regression.exchange import bencher_json, benchmark_json, results_jsonl
from bench.regression.github import github_annotations, github_summary, write_github
from bench.regression.junit import junit_xml
from bench.regression.markdown import Block, code, fitted, html_code, markdown_comment, prose, report_text
from bench.regression.model import Check, Difference
from bench.regression.wording import before_after, change_text, finding, headline, one_line, p_text, untrusted_text

HOSTILE = (
    "</details></table><script>alert(1)</script> <img src=x> ![i](http://e.example/i.png) [l](javascript:x) `a` | b \\| c **d** "
    "@octocat #1 https://e.example www.e.example &lt; &#60; --> ]]> \x1b[31mred\x00 \r\n::error::boo\n ##[add-mask]x "
    "\u202eabc \ufffe \ud800 end"
)
"""A text that tries to act everywhere: HTML, Markdown, XML, terminals and workflow commands."""


def hostile_check() -> Check:
    """Hostile wherever a text comes from a model, a task, a user or an error message."""
    bad = flip(HOSTILE, HOSTILE, HOSTILE, targets=(HOSTILE, "x"))
    gates = [
        gate(task=HOSTILE, strategy=HOSTILE, measure=HOSTILE, reason=HOSTILE, test=HOSTILE, flips=(bad, flip("t", excused=True)))
        for gate in (worse, unsure, fine)
    ]
    who = type(ACCEPTANCE)(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE)
    differences = (Difference("library", HOSTILE, HOSTILE, HOSTILE), Difference("code", HOSTILE, HOSTILE, HOSTILE))
    compared = comparison(*gates, acceptance=who, differences=differences, notes=(HOSTILE,))
    return check(compared, suite=HOSTILE, run=HOSTILE, commit=HOSTILE, when=HOSTILE)


def large_check(text: str = "x" * 50) -> Check:
    flips = tuple(flip(f"{text}{n}", text, text, targets=(text,)) for n in range(5_000))
    return check(comparison(*(worse(strategy=f"s{n}", flips=flips if n < 2 else ()) for n in range(300)), fine()))


TABLE = {"table", "thead", "tbody", "tr", "th", "td"}


class Page(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ends: list[str] = []
        self.attributes: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_endtag(self, tag: str) -> None:
        self.ends.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def page(markdown: str) -> Page:
    return Page(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown))


# ------------------------------------------------------------------------------------------------ words


def test_words_of_known_gates() -> None:
    assert headline(check()) == "regression in smoke: of 4 gates 2 got worse, 1 inconclusive, 1 pass"
    assert headline(check(comparison(fine(), fine(strategy="rag")))) == "pass in smoke: all 2 gates pass"
    assert headline(check(comparison())) == "pass in smoke: nothing was compared"
    assert change_text(worse()) == "worse by 0.052 [0.023, 0.081]"
    assert change_text(worse(change=0.01, low=-0.002, high=0.022)) == "better by 0.010 [-0.002, 0.022]"
    assert change_text(worse(change=-0.0004, low=None, high=None)) == "worse by 0.0004"
    assert change_text(fine()) == "none"
    assert change_text(longer()) == "+100 %, allowed 0 %"
    assert change_text(longer(change=0.0)) == "none"
    assert change_text(longer(change=float("inf"))) == "from nothing, allowed 0 %"
    assert change_text(longer(kind="time", change=0.35, low=0.2, high=0.5, limit=0.25)) == "+35 % [+20 %, +50 %], allowed 25 %"
    gates = worse(), worse(p_adjusted=None), worse(p_adjusted=1e-9), fine()
    assert [p_text(gate) for gate in gates] == ["0.012", "0.0004", "1e-09", "–"]
    assert finding(unsure()) == (
        "0.100 → 0.110; worse by 0.010 [-0.010, 0.030]; p 0.4 after Holm (McNemar, exact); 250 items, 1 seed; 740 items would tell; "
        "could be a loss of 0.02 or more, or none"
    )
    none = dict.fromkeys(("before", "after", "change", "p"))
    assert finding(worse(kind="status", measure="status", n_items=0, reason="failed", **none)) == "failed"


def test_values_that_round_to_the_same_are_shown_exactly() -> None:
    assert before_after(longer()) == ("12.3 k", "24.6 k")
    assert before_after(longer(before=123_456.0, after=123_457.0)) == ("123,456", "123,457")
    assert before_after(worse(before=0.81201, after=0.81199)) == ("0.81201", "0.81199")
    assert before_after(longer(measure="peak_rss_bytes", before=2.0**30, after=2.0**31)) == ("1 GiB", "2 GiB")
    assert before_after(longer(before=None, after=None)) == ("–", "–")


def test_ties_are_counted_once_per_answer_and_not_shown_as_losses() -> None:
    both = comparison(worse(), worse(measure="hallucination_rate"))
    assert "ties: 1 changed answer excused" in report_text(check(both))
    assert "`p5`" not in markdown_comment(check(both))
    assert "excused" not in report_text(check(comparison(fine())))


def test_answers_of_a_strategy_are_shown_once() -> None:
    both = check(comparison(worse(), worse(measure="hallucination_rate"), worse(strategy="lora")))
    assert markdown_comment(both).count("<summary><code>") == report_text(both).count("item p0") == 2


def test_a_baseline_of_another_library_is_named() -> None:
    differences = (Difference("library", "torch", "2.12", "2.13"), Difference("data", "rows", "a", "b"))
    old = comparison(unsure(), differences=differences)
    assert untrusted_text(old) == "The baseline was made with another library, so that a loss is inconclusive: torch 2.12 → 2.13"
    assert untrusted_text(comparison(unsure(), differences=differences, relative=True)) is None
    text = report_text(check(old))
    assert "bench check results/smoke --against results/baseline/smoke --relative" in text
    assert "data: rows a → b" in text
    assert text.count("torch 2.12") == 1


# ------------------------------------------------------------------------------------------------ terminal


def test_the_text_has_the_verdict_first_then_what_got_worse() -> None:
    lines = report_text(check()).splitlines()
    assert lines[0] == "REGRESSION in smoke: of 4 gates 2 got worse, 1 inconclusive, 1 pass"
    text = "\n".join(lines)
    places = [
        text.index(part)
        for part in (
            "WORSE  product_support / rag: quality exact_match", "worse by 0.052 [0.023, 0.081]",
            'item p0 s0: expected "Oslo", before "Oslo", now "Bergen"', "item p2", "and 2 more",
            "WORSE  product_support / rag: cost prompt_tokens", "?      product_support / lora: quality hallucination_rate",
            "1 of 4 gates pass", "code: commit aaaa → bbbb", "note: seeds 1, 2 are new", "ties: 1",
            "bench show results/smoke product_support/rag", "bench accept results/smoke",
        )
    ]  # fmt: skip
    assert places == sorted(places)
    assert "item p3" not in text
    assert "quality exact_match" in text
    assert "the same answers" not in text  # what passes is counted only


def test_the_text_keeps_to_its_width_and_its_commands_are_quoted() -> None:
    text = report_text(check(comparison(worse(reason="word " * 100, task="a; rm -rf x")), run="results/a b"))
    assert max(map(len, text.splitlines())) <= 120
    assert "bench show 'results/a b' 'a; rm -rf x/rag'" in text


def test_a_pass_is_short() -> None:
    assert report_text(check(comparison(fine(), fine(strategy="rag")))).splitlines()[-1] == "  2 of 2 gates pass"


# ------------------------------------------------------------------------------------------------ Markdown


@given(st.text(st.one_of(st.sampled_from("`|\\<>&*_~[]()!#@:/-= \nab1"), st.characters()), max_size=40))
@settings(max_examples=300)
def test_texts_come_out_of_markdown_as_they_went_in(text: str) -> None:
    shown = page(f"| a | b |\n| --- | --- |\n| {code(text)} | x |\n")
    assert set(shown.tags) <= {*TABLE, "code"}
    assert shown.tags.count("td") == 2
    assert one_line(shown.text) == one_line(f"a b {one_line(text)} x")
    summary = Page(f"<summary>{html_code(text)}</summary>")
    assert (summary.tags, summary.text) == (["summary", "code"], one_line(text))


@given(st.text(st.one_of(st.sampled_from("`|\\<>&*_~[]()!#@:/-= \nab1"), st.characters()), max_size=40))
@settings(max_examples=300)
def test_words_of_others_have_no_markup(text: str) -> None:
    shown = page(f"| a | b |\n| --- | --- |\n| {prose(text)} | x |\n")
    assert set(shown.tags) <= TABLE
    assert shown.tags.count("td") == 2
    assert one_line(shown.text.replace("\u200b", "")) == one_line(f"a b {one_line(text)} x".replace("\u200b", ""))
    assert not re.search("[@#](?!\u200b)", shown.text)


def test_hostile_texts_stay_texts_in_markdown() -> None:
    comment = markdown_comment(hostile_check())
    shown = page(comment)
    assert set(shown.tags) <= {"h3", "h4", "p", "strong", "blockquote", "code", "ul", "li", "details", "summary", *TABLE}
    assert not shown.attributes
    assert comment.count("-->") == 1
    assert comment.startswith("<!-- bench-check: ")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", comment)
    assert shown.tags.count("details") == shown.ends.count("details") == 3


def test_a_comment_begins_with_its_marker_and_what_does_not_pass() -> None:
    comment = markdown_comment(check())
    assert comment.splitlines()[:2] == [
        "<!-- bench-check: smoke -->",
        "### bench check: **regression** in smoke: of 4 gates 2 got worse, 1 inconclusive, 1 pass",
    ]
    open_part, details = comment.split("<details>", 1)
    assert "exact_match" in open_part
    assert "the same answers" not in open_part
    assert "the same answers" in details
    assert "| `p0` | 0 | `Oslo` | `Oslo` | `Bergen` | 1 → 0 |" in details


def test_markers_of_suites_differ() -> None:
    markers = {markdown_comment(check(suite=suite)).splitlines()[0] for suite in ("smoke", "smoke2", "smoke-2", "a --> b")}
    assert len(markers) == 4
    assert all(one.count("--") == 2 for one in markers)


def test_blocks_are_cut_between_rows_and_what_is_left_out_is_counted() -> None:
    rows = tuple(f"row {n:02}\n" for n in range(40))
    parts = [Block("head\n"), Block("<a>\n", rows, "</a>\n"), Block("<b>\n", rows, "</b>\n"), Block("tail\n")]
    whole = fitted(parts, 1000)
    assert whole == "head\n<a>\n" + "".join(rows) + "</a>\n<b>\n" + "".join(rows) + "</b>\ntail\n"
    for limit in range(150, 800, 7):
        text = fitted(parts, limit)
        assert len(text.encode()) <= limit
        assert text.count("<a>") == text.count("</a>")
        assert text.count("<b>") == text.count("</b>")
        shown = re.findall(r"^row \d\d$", text, re.MULTILINE)
        left = re.search(r"want of room: (\d+) rows", text)
        assert len(shown) + (int(left[1]) if left else 0) == 80


@pytest.mark.parametrize("text", ["x" * 50, "語" * 50, "`|" * 25], ids=["letters", "wide", "marks"])
def test_large_checks_fit(text: str) -> None:
    many = large_check(text)
    comment, summary = markdown_comment(many), github_summary(many)
    assert len(comment.encode()) <= 65_536
    assert len(comment.encode()) > 50_000
    assert len(summary.encode()) <= 1024 * 1024
    for shown in (comment, summary):
        assert "want of room" in shown.splitlines()[-1]
        assert shown.count("<details>") == shown.count("</details>")


# ------------------------------------------------------------------------------------------------ GitHub


def test_annotations_are_escaped_as_the_runner_reads_them() -> None:
    lines = github_annotations(check(comparison(worse(task="a:b,c%", reason="50 %\nof it"), longer(), unsure()))).splitlines()
    title, _, text = lines[0].removeprefix("::error title=").partition("::")
    assert title == "bench check%2C accepted%3A a%3Ab%2Cc%25 / rag%3A quality exact_match"
    assert text.startswith("0.812 → 0.760; worse by 0.052")
    assert lines[0].endswith("; 50 %25 of it")
    assert [line.split(" ")[0] for line in lines] == ["::error", "::error", "::warning", "::notice"]
    assert github_annotations(check(comparison(fine()))) == "::notice title=bench check::pass in smoke: all 1 gates pass\n"


def test_at_most_ten_annotations_of_a_kind() -> None:
    gates = [worse(strategy=f"s{n}", flips=()) for n in range(25)] + [unsure(strategy=f"u{n}") for n in range(10)]
    lines = github_annotations(check(comparison(*gates))).splitlines()
    errors = [line for line in lines if line.startswith("::error ")]
    assert len(errors) == 10
    assert errors[-1] == "::error title=bench check::16 more of this kind: see the summary of the step"
    assert sum(line.startswith("::warning ") for line in lines) == 10
    assert not any("more of this kind" in line for line in lines if line.startswith("::warning "))


def test_hostile_texts_are_no_commands_of_the_runner() -> None:
    """The runner looks for ``::command::`` at the start of a line and for ``##[command]`` anywhere in one that has no such start."""
    for line in github_annotations(hostile_check()).splitlines():
        assert re.match(r"::(error|warning|notice) title=[^:]*::", line), line
    text = report_text(hostile_check())
    assert "##[" not in text
    assert not any(line.lstrip().startswith("::") for line in text.splitlines())
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)


def test_write_github_appends_to_the_files_of_the_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary, output = tmp_path / "summary", tmp_path / "output"
    summary.write_text("before\n")
    write_github(check(), {"GITHUB_STEP_SUMMARY": str(summary), "GITHUB_OUTPUT": str(output), "GITHUB_ACTIONS": "true"})
    assert summary.read_text() == "before\n" + github_summary(check())
    assert output.read_text() == "verdict=regression\n"
    assert capsys.readouterr().out == github_annotations(check())
    write_github(check(), {})
    assert capsys.readouterr().out == ""


def test_write_github_keeps_to_what_the_step_has_left(tmp_path: Path) -> None:
    summary = tmp_path / "summary"
    summary.write_text("x" * 990_000)
    write_github(large_check(), {"GITHUB_STEP_SUMMARY": str(summary)})
    assert 995_000 < summary.stat().st_size <= 1024 * 1024


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"nowhere/out: cannot be written: No such file or directory; expected"):
        write_github(check(), {"GITHUB_OUTPUT": str(tmp_path / "nowhere" / "out")})


# ------------------------------------------------------------------------------------------------ JUnit


def test_junit_has_a_suite_per_strategy_and_a_case_per_gate() -> None:
    root = ElementTree.fromstring(junit_xml(check()))
    assert root.attrib == {"name": "bench check smoke", "tests": "4", "failures": "2", "errors": "0", "skipped": "1"}
    suites = {suite.attrib["name"]: suite for suite in root}
    assert {name: [suite.attrib[key] for key in ("tests", "failures", "skipped")] for name, suite in suites.items()} == {
        "accepted: lora": ["2", "0", "1"],
        "accepted: rag": ["2", "2", "0"],
    }
    case = next(case for case in suites["accepted: rag"].iter("testcase") if case.attrib["name"] == "quality exact_match")
    assert case.attrib["classname"] == "accepted.product_support.rag"
    failure = case.find("failure")
    assert failure is not None
    assert failure.attrib["type"] == "quality regression"
    assert "worse by 0.052" in failure.attrib["message"]
    properties = {found.attrib["name"]: found.attrib["value"] for found in case.iter("property")}
    known = {"before": "0.812", "after": "0.76", "change": "-0.052", "low": "-0.081", "high": "-0.023", "p": "0.0004"}
    assert known.items() <= properties.items()
    lines = (case.findtext("system-out") or "").splitlines()
    assert lines[0] == 'item p0 s0: expected "Oslo", before "Oslo", now "Bergen"'
    assert lines[5] == 'item p5 s0 (a tie, excused): expected "Oslo", before "Oslo", now "Bergen"'
    skipped = suites["accepted: lora"].find("testcase/skipped")
    assert skipped is not None
    assert skipped.attrib["message"].startswith("inconclusive: 0.100 → 0.110")
    assert (suites["accepted: rag"].findtext("system-out") or "").splitlines()[0].split() == [
        "verdict", "task", "gate", "before", "now", "change", "p", "items",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "made", [check(), check(comparison()), hostile_check(), check(comparison(worse()), comparison(worse(), name="release"))]
)
def test_junit_keeps_to_the_common_form(made: Check) -> None:
    """The elements, their order and the attributes that Ant's schema and those of Jenkins and GitLab have in common."""
    root = ElementTree.fromstring(junit_xml(made))
    assert root.tag == "testsuites"
    cases = []
    for suite in root:
        assert (suite.tag, *[child.tag for child in suite]) == (
            "testsuite", "properties", *["testcase"] * int(suite.attrib["tests"]), "system-out",
        )  # fmt: skip
        assert suite.attrib.keys() == {"name", "tests", "failures", "errors", "skipped", "timestamp", "time"}
        for case in suite.iter("testcase"):
            assert case.attrib.keys() == {"classname", "name", "time"}
            assert [child.tag for child in case] in (
                ["properties", *result, *out] for result in ([], ["failure"], ["skipped"]) for out in ([], ["system-out"])
            )
            cases.append((case.attrib["classname"], case.attrib["name"]))
        assert suite.attrib["failures"] == str(len(suite.findall("testcase/failure")))
        assert suite.attrib["skipped"] == str(len(suite.findall("testcase/skipped")))
    assert root.attrib["tests"] == str(len(made.gates)) == str(len(cases))
    if made.suite == "smoke":
        assert len(set(cases)) == len(cases)  # GitLab drops a second one


def test_junit_stays_below_what_gitlab_takes() -> None:
    text = junit_xml(large_check("x" * 500))
    assert len(text.encode()) < 30e6
    assert "and 4800 more" in text


# ------------------------------------------------------------------------------------------------ other programs


def test_jsonl_has_a_row_per_gate_with_its_numbers() -> None:
    both = check(comparison(worse(), longer(change=float("inf"))), comparison(unsure(), name="run", acceptance=None))
    rows = [json.loads(line) for line in results_jsonl(both).splitlines()]
    assert [row["baseline"] for row in rows] == ["accepted", "accepted", "run"]
    assert [row["verdict"] for row in rows] == ["regression", "regression", "inconclusive"]
    keys = ("suite", "run", "commit", "baseline_commit", "p", "p_adjusted", "n_items", "n_seeds", "n_flips", "n_excused", "trusted")
    assert [rows[0][key] for key in keys] == ["smoke", "results/smoke", "b" * 40, "a" * 40, 0.0004, 0.012, 250, 1, 6, 1, True]
    assert "flips" not in rows[0]
    assert rows[1]["change"] is None
    assert rows[2]["baseline_run"] is None
    other = json.loads(results_jsonl(check(environment={"torch": "2.12.0"})).splitlines()[0])
    assert len({row["fingerprint"] for row in rows}) == 1
    assert other["fingerprint"] != rows[0]["fingerprint"]


def test_benchmark_json_sorts_measures_by_what_is_better() -> None:
    status = worse(kind="status", measure="status", before=None, after=None)
    found = benchmark_json(check(comparison(worse(), unsure(), longer(), status), comparison(worse(before=0.9), name="release")))
    assert json.loads(found["bigger"]) == [
        {
            "name": "product_support / rag: exact_match", "unit": "score", "value": 0.76, "range": "± 0.029",
            "extra": "regression; change: worse by 0.052 [0.023, 0.081]; 250 items, 1 seed",
        }
    ]  # fmt: skip
    smaller = json.loads(found["smaller"])
    assert [(entry["name"].split(": ")[1], entry["unit"], entry["value"]) for entry in smaller] == [
        ("hallucination_rate", "score", 0.11),
        ("prompt_tokens", "tokens", 24_600),
    ]
    assert "range" not in smaller[1]


def test_bencher_json_has_bounds_of_the_value() -> None:
    slower = longer(kind="time", measure="answer_seconds", before=2.0, after=2.6, change=0.3, low=0.25, high=0.5)
    found = json.loads(bencher_json(check(comparison(worse(), unsure(), longer(), slower, fine(after=None)))))
    assert found == {
        "product_support/rag": {
            "exact_match": {"value": 0.76, "lower_value": pytest.approx(0.731), "upper_value": pytest.approx(0.789)},
            "prompt_tokens": {"value": 24_600},
            "answer_seconds": {"value": 2.6, "lower_value": 2.5, "upper_value": 3.0},
        },
        # Lower is better: .1 before, at best .01 better, at worst .03 worse.
        "product_support/lora": {
            "hallucination_rate": {"value": 0.11, "lower_value": pytest.approx(0.09), "upper_value": pytest.approx(0.13)}
        },
    }


def test_hostile_texts_can_be_written_and_read() -> None:
    """A file cannot hold a lone surrogate."""
    made = hostile_check()
    for write in (junit_xml, github_summary, markdown_comment, github_annotations, report_text, results_jsonl, bencher_json):
        write(made).encode()
    rows = [json.loads(line) for line in results_jsonl(made).encode().splitlines()]
    assert [row["task"] for row in rows] == [HOSTILE] * 3
    assert len(json.loads(benchmark_json(made)["bigger"])) == len(json.loads(bencher_json(made))) == 1
