"""Look at each clip once: vision features of distinct frames, kept while they fit."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from emoverse.inference.prepare import Prepared

if TYPE_CHECKING:
    from emoverse.inference.engine import Backend

KEPT_BYTES: Final = 1 << 28  # MELD's test set in 8 x 256 tokens would be tens of gigabytes


class FeatureCache:
    """Vision features by content, so that a clip serving several tasks, or all blank clips, are looked at once.

    One thread at a time may use it.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._kept: OrderedDict[str, Any] = OrderedDict()
        self._bytes = 0

    def __contains__(self, digest: object) -> bool:
        """Tell whether the features of these frames are at hand."""
        return digest in self._kept

    def of(self, prepared: Prepared) -> list[Any]:
        """Return the features (frames, tokens, hidden) of each row, computing those not at hand in one batch."""
        at_hand = {digest: self._kept[digest] for digest in prepared.digests if digest in self._kept}
        new = {digest: pixels for digest, pixels in prepared.pixels.items() if digest not in at_hand}
        if new:
            found = self.backend.vision(np.concatenate(list(new.values())))
            parts = self.backend.split(found, [len(pixels) for pixels in new.values()])
            at_hand.update(zip(new, parts, strict=True))
        for digest in prepared.digests:
            self._keep(digest, at_hand[digest])
        return [at_hand[digest] for digest in prepared.digests]

    def _keep(self, digest: str, features: Any) -> None:
        if digest not in self._kept:
            self._bytes += self.backend.size(features)
        self._kept[digest] = features
        self._kept.move_to_end(digest)
        while self._bytes > KEPT_BYTES and len(self._kept) > 1:
            self._bytes -= self.backend.size(self._kept.popitem(last=False)[1])
