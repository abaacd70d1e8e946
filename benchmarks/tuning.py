"""Workloads that train: LoRA and full fine-tuning, beside trl's SFTTrainer and a loop of plain torch over the same batches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from benchmarks import agree, material
from benchmarks.workload import PEERS, ROOT, Goal, Reading, Sizes, Workload, direct, run, run_suite, write_suite

Method = Literal["lora", "full"]

TITLES: dict[Method, str] = {"lora": "LoRA", "full": "full fine-tuning"}
BATCH, EPOCHS = 8, 1
LEARNING_RATE: dict[Method, float] = {"lora": 1e-2, "full": 1e-3}
LORA = {"r": 8, "alpha": 16, "dropout": 0.0}
TOKENS = (13, 128)
"""Tokens of a training row, prompt and completion."""


def strategy(method: Method) -> dict[str, Any]:
    """trl's defaults in this harness's words: AdamW, linear schedule without warm-up, no weight decay, gradients clipped at 1."""
    return {"tuning": {
        "method": method, **(LORA if method == "lora" else {}), "learning_rate": LEARNING_RATE[method], "epochs": EPOCHS,
        "batch_size": BATCH, "schedule": "linear", "warmup_share": 0.0, "weight_decay": 0.0, "max_gradient_norm": 1.0,
        "precision": "float32", "evaluations": 1,
    }}  # fmt: skip


def prepare(folder: Path, weights: Path, method: Method, rows: int) -> None:
    """The task and suite of this harness, and the settings of trl with the same rows as conversations."""
    splits = {s: material.tuning_rows(n, s, (2, 114)) for s, n in (("train", rows), ("validation", 2), ("test", 2))}
    settings = {"kind": "qa", "instruction": "Copy.", "input": "{{ question }}", "target": "answer", "metrics": ["exact_match"]}
    material.write_task(folder / "task", settings | {"max_new_tokens": 8}, splits)
    write_suite(folder / "suite.yaml", weights, [folder / "task"], {method: strategy(method)})
    _, tokens = direct("rows", folder, suite=folder / "suite.yaml")
    lengths = [len(ids) for ids, _ in tokens]
    if min(lengths) < TOKENS[0] or max(lengths) > TOKENS[1]:
        raise ValueError(f"training rows of {min(lengths)} to {max(lengths)} tokens; expected {TOKENS[0]} to {TOKENS[1]}")
    asked = [
        {
            "prompt": [{"role": "user", "content": f"Copy.\n\n{row['question']}"}],
            "completion": [{"role": "assistant", "content": row["answer"]}],
        }
        for row in splits["train"]
    ]
    training: dict[str, Any] = {"num_train_epochs": EPOCHS, "per_device_train_batch_size": BATCH, "learning_rate": LEARNING_RATE[method]}
    lora = {"r": LORA["r"], "lora_alpha": LORA["alpha"], "lora_dropout": LORA["dropout"]} if method == "lora" else None
    (folder / "trl.json").write_text(json.dumps({"model": str(weights), "rows": asked, "training": training, "lora": lora}))


def against_trl(work: Path, method: Method, model: str, said: str, rows: int) -> Workload:
    name = f"{method}-{model}"
    folder, weights = work / f"tuning-{name}", work / "models" / model

    def ours(place: Path) -> Reading:
        used, _ = run_suite(folder / "suite.yaml", place)
        _, trained = direct("tune", place / "direct", suite=folder / "suite.yaml")
        return Reading(used, trained["cpu_seconds"], trained)

    def theirs(place: Path) -> Reading:
        report = place / "report.json"
        used = run([PEERS / "python", ROOT / "benchmarks" / "peers" / "trl_run.py", folder / "trl.json", report], place)
        found = json.loads(report.read_text())
        _, rows_here = direct("rows", place / "rows", suite=folder / "suite.yaml")
        agree.tokens(sorted(rows_here), sorted(found["rows"]))
        _, loss = direct("loss", place / "loss", suite=folder / "suite.yaml", trained=place / "trained")
        return Reading(used, found["cpu_seconds"], loss)

    def check(mine: Reading, peers: Reading) -> str:
        return agree.losses(mine.answers["loss_after"], peers.answers, mine.answers["loss_before"], 0.15)

    return Workload(
        f"tuning-{name}", f"{TITLES[method]}, {rows} examples of 13 to 128 tokens ({said})", "trl SFTTrainer",
        lambda: prepare(folder, weights, method, rows), ours, theirs, check, Goal("faster", 1.1), Goal("faster", 1.3),
        repeats=2,
    )  # fmt: skip


def against_loop(work: Path, method: Method, model: str, said: str, rows: int) -> Workload:
    name = f"loop-{method}-{model}"
    folder, weights = work / name, work / "models" / model

    def side(part: str, place: Path) -> Reading:
        used, trained = direct(part, place, suite=folder / "suite.yaml")
        return Reading(used, trained["cpu_seconds"], trained)

    def check(mine: Reading, peers: Reading) -> str:
        return agree.losses(mine.answers["loss_after"], peers.answers["loss_after"], mine.answers["loss_before"], 0.001)

    return Workload(
        name, f"{TITLES[method]}, the same batches ({said})", "loop of plain torch", lambda: prepare(folder, weights, method, rows),
        lambda place: side("tune", place), lambda place: side("loop", place), check, None, Goal("times", 1.1),
        repeats=2,
    )  # fmt: skip


def tuning(work: Path, sizes: Sizes) -> list[Workload]:
    models = (("chat", "embedded base", sizes.rows), ("llama30m-chat", "30 M parameters", sizes.rows_large))
    methods: tuple[Method, ...] = ("lora", "full")
    return [make(work, method, *model) for make in (against_trl, against_loop) for method in methods for model in models]
