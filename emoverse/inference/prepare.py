"""Make a batch ready for a model: frames, pixels and token ids."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from emoverse.errors import UserError
from emoverse.inference.encode import Encoder, Ids, Row


class Frames(Protocol):
    """What gives the frames of a reference; a ``FrameStore``, or a dictionary. One thread asks it at a time."""

    def __getitem__(self, reference: str, /) -> NDArray[np.uint8]:
        """Return uint8 RGB frames (n, height, width, 3)."""


def reference_of(row: Row) -> str:
    """Return the one frame reference that a row shows; raise UserError when it shows none or several."""
    shown = [*row.get("videos", ()), *row.get("images", ())]
    if len(shown) != 1:
        place = str(row.get("channel", "a row"))
        raise UserError(f"it shows {len(shown)} clips or images", place=place, remedy="a row shows exactly one")
    return str(shown[0])


@dataclass(frozen=True)
class Prepared:
    """Rows ready for a model: token ids, the digest of each row's frames, and pixels of the digests not known yet.

    ``indices`` are the rows' places among all rows asked; ``pixels`` are float32 (n, 3, height, width) by digest.
    """

    indices: list[int]
    ids: list[Ids]
    digests: list[str]
    pixels: dict[str, NDArray[np.float32]]


class Preparer:
    """Prepare rows with one model's encoder; remembers which reference has which frames."""

    def __init__(self, encoder: Encoder, frames: Frames) -> None:
        self.encoder, self.frames = encoder, frames
        self._seen: dict[str, tuple[str, int]] = {}  # reference -> digest of its pixels, number of frames

    def prepare(self, rows: Sequence[Row], indices: Sequence[int], known: Container[str]) -> Prepared:
        """Read what ``rows[i]`` of the indices show and ask; frames whose digest is ``known`` are not normalised."""
        asked = [rows[index] for index in indices]
        digests, counts = [], []
        pixels: dict[str, NDArray[np.float32]] = {}
        for row in asked:
            reference = reference_of(row)
            digest, count = self._seen.get(reference, ("", 0))
            if digest not in known and digest not in pixels:
                frames = self.frames[reference]
                digest, count = self._seen[reference] = _digest(frames), len(frames)
                if digest not in known and digest not in pixels:
                    pixels[digest] = self.encoder.pixels(frames, row)
            digests.append(digest)
            counts.append(count)
        return Prepared(list(indices), self.encoder.prompt_ids(asked, counts), digests, pixels)


def _digest(frames: NDArray[np.uint8]) -> str:
    return f"{frames.shape}{hashlib.blake2b(frames.tobytes(), digest_size=16).hexdigest()}"
