"""A dialogue's JSON file is read strictly; each mistake is named with its place."""

import json
from pathlib import Path
from typing import Any

import pytest

from emoverse.errors import UserError
from emoverse.serving.predictor import MAX_UTTERANCES, read_dialogue

LINE = {"speaker": "Ada", "text": "We won!", "emotion": "joy"}


def write(folder: Path, content: Any) -> Path:
    path = folder / "dialogue.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


def test_a_dialogue_is_read_in_its_order(tmp_path: Path) -> None:
    lines = read_dialogue(write(tmp_path, {"utterances": [LINE, {**LINE, "speaker": "Bo", "emotion": "anger"}]}))
    assert [(line.speaker, line.emotion) for line in lines] == [("Ada", "joy"), ("Bo", "anger")]


@pytest.mark.parametrize("content", [
    "{", "[]", {}, {"utterances": []}, {"utterances": [{**LINE, "emotion": "hapy"}]},
    {"utterances": [{**LINE, "x": 1}]},
    {"utterances": [{**LINE, "text": 7}]}, {"utterances": [LINE] * (MAX_UTTERANCES + 1)}, {"utterances": "LINE"},
])  # fmt: skip
def test_a_mistake_is_named_with_the_file(tmp_path: Path, content: Any) -> None:
    path = write(tmp_path, content)
    with pytest.raises(UserError) as caught:
        read_dialogue(path)
    assert str(caught.value).startswith(str(path))
