"""Check what a run will need, before anything runs: the data, the image, the endpoint, the secrets."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Collection
from pathlib import Path
from typing import Any

from emoverse.errors import UserError
from emoverse.fetching.resolve import Tracked, check_held, resolve
from emoverse.fetching.settings import travels, wanted
from emoverse.params import Params

TOKEN = "KUBEFLOW_TOKEN"  # the variable that holds the bearer token of a cluster that asks for one


def corpora(params: Params, *, base: Path, revision: str, remote: str, volume: str) -> list[dict[str, str]]:
    """Return what ``fetch`` needs of each corpus, as DVC knows them at a git revision.

    Raises UserError when one is not tracked, or lies where no pod can reach it.
    """
    found = []
    for name, one in params.corpora.items():
        tracked = resolve(one.root, repository=base, revision=revision, remote=remote)
        if not travels(tracked.config) and not volume:
            remedy = "name one that they reach (--remote), or the mounted folder that holds the data (--raw-volume)"
            raise UserError(
                "the remote is a folder of this machine, which pods do not see", place=one.root, remedy=remedy
            )
        settings = tracked.remote if travels(tracked.config) else ""
        found.append({"corpus": name, "root": one.root, "md5": tracked.md5, "remote": settings})
        check_held(tracked)
    return found


def check_secrets(tracked: Tracked, given: Collection[str]) -> None:
    """Raise UserError when the pods would lack a secret that reaching the remote takes on this machine."""
    lacking = [name for name in wanted(tracked.config) if name not in given]
    if lacking:
        remedy = "name a Kubernetes secret that holds it in the cluster profile (docs/kubeflow.md, Secrets)"
        problem = f"its remote needs {' and '.join(lacking)}, which no secret of the cluster profile gives"
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
    except ValueError:
        found = None
    if not isinstance(found, dict):
        remedy = "give the address of Kubeflow Pipelines itself, past any login page"
        raise UserError("it answers something else than Kubeflow Pipelines does", place=url, remedy=remedy)
    return found
