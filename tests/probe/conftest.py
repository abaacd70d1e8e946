"""Quick cells of the shipped base model, as probes get them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
import yaml

from bench.cost.meter import Meter
from bench.metric.score import names_for
from bench.model.source import locate
from bench.probe.base import Context, run_probe
from bench.result.schema import ProbeResult
from bench.run.cell import _answers, _items
from bench.run.fit import fit
from bench.suite import Budget, Suite, expand


@pytest.fixture(scope="module")
def context_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Context]:
    """Make a cell's context: its strategy fitted, its test items answered and scored.

    ``strategy_settings`` are the keys of a strategy file, such as ``{"tuning": {"method": "lora", "epochs": 1}}``. The same settings
    give the same object within a file of tests, so leave it as it is; its `scratch` is shared as well.
    """
    torch.set_num_threads(1)
    made: dict[str, Context] = {}
    folder = tmp_path_factory.mktemp("probe")

    def make(
        strategy_settings: dict[str, Any], task: str = "product_support", limit: int = 24, train_examples: int = 16, seed: int = 0,
        model: str = "embedded", probes: dict[str, dict[str, Any]] | None = None,
    ) -> Context:  # fmt: skip
        key = json.dumps([strategy_settings, task, limit, train_examples, seed, model, probes], sort_keys=True)
        if key in made:
            return made[key]
        own = folder / str(len(made))
        (own / "scratch").mkdir(parents=True)
        file = own / "mine.yaml"
        file.write_text(yaml.safe_dump(strategy_settings))
        suite = Suite(
            model=model, tasks=[task], strategies=[str(file)], seeds=[seed], limit=limit,
            budget=Budget(train_examples=train_examples, trials=1, validation_examples=16),
            probes=list(probes or ()), probe_settings=probes or {},
        )  # fmt: skip
        cell = expand(suite, locate(model))[0]

        def report(text: str) -> None:
            pass

        meter = Meter()
        fitted = None if cell.strategy.prompt.constant else fit(cell, cell.strategy, folder / "stores", meter, report)
        names = names_for(cell.task, cell.task.test, cell.strategy.retrieval.search != "none", cell.strategy.prompt.cite)
        with meter.phase("answer"):
            requests = fitted.requests(cell.task.test) if fitted else []
            answered = [a for batch in _answers(cell, fitted, requests, set()) for a in batch]
        by_id = {item.id: item for item in _items(cell, answered, names)}
        made[key] = Context(cell, fitted, [by_id[e.id] for e in cell.task.test], own / "scratch", report)
        return made[key]

    return make


@pytest.fixture
def probed() -> Callable[..., ProbeResult]:
    """Run a probe for a context as a cell does, inside the phase "probe": ``probed(context, "forgetting", items=20)``."""

    def run(context: Context, name: str, **settings: Any) -> ProbeResult:
        context.cell.probes[name] = settings
        meter = context.fitted.meter if context.fitted else Meter()
        with meter.phase("probe"):
            return run_probe(name, context)[0]

    return run
