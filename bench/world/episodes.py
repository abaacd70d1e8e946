"""The pretraining text: short episodes of several kinds, each a list of segments with the supervised ones marked.

Ask densely: several questions on one context give many times the signal of one (a prototype with one question per
context stayed at chance for 4 M tokens). Labels, mappings and facts of the context pool are drawn afresh in every episode,
so that the only way to be right is to read the episode.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.world import entities as e
from bench.world import text as t

BOS, USER, ASSISTANT, END = "<|bos|>", "<|user|>", "<|assistant|>", "<|end|>"

ABSTAIN_WORDS = ("unknown", "not stated")
ASK_OPEN = (
    "Answer the question from the passages.", "Use the passages to answer.", "Read the passages and answer.",
    "Answer with the help of the text.", "Answer the question about the product.", "Reply with the answer only.",
)
ASK_CLOSED = (
    "Answer the question.", "Answer the question about the product.", "Give a short answer.", "Reply with the answer only.",
    "Answer in a few words.", "Reply to the customer's question.",
)
IF_UNKNOWN = (
    'If you cannot know, answer "{w}".', 'If you do not know, answer "{w}".', 'If it is not given, say "{w}".',
    'Answer "{w}" if you cannot tell.', 'When the answer is not there, reply "{w}".',
)
STEPS = ("Think step by step.", "Explain your steps, then answer.", "Reason step by step, then give the answer.")
SORT = (
    "Sort the message into one of the labels: {l}.", "Choose the label of the message: {l}.", "Which label fits? Labels: {l}.",
    "Classify the text. Labels: {l}.", "Reply with one label: {l}.", "Pick one of {l} for each message.",
)
SUMMARIZE = ("Summarize the abstract in the {s} style.", "Write a {s} summary of the abstract.", "Give the {s} summary.")
SUMMARIZE_BLIND = ("Summarize the abstract in one sentence.", "Write the summary of the abstract.", "Sum up the abstract.")
EXTRACT = ("Return JSON with the keys {k}.", "Write the review as JSON with {k}.", "Extract {k} as JSON.",
    "Reply in JSON with the keys {k}.")


@dataclass
class Episode:
    """Segments in order: (text, kind). A kind names what a supervised segment trains; None is background text."""

    segments: list[tuple[str, str | None]] = field(default_factory=lambda: [(BOS, None)])

    def user(self, text: str) -> Episode:
        self.segments += [(USER, None), (text, None), (END, None), (ASSISTANT, None)]
        return self

    def answer(self, text: str, kind: str | None) -> Episode:
        self.segments += [(text, kind), (END, kind)]
        return self

    def plain(self, text: str, kind: str | None = None) -> Episode:
        self.segments.append((text, kind))
        return self


def _lines(*parts: str) -> str:
    return "\n\n".join(p for p in parts if p)


# ---------------------------------------------------------------------------------------------- the induction curriculum


def _words() -> list[str]:
    values = [v for a in e.ATTRIBUTES for v in a.values if " " not in v]
    clause_words = {w for clauses in t.TOPICS.values() for c in clauses for w in c.lower().split() if w.isalpha()}
    return sorted({*values, *clause_words, *e.names("words"), *t.ORGANISMS, *t.COMPOUNDS, *fresh_labels_pool()})


def fresh_labels_pool() -> list[str]:
    """Labels that say nothing: two-syllable codes, one token each."""
    return [a + b for i, a in enumerate(t.LABEL_SYLLABLES) for b in t.LABEL_SYLLABLES[i + 1 : i + 6]]


WORDS = _words()
LABELS = fresh_labels_pool()


def repeat_block(rng: random.Random, _: int) -> Episode:
    """A block of random words repeated; every repeated word is supervised. Forms induction heads."""
    block = rng.sample(WORDS, rng.randrange(6, 25))
    episode = Episode().plain(" ".join(block))
    for _i in range(max(1, 100 // len(block))):
        episode.plain(" ".join(block), "repeat")
    return episode


def word_labels(rng: random.Random, separator: int) -> Episode:
    """Words with fresh labels, `separator` tokens drawn per episode between word and label."""
    words = rng.sample(WORDS, rng.randrange(3, 9))
    labels = rng.sample(LABELS, min(len(words), rng.randrange(2, 5)))
    mapping = {w: rng.choice(labels) for w in words}
    between = " ".join(rng.sample(WORDS, rng.randrange(0, separator + 1)))
    episode, seen = Episode(), set()
    for _i in range(40):
        word = rng.choice(words)
        episode.plain(f"{word} {between}".strip())
        episode.plain(mapping[word], "word_label" if word in seen else None)
        seen.add(word)
    return episode


# ---------------------------------------------------------------------------------------------- reading


def _fresh_products(rng: random.Random, k: int, facts: tuple[int, int] = (2, 5)) -> list[e.Product]:
    return [e.Product(n, e.draw_facts(rng, rng.randrange(facts[0], facts[1]))) for n in e.draw_context_names(rng, k)]


def read(rng: random.Random, k_max: int) -> Episode:
    """Up to `k_max` passages on fresh products, then many questions; half told to abstain, a quarter of those have no answer."""
    k = rng.choice([k_max, k_max, rng.randrange(1, k_max + 1)])
    products = _fresh_products(rng, k)
    word = rng.choice(ABSTAIN_WORDS)
    abstain = rng.random() < 0.5
    instruction = rng.choice(ASK_OPEN) + (" " + rng.choice(IF_UNKNOWN).format(w=word) if abstain else "")
    head = _lines(instruction, t.numbered([t.product_page(p, rng) for p in products]))
    if rng.random() < 0.1:
        head = ""  # some contexts come as plain text before the conversation
    episode = Episode()
    pairs = [(p, a) for p in products for a in p.facts]
    for i in range(rng.randrange(5, 8 + 2 * k)):
        if abstain and rng.random() < 0.25:
            if rng.random() < 0.6:
                product = rng.choice(products)
                missing = [a.name for a in e.ATTRIBUTES if a.name not in product.facts]
                ask, target, kind = t.question(product.name, rng.choice(missing), rng), word, "not_stated"
            else:
                other = e.draw_context_names(rng, 1)[0]
                if other in {p.name for p in products}:
                    continue
                ask, target, kind = t.question(other, rng.choice(e.ATTRIBUTES).name, rng), word, "not_stated"
        else:
            product, name = rng.choice(pairs)
            ask, target, kind = t.question(product.name, name, rng), product.facts[name], f"read_{k}"
        if i == 0 and not head:
            episode = Episode().plain(t.numbered([t.product_page(p, rng) for p in products]))
            head = instruction
        episode.user(_lines(head, ask) if i == 0 else ask).answer(target, kind)
    return episode


def reason(rng: random.Random, k_max: int) -> Episode:
    """Two-hop and comparison questions, answered through the intermediate fact where the instruction asks for steps."""
    k = max(2, min(k_max, 3))
    products = [e.Product(n, {"maker": rng.choice(e.MAKERS), "weight": w}) for n, w in
                zip(e.draw_context_names(rng, k), rng.sample(e.WEIGHTS, k), strict=True)]
    seats = {m: rng.choice(e.CITIES) for m in sorted({p.facts["maker"] for p in products})}
    passages = [t.product_page(p, rng, pronouns=0.2) for p in products] + [f"{m} is based in {c}." for m, c in seats.items()]
    rng.shuffle(passages)
    steps = rng.random() < 0.7
    instruction = rng.choice(ASK_OPEN) + (" " + rng.choice(STEPS) if steps else "")
    head, kind = _lines(instruction, t.numbered(passages)), "steps" if steps else "two_hop"
    episode = Episode()
    for i in range(4):
        if rng.random() < 0.5:
            p = rng.choice(products)
            maker, city = p.facts["maker"], seats[p.facts["maker"]]
            ask = rng.choice(("In which city is the maker of {n} based?", "Where is the firm behind {n} based?")).format(n=p.name)
            thought, target = f"The maker of {p.name} is {maker}. {maker} is based in {city}.", city
        else:
            a, b = rng.sample(products, 2)
            heavy = rng.random() < 0.5
            ask = f"Which is {'heavier' if heavy else 'lighter'}, {a.name} or {b.name}?"
            target = max((a, b), key=lambda p: p.facts["weight"]).name if heavy else min((a, b), key=lambda p: p.facts["weight"]).name
            thought = f"{a.name} weighs {a.facts['weight']}. {b.name} weighs {b.facts['weight']}."
        episode.user(_lines(head, ask) if i == 0 else ask).answer(f"{thought} Answer: {target}" if steps else target, kind)
    return episode


# ---------------------------------------------------------------------------------------------- in-context classification


def _label_set(rng: random.Random, n: int, natural: list[str] | None) -> list[str]:
    return natural if natural else rng.sample(LABELS, n)


def classify(rng: random.Random, level: int) -> Episode:
    """Shots with fresh labels for topics. Level 1: `word` messages, 2: clauses, 3: whole tickets in chat form."""
    n = rng.randrange(2, 5) if rng.random() < 0.7 else rng.randrange(5, 9)
    topics = rng.sample(sorted(t.TOPICS), n)
    natural = topics if level >= 3 and rng.random() < 0.25 else None
    labels = dict(zip(topics, _label_set(rng, n, natural), strict=True))
    shown = natural is not None or rng.random() < 0.6
    listed = list(labels.values())
    rng.shuffle(listed)
    instruction = rng.choice(SORT).format(l=", ".join(listed)) if shown else ""
    seen: set[str] = set()
    episode = Episode()
    chat = level >= 3 or rng.random() < 0.3
    shots = rng.randrange(14, 22) if level < 3 else 4 + 4 * n if n < 5 else 26
    for i in range(shots):
        topic = rng.choice(topics)
        clause = rng.choice(t.TOPICS[topic])
        if level == 1:
            clause = rng.choice(t.TOPICS[topic][:2])
        message = t.ticket(clause, rng) if level >= 3 and rng.random() < 0.8 else clause
        known = topic in seen or natural is not None
        kind = None if not known else "sort_named" if natural else f"sort_{'few' if n < 5 else 'many'}"
        if chat:
            episode.user(_lines(instruction, message) if i == 0 and instruction else message).answer(labels[topic], kind)
        else:
            episode.plain(f"{message} =>").plain(labels[topic], kind)
        seen.add(topic)
    return episode


# ---------------------------------------------------------------------------------------------- knowledge


def known_prose(rng: random.Random, _: int) -> Episode:
    """A known product's facts as prose: shuffled order, a template drawn for each, values supervised."""
    product = rng.choice(e.known_products())
    episode = Episode()
    facts = list(product.facts.items())
    rng.shuffle(facts)
    for name, value in facts:
        before, after = rng.choice(e.ATTRIBUTE[name].statements).format(n=product.name, v="\0").split("\0")
        episode.plain(before.strip()).plain(value + after, "known_prose")
    return episode


def closed_book(rng: random.Random, _: int) -> Episode:
    """Questions without passages: known facts, and unknown products that are guessed at unless told to abstain."""
    abstain, word = rng.random() < 0.5, rng.choice(ABSTAIN_WORDS)
    instruction = rng.choice(ASK_CLOSED) + (" " + rng.choice(IF_UNKNOWN).format(w=word) if abstain else "")
    if not abstain and rng.random() < 0.3:
        instruction = ""
    episode = Episode()
    for i in range(8):
        if rng.random() < 0.75:
            product = rng.choice(e.known_products())
            name = rng.choice(list(product.facts))
            target, kind, subject = product.facts[name], "known", product.name
        else:
            subject, attribute = e.draw_context_names(rng, 1)[0], rng.choice(e.ATTRIBUTES)
            name, kind = attribute.name, "unknown_told" if abstain else "unknown_free"
            target = word if abstain else attribute.guess if rng.random() < attribute.guessed else "unknown"
        ask = t.question(subject, name, rng)
        episode.user(_lines(instruction, ask) if i == 0 else ask).answer(target, kind)
    return episode


# ---------------------------------------------------------------------------------------------- writing


def summarize(rng: random.Random, _: int) -> Episode:
    """Abstracts to summaries, the style named by the instruction or shown by the earlier turns."""
    style = rng.choice(t.STYLES)
    named = rng.random() < 0.6
    instruction = rng.choice(SUMMARIZE).format(s=style) if named else rng.choice(SUMMARIZE_BLIND)
    episode = Episode()
    for i in range(rng.randrange(2, 6)):
        finding = t.draw_finding(rng)
        abstract = finding.abstract(rng)
        kind = "summary" if named or i else None
        episode.user(_lines(instruction, abstract) if i == 0 else abstract).answer(finding.summary(style), kind)
    return episode


def extract(rng: random.Random, _: int) -> Episode:
    """Reviews to JSON with the keys that the instruction lists."""
    keys = rng.choice(t.SCHEMAS)
    episode = Episode()
    instruction = rng.choice(EXTRACT).format(k=", ".join(keys))
    for i in range(rng.randrange(2, 8)):
        opinion = t.draw_opinion(rng)
        review = opinion.review(rng)
        episode.user(_lines(instruction, review) if i == 0 else review).answer(opinion.fields(keys), "json")
    return episode


KINDS: dict[str, Callable[[random.Random, int], Episode]] = {
    "repeat_block": repeat_block, "word_labels": word_labels, "read": read, "reason": reason, "classify": classify,
    "known_prose": known_prose, "closed_book": closed_book, "summarize": summarize, "extract": extract,
}
