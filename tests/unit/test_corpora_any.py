"""Whatever an annotation file holds, every row comes out good or is listed with file, row and column."""

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from emoverse.corpora import EMOTIONS, Reading, ecf, meld, mosei
from tests.factories.corpora import MELD_HEADER, MOSEI_HEADER, csv_bytes, ecf_conversation, meld_row, mosei_row

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
CELL = st.text("0123456789-+_.,: ", max_size=6) | st.text(st.characters(exclude_categories=["Cs"]), max_size=4)


def sound(reading: Reading, name: str) -> None:
    """Check what every reader promises of any input."""
    for bad in reading.quarantined:
        assert bad.source.startswith(f"{name}:")
        assert bad.reason
        assert bad.detail
    for one in reading.utterances:
        assert one.emotion is None or one.emotion in EMOTIONS
        assert one.text.strip()
        assert ".." not in one.clip.split("/")
        assert one.start is None or one.end is None or one.start <= one.end
    sources = [row.source for row in (*reading.utterances, *reading.quarantined)]
    assert len(set(sources)) == len(sources), "a row is counted once"


@given(st.lists(JSON, max_size=4))
def test_any_list_is_read_as_ecf_or_listed(found: list[Any]) -> None:
    sound(ecf.read_conversations(found, "train", "any.json"), "any.json")


@given(st.sampled_from(["conversation_ID", "conversation", "emotion-cause_pairs"]), JSON)
def test_a_spoiled_conversation_of_ecf_costs_no_other(key: str, value: Any) -> None:
    whole = ecf_conversation(77)
    reading = ecf.read_conversations([ecf_conversation(**{key: value}), whole], "train", "any.json")
    sound(reading, "any.json")
    assert sum(one.dialogue_id == "77" for one in reading.utterances) == 3 or value in (77, "77")


@given(st.sampled_from(sorted(ecf_conversation()["conversation"][0])), JSON)
def test_a_spoiled_utterance_of_ecf_costs_no_other_but_what_points_at_it(key: str, value: Any) -> None:
    one = ecf_conversation(length=4)
    one["conversation"][1][key] = value  # no pair names it
    reading = ecf.read_conversations([one], "train", "any.json")
    sound(reading, "any.json")
    assert {1, 3, 4} <= {good.position for good in reading.utterances} or key == "utterance_ID"
    assert reading.rows == 4


@given(st.sampled_from(MELD_HEADER), CELL)
def test_any_cell_of_meld_is_read_or_its_row_and_column_are_named(column: str, cell: str) -> None:
    rows = [meld_row(), meld_row(**{"Utterance_ID": "1", column: cell})]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train_sent_emo.csv"
        path.write_bytes(csv_bytes(MELD_HEADER, rows))
        reading = meld.read_split(path, "train")
    sound(reading, path.name)
    assert reading.rows == 2
    assert all(bad.source == f"{path.name}:3" and bad.column == column for bad in reading.quarantined) or cell == "0"


@given(st.sampled_from(MOSEI_HEADER), CELL | st.sampled_from(["-iRBcNs9oI8", "128258", "a/../b", ".."]))
def test_any_cell_of_mosei_is_read_or_its_row_is_named(column: str, cell: str) -> None:
    rows = [mosei_row(), mosei_row(**{"clip_id": "10", column: cell})]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "label.csv").write_bytes(csv_bytes(MOSEI_HEADER, rows))
        reading = mosei.read(Path(folder))
    sound(reading, "label.csv")
    assert reading.rows == 2
    assert all(bad.source == "label.csv:3" for bad in reading.quarantined)
