"""A strategy made ready to answer: model, shots, passages and trained weights for one point of its settings."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean

import torch

from bench.cost.flops import ModelShape, generation_flops, shape_of
from bench.cost.memory import cache_bytes, forked_weights_bytes, weights_bytes
from bench.cost.meter import Meter
from bench.model.conversation import Message
from bench.model.language_model import Generation, LanguageModel
from bench.model.load import load_model, take_preloaded
from bench.model.served import ServedModel
from bench.model.weights import kept_dtype
from bench.result.store import RunFolder
from bench.run.ask import Answered, Asker, Request, cell_embedder, shots_of
from bench.strategy.adapters import artifact_bytes, load_adapter, parameter_counts, restore, wrap
from bench.strategy.chunk import chunk_passages
from bench.strategy.features import FeatureCache, FeatureClassifier
from bench.strategy.prompt import Parsed, answer_text, answer_tokens, instruction, shape_answers
from bench.strategy.spec import Strategy, TuningChoice
from bench.strategy.tuning import Pair, Tuned, balanced_weights, tune
from bench.suite import Cell
from bench.task.schema import Example, Passage

Report = Callable[[str], None]

@cache
def _features_of(fingerprint: str) -> FeatureCache:
    """The features that trials of a cell's process share, by the base model."""
    return {}


class Fitted:
    """A strategy at one point of its settings, ready to answer."""

    def __init__(self, cell: Cell, strategy: Strategy, stores: Path, meter: Meter, base: LanguageModel | None = None) -> None:
        """Load the base, or take the `base` of an earlier fit, and open what the strategy reads; `tune` comes after."""
        self.cell, self.strategy, self.meter = cell, strategy, meter
        with meter.phase("load"):
            self.model = base or load_base(cell, strategy, meter)
            embedder = cell_embedder(strategy.retrieval.embedder, stores, meter) if strategy.embeds else None
        with meter.phase("index"):
            self.asker, *self.others = (
                Asker(task, strategy, self.model, stores, shots_of(task, strategy, cell.seed), embedder)
                for task in (cell.task, *cell.trained_with)
            )
        self.head: FeatureClassifier | None = None
        self.tuned: Tuned | None = None

    def base_for(self, strategy: Strategy) -> LanguageModel | None:
        """The base, where this fit has left it as `strategy` needs it."""
        own, other = self.strategy.tuning, strategy.tuning
        frozen = own.method in ("none", "features") and other.method in ("none", "features")
        return self.model if frozen and (own.quantize, own.precision) == (other.quantize, other.precision) else None

    # ------------------------------------------------------------------------------------------ tuning

    def tune(self, weights: dict[str, torch.Tensor] | None, report: Report, on_check: Callable[[float, float], None] | None = None) -> None:
        """Train the weights that the strategy moves, or put back the `weights` that an earlier fit trained.

        `on_check`: as in `bench.strategy.tuning.tune`; other objectives than answers do not call it.
        """
        choice, seed = self.strategy.tuning, self.cell.seed
        if choice.method == "none":
            return
        if choice.method == "features":
            self._fit_head(choice)
            return
        # By name, so that the cells of tasks that are trained together come to the same weights.
        askers = sorted([self.asker, *self.others], key=lambda a: a.task.name)
        if choice.method == "hosted":
            self._tune_at_provider(askers, choice, report)
            return
        with self.meter.inside("prepare"):
            self.model.reset_head(seed)
            wrap(self.model, choice, seed, instruction(askers[0].task, self.strategy.prompt))
            if self.cell.continued_from is not None:
                load_adapter(self.model, choice, self.cell.continued_from)
            if weights is not None:
                restore(self.model, weights)
                return
        with self.meter.inside("validate"):
            checks = [(asker, self._validation(asker), asker.asked(self._validation(asker))) for asker in askers]

        def evaluate() -> float:
            """Of several tasks that are trained together, the mean."""
            with self.meter.inside("validate"):
                return fmean(asker.score(rows, [a for batch in self._answer(asker, asked) for a in batch]) for asker, rows, asked in checks)

        def on_step(step: int, total: int) -> None:
            report(f"tune {step}/{total}")

        if choice.objective == "answers":
            with self.meter.inside("prepare"):
                pairs, weight = self._pairs(askers, choice)
            self.tuned = tune(self.model, choice, pairs, evaluate, seed, weight, on_step, on_check)
        else:
            self.tuned = self._tune_by_preference(choice, evaluate, on_step)
        self.meter.add_flops(self.tuned.flops)
        self.meter.hold(self.tuned.held)

    def _tune_at_provider(self, askers: Sequence[Asker], choice: TuningChoice, report: Report) -> None:
        assert self.served is not None
        with self.meter.inside("prepare"):
            rows = [row for asker in askers for row in asker.training_rows(self.cell.seed)]
        self.served.tune(rows, choice.hosted, self.cell.seed, lambda state: report(f"tune: {state}"))

    def _tune_by_preference(self, choice: TuningChoice, evaluate: Callable[[], float], on_step: Callable[[int, int], None]) -> Tuned:
        from bench.strategy.preference import preference_rows, tune_by_preference

        asker, train, seed = self.asker, self.asker.train, self.cell.seed
        limit = answer_tokens(self.cell.task, self.strategy.prompt)

        def reward(indices: Sequence[int], texts: Sequence[str]) -> list[float]:
            return asker.reward([train[i] for i in indices], texts)

        with self.meter.inside("prepare"):
            asked: list[Sequence[Message]] = [r.prompt.messages for r in asker.training_requests(train, seed)]
            targets = [answer_text(self.strategy.prompt, e) for e in train]
            rows, flops = preference_rows(self.model, choice, asked, targets, reward, limit, seed)
            self.meter.add_flops(flops)
        return tune_by_preference(self.model, choice, rows, reward, limit, evaluate, seed, on_step)

    def _validation(self, asker: Asker) -> Sequence[Example]:
        return asker.task.validation[: self.cell.budget.validation_examples]

    def _pairs(self, askers: Sequence[Asker], choice: TuningChoice) -> tuple[list[Pair], list[float] | None]:
        """What to train on, and the weight of each where labels are balanced."""
        pairs: list[Pair] = []
        labels: list[str] = []
        for asker in askers:
            train = asker.train
            pairs += self.training_pairs(asker, train, asker.task.corpus)
            labels += [f"{asker.task.name}/{e.targets[0]}" for e in train] if "examples" in choice.train_on else []
        return pairs, balanced_weights(labels) if choice.class_weights == "balanced" else None

    def training_pairs(self, asker: Asker, train: Sequence[Example], corpus: Sequence[Passage]) -> list[Pair]:
        """Of these examples and documents what the strategy trains on, as rows of tokens: examples as it asks them, documents as text."""
        strategy = self.strategy
        pairs: list[Pair] = []
        if "examples" in strategy.tuning.train_on:
            for example, request in zip(train, asker.training_requests(train, self.cell.seed), strict=True):
                read = request.found.document_ids if request.found else ()
                pairs.append(self.model.training_ids(request.prompt.messages, answer_text(strategy.prompt, example, read)))
        if "documents" in strategy.tuning.train_on:
            for chunk in chunk_passages(corpus, strategy.retrieval.chunk_words, strategy.retrieval.chunk_overlap):
                ids, n = self.model.text_ids(chunk.text)
                pairs.append((ids[: self.model.window], n))
        return pairs

    def _fit_head(self, choice: TuningChoice) -> None:
        asker = self.asker
        with self.meter.inside("prepare"):
            train = asker.train
            prompts = [r.prompt.ids for r in asker.asked(train)]
        features = _features_of(self.cell.model.fingerprint)
        shape = shape_of(self.model.network)
        self.meter.add_flops(sum(generation_flops(shape, len(ids), 0) for ids in prompts if ids not in features))
        self.head = FeatureClassifier(self.model, asker.task.labels, features)
        self.head.fit(prompts, [e.targets[0] for e in train], choice.regularization, choice.class_weights)
        self.meter.hold({"weights": weights_bytes(self.model.network)})

    @property
    def served(self) -> ServedModel | None:
        """The model, where it answers behind an endpoint; its parameters, operations and memory are not known then."""
        return self.model if isinstance(self.model, ServedModel) else None

    @property
    def tuned_by_adapter(self) -> bool:
        """Whether something small was trained that stands beside the base."""
        return self.strategy.tuning.method in ("lora", "peft", "bottleneck", "bitfit")

    @property
    def parameters(self) -> tuple[int, int]:
        """(all parameters, those that were trained)."""
        total, trainable = parameter_counts(self.model, self.strategy.tuning.trains_here)
        head = self.head.parameter_count if self.head else 0
        return total + head, trainable + head

    @property
    def artifact_bytes(self) -> int:
        """What has to be kept to serve the strategy beside the base: weights, head, index, examples."""
        shots = sum(len((s.input + s.targets[0]).encode()) for s in self.asker.shots)
        nearest = self.asker.nearest.size_bytes if self.asker.nearest else 0
        trained = artifact_bytes(self.model) if self.strategy.tuning.trains_here else 0
        return self.asker.retriever.size_bytes + shots + nearest + trained + (self.head.size_bytes if self.head else 0)

    # ------------------------------------------------------------------------------------------ answers

    def validation_score(self) -> float:
        """The task's primary metric on the validation examples of the budget."""
        rows = self._validation(self.asker)
        return self.asker.score(rows, [a for batch in self.answer(self.requests(rows)) for a in batch])

    def requests(self, examples: Sequence[Example]) -> list[Request]:
        """What the model is asked for each example of the cell's task."""
        return self.asker.asked(examples)

    def answer(self, requests: Sequence[Request], done: Collection[int] = ()) -> Iterator[list[Answered]]:
        """Answers batch by batch; a batch whose requests are all in `done` is passed over."""
        return self._answer(self.asker, requests, done)

    def _answer(self, asker: Asker, requests: Sequence[Request], done: Collection[int] = ()) -> Iterator[list[Answered]]:
        unasked = [i for i, r in enumerate(requests) if r.abstains]
        if any(i not in done for i in unasked):
            phrase = asker.task.config.abstain[0]
            yield [Answered(i, Generation(phrase, None, 0, 0, 0, 0.0), requests[i], Parsed(phrase)) for i in unasked]
        places = [i for i, r in enumerate(requests) if not r.abstains]
        skip = {k for k, i in enumerate(places) if i in done}
        count = (lambda _: None) if self.served else self._counter(asker)
        for batch in self._generations(asker, [requests[i] for i in places], skip):
            count([g for _, g in batch])
            yield [Answered(places[k], g, requests[places[k]], asker.parsed(g.text)) for k, g in batch]

    def _counter(self, asker: Asker) -> Callable[[Sequence[Generation]], None]:
        """What notes the operations and bytes of a batch, of a network that is here to be asked about them."""
        self.model.network.eval()  # dropout off
        shape, weights = shape_of(self.model.network), weights_bytes(self.model.network)

        def count(batch: Sequence[Generation]) -> None:
            self.meter.hold({"weights": weights, "cache": self._cache_bytes(shape, asker, batch)})
            for g in batch:
                n = g.completion_tokens
                if g.option_logprobs:
                    n += 1 - len(g.option_logprobs)  # the last token of an option is not run, and their first one is predicted at once
                self.meter.add_flops(generation_flops(shape, g.prompt_tokens, n, g.cached_tokens))

        return count

    def _cache_bytes(self, shape: ModelShape, asker: Asker, batch: Sequence[Generation]) -> int:
        """Keys and values of a batch, by formula: room for the longest prompt and the longest answer in each of its rows."""
        if shape.bidirectional or self.head:
            return 0
        # The options of a choice stand one behind the other in their row.
        chooses = asker.task.config.kind == "multiple_choice"
        longest = max(g.prompt_tokens + (g.completion_tokens if chooses else 0) for g in batch)
        tokens = longest + (0 if chooses else answer_tokens(asker.task, self.strategy.prompt)) + self.model.virtual_tokens
        return cache_bytes(len(batch), tokens, shape.layers, shape.kv_width, next(self.model.network.parameters()).element_size())

    def _generations(self, asker: Asker, requests: Sequence[Request], skip: Collection[int]) -> Iterator[list[tuple[int, Generation]]]:
        prompts = [r.prompt.ids for r in requests]
        if asker.task.config.kind == "multiple_choice":
            options = [r.options for r in requests]
            ids = self.model.option_ids([r.prompt.messages for r in requests], prompts, options)
            return self.model.choose(prompts, options, ids, skip)
        return (self.head or self.model).generate(prompts, answer_tokens(asker.task, self.strategy.prompt), skip=skip)


def load_base(cell: Cell, strategy: Strategy, meter: Meter) -> LanguageModel:
    """The base model as the strategy runs it, untrained and with nothing around it."""
    if cell.model.endpoint:
        return served_model(cell)
    model = _load(cell, strategy, meter)
    _set_precision(model, strategy.tuning)
    shape_answers(model, cell.task, strategy.prompt)
    return model


def served_model(cell: Cell) -> ServedModel:
    """A model behind an endpoint. Its answers are kept beside the cell's items, those of a search too."""
    run = cell.model.endpoint.run if cell.model.endpoint else None
    folder = RunFolder(run).cell_folder(cell.task.name, cell.strategy_name, cell.seed) if run else None
    return ServedModel(cell.model, folder and folder / "answers.jsonl")


def _load(cell: Cell, strategy: Strategy, meter: Meter) -> LanguageModel:
    """The base model; one that was loaded for all cells is charged as if it had been loaded for this one."""
    plain = strategy.tuning.quantize == "none" and not cell.trust_remote_code
    if plain and (found := take_preloaded(cell.model)):
        model, wall, cpu = found
        meter.add_seconds(wall, cpu)
        meter.before_model(forked_weights_bytes(model.network))
        return model
    meter.before_model()
    return load_model(cell.model, labels=cell.task.labels, trust_remote_code=cell.trust_remote_code, quantize=strategy.tuning.quantize)


def _set_precision(model: LanguageModel, choice: TuningChoice) -> None:
    # Weights that move are in float32 whatever the others are kept in, and a product needs one type: on a CPU that keeps bfloat16, too.
    sixteen_bit = kept_dtype(model.source.loading, model.device) == torch.bfloat16
    mixed = sixteen_bit and (model.device.type == "cpu" or torch.cuda.is_bf16_supported())
    if choice.precision == "bfloat16" or (choice.precision == "auto" and mixed and choice.method != "none"):
        model.compute_dtype = torch.bfloat16
    elif choice.precision == "float32" and model.quantized == "none":
        model.network.float()


def fit(
    cell: Cell, strategy: Strategy, stores: Path, meter: Meter, report: Report, weights: dict[str, torch.Tensor] | None = None,
    base: LanguageModel | None = None,
) -> Fitted:  # fmt: skip
    """Load, index and tune one point of the settings, or put back the `weights` that an earlier fit of it trained; `base`: a model
    that is not loaded again."""
    report("load")
    fitted = Fitted(cell, strategy, stores, meter, base)
    if strategy.tuning.method != "none":
        report("tune")
        with meter.phase("tune"):
            fitted.tune(weights, report)
    return fitted
