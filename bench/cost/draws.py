"""The uncertainty of costs: bootstrap draws of items, seeds and trials, and prices that are known to a factor.

Every quantity is an array (1 + draws,) whose first number is what was measured and whose others are draws of it, so that one formula
gives the value and its interval.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.cost.prices import DevicePrice, Prices, StoragePrice, TokenPrice, device_of
from bench.errors import BenchError
from bench.result.ranking import seed_weights
from bench.result.schema import Record
from bench.result.statistics import FloatArray

Price = DevicePrice | TokenPrice | StoragePrice
N_DRAWS = 2_000


class Draws:
    """The random numbers of the bootstrap: arrays (1 + draws, ..) of weights or factors; the first leave a number as it was measured."""

    def __init__(self, seed: int, price_factor: float) -> None:
        self.seed, self._spread = seed, math.log(price_factor)

    def _generator(self, *key: object) -> np.random.Generator:
        return np.random.default_rng([self.seed, *(zlib.crc32(str(part).encode()) for part in key)])

    def factor(self, name: str) -> FloatArray:
        """(1 + draws,): of what is paid at the price of this name."""
        drawn = np.exp(self._generator("price", name).uniform(-self._spread, self._spread, N_DRAWS))
        return np.concatenate([[1.0], drawn])

    def seeds(self, n: int, place: int) -> FloatArray:
        """(1 + draws, n) that add up to 1; ``place``: of the strategy in its task."""
        return np.vstack([np.full(n, 1 / n), seed_weights(n, N_DRAWS, self._generator("seeds", place))])

    def clusters(self, count: int) -> FloatArray:
        """(1 + draws, count): how often each cluster of items is drawn; the same for all strategies of a task."""
        drawn = self._generator("clusters").multinomial(count, np.full(count, 1 / count), size=N_DRAWS)
        return np.vstack([np.ones(count), drawn.astype(np.float64)])

    def spread(self, values: Sequence[float], place: int) -> FloatArray:
        """(1 + draws,): the mean of redrawn values by their mean."""
        known = np.asarray(values, dtype=np.float64)
        if len(known) < 2 or not known.any():
            return np.ones(1 + N_DRAWS)
        picked = self._generator("trials", place).integers(0, len(known), size=(N_DRAWS, len(known)))
        return np.concatenate([[1.0], known[picked].mean(axis=1) / known.mean()])


class Purse:
    """What things cost, with the uncertainty of their prices."""

    def __init__(self, prices: Prices, price_model: str | None, draws: Draws) -> None:
        self._prices, self.draws = prices, draws
        self.used: dict[tuple[str, str], Price] = {}
        self.tokens = prices.model(price_model) if price_model else None

    def _pay(self, kind: str, price: Price) -> FloatArray:
        self.used[kind, price.name] = price
        return self.draws.factor(f"{kind} {price.name}")

    def of_device(self, record: Record) -> tuple[DevicePrice, FloatArray]:
        """The price of the device that a record was made on, and its factor."""
        price = self._prices.device(device_of(record))
        return price, self._pay("device", price)

    def of_tokens(self, record: Record) -> tuple[TokenPrice, FloatArray]:
        """The price of the hosted model, or else of the served one that answered, and its factor."""
        price = self.tokens or self._prices.model(record.config["endpoint"]["model"])
        return price, self._pay("model", price)

    def of_storage(self) -> FloatArray:
        """USD a month of one byte."""
        price = self._prices.storage
        if price is None:
            raise BenchError(
                "prices: no price for storage; expected the key storage with name, price (USD per GiB and month), source, as_of"
            )
        return price.price / 2**30 * self._pay("storage", price)


def with_interval(name: str, values: FloatArray) -> dict[str, Any]:
    """``name``, ``name_low`` and ``name_high``: the value and its 95 % interval; None for a bound that is not finite."""
    low, high = np.quantile(values[1:], [0.025, 0.975], method="inverted_cdf")
    bounds = {f"{name}_low": low, f"{name}_high": high}
    return {name: float(values[0]), **{key: float(bound) if math.isfinite(bound) else None for key, bound in bounds.items()}}
