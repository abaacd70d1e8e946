"""A located model, loaded as what it is: a causal language model, an encoder-decoder, or a classifier over an encoder."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from bench.errors import BenchError
from bench.model.classifier import Classifier
from bench.model.language_model import LanguageModel
from bench.model.seq2seq import Seq2SeqModel
from bench.model.source import ModelSource, Quantize

_preloaded: dict[ModelSource, tuple[LanguageModel, float, float]] = {}
"""Models that are handed out to the next who asks, with the seconds (wall, CPU) that loading them took."""


def preload(source: ModelSource) -> None:
    """Load a base model for the processes that are forked from this one; none on a GPU, which a fork cannot share.

    Raises `BenchError` where it cannot be loaded.
    """
    if source.kind == "causal" and not torch.cuda.is_available():
        torch.set_num_threads(1)  # a pool of threads would be lost in the fork
        wall, cpu = time.perf_counter(), time.process_time()
        model = LanguageModel(source)
        _preloaded[source] = (model, time.perf_counter() - wall, time.process_time() - cpu)


def take_preloaded(source: ModelSource) -> tuple[LanguageModel, float, float] | None:
    """The model as `load_model` makes it by default, once a process, and the seconds (wall, CPU) that loading it took; or None."""
    return _preloaded.pop(source, None)


def load_model(
    source: ModelSource, *, labels: Sequence[str] = (), trust_remote_code: bool = False, quantize: Quantize = "none"
) -> LanguageModel:
    """The model of `source` by its kind; `labels`: those that an encoder's head chooses from, in their order.

    Raises `BenchError` where it cannot be loaded, for an encoder without labels and for an encoder in 4 or 8 bits.
    """
    if source.kind == "encoder":
        if quantize != "none":
            raise BenchError(f"model {source.name}: tuning.quantize is {quantize}; an encoder is loaded in full, expected none")
        return Classifier(source, labels, trust_remote_code=trust_remote_code)
    kind = Seq2SeqModel if source.kind == "seq2seq" else LanguageModel
    return kind(source, trust_remote_code=trust_remote_code, quantize=quantize)
