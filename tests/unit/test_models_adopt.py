"""InternVL2 itself as the base model: converted or copied, known by its content, refused with what to do."""

import json
from pathlib import Path

import pytest
from kfp import dsl

from components.convert import convert as convert_component
from components.import_base_model import import_base_model as adopt_component
from emoverse.artifacts.digests import dvc_dir_md5, folder_files, raw_sums
from emoverse.artifacts.manifest import open_source, read_manifest
from emoverse.config import BaseModelParams, MediaParams, plain
from emoverse.errors import UserError
from emoverse.models.architecture import check_model_folder
from emoverse.models.base_model import base_model
from tests.factories.answering import MEDIA, make_model
from tests.factories.training import make_converted


def adopt(source: Path, out: Path, media: MediaParams = MEDIA) -> Path:
    base_model(out, BaseModelParams(source=str(source)), media)
    return out


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_converted(tmp_path_factory.mktemp("phi3"), "phi3")


def test_an_original_checkpoint_becomes_the_base_model_and_its_content_is_in_the_lineage(
    converted: Path, tmp_path: Path
) -> None:
    out = adopt(converted.parent / "original", tmp_path / "base")
    assert folder_files(out / "model") == folder_files(converted / "model")
    manifest = read_manifest(out, made_by="base-model")
    raw = manifest["ancestry"][manifest["inputs"]["weights"]]
    assert raw["name"] == "weights"
    assert raw["dvc_md5"].endswith(".dir")
    assert manifest["facts"]["backbone"] == "Phi3ForCausalLM"
    assert str(tmp_path) not in (out / "manifest.json").read_text("utf-8")


def test_the_components_make_the_same_model_and_say_which_checkpoint_it_was(converted: Path, tmp_path: Path) -> None:
    original = converted.parent / "original"
    md5 = dvc_dir_md5(raw_sums(original)[1])
    adopted, made = (dsl.Model(uri=str(tmp_path / name)) for name in ("adopted", "made"))
    light = [dsl.Artifact(uri=str(tmp_path / name)) for name in ("adopted-light", "made-light")]
    fetched = dsl.Dataset(uri=str(tmp_path / "note"))
    Path(fetched.path).write_text(json.dumps({"folder": str(original), "dvc_md5": md5}), "utf-8")
    arguments = {"weights_md5": md5, "media": plain(MEDIA), "code_digest": "", "volume": str(tmp_path)}
    adopt_component.python_func(**arguments, weights=fetched, model=adopted, without_weights=light[0])
    assert adopted.metadata["raw"] == {"weights": md5}
    source = dsl.Model(uri=str(original))
    outputs = {"model": made, "without_weights": light[1]}
    convert_component.python_func(name="InternVL2-4B", source_digest="abc", code_digest="", source=source, **outputs)
    assert (made.metadata["checkpoint"], made.metadata["listing"]) == ("InternVL2-4B", "abc")
    for model, rest in zip((adopted, made), light, strict=True):
        assert open_source(Path(rest.path), weights=False).digest == rest.metadata["digest"] == model.metadata["digest"]
        assert folder_files(Path(model.path) / "model") == folder_files(converted / "model")
        assert model.metadata["digest"] == open_source(Path(model.path)).digest


def test_a_native_checkpoint_is_copied(converted: Path, tmp_path: Path) -> None:
    out = adopt(converted / "model", tmp_path / "base")
    assert folder_files(out / "model") == folder_files(converted / "model")
    check_model_folder(open_source(out).path / "model")


def test_the_same_weights_elsewhere_give_the_same_bytes(tmp_path: Path) -> None:
    first = adopt(make_model(tmp_path / "one") / "model", tmp_path / "first")
    second = adopt(make_model(tmp_path / "two") / "model", tmp_path / "second")
    assert (first / "manifest.json").read_bytes() == (second / "manifest.json").read_bytes()


def test_a_checkpoint_that_is_not_here_is_an_error_that_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="hf download OpenGVLab/InternVL2-4B") as caught:
        adopt(tmp_path / "InternVL2-4B", tmp_path / "base")
    assert "dvc pull" in caught.value.remedy


def test_frames_of_another_size_are_refused_before_anything_is_converted(converted: Path, tmp_path: Path) -> None:
    for source in (converted.parent / "original", converted / "model"):
        with pytest.raises(UserError, match=r"expects 32 pixels, media\.size is 64; set media\.size to 32"):
            adopt(source, tmp_path / "base", MediaParams(frames=2, size=64, timeout=20.0))
    assert not (tmp_path / "base").exists()


def test_a_native_folder_with_a_pickle_is_refused(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model") / "model"
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    with pytest.raises(UserError, match=r"pytorch_model\.bin could run code"):
        adopt(folder, tmp_path / "base")
