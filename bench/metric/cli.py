"""The command that measures detectors of hallucination."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from bench.errors import BenchError


def register(app: typer.Typer) -> None:
    """Add ``validate-detector`` to a command line."""
    app.command("validate-detector")(validate_detector)


def validate_detector(
    path: Annotated[Path, typer.Argument(metavar="FILE_OR_FOLDER", help="Labelled responses: a .jsonl file or a folder of them.")],
    split: Annotated[str, typer.Option(help="Which file of a folder.")] = "test",
    model: Annotated[str | None, typer.Option(help="Also an entailment model: a folder in Hugging Face format or a hub id.")] = None,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run code that the model brings along.")] = False,
    judge_url: Annotated[str | None, typer.Option(help="Also an LLM judge: base URL of an OpenAI-compatible endpoint.")] = None,
    judge_model: Annotated[str | None, typer.Option(help="The judge's model name at the endpoint.")] = None,
    format: Annotated[str, typer.Option(help="md, csv or json.")] = "md",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write to a file.")] = None,
) -> None:
    """Measure how well each detector of hallucination tells labelled responses apart, next to their length alone.

    The API key of a judge is read from OPENAI_API_KEY where that is set.

    Example: bench validate-detector labelled.jsonl --format json -o detectors.json
    """
    from bench.metric.detector import DETECTORS
    from bench.metric.detector_data import read_labelled
    from bench.metric.detector_table import FORMATS, render, validate
    from bench.result.store import write_atomic

    if format not in FORMATS:
        raise BenchError(f'--format: found "{format}", expected {", ".join(FORMATS)}')
    if (judge_url is None) != (judge_model is None):
        raise BenchError("--judge-url and --judge-model: found one, expected both or none")
    labelled = read_labelled(path, split)
    # Imported along, it tells that an optional package with faster kernels is not there.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    detectors = list(DETECTORS)
    if model is not None:
        from bench.metric.entailment import EntailmentModel

        detectors.append(EntailmentModel(model, trust_remote_code=trust_remote_code).detector())
    if judge_url is not None and judge_model is not None:
        from bench.metric.judge import Judge
        from bench.model.endpoint import ChatEndpoint

        detectors.append(Judge(ChatEndpoint(judge_url, judge_model)).detector())
    text = render(validate(labelled, detectors), format)
    if output:
        write_atomic(output, text)
    else:
        sys.stdout.write(text)
