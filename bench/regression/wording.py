"""How a check puts its findings into words: the same in a terminal, a comment, an annotation and a test report."""

from __future__ import annotations

import math
import shlex
from collections import Counter

from bench.regression.model import Check, Comparison, Flip, Gate, Verdict
from bench.result.text import NONE, shown_bytes, shown_count, shown_seconds, visible

ORDER: tuple[Verdict, ...] = ("regression", "inconclusive", "pass")
"""What has to be read first comes first."""
BASELINES = {"accepted": "the last accepted baseline", "release": "the release baseline", "run": "another run"}
N_EXAMPLES = 3


def one_line(text: str, width: int | None = None) -> str:
    """Text of others as one line without control characters, cut to ``width`` characters."""
    # What is printable has nothing to make visible; checks hold tens of thousands of answers.
    line = " ".join((text if text.isprintable() else visible(text)).split())
    return line if width is None or len(line) <= width else line[: width - 1] + "…"


def headline(check: Check) -> str:
    """The verdict and how many gates found it. Untrusted text in it: the suite."""
    n, counts = len(check.gates), Counter(gate.verdict for gate in check.gates)
    names = {"regression": "got worse", "inconclusive": "inconclusive", "pass": "pass"}
    found = ", ".join(f"{counts[verdict]} {names[verdict]}" for verdict in ORDER if counts[verdict])
    what = "nothing was compared" if not n else f"all {n} gates pass" if counts["pass"] == n else f"of {n} gates {found}"
    return f"{check.verdict} in {check.suite}: {what}"


def against(comparison: Comparison) -> str:
    """Which baseline, and who accepted it. Untrusted: run, name and reason."""
    name = BASELINES[comparison.name] + (", its commit run anew beside the present code" if comparison.relative else "")
    if (by := comparison.acceptance) is None:
        return name
    commit = f", commit {by.commit[:12]}" if by.commit else ""
    return f'{name}: run {by.run}, accepted {by.accepted[:10]} by {by.who} ("{by.reason}"){commit}'


def ordered(comparison: Comparison) -> list[Gate]:
    """The gates, what has to be read first at the top."""
    return sorted(comparison.gates, key=lambda gate: ORDER.index(gate.verdict))


def title(gate: Gate) -> str:
    """Which gate. Untrusted: all of it."""
    return f"{gate.task} / {gate.strategy}: {gate_name(gate)}"


def gate_name(gate: Gate) -> str:
    """Kind and measure, unique within a task and strategy."""
    return gate.kind if gate.measure in ("", gate.kind) else f"{gate.kind} {gate.measure}"


def before_after(gate: Gate) -> tuple[str, str]:
    """The two values with their unit; where rounding hides the difference, exactly."""
    shown = _shown(gate, gate.before), _shown(gate, gate.after)
    if shown[0] == shown[1] and gate.before != gate.after and gate.before is not None and gate.after is not None:
        return f"{gate.before:,.10g}", f"{gate.after:,.10g}"
    return shown


def _shown(gate: Gate, value: float | None) -> str:
    if value is None:
        return NONE
    if gate.kind == "quality":
        return f"{value:.3f}"
    if gate.measure.endswith("_seconds"):
        return shown_seconds(value)
    return shown_bytes(round(value)) if gate.measure.endswith("_bytes") else shown_count(value)


def change_text(gate: Gate) -> str:
    """How much better or worse, with bounds; of everything but quality the relative growth, with what is allowed."""
    if gate.change is None:
        return NONE
    if gate.kind == "quality":
        worse = gate.change < 0
        sign = -1 if worse else 1
        bounds = sorted(sign * bound for bound in (gate.low, gate.high) if bound is not None)
        between = f" [{_amount(bounds[0])}, {_amount(bounds[1])}]" if len(bounds) == 2 else ""
        return f"{'worse' if worse else 'better'} by {_amount(abs(gate.change))}{between}" if gate.change or between else "none"
    between = f" [{_percent(gate.low)}, {_percent(gate.high)}]" if gate.low is not None and gate.high is not None else ""
    allowed = f", allowed {100 * gate.limit:.3g} %" if gate.limit is not None and gate.change > 0 else ""
    return _percent(gate.change) + between + allowed


def _amount(value: float) -> str:
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.001 else f"{value:.1g}"


def _percent(growth: float) -> str:
    return "none" if growth == 0 else f"{100 * growth:+.3g} %" if math.isfinite(growth) else "from nothing"


def p_text(gate: Gate) -> str:
    """p after Holm's correction, before it where the check has no other."""
    p = gate.p if gate.p_adjusted is None else gate.p_adjusted
    return NONE if p is None else f"{p:.2g}"


def sample_text(gate: Gate) -> str:
    """On how much the gate rests."""
    if not gate.n_items:
        return NONE
    seeds = "1 seed" if gate.n_seeds == 1 else f"{gate.n_seeds} seeds"
    return f"{gate.n_items} items, {seeds}" if gate.n_seeds else f"{gate.n_items} items"


def finding(gate: Gate) -> str:
    """All numbers of a gate in one sentence, then the reason. Untrusted: the reason."""
    before, after = before_after(gate)
    parts = [] if gate.before is None and gate.after is None else [f"{before} → {after}"]
    parts += [change_text(gate)] if gate.change is not None else []
    if gate.p is not None:
        holm = " after Holm" if gate.p_adjusted is not None else ""
        parts.append(f"p {p_text(gate)}{holm} ({gate.test or 'one-sided'})")
    parts += [sample_text(gate)] if gate.n_items else []
    parts += [f"{gate.needed_items} items would tell"] if gate.needed_items else []
    return "; ".join([*parts, gate.reason] if gate.reason else parts)


def counted(gate: Gate) -> list[Flip]:
    """The flips that are not excused, those that lost first."""
    return [flip for flip in gate.flips if not flip.excused]


def lost_answers(comparison: Comparison) -> dict[Gate, list[Flip]]:
    """The flips of each strategy that became worse, at its first such gate: its gates share the answers."""
    found: dict[tuple[str, str], Gate] = {}
    for gate in comparison.gates:
        if gate.verdict == "regression" and counted(gate):
            found.setdefault((gate.task, gate.strategy), gate)
    return {gate: counted(gate) for gate in found.values()}


def excused_text(comparison: Comparison) -> str | None:
    """How many changed answers were ties. The gates of one strategy share its answers, so that each answer counts once."""
    ties = {(gate.task, gate.strategy, flip.seed, flip.item) for gate in comparison.gates for flip in gate.flips if flip.excused}
    if not ties:
        return None
    return f"{len(ties)} changed answer{'s' if len(ties) > 1 else ''} excused: before and now a tie within the logit margin."


def untrusted_text(comparison: Comparison) -> str | None:
    """Why the baseline's numbers cannot be trusted here. Untrusted: what differs."""
    if not (found := comparison.untrusted):
        return None
    what = "; ".join(f"{one.what} {one.before} → {one.after}" for one in found)
    return f"The baseline was made with another {' and '.join(sorted({d.part for d in found}))}, so that a loss is inconclusive: {what}"


def advice(check: Check) -> list[tuple[str, str]]:
    """(what for, command) of the next steps; the commands are quoted for a shell."""
    run, baseline = shlex.quote(one_line(check.run)), shlex.quote(f"results/baseline/{one_line(check.suite)}")
    lost = [gate for gate in check.gates if gate.verdict == "regression"]
    found = [("read the answers", f"bench show {run} {shlex.quote(f'{g.task}/{g.strategy}')}") for g in lost if counted(g)][:1]
    if check.verdict != "pass" and any(comparison.untrusted and comparison.acceptance for comparison in check.comparisons):
        found.append(("compare on this machine", f"bench check {run} --against {baseline} --relative"))
    if lost:
        found.append(("if the change is meant", f'bench accept {run} --reason "…"'))
    return [(what, one_line(command)) for what, command in found]
