"""Store the sample's folders by content, in the layout of a DVC 3 local remote (`files/md5/ab/cdef...`).

DVC itself is not needed to write it; `dvc push` of the same folders adds nothing.
"""

import hashlib
import json
from pathlib import Path


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
