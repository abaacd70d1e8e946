"""Online latency: quantiles by hand, and what a request has to pay for itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binom

from bench.errors import BenchError
from bench.probe import latency
from bench.probe.base import Context, make
from bench.probe.latency import Timing, quantile_interval, serving, summarize
from bench.result.schema import ProbeResult
from bench.strategy.embedder import Embedder
from bench.strategy.features import FeatureClassifier

Probed = Callable[..., ProbeResult]
DENSE = {"retrieval": {"search": "dense", "top_k": 2}}
LORA = {"tuning": {"method": "lora", "epochs": 1, "evaluations": 1}}
FEATURES = {"tuning": {"method": "features"}}
PROMPT_TUNING = {
    "tuning": {"method": "peft", "epochs": 1, "evaluations": 1, "peft": {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4}}
}
NEAREST = {"prompt": {"shots": 2, "select": "nearest"}}

TEXT = {"latency_p50_seconds", "latency_p95_seconds", "latency_p99_seconds", "ttft_p50_seconds", "ttft_p95_seconds", "tpot_p50_seconds"}
CHOICE = {name for name in TEXT if name.startswith("latency")}
RETRIEVAL = {"retrieval_p50_seconds"}

# ---------------------------------------------------------------------------------------------- quantiles


@pytest.mark.parametrize(
    ("n", "q", "expected"),
    [
        # P(B <= 0) = P(B = 6) = 1/64 < 2.5 %, P(B <= 1) = 7/64: the whole sample. Of five values, 1/32 is more than 2.5 % already.
        (6, 0.5, (3, 1, 6)),
        (5, 0.5, (3, None, None)),
        (1, 0.5, (1, None, None)),
        (1, 0.99, (1, 1, None)),  # below p99 in 99 of 100 cases
        # .95^72 = .0249, .95^71 = .0262; .99^368 = .0248, .99^367 = .0250.
        (72, 0.95, (69, 64, 72)),
        (71, 0.95, (68, 63, None)),
        (368, 0.99, (365, 360, 368)),
        (367, 0.99, (364, 359, None)),
        # nq -/+ 1.96 sqrt(nq(1 - q)): 86.1 and 113.9; 184.0 and 196.0; 195.2 and 200.8.
        (200, 0.5, (100, 86, 115)),
        (200, 0.95, (190, 184, 197)),
        (200, 0.99, (198, 195, None)),
        (1000, 0.99, (990, 983, 997)),
        (100, 0.07, (7, 2, 13)),  # 100 * .07 is a little above 7
    ],
)
def test_a_quantile_and_its_interval_are_values_of_these_ranks(n: int, q: float, expected: tuple[int, int | None, int | None]) -> None:
    assert quantile_interval(range(1, n + 1), q) == expected


@pytest.mark.parametrize("n", [20, 73, 200, 377, 1000])
@pytest.mark.parametrize("q", [0.5, 0.95, 0.99])
def test_at_most_a_fortieth_is_left_out_on_either_side_and_no_narrower_interval_does_that(n: int, q: float) -> None:
    _, low, high = quantile_interval(range(1, n + 1), q)
    rank = low or 0
    assert binom.cdf(rank - 1, n, q) < 0.025 <= binom.cdf(rank, n, q)
    if high is None:
        assert binom.cdf(n - 1, n, q) < 0.975
    else:
        assert binom.cdf(high - 2, n, q) < 0.975 <= binom.cdf(high - 1, n, q)


@pytest.mark.parametrize(("n", "q", "true"), [(200, 0.5, 1.0), (200, 0.95, np.exp(1.6448536)), (400, 0.99, np.exp(2.3263479))])
def test_the_interval_holds_the_true_quantile_as_often_as_it_says(n: int, q: float, true: float) -> None:
    """Log-normal times, 2,000 samples: at least 95 %, and not more than ranks that are whole numbers make of it."""
    samples = np.sort(np.random.default_rng(0).lognormal(size=(2000, n)), axis=1)
    held = 0
    for row in samples.tolist():
        _, low, high = quantile_interval(row, q)
        assert low is not None
        assert high is not None
        held += low <= true <= high
    assert 0.94 < held / len(samples) < 0.975


@pytest.mark.parametrize(("values", "q"), [([], 0.5), ([1.0], 0.0), ([1.0], 1.0), ([1.0], 50.0)])
def test_a_quantile_of_nothing_and_no_share_are_refused(values: list[float], q: float) -> None:
    with pytest.raises(ValueError, match="expected at least one, and a share between 0 and 1"):
        quantile_interval(values, q)


# ---------------------------------------------------------------------------------------------- summary


def timing(total: float = 1.0, first: float | None = 0.4, n: int = 4, retrieval: float | None = None, chosen: bool = False) -> Timing:
    return Timing(total, first, retrieval, 10, n, n, chosen)


def test_time_per_token_is_what_comes_after_the_first_one() -> None:
    assert timing(total=1.0, first=0.4, n=4).per_token_seconds == pytest.approx(0.2)
    assert timing(n=1).per_token_seconds is None
    assert timing(first=None, n=0).per_token_seconds is None


def test_requests_without_a_token_are_counted_apart() -> None:
    timings = [timing(3.0), timing(1.0), timing(0.5, n=1), timing(0.1, first=None, n=0, retrieval=None)]
    found, left_out = summarize(timings)
    values = {name: finding.value for name, finding in found.items()}
    assert set(values) == TEXT
    assert left_out == {"retrieval_p50_seconds": latency.SEARCHES_NOTHING}
    assert (values["latency_p50_seconds"].value, values["latency_p99_seconds"].value) == (0.5, 3.0)
    assert (values["latency_p50_seconds"].n_scored, values["latency_p50_seconds"].n_undefined) == (4, 0)
    assert (values["ttft_p50_seconds"].n_scored, values["ttft_p50_seconds"].undefined) == (3, {latency.NOT_ASKED: 1})
    assert values["tpot_p50_seconds"].undefined == {latency.NOT_ASKED: 1, latency.ONE_TOKEN: 1}
    assert values["tpot_p50_seconds"].n_scored == values["tpot_p50_seconds"].n_undefined == 2
    assert values["tpot_p50_seconds"].value == pytest.approx(0.2)
    assert all(finding.items == {} for finding in found.values())  # a quantile is no mean of items


def test_what_is_undefined_for_all_is_left_out_with_its_reason() -> None:
    found, left_out = summarize([timing(first=None, n=0, retrieval=0.2, chosen=True)])
    assert set(found) == CHOICE | RETRIEVAL
    assert left_out == dict.fromkeys(sorted(TEXT - CHOICE), latency.CHOSEN)
    _, left_out = summarize([timing(n=1), timing(first=None, n=0)])
    assert left_out["tpot_p50_seconds"] == f"{latency.NOT_ASKED}; {latency.ONE_TOKEN}"


# ---------------------------------------------------------------------------------------------- requests


@pytest.mark.parametrize(
    ("strategy", "task", "names"),
    [
        ({}, "product_support", TEXT),
        (LORA, "product_support", TEXT),
        (PROMPT_TUNING, "product_support", TEXT),
        (DENSE, "product_support", TEXT | RETRIEVAL),
        ({"retrieval": {"search": "lexical", "top_k": 2}}, "product_support", TEXT | RETRIEVAL),
        ({"retrieval": {"search": "oracle"}}, "product_support", TEXT),
        (NEAREST, "ticket_triage", TEXT | RETRIEVAL),
        (FEATURES, "ticket_triage", CHOICE),
    ],
)
def test_values_of_each_kind_of_strategy(
    context_of: Callable[..., Context], probed: Probed, strategy: dict[str, Any], task: str, names: set[str]
) -> None:
    context = context_of(strategy, task=task)
    result = probed(context, "latency", n_requests=8, n_warm_up=2)
    assert set(result.values) == names
    assert set(result.details["left_out"]) == (TEXT | RETRIEVAL) - names
    assert 0 < result.values["latency_p50_seconds"].value <= result.values["latency_p95_seconds"].value
    if "ttft_p50_seconds" in names:
        assert 0 < result.values["ttft_p95_seconds"].value < result.values["latency_p99_seconds"].value
        assert result.values["tpot_p50_seconds"].value > 0


@pytest.mark.parametrize("strategy", [{}, LORA, PROMPT_TUNING, DENSE])
def test_every_token_is_one_pass_and_the_parts_are_in_order(
    context_of: Callable[..., Context], tmp_path: Path, strategy: dict[str, Any]
) -> None:
    """The answers are those of the cell, token by token, and the first one comes after what is found and before the end."""
    context = context_of(strategy)
    with serving(context.ready, tmp_path) as ask:
        for example, item in list(zip(context.cell.task.test, context.items, strict=True))[:6]:
            found = ask(example)
            assert found.output_tokens == found.n_generated == item.tokens.completion
            assert found.prompt_tokens == item.tokens.prompt
            assert found.first_token_seconds is not None
            assert 0 < (found.retrieval_seconds or 1e-9) < found.first_token_seconds <= found.total_seconds


def test_the_first_pass_runs_the_whole_prompt(context_of: Callable[..., Context], tmp_path: Path) -> None:
    """Two shots stand before every question: what a batch shares is computed again for a request that comes alone."""
    context = context_of({"prompt": {"shots": 2}}, task="ticket_triage")
    widths: list[int] = []

    def note(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        widths.append(kwargs["input_ids"].shape[1])

    hook = context.ready.model.network.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with serving(context.ready, tmp_path) as ask:
            timings = [ask(example) for example in context.cell.task.test[:3]]
    finally:
        hook.remove()
    assert [w for w in widths if w > 1] == [t.prompt_tokens for t in timings]
    assert widths.count(1) == sum(t.n_generated - 1 for t in timings)


def test_an_encoder_decoder_models_tokens_are_passes_of_its_decoder(
    context_of: Callable[..., Context], tmp_path: Path, make_task: Callable[..., Path]
) -> None:
    from model.test_seq2seq import WORDS, save_tokenizer
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(vocab_size=len(WORDS), d_model=16, d_kv=8, num_layers=1, num_heads=2, d_ff=16, decoder_start_token_id=0)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    save_tokenizer(tmp_path / "t5", model_max_length=512)
    context = context_of({}, task=str(make_task()), model=str(tmp_path / "t5"), limit=6)
    with serving(context.ready, tmp_path) as ask:
        timings = [ask(example) for example in context.cell.task.test]
    assert [t.output_tokens for t in timings] == [t.n_generated for t in timings] == [i.tokens.completion for i in context.items]
    assert all(0 < (t.first_token_seconds or 0) < t.total_seconds for t in timings)


def test_questions_are_embedded_each_time(context_of: Callable[..., Context], probed: Probed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the cell has kept their vectors; and the time goes into retrieval, and from there into the first token."""
    embed = Embedder.embed
    asked: list[Sequence[str]] = []

    def slowly(self: Embedder, texts: Sequence[str], role: Any = "passage") -> Any:
        asked.append(texts)
        time.sleep(0.05)
        return embed(self, texts, role)

    for strategy, task in ((DENSE, "product_support"), (NEAREST, "ticket_triage")):
        context = context_of(strategy, task=task, limit=12)
        questions = [e.input for e in context.cell.task.test]
        with monkeypatch.context() as patch:
            patch.setattr(Embedder, "embed", slowly)
            values = probed(context, "latency", n_requests=14, n_warm_up=1).values
        assert asked == [[q] for q in [questions[0], *questions, *questions[:2]]]
        asked.clear()
        assert values["retrieval_p50_seconds"].value >= 0.05
        assert values["ttft_p50_seconds"].value > values["retrieval_p50_seconds"].value


def test_features_are_computed_each_time(context_of: Callable[..., Context], probed: Probed, monkeypatch: pytest.MonkeyPatch) -> None:
    context = context_of(FEATURES, task="ticket_triage", limit=12)
    run, rows = FeatureClassifier._run, []

    def counting(self: FeatureClassifier, given: Any) -> Any:
        rows.append(len(given))
        return run(self, given)

    monkeypatch.setattr(FeatureClassifier, "_run", counting)
    probed(context, "latency", n_requests=14, n_warm_up=2)
    assert rows == [1] * 16


def test_a_choice_among_options_has_no_first_token(
    context_of: Callable[..., Context], probed: Probed, make_task: Callable[..., Path]
) -> None:
    rows = {
        split: [{"id": f"{split}-{i}", "text": f"{split} {i}", "of": ["red", "blue"], "right": i % 2} for i in range(n)]
        for split, n in (("train", 12), ("validation", 6), ("test", 12))
    }
    task = make_task(rows=rows, kind="multiple_choice", instruction="Pick one.", options="of", target="right", metrics=["accuracy"])
    result = probed(context_of({}, task=str(task), limit=6), "latency", n_requests=4, n_warm_up=1)
    assert set(result.values) == CHOICE
    assert result.details["left_out"]["ttft_p50_seconds"] == latency.CHOSEN
    assert result.details["mean_output_tokens"] > 0  # those of the options


def test_an_encoder_has_no_first_token(
    context_of: Callable[..., Context], probed: Probed, make_task: Callable[..., Path], tmp_path: Path
) -> None:
    from model.test_classifier import bert_config, save
    from transformers import BertModel

    folder = save(BertModel(bert_config()), tmp_path / "bert")
    context = context_of({"tuning": {"method": "full", "epochs": 1, "evaluations": 1}}, task=str(make_task()), model=str(folder), limit=6)
    assert set(probed(context, "latency", n_requests=4, n_warm_up=1).values) == CHOICE


def test_a_request_that_is_not_asked_still_takes_its_search(context_of: Callable[..., Context], probed: Probed) -> None:
    context = context_of({"retrieval": {"search": "dense", "top_k": 1, "abstain_below": 1.0}}, limit=12)
    assert all(i.outcome == "abstained" for i in context.items)
    result = probed(context, "latency", n_requests=6, n_warm_up=1)
    assert set(result.values) == CHOICE | RETRIEVAL
    assert result.details["left_out"]["ttft_p50_seconds"] == result.details["left_out"]["tpot_p50_seconds"] == latency.NOT_ASKED
    assert result.values["latency_p50_seconds"].value > result.values["retrieval_p50_seconds"].value
    assert result.details["mean_prompt_tokens"] == 0


# ---------------------------------------------------------------------------------------------- the cell


@pytest.mark.parametrize("strategy", [LORA, DENSE, FEATURES])
def test_the_strategy_stays_as_it_was(context_of: Callable[..., Context], probed: Probed, strategy: dict[str, Any]) -> None:
    context = context_of(strategy, task="ticket_triage" if strategy is FEATURES else "product_support")
    fitted = context.ready
    before = dict(vars(fitted))
    probed(context, "latency", n_requests=3, n_warm_up=1)
    assert vars(fitted) == before
    assert hooks(fitted.model.network) == 0
    with fitted.meter.phase("answer"):
        again = [a.parsed.answer for a in context.answer(context.requests(context.cell.task.test))]
    assert again == [i.prediction for i in context.items]


def test_no_hook_is_left_where_a_request_fails(context_of: Callable[..., Context], probed: Probed, monkeypatch: pytest.MonkeyPatch) -> None:
    context = context_of(LORA)
    seen: list[int] = []

    def fail(messages: Any) -> Any:
        seen.append(hooks(context.ready.model.network))
        raise BenchError("no tokens today")

    monkeypatch.setattr(context.ready.model, "prompts_ids", fail)
    with pytest.raises(BenchError, match="no tokens today"):
        probed(context, "latency", n_requests=3)
    assert seen == [1]
    assert hooks(context.ready.model.network) == 0


def hooks(network: torch.nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in network.modules())


def test_details_say_what_was_measured_and_on_what(context_of: Callable[..., Context], probed: Probed) -> None:
    context = context_of(LORA)
    details = probed(context, "latency", n_requests=30, n_warm_up=3).details
    machine = details.pop("machine")
    shown = [context.items[i % len(context.items)].tokens for i in range(30)]
    assert details == {
        "batch_size": 1,
        "concurrency": 1,
        "n_requests": 30,
        "n_different_requests": 24,
        "n_warm_up": 3,
        "prefix_cached": False,
        "adapter": "beside the base",
        "dtype": "float32",
        "mean_prompt_tokens": pytest.approx(sum(t.prompt for t in shown) / 30),
        "mean_output_tokens": pytest.approx(sum(t.completion for t in shown) / 30),
        "left_out": {"retrieval_p50_seconds": latency.SEARCHES_NOTHING},
    }
    assert (machine["device"], machine["threads"]) == ("cpu", 1)
    assert len(machine["load_average"]) == 2
    assert 0 < machine["busy_share"] < 1.2  # one thread


def test_every_request_counts_but_those_of_the_warm_up(context_of: Callable[..., Context], probed: Probed) -> None:
    values = probed(context_of({}, limit=12), "latency", n_requests=5, n_warm_up=4).values
    assert {v.n_scored for v in values.values()} == {5}
    assert values["latency_p50_seconds"].ci_low is None


def test_where_it_has_no_meaning(context_of: Callable[..., Context], probed: Probed) -> None:
    result = probed(context_of({"prompt": {"constant": "majority"}}, task="ticket_triage", limit=4), "latency")
    assert result.reason == "the strategy asks no model"
    assert result.values == {}


@pytest.mark.parametrize("settings", [{"n_requests": 0}, {"n_warm_up": 0}, {"n_requests": 1.5}, {"requests": 5}])
def test_wrong_settings(settings: dict[str, Any]) -> None:
    with pytest.raises(BenchError, match=r"probe_settings\.latency"):
        make("latency", settings)
