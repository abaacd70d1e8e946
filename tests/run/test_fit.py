from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench.cost.meter import Meter
from bench.errors import BenchError
from bench.model.source import locate
from bench.run import fit as module
from bench.run.fit import Fitted, fit, search
from bench.strategy.spec import Strategy
from bench.suite import Cell, Suite, expand


def cell_of(task: Path, strategy: Path) -> Cell:
    return expand(Suite(tasks=[str(task)], strategies=[str(strategy)], seeds=[0]), locate("embedded"))[0]


@pytest.fixture
def cell(make_task: Callable[..., Path], tmp_path: Path) -> Callable[[str], Cell]:
    torch.set_num_threads(1)

    def make(text: str) -> Cell:
        (tmp_path / "mine.yaml").write_text(text)
        return cell_of(make_task(), tmp_path / "mine.yaml")

    return make


def test_a_shot_is_not_trained_on_with_its_own_answer_in_the_prompt(
    cell: Callable[[str], Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    requests = Fitted.requests

    def spy(self: Fitted, examples: list, read: bool = True) -> list:  # type: ignore[type-arg]
        asked.append([e.id for e in examples])
        return requests(self, examples, read)

    monkeypatch.setattr(Fitted, "requests", spy)
    c = cell("prompt: {shots: 4}\ntuning: {method: lora, epochs: 1, evaluations: 1}\n")
    fitted = fit(c, c.strategy, tmp_path, Meter(), lambda text: None)
    shown = {s.id for s in fitted.shots}
    assert len(shown) == 4
    assert asked[0] == [e.id for e in c.task.train if e.id not in shown]
    assert asked[1] == [e.id for e in c.task.validation]


def test_the_best_trial_is_kept_even_if_it_was_not_the_last(
    cell: Callable[[str], Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.4, 0.9, 0.2])
    kept: list[dict[str, torch.Tensor]] = []
    tune = module.tune

    def scored(*arguments: object, **named: object) -> object:
        tuned = tune(*arguments, **named)  # type: ignore[arg-type]
        kept.append(tuned.weights)
        return tuned

    monkeypatch.setattr(module, "tune", scored)
    monkeypatch.setattr(Fitted, "score", lambda self, examples, requests: next(scores))
    c = cell("tuning: {method: lora, epochs: 1, evaluations: 1}\nsearch: {tuning.learning_rate: [1.0e-3, 2.0e-3, 3.0e-3]}\n")
    fitted, trials = search(c, tmp_path, Meter(), lambda text: None)
    assert [t.validation_score for t in trials] == [0.4, 0.9, 0.2]
    assert fitted.strategy.tuning.learning_rate == 2e-3
    own = dict(fitted.model.network.named_parameters())
    assert all(torch.equal(own[n], w) for n, w in kept[1].items())
    assert all(t.cpu_seconds > 0 and t.flops > 0 for t in trials)


def test_a_diverging_trial_is_a_failed_trial(cell: Callable[[str], Cell], tmp_path: Path) -> None:
    text = "tuning: {method: full, epochs: 2, evaluations: 1, max_gradient_norm: 1.0e+30}\nsearch: {tuning.learning_rate: [%s]}\n"
    c = cell(text % "1.0e+30, 1.0e-4")
    fitted, trials = search(c, tmp_path, Meter(), lambda text: None)
    assert trials[0].validation_score is None
    assert trials[0].error
    assert "diverged" in trials[0].error
    assert fitted.strategy.tuning.learning_rate == 1e-4


def test_a_search_of_failures_fails_with_the_last_reason(cell: Callable[[str], Cell], tmp_path: Path) -> None:
    text = "tuning: {method: lora, targets: [nothing], epochs: 1}\nsearch: {tuning.learning_rate: [1.0e-3, 1.0e-4]}\n"
    with pytest.raises(BenchError, match=r"all 2 trials of the search failed.*nothing"):
        search(cell(text), tmp_path, Meter(), lambda text: None)


def test_the_search_is_as_large_as_the_budget_says() -> None:
    assert len(Strategy(search={"tuning.r": [1, 2, 4, 8]}).settings_to_try(3)) == 3
