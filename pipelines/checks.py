"""Check the requirements of a run before it starts: images, data, secrets, endpoint, parameters, models."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from emoverse.amt.builder import stages
from emoverse.artifacts.digests import MANIFEST, digest_of_value
from emoverse.compat.kfp import WORKSPACE
from emoverse.config import TINY, Params
from emoverse.corpora import corpora, get_corpus
from emoverse.errors import UserError, did_you_mean
from emoverse.fetching import Tracked, check_complete, is_shared, missing_variables, resolve
from emoverse.http import HttpClient, NoAnswerError, bearer, json_object
from emoverse.kubernetes_api import connect
from emoverse.tasks import tasks
from pipelines.cluster import Cluster, is_below
from pipelines.options import PipelineOptions

PINNED: Final = re.compile(r"(?P<name>[a-z0-9][\w.\-/:]*)@(?P<digest>sha256:[0-9a-f]{64})")
_MANIFESTS: Final = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in ("oci.image.index.v1", "oci.image.manifest.v1", "docker.distribution.manifest.list.v2",
                 "docker.distribution.manifest.v2")
)  # fmt: skip
EXAMINED: Final = ("gs", "s3")  # with this machine's own credentials; Kubeflow's are the cluster's
IMPORTABLE: Final = (*EXAMINED, "minio", "oci")
_INDEX: Final = "model.safetensors.index.json"
_UNCHECKED: Final = "or skip this check with --unchecked model: its readers then run at every submission"


def check_pinned(image: str, option: str) -> None:
    """Raise UserError unless the image is named by its digest: a tag may be pushed again, and no cache would notice."""
    if not PINNED.fullmatch(image):
        remedy = "push it, then name it as `docker inspect --format '{{index .RepoDigests 0}}' IMAGE` prints it"
        problem = f"the image {image} is not pinned by its digest (NAME@sha256:...)"
        raise UserError(problem, place=option, remedy=f"{remedy}, there or under `images` in the cluster profile")


def check_held(image: str) -> None:
    """Raise UserError unless the image's registry answers that it holds it; ``docker login``'s password is used."""
    registry, name = _registry_and_repository(image.partition("@")[0])
    digest = image.partition("@")[2]
    scheme = "http" if registry.split(":")[0] in ("localhost", "127.0.0.1") else "https"
    url = f"{scheme}://{registry}/v2/{name}/manifests/{digest}"
    login = _registry_login(registry)
    try:
        reply = HttpClient(authorization=login, follow=True).request("HEAD", url, headers={"Accept": _MANIFESTS})
        challenge = reply.headers.get("WWW-Authenticate", "")
        if reply.status == 401 and "bearer" in challenge.lower():
            token = bearer(_registry_token(challenge, login, url, image))
            reply = HttpClient(authorization=token, follow=True).request("HEAD", url, headers={"Accept": _MANIFESTS})
    except NoAnswerError as error:
        remedy = "check its name; --unchecked image submits where only the cluster reaches the registry"
        raise UserError(f"the registry gives no answer: {error.problem}", place=error.place, remedy=remedy) from None
    status = reply.status
    if status == 404:
        raise UserError("the registry does not hold it", place=image, remedy="push it with `docker push`")
    if status in (401, 403):
        raise UserError("the registry does not let you see it", place=image, remedy=f"run `docker login {registry}`")
    if status != 200:
        raise UserError(f"the registry answers with HTTP {status}", place=image, remedy="try again later")


def _registry_and_repository(name: str) -> tuple[str, str]:
    """Return the registry's address and the repository in it; a name without one is Docker Hub's."""
    first, slash, rest = name.partition("/")
    if not slash or not (set(first) & set(".:") or first == "localhost"):
        first, rest = "registry-1.docker.io", name if slash else f"library/{name}"
    if first in ("docker.io", "index.docker.io"):
        first, rest = "registry-1.docker.io", rest if "/" in rest else f"library/{rest}"
    path, _, last = rest.rpartition("/")
    return first, "/".join(part for part in (path, last.partition(":")[0]) if part)


def _registry_login(registry: str) -> str:
    """Return the Authorization header for what ``docker login`` stored; empty for nothing."""
    from docker.auth import load_config
    from docker.errors import DockerException

    try:
        known = load_config().resolve_authconfig(None if registry == "registry-1.docker.io" else registry) or {}
    except DockerException as error:
        remedy = "install the credential helper that docker's config.json names, or run `docker login` again"
        raise UserError(f"docker's credentials cannot be read: {error}", place=registry, remedy=remedy) from None
    user, password = known.get("username", known.get("Username")), known.get("password", known.get("Password"))
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode() if user else ""


def _registry_token(challenge: str, login: str, url: str, image: str) -> str:
    """Get a bearer token where the registry's challenge says; the password goes to that place over TLS only."""
    fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    realm = fields.pop("realm", "")
    here, there = urlsplit(url), urlsplit(realm)
    if login and there.scheme != "https" and (here.scheme, here.netloc) != (there.scheme, there.netloc):
        problem = "the registry asks for your password at an address without TLS, and was not given it"
        raise UserError(problem, place=image, remedy="ask who runs the registry to correct its login address")
    reply = HttpClient(authorization=login).request("GET", f"{realm}?{urlencode(fields)}")
    answer = json_object(reply) or {}
    token = answer.get("token") or answer.get("access_token")
    if reply.status != 200 or not isinstance(token, str):
        remedy = "run `docker login` for its registry"
        raise UserError(f"the registry's login gives no token: HTTP {reply.status}", place=image, remedy=remedy)
    return token


def check_data(
    params: Params, cluster: Cluster, *, base: Path, revision: str, remote: str, volume: str, secrets: bool = True
) -> dict[str, dict[str, str]]:
    """Return the arguments of ``fetch`` for each corpus, and for ``weights``, as DVC tracks them at a revision.

    Args:
        params: Parameters of the run.
        cluster: The cluster profile.
        base: The repository.
        revision: Git revision. Empty: the working tree.
        remote: Name of the DVC remote. Empty: the repository's default.
        volume: A mounted folder with the raw corpora. Empty: none; a run's own workspace starts empty.
        secrets: Whether to check that the profile gives pods the remote's secrets.

    Raises:
        UserError: A corpus is not tracked, is incomplete, or is out of the pods' reach.
    """
    check_mounted(volume, cluster)
    prefilled = volume and not is_below(volume, WORKSPACE)
    roots = {name: corpus.root for name, corpus in params.corpora.items()}
    if params.base_model.source != TINY:
        roots["weights"] = params.base_model.source
    arguments = {}
    for name, root in roots.items():
        tracked = resolve(root, repository=base, revision=revision, remote=remote)
        if is_shared(tracked.config) and secrets:
            variables = {variable for secret in cluster.secrets for variable in secret.env.values()}
            check_secrets(tracked, variables | cluster.data.env.keys())
        if not is_shared(tracked.config) and not prefilled:
            problem = "the remote is a folder of this machine, which pods cannot read"
            remedy = "name a remote that pods can reach (--remote), or a mounted volume with the data (--raw-volume)"
            raise UserError(problem, place=root, remedy=remedy)
        check_complete(tracked)
        settings = tracked.remote if is_shared(tracked.config) else ""
        arguments[name] = {"corpus": name, "root": root, "md5": tracked.md5, "remote": settings}
    return arguments


def check_mounted(volume: str, cluster: Cluster) -> None:
    """Raise UserError unless the profile mounts ``volume`` in the pods (empty: nothing to check)."""
    mounts = [mount.path.rstrip("/") for mount in cluster.volumes] + ([WORKSPACE] if cluster.workspace else [])
    if volume and not any(is_below(volume, mount) for mount in mounts):
        problem = f"no volume of the cluster profile is mounted there (mounted: {', '.join(mounts) or 'none'})"
        remedy = "name the claim under `volumes` in the profile"
        remedy = "give the profile a `workspace`" if is_below(volume, WORKSPACE) else remedy
        raise UserError(problem, place=f"--raw-volume {volume}", remedy=remedy)


def check_secrets(tracked: Tracked, variables: Collection[str]) -> None:
    """Raise UserError if pods would lack a secret that the remote needs on this machine."""
    absent = missing_variables(tracked.config, variables)
    if absent:
        problem = f"its remote needs {' and '.join(absent)}, which no secret of the cluster profile gives to the pods"
        remedy = (
            "name a Kubernetes secret that holds it under `secrets` in the profile (--cluster), or --unchecked secrets"
        )
        raise UserError(problem, place=tracked.path, remedy=remedy)


def check_params(params: Params, options: PipelineOptions) -> None:
    """Raise UserError for an unknown corpus or task, or for parameters that the options contradict."""
    for name in params.corpora:
        get_corpus(name)
    for stage, mixture in (("stage1", params.amt.stage1), ("stage2", params.amt.stage2)):
        for name in sorted(set(mixture.corpora) & corpora().keys() - params.corpora.keys()):
            remedy = f"name its folder under corpora in params.yaml, or remove it from amt.{stage}.corpora"
            raise UserError(f"there is no corpus {name!r} to train on", place=f"amt.{stage}.corpora", remedy=remedy)
    stages(params.amt, list(params.corpora))
    _check_reasons(params.amt.reasons, options)
    for name in params.export.floor:
        if name not in tasks():
            raise UserError(f"unknown task {name!r}", place="export.floor", remedy=did_you_mean(name, tasks()))
    if options.start == "stage1" and params.stage2.start == "adapter":
        problem = "continues stage 1's adapter, which needs the base model too, but --model is a merged model"
        raise UserError(problem, place="stage2.start", remedy="set stage2.start=merged, or train stage 1 in the run")
    gpu = options.cluster.gpu
    for stage in ("stage1", "stage2"):
        wanted, nodes = getattr(params, stage).gpus, getattr(params, stage).nodes
        if gpu and "train" in gpu.steps and wanted > gpu.count:
            problem = f"wants {wanted} GPUs, but the cluster profile gives a pod {gpu.count}"
            remedy = "set gpu.count in the profile, or train.gpus; train.nodes takes more than one pod's"
            raise UserError(problem, place=f"{stage}.gpus", remedy=remedy)
        if nodes > 1 and not options.cluster.trainer:
            problem = f"is {nodes}, but the cluster profile has no `trainer`"
            remedy = "describe Kubeflow Trainer in the profile (--cluster), or set train.nodes to 1"
            problem = "is more than 1, which needs a cluster with Kubeflow Trainer" if options.local else problem
            raise UserError(problem, place=f"{stage}.nodes", remedy=remedy)


def check_trainer(params: Params, cluster: Cluster, namespace: str) -> str:
    """Return what was found out about Kubeflow Trainer, where a stage trains on several nodes; else an empty text.

    The cluster is the one that kubectl uses here.

    Raises:
        UserError: That cluster has no Kubeflow Trainer, or lacks the runtime of the profile.
    """
    if cluster.trainer is None or max(params.stage1.nodes, params.stage2.nodes) == 1:
        return ""
    runtime = f"{cluster.trainer.kind} {cluster.trainer.runtime}"
    unchecked = "Kubeflow Trainer: not checked ({}); the step train does it before it starts"
    try:
        api = connect(namespace)
    except UserError as error:
        return unchecked.format(error.problem)
    try:
        api.check_trainer(cluster.trainer.kind, cluster.trainer.runtime)
    except NoAnswerError as error:
        return unchecked.format(error.problem)
    except UserError as error:
        remedy = f"{error.remedy}; --unchecked trainer if kubectl uses another cluster here"
        raise UserError(error.problem, place=error.place, remedy=remedy) from None
    return f"Kubeflow Trainer: {runtime}, at {api.address}"


def _check_reasons(spec: str, options: PipelineOptions) -> None:
    """Raise UserError if ``amt.reasons`` names a file that the step's pod or container would not find."""
    kind, _, path = spec.partition(":")
    mounts = [volume.path.rstrip("/") for volume in options.cluster.volumes]
    if kind in ("file", "endpoint") and not options.local and not any(is_below(path, mount) for mount in mounts):
        problem = f"names the file {path}, which no pod would find (mounted volumes: {', '.join(mounts) or 'none'})"
        remedy = "put it on a volume of the cluster profile and give its path there, or set amt.reasons=rules"
        raise UserError(problem, place="amt.reasons", remedy=remedy)


def digest_of_model(uri: str, *, finished: bool) -> str:
    """Return a digest of the model at ``uri``, for the cache key of the steps that read it; download nothing.

    Args:
        uri: Address of the model's folder.
        finished: It is a step's output folder, whose manifest holds its digest. Otherwise it is an original
            checkpoint, whose listing is digested: names, sizes and the store's checksums.

    Raises:
        UserError: The model is missing or incomplete, or Kubeflow cannot import from there.
    """
    scheme = uri.partition("://")[0] if "://" in uri else ""
    if scheme not in IMPORTABLE:
        problem = "Kubeflow imports models only from gs://, s3://, minio:// and oci://"
        raise UserError(problem, place=uri, remedy="copy the folder there, and give that address")
    if scheme not in EXAMINED:
        raise UserError(f"{scheme}:// cannot be examined from here", place=uri, remedy=f"use s3://, {_UNCHECKED}")
    store, files = _open_store(uri)
    if not files:
        raise UserError("no such folder", place=uri, remedy="copy the model's folder there, or correct the address")
    return _digest_of_output(uri, store, files) if finished else _digest_of_checkpoint(uri, store, files)


def _digest_of_output(uri: str, store: Any, files: Mapping[str, Mapping[str, Any]]) -> str:
    remedy = "copy the whole output folder of `emoverse train`, such as data/stage1"
    manifest = _json(uri, store, files, MANIFEST, remedy)
    try:
        digest, wanted = str(manifest["outputs"]["digest"]), set(manifest["outputs"]["files"])
    except (KeyError, TypeError):
        raise UserError("not the manifest of a step", place=f"{uri}/{MANIFEST}", remedy=remedy) from None
    _require(uri, sorted(wanted - files.keys()), remedy)
    return digest


def _digest_of_checkpoint(uri: str, store: Any, files: Mapping[str, Mapping[str, Any]]) -> str:
    remedy = "download the checkpoint again, whole, and copy it there"
    _require(uri, [name for name in ("config.json",) if name not in files], remedy)
    if _INDEX in files:
        shards = _json(uri, store, files, _INDEX, remedy).get("weight_map", {}).values()
        _require(uri, sorted(set(shards) - files.keys()), remedy)
    elif not any(name.endswith(".safetensors") for name in files):
        raise UserError("holds no weights (*.safetensors)", place=uri, remedy=remedy)
    keys = ("size", "ETag", "md5Hash", "crc32c")
    return digest_of_value({name: [file[key] for key in keys if key in file] for name, file in files.items()})


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


def _open_store(uri: str) -> tuple[Any, dict[str, dict[str, Any]]]:
    """Return the store and its information about each file below ``uri``, by path."""
    import fsspec

    try:
        store, root = fsspec.core.url_to_fs(uri.rstrip("/"), skip_instance_cache=True)
        root = root.rstrip("/")
        listing = store.find(root, detail=True)
    except FileNotFoundError:
        return None, {}
    # Each kind of store raises its own library's errors (botocore, gcsfs, google.auth, aiohttp).
    except Exception as error:
        message = " ".join((str(error) or type(error).__name__).split())
        remedy = f"check the address and this machine's credentials for it, {_UNCHECKED}"
        raise UserError(f"the store does not answer: {message}", place=uri, remedy=remedy) from None
    return store, {name[len(root) + 1 :]: file for name, file in sorted(listing.items()) if name != root}
