"""Describe a checkpoint in one form, whatever its layout, and read and check folders of the native layout.

The kind is recognised by config.json alone. Native (``internvl``) are ``-hf`` and ``-HF``, and what transformers saves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from emoverse.errors import UserError
from emoverse.models.checkpoint import read_header, read_json, weight_files

Config = Mapping[str, Any]
Layout = Literal["original", "native"]
TABLE: Final = "docs/bases.md"
MEAN: Final = (0.485, 0.456, 0.406)
STD: Final = (0.229, 0.224, 0.225)
"""Every published InternVL normalises as ImageNet does (internvl/train/constants.py)."""

# Language model class -> (native model type, native class, row of the table in docs/bases.md).
LANGUAGE_MODELS: Final = {
    "Qwen2ForCausalLM": ("qwen2", "Qwen2ForCausalLM", "qwen2"),
    "InternLM2ForCausalLM": ("llama", "LlamaForCausalLM", "internlm2"),
    "InternLM3ForCausalLM": ("llama", "LlamaForCausalLM", "internlm3"),
    "LlamaForCausalLM": ("llama", "LlamaForCausalLM", "llama"),
    "Phi3ForCausalLM": ("phi3", "Phi3ForCausalLM", "phi3"),
    "Qwen3ForCausalLM": ("qwen3", "Qwen3ForCausalLM", "qwen3"),
    "Qwen3MoeForCausalLM": ("qwen3_moe", "Qwen3MoeForCausalLM", "qwen3-moe"),
}
NATIVE_CLASSES: Final = {kind: name for kind, name, _ in LANGUAGE_MODELS.values()}
_ROWS: Final = {"GptOssForCausalLM": "gpt-oss", "gpt_oss": "gpt-oss"}
_DOWNLOAD = "copy the whole folder again"
_CODE: Final = (".py", ".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".msgpack", ".h5", ".so")
_CONVERT: Final = "turn it into a native model with `emoverse convert`"
_KEPT = ("downsample_ratio", "projector_hidden_act", "vision_feature_layer", "vision_feature_select_strategy")


@dataclass(frozen=True)
class Architecture:
    """What config.json says about a model.

    ``language_model`` is the class that config.json names, ``rows`` those of its embedding, ``heads`` and ``key_heads``
    its attention heads, ``tied`` whether its output head is the embedding. ``settings`` are the arguments of
    transformers' InternVLConfig, without what depends on the tokenizer. A tile is ``image_size`` pixels square;
    ``tiles`` is how many an image may be split into, 1 for none. ``template`` is the prompt format by name, for a
    native model by the text of its chat template.
    """

    layout: Layout
    language_model: str
    rows: int
    heads: int
    key_heads: int
    tied: bool
    settings: dict[str, Any]
    dtype: str | None
    image_size: int
    tokens_per_tile: int
    template: str
    system_message: str | None = None
    min_tiles: int = 1
    tiles: int = 1
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    drop_path_rate: float = 0.0

    def native_settings(self, *, rows: int, image_token: int, dtype: str) -> dict[str, Any]:
        """Return the arguments of InternVLConfig for an embedding of ``rows`` rows."""
        return {
            **self.settings,
            "architectures": ["InternVLForConditionalGeneration"],
            "vision_config": {**self.settings["vision_config"], "dtype": dtype},
            "text_config": {
                **self.settings["text_config"],
                "vocab_size": rows,
                "tie_word_embeddings": False,
                "dtype": dtype,
            },
            "image_token_id": image_token,
            "image_seq_length": self.tokens_per_tile,
            "tie_word_embeddings": False,
            "dtype": dtype,
        }


def unknown_kind(problem: str, name: object, place: str, known: Iterable[str]) -> UserError:
    """Return the error for a model that cannot be a base, pointing at its row in the table of bases.

    Args:
        problem: What is wrong.
        name: The unknown class or model type.
        place: Path of config.json.
        known: The names that are supported.
    """
    row = _ROWS.get(str(name), "not-supported")
    remedy = f"see {TABLE}#{row}; known: {', '.join(known)}"
    return UserError(problem, place=place, remedy=remedy)


def tokens_of(image_size: int, patch_size: int, downsample_ratio: float) -> int:
    """Return how many tokens of the language model a tile becomes (256 for every published InternVL)."""
    return int((image_size // patch_size) ** 2 * downsample_ratio**2)


def first(*values: Any) -> Any:
    """Return the first value that is not None."""
    return next((value for value in values if value is not None), None)


def check_model_folder(folder: Path) -> dict[str, Any]:
    """Return config.json of a native InternVL with complete safetensors files and without code or pickles.

    Raises:
        UserError: A file is missing, cut off, or could run code.
    """
    config = read_config(folder)
    for path in sorted(folder.rglob("*")):
        if path.suffix in _CODE:
            remedy = "convert the original checkpoint with `emoverse convert`, and use only weights that you trust"
            raise UserError(f"{path.name} could run code when loaded, refused", place=str(folder), remedy=remedy)
    if config.get("model_type") != "internvl":
        problem = f"its model_type is {config.get('model_type')!r}: not a native InternVL"
        raise UserError(problem, place=str(folder), remedy=_CONVERT)
    check_language_model(config, str(folder / "config.json"))
    for path in sorted(folder.glob("*.json")):  # a tokenizer or a processor can request code, too
        if '"auto_map"' in path.read_text("utf-8"):
            raise UserError(f"{path.name} requests remote code (auto_map)", place=str(folder), remedy=_CONVERT)
    for name in weight_files(folder):
        read_header(folder / name)
    return config


def read_config(folder: Path) -> dict[str, Any]:
    """Read a model folder's config.json; raise UserError when it is missing or not a JSON object."""
    if not (folder / "config.json").is_file():
        raise UserError("no config.json: not a model folder", place=str(folder), remedy="give a model's folder")
    return read_json(folder / "config.json")


def read_native(config: Config, folder: Path) -> Architecture:
    """Read the native layout's config.json and processor files.

    Raises:
        UserError: The language model is unknown, the model is quantised, or settings contradict each other.
    """
    place = str(folder / "config.json")
    vision, text = (check_section(config, name, place) for name in ("vision_config", "text_config"))
    language_model = check_language_model(config, place)
    if config.get("quantization_config") or text.get("quantization_config"):
        raise UserError("quantization_config (give the unquantised checkpoint)", place=place, remedy=_DOWNLOAD)
    side, patch = (_side(vision.get(key, default)) for key, default in (("image_size", 448), ("patch_size", 14)))
    tokens = tokens_of(side, patch, config.get("downsample_ratio", 0.5))
    pixels = _image_processor(folder)
    if (shown := _side(pixels.get("size", side))) != side:
        problem = f"images are resized to {shown} pixels, the vision tower sees {side}"
        raise UserError(problem, place=str(folder / "preprocessor_config.json"), remedy=_DOWNLOAD)
    if (configured := config.get("image_seq_length", tokens)) != tokens:
        raise UserError(f"image_seq_length {configured}, a tile gives {tokens} tokens", place=place, remedy=_DOWNLOAD)
    return Architecture(
        layout="native",
        language_model=language_model,
        rows=int(text["vocab_size"]),
        heads=1,  # native tensors are not split
        key_heads=1,
        tied=bool(config.get("tie_word_embeddings", True) or text.get("tie_word_embeddings", False)),
        settings={
            "vision_config": _without_dtype(vision),
            "text_config": {**_without_dtype(text), "architectures": [language_model]},
            **{key: config[key] for key in _KEPT if key in config},
        },
        dtype=first(config.get("torch_dtype"), config.get("dtype"), text.get("torch_dtype"), text.get("dtype")),
        image_size=side,
        tokens_per_tile=tokens,
        template=_chat_template(folder),
        min_tiles=int(pixels.get("min_patches", 1)),
        tiles=int(pixels.get("max_patches", 12)),
        mean=tuple(pixels.get("image_mean", MEAN)),
        std=tuple(pixels.get("image_std", STD)),
    )


def check_language_model(config: Config, place: str) -> str:
    """Return the class of a native config's language model; raise UserError for one that cannot be trained here."""
    text = check_section(config, "text_config", place)
    kind = text.get("model_type")
    if kind not in NATIVE_CLASSES:
        raise unknown_kind(f"unknown language model {kind!r} (text_config)", kind, place, NATIVE_CLASSES)
    if not isinstance(text.get("vocab_size"), int):
        raise UserError("has no text_config.vocab_size", place=place, remedy=_DOWNLOAD)
    return NATIVE_CLASSES[kind]


def check_section(config: Config, name: str, place: str) -> dict[str, Any]:
    """Return a section of config.json; raise UserError when it is missing."""
    section = config.get(name)
    if not isinstance(section, dict):
        raise UserError(f"has no {name}", place=place, remedy=_DOWNLOAD)
    return section


def is_complete(folder: Path) -> bool:
    """Return whether the folder has the files that this project writes, in their form, and can be used as it is."""
    processor = folder / "processor_config.json"
    named = ("chat_template.jinja", "tokenizer.json", "tokenizer_config.json", "generation_config.json")
    if not processor.is_file() or not all((folder / name).is_file() for name in named):
        return False
    return {"image_processor", "video_processor", "image_seq_length"} <= read_json(processor).keys()


def _image_processor(folder: Path) -> dict[str, Any]:
    """Read how images become pixels: inside processor_config.json, or in preprocessor_config.json beside it."""
    for name in ("processor_config.json", "preprocessor_config.json"):
        path = folder / name
        if path.is_file():
            settings = read_json(path)
            nested = settings.get("image_processor", settings)
            if isinstance(nested, dict) and "image_mean" in nested:
                return nested
    problem = "neither processor_config.json nor preprocessor_config.json says how images are normalised"
    raise UserError(problem, place=str(folder), remedy=_DOWNLOAD)


def _chat_template(folder: Path) -> str:
    """Return the folder's chat template, from whichever file holds it; an empty text where none does."""
    if (path := folder / "chat_template.jinja").is_file():
        return path.read_text("utf-8")
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        path = folder / name
        template = read_json(path).get("chat_template") if path.is_file() else None
        if isinstance(template, list):  # several templates by name
            template = next((item.get("template") for item in template if item.get("name") == "default"), None)
        if isinstance(template, str):
            return template
    return ""


def _side(size: Any) -> int:
    if isinstance(size, dict):
        size = size.get("height", 0)
    return int(size[0] if isinstance(size, list | tuple) else size)


def _without_dtype(section: Config) -> dict[str, Any]:
    return {k: v for k, v in section.items() if k not in ("dtype", "torch_dtype") and not k.startswith("_")}
