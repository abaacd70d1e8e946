"""The registry of claims (``bench/claims.yaml``) and what a run says of each: reproduced, contradicted, inconclusive, not applicable.

A claim is published knowledge about adaptation, written down as tests before the run: contrasts of arms with a direction and a margin.
All tests of a claim have to hold for it to be reproduced, and one that holds the other way contradicts it. p values are Holm-adjusted
over all tests of the registry that could be made, those for and those against apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from bench.errors import BenchError
from bench.result.arms import Arm, load_arms
from bench.result.compare import score_group, seed_noise
from bench.result.contrast import Contrast, Expectation, Known, Part, Seeds, contrast, slope_weights
from bench.result.schema import MetricValue
from bench.result.statistics import FloatArray, holm, pooled_seed_variance, seed_variances
from bench.result.store import RunFolder
from bench.result.table import setup_seconds
from bench.settings import parse_settings

ALPHA = 0.05
Outcome = Literal["REPRODUCED", "CONTRADICTED", "INCONCLUSIVE", "NOT APPLICABLE"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Term(_Model):
    """One arm's share in a test."""

    task: str
    strategy: str
    weight: float = 1.0
    """In a trend: 1 or -1, the sign of the arm in the quantity whose slope is meant."""
    x: float | None = None
    """In a trend: where on the dial the arm stands."""
    slice: dict[str, str] = Field(default_factory=dict, max_length=1)
    """Only items whose slice has this value, as in ``{facts: seen}``."""
    probe: str | None = None
    """A value of this probe in place of the task's primary metric."""
    value: str | None = None
    """The probe's value; one that ends with ``*`` is read at the largest ending that every term has (a matched score)."""

    @model_validator(mode="after")
    def _whole(self) -> Term:
        if (self.probe is None) != (self.value is None):
            raise ValueError("probe and value: expected both or neither")
        if self.probe and self.slice:
            raise ValueError("slice: has no meaning for a probe's value")
        return self


class ClaimTest(_Model):
    """One pre-registered test."""

    says: str
    """In words, what has to be found."""
    kind: Literal["contrast", "trend", "identical", "break_even"] = "contrast"
    """contrast: the weighted sum of the terms' means. trend: its least-squares slope over x. identical: the two terms' answers are
    the same, item by item. break_even: the first term's requests are cheaper than the second's, so that its set-up is paid back."""
    expects: Expectation = "greater"
    margin: float = Field(default=0.0, ge=0)
    """What does not matter, in units of the contrast (share of items, or of the value per step of x)."""
    terms: tuple[Term, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _terms_fit(self) -> ClaimTest:
        if self.kind == "trend" and any(t.x is None for t in self.terms):
            raise ValueError("terms: every term of a trend needs x")
        if self.kind in ("identical", "break_even") and len(self.terms) != 2:
            raise ValueError(f"terms: {self.kind} compares two, found {len(self.terms)}")
        return self


class Claim(_Model):
    """One claim."""

    id: str
    claim: str
    supports: tuple[str, ...] = ()
    """Publications that found it."""
    counters: tuple[str, ...] = ()
    """Publications that found otherwise, or say where it ends."""
    tests: tuple[ClaimTest, ...] = Field(min_length=1)
    note: str = ""
    """How the embedded world stands in for the published setting, and what was looked into."""


class Registry(_Model):
    """The keys of ``claims.yaml``."""

    claims: tuple[Claim, ...]


@dataclass
class Verdict:
    """What one test found."""

    test: ClaimTest
    outcome: Outcome
    found: Contrast | None = None
    p_for: float | None = None
    """Holm-adjusted, as is `p_against`."""
    p_against: float | None = None
    says: str = ""
    """Of a test that is no contrast, what was found; of one that could not be made, why."""


@dataclass
class Judged:
    """A claim and what was found of it."""

    claim: Claim
    tests: list[Verdict] = field(default_factory=list)

    @property
    def outcome(self) -> Outcome:
        found = {t.outcome for t in self.tests}
        order: tuple[Outcome, ...] = ("NOT APPLICABLE", "CONTRADICTED", "INCONCLUSIVE", "REPRODUCED")
        return next(outcome for outcome in order if outcome in found)


def load_claims(file: Path | None = None) -> list[Claim]:
    """The claims of a file, by default those that come with the package. Raises BenchError for what is no registry."""
    if file is not None and not file.is_file():
        raise BenchError(f"claims {file}: no such file")
    text = file.read_text() if file else resources.files("bench").joinpath("claims.yaml").read_text()
    claims = list(parse_settings(Registry, text, str(file or "claims.yaml")).claims)
    ids = [c.id for c in claims]
    if repeated := {i for i in ids if ids.count(i) > 1}:
        raise BenchError(f"{file or 'claims.yaml'}: the id {min(repeated)} stands twice")
    return claims


def judge(claims: Sequence[Claim], runs: Sequence[Path]) -> list[Judged]:
    """What the runs say of the claims. Raises BenchError for a run that cannot be read."""
    book = _Book(runs)
    judged = [Judged(claim, [_verdict(test, book) for test in claim.tests]) for claim in claims]
    made = [(v, v.found, v.test.expects, v.test.margin) for j in judged for v in j.tests if v.found]
    in_favour = holm([found.p_for(expects, margin) for _, found, expects, margin in made])
    against = holm([found.p_against(expects, margin) for _, found, expects, margin in made])
    for (verdict, *_), p_for, p_against in zip(made, in_favour, against, strict=True):
        verdict.p_for, verdict.p_against = p_for, p_against
        verdict.outcome = "REPRODUCED" if p_for <= ALPHA else "CONTRADICTED" if p_against <= ALPHA else "INCONCLUSIVE"
    return judged


class _Missing(Exception):
    """What a test needs and the runs do not hold."""


class _Book:
    """The arms of all runs, by task and strategy."""

    def __init__(self, runs: Sequence[Path]) -> None:
        self._runs = [(RunFolder(run), load_arms(run)) for run in runs]

    def arm(self, term: Term) -> tuple[Arm, RunFolder, list[Arm]]:
        """The term's arm, its run, and all arms of its task there; of several runs that hold it, the first that has the probe."""
        found = [(a, run, arms) for run, arms in self._runs for a in arms if (a.task, a.strategy) == (term.task, term.strategy) and a.ok]
        ids = {frozenset(r.cell_id for r in a.ok if r.seed == 0) for a, _, _ in found}
        if len(ids) > 1:
            raise BenchError(f"the runs hold different cells {term.task} / {term.strategy}: name the runs that belong together")
        for arm, run, arms in found:
            if term.probe is None or all(term.probe in r.probes and not r.probes[term.probe].error for r in arm.ok):
                return arm, run, [a for a in arms if (a.task, a.model) == (arm.task, arm.model)]
        missing = f" with probe {term.probe}" if term.probe else ""
        raise _Missing(f"no run has {term.task} / {term.strategy}{missing}")


def _verdict(test: ClaimTest, book: _Book) -> Verdict:
    try:
        if test.kind == "identical":
            return _identical(test, book)
        if test.kind == "break_even":
            return _break_even(test, book)
        terms = test.terms
        if any(t.value and t.value.endswith("*") for t in terms):
            terms = _matched(terms, book)
        weights = [t.weight for t in terms]
        if test.kind == "trend":
            places = sorted({float(t.x) for t in terms if t.x is not None})
            slopes = dict(zip(places, slope_weights(places), strict=True))
            weights = [t.weight * slopes[float(t.x)] for t in terms if t.x is not None]
        parts = [_part(t, w, book) if t.probe is None else _probe_part(t, w, book) for t, w in zip(terms, weights, strict=True)]
        return Verdict(test, "INCONCLUSIVE", contrast(parts))
    except _Missing as missing:
        return Verdict(test, "NOT APPLICABLE", says=str(missing))


def _part(term: Term, weight: float, book: _Book) -> Part:
    arm, _, group = book.arm(term)
    name, wanted = next(iter(term.slice.items()), (None, None))
    scored = score_group(group, name, wanted)
    scores = scored[group.index(arm)]
    if scores is None or not scores.is_mean or not scores.table.size:
        raise _Missing(f"{term.task} / {term.strategy} has no item scores{f' where {name} is {wanted}' if name else ''}")
    excess, df = seed_noise(group, scored)[arm.family]
    known = np.flatnonzero(np.isfinite(scores.table).all(axis=0))
    clusters = tuple(scores.clusters[i] for i in known)
    table = scores.table[:, known]
    return Part(weight, table.mean(axis=0), clusters, _seeds(table, clusters, excess, df, f"{arm.task}/{arm.family}"))


def _probe_part(term: Term, weight: float, book: _Book) -> Part | Known:
    assert term.probe is not None
    assert term.value is not None
    arm, run, _ = book.arm(term)
    where = f"{term.task} / {term.strategy}: probe {term.probe}"
    values = [r.probes[term.probe].values.get(term.value) for r in arm.ok]
    if any(v is None for v in values):
        reason = next((r.probes[term.probe].reason for r in arm.ok if r.probes[term.probe].reason), f"has no value {term.value}")
        raise _Missing(f"{where}: {reason}")
    items = [run.read_probe_items(term.task, term.strategy, r.seed).get(term.probe, {}).get(term.value, {}) for r in arm.ok]
    shared = [i for i in items[0] if all(i in other for other in items)] if items else []
    if len(shared) > 1:
        table: FloatArray = np.array([[scores[i] for i in shared] for scores in items])
        cluster_of = {i: item.cluster for i, item in arm.items[0].items()}
        clusters = tuple(cluster_of.get(i, i) for i in shared)
        excess, df = pooled_seed_variance([table], [clusters])
        return Part(weight, table.mean(axis=0), clusters, _seeds(table, clusters, excess, df, where))
    return _known([v for v in values if v is not None], weight, where)


def _seeds(table: FloatArray, clusters: Sequence[str], excess: float, df: int, pool: str) -> Seeds | None:
    n = len(table)
    return Seeds(excess / n, (excess + seed_variances(table, clusters)[1]) / n, df, pool) if n > 1 and df else None


def _known(values: Sequence[MetricValue], weight: float, where: str) -> Known:
    """Of a value without item scores: its error over items from its interval, and what seeds add to that."""
    errors = [(v.ci_high - v.ci_low) / 2 / 1.96 if v.ci_low is not None and v.ci_high is not None else None for v in values]
    found = np.array([v.value for v in values])
    of_items = float(np.mean([e**2 for e in errors if e is not None])) if all(e is not None for e in errors) else 0.0
    if len(values) < 2:
        if of_items == 0:
            raise _Missing(f"{where}: one value without an interval")
        return Known(weight, float(found[0]), math.sqrt(of_items))
    between, n = float(found.var(ddof=1)), len(values)
    return Known(weight, float(found.mean()), math.sqrt(of_items), Seeds(max(0.0, between - of_items) / n, between / n, n - 1, where))


def _matched(terms: Sequence[Term], book: _Book) -> tuple[Term, ...]:
    """The terms with the ``*`` of their values replaced by the largest ending that all of their cells have."""
    endings: set[str] | None = None
    for term in terms:
        assert term.probe is not None
        assert term.value is not None
        head = term.value[:-1]
        for record in book.arm(term)[0].ok:
            own = {name.removeprefix(head) for name in record.probes[term.probe].values if name.startswith(head)}
            endings = own if endings is None else endings & own
    if not endings:
        raise _Missing(f"{terms[0].probe}: the arms reach no score in common")
    largest = max(endings)
    return tuple(t.model_copy(update={"value": (t.value or "")[:-1] + largest}) for t in terms)


def _identical(test: ClaimTest, book: _Book) -> Verdict:
    """Whether two arms answer alike, seed by seed; a deterministic one stands for all seeds."""
    (a, _, _), (b, _, _) = (book.arm(term) for term in test.terms)
    n = differ = 0
    for i in range(max(len(a.items), len(b.items))):
        first, second = (arm.items[min(i, len(arm.items) - 1)] for arm in (a, b))
        both = [key for key in first if key in second]
        n += len(both)
        differ += sum(first[key].prediction != second[key].prediction for key in both)
    if n == 0:
        raise _Missing(f"{a.task}: {a.strategy} and {b.strategy} share no items")
    return Verdict(test, "CONTRADICTED" if differ else "REPRODUCED", says=f"{differ} of {n} answers differ")


def _break_even(test: ClaimTest, book: _Book) -> Verdict:
    """Q* = (fixed A - fixed B) / (per request B - per request A) in CPU seconds, at each seed's own readings (protocol 5.5)."""
    sides = [book.arm(term)[0].ok for term in test.terms]
    fixed_a, fixed_b = (setup_seconds(records, "cpu_seconds") or 0.0 for records in sides)
    each_a, each_b = ([r.phases["answer"].cpu_seconds / r.n_items for r in records] for records in sides)
    low, high = min(each_b) - max(each_a), max(each_b) - min(each_a)
    outcome: Outcome = "REPRODUCED" if low > 0 else "CONTRADICTED" if high < 0 else "INCONCLUSIVE"
    a, b = float(np.mean(each_a)), float(np.mean(each_b))
    says = f"per request {1000 * a:.2f} ms against {1000 * b:.2f} ms CPU, set-up {fixed_a:.0f} s against {fixed_b:.0f} s"
    if b > a:
        says += f": break-even after {max(0.0, (fixed_a - fixed_b) / (b - a)):,.0f} requests"
    return Verdict(test, outcome, says=says)
