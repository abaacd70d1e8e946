"""Metrics of a choice among options by their log-probabilities."""

from __future__ import annotations

from bench.metric.base import Metric
from bench.metric.sample import Sample


class AccuracyNormalized(Metric):
    """1 if the option with the highest log-probability per character is a target, else 0; of equals the first is chosen.

    A long option is the product of more probabilities and so the less probable one; per character, options of different length
    compare. It is the ``acc_norm`` of lm-evaluation-harness (Gao 2021, "Multiple Choice Normalization in LM Evaluation"): length
    in Unicode characters, without the space before the option. Undefined where no model was asked for log-probabilities. Who is right
    is judged by `accuracy` all the same, since the answer given is the option with the highest log-probability.
    """

    name = "accuracy_normalized"
    kinds = frozenset({"multiple_choice"})

    def undefined_because(self, sample: Sample) -> str | None:
        return None if sample.option_logprobs else "no log-probabilities"

    def length(self, option: str) -> int:
        return len(option)

    def sample_level(self, sample: Sample) -> float | None:
        if not sample.option_logprobs:
            return None
        each = [logprob / self.length(option) for option, logprob in zip(sample.options, sample.option_logprobs, strict=True)]
        return float(sample.options[each.index(max(each))] in sample.targets)


class AccuracyPerByte(AccuracyNormalized):
    """As `accuracy_normalized`, but per byte of UTF-8: the ``acc_bytes`` of lm-evaluation-harness. Most tokenizers fall back to bytes, so
    among options of different scripts it compares more evenly."""

    name = "accuracy_per_byte"

    def length(self, option: str) -> int:
        return len(option.encode())
