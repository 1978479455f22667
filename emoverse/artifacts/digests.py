"""Digest files and folders, so that equal content has an equal name everywhere."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emoverse.errors import UserError

MANIFEST = "manifest.json"
_BLOCK = 1 << 20


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def files_below(root: Path) -> list[str]:
    """List the relative POSIX paths of all regular files below ``root``, sorted by code point.

    Raises:
        UserError: A name is not UTF-8; neither a manifest nor DVC can write it down.
    """
    found = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
    try:
        "".join(found).encode("utf-8")
    except UnicodeEncodeError:
        odd = [ascii(os.fsencode(name)) for name in found if any("\ud800" <= char <= "\udfff" for char in name)]
        raise UserError(
            f"file names that are not UTF-8: {', '.join(odd)}", place=str(root), remedy="rename them"
        ) from None
    return found


def folder_files(root: Path) -> dict[str, str]:
    """Map each file below ``root`` (the manifest itself aside) to its SHA-256."""
    return {name: sha256_file(root / name) for name in files_below(root) if name != MANIFEST}


def digest_of_files(files: Mapping[str, str]) -> str:
    """Return the folder digest: SHA-256 over the sorted (relative path, SHA-256) pairs."""
    lines = "".join(f"{name}\0{files[name]}\n" for name in sorted(files))
    return hashlib.sha256(lines.encode("utf-8")).hexdigest()


def canonical(value: Any) -> str:
    """Write a JSON value canonically: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest_of_value(value: Any) -> str:
    """Return the SHA-256 of a JSON value written canonically."""
    return hashlib.sha256(canonical(value).encode("utf-8")).hexdigest()


def raw_sums(root: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Map each file below a raw folder to its SHA-256, and to its MD5, reading each byte once."""
    return _apart({name: sha256_and_md5(root / name) for name in files_below(root)})


def digest_of_raw(root: Path) -> tuple[str, str]:
    """Return ``(folder digest, DVC md5)`` of a raw folder, reading each byte once.

    The second is what ``dvc add`` writes to the ``.dvc`` file: the MD5 of DVC's ``.dir`` listing. So a manifest can
    name the DVC-tracked version of its input with no DVC at hand, and the same on a cluster as on one machine.
    """
    sha, md5 = raw_sums(root)
    return digest_of_files(sha), dvc_dir_md5(md5)


def digest_of_pairs(pairs: Mapping[str, tuple[str, str]]) -> tuple[str, str]:
    """Return what ``digest_of_raw`` does, from the (SHA-256, MD5) of each file."""
    sha, md5 = _apart(pairs)
    return digest_of_files(sha), dvc_dir_md5(md5)


def _apart(pairs: Mapping[str, tuple[str, str]]) -> tuple[dict[str, str], dict[str, str]]:
    return {name: pair[0] for name, pair in pairs.items()}, {name: pair[1] for name, pair in pairs.items()}


def sha256_and_md5(path: Path) -> tuple[str, str]:
    """Return both digests of a file's bytes, in hexadecimal, reading it once."""
    one, two = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("rb") as handle:
        while block := handle.read(_BLOCK):
            one.update(block)
            two.update(block)
    return one.hexdigest(), two.hexdigest()


def dvc_dir_md5(md5_of: Mapping[str, str]) -> str:
    """Return the ``<md5>.dir`` name DVC gives a folder whose files have these MD5 sums."""
    # DVC orders the listing by the path as text, and writes it with json.dumps' own separators.
    listing = json.dumps([{"md5": md5_of[name], "relpath": name} for name in sorted(md5_of)], sort_keys=True)
    return hashlib.md5(listing.encode("utf-8"), usedforsecurity=False).hexdigest() + ".dir"
