"""Whether evidence entails a response, by a model of natural language inference that reads both (a cross-encoder).

Any sequence classifier in Hugging Face format whose labels name entailment will do, and so will models that score consistency
alone (one output, or labels "hallucinated" and "consistent"), such as HHEM. None comes with the package.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import BenchError
from bench.metric.detector import Detector, Response, sentences, unusable
from bench.metric.detector_quality import Score
from bench.result.statistics import FloatArray

if TYPE_CHECKING:
    import torch

TEMPLATE = "{question} {answer}"
"""How a question and its answer become one statement to check."""
BATCH_ROWS = 32

_ENTAILED = ("entailment", "entail", "entailed", "consistent", "supported")
_CONTRADICTED = ("contradiction", "contradict", "contradicted")
_FIELD = re.compile(r"\{(\w*)\}")


class EntailmentModel:
    """A loaded model of inference: pairs (premise, hypothesis) in, probabilities out."""

    def __init__(self, name: str, *, template: str = TEMPLATE, device: str | None = None, trust_remote_code: bool = False) -> None:
        """Load a folder in Hugging Face format or a hub id.

        ``template``: see `TEMPLATE`; without a question, the answer stands alone.

        Raises:
            BenchError: There is no such model, it is no sequence classifier, or none of its labels means entailment.
        """
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        check_template(template)
        self.name, self.template = name, template
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        try:
            network, info = AutoModelForSequenceClassification.from_pretrained(
                name, trust_remote_code=trust_remote_code, output_loading_info=True, use_safetensors=True, dtype=torch.float32
            )
            # A model that scores pairs itself brings its own tokenizer and prompt.
            self._scores_pairs = callable(getattr(network, "predict", None))
            self._tokenizer: Any = None if self._scores_pairs else AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
        except (OSError, ValueError, KeyError, ImportError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            where = "" if Path(name).is_dir() else " (no such folder, so taken for a hub id)"
            raise BenchError(f"entailment model {name}: could not be loaded as a sequence classifier{where}: {first}") from error
        if info["missing_keys"]:
            # transformers fills them in at random: the head of a plain encoder, for one.
            raise BenchError(f"entailment model {name}: the checkpoint lacks {min(info['missing_keys'])}; expected a trained classifier")
        self._network: Any = network.to(self.device).eval()
        labels = {int(i): str(label).strip().lower() for i, label in network.config.id2label.items()}
        self._one = len(labels) == 1
        """One output is the probability of being consistent, behind a sigmoid."""
        self._entailed = next((i for i, label in labels.items() if label in _ENTAILED), None)
        self._contradicted = next((i for i, label in labels.items() if label in _CONTRADICTED), None)
        if self._entailed is None and not (self._one or self._scores_pairs):
            found = ", ".join(labels.values())
            raise BenchError(f"entailment model {name}: its labels are {found}; expected one of {', '.join(_ENTAILED)}")

    @property
    def tells_contradiction(self) -> bool:
        """Whether a label means contradiction."""
        return self._entailed is not None and self._contradicted is not None and not self._scores_pairs

    def entailed(self, pairs: Sequence[tuple[str, str]]) -> FloatArray:
        """Probability that each premise entails its hypothesis: (n,), of all the model's labels.

        A pair too long for the model loses the end of its longer part.
        """
        if self._scores_pairs:
            return self._predicted(pairs)
        logits = self._logits(pairs)
        if self._one:
            return np.asarray(1 / (1 + np.exp(-logits[:, 0])))
        return _softmax(logits)[:, self._entailed or 0]

    def contradicted(self, pairs: Sequence[tuple[str, str]]) -> FloatArray:
        """Probability that each premise contradicts its hypothesis, of contradiction and entailment alone: (n,).

        As SelfCheckGPT's NLI score (Manakul et al. 2023, section 5.4), which leaves the neutral label out.

        Raises:
            BenchError: The model has no label for contradiction.
        """
        if self._entailed is None or self._contradicted is None:
            raise BenchError(f"entailment model {self.name}: has no label that means contradiction; expected {', '.join(_CONTRADICTED)}")
        return _softmax(self._logits(pairs)[:, [self._entailed, self._contradicted]])[:, 1]

    def supported(self, responses: Sequence[Response]) -> FloatArray:
        """How far each evidence supports its response: (n,), in [0, 1]; NaN for a response or evidence without a sentence.

        The mean over the response's sentences of the largest probability that a sentence of the evidence entails it (SummaC-ZS,
        Laban et al. 2022, with entailment alone). A statement that takes two sentences of the evidence is missed.
        """
        parts = [[(e, h) for h in self._statements(r) for e in sentences(r.evidence)] for r in responses]
        unique = list(dict.fromkeys(pair for own in parts for pair in own))
        known = dict(zip(unique, self.entailed(unique).tolist(), strict=True)) if unique else {}
        found = []
        for response in responses:
            premises = sentences(response.evidence)
            best = [max(known[e, h] for e in premises) for h in self._statements(response)] if premises else []
            found.append(fmean(best) if best else np.nan)
        return np.array(found)

    def statement(self, question: str, answer: str) -> str:
        """A question and its answer as one statement."""
        return self.template.format(question=question, answer=answer).strip() if question else answer

    def detector(self) -> Detector:
        """1 - `supported`, as a detector."""

        def scores(responses: Sequence[Response]) -> list[Score]:
            found = self.supported(responses)
            return [unusable(r) or 1 - float(own) for r, own in zip(responses, found, strict=True)]

        return Detector("entailment", f"1 - probability that the evidence entails the response, by {self.name}", scores)

    def _statements(self, response: Response) -> list[str]:
        return [self.statement(response.question, sentence) for sentence in sentences(response.text)]

    def _logits(self, pairs: Sequence[tuple[str, str]]) -> FloatArray:
        """(n, labels), in the order of the pairs; batches are of pairs of like length."""
        import torch

        limits = (self._tokenizer.model_max_length, getattr(self._network.config, "max_position_embeddings", None))
        room = min(int(limit) for limit in (*limits, 1 << 20) if limit)  # a tokenizer without a limit says 10^30
        order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
        found = np.zeros((len(pairs), self._network.config.num_labels))
        for start in range(0, len(order), BATCH_ROWS):
            batch = order[start : start + BATCH_ROWS]
            cut: dict[str, Any] = {"truncation": "longest_first", "max_length": room, "padding": True, "return_tensors": "pt"}
            premises, hypotheses = ([pairs[i][side] for i in batch] for side in (0, 1))
            with torch.inference_mode():
                encoded = self._tokenizer(premises, hypotheses, **cut).to(self.device)
                found[batch] = self._network(**encoded).logits.float().cpu().numpy()
        return found

    def _predicted(self, pairs: Sequence[tuple[str, str]]) -> FloatArray:
        """By a model that scores pairs itself, as HHEM-2.1-Open does."""
        import torch

        found: list[float] = []
        for start in range(0, len(pairs), BATCH_ROWS):
            with torch.inference_mode():
                values: torch.Tensor | Sequence[float] = self._network.predict(list(pairs[start : start + BATCH_ROWS]))
            found += [float(value) for value in values]
        return np.array(found)


def check_template(template: str) -> str:
    """The template itself. Raises `BenchError` where it lacks ``{answer}`` or names another field than ``{question}``."""
    fields = _FIELD.findall(template)
    if "answer" not in fields or set(fields) - {"answer", "question"}:
        raise BenchError(f'template: found "{template}", expected "{{answer}}" and perhaps "{{question}}", as in "{TEMPLATE}"')
    return template


def rogan_gladen(share: float, sensitivity: float, specificity: float) -> float:
    """The true share behind a share that a detector of known errors reports, cut to [0, 1] (Rogan and Gladen 1978).

    ``sensitivity``: P(reported | true); ``specificity``: P(not reported | not true); their sum exceeds 1. The map is linear, so
    the ends of an interval go through it as well: that leaves out what is uncertain about the two.
    """
    if sensitivity + specificity <= 1:
        raise ValueError(f"sensitivity {sensitivity} + specificity {specificity}: expected more than 1, or the detector tells nothing")
    return min(1.0, max(0.0, (share + specificity - 1) / (sensitivity + specificity - 1)))


def _softmax(logits: FloatArray) -> FloatArray:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))
