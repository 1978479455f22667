"""Which rooms of the package decide the result of which step.

``dvc.yaml`` lists the same rooms as dependencies (a test compares the two) and each manifest carries their digest, so
a changed prompt re-runs what depends on it, and only that, under both orchestrators.
"""

from __future__ import annotations

from typing import Final

CODE: Final[dict[str, tuple[str, ...]]] = {
    "validate": ("corpora", "media", "validation"),
    "build-amt": ("corpora", "tasks", "amt"),
    "base-model": ("models", "synthetic"),
    "train": ("training",),
    "evaluate": ("tasks", "inference", "evaluation"),
    "export": ("export", "inference"),
    "report": ("report",),
}
