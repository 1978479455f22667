"""Read an original checkpoint's config and the headers of all its shards, before a byte of weight is touched."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from emoverse.errors import UserError

INDEX = "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_NUMBERED = re.compile(r"^(?P<stem>.+)-(?P<index>\d{5})-of-(?P<total>\d{5})\.safetensors$")
_DOWNLOAD = "download the checkpoint again, all of its *.safetensors files"


@dataclass(frozen=True)
class Checkpoint:
    """An original checkpoint: its parsed config.json, and per shard file the tensors its header lists."""

    folder: Path
    config: dict[str, Any]
    shards: dict[str, dict[str, Entry]]

    @property
    def entries(self) -> dict[str, Entry]:
        """All tensors of all shards by their original name."""
        return {name: entry for shard in self.shards.values() for name, entry in shard.items()}


def open_checkpoint(folder: Path) -> Checkpoint:
    """Open an original InternVL2 folder.

    Raises UserError when there is no config, when weights are pickled, when a shard is missing, cut short or not what
    the index says, or when a tensor is stored twice or in a type that is not floating point.
    """
    config = read_json(folder / "config.json")
    shards = {name: read_header(folder / name) for name in _shard_names(folder)}
    seen: dict[str, str] = {}
    for file, entries in shards.items():
        for name in entries:
            if name in seen:
                raise UserError(
                    f"{name} is stored here and in {seen[name]}", place=str(folder / file), remedy=_DOWNLOAD
                )
            seen[name] = file
    index = folder / INDEX
    if index.is_file():
        _compare(index, _weight_map(index), seen)
    return Checkpoint(folder, config, shards)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of the checkpoint; raise UserError when it is missing or is not one."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        remedy = "give the folder of an original InternVL2 checkpoint, as downloaded"
        raise UserError("no such file", place=str(path), remedy=remedy) from None
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", place=str(path), remedy="download it again") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"not valid JSON ({error})", place=str(path), remedy="download it again") from None
    if not isinstance(value, dict):
        raise UserError("holds no JSON object", place=str(path), remedy="download it again")
    return value


def _shard_names(folder: Path) -> list[str]:
    index = folder / INDEX
    found = sorted(path.name for path in folder.glob("*.safetensors") if path.is_file())
    if index.is_file():
        wanted = sorted(set(_weight_map(index).values()))
        if missing := [name for name in wanted if name not in found]:
            shown = ", ".join(missing)
            raise UserError(f"shard(s) missing that {INDEX} lists: {shown}", place=str(folder), remedy=_DOWNLOAD)
        return wanted
    if not found:
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
        if pickles:
            problem = f"its weights are pickles ({pickles[0]}), which run code when they are read"
            remedy = "get the safetensors version of the checkpoint"
            raise UserError(problem, place=str(folder), remedy=remedy)
        raise UserError("holds no *.safetensors file", place=str(folder), remedy=_DOWNLOAD)
    _complete(folder, found)
    return found


def _complete(folder: Path, found: list[str]) -> None:
    # Without an index the numbering itself says which shards there should be.
    for name in found:
        if match := _NUMBERED.match(name):
            stem, total = match["stem"], int(match["total"])
            wanted = [f"{stem}-{i:05d}-of-{total:05d}.safetensors" for i in range(1, total + 1)]
            if missing := [other for other in wanted if other not in found]:
                raise UserError(f"shard(s) missing: {', '.join(missing)}", place=str(folder), remedy=_DOWNLOAD)


def _weight_map(index: Path) -> dict[str, str]:
    found = read_json(index).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(v, str) and "/" not in v for v in found.values()):
        raise UserError("has no weight_map from tensor to file", place=str(index), remedy=_DOWNLOAD)
    return found


def _compare(index: Path, wanted: Mapping[str, str], found: Mapping[str, str]) -> None:
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            problem = f"{name} is in {found.get(name) or 'no shard'}, the index says {wanted.get(name) or 'nothing'}"
            raise UserError(problem, place=str(index), remedy=_DOWNLOAD)


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
