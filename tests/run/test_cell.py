import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.metric.score import UNDEFINED, corpus_value, names_for
from bench.model.language_model import Generation
from bench.model.source import locate
from bench.result.schema import SETUP, Item, Tokens
from bench.result.store import RunFolder
from bench.run import search as search_module
from bench.run.ask import Answered, Request, to_answers
from bench.run.cell import _items, measure, run_cell
from bench.strategy.prompt import Parsed, Prompt, build_messages
from bench.strategy.retrieval import Found
from bench.suite import Suite, expand
from bench.task.load import load_task
from bench.task.schema import Task


def item(i: int, prediction: str, target: str, **scores: float) -> Item:
    return Item(
        id=str(i), cluster=str(i // 2), input_hash="", prompt_hash="", prediction=prediction, targets=[target], answerable=True,
        outcome="correct" if prediction == target else "incorrect", scores=scores, tokens=Tokens(), latency_seconds=0.0,
    )  # fmt: skip


def test_every_metric_has_an_interval_around_its_value(make_task: Callable[..., Path]) -> None:
    cell = expand(Suite(tasks=[str(make_task())], strategies=["zero-shot"]), locate("embedded"))[0]
    said = ["zek", " ZEK ", "pol", "pol", "none", "zek", "pol", "pol"]
    answers = list(zip(said, ["zek", "zek", "zek", "pol", "pol", "zek", "pol", "pol"], strict=True))
    items = [item(i, p, t, accuracy=float(p.strip().lower() == t), **({"mrr": 0.5} if i < 4 else {})) for i, (p, t) in enumerate(answers)]
    found = measure(cell, items)
    assert set(found) == {"accuracy", "macro_f1", "mrr"}  # no item knows its confidence
    assert found["accuracy"].value == 6 / 8
    assert found["macro_f1"].value == corpus_value("macro_f1", items) == pytest.approx((2 * 3 / 7 + 2 * 3 / 8) / 2)
    for name in ("accuracy", "macro_f1"):
        low, high = found[name].ci_low, found[name].ci_high
        assert low is not None
        assert high is not None
        assert 0 <= low < found[name].value < high <= 1
        assert (found[name].n_scored, found[name].n_undefined) == (8, 0)
    assert (found["mrr"].value, found["mrr"].n_scored, found["mrr"].n_undefined) == (0.5, 4, 4)
    assert found["mrr"].undefined == {UNDEFINED: 4}  # what no reason is known for is counted too


def test_items_are_counted_by_why_they_are_undefined(make_task: Callable[..., Path]) -> None:
    cell = expand(Suite(tasks=[str(make_task())], strategies=["zero-shot"]), locate("embedded"))[0]
    # Right answers of confidence .1 to .8, wrong ones just below; two abstentions and an answer without log-probability.
    items = [item(i, "zek" if i % 2 else "pol", "zek", accuracy=float(i % 2), brier=0.1) for i in range(1, 17)]
    items = [i.model_copy(update={"logprob": math.log(int(i.id) / 20)}) for i in items]
    why: dict[str, str] = {"ece": "abstained", "brier": "abstained", "confidence_auroc": "abstained", "aurc": "abstained"}
    silent = [item(i, "none", "zek").model_copy(update={"outcome": "abstained", "undefined": why}) for i in (20, 21)]
    unknown = item(22, "zek", "zek", accuracy=1.0).model_copy(update={"undefined": dict.fromkeys(why, "no log-probability")})
    found = measure(cell, [*items, *silent, unknown])
    for name in why:
        entry = found[name]
        assert entry.undefined == {"abstained": 2, "no log-probability": 1}
        assert (entry.n_scored, entry.n_undefined) == (16, sum(entry.undefined.values()))
        if name != "brier":  # of the same score in all items
            assert entry.ci_low is not None
            assert entry.ci_high is not None
            assert entry.ci_low <= entry.value <= entry.ci_high
    # 8 of 8 right ones above 7, 6, ... wrong ones: of 64 pairs the right one is lower in 28.
    assert found["confidence_auroc"].value == pytest.approx(28 / 64)
    assert found["confidence_auroc"].value == corpus_value("confidence_auroc", items)
    assert found["accuracy"].undefined == {UNDEFINED: 2}


def test_an_interval_keeps_to_the_bounds_of_its_metric(make_task: Callable[..., Path]) -> None:
    cell = expand(Suite(tasks=[str(make_task())], strategies=["zero-shot"]), locate("embedded"))[0]
    found = measure(cell, [item(i, "zek", "zek", penalized_score_3=[1.0, -3.0][i % 4 == 0], length_ratio=1.5 + i % 3) for i in range(40)])
    score, ratio = found["penalized_score_3"], found["length_ratio"]
    assert score.value == 0.0
    assert score.ci_low is not None
    assert score.ci_high is not None
    assert -3 < score.ci_low < -0.2
    assert 0.2 < score.ci_high < 1
    assert ratio.ci_low is not None
    assert 1.5 < ratio.ci_low < ratio.value


def answered(task: Task, read: int, found: Found | None, text: str, reasoning: str | None = None) -> Answered:
    """An answer to the first test item, with so many of the passages found left in its prompt."""
    passages = found.passages[:read] if found else ()
    messages = build_messages(task, task.test[0].input, passages=passages)
    request = Request(Prompt(tuple(messages), (), truncated=found is not None and read < len(found.passages)), found)
    return Answered(0, Generation(text, -0.5, 10, 0, 2, 0.1), request, Parsed(text, reasoning))


def test_answers_say_what_was_read_and_what_was_left_out() -> None:
    task = load_task("tasks/product_support")
    asked, texts = task.test[0], {p.id: p for p in task.corpus}
    gold, other = texts[asked.evidence[0]], next(p for p in task.corpus if p.id not in asked.evidence)
    found = Found((gold.text, other.text, gold.text), (gold.id, other.id, gold.id))
    [whole] = to_answers(task, [asked], [answered(task, 3, found, "x")])
    assert (whole.passages, whole.left_out) == ((gold, other, gold), ())
    assert whole.retrieved_ids == (gold.id, other.id)
    assert whole.logprob == -0.5
    [cut] = to_answers(task, [asked], [answered(task, 1, found, "x")])
    assert (cut.passages, cut.left_out) == ((gold,), (other, gold))
    [nothing] = to_answers(task, [asked], [answered(task, 0, Found((), ()), "x")])
    assert (nothing.passages, nothing.left_out) == ((), ())
    [closed] = to_answers(task, [asked], [answered(task, 0, None, "x", reasoning="because")])
    assert (closed.passages, closed.left_out, closed.retrieved_ids) == (None, (), None)
    assert closed.logprob is None  # it is that of the reasoning as well


def test_items_hold_why_they_are_undefined_and_their_error() -> None:
    cell = expand(Suite(tasks=["tasks/product_support"], strategies=["rag"]), locate("embedded"))[0]
    task, asked = cell.task, cell.task.test[0]
    texts = {p.id: p for p in task.corpus}
    gold, other = texts[asked.evidence[0]], next(p for p in task.corpus if p.id not in asked.evidence)
    batch = [
        answered(task, 1, Found((gold.text,), (gold.id,)), asked.targets[0]),
        answered(task, 1, Found((gold.text,), (gold.id,)), "unknown"),
        answered(task, 1, Found((other.text, gold.text), (other.id, gold.id)), "unknown"),
        answered(task, 1, Found((other.text,), (other.id,)), "unknown"),
    ]
    names = names_for(task, task.test, retrieves=True)
    right, silent, cut, missed = _items(cell, batch, names)
    assert [i.error for i in (right, silent, cut, missed)] == [None, "wrongly_abstained", "evidence_truncated", "retrieval_miss"]
    assert right.undefined["no_answer_accuracy"] == "has an answer"
    assert right.scores["passage_precision"] == 1.0
    assert silent.undefined["passage_precision"] == silent.undefined["ece"] == "abstained"
    for i in (right, silent, cut, missed):
        assert set(names) - {"f_attempted", "youden_j", "ece", "confidence_auroc", "aurc"} <= set(i.scores) | set(i.undefined)
        assert not set(i.scores) & set(i.undefined)


def test_a_metric_that_no_item_defines_is_absent(make_task: Callable[..., Path]) -> None:
    cell = expand(Suite(tasks=[str(make_task(metrics=["accuracy"]))], strategies=["zero-shot"]), locate("embedded"))[0]
    assert set(measure(cell, [item(0, "zek", "zek", accuracy=1.0)])) == {"accuracy"}
    assert measure(cell, []) == {}


@pytest.mark.parametrize(
    "text",
    [
        "tuning: {method: lora, epochs: 1, evaluations: 1}\nsearch: {tuning.learning_rate: [1.0e-3, 2.0e-3, 3.0e-3]}\n",
        "prompt: {shots: 1}\nsearch: {prompt.shots: [1, 2, 3]}\n",
    ],
)
def test_the_record_of_a_search_that_was_stopped_has_the_cost_of_both_processes_by_phase(
    text: str, make_task: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    (tmp_path / "mine.yaml").write_text(text)
    cell = expand(Suite(tasks=[str(make_task())], strategies=[str(tmp_path / "mine.yaml")], seeds=[0]), locate("embedded"))[0]
    add, calls = search_module.Progress.add, 0

    def killed_after_the_last(*arguments: Any) -> None:
        nonlocal calls
        add(*arguments)
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(search_module.Progress, "add", killed_after_the_last)
    with pytest.raises(KeyboardInterrupt):
        run_cell(cell, RunFolder(tmp_path / "run").create(), tmp_path / "stores", lambda text: None)
    record = run_cell(cell, RunFolder(tmp_path / "run").create(), tmp_path / "stores", lambda text: None)
    trained = "tuning" in text
    assert calls == len(record.trials) == 3
    assert {"prepare", "tune"} <= record.phases.keys() if trained else "tune" not in record.phases
    # What follows on the trials, such as putting the best weights back, is no operation of a model.
    assert sum(record.phases[n].flops for n in SETUP if n in record.phases) == sum(t.flops for t in record.trials)
    assert sum(record.phases[n].wall_seconds for n in SETUP if n in record.phases) > sum(t.wall_seconds for t in record.trials)
    assert 0 < record.phases["validate"].wall_seconds < sum(t.wall_seconds for t in record.trials) + 1e-6
    if not trained:
        assert record.training is None
        return
    assert record.training
    assert record.training.n_steps == 3 * 2
    assert record.phases["tune"].flops > 3 * record.phases["validate"].flops
    assert "tune" not in record.memory, "this process has taken no step"
