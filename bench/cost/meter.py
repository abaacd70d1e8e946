"""Meters: what each phase of a cell takes in time, memory, energy and operations.

One `Meter` belongs to one process and one cell: peaks are the process's own, so two cells in one process would share them.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from bench.result.schema import Phase, PhaseName


class Meter:
    """Measure the phases of a cell::

        meter = Meter(device)
        with meter.phase("answer"):
            answers = model.answer(prompts)
            meter.add_flops(operations)
        record.phases = meter.readings()

    ``device`` is where the model runs, such as ``cpu`` or ``cuda:0``. What a machine cannot measure stays None. A phase that is
    entered again adds to its times, FLOPs and joules and keeps its highest peaks; a phase that raises is recorded all the same.
    """

    def __init__(self, device: str = "cpu") -> None:
        self._gpu = _Gpu(device) if device.startswith("cuda") else None
        self._rapl = None if self._gpu else Rapl()
        self._done: dict[PhaseName, Phase] = {}
        self._open: PhaseName | None = None
        self._flops = 0.0
        self._added: dict[PhaseName, tuple[float, float]] = {}

    @contextlib.contextmanager
    def phase(self, name: PhaseName) -> Iterator[None]:
        """Measure the body as (part of) this phase.

        Clocks: ``time.perf_counter`` and ``time.process_time``, the latter for all threads of this process but not for child
        processes. Raises ValueError for an unknown name and RuntimeError inside another phase, since a peak cannot be told
        apart there.
        """
        if name not in get_args(PhaseName):
            raise ValueError(f"unknown phase {name!r}; expected one of {', '.join(get_args(PhaseName))}")
        if self._open is not None:
            raise RuntimeError(f"phase {name!r} entered inside phase {self._open!r}; phases cannot be nested")
        self._open, self._flops = name, 0.0
        resident = reset_peak_rss()
        if self._gpu:
            self._gpu.start()
        if self._rapl:
            self._rapl.start()
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
            if self._gpu:
                self._gpu.synchronize()  # kernels run behind the host; an error in one of them is this phase's, so let it out
        finally:
            gpu = self._gpu.stop() if self._gpu else GpuUse()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            reading = Phase(
                wall_seconds=wall,
                cpu_seconds=cpu,
                device_seconds=gpu.seconds,
                flops=self._flops,
                peak_rss_bytes=peak_rss() if resident else None,
                peak_gpu_allocated_bytes=gpu.allocated_bytes,
                peak_gpu_reserved_bytes=gpu.reserved_bytes,
                peak_gpu_process_bytes=gpu.process_bytes,
                energy_joules=self._rapl.stop() if self._rapl else gpu.joules,
            )
            earlier = self._done.get(name)
            self._done[name] = _together(earlier, reading) if earlier else reading
            self._open = None

    def add_flops(self, operations: float) -> None:
        """Add floating-point operations (see :mod:`bench.cost.flops`) to the open phase. RuntimeError outside of one."""
        if self._open is None:
            raise RuntimeError("add_flops outside of a phase")
        self._flops += operations

    def add_seconds(self, wall: float, cpu: float, phase: PhaseName | None = None) -> None:
        """Charge the open phase, or the one named, with seconds that its clocks have not seen; negative: seen, but charged elsewhere.

        No clock is changed. Outside of a phase nothing is measured, so without a name nothing is charged; what is charged to a
        phase that is never entered is in no reading.
        """
        name = phase or self._open
        if name is not None:
            before = self._added.get(name, (0.0, 0.0))
            self._added[name] = (before[0] + wall, before[1] + cpu)

    def readings(self) -> dict[PhaseName, Phase]:
        """The phases that have ended, in the order in which they were first entered, with what was charged to them."""
        readings = dict(self._done)
        for name in self._added.keys() & readings.keys():
            (wall, cpu), reading = self._added[name], readings[name]
            seconds = {"wall_seconds": reading.wall_seconds + wall, "cpu_seconds": reading.cpu_seconds + cpu}
            readings[name] = reading.model_copy(update=seconds)
        return readings


def _together(first: Phase, second: Phase) -> Phase:
    """Two stretches of one phase: sums, and the higher peak. What one of them lacks, the whole lacks."""
    values: dict[str, float | int | None] = {}
    for key, a in first.model_dump().items():
        b = getattr(second, key)
        values[key] = None if a is None or b is None else max(a, b) if key.startswith("peak_") else a + b
    return Phase.model_validate(values)


# getrusage's ru_maxrss is of no use here: it can never be reset, and a child process inherits its parent's.
_PROC = Path("/proc/self")


def reset_peak_rss(proc: Path = _PROC) -> bool:
    """Set the kernel's peak of this process's resident memory (VmHWM) back to the present; False where that is not possible."""
    try:
        (proc / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_rss(proc: Path = _PROC) -> int | None:
    """Peak resident memory in bytes since the last reset; None where the kernel does not tell."""
    with contextlib.suppress(OSError):
        for line in (proc / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None


class Rapl:
    """Joules of the machine's processor packages, all processes together (Intel and AMD, Linux powercap).

    A counter that wraps more than once within a phase (some 40 minutes at 100 W) cannot be told from one that wraps once.
    Reading needs a permission that most systems give to root alone; without it, readings are None.
    """

    def __init__(self, root: Path = Path("/sys/class/powercap")) -> None:
        self._packages = []
        # Only whole packages: their core and memory domains, and the platform domain, would count the same joules twice.
        for folder in sorted(root.glob("intel-rapl:*")):
            with contextlib.suppress(OSError):
                if (folder / "name").read_text().startswith("package"):
                    self._packages.append(folder)
        self._start: list[int] | None = None

    def start(self) -> None:
        self._start = self._read("energy_uj")

    def stop(self) -> float | None:
        """Joules since :meth:`start`."""
        start, end, span = self._start, self._read("energy_uj"), self._read("max_energy_range_uj")
        if start is None or end is None or span is None:
            return None
        return sum(b - a if b >= a else b - a + wrap for a, b, wrap in zip(start, end, span, strict=True)) / 1e6

    def _read(self, name: str) -> list[int] | None:
        try:
            return [int((folder / name).read_text()) for folder in self._packages] or None
        except (OSError, ValueError):
            return None


@dataclass(frozen=True)
class GpuUse:
    """What a phase used of one GPU; None is not measured."""

    seconds: float | None = None
    allocated_bytes: int | None = None
    """Peak of live tensors."""
    reserved_bytes: int | None = None
    """Peak that the caching allocator held."""
    process_bytes: int | None = None
    """Peak of the process as NVML sees it: reserved memory plus the CUDA context."""
    joules: float | None = None
    """Of the whole board, other processes included."""


class _Gpu:
    """The counters of one CUDA device."""

    def __init__(self, device: str) -> None:
        import torch

        self._torch = torch
        self._device = torch.device("cuda", torch.cuda.current_device()) if device == "cuda" else torch.device(device)
        self._nvml = _Nvml(str(torch.cuda.get_device_properties(self._device).uuid))
        self._begin: Any = None
        self._joules: float | None = None

    def synchronize(self) -> None:
        self._torch.cuda.synchronize(self._device)

    def start(self) -> None:
        self.synchronize()
        self._torch.cuda.reset_peak_memory_stats(self._device)
        self._joules = self._nvml.joules()
        self._begin = self._mark()

    def stop(self) -> GpuUse:
        """Never raises: after a kernel error every CUDA call fails, and the error that matters is already on its way."""
        cuda = self._torch.cuda
        try:
            end = self._mark()
            self.synchronize()
            # Between two events on the current stream: the gaps in which the device waited for the host are in it.
            seconds = self._begin.elapsed_time(end) / 1e3
            allocated, reserved = cuda.max_memory_allocated(self._device), cuda.max_memory_reserved(self._device)
            released = reserved - cuda.memory_reserved(self._device)
        except RuntimeError:
            return GpuUse()
        joules, process = self._nvml.joules(), self._nvml.process_bytes()
        return GpuUse(
            seconds=seconds,
            allocated_bytes=allocated,
            reserved_bytes=reserved,
            process_bytes=None if process is None else process + released,  # NVML tells the present, not the peak
            joules=None if joules is None or self._joules is None else joules - self._joules,
        )

    def _mark(self) -> Any:
        with self._torch.cuda.device(self._device):
            event = self._torch.cuda.Event(enable_timing=True)
            event.record()
        return event


class _Nvml:
    """The driver's view of one GPU, where ``nvidia-ml-py`` (the ``gpu`` extra) is installed; else None throughout."""

    def __init__(self, uuid: str) -> None:
        self._nvml: Any = None
        try:
            import pynvml
        except ImportError:
            return
        # By UUID: CUDA_VISIBLE_DEVICES renumbers torch's devices, but not NVML's.
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}")
            self._nvml = pynvml

    def joules(self) -> float | None:
        """Energy of the board since the driver was loaded (Volta and later)."""
        if self._nvml is None:
            return None
        try:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3
        except self._nvml.NVMLError:
            return None

    def process_bytes(self) -> int | None:
        """Present memory of this process; None also in a container that hides its process ids from the driver."""
        if self._nvml is None:
            return None
        try:
            processes = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
        except self._nvml.NVMLError:
            return None
        return next((p.usedGpuMemory for p in processes if p.pid == os.getpid() and p.usedGpuMemory), None)
