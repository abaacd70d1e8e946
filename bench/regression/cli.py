"""The commands that guard a baseline: check, accept, history, bisect."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.errors import BenchError

if TYPE_CHECKING:
    from bench.regression.baseline import Side
    from bench.regression.bisect import Bisection
    from bench.regression.bisect import Verdict as Judged
    from bench.regression.history import Measure
    from bench.regression.model import Check, Comparison, Gates
    from bench.result.store import RunFolder

BASELINES = Path("results/baseline")
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")]
Against = Annotated[
    Path | None, typer.Option(metavar="BASELINE", help="A baseline's folder, or another run's; default: results/baseline/<name of RUN>.")
]
GatesFile = Annotated[Path | None, typer.Option(help="Margins and tolerances; default: gates.yaml beside the baseline, if there is one.")]
Setup = Annotated[
    str | None, typer.Option(metavar="COMMAND", help='Makes the environment of a checked-out commit, such as "make setup"; default: none.')
]
Python = Annotated[str | None, typer.Option(metavar="PATH", help="The interpreter that --setup makes, such as .venv/bin/python.")]
OutputFile = Path | None


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (check, accept, history, bisect):
        app.command()(command)


def check(
    run: RunArgument,
    against: Against = None,
    gates: GatesFile = None,
    relative: Annotated[
        bool, typer.Option("--relative", help="Run the baseline's commit and the present code in turn here, and compare these.")
    ] = False,
    repeats: Annotated[int, typer.Option(min=1, help="With --relative: runs of each side; five are needed to judge seconds.")] = 5,
    setup: Setup = None,
    python: Python = None,
    junit: Annotated[OutputFile, typer.Option(help="Write JUnit XML.")] = None,
    markdown: Annotated[OutputFile, typer.Option(help="Write a comment for a pull request.")] = None,
    jsonl: Annotated[OutputFile, typer.Option(help="Write one line per gate with all of its numbers.")] = None,
    benchmark: Annotated[
        OutputFile, typer.Option(metavar="FOLDER", help="Write smaller.json and bigger.json for github-action-benchmark.")
    ] = None,
    bencher: Annotated[OutputFile, typer.Option(help="Write Bencher Metric Format.")] = None,
    github: Annotated[bool, typer.Option("--github", help="In a job of GitHub: step summary, annotations and the output verdict.")] = False,
    history: Annotated[OutputFile, typer.Option(help="Where a line is added; default: history.jsonl beside the run.")] = None,
    inconclusive_ok: Annotated[bool, typer.Option("--inconclusive-ok", help="Exit 0, not 3, where it cannot be told.")] = False,
) -> None:
    """Compare a run with its baseline; exit 0 where nothing is worse, 1 for a regression, 2 for bad input, 3 where it cannot be told.

    Example: bench check results/smoke --against results/baseline/smoke --junit check.xml
    """
    from bench.regression.baseline import side_of_run
    from bench.regression.check import check as compare_all
    from bench.regression.check import load_gates
    from bench.regression.markdown import report_text
    from bench.result.store import write_atomic

    folder = against or BASELINES / run.resolve().name
    chosen = load_gates(gates, folder)
    if not relative and (setup or python):
        raise BenchError("--setup and --python: found without --relative, expected with it")
    new = side_of_run(run)
    found = _relative(new, run, folder, chosen, repeats, setup, python) if relative else compare_all(run, folder, chosen, new)
    _append_line(found, new, chosen, history or run.resolve().parent / "history.jsonl")
    for path, content in _outputs(found, junit, markdown, jsonl, benchmark, bencher):
        write_atomic(path, content)
    sys.stdout.write(report_text(found))
    if github:
        from bench.regression.github import write_github

        write_github(found, os.environ)
    raise typer.Exit(0 if inconclusive_ok and found.exit_code == 3 else found.exit_code)


def _outputs(
    found: Check, junit: OutputFile, markdown: OutputFile, jsonl: OutputFile, benchmark: OutputFile, bencher: OutputFile
) -> list[tuple[Path, str]]:
    from bench.regression.exchange import bencher_json, benchmark_json, results_jsonl
    from bench.regression.junit import junit_xml
    from bench.regression.markdown import markdown_comment

    of: list[tuple[OutputFile, Callable[[Check], str]]] = [
        (junit, junit_xml), (markdown, markdown_comment), (jsonl, results_jsonl), (bencher, bencher_json),
    ]  # fmt: skip
    written = [(path, make(found)) for path, make in of if path is not None]
    if benchmark is not None:
        written += [(benchmark / f"{name}.json", content) for name, content in benchmark_json(found).items()]
    return written


def _relative(new: Side, run: Path, folder: Path, gates: Gates, repeats: int, setup: str | None, python: str | None) -> Check:
    """Every baseline's commit against the code as it is; the second baseline without repeats, since seconds are judged once."""
    from bench.regression.baseline import side_of_run
    from bench.regression.check import Relative, checked, compare, sides_of
    from bench.regression.relative import relative

    comparisons: list[Comparison] = []
    for name, old in sides_of(folder).items():
        if old.commit is None:
            raise BenchError(f"{folder}: its run knows no commit; expected one that was made in a git repository")
        n = 1 if comparisons else repeats
        arms = [(arm.task, arm.strategy) for arm in new.arms if arm.ok]
        with relative(new.run.suite, old.commit, Path.cwd(), arms, n, setup, python, _say) as both:
            before, now = side_of_run(both.old[0]), side_of_run(both.new[0])
            comparisons.append(compare(name, old, new, gates, Relative(before, now, both.seconds, both.notes)))
    return checked(new, str(run), folder.name, comparisons)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


def _append_line(found: Check, new: Side, gates: Gates, path: Path) -> None:
    from bench.regression.history import CheckLine, append

    costs = {
        f"{gate.task}/{gate.strategy} {gate.measure}": float(gate.after)
        for gate in found.comparisons[0].gates if gate.kind in ("cost", "memory") and gate.after is not None
    }  # fmt: skip
    append(
        path,
        CheckLine(
            suite=found.suite, run=new.run.name, when=found.when, commit=found.commit, dirty=found.dirty, environment=found.environment,
            verdict=found.verdict, measures=_measures(found, new, gates), costs=costs,
        ),
    )  # fmt: skip


def _measures(found: Check, new: Side, gates: Gates) -> tuple[Measure, ...]:
    """The gated metrics of the run's own arms, each with the verdict of its gate against the last accepted baseline."""
    from bench.metric.registry import higher_is_better
    from bench.regression.history import measure_of
    from bench.regression.quality import metrics_of
    from bench.result.arms import groups_of
    from bench.result.compare import score_group

    verdicts = {(g.task, g.strategy, g.measure): g.verdict for g in found.comparisons[0].gates if g.kind == "quality"}
    measures = []
    for group in groups_of([arm for arm in new.arms if arm.ok]):
        for metric in metrics_of(group[0], gates):
            for arm, scores in zip(group, score_group(group, metric=metric), strict=True):
                verdict = verdicts.get((arm.task, arm.strategy, metric))
                if scores is not None and verdict is not None:
                    better = higher_is_better(metric) is not False
                    measures.append(measure_of(arm, scores, metric, higher_is_better=better, verdict=verdict))
    return tuple(measures)


def accept(
    run: RunArgument,
    reason: Annotated[str, typer.Option(help="Why this run is to be the baseline; kept with it.")],
    baseline: Annotated[Path | None, typer.Option(help="The baseline's folder; default: results/baseline/<name of RUN>.")] = None,
    release: Annotated[bool, typer.Option("--release", help="Pin it as the baseline of a release as well.")] = False,
    allow_dirty: Annotated[bool, typer.Option("--allow-dirty", help="Accept a run of code that was not committed.")] = False,
    history: Annotated[OutputFile, typer.Option(help="Where a line is added; default: history.jsonl beside the run.")] = None,
) -> None:
    """Make a run the baseline that later runs are checked against; commit what it writes. Never by CI itself.

    Example: bench accept results/smoke --reason "shorter prompt: 3 points less, half the tokens"
    """
    from bench.regression.baseline import accept as accept_run
    from bench.regression.baseline import read_baseline
    from bench.regression.history import AcceptLine, append
    from bench.result.text import shown_bytes

    folder = baseline or BASELINES / run.resolve().name
    made = accept_run(run, folder, reason, release=release, allow_dirty=allow_dirty)
    pinned = "release" not in read_baseline(folder)  # it is the same one
    line = AcceptLine(suite=made.suite, when=made.accepted, commit=made.commit, who=made.who, reason=made.reason, release=pinned)
    append(history or run.resolve().parent / "history.jsonl", line)
    size = shown_bytes(sum(file.stat().st_size for file in folder.iterdir()))
    what = "Accepted, and pinned as the baseline of the release" if pinned else "Accepted"
    print(f"{what}: {folder} ({size}), commit {(made.commit or 'unknown')[:12]}. To be committed with git.")


def history(
    file: Annotated[Path, typer.Argument(metavar="[FILE]", help="The history that checks write.")] = Path("results/history.jsonl"),
    suite: Annotated[str | None, typer.Option(help="Only this suite.")] = None,
    output: Annotated[OutputFile, typer.Option("-o", "--output", help="Write an HTML page with the plots.")] = None,
) -> None:
    """Show how each measure went from check to check, slow decay that no single check sees, and the first bad commit.

    Example: bench history results/history.jsonl -o history.html
    """
    from bench.regression.history import read
    from bench.regression.history_page import history_html
    from bench.regression.history_text import history_table
    from bench.result.store import write_atomic

    lines, notes = read(file)
    sys.stdout.write(history_table(lines, suite))
    for note in notes:
        _say(f"note: {note}")
    if output is not None:
        write_atomic(output, history_html(lines, suite))
        print(f"Written: {output}")


def bisect(
    run: RunArgument,
    against: Against = None,
    good: Annotated[str | None, typer.Option(metavar="COMMIT", help="Default: the baseline's.")] = None,
    bad: Annotated[str | None, typer.Option(metavar="COMMIT", help="Default: the run's.")] = None,
    arm: Annotated[
        list[str] | None, typer.Option(metavar="TASK/STRATEGY", help="Run only this; default: what is worse. May be repeated.")
    ] = None,
    gates: GatesFile = None,
    setup: Setup = None,
    python: Python = None,
) -> None:
    """Find the commit that made a strategy worse, by running it on commits between a good and a bad one.

    Example: bench bisect results/smoke --against results/baseline/smoke
    """
    from bench.regression.baseline import side_of_run
    from bench.regression.bisect import bisect as search
    from bench.regression.check import compare, load_gates, sides_of

    folder = against or BASELINES / run.resolve().name
    chosen = load_gates(gates, folder)
    new = side_of_run(run)
    name, old = next(iter(sides_of(folder).items()))
    lost = {(g.task, g.strategy, g.measure) for g in compare(name, old, new, chosen).gates if g.verdict == "regression"}
    arms = [_arm(name) for name in arm] if arm else sorted({(task, strategy) for task, strategy, _ in lost})
    if not arms:
        raise BenchError(f"{run}: nothing is worse than in {folder}; name what to look at by --arm TASK/STRATEGY")
    good, bad = good or old.commit, bad or new.commit
    if good is None or bad is None:
        raise BenchError(f"{folder if good is None else run}: knows no commit; give --good and --bad")
    found = search(Path.cwd(), good, bad, new.run.suite, arms, _judge(chosen, None if arm else lost), setup, python, _say)
    sys.stdout.write(_bisected(found))


def _arm(name: str) -> tuple[str, str]:
    task, _, strategy = name.partition("/")
    if not strategy:
        raise BenchError(f'--arm: found "{name}", expected TASK/STRATEGY')
    return task, strategy


def _judge(gates: Gates, wanted: set[tuple[str, str, str]] | None) -> Callable[[RunFolder, RunFolder], Judged]:
    """By the gates that were lost, where there are such: another loss on the way is another search."""
    from bench.regression.check import compare_runs

    def judge(old: RunFolder, new: RunFolder) -> Judged:
        found = compare_runs(new.path, old.path, gates).gates
        verdicts = {g.verdict for g in found if wanted is None or (g.task, g.strategy, g.measure) in wanted}
        return "bad" if "regression" in verdicts else "unclear" if "inconclusive" in verdicts else "good"

    return judge


def _bisected(found: Bisection) -> str:
    subjects = {step.commit: step.subject for step in found.steps}
    lines = [f"{s.commit[:12]} {s.verdict:<7} {s.seconds:4.0f} s  {s.subject}{s.reason and f' ({s.reason})'}" for s in found.steps]
    lines.append(f"{len(found.steps)} runs among {found.n_between} commits.")
    if found.first_bad:
        lines.append(f"First bad commit: {found.first_bad[:12]} {subjects.get(found.first_bad, '')}")
    else:
        lines.append("The first bad commit is one of these, which cannot be told apart:")
        lines += [f"  {commit[:12]} {subjects.get(commit, '')}" for commit in found.candidates]
    return "\n".join([*lines, *(f"note: {note}" for note in found.notes)]) + "\n"
