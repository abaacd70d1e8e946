"""What lm-evaluation-harness makes of the task files beside this script, item by item, as `reference.json`.

Run in this folder, in the environment of the peers (benchmarks/requirements.txt):

    ../../../.venv-benchmarks/bin/python reference.py ../../../bench/world/base_model ../../../../shared/models/stories260K
"""

from __future__ import annotations

import hashlib
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

TASKS = [
    "letters", "texts", "border", "spaces", "grams", "verbatim", "stripped", "extracts", "samples", "held", "begun", "prefixed", "bytes",
]  # fmt: skip
PLAIN = {"begun", "prefixed"}
"""Tasks that are not compared in a chat template."""
METRICS = ("acc", "acc_norm", "acc_bytes", "exact_match")


def item(sample: dict[str, Any]) -> dict[str, Any]:
    """SHA-256 of the prompt; each choice's log-probability, or the text and what the filters make of it; the scores."""
    requests = sample["arguments"]
    found: dict[str, Any] = {"prompt": hashlib.sha256(requests[0][0].encode()).hexdigest()}
    if isinstance(requests[0][1], str):
        found["logprobs"] = [round(float(answer[0][0]), 5) for answer in sample["resps"]]
    else:
        found |= {"text": sample["resps"][0][0], "answer": sample["filtered_resps"][0]}
    return found | {"scores": {name: float(sample[name]) for name in METRICS if name in sample}}


def main() -> None:
    results: list[dict[str, Any]] = []
    for model, chat in [(sys.argv[1], False), (sys.argv[1], True), (sys.argv[2], False)]:
        result = simple_evaluate(
            model="hf", model_args=f"pretrained={model},dtype=float32", device="cpu", batch_size=4, log_samples=True,
            tasks=[task for task in TASKS if not (chat and task in PLAIN)],
            task_manager=TaskManager(include_path=".", include_defaults=False), apply_chat_template=chat, fewshot_as_multiturn=chat,
            bootstrap_iters=0,
        )  # fmt: skip
        for task, samples in result["samples"].items():
            for name in dict.fromkeys(sample["filter"] for sample in samples):
                rows = sorted((sample for sample in samples if sample["filter"] == name), key=lambda sample: sample["doc_id"])
                head = {"model": Path(model).name, "chat": chat, "task": task, "filter": None if name == "none" else name}
                results.append(head | {"first_prompt": rows[0]["arguments"][0][0], "items": [item(row) for row in rows]})
    lines = ",\n".join(json.dumps(result, ensure_ascii=False) for result in results)
    head = json.dumps({"lm_eval": version("lm-eval"), "command": "python reference.py EMBEDDED STORIES"})
    Path("reference.json").write_text(f'{head[:-1]}, "results": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
