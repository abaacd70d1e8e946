"""The device table: names as torch and users give them, and numbers that data sheets are easily misread on."""

from __future__ import annotations

import pytest

from bench.cost.devices import Named, find_device, find_named, load_devices
from bench.errors import BenchError

MIB = 2**20
DEVICES = load_devices().devices


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("Tesla T4", "T4"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40", "L40"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA GeForce RTX 3090", "RTX 3090"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 5090", "RTX 5090"),
        ("NVIDIA RTX A6000", "RTX A6000"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("Tesla V100-SXM2-16GB", "V100 SXM2 16GB"),
        ("Tesla V100-SXM2-32GB", "V100 SXM2 32GB"),
        ("Tesla V100-PCIE-16GB", "V100 PCIe 16GB"),
        ("NVIDIA A100-PCIE-40GB", "A100 PCIe 40GB"),
        ("NVIDIA A100 80GB PCIe", "A100 PCIe 80GB"),
        ("NVIDIA A100-SXM4-40GB", "A100 SXM 40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 SXM 80GB"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H100 NVL", "H100 NVL"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("h100 sxm", "H100 SXM"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA H200 NVL", "H200 NVL"),
        ("NVIDIA B200", "B200"),
        ("AMD Instinct MI300X", "MI300X"),
        ("l40s", "L40S"),
    ],
)
def test_devices_are_found_by_the_names_that_torch_and_users_give(given: str, name: str) -> None:
    assert find_device(given).name == name


@pytest.mark.parametrize(
    "given",
    [
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "Quadro RTX 6000",
        "NVIDIA GH200 480GB",
        "NVIDIA A100",
        "H100",
        "",
    ],
)
def test_another_chip_of_a_like_name_is_not_found(given: str) -> None:
    with pytest.raises(BenchError, match=f'no device "{given}" in the device table; '):
        find_device(given)


def test_a_typo_gets_a_hint() -> None:
    with pytest.raises(BenchError, match='did you mean "RTX 4090"'):
        find_device("RTX 4O90")


def test_the_first_of_several_matches_wins_and_an_exact_name_before_all() -> None:
    entries = [Named(name="wide", match=("chip",)), Named(name="Chip 2"), Named(name="narrow", match=("CHIP 3",))]
    assert find_named("vendor chip 3", entries) is entries[0]
    assert find_named("chip 2", entries) is entries[1]
    assert find_named("chip 3", entries[1:]) is entries[2]
    assert find_named("chips", entries) is None
    assert find_named("chip", []) is None


def test_operations_are_dense_and_accumulated_in_float32() -> None:
    # Each of these is printed at twice the number in the vendor's headline.
    expected = {"L4": 121e12, "A10G": 70e12, "L40S": 362.05e12, "H100 PCIe": 756.5e12, "H100 SXM": 989.4e12, "H200": 989.4e12}
    expected |= {"B200": 2250e12, "RTX A6000": 154.85e12, "RTX 3090": 71e12, "RTX 4090": 165.2e12, "RTX 5090": 209.5e12}
    assert {name: find_device(name).bfloat16_flops for name in expected} == pytest.approx(expected)


def test_memory_is_what_the_driver_shows() -> None:
    expected = {"T4": 15360, "L4": 23034, "L40S": 46068, "RTX 4090": 24564, "A100 SXM 80GB": 81920, "H100 SXM": 81559, "H200": 143771}
    assert {name: find_device(name).memory_bytes for name in expected} == {name: mib * MIB for name, mib in expected.items()}


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
def test_every_number_is_of_the_right_magnitude_and_has_a_source(device: Named) -> None:
    found = find_device(device.name)
    assert found is device
    assert 14 * 2**30 < found.memory_bytes < 200 * 2**30
    assert 3e11 <= found.bandwidth_bytes_per_second < 1e13
    assert 1.9 < found.bfloat16_flops / found.float32_flops < 32
    assert 70 <= found.watts <= 1000
    # Operations per byte at which compute and memory take as long: 69 (RTX 3090) to 420 (L40S) for all these chips.
    assert 60 < found.bfloat16_flops / found.bandwidth_bytes_per_second < 450
    assert found.source.startswith("https://")


def test_names_are_there_once() -> None:
    names = [device.name.lower() for device in DEVICES]
    assert len(set(names)) == len(names)


def test_a_busy_thread_of_a_processor_takes_some_watts() -> None:
    assert 1 < load_devices().cpu_core_watts < 10
    assert load_devices().cpu_core_watts_source.startswith("https://")
