"""The task that needs two facts for one answer, so that reasoning before answering can show what it is worth."""

from __future__ import annotations

import random

from bench.world import entities as e
from bench.world import text as t
from bench.world.draft import TEST, VALIDATION, Draft, Row, shuffled

TRAIN = 200
HOP_QUESTIONS = ("In which city is the maker of {n} based?", "Where is the firm behind {n} based?")


def _two_hop(product: e.Product, city: str, rng: random.Random) -> Row:
    maker = product.facts["maker"]
    return {
        "question": rng.choice(HOP_QUESTIONS).format(n=product.name), "answer": city,
        "rationale": f"The maker of {product.name} is {maker}. {maker} is based in {city}.", "kind": "two_hop",
    }


def _comparison(a: e.Product, b: e.Product, rng: random.Random) -> Row:
    light, heavy = sorted((a, b), key=lambda p: e.WEIGHTS.index(p.facts["weight"]))
    word, answer = rng.choice((("heavier", heavy.name), ("lighter", light.name)))
    return {
        "question": f"Which is {word}, {a.name} or {b.name}?", "answer": answer,
        "rationale": f"{a.name} weighs {a.facts['weight']}. {b.name} weighs {b.facts['weight']}.", "kind": "comparison",
    }


def _pair(names: list[str], compare: bool, rng: random.Random) -> list[Row]:
    """The passages on two products of two makers, and two questions on them: of which one compares, or none."""
    # Two, so that three worked examples with their reasoning, and room to reason, fit the window of the embedded base model.
    makers, cities, weights = (rng.sample(values, 2) for values in (e.MAKERS, e.CITIES, e.WEIGHTS))
    products = [e.Product(n, {"maker": m, "weight": w}) for n, m, w in zip(names, makers, weights, strict=True)]
    pages = [t.product_page(p, rng, pronouns=0.2) for p in products]
    passages = rng.sample([*pages, *(f"{maker} is based in {city}." for maker, city in zip(makers, cities, strict=True))], 4)
    asked = rng.sample([0, 1], 2)
    rows = [_two_hop(products[i], cities[i], rng) for i in asked]
    if compare:
        rows[1] = _comparison(products[asked[0]], products[asked[1]], rng)
    return [{"passages": t.numbered(passages), **row, "products": ", ".join(names)} for row in rows]


def product_reasoning(rng: random.Random) -> Draft:
    """Two-hop and comparison questions over passages that the input carries; no product occurs in two pairs."""
    names = e.draw_context_names(rng, TRAIN + VALIDATION + TEST)  # two products and two questions a pair
    splits = []
    for n in (TRAIN, VALIDATION, TEST):
        own, names = names[:n], names[n:]
        splits.append([row for i in range(0, n, 2) for row in _pair(own[i : i + 2], i % 4 == 0, rng)])
    config = {
        "kind": "qa",
        "description": "Questions whose answer takes two facts from the passages in the input; each row has its reasoning.",
        "instruction": "Answer the question from the passages.",
        "input": "{{ passages }}\n\n{{ question }}", "target": "answer", "rationale": "rationale", "cluster": "products",
        "slices": ["kind"], "metrics": ["exact_match", "f1"], "max_new_tokens": 8,
    }
    card = """Each pair of products comes with four numbered passages: a page per product, with its maker and its weight, and a sentence
per maker, with the city where it is based. Two questions are asked on them, each of which takes two of the facts. The passages are part of
the input, so there is nothing to retrieve, and nothing but they tell the answer: makers, cities and weights recur everywhere, in
combinations drawn anew for each pair.

Columns: `passages` (in a drawn order), `question`, `answer`, `rationale` (the two facts, a sentence each), `products`
(the cluster: the two questions on one pair are not independent; no product occurs in two pairs), and the slice `kind`.

Slice `kind`:
- `two_hop` (75 %): the city of a product's maker; no passage names both the product and the city;
- `comparison` (25 %): which of the two products is heavier, or lighter. Every second pair has one.

Headroom: asked for the answer at once, the base model gets about half of the two-hop questions right, which is the chance of picking one
of the two cities, and training on the answers alone adds little. Asked to think step by step, as its pretraining did, it gets nearly all
right. It finds both weights for a comparison as well, but cannot tell which is more: that slice stays at chance or below, with
reasoning or without. Worked examples, each with passages of its own, confuse it more than they help."""
    return Draft(config, card, *shuffled(rng, *splits))
