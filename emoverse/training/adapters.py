"""Continue an earlier stage's adapter, and merge a trained one into its model."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Final

from emoverse.artifacts.manifest import Source, open_source
from emoverse.config import TrainParams
from emoverse.errors import UserError

_KEYS: Final = {"r": "lora_rank", "lora_alpha": "lora_alpha"}
# Files that training does not change, copied from the model that was trained.
_UNCHANGED: Final = (
    "tokenizer*", "chat_template*", "*processor_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "generation_config.json",
)  # fmt: skip


def adapter_base(stage: Source, base: Path | None, params: TrainParams) -> Source:
    """Open the base model that the adapter of ``stage`` belongs to.

    Raises:
        UserError: There is no base or a different one, or the adapter differs from the parameters.
    """
    place = str(stage.path)
    made_by = f"{stage.manifest['step']} {stage.manifest['name']}"
    if stage.manifest["step"] != "train":
        remedy = "set start: merged for a stage that starts from a base model"
        raise UserError(f"start: adapter, but {made_by!r} has no adapter", place=place, remedy=remedy)
    if base is None:
        raise UserError("start: adapter needs the base model too", place=place, remedy="give it with --base")
    source = open_source(base)
    if source.digest != stage.manifest["inputs"].get("base", stage.manifest["inputs"]["model"]):
        raise UserError(f"the adapter was not trained on {base}", place=place, remedy="give its base model")
    path = stage.path / "adapter" / "adapter_config.json"
    if not path.is_file():
        remedy = "set start: merged, as the stage before trained every weight"
        raise UserError("start: adapter, but the stage has no adapter", place=place, remedy=remedy)
    config = json.loads(path.read_text("utf-8"))
    expected = {key: getattr(params, name) for key, name in _KEYS.items()}
    differing = [f"{_KEYS[key]} {config.get(key)}" for key, value in expected.items() if config.get(key) != value]
    full = bool(config.get("modules_to_save"))
    if full != (params.projector == "full"):
        differing.append(f"projector {'full' if full else 'not full'}")
    if differing:
        remedy = "set the same in params.yaml for both stages, or start: merged"
        raise UserError(f"the adapter has {', '.join(differing)}", place=str(path), remedy=remedy)
    return source


def write_model(base: Path, checkpoint: Path, params: TrainParams, model: Path, adapter: Path) -> None:
    """Write the model and, for LoRA, its adapter; the tokenizer and its like come from ``base`` unchanged.

    Args:
        base: The model that was trained.
        checkpoint: The checkpoint to publish.
        params: The stage's parameters.
        model: Folder to write the whole model to: the base with the checkpoint merged in.
        adapter: Folder to write the adapter to.
    """
    import torch
    from transformers import InternVLForConditionalGeneration

    torch.set_num_threads(params.threads)
    adapter.mkdir()
    source = base if params.tuner == "lora" else checkpoint
    dtype = getattr(torch, params.dtype)
    network = InternVLForConditionalGeneration.from_pretrained(source, dtype=dtype, local_files_only=True)
    if params.tuner == "lora":
        from peft import PeftModel

        _copy_adapter(checkpoint, adapter)
        network = PeftModel.from_pretrained(network, adapter).merge_and_unload()
    network.save_pretrained(model)
    for pattern in _UNCHANGED:
        for path in sorted(base.glob(pattern)):
            shutil.copyfile(path, model / path.name)
    for path in model.iterdir():
        path.chmod(0o644)  # safetensors writes 0600


def _copy_adapter(checkpoint: Path, adapter: Path) -> None:
    shutil.copyfile(checkpoint / "adapter_model.safetensors", adapter / "adapter_model.safetensors")
    config = json.loads((checkpoint / "adapter_config.json").read_text("utf-8"))
    config["base_model_name_or_path"] = None  # a path of this machine; the manifest names the base by its digest
    for key in ("target_modules", "modules_to_save", "exclude_modules"):
        if isinstance(config.get(key), list):
            config[key] = sorted(config[key])  # peft keeps a set, whose order differs from run to run
    if isinstance(config.get("target_modules"), str):  # a pattern ms-swift wrote from a set
        config["target_modules"] = re.sub(r"\(([\w|]+)\)", _sorted, config["target_modules"])
    text = json.dumps(config, indent=2, sort_keys=True, allow_nan=False) + "\n"
    (adapter / "adapter_config.json").write_text(text, "utf-8")


def _sorted(group: re.Match[str]) -> str:
    return "(" + "|".join(sorted(group[1].split("|"))) + ")"
