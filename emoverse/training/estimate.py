"""Estimate what a training will need, from shapes and row lengths alone: memory, arithmetic, steps.

Activations are what torch keeps of each layer for the backward pass, counted layer by layer below; a test compares
them with what torch really keeps. The rest is exact but for the allocator's waste and what the libraries take.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from emoverse.config import TrainParams
from emoverse.errors import UserError

BYTES: Final = {"float32": 4, "bfloat16": 2, "float16": 2}
_LIVE: Final = 1_000_000_000  # weights; stage3_max_live_parameters in ms-swift's zero3.json
FULL: Final = 4  # bytes of a 32-bit float: LoRA weights, statistics of norms, the loss


@dataclass(frozen=True)
class Row:
    """What a row costs: its tokens with image tokens, those of its answer, and the frames it shows."""

    tokens: int
    answer: int
    frames: int


def steps_of(rows: int, params: TrainParams) -> int:
    """Return how many optimizer steps a stage of so many rows takes."""
    an_epoch = math.ceil(math.ceil(rows / (params.batch_size * params.gpus)) / params.accumulation)
    return math.ceil(an_epoch * params.epochs)


def trainable(shapes: Shapes, params: TrainParams) -> int:
    """Return how many numbers are trained: LoRA's two matrices beside each linear layer, or whole parts."""
    vision = ["vision"] * params.train_vision
    whole = ["projector"] * (params.projector == "full")
    if params.tuner == "full":
        return sum(count(shapes.part(room).values()) for room in ["language", *whole, *vision])
    rooms = ["language", *(["projector"] * (params.projector == "lora")), *vision]
    adapters = params.lora_rank * sum(sum(shape) for room in rooms for shape in shapes.matrices(room).values())
    return adapters + sum(count(shapes.part(room).values()) for room in whole)


def memory(shapes: Shapes, params: TrainParams, rows: Sequence[Row], *, checkpointing: bool) -> dict[str, int]:
    """Return bytes by purpose at the heaviest batch, on each device; what CUDA and the libraries take is not counted.

    Gradients and AdamW's two moments are of the trained weights' type, where ZeRO does not divide them: 32-bit for
    LoRA, the model's for full training.
    """
    width = BYTES[params.dtype]
    trained, whole = trainable(shapes, params), count(shapes.tensors.values())
    added = trained if params.tuner == "lora" else 0
    if params.sharding == "none":
        own = FULL if params.tuner == "lora" else width
        state = {"weights": whole * width + added * own, "gradients": trained * own, "optimizer": 2 * trained * own}
    else:
        state = _divided(params, whole + added, trained)
    heaviest = sorted(rows, key=lambda row: row.tokens)[-params.batch_size :]
    found = {
        **state,
        "activations": activations(shapes, params, heaviest, checkpointing=checkpointing),
        "loss": _loss(shapes, width, heaviest),
    }
    return {**found, "total": sum(found.values())}


def _divided(params: TrainParams, whole: int, trained: int) -> dict[str, int]:
    """Return bytes of weights, gradients and AdamW's moments that one of several GPUs holds under ZeRO.

    DeepSpeed makes all weights of the model's type and keeps a 32-bit copy of the trained ones beside the moments.
    Stage 3 gathers weights for a while as they are needed: at most so many as ms-swift's settings let live.
    """
    width, parts = BYTES[params.dtype], params.gpus
    state = {"gradients": -(-trained * width // parts), "optimizer": -(-3 * trained * FULL // parts)}
    if params.sharding == "zero2":
        return {"weights": whole * width, **state}
    return {"weights": -(-whole * width // parts), "gathered": min(whole, _LIVE) * width, **state}


def activations(shapes: Shapes, params: TrainParams, batch: Sequence[Row], *, checkpointing: bool) -> int:
    """Return the bytes torch keeps of a batch for the backward pass; rows are padded to the longest.

    With checkpointing only each layer's input is kept, and one layer in full while it is computed again.
    """
    text, width = shapes.text, BYTES[params.dtype]
    hidden, layers = int(text["hidden_size"]), int(text["num_hidden_layers"])
    inner, query = int(text["intermediate_size"]), shapes.query_width
    tokens = len(batch) * max(row.tokens for row in batch)
    # both norms' inputs in 32 bits and results; queries, keys, values and the answer of attention, keys and values
    # repeated for every head, once more for the output layer; the gate, its activation, what it gates, the product
    layer = 2 * hidden * FULL + 2 * hidden * width + 5 * query * width + 4 * inner * width
    if params.tuner == "lora":
        # what goes into LoRA's own layers: behind dropout, with a mask of bytes, or a 32-bit copy of fewer bits
        inputs = sum(shape[1] for name, shape in shapes.matrices("language").items() if ".layers.0." in name)
        outputs = sum(1 for name in shapes.matrices("language") if ".layers.0." in name) * params.lora_rank
        copied = FULL + 1 if params.lora_dropout else FULL if width < FULL else 0
        layer += inputs * copied + outputs * FULL
    kept = tokens * (hidden * width * layers + layer if checkpointing else layer * layers)
    return kept + _seen(shapes, params, batch, width)


def _seen(shapes: Shapes, params: TrainParams, batch: Sequence[Row], width: int) -> int:
    """Return what is kept of the frames: the projector's inputs, and the tower's layers where the tower is trained."""
    frames = sum(row.frames for row in batch)
    projector = shapes.matrices("projector")
    kept = frames * shapes.tokens_per_frame * sum(sum(shape) for shape in projector.values()) * width
    if params.train_vision:
        vision = shapes.vision
        hidden, inner = int(vision["hidden_size"]), int(vision["intermediate_size"])
        layer = 2 * hidden * FULL + 7 * hidden * width + 2 * inner * width
        kept += frames * shapes.patches * layer * int(vision["num_hidden_layers"])
    return kept


def _loss(shapes: Shapes, width: int, batch: Sequence[Row]) -> int:
    """Return bytes of the logits (themselves, in 32 bits, their logarithms, their gradient) of a batch.

    They are computed from the first answer on: prompts are padded on the right, so answers do not line up.
    """
    longest = max(row.tokens for row in batch)
    suffix = longest - min(row.tokens - row.answer for row in batch) + 1
    copies = 3 * FULL if width == FULL else 3 * FULL + 2 * width
    return len(batch) * suffix * int(shapes.text["vocab_size"]) * copies


def flops(shapes: Shapes, params: TrainParams, rows: Sequence[Row]) -> int:
    """Return the floating-point operations of one epoch that the model needs, recomputation for checkpointing aside.

    Forward costs 2 a weight and token, and so does the backward pass to each layer's input and to each trained weight
    (Kaplan et al., arXiv 2001.08361); a frozen tower has no backward pass. Attention counts the half below the
    diagonal in the language model and all of it in the tower.
    """
    text, vision = shapes.text, shapes.vision
    language, projector, tower = (count(shapes.matrices(r).values()) for r in ("language", "projector", "vision"))
    learns = 3 if params.tuner == "full" else 2
    adapters = 0 if params.tuner == "full" else 6 * trainable(shapes, params)
    heads = 2 * shapes.query_width * int(text["num_hidden_layers"])
    head = 2 * int(text["hidden_size"]) * int(text["vocab_size"])
    patch = 2 * (tower + shapes.patch_weights) + 4 * shapes.patches * int(vision["hidden_size"]) * int(
        vision["num_hidden_layers"]
    )
    total = 0
    for row in rows:
        total += (
            row.tokens * (2 * language * learns + adapters) + 3 * heads * row.tokens**2 + row.answer * head * learns
        )
        total += row.frames * shapes.tokens_per_frame * 2 * projector * (2 if params.projector == "frozen" else learns)
        total += row.frames * shapes.patches * patch * (learns if params.train_vision else 1)
    return total


def plan(shapes: Shapes, params: TrainParams, rows: Sequence[Row], *, checkpointing: bool = False) -> dict[str, Any]:
    """Return the whole estimate as JSON-like values: parameters, data, memory in bytes, floating-point operations."""
    parts = {room: count(shapes.part(room).values()) for room in ("vision", "projector", "language")}
    tokens = sum(row.tokens for row in rows)
    kept = {name: memory(shapes, params, rows, checkpointing=on) for name, on in (("without", False), ("with", True))}
    return {
        "parameters": {**parts, "all": sum(parts.values()), "trained": trainable(shapes, params)},
        "rows": len(rows),
        "frames": sum(row.frames for row in rows),
        "tokens_an_epoch": tokens,
        "tokens": round(tokens * params.epochs),
        "longest_row": max(row.tokens for row in rows),
        "steps": steps_of(len(rows), params),
        "memory": kept["with" if checkpointing else "without"],
        "memory_with_checkpointing": kept["with"]["total"],
        "memory_without_checkpointing": kept["without"]["total"],
        "flops": round(flops(shapes, params, rows) * params.epochs),
    }


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
