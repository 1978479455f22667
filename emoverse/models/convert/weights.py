"""Give every tensor its native name (and, where layouts differ, its native pieces), one shard at a time.

The names are the ones ``save_pretrained`` writes and every release since 4.52 reads. Nothing is written before the
headers of all shards are known to give exactly the tensors the native model has: none missing, none left over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from emoverse.artifacts.manifest import write_json
from emoverse.errors import UserError
from emoverse.models.convert.checkpoint import INDEX, Checkpoint, read_tensor, write_shard

_LM: Final = "language_model.model."
_EMBED: Final = _LM + "embed_tokens.weight"
_HEAD: Final = "language_model.lm_head.weight"
_BLOCK: Final = r"vision_model\.encoder\.layers\.(\d+)\."
_NATIVE_BLOCK: Final = r"vision_tower.encoder.layer.\1."
_RENAMES: Final = [
    (re.compile(f"^{pattern}$"), target)
    for pattern, target in (
        (r"vision_model\.embeddings\.class_embedding", "vision_tower.embeddings.cls_token"),
        (r"vision_model\.embeddings\.position_embedding", "vision_tower.embeddings.position_embeddings"),
        (r"vision_model\.embeddings\.patch_embedding\.(.+)", r"vision_tower.embeddings.patch_embeddings.projection.\1"),
        (_BLOCK + r"attn\.proj\.(.+)", _NATIVE_BLOCK + r"attention.projection_layer.\2"),
        (_BLOCK + r"attn\.([qk]_norm\..+)", _NATIVE_BLOCK + r"attention.\2"),
        (_BLOCK + r"norm1\.(.+)", _NATIVE_BLOCK + r"layernorm_before.\2"),
        (_BLOCK + r"norm2\.(.+)", _NATIVE_BLOCK + r"layernorm_after.\2"),
        (_BLOCK + r"ls([12])", _NATIVE_BLOCK + r"lambda_\2"),
        (_BLOCK + r"(mlp\.fc[12]\..+)", _NATIVE_BLOCK + r"\2"),
        (r"mlp1\.0\.(.+)", r"multi_modal_projector.layer_norm.\1"),
        (r"mlp1\.1\.(.+)", r"multi_modal_projector.linear_1.\1"),
        (r"mlp1\.3\.(.+)", r"multi_modal_projector.linear_2.\1"),
        (r"language_model\.model\.tok_embeddings\.(.+)", _LM + r"embed_tokens.\1"),
        (r"language_model\.output\.(.+)", r"language_model.lm_head.\1"),
        (r"(language_model\.model\.layers\.\d+)\.attention\.wo\.(.+)", r"\1.self_attn.o_proj.\2"),
        (r"(language_model\.model\.layers\.\d+)\.feed_forward\.w1\.(.+)", r"\1.mlp.gate_proj.\2"),
        (r"(language_model\.model\.layers\.\d+)\.feed_forward\.w3\.(.+)", r"\1.mlp.up_proj.\2"),
        (r"(language_model\.model\.layers\.\d+)\.feed_forward\.w2\.(.+)", r"\1.mlp.down_proj.\2"),
        (r"(language_model\.model\.layers\.\d+)\.attention_norm\.(.+)", r"\1.input_layernorm.\2"),
        (r"(language_model\.model\.layers\.\d+)\.ffn_norm\.(.+)", r"\1.post_attention_layernorm.\2"),
        (r"(language_model\.(?:model|lm_head)\..+)", r"\1"),
    )
]
_VISION_QKV: Final = re.compile(f"^{_BLOCK}" + r"attn\.qkv\.(.+)$")
_WQKV: Final = re.compile(r"^(language_model\.model\.layers\.\d+)\.attention\.wqkv\.(.+)$")
# Older releases saved this constant of the rotary embedding with the weights.
_COMPUTED: Final = re.compile(r"rotary_emb\.inv_freq$")
_LORA: Final = re.compile(r"(\.lora_[AB]\.|\bbase_model\.)")
_ROWS: Final = 4096


@dataclass(frozen=True)
class Layout:
    """What naming depends on: heads of queries and of keys, whether ``<video>`` needs a row, whether heads are tied."""

    heads: int
    key_heads: int
    grow: bool
    tied: bool


def native(name: str, tensor: Tensor, layout: Layout) -> dict[str, Tensor]:
    """Return one original tensor under its native name(s); works on meta tensors too.

    InternLM2's ``wqkv`` holds, for each key head, its group's queries, the key and the value, so it is cut by group.
    """
    if _COMPUTED.search(name):
        return {}
    if match := _VISION_QKV.match(name):
        parts, base = tensor.chunk(3), f"vision_tower.encoder.layer.{match[1]}.attention"
        return {f"{base}.{x}_proj.{match[2]}": part for x, part in zip("qkv", parts, strict=True)}
    if match := _WQKV.match(name):
        group = layout.heads // layout.key_heads
        rows = tensor.reshape(layout.key_heads, group + 2, -1, *tensor.shape[1:])
        cuts = {"q": rows[:, :group], "k": rows[:, group], "v": rows[:, group + 1]}
        return {
            f"{match[1]}.self_attn.{x}_proj.{match[2]}": part.reshape(-1, *tensor.shape[1:]) for x, part in cuts.items()
        }
    for pattern, target in _RENAMES:
        if pattern.match(name):
            return _grown(pattern.sub(target, name), tensor, layout)
    return {f"original {name}": tensor}  # no native tensor is called so: it will be named as unexpected


def _grown(name: str, tensor: Tensor, layout: Layout) -> dict[str, Tensor]:
    if name not in (_EMBED, _HEAD):
        return {name: tensor}
    if layout.grow:
        tensor = torch.cat([tensor, _mean_row(tensor)])
    return {_EMBED: tensor, _HEAD: tensor} if name == _EMBED and layout.tied else {name: tensor}


def _mean_row(tensor: Tensor) -> Tensor:
    """Average the rows, some at a time: a float copy of a large embedding would be as large as a shard."""
    if tensor.is_meta:
        return tensor[:1]
    total = torch.zeros(tensor.shape[1], dtype=torch.float64)
    for start in range(0, len(tensor), _ROWS):
        total += tensor[start : start + _ROWS].double().sum(0)
    return (total / len(tensor)).to(tensor.dtype)[None]


def plan(
    checkpoint: Checkpoint, layout: Layout, expected: Mapping[str, tuple[int, ...]]
) -> dict[str, dict[str, Tensor]]:
    """Return, per shard, the native tensors it will give (as meta tensors), having compared them with the model's.

    ``expected`` is the native model's shape by on-disk name. Raises UserError for adapter weights and for a tensor that
    is missing, left over, or of another shape.
    """
    place = str(checkpoint.folder)
    if adapters := [name for name in checkpoint.entries if _LORA.search(name)]:
        remedy = "merge the adapter with the original code first"
        raise UserError(f"holds adapter weights that are not merged ({adapters[0]})", place=place, remedy=remedy)
    planned: dict[str, dict[str, Tensor]] = {file: {} for file in checkpoint.shards}
    origin: dict[str, str] = {}
    for file, entries in checkpoint.shards.items():
        for name, entry in entries.items():
            made = _try(name, torch.empty(entry.shape, dtype=entry.dtype, device="meta"), layout, place)
            if twice := sorted(made.keys() & origin.keys()):
                problem = f"{name} and {origin[twice[0]]} are both {twice[0]}"
                raise UserError(problem, place=str(checkpoint.folder / file), remedy="download the checkpoint again")
            origin.update(dict.fromkeys(made, name))
            planned[file].update(made)
    given = {name: tuple(tensor.shape) for shard in planned.values() for name, tensor in shard.items()}
    problems = [f"{name} is missing" for name in sorted(expected.keys() - given.keys())]
    problems += [f"{name} is unexpected" for name in sorted(given.keys() - expected.keys())]
    for name in sorted(given.keys() & expected.keys()):
        if given[name] != expected[name]:
            problems.append(f"{name} is {given[name]}, the config says {expected[name]}")
    if problems:
        shown = "; ".join(problems[:10]) + (f"; and {len(problems) - 10} more" if len(problems) > 10 else "")
        raise UserError(f"weights and config.json disagree: {shown}", place=place, remedy="download both again")
    return {file: shard for file, shard in planned.items() if shard}


def _try(name: str, tensor: Tensor, layout: Layout, place: str) -> dict[str, Tensor]:
    try:
        return native(name, tensor, layout)
    except (RuntimeError, ValueError) as error:
        problem = f"{name} {tuple(tensor.shape)} does not divide into the heads that config.json gives"
        raise UserError(problem, place=place, remedy="download both again") from error


def is_tied(checkpoint: Checkpoint) -> bool:
    """Say whether the output head is the embedding, stored once; raise UserError when two copies differ."""
    if not checkpoint.config["llm_config"].get("tie_word_embeddings", False):
        return False
    found = {name: (file, e) for file, shard in checkpoint.shards.items() for name, e in shard.items()}
    heads = [name for name in ("language_model.lm_head.weight", "language_model.output.weight") if name in found]
    embeds = [name for name in (_EMBED, _LM + "tok_embeddings.weight") if name in found]
    if heads and embeds:
        one, two = (read_tensor(checkpoint.folder / found[n][0], found[n][1]) for n in (heads[0], embeds[0]))
        if not torch.equal(one, two):
            problem = f"tie_word_embeddings is true, but {heads[0]} differs from {embeds[0]}"
            raise UserError(problem, place=str(checkpoint.folder), remedy="download the checkpoint again")
    return not heads


def write(
    checkpoint: Checkpoint,
    layout: Layout,
    planned: Mapping[str, Mapping[str, Tensor]],
    out: Path,
    *,
    done: Callable[[int], object] = lambda size: None,
) -> None:
    """Write the native shards, one for each original one, and their index; ``done`` is told each tensor's bytes.

    At no time is more than one original tensor, and what becomes of it, in memory.
    """
    where, total = {}, 0
    for number, (file, tensors) in enumerate(planned.items(), start=1):
        target = f"model-{number:05d}-of-{len(planned):05d}.safetensors" if len(planned) > 1 else "model.safetensors"
        write_shard(out / target, tensors, _loader(checkpoint, file, layout, done), checkpoint.shards[file])
        where.update(dict.fromkeys(tensors, target))
        total += sum(tensor.numel() * tensor.dtype.itemsize for tensor in tensors.values())
    if len(planned) > 1:
        write_json(out / INDEX, {"metadata": {"total_size": total}, "weight_map": where})


def _loader(
    checkpoint: Checkpoint, file: str, layout: Layout, done: Callable[[int], object]
) -> Callable[[str], Mapping[str, Tensor]]:
    entries, path = checkpoint.shards[file], checkpoint.folder / file

    def load(name: str) -> Mapping[str, Tensor]:
        made = native(name, read_tensor(path, entries[name]), layout)
        done(entries[name].end - entries[name].start)
        return made

    return load


def expected_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter of a native model (on the meta device) by its on-disk name."""
    return dict(_on_disk(model.state_dict()))


def _on_disk(state: Mapping[str, Tensor]) -> Iterator[tuple[str, tuple[int, ...]]]:
    for name, tensor in state.items():
        if name == "lm_head.weight":
            yield _HEAD, tuple(tensor.shape)
        elif name.startswith("model.language_model."):
            yield _LM + name.removeprefix("model.language_model."), tuple(tensor.shape)
        else:
            yield name.removeprefix("model."), tuple(tensor.shape)
