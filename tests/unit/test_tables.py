"""Tables come back as they were written, and the same rows give the same bytes."""

from pathlib import Path

import pytest

from emoverse.artifacts.tables import (
    ActionUnitRow,
    read_action_units,
    read_table,
    read_utterances,
    write_action_units,
    write_quarantine,
    write_utterances,
)
from emoverse.corpora import Quarantined, Utterance
from emoverse.errors import UserError

FULL = Utterance(
    utterance_id="mosei/train/128258/9", corpus="mosei", split="train", dialogue_id="128258", position=9, speaker="Zoë",
    text="It's \u201codd\u201d\n<script>", emotion="joy", polarity="positive", sentiment=-8 / 3,
    intensities=(0.1, 0.0, 1 / 3, 0.0, 0.0, 2.0), causes=(3, 1), episode="S01E02", start=0.1, end=1.7,
    clip="Raw/128258/9.mp4", source="label.csv:7",
)  # fmt: skip
BARE = Utterance(
    utterance_id="x/test/1", corpus="x", split="test", dialogue_id="1", position=0, speaker=None, text="",
    emotion=None, polarity=None, sentiment=None, intensities=None, causes=None, episode=None, start=None, end=None,
    clip="1.mp4", source="a:1",
)  # fmt: skip


def test_utterances_come_back_equal(tmp_path: Path) -> None:
    path = tmp_path / "utterances.parquet"
    assert write_utterances(path, [FULL, BARE]) == 2
    assert list(read_utterances(path)) == [FULL, BARE]


def test_no_cause_and_no_cause_pairs_stay_apart(tmp_path: Path) -> None:
    from dataclasses import replace

    path = tmp_path / "utterances.parquet"
    write_utterances(path, [replace(FULL, causes=()), replace(FULL, causes=None)])
    assert [u.causes for u in read_utterances(path)] == [(), None]


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        write_utterances(tmp_path / name, (FULL for _ in range(20_000)))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sum(1 for _ in read_utterances(tmp_path / "a")) == 20_000


def test_quarantine_and_action_units_come_back(tmp_path: Path) -> None:
    row = Quarantined(row_id="a", source="f.csv:3", column="clip", reason="clip-empty", detail="0 bytes")
    write_quarantine(tmp_path / "q", [(row, True)])
    assert list(read_table(tmp_path / "q")) == [{**vars(row), "known": True}]
    face = ActionUnitRow(utterance_id="a", frame=3, intensities={"AU01_r": 0.5, "AU12_r": 5.0})
    write_action_units(tmp_path / "f", ["AU01_r", "AU12_r"], [face])
    assert list(read_action_units(tmp_path / "f")) == [face]


def test_empty_tables_are_tables(tmp_path: Path) -> None:
    assert write_utterances(tmp_path / "u", []) == 0
    assert list(read_utterances(tmp_path / "u")) == []
    with pytest.raises(UserError, match="no such table"):
        list(read_utterances(tmp_path / "none"))
