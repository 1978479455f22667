"""Train the sample's base model again and track it with DVC: data/raw/sample/InternVL-tiny, stored in data/remote.

Takes half an hour on two cores; the same processor gives the same bytes (docs/lineage.md). The settings are those of
``base_model`` in params.yaml. Weights are stored in half precision, which halves the file.
"""

import dataclasses
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from emoverse.config import TINY, load_params
from emoverse.models.base_model import make_base

OUT = Path("data/raw/sample/InternVL-tiny")


def main() -> None:
    """Train, write the folder, and hand it to DVC."""
    params = load_params()
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "model"
        facts = make_base(made, dataclasses.replace(params.base_model, source=TINY), params.media)
        weights = {name: tensor.to(torch.float16) for name, tensor in load_file(made / "model.safetensors").items()}
        save_file(weights, made / "model.safetensors", metadata={"format": "pt"})
        shutil.rmtree(OUT, ignore_errors=True)
        shutil.copytree(made, OUT)
    print(f"{OUT}: {facts}")
    subprocess.run(["dvc", "add", "--quiet", str(OUT)], check=True)
    subprocess.run(["dvc", "push", "--quiet", f"{OUT}.dvc"], check=True)


if __name__ == "__main__":
    main()
