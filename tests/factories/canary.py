"""A token that must leave no trace, the variables that hold it, and the search for it."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Iterator
from pathlib import Path

TOKEN = "canary-remote-4711"
VARIABLES = (
    "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "EMOVERSE_REMOTE_PASSWORD", "HF_TOKEN", "OPENAI_API_KEY",
    "KUBEFLOW_TOKEN",
)  # fmt: skip
ENVIRONMENT = dict.fromkeys(VARIABLES, TOKEN)


def traces(root: Path) -> list[str]:
    """List the files below ``root`` that hold the token, in their bytes or, compressed, in what they unpack to."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and _holds(path))


def _holds(path: Path) -> bool:
    return any(TOKEN.encode() in content for content in _contents(path))


def _contents(path: Path) -> Iterator[bytes]:
    raw = path.read_bytes()
    yield raw
    if raw[:4] == b"PAR1":
        import pyarrow.parquet as pq

        table = pq.read_table(path)
        yield repr(table.to_pylist()).encode()
        yield repr(table.schema.metadata).encode()
    elif raw[:2] == b"\x1f\x8b":
        yield gzip.decompress(raw)
    elif raw[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(path) as archive:
            yield from (archive.read(name) for name in archive.namelist())
