"""Map every tensor to its native name (and, where the layouts differ, to its native parts), one shard at a time.

The names are the ones that ``save_pretrained`` writes and every release since 4.52 reads. Nothing is read or written
before the headers of all shards are known to give exactly the tensors of the native model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from emoverse.artifacts.manifest import write_json
from emoverse.errors import UserError
from emoverse.models.checkpoint import INDEX, Checkpoint, read_tensor, write_shard

# The layout that a tensor's name belongs to.
_LAYOUTS: Final = {
    "original": re.compile(r"(vision_model|mlp1)\."),
    "native": re.compile(r"(model\.)?(vision_tower|multi_modal_projector)\.|model\.language_model\.|lm_head\."),
}
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
        # transformers' own names since 4.53, which it writes in the older form
        (r"model\.language_model\.(.+)", _LM + r"\1"),
        (r"model\.(vision_tower|multi_modal_projector)\.(.+)", r"\1.\2"),
        (r"lm_head\.(.+)", r"language_model.lm_head.\1"),
        (r"((?:vision_tower|multi_modal_projector|language_model\.(?:model|lm_head))\..+)", r"\1"),
    )
]
_VISION_QKV: Final = re.compile(f"^{_BLOCK}" + r"attn\.qkv\.(.+)$")
_WQKV: Final = re.compile(r"^(language_model\.model\.layers\.\d+)\.attention\.wqkv\.(.+)$")
_ADAPTER: Final = re.compile(
    r"\.lora_(A|B|embedding_[AB])\b|\bbase_model\.|\.(base_layer|modules_to_save|original_module)\."
)
_EXPERTS: Final = re.compile(r"model\.language_model\.(layers\.\d+\.mlp)\.experts\.(gate_up_proj|down_proj)$")
_HEADS: Final = (_HEAD, "language_model.output.weight", "lm_head.weight")
_EMBEDDINGS: Final = (_EMBED, _LM + "tok_embeddings.weight", "model.language_model.embed_tokens.weight")
_ROWS: Final = 4096


@dataclass(frozen=True)
class Layout:
    """What the names depend on: query and key heads, whether ``<video>`` needs a row, whether the head is tied."""

    heads: int
    key_heads: int
    grow: bool
    tied: bool


def native(name: str, tensor: Tensor, layout: Layout) -> dict[str, Tensor]:
    """Return a tensor under its native name(s); works on meta tensors too.

    InternLM2's ``wqkv`` holds, for each key head, its group's queries, the key and the value, so it is split by group.
    """
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


def plan_weights(
    checkpoint: Checkpoint, layout: Layout, expected: Mapping[str, tuple[int, ...]], *, kind: str
) -> dict[str, dict[str, Tensor]]:
    """Return, per shard, the native tensors it will give (as meta tensors), compared with the model's.

    Args:
        checkpoint: The headers of the weights.
        layout: What the names depend on.
        expected: The native model's shape by on-disk name.
        kind: The layout that config.json has, "original" or "native".

    Raises:
        UserError: The weights are of the other layout, an adapter's, missing, left over, or of another shape.
    """
    place = str(checkpoint.folder)
    _check_names(checkpoint.entries, kind, place)
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
    produced = {name: tuple(tensor.shape) for shard in planned.values() for name, tensor in shard.items()}
    problems = [f"{name} is missing" for name in sorted(expected.keys() - produced.keys())]
    problems += [f"{name} is unexpected" for name in sorted(produced.keys() - expected.keys())]
    for name in sorted(produced.keys() & expected.keys()):
        if produced[name] != expected[name]:
            problems.append(f"{name} is {produced[name]}, the config says {expected[name]}")
    if problems:
        shown = "; ".join(problems[:10]) + (f"; and {len(problems) - 10} more" if len(problems) > 10 else "")
        raise UserError(f"weights and config.json disagree: {shown}", place=place, remedy="download both again")
    return {file: shard for file, shard in planned.items() if shard}


def _check_names(names: Iterable[str], kind: str, place: str) -> None:
    """Raise UserError for an adapter's tensors, and for names of the layout that config.json is not of."""
    (other,) = (layout for layout in _LAYOUTS if layout != kind)
    for name in names:
        if _ADAPTER.search(name):
            remedy = "merge the adapter with the code that trained it first"
            raise UserError(f"holds an adapter's weights that are not merged ({name})", place=place, remedy=remedy)
        if _LAYOUTS[other].match(name):
            problem = f"a mixture of layouts: config.json is of the {kind} one, {name} of the {other} one"
            raise UserError(problem, place=place, remedy="take config.json and the weights from one folder")


def _try(name: str, tensor: Tensor, layout: Layout, place: str) -> dict[str, Tensor]:
    try:
        return native(name, tensor, layout)
    except (RuntimeError, ValueError) as error:
        problem = f"{name} {tuple(tensor.shape)} does not divide into the heads that config.json gives"
        raise UserError(problem, place=place, remedy="download both again") from error


def is_tied(checkpoint: Checkpoint, *, declared: bool) -> bool:
    """Return whether the output head is the embedding, stored once."""
    return declared and not any(name in checkpoint.entries for name in _HEADS)


def check_copies(checkpoint: Checkpoint) -> None:
    """Raise UserError when the config ties the output head to the embedding, but the two stored copies differ."""
    stored = checkpoint.entries
    heads, embeddings = ([name for name in names if name in stored] for names in (_HEADS, _EMBEDDINGS))
    if heads and embeddings and not torch.equal(checkpoint.read(heads[0]), checkpoint.read(embeddings[0])):
        problem = f"tie_word_embeddings is true, but {heads[0]} differs from {embeddings[0]}"
        raise UserError(problem, place=str(checkpoint.folder), remedy="download the checkpoint again")


def write(
    checkpoint: Checkpoint,
    layout: Layout,
    planned: Mapping[str, Mapping[str, Tensor]],
    out: Path,
    *,
    done: Callable[[int], object] = lambda size: None,
) -> None:
    """Write the native shards, one for each stored one, and their index.

    At no time is more than one stored tensor, with its native parts, in memory.

    Args:
        checkpoint: The checkpoint to read.
        layout: What the names depend on.
        planned: The native tensors by shard, from `plan_weights`.
        out: The model folder.
        done: Called with the bytes of each tensor that was read.
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
        made = native(name, read_tensor(path, name), layout)
        done(entries[name].size)
        return made

    return load


def expected_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter of a native model (on the meta device) by its on-disk name."""
    return dict(_on_disk(model.state_dict()))


def _on_disk(state: Mapping[str, Tensor]) -> Iterator[tuple[str, tuple[int, ...]]]:
    for name, tensor in state.items():
        shape = tuple(tensor.shape)
        if name == "lm_head.weight":
            yield _HEAD, shape
        elif match := _EXPERTS.match(name):
            # in memory all experts are one tensor, on disk each has its own
            for expert in range(shape[0]):
                base = f"{_LM}{match[1]}.experts.{expert}."
                if match[2] == "down_proj":
                    yield f"{base}down_proj.weight", shape[1:]
                else:
                    for part in ("gate_proj", "up_proj"):
                        yield f"{base}{part}.weight", (shape[1] // 2, shape[2])
        elif name.startswith("model.language_model."):
            yield _LM + name.removeprefix("model.language_model."), shape
        else:
            yield name.removeprefix("model."), shape
