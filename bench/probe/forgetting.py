"""What tuning has cost the model of what it could do before."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import Field

from bench.metric.text import normalize
from bench.probe.base import Context, Finding, Probe, mean_difference, mean_of
from bench.probe.shared.world import ANSWER_TOKENS, ask
from bench.suite import Cell
from bench.task.schema import Example
from bench.world import entities, text
from bench.world.episodes import ASK_CLOSED

if TYPE_CHECKING:  # a finished run is recognised without torch
    import torch

    from bench.model.conversation import Message
    from bench.model.language_model import LanguageModel
    from bench.strategy.tuning import Pair

T = TypeVar("T")

KNOWS = 0.2
"""A base that recalls less than this of the world's known facts was not pretrained on them: guessing gives about 0.1."""
TOPICS, SHOTS_PER_TOPIC = 4, 2
BATCH = 8
NOT_KNOWN = "the base knows little of these facts: it was not pretrained on them"
TOO_LONG = "the shots do not fit the model's window"
NOT_ASKED = "the task's input is no question"
BASE_RIGHT, BASE_WRONG = "the base answers it right", "the base answers it wrong"


@dataclass(frozen=True)
class Question:
    """One question about a product of the base model's pretraining."""

    product: str
    attribute: str
    text: str
    instruction: str
    target: str

    @property
    def id(self) -> str:
        return f"{self.product}/{self.attribute}"

    @property
    def messages(self) -> list[Message]:
        return [{"role": "user", "content": f"{self.instruction}\n\n{self.text}"}]


@dataclass(frozen=True)
class Sort:
    """A ticket to sort after a few shots: which label is right."""

    id: str
    messages: list[Message]
    target: str


class Forgetting(Probe):
    """What it has forgotten: facts, few-shot skill and plain prose of the pretraining, before and after tuning.

    Each is measured on the base and on the tuned weights, without the strategy's shots, passages and instruction; an increase
    or a drop above 0 is forgetting. All numbers are paired by item, and the items are the same for every strategy and seed.

    * ``base_known_recall``, ``after_known_recall``, ``known_recall_drop``: facts of products of the pretraining, asked without
      passages in wordings of the pretraining, clustered by product. ``forget_rate`` = P(wrong after | right in the base),
      ``gain_rate`` = P(right after | wrong in the base);
    * ``base_few_shot_skill``, ``after_few_shot_skill``, ``skill_drop``: tickets sorted into 4 labels that 8 shots give a meaning
      (``details.few_shot_chance`` is what guessing among them gets);
    * ``base_prose_nats``, ``after_prose_nats``, ``prose_nats_increase``: cross-entropy of product pages, tickets, abstracts and
      reviews in nats per token, each text of equal weight, on positions after virtual tokens where there are any. How Hugging Face's
      comparison of PEFT methods measures forgetting;
    * ``kl_to_base`` = mean over the same tokens of KL(base || after) and ``reverse_kl_to_base`` = of KL(after || base), in nats, exact
      over the vocabulary.

    A strategy that trains nothing has the base's weights: its ``base_`` numbers stand alone, and no difference is reported, since it
    would be 0 by construction. What users see can be lost all the same, to an instruction or to passages:

    * ``behavioural_known_recall``, of any strategy on a question answering task: the same questions asked just as it asks its task;
      ``behavioural_recall_drop`` = ``base_known_recall`` - ``behavioural_known_recall``.

    With a base model of another pretraining the known facts are unknown to it, and recall is left out.
    """

    questions: int = Field(default=200, ge=1, le=entities.N_KNOWN * len(entities.ATTRIBUTES))
    """Known facts that are asked."""
    sorts: int = Field(default=100, ge=1)
    """Tickets that are sorted."""
    texts: int = Field(default=120, ge=4)
    """Plain texts, a quarter of each kind."""

    def not_applicable(self, cell: Cell) -> str | None:
        return not_applicable(cell)

    def run(self, context: Context) -> tuple[dict[str, Finding], dict[str, Any]]:
        model, trained = context.ready.model, context.ready.strategy.tuning.method != "none"
        asked = questions(context.random("forgetting/known"), self.questions)
        tickets = fitting(model, sorts(context.random("forgetting/few-shot"), self.sorts))
        prose = texts(context.random("forgetting/prose"), self.texts)
        details: dict[str, Any] = {"few_shot_chance": 1 / TOPICS, "left_out": {}}
        after: dict[str, dict[str, float]] = {}
        with on_base(context) as base:
            measures: dict[str, Callable[[LanguageModel], dict[str, float]]] = {
                "known_recall": lambda m: recall(m, asked),
                "few_shot_skill": lambda m: skill(m, tickets),
                "prose_nats": lambda m: nats(m, prose),
            }
            if not tickets:
                del measures["few_shot_skill"]
                details["left_out"]["few_shot_skill"] = TOO_LONG
            before = {name: base(measure) for name, measure in measures.items()}
            if trained:
                after = {name: measure(model) for name, measure in measures.items()}
                kl, reverse = divergences(base, model, prose)
        knows = mean(before["known_recall"]) >= KNOWS
        product = {q.id: q.product for q in asked}
        if not knows:
            details["left_out"]["known_recall"] = NOT_KNOWN
            details["base_known_recall"] = mean(before.pop("known_recall"))
            after.pop("known_recall", None)
        clusters = {"known_recall": product}

        findings: dict[str, Finding] = {}
        for name, values in before.items():
            findings[f"base_{name}"] = mean_of(values, clusters.get(name), share=name != "prose_nats")
        for name, values in after.items():
            findings[f"after_{name}"] = mean_of(values, clusters.get(name), share=name != "prose_nats")
        if trained:
            if tickets:
                findings["skill_drop"] = drop(before["few_shot_skill"], after["few_shot_skill"])
            findings["prose_nats_increase"] = increase(before["prose_nats"], after["prose_nats"])
            findings |= {"kl_to_base": mean_of(kl, share=False), "reverse_kl_to_base": mean_of(reverse, share=False)}
            details["prose_nats_increase_by_kind"] = by_kind(findings["prose_nats_increase"].items)
            if knows:
                findings["known_recall_drop"] = drop(before["known_recall"], after["known_recall"], product)
                findings |= flips(before["known_recall"], after["known_recall"], product)
        else:
            details["weights"] = "nothing was trained: they are the base's own, and so would be every number after tuning"
        if context.cell.task.config.kind != "qa":
            details["left_out"]["behavioural_known_recall"] = NOT_ASKED
        elif knows:
            said = behavioural(context, asked)
            findings["behavioural_known_recall"] = mean_of(said, product)
            findings["behavioural_recall_drop"] = drop(before["known_recall"], said, product)
        return findings, details


def not_applicable(cell: Cell) -> str | None:
    """Why forgetting has no meaning for a cell, or None where it has."""
    if cell.strategy.prompt.constant:
        return "the strategy asks no model"
    if cell.model.kind == "encoder":
        return "a classifier over an encoder answers nothing but its task, before and after"
    if cell.model.kind == "seq2seq":
        return "an encoder-decoder model is not pretrained to go on with plain texts, nor to answer in the form of these questions"
    if cell.strategy.tuning.method == "features":
        return "a classifier on the model's states answers nothing but its task; the model itself stays as it is"
    return None


@contextmanager
def on_base(context: Context) -> Iterator[Callable[[Callable[[LanguageModel], T]], T]]:
    """Gives a function that applies another to the base model, so that base and tuned model can take turns; loads the base once at most."""
    model = context.ready.model
    with context.base() as base:
        if base is not model:
            yield lambda apply: apply(base)
            return

    def without_adapter(apply: Callable[[LanguageModel], T]) -> T:
        with context.base() as same:
            return apply(same)

    yield without_adapter


# ---------------------------------------------------------------------------------------------- items


def questions(rng: random.Random, n: int) -> list[Question]:
    """`n` different facts of the base model's pretraining, each asked in a wording of the pretraining."""
    facts = [(p, attribute) for p in entities.known_products() for attribute in sorted(p.facts)]
    return [
        Question(p.name, attribute, text.question(p.name, attribute, rng), rng.choice(ASK_CLOSED), p.facts[attribute])
        for p, attribute in rng.sample(facts, n)
    ]


def sorts(rng: random.Random, n: int) -> list[Sort]:
    """`n` tickets with 8 shots before each, two for each of 4 fresh labels."""
    from bench.world.verify import mapping

    drawn = [mapping(rng, SHOTS_PER_TOPIC, TOPICS) for _ in range(n)]
    return [Sort(str(i), item.messages, item.target) for i, item in enumerate(drawn)]


def texts(rng: random.Random, n: int) -> dict[str, str]:
    """Id -> plain text of the world, a quarter of each kind; none occurs in the pretraining but by chance."""
    found = {}
    for i in range(n // 4):
        page = text.product_page(entities.Product(entities.draw_context_names(rng, 1)[0], entities.draw_facts(rng, 4)), rng)
        found[f"page/{i}"] = page
        found[f"ticket/{i}"] = text.ticket(rng.choice(text.TOPICS[rng.choice(sorted(text.TOPICS))]), rng)
        found[f"abstract/{i}"] = text.draw_finding(rng).abstract(rng)
        found[f"review/{i}"] = text.draw_opinion(rng).review(rng)
    return found


def fitting(model: LanguageModel, tickets: Sequence[Sort]) -> list[Sort]:
    """The tickets whose prompt the model's window has room for; another tokenizer can make many more tokens of it than the embedded one."""
    room = model.window - model.virtual_tokens - ANSWER_TOKENS
    return [s for s, ids in zip(tickets, model.prompts_ids([s.messages for s in tickets]), strict=True) if len(ids) <= room]


# ---------------------------------------------------------------------------------------------- measurements


def recall(model: LanguageModel, asked: Sequence[Question]) -> dict[str, float]:
    """Question id -> 1 where the model's own answer is right, else 0."""
    said = ask(model, [q.messages for q in asked])
    return {q.id: float(normalize(a) == normalize(q.target)) for q, a in zip(asked, said, strict=True)}


def skill(model: LanguageModel, tickets: Sequence[Sort]) -> dict[str, float]:
    """Ticket id -> 1 where the model's own answer is the right label, else 0."""
    said = ask(model, [s.messages for s in tickets])
    return {s.id: float(normalize(a) == normalize(s.target)) for s, a in zip(tickets, said, strict=True)}


def nats(model: LanguageModel, prose: Mapping[str, str]) -> dict[str, float]:
    """Text id -> cross-entropy in nats per token."""
    found: dict[str, float] = {}
    for ids, pairs in batches(model, prose):
        for name, (logs, targets) in zip(ids, log_probabilities(model, pairs), strict=True):
            found[name] = float(-logs.gather(-1, targets[:, None]).mean())
    return found


def divergences(
    base: Callable[[Callable[[LanguageModel], Any]], Any], model: LanguageModel, prose: Mapping[str, str]
) -> tuple[dict[str, float], dict[str, float]]:
    """Text id -> mean over its tokens of KL(base || model), and of KL(model || base), in nats."""
    forward: dict[str, float] = {}
    reverse: dict[str, float] = {}
    for ids, pairs in batches(model, prose):
        before = base(partial(log_probabilities, pairs=pairs))
        for name, (p, _), (q, _) in zip(ids, before, log_probabilities(model, pairs), strict=True):
            forward[name] = float((p.exp() * (p - q)).sum(-1).mean())
            reverse[name] = float((q.exp() * (q - p)).sum(-1).mean())
    return forward, reverse


def batches(model: LanguageModel, prose: Mapping[str, str]) -> Iterator[tuple[list[str], list[Pair]]]:
    """The texts as rows of token ids, in batches of about equal length; the end token, which is no prose, is left off."""
    rows: dict[str, Pair] = {}
    for name, written in prose.items():
        ids, n = model.text_ids(written)
        rows[name] = (ids[: model.window] if ids[-1] not in model.end_ids else ids[: min(model.window, len(ids) - 1)], n)
    order = sorted(rows, key=lambda name: len(rows[name][0]))
    for i in range(0, len(order), BATCH):
        yield order[i : i + BATCH], [rows[name] for name in order[i : i + BATCH]]


def log_probabilities(model: LanguageModel, pairs: Sequence[Pair]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Of each row the log-probabilities (tokens, vocabulary) in float32, and the tokens that came (tokens,)."""
    import torch

    from bench.model.language_model import IGNORED

    model.network.eval()
    with torch.inference_mode(), model.autocast():
        logits, targets = model.completion_logits(pairs)
    found = []
    for row, wanted in zip(logits, targets, strict=True):
        real = wanted != IGNORED
        found.append((row[real].float().log_softmax(-1), wanted[real]))
    return found


def behavioural(context: Context, asked: Sequence[Question]) -> dict[str, float]:
    """Question id -> 1 where the strategy, which takes the question for one of its task, answers it right, else 0."""
    examples = [Example(q.id, q.text, (q.target,), answerable=True, cluster=q.product) for q in asked]
    answered = context.answer(context.requests(examples))
    return {e.id: float(normalize(a.parsed.answer) == normalize(e.targets[0])) for e, a in zip(examples, answered, strict=True)}


# ---------------------------------------------------------------------------------------------- differences


def mean(values: Mapping[str, float]) -> float:
    return sum(values.values()) / len(values)


def drop(before: Mapping[str, float], after: Mapping[str, float], clusters: Mapping[str, str] | None = None) -> Finding:
    """Mean of before - after of item scores in [0, 1], paired; above 0 is a loss."""
    return mean_difference({name: before[name] - after[name] for name in before}, clusters)


def increase(before: Mapping[str, float], after: Mapping[str, float]) -> Finding:
    """Mean of after - before, paired."""
    return mean_of({name: after[name] - before[name] for name in before}, share=False)


def flips(before: Mapping[str, float], after: Mapping[str, float], clusters: Mapping[str, str]) -> dict[str, Finding]:
    """P(wrong after | right before) and P(right after | wrong before), each left out where no item is in question."""
    lost = {name: None if not right else 1 - after[name] for name, right in before.items()}
    gained = {name: after[name] if not right else None for name, right in before.items()}
    found = {}
    for name, scores, reason in (("forget_rate", lost, BASE_WRONG), ("gain_rate", gained, BASE_RIGHT)):
        if any(score is not None for score in scores.values()):
            finding = mean_of(scores, clusters)
            n = finding.value.n_undefined
            found[name] = replace(finding, value=finding.value.model_copy(update={"undefined": {reason: n} if n else {}}))
    return found


def by_kind(increases: Mapping[str, float]) -> dict[str, float]:
    """The mean of each kind of text."""
    kinds = sorted({name.partition("/")[0] for name in increases})
    return {kind: mean({name: value for name, value in increases.items() if name.startswith(f"{kind}/")}) for kind in kinds}


PROBE = Forgetting
