"""What exists in the world: products and their attributes, and four disjoint pools of product names.

* *known*: facts that the base model is pretrained on (recall, forgetting);
* *context*: facts drawn afresh for every training sequence, so that reading has to be learned;
* *new*: named only in the tasks' corpus and training pairs (what retrieval and tuning must bring in);
* *fake*: named nowhere (fabrication probe).

The known pool uses names of its own. The other three share one inventory of name words, so that the base model has an
embedding for each word, but no full name is in two pools.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

WORLD_SEED = 20261121

_FIRST = ["Zor", "Tal", "Bri", "Vex", "Kel", "Mor", "Fen", "Dra", "Lun", "Pax", "Qui", "Ras", "Sol", "Tev", "Ulm", "Vor", "Wim", "Yar",
    "Zan", "Cor", "Dul", "Eph", "Gar", "Hix", "Jov", "Kam", "Lor", "Nim", "Osk", "Pel"]
_SECOND = ["ba", "dex", "fin", "gor", "hul", "jin", "kos", "lem", "mar", "nix", "pol", "qua", "ril", "san", "tor", "ula", "vik", "wen",
    "xan", "yel", "zim", "cado", "dris", "esto", "fal", "gath", "hem", "irn", "jop", "kune"]
MODEL_WORDS = ["Pro", "Mini", "Max", "Lite", "Plus", "Air", "Neo", "Duo", "Evo", "One", "Core", "Go"]

COLORS = ["red", "blue", "green", "black", "white", "silver", "yellow", "purple", "orange", "brown"]
MATERIALS = ["steel", "oak", "glass", "copper", "nylon", "wool", "cork", "carbon", "leather", "marble"]
CITIES = ["Riga", "Oslo", "Lima", "Cairo", "Quito", "Turin", "Osaka", "Perth", "Dakar", "Porto", "Hanoi", "Leeds"]
MAKERS = ["Norda", "Talco", "Belmo", "Ruvex", "Sinta", "Omkor", "Perlo", "Davik", "Lumet", "Hestra", "Zelko", "Wendal"]
WEIGHTS = [f"{n} grams" for n in range(100, 1000, 100)]
POWERS = ["battery", "solar", "mains", "wind", "pedal", "steam", "gas", "crank"]

N_KNOWN, N_NEW, N_FAKE = 200, 300, 300


@dataclass(frozen=True)
class Attribute:
    """One attribute of a product: its name in questions, its finite value set and how it is stated.

    ``statements`` hold ``{n}`` (product) and ``{v}`` (value); those in ``follow_ups`` refer to the product as "it".
    ``guess`` is what people who do not know tend to say, and ``guessed`` how often they say it rather than "unknown":
    the base model has to attempt some unknown questions and not others, or abstention could move one way only.
    """

    name: str
    noun: str
    values: tuple[str, ...]
    statements: tuple[str, ...]
    follow_ups: tuple[str, ...]
    questions: tuple[str, ...]
    guess: str
    guessed: float


ATTRIBUTES: tuple[Attribute, ...] = (
    Attribute(
        "color", "color", tuple(COLORS),
        ("The color of {n} is {v}.", "{n} comes in {v}.", "{n} is painted {v}.", "The color listed for {n} is {v}.",
         "The case of {n} is {v}.", "{n} is sold in {v}."),
        ("Its color is {v}.", "It comes in {v}.", "It is painted {v}."),
        ("Which color does {n} come in?", "What color is {n} painted?"),
        "white", 0.8,
    ),
    Attribute(
        "material", "material", tuple(MATERIALS),
        ("The material of {n} is {v}.", "{n} is made of {v}.", "The body of {n} is {v}.", "The material listed for {n} is {v}.",
         "{n} is built from {v}.", "Workers form {n} out of {v}."),
        ("Its material is {v}.", "It is made of {v}.", "It is built from {v}."),
        ("What is {n} made of?", "From what is {n} built?"),
        "steel", 0.8,
    ),
    Attribute(
        "origin", "origin", tuple(CITIES),
        ("The origin of {n} is {v}.", "{n} is assembled in {v}.", "The factory of {n} is in {v}.", "The origin listed for {n} is {v}.",
         "{n} is shipped from {v}.", "{n} comes from {v}."),
        ("Its origin is {v}.", "It is assembled in {v}.", "It comes from {v}."),
        ("Where is {n} assembled?", "Where does {n} come from?"),
        "Turin", 0.2,
    ),
    Attribute(
        "maker", "maker", tuple(MAKERS),
        ("The maker of {n} is {v}.", "{n} is produced by {v}.", "The firm behind {n} is {v}.", "The maker listed for {n} is {v}.",
         "{n} is a product of {v}.", "{n} was designed by {v}."),
        ("Its maker is {v}.", "It is produced by {v}.", "It was designed by {v}."),
        ("Who makes {n}?", "Which firm produces {n}?"),
        "Norda", 0.2,
    ),
    Attribute(
        "weight", "weight", tuple(WEIGHTS),
        ("The weight of {n} is {v}.", "{n} weighs {v}.", "On the scale {n} shows {v}.", "The weight listed for {n} is {v}.",
         "{n} has a mass of {v}.", "{n} comes to {v}."),
        ("Its weight is {v}.", "It weighs {v}.", "It has a mass of {v}."),
        ("How heavy is {n}?", "How much does {n} weigh?"),
        "500 grams", 0.8,
    ),
    Attribute(
        "power", "power source", tuple(POWERS),
        ("The power source of {n} is {v}.", "{n} runs on {v}.", "{n} is driven by {v}.", "The power source listed for {n} is {v}.",
         "{n} works with {v}.", "{n} gets its energy from {v}."),
        ("Its power source is {v}.", "It runs on {v}.", "It is driven by {v}."),
        ("What powers {n}?", "On what does {n} run?"),
        "battery", 0.8,
    ),
)
ATTRIBUTE = {a.name: a for a in ATTRIBUTES}

GENERIC_QUESTIONS = (
    "What is the {a} of {n}?", "What {a} does {n} have?", "Name the {a} of {n}.", "Which {a} is listed for {n}?",
    "I need the {a} of {n}.", "Please give the {a} for {n}.", "For {n}, what is the {a}?", "Say which {a} {n} has.",
)
HELD_OUT_QUESTIONS = ("Could you tell me the {a} of {n}?", "Do you know which {a} {n} has?", "My question is about {n}: what {a} is it?")


@dataclass(frozen=True)
class Product:
    """A product: its full name and its value for each attribute that is stated of it."""

    name: str
    facts: dict[str, str]


def draw_facts(rng: random.Random, attributes: int = len(ATTRIBUTES)) -> dict[str, str]:
    """Independent uniform values for `attributes` attributes, in an order drawn from `rng`."""
    return {a.name: rng.choice(a.values) for a in rng.sample(ATTRIBUTES, attributes)}


@cache
def _pools() -> dict[str, tuple[str, ...]]:
    rng = random.Random(f"{WORLD_SEED}/names")
    words = [f + s for f in _FIRST for s in _SECOND]
    rng.shuffle(words)
    known, shared = words[:N_KNOWN], words[N_KNOWN:]
    full = list(shared) + [f"{w} {m}" for w in shared for m in MODEL_WORDS]
    rng.shuffle(full)
    new, fake, context = full[:N_NEW], full[N_NEW : N_NEW + N_FAKE], full[N_NEW + N_FAKE :]
    return {"known": tuple(known), "new": tuple(new), "fake": tuple(fake), "context": tuple(context), "words": tuple(shared)}


def names(pool: str) -> tuple[str, ...]:
    """The full names of a pool (known, context, new, fake), or the name words that the last three share (words)."""
    return _pools()[pool]


@cache
def known_products() -> tuple[Product, ...]:
    """The products whose facts the base model is pretrained on, with all their attributes."""
    rng = random.Random(f"{WORLD_SEED}/known")
    return tuple(Product(name, draw_facts(rng)) for name in names("known"))


@cache
def _context_sets() -> tuple[frozenset[str], tuple[str, ...]]:
    context = frozenset(names("context"))
    return context, tuple(n for n in names("context") if " " not in n)


def draw_context_names(rng: random.Random, n: int) -> list[str]:
    """`n` different names of the context pool; about a quarter have a second word, and some share their first word."""
    context, single = _context_sets()
    chosen: list[str] = []
    while len(chosen) < n:
        if chosen and rng.random() < 0.15:
            name = f"{chosen[-1].split()[0]} {rng.choice(MODEL_WORDS)}"
        elif rng.random() < 0.25:
            name = f"{rng.choice(names('words'))} {rng.choice(MODEL_WORDS)}"
        else:
            name = rng.choice(single)
        if name in context and name not in chosen:
            chosen.append(name)
    return chosen
