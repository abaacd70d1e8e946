"""One cell from start to finish: load, tune, index, answer, score, probe, record."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from bench.cost.meter import Meter, all_together
from bench.environment import environment
from bench.errors import BenchError
from bench.metric.registry import get as get_metric
from bench.metric.resample import Resamples, mean_interval
from bench.metric.score import UNDEFINED, as_sample, corpus_value, names_for, score
from bench.metric.taxonomy import error_kinds
from bench.model.language_model import Generation
from bench.model.served import NotHere
from bench.probe.base import Context, get, run_probe
from bench.result.prompts import KeptPassage, KeptPrompt, prompt_hash, write_prompts
from bench.result.schema import Item, Merging, MetricValue, Outcome, Parameters, Phase, PhaseName, ProbeResult, Record, Tokens, Trial
from bench.result.store import RunFolder, write_atomic
from bench.run.ask import Answered, Request, to_answers
from bench.run.fit import Fitted, fit
from bench.run.search import search
from bench.strategy.adapters import merge, save_adapter
from bench.strategy.prompt import Parsed, Prompt, constant_answer
from bench.strategy.tuning import Steps
from bench.suite import Cell
from bench.task.schema import Example

Report = Callable[[str], None]

MERGE_ITEMS = 64


def run_cell(cell: Cell, folder: RunFolder, stores: Path, report: Report) -> Record:
    """Run one cell and write its record and items; what a killed run of the same cell id had answered is kept.

    Raises whatever went wrong: the caller turns it into a failed record.
    """
    folder.cell_folder(cell.task.name, cell.strategy_name, cell.seed).mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    meter = Meter(device)
    present = set(stores.glob("*"))
    prepared = _prepare(cell, folder, stores, meter, report)
    fitted = prepared.fitted
    served = fitted.served if fitted else None
    record = _base_record(cell, prepared)
    with folder.item_writer(cell.task.name, cell.strategy_name, cell.seed, cell.cell_id) as writer:
        done = {i.id for i in writer.items}
        report(f"answer {len(done)}/{len(cell.task.test)}")
        with meter.phase("answer"):
            # Of all items, also where a killed run has answered some: what it asked is kept only once, at the end.
            requests = fitted.requests(cell.task.test) if fitted else []
        batches = _answers(cell, fitted, requests, done)
        retrieves, cites = cell.strategy.retrieval.search != "none", cell.strategy.prompt.cite
        names = names_for(cell.task, cell.task.test, retrieves, cites)
        while True:
            report(f"answer {len(writer.items)}/{len(cell.task.test)}")
            with meter.phase("answer"):
                batch = next(batches, None)
            if batch is None:
                break
            with meter.phase("score"):
                for item in _items(cell, batch, names):
                    if item.id not in done:
                        writer.append(item)
        kept: tuple[Literal["tune", "answer"], ...] = ("tune", "answer")
        memory = {name: found for name in kept if (found := meter.memory(name))}
        report("score")
        with meter.phase("score"):
            by_id = {i.id: i for i in writer.items}
            items = [by_id[e.id] for e in cell.task.test]
            metrics = measure(cell, items)
            slices = {
                f"{column}={value}": measure(cell, [i for i in items if i.slices.get(column) == value])
                for column in cell.task.config.slices
                for value in sorted({i.slices[column] for i in items if column in i.slices})
            }
        probes, probe_items = _probe(cell, fitted, items, folder, meter, report)
        merging = None
        if fitted and fitted.tuned_by_adapter:
            report("probe")
            _keep_adapter(fitted, folder.cell_folder(cell.task.name, cell.strategy_name, cell.seed))
            with meter.phase("probe"):
                merging = _merging(cell, fitted)
        for store in fitted.asker.stores if fitted else ():
            if store.folder in present:
                meter.add_seconds(*store.build_seconds, "index")  # each strategy is charged what it would have paid alone
        # What an earlier process of this search spent was spent all the same.
        phases = all_together(prepared.spent_before, meter.readings())
        record = record.model_copy(
            update={
                "config": record.config | (_asked(fitted) if fitted else {}),
                "metrics": metrics,
                "slices": slices,
                "phases": _of_client(phases) if served else phases,
                "memory": memory,
                "probes": probes,
                "merging": merging,
                "tokens": _sum(i.tokens for i in items),
                "n_items": len(items),
                "n_truncated": sum(i.truncated for i in items),
                # Another number of threads, or other instructions, round sums differently.
                "environment": environment()
                | {"threads": torch.get_num_threads(), "cpu_capability": torch.backends.cpu.get_cpu_capability()}
                | {"device": device}
                | ({"gpu": torch.cuda.get_device_name()} if device == "cuda" else {})
                | ({"request_seconds": served.request_seconds} if served else {}),
            }
        )
        writer.finish([e.id for e in cell.task.test])
    if probe_items:
        folder.write_probe_items(record, probe_items)
    if requests:
        write_prompts(folder.cell_folder(cell.task.name, cell.strategy_name, cell.seed), map(_kept, cell.task.test, requests))
    folder.write_record(record)
    if served:
        served.forget()
    return record


def _asked(fitted: Fitted) -> dict[str, Any]:
    """How the model was asked, as it is known after the last answer."""
    if served := fitted.served:
        return {"decoding": served.decoding, "endpoint": served.about}
    return {"batch_rows": fitted.model.batcher.rows}


def _of_client(phases: dict[PhaseName, Phase]) -> dict[PhaseName, Phase]:
    """Phases of a cell whose model is elsewhere: memory, energy and operations of this process are not what its answers take."""
    unknown = dict.fromkeys(("flops", "peak_rss_bytes", "energy_joules", "energy_source"))
    return {name: phase.model_copy(update=unknown) for name, phase in phases.items()}


def _probe(
    cell: Cell, fitted: Fitted | None, items: Sequence[Item], folder: RunFolder, meter: Meter, report: Report
) -> tuple[dict[str, ProbeResult], dict[str, dict[str, Mapping[str, float]]]]:
    """The cell's probes, and the item scores of their values. One that fails leaves its reason, and the others go on."""
    results: dict[str, ProbeResult] = {}
    scores: dict[str, dict[str, Mapping[str, float]]] = {}
    for name, settings in cell.probes.items():
        began = time.perf_counter()
        own = folder.cell_folder(cell.task.name, cell.strategy_name, cell.seed)
        with tempfile.TemporaryDirectory(dir=own, prefix="probe-") as scratch:
            try:
                with meter.phase("probe"):
                    result, of_items = run_probe(name, Context(cell, fitted, items, Path(scratch), report))
            except NotHere as error:
                result, of_items = ProbeResult(version=get(name).version, settings=settings, reason=str(error)), {}
            except Exception as error:  # whatever it is, an hour of training must not be lost for it
                first = (str(error).strip().splitlines() or [""])[0]
                reason = first if isinstance(error, BenchError) else f"{type(error).__name__}: {first}"
                result, of_items = ProbeResult(version=get(name).version, settings=settings, error=reason), {}
                (own / f"probe-{name}.txt").write_text(traceback.format_exc())
        results[name] = result.model_copy(update={"wall_seconds": time.perf_counter() - began})
        if of_items:
            scores[name] = of_items
    return results, scores


@dataclass(frozen=True)
class _Prepared:
    """A strategy that is ready to answer, and how it came to be."""

    fitted: Fitted | None = None
    """None where no model is asked."""
    trials: list[Trial] = field(default_factory=list)
    steps: Steps = field(default_factory=Steps)
    """Of all trials."""
    spent_before: dict[PhaseName, Phase] = field(default_factory=dict)
    """What an earlier process of the search took."""


def _prepare(cell: Cell, folder: RunFolder, stores: Path, meter: Meter, report: Report) -> _Prepared:
    """The fitted strategy: searched by the strategy's first cell, at the chosen settings by the others."""
    if cell.strategy.prompt.constant:
        return _Prepared()
    own = folder.cell_folder(cell.task.name, cell.strategy_name, cell.seed)
    chosen_file = folder.cell_folder(cell.task.name, cell.strategy_name, cell.search_seed) / "search.json"
    if cell.seed != cell.search_seed and cell.strategy.search:
        chosen = json.loads(chosen_file.read_text()) if chosen_file.exists() else {}
        if chosen.get("search_id") != cell.search_id:
            raise BenchError(f"the search, which seed {cell.search_seed} does for all, has left no choice: see that cell's record")
        fitted = fit(cell, cell.strategy.with_settings(chosen["settings"]), stores, meter, report)
        return _Prepared(fitted, steps=fitted.tuned.steps if fitted.tuned else Steps())
    fitted, progress = search(cell, own / "search", stores, meter, report)
    if cell.strategy.search:
        settings = {axis: fitted.strategy.setting(axis) for axis in cell.strategy.search}
        write_atomic(chosen_file, json.dumps({"search_id": cell.search_id, "settings": settings}, indent=2) + "\n")
        progress.clear()
    return _Prepared(fitted, progress.trials, progress.steps, progress.spent_before)


def _keep_adapter(fitted: Fitted, folder: Path) -> None:
    """Adapters are small and are what a user deploys or goes on from; whole models are written by ``bench export``."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        made = Path(temporary) / "adapter"
        save_adapter(fitted.model, fitted.strategy.tuning, made)
        shutil.rmtree(folder / "adapter", ignore_errors=True)
        made.rename(folder / "adapter")


def _merging(cell: Cell, fitted: Fitted) -> Merging:
    """Answer the first test items with the adapter beside the base and merged into it. Leaves the model merged."""
    requests = fitted.requests(cell.task.test[:MERGE_ITEMS])

    def answers() -> tuple[list[str], float]:
        began = time.perf_counter()
        found = sorted((a.index, a.generation.text) for batch in fitted.answer(requests) for a in batch)
        return [text for _, text in found], time.perf_counter() - began

    apart, unmerged_seconds = answers()
    if reason := merge(fitted.model):
        return Merging(reason=reason)
    together, merged_seconds = answers()
    equal = sum(a == b for a, b in zip(apart, together, strict=True))
    return Merging(n_items=len(apart), n_equal=equal, unmerged_seconds=unmerged_seconds, merged_seconds=merged_seconds)


def _base_record(cell: Cell, prepared: _Prepared) -> Record:
    fitted = prepared.fitted
    config: dict[str, Any] = {
        "instruction": cell.task.instruction,
        "budget": cell.budget.model_dump(),
        "n_train": len(cell.task.train),
        "n_validation": len(cell.task.validation[: cell.budget.validation_examples]),
        "strategy": (fitted.strategy if fitted else cell.strategy).model_dump(mode="json", exclude={"description"}),
        "max_new_tokens": cell.task.config.max_new_tokens,
    }
    if cell.model.files and cell.model.files.revision:
        config["model_revision"] = cell.model.files.revision
    update: dict[str, Any] = {"trials": prepared.trials, "training": prepared.steps.reading}
    if fitted:
        config["decoding"] = fitted.model.decoding
        config["trained_with"] = [t.name for t in cell.trained_with]
        update["artifact_bytes"] = fitted.artifact_bytes
        if fitted.served:
            update["trials"] = [trial.model_copy(update={"flops": None}) for trial in prepared.trials]
        else:
            total, trainable = fitted.parameters
            config["dtype"] = str(next(fitted.model.network.parameters()).dtype).removeprefix("torch.")
            config["quantize"] = fitted.model.quantized
            config["window"] = fitted.model.window
            update["params"] = Parameters(total=total, trainable=trainable)
        if fitted.tuned:
            config["epochs"] = fitted.tuned.epochs
            config["validation_score"] = fitted.tuned.validation_score
    return Record.model_validate(cell.identity() | {"status": "ok", "config": config, **update})


def _answers(cell: Cell, fitted: Fitted | None, requests: Sequence[Request], done: set[str]) -> Iterator[list[Answered]]:
    test = cell.task.test
    if fitted:
        yield from fitted.answer(requests, {i for i, e in enumerate(test) if e.id in done})
    elif len(done) < len(test):
        kind = cell.strategy.prompt.constant
        assert kind is not None
        none = Request(Prompt((), (), truncated=False), None)
        texts = [constant_answer(cell.task, kind, e) for e in test]
        yield [Answered(i, Generation(text, None, 0, 0, 0, 0.0), none, Parsed(text)) for i, text in enumerate(texts)]


def _kept(example: Example, request: Request) -> KeptPrompt:
    found = request.found
    passages = [KeptPassage(document=i, text=t) for i, t in zip(found.document_ids, found.passages, strict=True)] if found else None
    return KeptPrompt(id=example.id, messages=list(request.prompt.messages), passages=passages, options=list(request.options))


def _items(cell: Cell, batch: Sequence[Answered], names: Sequence[str]) -> Iterator[Item]:
    answers = to_answers(cell.task, [cell.task.test[a.index] for a in batch], batch)
    scores = score(cell.task, answers, names)
    errors = error_kinds(cell.task, answers, scores.outcomes)
    for answer, answered, outcome, values, undefined, error in zip(
        answers, batch, scores.outcomes, scores.items, scores.reasons, errors, strict=True
    ):
        yield _item(answer.example, answered, outcome, values, undefined, error)


def _item(
    example: Example, answered: Answered, outcome: Outcome, values: dict[str, float], undefined: dict[str, str], error: str | None
) -> Item:
    g, found = answered.generation, answered.request.found
    return Item(
        id=example.id,
        cluster=example.cluster,
        slices=dict(example.slices),
        input_hash=hashlib.sha256(example.input.encode()).hexdigest(),
        prompt_hash=prompt_hash(answered.request.prompt.messages),
        prediction=answered.parsed.answer,
        reasoning=answered.parsed.reasoning,
        targets=list(example.targets),
        answerable=example.answerable,
        outcome=outcome,
        scores=values,
        undefined=undefined,
        error=error,
        logprob=g.logprob,
        option_logprobs=None if g.option_logprobs is None else list(g.option_logprobs),
        logit_margin=g.logit_margin,
        retrieved_ids=list(dict.fromkeys(found.document_ids)) if found else None,
        retrieval_score=found.score if found else None,
        cited_ids=None if answered.cited_ids is None else list(answered.cited_ids),
        gold_ids=list(example.evidence),
        truncated=answered.request.prompt.truncated,
        tokens=Tokens(prompt=g.prompt_tokens, prompt_cached=g.cached_tokens, completion=g.completion_tokens),
        latency_seconds=g.latency_seconds,
    )


def _sum(tokens: Iterator[Tokens]) -> Tokens:
    all_tokens = list(tokens)
    return Tokens(
        prompt=sum(t.prompt for t in all_tokens),
        prompt_cached=sum(t.prompt_cached for t in all_tokens),
        completion=sum(t.completion for t in all_tokens),
    )


def measure(cell: Cell, items: Sequence[Item]) -> dict[str, MetricValue]:
    """Every metric of these items with its interval over them; a metric that is undefined for all is absent."""
    retrieves, cites = cell.strategy.retrieval.search != "none", cell.strategy.prompt.cite
    standing = names_for(cell.task, cell.task.test, retrieves, cites)
    measured: dict[str, MetricValue] = {}
    clusters = [i.cluster for i in items]
    samples = [as_sample(i) for i in items]
    resamples = Resamples(clusters)
    for name in dict.fromkeys([*standing, *(name for i in items for name in i.scores)]):
        value = corpus_value(name, items)
        if value is None:
            continue
        metric = get_metric(name)
        low: float | None
        high: float | None
        if metric.mean_of_items:
            scored = [i for i in items if name in i.scores]
            low, high = mean_interval([i.scores[name] for i in scored], [i.cluster for i in scored], metric.bounds)
            undefined = Counter(i.undefined.get(name, UNDEFINED) for i in items if name not in i.scores)
        else:
            low, high = resamples.interval(metric(), samples, value) or (None, None)
            undefined = Counter(i.undefined[name] for i in items if name in i.undefined)
        n_undefined = undefined.total()
        measured[name] = MetricValue(
            value=value, ci_low=low, ci_high=high, n_scored=len(items) - n_undefined, n_undefined=n_undefined,
            undefined=dict(sorted(undefined.items())),
        )  # fmt: skip
    return measured
