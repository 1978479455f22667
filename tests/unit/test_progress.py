"""Progress of long work: what is printed where there is no terminal."""

import pytest

from emoverse import progress as module
from emoverse.progress import progress


def test_finished_work_leaves_one_line_with_the_number_of_items(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("validate meld", 5, finished=2) as advance:
        advance()
        advance(2)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("validate meld: 5/5 clips, ")


def test_long_work_prints_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LINE_SECONDS", 0.0)
    with progress("meld-mer", 3, unit="rows", last=False) as advance:
        for _ in range(3):
            advance()
    printed = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in printed] == [
        "meld-mer: 1/3 rows",
        "meld-mer: 2/3 rows",
        "meld-mer: 3/3 rows",
    ]


@pytest.mark.parametrize(("label", "last"), [("", True), ("meld-mer", False)])
def test_short_work_and_work_without_a_label_print_nothing(
    label: str, last: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress(label, 2, last=last) as advance:
        advance(2)
    assert capsys.readouterr().err == ""
