"""Read params.yaml: one frozen dataclass per section; errors name the key and the nearest known one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, get_type_hints

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from emoverse.errors import UserError, did_you_mean

Share = Field(ge=0.0, le=1.0)
Positive = Field(gt=0)
Seed = Field(ge=0, lt=1 << 32)  # what numpy takes
_frozen = dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))


@_frozen
class CorpusParams:
    """Where one raw corpus is; ``root`` is absolute or relative to the repository."""

    root: str


@_frozen
class MediaParams:
    """How a clip becomes frames: ``frames`` uniform segments, ``size`` pixels square, ``timeout`` in seconds.

    ``decoder`` decord is for clips whose packets prove the position of every picture; PyAV reads the others.
    """

    frames: int = Field(ge=1, le=64)
    size: int = Field(ge=16, le=1024)
    crop: Literal["center", "squash"] = "squash"
    colour: Literal["rgb", "grey-equalised"] = "rgb"
    encoding: Literal["png", "jpeg"] = "png"
    decoder: Literal["pyav", "decord"] = "pyav"
    timeout: float = Field(gt=0.0, le=86_400.0)


@_frozen
class ValidationParams:
    """What a clip must be to pass; durations in seconds, ``max_quarantined`` a share of the corpus's rows.

    ``min_fps`` and ``max_fps`` bound the mean frame rate, ``min_side`` and ``max_side`` width and height in pixels.
    """

    max_quarantined: float = Share
    min_duration: float = Field(ge=0.0)
    max_duration: float = Positive
    max_duration_gap: float = Positive
    min_fps: float = Field(default=1.0, ge=0.0)
    max_fps: float = Field(default=240.0, gt=0)
    min_side: int = Field(default=16, ge=1)
    max_side: int = Field(default=8192, ge=1)

    def __post_init__(self) -> None:
        """Raise ValueError for limits that no clip can keep to."""
        for what in ("duration", "fps", "side"):
            least, most = getattr(self, f"min_{what}"), getattr(self, f"max_{what}")
            if least > most:
                raise ValueError(f"min_{what} is {least:g}, above max_{what}, which is {most:g}")


@_frozen
class MixtureParams:
    """One stage's mixture: the corpora it draws on and, per task, the share of eligible rows it keeps.

    ``caps`` bounds the number of a task's rows, copies aside.
    """

    corpora: tuple[str, ...]
    tasks: dict[str, Annotated[float, Share]]
    caps: dict[str, Annotated[int, Positive]] = Field(default_factory=dict)


@_frozen
class AmtParams:
    """How utterances become the AMT dataset.

    ``validation_share`` is, for a corpus without a validation split, the share of its train dialogues that become one.
    """

    seed: int = Seed
    per_clip: Literal["one", "several"]
    zero_sentiment: Literal["drop", "positive", "own-class"]
    mosei_media: Literal["image", "video"]
    leakage: Literal["fail", "drop", "report"]
    ecpe_gold_emotions: bool | Literal["both"]
    reasons: str
    system: str
    modality_dropout: float = Share
    validation_share: dict[str, Annotated[float, Share]] = Field(default_factory=dict)
    stage1: MixtureParams
    stage2: MixtureParams


TINY: Final = "emoverse/models/tiny.py"  # the source of the tiny base model: its code, as DVC wants to see a file


def missing_base_model(source: Path) -> UserError:
    """Return the error for a base model whose folder is missing."""
    remedy = f"{how_to_get(source)}, or set base_model.source"
    return UserError("the base model's checkpoint is missing", place=str(source), remedy=remedy)


def how_to_get(source: Path) -> str:
    """Return what to do where a base model's folder is missing: the sample's is in the repository, others are not."""
    if source.parent.name == "sample":
        return "`dvc pull` it"
    download = f"hf download OpenGVLab/{source.name} --local-dir {source}"
    return f"`dvc pull` it, or `{download}` where there is network, copy that folder here and `dvc add` it"


@_frozen
class BaseModelParams:
    """The model that stage 1 starts from: a folder with an InternVL checkpoint, or a tiny one trained here (TINY).

    The rest is for the tiny one alone. ``faces`` are clips drawn for its pretraining, ``sentences`` examples of text
    alone and ``dialogues`` examples about who answers whom; ``face_epochs`` passes over the frames train the vision
    tower, ``epochs`` passes over the examples the language model.
    """

    source: str
    seed: int = Field(default=1, ge=0, lt=1 << 32)
    faces: int = Field(default=3000, ge=1)
    face_epochs: int = Field(default=5, ge=1)
    sentences: int = Field(default=4000, ge=1)
    dialogues: int = Field(default=4000, ge=0)
    epochs: int = Field(default=3, ge=1)
    threads: int = Field(default=1, ge=1)  # of the CPU, which decide the last bits of the weights


@_frozen
class TrainParams:
    """One stage of fine-tuning; the learning rate is the peak of a cosine, ``warmup`` a share of all steps.

    ``start`` is what a stage after the first goes on from: the model that stage left, its adapter merged in, or the
    base model with that adapter, trained further. ``projector`` with LoRA: ``lora`` gives it an adapter (the authors'
    scripts), ``full`` trains it whole (the paper's figure). ``attention`` auto is flash attention where it is installed
    and the device can, sdpa elsewhere. ``nodes`` machines with ``gpus`` GPUs each train together. ``sharding`` is
    DeepSpeed's ZeRO: the GPUs divide gradients and the optimizer's state among them (stage 2), the weights too (stage
    3). ``threads`` is the number of CPU threads of torch in each process, which decides the last bits of a result.
    ``deterministic`` makes torch refuse or replace operations whose result differs from run to run.
    ``validation_rows`` of each validation set are scored whenever a checkpoint is saved, 0 scores none; ``select`` is
    the checkpoint that is published: the last, or that with the lowest loss or the highest score on these rows.
    """

    start: Literal["merged", "adapter"] = "merged"
    seed: int = Seed
    epochs: float = Positive
    learning_rate: float = Positive
    batch_size: int = Field(ge=1)
    accumulation: int = Field(ge=1)
    max_length: int = Field(ge=16)
    tuner: Literal["lora", "full"]
    lora_rank: int = Field(ge=1)
    lora_alpha: int = Field(ge=1)
    lora_dropout: float = Share
    train_vision: bool
    projector: Literal["frozen", "lora", "full"]
    warmup: float = Share
    weight_decay: float = Field(ge=0.0)
    dtype: Literal["float32", "bfloat16", "float16"]
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"]
    gradient_checkpointing: bool
    group_by_length: bool
    workers: int = Field(ge=0)
    gpus: int = Field(ge=1)
    nodes: int = Field(default=1, ge=1)
    sharding: Literal["none", "zero2", "zero3"] = "none"
    save_every: int = Field(ge=1)
    threads: int = Field(default=1, ge=1)
    deterministic: bool = False
    validation_rows: int = Field(default=0, ge=0)
    select: Literal["last", "loss", "score"] = "last"

    def __post_init__(self) -> None:
        """Raise ValueError for settings that exclude each other."""
        if self.tuner == "full" and self.projector == "lora":
            raise ValueError("tuner full has no adapters: projector is full or frozen then")
        if self.tuner == "full" and self.start == "adapter":
            raise ValueError("tuner full has no adapter to go on from: start is merged then")
        if self.sharding != "none" and self.processes == 1:
            raise ValueError(f"sharding {self.sharding} divides among several GPUs: gpus or nodes is 2 or more then")
        if self.select != "last" and not self.validation_rows:
            raise ValueError(f"select {self.select} needs scored rows: validation_rows is 1 or more then")
        if self.sharding == "zero3" and self.validation_rows:
            raise ValueError("sharding zero3 leaves no GPU all weights to score with: validation_rows is 0 then")

    @property
    def processes(self) -> int:
        """The number of processes on all nodes together: one for each GPU."""
        return self.nodes * self.gpus


@_frozen
class EvaluateParams:
    """How a model is scored; ``controls`` blank the frames or the words of every test row with closed answers.

    ``agreement`` is how many rows of a test set are also answered by generation, to compare with the likelihoods.
    ``device`` auto is CUDA where available. ``threads`` is the number of CPU threads, which decides the last bits.
    """

    controls: tuple[Literal["text-only", "face-only"], ...]
    engine: Literal["torch", "onnx"] = "torch"
    closed: Literal["likelihood", "generation"]
    agreement: int = Field(ge=0)
    bootstrap: int = Field(ge=1)
    seed: int = Seed
    batch_size: int = Field(ge=1)
    max_new_tokens: int = Field(ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(default=1, ge=1)


@_frozen
class ToleranceParams:
    """How far graphs of one precision may be from torch, on rows of the test sets.

    ``absolute`` and ``relative`` bound the largest difference of a logit (relative to the row's largest), ``score``
    that of a test set's headline score; ``top1``, ``greedy`` and ``answers`` are the least shares of equal likeliest
    tokens, greedy replies and closed answers.
    """

    absolute: float = Positive
    relative: float = Positive
    top1: float = Share
    greedy: float = Share
    answers: float = Share
    score: float = Share


Precision = Literal["fp32", "fp16", "int8", "int4"]


@_frozen
class ExportParams:
    """What the ONNX graphs look like, how far they may be from torch, and how good the model must be.

    ``floor`` maps a task to its scores and the lowest value of each that is exported. ``compared`` is how many rows of
    each test set both answer, ``batch_size`` at a time; above ``one_file`` bytes weights are stored beside their graph.
    ``threads`` is the number of CPU threads, which decides the last bits.
    """

    precision: tuple[Precision, ...]
    compared: int = Field(ge=1)
    one_file: int = Field(ge=0, le=(1 << 31) - 1)
    batch_size: int = Field(default=32, ge=1)
    threads: int = Field(default=1, ge=1)
    tolerance: dict[Precision, ToleranceParams]
    floor: dict[str, dict[str, float]] = Field(default_factory=dict)


@_frozen
class Params:
    """The whole of params.yaml."""

    corpora: dict[str, CorpusParams]
    media: MediaParams
    validation: ValidationParams
    amt: AmtParams
    base_model: BaseModelParams
    stage1: TrainParams
    stage2: TrainParams
    evaluate: EvaluateParams
    export: ExportParams


Section = TypeVar("Section")


def load_params(path: Path = Path("params.yaml"), overrides: Mapping[str, Any] | None = None) -> Params:
    """Read and check params.yaml; ``overrides`` maps dotted keys (``stage1.epochs``) to values.

    Raises UserError for a missing or broken file and for an unknown, missing or ill-typed key.
    """
    try:
        tree = read_yaml(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(
            "no such file", place=str(path), remedy="run in the repository's root, or give --params"
        ) from None
    except (IsADirectoryError, PermissionError) as error:
        remedy = "give a readable YAML file to --params"
        raise UserError(f"cannot be read: {error.strerror}", place=str(path), remedy=remedy) from None
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 at byte {error.start}", place=str(path), remedy="save it as UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"not valid YAML: {what}", place=place, remedy="correct that line") from None
    if not isinstance(tree, dict):
        raise UserError("holds no mapping of sections", place=str(path), remedy="restore it with `git checkout`")
    for key, value in (overrides or {}).items():
        _set(tree, key, value, path)
    _check_effect(tree, overrides or {}, path)
    place = f"{path} with --set {', '.join(overrides)}" if overrides else str(path)
    _share(tree, place=place)
    return parse(Params, tree, place=place)


def _check_effect(tree: Mapping[str, Any], overrides: Mapping[str, Any], path: Path) -> None:
    """Raise UserError when a shared training parameter is overridden that a stage sets for itself."""
    for key in overrides:
        section, _, name = key.partition(".")
        hiding = [
            f"{stage}.{name}"
            for stage in ("stage1", "stage2")
            if section == "train" and isinstance(own := tree.get(stage), dict) and name in own
        ]
        if hidden := [own for own in hiding if own not in overrides]:
            problem = f"--set {key} has no effect: {path} sets {' and '.join(hidden)}, which take precedence"
            raise UserError(problem, remedy=f"--set {' or '.join(hidden)} instead")


def _share(tree: dict[str, Any], *, place: str) -> None:
    """Complete sections stage1 and stage2 by section ``train``; a stage's own values take precedence."""
    shared = tree.pop("train", {})
    if not isinstance(shared, dict):
        raise UserError("section train is not a mapping", place=place, remedy="give it the parameters of both stages")
    try:
        TypeAdapter(TrainParams).validate_json(json.dumps(shared, default=str), strict=True)
    except ValidationError as error:
        wrong = [{**item, "loc": ("train", *item["loc"])} for item in error.errors() if "missing" not in item["type"]]
        if problems := "; ".join(sentence({"train": TrainParams}, item) for item in wrong):
            raise UserError(problems, place=place, remedy="correct it there") from None
    for name in ("stage1", "stage2"):
        if isinstance(own := tree.get(name) or {}, dict):
            tree[name] = {**shared, **own}


def parse(kind: type[Section], tree: Mapping[str, Any], *, place: str) -> Section:
    """Turn plain JSON-like values into a section; raise UserError listing every bad key with its dotted name."""
    try:
        return TypeAdapter(kind).validate_json(json.dumps(tree, default=str), strict=True)
    except ValidationError as error:
        problems = "; ".join(sentence(kind, item) for item in error.errors())
        raise UserError(problems, place=place, remedy="correct it there") from None


def plain(section: Any) -> dict[str, Any]:
    """Return a section as JSON-like values, as a manifest records it."""
    return dict(json.loads(json.dumps(asdict(section))))


def _set(tree: dict[str, Any], key: str, value: Any, path: Path) -> None:
    *parents, last = key.split(".")
    node: Any = tree
    for name in parents:
        if not isinstance(node, dict) or name not in node:
            known = node if isinstance(node, dict) else {}
            raise UserError(f"unknown parameter {key!r}", place=str(path), remedy=did_you_mean(name, known))
        # YAML anchors make sections share one mapping: copy before writing, or stage2 changes with stage1.
        node[name] = dict(node[name]) if isinstance(node[name], dict) else node[name]
        node = node[name]
    if not isinstance(node, dict):
        raise UserError(f"unknown parameter {key!r}", place=str(path), remedy="give section.key=value")
    node[last] = value


def sentence(kind: Any, item: Any) -> str:
    """Return what pydantic's error ``item`` says about a section, or a mapping of sections; the key dotted."""
    dotted = ".".join(str(part) for part in item["loc"])
    if item["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = _known(kind, item["loc"][:-1])
        return f"unknown parameter {dotted!r}, {did_you_mean(str(item['loc'][-1]), known)}"
    if item["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"parameter {dotted!r} is missing"
    if item["type"] == "value_error":  # of a whole section: __post_init__ says it all
        return f"section {dotted!r}: {item['msg'].removeprefix('Value error, ')}"
    return f"parameter {dotted!r}: {item['msg']}, got {item['input']!r}"


def _known(kind: Any, path: tuple[Any, ...]) -> list[str]:
    for part in path:
        hints = kind if isinstance(kind, dict) else get_type_hints(kind) if is_dataclass(kind) else {}
        # A mapping such as corpora has no hints: its values share one type.
        kind = hints[part] if part in hints else getattr(kind, "__args__", (kind,))[0 if isinstance(part, int) else -1]
    return [f.name for f in fields(kind)] if is_dataclass(kind) else []


class _Loader(yaml.SafeLoader):
    """PyYAML with two corrections: ``1e-3`` is a number, as in YAML 1.2 and DVC, and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping; raise ConstructorError at a repeated key, which PyYAML would overwrite in silence."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is given twice", key.start_mark)
            seen.add(key.value)
        return dict(super().construct_mapping(node, deep))


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(text: str) -> Any:
    """Read YAML text as params.yaml and ``--set`` values are read; raise yaml.YAMLError when it is broken."""
    return yaml.load(text, _Loader)
