"""Writes tickets.csv beside this file: support tickets of the embedded synthetic world, with the flaws that an export has.

    python docs/tutorial/make_tickets.py
"""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path

from bench.world.text import TOPICS, ticket

SEED = 20270104
CATEGORIES = {"refund": 95, "delivery": 80, "login": 65, "invoice": 60, "battery": 55, "cancel": 45}
"""Tickets of each category."""
CUSTOMERS = 260
REMARK_SHARE = 0.4
"""Of the tickets, those that mention a second matter, which does not count."""
MISTAKES = 10
"""Tickets that were put into a wrong category."""
COPIES, BLANK_MESSAGES, BLANK_CATEGORIES, SPELLINGS = 6, 3, 2, 12
"""Rows sent twice; rows without a message; without a category; and with the category in another spelling."""


def tickets() -> str:
    """The file's content; the same at every call."""
    rng = random.Random(SEED)
    rows = _told(rng)
    rng.shuffle(rows)
    for row in rng.sample(rows, MISTAKES):
        row["category"] = rng.choice([other for other in CATEGORIES if other != row["category"]])
    for row in rng.sample(rows, SPELLINGS):
        row["category"] = rng.choice((row["category"].upper(), f" {row['category']}", f"{row['category'].capitalize()} "))
    for row in rng.sample(rows, len(rows) // 10):
        row["message"] = f"  {row['message']} "
    for row in rng.sample(rows, COPIES):
        rows.insert(rng.randrange(len(rows)), dict(row))
    for key, count in (("message", BLANK_MESSAGES), ("category", BLANK_CATEGORIES)):
        for row in rng.sample(rows, count):
            rows.insert(rng.randrange(len(rows)), row | {key: ""})
    for number, row in enumerate(rows, start=1):
        row["ticket_id"] = f"T-{1000 + number}"
    made = io.StringIO()
    writer = csv.DictWriter(made, ("ticket_id", "customer", "message", "category"), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return made.getvalue()


def _told(rng: random.Random) -> list[dict[str, str]]:
    """Tickets as they were written: each customer writes again and again, mostly about the same matter."""
    categories = [category for category, count in CATEGORIES.items() for _ in range(count)]
    matter = {customer: rng.choice(categories) for customer in range(CUSTOMERS)}
    rows = []
    for category in categories:
        said = rng.choice(TOPICS[category])
        if rng.random() < REMARK_SHARE:
            remark = rng.choice(TOPICS[rng.choice([other for other in CATEGORIES if other != category])])
            said = rng.choice((f"{said}. By the way, {remark}", f"By the way, {remark}. {said}"))
        regular = [customer for customer, usual in matter.items() if usual == category]
        customer = rng.choice(regular) if regular and rng.random() < 0.5 else rng.randrange(CUSTOMERS)
        rows.append({"customer": f"C{customer:03d}", "message": ticket(said, rng), "category": category})
    return rows


if __name__ == "__main__":
    Path(__file__).with_name("tickets.csv").write_text(tickets(), encoding="utf-8", newline="\n")
