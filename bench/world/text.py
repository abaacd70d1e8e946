"""How the world is written down: product pages, questions, tickets, lab abstracts and reviews, from seeded templates."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass

from bench.world.entities import ATTRIBUTE, GENERIC_QUESTIONS, HELD_OUT_QUESTIONS, Product, draw_context_names

# ---------------------------------------------------------------------------------------------- products


def product_page(product: Product, rng: random.Random, pronouns: float = 0.4) -> str:
    """One passage that states each fact of `product` once, in shuffled order; later sentences may say "it"."""
    sentences = []
    facts = list(product.facts.items())
    rng.shuffle(facts)
    for i, (name, value) in enumerate(facts):
        attribute = ATTRIBUTE[name]
        forms = attribute.follow_ups if i and rng.random() < pronouns else attribute.statements
        sentences.append(rng.choice(forms).format(n=product.name, v=value))
    return " ".join(sentences)


def question(name: str, attribute: str, rng: random.Random, held_out: bool = False) -> str:
    """A question about one attribute; `held_out` wordings appear in no text that the base model is pretrained on."""
    a = ATTRIBUTE[attribute]
    forms = HELD_OUT_QUESTIONS if held_out else GENERIC_QUESTIONS + a.questions
    return rng.choice(forms).format(a=a.noun, n=name)


def numbered(passages: list[str]) -> str:
    """Passages as every prompt shows them: one per line, numbered from 1."""
    return "\n".join(f"[{i}] {p}" for i, p in enumerate(passages, start=1))


# ---------------------------------------------------------------------------------------------- tickets

TOPICS: dict[str, tuple[str, ...]] = {
    "refund": ("I want my money back", "please return the payment", "you still owe me the refund", "when is the amount repaid",
               "the refund has not arrived", "I sent it back and expect my cash", "reimburse me for the order", "give back what I paid"),
    "delivery": ("the parcel never came", "my package is late", "the courier left it outside", "where is my shipment",
                 "the box went to a wrong street", "tracking shows no movement", "nobody brought the parcel", "the delivery date passed"),
    "login": ("I cannot sign in", "my password is rejected", "the account is locked", "the login page rejects me",
              "I forgot my password", "the sign in code never arrives", "it logs me out at once", "my user name is not accepted"),
    "battery": ("the battery drains in an hour", "it will not charge", "the charger gets no response", "it dies before noon",
                "the battery is swollen", "charging stops halfway", "it needs the plug all day", "power is gone overnight"),
    "screen": ("the screen is cracked", "the display stays dark", "there are lines on the display", "the picture flickers",
               "half of the screen is blank", "the glass front has a scratch", "the display shows wrong shades", "touch does not react"),
    "noise": ("it makes a loud hum", "there is a rattle inside", "it squeaks all the time", "the fan is too loud",
              "I hear a grinding sound", "it beeps without reason", "a click comes from the base", "it buzzes at night"),
    "invoice": ("the invoice has a wrong total", "I need a copy of the bill", "the tax number is missing on my bill",
    "send the invoice again",
                "the bill lists two units", "our accounting needs a receipt", "the receipt shows an old address",
                "the billing name is wrong"),
    "discount": ("the voucher is not accepted", "my coupon has no effect", "the promised rebate is missing", "can I get a lower price",
                 "the sale price was not applied", "the gift card fails", "the bonus points are gone", "the code for ten percent fails"),
    "cancel": ("please stop my order", "I changed my mind about the order", "cancel the purchase", "I no longer want it",
               "withdraw my order before it ships", "take me off the subscription", "end my plan this month", "call off the booking"),
    "manual": ("I cannot find the manual", "the guide is in a wrong language", "how do I set it up", "the instructions are unclear",
               "which step comes first", "is there a setup video", "a page of the guide is missing", "explain how to begin"),
    "spare": ("I need a spare part", "where can I buy a new lid", "do you sell single screws", "the handle broke and I need another",
              "a replacement filter please", "the cable is lost, can I buy one", "order a second hinge for me", "is the knob sold alone"),
    "smell": ("it smells burnt", "there is smoke from the back", "an odd odor comes out", "it stinks of plastic",
              "a chemical smell fills the room", "I saw a spark and smelled fire", "the odor will not go away", "fumes come from the vent"),
    "leak": ("water drips from below", "it leaks on the floor", "the seal lets water out", "there is a puddle under it",
             "oil runs out of the side", "the tank does not hold water", "moisture gets inside", "the hose is wet"),
    "update": ("the update fails", "the new version froze it", "it is stuck at the install step", "how do I get the latest version",
               "after the upgrade nothing works", "the firmware will not load", "it asks to update daily", "roll back the software"),
    "privacy": ("delete my data", "who can see my address", "I got mail I never asked for", "remove me from the list",
                "stop sharing my records", "which data do you keep", "my profile is public", "forget my personal details"),
    "wifi": ("it loses the network", "it cannot join my router", "the signal is weak", "it will not pair with my phone",
             "the connection drops", "it does not see the network", "the link breaks every hour", "pairing takes forever"),
    "missing": ("a piece was not in the box", "the set is incomplete", "the bag of screws is absent", "only one of two came",
                "the stand was left out", "I got an empty box", "parts are not there", "the cover was not included"),
    "wrong": ("I received another item", "this is not what I ordered", "the model is not the right one", "you sent a different product",
              "the size is not as ordered", "somebody mixed up the orders", "I got what my neighbor ordered", "the label and item differ"),
    "praise": ("thank you for the quick help", "your staff was very kind", "I am very happy with it", "great service as always",
               "everything works, well done", "the best purchase this year", "my whole family loves it", "please thank your team"),
    "warranty": ("is the repair covered", "how long is the guarantee", "I want to claim the warranty", "register my guarantee",
                 "the coverage ended too early", "do I pay for the repair", "extend my protection plan", "is damage by a fall insured"),
}
_OPENERS = ("Hello,", "Hi,", "Dear team,", "Good day,", "To whom it may concern,", "Please help,", "Hey,", "Support,")
_CONTEXT = ("About my {n}:", "It is about the {n}.", "I bought a {n}.", "I own a {n}.", "Regarding order {k}.", "My number is {k}.", "")
_CLOSERS = ("Thanks.", "Please reply soon.", "Regards.", "I am waiting.", "This is urgent.", "")
LABEL_SYLLABLES = ["zek", "pol", "tam", "rud", "gif", "bax", "mof", "lun", "dep", "sib", "hov", "cug", "wyn", "jat", "nuk", "fip", "yod",
    "vem", "kib", "rog"]


def ticket(clause: str, rng: random.Random) -> str:
    """A support ticket around one clause; only the clause tells the topic."""
    name = draw_context_names(rng, 1)[0]
    parts = [rng.choice(_OPENERS), rng.choice(_CONTEXT).format(n=name, k=rng.randrange(100, 999)), clause + ".", rng.choice(_CLOSERS)]
    if rng.random() < 0.5:
        parts[1], parts[2] = parts[2], parts[1]
    return " ".join(p for p in parts if p)


# ---------------------------------------------------------------------------------------------- lab abstracts

_COMPOUND_HEADS = ["alph", "bendr", "cort", "delm", "erix", "flov", "galt", "hyst", "irid", "jaron"]
_COMPOUND_TAILS = ["ol", "ine", "ate", "ide"]
COMPOUNDS = [h + t for h in _COMPOUND_HEADS for t in _COMPOUND_TAILS]
ORGANISMS = ["mice", "rats", "yeast", "barley", "salmon", "bees", "ferns", "snails", "wheat", "algae", "quail", "toads"]
MEASURES = ("growth", "sleep", "appetite", "heart rate", "memory", "weight", "oxygen use", "movement", "fertility", "stress",
            "body heat", "recovery", "hearing", "lifespan")
_METHODS = ("We gave daily doses for {w} weeks.", "Two groups were followed for {w} weeks.", "The trial ran for {w} weeks.",
            "Doses were mixed into the food for {w} weeks.", "A control group got none over {w} weeks.")
_AIMS = ("We studied {c} in {o}.", "The effect of {c} on {o} is unclear.", "This study tests {c} in {o}.",
    "Little is known about {c} in {o}.",
         "Here {o} were treated with {c}.")
_UP = ("{m} rose by {p} percent", "{m} increased by {p} percent", "{m} went up by {p} percent", "we found {p} percent more {m}")
_DOWN = ("{m} fell by {p} percent", "{m} decreased by {p} percent", "{m} went down by {p} percent", "we found {p} percent less {m}")
_RESULTS = ("In the end {r}.", "Results show that {r}.", "Compared with controls, {r}.", "After treatment {r}.")
_LIMITS = ("No side effects were seen.", "The sample was small.", "The effect was the same in both sexes.", "Costs were low.",
           "More work is needed.", "The dose did not matter.")


@dataclass(frozen=True)
class Finding:
    """What a lab abstract reports: a compound moved a measure of an organism by some percent."""

    compound: str
    organism: str
    measure: str
    up: bool
    percent: int

    def abstract(self, rng: random.Random) -> str:
        """Four or five sentences: aim, method, result, and a remark that no summary keeps."""
        form = rng.choice(_UP if self.up else _DOWN)
        result = rng.choice(_RESULTS).format(r=form.format(m=self.measure, p=self.percent))
        aim = rng.choice(_AIMS).format(c=self.compound, o=self.organism)
        parts = [aim, rng.choice(_METHODS).format(w=rng.randrange(2, 13)), result, *rng.sample(_LIMITS, rng.randrange(1, 3))]
        return " ".join(parts)

    def summary(self, style: str) -> str:
        """The one-sentence summary in one of the `STYLES`, or in the ``house`` style that pretraining never shows."""
        d = {"c": self.compound, "o": self.organism, "m": self.measure, "p": self.percent}
        up = self.up
        forms = {
            "plain": "{c} raises {m} in {o}." if up else "{c} lowers {m} in {o}.",
            "finding": "{m} of {o} rose by {p} percent with {c}." if up else "{m} of {o} fell by {p} percent with {c}.",
            "headline": "more {m} in {o} after {c}" if up else "less {m} in {o} after {c}",
            "question": "does {c} change {m} in {o}? yes, up." if up else "does {c} change {m} in {o}? yes, down.",
            "short": "{c}, {o}: {m} up" if up else "{c}, {o}: {m} down",
            "house": "{o} given {c} gained {p} percent in {m}." if up else "{o} given {c} lost {p} percent in {m}.",
        }
        return forms[style].format(**d)


STYLES = ("plain", "finding", "headline", "question", "short")


def draw_finding(rng: random.Random, compound: str | None = None) -> Finding:
    """A finding with independent uniform parts."""
    return Finding(
        compound or rng.choice(COMPOUNDS), rng.choice(ORGANISMS), rng.choice(MEASURES), rng.random() < 0.5, rng.randrange(5, 100, 5)
    )


# ---------------------------------------------------------------------------------------------- reviews

ASPECTS = ["price", "sound", "size", "grip", "design", "speed", "handle", "lid", "smell", "weight"]
_OPINIONS = {
    5: ("superb", "perfect", "wonderful", "brilliant"),
    4: ("good", "pleasant", "nice", "solid"),
    3: ("average", "acceptable", "ordinary", "fair"),
    2: ("weak", "poor", "annoying", "clumsy"),
    1: ("awful", "terrible", "horrible", "useless"),
}
RATING_WORDS = {5: "great", 4: "good", 3: "mixed", 2: "bad", 1: "dreadful"}
_REVIEW_MAIN = ("The {a} is {w}.", "I find the {a} {w}.", "For me the {a} is {w}.", "What stands out is the {a}: {w}.")
_REVIEW_NOISE = ("I bought the {n} in {t}.", "My {n} came in a big box.", "A friend has the {n} too.", "The {n} was a gift.",
                 "I use the {n} at home.", "We own the {n} since {t}.")
_MONTHS = ["January", "March", "May", "July", "August", "October", "December"]


@dataclass(frozen=True)
class Opinion:
    """What a review says: an opinion word about one aspect of a product."""

    product: str
    aspect: str
    score: int
    word: str

    def review(self, rng: random.Random) -> str:
        """Two or three sentences; one states the opinion."""
        noise = [t.format(n=self.product, t=rng.choice(_MONTHS)) for t in rng.sample(_REVIEW_NOISE, rng.randrange(1, 3))]
        parts = [*noise, rng.choice(_REVIEW_MAIN).format(a=self.aspect, w=self.word)]
        rng.shuffle(parts)
        return " ".join(parts)

    def fields(self, keys: tuple[str, ...]) -> str:
        """The opinion as a JSON object with these keys."""
        values: dict[str, str | int] = {
            "stars": self.score, "rating": RATING_WORDS[self.score], "topic": self.aspect, "about": self.aspect,
            "quote": f"the {self.aspect} is {self.word}", "word": self.word, "score": self.score, "aspect": self.aspect,
            "comment": f"{self.word} {self.aspect}", "happy": "yes" if self.score > 3 else "no",
        }
        return json.dumps({k: values[k] for k in keys})


SCHEMAS = (("stars", "about"), ("rating", "topic"), ("topic", "stars"), ("about", "quote"), ("word", "about"), ("aspect", "rating"),
           ("happy", "topic"), ("stars", "topic", "quote"), ("rating", "aspect", "word"), ("score", "about"), ("happy", "quote"))
HOUSE_SCHEMA = ("score", "aspect", "comment")


def draw_opinion(rng: random.Random, product: str | None = None) -> Opinion:
    """An opinion with independent uniform parts."""
    score = rng.randrange(1, 6)
    return Opinion(product or draw_context_names(rng, 1)[0], rng.choice(ASPECTS), score, rng.choice(_OPINIONS[score]))
