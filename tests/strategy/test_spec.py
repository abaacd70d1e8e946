from pathlib import Path

import pytest
import yaml

from bench.errors import BenchError
from bench.strategy.spec import Strategy, load_strategy, preset_names


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_says_what_it_is(name: str) -> None:
    loaded, strategy = load_strategy(name)
    assert loaded == name
    assert len(strategy.description) > 20


def test_a_strategy_file_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("prompt: {shots: 2}\ntuning: {method: lora, r: 4}\n")
    name, strategy = load_strategy(str(file))
    assert (name, strategy.prompt.shots, strategy.tuning.r) == ("mine", 2, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tunning: {}", r'unknown key "tunning"; did you mean "tuning"\?'),
        ("tuning: {methd: lora}", r'unknown key "tuning.methd"; did you mean "method"\?'),
        ("tuning: {method: lorra}", "tuning.method.*lorra"),
        ("prompt: {shots: -1}", "prompt.shots.*-1.*greater than or equal to 0"),
        ("prompt: [1]", "prompt"),
        ("just words", "expected keys and values"),
        ("tuning: {method: lora, with_passages: true}", "needs retrieval.search"),
        ("prompt: {constant: majority, shots: 3}", "asks no model"),
        ("search: {tuning.learning_rte: [1]}", r'did you mean "tuning.learning_rate"\?'),
        ("search: {tuning.learning_rate: []}", "the list is empty"),
        ("search: {tuning.learning_rate: [fast]}", "learning_rate"),
        ("a: b: c", r"mine.yaml:1: is no valid YAML"),
    ],
)
def test_bad_strategy_files_are_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(BenchError, match=message) as error:
        load_strategy(str(file))
    assert "\n" not in str(error.value)
    assert "mine.yaml" in str(error.value)


def test_an_unknown_preset_gets_a_suggestion() -> None:
    with pytest.raises(BenchError, match='did you mean "few-shot"'):
        load_strategy("few-shots")


def test_what_depends_on_a_seed() -> None:
    deterministic = {n for n in preset_names() if load_strategy(n)[1].deterministic}
    assert {"zero-shot", "rag", "rag-oracle", "majority"} <= deterministic
    assert not deterministic & {"few-shot", "lora", "full", "rag-lora"}


def test_search_points_are_the_grid_or_a_fixed_sample_of_it() -> None:
    strategy = Strategy(search={"tuning.learning_rate": [1e-3, 2e-3, 3e-3], "tuning.r": [4, 8]})
    assert len(strategy.settings_to_try(10)) == 6
    sample = strategy.settings_to_try(4)
    assert len({yaml.safe_dump(s) for s in sample}) == 4
    assert sample == strategy.settings_to_try(4)
    assert Strategy().settings_to_try(3) == [{}]


def test_settings_are_filled_in() -> None:
    strategy = Strategy(search={"tuning.r": [2]}).with_settings({"tuning.r": 2, "prompt.shots": 3})
    assert (strategy.tuning.r, strategy.prompt.shots, strategy.search) == (2, 3, {})


def test_the_description_is_no_part_of_the_identity() -> None:
    assert Strategy(description="a").fingerprint == Strategy(description="b").fingerprint
    assert Strategy().fingerprint != Strategy.model_validate({"tuning": {"r": 4}}).fingerprint
