"""A located model, loaded as what it is: a causal language model, an encoder-decoder, or a classifier over an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from bench.errors import BenchError
from bench.model.classifier import Classifier
from bench.model.language_model import LanguageModel
from bench.model.seq2seq import Seq2SeqModel
from bench.model.source import ModelSource


def load_model(
    source: ModelSource, *, labels: Sequence[str] = (), trust_remote_code: bool = False, quantize: Literal["none", "nf4"] = "none"
) -> LanguageModel:
    """The model of `source` by its kind; `labels`: those that an encoder's head chooses from, in their order.

    Raises `BenchError` where it cannot be loaded, for an encoder without labels and for an encoder in 4 bits.
    """
    if source.kind == "encoder":
        if quantize != "none":
            raise BenchError(f"model {source.name}: tuning.quantize is {quantize}; an encoder is loaded in full, expected none")
        return Classifier(source, labels, trust_remote_code=trust_remote_code)
    kind = Seq2SeqModel if source.kind == "seq2seq" else LanguageModel
    return kind(source, trust_remote_code=trust_remote_code, quantize=quantize)
