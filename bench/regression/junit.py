"""A check as JUnit XML, which Jenkins, GitLab and GitHub's test reporters read."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree  # writes only; nothing is parsed
from collections.abc import Iterable, Sequence
from xml.etree.ElementTree import Element, SubElement

from bench.regression.model import Check, Comparison, Flip, Gate
from bench.regression.wording import against, before_after, change_text, finding, gate_name, one_line, p_text, sample_text, untrusted_text
from bench.result.text import visible

N_FLIPS = 200
"""Changed answers that are listed for a gate: GitLab takes no file of 30 MB or more (docs.gitlab.com, ci/testing/unit_test_reports)."""


def junit_xml(check: Check) -> str:
    """One suite per comparison and strategy, one case per gate; a regression is a failure, what is inconclusive is skipped.

    Class names are ``comparison.task.strategy``: GitLab keeps one case of each class and name and drops the others, and Jenkins takes
    what stands before the last dot for the package.
    """
    root = Element("testsuites", {"name": _xml(f"bench check {check.suite}"), **_counts(check.gates)})
    for comparison in check.comparisons:
        for strategy in dict.fromkeys(gate.strategy for gate in comparison.gates):
            gates = [gate for gate in comparison.gates if gate.strategy == strategy]
            name = _xml(f"{comparison.name}: {strategy}")
            suite = SubElement(root, "testsuite", {"name": name, **_counts(gates), "timestamp": _xml(check.when), "time": "0"})
            _properties(suite, _about(check, comparison))
            for gate in gates:
                _case(suite, comparison, gate)
            SubElement(suite, "system-out").text = _xml_lines(_delta_table(gates))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _counts(gates: Sequence[Gate]) -> dict[str, str]:
    verdicts = [gate.verdict for gate in gates]
    return {
        "tests": str(len(gates)),
        "failures": str(verdicts.count("regression")),
        "errors": "0",
        "skipped": str(verdicts.count("inconclusive")),
    }


def _about(check: Check, comparison: Comparison) -> list[tuple[str, str]]:
    found = [("run", check.run), ("commit", check.commit or "unknown"), ("against", against(comparison))]
    found += [("not trusted", why) for why in [untrusted_text(comparison)] if why]
    found += [(f"differs: {d.part}", f"{d.what}: {d.before} → {d.after}") for d in comparison.differences]
    return found + [("note", note) for note in comparison.notes]


def _case(suite: Element, comparison: Comparison, gate: Gate) -> None:
    of_class = f"{comparison.name}.{gate.task}.{gate.strategy}"
    case = SubElement(suite, "testcase", {"classname": _xml(of_class), "name": _xml(gate_name(gate)), "time": "0"})
    keys = ("before", "after", "change", "low", "high", "p", "p_adjusted", "limit", "n_items", "n_seeds", "needed_items", "test")
    values = ((key, getattr(gate, key)) for key in keys)
    _properties(case, [("verdict", gate.verdict), *((key, str(value)) for key, value in values if value not in (None, ""))])
    if gate.verdict == "regression":
        failure = SubElement(case, "failure", {"message": _xml(finding(gate)), "type": _xml(f"{gate.kind} regression")})
        failure.text = _xml(finding(gate))
    elif gate.verdict == "inconclusive":
        SubElement(case, "skipped", {"message": _xml(f"inconclusive: {finding(gate)}")})
    if gate.flips:
        more = [f"and {len(gate.flips) - N_FLIPS} more"] if len(gate.flips) > N_FLIPS else []
        SubElement(case, "system-out").text = _xml_lines([*map(_flip_line, gate.flips[:N_FLIPS]), *more])


def _properties(parent: Element, values: Iterable[tuple[str, str]]) -> None:
    found = SubElement(parent, "properties")
    for name, value in values:
        SubElement(found, "property", {"name": name, "value": _xml(value)})


def _delta_table(gates: Sequence[Gate]) -> list[str]:
    head = ("verdict", "task", "gate", "before", "now", "change", "p", "items")
    rows = [
        (g.verdict, one_line(g.task), one_line(gate_name(g)), *before_after(g), change_text(g), p_text(g), sample_text(g)) for g in gates
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)]


def _flip_line(flip: Flip) -> str:
    tie = " (a tie, excused)" if flip.excused else ""
    answers = f'before "{one_line(flip.before, 300)}", now "{one_line(flip.after, 300)}"'
    return f'item {one_line(flip.item)} s{flip.seed}{tie}: expected "{one_line(" | ".join(flip.targets), 300)}", {answers}'


def _xml(text: str) -> str:
    """One line of characters that XML 1.0 allows; markup is escaped by ElementTree."""
    return re.sub("[\ufffe\uffff]", "\ufffd", one_line(text))


def _xml_lines(lines: Iterable[str]) -> str:
    return re.sub("[\ufffe\uffff]", "\ufffd", visible("\n".join(lines)))
