"""Ask an OpenAI-compatible endpoint: resumable, cached by content, within a rate, its spend counted.

The settings name the address, the model, the folder of the cache, and the environment variable that holds the key (the
key itself is never written anywhere).
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from emoverse.artifacts.manifest import write_json
from emoverse.config import parse
from emoverse.errors import UserError

_RETRIED: Final = (408, 409, 429, 500, 502, 503, 504)


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", strict=True))
class EndpointSettings:
    """How to reach the endpoint; prices are per million tokens, in any one currency."""

    url: str = Field(pattern=r"^https?://[^\s/]")
    model: str
    cache: str
    key_variable: str = "OPENAI_API_KEY"
    requests_per_minute: float = Field(default=60.0, gt=0)
    max_tokens: int = Field(default=160, ge=1)
    attempts: int = Field(default=6, ge=1)
    timeout: float = Field(default=120.0, gt=0)
    price_in: float = Field(default=0.0, ge=0)
    price_out: float = Field(default=0.0, ge=0)


SettingsT = TypeVar("SettingsT", bound=EndpointSettings)


def read_settings(kind: type[SettingsT], path: Path) -> SettingsT:
    """Read settings from JSON; raise UserError when they are broken."""
    try:
        tree = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError("no such file", place=str(path), remedy="give url, model and cache in it") from None
    except ValueError as error:
        raise UserError(f"not JSON: {error}", place=str(path), remedy="mend the settings") from None
    if not isinstance(tree, dict):
        raise UserError("holds no settings", place=str(path), remedy="give url, model and cache")
    return parse(kind, tree, place=str(path))


class Endpoint:
    """Ask each question once; an answer is kept under the digest of the whole request."""

    def __init__(self, settings: EndpointSettings) -> None:
        self.settings = settings
        self._cache = Path(settings.cache)
        self._next = 0.0
        self._tokens_in = self._tokens_out = self._answers = 0

    def ask(self, content: Any) -> str:
        """Return the reply to a user's message (words, or OpenAI's list of parts), its white space evened out.

        Raises UserError when the endpoint cannot be reached or refuses.
        """
        own = self.settings
        messages = [{"role": "user", "content": content}]
        reply = self._answer({"model": own.model, "messages": messages, "max_tokens": own.max_tokens, "temperature": 0})
        usage = reply.get("usage") or {}
        self._answers += 1
        self._tokens_in += usage.get("prompt_tokens", 0)
        self._tokens_out += usage.get("completion_tokens", 0)
        return " ".join(str(reply["text"]).split())

    def facts(self) -> dict[str, Any]:
        """Return model, answers, tokens and spend of all answers used, cached ones included: the same on every run."""
        spend = (self._tokens_in * self.settings.price_in + self._tokens_out * self.settings.price_out) / 1e6
        return {
            "model": self.settings.model,
            "answers": self._answers,
            "tokens_in": self._tokens_in,
            "tokens_out": self._tokens_out,
            "spend": round(spend, 6),
        }

    def _answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the kept answer to a request, asking for it where there is none."""
        digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode("utf-8")).hexdigest()
        path = self._cache / digest[:2] / f"{digest}.json"
        if path.is_file():
            return _kept(path)
        found = self._post(request)
        try:
            text = found["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            problem = f"answered something else than a chat completion: {self._redacted(str(found))}"
            raise UserError(problem, place=self.settings.url, remedy="check the address") from None
        said = found.get("usage")
        usage = {name: n for name, n in said.items() if isinstance(n, int)} if isinstance(said, dict) else {}
        kept = {"text": str(text or ""), "usage": usage, "model": found.get("model")}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, kept)
        return kept

    def _redacted(self, text: str) -> str:
        """Return the beginning of what an endpoint said without the key, which some repeat when they refuse it."""
        key = os.environ.get(self.settings.key_variable)
        return (text.replace(key, "<the key>") if key else text)[:200]

    def _post(self, request: Mapping[str, Any]) -> Any:
        """Send a request at the allowed rate; wait as ``Retry-After`` says, else twice as long after each failure."""
        url = self.settings.url.rstrip("/") + "/chat/completions"
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self.settings.key_variable):
            headers["Authorization"] = f"Bearer {key}"
        body = json.dumps(request).encode("utf-8")
        why = ""
        for attempt in range(self.settings.attempts):
            self._wait()
            try:
                sent = urllib.request.Request(url, data=body, headers=headers)
                with urllib.request.urlopen(sent, timeout=self.settings.timeout) as reply:
                    return json.loads(reply.read())
            except urllib.error.HTTPError as error:
                why = f"HTTP {error.code}: {self._redacted(_body(error))}"
                if error.code not in _RETRIED:
                    break
                self._next = time.monotonic() + _seconds(error.headers.get("Retry-After"), 2.0**attempt)
            except (OSError, ValueError, http.client.HTTPException) as error:
                why = self._redacted(str(error))
                self._next = time.monotonic() + min(30.0, 2.0**attempt)
        remedy = "check the address and the key; answers so far are kept, so run again to go on"
        raise UserError(f"the endpoint gave no answer ({why})", place=url, remedy=remedy)

    def _wait(self) -> None:
        now = time.monotonic()
        if self._next > now:
            time.sleep(self._next - now)
        self._next = max(now, self._next) + 60.0 / self.settings.requests_per_minute


def _kept(path: Path) -> dict[str, Any]:
    """Read an answer from the cache; raise UserError when it is broken."""
    try:
        kept = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(
            f"not a kept answer: {error}", place=str(path), remedy="remove the file and run again"
        ) from None
    return dict(kept)


def _body(error: urllib.error.HTTPError) -> str:
    """Return what came with a refusal, as far as it came."""
    try:
        return error.read(4096).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return ""


def _seconds(word: str | None, otherwise: float) -> float:
    try:
        return max(0.0, float(word)) if word is not None else min(60.0, otherwise)
    except ValueError:  # the header may also be a date, which no endpoint we know sends
        return min(60.0, otherwise)
