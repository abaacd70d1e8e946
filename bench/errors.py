"""The one exception that a user sees: one clear line, exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BenchError(Exception):
    """Bad input or a failure of the tool.

    The message is one line that names the file, the line or key, what was found and what was expected. The command line
    prints it without a traceback (unless ``--debug``) and exits with 2.
    """


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint for the end of a message: the nearest known word, or the known words."""
    options = sorted(known)
    near = difflib.get_close_matches(word, options, n=1)
    return f'did you mean "{near[0]}"?' if near else f"expected one of: {', '.join(options)}"
