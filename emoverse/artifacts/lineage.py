"""Trace what an output was made from: its manifest's ancestry as a tree, back to the raw corpora and their DVC MD5."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from pathspec import GitIgnoreSpec

from emoverse.artifacts.digests import MANIFEST, code_digest
from emoverse.artifacts.manifest import read_manifest
from emoverse.errors import UserError
from emoverse.registry import STEPS

DVC_IGNORE: Final = ".dvcignore"
SHORT = 12  # characters of a digest a person compares
# Variables that tell a step which git commit submitted its run, and the image it runs in.
REVISION, IMAGE_NAME = "EMOVERSE_REVISION", "EMOVERSE_IMAGE"


@dataclass(frozen=True)
class Node:
    """One artifact: the step's record that made it, and the artifacts that step read, by the name it gave them.

    ``step`` is ``raw`` for a raw corpus, whose ``record`` holds ``dvc_md5``; ``unknown`` where ancestry is missing.
    """

    digest: str
    step: str
    name: str
    record: Mapping[str, Any]
    inputs: Mapping[str, Node]

    def walk(self) -> Iterator[Node]:
        """Yield every artifact once, this one first, then its inputs depth first."""
        seen: set[str] = set()
        waiting = [self]
        while waiting:
            node = waiting.pop()
            if node.digest not in seen:
                seen.add(node.digest)
                yield node
                waiting.extend(reversed(list(node.inputs.values())))

    @property
    def raw(self) -> dict[str, str]:
        """Return the DVC MD5 of each raw corpus this artifact was made from, by corpus."""
        return {n.name: str(n.record["dvc_md5"]) for n in sorted(self.walk(), key=lambda n: n.name) if n.step == "raw"}


def folder_of(path: Path) -> Path:
    """Return the output folder a path belongs to: itself, or the nearest parent with a manifest."""
    if not path.exists():
        raise UserError("no such file or folder", place=str(path), remedy="give an output folder, such as data/scores")
    for folder in (path, *path.absolute().parents):
        if (folder / MANIFEST).is_file():
            return folder
    remedy = "give a finished output folder, such as data/scores"
    raise UserError(f"neither it nor a folder above it holds a {MANIFEST}", place=str(path), remedy=remedy)


def trace(folder: Path) -> Node:
    """Read the tree of everything an output folder was made from; its manifest alone suffices."""
    return tree_of(read_manifest(folder))


def tree_of(manifest: Mapping[str, Any]) -> Node:
    """Build the tree from a manifest's own record and its ancestry."""
    ancestry: Mapping[str, Any] = manifest["ancestry"]
    known: dict[str, Node] = {}

    def node(digest: str, record: Mapping[str, Any]) -> Node:
        if digest not in known:
            # guards against cyclic ancestry (a tampered manifest)
            known[digest] = Node(digest, "unknown", "unknown", {}, {})
            inputs = {key: node(d, ancestry.get(d, {})) for key, d in sorted(record.get("inputs", {}).items())}
            step = str(record.get("step", "unknown"))
            known[digest] = Node(digest, step, str(record.get("name", step)), record, inputs)
        return known[digest]

    return node(str(manifest["outputs"]["digest"]), manifest)


def check_code(step: str, wanted: str) -> None:
    """Raise UserError when this installation's code of a step is not the requested one (empty: any code)."""
    here = code_digest(step)
    if wanted and here != wanted:
        problem = f"the code here is {here[:SHORT]}, but the run asked for {wanted[:SHORT]}"
        raise UserError(problem, place=step, remedy="build the image from the revision that submits the run")


def check_given(folder: Path, wanted: str) -> None:
    """Raise UserError when the digest of a step's output is not the requested one (empty: any output)."""
    here = str(read_manifest(folder)["outputs"]["digest"])
    if wanted and here != wanted:
        problem = f"it is {here[:SHORT]}, but the run asked for {wanted[:SHORT]}"
        raise UserError(problem, place=str(folder), remedy="submit again: it was replaced since the run was submitted")


def made_with() -> dict[str, str]:
    """Return the git revision and the image of the run that this process is a step of, if the run sets them."""
    values = {"revision": os.environ.get(REVISION, ""), "image": os.environ.get(IMAGE_NAME, "")}
    return {key: value for key, value in values.items() if value}


def metadata_of(folder: Path, *, raw: str | None = None) -> dict[str, Any]:
    """Return the metadata of a Kubeflow artifact: digests, parameters, rows, and the ancestry, one line per artifact.

    Args:
        folder: The output folder of a step.
        raw: DVC MD5 of the raw corpus that the run requested; None where the step reads none.

    Raises:
        UserError: The folder was made from another corpus, or ``raw`` is empty.
    """
    manifest = read_manifest(folder)
    top = tree_of(manifest)
    if raw == "":
        problem = "the run names no MD5 for its raw corpus, so a cache could serve the result of another"
        raise UserError(problem, place=str(folder), remedy="submit with the md5 that the corpus's .dvc file holds")
    if raw is not None and raw not in top.raw.values():
        problem = f"made from {', '.join(top.raw.values()) or 'no raw corpus'}, but the run asked for {raw}"
        raise UserError(problem, place=str(folder), remedy="fetch the raw corpus again, or submit with its real digest")
    keys = ("version", "code", "params", "rows", "seeds", "libraries", "inputs")
    return {
        "digest": top.digest,
        # Not under the key `name`: Kubeflow's UI lists an artifact by that rather than by its `display_name`.
        "step": _title(top),
        **{key: manifest[key] for key in keys},
        "raw": top.raw,
        "made_from": [f"{n.step} {n.name} {n.digest}" for n in top.walk() if n is not top],
        **made_with(),
    }


def as_json(node: Node, tracked: Mapping[str, str]) -> dict[str, Any]:
    """Return the tree as JSON values; ``tracked`` maps a DVC MD5 to the ``.dvc`` file that names it."""
    own = {k: v for k, v in node.record.items() if k in ("version", "code", "params", "rows", "dvc_md5")}
    if node.step == "raw" and (place := tracked.get(str(node.record["dvc_md5"]))):
        own["dvc_file"] = place
    inputs = {key: as_json(child, tracked) for key, child in node.inputs.items()}
    return {"step": node.step, "name": node.name, "digest": node.digest, **own, "inputs": inputs}


def as_lines(top: Node, tracked: Mapping[str, str]) -> list[str]:
    """Draw the tree, one line per artifact; a branch that was drawn before is named, not drawn again."""
    lines: list[str] = []
    seen: set[str] = set()

    def draw(node: Node, label: str, lead: str, below: str) -> None:
        again = node.digest in seen and bool(node.inputs)
        lines.append(f"{lead}{label}{_sentence(node, tracked)}" + ("  (see above)" if again else ""))
        seen.add(node.digest)
        children = [] if again else list(node.inputs.items())
        for position, (key, child) in enumerate(children):
            last = position == len(children) - 1
            shown = "" if key in (child.name, child.step) else f"{key}: "
            draw(child, shown, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  "))

    draw(top, "", "", "")
    return lines


def _sentence(node: Node, tracked: Mapping[str, str]) -> str:
    if node.step == "raw":
        md5 = str(node.record["dvc_md5"])
        return f"raw {node.name}  md5 {md5}  {tracked.get(md5, '(no .dvc file here names it)')}"
    rows = node.record.get("rows") or {}
    counted = f"  rows {rows['in']} in, {rows['out']} out" if rows else ""
    return f"{_title(node)}  {node.digest[:SHORT]}{counted}"


def _title(node: Node) -> str:
    return node.step if node.name == node.step else f"{node.step} {node.name}"


def dvc_files(root: Path) -> dict[str, str]:
    """Map each MD5 that a ``.dvc`` file below ``root`` names to that file's path, relative to ``root``.

    Hidden folders and what a ``.dvcignore`` excludes are skipped, as DVC does.
    """
    files_by_md5: dict[str, str] = {}
    ignored: dict[Path, GitIgnoreSpec] = {}
    for name, folders, files in os.walk(root):
        folder = Path(name)
        if DVC_IGNORE in files:
            lines = (folder / DVC_IGNORE).read_text("utf-8", "replace").splitlines()
            ignored[folder] = GitIgnoreSpec.from_lines(lines)
        folders[:] = sorted(n for n in folders if not n.startswith(".") and not _is_ignored(folder / n, ignored, "/"))
        for path in (folder / name for name in sorted(files) if name.endswith(".dvc")):
            if not _is_ignored(path, ignored):
                files_by_md5[dvc_md5_in(path)] = path.relative_to(root).as_posix()
    return files_by_md5


def _is_ignored(path: Path, ignored: Mapping[Path, GitIgnoreSpec], suffix: str = "") -> bool:
    """Return whether a ``.dvcignore`` of a folder above excludes a file, or a folder (``suffix`` is then a slash)."""
    return any(
        spec.match_file(path.relative_to(folder).as_posix() + suffix)
        for folder, spec in ignored.items()
        if path.is_relative_to(folder)
    )


def dvc_md5_in(path: Path) -> str:
    """Read the MD5 of the one thing a ``.dvc`` file tracks; raise UserError when it is no such file."""
    try:
        (out,) = yaml.safe_load(path.read_text("utf-8"))["outs"]
        return str(out["md5"])
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise UserError("not a valid .dvc file", place=str(path), remedy="restore it with `git checkout`") from error


def revision(root: Path) -> str:
    """Return the git commit checked out at ``root``, with ``-dirty`` when files differ from it; empty without git."""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def made_by_other_code(top: Node) -> list[str]:
    """Name the steps of the tree whose code is not the code of this installation."""
    here = {step: code_digest(step) for step in STEPS}
    nodes = [n for n in top.walk() if n.step in here and n.record.get("code") != here[n.step]]
    return sorted({_title(n) for n in nodes})
