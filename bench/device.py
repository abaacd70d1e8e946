"""Which device a run uses. It is said to every process of the run alike, by what CUDA reads from the environment when it starts."""

from __future__ import annotations

import os
from pathlib import Path

from bench.errors import BenchError, did_you_mean

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""Indices of GPUs, divided by commas: the only ones that CUDA lets a process see, counted from 0 in this order."""
HIDDEN = ("", "-1")
"""Values of it with which there is no GPU."""


def use_device(device: str) -> None:
    """Have this process and those that it starts run on ``cpu``, ``cuda`` or ``cuda:N``; call this before CUDA is used.

    ``cuda:N`` counts within the GPUs that `VISIBLE` has left already. Raises `BenchError` for another device, and for a GPU that is not
    there or that torch cannot use.
    """
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (":" in device and not (kind == "cuda" and number.isdecimal())):
        raise BenchError(f'--device: found "{device}"; {did_you_mean(device, ("cpu", "cuda", "cuda:0"))}')
    if kind == "cpu":
        os.environ[VISIBLE] = ""
        return
    if number:
        os.environ[VISIBLE] = _visible(device, int(number))
    import torch

    if not torch.cuda.is_available():
        from bench.doctor import without_gpu

        raise BenchError(f"--device: found {device}; {without_gpu().found} (see bench doctor)")


def _visible(device: str, index: int) -> str:
    """What `VISIBLE` has to be so that the GPU of this index is the only one."""
    given = os.environ.get(VISIBLE)
    if given is None:
        return str(index)
    left = [] if given in HIDDEN else given.split(",")
    if index >= len(left):
        raise BenchError(f'--device: found {device}; {VISIBLE} is "{given}", which leaves {len(left)} GPUs to choose from')
    return left[index].strip()


def has_gpu() -> bool:
    """Whether there may be a GPU to run on; imports no torch."""
    return Path("/dev/nvidia0").exists() and os.environ.get(VISIBLE) not in HIDDEN
