"""Turn params.yaml into the arguments of the pipeline, with the digests that Kubeflow's cache needs and cannot find."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, get_type_hints

from emoverse.digests import canonical, code_digest
from emoverse.fetching.resolve import Remotes
from emoverse.fetching.settings import public, travels
from emoverse.lineage import dvc_md5_in
from emoverse.manifest import open_raw
from emoverse.params import TINY, Params, plain
from emoverse.steps import CODE

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
    return Arguments(corpora, _sections(params), {step: code_digest(CODE[step]) for step in STEPS}, weights or {})


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
        config = Remotes(base).named("", root)
        found["remote"] = public(config, place=root) if travels(config) else ""
    return found


def _sections(params: Params) -> dict[str, str]:
    return {name: canonical(plain(getattr(params, name))) for name in SECTIONS}
