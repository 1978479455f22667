from pathlib import Path

import pytest

from emoverse.corpora import corpora, get_corpus, meld
from emoverse.errors import UserError
from tests.factories.corpora import meld_row, write_meld


def test_the_readers_are_found_by_name_and_a_misspelt_one_names_the_nearest() -> None:
    assert set(corpora()) == {"ecf", "meld", "mosei"}
    with pytest.raises(UserError, match="did you mean 'mosei'"):
        get_corpus("moseii")


def test_a_row_becomes_an_utterance_with_its_clip_times_and_line(tmp_path: Path) -> None:
    one = meld.read(write_meld(tmp_path, [meld_row(Dialogue_ID="7", Utterance_ID="3")])).utterances[0]
    assert (one.utterance_id, one.clip) == ("meld/train/dia7_utt3", "train/train_splits/dia7_utt3.mp4")
    assert (one.dialogue_id, one.position, one.episode) == ("7", 3, "S08E21")
    assert (one.start, one.end) == (976.059, 981.731)
    assert one.source == "train_sent_emo.csv:2"


def test_equal_dialogue_ids_in_two_splits_are_two_dialogues(tmp_path: Path) -> None:
    reading = meld.read(write_meld(tmp_path))
    assert [one.utterance_id for one in reading.utterances] == [
        "meld/train/dia0_utt0", "meld/validation/dia0_utt0", "meld/test/dia0_utt0",
    ]  # fmt: skip
    assert not reading.quarantined


def test_gaps_in_utterance_ids_stay(tmp_path: Path) -> None:
    rows = [meld_row(Utterance_ID=number) for number in ("0", "4", "9")]
    assert [
        one.position for one in meld.read_split(write_meld(tmp_path, rows) / "train_sent_emo.csv", "train").utterances
    ] == [0, 4, 9]


def test_quotes_commas_curly_signs_and_line_separators_are_kept_verbatim(tmp_path: Path) -> None:
    text = 'She said: “Don\'t…” a "quoted", thing\u2028end\nThen left.'
    reading = meld.read(write_meld(tmp_path, [meld_row(Utterance=text)]))
    assert reading.utterances[0].text == text
    assert reading.notes["line-feed-in-cell"] == 1


def test_control_characters_of_windows_1252_are_read_as_its_punctuation_and_counted(tmp_path: Path) -> None:
    rows = [meld_row(Utterance="I don\x92t know\x85 she said \x93hi\x94 \x96 twice"), meld_row(Utterance_ID="1")]
    reading = meld.read(write_meld(tmp_path, rows))
    assert reading.utterances[0].text == "I don’t know… she said “hi” – twice"
    assert reading.notes["cp1252-punctuation-mapped"] == 1


@pytest.mark.parametrize(
    "found", ["train/train_splits", "train_splits", "MELD.Raw/train/train_splits", "x/train_splits"]
)
def test_clips_are_found_as_archives_unpack_without_the_outer_folder_or_one_folder_deeper(
    tmp_path: Path, found: str
) -> None:
    root = write_meld(tmp_path)
    (root / found).mkdir(parents=True)
    (root / found / "dia0_utt0.mp4").touch()
    train, validation, _ = meld.read(root).utterances
    assert train.clip == f"{found}/dia0_utt0.mp4"
    assert validation.clip == "dev/dev_splits_complete/dia0_utt0.mp4"
    assert get_corpus("meld").published_path(train, still=False) == "MELD/train_splits/dia0_utt0.mp4"


@pytest.mark.parametrize(
    ("change", "column", "reason", "says"),
    [
        ({"Emotion": "hapy"}, "Emotion", "bad-label", "did you mean 'joy'?"),
        ({"Emotion": "sadnes"}, "Emotion", "bad-label", "did you mean 'sadness'?"),
        ({"Sentiment": "positiv"}, "Sentiment", "bad-label", "did you mean 'positive'?"),
        ({"Dialogue_ID": "1.0"}, "Dialogue_ID", "bad-number", "'1.0' is not a whole number"),
        ({"Utterance_ID": "../1"}, "Utterance_ID", "bad-number", "is not a whole number"),
        ({"Season": ""}, "Season", "bad-number", "is not a whole number"),
        ({"StartTime": "16:16"}, "StartTime", "bad-time", "is not h:mm:ss,mmm"),
        ({"EndTime": "00:16:15,000"}, "EndTime", "span-backwards", "before it begins"),
        ({"Utterance": "  "}, "Utterance", "empty-text", "no visible character"),
        ({"Utterance": "\u200b\ufeff \u00a0"}, "Utterance", "empty-text", "no visible character"),
        ({"Utterance": "a\x81b"}, "Utterance", "control-character", "U+0081 at character 2"),
        ({"Utterance": "a\0b"}, "Utterance", "nul-byte", "NUL at character 2"),
    ],
)
def test_a_bad_row_is_set_aside_with_file_row_column_and_reason(
    tmp_path: Path, change: dict[str, str], column: str, reason: str, says: str
) -> None:
    rows = [meld_row(), meld_row(**({"Utterance_ID": "1"} | change)), meld_row(Utterance_ID="2")]
    reading = meld.read_split(write_meld(tmp_path, rows) / "train_sent_emo.csv", "train")
    assert [one.position for one in reading.utterances] == [0, 2]
    (bad,) = reading.quarantined
    assert (bad.source, bad.column, bad.reason) == ("train_sent_emo.csv:3", column, reason)
    assert says in bad.detail


def test_a_duplicate_names_the_line_of_the_first(tmp_path: Path) -> None:
    reading = meld.read_split(
        write_meld(tmp_path, [meld_row(), meld_row(Emotion="fear")]) / "train_sent_emo.csv", "train"
    )
    assert [one.emotion for one in reading.utterances] == ["joy"]
    assert reading.quarantined[0].reason == "duplicate-id"
    assert "already on line 2" in reading.quarantined[0].detail


def test_two_digits_of_milliseconds_are_read_as_the_three_real_rows_need(tmp_path: Path) -> None:
    row = meld_row(StartTime="00:06:45,489", EndTime="00:06:47,28")
    assert meld.read(write_meld(tmp_path, [row])).utterances[0].end == 407.028
