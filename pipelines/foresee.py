"""Collect what a plan compares: the server's latest runs, or DVC's lock file and status."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from emoverse.artifacts.source_digest import fingerprints
from emoverse.compat.dvc import changed_stages
from emoverse.config import Params, plain
from pipelines.kubeflow_api import KubeflowApi
from pipelines.options import PipelineOptions
from pipelines.pipeline import NAME, compile_to
from pipelines.plan import EarlierRun, Planned, cache_keys, plan, plan_of_repro
from pipelines.watch import Follower, Run

RUNS = 20  # of the server's latest, which are compared with


def plan_of_submission(
    params: Params, options: PipelineOptions, arguments: Mapping[str, Any], *, host: str, namespace: str = ""
) -> list[Planned]:
    """Return what a submission will run, compared with the latest runs of this pipeline on the server."""
    with tempfile.TemporaryDirectory() as folder:
        compile_to(Path(folder, "p.yaml"), params, options=options)
        documents = list(yaml.load_all(Path(folder, "p.yaml").read_text("utf-8"), yaml.CSafeLoader))
    api = KubeflowApi(host)
    return plan(cache_keys(documents, arguments), earlier_runs(api, namespace))


def earlier_runs(api: KubeflowApi, namespace: str = "") -> list[EarlierRun]:
    """Return the server's latest runs of this pipeline, newest first."""
    found = []
    for entry in api.runs(namespace=namespace, count=RUNS):
        documents = api.documents_of(entry)
        if not documents or documents[0].get("pipelineInfo", {}).get("name", "").rpartition("/")[2] != NAME:
            continue
        keys = cache_keys(documents, (entry.get("runtime_config") or {}).get("parameters") or {})
        _, steps = Follower(api, Run(entry["run_id"], "")).look()
        done = [step for step in steps if step.state in ("succeeded", "cached")]
        seconds = {step.name: step.seconds for step in done if step.state == "succeeded"}
        found.append(EarlierRun(keys, frozenset(step.name for step in done), seconds))
    return found


def plan_of_workspace(params: Params, root: Path, file: Path) -> list[Planned]:
    """Return what ``dvc repro`` will run here."""
    values = plain(params)
    written = yaml.load(file.read_text("utf-8"), yaml.CSafeLoader)
    now = {"params.yaml": written, "data/fingerprints.json": json.loads(json.dumps(fingerprints(values, file.parent)))}
    return plan_of_repro(root, now, changed_stages(root))
