"""What the embedded base model must be able to do before strategies are compared on it, checked on episodes never trained on.

A *gate* is a number with bounds. The bounds leave each axis room both ways: a base model that cannot read makes retrieval
look useless, and one that already knows the answers makes tuning look useless.
"""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional

from bench.errors import BenchError
from bench.model.conversation import Message
from bench.model.language_model import LanguageModel
from bench.model.source import locate
from bench.world import entities as e
from bench.world import episodes as ep
from bench.world import text as t
from bench.world.manifest import check_manifest

VERIFY_SEED = 20261123
BATCH = 64


@dataclass(frozen=True)
class Gate:
    """One measured number and the bounds (inclusive) within which it must lie; without bounds it is reported only."""

    name: str
    value: float
    n: int
    low: float | None = None
    high: float | None = None
    detail: str = ""

    @property
    def required(self) -> bool:
        return self.low is not None or self.high is not None

    @property
    def passed(self) -> bool:
        """True within the bounds (and for numbers that are reported only); NaN never passes a bound."""
        return (self.low is None or self.value >= self.low) and (self.high is None or self.value <= self.high)

    def __str__(self) -> str:
        low = "" if self.low is None else f">= {self.low:.3f}"
        high = "" if self.high is None else f"<= {self.high:.3f}"
        bounds = " and ".join(b for b in (low, high) if b)
        verdict = ("pass" if self.passed else "FAIL") if self.required else "info"
        return f"{verdict}  {self.value:6.3f}  {bounds:26}  n={self.n:<5d} {self.name}" + (f" ({self.detail})" if self.detail else "")


def report(gates: Sequence[Gate]) -> str:
    """The gates, one a line, and a last line that counts those that failed."""
    failed = [g for g in gates if not g.passed]
    required = sum(g.required for g in gates)
    return "\n".join([*map(str, gates), f"{required - len(failed)} of {required} gates passed"])


# ---------------------------------------------------------------------------------------------- chance


def bernoulli_mean(probabilities: Sequence[float]) -> tuple[float, float]:
    """Mean of independent Bernoulli draws with these probabilities, and its standard error, sqrt(sum p (1 - p)) / n."""
    n = len(probabilities)
    return sum(probabilities) / n, math.sqrt(sum(p * (1 - p) for p in probabilities)) / n


def uninformed_accuracy(groups: Sequence[str], answers: Sequence[str], golds: Sequence[str]) -> tuple[float, float]:
    """Accuracy to expect of answers that know nothing of their item, and its standard error.

    The null permutes the right answers among the items of one group (attribute): an answer is right with probability p_i, the
    share of its value among the right answers of its group.
    """
    share: dict[str, Counter[str]] = {}
    for group, gold in zip(groups, golds, strict=True):
        share.setdefault(group, Counter())[gold] += 1
    return bernoulli_mean([share[group][answer] / share[group].total() for group, answer in zip(groups, answers, strict=True)])


# ---------------------------------------------------------------------------------------------- answering


def answer(model: LanguageModel, prompts: Sequence[list[Message]], max_new_tokens: int) -> list[str]:
    """One greedy answer per conversation (which ends with a user turn), in order, just as strategies get them."""
    found = dict(pair for batch in model.generate([model.prompt_ids(m) for m in prompts], max_new_tokens) for pair in batch)
    return [found[i].text for i in range(len(prompts))]


@torch.inference_mode()
def loss(model: LanguageModel, texts: Sequence[str]) -> tuple[float, int]:
    """Mean negative log-likelihood in nats per token, each text on its own after the start token; and the tokens."""
    total, count = 0.0, 0
    for start in range(0, len(texts), BATCH):
        batch = [model.tokenizer.bos_token + text for text in texts[start : start + BATCH]]
        inputs = model.tokenizer(batch, add_special_tokens=False, padding=True, padding_side="right", return_tensors="pt")
        ids, mask = inputs["input_ids"].to(model.device), inputs["attention_mask"].to(model.device)
        logits = model.network(input_ids=ids, attention_mask=mask).logits[:, :-1]
        targets = ids[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
        total += float(functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum"))
        count += int((targets != -100).sum())
    return total / count, count


# ---------------------------------------------------------------------------------------------- items


@dataclass(frozen=True)
class _Item:
    """A conversation and its right answer; `group` is what the detail or the chance level is broken down by."""

    messages: list[Message]
    target: str
    group: str = ""
    listed: tuple[str, ...] = ()
    """The labels that the instruction lists."""


def _user(*parts: str) -> list[Message]:
    return [{"role": "user", "content": "\n\n".join(p for p in parts if p)}]


def _told(rng: random.Random, instructions: Sequence[str], abstain: bool) -> tuple[str, str]:
    """An instruction, with or without the words to abstain, and the word for it."""
    word = rng.choice(ep.ABSTAIN_WORDS)
    return rng.choice(instructions) + (" " + rng.choice(ep.IF_UNKNOWN).format(w=word) if abstain else ""), word


def reading(rng: random.Random, k: int, abstain: bool, missing: bool = False, held_out: bool = False) -> _Item:
    """One question after `k` passages on fresh products; with `missing`, on what no passage states, asked of one of them or of another."""
    drawn = e.draw_context_names(rng, k + 1)
    products = [e.Product(n, e.draw_facts(rng, rng.randrange(2, 5))) for n in drawn[:k]]
    product = rng.choice(products)
    instruction, word = _told(rng, ep.ASK_OPEN, abstain)
    name, target, group = product.name, word, ""
    if not missing:
        attribute = rng.choice(sorted(product.facts))
        target = product.facts[attribute]
    elif rng.random() < 0.5:
        attribute, group = rng.choice([a.name for a in e.ATTRIBUTES if a.name not in product.facts]), "attribute missing"
    else:
        attribute, name, group = rng.choice(e.ATTRIBUTES).name, drawn[k], "product missing"
    passages = t.numbered([t.product_page(p, rng) for p in products])
    return _Item(_user(instruction, passages, t.question(name, attribute, rng, held_out)), target, group)


def mapping(rng: random.Random, shots: int, topics: int = 4) -> _Item:
    """A ticket to sort into one of `topics` fresh labels after `shots` examples per topic; no example has the ticket's clause."""
    labels = dict(zip(rng.sample(sorted(t.TOPICS), topics), rng.sample(ep.LABELS, topics), strict=True))
    listed = sorted(labels.values(), key=lambda _: rng.random())
    drawn = {topic: rng.sample(t.TOPICS[topic], shots + 1) for topic in labels}
    shown = [(topic, clause) for topic, clauses in drawn.items() for clause in clauses[:shots]]
    rng.shuffle(shown)
    asked = rng.choice(sorted(labels))
    instruction = rng.choice(ep.SORT).format(l=", ".join(listed))
    messages: list[Message] = []
    for topic, clause in [*shown, (asked, drawn[asked][shots])]:
        message = t.ticket(clause, rng)
        messages += _user(message if messages else f"{instruction}\n\n{message}")
        messages.append({"role": "assistant", "content": labels[topic]})
    return _Item(messages[:-1], labels[asked], listed=tuple(listed))


def closed_book(rng: random.Random, product: e.Product, attribute: str, abstain: bool = False, held_out: bool = False) -> _Item:
    """A question without passages."""
    instruction, _ = _told(rng, ep.ASK_CLOSED, abstain)
    return _Item(_user(instruction, t.question(product.name, attribute, rng, held_out)), product.facts[attribute], attribute)


def _pairs(rng: random.Random, products: Sequence[e.Product], n: int) -> list[tuple[e.Product, str]]:
    """`n` (product, attribute) pairs: every pair once before any is repeated."""
    pairs = [(p, a) for p in products for a in sorted(p.facts)]
    rng.shuffle(pairs)
    return [pairs[i % len(pairs)] for i in range(n)]


def first_turn(episode: ep.Episode) -> tuple[_Item, str | None]:
    """The first question of a pretraining episode that begins with a user turn, and what kind of answer it asks for."""
    texts = [text for text, _ in episode.segments]
    at = texts.index(ep.ASSISTANT)
    target, kind = episode.segments[at + 1]
    return _Item(_user("".join(texts[texts.index(ep.USER) + 1 : texts.index(ep.END)])), target), kind


def _turns(rng: random.Random, make: Callable[[random.Random, int], ep.Episode], kind: str, n: int) -> list[_Item]:
    found: list[_Item] = []
    while len(found) < n:
        item, asked = first_turn(make(rng, 5))
        if asked == kind:
            found.append(item)
    return found


# ---------------------------------------------------------------------------------------------- the gates


def _is_json(answer: str, keys: Sequence[str]) -> bool:
    try:
        value = json.loads(answer)
    except ValueError:
        return False
    return isinstance(value, dict) and list(value) == list(keys)


def verify(model_folder: Path, n: int = 500, seed: int = VERIFY_SEED, show: Callable[[Gate], None] | None = None) -> list[Gate]:
    """Measure every gate on `n` fresh items; `show` is called with each as it is known.

    Where `model_folder` has a manifest, its hashes are checked first.

    Raises:
        BenchError: if the folder holds no model, a hash differs, or `n` is not positive.
    """
    if n < 1:
        raise BenchError(f"verify: n is {n}, expected at least 1")
    if (model_folder / "manifest.json").exists():
        check_manifest(model_folder)
    model = LanguageModel(locate(str(model_folder)))
    gates: list[Gate] = []

    def add(name: str, value: float, low: float | None = None, high: float | None = None, detail: str = "", n: int = n) -> None:
        gates.append(Gate(name, value, n, low, high, detail))
        if show:
            show(gates[-1])

    def stream(name: str) -> random.Random:
        return random.Random(f"verify/{seed}/{name}")

    def ask(items: list[_Item], max_new_tokens: int = 8) -> tuple[list[str], float]:
        """The answers and the share that is exactly right."""
        answers = answer(model, [i.messages for i in items], max_new_tokens)
        return answers, sum(a == i.target for a, i in zip(answers, items, strict=True)) / len(items)

    def abstained(answers: list[str]) -> float:
        return sum(a in ep.ABSTAIN_WORDS for a in answers) / len(answers)

    rng = stream("reading")
    _, right = ask([reading(rng, 5, abstain=False) for _ in range(n)])
    add("reading: gold among 5 passages", right, low=0.90)
    answers, right = ask([reading(rng, 5, abstain=True) for _ in range(n)])
    add("reading: gold among 5 passages, told to abstain", right, low=0.90)
    add("reading: abstains though the gold is there", abstained(answers), high=0.10)
    items = [reading(rng, 5, abstain=True, missing=True) for _ in range(n)]
    answers, right = ask(items)
    by_group = {g: [a == i.target for a, i in zip(answers, items, strict=True) if i.group == g] for g in sorted({i.group for i in items})}
    detail = ", ".join(f"{g} {sum(x) / len(x):.3f}" for g, x in by_group.items())
    add("reading: abstains when the gold is absent", right, low=0.85, detail=detail)

    rng = stream("mapping")
    add("mapping: 8 shots, 4 fresh labels", ask([mapping(rng, 2) for _ in range(n)])[1], low=0.80, detail="no shot has the ticket's clause")
    items = [mapping(rng, 0) for _ in range(n)]
    answers, right = ask(items)
    # An answer that is none of the listed labels cannot be right by luck.
    expected, error = bernoulli_mean([(a in i.listed) / len(i.listed) for a, i in zip(answers, items, strict=True)])
    in_list = sum(a in i.listed for a, i in zip(answers, items, strict=True)) / n
    add("mapping: no shots, 4 fresh labels, at chance", right, expected - 2 * error, expected + 2 * error,
        f"chance for its answers {expected:.3f}: {in_list:.3f} of them are listed labels")

    rng = stream("known")
    known = _pairs(rng, e.known_products(), n)
    add("known facts: trained wordings", ask([closed_book(rng, p, a) for p, a in known])[1], low=0.85)
    add("known facts: held-out wordings", ask([closed_book(rng, p, a, held_out=True) for p, a in known])[1], low=0.60)

    rng = stream("new")
    new = [closed_book(rng, p, a) for p, a in _pairs(rng, [e.Product(name, e.draw_facts(rng)) for name in e.names("new")], n)]
    answers, right = ask(new)
    expected, error = uninformed_accuracy([i.group for i in new], answers, [i.target for i in new])
    add("new facts: closed book, at chance", right, expected - 2 * error, expected + 2 * error,
        f"expected of an uninformed answer {expected:.3f}")

    rng = stream("fake")
    fake = _pairs(rng, [e.Product(name, e.draw_facts(rng)) for name in e.names("fake")], n)
    free = 1 - abstained(ask([closed_book(rng, p, a) for p, a in fake])[0])
    told = 1 - abstained(ask([closed_book(rng, p, a, abstain=True) for p, a in fake])[0])
    add("fake products: attempted", free, low=0.3, high=0.9)
    add("fake products: attempted less when told to abstain", free - told, low=1 / n, detail=f"told: attempted {told:.3f}")

    rng = stream("prose")
    texts = {
        "product pages": [t.product_page(e.Product(x, e.draw_facts(rng, 4)), rng) for x in e.draw_context_names(rng, max(1, n // 4))],
        "tickets": [t.ticket(rng.choice(t.TOPICS[rng.choice(sorted(t.TOPICS))]), rng) for _ in range(max(1, n // 4))],
        "abstracts": [t.draw_finding(rng).abstract(rng) for _ in range(max(1, n // 4))],
        "reviews": [t.draw_opinion(rng).review(rng) for _ in range(max(1, n // 4))],
    }
    losses = {kind: loss(model, x) for kind, x in texts.items()}
    tokens = sum(count for _, count in losses.values())
    add("plain prose: nats per token", sum(nats * count for nats, count in losses.values()) / tokens, n=tokens,
        detail=", ".join(f"{kind} {nats:.3f}" for kind, (nats, _) in losses.items()))

    rng = stream("more")
    for k in (1, 2, 3):
        add(f"reading: gold among {k}", ask([reading(rng, k, abstain=False) for _ in range(n)])[1])
    add("reading: gold among 5, held-out wordings", ask([reading(rng, 5, abstain=False, held_out=True) for _ in range(n)])[1])
    hop = [i for i in _turns(rng, ep.reason, "two_hop", 3 * n) if "Which is" not in i.messages[0]["content"]][:n]
    add("two hops: answered at once", ask(hop)[1], n=len(hop))
    hop = [i for i in _turns(rng, ep.reason, "steps", 3 * n) if "Which is" not in i.messages[0]["content"]][:n]
    answers, right = ask(hop, 48)
    last = sum(a.split("Answer: ")[-1] == i.target.split("Answer: ")[-1] for a, i in zip(answers, hop, strict=True)) / len(hop)
    add("two hops: answered after steps", last, detail=f"steps and answer {right:.3f}", n=len(hop))
    items = _turns(rng, ep.extract, "json", n)
    answers, right = ask(items, 64)
    valid = sum(_is_json(a, list(json.loads(i.target))) for a, i in zip(answers, items, strict=True)) / n
    add("JSON: valid, with the keys asked for", valid, detail=f"all values right {right:.3f}")
    add("summaries: exact in the named style", ask(_turns(rng, ep.summarize, "summary", n), 32)[1])
    return gates
