"""Pictures of questions: what was right, missed and wrong, and where it is drawn."""

from __future__ import annotations

from emoverse.corpora import Utterance
from emoverse.report.samples import GUTTER, MAX_LINES, REGIONS, ROW_HIGH, picture
from emoverse.tasks import ecpe, fer


def dialogue(count: int, target: int) -> str:
    lines = []
    for number in range(1, count + 1):
        emotion = "joy" if number == target else "neutral"
        one = Utterance(
            utterance_id=f"ecf/test/{number}", corpus="ecf", split="test", dialogue_id="1", position=number,
            speaker="Ada", text=f"Words: {number}.", emotion=emotion, polarity=None, sentiment=None,
            intensities=None, causes=(), episode=None, start=None, end=None, clip="", source="",
        )  # fmt: skip
        lines.append(ecpe.line(one, emotions=True))
    return ecpe.prompt(lines, target - 1)


def test_arrows_run_from_causes_to_the_target_and_say_whose_they_are() -> None:
    drawn = picture("ecpe", dialogue(5, 4), {"answer": "4_joy,1;4_joy,4"}, "4_joy,1;4_joy,2")
    assert drawn is not None
    assert {(arrow.cause, arrow.mark) for arrow in drawn.arrows} == {(1, "right"), (4, "missed"), (2, "wrong")}
    assert [(turn.number, turn.target) for turn in drawn.turns] == [(n, n == 4) for n in range(1, 6)]
    assert drawn.turns[0].text == "Words: 1."
    first = next(arrow for arrow in drawn.arrows if arrow.cause == 1)
    assert first.path.startswith(f"M{GUTTER - 4},{ROW_HIGH / 2:g} ")
    assert drawn.height == 5 * ROW_HIGH
    assert drawn.hidden == 0


def test_a_reply_about_another_target_draws_no_arrow() -> None:
    drawn = picture("ecpe", dialogue(5, 4), {"answer": "4_joy,1"}, "3_joy,2")
    assert drawn is not None
    assert [(arrow.cause, arrow.mark) for arrow in drawn.arrows] == [(1, "missed")]


def test_of_a_long_dialogue_the_lines_near_arrows_are_shown() -> None:
    drawn = picture("ecpe", dialogue(MAX_LINES + 10, 20), {"answer": "20_joy,2"}, "20_joy,19")
    assert drawn is not None
    assert [turn.number for turn in drawn.turns] == [1, 2, 3, 18, 19, 20, 21]
    assert drawn.hidden == MAX_LINES + 10 - 7
    assert max(turn.row for turn in drawn.turns) == 6


def test_a_question_of_another_form_has_no_picture() -> None:
    assert picture("ecpe", "What caused it?", {"answer": "1_joy,1"}, "1_joy,1") is None
    assert picture("mer", "Which emotion?", {"answer": "Joy."}, "Joy.") is None


def test_units_are_right_missed_or_wrong() -> None:
    drawn = picture(
        "fer", "", {"answer": "Cheeks raised; Lip corners pulled up"}, "Lip corners pulled up; Brows lowered; Odd"
    )
    assert drawn is not None
    marks = {unit.phrase: unit.mark for unit in drawn.units}
    assert marks == {
        "Cheeks raised": "missed",
        "Lip corners pulled up": "right",
        "Brows lowered": "wrong",
        "odd": "wrong",
    }
    assert all(bool(unit.regions) == (unit.phrase != "odd") for unit in drawn.units)


def test_every_unit_of_the_table_has_a_place_on_the_face() -> None:
    assert set(REGIONS) == set(fer.tables()["phrases"])


def test_clues_are_marked_where_the_reply_names_them() -> None:
    reply = "The person feels joy. The face shows CHEEKS raised. The end."
    drawn = picture("eri", "", {"answer": "x", "clues": ["cheeks raised", "the words sound positive"]}, reply)
    assert drawn is not None
    assert "".join(text for text, _ in drawn.parts) == reply
    assert [text for text, is_clue in drawn.parts if is_clue] == ["CHEEKS raised"]
    assert [clue.mark for clue in drawn.clues] == ["right", "missed"]
