"""Run the pipeline on this machine with Kubeflow's local runner and cache, each step a process or a container."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from kfp import local

import emoverse
from components import Images
from emoverse.artifacts.lineage import REVISION, revision
from emoverse.artifacts.manifest import read_manifest
from emoverse.compat.kfp import local_runner_contained, message_of
from emoverse.config import Params
from emoverse.errors import FAULT, UserError
from pipelines.checks import check_params
from pipelines.options import PipelineOptions, local_arguments
from pipelines.pipeline import NAME, pipeline

OUTPUTS = {  # the pipeline's output -> the folder's name in dvc.yaml
    "amt_dataset": "data/amt",
    "base": "data/base",
    "first": "data/stage1",
    "second": "data/stage2",
    "scores": "data/scores",
    "onnx": "data/onnx",
    "report": "reports",
}


@dataclass(frozen=True)
class Outcome:
    """One step of a local run: its output folder, that folder's digest, and whether the cache held it."""

    name: str
    folder: Path
    digest: str
    cached: bool


def run(
    params: Params, *, base: Path, root: Path, docker: bool = False, images: Images | None = None, shards: int = 1
) -> list[Outcome]:
    """Run the pipeline over the raw corpora below ``base``; return the outcome of each step, of validate per corpus.

    Args:
        params: Parameters of the run.
        base: The repository.
        root: Folder for outputs and cache.
        docker: Whether to run each step in its image.
        images: The images; without ``docker`` only names in the cache key.
        shards: Number of parts in which each corpus is validated.

    Raises:
        UserError: A raw corpus or an image is missing, or a step failed.
    """
    check_params(params, PipelineOptions(local=not docker))
    images, commit = images or Images(), revision(base)
    labels = image_ids(images) if docker else {}
    arguments = local_arguments(params, base)
    options = PipelineOptions(images=images, shards=shards, labels=labels, local=True)
    root = root.absolute()
    before = _runs(root)
    inputs = [*arguments.corpora, *([arguments.weights] if arguments.weights else [])]
    raw = [Path(folder["root"]) for folder in inputs] if docker else None
    with session(root, commit, containers=raw):
        task = pipeline(arguments, options)(**arguments.as_keywords())
    outcomes = [_outcome(name, folder, before) for name, folder in _folders(task.outputs).items()]
    _link(root / "latest", outcomes)
    return outcomes


@contextmanager
def session(root: Path, commit: str = "", *, containers: list[Path] | None = None) -> Iterator[None]:
    """Run kfp pipelines called in the body on this machine; raise UserError when one of their steps fails.

    ``commit`` is the git revision for the artifacts' metadata. ``containers``: run the steps in their images, with
    these folders mounted read-only.
    """
    (root / "workspace").mkdir(parents=True, exist_ok=True)  # kfp removes it with the run
    fault = root.absolute() / "fault.txt"
    fault.unlink(missing_ok=True)
    local.init(
        runner=local.SubprocessRunner(use_venv=False)
        if containers is None
        else docker_runner(root, containers, {FAULT: str(fault), REVISION: commit}),
        pipeline_root=str(root),
        workspace_root=str(root / "workspace"),
        enable_caching=True,
        cache_root=str(root / "cache"),
    )
    with _environment(commit, fault), local_runner_contained(), _children_end_with_this_process():
        try:
            yield
        except RuntimeError as error:
            message, remedy = message_of(error), "see the step's output above, then run the same command to continue"
            if fault.is_file():
                message, remedy = fault.read_text("utf-8"), "then run the same command to continue"
            raise UserError(f"the pipeline stopped: {message}", place=str(root), remedy=remedy) from error


def _runs(root: Path) -> list[Path]:
    return sorted(root.glob(f"{NAME}-*"))


def _folders(outputs: Mapping[str, Any]) -> dict[str, Path]:
    validated = [Path(artifact.path) for artifact in outputs["validated"]]
    folders = {f"data/validated/{read_manifest(folder)['name']}": folder for folder in validated}
    return folders | {name: Path(outputs[key].path) for key, name in OUTPUTS.items()}


def _outcome(name: str, folder: Path, before: list[Path]) -> Outcome:
    digest = str(read_manifest(folder)["outputs"]["digest"])
    return Outcome(name, folder, digest, any(folder.is_relative_to(run) for run in before))


def _link(latest: Path, outcomes: list[Outcome]) -> None:
    """Link the outputs in the layout of dvc.yaml: ``latest/data/amt`` and so on."""
    shutil.rmtree(latest, ignore_errors=True)
    for outcome in outcomes:
        link = latest / outcome.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(outcome.folder, target_is_directory=True)


@contextmanager
def _environment(commit: str, fault: Path) -> Iterator[None]:
    """Set the environment of the steps' processes: this package's path, the git revision, the file for an error."""
    here = str(Path(emoverse.__file__).parents[1])
    path = os.pathsep.join(p for p in (here, os.environ.get("PYTHONPATH")) if p)
    before = dict(os.environ)
    os.environ.update({"PYTHONPATH": path, REVISION: commit, FAULT: str(fault)})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _children_end_with_this_process() -> Iterator[None]:
    """End the steps' processes when this process is interrupted or terminated: they would continue without it."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():  # signal handlers are the main thread's
        before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    except KeyboardInterrupt:
        children = psutil.Process().children(recursive=True)
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.terminate()
        for child in psutil.wait_procs(children, timeout=10)[1]:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


USER = 10001  # of the Dockerfile
PASSED = ("OMP_NUM_THREADS", "EMOVERSE_ACTION_UNITS")  # variables that a step's result or speed depends on
_MAKE = "run `make image`, or name the images with --image-data and --image-train"


def image_ids(images: Images) -> dict[str, str]:
    """Map each image to its name with the engine's digest, for kfp's local cache and the artifacts: tags may move.

    Raises:
        UserError: No engine answers, or an image is missing.
    """
    import docker
    from docker.errors import DockerException, ImageNotFound

    try:
        client = docker.from_env()
        client.ping()
    except DockerException as error:
        remedy = "start one (`sudo dockerd &`, or Docker Desktop), or leave out --docker"
        raise UserError(f"no Docker engine answers ({error})", place="--docker", remedy=remedy) from None
    labels = {}
    try:
        for name in (images.data, images.train):
            labels[name] = f"{name.partition('@')[0]}@{client.images.get(name).id}"
    except ImageNotFound:
        raise UserError(f"the engine has no image {name}", place="--docker", remedy=_MAKE) from None
    finally:
        client.close()
    return labels


def docker_runner(root: Path, raw: Iterable[Path], env: Mapping[str, str]) -> Any:
    """Return kfp's runner, with ``root`` and (read-only) the raw corpora mounted at their own paths.

    Containers run as the calling user, who then owns the outputs. If that is root, they run as the images' user, and
    ``root`` is handed to it: no step may need privileges.
    """
    from docker.types import Mount

    uid, gid = os.getuid(), os.getgid()
    if uid == 0:
        uid = gid = USER
        for folder in (root, *(p for p in root.rglob("*") if p.is_dir() and not p.is_symlink())):
            os.chown(folder, uid, gid)
    mounts = [Mount(target=str(path), source=str(path), type="bind", read_only=True) for path in raw]
    passed = {key: os.environ[key] for key in PASSED if key in os.environ}
    return local.DockerRunner(user=f"{uid}:{gid}", mounts=mounts, environment={**passed, **env}, shm_size="2g")
