"""Components of the Kubeflow pipeline, one file a step, and the names of the container images that they run in.

A compiled pipeline may name others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from emoverse import __version__

# A name without "python" in it makes kfp's local runner warn at every task that the image may not be a Python one.
DATA: Final = f"emoverse-data-python:{__version__}"  # no torch: fetch, validate, build-amt, report
TRAIN: Final = f"emoverse-train-python:{__version__}"  # torch and CUDA: models, train, evaluate, export


@dataclass(frozen=True)
class Images:
    """The two images of the Dockerfile, by any reference a container engine takes; best by digest."""

    data: str = DATA
    train: str = TRAIN
