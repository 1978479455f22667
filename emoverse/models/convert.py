"""Convert an InternVL checkpoint into a native model folder, published like any step's output."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from tqdm import tqdm

from emoverse.artifacts.digests import digest_of_pairs, files_below, sha256_and_md5
from emoverse.artifacts.manifest import Source, publish, raw_source, write_json
from emoverse.errors import UserError
from emoverse.models import weights
from emoverse.models.architecture import TABLE, Architecture, read_native
from emoverse.models.chat_template import ChatFormat, chat_format
from emoverse.models.checkpoint import Checkpoint, open_checkpoint
from emoverse.models.original import read_original
from emoverse.models.tokenizers import IMAGE, IMAGE_END, IMAGE_START, VIDEO, Vocabulary, read_vocabulary

FRAMES: Final = 8  # of a video, as the processor samples by itself


@dataclass(frozen=True)
class Conversion:
    """Everything known before the first byte is written: what was read, and what it will become."""

    checkpoint: Checkpoint
    architecture: Architecture
    vocabulary: Vocabulary
    chat: ChatFormat
    config: Any
    layout: weights.Layout
    planned: dict[str, dict[str, torch.Tensor]]

    @property
    def parameters(self) -> int:
        """How many numbers the converted model has."""
        return sum(tensor.numel() for shard in self.planned.values() for tensor in shard.values())

    @property
    def size(self) -> int:
        """How many bytes of weights are to be read."""
        return sum(entry.size for entry in self.checkpoint.entries.values())


def convert(source: Path, out: Path) -> None:
    """Convert ``source`` (an InternVL folder of either layout) into ``out/model``; its code is never imported or run.

    Everything that can be refused is refused before ``source`` is hashed or ``out`` touched.

    Raises:
        UserError: The checkpoint cannot be converted; the file or the setting is named.
    """
    if not source.is_dir():
        raise UserError("no such folder", place=str(source), remedy="give the folder of an InternVL checkpoint")
    here, there = source.resolve(), out.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise UserError(f"is inside or around {source}", place=str(out), remedy="choose another output folder")
    conversion = plan_conversion(source)
    raw = open_weights(source, name=f"internvl2/{here.name}")
    with publish(out, step="convert", params={}, inputs={"source": raw}) as draft:
        model = draft.path / "model"
        model.mkdir()
        write_model(conversion, model)
        draft.facts.update(facts(conversion))


def open_weights(folder: Path, *, name: str) -> Source:
    """Open a checkpoint as an input known by its content, without what a download left in ``.cache/huggingface``."""
    names = [path for path in files_below(folder) if not path.startswith(".cache/huggingface/")]
    return raw_source(folder, digest_of_pairs({path: sha256_and_md5(folder / path) for path in names}), name=name)


def plan_conversion(source: Path) -> Conversion:
    """Read everything but the weights and check that the conversion can be done; raise UserError when it cannot."""
    from transformers import InternVLForConditionalGeneration

    checkpoint = open_checkpoint(source)
    place = str(source / "config.json")
    architecture = read_architecture(checkpoint, place)
    vocabulary = read_vocabulary(source, architecture.rows, fast=architecture.layout == "native")
    chat = chat_format(architecture, source, vocabulary)
    video = vocabulary.id_of(VIDEO)
    assert video is not None
    config = _native_config(checkpoint, architecture, vocabulary, place)
    with torch.device("meta"):
        try:
            expected = weights.expected_shapes(InternVLForConditionalGeneration(config))
        except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise _no_model(error, place) from error
    layout = weights.Layout(
        architecture.heads,
        architecture.key_heads,
        grow=video >= architecture.rows,
        tied=weights.is_tied(checkpoint, declared=architecture.tied),
    )
    planned = weights.plan_weights(checkpoint, layout, expected, kind=architecture.layout)
    if architecture.layout == "original" and checkpoint.config["llm_config"].get("tie_word_embeddings"):
        weights.check_copies(checkpoint)
    return Conversion(checkpoint, architecture, vocabulary, chat, config, layout, planned)


def read_architecture(checkpoint: Checkpoint, place: str) -> Architecture:
    """Recognise a checkpoint's kind and layout by its config alone; raise UserError for what cannot be a base."""
    kind = checkpoint.config.get("model_type")
    if kind == "internvl_chat":
        return read_original(checkpoint.config, place)
    if kind == "internvl":
        return read_native(checkpoint.config, checkpoint.folder)
    remedy = f"see {TABLE}#not-supported; known: internvl_chat (original layout), internvl (native)"
    raise UserError(f"model_type {kind!r} is not an InternVL", place=place, remedy=remedy)


def _native_config(checkpoint: Checkpoint, architecture: Architecture, vocabulary: Vocabulary, place: str) -> Any:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import InternVLConfig

    image, video = vocabulary.id_of(IMAGE), vocabulary.id_of(VIDEO)
    assert image is not None
    assert video is not None
    if architecture.layout == "native" and (configured := checkpoint.config.get("image_token_id", image)) != image:
        problem = f"image_token_id is {configured}, the tokenizer's {IMAGE} is {image}"
        raise UserError(problem, place=place, remedy="take config and tokenizer from one folder")
    rows, dtype = max(architecture.rows, video + 1), architecture.dtype or checkpoint.dtype
    try:
        return InternVLConfig(**architecture.native_settings(rows=rows, image_token=image, dtype=dtype))
    except (StrictDataclassError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise _no_model(error, place) from error


def _no_model(error: Exception, place: str) -> UserError:
    reason = str(error).splitlines()[-1].strip() if str(error) else type(error).__name__
    return UserError(f"a setting does not make a model ({reason})", place=place, remedy="download it again")


def write_model(conversion: Conversion, out: Path) -> None:
    """Write a whole model folder: config, generation config, processor and tokenizer files, and the weights."""
    conversion.config.save_pretrained(out)
    write_processor(conversion.vocabulary, conversion.chat.text, conversion.architecture, out)
    write_json(out / "generation_config.json", generation(conversion))
    with tqdm(total=conversion.size, unit="B", unit_scale=True, disable=None, desc="weights", file=sys.stderr) as bar:
        weights.write(conversion.checkpoint, conversion.layout, conversion.planned, out, done=bar.update)


def generation(conversion: Conversion) -> dict[str, Any]:
    """Return generation_config.json: greedy, ending at the chat format's separator or at the config's own token."""
    text = conversion.config.text_config
    own = text.eos_token_id if isinstance(text.eos_token_id, list) else [text.eos_token_id]
    ends = [conversion.vocabulary.id_of(conversion.chat.end), *own]
    pad = conversion.vocabulary.named.get("pad_token")
    settings = {
        "bos_token_id": text.bos_token_id,
        "eos_token_id": list(dict.fromkeys(token for token in ends if token is not None)),
        "pad_token_id": conversion.vocabulary.id_of(pad) if pad else text.pad_token_id,
        "do_sample": False,
    }
    return {key: value for key, value in settings.items() if value is not None}


def facts(conversion: Conversion) -> dict[str, Any]:
    """Return the facts about the model for the manifest."""
    architecture = conversion.architecture
    return {
        "backbone": architecture.language_model,
        "layout": architecture.layout,
        "template": conversion.chat.swift_name,
        "parameters": conversion.parameters,
        "tile": architecture.image_size,
        "tiles": architecture.tiles,
        "tokens_per_tile": architecture.tokens_per_tile,
        "video_token": conversion.vocabulary.id_of(VIDEO),
        "dropped": {"drop_path_rate": architecture.drop_path_rate},
    }


def write_processor(vocabulary: Vocabulary, template: str, architecture: Architecture, out: Path) -> None:
    """Save an InternVLProcessor below ``out``, with the separate files that older readers look for.

    Args:
        vocabulary: The rebuilt tokenizer.
        template: The chat template, in Jinja.
        architecture: Tile size, number of tiles and pixel statistics.
        out: The model folder.
    """
    from transformers import GotOcr2ImageProcessor, InternVLProcessor, InternVLVideoProcessor, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=vocabulary.backend,
        clean_up_tokenization_spaces=False,
        extra_special_tokens=vocabulary.special,
        model_specific_special_tokens={
            "start_image_token": IMAGE_START,
            "end_image_token": IMAGE_END,
            "context_image_token": IMAGE,
            "video_token": VIDEO,
        },
        **vocabulary.named,
        **vocabulary.settings,
    )
    pixels = {
        "size": {"height": architecture.image_size, "width": architecture.image_size},
        "image_mean": list(architecture.mean),
        "image_std": list(architecture.std),
    }
    patches = {"min_patches": architecture.min_tiles, "max_patches": architecture.tiles}
    images = GotOcr2ImageProcessor(**pixels, crop_to_patches=architecture.tiles > 1, **patches)
    videos = InternVLVideoProcessor(**pixels, do_sample_frames=True, num_frames=FRAMES)
    processor = InternVLProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        video_processor=videos,
        image_seq_length=architecture.tokens_per_tile,
        chat_template=template,
    )
    for part in (processor, images, videos):
        part.save_pretrained(out)
