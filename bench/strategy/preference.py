"""Training by preference or by reward with trl's trainers (DPO, GRPO, RLOO), under the rules of `bench.strategy.tuning`."""

from __future__ import annotations

import math
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PrinterCallback, TrainerCallback
from transformers.utils import logging

from bench.cost.flops import ModelShape, forward_flops, generation_flops, shape_of, training_flops
from bench.cost.memory import SavedForBackward, gradients_bytes, weights_bytes
from bench.errors import BenchError
from bench.metric.text import normalize
from bench.model.conversation import Message
from bench.model.language_model import LanguageModel
from bench.strategy.spec import TuningChoice
from bench.strategy.tuning import BestCheckpoint, StepClock, Steps, Tuned, gradient_checkpointing, held_bytes, learning_rate_factor

Reward = Callable[[Sequence[int], Sequence[str]], list[float]]
"""The task's primary metric, 0 to 1, of texts as answers to the training examples at these indices."""

RIGHT = 0.999
"""An answer with this reward is right: there is nothing to prefer to it."""
ANSWER_WEIGHT = 1.0
"""Of the right answers' likelihood beside DPO's loss (Pang et al. 2024, arXiv 2404.19733), which alone lowers that of both answers."""
SAMPLES_FOR_WRONG = 2
"""How often the model is asked again, at temperature 1, where it has not given a wrong answer yet."""
SAMPLING_BATCH = 64
"""Prompts that are sampled for at a time. Fixed, since what is drawn depends on it."""


def preference_rows(
    model: LanguageModel, choice: TuningChoice, asked: Sequence[Sequence[Message]], targets: Sequence[str], reward: Reward,
    max_new_tokens: int, seed: int,
) -> tuple[list[dict[str, Any]], float]:  # fmt: skip
    """What `tune_by_preference` trains on, and the operations that making it took.

    ``dpo``: pairs of `targets` and wrong answers of the model's own (`preference_pairs`). Else prompts, whose answers are sampled in
    training. Raises `BenchError` for an example that exceeds the window or nothing to train on.
    """
    _trl()  # before the model is asked anything
    if not asked:
        raise BenchError("tuning: found no training example; expected at least one")
    if choice.objective == "dpo":
        return preference_pairs(model, asked, targets, reward, max_new_tokens, seed)
    prompts = [model.prompt_ids(messages) for messages in asked]
    _check_window(model, max(map(len, prompts)) + max_new_tokens)
    return [{"prompt": ids, "index": i} for i, ids in enumerate(prompts)], 0.0


def tune_by_preference(
    model: LanguageModel, choice: TuningChoice, rows: Sequence[dict[str, Any]], reward: Reward, max_new_tokens: int,
    evaluate: Callable[[], float], seed: int, on_step: Callable[[int, int], None] | None = None,
) -> Tuned:  # fmt: skip
    """Train the wrapped `model` on `rows` (of `preference_rows`) by `choice.objective` and keep the best checkpoint, as
    `bench.strategy.tuning.tune` does.

    ``dpo`` (Rafailov et al. 2023, arXiv 2305.18290): right answers are preferred to wrong ones of the model's own. ``grpo`` (Shao
    et al. 2024, arXiv 2402.03300) and ``rloo`` (Ahmadian et al. 2024, arXiv 2402.14740): `choice.samples` answers to each prompt,
    sampled at temperature 1, are compared by `reward`. A batch holds `choice.batch_size` pairs or prompts. The reference is the
    model as it is at the start. Dropout is off, as trl has it. Raises `BenchError` for a method that trl cannot train, or a
    gradient that is not finite.
    """
    trl = _trl()
    shape, dpo, flops = shape_of(model.network), choice.objective == "dpo", 0.0
    specific: dict[str, Any] = {}
    if dpo:
        settings: dict[str, Any] = {"max_length": None, "loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, ANSWER_WEIGHT]}
        if not hasattr(model.network, "peft_config"):
            specific["ref_model"] = deepcopy(model.network).requires_grad_(False)
    else:
        ends = _answer_ends(model)
        settings = {"num_generations": choice.samples, "max_completion_length": max_new_tokens, "temperature": 1.0}
        settings |= {"generation_kwargs": {"eos_token_id": ends}}
        if choice.objective == "grpo":
            settings |= {"loss_type": "grpo"}  # as published: answers weigh the same whatever their length
        # Forward passes beside the training step: the reference's, and for RLOO the policy's own.
        passes = (choice.beta > 0) + (choice.objective == "rloo")

        def rate(prompts: Sequence[list[int]], completion_ids: Sequence[list[int]], index: Sequence[int], **_: Any) -> list[float]:
            nonlocal flops
            for prompt, ids in zip(prompts, completion_ids, strict=True):
                flops += generation_flops(shape, len(prompt), len(ids)) + _step_flops(shape, len(prompt), len(ids), passes)
            return reward(index, [model.answer(ids)[0] for ids in completion_ids])

        specific["reward_funcs"] = rate
    size = min(choice.batch_size, len(rows))
    per_epoch = math.ceil(len(rows) / size) if dpo else len(rows) // size  # trl leaves out prompts that do not fill a batch
    total = per_epoch * choice.epochs
    moving = [p for p in model.network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(moving, lr=choice.learning_rate, weight_decay=choice.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(choice, step, total))
    watch = _Watch(model, choice, BestCheckpoint(model, evaluate, choice.patience), per_epoch, on_step, SavedForBackward(model.network))
    with tempfile.TemporaryDirectory() as folder, _borrowed(model), gradient_checkpointing(model, choice.gradient_checkpointing):
        settings |= _settings(model, choice, size, total) | {"output_dir": folder, "seed": seed}
        trainer = _trainer(trl, model, choice, settings, rows, watch, optimizers=(optimizer, schedule), **specific)
        if not dpo:
            trainer.eos_token_ids = ends
        for parameter in moving:
            parameter.data = parameter.data.float()  # after trl, which turns adapters over a 4-bit base to 16 bits
        trainer.train()
        # While the reference is there: an adapter's copy within the network, or a network of its own.
        weights = sum(weights_bytes(network) for network in (model.network, trainer.ref_model) if network is not None)
        held = held_bytes(model, optimizer, watch.saved) | {"weights": weights, "gradients": watch.gradients}
    if dpo:
        steps = [_step_flops(shape, len(row["prompt_ids"]), len(row[key]), 1) for row in rows for key in ("chosen_ids", "rejected_ids")]
        flops += sum(steps) * watch.steps.n_steps / per_epoch
    return watch.checkpoint.restored(flops, watch.steps, held)


def _step_flops(shape: ModelShape, prompt: int, answer: int, passes: int) -> int:
    """Operations of a training step on one answer and of `passes` forward passes beside it."""
    forward = forward_flops(shape, prompt + answer, logits_tokens=answer)
    return training_flops(shape, prompt + answer, logits_tokens=answer) + passes * forward


def _check_window(model: LanguageModel, tokens: int) -> None:
    if tokens > model.window:
        raise BenchError(f"a prompt and its answer of {tokens} tokens exceed the window of {model.source.name}, {model.window}")


def _answer_ends(model: LanguageModel) -> list[int]:
    """The tokens that end a sampled answer; without a chat template, the end of its line among them."""
    line = model.training_ids([{"role": "user", "content": ""}], "")[0][-1:] if model.line_ends_answer else []
    return sorted({*model.end_ids, *line})


# ---------------------------------------------------------------------------------------------------- pairs


def preference_pairs(
    model: LanguageModel, asked: Sequence[Sequence[Message]], targets: Sequence[str], reward: Reward, max_new_tokens: int, seed: int
) -> tuple[list[dict[str, Any]], float]:
    """Token ids of prompts, right answers and the model's own wrong ones; and the operations that asking it took.

    The wrong answer is the greedy one, or else one of two that are sampled at temperature 1; a prompt to which none is wrong is
    left out. An answer that is empty or normalises to the target's text is none. Raises `BenchError` where nothing remains.
    """
    prompts = [model.prompt_ids(messages) for messages in asked]
    shape, flops = shape_of(model.network), 0.0
    wrong: dict[int, str] = {}
    model.network.eval()
    torch.manual_seed(seed)
    for answers in (_greedy, *[_sampled] * SAMPLES_FOR_WRONG):
        left = [i for i in range(len(prompts)) if i not in wrong]
        if not left:
            break
        found = answers(model, [prompts[i] for i in left], max_new_tokens)
        flops += sum(generation_flops(shape, len(prompts[i]), n) for i, (_, n) in zip(left, found, strict=True))
        texts = [text for text, _ in found]
        for i, text, value in zip(left, texts, reward(left, texts), strict=True):
            if value < RIGHT and normalize(text) not in ("", normalize(targets[i])):
                wrong[i] = text
    if not wrong:
        raise BenchError("tuning.objective dpo: the base model answers all training prompts right: no wrong answers to prefer against")
    rows = []
    for i, text in sorted(wrong.items()):
        (chosen, n), (rejected, _) = model.training_ids(asked[i], targets[i]), model.training_ids(asked[i], text)
        _check_window(model, max(len(chosen), len(rejected)))
        rows.append({"prompt_ids": chosen[:n], "chosen_ids": chosen[n:], "rejected_ids": rejected[n:]})
    return rows, flops


def _greedy(model: LanguageModel, prompts: Sequence[list[int]], max_new_tokens: int) -> list[tuple[str, int]]:
    found = dict(answer for batch in model.generate(prompts, max_new_tokens) for answer in batch)
    return [(found[i].text, found[i].completion_tokens) for i in range(len(prompts))]


@torch.inference_mode()
def _sampled(model: LanguageModel, prompts: Sequence[list[int]], max_new_tokens: int) -> list[tuple[str, int]]:
    answers: list[tuple[str, int]] = []
    for start in range(0, len(prompts), SAMPLING_BATCH):
        batch = prompts[start : start + SAMPLING_BATCH]
        width = max(len(ids) for ids in batch)
        ids = torch.tensor([[model.pad_id] * (width - len(row)) + row for row in batch], device=model.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in batch], device=model.device)
        sampling = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": max_new_tokens}
        with model.autocast():
            out = model.network.generate(input_ids=ids, attention_mask=mask, **sampling)
        answers += [model.answer(row) for row in out[:, width:].tolist()]
    return answers


# ---------------------------------------------------------------------------------------------------- trl


class _TokensAsGiven:
    """Mixed into trl's trainers: they tokenise nothing themselves, are watched, and report their use to nobody."""

    watch: _Watch

    def compute_loss(self, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
        with self.watch.forward(inputs):
            return super().compute_loss(model, inputs, *rest, **more)  # type: ignore[misc]

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return prompts, None, {}

    def _send_telemetry(self) -> None:
        return


@dataclass
class _Watch(TrainerCallback):
    """Evaluates when it is due, stops where nothing better comes, refuses a gradient that is not finite, and counts the steps."""

    model: LanguageModel
    choice: TuningChoice
    checkpoint: BestCheckpoint
    per_epoch: int
    on_step: Callable[[int, int], None] | None
    saved: SavedForBackward
    gradients: int = 0
    """Bytes of them."""
    steps: Steps = field(default_factory=Steps)

    def __post_init__(self) -> None:
        self.clock = StepClock(self.steps)

    def forward(self, inputs: Mapping[str, torch.Tensor]) -> AbstractContextManager[None]:
        """The context of a forward pass over what trl has made of a batch, or of a part of it."""
        if "input_ids" in inputs:
            real, (rows, width) = inputs["attention_mask"].sum(), inputs["input_ids"].shape
        else:
            real = inputs["prompt_mask"].sum() + inputs["completion_mask"].sum()
            rows, width = len(inputs["prompt_ids"]), inputs["prompt_ids"].shape[1] + inputs["completion_ids"].shape[1]
        heaviest = self.steps.add(rows, width, int(real), int(inputs["completion_mask"].sum()))
        return self.saved.counting() if heaviest else nullcontext()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not all(p.grad.isfinite().all() for p in self.model.network.parameters() if p.grad is not None):
            step, rate = state.global_step + 1, self.choice.learning_rate
            raise BenchError(f"training diverged at step {step} (learning rate {rate}): the gradient is not finite")
        self.gradients = gradients_bytes(self.model.network)
        self.clock.tick()  # looking at the gradients has waited for the device

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step, n = state.global_step, self.choice.evaluations
        if self.on_step:
            self.on_step(step, state.max_steps)
        if step in {round(state.max_steps * (i + 1) / n) for i in range(n)}:
            with self.clock.paused():
                control.should_training_stop |= self.checkpoint.check(step / self.per_epoch)
            self.model.network.train()


def _trl() -> Any:
    try:
        import trl
    except ImportError as error:
        raise BenchError("tuning.objective: needs trl; pip install 'adaptation-bench[preference]'") from error
    return trl


def _settings(model: LanguageModel, choice: TuningChoice, size: int, total: int) -> dict[str, Any]:
    """What trl's configurations share, for steps of `size` pairs or prompts."""
    rows = size if choice.objective == "dpo" else size * choice.samples
    parts = next((k for k in range(choice.accumulate, rows) if rows % k == 0), rows)
    return {
        "max_steps": total, "per_device_train_batch_size": rows // parts, "gradient_accumulation_steps": parts, "beta": choice.beta,
        "max_grad_norm": choice.max_gradient_norm, "gradient_checkpointing": False, "bf16": model.compute_dtype == torch.bfloat16,
        "use_cpu": model.device.type == "cpu", "report_to": "none", "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True,
        "remove_unused_columns": False,
    }  # fmt: skip


def _trainer(trl: Any, model: LanguageModel, choice: TuningChoice, settings: dict[str, Any], rows: Any, watch: Any, **rest: Any) -> Any:
    """A trainer of trl whose reference is the model as it is now."""
    from datasets import Dataset  # type: ignore[import-untyped]

    name = choice.objective.upper()
    kind = type(f"{name}ByTokens", (_TokensAsGiven, getattr(trl, f"{name}Trainer")), {"watch": watch})
    rest |= {"train_dataset": Dataset.from_list(rows), "processing_class": deepcopy(model.tokenizer), "callbacks": [watch]}
    try:
        trainer = kind(model=model.network, args=getattr(trl, f"{name}Config")(**settings), **rest)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise BenchError(f"tuning.objective {choice.objective}: trl cannot train this ({str(error).strip().splitlines()[0]})") from error
    trainer.remove_callback(PrinterCallback)
    # trl's copy of an adapter leaves out what some methods train; where there is no adapter, it loads the base from its folder.
    own = dict(model.network.named_parameters())
    for name, parameter in own.items():
        twin = re.sub(r"\.default(?=\.|$)", ".ref", name)
        if twin != name and twin in own:
            own[twin].requires_grad_(False).copy_(parameter.detach())  # peft would have a second set of virtual tokens train too
    if trainer.ref_model is not None:
        trainer.ref_model.load_state_dict(model.network.state_dict(), strict=False)
    return trainer


@contextmanager
def _borrowed(model: LanguageModel) -> Iterator[None]:
    """The network as trl may have it, in silence; afterwards without the forward pass, adapter and settings that trl gave it."""
    network, adapters = model.network, getattr(model.network, "peft_config", {})
    forwards = [(module, vars(module).get("forward")) for module in network.modules()]
    moves = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    kept = [(vars(settings), dict(vars(settings))) for settings in (network.generation_config, *adapters.values())]
    for config in adapters.values():
        if hasattr(config, "init_lora_weights"):
            config.init_lora_weights = False  # others (PiSSA, OLoRA) would change the base once more, for trl's copy of the adapter
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.set_verbosity(verbosity)
        if "ref" in adapters:
            network.delete_adapter("ref")
        for settings, before in kept:
            settings.clear()
            settings.update(before)
        for module, forward in forwards:
            vars(module).pop("forward", None)
            if forward is not None:
                module.forward = forward
        for parameter, moved in moves:
            parameter.requires_grad_(moved)
