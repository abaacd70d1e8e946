"""Which rows of a lm-evaluation-harness task become train, validation and test."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from bench.errors import BenchError
from bench.task.lm_eval_config import LmEvalTask

HELD_OUT: Final = 0.2
"""Share of the training rows, from the end, that become validation where the task has no split for it."""

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Splits:
    """Which splits of the data become which of the task."""

    scored: str
    train: list[str]
    """Empty where the rows to learn from are held out of the scored ones."""
    validation: str | None
    first: bool
    """Whether the shots are the first rows of train, as they are there."""
    hold_out: float | None
    """Share of the scored rows that become train and validation; None where the task has others."""

    @classmethod
    def of(cls, task: LmEvalTask, hold_out: float | None) -> Splits:
        """The splits that the keys of a task name. Raises `BenchError` where there is none to learn from, or one and a `hold_out`."""
        scored = task.test_split or task.validation_split or ""
        shots = task.fewshot_config.split or task.fewshot_split or task.training_split or task.validation_split
        train = list(dict.fromkeys(name for name in (shots, task.training_split) if name and name != scored))
        if hold_out is not None and not 0 < hold_out < 1:
            raise BenchError(f"--hold-out: found {hold_out}, expected a share between 0 and 1")
        if hold_out is not None and train:
            raise BenchError(f'--hold-out: found {hold_out}, expected none, since the task has rows to learn from ("{train[0]}")')
        if hold_out is None and not train:
            raise BenchError(
                f'training_split: is missing; expected rows to learn from that are not the scored split "{scored}" (--hold-out 0.2 sets a '
                "fifth of them apart)"
            )
        validation = task.validation_split if task.validation_split not in (None, scored, *train) else None
        first = task.fewshot_config.sampler == "first_n" and (shots != scored or hold_out is not None)
        return cls(scored, train, validation, first, hold_out)

    @property
    def names(self) -> list[str]:
        return [self.scored, *self.train, *([self.validation] if self.validation else [])]

    def made(self, rows: dict[str, Rows], samples: Rows, num_fewshot: int) -> tuple[dict[str, Rows], list[str]]:
        """The rows of train, validation and test, and what to know of them, a line each.

        Args:
            rows: Of each split of `names`, rendered.
            samples: Worked examples that the task file itself holds: train begins with them.
            num_fewshot: So many rows stay in train at least.

        Raises:
            BenchError: There are too few rows to learn from.
        """
        notes = []
        test, train = rows[self.scored], [row for name in self.train for row in rows[name]]
        if self.hold_out is not None:
            test, train = self._held_out(test, self.hold_out)
            how = "the first" if self.first else "drawn by a fixed rule"
            notes.append(f'rows to learn from: {len(train)} of {len(train) + len(test)} of "{self.scored}", {how}; the others are scored')
        source = " + ".join([*(["samples"] if samples else []), *(self.train or ["held out rows"])])
        notes.append(
            f"worked examples: the first of train, as sampler first_n takes them ({source})"
            if self.first
            else "worked examples: drawn here once per seed, there anew for each item (sampler first_n would be equal); zero-shot is equal"
        )
        train = samples + train
        if self.validation:
            return {"train": train, "validation": rows[self.validation], "test": test}, notes
        n = min(max(1, int(HELD_OUT * len(train))), len(train) - max(1, num_fewshot, len(samples)))
        if n < 1:
            raise BenchError(f"validation_split: is missing, and the {len(train)} training rows are too few to hold some out")
        notes.append(f"validation: the last {n} of {len(train)} training rows")
        return {"train": train[:-n], "validation": train[-n:], "test": test}, notes

    def _held_out(self, rows: Rows, share: float) -> tuple[Rows, Rows]:
        """The rows to be scored, under their number as id, and those held out of them: the first, where shots are the first there."""
        order = range(len(rows)) if self.first else sorted(range(len(rows)), key=lambda i: sha256(f"hold-out/{i}".encode()).digest())
        chosen = set(order[: int(share * len(rows))])
        test = [{"id": str(i), **row} for i, row in enumerate(rows) if i not in chosen]
        return test, [row for i, row in enumerate(rows) if i in chosen]
