import json
from pathlib import Path
from typing import Any

import pytest

from emoverse.amt.tokens import check_budget, token_budget
from emoverse.errors import UserError


def words(row: Any) -> int:
    return sum(len(message["content"].split()) for message in row["messages"])


def rows(path: Path, lengths: dict[str, list[int]]) -> Path:
    made = [
        {"task": task, "channel": f"{task}/{i}", "messages": [{"role": "user", "content": "w " * length}]}
        for task, found in lengths.items()
        for i, length in enumerate(found)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


def test_over_long_rows_are_counted_per_task_and_an_error_names_the_length_that_would_do(tmp_path: Path) -> None:
    budget = token_budget(rows(tmp_path / "a.jsonl", {"mer": [5, 7, 9], "ecpe": [10, 30, 11]}), words, 10)
    assert budget["tasks"]["mer"] == {"rows": 3, "median": 7.0, "longest": 9, "over": 0, "over_rows": []}
    assert budget["tasks"]["ecpe"]["over_rows"] == ["ecpe/1", "ecpe/2"]
    with pytest.raises(UserError, match=r"ecpe 2 of 3; the first are ecpe/1, ecpe/2; raise max_length to 30"):
        check_budget(budget, place="stage1.max_length")


def test_rows_that_fit_are_no_error(tmp_path: Path) -> None:
    check_budget(token_budget(rows(tmp_path / "a.jsonl", {"mer": [10]}), words, 10), place="x")
