"""The tiny base model: loads offline like any InternVL, speaks InternVL2's format, and is made the same twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from emoverse.artifacts.digests import folder_files
from emoverse.config import TINY, BaseModelParams, MediaParams
from emoverse.models.base_model import base_model
from emoverse.models.tiny import SPECIAL, build_model, build_processor, tokens_per_frame, train_tokenizer

pytestmark = pytest.mark.slow

MEDIA = MediaParams(frames=2, size=32, crop="center", colour="grey-equalised", timeout=20.0)
PARAMS = BaseModelParams(source=TINY, seed=1, faces=12, face_epochs=1, sentences=12, dialogues=12, epochs=1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("base") / "base"
    base_model(out, PARAMS, MEDIA)
    return out


def test_the_same_seed_makes_the_same_bytes(base: Path, tmp_path: Path) -> None:
    base_model(tmp_path / "again", PARAMS, MEDIA)
    assert folder_files(tmp_path / "again") == folder_files(base)


def test_another_seed_makes_another_model(base: Path, tmp_path: Path) -> None:
    other = BaseModelParams(source=TINY, seed=2, faces=12, face_epochs=1, sentences=12, dialogues=12, epochs=1)
    base_model(tmp_path / "other", other, MEDIA)
    name = "model/model.safetensors"
    assert folder_files(tmp_path / "other")[name] != folder_files(base)[name]


def test_the_folder_holds_what_a_model_folder_holds_and_no_code(base: Path) -> None:
    processors = {"model/processor_config.json", "model/chat_template.jinja"}
    words = {"model/tokenizer.json", "model/tokenizer_config.json"}
    weights = {"model/config.json", "model/generation_config.json", "model/model.safetensors"}
    assert set(folder_files(base)) == processors | words | weights


def test_a_video_and_an_image_can_be_asked_about_with_auto_classes(base: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(base / "model", trust_remote_code=False)
    processor = AutoProcessor.from_pretrained(base / "model", trust_remote_code=False)
    frames = np.full((2, 32, 32, 3), 128, dtype=np.uint8)
    for kind, media in (("video", {"videos": [list(frames)]}), ("image", {"images": [frames[0]]})):
        messages = [{"role": "user", "content": [{"type": kind}, {"type": "text", "text": "Which mood is it?"}]}]
        text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        inputs = processor(text=[text], **media, return_tensors="pt")
        shown = (inputs["input_ids"] == processor.image_token_id).sum()
        assert shown == tokens_per_frame() * (2 if kind == "video" else 1)
        replies = model.generate(**inputs, max_new_tokens=3, do_sample=False)
        assert replies.shape[1] > inputs["input_ids"].shape[1]


def test_the_prompt_is_written_as_internvl2_writes_it(base: Path) -> None:
    tokenizer = AutoProcessor.from_pretrained(base / "model").tokenizer
    messages = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "<image>Q?"},
        {"role": "assistant", "content": "A."},
        {"role": "user", "content": "And <image> in words?"},
    ]
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nS<|im_end|><|im_start|>user\n<IMG_CONTEXT>\nQ?<|im_end|><|im_start|>assistant\nA.<|im_end|>"
        "<|im_start|>user\nAnd <image> in words?<|im_end|><|im_start|>assistant\n"
    )


def test_any_text_comes_back_from_the_tokenizer_and_special_tokens_are_single() -> None:
    tokenizer = train_tokenizer(["hello there"] * 3, 300)
    text = "naïve 你好 😀\n\ttabs  and <emotion> tags"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert all(len(tokenizer(token)["input_ids"]) == 1 for token in SPECIAL)


def test_frames_that_do_not_divide_into_patches_are_refused() -> None:
    tokenizer = train_tokenizer(["hello there"] * 3, 300)
    with pytest.raises(ValueError, match="30 px"):
        build_model(tokenizer, MediaParams(frames=1, size=30, timeout=1.0), seed=1)


def test_building_a_model_leaves_the_callers_random_numbers_alone() -> None:
    tokenizer = train_tokenizer(["hello there"] * 3, 300)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    build_model(tokenizer, MEDIA, seed=1)
    assert torch.equal(torch.rand(2), expected)


def test_the_pixels_of_pretraining_are_those_of_the_processor() -> None:
    from emoverse.models.tiny import _normalised

    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    processor = build_processor(train_tokenizer(["hello there"] * 3, 300), MEDIA)
    expected = processor.video_processor(videos=[frames], return_tensors="pt")["pixel_values_videos"][0]
    assert torch.allclose(_normalised(torch.tensor(frames)), expected, atol=1e-5)
