import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.errors import BenchError
from bench.model.language_model import LanguageModel
from bench.model.source import EMBEDDED_FOLDER, locate
from bench.strategy import tuning as module
from bench.strategy.adapters import artifact_bytes, parameter_counts, restore, wrap
from bench.strategy.spec import TuningChoice
from bench.strategy.tuning import WINDOW, StepClock, Steps, _backward, balanced_weights, learning_rate_factor, length_grouped, tune


@pytest.fixture
def model() -> Any:
    torch.set_num_threads(1)
    return LanguageModel(locate("embedded"))


def pairs(model: Any, n: int = 8) -> list[tuple[list[int], int]]:
    messages = [[{"role": "user", "content": f"What is the color of Zorba {'Pro ' * i}?"}] for i in range(n)]
    return [model.training_ids(m, "red" if i % 2 else "blue") for i, m in enumerate(messages)]


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.network.named_parameters()}


def test_the_loss_is_the_mean_over_completion_tokens_of_single_rows(model: Any) -> None:
    batch = pairs(model, 4)
    with torch.no_grad():
        together = model.loss(batch).item()
        nats, n_tokens = 0.0, 0
        for ids, n in batch:
            logits = model.network(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
            nats -= sum(logits[i - 1, ids[i]].item() for i in range(n, len(ids)))
            n_tokens += len(ids) - n
    assert together == pytest.approx(nats / n_tokens, abs=1e-4)


def test_lora_moves_adapters_and_leaves_the_base_alone(model: Any) -> None:
    wrap(model, TuningChoice(method="lora", r=4), 0)
    before = weights(model)
    tune(model, TuningChoice(method="lora", r=4, epochs=2, learning_rate=1e-2), pairs(model), lambda: 0.0, 0)
    moved = {n for n, w in weights(model).items() if not torch.equal(w, before[n])}
    assert moved
    assert all("lora_" in n for n in moved)
    total, trainable = parameter_counts(model, trained=True)
    # r (in + out) for the seven linear layers of each of the four blocks (Hu et al. 2021)
    assert trainable == 4 * 4 * (4 * (192 + 192) + 3 * (192 + 512))
    assert total > trainable


def test_full_fine_tuning_moves_every_weight(model: Any) -> None:
    choice = TuningChoice(method="full", epochs=2, learning_rate=1e-3)
    wrap(model, choice, 0)
    before = weights(model)
    tune(model, choice, pairs(model), lambda: 0.0, 0)
    assert all(not torch.equal(w, before[n]) for n, w in weights(model).items())
    total, trainable = parameter_counts(model, trained=True)
    assert total == trainable == sum(w.numel() for w in before.values())


def test_training_fits_the_answers(model: Any) -> None:
    choice = TuningChoice(method="full", epochs=12, evaluations=1, learning_rate=1e-3)
    wrap(model, choice, 0)
    data = pairs(model)
    with torch.no_grad():
        before = model.loss(data).item()
    tune(model, choice, data, lambda: 1.0, 0)
    with torch.no_grad():
        assert model.loss(data).item() < before / 2


def test_the_best_checkpoint_is_kept_and_training_stops_early(model: Any) -> None:
    choice = TuningChoice(method="lora", epochs=8, evaluations=8, patience=2, learning_rate=1e-2)
    wrap(model, choice, 0)
    scores, seen = iter([0.2, 0.9, 0.5, 0.4, 0.8]), []

    def evaluate() -> float:
        seen.append(weights(model))
        return next(scores)

    tuned = tune(model, choice, pairs(model), evaluate, 0)
    assert len(seen) == 4  # two evaluations after the best one
    assert (tuned.validation_score, tuned.epochs) == (0.9, 2.0)
    assert all(torch.equal(w, seen[1][n]) for n, w in weights(model).items())
    assert tuned.flops > 0


def test_trained_weights_can_be_put_back(model: Any) -> None:
    choice = TuningChoice(method="lora", epochs=1, learning_rate=1e-2)
    wrap(model, choice, 0)
    data = pairs(model)
    tuned = tune(model, choice, data, lambda: 1.0, 0)
    other = LanguageModel(locate("embedded"))
    wrap(other, choice, 5)
    restore(other, tuned.weights)
    with torch.no_grad():
        assert other.loss(data).item() == model.loss(data).item()


def test_the_same_seed_trains_the_same_weights() -> None:
    torch.set_num_threads(1)
    results = []
    for seed in (0, 0, 1):
        model = LanguageModel(locate("embedded"))
        choice = TuningChoice(method="lora", epochs=2, dropout=0.1)
        wrap(model, choice, seed)
        results.append(tune(model, choice, pairs(model), lambda: 1.0, seed).weights)
    assert all(torch.equal(results[0][n], results[1][n]) for n in results[0])
    assert any(not torch.equal(results[0][n], results[2][n]) for n in results[0])


def test_a_diverging_loss_is_an_error(model: Any) -> None:
    choice = TuningChoice(method="full", epochs=4, learning_rate=1e30, max_gradient_norm=1e30)
    wrap(model, choice, 0)
    with pytest.raises(BenchError, match="training diverged at step"):
        tune(model, choice, pairs(model), lambda: 0.0, 0)


def test_an_unknown_target_module_is_named(model: Any) -> None:
    with pytest.raises(BenchError, match=r"tuning\.targets.*no_such_layer"):
        wrap(model, TuningChoice(method="lora", targets=["no_such_layer"]), 0)


def test_an_example_over_the_window_is_refused(model: Any) -> None:
    with pytest.raises(BenchError, match="600 tokens exceeds the window"):
        tune(model, TuningChoice(method="full"), [([5] * 600, 10)], lambda: 0.0, 0)


def test_length_groups_cover_every_example_once_and_pad_little() -> None:
    rng = random.Random(1)
    lengths = [rng.randrange(10, 129) for _ in range(101)]
    batches = length_grouped(lengths, 8, random.Random(0))
    assert sorted(i for b in batches for i in b) == list(range(101))
    padded = sum(len(b) * max(lengths[i] for i in b) for b in batches)
    assert padded < 1.1 * sum(lengths)


def test_the_artifact_of_an_adapter_is_much_smaller_than_the_model(model: Any) -> None:
    wrap(model, TuningChoice(method="lora", r=4), 0)
    _, trainable = parameter_counts(model, trained=True)
    assert 4 * trainable < artifact_bytes(model) < 4 * trainable + 20_000


def test_training_stops_when_no_checkpoint_can_be_better(model: Any) -> None:
    choice = TuningChoice(method="lora", epochs=8, evaluations=8, learning_rate=1e-3)
    wrap(model, choice, 0)
    asked = []
    tuned = tune(model, choice, pairs(model), lambda: asked.append(1) or 1.0, 0)  # type: ignore[func-returns-value]
    assert (len(asked), tuned.epochs) == (1, 1.0)


def test_the_size_of_an_artifact_does_not_depend_on_the_models_path(model: Any, tmp_path: Path) -> None:
    folder = tmp_path / ("a_long_name" * 8)
    shutil.copytree(EMBEDDED_FOLDER, folder)
    other = LanguageModel(locate(str(folder)))
    for m in (model, other):
        wrap(m, TuningChoice(method="lora", r=4), 0)
    assert artifact_bytes(model) == artifact_bytes(other)


def test_the_learning_rate_warms_up_and_follows_its_schedule() -> None:
    def factors(schedule: str) -> list[float]:
        choice = TuningChoice(schedule=schedule, warmup_share=0.2)  # type: ignore[arg-type]
        return [learning_rate_factor(choice, step, 10) for step in range(10)]

    for schedule in ("linear", "cosine", "constant"):
        assert factors(schedule)[:3] == [0.5, 1.0, 1.0]
    assert factors("constant")[3:] == [1.0] * 7
    assert factors("linear")[6] == pytest.approx(0.5)
    assert factors("cosine")[6] == pytest.approx(0.5)
    assert factors("cosine")[4] > factors("linear")[4]


def test_balanced_weights_give_each_label_the_same_mass() -> None:
    found = balanced_weights(["a", "a", "a", "b"])
    assert found == pytest.approx([2 / 3] * 3 + [2.0])
    assert sum(found) == pytest.approx(4)


@pytest.mark.parametrize("given", [None, [1.0, 3.0, 0.5, 2.0, 1.0, 1.0, 4.0, 1.0]])
def test_a_batch_in_parts_has_the_gradients_of_the_whole(model: Any, given: list[float] | None) -> None:
    model.network.requires_grad_(True)
    data = [(ids, n) for i in range(8) for ids, n in [model.training_ids([{"role": "user", "content": "a " * i}], "red " * (i % 3 + 1))]]
    gradients = []
    for parts in (1, 3):
        model.network.zero_grad()
        _backward(model, data, given, parts)
        gradients.append({n: p.grad.clone() for n, p in model.network.named_parameters()})
    assert all(torch.allclose(gradients[0][n], gradients[1][n], atol=1e-5) for n in gradients[0])


def test_checkpointing_gives_the_same_weights(model: Any) -> None:
    trained = []
    for wanted in (False, True):
        fresh = LanguageModel(locate("embedded"))
        choice = TuningChoice(method="lora", epochs=1, evaluations=1, gradient_checkpointing=wanted)
        wrap(fresh, choice, 0)
        trained.append(tune(fresh, choice, pairs(fresh), lambda: 0.5, 0).weights)
        assert not fresh.network.is_gradient_checkpointing
    assert all(torch.allclose(trained[0][n], trained[1][n], atol=1e-6) for n in trained[0])


def test_mixed_precision_trains_float32_weights(model: Any) -> None:
    choice = TuningChoice(method="full", epochs=6, evaluations=1, learning_rate=1e-3)
    model.compute_dtype = torch.bfloat16
    wrap(model, choice, 0)
    data = pairs(model)
    with torch.no_grad():
        before = model.loss(data).item()
    tune(model, choice, data, lambda: 0.5, 0)
    assert all(p.dtype == torch.float32 for p in model.network.parameters())
    with torch.no_grad():
        assert model.loss(data).item() < before / 2


def test_weights_of_a_base_in_half_precision_move_in_float32(model: Any) -> None:
    model.network.to(torch.bfloat16)
    model.compute_dtype = torch.bfloat16
    choice = TuningChoice(method="full", epochs=1, evaluations=1)
    wrap(model, choice, 0)
    tune(model, choice, pairs(model), lambda: 0.5, 0)
    assert all(p.dtype == torch.float32 for p in model.network.parameters())


def test_nothing_to_train_on_is_an_error(model: Any) -> None:
    choice = TuningChoice(method="lora")
    wrap(model, choice, 0)
    with pytest.raises(BenchError, match="no training example"):
        tune(model, choice, [], lambda: 0.5, 0)


def test_without_epochs_no_weight_moves(model: Any) -> None:
    choice = TuningChoice(method="full", epochs=0, learning_rate=1e-2)
    wrap(model, choice, 0)
    before = weights(model)
    tuned = tune(model, choice, pairs(model), lambda: 0.25, 0)
    assert (tuned.validation_score, tuned.epochs, tuned.flops) == (0.25, 0.0, 0.0)
    assert all(torch.equal(w, before[n]) for n, w in weights(model).items())


# ---------------------------------------------------------------------------------------------------- steps and memory


def test_steps_are_counted_in_tokens_with_and_without_padding(model: Any) -> None:
    choice = TuningChoice(method="lora", epochs=3, evaluations=1, batch_size=4)
    wrap(model, choice, 0)
    data = pairs(model, 6)
    lengths = sorted(len(ids) for ids, _ in data)
    assert lengths == [lengths[0] + i for i in range(6)], "each question has a word more"
    steps = tune(model, choice, data, lambda: 0.5, 0).steps
    # Of about equal length: the four short ones in a batch and the two long ones in another, in each epoch.
    assert (steps.n_steps, steps.n_tokens) == (6, 3 * sum(lengths))
    assert steps.n_padded_tokens == 3 * (4 * lengths[3] + 2 * lengths[5])
    assert steps.n_target_tokens == 3 * sum(len(ids) - n for ids, n in data)
    assert steps.longest_batch == (4, lengths[3])
    assert steps.rates == []
    assert steps.reading is not None
    assert steps.reading.tokens_per_second is None, "six steps are too few to tell"


def test_of_a_batch_in_parts_the_longest_part_counts(model: Any) -> None:
    choice = TuningChoice(method="lora", epochs=1, evaluations=1, batch_size=8, accumulate=4)
    wrap(model, choice, 0)
    data = pairs(model)
    lengths = sorted(len(ids) for ids, _ in data)
    steps = tune(model, choice, data, lambda: 0.5, 0).steps
    assert (steps.n_steps, steps.longest_batch) == (1, (2, lengths[-1]))
    assert steps.n_padded_tokens == 2 * sum(lengths[1::2])


def test_without_a_step_there_is_nothing_to_read(model: Any) -> None:
    choice = TuningChoice(method="full", epochs=0)
    wrap(model, choice, 0)
    tuned = tune(model, choice, pairs(model), lambda: 0.25, 0)
    assert tuned.steps.reading is None
    assert (tuned.held["gradients"], tuned.held["optimizer"], tuned.held["activations"]) == (0, 0, 0)
    assert Steps().reading is None


def test_the_steps_of_two_trainings_add_up() -> None:
    one, other = Steps(20, 100, 120, 30, (4, 8), [10.0]), Steps(40, 300, 310, 90, (5, 6), [40.0, 20.0, 90.0])
    both = one + other
    assert both == Steps(60, 400, 430, 120, (4, 8), [10.0, 40.0, 20.0, 90.0])
    assert both.reading is not None
    assert both.reading.tokens_per_second == 30.0, "the median of all windows"
    assert Steps() + one == one


def test_rates_leave_out_the_first_steps_and_what_is_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    steps = Steps()
    clock = StepClock(steps)
    for step in range(1, 3 * WINDOW + 6):
        steps.add(2, 50, 100 if step <= 20 else 50, 1)
        now[0] += 60.0 if step <= WINDOW else 0.5
        clock.tick()
        if step in (4, 15, WINDOW * 2):
            with clock.paused():
                now[0] += 1000.0
    assert steps.n_steps == 35
    # Windows of steps 11 to 20 and 21 to 30, 100 and 50 tokens in half a second; the last five fill none.
    assert steps.rates == [200.0, 100.0]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_training_tells_what_it_held(model: Any, method: Any) -> None:
    choice = TuningChoice(method=method, r=4, epochs=1, evaluations=1)
    wrap(model, choice, 0)
    data = pairs(model)
    total, trainable = parameter_counts(model, trained=True)
    held = tune(model, choice, data, lambda: 0.5, 0).held
    n_tensors = sum(p.requires_grad for p in model.network.parameters())
    buffers = sum(b.nbytes for b in model.network.buffers())
    assert held["weights"] == 4 * total + buffers
    assert held["gradients"] == 4 * trainable
    assert held["optimizer"] == 2 * 4 * trainable + 4 * n_tensors
    rows, width = 8, max(len(ids) for ids, _ in data)
    # At least the input of each linear layer: 192 numbers a token, 512 before the last one of a block.
    assert held["activations"] > 4 * rows * width * 4 * (2 * 192 + 512)
    with torch.no_grad():
        logits = model.completion_logits(data)[0].nbytes
    assert held["activations"] > logits


def test_only_steps_heavier_than_all_before_them_are_looked_into(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []
    counting = module.SavedForBackward.counting

    def spy(self: Any) -> Any:
        counted.append(1)
        return counting(self)

    monkeypatch.setattr(module.SavedForBackward, "counting", spy)
    choice = TuningChoice(method="lora", epochs=20, evaluations=1, batch_size=8)
    wrap(model, choice, 0)
    assert tune(model, choice, pairs(model), lambda: 0.5, 0).steps.n_steps == 20
    assert len(counted) == 1, "all batches are as long"


@pytest.mark.parametrize("method", ["lora", "full"])
def test_counting_changes_no_weight(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    trained = []
    for counted in (True, False):
        if not counted:
            monkeypatch.setattr(module, "_count", lambda model, part, steps: False)
        model = LanguageModel(locate("embedded"))
        choice = TuningChoice(method=method, epochs=2, evaluations=1, dropout=0.1 if method == "lora" else 0.0, batch_size=2)
        wrap(model, choice, 0)
        tuned = tune(model, choice, pairs(model), lambda: 0.5, 0)
        assert (tuned.held["activations"] > 0) == counted
        trained.append(tuned.weights)
    assert all(torch.equal(trained[0][n], trained[1][n]) for n in trained[0])


def test_checkpointing_keeps_less(model: Any) -> None:
    held = []
    for wanted in (False, True):
        fresh = LanguageModel(locate("embedded"))
        choice = TuningChoice(method="lora", epochs=1, evaluations=1, gradient_checkpointing=wanted)
        wrap(fresh, choice, 0)
        held.append(tune(fresh, choice, pairs(fresh), lambda: 0.5, 0).held["activations"])
    assert 0 < held[1] < held[0] / 3
