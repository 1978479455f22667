"""Reading and writing weights a tensor at a time."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from emoverse.models.checkpoint import open_checkpoint, read_header, read_tensor, write_shard
from emoverse.models.weights import Layout, native
from tests.factories.internvl2 import config, shapes, weights, write_checkpoint


def mixed() -> dict[str, torch.Tensor]:
    return {
        "b.odd": torch.arange(5, dtype=torch.float16),
        "a.wide": torch.randn(3, 4, dtype=torch.float64),
        "c.scalar": torch.tensor(2.5),
        "d.half": torch.randn(7, dtype=torch.bfloat16),
    }


def test_a_tensor_read_by_its_bytes_is_the_one_saved(tmp_path: Path) -> None:
    saved = mixed()
    save_file(saved, tmp_path / "x.safetensors")
    header = read_header(tmp_path / "x.safetensors")
    assert header.keys() == saved.keys()
    for name, tensor in saved.items():
        found = read_tensor(tmp_path / "x.safetensors", name)
        assert found.dtype == tensor.dtype
        assert torch.equal(found, tensor)


def test_a_file_written_in_any_order_is_what_the_library_would_write(tmp_path: Path) -> None:
    tensors = mixed()
    sources = {"one": ["c.scalar", "b.odd"], "two": ["d.half"], "three": ["a.wide"]}
    announced = {name: tensor.to("meta") for name, tensor in tensors.items()}
    write_shard(tmp_path / "x", announced, lambda s: {name: tensors[name] for name in sources[s]}, sources)
    save_file(tensors, tmp_path / "y", metadata={"format": "pt"})
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_a_tensor_that_was_announced_otherwise_is_our_mistake(tmp_path: Path) -> None:
    announced = {"a": torch.empty(2, 2, device="meta")}
    with pytest.raises(ValueError, match="not what was announced"):
        write_shard(tmp_path / "x", announced, lambda _: {"a": torch.zeros(4)}, ["a"])
    with pytest.raises(ValueError, match="never written"):
        write_shard(tmp_path / "x", announced, lambda _: {}, ["a"])


def test_grouped_attention_weights_are_cut_by_group() -> None:
    # 2 key heads, 3 queries each, heads of 1 row: the rows are q q q k v, q q q k v.
    rows = torch.arange(10.0)[:, None]
    found = native("language_model.model.layers.7.attention.wqkv.weight", rows, Layout(6, 2, grow=False, tied=False))
    base = "language_model.model.layers.7.self_attn."
    assert {k.removeprefix(base): v.flatten().tolist() for k, v in found.items()} == {
        "q_proj.weight": [0, 1, 2, 5, 6, 7],
        "k_proj.weight": [3, 8],
        "v_proj.weight": [4, 9],
    }


def test_the_video_row_is_the_mean_of_all_others() -> None:
    rows = torch.randn(9000, 3, dtype=torch.bfloat16)
    (found,) = native("language_model.output.weight", rows, Layout(1, 1, grow=True, tied=False)).values()
    assert torch.equal(found[:-1], rows)
    torch.testing.assert_close(found[-1].float(), rows.float().mean(0), atol=1e-3, rtol=1e-2)


def test_a_tied_head_is_written_out() -> None:
    found = native("language_model.model.embed_tokens.weight", torch.ones(2, 2), Layout(1, 1, grow=True, tied=True))
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == {
        "language_model.model.embed_tokens.weight": (3, 2),
        "language_model.lm_head.weight": (3, 2),
    }


@pytest.mark.parametrize("shards", [1, 3])
def test_headers_give_every_tensor_without_reading_one(shards: int, tmp_path: Path) -> None:
    settings = config("internlm2")
    opened = open_checkpoint(write_checkpoint(tmp_path, settings, shards=shards))
    assert {name: entry.shape for name, entry in opened.entries.items()} == shapes(settings)
    assert len(opened.shards) == shards


def test_numbered_shards_need_no_index(tmp_path: Path) -> None:
    settings = config("phi3")
    (write_checkpoint(tmp_path, settings, shards=2) / "model.safetensors.index.json").unlink()
    assert open_checkpoint(tmp_path).entries.keys() == shapes(settings).keys()


def test_shards_stay_shards_under_their_native_names(tmp_path: Path) -> None:
    from emoverse.models.convert import convert

    convert(write_checkpoint(tmp_path / "in", config("internlm2"), shards=3), tmp_path / "out")
    folder = tmp_path / "out/model"
    where = json.loads((folder / "model.safetensors.index.json").read_text("utf-8"))["weight_map"]
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    assert files == sorted(set(where.values())) == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    held = {name: file for file in files for name in load_file(folder / file)}
    assert held == where
    original = dict(weights(config("internlm2")))
    first = load_file(folder / where["vision_tower.embeddings.cls_token"])["vision_tower.embeddings.cls_token"]
    assert torch.equal(first, original["vision_model.embeddings.class_embedding"])
