"""Meters against known loads: sleeping, spinning, and memory that is touched and given back."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import types

import pytest
import torch

from bench.cost import meter as meters
from bench.cost.counters import Rapl, file_mappings, peak_rss, reset_peak_rss, resident_bytes
from bench.cost.devices import find_device, load_devices
from bench.cost.meter import Meter, all_together
from bench.result.schema import Memory, Phase

MIB = 2**20
needs_reset = pytest.mark.skipif(not reset_peak_rss(), reason="this system does not let a process reset its peak memory")


def spin(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_sleeping_takes_wall_time_and_spinning_takes_cpu_time():
    meter = Meter()
    with meter.phase("load"):
        time.sleep(0.2)
    with meter.phase("tune"):
        spin(0.2)
    load, tune = meter.readings()["load"], meter.readings()["tune"]
    assert load.wall_seconds >= 0.2
    assert load.cpu_seconds < 0.1
    assert tune.cpu_seconds == pytest.approx(0.2, abs=0.05)
    assert tune.wall_seconds >= 0.19


def test_cpu_time_counts_all_threads():
    code = (
        "import threading, hashlib\nfrom bench.cost.meter import Meter\nm = Meter()\nd = b'x' * (40 << 20)\n"
        "with m.phase('tune'):\n t = [threading.Thread(target=lambda: hashlib.sha256(d).digest()) for _ in range(3)]\n"
        " [x.start() for x in t]; [x.join() for x in t]\n"
        "with m.phase('score'): hashlib.sha256(d).digest()\n"
        "r = m.readings(); print(r['tune'].cpu_seconds / r['score'].cpu_seconds)"
    )
    ratio = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 2 < ratio < 5


def test_a_phase_entered_again_adds_up():
    meter = Meter()
    for operations in (100, 50):
        with meter.phase("answer"):
            time.sleep(0.05)
            meter.add_flops(operations)
            meter.add_flops(1)
    with meter.phase("score"):
        pass
    readings = meter.readings()
    assert list(readings) == ["answer", "score"]
    assert readings["answer"].flops == 152
    assert readings["answer"].wall_seconds >= 0.1
    assert readings["score"].flops == 0


def test_a_phase_that_interrupts_another_has_its_own_seconds_and_flops():
    meter = Meter()
    with meter.phase("tune"):
        spin(0.1)
        meter.add_flops(1)
        for _ in range(2):
            with meter.inside("validate"):
                spin(0.15)
                meter.add_flops(100)
                meter.add_seconds(50.0, 50.0)
                with meter.inside("prepare"):
                    meter.add_flops(1000)
                meter.add_flops(7)
        spin(0.1)
        meter.add_flops(2)
    readings = meter.readings()
    assert readings["tune"].cpu_seconds == pytest.approx(0.2, abs=0.05)
    assert readings["validate"].cpu_seconds == pytest.approx(100.3, abs=0.05)
    assert {name: phase.flops for name, phase in readings.items()} == {"tune": 3, "validate": 214, "prepare": 2000}


@needs_reset
def test_the_peak_of_an_interruption_is_not_that_of_the_phase_around_it():
    meter = Meter()
    with meter.phase("tune"):
        with meter.inside("validate"):
            block = bytearray(200 * MIB)
            del block
        small = bytearray(20 * MIB)
    del small
    tune, validate = meter.readings()["tune"].peak_rss_bytes, meter.readings()["validate"].peak_rss_bytes
    assert 150 * MIB < validate - tune < 210 * MIB


def test_an_interruption_that_raises_leaves_the_phase_around_it_open():
    meter = Meter()
    with meter.phase("tune"):
        with pytest.raises(MemoryError), meter.inside("validate"):  # noqa: PT012
            meter.add_flops(5)
            raise MemoryError
        meter.add_flops(1)
    with meter.phase("answer"):
        pass
    assert {name: phase.flops for name, phase in meter.readings().items()} == {"tune": 1, "validate": 5, "answer": 0}


def test_seconds_are_charged_to_the_open_phase_or_the_one_named():
    meter = Meter()
    meter.add_seconds(7000.0, 7000.0)  # nothing is measured yet
    with meter.phase("load"):
        pass
    with meter.phase("tune"):
        meter.add_seconds(100.0, 50.0)
        meter.add_seconds(3000.0, 2000.0, "load")
        meter.add_seconds(1000.0, 1000.0, "score")  # which is never entered
    meter.add_seconds(8000.0, 8000.0)
    with meter.phase("tune"):
        meter.add_seconds(10.0, 5.0)
        meter.add_flops(3)
    readings = meter.readings()
    assert list(readings) == ["load", "tune"]
    assert (round(readings["load"].wall_seconds), round(readings["load"].cpu_seconds)) == (3000, 2000)
    assert (round(readings["tune"].wall_seconds), round(readings["tune"].cpu_seconds)) == (110, 55)
    assert readings["tune"].flops == 3
    assert meter.readings() == readings, "reading twice charges once"


def test_seconds_that_belong_elsewhere_are_taken_out():
    meter = Meter()
    with meter.phase("load"):
        pass
    loaded = meter.readings()["load"].cpu_seconds
    with meter.phase("answer"):
        began = time.process_time()
        spin(0.1)
        spent = time.process_time() - began
        meter.add_seconds(-spent, -spent)
        meter.add_seconds(spent, spent, "load")
        spin(0.05)
    readings = meter.readings()
    assert readings["load"].cpu_seconds == pytest.approx(loaded + spent)
    assert readings["answer"].cpu_seconds == pytest.approx(0.05, abs=0.03)


@needs_reset
def test_peak_memory_is_the_phases_own():
    meter = Meter()
    with meter.phase("load"):
        large = bytearray(200 * MIB)
    with meter.phase("tune"):
        del large
    with meter.phase("index"):
        small = bytearray(20 * MIB)
    with meter.phase("answer"):
        pass
    del small
    peaks = {name: phase.peak_rss_bytes for name, phase in meter.readings().items()}
    assert peaks["load"] - peaks["index"] > 150 * MIB
    assert peaks["index"] - peaks["answer"] < 10 * MIB  # the small block is still held
    assert abs(peaks["tune"] - peaks["load"]) < 10 * MIB  # it begins with the large block in memory


@needs_reset
def test_the_highest_peak_of_a_phase_entered_twice_stands():
    meter = Meter()
    with meter.phase("tune"):
        block = bytearray(100 * MIB)
        del block
    first = meter.readings()["tune"].peak_rss_bytes
    with meter.phase("tune"):
        pass
    assert meter.readings()["tune"].peak_rss_bytes == first


@needs_reset
def test_a_child_does_not_inherit_its_parents_peak():
    block = bytearray(300 * MIB)
    code = "from bench.cost.meter import Meter\nm = Meter()\nwith m.phase('load'): pass\nprint(m.readings()['load'].peak_rss_bytes)"
    child = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert child < len(block)


def test_memory_is_none_where_the_peak_cannot_be_reset(monkeypatch, tmp_path):
    assert reset_peak_rss(tmp_path / "absent") is False
    assert peak_rss(tmp_path) is None
    monkeypatch.setattr(meters, "reset_peak_rss", lambda: False)
    meter = Meter()
    with meter.phase("load"):
        pass
    assert meter.readings()["load"].peak_rss_bytes is None


def test_the_mappings_of_files_are_told_from_ordinary_memory(tmp_path):
    lines = ["7f00-7f80 r--p 00000000 fe:01 1234                       /usr/lib/libc.so.6", "7f80-7fa0 rw-p 00000000 00:00 0 ",
             "8000-9000 r-xp 00001000 fe:01 77  /a b (deleted)", "a000-b000 rw-p 00000000 00:00 0  [heap]"]  # fmt: skip
    (tmp_path / "maps").write_text("\n".join(lines) + "\n")
    assert file_mappings(tmp_path) == [(0x7F00, 0x7F80), (0x8000, 0x9000)]
    assert file_mappings(tmp_path / "absent") == []


def test_peak_memory_is_read_in_bytes(tmp_path):
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t  1696 kB\nVmRSS:\t  1000 kB\n")
    assert peak_rss(tmp_path) == 1696 * 1024
    assert resident_bytes(tmp_path) == 1000 * 1024
    assert resident_bytes(tmp_path / "absent") is None


def test_a_phase_that_raises_is_recorded_and_the_next_one_can_start():
    meter = Meter()
    with pytest.raises(MemoryError), meter.phase("tune"):  # noqa: PT012
        meter.add_flops(7)
        time.sleep(0.05)
        raise MemoryError
    with meter.phase("probe"):
        pass
    assert meter.readings()["tune"].flops == 7
    assert meter.readings()["tune"].wall_seconds >= 0.05
    assert "probe" in meter.readings()


def test_misuse():
    meter = Meter()
    with pytest.raises(ValueError, match="unknown phase 'training'; expected one of load, prepare"), meter.phase("training"):
        pass
    with pytest.raises(ValueError, match="unknown phase 'training'"), meter.phase("answer"), meter.inside("training"):
        pass
    with pytest.raises(RuntimeError, match="'validate' needs an open phase"), meter.inside("validate"):
        pass
    with pytest.raises(RuntimeError, match="hold outside"):
        meter.hold({"weights": 1})
    with pytest.raises(RuntimeError, match="'score' entered inside phase 'answer'"), meter.phase("answer"), meter.phase("score"):
        pass
    with pytest.raises(RuntimeError, match="outside of a phase"):
        meter.add_flops(1)
    assert list(meter.readings()) == ["answer"]


def test_readings_fit_the_record_and_are_a_copy():
    meter = Meter()
    with meter.phase("load"):
        pass
    readings = meter.readings()
    assert Phase.model_validate(json.loads(readings["load"].model_dump_json())) == readings["load"]
    readings.clear()
    assert "load" in meter.readings()


def test_without_a_gpu_nothing_of_it_is_measured():
    meter = Meter("cpu")
    with meter.phase("load"):
        pass
    load = meter.readings()["load"]
    assert load.device_seconds is None
    assert load.peak_gpu_allocated_bytes is None
    assert load.peak_gpu_reserved_bytes is None
    assert load.peak_gpu_process_bytes is None


def rapl_tree(root, **packages):
    for folder, (name, energy) in packages.items():
        path = root / folder.replace("_", ":").replace("intel:rapl", "intel-rapl")
        path.mkdir(exist_ok=True)
        (path / "name").write_text(name + "\n")
        (path / "energy_uj").write_text(f"{energy}\n")
        (path / "max_energy_range_uj").write_text("1000000000\n")


def test_rapl_adds_packages_up_and_survives_a_wrap(tmp_path):
    rapl_tree(tmp_path, intel_rapl_0=("package-0", 10), intel_rapl_1=("package-1", 999_000_000), intel_rapl_0_0=("core", 5))
    rapl_tree(tmp_path, intel_rapl_2=("psys", 0))
    rapl = Rapl(tmp_path)
    rapl.start()
    rapl_tree(tmp_path, intel_rapl_0=("package-0", 3_000_010), intel_rapl_1=("package-1", 1_000_000), intel_rapl_0_0=("core", 2_000_000))
    rapl_tree(tmp_path, intel_rapl_2=("psys", 50_000_000))
    assert rapl.stop() == pytest.approx(3.0 + 2.0)


def test_rapl_is_none_where_it_cannot_be_read(tmp_path):
    empty = Rapl(tmp_path)
    empty.start()
    assert empty.stop() is None
    rapl_tree(tmp_path, intel_rapl_0=("package-0", 10))
    rapl = Rapl(tmp_path)
    rapl.start()
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    assert rapl.stop() is None


# ---------------------------------------------------------------------------------------------------- energy


def without_counters(monkeypatch, tmp_path):
    monkeypatch.setattr(meters, "Rapl", lambda: Rapl(tmp_path))


def test_energy_is_estimated_by_cpu_seconds_where_no_counter_can_be_read(monkeypatch, tmp_path):
    without_counters(monkeypatch, tmp_path)
    meter = Meter()
    for _ in range(2):
        with meter.phase("tune"):
            spin(0.05)
            meter.add_seconds(1000.0, 1000.0)  # an estimate follows what is charged
    tune = meter.readings()["tune"]
    assert tune.energy_source == "estimated"
    assert tune.cpu_seconds > 2000
    assert tune.energy_joules == pytest.approx(load_devices().cpu_core_watts * tune.cpu_seconds)


def test_energy_of_processors_is_read_where_it_can_be(monkeypatch, tmp_path):
    rapl_tree(tmp_path, intel_rapl_0=("package-0", 10))
    without_counters(monkeypatch, tmp_path)
    meter = Meter()
    with meter.phase("tune"):
        meter.add_seconds(1000.0, 1000.0)  # whose joules nobody has counted
        rapl_tree(tmp_path, intel_rapl_0=("package-0", 3_000_010))
        with meter.inside("validate"):
            rapl_tree(tmp_path, intel_rapl_0=("package-0", 7_000_010))
        rapl_tree(tmp_path, intel_rapl_0=("package-0", 8_000_010))
    joules = {name: (phase.energy_joules, phase.energy_source) for name, phase in meter.readings().items()}
    assert joules == {"tune": (4.0, "rapl"), "validate": (4.0, "rapl")}


def part(joules, source, **more):
    return {"tune": Phase(wall_seconds=2.0, cpu_seconds=1.0, flops=3.0, energy_joules=joules, energy_source=source, **more)}


def test_phases_of_two_processes_add_up():
    both = all_together(part(5.0, "rapl", peak_rss_bytes=7), part(2.0, "rapl", peak_rss_bytes=9) | {"answer": part(1.0, "rapl")["tune"]})
    assert list(both) == ["tune", "answer"]
    assert both["tune"] == Phase(wall_seconds=4.0, cpu_seconds=2.0, flops=6.0, peak_rss_bytes=9, energy_joules=7.0, energy_source="rapl")
    assert both["answer"].energy_joules == 1.0


def test_joules_are_estimated_if_any_of_them_are():
    mixed = all_together(part(5.0, "nvml"), part(2.0, "estimated"))["tune"]
    assert (mixed.energy_joules, mixed.energy_source) == (7.0, "estimated")
    lacking = all_together(part(5.0, "nvml"), part(None, None))["tune"]
    assert (lacking.energy_joules, lacking.energy_source) == (None, None)


# ---------------------------------------------------------------------------------------------------- memory by part


PARTS = """
import json
from bench.cost.meter import Meter

MIB = 2**20
meter = Meter()
with meter.phase("load"):
    meter.before_model()
    weights = bytearray(64 * MIB)
meter.before_model()  # another trial's: the first counts
for gradients in (3 * MIB, 5 * MIB, 4 * MIB):
    with meter.phase("tune"):
        block = bytearray(32 * MIB)
        meter.hold({"weights": 64 * MIB, "gradients": gradients})
        with meter.inside("validate"):
            meter.hold({"weights": 64 * MIB, "cache": MIB})
        del block
with meter.phase("score"):
    meter.hold({})
found = {name: memory and memory.model_dump() for name in ("tune", "validate", "score", "answer") for memory in [meter.memory(name)]}
print(json.dumps(found | {"peak": meter.readings()["tune"].peak_rss_bytes}))
"""


@needs_reset
def test_memory_is_told_by_part_and_the_rest_is_workspace():
    # In a process of its own: what earlier tests have left is given back whenever the allocator likes.
    found = json.loads(subprocess.run([sys.executable, "-c", PARTS], capture_output=True, text=True, check=True).stdout)
    tune = Memory.model_validate(found["tune"])
    assert (tune.kind, tune.weights_bytes, tune.gradients_bytes, tune.cache_bytes) == ("rss", 64 * MIB, 5 * MIB, 0)
    assert tune.peak_bytes == found["peak"]
    assert tune.peak_bytes == tune.baseline_bytes + tune.weights_bytes + tune.gradients_bytes + tune.workspace_bytes
    assert 32 * MIB - 5 * MIB - 4 * MIB < tune.workspace_bytes < 32 * MIB + 4 * MIB
    assert found["validate"]["cache_bytes"] == MIB
    assert found["score"] is None, "nothing was held"
    assert found["answer"] is None, "never entered"


def test_what_is_left_of_a_peak_may_be_negative():
    meter = Meter()
    meter.before_model()
    with meter.phase("tune"):
        meter.hold({"weights": 1, "optimizer": 10**15})
    memory = meter.memory("tune")
    if reset_peak_rss():
        assert memory.workspace_bytes < 0
    else:
        assert memory is None


def test_weights_that_a_fork_has_from_its_start_are_no_part_of_the_baseline(monkeypatch):
    monkeypatch.setattr(meters, "resident_bytes", lambda: 1000)
    monkeypatch.setattr(meters, "peak_rss", lambda: 1500)
    monkeypatch.setattr(meters, "reset_peak_rss", lambda: True)
    meter = Meter()
    meter.before_model(300)
    with meter.phase("answer"):
        meter.hold({"weights": 300, "cache": 50})
    answer = meter.memory("answer")
    assert (answer.baseline_bytes, answer.workspace_bytes) == (700, 450)


def test_without_a_baseline_memory_is_not_told_apart():
    meter = Meter()
    with meter.phase("answer"):
        meter.hold({"weights": 300})
    assert meter.memory("answer") is None


# ---------------------------------------------------------------------------------------------------- GPU


class FakeEvent:
    def __init__(self, log, clock):
        self.log, self.clock = log, clock

    def record(self):
        self.log.append("event")
        self.at = self.clock[0]

    def elapsed_time(self, end):
        return end.at - self.at


@pytest.fixture
def fake_gpu(monkeypatch):
    """The calls that the meter makes of CUDA and NVML, in order, on a machine that has neither."""
    log, clock, joules = [], [0.0], [1000.0]
    found = types.SimpleNamespace(name="Unknown 9000")
    fakes = {
        "current_device": lambda: 0,
        "get_device_properties": lambda device: types.SimpleNamespace(uuid="abc", name=found.name),
        "synchronize": lambda device: log.append("synchronize"),
        "reset_peak_memory_stats": lambda device: log.append("reset"),
        "max_memory_allocated": lambda device: 100,
        "max_memory_reserved": lambda device: 160,
        "memory_reserved": lambda device: 120,
        "device": lambda device: contextlib.nullcontext(),
        "Event": lambda enable_timing: FakeEvent(log, clock),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    nvml = types.ModuleType("pynvml")
    nvml.NVMLError = OSError
    nvml.nvmlInit = lambda: None
    nvml.nvmlDeviceGetHandleByUUID = lambda uuid: log.append(uuid)
    nvml.nvmlDeviceGetTotalEnergyConsumption = lambda handle: joules[0]
    nvml.nvmlDeviceGetComputeRunningProcesses = lambda handle: [
        types.SimpleNamespace(pid=1, usedGpuMemory=9999),
        types.SimpleNamespace(pid=os.getpid(), usedGpuMemory=520),
    ]
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    return types.SimpleNamespace(log=log, clock=clock, joules=joules, nvml=nvml, device=found)


def test_gpu_clocks_are_read_after_the_device_has_finished(fake_gpu):
    meter = Meter("cuda")
    with meter.phase("answer"):
        fake_gpu.log.append("body")
        fake_gpu.clock[0] += 250  # milliseconds
        fake_gpu.joules[0] += 3000  # millijoules
    assert fake_gpu.log == ["GPU-abc", "synchronize", "reset", "event", "body", "synchronize", "event", "synchronize"]
    answer = meter.readings()["answer"]
    assert answer.device_seconds == 0.25
    assert (answer.energy_joules, answer.energy_source) == (3.0, "nvml")
    assert (answer.peak_gpu_allocated_bytes, answer.peak_gpu_reserved_bytes) == (100, 160)
    assert answer.peak_gpu_process_bytes == 520 + 40  # what the allocator has given back since its peak


def test_gpu_without_nvml_still_has_its_memory(fake_gpu, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    meter = Meter("cuda:1")
    with meter.phase("answer"):
        pass
    answer = meter.readings()["answer"]
    assert answer.peak_gpu_allocated_bytes == 100
    assert answer.peak_gpu_process_bytes is None
    assert (answer.energy_joules, answer.energy_source) == (None, None), "and its power is not known"


def test_energy_of_a_known_gpu_without_nvml_is_its_most_power_times_its_seconds(fake_gpu, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    fake_gpu.device.name = "NVIDIA L40S"
    meter = Meter("cuda")
    with meter.phase("answer"):
        fake_gpu.clock[0] += 2000  # milliseconds
    answer = meter.readings()["answer"]
    assert (answer.energy_joules, answer.energy_source) == (2.0 * find_device("L40S").watts, "estimated")


def test_memory_of_a_gpu_is_that_of_its_tensors(fake_gpu):
    meter = Meter("cuda")
    with meter.phase("answer"):
        meter.hold({"weights": 60, "cache": 30})
    answer = meter.memory("answer")
    assert (answer.kind, answer.peak_bytes, answer.baseline_bytes, answer.workspace_bytes) == ("gpu", 100, 0, 10)


def test_a_kernel_error_in_an_interruption_is_recorded_in_both(fake_gpu, monkeypatch):
    meter = Meter("cuda")

    def broken(device):
        raise RuntimeError("device-side assert triggered")

    with pytest.raises(RuntimeError, match="device-side assert"), meter.phase("tune"), meter.inside("validate"):
        monkeypatch.setattr(torch.cuda, "synchronize", broken)
    assert set(meter.readings()) == {"tune", "validate"}
    with pytest.raises(RuntimeError, match="device-side assert"), meter.phase("answer"):
        pass


def test_a_kernel_error_surfaces_in_its_phase_and_is_recorded(fake_gpu, monkeypatch):
    meter = Meter("cuda")

    def broken(device):
        raise RuntimeError("device-side assert triggered")

    with pytest.raises(RuntimeError, match="device-side assert"), meter.phase("tune"):
        monkeypatch.setattr(torch.cuda, "synchronize", broken)
    assert meter.readings()["tune"].peak_gpu_allocated_bytes is None
    assert meter.readings()["tune"].wall_seconds > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_memory_and_time_are_the_phases_own():
    meter = Meter("cuda")
    with meter.phase("tune"):
        block = torch.empty(256 * MIB, dtype=torch.uint8, device="cuda")
        square = torch.randn(4096, 4096, device="cuda")
        for _ in range(50):
            square = square @ square / 64
        del block
    with meter.phase("answer"):
        torch.zeros(1, device="cuda")
    tune, answer = meter.readings()["tune"], meter.readings()["answer"]
    assert tune.peak_gpu_allocated_bytes >= 256 * MIB
    assert answer.peak_gpu_allocated_bytes < 256 * MIB
    assert tune.peak_gpu_reserved_bytes >= tune.peak_gpu_allocated_bytes
    assert 0 < tune.device_seconds <= tune.wall_seconds * 1.05
    if tune.peak_gpu_process_bytes is not None:
        assert tune.peak_gpu_process_bytes > tune.peak_gpu_reserved_bytes


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_cuda_out_of_memory_error_is_recorded_as_itself():
    meter = Meter("cuda")
    with pytest.raises(torch.cuda.OutOfMemoryError), meter.phase("tune"):
        torch.empty(2**50, dtype=torch.uint8, device="cuda")
    assert meter.readings()["tune"].peak_gpu_allocated_bytes is not None
