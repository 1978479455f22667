"""Read a model folder's shapes from its config and the headers of its safetensors files; no weight is loaded."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from emoverse.errors import UserError

_HEADER_LIMIT: Final = 100_000_000  # bytes; safetensors' own limit


@dataclass(frozen=True)
class Shapes:
    """A native InternVL's tensors by name, its text model's sizes, and how many patches its tower sees in a frame."""

    tensors: dict[str, tuple[int, ...]]
    text: dict[str, Any]
    vision: dict[str, Any]
    tokens_per_frame: int

    @property
    def patches(self) -> int:
        """Patches of one frame, the class token included."""
        (height, width), (high, wide) = _pair(self.vision["image_size"]), _pair(self.vision["patch_size"])
        return (height // high) * (width // wide) + 1

    @property
    def query_width(self) -> int:
        """Width of a token's queries, all heads together; the keys' is this times ``kv_share``."""
        heads = int(self.text["num_attention_heads"])
        return heads * int(self.text.get("head_dim") or int(self.text["hidden_size"]) // heads)

    def part(self, room: str) -> dict[str, tuple[int, ...]]:
        """Return the tensors of ``vision``, ``projector`` or ``language``."""
        return {name: shape for name, shape in self.tensors.items() if _room(name) == room}

    def matrices(self, room: str) -> dict[str, tuple[int, ...]]:
        """Return the weights that multiply every token of a part: its linear layers, embedding and head aside."""
        aside = ("embed_tokens", "lm_head", "embeddings.")
        found = self.part(room).items()
        return {n: s for n, s in found if n.endswith(".weight") and len(s) == 2 and not any(a in n for a in aside)}

    @property
    def patch_weights(self) -> int:
        """Numbers in the convolution that every patch of a frame goes through first."""
        return count(shape for shape in self.part("vision").values() if len(shape) == 4)


def count(shapes: Iterable[tuple[int, ...]]) -> int:
    """Return how many numbers tensors of these shapes hold."""
    return sum(math.prod(shape) for shape in shapes)


def read_shapes(folder: Path) -> Shapes:
    """Read the shapes of a model folder; raise UserError for a file that is cut off or no safetensors."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    tensors: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        header = _header(path)
        tensors |= {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    return Shapes(tensors, config["text_config"], config["vision_config"], int(config["image_seq_length"]))


def _header(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as handle:
            (length,) = struct.unpack("<Q", handle.read(8))
            if length > _HEADER_LIMIT:
                raise ValueError(f"a header of {length} bytes")
            return dict(json.loads(handle.read(length)))
    except (ValueError, struct.error) as error:
        remedy = "copy or convert the model again"
        raise UserError(f"not a whole safetensors file ({error})", place=str(path), remedy=remedy) from error


def _room(name: str) -> str:
    if "vision_tower" in name:
        return "vision"
    return "projector" if "multi_modal_projector" in name else "language"


def _pair(size: Any) -> tuple[int, int]:
    return (int(size[0]), int(size[1])) if isinstance(size, list) else (int(size), int(size))
