"""Every command that a page shows is run, page by page and in order, in a folder that holds what the page speaks of."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from docs_pages import PAGES, Command, Export, Made, Shown, Step, name_of, steps
from docs_world import BETWEEN, BUILDERS, NOT_RUN, REDUCED, Provider, World, as_run, common, make_shared, targets

HINT = """
To do: correct the page; or where it names a file or a run that its folder does not have, make that in tests/docs_world.py (@of("{page}"));
where it is too much for a test, have it run smaller there (REDUCED)."""
CHECKED_OUTPUT = ("bench new-task", "bench validate", "head")
"""Commands whose output is the same on every machine: what a page shows of it has to be in it."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Provider]]:
    server = Provider()
    folder = tmp_path_factory.mktemp("docs") / "shared"
    make_shared(folder, server)
    yield folder, server
    server.close()


def with_commands() -> list[Path]:
    return [page for page in PAGES if any(isinstance(step, Command) for block in steps(page) for step in block)]


@pytest.mark.slow
@pytest.mark.parametrize("page", with_commands(), ids=name_of)
def test_the_commands_of_a_page_run(page: Path, shared: tuple[Path, Provider], tmp_path: Path) -> None:
    folder = tmp_path / "world"
    folder.mkdir()
    world = World(folder, *shared, name_of(page))
    common(world)
    BUILDERS.get(world.page, lambda world: None)(world)
    printed = ""
    for block in steps(page):
        exported: dict[str, str] = {}
        for step in block:
            printed = take(step, world, exported, printed)


def take(step: Step, world: World, exported: dict[str, str], printed: str) -> str:
    """Does one step of a page. Gives what the last command printed, where that is the same everywhere."""
    if isinstance(step, Export):
        exported[step.name] = step.value
    elif isinstance(step, Made):
        world.write(step.path, world.local(step.content))
    elif isinstance(step, Shown) and printed:
        missing = [line for line in step.lines if line not in ("", "…") and line not in printed.splitlines()]
        if missing:
            fail(f"{step.where}: the page shows a line that the command before it does not print: {missing[0]}\n{printed}")
    elif isinstance(step, Command) and step.text.startswith("make "):
        unknown = {word for word in step.text.split()[1:] if "=" not in word} - set(targets())
        if unknown:
            fail(f"{step.where}: the Makefile has no target {min(unknown)}")
    elif isinstance(step, Command) and step.text not in NOT_RUN:
        start = time.perf_counter()
        done = world.execute(step, exported)
        print(f"{time.perf_counter() - start:5.1f} s  {as_run(step)}")
        said = f"{step.where}: {as_run(step)}\nexit {done.returncode}, expected {step.code}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        if done.returncode != step.code:
            fail(said + HINT.format(page=world.page))
        if broken := world.failed_probes():
            fail(f"{step.where}: {as_run(step)}\n{broken}")
        return done.stdout + done.stderr if step.text.startswith(CHECKED_OUTPUT) else ""
    return printed


def fail(text: str) -> NoReturn:
    """Without the lines of the test, which say nothing about the page."""
    pytest.fail(text, pytrace=False)


def test_no_list_names_what_no_page_has() -> None:
    commands = [step for page in PAGES for block in steps(page) for step in block if isinstance(step, Command)]
    for page, beginning, added, why in REDUCED:
        assert any(page in ("*", c.page) and c.text.startswith(beginning) and added in as_run(c) for c in commands), (page, beginning)
        assert why
    for page, beginning in BETWEEN:
        assert any(page == c.page and c.text.startswith(beginning) for c in commands), (page, beginning)
    assert set(NOT_RUN) <= {c.text for c in commands}
    assert len(NOT_RUN) <= 5
    assert set(BUILDERS) <= {name_of(page) for page in PAGES}


def test_a_command_that_fails_says_where_it_stands_and_what_to_do(shared: tuple[Path, Provider], tmp_path: Path) -> None:
    world = World(tmp_path, *shared, "docs/index.md")
    with pytest.raises(pytest.fail.Exception, match=r"docs/index.md:7: bench table results/nothing\nexit 2, expected 0") as raised:
        take(Command("docs/index.md", 7, "bench table results/nothing"), world, {}, "")
    assert '@of("docs/index.md")' in str(raised.value)
    take(Command("docs/index.md", 7, "bench table results/nothing", 2), world, {}, "")
    with pytest.raises(pytest.fail.Exception, match="the Makefile has no target benhc"):
        take(Command("docs/index.md", 7, "make benhc"), world, {}, "")
    with pytest.raises(pytest.fail.Exception, match="a line that the command before it does not print: rows: 3"):
        take(Shown("docs/index.md", 7, ("rows: 4", "rows: 3")), world, {}, "rows: 4\n")
