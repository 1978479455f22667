import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emoverse.corpora import ecf
from emoverse.errors import RowErrors, UserError
from tests.factories.corpora import ecf_conversation, ecf_utterance, write_ecf


def test_an_utterance_has_its_clip_times_and_causes_in_file_order(tmp_path: Path) -> None:
    reading = ecf.read(write_ecf(tmp_path))
    last = next(one for one in reading.utterances if one.utterance_id == "ecf/train/dia1utt3")
    assert last.causes == (3, 1)
    assert (last.clip, last.episode, last.start, last.end) == ("train/dia1utt3.mp4", "S01E02", 3.0, 3.9)
    assert not reading.quarantined
    assert {one.split for one in reading.utterances} == {"train", "test"}


def test_an_utterance_without_a_pair_has_no_cause_but_is_annotated(tmp_path: Path) -> None:
    assert ecf.read(write_ecf(tmp_path)).utterances[0].causes == ()


@pytest.mark.parametrize(
    ("pair", "reason", "says"),
    [
        (["3_joy", "99"], "bad-cause", "cause '99' does not exist; the conversation has 3 utterances"),
        (["3_fear", "1"], "bad-pair", "contradicts the utterance's emotion 'joy'"),
        (["9_joy", "1"], "bad-cause", "target 9 does not exist"),
        (["3joy", "1"], "bad-pair", "is not [target_emotion, cause]"),
        (["3_joy"], "bad-pair", "is not [target_emotion, cause]"),
    ],
)
def test_a_bad_pair_sets_its_target_aside_and_nothing_else(
    tmp_path: Path, pair: list[str], reason: str, says: str
) -> None:
    good = ["3_joy", "2"]
    reading = ecf.read_split(
        write_ecf(tmp_path, [ecf_conversation(**{"emotion-cause_pairs": [good, pair]})]) / "Subtask_2_train.json",
        "train",
    )
    (bad,) = reading.quarantined
    assert bad.reason == reason
    assert says in bad.detail
    survivors = [one.position for one in reading.utterances]
    if bad.row_id == "ecf/train/dia1utt3":
        assert bad.message(Path()).startswith("Subtask_2_train.json:[0].conversation[2]: emotion-cause_pairs[1]: ")
        assert survivors == [1, 2]
    else:
        assert bad.message(Path()).startswith("Subtask_2_train.json:[0].emotion-cause_pairs[1]: emotion-cause_pairs: ")
        assert survivors == [1, 2, 3]


def test_an_utterance_with_a_bad_label_and_bad_pairs_is_one_row_with_all_its_faults(tmp_path: Path) -> None:
    rows = [ecf_utterance(1), ecf_utterance(2, emotion="hapy"), ecf_utterance(2), ecf_utterance(3)]
    pairs = [["2_joy", "1"], ["2_joy", "9"], ["3_joy", "3"], ["2_joy", "1"]]
    root = write_ecf(tmp_path, [ecf_conversation(conversation=rows, **{"emotion-cause_pairs": pairs})])
    reading = ecf.read_split(root / "Subtask_2_train.json", "train")
    assert reading.rows == len(rows)
    label, twin = reading.quarantined
    assert (label.row_id, label.column, label.reason) == ("ecf/train/dia1utt2", "emotion", "bad-label")
    assert label.source == "Subtask_2_train.json:[0].conversation[1]"
    assert "; also emotion-cause_pairs[1]: cause '9' does not exist" in label.detail
    assert (twin.source, twin.column) == ("Subtask_2_train.json:[0].conversation[2]", "emotion-cause_pairs[1]")
    assert [one.position for one in reading.utterances] == [1, 3]


@pytest.mark.parametrize(
    ("change", "column", "reason"),
    [
        ({"emotion": "joi"}, "emotion", "bad-label"),
        ({"emotion": None}, "emotion", "bad-label"),
        ({"text": ""}, "text", "empty-text"),
        ({"text": "a\0"}, "text", "nul-byte"),
        ({"utterance_ID": "2"}, "utterance_ID", "bad-number"),
        ({"utterance_ID": True}, "utterance_ID", "bad-number"),
        ({"video_source": ["S01E01", "00:00:02.000"]}, "video_source", "bad-time"),
        ({"video_source": ["S01E01", "00:00:02.000", "00:00:01.000"]}, "video_source", "span-backwards"),
        ({"video_name": "../../etc/passwd"}, "video_name", "bad-clip-name"),
        ({"speaker": 3}, "speaker", "bad-speaker"),
    ],
)
def test_a_bad_utterance_is_set_aside_with_its_place_in_the_file(
    tmp_path: Path, change: dict[str, object], column: str, reason: str
) -> None:
    rows = [ecf_utterance(1), ecf_utterance(2, **change), ecf_utterance(3)]
    conversation = ecf_conversation(conversation=rows, **{"emotion-cause_pairs": []})
    reading = ecf.read_split(write_ecf(tmp_path, [conversation]) / "Subtask_2_train.json", "train")
    assert [one.position for one in reading.utterances] == [1, 3]
    (bad,) = reading.quarantined
    assert (bad.source, bad.column, bad.reason) == ("Subtask_2_train.json:[0].conversation[1]", column, reason)


@pytest.mark.parametrize(
    "item", [3, {"conversation_ID": 1}, {"conversation_ID": "a/b", "conversation": [], "emotion-cause_pairs": []}]
)
def test_a_conversation_that_is_none_is_set_aside_whole(tmp_path: Path, item: object) -> None:
    reading = ecf.read_split(write_ecf(tmp_path, [item, ecf_conversation(5)]) / "Subtask_2_train.json", "train")
    assert len(reading.utterances) == 3
    assert len(reading.quarantined) == 1


def test_a_file_of_another_subtask_or_without_labels_is_one_fault(tmp_path: Path) -> None:
    rows = [{"utterance_ID": 1, "text": "a", "speaker": "b", "emotion": "joy"}] * 2
    first = ecf_conversation(conversation=rows)
    with pytest.raises(UserError, match=r"has 'video_source', no utterance has 'video_name'; .*subtask 1"):
        ecf.read_split(write_ecf(tmp_path, [first, first]) / "Subtask_2_train.json", "train")
    del first["emotion-cause_pairs"]
    with pytest.raises(UserError, match="no conversation has 'emotion-cause_pairs', no utterance has"):
        ecf.read_split(write_ecf(tmp_path, [first]) / "Subtask_2_train.json", "train")


def test_repeated_conversations_and_utterances_are_duplicates(tmp_path: Path) -> None:
    twice = ecf_conversation(1, conversation=[ecf_utterance(1), ecf_utterance(1)], **{"emotion-cause_pairs": []})
    reading = ecf.read_split(write_ecf(tmp_path, [twice, ecf_conversation(1)]) / "Subtask_2_train.json", "train")
    assert [bad.reason for bad in reading.quarantined] == ["duplicate-id"] * 4
    assert len(reading.utterances) == 1


def _ecf1(path: Path, last: str) -> None:
    lines = ["1 2", "(2,1),(2,2)", f"1 | Ann | neutral | Hi | there . | {last}", f"2 | Bob | joy | Ha ! | {last}", ""]
    path.write_text("\n".join(lines), "utf-8")


def test_train_is_rebuilt_from_subtask_1_and_the_pairs_of_ecf_1(tmp_path: Path) -> None:
    write_ecf(tmp_path)
    (tmp_path / "Subtask_2_train.json").unlink()
    rows = [
        {"utterance_ID": i, "text": f"Text {i}", "speaker": "Ann", "emotion": e}
        for i, e in ((1, "neutral"), (2, "joy"))
    ]
    pairs = [["2_joy", "1_Text"]]
    one = {"conversation_ID": 1, "conversation": rows, "emotion-cause_pairs": pairs}
    (tmp_path / "Subtask_1_train.json").write_text(json.dumps([one]), "utf-8")
    with pytest.raises(UserError, match=r"all_data_pair\.txt"):
        ecf.read(tmp_path)
    _ecf1(tmp_path / "all_data_pair.txt", "Friends_S1E12: 00:01:19.037 - 00:01:25.417")
    train = [one for one in ecf.read(tmp_path).utterances if one.split == "train"]
    assert [(one.causes, one.episode, one.start, one.text) for one in train] == [
        ((), "S01E12", 79.037, "Text 1"), ((1, 2), "S01E12", 79.037, "Text 2"),
    ]  # fmt: skip


def test_a_rebuilt_train_set_names_every_conversation_ecf_1_lacks(tmp_path: Path) -> None:
    _ecf1(tmp_path / "pairs.txt", "no time")
    rows = [{"utterance_ID": 1, "text": "a", "speaker": "b", "emotion": "joy"}]
    with pytest.raises(RowErrors) as caught:
        ecf.rebuild_subtask_2([{"conversation_ID": n, "conversation": rows} for n in (1, 2)], tmp_path / "pairs.txt")
    assert len(caught.value.problems) == 2


def test_a_train_clip_missing_under_its_own_name_is_melds(tmp_path: Path) -> None:
    write_ecf(tmp_path, [ecf_conversation(1, 2)])
    _ecf1(tmp_path / "all_data_pair_ECFvsMELD.txt", "dev_dia5_utt6")
    (tmp_path / "train").mkdir()
    (tmp_path / "train/dia1utt1.mp4").write_bytes(b"clip")
    train = [one.clip for one in ecf.read(tmp_path).utterances if one.split == "train"]
    assert train == ["train/dia1utt1.mp4", "MELD/dev/dev_splits_complete/dia5_utt6.mp4"]
    test = [one.clip for one in ecf.read(tmp_path).utterances if one.split == "test"]
    assert test[0] == "test/dia2utt1.mp4"


def test_a_row_that_is_set_aside_still_says_which_clip_is_its(tmp_path: Path) -> None:
    rows = [ecf_utterance(1, emotion="hapy"), ecf_utterance(2), ecf_utterance(3)]
    pairs = [["3_sadness", "1"], ["9_joy", "1"]]
    write_ecf(tmp_path, [ecf_conversation(conversation=rows, **{"emotion-cause_pairs": pairs})])
    found = {row.row_id: row.clip for row in ecf.read(tmp_path).quarantined}
    assert found == {
        "ecf/train/dia1utt1": "train/dia1utt1.mp4", "ecf/train/dia1utt3": "train/dia1utt3.mp4",
        "ecf/train/dia1#pair1": "",
    }  # fmt: skip
    _ecf1(tmp_path / "all_data_pair_ECFvsMELD.txt", "dev_dia5_utt6")
    mapped = {row.row_id: row.clip for row in ecf.read(tmp_path).quarantined}
    assert mapped["ecf/train/dia1utt1"].startswith("MELD/dev/")


@pytest.mark.parametrize(
    "pair", [["3_joy", "2"], ["3_joy", 2], [3, 2], ["3", "2"], [3.0, 2.0], "3_joy,2", "(3,2)", ["3_Joy", " 2"]]
)
def test_a_pair_is_read_in_every_form_that_names_target_and_cause(tmp_path: Path, pair: object) -> None:
    root = write_ecf(tmp_path, [ecf_conversation(**{"emotion-cause_pairs": [pair]})])
    reading = ecf.read_split(root / "Subtask_2_train.json", "train")
    assert not reading.quarantined
    assert {one.position: one.causes for one in reading.utterances} == {1: (), 2: (), 3: (2,)}


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 5) | st.floats(allow_nan=False) | st.text("123_joy, ()", max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=2),
    max_leaves=4,
)


@given(st.lists(ANYTHING, min_size=1, max_size=3))
def test_an_unreadable_pair_never_leaves_an_emotional_utterance_with_an_empty_answer(pairs: list[object]) -> None:
    conversation = ecf_conversation(**{"emotion-cause_pairs": pairs})
    reading = ecf.read_conversations([conversation], "train", "x.json")
    unreadable = [bad for bad in reading.quarantined if bad.row_id.startswith("ecf/train/dia1#pair")]
    if any("is not" in bad.detail for bad in unreadable):
        assert all(one.emotion == "neutral" for one in reading.utterances)
    whole = ecf.read_pairs(pairs, {"1": "joy", "2": "joy", "3": "joy"})
    assert {one.position: one.causes for one in reading.utterances if one.causes} == {
        int(target): causes
        for target, causes in whole.causes.items()
        if target not in whole.faults and not whole.unreadable
    }
