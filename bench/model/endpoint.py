"""A chat model behind an OpenAI-compatible HTTP endpoint (hosted, or a local server such as vLLM, llama.cpp or Ollama)."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bench.errors import BenchError

if TYPE_CHECKING:
    from bench.model.language_model import Message

_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_LONGEST_WAIT_SECONDS = 60.0


class ChatEndpoint:
    """Sends conversations to one model of one endpoint, greedily (temperature 0), and tries again where that may help."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key_env: str = "OPENAI_API_KEY",
        timeout_seconds: float = 60.0,
        retries: int = 5,
        backoff_seconds: float = 1.0,
    ) -> None:
        """``url``: the base, such as ``https://api.openai.com/v1``; ``api_key_env``: the environment variable that holds the key,
        which local servers go without; the wait before a retry doubles from ``backoff_seconds``, or is what the server asks for.

        Raises:
            BenchError: `url` is no address of an HTTP server.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise BenchError(f'endpoint: url is "{url}", expected one like https://api.openai.com/v1')
        self.url, self.model, self.api_key_env = url.rstrip("/"), model, api_key_env
        self._timeout, self._retries, self._backoff = timeout_seconds, retries, backoff_seconds

    def complete(self, messages: Sequence[Message], max_tokens: int) -> str:
        """The answer to a conversation.

        Raises:
            BenchError: The endpoint refuses (a wrong key, model or address), stays unavailable, or answers something else than a
                chat completion.
        """
        body = {"model": self.model, "messages": list(messages), "temperature": 0, "max_tokens": max_tokens}
        raw = self._post(json.dumps(body).encode())
        try:
            content = json.loads(raw)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError):
            raise BenchError(f"endpoint {self.url}: found {raw[:80]!r}, expected a chat completion in JSON") from None
        if not isinstance(content, str):
            raise BenchError(f"endpoint {self.url}: the completion's content is {content!r}, expected text")
        return content

    def _post(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self.api_key_env):
            headers["Authorization"] = f"Bearer {key}"
        # The address was checked to be HTTP, and nothing else can be opened by it.
        request = urllib.request.Request(f"{self.url}/chat/completions", body, headers)  # noqa: S310
        for attempt in range(self._retries + 1):
            wait = self._backoff * 2**attempt
            try:
                with urllib.request.urlopen(request, timeout=self._timeout) as response:  # noqa: S310
                    found: bytes = response.read()
                    return found
            except urllib.error.HTTPError as error:
                reason = self._reason(error)
                if error.code not in _RETRIED:
                    raise BenchError(f"endpoint {self.url}: {reason}") from None
                wait = _asked_wait(error) or wait
            except (OSError, HTTPException) as error:  # refused, reset, timed out: URLError is one of these
                reason = str(getattr(error, "reason", None) or error or type(error).__name__)
            if attempt < self._retries:
                time.sleep(min(wait, _LONGEST_WAIT_SECONDS))
        raise BenchError(f"endpoint {self.url}: gave up after {self._retries + 1} attempts; the last one: {reason}")

    def _reason(self, error: urllib.error.HTTPError) -> str:
        if error.code in (401, 403):
            state = "is set" if os.environ.get(self.api_key_env) else "is not set"
            return f"HTTP {error.code}: the API key was refused; the environment variable {self.api_key_env} {state}"
        return f"HTTP {error.code} for model {self.model}: {_detail(error.read())}"


def _detail(raw: bytes) -> str:
    """What the server says of its error, in one line."""
    text = raw.decode("utf-8", "replace")
    try:
        found: Any = json.loads(text)
        text = str(found["error"]["message"])
    except (ValueError, LookupError, TypeError):
        pass
    return " ".join(text.split())[:200] or "no reason given"


def _asked_wait(error: urllib.error.HTTPError) -> float | None:
    """Seconds that the server asks to wait; None where it says nothing, or gives a date."""
    try:
        return max(0.0, float(error.headers.get("Retry-After", "")))
    except ValueError:
        return None
