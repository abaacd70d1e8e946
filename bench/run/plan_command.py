"""`bench plan`: what a user asks for, turned into plans, with the planner fitted to measured runs where some are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any, get_args

import torch

import bench.run.preload  # noqa: F401 (what libraries say of settings that are meant so is kept quiet)
from bench.cost.calibration import FAR, Calibration, Observation, calibrate
from bench.cost.devices import find_device
from bench.cost.plan_text import assumption_lines, render_plans
from bench.cost.planner import GIB, OPTIMIZERS, PUBLISHED, Pace, Speed
from bench.cost.prices import device_of, load_prices
from bench.errors import BenchError, did_you_mean
from bench.model.outline import outline
from bench.result.schema import Record
from bench.result.store import RunFolder
from bench.result.text import check_format
from bench.run.plan import Dtype, Numbers, Plan, Planner, Target, Workload, no_plan, plan
from bench.settings import parse_assignments
from bench.strategy.spec import Strategy, load_strategy, preset_names
from bench.strategy.trace import outlined, trace_prompt


@dataclass(frozen=True)
class Request:
    """What was asked for, as the options of the command say it."""

    model: str
    gpu: str | None
    vram_gib: float | None
    strategies: Sequence[str]
    work: dict[str, Any]
    dtype: str
    trained_dtype: str
    optimizer: str
    checkpointing: bool
    lora_r: int | None
    targets: str | None
    virtual_tokens: int | None
    settings: list[str]
    prices: Path | None
    calibrate: Sequence[Path]
    format: str


def run_plan(request: Request) -> str:
    """The plans as text. Raises `BenchError` for what does not fit together."""
    check_format(request.format, ("table", "json"))
    for option, value, known in (
        ("--dtype", request.dtype, get_args(Dtype)), ("--trained-dtype", request.trained_dtype, ("float32", "bfloat16")),
        ("--optimizer", request.optimizer, tuple(OPTIMIZERS)),
    ):  # fmt: skip
        if value not in known:
            raise BenchError(f'{option}: found "{value}"; {did_you_mean(value, known)}')
    runs = [RunFolder(path) for path in request.calibrate]
    for run in runs:
        run.read_run()  # which says what is missing
    records = [record for run in runs for record in run.records() if record.status == "ok"]
    source = ", ".join(map(str, request.calibrate))
    fitted = calibrate(trainings(records), [a for run in runs for a in answers(run)], source) if runs else None
    target, price = _target(request, records, fitted)
    kinds: dict[str, Any] = {"dtype": request.dtype, "trained": request.trained_dtype, "optimizer": request.optimizer}
    # On a CPU everything is kept and computed in float32, as in a run there.
    numbers = Numbers(**kinds | ({"dtype": "float32", "mixed": False} if target.speed is not None else {}))
    work = Workload(**request.work)
    names = list(request.strategies) or preset_names()
    chosen = [_strategy(name, request) for name in names]
    shape = _shape(request.model)
    plans = []
    for name, strategy in chosen:
        try:
            plans.append(_far(plan(name, strategy, request.model, work, numbers, target), fitted))
        except BenchError as error:
            if request.strategies:
                raise
            plans.append(no_plan(name, str(error)))  # not every preset fits every model
    lines = assumption_lines(request.model, shape, _where(target), work, numbers, target.constants.source, price)
    return render_plans(plans, lines, fitted, request.format)


def _strategy(name: str, request: Request) -> tuple[str, Strategy]:
    """The strategy with what the options say of it, where it has such a setting."""
    name, strategy = load_strategy(name)
    settings = parse_assignments(request.settings, "--set")
    tuning = strategy.tuning
    if request.checkpointing and tuning.method not in ("none", "features"):
        settings["tuning.gradient_checkpointing"] = True
    if request.lora_r is not None and tuning.method == "lora":
        settings["tuning.r"] = request.lora_r
    if request.lora_r is not None and "r" in tuning.peft:
        settings["tuning.peft.r"] = request.lora_r
    if request.targets is not None:
        named = request.targets.split(",") if request.targets != "all-linear" else request.targets
        if tuning.method == "lora":
            settings["tuning.targets"] = named
        elif "target_modules" in tuning.peft:
            settings["tuning.peft.target_modules"] = named
    if request.virtual_tokens is not None and "num_virtual_tokens" in tuning.peft:
        settings["tuning.peft.num_virtual_tokens"] = request.virtual_tokens
    try:
        return name, strategy.with_settings(settings, keep_search=True)
    except ValueError as error:
        raise BenchError(f"strategy {name}: {error}") from error


def _target(request: Request, records: Sequence[Record], fitted: Calibration | None) -> tuple[Target, str]:
    """Where it is to run, and what an hour of that costs, in words."""
    if request.gpu is not None and request.vram_gib is not None:
        raise BenchError("--gpu and --vram: found both, expected one")
    measured = {device_of(record) for record in records}
    if len(measured) > 1:
        raise BenchError(f"--calibrate: found runs of several devices ({', '.join(sorted(measured))}); expected one")
    on = next(iter(measured), None)
    gpu = request.gpu or (on if on not in (None, "cpu") else None)
    if gpu is None and request.vram_gib is None and on is None:
        raise BenchError("--gpu: is missing; expected a device of the table, --vram GIB, or --calibrate RUN")
    device = find_device(gpu) if gpu else None
    if fitted is not None and device is not None and (on == "cpu" or find_device(str(on)) != device):
        raise BenchError(f"--calibrate: was measured on {on}, which says nothing about {device.name}; leave out one of them")
    prices = load_prices(request.prices)
    if device is None and on is None:
        assert request.vram_gib is not None
        return Target(request.vram_gib * GIB), "none, since the device is not known"
    try:
        found = prices.device(device.name if device else "cpu")
    except BenchError as error:
        # Memory and time do not wait for a price: what is missing is said, and the dollars are left out.
        dollars, price = None, str(error)
    else:
        dollars, price = found.price, str(found)
    if device is not None:
        constants = PUBLISHED
        if fitted is not None:
            peak = Speed.of(device, sixteen_bit=True).flops
            constants = fitted.constants._replace(
                training=_of_peak(fitted.constants.training, peak), answering=_of_peak(fitted.constants.answering, peak)
            )
        return Target(device.memory_bytes, device, dollars, constants), price
    assert fitted is not None
    memory = request.vram_gib * GIB if request.vram_gib is not None else max(int(r.environment["memory_bytes"]) for r in records)
    # A CPU's constants are seconds themselves; its bandwidth is in them.
    return Target(memory, None, dollars, fitted.constants, Speed(1.0, float("inf"))), price


def _of_peak(pace: Pace, peak: float) -> Pace:
    """A pace in operations per second as a share of a device's; traffic was not fitted."""
    return pace._replace(flops_share=pace.flops_share / peak, bandwidth_share=PUBLISHED.training.bandwidth_share)


def _far(found: Plan, fitted: Calibration | None) -> Plan:
    """The plan with a warning where it is far from all that was measured."""
    if fitted is None:
        return found
    notes = list(found.notes)
    if found.training_flops and found.training_flops > FAR * fitted.most_operations:
        notes.append(f"more than {FAR} times the operations of any measured run: an extrapolation")
    if fitted.most_bytes and found.training_memory and found.training_memory.total.value > FAR * fitted.most_bytes:
        notes.append(f"more than {FAR} times the memory of any measured run: an extrapolation")
    return replace(found, notes=tuple(notes))


def _shape(model: str) -> str:
    network = outline(model, torch.bfloat16).network
    config = network.config.get_text_config()
    total = sum(p.numel() for p in network.parameters())
    kv = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    tied = "tied" if getattr(network.config, "tie_word_embeddings", False) else "untied"
    heads = f"{config.num_attention_heads} heads, {kv} of keys and values, vocabulary {config.vocab_size} ({tied})"
    return f"{total:,} parameters, {config.num_hidden_layers} layers of {config.hidden_size}, {heads}"


def _where(target: Target) -> str:
    if target.device is None:
        return f"{target.memory_bytes / GIB:.1f} GiB" + ("" if target.speed is None else ", as fast as the runs measured")
    device = target.device
    speed = f"{device.bfloat16_flops / 1e12:.0f} TFLOP/s in bfloat16 (dense), {device.bandwidth_bytes_per_second / 1e9:.0f} GB/s"
    return f"{device.name}, {device.memory_bytes / GIB:.1f} GiB, {speed} ({device.source})"


# ---------------------------------------------------------------------------------------------------- calibration


def trainings(records: Sequence[Record]) -> list[Observation]:
    """What was measured of every strategy that trained, one seed each, beside what the planner counts of the same training."""
    first: dict[tuple[str, str], Record] = {}
    for record in records:
        if record.training and "tune" in record.phases and _kept(record).tuning.objective == "answers":
            first.setdefault((record.task, record.strategy), record)
    return [_training(record) for record in first.values()]


def answers(run: RunFolder) -> list[Observation]:
    """What all test answers of a strategy took, one seed each, where nothing is searched for them, beside their counts; of a served model
    nothing."""
    first: dict[tuple[str, str], Record] = {}
    for record in run.records():
        known = record.status == "ok" and record.tokens.prompt and record.phases["answer"].flops is not None
        if known and record.config["strategy"]["retrieval"]["search"] == "none":
            strategy = _kept(record)
            if not strategy.embeds and strategy.tuning.method != "features" and strategy.tuning.quantize == "none":
                first.setdefault((record.task, record.strategy), record)
    return [_answers(record, run) for record in first.values()]


def _answers(record: Record, run: RunFolder) -> Observation:
    strategy, on_gpu = _kept(record), device_of(record) != "cpu"
    base = outlined(record.model, strategy.tuning, getattr(torch, record.config["dtype"]))
    passes = trace_prompt(base, 1, 32, autocast=None).n_operations
    # All requests of a batch have the same share of its time.
    batches = {item.latency_seconds: item.tokens.completion for item in run.read_items(record.task, record.strategy, record.seed)}
    answer = record.phases["answer"]
    assert answer.flops is not None
    return Observation(
        name=f"{record.task} / {record.strategy}",
        context_bytes=0, lasting_bytes=0, passing_bytes=0, held_bytes=None,
        operations=answer.flops,
        n_operations=passes * sum(max(1, tokens) for tokens in batches.values()),
        seconds=answer.wall_seconds if on_gpu else answer.cpu_seconds,
    )  # fmt: skip


def _kept(record: Record) -> Strategy:
    return Strategy.model_validate(record.config["strategy"])


def _training(record: Record) -> Observation:
    training, strategy = record.training, _kept(record)
    assert training is not None
    on_gpu = device_of(record) != "cpu"
    dtype: Any = "nf4" if strategy.tuning.quantize == "nf4" else record.config["dtype"]
    numbers = Numbers(dtype=dtype, mixed=on_gpu or strategy.tuning.precision == "bfloat16")
    planner = Planner(record.strategy, strategy, record.model, Workload(), numbers, Target(0, None))
    rows, longest = training.longest_batch
    per_step = training.n_padded_tokens / training.n_steps
    size = strategy.tuning.batch_size
    targets = ceil(training.n_target_tokens / (training.n_steps * size))
    tensors, _ = planner.step(planner.outlined(), rows, longest, min(targets, longest - 1))
    mean = max(targets + 1, round(per_step / size))
    _, step = planner.step(planner.outlined(), size, mean, targets)
    lasting = sum(tensors[part] for part in ("weights", "gradients", "optimizer"))
    memory, tune = record.memory.get("tune"), record.phases["tune"]
    return Observation(
        name=f"{record.task} / {record.strategy}",
        context_bytes=memory.baseline_bytes if memory else 0,
        lasting_bytes=lasting,
        passing_bytes=sum(tensors.values()) - lasting,
        # The whole process: its libraries are the context. An embedder beside the model is not counted, so such runs say nothing.
        held_bytes=None if memory is None or strategy.embeds else memory.peak_bytes,
        operations=step.flops * training.n_steps,
        n_operations=step.n_operations * training.n_steps,
        seconds=tune.wall_seconds if on_gpu else tune.cpu_seconds,
    )
