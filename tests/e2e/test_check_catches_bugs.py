"""Real bugs, planted in a copy of the package that is then run: what `bench check` says of each, beside a run of the code as it is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.regression.check import compare_runs
from bench.regression.model import Gate, Gates
from bench.result.store import RunFolder

ROOT = Path(__file__).parents[2]
TASK = "ticket_triage"
OPTIONS = (
    "--task", TASK, "--train-examples", "64", "--trials", "1", "--seeds", "1", "--no-probes",
    "--set", "tuning.epochs=3", "--set", "tuning.evaluations=1", "--workers", "2",
)  # fmt: skip


@dataclass(frozen=True)
class Bug:
    """One line of the package, and what a bug makes of it."""

    file: str
    line: str
    becomes: str
    strategies: tuple[str, ...] = ("majority", "few-shot")
    """Those to run: one that has the bug, and one that it leaves alone."""


BUGS = {
    "shots without the seed": Bug("strategy/prompt.py", 'random.Random(f"shots/{seed}").shuffle(order)', "random.shuffle(order)"),
    "end token lost": Bug("model/language_model.py", "            return last in self.end_ids\n", "            return False\n"),
    "sampling left on": Bug(
        "model/decoding.py",
        "        best = logits.max(-1)\n",
        "        drawn = torch.multinomial(logits.softmax(-1), 1)\n"
        "        best = torch.return_types.max((logits.gather(-1, drawn)[:, 0], drawn[:, 0]))\n",
        ("majority", "lora"),
    ),
    "adapter not loaded": Bug(
        "run/cell.py",
        "        yield from fitted.answer(requests",
        '        getattr(fitted.model.network, "disable_adapter_layers", int)()\n'
        "        yield from fitted.answer(requests",
        ("few-shot", "lora"),
    ),
    "prompt twice as long": Bug(
        "strategy/prompt.py",
        'messages.append({"role": "user", "content": f"{head}\\n\\n{content}" if head else content})',
        'messages.append({"role": "user", "content": (f"{head}\\n\\n{content}" if head else content) * 2})',
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a run with the bug of a name; other names are runs of the code as it is. Each is run once."""
    made: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in made:
            tree = tmp_path_factory.mktemp("tree")
            shutil.copytree(ROOT / "bench", tree / "bench", ignore=shutil.ignore_patterns("__pycache__"))
            (tree / "tasks").symlink_to(ROOT / "tasks")
            bug = BUGS.get(name)
            if bug:
                file = tree / "bench" / bug.file
                text = file.read_text()
                assert text.count(bug.line) == 1, f"{bug.file} has changed: plant the bug anew"
                file.write_text(text.replace(bug.line, bug.becomes))
            chosen = [option for s in (bug.strategies if bug else ("majority", "few-shot", "lora")) for option in ("--strategy", s)]
            bench("run", *OPTIONS, *chosen, "--results", "results", "--name", "run", tree=tree)
            made[name] = tree / "results" / "run"
        return made[name]

    return run


def bench(*arguments: str | Path, tree: Path = ROOT, code: int = 0) -> str:
    """The output of a command of the package in a tree, which has to end with an exit code."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(tree)}
    done = subprocess.run(
        [sys.executable, "-m", "bench", *map(str, arguments)], cwd=tree, capture_output=True, text=True, timeout=300, env=environment
    )  # fmt: skip
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def compared(planted: Callable[[str], Path], name: str) -> dict[str, Gate]:
    """The gates that are a regression, by measure; all are those of the strategy that has the bug, and the other one passes all of its."""
    found = compare_runs(planted(name), planted("as it is"), Gates())
    spared, hit = BUGS[name].strategies
    assert not found.untrusted
    assert {g.verdict for g in found.gates if g.strategy == spared} == {"pass"}
    wrong = [g for g in found.gates if g.verdict == "regression"]
    assert {(g.task, g.strategy) for g in wrong} == {(TASK, hit)}
    return {g.measure: g for g in wrong}


def test_a_second_run_of_the_same_code_passes_every_gate(planted: Callable[[str], Path]) -> None:
    found = compare_runs(planted("once more"), planted("as it is"), Gates())
    assert {(g.strategy, g.measure, g.reason) for g in found.gates if g.verdict != "pass"} == set()
    assert {g.strategy for g in found.gates} == {"majority", "few-shot", "lora"}
    assert {g.kind for g in found.gates} == {"status", "prompts", "quality", "cost", "memory"}
    assert not any(g.flips for g in found.gates)
    assert found.differences == ()
    items = [RunFolder(planted(name)).read_items(TASK, "lora", 0) for name in ("as it is", "once more")]
    assert [i.logit_margin for i in items[0]] == [i.logit_margin for i in items[1]]


def test_examples_drawn_without_the_seed(planted: Callable[[str], Path]) -> None:
    gate = compared(planted, "shots without the seed")["prompts"]
    assert gate.n_items == 400
    assert gate.reason.startswith("400 of 400 prompts are others")


def test_an_end_token_that_ends_nothing(planted: Callable[[str], Path]) -> None:
    wrong = compared(planted, "end token lost")
    tokens = wrong["completion_tokens"]
    assert (tokens.before, tokens.after) == (2.0, 4.0)  # a label and its end; all that the task allows
    quality = wrong["accuracy"]
    assert quality.after == 0.0
    assert len(quality.flips) == 400
    assert all(f.after.startswith(f.before) and f.after != f.before for f in quality.flips)
    assert not {"prompts", "prompt_tokens"} & set(wrong)


def test_sampling_that_is_left_on(planted: Callable[[str], Path]) -> None:
    wrong = compared(planted, "sampling left on")
    assert set(wrong) <= {"accuracy", "hallucination_rate", "setup_flops"}
    quality = wrong["accuracy"]
    assert quality.change is not None
    assert quality.change < -0.05
    assert 20 < len(quality.flips) < 300
    assert quality.n_excused < 5  # a draw is no tie


def test_an_adapter_that_is_not_loaded(planted: Callable[[str], Path]) -> None:
    wrong = compared(planted, "adapter not loaded")
    assert set(wrong) == {"accuracy", "hallucination_rate"}  # it is trained and kept as ever, and costs the same
    assert wrong["accuracy"].before is not None
    assert wrong["accuracy"].after is not None
    assert wrong["accuracy"].before > 0.5
    assert wrong["accuracy"].after < 0.15  # as the base, which knows nothing of these labels


def test_a_prompt_twice_as_long(planted: Callable[[str], Path]) -> None:
    wrong = compared(planted, "prompt twice as long")
    assert {"prompts", "prompt_tokens", "answer_flops"} <= set(wrong)
    assert wrong["prompt_tokens"].change is not None
    assert wrong["prompt_tokens"].change > 0.3  # shots that no longer fit the window are left out


def test_the_command_names_the_strategy_and_what_is_wrong(planted: Callable[[str], Path]) -> None:
    said = bench("check", planted("adapter not loaded"), "--against", planted("as it is"), code=1)
    assert f"{TASK} / lora" in said or f"{TASK}/lora" in said
    assert "accuracy" in said
    bench("check", planted("once more"), "--against", planted("as it is"))
