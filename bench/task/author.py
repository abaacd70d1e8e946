"""A task to start from: a commented task.yaml with a few rows that load."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, get_args

from bench.errors import BenchError, did_you_mean
from bench.task.rows import SPLITS
from bench.task.schema import TaskKind

_YAML: Final = """\
# A task: what is asked, and where the answers are. Check it with: bench validate FOLDER
# Rows are in train, validation and test (.jsonl, .json, .csv or .parquet) beside this file, one object a line; an "id" is
# optional. Without a validation file a fifth of train is set apart.

kind: {kind}

# What every strategy is told, the form of the answer included.
instruction: {instruction}

# What is asked: a Jinja template over the columns of a row.
input: "{input}"

# The column with the right answer. A list means that any one of them is right.
target: {target}
{more}
# The first is the primary one. All: bench list metrics
metrics: [{metrics}]
{room}
# Columns by whose values the metrics are also reported apart.
# slices: [source]
{reasoning}
# Rows from elsewhere: a folder, or a data set of the hub with its revision.
# data: ../rows
# data: organisation/name
# revision: 0123abc
"""

_ROOM: Final = """
# Room for the answer, in tokens.
max_new_tokens: {}
"""

_REASONING: Final = """
# The column with the reasoning that leads to the answer (every training row needs one): what worked examples and tuning show
# where a strategy reasons first. Leave it out and only zero-shot chain of thought is run.
# rationale: reasoning
"""

_CLUSTER: Final = """
# Items with the same value in this column are not independent (same document, customer, product). Train and test may
# not share one, unless you write shared_clusters: allow.
cluster: {}
"""

_TEMPLATES: Final[dict[str, dict[str, Any]]] = {
    "qa": {
        "instruction": "Answer the question in a few words. If you cannot know, answer \"unknown\".",
        "input": "{{ question }}", "target": "answers", "metrics": "exact_match, f1", "tokens": 16,
        "more": """
# The column with the ids of the passages (corpus.jsonl) that hold the answer. Leave it out if you do not know them.
evidence: passage_ids

# What counts as abstaining. An item whose list of answers is empty has no answer.
abstain: [unknown]
""" + _CLUSTER.format("passage_ids"),
        "columns": ("question", "answers", "passage_ids"),
        "rows": [
            ("Who wrote the manual of the red pump?", ["Ada Miles", "A. Miles"], ["p1"]), ("How heavy is the red pump?", ["12 kg"], ["p1"]),
            ("What does the red pump cost?", [], []), ("Where is the blue valve made?", ["Porto"], ["p2"]),
            ("When was the blue valve first sold?", ["1998"], ["p2"]), ("Who repairs the blue valve?", [], []),
            ("Which colour has the long hose?", ["green"], ["p3"]), ("What is the length of the long hose?", ["40 m"], ["p3"]),
            ("Is there a warranty for the long hose?", [], []),
        ],
        "corpus": [
            {"id": "p1", "title": "Red pump", "text": "It weighs 12 kg. Ada Miles wrote its manual."},
            {"id": "p2", "title": "Blue valve", "text": "Made in Porto and sold since 1998."},
            {"id": "p3", "title": "Long hose", "text": "A green hose of 40 m."},
        ],
    },
    "classification": {
        "instruction": "\"Sort the message into one of the labels: {{ labels }}. Answer with the label alone.\"",
        "input": "{{ message }}", "target": "label", "metrics": "accuracy, macro_f1", "tokens": 8,
        "more": """
# The labels. Left out: those in labels.json (a list) if there is one, else those of the training examples.
labels: [billing, delivery, other]
""",
        "columns": ("message", "label"),
        "rows": [
            ("My bill is too high.", "billing"), ("The parcel has not come.", "delivery"), ("Do you have a shop?", "other"),
            ("I was charged twice for one order.", "billing"), ("The driver left it next door.", "delivery"), ("All is fine!", "other"),
            ("Why is there a fee on my invoice?", "billing"), ("When does it ship?", "delivery"), ("Who founded your firm?", "other"),
        ],
    },
    "summarization": {
        "instruction": "Summarize the report in one sentence.",
        "input": "{{ report }}", "target": "summaries", "metrics": "rougeL, rouge1", "tokens": 48, "more": "",
        "columns": ("report", "summaries"),
        "rows": [
            ("The pump stopped at nine. A fuse had blown. It was replaced.", ["A blown fuse stopped the pump until it was replaced."]),
            ("Two visitors asked for a tour. None was free. They will come back on Monday.", ["Two visitors will tour on Monday."]),
            ("Rain came through the roof. Buckets were set out. A roofer is due tomorrow.", ["The roof leaks; a roofer is due tomorrow."]),
            ("The lift was checked. No fault was found. The next check is in May.", ["The lift passed its check."]),
            ("A window broke in the night. Nobody was hurt. It was boarded up.", ["A broken window was boarded up; nobody was hurt."]),
            ("The printer jams with thick paper. Thin paper works. A tray is on order.", ["The printer jams; a tray is on order."]),
            ("Stock of screws is low. Fifty boxes were ordered. They come on Friday.", ["Fifty boxes of screws come on Friday."]),
            ("The heating failed at noon. The tank was empty. Oil came at four.", ["No oil, no heating until four."]),
            ("A customer praised the night shift. She had been helped at once.", ["A customer praised the night shift for quick help."]),
        ],
    },
    "multiple_choice": {
        "instruction": "Answer the question with one of the options.",
        "input": "{{ question }} Options: {{ options | join('; ') }}", "target": "answer", "metrics": "accuracy, accuracy_normalized",
        "more": """
# The column with the options of a row, a list of at least two texts. The model is asked how likely each is as the answer, and
# the likeliest is its choice. The target is the text of the right option or its place, counted from 0.
options: options
""",
        "columns": ("question", "options", "answer"),
        "rows": [
            ("What lifts water out of a cellar?", ["a pump", "a ladder", "a printer"], "a pump"),
            ("What is worn against falling stones?", ["a coat", "a helmet", "sandals"], 1),
            ("What stops a leak in a roof?", ["a lamp", "a fuse", "a new tile"], 2),
            ("What opens a locked door?", ["a brush", "a key", "a hose"], "a key"),
            ("Which of these measures heat?", ["a thermometer", "a hammer", "a shelf"], 0),
            ("What do you write a letter with?", ["a glove", "a bucket", "a pen"], "a pen"),
            ("Where is bread kept dry?", ["in a bin", "in a sink", "in the rain"], 0),
            ("Who repairs pipes?", ["a baker", "a plumber", "a pilot"], "a plumber"),
            ("When is a heater needed most?", ["at noon in July", "in spring", "on winter nights"], 2),
        ],
    },
    "structured": {
        "instruction": "Return JSON with the keys item, count and urgent.",
        "input": "{{ note }}", "target": "order", "metrics": "field_accuracy, format_validity", "tokens": 48,
        "more": """
# The keys of the JSON object and their types: string, integer, number or boolean.
fields: {item: string, count: integer, urgent: boolean}
""",
        "columns": ("note", "order"),
        "rows": [
            ("We need three lamps by tonight!", {"item": "lamp", "count": 3, "urgent": True}),
            ("Send one desk, no hurry.", {"item": "desk", "count": 1, "urgent": False}),
            ("Ten chairs when you have them.", {"item": "chair", "count": 10, "urgent": False}),
            ("Two fuses at once, please.", {"item": "fuse", "count": 2, "urgent": True}),
            ("A box of pens some time.", {"item": "pen", "count": 1, "urgent": False}),
            ("Five helmets before the shift starts!", {"item": "helmet", "count": 5, "urgent": True}),
            ("Four shelves next month will do.", {"item": "shelf", "count": 4, "urgent": False}),
            ("Seven gloves right now.", {"item": "glove", "count": 7, "urgent": True}),
            ("One ladder, whenever it suits.", {"item": "ladder", "count": 1, "urgent": False}),
        ],
    },
}  # fmt: skip


def new_task(folder: Path | str, kind: str) -> list[Path]:
    """Write a task to start from: a commented task.yaml, three rows for each split and, for kind qa, a corpus.

    Args:
        folder: Where to; made if it does not exist.
        kind: One of `TaskKind`.

    Returns:
        The files written.

    Raises:
        BenchError: The kind is unknown, the folder is not empty or cannot be written.
    """
    folder = Path(folder)
    if kind not in _TEMPLATES:
        raise BenchError(f'kind: found "{kind}"; {did_you_mean(kind, get_args(TaskKind))}')
    template = _TEMPLATES[kind]
    rows = [dict(zip(template["columns"], row, strict=True)) for row in template["rows"]]
    room, reasoning = (_ROOM.format(template["tokens"]), _REASONING) if "tokens" in template else ("", "")  # a choice writes nothing
    contents = {"task.yaml": _YAML.format(kind=kind, room=room, reasoning=reasoning, **template)}
    for number, split in enumerate(SPLITS):
        contents[f"{split}.jsonl"] = _jsonl([{"id": f"{split}-{i + 1}", **row} for i, row in enumerate(rows[3 * number : 3 * number + 3])])
    if "corpus" in template:
        contents["corpus.jsonl"] = _jsonl(template["corpus"])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise BenchError(f"{folder}: is not empty, expected a new folder (nothing is overwritten)")
        for name, content in contents.items():
            with (folder / name).open("x", encoding="utf-8", newline="\n") as file:
                file.write(content)
    except OSError as error:
        raise BenchError(f"{folder}: cannot be written ({error.strerror or error}), expected a folder for the new task") from None
    return [folder / name for name in contents]


def _jsonl(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
