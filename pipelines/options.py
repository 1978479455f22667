"""What decides how the pipeline is compiled, besides the parameters of a run: images, cluster, and its variants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_type_hints

from components.image import Images
from emoverse.artifacts.digests import canonical
from emoverse.artifacts.lineage import dvc_md5_in
from emoverse.artifacts.manifest import open_raw
from emoverse.artifacts.source_digest import code_digest
from emoverse.config import TINY, Params, plain
from emoverse.errors import UserError
from emoverse.fetching.fetch import RemoteConfigs
from emoverse.fetching.storage import is_shared, public_settings
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


STEPS: Final = (
    "validate",
    "build-amt",
    "base-model",
    "budget",
    "train",
    "evaluate",
    "export",
    "report",
)  # of the pipeline
SECTIONS: Final = tuple(name for name in get_type_hints(Params) if name != "corpora")


@dataclass(frozen=True)
class Arguments:
    """The pipeline's arguments: corpora (as ``fetch`` takes them), sections as JSON text, code digest per step.

    ``weights`` is the base model's checkpoint as ``fetch`` takes it; nothing where the tiny base model is made.
    Sections travel as text because Kubeflow's own dictionaries turn whole numbers into floats.
    """

    corpora: list[dict[str, str]]
    sections: Mapping[str, str]
    code: Mapping[str, str]
    weights: Mapping[str, str] = field(default_factory=dict)

    def as_keywords(self) -> dict[str, Any]:
        """Return the arguments by the pipeline's parameter names."""
        code = {"code_" + step.replace("-", "_"): digest for step, digest in self.code.items()}
        weights = {f"weights_{key}": self.weights.get(key, "") for key in ("md5", "remote", "root")}
        return {"corpora": self.corpora, **self.sections, **code, **weights}


def presets(params: Params, base: Path) -> Arguments:
    """Return what a compiled pipeline presets: corpora as their ``.dvc`` files below ``base`` say, any code.

    A remote that is a folder of this machine is left out: a pod would not find it. A corpus without a ``.dvc`` file has
    an empty MD5, which the pipeline refuses until the run is given the real one.
    """
    return Arguments(
        [_preset(name, one.root, base) for name, one in params.corpora.items()],
        _sections(params),
        dict.fromkeys(STEPS, ""),
        {} if params.base_model.source == TINY else _preset("weights", params.base_model.source, base),
    )


def ordered(params: Params, corpora: list[dict[str, str]], weights: Mapping[str, str] | None = None) -> Arguments:
    """Return the arguments of a run on a cluster: these corpora and weights, the code of this checkout and no other."""
    return Arguments(corpora, _sections(params), {step: code_digest(step) for step in STEPS}, weights or {})


def measured(params: Params, base: Path) -> Arguments:
    """Return the arguments of a run on this machine: the content of raw corpora and code, digested now.

    Relative roots are taken from ``base``. Raises UserError when a raw corpus is missing.
    """
    corpora = [_measured(name, base / one.root) for name, one in params.corpora.items()]
    source = params.base_model.source
    return ordered(params, corpora, {} if source == TINY else _measured("weights", base / source))


def _measured(name: str, root: Path) -> dict[str, str]:
    source = open_raw(root.absolute(), name=name)
    return {"corpus": name, "root": str(source.path), "md5": source.ancestry[source.digest]["dvc_md5"], "remote": ""}


def _preset(name: str, root: str, base: Path) -> dict[str, str]:
    tracked = base / (root + ".dvc")
    found = {"corpus": name, "root": root, "md5": dvc_md5_in(tracked) if tracked.is_file() else "", "remote": ""}
    if found["md5"] and (base / ".dvc").is_dir():
        config = RemoteConfigs(base).named("", root)
        found["remote"] = public_settings(config, place=root) if is_shared(config) else ""
    return found


def _sections(params: Params) -> dict[str, str]:
    return {name: canonical(plain(getattr(params, name))) for name in SECTIONS}
