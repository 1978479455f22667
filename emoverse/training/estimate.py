"""Estimate what a training takes before it starts: memory, operations, steps and time.

Tensor shapes and row lengths are enough. torch's own counters would need the model in memory and do not count fused
attention; a test compares the operations and the activations that are kept for the backward pass with them. The rest is
exact except for the allocator's fragmentation and the libraries' own memory.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from emoverse.artifacts.manifest import read_manifest
from emoverse.config import TrainParams
from emoverse.errors import UserError
from emoverse.media.frames import FrameStore
from emoverse.prompt import Encoder, settings_of_model
from emoverse.training.rows import check_lengths, check_media, frames_of_a_video, read_rows

LIKELY: Final = 0.4
"""Share of a device's matmul rate that training a large model reaches; a tiny one on a CPU stays below it."""
_SAMPLE: Final = 16  # rows read to time the frames
_UNITS: Final = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))
PARTS: Final = ("language", "projector", "vision")
BYTES: Final = {"float32": 4, "bfloat16": 2, "float16": 2}
_LIVE: Final = 1_000_000_000  # weights; stage3_max_live_parameters in ms-swift's zero3.json
FP32: Final = 4  # bytes: LoRA weights, statistics of norms, the loss
_EXPERTS: Final = ".experts."


def preview(
    stage: str, model: Path, amt: Path, validated: Sequence[Path], params: TrainParams, rate: float | None = None
) -> dict[str, Any]:
    """Return `plan` of a stage with the expected time in seconds and the device.

    Args:
        stage: ``stage1`` or ``stage2``.
        model: Output of base-model or of a stage.
        amt: Output of build-amt.
        validated: Outputs of validate.
        params: The stage's parameters.
        rate: The device's floating-point operations a second; None measures a matmul here.

    Raises:
        UserError: The training itself would refuse its input.
    """
    for folder, step in ((model, ""), (amt, "build-amt"), *((folder, "validate") for folder in validated)):
        read_manifest(folder, made_by=step)
    weights = model / "model"
    from emoverse.models.architecture import check_model_folder  # it imports torch

    check_model_folder(weights)
    check_device(params)
    rows, frames = read_rows(amt / f"{stage}.jsonl"), FrameStore(validated)
    check_media(rows, frames)
    n_frames = frames_of_a_video(rows, frames)
    lengths = check_lengths(rows, weights, n_frames, params.max_length)
    encoder = Encoder(weights, settings_of_model(weights))
    answers = [len(encoder.answer_ids(row["messages"][-1]["content"])) for row in rows]
    costs = [
        Row(length, answer, n_frames if row["videos"] else 1)
        for row, length, answer in zip(rows, lengths, answers, strict=True)
    ]
    estimate = plan(read_shapes(weights), params, costs, checkpointing=params.gradient_checkpointing)
    measured, device, memory = _device(params.dtype)
    speed = rate or measured
    reading = _seconds_per_row(rows, frames, encoder)
    return {
        "stage": stage,
        **estimate,
        "device": {"name": device, "memory": memory, "flops_a_second": speed, "measured": rate is None},
        "seconds": {
            "at_full_rate": estimate["flops"] / speed,
            "likely": estimate["flops"] / (LIKELY * speed),
            "reading_frames": reading * len(rows) * params.epochs,
        },
    }


def _device(dtype: str) -> tuple[float, str, int]:
    """Return the rate of a square matmul, in operations a second, and the device's name and bytes of memory."""
    import torch

    cuda = torch.cuda.is_available()
    side = 8192 if cuda else 1024
    matrix = torch.ones(side, side, dtype=getattr(torch, dtype), device="cuda" if cuda else "cpu")
    best = float("inf")
    for _ in range(8):
        began = time.perf_counter()
        product = matrix @ matrix
        float(product[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - began)
    if cuda:
        return 2 * side**3 / best, torch.cuda.get_device_name(), int(torch.cuda.mem_get_info()[1])
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 2 * side**3 / best, f"CPU, {torch.get_num_threads()} threads", memory


def _seconds_per_row(rows: Sequence[Mapping[str, Any]], frames: FrameStore, encoder: Encoder) -> float:
    sample = rows[:: max(1, len(rows) // _SAMPLE)][:_SAMPLE]
    began = time.perf_counter()
    for row in sample:
        encoder.pixels(frames[(*row["videos"], *row["images"])[0]])
    return (time.perf_counter() - began) / len(sample)


def table(preview: Mapping[str, Any], budget: Mapping[str, Any]) -> str:
    """Return a preview as text; ``budget`` is `emoverse.budget.token_budget` of the same stage."""
    parameters, memory, device, seconds = (preview[key] for key in ("parameters", "memory", "device", "seconds"))
    parts = ", ".join(f"{name} {parameters[name]:,}" for name in ("vision", "projector", "language"))
    purposes = ", ".join(f"{name} {_bytes(value)}" for name, value in memory.items() if name != "total")
    source = "measured by a matmul" if device["measured"] else "as given"
    lines = [
        f"{preview['stage']}: estimate; nothing was trained",
        f"  model    {parameters['all']:,} parameters ({parts}); {parameters['trained']:,} trained",
        f"  data     {preview['rows']:,} rows, {preview['frames']:,} frames, "
        f"{preview['tokens_an_epoch']:,} tokens an epoch",
        f"  steps    {preview['steps']:,}, over {preview['tokens']:,} tokens",
        f"  memory   {_bytes(memory['total'])} at the heaviest batch: {purposes}",
        f"           {_bytes(preview['memory_with_checkpointing'])} with gradient checkpointing; "
        "CUDA and the libraries need about 1 GiB more",
        f"  device   {device['name']}, {_bytes(device['memory'])}, {_flops(device['flops_a_second'])}/s ({source})",
        f"  time     {_flops(preview['flops'])}: {_time(seconds['at_full_rate'])} at that rate, "
        f"{_time(seconds['likely'])} at {100 * LIKELY:.0f} % of it",
        f"           frames: {_time(seconds['reading_frames'])} of one core",
        f"  {'task':8} {'rows':>8} {'median':>8} {'longest':>8} {'above ' + str(budget['max_length']):>12}  tokens",
    ]
    for name, row in budget["tasks"].items():
        lines.append(f"  {name:8} {row['rows']:8,} {row['median']:8.0f} {row['longest']:8,} {row['over']:12,}")
    return "\n".join(lines)


def _bytes(value: float) -> str:
    return f"{value / 2**30:.1f} GiB" if value >= 2**30 else f"{value / 2**20:.1f} MiB"


def _flops(value: float) -> str:
    size, unit = next(((s, u) for s, u in _UNITS if value >= s), (1.0, ""))
    return f"{value / size:.3g} {unit}FLOP"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def check_device(params: TrainParams) -> None:
    """Raise UserError if there are fewer GPUs than ``gpus``, or a package that the parameters need is missing.

    Without any GPU several processes may share the CPU.
    """
    if params.sharding != "none" and find_spec("deepspeed") is None:
        problem = f"sharding is {params.sharding}, which needs the package deepspeed"
        raise UserError(
            problem,
            place="params.yaml",
            remedy="install it (`pip install 'emoverse[deepspeed]'`), or set train.sharding to none",
        )
    import torch  # takes seconds: after the checks that do without it

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus and gpus < params.gpus:
        problem = f"gpus is {params.gpus}, this machine has {gpus}"
        raise UserError(problem, place="params.yaml", remedy=f"set train.gpus to {gpus}")
    if params.attention == "flash_attention_2":
        requirements = {
            "a GPU": bool(gpus),
            "the package flash-attn": find_spec("flash_attn") is not None,
            "dtype bfloat16 or float16": params.dtype != "float32",
        }
        if missing := [name for name, met in requirements.items() if not met]:
            problem = f"attention is flash_attention_2, which needs {' and '.join(missing)}"
            raise UserError(
                problem, place="params.yaml", remedy="set train.attention to auto: it is taken where it runs"
            )


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
