"""Private interfaces of transformers.

- ``config._attn_implementation``: ``set_attn_implementation`` changes the attention of a loaded model, but no public
  attribute tells which it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def sdpa_attention(model: Any) -> Iterator[None]:
    """Run a model with sdpa for a while: flash attention takes no mask of its own for each token."""
    before = model.config._attn_implementation
    if before == "sdpa":
        yield
        return
    model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        model.set_attn_implementation(before)
