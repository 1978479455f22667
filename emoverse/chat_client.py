"""Client of an OpenAI-compatible chat endpoint: resumable, cached by content, rate-limited, its cost counted.

The settings name the address, the model, the folder of the cache, and the environment variable that contains the key
(the key itself is never written anywhere).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from emoverse.artifacts.manifest import write_json
from emoverse.config import parse
from emoverse.errors import UserError
from emoverse.http import RETRIED, HttpClient, NoAnswerError, bearer, json_object, token_from

_REMEDY: Final = "check the address and the key; answers so far are kept, so run again to go on"


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
        raise UserError(f"not JSON: {error}", place=str(path), remedy="correct the settings") from None
    if not isinstance(tree, dict):
        raise UserError("contains no settings", place=str(path), remedy="give url, model and cache")
    return parse(kind, tree, place=str(path))


class ChatEndpoint:
    """Send each question once; an answer is cached under the digest of the whole request.

    Raises:
        UserError: The settings' address or key is not usable.
    """

    def __init__(self, settings: EndpointSettings) -> None:
        self.settings = settings
        self._cache = Path(settings.cache)
        self._next = 0.0
        self._tokens_in = self._tokens_out = self._answers = 0
        self._key = token_from(settings.key_variable)
        self._client = HttpClient(
            authorization=bearer(self._key),
            timeout=settings.timeout,
            retries=settings.attempts - 1,
            repeat_post=True,
        )

    def ask(self, content: Any) -> str:
        """Return the reply to a user's message, with its white space normalised.

        Args:
            content: Text, or OpenAI's list of parts.

        Raises:
            UserError: The endpoint cannot be reached or refuses.
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
        """Return model, answers, tokens and cost of all answers used, cached ones included: the same on every run."""
        spend = (self._tokens_in * self.settings.price_in + self._tokens_out * self.settings.price_out) / 1e6
        return {
            "model": self.settings.model,
            "answers": self._answers,
            "tokens_in": self._tokens_in,
            "tokens_out": self._tokens_out,
            "spend": round(spend, 6),
        }

    def _answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the address's cached answer to a request; send the request where there is none."""
        key = {"url": self.settings.url.rstrip("/"), "request": request}
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode("utf-8")).hexdigest()
        path = self._cache / digest[:2] / f"{digest}.json"
        if path.is_file():
            return _cached(path)
        reply = self._post(request)
        try:
            text = reply["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            problem = f"answered something else than a chat completion: {self._redacted(str(reply))}"
            raise UserError(problem, place=self.settings.url, remedy="check the address") from None
        counts = reply.get("usage")
        usage = {name: n for name, n in counts.items() if isinstance(n, int)} if isinstance(counts, dict) else {}
        answer = {"text": str(text or ""), "usage": usage, "model": reply.get("model")}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, answer)
        return answer

    def _redacted(self, text: str) -> str:
        """Return the beginning of a reply without the key, which some endpoints repeat when they refuse it."""
        return (text.replace(self._key, "<the key>") if self._key else text)[:200]

    def _post(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request at the allowed rate and return the JSON object that is its answer."""
        own, url = self.settings, self.settings.url.rstrip("/") + "/chat/completions"
        self._wait()
        try:
            reply = self._client.request("POST", url, body=request)
        except NoAnswerError as error:
            reason = self._redacted(error.problem)
            raise UserError(f"the endpoint gave no answer ({reason})", place=url, remedy=_REMEDY) from None
        text = self._redacted(reply.data.decode("utf-8", "replace"))
        if reply.status != 200:
            tries = f" after {own.attempts} attempts" if reply.status in RETRIED else ""
            problem = f"the endpoint gave no answer (HTTP {reply.status}{tries}: {text})"
            raise UserError(problem, place=url, remedy=_REMEDY)
        answer = json_object(reply)
        if answer is None:
            problem = f"answered something else than a chat completion: {text}"
            raise UserError(problem, place=own.url, remedy="check the address")
        return answer

    def _wait(self) -> None:
        """Wait until the rate allows another request."""
        now = time.monotonic()
        if self._next > now:
            time.sleep(self._next - now)
        self._next = max(now, self._next) + 60.0 / self.settings.requests_per_minute


def _cached(path: Path) -> dict[str, Any]:
    """Read an answer from the cache; raise UserError when the file is broken."""
    try:
        answer = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        remedy = "remove the file and run again"
        raise UserError(f"not a cached answer: {error}", place=str(path), remedy=remedy) from None
    return dict(answer)
