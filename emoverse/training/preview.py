"""Estimate what a training takes before it starts."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from emoverse.artifacts.manifest import read_manifest
from emoverse.config import TrainParams
from emoverse.errors import UserError
from emoverse.media.frames import FrameStore
from emoverse.prompt import Encoder, settings_of_model
from emoverse.training.estimate import Row, plan, read_shapes
from emoverse.training.rows import check_lengths, check_media, frames_of_a_video, read_rows

LIKELY: Final = 0.4
"""Share of a device's matmul rate that training a large model reaches; a tiny one on a CPU stays below it."""
_SAMPLE: Final = 16  # rows read to time the frames
_UNITS: Final = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))


def preview(
    stage: str, model: Path, amt: Path, validated: Sequence[Path], params: TrainParams, rate: float | None = None
) -> dict[str, Any]:
    """Return `estimate.plan` of a stage with the expected time in seconds and the device.

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
    from emoverse.models.convert.native import check_model_folder  # it imports torch

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
