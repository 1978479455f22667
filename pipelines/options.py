"""The options that decide how the pipeline is compiled, and the arguments of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_type_hints

from components import Images
from emoverse.artifacts.digests import code_digest
from emoverse.artifacts.lineage import dvc_md5_in
from emoverse.artifacts.manifest import open_raw
from emoverse.config import TINY, Params, missing_base_model, plain
from emoverse.errors import UserError
from emoverse.fetching import RemoteConfigs, is_shared, public_settings
from pipelines.cluster import Cluster

Start = Literal["base-model", "convert", "stage1"]
MAX_SEEDS: Final = 8  # inputs of the component compare_seeds


@dataclass(frozen=True)
class PipelineOptions:
    """How the pipeline is compiled.

    Attributes:
        images: Container images, unless the cluster profile names others.
        cluster: The cluster profile.
        start: What training starts from: ``base-model`` makes the tiny model, ``convert`` takes the original InternVL2
            at ``model``, ``stage1`` takes ``model`` as stage 1's result and skips that stage.
        model: Address of a model outside the run.
        model_digest: Digest of the content of ``model``, where it was examined.
        shards: Number of pods that validate each corpus.
        seeds: Two or more seeds make the pipeline a sweep: one training per seed, then a comparison.
        revision: Git revision of the submission, for the pipeline's description.
        cache: Whether steps may be taken from Kubeflow's cache.
        labels: Image -> name of it in artifacts, where that says more.
        local: For kfp's own runner, which has no pods to configure and would wait between retries.
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
            raise UserError(f"{self.shards} is not a number of shards", place="--shards", remedy="give 1 or more")
        if len(set(self.seeds)) != len(self.seeds) or len(self.seeds) == 1 or len(self.seeds) > MAX_SEEDS:
            problem = f"a sweep needs two to {MAX_SEEDS} different seeds"
            raise UserError(problem, place="--seeds", remedy="such as --seeds 1 2 3")


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
class RunArguments:
    """The pipeline's arguments.

    Attributes:
        corpora: Arguments of ``fetch`` for each corpus.
        sections: Section of params.yaml -> its values.
        code: Step -> digest of its code.
        weights: Arguments of ``fetch`` for the base model's checkpoint; empty where the tiny base model is made.
    """

    corpora: list[dict[str, str]]
    sections: Mapping[str, dict[str, Any]]
    code: Mapping[str, str]
    weights: Mapping[str, str] = field(default_factory=dict)

    def as_keywords(self) -> dict[str, Any]:
        """Return the arguments by the pipeline's parameter names."""
        code = {"code_" + step.replace("-", "_"): digest for step, digest in self.code.items()}
        weights = {f"weights_{key}": self.weights.get(key, "") for key in ("md5", "remote", "root")}
        return {"corpora": self.corpora, **self.sections, **code, **weights}


def default_arguments(params: Params, base: Path) -> RunArguments:
    """Return the defaults of a compiled pipeline: corpora as the ``.dvc`` files below ``base`` name them, any code.

    A remote that is a folder of this machine is left out: a pod would not find it. A corpus without a ``.dvc`` file has
    an empty MD5, which the pipeline refuses until the run is given the real one.
    """
    source = params.base_model.source
    return RunArguments(
        [_tracked(name, corpus.root, base) for name, corpus in params.corpora.items()],
        _sections(params),
        dict.fromkeys(STEPS, ""),
        {} if source == TINY else _tracked("weights", source, base),
    )


def cluster_arguments(
    params: Params, corpora: list[dict[str, str]], weights: Mapping[str, str] | None = None
) -> RunArguments:
    """Return the arguments of a run on a cluster, which accepts only the code of this checkout."""
    return RunArguments(corpora, _sections(params), {step: code_digest(step) for step in STEPS}, weights or {})


def local_arguments(params: Params, base: Path) -> RunArguments:
    """Return the arguments of a run on this machine, with digests of the raw corpora and the code as they are now.

    Relative roots are taken from ``base``.

    Raises:
        UserError: A raw corpus or the base model's checkpoint is missing.
    """
    corpora = [_digested(name, base / corpus.root) for name, corpus in params.corpora.items()]
    source = params.base_model.source
    if source == TINY:
        return cluster_arguments(params, corpora)
    if not (base / source).is_dir():
        raise missing_base_model(base / source)
    return cluster_arguments(params, corpora, _digested("weights", base / source))


def _digested(name: str, root: Path) -> dict[str, str]:
    source = open_raw(root.absolute(), name=name)
    return {"corpus": name, "root": str(source.path), "md5": source.ancestry[source.digest]["dvc_md5"], "remote": ""}


def _tracked(name: str, root: str, base: Path) -> dict[str, str]:
    tracked = base / (root + ".dvc")
    entry = {"corpus": name, "root": root, "md5": dvc_md5_in(tracked) if tracked.is_file() else "", "remote": ""}
    if entry["md5"] and (base / ".dvc").is_dir():
        config = RemoteConfigs(base).named("", root)
        entry["remote"] = public_settings(config, place=root) if is_shared(config) else ""
    return entry


def _sections(params: Params) -> dict[str, dict[str, Any]]:
    return {name: plain(getattr(params, name)) for name in SECTIONS}
