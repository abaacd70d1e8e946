"""Whether our intervals cover and our tests hold their level, on simulated arms whose truth is known: ``python -m benchmarks.coverage``.

Scores are 0 or 1. An item's difficulty, each arm's own luck with it and each training seed's shift are normal on the logit scale, and
answers are drawn given those. The truth is an arm's expectation over items *and* seeds, which is an integral. Everything goes through
the functions that make the table and the comparison (``bench/result/compare.py``).
"""

from __future__ import annotations

import argparse
import math
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.result.arms import Arm
from bench.result.compare import ArmScores, difference_of, interval_of, item_means, pair_of, seed_noise
from bench.result.schema import Record
from bench.result.statistics import FloatArray, clustered_interval
from benchmarks.workload import ROOT

ITEMS = 300
SKILLS = (0.0, 0.0, 0.5, 1.0)
"""Logits of the arms; the first two are equal, for the tests."""
DIFFICULTY, LUCK = 1.0, 0.5
"""Standard deviations, in logits, over items: what is hard for all arms, and what is hard for one arm alone."""
CLUSTER_SIZE, CLUSTER_SHARE = 3, 0.5
"""Where items are clustered: items of a cluster, and the share of both variances that they have in common."""
NOISE, SEEDS = (0.0, 0.1, 0.3), (3, 5)
COVERAGE, LEVEL = (0.93, 0.98), (0.04, 0.06)
"""Targets: intervals of nominally 95 %; the sign-flip test at .05 where seeds add no noise."""
# What pools the seeds' variance: strategies of one family are four arms, of three families one each.
FOUR, ONE = "one family of four", "families of one"
METHODS = {FOUR: ("lora",) * 4, ONE: ("none", "lora", "full")}


@dataclass(frozen=True)
class Condition:
    """What is simulated."""

    noise: float
    """Standard deviation of a seed's shift, in logits."""
    seeds: int
    clustered: bool
    pooling: str = FOUR

    @property
    def clusters(self) -> tuple[str, ...]:
        return tuple(str(i // CLUSTER_SIZE if self.clustered else i) for i in range(ITEMS))

    @property
    def arms(self) -> list[Arm]:
        found = []
        for i, method in enumerate(METHODS[self.pooling]):
            config = {"strategy": {"tuning": {"method": method}}}
            record = Record(
                cell_id=str(i), task="t", model="m", strategy=str(i), seed=0, status="ok", config=config, primary_metric="accuracy"
            )
            found.append(Arm("t", "m", str(i), (record,) * self.seeds, ()))
        return found


@dataclass(frozen=True)
class Found:
    """Shares of the replications, for one condition."""

    arm: float
    """In which an arm's interval covers its truth."""
    arm_items: float
    """The same with an interval over items only."""
    difference: float
    """In which the interval of the difference of two arms covers it."""
    difference_items: float
    combined: float
    """In which the combined p (over items, and over items and seeds) calls two equal arms different at .05."""
    sign_flip: float
    """The same with the sign-flip test alone, which knows of items only."""


def truth(skill: float, noise: float) -> float:
    """An arm's expected score: the mean of the logistic function over a normal, by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    spread = math.sqrt(DIFFICULTY**2 + LUCK**2 + noise**2)
    return float((weights / (1 + np.exp(-skill - spread * nodes))).sum() / weights.sum())


def simulate(condition: Condition, generator: np.random.Generator) -> FloatArray:
    """Scores (arms, seeds, items), 0 or 1."""
    arms = len(METHODS[condition.pooling])

    def over_items(count: int) -> FloatArray:
        own = generator.standard_normal((count, ITEMS))
        if not condition.clustered:
            return own
        common = np.repeat(generator.standard_normal((count, ITEMS // CLUSTER_SIZE)), CLUSTER_SIZE, axis=1)
        return math.sqrt(CLUSTER_SHARE) * common + math.sqrt(1 - CLUSTER_SHARE) * own

    ease = DIFFICULTY * over_items(1) + LUCK * over_items(arms)
    shift = condition.noise * generator.standard_normal((arms, condition.seeds))
    logits = np.array(SKILLS[:arms])[:, None, None] + shift[:, :, None] + ease[:, None, :]
    return (generator.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.float64)


def evaluate(condition: Condition, replications: int, seed: int) -> Found:
    """The intervals and tests of that many simulated studies."""
    generator = np.random.default_rng([seed, int(1000 * condition.noise), condition.seeds, condition.clustered, len(condition.arms)])
    clusters, arms = condition.clusters, condition.arms
    ids = tuple(str(i) for i in range(ITEMS))
    truths = [truth(skill, condition.noise) for skill in SKILLS[: len(arms)]]
    shares: dict[str, list[bool]] = {name: [] for name in Found.__dataclass_fields__}
    for _ in range(replications):
        scored = [ArmScores(ids, clusters, table, table.mean(axis=1)) for table in simulate(condition, generator)]
        noise = seed_noise(arms, scored)
        for arm, scores, value in zip(arms, scored, truths, strict=True):
            _, low, high, _ = interval_of(arm, scores, noise[arm.family])
            shares["arm"].append(_covers(low, high, value))
            _, low, high = clustered_interval(item_means(scores.table), clusters, clip=True)
            shares["arm_items"].append(_covers(low, high, value))
        for a, b in ((0, 1), (len(arms) - 2, len(arms) - 1)):
            value, pair = truths[a] - truths[b], pair_of(scored[a], scored[b])
            assert pair is not None
            found = difference_of(arms[a], arms[b], scored[a], scored[b], pair, noise)
            shares["difference"].append(_covers(found.low, found.high, value))
            _, low, high = clustered_interval(item_means(pair.a) - item_means(pair.b), clusters)
            shares["difference_items"].append(_covers(low, high, value))
            if a == 0:
                shares["combined"].append(found.p <= 0.05)
                shares["sign_flip"].append(found.p_sign_flip <= 0.05)
    return Found(**{name: float(np.mean(found)) for name, found in shares.items()})


def _covers(low: float | None, high: float | None, value: float) -> bool:
    return low is not None and high is not None and low <= value <= high


def targets(condition: Condition) -> dict[str, tuple[float, float]]:
    """Column -> range that it should be in."""
    goals = {"arm": COVERAGE, "difference": COVERAGE}
    # With noise between seeds equal strategies have unequal artifacts, and to tell those apart is what the sign-flip test is for.
    return goals | {"sign_flip": LEVEL} if condition.noise == 0 else goals


def missed(condition: Condition, found: Found) -> list[str]:
    """The columns that miss their target."""
    return [name for name, (low, high) in targets(condition).items() if not low <= getattr(found, name) <= high]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__)
    parser.add_argument(
        "--replications", type=int, default=2_000, help="simulated studies per condition (half as many for families of one)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "coverage.md")
    given = parser.parse_args()
    if given.replications < 2:
        parser.error(f"--replications: found {given.replications}, expected at least 2")
    began = time.process_time()
    results = []
    for condition in conditions():
        found = evaluate(condition, given.replications // (1 if condition.pooling == FOUR else 2), given.seed)
        results.append((condition, found))
        print(f"{condition}: {found}", flush=True)
    command = " ".join(["python -m benchmarks.coverage", *sys.argv[1:]])
    given.output.write_text(report(results, command, given.seed, given.replications, time.process_time() - began))
    return 1 if any(missed(*result) for result in results) else 0


def conditions() -> list[Condition]:
    """All of them; families of one without clusters, which change nothing about the pooling."""
    four = [Condition(noise, seeds, clustered) for clustered in (False, True) for seeds in SEEDS for noise in NOISE]
    return [*four, *(Condition(noise, seeds, False, ONE) for seeds in SEEDS for noise in NOISE)]


def report(results: Sequence[tuple[Condition, Found]], command: str, seed: int, replications: int, seconds: float) -> str:
    """``coverage.md``."""
    head = [
        "seeds' sd",
        "seeds",
        "arm",
        "arm, items only",
        "difference",
        "difference, items only",
        "rejects: combined p",
        "rejects: sign-flip",
    ]
    parts: list[str] = []
    tables: dict[str, Callable[[Condition], bool]] = {
        "Four arms of one family, items independent": lambda c: c.pooling == FOUR and not c.clustered,
        f"Four arms of one family, clusters of {CLUSTER_SIZE} items": lambda c: c.pooling == FOUR and c.clustered,
        "Three arms of one family each, items independent: seed variance from the arm's own seeds alone": lambda c: c.pooling == ONE,
    }
    for title, chosen in tables.items():
        rows = ["| " + " | ".join(head) + " |", "|" + "---:|" * len(head)]
        for condition, found in results:
            if chosen(condition):
                bad = missed(condition, found)
                cells = [f"{100 * value:.1f}" + (" **missed**" if name in bad else "") for name, value in vars(found).items()]
                rows.append("| " + " | ".join([f"{condition.noise:g}", str(condition.seeds), *cells]) + " |")
        parts.append(f"## {title}\n\n" + "\n".join(rows) + "\n")
    count = sum(len(missed(*result)) for result in results)
    verdict = "Every target is met." if not count else f"{count} of the numbers miss their target (marked)."
    error = 100 * math.sqrt(0.05 * 0.95 / replications)
    skills = ", ".join(f"{skill:g}" for skill in SKILLS)
    return f"""# Do the intervals cover, do the tests hold their level?

Simulated studies with known truth: {ITEMS} test items scored 0 or 1, difficulty of sd {DIFFICULTY:g} logit over items and {LUCK:g}
over items and arms (with clusters, {100 * CLUSTER_SHARE:.0f} % of both in common), arms of skill {skills} logit, each training
seed shifting its arm by a normal of the given sd. The truth is the arm's expectation over items and seeds. Numbers are % of the
replications; each is uncertain by about {error:.1f} (one standard error at 95 %, or at 5 %, of {replications:,} replications; the last
table has half as many).

- **arm**, **difference**: how often the nominal 95 % interval covers, as `bench table` and `bench compare` make it (items and
  seeds); target {_percent(COVERAGE)}. *Items only*: the clustered interval over items of the means over seeds, which is what most
  harnesses print.
- **rejects**: how often two equal arms are called different at .05. *Sign-flip* alone knows of items only: target {_percent(LEVEL)}
  where seeds add no noise; where they do, it finds the real difference between the artifacts at hand, which is none between the
  strategies. *Combined*, by which verdicts are made, is the larger of that p and the one over items and seeds; it has no target, and
  should be near 5 or below.

{verdict}

{chr(10).join(parts)}
Seed variance is pooled over a family as if all its arms had the same. Here they have it in logits, so that arms near 50 % right have
more of it in points than the family's mean. At sd 0.3 with three seeds, in 3,000 other studies the combined p rejects 5.1 % (clustered
5.6 %), and 4.5 % (4.8 %) where all four arms have skill 0; what is above that in the tables is chance. An arm alone in its family
has only its own seeds to tell its seed variance from: with three of them and little noise its intervals cover more than they need
to, on the safe side of the target but outside it.

Command: `{command}` (seed {seed}, {seconds:.0f} CPU seconds on one thread; Python {platform.python_version()}, numpy {np.__version__}).
"""


def _percent(goal: tuple[float, float]) -> str:
    return " to ".join(f"{100 * bound:.0f}" for bound in goal)


if __name__ == "__main__":
    sys.exit(main())
