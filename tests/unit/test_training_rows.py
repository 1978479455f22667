"""The trainer's rows: what is refused before training, and how the text the trainer must feed is written."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emoverse.errors import RowErrors, UserError
from emoverse.training.rows import check_lengths, read_rows
from tests.conftest import REPO
from tests.factories.answering import make_model, write_rows
from tests.factories.training import Rows, stage_rows


def spoiled(tmp_path: Path, edit: Callable[[Rows], Any]) -> RowErrors:
    rows = stage_rows(4)
    edit(rows)
    with pytest.raises(RowErrors) as caught:
        read_rows(write_rows(tmp_path / "stage1.jsonl", rows))
    return caught.value


def say(rows: Rows, row: int, words: str) -> None:
    rows[row]["messages"][1]["content"] = words


def test_good_rows_are_read_in_order_with_the_trainers_keys_only(tmp_path: Path) -> None:
    rows = stage_rows(4)
    found = read_rows(write_rows(tmp_path / "stage1.jsonl", rows))
    assert [row["channel"] for row in found] == [row["channel"] for row in rows]
    assert all(set(row) == {"messages", "videos", "images", "channel"} for row in found)


def test_a_line_that_is_not_json_is_named_with_its_number(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "stage1.jsonl", stage_rows(3))
    path.write_text(path.read_text("utf-8") + '{"messages": [\n', "utf-8")
    with pytest.raises(RowErrors, match=r"stage1.jsonl:4: not JSON"):
        read_rows(path)


def test_a_repeated_id_is_named_with_the_row_it_repeats(tmp_path: Path) -> None:
    error = spoiled(tmp_path, lambda rows: rows[3].update(channel=rows[1]["channel"]))
    assert "stage1.jsonl:4" in str(error)
    assert "line 2" in str(error)


@pytest.mark.parametrize("words", ["<video><video>Two?", "None?", "<image>A still instead of a clip?"])
def test_a_question_whose_media_do_not_match_its_tags_is_refused(tmp_path: Path, words: str) -> None:
    assert "stage1.jsonl:2" in str(spoiled(tmp_path, lambda rows: say(rows, 1, words)))


@pytest.mark.parametrize("token", ["<image>", "<video>", "<IMG_CONTEXT>", "<|im_start|>", "<|im_end|>", "<img>"])
def test_a_transcript_cannot_add_media_or_roles(tmp_path: Path, token: str) -> None:
    error = spoiled(tmp_path, lambda rows: say(rows, 1, f"<video>The person says: 'hi {token}'"))
    assert repr(token) in str(error)


def test_several_turns_are_refused(tmp_path: Path) -> None:
    error = spoiled(tmp_path, lambda rows: rows[0]["messages"].append({"role": "user", "content": "and?"}))
    assert "one each of system, user, assistant" in str(error)


def test_every_bad_row_is_told_at_once(tmp_path: Path) -> None:
    assert len(spoiled(tmp_path, lambda rows: [say(rows, i, "no media") for i in range(4)]).problems) == 4


def test_an_empty_stage_is_an_error_before_any_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no rows"):
        read_rows(write_rows(tmp_path / "stage1.jsonl", []))


def test_rows_longer_than_max_length_are_named_and_the_remedy_says_how_much_is_enough(tmp_path: Path) -> None:
    rows = stage_rows(3)
    rows[2]["messages"][1]["content"] += " word" * 300
    model = make_model(tmp_path / "base") / "model"
    lengths = check_lengths(rows, model, n_frames=2, max_length=4096)
    with pytest.raises(RowErrors) as caught:
        check_lengths(rows, model, n_frames=2, max_length=max(lengths) - 1)
    assert rows[2]["channel"] in str(caught.value)
    assert len(caught.value.problems) == 1
    assert str(max(lengths)) in caught.value.remedy
    image_tokens = json.loads((model / "config.json").read_text("utf-8"))["image_seq_length"]
    assert lengths[1] > 2 * image_tokens


REFUSED = """
import sys
from emoverse import cli
options = "train --stage stage1 --model no-such --amt no-such --validated no-such --out out --params".split()
code = cli.main([*options, sys.argv[1]])
print(code, sorted({"torch", "transformers", "swift"} & set(sys.modules)))
"""


def test_train_refuses_a_missing_folder_before_it_imports_torch(tmp_path: Path) -> None:
    command = [sys.executable, "-c", REFUSED, str(REPO / "params.yaml")]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "2 []"
    assert "no-such: no such folder" in process.stderr
