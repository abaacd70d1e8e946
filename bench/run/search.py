"""The search on validation: which settings of a strategy are kept, within the budget of trials that every strategy has."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from bench.cost.meter import Meter, all_together
from bench.errors import BenchError
from bench.result.schema import Phase, PhaseName, Trial
from bench.result.store import write_atomic
from bench.run.fit import Fitted, Report, fit
from bench.strategy.spec import Range, Strategy
from bench.strategy.tuning import Steps, Tuned
from bench.suite import Cell

TUNING: tuple[PhaseName, ...] = ("prepare", "tune", "validate")
"""The phases that trials take."""


def n_trials(strategy: Strategy, budget: int) -> int:
    """How many points are tried: the budget, or the whole grid where that is smaller."""
    sizes = [len(values) if isinstance(values, list) else math.inf for values in strategy.search.values()]
    return int(min(budget, math.prod(sizes)))


def propose(strategy: Strategy, finished: Sequence[Trial]) -> dict[str, Any]:
    """The settings to try after the `finished` trials, by optuna.

    Lists alone make a grid, of which points are drawn without replacement; with a range, settings are drawn at random at first
    and then where good ones were found (tree-structured Parzen estimator, Bergstra et al. 2011; from the eleventh trial on). A
    proposal depends on the strategy and the trials before it only, so a search that is taken up again goes on as it would have.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    seed = int(hashlib.sha256(f"{strategy.fingerprint}/{len(finished)}".encode()).hexdigest()[:8], 16)
    grid = all(isinstance(values, list) for values in strategy.search.values())
    samplers = optuna.samplers
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of the sampler without replacement, since 2022
        sampler = samplers.BruteForceSampler(seed=seed) if grid else samplers.TPESampler(seed=seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    axes = {axis: _distribution(values) for axis, values in strategy.search.items()}
    for trial in finished:
        # A value of a list goes by its place: optuna takes plain values only, and a list may hold anything.
        parameters = {a: _place(values, trial.settings[a]) for a, values in strategy.search.items()}
        state = optuna.trial.TrialState.FAIL if trial.validation_score is None else optuna.trial.TrialState.COMPLETE
        study.add_trial(optuna.trial.create_trial(state=state, value=trial.validation_score, params=parameters, distributions=axes))
    chosen = study.ask(axes).params
    return {a: values[chosen[a]] if isinstance(values, list) else chosen[a] for a, values in strategy.search.items()}


def _distribution(values: list[Any] | Range) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(values, list):
        return CategoricalDistribution(range(len(values)))
    if isinstance(values.low, int) and isinstance(values.high, int):
        return IntDistribution(values.low, values.high, log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)


def _place(values: list[Any] | Range, value: Any) -> Any:
    return values.index(value) if isinstance(values, list) else value


class Progress:
    """The trials of a search in a folder, so that one that was stopped goes on after the last whole trial."""

    def __init__(self, folder: Path, search_id: str) -> None:
        self._folder, self._id = folder, search_id
        self.trials: list[Trial] = []
        self.steps = Steps()
        """The training steps of all trials."""
        self.spent_before: dict[PhaseName, Phase] = {}
        """What the trials of an earlier process took, which no meter of this one has seen."""
        state = folder / "trials.json"
        if state.exists():
            found = json.loads(state.read_text())
            if found["search_id"] == search_id and "spent" in found:  # else it is another search's, or an older program's
                self.trials = [Trial.model_validate(t) for t in found["trials"]]
                self.steps = Steps(**found["steps"] | {"longest_batch": tuple(found["steps"]["longest_batch"])})
                self.spent_before = {name: Phase.model_validate(phase) for name, phase in found["spent"].items()}

    def add(self, trial: Trial, tuned: Tuned | None, best: bool, meter: Meter) -> None:
        """Keep a trial, and what has been spent up to here; `tuned`: what it trained, whose tensors are kept where it is the `best`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if tuned:
            self.steps += tuned.steps
        if tuned and best:
            temporary = self._folder / "best.tmp"
            save_file({n: w.contiguous() for n, w in tuned.weights.items()}, temporary)
            temporary.rename(self._folder / "best.safetensors")
        self.trials.append(trial)
        spent = all_together(self.spent_before, {n: p for n, p in meter.readings().items() if n in TUNING})
        content = {
            "search_id": self._id,
            "trials": [t.model_dump(mode="json") for t in self.trials],
            "steps": asdict(self.steps),
            "spent": {name: phase.model_dump() for name, phase in spent.items()},
        }
        write_atomic(self._folder / "trials.json", json.dumps(content, indent=2) + "\n")

    def best_weights(self) -> dict[str, torch.Tensor] | None:
        """The trained tensors of the best trial; None where nothing was trained."""
        file = self._folder / "best.safetensors"
        return load_file(file) if file.exists() else None

    def clear(self) -> None:
        """The search is over: the record has its trials."""
        shutil.rmtree(self._folder, ignore_errors=True)


def search(cell: Cell, folder: Path, stores: Path, meter: Meter, report: Report) -> tuple[Fitted, Progress]:
    """Try settings within the budget and keep the best by validation score; of equals the one whose values stand first in the lists.

    `folder` keeps the trials while the search lasts. A trial that fails (diverges, runs out of memory) is recorded as failed;
    the search fails only where all do, and the next run then begins it anew. A strategy with nothing to search is fitted once without
    being scored.
    """
    progress = Progress(folder, cell.search_id)
    strategy = cell.strategy
    total = n_trials(strategy, cell.budget.trials)
    if not strategy.search or total == 1:
        only = fit(cell, strategy.with_settings(propose(strategy, []) if strategy.search else {}), stores, meter, report)
        progress.steps = only.tuned.steps if only.tuned else Steps()
        return only, progress
    fitted: Fitted | None = None
    while len(progress.trials) < total:
        point = propose(strategy, progress.trials)
        number = len(progress.trials) + 1
        before = tuning_cost(meter)
        value, error, epochs = None, None, None
        tried = strategy.with_settings(point)
        base = fitted.base_for(tried) if fitted else None
        fitted = None  # frees the last model before the next is loaded
        try:
            fitted = fit(cell, tried, stores, meter, _prefixed(report, f"trial {number}/{total}, "), base=base)
            if fitted.tuned:
                value, epochs = fitted.tuned.validation_score, fitted.tuned.epochs
            else:
                with meter.phase("validate"):
                    value = fitted.validation_score()
        except (BenchError, MemoryError, torch.OutOfMemoryError) as problem:
            error = f"{type(problem).__name__}: {problem}".splitlines()[0]
        wall, cpu, flops = (now - then for now, then in zip(tuning_cost(meter), before, strict=True))
        trial = Trial(settings=point, validation_score=value, wall_seconds=wall, cpu_seconds=cpu, flops=flops, epochs=epochs, error=error)
        best = value is not None and _best(strategy, [*progress.trials, trial]) is trial
        progress.add(trial, fitted.tuned if fitted else None, best, meter)
    chosen = _best(strategy, progress.trials)
    if chosen is None:
        progress.clear()
        raise BenchError(f"all {total} trials of the search failed; the last one: {progress.trials[-1].error}")
    if fitted is None or chosen is not progress.trials[-1]:
        best_of_all = strategy.with_settings(chosen.settings)
        base = fitted.base_for(best_of_all) if fitted else None
        fitted = None
        fitted = fit(cell, best_of_all, stores, meter, report, progress.best_weights(), base)
    return fitted, progress


def _best(strategy: Strategy, trials: Sequence[Trial]) -> Trial | None:
    def order(trial: Trial) -> tuple[Any, ...]:
        places = [_place(v, trial.settings[a]) for a, v in strategy.search.items() if isinstance(v, list)]
        return (-(trial.validation_score or 0.0), places)

    scored = [t for t in trials if t.validation_score is not None]
    return min(scored, key=order) if scored else None


def _prefixed(report: Report, prefix: str) -> Report:
    return lambda text: report(prefix + text)


def tuning_cost(meter: Meter) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and FLOPs of tuning so far: rows made, steps taken, checkpoints and trials scored."""
    phases = [phase for name, phase in meter.readings().items() if name in TUNING]
    return sum(p.wall_seconds for p in phases), sum(p.cpu_seconds for p in phases), sum(p.flops or 0.0 for p in phases)
