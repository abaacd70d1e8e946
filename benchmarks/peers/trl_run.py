"""Train by trl's SFTTrainer: ``trl_run.py SETTINGS REPORT``, both JSON.

Left at trl's defaults but for what both sides are given (see benchmarks/tuning.py) and gradient checkpointing, which is
off on both sides: it trades time for memory.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer


def main() -> None:
    settings, report = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(settings["model"], dtype=torch.float32)
    config = SFTConfig(
        output_dir=str(report.parent / "trl"), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none", save_strategy="no",
        seed=0, **settings["training"],
    )  # fmt: skip
    lora = LoraConfig(**settings["lora"], target_modules="all-linear", task_type="CAUSAL_LM") if settings["lora"] else None
    trainer = SFTTrainer(model=model, args=config, train_dataset=Dataset.from_list(settings["rows"]), peft_config=lora)
    cpu, wall = time.process_time(), time.perf_counter()
    trainer.train()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    trainer.save_model(str(report.parent / "trained"))
    seen = trainer.train_dataset[:]
    prompts = [next(i for i, label in enumerate(labels) if label != -100) for labels in seen["labels"]]
    rows = list(zip(seen["input_ids"], prompts, strict=True))
    report.write_text(json.dumps({"cpu_seconds": cpu, "wall_seconds": wall, "rows": rows}))


if __name__ == "__main__":
    main()
