"""Prompts, tokens and pixels, held against the model folder's own processor."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from emoverse.errors import UserError
from emoverse.prompt import Encoder, Settings, settings_of_model
from tests.factories.answering import MEDIA, SYSTEM, make_model

PHI3 = (
    "{{ '<s>' }}{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("encode") / "model") / "model"


@pytest.fixture(scope="module")
def encoder(model):
    return Encoder(model, settings_of_model(model))


@pytest.fixture
def frames():
    return np.random.default_rng(0).integers(0, 256, (3, MEDIA.size, MEDIA.size, 3), dtype=np.uint8)


def row(question: str, *, media: str = "video", system: str | None = SYSTEM) -> dict:
    opening = [] if system is None else [{"role": "system", "content": system}]
    shown = {"videos": ["clip:x"], "images": []} if media == "video" else {"videos": [], "images": ["clip:x#peak"]}
    return {"messages": [*opening, {"role": "user", "content": f"<{media}>{question}"}], "channel": "one", **shown}


@pytest.mark.parametrize("media", ["video", "image"])
@pytest.mark.parametrize(
    "question", ["The person says: 'hello' <emotion> Please determine", "größer 🙂\n\n two  spaces "]
)
@pytest.mark.parametrize("system", [SYSTEM, None])
def test_ids_and_pixels_are_those_of_the_models_own_processor(model, encoder, frames, media, question, system):
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(model)
    shown = frames if media == "video" else frames[:1]
    turns = [] if system is None else [{"role": "system", "content": system}]
    turns.append({"role": "user", "content": [{"type": media}, {"type": "text", "text": question}]})
    text = processor.apply_chat_template(turns, add_generation_prompt=True)
    given = {"videos": [shown]} if media == "video" else {"images": [shown[0]]}
    theirs = processor(text=[text], return_tensors="pt", **given)

    ids = encoder.prompt_ids([row(question, media=media, system=system)], [len(shown)])[0]

    assert ids.tolist() == theirs["input_ids"][0].tolist()
    np.testing.assert_allclose(encoder.pixels(shown), theirs["pixel_values"].numpy(), atol=2e-6)


def test_a_video_is_written_frame_by_frame_and_an_image_alone(encoder):
    one = "<img><IMG_CONTEXT></img>\n"
    assert f"user\nFrame1: {one}Frame2: {one}What?" in encoder.prompt(row("What?"), 2)
    assert f"user\n{one}What?" in encoder.prompt(row("What?", media="image"), 1)


def test_an_answer_ends_with_the_token_that_closes_a_turn(encoder):
    ids = encoder.answer_ids("Joy.")
    assert ids[-1] == encoder.tokenizer.token_to_id("<|im_end|>")
    assert encoder.text(ids) == "Joy."


@pytest.mark.parametrize("token", ["<|im_end|>", "<|im_start|>", "<IMG_CONTEXT>", "</img>", "<video>", "<|endoftext|>"])
def test_words_that_hold_a_token_of_the_model_are_refused_with_the_rows_name(encoder, token):
    with pytest.raises(UserError, match=r"^one: "):
        encoder.prompt(row(f"he said {token} to me"), 2)


def test_a_row_that_shows_two_clips_is_refused(encoder):
    with pytest.raises(UserError, match="about one clip"):
        encoder.prompt(row("and <video> again"), 2)


def test_frames_of_another_size_are_refused_with_the_parameter_to_change(encoder):
    with pytest.raises(UserError, match=r"16x16 pixels, the model expects 32x32; set media\.size"):
        encoder.pixels(np.zeros((2, 16, 16, 3), np.uint8), {"channel": "one"})


def test_settings_survive_json(model):
    settings = settings_of_model(model)
    assert Settings.from_json(json.loads(json.dumps(settings.as_json()))) == settings


def test_markers_of_a_phi3_template_are_found(model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "phi3")
    (folder / "chat_template.jinja").write_text(PHI3, "utf-8")
    tree = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    tree["added_tokens"].append({**tree["added_tokens"][0], "id": 9999, "content": "<|end|>"})
    (folder / "tokenizer.json").write_text(json.dumps(tree), "utf-8")

    settings = settings_of_model(folder)

    assert settings.with_system == ("<s><|system|>\n", "<|end|><|user|>\n")
    assert (settings.before_answer, settings.end) == ("<|end|><|assistant|>\n", "<|end|>")
    assert 9999 in settings.stop


@pytest.mark.parametrize(
    ("template", "words"),
    [("{{ messages[0]['content'] }}", "cannot follow|can follow"), ("{% for %}", "can follow"), (None, "no such file")],
)
def test_a_chat_template_that_cannot_be_followed_is_named(model, tmp_path, template, words):
    folder = shutil.copytree(model, tmp_path / "odd")
    path: Path = folder / "chat_template.jinja"
    path.unlink()
    if template is not None:
        path.write_text(template, "utf-8")
    with pytest.raises(UserError, match=words) as caught:
        settings_of_model(folder)
    assert caught.value.place.endswith("chat_template.jinja")


def test_a_folder_of_another_kind_of_model_is_refused(model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "other")
    (folder / "config.json").write_text('{"model_type": "internvl_chat"}', "utf-8")
    with pytest.raises(UserError, match="internvl_chat"):
        settings_of_model(folder)
