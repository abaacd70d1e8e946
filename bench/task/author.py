"""Two helps for whoever writes a task: `validate` says what is in it, `new_task` writes one to start from."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, get_args

from bench.errors import BenchError, did_you_mean
from bench.task.load import load_task
from bench.task.rows import SPLITS
from bench.task.schema import Example, Task, TaskKind

TYPICAL_DISCORDANCE = 0.2
"""Share of items that exactly one of two strategies has right; what it is shows after a run (``bench compare``)."""


def validate(folder: Path | str, data: str | None = None) -> list[str]:
    """Load a task with all checks and say what is in it.

    Args:
        folder: The task's folder.
        data: Folder or hub id of the rows, as for `load_task`.

    Returns:
        Lines of a report: sizes, labels, the scores that need no model, warnings.

    Raises:
        BenchError: As `load_task`, and where a metric has no meaning for the task's kind.
    """
    from bench.metric.score import check_metrics
    from bench.result.paired import minimum_detectable_effect

    task = load_task(folder, data=data)
    check_metrics(task.config.metrics, task.config.kind, f"{task.folder / 'task.yaml'}: metrics")
    lines = [f"task {task.name}: {task.config.kind}, metrics {', '.join(task.config.metrics)}"]
    for split in SPLITS:
        examples: Sequence[Example] = getattr(task, split)
        answerable = sum(example.answerable for example in examples) / len(examples)
        asked, answered = (
            statistics.median(len(text.split()) for text in texts)
            for texts in ([example.input for example in examples], [example.targets[0] for example in examples])
        )
        lines.append(
            f"{split}: {len(examples)} items in {len({e.cluster for e in examples})} clusters, {answerable:.1%} answerable, "
            f"median words {asked:.0f} in the input and {answered:.0f} in the answer"
        )
    reasoning = [example.rationale for split in SPLITS for example in getattr(task, split) if example.rationale is not None]
    if reasoning:
        words = [len(text.split()) for text in reasoning]
        lines.append(f"rationales: {len(reasoning)}, median words {statistics.median(words):.0f}, at most {max(words)}")
    if task.corpus:
        used = {identity for split in SPLITS for example in getattr(task, split) for identity in example.evidence}
        lines.append(f"corpus: {len(task.corpus)} passages, {len(used)} of them named as evidence")
    lines += _answers(task)
    for name in task.config.slices:
        counts = Counter(example.slices[name] for example in task.test)
        lines.append(f"slice {name}: {_shares(counts)} of test")
    clusters = len({e.cluster for e in task.test})
    lines.append(
        f"power: a true difference of {100 * minimum_detectable_effect(TYPICAL_DISCORDANCE, clusters):.1f} points or more is found with"
        f" probability .8 where two strategies disagree on {TYPICAL_DISCORDANCE:.0%} of {clusters} independent items (clusters)"
    )
    lines += [f"warning: {warning}" for warning in task.warnings]
    lines.append(f"fingerprint: {task.fingerprint}")
    return lines


def _answers(task: Task) -> list[str]:
    """The distribution of answers, and what those score on test that ask no model."""
    counts = Counter(example.targets[0] for example in task.train)
    lines = []
    if task.labels:
        lines.append(f"labels: {len(task.labels)}; {_shares(counts)} of train")
    if task.config.kind == "multiple_choice":
        lines += _options(task)
    if task.config.kind in ("classification", "qa", "multiple_choice"):
        answer, _ = counts.most_common(1)[0]
        right = sum(answer in example.targets for example in task.test)
        lines.append(f'baseline: the most frequent answer of train, "{answer}", is right for {right / len(task.test):.1%} of test')
    if task.config.abstain:
        without = sum(not example.answerable for example in task.test)
        lines.append(f"baseline: always abstaining is right for {without / len(task.test):.1%} of test")
    for name in task.config.fields or () if task.config.kind == "structured" else ():
        values = {split: [_field(example, name) for example in getattr(task, split)] for split in ("train", "test")}
        value, _ = Counter(values["train"]).most_common(1)[0]
        right = values["test"].count(value)
        lines.append(f"baseline: {name} is {value}, the most frequent of train, for {right / len(task.test):.1%} of test")
    return lines


def _options(task: Task) -> list[str]:
    """How many options there are, and how often rules that read no question pick a right one on test."""
    counts = sorted({len(example.options) for split in SPLITS for example in getattr(task, split)})
    words = statistics.median(len(option.split()) for example in task.test for option in example.options)
    number = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    place, _ = Counter(example.options.index(example.targets[0]) for example in task.train).most_common(1)[0]
    rules: dict[str, Sequence[float]] = {
        "picking at random": [len(e.targets) / len(e.options) for e in task.test],
        f"picking number {place + 1}, the most frequent place in train,": [
            place in map(e.options.index, e.targets) for e in task.test
        ],
        "picking the longest option": [max(e.options, key=len) in e.targets for e in task.test],
    }
    lines = [f"options: {number} an item, median words {words:.0f}"]
    return lines + [f"baseline: {rule} is right for {sum(right) / len(task.test):.1%} of test" for rule, right in rules.items()]


def _field(example: Example, name: str) -> str:
    try:
        return json.dumps(json.loads(example.targets[0]).get(name), ensure_ascii=False)
    except ValueError:  # an abstention phrase
        return "null"


def _shares(counts: Counter[str]) -> str:
    most = [f"{value} {count / counts.total():.1%}" for value, count in counts.most_common(5)]
    return ", ".join([*most, f"{len(counts) - 5} more"] if len(counts) > 5 else most)


# ---------------------------------------------------------------------------------------------- a new task

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
