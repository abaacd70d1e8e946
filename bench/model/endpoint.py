"""A chat model behind an OpenAI-compatible HTTP endpoint (hosted, or a local server such as vLLM, llama.cpp or Ollama)."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from bench.cost.spending import Spending
from bench.errors import BenchError
from bench.model.source import DEFAULT_KEY, check_url
from bench.result.schema import Tokens
from bench.result.text import visible

if TYPE_CHECKING:
    import openai

    from bench.model.language_model import Message

_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_REFUSED = frozenset({401, 403, 404})
_LONGEST_WAIT_SECONDS = 60.0
_TURN_TOKENS = 16
"""More than any chat template writes around a turn."""


class EndpointRefused(BenchError):
    """The endpoint will answer no request: a wrong key, model or address."""


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
        self.url, self.model, self.api_key_env = check_url(url), model, api_key_env
        self.options: dict[str, Any] = {"temperature": 0, **(options or {})}
        """What is asked for of the decoding; what the endpoint has refused to hear of is taken out."""
        self.refused: list[str] = []
        self._limit_name = "max_tokens"
        self._timeout, self._retries, self._backoff, self._spending = timeout_seconds, retries, backoff_seconds, spending

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
        try:
            import openai
        except ImportError:
            raise BenchError("endpoint: needs the openai client; pip install openai") from None
        bound = Tokens(prompt=prompt_bound(messages), completion=max_tokens)
        reason, attempt = "", 0
        while attempt <= self._retries:
            wait = self._backoff * 2**attempt
            reserved = self._spending.reserve(bound) if self._spending else 0.0
            began = time.perf_counter()
            try:
                raw = self._post(messages, max_tokens)
                reply = _reply(raw, time.perf_counter() - began)
                self._settle(reserved, bound if reply.tokens is None else reply.tokens)
                return reply
            except openai.APIStatusError as error:
                self._settle(reserved, Tokens())  # an error is not billed
                if error.status_code == 400 and self._leave_out(error):
                    continue
                reason = f"HTTP {error.status_code} for model {self.model}: {self._safe(_detail(error.response.content))}"
                if error.status_code not in _RETRIED:
                    self._refuse(error.status_code, reason)
                wait = _asked_wait(error.response.headers.get("Retry-After", "")) or wait
            except openai.APITimeoutError:
                reason = f"timed out after {self._timeout:g} s"
            except openai.APIError as error:  # refused, reset, cut off
                reason = self._safe(str(error.__cause__ or error)) or type(error).__name__
            except ValueError as error:  # what came may be billed, so what was reserved stays spent
                reason = self._safe(str(error))
            attempt += 1
            if attempt <= self._retries:
                time.sleep(min(wait, _LONGEST_WAIT_SECONDS))
        raise BenchError(f"endpoint {self.url}: gave up after {self._retries + 1} attempts; the last one: {reason}")

    @cached_property
    def _client(self) -> openai.OpenAI:
        import openai

        # Retries are made here, where a broken answer counts as a failure too and each attempt is charged.
        return openai.OpenAI(api_key=self._key() or "none", base_url=self.url, timeout=self._timeout, max_retries=0)

    def _key(self) -> str:
        key = os.environ.get(self.api_key_env, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise BenchError(f"endpoint: the key in the environment variable {self.api_key_env} is not printable ASCII, expected what is")
        return key

    def _post(self, messages: Sequence[Message], max_tokens: int) -> bytes:
        asked: dict[str, Any] = {"model": self.model, "messages": list(messages), self._limit_name: max_tokens, **self.options}
        if not self._key():
            import openai

            asked["extra_headers"] = {"Authorization": openai.Omit()}
        raw = self._client.chat.completions.with_raw_response.create(**asked)
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

    def _refuse(self, status: int, reason: str) -> NoReturn:
        if status in (401, 403):
            state = "is set" if os.environ.get(self.api_key_env) else "is not set"
            # Not in the server's words, which can hold the key.
            reason = f"HTTP {status}: the API key was refused; the environment variable {self.api_key_env} {state}"
        kind = EndpointRefused if status in _REFUSED else BenchError
        raise kind(f"endpoint {self.url}: {reason}") from None  # which holds the server's own words

    def _settle(self, reserved: float, tokens: Tokens) -> None:
        if self._spending:
            self._spending.settle(reserved, tokens)

    def _safe(self, text: str) -> str:
        """What a server says, in one line, without the key, and unable to act on a terminal."""
        key = self._key()
        return visible(" ".join((text.replace(key, "***") if key else text).split()))[:200]


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


def _error(raw: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(raw)["error"]
    except (ValueError, LookupError, TypeError):
        return {}
    return found if isinstance(found, dict) else {"message": found}


def _detail(raw: bytes) -> str:
    """What the server says of its error."""
    return str(_error(raw).get("message") or raw.decode("utf-8", "replace")).strip() or "no reason given"


def _refused_parameter(raw: bytes) -> str | None:
    found = _error(raw)
    known = found.get("code") in ("unsupported_parameter", "unsupported_value", "unknown_parameter")
    return str(found.get("param")) if known else None


def _asked_wait(header: str) -> float | None:
    """Seconds that the server asks to wait; None where it says nothing, or gives a date."""
    try:
        return max(0.0, float(header))
    except ValueError:
        return None
