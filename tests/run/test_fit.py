from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.cost.meter import Meter
from bench.model import decoding
from bench.model.decoding import SharedPrefix
from bench.model.source import locate
from bench.run.ask import Asker
from bench.run.fit import Fitted, fit
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
    requests = Asker.requests

    def spy(self: Asker, examples: list, found: object) -> list:  # type: ignore[type-arg]
        asked.append([e.id for e in examples])
        return requests(self, examples, found)  # type: ignore[arg-type]

    monkeypatch.setattr(Asker, "requests", spy)
    c = cell("prompt: {shots: 4}\ntuning: {method: lora, epochs: 1, evaluations: 1}\n")
    fitted = fit(c, c.strategy, tmp_path, Meter(), lambda text: None)
    shown = {s.id for s in fitted.asker.shots}
    assert len(shown) == 4
    assert asked[0] == [e.id for e in c.task.validation]
    assert asked[1] == [e.id for e in c.task.train if e.id not in shown]


def test_several_tasks_are_trained_together_and_selected_by_their_mean(make_task: Callable[..., Path], tmp_path: Path) -> None:
    """The cells of all tasks come to the same weights."""
    strategy = tmp_path / "mine.yaml"
    strategy.write_text("tuning: {method: lora, epochs: 2, evaluations: 2}\n")
    tasks = [str(make_task("colors")), str(make_task("shapes", instruction="Name the shape: {{ labels }}."))]
    suite = Suite(tasks=tasks, strategies=[str(strategy)], seeds=[0], multitask=True)
    cells = expand(suite, locate("embedded"))
    fitted = [fit(c, c.strategy, tmp_path, Meter(), lambda text: None) for c in cells]
    first, second = (f.tuned.weights for f in fitted if f.tuned)
    assert [t.name for t in cells[0].trained_with] == ["shapes"]
    assert all(torch.equal(first[n], second[n]) for n in first)
    alone = expand(suite.model_copy(update={"multitask": False}), locate("embedded"))
    assert {c.cell_id for c in alone}.isdisjoint({c.cell_id for c in cells})


def test_documents_are_trained_on_as_plain_text(make_task: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_task()
    (folder / "corpus.jsonl").write_text('{"id": "d1", "text": "The Zorba Pro is red."}\n{"id": "d2", "text": "The lid of it is blue."}\n')
    strategy = tmp_path / "mine.yaml"
    strategy.write_text("tuning: {method: lora, epochs: 1, evaluations: 1, train_on: [documents]}\n")
    c = cell_of(folder, strategy)
    fitted = Fitted(c, c.strategy, tmp_path, Meter())
    pairs, weights = fitted._pairs([fitted.asker], c.strategy.tuning)
    assert weights is None
    tokenizer = fitted.model.tokenizer
    assert [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids, _ in pairs] == [p.text for p in c.task.corpus]
    assert all(n == 1 and ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id for ids, n in pairs)


def test_rare_labels_weigh_more_where_labels_are_balanced(make_task: Callable[..., Path], tmp_path: Path) -> None:
    rows = {"train": [{"id": f"t{i}", "text": f"message number {i} about it", "label": "zek" if i else "pol"} for i in range(4)]}
    strategy = tmp_path / "mine.yaml"
    strategy.write_text("tuning: {method: lora, class_weights: balanced}\n")
    c = cell_of(make_task(rows=rows), strategy)
    fitted = Fitted(c, c.strategy, tmp_path, Meter())
    _, weights = fitted._pairs([fitted.asker], c.strategy.tuning)
    assert weights == pytest.approx([2.0, 2 / 3, 2 / 3, 2 / 3])


def test_a_request_whose_passages_are_too_unlike_it_is_not_put_to_the_model(make_task: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_task(kind="qa", instruction="Answer.", metrics=["exact_match"], abstain=["unknown"])
    (folder / "corpus.jsonl").write_text('{"id": "d1", "text": "test message 0 about the parcel"}\n')
    strategy = tmp_path / "mine.yaml"
    strategy.write_text("retrieval: {search: dense, abstain_below: 0.9}\n")
    c = cell_of(folder, strategy)
    meter = Meter()
    fitted = fit(c, c.strategy, tmp_path, meter, lambda text: None)
    requests = fitted.requests(c.task.test)
    with meter.phase("answer"):
        answered = {a.index: a for batch in fitted.answer(requests) for a in batch}
    assert sorted(answered) == list(range(len(c.task.test)))
    unasked = [i for i, a in answered.items() if a.generation.prompt_tokens == 0]
    assert 0 not in unasked
    assert len(unasked) > 6
    assert {answered[i].parsed.answer for i in unasked} == {"unknown"}
    assert all(requests[i].found.score < 0.9 for i in unasked)  # type: ignore[union-attr,operator]
    again = [a.index for batch in fitted.answer(requests, done=set(range(12))) for a in batch]
    assert again == []


# ---------------------------------------------------------------------------------------------------- phases and memory


def lora(tmp_path: Path) -> Path:
    strategy = tmp_path / "mine.yaml"
    strategy.write_text("tuning: {method: lora, epochs: 2, evaluations: 2, learning_rate: 1.0e-6}\n")
    return strategy


def test_rows_steps_and_checks_are_phases_of_their_own(make_task: Callable[..., Path], tmp_path: Path) -> None:
    c, meter = cell_of(make_task(), lora(tmp_path)), Meter()
    fitted = fit(c, c.strategy, tmp_path, meter, lambda text: None)
    readings = meter.readings()
    assert set(readings) == {"load", "index", "prepare", "tune", "validate"}
    assert fitted.tuned
    assert readings["tune"].flops == fitted.tuned.flops > 0
    assert readings["prepare"].flops == 0
    with meter.phase("answer"):
        fitted.validation_score()
    # Scored twice in training, with the answers of a model that has hardly moved.
    assert readings["validate"].flops == pytest.approx(2 * meter.readings()["answer"].flops, rel=0.1)
    assert min(readings[n].wall_seconds for n in ("prepare", "tune", "validate")) > 0


def test_weights_that_are_put_back_take_no_step(make_task: Callable[..., Path], tmp_path: Path) -> None:
    c = cell_of(make_task(), lora(tmp_path))
    trained = fit(c, c.strategy, tmp_path, Meter(), lambda text: None)
    assert trained.tuned
    meter = Meter()
    fit(c, c.strategy, tmp_path, meter, lambda text: None, trained.tuned.weights)
    assert meter.readings()["tune"].flops == 0
    assert "validate" not in meter.readings()
    assert meter.memory("tune") is None


def test_the_cache_of_a_batch_is_what_its_tensors_hold(
    make_task: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches = []
    cache = SharedPrefix.cache

    def spy(self: SharedPrefix, rows: int, room: int) -> Any:
        assert self.length > 0
        caches.append(cache(self, rows, room))
        return caches[-1]

    monkeypatch.setattr(SharedPrefix, "cache", spy)
    monkeypatch.setattr(decoding, "LEAVE_SHARE", 2.0)  # the tensors stay as they were made
    strategy = tmp_path / "mine.yaml"
    strategy.write_text("prompt: {shots: 1}\n")
    c, meter = cell_of(make_task(), strategy), Meter()
    fitted = fit(c, c.strategy, tmp_path, meter, lambda text: None)
    with meter.phase("answer"):
        assert len(list(fitted.answer(fitted.requests(c.task.test)))) == 1
    answer = meter.memory("answer")
    if answer is None:
        pytest.skip("this system does not tell the peak of a phase")
    assert answer.cache_bytes == sum(t.nbytes for layer in caches[0].layers for t in layer._all)
    assert answer.weights_bytes == sum(t.nbytes for t in (*fitted.model.network.parameters(), *fitted.model.network.buffers()))
    assert answer.baseline_bytes > 0
