"""The decision report as one self-contained HTML file: nothing is loaded from anywhere, and nothing in it can act.

Three guards for what others wrote (answers, documents, names): Jinja escapes every value; data for the script is JSON whose ``<``, ``>``
and ``&`` are escapes; and a Content Security Policy lets the page run its one script, by hash, and load nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import __version__
from bench.report.axes import Cell, cell, columns
from bench.report.contents import (
    Difference,
    TaskReport,
    asked_for,
    baseline_of,
    best_first,
    change_table,
    differences,
    fingerprints_of,
    flattened,
    headings,
    letters,
    named_tasks,
    outcome_of,
    quality,
    threats,
)
from bench.report.model import Candidate, Evidence, Measure, TaskEvidence
from bench.report.numbers import Unit, quality_unit, shown, shown_interval
from bench.result.text import NONE, visible

if TYPE_CHECKING:
    import jinja2

    from bench.report.charts import Chart
    from bench.report.constraints import Constraints

TEMPLATES = Path(__file__).parent / "templates"
SECTIONS = (
    ("answer", "Answer"), ("constraints", "Constraints"), ("axes", "Four axes"), ("comparison", "Comparison"),
    ("sensitivity", "Sensitivity"), ("items", "Before and after"), ("basis", "Threats and hashes"),
)  # fmt: skip
PRICES = "no two strategies have a price: bench report --prices FILE, with the price of the run's device"
MARKS = {"correct": "✓ right", "incorrect": "✗ wrong", "abstained": "– abstained"}
"""A sign and a word, so that no colour has to tell them apart."""


def render_page(evidence: Evidence, reports: Sequence[TaskReport], constraints: Constraints) -> str:
    """The whole file. Raises `BenchError` where the charts' library is not installed."""
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    names = named_tasks(evidence)
    return page_template(TEMPLATES / "report.html.jinja").render(
        title=f"Decision report: {', '.join(names)}",
        style=markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
        script=markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        evidence=evidence,
        views=[_view(f"task-{place}", name, report, evidence) for place, (name, report) in enumerate(zip(names, reports, strict=True))],
        sections=SECTIONS,
        constraints=asked_for(constraints),
        assumptions=flattened(evidence.assumptions),
        environment=flattened(evidence.environment),
        version=__version__,
    )


@cache
def page_template(file: Path) -> jinja2.Template:
    """A template whose values are escaped and have their control characters made visible."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(file.parent), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, finalize=_finalized,
    )  # fmt: skip
    return environment.get_template(file.name)


def _finalized(value: Any) -> Any:
    """Every text that the template prints, but markup of our own, with its control characters made visible."""
    return value if hasattr(value, "__html__") or not isinstance(value, str) else visible(value)


def markup(text: str) -> Any:
    """Text that a template prints as it is."""
    from markupsafe import Markup

    return Markup(text)  # noqa: S704  our own files, and the charts, which escape what they are given


def script_json(value: Any) -> str:
    """JSON that can stand in a script element: no ``<``, ``>``, ``&``, line separator or control character is left in it as it is.

    Raises ValueError for NaN and infinity, which are no JSON.
    """
    text = json.dumps(_visible_strings(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _visible_strings(value: Any) -> Any:
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {visible(key): _visible_strings(entry) for key, entry in value.items()}
    return [_visible_strings(entry) for entry in value] if isinstance(value, list | tuple) else value


def _view(identity: str, name: str, report: TaskReport, evidence: Evidence) -> dict[str, Any]:
    """What the template needs of one task."""
    from bench.report.questions import choose

    task, decision = report.task, report.decision
    found, wanted, baseline = columns(task), headings(task), baseline_of(task)
    spans = {axis: sum(c.criterion.axis == axis for c in found) for axis in dict.fromkeys(c.criterion.axis for c in found)}
    charts, sensitivity, missing = _charts(report, evidence)
    questions = {question.id: question for question in task.questions}
    chosen = [(c, questions[c.question]) for c in choose(task, baseline, decision.recommended)]
    qualities = {c.strategy: _quality(task, c) for c in task.candidates}
    headline = qualities[decision.recommended] if decision.recommended else Cell(NONE, "", "", None)
    against = {b: differences(task, b) for b in (c.strategy for c in task.candidates if c.standing == "contender" and quality(task, c))}
    return {
        "id": identity,
        "name": name,
        "task": task,
        "decision": decision,
        "headline": (headline.text, headline.interval, headline.reason),
        "outcomes": {c.strategy: outcome_of(task, decision, c.strategy) for c in task.candidates},
        "utilities": _utilities(report),
        "columns": found,
        "axis_spans": list(spans.items()),
        "cells": {c.strategy: [cell(c, column) for column in found] for c in task.candidates},
        "headings": wanted,
        "qualities": qualities,
        "measured": {c.strategy: [_measured(c, h.measure, h.unit) for h in wanted] for c in task.candidates},
        "letters": letters(task),
        "families": list(dict.fromkeys(c.family for c in task.candidates)),
        "baseline": baseline,
        "best_first": best_first(task),
        "differences": against,
        "changes": change_table(task),
        "charts": charts,
        "sensitivity_charts": sensitivity,
        "missing": missing,
        "weightings": [(n, f"{100 * share:.1f} %") for n, share in sorted(report.shares.items(), key=lambda pair: -pair[1])],
        "left_out": list(report.left_out.items()),
        "flips": report.flips,
        "chosen": chosen,
        "read": {q.id: _read(q.gold, [a.retrieved or () for a in q.answers.values()]) for _, q in chosen},
        "marks": MARKS,
        "threats": threats(task),
        "fingerprints": fingerprints_of(evidence, task),
        "data": markup(script_json(_data(report, against))),
    }


def _quality(task: TaskEvidence, candidate: Candidate) -> Cell:
    return _cell(quality(task, candidate), quality_unit(task))


def _measured(candidate: Candidate, measure: str, unit: Unit) -> Cell:
    return _cell(candidate.measures.get(measure), unit)


def _cell(found: Measure | None, unit: Unit) -> Cell:
    return Cell(NONE, "", "", None) if found is None else Cell(shown(found.value, unit), shown_interval(found, unit), "", found.value)


def _utilities(report: TaskReport) -> tuple[list[str], list[list[str]]] | None:
    """Head and rows: each strategy's scaled criteria, best total first; None where nothing is eligible."""
    decision = report.decision
    if not decision.utilities:
        return None
    criteria = [*decision.weights, "total"]
    head = ["Strategy", *(f"{name} (weight {decision.weights[name]:.2f})" if name in decision.weights else name for name in criteria)]
    ranked = sorted(decision.utilities.items(), key=lambda pair: -pair[1]["total"])
    return head, [[name, *(f"{of_one[criterion]:.2f}" for criterion in criteria)] for name, of_one in ranked]


def _read(gold: Sequence[str], retrieved: Sequence[Sequence[str]]) -> list[str]:
    """The documents of one item, gold ones first, each once."""
    return list(dict.fromkeys([*gold, *(identity for ids in retrieved for identity in ids)]))


def _data(report: TaskReport, against: dict[str, dict[str, Difference]]) -> dict[str, Any]:
    """What the script needs: differences against any baseline, and all items."""
    from bench.report.questions import packed

    return {
        "recommended": report.decision.recommended,
        "contenders": [c.strategy for c in report.task.candidates if c.standing == "contender"],
        "marks": MARKS,
        "differences": {b: {n: (d.text, d.interval, d.verdict, d.value) for n, d in found.items()} for b, found in against.items()},
        "packed": packed(report.task),
    }


Charts = dict[str, tuple["Chart | None", str]]
"""Name -> chart, and what the records would need for it."""


def _charts(report: TaskReport, evidence: Evidence) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[tuple[str, str]]]:
    """Charts of the comparison, charts of the sensitivity, and those that the records cannot give, with the reason."""
    from bench.report import charts

    task, decision, assumed = report.task, report.decision, evidence.assumptions
    refreshes = round(float(assumed.get("refreshes_per_month") or 0) * float(assumed.get("horizon_months") or 0))
    comparison: Charts = {
        "Quality against cost": (charts.pareto(task, "usd_per_1000_requests"), PRICES),
        "Quality against memory": (charts.pareto(task, "peak_memory_bytes"), "no two strategies have a measured peak"),
        "Quality against time": (charts.pareto(task, "latency"), "no two strategies have a measured time"),
        "Break-even over volume": (charts.break_even(task), PRICES),
        "Break-even with refreshes": (
            charts.break_even(task, refreshes) if refreshes else None,
            "the assumptions have no refreshes, or nothing has a price",
        ),
        "Learning curves": (charts.learning_curves(task), "give runs of several sizes: bench run --train-sizes 25,50,100,200"),
        "Hallucination and abstention": (charts.hallucination_bars(task), "the task's metrics tell no attempt from an abstention"),
        "Kinds of error": (charts.error_kinds(task), "no strategy that reads passages has its errors sorted"),
        "Forgetting against learning": (charts.forgetting_against_quality(task), "bench run --probe forgetting"),
        "Memory by part": (charts.memory_parts(task), "the records hold no parts of memory"),
        "Calibration": (charts.calibration(task), "add ece or brier to the task's metrics"),
    }
    sensitivity: Charts = {
        "Utility by criterion": (charts.utilities(task, decision.utilities, decision.weights), "nothing is eligible"),
        "Who wins under which weighting": (charts.weightings(task, report.shares), "nothing is eligible"),
    }
    missing = [(name, why) for name, (chart, why) in comparison.items() if chart is None]
    return _figures(comparison), _figures(sensitivity), missing


def _figures(charts: Charts) -> list[dict[str, Any]]:
    there = [chart for chart, _ in charts.values() if chart is not None]
    return [{"svg": markup(c.svg), "title": c.title, "description": c.description, "head": c.table[0], "rows": c.table[1]} for c in there]
