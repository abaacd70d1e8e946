"""What a training step and an answer allocate and compute, found by running them on tensors without data.

The step is the real one: the same network, adapter, loss and mixed precision as in training, on fake tensors that have shapes and
types but no numbers. Every allocation of every operation is seen, so that what a method keeps for its backward pass (activations of
the layers above the lowest adapter, logits over a large vocabulary in two precisions, copies in another type) is counted and not
guessed, for any method that can be trained at all. The optimizer's step is fused and allocates nothing.

torch's own `MemTracker` cannot be used: it puts a hook on every parameter, and frozen ones take none. Nor can `FlopCounterMode`, whose
formulas are: its hooks on modules keep what checkpointing computes again alive until the end of the backward pass.
"""

from __future__ import annotations

import math
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from bench.cost.flops import ModelShape, shape_of
from bench.errors import BenchError
from bench.model.language_model import LanguageModel
from bench.model.outline import materialised, outline
from bench.strategy.adapters import kept_tensors, parameter_counts, wrap
from bench.strategy.spec import TuningChoice
from bench.strategy.tuning import gradient_checkpointing

Kind = Literal["forward", "logits", "gradients", "backward"]
_TEXT = "outline"
"""Virtual tokens want a text to start from; without a tokenizer none is read."""
ROUNDING = 512
"""torch's caching allocator hands out memory in multiples of this many bytes."""


def _grouped(a: Any, b: Any, *_: Any, **__: Any) -> int:
    """Operations of the products of a mixture's experts, (rows, in) by (experts, in, out): every row meets one of the matrices."""
    return int(2 * a.shape[-2] * a.shape[-1] * b.shape[-1])


FORMULAS = {**flop_registry, torch.ops.aten._grouped_mm: _grouped}
"""torch's own, and one that it lacks."""


@dataclass(frozen=True)
class Traced:
    """One pass over a batch. Bytes at its peak, beside the weights and the optimizer's state."""

    activations_bytes: int
    """Kept from the forward pass, logits left out."""
    logits_bytes: int
    """Logits, their copies in float32, and their gradients."""
    gradients_bytes: int
    workspace_bytes: int
    """Temporaries."""
    flops: float
    """By torch's counter: matrix multiplications and attention, the whole rectangle of a causal one."""
    n_operations: int
    """Operations that compute something: about as many kernels are launched on a GPU."""

    @property
    def peak_bytes(self) -> int:
        return self.activations_bytes + self.logits_bytes + self.gradients_bytes + self.workspace_bytes


@dataclass(frozen=True)
class Outline:
    """A base model with what a tuning choice puts around it, counted."""

    model: LanguageModel
    mode: FakeTensorMode
    shape: ModelShape
    total_params: int
    trainable_params: int
    weights_bytes: int
    """Parameters and buffers, as they are kept in training."""
    kept_bytes: int
    """What has to be stored to serve the tuned model beside its base."""


def outlined(
    name: str, choice: TuningChoice, dtype: torch.dtype = torch.bfloat16, trained: torch.dtype = torch.float32, n_labels: int = 2
) -> Outline:
    """The model of `name` (as of `bench.model.outline.outline`) in `dtype` with what `choice` trains around it, kept in `trained`.

    Raises `BenchError` where there is no such model or the choice does not fit it.
    """
    model = outline(name, dtype, n_labels)
    if choice.trains_here:
        try:
            with torch.device("meta"):
                wrap(model, choice, 0, _TEXT)
        except (BenchError, RuntimeError):  # an adapter that looks at its own numbers while it is made
            model = outline(name, dtype, n_labels)
            wrap(model, choice, 0, _TEXT)
    else:
        model.network.requires_grad_(False)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    materialised(model, mode, trained)
    total, trainable = parameter_counts(model, trained=True)
    with mode:
        kept = sum(t.numel() * t.element_size() for t in kept_tensors(model).values())
    tensors = {id(t): t.numel() * t.element_size() for t in (*model.network.parameters(), *model.network.buffers())}
    return Outline(model, mode, shape_of(model.network), total, trainable, sum(tensors.values()), kept)


class Allocations(TorchDispatchMode):
    """Follows the live bytes of all tensors that are made, by kind, keeps what they were at their peak, and counts operations."""

    def __init__(self, vocab: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.stage: Kind = "forward"
        self.live: Counter[str] = Counter()
        self.at_peak: dict[str, int] = {}
        self.flops, self.n_operations = 0, 0
        self._peak, self._vocab = 0, vocab
        self._kinds: dict[int, str | None] = {}

    def ignore(self, tensor: torch.Tensor) -> None:
        """What was there before is no part of the step."""
        self._kinds[_key(tensor)] = None

    def is_gradient(self, tensor: torch.Tensor) -> None:
        """Of a tensor that has been made: it turned out to be the gradient of a weight."""
        key = _key(tensor)
        kind = self._kinds.get(key)
        if kind not in (None, "gradients"):
            size = _size(tensor)
            self.live[kind] -= size
            self.live["gradients"] += size
            self._kinds[key] = "gradients"

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operation is torch.ops.aten._local_scalar_dense.default:
            return True  # there are no numbers: an adapter that tosses a coin whether to drop itself is kept
        made = operation(*args, **(kwargs or {}))
        new = [self._add(tensor) for tensor in tree_leaves(made) if isinstance(tensor, torch.Tensor)]
        if any(new) or operation._schema.is_mutable:  # else it is a view
            self.n_operations += 1
        if (formula := FORMULAS.get(operation._overloadpacket)) is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=made)
        return made

    def _add(self, tensor: torch.Tensor) -> bool:
        key = _key(tensor)
        if key in self._kinds:
            return False
        size = _size(tensor)
        kind = "logits" if tensor.ndim > 1 and tensor.shape[-1] == self._vocab else self.stage
        self._kinds[key] = kind
        self.live[kind] += size
        weakref.finalize(tensor.untyped_storage(), self._free, key, size)
        total = sum(self.live.values())
        if total > self._peak:
            self._peak, self.at_peak = total, dict(self.live)
        return True

    def _free(self, key: int, size: int) -> None:
        kind = self._kinds.pop(key, None)
        if kind is not None:
            self.live[kind] -= size


def _key(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _size(tensor: torch.Tensor) -> int:
    return math.ceil(tensor.untyped_storage().nbytes() / ROUNDING) * ROUNDING


def trace_step(
    base: Outline, rows: int, tokens: int, targets: int, *, autocast: torch.dtype | None,
    checkpointing: bool = False, parts: int = 1,
) -> Traced:  # fmt: skip
    """Forward and backward pass of a batch of `rows` of `tokens`, of which the last `targets` are predicted, in `parts` one after the
    other. The outline is used up: it takes gradients.

    ``autocast``: what matrix products are computed in, None: the weights' own type.
    """
    model = base.model
    own = [*range(0, rows, math.ceil(rows / parts))]
    size = math.ceil(rows / parts)
    label = 1 if model.kind_name.startswith("classifier") else 0
    pair = ([0] * (tokens + label), tokens if label else tokens - targets)

    def step(allocations: Allocations) -> None:
        model.network.train()
        with gradient_checkpointing(model, checkpointing):
            for start in own:
                allocations.stage = "forward"
                with model.autocast():
                    loss = model.loss([pair] * min(size, rows - start))
                allocations.stage = "backward"
                loss.backward()

    return traced(base, step, autocast)


def trace_prompt(base: Outline, rows: int, tokens: int, *, autocast: torch.dtype | None) -> Traced:
    """The pass over `rows` prompts of `tokens`, with logits at the last position, keys and values among the activations."""
    model = base.model

    def prompt(allocations: Allocations) -> None:
        ids = torch.zeros((rows, tokens), dtype=torch.long)
        with torch.no_grad(), model.autocast():
            if model.kind_name.startswith("classifier"):
                model.network(input_ids=ids)
            elif model.peft_task == "SEQ_2_SEQ_LM":
                model.network(input_ids=ids, decoder_input_ids=ids[:, :1], use_cache=True)
            else:
                model.network(input_ids=ids, use_cache=True, **({} if model.virtual_tokens else {"logits_to_keep": 1}))

    return traced(base, prompt, autocast)


def traced(base: Outline, body: Callable[[Allocations], None], autocast: torch.dtype | None = None) -> Traced:
    """What `body` allocates and computes with the outline's network.

    Raises `BenchError` for a network that looks at its own numbers.
    """
    model = base.model
    model.compute_dtype = autocast
    allocations = Allocations(base.shape.vocab)
    for tensor in (*model.network.parameters(), *model.network.buffers()):
        allocations.ignore(tensor)
    for parameter in model.network.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda p: allocations.is_gradient(p.grad))
    try:
        with base.mode, allocations:
            body(allocations)
    except RuntimeError as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BenchError(f"model {model.source.name}: a step cannot be followed without numbers ({reason})") from error
    at = allocations.at_peak
    return Traced(
        activations_bytes=at.get("forward", 0),
        logits_bytes=at.get("logits", 0),
        gradients_bytes=at.get("gradients", 0),
        workspace_bytes=at.get("backward", 0),
        flops=float(allocations.flops),
        n_operations=allocations.n_operations,
    )
