"""Whether sampled answers agree with the greedy one, and whether that tells wrong answers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pydantic import Field

from bench.metric.detector_quality import Score, Undefined, mean_value, numbers_of, separation
from bench.metric.entailment import EntailmentModel
from bench.metric.text import normalize, tokens
from bench.probe.base import Context, Finding, Probe
from bench.suite import Cell

if TYPE_CHECKING:
    from bench.result.schema import Item
    from bench.run.fit import Fitted

BATCH_ROWS = 64


class SelfConsistency(Probe):
    """How well the spread of sampled answers tells wrong answers (off by default: it samples every item several times).

    For each item `n_samples` answers are sampled. Every ``…_auroc`` says how well a score ranks greedy answers that are attempted
    and wrong above those that are right (abstentions are left out):

    * ``inconsistency_auroc``: share of samples that differ from the greedy answer after normalisation;
    * ``semantic_entropy_auroc``: entropy of the samples over the different normalised answers (Farquhar et al. 2024, discrete);
    * ``unigram_mean_auroc``, ``unigram_max_auroc``: mean and largest -log p of the answer's words under the frequencies of words
      in the samples and the answer (SelfCheckGPT's n-gram variant, Manakul et al. 2023);
    * ``contradiction_auroc``, where `model` is given: mean probability that a sample contradicts the answer (SelfCheckGPT's NLI variant);
    * ``length_auroc`` (words of the answer) and ``logprob_auroc`` (-log p of the greedy answer): what sampling has to beat.

    ``consistency`` and ``semantic_entropy_bits`` are the means over items.
    """

    n_samples: int = Field(default=8, ge=2)
    temperature: float = Field(default=1.0, gt=0)
    items: int = Field(default=60, ge=2)
    """Test items, at most."""
    model: str | None = None
    """An entailment model (`bench.metric.entailment`) with a label for contradiction."""

    def not_applicable(self, cell: Cell) -> str | None:
        if cell.strategy.prompt.constant:
            return "the strategy asks no model"
        if cell.model.kind == "encoder" or cell.strategy.tuning.method == "features" or cell.task.config.kind == "multiple_choice":
            return "the answer is chosen, and no text is generated that could be sampled"
        return None

    def run(self, context: Context) -> tuple[dict[str, Finding], dict[str, Any]]:
        draw = context.random("self-consistency")
        chosen = {e.id for e in draw.sample(context.cell.task.test, min(self.items, len(context.cell.task.test)))}
        examples = [e for e in context.cell.task.test if e.id in chosen]
        requests = context.requests(examples)
        items = {i.id: i for i in context.items}
        asked = [(e, r) for e, r in zip(examples, requests, strict=True) if not r.abstains]
        prompts = [r.prompt.ids for _, r in asked]
        texts = sample_answers(context.ready, prompts, self.n_samples, self.temperature, draw.getrandbits(32))
        samples = {e.id: own for (e, _), own in zip(asked, texts, strict=True)}
        kept = [items[e.id] for e, _ in asked]
        clusters, wrong = [i.cluster for i in kept], [i.outcome == "incorrect" for i in kept]

        agree: dict[str, Score] = {i.id: consistency(i.prediction, samples[i.id]) for i in kept}
        spread: dict[str, Score] = {i.id: semantic_entropy_bits(samples[i.id]) for i in kept}
        found: dict[str, Finding] = {}
        for name, own, most in (("consistency", agree, 1.0), ("semantic_entropy_bits", spread, math.log2(self.n_samples))):
            if value := mean_value(own, {i.id: i.cluster for i in kept}, most):
                found[name] = Finding(value, numbers_of(own))

        by_score: dict[str, list[float | None]] = {
            "inconsistency": [1 - score for score in numbers_of(agree).values()],
            "semantic_entropy": list(numbers_of(spread).values()),
            "unigram_mean": [fmean(s) if (s := surprisals(i.prediction, samples[i.id])) else None for i in kept],
            "unigram_max": [max(surprisals(i.prediction, samples[i.id]), default=None) for i in kept],
            "length": [float(len(tokens(i.prediction))) or None for i in kept],
            "logprob": [None if i.logprob is None else -i.logprob for i in kept],
        }
        if self.model is not None:
            by_score["contradiction"] = _contradictions(
                EntailmentModel(self.model, trust_remote_code=context.cell.trust_remote_code),
                kept,
                {e.id: e.input for e in examples},
                samples,
            )

        undefined = []
        for name, values in by_score.items():
            told = separation([_score(i, v) for i, v in zip(kept, values, strict=True)], wrong, clusters)
            if told:
                found[f"{name}_auroc"] = Finding(told)
            else:
                undefined.append(f"{name}_auroc")
        details: dict[str, Any] = {"n_not_asked": len(examples) - len(asked), "outcomes": dict(Counter(i.outcome for i in kept))}
        if undefined:
            details["undefined"] = {"names": undefined, "reason": "the attempted answers with a score are all right, or all wrong"}
        return found, details


def sample_answers(fitted: Fitted, prompts: Sequence[Sequence[int]], n_samples: int, temperature: float, seed: int) -> list[list[str]]:
    """`n_samples` answers to each prompt at a temperature, from the whole vocabulary; the same for the same seed and prompts.

    The state of torch's generators is as before afterwards.
    """
    import torch

    from bench.strategy.prompt import answer_tokens

    model = fitted.model
    model.network.eval()
    room = answer_tokens(fitted.asker.task, fitted.strategy.prompt)
    rows = sorted(((i, p) for i, p in enumerate(prompts) for _ in range(n_samples)), key=lambda row: (len(row[1]), row[0]))
    found: list[list[str]] = [[] for _ in prompts]
    seq2seq = model.source.kind == "seq2seq"
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        for start in range(0, len(rows), BATCH_ROWS):
            batch = rows[start : start + BATCH_ROWS]
            width = max(len(p) for _, p in batch)
            pad = [[model.pad_id] * (width - len(p)) for _, p in batch]
            ids = torch.tensor([[*fill, *p] for fill, (_, p) in zip(pad, batch, strict=True)], device=model.device)
            mask = torch.tensor([[0] * len(fill) + [1] * len(p) for fill, (_, p) in zip(pad, batch, strict=True)], device=model.device)
            with torch.inference_mode(), model.autocast():
                # Every field that shapes the distribution is said: one left out is filled in from the model's own settings.
                out = model.network.generate(
                    input_ids=ids, attention_mask=mask, max_new_tokens=room, do_sample=True, temperature=temperature, top_k=0, top_p=1.0,
                )  # fmt: skip
            for (i, _), row in zip(batch, out[:, 1 if seq2seq else width :].tolist(), strict=True):
                found[i].append(fitted.asker.parsed(model.answer(row)[0]).answer)
    return found


def consistency(answer: str, samples: Sequence[str]) -> float:
    """Share of the samples that equal the answer after normalisation."""
    return fmean(normalize(sample) == normalize(answer) for sample in samples)


def semantic_entropy_bits(samples: Sequence[str]) -> float:
    """-sum_c |c| / n log2 (|c| / n) over the classes c of samples that are equal after normalisation."""
    n = len(samples)
    return sum(-k / n * math.log2(k / n) for k in Counter(map(normalize, samples)).values()) + 0.0


def surprisals(answer: str, samples: Sequence[str]) -> list[float]:
    """-ln p of each word of the answer, p being its share of all words of the samples and the answer: never 0, since the answer counts."""
    counts = Counter(word for text in (answer, *samples) for word in tokens(text))
    total = counts.total()
    return [-math.log(counts[word] / total) for word in tokens(answer)]


def _score(item: Item, value: float | None) -> Score:
    if item.outcome == "abstained":
        return Undefined("abstained")
    return Undefined("no words or log-probability") if value is None else value


def _contradictions(
    model: EntailmentModel, items: Sequence[Item], questions: dict[str, str], samples: dict[str, list[str]]
) -> list[float | None]:
    """Mean probability that a sample contradicts the answer; None for an empty answer."""
    pairs = [
        (model.statement(questions[i.id], sample), model.statement(questions[i.id], i.prediction))
        for i in items
        for sample in samples[i.id]
    ]
    values = iter(model.contradicted(pairs).tolist())
    means = [fmean([next(values) for _ in samples[i.id]]) for i in items]
    return [mean if i.prediction.strip() else None for i, mean in zip(items, means, strict=True)]


PROBE = SelfConsistency
