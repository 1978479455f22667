"""Convert an original InternVL2 checkpoint into a native model folder, published like any step's output."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from emoverse.artifacts.manifest import open_raw, publish, write_json
from emoverse.errors import UserError
from emoverse.models.convert import config as settings
from emoverse.models.convert import weights
from emoverse.models.convert.architectures import refuse
from emoverse.models.convert.chat_template import Conversation, chat_template, read_conversation, write_processor
from emoverse.models.convert.checkpoint import Checkpoint, open_checkpoint
from emoverse.models.convert.tokenizers import IMAGE, VIDEO, Vocabulary, read_vocabulary


@dataclass(frozen=True)
class Conversion:
    """Everything known before the first byte is written: what was read, and what will come of it."""

    checkpoint: Checkpoint
    vocabulary: Vocabulary
    conversation: Conversation
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
        return sum(entry.end - entry.start for entry in self.checkpoint.entries.values())


def convert(source: Path, out: Path) -> None:
    """Convert ``source`` (an original InternVL2 folder) into ``out/model``; its code is never imported or run.

    Everything that can be refused is refused before ``source`` is hashed or ``out`` touched. Raises UserError naming
    the file or the setting.
    """
    if not source.is_dir():
        raise UserError("no such folder", place=str(source), remedy="give the folder of an InternVL2 checkpoint")
    here, there = source.resolve(), out.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise UserError(f"lies in or around {source}", place=str(out), remedy="choose another output folder")
    conversion = prepare(source)
    raw = open_raw(source, name=f"internvl2/{here.name}")
    with publish(out, step="convert", params={}, inputs={"source": raw}) as draft:
        model = draft.path / "model"
        model.mkdir()
        write_model(conversion, model)
        draft.facts.update(facts(conversion))


def prepare(source: Path) -> Conversion:
    """Read everything but the weights and make sure that the conversion can be done; raise UserError when not."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    checkpoint = open_checkpoint(source)
    refuse(checkpoint)
    original, place = checkpoint.config, str(source / "config.json")
    rows = int(original["llm_config"]["vocab_size"])
    vocabulary = read_vocabulary(source, rows)
    image, video = vocabulary.id_of(IMAGE), vocabulary.id_of(VIDEO)
    assert image is not None
    assert video is not None
    native = settings.native_config(original, rows=max(rows, video + 1), image_token=image, place=place)
    try:
        config = InternVLConfig(**native)
        with torch.device("meta"):
            expected = weights.expected_shapes(InternVLForConditionalGeneration(config))
    except (
        StrictDataclassError,
        ArithmeticError,
        AssertionError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        what = str(error).splitlines()[-1].strip()
        raise UserError(
            f"holds a setting that makes no model ({what})", place=place, remedy="download it again"
        ) from error
    heads, keys = settings.head_counts(original, place)
    layout = weights.Layout(heads, keys, grow=video >= rows, tied=weights.is_tied(checkpoint))
    conversation = read_conversation(source, original.get("template"))
    return Conversion(checkpoint, vocabulary, conversation, config, layout, weights.plan(checkpoint, layout, expected))


def write_model(conversion: Conversion, out: Path) -> None:
    """Write a whole model folder: config, generation config, processor and tokenizer files, and the weights."""
    conversion.config.save_pretrained(out)
    template = chat_template(conversion.conversation)
    write_processor(conversion.vocabulary, template, conversion.checkpoint.config, out)
    write_json(out / "generation_config.json", generation(conversion))
    with tqdm(total=conversion.size, unit="B", unit_scale=True, disable=None, desc="weights", file=sys.stderr) as bar:
        weights.write(conversion.checkpoint, conversion.layout, conversion.planned, out, done=bar.update)


def generation(conversion: Conversion) -> dict[str, Any]:
    """Return generation_config.json: greedy, and ending at the template's separator or at the config's own token."""
    text = conversion.config.text_config
    own = text.eos_token_id if isinstance(text.eos_token_id, list) else [text.eos_token_id]
    ends = [conversion.vocabulary.id_of(conversion.conversation.sep.strip()), *own]
    pad = conversion.vocabulary.named.get("pad_token")
    found = {
        "bos_token_id": text.bos_token_id,
        "eos_token_id": list(dict.fromkeys(token for token in ends if token is not None)),
        "pad_token_id": conversion.vocabulary.id_of(pad) if pad else text.pad_token_id,
        "do_sample": False,
    }
    return {key: value for key, value in found.items() if value is not None}


def facts(conversion: Conversion) -> dict[str, Any]:
    """Return what the manifest says about the model."""
    original = conversion.checkpoint.config
    return {
        "backbone": settings.backbone(original, ""),
        "template": original["template"],
        "parameters": conversion.parameters,
        "tile": settings.image_size(original),
        "tiles": settings.tiles(original),
        "tokens_per_tile": settings.tokens_per_tile(original),
        "video_token": conversion.vocabulary.id_of(VIDEO),
        "dropped": {"drop_path_rate": original["vision_config"].get("drop_path_rate", 0.0)},
    }
