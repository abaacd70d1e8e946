"""What a machine counts of a process: resident memory, joules of its processors, and the counters of a GPU."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cost.devices import find_device
from bench.errors import BenchError

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
    return _status_bytes("VmHWM", proc)


def resident_bytes(proc: Path = _PROC) -> int | None:
    """Resident memory now, in bytes; None where the kernel does not tell."""
    return _status_bytes("VmRSS", proc)


def file_mappings(proc: Path = _PROC) -> list[tuple[int, int]]:
    """The addresses (first, one past the last) at which files lie in this process's memory, in order; empty where the kernel does not
    tell."""
    found = []
    with contextlib.suppress(OSError):
        for line in (proc / "maps").read_text().splitlines():
            addresses, _, _, _, inode, *_ = line.split()
            if inode != "0":
                start, end = addresses.split("-")
                found.append((int(start, 16), int(end, 16)))
    return found


def _status_bytes(key: str, proc: Path) -> int | None:
    with contextlib.suppress(OSError):
        for line in (proc / "status").read_text().splitlines():
            if line.startswith(f"{key}:"):
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


class Gpu:
    """The counters of one CUDA device."""

    def __init__(self, device: str) -> None:
        import torch

        self._torch = torch
        self._device = torch.device("cuda", torch.cuda.current_device()) if device == "cuda" else torch.device(device)
        properties = torch.cuda.get_device_properties(self._device)
        self._nvml = _Nvml(str(properties.uuid))
        self.watts: float | None = None
        """Board power at most; None for a GPU that is not in the device table."""
        with contextlib.suppress(BenchError):
            self.watts = find_device(properties.name).watts
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
