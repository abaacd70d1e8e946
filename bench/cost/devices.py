"""Devices as data: memory, bandwidth, peak operations and power of common GPUs, each with its source."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from bench.errors import BenchError, did_you_mean
from bench.settings import parse_settings

DEVICES = Path(__file__).with_name("devices.yaml")


class Device(BaseModel):
    """What the planner and the energy estimate need to know of a device."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    match: tuple[str, ...] = ()
    """Parts of the device's name as torch or the kernel gives it, lower case, the most specific device first in the file; default:
    the name."""
    memory_bytes: int = Field(gt=0)
    bandwidth_bytes_per_second: float = Field(gt=0)
    bfloat16_flops: float = Field(gt=0)
    """Peak operations per second in bfloat16 (float16 where it has no bfloat16), dense, without sparsity."""
    float32_flops: float = Field(gt=0)
    """The same in float32 on the ordinary units, as torch computes it by default (no TF32)."""
    watts: float = Field(gt=0)
    """Board power at most (TDP)."""
    source: str
    """The vendor's data sheet: an address."""


class _Devices(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    devices: tuple[Device, ...]
    cpu_core_watts: float = Field(gt=0)
    """Of one busy core of a server processor, for an estimate where no counter can be read."""
    cpu_core_watts_source: str


@cache
def load_devices() -> _Devices:
    """The device table that comes with the package."""
    return parse_settings(_Devices, DEVICES.read_text(), str(DEVICES))


def find_device(name: str) -> Device:
    """The device of this name, or whose `match` is in it (``NVIDIA L40S`` finds ``L40S``). Raises `BenchError` for an unknown one."""
    devices = load_devices().devices
    exact = next((d for d in devices if d.name.lower() == name.lower()), None)
    found = exact or next((d for d in devices if any(m in name.lower() for m in d.match or (d.name.lower(),))), None)
    if found is None:
        raise BenchError(f'no device "{name}" in the device table; {did_you_mean(name, [d.name for d in devices])}')
    return found
