"""The planner held against measurements: ``python -m benchmarks.planner`` prints the tables of docs/planner.md.

``embedded``: real training steps of every preset that trains by likelihood on the embedded base, what torch's allocator held at most
beside the trace's peak. ``published``: runs of another project on a GPU (``benchmarks/published``), whose training loop is imitated
here: their loss at all positions, their model's cache kept, the last step's outputs alive, no mixed precision.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

import bench.run.preload  # noqa: F401
from bench.cost.calibration import Observation, calibrate
from bench.cost.devices import find_device
from bench.cost.planner import PUBLISHED
from bench.model.language_model import LanguageModel
from bench.model.load import load_model
from bench.model.source import locate
from bench.result.text import markdown_table
from bench.strategy.adapters import parameter_counts, wrap
from bench.strategy.spec import TuningChoice, load_strategy, preset_names
from bench.strategy.trace import Allocations, outlined, trace_step, traced
from benchmarks.workload import ROOT

ROWS, TOKENS, TARGETS = 8, 128, 16
"""Of the steps on the embedded base."""
LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 24,
    "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 8192, "vocab_size": 128256, "tie_word_embeddings": True,
    "max_position_embeddings": 131072,
}  # fmt: skip
"""Llama-3.2-3B by its published configuration."""
PUBLISHED_RUNS = ROOT / "benchmarks" / "published" / "peft_metamath.csv"
PADDED = 216
"""Tokens of a row with padding, on average (the README beside the runs)."""
LEFT_OUT = ("BONE", "VBLORA", "BOFT")
"""peft has dropped the first; the second's forward pass looks at its own numbers; the third takes minutes to trace."""
NOT_TIMED = ("rank32-dora", "rank32-lorafa")
"""Runs of 2025-06-17, when the machine was slower (the README), or with another optimizer."""
SIXTEEN_BIT = ("LN_TUNING", "ADAPTION_PROMPT")




def embedded() -> tuple[list[list[str]], list[float]]:
    """Every preset's step on the embedded base: allocated and traced bytes, and the ratio."""
    torch.set_num_threads(1)
    seen: set[str] = set()
    body, ratios = [], []
    for name in preset_names():
        tuning = load_strategy(name)[1].tuning
        data = {"learning_rate": 1e-3, "epochs": 1, "with_passages": False, "gold_share": None, "train_on": ("examples",)}
        key = tuning.model_copy(update=data).model_dump_json()
        if tuning.method in ("none", "features") or tuning.objective != "answers" or tuning.quantize != "none" or key in seen:
            continue
        seen.add(key)
        model = load_model(locate("embedded"))
        wrap(model, tuning, 0, "Answer the question.")
        _, trained = parameter_counts(model, trained=True)
        for parameter in model.network.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        held = _held(model)
        base = outlined("embedded", tuning, torch.float32)
        found = trace_step(base, ROWS, TOKENS, TARGETS, autocast=None)
        ratio = found.peak_bytes / held
        ratios.append(ratio)
        equal = "equal" if base.trainable_params == trained else f"{base.trainable_params:,} predicted"
        body.append([name, f"{trained:,}", equal, f"{held / 1e6:.1f}", f"{found.peak_bytes / 1e6:.1f}", f"{ratio:.3f}"])
    return body, ratios


def _held(model: LanguageModel) -> int:
    """Most bytes that torch's allocator held during the second step, beyond what it held before."""
    pairs = [([5] * TOKENS, TOKENS - TARGETS)] * ROWS

    def step() -> None:
        model.loss(pairs).backward()

    model.network.train()
    step()
    model.network.zero_grad(set_to_none=True)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    results: Any = profiler.profiler
    events = sorted((e.start_ns(), e.nbytes()) for e in results.kineto_results.events() if e.name() == "[memory]")
    held = most = 0
    for _, size in events:
        held += size
        most = max(most, held)
    return most


def _their_step(model: LanguageModel) -> Callable[[Allocations], None]:
    def body(allocations: Allocations) -> None:
        model.network.train()
        outputs = None
        for _ in range(2):  # what the first step leaves behind is there in the second
            model.network.zero_grad(set_to_none=True)
            allocations.stage = "forward"
            ids = torch.zeros((4, PADDED), dtype=torch.long)
            outputs = model.network(input_ids=ids, labels=ids)
            allocations.stage = "backward"
            outputs.loss.backward()

    return body


def published(path: Path = PUBLISHED_RUNS) -> tuple[list[list[str]], list[float], list[Observation]]:
    """The published runs beside predictions: memory in bytes, time in milliseconds a step."""
    body, ratios, timed = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.json"
        config.write_text(json.dumps(LLAMA))
        with path.open() as file:
            runs = [run for run in csv.DictReader(file) if run["empty_cache_every_steps"] == "1" and run["peft_type"] not in LEFT_OUT]
        for run in runs:
            full = run["experiment"].startswith("full")
            settings = json.loads(run["settings"] or "{}")
            for filled_in in ("inference_mode", "revision", "total_step"):
                settings.pop(filled_in, None)
            choice = TuningChoice(method="full") if full else TuningChoice(method="peft", peft={"peft_type": run["peft_type"], **settings})
            trained = torch.bfloat16 if full or run["peft_type"] in SIXTEEN_BIT else torch.float32
            base = outlined(str(config), choice, torch.bfloat16, trained)
            found = traced(base, _their_step(base.model))
            trained_bytes = base.trainable_params * trained.itemsize
            lasting = float(base.weights_bytes + 2 * trained_bytes)
            # Their optimizer is torch's default: its step holds the gradients and one more copy of what trains.
            passing = float(max(found.peak_bytes, 2 * trained_bytes))
            updating = passing > found.peak_bytes
            factor = 1.0 if updating else PUBLISHED.memory_factor[0]
            predicted, held = lasting + factor * passing, float(run["memory_reserved_avg_bytes"])
            ratios.append(predicted / held)
            seconds = float(run["step_seconds_total"]) / float(run["max_steps"])
            named = run["experiment"].replace("llama-3.2-3B-", "")
            known = run["num_trainable_params"]
            equal = "–" if not known else "equal" if int(known) == base.trainable_params else f"{int(known):,} logged"
            off = f"{100 * (predicted / held - 1):+.0f} %"
            body.append([named, f"{base.trainable_params:,}", equal, f"{held / 1e9:.2f}", f"{predicted / 1e9:.2f}", off])
            # Halved: the step was traced twice.
            timed.append(Observation(named, 0.0, lasting, passing, held, found.flops / 2, found.n_operations / 2, seconds))
    return body, ratios, timed


def _times(observations: list[Observation]) -> None:
    chosen = [o for o in observations if not any(n in o.name for n in NOT_TIMED) and not o.name.startswith("full")]
    fitted = calibrate(chosen, [], "published runs")
    device = find_device("L40S")
    body = []
    for one, checked in zip(chosen, fitted.checked, strict=True):
        assert one.seconds is not None
        assert checked.predicted_seconds is not None
        off = checked.predicted_seconds / one.seconds - 1
        body.append([one.name, f"{one.operations / 1e12:.1f}", f"{one.n_operations:,.0f}", f"{1000 * one.seconds:.0f}",
                     f"{1000 * checked.predicted_seconds:.0f}", f"{100 * off:+.0f} %"])  # fmt: skip
    print(markdown_table(["Run", "TFLOP", "operations", "ms measured", "by the others", "off"], body))
    offs = [abs(float(cells[-1].split()[0])) for cells in body]
    share, launch = fitted.constants.training.flops_share / device.bfloat16_flops, fitted.constants.training.launch_seconds
    print(f"{100 * share:.0f} % of the peak, {1e6 * launch:.1f} µs an operation; off by {statistics.median(offs):.0f} % at the median, "
          f"{max(offs):.0f} % at most.\n")  # fmt: skip


def main() -> None:
    """Print the tables asked for, all by default; exit 1 where the embedded base is off by more than 15 %."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["embedded", "published"])
    only = parser.parse_args().only
    ratios: list[float] = []
    if only != "published":
        body, ratios = embedded()
        print(markdown_table(["Preset", "trains", "predicted", "MB allocated", "MB predicted", "ratio"], body))
    if only != "embedded":
        body, shares, observations = published()
        print(markdown_table(["Run", "trains", "logged", "GB reserved", "GB predicted", "off"], body))
        offs = [abs(100 * (r - 1)) for r in shares]
        print(f"off by {statistics.median(offs):.1f} % at the median, {max(offs):.1f} % at most\n")
        _times(observations)
    if any(abs(r - 1) > 0.15 for r in ratios):
        sys.exit(1)


if __name__ == "__main__":
    main()
