"""The pages: the site builds without a warning, the reference is what the code says, and commands that sentences name are there."""

from __future__ import annotations

import csv
import json
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from command_lines import parse_mention
from docs_pages import PAGES, ROOT, name_of

from bench.reference import pages


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    home = (tmp_path / "site/index.html").read_text()
    assert "<h1" in home
    assert "fonts.googleapis.com" not in home
    assert (tmp_path / "site/reference/commands.html").exists()


@pytest.mark.parametrize("name", ["commands.md", "files.md"])
def test_the_reference_is_what_the_code_says(name: str) -> None:
    assert (ROOT / "docs/reference" / name).read_text() == pages()[name], "run: python -m bench.reference docs/reference"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_in_sentences_exist(page: Path) -> None:
    """Those in code blocks are run by `e2e/test_docs_run.py`. What stands for more ("…", "[") or is one of several ("|") is left out."""
    for mention in re.findall(r"`(bench [a-z][^`\n]*)`", page.read_text()):
        if not re.search(r"…|\.\.\.|\[|\w\\?\|\w", mention):
            parse_mention(shlex.split(mention, comments=True)[1:])


def test_a_command_that_is_not_there_is_found() -> None:
    assert parse_mention(["check", "--relative"]) == "check"
    with pytest.raises(ValueError, match="bench check: no option --relativ"):
        parse_mention(["check", "--relativ"])


def test_the_tickets_of_the_tutorial_are_what_their_maker_makes() -> None:
    folder = ROOT / "docs/tutorial"
    made = runpy.run_path(str(folder / "make_tickets.py"))["tickets"]()
    assert (folder / "tickets.csv").read_text() == made, "run: python docs/tutorial/make_tickets.py"
    messages = {row["message"].strip() for row in csv.DictReader(made.splitlines())}
    tested = [json.loads(line)["message"] for line in (ROOT / "tasks/ticket_triage/test.jsonl").read_text().splitlines()]
    assert not messages & set(tested)
