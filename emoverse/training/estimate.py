"""Estimate the memory, operations and steps of a training from tensor shapes and row lengths.

torch's own counters would need the model in memory and do not count fused attention; a test compares the operations
and the activations that are kept for the backward pass with them. The rest is exact except for the allocator's
fragmentation and the libraries' own memory.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from emoverse.config import TrainParams
from emoverse.errors import UserError

PARTS: Final = ("language", "projector", "vision")
BYTES: Final = {"float32": 4, "bfloat16": 2, "float16": 2}
_LIVE: Final = 1_000_000_000  # weights; stage3_max_live_parameters in ms-swift's zero3.json
FP32: Final = 4  # bytes: LoRA weights, statistics of norms, the loss

_EXPERTS: Final = ".experts."


@dataclass(frozen=True)
class Row:
    """The size of a row: its tokens with image tokens, those of its answer, and its frames."""

    tokens: int
    answer: int
    frames: int


def steps_of(rows: int, params: TrainParams) -> int:
    """Return the number of optimizer steps of a stage."""
    steps_per_epoch = math.ceil(math.ceil(rows / (params.batch_size * params.processes)) / params.accumulation)
    return math.ceil(steps_per_epoch * params.epochs)


def trainable(shapes: Shapes, params: TrainParams) -> int:
    """Return the number of trained parameters: LoRA's two matrices per linear layer, or whole parts."""
    vision = ["vision"] * params.train_vision
    whole = ["projector"] * (params.projector == "full")
    if params.tuner == "full":
        return sum(count(shapes.part(part).values()) for part in ["language", *whole, *vision])
    parts = ["language", *(["projector"] * (params.projector == "lora")), *vision]
    adapters = params.lora_rank * sum(sum(shape) for part in parts for shape in shapes.adapted(part).values())
    return adapters + sum(count(shapes.part(part).values()) for part in whole)


def memory(shapes: Shapes, params: TrainParams, rows: Sequence[Row], *, checkpointing: bool) -> dict[str, int]:
    """Return bytes by purpose for the largest batch on each device, without those of CUDA and the libraries.

    Without ZeRO, gradients and AdamW's two moments have the trained weights' type: 32-bit for LoRA, the model's for
    full training.

    Args:
        shapes: The model's tensors.
        params: The stage's parameters.
        rows: Sizes of all rows.
        checkpointing: Whether only the inputs of layers are kept for the backward pass.
    """
    width = BYTES[params.dtype]
    trained, whole = trainable(shapes, params), count(shapes.tensors.values())
    added = trained if params.tuner == "lora" else 0
    if params.sharding == "none":
        own = FP32 if params.tuner == "lora" else width
        state = {"weights": whole * width + added * own, "gradients": trained * own, "optimizer": 2 * trained * own}
    else:
        state = _divided(params, whole + added, trained)
    heaviest = sorted(rows, key=lambda row: row.tokens)[-params.batch_size :]
    purposes = {
        **state,
        "activations": activations(shapes, params, heaviest, checkpointing=checkpointing),
        "loss": _loss(shapes, width, heaviest),
    }
    return {**purposes, "total": sum(purposes.values())}


def _divided(params: TrainParams, whole: int, trained: int) -> dict[str, int]:
    """Return bytes of weights, gradients and AdamW's moments on one of several GPUs under ZeRO.

    DeepSpeed casts all weights to the model's type and keeps a 32-bit copy of the trained ones beside the moments.
    Stage 3 gathers weights while they are needed, at most ms-swift's ``stage3_max_live_parameters``.
    """
    width, parts = BYTES[params.dtype], params.processes
    state = {"gradients": -(-trained * width // parts), "optimizer": -(-3 * trained * FP32 // parts)}
    if params.sharding == "zero2":
        return {"weights": whole * width, **state}
    return {"weights": -(-whole * width // parts), "gathered": min(whole, _LIVE) * width, **state}


def activations(shapes: Shapes, params: TrainParams, batch: Sequence[Row], *, checkpointing: bool) -> int:
    """Return the bytes of a batch that torch keeps for the backward pass; rows are padded to the longest.

    Args:
        shapes: The model's tensors.
        params: The stage's parameters.
        batch: Sizes of the batch's rows.
        checkpointing: Whether only each layer's input is kept, and one layer in full while it is recomputed.
    """
    text, width = shapes.text, BYTES[params.dtype]
    hidden, layers = int(text["hidden_size"]), int(text["num_hidden_layers"])
    inner, query = int(text["intermediate_size"]), shapes.query_width
    tokens = len(batch) * max(row.tokens for row in batch)
    # inputs (32 bits) and results of both norms; queries, keys, values and output of attention, keys and values
    # repeated for every head, once more for the output layer; the gate, its activation, the gated values, the product
    layer = 2 * hidden * FP32 + 2 * hidden * width + 5 * query * width + 4 * inner * width
    if params.tuner == "lora":
        # inputs of the LoRA layers: after dropout with a mask of bytes, or a 32-bit copy of a narrower type
        inputs = sum(shape[1] for name, shape in shapes.adapted("language").items() if ".layers.0." in name)
        outputs = sum(1 for name in shapes.adapted("language") if ".layers.0." in name) * params.lora_rank
        copied = FP32 + 1 if params.lora_dropout else FP32 if width < FP32 else 0
        layer += inputs * copied + outputs * FP32
    kept = tokens * (hidden * width * layers + layer if checkpointing else layer * layers)
    return kept + _vision(shapes, params, batch, width)


def _vision(shapes: Shapes, params: TrainParams, batch: Sequence[Row], width: int) -> int:
    """Return bytes kept of the frames: the projector's inputs, and the vision encoder's layers if it is trained."""
    frames = sum(row.frames for row in batch)
    projector = shapes.matrices("projector")
    kept = frames * shapes.tokens_per_frame * sum(sum(shape) for shape in projector.values()) * width
    if params.train_vision:
        vision = shapes.vision
        hidden, inner = int(vision["hidden_size"]), int(vision["intermediate_size"])
        layer = 2 * hidden * FP32 + 7 * hidden * width + 2 * inner * width
        kept += frames * shapes.patches * layer * int(vision["num_hidden_layers"])
    return kept


def _loss(shapes: Shapes, width: int, batch: Sequence[Row]) -> int:
    """Return bytes of a batch's logits: themselves, in 32 bits, their logarithms and gradient.

    They are computed from the first answer on: prompts are padded on the right, so answers are not aligned.
    """
    longest = max(row.tokens for row in batch)
    suffix = longest - min(row.tokens - row.answer for row in batch) + 1
    copies = 3 * FP32 if width == FP32 else 3 * FP32 + 2 * width
    return len(batch) * suffix * int(shapes.text["vocab_size"]) * copies


def flops(shapes: Shapes, params: TrainParams, rows: Sequence[Row]) -> int:
    """Return the floating-point operations of one epoch, without the recomputation of checkpointing.

    The forward pass takes 2 per weight and token, and so does the backward pass to each layer's input and to each
    trained weight (Kaplan et al., arXiv 2001.08361); a frozen vision encoder has no backward pass. Attention counts
    the half below the diagonal in the language model and all of it in the vision encoder.
    """
    text, vision = shapes.text, shapes.vision
    language, projector, encoder = (shapes.used_a_token(part) for part in PARTS)
    passes = 3 if params.tuner == "full" else 2
    adapters = 0 if params.tuner == "full" else 6 * trainable(shapes, params)
    heads = 2 * shapes.query_width * int(text["num_hidden_layers"])
    head = 2 * int(text["hidden_size"]) * int(text["vocab_size"])
    patch = 2 * (encoder + shapes.patch_weights) + 4 * shapes.patches * int(vision["hidden_size"]) * int(
        vision["num_hidden_layers"]
    )
    total = 0
    for row in rows:
        total += (
            row.tokens * (2 * language * passes + adapters) + 3 * heads * row.tokens**2 + row.answer * head * passes
        )
        total += row.frames * shapes.tokens_per_frame * 2 * projector * (2 if params.projector == "frozen" else passes)
        total += row.frames * shapes.patches * patch * (passes if params.train_vision else 1)
    return total


def plan(shapes: Shapes, params: TrainParams, rows: Sequence[Row], *, checkpointing: bool = False) -> dict[str, Any]:
    """Return the whole estimate as JSON-like values: parameters, data, memory in bytes, floating-point operations.

    Args:
        shapes: The model's tensors.
        params: The stage's parameters.
        rows: Sizes of all rows.
        checkpointing: Whether only the inputs of layers are kept for the backward pass.
    """
    parts = {part: count(shapes.part(part).values()) for part in reversed(PARTS)}
    tokens = sum(row.tokens for row in rows)
    by_checkpointing = {on: memory(shapes, params, rows, checkpointing=on) for on in (False, True)}
    return {
        "parameters": {**parts, "all": sum(parts.values()), "trained": trainable(shapes, params)},
        "rows": len(rows),
        "frames": sum(row.frames for row in rows),
        "tokens_an_epoch": tokens,
        "tokens": round(tokens * params.epochs),
        "longest_row": max(row.tokens for row in rows),
        "steps": steps_of(len(rows), params),
        "memory": by_checkpointing[checkpointing],
        "memory_with_checkpointing": by_checkpointing[True]["total"],
        "memory_without_checkpointing": by_checkpointing[False]["total"],
        "flops": round(flops(shapes, params, rows) * params.epochs),
    }


@dataclass(frozen=True)
class Shapes:
    """The shapes of a native InternVL's tensors by name, and the configs of its text and vision models."""

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
        """Width of a token's queries, all heads together."""
        heads = int(self.text["num_attention_heads"])
        return heads * int(self.text.get("head_dim") or int(self.text["hidden_size"]) // heads)

    def part(self, part: str) -> dict[str, tuple[int, ...]]:
        """Return the tensors of ``vision``, ``projector`` or ``language``."""
        return {name: shape for name, shape in self.tensors.items() if _part_of(name) == part}

    def matrices(self, part: str) -> dict[str, tuple[int, ...]]:
        """Return the weights of a part's linear layers, without embedding and head."""
        excluded = ("embed_tokens", "lm_head", "embeddings.")
        return {
            name: shape
            for name, shape in self.part(part).items()
            if name.endswith(".weight") and len(shape) == 2 and not any(word in name for word in excluded)
        }

    def adapted(self, part: str) -> dict[str, tuple[int, ...]]:
        """Return the weights of a part's linear layers that get an adapter: no experts, and not their router."""
        return {
            name: shape
            for name, shape in self.matrices(part).items()
            if _EXPERTS not in name and not name.endswith(".mlp.gate.weight")
        }

    def used_a_token(self, part: str) -> int:
        """Return the number of weights of a part's linear layers that a token meets: of experts, the chosen ones."""
        weights = self.matrices(part)
        experts = count(shape for name, shape in weights.items() if _EXPERTS in name)
        chosen, every = (int(self.text.get(key) or 1) for key in ("num_experts_per_tok", "num_experts"))
        return count(weights.values()) - experts + experts * chosen // every

    @property
    def patch_weights(self) -> int:
        """Weights of the convolution that embeds the patches."""
        return count(shape for shape in self.part("vision").values() if len(shape) == 4)


def count(shapes: Iterable[tuple[int, ...]]) -> int:
    """Return the number of elements of tensors of these shapes."""
    return sum(math.prod(shape) for shape in shapes)


def read_shapes(folder: Path) -> Shapes:
    """Read the shapes of a model folder from the headers of its weights.

    Raises:
        UserError: A file is cut off or not safetensors.
    """
    from safetensors import SafetensorError, safe_open

    config = json.loads((folder / "config.json").read_text("utf-8"))
    tensors: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "np") as file:
                tensors |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  (not a dictionary)
        except (SafetensorError, OSError) as error:
            remedy = "copy or convert the model again"
            raise UserError(f"not a whole safetensors file ({error})", place=str(path), remedy=remedy) from error
    return Shapes(tensors, config["text_config"], config["vision_config"], int(config["image_seq_length"]))


def _part_of(name: str) -> str:
    if "vision_tower" in name:
        return "vision"
    return "projector" if "multi_modal_projector" in name else "language"


def _pair(size: Any) -> tuple[int, int]:
    return (int(size[0]), int(size[1])) if isinstance(size, list) else (int(size), int(size))
