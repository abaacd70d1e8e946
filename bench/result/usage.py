"""What each phase of a strategy used, as metered: time, operations, energy, and the parts of its peak memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, get_args

from bench.result.arms import load_arms
from bench.result.schema import Memory, Phase, PhaseName
from bench.result.store import RunFolder

if TYPE_CHECKING:
    import pandas as pd

MEANS = ("wall_seconds", "cpu_seconds", "device_seconds", "flops", "energy_joules")
PEAKS = ("peak_rss_bytes", "peak_gpu_allocated_bytes", "peak_gpu_reserved_bytes", "peak_gpu_process_bytes")
PARTS = tuple(name for name in Memory.model_fields if name not in ("kind", "peak_bytes"))
COLUMNS = ("task", "model", "strategy", "phase", *MEANS, "energy_source", *PEAKS, *PARTS, "n_seeds")


def usage_table(run: RunFolder | Path | Sequence[RunFolder | Path]) -> pd.DataFrame:
    """One row per (task, model, strategy, phase): means over seeds of times, FLOPs and joules, highest peaks, and the parts of the highest
    one where they are known (tune and answer); what is not measured is NaN.

    Raises BenchError as `bench.result.table.build_table` does.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for arm in load_arms(run):
        for name in get_args(PhaseName):
            phases = [record.phases[name] for record in arm.ok if name in record.phases]
            if phases:
                head = {"task": arm.task, "model": arm.model, "strategy": arm.strategy, "phase": name, "n_seeds": len(phases)}
                memory = max((m for r in arm.ok for key, m in r.memory.items() if key == name), key=lambda m: m.peak_bytes, default=None)
                parts = {} if memory is None else {part: getattr(memory, part) for part in PARTS}
                rows.append(head | _of(phases) | parts)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _of(phases: Sequence[Phase]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in MEANS:
        values = [v for phase in phases if (v := getattr(phase, key)) is not None]
        found[key] = fmean(values) if len(values) == len(phases) else None
    for key in PEAKS:
        found[key] = max((v for phase in phases if (v := getattr(phase, key)) is not None), default=None)
    sources = {phase.energy_source for phase in phases}
    found["energy_source"] = sources.pop() if len(sources) == 1 else "estimated"
    return found
