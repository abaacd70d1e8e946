"""One way to an OpenAI-compatible server: the key, what is tried again, and errors in one line that never show the key."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from bench.errors import BenchError
from bench.model.source import DEFAULT_KEY, check_url
from bench.result.text import visible

if TYPE_CHECKING:
    import openai

T = TypeVar("T")

_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_REFUSED = frozenset({401, 403, 404})
_LONGEST_WAIT_SECONDS = 60.0


class EndpointRefused(BenchError):
    """The endpoint will answer no request of this kind: a wrong key, model or address."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
        """Of HTTP."""


class EndpointDown(BenchError):
    """The endpoint stayed unavailable, or went on answering something else than was asked for, through all attempts."""


class EndpointStopped(Exception):
    """Not all that was asked for has come; what has come is kept.

    Not a `BenchError`: to a search that is a bad point among others, and it would go on without what the point might have scored.
    """


class Connection:
    """Sends requests to one server, and tries again where that may help. May be used by several threads at once."""

    def __init__(
        self,
        url: str,
        *,
        api_key_env: str = DEFAULT_KEY,
        timeout_seconds: float = 60.0,
        retries: int = 5,
        backoff_seconds: float = 1.0,
    ) -> None:
        """``url``: the base, such as ``https://api.openai.com/v1``; ``api_key_env``: the environment variable that holds the key,
        which local servers go without; the wait before a retry doubles from ``backoff_seconds``, or is what the server asks for.

        Raises:
            BenchError: `url` is no address of an HTTP server.
        """
        self.url, self.api_key_env = check_url(url), api_key_env
        self.timeout, self.retries, self.backoff = timeout_seconds, retries, backoff_seconds

    def request(self, attempt: Callable[[], T], subject: str) -> T:
        """What `attempt` returns, which sends once; tried again on HTTP 408, 409, 425, 429, 5xx, time-outs, cut connections, and on
        ValueError, which `attempt` raises for another answer than was asked for. ``subject``: what is asked for, in errors.

        Raises:
            EndpointRefused: A wrong key, model or address (HTTP 401, 403, 404): not tried again.
            EndpointDown: No attempt came through.
            BenchError: The server refuses this request, or openai is not installed; and whatever else `attempt` raises.
        """
        try:
            import openai
        except ImportError:
            raise BenchError("endpoint: needs the openai client; pip install openai") from None
        reason = ""
        for number in range(self.retries + 1):
            wait = self.backoff * 2**number
            try:
                return attempt()
            except openai.APIStatusError as error:
                reason = f"HTTP {error.status_code} for {subject}: {self.safe(_detail(error.response.content))}"
                if error.status_code not in _RETRIED:
                    self._refuse(error.status_code, reason)
                wait = _asked_wait(error.response.headers.get("Retry-After", "")) or wait
            except openai.APITimeoutError:
                reason = f"timed out after {self.timeout:g} s"
            except openai.APIError as error:  # refused, reset, cut off
                reason = self.safe(str(error.__cause__ or error)) or type(error).__name__
            except ValueError as error:
                reason = self.safe(str(error))
            if number < self.retries:
                time.sleep(min(wait, _LONGEST_WAIT_SECONDS))
        raise EndpointDown(f"endpoint {self.url}: gave up after {self.retries + 1} attempts; the last one: {reason}")

    @cached_property
    def client(self) -> openai.OpenAI:
        """The client, for attempts; it tries nothing again itself."""
        import openai

        # Retries are made here, where a broken answer counts as a failure too and each attempt is charged.
        return openai.OpenAI(api_key=self._key() or "none", base_url=self.url, timeout=self.timeout, max_retries=0)

    @property
    def options(self) -> dict[str, Any]:
        """What every call of the client is given beside its own parameters: without a key, that none is sent."""
        if self._key():
            return {}
        import openai

        return {"extra_headers": {"Authorization": openai.Omit()}}

    def _key(self) -> str:
        key = os.environ.get(self.api_key_env, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise BenchError(f"endpoint: the key in the environment variable {self.api_key_env} is not printable ASCII, expected what is")
        return key

    def _refuse(self, status: int, reason: str) -> NoReturn:
        if status in (401, 403):
            state = "is set" if os.environ.get(self.api_key_env) else "is not set"
            # Not in the server's words, which can hold the key.
            reason = f"HTTP {status}: the API key was refused; the environment variable {self.api_key_env} {state}"
        message = f"endpoint {self.url}: {reason}"
        raise (EndpointRefused(message, status) if status in _REFUSED else BenchError(message)) from None  # which holds the server's words

    def safe(self, text: str) -> str:
        """What a server says, in one line, without the key, and unable to act on a terminal."""
        key = self._key()
        return visible(" ".join((text.replace(key, "***") if key else text).split()))[:200]


def error_of(raw: bytes) -> Mapping[str, Any]:
    """The ``error`` of a server's answer; empty where there is none."""
    try:
        found = json.loads(raw)["error"]
    except (ValueError, LookupError, TypeError):
        return {}
    return found if isinstance(found, dict) else {"message": found}


def _detail(raw: bytes) -> str:
    """What the server says of its error."""
    return str(error_of(raw).get("message") or raw.decode("utf-8", "replace")).strip() or "no reason given"


def _asked_wait(header: str) -> float | None:
    """Seconds that the server asks to wait; None where it says nothing, or gives a date."""
    try:
        return max(0.0, float(header))
    except ValueError:
        return None
