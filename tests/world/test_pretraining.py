import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

from bench.world import pretrain
from bench.world.episodes import KINDS
from bench.world.pretrain import Batches, Stage, Trainer

STAGES = (
    Stage("repeat", {"repeat_block": 1.0}, 2, 48, "repeat_block", 200),
    Stage("mix", {"read": 0.5, "closed_book": 0.25, "classify": 0.25}, 2, 64),
)
ROWS_TOKENS = 2 * 64


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast) -> None:
    monkeypatch.setattr(pretrain, "STAGES", STAGES)
    monkeypatch.setattr(pretrain, "train_tokenizer", lambda: tokenizer)
    monkeypatch.setattr(pretrain, "CHECKPOINT_SECONDS", -1.0)  # a checkpoint after every step


def state(folder: Path) -> dict[str, object]:
    return {k: v for k, v in json.loads((folder / "state.json").read_text()).items() if k != "seconds"}


def log(folder: Path) -> list[dict[str, object]]:
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_resumed_run_equals_an_unbroken_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budget = 288 + 4 * ROWS_TOKENS  # three steps of the first stage, four of the second
    Trainer(tmp_path / "unbroken", seed=7).train(budget, log_every=1)

    whole = Batches.batch

    def interrupted(self: Batches, step: int, stage: Stage, levels: dict[str, int]) -> tuple[torch.Tensor, torch.Tensor]:
        if step == 5:
            raise KeyboardInterrupt
        return whole(self, step, stage, levels)

    with monkeypatch.context() as patch:
        patch.setattr(Batches, "batch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Trainer(tmp_path / "broken", seed=7).train(budget, log_every=1)
    assert state(tmp_path / "broken")["step"] == 5
    Trainer(tmp_path / "broken", seed=7).train(budget, log_every=1)

    assert state(tmp_path / "broken") == state(tmp_path / "unbroken")
    assert state(tmp_path / "unbroken")["step"] == 7
    assert state(tmp_path / "unbroken")["stage"] == 1
    assert log(tmp_path / "broken") == log(tmp_path / "unbroken")
    for name in ("model.safetensors", "optimizer.safetensors"):
        a, b = load_file(tmp_path / "broken" / name), load_file(tmp_path / "unbroken" / name)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[k], b[k]) for k in a), name


def names(batches: Batches, kinds: torch.Tensor) -> list[str | None]:
    return [None if k < 0 else batches.kinds[k] for k in kinds.flatten().tolist()]


def test_batches_depend_on_seed_and_step_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    levels = {"repeat_block": 0, "word_labels": 3, "classify": 3, "read": 3}
    a, b = Batches(tokenizer, 1), Batches(tokenizer, 1)
    for step in range(3):
        a.batch(step, STAGES[1], levels)  # `b` has made none of these
    ids_a, kinds_a = a.batch(9, STAGES[1], levels)
    ids_b, kinds_b = b.batch(9, STAGES[1], levels)
    assert ids_a.shape == (2, 64)
    assert torch.equal(ids_a, ids_b)
    assert names(a, kinds_a) == names(b, kinds_b)
    assert not torch.equal(ids_a, a.batch(8, STAGES[1], levels)[0])
    assert not torch.equal(ids_a, Batches(tokenizer, 2).batch(9, STAGES[1], levels)[0])


def test_dials_move_one_level_at_a_time_and_the_stage_after_the_last(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path)
    trainer.state.stage = 1
    trainer.state.accuracy = {"read_1": 0.86, "sort_few": 0.84, "word_label": 0.99}
    trainer._turn_dials()
    assert trainer.state.levels == {"repeat_block": 0, "word_labels": 0, "classify": 1, "read": 2}  # word_labels is not in this stage's mix
    assert "read_1" not in trainer.state.accuracy
    trainer._turn_dials()
    assert trainer.state.levels["read"] == 2, "a level needs its own accuracy"

    trainer.state.stage, trainer.state.stage_tokens = 0, 100
    trainer._turn_dials()
    assert trainer.state.stage == 0
    trainer.state.accuracy["repeat"] = 0.9
    trainer._turn_dials()
    assert (trainer.state.stage, trainer.state.stage_tokens) == (1, 0)
    trainer._turn_dials()
    assert trainer.state.stage == 1, "the last stage has no end"


def test_a_stage_ends_at_its_token_limit(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path)
    trainer.state.stage_tokens = 201
    trainer._turn_dials()
    assert trainer.state.stage == 1


def test_learning_rate_warms_up_stays_and_falls(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path, learning_rate=1.0)
    rates = []
    for step, tokens in ((0, 0), (99, 0), (199, 0), (5000, 500), (5000, 750), (5000, 875), (5000, 1000)):
        trainer.state.step, trainer.state.tokens = step, tokens
        rates.append(trainer._rate(1000))
    assert rates == pytest.approx([1 / 200, 0.5, 1, 1, 1, 0.5, 0.02])


@pytest.mark.parametrize("kind", KINDS)
def test_episodes_are_deterministic_and_supervise_something(kind: str) -> None:
    a, b = random.Random(4), random.Random(4)
    for _ in range(5):
        episode = KINDS[kind](a, 3)
        assert episode == KINDS[kind](b, 3)
        assert any(name is not None for _, name in episode.segments[1:])
