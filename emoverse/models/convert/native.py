"""Read and check folders of the native layout (``internvl``): ``-hf`` and ``-HF``, and what transformers saves."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from emoverse.errors import UserError
from emoverse.models.convert.architecture import (
    MEAN,
    NATIVE_CLASSES,
    STD,
    Architecture,
    Config,
    first,
    tokens_of,
    unknown_kind,
)
from emoverse.models.convert.checkpoint import read_header, read_json, weight_files

_DOWNLOAD = "copy the whole folder again"
_CODE: Final = (".py", ".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".msgpack", ".h5", ".so")
_CONVERT: Final = "turn it into a native model with `emoverse convert`"
_KEPT = ("downsample_ratio", "projector_hidden_act", "vision_feature_layer", "vision_feature_select_strategy")


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
    if (given := config.get("image_seq_length", tokens)) != tokens:
        raise UserError(f"image_seq_length {given}, a tile gives {tokens} tokens", place=place, remedy=_DOWNLOAD)
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
