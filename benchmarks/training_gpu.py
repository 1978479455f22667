"""The GPU half of `benchmarks.training`: the same comparison with a random model of InternVL2-4B's shape, in bfloat16.

    python -m benchmarks.training_gpu [--rows N] [--shrunk]

Needs a CUDA device, ``data/base`` and the sample videos; makes frames of 8 x 448 px and the model (8 GB) itself.
Besides the ratio of real tokens a second it states model-FLOPs utilisation: the operations the model needs
(recomputation for checkpointing not counted, `emoverse train --dry-run`) over those the device does in a large matmul
in the same run. ``--shrunk`` takes a narrow model of two layers on whatever device there is: it tries the path out, its
numbers say nothing.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.training import EPOCHS, Folders, run, show, train_ours, train_plainly
from emoverse.artifacts.manifest import publish

SIZE, FRAMES, TOKENS = 448, 8, 256
MEDIA = {"frames": FRAMES, "size": SIZE, "crop": "squash", "colour": "rgb", "encoding": "jpeg"}
OURS = {
    "batch_size": 4, "accumulation": 2, "dtype": "bfloat16", "attention": "auto", "gradient_checkpointing": "false",
    "workers": 8, "max_length": 4096,
}  # fmt: skip
AUTHORS = {"torch_dtype": "bfloat16"}
TEXT_4B = {  # Phi-3-mini
    "model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "hidden_size": 3072, "intermediate_size": 8192,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32020,
    "max_position_embeddings": 131072, "tie_word_embeddings": False,
}  # fmt: skip
VISION_4B = {  # InternViT-300M
    "architectures": ["InternVLVisionModel"], "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16, "image_size": [SIZE, SIZE], "patch_size": [14, 14], "attention_bias": True,
    "use_mean_pooling": True,
}  # fmt: skip
NARROW = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--shrunk", action="store_true")
    args = parser.parse_args()
    cuda = torch.cuda.is_available()
    if not cuda and not args.shrunk:
        print("no CUDA device here: the GPU half of this benchmark was not run")
        return
    with tempfile.TemporaryDirectory(prefix="training-gpu-benchmark-") as name:
        work = Path(name)
        (work / "run").mkdir()
        make_inputs(args.data.absolute(), work, shrunk=args.shrunk)
        overrides = {f"media.{key}": value for key, value in MEDIA.items()}
        folders = Folders(args.data.absolute().parent, work, "stage1", args.rows, work / "run", overrides)
        ours = train_ours(folders, OURS if cuda else {**OURS, "workers": 2})
        plain = train_plainly(folders, ours["tokens"], {**AUTHORS, "use_cpu": str(not cuda).lower()})
        show(ours, plain, wanted=3.0)
        state_utilisation(folders, {"swift sft, authors'": plain, "emoverse train": ours})


def make_inputs(data: Path, work: Path, *, shrunk: bool) -> None:
    """Make frames of the sample at InternVL2's size, its AMT rows, and the model, as the steps publish them."""
    settings = [word for key, value in MEDIA.items() for word in ("--set", f"media.{key}={value}")]
    for name, folder in (("meld", "MELD"), ("ecf", "ECF"), ("mosei", "MOSEI")):
        raw, out = data / "raw" / "sample" / folder, work / "validated" / name
        emoverse(work, "validate", "--corpus", name, "--raw", raw, "--out", out, *settings)
    emoverse(work, "build-amt", "--validated", work / "validated", "--out", work / "amt")
    with publish(work / "base", step="base-model", params={}, inputs={}) as draft:
        make_model(data / "base" / "model", draft.path / "model", shrunk=shrunk)


def make_model(like: Path, folder: Path, *, shrunk: bool) -> None:
    """Write a random model of InternVL2-4B's shape with the tokenizer and chat format of ``like``."""
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    words = json.loads((like / "config.json").read_text("utf-8"))
    text = {**TEXT_4B, **{key: words["text_config"][key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}}
    vision = dict(VISION_4B)
    if shrunk:
        text |= {**NARROW, "num_key_value_heads": 4}
        vision |= NARROW
    config = InternVLConfig(
        text_config=text, vision_config=vision, image_token_id=words["image_token_id"], image_seq_length=TOKENS,
        downsample_ratio=0.5, tie_word_embeddings=False, dtype="bfloat16",
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = InternVLForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
    model.generation_config.update(eos_token_id=text["eos_token_id"], pad_token_id=text["pad_token_id"])
    model.save_pretrained(folder)
    del model
    for path in like.iterdir():
        if path.suffix != ".safetensors" and path.name not in ("config.json", "generation_config.json"):
            shutil.copyfile(path, folder / path.name)
    path = folder / "processor_config.json"
    settings = json.loads(path.read_text("utf-8"))
    settings["image_seq_length"] = TOKENS
    for kind in ("image_processor", "video_processor"):
        settings[kind]["size"] = {"height": SIZE, "width": SIZE}
    path.write_text(json.dumps(settings), "utf-8")


def state_utilisation(folders: Folders, sides: dict[str, dict[str, Any]]) -> None:
    """Print each side's model-FLOPs utilisation, after `emoverse train --dry-run` of the same rows."""
    command = [*folders.train_command(OURS), "--set", f"stage1.epochs={float(EPOCHS)}", "--dry-run", "--json"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    device = found["device"]
    print(f"{device['name']}: {device['flops_a_second'] / 1e12:.1f} TFLOP/s in a large bfloat16 matmul")
    print(f"the rows need {found['flops'] / 1e12:,.1f} TFLOP of the model, {found['parameters']['all']:,} parameters")
    for name, one in sides.items():
        used = found["flops"] / one["seconds"] / device["flops_a_second"]
        print(f"{name}: model-FLOPs utilisation {100 * used:.1f} %")


def emoverse(work: Path, *words: object) -> None:
    run([sys.executable, "-m", "emoverse.cli", *words], work)


if __name__ == "__main__":
    main()
