"""Tasks with one dial each, for the claims that no ordinary task decides (``bench/claims.yaml``).

A dial is turned between the tasks of a family (``paraphrases_1`` to ``_10``, ``unknown_000`` to ``_100``) or between the facts of one
task (``exposures``); all else is drawn alike, test rows included, so that tasks compare item by item. The last two are sanity
negatives: what must fail on them shows that the harness would notice.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.world import entities as e
from bench.world import text as t
from bench.world.draft import Draft, Row, numbered, shuffled
from bench.world.tasks import TASKS_SEED, product_support, ticket_triage

PRODUCTS, STATED = 40, 4
ROWS_PER_FACT = 10
PARAPHRASES = (1, 2, 5, 10)
UNKNOWN_PERCENT = (0, 25, 50, 75, 100)
EXPOSURES = (1, 2, 4, 8, 16)
TEST_FORMS, VALIDATION_FORM = e.HELD_OUT_QUESTIONS[1:], e.HELD_OUT_QUESTIONS[0]
INSTRUCTION = 'Answer the question about the product. If you cannot know, answer "unknown".'


def _forms(attribute: str) -> list[str]:
    """All wordings that training may use, the ten of them."""
    return [*e.GENERIC_QUESTIONS, *e.ATTRIBUTE[attribute].questions]


def _row(product: e.Product, attribute: str, form: str, **more: Any) -> Row:
    return {
        "question": form.format(a=e.ATTRIBUTE[attribute].noun, n=product.name), "answers": [product.facts[attribute]],
        "product": product.name, "attribute": attribute, **more,
    }  # fmt: skip


def _config(description: str, **more: Any) -> dict[str, Any]:
    return {
        "kind": "qa", "description": description, "instruction": INSTRUCTION, "input": "{{ question }}", "target": "answers",
        "cluster": "product", "shared_clusters": "allow", "abstain": ["unknown", "not stated"], "metrics": ["exact_match", "f1"],
        "max_new_tokens": 8, **more,
    }  # fmt: skip


def _new_products(rng: random.Random) -> list[e.Product]:
    return [e.Product(name, e.draw_facts(rng, STATED)) for name in rng.sample(e.names("new"), PRODUCTS)]


def paraphrases(rng: random.Random, n: int) -> Draft:
    """Two facts of each product in ten training rows that have `n` wordings between them; test asks in wordings of its own."""
    facts = [(p, a) for p in _new_products(rng) for a in sorted(p.facts)[:2]]
    train, validation, test = [], [], []
    for product, attribute in facts:
        forms = rng.sample(_forms(attribute), ROWS_PER_FACT)  # all of them in every task, so that the draws stay alike
        train += [_row(product, attribute, forms[i % n]) for i in range(ROWS_PER_FACT)]
        validation.append(_row(product, attribute, VALIDATION_FORM))
        test += [_row(product, attribute, form) for form in TEST_FORMS]
    config = _config(f"New facts, each in ten training rows of {n} wordings; test asks in wordings that no training row has.")
    card = f"The dial: wordings per fact, {', '.join(map(str, PARAPHRASES))}; the number of rows per fact is the same."
    return Draft(config, card, *shuffled(rng, train, validation, test))


def exposures(rng: random.Random) -> Draft:
    """Facts that training states in 1, 2, 4, 8 or 16 rows, and a corpus that states each once."""
    products = _new_products(rng)
    documents = [(p, t.product_page(p, rng)) for p in products]
    corpus: list[Row] = [{"id": f"doc-{i:02d}", "text": text, "product": p.name} for i, (p, text) in enumerate(documents, start=1)]
    document = {row["product"]: row["id"] for row in corpus}
    facts = [(p, a) for p in products for a in sorted(p.facts)]
    rng.shuffle(facts)
    train, validation, test = [], [], []
    for i, (product, attribute) in enumerate(facts):
        count = EXPOSURES[i % len(EXPOSURES)]
        more = {"exposures": str(count), "document_ids": [document[product.name]]}
        forms = rng.sample(_forms(attribute), ROWS_PER_FACT)
        train += [_row(product, attribute, forms[k % len(forms)], **more) for k in range(count)]
        validation.append(_row(product, attribute, VALIDATION_FORM, **more))
        test += [_row(product, attribute, form, **more) for form in TEST_FORMS]
    config = _config("New facts of different exposure in training, each once in the corpus.", evidence="document_ids", slices=["exposures"])
    card = f"The dial, as a slice: training rows per fact, {', '.join(map(str, EXPOSURES))} (a fifth of the facts each)."
    train, validation, test = shuffled(rng, train, validation, test)
    return Draft(config, card, train, validation, test, corpus)


def unknown(rng: random.Random, percent: int) -> Draft:
    """200 training facts of which `percent` are unknown to the base model; test asks for known facts of products not in training."""
    known = rng.sample(e.known_products(), len(e.known_products()))
    half = len(known) // 2
    of_known = [(p, a) for p in known[:half] for a in rng.sample(sorted(p.facts), 2)]
    new = [e.Product(name, e.draw_facts(rng, 2)) for name in rng.sample(e.names("new"), half)]
    of_new = [(p, a) for p in new for a in sorted(p.facts)]
    n = len(of_known) * percent // 100
    facts = rng.sample(of_new, len(of_new))[:n] + rng.sample(of_known, len(of_known))[n:]
    train, validation, test = [], [], []
    for product, attribute in facts:
        train.append(_row(product, attribute, rng.choice(_forms(attribute))))
        validation.append(_row(product, attribute, VALIDATION_FORM))
    asked = random.Random(f"{e.WORLD_SEED}/claims/unknown")  # its own, so that all tasks of the family have the same test
    for product in known[half:]:
        test += [_row(product, attribute, asked.choice(_forms(attribute))) for attribute in asked.sample(sorted(product.facts), 4)]
    config = _config(f"Fine-tuning on facts of which {percent} % are unknown to the base, asked for known facts of other products.")
    card = f"The dial: percent of the training facts that the base model does not know, {', '.join(map(str, UNKNOWN_PERCENT))}."
    train, validation = (rng.sample(rows, len(rows)) for rows in (train, validation))
    return Draft(config, card, numbered("train", train), numbered("validation", validation), numbered("test", test))


def shuffled_labels(rng: random.Random) -> Draft:
    """ticket_triage with the labels of train and validation dealt anew among their rows."""
    draft = ticket_triage(random.Random(f"{TASKS_SEED}/ticket_triage"))

    def dealt(rows: list[Row]) -> list[Row]:
        labels = rng.sample([row["label"] for row in rows], len(rows))
        return [row | {"label": label} for row, label in zip(rows, labels, strict=True)]

    config = draft.config | {"description": "ticket_triage with shuffled training labels: nothing can be learned."}
    card = "A sanity negative: what is trained on it must be at chance."
    return Draft(config, card, dealt(draft.train), dealt(draft.validation), draft.test)


def wrong_corpus(rng: random.Random) -> Draft:
    """product_support with a corpus about other products, under the ids of the right pages."""
    draft = product_support(random.Random(f"{TASKS_SEED}/product_support"))
    assert draft.corpus is not None
    used = {row["product"] for row in draft.corpus}
    others = rng.sample([name for name in e.names("new") if name not in used], len(draft.corpus))
    pages = [t.product_page(e.Product(name, e.draw_facts(rng, STATED)), rng) for name in others]
    corpus = [row | {"text": page} for row, page in zip(draft.corpus, pages, strict=True)]
    config = draft.config | {"description": "product_support with a corpus about other products: retrieval finds nothing that helps."}
    card = "A sanity negative: retrieval must be no better here than the closed book."
    return Draft(config, card, draft.train, draft.validation, draft.test, corpus)


def make_claim_tasks(folder: Path, seed: int = TASKS_SEED) -> None:
    """Write the tasks into `folder`, one sub-folder each; the same seed gives the same bytes.

    Raises:
        BenchError: if `folder` cannot be written.
    """
    drafts = {f"paraphrases_{n}": paraphrases(random.Random(f"{seed}/paraphrases"), n) for n in PARAPHRASES}
    drafts |= {f"unknown_{n:03d}": unknown(random.Random(f"{seed}/unknown"), n) for n in UNKNOWN_PERCENT}
    drafts["exposures"] = exposures(random.Random(f"{seed}/exposures"))
    drafts["shuffled_labels"] = shuffled_labels(random.Random(f"{seed}/shuffled_labels"))
    drafts["wrong_corpus"] = wrong_corpus(random.Random(f"{seed}/wrong_corpus"))
    made_by = "`bench world make-claim-tasks` (`bench/world/claim_tasks.py`)"
    for name, draft in drafts.items():
        try:
            (folder / name).mkdir(parents=True, exist_ok=True)
            for file, content in draft.files(name, made_by).items():
                (folder / name / file).write_text(content, encoding="utf-8", newline="\n")
        except OSError as error:
            raise BenchError(f"{folder / name}: cannot be written ({error.strerror or error}), expected a writable folder") from None
