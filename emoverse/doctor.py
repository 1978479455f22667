"""Check that a machine has what the steps need: each check tries the thing itself and gives one line."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from emoverse.errors import UserError

ROOM: Final = 5 * 2**30  # bytes; the sample's results and DVC's cache take about one, a trained InternVL2 more
NVIDIA: Final = (Path("/dev/nvidiactl"), Path("/dev/dxg"))  # the second is Windows' own Linux


@dataclass(frozen=True)
class Finding:
    """What one check found.

    ``needed`` is False where the work can be done without it; the remedy is empty when all is well.
    """

    check: str
    ok: bool
    found: str
    remedy: str = ""
    needed: bool = True

    @property
    def state(self) -> str:
        """Return ``ok``, ``mend`` (needed and not there) or ``none`` (not there, not needed)."""
        return "ok" if self.ok else "mend" if self.needed else "none"

    def line(self) -> str:
        """Return the finding as one line."""
        return f"{self.state:5} {self.check:10} {self.found}" + (f"; {self.remedy}" if self.remedy else "")

    def plain(self) -> dict[str, Any]:
        """Return the finding as JSON values."""
        return {"state": self.state, **asdict(self)}


def findings(base: Path, params: Path, lock: Path, *, deep: bool = False) -> Iterator[Finding]:
    """Yield what each check of this machine finds; ``base`` is the repository's root, ``deep`` reads all its data."""
    yield python()
    yield versions(lock)
    yield from (decoder(name) for name in ("decord", "pyav"))
    yield gpu()
    yield disk(base)
    yield from raw_data(base, params)
    if (base / ".dvc").is_dir():
        yield from kept(base, deep=deep)
    yield docker()


def python() -> Finding:
    """Check that this is the Python the lock was resolved for."""
    found = ".".join(map(str, sys.version_info[:3]))
    return Finding(
        "python", sys.version_info[:2] == (3, 11), found, "" if sys.version_info[:2] == (3, 11) else "use 3.11"
    )


def versions(lock: Path) -> Finding:
    """Compare what is installed with the lock file."""
    from packaging.requirements import Requirement

    if not lock.is_file():
        return Finding("versions", False, "no lock file here", "run this in a checkout to compare", needed=False)
    wrong, count = [], 0
    for text in lock.read_text("utf-8").splitlines():
        if text[:1].isalnum():
            one = Requirement(text.rstrip(" \\"))
            if one.marker is None or one.marker.evaluate():
                count += 1
                here = _installed(one.name)
                wrong += (
                    []
                    if here and one.specifier.contains(here, prereleases=True)
                    else [f"{one} (here: {here or 'none'})"]
                )
    if not wrong:
        return Finding("versions", True, f"all {count} packages are the lock's")
    return Finding("versions", False, f"{len(wrong)} of {count} differ, such as {wrong[0]}", "run `make setup`")


def decoder(name: str) -> Finding:
    """Write a tiny clip and read it back with one decoder."""
    try:
        import numpy as np

        from emoverse.media.decode import read_frames
        from emoverse.media.probe import ClipError
        from emoverse.synthetic.clips import write_clip
    except ImportError as error:
        return Finding(name, False, f"cannot be imported: {error}", "run `make setup`")
    seen: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "clip.mp4")
        write_clip(path, np.zeros((6, 32, 32, 3), np.uint8) + np.arange(6, dtype=np.uint8)[:, None, None, None] * 40)
        try:
            probe = read_frames(path, range, lambda _, frame: seen.append(int(frame.mean())), decoders=[name])
        except ClipError as error:
            return Finding(name, False, f"cannot read a clip: {error}", "run `make setup`; it brings the decoder")
    good = probe.frames == 6 and seen == sorted(set(seen))
    return Finding(name, good, f"read {probe.frames} frames of {probe.codec}", "" if good else "run `make setup`")


def gpu() -> Finding:
    """Check that torch and onnxruntime compute on the GPU, where there is one."""
    if not any(path.exists() for path in NVIDIA):
        remedy = "the sample needs none; InternVL2 needs one, with a driver for CUDA 13"
        return Finding("gpu", False, "no NVIDIA device", remedy, needed=False)
    try:
        import torch

        torch.zeros(8, device="cuda").sum().item()
        name = torch.cuda.get_device_name(0)
        providers = _onnx_providers()
    except Exception as error:  # torch and onnxruntime raise whatever the driver made of it
        return Finding("gpu", False, f"does not compute: {error}", "install a driver for CUDA 13, and run `make setup`")
    good = providers[0] == "CUDAExecutionProvider"
    remedy = "" if good else "torch's CUDA libraries must be onnxruntime-gpu's: run `make setup`"
    return Finding("gpu", good, f"{name}, onnxruntime with {providers[0]}", remedy)


def disk(base: Path) -> Finding:
    """Check the space where results and DVC's cache go."""
    free = shutil.disk_usage(base).free
    remedy = "" if free >= ROOM else f"free {ROOM / 2**30:.0f} GiB, or move DVC's cache: `dvc cache dir`"
    return Finding("disk", free >= ROOM, f"{free / 2**30:.0f} GiB free", remedy)


def raw_data(base: Path, params: Path) -> Iterator[Finding]:
    """Check, for each corpus of params.yaml and the weights, that the repository's DVC remote holds all files."""
    from emoverse.config import TINY, load_params
    from emoverse.fetching.fetch import check_complete, resolve

    try:
        found = load_params(params)
    except UserError as error:
        yield Finding("params", False, str(error))
        return
    roots = {f"raw {name}": one.root for name, one in found.corpora.items()}
    if found.base_model.source != TINY:
        roots["weights"] = found.base_model.source
    for name, root in roots.items():

        def held(root: str = root) -> str:
            tracked = resolve(root, repository=base)
            return f"{check_complete(tracked)} files in {tracked.config['url']}"

        yield _tried(name, held)


def kept(base: Path, *, deep: bool) -> Iterator[Finding]:
    """Check ``dvc.lock`` and that DVC's cache holds what it names; ``deep`` reads every byte."""
    from emoverse.fetching.storage import cache_problems, tracked

    try:
        outputs = tracked(base)
    except UserError as error:
        yield Finding("dvc.lock", False, str(error).removesuffix(f"; {error.remedy}"), error.remedy)
        return
    whole = 0
    for one in outputs:
        wrong = list(cache_problems(base, one, deep=deep))
        if wrong == [(".", "missing")]:
            yield Finding("cache", False, f"{one.path} is not here", f"`{one.remedy}` brings it", needed=False)
        elif wrong:
            name, what = wrong[0]
            name = f"its own ({one.md5})" if name == "." else name
            found = f"{len(wrong)} objects of {one.path} are missing or changed: {name} is {what}"
            yield Finding("cache", False, found, _mending(one.remedy, name))
        else:
            whole += 1
    how = "every byte was read" if deep else "none of their files is missing; --data reads every byte"
    yield Finding("cache", True, f"{whole} of {len(outputs)} outputs are here and whole ({how})")


def _mending(remedy: str, name: str) -> str:
    md5 = name.rpartition("(")[2].rstrip(")")
    return f"remove files/md5/{md5[:2]}/{md5[2:]} from DVC's cache and run `{remedy}`"


def docker() -> Finding:
    """Ask the container engine for its version."""
    try:
        from docker import from_env

        client = from_env(timeout=10)
        return Finding("docker", True, f"version {client.version()['Version']}")
    except Exception as error:  # the engine's client has errors of its own, and raises requests' too
        remedy = "start it, or give yourself the right to use it; only images and `run-local --docker` need it"
        return Finding("docker", False, str(error).split("(")[0].strip(" :") or "no answer", remedy, needed=False)


def _tried(check: str, question: Callable[[], str]) -> Finding:
    try:
        return Finding(check, True, question())
    except UserError as error:
        return Finding(check, False, f"{error.place}: {error.problem}", error.remedy)


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _onnx_providers() -> list[str]:
    """Return the providers a session really got: the list of available ones names CUDA on any machine."""
    import onnxruntime
    from onnx import TensorProto, helper

    onnxruntime.preload_dlls()
    wire = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "wire", wire[:1], wire[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CUDAExecutionProvider"])
    return list(session.get_providers())
