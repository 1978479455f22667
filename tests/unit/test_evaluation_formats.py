"""Prediction files of other projects are recognised, and score as their own scorers score them."""

from __future__ import annotations

import csv
import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import pytest

from emoverse.errors import RowErrors, UserError
from emoverse.evaluation.formats import FORMATS, read_rows
from emoverse.evaluation.score_file import score_file
from tests.factories.answering import write_rows

LABELS = ["Anger.", "Sadness.", "Surprise.", "Disgust.", "Joy.", "Neutral.", "Fear."]
Record = tuple[str, str, str]
"""(clip, right label, reply)."""


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    return write_rows(path.with_suffix(".jsonl"), rows)


def listed(path: Path, tree: Any) -> Path:
    path = path.with_suffix(".json")
    path.write_text(json.dumps(tree, indent=2, ensure_ascii=False), "utf-8")
    return path


def swift(path: Path, records: list[Record]) -> Path:
    return lines(
        path, [{"response": r, "labels": g, "logprobs": None, "videos": [f"a/{c}.mp4"]} for c, g, r in records]
    )


def json_list(path: Path, records: list[Record]) -> Path:
    return listed(path, [{"video": f"{c}.mp4", "prediction": r, "label": g.lower().rstrip(".")} for c, g, r in records])


def comma_separated(path: Path, records: list[Record]) -> Path:
    path = path.with_suffix(".csv")
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerows([("id", "ground_truth", "prediction"), *records])
    return path


def lmms_eval(path: Path, records: list[Record]) -> Path:
    rows = [
        {"doc_id": n, "doc": {"video": f"{c}.mp4"}, "target": g, "resps": [[r]], "filtered_resps": [r], "doc_hash": "x"}
        for n, (c, g, r) in enumerate(records)
    ]
    return lines(path, rows)


def vlmevalkit(path: Path, records: list[Record]) -> Path:
    """Write an Excel file as pandas with openpyxl does, text in the shared strings."""
    head = ("index", "video", "question", "answer", "prediction")
    table = [head, *((str(n), c, "Which emotion?", g, r) for n, (c, g, r) in enumerate(records))]
    strings = list(dict.fromkeys(cell for row in table for cell in row))
    rows = "".join(
        f'<row r="{i}">'
        + "".join(f'<c r="{"ABCDE"[j]}{i}" t="s"><v>{strings.index(v)}</v></c>' for j, v in enumerate(row))
        + "</row>"
        for i, row in enumerate(table, 1)
    )
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    shared = "".join(f'<si><t xml:space="preserve">{escape(text)}</t></si>' for text in strings)
    path = path.with_suffix(".xlsx")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("xl/worksheets/sheet1.xml", f"<worksheet {space}><sheetData>{rows}</sheetData></worksheet>")
        archive.writestr("xl/sharedStrings.xml", f"<sst {space}>{shared}</sst>")
    return path


def affectgpt(path: Path, records: list[Record]) -> Path:
    path = path.with_suffix(".npz")
    np.savez_compressed(path, name2reason={clip: reply for clip, _, reply in records})  # type: ignore[arg-type]
    return path


def emotion_llama(path: Path, records: list[Record]) -> Path:
    rows = [
        {
            "instance_id": f"t-{n}",
            "sample_id": c,
            "task": "emotion",
            "target": g.lower().rstrip("."),
            "prediction": r,
            "is_valid": True,
        }
        for n, (c, g, r) in enumerate(records)
    ]
    return lines(path, rows)


WRITERS: list[Callable[[Path, list[Record]], Path]] = [
    swift,
    json_list,
    comma_separated,
    lmms_eval,
    vlmevalkit,
    affectgpt,
    emotion_llama,
]
NOISE = (
    "{}",
    "{}!",
    " {}\n",
    "**{}**",
    "The emotion is {}.",
    "<think>Hm, joy or fear?</think>{}",
    "“{}”",
    "It's {}, I think.",
)


def made_records(seed: int) -> tuple[list[Record], float]:
    """Return records with noisy replies, and the accuracy by equality of the labels before the noise."""
    draw = random.Random(seed)
    records, right = [], 0
    for number in range(20):
        gold, reply = draw.choice(LABELS), draw.choice(LABELS)
        reply = gold if draw.random() < 0.6 else reply
        right += gold == reply
        records.append((f"dia{seed}_utt{number}", gold, draw.choice(NOISE).format(reply.lower().rstrip("."))))
    return records, right / 20


@pytest.mark.parametrize("write", WRITERS, ids=[write.__name__ for write in WRITERS])
def test_noisy_files_of_every_project_score_as_their_labels_do(tmp_path: Path, write: Callable[..., Path]) -> None:
    for seed in range(30):
        records, accuracy = made_records(seed)
        gold = listed(
            tmp_path / "gold",
            [
                {"query": f"<video>{n}?", "response": label, "videos": [f"MELD/test/{clip}.mp4"]}
                for n, (clip, label, _) in enumerate(records)
            ],
        )
        path = write(tmp_path / f"{write.__name__}{seed}", records)
        found = score_file(path, "mer", gold=gold if write is affectgpt else None, bootstrap=2)
        assert (found["n"], found["unparsable"]) == (20, 0), path
        assert found["accuracy"] == pytest.approx(accuracy, abs=1e-6), path


def test_clips_are_matched_with_a_test_set_by_name_where_a_file_has_no_questions(tmp_path: Path) -> None:
    records, accuracy = made_records(3)
    gold = write_rows(
        tmp_path / "gold.jsonl",
        [
            {
                "messages": [{"role": "user", "content": "<video>Which?"}],
                "videos": [f"clip:meld/test/{clip}"],
                "channel": f"mer/meld/test/{clip}",
                "gold": {"answer": label, "answers": LABELS},
            }
            for clip, label, _ in records
        ],
    )
    for write in (affectgpt, comma_separated, emotion_llama):
        shuffled = random.Random(1).sample(records, len(records))
        assert score_file(write(tmp_path / "p", shuffled), "mer", gold=gold, bootstrap=2)["accuracy"] == pytest.approx(
            accuracy
        )
    with pytest.raises(RowErrors, match="has no prediction"):
        score_file(affectgpt(tmp_path / "p", records[1:]), "mer", gold=gold, bootstrap=2)


def test_replies_without_right_answers_ask_for_the_test_set(tmp_path: Path) -> None:
    with pytest.raises(RowErrors, match="give the test set with --gold"):
        score_file(affectgpt(tmp_path / "p", made_records(0)[0]), "mer")


def test_a_multiple_choice_row_is_scored_by_the_texts_of_its_options(tmp_path: Path) -> None:
    row = {"index": 0, "question": "Which?", "A": "joy", "B": "fear", "answer": "B"}
    path = listed(
        tmp_path / "p",
        [
            {**row, "prediction": "B"},
            {**row, "index": 1, "prediction": "(A)."},
            {**row, "index": 2, "prediction": "fear"},
        ],
    )
    assert score_file(path, "mer", bootstrap=2)["accuracy"] == pytest.approx(2 / 3, abs=1e-6)


def test_an_old_lmms_eval_log_and_samples_of_one_task_are_lists_of_rows(tmp_path: Path) -> None:
    rows = [{"doc_id": 0, "doc": {}, "target": "Joy.", "resps": [["Joy."]]}]
    for tree in ({"logs": rows, "args": {}}, {"samples": {"mer": rows}, "results": {}}):
        assert [row["response"] for _, row, _ in read_rows(listed(tmp_path / "p", tree))] == ["Joy."]


def test_a_named_format_is_held_to_its_keys_and_an_unknown_one_names_the_nearest(tmp_path: Path) -> None:
    path = lines(tmp_path / "p", [{"response": "Joy.", "labels": "Joy."}])
    assert "no prediction, target, which a file of emotion-llama has" in read_rows(path, "emotion-llama")[0][2]
    with pytest.raises(UserError, match="did you mean 'lmms-eval'"):
        read_rows(path, "lmms_eval")
    assert all(read_rows(path, name) for name in FORMATS)


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("code ran",))


def test_an_array_that_would_run_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "p.npz"
    np.savez_compressed(path, name2reason={"a": Harmful()})  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"it holds builtins\.print, which is no plain value"):
        read_rows(path)
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("p.csv", b"", "cannot be read as .csv"),
        ("p.xlsx", b"PK", "cannot be read as .xlsx"),
        ("p.npz", b"PK", "cannot be read as .npz"),
        ("p.csv", b"id,reply\n1\n", "another number of cells"),
        ("p.csv", b"\xff\xfe,a\n", "not UTF-8"),
        ("p.pkl", b"x", "a pickle may run code"),
        ("p.json", b"{", "not valid JSON"),
        ("p.json", b'{"a": 1}', "holds no JSON list"),
    ],
)
def test_a_broken_file_is_one_clear_line(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=problem):
        read_rows(tmp_path / name)
    with pytest.raises(UserError, match="no such file"):
        read_rows(tmp_path / f"none-{name.replace('pkl', 'csv')}")
