"""How plans look: two tables with their assumptions for people, JSON for programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bench.cost.planner import GIB, Estimate, Memory
from bench.result.text import NONE, as_json, check_format, escaped, markdown_list, markdown_table, shown_bytes, shown_seconds, shown_usd

if TYPE_CHECKING:
    from bench.cost.calibration import Calibration, Checked
    from bench.run.plan import Plan

LEGEND = (
    "peak: weights (with the adapter), gradients + optimizer state, activations + logits, the rest (temporaries, what the allocator holds "
    "beside tensors, context); GiB = 2^30, MiB = 2^20 bytes; [low, high]: the interval that the prediction is made for",
    "artefact: what has to be kept to serve the strategy beside its base",
    "time and price: training steps alone, without loading, validation and tokenising; requests at the stated batch, the device busy all "
    "the time, an adapter beside the base and not merged",
)


def render_plans(plans: Sequence[Plan], assumptions: Sequence[str], calibration: Calibration | None, format: str) -> str:
    """Text that ends with a newline: ``table`` (Markdown) or ``json``, which holds everything in bytes, seconds and dollars.

    Raises BenchError for an unknown format.
    """
    check_format(format, ("table", "json"))
    if format == "json":
        found: dict[str, Any] = {"assumptions": list(assumptions), "plans": [_plain(plan) for plan in plans]}
        if calibration:
            found["calibration"] = {key: [asdict(c) for c in getattr(calibration, key)] for key in ("checked", "answered")}
        return as_json(found)
    parts = ["Training\n", _training(plans)] if any(p.training_flops is not None for p in plans) else []
    parts += ["Answering\n", _serving(plans), "Assumptions and how to read this\n", markdown_list([*map(escaped, assumptions), *LEGEND])]
    if noted := [f"{p.strategy}: {note}" for p in plans for note in p.notes]:
        parts += [markdown_list(map(escaped, noted))]
    if calibration:
        parts += ["Measured trainings beside what the others predict for them\n", _calibration(calibration.checked)]
        if calibration.answered:
            parts += ["Measured answers beside what the others predict for them\n", _calibration(calibration.answered)]
    return "\n".join(parts)


def _plain(plan: Plan) -> dict[str, Any]:
    """Estimates as {value, low, high}."""

    def of(value: Any) -> Any:
        if isinstance(value, Estimate):
            return value._asdict()
        if isinstance(value, Memory):
            return {f"{key}_bytes": of(part) for key, part in vars(value).items()}
        return list(value) if isinstance(value, tuple) else value

    return {key: of(value) for key, value in vars(plan).items()}


def _unit(memories: Sequence[Memory | None]) -> tuple[str, float]:
    """GiB; MiB where all is small."""
    return ("GiB", GIB) if any(m and m.total.value >= GIB for m in memories) else ("MiB", GIB / 1024)


def _training(plans: Sequence[Plan]) -> str:
    unit, size = _unit([plan.training_memory for plan in plans])
    head = ["Strategy", "trains", "%", f"peak {unit} [low, high]", "weights", "grad+opt", "act+logits", "rest"]
    head += ["fits", "artefact", "time", "USD"]
    body = []
    for plan in plans:
        if plan.training_flops is None:
            continue
        memory = plan.training_memory
        parts = [NONE] * 5
        if memory:
            named = [memory.weights, memory.gradients + memory.optimizer, memory.activations + memory.logits]
            parts = [_peak(memory.total, size), *(f"{x / size:.2f}" for x in (*named, memory.workspace + memory.context))]
        share = 100 * plan.trainable_params / plan.total_params
        cells = [escaped(plan.strategy), f"{plan.trainable_params:,}", f"{share:.3g}", *parts, plan.training_fits or NONE]
        cells += [shown_bytes(round(plan.artifact_bytes)), _span(plan.training_seconds, shown_seconds), _span(plan.training_usd, shown_usd)]
        body.append(cells)
    return markdown_table(head, body)


def _serving(plans: Sequence[Plan]) -> str:
    unit, size = _unit([plan.serving_memory for plan in plans])
    head = ["Strategy", f"peak {unit} [low, high]", "weights", "cache", "rest", "fits", "latency", "per 1k requests", "USD per 1k"]
    body = []
    for plan in plans:
        memory = plan.serving_memory
        if memory is None:
            body.append([escaped(plan.strategy), *[NONE] * (len(head) - 1)])
            continue
        rest = memory.activations + memory.logits + memory.workspace + memory.context
        parts = [_peak(memory.total, size), *(f"{x / size:.2f}" for x in (memory.weights, memory.cache, rest)), plan.serving_fits or NONE]
        times = [_span(plan.latency_seconds, shown_seconds), _span(plan.seconds_per_1000_requests, shown_seconds)]
        body.append([escaped(plan.strategy), *parts, *times, _span(plan.usd_per_1000_requests, shown_usd)])
    return markdown_table(head, body)


def _calibration(checked: Sequence[Checked]) -> str:
    memory = any(c.held_bytes for c in checked)
    head = ["Run", *(["peak measured", "predicted", "off"] if memory else []), "seconds measured", "predicted", "off"]
    body = []
    for c in checked:
        cells = [escaped(c.name)]
        if memory:
            cells += _beside(c.held_bytes, c.predicted_bytes, lambda x: shown_bytes(round(x)))
        body.append([*cells, *_beside(c.seconds, c.predicted_seconds, shown_seconds)])
    return markdown_table(head, body)


def _beside(value: float | None, predicted: float | None, shown: Callable[[float], str]) -> list[str]:
    """Measured, predicted, and how far that is off."""
    off = f"{100 * (predicted / value - 1):+.0f} %" if value and predicted else NONE
    return [NONE if value is None else shown(value), NONE if predicted is None else shown(predicted), off]


def _peak(found: Estimate, size: float) -> str:
    return f"{found.value / size:.1f} [{found.low / size:.1f}, {found.high / size:.1f}]"


def _span(found: Estimate | None, shown: Callable[[float], str]) -> str:
    if found is None:
        return NONE
    return f"{shown(found.value)} [{shown(found.low)}, {shown(found.high)}]"


def assumption_lines(model: str, shape: str, memory: str, work: Any, numbers: Any, source: str, price: str) -> list[str]:
    """What predictions rest on, a line each."""
    given = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in vars(work).items() if value is not None)
    kept = ", ".join(f"{key} {value}" for key, value in vars(numbers).items())
    lines = {f"model {model}": shape, "device": memory, "workload": given, "numbers": kept, "constants": source, "price": price}
    return [f"{key}: {value}" for key, value in lines.items()]


