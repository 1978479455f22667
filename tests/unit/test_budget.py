import json
from pathlib import Path
from typing import Any

import pytest

from emoverse.budget import check_budget, token_budget
from emoverse.cli.__init__ import main
from emoverse.errors import UserError
from emoverse.training.rows import check_lengths
from tests.conftest import REPO
from tests.factories.answering import make_model, rows_of, utterances, write_rows


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "base") / "model"


@pytest.fixture(scope="module")
def amt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("amt")
    write_rows(folder / "stage1.jsonl", rows_of("mer", utterances("meld", 9)))
    write_rows(folder / "stage2.jsonl", stage_rows())
    return folder


def stage_rows() -> list[dict[str, Any]]:
    """Return rows of a still task, a video task, and a long one whose answers differ in length."""
    stills = []
    for row in rows_of("msa", utterances("mosei", 6)):
        words = row["messages"][1]["content"].replace("<video>", "<image>")
        turns = [row["messages"][0], {"role": "user", "content": words}, row["messages"][2]]
        stills.append({**row, "messages": turns, "videos": [], "images": [f"{row['videos'][0]}#peak"]})
    return [*stills, *rows_of("mer", utterances("meld", 9)), *rows_of("ecpe", utterances("ecf", 9))]


def test_a_rows_length_is_what_the_trainer_counts(amt: Path, model: Path) -> None:
    trained = check_lengths(stage_rows(), model, n_frames=4, max_length=100_000)
    by_task: dict[str, list[int]] = {}
    for row, length in zip(stage_rows(), trained, strict=True):
        by_task.setdefault(row["task"], []).append(length)
    found = token_budget([amt / "stage2.jsonl"], model, 4, 100_000)["tasks"]
    assert {name: one["longest"] for name, one in found.items()} == {name: max(n) for name, n in by_task.items()}
    assert {name: one["rows"] for name, one in found.items()} == {name: len(n) for name, n in by_task.items()}
    assert found["msa"]["longest"] < found["mer"]["longest"] < found["ecpe"]["longest"]


def test_over_long_rows_are_counted_per_task_and_an_error_names_the_length_that_would_do(
    amt: Path, model: Path
) -> None:
    whole = token_budget([amt / "stage1.jsonl", amt / "stage2.jsonl"], model, 4, 100_000)
    check_budget(whole, place="stage2.max_length")
    limit = whole["tasks"]["mer"]["longest"]
    budget = token_budget([amt / "stage1.jsonl", amt / "stage2.jsonl"], model, 4, limit)
    over = budget["tasks"]["ecpe"]
    assert (budget["tasks"]["mer"]["rows"], budget["tasks"]["mer"]["over"]) == (18, 0)
    assert over["over"] == len(over["over_rows"]) == over["rows"]
    expected = rf"ecpe {over['over']} of {over['rows']}; the first are ecpe/ecf/.*raise max_length to {over['longest']}"
    with pytest.raises(UserError, match=expected):
        check_budget(budget, place="stage2.max_length")


def test_more_frames_cost_what_the_model_says_of_a_frame(amt: Path, model: Path) -> None:
    one, nine = (token_budget([amt / "stage1.jsonl"], model, n, 100_000)["tasks"]["mer"]["longest"] for n in (1, 9))
    image_tokens = json.loads((model / "config.json").read_text("utf-8"))["image_seq_length"]
    assert nine - one >= 8 * (image_tokens + 2)  # and the words that number a frame


def test_the_verb_prints_both_stages_and_fails_when_a_row_is_too_long(
    amt: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["budget", "--amt", str(amt), "--model", str(model), "--params", str(REPO / "params.yaml")]
    long = [word for stage in ("stage1", "stage2") for word in ("--set", f"{stage}.max_length=4096")]
    assert main([*words, *long]) == 0
    assert "ecpe" in capsys.readouterr().out
    assert main([*words, *long, "--set", "stage1.max_length=20", "--json"]) == 2
    printed = capsys.readouterr()
    assert json.loads(printed.out)["stage1"]["tasks"]["mer"]["over"] == 9
    assert "stage1.max_length: rows longer than 20 tokens: mer 9 of 9" in printed.err


def test_a_missing_file_and_a_folder_without_a_model_are_named(tmp_path: Path, amt: Path, model: Path) -> None:
    with pytest.raises(UserError, match=r"stage3\.jsonl: no such file; run `emoverse build-amt` first"):
        token_budget([amt / "stage3.jsonl"], model, 4, 1000)
    with pytest.raises(UserError, match=r"config\.json: no such file; give a complete model folder"):
        token_budget([amt / "stage1.jsonl"], tmp_path, 4, 1000)
