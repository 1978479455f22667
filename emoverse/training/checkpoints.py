"""Keep unfinished training in a scratch folder named by everything that decides its result."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from emoverse.digests import digest_of_value

LIBRARIES: Final = ("torch", "transformers", "ms-swift", "peft")
_NAME: Final = re.compile(r"checkpoint-(\d+)")
_LAST_WRITTEN: Final = "trainer_state.json"


def scratch_folder(fingerprint: str) -> Path:
    """Return the folder for one training: below ``EMOVERSE_SCRATCH``, or ``scratch`` in the working directory."""
    return Path(os.environ.get("EMOVERSE_SCRATCH", "scratch")) / "train" / fingerprint[:32]


def fingerprint_of(params: Mapping[str, Any], inputs: Mapping[str, str], code: str) -> str:
    """Return one digest of parameters, input digests, our code and the libraries' versions."""
    versions = {name: metadata.version(name) for name in LIBRARIES}
    return digest_of_value({"params": params, "inputs": inputs, "code": code, "libraries": versions})


def last_complete(folder: Path) -> tuple[Path | None, list[str]]:
    """Return the newest checkpoint that was written to its end, and a sentence on each newer one that was not.

    transformers writes ``trainer_state.json`` last; a checkpoint whose weights or state do not parse is not complete.
    """
    skipped: list[str] = []
    found = [(int(match[1]), path) for path in folder.glob("checkpoint-*") if (match := _NAME.fullmatch(path.name))]
    for step, path in sorted(found, reverse=True):
        problem = _problem(path, step)
        if problem is None:
            return path, skipped
        skipped.append(f"{path.name} is incomplete ({problem}), not used")
    return None, skipped


def _problem(path: Path, step: int) -> str | None:
    from safetensors import SafetensorError, safe_open

    try:
        state = json.loads((path / _LAST_WRITTEN).read_text("utf-8"))
    except FileNotFoundError:
        return f"no {_LAST_WRITTEN}"
    except ValueError:
        return f"{_LAST_WRITTEN} is cut off"
    if state.get("global_step") != step:
        return f"{_LAST_WRITTEN} is of another step"
    weights = sorted(path.glob("*.safetensors"))
    if not weights:
        return "no weights"
    for name in ("optimizer.pt", "scheduler.pt"):
        if not (path / name).is_file() or not (path / name).stat().st_size:
            return f"no {name}"
    for file in weights:
        try:
            with safe_open(file, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            return f"{file.name}: {error}"
    return None
