"""What a run ran on: packages, git commit, hardware. Part of run.json and of every record, never of a cell id."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import bench

PACKAGES = (
    "torch", "transformers", "tokenizers", "peft", "sentence-transformers", "faiss-cpu", "evaluate", "rouge-score", "numpy", "pandas",
)  # fmt: skip


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603
            ["git", *arguments],  # noqa: S607
            cwd=folder, capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _commit(folder: Path, *untracked: str) -> tuple[str | None, bool | None]:
    """The commit of the repository that a folder is in, and whether it has changes; (None, None) outside one."""
    commit = _git(folder, "rev-parse", "HEAD")
    return commit, bool(_git(folder, "status", "--porcelain", *untracked)) if commit else None


def _cpu() -> tuple[str, str | None]:
    """The processor's name, and its family and model: virtual machines give processors of several generations one name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor(), None
    of: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        of.setdefault(key.strip(), value.strip())
    family, model = of.get("cpu family"), of.get("model")
    return of.get("model name", platform.processor()), f"{family}/{model}" if family and model else None


@cache
def environment() -> dict[str, Any]:
    """Versions, commits and hardware. Imports no torch: the GPU's name is added by the cell that uses one.

    ``git_commit`` is of the source of this package, ``project_commit`` of the working folder, where tasks, suites and strategies are.
    """
    commit, dirty = _commit(Path(__file__).parent)
    cpu, family = _cpu()
    # Reports and notes that lie about in a project are no change of it.
    project_commit, project_dirty = _commit(Path.cwd(), "--untracked-files=no")
    return {
        "bench": bench.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {p: _version(p) for p in PACKAGES},
        "git_commit": commit,
        "git_dirty": dirty,
        "project_commit": project_commit,
        "project_dirty": project_dirty,
        "cpu": cpu,
        "cpu_family": family,
        "cpu_count": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }
