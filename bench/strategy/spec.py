"""A strategy as data: three choices and an optional validation search over their settings. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from jinja2 import Environment, TemplateError
from jinja2.meta import find_undeclared_variables
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, field_validator, model_validator

from bench.errors import BenchError, did_you_mean
from bench.model.source import ModelKind
from bench.settings import parse_settings
from bench.strategy.store import StoreSettings
from bench.task.schema import Task


class _Choice(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PromptChoice(_Choice):
    """What the model is told: an instruction, worked examples, whether to reason first; or no model at all."""

    instruction: str = "{{ instruction }}"
    """Jinja template over the task's ``instruction``: a wording of one's own, or a sentence before or after the task's."""
    shots: int = Field(default=0, ge=0)
    """Worked examples from those that tuning trains on."""
    select: Literal["drawn", "nearest"] = "drawn"
    """``drawn``: one set per (task, seed). ``nearest``: for each request the examples whose input is most like its own."""
    chain_of_thought: str | None = None
    """A sentence that asks for reasoning; the answer is what follows the last "Answer:". Shots then show the task's rationales."""
    reasoning_tokens: int = Field(default=64, ge=1)
    """What a chain of thought may take on top of the task's max_new_tokens."""
    cite: bool = False
    """Ask for the number of the passage that an answer rests on, as in "red [2]"; taken off before scoring and checked apart."""
    constant: Literal["majority", "abstain", "first_sentence"] | None = None
    """Answer without asking the model: a floor that every strategy has to beat."""

    @field_validator("instruction")
    @classmethod
    def _template(cls, text: str) -> str:
        try:
            unknown = find_undeclared_variables(Environment().parse(text)) - {"instruction"}  # noqa: S701 (parsed, never rendered)
        except TemplateError as error:
            raise ValueError(f"is no valid Jinja template ({error})") from error
        if unknown:
            raise ValueError(f"found {{{{ {min(unknown)} }}}}; the only variable is {{{{ instruction }}}}")
        return text


class RetrievalChoice(StoreSettings):
    """What the model is handed to read: nothing, the `top_k` passages found, or the gold ones (``oracle``)."""

    search: Literal["none", "dense", "lexical", "hybrid", "oracle"] = "none"
    """``lexical``: BM25. ``hybrid``: reciprocal rank fusion of dense and lexical."""
    top_k: int = Field(default=3, ge=1)
    candidates: int = Field(default=20, ge=1)
    """Passages that a fusion or a reranker chooses from."""
    rrf_k: int = Field(default=60, ge=1)
    """Reciprocal rank fusion: a passage scores the sum of 1 / (rrf_k + rank) (Cormack et al. 2009)."""
    rerank: bool = False
    """Order the candidates by `reranker`."""
    reranker: str | None = None
    """A cross-encoder: folder or hub id of a sentence-transformers one."""
    abstain_below: float | None = None
    """Abstain without asking the model where the best passage is less like the question than this (cosine; ``dense`` only)."""


class TuningChoice(_Choice):
    """Which weights move, and how they are trained. Defaults are the same for every method but the learning rate's scale."""

    method: Literal["none", "lora", "peft", "bottleneck", "bitfit", "last_layers", "features", "full", "hosted"] = "none"
    """``peft``: any method of peft by its own configuration. ``features``: a classifier on the frozen model's states. ``hosted``: a job of
    the provider's own that serves the model."""
    r: int = Field(default=8, ge=1)
    """LoRA rank."""
    alpha: int = Field(default=16, ge=1)
    """LoRA scale: the update is multiplied by alpha / r."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Within LoRA and bottleneck adapters."""
    targets: str | list[str] = "all-linear"
    """LoRA: the modules adapted, by name, or every linear layer but the output layer."""
    peft: dict[str, Any] = Field(default_factory=dict)
    """peft's own settings: all of them for ``peft`` (``{peft_type: IA3, ..}``), additional ones for ``lora`` (``{use_dora: true}``)."""
    quantize: Literal["none", "nf4"] = "none"
    """Load the frozen base in 4 bits (QLoRA, Dettmers et al. 2023)."""
    bottleneck: int = Field(default=16, ge=1)
    """``bottleneck``: width of the adapters (Houlsby et al. 2019)."""
    layers: int = Field(default=1, ge=1)
    """``last_layers``: how many, counted from the top; the final norm moves with them."""
    regularization: float = Field(default=1.0, gt=0)
    """``features``: strength of the L2 penalty of the logistic regression (the inverse of scikit-learn's C)."""

    hosted: dict[str, Any] = Field(default_factory=dict)
    """``hosted``: the provider's hyper-parameters (``{n_epochs: 3}``); what is left out it chooses itself. All other settings of training
    but `with_passages` and `gold_share` are its own matter."""

    objective: Literal["answers", "dpo", "grpo", "rloo"] = "answers"
    """``answers``: the likelihood of the right answer. ``dpo``: right answers over the base's own wrong ones. ``grpo``, ``rloo``: the
    task's metric as reward."""
    beta: float = Field(default=0.1, ge=0)
    """``dpo``: how far the policy may move from the base (Rafailov et al. 2023); ``grpo``, ``rloo``: weight of the KL penalty."""
    samples: int = Field(default=8, ge=2)
    """``grpo``, ``rloo``: answers sampled for each prompt."""
    train_on: tuple[Literal["examples", "documents"], ...] = ("examples",)
    """Labelled examples, the corpus as plain text, or both."""
    with_passages: bool = False
    """Train on prompts with the passages that retrieval finds, as the model will be asked."""
    gold_share: float | None = Field(default=None, ge=0, le=1)
    """RAFT (Zhang et al. 2024): train on the gold passages among `top_k` - 1 distractors in this share of the examples, and on
    distractors alone in the others; default: on whatever retrieval finds."""

    learning_rate: float = Field(default=1e-3, gt=0)
    schedule: Literal["linear", "cosine", "constant"] = "cosine"
    """After the warm-up: down to zero on a line or a half cosine, or as it is."""
    warmup_share: float = Field(default=0.1, ge=0, le=1)
    epochs: int = Field(default=8, ge=0)
    """At most; the best of `evaluations` checkpoints by validation score is kept. 0: no step is taken, for a check of the harness."""
    evaluations: int = Field(default=4, ge=1)
    patience: int = Field(default=2, ge=1)
    """Stop after this many evaluations in a row without a better one."""
    batch_size: int = Field(default=8, ge=1)
    """Examples per step of the optimizer."""
    accumulate: int = Field(default=1, ge=1)
    """Parts in which a batch is computed one after the other, for memory."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass, for memory."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the forward pass in training; ``auto``: bfloat16 on a GPU that has it, float32 elsewhere."""
    weight_decay: float = Field(default=0.01, ge=0)
    max_gradient_norm: float = Field(default=1.0, gt=0)
    class_weights: Literal["none", "balanced"] = "none"
    """``balanced``: an example weighs the inverse of its label's share, so that rare labels count as much as frequent ones."""

    @property
    def trains_here(self) -> bool:
        """Whether weights of the model, or of an adapter beside it, are trained on this machine; a classifier on features is neither."""
        return self.method not in ("none", "features", "hosted")

    @property
    def needs_peft(self) -> bool:
        """Whether the training is done by peft, or by trl, which imports it."""
        return self.method in ("lora", "peft") or self.objective != "answers"


class Range(_Choice):
    """An axis of the search between two numbers; whole numbers where both are."""

    low: float | int
    high: float | int
    log: bool = False
    """Draw evenly on a log scale."""

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.low >= self.high or (self.log and self.low <= 0):
            raise ValueError(f"found {self.low} to {self.high}; expected low below high, and above 0 on a log scale")
        return self


Axis = Annotated[
    Annotated[list[Any], Tag("list")] | Annotated[Range, Tag("range")],
    Discriminator(lambda values: "range" if isinstance(values, dict | Range) else "list"),
]
"""Values to choose from, or a range; told apart by form, so that a mistake in a range is not reported as one in a list."""


class Strategy(_Choice):
    """The keys of a strategy file. Unknown keys are errors; what is left out takes its default."""

    description: str = ""
    """What it is, in a sentence or two."""
    family: str = ""
    """The heading that it stands under in lists and docs, such as one of `FAMILIES`."""
    source: str = ""
    """Where it was published."""
    trains: str = ""
    """The number of trained parameters as a formula, where something is trained."""
    traps: tuple[str, ...] = ()
    """What goes wrong with it, and what is done about it here."""
    prompt: PromptChoice = PromptChoice()
    retrieval: RetrievalChoice = RetrievalChoice()
    tuning: TuningChoice = TuningChoice()
    search: dict[str, Axis] = Field(default_factory=dict)
    """``{"tuning.learning_rate": [..], "retrieval.top_k": {low: 1, high: 8}}``: the axes of the search on validation."""

    @model_validator(mode="after")
    def _consistent(self) -> Strategy:
        prompt, retrieval, tuning = self.prompt, self.retrieval, self.tuning
        reads, by_peft = retrieval.search != "none", tuning.method in ("lora", "peft")
        wrong = {
            "tuning.with_passages: needs retrieval.search other than none": tuning.with_passages and not reads,
            "tuning.gold_share: needs tuning.with_passages": tuning.gold_share is not None and not tuning.with_passages,
            "tuning.gold_share: needs retrieval.search dense, lexical or hybrid, for distractors":
                tuning.gold_share is not None and retrieval.search == "oracle",
            "tuning.peft: method peft needs a peft_type": tuning.method == "peft" and "peft_type" not in tuning.peft,
            "tuning.peft: has a meaning for lora and peft only": bool(tuning.peft) and not by_peft,
            "tuning.hosted: has a meaning for method hosted only": bool(tuning.hosted) and tuning.method != "hosted",
            "tuning.objective: the provider's fine-tuning learns answers only":
                tuning.method == "hosted" and (tuning.objective != "answers" or tuning.train_on != ("examples",)),
            "tuning.class_weights: the provider's fine-tuning weighs all examples alike":
                tuning.method == "hosted" and tuning.class_weights != "none",
            "tuning.quantize: 4-bit weights cannot be trained; expected method lora or peft": tuning.quantize != "none" and not by_peft,
            "tuning.objective: needs a method that trains the language model":
                tuning.objective != "answers" and tuning.method in ("none", "features"),
            "tuning.epochs: 0 has a meaning for objective answers only": tuning.epochs == 0 and tuning.objective != "answers",
            "tuning.train_on: is empty; expected examples, documents or both": not tuning.train_on,
            "tuning.train_on: documents have no meaning for this objective or method":
                "documents" in tuning.train_on and (tuning.objective != "answers" or tuning.method in ("none", "features")),
            "prompt.cite: needs retrieval.search other than none": prompt.cite and not reads,
            "retrieval.rerank: needs retrieval.search dense, lexical or hybrid":
                retrieval.rerank and retrieval.search in ("none", "oracle"),
            "retrieval.abstain_below: needs retrieval.search dense":
                retrieval.search != "dense" and (retrieval.abstain_below is not None or "retrieval.abstain_below" in self.search),
            "prompt.constant: asks no model, so shots, retrieval and tuning must be left out":
                bool(prompt.constant) and (tuning.method != "none" or reads or prompt.shots > 0),
        }  # fmt: skip
        for message, found in wrong.items():
            if found:
                raise ValueError(message)
        for axis, values in self.search.items():
            if isinstance(values, list) and not values:
                raise ValueError(f"search.{axis}: the list is empty")
            for value in values if isinstance(values, list) else (values.low, values.high):
                try:
                    self.with_settings({axis: value})
                except ValidationError:
                    raise
                except ValueError as error:
                    raise ValueError(f"search.{error}") from error
        return self

    def with_settings(self, settings: dict[str, Any], keep_search: bool = False) -> Strategy:
        """This strategy with dotted settings filled in and nothing left to search; ValueError for an unknown setting or a wrong value.

        `keep_search`: the axes that are not among the settings stay.
        """
        data = self.model_dump(exclude={"search"})
        if keep_search:
            data["search"] = {axis: values for axis, values in self.search.items() if axis not in settings}
        for dotted, value in settings.items():
            *path, last = dotted.split(".")
            node = data
            for key in path:
                node = node.get(key, {}) if isinstance(node, dict) else {}
            if last not in node:
                known = [f"{c}.{k}" for c in ("prompt", "retrieval", "tuning") for k in data[c]]
                raise ValueError(f"{dotted}: no such setting; {did_you_mean(dotted, known)}")
            node[last] = value
        return Strategy(**data)

    def setting(self, dotted: str) -> Any:
        """The value of a dotted setting, such as ``tuning.learning_rate`` or ``tuning.peft.r``."""
        node: Any = self.model_dump(mode="json")
        for key in dotted.split("."):
            node = node[key]
        return node

    def deterministic(self, task: Task) -> bool:
        """Whether the answers depend on no seed: no drawn examples and no training but the convex one of a feature classifier."""
        shots = self.prompt.shots > 0 or "prompt.shots" in self.search
        drawn = self.prompt.select == "drawn" and not (task.config.layout and task.config.layout.shots == "first")
        return not (shots and drawn) and self.tuning.method in ("none", "features")

    @property
    def embeds(self) -> bool:
        """Whether something is found by the likeness of vectors."""
        shots = self.prompt.shots > 0 or "prompt.shots" in self.search
        return self.retrieval.search in ("dense", "hybrid") or (shots and self.prompt.select == "nearest")

    def not_applicable(self, task: Task, kind: ModelKind = "causal") -> str | None:
        """Why this strategy has no meaning for a task and a kind of model, or None where it has."""
        prompt, retrieval, tuning = self.prompt, self.retrieval, self.tuning
        shots = prompt.shots > 0 or "prompt.shots" in self.search
        needs_gold = retrieval.search == "oracle" or tuning.gold_share is not None
        abstains = prompt.constant == "abstain" or "retrieval.abstain_below" in self.search or retrieval.abstain_below is not None
        reasoned = prompt.chain_of_thought is not None and (shots or tuning.method != "none")
        labelled = task.config.kind == "classification"
        chooses = task.config.kind == "multiple_choice"
        prefix = str(tuning.peft.get("peft_type")).upper() == "PREFIX_TUNING"
        reasons = {
            "the model chooses among options and writes no chain of thought":
                chooses and (prompt.chain_of_thought is not None or "prompt.chain_of_thought" in self.search),
            "the model chooses among options and writes no citation": chooses and (prompt.cite or "prompt.cite" in self.search),
            "preference training needs answers that the model writes; here it chooses among options":
                chooses and (tuning.objective != "answers" or "tuning.objective" in self.search),
            "the task has no corpus": retrieval.search != "none" and not task.corpus,
            "the task names no evidence column": needs_gold and not task.config.evidence,
            "the task has no abstention phrase": abstains and not task.config.abstain,
            "the first sentence answers only a summarization task":
                prompt.constant == "first_sentence" and task.config.kind != "summarization",
            "no cross-encoder is given (retrieval.reranker)": retrieval.rerank and retrieval.reranker is None,
            "the task has no rationale column to show or train on": reasoned and not task.config.rationale,
            "features feed a classifier, and this is no classification task": tuning.method == "features" and not labelled,
            "the task has no corpus to train on": "documents" in tuning.train_on and not task.corpus,
            "class weights need a classification task": tuning.class_weights != "none" and not labelled,
            "preference training is for causal models": tuning.objective != "answers" and kind != "causal",
            "training on plain text is for causal models": "documents" in tuning.train_on and kind != "causal",
            "the provider's fine-tuning needs a model at its endpoint": tuning.method == "hosted" and kind != "endpoint",
            "half of peft's prefix is never read in an encoder-decoder model": kind == "seq2seq" and prefix,
        }  # fmt: skip
        if kind == "encoder" and not prompt.constant:
            reasons |= {
                "an encoder with a classification head answers classification tasks only": not labelled,
                "an encoder is loaded in full, not in 4 bits": tuning.quantize != "none",
                "an encoder's classification head knows nothing before it is trained": tuning.method == "none",
                "an encoder's classifier reads the input alone: no shots, reasoning or passages":
                    bool(shots or prompt.chain_of_thought or retrieval.search != "none"),
            }  # fmt: skip
        if kind == "endpoint" and not prompt.constant:
            reasons = {
                "a served model's weights are not at hand, and this strategy trains": tuning.method not in ("none", "hosted"),
                "a served model gives no log-likelihoods to choose among options by": chooses,
                "the task lays its prompts out to the letter, and an endpoint lays them out itself": task.config.layout is not None,
            } | reasons
        return next((reason for reason, holds in reasons.items() if holds), None)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the choices and the search, not of what is said about them."""
        data = self.model_dump(mode="json", include={"prompt", "retrieval", "tuning", "search"})
        if not self.tuning.hosted:
            del data["tuning"]["hosted"]  # came later than the others: results of strategies that it means nothing for stay theirs
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


FAMILIES = ("floor", "prompting", "retrieval", "PEFT", "partial and full", "preference", "hybrid", "hosted")


def preset_names() -> list[str]:
    """The names of the presets that come with the package, in alphabetical order."""
    return sorted(p.name.removesuffix(".yaml") for p in _preset_folder() if p.name.endswith(".yaml"))


def _preset_folder() -> Iterator[Any]:
    yield from resources.files("bench.strategy").joinpath("presets").iterdir()


def load_strategy(name: str) -> tuple[str, Strategy]:
    """A strategy by preset name or by the path of a YAML file: its name and its choices.

    Raises `BenchError` for an unknown name, broken YAML, an unknown key or a wrong value.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = Path(name)
        if not path.is_file():
            raise BenchError(f"strategy {name}: no such file")
        return path.stem, parse_settings(Strategy, path.read_text(), str(path))
    for file in _preset_folder():
        if file.name == f"{name}.yaml":
            return name, parse_settings(Strategy, file.read_text(), f"preset {name}")
    raise BenchError(f'strategy "{name}": no such preset; {did_you_mean(name, preset_names())} (or give a path to a .yaml file)')
