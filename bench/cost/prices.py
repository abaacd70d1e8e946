"""Prices as data: what device-hours, hosted models' tokens and storage cost, each with its unit, source and date.

Records hold seconds, tokens and joules; dollars are computed from them with a price file, and can be computed again with another.
A device or model without a price is an error that says so, never a zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from bench.cost.devices import Named, find_named
from bench.errors import BenchError, did_you_mean
from bench.result.schema import Phase, Record, Tokens
from bench.settings import parse_settings

DEFAULT_PRICES = Path(__file__).with_name("prices.yaml")
DEFAULT = "default"
"""What stands for the prices that come with the package where a file may be named."""
CPU = "cpu"
"""The device of a record that names no GPU."""


class _Entry(Named):
    source: str
    """Where the price was read: an address."""
    as_of: date

    @property
    def origin(self) -> str:
        """Source and date, for people."""
        return f"{self.source}, {self.as_of.isoformat()}"


class DevicePrice(_Entry):
    """What a device costs while it is held."""

    unit: Literal["device_hour", "core_hour"]
    """``core_hour``: of one hardware thread of a CPU (a cloud's vCPU), charged for CPU seconds; ``device_hour``: of a whole device,
    for wall seconds."""
    price: float = Field(ge=0)

    def __str__(self) -> str:
        return f"{self.name}: {self.price:g} USD per {self.unit.replace('_', '-')} ({self.origin})"


class TokenPrice(_Entry):
    """What a hosted model costs per million tokens. A charge for writing to the cache is left out: it falls due once per prefix."""

    input: float = Field(ge=0)
    cached_input: float | None = Field(default=None, ge=0)
    """Of prompt tokens that the provider has cached; None where it does not cache: the price of `input`."""
    output: float = Field(ge=0)
    training: float | None = Field(default=None, ge=0)
    """Of tokens trained on by a job of the provider's, all epochs counted; None where it is not known."""
    tuned_input: float | None = Field(default=None, ge=0)
    """Of a model that was tuned from this one; None where it is not known, which is not to say that it is that of `input`."""
    tuned_cached_input: float | None = Field(default=None, ge=0)
    """None where the provider does not cache: the price of `tuned_input`."""
    tuned_output: float | None = Field(default=None, ge=0)

    @property
    def missing_for_tuning(self) -> list[str]:
        """The keys without which tuning this model and asking the tuned one has no price."""
        return [key for key in ("training", "tuned_input", "tuned_output") if getattr(self, key) is None]

    def of_tuned(self) -> TokenPrice:
        """The price of a model that was tuned from this one. Raises `BenchError` where it is not known."""
        if self.tuned_input is None or self.tuned_output is None:
            raise BenchError(f'prices: "{self.name}" has no tuned_input and tuned_output; expected what a model tuned from it costs')
        update = {"input": self.tuned_input, "cached_input": self.tuned_cached_input, "output": self.tuned_output, "training": None}
        return self.model_copy(update=update | {"name": f"{self.name} (tuned)"})

    def training_usd(self, tokens: int | None) -> float:
        """Dollars of so many trained tokens. Raises `BenchError` where the price or the number is not known."""
        if self.training is None:
            raise BenchError(f'prices: "{self.name}" has no price for training; expected the key training (USD per million tokens)')
        if tokens is None:
            raise BenchError(f'the provider has not said how many tokens its jobs on "{self.name}" trained on, so their price is unknown')
        return self.training * tokens / 1e6

    @property
    def parts(self) -> tuple[str, ...]:
        """Only what `match` lists: a longer name is mostly another model."""
        return self.match

    def __str__(self) -> str:
        cached = "" if self.cached_input is None else f", {self.cached_input:g} cached"
        tuned = "" if self.training is None else f", {self.training:g} of training"
        if self.tuned_input is not None and self.tuned_output is not None:
            tuned += f", once tuned {self.tuned_input:g} of input and {self.tuned_output:g} of output"
        return f"{self.name}: {self.input:g} USD per million tokens of input{cached}, {self.output:g} of output{tuned} ({self.origin})"


class StoragePrice(BaseModel):
    """What keeping a gibibyte for a month costs."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str
    price: float = Field(ge=0)
    source: str
    as_of: date

    def __str__(self) -> str:
        return f"{self.name}: {self.price:g} USD per GiB and month ({self.source}, {self.as_of.isoformat()})"


class Prices(BaseModel):
    """The keys of a price file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    currency: Literal["USD"] = "USD"
    devices: tuple[DevicePrice, ...] = ()
    models: tuple[TokenPrice, ...] = ()
    storage: StoragePrice | None = None
    _source: str = PrivateAttr(default="these prices")

    @model_validator(mode="after")
    def _named_once(self) -> Prices:
        for key, entries in (("devices", self.devices), ("models", self.models)):
            names = [entry.name.lower() for entry in entries]
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice:
                raise ValueError(f'{key}: found two entries named "{twice}", expected one')
        return self

    @property
    def source(self) -> str:
        """The file that they were read from."""
        return self._source

    def device(self, name: str) -> DevicePrice:
        """The price of a device as `device_of` names it: of the entry of this name, or else the first whose name or `match` is in it as
        whole words. Raises `BenchError` where there is none."""
        entry = f"{{name: {name}, unit: device_hour, price: USD, source: ADDRESS, as_of: DATE}}"
        return find_named(name, self.devices) or _missing(self.source, "devices", "device", name, self.devices, entry)

    def model(self, name: str) -> TokenPrice:
        """The price of a hosted model: of the entry of this name, or else the first one of which a `match` is in it as whole words.
        Raises `BenchError` where there is none."""
        entry = f"{{name: {name}, input: USD, output: USD, source: ADDRESS, as_of: DATE}}"
        return find_named(name, self.models) or _missing(self.source, "models", "model", name, self.models, entry)


def load_prices(path: Path | str | None = None) -> Prices:
    """The prices of a file, by default (None or "default") those that come with the package.

    A file stands for itself: nothing is added from the default. Raises `BenchError` for a file that is missing or wrong.
    """
    file = DEFAULT_PRICES if path is None or str(path) == DEFAULT else Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "no UTF-8 text"
        raise BenchError(f"{file}: cannot be read ({why}); expected a price file") from error
    prices = parse_settings(Prices, text, str(file))
    prices._source = str(file)
    return prices


def device_of(record: Record) -> str:
    """What a record ran on, for `Prices.device`: the GPU's name as torch gives it, or "cpu"."""
    return str(record.environment.get("gpu") or CPU)


def phase_usd(phase: Phase, price: DevicePrice) -> float:
    """Dollars of a phase: a device is paid while it is held (wall seconds), a core while it works (CPU seconds, all threads)."""
    seconds = phase.wall_seconds if price.unit == "device_hour" else phase.cpu_seconds
    return price.price * seconds / 3600


def tokens_usd(tokens: Tokens, price: TokenPrice, *, cached: bool) -> float:
    """Dollars of these tokens, of one request or of many. The two bounds: nothing in the provider's cache, or (``cached``) the
    prefix that requests shared in the run, `Tokens.prompt_cached`, at the price of cached input."""
    hits = tokens.prompt_cached if cached else 0
    reused = price.input if price.cached_input is None else price.cached_input
    return ((tokens.prompt - hits) * price.input + hits * reused + tokens.completion * price.output) / 1e6


def provider_training_usd(record: Record, price: TokenPrice, *, all_jobs: bool) -> float:
    """Dollars of the job whose model a record's strategy asks, or of all jobs of its cell, those of its search too.

    Raises `BenchError` where the price or what was trained on is not known.
    """
    return price.training_usd(record.config["endpoint"]["tuning"]["trained_tokens_of_all_jobs" if all_jobs else "trained_tokens"])


def tuned_by_provider(record: Record) -> bool:
    """Whether a provider's own job has tuned the model that answered."""
    return "tuning" in (record.config.get("endpoint") or {})


def _missing(source: str, key: str, kind: str, name: str, entries: Sequence[Named], entry: str) -> NoReturn:
    known = did_you_mean(name, [e.name for e in entries]) if entries else "there are none"
    raise BenchError(f'{source}: no price for the {kind} "{name}"; {known} (add it to the {key} of a price file: {entry})')
