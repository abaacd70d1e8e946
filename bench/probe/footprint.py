"""What it takes to serve, switch and audit a strategy: counts, bytes and seconds, no index made of them."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cost.meter import Meter
from bench.metric.text import normalize
from bench.probe.base import Context, Finding, Probe, mean_of
from bench.result.schema import Item, MetricValue
from bench.strategy.chunk import chunk_passages
from bench.strategy.spec import Strategy
from bench.suite import Cell

if TYPE_CHECKING:  # a finished run is recognised without torch
    from bench.run.fit import Fitted

REPEATS = 3
ABSTAINED, NO_TEXT = "it abstained", "the answer has no text"
READS_NOTHING = "0 by construction: the strategy hands the model no passages"
NO_MODEL = "the strategy asks no model: there is nothing to load"
NO_WEIGHTS = "the tuned weights are the provider's, and nobody else can load them"


class Footprint(Probe):
    """What it takes to serve, switch and audit a strategy: components, settings, bytes, seconds, traceable answers.

    * ``traceable_share`` = P(the answer's words stand in a document that the model was handed | it attempts an answer): what a reader
      could look up, right or wrong. 0 for a strategy that reads nothing (``details.traceable``);
    * ``cited_traceable_share``, where the strategy cites: = P(they stand in a document that the answer cites | it attempts an answer);
    * ``switch_seconds``: to make this strategy's task ready on a base model that serves another: read and install its adapter, head or
      weights, open its index, read its instruction and examples. Base and embedder stand loaded, files are in the page cache; the
      mean of 3 times after one that is not counted. A lexical index is built, as it is not kept on disk. On a small base, wrapping it
      in an adapter can take longer than reading all its weights;
    * ``switch_bytes``: what is read for that: trained weights, index and chunks, examples, instruction;
    * ``portable_bytes_share``: the share of these bytes that another base model could use: all but the weights;
    * ``n_components`` at inference, the base among them (``details.components``);
    * ``n_settings_exposed``: settings that differ from their default or are searched, in the strategy file or by the suite;
      ``n_settings_searched``: those searched. Of retrieval and tuning only where there is any.

    ``details.delete_one_fact`` says how a fact is taken out again. Counts and bytes have no interval: they are no samples.
    """

    def not_applicable(self, cell: Cell) -> str | None:
        return None

    def run(self, context: Context) -> tuple[dict[str, Finding], dict[str, Any]]:
        cell, fitted = context.cell, context.fitted
        exposed = settings(cell.strategy)
        findings: dict[str, Finding] = {
            "n_settings_exposed": count(len(exposed)),
            "n_settings_searched": count(len(cell.strategy.search)),
        }
        details: dict[str, Any] = {"settings": exposed, "left_out": {}}
        documents = {p.id: p.text for p in cell.task.corpus}
        traced = traceable(context.items, documents, {item.id: item.retrieved_ids or [] for item in context.items})
        attempted = sum(score is not None for score in traced.values())
        if not attempted:
            details["left_out"]["traceable_share"] = "no answer was attempted"
        elif cell.strategy.retrieval.search == "none":
            details["traceable"] = READS_NOTHING
            findings["traceable_share"] = Finding(MetricValue(value=0.0, n_scored=attempted))
        else:
            findings["traceable_share"] = share_traceable(traced, context.items)
            if cell.strategy.prompt.cite:
                cited = traceable(context.items, documents, {item.id: item.cited_ids or [] for item in context.items})
                findings["cited_traceable_share"] = share_traceable(cited, context.items)
        parts = components(fitted)
        details["components"] = parts
        findings["n_components"] = count(len(parts))
        details["delete_one_fact"] = deletion(cell.strategy)
        if fitted is None or cell.strategy.tuning.method == "hosted":
            reason = NO_MODEL if fitted is None else NO_WEIGHTS
            details["left_out"] |= dict.fromkeys(("switch_seconds", "switch_bytes", "portable_bytes_share"), reason)
            return findings, details
        sizes = size_of_parts(fitted)
        total = sum(sizes.values())
        details["bytes"] = sizes
        # The first time, which imports and fills caches, is left out.
        timed = [switch_seconds(fitted, context.scratch / "switch") for _ in range(1 + REPEATS)][1:]
        findings |= {
            "switch_bytes": count(total),
            "portable_bytes_share": count((total - sizes["weights"]) / total),
            "switch_seconds": mean_seconds(timed),
        }
        return findings, details


def count(value: float) -> Finding:
    """A number that is counted, not sampled."""
    return Finding(MetricValue(value=value, n_scored=1))


def mean_seconds(timed: Sequence[float]) -> Finding:
    """The mean of repeats with a t interval, cut at 0. Repeats are no items: nothing of another strategy pairs with one of them."""
    value = mean_of({str(i): seconds for i, seconds in enumerate(timed)}, share=False).value
    return Finding(value.model_copy(update={"ci_low": None if value.ci_low is None else max(0.0, value.ci_low)}))


# ---------------------------------------------------------------------------------------------- transparency


def traceable(items: Sequence[Item], documents: Mapping[str, str], read: Mapping[str, Sequence[str]]) -> dict[str, float | None]:
    """Item id -> 1 where the answer's words stand, in their order, in one of the documents `read` (item id -> document ids), else 0.

    None for an abstention and an answer without text. A cited number that no passage has is an id that no document has.
    """
    found: dict[str, float | None] = {}
    texts = {name: f" {normalize(text)} " for name, text in documents.items()}
    for item in items:
        said = normalize(item.prediction)
        claims = item.outcome != "abstained" and said
        found[item.id] = float(any(f" {said} " in texts.get(name, "") for name in read[item.id])) if claims else None
    return found


def share_traceable(traced: Mapping[str, float | None], items: Sequence[Item]) -> Finding:
    """The mean of the defined ones, clustered as the task's items, the others counted by reason."""
    found = mean_of(traced, {item.id: item.cluster for item in items})
    abstained = sum(item.outcome == "abstained" for item in items)
    reasons = {ABSTAINED: abstained, NO_TEXT: found.value.n_undefined - abstained}
    return Finding(found.value.model_copy(update={"undefined": {reason: n for reason, n in reasons.items() if n}}), found.items)


def deletion(strategy: Strategy) -> list[str]:
    """How one fact is taken out of a strategy: a step for each place in which it may be."""
    steps = []
    if strategy.retrieval.search != "none":
        steps.append("corpus: delete its document and take it out of the index; exact, and the others stay as they are")
    if "prompt.shots" in strategy.search or strategy.prompt.shots:
        steps.append("prompt: leave out the examples that hold it; exact")
    if strategy.tuning.method != "none":
        steps.append("weights: train again without the examples that hold it; nothing less is exact")
    steps.append("base: what it knows from pretraining stays")
    return steps if strategy.prompt.constant is None else ["nothing is kept but the constant answer"]


# ---------------------------------------------------------------------------------------------- complexity


def settings(strategy: Strategy) -> list[str]:
    """The dotted settings that differ from their default or are searched, in alphabetical order."""
    own, default = strategy.model_dump(mode="json"), Strategy().model_dump(mode="json")
    used = {"prompt": True, "retrieval": strategy.retrieval.search != "none", "tuning": strategy.tuning.method != "none"}
    choices = [choice for choice, there in used.items() if there]
    changed = {f"{choice}.{name}" for choice in choices for name, value in own[choice].items() if value != default[choice][name]}
    if "tuning.peft" in changed:
        changed = changed - {"tuning.peft"} | {f"tuning.peft.{name}" for name in own["tuning"]["peft"]}
    return sorted(changed | set(strategy.search))


def components(fitted: Fitted | None) -> list[str]:
    """What runs or is searched when a question is answered."""
    if fitted is None:
        return []
    retriever, strategy = fitted.asker.retriever, fitted.strategy
    method, search = strategy.tuning.method, retriever.choice.search
    present = {
        "base model": True,
        "adapter": fitted.tuned_by_adapter,
        "classifier": fitted.head is not None,
        "embedder": strategy.embeds,
        "vector index": retriever.store is not None,
        "lexical index": search in ("lexical", "hybrid"),
        "gold passages": search == "oracle",
        "example index": fitted.asker.nearest is not None,
        "reranker": retriever.choice.rerank,
    }
    names = [name for name, there in present.items() if there]
    return ["tuned model" if name == "base model" and method in ("full", "last_layers", "hosted") else name for name in names]


# ---------------------------------------------------------------------------------------------- flexibility


def size_of_parts(fitted: Fitted) -> dict[str, int]:
    """Bytes of what has to be kept beside the base: trained ``weights``, ``index`` with its passages, ``examples``, ``instruction``."""
    from bench.strategy.adapters import artifact_bytes
    from bench.strategy.prompt import instruction

    asker, head = fitted.asker, fitted.head
    trained = artifact_bytes(fitted.model) if head is None and fitted.strategy.tuning.method != "none" else 0
    return {
        "weights": trained + (head.size_bytes if head else 0),
        "index": asker.retriever.size_bytes,
        "examples": sum(len((s.input + s.targets[0]).encode()) for s in asker.shots) + (asker.nearest.size_bytes if asker.nearest else 0),
        "instruction": len(instruction(asker.task, fitted.strategy.prompt).encode()),
    }


def switch_seconds(fitted: Fitted, folder: Path) -> float:
    """Write what the strategy keeps to `folder`, and measure how long it takes to read it and make it ready on a base without it."""
    import torch

    from bench.run.fit import load_base
    from bench.strategy.adapters import load_adapter, save_adapter, wrap
    from bench.strategy.embedder import Embedder
    from bench.strategy.features import FeatureClassifier
    from bench.strategy.lexical import LexicalIndex
    from bench.strategy.nearest import NearestExamples
    from bench.strategy.prompt import instruction
    from bench.strategy.store import Store

    cell, strategy, asker = fitted.cell, fitted.strategy, fitted.asker
    choice, tuning = strategy.retrieval, strategy.tuning
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    told = instruction(asker.task, strategy.prompt)
    (folder / "prompt.json").write_text(json.dumps([told, [[s.input, s.targets[0]] for s in asker.shots]]))
    trained = tuning.trains_here
    base = fitted.model
    if trained:
        save_adapter(fitted.model, tuning, folder / "adapter")
        base = load_base(cell, strategy, Meter())
        base.reset_head(cell.seed)
    if fitted.head:
        fitted.head.save(folder / "head")
    store, nearest = asker.retriever.store, asker.nearest
    embedder = Embedder(choice.embedder) if strategy.embeds else None
    if embedder:
        _ = embedder.fingerprint  # hashed once, when it is loaded

    began = time.perf_counter()
    json.loads((folder / "prompt.json").read_text())
    if trained:
        wrap(base, tuning, cell.seed, told)
        load_adapter(base, tuning, folder / "adapter")
    if fitted.head:
        FeatureClassifier.load(base, folder / "head")
    if store and embedder:
        Store.build_or_open(store.folder.parent, cell.task.corpus, embedder, store.settings)
    if choice.search in ("lexical", "hybrid"):
        LexicalIndex(chunk_passages(cell.task.corpus, choice.chunk_words, choice.chunk_overlap))
    if nearest and embedder:
        NearestExamples(cell.task.train, embedder, nearest.store.folder.parent)
    if base.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


PROBE = Footprint
