"""report.md: the decision report in Markdown, for a pull request or a wiki; the same facts as the page, without items and charts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.report.axes import cell, columns
from bench.report.contents import (
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
from bench.report.model import Evidence, Measure
from bench.report.numbers import Unit, quality_unit, with_interval
from bench.result.text import NONE, escaped, markdown_list, markdown_table, visible

if TYPE_CHECKING:
    from bench.report.constraints import Constraints


def render_text(evidence: Evidence, reports: Sequence[TaskReport], constraints: Constraints) -> str:
    """The whole report, sections 1 to 5 and 7 of the page, per task."""
    parts = [
        "# Which way of adapting the model should we use?\n\n",
        f"From the records of {plain(', '.join(evidence.runs))}. Intervals are 95 %.\n",
    ]
    for name, report in zip(named_tasks(evidence), reports, strict=True):
        parts += [f"\n## {plain(name)}\n", *_task(report, constraints)]
        prints = fingerprints_of(evidence, report.task)
        if prints:
            parts += ["\nHashes (SHA-256):\n\n", markdown_list(f"{plain(key)}: {plain(value)}" for key, value in prints)]
    parts += ["\n## The runs behind this report\n"]
    if evidence.claims:
        rows = [[plain(str(c.get(key) or NONE)) for key in ("id", "outcome", "claim", "detail")] for c in evidence.claims]
        parts += ["\nPublished claims that these runs can judge:\n\n", markdown_table(["Claim", "Outcome", "In words", "Detail"], rows)]
    if evidence.notes:
        parts += ["\nNotes on the records:\n\n", markdown_list(map(plain, evidence.notes))]
    parts += ["\nMake them again:\n\n", "".join(f"    {line}\n" for line in visible(evidence.command).splitlines())]
    facts = [
        *flattened(evidence.assumptions, "assumption: "),
        *(("price", price) for price in evidence.prices),
        *flattened(evidence.environment),
    ]
    return "".join([*parts, "\nCosts and environment:\n\n", markdown_list(f"{plain(key)}: {plain(value)}" for key, value in facts)])


def plain(text: str) -> str:
    """Text that Markdown shows as it is: no code, links, headings, HTML or table cells come of it, and control characters are visible."""
    shown_text = escaped(visible(text)).replace("&", "&amp;")
    for mark in "[]_~":
        shown_text = shown_text.replace(mark, "\\" + mark)
    return shown_text


def _task(report: TaskReport, constraints: Constraints) -> list[str]:
    task, decision = report.task, report.decision
    parts = ["\n### 1. The answer\n\n", markdown_list(plain(line) for line in decision.explanation), "\n### 2. Your constraints\n\n"]
    hard, other = asked_for(constraints)
    parts += [] if hard else ["No hard constraint was given: every strategy that was measured is considered.\n\n"]
    parts += [markdown_list(f"{key}: {plain(value)}" for key, value in hard + other), "\n"]
    outcomes = [(c.strategy, *outcome_of(task, decision, c.strategy)) for c in task.candidates]
    parts += [
        _table(["Strategy", "Outcome", "Reasons"], [[name, outcome, "; ".join(reasons) or NONE] for name, outcome, reasons in outcomes])
    ]
    parts += ["\nThe rule, and what each step did:\n\n"]
    parts += [f"{place}. {plain(step.rule)} {plain(step.result)}\n" for place, step in enumerate(decision.steps, 1)]
    parts += ["\n### 3. The four axes\n\n", _axes(report), "\n### 4. Comparison\n\n", _comparison(report)]
    parts += ["\n### 5. What would change the answer\n\n", *_sensitivity(report), "\n### 7. What this rests on\n\n"]
    return [*parts, markdown_list(f"{name}: {text}" for name, text in threats(task))]


def _axes(report: TaskReport) -> str:
    found = columns(report.task)
    head = ["Strategy", *(f"{c.criterion.axis}: {c.criterion.name} ({c.source.label if c.source else 'not measured'})" for c in found)]
    rows = []
    for candidate in report.task.candidates:
        cells = [cell(candidate, column) for column in found]
        rows.append([candidate.strategy, *(" ".join(filter(None, (c.text, c.interval))) for c in cells)])
    missing = [f"{c.criterion.axis}: {c.criterion.name} was not measured; {c.criterion.how}" for c in found if c.source is None]
    return _table(head, rows) + ("\n" + markdown_list(map(plain, missing)) if missing else "")


def _comparison(report: TaskReport) -> str:
    task = report.task
    baseline, wanted, of = baseline_of(task), headings(task), letters(task)
    against = differences(task, baseline) if baseline else {}
    head = ["Strategy", "Letters", task.metric, f"Difference to {baseline or 'a baseline'}", *(h.label for h in wanted), "Seeds"]
    rows = []
    for c in best_first(task):
        d = against.get(c.strategy)
        difference = " ".join(filter(None, (d.text, d.interval, d.verdict))) if d else NONE
        measured = [_shown(c.measures.get(h.measure), h.unit) for h in wanted]
        rows.append(
            [c.strategy, of.get(c.strategy, NONE), _shown(quality(task, c), quality_unit(task)), difference, *measured, str(c.n_seeds)]
        )
    text = _table(head, rows) + "\nStrategies that share a letter are not distinguishable (Holm-adjusted p > .05).\n"
    changed_head, changed = change_table(task)
    return text + ("\n#### Since the earlier run\n\n" + _table(changed_head, changed) if changed else "")


def _sensitivity(report: TaskReport) -> list[str]:
    if not report.shares:
        return ["Nothing is eligible, so no weighting has a winner.\n"]
    shares = [[name, f"{100 * share:.1f} %"] for name, share in sorted(report.shares.items(), key=lambda pair: -pair[1])]
    parts = [_table(["Strategy", "Share of weightings in which it wins"], shares), "\n"]
    parts += [_table(["Criterion left out", "Choice then"], [list(pair) for pair in report.left_out.items()])]
    return [*parts, "\n", markdown_list(map(plain, report.flips))] if report.flips else parts


def _shown(found: Measure | None, unit: Unit) -> str:
    return NONE if found is None else with_interval(found, unit)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return markdown_table([plain(h) for h in head], [[plain(value) for value in row] for row in rows])
