"""Prices: dollars by hand, look-ups, and everything that can be wrong with a price file."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from bench.cost.devices import find_device
from bench.cost.prices import DevicePrice, Prices, TokenPrice, device_of, load_prices, phase_usd, tokens_usd
from bench.errors import BenchError
from bench.result.schema import Phase, Record, Tokens

READ: dict[str, Any] = {"source": "https://example.org/prices", "as_of": date(2026, 1, 2)}
CORE = DevicePrice(name="cpu", unit="core_hour", price=0.05, **READ)
BOARD = DevicePrice(name="L40S", unit="device_hour", price=1.8, **READ)
OWN = """
devices:
  - {name: cpu, unit: core_hour, price: 0.05, source: the bill, as_of: 2026-01-02}
models:
  - {name: small, match: [vendor/small], input: 1, cached_input: 0.1, output: 4, source: the bill, as_of: 2026-01-02}
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "prices.yaml"
    file.write_text(text)
    return file


def make_record(**environment: Any) -> Record:
    return Record(cell_id="x", task="t", model="m", strategy="s", seed=0, status="ok", environment=environment)


# Dollars


def test_a_device_is_paid_by_wall_time_and_a_core_by_cpu_time() -> None:
    phase = Phase(wall_seconds=1800, cpu_seconds=7200, flops=0)
    assert phase_usd(phase, BOARD) == pytest.approx(0.9)
    assert phase_usd(phase, CORE) == pytest.approx(0.1)
    assert phase_usd(Phase(wall_seconds=0, cpu_seconds=0, flops=0), BOARD) == 0


def test_one_gpu_second_by_hand() -> None:
    # 1,000 requests of 3.28 GPU-seconds at 0.36 USD an hour cost 0.328 USD.
    price = BOARD.model_copy(update={"price": 0.36})
    assert 1000 * phase_usd(Phase(wall_seconds=3.28, cpu_seconds=99, flops=0), price) == pytest.approx(0.328)


def test_tokens_cost_between_all_cached_and_nothing_cached() -> None:
    price = TokenPrice(name="m", input=2.0, cached_input=0.5, output=10.0, **READ)
    tokens = Tokens(prompt=1_000_000, prompt_cached=400_000, completion=50_000)
    assert tokens_usd(tokens, price, cached=False) == pytest.approx(2.0 + 0.5)
    assert tokens_usd(tokens, price, cached=True) == pytest.approx(0.6 * 2 + 0.4 * 0.5 + 0.5)
    assert tokens_usd(Tokens(), price, cached=True) == 0


def test_where_the_provider_does_not_cache_both_bounds_are_one() -> None:
    price = TokenPrice(name="m", input=2.0, output=10.0, **READ)
    tokens = Tokens(prompt=100, prompt_cached=40, completion=5)
    assert tokens_usd(tokens, price, cached=True) == tokens_usd(tokens, price, cached=False) == pytest.approx(250e-6)


def test_cached_input_for_nothing_is_no_lack_of_a_price() -> None:
    price = TokenPrice(name="m", input=2.0, cached_input=0.0, output=10.0, **READ)
    assert tokens_usd(Tokens(prompt=100, prompt_cached=100), price, cached=True) == 0


# Look-ups


def test_a_record_ran_on_the_gpu_that_its_environment_names_or_on_the_cpu() -> None:
    assert device_of(make_record(gpu="NVIDIA L40S", cpu="AMD EPYC", cpu_count=2)) == "NVIDIA L40S"
    assert device_of(make_record(cpu="AMD EPYC", cpu_count=2)) == "cpu"
    assert device_of(make_record()) == "cpu"


def test_a_device_is_found_by_whole_words_of_its_name() -> None:
    a10 = DevicePrice(name="A10", unit="device_hour", price=1, **READ)
    prices = Prices(devices=(CORE, a10, BOARD))
    assert prices.device("NVIDIA L40S") is BOARD
    assert prices.device("cpu") is CORE
    assert prices.device("NVIDIA A10") is a10
    for other in ("NVIDIA A100-SXM4-40GB", "NVIDIA A10G", "NVIDIA L40", "NVIDIA L4"):
        with pytest.raises(BenchError, match=f'no price for the device "{other}"'):
            prices.device(other)


def test_a_model_is_found_by_its_name_or_a_match_but_not_by_a_longer_name() -> None:
    small = TokenPrice(name="small", match=("vendor/small-v1",), input=1, output=2, **READ)
    prices = Prices(models=(small,))
    assert prices.model("small") is prices.model("SMALL") is prices.model("Vendor/Small-V1") is small
    with pytest.raises(BenchError, match='no price for the model "small-pro"; did you mean "small"'):
        prices.model("small-pro")


def test_a_lack_of_a_price_says_the_file_what_it_knows_and_how_to_add_one(tmp_path: Path) -> None:
    file = written(tmp_path, OWN)
    prices = load_prices(file)
    with pytest.raises(BenchError) as error:
        prices.device("NVIDIA B300")
    message = str(error.value)
    assert message.startswith(f'{file}: no price for the device "NVIDIA B300"; expected one of: cpu ')
    assert "{name: NVIDIA B300, unit: device_hour, price: USD, source: ADDRESS, as_of: DATE}" in message
    assert "\n" not in message
    with pytest.raises(BenchError, match='no price for the model "x"; there are none'):
        Prices().model("x")


# Files


def test_a_file_stands_for_itself(tmp_path: Path) -> None:
    file = written(tmp_path, OWN)
    prices = load_prices(file)
    assert prices.source == str(file)
    assert (prices.device("cpu").price, prices.device("cpu").as_of) == (0.05, date(2026, 1, 2))
    assert prices.model("vendor/small").cached_input == 0.1
    assert prices.storage is None
    load_prices().device("NVIDIA L40S")
    with pytest.raises(BenchError, match="no price for the device"):
        prices.device("NVIDIA L40S")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("devices: [{name: cpu, unit: core_hour, prise: 1, source: s, as_of: 2026-01-02}]", '"devices.0.prise"; did you mean "price"'),
        ("devices: [{name: cpu, unit: core_hour, price: 1, source: s}]", 'the key "devices.0.as_of" is missing'),
        ("devices: [{name: cpu, unit: core_hour, price: 1, as_of: 2026-01-02}]", 'the key "devices.0.source" is missing'),
        ("devices: [{name: cpu, unit: core_hours, price: 1, source: s, as_of: 2026-01-02}]", 'did you mean "core_hour"'),
        ("devices: [{name: cpu, unit: core_hour, price: -1, source: s, as_of: 2026-01-02}]", "devices.0.price: found -1"),
        ("devices: [{name: cpu, unit: core_hour, price: .nan, source: s, as_of: 2026-01-02}]", "devices.0.price: found nan"),
        ("devices: [{name: cpu, unit: core_hour, price: .inf, source: s, as_of: 2026-01-02}]", "devices.0.price: found inf"),
        ("devices: [{name: cpu, unit: core_hour, price: 1, source: s, as_of: soon}]", 'devices.0.as_of: found "soon"'),
        ("devices: [{name: '', unit: core_hour, price: 1, source: s, as_of: 2026-01-02}]", "devices.0.name"),
        ("currency: EUR", "currency: found"),
        ("source: here", 'unknown key "source"'),
        ("models: [{name: m, input: 1, source: s, as_of: 2026-01-02}]", 'the key "models.0.output" is missing'),
        ("storage: {name: disk, price: 1, source: s}", 'the key "storage.as_of" is missing'),
        ("devices: [", "is no valid YAML"),
        ("- a", "expected keys and values"),
        ("", "expected keys and values"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_one_line_that_names_it(tmp_path: Path, text: str, says: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(BenchError) as error:
        load_prices(file)
    assert str(error.value).startswith(str(file))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_two_prices_of_one_name_are_refused(tmp_path: Path) -> None:
    entry = "{{name: {}, unit: core_hour, price: {}, source: s, as_of: 2026-01-02}}"
    file = written(tmp_path, f"devices: [{entry.format('cpu', 1)}, {entry.format('CPU', 2)}]")
    with pytest.raises(BenchError, match='devices: found two entries named "cpu", expected one'):
        load_prices(file)


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.yaml", tmp_path):
        with pytest.raises(BenchError, match=r"cannot be read .*; expected a price file"):
            load_prices(path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(BenchError, match="no UTF-8 text"):
        load_prices(tmp_path / "binary")


# The prices that come with the package


def test_the_default_has_a_price_of_everything_with_source_and_date() -> None:
    prices = load_prices()
    assert load_prices("default") == prices
    assert prices.device("cpu").unit == "core_hour"
    assert prices.devices
    assert prices.models
    assert prices.storage is not None
    for entry in (*prices.devices, *prices.models, prices.storage):
        assert entry.source.startswith("https://")
        assert date(2026, 1, 1) <= entry.as_of <= date.today()
    assert 0.01 < prices.device("cpu").price < 0.1
    assert all(0.1 < entry.price < 20 for entry in prices.devices if entry.unit == "device_hour")
    assert all((m.cached_input or 0) < m.input < m.output for m in prices.models)


def test_the_default_prices_devices_of_the_device_table_under_the_names_that_torch_gives() -> None:
    prices = load_prices()
    for entry in prices.devices:
        if entry.name != "cpu":
            assert find_device(entry.name).name == entry.name
            for name in entry.match:
                assert find_device(f"NVIDIA {name}").name == entry.name
    for name in (
        "NVIDIA H100 80GB HBM3",
        "NVIDIA H100 PCIe",
        "NVIDIA H100 NVL",
        "NVIDIA A100-SXM4-80GB",
        "NVIDIA A100 80GB PCIe",
        "Tesla T4",
    ):
        assert prices.device(name).name == find_device(name).name


def test_an_entry_reads_as_a_line() -> None:
    assert str(CORE) == "cpu: 0.05 USD per core-hour (https://example.org/prices, 2026-01-02)"
    price = TokenPrice(name="m", input=2.0, cached_input=0.5, output=10.0, **READ)
    assert str(price) == "m: 2 USD per million tokens of input, 0.5 cached, 10 of output (https://example.org/prices, 2026-01-02)"


def test_tuning_has_prices_of_its_own_which_are_never_the_bases() -> None:
    base = TokenPrice(name="m", input=1, cached_input=0.1, output=2, source="here", as_of=date(2026, 1, 1))
    assert base.missing_for_tuning == ["training", "tuned_input", "tuned_output"]
    with pytest.raises(BenchError, match='"m" has no tuned_input and tuned_output'):
        base.of_tuned()
    with pytest.raises(BenchError, match='"m" has no price for training'):
        base.training_usd(1)
    known = base.model_copy(update={"training": 5.0, "tuned_input": 3.0, "tuned_output": 4.0})
    assert known.training_usd(2_000_000) == 10
    with pytest.raises(BenchError, match="has not said how many tokens"):
        known.training_usd(None)
    tuned = known.of_tuned()
    assert (tuned.name, tuned.input, tuned.cached_input, tuned.output) == ("m (tuned)", 3, None, 4)
    assert tokens_usd(Tokens(prompt=1_000_000, prompt_cached=500_000, completion=1_000_000), tuned, cached=True) == 7
    assert "5 of training, once tuned 3 of input and 4 of output" in str(known)
