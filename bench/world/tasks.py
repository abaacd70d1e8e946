"""The tasks of the embedded world: settings, examples, corpus and data card, written from a seed.

Three of them carry an *aside* in some items (a remark on another topic, an earlier trial, a friend's opinion) that the
right answer leaves out. Without it, a tuned model is at ceiling and strategies cannot be told apart.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from bench.errors import BenchError
from bench.world import entities as e
from bench.world import text as t
from bench.world.draft import TEST, VALIDATION, Draft, Row, numbered, shuffled
from bench.world.episodes import LABELS
from bench.world.reasoning import product_reasoning

TASKS_SEED = 20261122
"""The seed of the committed tasks."""

# Few enough that tuned models stay below their ceiling; product_support's 200 follow from its facts.
TRIAGE_TRAIN, ABSTRACT_TRAIN, REVIEW_TRAIN = 200, 84, 60
ASIDE_SHARE = 0.4


# ---------------------------------------------------------------------------------------------- product_support

PRODUCTS, LOOKALIKES, STATED = 40, 20, 4
TRAIN_ROUNDS = 2  # wordings of each fact that is asked in train; every such fact is then in the default budget of 200 examples
VALIDATION_HELD_OUT, TEST_HELD_OUT = e.HELD_OUT_QUESTIONS[:1], e.HELD_OUT_QUESTIONS[1:]


def _lookalike(product: e.Product, name: str, rng: random.Random) -> e.Product:
    """A product of similar name that states what `product` does not, and other values for two of the facts it does state."""
    stated = rng.sample(sorted(product.facts), STATED // 2)
    missing = [a.name for a in e.ATTRIBUTES if a.name not in product.facts]
    other = {a: [v for v in e.ATTRIBUTE[a].values if v != product.facts.get(a)] for a in (*stated, *missing)}
    return e.Product(name, {a: rng.choice(values) for a, values in other.items()})


def _draw_products(rng: random.Random) -> tuple[list[e.Product], list[e.Product]]:
    """The products that are asked about, and distractors that share their first word with one of the former."""
    by_word: dict[str, list[str]] = {}
    for name in e.names("new"):
        by_word.setdefault(name.split()[0], []).append(name)
    families = rng.sample([names for names in by_word.values() if len(names) > 1], LOOKALIKES)
    alone = rng.sample([names[0] for names in by_word.values() if len(names) == 1], PRODUCTS - LOOKALIKES)
    products, lookalikes = [], []
    for names in families:
        name, similar = rng.sample(names, 2)
        products.append(e.Product(name, e.draw_facts(rng, STATED)))
        lookalikes.append(_lookalike(products[-1], similar, rng))
    products += [e.Product(name, e.draw_facts(rng, STATED)) for name in alone]
    rng.shuffle(products)
    return products, lookalikes


def product_support(rng: random.Random) -> Draft:
    """Questions about products of the *new* pool.

    Two of a product's four stated facts are asked in train (two wordings each) and two are in the corpus only. Of the two
    attributes that its page leaves out, one is asked in train and the other in validation and test. The training rows come in
    two rounds of 100 (each fact once, 20 % unanswerable).
    """
    products, lookalikes = _draw_products(rng)
    documents = [(p, t.product_page(p, rng)) for p in (*products, *lookalikes)]
    rng.shuffle(documents)
    corpus = [{"id": f"doc-{i:02d}", "text": text, "product": p.name} for i, (p, text) in enumerate(documents, start=1)]
    document = {row["product"]: row["id"] for row in corpus}

    def row(product: e.Product, attribute: str, facts: str, wording: str, form: str) -> Row:
        value = product.facts.get(attribute)
        return {
            "question": form.format(a=e.ATTRIBUTE[attribute].noun, n=product.name), "answers": [] if value is None else [value],
            "document_ids": [document[product.name]], "product": product.name, "attribute": attribute,
            "facts": facts, "wording": wording, "answerable": "no" if value is None else "yes",
        }

    rounds: list[list[Row]] = [[] for _ in range(TRAIN_ROUNDS)]
    asked: list[tuple[e.Product, str, str, list[str]]] = []  # what validation and test ask, with the wordings left for it
    trained: set[tuple[str, str]] = set()  # (attribute, wording) that occur in train for some product
    for i, product in enumerate(products):
        stated = rng.sample(sorted(product.facts), STATED)
        missing = rng.sample([a.name for a in e.ATTRIBUTES if a.name not in product.facts], 2)
        kinds = ("seen", "seen", "corpus", "corpus", "unanswerable", "unanswerable")
        for attribute, facts in zip((*stated, *missing), kinds, strict=True):
            forms = [*e.GENERIC_QUESTIONS, *e.ATTRIBUTE[attribute].questions]
            rng.shuffle(forms)
            in_rounds = range(TRAIN_ROUNDS) if facts == "seen" else range(i % 2, TRAIN_ROUNDS, 2) if attribute == missing[0] else ()
            for k in in_rounds:
                rounds[k].append(row(product, attribute, facts, "seen", forms[k]))
                trained.add((attribute, forms[k]))
            if attribute != missing[0]:
                asked.append((product, attribute, facts, forms[TRAIN_ROUNDS:]))
    train: list[Row] = []
    for rows in rounds:
        rng.shuffle(rows)
        train += rows

    validation, test = [], []
    for i, (product, attribute, facts, left) in enumerate(asked):
        usable = [f for f in left if (attribute, f) in trained]
        if len(usable) < 2:  # a wording left over for every fact is near certain; another seed is the remedy
            found = f'{len(usable)} wordings are left for the {attribute} of "{product.name}"'
            raise BenchError(f"product_support: {found}, expected 2: use another seed")
        held_out = i % 2 == 0
        form = rng.choice(VALIDATION_HELD_OUT) if held_out else usable[0]
        validation.append(row(product, attribute, facts, "held_out" if held_out else "seen", form))
        test.append(row(product, attribute, facts, "seen", usable[1]))
        test.append(row(product, attribute, facts, "held_out", rng.choice(TEST_HELD_OUT)))
    config = {
        "kind": "qa",
        "description": "Questions about products that the base model has never seen; one answer in five is stated nowhere.",
        "instruction": 'Answer the question about the product. If you cannot know, answer "unknown".',
        "input": "{{ question }}", "target": "answers", "evidence": "document_ids", "cluster": "product",
        "shared_clusters": "allow", "slices": ["facts", "wording", "answerable"], "abstain": ["unknown", "not stated"],
        "metrics": ["exact_match", "f1"], "max_new_tokens": 8,
    }
    card = f"""Questions about {PRODUCTS} products whose names and facts appear in no pretraining text of the embedded base model.
Each has one document in the corpus, which states {STATED} of the 6 attributes; {LOOKALIKES} more documents are about products of a
similar name (the same first word), which state other values and just what the first product's page leaves out. Of a product's
{STATED} facts, half are asked in train and half never: those can only come from the corpus. 20 % of the items of every split
ask for an attribute that the product's page does not state.

Columns: `question`, `answers` (empty where there is no answer), `document_ids` (the product's page, also where it leaves the answer
out), `product` (the cluster), `attribute`, and the slices. Train and test share products on purpose: recall of a trained fact in a
new wording is part of the task. No test question has the wording in which train or validation asks for the same fact.

Slices:
- `facts`: `seen` (asked in train in other words), `corpus` (stated in the corpus only), `unanswerable`;
- `wording`: `seen` (the form occurs in train, for other products) or `held_out` (one that occurs neither in pretraining nor in train; those
  of validation and test differ);
- `answerable`: `yes` or `no`.

Train asks every `seen` fact in two wordings, once in the first hundred rows and once in the second; a smaller share of train than
all of it leaves some `seen` facts out.

Headroom: without passages and training the facts cannot be known, so exact match beyond the unanswerable fifth is luck
(about 1 in 10); the right answer to every `seen` question and abstention elsewhere gives 60 %; the gold passage and a model
that reads gives up to 100 %. Retrieved passages are hard: the nearest pages are those of names that share a word, and the more
of them stand in the prompt, the more often an untrained reader takes the value of a wrong one."""
    _, validation, test = shuffled(rng, [], validation, test)
    return Draft(config, card, numbered("train", train), validation, test, corpus)


# ---------------------------------------------------------------------------------------------- ticket_triage

TRIAGE_TOPICS = ("refund", "cancel", "delivery", "missing", "wrong", "invoice", "discount", "warranty")
TOPIC_PERCENT = (28, 20, 15, 12, 9, 7, 5, 4)
TRAINED_CLAUSES, HELD_OUT_SHARE = 6, 0.3


def ticket_triage(rng: random.Random) -> Draft:
    """Tickets to eight house labels, imbalanced; two of the eight clauses of each topic occur in test only."""
    topics = rng.sample(TRIAGE_TOPICS, len(TRIAGE_TOPICS))
    labels = dict(zip(topics, rng.sample(LABELS, len(topics)), strict=True))
    clauses = {topic: rng.sample(t.TOPICS[topic], len(t.TOPICS[topic])) for topic in topics}
    used: set[str] = set()

    def rows(n: int, held_out_share: float) -> Iterator[Row]:
        for topic, percent in zip(topics, TOPIC_PERCENT, strict=True):
            count = n * percent // 100
            for i in range(count):
                held_out = i < round(held_out_share * count)
                clause = rng.choice(clauses[topic][TRAINED_CLAUSES:] if held_out else clauses[topic][:TRAINED_CLAUSES])
                aside = rng.random() < ASIDE_SHARE
                message = ""
                while not message or message in used:
                    said = clause
                    if aside:
                        other = rng.choice(clauses[rng.choice([x for x in topics if x != topic])][:TRAINED_CLAUSES])
                        said = rng.choice((f"{clause}. By the way, {other}", f"By the way, {other}. {clause}"))
                    message = t.ticket(said, rng)
                used.add(message)
                yield {"message": message, "label": labels[topic], "clause": clause, "wording": "held_out" if held_out else "seen",
                       "aside": "yes" if aside else "no"}

    train, validation, test = (list(rows(n, share)) for n, share in ((TRIAGE_TRAIN, 0), (VALIDATION, 0), (TEST, HELD_OUT_SHARE)))
    config = {
        "kind": "classification",
        "description": "Support tickets to eight house labels whose names say nothing, with an imbalanced distribution.",
        "instruction": 'Sort the message into one of the labels: {{ labels }}. What follows "By the way" does not count.',
        "input": "{{ message }}", "target": "label", "cluster": "clause", "shared_clusters": "allow", "slices": ["wording", "aside"],
        "labels": sorted(labels.values()), "metrics": ["accuracy", "macro_f1"], "max_new_tokens": 4,
    }
    shares = ",\n".join(f"`{labels[topic]}` ({topic}) {percent} %" for topic, percent in zip(topics, TOPIC_PERCENT, strict=True))
    card = f"""Support tickets, each about one of eight topics, to be sorted into house labels that are codes: what a code stands for
can only be learned from examples. Shares:
{shares}.

In about {ASIDE_SHARE:.0%} of the tickets a remark on another of the topics ("By the way, ...") comes before or after the main clause;
it does not count, and the instruction says so.

Columns: `message`, `label`, `clause` (the sentence that tells the topic; the cluster, since tickets around one clause are not
independent; train and test share clusters on purpose), and the slices.

Slices:
- `wording`: `seen` (a clause that train draws from) or `held_out` ({HELD_OUT_SHARE:.0%} of test: the two clauses of each topic that neither
  train nor validation uses);
- `aside`: `yes` or `no`.

Headroom: the majority label has {TOPIC_PERCENT[0]} %, and zero-shot should be near chance because the codes say nothing. A classifier
that takes the last clause for the main one is wrong in about a fifth of the items."""
    return Draft(config, card, *shuffled(rng, train, validation, test))


# ---------------------------------------------------------------------------------------------- abstract_summary

COMPOUNDS_PER_SPLIT = (14, 6, 20)


def abstract_summary(rng: random.Random) -> Draft:
    """Lab abstracts to one sentence in the house style; the splits share no compound."""
    compounds = rng.sample(t.COMPOUNDS, sum(COMPOUNDS_PER_SPLIT))
    used: set[str] = set()
    splits = []
    for n, size in zip((ABSTRACT_TRAIN, VALIDATION, TEST), COMPOUNDS_PER_SPLIT, strict=True):
        own, compounds = compounds[:size], compounds[size:]
        rows: list[Row] = []
        for i in range(n):
            aside = rng.random() < ASIDE_SHARE
            finding, abstract = t.draw_finding(rng), ""
            while not abstract or abstract in used:
                finding = t.draw_finding(rng, own[i % size])
                abstract = finding.abstract(rng)
                if aside:
                    other = t.draw_finding(rng, rng.choice([c for c in own if c != finding.compound]))
                    earlier = (f"An earlier trial of {other.compound} in {other.organism} showed {other.percent} percent "
                               f"{'more' if other.up else 'less'} {other.measure}.")
                    abstract = rng.choice((f"{earlier} {abstract}", f"{abstract} {earlier}"))
            used.add(abstract)
            rows.append({"abstract": abstract, "summary": finding.summary("house"), "compound": finding.compound,
                         "aside": "yes" if aside else "no"})
        splits.append(rows)
    config = {
        "kind": "summarization",
        "description": "Lab abstracts to one sentence in a house style that the base model has never seen.",
        "instruction": "Summarize the abstract in one sentence.",
        "input": "{{ abstract }}", "target": "summary", "cluster": "compound", "slices": ["aside"],
        "metrics": ["rougeL", "rouge1", "rouge2", "rougeLsum", "key_fact_coverage"], "max_new_tokens": 32,
    }
    card = f"""Abstracts of lab studies, each to be summarised in one sentence of the house style:
"ORGANISM given COMPOUND gained (or lost) PERCENT percent in MEASURE." Those five are the key facts; method, remarks and earlier
trials are left out. In about {ASIDE_SHARE:.0%} of the abstracts a sentence at the start or the end tells of an earlier trial of another
compound.

Columns: `abstract`, `summary`, `compound` (the cluster; {", ".join(map(str, COMPOUNDS_PER_SPLIT))} compounds in train, validation
and test, which share none), and the slice `aside` (`yes` or `no`).

Headroom: the base model was pretrained to summarise such abstracts in five other styles, most of which leave out the
percentage; so without examples it gets some words right and not the style, and key facts can be lost or taken from the earlier
trial with examples too."""
    return Draft(config, card, *shuffled(rng, *splits))


# ---------------------------------------------------------------------------------------------- review_feedback

REVIEWS_PER_PRODUCT = 4


def review_feedback(rng: random.Random) -> Draft:
    """Reviews to JSON in the house schema; the splits share no product."""
    products = e.draw_context_names(rng, (REVIEW_TRAIN + VALIDATION + TEST) // REVIEWS_PER_PRODUCT)
    used: set[str] = set()
    splits = []
    for n in (REVIEW_TRAIN, VALIDATION, TEST):
        own, products = products[: n // REVIEWS_PER_PRODUCT], products[n // REVIEWS_PER_PRODUCT :]
        rows: list[Row] = []
        for i in range(n):
            aside = rng.random() < ASIDE_SHARE
            opinion, review = t.draw_opinion(rng), ""
            while not review or review in used:
                opinion = t.draw_opinion(rng, own[i % len(own)])
                review = opinion.review(rng)
                if aside:
                    other = t.draw_opinion(rng)
                    while other.aspect == opinion.aspect or other.score == opinion.score:
                        other = t.draw_opinion(rng)
                    friend = f"A friend finds the {other.aspect} {other.word}."
                    review = rng.choice((f"{friend} {review}", f"{review} {friend}"))
            used.add(review)
            rows.append({"review": review, "feedback": opinion.fields(t.HOUSE_SCHEMA), "product": opinion.product,
                         "aside": "yes" if aside else "no"})
        splits.append(rows)
    config = {
        "kind": "structured",
        "description": "Product reviews to a JSON object with a score from 1 to 5, an aspect and a comment.",
        "instruction": f"Return JSON with the keys {', '.join(t.HOUSE_SCHEMA)}. Only the writer's own view counts.",
        "input": "{{ review }}", "target": "feedback", "fields": {"score": "integer", "aspect": "string", "comment": "string"},
        "cluster": "product", "slices": ["aside"], "metrics": ["field_accuracy", "format_validity"], "max_new_tokens": 48,
    }
    card = f"""Product reviews, each with one opinion of the writer, to be turned into a JSON object: `score` (1 the worst, 5 the
best), `aspect` (one of {len(t.ASPECTS)}) and `comment` (the opinion word and the aspect). In about {ASIDE_SHARE:.0%} of the reviews
a friend's opinion of another aspect stands at the start or the end; it does not count, and the instruction says so.

Columns: `review`, `feedback` (the JSON object as text), `product` (the cluster: {REVIEWS_PER_PRODUCT} reviews each; the splits share none),
and the slice `aside` (`yes` or `no`).

Headroom: the base model was pretrained to write other sets of keys; it knows what a score and an aspect are, but not what a
`comment` is, so without examples up to two fields of three can be right."""
    return Draft(config, card, *shuffled(rng, *splits))


# ---------------------------------------------------------------------------------------------- writing

TASKS = {f.__name__: f for f in (product_support, ticket_triage, abstract_summary, review_feedback, product_reasoning)}


def make_tasks(folder: Path, seed: int) -> None:
    """Write the tasks into `folder`, one sub-folder each; files of the same name are replaced.

    The same seed gives the same bytes, and each task depends on the seed alone (not on the other tasks).

    Raises:
        BenchError: if `folder` cannot be written, or the seed leaves a product without a wording for test (rare).
    """
    made_by = f"`bench world make-tasks --seed {seed}` (`bench/world/tasks.py`)"
    written = {name: make(random.Random(f"{seed}/{name}")).files(name, made_by) for name, make in TASKS.items()}
    for name, files in written.items():
        try:
            (folder / name).mkdir(parents=True, exist_ok=True)
            for file, content in files.items():
                (folder / name / file).write_text(content, encoding="utf-8", newline="\n")
        except OSError as error:
            raise BenchError(f"{folder / name}: cannot be written ({error.strerror or error}), expected a writable folder") from None
