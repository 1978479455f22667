"""Submit the pipeline to Kubeflow Pipelines, and watch a run to its end."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from emoverse.config import Params
from emoverse.errors import UserError
from pipelines.checks import TOKEN
from pipelines.options import PipelineOptions, RunArguments
from pipelines.pipeline import compile_to

ENDED: Final = ("SUCCEEDED", "FAILED", "SKIPPED", "ERROR", "CANCELED")
SYSTEM: Final = ("root-driver", "-driver", "executor")  # Kubeflow's own pods, which are no steps


@dataclass(frozen=True)
class Run:
    """A submitted run: where a person looks at it, and by what name the API knows it."""

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
    """Compile the pipeline as ``options`` want it and start a run of it; raise UserError when Kubeflow refuses.

    ``volume`` is the mounted folder that keeps raw corpora; empty: they travel as artifacts.
    """
    with tempfile.TemporaryDirectory() as folder, _answering(host):
        package = Path(folder, "emoverse.yaml")
        compile_to(package, params, base=base, options=options)
        client = _client(host, namespace)
        with contextlib.redirect_stdout(io.StringIO()):  # the client prints links of its own
            home = client.create_experiment(experiment, namespace=namespace or None)
            made = client.run_pipeline(
                home.experiment_id,
                job_name=f"{experiment} {time.strftime('%Y-%m-%d %H:%M')}",
                pipeline_package_path=str(package),
                params={**arguments.as_keywords(), "raw_volume": volume},
            )
    return Run(made.run_id, f"{host.rstrip('/')}/#/runs/details/{made.run_id}")


class SilentError(UserError):
    """Report an endpoint that gives no answer now, and may give one again."""


def watch(
    run: Run,
    *,
    host: str,
    namespace: str = "",
    pause: float = 10.0,
    patience: int = 30,
    say: Callable[[str], None] = print,
) -> None:
    """Say each step's states as they change until the run ends; raise UserError unless it succeeded.

    ``pause`` is the time between two questions, in seconds. A run takes days and a tunnel breaks now and then, so up to
    ``patience`` questions in a row may stay without an answer.
    """
    client, failed, unanswered = None, [], 0
    seen: dict[str, str] = {}
    while True:
        try:
            with _answering(host):
                client = client or _client(host, namespace)
                now = client.get_run(run.id)
        except SilentError:
            unanswered += 1
            if unanswered > patience:
                raise
            time.sleep(pause)
            continue
        unanswered = 0
        for step in _steps(now):
            if seen.get(step.task_id) != step.state:
                seen[step.task_id] = step.state
                say(f"{str(step.state).lower():10}  {step.display_name}")
                failed += [step.display_name] if step.state in ("FAILED", "ERROR") else []
        if now.state in ENDED:
            break
        time.sleep(pause)
    if now.state != "SUCCEEDED":
        problem = f"the run ended as {str(now.state).lower()}" + (f" at {', '.join(failed)}" if failed else "")
        raise UserError(
            problem, place=run.url, remedy="read that step's log there; steps that are done stay in the cache"
        )


def _steps(now: Any) -> list[Any]:
    tasks = (now.run_details and now.run_details.task_details) or []
    mine = [t for t in tasks if t.display_name and t.state and not t.display_name.endswith(SYSTEM)]
    return sorted(mine, key=lambda task: str(task.start_time or task.create_time or ""))


def _client(host: str, namespace: str) -> Any:
    from kfp import Client

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # that it speaks to Kubeflow Pipelines 2 alone, as it should
        return Client(host=host, existing_token=os.environ.get(TOKEN), namespace=namespace or "kubeflow")


@contextlib.contextmanager
def _answering(host: str) -> Iterator[None]:
    import kfp_server_api
    import urllib3

    try:
        yield
    except kfp_server_api.ApiException as error:
        if error.status >= 500:
            remedy = "look at Kubeflow's own pods; a run that was started goes on"
            raise SilentError(f"the endpoint answers with HTTP {error.status}", place=host, remedy=remedy) from None
        problem = f"Kubeflow refuses (HTTP {error.status}): {str(error.body or error.reason)[:300]}"
        raise UserError(problem, place=host, remedy="check your rights and the namespace (--namespace)") from None
    except urllib3.exceptions.HTTPError as error:
        problem = f"the endpoint gives no answer any more: {error}"
        raise SilentError(problem, place=host, remedy="a run that was started goes on; look at it in the UI") from None
