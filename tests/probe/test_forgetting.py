import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr

from bench.model.language_model import LanguageModel
from bench.model.source import locate
from bench.probe import forgetting
from bench.probe.base import Context, get, make, run_probe
from bench.probe.forgetting import by_kind, divergences, drop, flips, increase, nats, on_base, questions, recall, skill, sorts, texts
from bench.probe.forgetting_curve import FROM_THE_START, NOT_REACHED, Checkpoint, at_score
from bench.result.schema import ProbeResult
from bench.result.statistics import wilson_interval
from bench.suite import Suite, expand
from bench.world import verify
from bench.world.entities import known_products

SMALL = {"questions": 24, "sorts": 8, "texts": 8}
LORA = {"tuning": {"method": "lora", "epochs": 1, "evaluations": 1, "learning_rate": 1e-2}}
FULL = {"tuning": {"method": "full", "epochs": 1, "evaluations": 1, "learning_rate": 3e-4}}
SOFT = {
    "tuning": {
        "method": "peft", "epochs": 1, "evaluations": 1, "learning_rate": 0.1,
        "peft": {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 8, "prompt_tuning_init": "TEXT"},
    }
}  # fmt: skip


# ---------------------------------------------------------------------------------------------- items


def test_questions_are_different_known_facts_and_the_same_each_time() -> None:
    asked = questions(random.Random("a"), 300)
    facts = {p.name: p.facts for p in known_products()}
    assert len({q.id for q in asked}) == 300
    assert all(facts[q.product][q.attribute] == q.target and q.product in q.text for q in asked)
    assert asked == questions(random.Random("a"), 300) != questions(random.Random("b"), 300)


def test_all_known_facts_can_be_asked_and_no_more() -> None:
    everything = sum(len(p.facts) for p in known_products())
    assert len(questions(random.Random(0), everything)) == everything
    with pytest.raises(Exception, match="questions"):
        make("forgetting", {"questions": everything + 1})


def test_texts_are_a_quarter_of_each_kind() -> None:
    made = texts(random.Random(0), 10)
    assert sorted(made) == sorted(f"{kind}/{i}" for kind in ("page", "ticket", "abstract", "review") for i in range(2))
    assert all(made.values())


# ---------------------------------------------------------------------------------------------- measurements


def test_nats_of_a_text_are_those_of_the_bases_own_check(embedded: Any) -> None:
    prose = texts(random.Random(1), 20)
    found = nats(embedded, prose)
    assert sorted(found) == sorted(prose)
    for name, text in prose.items():
        assert found[name] == pytest.approx(verify.loss(embedded, [text])[0], abs=1e-5)


def test_the_base_knows_its_facts_and_sorts_by_shots_but_not_without(embedded: Any) -> None:
    assert np.mean(list(recall(embedded, questions(random.Random(2), 40)).values())) > 0.85
    tickets = sorts(random.Random(2), 16)
    assert np.mean(list(skill(embedded, tickets).values())) > 0.8
    unshown = [forgetting.Sort(t.id, [{"role": "user", "content": t.messages[-1]["content"]}], t.target) for t in tickets]
    assert np.mean(list(skill(embedded, unshown).values())) < 0.3


def _log_probabilities(model: Any, text: str) -> tuple[np.ndarray, np.ndarray]:
    """(tokens, vocabulary) of one text on its own, by a forward pass over all positions, and its tokens."""
    ids = model.tokenizer(model.tokenizer.bos_token + text, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        logits = model.network(input_ids=torch.tensor([ids])).logits[0]
    return log_softmax(logits[-len(ids) : -1].double().numpy(), axis=-1), np.array(ids[1:])


@pytest.mark.parametrize("settings", [LORA, FULL, SOFT], ids=["lora", "full", "soft prompt"])
def test_nats_and_divergences_equal_those_of_single_forward_passes(context_of: Callable[..., Context], settings: dict[str, Any]) -> None:
    context = context_of(settings)
    model = context.ready.model
    prose = texts(random.Random(3), 8)
    with on_base(context) as base:
        before = base(lambda m: {name: _log_probabilities(m, text) for name, text in prose.items()})
        of_base = base(lambda m: nats(m, prose))
        forward, reverse = divergences(base, model, prose)
    after = {name: _log_probabilities(model, text) for name, text in prose.items()}
    of_model = nats(model, prose)
    for name in prose:
        (p, tokens), (q, _) = before[name], after[name]
        rows = np.arange(len(tokens))
        assert of_base[name] == pytest.approx(-p[rows, tokens].mean(), abs=1e-4)
        assert of_model[name] == pytest.approx(-q[rows, tokens].mean(), abs=1e-4)
        assert forward[name] == pytest.approx(rel_entr(np.exp(p), np.exp(q)).sum(-1).mean(), abs=1e-4)
        assert reverse[name] == pytest.approx(rel_entr(np.exp(q), np.exp(p)).sum(-1).mean(), abs=1e-4)
    assert max(forward.values()) > 0.01


def test_base_and_tuned_model_take_turns_and_the_base_is_the_shipped_one(context_of: Callable[..., Context], embedded: Any) -> None:
    prose = texts(random.Random(4), 4)
    shipped = nats(embedded, prose)
    for settings in ({}, LORA, FULL, SOFT):
        context = context_of(settings)
        model = context.ready.model
        state = (model.virtual_tokens, model.shared_prefix)
        own = nats(model, prose)
        with on_base(context) as base:
            first, between, second = base(lambda m: nats(m, prose)), nats(model, prose), base(lambda m: nats(m, prose))
        assert first == second == pytest.approx(shipped, abs=1e-5)
        assert between == nats(model, prose) == own
        assert (model.virtual_tokens, model.shared_prefix) == state
        assert (own == first) is (settings == {})


# ---------------------------------------------------------------------------------------------- differences


def test_a_drop_is_paired_and_clustered() -> None:
    before = {"a": 1.0, "b": 1.0, "c": 1.0, "d": 0.0}
    after = {"a": 0.0, "b": 0.0, "c": 1.0, "d": 1.0}
    clusters = {"a": "x", "b": "x", "c": "y", "d": "z"}
    found = drop(before, after, clusters)
    assert found.items == {"a": 1.0, "b": 1.0, "c": 0.0, "d": -1.0}
    assert found.value.value == 0.25
    # Sums of deviations per cluster: 1.5, -0.25, -1.25.
    error = np.sqrt(3 / 2 * (1.5**2 + 0.25**2 + 1.25**2)) / 4
    assert found.value.ci_high == pytest.approx(0.25 + 4.302653 * error, rel=1e-4)


def test_where_nothing_changed_a_change_either_way_may_have_been_missed() -> None:
    same = {str(i): float(i % 2) for i in range(20)}
    value = drop(same, same).value
    high = wilson_interval(0.0, 20)[1]
    assert (value.value, value.ci_low, value.ci_high) == (0.0, -high, high)
    clustered = drop(same, same, {name: str(int(name) // 4) for name in same}).value
    assert clustered.ci_high == wilson_interval(0.0, 5)[1] > high


def test_flips_are_shares_of_what_the_base_had_right_and_wrong() -> None:
    before = {"a": 1.0, "b": 1.0, "c": 1.0, "d": 0.0, "e": 0.0}
    after = {"a": 0.0, "b": 1.0, "c": 1.0, "d": 1.0, "e": 0.0}
    own = {name: name for name in before}
    found = flips(before, after, own)
    assert found["forget_rate"].value.value == pytest.approx(1 / 3)
    assert found["gain_rate"].value.value == 0.5
    assert (found["forget_rate"].value.n_scored, found["forget_rate"].value.undefined) == (3, {forgetting.BASE_WRONG: 2})
    assert found["gain_rate"].value.undefined == {forgetting.BASE_RIGHT: 3}
    assert set(flips({"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 0.0}, own)) == {"forget_rate"}


def test_increases_are_told_by_kind() -> None:
    found = increase({"page/0": 1.0, "page/1": 2.0, "review/0": 1.0}, {"page/0": 2.0, "page/1": 5.0, "review/0": 0.5})
    assert by_kind(found.items) == {"page": 2.0, "review": -0.5}
    assert found.value.value == pytest.approx(3.5 / 3)


# ---------------------------------------------------------------------------------------------- the probe


def test_what_tuning_has_cost_is_the_difference_of_before_and_after(
    context_of: Callable[..., Context], probed: Callable[..., ProbeResult]
) -> None:
    context = context_of(LORA)
    value = {name: v.value for name, v in probed(context, "forgetting", **SMALL).values.items()}
    assert value["known_recall_drop"] == pytest.approx(value["base_known_recall"] - value["after_known_recall"])
    assert value["skill_drop"] == pytest.approx(value["base_few_shot_skill"] - value["after_few_shot_skill"])
    assert value["prose_nats_increase"] == pytest.approx(value["after_prose_nats"] - value["base_prose_nats"])
    assert value["behavioural_recall_drop"] == pytest.approx(value["base_known_recall"] - value["behavioural_known_recall"])
    assert value["kl_to_base"] > 0 < value["reverse_kl_to_base"]


def test_a_higher_learning_rate_forgets_more(context_of: Callable[..., Context], probed: Callable[..., ProbeResult]) -> None:
    gentle = probed(context_of({"tuning": LORA["tuning"] | {"learning_rate": 1e-4}}), "forgetting", **SMALL).values
    harsh = probed(context_of({"tuning": LORA["tuning"] | {"learning_rate": 5e-2, "epochs": 4}}), "forgetting", **SMALL).values
    for name in ("known_recall_drop", "prose_nats_increase", "kl_to_base"):
        assert harsh[name].value > gentle[name].value
    assert gentle["kl_to_base"].value < 0.1


def test_without_training_no_difference_is_made_up(context_of: Callable[..., Context], probed: Callable[..., ProbeResult]) -> None:
    result = probed(context_of({}), "forgetting", **SMALL)
    assert set(result.values) == {
        "base_known_recall", "base_few_shot_skill", "base_prose_nats", "behavioural_known_recall", "behavioural_recall_drop",
    }  # fmt: skip
    assert "nothing was trained" in result.details["weights"]


def test_behaviour_is_asked_with_the_strategys_passages(context_of: Callable[..., Context]) -> None:
    context = context_of({"retrieval": {"search": "lexical"}})
    asked = questions(random.Random(5), 6)
    seen: list[str] = []
    answer = context.ready.answer

    def spy(requests: Any, done: Any = ()) -> Any:
        seen.extend(r.prompt.messages[-1]["content"] for r in requests)
        return answer(requests, done)

    context.ready.answer = spy  # type: ignore[method-assign]
    with context.ready.meter.phase("probe"):
        said = forgetting.behavioural(context, asked)
    del context.ready.answer
    assert list(said) == [q.id for q in asked]
    assert all(
        q.text in prompt and context.cell.task.instruction in prompt and "[1]" in prompt for q, prompt in zip(asked, seen, strict=True)
    )


def test_a_task_that_asks_no_questions_has_no_behavioural_recall(
    context_of: Callable[..., Context], probed: Callable[..., ProbeResult]
) -> None:
    result = probed(context_of({}, task="ticket_triage"), "forgetting", **SMALL)
    assert "behavioural_known_recall" not in result.values
    assert result.details["left_out"] == {"behavioural_known_recall": forgetting.NOT_ASKED}


def test_a_base_of_another_pretraining_has_no_known_facts_to_lose(
    context_of: Callable[..., Context], probed: Callable[..., ProbeResult], tmp_path: Path
) -> None:
    model = LanguageModel(locate("embedded"))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.network.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.02)
    model.network.save_pretrained(tmp_path / "other")
    model.tokenizer.save_pretrained(tmp_path / "other")
    result = probed(context_of(LORA, limit=4, train_examples=8, model=str(tmp_path / "other")), "forgetting", **SMALL)
    assert not [name for name in result.values if "recall" in name or name in ("forget_rate", "gain_rate")]
    assert result.details["left_out"] == {"known_recall": forgetting.NOT_KNOWN}
    assert result.details["base_known_recall"] < forgetting.KNOWS
    assert result.values["base_prose_nats"].value == pytest.approx(np.log(model.network.config.vocab_size), abs=0.5)
    assert {"skill_drop", "prose_nats_increase", "kl_to_base"} <= set(result.values)


def test_every_strategy_and_seed_gets_the_same_items(context_of: Callable[..., Context]) -> None:
    found = []
    for settings, seed in (({}, 0), (LORA, 1)):
        context = context_of(settings, seed=seed)
        context.cell.probes["forgetting"] = SMALL
        with context.ready.meter.phase("probe"):
            found.append(run_probe("forgetting", context)[1])
    for name in ("base_known_recall", "base_few_shot_skill", "base_prose_nats"):
        assert found[0][name] == pytest.approx(found[1][name], abs=1e-5)


@pytest.mark.parametrize(
    ("task", "strategy", "reason"),
    [("product_support", "always-abstain", "asks no model"), ("ticket_triage", "features", "classifier on the model's states")],
)
def test_where_forgetting_has_no_meaning_the_reason_is_given(task: str, strategy: str, reason: str) -> None:
    cell = expand(Suite(tasks=[task], strategies=[strategy], seeds=[0]), locate("embedded"))[0]
    for name in ("forgetting", "forgetting-curve"):
        assert reason in (get(name)().not_applicable(cell) or "")


def test_an_encoder_has_nothing_to_forget() -> None:
    cell = expand(Suite(tasks=["ticket_triage"], strategies=["full"], seeds=[0]), locate("all-MiniLM-L6-v2"))[0]
    assert "encoder" in (get("forgetting")().not_applicable(cell) or "")


# ---------------------------------------------------------------------------------------------- the curve

CURVE = [
    Checkpoint(0.0, 0.2),
    Checkpoint(1.0, 0.5, {"nats": {"a": 1.0, "b": 0.0}}),
    Checkpoint(2.0, 0.4, {"nats": {"a": 9.0, "b": 9.0}}),
    Checkpoint(3.0, 0.5, {"nats": {"a": 8.0, "b": 8.0}}),
    Checkpoint(4.0, 0.9, {"nats": {"a": 3.0, "b": -1.0}}),
]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (0.35, {"a": 0.5, "b": 0.0}),  # half way from the base, which has forgotten nothing
        (0.5, {"a": 1.0, "b": 0.0}),
        (0.7, {"a": 2.0, "b": -0.5}),  # half way between the two that were better than all before them
        (0.9, {"a": 3.0, "b": -1.0}),
    ],
)
def test_forgetting_at_a_score_is_interpolated_between_ever_better_checkpoints(target: float, expected: dict[str, float]) -> None:
    found = at_score(CURVE, target)
    assert not isinstance(found, str)
    assert found["nats"] == pytest.approx(expected)


def test_a_score_that_is_not_on_the_way_has_a_reason() -> None:
    assert at_score(CURVE, 0.2) == FROM_THE_START
    assert at_score(CURVE, 0.91) == NOT_REACHED
    assert at_score(CURVE[:1], 0.3) == NOT_REACHED


def test_a_training_is_measured_at_every_check(context_of: Callable[..., Context], probed: Callable[..., ProbeResult]) -> None:
    settings = {"tuning": {"method": "lora", "epochs": 3, "learning_rate": 5e-3}}
    context = context_of(settings, task="ticket_triage", train_examples=16)
    own = {n: p.clone() for n, p in context.ready.model.network.named_parameters() if p.requires_grad}
    result = probed(context, "forgetting-curve", checks=3, questions=12, texts=4, targets=[0.05, 0.1, 1.01])
    curve = result.details["trajectory"]
    assert [c["epochs"] for c in curve] == [0.0, 1.0, 2.0, 3.0]
    assert [set(c) - {"epochs", "validation_score"} for c in curve] == [set(), *[{"prose_nats_increase", "known_recall_drop"}] * 3]
    assert result.details["best_score"] == max(c["validation_score"] for c in curve[1:])
    best = next(c for c in curve[1:] if c["validation_score"] == result.details["best_score"])
    assert result.values["prose_nats_increase_at_best"].value == pytest.approx(best["prose_nats_increase"])
    assert result.details["left_out"]["at_1.01"] == NOT_REACHED
    first = next((c["validation_score"] for c in curve[1:] if c["validation_score"] > curve[0]["validation_score"]), 0.0)
    for target in (0.05, 0.1):
        measured = f"prose_nats_increase_at_{target}" in result.values
        assert measured is (f"at_{target}" not in result.details["left_out"])
        assert (target in result.details["before_the_first_check"]) is (measured and target < first)
    assert all(torch.equal(p, own[n]) for n, p in context.ready.model.network.named_parameters() if p.requires_grad)
    # Looking at a model on the way does not change what it becomes.
    assert curve[-1]["validation_score"] == pytest.approx(_score_at_the_end(context))


def _score_at_the_end(context: Context) -> float:
    once = context.ready.strategy.with_settings({"tuning.evaluations": 1})
    fitted, _ = context.refit(strategy=once)
    assert fitted.tuned
    return fitted.tuned.validation_score


@pytest.mark.parametrize(("strategy", "reason"), [("zero-shot", "nothing is trained"), ("dpo", "by preference")])
def test_where_a_curve_has_no_meaning_the_reason_is_given(strategy: str, reason: str) -> None:
    cell = expand(Suite(tasks=["ticket_triage"], strategies=[strategy], seeds=[0]), locate("embedded"))[0]
    assert reason in (get("forgetting-curve")().not_applicable(cell) or "")


def test_shots_that_do_not_fit_another_models_window_are_left_out(context_of: Callable[..., Context], probed: Callable[..., Any]) -> None:
    context = context_of({}, task="ticket_triage")
    model, window = context.ready.model, context.ready.model.window
    lengths = [len(ids) for ids in model.prompts_ids([s.messages for s in forgetting.sorts(context.random("forgetting/few-shot"), 20)])]
    try:
        model.window = sorted(lengths)[10] + 8
        some = probed(context, "forgetting", questions=4, sorts=20, texts=4)
        model.window = min(lengths) + 7
        none = probed(context, "forgetting", questions=4, sorts=20, texts=4)
    finally:
        model.window = window
    assert some.values["base_few_shot_skill"].n_scored == sum(n <= sorted(lengths)[10] for n in lengths)
    assert "base_few_shot_skill" not in none.values
    assert "do not fit" in none.details["left_out"]["few_shot_skill"]
    assert "base_prose_nats" in none.values
