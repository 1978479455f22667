"""Keep unfinished training in a scratch folder named after everything that determines its result."""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from emoverse.artifacts.digests import digest_of_value
from emoverse.artifacts.manifest import is_disk_full
from emoverse.config import TrainParams
from emoverse.errors import UserError

LIBRARIES: Final = ("torch", "transformers", "ms-swift", "peft")
_NAME: Final = re.compile(r"checkpoint-(\d+)")
_LAST_WRITTEN: Final = "trainer_state.json"


def scratch_folder(fingerprint: str) -> Path:
    """Return the folder for one training: below ``EMOVERSE_SCRATCH``, or ``scratch`` in the working directory."""
    return Path(os.environ.get("EMOVERSE_SCRATCH", "scratch")) / "train" / fingerprint[:32]


def libraries_of(params: TrainParams) -> tuple[str, ...]:
    """Return the libraries that determine a training's result."""
    return LIBRARIES if params.sharding == "none" else (*LIBRARIES, "deepspeed")


def fingerprint_of(
    params: Mapping[str, Any], inputs: Mapping[str, str], code: str, libraries: tuple[str, ...] = LIBRARIES
) -> str:
    """Return one digest of everything that determines a training's result.

    Args:
        params: The stage's parameters and its name.
        inputs: Digests of the inputs by name.
        code: Digest of the step's code.
        libraries: Distributions whose versions count.
    """
    versions = {name: metadata.version(name) for name in libraries}
    return digest_of_value({"params": params, "inputs": inputs, "code": code, "libraries": versions})


def last_complete(folder: Path, ranks: int) -> tuple[Path | None, list[str]]:
    """Return the newest complete checkpoint, and a message for each newer incomplete one.

    transformers writes ``trainer_state.json`` last; a checkpoint whose weights or state do not parse is not complete,
    nor one without the state of each of ``ranks`` processes, which do not wait for each other.
    """
    skipped: list[str] = []
    checkpoints = [
        (int(match[1]), path) for path in folder.glob("checkpoint-*") if (match := _NAME.fullmatch(path.name))
    ]
    for step, path in sorted(checkpoints, reverse=True):
        problem = _problem(path, step, ranks)
        if problem is None:
            return path, skipped
        skipped.append(f"{path.name} is incomplete ({problem}), not used")
    return None, skipped


def step_of(checkpoint: Path) -> int:
    """Return the optimizer step that a checkpoint was saved after, from its name."""
    return int(checkpoint.name.rpartition("-")[2])


def _problem(path: Path, step: int, ranks: int) -> str | None:
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
    states = [path / (f"rng_state_{rank}.pth" if ranks > 1 else "rng_state.pth") for rank in range(ranks)]
    for file in (*_optimizer(path, step, ranks), path / "scheduler.pt", *states):
        if not file.is_file():
            return f"no {file.name}"
        if not zipfile.is_zipfile(file):  # torch writes zip files; their directory comes last
            return f"{file.name} is cut off"
    for file in weights:
        try:
            with safe_open(file, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            return f"{file.name}: {error}"
    return None


def _optimizer(path: Path, step: int, ranks: int) -> list[Path]:
    """Return the files with the optimizer's state: one per process where ZeRO divides it."""
    shards = path / f"global_step{step}"
    if not shards.is_dir():
        return [path / "optimizer.pt"]
    parts = [f"zero_pp_rank_{rank}_mp_rank_00" for rank in range(ranks)]
    models = [f"{part}_model_states.pt" for part in parts]  # stage 3; stage 2 has one for all
    if not (shards / models[0]).is_file():
        models = ["mp_rank_00_model_states.pt"]
    return [shards / name for name in (*models, *(f"{part}_optim_states.pt" for part in parts))]


@contextmanager
def reporting_full_disk(folder: Path, ranks: int) -> Iterator[None]:
    """Turn a disk that is full while a checkpoint is saved into a UserError, and remove the unfinished checkpoint.

    The message gives the folder, its free bytes and the size of a checkpoint; the previous one stays.
    """
    try:
        yield
    except Exception as error:
        if not is_disk_full(error):
            raise
        complete, _ = last_complete(folder, ranks)
        written = 0
        for path in folder.glob("checkpoint-*"):
            if path != complete and _problem(path, step_of(path), ranks):
                written = max(written, _size(path))
                shutil.rmtree(path, ignore_errors=True)
        free = shutil.disk_usage(folder).free
        needed = max(_size(complete) if complete else 0, written)
        problem = f"the disk is full: {free} bytes are free now, a checkpoint takes more than {needed}"
        remedy = "free some, or set EMOVERSE_SCRATCH to a folder on another disk, and run again"
        raise UserError(problem, place=str(folder), remedy=remedy) from error


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


class Ledger:
    """The ids of the rows of each optimizer step, kept beside the checkpoints, one file per process.

    A line is ``{"step": 7, "rows": [...]}``; after a resume, lines of steps that run again are dropped.
    """

    def __init__(self, folder: Path, resumed_from: int, rank: int = 0) -> None:
        """Open the ledger of process ``rank``, dropping what came after step ``resumed_from``."""
        self.folder, self.path = folder, folder / f"ledger-{rank}.jsonl"
        kept = [line for line in read_lines(self.path) if line["step"] <= resumed_from]
        self.path.write_text(
            "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in kept), "utf-8"
        )

    def add(self, step: int, rows: list[str]) -> None:
        """Append the rows of a step."""
        with self.path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps({"step": step, "rows": rows}, ensure_ascii=False, allow_nan=False) + "\n")

    def counts(self, until: int) -> Counter[str]:
        """Return how often each row was trained up to a step, by all processes together."""
        files = sorted(self.folder.glob("ledger-*.jsonl"))
        return Counter(
            row for path in files for line in read_lines(path) if line["step"] <= until for row in line["rows"]
        )


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON Lines file up to a line that a kill cut off; none where there is no file."""
    if not path.is_file():
        return
    for line in path.read_text("utf-8").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return  # cut off by a kill: nothing after it was trained before the last checkpoint


def set_aside_if_inconsistent(folder: Path, ranks: int) -> str:
    """Move a scratch folder aside whose ledger cannot belong to one training; return a message, or an empty string.

    Up to its last checkpoint, the ledger of each process must name every step once and in order.
    """
    checkpoint, _ = last_complete(folder, ranks)
    if checkpoint is None:
        return ""
    last = step_of(checkpoint)
    for rank in range(ranks):
        steps = [line["step"] for line in read_lines(folder / f"ledger-{rank}.jsonl") if line["step"] <= last]
        if steps != list(range(1, last + 1)):
            number = 1 + sum(1 for _ in folder.parent.glob(f"{folder.name}.aside-*"))
            aside = folder.rename(folder.with_name(f"{folder.name}.aside-{number}"))
            return f"ledger-{rank}.jsonl does not have each step once, moved to {aside}; training begins anew"
    return ""
