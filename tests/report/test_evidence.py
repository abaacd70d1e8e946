from __future__ import annotations

import hashlib
import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from cost.cost_samples import ASSUMPTIONS, PRICES, choices, phase

from bench.cost.prices import Prices
from bench.cost.total import total_costs
from bench.errors import BenchError
from bench.report.evidence import gather
from bench.report.model import Evidence, Measure, TaskEvidence
from bench.report.reproduce import command_of
from bench.result.schema import Fingerprints, Item, Memory, MetricValue, ProbeResult, Record, Run, Tokens
from bench.result.store import RunFolder
from bench.result.table import table_rows
from bench.suite import Suite, load_suite
from bench.task.load import load_task

NO_PRICE = Prices.model_validate(
    {
        "devices": [{"name": "L4", "unit": "device_hour", "price": 1, "source": "https://example.org", "as_of": "2026-01-01"}],
        "models": [],
        "storage": {"name": "disk", "price": 1, "source": "https://example.org", "as_of": "2026-01-01"},
    }
)


def text_of(i: int) -> str:
    return f"What colour is thing {i}?"


def items(right: int, n: int = 20, **changes: Any) -> list[Item]:
    """The first ``right`` are right."""
    return [
        Item(**{
            "id": f"q{i}", "cluster": f"c{i}", "input_hash": hashlib.sha256(text_of(i).encode()).hexdigest(), "prompt_hash": "p",
            "prediction": "blue" if i < right else "red", "targets": ["blue"], "answerable": True,
            "outcome": "correct" if i < right else "incorrect", "scores": {"exact_match": float(i < right)},
            "tokens": Tokens(prompt=10, completion=1), "latency_seconds": 0.1, **changes,
        })
        for i in range(n)
    ]  # fmt: skip


def add(run: RunFolder, strategy: str, answers: list[Item], config: Any, seed: int = 0, **changes: Any) -> Record:
    metric = changes.get("primary_metric", "exact_match")
    mean = sum(item.scores[metric] for item in answers) / max(1, len(answers))
    values: dict[str, Any] = {
        "cell_id": f"{run.path.name}-{strategy}-{seed}", "task": "support", "model": "embedded", "strategy": strategy, "seed": seed,
        "status": "ok", "primary_metric": metric, "metrics": {metric: MetricValue(value=mean, n_scored=len(answers))},
        "n_items": len(answers), "phases": {"answer": phase(2.0)}, "config": config, "artifact_bytes": 0,
        "tokens": Tokens(prompt=10 * len(answers), completion=len(answers)),
    }  # fmt: skip
    record = Record(**{**values, **changes})
    if record.status == "ok":
        with run.item_writer(record.task, strategy, seed, record.cell_id) as writer:
            for item in answers:
                writer.append(item)
            writer.finish()
    run.write_record(record)
    return record


def new_run(folder: Path, strategies: Sequence[str], **suite: Any) -> RunFolder:
    run = RunFolder(folder).create()
    suite = {"tasks": ["support"], "strategies": list(strategies), **suite}
    run.write_run(Run(name=folder.name, suite=suite, environment={"python": "3"}, started="2026-01-01T00:00:00Z", status="ok"))
    return run


LORA = choices(tuning={"method": "lora", "train_on": ["examples"]})
RAG = choices(retrieval={"search": "dense", "top_k": 2})


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A floor, three contenders (one of two seeds), an oracle, a failure and one that does not apply."""
    run = new_run(tmp_path / "run", ["majority", "zero-shot", "rag", "rag-oracle", "lora", "full", "always-abstain"])
    add(run, "majority", items(2), choices({"constant": "majority"}), deterministic=True)
    add(run, "zero-shot", items(8), choices(), deterministic=True, phases={"answer": phase(1.0)})
    answers = [item.model_copy(update={"retrieved_ids": ["d1", "d2"], "gold_ids": ["d2"]}) for item in items(16)]
    answers[16] = answers[16].model_copy(update={"error": "retrieval_miss"})
    answers[17] = answers[17].model_copy(update={"error": "fabricated"})
    answers[18] = answers[18].model_copy(update={"error": "fabricated"})
    add(run, "rag", answers, RAG, deterministic=True, phases={"index": phase(3.0), "answer": phase(4.0)})
    add(run, "rag-oracle", items(20), choices(retrieval={"search": "oracle"}), deterministic=True)
    parts = {"kind": "rss", "baseline_bytes": 10, "weights_bytes": 20, "workspace_bytes": 5}
    memory = {"answer": Memory(peak_bytes=40, **parts), "tune": Memory(peak_bytes=75, gradients_bytes=40, **parts)}
    for seed, right in enumerate((10, 12)):
        add(run, "lora", items(right), LORA, seed, memory=memory, phases={"tune": phase(5.0), "answer": phase(2.0)})
    run.write_record(Record(
        cell_id="x", task="support", model="embedded", strategy="full", seed=0, status="failed", error="out of\n memory",
        primary_metric="exact_match",
    ))  # fmt: skip
    run.write_record(Record(
        cell_id="y", task="support", model="embedded", strategy="always-abstain", seed=0, status="skipped", error="no abstention phrase",
        primary_metric="exact_match",
    ))  # fmt: skip
    return run


def of(run: RunFolder, prices: Prices = PRICES) -> Evidence:
    return gather([run.path], prices, ASSUMPTIONS)


def only_task(evidence: Evidence) -> TaskEvidence:
    (task,) = evidence.tasks
    return task


def test_who_stands_where(run: RunFolder) -> None:
    task = only_task(of(run))
    assert [(c.strategy, c.standing) for c in task.candidates] == [
        ("majority", "floor"), ("zero-shot", "contender"), ("rag", "contender"), ("rag-oracle", "oracle"), ("lora", "contender"),
        ("full", "failed"), ("always-abstain", "failed"),
    ]  # fmt: skip
    assert (task.task, task.model, task.metric, task.higher_is_better, task.is_share) == ("support", "embedded", "exact_match", True, True)
    assert [task.candidate(name).reason for name in ("full", "always-abstain", "rag")] == ["out of memory", "no abstention phrase", None]
    assert task.candidate("full").measures == {}
    lora = task.candidate("lora")
    assert (lora.n_items, lora.n_seeds, lora.choices["tuning"]["method"]) == (20, 2, "lora")
    assert lora.description
    # A failed cell's record has no configuration: what the preset says stands in.
    assert task.candidate("full").choices["tuning"]["method"] == "full"
    assert (task.candidate("full").family, task.candidate("always-abstain").family) == ("partial and full", "floor")


def test_measures_are_those_of_the_table_and_of_the_costs(run: RunFolder) -> None:
    task = only_task(of(run))
    rows = {row["strategy"]: row for row in table_rows(run)}
    for name in ("zero-shot", "rag", "lora"):
        row = rows[name]
        assert task.candidate(name).measures["quality"] == (row["value"], row["ci_low"], row["ci_high"])
        assert task.candidate(name).measures["exact_match"] == task.candidate(name).measures["quality"]
    zero, rag, lora = (task.candidate(name).measures for name in ("zero-shot", "rag", "lora"))
    assert (zero["quality"].value, rag["quality"].value, lora["quality"].value) == pytest.approx((0.4, 0.8, 0.55))
    # 1, 4 and 2 CPU seconds for 20 requests at a dollar a second, on a device that works half of the time.
    costs = [m["usd_per_1000_requests"].value for m in (zero, rag, lora)]
    assert costs == pytest.approx([100, 400, 200])
    assert zero["usd_per_1000_requests"].low == pytest.approx(100 / 2, rel=0.1)
    # Index of 3 seconds; training of 5 and labels: 20 to train on, 5 of validation.
    assert (rag["setup_usd"].value, lora["setup_usd"].value) == pytest.approx((3, 30))
    assert rag["setup_seconds"] == Measure(3.0)
    assert "latency_p95_seconds" not in rag
    assert not any("." in name for name in rag)


def test_every_two_contenders_are_compared(run: RunFolder) -> None:
    task = only_task(of(run))
    against_floor = [(name, "majority") for name in ("zero-shot", "rag", "lora")]
    assert [(p.a, p.b) for p in task.pairs] == [("zero-shot", "rag"), ("zero-shot", "lora"), ("rag", "lora"), *against_floor]
    first = task.pairs[0]
    assert first.difference.value == pytest.approx(-0.4)
    assert first.difference.low is not None
    assert first.difference.low < -0.4 < (first.difference.high or 0) < 0
    assert first.p is not None
    assert first.p < 0.05
    # An interval is 2 standard errors wide on either side; to be found with power .8 among three comparisons takes more.
    assert first.detectable is not None
    assert first.detectable > first.difference.value - first.difference.low
    found = {(row["a"], row["b"]): row for row in total_costs([run], PRICES, ASSUMPTIONS).pairs}
    for pair in task.pairs[:3]:
        row = found[pair.a, pair.b]
        assert (pair.cheaper_below, pair.cheaper_above) == (row["break_even_requests_below"], row["break_even_requests_above"])
        assert (None if pair.break_even_requests is None else pair.break_even_requests.value) == row["break_even_requests"]
    assert {pair.cheaper_above for pair in task.pairs[:2]} == {"zero-shot"}
    # RAG is set up for 3 dollars and LoRA for 30, but LoRA's requests cost half as much.
    rag_lora = task.pairs[2]
    assert (rag_lora.cheaper_below, rag_lora.cheaper_above) == ("rag", "lora")
    assert rag_lora.break_even_requests is not None


def test_at_the_price_of_a_crossing_two_strategies_cost_the_same(run: RunFolder) -> None:
    """Against the costs themselves, computed anew at that price."""
    pairs = {(pair.a, pair.b): {price.thing: price for price in pair.prices} for pair in only_task(of(run)).pairs}
    assert set(pairs["rag", "lora"]) == {"a label", "an error", "a core-hour of cpu"}  # nothing is stored
    assert pairs["zero-shot", "majority"] == {}  # the costs compare them the other way round
    seen = 0
    for (a, b), prices in pairs.items():
        for thing, price in prices.items():
            if price.at is None:
                continue
            seen += 1
            assumed, paid = ASSUMPTIONS, PRICES
            if thing == "a core-hour of cpu":
                devices = [entry.model_copy(update={"price": price.at.value}) for entry in PRICES.devices if entry.name == "cpu"]
                paid = PRICES.model_copy(update={"devices": tuple(devices)})
            else:
                key = {"a label": "label_usd_per_example", "an error": "error_usd"}[thing]
                assumed = ASSUMPTIONS.model_copy(update={key: price.at.value})
            totals = {row["strategy"]: row["total_usd"] for row in total_costs([run], paid, assumed).strategies}
            assert totals[a] == pytest.approx(totals[b], rel=1e-9), (a, b, thing)
            assert {price.cheaper_below, price.cheaper_above} == {a, b}
    assert seen >= 3
    error = pairs["zero-shot", "rag"]["an error"]
    (row,) = [r for r in total_costs([run], PRICES, ASSUMPTIONS).pairs if (r["a"], r["b"]) == ("zero-shot", "rag")]
    assert error.at == pytest.approx((row["break_even_error_usd"], row["break_even_error_usd_low"], row["break_even_error_usd_high"]))


def test_kinds_of_error_and_parts_of_memory(run: RunFolder) -> None:
    task = only_task(of(run))
    assert task.errors == {"rag": {"retrieval_miss": 0.05, "fabricated": 0.1}}
    assert list(task.memory) == ["lora"]
    assert task.memory["lora"]["gradients_bytes"] == 40
    assert sum(task.memory["lora"].values()) == 75
    assert task.curves == ()


def test_without_a_price_there_are_no_costs_and_a_note(run: RunFolder) -> None:
    evidence = of(run, NO_PRICE)
    measures = only_task(evidence).candidate("rag").measures
    assert measures["quality"].value == 0.8
    assert not any("usd" in name for name in measures)
    assert only_task(evidence).pairs[0].break_even_requests is None
    assert only_task(evidence).pairs[0].p is not None
    assert any("no costs" in note and "cpu" in note for note in evidence.notes)
    assert evidence.prices == ()
    assert of(run).prices[0].startswith("cpu: 3600 USD per core-hour")
    assert of(run).assumptions["horizon_months"] == 10


def test_values_of_probes(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", ["zero-shot"])
    latency = ProbeResult(version=1, values={"latency_p95_seconds": MetricValue(value=0.3, ci_low=0.2, ci_high=0.5, n_scored=9)})
    forgetting = ProbeResult(version=1, reason="trains nothing")
    add(run, "zero-shot", items(3), choices(), probes={"latency": latency, "forgetting": forgetting})
    task = only_task(of(run))
    assert task.pairs == ()
    measures = task.candidate("zero-shot").measures
    assert measures["latency.latency_p95_seconds"] == measures["latency_p95_seconds"] == (0.3, 0.2, 0.5)
    assert not any(name.startswith("forgetting") for name in measures)


def test_a_metric_where_lower_is_better(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", ["zero-shot", "rag"])
    for name, wrong in (("zero-shot", 0.5), ("rag", 0.25)):
        answers = [item.model_copy(update={"scores": {"hallucination_rate": wrong}}) for item in items(5)]
        add(run, name, answers, choices(), primary_metric="hallucination_rate")
    task = only_task(of(run))
    assert (task.higher_is_better, task.is_share) == (False, True)
    assert task.candidate("rag").measures["quality"].value == 0.25
    assert task.pairs[0].difference.value == 0.25
    assert task.questions[0].answers["rag"].score == 0.25


def test_a_score_beyond_one_is_no_share(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", ["zero-shot"])
    answers = [item.model_copy(update={"scores": {"penalized_score_3": 0.5}}) for item in items(5)]
    add(run, "zero-shot", answers, choices(), primary_metric="penalized_score_3")
    assert only_task(of(run)).is_share is False


# ------------------------------------------------------------------------------------------ texts


def test_texts_that_the_run_kept(run: RunFolder) -> None:
    bare = only_task(of(run))
    assert {q.text for q in bare.questions} == {None}
    assert bare.passages == {}
    inputs = {f"q{i}": text_of(i) for i in range(20)} | {"q3": "another question by now"}
    run.write_texts("support", {"items": inputs, "passages": {"d1": "one", "d2": "two", "d3": "read by none"}})
    task = only_task(of(run))
    assert [q.id for q in task.questions] == [f"q{i}" for i in range(20)]
    assert task.questions[2].text == text_of(2)
    assert task.questions[3].text is None
    assert task.passages == {"d1": "one", "d2": "two"}
    asked = task.questions[17]
    assert (asked.targets, asked.gold, asked.cluster, asked.answerable) == (("blue",), (), "c17", True)
    assert set(asked.answers) == {"majority", "zero-shot", "rag", "rag-oracle", "lora"}
    rag = asked.answers["rag"]
    assert (rag.prediction, rag.score, rag.outcome, rag.error, rag.retrieved) == ("red", 0.0, "incorrect", "fabricated", ("d1", "d2"))
    # Of two seeds the first: seed 1 has question 11 right.
    assert task.questions[11].answers["lora"].outcome == "incorrect"


def test_a_run_without_texts_falls_back_on_the_task_while_it_is_the_same(tmp_path: Path, make_task: Callable[..., Path]) -> None:
    folder = make_task()
    loaded = load_task(folder)
    run = new_run(tmp_path / "run", ["zero-shot"], tasks=[str(folder)])
    prints = Fingerprints(task=loaded.fingerprint, model="m", tokenizer="t", strategy="s", scoring="2")
    answers = [
        items(1, 1)[0].model_copy(update={"id": e.id, "cluster": e.id, "input_hash": hashlib.sha256(e.input.encode()).hexdigest()})
        for e in loaded.test
    ]
    add(run, "zero-shot", answers, choices(), task=loaded.name, fingerprints=prints)
    evidence = of(run)
    assert [q.text for q in only_task(evidence).questions] == [e.input for e in loaded.test]
    hashes = evidence.fingerprints[loaded.name]
    assert hashes == {"task": loaded.fingerprint, "model": "m", "tokenizer": "t", "scoring version": "2", "strategy zero-shot": "s"}
    rows = (folder / "test.jsonl").read_text()
    (folder / "test.jsonl").write_text(rows.replace("test message 3 ", "test message three "))
    assert [q.text for q in only_task(of(run)).questions] == [None if i == 3 else e.input for i, e in enumerate(loaded.test)]
    shutil.rmtree(folder)
    assert {q.text for q in only_task(of(run)).questions} == {None}


# ------------------------------------------------------------------------------------------ several runs


def test_runs_of_several_sizes_make_curves_and_the_largest_is_the_evidence(tmp_path: Path) -> None:
    runs = []
    for size, right in ((5, 6), (20, 14)):
        run = new_run(tmp_path / f"n{size}", ["zero-shot", "lora"], budget={"train_examples": size})
        add(run, "zero-shot", items(10), choices(), deterministic=True)
        add(run, "lora", items(right), LORA)
        runs.append(run.path)
    evidence = gather(runs[::-1], PRICES, ASSUMPTIONS)
    task = only_task(evidence)
    points = [(p["strategy"], p["train_examples"], p["value"]) for p in task.curves]
    assert points == [("zero-shot", 5, 0.5), ("zero-shot", 20, 0.5), ("lora", 5, 0.3), ("lora", 20, 0.7)]
    (crossing,) = task.crossovers
    assert (crossing["ahead_at_smallest"], crossing["ahead_at_largest"]) == ("zero-shot", "lora")
    assert crossing["crossover"] == pytest.approx(10)  # half-way in log2
    assert task.candidate("lora").measures["quality"].value == pytest.approx(0.7)
    assert evidence.runs == tuple(map(str, runs[::-1]))
    assert len(evidence.command.splitlines()) == 2


def test_runs_that_share_no_cell_are_read_together_whatever_their_sizes(tmp_path: Path) -> None:
    runs = []
    for size, name in ((10, "zero-shot"), (40, "lora")):
        run = new_run(tmp_path / f"n{size}", [name], budget={"train_examples": size})
        add(run, name, items(10), choices())
        runs.append(run.path)
    task = only_task(gather(runs, PRICES, ASSUMPTIONS))
    assert [c.strategy for c in task.candidates] == ["zero-shot", "lora"]
    assert task.curves == ()


def test_bad_runs_are_named(tmp_path: Path, run: RunFolder) -> None:
    with pytest.raises(BenchError, match="nowhere: no such run folder"):
        gather([tmp_path / "nowhere"], PRICES, ASSUMPTIONS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BenchError, match=r"empty: no run here: expected the file run.json"):
        gather([tmp_path / "empty"], PRICES, ASSUMPTIONS)
    new_run(tmp_path / "bare", ["rag"])
    with pytest.raises(BenchError, match="no records here"):
        gather([tmp_path / "bare"], PRICES, ASSUMPTIONS)
    other = new_run(tmp_path / "other", ["rag"])
    add(other, "rag", items(3), RAG)
    with pytest.raises(BenchError, match="hold different cells support/rag/s0"):
        gather([run.path, other.path, tmp_path / "bare"], PRICES, ASSUMPTIONS)  # of two, the second would be compared with the first


# ------------------------------------------------------------------------------------------ the command


def command(suite: Suite, name: str = "mine", results: str = "results") -> str:
    header = Run(name=name, suite=suite.model_dump(mode="json"), environment={}, started="2026-01-01T00:00:00Z", status="ok")
    return command_of(RunFolder(Path(results) / name), header)


def test_the_command_of_a_packaged_suite() -> None:
    default = load_suite("default")
    assert command(default, "default") == "bench run default"
    assert command(default, "default", "/data/my runs") == "bench run default --results '/data/my runs'"
    assert command(default) == "bench run default --name mine"


def test_the_command_names_what_options_changed() -> None:
    default = load_suite("default")
    changed = default.model_copy(
        update={
            "model": "./my model", "tasks": ["product_support"], "strategies": ["rag", "lora"], "seeds": [0, 1], "limit": 5,
            "budget": default.budget.model_copy(update={"trials": 1}), "probes": [*default.probes, "latency"], "multitask": True,
        }
    )  # fmt: skip
    assert shlex.split(command(changed)) == shlex.split(
        "bench run default --model './my model' --task product_support --strategy rag --strategy lora --seeds 2 --trials 1 --limit 5 "
        "--probe latency --multitask --name mine"
    )
    bare = default.model_copy(update={"probes": [], "probe_settings": {}})
    assert command(bare) == "bench run default --no-probes --name mine"


def test_of_several_suites_that_would_do_the_nearest_to_the_name_is_taken() -> None:
    short = load_suite("default").model_copy(update={"tasks": ["product_support"], "strategies": ["rag"], "seeds": [0], "probes": []})
    short = short.model_copy(update={"probe_settings": {}})
    options = "--task product_support --strategy rag --no-probes"
    assert sorted(command(short, "mine").split()) == sorted(f"bench run default {options} --seeds 1 --name mine".split())
    assert sorted(command(short, "probes-1a2b").split()) == sorted(f"bench run probes {options} --name probes-1a2b".split())


@pytest.mark.parametrize("changes", [{"seeds": [3, 5]}, {"settings": {"tuning.r": 4}}, {"budget": {"validation_examples": 7}}])
def test_what_options_cannot_say_is_in_run_json(changes: dict[str, Any]) -> None:
    default = load_suite("default").model_dump(mode="json")
    if "budget" in changes:
        changes = {"budget": default["budget"] | changes["budget"]}
    found = command(Suite.model_validate(default | changes))
    assert found == "bench run suite.yaml --name mine  # suite.yaml: what run.json has under the key suite"


def test_a_hostile_name_stays_one_word_on_one_line() -> None:
    found = command(load_suite("default"), "x; rm -rf ~\n\x1b[2J")
    assert shlex.split(found) == ["bench", "run", "default", "--name", "x; rm -rf ~??[2J"]
