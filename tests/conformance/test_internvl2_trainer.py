"""What ms-swift encodes, held against the original code's token ids of whole conversations (prompts.json)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emoverse.models.convert import convert
from tests.factories.training import trainers_template

FAMILIES = {"qwen2": "qwen2_gqa", "internlm2": "ilm2_gqa", "phi3": "phi3_su_short"}
TEMPLATES = {"qwen2": "Hermes-2", "internlm2": "internlm2-chat", "phi3": "phi3-chat"}


class OneFrame(dict[str, Any]):
    """Frames of the right size for whatever is asked for."""

    def __init__(self, size: int) -> None:
        self.frame = np.zeros((1, size, size, 3), np.uint8)

    def __missing__(self, reference: str) -> Any:
        return self.frame


@pytest.fixture(scope="module", params=list(FAMILIES))
def encoded(request: pytest.FixtureRequest, shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the template of one family, and the original's (text, ids) of a question and of two turns."""
    kind, folder = request.param, shared_data / "internvl2"
    out = tmp_path_factory.mktemp(kind) / "out"
    convert(folder / FAMILIES[kind] / "orig", out)
    path = out / "model" / "processor_config.json"
    processor = json.loads(path.read_text("utf-8"))
    # the references were written with two image tokens a tile, so that they stay readable
    path.write_text(json.dumps({**processor, "image_seq_length": 2}), "utf-8")
    template = trainers_template(out / "model", OneFrame(processor["video_processor"]["size"]["height"]))  # type: ignore[arg-type]
    reference = json.loads((folder / "prompts.json").read_text("utf-8"))
    number = [name for name, *_ in reference["conversations"]].index(TEMPLATES[kind])
    return template, reference["conversations"][number][1:], reference["conversation_ids"][kind][number]


def turns_of(text: str) -> list[dict[str, str]]:
    """Return the turns of a reference text; both hold one image, two tokens a tile, in the first question."""
    first = {"role": "user", "content": "<image>Rate the clip"}
    later = [{"role": "assistant", "content": "good"}, {"role": "user", "content": "why?"}]
    return [first, *(later if "why?" in text else [])]


def test_a_conversation_still_open_has_the_originals_ids(encoded: Any) -> None:
    template, texts, ids = encoded
    template.set_mode("transformers")
    for text, expected in zip(texts, ids, strict=True):
        assert "<img><IMG_CONTEXT><IMG_CONTEXT></img>\nRate the clip" in text
        fed = template.encode({"messages": turns_of(text), "images": ["x"], "videos": []})
        assert fed["input_ids"] == expected


def test_answers_and_their_ends_alone_are_learned_in_every_turn(encoded: Any) -> None:
    template, texts, ids = encoded
    template.set_mode("train")
    turns = [*turns_of(texts[1]), {"role": "assistant", "content": "because."}]
    fed = template.encode({"messages": turns, "images": ["x"], "videos": []})
    assert fed["input_ids"][: len(ids[1])] == ids[1]
    places = [place for place, label in enumerate(fed["labels"]) if label != -100]
    assert [fed["input_ids"][place] for place in places] == [fed["labels"][place] for place in places]
    end = template.encoder.settings.end
    words = template.encoder.tokenizer.decode([fed["labels"][place] for place in places], skip_special_tokens=False)
    assert words == f"good{end}because.{end}"
    # the first answer stands where the original's ids of the first question end
    assert places[0] == len(ids[0])
