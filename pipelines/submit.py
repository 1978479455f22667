"""Submit the pipeline to Kubeflow Pipelines, and watch a run to its end."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from emoverse.config import Params
from emoverse.errors import UserError
from emoverse.http import NoAnswerError
from pipelines.kubeflow_api import KubeflowApi
from pipelines.options import PipelineOptions, RunArguments
from pipelines.pipeline import compile_to

ENDED: Final = ("SUCCEEDED", "FAILED", "SKIPPED", "ERROR", "CANCELED")
SYSTEM: Final = ("root-driver", "-driver", "executor")  # Kubeflow's own pods, which are no steps


@dataclass(frozen=True)
class Run:
    """A submitted run: its id in the API, and the address where a person looks at it."""

    id: str
    url: str


def submit(
    params: Params,
    arguments: RunArguments,
    options: PipelineOptions,
    *,
    base: Path,
    host: str,
    experiment: str,
    volume: str = "",
    namespace: str = "",
) -> Run:
    """Compile the pipeline as ``options`` say and start a run of it; raise UserError when Kubeflow refuses.

    ``volume`` is the mounted folder that keeps raw corpora; empty: they travel as artifacts.
    """
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder, "emoverse.yaml")
        compile_to(package, params, base=base, options=options)
        documents = list(yaml.safe_load_all(package.read_text("utf-8")))
    spec = documents[0] if len(documents) == 1 else {"pipeline_spec": documents[0], "platform_spec": documents[1]}
    api = KubeflowApi(host)
    if api.health().get("multi_user") is True and not namespace:
        remedy = "give your namespace there"
        raise UserError("this cluster separates its users", place="--namespace", remedy=remedy)
    made = api.experiment(experiment, namespace)
    name = f"{experiment} {time.strftime('%Y-%m-%d %H:%M')}"
    try:
        run = api.start_run(made, name, spec, {**arguments.as_keywords(), "raw_volume": volume})
    except NoAnswerError as error:
        remedy = "look there whether the run has started before you submit again"
        raise UserError(error.problem, place=f"{api.address}/#/runs", remedy=remedy) from None
    return Run(run, api.run_url(run))


def watch(
    run: Run,
    *,
    host: str,
    pause: float = 10.0,
    patience: int = 30,
    say: Callable[[str], None] = print,
) -> None:
    """Print each step's states as they change until the run ends; raise UserError unless it succeeded.

    Args:
        run: the submitted run.
        host: address of Kubeflow Pipelines.
        pause: seconds between two requests.
        patience: requests in a row that may stay without an answer. A run takes days, and a tunnel breaks now and then.
        say: takes each line.
    """
    api, failed, unanswered = KubeflowApi(host, retries=0), [], 0
    seen: dict[str, str] = {}
    while True:
        try:
            now = api.run(run.id)
            unanswered = 0
        except UserError as error:
            unanswered += 1
            if isinstance(error, NoAnswerError) and unanswered <= patience:
                time.sleep(pause)
                continue
            remedy = f"{error.remedy}; the run continues, look at it there"
            raise type(error)(f"no longer watched: {error.problem}", place=run.url, remedy=remedy) from None
        for step in _steps(now):
            if seen.get(step["task_id"]) != step["state"]:
                seen[step["task_id"]] = step["state"]
                say(f"{step['state'].lower():10}  {step['display_name']}")
                failed += [step["display_name"]] if step["state"] in ("FAILED", "ERROR") else []
        state = str(now.get("state"))
        if state in ENDED:
            break
        time.sleep(pause)
    if state != "SUCCEEDED":
        problem = f"the run ended as {state.lower()}" + (f" at {', '.join(failed)}" if failed else "")
        remedy = "read that step's log there; steps that are done stay in the cache"
        raise UserError(problem, place=run.url, remedy=remedy)


def _steps(run: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    tasks = (run.get("run_details") or {}).get("task_details") or []
    own = [t for t in tasks if t.get("display_name") and t.get("state") and not t["display_name"].endswith(SYSTEM)]
    return sorted(own, key=lambda task: str(task.get("start_time") or task.get("create_time") or ""))
