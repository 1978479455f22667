"""Run the pipeline on this machine by Kubeflow's own local runner and cache, each step a process or a container."""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp import local

import emoverse
from components.image import Images
from emoverse.artifacts.lineage import REVISION, revision
from emoverse.artifacts.manifest import read_manifest
from emoverse.config import Params
from emoverse.errors import FAULT, UserError
from pipelines.checks import check_params
from pipelines.options import Options, measured
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
    """Run the pipeline over the raw corpora below ``base``; outputs and cache lie below ``root``.

    ``docker`` runs each step in its image; without, ``images`` are mere names. Returns each step's outcome, validate
    per corpus. Raises UserError when a raw corpus or an image is missing or a step fails.
    """
    check_params(params, Options())
    images, commit = images or Images(), revision(base)
    labels = image_ids(images) if docker else {}
    arguments = measured(params, base)
    options = Options(images=images, shards=shards, revision=commit if docker else "", labels=labels, local=True)
    root = root.absolute()
    before = _runs(root)
    read = [*arguments.corpora, *([arguments.weights] if arguments.weights else [])]
    raw = [Path(one["root"]) for one in read] if docker else None
    with session(root, commit, containers=raw):
        task = pipeline(arguments, options)(**arguments.as_keywords())
    outcomes = [_outcome(name, folder, before) for name, folder in _folders(task.outputs).items()]
    _link(root / "latest", outcomes)
    return outcomes


@contextmanager
def session(root: Path, commit: str = "", *, containers: list[Path] | None = None) -> Iterator[None]:
    """Let kfp pipelines called in the body run on this machine; raise UserError when a step of theirs fails.

    ``commit`` is the git revision that the artifacts' metadata shall name. ``containers``: run the steps in their
    images, where they see these folders.
    """
    (root / "workspace").mkdir(parents=True, exist_ok=True)  # kfp removes it with the run
    fault = root.absolute() / "fault.txt"
    fault.unlink(missing_ok=True)
    local.init(
        runner=local.SubprocessRunner(use_venv=False)
        if containers is None
        else runner(root, containers, {FAULT: str(fault)}),
        pipeline_root=str(root),
        workspace_root=str(root / "workspace"),
        enable_caching=True,
        cache_root=str(root / "cache"),
    )
    with _told(commit, fault), warnings.catch_warnings():
        # A task's display name is for the Kubeflow UI; kfp warns at each task that a local run does not show it.
        warnings.filterwarnings("ignore", message=".*have no effect in the current local runner")
        try:
            yield
        except RuntimeError as error:
            said = re.sub(r"\x1b\[\d+m", "", str(error)).rstrip(".")
            remedy = "read the step's own words above, then run the same command: it goes on from there"
            if fault.is_file():
                said, remedy = fault.read_text("utf-8"), "then run the same command: it goes on from there"
            raise UserError(f"the pipeline stopped: {said}", place=str(root), remedy=remedy) from error


def _runs(root: Path) -> list[Path]:
    return sorted(root.glob(f"{NAME}-*"))


def _folders(outputs: Mapping[str, Any]) -> dict[str, Path]:
    found = {}
    for artifact in outputs["validated"]:
        folder = Path(artifact.path)
        found[f"data/validated/{read_manifest(folder)['name']}"] = folder
    return found | {name: Path(outputs[key].path) for key, name in OUTPUTS.items()}


def _outcome(name: str, folder: Path, before: list[Path]) -> Outcome:
    digest = str(read_manifest(folder)["outputs"]["digest"])
    return Outcome(name, folder, digest, any(folder.is_relative_to(run) for run in before))


def _link(latest: Path, outcomes: list[Outcome]) -> None:
    """Lay out the outputs as dvc.yaml does, as links: ``latest/data/amt`` and so on."""
    shutil.rmtree(latest, ignore_errors=True)
    for one in outcomes:
        place = latest / one.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(one.folder, target_is_directory=True)


@contextmanager
def _told(commit: str, fault: Path) -> Iterator[None]:
    """Let the steps' processes import this package from where we did, installed or not, and know what to tell where."""
    here = str(Path(emoverse.__file__).parents[1])
    path = os.pathsep.join(p for p in (here, os.environ.get("PYTHONPATH")) if p)
    before = dict(os.environ)
    os.environ.update({"PYTHONPATH": path, REVISION: commit, FAULT: str(fault)})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


USER = 10001  # of the Dockerfile
TOLD = ("OMP_NUM_THREADS", "EMOVERSE_ACTION_UNITS")  # variables of ours that a step's result or speed depends on
_MAKE = "run `make image`, or name the images with --image-data and --image-train"


def image_ids(images: Images) -> dict[str, str]:
    """Map each image to itself with the digest the engine knows it by.

    A tag may name another image tomorrow, so kfp's local cache and the artifacts are told the digest. Raises UserError
    when no engine answers or an image is not there.
    """
    import docker
    from docker.errors import DockerException, ImageNotFound

    try:
        client = docker.from_env()
        client.ping()
    except DockerException as error:
        remedy = "start one (`sudo dockerd &`, or Docker Desktop), or leave out --docker"
        raise UserError(f"no docker engine answers ({error})", place="--docker", remedy=remedy) from None
    found = {}
    try:
        for name in (images.data, images.train):
            found[name] = f"{name.partition('@')[0]}@{client.images.get(name).id}"
    except ImageNotFound:
        raise UserError(f"the engine has no image {name}", place="--docker", remedy=_MAKE) from None
    finally:
        client.close()
    return found


def runner(root: Path, raw: Iterable[Path], env: Mapping[str, str]) -> Any:
    """Return kfp's runner: containers see ``root`` and, to read only, the raw corpora, at the paths they have here.

    They run as who calls, so that the outputs are the caller's; a root's as the images' own user, to whom ``root`` is
    given: what a step does must not need privileges.
    """
    from docker.types import Mount

    uid, gid = os.getuid(), os.getgid()
    if uid == 0:
        uid = gid = USER
        for folder in (root, *(p for p in root.rglob("*") if p.is_dir() and not p.is_symlink())):
            os.chown(folder, uid, gid)
    mounts = [Mount(target=str(one), source=str(one), type="bind", read_only=True) for one in raw]
    told = {key: os.environ[key] for key in TOLD if key in os.environ}
    return local.DockerRunner(user=f"{uid}:{gid}", mounts=mounts, environment={**told, **env}, shm_size="2g")
