"""Give ERI its reasons: from rules (offline, the default), from an annotation file, or from an endpoint.

``amt.reasons`` names the provider: ``rules``, ``file:reasons.jsonl``, or ``endpoint:settings.json`` (see ``endpoint``).
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Protocol

import orjson
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from emoverse.artifacts.digests import sha256_file
from emoverse.chat_client import ChatEndpoint, EndpointSettings, read_settings
from emoverse.corpora import Utterance
from emoverse.corpora.files import decode
from emoverse.errors import RowErrors, UserError
from emoverse.tasks import Reason
from emoverse.tasks.fer import phrases


class Reasons(Protocol):
    """A provider of reasons."""

    def of(
        self, utterance: Utterance, dialogue: Sequence[Utterance], units: Mapping[str, float] | None
    ) -> Reason | None:
        """Return the reason for an utterance's emotion, None when there is none."""

    def facts(self) -> dict[str, Any]:
        """Return the facts about the provider for the manifest."""


def provider(spec: str, frames: Sequence[Path]) -> Reasons:
    """Return the provider that ``amt.reasons`` names; ``frames`` are the validated folders, for endpoints that see."""
    kind, _, rest = spec.partition(":")
    if kind == "rules" and not rest:
        return RuleReasons()
    if kind == "file" and rest:
        return FileReasons(Path(rest))
    if kind == "endpoint" and rest:
        return EndpointReasons.open(Path(rest), frames)
    remedy = "give rules, file:reasons.jsonl or endpoint:settings.json"
    raise UserError(f"unknown provider {spec!r}", place="amt.reasons", remedy=remedy)


def settings_file(spec: str) -> Path | None:
    """Return the file that ``amt.reasons`` names, an input of the dataset; None where it names none that exists."""
    kind, _, rest = spec.partition(":")
    return Path(rest) if kind in ("file", "endpoint") and rest and Path(rest).is_file() else None


class RuleReasons:
    """Compose a reason from what was measured: the face's action units, the valence of the words, who caused it."""

    def of(
        self, utterance: Utterance, dialogue: Sequence[Utterance], units: Mapping[str, float] | None
    ) -> Reason | None:
        """Return a reason that cites at least one clue; None without a label or a clue."""
        if utterance.emotion is None:
            return None
        face = phrases(units, utterance.emotion) if units is not None else ()
        return _composed(utterance.emotion, face, utterance.polarity, tuple(_speakers(utterance, dialogue)))

    def facts(self) -> dict[str, Any]:
        """Return the provider's name."""
        return {"provider": "rules"}


@lru_cache(maxsize=1 << 12)  # a corpus repeats most of them
def _composed(emotion: str, face: tuple[str, ...], polarity: str | None, causes: tuple[str, ...]) -> Reason | None:
    """Put clues into sentences: phrases of the face, the words' polarity, and who caused the emotion."""
    sentences, clues = [], [phrase.lower() for phrase in face]
    if clues:
        sentences.append(f"The face shows {_listed(clues)}.")
    if polarity is not None:
        clues.append(f"the words sound {polarity}")
        sentences.append(f"The words sound {polarity}.")
    if causes:
        clues.append(f"it follows what {_listed(causes)} said")
        sentences.append(f"It follows what {_listed(causes)} said.")
    if not clues:
        return None
    text = " ".join([f"The person in the video feels {emotion}.", *sentences])
    return Reason(text=text, provider="rules", clues=tuple(clues))


class FileReasons:
    """Read reasons from JSONL: ``utterance_id``, ``text`` and, where known, ``clues`` (a list) and ``provider``."""

    def __init__(self, path: Path) -> None:
        self._found: dict[str, Reason] = {}
        self._digest = sha256_file(path) if path.is_file() else ""
        problems: list[str] = []
        for number, line in enumerate(decode(path).split("\n"), start=1):
            if line.strip():
                self._add(line, f"{path}:{number}", path.stem, problems)
        if problems:
            raise RowErrors(problems, remedy="correct or remove these lines")

    def of(
        self, utterance: Utterance, dialogue: Sequence[Utterance], units: Mapping[str, float] | None
    ) -> Reason | None:
        """Return the annotated reason."""
        return self._found.get(utterance.utterance_id)

    def facts(self) -> dict[str, Any]:
        """Return how many reasons there are."""
        return {"provider": "file", "reasons": len(self._found), "sha256": self._digest}

    def _add(self, line: str, place: str, stem: str, problems: list[str]) -> None:
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            problems.append(f"{place}: column {error.colno}: not JSON: {error.msg}")
            return
        row = row if isinstance(row, dict) else {}
        name, text, clues = (row.get(key) for key in ("utterance_id", "text", "clues"))
        if not isinstance(name, str) or not isinstance(text, str) or not text.strip():
            problems.append(f"{place}: utterance_id, text: both must be non-empty strings")
        elif name in self._found:
            problems.append(f"{place}: utterance_id: {name!r} is on an earlier line too")
        elif clues is not None and not (isinstance(clues, list) and all(isinstance(clue, str) for clue in clues)):
            problems.append(f"{place}: clues: not a list of strings")
        else:
            author = str(row.get("provider") or f"file:{stem}")
            self._found[name] = Reason(text=text, provider=author, clues=tuple(clues or ()))


def _speakers(utterance: Utterance, dialogue: Sequence[Utterance]) -> list[str]:
    """Name the other speakers whose utterances caused the emotion, in order of first mention."""
    others = [cause for cause in utterance.causes or () if cause != utterance.position]
    if not others:
        return []
    known = {other.position: other.speaker for other in dialogue}
    named = [known.get(cause) for cause in others]
    return list(dict.fromkeys(name for name in named if name and name != utterance.speaker))


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


_ASK: Final = (
    "This is the peak frame of a clip in which a person says: {text!r}. The person feels {emotion}. "
    "Observed: {clues}. In two sentences, say what the person feels and which of these observations show it. "
    "Add nothing that was not observed."
)


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", strict=True))
class Settings(EndpointSettings):
    """How to reach the endpoint, and whether it is shown the peak frame."""

    see_frames: bool = True


class EndpointReasons:
    """Ask for each reason once."""

    def __init__(self, settings: Settings, frames: Any = None) -> None:
        self._endpoint, self._frames = ChatEndpoint(settings), frames

    @classmethod
    def open(cls, path: Path, folders: Sequence[Path]) -> EndpointReasons:
        """Read the settings; raise UserError when they are broken."""
        settings = read_settings(Settings, path)
        frames = None
        if settings.see_frames:
            from emoverse.media.frames import FrameStore

            frames = FrameStore(folders)
        return cls(settings, frames)

    def of(
        self, utterance: Utterance, dialogue: Sequence[Utterance], units: Mapping[str, float] | None
    ) -> Reason | None:
        """Return the endpoint's reply; raise UserError when it cannot be reached or refuses."""
        if utterance.emotion is None:
            return None
        clues = [phrase.lower() for phrase in phrases(units, utterance.emotion)] if units is not None else []
        if utterance.polarity is not None:
            clues.append(f"the words sound {utterance.polarity}")
        text = self._endpoint.ask(self._content(utterance, clues))
        author = f"endpoint:{self._endpoint.settings.model}"
        return Reason(text=text, provider=author, clues=tuple(clues)) if text else None

    def facts(self) -> dict[str, Any]:
        """Return model, answers, tokens and spend of all answers used, cached ones included: the same on every run."""
        return {"provider": "endpoint", **self._endpoint.facts()}

    def _content(self, utterance: Utterance, clues: Sequence[str]) -> Any:
        text = _ASK.format(text=utterance.text, emotion=utterance.emotion, clues=", ".join(clues) or "nothing more")
        if self._frames is None:
            return text
        url = _picture(self._frames[f"clip:{utterance.utterance_id}#peak"])
        picture = {"type": "image_url", "image_url": {"url": url}}
        return [picture, {"type": "text", "text": text}]


def _picture(frames: Any) -> str:
    """Return the first frame of (frames, height, width, 3) uint8 RGB as a PNG data URL."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(frames[0]).save(out, format="PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode("ascii")
