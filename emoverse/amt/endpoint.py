"""Ask an OpenAI-compatible endpoint for reasons: resumable, cached by content, within a rate, its spend counted.

``amt.reasons: endpoint:settings.json``; the settings are those of ``emoverse.endpoint``, and ``see_frames``.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from emoverse.corpora.base import Utterance
from emoverse.endpoint import Endpoint, EndpointSettings, read_settings
from emoverse.tasks.base import Reason
from emoverse.tasks.faces import phrases

_ASK: Final = (
    "This is the peak frame of a clip in which a person says: {words!r}. The person feels {emotion}. "
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
        self._endpoint, self._frames = Endpoint(settings), frames

    @classmethod
    def open(cls, path: Path, folders: Sequence[Path]) -> EndpointReasons:
        """Read the settings; raise UserError when they are broken."""
        settings = read_settings(Settings, path)
        frames = None
        if settings.see_frames:
            from emoverse.media.frames import FrameStore

            frames = FrameStore(folders)
        return cls(settings, frames)

    def of(self, one: Utterance, dialogue: Sequence[Utterance], units: Mapping[str, float] | None) -> Reason | None:
        """Return the endpoint's words; raise UserError when it cannot be reached or refuses."""
        if one.emotion is None:
            return None
        clues = [phrase.lower() for phrase in phrases(units, one.emotion)] if units is not None else []
        if one.polarity is not None:
            clues.append(f"the words sound {one.polarity}")
        text = self._endpoint.ask(self._content(one, clues))
        said_by = f"endpoint:{self._endpoint.settings.model}"
        return Reason(text=text, provider=said_by, clues=tuple(clues)) if text else None

    def facts(self) -> dict[str, Any]:
        """Return model, answers, tokens and spend of all answers used, cached ones included: the same on every run."""
        return {"provider": "endpoint", **self._endpoint.facts()}

    def _content(self, one: Utterance, clues: Sequence[str]) -> Any:
        text = _ASK.format(words=one.text, emotion=one.emotion, clues=", ".join(clues) or "nothing more")
        if self._frames is None:
            return text
        picture = {"type": "image_url", "image_url": {"url": _picture(self._frames[f"clip:{one.utterance_id}#peak"])}}
        return [picture, {"type": "text", "text": text}]


def _picture(frames: Any) -> str:
    """Return the first frame of (frames, height, width, 3) uint8 RGB as a PNG data URL."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(frames[0]).save(out, format="PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode("ascii")
