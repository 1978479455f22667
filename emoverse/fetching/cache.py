"""Check what DVC keeps on this machine: its lock file, and the objects of its cache.

``dvc checkout`` puts a changed object into the workspace without a word, so somebody has to look.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from emoverse.errors import UserError
from emoverse.fetching.store import SUFFIX
from emoverse.lineage import dvc_files

LOCK = "dvc.lock"


@dataclass(frozen=True)
class Kept:
    """One output that DVC tracks: its path, its MD5, and the command that makes or brings it again."""

    path: str
    md5: str
    remedy: str


def tracked(base: Path) -> list[Kept]:
    """Return what the ``.dvc`` files and ``dvc.lock`` below ``base`` name; raise UserError for a broken one."""
    found = [Kept(p.removesuffix(".dvc"), md5, f"dvc fetch {p}") for md5, p in sorted(dvc_files(base).items())]
    for name, stage in _stages(base / LOCK).items():
        for out in stage.get("outs", []):
            found.append(Kept(str(out["path"]), str(out["md5"]), f"dvc repro --force --single-item {name}"))
    return found


def check_object(cache: Path, md5: str, *, deep: bool) -> str:
    """Return what is wrong with an object of the cache: nothing, ``missing``, or (``deep`` only) ``changed``."""
    path = cache / "files/md5" / md5[:2] / md5[2:]
    if not path.is_file():
        return "missing"
    if not deep:
        return ""
    with path.open("rb") as handle:
        found = hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return "" if found == md5.removesuffix(SUFFIX) else "changed"


def amiss(base: Path, one: Kept, *, deep: bool) -> Iterator[tuple[str, str]]:
    """Yield ``(file, what is wrong)`` for an output's objects; its list of files comes first, named ``.``."""
    cache = cache_of(base)
    if wrong := check_object(cache, one.md5, deep=True):
        yield ".", wrong
    elif one.md5.endswith(SUFFIX):
        for entry in json.loads((cache / "files/md5" / one.md5[:2] / one.md5[2:]).read_text("utf-8")):
            if wrong := check_object(cache, entry["md5"], deep=deep):
                yield f"{entry['relpath']} ({entry['md5']})", wrong


def cache_of(base: Path) -> Path:
    """Return the folder of DVC's cache."""
    from dvc.config import Config

    configured = Config(str((base / ".dvc").absolute()))["cache"].get("dir")
    return Path(configured) if configured else base / ".dvc/cache"


def _stages(lock: Path) -> dict[str, Any]:
    if not lock.is_file():
        return {}
    remedy = f"run `git checkout {LOCK}`, or remove it and run `dvc repro`: what the cache holds is not made again"
    try:
        tree = yaml.safe_load(lock.read_text("utf-8"))
        stages = dict(tree["stages"])
        if not all(isinstance(out["md5"], str) for stage in stages.values() for out in stage.get("outs", [])):
            raise ValueError("an md5 that is no text")
        return stages
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        what = str(error).splitlines()[0]
        raise UserError(f"not valid YAML ({what}), so it was cut off or edited", place=LOCK, remedy=remedy) from None
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError("not what DVC writes, so it was cut off or edited", place=LOCK, remedy=remedy) from None
