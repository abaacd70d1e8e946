"""One cell from start to finish: load, tune, index, answer, score, record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.cost.meter import Meter
from bench.environment import environment
from bench.errors import BenchError
from bench.metric.score import corpus_value, names_for, score
from bench.metric.text import label_key
from bench.model.language_model import Generation
from bench.result.compare import rows_for_macro_f1
from bench.result.schema import Item, MetricValue, Parameters, Record, Tokens, Trial
from bench.result.statistics import bootstrap_interval, clustered_interval, macro_f1_of_sums
from bench.result.store import RunFolder, write_atomic
from bench.run.fit import Answered, Fitted, Request, fit, search, to_answers
from bench.strategy.prompt import Prompt, constant_answer
from bench.strategy.tuning import artifact_bytes, parameter_counts
from bench.suite import Cell
from bench.task.schema import Example

Report = Callable[[str], None]


def run_cell(cell: Cell, folder: RunFolder, stores: Path, report: Report) -> Record:
    """Run one cell and write its record and items; what a killed run of the same cell id had answered is kept.

    Raises whatever went wrong: the caller turns it into a failed record.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    meter = Meter(device)
    fitted, trials = _prepare(cell, folder, stores, meter, report)
    record = _base_record(cell, fitted, trials)
    with folder.item_writer(cell.task.name, cell.strategy_name, cell.seed, cell.cell_id) as writer:
        done = {i.id for i in writer.items}
        batches = _answers(cell, fitted, done)
        names = names_for(cell.task, cell.task.test, retrieves=bool(fitted and fitted.strategy.retrieval.search != "none"))
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
        phases = meter.readings()
        if fitted and "index" in phases and fitted.retriever.store and not fitted.retriever.store.built:
            wall, cpu = fitted.retriever.build_seconds
            index = phases["index"]
            phases["index"] = index.model_copy(update={"wall_seconds": index.wall_seconds + wall, "cpu_seconds": index.cpu_seconds + cpu})
        record = record.model_copy(
            update={
                "metrics": metrics,
                "slices": slices,
                "phases": phases,
                "tokens": _sum(i.tokens for i in items),
                "n_items": len(items),
                "n_truncated": sum(i.truncated for i in items),
                "environment": environment() | ({"gpu": torch.cuda.get_device_name()} if device == "cuda" else {}),
            }
        )
        writer.finish([e.id for e in cell.task.test])
    folder.write_record(record)
    return record


def _prepare(cell: Cell, folder: RunFolder, stores: Path, meter: Meter, report: Report) -> tuple[Fitted | None, list[Trial]]:
    """The fitted strategy: searched by the strategy's first cell, at the chosen settings by the others."""
    if cell.strategy.prompt.constant:
        return None, []
    chosen_file = folder.cell_folder(cell.task.name, cell.strategy_name, cell.search_seed) / "search.json"
    if cell.seed != cell.search_seed and cell.strategy.search:
        chosen = json.loads(chosen_file.read_text()) if chosen_file.exists() else {}
        if chosen.get("search_id") != cell.search_id:
            raise BenchError(f"the search, which seed {cell.search_seed} does for all, has left no choice: see that cell's record")
        return fit(cell, cell.strategy.with_settings(chosen["settings"]), stores, meter, report), []
    fitted, trials = search(cell, stores, meter, report)
    if cell.strategy.search and cell.seed == cell.search_seed:
        dump = fitted.strategy.model_dump(mode="json")
        settings = {axis: dump[axis.split(".")[0]][axis.split(".")[1]] for axis in cell.strategy.search}
        write_atomic(chosen_file, json.dumps({"search_id": cell.search_id, "settings": settings}, indent=2) + "\n")
    return fitted, trials


def _base_record(cell: Cell, fitted: Fitted | None, trials: list[Trial]) -> Record:
    config: dict[str, Any] = {
        "instruction": cell.task.instruction,
        "budget": cell.budget.model_dump(),
        "n_train": len(cell.task.train),
        "strategy": (fitted.strategy if fitted else cell.strategy).model_dump(mode="json", exclude={"description"}),
        "max_new_tokens": cell.task.config.max_new_tokens,
    }
    update: dict[str, Any] = {}
    if fitted:
        trained = fitted.strategy.tuning.method != "none"
        total, trainable = parameter_counts(fitted.model, trained)
        config["decoding"] = fitted.model.decoding
        config["dtype"] = str(next(fitted.model.network.parameters()).dtype).removeprefix("torch.")
        config["window"] = fitted.model.window
        shots = sum(len((s.input + s.targets[0]).encode()) for s in fitted.shots)
        size = fitted.retriever.size_bytes + shots + (artifact_bytes(fitted.model) if trained else 0)
        update = {"params": Parameters(total=total, trainable=trainable), "artifact_bytes": size}
        if fitted.tuned:
            config["epochs"] = fitted.tuned.epochs
            config["validation_score"] = fitted.tuned.validation_score
    return Record.model_validate(cell.identity() | {"status": "ok", "config": config, "trials": trials, **update})


def _answers(cell: Cell, fitted: Fitted | None, done: set[str]) -> Iterator[list[Answered]]:
    test = cell.task.test
    if fitted:
        yield from fitted.answer(fitted.requests(test), {i for i, e in enumerate(test) if e.id in done})
    elif len(done) < len(test):
        kind = cell.strategy.prompt.constant
        assert kind is not None
        none = Request(Prompt((), (), truncated=False), None)
        yield [Answered(i, Generation(constant_answer(cell.task, kind, e), None, 0, 0, 0, 0.0), none) for i, e in enumerate(test)]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _items(cell: Cell, batch: Sequence[Answered], names: Sequence[str]) -> Iterator[Item]:
    examples = [cell.task.test[a.index] for a in batch]
    scores = score(cell.task, to_answers(cell.task, examples, batch), names)
    for example, answered, outcome, values in zip(examples, batch, scores.outcomes, scores.items, strict=True):
        yield _item(example, answered, outcome, values)


def _item(example: Example, answered: Answered, outcome: Any, values: dict[str, float]) -> Item:
    g, found = answered.generation, answered.request.found
    return Item(
        id=example.id,
        cluster=example.cluster,
        slices=dict(example.slices),
        input_hash=_hash(example.input),
        prompt_hash=_hash(json.dumps(answered.request.prompt.messages, ensure_ascii=False)),
        prediction=g.text,
        targets=list(example.targets),
        answerable=example.answerable,
        outcome=outcome,
        scores=values,
        logprob=g.logprob,
        retrieved_ids=list(found.document_ids) if found else None,
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
    names = list(dict.fromkeys([*cell.task.config.metrics, *(name for i in items for name in i.scores)]))
    measured = {}
    for name in names:
        value = corpus_value(name, items)
        if value is None:
            continue
        if name == "macro_f1":
            rows = rows_for_macro_f1(items, sorted({label_key(target) for i in items for target in i.targets}))
            interval = bootstrap_interval(macro_f1_of_sums, rows, [i.cluster for i in items], of_sums=True)
            measured[name] = MetricValue(value=value, ci_low=interval.low, ci_high=interval.high, n_scored=len(items))
            continue
        scored = [i for i in items if name in i.scores]
        if not scored:
            measured[name] = MetricValue(value=value, n_scored=len(items))
            continue
        interval = clustered_interval([i.scores[name] for i in scored], [i.cluster for i in scored], clip=True)
        measured[name] = MetricValue(
            value=value, ci_low=interval.low, ci_high=interval.high, n_scored=len(scored), n_undefined=len(items) - len(scored)
        )
    return measured



