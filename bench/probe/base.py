"""What a probe is: a measurement of what a strategy does beside the task, made on the cell's own model after its answers are scored.

A probe is one file of this folder that defines ``PROBE``, a subclass of `Probe`; its name is the file's, with "-" for "_". It never
changes answers or scores, so it is no part of the cell id.
"""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import random
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from bench.cost.meter import Meter
from bench.errors import BenchError, did_you_mean
from bench.result.schema import Item, MetricValue, ProbeResult
from bench.result.statistics import clustered_interval, wilson_interval
from bench.settings import first_problem

if TYPE_CHECKING:
    from bench.model.language_model import LanguageModel
    from bench.run.ask import Answered, Request
    from bench.run.fit import Fitted, Report
    from bench.strategy.spec import Strategy
    from bench.suite import Cell
    from bench.task.schema import Example, Task


@dataclass(frozen=True)
class Finding:
    """One measured number, with the item scores that it is the mean of where there are any."""

    value: MetricValue
    items: Mapping[str, float] = field(default_factory=dict)
    """Item id -> score; the same ids in every cell of a task, so that strategies can be compared item by item."""


def mean_of(scores: Mapping[str, float | None], clusters: Mapping[str, str] | None = None, *, share: bool = True) -> Finding:
    """The mean of item scores with its 95 % interval, clustered by `clusters` (item id -> cluster; default: each its own).

    None is undefined and counted apart. ``share``: the scores are in [0, 1], and the interval is cut there. Raises ValueError where
    no score is defined: leave such a number out.
    """
    known = {name: score for name, score in scores.items() if score is not None}
    names = [clusters[name] if clusters else name for name in known]
    value, low, high = clustered_interval(list(known.values()), names, clip=share)
    return Finding(MetricValue(value=value, ci_low=low, ci_high=high, n_scored=len(known), n_undefined=len(scores) - len(known)), known)


def mean_difference(differences: Mapping[str, float], clusters: Mapping[str, str] | None = None) -> Finding:
    """The mean of differences of shares, each in [-1, 1], as of `mean_of`.

    Where no item differs, the interval says up to what rate changes either way would have been missed (Wilson's bound for 0 of n).
    """
    found = mean_of(differences, clusters, share=False)
    if any(differences.values()):
        return found
    _, high = wilson_interval(0.0, len({clusters[name] if clusters else name for name in differences}))
    return replace(found, value=found.value.model_copy(update={"ci_low": -high, "ci_high": high}))


@dataclass
class Context:
    """What a probe works on."""

    cell: Cell
    fitted: Fitted | None
    """The strategy as it answered the test items; None where it asks no model. A probe leaves it as it was."""
    items: Sequence[Item]
    """The scored test items, in the task's order."""
    scratch: Path
    """An empty folder that is removed after the probe."""
    report: Report

    @property
    def ready(self) -> Fitted:
        """`fitted`, for a probe that has said it does not apply where there is none."""
        assert self.fitted is not None
        return self.fitted

    def random(self, name: str) -> random.Random:
        """Numbers that depend on the task and the name alone: every strategy and seed gets the same probe items."""
        return random.Random(f"probe/{self.cell.task.name}/{name}")

    def answer(self, requests: Sequence[Request]) -> list[Answered]:
        """The strategy's answers in the order of the requests (as of `fitted.requests` or `fitted.asker.requests`)."""
        return in_order(self.ready, requests)

    @contextlib.contextmanager
    def base(self) -> Iterator[LanguageModel]:
        """The model as it was before anything was trained: with its adapter off, else loaded a second time."""
        from bench.run.fit import load_base

        fitted = self.ready
        model, method = fitted.model, fitted.strategy.tuning.method
        if method in ("none", "features"):
            yield model
        elif hasattr(model.network, "disable_adapter") and not model.new_modules:
            virtual, shared = model.virtual_tokens, model.shared_prefix
            with model.network.disable_adapter():
                model.virtual_tokens, model.shared_prefix = 0, virtual == 0 and shared
                try:
                    yield model
                finally:
                    model.virtual_tokens, model.shared_prefix = virtual, shared
        else:
            yield load_base(self.cell, fitted.strategy, Meter())

    def refit(self, task: Task | None = None, strategy: Strategy | None = None) -> tuple[Fitted, Meter]:
        """The strategy at its chosen settings made ready anew, as for a cell of its own: on another task, or with other settings.

        Trains where the strategy trains. The meter is new and has the phases load, index, prepare, tune and validate; answers need a
        phase of it.
        """
        from bench.run.fit import fit

        meter = Meter(self.ready.model.device.type)
        cell = self.cell if task is None else replace(self.cell, task=task, trained_with=())
        return fit(cell, strategy or self.ready.strategy, self.scratch, meter, self.report), meter

    def requests(self, examples: Sequence[Example]) -> list[Request]:
        """What the strategy asks for the examples, with what retrieval finds for them."""
        return self.ready.requests(examples)


def in_order(fitted: Fitted, requests: Sequence[Request]) -> list[Answered]:
    """The answers of any fitted strategy, in the order of the requests. Needs an open phase of its meter."""
    return sorted((a for batch in fitted.answer(requests) for a in batch), key=lambda a: a.index)


class Probe(BaseModel):
    """The base class; its fields are the probe's settings (``probe_settings`` of a suite). The docstring's first line is its summary."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: ClassVar[int] = 1
    """Raise it with every change that can change a value: cells that were probed by an older one are run again."""
    trains: ClassVar[bool] = False
    """Whether it trains the strategy again, which takes about as long as one trial; such a probe is off by default."""

    @abstractmethod
    def not_applicable(self, cell: Cell) -> str | None:
        """Why the probe has no meaning for this cell, or None where it has. Called for strategies without a model as well."""

    @abstractmethod
    def run(self, context: Context) -> tuple[dict[str, Finding], dict[str, Any]]:
        """The numbers by name (snake_case, SI units in the name), and whatever else is worth keeping (JSON)."""


def probe_names() -> list[str]:
    """The names of all probes, sorted."""
    import bench.probe

    found = pkgutil.iter_modules(bench.probe.__path__)
    return sorted(module.name.replace("_", "-") for module in found if not module.ispkg and module.name != "base")


def get(name: str) -> type[Probe]:
    """The probe's class; `BenchError` with the nearest name where there is none."""
    if name not in probe_names():
        raise BenchError(f'probe "{name}": no such probe; {did_you_mean(name, probe_names())}')
    probe: type[Probe] = importlib.import_module(f"bench.probe.{name.replace('-', '_')}").PROBE
    return probe


def make(name: str, settings: Mapping[str, Any]) -> Probe:
    """The probe with its settings; `BenchError` for an unknown name or setting."""
    kind = get(name)
    try:
        return kind(**settings)
    except ValidationError as error:
        raise BenchError(f"probe_settings.{name}: {first_problem(kind, error)}") from error


def run_probe(name: str, context: Context) -> tuple[ProbeResult, dict[str, Mapping[str, float]]]:
    """Run the probe of this name for a cell: its result, and the item scores of its values."""
    settings = context.cell.probes[name]
    probe = make(name, settings)
    head = {"version": probe.version, "settings": settings}
    again = "it trains the strategy again, which the provider would have to be paid for"
    if reason := (again if probe.trains and context.cell.strategy.tuning.method == "hosted" else probe.not_applicable(context.cell)):
        return ProbeResult(reason=reason, **head), {}
    context.report(f"probe {name}")
    findings, details = probe.run(context)
    values = {key: found.value for key, found in findings.items()}
    return ProbeResult(values=values, details=details, **head), {key: found.items for key, found in findings.items() if found.items}
