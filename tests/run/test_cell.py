from collections.abc import Callable
from pathlib import Path

import pytest

from bench.metric.score import corpus_value
from bench.model.source import locate
from bench.result.schema import Item, Tokens
from bench.run.cell import measure
from bench.suite import Suite, expand


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
    assert set(found) == {"accuracy", "macro_f1", "mrr"}
    assert found["accuracy"].value == 6 / 8
    assert found["macro_f1"].value == corpus_value("macro_f1", items) == pytest.approx((2 * 3 / 7 + 2 * 3 / 8) / 2)
    for name in ("accuracy", "macro_f1"):
        low, high = found[name].ci_low, found[name].ci_high
        assert low is not None
        assert high is not None
        assert 0 <= low < found[name].value < high <= 1
        assert (found[name].n_scored, found[name].n_undefined) == (8, 0)
    assert (found["mrr"].value, found["mrr"].n_scored, found["mrr"].n_undefined) == (0.5, 4, 4)


def test_a_metric_that_no_item_defines_is_absent(make_task: Callable[..., Path]) -> None:
    cell = expand(Suite(tasks=[str(make_task(metrics=["accuracy"]))], strategies=["zero-shot"]), locate("embedded"))[0]
    assert set(measure(cell, [item(0, "zek", "zek", accuracy=1.0)])) == {"accuracy"}
    assert measure(cell, []) == {}
