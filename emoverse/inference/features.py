"""Look at each clip once: vision features of distinct frames, kept while they fit."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from emoverse.errors import UserError
from emoverse.inference.encode import Encoder, Row

if TYPE_CHECKING:
    from emoverse.inference.engine import Backend


class Frames(Protocol):
    """What gives the frames of a reference; a ``FrameStore``, or a dictionary."""

    def __getitem__(self, reference: str, /) -> NDArray[np.uint8]:
        """Return uint8 RGB frames (n, height, width, 3)."""


KEPT_BYTES: Final = 1 << 28  # MELD's test set in 8 x 256 tokens would be tens of gigabytes


def reference_of(row: Row) -> str:
    """Return the one frame reference that a row shows; raise UserError when it shows none or several."""
    shown = [*row.get("videos", ()), *row.get("images", ())]
    if len(shown) != 1:
        place = str(row.get("channel", "a row"))
        raise UserError(f"it shows {len(shown)} clips or images", place=place, remedy="a row shows exactly one")
    return str(shown[0])


class FeatureCache:
    """Vision features by content, so that a clip serving several tasks, or all blank clips, are looked at once."""

    def __init__(self, backend: Backend, encoder: Encoder, frames: Frames) -> None:
        self.backend, self.encoder, self.frames = backend, encoder, frames
        self._digests: dict[str, str] = {}  # of the pixels, by reference
        self._kept: OrderedDict[str, Any] = OrderedDict()
        self._bytes = 0

    def of(self, rows: Sequence[Row]) -> list[Any]:
        """Return the features (frames, tokens, hidden) of each row, computing those not at hand in one batch."""
        digests: list[str] = []
        new: dict[str, NDArray[np.float32]] = {}
        for row in rows:
            digest = self._digests.get(reference_of(row), "")
            if digest not in self._kept and digest not in new:
                frames = self.frames[reference_of(row)]
                digest = self._digests[reference_of(row)] = _digest(frames)
                if digest not in self._kept and digest not in new:
                    new[digest] = self.encoder.pixels(frames, row)
            digests.append(digest)
        at_hand = {digest: self._kept[digest] for digest in digests if digest in self._kept}
        if new:
            found = self.backend.vision(np.concatenate(list(new.values())))
            parts = self.backend.split(found, [len(pixels) for pixels in new.values()])
            at_hand.update(zip(new, parts, strict=True))
        for digest in digests:
            self._keep(digest, at_hand[digest])
        return [at_hand[digest] for digest in digests]

    def _keep(self, digest: str, features: Any) -> None:
        if digest not in self._kept:
            self._bytes += self.backend.size(features)
        self._kept[digest] = features
        self._kept.move_to_end(digest)
        while self._bytes > KEPT_BYTES and len(self._kept) > 1:
            self._bytes -= self.backend.size(self._kept.popitem(last=False)[1])


def _digest(frames: NDArray[np.uint8]) -> str:
    return f"{frames.shape}{hashlib.blake2b(frames.tobytes(), digest_size=16).hexdigest()}"
