"""The planner's constants fitted to measured runs, and how far its predictions are off when each run is left out of its own fit.

Memory: held = context + lasting + factor x passing + a constant, the factor and the constant by least squares. Time: operations and
launches, each with a cost of its own, by non-negative least squares on relative errors, of training and of answering apart. Fewer than
three runs say nothing about an error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

from bench.cost.planner import PUBLISHED, Constants, Pace
from bench.errors import BenchError

LEAST = 3
FAR = 100
"""Beyond this many times what was measured a prediction is an extrapolation, and says so."""


class Observation(NamedTuple):
    """One measured training, or all answers of a cell, beside what the planner counts of it."""

    name: str
    context_bytes: float
    """What was there before the model."""
    lasting_bytes: float
    """Weights, gradients and the optimizer's state."""
    passing_bytes: float
    """Activations, logits and temporaries at the peak."""
    held_bytes: float | None
    """Measured at the peak, the context included; None: not measured."""
    operations: float
    n_operations: float
    """Operations that are launched."""
    seconds: float | None


@dataclass(frozen=True)
class Checked:
    """An observation with what the others predict for it."""

    name: str
    held_bytes: float | None
    predicted_bytes: float | None
    seconds: float | None
    predicted_seconds: float | None


@dataclass(frozen=True)
class Calibration:
    """Constants, and the predictions of each run by the others."""

    constants: Constants
    checked: tuple[Checked, ...]
    answered: tuple[Checked, ...]
    most_operations: float
    most_bytes: float

    @property
    def worst_memory(self) -> float:
        """Largest relative error of a run's memory: 0.1 is 10 %."""
        errors = [abs(c.predicted_bytes / c.held_bytes - 1) for c in self.checked if c.held_bytes and c.predicted_bytes]
        return max(errors, default=math.nan)


def calibrate(trained: Sequence[Observation], answered: Sequence[Observation], source: str) -> Calibration:
    """Fit the constants to trainings and answers; speeds come out per second of the device that was measured (a `Speed` of 1 operation
    per second).

    Raises `BenchError` for fewer than three trainings with a measured time. Fewer cells of answers: answering is as fast as training.
    """
    timed = [o for o in trained if o.seconds]
    held = [o for o in trained if o.held_bytes]
    answered = [o for o in answered if o.seconds]
    if len(timed) < LEAST:
        raise BenchError(f"{source}: found {len(timed)} trainings with a measured time; expected at least {LEAST} to calibrate with")
    checked = tuple(_checked(one, timed, held) for one in trained)
    answers = tuple(_checked(one, answered, []) for one in answered) if len(answered) >= LEAST else ()
    factor, beside = _memory(held) if len(held) >= LEAST else (1.0, 0.0)
    context = beside + (fmean(o.context_bytes for o in held) if held else 0.0)
    training = _pace(timed, checked)
    most = max(o.operations for o in timed), max((o.held_bytes or 0.0 for o in held), default=0.0)
    found = Calibration(PUBLISHED, checked, answers, *most)
    constants = Constants(
        memory_factor=(factor, factor, factor),
        memory_error=0.0 if math.isnan(found.worst_memory) else found.worst_memory,
        context_bytes=(context, context, context),
        training=training,
        answering=_pace(answered, answers) if answers else training,
        source=source,
    )
    return replace(found, constants=constants)


def _checked(one: Observation, timed: Sequence[Observation], held: Sequence[Observation]) -> Checked:
    """The observation with what the other ones predict for it."""
    rates = _rates([o for o in timed if o is not one]) if one.seconds else None
    memory = _memory([o for o in held if o is not one]) if one.held_bytes and len(held) >= LEAST else None
    predicted = None if memory is None else one.context_bytes + one.lasting_bytes + memory[0] * one.passing_bytes + memory[1]
    return Checked(one.name, one.held_bytes, predicted, one.seconds, _seconds(rates, one) if rates else None)


def _pace(timed: Sequence[Observation], checked: Sequence[Checked]) -> Pace:
    per_operation, launch = _rates(timed)
    ratios = [c.predicted_seconds / c.seconds for c in checked if c.seconds and c.predicted_seconds]
    return Pace(1 / per_operation if per_operation else math.inf, launch, 1.0, max(max(r, 1 / r) for r in ratios))


def _rates(observations: Sequence[Observation]) -> tuple[float, float]:
    """Seconds per operation of a product, and per launched operation."""
    seconds = np.array([o.seconds for o in observations])
    counts = np.array([[o.operations, o.n_operations] for o in observations]) / seconds[:, None]
    scale = counts.max(axis=0)
    found, _ = nnls(counts / scale, np.ones(len(observations)))
    return float(found[0] / scale[0]), float(found[1] / scale[1])


def _seconds(rates: tuple[float, float], one: Observation) -> float:
    return rates[0] * one.operations + rates[1] * one.n_operations


def _memory(observations: Sequence[Observation]) -> tuple[float, float]:
    """The factor on passing bytes, and what is held beside."""
    excess = np.array([(o.held_bytes or 0.0) - o.context_bytes - o.lasting_bytes for o in observations])
    passing = np.array([[o.passing_bytes, 1.0] for o in observations])
    scale = passing.max(axis=0)
    found, _ = nnls(passing / scale, excess)
    return float(found[0] / scale[0]), float(found[1] / scale[1])
