"""``lm_eval run`` with the CPU seconds of its requests: ``lm_eval_run.py REPORT run --model hf ...``.

The command line's own entry point does everything; only the two calls that run the model's requests are timed, and the seconds
written to REPORT. With ``--tokens`` before REPORT no model is run: REPORT gets the token ids of each request instead.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from lm_eval.__main__ import cli_evaluate
from lm_eval.models.huggingface import HFLM

seconds: dict[str, float] = {"cpu_seconds": 0.0, "wall_seconds": 0.0}
tokens: list[list[list[int]]] = []


def timed(name: str) -> None:
    inner = getattr(HFLM, name)

    def outer(self: HFLM, *args: Any, **kwargs: Any) -> Any:
        cpu, wall = time.process_time(), time.perf_counter()
        try:
            return inner(self, *args, **kwargs)
        finally:
            seconds["cpu_seconds"] += time.process_time() - cpu
            seconds["wall_seconds"] += time.perf_counter() - wall

    setattr(HFLM, name, outer)


def score_nothing(self: HFLM, requests: Any, **kwargs: Any) -> list[tuple[float, bool]]:
    """In the order of requests: (context, continuation)."""
    tokens.extend([list(context), list(continuation)] for _, context, continuation in requests)
    return [(0.0, False)] * len(requests)


def generate_nothing(self: HFLM, requests: Any, **kwargs: Any) -> list[str]:
    """In the order of requests: (context,)."""
    for request in requests:
        ids, mask = self.tok_batch_encode([request.args[0]])
        tokens.append([ids[0][mask[0] == 1].tolist()])
    return [""] * len(requests)


def main() -> None:
    only_tokens = sys.argv[1] == "--tokens"
    report = Path(sys.argv.pop(1) if not only_tokens else sys.argv.pop(2))
    if only_tokens:
        sys.argv.pop(1)
        HFLM._loglikelihood_tokens, HFLM.generate_until = score_nothing, generate_nothing
    for name in ("loglikelihood", "generate_until"):
        timed(name)
    cli_evaluate()
    report.write_text(json.dumps(tokens if only_tokens else seconds))


if __name__ == "__main__":
    main()
