"""What a command takes with everything it starts: CPU seconds, wall seconds and peak memory.

Run as a program of its own, it becomes the reaper of all descendants (``PR_SET_CHILD_SUBREAPER``). The times of a process that
has outlived its parent, such as a fork server and its children, are then counted like those of any other.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


@dataclass(frozen=True)
class Usage:
    """What a command took."""

    cpu_seconds: float
    """User and system time of the command and of all its descendants."""
    wall_seconds: float
    """Until the command itself had ended."""
    peak_bytes: int
    """The highest resident memory of any one of the processes."""
    started: float
    """When the command was started, in seconds since 1970."""


def measure(command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None, folder: Path | None = None) -> Usage:
    """Run `command` in `folder`; its output goes to `log`. `environment` is added to the present one.

    Raises RuntimeError with the end of the log where the command fails.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, log.open("wb") as output:
        report = Path(temporary) / "usage.json"
        ran = subprocess.run(
            [sys.executable, __file__, report, *command], cwd=folder, env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        if ran.returncode == 0:
            return Usage(**json.loads(report.read_text()))
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    raise RuntimeError(f"exit code {ran.returncode} of {' '.join(map(str, command))}\n{tail}\n(all of it: {log})")


def _main(report: Path, command: Sequence[str]) -> int:
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    started, began = time.time(), time.perf_counter()
    child = subprocess.Popen(command)
    code, wall, cpu, peak = 0, 0.0, 0.0, 0
    while True:
        try:
            process, status, used = os.wait4(-1, 0)
        except ChildProcessError:
            break
        # A process's own figures include those of the children that it has waited for itself.
        cpu += used.ru_utime + used.ru_stime
        peak = max(peak, used.ru_maxrss * 1024)
        if process == child.pid:
            wall, code = time.perf_counter() - began, os.waitstatus_to_exitcode(status)
            child.returncode = code
    report.write_text(json.dumps(asdict(Usage(cpu, wall, peak, started))))
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1]), sys.argv[2:]))
