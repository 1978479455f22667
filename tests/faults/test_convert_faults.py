"""Checkpoints that cannot or must not be converted, each refused by name before anything is written."""

import json
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from emoverse.cli.__init__ import main
from emoverse.errors import UserError
from emoverse.models.convert import convert
from tests.factories.internvl2 import config, write_checkpoint

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., str]:
    """Convert what ``spoil`` made of a good checkpoint; return the refusal, having seen that nothing was left."""

    def run(spoil: Callable[[Path], object], kind: str = "internlm2", **written: Any) -> str:
        folder = write_checkpoint(tmp_path / "in", config(kind), **written)
        spoil(folder)
        with pytest.raises(UserError) as caught:
            convert(folder, tmp_path / "out")
        assert {path.name for path in tmp_path.iterdir()} <= {"in", ".out.lock"}
        assert caught.value.remedy
        return str(caught.value)

    return run


def setting(section: str = "", **values: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        whole = json.loads(path.read_text("utf-8"))
        (whole[section] if section else whole).update(values)
        path.write_text(json.dumps(whole), "utf-8")

    return change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (setting(ps_version="v1"), "ps_version 'v1'"),
        (setting(pad2square=True), "pad2square"),
        (setting(use_thumbnail=False), "use_thumbnail false"),
        (setting(use_backbone_lora=16), "use_backbone_lora 16"),
        (setting(use_llm_lora=16), "use_llm_lora 16"),
        (setting(quantization_config={"bits": 4}), "quantization_config"),
        (setting(select_layer=-9), "select_layer -9"),
        (setting(template="vicuna_v1.1"), "template 'vicuna_v1.1'"),
        (setting(model_type="internvl"), "has no text_config"),
        (setting(model_type="llava"), "model_type 'llava'"),
        (setting(llm_config=None), "has no llm_config"),
        (
            setting("llm_config", architectures=["Gemma2ForCausalLM"]),
            r"unknown language model 'Gemma2ForCausalLM'; see docs/bases\.md#not-supported",
        ),
        (setting("llm_config", rope_scaling={"type": "yarn", "factor": 2.0}), "rope_scaling 'yarn'"),
        (setting("llm_config", rope_scaling={"type": "linear"}), "without factor"),
        (setting("llm_config", rope_pos_id_version="v2pe"), "rope_pos_id_version"),
        (setting("llm_config", vocab_size=None), "llm_config.vocab_size None"),
        (setting("llm_config", hidden_size="wide"), "hidden_size"),
        (setting("llm_config", num_hidden_layers=3), "layers.2.*is missing"),
        (setting("llm_config", num_hidden_layers=1), "layers.1.*is unexpected"),
        (setting("llm_config", intermediate_size=32), "the config says"),
        (setting("vision_config", qkv_bias=False), "attention.k_proj.bias is unexpected"),
        (setting("vision_config", norm_type="batch_norm"), "norm_type 'batch_norm'"),
        (setting("vision_config", qk_normalization=True, layer_norm_eps=1e-5), "layer_norm_eps 1e-05"),
    ],
)
def test_a_setting_that_cannot_be_expressed_is_refused_by_name(
    change: Callable[[Path], object], named: str, refused: Callable[..., str]
) -> None:
    message = refused(change)

    assert re.search(named, message), message


@pytest.mark.parametrize(
    ("section", "key", "value", "named"),
    [
        ("", "downsample_ratio", "half", "downsample_ratio 'half': "),
        ("", "downsample_ratio", 0.3, "downsample_ratio 0.3"),
        ("", "force_image_size", 70, "5 x 5 patches does not shrink"),
        ("", "force_image_size", 7, "0 x 0 patches"),
        ("", "min_dynamic_patch", None, "min_dynamic_patch None: "),
        ("", "select_layer", "last", "select_layer 'last'"),
        ("", "torch_dtype", "int8", "torch_dtype 'int8'"),
        ("", "template", ["a"], "template"),
        ("vision_config", "hidden_act", "geelu", "vision_config.hidden_act 'geelu'"),
        ("vision_config", "patch_size", 0, "vision_config.patch_size 0: Input should be greater than 0"),
        ("vision_config", "num_attention_heads", 7, "48 does not divide into 7 heads"),
        ("llm_config", "num_key_value_heads", 3, "do not divide among 3 key heads"),
        ("llm_config", "num_hidden_layers", 10**12, "llm_config.num_hidden_layers"),  # would be built for hours
        ("llm_config", "rope_theta", "x", "llm_config.rope_theta 'x'"),
        (
            "llm_config",
            "rope_scaling",
            "dynamic",
            "llm_config.rope_scaling 'dynamic': Input should",
        ),
        (
            "llm_config",
            "rope_scaling",
            {"type": "dynamic", "factor": 0},
            "rope_scaling.factor 0 is not a number from 1",
        ),
        ("llm_config", "architectures", "Qwen2ForCausalLM", "llm_config.architectures 'Qwen2ForCausalLM'"),
        ("llm_config", "max_position_embeddings", 0, "max_position_embeddings 0"),
    ],
)
def test_a_setting_of_another_kind_is_named_before_a_model_is_built_from_it(
    section: str, key: str, value: Any, named: str, refused: Callable[..., str]
) -> None:
    assert named in refused(setting(section, **{key: value}))


@pytest.mark.parametrize("table", [[1.0], "wide", [1.0] * 7 + [-1.0]])
def test_a_longrope_table_of_the_wrong_length_is_refused(table: Any, refused: Callable[..., str]) -> None:
    scaling = {"type": "su", "short_factor": [1.0] * 8, "long_factor": table}
    assert "long_factor is not a list of 8 numbers" in refused(setting("llm_config", rope_scaling=scaling), "phi3")


@pytest.mark.parametrize("token", [5, {"id": 1}])
def test_a_special_token_without_a_text_is_refused(token: Any, refused: Callable[..., str]) -> None:
    def change(folder: Path) -> None:
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "bos_token": token}), "utf-8")

    assert "tokenizer_config.json: its tokens cannot be read" in refused(change)


def test_a_folder_in_the_place_of_a_file_is_named(refused: Callable[..., str]) -> None:
    def change(folder: Path) -> None:
        (folder / "config.json").unlink()
        (folder / "config.json").mkdir()

    assert "config.json: cannot be read (Is a directory)" in refused(change)


def test_all_refused_settings_are_named_at_once(refused: Callable[..., str]) -> None:
    message = refused(setting(ps_version="v1", pad2square=True, use_llm_lora=8))
    assert all(word in message for word in ("ps_version", "pad2square", "use_llm_lora"))


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_qwen_with_a_rope_that_its_original_may_not_know_is_refused(kind: str, refused: Callable[..., str]) -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    assert "rope_scaling 'yarn'" in refused(setting("llm_config", rope_scaling=scaling), kind)


@pytest.mark.parametrize("suffix", ["bin", "pt", "pth"])
def test_pickled_weights_are_never_opened(suffix: str, refused: Callable[..., str]) -> None:
    def pickle(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        # A pickle that would end this process: protocol 0, calling os._exit(7).
        (folder / f"pytorch_model.{suffix}").write_bytes(b"cos\n_exit\n(I7\ntR.")

    assert "pickles" in refused(pickle)


def test_remote_code_is_never_run(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "in", config("internlm2"))
    for name in ("modeling_internvl_chat", "configuration_internvl_chat", "tokenization_internlm2", "conversation"):
        (folder / f"{name}.py").write_text("import os\nos._exit(7)\n", "utf-8")
    settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    settings["auto_map"] = {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    assert main(["convert", str(folder), str(tmp_path / "out")]) == 0
    assert not list((tmp_path / "out/model").glob("*.py"))


def test_a_missing_shard_is_named(refused: Callable[..., str]) -> None:
    gone = "model-00002-of-00003.safetensors"
    assert gone in refused(lambda folder: (folder / gone).unlink(), shards=3)


def test_a_missing_shard_is_named_without_an_index_too(refused: Callable[..., str]) -> None:
    def spoil(folder: Path) -> None:
        (folder / "model-00002-of-00003.safetensors").unlink()
        (folder / "model.safetensors.index.json").unlink()

    assert "model-00002-of-00003.safetensors" in refused(spoil, shards=3)


def test_no_weights_at_all(refused: Callable[..., str]) -> None:
    assert "no *.safetensors" in refused(lambda folder: (folder / "model.safetensors").unlink())


def test_a_shard_cut_short_is_named(refused: Callable[..., str]) -> None:
    def cut(folder: Path) -> None:
        path = folder / "model-00002-of-00002.safetensors"
        path.write_bytes(path.read_bytes()[:-100])

    assert "model-00002-of-00002.safetensors" in refused(cut, shards=2)


def test_a_pointer_instead_of_weights_is_told_apart(refused: Callable[..., str]) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
    assert "git lfs pull" in refused(lambda folder: (folder / "model.safetensors").write_text(pointer, "utf-8"))


def test_an_index_that_lies_is_refused(refused: Callable[..., str]) -> None:
    def lie(folder: Path) -> None:
        path = folder / "model.safetensors.index.json"
        index = json.loads(path.read_text("utf-8"))
        index["weight_map"]["mlp1.0.weight"] = "model-00002-of-00002.safetensors"
        path.write_text(json.dumps(index), "utf-8")

    assert "mlp1.0.weight" in refused(lie, shards=2)


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("language_model.base_model.model.layers.0.lora_A.default.weight", "an adapter's weights"),
        ("language_model.model.layers.0.surprise.weight", "surprise.weight is unexpected"),
        (
            "multi_modal_projector.layer_norm.weight",
            "a mixture of layouts",
        ),
        ("language_model.lm_head.weight", "are both language_model.lm_head.weight"),
    ],
)
def test_a_tensor_too_many_is_named(name: str, named: str, refused: Callable[..., str]) -> None:
    def add(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        save_file({**tensors, name: torch.ones(2)}, folder / "model.safetensors")

    assert named in refused(add)


def test_quantised_weights_are_refused(refused: Callable[..., str]) -> None:
    def quantise(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        tensors["mlp1.1.weight"] = tensors["mlp1.1.weight"].to(torch.int8)
        save_file(tensors, folder / "model.safetensors")

    assert "mlp1.1.weight is stored as I8" in refused(quantise)


@pytest.mark.parametrize(
    ("value", "name", "dtype"),
    [
        (float("nan"), "mlp1.3.bias", "float32"),
        (float("nan"), "vision_model.encoder.layers.2.attn.qkv.weight", "bfloat16"),
        (float("inf"), "language_model.output.weight", "float16"),
        (-float("inf"), "language_model.model.layers.1.attention.wqkv.weight", "bfloat16"),
    ],
)
def test_a_weight_that_is_not_a_number_stops_the_conversion_and_is_named(
    value: float, name: str, dtype: str, refused: Callable[..., str]
) -> None:
    def spoil(folder: Path) -> None:
        tensors = {
            key: tensor.to(getattr(torch, dtype)) for key, tensor in load_file(folder / "model.safetensors").items()
        }
        tensors[name].view(-1)[-1] = value
        save_file(tensors, folder / "model.safetensors")

    assert f"model.safetensors: {name} holds NaN or infinite values" in refused(spoil)


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("language_model.model.layers.0.attention.wo.base_layer.weight", "an adapter's weights"),
        ("mlp1.1.modules_to_save.default.weight", "an adapter's weights"),
        ("mlp1.1.original_module.weight", "an adapter's weights"),
        ("lm_head.weight", "a mixture of layouts"),
        ("model.language_model.norm.weight", "a mixture of layouts"),
    ],
)
def test_a_tensor_of_a_wrapped_model_is_named_for_what_it_is(
    name: str, named: str, refused: Callable[..., str]
) -> None:
    def add(folder: Path) -> None:
        save_file({**load_file(folder / "model.safetensors"), name: torch.ones(2)}, folder / "model.safetensors")

    message = refused(add)
    assert named in message
    assert name in message


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.bool])
def test_an_integer_tensor_is_named(dtype: torch.dtype, refused: Callable[..., str]) -> None:
    def add(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        save_file({**tensors, "step": torch.ones(2, dtype=dtype)}, folder / "model.safetensors")

    assert "step is an integer tensor" in refused(add)


def test_computed_buffers_of_older_releases_are_passed_over(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "in", config("qwen2"))
    buffers = {"vision_model.embeddings.position_ids": torch.arange(17)}
    buffers["language_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    save_file({**load_file(folder / "model.safetensors"), **buffers}, folder / "model.safetensors")
    convert(folder, tmp_path / "out")
    assert not any("inv_freq" in name for name in load_file(tmp_path / "out/model/model.safetensors"))


@pytest.mark.parametrize("name", ["model.safetensors", "model-00001-of-00001.safetensors", "ema.safetensors"])
def test_two_sets_of_weights_are_refused(name: str, refused: Callable[..., str]) -> None:
    def add(folder: Path) -> None:
        shutil.copy(folder / "model-00001-of-00002.safetensors", folder / name)

    assert "has 2 sets of weights" in refused(add, shards=2)


def test_an_adapter_beside_the_weights_is_refused(refused: Callable[..., str]) -> None:
    def add(folder: Path) -> None:
        save_file({"lora_A.weight": torch.ones(2)}, folder / "adapter_model.safetensors")

    assert "adapter_model.safetensors is an adapter" in refused(add)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer_config.json", "conversation.py"])
def test_a_link_whose_target_is_missing_is_named(name: str, refused: Callable[..., str]) -> None:
    def dangle(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(folder / "blobs" / "0123")

    assert f"{name}: a link whose target is missing" in refused(dangle)


def test_what_a_download_leaves_in_its_cache_is_not_the_checkpoints_identity(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "in", config("qwen2"))
    convert(folder, tmp_path / "one")
    (folder / ".cache/huggingface/download").mkdir(parents=True)
    (folder / ".cache/huggingface/download/config.json.metadata").write_text("another time", "utf-8")
    convert(folder, tmp_path / "two")
    one, two = (json.loads((tmp_path / name / "manifest.json").read_text("utf-8")) for name in ("one", "two"))
    assert one == two


def test_two_heads_that_should_be_one_are_refused(refused: Callable[..., str]) -> None:
    assert "tie_word_embeddings is true, but" in refused(setting("llm_config", tie_word_embeddings=True))


@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer_config.json", "config.json"])
def test_a_missing_file_is_named(name: str, refused: Callable[..., str]) -> None:
    message = refused(lambda folder: (folder / name).unlink())
    assert name in message or "holds no tokenizer" in message


@pytest.mark.parametrize("junk", [b"", b"\x0a", b"\xff" * 40, b"not a model", struct.pack("<Q", 3)])
def test_a_broken_tokenizer_model_is_named(junk: bytes, refused: Callable[..., str]) -> None:
    assert "tokenizer.model" in refused(lambda folder: (folder / "tokenizer.model").write_bytes(junk))


@pytest.mark.parametrize(("name", "text"), [("merges.txt", "a b\nzz"), ("vocab.json", "{}"), ("merges.txt", "a zz\n")])
def test_tokenizer_files_that_do_not_fit_are_refused(name: str, text: str, refused: Callable[..., str]) -> None:
    message = refused(lambda folder: (folder / name).write_text(text, "utf-8"), "qwen2")
    assert "tokenizer" in message or "256 bytes" in message


def test_a_tokenizer_of_another_model_is_refused(refused: Callable[..., str]) -> None:
    assert "has no row" in refused(setting("llm_config", vocab_size=200))


def test_an_output_inside_its_source_is_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "in", config("qwen2"))
    for out in (folder, folder / "out", tmp_path):
        with pytest.raises(UserError, match="choose another output folder"):
            convert(folder, out)
    assert (folder / "config.json").is_file()


def test_an_output_of_before_survives_a_refusal(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "in", config("qwen2"))
    convert(folder, tmp_path / "out")
    before = (tmp_path / "out/manifest.json").read_bytes()
    setting(ps_version="v1")(folder)
    with pytest.raises(UserError):
        convert(folder, tmp_path / "out")
    assert (tmp_path / "out/manifest.json").read_bytes() == before


def test_weights_pass_through_memory_a_tensor_at_a_time(tmp_path: Path) -> None:
    # Twelve layers make a file of 77 MB whose largest tensor has 7 MB: a quarter of the file must be enough.
    text = {"hidden_size": 384, "intermediate_size": 4608, "num_hidden_layers": 12, "vocab_size": 300}
    folder = write_checkpoint(tmp_path / "in", config("internlm2", text=text))
    size = (folder / "model.safetensors").stat().st_size
    program = (
        "import re, sys; from pathlib import Path; from emoverse.models import convert as step\n"
        # not getrusage: that remembers the process this one was started from
        "def peak(): return 1024 * int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
        "ready = step.plan_conversion(Path(sys.argv[1])); before = peak(); out = Path(sys.argv[2]); out.mkdir()\n"
        "step.weights.write(ready.checkpoint, ready.layout, ready.planned, out); print(peak() - before)\n"
    )
    command = [sys.executable, "-c", program, str(folder), str(tmp_path / "out")]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True, cwd=REPO).stdout)
    assert size > 70e6
    assert grown < size / 2, grown
