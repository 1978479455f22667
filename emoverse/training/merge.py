"""Turn a finished checkpoint into a model folder and an adapter folder that hold no path and no time."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Final

from emoverse.params import TrainParams

# What the weights do not decide: taken over from the model that was trained, byte for byte.
_KEPT: Final = (
    "tokenizer*", "chat_template*", "*processor_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "generation_config.json",
)  # fmt: skip


def write_model(base: Path, checkpoint: Path, params: TrainParams, model: Path, adapter: Path) -> None:
    """Write ``model`` (the base with the checkpoint merged in) and, for LoRA, ``adapter``.

    The files that the weights do not decide come from ``base`` unchanged.
    """
    import torch
    from transformers import InternVLForConditionalGeneration

    adapter.mkdir()
    source = base if params.tuner == "lora" else checkpoint
    dtype = getattr(torch, params.dtype)
    network = InternVLForConditionalGeneration.from_pretrained(source, dtype=dtype, local_files_only=True)
    if params.tuner == "lora":
        from peft import PeftModel

        _copy_adapter(checkpoint, adapter)
        network = PeftModel.from_pretrained(network, adapter).merge_and_unload()
    network.save_pretrained(model)
    for pattern in _KEPT:
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
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (adapter / "adapter_config.json").write_text(text, "utf-8")


def _sorted(group: re.Match[str]) -> str:
    return "(" + "|".join(sorted(group[1].split("|"))) + ")"
