"""What decides how the pipeline is compiled, besides the parameters of a run: images, cluster, and its variants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from components.image import Images
from emoverse.errors import UserError
from pipelines.cluster import Cluster

Start = Literal["base-model", "convert", "stage1"]


@dataclass(frozen=True)
class Options:
    """How the pipeline is compiled.

    ``start`` says what training starts from: ``base-model`` makes the tiny one, ``convert`` takes the original
    InternVL2 at ``model``, ``stage1`` takes ``model`` as stage 1's result and skips that stage; ``model_digest`` is a
    digest of what lies there, where somebody looked. ``shards`` is how many
    pods validate each corpus; ``seeds`` (of more than one run of the training, to be compared) makes the pipeline a
    sweep. Without ``cache`` no step is taken from Kubeflow's cache. ``labels`` maps an image to what artifacts call it,
    where that says more. ``local``: for kfp's own runner, whose caller wants outputs (kfp allows none from within an
    exit handler) and which waits between retries.
    """

    images: Images = field(default_factory=Images)
    cluster: Cluster = field(default_factory=Cluster)
    start: Start = "base-model"
    model: str = ""
    model_digest: str = ""
    shards: int = 1
    seeds: tuple[int, ...] = ()
    revision: str = ""
    cache: bool = True
    labels: Mapping[str, str] = field(default_factory=dict)
    local: bool = False

    def __post_init__(self) -> None:
        """Raise UserError for options that contradict each other."""
        if (self.start == "base-model") == bool(self.model):
            problem = f"training starts from {self.start}" + (", but a model is given" if self.model else "")
            raise UserError(problem, place="--model", remedy="give --original or --model, with the place of a model")
        if self.shards < 1:
            raise UserError(f"{self.shards} is no number of shards", place="--shards", remedy="give 1 or more")
        if len(set(self.seeds)) != len(self.seeds) or len(self.seeds) == 1:
            raise UserError(
                "a sweep needs two or more different seeds", place="--seeds", remedy="such as --seeds 1 2 3"
            )
