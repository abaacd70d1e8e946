"""How judged claims look: Markdown for people, JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence

from bench.result.claims import OUTCOMES, Judged, Verdict
from bench.result.text import as_json, check_format

_GOALS = {"greater": "> 0", "not_greater": "< margin", "equal": "within the margin"}


def render_claims(judged: Sequence[Judged], format: str) -> str:
    """md or json. Raises BenchError for another format."""
    check_format(format, ("md", "json"))
    if format == "json":
        return as_json([_as_json(j) for j in judged])
    counts = {outcome: sum(j.outcome == outcome for j in judged) for outcome in OUTCOMES}
    lines = [", ".join(f"{n} {outcome.lower()}" for outcome, n in counts.items()) + f" of {len(judged)} claims.", ""]
    lines += ["| id | claim | outcome |", "| --- | --- | --- |", *(f"| {j.claim.id} | {j.claim.claim} | {j.outcome} |" for j in judged), ""]
    lines += ["Estimates with 90 % intervals over items and, where arms have seeds, seeds (each bound is a one-sided test at .05);",
              "p for and against the expectation, Holm-adjusted over all tests; MDE: smallest effect found with power .8.", ""]  # fmt: skip
    for j in judged:
        lines += [f"### {j.claim.id}: {j.outcome}", "", j.claim.claim, ""]
        lines += [f"- {t.outcome}: {t.test.says} {_numbers(t)}" for t in j.tests]
        for head, texts in (("Found by", j.claim.supports), ("Otherwise", j.claim.counters)):
            lines += [f"- {head}: {'; '.join(texts)}."] if texts else []
        lines += [f"- {j.claim.note}"] if j.claim.note else []
        lines.append("")
    return "\n".join(lines)


def _numbers(verdict: Verdict) -> str:
    c = verdict.found
    if c is None:
        return f"({verdict.says})"
    low, high = c.interval()
    margin = f", margin {verdict.test.margin:g}" if verdict.test.margin else ""
    return (
        f"({c.estimate:+.3f} [{low:+.3f}, {high:+.3f}], expected {_GOALS[verdict.test.expects]}{margin}, p for {verdict.p_for:.3f},"
        f" against {verdict.p_against:.3f}, MDE {c.minimum_detectable():.3f}, {c.n_clusters} clusters)"
    )


def _as_json(judged: Judged) -> dict[str, object]:
    tests = []
    for t in judged.tests:
        numbers: dict[str, object] = {}
        if t.found:
            low, high = t.found.interval()
            numbers = {
                "estimate": t.found.estimate, "ci90_low": low, "ci90_high": high, "df": t.found.df, "n_clusters": t.found.n_clusters,
                "p_for": t.p_for, "p_against": t.p_against, "minimum_detectable": t.found.minimum_detectable(),
            }  # fmt: skip
        tests.append({"says": t.test.says, "outcome": t.outcome, "margin": t.test.margin, "reason": t.says or None, **numbers})
    return {"id": judged.claim.id, "claim": judged.claim.claim, "outcome": judged.outcome, "tests": tests}
