"""Devices as data: memory, bandwidth, peak operations and power of common GPUs, each with its source."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field

from bench.errors import BenchError, did_you_mean
from bench.settings import parse_settings

DEVICES = Path(__file__).with_name("devices.yaml")
OTHER_CHIPS = ("laptop", "max-q", "d", "nvl", "mig")
"""Words that make another device of a name: ``RTX 4090 Laptop GPU``, ``RTX 4090 D``, ``H200 NVL``, a slice of an A100."""


class Named(BaseModel):
    """An entry that is looked up by what a record, torch or a user calls it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str = Field(min_length=1)
    match: tuple[str, ...] = ()
    """Other names of it, or parts of them, in any case."""

    @property
    def parts(self) -> tuple[str, ...]:
        """What a longer name may hold to mean this entry: as whole words, so that ``A10`` is not in ``A100``."""
        return (self.name, *self.match)


N = TypeVar("N", bound=Named)


def find_named(name: str, entries: Iterable[N]) -> N | None:
    """The entry of this name, in any case, or else the first one of which a part stands in the name (``NVIDIA L40S``: ``L40S``)."""
    known = list(entries)
    exact = next((entry for entry in known if entry.name.lower() == name.lower()), None)
    return exact or next((entry for entry in known if any(_is_in(part, name) for part in entry.parts)), None)


def _is_in(part: str, name: str) -> bool:
    other = [word for word in OTHER_CHIPS if _has_word(name, word) and not _has_word(part, word)]
    return not other and _has_word(name, part)


def _has_word(text: str, word: str) -> bool:
    return re.search(rf"(?<![a-z0-9]){re.escape(word.lower())}(?![a-z0-9])", text.lower()) is not None


class Device(Named):
    """What the planner and the energy estimate need to know of a device."""

    memory_bytes: int = Field(gt=0)
    """Total that the driver shows; a process gets less, by the CUDA context."""
    bandwidth_bytes_per_second: float = Field(gt=0)
    bfloat16_flops: float = Field(gt=0)
    """Peak operations per second in bfloat16 (float16 where it has no bfloat16) with float32 accumulation, dense, without sparsity."""
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
    """Of one busy hardware thread of a server processor, for an estimate where no counter can be read."""
    cpu_core_watts_source: str


@cache
def load_devices() -> _Devices:
    """The device table that comes with the package."""
    return parse_settings(_Devices, DEVICES.read_text(), str(DEVICES))


def find_device(name: str) -> Device:
    """The device of this name, or whose name or `match` is in it (``NVIDIA L40S`` finds ``L40S``).

    Raises `BenchError` for an unknown one; ``A100``, of which there are several, is one.
    """
    devices = load_devices().devices
    found = find_named(name, devices)
    if found is None:
        raise BenchError(f'no device "{name}" in the device table; {did_you_mean(name, [d.name for d in devices])}')
    return found
