"""The command line: parses, calls, prints. Heavy libraries are imported by the commands that need them."""

from __future__ import annotations

import gc
import os
import sys
import traceback
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from bench.cost.cli import register as register_cost
from bench.errors import BenchError, did_you_mean
from bench.metric.cli import register as register_metrics
from bench.regression.cli import register as register_regression
from bench.report.cli import register as register_report
from bench.result.cli import register as register_result
from bench.result.inspect_cli import register as register_inspect
from bench.result.text import visible
from bench.run.jobs_cli import register_jobs
from bench.settings import parse_assignments
from bench.task.cli import register as register_task
from bench.task.lm_eval_cli import register as register_lm_eval
from bench.world.cli import base_app, world_app

if TYPE_CHECKING:
    from rich.console import Console

    from bench.cost.prices import Prices, TokenPrice
    from bench.model.source import Endpoint
    from bench.result.store import RunFolder
    from bench.suite import Suite

app = typer.Typer(
    help="Compare ways of adapting a language model (prompting, RAG, adapters, full fine-tuning) on the same task, with evidence.",
    no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, rich_markup_mode=None,
)  # fmt: skip
app.add_typer(world_app, name="world")
app.add_typer(base_app, name="base-model")

Results = Annotated[Path, typer.Option("--results", help="Folder that holds the runs.")]


@cache
def console() -> Console:
    from rich.console import Console

    # A pipe or a log has no width of its own; the table needs about 120 columns.
    return Console(width=None if sys.stdout.isatty() else 140)


@app.command()
def run(
    suite: Annotated[str, typer.Argument(help="A suite that comes with the package, or a .yaml file.")] = "default",
    task: Annotated[list[str] | None, typer.Option("--task", help="Task name or folder; may be repeated.")] = None,
    strategy: Annotated[list[str] | None, typer.Option("--strategy", help="Preset or .yaml file; may be repeated.")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="embedded, a folder in Hugging Face format or with a peft adapter, a .gguf file, a hub id such as owner/name or "
            "owner/name@REVISION, or a served model's name."
        ),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the hub id that --model names.")] = None,
    dtype: Annotated[str | None, typer.Option(help="What the model's weights are kept in: auto, float32, bfloat16 or float16.")] = None,
    quantize: Annotated[str | None, typer.Option(help="Keep the model's linear layers in fewer bits: none, nf4 or int8.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N; default: the first GPU, where there is one.")] = None,
    endpoint: Annotated[str | None, typer.Option(metavar="URL", help="OpenAI-compatible API where --model is served.")] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Requests to the endpoint at a time; default: 8.")] = None,
    api_key_env: Annotated[str | None, typer.Option(help="Environment variable with the key; default: OPENAI_API_KEY.")] = None,
    max_usd: Annotated[float | None, typer.Option(min=0, help="Stop before the run has cost more at the endpoint.")] = None,
    prices: Annotated[str | None, typer.Option(metavar="FILE", help="With --max-usd or --dry-run: a price file of your own.")] = None,
    price_model: Annotated[str | None, typer.Option(metavar="NAME", help="The price file's name of the served model.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Ask nothing; print requests, tokens and dollars.")] = False,
    seeds: Annotated[int | None, typer.Option(min=1, help="Number of seeds, counted from 0.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Test items per task.")] = None,
    train_sizes: Annotated[str | None, typer.Option(help="Such as 10,25,50: the suite once per size, and the learning curve.")] = None,
    train_examples: Annotated[int | None, typer.Option(min=1, help="Labelled examples that every strategy gets.")] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Search trials that every strategy gets.")] = None,
    data: Annotated[str | None, typer.Option(help="Folder or hub id with the task's rows, over its own.")] = None,
    probe: Annotated[list[str] | None, typer.Option("--probe", help="What to measure beside the task; may be repeated.")] = None,
    no_probes: Annotated[bool, typer.Option("--no-probes", help="Measure the task alone, whatever the suite names.")] = False,
    probe_set: Annotated[list[str] | None, typer.Option(help="PROBE.SETTING=VALUE, such as entailment.model=./nli.")] = None,
    results: Results = Path("results"),
    name: Annotated[str | None, typer.Option(help="Name of the run; default: the suite's, with a hash where options change it.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Cells at a time.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads per cell; another number rounds sums differently.")] = 1,
    fresh: Annotated[bool, typer.Option("--fresh", help="Recompute everything; an earlier run of the name is kept aside.")] = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE over every strategy, such as tuning.batch_size=32; may be repeated.")
    ] = None,
    multitask: Annotated[bool, typer.Option("--multitask", help="Train on the examples of all tasks together.")] = False,
    continue_from: Annotated[str | None, typer.Option(help="Run whose adapters training starts from.")] = None,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run code that a hub model brings along.")] = False,
) -> None:
    """Run a suite and print its table. Finished cells are kept: a second run does only what is missing.

    Examples: bench run --model ./my-model --task tasks/product_support --strategy zero-shot --strategy lora;
    bench run --endpoint http://localhost:8000/v1 --model my-model --task product_support --strategy rag --dry-run
    """
    from bench.device import use_device
    from bench.model.source import Dtype, Quantize, revised_name, served_name
    from bench.run.served_run import served_endpoint
    from bench.run.suite_run import run_suite, run_train_sizes
    from bench.suite import load_suite

    base = load_suite(suite)
    if endpoint is not None:
        if model is None:
            raise BenchError("--endpoint: found no --model beside it, expected the model's name there")
        model = served_name(model, endpoint)
    if revision is not None:
        if model is None:
            raise BenchError("--revision: found no --model beside it, expected a hub id there")
        model = revised_name(model, revision)
    for option, value, known in (("--dtype", dtype, get_args(Dtype)), ("--quantize", quantize, get_args(Quantize))):
        if value is not None and value not in known:
            raise BenchError(f'{option}: found "{value}"; {did_you_mean(value, known)}')
    if device is not None:
        use_device(device)
    given: dict[str, Any] = {"model": model, "tasks": task, "strategies": strategy, "limit": limit, "data": data}
    given |= {"dtype": dtype, "quantize": quantize}
    given |= {"seeds": list(range(seeds)) if seeds else None, "trust_remote_code": trust_remote_code or None}
    given |= {"multitask": multitask or None, "continue_from": continue_from}
    if no_probes and (probe or probe_set):
        raise BenchError("--no-probes: found --probe or --probe-set beside it, expected one of them")
    given["probes"] = [] if no_probes else list(dict.fromkeys([*base.probes, *probe])) if probe else None
    given["probe_settings"] = {} if no_probes else _probe_settings(base.probe_settings, probe_set) if probe_set else None
    given["settings"] = base.settings | parse_assignments(set_, "--set") if set_ else None
    budget: dict[str, Any] = {k: v for k, v in (("train_examples", train_examples), ("trials", trials)) if v is not None}
    overrides = {k: v for k, v in given.items() if v is not None}
    if budget:
        overrides["budget"] = base.budget.model_copy(update=budget)
    chosen = base.model_copy(update=overrides)
    served = served_endpoint(chosen.model, concurrency, api_key_env, prices, price_model, max_usd)
    if served:
        chosen = _with_named_probes(chosen, probe or [])
    if dry_run:
        _show_dry_run(chosen, served)
        return
    if max_usd is not None and train_sizes is not None:
        raise BenchError("--max-usd and --train-sizes: found both, expected one: the cap is a run's")
    stem = Path(suite).stem
    name = name or (stem if chosen.digest == base.digest else f"{stem}-{chosen.digest[:8]}")
    # Cells one after the other: --concurrency is then the number of all requests at a time.
    how = (workers or (1 if served else _default_workers()), threads, fresh, console(), served)
    if train_sizes is None:
        folder, outcome = run_suite(chosen, results, name, *how)
        _show_table(folder)
    else:
        folders, outcome = run_train_sizes(chosen, _sizes(train_sizes, train_examples), results, name, *how)
        if not outcome.failed:
            _show_curves(folders)
    if outcome.failed:
        first = outcome.failed[0]
        more = f" (and {len(outcome.failed) - 1} more)" if len(outcome.failed) > 1 else ""
        where = f"{first.task} / {first.strategy} / s{first.seed}"
        raise BenchError(f"{len(outcome.failed)} of {outcome.total} cells failed: {where}: {first.failure}{more}")


def _probe_settings(base: dict[str, dict[str, Any]], given: list[str]) -> dict[str, dict[str, Any]]:
    found = {name: dict(settings) for name, settings in base.items()}
    for key, value in parse_assignments(given, "--probe-set").items():
        probe, _, setting = key.partition(".")
        found.setdefault(probe, {})[setting] = value
    return found


def _with_named_probes(suite: Suite, named: list[str]) -> Suite:
    """A served model's suite: probes ask for more than the task, so only those that the command itself names are run."""
    settings = {name: own for name, own in suite.probe_settings.items() if name in named}
    return suite.model_copy(update={"probes": list(dict.fromkeys(named)), "probe_settings": settings})


def _show_dry_run(suite: Suite, served: Endpoint | None) -> None:
    from bench.run.served_run import dry_run

    if served is None:
        raise BenchError("--dry-run: found no --endpoint beside it; for a model that is loaded here see bench plan")
    sys.stdout.write(dry_run(suite, served.price))


def _default_workers() -> int:
    from bench.device import has_gpu

    return 1 if has_gpu() else max(1, min(4, os.cpu_count() or 1))


def _sizes(given: str, train_examples: int | None) -> list[int]:
    if train_examples is not None:
        raise BenchError("--train-sizes and --train-examples: found both, expected one")
    try:
        return [int(n) for n in given.split(",")]
    except ValueError:
        raise BenchError(f"--train-sizes: found {given}; expected numbers such as 10,25,50") from None


def _show_curves(folders: list[RunFolder]) -> None:
    from bench.result.curve import learning_curves
    from bench.result.curve_text import render_curves

    sys.stdout.write(render_curves(learning_curves([f.path for f in folders]), "md"))


def _show_table(folder: RunFolder) -> None:
    from bench.result.render import print_table
    from bench.result.table import write_table

    print_table(console(), write_table(folder))
    console().print(f"Written: {folder.path}/table.md, table.csv, table.parquet", highlight=False, soft_wrap=True)


def _prices(file: str | None, model: str | None) -> tuple[Prices | None, TokenPrice | None]:
    if file is None:
        return None, None
    from bench.cost.prices import load_prices

    prices = load_prices(file)
    return prices, None if model is None else prices.model(model)


@app.command()
def table(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    format: Annotated[str, typer.Option(help="md, csv, json, latex or parquet (parquet to a file only).")] = "md",
    by: Annotated[str, typer.Option(help="Order rows by task or by strategy.")] = "task",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write to a file.")] = None,
    slices: Annotated[bool, typer.Option("--slices", help="The primary metric by the slices that tasks declare.")] = False,
    errors: Annotated[bool, typer.Option("--errors", help="Shares of the kinds of error that strategies with passages make.")] = False,
    usage: Annotated[bool, typer.Option("--usage", help="What each phase took: seconds, FLOPs, joules, memory by part.")] = False,
    prices: Annotated[
        str | None, typer.Option(metavar="FILE|default", help="Dollars at the prices of a file, or at the dated ones that come along.")
    ] = None,
    price_model: Annotated[str | None, typer.Option(metavar="NAME", help="With --prices: also what a hosted model would charge.")] = None,
) -> None:
    """Print a run's table, from its records alone.

    Examples: bench table results/default --format csv -o default.csv; bench table results/default --prices default
    """
    from bench.result.render import render
    from bench.result.store import RunFolder, write_atomic
    from bench.result.table import error_table, slice_table, table_rows
    from bench.result.usage import usage_table

    folder = RunFolder(run_folder)
    if slices + errors + usage + (prices is not None) > 1:
        raise BenchError("--slices, --errors, --usage and --prices: found several, expected one")
    if price_model is not None and prices is None:
        raise BenchError('--price-model: expected --prices beside it: a file, or "default"')
    if slices or errors or usage:
        frame = slice_table(folder) if slices else error_table(folder) if errors else usage_table(folder)
        content: str | bytes = frame.to_csv(index=False) if format == "csv" else frame.to_string(index=False) + "\n"
    else:
        content = render(table_rows(folder, *_prices(prices, price_model)), format, by)
    if output:
        write_atomic(output, content)
    elif isinstance(content, bytes):
        raise BenchError("--format parquet: binary; give a file with -o")
    else:
        sys.stdout.write(content)


register_result(app)
register_cost(app)
register_report(app)
register_regression(app)
register_inspect(app)
register_jobs(app)


@app.command()
def export(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN")],
    cell: Annotated[str, typer.Argument(help="task/strategy or task/strategy/s0")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to make.")],
    merged: Annotated[bool, typer.Option("--merged", help="Put the adapter into the base and write a whole model.")] = False,
) -> None:
    """Write a cell's strategy as a folder that answers questions: weights, prompt, index, model card and a script.

    Example: bench export results/default product_support/rag-lora/s0 -o rag-lora
    """
    from bench.run.export import export_cell

    export_cell(run_folder, cell, output, merged, lambda text: console().print(text, highlight=False, markup=False, end="\r"))
    console().print(f'Written: {output}. Try it: python {output}/answer.py "text of the input"', highlight=False, soft_wrap=True)


@app.command("list")
def list_(what: Annotated[str, typer.Argument(help="tasks, strategies, models, metrics, probes or claims")]) -> None:
    """List what is there by name.

    Example: bench list strategies
    """
    from bench.metric.registry import describe, metric_names
    from bench.strategy.spec import load_strategy, preset_names
    from bench.suite import tasks_folder

    rows: list[tuple[str, str]]
    if what == "tasks":
        import yaml

        files = sorted(tasks_folder().glob("*/task.yaml"))
        rows = [(f.parent.name, str((yaml.safe_load(f.read_text()) or {}).get("description", ""))) for f in files]
    elif what == "strategies":
        loaded = [load_strategy(n) for n in preset_names()]
        rows = [(n, f"{s.family}: {s.description}") for n, s in loaded]
    elif what == "models":
        rows = [
            ("embedded", "The base model that comes with the package."),
            ("all-MiniLM-L6-v2", "An encoder that comes with the installation, for classification tasks."),
            ("FOLDER", "Any model in Hugging Face format, or a peft adapter, which is merged into the base that it names."),
            ("FILE.gguf", "A GGUF file of an architecture that transformers reads (pip install gguf)."),
            ("OWNER/NAME", "A model of the hub; OWNER/NAME@REVISION at a branch, tag or commit."),
            ("NAME@URL", "A served model, behind an API as OpenAI's."),
        ]
    elif what == "metrics":
        rows = [(n, describe(n)) for n in metric_names()]
    elif what == "probes":
        from bench.probe.base import get, probe_names

        rows = [(n, (get(n).__doc__ or "").splitlines()[0] + (" (trains again)" if get(n).trains else "")) for n in probe_names()]
    elif what == "claims":
        from bench.result.claims import load_claims

        rows = [(c.id, c.claim) for c in load_claims()]
    else:
        known = ("tasks", "strategies", "models", "metrics", "probes", "claims")
        raise BenchError(f'list: found "{what}"; {did_you_mean(what, known)}')
    width = max((len(n) for n, _ in rows), default=0)
    for row_name, text in rows:
        print(f"{row_name:<{width}}  {text}")


register_task(app)
register_lm_eval(app)
register_metrics(app)


def main() -> None:
    """Entry point: a `BenchError` is one line on stderr and exit code 2; ``--debug`` shows the traceback."""
    # A command makes many records that it keeps to its end; the collector's own threshold has it walk all of them again and again.
    gc.set_threshold(100_000)
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        app()
    except BenchError as error:
        if debug:
            traceback.print_exc()
        print(f"bench: {visible(str(error))}", file=sys.stderr)
        sys.exit(2)
