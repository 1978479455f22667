"""Which model folders may be trained at all."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from emoverse.errors import UserError
from emoverse.models.architecture import check_model_folder
from tests.factories.answering import make_model


def configure(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}))


def test_a_native_model_in_safetensors_is_accepted(tmp_path: Path) -> None:
    check_model_folder(make_model(tmp_path / "base") / "model")


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda folder: (folder / "pytorch_model.bin").write_bytes(b"\x80\x02."), "could run code"),
        (lambda folder: (folder / "modeling_internvl_chat.py").write_text("print(1)"), "could run code"),
        (lambda folder: configure(folder, auto_map={"AutoModel": "x.Y"}), "remote code"),
        (lambda folder: configure(folder, model_type="internvl_chat"), "not a native InternVL"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"holds no \*\.safetensors file"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "not valid JSON"),
        (lambda folder: (folder / "processor_config.json").write_text('{"auto_map": {}}'), "requests remote code"),
        (lambda folder: os.truncate(folder / "model.safetensors", 9000), "not a whole safetensors file"),
    ],
)
def test_a_folder_with_code_pickles_or_holes_is_refused(
    tmp_path: Path, spoil: Callable[[Path], None], problem: str
) -> None:
    folder = make_model(tmp_path / "base") / "model"
    spoil(folder)
    with pytest.raises(UserError, match=problem):
        check_model_folder(folder)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "base") / "model"
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    with pytest.raises(UserError, match="model-00002-of-00002"):
        check_model_folder(folder)
