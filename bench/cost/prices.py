"""Prices as data: what device-hours, hosted models' tokens and storage cost, each with its unit, source and date.

Records hold seconds, tokens and joules; dollars are computed from them with a price file, and can be computed again with another.
A device or model without a price is an error that says so, never a zero.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from bench.errors import BenchError
from bench.settings import parse_settings

DEFAULT_PRICES = Path(__file__).with_name("prices.yaml")


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    source: str
    """Where the price was read: an address."""
    as_of: date


class DevicePrice(_Entry):
    """What a device costs while it is held."""

    match: tuple[str, ...] = ()
    """Parts of the device's name as records have it, lower case; default: the name."""
    unit: Literal["device_hour", "core_hour"]
    """``core_hour``: of one core of a CPU, charged for CPU seconds; ``device_hour``: of a whole device, for wall seconds."""
    price: float = Field(ge=0)


class TokenPrice(_Entry):
    """What a hosted model costs per million tokens."""

    input: float = Field(ge=0)
    cached_input: float | None = Field(default=None, ge=0)
    """Of prompt tokens that the provider has cached; None where it does not cache: the price of `input`."""
    output: float = Field(ge=0)


class StoragePrice(_Entry):
    """What keeping a gibibyte for a month costs."""

    price: float = Field(ge=0)


class Prices(BaseModel):
    """The keys of a price file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    currency: Literal["USD"] = "USD"
    devices: tuple[DevicePrice, ...] = ()
    models: tuple[TokenPrice, ...] = ()
    storage: StoragePrice | None = None


def load_prices(path: Path | None = None) -> Prices:
    """The prices of a file, by default those that come with the package. Raises `BenchError` for a file that is missing or wrong."""
    file = path or DEFAULT_PRICES
    try:
        text = file.read_text()
    except OSError as error:
        raise BenchError(f"{file}: cannot be read ({error.strerror}); expected a price file") from error
    return parse_settings(Prices, text, str(file))
