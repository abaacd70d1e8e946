"""The charts of the report: what they say of constructed evidence, and that their SVG is safe, small and readable."""

from __future__ import annotations

import builtins
import json
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from bench.errors import BenchError
from bench.report import charts
from bench.report.chart_parts import linear_axis, log_axis, log_ticks, place_labels, spread
from bench.report.drawing import (
    DASHES,
    INK,
    PALETTE,
    SHAPES,
    Box,
    Canvas,
    Chart,
    Point,
    contrast,
    luminance,
    shortened,
    text_width,
    visible,
)
from bench.report.model import Candidate, Measure, TaskEvidence

HOSTILE = '<img src=x onerror="alert(1)">\x1b[31m\'&</svg><script>'


def candidate(strategy: str, standing: Any = "contender", family: str = "prompting", **measures: Any) -> Candidate:
    found = {name.replace("__", "."): Measure(*value) if isinstance(value, tuple) else Measure(value) for name, value in measures.items()}
    return Candidate(strategy, standing, None, "", family, {}, found, 100, 3)


def evidence(*candidates: Candidate, **more: Any) -> TaskEvidence:
    return TaskEvidence("shop", "embedded", "exact_match", more.pop("higher_is_better", True), True, candidates, (), (), **more)


def three() -> TaskEvidence:
    return evidence(
        candidate("majority", "floor", "floor", quality=0.2),
        candidate("cheap", quality=(0.5, 0.4, 0.6), usd_per_1000_requests=1.0, peak_memory_bytes=1e9),
        candidate("worse", quality=(0.45, 0.4, 0.5), usd_per_1000_requests=2.0, peak_memory_bytes=2e9),
        candidate("dear", family="PEFT", quality=(0.9, 0.85, 0.95), usd_per_1000_requests=(30.0, 20.0, 40.0), peak_memory_bytes=3e9),
        candidate("oracle", "oracle", "retrieval", quality=1.0, usd_per_1000_requests=0.5, peak_memory_bytes=1e9),
    )


def many(n: int = 12, name: Callable[[int], str] = lambda i: f"strategy-number-{i}") -> TaskEvidence:
    shown = [
        candidate(
            name(i),
            family=("prompting", "retrieval", "PEFT", "hybrid")[i % 4],
            quality=(0.3 + 0.05 * i, 0.2 + 0.05 * i, min(0.4 + 0.05 * i, 1.0)),
            usd_per_1000_requests=(0.01 * 2**i, 0.008 * 2**i, 0.012 * 2**i),
            setup_usd=5.0 * (n - i),
            refresh_usd=1.0,
            peak_memory_bytes=1e9 + 1e8 * i,
            seconds_per_1000_requests=10.0 + i,
            hallucination_rate=(0.05 * (i % 5), 0.0, 0.3),
            abstention_rate=0.1,
            ece=(0.1, 0.05, 0.2),
            brier=(0.2, 0.1, 0.3),
            forgetting__known_recall_drop=(0.02 * i, -0.05, 0.4),
        )
        for i in range(n)
    ]
    names = [c.strategy for c in shown]
    points = [
        {"strategy": s, "train_examples": size, "value": 0.1 + 0.02 * i + 0.001 * size, "ci_low": 0.05, "ci_high": 0.6}
        for i, s in enumerate(names)
        for size in (10, 25, 50, 100, 200)
    ]
    kinds = (
        "format_failure",
        "retrieval_miss",
        "evidence_truncated",
        "wrongly_abstained",
        "evidence_misread",
        "distractor_copied",
        "fabricated",
    )
    parts = ("baseline_bytes", "weights_bytes", "gradients_bytes", "optimizer_bytes", "activations_bytes", "cache_bytes", "workspace_bytes")
    return evidence(
        *shown,
        curves=tuple(points),
        errors={s: {kind: 0.01 * (j + 1) for j, kind in enumerate(kinds)} for s in names},
        memory={s: {part: 10**8 * (j + 1) for j, part in enumerate(parts)} for s in names},
    )


def every(task: TaskEvidence) -> list[Chart | None]:
    names = [c.strategy for c in task.candidates]
    return [
        charts.pareto(task, "usd_per_1000_requests"),
        charts.pareto(task, "peak_memory_bytes"),
        charts.pareto(task, "latency"),
        charts.learning_curves(task),
        charts.break_even(task),
        charts.break_even(task, 12),
        charts.hallucination_bars(task),
        charts.error_kinds(task),
        charts.forgetting_against_quality(task),
        charts.memory_parts(task),
        charts.calibration(task),
        charts.utilities(task, {n: {"quality": 0.5, "cost": 1.0, "total": 0.7} for n in names}, {"quality": 0.6, "cost": 0.4}),
        charts.weightings(task, {n: 1 / len(names) for n in names}),
    ]


@pytest.fixture(scope="module")
def twelve() -> list[Chart]:
    drawn = every(many())
    assert all(drawn)
    return [chart for chart in drawn if chart]


def texts(chart: Chart) -> list[str]:
    return [element.text or "" for element in ET.fromstring(chart.svg).iter("{http://www.w3.org/2000/svg}text")]


def said(chart: Chart | None) -> str:
    assert chart is not None
    return chart.description


# ---------------------------------------------------------------------------------------------- what they say


def test_pareto_finds_the_front_and_leaves_floor_and_oracle_out_of_it() -> None:
    chart = charts.pareto(three(), "usd_per_1000_requests")
    assert chart is not None
    on_front = {row[0]: row[-1] for row in chart.table[1]}
    assert on_front == {"cheap": "yes", "worse": "no", "dear": "yes", "oracle": "no"}
    assert "cheap (50.0 % at 1.00), dear (90.0 % at 30.0)" in chart.description
    assert "majority, has 20.0 %" in chart.description
    assert "oracle (oracle)" in texts(chart)
    assert chart.table[1][2][2] == "90.0 % [85.0, 95.0]"


def test_pareto_where_lower_is_better() -> None:
    chart = charts.pareto(replace(three(), higher_is_better=False), "usd_per_1000_requests")
    assert chart is not None
    assert {row[0]: row[-1] for row in chart.table[1]} == {"cheap": "yes", "worse": "yes", "dear": "no", "oracle": "no"}
    assert "Exact match (lower is better)" in texts(chart)


def test_pareto_keeps_both_of_two_equal_ones() -> None:
    chart = charts.pareto(evidence(*[candidate(n, quality=0.5, peak_memory_bytes=1e9) for n in ("one", "two")]), "peak_memory_bytes")
    assert chart is not None
    assert [row[-1] for row in chart.table[1]] == ["yes", "yes"]


def test_pareto_names_what_was_not_measured() -> None:
    task = evidence(*three().candidates, candidate("unpriced", quality=0.7))
    assert "Not measured: unpriced." in said(charts.pareto(task, "usd_per_1000_requests"))
    assert charts.pareto(evidence(candidate("alone", quality=0.7, peak_memory_bytes=1e9)), "peak_memory_bytes") is None


def test_pareto_has_a_logarithmic_axis_only_where_the_range_is_wide() -> None:
    def grid(low: float, high: float) -> list[float]:
        task = evidence(candidate("a", quality=0.5, usd_per_1000_requests=low), candidate("b", quality=0.6, usd_per_1000_requests=high))
        chart = charts.pareto(task, "usd_per_1000_requests")
        assert chart is not None
        places = re.findall(r'<line transform="translate\(([\d.]+),\d+\)" x2="0" y2="-310"', chart.svg)
        return [float(b) - float(a) for a, b in pairwise(places)]

    narrow, wide = grid(1, 2), grid(0.1, 10)
    assert max(narrow) - min(narrow) < 0.1
    assert max(wide) - min(wide) > 1


def test_latency_is_the_probed_one_where_most_have_it() -> None:
    probed = [candidate(n, quality=0.5, latency_p95_seconds=0.2, seconds_per_1000_requests=9.0) for n in ("a", "b")]
    assert "95th percentile" in said(charts.pareto(evidence(*probed), "latency"))
    batched = [*probed, *[candidate(n, quality=0.5, seconds_per_1000_requests=9.0) for n in ("c", "d")]]
    assert "in batches" in said(charts.pareto(evidence(*batched), "latency"))


def test_learning_curves_find_where_the_lead_changes() -> None:
    def points(name: str, **values: float) -> list[dict[str, Any]]:
        return [{"strategy": name, "train_examples": int(size[1:]), "value": value} for size, value in values.items()]

    rows = points("flat", n10=0.5, n1000=0.5) + points("rising", n10=0.1, n1000=0.9) + points("best", n10=1.0, n1000=1.0)
    task = evidence(candidate("flat"), candidate("rising"), candidate("best", "oracle"), curves=tuple(rows))
    # Halfway up in log2 of the size: the geometric mean of 10 and 1,000; the oracle takes no lead.
    assert "rising overtakes flat at about 100 examples" in said(charts.learning_curves(task))
    reverse = said(charts.learning_curves(replace(task, higher_is_better=False)))
    assert "flat overtakes rising at about 100 examples" in reverse
    assert charts.learning_curves(replace(task, curves=tuple(points("flat", n10=0.5)))) is None


def crossing_curves(**crossover: Any) -> TaskEvidence:
    """A flat line and one that overtakes it at the geometric mean of 10 and 1,000."""
    rows = [
        {"strategy": name, "train_examples": size, "value": value}
        for name, values in (("flat", (0.5, 0.5)), ("rising", (0.1, 0.9)))
        for size, value in zip((10, 1000), values, strict=True)
    ]
    row = {"a": "flat", "b": "rising", "crossover": 100.0, "low": 40.0, "high": 300.0, "ahead_at_largest": "rising", **crossover}
    return evidence(candidate("flat"), candidate("rising"), curves=tuple(rows), crossovers=(row,))


@pytest.mark.parametrize(
    ("crossover", "span"),
    [
        ({}, " [40, 300]"), ({"low": None}, " [<10, 300]"), ({"high": None}, " [40, >1,000]"),
        ({"a": "rising", "b": "flat"}, " [40, 300]"),
    ],
)  # fmt: skip
def test_a_change_of_the_lead_has_the_interval_of_the_crossover(crossover: dict[str, Any], span: str) -> None:
    chart = charts.learning_curves(crossing_curves(**crossover))
    assert chart is not None
    assert f"rising overtakes flat at about 100{span} examples" in chart.description
    assert f"rising ahead from 100{span}" in texts(chart)
    assert chart.table[0][-1] == "overtakes, at examples [95 %]"
    assert [row[-1] for row in chart.table[1]] == ["–", f"flat at 100{span}"]


def test_the_bar_of_a_crossover_reaches_from_bound_to_bound_or_to_the_edge() -> None:
    def bar(task: TaskEvidence) -> tuple[float, float]:
        """The pixels at which the one horizontal line of the bar's width begins and ends."""
        chart = charts.learning_curves(task)
        assert chart is not None
        lines = [e for e in ET.fromstring(chart.svg).iter("{http://www.w3.org/2000/svg}line") if e.get("stroke-width") == "6"]
        (line,) = lines
        start = float(re.findall(r"-?[\d.]+", line.get("transform", "translate(0,0)"))[0])
        ends = sorted((start, start + float(line.get("x2", 0))))
        assert float(line.get("y2", 0)) == 0
        return ends[0], ends[1]

    low, high = bar(crossing_curves())
    width = 3 * (high - low) / math.log(300 / 40)  # no unit of its own: only ratios are compared
    to_the_left, _ = bar(crossing_curves(low=None))
    _, to_the_right = bar(crossing_curves(high=None))
    assert (low - to_the_left) / width == pytest.approx(math.log(40 / (10 / 1.06)) / 3, rel=0.01)
    assert (to_the_right - high) / width == pytest.approx(math.log(1060 / 300) / 3, rel=0.01)


def test_a_crossover_that_is_no_change_of_the_lead_is_in_the_table_alone() -> None:
    chart = charts.learning_curves(crossing_curves(crossover=700.0))  # the last of several crossings
    assert chart is not None
    assert "overtakes flat at about 100 examples" in chart.description
    assert "flat at 700 [40, 300]" in chart.table[1][1][-1]
    none = charts.learning_curves(crossing_curves(crossover=None, low=None, high=None))
    assert none is not None
    assert none.table[0][-1] == "1,000 examples"


def test_break_even_finds_the_cheapest_by_volume() -> None:
    task = evidence(
        candidate("prompt", setup_usd=0.0, usd_per_1000_requests=10.0),
        candidate("tuned", setup_usd=100.0, usd_per_1000_requests=5.0),
        candidate("never", setup_usd=200.0, usd_per_1000_requests=20.0),
        candidate("unpriced", quality=0.5),
    )
    chart = charts.break_even(task)
    # 100 dollars are paid back by half a cent a request.
    assert "prompt is the cheapest of all to begin with; tuned from 20 k requests on." in said(chart)
    assert chart is not None
    assert [row[0] for row in chart.table[1]] == ["prompt", "tuned", "never"]
    assert chart.table[1][1] == ("tuned", "100", "5.00", "105", "600", "50,100")
    assert "tuned cheapest from 20 k" in texts(chart)


def test_break_even_counts_refreshes_and_needs_their_price() -> None:
    costs = {"usd_per_1000_requests": 5.0, "setup_usd": 100.0}
    cheap = candidate("prompt", setup_usd=0.0, usd_per_1000_requests=10.0, refresh_usd=0.0)
    task = evidence(cheap, candidate("tuned", **costs, refresh_usd=100.0))
    assert "tuned from 80 k requests on" in said(charts.break_even(task, refreshes=3))
    assert charts.break_even(evidence(cheap, candidate("tuned", **costs)), refreshes=3) is None


def test_break_even_of_lines_that_never_meet_and_of_free_ones() -> None:
    low, high = candidate("low", setup_usd=1.0, usd_per_1000_requests=1.0), candidate("high", setup_usd=2.0, usd_per_1000_requests=2.0)
    assert said(charts.break_even(evidence(low, high))).endswith("low is the cheapest of all to begin with.")
    assert charts.break_even(evidence(low, candidate("free", setup_usd=0.0, usd_per_1000_requests=0.0))) is None


def test_hallucination_bars_add_up_and_name_the_worst() -> None:
    task = evidence(
        candidate("majority", "floor", hallucination_rate=0.0, abstention_rate=1.0),
        candidate("bold", hallucination_rate=(0.4, 0.3, 0.5), abstention_rate=0.0),
        candidate("careful", hallucination_rate=0.1, abstention_rate=0.3),
        candidate("broken", "failed"),
    )
    chart = charts.hallucination_bars(task)
    assert chart is not None
    assert chart.table[1] == (
        ("majority", "0.0 %", "0.0 %", "100.0 %"),
        ("bold", "60.0 %", "40.0 % [30.0, 50.0]", "0.0 %"),
        ("careful", "60.0 %", "10.0 %", "30.0 %"),
    )
    assert "most wrong has bold (40.0 % [30.0, 50.0])" in chart.description
    assert "careful (10.0 %, 30.0 % abstained)" in chart.description
    widths = bar_widths(chart)
    assert widths["#D55E00"] == pytest.approx([0, 2 * widths["#0072B2"][1] / 3, widths["#0072B2"][2] / 6], abs=0.05)


def bar_widths(chart: Chart) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for width, colour in re.findall(r'd="M[\d.][-\d.,]*h([\d.]+)v[-\d.]+h-?[\d.]+Z" fill="(#\w+)"', chart.svg):
        found.setdefault(colour.upper(), []).append(float(width))
    return found


def test_errors_and_memory_are_tables_of_their_parts() -> None:
    task = evidence(
        errors={"rag": {"retrieval_miss": 0.2, "fabricated": 0.05}, "rag-lora": {"fabricated": 0.1}},
        memory={"lora": {"weights_bytes": 6 * 10**9, "workspace_bytes": -(10**9)}},
    )
    errors, memory = charts.error_kinds(task), charts.memory_parts(task)
    assert errors is not None
    assert errors.table == (
        ("strategy", "retrieval miss", "fabricated", "all"),
        (("rag", "20.0 %", "5.0 %", "25.0 %"), ("rag-lora", "–", "10.0 %", "10.0 %")),
    )
    assert "rag errs most (25.0 %); the most frequent kind is retrieval miss (10.0 % of items on average)" in errors.description
    assert memory is not None
    assert memory.table[1] == (("lora", "5.59 GiB", "-954 MiB", "4.66 GiB"),)


def test_forgetting_takes_the_first_measure_that_is_there() -> None:
    trained = candidate("lora", quality=0.8, forgetting__kl_to_base=0.5, forgetting__skill_drop=(0.25, 0.1, 0.4))
    text = said(charts.forgetting_against_quality(evidence(candidate("plain", quality=0.5), trained)))
    assert "drop in a skill" in text
    assert "lora 25.0 % (80.0 %)" in text
    assert "plain" not in text


def test_calibration_names_the_best_and_worst() -> None:
    task = evidence(candidate("a", ece=(0.3, 0.2, 0.4), brier=0.2), candidate("b", ece=0.01), candidate("c"))
    chart = charts.calibration(task)
    assert chart is not None
    assert chart.table[1] == (("a", "0.300 [0.200, 0.400]", "0.200"), ("b", "0.010", "–"))
    assert "lowest expected calibration error has b (0.010), the highest a (0.300" in chart.description


def test_utilities_weigh_the_criteria_and_drop_the_total() -> None:
    scaled = {"rag": {"quality": 1.0, "cost": 0.0, "total": 0.75}, "lora": {"quality": 0.8, "cost": 1.0, "total": 0.85}}
    chart = charts.utilities(evidence(), scaled, {"quality": 3.0, "cost": 1.0})
    assert chart is not None
    assert chart.table[1] == (("lora", "0.600", "0.250", "0.850"), ("rag", "0.750", "0.000", "0.750"))


def test_weightings_are_shares() -> None:
    chart = charts.weightings(evidence(), {"rag": 0.25, "lora": 0.75})
    assert said(chart) == "lora is the choice under 75.0 % of all weightings of the criteria, rag under 25.0 %."
    assert charts.weightings(evidence(), {}) is None


def test_nothing_measured_gives_no_chart() -> None:
    task = evidence(candidate("plain", quality=0.5), candidate("broken", "failed"))
    assert every(task)[:11] == [None] * 11
    assert charts.utilities(task, {}, {"quality": 1.0}) is None


# ---------------------------------------------------------------------------------------------- how they look


def test_small_and_alone(twelve: list[Chart]) -> None:
    for chart in twelve:
        assert len(chart.svg.encode()) < 40_000, chart.title
        root = ET.fromstring(chart.svg)
        assert root.get("viewBox", "").startswith("0 0 640 ")
        assert (root.get("width"), root.get("role"), root.get("height")) == ("100%", "img", None)
        assert re.findall(r"https?:", chart.svg) == ["http:"], "the name space alone"
        assert not re.search(r"<(script|style|image|foreignObject|a|use)\b|\bon\w+=|href", chart.svg)


def test_named_and_described_by_ids_of_their_own(twelve: list[Chart]) -> None:
    seen: list[str] = []
    for chart in twelve:
        root = ET.fromstring(chart.svg)
        by_id = {element.get("id"): element.text for element in root.iter() if element.get("id")}
        seen += [str(name) for name in by_id]
        named, described = str(root.get("aria-labelledby")).split()
        assert (by_id[named], by_id[described]) == (chart.title, chart.description)
    assert len(seen) == len(set(seen))
    other = charts.weightings(replace(many(), task="other"), {"rag": 1.0})
    same = charts.weightings(many(), {"rag": 1.0})
    assert other is not None
    assert same is not None
    assert not set(re.findall(r'id="([^"]+)"', other.svg)) & set(re.findall(r'id="([^"]+)"', same.svg))


def test_every_row_of_the_table_has_the_width_of_its_head(twelve: list[Chart]) -> None:
    for chart in twelve:
        assert len(chart.table[1]) == 12
        assert {len(row) for row in chart.table[1]} == {len(chart.table[0])}, chart.title


def test_same_bytes_again(twelve: list[Chart]) -> None:
    assert charts.pareto(many(), "usd_per_1000_requests") == twelve[0]
    assert charts.break_even(many()) == twelve[4]


def test_text_takes_the_colour_of_the_page_and_nothing_paints_the_background(twelve: list[Chart]) -> None:
    for chart in twelve:
        assert INK not in chart.svg
        fills = {element.get("fill") for element in ET.fromstring(chart.svg).iter("{http://www.w3.org/2000/svg}text")}
        assert fills <= {"currentColor", "#000000", "#ffffff"}
        assert 'fill="white"' not in chart.svg


@pytest.mark.parametrize("colour", PALETTE)
def test_colours_stand_out_on_light_and_dark(colour: str) -> None:
    assert contrast(colour, "#ffffff") >= 3
    assert contrast(colour, "#111111") >= 3
    assert max(contrast(colour, "#000000"), contrast(colour, "#ffffff")) >= 4, "of the letters in a bar"


def test_contrast_and_luminance_of_known_colours() -> None:
    assert (luminance("#ffffff"), luminance("#000000")) == (pytest.approx(1), 0)
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_strategies_are_told_apart_without_colour_too() -> None:
    styles = {(PALETTE[i % len(PALETTE)], DASHES[i % len(DASHES)]) for i in range(40)}
    assert len(styles) == 40
    assert len(set(SHAPES)) == len(PALETTE)


def test_hostile_names_are_text() -> None:
    for chart in every(many(3, lambda i: f"{HOSTILE}{i}" if i else "x" * 200 + HOSTILE)):
        assert chart is not None
        root = ET.fromstring(chart.svg)
        assert {element.tag.rpartition("}")[2] for element in root.iter()} <= {"svg", "title", "desc", "g", "path", "line", "text"}
        assert "\x1b" not in chart.svg + chart.description + "".join(chart.table[1][0])
        assert "<img" not in chart.svg
        assert any(text.startswith("<img src=x onerror") for text in texts(chart)), chart.title
        assert any(text.endswith("…") and len(text) <= 30 for text in texts(chart)), chart.title


def test_a_metric_and_a_family_of_others_are_text_too() -> None:
    task = replace(three(), metric=HOSTILE, task=HOSTILE, candidates=tuple(replace(c, family=HOSTILE) for c in three().candidates))
    chart = charts.pareto(task, "usd_per_1000_requests")
    assert chart is not None
    ET.fromstring(chart.svg)
    assert "<img" not in chart.svg


def test_all_text_is_inside_the_view(twelve: list[Chart]) -> None:
    for chart in twelve:
        root = ET.fromstring(chart.svg)
        height = float(root.get("viewBox", "").split()[3])
        margin = re.search(r'transform="translate\((\d+),(\d+)\)"', chart.svg)
        assert margin is not None
        for element in root.iter("{http://www.w3.org/2000/svg}text"):
            place = re.match(r"translate\(([-\d.]+),([-\d.]+)\)", element.get("transform", ""))
            assert place is not None
            x, y = float(place[1]) + float(margin[1]), float(place[2]) + float(margin[2])
            size = float(element.get("font-size", "0").removesuffix("px"))
            assert size >= 11
            width = text_width(element.text or "", size)
            start = {"start": 0.0, "middle": 0.5, "end": 1.0}[element.get("text-anchor", "start")]
            assert x - start * width >= -2, (chart.title, element.text)
            assert x + (1 - start) * width <= 646, (chart.title, element.text)
            assert size * 0.7 <= y <= height, (chart.title, element.text)


def test_what_is_drawn_is_valid_vega_lite(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report does not check its specifications, so that this does, with marks of every kind."""
    altair = pytest.importorskip("altair")
    found: list[dict[str, Any]] = []
    drawn = Canvas.specification
    monkeypatch.setattr(Canvas, "specification", lambda canvas: found.append(drawn(canvas)) or found[-1])
    assert all(every(many(4)))
    for specification in found:
        altair.LayerChart.from_dict(json.loads(json.dumps(specification)), validate=True)
    assert {layer["mark"]["type"] for one in found for layer in one["layer"]} == {"rule", "line", "rect", "point", "text"}
    with pytest.raises(Exception, match="no such mark"):
        altair.LayerChart.from_dict({**found[0], "layer": [{"mark": "no such mark"}]}, validate=True)


def test_ticks_of_bytes_are_round_in_powers_of_1024() -> None:
    labels = [label for _, label in linear_axis([300e6, 950e6], "", "bytes").ticks]
    assert labels == ["400 MiB", "600 MiB", "800 MiB"]
    linear, logarithmic = linear_axis([0, 3e9], "", "bytes", exact=True), log_axis([1e8, 3e9], "", "bytes")
    assert [label for _, label in linear.ticks] == ["0 B", "512 MiB", "1 GiB", "1.5 GiB", "2 GiB", "2.5 GiB"]
    assert [label for _, label in logarithmic.ticks] == ["64 MiB", "128 MiB", "256 MiB", "512 MiB", "1 GiB", "2 GiB", "4 GiB"]


def test_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "vl_convert":
            raise ModuleNotFoundError("No module named 'vl_convert'", name=name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BenchError, match=r"charts: vl_convert is not installed; pip install 'adaptation-bench\[report\]'"):
        charts.pareto(three(), "usd_per_1000_requests")


def test_labels_of_many_changes_do_not_cover_each_other(twelve: list[Chart]) -> None:
    chart = twelve[4]
    assert chart.description.count("requests on") == 11
    found = [
        (float(x), float(y), text_width(text, 12), anchor)
        for anchor, x, y, text in re.findall(
            r'<text text-anchor="(\w+)" transform="translate\(([\d.]+),(-[\d.]+)\)"[^>]*>([^<]*cheapest[^<]*)<', chart.svg
        )
    ]
    spans = sorted((y, x - width if anchor == "end" else x, x if anchor == "end" else x + width) for x, y, width, anchor in found)
    assert len(spans) >= 2
    assert all(a[0] != b[0] or a[2] <= b[1] for a, b in pairwise(spans))


# ---------------------------------------------------------------------------------------------- where things go


def test_spread_keeps_order_distance_and_bounds() -> None:
    assert spread([5, 50], 10, 0, 100) == [5, 50]
    assert spread([50, 50, 50], 10, 0, 100) == [50, 60, 70]
    assert spread([99, 98], 10, 0, 100) == [100, 90]
    assert spread([-20, 120], 10, 0, 100) == [0, 100]


def test_labels_of_a_crowd_do_not_overlap() -> None:
    points = [Point(100 + 4 * i, 100 + 3 * (i % 3)) for i in range(8)]
    placed = [box for box, _ in place_labels(points, [f"strategy-{i}" for i in range(8)], [], [], Box(0, 0, 560, 310))]
    assert all(a.overlap(b) == 0 for i, a in enumerate(placed) for b in placed[:i])


def test_label_of_a_lone_point_is_right_of_it_and_turns_at_the_edge() -> None:
    within = Box(0, 0, 560, 310)
    assert place_labels([Point(100, 100)], ["lora"], [], [], within)[0][0].left > 100
    assert place_labels([Point(555, 100)], ["lora"], [], [], within)[0][0].right <= 560


def test_ticks_are_round() -> None:
    assert [label for _, label in linear_axis([0.2, 1.0], "", "share").ticks] == ["20 %", "40 %", "60 %", "80 %", "100 %"]
    assert linear_axis([3.0, 3.0], "").low < 3 < linear_axis([3.0, 3.0], "").high
    assert log_ticks(0.9, 120) == pytest.approx([1, 3, 10, 30, 100])
    assert log_ticks(1, 1e12) == pytest.approx([1, 1e2, 1e4, 1e6, 1e8, 1e10, 1e12])


def test_text_is_made_visible_and_short() -> None:
    assert visible("a\x1b\n\u202eb") == "a␛␊⟨U+202E⟩b"
    assert shortened("x" * 30, 10) == "x" * 9 + "…"
    assert shortened("short") == "short"
