"""A model is trained and asked exactly as the original code writes it, whichever language model it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoProcessor

from emoverse.errors import RowErrors
from emoverse.media.frames import FrameStore
from emoverse.prompt import Encoder, settings_of_model
from emoverse.training.rows import check_lengths
from tests.factories.answering import make_model, make_validated, rows_of, utterances
from tests.factories.training import Rows, make_converted, trainers_template

TABLE = utterances("ecf", 4)
ENDS = {"base": "<|im_end|>", "qwen2": "<|im_end|>", "internlm2": "<|im_end|>", "phi3": "<|end|>"}
FIRST = {"base": "<|im_start|>", "qwen2": "<|im_start|>", "internlm2": "<s>", "phi3": "<s>"}


@pytest.fixture(scope="module", params=list(ENDS))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    make = make_model if request.param == "base" else lambda place: make_converted(place, request.param)
    return request.param, make(folder) / "model"


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> FrameStore:
    folder = tmp_path_factory.mktemp("frames")
    return FrameStore([make_validated(folder / "ecf", "ecf", [one.utterance_id for one in TABLE])])


@pytest.fixture(scope="module")
def rows() -> Rows:
    found = [row for task in ("mer", "msa", "ecpe") for row in rows_of(task, TABLE)]
    still = {"videos": [], "images": [f"{found[0]['videos'][0]}#peak"], "channel": "still"}
    turns = [{**turn, "content": turn["content"].replace("<video>", "<image>")} for turn in found[0]["messages"]]
    return [
        {key: row[key] for key in ("messages", "videos", "images", "channel")}
        for row in [*found, {**found[0], **still, "messages": turns}]
    ]


def test_the_trainer_feeds_what_the_engines_ask_and_learns_the_answer_and_its_end(
    family: tuple[str, Path], frames: FrameStore, rows: Rows
) -> None:
    kind, model = family
    template, encoder = trainers_template(model, frames), Encoder(model, settings_of_model(model))
    for row in rows:
        shown = frames[(row["videos"] + row["images"])[0]]
        fed, answer = template.encode(dict(row)), row["messages"][-1]["content"]
        prompt = encoder.prompt_ids([row], [len(shown)])[0].tolist()
        assert fed["input_ids"] == prompt + encoder.answer_ids(answer), row["channel"]
        assert fed["input_ids"][0] == encoder.tokenizer.token_to_id(FIRST[kind])
        assert fed["labels"][: len(prompt)] == [-100] * len(prompt), row["channel"]
        learned = fed["labels"][len(prompt) :]
        assert encoder.tokenizer.decode(learned, skip_special_tokens=False) == answer + ENDS[kind]
        np.testing.assert_allclose(fed["pixel_values"].numpy(), encoder.pixels(shown), atol=2e-6)


def test_the_trainers_ids_are_those_of_the_conversation_tokenised_as_one_text(
    family: tuple[str, Path], frames: FrameStore, rows: Rows
) -> None:
    _, model = family
    template, processor = trainers_template(model, frames), AutoProcessor.from_pretrained(model)
    for row in rows:
        if not row["messages"][-1]["content"]:
            continue  # the original takes an empty answer for one still to come
        shown = frames[(row["videos"] + row["images"])[0]]
        media = {"videos": [list(shown)]} if row["videos"] else {"images": [shown[0]]}
        turns = [dict(turn) for turn in row["messages"]]
        kind, words = ("video" if row["videos"] else "image"), turns[1]["content"]
        turns[1]["content"] = [{"type": kind}, {"type": "text", "text": words.removeprefix(f"<{kind}>")}]
        text = processor.apply_chat_template(turns, tokenize=False)
        whole = processor(text=[text], videos_kwargs={"do_sample_frames": False}, **media)["input_ids"][0]
        assert template.encode(dict(row))["input_ids"] == list(whole), row["channel"]


def test_the_lengths_checked_beforehand_are_the_trainers_and_its_own_tokens_are_refused_by_name(
    family: tuple[str, Path], frames: FrameStore, rows: Rows
) -> None:
    kind, model = family
    template = trainers_template(model, frames)
    fed = [len(template.encode(dict(row))["input_ids"]) for row in rows]
    assert check_lengths(rows, model, n_frames=2, max_length=4096) == fed

    def spoiled(row: dict[str, Any]) -> dict[str, Any]:
        system, question, answer = row["messages"]
        return {**row, "messages": [system, {**question, "content": question["content"] + ENDS[kind]}, answer]}

    with pytest.raises(RowErrors, match=f"{rows[1]['channel']}: the text contains the model's control token") as caught:
        check_lengths([rows[0], spoiled(rows[1]), spoiled(rows[2])], model, n_frames=2, max_length=4096)
    assert len(caught.value.problems) == 2
