"""Read and write safetensors files one tensor at a time.

The safetensors library maps a whole file to read it and wants a whole file's tensors in memory to write it. A
checkpoint of 16 GB is to be converted on a laptop, so the bytes are moved here; the library still judges every file
that is read.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from emoverse.errors import UserError

DTYPES: Final[dict[str, torch.dtype]] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
}
_NAMES: Final[dict[torch.dtype, str]] = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: its type, its shape, and the bytes ``start`` to ``end`` from the file's beginning."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


def read_header(path: Path) -> dict[str, Entry]:
    """List a file's tensors without reading them; raise UserError when it is broken or not floating point."""
    remedy = "download the file again"
    with path.open("rb") as handle:
        head = handle.read(8)
        if head == b"version ":
            problem = "is a Git LFS pointer, not the weights"
            raise UserError(problem, place=str(path), remedy="run `git lfs pull` in the checkpoint's folder")
        try:
            with safe_open(path, framework="pt"):  # checks the header, the offsets and the file's length
                pass
        except SafetensorError as error:
            raise UserError(f"is not a whole safetensors file ({error})", place=str(path), remedy=remedy) from None
        (length,) = struct.unpack("<Q", head)
        header = json.loads(handle.read(length))
    header.pop("__metadata__", None)
    entries: dict[str, Entry] = {}
    for name, item in header.items():
        if item["dtype"] not in DTYPES:
            problem = f"{name} is stored as {item['dtype']}: quantised weights cannot be converted"
            raise UserError(problem, place=str(path), remedy="give the unquantised checkpoint")
        start, end = (8 + length + offset for offset in item["data_offsets"])
        entries[name] = Entry(DTYPES[item["dtype"]], tuple(item["shape"]), start, end)
    return entries


def read_tensor(path: Path, entry: Entry) -> Tensor:
    """Read one tensor into memory of its own."""
    data = np.fromfile(path, dtype=np.uint8, count=entry.end - entry.start, offset=entry.start)
    if data.size != entry.end - entry.start:
        raise UserError("became shorter while it was read", place=str(path), remedy="leave it alone and run again")
    return torch.from_numpy(data).view(entry.dtype).reshape(entry.shape)


def write_shard(
    path: Path,
    tensors: Mapping[str, Tensor],
    load: Callable[[str], Mapping[str, Tensor]],
    sources: Iterable[str],
) -> None:
    """Write a file whose header is known beforehand, filling it source by source.

    ``tensors`` gives every tensor's shape and type (meta tensors do); ``load(source)`` returns the tensors that one of
    the ``sources`` gives. Each is written to its own place, so their order does not matter.
    """
    # The format wants no holes; wide types first, in the library's order, keeps every tensor aligned.
    order = sorted(tensors, key=lambda name: (list(_NAMES).index(tensors[name].dtype), name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    begin, at = {}, 0
    for name in order:
        size = tensors[name].numel() * tensors[name].dtype.itemsize
        dtype = _NAMES[tensors[name].dtype]
        header[name] = {"dtype": dtype, "shape": list(tensors[name].shape), "data_offsets": [at, at + size]}
        begin[name], at = at, at + size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as handle:
        handle.write(struct.pack("<Q", len(text)) + text)
        data, left = handle.tell(), set(order)
        for source in sources:
            for name, tensor in load(source).items():
                if tensor.shape != tensors[name].shape or tensor.dtype != tensors[name].dtype:
                    raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, not what was announced")
                handle.seek(data + begin[name])
                handle.write(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
                left.remove(name)
    if left:
        raise ValueError(f"never written: {sorted(left)}")
