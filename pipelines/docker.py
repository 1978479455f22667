"""Let kfp's local runner run the steps in the project's images, by the docker engine of this machine."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kfp import local

from components.image import Images
from emoverse.errors import UserError

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
