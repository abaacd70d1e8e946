"""A cap on what a run spends at an endpoint, kept by all of its processes together."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from bench.cost.prices import TokenPrice, tokens_usd
from bench.errors import BenchError
from bench.result.schema import Tokens

_WIDTH = 24


class SpendingCap(BenchError):
    """What is to be paid next could pass the cap, or has no price."""


class Spending:
    """Dollars that a run has spent, in a file that its processes and threads share.

    What a request may cost at most is set aside before it is sent, so that the cap is never passed; a request whose process is killed
    stays charged, since it may be billed.
    """

    def __init__(self, file: Path, price: TokenPrice, max_usd: float) -> None:
        self.file, self.price, self.max_usd = file, price, max_usd

    def reserve(self, bound: Tokens) -> float:
        """Set aside what so many tokens cost: dollars, for `settle`. Raises `SpendingCap`, with nothing set aside, where that passes it."""
        usd = tokens_usd(bound, self.price, cached=False)
        self.reserve_usd(usd, "the next request")
        return usd

    def reserve_usd(self, usd: float, what: str) -> None:
        """Set aside dollars for `what`, as `reserve` does."""

        def add(spent: float) -> float:
            if spent + usd > self.max_usd:
                raise SpendingCap(
                    f"--max-usd: {spent:.4f} of {self.max_usd:g} USD are spent, and {what} could cost {usd:.4f};"
                    " what is answered is kept: run the same command with more to go on"
                )
            return spent + usd

        self._change(add)

    def settle(self, reserved: float, tokens: Tokens) -> None:
        """Put what a request has cost in the place of what was set aside for it."""
        self.settle_usd(reserved, tokens_usd(tokens, self.price, cached=True))

    def settle_usd(self, reserved: float, usd: float) -> None:
        """Put what was paid in the place of what was set aside."""
        self._change(lambda spent: max(0.0, spent - reserved + usd))

    @property
    def usd(self) -> float:
        """Spent and set aside so far."""
        return _usd(self.file.read_bytes()) if self.file.exists() else 0.0

    def _change(self, change: Callable[[float], float]) -> None:
        file = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            # One write of always the same length: a process that is killed leaves the old number or the new one.
            os.pwrite(file, f"{change(_usd(os.pread(file, _WIDTH, 0))):{_WIDTH - 1}.9f}\n".encode(), 0)
        finally:
            os.close(file)  # lets go of the lock


def _usd(text: bytes) -> float:
    return float(text) if text.strip() else 0.0
