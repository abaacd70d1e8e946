"""A classifier on the frozen model's states: the feature-based way (Devlin et al. 2019, section 5.3), a linear probe."""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from scipy.special import log_softmax

from bench.errors import BenchError
from bench.model.language_model import Generation, LanguageModel

Floats = npt.NDArray[np.float32]
FeatureCache = dict[tuple[int, ...], Floats]
"""The features of a prompt by its token ids; good for one model as it was loaded."""

MAX_ITERATIONS = 2000
HEAD_FILE = "head.safetensors"


class FeatureClassifier:
    """Multinomial logistic regression over the labels, on one vector per prompt from the last layer of the frozen model.

    The vector is the state at the last token of a causal model, which has seen all of the prompt, and the mean over the tokens
    of an encoder (also that of an encoder-decoder model). Each of its numbers is standardised by mean and deviation over the
    training prompts, so that one strength of regularization means the same for every model.
    """

    def __init__(self, model: LanguageModel, labels: Sequence[str], cache: FeatureCache | None = None) -> None:
        """Hold `model` and what it is asked to tell apart; a `cache` that the caller keeps spares later classifiers the model's run."""
        self.model, self.labels = model, tuple(labels)
        self._cache: FeatureCache = {} if cache is None else cache
        width = int(model.network.config.hidden_size)
        self._weight: Floats = np.zeros((len(self.labels), width), dtype=np.float32)
        self._bias: Floats | None = None
        """None until it is trained; minus infinity for a label without a training example, which is never answered."""

    # ------------------------------------------------------------------------------------------ training

    def fit(
        self,
        prompts: Sequence[Sequence[int]],
        answers: Sequence[str],
        regularization: float = 1.0,
        class_weights: Literal["none", "balanced"] = "none",
    ) -> None:
        """Train on prompts and their labels: L-BFGS to convergence, L2 penalty `regularization`, nothing drawn at random.

        Raises `BenchError` for a label that is not among the classifier's, or where there are fewer than two to tell apart.
        """
        unknown = sorted(set(answers) - set(self.labels))
        if unknown:
            raise BenchError(f'a training example has the label "{unknown[0]}"; expected one of {", ".join(self.labels)}')
        if len(set(answers)) < 2:
            raise BenchError(f"tuning.method features: found {len(set(answers))} label in the training examples; expected two or more")
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler

        features, scaler = self.features(prompts).astype(np.float64), StandardScaler()
        weight = None if class_weights == "none" else class_weights
        regression = LogisticRegression(C=1 / regularization, class_weight=weight, max_iter=MAX_ITERATIONS)
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            try:
                regression.fit(scaler.fit_transform(features), [self.labels.index(answer) for answer in answers])
            except ConvergenceWarning as error:
                raise BenchError(
                    f"tuning.regularization {regularization}: no convergence in {MAX_ITERATIONS} iterations; expected a stronger one"
                ) from error
        rows, biases = regression.coef_, regression.intercept_
        if len(rows) == 1:  # two labels: scikit-learn keeps the difference of their scores
            rows, biases = np.concatenate([0 * rows, rows]), np.concatenate([0 * biases, biases])
        rows = rows / scaler.scale_  # from here on of the features as they are
        self._weight[:] = 0
        self._weight[regression.classes_] = rows
        self._bias = np.full(len(self.labels), -np.inf, dtype=np.float32)
        self._bias[regression.classes_] = biases - rows @ scaler.mean_

    @property
    def parameter_count(self) -> int:
        """A row of weights and a bias for each label."""
        return int(self._weight.size) + len(self.labels)

    @property
    def size_bytes(self) -> int:
        """What has to be kept beside the model, in float32."""
        return 4 * self.parameter_count

    def save(self, folder: Path) -> None:
        """Write the trained classifier to `folder`, without the model. Raises `BenchError` before `fit`."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"weight": self._weight, "bias": self._trained()}, folder / HEAD_FILE, {"labels": json.dumps(self.labels)})

    @classmethod
    def load(cls, model: LanguageModel, folder: Path) -> FeatureClassifier:
        """The classifier that `save` wrote, on the same model. Raises `BenchError` where it was trained on one of another width."""
        with safe_open(folder / HEAD_FILE, framework="np") as file:
            found = cls(model, json.loads(file.metadata()["labels"]))
            weight, found._bias = file.get_tensor("weight"), file.get_tensor("bias")
        if weight.shape != found._weight.shape:
            width = found._weight.shape[1]
            raise BenchError(f"{folder / HEAD_FILE}: is for states of {weight.shape[1]} numbers; those of {model.source.name} have {width}")
        found._weight = weight
        return found

    def _trained(self) -> Floats:
        if self._bias is None:
            raise BenchError("tuning.method features: the classifier was asked before it was trained")
        return self._bias

    # ------------------------------------------------------------------------------------------ answers

    def predict(self, prompts: Sequence[Sequence[int]]) -> list[tuple[int, float, float]]:
        """The most likely label of each prompt, in order: its index, its log-probability, and its lead over the second (nats).

        Raises `BenchError` before `fit`.
        """
        bias = self._trained()
        if not prompts:
            return []
        logprobs = log_softmax(self.features(prompts) @ self._weight.T + bias, axis=1)
        second, best = np.sort(logprobs)[:, -2:].T
        return list(zip(logprobs.argmax(1).tolist(), best.tolist(), (best - second).tolist(), strict=True))

    def generate(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, skip: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Generation]]]:
        """As `LanguageModel.generate`, but the answer is the most likely label, and no token is generated."""

        def work(batch: list[int]) -> list[tuple[int, float, float]]:
            return self.predict([prompts[i] for i in batch])

        for batch, answers, seconds in self.model.batcher.run([len(p) for p in prompts], work, skip):
            yield [
                (i, Generation(self.labels[label], logprob, len(prompts[i]), 0, 0, seconds, logit_margin=lead))
                for i, (label, logprob, lead) in zip(batch, answers, strict=True)
            ]

    # ------------------------------------------------------------------------------------------ features

    def features(self, prompts: Sequence[Sequence[int]]) -> Floats:
        """One vector per prompt, from the cache where it has been computed before: shape (prompts, width)."""
        new = list(dict.fromkeys(key for key in map(tuple, prompts) if key not in self._cache))
        longest = max((len(p) for p in new), default=0)
        if longest > self.model.window:
            raise BenchError(f"a prompt of {longest} tokens exceeds the window of {self.model.source.name}, {self.model.window}")
        for batch, vectors, _ in self.model.batcher.run([len(p) for p in new], lambda batch: self._run([new[i] for i in batch])):
            self._cache.update((new[i], vector) for i, vector in zip(batch, vectors, strict=True))
        return np.stack([self._cache[tuple(p)] for p in prompts])

    @torch.inference_mode()
    def _run(self, rows: Sequence[Sequence[int]]) -> Floats:
        model, kind = self.model, self.model.source.kind
        body = model.network.get_encoder() if kind == "seq2seq" else model.network.base_model
        ids, mask = model.padded(rows)
        with model.autocast():
            states = body(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        if kind == "causal":
            vectors = states[torch.arange(len(rows), device=states.device), mask.sum(1) - 1]
        else:
            vectors = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return np.asarray(vectors.cpu().numpy(), dtype=np.float32)
