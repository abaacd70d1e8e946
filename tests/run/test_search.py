import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.cost.meter import Meter
from bench.errors import BenchError
from bench.model.source import locate
from bench.result.schema import Trial
from bench.run import fit as fit_module
from bench.run import search as module
from bench.run.ask import Asker
from bench.run.search import n_trials, propose, search
from bench.strategy.spec import Strategy
from bench.suite import Cell, Suite, expand


def finished(settings: dict[str, Any], score: float | None = 0.5) -> Trial:
    return Trial(settings=settings, validation_score=score, wall_seconds=1.0, cpu_seconds=1.0)


def proposals(strategy: Strategy, n: int, score: Callable[[dict[str, Any]], float | None] = lambda s: 0.5) -> list[dict[str, Any]]:
    trials: list[Trial] = []
    for _ in range(n):
        point = propose(strategy, trials)
        trials.append(finished(point, score(point)))
    return [t.settings for t in trials]


def test_every_strategy_gets_the_budget_or_its_whole_grid() -> None:
    assert n_trials(Strategy(search={"tuning.r": [1, 2, 4, 8]}), 3) == 3
    assert n_trials(Strategy(search={"tuning.r": [1, 2]}), 3) == 2
    assert n_trials(Strategy.model_validate({"search": {"tuning.r": {"low": 1, "high": 9}}}), 3) == 3
    assert n_trials(Strategy(), 3) == 1


def test_a_grid_is_drawn_without_repetition_and_in_the_same_order_each_time() -> None:
    strategy = Strategy(search={"tuning.learning_rate": [1e-3, 2e-3, 3e-3], "prompt.shots": [4, 8]})
    whole = proposals(strategy, 6)
    assert len({json.dumps(p) for p in whole}) == 6
    assert proposals(strategy, 4) == whole[:4]


def test_values_of_a_list_may_be_anything() -> None:
    strategy = Strategy(search={"tuning.targets": ["all-linear", ["q_proj", "v_proj"]]})
    assert {json.dumps(p["tuning.targets"]) for p in proposals(strategy, 2)} == {'"all-linear"', '["q_proj", "v_proj"]'}


def test_a_range_is_drawn_within_its_ends_on_its_scale() -> None:
    data = {"search": {"tuning.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}, "retrieval.top_k": {"low": 1, "high": 5}}}
    points = proposals(Strategy.model_validate(data), 12)
    rates = [p["tuning.learning_rate"] for p in points]
    assert all(1e-4 <= r <= 1e-1 for r in rates)
    assert sum(r < 3e-3 for r in rates) >= 2  # evenly on a log scale: about half
    assert len(set(rates)) == 12
    assert all(isinstance(p["retrieval.top_k"], int) and 1 <= p["retrieval.top_k"] <= 5 for p in points)


def test_later_trials_of_a_range_go_where_good_ones_were() -> None:
    strategy = Strategy.model_validate({"search": {"tuning.dropout": {"low": 0.0, "high": 0.9}}})
    points = [p["tuning.dropout"] for p in proposals(strategy, 30, lambda p: 1 - abs(p["tuning.dropout"] - 0.2))]
    early, late = points[:10], points[-10:]
    assert sum(abs(p - 0.2) for p in late) < sum(abs(p - 0.2) for p in early) / 2


def test_a_failed_trial_is_not_tried_again() -> None:
    strategy = Strategy(search={"tuning.learning_rate": [1e-3, 2e-3, 3e-3]})
    assert len({json.dumps(p) for p in proposals(strategy, 3, lambda p: None)}) == 3


@pytest.fixture
def cell(make_task: Callable[..., Path], tmp_path: Path) -> Callable[[str], Cell]:
    torch.set_num_threads(1)

    def make(text: str) -> Cell:
        (tmp_path / "mine.yaml").write_text(text)
        return expand(Suite(tasks=[str(make_task())], strategies=[str(tmp_path / "mine.yaml")], seeds=[0]), locate("embedded"))[0]

    return make


SHORT = "tuning: {method: lora, epochs: 1, evaluations: 1}\nsearch: {tuning.learning_rate: [1.0e-3, 2.0e-3, 3.0e-3]}\n"


def run(c: Cell, tmp_path: Path, meter: Meter | None = None) -> tuple[Any, Any]:
    return search(c, tmp_path / "search", tmp_path, meter or Meter(), lambda text: None)


def test_the_best_trial_is_kept_even_if_it_was_not_the_last(
    cell: Callable[[str], Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.4, 0.9, 0.2])
    kept: list[dict[str, torch.Tensor]] = []
    tune = fit_module.tune

    def scored(*arguments: Any, **named: Any) -> Any:
        kept.append((tuned := tune(*arguments, **named)).weights)
        return tuned

    monkeypatch.setattr(fit_module, "tune", scored)
    monkeypatch.setattr(Asker, "score", lambda self, examples, answered: next(scores))
    fitted, progress = run(cell(SHORT), tmp_path)
    assert [t.validation_score for t in progress.trials] == [0.4, 0.9, 0.2]
    assert fitted.strategy.tuning.learning_rate == progress.trials[1].settings["tuning.learning_rate"]
    own = dict(fitted.model.network.named_parameters())
    assert all(torch.equal(own[n], w) for n, w in kept[1].items())
    assert all(t.cpu_seconds > 0 and t.flops > 0 for t in progress.trials)


def test_of_equals_the_value_that_stands_first_is_kept(
    cell: Callable[[str], Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Asker, "score", lambda self, examples, answered: 0.5)
    fitted, _ = run(cell(SHORT), tmp_path)
    assert fitted.strategy.tuning.learning_rate == 1e-3


def test_a_search_that_was_stopped_goes_on_and_ends_as_it_would_have(
    cell: Callable[[str], Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    c = cell(SHORT)
    whole, expected = search(c, tmp_path / "whole", tmp_path, Meter(), lambda text: None)
    fit, calls = module.fit, 0

    def killed_in_the_third(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return fit(*arguments, **named)

    monkeypatch.setattr(module, "fit", killed_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        run(c, tmp_path)
    monkeypatch.setattr(module, "fit", fit)
    meter = Meter()
    fitted, progress = run(c, tmp_path, meter)
    # What the two trials of the killed process took, and what the third took in this one.
    before, now = progress.spent_before, meter.readings()
    assert set(before) == {"prepare", "tune", "validate"}
    for cost in ("wall_seconds", "cpu_seconds", "flops"):
        spent = [sum(getattr(phases[n], cost) for n in before) for phases in (before, now)]
        told = [getattr(t, cost) for t in progress.trials]
        assert spent[0] == pytest.approx(sum(told[:2]))
        assert spent[1] >= told[2] - 1e-6
    assert before["tune"].flops + now["tune"].flops == sum(t.flops for t in expected.trials) - sum(
        phases["validate"].flops for phases in (before, now)
    )
    assert before["validate"].flops == pytest.approx(2 * now["validate"].flops, rel=0.2)
    assert progress.steps.n_steps == expected.steps.n_steps == 3 * whole.tuned.steps.n_steps  # type: ignore[union-attr]
    assert (progress.steps.n_tokens, progress.steps.longest_batch) == (expected.steps.n_tokens, expected.steps.longest_batch)
    assert [(t.settings, t.validation_score) for t in progress.trials] == [(t.settings, t.validation_score) for t in expected.trials]
    assert fitted.strategy == whole.strategy
    a, b = dict(fitted.model.network.named_parameters()), dict(whole.model.network.named_parameters())
    assert all(torch.equal(a[n], b[n]) for n in a)
    progress.clear()
    assert not (tmp_path / "search").exists()


def test_trials_of_another_search_are_not_taken_up(cell: Callable[[str], Cell], tmp_path: Path) -> None:
    c = cell(SHORT)
    (tmp_path / "search").mkdir()
    other = {"search_id": "another", "trials": [finished({"tuning.learning_rate": 1e-3}).model_dump(mode="json")]}
    (tmp_path / "search" / "trials.json").write_text(json.dumps(other))
    _, progress = run(c, tmp_path)
    assert progress.spent_before == {}
    assert len(progress.trials) == 3


def test_trials_that_an_older_program_kept_are_made_anew(cell: Callable[[str], Cell], tmp_path: Path) -> None:
    c = cell(SHORT)
    (tmp_path / "search").mkdir()
    old = {"search_id": c.search_id, "trials": [finished({"tuning.learning_rate": 1e-3}).model_dump(mode="json")]}
    (tmp_path / "search" / "trials.json").write_text(json.dumps(old))
    _, progress = run(c, tmp_path)
    assert progress.spent_before == {}
    assert all(t.flops > 0 for t in progress.trials)


def test_a_strategy_that_trains_nothing_is_scored_and_not_tuned(cell: Callable[[str], Cell], tmp_path: Path) -> None:
    meter = Meter()
    _, progress = run(cell("prompt: {shots: 2}\nsearch: {prompt.shots: [1, 2]}\n"), tmp_path, meter)
    readings = meter.readings()
    assert "tune" not in readings
    assert readings["validate"].flops == sum(t.flops for t in progress.trials) > 0
    assert readings["validate"].wall_seconds == pytest.approx(sum(t.wall_seconds for t in progress.trials))
    assert progress.steps.reading is None


def test_the_search_of_a_strategy_that_trains_nothing_goes_on_after_its_last_trial(cell: Callable[[str], Cell], tmp_path: Path) -> None:
    c = cell("prompt: {shots: 2}\nsearch: {prompt.shots: [1, 2]}\n")
    _, first = run(c, tmp_path)
    meter = Meter()
    _, progress = run(c, tmp_path, meter)
    assert "validate" not in meter.readings()
    assert progress.spent_before["validate"].flops == sum(t.flops for t in first.trials)


def test_a_diverging_trial_is_a_failed_trial(cell: Callable[[str], Cell], tmp_path: Path) -> None:
    text = "tuning: {method: full, epochs: 2, evaluations: 1, max_gradient_norm: 1.0e+30}\nsearch: {tuning.learning_rate: [%s]}\n"
    fitted, progress = run(cell(text % "1.0e+30, 1.0e-4"), tmp_path)
    failed = next(t for t in progress.trials if t.settings["tuning.learning_rate"] == 1e30)
    assert failed.validation_score is None
    assert failed.error
    assert "diverged" in failed.error
    assert fitted.strategy.tuning.learning_rate == 1e-4


def test_a_search_of_failures_fails_with_the_last_reason(cell: Callable[[str], Cell], tmp_path: Path) -> None:
    text = "tuning: {method: lora, targets: [nothing], epochs: 1}\nsearch: {tuning.learning_rate: [1.0e-3, 1.0e-4]}\n"
    with pytest.raises(BenchError, match=r"all 2 trials of the search failed.*nothing"):
        run(cell(text), tmp_path)
