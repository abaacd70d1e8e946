"""A chat model behind an OpenAI-compatible HTTP endpoint (hosted, or a local server such as vLLM, llama.cpp or Ollama)."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.cost.spending import Spending
from bench.model.connection import Connection, error_of
from bench.model.source import DEFAULT_KEY
from bench.result.schema import Tokens

if TYPE_CHECKING:
    import openai

    from bench.model.conversation import Message

_TURN_TOKENS = 16
"""More than any chat template writes around a turn."""


@dataclass(frozen=True)
class Reply:
    """An answer, with what the endpoint says of it."""

    text: str
    """May be empty."""
    logprob: float | None
    """Sum over its tokens, natural log; None where the endpoint gives none."""
    tokens: Tokens | None
    """As the endpoint counted them; None where it says nothing."""
    seconds: float
    """From the request to the answer, without the attempts before."""


class ChatEndpoint:
    """Sends conversations to one model of one endpoint, greedily (temperature 0), and tries again where that may help.

    May be asked by several threads at once.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key_env: str = DEFAULT_KEY,
        timeout_seconds: float = 60.0,
        retries: int = 5,
        backoff_seconds: float = 1.0,
        options: Mapping[str, Any] | None = None,
        spending: Spending | None = None,
    ) -> None:
        """``url``: the base, such as ``https://api.openai.com/v1``; ``api_key_env``: the environment variable that holds the key,
        which local servers go without; the wait before a retry doubles from ``backoff_seconds``, or is what the server asks for.

        ``options``: what is asked for beside temperature 0, such as ``seed``; ``spending``: what every request is charged to first.

        Raises:
            BenchError: `url` is no address of an HTTP server.
        """
        self.connection = Connection(
            url, api_key_env=api_key_env, timeout_seconds=timeout_seconds, retries=retries, backoff_seconds=backoff_seconds
        )
        self.url, self.model = self.connection.url, model
        self.options: dict[str, Any] = {"temperature": 0, **(options or {})}
        """What is asked for of the decoding; what the endpoint has refused to hear of is taken out."""
        self.refused: list[str] = []
        self._limit_name = "max_tokens"
        self._spending = spending

    def complete(self, messages: Sequence[Message], max_tokens: int) -> str:
        """The answer to a conversation.

        Raises:
            BenchError: As `ask`.
        """
        return self.ask(messages, max_tokens).text

    def ask(self, messages: Sequence[Message], max_tokens: int) -> Reply:
        """The answer to a conversation, with tokens and log-probability where the endpoint tells them.

        Raises:
            EndpointRefused: A wrong key, model or address (HTTP 401, 403, 404): not tried again.
            BenchError: The endpoint refuses this request, stays unavailable, or goes on answering something else than a chat completion;
                or the next request could pass the spending cap.
        """
        bound = Tokens(prompt=prompt_bound(messages), completion=max_tokens)
        return self.connection.request(lambda: self._attempt(messages, max_tokens, bound), f"model {self.model}")

    def _attempt(self, messages: Sequence[Message], max_tokens: int, bound: Tokens) -> Reply:
        """Ask once, and again without what the endpoint refuses to hear of. ValueError for another answer than a completion."""
        import openai

        while True:
            reserved = self._spending.reserve(bound) if self._spending else 0.0
            began = time.perf_counter()
            try:
                raw = self._post(messages, max_tokens)
            except openai.APIStatusError as error:
                self._settle(reserved, Tokens())  # an error is not billed
                if error.status_code == 400 and self._leave_out(error):
                    continue
                raise
            # A broken answer may be billed, so what was reserved stays spent.
            reply = _reply(raw, time.perf_counter() - began)
            self._settle(reserved, bound if reply.tokens is None else reply.tokens)
            return reply

    def _post(self, messages: Sequence[Message], max_tokens: int) -> bytes:
        asked: dict[str, Any] = {"model": self.model, "messages": list(messages), self._limit_name: max_tokens, **self.options}
        raw = self.connection.client.chat.completions.with_raw_response.create(**asked, **self.connection.options)
        content: bytes = raw.http_response.content
        return content

    def _leave_out(self, error: openai.APIStatusError) -> bool:
        """Whether a parameter was refused that can be left out or renamed, and has been; some models take no temperature, or no seed."""
        name = _refused_parameter(error.response.content)
        if name == "max_tokens" and self._limit_name == name:
            self._limit_name = "max_completion_tokens"
            return True
        if name in self.options:
            self.options = {key: value for key, value in self.options.items() if key != name}
            self.refused.append(name)
            return True
        return False

    def _settle(self, reserved: float, tokens: Tokens) -> None:
        if self._spending:
            self._spending.settle(reserved, tokens)


def prompt_bound(messages: Sequence[Message]) -> int:
    """More tokens than any tokenizer makes of a conversation: at most one a byte of UTF-8."""
    return sum(len(m["content"].encode()) + _TURN_TOKENS for m in messages)


def _reply(raw: bytes, seconds: float) -> Reply:
    """What a chat completion says; ValueError where it is none."""
    try:
        found = json.loads(raw)
        choice = found["choices"][0]
        content = choice["message"]["content"]
        # A model that wrote nothing, or nothing that may be shown, has answered all the same.
        text = choice["message"].get("refusal") or "" if content is None else content
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ValueError(f"found {raw[:80]!r}, expected a chat completion in JSON") from None
    if not isinstance(text, str):
        raise ValueError(f"the completion's content is {str(content)[:80]!r}, expected text")
    text = text.encode("utf-8", "replace").decode()  # half of a surrogate pair, which JSON can hold, no file can
    return Reply(text, _logprob(choice), _tokens(found.get("usage")), seconds)


def _logprob(choice: Mapping[str, Any]) -> float | None:
    try:
        total = math.fsum(float(token["logprob"]) for token in choice["logprobs"]["content"])
    except (LookupError, TypeError, ValueError):
        return None
    return total if choice["logprobs"]["content"] and math.isfinite(total) else None


def _tokens(usage: Any) -> Tokens | None:
    """The counts of a completion's ``usage``; None where there are none, or none that can be."""
    if not isinstance(usage, dict):
        return None
    details = usage.get("prompt_tokens_details")
    cached = (details.get("cached_tokens") if isinstance(details, dict) else None) or 0
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not (isinstance(prompt, int) and isinstance(completion, int) and isinstance(cached, int) and min(prompt, completion, cached) >= 0):
        return None
    return Tokens(prompt=prompt, prompt_cached=min(cached, prompt), completion=completion)


def _refused_parameter(raw: bytes) -> str | None:
    found = error_of(raw)
    known = found.get("code") in ("unsupported_parameter", "unsupported_value", "unknown_parameter")
    return str(found.get("param")) if known else None
