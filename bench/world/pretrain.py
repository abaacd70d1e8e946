"""Pretraining of the embedded base model, from scratch, on the world's episodes.

A curriculum comes first (repeated words, then words with labels, then labelled messages), because the ability to map fresh
labels in context did not emerge from the mix alone in a prototype; then the mix, with a share of the curriculum kept.
A *dial* is the difficulty of one kind of episode; it moves up when the model's running accuracy on it passes `DIAL_UP`.

The learning rate is constant after warm-up and falls linearly over the last `DECAY_SHARE` of the token budget, so that a
run can be resumed with a larger budget.
"""

from __future__ import annotations

import json
import math
import random
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bench.world.entities import WORLD_SEED
from bench.world.episodes import END, KINDS
from bench.world.tokenizer import WINDOW, train_tokenizer

DIAL_UP, DECAY_SHARE, WARMUP_STEPS = 0.85, 0.25, 200
BACKGROUND_WEIGHT, BACKGROUND_SAMPLE = 0.25, 0.1
CHECKPOINT_SECONDS = 240.0


@dataclass(frozen=True)
class Stage:
    """One stage: what the batches are made of, and when the next stage begins."""

    name: str
    mix: dict[str, float]
    rows: int
    length: int
    done: str | None = None  # the dial that has to be at its top and past DIAL_UP
    max_tokens: float = math.inf


# kind of episode -> (levels, name of the accuracy that moves it; {level} is the current level)
DIALS: dict[str, tuple[tuple[int, ...], str]] = {
    "repeat_block": ((0,), "repeat"),
    "word_labels": ((0, 1, 2, 3, 4, 5, 6), "word_label"),
    "classify": ((1, 2, 3), "sort_few"),
    "read": ((1, 2, 3, 5), "read_{level}"),
}

STAGES = (
    Stage("repeat", {"repeat_block": 1.0}, 8, 256, "repeat_block", 8e6),
    Stage("labels", {"word_labels": 0.75, "repeat_block": 0.25}, 8, 256, "word_labels", 4e6),
    Stage("classify", {"classify": 0.7, "word_labels": 0.1, "repeat_block": 0.1, "read": 0.1}, 8, 512, "classify", 4e6),
    Stage(
        "mix",
        {"read": 0.50, "reason": 0.06, "classify": 0.16, "word_labels": 0.02, "repeat_block": 0.02, "known_prose": 0.06,
         "closed_book": 0.08, "summarize": 0.06, "extract": 0.04},
        12, WINDOW, max_tokens=14.485e6,
    ),
    # By now reading and mapping are learned, and writing (JSON, summaries) lags.
    Stage(
        "write",
        {"read": 0.26, "reason": 0.06, "classify": 0.12, "word_labels": 0.02, "repeat_block": 0.02, "known_prose": 0.06,
         "closed_book": 0.10, "summarize": 0.16, "extract": 0.20},
        12, WINDOW,
    ),
)


@dataclass
class State:
    """Where a run stands; saved with each checkpoint."""

    step: int = 0
    tokens: int = 0
    stage: int = 0
    stage_tokens: int = 0
    seconds: float = 0.0
    levels: dict[str, int] = field(default_factory=lambda: {k: levels[0] for k, (levels, _) in DIALS.items()})
    accuracy: dict[str, float] = field(default_factory=dict)


class Batches:
    """Makes batches of token ids and kinds from (seed, step) alone, so that a resumed run sees what an unbroken one would."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
        self.tokenizer, self.seed = tokenizer, seed
        self.kinds: list[str] = []
        self.cache: dict[str, list[int]] = {}

    def _ids(self, texts: list[str]) -> list[list[int]]:
        missing = [x for x in dict.fromkeys(texts) if x not in self.cache]
        if missing:
            if len(self.cache) > 200_000:
                self.cache.clear()
                missing = list(dict.fromkeys(texts))
            encoded = self.tokenizer(missing, add_special_tokens=False)["input_ids"]
            self.cache.update(zip(missing, encoded, strict=True))
        return [self.cache[x] for x in texts]

    def _kind(self, kind: str | None) -> int:
        if kind is None:
            return -1
        if kind not in self.kinds:
            self.kinds.append(kind)
        return self.kinds.index(kind)

    def row(self, rng: random.Random, mix: dict[str, float], levels: dict[str, int], length: int) -> tuple[list[int], list[int]]:
        """One row of `length` tokens: episodes drawn by `mix` one after the other, the last one cut."""
        ids: list[int] = []
        kinds: list[int] = []
        while len(ids) < length:
            name = rng.choices(list(mix), list(mix.values()))[0]
            level = levels.get(name, levels["read"])
            segments = KINDS[name](rng, level).segments
            for piece, (_, kind) in zip(self._ids([s for s, _ in segments]), segments, strict=True):
                ids += piece
                kinds += [self._kind(kind)] * len(piece)
        return ids[:length], kinds[:length]

    def batch(self, step: int, stage: Stage, levels: dict[str, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and kinds, each (rows, length)."""
        rng = random.Random(f"{self.seed}/{step}")
        rows = [self.row(rng, stage.mix, levels, stage.length) for _ in range(stage.rows)]
        return torch.tensor([r[0] for r in rows]), torch.tensor([r[1] for r in rows])


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """The untrained base: Llama architecture, 4 layers of width 192, tied embeddings."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=64 * math.ceil(len(tokenizer) / 64), hidden_size=192, intermediate_size=512, num_hidden_layers=4,
        num_attention_heads=6, num_key_value_heads=6, max_position_embeddings=WINDOW, tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def episode_loss(
    model: LlamaForCausalLM, ids: torch.Tensor, kinds: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Loss, and for each supervised position its kind, target and whether the model's first choice was right.

    Logits are computed only where they are used: at the supervised positions and a random tenth of the background.
    """
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    targets, kinds = ids[:, 1:], kinds[:, 1:]
    supervised = kinds >= 0
    background = ~supervised & (torch.rand(targets.shape, generator=generator) < BACKGROUND_SAMPLE)
    logits_s = model.lm_head(hidden[supervised]).float()
    loss = functional.cross_entropy(logits_s, targets[supervised])
    if background.any():
        loss = loss + BACKGROUND_WEIGHT * functional.cross_entropy(model.lm_head(hidden[background]).float(), targets[background])
    return loss, kinds[supervised], targets[supervised], logits_s.argmax(-1) == targets[supervised]


class Trainer:
    """The pretraining loop, resumable from its folder."""

    def __init__(self, folder: Path, seed: int = WORLD_SEED, learning_rate: float = 1.5e-3) -> None:
        self.folder, self.seed, self.learning_rate = folder, seed, learning_rate
        folder.mkdir(parents=True, exist_ok=True)
        self.state = State()
        if (folder / "state.json").exists():
            self.state = State(**json.loads((folder / "state.json").read_text()))
            self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
            self.model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
        else:
            self.tokenizer = train_tokenizer()
            self.model = new_model(self.tokenizer, seed)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.05, fused=True)
        if (folder / "optimizer.safetensors").exists():
            self._load_optimizer()
        self.batches = Batches(self.tokenizer, seed)

    def _load_optimizer(self) -> None:
        saved = load_file(self.folder / "optimizer.safetensors")
        for name, parameter in self.model.named_parameters():
            self.optimizer.state[parameter] = {k: saved[f"{name}/{k}"] for k in ("step", "exp_avg", "exp_avg_sq")}

    def save(self) -> None:
        """Write model, tokenizer, optimiser (all safetensors or JSON) and state."""
        self.model.save_pretrained(self.folder)
        self.tokenizer.save_pretrained(self.folder)
        tensors = {
            f"{n}/{k}": v.contiguous() for n, p in self.model.named_parameters() for k, v in self.optimizer.state[p].items()
        }
        save_file(tensors, self.folder / "optimizer.safetensors")
        (self.folder / "state.json").write_text(json.dumps(asdict(self.state), indent=1))

    def _rate(self, budget: float) -> float:
        warm = min(1.0, (self.state.step + 1) / WARMUP_STEPS)
        left = max(0.0, (budget - self.state.tokens) / (DECAY_SHARE * budget))
        return self.learning_rate * warm * min(1.0, max(left, 0.02))

    def _turn_dials(self) -> None:
        s, stage = self.state, STAGES[self.state.stage]
        passed: dict[str, bool] = {}
        for kind, (levels, metric) in DIALS.items():
            key = metric.format(level=s.levels[kind])
            passed[kind] = s.accuracy.get(key, 0.0) > DIAL_UP
            if passed[kind] and s.levels[kind] != levels[-1] and kind in stage.mix:
                s.levels[kind] = levels[levels.index(s.levels[kind]) + 1]
                s.accuracy.pop(key)
                passed[kind] = False
        at_top = stage.done is not None and passed[stage.done] and s.levels[stage.done] == DIALS[stage.done][0][-1]
        if at_top or s.stage_tokens > stage.max_tokens:
            s.stage, s.stage_tokens = s.stage + 1, 0

    def train(self, budget: float, log_every: int = 100) -> None:
        """Train until `budget` tokens were seen, logging to log.jsonl and saving as it goes."""
        s, end = self.state, self.tokenizer.convert_tokens_to_ids(END)
        generator = torch.Generator()
        began, last_save, losses = time.monotonic() - s.seconds, time.monotonic(), 0.0
        self.model.train()
        while s.tokens < budget:
            stage = STAGES[s.stage]
            for group in self.optimizer.param_groups:
                group["lr"] = self._rate(budget)
            ids, kinds = self.batches.batch(s.step, stage, s.levels)
            generator.manual_seed(self.seed + s.step)
            with torch.autocast("cpu", torch.bfloat16):
                loss, found, targets, right = episode_loss(self.model, ids, kinds, generator)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            s.step, s.tokens, s.stage_tokens = s.step + 1, s.tokens + ids.numel(), s.stage_tokens + ids.numel()
            losses += loss.item()
            content = targets != end
            for i, name in enumerate(self.batches.kinds):
                mask = (found == i) & content
                if n := int(mask.sum()):
                    keep = 0.98 ** min(n / 10, 10)  # an average over some hundreds of answers
                    s.accuracy[name] = keep * s.accuracy.get(name, 0.0) + (1 - keep) * right[mask].float().mean().item()
            self._turn_dials()
            if s.step % log_every == 0:
                s.seconds = time.monotonic() - began
                row = {
                    "step": s.step, "tokens": s.tokens, "stage": STAGES[s.stage].name, "levels": s.levels, "seconds": round(s.seconds, 1),
                    "learning_rate": round(self._rate(budget), 6), "loss": round(losses / log_every, 4),
                    "accuracy": {k: round(v, 3) for k, v in sorted(s.accuracy.items())},
                }  # fmt: skip
                with (self.folder / "log.jsonl").open("a") as log:
                    log.write(json.dumps(row) + "\n")
                print(json.dumps(row), flush=True)
                losses = 0.0
            if time.monotonic() - last_save > CHECKPOINT_SECONDS:
                s.seconds = time.monotonic() - began
                self.save()
                last_save = time.monotonic()
        s.seconds = time.monotonic() - began
        self.save()



def export(run: Path, target: Path) -> None:
    """Write a finished run as package data: 16-bit weights, tokenizer and log."""
    model = LlamaForCausalLM.from_pretrained(run, dtype=torch.float16)
    model.save_pretrained(target)
    PreTrainedTokenizerFast.from_pretrained(run).save_pretrained(target)
    rows = {row["step"]: row for row in map(json.loads, (run / "log.jsonl").read_text().splitlines())}
    # A resumed run logs some steps again; the later line is of the run that went on.
    (target / "training_log.jsonl").write_text("".join(json.dumps(rows[step]) + "\n" for step in sorted(rows)))
