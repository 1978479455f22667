"""Check that an export fits into memory before anything is loaded."""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from pathlib import Path
from typing import Final

from safetensors import safe_open

from emoverse.config import ExportParams, Precision
from emoverse.errors import UserError

# Bytes of a weight in a session. onnxruntime's CPU kernels compute float16 in float32 and keep converted weights.
SESSION_BYTES: Final[dict[Precision, float]] = {"fp32": 4.0, "fp16": 4.0, "int8": 1.2, "int4": 0.8}
FP32: Final = 4  # bytes
LIBRARIES: Final = 1 << 30  # bytes that torch, transformers and onnxruntime take by themselves


def memory_needed(model: Path, params: ExportParams, tokens: int, batch_size: int | None = None) -> int:
    """Return the bytes that an export needs at its peak.

    Graphs are written from float32 weights, of which the exporter keeps a copy. The comparison has torch's float32
    model and a session in memory, and the KV cache of a batch twice: appending to it makes a copy.

    Args:
        model: The model folder.
        params: Section ``export``.
        tokens: Length of the longest prompt and its reply.
        batch_size: Rows compared at a time, None for ``params.batch_size``.
    """
    rows = params.batch_size if batch_size is None else batch_size
    weights = 0
    for path in model.glob("*.safetensors"):
        with safe_open(path, "np") as file:
            weights += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    text = json.loads((model / "config.json").read_text("utf-8"))["text_config"]
    heads = int(text["num_attention_heads"])
    head = int(text.get("head_dim") or int(text["hidden_size"]) // heads)
    cache = 2 * int(text["num_hidden_layers"]) * int(text.get("num_key_value_heads") or heads) * head * FP32 * tokens
    scores = heads * tokens * tokens * FP32  # attention of one layer
    batch = rows * (2 * cache + scores + int(text["vocab_size"]) * FP32)
    session = max(SESSION_BYTES[precision] for precision in params.precision)
    return int(max(2 * weights * FP32, weights * (FP32 + session) + batch)) + LIBRARIES


def memory_available() -> int:
    """Return the bytes of memory that this process may still take: the machine's, or what its cgroup allows."""
    lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
    sizes = {name: int(rest.split()[0]) << 10 for name, _, rest in (line.partition(":") for line in lines)}
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and (text := limit.read_text("utf-8").strip()) != "max":
        return min(sizes["MemAvailable"], int(text) - int(used.read_text("utf-8")))
    return sizes["MemAvailable"]


def require_memory(model: Path, params: ExportParams, tokens: int, available: int | None = None) -> None:
    """Raise UserError, with the remedy, if an export does not fit into memory.

    Args:
        model: The model folder.
        params: Section ``export``.
        tokens: Length of the longest prompt and its reply.
        available: Bytes of memory; None asks the system.
    """
    available = memory_available() if available is None else available
    needed = memory_needed(model, params, tokens)
    if needed <= available:
        return
    sizes = range(1, params.batch_size)
    fitting = bisect_right(sizes, available, key=lambda size: memory_needed(model, params, tokens, size))
    remedy = f"set export.batch_size to {fitting}"
    if not fitting:
        remedy = f"export on a machine with {_gib(needed)} of free memory"
    problem = f"{', '.join(params.precision)} needs about {_gib(needed)} of memory, {_gib(available)} are available"
    raise UserError(problem, place="export", remedy=remedy)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
