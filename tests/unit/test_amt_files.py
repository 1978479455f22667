import io
import json
from collections import Counter
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emoverse.amt.build_amt import check_splits
from emoverse.amt.builder import Stage
from emoverse.amt.corpus_table import natural
from emoverse.amt.reasons import FileReasons, RuleReasons, provider
from emoverse.amt.records import FileCounts, RecordList, Row, media_path, published_record, write_records
from emoverse.errors import RowErrors, UserError
from emoverse.tasks import Question
from tests.factories.amt import utterance

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(st.lists(st.tuples(TEXT, TEXT, st.booleans(), st.sampled_from(["mer", "ecpe"])), max_size=4))
def test_published_records_are_written_as_json_dumps_would(rows: list[tuple[str, str, bool, str]]) -> None:
    out = io.BytesIO()
    listing, expected = RecordList(out), []
    for query, response, still, task in rows:
        listing.add(published_record(task, query, response, "a/b.mp4", still=still))
        clip = {"images" if still else "videos": ["a/b.mp4"]}
        words = {"query": query, "response": response}
        expected.append({**clip, **words} if task == "ecpe" else {**words, **clip})
    listing.end()
    assert out.getvalue().decode() == json.dumps(expected, indent=4, ensure_ascii=False)


def test_a_published_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "sub/a.json"
    write_records(path, [b"1"])
    with pytest.raises(ZeroDivisionError):
        write_records(path, (b"%d" % (1 // n) for n in (1, 0)))
    assert [one.name for one in path.parent.iterdir()] == ["a.json"]
    assert json.loads(path.read_text()) == [1]


def test_clips_are_called_as_the_authors_call_them() -> None:
    meld = utterance(clip="test/output_repeated_splits_test/dia0_utt0.mp4")
    assert media_path(meld, still=False) == "MELD/output_repeated_splits_test/dia0_utt0.mp4"
    ecf = utterance(corpus="ecf", split="test", clip="test/dia1375utt1.mp4")
    assert media_path(ecf, still=False) == "ECF2/subtask2_test/dia1375utt1.mp4"
    assert (
        media_path(utterance(corpus="mosei", dialogue_id="128258", position=9, clip="Raw/128258/9.mp4"), still=True)
        == "128258/9.png"
    )


def test_a_tally_finds_empty_outside_and_contradicting_answers() -> None:
    counts = FileCounts()
    allowed = {"answers": ["Joy.", "Fear.", ""]}
    for name, answer in (("a", "Joy."), ("b", "Joy."), ("b", "Fear."), ("c", ""), ("d", "Bliss.")):
        counts.add(Row("mer", utterance(utterance_id=name), Question("the same words", answer, allowed), still=False))
    other = Question("other words", "Joy.", {"answers": None})
    counts.add(Row("mer", utterance(utterance_id="a"), other, still=False, query="other <image> words"))
    report = counts.report()
    assert (report["rows"], report["empty_answers"], report["answers_outside_set"]) == (6, 1, 1)
    assert (report["same_words_other_answer"], report["same_words_and_clip_other_answer"]) == (1, 1)
    assert report["prompts_with_placeholders"] == 1
    assert report["answers"]["Joy."] == 3


def stage(**weights: float) -> Stage:
    return Stage("stage1", ("ecf", "meld"), weights, 1, "several")


def answers(**rows: dict[str, int]) -> dict[tuple[str, str, str], Counter[str]]:
    return {tuple(key.split("_")): Counter(found) for key, found in rows.items()}  # type: ignore[misc]


def test_an_empty_split_is_an_error_that_says_why() -> None:
    full = answers(stage1_meld_mer={"Joy.": 2, "Fear.": 1}, test_meld_mer={"Joy.": 1, "Fear.": 1})
    assert check_splits([stage(mer=1.0)], full, {}, {"mer"}, {}) == []
    left = answers(test_meld_msa={"no-sentiment-label": 4})
    with pytest.raises(UserError, match=r"test has no msa rows \(no-sentiment-label 4\)"):
        check_splits([stage(msa=1.0)], answers(stage1_meld_msa={"a": 1, "b": 1}), left, {"msa"}, {})
    with pytest.raises(UserError, match="stage1 has no mer rows"):
        check_splits([stage(mer=0.001)], answers(test_meld_mer={"a": 1, "b": 1}), {}, {"mer"}, {})


def test_one_class_is_an_error_for_closed_tasks_only() -> None:
    rows = answers(stage1_meld_x={"Joy.": 5}, test_meld_x={"Joy.": 2}, test_ecf_x={"Joy.": 1, "Fear.": 1})
    with pytest.raises(UserError, match=r"stage1 x of ecf\+meld has one class only, 'Joy.' in 5 rows; test x of meld"):
        check_splits([stage(x=1.0)], rows, {}, {"x"}, {})
    assert check_splits([stage(x=1.0)], rows, {}, set(), {}) == []


def test_a_task_that_is_empty_for_a_tolerated_reason_is_a_warning_with_its_remedy() -> None:
    left = answers(stage1_meld_fer={"no-action-units": 9}, test_meld_fer={"no-action-units": 3})
    hints = {"no-action-units": "put OpenFace CSVs there"}
    with pytest.raises(UserError, match="put OpenFace CSVs there"):
        check_splits([stage(fer=1.0)], {}, left, set(), hints)
    warnings = check_splits([stage(fer=1.0)], {}, left, set(), hints, hints)
    assert warnings == [
        "stage1 has no fer rows (no-action-units 9): put OpenFace CSVs there",
        "test has no fer rows (no-action-units 3): put OpenFace CSVs there",
    ]


def test_rules_reason_from_the_face_the_words_and_who_set_it_off() -> None:
    one = utterance(emotion="joy", polarity="positive", position=2, causes=(1, 2))
    first = utterance(position=1, speaker="Bob")
    reason = RuleReasons().of(one, [first, one], {"AU12": 3.0, "AU06": 2.0})
    assert reason is not None
    assert reason.provider == "rules"
    assert reason.text == (
        "The person in the video feels joy. The face shows cheeks raised and lip corners pulled up. "
        "The words sound positive. It follows what Bob said."
    )
    assert all(clue in reason.text.lower() for clue in map(str.lower, reason.clues))
    assert RuleReasons().of(utterance(polarity=None), [one], None) is None
    assert RuleReasons().of(utterance(emotion=None), [one], {"AU12": 3.0}) is None


def test_a_file_of_reasons_is_read_and_every_bad_line_named(tmp_path: Path) -> None:
    path = tmp_path / "reasons.jsonl"
    rows = [
        {"utterance_id": "a", "text": "Because.", "clues": ["x"]},
        {"utterance_id": "b", "text": "So.", "provider": "gpt"},
    ]
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)) + b"\n\n")
    reasons = FileReasons(path)
    one = reasons.of(utterance(utterance_id="b"), [], None)
    assert one is not None
    assert (one.text, one.provider) == ("So.", "gpt")
    assert reasons.of(utterance(utterance_id="c"), [], None) is None
    path.write_bytes(
        b'{"utterance_id": "a", "text": "x"}\n{bad\n3\n'
        b'{"utterance_id": "a", "text": "y"}\n{"utterance_id": "z", "text": ""}\n'
    )
    with pytest.raises(RowErrors) as caught:
        FileReasons(path)
    assert [problem.split(":")[1] for problem in caught.value.problems] == ["2", "3", "4", "5"]


def test_an_unknown_provider_is_an_error() -> None:
    for spec in ("oracle", "file:", "rules:x"):
        with pytest.raises(UserError, match=r"give rules, file:reasons\.jsonl"):
            provider(spec, [])


def test_numbers_come_in_their_order_before_names() -> None:
    assert sorted(["b", "10", "9", "a1", "01"], key=natural) == ["01", "9", "10", "a1", "b"]
