"""Check what a run will need, before anything runs: the data, the image, the endpoint, the secrets."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from emoverse.amt.mixture import stages
from emoverse.artifacts.digests import MANIFEST, digest_of_value
from emoverse.config import TINY, Params
from emoverse.corpora import corpora, get_corpus
from emoverse.errors import UserError, did_you_mean
from emoverse.fetching.fetch import Tracked, check_complete, resolve
from emoverse.fetching.storage import is_shared, missing_variables
from emoverse.tasks import tasks
from pipelines.cluster import WORKSPACE, Cluster
from pipelines.options import Options


def check_data(
    params: Params, cluster: Cluster, *, base: Path, revision: str, remote: str, volume: str, secrets: bool = True
) -> dict[str, dict[str, str]]:
    """Return what ``fetch`` needs of each corpus, and of ``weights`` to start from, as DVC knows them at a revision.

    Raises UserError when one is not tracked or not all there, or where pods could not reach it: a folder of this
    machine, a secret that no pod gets (unless ``secrets`` come otherwise), a ``volume`` that is not mounted or, as a
    run's own workspace, starts empty.
    """
    check_mounted(volume, cluster)
    filled = volume and not _below(volume, WORKSPACE)
    roots = {name: one.root for name, one in params.corpora.items()}
    if params.base_model.source != TINY:
        roots["weights"] = params.base_model.source
    found = {}
    for name, root in roots.items():
        tracked = resolve(root, repository=base, revision=revision, remote=remote)
        if is_shared(tracked.config) and secrets:
            told = {variable for secret in cluster.secrets for variable in secret.env.values()}
            check_secrets(tracked, told | cluster.data.env.keys())
        if not is_shared(tracked.config) and not filled:
            problem = "the remote is a folder of this machine, which pods do not see"
            remedy = "name one that they reach (--remote), or the mounted volume that holds the data (--raw-volume)"
            raise UserError(problem, place=root, remedy=remedy)
        check_complete(tracked)
        settings = tracked.remote if is_shared(tracked.config) else ""
        found[name] = {"corpus": name, "root": root, "md5": tracked.md5, "remote": settings}
    return found


def check_mounted(volume: str, cluster: Cluster) -> None:
    """Raise UserError unless the profile mounts ``volume`` (empty: none is wanted) in the pods."""
    mounts = [one.path.rstrip("/") for one in cluster.volumes] + ([WORKSPACE] if cluster.workspace else [])
    if volume and not any(_below(volume, mount) for mount in mounts):
        problem = f"no volume of the cluster profile is mounted there (mounted: {', '.join(mounts) or 'none'})"
        remedy = "name the claim under `volumes` in the profile"
        remedy = "give the profile a `workspace`" if _below(volume, WORKSPACE) else remedy
        raise UserError(problem, place=f"--raw-volume {volume}", remedy=remedy)


def _below(path: str, mount: str) -> bool:
    return f"{path}/".startswith(f"{mount}/")


def check_secrets(tracked: Tracked, given: Collection[str]) -> None:
    """Raise UserError when the pods would lack a secret that reaching the remote takes on this machine."""
    absent = missing_variables(tracked.config, given)
    if absent:
        problem = f"its remote needs {' and '.join(absent)}, which no secret of the cluster profile gives to the pods"
        remedy = (
            "name a Kubernetes secret that holds it under `secrets` in the profile (--cluster), or --unchecked secrets"
        )
        raise UserError(problem, place=tracked.path, remedy=remedy)


def check_params(params: Params, options: Options) -> None:
    """Raise UserError for a name that no corpus or task has, or for parameters that the options contradict."""
    for name in params.corpora:
        get_corpus(name)
    for stage, mixture in (("stage1", params.amt.stage1), ("stage2", params.amt.stage2)):
        for name in sorted(set(mixture.corpora) & corpora().keys() - params.corpora.keys()):
            remedy = f"name its folder under corpora in params.yaml, or remove it from amt.{stage}.corpora"
            raise UserError(f"no corpus {name!r} is there to train on", place=f"amt.{stage}.corpora", remedy=remedy)
    stages(params.amt, list(params.corpora))
    for name in params.export.floor:
        if name not in tasks():
            raise UserError(f"unknown task {name!r}", place="export.floor", remedy=did_you_mean(name, tasks()))
    if options.start == "stage1" and params.stage2.start == "adapter":
        problem = "trains stage 1's adapter further, which needs the base model too; a given model is merged"
        raise UserError(problem, place="stage2.start", remedy="set stage2.start=merged, or train stage 1 in the run")
    gpu = options.cluster.gpu
    for stage in ("stage1", "stage2"):
        wanted = getattr(params, stage).gpus
        if gpu and "train" in gpu.steps and wanted > gpu.count:
            problem = f"wants {wanted} GPUs, but the cluster profile gives a pod {gpu.count}"
            raise UserError(problem, place=f"{stage}.gpus", remedy="set gpu.count in the profile, or train.gpus")


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
