"""Digest files, folders, values and the code of steps, so that equal content has an equal name everywhere.

The code of a step is every module that its entry point imports, directly or not, also inside functions. It is digested
as a syntax tree without docstrings and comments, so rewording a comment re-runs nothing.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from emoverse.errors import UserError
from emoverse.registry import STEPS, Step

MANIFEST = "manifest.json"
_BLOCK = 1 << 20
# DVC leaves keys of these names, at any depth, out of its run cache's key: its own records have fields of these names.
IGNORED_BY_RUN_CACHE: Final = ("size", "nfiles")
PACKAGE: Final = Path(__file__).parents[1]
FILE_PREFIXES: Final = ("file", "endpoint")  # before the colon and the path of a file

# Modules that steps import and that decide no result. Changing one re-runs nothing.
NO_INFLUENCE: Final[dict[str, str]] = {
    "emoverse": "holds the version, which the manifest records",
    "emoverse.errors": "words messages",
    "emoverse.config": "checks parameters; the manifest records the values",
    "emoverse.registry": "declares steps; what it decides is recorded in the manifest",
    "emoverse.progress": "shows how far the work is",
    "emoverse.http": "sends requests; the answers are inputs",
    "emoverse.artifacts": "holds no code",
    "emoverse.artifacts.digests": "checks and names content and code",
    "emoverse.artifacts.manifest": "records and publishes results",
    "emoverse.artifacts.lineage": "checks and shows what manifests record",
}
# Packages whose modules are found by listing the folder: whoever imports the package may use any of them.
DISCOVERED: Final = ("emoverse.corpora", "emoverse.tasks")


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def files_below(root: Path) -> list[str]:
    """List the relative POSIX paths of all regular files below ``root``, sorted by code point.

    Raises:
        UserError: A name is not UTF-8; neither a manifest nor DVC can write it down.
    """
    found = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
    try:
        "".join(found).encode("utf-8")
    except UnicodeEncodeError:
        odd = [ascii(os.fsencode(name)) for name in found if any("\ud800" <= char <= "\udfff" for char in name)]
        raise UserError(
            f"file names that are not UTF-8: {', '.join(odd)}", place=str(root), remedy="rename them"
        ) from None
    return found


def folder_files(root: Path) -> dict[str, str]:
    """Map each file below ``root`` (the manifest itself aside) to its SHA-256."""
    return {name: sha256_file(root / name) for name in files_below(root) if name != MANIFEST}


def digest_of_files(files: Mapping[str, str]) -> str:
    """Return the folder digest: SHA-256 over the sorted (relative path, SHA-256) pairs."""
    lines = "".join(f"{name}\0{files[name]}\n" for name in sorted(files))
    return hashlib.sha256(lines.encode("utf-8")).hexdigest()


def canonical(value: Any) -> str:
    """Write a JSON value canonically: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest_of_value(value: Any) -> str:
    """Return the SHA-256 of a JSON value written canonically."""
    return hashlib.sha256(canonical(value).encode("utf-8")).hexdigest()


def raw_sums(root: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Map each file below a raw folder to its SHA-256, and to its MD5, reading each byte once."""
    return _apart({name: sha256_and_md5(root / name) for name in files_below(root)})


def digest_of_raw(root: Path) -> tuple[str, str]:
    """Return ``(folder digest, DVC md5)`` of a raw folder, reading each byte once.

    The second is what ``dvc add`` writes to the ``.dvc`` file: the MD5 of DVC's ``.dir`` listing. So a manifest can
    name the DVC-tracked version of its input with no DVC at hand, and the same on a cluster as on one machine.
    """
    sha, md5 = raw_sums(root)
    return digest_of_files(sha), dvc_dir_md5(md5)


def digest_of_pairs(pairs: Mapping[str, tuple[str, str]]) -> tuple[str, str]:
    """Return what ``digest_of_raw`` does, from the (SHA-256, MD5) of each file."""
    sha, md5 = _apart(pairs)
    return digest_of_files(sha), dvc_dir_md5(md5)


def _apart(pairs: Mapping[str, tuple[str, str]]) -> tuple[dict[str, str], dict[str, str]]:
    return {name: pair[0] for name, pair in pairs.items()}, {name: pair[1] for name, pair in pairs.items()}


def sha256_and_md5(path: Path) -> tuple[str, str]:
    """Return both digests of a file's bytes, in hexadecimal, reading it once."""
    one, two = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("rb") as handle:
        while block := handle.read(_BLOCK):
            one.update(block)
            two.update(block)
    return one.hexdigest(), two.hexdigest()


def dvc_dir_md5(md5_of: Mapping[str, str]) -> str:
    """Return the ``<md5>.dir`` name DVC gives a folder whose files have these MD5 sums."""
    # DVC orders the listing by the path as text, and writes it with json.dumps' own separators.
    listing = json.dumps([{"md5": md5_of[name], "relpath": name} for name in sorted(md5_of)], sort_keys=True)
    return hashlib.md5(listing.encode("utf-8"), usedforsecurity=False).hexdigest() + ".dir"


def code_digest(step: str, package: Path = PACKAGE) -> str:
    """Return the SHA-256 of the code that decides the result of ``step``.

    Args:
        step: Name of a step of the registry.
        package: Folder of the package ``emoverse``; this installation's by default.
    """
    declared = STEPS[step]
    return modules_digest((declared.module, *declared.extra_modules), package)


def modules_digest(entry_points: Iterable[str], package: Path = PACKAGE) -> str:
    """Return the SHA-256 of the modules that ``entry_points`` reach and of the data files that they name."""
    digests: dict[str, str] = {}
    for name in reachable_modules(entry_points, package):
        module = _module(name, package)
        digests[name] = module.digest
        for data in module.data_files:
            digests[data.relative_to(package).as_posix()] = sha256_file(data)
    return digest_of_files(digests)


def reachable_modules(entry_points: Iterable[str], package: Path = PACKAGE) -> list[str]:
    """Return the modules of the package that ``entry_points`` import, directly or not, in order of name.

    Imports for type checkers alone and the modules of NO_INFLUENCE (unless they are entry points) are left out.
    """
    entry_points = tuple(entry_points)
    seen: set[str] = set()
    waiting = list(entry_points)
    while waiting:
        name = waiting.pop()
        if name in seen or (name in NO_INFLUENCE and name not in entry_points):
            continue
        seen.add(name)
        waiting.extend(_module(name, package).imports)
        if name in DISCOVERED:
            folder = _path_of(name, package).parent
            waiting.extend(f"{name}.{path.stem}" for path in folder.glob("*.py") if path.name != "__init__.py")
    return sorted(seen)


def fingerprints(params: Mapping[str, Any], root: Path = Path(), package: Path = PACKAGE) -> dict[str, dict[str, Any]]:
    """Return what decides each DVC stage's result besides its declared dependencies and parameters.

    Args:
        params: The whole of params.yaml as plain values.
        root: Folder that relative paths in parameters start from.
        package: Folder of the package ``emoverse``; this installation's by default.

    Returns:
        A mapping from step to its code digest, its libraries' installed versions (None where one is missing), the
        SHA-256 of each file that a parameter names, and the parameters that DVC's run cache would not see.

    Raises:
        UserError: A parameter names a file that does not exist.
    """
    return {
        step.name: {
            "code": code_digest(step.name, package),
            "libraries": library_versions(step.libraries),
            "files": files_named_by(step, params, root),
            "parameters": parameters_unknown_to_run_cache(step, params),
        }
        for step in STEPS.values()
        if step.stages
    }


def parameters_unknown_to_run_cache(step: Step, params: Mapping[str, Any]) -> dict[str, Any]:
    """Map each parameter of ``step`` that DVC leaves out of its run cache's key to its value, by its dotted name.

    Without this, ``dvc repro`` after a change of ``media.size`` restores the results of the former size.
    """
    values: dict[str, Any] = {}

    def collect(value: Any, path: str) -> None:
        if isinstance(value, Mapping):
            for key, item in value.items():
                if key in IGNORED_BY_RUN_CACHE:
                    values[f"{path}.{key}"] = item
                collect(item, f"{path}.{key}")

    for section in step.sections:
        collect(params.get(section), section)
    return values


def files_named_by(step: Step, params: Mapping[str, Any], root: Path = Path()) -> dict[str, str]:
    """Map each parameter of ``step`` whose value is ``file:PATH`` or ``endpoint:PATH`` to the SHA-256 of that file."""
    digests = {}
    for key in step.file_parameters:
        value: Any = params
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        kind, colon, name = value.partition(":") if isinstance(value, str) else ("", "", "")
        if colon and kind in FILE_PREFIXES:
            path = root / name
            if not path.is_file():
                raise UserError("no such file", place=f"{key}: {path}", remedy="correct the path in params.yaml")
            digests[key] = sha256_file(path)
    return digests


def library_versions(distributions: Iterable[str]) -> dict[str, str | None]:
    """Map each distribution to its installed version, None where it is not installed."""
    versions: dict[str, str | None] = {}
    for name in sorted(distributions):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def _path_of(module: str, package: Path) -> Path:
    base = package.joinpath(*module.split(".")[1:])
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    raise ValueError(f"no module {module!r} in {package}")


def _exists(module: str, package: Path) -> bool:
    base = package.joinpath(*module.split(".")[1:])
    return base.with_suffix(".py").is_file() or (base / "__init__.py").is_file()


@dataclass(frozen=True)
class _Module:
    """What a module imports from this package, the digest of its code, and the data files that it names."""

    imports: tuple[str, ...]
    digest: str
    data_files: tuple[Path, ...]


def _module(name: str, package: Path) -> _Module:
    path = _path_of(name, package)
    return _analysed(path, package, path.stat().st_mtime_ns)


@cache
def _analysed(path: Path, package: Path, _mtime: int) -> _Module:
    tree = ast.parse(path.read_text("utf-8"))
    imports: set[str] = set()
    strings: set[str] = set()
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            waiting.extend(node.orelse)
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "emoverse":
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            imports.update(name if _exists(name, package) else str(node.module) for name in names)
        elif isinstance(node, ast.Import):
            imports.update(alias.name for alias in node.names if alias.name.split(".")[0] == "emoverse")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            strings.add(node.value)
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):  # the docstring
                node.body = node.body[1:]
        waiting.extend(ast.iter_child_nodes(node))
    named = [beside for beside in sorted(path.parent.iterdir()) if beside.suffix != ".py" and beside.name in strings]
    data = [beside for beside in named if beside.is_file()]  # a package beside may have the name of a key
    return _Module(tuple(sorted(imports)), hashlib.sha256(ast.dump(tree).encode()).hexdigest(), tuple(data))
