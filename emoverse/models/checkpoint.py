"""Read a checkpoint's config and the headers of its weights before any tensor, and write weights tensor by tensor."""

from __future__ import annotations

import json
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from emoverse.errors import UserError

INDEX = "model.safetensors.index.json"
DTYPES: Final[dict[str, torch.dtype]] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
}
_NAMES: Final[dict[torch.dtype, str]] = {dtype: name for name, dtype in DTYPES.items()}
_INTEGERS: Final = ("I64", "U64", "I32", "U32", "I16", "U16", "BOOL")
# Constants that older releases saved with the weights; they are computed from the config.
_COMPUTED: Final = re.compile(r"(rotary_emb\.inv_freq|embeddings\.position_ids)$")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_NUMBERED = re.compile(r"^(?P<stem>.+)-\d{5}-of-(?P<total>\d{5})\.safetensors$")
_DOWNLOAD = "download the checkpoint again, all of its *.safetensors files"


@dataclass(frozen=True)
class Entry:
    """One stored tensor: its type and shape."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Its bytes."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint: its parsed config.json, and per weights file the tensors that its header lists."""

    folder: Path
    config: dict[str, Any]
    shards: dict[str, dict[str, Entry]]

    @property
    def entries(self) -> dict[str, Entry]:
        """All tensors of all shards by their original name."""
        return {name: entry for shard in self.shards.values() for name, entry in shard.items()}

    @property
    def dtype(self) -> str:
        """The type that most of the weights are stored in."""
        numbers: Counter[torch.dtype] = Counter()
        for entry in self.entries.values():
            numbers[entry.dtype] += torch.Size(entry.shape).numel()
        return str(numbers.most_common(1)[0][0]).removeprefix("torch.")

    def read(self, name: str) -> Tensor:
        """Read one tensor; raise UserError when it holds NaN or infinite values."""
        path = self.folder / next(file for file, entries in self.shards.items() if name in entries)
        return read_tensor(path, name)


def open_checkpoint(folder: Path) -> Checkpoint:
    """Open a checkpoint of either layout.

    Raises:
        UserError: There is no config, weights are pickled, a shard is missing, cut short or not what the index says,
            there are two sets of weights, or a tensor is stored twice or is not floating point.
    """
    if dangling := sorted(path.name for path in folder.iterdir() if path.is_symlink() and not path.exists()):
        problem = f"{', '.join(dangling)}: a link whose target is missing, as an incomplete download leaves it"
        raise UserError(problem, place=str(folder), remedy=_DOWNLOAD)
    config = read_json(folder / "config.json")
    shards = {name: read_header(folder / name) for name in weight_files(folder)}
    seen: dict[str, str] = {}
    for file, entries in shards.items():
        for name in entries:
            if name in seen:
                problem = f"{name} is stored here and in {seen[name]}"
                raise UserError(problem, place=str(folder / file), remedy=_DOWNLOAD)
            seen[name] = file
    index = folder / INDEX
    if index.is_file():
        _compare(index, _weight_map(index), seen)
    return Checkpoint(folder, config, shards)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of the checkpoint; raise UserError when it is missing or is not one."""
    try:
        value = json.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        remedy = "give the folder of an InternVL checkpoint, as downloaded"
        raise UserError("no such file", place=str(path), remedy=remedy) from None
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", place=str(path), remedy="download it again") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"not valid JSON ({error})", place=str(path), remedy="download it again") from None
    if not isinstance(value, dict):
        raise UserError("holds no JSON object", place=str(path), remedy="download it again")
    return value


def weight_files(folder: Path) -> list[str]:
    """List the weights files of a folder; raise UserError when one is missing or there is more than one set."""
    index = folder / INDEX
    shards = sorted(path.name for path in folder.glob("*.safetensors") if path.is_file())
    if adapter := next((name for name in shards if name.startswith("adapter_model")), None):
        remedy = "merge the adapter with the code that trained it, or move it elsewhere"
        raise UserError(f"{adapter} is an adapter that is not merged", place=str(folder), remedy=remedy)
    sets: dict[str, list[str]] = {}
    if index.is_file():
        listed = sorted(set(_weight_map(index).values()))
        if missing := [name for name in listed if name not in shards]:
            shown = ", ".join(missing)
            raise UserError(f"shard(s) missing that {INDEX} lists: {shown}", place=str(folder), remedy=_DOWNLOAD)
        sets[INDEX] = listed
    for name in shards:
        if name not in sets.get(INDEX, ()):
            match = _NUMBERED.match(name)
            sets.setdefault(f"{match['stem']}-*-of-{match['total']}.safetensors" if match else name, []).append(name)
    if len(sets) > 1:
        remedy = "keep the files of one set, and remove or move the others"
        raise UserError(f"has {len(sets)} sets of weights ({', '.join(sets)})", place=str(folder), remedy=remedy)
    if not sets:
        raise _no_weights(folder)
    (files,) = sets.values()
    _check_numbers(folder, files)
    return files


def _no_weights(folder: Path) -> UserError:
    if pickles := sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES):
        problem = f"its weights are pickles ({pickles[0]}), which run code when they are read"
        return UserError(problem, place=str(folder), remedy="get the safetensors version of the checkpoint")
    return UserError("holds no *.safetensors file", place=str(folder), remedy=_DOWNLOAD)


def _check_numbers(folder: Path, files: list[str]) -> None:
    # Without an index the numbering itself says which shards there should be.
    if match := _NUMBERED.match(files[0]):
        stem, total = match["stem"], match["total"]
        wanted = [f"{stem}-{i:05d}-of-{total}.safetensors" for i in range(1, int(total) + 1)]
        if missing := [name for name in wanted if name not in files]:
            raise UserError(f"shard(s) missing: {', '.join(missing)}", place=str(folder), remedy=_DOWNLOAD)


def _weight_map(index: Path) -> dict[str, str]:
    found = read_json(index).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(v, str) and "/" not in v for v in found.values()):
        raise UserError("has no weight_map from tensor to file", place=str(index), remedy=_DOWNLOAD)
    return found


def _compare(index: Path, wanted: Mapping[str, str], actual: Mapping[str, str]) -> None:
    for name in sorted(wanted.keys() | actual.keys()):
        if wanted.get(name) != actual.get(name) and not _COMPUTED.search(name):
            problem = f"{name} is in {actual.get(name) or 'no shard'}, the index says {wanted.get(name) or 'nothing'}"
            raise UserError(problem, place=str(index), remedy=_DOWNLOAD)


def read_header(path: Path) -> dict[str, Entry]:
    """List a file's tensors without reading them; raise UserError when it is broken or not floating point."""
    with path.open("rb") as handle:
        if handle.read(8) == b"version ":
            problem = "is a Git LFS pointer, not the weights"
            raise UserError(problem, place=str(path), remedy="run `git lfs pull` in the checkpoint's folder")
    try:
        with safe_open(path, framework="pt") as file:  # checks the header, the offsets and the file's length
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
            stored = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in parts.items()}
    except SafetensorError as error:
        problem = f"is not a whole safetensors file ({error})"
        raise UserError(problem, place=str(path), remedy="download the file again") from None
    entries: dict[str, Entry] = {}
    for name, (dtype, shape) in stored.items():
        if _COMPUTED.search(name):
            continue
        if dtype in _INTEGERS:
            problem = f"{name} is an integer tensor ({dtype}), which is no weight of an InternVL"
            raise UserError(problem, place=str(path), remedy="give the checkpoint without optimizer or loader state")
        if dtype not in DTYPES:
            problem = f"{name} is stored as {dtype}: quantised weights cannot be converted"
            raise UserError(problem, place=str(path), remedy="give the unquantised checkpoint")
        entries[name] = Entry(DTYPES[dtype], shape)
    return entries


def read_tensor(path: Path, name: str) -> Tensor:
    """Read one tensor; raise UserError when it holds NaN or infinite values, or the file has changed."""
    try:
        with safe_open(path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
    except SafetensorError as error:
        problem = f"changed while it was read ({error})"
        raise UserError(problem, place=str(path), remedy="leave it alone and run again") from None
    if tensor.numel() and not all(bound.isfinite() for bound in torch.aminmax(tensor)):
        remedy = "the training that wrote it diverged, or the file is damaged: give another checkpoint"
        raise UserError(f"{name} holds NaN or infinite values", place=str(path), remedy=remedy)
    return tensor


def write_shard(
    path: Path,
    tensors: Mapping[str, Tensor],
    load: Callable[[str], Mapping[str, Tensor]],
    sources: Iterable[str],
) -> None:
    """Write a file whose header is known beforehand, filling it source by source.

    safetensors' own writer wants a whole file's tensors in memory; this one holds one source at a time.

    Args:
        path: The file to write.
        tensors: Every tensor's shape and type (meta tensors will do).
        load: Returns the tensors that one of the ``sources`` gives; each goes to its own place, in any order.
        sources: What to load.
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
