"""Check what a run will need, before anything runs: the data, the image, the endpoint, the secrets."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Collection
from http.client import HTTPException
from pathlib import Path
from typing import Any

from emoverse.errors import UserError
from emoverse.fetching.resolve import Tracked, check_held, resolve
from emoverse.fetching.settings import lacking, travels
from emoverse.params import TINY, Params
from pipelines.cluster import WORKSPACE, Cluster

TOKEN = "KUBEFLOW_TOKEN"  # the variable that holds the bearer token of a cluster that asks for one


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
        if travels(tracked.config) and secrets:
            told = {variable for secret in cluster.secrets for variable in secret.env.values()}
            check_secrets(tracked, told | cluster.data.env.keys())
        if not travels(tracked.config) and not filled:
            problem = "the remote is a folder of this machine, which pods do not see"
            remedy = "name one that they reach (--remote), or the mounted volume that holds the data (--raw-volume)"
            raise UserError(problem, place=root, remedy=remedy)
        check_held(tracked)
        settings = tracked.remote if travels(tracked.config) else ""
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
    absent = lacking(tracked.config, given)
    if absent:
        problem = f"its remote needs {' and '.join(absent)}, which no secret of the cluster profile gives to the pods"
        remedy = (
            "name a Kubernetes secret that holds it under `secrets` in the profile (--cluster), or --unchecked secrets"
        )
        raise UserError(problem, place=tracked.path, remedy=remedy)


def check_endpoint(host: str) -> dict[str, Any]:
    """Return what Kubeflow Pipelines says of its health; raise UserError unless it is there and speaks v2beta1."""
    url = host.rstrip("/") + "/apis/v2beta1/healthz"
    if not url.startswith(("http://", "https://")):
        remedy = "for example --host http://localhost:8080"
        raise UserError("not an http(s) address", place=host, remedy=remedy)
    token = os.environ.get(TOKEN)
    try:
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
        with urllib.request.urlopen(request, timeout=10) as reply:
            found = json.loads(reply.read())
    except urllib.error.HTTPError as error:
        remedy = f"put a token into {TOKEN}" if error.code in (401, 403) else "give the address of Kubeflow Pipelines"
        raise UserError(f"the endpoint answers with HTTP {error.code}", place=url, remedy=remedy) from None
    except OSError as error:
        remedy = "check the address; `kubectl -n kubeflow port-forward svc/ml-pipeline-ui 8080:80` makes one at http://localhost:8080"
        raise UserError(f"the endpoint gives no answer: {error}", place=url, remedy=remedy) from None
    except (HTTPException, ValueError):
        found = None
    if not isinstance(found, dict):
        remedy = "give the address of Kubeflow Pipelines itself, past any login page"
        raise UserError("it answers something else than Kubeflow Pipelines does", place=url, remedy=remedy)
    return found
