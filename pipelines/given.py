"""Look at a model that a run shall start from, where Kubeflow's importer will: in an object store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from emoverse.digests import MANIFEST, digest_of_value
from emoverse.errors import UserError

LOOKED_INTO: Final = ("gs", "s3")  # with this machine's own credentials; Kubeflow's are the cluster's
IMPORTED: Final = (*LOOKED_INTO, "minio", "oci")
_INDEX: Final = "model.safetensors.index.json"
_UNCHECKED: Final = "or submit it unseen with --unchecked model: what reads it then runs at every submission"


def look_into(uri: str, *, finished: bool) -> str:
    """Return a digest of the model at ``uri``, so that Kubeflow's cache can tell it from one put there later.

    ``finished``: a step's output folder, whose digest its manifest holds; else an original checkpoint, whose listing is
    digested (names, sizes and the store's own sums), for nothing is downloaded. Raises UserError when it is not there,
    not whole, or where Kubeflow does not import from.
    """
    scheme = uri.partition("://")[0] if "://" in uri else ""
    if scheme not in IMPORTED:
        problem = "Kubeflow imports models from gs://, s3://, minio:// and oci:// alone"
        raise UserError(problem, place=uri, remedy="copy the folder to such a place, and give its address there")
    if scheme not in LOOKED_INTO:
        raise UserError(f"{scheme}:// cannot be looked into from here", place=uri, remedy=f"use s3://, {_UNCHECKED}")
    store, files = _opened(uri)
    if not files:
        raise UserError("nothing is there", place=uri, remedy="copy the model's folder there, or correct the address")
    return _stage(uri, store, files) if finished else _original(uri, store, files)


def _stage(uri: str, store: Any, files: Mapping[str, Mapping[str, Any]]) -> str:
    remedy = "copy the whole folder that `emoverse train` left, such as data/stage1"
    manifest = _json(uri, store, files, MANIFEST, remedy)
    try:
        digest, wanted = str(manifest["outputs"]["digest"]), set(manifest["outputs"]["files"])
    except (KeyError, TypeError):
        raise UserError("not the manifest of a step", place=f"{uri}/{MANIFEST}", remedy=remedy) from None
    _require(uri, sorted(wanted - files.keys()), remedy)
    return digest


def _original(uri: str, store: Any, files: Mapping[str, Mapping[str, Any]]) -> str:
    remedy = "download the checkpoint again, whole, and copy it there"
    _require(uri, [name for name in ("config.json",) if name not in files], remedy)
    if _INDEX in files:
        shards = _json(uri, store, files, _INDEX, remedy).get("weight_map", {}).values()
        _require(uri, sorted(set(shards) - files.keys()), remedy)
    elif not any(name.endswith(".safetensors") for name in files):
        raise UserError("holds no weights (*.safetensors)", place=uri, remedy=remedy)
    sums = ("ETag", "md5Hash", "crc32c")
    return digest_of_value({n: [one["size"], *(one[key] for key in sums if key in one)] for n, one in files.items()})


def _require(uri: str, missing: list[str], remedy: str) -> None:
    if missing:
        raise UserError(f"lacks {len(missing)} of its files, such as {missing[0]}", place=uri, remedy=remedy)


def _json(uri: str, store: Any, files: Mapping[str, Mapping[str, Any]], name: str, remedy: str) -> dict[str, Any]:
    _require(uri, [] if name in files else [name], remedy)
    try:
        found = json.loads(store.cat_file(files[name]["name"]))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError("not valid JSON", place=f"{uri}/{name}", remedy=remedy)
    return found


def _opened(uri: str) -> tuple[Any, dict[str, dict[str, Any]]]:
    """Return the store and what it knows of each file below ``uri``, by its path there."""
    import fsspec

    try:
        store, root = fsspec.core.url_to_fs(uri.rstrip("/"), skip_instance_cache=True)
        root = root.rstrip("/")
        found = store.find(root, detail=True)
    except FileNotFoundError:
        return None, {}
    # Each kind of store raises its own library's errors (botocore, gcsfs, google.auth, aiohttp).
    except Exception as error:
        said = " ".join((str(error) or type(error).__name__).split())
        remedy = f"check the address and this machine's credentials for it, {_UNCHECKED}"
        raise UserError(f"the store gives no answer: {said}", place=uri, remedy=remedy) from None
    return store, {name[len(root) + 1 :]: one for name, one in sorted(found.items()) if name != root}
