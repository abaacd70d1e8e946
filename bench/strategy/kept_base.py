"""Which tuning has no meaning over a base whose weights are kept in a form that cannot move or be read back."""

from __future__ import annotations

from bench.model.source import ModelSource
from bench.strategy.spec import TuningChoice

_MOVES_BASE = ("full", "last_layers", "bitfit")
"""Methods that train weights of the base's own layers."""


def not_over(source: ModelSource, tuning: TuningChoice) -> str | None:
    """Why a base as it is loaded cannot be tuned so, or None where it can.

    What peft's methods do over bits was tried on a CPU, preset by preset (peft 0.21, bitsandbytes 0.50).
    """
    if reason := source.not_in_bits(tuning.quantize):
        return reason
    if not tuning.trains_here:
        return None
    if source.loading.dtype == "float16":
        return "the base is kept in float16, which is for answers alone: training in it needs loss scaling"
    bits = source.quantized if tuning.quantize == "none" else tuning.quantize
    if bits == "none":
        return None
    kind, dora = str(tuning.peft.get("peft_type", tuning.method)).upper(), bool(tuning.peft.get("use_dora"))
    reasons = {
        f"the base is loaded in {bits}, and weights of few bits cannot be trained": tuning.method in _MOVES_BASE,
        f"the base is loaded in {bits}, and PiSSA has to split its weights": str(tuning.peft.get("init_lora_weights")).startswith("pissa"),
        f"the base is loaded in {bits}, which hides the shape of weights that {kind} goes by": bits == "nf4" and kind in ("LOHA", "LOKR"),
        f"the base is loaded in {bits}, and DoRA cannot read the length of its weights": bits == "int8" and dora,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)
