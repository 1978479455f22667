"""Behaviour of Kubeflow Pipelines that its public interface does not state.

tests/unit/test_compat_kfp.py holds each function to the installed version. The module itself does not import kfp:
steps use it inside their images.
"""

from __future__ import annotations

import ast
import builtins
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import yaml

from emoverse.config import Section, parse

# kfp.dsl.constants.WORKSPACE_MOUNT_PATH: the public name is a placeholder that is only resolved in component arguments,
# but profiles and checks compare paths with it.
WORKSPACE: Final = "/kfp-workspace"

# kfp's local cache treats a step as done only if every output artifact has a file; metrics live in the metadata.
_METRICS_FILE: Final = "see the artifact's metadata\n"


def section(kind: type[Section], value: Mapping[str, Any], *, place: str) -> Section:
    """Parse a parameter section that reached a component as a ``dict``.

    The compiler and the local runner pass dictionaries through protobuf's Struct, which stores every number as a
    float; the server returns whole numbers as integers. Both forms give the same section.

    Raises:
        UserError: An unknown key or a value of the wrong type.
    """
    return parse(kind, whole_numbers(value), place=place)


def whole_numbers(value: Any) -> Any:
    """Return ``value`` with every whole float replaced by an int, at any depth."""
    if isinstance(value, Mapping):
        return {key: whole_numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [whole_numbers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def write_placeholder(*artifacts: Any) -> None:
    """Write the file that the local cache expects of an artifact whose content is its metadata."""
    for artifact in artifacts:
        Path(artifact.path).write_text(_METRICS_FILE, "utf-8")


def with_printable_header(compiled: str, documents: Sequence[Mapping[str, Any]]) -> str:
    """Return a compiled pipeline whose header comment has one order of default values and only printable characters.

    The compiler prints them from protobuf maps, whose order differs between processes, and prints text as it is: a
    line separator in it ends the comment, and a control character makes the file unreadable.

    Args:
        compiled: Text of the compiled file.
        documents: Its YAML documents, which begin where the header ends.
    """
    body = yaml.dump_all(documents, sort_keys=True)
    if not compiled.endswith(body):
        raise ValueError("kfp no longer writes its header followed by yaml.dump_all's text")

    def replace(match: re.Match[str]) -> str:
        return match[1] + repr(_sorted(whole_numbers(ast.literal_eval(match[2])))) + "]"

    header = compiled.removesuffix(body)
    header = re.sub(r"^(#    \w+: (?:list|dict) \[Default: )(.*)\]$", replace, header, flags=re.MULTILINE)
    lines = [line if not line or line.startswith("#") else f"#    {line}" for line in header.split("\n")]
    printable = ("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line) for line in lines)
    return "\n".join(printable) + body


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


@contextmanager
def local_runner_contained() -> Iterator[None]:
    """Silence the local runner's warning, once per task, that it does not show display names; restore ``print``.

    Tasks replace ``print`` by an indented one while they run; several at a time leave the wrong one behind.
    """
    before = builtins.print
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*have no effect in the current local runner")
            yield
    finally:
        builtins.print = before


def message_of(error: RuntimeError) -> str:
    """Return the text of the local runner's error without its terminal colours."""
    return re.sub(r"\x1b\[\d+m", "", str(error)).rstrip(".")
