"""Submit the pipeline to Kubeflow Pipelines: as a version of the pipeline ``emoverse``, and a run of that version."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from emoverse.artifacts.digests import digest_of_value
from emoverse.config import Params
from emoverse.errors import UserError
from emoverse.http import NoAnswerError
from pipelines.kubeflow_api import KubeflowApi
from pipelines.options import PipelineOptions, RunArguments
from pipelines.pipeline import NAME, compile_to
from pipelines.watch import Run

_SHORT: Final = 12  # characters of a revision or digest in a name


def submit(
    params: Params,
    arguments: RunArguments,
    options: PipelineOptions,
    *,
    base: Path,
    host: str,
    experiment: str,
    name: str = "",
    volume: str = "",
    namespace: str = "",
    cron: str = "",
) -> Run:
    """Compile the pipeline, upload it as a version unless the server has it, and start a run of it.

    Args:
        params: Parameters of the run.
        arguments: Arguments of the pipeline.
        options: How to compile the pipeline.
        base: The repository.
        host: Address of Kubeflow Pipelines.
        experiment: Experiment of the run, which is created if missing.
        name: Display name of the run. Empty: the experiment and the time.
        volume: Mounted folder with the raw corpora. Empty: they travel as artifacts.
        namespace: Namespace on a cluster with several users.
        cron: Start a run at each of these times instead of one now.

    Raises:
        UserError: Kubeflow refuses.
    """
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder, "emoverse.yaml")
        compile_to(package, params, base=base, options=options)
        text = package.read_text("utf-8")
    api = KubeflowApi(host)
    if api.health().get("multi_user") is True and not namespace:
        remedy = "give your namespace there"
        raise UserError("this cluster separates its users", place="--namespace", remedy=remedy)
    version = version_name(list(yaml.load_all(text, yaml.CSafeLoader)), options.revision)
    description = f"revision {options.revision}" if options.revision else "not in a git repository"
    reference = api.upload(NAME, version, text, description=description, namespace=namespace)
    made = api.experiment(experiment, namespace)
    name = name or f"{experiment} {time.strftime('%Y-%m-%d %H:%M')}"
    values: Mapping[str, Any] = {**arguments.as_keywords(), "raw_volume": volume}
    try:
        if cron:
            recurring = api.start_recurring_run(made, name, reference, values, cron)
            return Run(recurring, f"{api.address}/#/recurringrun/details/{recurring}")
        run = api.start_run(made, name, reference, values, description)
    except NoAnswerError as error:
        remedy = "look there whether the run has started before you submit again"
        raise UserError(error.problem, place=f"{api.address}/#/runs", remedy=remedy) from None
    return Run(run, api.run_url(run))


def version_name(documents: list[Any], revision: str) -> str:
    """Return a version's name: the git revision and a digest of the pipeline without its default parameters.

    A run gives every parameter, so runs that differ only in their parameters are runs of one version.
    """
    content = copy.deepcopy(documents)
    content[0]["pipelineInfo"].pop("description", None)
    for parameter in content[0]["root"]["inputDefinitions"]["parameters"].values():
        parameter.pop("defaultValue", None)
    dirty = "-dirty" if revision.endswith("-dirty") else ""
    return f"{(revision or 'unversioned')[:_SHORT]}{dirty} {digest_of_value(content)[:_SHORT]}"


def name_of_changes(overrides: list[str], seeds: tuple[int, ...]) -> str:
    """Return a run's name from what its user changed: ``stage1.epochs=1, seeds 1 2``."""
    parts = [*overrides, *([f"seeds {' '.join(map(str, seeds))}"] if seeds else [])]
    return ", ".join(parts)
