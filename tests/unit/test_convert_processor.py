"""The processor beside a converted model: pictures, videos and prompts as the original prepares them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from emoverse.models.convert import convert
from tests.factories.internvl2 import config, write_checkpoint

TOKENS = 4  # of one 56-pixel tile


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., Path]:
    def make(kind: str = "internlm2", **settings: Any) -> Path:
        convert(write_checkpoint(tmp_path / "in", config(kind, **settings)), tmp_path / "out")
        return tmp_path / "out/model"

    return make


def read(folder: Path) -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(folder)


def ask(*kinds: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [*({"type": kind} for kind in kinds), {"type": "text", "text": "how?"}]}]


@pytest.mark.parametrize("kind", ["qwen2", "internlm2", "phi3", "llama"])
def test_a_pictures_prompt_has_the_ids_of_the_originals_chat(kind: str, model: Callable[..., Path]) -> None:
    processor = read(model(kind))
    picture = Image.fromarray(np.full((56, 112, 3), 90, np.uint8))  # 2 tiles and the thumbnail
    text = processor.apply_chat_template(ask("image"), add_generation_prompt=True)
    found = processor(images=[picture], text=text)
    written = text.replace("<IMG_CONTEXT>", "<img>" + "<IMG_CONTEXT>" * TOKENS * 3 + "</img>")
    assert written.count("</img>\nhow?") == 1
    assert found["input_ids"][0] == processor.tokenizer(written).input_ids
    assert (found["input_ids"][0][0] == processor.tokenizer.bos_token_id) == (kind != "qwen2")
    assert len(found["pixel_values"]) == 3


def test_a_video_is_eight_frames_each_on_its_line(model: Callable[..., Path]) -> None:
    processor = read(model("phi3"))
    clip = np.zeros((20, 30, 40, 3), np.uint8)
    found = processor(
        videos=[clip],
        text=processor.apply_chat_template(ask("video"), add_generation_prompt=True),
        videos_kwargs={"video_metadata": [{"total_num_frames": 20, "fps": 10.0, "duration": 2.0}]},
    )
    frames = "".join(f"Frame{i}: <img>{'<IMG_CONTEXT>' * TOKENS}</img>\n" for i in range(1, 9))
    prompt = processor.apply_chat_template(ask("video"), add_generation_prompt=True).replace("<video>\n", frames)
    assert found["input_ids"][0] == processor.tokenizer(prompt).input_ids
    assert tuple(found["pixel_values"].shape) == (8, 3, 56, 56)


def test_pixels_are_normalised_as_imagenet(model: Callable[..., Path]) -> None:
    processor = read(model(max_dynamic_patch=1))
    picture = Image.fromarray(np.full((56, 56, 3), 51, np.uint8))
    found = processor(images=[picture], text="<IMG_CONTEXT>", return_tensors="np")["pixel_values"]
    expected = (0.2 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(found[0].mean((1, 2)), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "tiles"),
    [({}, 12), ({"max_dynamic_patch": 6}, 6), ({"dynamic_image_size": False, "use_thumbnail": False}, 1)],
)
def test_the_tile_limit_is_the_originals(settings: dict[str, Any], tiles: int, model: Callable[..., Path]) -> None:
    folder = model(**settings)
    assert json.loads((folder / "preprocessor_config.json").read_text("utf-8"))["max_patches"] == tiles
    picture = Image.fromarray(np.zeros((56, 56 * 12, 3), np.uint8))
    found = read(folder)(images=[picture], text="<IMG_CONTEXT>")["pixel_values"]
    assert len(found) == (tiles + 1 if tiles > 1 else 1)


def test_the_folder_holds_what_every_reader_looks_for_and_no_code(model: Callable[..., Path]) -> None:
    folder = model()
    assert sorted(path.name for path in folder.iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "video_preprocessor_config.json",
    ]
    assert not any("auto_map" in path.read_text("utf-8") for path in folder.glob("*.json"))
    video = json.loads((folder / "video_preprocessor_config.json").read_text("utf-8"))
    assert (video["num_frames"], video["do_sample_frames"], video["size"]) == (8, True, {"height": 56, "width": 56})


def test_generation_stops_at_the_templates_end_and_the_configs(model: Callable[..., Path]) -> None:
    from transformers import AutoTokenizer, GenerationConfig

    folder = model("phi3")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ends = GenerationConfig.from_pretrained(folder).eos_token_id
    assert ends == [tokenizer.convert_tokens_to_ids("<|end|>"), 2]


def test_the_same_checkpoint_gives_the_same_bytes(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "in", config("internlm2"), shards=2)
    for name in ("one", "two"):
        convert(source, tmp_path / name)
    one, two = ((tmp_path / name / "manifest.json").read_bytes() for name in ("one", "two"))
    assert one == two
