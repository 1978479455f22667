"""Which rooms of the package decide the result of which step.

``dvc.yaml`` lists the same rooms as dependencies (a test compares the two) and each manifest carries their digest, so
a changed prompt re-runs what depends on it, and only that, under both orchestrators.
"""

from __future__ import annotations

from typing import Final

# Reading stored frames back; how they were made is validate's.
FRAMES: Final = ("media/frames.py", "media/transform.py")

# What is expected of AMT rows.
EXPECTATIONS: Final = ("validation/amt_rows.py", "validation/expectations.py")

# Counting a row's tokens as the trainer does.
TOKENS: Final = ("prompt/budget.py", "prompt/encode.py", "prompt/model_settings.py")

# Steps -> folders and modules of this package. What only checks, records, moves or loads (manifest.py, params.py and
# their like) decides no result and is left out; so a clearer error message trains no model anew.
CODE: Final[dict[str, tuple[str, ...]]] = {
    "validate": ("corpora", "media", "validation", "artifacts/tables.py"),
    "build-amt": ("corpora", "tasks", "amt", "chat_client.py", *EXPECTATIONS, *FRAMES),
    "base-model": ("models", "synthetic", "media/transform.py"),
    "convert": ("models/convert",),
    "budget": TOKENS,  # a gate of its own on a cluster; on one machine train begins with it
    "train": ("training", "models/model_folder.py", "prompt", *FRAMES),
    "evaluate": ("corpora/base.py", "tasks", "inference", "prompt", "evaluation", *FRAMES),
    "export": ("corpora/base.py", "tasks", "export", "inference", "prompt", *FRAMES),
    "report": (
        "corpora/base.py",
        "tasks",
        "evaluation",
        "report",
        "artifacts/lineage.py",
        "artifacts/tables.py",
        *TOKENS,
        *FRAMES,
    ),
}
