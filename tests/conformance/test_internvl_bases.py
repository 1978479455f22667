"""Native -hf checkpoints of every language model, as published, become the same form as converted ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from emoverse.artifacts.digests import folder_files
from emoverse.cli.__init__ import main
from emoverse.config import BaseModelParams, MediaParams
from emoverse.errors import UserError
from emoverse.models.base_model import base_model
from emoverse.models.convert import convert
from emoverse.models.tokenizers import IMAGE
from emoverse.prompt import Encoder, settings_of_model
from tests.factories.internvl2 import KINDS, config, write_checkpoint
from tests.factories.internvl_native import NATIVE_KINDS, SIDE, change, native_model, renamed, write_native

MEDIA = MediaParams(frames=2, size=SIDE, timeout=20.0)
FORM = [
    "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "preprocessor_config.json",
    "processor_config.json", "tokenizer.json", "tokenizer_config.json", "video_preprocessor_config.json",
]  # fmt: skip


def adopt(source: Path, out: Path) -> Path:
    base_model(out, BaseModelParams(source=str(source)), MEDIA)
    return out / "model"


def load(folder: Path) -> Any:
    from transformers import InternVLForConditionalGeneration

    model, info = InternVLForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


def answers(model: Any, image_token: int) -> tuple[torch.Tensor, list[int]]:
    """Return the logits of a prompt with three tiles, and the eight tokens that follow it greedily."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(3, 250, (1, 40), generator=generator)
    ids[:, 6:18] = image_token
    pixels = torch.randn(3, 3, SIDE, SIDE, generator=generator)
    model.config.image_token_id = image_token
    with torch.no_grad():
        logits = model(input_ids=ids, pixel_values=pixels).logits
        arguments = {"input_ids": ids, "pixel_values": pixels, "max_new_tokens": 8, "do_sample": False}
        written = model.generate(**arguments, eos_token_id=None)
    return logits, written[0, 40:].tolist()


@pytest.mark.parametrize("kind", NATIVE_KINDS)
def test_a_published_native_checkpoint_computes_the_same_in_our_form(kind: str, tmp_path: Path) -> None:
    original = native_model(kind)
    folder = adopt(write_native(tmp_path / "hf", original), tmp_path / "base")
    assert sorted(path.name for path in folder.iterdir()) == FORM
    model = load(folder)
    image_token = model.config.image_token_id
    expected, written = answers(original, image_token)
    logits, found = answers(model, image_token)
    assert expected.std() > 0.3
    torch.testing.assert_close(logits[..., : expected.shape[-1]], expected, atol=1e-4, rtol=0)
    assert found == written
    settings = settings_of_model(folder)
    assert (settings.tokens_per_frame, settings.size, settings.image_token) == (4, (SIDE, SIDE), IMAGE)


@pytest.mark.parametrize("options", [{"shards": 2}, {"new_names": True}, {"shards": 2, "new_names": True}])
def test_shards_and_newer_names_give_the_same_tensors(options: dict[str, Any], tmp_path: Path) -> None:
    one = load(adopt(write_native(tmp_path / "a", native_model("qwen3")), tmp_path / "one"))
    two = load(adopt(write_native(tmp_path / "b", native_model("qwen3"), **options), tmp_path / "two"))
    tensors = two.state_dict()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in one.state_dict().items())


def test_a_tied_native_head_is_written_out(tmp_path: Path) -> None:
    original = native_model("qwen3", tie_word_embeddings=True)
    model = load(adopt(write_native(tmp_path / "hf", original), tmp_path / "base"))
    expected, written = answers(original, model.config.image_token_id)
    logits, found = answers(model, model.config.image_token_id)
    torch.testing.assert_close(logits[..., : expected.shape[-1]], expected, atol=1e-4, rtol=0)
    assert found == written


def test_what_is_in_our_form_already_is_copied(tmp_path: Path) -> None:
    first = adopt(write_native(tmp_path / "hf", native_model("qwen3")), tmp_path / "one")
    assert folder_files(adopt(first, tmp_path / "two")) == folder_files(first)


@pytest.mark.parametrize("complete", [True, False])
def test_a_native_weight_that_is_not_a_number_is_named_copied_or_not(complete: bool, tmp_path: Path) -> None:
    folder = write_native(tmp_path / "hf", native_model("qwen3"))
    if complete:
        folder = adopt(folder, tmp_path / "one")
    tensors = load_file(folder / "model.safetensors")
    name = "language_model.model.layers.1.self_attn.k_norm.weight"
    tensors[name][3] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=rf"{name} holds NaN or infinite values"):
        adopt(folder, tmp_path / "base")
    assert not (tmp_path / "base").exists()


@pytest.mark.parametrize("place", ["chat_template.json", "tokenizer_config.json", "processor_config.json"])
def test_a_chat_template_is_read_from_wherever_a_release_kept_it(place: str, tmp_path: Path) -> None:
    folder = write_native(tmp_path / "hf", native_model("qwen3"))
    template = (folder / "chat_template.jinja").read_text("utf-8")
    (folder / "chat_template.jinja").unlink()
    if not (folder / place).is_file():
        (folder / place).write_text("{}", "utf-8")
    change(folder / place, chat_template=template)
    assert (adopt(folder, tmp_path / "base") / "chat_template.jinja").read_text("utf-8") == template


def conversation(encoder: Encoder) -> str:
    turns = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "<video>How?"},
        {"role": "assistant", "content": "good"},
        {"role": "user", "content": "why?"},
    ]
    ids, _ = encoder.conversation_ids(turns, [2])
    return str(encoder.tokenizer.decode(ids, skip_special_tokens=False))


@pytest.mark.parametrize("kind", ["qwen3", "qwen2"])
def test_original_and_native_layout_write_the_same_conversation(kind: str, tmp_path: Path) -> None:
    # InternVL2.5, 3 and 3.5: a line break after every turn's end, and no thinking
    original = write_checkpoint(tmp_path / "original", config(kind, template="internvl2_5"))
    convert(original, tmp_path / "converted")
    folders = [
        tmp_path / "converted/model",
        adopt(write_native(tmp_path / "hf", native_model(kind)), tmp_path / "base"),
    ]
    frames = "".join(f"Frame{i}: <img>{'<IMG_CONTEXT>' * 4}</img>\n" for i in (1, 2))
    written = (
        f"<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n{frames}How?<|im_end|>\n<|im_start|>assistant\n"
        "good<|im_end|>\n<|im_start|>user\nwhy?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert [conversation(Encoder(folder, settings_of_model(folder))) for folder in folders] == [written, written]


def test_qwen3s_own_template_gives_way_to_internvls(tmp_path: Path) -> None:
    folder = write_native(tmp_path / "hf", native_model("qwen3"))
    thinking = TEMPLATE_OF_QWEN3
    (folder / "chat_template.jinja").write_text(thinking, "utf-8")
    model = adopt(folder, tmp_path / "base")
    text = conversation(Encoder(model, settings_of_model(model)))
    assert "think" not in text
    assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")


TEMPLATE_OF_QWEN3 = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% if message.role == 'assistant' and loop.last %}"
    "<think>\n\n</think>\n\n{% endif %}{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def native_folder(tmp_path: Path) -> Path:
    return write_native(tmp_path / "hf", native_model("qwen3"))


def swap_names(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["mlp1.0.weight"] = tensors.pop("multi_modal_projector.layer_norm.weight")
    save_file(tensors, path, metadata={"format": "pt"})


def text_settings(**values: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        text = json.loads((folder / "config.json").read_text("utf-8"))["text_config"]
        change(folder / "config.json", text_config={**text, **values})

    return spoil


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (text_settings(model_type="gpt_oss"), r"unknown language model 'gpt_oss'.*docs/bases\.md#gpt-oss"),
        (text_settings(model_type="gemma3_text"), r"'gemma3_text'.*docs/bases\.md#not-supported"),
        (lambda f: change(f / "config.json", text_config=None), "has no text_config"),
        (lambda f: change(f / "config.json", vision_config=None), "has no vision_config"),
        (lambda f: change(f / "config.json", model_type="llava"), "'llava'"),
        (lambda f: change(f / "config.json", image_token_id=5), "image_token_id is 5, the tokenizer's"),
        (lambda f: change(f / "config.json", image_seq_length=256), "image_seq_length 256, a tile gives 4"),
        (lambda f: change(f / "config.json", quantization_config={"bits": 4}), "quantization_config"),
        (lambda f: (f / "model.safetensors").unlink(), "holds no"),
        (lambda f: (f / "preprocessor_config.json").unlink(), "how images are normalised"),
        (lambda f: (f / "tokenizer.json").unlink(), "holds no tokenizer files"),
        (lambda f: change(f / "preprocessor_config.json", size={"height": 448, "width": 448}), "resized to 448"),
        (lambda f: (f / "chat_template.jinja").write_text("{{ 1 }}", "utf-8"), "chat template cannot be followed"),
        (text_settings(hidden_size=32), "the config says"),
        (text_settings(num_hidden_layers=3, layer_types=None), r"layers\.2.*is missing"),
        (text_settings(num_hidden_layers=3), "a setting does not make a model"),
        (swap_names, "a mixture of layouts: config.json is of the native one, mlp1"),
    ],
)
def test_a_native_folder_that_cannot_be_a_base_is_refused_by_name(
    spoil: Callable[[Path], object], named: str, tmp_path: Path
) -> None:
    folder = native_folder(tmp_path)
    spoil(folder)
    with pytest.raises(UserError, match=named):
        adopt(folder, tmp_path / "base")
    assert not (tmp_path / "base").exists()


def test_the_command_refuses_an_unknown_language_model_with_its_row_in_the_docs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_checkpoint(tmp_path / "in", config("qwen3"))
    settings = config("qwen3", text={"architectures": ["GptOssForCausalLM"]})
    (folder / "config.json").write_text(json.dumps(settings), "utf-8")
    assert main(["convert", str(folder), str(tmp_path / "out")]) == 2
    assert "docs/bases.md#gpt-oss" in capsys.readouterr().err


def test_names_in_memory_and_on_disk_are_inverse() -> None:
    assert renamed("language_model.model.norm.weight") == "model.language_model.norm.weight"
    assert renamed("language_model.lm_head.weight") == "lm_head.weight"
    assert renamed("vision_tower.embeddings.cls_token") == "model.vision_tower.embeddings.cls_token"


def test_every_language_model_that_is_known_has_its_row_in_the_table_of_bases() -> None:
    from emoverse.models.architecture import LANGUAGE_MODELS

    table = (Path(__file__).resolve().parents[2] / "docs/bases.md").read_text("utf-8")
    rows = {*(row for _, _, row in LANGUAGE_MODELS.values()), "gpt-oss", "not-supported"}
    assert set(LANGUAGE_MODELS) == set(KINDS.values())
    assert {row for row in rows if f'<a id="{row}"></a>' in table} == rows
