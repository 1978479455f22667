"""Write the three sample corpora into a folder: the same bytes for the same seed, scale and libraries."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Final

from emoverse.synthetic.ecf import plan_ecf, write_ecf
from emoverse.synthetic.meld import plan_meld, write_meld
from emoverse.synthetic.mosei import plan_mosei, write_mosei

CORPORA: Final = ("MELD", "ECF", "MOSEI")
DEFAULT_SEED: Final = 12


def generate(out: Path, seed: int = DEFAULT_SEED, scale: float = 1.0) -> None:
    """Write `out`/MELD, `out`/ECF and `out`/MOSEI, replacing what is there.

    Args:
        out: Folder of the three corpora.
        seed: Seed of everything random.
        scale: Factor of the number of utterances (about 560 at 1); every planted fault is there at any scale.

    Raises:
        ValueError: `scale` is not above 0, or needs more MOSEI videos than are named.
    """
    if scale <= 0:
        raise ValueError(f"scale {scale:g} must be above 0")
    meld, mosei = plan_meld(seed, scale), plan_mosei(seed, scale)
    ecf = plan_ecf(meld, seed, scale)
    for name in CORPORA:
        shutil.rmtree(out / name, ignore_errors=True)
    write_meld(out / "MELD", meld, seed)
    write_ecf(out / "ECF", ecf, seed)
    write_mosei(out / "MOSEI", mosei, seed)


def store(folder: Path, remote: Path) -> str:
    """Copy a folder's files and their listing into the remote; return the folder's DVC md5 (`....dir`)."""
    listing = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        content = path.read_bytes()
        listing.append({"md5": _put(content, remote), "relpath": path.relative_to(folder).as_posix()})
    listing.sort(key=lambda entry: entry["relpath"])
    return _put(json.dumps(listing, sort_keys=True).encode(), remote, suffix=".dir")


def _put(content: bytes, remote: Path, suffix: str = "") -> str:
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest() + suffix
    path = remote / "files" / "md5" / digest[:2] / digest[2:]
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return digest
