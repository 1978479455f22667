import contextlib
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emoverse.corpora import EMOTIONS, get_corpus, mosei
from emoverse.errors import UserError
from tests.factories.corpora import MOSEI_HEADER, csv_bytes, mosei_row, write_mosei

ZERO = (-2.7, 0, 0, 0, 0, 0, 0)


def test_numeric_and_dash_leading_ids_stay_words(tmp_path: Path) -> None:
    rows = [mosei_row(), mosei_row(video_id="-iRBcNs9oI8", clip_id="3"), mosei_row(video_id="0012", clip_id="10")]
    reading = mosei.read(write_mosei(tmp_path, rows))
    assert [one.clip for one in reading.utterances] == ["Raw/128258/9.mp4", "Raw/-iRBcNs9oI8/3.mp4", "Raw/0012/10.mp4"]
    assert reading.utterances[0].dialogue_id == "128258"
    assert reading.utterances[2].utterance_id == "mosei/train/0012/10"


@pytest.mark.parametrize(
    "header", [("video_id", "clip_id", "text", "label", "annotation", "mode", "_"), MOSEI_HEADER[::-1]]
)
def test_columns_are_read_by_name_in_any_order(tmp_path: Path, header: tuple[str, ...]) -> None:
    (tmp_path / "label.csv").write_bytes(csv_bytes(header, [mosei_row(mode="valid")]))
    one = mosei.read(tmp_path).utterances[0]
    assert (one.text, one.sentiment, one.polarity, one.split) == ("IT WAS GOOD", -2.6667, "negative", "validation")


def test_without_a_csd_emotions_are_unknown_and_counted(tmp_path: Path) -> None:
    reading = mosei.read(write_mosei(tmp_path, [mosei_row()]))
    assert reading.utterances[0].emotion is None
    assert reading.notes["emotion-unknown"] == 1


def test_emotions_are_joined_by_time_and_not_by_position(tmp_path: Path) -> None:
    rows = [mosei_row(video_id="v", clip_id=clip) for clip in ("0", "1", "10")]
    segments = {
        "v": [
            (5.0, 9.0, (-2.7, 0, 0, 2, 0, 0, 0)),
            (0.0, 5.0, (-2.7, 1, 0, 0, 0, 0, 0)),
            (9.0, 12.0, (-2.7, 0, 0, 0, 0, 0, 3)),
        ]
    }
    times = {"v": [("0", 0.01, 4.99), ("1", 9.0, 12.0), ("10", 5.0, 9.0)]}
    reading = mosei.read(write_mosei(tmp_path, rows, segments, times))
    assert {one.position: one.emotion for one in reading.utterances} == {0: "joy", 1: "fear", 10: "anger"}
    assert [(one.start, one.end) for one in reading.utterances] == [(0.01, 4.99), (9.0, 12.0), (5.0, 9.0)]


def test_all_zero_is_neutral_ties_have_an_order_and_values_above_three_are_clamped(tmp_path: Path) -> None:
    rows = [mosei_row(video_id="v", clip_id=clip) for clip in ("0", "1", "2")]
    segments = {"v": [(0, 1, ZERO), (1, 2, (-2.7, 0, 1, 1, 0, 0, 0)), (2, 3, (-2.7, 0, 0, 0, 0, 4, 0))]}
    times = {"v": [("0", 0, 1), ("1", 1, 2), ("2", 2, 3)]}
    reading = mosei.read(write_mosei(tmp_path, rows, segments, times))
    assert [one.emotion for one in reading.utterances] == ["neutral", "sadness", "disgust"]
    assert reading.utterances[2].intensities == (0, 0, 0, 0, 3, 0)
    assert {key: reading.notes[key] for key in ("emotion-all-zero", "emotion-tie", "intensity-clamped")} == {
        "emotion-all-zero": 1, "emotion-tie": 1, "intensity-clamped": 1,
    }  # fmt: skip


def test_clips_without_a_time_a_segment_or_a_single_meaning_have_no_emotion(tmp_path: Path) -> None:
    rows = [mosei_row(video_id="a___b", clip_id=clip) for clip in ("0", "1", "2")]
    segments = {"a___b": [(0, 1, ZERO), (0, 1.01, (0, 3, 0, 0, 0, 0, 0))]}
    times = {"a___b": [("0", 0, 1), ("1", 7, 8)]}
    reading = mosei.read(write_mosei(tmp_path, rows, segments, times))
    assert [one.emotion for one in reading.utterances] == [None, None, None]
    assert {k: v for k, v in reading.notes.items() if v} == {
        "emotion-ambiguous": 1, "emotion-no-segment": 1, "emotion-no-times": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "column", "reason"),
    [
        ({"video_id": "../up"}, "video_id", "bad-id"),
        ({"video_id": ".."}, "video_id", "bad-id"),
        ({"video_id": "a\\b"}, "video_id", "bad-id"),
        ({"clip_id": "9.0"}, "clip_id", "bad-number"),
        ({"clip_id": "٩"}, "clip_id", "bad-number"),
        ({"label": "4.0", "annotation": "Positive"}, "label", "bad-label"),
        ({"label": "nan"}, "label", "bad-label"),
        ({"label": "0.0"}, "annotation", "bad-label"),
        ({"mode": "trian"}, "mode", "bad-split"),
        ({"text": ""}, "text", "empty-text"),
    ],
)
def test_a_bad_row_is_set_aside(tmp_path: Path, change: dict[str, str], column: str, reason: str) -> None:
    reading = mosei.read(write_mosei(tmp_path, [mosei_row(**change), mosei_row(clip_id="8")]))
    assert [one.position for one in reading.utterances] == [8]
    assert [(bad.source, bad.column, bad.reason) for bad in reading.quarantined] == [("label.csv:2", column, reason)]


def test_one_name_in_two_unicode_forms_is_a_duplicate_in_nfc(tmp_path: Path) -> None:
    rows = [mosei_row(video_id="caf\u00e9"), mosei_row(video_id="cafe\u0301")]
    reading = mosei.read(write_mosei(tmp_path, rows))
    assert [one.clip for one in reading.utterances] == ["Raw/caf\u00e9/9.mp4"]
    assert [bad.reason for bad in reading.quarantined] == ["duplicate-id"]


def test_a_csd_without_transcripts_or_that_is_none_is_an_error(tmp_path: Path) -> None:
    root = write_mosei(tmp_path / "a", [mosei_row()], {"v": [(0, 1, ZERO)]})
    (root / "Transcript/Segmented/Combined").rmdir()
    with pytest.raises(UserError, match="cannot be joined"):
        mosei.read(root)
    (root / "CMU_MOSEI_Labels.csd").write_bytes(b"not HDF5")
    with pytest.raises(UserError, match="not a csd"):
        mosei.read(root)


def _without_features(data: Any) -> None:
    del data["v/features"]


def _no_folder(data: Any) -> None:
    del data["v"]
    data["v"] = [1.0, 2.0]


def _words(data: Any) -> None:
    del data["v/features"]
    data["v/features"] = [[b"x"] * 7]


def _elsewhere(data: Any) -> None:
    del data["v"]
    data["v"] = h5py.ExternalLink("/nowhere.h5", "/v")


@pytest.mark.parametrize("spoil", [_without_features, _no_folder, _words, _elsewhere])
def test_labels_of_a_video_that_cannot_be_read_are_named(tmp_path: Path, spoil: Callable[[Any], None]) -> None:
    row = mosei_row(video_id="v", clip_id="0")
    root = write_mosei(tmp_path, [row], {"v": [(0, 1, ZERO)]}, {"v": [("0", 0, 1)]})
    with h5py.File(root / "CMU_MOSEI_Labels.csd", "a") as file:
        spoil(file["All Labels/data"])
    with pytest.raises(UserError, match=r"csd: the labels of video 'v' cannot be read .* fetch"):
        mosei.read(root)


def test_a_csd_with_a_changed_byte_is_read_or_named(tmp_path: Path) -> None:
    root = write_mosei(tmp_path, [mosei_row(video_id="v", clip_id="0")], {"v": [(0, 1, ZERO)]}, {"v": [("0", 0, 1)]})
    path = root / "CMU_MOSEI_Labels.csd"
    whole = path.read_bytes()
    rng = random.Random(7)
    for _ in range(200):
        at = rng.randrange(len(whole))
        path.write_bytes(whole[:at] + bytes([rng.randrange(256)]) + whole[at + 1 :])
        with contextlib.suppress(UserError):
            assert mosei.read(root).rows == 1


@pytest.mark.parametrize("second", ["v___0___5___6___x", "v___0___nan___1___x", "v___0___1e999___2___x"])
def test_times_that_differ_or_are_none_are_not_guessed(tmp_path: Path, second: str) -> None:
    row = mosei_row(video_id="v", clip_id="0")
    root = write_mosei(tmp_path, [row], {"v": [(0, 1, ZERO)]}, {"v": [("0", 0, 1)]})
    path = root / "Transcript/Segmented/Combined/v.txt"
    path.write_text(f"{path.read_text('utf-8')}{second}\n", "utf-8")
    reading = mosei.read(root)
    assert (reading.utterances[0].emotion, reading.utterances[0].start) == (None, None)
    assert reading.notes["emotion-no-times"] == 1


@given(st.tuples(*[st.floats(0, 3, allow_nan=False) for _ in range(6)]))
def test_one_emotion_comes_of_any_six_intensities(values: tuple[float, ...]) -> None:
    notes: Counter[str] = Counter()
    emotion = mosei.emotion_of(values, notes)
    assert emotion in EMOTIONS
    if emotion == "neutral":
        assert not any(values)
    else:
        assert values[mosei.PRIORITY.index(emotion)] == max(values)
        assert max(values) not in values[: mosei.PRIORITY.index(emotion)]


def test_a_csd_that_contradicts_the_sentiments_of_label_csv_is_counted_and_beyond_a_share_named(tmp_path: Path) -> None:
    rows = [mosei_row(video_id="v", clip_id=str(clip)) for clip in range(40)]
    times = {"v": [(str(clip), clip, clip + 1) for clip in range(40)]}
    for wrong in (0, 2, 3):
        sentiments = [3.0 if clip < wrong else -2.6667 for clip in range(40)]
        segments = {"v": [(clip, clip + 1, (value, 0, 0, 2, 0, 0, 0)) for clip, value in enumerate(sentiments)]}
        root = write_mosei(tmp_path / str(wrong), rows, segments, times)
        if wrong < 3:
            assert mosei.read(root).notes.get("csd-sentiment-differs", 0) == wrong
            continue
        with pytest.raises(
            UserError, match=r"differs from label\.csv in 3 of 40 clips, such as v/0 \(3, label\.csv -2\.6667\)"
        ):
            mosei.read(root)


@pytest.mark.parametrize(
    ("found", "stem"),
    [
        ("Raw", "128258/9"),
        ("MOSEI/Raw", "128258/9"),
        ("Raw/Raw", "128258/9"),
        ("Raw/Videos/Segmented/Combined", "128258_9"),
        ("Videos/Segmented/Combined", "128258_9"),
        ("CMU/Videos/Segmented/Combined", "128258_9"),
    ],
)
def test_clips_are_found_in_the_layouts_of_mmsa_and_cmu_and_one_folder_deeper(
    tmp_path: Path, found: str, stem: str
) -> None:
    root = write_mosei(tmp_path, [mosei_row()])
    clip = root / found / f"{stem}.mp4"
    clip.parent.mkdir(parents=True)
    clip.touch()
    (one,) = mosei.read(root).utterances
    assert one.clip == f"{found}/{stem}.mp4"
    assert get_corpus("mosei").published_path(one, still=True) == "128258/9.png"
