"""The page and report.md: everything is there, nothing acts that others wrote, and what both show is right."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer
from report.cases import ANSI, EMOJI, HOSTILE, IMAGE, LINK, SCRIPT, all_equal, evidence, hostile_task, pair, strategy
from typer.testing import CliRunner

from bench.errors import BenchError
from bench.report.cli import register
from bench.report.constraints import Constraints, Weights
from bench.report.contents import decided, differences, headings, letters
from bench.report.model import Evidence, Measure, Pair, TaskEvidence
from bench.report.page import SECTIONS, render_page, script_json
from bench.report.text import plain, render_text
from bench.result.text import markdown_table, visible


def page_of(given: Evidence, constraints: Constraints | None = None) -> str:
    wanted = constraints or Constraints()
    return render_page(given, decided(given, wanted), wanted)


def text_of(given: Evidence, constraints: Constraints | None = None) -> str:
    wanted = constraints or Constraints()
    return render_text(given, decided(given, wanted), wanted)


class Reader(HTMLParser):
    """The elements of a page as a browser would see them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text: list[str] = []
        self._in_script = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._in_script = tag == "script"
        if self._in_script:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts[-1] += data
        else:
            self.text.append(data)


@pytest.fixture(scope="module")
def page() -> str:
    return page_of(evidence(hostile_task(lora=f"lora {IMAGE}"), hostile_task(f"triage {SCRIPT}")))


@pytest.fixture(scope="module")
def read(page: str) -> Reader:
    return Reader(page)


def test_nothing_that_others_wrote_becomes_an_element(page: str, read: Reader) -> None:
    assert not [tag for tag, _ in read.elements if tag in ("img", "iframe", "object", "embed", "link", "base", "form")]
    assert not [name for _, attributes in read.elements for name in attributes if name.startswith("on")]
    links = [attributes["href"] for tag, attributes in read.elements if tag == "a"]
    assert links
    assert all(link and link.startswith("#") for link in links)
    kinds = [attributes.get("type") for tag, attributes in read.elements if tag == "script"]
    assert kinds == ["application/json", "application/json", None]
    assert "\x1b" not in page
    assert "\x00" not in page
    assert "\u202e" not in page
    page.encode("utf-8")


def test_hostile_text_is_still_to_be_read(read: Reader) -> None:
    text = "".join(read.text)
    assert SCRIPT in text
    assert IMAGE in text
    assert "␛[31mred" in text
    assert "⟨U+202E⟩evil" in text
    assert EMOJI in text
    assert "{{ 7*7 }}" in text


def test_one_script_runs_and_its_hash_is_in_the_policy(page: str, read: Reader) -> None:
    policy = next(attributes["content"] for _, attributes in read.elements if attributes.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy
    digest = base64.b64encode(hashlib.sha256(read.scripts[-1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    for word in ("unsafe-eval", "http:", "https:"):
        assert word not in policy
    # the namespace of SVG is a name, and nothing loads it
    assert not set(re.findall(r"https?://[^\"'<\s)]+", page)) - {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_the_script_never_writes_markup(read: Reader) -> None:
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "DOMParser", "fetch(", "import("):
        assert word not in read.scripts[-1]


def test_the_data_of_the_script_is_the_items(read: Reader) -> None:
    data = json.loads(read.scripts[0])
    packed = data["packed"]
    assert len(packed["questions"]["id"]) == 30
    assert f"Question 0: {SCRIPT}" in packed["texts"]
    assert visible(f"guess 4 {ANSI}") in packed["texts"]
    assert not [text for text in packed["texts"] if any(ord(c) < 32 and c != "\n" for c in text)]


@pytest.mark.parametrize("text", HOSTILE)
def test_json_in_a_script_element_cannot_end_it(text: str) -> None:
    made = script_json({text: [text, None, 1.5]})
    assert not set("<>&\u2028\u2029\x1b") & set(made)
    assert json.loads(made) == {visible(text): [visible(text), None, 1.5]}


def test_json_refuses_what_is_no_number() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        script_json(float("nan"))


def test_ids_are_unique_and_what_is_named_is_there(read: Reader) -> None:
    ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in read.elements:
        for name in (*(attributes.get("aria-labelledby") or "").split(), *filter(None, [(attributes.get("href") or "").removeprefix("#")])):
            assert name in ids or name == "all"
    for place in range(2):
        assert {f"task-{place}-{key}" for key, _ in SECTIONS} <= set(ids)


def test_tables_and_charts_are_labelled(page: str, read: Reader) -> None:
    assert page.count("<table") == page.count("<caption>") > 10
    heads = [attributes for tag, attributes in read.elements if tag == "th"]
    assert all(attributes.get("scope") in ("col", "row", "colgroup") for attributes in heads)
    charts = [attributes for tag, attributes in read.elements if tag == "svg"]
    assert len(charts) >= 4
    assert all(
        attributes.get("role") == "img" and (attributes.get("aria-labelledby") or attributes.get("aria-label")) for attributes in charts
    )


def test_the_decision_and_the_whole_rule_are_printed(page: str) -> None:
    given = evidence(hostile_task())
    decision = decided(given, Constraints())[0].decision
    text = re.sub(r"\s+", " ", "".join(Reader(page_of(given)).text))
    assert decision.recommended == "lora"
    for line in (*decision.explanation, *(part for step in decision.steps for part in step)):
        assert re.sub(r"\s+", " ", line) in text
        assert plain(line) in text_of(given)


def test_constraints_stand_with_the_reason_of_each_strategy() -> None:
    wanted = Constraints(maximum_hallucination=0.1, weights=Weights(quality=1.0))
    text = "".join(Reader(page_of(evidence(hostile_task()), wanted)).text)
    assert "maximum hallucination" in text
    assert "hallucination 30.0 % is above 10 %" in text
    assert "hallucination 30.0 % is above 10 %" in text_of(evidence(hostile_task()), wanted)


def test_nothing_eligible_is_said() -> None:
    wanted = Constraints(minimum_quality=0.999)
    html, text = page_of(evidence(hostile_task()), wanted), text_of(evidence(hostile_task()), wanted)
    assert "Nothing is eligible" in html
    assert "Nothing is eligible" in text
    assert '<span class="tag">recommended</span>' not in html


@pytest.mark.parametrize(
    "task",
    [
        TaskEvidence("one", "m", "accuracy", True, True, (strategy("zero-shot", "contender", 0.5),), (), ()),
        TaskEvidence("floors", "m", "accuracy", True, True, (strategy("majority", "floor", 0.5),), (), ()),
        TaskEvidence("failed", "m", "accuracy", True, True, (strategy("lora", "failed", None, "out of memory"),), (), ()),
        TaskEvidence("none", "m", "accuracy", True, True, (), (), ()),
    ],
    ids=lambda task: task.task,
)
def test_little_evidence_still_makes_a_report(task: TaskEvidence) -> None:
    given = evidence(task)
    assert "No items are kept with these records." in page_of(given)
    assert task.task in text_of(given)


def test_a_difference_is_strategy_minus_baseline_either_way() -> None:
    task = hostile_task()
    against = differences(task, "zero-shot")
    assert (against["lora"].text, against["lora"].verdict, against["lora"].interval) == ("+40.0 points", "better", "[+38.0, +42.0]")
    assert (against["few-shot"].text, against["few-shot"].verdict) == ("+1.0 points", "not distinguishable")
    other = differences(task, "lora")
    assert (other["zero-shot"].text, other["zero-shot"].verdict, other["zero-shot"].interval) == ("-40.0 points", "worse", "[-42.0, -38.0]")
    assert set(against) == {"zero-shot", "few-shot", "lora"}


def test_where_lower_is_better_a_larger_value_is_worse() -> None:
    assert differences(hostile_task(higher_is_better=False), "zero-shot")["lora"].verdict == "worse"


def test_letters() -> None:
    # lora differs from both; the two others are not told apart
    assert letters(hostile_task()) == {"lora": "a", "few-shot": "b", "zero-shot": "b"}
    assert letters(all_equal(("x", "y", "z"))) == {"x": "a", "y": "a", "z": "a"}


def test_letters_of_a_chain_overlap() -> None:
    # best > worst, and the middle one is told apart from neither (Piepho 2004: a, ab, b)
    names = {"best": 0.9, "middle": 0.8, "worst": 0.7}
    pairs = (pair("best", "middle", 0.1, 0.2), pair("middle", "worst", 0.1, 0.2), pair("best", "worst", 0.2, 0.01))
    task = TaskEvidence("t", "m", "accuracy", True, True, tuple(strategy(n, "contender", q) for n, q in names.items()), pairs, ())
    assert letters(task) == {"best": "a", "middle": "ab", "worst": "b"}
    turned = TaskEvidence("t", "m", "error", False, True, task.candidates, pairs, ())
    assert letters(turned) == {"worst": "a", "middle": "ab", "best": "b"}


def test_letters_share_exactly_where_no_test_tells_apart() -> None:
    names = [f"s{place}" for place in range(6)]
    apart = {("s0", "s2"), ("s0", "s3"), ("s1", "s4"), ("s2", "s5"), ("s3", "s4"), ("s0", "s5")}
    every = [(a, b) for place, a in enumerate(names) for b in names[place + 1 :]]
    pairs = tuple(Pair(a, b, Measure(0.1), 0.01 if (a, b) in apart else 0.5, None, None, None, None) for a, b in every)
    candidates = tuple(strategy(name, "contender", 0.9 - 0.1 * place) for place, name in enumerate(names))
    of = letters(TaskEvidence("t", "m", "accuracy", True, True, candidates, pairs, ()))
    for a, b in every:
        assert bool(set(of[a]) & set(of[b])) == ((a, b) not in apart)


def test_only_measured_columns_stand_in_the_comparison() -> None:
    assert [h.label for h in headings(TaskEvidence("t", "m", "a", True, True, (strategy("x", "contender", 0.5),), (), ()))] == []
    assert "Latency p95" in [h.label for h in headings(hostile_task())]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[31m", "␛[31m"), ("a\tb\nc", "a    b\nc"), ("\x7f\x00", "␡␀"), ("\x9b31m", "⟨U+009B⟩31m"), ("\u202eevil", "⟨U+202E⟩evil"),
        ("\ud800", "⟨U+D800⟩"), ("שלום 👩‍🔬 é", "שלום 👩‍🔬 é"),
    ],
)  # fmt: skip
def test_control_characters_are_shown(text: str, expected: str) -> None:
    assert visible(text) == expected


def test_markdown_holds_no_markup_of_others() -> None:
    made = text_of(evidence(hostile_task(lora=f"lora {IMAGE}"), hostile_task(f"triage {SCRIPT} {LINK}")))
    assert f"\n    bench run default --name '{IMAGE}'\n" in made  # a code block, where markup is text
    text = "\n".join(line for line in made.splitlines() if not line.startswith("    "))
    assert not re.search(r"(?<!\\)<(img|script|/script)", text)
    assert not re.search(r"(?<!\\)\]\(", text)
    assert "\x1b" not in text
    body = [line for line in text.splitlines() if line.startswith("|")]
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in body if "claim-1" in line or "Detail" in line}
    assert widths == {5}


@pytest.mark.parametrize("mark", ["<b>", "[x](y)", "`x`", "a|b", "*x*", "_x_", "&lt;"])
def test_markdown_escapes(mark: str) -> None:
    assert not re.search(r"(?<!\\)[<\[`|*_]", plain(mark).replace("&amp;", ""))
    assert "&lt;" not in plain(mark)


def test_sections_of_the_markdown_are_in_order() -> None:
    text = text_of(evidence(hostile_task()))
    heads = re.findall(r"^### (\d)\.", text, flags=re.MULTILINE)
    assert heads == ["1", "2", "3", "4", "5", "7"]
    assert markdown_table(["Criterion left out", "Choice then"], [["x", "y"]]).split("|")[1].strip() in text
    assert "no forecast" in text


def test_another_model_is_no_embedded_world() -> None:
    given = evidence(TaskEvidence("t", "Qwen", "accuracy", True, True, (strategy("zero-shot", "contender", 0.5),), (), ()))
    assert "no forecast" not in text_of(given)
    assert "no forecast" not in page_of(given)


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    """The command on constructed evidence; its assumptions are the ones that the command was given."""
    monkeypatch.setattr("bench.report.evidence.gather", lambda runs, prices, assumptions: _gathered(runs, assumptions.model_dump()))
    made = typer.Typer()
    made.command()(lambda: None)  # of two commands each keeps its name
    register(made)
    return made


def _gathered(runs: list[Path], assumptions: dict[str, float]) -> Evidence:
    return replace(evidence(hostile_task()), runs=tuple(map(str, runs)), assumptions=assumptions)


def test_the_command_writes_both_files(app: typer.Typer, tmp_path: Path) -> None:
    limits = tmp_path / "limits.yaml"
    limits.write_text("maximum_hallucination: 0.1\nrequests_per_month: 12345\n")
    out = tmp_path / "there" / "report.html"
    result = CliRunner().invoke(app, ["report", "results/one", "-o", str(out), "--constraints", str(limits)])
    assert result.exit_code == 0, result.output
    assert "support: lora" in result.output
    text = out.with_suffix(".md").read_text()
    assert "hallucination 30.0 % is above 10 %" in text
    assert "assumption: requests per month: 12,345" in text
    assert "results/one" in out.read_text(encoding="utf-8")


def test_what_is_required_goes_over_the_file(app: typer.Typer, tmp_path: Path) -> None:
    limits = tmp_path / "limits.yaml"
    limits.write_text("maximum_hallucination: 0.1\nmust_cite_sources: true\n")
    given = ["--constraints", str(limits), "--require", "maximum_hallucination=0.2", "-o", str(tmp_path / "report.html")]
    assert CliRunner().invoke(app, ["report", "results/one", *given]).exit_code == 0
    text = (tmp_path / "report.md").read_text()
    assert "hallucination 30.0 % is above 20 %" in text
    assert "above 10 %" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "report.md"], "--output: found report.md, expected a name that ends with .html"),
        (["--constraints", "none.yaml"], "none.yaml"),
        (["--require", "minimum_qality=0.5"], 'unknown key "minimum_qality"; did you mean "minimum_quality"'),
        (["--require", "no_training"], "--require no_training: expected KEY=VALUE"),
    ],
)
def test_the_command_names_what_is_wrong(app: typer.Typer, arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["report", "results/one", *arguments])
    assert isinstance(result.exception, BenchError)
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)
