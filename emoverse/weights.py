"""Tell a model's weights from the rest of its folder, which is small and says everything about it."""

from __future__ import annotations

import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

_WEIGHTS: Final = ("*.safetensors", "*.onnx", "*.data")  # ``.data`` lies beside a graph of more than 2 GB


def is_weights(name: str) -> bool:
    """Say whether a file of a step's output, named relative to it, holds weights."""
    return any(fnmatch(name, pattern) for pattern in _WEIGHTS)


def copy_without_weights(folder: Path, place: Path) -> None:
    """Copy a step's output, manifest included, without its weights: what `open_source` takes with ``weights=False``."""
    shutil.copytree(folder, place, ignore=shutil.ignore_patterns(*_WEIGHTS), dirs_exist_ok=True)
