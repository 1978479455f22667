"""The command ``doctor``: check that a machine has what the steps need, and that a cluster answers.

Each check tries the thing itself and gives one line. It never writes outside a temporary folder, and a missing package
is a finding: nothing needs to be installed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import emoverse
from emoverse.errors import UserError

FREE_BYTES: Final = 5 * 2**30  # the sample's results and DVC's cache take about one GiB, a trained InternVL2 more
NVIDIA_DEVICES: Final = (Path("/dev/nvidiactl"), Path("/dev/dxg"))  # the second is that of Windows' Linux
_SETUP: Final = "run `make setup`"
_DIR_SUFFIX: Final = ".dir"  # of the MD5 by which DVC names a folder


@dataclass(frozen=True)
class Finding:
    """Result of one check.

    Attributes:
        check: Name of the check.
        ok: Whether all is well.
        found: What was found.
        remedy: What to do; empty when all is well.
        needed: Whether the sample's run needs it.
    """

    check: str
    ok: bool
    found: str
    remedy: str = ""
    needed: bool = True

    @property
    def state(self) -> str:
        """Return ``ok``, ``fail`` (needed and missing) or ``none`` (missing and not needed)."""
        return "ok" if self.ok else "fail" if self.needed else "none"

    def line(self) -> str:
        """Return the finding as one line."""
        return f"{self.state:5} {self.check:10} {self.found}" + (f"; {self.remedy}" if self.remedy else "")

    def as_json(self) -> dict[str, Any]:
        """Return the finding as JSON values."""
        return {"state": self.state, **asdict(self)}


def add_doctor_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--host", metavar="URL", help="address of Kubeflow Pipelines, to check it too")
    parser.add_argument("--data", action="store_true", help="read every byte of DVC's cache and of folder remotes too")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), metavar="FILE", help="default params.yaml")


def run_doctor(args: argparse.Namespace) -> None:
    """Print one line per check; raise UserError when a required check failed."""
    results: list[Finding] = []

    def add(finding: Finding) -> None:
        results.append(finding)
        if not args.json:
            print(finding.line(), flush=True)

    lock = Path(emoverse.__file__).parents[1] / "requirements/lock.txt"
    for finding in findings(Path(), args.params, lock, deep=args.data):
        add(finding)
    if args.host:
        add(kubeflow(args.host))
        add(trainer())
    if args.json:
        states = [finding.as_json() for finding in results]
        print(json.dumps(states, indent=2, ensure_ascii=False, allow_nan=False))
    failed = [finding.check for finding in results if finding.state == "fail"]
    if failed:
        raise UserError(f"{len(failed)} of {len(results)} checks failed: {', '.join(failed)}", remedy="see above")


def findings(base: Path, params: Path, lock: Path, *, deep: bool = False) -> Iterator[Finding]:
    """Yield the result of each check of this machine.

    Args:
        base: Root of the repository.
        params: The parameters, whose corpora are checked.
        lock: The lock file to compare the installed packages with.
        deep: Whether to read every byte of the data.
    """
    yield python()
    yield versions(lock)
    yield decoder()
    yield gpu()
    yield disk(base)
    try:
        yield from raw_data(base, params, deep=deep)
        if (base / ".dvc").is_dir():
            yield from cache(base, deep=deep)
    except ModuleNotFoundError as error:
        yield Finding("data", False, f"cannot be checked: {error}", _SETUP)
    yield docker()


def python() -> Finding:
    """Check that this is the Python version that the lock file was resolved for."""
    good = sys.version_info[:2] == (3, 11)
    return Finding("python", good, ".".join(map(str, sys.version_info[:3])), "" if good else "use Python 3.11")


def versions(lock: Path) -> Finding:
    """Compare the installed packages with the lock file."""
    if not lock.is_file():
        return Finding("versions", False, "no lock file here", "run this in a checkout to compare", needed=False)
    try:
        from packaging.requirements import Requirement
    except ModuleNotFoundError as error:
        return Finding("versions", False, f"cannot be compared: {error}", _SETUP)
    wrong, count = [], 0
    for text in lock.read_text("utf-8").splitlines():
        if not text[:1].isalnum():
            continue
        requirement = Requirement(text.rstrip(" \\"))
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        count += 1
        installed = _installed(requirement.name)
        if not (installed and requirement.specifier.contains(installed, prereleases=True)):
            wrong.append(f"{requirement} (installed: {installed or 'none'})")
    if not wrong:
        return Finding("versions", True, f"all {count} packages match the lock file")
    return Finding("versions", False, f"{len(wrong)} of {count} packages differ, such as {wrong[0]}", _SETUP)


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def decoder(name: str = "pyav") -> Finding:
    """Write a tiny clip and read it back."""
    try:
        import numpy as np

        from emoverse.media.decode import read_frames
        from emoverse.media.probe import ClipError
        from emoverse.synthetic.clips import write_clip
    except ImportError as error:
        return Finding(name, False, f"cannot be imported: {error}", _SETUP)
    brightness: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "clip.mp4")
        write_clip(path, np.zeros((6, 32, 32, 3), np.uint8) + np.arange(6, dtype=np.uint8)[:, None, None, None] * 40)
        try:
            probe = read_frames(path, range, lambda _, f: brightness.append(int(f.mean())))
        except (ClipError, ImportError) as error:
            return Finding(name, False, f"cannot read a clip: {error}", f"{_SETUP}, which installs the decoder")
    good = probe.frames == 6 and brightness == sorted(set(brightness))
    return Finding(name, good, f"read {probe.frames} frames of {probe.codec}", "" if good else _SETUP)


def gpu() -> Finding:
    """Check that torch and onnxruntime compute on the GPU, if there is one."""
    if not any(path.exists() for path in NVIDIA_DEVICES):
        remedy = "the sample needs none; InternVL2 needs one, with a driver for CUDA 13"
        return Finding("gpu", False, "no NVIDIA device", remedy, needed=False)
    try:
        import torch

        torch.zeros(8, device="cuda").sum().item()
        name = torch.cuda.get_device_name(0)
        providers = _onnx_providers()
    except Exception as error:  # torch and onnxruntime raise many kinds of errors for a driver
        return Finding("gpu", False, f"does not compute: {error}", f"install a driver for CUDA 13, and {_SETUP}")
    good = providers[0] == "CUDAExecutionProvider"
    remedy = "" if good else f"torch's and onnxruntime-gpu's CUDA libraries must be the same: {_SETUP}"
    return Finding("gpu", good, f"{name}, onnxruntime with {providers[0]}", remedy)


def _onnx_providers() -> list[str]:
    """Return the providers that a session really uses: the list of available ones names CUDA on any machine."""
    import onnxruntime
    from onnx import TensorProto, helper

    onnxruntime.preload_dlls()
    wire = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "wire", wire[:1], wire[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CUDAExecutionProvider"])
    return list(session.get_providers())


def disk(base: Path) -> Finding:
    """Check the free space for results and DVC's cache."""
    free = shutil.disk_usage(base).free
    remedy = "" if free >= FREE_BYTES else f"free {FREE_BYTES / 2**30:.0f} GiB, or move DVC's cache: `dvc cache dir`"
    return Finding("disk", free >= FREE_BYTES, f"{free / 2**30:.0f} GiB free", remedy)


def raw_data(base: Path, params: Path, *, deep: bool) -> Iterator[Finding]:
    """Check that the DVC remote has all files of each corpus of params.yaml and of the weights."""
    from emoverse.config import TINY, load_params
    from emoverse.fetching import check_complete, resolve

    try:
        loaded = load_params(params)
    except UserError as error:
        yield Finding("params", False, f"{error.place}: {error.problem}", error.remedy)
        return
    roots = {f"raw {name}": corpus.root for name, corpus in loaded.corpora.items()}
    if loaded.base_model.source != TINY:
        roots["weights"] = loaded.base_model.source
    for name, root in roots.items():

        def check(root: str = root) -> str:
            tracked = resolve(root, repository=base)
            return f"{check_complete(tracked, deep=deep)} files in {tracked.config['url']}"

        yield _tried(name, check)


def _tried(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, check())
    except UserError as error:
        return Finding(name, False, f"{error.place}: {error.problem}", error.remedy)


def cache(base: Path, *, deep: bool) -> Iterator[Finding]:
    """Check ``dvc.lock`` and that DVC's cache has what it names; ``deep`` reads every byte."""
    try:
        outputs = cached_outputs(base)
    except UserError as error:
        yield Finding("dvc.lock", False, str(error).removesuffix(f"; {error.remedy}"), error.remedy)
        return
    complete = 0
    for output in outputs:
        problems = list(cache_problems(base, output, deep=deep))
        if problems == [(".", "missing")]:
            yield Finding("cache", False, f"{output.path} is not here", f"`{output.remedy}` brings it", needed=False)
        elif problems:
            name, problem = problems[0]
            name = f"its own ({output.md5})" if name == "." else name
            found = f"{len(problems)} objects of {output.path} are missing or changed: {name} is {problem}"
            md5 = name.rpartition("(")[2].rstrip(")")
            remedy = f"remove files/md5/{md5[:2]}/{md5[2:]} from DVC's cache and run `{output.repair}`"
            yield Finding("cache", False, found, remedy)
        else:
            complete += 1
    how = "every byte was read" if deep else "none of their files is missing; --data reads every byte"
    yield Finding("cache", True, f"{complete} of {len(outputs)} outputs are complete ({how})")


@dataclass(frozen=True)
class CachedOutput:
    """An output that DVC tracks: its path and its MD5.

    Attributes:
        remedy: Command that makes or downloads it where the cache has none of it.
        repair: Command that does so where the cache has a part of it.
    """

    path: str
    md5: str
    remedy: str
    repair: str


def cached_outputs(base: Path) -> list[CachedOutput]:
    """Return the outputs that ``.dvc`` files and ``dvc.lock`` below ``base`` name; raise UserError for a broken one."""
    from emoverse.artifacts.lineage import dvc_files
    from emoverse.fetching import LOCK, read_stages

    outputs = []
    for md5, path in sorted(dvc_files(base).items()):
        outputs.append(CachedOutput(path.removesuffix(".dvc"), md5, f"dvc pull {path}", f"dvc fetch {path}"))
    for name, stage in read_stages(base / LOCK).items():
        for out in stage.get("outs", []):
            commands = (f"dvc repro --pull {name}", f"dvc repro --force --single-item {name}")
            outputs.append(CachedOutput(str(out["path"]), str(out["md5"]), *commands))
    return outputs


def check_object(cache: Path, md5: str, *, deep: bool) -> str:
    """Return what is wrong with an object of the cache: nothing, ``missing``, or (``deep`` only) ``changed``."""
    path = cache / "files/md5" / md5[:2] / md5[2:]
    if not path.is_file():
        return "missing"
    if not deep:
        return ""
    with path.open("rb") as handle:
        actual = hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return "" if actual == md5.removesuffix(_DIR_SUFFIX) else "changed"


def cache_problems(base: Path, output: CachedOutput, *, deep: bool) -> Iterator[tuple[str, str]]:
    """Yield ``(file, problem)`` for the objects of an output; a problem with its list of files is named ``.``."""
    cache = cache_folder(base)
    if wrong := check_object(cache, output.md5, deep=True):
        yield ".", wrong
    elif output.md5.endswith(_DIR_SUFFIX):
        for entry in json.loads((cache / "files/md5" / output.md5[:2] / output.md5[2:]).read_text("utf-8")):
            if wrong := check_object(cache, entry["md5"], deep=deep):
                yield f"{entry['relpath']} ({entry['md5']})", wrong


def cache_folder(base: Path) -> Path:
    """Return the folder of DVC's cache."""
    from emoverse.compat.dvc import read_config

    configured = read_config(base)["cache"].get("dir")
    return Path(configured) if configured else base / ".dvc/cache"


def docker() -> Finding:
    """Ask the container engine for its version."""
    try:
        from docker import from_env

        client = from_env(timeout=10)
        return Finding("docker", True, f"version {client.version()['Version']}")
    except Exception as error:  # the client has errors of its own, and raises those of requests too
        remedy = "start it, or give yourself the right to use it; only images and `run-local --docker` need it"
        return Finding("docker", False, str(error).split("(")[0].strip(" :") or "no answer", remedy, needed=False)


def kubeflow(host: str) -> Finding:
    """Check that Kubeflow Pipelines answers at an address."""
    try:
        from emoverse.cli.options import add_checkout_to_path

        add_checkout_to_path()
        from pipelines.kubeflow_api import KubeflowApi

        version = KubeflowApi(host).health().get("tag_name") or "of unknown version"
        return Finding("kubeflow", True, f"Kubeflow Pipelines {version} answers at {host}")
    except UserError as error:
        return Finding("kubeflow", False, f"{error.place}: {error.problem}", error.remedy)
    except ModuleNotFoundError as error:
        return Finding("kubeflow", False, f"cannot be checked: {error}", "run `make setup`, and this in a checkout")


def trainer() -> Finding:
    """Look for Kubeflow Trainer in the cluster that kubectl uses; only training on several nodes needs it."""
    try:
        from emoverse.kubernetes_api import RUNTIME, connect

        api = connect()
        api.check_trainer("ClusterTrainingRuntime", RUNTIME)
        return Finding("trainer", True, f"Kubeflow Trainer has {RUNTIME} at {api.address}", needed=False)
    except UserError as error:
        return Finding("trainer", False, f"{error.place}: {error.problem}", error.remedy, needed=False)
    except ModuleNotFoundError as error:
        return Finding("trainer", False, f"cannot be checked: {error}", "run `make setup`", needed=False)
