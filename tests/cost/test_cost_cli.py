from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cost_samples import PRICES, add, choices, items, new_run, phase, rag_and_lora
from typer.testing import CliRunner

from bench.cli import app
from bench.cost.total import COLUMNS
from bench.cost.total_text import render_total
from bench.errors import BenchError
from bench.result.text import shown_usd

ASSUMED = "{requests_per_month: 100, horizon_months: 10, refreshes_per_month: 0.5, label_usd_per_example: 1}"


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """The options that name a price file and assumptions as in ``cost_samples``."""
    prices, assumptions = tmp_path / "prices.yaml", tmp_path / "assumptions.yaml"
    prices.write_text(PRICES.model_dump_json())
    assumptions.write_text(ASSUMED)
    return ["--prices", str(prices), "--assumptions", str(assumptions)]


def shown(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, ["cost", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def test_markdown_says_it_in_words(tmp_path: Path, files: list[str]) -> None:
    text = shown(rag_and_lora(tmp_path).path, *files)
    assert "### support (embedded): total cost over 10 months, USD" in text
    assert "- answered in batches of up to 8 requests" in text
    lora, rag = "lora costs least, 1,255 USD in all, and scores 50.0.", "rag costs 808 USD more than lora and scores 80.0 against 50.0"
    assert lora in text
    assert rag in text
    assert "rag would be the cheaper one below 192 requests (95 % " in text
    assert ", 1.92 months at this pace)." in text
    assert " pays once an error costs more than 2.69 USD (95 % " in text
    assert "From 4.99 refreshes a month on (95 % " in text
    assert "rag costs less than lora, at 100 requests a month." in text
    assert re.search(r"\| rag / lora +\| +rag +\| +lora \| +192 \[\d+, \d+\] \| +\d+ % \| 80\.0 / 50\.0 ", text)
    assert "- requests_per_month: 100\n" in text
    assert "- price_factor: 2\n" in text
    assert "- cpu: 3600 USD per core-hour (https://example.org, 2026-01-01)" in text
    assert "- disk: 1.07374e+09 USD per GiB and month (https://example.org, 2026-01-01)" in text


def test_domination_floors_and_failures_in_words(tmp_path: Path, files: list[str]) -> None:
    run = new_run(tmp_path, ["majority", "zero-shot", "chain", "rag-oracle", "full"])
    add(run, "majority", items(1), {"answer": phase(0)}, choices(prompt={"constant": "majority"}), artifact_bytes=None, deterministic=True)
    add(run, "zero-shot", items(8), {"answer": phase(1)}, choices(), deterministic=True)
    add(run, "chain", items(8), {"answer": phase(3)}, choices(), deterministic=True)
    add(run, "rag-oracle", items(10), {"answer": phase(0)}, choices(retrieval={"search": "oracle"}), deterministic=True)
    add(run, "full", items(8), {}, {}, status="failed", error="out of | memory")
    text = shown(run.path, *files)
    assert "chain costs 400 USD more than zero-shot and scores 80.0 against 80.0 (not told apart)." in text
    assert "zero-shot is the cheaper one at any volume (100 % of draws)." in text
    assert "- full: failed: out of \\| memory" in text
    assert "majority (floor)" in text
    assert "rag-oracle (oracle)" in text
    said = text[text.index("Which one, and when") : text.index("Assumptions")]
    assert "majority" not in said
    assert "oracle" not in said
    pairs = json.loads(shown(run.path, *files, "--format", "json"))["pairs"]
    assert len(pairs) == 3  # with the floor


def test_one_strategy_alone(tmp_path: Path, files: list[str]) -> None:
    run = new_run(tmp_path, ["zero-shot"])
    add(run, "zero-shot", items(0), {"answer": phase(1)}, choices(), deterministic=True)
    text = shown(run.path, *files)
    assert "nothing to compare it with" in text
    assert "Break-even" not in text
    assert text.splitlines()[6].rstrip().endswith("|")


def test_equal_strategies_and_an_open_interval(tmp_path: Path, files: list[str]) -> None:
    run = new_run(tmp_path, ["one", "two"])
    for name in ("one", "two"):
        add(run, name, items(8), {"answer": phase(1)}, choices(), deterministic=True)
    text = shown(run.path, *files)
    assert "two costs 0 USD more than one" in text
    assert "They cost the same at any volume." in text
    assert "|          same |  same |            none |" in text


def test_two_prices(tmp_path: Path, files: list[str]) -> None:
    text = shown(rag_and_lora(tmp_path).path, *files, "--price-model", "hosted")
    assert "- requests at the price of hosted: rag" in text
    assert "- requests at the price of cpu: lora" in text
    assert "- hosted: 1e+06 USD per million tokens of input, 500000 cached, 4e+06 of output" in text


def test_csv_and_json_hold_everything(tmp_path: Path, files: list[str]) -> None:
    run = rag_and_lora(tmp_path)
    rows = list(csv.DictReader(io.StringIO(shown(run.path, *files, "--format", "csv"))))
    assert tuple(rows[0]) == COLUMNS
    assert [row["strategy"] for row in rows] == ["rag", "lora"]
    assert float(rows[0]["total_usd"]) == pytest.approx(2063)
    file = tmp_path / "cost.json"
    assert shown(run.path, *files, "--task", "support", "--format", "json", "-o", file) == ""
    plain = json.loads(file.read_text())
    assert plain["assumptions"]["horizon_months"] == 10
    assert [price["name"] for price in plain["prices"]] == ["cpu", "disk"]
    assert plain["strategies"][1]["total_usd"] == pytest.approx(1255)
    assert plain["pairs"][0]["break_even_requests"] == pytest.approx(192)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "suport"], 'did you mean "support"'),
        (["--format", "xml"], 'format "xml" is unknown'),
        (["--price-model", "none"], 'no price for the model "none"'),
        (["--assumptions", "none.yaml"], "none.yaml: cannot be read"),
        (["--prices", "none.yaml"], "none.yaml: cannot be read"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, files: list[str], arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["cost", str(rag_and_lora(tmp_path).path), *files, *arguments])
    assert isinstance(result.exception, BenchError)
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)


def test_the_default_files_price_a_run(tmp_path: Path) -> None:
    text = shown(rag_and_lora(tmp_path).path)
    assert "USD per core-hour" in text
    assert "horizon_months: 12" in text


def test_no_model_is_loaded(tmp_path: Path, files: list[str]) -> None:
    code = "import sys; from bench.cli import app; app(sys.argv[1:], standalone_mode=False); print(*sys.modules)"
    command = [sys.executable, "-c", code, "cost", str(rag_and_lora(tmp_path).path), *files, "-o", str(tmp_path / "cost.md")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, cwd=Path(__file__).parents[2])
    assert not set(done.stdout.split()) & {"torch", "transformers", "peft", "pandas", "scipy", "faiss"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (1234567.8, "1,234,568"), (999.4, "999"), (12.345, "12.3"), (5, "5.00"), (0.0419, "0.0419"), (0.001, "0.00100"),
        (0.000123456, "1.23e-4"), (3e-9, "3.00e-9"), (-56.04, "-56.0"),
    ],
)  # fmt: skip
def test_dollars(value: float, text: str) -> None:
    assert shown_usd(value) == text


def test_an_unknown_format_is_refused_before_anything_is_written() -> None:
    with pytest.raises(BenchError, match="expected one of"):
        render_total(None, "x")  # type: ignore[arg-type]
