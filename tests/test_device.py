"""Which device a run uses, by what CUDA reads from the environment."""

import os

import pytest
import torch

from bench import cli
from bench.device import VISIBLE, has_gpu, use_device
from bench.doctor import without_gpu
from bench.errors import BenchError

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment as it was, after each test; without the variable in it."""
    monkeypatch.setenv(VISIBLE, "")
    monkeypatch.delenv(VISIBLE)


def test_cpu_hides_every_gpu_from_all_processes() -> None:
    use_device("cpu")
    assert os.environ[VISIBLE] == ""
    assert not has_gpu()
    assert without_gpu().found == "CUDA_VISIBLE_DEVICES hides every GPU: everything runs on the CPU"
    assert cli._default_workers() == max(1, min(4, os.cpu_count() or 1))


@no_gpu
@pytest.mark.parametrize(("given", "visible"), [(None, "1"), ("4,6", "6"), ("GPU-a, GPU-b", "GPU-b")])
def test_a_number_counts_within_the_gpus_that_are_left(given: str | None, visible: str) -> None:
    if given is not None:
        os.environ[VISIBLE] = given
    with pytest.raises(BenchError, match=r"--device: found cuda:1; .*\(see bench doctor\)"):
        use_device("cuda:1")
    assert os.environ[VISIBLE] == visible


@no_gpu
def test_cuda_where_there_is_none() -> None:
    with pytest.raises(BenchError, match=r"--device: found cuda; .*everything runs on the CPU"):
        use_device("cuda")


@pytest.mark.parametrize(("given", "message"), [("4", "leaves 1 GPUs"), ("", "leaves 0 GPUs"), ("-1", "leaves 0 GPUs")])
def test_a_gpu_beyond_those_that_are_left(given: str, message: str) -> None:
    os.environ[VISIBLE] = given
    with pytest.raises(BenchError, match=message):
        use_device("cuda:1")


@pytest.mark.parametrize("device", ["mps", "cpu:0", "cuda:", "cuda:x", "cuda:-1", "gpu", ""])
def test_other_devices_are_refused(device: str) -> None:
    with pytest.raises(BenchError, match=f'--device: found "{device}"') as error:
        use_device(device)
    assert "\n" not in str(error.value)
