"""The Great Expectations suites find each kind of bad row, and only those."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from emoverse import corpora
from emoverse.config import ValidationParams
from emoverse.corpora import Utterance
from emoverse.errors import UserError
from emoverse.media.probe import Probe
from emoverse.validation import amt_rows as expected
from emoverse.validation.amt_rows import amt_table, check_amt, check_folder
from emoverse.validation.expectations import (
    ANNOTATIONS,
    Check,
    check_annotations,
    check_probes,
    probe_checks,
    run_suite,
)
from emoverse.validation.results import MEANING

GOOD = Utterance(
    utterance_id="meld/train/dia0_utt0", corpus="meld", split="train", dialogue_id="0", position=0, speaker="Ross",
    text="No.", emotion="joy", polarity="positive", sentiment=1.0, intensities=(3.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    causes=None, episode=None, start=1.0, end=2.0, clip="a.mp4", source="a.csv:2",
)  # fmt: skip
LIMITS = ValidationParams(max_quarantined=0.1, min_duration=0.2, max_duration=60.0, max_duration_gap=2.0)
PROBE = Probe(duration=2.0, frames=48, fps=24.0, width=640, height=360, codec="h264", rotation=0, has_audio=True)


def failed(findings: list[Any]) -> dict[str, list[int]]:
    """Return the failing rows by reason, the warnings about a whole table aside."""
    return {f.check.reason: f.rows for f in findings if not f.success and f.check.reason != "empty-split"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"emotion": "hapy"}, "bad-label"),
        ({"polarity": "good"}, "bad-label"),
        ({"sentiment": 3.5}, "sentiment-out-of-range"),
        ({"intensities": (0.0, 0.0, 0.0, 0.0, 0.0, 3.5)}, "intensity-out-of-range"),
        ({"intensities": (0.0, -0.5, 0.0, 0.0, 0.0, 0.0)}, "intensity-out-of-range"),
        ({"text": " \t"}, "blank-text"),
        ({"split": "dev"}, "bad-split"),
        ({"end": 0.5}, "span-backwards"),
        ({"emotion": None, "polarity": None, "sentiment": None}, "no-label"),
    ],
)
def test_a_bad_annotation_fails_its_expectation(changes: dict[str, Any], reason: str) -> None:
    rows = [replace(GOOD, utterance_id=str(n)) for n in range(4)]
    rows[2] = replace(rows[2], **changes)
    assert failed(check_annotations(rows)) == {reason: [2]}


def test_a_corpus_without_some_labels_meets_the_suite() -> None:
    bare = replace(GOOD, sentiment=None, intensities=None, polarity=None, start=None, end=None)
    assert failed(check_annotations([replace(bare, utterance_id=str(n)) for n in range(3)])) == {}


def test_equal_ids_are_found_and_no_rows_are_an_error() -> None:
    assert failed(check_annotations([GOOD, replace(GOOD, utterance_id="b"), GOOD])) == {"duplicate-id": [0, 2]}
    assert "no-rows" in failed(check_annotations([]))


WARNINGS = {"no-audio", "duration-gap", "clip-black", "clip-frozen", "clip-silent", "clip-hdr"}


@pytest.mark.parametrize(
    ("changes", "gap", "reason"),
    [
        ({"duration": 0.1}, 0.0, "clip-too-short"),
        ({"duration": 61.0}, None, "clip-too-long"),
        ({"fps": 0.5}, 0.0, "bad-frame-rate"),
        ({"width": 8}, 0.0, "bad-size"),
        ({"height": 9000}, 0.0, "bad-size"),
        ({"frames": 0}, 0.0, "clip-empty"),
        ({"has_audio": False}, 0.0, "no-audio"),
        ({}, 2.5, "duration-gap"),
        ({"black": 0.5}, 0.0, "clip-black"),
        ({"frozen": 0.75}, 0.0, "clip-frozen"),
        ({"silent": True}, 0.0, "clip-silent"),
        ({"hdr": True}, 0.0, "clip-hdr"),
    ],
)
def test_a_bad_clip_fails_its_expectation(changes: dict[str, Any], gap: float | None, reason: str) -> None:
    findings = check_probes([(PROBE, 0.1), (replace(PROBE, **changes), gap), (PROBE, None)], LIMITS)
    assert failed(findings) == {reason: [1]}
    (found,) = [f for f in findings if not f.success]
    assert found.check.severity == ("warning" if reason in WARNINGS else "error")


def amt_row(**changes: Any) -> dict[str, Any]:
    user = "<video>The person says: 'No.' <emotion> Please determine ..."
    row = {
        "messages": [
            {"role": "system", "content": "You are ..."},
            {"role": "user", "content": user},
            {"role": "assistant", "content": "Joy."},
        ],
        "videos": ["clip:meld/train/dia0_utt0"], "images": [], "channel": "mer/meld/train/dia0_utt0", "task": "mer",
        "corpus": "meld", "utterance_id": "meld/train/dia0_utt0",
    }  # fmt: skip
    return {**row, **changes}


def says(role: str, text: str) -> list[dict[str, str]]:
    return [m if m["role"] != role else {"role": role, "content": text} for m in amt_row()["messages"]]


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({"task": "merr"}, {"bad-task"}),
        ({"channel": None}, {"no-id"}),
        ({"channel": "a"}, {"duplicate-id"}),
        ({"utterance_id": "dia0_utt0"}, {"bad-utterance"}),
        ({"videos": []}, {"media-count"}),
        ({"images": ["clip:meld/train/dia0_utt0#peak"]}, {"media-count"}),
        ({"videos": ["raw/dia0_utt0.mp4"]}, {"bad-media"}),
        ({"messages": says("user", "no placeholder")}, {"placeholder-count"}),
        ({"messages": says("user", "<video><image>two")}, {"placeholder-count"}),
        ({"messages": amt_row()["messages"][:2]}, {"bad-roles", "no-answer"}),
    ],
)
def test_a_bad_amt_row_fails_its_expectation(changes: dict[str, Any], reasons: set[str]) -> None:
    rows = [amt_row(channel="a"), amt_row(**{"channel": "b", **changes}), amt_row(channel="c")]
    found = failed(check_amt(amt_table(rows)))
    assert set(found) == reasons
    assert all(where == [1] for where in found.values())


def test_good_amt_rows_meet_the_suite_an_empty_answer_too() -> None:
    still = amt_row(channel="b", videos=[], images=["clip:meld/train/dia0_utt0#peak#blank"])
    still["messages"] = says("user", "<image>Detail the facial expressions")
    empty = amt_row(channel="c", messages=says("assistant", ""))  # ECPE: an emotion without an annotated cause
    assert failed(check_amt(amt_table([amt_row(), still, empty]))) == {}


def test_an_expectation_that_cannot_be_evaluated_is_our_fault_not_the_datas() -> None:
    check = Check(kind="ExpectColumnValuesToNotBeNull", settings={"column": "nope"}, reason="x", says="x")
    with pytest.raises(ValueError, match="could not be evaluated"):
        run_suite("broken", [check], amt_table([amt_row()]))


def test_a_row_that_fails_an_expectation_stops_the_step_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expected, "ROWS", 2)  # so that a repeated id is found across batches
    good = {
        "messages": [{"role": "user", "content": "<video>Which?"}, {"role": "assistant", "content": "Joy."}],
        "videos": ["clip:meld/train/a"], "images": [], "channel": "mer/meld/train/a", "task": "mer",
        "utterance_id": "meld/train/a",
    }  # fmt: skip
    bad = [
        {"channel": f"mer/{n}"} | change for n, change in enumerate([{}, {"task": "merr"}, {}, {"channel": "mer/0"}])
    ]
    (tmp_path / "stage1.jsonl").write_text("".join(json.dumps(good | one) + "\n" for one in bad))
    with pytest.raises(UserError) as caught:
        check_folder(tmp_path)
    assert "stage1.jsonl:2: task: check failed: The task is one of" in str(caught.value)
    assert "stage1.jsonl:4: repeats: check failed: Every row of a file has an id of its own" in str(caught.value)


def test_every_reason_that_sets_a_row_aside_is_explained_on_the_page() -> None:
    reasons = {check.reason for check in (*ANNOTATIONS, *probe_checks(LIMITS)) if check.severity == "error"} | WARNINGS
    rooms = Path(corpora.__file__).parent
    reasons |= set(re.findall(r'"((?:bad|empty|nul|line|ragged|span|duplicate)-[a-z-]+)"', _text(rooms)))
    assert reasons - {"no-rows", "clip-empty", "line-feed-in-cell"} <= MEANING.keys()  # the last is a note


def _text(folder: Path) -> str:
    return "\n".join(path.read_text("utf-8") for path in sorted(folder.glob("*.py")))
