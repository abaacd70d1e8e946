"""How the runs behind a report can be made again: their commands, environments and hashes."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.result.arms import Arm
from bench.result.schema import Run
from bench.result.store import RunFolder


def command_of(folder: RunFolder, header: Run) -> str:
    """The ``bench run`` line that makes a run again: a packaged suite with options, or the suite as resolved where no options do.

    Of several suites the one that the run is named after, else the default one, else the one that needs the fewest options.
    """
    from importlib import resources

    from bench.suite import load_suite

    place = [] if folder.path.parent == Path("results") else ["--results", str(folder.path.parent)]
    found: list[tuple[tuple[bool, bool, int], list[str]]] = []
    for file in sorted(resources.files("bench").joinpath("suites").iterdir(), key=lambda entry: entry.name):
        name = file.name.removesuffix(".yaml")
        if name != file.name and (options := _options(load_suite(name).model_dump(mode="json"), header.suite)) is not None:
            named = [] if header.name == name and not options else ["--name", header.name]
            rank = (not header.name.startswith(name), name != "default", len(options))
            found.append((rank, ["bench", "run", name, *options, *named, *place]))
    if found:
        return shlex.join(_printable(word) for word in min(found)[1])
    words = shlex.join(_printable(word) for word in ["bench", "run", "suite.yaml", "--name", header.name, *place])
    return f"{words}  # suite.yaml: what run.json has under the key suite"


def _options(base: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str] | None:
    """The options that turn one suite into another; None where none do."""
    lists = {"tasks": "--task", "strategies": "--strategy"}
    values = {key: f"--{key.replace('_', '-')}" for key in ("model", "dtype", "quantize", "limit", "data", "continue_from")}
    flags = {"multitask": "--multitask", "trust_remote_code": "--trust-remote-code"}
    sizes = {"train_examples": "--train-examples", "trials": "--trials"}
    words: list[str] = []
    wanted = {key: base[key] for key in ("dtype", "quantize")} | dict(wanted)  # runs of earlier versions do not have them

    def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
        return ((key, b.get(key)) for key in dict.fromkeys([*a, *b]) if a.get(key) != b.get(key))

    for key, value in differing(base, wanted):
        if key in lists:
            words += [word for entry in value for word in (lists[key], str(entry))]
        elif key in values and value is not None:
            words += [values[key], str(value)]
        elif key in flags and value is True:
            words.append(flags[key])
        elif key == "seeds" and value == list(range(len(value))):
            words += ["--seeds", str(len(value))]
        elif key == "probes" and value and value[: len(base[key])] == base[key]:
            words += [word for name in value[len(base[key]) :] for word in ("--probe", name)]
        elif key == "budget":
            for name, number in differing(base[key], value):
                if name not in sizes or number is None:
                    return None
                words += [sizes[name], str(number)]
        elif key == "probes" and value == [] and not wanted.get("probe_settings"):
            words.append("--no-probes")
        elif key == "probe_settings" and value == {} and wanted.get("probes") == []:
            continue  # --no-probes leaves them out
        else:
            return None
    return words


def _printable(word: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in word)


def environment_of(folders: Sequence[RunFolder], headers: Sequence[Run], arms: Sequence[Arm], notes: list[str]) -> dict[str, Any]:
    """Of the last run; what others had otherwise is a note."""
    last = headers[-1].environment
    for folder, header in zip(folders[:-1], headers[:-1], strict=True):
        other = sorted(key for key in last.keys() | header.environment.keys() if last.get(key) != header.environment.get(key))
        if other:
            notes.append(f"{folder.path} was made in another environment than {folders[-1].path}: {', '.join(other)}")
    gpu = sorted({str(record.environment["gpu"]) for arm in arms for record in arm.ok if "gpu" in record.environment})
    return {**last, **({"gpu": ", ".join(gpu)} if gpu else {})}


def fingerprints_of(arms: Sequence[Arm]) -> dict[str, dict[str, str]]:
    """Task (and model, where there are several) -> what is hashed -> SHA-256, each strategy by its name."""
    models = {arm.model for arm in arms}
    found: dict[str, dict[str, str]] = {}
    for arm in arms:
        of_task = found.setdefault(arm.task if len(models) == 1 else f"{arm.task} ({arm.model})", {})
        for prints in (record.fingerprints for record in arm.records if record.fingerprints):
            hashes = prints.model_dump(exclude={"strategy", "scoring"})
            of_task.update({**hashes, "scoring version": prints.scoring, f"strategy {arm.strategy}": prints.strategy})
    return found
