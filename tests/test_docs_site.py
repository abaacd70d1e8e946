"""The pages: the site builds without a warning, the reference is what the code says, and every command in them is one that there is."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_lines import parse, parse_mention

from bench.reference import pages

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(p for p in (ROOT / "docs").rglob("*.md") if p.name != "commands.md")])


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_the_pages_exist(page: Path) -> None:
    """What stands for more ("…", "[OPTIONS]") or is one of several ("|") is left out."""

    def calls(lines: str) -> Iterator[list[str]]:
        for line in lines.replace("\\\n", " ").splitlines():
            if re.match(r"\s*(?:\S*/)?bench [a-z]", line) and not re.search(r"…|\.\.\.|\[|\w\|\w", line):
                yield shlex.split(line.split(" > ")[0], comments=True)[1:]

    text = page.read_text()
    blocks = re.findall(r"(?:^ {4}.*\n)+", text, re.MULTILINE)
    blocks += re.findall(r"^```(?:bash|sh|console)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for block in blocks:
        for words in calls(block):
            parse(words)
    for mention in re.findall(r"`(bench [a-z][^`\n]*)`", text):
        for words in calls(mention):
            parse_mention(words)


def test_a_command_that_is_not_there_is_found() -> None:
    assert parse_mention(["check", "--relative"]) == "check"
    with pytest.raises(ValueError, match="bench check: no option --relativ"):
        parse_mention(["check", "--relativ"])
