"""Meters: what each phase of a cell takes in time, memory, energy and operations.

One `Meter` belongs to one process and one cell: peaks are the process's own, so two cells in one process would share them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from bench.cost.counters import Gpu, GpuUse, Rapl, peak_rss, reset_peak_rss, resident_bytes
from bench.cost.devices import load_devices
from bench.result.schema import Memory, Phase, PhaseName

Part = Literal["weights", "gradients", "optimizer", "activations", "cache"]
"""What memory is counted by: the fields of `Memory` that are no reading of the machine."""


class Meter:
    """Measure the phases of a cell::

        meter = Meter(device)
        with meter.phase("answer"):
            answers = model.answer(prompts)
            meter.add_flops(operations)
        record.phases = meter.readings()

    ``device`` is where the model runs, such as ``cpu`` or ``cuda:0``. What a machine cannot measure stays None, but for energy, which is
    estimated. A phase that is entered again adds to its times, FLOPs and joules and keeps its highest peaks; a phase that raises is
    recorded all the same.
    """

    def __init__(self, device: str = "cpu") -> None:
        self._gpu = Gpu(device) if device.startswith("cuda") else None
        self._rapl = None if self._gpu else Rapl()
        self._done: dict[PhaseName, Phase] = {}
        self._open: _Stretch | None = None
        self._added: dict[PhaseName, tuple[float, float]] = {}
        self._held: dict[PhaseName, dict[Part, int]] = {}
        self._baseline: int | None = 0 if self._gpu else None

    @contextlib.contextmanager
    def phase(self, name: PhaseName) -> Iterator[None]:
        """Measure the body as (part of) this phase.

        Clocks: ``time.perf_counter`` and ``time.process_time``, the latter for all threads of this process but not for child
        processes. Raises ValueError for an unknown name and RuntimeError inside another phase, since a peak cannot be told
        apart there; `inside` leaves the other one for a while.
        """
        _check(name)
        if self._open is not None:
            raise RuntimeError(f"phase {name!r} entered inside phase {self._open.name!r}; phases cannot be nested")
        with self._stretch(name):
            yield

    @contextlib.contextmanager
    def inside(self, name: PhaseName) -> Iterator[None]:
        """Measure the body as (part of) this phase and not as that of the open one, which goes on afterwards.

        Seconds, FLOPs, peaks, joules and parts of memory of the body are this phase's alone. Raises ValueError for an unknown name
        and RuntimeError outside of a phase.
        """
        _check(name)
        if self._open is None:
            raise RuntimeError(f"inside phase {name!r} needs an open phase that it interrupts")
        outer = self._open.name
        self._end()
        try:
            with self._stretch(name):
                yield
        finally:
            self._begin(outer)

    @contextlib.contextmanager
    def _stretch(self, name: PhaseName) -> Iterator[None]:
        try:
            self._begin(name)
            yield
            if self._gpu:
                self._gpu.synchronize()  # kernels run behind the host; an error in one of them is this phase's, so let it out
        finally:
            self._end()

    def _begin(self, name: PhaseName) -> None:
        self._open = _Stretch(name, reset_peak_rss())
        if self._gpu:
            self._gpu.start()
        if self._rapl:
            self._rapl.start()
        self._open.wall, self._open.cpu = time.perf_counter(), time.process_time()

    def _end(self) -> None:
        assert self._open is not None
        gpu = self._gpu.stop() if self._gpu else GpuUse()
        wall, cpu = time.perf_counter(), time.process_time()
        open_, self._open = self._open, None
        wall_seconds, cpu_seconds = wall - open_.wall, cpu - open_.cpu
        joules, source = self._energy(gpu, cpu_seconds)
        reading = Phase(
            wall_seconds=wall_seconds,
            cpu_seconds=cpu_seconds,
            device_seconds=gpu.seconds,
            flops=open_.flops,
            peak_rss_bytes=peak_rss() if open_.resident else None,
            peak_gpu_allocated_bytes=gpu.allocated_bytes,
            peak_gpu_reserved_bytes=gpu.reserved_bytes,
            peak_gpu_process_bytes=gpu.process_bytes,
            energy_joules=joules,
            energy_source=source,
        )
        self._done = all_together(self._done, {open_.name: reading})

    def _energy(self, gpu: GpuUse, cpu_seconds: float) -> tuple[float | None, Literal["nvml", "rapl", "estimated"] | None]:
        """Joules of a stretch and where they come from: a counter, or else the device table's watts times seconds of work.

        The table's watts of a GPU are its most, so that an estimate for a GPU that waits is too high.
        """
        if self._gpu:
            if gpu.joules is not None:
                return gpu.joules, "nvml"
            watts = self._gpu.watts
            return (None, None) if watts is None or gpu.seconds is None else (watts * gpu.seconds, "estimated")
        counted = self._rapl.stop() if self._rapl else None
        return (load_devices().cpu_core_watts * cpu_seconds, "estimated") if counted is None else (counted, "rapl")

    def add_flops(self, operations: float) -> None:
        """Add floating-point operations (see :mod:`bench.cost.flops`) to the open phase. RuntimeError outside of one."""
        if self._open is None:
            raise RuntimeError("add_flops outside of a phase")
        self._open.flops += operations

    def add_seconds(self, wall: float, cpu: float, phase: PhaseName | None = None) -> None:
        """Charge the open phase, or the one named, with seconds that its clocks have not seen; negative: seen, but charged elsewhere.

        No clock is changed. Outside of a phase nothing is measured, so without a name nothing is charged; what is charged to a
        phase that is never entered is in no reading.
        """
        name = phase or (self._open.name if self._open else None)
        if name is not None:
            before = self._added.get(name, (0.0, 0.0))
            self._added[name] = (before[0] + wall, before[1] + cpu)

    def before_model(self, loaded: int = 0) -> None:
        """Take what is resident now, less the `loaded` bytes of a model that is there already, as the memory beside the model.

        Only the first call counts: later trials load their models into memory that earlier ones have grown.
        """
        if self._baseline is None:
            resident = resident_bytes()
            self._baseline = None if resident is None else resident - loaded

    def hold(self, parts: Mapping[Part, int]) -> None:
        """Note bytes that the open phase has held; the largest of each part is kept, over all trials. RuntimeError outside of a phase."""
        if self._open is None:
            raise RuntimeError("hold outside of a phase")
        held = self._held.setdefault(self._open.name, {})
        for part, size in parts.items():
            held[part] = max(size, held.get(part, 0))

    def memory(self, name: PhaseName) -> Memory | None:
        """What the peak of a phase that has ended consists of; None where no weights were noted or its peak is not measured.

        Of a phase entered several times, peak and parts are each the largest, which need not have been together: the trial with the
        largest peak is not told apart.
        """
        parts, phase = self._held.get(name, {}), self._done.get(name)
        if "weights" not in parts or phase is None:
            return None
        peak = phase.peak_gpu_allocated_bytes if self._gpu else phase.peak_rss_bytes
        if peak is None or self._baseline is None:
            return None
        counted = {f"{part}_bytes": size for part, size in parts.items()}
        rest = peak - self._baseline - sum(parts.values())
        measured = {"kind": "gpu" if self._gpu else "rss", "peak_bytes": peak, "baseline_bytes": self._baseline, "workspace_bytes": rest}
        return Memory.model_validate(measured | counted)

    def readings(self) -> dict[PhaseName, Phase]:
        """The phases that have ended, in the order in which they were first entered, with what was charged to them.

        Joules that are estimated by CPU seconds follow these; those of a counter stay as they were counted.
        """
        readings = dict(self._done)
        for name in self._added.keys() & readings.keys():
            (wall, cpu), reading = self._added[name], readings[name]
            charged = {"wall_seconds": reading.wall_seconds + wall, "cpu_seconds": reading.cpu_seconds + cpu}
            if self._gpu is None and reading.energy_joules is not None and reading.energy_source == "estimated":
                charged["energy_joules"] = reading.energy_joules + load_devices().cpu_core_watts * cpu
            readings[name] = reading.model_copy(update=charged)
        return readings


@dataclass
class _Stretch:
    """A phase that is open, or a part of one between two interruptions."""

    name: PhaseName
    resident: bool
    """Whether the peak of resident memory is this stretch's own."""
    wall: float = field(default_factory=time.perf_counter)
    cpu: float = field(default_factory=time.process_time)
    flops: float = 0.0


def _check(name: str) -> None:
    if name not in get_args(PhaseName):
        raise ValueError(f"unknown phase {name!r}; expected one of {', '.join(get_args(PhaseName))}")


def _together(first: Phase, second: Phase) -> Phase:
    """Two stretches as one phase: sums, and the higher peak. What one of them lacks, the whole lacks; joules are estimated if any are."""
    values: dict[str, float | int | str | None] = {}
    for key, a in first.model_dump(exclude={"energy_source"}).items():
        b = getattr(second, key)
        values[key] = None if a is None or b is None else max(a, b) if key.startswith("peak_") else a + b
    sources = {first.energy_source, second.energy_source}
    values["energy_source"] = None if None in sources else sources.pop() if len(sources) == 1 else "estimated"
    return Phase.model_validate(values)


def all_together(first: Mapping[PhaseName, Phase], second: Mapping[PhaseName, Phase]) -> dict[PhaseName, Phase]:
    """The phases of two meters, such as those of two processes that did one cell, as if one had measured them."""
    whole = dict(first)
    for name, phase in second.items():
        whole[name] = _together(whole[name], phase) if name in whole else phase
    return whole
