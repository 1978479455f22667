"""What ms-swift feeds the model equals InternVL2's own tokenisation, token by token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoProcessor

from emoverse.media.frames import FrameStore
from emoverse.training.rows import check_lengths
from tests.factories.answering import make_model, make_validated
from tests.factories.training import Rows, original_format, stage_rows, trainers_template


@pytest.fixture(scope="module")
def rows() -> Rows:
    return [{key: row[key] for key in ("messages", "videos", "images", "channel")} for row in stage_rows(6)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, rows: Rows) -> tuple[Path, FrameStore]:
    folder = tmp_path_factory.mktemp("template")
    ids = [row["channel"].removeprefix("mer/") for row in rows]
    return make_model(folder / "base") / "model", FrameStore([make_validated(folder / "meld", "meld", ids)])


@pytest.fixture(scope="module")
def template(folders: tuple[Path, FrameStore]) -> Any:
    return trainers_template(*folders)


def test_the_trainers_ids_are_the_original_formats(template: Any, rows: Rows, folders: tuple[Path, FrameStore]) -> None:
    processor = AutoProcessor.from_pretrained(folders[0])
    for row in rows:
        text = original_format(row, processor.image_seq_length, n_frames=2)
        expected = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert template.encode(dict(row))["input_ids"] == expected, row["channel"]


def test_the_lengths_checked_beforehand_are_the_trainers(
    template: Any, rows: Rows, folders: tuple[Path, FrameStore]
) -> None:
    encoded = [len(template.encode(dict(row))["input_ids"]) for row in rows]
    assert check_lengths(rows, folders[0], n_frames=2, max_length=4096) == encoded


def test_the_folders_chat_template_gives_the_same_ids(
    template: Any, rows: Rows, folders: tuple[Path, FrameStore]
) -> None:
    processor = AutoProcessor.from_pretrained(folders[0])
    for row in rows:
        shown = folders[1][(row["videos"] + row["images"])[0]]
        media = {"videos": [list(shown)]} if row["videos"] else {"images": [shown[0]]}
        text = processor.apply_chat_template(row["messages"], tokenize=False)
        ids = processor(text=[text], **media)["input_ids"][0]
        assert list(ids) == template.encode(dict(row))["input_ids"], row["channel"]


def test_only_the_answer_and_its_end_are_learned(template: Any, rows: Rows) -> None:
    encoded = template.encode(dict(rows[0]))
    learned = [token for token in encoded["labels"] if token != -100]
    assert template.tokenizer.decode(learned) == rows[0]["messages"][2]["content"] + "<|im_end|>"


def test_an_empty_answer_is_learned_as_an_end_at_once(template: Any, rows: Rows) -> None:
    row = {**rows[0], "channel": "no causes"}  # ECPE has such rows: an utterance nobody gave a cause for
    row["messages"] = [*row["messages"][:2], {"role": "assistant", "content": ""}]
    learned = [token for token in template.encode(row)["labels"] if token != -100]
    assert template.tokenizer.decode(learned) == "<|im_end|>"


def test_without_a_system_prompt_the_original_one_is_written(template: Any, rows: Rows) -> None:
    row = {**rows[0], "messages": rows[0]["messages"][1:], "channel": "no system"}
    text = template.tokenizer.decode(template.encode(row)["input_ids"])
    assert text.startswith("<|im_start|>system\n你是由上海人工智能实验室")


def test_the_pixels_are_those_of_the_processor(template: Any, rows: Rows, folders: tuple[Path, FrameStore]) -> None:
    processor = AutoProcessor.from_pretrained(folders[0])
    row = next(row for row in rows if row["videos"])
    frames = folders[1][row["videos"][0]]
    expected = processor.video_processor(videos=[frames], return_tensors="pt")["pixel_values_videos"][0]
    assert (template.encode(dict(row))["pixel_values"] - expected).abs().max() < 2e-6


def test_a_row_taken_from_memory_is_the_row_that_was_encoded(template: Any, rows: Rows) -> None:
    first, second = template.encode(dict(rows[1])), template.encode(dict(rows[1]))
    assert first is not second  # the collator empties what it is given
    assert first["input_ids"] == second["input_ids"]
    assert (first["pixel_values"] == second["pixel_values"]).all()
