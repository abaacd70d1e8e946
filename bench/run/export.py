"""The winner, whole: a cell of a run as a folder that answers questions, and what reads such a folder."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from bench.cost.meter import Meter
from bench.errors import BenchError
from bench.model.load import load_model
from bench.model.source import Loading, locate
from bench.result.schema import Record
from bench.result.store import RunFolder
from bench.run.ask import Asker
from bench.run.fit import Fitted, Report, fit
from bench.strategy.adapters import load_adapter, merge, save_adapter, wrap
from bench.strategy.features import FeatureClassifier
from bench.strategy.prompt import answer_tokens, instruction, shape_answers
from bench.strategy.spec import Strategy
from bench.suite import Suite, expand
from bench.task.schema import Example, Passage, Task, TaskConfig

SCRIPT = '''"""Answer an input with this export: python answer.py "text of the input" """

import sys
from pathlib import Path

from bench.run.export import Exported

print(Exported(Path(__file__).parent).answer(sys.argv[1]))
'''


class Export(BaseModel):
    """``export.json``: all that is needed to ask as the cell asked, but for weights and index."""

    model_config = ConfigDict(extra="forbid")

    cell_id: str
    base_model: str
    """As it was named in the run; not needed where ``model/`` holds whole weights."""
    base_fingerprint: str
    loading: Loading = Loading()
    task_name: str
    task: TaskConfig
    instruction: str
    labels: list[str]
    strategy: Strategy
    seed: int
    shots: list[dict[str, Any]]
    """The worked examples that all prompts show, in order; for a strategy that looks them up, all that it chooses from."""


def export_cell(run: Path, cell: str, output: Path, merged: bool, report: Report) -> None:
    """Write the cell ``task/strategy`` or ``task/strategy/s0`` of a run to the folder `output`.

    Adapters are written in peft's format (or, `merged`, put into the base and written as a whole model); trained models whole. What
    the run has not kept is trained again, which takes as long as it did there. Raises `BenchError` for a cell that is not there
    or asks no model, and where task, model or strategy are no longer those of the run.
    """
    if output.exists() and any(output.iterdir()):
        raise BenchError(f"{output}: is not empty; expected a folder to make")
    folder = RunFolder(run)
    record = folder.read_cell(cell)
    if record.status != "ok":
        raise BenchError(f"{cell}: is {record.status} ({record.error}); expected a cell that is ok")
    if "endpoint" in record.config:
        raise BenchError(f"{cell}: its model is behind an endpoint, with weights that are the provider's; expected one that is loaded here")
    fitted = _refit(folder, record, report)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as temporary:
        made = Path(temporary) / output.name
        made.mkdir()
        _write(fitted, record, made, merged)
        if output.exists():
            output.rmdir()
        made.rename(output)


def _refit(folder: RunFolder, record: Record, report: Report) -> Fitted:
    suite = Suite.model_validate(folder.read_run().suite)
    place = (record.task, record.strategy, record.seed)
    cells = [c for c in expand(suite, locate(record.model, suite.loading)) if (c.task.name, c.strategy_name, c.seed) == place]
    if not cells or cells[0].cell_id != record.cell_id:
        now = cells[0].fingerprints.model_dump() if cells else {}
        then = record.fingerprints.model_dump() if record.fingerprints else {}
        changed = [k for k in then if now.get(k) != then[k]] or ["this program or the suite"]
        raise BenchError(f"{folder.path}: {record.task} / {record.strategy} was made with another state of: {', '.join(changed)}")
    cell = cells[0]
    if cell.strategy.prompt.constant:
        raise BenchError(f"{record.task} / {record.strategy}: asks no model, so there is nothing to export")
    strategy = Strategy.model_validate(record.config["strategy"])
    kept = folder.cell_folder(record.task, record.strategy, record.seed) / "adapter"
    stores = folder.path.parent / ".stores"
    if not kept.exists():
        return fit(cell, strategy, stores, Meter(), report)
    fitted = Fitted(cell, strategy, stores, Meter())
    fitted.model.reset_head(cell.seed)
    wrap(fitted.model, strategy.tuning, cell.seed, instruction(cell.task, strategy.prompt))
    load_adapter(fitted.model, strategy.tuning, kept)
    return fitted


def _write(fitted: Fitted, record: Record, folder: Path, merged: bool) -> None:
    cell, strategy, task, tuning = fitted.cell, fitted.strategy, fitted.cell.task, fitted.strategy.tuning
    asker = fitted.asker
    shown = task.train if asker.nearest else asker.shots
    whole = tuning.method in ("full", "last_layers")
    if merged and fitted.tuned_by_adapter:
        if reason := merge(fitted.model):
            raise BenchError(f"--merged: {reason}")
        whole = True
    spec = Export(
        cell_id=cell.cell_id, base_model=cell.model.name, base_fingerprint=cell.model.fingerprint, loading=cell.model.loading,
        task_name=task.name, task=task.config, instruction=task.instruction, labels=list(task.labels), strategy=strategy, seed=cell.seed,
        shots=[{"input": s.input, "target": s.targets[0], "rationale": s.rationale, "id": s.id} for s in shown],
    )  # fmt: skip
    (folder / "export.json").write_text(spec.model_dump_json(indent=2) + "\n")
    (folder / "answer.py").write_text(SCRIPT)
    generation = getattr(fitted.model.network, "generation_config", None)
    if generation is not None:
        generation.save_pretrained(folder)
    if whole:
        fitted.model.network.save_pretrained(folder / "model")
        fitted.model.tokenizer.save_pretrained(folder / "model")
    elif fitted.tuned_by_adapter:
        save_adapter(fitted.model, tuning, folder / "adapter")
    elif fitted.head:
        fitted.head.save(folder / "head")
    if strategy.retrieval.search != "none":
        lines = [json.dumps({"id": p.id, "text": p.text}, ensure_ascii=False) + "\n" for p in task.corpus]
        (folder / "corpus.jsonl").write_text("".join(lines))
    for store in asker.stores:
        shutil.copytree(store.folder, folder / "stores" / store.folder.name)
    (folder / "README.md").write_text(_card(fitted, record, whole))


def _card(fitted: Fitted, record: Record, whole: bool) -> str:
    """The model card."""
    cell, strategy = fitted.cell, fitted.strategy
    task = cell.task
    head = {"library_name": "transformers" if whole else "peft", "base_model": cell.model.name, "tags": ["adaptation-bench"]}
    rows = [
        f"| {name} | {m.value:.4f} | {'' if m.ci_low is None else f'{m.ci_low:.4f} to {m.ci_high:.4f}'} | {m.n_scored} |"
        for name, m in record.metrics.items()
    ]
    choices = strategy.model_dump(mode="json", include={"prompt", "retrieval", "tuning"}, exclude_defaults=True)
    weights = "the whole model in `model/`" if whole else "an adapter in `adapter/`" if fitted.tuned_by_adapter else "no trained weights"
    if fitted.head:
        weights = "a classifier in `head/`"
    trained = f"{record.params.trainable:,} of {record.params.total:,}" if record.params else "none"
    read = f", {len(task.corpus)} documents" if strategy.retrieval.search != "none" or "documents" in strategy.tuning.train_on else ""
    return "\n".join([
        "---", *(f"{k}: {json.dumps(v)}" for k, v in head.items()), "---", "",
        f"# {task.name}: {cell.strategy_name} on {cell.model.name}", "",
        f"{cell.strategy.description} This folder has {weights} and what is needed to ask it as it was asked when it was measured.", "",
        "## Use", "", "With adaptation-bench installed:", "", "```bash", 'python answer.py "text of the input"', "```", "",
        f"The input of this task is made by the template `{task.config.input}`.", "",
        "## Measured", "", f"On {record.n_items} test items, seed {cell.seed}; 95 % intervals over items, not over seeds.", "",
        "| metric | value | interval | items |", "| --- | --- | --- | --- |", *rows, "",
        "## Made from", "",
        f"- Base model: {cell.model.name} (SHA-256 of weights and configuration {cell.model.fingerprint})",
        f"- Data: {len(task.train)} labelled examples{read} (SHA-256 of the task {task.fingerprint})",
        f"- Trained parameters: {trained}",
        f"- Choices: `{json.dumps(choices)}`",
        f"- Cell: {cell.cell_id}", "",
        "## Limits", "",
        "It was measured on this task's test set alone. What it does with other inputs, and what of the base's abilities it has lost, the"
        " numbers above do not say.", "",
    ])  # fmt: skip


class Exported:
    """An exported strategy, ready to answer."""

    def __init__(self, folder: Path) -> None:
        """Load it. Raises `BenchError` for a folder that is no export, and where the base model is not the one it was made with."""
        file = folder / "export.json"
        if not file.is_file():
            raise BenchError(f"{folder}: has no export.json; expected a folder written by bench export")
        spec = Export.model_validate_json(file.read_text())
        self.strategy = spec.strategy
        whole = folder / "model"
        source = locate(str(whole) if whole.exists() else spec.base_model, spec.loading)
        if not whole.exists() and source.fingerprint != spec.base_fingerprint:
            raise BenchError(f"{folder}: {spec.base_model} is not the base that it was made with (SHA-256 {spec.base_fingerprint})")
        tuning = self.strategy.tuning
        self.model = load_model(source, labels=spec.labels, quantize=tuning.quantize)
        shown = tuple(Example(s["id"], s["input"], (s["target"],), True, s["id"], rationale=s["rationale"]) for s in spec.shots)
        corpus = folder / "corpus.jsonl"
        rows = [json.loads(line) for line in corpus.read_text().splitlines()] if corpus.exists() else []
        task = Task(
            spec.task_name, folder, spec.task, shown, (), (), tuple(Passage(r["id"], r["text"]) for r in rows), tuple(spec.labels),
            spec.instruction,
        )  # fmt: skip
        shape_answers(self.model, task, self.strategy.prompt)
        if (folder / "adapter").exists():
            self.model.reset_head(spec.seed)
            wrap(self.model, tuning, spec.seed, instruction(task, self.strategy.prompt))
            load_adapter(self.model, tuning, folder / "adapter")
        self.head = FeatureClassifier.load(self.model, folder / "head") if (folder / "head").exists() else None
        drawn = self.strategy.prompt.select == "drawn"
        self.asker = Asker(task, self.strategy, self.model, folder / "stores", shown if drawn else ())
        self.model.network.eval()

    def answer(self, text: str) -> str:
        """The answer to one input, as the task's ``input`` template would render it."""
        example = Example("", text, ("",), True, "")
        request = self.asker.asked([example])[0]
        if request.abstains:
            return self.asker.task.config.abstain[0]
        limit = answer_tokens(self.asker.task, self.strategy.prompt)
        ((_, generation),) = next(iter((self.head or self.model).generate([request.prompt.ids], limit)))
        return self.asker.parsed(generation.text).answer
