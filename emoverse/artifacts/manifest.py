"""Read and write the manifest of an output folder, and publish output folders.

A folder is finished when it holds ``manifest.json``, which is written after everything else is on disk. The manifest
has no clock, host name or absolute path: the same inputs, parameters and code give the same bytes.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import re
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

from emoverse import __version__
from emoverse.artifacts.digests import (
    MANIFEST,
    code_digest,
    digest_of_files,
    digest_of_raw,
    folder_files,
    library_versions,
)
from emoverse.errors import DISK_FULL, UserError
from emoverse.registry import STEPS

SCHEMA = 1


@dataclass(frozen=True)
class Source:
    """One input of a step.

    Attributes:
        path: The folder.
        digest: Digest of its content.
        ancestry: Record of the step that made each artifact it comes from, by digest; that of a raw corpus has
            ``dvc_md5``.
        manifest: Its manifest; empty for a raw corpus.
    """

    path: Path
    digest: str
    ancestry: dict[str, Any]
    manifest: dict[str, Any]


def require_same_model(model: Source, output: Source) -> None:
    """Raise UserError when ``output`` (scores or an export) was not produced from ``model`` or from an export of it."""
    digest = output.manifest["inputs"].get("model", "")
    record = output.ancestry.get(digest, {})
    if record.get("step") == "export":  # scores of the onnx engine
        digest = record["inputs"].get("model", "")
    if digest != model.digest:
        problem = f"it was produced from a different model than {model.path}"
        remedy = "produce it again from that model, or give the right folder"
        raise UserError(problem, place=str(output.path), remedy=remedy)


@dataclass
class Draft:
    """An output folder before it is published: steps write below ``path`` and record rows, seeds and facts here."""

    path: Path
    rows: dict[str, Any] = field(default_factory=dict)
    seeds: dict[str, int] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)

    def count(self, *, rows_in: int, rows_out: int, dropped: Mapping[str, int] | None = None) -> None:
        """Record row counts; raise ValueError unless rows in = rows out + dropped rows."""
        reasons = {reason: n for reason, n in sorted((dropped or {}).items()) if n}
        if rows_in != rows_out + sum(reasons.values()):
            raise ValueError(f"rows lost silently: {rows_in} in, {rows_out} out, dropped {reasons}")
        self.rows = {"in": rows_in, "out": rows_out, "dropped": reasons}


def read_manifest(folder: Path, *, made_by: str = "") -> dict[str, Any]:
    """Read a finished folder's manifest; raise UserError when the folder is missing or unfinished."""
    remedy = f"run `emoverse {made_by}` (or `dvc repro`) first" if made_by else "run `dvc repro` first"
    if not folder.is_dir():
        raise UserError("no such folder", place=str(folder), remedy=remedy)
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"unfinished: it has no {MANIFEST}", place=str(folder), remedy=remedy)
    try:
        manifest = json.loads(path.read_text("utf-8"), parse_constant=_refuse_constant)
    except ValueError as error:
        raise UserError(f"not valid JSON ({error})", place=str(path), remedy=remedy) from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA or not _is_complete(manifest):
        raise UserError(f"not a manifest of schema {SCHEMA}", place=str(path), remedy="run its step again")
    step = str(manifest["step"])
    if made_by and step != made_by:
        raise UserError(f"an output of {step!r}, not of {made_by!r}", place=str(folder), remedy="give the right folder")
    return manifest


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


def _is_complete(manifest: Mapping[str, Any]) -> bool:
    """Return whether a manifest has every key that readers rely on, of the right type."""
    outputs = manifest.get("outputs")
    return (
        all(isinstance(manifest.get(key), str) for key in ("step", "name", "version", "code"))
        and all(isinstance(manifest.get(key), dict) for key in ("params", "inputs", "rows", "facts", "ancestry"))
        and isinstance(outputs, dict)
        and isinstance(outputs.get("files"), dict)
        and isinstance(outputs.get("digest"), str)
    )


def open_source(folder: Path, *, made_by: str = "", weights: bool = True) -> Source:
    """Open another step's output as an input, checking every byte against its manifest.

    Args:
        folder: The output folder.
        made_by: Name of the step it must come from; any step by default.
        weights: Whether files of weights must be there. A reader that needs none may be given a copy without them.

    Raises:
        UserError: The folder is unfinished, or a file is missing, changed or extra.
    """
    manifest = read_manifest(folder, made_by=made_by)
    remedy = "remove the folder and run `dvc repro` (or `dvc checkout --force`) to get it back"
    expected: dict[str, str] = manifest["outputs"]["files"]
    actual = folder_files(folder)
    for name in sorted(expected.keys() | actual.keys()):
        if not weights and name not in actual and is_weights(name):
            continue
        if expected.get(name) != actual.get(name):
            what = "changed" if name in expected else "is not in the manifest"
            what = what if name in actual else "is missing"
            raise UserError(f"{name} {what} since the step finished", place=str(folder), remedy=remedy)
    digest = str(manifest["outputs"]["digest"])
    if digest != digest_of_files(expected):
        raise UserError("its digest is not that of the files it lists", place=str(folder / MANIFEST), remedy=remedy)
    own = {k: manifest[k] for k in ("step", "name", "version", "code", "params", "inputs", "rows")}
    return Source(folder, digest, {**manifest["ancestry"], digest: own}, manifest)


def open_validated(folders: Sequence[Path]) -> dict[str, Source]:
    """Open outputs of ``validate`` as inputs, named ``validated/<corpus>``; raise UserError as `open_source` does."""
    sources = [open_source(folder, made_by="validate") for folder in folders]
    return {f"validated/{source.manifest['name']}": source for source in sources}


def open_raw(folder: Path, *, name: str) -> Source:
    """Open a raw corpus; its record holds the MD5 that the ``.dvc`` file of the same content holds."""
    if not folder.is_dir() or not any(folder.iterdir()):
        remedy = "run `dvc pull`, or set its root in params.yaml"
        raise UserError(f"the raw corpus {name!r} is not here", place=str(folder), remedy=remedy)
    return raw_source(folder, digest_of_raw(folder), name=name)


def raw_source(folder: Path, digests: tuple[str, str], *, name: str, step: str = "raw") -> Source:
    """Return a raw corpus as an input.

    Args:
        folder: The corpus.
        digests: ``(folder digest, DVC md5)`` of its content.
        name: Name of the corpus, or of a part of it.
        step: Recorded as the origin: ``raw``, or ``raw part`` for a part.
    """
    digest, md5 = digests
    return Source(folder, digest, {digest: {"step": step, "name": name, "dvc_md5": md5}}, {})


@contextmanager
def publish(
    out: Path,
    *,
    step: str,
    name: str = "",
    params: Mapping[str, Any],
    inputs: Mapping[str, Source],
    code_of: str = "",
    libraries: Sequence[str] | None = None,
) -> Iterator[Draft]:
    """Yield a draft folder and publish it at ``out`` when the body ends, manifest written last.

    When the body raises, the draft is removed and an earlier ``out`` stays as it was. Where ``out`` is a link, the
    folder that it points to is replaced. On a file system that cannot exchange two names (NFS among them) there is a
    moment without ``out``; a run killed in it is repaired by the next one.

    Args:
        out: Folder to publish.
        step: Name recorded in the manifest.
        name: Corpus or stage; the step's name by default.
        params: Parameters that decide the result.
        inputs: Inputs by name.
        code_of: Step of the registry whose code decides the result, if that is not ``step``.
        libraries: Distributions whose versions decide the result, if these are not the ones in the registry.

    Raises:
        UserError: Another process is writing the same folder, the folder holds files that no step wrote, it overlaps an
            input, or the disk is full.
    """
    notes = out.absolute().with_name(out.name + ".run.json")
    out = out.resolve()  # a link stays a link: what it points to is replaced
    if libraries is None:
        libraries = STEPS[code_of or step].libraries
    _check_replaceable(out, inputs)
    out.parent.mkdir(parents=True, exist_ok=True)
    started = time.time()
    with exclusive(out, step):
        _recover(out)
        draft = Draft(out.parent / f".{out.name}.partial")
        shutil.rmtree(draft.path, ignore_errors=True)  # what a killed run left behind
        try:
            draft.path.mkdir()
            yield draft
            files = folder_files(draft.path)
            manifest = {
                "schema": SCHEMA,
                "step": step,
                "name": name or step,
                "version": __version__,
                "code": code_digest(code_of or step),
                "params": dict(params),
                "inputs": {key: source.digest for key, source in sorted(inputs.items())},
                "outputs": {"digest": digest_of_files(files), "files": files},
                "rows": draft.rows,
                "seeds": draft.seeds,
                "facts": draft.facts,
                "libraries": library_versions(libraries),
                "ancestry": _merged(inputs),
            }
            _sync(draft.path)
            write_json(draft.path / MANIFEST, manifest)
            _replace_folder(draft.path, out)
        except Exception as error:  # safetensors, torch and onnx have exceptions of their own for a full disk
            if not is_disk_full(error):
                raise
            raise disk_full(out, draft.path) from error
        finally:
            shutil.rmtree(draft.path, ignore_errors=True)
        run = {"step": step, "host": socket.gethostname(), "started": started, "seconds": time.time() - started}
        if torch := sys.modules.get("torch"):  # which vector instructions its CPU kernels use decides the last bits
            run["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
        write_json(notes, {**run, **draft.run})


def _check_replaceable(out: Path, inputs: Mapping[str, Source]) -> None:
    """Raise UserError where publishing would remove files that no step wrote, or change an input."""
    if out.exists() and not out.is_dir():
        raise UserError("is a file", place=str(out), remedy="give --out a folder")
    if out.is_dir() and not (out / MANIFEST).is_file() and any(out.iterdir()):
        remedy = "give --out another folder, or remove this one yourself"
        raise UserError(f"holds files but no {MANIFEST}, so no step wrote it", place=str(out), remedy=remedy)
    for name, source in inputs.items():
        folder = source.path.resolve()
        if out.is_relative_to(folder) or folder.is_relative_to(out):
            problem = f"overlaps the input {name!r} ({source.path})"
            raise UserError(problem, place=str(out), remedy="give --out a folder of its own")


def write_json(path: Path, value: Any) -> None:
    """Write JSON durably: a temporary file beside ``path``, fsync, rename; sorted keys, two spaces, a final newline.

    Raises:
        ValueError: The value holds NaN or an infinity, which JSON does not have.
    """
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")  # threads and processes may write the same file
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as handle:
            handle.write(text + "\n")
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _merged(inputs: Mapping[str, Source]) -> dict[str, Any]:
    ancestry: dict[str, Any] = {}
    for source in inputs.values():
        ancestry.update(source.ancestry)
    return ancestry


@contextmanager
def exclusive(out: Path, step: str) -> Iterator[None]:
    """Hold the lock of an output; raise UserError naming the holder when another process has it.

    The lock is ``flock``: on NFS it works between machines only where the server and the mount support it.
    """
    path = out.with_name(f".{out.name}.lock")
    with path.open("a+", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            holder = handle.read().strip() or "another process"
            remedy = "wait for it to end, or stop it"
            raise UserError(f"being written by {holder}", place=str(out), remedy=remedy) from None
        handle.truncate(0)
        with contextlib.suppress(OSError):  # on a full disk the lock holds without its holder's name
            os.write(handle.fileno(), f"`emoverse {step}`, process {os.getpid()} on {socket.gethostname()}".encode())
        try:
            yield
        finally:
            handle.truncate(0)  # the file stays: removing it would let two later runs lock two different inodes


def _sync(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        _sync_one(path)


def _sync_one(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)  # a folder too: its entries must be on disk before a rename is
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _replace_folder(draft: Path, out: Path) -> None:
    """Put ``draft`` in the place of ``out``: in one step where the file system can exchange two names, else in two."""
    if out.exists() and _exchange(draft, out):
        _sync_one(out.parent)
        return  # the earlier output is now the draft, which the caller removes
    old = _old(out)
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    draft.rename(out)
    _sync_one(out.parent)
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names atomically (Linux's renameat2); return False where the system or file system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    at_cwd, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of <fcntl.h> and <linux/fs.h>
    return bool(renameat2(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), ctypes.c_uint(exchange)) == 0)


def _recover(out: Path) -> None:
    """Restore the earlier output when a run was killed between the two renames of ``_replace_folder``."""
    if _old(out).is_dir() and not out.exists():
        _old(out).rename(out)


def _old(out: Path) -> Path:
    return out.parent / f".{out.name}.old"


# The system's and safetensors' messages, and torch's, which compares byte counts.
_DISK_FULL_MESSAGE: Final = re.compile(r"No space left|Disk quota exceeded|unexpected pos|PytorchStreamWriter failed")


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error, of the system or of a library that writes files, says that the disk is full."""
    return getattr(error, "errno", None) in DISK_FULL or bool(_DISK_FULL_MESSAGE.search(str(error)))


def disk_full(out: Path, draft: Path) -> UserError:
    """Return the error that reports how much of ``out`` had been written to the folder or file ``draft``."""
    written = sum(p.stat().st_size for p in (draft, *draft.rglob("*")) if p.is_file())
    free = shutil.disk_usage(out.parent).free
    problem = f"the disk is full: {written:,} bytes were written and more are needed, {free:,} bytes are free"
    return UserError(problem, place=str(out), remedy=f"free more than {written:,} bytes there and run again")


_WEIGHTS: Final = ("*.safetensors", "*.onnx", "*.data")  # ``.data`` is stored beside a graph of more than 2 GB


def is_weights(name: str) -> bool:
    """Return whether a file of a step's output holds weights, by its name relative to the folder."""
    return any(fnmatch(name, pattern) for pattern in _WEIGHTS)


def copy_without_weights(folder: Path, place: Path) -> None:
    """Copy a step's output, manifest included, without its weights: what `open_source` takes with ``weights=False``."""
    shutil.copytree(folder, place, ignore=shutil.ignore_patterns(*_WEIGHTS), dirs_exist_ok=True)
