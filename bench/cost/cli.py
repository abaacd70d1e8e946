"""The commands about money and memory: what strategies cost, from records, and what they will take, before they are run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (cost, plan):
        app.command()(command)


def cost(
    run_folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs; several are read together.")],
    prices: Annotated[Path | None, typer.Option(help="A price file; default: the one that comes with the package.")] = None,
    assumptions: Annotated[
        Path | None, typer.Option(help="A file of assumptions; what it leaves out is as in the one of the package.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="Only this task.")] = None,
    price_model: Annotated[
        str | None, typer.Option(help="A hosted model of the price file: strategies that train nothing pay its price for tokens.")
    ] = None,
    format: Annotated[str, typer.Option(help="md, csv (the strategies) or json.")] = "md",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write to a file.")] = None,
) -> None:
    """Print what each strategy costs in total over a horizon, and from when on which one is cheaper.

    Example: bench cost results/default --task product_support
    """
    from bench.cost.assumptions import load_assumptions
    from bench.cost.prices import load_prices
    from bench.cost.total import total_costs
    from bench.cost.total_text import render_total

    found = total_costs(run_folders, load_prices(prices), load_assumptions(assumptions), task=task, price_model=price_model)
    _give(render_total(found, format), output)


def _give(text: str, output: Path | None) -> None:
    from bench.result.store import write_atomic

    if output:
        write_atomic(output, text)
    else:
        sys.stdout.write(text)


def plan(
    model: Annotated[str, typer.Option(help="embedded, a folder in Hugging Face format, a hub id, or a config.json: no weights are read.")],
    gpu: Annotated[str | None, typer.Option(help="A device of the table, such as L40S.")] = None,
    vram: Annotated[float | None, typer.Option(min=0, help="Memory in GiB, where the device is not in the table; no times then.")] = None,
    strategy: Annotated[list[str] | None, typer.Option("--strategy", help="Preset or .yaml file; may be repeated; default: all.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Examples per optimizer step; default: the strategy's.")] = None,
    seq_len: Annotated[int, typer.Option(min=2, help="Tokens of an example with its answer, without shots and passages.")] = 512,
    answer_tokens: Annotated[int, typer.Option(min=1, help="Of these the answer's: predicted in training, generated in use.")] = 64,
    examples: Annotated[int, typer.Option(min=1, help="Examples to train on.")] = 200,
    epochs: Annotated[float | None, typer.Option(min=0, help="Default: the strategy's.")] = None,
    trials: Annotated[int, typer.Option(min=1, help="Trainings of the search on validation.")] = 1,
    dtype: Annotated[str, typer.Option(help="What the base is kept in: bfloat16, float16, float32 or nf4.")] = "bfloat16",
    trained_dtype: Annotated[str, typer.Option(help="What moves is kept in: float32 or bfloat16.")] = "float32",
    optimizer: Annotated[str, typer.Option(help="adamw (fused, as here), adamw-foreach, adamw-8bit, sgd or adafactor.")] = "adamw",
    checkpointing: Annotated[bool, typer.Option("--checkpointing", help="Compute activations again in the backward pass.")] = False,
    lora_r: Annotated[int | None, typer.Option("--lora-r", min=1, help="Rank, of strategies that have one.")] = None,
    targets: Annotated[str | None, typer.Option(help="Modules to adapt: names with commas between, or all-linear.")] = None,
    virtual_tokens: Annotated[int | None, typer.Option(min=1, help="Of strategies that have them.")] = None,
    prefix: Annotated[int, typer.Option(min=0, help="Tokens that all prompts begin with and that are kept in the cache.")] = 0,
    serve_batch: Annotated[int, typer.Option(min=1, help="Requests that are answered together.")] = 1,
    shot_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a worked example.")] = 128,
    passage_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a retrieved passage.")] = 128,
    corpus_chunks: Annotated[int, typer.Option(min=1, help="Passages of the corpus.")] = 1000,
    labels: Annotated[int, typer.Option(min=2, help="Labels that a classification head tells apart.")] = 2,
    set_: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE over every strategy, such as tuning.r=64.")] = None,
    prices: Annotated[Path | None, typer.Option(help="A price file; default: the one that comes with the package.")] = None,
    calibrate: Annotated[list[Path] | None, typer.Option("--calibrate", help="A measured run to fit to, in place of --gpu.")] = None,
    format: Annotated[str, typer.Option(help="table or json.")] = "table",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write to a file.")] = None,
) -> None:
    """Predict memory, time and price of strategies from a model's configuration, before anything is downloaded or trained.

    Example: bench plan --model ./config.json --gpu L40S --strategy lora --strategy full --batch 4 --seq-len 768 --examples 5000 --epochs 1
    """
    from bench.run.plan_command import Request, run_plan

    text = run_plan(
        Request(
            model=model, gpu=gpu, vram_gib=vram, strategies=strategy or [], dtype=dtype, trained_dtype=trained_dtype, optimizer=optimizer,
            checkpointing=checkpointing, lora_r=lora_r, targets=targets, virtual_tokens=virtual_tokens, settings=set_ or [], prices=prices,
            calibrate=calibrate or [], format=format,
            work={
                "batch": batch, "seq_len": seq_len, "answer_tokens": answer_tokens, "examples": examples, "epochs": epochs,
                "trials": trials, "prefix": prefix, "serve_batch": serve_batch, "shot_tokens": shot_tokens,
                "passage_tokens": passage_tokens, "corpus_chunks": corpus_chunks, "labels": labels,
            },
        )
    )  # fmt: skip
    _give(text, output)
