"""A check for people: a Markdown comment that a pull request keeps up to date, and the text that a terminal shows."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from bench.regression.model import Check, Comparison, Flip, Gate
from bench.regression.wording import (
    N_EXAMPLES,
    advice,
    against,
    before_after,
    change_text,
    excused_text,
    finding,
    gate_name,
    headline,
    lost_answers,
    one_line,
    ordered,
    p_text,
    sample_text,
    title,
    untrusted_text,
)
from bench.result.text import NONE

COMMENT_BYTES = 60_000
"""GitHub refuses a comment of more than 65,536 characters; bytes are never fewer than characters, however they are counted."""
ANSWER_WIDTH = 200
"""Characters of an answer that a comment shows."""
COLUMNS = 120
"""Of the text for a terminal."""
_MARKS = re.compile(r"[!-/:-@\[-`{-~]")
"""Punctuation of ASCII: all that CommonMark and HTML read as structure."""
_MARKUP = re.compile(r"[\\`*_~<>\[\]|&$@#]|:(?=//)")


# ------------------------------------------------------------------------------------------------ Markdown


def code(text: str) -> str:
    """Text of others, shown letter by letter: a code span, in which GitHub makes no links and no mentions."""
    line = one_line(text, ANSWER_WIDTH)
    return f"`{line}`" if line and not re.search(r"[`|\\]", line) else html_code(line)


def html_code(text: str) -> str:
    """As ``code`` where no Markdown is read, or where the text could end a code span: every mark is a character reference, which neither
    HTML nor CommonMark (section 2.5) reads as structure."""
    return f"<code>{_MARKS.sub(_reference, one_line(text, ANSWER_WIDTH))}</code>"


def prose(text: str, width: int = 400) -> str:
    """Words of others in a sentence: no markup, no HTML, no table border, no link and no mention."""
    # Zero-width spaces: GitHub looks for mentions and issue numbers after references are resolved.
    line = re.sub("[@#]", "\\g<0>\u200b", one_line(text, width)).replace("www.", "www\u200b.")
    return _MARKUP.sub(_reference, line)


def _reference(found: re.Match[str]) -> str:
    return f"&#{ord(found[0])};"


@dataclass(frozen=True)
class Block:
    """A part of a document that can be cut after any of its rows, and stays whole."""

    head: str
    rows: tuple[str, ...] = ()
    end: str = ""


def fitted(blocks: Iterable[Block], limit: int) -> str:
    """The blocks in at most ``limit`` bytes of UTF-8. Rows that find no room are counted in a last line; the first block has to fit."""
    note = "\nLeft out for want of room: {} rows; `bench check` writes all of them with `--jsonl` and `--junit`.\n"
    room = limit - _size(note.format(10**9))
    text, left = "", 0
    for block in blocks:
        rows, taken = "", 0
        space = room - _size(block.head + block.end)
        for row in block.rows:
            if _size(row) > space:
                break
            rows, taken, space = rows + row, taken + 1, space - _size(row)
        left += len(block.rows) - taken
        if space >= 0 and (taken or not block.rows):
            text, room = text + block.head + rows + block.end, space
    return text + (note.format(left) if left else "")


def _size(text: str) -> int:
    return len(text.encode())


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> tuple[str, tuple[str, ...]]:
    """Head and rows without padding, which takes more bytes than the words do."""
    lines = f"| {' | '.join(head)} |\n|{' --- |' * len(head)}\n"
    return lines, tuple(f"| {' | '.join(cells)} |\n" for cells in rows)


def marker(check: Check) -> str:
    """The hidden first line by which a bot finds the comment that it wrote for this suite."""
    # Runs of other characters become one hyphen, so that nothing ends the HTML comment.
    return "<!-- bench-check: {} -->".format(re.sub(r"[^\w.]+", "-", one_line(check.suite, 100)))


def markdown_comment(check: Check) -> str:
    """The check as a comment of a pull request, of at most ``COMMENT_BYTES``; it begins with ``marker``."""
    return fitted(blocks(check), COMMENT_BYTES)


def blocks(check: Check) -> Iterator[Block]:
    """The whole check in Markdown, the most important first: a document that is too long is cut at its end."""
    verdict, _, rest = headline(check).partition(" ")
    made = f"commit {code(check.commit[:12])}" if check.commit else "no commit known"
    changes = " with uncommitted changes" if check.dirty else ""
    run = f"Run {code(check.run)}, {made}{changes}, {prose(check.when)}"
    yield Block(f"{marker(check)}\n### bench check: **{verdict}** {prose(rest)}\n\n{run}\n")
    for comparison in check.comparisons:
        shown = [gate for gate in ordered(comparison) if gate.verdict != "pass"]
        warning = untrusted_text(comparison)
        quoted = f"\n> **Not trusted.** {prose(warning, 2000)}\n" if warning else ""
        top = f"\n#### Against {prose(against(comparison))}\n{quoted}\n"
        if not shown:
            yield Block(f"{top}No gate got worse.\n")
            continue
        head, rows = _gate_table(shown)
        yield Block(top + head, rows)
    if steps := advice(check):
        yield Block("\n", tuple(f"- {what}: {code(command)}\n" for what, command in steps))
    for comparison in check.comparisons:
        for gate, flips in lost_answers(comparison).items():
            yield _flip_block(gate, flips)
    for comparison in check.comparisons:
        yield from _rest(comparison)


def _gate_table(gates: Sequence[Gate]) -> tuple[str, tuple[str, ...]]:
    head = ("verdict", "task / strategy", "gate", "before", "now", "change", "p", "items", "why")
    return _table(
        head,
        (
            (
                f"**{gate.verdict}**" if gate.verdict == "regression" else gate.verdict,
                code(f"{gate.task} / {gate.strategy}"),
                code(gate_name(gate)),
                *before_after(gate),
                change_text(gate),
                p_text(gate),
                sample_text(gate) + (f" ({gate.needed_items} would tell)" if gate.needed_items else ""),
                prose(gate.reason),
            )
            for gate in gates
        ),
    )


def _flip_block(gate: Gate, flips: Sequence[Flip]) -> Block:
    cells = (
        (code(flip.item), str(flip.seed), code(_targets(flip)), code(flip.before), code(flip.after), _scores(flip)) for flip in flips
    )
    head, rows = _table(("item", "seed", "expected", "before", "now", "score"), cells)
    count = f"{len(flips)} answer{'s' if len(flips) > 1 else ''} changed, those that lost first"
    return Block(f"\n<details><summary>{html_code(title(gate))}: {count}</summary>\n\n{head}", rows, "\n</details>\n")


def _targets(flip: Flip) -> str:
    return " | ".join(flip.targets)


def _scores(flip: Flip) -> str:
    return " → ".join(NONE if score is None else f"{score:.3g}" for score in (flip.score_before, flip.score_after))


def _rest(comparison: Comparison) -> Iterator[Block]:
    """What is good to know beside the gates, and those that pass."""
    known = [f"- {d.part} {code(d.what)}: {code(d.before)} → {code(d.after)}\n" for d in comparison.differences]
    known += [f"- {prose(note)}\n" for note in comparison.notes]
    known += [f"- {ties}\n" for ties in [excused_text(comparison)] if ties]
    where = f"against the {comparison.name} baseline" if comparison.name != "run" else "against the other run"
    if known:
        yield Block(f"\n<details><summary>What differs and what to know, {where}</summary>\n\n", tuple(known), "\n</details>\n")
    if good := [gate for gate in comparison.gates if gate.verdict == "pass"]:
        head, rows = _gate_table(good)
        count = f"{len(good)} of {len(comparison.gates)} gates pass"
        yield Block(f"\n<details><summary>{count}, {where}</summary>\n\n{head}", rows, "\n</details>\n")


# ------------------------------------------------------------------------------------------------ text


def report_text(check: Check) -> str:
    """The check as a terminal shows it: the verdict, what does not pass, counts, what differs, notes and excused ties."""
    verdict, _, rest = headline(check).partition(" ")
    lines = [_plain(f"{verdict.upper()} {rest}")]
    for comparison in check.comparisons:
        lines += ["", *_wrapped(f"Against {against(comparison)}", "")]
        if warning := untrusted_text(comparison):
            lines += _wrapped(warning, "  ! ")
        lost = lost_answers(comparison)
        for gate in ordered(comparison):
            if gate.verdict != "pass":
                lines += _gate_lines(gate, lost.get(gate, []))
        passed = sum(gate.verdict == "pass" for gate in comparison.gates)
        lines.append(f"  {passed} of {len(comparison.gates)} gates pass")
        trusted = [d for d in comparison.differences if d not in comparison.untrusted]
        for difference in trusted:
            lines += _wrapped(f"{difference.what} {difference.before} → {difference.after}", f"  {difference.part}: ")
        for note in comparison.notes:
            lines += _wrapped(note, "  note: ")
        if ties := excused_text(comparison):
            lines += _wrapped(ties, "  ties: ")
    if steps := advice(check):
        lines += ["", *(_plain(f"{what}: {command}") for what, command in steps)]
    return "\n".join(lines) + "\n"


def _gate_lines(gate: Gate, flips: Sequence[Flip]) -> list[str]:
    name = "WORSE" if gate.verdict == "regression" else "?"
    lines = _wrapped(title(gate), f"  {name:<5}  ") + _wrapped(finding(gate), " " * 9)
    for flip in flips[:N_EXAMPLES]:
        answers = f'expected "{one_line(_targets(flip), 40)}", before "{one_line(flip.before, 40)}", now "{one_line(flip.after, 40)}"'
        lines += _wrapped(f"item {one_line(flip.item, 40)} s{flip.seed}: {answers}", " " * 9)
    if len(flips) > N_EXAMPLES:
        lines.append(f"{' ' * 9}and {len(flips) - N_EXAMPLES} more")
    return lines


def _wrapped(text: str, start: str) -> list[str]:
    """Lines of at most ``COLUMNS`` columns that begin with ``start``, later ones as far to the right."""
    return textwrap.wrap(_plain(text), COLUMNS, initial_indent=start, subsequent_indent=" " * max(len(start), 2), break_on_hyphens=False)


def _plain(text: str) -> str:
    """One line that no terminal and no runner acts on: GitHub's runner takes ``##[command]`` for one anywhere in a line of a log, and
    ``::command::`` at its start (actions/runner, ActionCommand.cs)."""
    return one_line(text).replace("##[", "#\u200b#[").replace("::", ":\u200b:")
