"""A model behind an endpoint in the place of a loaded one: asked for answers, by several requests at a time."""

from __future__ import annotations

import hashlib
import json
import statistics
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import torch

from bench.cost.prices import TokenPrice
from bench.cost.spending import Spending, SpendingCap
from bench.errors import BenchError
from bench.model.connection import EndpointRefused, EndpointStopped
from bench.model.conversation import Message
from bench.model.endpoint import ChatEndpoint, Reply
from bench.model.hosted import HostedTuning, Row
from bench.model.hosted_jobs import HOSTED, HostedJob
from bench.model.language_model import Generation, LanguageModel
from bench.model.source import Endpoint, ModelSource
from bench.result.schema import Tokens

TOKENS_PER_WORD = 1.3
"""Of English by the tokenizers in use; for an estimate, where nobody counts."""
FAILURES_IN_A_ROW = 10
"""After so many, without an answer between, nothing more is asked."""
TIMEOUT_SECONDS = 300.0
"""Of one request: a small server answers several of them one after the other."""
_NO_LIMIT = 1 << 40


class NotHere(BenchError):
    """Something needs the network, the tokenizer or their like of a model that is served."""


class ServedModel(LanguageModel):
    """A chat model at an endpoint, which has no weights, no tokenizer and no window that could be known here.

    In the place of token ids a prompt is carried as the bytes of its conversation: UTF-8 of JSON.
    """

    kind_name: ClassVar[str] = "served model"

    def __init__(self, source: ModelSource, answers: Path | None = None) -> None:
        """``answers``: a file that keeps every answer until `forget`, so that a run that was stopped asks nothing twice. Asks nothing."""
        assert source.endpoint is not None
        at = source.endpoint
        self.source, self.device = source, torch.device("cpu")
        self.window = _NO_LIMIT
        self.virtual_tokens = 0
        self.chat = _chat(at, at.model, _spending(at, at.price))
        self.concurrency = at.concurrency
        self.tuned: HostedJob | None = None
        """The provider's job whose model is asked in the base's place."""
        self._all_trained_tokens: int | None = None
        self._answers, self._lock = answers, threading.Lock()
        self._known = _read(answers) if answers else {}

    def tune(self, rows: Sequence[Row], hyperparameters: Mapping[str, Any], seed: int, report: Callable[[str], None]) -> HostedJob:
        """Have the provider tune the model on the rows, and ask the tuned model from now on. Raises as `HostedTuning.tune`."""
        assert self.source.endpoint is not None
        assert self._answers is not None, "a tuning needs a run's folder to be noted in"
        at, base = self.source.endpoint, self.chat
        tuning = HostedTuning(base.connection, at.model, self._answers.with_name(HOSTED), _spending(at, at.price))
        job = tuning.tune(rows, hyperparameters, seed, report)
        assert job.fine_tuned_model is not None
        self.chat = _chat(at, job.fine_tuned_model, _spending(at, at.price.of_tuned() if at.max_usd is not None and at.price else None))
        self.tuned, self._all_trained_tokens = job, tuning.file.trained_tokens
        return job

    @property
    def decoding(self) -> dict[str, Any]:
        """What is asked for. Whether the endpoint heeds it cannot be known."""
        return {"asked": dict(self.chat.options), "refused": list(self.chat.refused), "format": "the endpoint's own"}

    @property
    def about(self) -> dict[str, Any]:
        """What a record says of the model, and of all requests of the cell: also those of a search, and of a run that was stopped."""
        assert self.source.endpoint is not None
        found = {
            "url": self.chat.url, "model": self.source.endpoint.model, "weights": "not known", "n_requests": len(self._known),
            "n_tokens_estimated": sum(reply.tokens is None for reply in self._known.values()),
        }  # fmt: skip
        if job := self.tuned:
            found["tuning"] = {
                "model": job.fine_tuned_model, "job": job.job_id, "trained_tokens": job.trained_tokens, "seconds": job.seconds,
                "hyperparameters": job.hyperparameters, "trained_tokens_of_all_jobs": self._all_trained_tokens,
            }  # fmt: skip
        return found

    @property
    def request_seconds(self) -> dict[str, float]:
        """Median and 95th percentile of the requests' times, several under way at once; empty where fewer than two were asked."""
        seconds = [reply.seconds for reply in self._known.values()]
        if len(seconds) < 2:
            return {}
        return {"median": statistics.median(seconds), "p95": statistics.quantiles(seconds, n=20, method="inclusive")[-1]}

    def prompts_ids(self, conversations: Sequence[Sequence[Message]]) -> list[list[int]]:
        return [list(json.dumps(list(messages), ensure_ascii=False).encode()) for messages in conversations]

    def __getattr__(self, name: str) -> NoReturn:
        """Raises `NotHere`: whatever else a loaded model has."""
        if name.startswith("__"):
            raise AttributeError(name)  # the language asks whether there is one
        raise NotHere(f"needs the model itself ({name}), which is behind an endpoint")

    def generate(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, skip: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Generation]]]:
        """Answers as they come, one a batch; those in `skip` are not asked for.

        A request that fails does not keep the others from being asked. Raises `EndpointStopped` after the last answer where one failed:
        at once where the endpoint refuses all, the spending cap is reached, or `FAILURES_IN_A_ROW` have failed.
        """
        waiting = deque(i for i in range(len(prompts)) if i not in skip)
        asked, answered = len(waiting), 0
        failures: list[BenchError] = []
        in_a_row = 0
        with ThreadPoolExecutor(self.concurrency) as pool:
            running: dict[Future[Reply], int] = {}
            while waiting or running:
                while waiting and len(running) < self.concurrency:
                    i = waiting.popleft()
                    running[pool.submit(self._ask, bytes(prompts[i]), max_new_tokens)] = i
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    i = running.pop(future)
                    try:
                        reply = future.result()
                    except BenchError as error:
                        failures.append(error)
                        in_a_row += 1
                        if isinstance(error, (EndpointRefused, SpendingCap)) or in_a_row >= FAILURES_IN_A_ROW:
                            waiting.clear()
                        continue
                    in_a_row, answered = 0, answered + 1
                    yield [(i, self._generation(bytes(prompts[i]), reply))]
        if failures:
            # What stopped everything says more than what failed before it.
            worst = next((e for e in failures if isinstance(e, (EndpointRefused, SpendingCap))), failures[0])
            raise EndpointStopped(f"{worst} ({answered} of {asked} requests answered; a second run asks for the others only)")

    def _ask(self, prompt: bytes, max_new_tokens: int) -> Reply:
        # Of a tuned model also which one: neither the base nor another tuning of it ever answers in its place.
        asked = f"{self.source.fingerprint} {json.dumps([self.tuned.job_id, self.chat.model])}" if self.tuned else self.source.fingerprint
        key = hashlib.sha256(f"{asked} {max_new_tokens} ".encode() + prompt).hexdigest()
        if key in self._known:
            return self._known[key]
        reply = self.chat.ask(json.loads(prompt), max_new_tokens)
        with self._lock:
            self._known[key] = reply
            if self._answers:
                with self._answers.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"key": key, **asdict(reply), "tokens": reply.tokens and reply.tokens.model_dump()}) + "\n")
        return reply

    def _generation(self, prompt: bytes, reply: Reply) -> Generation:
        tokens = reply.tokens
        if tokens is None:
            tokens = Tokens(prompt=estimated_tokens(json.loads(prompt)), completion=_estimate(reply.text))
        share = reply.seconds / self.concurrency
        return Generation(reply.text.strip(), reply.logprob, tokens.prompt, tokens.prompt_cached, tokens.completion, share)

    def forget(self) -> None:
        """Remove the file of answers: the items have them."""
        if self._answers:
            self._answers.unlink(missing_ok=True)


def _spending(at: Endpoint, price: TokenPrice | None) -> Spending | None:
    """What requests at this price are charged to; None where nothing is capped."""
    if at.max_usd is None or price is None or at.run is None:
        return None
    return Spending(at.run / "endpoint_usd.txt", price, at.max_usd)


def _chat(at: Endpoint, model: str, spending: Spending | None) -> ChatEndpoint:
    return ChatEndpoint(
        at.url, model, api_key_env=at.api_key_env, timeout_seconds=TIMEOUT_SECONDS, options={"seed": 0, "logprobs": True}, spending=spending
    )


def estimated_tokens(messages: Sequence[Message]) -> int:
    """Tokens of a conversation, by its words; of a text without spaces by its characters."""
    return sum(_estimate(m["content"]) for m in messages)


def _estimate(text: str) -> int:
    # A word of a script without spaces would be a whole sentence; four characters a token is the usual rule for the others.
    return round(max(TOKENS_PER_WORD * len(text.split()), len(text) / 4 if text.isascii() else len(text)))


def _read(file: Path) -> dict[str, Reply]:
    """The answers in a file; a last line that a killed process left broken is passed over."""
    found: dict[str, Reply] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        tokens = entry["tokens"] and Tokens.model_validate(entry["tokens"])
        found[entry["key"]] = Reply(entry["text"], entry["logprob"], tokens, entry["seconds"])
    return found
